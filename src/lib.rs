//! Sans-IO state machines for the GitLab Runner API.

pub mod api;
mod backoff;
mod body;
mod call;
mod config;
mod error;
mod exchange;
#[doc(hidden)]
pub mod headers;
mod job;
mod log;
pub mod manual;
mod output;
mod poller;
mod reply;
mod rng;
mod secret;
mod snapshot;
mod status;
mod throttle;
mod time;

pub use api::job_spec::{Assignment, JobSpec};
pub use body::{Body, BodyReader};
pub use call::{Call, CallKind, ERROR_BODY_LIMIT, Hints, Priority, Replay, ResponseBody, Scope, Ticket};
pub use config::{Retain, RunnerConfig, Server, SystemId};
pub use error::{CallError, ConfigError, Misuse, ProtocolError, Rejection};
pub use exchange::{Exchange, ExchangeError};
pub use job::{AbortReason, Cancellation, Job, JobEvent, JobResult, JobSnapshot, Outcome, WaitReason, Written};
pub use log::Stream;
pub use output::{Machine, Output};
pub use poller::{Poller, PollerEvent, Refusal, Uncertainty};
pub use reply::{Cause, Failure, Received};
pub use secret::{InvalidToken, JobToken, RegistrationToken, RunnerToken, Secret};
pub use snapshot::ResumeError;
pub use status::{FailureReason, JobState, JobStatus, UnknownWord};
pub use throttle::Throttle;
pub use time::Timestamp;
