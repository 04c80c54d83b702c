//! Asks for jobs: long poll, capacity, health, drain.

mod rules;

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;

use crate::api::job_spec::Assignment;
use crate::api::request_job::RequestJob;
use crate::api::{CorrelationId, Endpoint};
use crate::backoff::{Backoff, Policy};
use crate::call::{CallKind, Owner, Scope, Ticket, Wire};
use crate::config::RunnerConfig;
use crate::error::{Misuse, ProtocolError};
use crate::headers::{self, TOLD_DELAY_CAP};
use crate::job::Job;
use crate::output::{Machine, Output, sealed::Sealed};
use crate::reply::{Cause, Failure, Received};
use crate::rng::Rng;
use crate::secret::RunnerToken;
use crate::time::{Steady, Timestamp};
use rules::Verdict;

pub use rules::Refusal;

/// After so many refusals in a row the token is taken for bad, and asked with less and less often.
const UNHEALTHY_AFTER: u32 = 3;

/// Pauses while the server is not there: not below a check interval for long, and never more than a minute.
const UNAVAILABLE: Policy = Policy { base: Duration::from_millis(500), cap: Duration::from_secs(60) };

/// Pauses while the token is refused or nothing behaves like GitLab: never an hour of silence.
const REFUSED: Policy = Policy { base: Duration::from_secs(3), cap: Duration::from_secs(300) };

/// Pauses after losing a race for a job.
const CONFLICT: Duration = Duration::from_millis(500);

/// What a [`Poller`] has to tell.
#[derive(Debug)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "moved once, to its handler")]
pub enum PollerEvent {
    /// A job, which is ours from now on. Save it first of all, then make a [`Job`] of it: until then a crash loses it.
    ///
    /// It takes one from the [capacity](Poller::set_capacity).
    Assigned(Assignment),
    /// A job whose payload cannot be read. This machine tells GitLab so, and its user in the log: drive it like any
    /// other, to its end. There is nothing to run. It takes one from the [capacity](Poller::set_capacity).
    Unreadable(Job),
    /// A job request was sent and its answer did not come home: a job may have been handed out that nobody runs. Once
    /// per such request. There is nothing to do about it; GitLab's timeouts find the job.
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
    /// Something answers, but not as GitLab does. Once until it answers properly again. Polling goes on, slowly.
    Misconfigured(Refusal),
    /// The server is not there, or wants to be left alone for a while. Once until it answers again.
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
    /// No answer came home.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// The answer is a job, but not even its id and token can be read.
    #[error(transparent)]
    Unreadable(#[from] ProtocolError),
}

/// Asks GitLab for jobs, one request at a time, while there is capacity.
///
/// A new poller has none: say [`Poller::set_capacity`] once a slot is held for the job that may come. Its events are in
/// [`PollerEvent`]; it goes on by itself after all of them, until [`Poller::drain`].
#[derive(Debug)]
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
    trouble: Option<Trouble>,
    backoff: Backoff,
    events: VecDeque<PollerEvent>,
    /// Not told yet.
    rotation_due: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Refused,
    Misconfigured,
    Unavailable,
}

