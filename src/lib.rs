//! The GitLab Runner API as state machines without I/O.
//!
//! This crate builds [`http::Request`]s and consumes [`http::Response`]s. In between it does what makes a runner a good
//! one: it polls for jobs without losing any, keeps a job's log complete whatever the network does, notices a
//! cancellation, delivers the result through any outage, and survives being restarted at any moment. It holds no socket,
//! clock, thread, file or runtime, so that it works with every HTTP client, and its every behaviour can be tested without
//! a GitLab.
//!
//! It does not run jobs: what a job's script *does* is yours.
//!
//! If you want a runner and not a protocol, start with the adapter `gitlab-runner-api-ureq`.
//!
//! # Three layers
//!
//! - [`api`]: the endpoints. Encode a request, decode an answer. Usable alone.
//! - Machines: [`Poller`] asks for jobs, a [`Job`] takes one through its life, an [`Exchange`] carries any other call
//!   through retries. All are driven by the same four verbs, see [`Machine`].
//! - [`Throttle`]: what one machine was told about rates, for the others to hear.
//!
//! # The four verbs
//!
//! [`poll`](Machine::poll) says what to do next; [`handle_response`](Machine::handle_response) and
//! [`handle_failure`](Machine::handle_failure) bring a call's outcome back; [`hold_until`](Machine::hold_until) makes it
//! wait. Time is an argument.
//!
//! ```
//! use gitlab_runner_api::api::{info::Info, verify::Verify};
//! use gitlab_runner_api::{Body, Exchange, Failure, Machine, Output, RunnerConfig, RunnerToken, Server, Timestamp};
//!
//! /// Asks GitLab whether it knows a runner token, and prints the number of the runner.
//! ///
//! /// `send` is your HTTP client. It sends the request as it is, and returns whatever comes back.
//! fn verify(
//!     url: &str,
//!     token: &str,
//!     send: impl Fn(http::Request<Body>) -> Result<http::Response<Vec<u8>>, Failure>,
//! ) -> Result<(), Box<dyn std::error::Error>> {
//!     let info = Info::new("my-runner", "1.0.0").with_platform("linux", "amd64");
//!     let config = RunnerConfig::new(Server::parse(url)?, info);
//!     let verify = Verify::new(RunnerToken::new(token)?, config.info());
//!
//!     let now = || Timestamp::from(std::time::SystemTime::now()); // your clock
//!     let mut machine = Exchange::new(&config, verify, now());
//!     loop {
//!         match machine.poll(now()) {
//!             Output::Send(call) => {
//!                 let (request, ticket) = call.split();
//!                 match send(request) {
//!                     Ok(response) => machine.handle_response(ticket, response, now())?,
//!                     Err(failure) => machine.handle_failure(ticket, failure, now())?,
//!                 }
//!             }
//!             Output::Event(result) => println!("this is runner {:?}", result?.id),
//!             Output::Wait(Some(until)) => std::thread::sleep(until.saturating_since(now())),
//!             // It waits for an input that has no time, and this loop has no other input to give.
//!             Output::Wait(None) => return Err("nothing can happen any more".into()),
//!             Output::Done => return Ok(()),
//!         }
//!     }
//! }
//! # let answer = |_| Ok(http::Response::builder().status(200).body(br#"{"id":12}"#.to_vec()).unwrap());
//! # verify("https://gitlab.example.com", "glrt-0123456789", answer).unwrap();
//! ```
//!
//! # Where to read on
//!
//! - [`manual::driving`]: the loop of a runner, complete; many jobs; stopping.
//! - [`log`]: what is done with a job's log before it is sent.
//! - [`manual::durability`]: what to save and when, so that a job survives anything.
//! - [`manual::protocol`]: what each answer of GitLab is taken to mean.
//! - [`manual::adapters`]: what an HTTP client owes the machines.
//! - [`manual::coming_from_python`]: where everything is that the Python package `gitlab_runner_api` had.
//!
//! # What you can rely on
//!
//! - GitLab's log is always a prefix of what was written: nothing is lost, doubled or reordered.
//! - The result is sent when all of the log is acknowledged, and again until GitLab has it or says that it will not.
//! - A running job is ended early by an answer that looks like GitLab's refusal, never by a number of failed calls. A proxy
//!   that answers 403 can imitate such a refusal: [`manual::protocol`] lists what ends a job.
//! - At most one call of a machine is on the wire. A call that must not be repeated is not.
//! - The value of a masked variable is replaced with `[MASKED]` wherever a job prints it as it is, however the output is
//!   cut into writes. Some other forms of a value are not recognised: see [`log`].
//! - No token or variable shows in any `Debug`, `Display`, event, error or snapshot.
//! - Nothing panics on what a server, a file or a caller hands in.
//!
//! # Features
//!
//! - `zeroize`: overwrite secrets in memory when they are dropped.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod api;
mod backoff;
mod body;
mod call;
mod config;
mod error;
mod exchange;
#[doc(hidden)]
pub mod headers;
mod http_options;
mod job;
pub mod log;
pub mod manual;
mod output;
mod poller;
mod record;
mod reply;
mod rng;
mod secret;
mod snapshot;
mod status;
mod throttle;
mod time;
pub mod variables;

pub use api::job_spec::{Assignment, JobSpec};
pub use body::{Body, BodyReader};
pub use call::{Call, CallKind, ERROR_BODY_LIMIT, Hints, Priority, Replay, ResponseBody, Scope, Ticket};
pub use config::{Retain, RunnerConfig, Server, SystemId};
pub use error::{CallError, ConfigError, Misuse, ProtocolError, Rejection};
pub use exchange::{Exchange, ExchangeError};
pub use http_options::{HttpOptions, Proxies, ProxyUrl};
pub use job::{AbortReason, Cancellation, Job, JobEvent, JobResult, JobSnapshot, Outcome, WaitReason, Written};
pub use log::Stream;
pub use output::{Machine, Output};
pub use poller::{Poller, PollerEvent, Refusal, Uncertainty};
pub use record::JobRecord;
pub use reply::{Cause, Failure, Received};
pub use secret::{InvalidToken, JobToken, PersonalAccessToken, RegistrationToken, RunnerToken, Secret};
pub use snapshot::ResumeError;
pub use status::{FailureReason, JobState, JobStatus, UnknownWord};
pub use throttle::Throttle;
pub use time::Timestamp;

/// The samples of the README, as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
