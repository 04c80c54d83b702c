//! `POST /runners/verify`: does this token still belong to a runner?
//!
//! Only 403 means that it does not; a broken server or network says nothing about the token. The call also makes the
//! runner manager of the given system ID known, with its features.

use bytes::Bytes;
use http::{Request, Response, StatusCode};

use super::info::Info;
use super::members::members;
use super::{CorrelationId, Endpoint, Identity, known_time, runner_request};
use crate::body::Body;
use crate::call::{CallKind, Hints, Replay};
use crate::config::{Server, SystemId};
use crate::error::{CallError, ProtocolError, claims_json};
use crate::output::sealed::Sealed;
use crate::secret::RunnerToken;

/// The call.
#[derive(Clone, Debug)]
pub struct Verify {
    token: RunnerToken,
    info: Info,
    system_id: Option<SystemId>,
}

impl Verify {
    /// Verifies a runner's authentication token.
    #[must_use]
    pub fn new(token: RunnerToken, info: &Info) -> Self {
        Self { token, info: info.clone(), system_id: None }
    }

    /// The machine that asks.
    #[must_use]
    pub fn with_system_id(mut self, id: SystemId) -> Self {
        self.system_id = Some(id);
        self
    }
}

members! {
    /// The token is valid.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct Verified {
        /// The runner's id. Servers before 14 or so do not tell.
        pub id: Option<u64>,
        /// When the token stops working, in ISO 8601; none if never.
        pub token_expires_at: Option<String>,
    }
}

impl Sealed for Verify {}

impl Endpoint for Verify {
    type Response = Verified;

    fn request(&self, server: &Server, id: CorrelationId) -> Request<Body> {
        let token = self.token.secret();
        let identity = Identity::new(token, &self.info, self.system_id.as_ref());
        runner_request(&server.api(format_args!("runners/verify")), id, token, &identity)
    }

    fn decode(&self, response: &Response<Bytes>) -> Result<Verified, CallError> {
        if response.status() != StatusCode::OK {
            return Err(CallError::from_response(response, self.token.secret()));
        }
        let body = response.body().trim_ascii();
        match serde_json::from_slice(body) {
            Ok(Verified { id, token_expires_at }) => {
                Ok(Verified { id, token_expires_at: known_time(token_expires_at) })
            }
            // GitLab 13 answers with the plain text `200`. A page of some portal is not an answer.
            Err(_) if !claims_json(response.headers()) && !body.starts_with(b"<") => Ok(Verified::default()),
            Err(_) if body == b"200" || body == b"null" => Ok(Verified::default()),
            Err(error) => Err(ProtocolError::json(&error).into()),
        }
    }

    fn hints(&self) -> Hints {
        Hints::new(CallKind::Verify, Replay::Safe)
    }
}
