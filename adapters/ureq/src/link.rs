//! What the machines of a runner share: transport, clock, what GitLab said to all of them, and how many jobs there are.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use gitlab_runner_api::{Call, Failure, Machine, Output, Throttle, Timestamp, WrongMachine};

use crate::clock::Clock;
use crate::lock;
use crate::stop::Signal;
use crate::transport::Transport;

/// What every machine of a runner needs for its calls.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) transport: Transport,
    pub(crate) clock: Clock,
    throttle: Arc<Mutex<Throttle>>,
    /// Why the last failed call failed, in words.
    last_error: Arc<Mutex<String>>,
    driven: Arc<Driven>,
}

/// How many jobs have a driver.
#[derive(Debug, Default)]
struct Driven {
    count: Mutex<usize>,
    fewer: Condvar,
    /// Of loops that take jobs as there is room beside these.
    signals: Mutex<Vec<Arc<Signal>>>,
}

/// One of them, as long as it lives.
pub(crate) struct Drive(Arc<Driven>);

impl Drop for Drive {
    fn drop(&mut self) {
        *lock(&self.0.count) -= 1;
        self.0.fewer.notify_all();
        lock(&self.0.signals).iter().for_each(|signal| signal.notify());
    }
}

impl Link {
    pub(crate) fn new(transport: Transport) -> Self {
        Self {
            transport,
            clock: Clock::start(),
            throttle: Arc::default(),
            last_error: Arc::default(),
            driven: Arc::default(),
        }
    }

    /// The same link, for jobs that are waited for apart from all others.
    pub(crate) fn apart(&self) -> Self {
        Self { driven: Arc::default(), ..self.clone() }
    }

    /// One more job has a driver.
    pub(crate) fn begin(&self) -> Drive {
        *lock(&self.driven.count) += 1;
        Drive(self.driven.clone())
    }

    /// How many jobs are driven.
    pub(crate) fn driven(&self) -> usize {
        *lock(&self.driven.count)
    }

    /// Notifies this signal whenever one is driven no more, for as long as `during` takes.
    pub(crate) fn notifying<R>(&self, signal: &Arc<Signal>, during: impl FnOnce() -> R) -> R {
        lock(&self.driven.signals).push(signal.clone());
        let done = during();
        lock(&self.driven.signals).retain(|other| !Arc::ptr_eq(other, signal));
        done
    }

    /// Waits until no job is driven any more, or `span` has passed; false in that case.
    pub(crate) fn wait_idle(&self, span: Duration) -> bool {
        let busy = |count: &mut usize| *count > 0;
        let waited = self.driven.fewer.wait_timeout_while(lock(&self.driven.count), span, busy);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
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
    pub(crate) fn pause(&self, until: Option<Timestamp>) {
        thread::sleep(until.map_or(Duration::ZERO, |until| self.clock.until(until)));
    }

    /// Performs a call. No lock may be held.
    pub(crate) fn exchange(&self, call: Call) -> Reply {
        let (ticket, outcome) = self.transport.perform(call);
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

/// The outcome of a call, for the state machine that wanted it.
pub(crate) struct Reply {
    ticket: gitlab_runner_api::Ticket,
    outcome: Result<http::Response<bytes::Bytes>, Failure>,
}

impl Reply {
    pub(crate) fn hand_in(self, machine: &mut impl Machine, now: Timestamp) -> Result<(), WrongMachine> {
        machine.handle_outcome(self.ticket, self.outcome, now)
    }
}
