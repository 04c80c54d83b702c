//! One call, repeated until there is an answer or no use in trying.

use std::time::Duration;

use bytes::Bytes;
use http::header::USER_AGENT;
use http::{HeaderValue, Response, StatusCode};

use crate::api::{CorrelationId, Endpoint};
use crate::backoff::{Backoff, Policy};
use crate::call::{Owner, Replay, Scope, Scopes, Ticket, Wire, WrongMachine};
use crate::config::{RunnerConfig, Server};
use crate::error::CallError;
use crate::headers::{self, TOLD_DELAY_CAP};
use crate::output::{Machine, Output, sealed::Sealed};
use crate::reply::{Cause, Failure, Received};
use crate::rng::Rng;
use crate::time::{Steady, Timestamp};

/// How often a call is tried before the last trouble is reported. A person waits at a terminal.
const ATTEMPTS: u32 = 5;

/// Carries one endpoint's call through retries, for calls that a person waits for: register, verify.
///
/// It gives one event, the result, and is then [`Output::Done`]. Answers that ask to try again (408, 429, and 5xx but for 501) and
/// calls that failed in transport are retried, five times in all, with growing pauses or those the server asks for. A call that must
/// not be repeated ([`Replay::Never`]) is retried only if it certainly never left, or was refused before it was looked at (429, 503).
///
/// ```
/// use gitlab_runner_api::api::{info::Info, verify::Verify};
/// use gitlab_runner_api::{Exchange, Machine, Output, RunnerConfig, RunnerToken, Server, Timestamp};
///
/// let config = RunnerConfig::new(Server::parse("https://gitlab.example.com")?, Info::new("my-runner", "1.0"));
/// let call = Verify::new(RunnerToken::new("glrt-0123456789")?, config.info());
/// let now = Timestamp::from_millis(1_750_000_000_000);
/// let mut exchange = Exchange::new(&config, call, now);
///
/// let Output::Send(call) = exchange.poll(now) else { panic!("it has nothing else to do") };
/// let (_request, ticket) = call.split();
/// let answer = http::Response::builder().status(200).body(br#"{"id":12}"#.to_vec())?;
/// exchange.handle_response(ticket, answer, now)?;
/// let Output::Event(verified) = exchange.poll(now) else { panic!("that was an answer") };
/// assert_eq!(verified?.id, Some(12));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "an exchange sends nothing unless it is polled"]
pub struct Exchange<E: Endpoint> {
    endpoint: E,
    server: Server,
    user_agent: HeaderValue,
    retry_cap: Duration,
    wire: Wire<()>,
    clock: Steady,
    rng: Rng,
    backoff: Backoff,
    not_before: Timestamp,
    hold: Timestamp,
    /// An earlier attempt may have arrived.
    repeated: bool,
    result: Option<Result<E::Response, ExchangeError>>,
    done: bool,
}

/// Why an [`Exchange`] has no answer to give.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// There was an answer, and it is no.
    #[error(transparent)]
    Call(#[from] CallError),
    /// There was an answer, and its body is larger than [`crate::Hints::response`] allows. It would be as large a second time.
    #[error("the answer is larger than allowed")]
    TooLarge,
    /// No answer came, in all attempts. Nothing was changed on the server, or repeating the call is harmless.
    #[error("GitLab cannot be reached: {0}")]
    Unreachable(Failure),
    /// No answer came to a call that must not be repeated, or one that leaves open whether GitLab has carried it out: 408, 500, 502
    /// or 504.
    #[error("it is not known whether GitLab carried this out: {0}; look before you repeat it")]
    Uncertain(Cause),
}

