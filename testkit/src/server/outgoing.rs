//! The bodies of answers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;

use super::budget::{Budget, SMALL, Share};
use crate::content::Content;

/// How much of a file is read at once.
const PIECE: usize = 256 << 10;

/// The body of an answer. A file is read while it is sent, so that it needs little memory.
#[derive(Debug)]
pub(super) struct Outgoing {
    content: Content,
    /// So many bytes were handed out.
    sent: u64,
    /// The next piece of a file, read on another thread because the disk may be slow.
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Outgoing {
    pub(super) fn new(content: Content) -> Self {
        Self { content, sent: 0, reading: None }
    }

    /// Takes a part of the budget, until the last byte has left the memory. Returns whether there is room for it.
    pub(super) fn count(&mut self, budget: &Arc<Budget>) -> bool {
        let Some(bytes) = self.content.in_memory().filter(|bytes| bytes.len() > SMALL).cloned() else { return true };
        let mut share = budget.share();
        let fits = share.grow_to(bytes.len());
        self.content = Content::from(Bytes::from_owner(Counted { bytes, _share: share }));
        fits
    }
}

/// Bytes with their part of the budget. The connection keeps pieces of them for longer than the body of the answer lives.
struct Counted {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.is_end_stream() {
            return Poll::Ready(None);
        }
        let piece = if let Some(whole) = this.content.in_memory() {
            Ok(whole.clone())
        } else {
            let reading = this.reading.get_or_insert_with(|| {
                let (content, at) = (this.content.clone(), this.sent);
                tokio::task::spawn_blocking(move || content.read_at(at, PIECE))
            });
            let read = ready!(Pin::new(reading).poll(cx));
            this.reading = None;
            read.map_err(io::Error::other).and_then(|piece| piece)
        };
        if let Ok(piece) = &piece {
            this.sent += piece.len() as u64;
        }
        Poll::Ready(Some(piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.sent >= self.content.len()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.content.len() - self.sent)
    }
}
