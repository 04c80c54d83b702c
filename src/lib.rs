//! The GitLab Runner API as state machines without I/O.
//!
//! This crate builds [`http::Request`]s and consumes [`http::Response`]s. Your HTTP client sends them. Between the two,
//! the crate does the work of a runner that talks to GitLab:
//!
//! - It asks for jobs, and tells you if the answer to such a request was lost.
//! - It keeps the log of a job complete, whatever the network does.
//! - It notices when a user cancels a job.
//! - It delivers the result of a job, even after an outage of hours.
//! - It goes on with a job after the process was restarted.
//!
//! The crate has no socket, clock, thread, file or async runtime. It works with every HTTP client, and a test can check
//! all of its behaviour without a GitLab.
//!
//! It does not run the scripts of jobs. Your application decides how and where they run.
//!
//! If you want a complete runner and have no HTTP client to bring, use an adapter: `gitlab-runner-api-ureq` for
//! blocking code, or `gitlab-runner-api-hyper` for tokio. The ureq adapter can do more today: only it stores jobs on
//! disk, transfers artifacts and manages runner tokens.
//!
//! # The parts
//!
#![doc = include_str!("manual/parts.svg")]
//!
//! This crate has three layers. The endpoints can be used alone.
//!
//! - [`api`]: the endpoints. They encode a request and decode its answer.
//! - The state machines. A [`Poller`] asks for jobs. A [`Job`] takes one job from its acceptance to its result. An
//!   [`Exchange`] makes any other call and repeats it until there is an answer. All of them implement [`Machine`].
//! - [`Throttle`]: shares rate-limit responses between state machines. When one of them receives a 429, the others wait
//!   too.
//!
//! # The methods of a driver
//!
//! A driver is the code that connects a state machine with an HTTP client. It calls these methods of [`Machine`]:
//!
//! - [`poll`](Machine::poll) returns what to do next: send a request, hand an event to the application, wait, or stop.
//! - [`handle_response`](Machine::handle_response) takes the response to a request.
//! - [`handle_failure`](Machine::handle_failure) takes the failure of a request that has no response. For a client that returns a
//!   `Result`, [`handle_outcome`](Machine::handle_outcome) calls the right one of these two.
//! - [`hold_until`](Machine::hold_until) delays the next request of one kind, for example because a [`Throttle`] asks for
//!   it.
//!
//! The current time is an argument of the first three.
//!
//! ```
//! use gitlab_runner_api::api::{info::Info, verify::Verify};
//! use gitlab_runner_api::{Body, Exchange, Failure, Machine, Output};
//! use gitlab_runner_api::{RunnerConfig, RunnerToken, Server, Timestamp};
//!
//! /// Asks GitLab whether it knows a runner token, and prints the id of the runner.
//! ///
//! /// `send` is your HTTP client. It sends a request unchanged and returns the response.
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
//!                 machine.handle_outcome(ticket, send(request), now())?;
//!             }
//!             Output::Event(result) => println!("this is runner {:?}", result?.id),
//!             Output::Wait(Some(until)) => std::thread::sleep(until.saturating_since(now())),
//!             // Only an input can help now, and this loop has none to give.
//!             Output::Wait(None) => return Err("nothing can happen any more".into()),
//!             Output::Done => return Ok(()),
//!         }
//!     }
//! }
//! # let answer = |_| Ok(http::Response::builder().status(200).body(br#"{"id":12}"#.to_vec()).unwrap());
//! # verify("https://gitlab.example.com", "glrt-0123456789", answer).unwrap();
//! ```
//!
//! # The life of a job
//!
#![doc = include_str!("manual/job.svg")]
//!
//! A [`Job`] is *running* until the application calls [`Job::finish`] with the result. It is *finishing* until GitLab
//! has the whole log and has confirmed the result, and *closed* from then on. A cancellation by a user does not close
//! the job. GitLab expects the runner to stop the script, run `after_script` and then finish the job. Only if GitLab
//! ends the job by itself, the job closes with [`JobEvent::Aborted`]. The application can take a
//! [`snapshot`](Job::snapshot) at any time, and [`resume`](Job::resume) the job from it later.
//!
//! # Where to read on
//!
//! - [`manual::driving`]: the complete loop of a runner, many jobs at once, and how to stop.
//! - [`log`]: what happens to the log of a job before it is sent.
//! - [`manual::durability`]: what to save and when, so that a job survives a crash.
//! - [`manual::protocol`]: what each answer of GitLab means to the state machines.
//! - [`manual::adapters`]: what an HTTP client has to do for the state machines.
//! - [`manual::performance`]: what a job costs in time and memory.
//! - [`manual::coming_from_python`]: where to find what the Python package `gitlab_runner_api` offered.
//!
//! # What you can rely on
//!
//! - What GitLab has of the log is always a prefix of what the application wrote, apart from the changes that [`log`]
//!   names. Nothing in it is lost, doubled or reordered.
//! - The result is sent after GitLab has acknowledged the whole log. Only a log that is refused for longer than
//!   [`RunnerConfig::with_log_patience`] says does not hold the result back. The result is sent again until GitLab has
//!   confirmed it, or has refused it for good.
//! - With the default settings, neither failed calls nor the error pages of a proxy end a running job within an hour. Only
//!   GitLab's own refusal ends it at once. [`manual::protocol`] says how that is recognised, and what cannot be told from
//!   it.
//! - Each state machine has at most one call in flight. It never repeats a call that is not safe to repeat.
//! - Whatever the answers are, a state machine sends at most 26 calls in any minute, and 380 in any hour, that achieve
//!   nothing.
//! - The value of a masked variable, and the job's own token, are replaced with `[MASKED]` wherever one stream of a job
//!   prints them unchanged, however the output is cut into writes. Some other forms of a value are not recognised: see
//!   [`log`], which names them.
//! - No token and no variable appears in any `Debug` or `Display` output, event, error or snapshot.
//! - No input from a server, a file or a caller makes this crate panic.
//!
//! # Features
//!
//! - `zeroize`: overwrites secrets in memory when they are dropped. It is off by default.

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
mod identity;
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

pub use api::job_spec::{Assignment, JobSpec, Loss, LossKind};
pub use body::{Body, BodyReader};
pub use call::{
    Call, CallKind, ERROR_BODY_LIMIT, Hints, Priority, Replay, ResponseBody, Scope, Scopes, Ticket, WrongMachine,
};
pub use config::{Retain, RunnerConfig, Server, SystemId};
pub use error::{CallError, ConfigError, Misuse, ProtocolError, Rejection};
pub use exchange::{Exchange, ExchangeError};
pub use http_options::{HttpOptions, Proxies, ProxyUrl};
pub use job::{AbortReason, Cancellation, Job, JobEvent, JobResult, JobSnapshot, Masked, Outcome, WaitReason, Written};
pub use log::Stream;
pub use output::{Machine, Output};
pub use poller::{Poller, PollerEvent, Refusal, Uncertainty};
pub use record::JobRecord;
pub use reply::{Cause, Failure, Received};
pub use secret::{InvalidToken, JobToken, PersonalAccessToken, RegistrationToken, RunnerToken, Secret};
pub use snapshot::ResumeError;
pub use status::{FailureReason, JobState, JobStatus, UnknownWord};
pub use throttle::Throttle;
pub use time::{AnchoredClock, Timestamp};

/// The samples of the README, as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
