//! What every state machine has in common: four verbs and one output.

use crate::call::{Call, Scope, Scopes, Ticket, WrongMachine};
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
    /// Nothing until then, or until an input comes.
    ///
    /// `None` means that no time helps, only an input: sleep until the application has one, or stop if none can come. It does not mean
    /// zero, and a loop that takes it for zero never rests.
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
///
/// A driver can keep state machines of several kinds together as `Box<dyn Machine<Event = E>>`, if their events are of one type. Such a
/// box is a state machine itself, and so is a `&mut` reference to one.
///
/// ```
/// use gitlab_runner_api::{Machine, Output, Timestamp};
///
/// /// Polls all of them, and returns when one of them is to be polled again.
/// fn poll_all<E>(machines: &mut [Box<dyn Machine<Event = E>>], now: Timestamp, mut hear: impl FnMut(Output<E>)) -> Option<Timestamp> {
///     let mut next = None;
///     for machine in machines {
///         loop {
///             match machine.poll(now) {
///                 Output::Wait(until) => {
///                     next = next.into_iter().chain(until).min();
///                     break;
///                 }
///                 Output::Done => break,
///                 output => hear(output),
///             }
///         }
///     }
///     next
/// }
/// ```
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
    /// [`WrongMachine`] if another state machine made the call. It gives the ticket and the response back.
    fn handle_response(
        &mut self,
        ticket: Ticket,
        response: http::Response<impl Into<Received>>,
        now: Timestamp,
    ) -> Result<(), WrongMachine>
    where
        Self: Sized,
    {
        self.handle_received(ticket, response.map(Into::into), now)
    }

    /// [`Machine::handle_response`] for a `dyn Machine`: a method of a trait object has no type parameters, so the caller converts
    /// the body.
    ///
    /// # Errors
    ///
    /// As [`Machine::handle_response`].
    fn handle_received(
        &mut self,
        ticket: Ticket,
        response: http::Response<Received>,
        now: Timestamp,
    ) -> Result<(), WrongMachine>;

    /// Says that a call brought no answer.
    ///
    /// # Errors
    ///
    /// [`WrongMachine`] if another state machine made the call. It gives the ticket and the failure back.
    fn handle_failure(&mut self, ticket: Ticket, failure: Failure, now: Timestamp) -> Result<(), WrongMachine>;

    /// Hands in what became of a call: [`Machine::handle_response`] or [`Machine::handle_failure`], for clients that return a `Result`.
    ///
    /// # Errors
    ///
    /// As [`Machine::handle_response`].
    fn handle_outcome(
        &mut self,
        ticket: Ticket,
        outcome: Result<http::Response<impl Into<Received>>, Failure>,
        now: Timestamp,
    ) -> Result<(), WrongMachine>
    where
        Self: Sized,
    {
        match outcome {
            Ok(response) => self.handle_response(ticket, response, now),
            Err(failure) => self.handle_failure(ticket, failure, now),
        }
    }

    /// Starts no call of this scope before `until`. [`crate::Throttle::hold`] says this for all scopes at once.
    ///
    /// A later call for the same scope replaces an earlier one. No hold is longer than ten minutes, counted from the last poll.
    fn hold_until(&mut self, scope: Scope, until: Timestamp);

    /// The rate limits that this state machine's calls count against: its token, with each kind of call that it makes.
    fn scopes(&self) -> Scopes;
}

impl<M: Machine + ?Sized> sealed::Sealed for &mut M {}
impl<M: Machine + ?Sized> sealed::Sealed for Box<M> {}

/// A pointer to a state machine passes everything on.
macro_rules! pass_on {
    ($pointer:ty) => {
        impl<M: Machine + ?Sized> Machine for $pointer {
            type Event = M::Event;

            fn poll(&mut self, now: Timestamp) -> Output<Self::Event> {
                (**self).poll(now)
            }

            fn handle_received(
                &mut self,
                ticket: Ticket,
                response: http::Response<Received>,
                now: Timestamp,
            ) -> Result<(), WrongMachine> {
                (**self).handle_received(ticket, response, now)
            }

            fn handle_failure(&mut self, ticket: Ticket, failure: Failure, now: Timestamp) -> Result<(), WrongMachine> {
                (**self).handle_failure(ticket, failure, now)
            }

            fn hold_until(&mut self, scope: Scope, until: Timestamp) {
                (**self).hold_until(scope, until);
            }

            fn scopes(&self) -> Scopes {
                (**self).scopes()
            }
        }
    };
}

pass_on!(&mut M);
pass_on!(Box<M>);
