//! The pipeline from what a job prints to what GitLab gets.
//!
//! Every byte of a log passes through here exactly once, before it is counted, kept, saved or sent. Offsets, checksum and
//! saved logs are all of bytes *after* the pipeline. Today it has no stage and passes bytes as they are; masking, URL
//! parameters, token prefixes, timestamps, UTF-8 repair and the size limit take their place here, in this order, one
//! chain for each [`Stream`].

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Where a piece of a log comes from. Each has a chain of its own, so that streams cut each other's lines nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Stream {
    /// Messages of the runner itself.
    #[default]
    Runner,
    /// The job's standard output.
    Stdout,
    /// The job's standard error.
    Stderr,
    /// A service of the job, by its place in the payload.
    Service(u16),
}

/// The stages of one job's log.
#[derive(Debug, Default)]
pub(crate) struct Pipeline {}

impl Pipeline {
    /// Takes a piece in, and gives out what may go on.
    #[expect(clippy::unused_self, reason = "the stages to come hold state")]
    pub(crate) fn push(&mut self, _stream: Stream, chunk: Bytes, out: &mut impl FnMut(Bytes)) {
        if !chunk.is_empty() {
            out(chunk);
        }
    }

    /// The log has ended: gives out what was held back.
    #[expect(clippy::unused_self, clippy::needless_pass_by_ref_mut, reason = "the stages to come hold bytes back")]
    pub(crate) fn end(&mut self, _out: &mut impl FnMut(Bytes)) {}
}
