//! A whole runner, a network and a GitLab, on virtual time.
//!
//! A [`World`] drives a [`Poller`] and its [`Job`]s as an adapter would, through a [`Net`], against a [`Coordinator`].
//! Time jumps to whatever happens next, so that hours take milliseconds. While it runs it checks the laws a correct core
//! keeps; a run that breaks one, or does not end, is a [`Violation`] with the last events in it.

mod laws;
mod payload;
mod runner;
mod traffic;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::api::info::{Features, Info};
use gitlab_runner_api::{
    Failure, Job, JobEvent, Poller, RunnerConfig, RunnerToken, Server, SystemId, Ticket, Timestamp,
};
use http::{Request, Response};

use crate::coordinator::{Coordinator, HoldId, NewJob, Settings};
use crate::monitor::{JobMonitor, PollerMonitor};
use crate::net::{Faults, Net};
use payload::Process;

pub use payload::Payload;

/// Something done to a world at a set time.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Intervention {
    /// A user cancels this job.
    Cancel(u64),
    /// A user cancels this job by force.
    ForceCancel(u64),
    /// GitLab loses all of this job's log but so many bytes.
    ForgetTail(u64, u64),
    /// The runner's process dies, and is started again at once, with what it had saved.
    Crash,
    /// No connection can be made any more.
    Break,
    /// Nothing goes wrong any more.
    Heal,
}

/// How a world is made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Scenario {
    /// Seeds everything.
    pub seed: u64,
    /// The network.
    pub faults: Faults,
    /// The server.
    pub settings: Settings,
    /// The runner saves its jobs, and survives crashes.
    pub durable: bool,
    /// At each thing a job tells or asks for, in cases of 1000: the runner's process dies and is started again.
    pub crash: u32,
    /// At each thing a job tells or asks for, in cases of 1000: the runner saves what is written although nothing asks for that.
    pub spool: u32,
    /// How many jobs the runner takes at once.
    pub capacity: u32,
    /// Changes the runner's configuration.
    pub configure: fn(RunnerConfig) -> RunnerConfig,
}

impl Scenario {
    /// One runner for four jobs, and nothing goes wrong.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let (faults, settings) = (Faults::default(), Settings::default());
        Self { seed, faults, settings, durable: false, crash: 0, spool: 0, capacity: 4, configure: |config| config }
    }

    /// This scenario with a change applied.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// A law was broken, or the run did not end.
#[derive(Debug)]
#[non_exhaustive]
pub struct Violation {
    /// Which law, and how.
    pub what: String,
    /// The last events before it.
    pub timeline: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        self.timeline.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

impl std::error::Error for Violation {}

/// How a job went, as seen from the runner.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JobStory {
    /// The job.
    pub id: u64,
    /// All it told, crashes included.
    pub events: Vec<JobEvent>,
    /// How many bytes its process printed.
    pub printed: u64,
    /// How often the runner's process died meanwhile.
    pub crashes: u32,
}

/// See the module.
pub struct World {
    now: Timestamp,
    scenario: Scenario,
    config: Arc<RunnerConfig>,
    coordinator: Coordinator,
    net: Net,
    poller: Poller,
    poller_monitor: PollerMonitor,
    poller_done: bool,
    poller_wakes: Option<Timestamp>,
    uncertain: u32,
    unanswered: u32,
    told: Vec<String>,
    actors: BTreeMap<u64, Actor>,
    stories: BTreeMap<u64, JobStory>,
    payloads: BTreeMap<u64, Payload>,
    arrivals: BTreeMap<(Timestamp, u64), Arrival>,
    held: BTreeMap<HoldId, (u64, Duration)>,
    flights: BTreeMap<u64, Flight>,
    planned: BTreeMap<(Timestamp, u64), Intervention>,
    counter: u64,
    timeline: VecDeque<String>,
}

/// A job in the runner's hands.
struct Actor {
    job: Job,
    process: Process,
    wakes: Option<Timestamp>,
    done: bool,
    /// The last snapshot on disk, and how much of the log is there.
    disk: Option<(String, u64)>,
    monitor: JobMonitor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Poller,
    Job(u64),
}

