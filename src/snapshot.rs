//! The form in which state is stored: plain JSON in a versioned envelope.

use std::ops::Range;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::json_fault;

/// Why stored state cannot be taken up. Nothing was changed; keep the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeError {
    /// It cannot be read.
    #[error("the stored state is damaged: {0}")]
    Corrupt(String),
    /// It is something else.
    #[error("this is not the stored state of a {wanted}")]
    #[non_exhaustive]
    WrongKind {
        /// What it should be.
        wanted: &'static str,
    },
    /// It was written by a newer version.
    #[error("the stored state has format {found}, this version reads up to {known}; use a newer version")]
    #[non_exhaustive]
    Newer {
        /// The format found.
        found: u32,
        /// The newest format this version reads.
        known: u32,
    },
    /// It belongs to another job than the assignment it was given with.
    #[error("the stored state is that of job {found}, the assignment that of job {wanted}")]
    #[non_exhaustive]
    WrongJob {
        /// The job in the stored state.
        found: u64,
        /// The job of the assignment.
        wanted: u64,
    },
    /// A part of the log that GitLab may need is not where the job is.
    #[error("the job does not hold its log from byte {} up to byte {}, which GitLab may need", missing.start, missing.end)]
    #[non_exhaustive]
    LogElsewhere {
        /// The part that is missing, in offsets of the job's log.
        missing: Range<u64>,
    },
    /// The text of the payload was [dropped](crate::Assignment::without_text).
    #[error("the text of the job's payload was dropped; take it from where it is stored")]
    PayloadElsewhere,
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    kind: String,
    format: u32,
    #[serde(flatten)]
    content: T,
}

/// Writes `content` as `kind`, in format `format`.
pub(crate) fn seal<T: Serialize>(kind: &'static str, format: u32, content: &T) -> String {
    // Fails only for maps with keys that are not strings; our records have none.
    serde_json::to_string(&Envelope { kind: kind.to_owned(), format, content }).unwrap_or_default()
}

/// Reads what [`seal`] wrote, if it is of this kind and not newer than `format`.
pub(crate) fn open<T: DeserializeOwned>(kind: &'static str, format: u32, text: &str) -> Result<T, ResumeError> {
    #[derive(Deserialize)]
    struct Anything {}
    let corrupt = |error: serde_json::Error| ResumeError::Corrupt(json_fault(&error));
    let head: Envelope<Anything> = serde_json::from_str(text).map_err(corrupt)?;
    if head.kind != kind {
        return Err(ResumeError::WrongKind { wanted: kind });
    }
    if head.format > format {
        return Err(ResumeError::Newer { found: head.format, known: format });
    }
    Ok(serde_json::from_str::<Envelope<T>>(text).map_err(corrupt)?.content)
}
