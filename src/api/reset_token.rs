//! `POST /runners/reset_authentication_token` and `POST /runners/:id/reset_authentication_token`: a runner gets a new token.
//!
//! The old token stops working at once, for all machines that share it. Persist the new one before anything else. If the
//! answer to a reset with the runner's own token is lost, that runner is locked out, so that such a call is never
//! repeated; with a personal access token it can be, since that stays good.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde::Serialize;

use super::members::members;
use super::{CorrelationId, Endpoint, JSON, known_time, request};
use crate::body::Body;
use crate::call::{CallKind, Hints, Replay};
use crate::config::Server;
use crate::error::{CallError, ProtocolError};
use crate::headers::PRIVATE_TOKEN;
use crate::output::sealed::Sealed;
use crate::secret::{PersonalAccessToken, RunnerToken, Secret};
use crate::time::Timestamp;

/// Resets a runner's token with that token.
#[derive(Clone, Debug)]
pub struct ResetToken {
    token: RunnerToken,
}

impl ResetToken {
    /// Replaces this token.
    #[must_use]
    pub fn new(token: RunnerToken) -> Self {
        Self { token }
    }
}

/// Resets a runner's token in the name of a user.
#[derive(Clone, Debug)]
pub struct ResetTokenAsUser {
    token: PersonalAccessToken,
    runner: u64,
}

impl ResetTokenAsUser {
    /// Replaces the token of the runner of this id. The personal access token needs the scope `manage_runner` or `api`.
    #[must_use]
    pub fn new(token: PersonalAccessToken, runner: u64) -> Self {
        Self { token, runner }
    }
}

members! {
    /// A runner's new token.
    #[derive(Clone, Debug)]
    #[non_exhaustive]
    pub struct NewToken needs {
        /// The token. The one before is worth nothing any more.
        pub token: RunnerToken,
    } {
        /// When it stops working, in ISO 8601; none if never.
        pub token_expires_at: Option<String>,
    }
}

/// When a token should be replaced that was obtained and stops working then: after three quarters of its life, as the
/// official runner does.
#[must_use]
pub fn rotation_due(obtained: Timestamp, expires: Timestamp) -> Timestamp {
    obtained.saturating_add(expires.saturating_since(obtained) / 4 * 3)
}

/// The same for a token that can be reset until a deadline only, after which a reset is refused for good
/// ([`CreateRunner::with_token_rotation_deadline`](super::create_runner::CreateRunner::with_token_rotation_deadline)). It is due
/// after three quarters of the time to the deadline, which is never later than three quarters of the token's life.
#[must_use]
pub fn rotation_due_before(obtained: Timestamp, expires: Timestamp, deadline: Timestamp) -> Timestamp {
    rotation_due(obtained, deadline.min(expires))
}

fn decode(response: &Response<Bytes>, used: &Secret) -> Result<NewToken, CallError> {
    match response.status() {
        StatusCode::CREATED | StatusCode::OK => {
            let new: NewToken = serde_json::from_slice(response.body()).map_err(|error| ProtocolError::json(&error))?;
            let token_expires_at = known_time(new.token_expires_at);
            Ok(NewToken { token_expires_at, ..new })
        }
        _ => Err(CallError::from_response(response, used)),
    }
}

fn hints(kind: CallKind, replay: Replay) -> Hints {
    Hints::new(kind, replay).with_deadline(Duration::from_secs(60))
}

impl Sealed for ResetToken {}

impl Endpoint for ResetToken {
    type Response = NewToken;

    /// The token goes into the body alone, as with the official runner.
    fn request(&self, server: &Server, id: CorrelationId) -> Request<Body> {
        #[derive(Serialize)]
        struct Form<'a> {
            token: &'a str,
        }
        let uri = server.api(format_args!("runners/reset_authentication_token"));
        request(Method::POST, &uri, id, None, JSON, Body::json(&Form { token: self.token.expose() }))
    }

    fn decode(&self, response: &Response<Bytes>) -> Result<NewToken, CallError> {
        decode(response, self.token.secret())
    }

    fn hints(&self) -> Hints {
        hints(CallKind::ResetToken, Replay::Never)
    }
}

impl Sealed for ResetTokenAsUser {}

impl Endpoint for ResetTokenAsUser {
    type Response = NewToken;

    fn request(&self, server: &Server, id: CorrelationId) -> Request<Body> {
        let uri = server.api(format_args!("runners/{}/reset_authentication_token", self.runner));
        let token = (PRIVATE_TOKEN, self.token.secret());
        request(Method::POST, &uri, id, token, JSON, Body::json(&serde_json::Map::new()))
    }

    fn decode(&self, response: &Response<Bytes>) -> Result<NewToken, CallError> {
        decode(response, self.token.secret())
    }

    fn hints(&self) -> Hints {
        hints(CallKind::ResetTokenAsUser, Replay::Safe)
    }
}