impl Poller {
    /// A poller for the runner with this token. It may ask at once, when it has capacity.
    #[must_use]
    pub fn new(config: Arc<RunnerConfig>, token: RunnerToken, now: Timestamp) -> Self {
        let mut hasher = DefaultHasher::new();
        token.expose().hash(&mut hasher);
        let owner = hasher.finish();
        Self {
            request: RequestJob::new(token, &config),
            rng: Rng::new(config.jitter_seed, owner),
            rotation_due: config.rotation_due,
            config,
            wire: Wire::new(Owner::Runner(owner), 0),
            clock: Steady::starting(now),
            capacity: 0,
            draining: false,
            not_before: Timestamp::EPOCH,
            hold: Timestamp::EPOCH,
            trouble: None,
            backoff: Backoff::default(),
            events: VecDeque::new(),
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

    /// Asks no more. [`Output::Done`] follows when a request on the wire came home, with what it may bring.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    fn wait(&mut self, delay: Duration, now: Timestamp) {
        self.not_before = now.saturating_add(delay);
    }

    fn answered(&mut self, response: &Response<Bytes>, now: Timestamp) {
        let verdict = rules::verdict(&self.request, response);
        let told = headers::told_delay(response.headers(), now);
        match verdict {
            Verdict::Job(assignment) => {
                self.healthy();
                self.take_one(PollerEvent::Assigned(assignment));
            }
            Verdict::Unreadable(assignment, error) => {
                self.healthy();
                let job = Job::unreadable(self.config.clone(), &assignment, &error, now);
                self.take_one(PollerEvent::Unreadable(job));
            }
            Verdict::Lost(error) => {
                self.events.push_back(PollerEvent::AssignmentUncertain { cause: error.into() });
                self.pause(UNAVAILABLE, told, now);
            }
            Verdict::None => {
                self.healthy();
                if let Some(value) = headers::last_update(response.headers()) {
                    self.request.set_last_update(value);
                }
                let delay = self.config.check_interval + self.rng.upper_half(self.config.check_interval / 10);
                self.wait(delay, now);
            }
            Verdict::Conflict => {
                self.healthy();
                let delay = self.rng.upper_half(CONFLICT);
                self.wait(delay, now);
            }
            Verdict::Refused(refusal) => {
                let first = self.enter(Trouble::Refused);
                self.pause(REFUSED, told, now);
                let unhealthy = self.backoff.failures() == UNHEALTHY_AFTER;
                if first || unhealthy {
                    self.events.push_back(PollerEvent::Refused { refusal, unhealthy });
                }
            }
            Verdict::Misconfigured(refusal) => {
                if self.enter(Trouble::Misconfigured) {
                    self.events.push_back(PollerEvent::Misconfigured(refusal));
                }
                self.pause(REFUSED, told, now);
            }
            Verdict::Unavailable => self.unavailable(Cause::Status(response.status()), told, now),
        }
    }

    fn failed(&mut self, failure: Failure, now: Timestamp) {
        if failure.may_have_arrived() {
            self.events.push_back(PollerEvent::AssignmentUncertain { cause: failure.into() });
        }
        self.unavailable(Cause::Failure(failure), None, now);
    }

    fn unavailable(&mut self, cause: Cause, told: Option<Duration>, now: Timestamp) {
        if self.enter(Trouble::Unavailable) {
            self.events.push_back(PollerEvent::Unavailable { cause });
        }
        self.pause(UNAVAILABLE, told, now);
    }

    fn take_one(&mut self, event: PollerEvent) {
        self.capacity = self.capacity.saturating_sub(1);
        self.not_before = Timestamp::EPOCH;
        self.events.push_back(event);
    }

    fn healthy(&mut self) {
        self.backoff.succeeded();
        if self.trouble.take().is_some() {
            self.events.push_back(PollerEvent::Recovered);
        }
    }

    /// Notes what kind of trouble there is; true if it is new.
    fn enter(&mut self, trouble: Trouble) -> bool {
        let new = self.trouble != Some(trouble);
        if new {
            self.trouble = Some(trouble);
            self.backoff.succeeded();
        }
        new
    }

    fn pause(&mut self, policy: Policy, told: Option<Duration>, now: Timestamp) {
        let delay = self.backoff.failed(policy, told, &mut self.rng);
        self.wait(delay, now);
    }
}

impl Sealed for Poller {}

impl Machine for Poller {
    type Event = PollerEvent;

    fn poll(&mut self, now: Timestamp) -> Output<PollerEvent> {
        let now = self.clock.advance(now);
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
            return Output::Done;
        }
        if self.capacity == 0 {
            return until(None);
        }
        let not_before = self.not_before.max(self.hold);
        if now < not_before {
            return until(Some(not_before));
        }
        let mut request = self.request.request(&self.config.server, CorrelationId::draw(&mut self.rng));
        request.headers_mut().insert(http::header::USER_AGENT, self.config.user_agent.clone());
        Output::Send(self.wire.send((), request, self.request.hints(), now))
    }

    fn handle_response(
        &mut self,
        ticket: Ticket,
        response: Response<impl Into<Received>>,
        now: Timestamp,
    ) -> Result<(), Misuse> {
        self.wire.take(&ticket)?;
        let now = self.clock.advance(now);
        self.answered(&response.map(|body| body.into().into_bytes()), now);
        Ok(())
    }

    fn handle_failure(&mut self, ticket: Ticket, failure: Failure, now: Timestamp) -> Result<(), Misuse> {
        self.wire.take(&ticket)?;
        let now = self.clock.advance(now);
        self.failed(failure, now);
        Ok(())
    }

    fn hold_until(&mut self, until: Timestamp) {
        self.hold = self.clock.at_most(until, TOLD_DELAY_CAP);
    }

    fn scope(&self) -> Scope {
        Scope { owner: self.wire.owner(), kind: CallKind::RequestJob }
    }
}
