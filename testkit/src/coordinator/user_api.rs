//! The API for users: what tests of runners ask GitLab about jobs and runners, and do to them.
//!
//! There is one project, with the number and the path that payloads name. It is private, so that a user who is not a member
//! does not see it. Answers have all members of GitLab's that the simulation knows something about.

mod jobs;
mod paging;
mod runners;
mod views;

use gitlab_runner_api::Timestamp;
use http::{Method, StatusCode};

use super::access::{Role, User};
use super::variables::{PROJECT, PROJECT_PATH};
use super::wire::Reply;
use super::{Coordinator, Inbound};
use crate::routes::{self, Operation};

/// What an operation does.
type Act = fn(&mut Coordinator, &Asked<'_>) -> Result<Reply, Reply>;

/// All operations, with paths below `/api/v4/`.
static OPERATIONS: &[Operation<Act>] = &[
    Operation::new(Method::GET, "projects/{id}", jobs::project),
    Operation::new(Method::GET, "projects/{id}/jobs", jobs::list),
    Operation::new(Method::GET, "projects/{id}/jobs/{job_id}", jobs::show),
    Operation::new(Method::GET, "projects/{id}/jobs/{job_id}/trace", jobs::trace),
    Operation::new(Method::GET, "projects/{id}/jobs/{job_id}/artifacts", jobs::artifacts),
    Operation::new(Method::POST, "projects/{id}/jobs/{job_id}/cancel", jobs::cancel),
    Operation::new(Method::POST, "projects/{id}/jobs/{job_id}/retry", jobs::retry),
    Operation::new(Method::POST, "projects/{id}/jobs/{job_id}/erase", jobs::erase),
    Operation::new(Method::GET, "projects/{id}/runners", runners::list_of_project),
    Operation::new(Method::GET, "runners", runners::list_owned),
    Operation::new(Method::GET, "runners/all", runners::list_all),
    Operation::new(Method::GET, "runners/{id}", runners::show),
    Operation::new(Method::PUT, "runners/{id}", runners::update),
    Operation::new(Method::DELETE, "runners/{id}", runners::delete),
    Operation::new(Method::GET, "runners/{id}/managers", runners::managers),
    Operation::new(Method::GET, "runners/{id}/jobs", runners::jobs),
];

/// An operation that a request asks for.
#[derive(Debug)]
pub(super) struct Call {
    operation: &'static Operation<Act>,
    /// The values of the parameters in the path.
    values: Vec<String>,
}

/// The methods and the paths of all operations.
#[cfg(test)]
pub(crate) fn operations() -> impl Iterator<Item = (&'static Method, &'static str)> {
    OPERATIONS.iter().map(|operation| (&operation.method, operation.path))
}

/// Returns the calls that are possible at a path below `/api/v4/`.
pub(super) fn calls(path: &str) -> impl Iterator<Item = Call> {
    let values = |values: routes::Values<'_>| values.into_iter().map(std::borrow::Cow::into_owned).collect();
    routes::at(OPERATIONS, path).map(move |(operation, found)| Call { operation, values: values(found) })
}

impl Call {
    pub(super) fn method(&self) -> Method {
        self.operation.method.clone()
    }

    /// The job that the call changes.
    pub(super) fn job(&self) -> Option<u64> {
        if self.operation.method == Method::GET || !self.operation.path.starts_with("projects/{id}/jobs/") {
            return None;
        }
        self.values.get(1)?.parse().ok()
    }

    /// The scopes of an access token that allow the call, separated by spaces.
    fn scopes(&self) -> &'static str {
        let reads = self.operation.method == Method::GET;
        match (reads, self.operation.path.starts_with("runners/{id}")) {
            (true, true) => "api read_api manage_runner",
            (true, false) => "api read_api",
            (false, true) => "api manage_runner",
            (false, false) => "api",
        }
    }

    /// The path below `/api/v4/`.
    fn path(&self) -> String {
        let mut values = self.values.iter();
        let segment = |part: &str| match part.strip_prefix('{').and_then(|_| values.next()) {
            Some(value) => form_urlencoded::byte_serialize(value.as_bytes()).collect(),
            None => part.to_owned(),
        };
        self.operation.path.split('/').map(segment).collect::<Vec<String>>().join("/")
    }
}

/// A request of a user.
struct Asked<'a> {
    now: Timestamp,
    user: &'a User,
    call: &'a Call,
    query: Option<&'a str>,
    inbound: &'a Inbound,
}

impl Coordinator {
    /// Answers a call of the API for users.
    pub(super) fn answer_user(
        &mut self,
        now: Timestamp,
        call: &Call,
        query: Option<&str>,
        inbound: &Inbound,
    ) -> Result<Reply, Reply> {
        let user = self.authenticate_user(&inbound.headers, &inbound.params)?.clone();
        user.check_scopes(call.scopes())?;
        (call.operation.act)(self, &Asked { now, user: &user, call, query, inbound })
    }
}

impl Asked<'_> {
    /// A number in the path. `name` is what GitLab calls it.
    fn number(&self, at: usize, name: &str) -> Result<u64, Reply> {
        let number = self.call.values.get(at).and_then(|value| value.parse().ok());
        number.ok_or_else(|| Reply::error(StatusCode::BAD_REQUEST, format!("{name} is invalid")))
    }

    /// Refuses a request about another project than the one there is, and one of a user who may not do this in it.
    fn check_project(&self, needed: Role) -> Result<(), Reply> {
        let named = self.call.values.first().map(String::as_str).unwrap_or_default();
        let is_known = named == PROJECT_PATH || named.parse() == Ok(PROJECT);
        if !is_known || self.user.role < Role::Guest {
            return Err(Reply::message(StatusCode::NOT_FOUND, "404 Project Not Found"));
        }
        if self.user.role < needed { Err(Reply::forbidden()) } else { Ok(()) }
    }

    /// Returns the value of a parameter that has one of these values.
    fn choice(&self, name: &str, values: &[&'static str]) -> Result<Option<&'static str>, Reply> {
        let Some(given) = self.inbound.params.text(name)?.filter(|given| !given.is_empty()) else { return Ok(None) };
        let known = values.iter().find(|value| **value == given).copied();
        let refusal = || Reply::error(StatusCode::BAD_REQUEST, format!("{name} does not have a valid value"));
        known.map(Some).ok_or_else(refusal)
    }
}

/// Something that there is not.
fn not_found() -> Reply {
    Reply::message(StatusCode::NOT_FOUND, "404 Not found")
}

#[cfg(test)]
mod tests;
