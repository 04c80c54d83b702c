//! Asks for jobs: long poll, capacity, health, drain.

mod rules;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::USER_AGENT;
use http::{Response, StatusCode};

use crate::api::job_spec::Assignment;
use crate::api::request_job::RequestJob;
use crate::api::{CorrelationId, Endpoint};
use crate::backoff::{Backoff, Budget, Policy};
use crate::call::{CallKind, Owner, Scope, Scopes, Ticket, Wire, WrongMachine};
use crate::config::RunnerConfig;
use crate::error::ProtocolError;
use crate::headers::{self, TOLD_DELAY_CAP};
use crate::output::{Machine, Output, sealed::Sealed};
use crate::reply::{Cause, Failure, Received};
use crate::rng::Rng;
use crate::secret::RunnerToken;
use crate::time::{Steady, Timestamp};
use rules::Verdict;

pub use rules::Refusal;

/// After so many refusals in a row the token is taken for bad, as in the official runner.
const UNHEALTHY_AFTER: u32 = 3;

/// The first pause while the server is not there: well below a check interval, since most such trouble passes at once.
const UNAVAILABLE_BASE: Duration = Duration::from_millis(500);

/// Pauses while the token is refused, or while nothing behaves like GitLab: from a check interval to five minutes. Somebody has to
/// mend it, and should not have to wait an hour to see that it worked.
const REFUSED: Policy = Policy { base: Duration::from_secs(3), cap: Duration::from_secs(300) };

/// The first pause after losing a race for a job. It grows to the check interval.
const CONFLICT_BASE: Duration = Duration::from_millis(500);

/// After a recovery, new trouble is told no sooner than this after the last.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// What a [`Poller`] has to tell.
#[derive(Debug)]
#[non_exhaustive]
pub enum PollerEvent {
    /// A job, which is ours from now on. Save it first of all, then make a [`Job`](crate::Job) of it: until then a crash loses it.
    ///
    /// It takes one from the [capacity](Poller::set_capacity). A job that cannot be run, because its payload cannot be read, comes in
    /// the same way: its `Job` [fails by itself](crate::Job::new) when it is driven. Nobody else would tell GitLab.
    Assigned(Assignment),
    /// A job request was sent, and nobody knows what became of it: a job may have been handed out that nobody runs. This is told
    /// once per such request. There is nothing to do about it; GitLab's timeouts find the job. If the answer comes late after all and
    /// is a job, `Assigned` follows.
    #[non_exhaustive]
    AssignmentUncertain {
        /// What became of the answer.
        cause: Uncertainty,
    },
    /// The token was refused (403), or the runner is orphaned (422). Once when it starts, and once more when it was
    /// refused three times in a row: the runner is then unhealthy, and asks less and less often, down to every five
    /// minutes.
    #[non_exhaustive]
    Refused {
        /// What GitLab said.
        refusal: Refusal,
        /// Whether it is the third in a row.
        unhealthy: bool,
    },
    /// Something answers, but not as GitLab does. Polling goes on, slowly.
    ///
    /// Trouble of one kind is told once until GitLab answers properly again, and after that no sooner than 30 s after it was told
    /// before.
    Misconfigured(Refusal),
    /// The server is not there, or wants to be left alone for a while. Told as often as `Misconfigured`.
    #[non_exhaustive]
    Unavailable {
        /// What happened first.
        cause: Cause,
    },
    /// Three quarters of the token's life are over, see [`RunnerConfig::with_rotation_due`]. Once.
    ///
    /// Nothing is done about it: a token may be shared by several machines, and one whose new token gets lost is locked
    /// out. Reset it ([`crate::api::reset_token`]), persist the new token, and go on with a new poller.
    RotationDue,
    /// GitLab answers again, after `Refused`, `Misconfigured` or `Unavailable`.
    Recovered,
}

/// Why nobody knows whether a job was handed out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Uncertainty {
    /// No answer came.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// The answer says that something went wrong on the way, or at GitLab, at some point: 408, 500, 502 or 504.
    #[error("the server answered {0}")]
    Status(StatusCode),
    /// The answer is a job, but not even its id and token can be read.
    #[error(transparent)]
    Unreadable(#[from] ProtocolError),
}

