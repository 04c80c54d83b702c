//! One task for each runner: it polls all machines, performs their calls, and sleeps in between.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use gitlab_runner_api::{Assignment, Call, Cause, Output, Poller, PollerEvent, RunnerConfig, RunnerToken, Timestamp};
use tokio::sync::oneshot;

use crate::error::Error;
use crate::hub::{Asked, Hub};
use crate::job::Job;
use crate::link::{Link, Reply};
use crate::lock;
use crate::shared::Shared;

/// What jobs and pollers are made of.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) config: Arc<RunnerConfig>,
    pub(crate) token: RunnerToken,
    /// What each log starts with.
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

/// The poller's key; all others count up from it.
const POLLER: u64 = 0;

/// How long to sleep when no time is known; the bell ends it.
const AGES: Duration = Duration::from_secs(24 * 3600);

type Exchanging = Pin<Box<dyn Future<Output = (u64, Reply)> + Send>>;

/// It lives until the runner is gone and all jobs are delivered.
pub(crate) struct Driver {
    hub: Arc<Hub>,
    setup: Setup,
    poller: Poller,
    drained: bool,
    /// After a refusal that callers were told of, GitLab is left alone until then.
    refused_until: Timestamp,
    asks: BTreeMap<u64, Ask>,
    jobs: BTreeMap<u64, Arc<Shared>>,
    last_key: u64,
    calls: FuturesUnordered<Exchanging>,
    /// Who is to be polled now.
    due: BTreeSet<u64>,
    /// Who is to be polled later.
    timers: BTreeSet<(Timestamp, u64)>,
    armed: BTreeMap<u64, Timestamp>,
}

/// One request for a job, made for one caller.
struct Ask {
    poller: Poller,
    caller: oneshot::Sender<Asked>,
    found: Asked,
}

impl Driver {
    pub(crate) fn new(hub: Arc<Hub>, setup: Setup) -> Self {
        Self {
            hub,
            poller: setup.poller(),
            setup,
            drained: false,
            refused_until: Timestamp::EPOCH,
            asks: BTreeMap::new(),
            jobs: BTreeMap::new(),
            last_key: POLLER,
            calls: FuturesUnordered::new(),
            due: BTreeSet::new(),
            timers: BTreeSet::new(),
            armed: BTreeMap::new(),
        }
    }

    pub(crate) async fn run(mut self) {
        let mut timer = pin!(tokio::time::sleep(AGES));
        let hub = self.hub.clone();
        loop {
            self.turn();
            if self.is_over() {
                return;
            }
            let pause = self.timers.first().map_or(AGES, |(at, _)| self.setup.link.clock.until(*at).min(AGES));
            timer.as_mut().reset(tokio::time::Instant::now() + pause);
            tokio::select! {
                () = hub.bell.notified() => {}
                Some((key, reply)) = self.calls.next(), if !self.calls.is_empty() => self.hand_in(key, reply),
                () = timer.as_mut() => self.ring(),
            }
        }
    }

    fn is_over(&self) -> bool {
        self.drained && self.asks.is_empty() && self.jobs.is_empty()
    }

