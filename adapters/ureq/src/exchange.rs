//! Calls that a caller waits for.

use gitlab_runner_api::api::Endpoint;
use gitlab_runner_api::{CallError, Exchange, ExchangeError, Output, WrongMachine};

use crate::error::Error;
use crate::link::Link;

/// Drives one exchange to its end.
pub(crate) fn complete<E: Endpoint>(mut exchange: Exchange<E>, link: &Link) -> Result<E::Response, Error> {
    loop {
        match link.poll(&mut exchange) {
            Output::Send(call) => {
                let reply = link.exchange(call);
                reply.hand_in(&mut exchange, link.clock.now()).map_err(misused)?;
            }
            Output::Event(result) => return result.map_err(|error| classify(error, link)),
            Output::Wait(until) => link.pause(until),
            Output::Done => return Err(Error::System(std::io::Error::other("an exchange ended without a result"))),
        }
    }
}

/// Tells the refusals apart that have a mend of their own.
fn classify(error: ExchangeError, link: &Link) -> Error {
    match error {
        ExchangeError::Call(CallError::Rejected(rejection)) => match rejection.status.as_u16() {
            403 => Error::Unauthorized(rejection),
            410 => Error::RegistrationDisabled(rejection),
            _ => Error::Exchange(CallError::Rejected(rejection).into()),
        },
        ExchangeError::Unreachable(_) | ExchangeError::Uncertain(_) => {
            Error::Unreachable { error, why: link.last_transport_error() }
        }
        other => Error::Exchange(other),
    }
}

/// The same refusals mean something else of a call in the name of a user.
pub(crate) fn as_user(error: Error, scope: &'static str) -> Error {
    match error {
        Error::Unauthorized(rejection) => Error::NotPermitted(rejection, scope),
        Error::Exchange(ExchangeError::Call(CallError::Rejected(rejection))) if rejection.status == 401 => {
            Error::NotPermitted(rejection, scope)
        }
        other => other,
    }
}

/// Cannot happen: each driver hands its own tickets to its own machine.
pub(crate) fn misused(misuse: WrongMachine) -> Error {
    Error::System(std::io::Error::other(misuse))
}
