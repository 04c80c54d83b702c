//! `PATCH /jobs/:id/trace`: appends to a job's log.
//!
//! GitLab appends if, and only if, the start is exactly the size it has stored. It answers 202 when its size then equals
//! start plus length, so that an exact repeat succeeds; **it does not compare the bytes**. Otherwise nothing is written
//! and 416 tells the stored size, which is the next offset to send.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_RANGE, HeaderValue};
use http::{Method, Request, Response, StatusCode};

use super::{CorrelationId, Endpoint, request};
use crate::body::Body;
use crate::call::{CallKind, Hints, Priority, Replay, ResponseBody};
use crate::config::Server;
use crate::error::CallError;
use crate::headers::{self, JOB_TOKEN};
use crate::output::sealed::Sealed;
use crate::secret::JobToken;
use crate::status::JobStatus;

const PLAIN_TEXT: HeaderValue = HeaderValue::from_static("text/plain");

/// The call.
#[derive(Clone, Debug)]
pub struct PatchTrace {
    job: u64,
    token: JobToken,
    start: u64,
    content: Body,
    debug_trace: bool,
}

impl PatchTrace {
    /// Appends `content` at `start`, the number of bytes sent before it. With no content it asks where the log ends.
    #[must_use]
    pub fn new(job: u64, token: JobToken, start: u64, content: impl Into<Body>) -> Self {
        Self { job, token, start, content: content.into(), debug_trace: false }
    }

    /// Marks the log, on its first piece, as one that GitLab shows to fewer people.
    #[must_use]
    pub fn with_debug_trace(mut self, debug: bool) -> Self {
        self.debug_trace = debug;
        self
    }
}

/// What became of the piece.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceReceipt {
    /// Whether GitLab's log now ends where the piece ends (202). If not (416), go on at `stored`.
    pub accepted: bool,
    /// How many bytes GitLab holds, if it said so.
    pub stored: Option<u64>,
    /// The job's status.
    pub status: Option<JobStatus>,
    /// How long to wait before the next piece.
    pub interval: Option<Duration>,
}

impl Sealed for PatchTrace {}

impl Endpoint for PatchTrace {
    type Response = TraceReceipt;

    fn request(&self, server: &Server, id: CorrelationId) -> Request<Body> {
        let uri = server.api(format_args!("jobs/{}/trace?debug_trace={}", self.job, self.debug_trace));
        let token = (JOB_TOKEN, self.token.secret());
        let mut request = request(Method::PATCH, &uri, id, token, PLAIN_TEXT, self.content.clone());
        // The end is the last byte, without a unit; GitLab reads the start alone, so that an empty piece may end anywhere.
        let last = self.start.saturating_add(self.content.len()).saturating_sub(1).max(self.start);
        if let Ok(range) = HeaderValue::from_str(&format!("{}-{last}", self.start)) {
            request.headers_mut().insert(CONTENT_RANGE, range);
        }
        request
    }

    fn decode(&self, response: &Response<Bytes>) -> Result<TraceReceipt, CallError> {
        let accepted = match response.status() {
            StatusCode::ACCEPTED => true,
            StatusCode::RANGE_NOT_SATISFIABLE => false,
            _ => return Err(CallError::from_response(response, self.token.secret())),
        };
        let headers = response.headers();
        Ok(TraceReceipt {
            accepted,
            stored: headers::stored_size(headers),
            status: headers::job_status(headers),
            interval: headers::update_interval(headers),
        })
    }

    fn hints(&self) -> Hints {
        Hints::new(CallKind::PatchTrace, Replay::Safe)
            .with_deadline(Duration::from_secs(60))
            .with_response(ResponseBody::Discard)
            .with_priority(Priority::Trace)
    }
}
