//! Multipart forms, read as their bodies come.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use multer::Multipart;
use tempfile::SpooledTempFile;

use crate::content::Content;

/// So many bytes of a form may be something else than the content of a file: fields, boundaries, and the heads of parts. They
/// are read into memory.
const FIELDS_LIMIT: u64 = 1 << 20;
/// A file of at most this many bytes stays in memory, because each temporary file takes one of the process's file descriptors.
const IN_MEMORY: usize = 256 << 10;

/// A form: its fields, and its files.
#[derive(Debug, Default)]
pub(crate) struct Form {
    /// Names and values, in the order in which they came.
    pub(crate) fields: Vec<(String, Bytes)>,
    /// The files, in the order in which they came.
    pub(crate) files: Vec<FilePart>,
}

/// A file in a form.
#[derive(Clone, Debug)]
pub(crate) struct FilePart {
    /// Name of the part.
    pub(crate) name: String,
    /// Name of the file, as it was sent.
    pub(crate) file_name: String,
    /// Content of the file. `None`: it was larger than the form's reader wanted, and was not kept.
    pub(crate) content: Option<Content>,
}

/// Where the files of a form are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Keep {
    /// In memory, whatever their size. If the whole body is there, reading the form never waits.
    InMemory,
    /// In temporary files, if they have at most `limit` bytes.
    OnDisk { limit: u64 },
}

/// Why a form cannot be read.
#[derive(Debug)]
pub(crate) enum FormError {
    /// The body is not a form.
    Malformed,
    /// The form has too much beside the content of its files.
    TooLarge,
    /// The body did not come to its end, or a file could not be written.
    Io(io::Error),
}

impl Form {
    /// Reads a form. `content_type` names its boundary.
    ///
    /// If the body has an error, it may not have been read to its end.
    pub(crate) async fn read<S>(content_type: &str, body: S, keep: Keep) -> Result<Self, FormError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send,
    {
        let boundary = multer::parse_boundary(content_type).map_err(|_| FormError::Malformed)?;
        // The bytes that came and do not belong to a file. The parser keeps them, and has no limit for all of them together.
        let others = AtomicU64::new(0);
        let body = body.map(|piece| {
            let piece = piece?;
            let earlier = others.fetch_add(piece.len() as u64, Ordering::Relaxed);
            if earlier > FIELDS_LIMIT { Err(io::Error::from(io::ErrorKind::FileTooLarge)) } else { Ok(piece) }
        });
        let failed = |error| match error {
            multer::Error::StreamReadFailed(_) if others.load(Ordering::Relaxed) > FIELDS_LIMIT => FormError::TooLarge,
            multer::Error::StreamReadFailed(error) => FormError::Io(io::Error::other(error)),
            _ => FormError::Malformed,
        };
        let belongs_to_file = |bytes: &Bytes| _ = others.fetch_sub(bytes.len() as u64, Ordering::Relaxed);

        let mut parts = Multipart::new(body, boundary);
        let mut form = Self::default();
        while let Some(mut part) = parts.next_field().await.map_err(failed)? {
            let name = part.name().unwrap_or_default().to_owned();
            if name.is_empty() {
                continue;
            }
            // As Go reads it in the front proxy: without folders, and a part with an empty name of a file is a field.
            let file_name = part.file_name().map(|name| name.rsplit('/').next().unwrap_or_default().to_owned());
            let Some(file_name) = file_name.filter(|name| !name.is_empty()) else {
                let value = part.bytes().await.map_err(failed)?;
                form.fields.push((name, value));
                continue;
            };
            let content = match keep {
                Keep::InMemory => {
                    let bytes = part.bytes().await.map_err(failed)?;
                    belongs_to_file(&bytes);
                    Some(bytes.into())
                }
                Keep::OnDisk { limit } => {
                    let mut file = Some(SpooledTempFile::new(IN_MEMORY));
                    let mut len = 0_u64;
                    while let Some(piece) = part.chunk().await.map_err(failed)? {
                        belongs_to_file(&piece);
                        len = len.saturating_add(piece.len() as u64);
                        // The rest of a file that is too large is read as well, because other parts may follow.
                        file = match file.filter(|_| len <= limit) {
                            Some(file) => Some(append(file, piece).await.map_err(FormError::Io)?),
                            None => None,
                        };
                    }
                    file.map(Content::from_file).transpose().map_err(FormError::Io)?
                }
            };
            form.files.push(FilePart { name, file_name, content });
        }
        Ok(form)
    }
}

