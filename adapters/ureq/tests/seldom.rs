//! What goes wrong only now and then: long deadlines, refusals, files of others, outages at the end.

use std::thread;
use std::time::Duration;

use gitlab_runner_api_testkit::{Coordinator, Endpoint, JobStatus, Maintenance, NewJob, Server, Settings, TimeLimit};
use gitlab_runner_api_ureq::{Error, Registration, Runner, Stop};

const QUICK: Duration = Duration::from_millis(50);
/// No test waits for longer than this until GitLab has a result.
const PATIENCE: Duration = Duration::from_secs(60);

fn server() -> Server {
    let mut gitlab = Coordinator::new(Settings::default());
    gitlab.add_runner("glrt-a");
    Server::start(gitlab).unwrap().with_time_limit(TimeLimit::TEST)
}

fn runner(server: &Server) -> Runner {
    let runner = Runner::register(&server.url(), "glrt-a", Registration::new()).unwrap();
    runner
        .with_patience(PATIENCE)
        .configure(|config| config.with_check_interval(QUICK).with_update_interval(QUICK).with_keep_alive(QUICK))
}

#[test]
fn no_deadline_is_too_long() {
    let server = server();
    let mut runner = runner(&server).configure(|config| config.with_job_request_deadline(Duration::MAX));
    assert!(runner.request_job().unwrap().is_none());
}

/// Asking again after a refusal is no reason to ask faster.
#[test]
fn a_refused_token_is_not_asked_again_at_once() {
    let server = server();
    let mut runner = runner(&server);
    server.with(|gitlab, _| {
        let ids: Vec<_> = gitlab.runners().collect();
        ids.into_iter().for_each(|id| gitlab.remove_runner(id))
    });
    assert!(matches!(runner.next_job(), Err(Error::Unauthorized(_))));
    let before = server.with(|gitlab, _| gitlab.stats().requests(Endpoint::RequestJob));
    // It waits for longer than this test: nobody waits for it.
    thread::spawn(move || _ = runner.next_job());
    thread::sleep(Duration::from_millis(700));
    let asked = server.with(|gitlab, _| gitlab.stats().requests(Endpoint::RequestJob)) - before;
    assert_eq!(asked, 0, "asked again at once");
}

#[test]
fn a_file_that_is_not_text_is_a_bad_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runner.json");
    std::fs::write(&path, b"\xff\xfe{}").unwrap();
    let error = Runner::load(&path).unwrap_err();
    assert!(matches!(error, Error::BadFile { .. }), "{error}");
}

/// What the handlers could not deliver in their patience is not left behind when the loop returns.
#[test]
fn the_loop_returns_when_its_jobs_are_delivered() {
    let server = server();
    let id = server.with(|gitlab, now| gitlab.queue(now, NewJob::new("through an outage")));
    let stop = Stop::new();
    let mut runner = runner(&server);
    thread::scope(|scope| {
        let handler = |mut job: gitlab_runner_api_ureq::Job| {
            server.with(|gitlab, _| gitlab.settings_mut().maintenance = Maintenance::On);
            stop.drain();
            job.set_patience(2 * QUICK);
            assert!(matches!(job.success(), Err(Error::Patience)));
        };
        scope.spawn(|| {
            thread::sleep(Duration::from_secs(1));
            server.with(|gitlab, _| gitlab.settings_mut().maintenance = Maintenance::Off);
        });
        runner.run(1, handler, &stop).unwrap();
        let status = server.with(|gitlab, _| gitlab.job(id).unwrap().status());
        assert_eq!(status, JobStatus::Success, "the loop returned before GitLab had the result");
    });
}
