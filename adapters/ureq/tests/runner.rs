//! The user level, against the simulated GitLab behind a loopback socket.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gitlab_runner_api_testkit::{Coordinator, JobStatus, NewJob, Server, Settings, TimeLimit};
use gitlab_runner_api_ureq::gitlab_runner_api::api::info::{Features, Info};
use gitlab_runner_api_ureq::{
    Cancellation, Error, FailureReason, JobResult, LogOptions, Masked, Outcome, Registration, RunEvent, Runner, Secret,
    Section, State, Stop, Stream, Timestamps,
};

const TOKEN: &str = "glrt-canary";
const SECOND: Duration = Duration::from_secs(1);
const QUICK: Duration = Duration::from_millis(50);
/// No test waits for longer than this until GitLab has a result.
const PATIENCE: Duration = Duration::from_secs(60);

fn server(settings: Settings) -> Server {
    let mut gitlab = Coordinator::new(settings);
    gitlab.add_runner(TOKEN);
    gitlab.set_registration_token("GR1348941canary");
    Server::start(gitlab).unwrap().with_time_limit(TimeLimit::TEST)
}

/// A runner that does not make tests wait.
fn runner(server: &Server) -> Runner {
    let info = Info::new("test", "1").with_features(Features::default().cancel_gracefully(true));
    let runner =
        Runner::register(&server.url(), TOKEN, Registration::new().with_info(info.clone())).unwrap().with_info(info);
    let runner = runner.with_log_header(false);
    runner
        .with_patience(PATIENCE)
        .configure(|config| config.with_check_interval(QUICK).with_update_interval(QUICK).with_keep_alive(QUICK))
}

fn queue(server: &Server, name: &str) -> u64 {
    server.with(|gitlab, now| gitlab.queue(now, NewJob::new(name)))
}

/// What GitLab holds: status, reason and log.
fn held(server: &Server, job: u64) -> (JobStatus, Option<String>, String) {
    server.with(|gitlab, _| {
        let job = gitlab.job(job).unwrap();
        let log = String::from_utf8_lossy(job.trace()).into_owned();
        (job.status(), job.failure_reason().map(str::to_owned), log)
    })
}

#[test]
fn both_kinds_of_tokens_make_a_runner() {
    let server = server(Settings::default());
    let registered =
        Runner::register(&server.url(), "GR1348941canary", Registration::new().with_tags(["hpc"]).with_locked(true))
            .unwrap();
    assert_ne!(registered.token().expose(), "GR1348941canary");
    registered.check_auth().unwrap();
    assert_eq!(registered.attributes().tag_list, ["hpc"]);

    let created = Runner::register(&server.url(), TOKEN, Registration::new()).unwrap();
    assert_eq!(created.token().expose(), TOKEN);
    assert!(created != registered && !format!("{created:?}").contains("canary"));

    let ignored =
        Runner::register(&server.url(), TOKEN, Registration::new().with_locked(true).with_maximum_timeout(60))
            .unwrap_err();
    assert!(ignored.to_string().contains("locked, maximum_timeout"), "{ignored}");
}

#[test]
fn each_refusal_has_a_mend_of_its_own() {
    let server = server(Settings::default());
    let register = |url: &str, token: &str| Runner::register(url, token, Registration::new()).unwrap_err();
    assert!(matches!(register(&server.url(), "wrong"), Error::Unauthorized(_)));
    assert!(matches!(register(&server.url(), "glrt-wrong"), Error::Unauthorized(_)));
    assert!(matches!(register("ftp://gitlab.example.test", "wrong"), Error::Config(_)));
    assert!(matches!(register(&server.url(), " "), Error::Token(_)));
    let refused = register("http://127.0.0.1:1", "wrong");
    assert!(matches!(refused, Error::Unreachable { .. }) && refused.to_string().contains("refused"), "{refused}");
    server.with(|gitlab, _| gitlab.settings_mut().registration_allowed = false);
    let gone = register(&server.url(), "wrong");
    assert!(matches!(gone, Error::RegistrationDisabled(_)) && gone.to_string().contains("glrt-"), "{gone}");
}

#[test]
fn a_runner_is_saved_and_loaded_and_its_token_checked() {
    let server = server(Settings::default());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("my-runner.json");
    let runner = runner(&server);
    runner.save(&path).unwrap();
    let loaded = Runner::load(&path).unwrap();
    assert_eq!(loaded, runner);
    assert_eq!((loaded.system_id(), loaded.url()), (runner.system_id(), server.url().as_str()));
    loaded.check_auth().unwrap();
    server.with(|gitlab, _| {
        let ids: Vec<_> = gitlab.runners().collect();
        ids.into_iter().for_each(|id| gitlab.remove_runner(id));
    });
    let error = loaded.check_auth().unwrap_err();
    assert!(matches!(error, Error::Unauthorized(_)) && !error.to_string().contains("canary"), "{error}");
}

