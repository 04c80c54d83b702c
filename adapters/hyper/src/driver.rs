//! The driver: one task for each runner, which polls the poller and all jobs, performs their calls, and sleeps in between.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use gitlab_runner_api::{Assignment, Call, Cause, Output, Poller, PollerEvent, RunnerConfig, RunnerToken, Timestamp};
use tokio::sync::oneshot;

use crate::driver_state::{DriverShared, RequestResult};
use crate::error::Error;
use crate::job::Job;
use crate::link::{Link, Reply};
use crate::lock;
use crate::shared::Shared;

/// What is needed to make the jobs and pollers of a runner.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) config: Arc<RunnerConfig>,
    pub(crate) token: RunnerToken,
    /// The first lines of each log.
    pub(crate) header: Option<String>,
    pub(crate) link: Link,
    pub(crate) patience: Duration,
}

impl Setup {
    fn job(&self, assignment: &Assignment) -> gitlab_runner_api::Job {
        let mut job = gitlab_runner_api::Job::new(self.config.clone(), assignment, self.link.clock.now());
        if let Some(header) = &self.header {
            job.write(header.clone());
        }
        job
    }

    fn poller(&self) -> Poller {
        Poller::new(self.config.clone(), self.token.clone(), self.link.clock.now())
    }
}

/// The key of the poller. The keys of jobs and of single requests are the numbers after it.
const POLLER: u64 = 0;

/// How long the driver sleeps if no state machine names a time. It is woken when there is something to do.
const LONGEST_SLEEP: Duration = Duration::from_secs(24 * 3600);

type Exchanging = Pin<Box<dyn Future<Output = (u64, Reply)> + Send>>;

/// The driver of a runner. It runs until the runner was dropped and all jobs are delivered.
pub(crate) struct Driver {
    shared: Arc<DriverShared>,
    setup: Setup,
    poller: Poller,
    drained: bool,
    /// No job is asked for before this time, because GitLab refused the token and callers got that as an error.
    refused_until: Timestamp,
    requests: BTreeMap<u64, SingleRequest>,
    jobs: BTreeMap<u64, Arc<Shared>>,
    last_key: u64,
    calls: FuturesUnordered<Exchanging>,
    /// The keys of the state machines to poll now.
    due: BTreeSet<u64>,
    /// The keys of the state machines to poll later, and when.
    timers: BTreeSet<(Timestamp, u64)>,
    armed: BTreeMap<u64, Timestamp>,
}

/// One job request, made for one caller of [`crate::Runner::request_job`].
struct SingleRequest {
    poller: Poller,
    caller: oneshot::Sender<RequestResult>,
    found: RequestResult,
}

impl Driver {
    pub(crate) fn new(shared: Arc<DriverShared>, setup: Setup) -> Self {
        Self {
            shared,
            poller: setup.poller(),
            setup,
            drained: false,
            refused_until: Timestamp::EPOCH,
            requests: BTreeMap::new(),
            jobs: BTreeMap::new(),
            last_key: POLLER,
            calls: FuturesUnordered::new(),
            due: BTreeSet::new(),
            timers: BTreeSet::new(),
            armed: BTreeMap::new(),
        }
    }

    pub(crate) async fn run(mut self) {
        let mut timer = pin!(tokio::time::sleep(LONGEST_SLEEP));
        let shared = self.shared.clone();
        loop {
            self.poll_due();
            if self.is_over() {
                return;
            }
            let pause = self
                .timers
                .first()
                .map_or(LONGEST_SLEEP, |(at, _)| self.setup.link.clock.until(*at).min(LONGEST_SLEEP));
            timer.as_mut().reset(tokio::time::Instant::now() + pause);
            tokio::select! {
                () = shared.wake_driver.notified() => {}
                Some((key, reply)) = self.calls.next(), if !self.calls.is_empty() => self.hand_in(key, reply),
                () = timer.as_mut() => self.fire_timers(),
            }
        }
    }

    fn is_over(&self) -> bool {
        self.drained && self.requests.is_empty() && self.jobs.is_empty()
    }

