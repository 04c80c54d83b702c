//! What a transport brings back: an answer, or a failure.

use std::fmt;

use bytes::Bytes;

/// The body of an answer, as far as the transport was told to collect it.
///
/// Made from [`Bytes`], `Vec<u8>` or `()` by the transport; never printed, since an answer may carry tokens.
#[derive(Clone, Default)]
pub struct Received(Bytes);

impl Received {
    pub(crate) fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl From<Bytes> for Received {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl From<Vec<u8>> for Received {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<()> for Received {
    fn from((): ()) -> Self {
        Self::default()
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Received({} bytes)", self.0.len())
    }
}

/// Why no answer came, in the only terms that decide what may be done next.
///
/// The transport classifies; see the adapter contract in [`crate::manual::adapters`]. When in doubt between
/// [`Failure::NotSent`] and anything else, anything else is right: a job request that is wrongly believed unsent can
/// lose a job without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// No byte of the request can have reached the server: the name did not resolve, the connection was refused, the
    /// TLS handshake failed.
    #[error("the connection could not be made")]
    NotSent,
    /// The connection broke after something was sent. The server may have acted.
    #[error("the connection broke before an answer came")]
    Unknown,
    /// The deadline or the stall limit of [`crate::Hints`] passed.
    #[error("no answer came in time")]
    TimedOut,
    /// The head of the answer came, its body did not come whole.
    #[error("the answer broke off after {received} bytes")]
    #[non_exhaustive]
    Interrupted {
        /// How many bytes of the body were received.
        received: u64,
    },
    /// The body of the answer is larger than [`crate::Hints`] allows.
    #[error("the answer is larger than allowed")]
    TooLarge,
    /// The transport gave the call up, for instance because its future was dropped.
    #[error("the call was given up")]
    Cancelled,
}

impl Failure {
    /// The answer's body broke off after so many bytes.
    #[must_use]
    pub const fn interrupted(received: u64) -> Self {
        Self::Interrupted { received }
    }

    /// Whether the server may have acted on the request.
    #[must_use]
    pub const fn may_have_arrived(self) -> bool {
        !matches!(self, Self::NotSent)
    }
}

/// Why a call came to nothing, for people and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(clippy::exhaustive_enums, reason = "there is an answer or there is none")]
pub enum Cause {
    /// There was an answer, with this status.
    #[error("the server answered {0}")]
    Status(http::StatusCode),
    /// There was no answer.
    #[error(transparent)]
    Failure(Failure),
}