/// Asks GitLab for jobs, one request at a time, while there is capacity.
///
/// A new poller has none: say [`Poller::set_capacity`] once a slot is held for the job that may come. Its events are in
/// [`PollerEvent`]; it goes on by itself after all of them, until [`Poller::drain`].
///
/// ```
/// use std::sync::Arc;
///
/// use gitlab_runner_api::api::info::Info;
/// use gitlab_runner_api::{Machine, Output, Poller, PollerEvent, RunnerConfig, RunnerToken, Server, Timestamp};
///
/// let config = RunnerConfig::new(Server::parse("https://gitlab.example.com")?, Info::new("my-runner", "1.0"));
/// let now = Timestamp::from_millis(1_750_000_000_000);
/// let mut poller = Poller::new(Arc::new(config), RunnerToken::new("glrt-0123456789")?, now);
/// assert!(matches!(poller.poll(now), Output::Wait(None)), "no room for a job");
///
/// poller.set_capacity(1);
/// let Output::Send(call) = poller.poll(now) else { panic!("it asks") };
/// let (request, ticket) = call.split();
/// assert_eq!(request.uri().path(), "/api/v4/jobs/request");
/// let answer = http::Response::builder().status(201).body(br#"{"id":7,"token":"glcbt-64_0123456789"}"#.to_vec())?;
/// poller.handle_response(ticket, answer, now)?;
/// let Output::Event(PollerEvent::Assigned(assignment)) = poller.poll(now) else { panic!("that was a job") };
/// assert_eq!((assignment.id(), poller.capacity()), (7, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a poller asks for nothing unless it is polled, and the answer to a request in flight may be a job"]
pub struct Poller {
    config: Arc<RunnerConfig>,
    request: RequestJob,
    wire: Wire<()>,
    clock: Steady,
    rng: Rng,
    capacity: u32,
    draining: bool,
    not_before: Timestamp,
    hold: Timestamp,
    budget: Budget,
    /// Failures in a row, of any kind: two kinds that take turns are no reason to ask more often.
    backoff: Backoff,
    refusals: u32,
    /// The trouble that the application was told of, and when.
    told: Option<Trouble>,
    told_at: Option<Timestamp>,
    events: VecDeque<PollerEvent>,
    /// Not told yet.
    rotation_due: Option<Timestamp>,
    /// `Done` was returned, and nothing else ever is from then on.
    done: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Refused,
    Misconfigured,
    Unavailable,
}

impl Poller {
    /// A poller for the runner with this token. It may ask at once, when it has capacity.
    pub fn new(config: Arc<RunnerConfig>, token: RunnerToken, now: Timestamp) -> Self {
        let owner = Owner::runner(&config.server, token.secret());
        let mut rng = Rng::new(config.jitter_seed, owner.number());
        rng.mix(config.streams.next());
        Self {
            request: RequestJob::new(token, &config),
            rng,
            rotation_due: config.rotation_due,
            config,
            wire: Wire::new(owner),
            clock: Steady::starting(now),
            capacity: 0,
            draining: false,
            not_before: Timestamp::EPOCH,
            hold: Timestamp::EPOCH,
            budget: Budget::default(),
            backoff: Backoff::default(),
            refusals: 0,
            told: None,
            told_at: None,
            events: VecDeque::new(),
            done: false,
        }
    }

    /// Says how many more jobs can be taken. Zero asks for none.
    ///
    /// A job that is handed out takes one away. Hold a slot *before* you announce it here, and keep it while
    /// [`Poller::is_asking`]: the answer to a request that is on the wire may be a job, whatever is said meanwhile.
    pub fn set_capacity(&mut self, jobs: u32) {
        self.capacity = jobs;
    }

