//! A whole runner, a network and a GitLab, on virtual time.
//!
//! A [`World`] drives a [`Poller`] and its [`Job`]s as an adapter would, through a [`Net`], against a [`Coordinator`].
//! Time jumps to whatever happens next, so that hours take milliseconds. While it runs it checks the laws a correct core
//! keeps; a run that breaks one, or does not end, is a [`Violation`] with the last events in it.

mod laws;
mod payload;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::api::info::{Features, Info};
use gitlab_runner_api::{
    Assignment, Body, Call, CallKind, Failure, FailureReason, Job, JobEvent, JobResult, JobSnapshot, Machine, Misuse,
    Output, Poller, PollerEvent, RunnerConfig, RunnerToken, Server, SystemId, Ticket, Timestamp,
};
use http::{Request, Response};

use crate::coordinator::{Answer, Coordinator, HoldId, NewJob, Settings};
use crate::net::{Fate, Faults, Net};
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
        Self { seed, faults, settings, durable: false, crash: 0, capacity: 4, configure: |config| config }
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
    reports: laws::Reports,
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
const TOKEN: &str = "glrt-simulated-runner";

impl World {
    /// A world in which nothing has happened yet.
    ///
    /// # Errors
    ///
    /// Never; the fixed names it uses are valid.
    pub fn new(scenario: Scenario) -> Result<Self, Box<dyn std::error::Error>> {
        let features = Features::default().cancel_gracefully(true).variables(true).refspecs(true);
        let info = Info::new("world", "1").platform("linux", "amd64").features(features);
        let config = RunnerConfig::new(Server::parse("https://gitlab.example.test")?, info)
            .with_system_id(SystemId::new("s_000000000001")?)
            .with_jitter_seed(scenario.seed)
            .with_durable(scenario.durable);
        let config = Arc::new((scenario.configure)(config));
        let mut coordinator = Coordinator::new(scenario.settings.clone());
        coordinator.add_runner(TOKEN);
        let mut poller = Poller::new(config.clone(), RunnerToken::new(TOKEN)?, START);
        poller.set_capacity(scenario.capacity);
        Ok(Self {
            now: START,
            net: Net::new(scenario.faults.clone(), scenario.seed ^ 0xA5A5),
            scenario,
            config,
            coordinator,
            poller,
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
        })
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

    fn arrive(&mut self, after: Duration, arrival: Arrival) {
        self.counter += 1;
        self.arrivals.insert((self.now.saturating_add(after), self.counter), arrival);
    }

    fn serve(&mut self, flight: Option<u64>, request: Request<Bytes>, back: Option<Duration>) -> Result<(), Violation> {
        let job = job_of(&request);
        let what = format!("{} {}", request.method(), request.uri().path());
        let answer = self.coordinator.submit(self.now, request);
        match (answer, flight, back) {
            (Answer::Now(response), flight, back) => {
                self.note(format!(
                    "GitLab: {what} -> {} {:?}",
                    response.status(),
                    response.headers().get("job-status")
                ));
                if let (Some(flight), Some(back)) = (flight, back) {
                    self.arrive(back, Arrival::Outcome { flight, outcome: Ok(response) });
                }
            }
            (Answer::Held(hold), Some(flight), Some(back)) => _ = self.held.insert(hold, (flight, back)),
            (Answer::Held(hold), ..) => self.coordinator.abandon(hold),
        }
        job.map_or(Ok(()), |job| self.check_log(job))
    }

    /// The server's own troubles with a log, just before a patch of it is looked at.
    fn meddle(&mut self, request: &Request<Bytes>) {
        let Some(job) = job_of(request).filter(|_| request.method() == http::Method::PATCH) else { return };
        if self.coordinator.job(job).is_none_or(|record| record.status().is_final()) {
            return;
        }
        if self.net.strikes(|faults| faults.locked_trace) {
            let span = self.net.dice().between(Duration::ZERO, Duration::from_secs(2));
            self.coordinator.lock_trace(job, self.now.saturating_add(span));
        }
        if self.net.strikes(|faults| faults.forgotten_tail) {
            let size = self.coordinator.job(job).map_or(0, |record| record.trace().len() as u64);
            let keep = self.net.dice().below(size + 1);
            self.note(format!("GitLab forgets all but {keep} of {size} bytes of job {job}"));
            self.coordinator.forget_trace_tail(job, keep);
        }
    }

    fn launch(&mut self, who: Who, call: Call) -> Result<(), Violation> {
        if self.flights.values().any(|flight| flight.who == who) {
            return Err(self.violation(format!("L1: a second ticket of {who:?} is out")));
        }
        self.note(format!("{who:?}: {call:?}"));
        let (request, ticket) = call.split();
        let request = request.map(Body::into_bytes);
        if let Who::Job(id) = who {
            self.check_call(id, ticket.hints(), &request)?;
        }
        let is_patch = ticket.hints().kind == CallKind::PatchTrace;
        let deadline = self.now.saturating_add(ticket.hints().deadline);
        self.counter += 1;
        let id = self.counter;
        self.flights.insert(id, Flight { who, ticket, deadline });
        let soon = Duration::from_millis(50);
        let fate = self.net.fate(is_patch);
        match fate {
            Fate::Delivered { there, back, again } => {
                if let Some(again) = again.filter(|_| is_patch) {
                    self.arrive(
                        again,
                        Arrival::Request { flight: None, request: request.clone(), back: None, spare: true },
                    );
                }
                self.arrive(there, Arrival::Request { flight: Some(id), request, back: Some(back), spare: false });
            }
            Fate::AnswerLost { there, seen } => {
                self.arrive(there, Arrival::Request { flight: None, request, back: None, spare: false });
                if let Some(failure) = seen {
                    self.arrive(there + soon, Arrival::Outcome { flight: id, outcome: Err(failure) });
                }
            }
            Fate::RequestLost(Some(failure)) => {
                self.arrive(soon, Arrival::Outcome { flight: id, outcome: Err(failure) })
            }
            Fate::RequestLost(None) => {}
            Fate::Forged(page) => self.arrive(soon, Arrival::Outcome { flight: id, outcome: Ok(*page) }),
            Fate::Forced416 => {
                let size =
                    job_of(&request).and_then(|job| self.coordinator.job(job)).map_or(0, |job| job.trace().len());
                let response = Response::builder().status(416).header("range", format!("0-{size}"));
                let response = response.body(Bytes::new()).unwrap_or_default();
                self.arrive(soon, Arrival::Outcome { flight: id, outcome: Ok(response) });
            }
        }
        Ok(())
    }

    fn come_home(&mut self, flight: u64, outcome: Result<Response<Bytes>, Failure>) -> Result<(), Violation> {
        let Some(Flight { who, ticket, .. }) = self.flights.remove(&flight) else { return Ok(()) };
        let seen = outcome.as_ref().map_or_else(|failure| format!("{failure:?}"), |answer| answer.status().to_string());
        self.note(format!("{who:?}: home comes {seen}"));
        if who == Who::Poller && outcome.as_ref().is_err_and(|failure| failure.may_have_arrived()) {
            self.unanswered += 1;
        }
        let handed = match who {
            Who::Poller => hand_in(&mut self.poller, ticket, outcome, self.now),
            Who::Job(id) => match self.actors.get_mut(&id) {
                Some(actor) => hand_in(&mut actor.job, ticket, outcome, self.now),
                None => Ok(()),
            },
        };
        match handed {
            Ok(()) | Err(Misuse::Stale) => Ok(()),
            Err(misuse) => Err(self.violation(format!("the world misused {who:?}: {misuse}"))),
        }
    }

    /// Polls every machine until all of them wait.
    fn settle(&mut self) -> Result<(), Violation> {
        self.settle_poller()?;
        for id in self.actors.keys().copied().collect::<Vec<_>>() {
            while self.poll_job(id)? {}
        }
        Ok(())
    }

    fn settle_poller(&mut self) -> Result<(), Violation> {
        let busy = self.actors.values().filter(|actor| !actor.done).count() as u32;
        self.poller.set_capacity(self.scenario.capacity.saturating_sub(busy));
        while !self.poller_done {
            match self.poller.poll(self.now) {
                Output::Send(call) => self.launch(Who::Poller, call)?,
                Output::Event(PollerEvent::Assigned(assignment)) => self.take_on(&assignment)?,
                Output::Event(PollerEvent::AssignmentUncertain { cause, .. }) => {
                    self.uncertain += 1;
                    self.note(format!("Poller: a job may be lost: {cause}"));
                }
                Output::Event(event) => self.told.push(format!("{event:?}")),
                Output::Wait(until) => {
                    self.poller_wakes = until;
                    return self.check_poller_rest(until);
                }
                Output::Done => {
                    (self.poller_done, self.poller_wakes) = (true, None);
                    return self.check_poller_done();
                }
            }
        }
        Ok(())
    }

    fn take_on(&mut self, assignment: &Assignment) -> Result<(), Violation> {
        let id = assignment.id();
        let root = std::iter::successors(Some(id), |id| self.coordinator.job(*id)?.retry_of()).last().unwrap_or(id);
        let Some(payload) = self.payloads.get(&root).cloned() else {
            return Err(self.violation(format!("job {id} was never queued")));
        };
        self.note(format!("Poller: job {id}"));
        let job = Job::new(self.config.clone(), assignment, self.now);
        let process = Process::start(payload, self.now);
        let reports = laws::Reports::default();
        let actor = Actor { job, process, wakes: None, done: false, disk: None, reports };
        self.actors.insert(id, actor);
        self.stories.insert(id, JobStory { id, events: Vec::new(), printed: 0, crashes: 0 });
        Ok(())
    }

    /// Polls one job once; false when it waits.
    fn poll_job(&mut self, id: u64) -> Result<bool, Violation> {
        let Some(actor) = self.actors.get_mut(&id).filter(|actor| !actor.done) else { return Ok(false) };
        let output = actor.job.poll(self.now);
        match output {
            Output::Send(call) => self.launch(Who::Job(id), call)?,
            Output::Event(event) => self.obey(id, event)?,
            Output::Wait(until) => {
                self.check_rest(id, until)?;
                return Ok(false);
            }
            Output::Done => {
                actor.done = true;
                (actor.wakes, actor.process.next) = (None, None);
                self.check_done(id)?;
                return Ok(false);
            }
        }
        if self.net.dice().per_mille(self.scenario.crash) {
            self.crash(id)?;
        }
        Ok(true)
    }

    fn obey(&mut self, id: u64, event: JobEvent) -> Result<(), Violation> {
        self.note(format!("Job {id}: {event:?}"));
        if let Some(story) = self.stories.get_mut(&id) {
            story.events.push(event.clone());
        }
        self.check_event(id, &event)?;
        let now = self.now;
        let Some(actor) = self.actors.get_mut(&id) else { return Ok(()) };
        match event {
            JobEvent::CancelRequested => {
                actor.process.stopping = true;
                actor.process.next = actor.process.next.map(|_| now.saturating_add(Duration::from_secs(1)));
            }
            JobEvent::TimedOut => {
                actor.process.next = None;
                actor.job.finish(JobResult::failed(FailureReason::JobExecutionTimeout));
            }
            JobEvent::Aborted(_) => actor.process.next = None,
            JobEvent::TraceNeeded(range) => {
                let bytes = &actor.process.payload.output[range.start as usize..range.end as usize];
                let supplied = actor.job.supply_trace(range.start, Bytes::copy_from_slice(bytes));
                supplied.map_err(|misuse| self.violation(format!("supply_trace: {misuse}")))?;
            }
            JobEvent::Save => self.save(id)?,
            _ => {}
        }
        Ok(())
    }

    /// Does what an application does on `Save`, and holds what it gets against what it knows.
    fn save(&mut self, id: u64) -> Result<(), Violation> {
        let Some(actor) = self.actors.get_mut(&id) else { return Ok(()) };
        let (offset, chunks) = actor.job.unsaved();
        let (bytes, size) = (chunks.concat(), actor.job.log_size());
        let printed = &actor.process.payload.output;
        let exact = printed.get(offset as usize..size as usize) == Some(&bytes[..]);
        let on_disk = actor.disk.as_ref().map_or(0, |(_, size)| *size);
        if !exact || offset > on_disk {
            return Err(self.violation_of(id, &format!("the unsaved bytes at {offset} are not those written")));
        }
        let snapshot = actor.job.snapshot();
        actor.job.saved(snapshot.revision(), size);
        actor.disk = Some((snapshot.to_json(), size));
        Ok(())
    }

    /// The runner's process dies and is started again: from its last save if it saves, else from a snapshot of the very
    /// moment. Tickets that were out die with it; what was sent may still arrive.
    fn crash(&mut self, id: u64) -> Result<(), Violation> {
        let Some(actor) = self.actors.get_mut(&id).filter(|actor| !actor.done) else { return Ok(()) };
        let stored = match (&actor.disk, self.scenario.durable) {
            (None, true) => None,
            (Some((snapshot, _)), true) => Some(snapshot.clone()),
            (_, false) => Some(actor.job.snapshot().to_json()),
        };
        let assignment = Assignment::from_json(actor.job.assignment().as_json().clone());
        let resumed = assignment.map_err(|error| error.to_string()).and_then(|assignment| match stored {
            None => Ok(Job::new(self.config.clone(), &assignment, self.now)),
            Some(json) => JobSnapshot::from_json(&json)
                .and_then(|snapshot| Job::resume(self.config.clone(), &assignment, snapshot, self.now))
                .map_err(|error| error.to_string()),
        });
        match resumed {
            Ok(job) => actor.job = job,
            Err(error) => return Err(self.violation_of(id, &format!("cannot be resumed: {error}"))),
        }
        // Whatever ended the process may have been forgotten: it ends again.
        actor.process.next = Some(self.now);
        self.flights.retain(|_, flight| flight.who != Who::Job(id));
        if let Some(story) = self.stories.get_mut(&id) {
            story.crashes += 1;
        }
        self.note(format!("Job {id}: crashed and resumed"));
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

    /// A violation with what concerns this job alone, from further back.
    fn violation_of(&self, job: u64, what: &str) -> Violation {
        let name = job.to_string();
        let timeline = self.timeline.iter().filter(|line| line.contains(&name)).cloned().collect();
        Violation { what: format!("job {job}: {what}"), timeline }
    }
}

impl Actor {
    /// Lets the process print, or end, if it is its time.
    fn live(&mut self, now: Timestamp) {
        if self.done || self.process.next.is_none_or(|next| next > now) {
            return;
        }
        if !self.process.stopping {
            let (from, to) = (self.job.log_size() as usize, self.process.printed(now) as usize);
            if to > from {
                self.job.write(Bytes::copy_from_slice(&self.process.payload.output[from..to]));
            }
        }
        if self.process.has_ended(now) {
            let stopped = JobResult::failed(FailureReason::ScriptFailure);
            self.job.finish(if self.process.stopping { stopped } else { self.process.payload.result.clone() });
            self.process.next = None;
        } else {
            self.process.next = Some(now.saturating_add(self.process.payload.tick));
        }
    }
}

fn hand_in<M: Machine>(
    machine: &mut M,
    ticket: Ticket,
    outcome: Result<Response<Bytes>, Failure>,
    now: Timestamp,
) -> Result<(), Misuse> {
    match outcome {
        Ok(response) => machine.handle_response(ticket, response, now),
        Err(failure) => machine.handle_failure(ticket, failure, now),
    }
}

/// The job a request is about.
fn job_of(request: &Request<Bytes>) -> Option<u64> {
    request.uri().path().split('/').find_map(|part| part.parse().ok())
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
