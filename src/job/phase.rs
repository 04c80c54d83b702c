//! Where a job is in its life.

use serde::{Deserialize, Serialize};

use super::event::JobEvent;
use super::finishing::Finishing;
use super::outcome::{AbortReason, Outcome};
use crate::time::Timestamp;

/// How far the acceptance of a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Acceptance {
    /// GitLab has not confirmed it. Nothing else is sent.
    Pending,
    /// GitLab has confirmed it, and the application does not know yet. A durable job is saved first.
    Untold,
    /// The application was told.
    Told,
}

/// Where the job is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The log grows.
    Running,
    /// The result stands; log and report are to be delivered.
    Finishing(Box<Finishing>),
    /// It is over.
    Closed(Closed),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Closed {
    Finished(Outcome),
    Aborted(AbortReason),
}

impl Closed {
    pub(super) fn event(&self) -> JobEvent {
        match self {
            Self::Finished(outcome) => JobEvent::Finished(outcome.clone()),
            Self::Aborted(reason) => JobEvent::Aborted(*reason),
        }
    }
}

/// When the job has run for too long, and whether the application was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Timeout {
    pub(super) at: Timestamp,
    pub(super) told: bool,
}

impl Timeout {
    pub(super) fn at(at: Timestamp) -> Self {
        Self { at, told: false }
    }
}

/// Whether the job is still driven here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Driving {
    /// It is.
    Open,
    /// Another process goes on with it.
    Abandoned,
    /// `Done` was returned, and nothing else ever is from then on.
    Done,
}
