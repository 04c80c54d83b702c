//! The README's listing, compiled and run: a client that is neither ureq nor hyper against the simulated GitLab.

use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::{RunnerConfig, RunnerToken, Server};
use gitlab_runner_api_testkit::{Coordinator, JobStatus, NewJob, Settings, TimeLimit};

use listing::run_one_job;

#[rustfmt::skip]
#[expect(clippy::disallowed_methods, unreachable_pub, reason = "an application has a clock, and no tests around it")]
mod listing {
// The listing starts here.
use gitlab_runner_api::*;
use std::{sync::{Arc, LazyLock}, time::{Instant, SystemTime}};

static CLOCK: LazyLock<AnchoredClock> = LazyLock::new(|| AnchoredClock::new(SystemTime::now(), Instant::now()));
fn now() -> Timestamp { CLOCK.at(Instant::now()) }

/// The transport: sends the request unchanged, and follows no redirect.
fn send(request: http::Request<Body>, hints: &Hints) -> Option<http::Response<Vec<u8>>> {
    let (head, body) = request.into_parts();
    let answer = minreq::Request::new(minreq::Method::Custom(head.method.to_string()), head.uri.to_string())
        .with_headers(head.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap_or_default())))
        .with_body(body.into_bytes()).with_timeout(hints.deadline.as_secs()).with_follow_redirects(false).send().ok()?;
    let response = http::Response::builder().status(answer.status_code);
    answer.headers.iter().fold(response, |r, (name, value)| r.header(name, value)).body(answer.into_bytes()).ok()
}

/// The loop: `poll` says what to do next. It is the same for every state machine.
fn drive<M: Machine>(machine: &mut M, mut on_event: impl FnMut(&mut M, M::Event)) -> Result<(), WrongMachine> {
    loop {
        match machine.poll(now()) {
            Output::Send(call) => {
                let (request, ticket) = call.split();
                let outcome = send(request, ticket.hints()).ok_or(Failure::Unknown);
                machine.handle_outcome(ticket, outcome, now())?;
            }
            Output::Event(event) => on_event(machine, event),
            Output::Wait(Some(until)) => std::thread::sleep(until.saturating_since(now())),
            Output::Wait(None) | Output::Done => return Ok(()), // `Wait(None)`: only an input could help, and this loop has none
        }
    }
}

pub fn run_one_job(config: Arc<RunnerConfig>, token: RunnerToken) -> Result<(), WrongMachine> {
    let (mut poller, mut job) = (Poller::new(config.clone(), token, now()), None);
    poller.set_capacity(1);
    drive(&mut poller, |_, event| if let PollerEvent::Assigned(assignment) = event {
        job = Some(Job::new(config.clone(), &assignment, now()));
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
    // The `main` that follows it there is compiled as a documentation test of the README.
    let shown = format!("```rust,no_run\n{listing}\n\nfn main() ");
    assert!(include_str!("../../README.md").contains(&shown), "copy it:\n{listing}");
    let lines = listing.lines().filter(|line| !line.trim().is_empty()).count();
    assert!(lines < 40, "{lines} lines");
}

/// The READMEs of all packages, as their registry pages show them.
const READMES: [(&str, &str); 5] = [
    ("README.md", include_str!("../../README.md")),
    ("adapters/common/README.md", include_str!("../../adapters/common/README.md")),
    ("adapters/hyper/README.md", include_str!("../../adapters/hyper/README.md")),
    ("adapters/ureq/README.md", include_str!("../../adapters/ureq/README.md")),
    ("testkit/README.md", include_str!("../../testkit/README.md")),
];

/// The page of a package knows no repository, so that a relative link or picture would lead nowhere.
#[test]
fn no_readme_links_into_the_repository() {
    for (name, text) in READMES {
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            assert!(target.starts_with("https://") || target.starts_with('#'), "{name}: {target}");
        }
        for target in ["src=\"", "href=\"", "]: "].into_iter().flat_map(|mark| text.split(mark).skip(1)) {
            assert!(target.starts_with("https://"), "{name}: {}", target.lines().next().unwrap_or_default());
        }
    }
}

/// Rustdoc hides lines that begin with `# `, but the page of a package shows them. A sample that is not compiled may be
/// wrong for long.
#[test]
fn every_rust_sample_of_a_readme_is_compiled_as_it_is_shown() {
    for (name, text) in READMES {
        let mut fence = None;
        for line in text.lines() {
            match (line.strip_prefix("```"), fence) {
                (Some(_), Some(_)) => fence = None,
                (Some(language), None) => {
                    // Tests of the test kit run its samples in Python and in the language of the shell.
                    assert!(["rust,no_run", "python", "sh", "text"].contains(&language), "{name}: {language}");
                    fence = Some(language);
                }
                (None, Some("rust,no_run")) => assert!(!line.starts_with("# "), "{name}: {line}"),
                (None, _) => {}
            }
        }
        assert_eq!(fence, None, "{name}: a sample does not end");
    }
}

#[test]
fn the_listing_runs_a_job() {
    let mut coordinator = Coordinator::new(Settings::default());
    coordinator.add_runner("glrt-readme");
    let server = gitlab_runner_api_testkit::Server::start(coordinator).unwrap().with_time_limit(TimeLimit::TEST);
    let id = server.with(|gitlab, now| gitlab.queue(now, NewJob::new("hello")));
    let config = RunnerConfig::new(Server::parse(&server.url()).unwrap(), Info::new("my-runner", "1.0"));
    run_one_job(config.into(), RunnerToken::new("glrt-readme").unwrap()).unwrap();
    server.with(|gitlab, _| {
        let job = gitlab.job(id).unwrap();
        assert_eq!((job.status(), job.trace()), (JobStatus::Success, &b"Hello from a runner of my own!\n"[..]));
    });
}