    /// Polls all state machines that are due, until none is.
    fn poll_due(&mut self) {
        loop {
            let requests = {
                let mut state = lock(&self.shared.state);
                self.due.append(&mut state.ready);
                std::mem::take(&mut state.requests)
            };
            for caller in requests {
                let mut poller = self.setup.poller();
                poller.set_capacity(1);
                let key = self.next_key();
                self.requests.insert(key, SingleRequest { poller, caller, found: Ok(None) });
                self.due.insert(key);
            }
            while let Some(key) = self.due.pop_first() {
                self.disarm(key);
                if key != POLLER {
                    self.poll_job(key);
                    self.poll_request(key);
                }
            }
            self.poll_poller();
            if self.due.is_empty() && lock(&self.shared.state).ready.is_empty() {
                break;
            }
        }
        let changed = {
            let mut state = lock(&self.shared.state);
            let asking = self.poller.is_asking();
            let changed = state.driven != self.jobs.len() || state.request_in_flight != asking;
            (state.driven, state.request_in_flight) = (self.jobs.len(), asking);
            changed
        };
        if changed {
            self.shared.changed.notify_waiters();
        }
    }

    fn poll_job(&mut self, key: u64) {
        let Some(shared) = self.jobs.get(&key).cloned() else { return };
        let output = shared.poll(&self.setup.link);
        shared.use_log_file();
        match output {
            Output::Send(call) => self.send(key, call),
            Output::Wait(until) => self.arm(key, until),
            Output::Done => _ = self.jobs.remove(&key),
            Output::Event(never) => match never {},
        }
    }

    fn poll_poller(&mut self) {
        loop {
            let output = {
                // Under the lock, so that a caller who stops waiting knows whether a job was still asked for.
                let mut state = lock(&self.shared.state);
                let arrived = u32::try_from(state.arrived.len()).unwrap_or(u32::MAX);
                self.poller.set_capacity(state.wanted.saturating_sub(arrived));
                if state.closing {
                    self.poller.drain();
                }
                if self.setup.link.clock.now() < self.refused_until && !state.closing {
                    Output::Wait(Some(self.refused_until))
                } else {
                    let output = self.setup.link.poll(&mut self.poller);
                    state.request_in_flight |= matches!(output, Output::Send(_));
                    output
                }
            };
            match output {
                Output::Send(call) => self.send(POLLER, call),
                Output::Event(event) => self.handle_event(event),
                Output::Wait(until) => return self.arm(POLLER, until),
                Output::Done => {
                    self.drained = true;
                    return;
                }
            }
        }
    }

    fn handle_event(&mut self, event: PollerEvent) {
        match event {
            PollerEvent::Assigned(assignment) => {
                let job = self.add_job(self.setup.job(&assignment));
                match self.setup.config.refuses(&assignment) {
                    // The job fails by itself, so no caller gets it.
                    true => job.release(),
                    false => self.queue_for_caller(job),
                }
            }
            event => {
                let refusal = match &event {
                    PollerEvent::Refused { refusal, unhealthy: true, .. } => Some(refusal.clone()),
                    _ => None,
                };
                let listener = lock(&self.shared.state).listener.clone();
                match (listener, refusal) {
                    (Some(listener), _) => _ = listener.send(event),
                    (None, Some(refusal)) => {
                        // The old poller knows how long to wait. A new one takes its place, because a poller reports only once that
                        // it is unhealthy, and the next caller must get the error too.
                        if let Output::Wait(Some(until)) = self.setup.link.poll(&mut self.poller) {
                            self.refused_until = until;
                        }
                        self.poller = self.setup.poller();
                        let mut state = lock(&self.shared.state);
                        state.refused = (state.refused.0.wrapping_add(1), Some(refusal));
                        drop(state);
                        self.shared.changed.notify_waiters();
                    }
                    (None, None) => {}
                }
            }
        }
    }