#[test]
fn one_request_says_job_or_none() {
    let server = server(Settings::default());
    let mut runner = runner(&server);
    assert!(runner.request_job().unwrap().is_none());
    let id = queue(&server, "one");
    let mut job = runner.request_job().unwrap().unwrap();
    assert_eq!((job.id(), job.git_ref(), job.state()), (id, "main", State::Running));
    assert!(job.time_left() > 60 * SECOND && job.time_left() <= job.spec().timeout().unwrap());
    writeln!(job.log(), "line 1").unwrap();
    job.log().stream(Stream::Stdout).write_all(b"line 2\n").unwrap();
    assert_eq!(job.log_size(), 14);
    job.failed(FailureReason::ScriptFailure).unwrap();
    assert_eq!(job.state(), State::Failed);
    assert!(matches!(job.success(), Err(Error::AlreadyFinished)));
    assert_eq!(job.log().write(b"late").unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    assert_eq!(held(&server, id), (JobStatus::Failed, Some("script_failure".into()), "line 1\nline 2\n".into()));
    server.with(|gitlab, _| gitlab.settings_mut().migration_backoff = true);
    assert!(matches!(runner.request_job(), Err(Error::Unavailable(_))));
}

#[test]
fn next_job_waits_for_one() {
    let server = server(Settings::default());
    let mut runner = runner(&server);
    let id = thread::scope(|scope| {
        let queued = scope.spawn(|| {
            thread::sleep(4 * QUICK);
            queue(&server, "late")
        });
        let mut job = runner.next_job().unwrap();
        job.success().unwrap();
        assert_eq!(job.id(), queued.join().unwrap());
        job.id()
    });
    assert_eq!(held(&server, id).0, JobStatus::Success);
}

#[test]
fn waiting_for_a_job_can_be_stopped() {
    let server = server(Settings::default());
    let (mut runner, stop) = (runner(&server), Stop::new());
    let id = queue(&server, "one");
    let mut job = runner.next_job_until(&stop).unwrap().unwrap();
    assert_eq!(job.id(), id);
    job.success().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(2 * QUICK);
            stop.drain();
        });
        assert!(runner.next_job_until(&stop).unwrap().is_none());
    });
    queue(&server, "for somebody else");
    assert!(runner.next_job_until(&stop).unwrap().is_none(), "nothing is asked for any more");
    assert!(runner.next_job_until(&Stop::new()).unwrap().is_some(), "until there is a reason again");
}

#[test]
fn a_job_is_asked_whether_it_is_ours() {
    let server = server(Settings::default());
    // Nothing but the asking itself is to find out.
    let mut runner = runner(&server).configure(|config| config.with_keep_alive(600 * SECOND));
    let id = queue(&server, "ours");
    let mut job = runner.request_job().unwrap().unwrap();
    job.auth().unwrap();
    server.with(|gitlab, now| gitlab.cancel(now, id));
    job.auth().unwrap();
    assert_eq!(job.state(), State::Canceling, "it is still ours, and to be stopped");
    assert!(matches!(job.success(), Err(Error::Canceled)) && matches!(job.auth(), Err(Error::AlreadyFinished)));

    let id = queue(&server, "taken away");
    let job = runner.request_job().unwrap().unwrap();
    job.auth().unwrap();
    server.with(|gitlab, now| gitlab.force_cancel(now, id));
    assert!(matches!(job.auth(), Err(Error::Canceled)), "{:?}", job.state());
    assert!(server.with(|gitlab, _| gitlab.job(id).unwrap().status()) == JobStatus::Canceled);
}

#[test]
fn the_log_begins_as_the_official_runners_does() {
    let server = server(Settings::default());
    let info = Info::new("ours", "1.2").with_revision("abc");
    let registration = Registration::new().with_description("a b\u{1b}").with_info(info);
    let mut runner = Runner::register(&server.url(), "GR1348941canary", registration).unwrap();
    let id = queue(&server, "with a header");
    let mut job = runner.request_job().unwrap().unwrap();
    writeln!(job.log(), "hello").unwrap();
    let written = job.log_size();
    let content = job.log_content().unwrap();
    job.success().unwrap();
    let log = held(&server, id).2;
    let (token, system) = (runner.token().short(), runner.system_id().as_str());
    assert_eq!(log, format!("Running with ours 1.2 (abc)\n  on a b {token}, system ID: {system}\nhello\n"));
    assert_eq!((written, content.as_slice()), (log.len() as u64, log.as_bytes()));
    assert!(!log.contains(runner.token().expose()));
}

