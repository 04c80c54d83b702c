//! An async GitLab runner.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod body;
mod clock;
mod connect;
mod driver;
mod error;
mod hub;
mod job;
mod link;
mod log;
mod run;
mod runner;
mod shared;
mod tls;
mod transport;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use body::RequestBody;
pub use error::Error;
pub use gitlab_runner_api;
pub use gitlab_runner_api::{
    Cancellation, FailureReason, HttpOptions, JobResult, Outcome, PollerEvent, Proxies, ProxyUrl, Stream,
};
pub use gitlab_runner_api_files::Registration;
pub use job::{Job, State};
pub use log::Log;
pub use runner::Runner;
pub use transport::Transport;

/// A panic elsewhere leaves nothing half-done under any of our locks, so that poison means nothing.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