impl<E: Endpoint> Exchange<E> {
    /// Starts a call to the server of this configuration.
    pub fn new(config: &RunnerConfig, endpoint: E, now: Timestamp) -> Self {
        let mut rng = Rng::new(config.jitter_seed, endpoint.hints().kind as u64);
        rng.mix(config.streams.next());
        let owner = Owner::Exchange { number: rng.next_u64() };
        Self {
            endpoint,
            server: config.server.clone(),
            user_agent: config.user_agent.clone(),
            retry_cap: config.retry_cap,
            wire: Wire::new(owner),
            clock: Steady::starting(now),
            rng,
            backoff: Backoff::default(),
            not_before: Timestamp::EPOCH,
            hold: Timestamp::EPOCH,
            repeated: false,
            result: None,
            done: false,
        }
    }

    fn failed(&mut self, failure: Failure, now: Timestamp) {
        self.repeated |= failure.may_have_arrived();
        let repeatable = self.endpoint.hints().replay == Replay::Safe || !failure.may_have_arrived();
        if !repeatable {
            self.result = Some(Err(ExchangeError::Uncertain(Cause::Failure(failure))));
        } else if failure == Failure::TooLarge {
            self.result = Some(Err(ExchangeError::TooLarge));
        } else if !self.again(None, now) {
            self.result = Some(Err(ExchangeError::Unreachable(failure)));
        }
    }

    /// Arms the next attempt, if there is one left.
    fn again(&mut self, told: Option<Duration>, now: Timestamp) -> bool {
        let wait = self.backoff.failed(Policy { cap: self.retry_cap, ..Policy::CALL }, told, &mut self.rng);
        self.not_before = now.saturating_add(wait);
        self.backoff.failures() < ATTEMPTS
    }

    fn answered(&mut self, response: &Response<Bytes>, now: Timestamp) {
        let status = response.status();
        let carried_out = headers::may_have_been_carried_out(status);
        if carried_out && self.endpoint.hints().replay == Replay::Never {
            self.result = Some(Err(ExchangeError::Uncertain(Cause::Status(status))));
            return;
        }
        // 501 is no trouble that passes: the server does not have what was asked for.
        let passes = carried_out || status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
        let refused_unseen = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let repeatable = refused_unseen || self.endpoint.hints().replay == Replay::Safe;
        if passes
            && repeatable
            && status != StatusCode::NOT_IMPLEMENTED
            && self.again(headers::told_delay(response.headers(), now), now)
        {
            // A gateway that gave up has passed the call on before.
            self.repeated |= !refused_unseen;
            return;
        }
        let decoded =
            if self.repeated { self.endpoint.decode_repeated(response) } else { self.endpoint.decode(response) };
        self.result = Some(decoded.map_err(ExchangeError::Call));
    }
}

impl<E: Endpoint> Sealed for Exchange<E> {}

impl<E: Endpoint> Machine for Exchange<E> {
    type Event = Result<E::Response, ExchangeError>;

    fn poll(&mut self, now: Timestamp) -> Output<Self::Event> {
        let now = self.clock.advance(now);
        if self.wire.take_overdue(now).is_some() {
            self.failed(Failure::TimedOut, now);
        }
        if let Some(result) = self.result.take() {
            self.done = true;
            return Output::Event(result);
        }
        if self.done {
            return Output::Done;
        }
        if let Some(overdue_at) = self.wire.overdue_at() {
            return Output::Wait(Some(overdue_at));
        }
        let not_before = self.not_before.max(self.hold);
        if now < not_before {
            return Output::Wait(Some(not_before));
        }
        let mut request = self.endpoint.request(&self.server, CorrelationId::draw(&mut self.rng));
        request.headers_mut().insert(USER_AGENT, self.user_agent.clone());
        Output::Send(self.wire.send((), request, self.endpoint.hints(), now))
    }

    fn handle_received(
        &mut self,
        ticket: Ticket,
        response: Response<Received>,
        now: Timestamp,
    ) -> Result<(), WrongMachine> {
        if let (Some(()), response) = self.wire.take(ticket, response)? {
            let now = self.clock.advance(now);
            self.answered(&response.map(Received::into_bytes), now);
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
        Scopes::new(self.wire.owner(), self.endpoint.hints().kind, None)
    }
}