#[test]
fn a_job_that_is_dropped_or_whose_handler_panics_is_failed() {
    let server = server(Settings::default());
    let mut runner = runner(&server);
    let dropped = queue(&server, "dropped");
    drop(runner.request_job().unwrap().unwrap());
    let (status, reason, log) = held(&server, dropped);
    assert_eq!((status, reason.as_deref()), (JobStatus::Failed, Some("runner_system_failure")));
    assert!(log.contains("dropped without a result"), "{log}");

    let panicked = queue(&server, "panics");
    let stop = Stop::new();
    let quiet = stop.clone();
    runner
        .run(
            1,
            |_job| {
                quiet.drain();
                std::panic::resume_unwind(Box::new("on purpose"));
            },
            &stop,
        )
        .unwrap();
    let (status, reason, log) = held(&server, panicked);
    assert_eq!((status, reason.as_deref()), (JobStatus::Failed, Some("runner_system_failure")));
    assert!(log.contains("panicked"), "{log}");
}

#[test]
fn a_running_job_hears_of_its_cancellation() {
    let server = server(Settings::default());
    let mut runner = runner(&server);
    for graceful in [true, false] {
        let id = queue(&server, "cancelled");
        let mut job = runner.request_job().unwrap().unwrap();
        assert_eq!(job.wait_cancelled(Duration::from_millis(1)), Cancellation::None);
        server.with(|gitlab, now| if graceful { gitlab.cancel(now, id) } else { gitlab.force_cancel(now, id) });
        let level = job.wait_cancelled(10 * SECOND);
        if graceful {
            assert_eq!((level, job.state()), (Cancellation::Requested, State::Canceling));
            writeln!(job.log(), "cleaned up").unwrap();
            assert!(matches!(job.success(), Err(Error::Canceled)));
            assert_eq!(held(&server, id).2, "cleaned up\n");
        } else {
            assert_eq!((level, job.state()), (Cancellation::Aborted, State::Aborted));
            assert!(matches!(job.finish(JobResult::success()), Err(Error::Aborted(_))));
        }
        assert_eq!(held(&server, id).0, JobStatus::Canceled);
    }
}

#[test]
fn a_loop_takes_no_more_than_it_has_room_for_and_drains() {
    let server = server(Settings::default());
    let ids: Vec<_> = (0..6).map(|_| queue(&server, "many")).collect();
    let (begun, served, stop) = (AtomicU32::new(0), AtomicU32::new(0), Stop::new());
    let two = std::sync::Barrier::new(2);
    runner(&server)
        .run(
            2,
            |mut job| {
                let running =
                    server.with(|gitlab, _| gitlab.jobs().filter(|job| job.status() == JobStatus::Running).count());
                assert!(running <= 2, "{running} jobs are taken");
                if begun.fetch_add(1, Ordering::SeqCst) < 2 {
                    two.wait(); // neither ends before both have begun
                }
                thread::sleep(QUICK);
                assert_eq!(job.finish(JobResult::from_exit_code(0)).unwrap(), Outcome::Success);
                if served.fetch_add(1, Ordering::SeqCst) == 3 {
                    stop.drain();
                }
            },
            &stop,
        )
        .unwrap();
    let ended = ids.iter().filter(|id| held(&server, **id).0 == JobStatus::Success).count();
    assert!((4..=6).contains(&ended) && ids.iter().all(|id| held(&server, *id).0 != JobStatus::Running), "{ended}");
}

#[test]
fn an_outage_costs_nothing() {
    let server = server(Settings::default());
    let mut runner = runner(&server);
    let id = queue(&server, "through an outage");
    let mut job = runner.request_job().unwrap().unwrap();
    writeln!(job.log(), "before").unwrap();
    server.with(|gitlab, _| gitlab.settings_mut().maintenance = gitlab_runner_api_testkit::Maintenance::On);
    writeln!(job.log(), "during").unwrap();
    job.set_patience(4 * QUICK);
    assert!(matches!(job.success(), Err(Error::Patience)), "it is still being sent");
    assert_eq!(job.state(), State::Finishing);
    server.with(|gitlab, _| gitlab.settings_mut().maintenance = gitlab_runner_api_testkit::Maintenance::Off);
    job.set_patience(60 * SECOND);
    assert_eq!(job.wait_delivered().unwrap(), Outcome::Success);
    assert_eq!(held(&server, id), (JobStatus::Success, None, "before\nduring\n".into()));
}

#[test]
fn many_writers_share_one_log() {
    let server = server(Settings::default());
    let mut runner = runner(&server);
    let id = queue(&server, "many writers");
    let mut job = runner.request_job().unwrap().unwrap();
    thread::scope(|scope| {
        for writer in 0..8 {
            let mut log = job.log();
            scope.spawn(move || {
                (0..100).for_each(|line| log.write_all(format!("{writer}:{line:02}\n").as_bytes()).unwrap())
            });
        }
    });
    job.success().unwrap();
    let log = held(&server, id).2;
    assert_eq!(log.len(), 8 * 100 * 5);
    for writer in 0..8 {
        let lines: Vec<_> = log.lines().filter(|line| line.starts_with(&format!("{writer}:"))).collect();
        assert!(lines.len() == 100 && lines.is_sorted(), "writer {writer}");
    }
}

