//! An async GitLab runner. It connects [`gitlab_runner_api`] with [hyper](https://docs.rs/hyper) and
//! [tokio](https://docs.rs/tokio).
//!
//! ```
//! use std::io::Write;
//!
//! use gitlab_runner_api_hyper::{Registration, Runner};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! #   use gitlab_runner_api_testkit::{Coordinator, NewJob, Server, Settings, TimeLimit};
//! #   let mut gitlab = Coordinator::new(Settings::default());
//! #   gitlab.add_runner("glrt-0123456789");
//! #   gitlab.queue(gitlab_runner_api::Timestamp::EPOCH, NewJob::new("test"));
//! #   let (server, folder) = (Server::start(gitlab)?.with_time_limit(TimeLimit::TEST), tempfile::tempdir()?);
//! #   std::env::set_current_dir(folder.path())?;
//!     let (url, token) = ("https://gitlab.example.com", "glrt-...");
//! #   let (url, token) = (&server.url(), "glrt-0123456789");
//!     let runner = Runner::register(url, token, Registration::new()).await?;
//!     // Replaces the file atomically. Only its owner can read it.
//!     runner.save("my-runner.json")?;
//!
//!     // Does not use the network.
//!     let runner = Runner::load("my-runner.json")?;
//!     runner.check_auth().await?;
//!     // Waits until there is a job. `request_job` asks once.
//!     let mut job = runner.next_job().await?;
//!     writeln!(job.log(), "Starting job {} for {}", job.id(), job.git_ref())?;
//!     // Or `job.failed(FailureReason::ScriptFailure).await?`.
//!     job.success().await?;
//! #   server.with(|gitlab, _| assert!(gitlab.jobs().all(|job| job.status().as_str() == "success")));
//!     Ok(())
//! }
//! ```
//!
//! The sample needs the crate `tokio` with the features `macros` and `rt-multi-thread`.
//!
//! # Many jobs
//!
//! [`Runner::run`] serves many jobs. It asks for a job only while fewer jobs run than you allow. When a future that you
//! give it completes, it takes no new jobs and returns after the current ones have ended.
//!
//! # Dropping futures
//!
//! One task of the runtime drives all jobs of a runner. The futures of this crate only wait for that task, so that you
//! can drop any of them:
//!
//! - If a job arrives after its caller has gone, the next caller gets it. If there is none when the runner is dropped,
//!   the job is reported to GitLab as failed.
//! - If you drop the future of [`Job::success`] or [`Job::failed`] after it was polled, the result is delivered all the
//!   same.
//!
//! The runtime must live until the results are delivered. [`Runner::delivered`] waits for that.
//!
//! # TLS, proxies and other clients
//!
//! [`Transport::with_options`] sets certificates and proxies. [`Transport::from_service`] sends the requests through
//! any `tower` service.
//!
//! # What is missing
//!
//! This adapter registers runners, takes jobs, writes logs and reports results. The crate `gitlab-runner-api-ureq` can
//! do more: it stores jobs on disk and resumes them in another process, transfers artifacts, creates and unregisters
//! runners, resets tokens, and reads the files of the Python package `gitlab_runner_api`. For other calls, use the
//! endpoints in [`gitlab_runner_api::api`] with [`gitlab_runner_api::Exchange`] and [`Transport::exchange`].
//!
//! # Memory
//!
//! The log of a job is kept until the job has ended, because GitLab may lose a part of it. More than 2 MiB of it moves to a temporary
//! file, in the folder that [`std::env::temp_dir`] names. If no file can be written there, it stays in memory.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod body;
mod clock;
mod connect;
mod driver;
mod driver_state;
mod error;
mod job;
mod link;
mod log;
mod run;
mod runner;
mod shared;
mod spool;
mod tls;
mod transport;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use body::RequestBody;
pub use error::Error;
pub use gitlab_runner_api;
pub use gitlab_runner_api::log::{LogLimit, LogOptions, Section, Timestamps, ansi};
pub use gitlab_runner_api::{
    Cancellation, FailureReason, HttpOptions, JobResult, Masked, Outcome, PollerEvent, Proxies, ProxyUrl, Secret,
    Stream,
};
pub use gitlab_runner_api_common::{Registration, write_files};
pub use job::{Job, State};
pub use log::Log;
pub use runner::Runner;
pub use transport::Transport;

/// We never leave shared state half-updated across a panic, so a poisoned lock is safe to use.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The samples of the README, as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
