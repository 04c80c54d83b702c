//! What every state machine has in common: four verbs and one output.

use crate::call::{Call, Scope, Scopes, Ticket};
use crate::error::Misuse;
use crate::reply::{Failure, Received};
use crate::time::Timestamp;

/// What a state machine wants next.
///
/// The one rule of driving: after every input, call [`Machine::poll`] again and again until it says [`Output::Wait`] or
/// [`Output::Done`], doing what it says in between.
#[derive(Debug)]
#[must_use = "an output that is dropped is an action that never happens"]
#[expect(clippy::exhaustive_enums, reason = "an ignored action is a bug: a new one must break the build")]
#[expect(clippy::large_enum_variant, reason = "outputs are moved once, from the state machine to its driver")]
pub enum Output<E> {
    /// Perform this exchange and bring its ticket back.
    Send(Call),
    /// Tell the application.
    Event(E),
    /// Nothing until then, or until an input comes; `None`: only an input helps.
    Wait(Option<Timestamp>),
    /// It is over, now and for ever.
    Done,
}

pub(crate) mod sealed {
    #[expect(unnameable_types, reason = "that is what seals it")]
    pub trait Sealed {}
}

/// A state machine that speaks one part of the protocol. It has at most one call in flight.
///
/// Server trouble never comes back as an error from here: it becomes events and outcomes. An error means that the
/// driver's code is wrong.
pub trait Machine: sealed::Sealed {
    /// What the state machine has to tell the application.
    type Event;

    /// Fires what is due by `now`, and returns what to do next. Calling it too early, or too often, changes nothing.
    fn poll(&mut self, now: Timestamp) -> Output<Self::Event>;

    /// Hands in the answer to a call, whatever its status.
    ///
    /// An answer that comes after its deadline is taken as well: it is no error, and a late answer to a job request may be a job.
    ///
    /// # Errors
    ///
    /// [`Misuse::WrongMachine`] if another state machine made the call.
    fn handle_response(
        &mut self,
        ticket: Ticket,
        response: http::Response<impl Into<Received>>,
        now: Timestamp,
    ) -> Result<(), Misuse>;

    /// Says that a call brought no answer.
    ///
    /// # Errors
    ///
    /// [`Misuse::WrongMachine`] if another state machine made the call.
    fn handle_failure(&mut self, ticket: Ticket, failure: Failure, now: Timestamp) -> Result<(), Misuse>;

    /// Starts no call of this scope before `until`. [`crate::Throttle::hold`] says this for all scopes at once.
    ///
    /// A later call for the same scope replaces an earlier one. No hold is longer than ten minutes, counted from the last poll.
    fn hold_until(&mut self, scope: Scope, until: Timestamp);

    /// The rate limits that this state machine's calls count against: its token, with each kind of call that it makes.
    fn scopes(&self) -> Scopes;
}