    /// Polls everything that is due, until nothing is.
    fn turn(&mut self) {
        loop {
            let asks = {
                let mut desk = lock(&self.hub.desk);
                self.due.append(&mut desk.ready);
                std::mem::take(&mut desk.asks)
            };
            for caller in asks {
                let mut poller = self.setup.poller();
                poller.set_capacity(1);
                let key = self.next_key();
                self.asks.insert(key, Ask { poller, caller, found: Ok(None) });
                self.due.insert(key);
            }
            while let Some(key) = self.due.pop_first() {
                self.disarm(key);
                if key != POLLER {
                    self.poll_job(key);
                    self.poll_ask(key);
                }
            }
            self.poll_poller();
            if self.due.is_empty() && lock(&self.hub.desk).ready.is_empty() {
                break;
            }
        }
        let changed = {
            let mut desk = lock(&self.hub.desk);
            let asking = self.poller.is_asking();
            let changed = desk.driven != self.jobs.len() || desk.asking != asking;
            (desk.driven, desk.asking) = (self.jobs.len(), asking);
            changed
        };
        if changed {
            self.hub.news.notify_waiters();
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
                // Under the lock, so that whoever withdraws a wish knows whether it was still asked for.
                let mut desk = lock(&self.hub.desk);
                let arrived = u32::try_from(desk.arrived.len()).unwrap_or(u32::MAX);
                self.poller.set_capacity(desk.wanted.saturating_sub(arrived));
                if desk.closing {
                    self.poller.drain();
                }
                if self.setup.link.clock.now() < self.refused_until && !desk.closing {
                    Output::Wait(Some(self.refused_until))
                } else {
                    let output = self.setup.link.poll(&mut self.poller);
                    desk.asking |= matches!(output, Output::Send(_));
                    output
                }
            };
            match output {
                Output::Send(call) => self.send(POLLER, call),
                Output::Event(event) => self.obey(event),
                Output::Wait(until) => return self.arm(POLLER, until),
                Output::Done => {
                    self.drained = true;
                    return;
                }
            }
        }
    }

    fn obey(&mut self, event: PollerEvent) {
        match event {
            PollerEvent::Assigned(assignment) => {
                let job = self.hold(self.setup.job(&assignment));
                match self.setup.config.refuses(&assignment) {
                    // It fails by itself; nobody is to run it.
                    true => job.forsake(),
                    false => self.keep(job),
                }
            }
            event => {
                let refusal = match &event {
                    PollerEvent::Refused { refusal, unhealthy: true, .. } => Some(refusal.clone()),
                    _ => None,
                };
                let listener = lock(&self.hub.desk).listener.clone();
                match (listener, refusal) {
                    (Some(listener), _) => _ = listener.send(event),
                    (None, Some(refusal)) => {
                        // A new poller tells of the next refusals again; this one knows how long to wait before.
                        if let Output::Wait(Some(until)) = self.setup.link.poll(&mut self.poller) {
                            self.refused_until = until;
                        }
                        self.poller = self.setup.poller();
                        let mut desk = lock(&self.hub.desk);
                        desk.refused = (desk.refused.0.wrapping_add(1), Some(refusal));
                        drop(desk);
                        self.hub.news.notify_waiters();
                    }
                    (None, None) => {}
                }
            }
        }
    }

    fn poll_ask(&mut self, key: u64) {
        let Some(mut ask) = self.asks.remove(&key) else { return };
        loop {
            match self.setup.link.poll(&mut ask.poller) {
                Output::Send(call) => {
                    // Its answer is awaited, and nothing asked after it.
                    ask.poller.drain();
                    self.send(key, call);
                }
                Output::Event(PollerEvent::Assigned(assignment)) => {
                    let job = self.hold(self.setup.job(&assignment));
                    match self.setup.config.refuses(&assignment) {
                        true => job.forsake(),
                        false => ask.found = Ok(Some(job)),
                    }
                }
                // What was said first is the cause of what was said next.
                Output::Event(event) if matches!(ask.found, Ok(None)) => {
                    ask.found = meaning(event, &self.setup.link).map_or(Ok(None), Err);
                }
                Output::Event(_) => {}
                Output::Wait(until) => {
                    self.arm(key, until);
                    self.asks.insert(key, ask);
                    return;
                }
                Output::Done => {
                    if let Err(Ok(Some(job))) = ask.caller.send(ask.found) {
                        // The caller went away.
                        self.keep(job);
                    }
                    return;
                }
            }
        }
    }

    /// Keeps a job for the next caller.
    fn keep(&self, job: Job) {
        let nobodys = {
            let mut desk = lock(&self.hub.desk);
            if desk.closing {
                Some(job)
            } else {
                desk.arrived.push_back(job);
                None
            }
        };
        // Nobody is left to run it: its drop, which needs the lock, fails it.
        drop(nobodys);
        self.hub.news.notify_waiters();
    }

    /// Takes a job into care.
    fn hold(&mut self, job: gitlab_runner_api::Job) -> Job {
        let key = self.next_key();
        let assignment = job.assignment().clone();
        let shared = Shared::new(job, self.hub.waker(key), self.setup.link.clock);
        self.jobs.insert(key, shared.clone());
        self.due.insert(key);
        // Before anybody can have the job, so that nobody believes all are delivered.
        lock(&self.hub.desk).driven = self.jobs.len();
        Job::new(shared, assignment, self.setup.link.clock, self.setup.patience)
    }

    fn send(&mut self, key: u64, call: Call) {
        let link = self.setup.link.clone();
        self.calls.push(Box::pin(async move { (key, link.exchange(call).await) }));
        self.due.insert(key);
    }

    fn hand_in(&mut self, key: u64, reply: Reply) {
        let now = self.setup.link.clock.now();
        // No misuse but a stale ticket is possible: each machine has a key of its own. The poller of a refused token may
        // be a new one, but then the old one had nothing on the wire.
        if key == POLLER {
            _ = reply.hand_in(&mut self.poller, now);
        } else if let Some(shared) = self.jobs.get(&key) {
            shared.hand_in(reply, &self.setup.link);
        } else if let Some(ask) = self.asks.get_mut(&key) {
            _ = reply.hand_in(&mut ask.poller, now);
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

    /// Notes whose time has come.
    fn ring(&mut self) {
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

/// What a poller's word means to a caller who asked once.
fn meaning(event: PollerEvent, link: &Link) -> Option<Error> {
    match event {
        PollerEvent::Refused { refusal, .. } => Some(Error::refused(refusal)),
        PollerEvent::Misconfigured(refusal) => Some(Error::Refused(refusal)),
        PollerEvent::Unavailable { cause: Cause::Failure(_), .. } => Some(Error::Unavailable(link.trouble())),
        PollerEvent::Unavailable { cause, .. } => Some(Error::Unavailable(cause.to_string())),
        PollerEvent::AssignmentUncertain { cause, .. } => Some(Error::AssignmentUncertain(cause.to_string())),
        _ => None,
    }
}