/// Appends to a file without keeping the other connections waiting for the disk.
async fn append(mut file: SpooledTempFile, piece: Bytes) -> io::Result<SpooledTempFile> {
    let write = move || file.write_all(&piece).map(|()| file);
    tokio::task::spawn_blocking(write).await.map_err(io::Error::other).and_then(|written| written)
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use tokio::runtime::{Builder, Runtime};

    use super::*;

    const KIND: &str = "multipart/form-data; boundary=xx";

    fn runtime() -> Runtime {
        Builder::new_current_thread().build().expect("a runtime")
    }

    fn part(head: &str, content: &[u8]) -> Vec<u8> {
        let head = format!("--xx\r\nContent-Disposition: form-data; {head}\r\n\r\n");
        [head.as_bytes(), content, b"\r\n"].concat()
    }

    /// What a form contains, with the content of its files.
    type Told = (Vec<(String, Bytes)>, Vec<(String, String, Option<Bytes>)>);

    fn told(form: Form) -> Told {
        let content = |content: Content| content.to_bytes().expect("read");
        let files = form.files.into_iter().map(|file| (file.name, file.file_name, file.content.map(content)));
        (form.fields, files.collect())
    }

    /// Reads a body that comes in pieces of this size.
    fn read(body: &[u8], piece: usize, keep: Keep) -> Result<Told, FormError> {
        let pieces = stream::iter(body.chunks(piece).map(|piece| Ok(Bytes::copy_from_slice(piece))));
        runtime().block_on(Form::read(KIND, pieces, keep)).map(told)
    }

    #[test]
    fn a_form_is_the_same_whatever_its_pieces_and_wherever_its_files_are() {
        // A content that looks like the beginnings of boundaries.
        let content = b"\r\n--x\r\n-\r\r\n--xy\r\n\r\n".repeat(3);
        let body = [
            b"preamble\r\n".to_vec(),
            part("name=\"artifact_type\"", b"archive"),
            part("name=\"file\"; filename=\"a.zip\"", &content),
            part("name=\"empty\"; filename=\"b.zip\"", b""),
            part("name=\"late\"", b"\xff"),
            b"--xx--\r\nepilogue".to_vec(),
        ]
        .concat();
        let pair = |name: &str, value: &'static [u8]| (name.to_owned(), Bytes::from_static(value));
        let file = |name: &str, file: &str, content: &[u8]| {
            (name.to_owned(), file.to_owned(), Some(Bytes::copy_from_slice(content)))
        };
        let expected = (
            vec![pair("artifact_type", b"archive"), pair("late", b"\xff")],
            vec![file("file", "a.zip", &content), file("empty", "b.zip", b"")],
        );
        for piece in (1..100).chain([body.len()]) {
            for keep in [Keep::InMemory, Keep::OnDisk { limit: content.len() as u64 }] {
                assert_eq!(read(&body, piece, keep).expect("a form"), expected, "{keep:?} in pieces of {piece}");
            }
        }
        // Wherever the body ends before its last boundary, it is no form.
        let end = body.len() - b"--\r\nepilogue".len();
        for len in 0..end {
            for keep in [Keep::InMemory, Keep::OnDisk { limit: 1 << 20 }] {
                let read = read(&body[..len], 7, keep);
                assert!(matches!(read, Err(FormError::Malformed)), "{keep:?}: {len} bytes: {read:?}");
            }
        }
    }

    #[test]
    fn a_file_beyond_the_limit_is_not_kept_and_the_rest_is_read() {
        let body = [
            part("name=\"file\"; filename=\"a\"", &[b'a'; 100]),
            part("name=\"file\"; filename=\"b\"", &[b'b'; 101]),
            part("name=\"late\"", b"1"),
            b"--xx--\r\n".to_vec(),
        ];
        let (fields, files) = read(&body.concat(), 9, Keep::OnDisk { limit: 100 }).expect("a form");
        assert_eq!(fields, [("late".to_owned(), Bytes::from_static(b"1"))]);
        let lengths: Vec<Option<usize>> = files.iter().map(|(.., content)| content.as_ref().map(Bytes::len)).collect();
        assert_eq!(lengths, [Some(100), None]);
    }

    #[test]
    fn large_files_leave_the_memory() {
        let content = vec![b'a'; 3 * IN_MEMORY];
        let body = [part("name=\"file\"; filename=\"a\"", &content), b"--xx--\r\n".to_vec()].concat();
        let pieces = stream::iter(body.chunks(1 << 16).map(|piece| Ok(Bytes::copy_from_slice(piece))));
        let form = runtime().block_on(Form::read(KIND, pieces, Keep::OnDisk { limit: 1 << 30 })).expect("a form");
        let content = form.files[0].content.as_ref().expect("it was kept");
        assert!(content.in_memory().is_none());
        assert_eq!(content.to_bytes().expect("read").len(), 3 * IN_MEMORY);
    }

    #[test]
    fn what_is_no_file_is_limited() {
        let much = vec![b'a'; 3 << 20];
        let named = part("name=\"field\"", &much);
        let many: Vec<u8> = (0..30).flat_map(|_| part("name=\"field\"", &much[..1 << 17])).collect();
        let head = [b"--xx\r\nContent-Disposition: form-data; name=\"".to_vec(), much.clone()].concat();
        for (what, body) in [("a field", named), ("fields", many), ("the head of a part", head), ("a preamble", much)] {
            let read = read(&body, 1 << 16, Keep::OnDisk { limit: 1 << 30 });
            assert!(matches!(read, Err(FormError::TooLarge)), "{what}: {read:?}");
        }
    }

    #[test]
    fn a_connection_that_breaks_is_an_error() {
        let body = part("name=\"file\"; filename=\"a\"", b"content");
        let pieces = stream::iter([Ok(Bytes::from(body)), Err(io::ErrorKind::ConnectionReset.into())]);
        let read = runtime().block_on(Form::read(KIND, pieces, Keep::OnDisk { limit: 100 }));
        assert!(matches!(read, Err(FormError::Io(_))), "{read:?}");
    }
}