    fn poll_request(&mut self, key: u64) {
        let Some(mut request) = self.requests.remove(&key) else { return };
        loop {
            match self.setup.link.poll(&mut request.poller) {
                Output::Send(call) => {
                    // One request only: no other follows its answer.
                    request.poller.drain();
                    self.send(key, call);
                }
                Output::Event(PollerEvent::Assigned(assignment)) => {
                    let job = self.add_job(self.setup.job(&assignment));
                    match self.setup.config.refuses(&assignment) {
                        true => job.release(),
                        false => request.found = Ok(Some(job)),
                    }
                }
                // The first event is the cause of those that follow it.
                Output::Event(event) if matches!(request.found, Ok(None)) => {
                    request.found = error_for(event, &self.setup.link).map_or(Ok(None), Err);
                }
                Output::Event(_) => {}
                Output::Wait(until) => {
                    self.arm(key, until);
                    self.requests.insert(key, request);
                    return;
                }
                Output::Done => {
                    if let Err(Ok(Some(job))) = request.caller.send(request.found) {
                        // The caller went away.
                        self.queue_for_caller(job);
                    }
                    return;
                }
            }
        }
    }

    /// Keeps a job until the next caller asks for one.
    fn queue_for_caller(&self, job: Job) {
        let unwanted = {
            let mut state = lock(&self.shared.state);
            if state.closing {
                Some(job)
            } else {
                state.arrived.push_back(job);
                None
            }
        };
        // Nobody is left to run it. Dropping it fails it, which takes the lock.
        drop(unwanted);
        self.shared.changed.notify_waiters();
    }

    /// Begins to drive a job, and returns its handle.
    fn add_job(&mut self, job: gitlab_runner_api::Job) -> Job {
        let key = self.next_key();
        let assignment = job.assignment().clone();
        let shared = Shared::new(job, self.shared.waker(key), self.setup.link.clock);
        self.jobs.insert(key, shared.clone());
        self.due.insert(key);
        // Before a caller gets the job. Otherwise `Runner::delivered` could return although this job is not delivered.
        lock(&self.shared.state).driven = self.jobs.len();
        Job::new(shared, assignment, self.setup.link.clock, self.setup.patience)
    }

    fn send(&mut self, key: u64, call: Call) {
        let link = self.setup.link.clone();
        self.calls.push(Box::pin(async move { (key, link.exchange(call).await) }));
        self.due.insert(key);
    }

    fn hand_in(&mut self, key: u64, reply: Reply) {
        let now = self.setup.link.clock.now();
        // An error would mean that the ticket is another state machine's. Each has its own key. The poller of a refused token may be
        // a new one, but then the old one had no call in flight.
        if key == POLLER {
            _ = reply.hand_in(&mut self.poller, now);
        } else if let Some(shared) = self.jobs.get(&key) {
            shared.hand_in(reply, &self.setup.link);
        } else if let Some(request) = self.requests.get_mut(&key) {
            _ = reply.hand_in(&mut request.poller, now);
        }
        self.due.insert(key);
    }

    fn arm(&mut self, key: u64, at: Option<Timestamp>) {
        self.disarm(key);
        if let Some(at) = at {
            self.armed.insert(key, at);
            self.timers.insert((at, key));
        }
    }

    fn disarm(&mut self, key: u64) {
        if let Some(at) = self.armed.remove(&key) {
            self.timers.remove(&(at, key));
        }
    }

    /// Marks the state machines whose time has come as due.
    fn fire_timers(&mut self) {
        let now = self.setup.link.clock.now();
        while let Some((_, key)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.disarm(key);
            self.due.insert(key);
        }
    }

    fn next_key(&mut self) -> u64 {
        self.last_key += 1;
        self.last_key
    }
}

/// Returns the error that an event of the poller means for a caller of [`crate::Runner::request_job`].
fn error_for(event: PollerEvent, link: &Link) -> Option<Error> {
    match event {
        PollerEvent::Refused { refusal, .. } => Some(Error::refused(refusal)),
        PollerEvent::Misconfigured(refusal) => Some(Error::Refused(refusal)),
        PollerEvent::Unavailable { cause: Cause::Failure(_), .. } => {
            Some(Error::Unavailable(link.last_transport_error()))
        }
        PollerEvent::Unavailable { cause, .. } => Some(Error::Unavailable(cause.to_string())),
        PollerEvent::AssignmentUncertain { cause, .. } => Some(Error::AssignmentUncertain(cause.to_string())),
        _ => None,
    }
}
