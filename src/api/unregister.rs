//! `DELETE /runners` and `DELETE /runners/managers`: a runner, or one machine of it, is no more.
//!
//! The official runner takes the second for tokens that start with `glrt-`, since their runner was made by a user and may
//! serve other machines, and the first for all others.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde::Serialize;

use super::{CorrelationId, Endpoint, JSON, request};
use crate::body::Body;
use crate::call::{CallKind, Hints, Replay, ResponseBody};
use crate::config::{Server, SystemId};
use crate::error::CallError;
use crate::headers::RUNNER_TOKEN;
use crate::output::sealed::Sealed;
use crate::secret::RunnerToken;

/// What became of it. Either way it is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Removal {
    /// It was removed by this call.
    Removed,
    /// It was not there any more: an earlier call, whose answer was lost, or somebody else removed it.
    AlreadyGone,
}

/// Removes a runner with all its managers. Its token is worth nothing afterwards.
#[derive(Clone, Debug)]
pub struct Unregister {
    token: RunnerToken,
}

impl Unregister {
    /// Removes the runner of this token.
    #[must_use]
    pub fn new(token: RunnerToken) -> Self {
        Self { token }
    }
}

/// Removes one runner manager. The runner stays, for its other machines.
#[derive(Clone, Debug)]
pub struct UnregisterManager {
    token: RunnerToken,
    system_id: SystemId,
}

impl UnregisterManager {
    /// Removes the machine of this system ID from the runner of this token.
    #[must_use]
    pub fn new(token: RunnerToken, system_id: SystemId) -> Self {
        Self { token, system_id }
    }
}

#[derive(Serialize)]
struct Form<'a> {
    token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_id: Option<&'a SystemId>,
}

fn delete(uri: &str, id: CorrelationId, token: &RunnerToken, system_id: Option<&SystemId>) -> Request<Body> {
    let form = Form { token: token.expose(), system_id };
    request(Method::DELETE, uri, id, (RUNNER_TOKEN, token.secret()), JSON, Body::json(&form))
}

fn hints(kind: CallKind) -> Hints {
    Hints::new(kind, Replay::Safe).with_response(ResponseBody::Discard)
}

impl Sealed for Unregister {}

impl Endpoint for Unregister {
    type Response = Removal;

    fn request(&self, server: &Server, id: CorrelationId) -> Request<Body> {
        delete(&server.api(format_args!("runners")), id, &self.token, None)
    }

    fn decode(&self, response: &Response<Bytes>) -> Result<Removal, CallError> {
        match response.status() {
            StatusCode::NO_CONTENT => Ok(Removal::Removed),
            _ => Err(CallError::from_response(response, self.token.secret())),
        }
    }

    /// The token of a runner that is gone is refused, and only that tells.
    fn decode_repeated(&self, response: &Response<Bytes>) -> Result<Removal, CallError> {
        match response.status() {
            StatusCode::FORBIDDEN => Ok(Removal::AlreadyGone),
            _ => self.decode(response),
        }
    }

    fn hints(&self) -> Hints {
        hints(CallKind::Unregister)
    }
}

impl Sealed for UnregisterManager {}

impl Endpoint for UnregisterManager {
    type Response = Removal;

    fn request(&self, server: &Server, id: CorrelationId) -> Request<Body> {
        delete(&server.api(format_args!("runners/managers")), id, &self.token, Some(&self.system_id))
    }

    fn decode(&self, response: &Response<Bytes>) -> Result<Removal, CallError> {
        match (response.status(), CallError::from_response(response, self.token.secret())) {
            (StatusCode::NO_CONTENT, _) => Ok(Removal::Removed),
            // Another 404 is that of a server without the endpoint, or of something on the way.
            (StatusCode::NOT_FOUND, CallError::Rejected(no)) if no.message.contains("Runner manager not found") => {
                Ok(Removal::AlreadyGone)
            }
            (_, error) => Err(error),
        }
    }

    fn hints(&self) -> Hints {
        hints(CallKind::UnregisterManager)
    }
}
