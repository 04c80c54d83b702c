//! What every adapter must get right, whatever the network does: one list of scenarios for all of them.
//!
//! An adapter brings a function that serves one [`Run`]: it registers [`Run::TOKEN`] at [`Run::url`], runs jobs with
//! [`Run::capacity`] places until [`Run::is_over`], and for each job obeys [`Run::steps`]. [`check`] then looks at what
//! GitLab holds.
//!
//! ```no_run
//! use gitlab_runner_api_testkit::scenarios::{Run, check};
//!
//! /// For a test of yours. `serve` serves one run with your adapter.
//! fn assert_scenarios(serve: impl FnMut(&Run)) {
//!     let report = check(serve);
//!     assert!(report.is_good(), "{report}");
//! }
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use http::Method;

use crate::conformance::Report;
use crate::coordinator::{Coordinator, Endpoint, JobStatus, NewJob, Settings};
use crate::dice::Dice;
use crate::front::Front;
use crate::server::Server;
use crate::treatment::Treatment;

/// What a handler is to do next with its job.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Write these bytes to the log, as the runner itself.
    Print(Vec<u8>),
    /// Wait until the job is to stop.
    WaitForCancel,
    /// Finish the job as the exit code of its script says, and wait for the delivery, whatever comes of it.
    Exit(i32),
    /// Panic, or end without a result, if it is not to be caught.
    Panic,
    /// Drop the job without a result.
    Drop,
}

/// One scenario, to be served by an adapter.
#[derive(Clone, Debug)]
pub struct Run {
    url: String,
    capacity: u32,
    steps: BTreeMap<u64, Vec<Step>>,
    over: Arc<AtomicBool>,
}

impl Run {
    /// The token of the runner.
    pub const TOKEN: &'static str = "glrt-scenarios";

    /// The instance to serve.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How many jobs at once.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// What the handler of this job is to do.
    #[must_use]
    pub fn steps(&self, job: u64) -> Vec<Step> {
        self.steps.get(&job).cloned().unwrap_or_default()
    }

    /// The runner is to be drained: all jobs have ended, or it takes too long.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

/// How a job is to end at GitLab.
#[derive(Clone, Copy, Debug)]
struct End {
    status: JobStatus,
    reason: Option<&'static str>,
    exit_code: Option<i64>,
}

const SUCCESS: End = End { status: JobStatus::Success, reason: None, exit_code: None };
const GIVEN_UP: End = End { status: JobStatus::Failed, reason: Some("runner_system_failure"), exit_code: None };
const CANCELED: End = End { status: JobStatus::Canceled, reason: None, exit_code: None };

/// What becomes of each request.
type Network = Box<dyn FnMut(&http::Request<bytes::Bytes>) -> Treatment + Send>;

struct Scenario {
    name: &'static str,
    settings: fn(&mut Settings),
    capacity: u32,
    jobs: fn() -> Vec<(Vec<Step>, End)>,
    network: fn(&Arc<Server>) -> Network,
    /// So many jobs may be handed out in answers that never came home; nobody runs those.
    lost: usize,
}

/// The longest a scenario may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn prints(bytes: usize, seed: u64) -> Step {
    let mut dice = Dice::new(seed);
    Step::Print((0..bytes).map(|_| b"abcdefghijklmnopqrstuvwxyz \n"[dice.below(28) as usize]).collect())
}

fn good(count: u64) -> Vec<(Vec<Step>, End)> {
    (0..count).map(|seed| (vec![prints(2000, seed), prints(3000, seed + 99), Step::Exit(0)], SUCCESS)).collect()
}

fn every_end() -> Vec<(Vec<Step>, End)> {
    let failed = End { status: JobStatus::Failed, reason: Some("script_failure"), exit_code: Some(7) };
    vec![
        (vec![prints(100, 1), Step::Exit(0)], SUCCESS),
        (vec![Step::Exit(0)], SUCCESS),
        (vec![prints(100_000, 2), Step::Exit(7)], failed),
        (vec![prints(300, 3), Step::WaitForCancel, prints(50, 4), Step::Exit(0)], CANCELED),
        (vec![prints(300, 5), Step::Panic], GIVEN_UP),
        (vec![prints(300, 6), Step::Drop], GIVEN_UP),
        (vec![prints(3 << 20, 7), Step::Exit(0)], SUCCESS),
    ]
}

fn is(request: &http::Request<bytes::Bytes>, what: &str) -> bool {
    let path = request.uri().path();
    match what {
        "request" => path.ends_with("/jobs/request"),
        "patch" => request.method() == Method::PATCH,
        "update" => request.method() == Method::PUT,
        _ => path.contains("/jobs/"),
    }
}

