//! What every machine of a runner needs for its calls.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use gitlab_runner_api::{Call, Failure, Machine, Output, Throttle, Ticket, Timestamp, WrongMachine};
use http::Response;

use crate::clock::Clock;
use crate::lock;
use crate::transport::Transport;

/// The transport, the clock, and what was heard of rate limits.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    transport: Transport,
    pub(crate) clock: Clock,
    throttle: Arc<Mutex<Throttle>>,
    /// Why the last failed call failed, in words.
    last_error: Arc<Mutex<String>>,
}

impl Link {
    pub(crate) fn new(transport: Transport) -> Self {
        Self { transport, clock: Clock::start(), throttle: Arc::default(), last_error: Arc::default() }
    }

    /// Polls a state machine, after applying the rate limits that others were told.
    pub(crate) fn poll<M: Machine>(&self, machine: &mut M) -> Output<M::Event> {
        lock(&self.throttle).hold(machine);
        machine.poll(self.clock.now())
    }

    /// Why the last failed call failed, in words.
    pub(crate) fn last_transport_error(&self) -> String {
        lock(&self.last_error).clone()
    }

    /// Sleeps until then; not at all if no time is given.
    pub(crate) async fn pause(&self, until: Option<Timestamp>) {
        if let Some(until) = until {
            tokio::time::sleep(self.clock.until(until)).await;
        }
    }

    /// Performs a call. No lock may be held.
    pub(crate) async fn exchange(&self, call: Call) -> Reply {
        let (ticket, outcome) = self.transport.perform(call).await;
        let outcome = match outcome {
            Ok(answer) => {
                let (now, scope) = (self.clock.now(), ticket.scope());
                lock(&self.throttle).observe(scope, answer.status(), answer.headers(), answer.body(), now);
                Ok(answer)
            }
            Err(trouble) => {
                *lock(&self.last_error) = trouble.why;
                Err(trouble.failure)
            }
        };
        Reply { ticket, outcome }
    }
}

/// The outcome of a call, on its way back to its machine.
pub(crate) struct Reply {
    ticket: Ticket,
    outcome: Result<Response<Bytes>, Failure>,
}

impl Reply {
    pub(crate) fn hand_in(self, machine: &mut impl Machine, now: Timestamp) -> Result<(), WrongMachine> {
        machine.handle_outcome(self.ticket, self.outcome, now)
    }
}
