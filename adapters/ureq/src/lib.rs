//! A GitLab runner that blocks: [`gitlab_runner_api`] driven by [ureq](https://docs.rs/ureq).
//!
//! ```
//! use std::io::Write;
//!
//! use gitlab_runner_api_ureq::{Registration, Runner};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//! #   use gitlab_runner_api_testkit::{Coordinator, NewJob, Server, Settings};
//! #   let mut gitlab = Coordinator::new(Settings::default());
//! #   gitlab.add_runner("glrt-0123456789");
//! #   gitlab.queue(gitlab_runner_api::Timestamp::EPOCH, NewJob::new("test"));
//! #   let (server, folder) = (Server::start(gitlab)?, tempfile::tempdir()?);
//! #   std::env::set_current_dir(folder.path())?;
//!     let (url, token) = ("https://gitlab.example.com", "glrt-...");
//! #   let (url, token) = (&server.url(), "glrt-0123456789");
//!     let runner = Runner::register(url, token, Registration::new())?;
//!     runner.save("my-runner.json")?;                      // atomic, readable by its owner alone
//!
//!     let mut runner = Runner::load("my-runner.json")?;    // no network
//!     runner.check_auth()?;
//!     if let Some(mut job) = runner.request_job()? {       // one request; next_job() waits
//!         writeln!(job.log(), "Starting job {} for {}", job.id(), job.git_ref())?;
//!         job.success()?;                                  // or job.failed(FailureReason::ScriptFailure)?
//!     } else {
//!         println!("No jobs are currently available");
//! #       panic!("there is one");
//!     }
//! #   server.with(|gitlab, _| assert!(gitlab.jobs().all(|job| job.status().as_str() == "success")));
//!     Ok(())
//! }
//! ```
//!
//! [`Runner::run`] is the loop for those who want one: capacity is held before a job is asked for, and a [`Stop`] drains
//! it. For another HTTP client, or an async one, see the core.
//!
//! The log of a job is kept in memory until the job has ended, or in its record if it has one.
//!
//! # Jobs that outlive their process
//!
//! [`Job::save`] and [`Job::load`] keep a job in a folder of its own, and [`Runner::with_state_dir`] does so for every job;
//! [`Runner::recover`] takes up what a process left that died. A record is for one process at a time: a second one is told who
//! holds it ([`Error::Held`]). [`JobRecord`] is the same as one text.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod clock;
mod driver;
mod error;
mod exchange;
mod instance;
mod job;
mod link;
mod record;
mod run;
mod runner;
mod tls;
mod transport;

pub use error::Error;
pub use gitlab_runner_api;
pub use gitlab_runner_api::log::{LogLimit, LogOptions, Section, Timestamps, ansi};
pub use gitlab_runner_api::{
    Cancellation, FailureReason, HttpOptions, JobRecord, JobResult, Outcome, PollerEvent, Proxies, ProxyUrl, Secret,
    Stream,
};
pub use gitlab_runner_api_common::{Registration, write_files};
pub use instance::Instance;
pub use job::{Artifact, Job, Log, State};
pub use run::{RunEvent, Stop};
pub use runner::{Recovered, Runner};
pub use transport::Transport;

/// The samples of the README, as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
