//! The body of a request, as much of it as the coordinator gets to see.

use bytes::Bytes;

use crate::form::Form;

/// The body of a request.
#[derive(Debug)]
pub(crate) enum Body {
    /// All of it.
    Whole(Bytes),
    /// A multipart form that was read while it came in, so that its files need no memory.
    Form(Form),
    /// A body that was to be read as a multipart form, and is none.
    Malformed,
    /// The body of an upload that is refused whatever it contains, so that it was not kept.
    Discarded,
}

impl Body {
    /// The bytes, of a body that was not read as a form.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Form(_) | Self::Malformed | Self::Discarded => &[],
        }
    }
}

/// What to do with the body of a request while it comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// It is read into memory, as [`Body::Whole`].
    Whole,
    /// It is read as [`Body::Form`], with files of at most `limit` bytes.
    Form { limit: u64 },
    /// It is read and forgotten, as [`Body::Discarded`].
    Discard,
    /// As [`Reading::Discard`], but the answer does not wait for it. GitLab.com's edge redirects uploads so.
    AnswerFirst,
}
