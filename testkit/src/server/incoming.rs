//! The bodies of requests.

use std::io;

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::coordinator::{Body, Reading};
use crate::form::{Form, FormError, Keep};

/// The largest body that is read into memory. Artifacts are not, and have a limit of their own.
const WHOLE_LIMIT: usize = 64 << 20;

/// Reads a body to its end, as a rule before it is answered. A connection that was closed before the end would take the answer
/// with it.
///
/// # Errors
///
/// The answer, if GitLab is not to see the request.
pub(super) async fn read(headers: &HeaderMap, mut body: Incoming, reading: Reading) -> Result<Body, Response<Bytes>> {
    match reading {
        Reading::Whole => whole(body).await,
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
            let pieces = (&mut body).into_data_stream().map_err(io::Error::other);
            let form = Form::read(kind, pieces, Keep::OnDisk { limit }).await;
            // What follows the end of the form, or the place where it was given up.
            skip(&mut body).await?;
            match form {
                Ok(form) => Ok(Body::Form(form)),
                Err(FormError::Malformed) => Ok(Body::Malformed),
                Err(FormError::TooLarge) => {
                    Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, "the fields of the form are too large"))
                }
                Err(FormError::Io(error)) => Err(refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())),
            }
        }
    }
}

async fn whole(mut body: Incoming) -> Result<Body, Response<Bytes>> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(broken)?;
        let Some(data) = frame.data_ref() else { continue };
        if bytes.len() + data.len() > WHOLE_LIMIT {
            drop(bytes);
            skip(&mut body).await?;
            return Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"));
        }
        bytes.extend_from_slice(data);
    }
    Ok(Body::Whole(bytes.freeze()))
}

/// Reads the rest of a body and forgets it.
async fn skip(body: &mut Incoming) -> Result<(), Response<Bytes>> {
    while let Some(frame) = body.frame().await {
        frame.map_err(broken)?;
    }
    Ok(())
}

/// The answer to a body that broke off. As a rule nobody is there to read it.
fn broken(error: hyper::Error) -> Response<Bytes> {
    refusal(StatusCode::BAD_REQUEST, &error.to_string())
}

fn refusal(status: StatusCode, why: &str) -> Response<Bytes> {
    let mut response = Response::new(format!("{why}\n").into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}
