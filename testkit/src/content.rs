//! The content of a file: in memory, or in a temporary file.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use tempfile::{SpooledData, SpooledTempFile};

/// How much is read at once where two contents are compared.
const PIECE: usize = 64 << 10;

/// The content of a file that a job left.
///
/// A [`Server`](crate::Server) writes larger uploads to temporary files, so that its memory does not grow with them. Everywhere
/// else content is in memory. Temporary files are in the folder [`std::env::temp_dir`]. They have no name there: the operating
/// system deletes each one when the last clone of its content is dropped, and at the end of the process. To clone a content is
/// cheap, because clones share the file.
///
/// ```
/// use bytes::Bytes;
/// use gitlab_runner_api_testkit::Content;
///
/// let content = Content::from(Bytes::from_static(b"PK"));
/// assert_eq!((content.len(), &content.to_bytes()?[..]), (2, &b"PK"[..]));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Content(Place);

#[derive(Clone)]
enum Place {
    Memory(Bytes),
    File(Arc<StoredFile>),
}

/// A file that is complete: nobody writes to it any more.
struct StoredFile {
    /// All readers share its position, so that each read first sets it.
    file: Mutex<File>,
    len: u64,
}

impl Content {
    /// Returns the number of bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match &self.0 {
            Place::Memory(bytes) => bytes.len() as u64,
            Place::File(stored) => stored.len,
        }
    }

    /// Returns whether there is not a single byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns a reader of the content, from its beginning. Several readers do not disturb each other.
    #[must_use]
    pub fn reader(&self) -> impl Read + Send + use<> {
        Reader { content: self.clone(), at: 0 }
    }

    /// Returns all of the content. If it is in a file, it is read into memory.
    ///
    /// # Errors
    ///
    /// If the temporary file cannot be read.
    pub fn to_bytes(&self) -> io::Result<Bytes> {
        match &self.0 {
            Place::Memory(bytes) => Ok(bytes.clone()),
            Place::File(_) => {
                let mut bytes = Vec::new();
                self.reader().read_to_end(&mut bytes)?;
                Ok(bytes.into())
            }
        }
    }

    /// Returns whether both have the same bytes.
    ///
    /// # Errors
    ///
    /// If a temporary file cannot be read.
    pub fn has_same_bytes(&self, other: &Self) -> io::Result<bool> {
        if self.len() != other.len() {
            return Ok(false);
        }
        let mut at = 0;
        while at < self.len() {
            let piece = self.read_at(at, PIECE)?;
            if piece != other.read_at(at, PIECE)? {
                return Ok(false);
            }
            at += piece.len() as u64;
        }
        Ok(true)
    }

    /// Returns the content without a copy if it is in memory.
    pub(crate) fn in_memory(&self) -> Option<&Bytes> {
        match &self.0 {
            Place::Memory(bytes) => Some(bytes),
            Place::File(_) => None,
        }
    }

    /// Takes over what was written to a file.
    ///
    /// # Errors
    ///
    /// If the operating system does not tell the size of the file.
    pub(crate) fn from_file(written: SpooledTempFile) -> io::Result<Self> {
        match written.into_inner() {
            SpooledData::InMemory(bytes) => Ok(Self::from(Bytes::from(bytes.into_inner()))),
            SpooledData::OnDisk(file) => Self::from_stored(file),
        }
    }

    /// The content of a file that nobody writes to any more.
    ///
    /// # Errors
    ///
    /// If the operating system does not tell the size of the file.
    pub(crate) fn from_stored(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self(Place::File(Arc::new(StoredFile { file: Mutex::new(file), len }))))
    }

    /// Returns at most `most` bytes from this offset on: fewer only at the end.
    ///
    /// # Errors
    ///
    /// If the temporary file cannot be read, or is shorter than it was.
    pub(crate) fn read_at(&self, at: u64, most: usize) -> io::Result<Bytes> {
        let rest = usize::try_from(self.len().saturating_sub(at)).unwrap_or(usize::MAX);
        let most = rest.min(most);
        match &self.0 {
            Place::Memory(bytes) => Ok(bytes.slice(bytes.len() - rest..bytes.len() - rest + most)),
            Place::File(stored) => {
                let mut piece = BytesMut::zeroed(most);
                let mut file = stored.at(at)?;
                file.read_exact(&mut piece)?;
                Ok(piece.freeze())
            }
        }
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self(Place::Memory(bytes))
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A file of a job may contain secrets, and may be large.
        let place = if self.in_memory().is_some() { "memory" } else { "file" };
        f.debug_struct("Content").field("len", &self.len()).field("place", &place).finish()
    }
}

impl StoredFile {
    /// The file, positioned at this offset. Nobody else reads until the guard is dropped.
    fn at(&self, offset: u64) -> io::Result<impl std::ops::DerefMut<Target = File>> {
        // A reader that panicked left at most another position, and each read sets its own.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))?;
        Ok(file)
    }
}

struct Reader {
    content: Content,
    at: u64,
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let piece = self.content.read_at(self.at, buf.len())?;
        buf[..piece.len()].copy_from_slice(&piece);
        self.at += piece.len() as u64;
        Ok(piece.len())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// The same bytes in memory, in a file, and in what could have become a file.
    fn everywhere(bytes: &[u8]) -> [Content; 3] {
        let written = |in_memory| {
            let mut file = SpooledTempFile::new(in_memory);
            file.write_all(bytes).expect("written");
            Content::from_file(file).expect("a file")
        };
        [Bytes::copy_from_slice(bytes).into(), written(0), written(bytes.len() + 1)]
    }

    #[test]
    fn content_is_the_same_wherever_it_is() {
        let bytes: Vec<u8> = (0_u32..70_000).flat_map(u32::to_le_bytes).collect();
        let contents = everywhere(&bytes);
        assert_eq!(contents.each_ref().map(|content| content.in_memory().is_some()), [true, false, true]);
        for content in &contents {
            assert_eq!((content.len(), content.is_empty()), (280_000, false));
            assert_eq!(content.to_bytes().expect("read"), bytes);
            // Two readers at once, each at a position of its own.
            let (mut first, mut second) = (content.reader(), content.reader());
            let mut read = [vec![0; 100_000], vec![0; 180_000], Vec::new()];
            first.read_exact(&mut read[0]).expect("read");
            second.read_exact(&mut read[1]).expect("read");
            first.read_to_end(&mut read[2]).expect("read");
            assert_eq!(
                (&read[0][..], &read[1][..], &read[2][..]),
                (&bytes[..100_000], &bytes[..180_000], &bytes[100_000..])
            );
            assert_eq!(content.read_at(279_990, 64).expect("read"), bytes[279_990..]);
            assert!(content.read_at(280_001, 64).expect("read").is_empty());
        }
    }

    #[test]
    fn contents_are_compared_by_their_bytes() {
        let [bytes, mut other] = [vec![7; 200_000], vec![7; 200_000]];
        other[150_000] = 8;
        let same = everywhere(&bytes);
        for (left, right) in same.iter().flat_map(|left| same.iter().map(move |right| (left, right))) {
            assert!(left.has_same_bytes(right).expect("read"));
        }
        for different in everywhere(&other).iter().chain(&everywhere(&bytes[1..])) {
            assert!(same.iter().all(|content| !content.has_same_bytes(different).expect("read")));
        }
    }

    #[test]
    fn a_file_that_was_cut_is_an_error() {
        let [_, content, _] = everywhere(b"content");
        let Place::File(stored) = &content.0 else { panic!("{content:?}") };
        stored.file.lock().expect("unlocked").set_len(3).expect("cut");
        assert!(content.to_bytes().is_err());
    }
}
