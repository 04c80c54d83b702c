//! The endpoints of the Runner API, one module each: encode a request, decode an answer, hold no state.
//!
//! Everything here is usable alone, with any HTTP client: build a value, send what [`Endpoint::request`] gives, hand the
//! answer to [`Endpoint::decode`]. Retries, offsets and the order of calls are the machines' business.
//!
//! ```
//! use gitlab_runner_api::api::{CorrelationId, Endpoint, info::Info, verify::Verify};
//! use gitlab_runner_api::{RunnerToken, Server};
//!
//! let server = Server::parse("https://gitlab.example.com")?;
//! let verify = Verify::new(RunnerToken::new("glrt-0123456789")?, &Info::new("my-runner", "1.0.0"));
//! let request = verify.request(&server, CorrelationId::from_bits(1));
//! assert_eq!(request.uri(), "https://gitlab.example.com/api/v4/runners/verify");
//!
//! let answer = http::Response::builder().status(200).body(r#"{"id":12,"token":"glrt-0123456789"}"#.into())?;
//! assert_eq!(verify.decode(&answer)?.id, Some(12));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod artifacts;
pub mod create_runner;
pub mod info;
pub mod job_spec;
pub(crate) mod members;
pub mod patch_trace;
pub mod register;
pub mod request_job;
pub mod reset_token;
pub mod router;
pub mod runtime_environment_key;
pub mod unregister;
pub mod update_job;
pub mod verify;

use std::fmt;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response};
use serde::Serialize;

use crate::body::Body;
use crate::call::Hints;
use crate::config::{Server, SystemId};
use crate::error::CallError;
use crate::headers;
use crate::output::sealed::Sealed;
use crate::secret::Secret;
use info::Info;

/// One call of the API.
pub trait Endpoint: Sealed {
    /// What a good answer says.
    type Response;

    /// The request, complete but for what HTTP itself adds (`Host`, `Content-Length`) and a `User-Agent`.
    fn request(&self, server: &Server, id: CorrelationId) -> Request<Body>;

    /// Reads the answer, whatever its status.
    ///
    /// # Errors
    ///
    /// [`CallError::Rejected`] if GitLab said no, [`CallError::Protocol`] if the answer is not one of GitLab's.
    fn decode(&self, response: &Response<Bytes>) -> Result<Self::Response, CallError>;

    /// Reads the answer to a call that was sent before, and may have been carried out then.
    ///
    /// The same as [`Endpoint::decode`], but for calls whose second answer is a refusal *because* the first was taken.
    ///
    /// # Errors
    ///
    /// Those of [`Endpoint::decode`].
    fn decode_repeated(&self, response: &Response<Bytes>) -> Result<Self::Response, CallError> {
        self.decode(response)
    }

    /// How the call is to be carried out.
    fn hints(&self) -> Hints;
}

/// The `X-Request-Id` of a call: 32 hex digits, by which an administrator finds it in GitLab's logs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CorrelationId(u128);

impl CorrelationId {
    /// An id from random bits.
    #[must_use]
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    pub(crate) fn draw(rng: &mut crate::rng::Rng) -> Self {
        Self(u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64()))
    }
}

impl fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CorrelationId({self})")
    }
}

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Puts a request together. `uri` comes from a checked [`Server`] and numbers, `token` is a checked one: neither can be
/// refused by `http`, and a token that could not be a header is left out, which the server answers with 403. A call whose
/// token is in the body alone has none.
pub(crate) fn request<'a>(
    method: Method,
    uri: &str,
    id: CorrelationId,
    token: impl Into<Option<(HeaderName, &'a Secret)>>,
    content_type: HeaderValue,
    body: Body,
) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri.parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    if let Some((name, value)) = token.into().and_then(|(name, secret)| Some((name, secret.header()?))) {
        headers.insert(name, value);
    }
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        headers.insert(headers::REQUEST_ID, value);
    }
    request
}

/// What register, verify and job request have in common. GitLab remembers it of the first of them for most of an hour.
#[derive(Serialize)]
pub(crate) struct Identity<'a> {
    token: &'a str,
    info: &'a Info,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_id: Option<&'a SystemId>,
}

impl<'a> Identity<'a> {
    pub(crate) fn new(token: &'a Secret, info: &'a Info, system_id: Option<&'a SystemId>) -> Self {
        Self { token: token.expose(), info, system_id }
    }
}

/// A call of a runner about itself: a form that wants JSON back.
pub(crate) fn runner_request(uri: &str, id: CorrelationId, token: &Secret, form: &impl Serialize) -> Request<Body> {
    let mut request = request(Method::POST, uri, id, (headers::RUNNER_TOKEN, token), JSON, Body::json(form));
    request.headers_mut().insert(ACCEPT, JSON);
    request
}

/// A moment that a server names, unless it is in the year 1: servers written in Go name that where they know of none.
pub(crate) fn known_time(time: Option<String>) -> Option<String> {
    time.filter(|time| !time.starts_with("0001-"))
}

/// A call that only asks.
pub(crate) fn get_request(uri: &str, id: CorrelationId, token: (HeaderName, &Secret)) -> Request<Body> {
    let mut request = request(Method::GET, uri, id, token, JSON, Body::empty());
    request.headers_mut().remove(CONTENT_TYPE);
    request
}