/// Treats every `nth` request about jobs like this.
fn every(nth: u32, what: &'static str, treatment: Treatment) -> impl FnMut(&http::Request<bytes::Bytes>) -> Treatment {
    let mut count = 0;
    move |request| {
        count += u32::from(is(request, what));
        if is(request, what) && count % nth == 0 { treatment } else { Treatment::Deliver }
    }
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "every end a job can have",
        settings: |_| {},
        capacity: 7,
        jobs: every_end,
        network: |_| Box::new(|_| Treatment::Deliver),
        lost: 0,
    },
    Scenario {
        name: "one place, many jobs",
        settings: |_| {},
        capacity: 1,
        jobs: || good(8),
        network: |_| Box::new(|_| Treatment::Deliver),
        lost: 0,
    },
    Scenario {
        name: "bursts of 503",
        settings: |_| {},
        capacity: 4,
        jobs: || good(6),
        network: |_| {
            let mut count = 0;
            Box::new(move |request| {
                count += u32::from(is(request, "job"));
                if count % 10 >= 7 && is(request, "job") { Treatment::Answer(503) } else { Treatment::Deliver }
            })
        },
        lost: 0,
    },
    Scenario {
        name: "every fourth log patch is answered 429, every third report 502",
        settings: |_| {},
        capacity: 4,
        jobs: || good(6),
        network: |_| {
            let mut limited = every(4, "patch", Treatment::Answer(429));
            let mut broken = every(3, "update", Treatment::Answer(502));
            Box::new(move |request| if is(request, "patch") { limited(request) } else { broken(request) })
        },
        lost: 0,
    },
    Scenario {
        name: "connections that break before GitLab sees a log or a report",
        settings: |_| {},
        capacity: 4,
        jobs: || good(6),
        network: |_| {
            let (mut logs, mut reports) =
                (every(3, "patch", Treatment::LoseRequest), every(3, "update", Treatment::LoseRequest));
            Box::new(move |request| if is(request, "patch") { logs(request) } else { reports(request) })
        },
        lost: 0,
    },
    Scenario {
        name: "connections that break after GitLab took a log or a report",
        settings: |_| {},
        capacity: 4,
        jobs: || good(6),
        network: |_| {
            let (mut logs, mut reports) =
                (every(3, "patch", Treatment::LoseAnswer), every(3, "update", Treatment::LoseAnswer));
            Box::new(move |request| if is(request, "patch") { logs(request) } else { reports(request) })
        },
        lost: 0,
    },
    Scenario {
        name: "slow answers",
        settings: |_| {},
        capacity: 3,
        jobs: || good(5),
        network: |_| Box::new(every(2, "job", Treatment::Delay(Duration::from_millis(120)))),
        lost: 0,
    },
    Scenario {
        name: "a job whose 201 is lost is nobody's, and the others run",
        settings: |_| {},
        capacity: 2,
        jobs: || good(4),
        network: |_| {
            let mut asked = 0;
            Box::new(move |request| {
                asked += u32::from(is(request, "request"));
                if is(request, "request") && asked == 2 { Treatment::LoseAnswer } else { Treatment::Deliver }
            })
        },
        lost: 1,
    },
    Scenario {
        name: "GitLab loses the live logs of jobs that printed much",
        settings: |_| {},
        capacity: 2,
        jobs: || {
            let much = |seed: u64| (0..7).map(|part| prints(500_000, seed + part)).chain([Step::Exit(0)]).collect();
            vec![(much(10), SUCCESS), (much(20), SUCCESS)]
        },
        network: |server| {
            let (server, mut patches) = (server.clone(), BTreeMap::<u64, u32>::new());
            Box::new(move |request| {
                let job = request.uri().path().split('/').rev().nth(1).and_then(|id| id.parse().ok());
                if let Some(job) = job.filter(|_| is(request, "patch")) {
                    let count = patches.entry(job).or_default();
                    *count += 1;
                    match *count {
                        3 => server.with(|gitlab, _| gitlab.forget_trace_tail(job, 0)),
                        6 => server.with(|gitlab, _| gitlab.forget_trace_tail(job, 777_777)),
                        _ => {}
                    }
                }
                Treatment::Deliver
            })
        },
        lost: 0,
    },
    Scenario {
        name: "a log that takes its time to the archive",
        settings: |settings| settings.archive_delay = Some(Duration::from_millis(1500)),
        capacity: 2,
        jobs: || good(2),
        network: |_| Box::new(|_| Treatment::Deliver),
        lost: 0,
    },
];