/// A call whose ticket is out.
struct Flight {
    who: Who,
    ticket: Ticket,
    deadline: Timestamp,
}

enum Arrival {
    /// At the server; the answer goes to this flight, if it is still waited for. A spare one has arrived before.
    Request { flight: Option<u64>, request: Request<Bytes>, back: Option<Duration>, spare: bool },
    /// At the client.
    Outcome { flight: u64, outcome: Result<Response<Bytes>, Failure> },
}

const START: Timestamp = Timestamp::from_millis(1_750_000_000_000);
/// That of a default configuration.
const CHECK_INTERVAL: Duration = Duration::from_secs(3);
const TOKEN: &str = "glrt-simulated-runner";
const VALID: &str = "the fixed names of a world are valid";

impl World {
    /// A world in which nothing has happened yet.
    #[must_use]
    pub fn new(scenario: Scenario) -> Self {
        let features = Features::default().cancel_gracefully(true).variables(true).refspecs(true);
        let info = Info::new("world", "1").with_platform("linux", "amd64").with_features(features);
        let config = RunnerConfig::new(Server::parse("https://gitlab.example.test").expect(VALID), info)
            .with_system_id(SystemId::new("s_000000000001").expect(VALID))
            .with_jitter_seed(scenario.seed)
            .with_durable(scenario.durable);
        let config = Arc::new((scenario.configure)(config));
        let mut coordinator = Coordinator::new(scenario.settings.clone());
        coordinator.add_runner(TOKEN);
        let mut poller = Poller::new(config.clone(), RunnerToken::new(TOKEN).expect(VALID), START);
        poller.set_capacity(scenario.capacity);
        Self {
            now: START,
            net: Net::new(scenario.faults.clone(), scenario.seed ^ 0xA5A5),
            scenario,
            config,
            coordinator,
            poller,
            poller_monitor: PollerMonitor::new(CHECK_INTERVAL),
            poller_done: false,
            poller_wakes: Some(START),
            uncertain: 0,
            unanswered: 0,
            told: Vec::new(),
            actors: BTreeMap::new(),
            stories: BTreeMap::new(),
            payloads: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            held: BTreeMap::new(),
            flights: BTreeMap::new(),
            planned: BTreeMap::new(),
            counter: 0,
            timeline: VecDeque::new(),
        }
    }

    /// Queues a job at GitLab.
    pub fn queue(&mut self, payload: Payload) -> u64 {
        let id = self.coordinator.queue(self.now, NewJob::new("job"));
        self.payloads.insert(id, payload);
        id
    }

    /// Plans something for so long after the start of the world.
    pub fn plan(&mut self, after: Duration, intervention: Intervention) {
        self.counter += 1;
        self.planned.insert((START.saturating_add(after), self.counter), intervention);
    }

