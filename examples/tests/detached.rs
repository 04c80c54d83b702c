//! The program `detached` against `simulated-gitlab`, both programs, the first killed at random moments.

#![cfg(unix)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use gitlab_runner_api_testkit::{Dice, TimeLimit};
use serde_json::{Value, json};

const KILLS: usize = 200;

/// No test here takes longer. The one with the kills takes the longest of all tests of this workspace.
const LIMIT: Duration = Duration::from_secs(300);

/// A program of this workspace, beside this test.
fn program(path: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().and_then(Path::parent).unwrap().join(path);
    assert!(program.exists(), "{} is not built: run cargo test --workspace", program.display());
    program
}

fn detached(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_detached")).args(arguments).spawn().unwrap()
}

/// `simulated-gitlab`, running.
struct Gitlab {
    process: Child,
    url: String,
    token: String,
    control_token: String,
    _limit: TimeLimit,
}

impl Gitlab {
    fn start(options: &[&str]) -> Self {
        let limit = TimeLimit::start(LIMIT);
        let mut command = Command::new(program("simulated-gitlab"));
        let mut process = command.args(options).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        let told = |name: &str| ready[name].as_str().unwrap().to_owned();
        Self {
            process,
            url: told("url"),
            token: told("runner_token"),
            control_token: told("control_token"),
            _limit: limit,
        }
    }

    fn queue(&self, job: &Value) -> u64 {
        let answer = minreq::post(format!("{}/_sim/jobs", self.url));
        let answer =
            answer.with_header("Control-Token", &self.control_token).with_body(job.to_string()).send().unwrap();
        serde_json::from_slice::<Value>(answer.as_bytes()).unwrap()["id"].as_u64().unwrap()
    }

    fn jobs(&self) -> Vec<Value> {
        let answer = minreq::get(format!("{}/_sim/jobs", self.url)).send().unwrap();
        serde_json::from_slice(answer.as_bytes()).unwrap()
    }

    /// The log without the two lines that name the runner.
    fn trace(&self, job: &Value) -> String {
        let answer = minreq::get(format!("{}/_sim/jobs/{}/trace", self.url, job["id"])).send().unwrap();
        let log = String::from_utf8(answer.into_bytes()).unwrap();
        let (header, rest) = log.split_at(log.match_indices('\n').nth(1).unwrap().0 + 1);
        assert!(header.starts_with("Running with detached ") && header.contains(", system ID: "), "{header}");
        rest.to_owned()
    }
}

