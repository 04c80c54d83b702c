//! The API to steer the simulation.

mod call;
mod instance;
mod jobs;
mod runners;

pub(super) use instance::report;

use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::Timestamp;
use http::{Method, Request, Response, StatusCode};
use serde_json::json;

pub(super) use self::jobs::no_job;

use self::call::{Call, Refusal, told};
use super::faults::Faults;
use crate::content::Content;
use crate::coordinator::Coordinator;
use crate::routes::{self, Operation};

/// What an operation does.
type Act = fn(&mut Call<'_>) -> Result<Response<Content>, Refusal>;

/// All operations.
static OPERATIONS: &[Operation<Act>] = &[
    Operation::new(Method::GET, "/_sim/health", instance::health),
    Operation::new(Method::GET, "/_sim/openapi.json", instance::description),
    Operation::new(Method::GET, "/_sim/report", instance::show_report),
    Operation::new(Method::GET, "/_sim/settings", instance::show_settings),
    Operation::new(Method::PATCH, "/_sim/settings", instance::change_settings),
    Operation::new(Method::GET, "/_sim/faults", instance::list_faults),
    Operation::new(Method::POST, "/_sim/faults", instance::add_fault),
    Operation::new(Method::DELETE, "/_sim/faults", instance::clear_faults),
    Operation::new(Method::GET, "/_sim/requests", instance::list_requests),
    Operation::new(Method::DELETE, "/_sim/requests", instance::clear_requests),
    Operation::new(Method::GET, "/_sim/time", instance::show_time),
    Operation::new(Method::POST, "/_sim/time", instance::advance_time),
    Operation::new(Method::POST, "/_sim/users", instance::add_user),
    Operation::new(Method::POST, "/_sim/registration_tokens", instance::add_registration_token),
    Operation::new(Method::GET, "/_sim/jobs", jobs::list),
    Operation::new(Method::POST, "/_sim/jobs", jobs::queue),
    Operation::new(Method::GET, "/_sim/jobs/{id}", jobs::show),
    Operation::new(Method::GET, "/_sim/jobs/{id}/token", jobs::show_token),
    Operation::new(Method::GET, "/_sim/jobs/{id}/trace", jobs::show_trace),
    Operation::new(Method::GET, "/_sim/jobs/{id}/artifacts/{type}", jobs::show_artifact),
    Operation::new(Method::POST, "/_sim/jobs/{id}/cancel", jobs::cancel),
    Operation::new(Method::POST, "/_sim/jobs/{id}/retry", jobs::retry),
    Operation::new(Method::POST, "/_sim/jobs/{id}/watch", jobs::watch),
    Operation::new(Method::POST, "/_sim/jobs/{id}/erase", jobs::erase),
    Operation::new(Method::POST, "/_sim/jobs/{id}/delete_project", jobs::delete_project),
    Operation::new(Method::POST, "/_sim/jobs/{id}/lock", jobs::lock),
    Operation::new(Method::POST, "/_sim/jobs/{id}/lock_log", jobs::lock_log),
    Operation::new(Method::POST, "/_sim/jobs/{id}/lose_log", jobs::lose_log),
    Operation::new(Method::POST, "/_sim/jobs/{id}/revoke_token", jobs::revoke_token),
    Operation::new(Method::POST, "/_sim/jobs/{id}/expire_token", jobs::expire_token),
    Operation::new(Method::GET, "/_sim/runners", runners::list),
    Operation::new(Method::POST, "/_sim/runners", runners::add),
    Operation::new(Method::GET, "/_sim/runners/{id}", runners::show),
    Operation::new(Method::PATCH, "/_sim/runners/{id}", runners::change),
    Operation::new(Method::DELETE, "/_sim/runners/{id}", runners::delete),
    Operation::new(Method::POST, "/_sim/runners/{id}/pause", runners::pause),
    Operation::new(Method::POST, "/_sim/runners/{id}/unpause", runners::unpause),
    Operation::new(Method::POST, "/_sim/runners/{id}/reset_token", runners::reset_token),
    Operation::new(Method::POST, "/_sim/runners/{id}/expire_token", runners::expire_token),
    Operation::new(Method::POST, "/_sim/runners/{id}/orphan", runners::orphan),
    Operation::new(Method::DELETE, "/_sim/runners/{id}/managers/{system_id}", runners::delete_manager),
];

/// The methods and the paths of all operations.
#[cfg(test)]
pub(super) fn operations() -> impl Iterator<Item = (&'static Method, &'static str)> {
    OPERATIONS.iter().map(|operation| (&operation.method, operation.path))
}

/// Answers a request to steer the simulation. The second part is the time that the request lets pass.
pub(super) fn answer(
    gitlab: &mut Coordinator,
    faults: &mut Faults,
    now: Timestamp,
    request: &Request<Bytes>,
) -> (Response<Content>, Option<Duration>) {
    let path = request.uri().path();
    let mut found = routes::at(OPERATIONS, path);
    let Some((operation, values)) = found.find(|(operation, _)| operation.method == *request.method()) else {
        let why = format!("there is no {} {path}", request.method());
        return (refused(Refusal(StatusCode::NOT_FOUND, why)), None);
    };
    let mut call = Call { gitlab, faults, now, body: request.body(), values, advance: None };
    let response = (operation.act)(&mut call).unwrap_or_else(refused);
    (response, call.advance)
}

/// The answer to a request that is refused.
pub(super) fn refused(Refusal(status, why): Refusal) -> Response<Content> {
    told(status, &json!({ "error": why }))
}
