//! The body of a request, as hyper wants it.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// The body of a request, of known length. Its chunks are the very buffers the log was written in: nothing is copied.
pub struct RequestBody {
    chunks: std::vec::IntoIter<Bytes>,
    left: u64,
}

impl From<gitlab_runner_api::Body> for RequestBody {
    fn from(body: gitlab_runner_api::Body) -> Self {
        Self { left: body.len(), chunks: body.into_chunks().into_iter() }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.chunks.find(|chunk| !chunk.is_empty());
        self.left -= next.as_ref().map_or(0, |chunk| chunk.len() as u64);
        Poll::Ready(next.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestBody({} bytes left)", self.left)
    }
}
