//! What a vector needs of a simulated GitLab, however it is reached.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Map, Value};

/// Tokens that a simulated GitLab has from the start.
pub(crate) const REGISTRATION_TOKEN: &str = "GR1348941spec";
pub(crate) const ACCESS_TOKEN: &str = "glpat-spec";
pub(crate) const RUNNER_TOKEN: &str = "glrt-spec";
/// Where the clock stands at first, in seconds since 1970. It is a full minute, with which windows of rate limits begin, and
/// vectors mention this time.
pub(crate) const START: u64 = 1_700_000_040;
/// The URL of the instance in payloads.
pub(crate) const EXTERNAL_URL: &str = "https://gitlab.example.test";

/// What becomes of a request.
pub(crate) enum Sent {
    Answered(Response<Bytes>),
    /// [`Gitlab::wait`] answers it.
    Held,
}

/// A simulated GitLab with one runner, whose number is 1. Time begins at [`START`] and stands still unless it is let pass.
///
/// Errors are sentences that say what cannot be brought about.
pub(crate) trait Gitlab {
    /// The time, in milliseconds since 1970.
    fn now(&mut self) -> Result<u64, String>;
    fn pass(&mut self, time: Duration) -> Result<(), String>;
    /// Sets the time to so many seconds since 1970.
    fn set_clock(&mut self, unix: u64) -> Result<(), String>;

    fn set(&mut self, settings: Map<String, Value>) -> Result<(), String>;
    fn add_user(&mut self, token: &str, role: &str, scopes: &[&str]) -> Result<(), String>;
    /// Members as in `POST /_sim/registration_tokens`.
    fn add_registration_token(&mut self, registration: &Value) -> Result<(), String>;
    fn set_runner_type(&mut self, runner: u64, kind: &str) -> Result<(), String>;
    /// Something happens to a runner: `pause` or `orphan`.
    fn happen_to_runner(&mut self, runner: u64, what: &str) -> Result<(), String>;

    /// Queues a job that is described as `POST /_sim/jobs` takes it. Returns its number and its token.
    fn queue(&mut self, job: Value) -> Result<(u64, String), String>;
    /// Something happens to a job, as in `POST /_sim/jobs/:id/…`.
    fn happen_to_job(&mut self, job: u64, what: &str, with: Value) -> Result<(), String>;

    fn submit(&mut self, request: Request<Bytes>) -> Result<Sent, String>;
    /// Waits until the held request is answered.
    fn wait(&mut self) -> Result<Response<Bytes>, String>;

    /// A job, as `GET /_sim/jobs/:id` shows it.
    fn job(&mut self, job: u64) -> Result<Value, String>;
    fn trace(&mut self, job: u64) -> Result<Bytes, String>;
    fn artifact(&mut self, job: u64, kind: &str) -> Result<Option<Bytes>, String>;
    fn count_runners(&mut self) -> Result<usize, String>;
    /// A runner, as `GET /_sim/runners/:id` shows it. `None` if there is none.
    fn runner(&mut self, runner: u64) -> Result<Option<Value>, String>;
}

/// A number of seconds as milliseconds. Numbers in JSON are not exact.
pub(crate) fn millis(seconds: f64) -> Result<u64, String> {
    let time = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    u64::try_from(time.saturating_add(Duration::from_micros(500)).as_millis()).map_err(|error| error.to_string())
}
