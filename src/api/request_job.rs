//! `POST /jobs/request`: asks for a job.
//!
//! **Not idempotent**: a job that is handed out is handed out once. If the answer is lost, so is the job, until GitLab's
//! timeouts find it (servers with two-phase commit put it back after two minutes).

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use serde::Serialize;

use super::info::Info;
use super::job_spec::Assignment;
use super::{CorrelationId, Endpoint, Identity, runner_request};
use crate::body::Body;
use crate::call::{CallKind, Hints, Priority, Replay, ResponseBody};
use crate::config::{RunnerConfig, Server, SystemId};
use crate::error::CallError;
use crate::headers;
use crate::output::sealed::Sealed;
use crate::secret::RunnerToken;

/// The call.
#[derive(Clone, Debug)]
pub struct RequestJob {
    token: RunnerToken,
    info: Info,
    system_id: Option<SystemId>,
    last_update: Option<String>,
    deadline: Duration,
    payload_limit: u64,
}

impl RequestJob {
    /// Asks for a job as the runner of this configuration.
    #[must_use]
    pub fn new(token: RunnerToken, config: &RunnerConfig) -> Self {
        Self {
            token,
            info: config.info.clone(),
            system_id: config.system_id.clone(),
            last_update: None,
            deadline: config.job_request_deadline,
            payload_limit: config.payload_limit,
        }
    }

    /// The last `X-GitLab-Last-Update` seen. With it GitLab may hold the request until there is something new (long
    /// polling); without it the answer comes at once.
    #[must_use]
    pub fn with_last_update(mut self, value: Option<String>) -> Self {
        self.last_update = value;
        self
    }

    pub(crate) fn set_last_update(&mut self, value: &str) {
        if self.last_update.as_deref() != Some(value) {
            self.last_update = Some(value.to_owned());
        }
    }
}

/// What came of asking.
#[derive(Debug)]
#[non_exhaustive]
pub enum JobRequestAnswer {
    /// 201: a job.
    Job(Assignment),
    /// 204: none at the moment; and the value to ask with next time, if the server said one. Keep the old one if not.
    #[non_exhaustive]
    None {
        /// The header `X-GitLab-Last-Update`.
        last_update: Option<String>,
    },
    /// 409: another runner was faster. Ask again soon.
    Conflict,
}

impl Sealed for RequestJob {}

impl Endpoint for RequestJob {
    type Response = JobRequestAnswer;

    fn request(&self, server: &Server, id: CorrelationId) -> Request<Body> {
        #[derive(Serialize)]
        struct Form<'a> {
            #[serde(flatten)]
            identity: Identity<'a>,
            #[serde(skip_serializing_if = "Option::is_none")]
            last_update: Option<&'a str>,
        }
        let token = self.token.secret();
        let identity = Identity::new(token, &self.info, self.system_id.as_ref());
        let form = Form { identity, last_update: self.last_update.as_deref() };
        runner_request(&server.api(format_args!("jobs/request")), id, token, &form)
    }

    /// A 201 whose payload cannot be decoded is a [`crate::ProtocolError::Unreadable`]. The job exists all the same: see
    /// [`Assignment::salvage`].
    fn decode(&self, response: &Response<Bytes>) -> Result<JobRequestAnswer, CallError> {
        match response.status() {
            StatusCode::CREATED => Ok(JobRequestAnswer::Job(Assignment::from_json(response.body().clone())?)),
            StatusCode::NO_CONTENT => {
                let last_update = headers::last_update(response.headers()).map(str::to_owned);
                Ok(JobRequestAnswer::None { last_update })
            }
            StatusCode::CONFLICT => Ok(JobRequestAnswer::Conflict),
            _ => Err(CallError::from_response(response, self.token.secret())),
        }
    }

    fn hints(&self) -> Hints {
        Hints::new(CallKind::RequestJob, Replay::Never)
            .with_deadline(self.deadline)
            .with_response(ResponseBody::collect(self.payload_limit))
            .with_priority(Priority::RequestJob)
    }
}
