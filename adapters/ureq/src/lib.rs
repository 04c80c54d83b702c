//! A blocking GitLab runner. It connects [`gitlab_runner_api`] with [ureq](https://docs.rs/ureq).
//!
//! ```
//! use std::io::Write;
//!
//! use gitlab_runner_api_ureq::{Registration, Runner};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//! #   use gitlab_runner_api_testkit::{Coordinator, NewJob, Server, Settings, TimeLimit};
//! #   let mut gitlab = Coordinator::new(Settings::default());
//! #   gitlab.add_runner("glrt-0123456789");
//! #   gitlab.queue(gitlab_runner_api::Timestamp::EPOCH, NewJob::new("test"));
//! #   let (server, folder) = (Server::start(gitlab)?.with_time_limit(TimeLimit::TEST), tempfile::tempdir()?);
//! #   std::env::set_current_dir(folder.path())?;
//!     let (url, token) = ("https://gitlab.example.com", "glrt-...");
//! #   let (url, token) = (&server.url(), "glrt-0123456789");
//!     let runner = Runner::register(url, token, Registration::new())?;
//!     // Replaces the file atomically. Only its owner can read it.
//!     runner.save("my-runner.json")?;
//!
//!     // Does not use the network.
//!     let mut runner = Runner::load("my-runner.json")?;
//!     runner.check_auth()?;
//!     // Asks once. `next_job` waits until there is a job.
//!     if let Some(mut job) = runner.request_job()? {
//!         writeln!(job.log(), "Starting job {} for {}", job.id(), job.git_ref())?;
//!         // Or `job.failed(FailureReason::ScriptFailure)?`.
//!         job.success()?;
//!     } else {
//!         println!("No jobs are currently available");
//! #       panic!("there is one");
//!     }
//! #   server.with(|gitlab, _| assert!(gitlab.jobs().all(|job| job.status().as_str() == "success")));
//!     Ok(())
//! }
//! ```
//!
//! # Many jobs
//!
//! [`Runner::run`] serves many jobs. It asks for a job only while fewer jobs run than you allow. After [`Stop::drain`]
//! it takes no new jobs and returns when the current ones have ended.
//!
//! Each job has a thread that drives it. The thread sends the log, keeps the job alive, notices a cancellation, and
//! repeats the result until GitLab has it.
//!
//! The log of a job is kept until the job has ended, because GitLab may lose a part of it: in the record of the job, if it has one,
//! and otherwise 2 MiB of it in memory, and up to 6 MiB while it waits to be sent. The rest moves to a temporary file, in the folder
//! that [`std::env::temp_dir`] names. If no file can be written there, it stays in memory.
//!
//! # Jobs that outlive their process
//!
//! A record is a folder that holds the log, the state and the payload of a job. [`Job::save`] creates it, and
//! [`Job::load`] resumes the job from it. With [`Runner::with_state_dir`] every job gets a record, and
//! [`Runner::recover`] resumes the jobs of a process that died.
//!
//! Only one process can have a record open. A second one gets [`Error::Held`], which names the first. If you store jobs
//! in a database, use [`JobRecord`]: it holds a whole job as one text.
//!
//! # What is missing
//!
//! Everything here blocks the calling thread. For async code use the crate `gitlab-runner-api-hyper`, which can do less
//! so far. For another HTTP client use the core, [`gitlab_runner_api`], directly. Artifacts are sent and received as
//! they are, and held in memory meanwhile: packing and unpacking archives is up to the application. A token that is
//! about to expire is not replaced by itself, see [`Runner::rotation_due`].

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
mod stop;
mod tls;
mod transport;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use error::Error;
pub use gitlab_runner_api;
pub use gitlab_runner_api::log::{LogLimit, LogOptions, Section, Timestamps, ansi};
pub use gitlab_runner_api::{
    Cancellation, FailureReason, HttpOptions, JobRecord, JobResult, Masked, Outcome, PollerEvent, Proxies, ProxyUrl,
    Secret, Stream,
};
pub use gitlab_runner_api_common::{Registration, write_files};
pub use instance::Instance;
pub use job::{Artifact, Job, Log, State};
pub use run::RunEvent;
pub use runner::{Recovered, Runner};
pub use stop::Stop;
pub use transport::Transport;

/// We never leave shared state half-updated across a panic, so a poisoned lock is safe to use.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The samples of the README, as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
