//! Where a job is in its life, and the words for how it may end.

use std::fmt;

use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::api::update_job::LogDigest;
use crate::error::Rejection;
use crate::status::{FailureReason, JobState, JobStatus};
use crate::time::Timestamp;

/// What the application says of a job that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobResult {
    pub(super) state: JobState,
    pub(super) reason: Option<FailureReason>,
    pub(super) exit_code: Option<i32>,
}

impl JobResult {
    /// The job did what it should.
    #[must_use]
    pub const fn success() -> Self {
        Self { state: JobState::Success, reason: None, exit_code: None }
    }

    /// The job failed for this reason. It is mapped to one the server knows, as the payload lists them.
    #[must_use]
    pub const fn failed(reason: FailureReason) -> Self {
        Self { state: JobState::Failed, reason: Some(reason), exit_code: None }
    }

    /// What the exit code of the job's script says: 0 is success, all else `script_failure` with that code.
    #[must_use]
    pub const fn from_exit_code(code: i32) -> Self {
        match code {
            0 => Self::success(),
            code => Self::failed(FailureReason::ScriptFailure).with_exit_code(code),
        }
    }

    /// The exit code of what failed, for `allow_failure:exit_codes` and `retry:exit_codes`. 0 is not sent.
    #[must_use]
    pub const fn with_exit_code(mut self, code: i32) -> Self {
        self.exit_code = Some(code);
        self
    }

    /// Success or failure.
    #[must_use]
    pub const fn state(&self) -> JobState {
        self.state
    }
}

/// How a finished job ended at GitLab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// GitLab holds `success`.
    Success,
    /// GitLab holds `failed`, as reported.
    Failed,
    /// GitLab holds `canceled`, whatever was reported: a user cancelled the job.
    Canceled,
    /// GitLab holds another final state than was reported.
    Overruled(JobStatus),
    /// GitLab refused the report for ten minutes on end. The job is left to its timeouts.
    Refused(Rejection),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success => f.write_str("success"),
            Self::Failed => f.write_str("failed"),
            Self::Canceled => f.write_str("canceled"),
            Self::Overruled(status) => write!(f, "overruled: GitLab says {status}"),
            Self::Refused(rejection) => write!(f, "the report was refused: {rejection}"),
        }
    }
}

/// Why a job is over before its result was reported. Kill what still runs; nothing more can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AbortReason {
    /// A user cancelled the job.
    #[error("the job was cancelled in GitLab")]
    Canceled,
    /// GitLab failed the job: a timeout, a log over the limit, a dropped project.
    #[error("GitLab failed the job")]
    Failed,
    /// GitLab takes no more calls about the job (403): it has ended, was erased, or its token is no longer valid.
    #[error("GitLab accepts nothing more for this job")]
    Forbidden,
    /// Nothing but 404 for as long as [`crate::RunnerConfig::with_not_found_patience`] says.
    #[error("GitLab does not know the job")]
    NotFound,
}

/// How urgently a job is to stop. A level, so that a missed event cannot hurt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "an ignored level of cancellation is a job that keeps running")]
pub enum Cancellation {
    /// Go on.
    #[default]
    None,
    /// Stop the script, run `after_script`, then finish: the job ends as `canceled` whatever is reported.
    Requested,
    /// It is over: kill everything.
    Aborted,
}

/// Where the machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The log grows.
    Running,
    /// The result stands; log and report are to be delivered.
    Finishing(Box<Finishing>),
    /// It is over.
    Closed(Closed),
}

/// What is known of a report on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Finishing {
    pub(super) result: JobResult,
    /// The report was on the wire, so that GitLab may have it.
    pub(super) sent: bool,
    /// The checksum and size first reported. They never change.
    #[serde(skip)]
    pub(super) digest: Option<LogDigest>,
    /// Checksum and size are no longer reported.
    pub(super) without_digest: bool,
    /// How often GitLab said 412.
    pub(super) mismatches: u8,
    /// How often GitLab said 202.
    pub(super) accepted: u8,
    /// When GitLab first said 202.
    pub(super) accepted_since: Option<Timestamp>,
    /// When GitLab began to say nothing but 400.
    pub(super) refused_since: Option<Timestamp>,
    /// Not to be repeated before.
    pub(super) not_before: Timestamp,
}

impl Finishing {
    pub(super) fn new(result: JobResult) -> Box<Self> {
        Box::new(Self {
            result,
            sent: false,
            digest: None,
            without_digest: false,
            mismatches: 0,
            accepted: 0,
            accepted_since: None,
            refused_since: None,
            not_before: Timestamp::EPOCH,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Closed {
    Finished(Outcome),
    Aborted(AbortReason),
}

/// The three members of a [`Rejection`] in their stored form.
#[derive(Serialize, Deserialize)]
struct StoredRejection {
    status: u16,
    message: String,
    request_id: Option<String>,
}

impl Serialize for Rejection {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (status, message, request_id) = (self.status.as_u16(), self.message.clone(), self.request_id.clone());
        StoredRejection { status, message, request_id }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Rejection {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let StoredRejection { status, message, request_id } = Deserialize::deserialize(deserializer)?;
        let status = StatusCode::from_u16(status).map_err(serde::de::Error::custom)?;
        Ok(Self { status, message, request_id })
    }
}
