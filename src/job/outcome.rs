//! The types that say how a job ended: the result, the outcome, the reason of an abort, and the cancellation.

use std::fmt;

use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::api::update_job::is_environment_key;
use crate::error::Rejection;
use crate::status::{FailureReason, JobState, JobStatus};

/// The result of a job, as the application reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobResult {
    pub(super) state: JobState,
    pub(super) reason: Option<FailureReason>,
    pub(super) exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) environment_key: Option<String>,
}

impl JobResult {
    /// The job succeeded.
    #[must_use]
    pub const fn success() -> Self {
        Self { state: JobState::Success, reason: None, exit_code: None, environment_key: None }
    }

    /// The job failed for this reason. If the server does not know the reason, as the payload says, it is replaced as in the official runner.
    #[must_use]
    pub const fn failed(reason: FailureReason) -> Self {
        Self { state: JobState::Failed, reason: Some(reason), exit_code: None, environment_key: None }
    }

    /// The result for an exit code of the job's script: 0 means success, and all others `script_failure` with that code.
    #[must_use]
    pub const fn from_exit_code(code: i32) -> Self {
        match code {
            0 => Self::success(),
            code => Self::failed(FailureReason::ScriptFailure).with_exit_code(code),
        }
    }

    /// Sets the exit code, for `allow_failure:exit_codes` and `retry:exit_codes`. 0 is not sent.
    #[must_use]
    pub const fn with_exit_code(mut self, code: i32) -> Self {
        self.exit_code = Some(code);
        self
    }

    /// Sets the key of the suspended environment, by which the job that continues in it finds it (`suspend_options` of the payload). GitLab
    /// refuses a report with a key that is empty or has more than 4096 characters, so such a key is left out.
    #[must_use]
    pub fn with_runtime_environment_key(mut self, key: impl Into<String>) -> Self {
        self.environment_key = Some(key.into()).filter(|key| is_environment_key(key));
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
    /// GitLab refused the report for as long as [`crate::RunnerConfig::with_report_patience`] says. The job is left to its
    /// timeouts.
    Refused(Rejection),
    /// GitLab most likely holds this state. The report may have arrived without an answer, and then GitLab refused the token of
    /// the job, as it does soon after a job has ended. It also does so when the job was erased meanwhile.
    Inferred(JobStatus),
    /// It is not known what GitLab holds. The report may have arrived. Since then every answer was a 403 that GitLab has not written, for as
    /// long as [`crate::RunnerConfig::with_forbidden_patience`] says.
    Unconfirmed,
}

impl Outcome {
    /// The state that GitLab holds, also if it is [inferred](Outcome::Inferred). `None` if it is not known.
    #[must_use]
    pub fn status(&self) -> Option<JobStatus> {
        match self {
            Self::Success => Some(JobStatus::Success),
            Self::Failed => Some(JobStatus::Failed),
            Self::Canceled => Some(JobStatus::Canceled),
            Self::Overruled(status) | Self::Inferred(status) => Some(status.clone()),
            Self::Refused(_) | Self::Unconfirmed => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success => f.write_str("success"),
            Self::Failed => f.write_str("failed"),
            Self::Canceled => f.write_str("canceled"),
            Self::Overruled(status) => write!(f, "overruled: GitLab says {status}"),
            Self::Refused(rejection) => write!(f, "the report was refused: {rejection}"),
            Self::Inferred(status) => {
                write!(f, "{status}, as far as can be told: GitLab takes nothing more for the job")
            }
            Self::Unconfirmed => f.write_str("unconfirmed: the report was sent, and only others have answered since"),
        }
    }
}

/// Why a job ended before its result was reported. Kill what still runs; nothing more can be sent.
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
    /// GitLab accepts no more calls for the job (403): it has ended, was erased, or its token is no longer valid. This is also the reason if
    /// every answer was a 403 for as long as [`crate::RunnerConfig::with_forbidden_patience`] says, whoever wrote it.
    #[error("GitLab, or a server on the way to it, accepts nothing more for this job")]
    Forbidden,
    /// GitLab did not let this runner accept the job (400, and the job is still `pending`): the runner manager that took it is
    /// gone. GitLab fails the job two minutes later, and may run it again as a new one.
    #[error("GitLab did not let this runner accept the job")]
    NotAccepted,
    /// Every answer was a 404 for as long as [`crate::RunnerConfig::with_not_found_patience`] says.
    #[error("GitLab does not know the job")]
    NotFound,
}

/// How urgently a job must stop.
///
/// This is a level, not an edge: reading it later still tells you about a cancellation whose event you missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "an ignored level of cancellation is a job that keeps running")]
pub enum Cancellation {
    /// The job is not cancelled.
    #[default]
    None,
    /// A user cancelled the job. Stop the script, run `after_script`, then finish. The job ends as `canceled`, whatever is reported.
    Requested,
    /// GitLab has ended the job. Kill all its processes.
    Aborted,
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