#[test]
fn what_cannot_be_read_is_failed_and_the_loop_goes_on() {
    let server = server(Settings::default());
    let odd =
        server.with(|gitlab, now| gitlab.queue(now, NewJob::new("odd").with_member("steps", serde_json::json!(7))));
    let good = queue(&server, "good");
    let (stop, heard) = (Stop::new(), Mutex::new(Vec::new()));
    let handler = |mut job: gitlab_runner_api_ureq::Job| {
        assert_eq!(job.id(), good);
        job.success().unwrap();
        stop.drain();
    };
    let hear = |event: RunEvent| heard.lock().unwrap().push(format!("{event:?}"));
    runner(&server).run_with(1, handler, &stop, hear).unwrap();
    let deadline = Instant::now() + 10 * SECOND;
    while !held(&server, odd).0.is_final() && Instant::now() < deadline {
        thread::sleep(QUICK);
    }
    assert_eq!(held(&server, odd).1.as_deref(), Some("runner_system_failure"));
    assert_eq!(*heard.lock().unwrap(), Vec::<String>::new());
}

#[test]
fn one_stop_drains_several_runners_with_room_of_their_own() {
    let (one, other, stop) = (server(Settings::default()), server(Settings::default()), Stop::new());
    let (first, second) = (queue(&one, "one"), queue(&other, "other"));
    let together = std::sync::Barrier::new(2);
    thread::scope(|scope| {
        for server in [&one, &other] {
            let (stop, together) = (&stop, &together);
            let serve = move |mut job: gitlab_runner_api_ureq::Job| {
                together.wait(); // both at once, each in the only place of its runner
                job.success().unwrap();
                stop.drain();
            };
            scope.spawn(move || runner(server).run(1, serve, stop).unwrap());
        }
    });
    assert_eq!((held(&one, first).0, held(&other, second).0), (JobStatus::Success, JobStatus::Success));
}

#[test]
fn logs_have_sections_and_times_and_no_secrets() {
    let server = server(Settings::default());
    let options = LogOptions::default().with_timestamps(Timestamps::On);
    let mut runner = runner(&server).configure(|config| config.with_log(options));
    let new = NewJob::new("secretive").with_masked_variable("A", "canary-variable").with_masked_variable("B", "hidden");
    let id = server.with(|gitlab, now| gitlab.queue(now, new));
    let mut job = runner.request_job().unwrap().unwrap();
    job.mask(&Secret::new("canary-fetched"));
    // The warning is written when the job is first looked at.
    while job.log_size() == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    job.open_section(&Section::new("my part").with_title("My part"));
    writeln!(job.log().stream(Stream::Stdout), "a canary-variable and a hidden and a canary-fetched").unwrap();
    job.close_section();
    job.success().unwrap();
    is_clean(&held(&server, id).2);
}

/// What a script wrote last is before what the runner says next, although it may have become a secret.
#[test]
fn what_a_script_wrote_comes_before_what_follows_it() {
    let server = server(Settings::default());
    let mut runner = runner(&server);
    let id =
        server.with(|gitlab, now| gitlab.queue(now, NewJob::new("steps").with_masked_variable("A", "secret-value")));
    let mut job = runner.request_job().unwrap().unwrap();
    assert_eq!(job.mask(&Secret::new("canary-fetched")), Masked::Hidden);
    let (mut out, mut err) = (job.log().stream(Stream::Stdout), job.log().stream(Stream::Stderr));
    write!(out, "no errors").unwrap();
    job.end_step();
    write!(job.log(), "; then canary").unwrap();
    job.close_stream(Stream::Runner);
    write!(err, "; s").unwrap();
    err.close_stream();
    writeln!(out, "; the end").unwrap();
    job.success().unwrap();
    let log = held(&server, id).2;
    assert!(log.ends_with("no errors; then canary; s; the end\n"), "{log}");
}

/// What both adapters are to make of a log: sections, times, and nothing that is secret.
fn is_clean(log: &str) {
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines.iter().all(|line| line.len() >= 32 && &line[26..28] == "Z "), "{log}");
    let text = |number: usize| lines[number].get(32..).unwrap_or_default();
    assert!(
        lines[0].starts_with("20") && text(0).contains("WARNING: Masked values shorter than 8 characters: 1"),
        "{log}"
    );
    assert!(text(1).starts_with("section_start:") && text(1).contains(":my_part\r"), "{log}");
    assert_eq!(&lines[2][28..], "01O a [MASKED] and a [MASKED] and a [MASKED]", "{log}");
    assert!(log.contains("section_end:") && !log.contains("canary"), "{log}");
}
