//! What every machine has in common: four verbs and one output.

use crate::call::{Call, Scope, Ticket};
use crate::error::Misuse;
use crate::reply::{Failure, Received};
use crate::time::Timestamp;

/// What a machine wants next.
///
/// The one rule of driving: after every input, call [`Machine::poll`] again and again until it says [`Output::Wait`] or
/// [`Output::Done`], doing what it says in between.
#[derive(Debug)]
#[must_use = "an output that is dropped is an action that never happens"]
#[expect(clippy::exhaustive_enums, reason = "an ignored action is a bug: a new one must break the build")]
#[expect(clippy::large_enum_variant, reason = "outputs are moved once, from the machine to its driver")]
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

/// A state machine that speaks one part of the protocol. It holds at most one call on the wire.
///
/// Server trouble never comes back as an error from here: it becomes events and outcomes. An error means that the
/// driver's code is wrong, except for [`Misuse::Stale`], which a driver ignores.
pub trait Machine: sealed::Sealed {
    /// What the machine has to tell.
    type Event;

    /// Fires what is due by `now`, and says what to do next. Calling it too early, or too often, changes nothing.
    fn poll(&mut self, now: Timestamp) -> Output<Self::Event>;

    /// Hands in the answer to a call, whatever its status.
    ///
    /// # Errors
    ///
    /// [`Misuse::WrongMachine`], [`Misuse::Stale`].
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
    /// [`Misuse::WrongMachine`], [`Misuse::Stale`].
    fn handle_failure(&mut self, ticket: Ticket, failure: Failure, now: Timestamp) -> Result<(), Misuse>;

    /// Starts no call before `until`. For [`crate::Throttle`], which knows what other machines were told.
    ///
    /// A later call of this replaces an earlier one. No hold is longer than ten minutes, counted from the last poll.
    fn hold_until(&mut self, until: Timestamp);

    /// The token and the kind of call that [`Machine::poll`] would use next, for [`crate::Throttle`].
    fn scope(&self) -> Scope;
}
