//! A request of a user, and the checks that several operations make.

use gitlab_runner_api::Timestamp;
use http::StatusCode;

use crate::coordinator::Inbound;
use crate::coordinator::access::{Role, User};
use crate::coordinator::user_route::Call;
use crate::coordinator::variables::{PROJECT, PROJECT_PATH};
use crate::coordinator::wire::Reply;

/// A request of a user who has a valid access token.
pub(super) struct Asked<'a> {
    pub(super) now: Timestamp,
    pub(super) user: &'a User,
    pub(super) call: &'a Call,
    pub(super) query: Option<&'a str>,
    pub(super) inbound: &'a Inbound,
}

impl Asked<'_> {
    /// A number in the path. `name` is what GitLab calls it.
    pub(super) fn number(&self, at: usize, name: &str) -> Result<u64, Reply> {
        let number = self.call.values().get(at).and_then(|value| value.parse().ok());
        number.ok_or_else(|| Reply::error(StatusCode::BAD_REQUEST, format!("{name} is invalid")))
    }

    /// Refuses a request about another project than the one there is, and one of a user who may not do this in it.
    pub(super) fn check_project(&self, needed: Role) -> Result<(), Reply> {
        let named = self.call.values().first().map(String::as_str).unwrap_or_default();
        let is_known = named == PROJECT_PATH || named.parse() == Ok(PROJECT);
        if !is_known || self.user.role < Role::Guest {
            return Err(Reply::message(StatusCode::NOT_FOUND, "404 Project Not Found"));
        }
        if self.user.role < needed { Err(Reply::forbidden()) } else { Ok(()) }
    }

    /// Returns the value of a parameter that has one of these values.
    pub(super) fn choice(&self, name: &str, values: &[&'static str]) -> Result<Option<&'static str>, Reply> {
        let Some(given) = self.inbound.params.text(name)?.filter(|given| !given.is_empty()) else { return Ok(None) };
        let known = values.iter().find(|value| **value == given).copied();
        let refusal = || Reply::error(StatusCode::BAD_REQUEST, format!("{name} does not have a valid value"));
        known.map(Some).ok_or_else(refusal)
    }
}

/// The answer about a job or a runner that does not exist.
pub(super) fn not_found() -> Reply {
    Reply::message(StatusCode::NOT_FOUND, "404 Not found")
}