    /// Virtual time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The server.
    #[must_use]
    pub fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }

    /// How each job went that the runner held, by id.
    #[must_use]
    pub fn stories(&self) -> &BTreeMap<u64, JobStory> {
        &self.stories
    }

    /// How often the poller said that a job may be lost.
    #[must_use]
    pub fn uncertain(&self) -> u32 {
        self.uncertain
    }

    /// What the poller told besides jobs, in order, in `Debug` form.
    #[must_use]
    pub fn told(&self) -> &[String] {
        &self.told
    }

    /// Runs until GitLab has no job left to hand out and the runner has none left, then drains the runner.
    ///
    /// # Errors
    ///
    /// [`Violation`] if a law is broken, or if the run takes longer than `limit` of virtual time.
    pub fn run(&mut self, limit: Duration) -> Result<(), Violation> {
        let end = self.now.saturating_add(limit);
        loop {
            self.settle()?;
            let idle = self.actors.values().all(|actor| actor.done) && !self.coordinator.jobs().any(is_to_come);
            if idle && !self.poller.is_asking() {
                self.poller.drain();
                self.settle()?;
            }
            if self.poller_done && idle {
                return self.check_end();
            }
            let Some(next) = self.next_time() else {
                return Err(self.violation("L3: nothing will ever happen again"));
            };
            if next > end {
                return Err(self.violation(format!("L12: not finished after {limit:?} of virtual time")));
            }
            self.now = self.now.max(next);
            self.happen()?;
        }
    }

    fn next_time(&self) -> Option<Timestamp> {
        let arrivals = self.arrivals.keys().chain(self.planned.keys()).map(|(time, _)| *time);
        let deadlines = self.flights.values().map(|flight| flight.deadline);
        let actors = self.actors.values().flat_map(|actor| [actor.wakes, actor.process.next]).flatten();
        let others = self.poller_wakes.into_iter().chain(self.coordinator.deadline());
        arrivals.chain(deadlines).chain(actors).chain(others).min()
    }

    /// Lets everything happen that is due.
    fn happen(&mut self) -> Result<(), Violation> {
        while let Some(entry) = self.planned.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let intervention = entry.remove();
            self.intervene(intervention)?;
        }
        while let Some((hold, response)) = self.coordinator.poll(self.now) {
            if let Some((flight, back)) = self.held.remove(&hold) {
                self.arrive(back, Arrival::Outcome { flight, outcome: Ok(response) });
            }
        }
        while let Some(entry) = self.arrivals.first_entry().filter(|entry| entry.key().0 <= self.now) {
            match entry.remove() {
                Arrival::Request { flight, request, back, spare } => {
                    // Nobody waits for the answer to a spare patch, so that nobody could notice what GitLab forgot.
                    if !spare {
                        self.meddle(&request);
                    }
                    self.serve(flight, request, back)?;
                }
                Arrival::Outcome { flight, outcome } => self.come_home(flight, outcome)?,
            }
        }
        let overdue = self.flights.iter().filter(|(_, flight)| flight.deadline <= self.now).map(|(id, _)| *id);
        for flight in overdue.collect::<Vec<_>>() {
            self.come_home(flight, Err(Failure::TimedOut))?;
        }
        let ids: Vec<_> = self.actors.keys().copied().collect();
        for id in ids {
            if let Some(actor) = self.actors.get_mut(&id) {
                actor.live(self.now);
            }
        }
        Ok(())
    }

    fn intervene(&mut self, intervention: Intervention) -> Result<(), Violation> {
        self.note(format!("{intervention:?}"));
        match intervention {
            Intervention::Cancel(job) => self.coordinator.cancel(self.now, job),
            Intervention::ForceCancel(job) => self.coordinator.force_cancel(self.now, job),
            Intervention::ForgetTail(job, keep) => self.coordinator.forget_trace_tail(job, keep),
            Intervention::Break => self.net.faults = Faults::default().with(|faults| faults.not_sent = 1000),
            Intervention::Heal => {
                self.net.faults = Faults::default();
                self.scenario.crash = 0;
            }
            Intervention::Crash => {
                for id in self.actors.keys().copied().collect::<Vec<_>>() {
                    self.crash(id)?;
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, line: String) {
        if self.timeline.len() == 5000 {
            self.timeline.pop_front();
        }
        let at = self.now.saturating_since(START);
        self.timeline.push_back(format!("{:>9.3} {line}", at.as_secs_f64()));
    }

    fn violation(&self, what: impl Into<String>) -> Violation {
        let last = self.timeline.len().saturating_sub(200);
        Violation { what: what.into(), timeline: self.timeline.iter().skip(last).cloned().collect() }
    }

    fn violation_by(&self, who: Who, what: &str) -> Violation {
        match who {
            Who::Poller => self.violation(what),
            Who::Job(id) => self.violation_of(id, what),
        }
    }

    /// A violation with what concerns this job alone, from further back.
    fn violation_of(&self, job: u64, what: &str) -> Violation {
        let name = job.to_string();
        let timeline = self.timeline.iter().filter(|line| line.contains(&name)).cloned().collect();
        Violation { what: format!("job {job}: {what}"), timeline }
    }
}

/// Whether a job is still to be handed out, or back.
fn is_to_come(job: &crate::coordinator::JobRecord) -> bool {
    job.status() == crate::coordinator::JobStatus::Pending
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("now", &self.now).field("jobs", &self.stories.len()).finish_non_exhaustive()
    }
}
