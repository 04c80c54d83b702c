//! The API to steer the simulation.

mod call;
mod instance;
mod jobs;
mod runners;

pub(super) use instance::report;

use bytes::Bytes;
use gitlab_runner_api::Timestamp;
use http::header::{ALLOW, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use serde_json::json;

pub(super) use self::jobs::no_job;

use self::call::{Call, Refusal, told};
use super::faults::Faults;
use crate::content::Content;
use crate::coordinator::Coordinator;
use crate::routes::{self, Operation};
use crate::server::Handling;

/// The paths of all operations begin with this.
pub(super) const BELOW: &str = "/_sim/";

/// What an operation does.
type Act = fn(&mut Call<'_>) -> Result<Handling, Refusal>;

/// An operation, and the members that its body may have.
struct Control {
    act: Act,
    /// `None`: the operation refuses what it does not know.
    members: Option<&'static [&'static str]>,
}

const fn taking(members: &'static [&'static str], act: Act) -> Control {
    Control { act, members: Some(members) }
}

const fn checks_itself(act: Act) -> Control {
    Control { act, members: None }
}

/// All operations.
static OPERATIONS: &[Operation<Control>] = &[
    Operation::new(Method::GET, "/_sim/health", taking(&[], instance::health)),
    Operation::new(Method::GET, "/_sim/openapi.json", taking(&[], instance::description)),
    Operation::new(Method::GET, "/_sim/report", taking(&[], instance::show_report)),
    Operation::new(Method::GET, "/_sim/settings", taking(&[], instance::show_settings)),
    Operation::new(Method::PATCH, "/_sim/settings", checks_itself(instance::change_settings)),
    Operation::new(Method::GET, "/_sim/faults", taking(&[], instance::list_faults)),
    Operation::new(Method::POST, "/_sim/faults", taking(&["fault"], instance::add_fault)),
    Operation::new(Method::DELETE, "/_sim/faults", taking(&[], instance::clear_faults)),
    Operation::new(Method::GET, "/_sim/requests", taking(&[], instance::list_requests)),
    Operation::new(Method::DELETE, "/_sim/requests", taking(&[], instance::clear_requests)),
    Operation::new(Method::GET, "/_sim/time", taking(&[], instance::show_time)),
    Operation::new(Method::POST, "/_sim/time", taking(&["advance"], instance::advance_time)),
    Operation::new(Method::POST, "/_sim/users", taking(&["token", "role", "scopes"], instance::add_user)),
    Operation::new(
        Method::POST,
        "/_sim/registration_tokens",
        taking(
            &["token", "runner_type", "allowed", "tokens_enabled", "runner_limit"],
            instance::add_registration_token,
        ),
    ),
    Operation::new(Method::GET, "/_sim/jobs", taking(&[], jobs::list)),
    Operation::new(Method::POST, "/_sim/jobs", checks_itself(jobs::queue)),
    Operation::new(Method::GET, "/_sim/jobs/{id}", taking(&[], jobs::show)),
    Operation::new(Method::GET, "/_sim/jobs/{id}/token", taking(&[], jobs::show_token)),
    Operation::new(Method::GET, "/_sim/jobs/{id}/trace", taking(&[], jobs::show_trace)),
    Operation::new(Method::GET, "/_sim/jobs/{id}/artifacts/{type}", taking(&[], jobs::show_artifact)),
    Operation::new(Method::POST, "/_sim/jobs/{id}/cancel", taking(&["force"], jobs::cancel)),
    Operation::new(Method::POST, "/_sim/jobs/{id}/retry", taking(&[], jobs::retry)),
    Operation::new(Method::POST, "/_sim/jobs/{id}/watch", taking(&["watched"], jobs::watch)),
    Operation::new(Method::POST, "/_sim/jobs/{id}/erase", taking(&[], jobs::erase)),
    Operation::new(Method::POST, "/_sim/jobs/{id}/delete_project", taking(&[], jobs::delete_project)),
    Operation::new(Method::POST, "/_sim/jobs/{id}/lock", taking(&["seconds"], jobs::lock)),
    Operation::new(Method::POST, "/_sim/jobs/{id}/lock_log", taking(&["seconds"], jobs::lock_log)),
    Operation::new(Method::POST, "/_sim/jobs/{id}/lose_log", taking(&["keep"], jobs::lose_log)),
    Operation::new(Method::POST, "/_sim/jobs/{id}/revoke_token", taking(&[], jobs::revoke_token)),
    Operation::new(Method::POST, "/_sim/jobs/{id}/expire_token", taking(&["seconds"], jobs::expire_token)),
    Operation::new(Method::GET, "/_sim/runners", taking(&[], runners::list)),
    Operation::new(Method::POST, "/_sim/runners", checks_itself(runners::add)),
    Operation::new(Method::GET, "/_sim/runners/{id}", taking(&[], runners::show)),
    Operation::new(Method::PATCH, "/_sim/runners/{id}", checks_itself(runners::change)),
    Operation::new(Method::DELETE, "/_sim/runners/{id}", taking(&[], runners::delete)),
    Operation::new(Method::POST, "/_sim/runners/{id}/pause", taking(&[], runners::pause)),
    Operation::new(Method::POST, "/_sim/runners/{id}/unpause", taking(&[], runners::unpause)),
    Operation::new(Method::POST, "/_sim/runners/{id}/reset_token", taking(&[], runners::reset_token)),
    Operation::new(Method::POST, "/_sim/runners/{id}/expire_token", taking(&["seconds"], runners::expire_token)),
    Operation::new(Method::POST, "/_sim/runners/{id}/orphan", taking(&[], runners::orphan)),
    Operation::new(Method::DELETE, "/_sim/runners/{id}/managers/{system_id}", taking(&[], runners::delete_manager)),
];

