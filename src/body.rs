//! Request bodies, handed to the transport without a copy.

use std::fmt;
use std::io;

use bytes::{Buf, Bytes};

/// The body of a request: a list of byte chunks, sent one after the other.
///
/// The chunks of a log patch are the very buffers the log was written in. Take them with [`Body::into_chunks`], as one
/// buffer with [`Body::into_bytes`], or read them with [`Body::reader`]. `Debug` shows the length alone, because bodies
/// hold tokens.
#[derive(Clone, Default)]
pub struct Body(Chunks);

#[derive(Clone, Default)]
enum Chunks {
    #[default]
    None,
    One(Bytes),
    Many(Vec<Bytes>),
}

impl Body {
    /// No body at all.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Chunks::None)
    }

    pub(crate) fn json(value: &impl serde::Serialize) -> Self {
        // Only maps with keys that are not strings, or a failing `Serialize`, can make this fail; ours have neither.
        serde_json::to_vec(value).map_or_else(|_| Self::empty(), Self::from)
    }

    /// The exact number of bytes, to be sent as `Content-Length`.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.chunks().iter().map(|chunk| chunk.len() as u64).sum()
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks().iter().all(Bytes::is_empty)
    }

    /// The chunks in order. None of them is promised to be non-empty.
    #[must_use]
    pub fn chunks(&self) -> &[Bytes] {
        match &self.0 {
            Chunks::None => &[],
            Chunks::One(bytes) => std::slice::from_ref(bytes),
            Chunks::Many(list) => list,
        }
    }

    /// The chunks in order, without a copy.
    #[must_use]
    pub fn into_chunks(self) -> Vec<Bytes> {
        match self.0 {
            Chunks::None => Vec::new(),
            Chunks::One(bytes) => vec![bytes],
            Chunks::Many(list) => list,
        }
    }

    /// The whole body in one buffer; copies only if there are several chunks.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        match self.0 {
            Chunks::None => Bytes::new(),
            Chunks::One(bytes) => bytes,
            Chunks::Many(list) => list.concat().into(),
        }
    }

    /// The body as a reader, for blocking clients.
    #[must_use]
    pub fn reader(self) -> BodyReader {
        BodyReader { chunks: self.into_chunks().into_iter(), current: Bytes::new() }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Chunks::One(bytes.into()))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(Chunks::One(bytes))
    }
}

impl From<Vec<Bytes>> for Body {
    fn from(chunks: Vec<Bytes>) -> Self {
        Self(Chunks::Many(chunks))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.len())
    }
}

/// Reads a [`Body`] from front to back.
pub struct BodyReader {
    chunks: std::vec::IntoIter<Bytes>,
    current: Bytes,
}

impl io::Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.next() {
                Some(next) => self.current = next,
                None => return Ok(0),
            }
        }
        let count = io::Read::read(&mut self.current.as_ref(), buffer)?;
        self.current.advance(count);
        Ok(count)
    }
}

impl fmt::Debug for BodyReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyReader").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn chunks_are_read_in_order_and_shared_not_copied() {
        let first = Bytes::from(vec![1, 2, 3]);
        let body = Body::from(vec![first.clone(), Bytes::new(), Bytes::from_static(&[4])]);
        assert_eq!(body.len(), 4);
        assert_eq!(body.chunks()[0].as_ptr(), first.as_ptr());
        let mut read = Vec::new();
        body.clone().reader().read_to_end(&mut read).unwrap();
        assert_eq!(read, [1, 2, 3, 4]);
        assert_eq!(body.into_bytes(), read);
    }

    #[test]
    fn debug_shows_no_content() {
        assert_eq!(format!("{:?}", Body::from(b"canary".to_vec())), "Body(6 bytes)");
    }
}
