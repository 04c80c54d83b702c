//! `POST /user/runners`: makes a runner in the name of a user.
//!
//! This is how GitLab wants runners to be made: the token that comes back starts with `glrt-` and is put to use with
//! [`super::verify`]. Not idempotent: each call makes one more runner.

use std::time::UNIX_EPOCH;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde::Serialize;

use super::register::{Attributes, Registered};
use super::{CorrelationId, Endpoint, JSON, request};
use crate::body::Body;
use crate::call::{CallKind, Hints, Replay};
use crate::config::Server;
use crate::error::{CallError, ProtocolError};
use crate::headers::PRIVATE_TOKEN;
use crate::output::sealed::Sealed;
use crate::secret::PersonalAccessToken;
use crate::time::Timestamp;

/// Whose jobs a runner takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunnerType {
    /// Those of the whole instance; the user must be an administrator.
    Instance,
    /// Those of the group of this id; the user must own it.
    Group(u64),
    /// Those of the project of this id; the user must be its maintainer or owner.
    Project(u64),
}

/// The call.
#[derive(Clone, Debug)]
pub struct CreateRunner {
    token: PersonalAccessToken,
    runner_type: RunnerType,
    attributes: Attributes,
    expires_at: Option<Timestamp>,
    rotation_deadline: Option<Timestamp>,
}

impl CreateRunner {
    /// Makes a runner that takes all jobs, tagged or not. The token needs the scope `create_runner` or `api`.
    #[must_use]
    pub fn new(token: PersonalAccessToken, runner_type: RunnerType) -> Self {
        let attributes = Attributes { run_untagged: true, ..Attributes::default() };
        Self { token, runner_type, attributes, expires_at: None, rotation_deadline: None }
    }

    /// The attributes of the new runner.
    #[must_use]
    pub fn with_attributes(mut self, attributes: Attributes) -> Self {
        self.attributes = attributes;
        self
    }
}

impl CreateRunner {
    /// When the new runner's token stops working (GitLab 18.10 and newer): 5 minutes to 15 days ahead.
    #[must_use]
    pub fn with_token_expires_at(mut self, at: Timestamp) -> Self {
        self.expires_at = Some(at);
        self
    }

    /// Until when the token can be reset (GitLab 18.10 and newer). It needs [`CreateRunner::with_token_expires_at`], and must
    /// not be later than that. After it every reset is refused, so rotate before: see
    /// [`rotation_due_before`](super::reset_token::rotation_due_before).
    #[must_use]
    pub fn with_token_rotation_deadline(mut self, at: Timestamp) -> Self {
        self.rotation_deadline = Some(at);
        self
    }
}

impl Sealed for CreateRunner {}

impl Endpoint for CreateRunner {
    type Response = Registered;

    fn request(&self, server: &Server, id: CorrelationId) -> Request<Body> {
        #[derive(Serialize)]
        struct Form<'a> {
            runner_type: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            group_id: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            project_id: Option<u64>,
            #[serde(flatten)]
            attributes: &'a Attributes,
            #[serde(skip_serializing_if = "Option::is_none")]
            token_expires_at: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            token_rotation_deadline: Option<String>,
        }
        let (runner_type, group_id, project_id) = match self.runner_type {
            RunnerType::Instance => ("instance_type", None, None),
            RunnerType::Group(group) => ("group_type", Some(group), None),
            RunnerType::Project(project) => ("project_type", None, Some(project)),
        };
        let form = Form {
            runner_type,
            group_id,
            project_id,
            attributes: &self.attributes,
            token_expires_at: self.expires_at.map(iso),
            token_rotation_deadline: self.rotation_deadline.map(iso),
        };
        let uri = server.api(format_args!("user/runners"));
        request(Method::POST, &uri, id, (PRIVATE_TOKEN, self.token.secret()), JSON, Body::json(&form))
    }

    fn decode(&self, response: &Response<Bytes>) -> Result<Registered, CallError> {
        match response.status() {
            StatusCode::CREATED => Ok(serde_json::from_slice(response.body()).map_err(|e| ProtocolError::json(&e))?),
            _ => Err(CallError::from_response(response, self.token.secret())),
        }
    }

    fn hints(&self) -> Hints {
        Hints::new(CallKind::CreateRunner, Replay::Never)
    }
}

/// The last second of the year 9999: ISO 8601 has no later one.
const LAST: Timestamp = Timestamp::from_millis(253_402_300_799_000);

/// ISO 8601 in UTC, to the second.
fn iso(at: Timestamp) -> String {
    let since = at.min(LAST).saturating_since(Timestamp::EPOCH);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::PersonalAccessToken;

    #[test]
    fn times_are_sent_in_iso_8601_if_they_are_given() {
        let server = Server::parse("https://gitlab.example.test").unwrap();
        let call = CreateRunner::new(PersonalAccessToken::new("t").unwrap(), RunnerType::Instance);
        let sent = |call: &CreateRunner| -> serde_json::Value {
            let request = call.request(&server, CorrelationId::from_bits(1));
            serde_json::from_slice(&request.into_body().into_bytes()).unwrap()
        };
        assert!(sent(&call).get("token_expires_at").is_none());
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1000 + 999);
        let call = call.with_token_expires_at(at(1_750_000_000)).with_token_rotation_deadline(at(u64::MAX / 1001));
        let sent = sent(&call);
        assert_eq!(sent["token_expires_at"], "2025-06-15T15:06:40Z");
        assert_eq!(sent["token_rotation_deadline"], "9999-12-31T23:59:59Z");
    }
}