/// The methods and the paths of all operations.
#[cfg(test)]
pub(super) fn operations() -> impl Iterator<Item = (&'static Method, &'static str)> {
    OPERATIONS.iter().map(|operation| (&operation.method, operation.path))
}

/// The members that the bodies of operations may have, by the methods and the paths of the operations.
#[cfg(test)]
pub(super) fn members() -> impl Iterator<Item = (&'static Method, &'static str, &'static [&'static str])> {
    let known = |operation: &'static Operation<Control>| {
        operation.act.members.map(|members| (&operation.method, operation.path, members))
    };
    OPERATIONS.iter().filter_map(known)
}

/// Answers a request to steer the simulation. `HEAD` is answered as `GET`, without the body.
pub(super) fn answer(
    gitlab: &mut Coordinator,
    faults: &mut Faults,
    now: Timestamp,
    request: &Request<Bytes>,
) -> Handling {
    let path = request.uri().path();
    let method = if *request.method() == Method::HEAD { &Method::GET } else { request.method() };
    let found: Vec<_> = routes::at(OPERATIONS, path).collect();
    let allowed: Vec<&str> = found.iter().map(|(operation, _)| operation.method.as_str()).collect();
    let Some((operation, values)) = found.into_iter().find(|(operation, _)| operation.method == *method) else {
        return Handling::Answered(not_there(request, &allowed));
    };
    let mut call = Call { gitlab, faults, now, body: request.body(), values };
    let checked = if request.uri().query().is_some_and(|query| !query.is_empty()) {
        Err(call::bad(format!("{} {path} has no parameters in its query", request.method())))
    } else if matches!(*request.method(), Method::POST | Method::PATCH) {
        operation.act.members.map_or(Ok(()), |members| call.check_members(members))
    } else {
        Ok(())
    };
    let acted = checked.and_then(|()| (operation.act.act)(&mut call));
    acted.unwrap_or_else(|refusal| Handling::Answered(refused(refusal)))
}

/// The answer to a request for which there is no operation, at a path where these methods are allowed.
fn not_there(request: &Request<Bytes>, allowed: &[&str]) -> Response<Content> {
    let (method, path) = (request.method(), request.uri().path());
    if allowed.is_empty() {
        return refused(Refusal(StatusCode::NOT_FOUND, format!("there is no {method} {path}")));
    }
    let allowed = allowed.join(", ");
    let why = format!("there is no {method} {path}, but {allowed}");
    let mut response = refused(Refusal(StatusCode::METHOD_NOT_ALLOWED, why));
    // The names of methods are fit for a header.
    response.headers_mut().extend(HeaderValue::from_str(&allowed).ok().map(|value| (ALLOW, value)));
    response
}

/// The answer to a request that is refused.
pub(super) fn refused(Refusal(status, why): Refusal) -> Response<Content> {
    told(status, &json!({ "error": why }))
}