/// Puts an adapter through all scenarios, each with a GitLab of its own. Takes some seconds.
///
/// # Panics
///
/// If the operating system refuses a port or a thread.
pub fn check(mut serve: impl FnMut(&Run)) -> Report {
    Report { cases: SCENARIOS.iter().map(|scenario| (scenario.name, play(scenario, &mut serve))).collect() }
}

fn play(scenario: &Scenario, serve: &mut dyn FnMut(&Run)) -> Result<(), String> {
    let mut gitlab = Coordinator::new(Settings::default().with(scenario.settings));
    gitlab.add_runner(Run::TOKEN);
    let server = Arc::new(Server::start(gitlab).map_err(|error| error.to_string())?);
    let jobs: BTreeMap<u64, _> = server.with(|gitlab, now| {
        (scenario.jobs)().into_iter().map(|job| (gitlab.queue(now, NewJob::new("scenario")), job)).collect()
    });
    let front = Front::start(server.clone(), (scenario.network)(&server)).map_err(|error| error.to_string())?;
    let over = Arc::new(AtomicBool::new(false));
    let steps = jobs.iter().map(|(id, (steps, _))| (*id, steps.clone())).collect();
    let run = Run { url: front.url(), capacity: scenario.capacity, steps, over: over.clone() };
    let most = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            watch(&server, &run, scenario.lost, &most);
            over.store(true, Ordering::SeqCst);
        });
        serve(&run);
    });
    let most = most.into_inner().saturating_sub(scenario.lost);
    if most > scenario.capacity as usize {
        return Err(format!("{most} jobs were taken at once, with room for {}", scenario.capacity));
    }
    server.with(|gitlab, _| verdict(gitlab, &jobs, scenario.lost))
}

/// Plays GitLab's users: cancels the jobs that wait for it, and looks on until all have ended.
fn watch(server: &Server, run: &Run, lost: usize, most: &AtomicUsize) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let left = server.with(|gitlab, now| {
            let waits = |id: u64| {
                let steps = run.steps.get(&id).map(Vec::as_slice).unwrap_or_default();
                let job = gitlab.job(id);
                let said = job.is_some_and(|job| job.status() == JobStatus::Running && !job.trace().is_empty());
                said && steps.contains(&Step::WaitForCancel)
            };
            let cancelled: Vec<u64> = run.steps.keys().copied().filter(|id| waits(*id)).collect();
            cancelled.into_iter().for_each(|id| gitlab.cancel(now, id));
            let taken = gitlab.jobs().filter(|job| job.status() != JobStatus::Pending && !job.status().is_final());
            most.fetch_max(taken.count(), Ordering::SeqCst);
            gitlab.jobs().filter(|job| !job.status().is_final()).count()
        });
        if left <= lost {
            return;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn verdict(gitlab: &Coordinator, jobs: &BTreeMap<u64, (Vec<Step>, End)>, lost: usize) -> Result<(), String> {
    let mut orphans = 0;
    for (id, (steps, end)) in jobs {
        let Some(job) = gitlab.job(*id) else { return Err(format!("job {id} is gone")) };
        let touched = job.requests(Endpoint::UpdateJob) + job.requests(Endpoint::PatchTrace) > 0;
        if !job.status().is_final() && !touched {
            orphans += 1;
            continue;
        }
        let held = (job.status(), job.failure_reason(), job.exit_code());
        // A cancelled job keeps whatever reason its runner gave.
        let same =
            held == (end.status, end.reason, end.exit_code) || held.0 == JobStatus::Canceled && held.0 == end.status;
        if !same {
            return Err(format!("job {id} should be {end:?}, GitLab holds {held:?}"));
        }
        let printed: Vec<u8> = steps.iter().filter_map(printed).flatten().copied().collect();
        let whole =
            if end.reason == GIVEN_UP.reason { job.trace().starts_with(&printed) } else { job.trace() == printed };
        if !whole {
            return Err(format!("job {id}: {} bytes of log, not the {} printed", job.trace().len(), printed.len()));
        }
    }
    if orphans == lost {
        Ok(())
    } else {
        Err(format!("{orphans} jobs were handed out or waiting, and nobody ran them"))
    }
}

fn printed(step: &Step) -> Option<&Vec<u8>> {
    match step {
        Step::Print(bytes) => Some(bytes),
        _ => None,
    }
}