    /// How many more jobs can be taken.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Whether a job request is on the wire, or its outcome not yet polled for.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        self.wire.intent().is_some() || !self.events.is_empty()
    }

    /// Asks no more. [`Output::Done`] follows when the answer to a request in flight has come, with what it may bring.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    fn wait(&mut self, delay: Duration, now: Timestamp) {
        self.not_before = now.saturating_add(delay);
    }

    fn answered(&mut self, response: &Response<Bytes>, now: Timestamp) {
        let told = headers::told_delay(response.headers(), now);
        match rules::verdict(&self.request, response) {
            Verdict::Job(assignment) => self.take_one(PollerEvent::Assigned(assignment)),
            Verdict::Lost(error) => {
                self.events.push_back(PollerEvent::AssignmentUncertain { cause: error.into() });
                self.pause(self.unavailable(), told, now);
            }
            Verdict::None => {
                self.healthy();
                // The check interval has passed since the last such answer, so that this request was due.
                self.budget.give_back();
                if let Some(value) = headers::last_update(response.headers()) {
                    self.request.set_last_update(value);
                }
                let jitter = self.rng.upper_half(self.config.check_interval / 10);
                self.wait(self.config.check_interval.saturating_add(jitter), now);
            }
            Verdict::Conflict => {
                self.recovered();
                let cap = self.config.check_interval;
                self.pause(Policy { base: CONFLICT_BASE.min(cap), cap }, told, now);
            }
            Verdict::Refused(refusal) => self.refused(refusal, told, now),
            Verdict::Misconfigured(refusal) => {
                self.refusals = 0;
                self.tell(Trouble::Misconfigured, now, || PollerEvent::Misconfigured(refusal));
                self.pause(REFUSED, told, now);
            }
            Verdict::Unavailable => self.unreachable(Cause::Status(response.status()), told, now),
            Verdict::Uncertain => {
                let status = response.status();
                self.events.push_back(PollerEvent::AssignmentUncertain { cause: Uncertainty::Status(status) });
                self.unreachable(Cause::Status(status), told, now);
            }
        }
    }

    fn failed(&mut self, failure: Failure, now: Timestamp) {
        if failure.may_have_arrived() {
            self.events.push_back(PollerEvent::AssignmentUncertain { cause: failure.into() });
        }
        self.unreachable(Cause::Failure(failure), None, now);
    }

    fn refused(&mut self, refusal: Refusal, told: Option<Duration>, now: Timestamp) {
        self.refusals = self.refusals.saturating_add(1);
        let unhealthy = self.refusals == UNHEALTHY_AFTER;
        if unhealthy {
            // It is told once in a row of refusals, whenever the last trouble was told.
            (self.told, self.told_at) = (None, None);
        }
        self.tell(Trouble::Refused, now, || PollerEvent::Refused { refusal, unhealthy });
        self.pause(REFUSED, told, now);
    }

    fn unreachable(&mut self, cause: Cause, told: Option<Duration>, now: Timestamp) {
        self.refusals = 0;
        self.tell(Trouble::Unavailable, now, || PollerEvent::Unavailable { cause });
        self.pause(self.unavailable(), told, now);
    }

    /// Pauses while the server is not there.
    fn unavailable(&self) -> Policy {
        Policy { base: UNAVAILABLE_BASE, cap: self.config.retry_cap }
    }

    fn take_one(&mut self, event: PollerEvent) {
        self.healthy();
        self.budget.give_back();
        self.capacity = self.capacity.saturating_sub(1);
        self.not_before = Timestamp::EPOCH;
        self.events.push_back(event);
    }

    /// GitLab has answered as it should.
    fn healthy(&mut self) {
        self.backoff.succeeded();
        self.recovered();
    }

    fn recovered(&mut self) {
        self.refusals = 0;
        if self.told.take().is_some() {
            self.events.push_back(PollerEvent::Recovered);
        }
    }

    /// Tells of trouble, unless the application knows of it, or was told of the last trouble a moment ago.
    fn tell(&mut self, trouble: Trouble, now: Timestamp, event: impl FnOnce() -> PollerEvent) {
        let recent = self.told_at.is_some_and(|told_at| now < told_at.saturating_add(TELL_AGAIN));
        if self.told == Some(trouble) || recent {
            return;
        }
        (self.told, self.told_at) = (Some(trouble), Some(now));
        // An event about trouble costs as much as a call, so that both together stay within the budget.
        self.budget.spend(now);
        self.events.push_back(event());
    }

    fn pause(&mut self, policy: Policy, told: Option<Duration>, now: Timestamp) {
        let delay = self.backoff.failed(policy, told, &mut self.rng);
        self.wait(delay, now);
    }

    /// When the next request may be sent.
    fn open_at(&self) -> Timestamp {
        self.not_before.max(self.hold).max(self.budget.open_at())
    }
}

impl Sealed for Poller {}

impl Machine for Poller {
    type Event = PollerEvent;

    fn poll(&mut self, now: Timestamp) -> Output<PollerEvent> {
        let now = self.clock.advance(now);
        if self.done {
            return Output::Done;
        }
        if self.wire.take_overdue(now).is_some() {
            self.failed(Failure::TimedOut, now);
        }
        if let Some(event) = self.events.pop_front() {
            return Output::Event(event);
        }
        if self.rotation_due.take_if(|due| *due <= now).is_some() {
            return Output::Event(PollerEvent::RotationDue);
        }
        let until = |time: Option<Timestamp>| Output::Wait(time.into_iter().chain(self.rotation_due).min());
        if let Some(overdue_at) = self.wire.overdue_at() {
            return until(Some(overdue_at));
        }
        if self.draining {
            self.done = true;
            return Output::Done;
        }
        if self.capacity == 0 {
            return until(None);
        }
        if now < self.open_at() {
            return until(Some(self.open_at()));
        }
        self.budget.spend(now);
        let mut request = self.request.request(&self.config.server, CorrelationId::draw(&mut self.rng));
        request.headers_mut().insert(USER_AGENT, self.config.user_agent.clone());
        Output::Send(self.wire.send((), request, self.request.hints(), now))
    }

    fn handle_received(
        &mut self,
        ticket: Ticket,
        response: Response<Received>,
        now: Timestamp,
    ) -> Result<(), WrongMachine> {
        let (open, response) = self.wire.take(ticket, response)?;
        let now = self.clock.advance(now);
        let response = response.map(Received::into_bytes);
        // The request was given up, and that a job may be lost was told. But if it is a job it is ours, and it is not lost.
        if open.is_some() || (response.status() == StatusCode::CREATED && !self.done) {
            self.answered(&response, now);
        }
        Ok(())
    }

    fn handle_failure(&mut self, ticket: Ticket, failure: Failure, now: Timestamp) -> Result<(), WrongMachine> {
        if let (Some(()), failure) = self.wire.take(ticket, failure)? {
            let now = self.clock.advance(now);
            self.failed(failure, now);
        }
        Ok(())
    }

    fn hold_until(&mut self, _scope: Scope, until: Timestamp) {
        self.hold = self.clock.at_most(until, TOLD_DELAY_CAP);
    }

    fn scopes(&self) -> Scopes {
        Scopes::new(self.wire.owner(), CallKind::RequestJob, None)
    }
}
