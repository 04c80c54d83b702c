//! Shares rate-limit answers between state machines: when one receives a 429, the others back off too.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::call::Scope;
use crate::headers;
use crate::output::Machine;
use crate::time::Timestamp;

/// Remembers which calls GitLab wants none of, and until when.
///
/// A state machine waits by itself when *its* call is refused. It cannot know that another one was told about the whole host, or
/// about a token that both use. A driver closes that gap with two lines: it hands every answer to [`Throttle::observe`], and calls
/// [`Throttle::hold`] before each [`poll`](Machine::poll). Use one `Throttle` for all state machines of a GitLab instance.
///
/// GitLab's own limits count per token and kind of call, so a 429 closes just that. A 429 that names its limit
/// (`RateLimit-Name`), the notice that migrations are running, and a 503 speak for the whole host. No pause is longer
/// than ten minutes.
///
/// ```
/// use gitlab_runner_api::{Failure, Machine, Output, Throttle, Timestamp, WrongMachine};
///
/// /// Polls a state machine, and sends what it wants to send.
/// fn step<M: Machine>(
///     machine: &mut M,
///     throttle: &mut Throttle,
///     now: Timestamp,
///     send: impl FnOnce(http::Request<gitlab_runner_api::Body>) -> Result<http::Response<Vec<u8>>, Failure>,
/// ) -> Result<Option<Output<M::Event>>, WrongMachine> {
///     throttle.hold(machine);
///     let call = match machine.poll(now) {
///         Output::Send(call) => call,
///         output => return Ok(Some(output)),
///     };
///     let (request, ticket) = call.split();
///     let outcome = send(request);
///     if let Ok(response) = &outcome {
///         throttle.observe(ticket.scope(), response.status(), response.headers(), response.body(), now);
///     }
///     machine.handle_outcome(ticket, outcome, now)?;
///     Ok(None)
/// }
/// ```
#[derive(Debug, Default)]
pub struct Throttle {
    host: Timestamp,
    scopes: BTreeMap<Scope, Timestamp>,
}

/// The pause after a refusal that does not say how long. The state machine that was refused adds its own back-off.
const UNTOLD: Duration = Duration::from_secs(1);

impl Throttle {
    /// One that knows of no pause.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes note of an answer, `body` being what was collected of it.
    pub fn observe(&mut self, scope: Scope, status: StatusCode, headers: &HeaderMap, body: &[u8], now: Timestamp) {
        let (limited, unavailable) =
            (status == StatusCode::TOO_MANY_REQUESTS, status == StatusCode::SERVICE_UNAVAILABLE);
        if !limited && !unavailable {
            return;
        }
        let until = now.saturating_add(headers::told_delay(headers, now).unwrap_or(UNTOLD));
        if unavailable || headers::is_host_limit(headers) || is_migration_notice(body) {
            self.host = self.host.max(until);
        } else {
            self.scopes.retain(|_, until| *until > now);
            let entry = self.scopes.entry(scope).or_default();
            *entry = until.max(*entry);
        }
    }

    /// Tells a state machine which of its calls have to wait, and until when.
    pub fn hold(&self, machine: &mut (impl Machine + ?Sized)) {
        for scope in machine.scopes() {
            machine.hold_until(scope, self.closed_until(scope));
        }
    }

    /// Returns until when calls of this scope should wait. A time in the past means that they need not.
    #[must_use]
    pub fn closed_until(&self, scope: Scope) -> Timestamp {
        self.scopes.get(&scope).map_or(self.host, |until| self.host.max(*until))
    }
}

fn is_migration_notice(body: &[u8]) -> bool {
    const WORDS: &[u8] = b"database migrations";
    body.windows(WORDS.len()).any(|window| window.eq_ignore_ascii_case(WORDS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{CallKind, Owner};

    #[test]
    fn a_limit_closes_its_token_and_kind_or_the_whole_host() {
        let scope = |job, kind| Scope { owner: Owner::Job { id: job, token: 0 }, kind };
        let (mine, put, other) =
            (scope(1, CallKind::PatchTrace), scope(1, CallKind::UpdateJob), scope(2, CallKind::PatchTrace));
        let now = Timestamp::from_millis(1000);
        let told = now.saturating_add(Duration::from_secs(60));
        let open = Timestamp::EPOCH;
        let retry = [("retry-after", "60")];
        let named = [("retry-after", "60"), ("ratelimit-name", "throttle_authenticated_api")];
        let migration = br#"{"message":"Executing database migrations. Please retry later."}"#;
        type Row<'a> = (u16, &'a [(&'static str, &'static str)], &'a [u8], [Timestamp; 3]);
        let rows: [Row<'_>; 5] = [
            (429, &retry, b"", [told, open, open]),
            (429, &named, b"", [told; 3]),
            (429, &retry, migration, [told; 3]),
            (503, &retry, b"", [told; 3]),
            (202, &retry, b"", [open; 3]),
        ];
        for (status, headers, body, expected) in rows {
            let mut throttle = Throttle::new();
            let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            throttle.observe(mine, StatusCode::from_u16(status).unwrap(), &headers, body, now);
            assert_eq!([mine, put, other].map(|scope| throttle.closed_until(scope)), expected, "{status} {headers:?}");
        }
    }
}
