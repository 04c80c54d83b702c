//! What a network does to a request and its answer.

use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

/// What a network does to a request and its answer: a [`Front`](crate::Front), or the faults of the simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Treatment {
    /// GitLab answers.
    Deliver,
    /// GitLab acts at once, and its answer comes so much later.
    Delay(Duration),
    /// The connection is closed before GitLab sees the request.
    LoseRequest,
    /// GitLab acts, and the connection is closed before its answer comes.
    LoseAnswer,
    /// Something on the way answers with this status, and a `Retry-After` of 0.
    Answer(u16),
}

impl Treatment {
    /// The page that something on the way answers with.
    pub(crate) fn page(status: u16) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from_static(b"<html>Something on the way</html>"));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("0"));
        response
    }
}
