//! The README's listing, compiled and run: a client that is neither ureq nor hyper against the simulated GitLab.

use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::{RunnerConfig, RunnerToken, Server};
use gitlab_runner_api_testkit::{Coordinator, JobStatus, NewJob, Settings};

use listing::run_one_job;

#[rustfmt::skip]
#[expect(clippy::disallowed_methods, unreachable_pub, reason = "an application has a clock, and no tests around it")]
mod listing {
// The listing starts here.
use gitlab_runner_api::*;

fn now() -> Timestamp { std::time::SystemTime::now().into() }

/// The transport: send the request as it is, hand in whatever comes back.
fn exchange<M: Machine>(machine: &mut M, call: Call) -> Result<(), Misuse> {
    let (request, ticket) = call.split();
    let (head, body) = request.into_parts();
    let sent = minreq::Request::new(minreq::Method::Custom(head.method.to_string()), head.uri.to_string())
        .with_headers(head.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap_or_default())))
        .with_body(body.into_bytes()).with_timeout(ticket.hints().deadline.as_secs()).with_follow_redirects(false).send();
    let Ok(answer) = sent else { return machine.handle_failure(ticket, Failure::Unknown, now()) };
    let mut response = http::Response::builder().status(answer.status_code);
    for (name, value) in &answer.headers { response = response.header(name, value) }
    match response.body(answer.into_bytes()) {
        Ok(response) => machine.handle_response(ticket, response, now()),
        Err(_) => machine.handle_failure(ticket, Failure::Unknown, now()),
    }
}

/// The loop, the same for every machine: it wants one of four things.
fn drive<M: Machine>(machine: &mut M, mut hear: impl FnMut(&mut M, M::Event)) -> Result<(), Misuse> {
    loop {
        match machine.poll(now()) {
            Output::Send(call) => exchange(machine, call)?,
            Output::Event(event) => hear(machine, event),
            Output::Wait(until) => std::thread::sleep(until.unwrap_or_default().saturating_since(now())),
            Output::Done => return Ok(()),
        }
    }
}

pub fn run_one_job(config: std::sync::Arc<RunnerConfig>, token: RunnerToken) -> Result<(), Misuse> {
    let (mut poller, mut job) = (Poller::new(config.clone(), token, now()), None);
    poller.set_capacity(1);
    drive(&mut poller, |poller, event| if let PollerEvent::Assigned(assignment) = event {
        job = Some(Job::new(config.clone(), &assignment, now()));
        poller.drain();
    })?;
    let Some(mut job) = job else { return Ok(()) };
    job.write("Hello from a runner of my own!\n");
    job.finish(JobResult::success());
    drive(&mut job, |_, event| println!("{event:?}"))
}
// The listing stops here.
}

/// The listing as it stands above.
fn listing() -> &'static str {
    let (_, rest) = include_str!("readme.rs").split_once("// The listing starts here.\n").unwrap();
    rest.split_once("// The listing stops here.").unwrap().0.trim_end()
}

#[test]
fn the_readme_shows_this_very_listing() {
    let listing = listing();
    assert!(
        include_str!("../../README.md").contains(&format!("```rust,ignore\n{listing}\n```")),
        "copy it:\n{listing}"
    );
    let lines = listing.lines().filter(|line| !line.trim().is_empty()).count();
    assert!(lines <= 40, "{lines} lines");
}

#[test]
fn the_listing_runs_a_job() {
    let mut coordinator = Coordinator::new(Settings::default());
    coordinator.add_runner("glrt-readme");
    let server = gitlab_runner_api_testkit::Server::start(coordinator).unwrap();
    let id = server.with(|gitlab, now| gitlab.queue(now, NewJob::new("hello")));
    let config = RunnerConfig::new(Server::parse(&server.url()).unwrap(), Info::new("my-runner", "1.0"));
    run_one_job(config.into(), RunnerToken::new("glrt-readme").unwrap()).unwrap();
    server.with(|gitlab, _| {
        let job = gitlab.job(id).unwrap();
        assert_eq!((job.status(), job.trace()), (JobStatus::Success, &b"Hello from a runner of my own!\n"[..]));
    });
}
