//! An async GitLab runner.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod body;
mod connect;
mod error;
mod tls;
mod transport;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use body::RequestBody;
pub use error::Error;
pub use gitlab_runner_api;
pub use transport::Transport;

/// A panic elsewhere leaves nothing half-done under any of our locks, so that poison means nothing.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
