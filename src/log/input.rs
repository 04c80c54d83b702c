//! The writes that wait to pass the stages.
//!
//! A script writes line by line, and the stages cost far less for one block than for its lines one by one. Writes are therefore copied
//! behind each other, and pass the stages together: when a block is full, or when the result is needed.

use std::fmt;

use bytes::{Bytes, BytesMut};

use super::Stream;
use crate::time::Timestamp;

/// A full block. It fits into the caches that are close to a processor together with what the stages need.
const BLOCK: usize = 32 << 10;

/// A block holds no more parts than this. Parts of one byte each would take 24 times their memory.
const MOST_PARTS: usize = 1024;

/// Room for the write that fills a block, which is not cut where it has a time.
const ROOM: usize = BLOCK + (4 << 10);

/// Writes in their order. They are not masked yet, so `Debug` shows only their size.
#[derive(Clone, Default)]
pub(super) struct Input {
    bytes: BytesMut,
    parts: Vec<Part>,
    /// The last block was full, so that the next one is expected to be.
    is_busy: bool,
}

/// Writes to one stream that go through its stages as one piece.
#[derive(Clone, Copy)]
struct Part {
    stream: Stream,
    /// Where it ends in the block.
    end: usize,
    /// When it was written. Not used without timestamps.
    at: Timestamp,
}

impl Input {
    /// Whether a write of this size is a block by itself, which is not worth copying.
    pub(super) fn is_block(size: usize) -> bool {
        size >= BLOCK
    }

    /// Whether the block is to go through the stages now.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= BLOCK || self.parts.len() >= MOST_PARTS
    }

    /// How much fits into the block.
    pub(super) fn room(&self) -> usize {
        BLOCK.saturating_sub(self.bytes.len()).max(1)
    }

    /// Copies a write. With `timed`, it stays apart from the one before, so that it keeps its time.
    pub(super) fn append(&mut self, stream: Stream, chunk: &[u8], at: Timestamp, timed: bool) {
        // The block before comes back if nothing of it is kept any more.
        let expects_block = self.is_busy || chunk.len() == BLOCK;
        if expects_block && self.bytes.is_empty() && !self.bytes.try_reclaim(ROOM) {
            self.bytes = BytesMut::with_capacity(ROOM);
        }
        self.bytes.extend_from_slice(chunk);
        let end = self.bytes.len();
        match self.parts.last_mut().filter(|last| !timed && last.stream == stream) {
            Some(last) => last.end = end,
            None => self.parts.push(Part { stream, end, at }),
        }
    }

    /// How many bytes wait.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// How many bytes of this stream wait.
    pub(super) fn len_of(&self, stream: Stream) -> u64 {
        let mut start = 0;
        let sizes = self.parts.iter().map(|part| (part.stream, part.end - std::mem::replace(&mut start, part.end)));
        sizes.filter(|(of, _)| *of == stream).map(|(_, size)| size as u64).sum()
    }

    /// Takes out all that waits, in parts. Returns whether the block was full: then the next one finds its room again. If it was not,
    /// let go of the input, since most jobs say little for most of the time.
    pub(super) fn take(&mut self, mut each: impl FnMut(Stream, Bytes, Timestamp)) -> bool {
        self.is_busy = self.is_full();
        let block = self.bytes.split().freeze();
        let mut start = 0;
        for Part { stream, end, at } in self.parts.drain(..) {
            each(stream, block.slice(std::mem::replace(&mut start, end)..end), at);
        }
        self.is_busy
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1);

    fn taken(input: &mut Input) -> Vec<(Stream, String, u64)> {
        let mut parts = Vec::new();
        let text = |bytes: Bytes| String::from_utf8(bytes.into()).unwrap();
        input.take(|stream, bytes, at| parts.push((stream, text(bytes), at.as_millis())));
        parts
    }

    #[test]
    fn writes_to_one_stream_are_joined_unless_each_has_its_time() {
        for (timed, parts) in [
            (false, vec![(Stream::Stdout, "ab".to_owned(), 1), (Stream::Stderr, "c".to_owned(), 3)]),
            (
                true,
                vec![
                    (Stream::Stdout, "a".to_owned(), 1),
                    (Stream::Stdout, "b".to_owned(), 2),
                    (Stream::Stderr, "c".to_owned(), 3),
                ],
            ),
        ] {
            let mut input = Input::default();
            for (number, (stream, text)) in
                [(Stream::Stdout, "a"), (Stream::Stdout, "b"), (Stream::Stderr, "c")].into_iter().enumerate()
            {
                input.append(stream, text.as_bytes(), Timestamp::from_millis(number as u64 + 1), timed);
            }
            assert_eq!((input.len(), input.len_of(Stream::Stdout), input.len_of(Stream::Runner)), (3, 2, 0));
            assert_eq!(taken(&mut input), parts);
            assert_eq!((input.len(), taken(&mut input)), (0, Vec::new()));
        }
    }

    #[test]
    fn a_block_is_full_by_its_bytes_or_by_its_parts() {
        let mut input = Input::default();
        input.append(Stream::Stdout, &[b'x'; BLOCK - 1], NOW, false);
        assert!(!input.is_full());
        input.append(Stream::Stdout, b"x", NOW, false);
        assert!(input.is_full() && !format!("{input:?}").contains('x'), "{input:?}");
        assert!(input.take(|_, _, _| ()) && !input.is_full());
        for number in 0..MOST_PARTS {
            assert!(!input.is_full(), "{number}");
            input.append(Stream::Stdout, b"x", NOW, true);
        }
        assert!(input.is_full());
    }
}
