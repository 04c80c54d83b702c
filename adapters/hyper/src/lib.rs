//! An async GitLab runner: [`gitlab_runner_api`] driven by [hyper](https://docs.rs/hyper) and
//! [tokio](https://docs.rs/tokio).
//!
//! ```
//! use std::io::Write;
//!
//! use gitlab_runner_api_hyper::{Registration, Runner};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! #   use gitlab_runner_api_testkit::{Coordinator, NewJob, Server, Settings};
//! #   let mut gitlab = Coordinator::new(Settings::default());
//! #   gitlab.add_runner("glrt-0123456789");
//! #   gitlab.queue(gitlab_runner_api::Timestamp::EPOCH, NewJob::new("test"));
//! #   let (server, folder) = (Server::start(gitlab)?, tempfile::tempdir()?);
//! #   std::env::set_current_dir(folder.path())?;
//!     let (url, token) = ("https://gitlab.example.com", "glrt-...");
//! #   let (url, token) = (&server.url(), "glrt-0123456789");
//!     let runner = Runner::register(url, token, Registration::new()).await?;
//!     runner.save("my-runner.json")?;                      // atomic, readable by its owner alone
//!
//!     let runner = Runner::load("my-runner.json")?;        // no network
//!     runner.check_auth().await?;
//!     let mut job = runner.next_job().await?;              // request_job() asks once and does not wait
//!     writeln!(job.log(), "Starting job {} for {}", job.id(), job.git_ref())?;
//!     job.success().await?;                                // or job.failed(FailureReason::ScriptFailure).await?
//! #   server.with(|gitlab, _| assert!(gitlab.jobs().all(|job| job.status().as_str() == "success")));
//!     Ok(())
//! }
//! ```
//!
//! It needs the crate `tokio` with the features `macros` and `rt-multi-thread`.
//!
//! [`Runner::run`] is the loop for those who want one: capacity is held before a job is asked for, and a future of yours
//! drains it.
//!
//! # Dropping futures
//!
//! One task of the runtime drives all jobs of a runner; futures of this crate only wait for it. Any of them can be dropped:
//! a job that comes to a caller who has gone is kept for the next one, and failed when the runner goes; a result that was
//! given is delivered. The runtime itself must live until then: [`Runner::delivered`] waits for that.
//!
//! # Other clients
//!
//! [`Transport::from_service`] carries the calls through any `tower` service, [`Transport::with_options`] sets certificates
//! and proxies.
//!
//! The log of a job is kept in memory until the job has ended.

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
pub use gitlab_runner_api::log::{LogLimit, LogOptions, Section, Timestamps, ansi};
pub use gitlab_runner_api::{
    Cancellation, FailureReason, HttpOptions, JobResult, Outcome, PollerEvent, Proxies, ProxyUrl, Secret, Stream,
};
pub use gitlab_runner_api_common::{Registration, write_files};
pub use job::{Job, State};
pub use log::Log;
pub use runner::Runner;
pub use transport::Transport;

/// A panic elsewhere leaves nothing half-done under any of our locks, so that poison means nothing.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The samples of the README, as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
