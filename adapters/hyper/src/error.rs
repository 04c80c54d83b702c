//! What can go wrong for a user of this crate.

use std::io;
use std::path::PathBuf;

use gitlab_runner_api::{
    AbortReason, CallError, ConfigError, ExchangeError, InvalidToken, Outcome, Refusal, Rejection,
};
use gitlab_runner_api_common::FileError;

/// What went wrong. Each is one sentence that says what to do about it; none holds a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A token cannot be one.
    #[error(transparent)]
    Token(#[from] InvalidToken),
    /// GitLab does not know the token: it was mistyped, has expired, was reset, or its runner was removed.
    #[error("{0}; check the token, and that the runner still exists in GitLab")]
    Unauthorized(Rejection),
    /// Registration tokens are switched off at this instance (410).
    #[error("{0}; this GitLab takes no registration tokens: create the runner in GitLab, and use its glrt- token")]
    RegistrationDisabled(Rejection),
    /// Attributes were given for a runner that exists already. GitLab keeps them, and would ignore these.
    #[error("a glrt- token belongs to a runner that exists: change its attributes in GitLab, and leave out {0} here")]
    AttributesIgnored(String),
    /// No answer came, or one that leaves open whether GitLab has carried out the call.
    #[error("{error} ({why})")]
    #[non_exhaustive]
    Unreachable {
        /// Whether the request may have had an effect.
        error: ExchangeError,
        /// The last failure, in words.
        why: String,
    },
    /// Any other call was refused, or its answer could not be read.
    #[error(transparent)]
    Exchange(ExchangeError),
    /// GitLab, or what answers in its place, refuses to hand out jobs.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// GitLab could not be reached.
    #[error("GitLab is not there: {0}; try again later")]
    Unavailable(String),
    /// The answer to a job request was lost. GitLab may have assigned a job that nobody runs, until GitLab's timeouts end it.
    #[error("a job may have been handed out, but the answer was lost: {0}")]
    AssignmentUncertain(String),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    #[non_exhaustive]
    File {
        /// The path of the file.
        path: PathBuf,
        /// What the operating system reported.
        source: io::Error,
    },
    /// A runner file is damaged, is something else, or was written by a newer version. It was not changed.
    #[error("{}: {problem}; the file was not changed", path.display())]
    #[non_exhaustive]
    BadFile {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The text of a runner is damaged, is something else, or was written by a newer version.
    #[error("this text is of no use: {0}")]
    BadText(String),
    /// A certificate or a key cannot be used.
    #[error("TLS cannot be set up: {0}; check the certificates and the key")]
    Tls(String),
    /// The operating system gave no random numbers, or there is no tokio runtime.
    #[error("the system refused: {0}")]
    System(io::Error),
    /// The job already has a result. The first result counts.
    #[error("this job is finished already")]
    AlreadyFinished,
    /// A user cancelled the job; GitLab holds `canceled`, whatever was reported.
    #[error("the job was cancelled in GitLab")]
    Canceled,
    /// GitLab ended the job before its result was reported.
    #[error("{0}")]
    Aborted(AbortReason),
    /// GitLab holds another end of the job than was reported, or refused the report.
    #[error("the job did not end as reported: {0}")]
    NotAsReported(Outcome),
    /// GitLab did not take the result in time. The adapter goes on trying as long as the process lives. To wait again, call
    /// [`crate::Job::wait_delivered`].
    #[error("GitLab has not taken the job's result yet; it is still being sent, wait again")]
    Patience,
}

impl From<FileError> for Error {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Io { path, source, .. } => Self::File { path, source },
            FileError::Bad { path, problem, .. } => Self::BadFile { path, problem },
            other => Self::System(io::Error::other(other)),
        }
    }
}

impl Error {
    /// Returns the error that a refusal of a job request means for the caller.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        match refusal.error {
            CallError::Rejected(rejection) if rejection.status == http::StatusCode::FORBIDDEN => {
                Self::Unauthorized(rejection)
            }
            _ => Self::Refused(refusal),
        }
    }
}
