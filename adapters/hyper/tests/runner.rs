//! The user level, against the simulated GitLab behind a loopback socket.

use std::future::Future;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use gitlab_runner_api_hyper::gitlab_runner_api::api::info::{Features, Info};
use gitlab_runner_api_hyper::{
    Cancellation, Error, FailureReason, JobResult, LogLimit, LogOptions, Masked, Outcome, Registration, Runner, Secret,
    Section, State, Stream, Timestamps,
};
use gitlab_runner_api_testkit::{Coordinator, Endpoint, JobStatus, Maintenance, NewJob, Server, Settings, TimeLimit};
use tokio::sync::Notify;
use tokio::time::timeout;

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
async fn runner(server: &Server) -> Runner {
    let info = Info::new("test", "1").with_features(Features::default().cancel_gracefully(true));
    let runner = Runner::register(&server.url(), TOKEN, Registration::new().with_info(info.clone())).await.unwrap();
    runner
        .with_info(info)
        .with_log_header(false)
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

/// Waits until GitLab's store is as wanted.
async fn until(server: &Server, wanted: impl Fn(&Coordinator) -> bool) {
    let seen = async {
        while !server.with(|gitlab, _| wanted(gitlab)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(20 * SECOND, seen).await.expect("GitLab's store does not become what it should");
}

#[tokio::test]
async fn both_kinds_of_tokens_make_a_runner_and_it_is_saved_and_loaded() {
    let server = server(Settings::default());
    let registration = Registration::new().with_tags(["hpc"]).with_locked(true);
    let registered = Runner::register(&server.url(), "GR1348941canary", registration.clone()).await.unwrap();
    assert_ne!(registered.token().expose(), "GR1348941canary");
    registered.check_auth().await.unwrap();
    let ignored = Runner::register(&server.url(), TOKEN, registration).await.unwrap_err();
    assert!(ignored.to_string().contains("locked, tags"), "{ignored}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("my-runner.json");
    registered.save(&path).unwrap();
    let loaded = Runner::load(&path).unwrap();
    assert!(loaded == registered && !format!("{loaded:?}").contains("canary"));
    assert_eq!(loaded.attributes().tag_list, ["hpc"]);
    assert!(Runner::from_json(&loaded.to_json()).unwrap() == loaded);
    assert!(matches!(Runner::from_json("{"), Err(Error::BadText(_))));
    server.with(|gitlab, _| {
        let ids: Vec<_> = gitlab.runners().collect();
        ids.into_iter().for_each(|id| gitlab.remove_runner(id));
    });
    assert!(matches!(loaded.check_auth().await, Err(Error::Unauthorized(_))));
}

#[tokio::test]
async fn one_request_says_job_or_none() {
    let server = server(Settings::default());
    let runner = runner(&server).await;
    assert!(runner.request_job().await.unwrap().is_none());
    let id = queue(&server, "one");
    let mut job = runner.request_job().await.unwrap().unwrap();
    assert_eq!((job.id(), job.git_ref(), job.state()), (id, "main", State::Running));
    writeln!(job.log(), "line 1").unwrap();
    job.log().stream(Stream::Stdout).send("line 2\n").await.unwrap();
    tokio::io::copy(&mut &b"line 3\n"[..], &mut job.log()).await.unwrap();
    assert_eq!(job.log_size(), 21);
    job.failed(FailureReason::ScriptFailure).await.unwrap();
    assert_eq!(job.state(), State::Failed);
    assert!(matches!(job.success().await, Err(Error::AlreadyFinished)));
    assert_eq!(job.log().send("late").await.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    assert_eq!(
        held(&server, id),
        (JobStatus::Failed, Some("script_failure".into()), "line 1\nline 2\nline 3\n".into())
    );
    server.with(|gitlab, _| gitlab.settings_mut().migration_backoff = true);
    assert!(matches!(runner.request_job().await, Err(Error::Unavailable(_))));
}

/// Asks for a job and gives up while the request is on the wire, where it gets a job.
async fn ask_and_leave(server: &Arc<Server>, asking: impl Future) -> u64 {
    let (busy, ready) = (server.clone(), Arc::new(Notify::new()));
    let holds = ready.clone();
    let (gone, heard) = std::sync::mpsc::channel();
    let queued = tokio::task::spawn_blocking(move || {
        busy.with(|gitlab, now| {
            holds.notify_one();
            // The server looks at no request until the caller has gone.
            heard.recv().unwrap();
            gitlab.queue(now, NewJob::new("late"))
        })
    });
    ready.notified().await;
    assert!(timeout(3 * QUICK, asking).await.is_err(), "it waits for the answer");
    gone.send(()).unwrap();
    queued.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_comes_after_its_caller_has_gone_is_the_next_callers() {
    let server = Arc::new(server(Settings::default()));
    let runner = runner(&server).await;
    for round in 0..3 {
        let id = match round {
            0 => ask_and_leave(&server, runner.next_job()).await,
            _ => ask_and_leave(&server, runner.request_job()).await,
        };
        until(&server, |gitlab| gitlab.job(id).unwrap().requests(Endpoint::UpdateJob) > 0).await;
        let mut job = match round {
            2 => runner.request_job().await.unwrap().unwrap(),
            _ => timeout(10 * SECOND, runner.next_job()).await.unwrap().unwrap(),
        };
        assert_eq!(job.id(), id);
        job.success().await.unwrap();
    }
}

/// A job that nobody took when the runner goes is failed, and not left to GitLab's timeouts.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_nobody_takes_is_failed_when_the_runner_goes() {
    let server = Arc::new(server(Settings::default()));
    for after in [false, true] {
        let runner = runner(&server).await;
        let id = ask_and_leave(&server, runner.next_job()).await;
        if after {
            until(&server, |gitlab| gitlab.job(id).unwrap().requests(Endpoint::UpdateJob) > 0).await;
        }
        drop(runner);
        until(&server, |gitlab| gitlab.job(id).unwrap().status().is_final()).await;
        let (status, reason, log) = held(&server, id);
        assert_eq!((status, reason.as_deref()), (JobStatus::Failed, Some("runner_system_failure")));
        assert!(log.contains("dropped without a result"), "{log}");
    }
}

/// Whoever stops waiting for the delivery of a result has not taken it back.
#[tokio::test]
async fn a_result_survives_the_future_that_reported_it() {
    let server = server(Settings::default());
    let runner = runner(&server).await;
    let id = queue(&server, "impatient");
    let mut job = runner.next_job().await.unwrap();
    job.log().send("all of it\n").await.unwrap();
    server.with(|gitlab, _| gitlab.settings_mut().maintenance = Maintenance::On);
    assert!(timeout(QUICK, job.success()).await.is_err());
    drop(job);
    server.with(|gitlab, _| gitlab.settings_mut().maintenance = Maintenance::Off);
    runner.delivered().await.unwrap();
    assert_eq!(held(&server, id), (JobStatus::Success, None, "all of it\n".into()));
}

#[tokio::test]
async fn a_job_that_is_dropped_or_whose_handler_panics_is_failed() {
    let server = server(Settings::default());
    let mut runner = runner(&server).await;
    let dropped = queue(&server, "dropped");
    drop(runner.next_job().await.unwrap());
    runner.delivered().await.unwrap();
    let (status, reason, log) = held(&server, dropped);
    assert_eq!((status, reason.as_deref()), (JobStatus::Failed, Some("runner_system_failure")));
    assert!(log.contains("dropped without a result"), "{log}");

    let panicked = queue(&server, "panics");
    let over = Arc::new(Notify::new());
    let told = over.clone();
    let handler = move |_job| {
        told.notify_one();
        async { std::panic::resume_unwind(Box::new("on purpose")) }
    };
    runner.run(1, handler, over.notified()).await.unwrap();
    let (status, reason, log) = held(&server, panicked);
    assert_eq!((status, reason.as_deref()), (JobStatus::Failed, Some("runner_system_failure")));
    assert!(log.contains("gave this job up"), "{log}");
}

#[tokio::test]
async fn a_running_job_hears_of_its_cancellation() {
    let server = server(Settings::default());
    let runner = runner(&server).await;
    for graceful in [true, false] {
        let id = queue(&server, "cancelled");
        let mut job = runner.next_job().await.unwrap();
        assert!(timeout(Duration::from_millis(1), job.cancelled()).await.is_err());
        server.with(|gitlab, now| if graceful { gitlab.cancel(now, id) } else { gitlab.force_cancel(now, id) });
        let level = timeout(10 * SECOND, job.cancelled()).await.unwrap();
        if graceful {
            assert_eq!((level, job.state()), (Cancellation::Requested, State::Canceling));
            writeln!(job.log(), "cleaned up").unwrap();
            assert!(matches!(job.success().await, Err(Error::Canceled)));
            assert_eq!(held(&server, id).2, "cleaned up\n");
        } else {
            assert_eq!((level, job.state()), (Cancellation::Aborted, State::Aborted));
            assert!(matches!(job.finish(JobResult::success()).await, Err(Error::Aborted(_))));
        }
        assert_eq!(held(&server, id).0, JobStatus::Canceled);
    }
}

#[tokio::test]
async fn a_loop_takes_no_more_than_it_has_room_for_and_drains() {
    let server = Arc::new(server(Settings::default()));
    let ids: Vec<_> = (0..6).map(|_| queue(&server, "many")).collect();
    let (served, enough) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let (looked_at, stop) = (server.clone(), enough.clone());
    let handler = move |mut job: gitlab_runner_api_hyper::Job| {
        let (server, served, stop) = (looked_at.clone(), served.clone(), stop.clone());
        async move {
            let running =
                server.with(|gitlab, _| gitlab.jobs().filter(|job| job.status() == JobStatus::Running).count());
            assert!(running <= 2, "{running} jobs are taken");
            assert_eq!(job.finish(JobResult::from_exit_code(0)).await.unwrap(), Outcome::Success);
            if served.fetch_add(1, Ordering::SeqCst) == 3 {
                stop.notify_one();
            }
        }
    };
    runner(&server).await.run(2, handler, enough.notified()).await.unwrap();
    let ended = ids.iter().filter(|id| held(&server, **id).0 == JobStatus::Success).count();
    assert!((4..=6).contains(&ended) && ids.iter().all(|id| held(&server, *id).0 != JobStatus::Running), "{ended}");
}

#[tokio::test]
async fn writers_wait_while_too_much_is_not_sent() {
    let server = server(Settings::default());
    let unlimited = LogOptions::default().with_limit(LogLimit::None);
    let runner = runner(&server).await.configure(|config| config.with_log(unlimited));
    let id = queue(&server, "chatty");
    let mut job = runner.next_job().await.unwrap();
    until(&server, |gitlab| gitlab.job(id).unwrap().requests(Endpoint::UpdateJob) > 0).await;
    server.with(|gitlab, _| gitlab.settings_mut().maintenance = Maintenance::On);
    let (log, mebibyte) = (job.log(), bytes::Bytes::from(vec![b'x'; 1 << 20]));
    for _ in 0..4 {
        log.send(mebibyte.clone()).await.unwrap();
    }
    assert!(timeout(QUICK, log.send(mebibyte.clone())).await.is_err(), "there is no room");
    server.with(|gitlab, _| gitlab.settings_mut().maintenance = Maintenance::Off);
    log.send("the end\n").await.unwrap();
    job.success().await.unwrap();
    assert_eq!(held(&server, id).2.len(), (4 << 20) + 8);
}

/// Asking again after a refusal is no reason to ask faster.
#[tokio::test]
async fn a_refused_token_is_told_of_and_not_asked_again_at_once() {
    let server = server(Settings::default());
    let runner = runner(&server).await;
    server.with(|gitlab, _| {
        let ids: Vec<_> = gitlab.runners().collect();
        ids.into_iter().for_each(|id| gitlab.remove_runner(id))
    });
    assert!(matches!(runner.next_job().await, Err(Error::Unauthorized(_))));
    let before = server.with(|gitlab, _| gitlab.stats().requests(Endpoint::RequestJob));
    assert!(timeout(Duration::from_millis(700), runner.next_job()).await.is_err());
    let asked = server.with(|gitlab, _| gitlab.stats().requests(Endpoint::RequestJob)) - before;
    assert_eq!(asked, 0, "asked again at once");
}

#[test]
fn without_a_runtime_there_is_an_error_and_no_panic() {
    let server = server(Settings::default());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let runner = runtime.block_on(runner(&server));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let polled = std::pin::pin!(runner.next_job()).poll(&mut context);
    assert!(matches!(polled, std::task::Poll::Ready(Err(Error::System(_)))));
}

#[tokio::test]
async fn logs_have_sections_and_times_and_no_secrets() {
    let server = server(Settings::default());
    let options = LogOptions::default().with_timestamps(Timestamps::On);
    let runner = runner(&server).await.configure(|config| config.with_log(options));
    let new = NewJob::new("secretive").with_masked_variable("A", "canary-variable").with_masked_variable("B", "hidden");
    let id = server.with(|gitlab, now| gitlab.queue(now, new));
    let mut job = runner.next_job().await.unwrap();
    job.mask(&Secret::new("canary-fetched"));
    // The warning is written when the job is first looked at.
    while job.log_size() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    job.open_section(&Section::new("my part").with_title("My part"));
    job.log().stream(Stream::Stdout).send("a canary-variable and a hidden and a canary-fetched\n").await.unwrap();
    job.close_section();
    job.success().await.unwrap();
    is_clean(&held(&server, id).2);
}

/// What a script wrote last is before what the runner says next, although it may have become a secret.
#[tokio::test]
async fn what_a_script_wrote_comes_before_what_follows_it() {
    let server = server(Settings::default());
    let runner = runner(&server).await;
    let id =
        server.with(|gitlab, now| gitlab.queue(now, NewJob::new("steps").with_masked_variable("A", "secret-value")));
    let mut job = runner.next_job().await.unwrap();
    assert_eq!(job.mask(&Secret::new("canary-fetched")), Masked::Hidden);
    let (out, err) = (job.log().stream(Stream::Stdout), job.log().stream(Stream::Stderr));
    out.send("no errors").await.unwrap();
    job.end_step();
    job.log().send("; then canary").await.unwrap();
    job.close_stream(Stream::Runner);
    err.send("; s").await.unwrap();
    err.close_stream();
    out.send("; the end\n").await.unwrap();
    job.success().await.unwrap();
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
