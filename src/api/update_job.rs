//! `PUT /jobs/:id`: accepts a job, keeps it alive, and reports how it ended.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde::Serialize;

use super::{CorrelationId, Endpoint, JSON, request};
use crate::body::Body;
use crate::call::{CallKind, Hints, Priority, Replay, ResponseBody};
use crate::config::Server;
use crate::error::CallError;
use crate::headers::{self, JOB_TOKEN};
use crate::output::sealed::Sealed;
use crate::secret::JobToken;
use crate::status::{FailureReason, JobState, JobStatus};

/// The checksum and size of a log, as GitLab compares them with what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogDigest {
    /// CRC-32 (IEEE) of all bytes.
    pub crc32: u32,
    /// How many bytes.
    pub bytesize: u64,
}

impl LogDigest {
    /// The digest of a log with this checksum and size.
    #[must_use]
    pub const fn new(crc32: u32, bytesize: u64) -> Self {
        Self { crc32, bytesize }
    }
}

/// The call.
#[derive(Clone, Debug)]
pub struct UpdateJob {
    job: u64,
    token: JobToken,
    report: Report,
}

#[derive(Clone, Debug)]
enum Report {
    Running,
    Final {
        state: JobState,
        failure_reason: Option<FailureReason>,
        exit_code: Option<i32>,
        digest: Option<LogDigest>,
        environment_key: Option<String>,
    },
}

/// GitLab answers 400 to a report with a longer key, in characters.
const ENVIRONMENT_KEY_LIMIT: usize = 4096;

pub(crate) fn is_environment_key(key: &str) -> bool {
    (1..=ENVIRONMENT_KEY_LIMIT).contains(&key.chars().count())
}

impl UpdateJob {
    /// `state=running`: accepts the job, or keeps it alive; the answer tells whether it is cancelled.
    #[must_use]
    pub fn running(job: u64, token: JobToken) -> Self {
        Self { job, token, report: Report::Running }
    }

    /// `state=success`.
    #[must_use]
    pub fn success(job: u64, token: JobToken) -> Self {
        Self::ended(job, token, JobState::Success, None, None)
    }

    /// `state=failed`. An exit code of 0 is not sent.
    #[must_use]
    pub fn failed(job: u64, token: JobToken, reason: FailureReason, exit_code: Option<i32>) -> Self {
        let exit_code = exit_code.filter(|code| *code != 0);
        Self::ended(job, token, JobState::Failed, Some(reason), exit_code)
    }

    fn ended(
        job: u64,
        token: JobToken,
        state: JobState,
        failure_reason: Option<FailureReason>,
        exit_code: Option<i32>,
    ) -> Self {
        let report = Report::Final { state, failure_reason, exit_code, digest: None, environment_key: None };
        Self { job, token, report }
    }

    /// The environment that was suspended; no part of `state=running`. A key that is empty or has more than 4096 characters
    /// is left out, because GitLab refuses the whole report with it.
    #[must_use]
    pub fn with_runtime_environment_key(mut self, key: impl Into<String>) -> Self {
        if let Report::Final { environment_key, .. } = &mut self.report {
            *environment_key = Some(key.into()).filter(|key| is_environment_key(key));
        }
        self
    }

    /// The log's checksum and size; no part of `state=running`. Without them GitLab ends the job at once and compares
    /// nothing.
    #[must_use]
    pub fn with_digest(mut self, of_log: LogDigest) -> Self {
        if let Report::Final { digest, .. } = &mut self.report {
            *digest = Some(of_log);
        }
        self
    }
}

/// GitLab took the state.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Updated {
    /// Whether that is all (200). If not (202), the log is not archived yet: send the same call again after the
    /// interval.
    pub completed: bool,
    /// The job's status *after* the call. Servers of 13 do not say.
    pub status: Option<JobStatus>,
    /// How long to wait before the next call.
    pub interval: Option<Duration>,
}

impl Sealed for UpdateJob {}

impl Endpoint for UpdateJob {
    type Response = Updated;

    fn request(&self, server: &Server, id: CorrelationId) -> Request<Body> {
        #[derive(Serialize)]
        struct Form<'a> {
            token: &'a str,
            state: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            failure_reason: Option<&'a FailureReason>,
            #[serde(skip_serializing_if = "Option::is_none")]
            exit_code: Option<i32>,
            #[serde(skip_serializing_if = "Option::is_none")]
            checksum: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            runtime_environment_key: Option<&'a str>,
            /// What GitLab 19.0 to 19.3 call it. A server skips parameters that it does not know.
            #[serde(skip_serializing_if = "Option::is_none")]
            environment_key: Option<&'a str>,
            output: Output,
        }
        #[derive(Default, Serialize)]
        struct Output {
            #[serde(skip_serializing_if = "Option::is_none")]
            checksum: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            bytesize: Option<u64>,
        }
        let token = self.token.expose();
        let form = match &self.report {
            Report::Running => Form {
                token,
                state: "running",
                failure_reason: None,
                exit_code: None,
                checksum: None,
                runtime_environment_key: None,
                environment_key: None,
                output: Output::default(),
            },
            Report::Final { state, failure_reason, exit_code, digest, environment_key } => {
                let checksum = digest.map(|digest| format!("crc32:{:08x}", digest.crc32));
                let output = Output { checksum: checksum.clone(), bytesize: digest.map(|digest| digest.bytesize) };
                let (failure_reason, exit_code) = (failure_reason.as_ref(), *exit_code);
                let key = environment_key.as_deref();
                Form {
                    token,
                    state: state.as_str(),
                    failure_reason,
                    exit_code,
                    checksum,
                    runtime_environment_key: key,
                    environment_key: key,
                    output,
                }
            }
        };
        let uri = server.api(format_args!("jobs/{}", self.job));
        request(Method::PUT, &uri, id, (JOB_TOKEN, self.token.secret()), JSON, Body::json(&form))
    }

    fn decode(&self, response: &Response<Bytes>) -> Result<Updated, CallError> {
        let completed = match response.status() {
            StatusCode::OK => true,
            StatusCode::ACCEPTED => false,
            _ => return Err(CallError::from_response(response, self.token.secret())),
        };
        let headers = response.headers();
        let (status, interval) = (headers::job_status(headers), headers::update_interval(headers));
        Ok(Updated { completed, status, interval })
    }

    fn hints(&self) -> Hints {
        let priority = match self.report {
            Report::Running => Priority::KeepAlive,
            Report::Final { .. } => Priority::FinalUpdate,
        };
        Hints::new(CallKind::UpdateJob, Replay::Safe)
            .with_deadline(Duration::from_secs(60))
            // GitLab's body says nothing, but that of a login page tells it from GitLab's answer.
            .with_response(ResponseBody::Truncate { limit: 4096 })
            .with_priority(priority)
    }
}
