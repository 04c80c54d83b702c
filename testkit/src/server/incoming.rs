//! The bodies of requests.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use tokio::time::Sleep;

use super::budget::Share;
use crate::coordinator::{Body, Reading};
use crate::form::{Form, FormError, Keep};

/// The largest body that is read into memory. Artifacts are not, and have a limit of their own.
const WHOLE_LIMIT: usize = 64 << 20;

/// A body that fails if its sender is silent for too long. Otherwise a client that sends half of a body would hold memory and a connection
/// for ever.
pub(super) struct TimedBody {
    body: Incoming,
    client_timeout: Duration,
    /// Runs while no bytes arrive.
    silence: Option<Pin<Box<Sleep>>>,
}

impl TimedBody {
    pub(super) fn new(body: Incoming, client_timeout: Duration) -> Self {
        Self { body, client_timeout, silence: None }
    }
}

impl hyper::body::Body for TimedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.silence = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)));
        }
        let client_timeout = this.client_timeout;
        let silence = this.silence.get_or_insert_with(|| Box::pin(tokio::time::sleep(client_timeout)));
        silence.as_mut().poll(cx).map(|()| Some(Err(io::ErrorKind::TimedOut.into())))
    }
}

/// Reads a body to its end, as a rule before it is answered. A connection that was closed before the end would take the answer
/// with it. `share` grows with what is kept in memory.
///
/// # Errors
///
/// The answer, if GitLab is not to see the request.
pub(super) async fn read(
    headers: &HeaderMap,
    mut body: TimedBody,
    reading: Reading,
    share: &mut Share,
) -> Result<Body, Response<Bytes>> {
    match reading {
        Reading::Whole => whole(body, share).await,
        Reading::Discard => {
            skip(&mut body).await?;
            Ok(Body::Discarded)
        }
        Reading::AnswerFirst => {
            // A connection with bytes that nobody reads would be closed, and the answer might be lost with it.
            tokio::spawn(async move { skip(&mut body).await });
            Ok(Body::Discarded)
        }
        Reading::Form { limit } => {
            let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            let pieces = (&mut body).into_data_stream();
            let form = Form::read(kind, pieces, Keep::OnDisk { limit }).await;
            // What follows the end of the form, or the place where it was given up.
            skip(&mut body).await?;
            match form {
                Ok(form) => Ok(Body::Form(form)),
                Err(FormError::Malformed) => Ok(Body::Malformed),
                Err(FormError::TooLarge) => {
                    Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, "the fields of the form are too large"))
                }
                Err(FormError::Io(error)) if error.kind() == io::ErrorKind::TimedOut => Err(broken(&error)),
                Err(FormError::Io(error)) => Err(refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())),
            }
        }
    }
}

async fn whole(mut body: TimedBody, share: &mut Share) -> Result<Body, Response<Bytes>> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(&error))?;
        let Some(data) = frame.data_ref() else { continue };
        let size = bytes.len() + data.len();
        let fits = size <= WHOLE_LIMIT;
        if !fits || !share.grow_to(size) {
            drop(bytes);
            skip(&mut body).await?;
            return Err(if fits {
                refusal(StatusCode::SERVICE_UNAVAILABLE, "too many large requests are on their way")
            } else {
                refusal(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large")
            });
        }
        bytes.extend_from_slice(data);
    }
    Ok(Body::Whole(bytes.freeze()))
}

/// Reads the rest of a body and forgets it.
async fn skip(body: &mut TimedBody) -> Result<(), Response<Bytes>> {
    while let Some(frame) = body.frame().await {
        frame.map_err(|error| broken(&error))?;
    }
    Ok(())
}

/// The answer to a body that broke off. As a rule nobody is there to read it.
fn broken(error: &io::Error) -> Response<Bytes> {
    if error.kind() == io::ErrorKind::TimedOut {
        return refusal(StatusCode::REQUEST_TIMEOUT, "the rest of the body did not come");
    }
    refusal(StatusCode::BAD_REQUEST, &error.to_string())
}

pub(super) fn refusal(status: StatusCode, why: &str) -> Response<Bytes> {
    let mut response = Response::new(format!("{why}\n").into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}
