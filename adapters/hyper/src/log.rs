//! The writers to the log of a job.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use gitlab_runner_api::{Stream, Written};
use tokio::io::AsyncWrite;

use crate::shared::Shared;

/// A writer to a job's log. Clones write to the same log. The bytes of one write stay together.
///
/// There are three ways to write, and all keep their order:
///
/// - [`Log::send`] takes a buffer as it is, and waits while 4 MiB or more are not acknowledged.
/// - [`AsyncWrite`], for `tokio::io::copy` and the like, copies, and waits in the same way.
/// - [`io::Write`], for `writeln!`, copies, and never waits: what is written is kept, in memory or in a temporary file, until it is sent.
///
/// Once the job has a result or is over, writing fails with [`io::ErrorKind::BrokenPipe`].
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    stream: Stream,
}

impl Log {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, stream: Stream::Runner }
    }

    /// The same log, written as another stream.
    #[must_use]
    pub fn stream(&self, stream: Stream) -> Self {
        Self { shared: self.shared.clone(), stream }
    }

    /// Tells the log that the stream of this writer has ended, see [`Job::close_stream`](crate::Job::close_stream). Neither dropping a
    /// writer nor shutting it down does that, because other writers may write to the same stream.
    pub fn close_stream(&self) {
        self.shared.log(|job, now| job.close_stream(self.stream, now));
    }

    /// Appends a buffer, a large one without a copy. Waits while 4 MiB or more are not acknowledged. If the future is dropped while it
    /// waits, nothing is appended.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::BrokenPipe`] if the job has a result or is over.
    pub async fn send(&self, chunk: impl Into<Bytes>) -> io::Result<()> {
        let chunk = chunk.into();
        poll_fn(|context| self.shared.poll_room(context)).await;
        taken(self.shared.write(self.stream, chunk))
    }

    fn copy(&self, buffer: &[u8]) -> io::Result<usize> {
        taken(self.shared.copy(self.stream, buffer)).map(|()| buffer.len())
    }
}

fn taken(written: Written) -> io::Result<()> {
    match written {
        Written::Queued => Ok(()),
        Written::Ended => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the job has ended and takes no more log")),
    }
}

impl io::Write for Log {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.copy(buffer)
    }

    /// The log is sent in the background; there is nothing to flush.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncWrite for Log {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(self.shared.poll_copy(self.stream, buffer, context));
        Poll::Ready(taken(written).map(|()| buffer.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("stream", &self.stream).finish_non_exhaustive()
    }
}
