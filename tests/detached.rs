//! `examples/detached.rs`, killed at random moments.

#![cfg(unix)]
#![expect(clippy::disallowed_methods, reason = "processes are killed here")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use gitlab_runner_api_testkit::{Coordinator, Dice, JobStatus, NewJob, Server, Settings};

const KILLS: usize = 200;

/// Beside this test, where `cargo test` puts it.
fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().join("examples/detached")
}

fn call(arguments: &[&str]) -> Child {
    Command::new(example()).args(arguments).spawn().unwrap()
}

#[test]
fn two_hundred_kills_lose_no_job_that_had_a_record() {
    let settings = Settings::default().with(|settings| {
        settings.two_phase_commit = true;
        settings.trace_interval = Some(1);
    });
    let mut gitlab = Coordinator::new(settings);
    gitlab.add_runner("glrt-killed");
    let server = Server::start(gitlab).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    assert!(call(&["register", &server.url(), "glrt-killed", place]).wait().unwrap().success());

    let mut expected: BTreeMap<u64, (String, JobStatus)> = BTreeMap::new();
    let mut queue = |number: usize| {
        let script =
            format!("for i in 1 2 3 4 5 6; do echo job {number} line $i; sleep 0.0$i; done\nexit {}", number % 2);
        let id = server.with(|gitlab, now| gitlab.queue(now, NewJob::new("counted").script([script])));
        let log = (1..=6).map(|line| format!("job {number} line {line}\n")).collect();
        expected.insert(id, (log, if number % 2 == 0 { JobStatus::Success } else { JobStatus::Failed }));
    };
    let (mut dice, mut kills, mut queued) = (Dice::new(7), 0, 0);
    while kills < KILLS {
        if queued * 5 <= kills {
            queue(queued);
            queued += 1;
        }
        let mut process = call(&["step", place]);
        thread::sleep(Duration::from_millis(dice.below(120)));
        if process.try_wait().unwrap().is_none() {
            process.kill().unwrap();
            kills += 1;
        }
        process.wait().unwrap();
    }
    // From here on nobody dies. What was handed out and never accepted goes back to the queue.
    let deadline = Instant::now() + Duration::from_secs(120);
    let open = || server.with(|gitlab, _| gitlab.jobs().filter(|job| !job.status().is_final()).count());
    while open() > 0 && Instant::now() < deadline {
        assert!(call(&["step", place]).wait().unwrap().success());
        thread::sleep(Duration::from_millis(50));
    }
    println!("{kills} kills, {queued} jobs");
    server.with(|gitlab, _| {
        for (id, (log, status)) in &expected {
            let job = gitlab.job(*id).unwrap();
            assert_eq!(String::from_utf8_lossy(job.trace()), *log, "job {id}, {:?}", job.status());
            assert_eq!(job.status(), *status, "job {id}: {:?}", job.failure_reason());
        }
    });
}
