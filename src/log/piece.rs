//! What the stages of a stream hand on to each other.

use bytes::Bytes;

/// What stands in place of a secret.
pub(super) const MARKER: Bytes = Bytes::from_static(b"[MASKED]");

/// A part of a stream, in order.
///
/// What is hidden is handed on too, so that each stage sees the whole text: a token goes on behind a secret that is a part of
/// it, and a prefix counts also where a secret overlaps it. Which bytes share a marker is decided by what overlaps: `starts` says
/// where a marker is due.
pub(super) enum Piece {
    /// Text that is shown unless a later stage hides it.
    Shown(Bytes),
    /// Text that is hidden.
    Hidden {
        bytes: Bytes,
        /// It does not belong together with what was hidden before, and has a marker of its own.
        starts: bool,
        /// The next piece belongs together with this one.
        continues: bool,
    },
}

impl Piece {
    /// More of something whose marker is out.
    pub(super) const fn more(bytes: Bytes) -> Self {
        Self::Hidden { bytes, starts: false, continues: true }
    }

    /// The beginning of a value that is hidden, before it is known whether it has any bytes.
    pub(super) const fn marker() -> Self {
        Self::Hidden { bytes: Bytes::new(), starts: true, continues: true }
    }

    /// What a reader sees of it.
    pub(super) fn show(self, out: &mut dyn FnMut(Bytes)) {
        match self {
            Self::Shown(bytes) => out(bytes),
            Self::Hidden { starts: true, .. } => out(MARKER),
            Self::Hidden { .. } => {}
        }
    }
}
