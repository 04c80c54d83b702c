//! `POST /user/runners`: makes a runner in the name of a user.
//!
//! This is how GitLab wants runners to be made: the token that comes back starts with `glrt-` and is put to use with
//! [`super::verify`]. Not idempotent: each call makes one more runner.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde::Serialize;

use super::register::{Attributes, Registered};
use super::{CorrelationId, Endpoint, JSON, request};
use crate::body::Body;
use crate::call::{CallKind, Hints, Priority, Replay, ResponseBody};
use crate::config::Server;
use crate::error::{CallError, ProtocolError};
use crate::headers::PRIVATE_TOKEN;
use crate::output::sealed::Sealed;
use crate::secret::PersonalAccessToken;

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
}

impl CreateRunner {
    /// Makes a runner that takes all jobs, tagged or not. The token needs the scope `create_runner` or `api`.
    #[must_use]
    pub fn new(token: PersonalAccessToken, runner_type: RunnerType) -> Self {
        Self { token, runner_type, attributes: Attributes { run_untagged: true, ..Attributes::default() } }
    }

    /// The attributes of the new runner.
    #[must_use]
    pub fn with_attributes(mut self, attributes: Attributes) -> Self {
        self.attributes = attributes;
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
        }
        let (runner_type, group_id, project_id) = match self.runner_type {
            RunnerType::Instance => ("instance_type", None, None),
            RunnerType::Group(group) => ("group_type", Some(group), None),
            RunnerType::Project(project) => ("project_type", None, Some(project)),
        };
        let form = Form { runner_type, group_id, project_id, attributes: &self.attributes };
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
        Hints {
            kind: CallKind::CreateRunner,
            deadline: Duration::from_secs(30),
            replay: Replay::Never,
            response: ResponseBody::Collect { limit: 1 << 20 },
            priority: Priority::Other,
        }
    }
}
