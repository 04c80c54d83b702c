//! What the jobs of a [`World`](super::World) do: print known bytes over a known time, and end in a known way.

use std::time::Duration;

use gitlab_runner_api::{JobResult, Timestamp};

/// A job to be run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Payload {
    /// All it prints, evenly over its life.
    pub output: Vec<u8>,
    /// How long it runs.
    pub duration: Duration,
    /// How it ends.
    pub result: JobResult,
    /// How often it prints.
    pub tick: Duration,
}

impl Payload {
    /// A job that prints `output` over `duration` and then succeeds.
    #[must_use]
    pub fn new(output: impl Into<Vec<u8>>, duration: Duration) -> Self {
        Self { output: output.into(), duration, result: JobResult::success(), tick: Duration::from_millis(700) }
    }

    /// Ends like this instead.
    #[must_use]
    pub fn with_result(mut self, result: JobResult) -> Self {
        self.result = result;
        self
    }

    /// `size` bytes in numbered lines, so that no two places of a log are alike.
    #[must_use]
    pub fn lines(size: usize) -> Vec<u8> {
        let mut text = Vec::with_capacity(size + 32);
        let mut number = 0u64;
        while text.len() < size {
            text.extend_from_slice(format!("line {number:08} of the build log\n").as_bytes());
            number += 1;
        }
        text.truncate(size);
        text
    }

    /// How many bytes it has printed after running for so long.
    pub(super) fn printed(&self, after: Duration) -> u64 {
        let size = self.output.len() as u128;
        if after >= self.duration {
            return size as u64;
        }
        (size * after.as_millis() / self.duration.as_millis().max(1)) as u64
    }
}

/// A running payload.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) payload: Payload,
    pub(super) started: Timestamp,
    /// When it next prints or ends; `None` when it has ended or was killed.
    pub(super) next: Option<Timestamp>,
    /// It was asked to stop, and does so now.
    pub(super) stopping: bool,
}

impl Process {
    pub(super) fn start(payload: Payload, now: Timestamp) -> Self {
        Self { payload, started: now, next: Some(now), stopping: false }
    }

    /// The bytes that are to be in the log by now.
    pub(super) fn printed(&self, now: Timestamp) -> u64 {
        self.payload.printed(now.saturating_since(self.started))
    }

    pub(super) fn has_ended(&self, now: Timestamp) -> bool {
        self.stopping || now.saturating_since(self.started) >= self.payload.duration
    }
}