impl Drop for Gitlab {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

fn is_open(job: &Value) -> bool {
    !["success", "failed", "canceled"].contains(&job["status"].as_str().unwrap())
}

fn hand_outs(job: &Value) -> u64 {
    job["requests"]["POST /jobs/request"].as_u64().unwrap_or(0)
}

#[test]
fn two_hundred_kills_lose_no_job() {
    // Some answers to requests for a job are late, so that a job is often on its way when its runner dies. And GitLab is not
    // always there, or not heard.
    let gitlab = Gitlab::start(&[
        "--listen",
        "127.0.0.1:0",
        "--update-interval",
        "1",
        "--two-phase-commit",
        "3",
        "--fault",
        "delay=0.05:request:20%",
        "--fault",
        "503:put:5%",
        "--fault",
        "503:patch:5%",
        "--fault",
        "lose-answer:put:5%",
        "--fault",
        "lose-answer:patch:5%",
    ]);
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    assert!(detached(&["register", &gitlab.url, &gitlab.token, place]).wait().unwrap().success());

    let mut expected: BTreeMap<u64, (String, &str)> = BTreeMap::new();
    let mut queue = |number: usize| {
        let script =
            format!("for i in 1 2 3 4 5 6; do echo job {number} line $i; sleep 0.0$i; done\nexit {}", number % 2);
        let (first, _) = script.split_once('\n').unwrap();
        let mut log = format!("\x1b[32;1m$ {first} # collapsed multi-line command\x1b[0;m\n");
        log.extend((1..=6).map(|line| format!("job {number} line {line}\n")));
        log += match number % 2 {
            0 => "\x1b[32;1mJob succeeded\x1b[0;m\n",
            _ => "\x1b[31;1mERROR: Job failed: exit code 1\x1b[0;m\n",
        };
        let id = gitlab.queue(&json!({ "name": "counted", "script": script }));
        expected.insert(id, (log, if number.is_multiple_of(2) { "success" } else { "failed" }));
    };
    let (mut dice, mut kills, mut queued) = (Dice::new(7), 0, 0);
    // Each hand-out after which there was no record.
    let mut lost: BTreeSet<(u64, u64)> = BTreeSet::new();
    while kills < KILLS {
        if queued * 5 <= kills {
            queue(queued);
            queued += 1;
        }
        let mut process = detached(&["step", place]);
        thread::sleep(Duration::from_millis(dice.below(120)));
        let killed = process.try_wait().unwrap().is_none();
        process.kill().unwrap();
        process.wait().unwrap();
        if killed {
            kills += 1;
            for job in gitlab.jobs() {
                let id = job["id"].as_u64().unwrap();
                let record = folder.path().join("jobs").join(id.to_string());
                let kept = record.join("assignment.json").exists() || record.join("ended.json").exists();
                if job["status"] == "pending" && hand_outs(&job) > 0 && !kept {
                    lost.insert((id, hand_outs(&job)));
                }
            }
        }
    }
    // From here on nobody dies. What was handed out and never accepted has failed, and is retried as a new job.
    let deadline = Instant::now() + Duration::from_secs(120);
    while gitlab.jobs().iter().any(is_open) && Instant::now() < deadline {
        assert!(detached(&["step", place]).wait().unwrap().success());
        thread::sleep(Duration::from_millis(50));
    }
    let jobs = gitlab.jobs();
    let retried: BTreeSet<u64> = jobs.iter().filter_map(|job| job["retry_of"].as_u64()).collect();
    println!(
        "{kills} kills, {queued} jobs; {} hand-outs had no record yet, and {} jobs that were never accepted came again",
        lost.len(),
        retried.len()
    );
    assert_eq!(jobs.len(), expected.len() + retried.len());
    for job in &jobs {
        let id = job["id"].as_u64().unwrap();
        if retried.contains(&id) {
            assert_eq!(
                (&job["failure_reason"], &job["trace_bytes"]),
                (&"runner_provisioning_timeout".into(), &0.into())
            );
            continue;
        }
        let first = |id: u64| jobs.iter().find(|job| job["id"] == id).and_then(|job| job["retry_of"].as_u64());
        let (log, status) = &expected[&std::iter::successors(Some(id), |id| first(*id)).last().unwrap()];
        assert_eq!((gitlab.trace(job), job["status"].as_str().unwrap()), (log.clone(), *status), "{job:#}");
    }
    // Of each that had a record there is one line that says how it ended, and nothing else.
    assert!(lost.iter().all(|(id, _)| retried.contains(id)), "{lost:?} of which {retried:?} came again");
    let kept = folder.path().join("jobs");
    let told = std::fs::read_to_string(kept.join("ended.log")).unwrap();
    let told: BTreeSet<&str> = told.lines().filter_map(|line| line.strip_prefix("job ")?.split(':').next()).collect();
    for job in &jobs {
        let had_record = !lost.contains(&(job["id"].as_u64().unwrap(), 1));
        assert!(!had_record || told.contains(&job["id"].to_string()[..]), "nothing is told of {job:#}");
    }
    let records = std::fs::read_dir(kept).unwrap().map(|entry| entry.unwrap().path());
    let secret = records.filter(|path| path.join("assignment.json").exists()).count();
    assert_eq!(secret, 0, "records of jobs that have ended");
}

/// As where the machine was restarted, or short of memory.
#[test]
fn a_script_that_was_killed_is_a_failure_of_the_runner() {
    let gitlab = Gitlab::start(&["--listen", "127.0.0.1:0", "--update-interval", "1"]);
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    assert!(detached(&["register", &gitlab.url, &gitlab.token, place]).wait().unwrap().success());
    gitlab.queue(&json!({ "name": "killed", "script": "echo before\nkill -9 $PPID\nsleep 0.1" }));
    let deadline = Instant::now() + Duration::from_secs(60);
    while gitlab.jobs().iter().any(is_open) && Instant::now() < deadline {
        assert!(detached(&["step", place]).wait().unwrap().success());
        thread::sleep(Duration::from_millis(50));
    }
    let job = &gitlab.jobs()[0];
    assert_eq!((&job["status"], &job["failure_reason"]), (&"failed".into(), &"runner_system_failure".into()));
    let command = "\x1b[32;1m$ echo before # collapsed multi-line command\x1b[0;m\n";
    let end = "\x1b[31;1mERROR: Job failed: the script was killed\x1b[0;m\n";
    assert_eq!(gitlab.trace(job), format!("{command}before\n{end}"));
}

#[test]
fn the_example_shows_what_it_is_for() {
    let _limit = TimeLimit::start(LIMIT);
    assert!(detached(&[]).wait().unwrap().success());
}
