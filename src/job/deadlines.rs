//! What a job waits for, and until when.
//!
//! | Deadline | The time comes from | [`WaitReason`] |
//! |---|---|---|
//! | the timeout of the job | `Timeout`: the payload's, or [`RunnerConfig::with_default_timeout`](crate::RunnerConfig::with_default_timeout) | `Timeout` |
//! | the answer to the call in flight | `Wire`: the deadline of its [`Hints`](crate::Hints), and 30 s | `Answer` |
//! | a call that failed, or that GitLab put off or sent elsewhere | `Pacing`: the back-off of its kind, and the budget of all | `Backoff` |
//! | the next outage that may be told | `Reachability`: 30 s after the last one | `Backoff` |
//! | the rest of the log that is given up | `Refusal`: [`RunnerConfig::with_log_patience`](crate::RunnerConfig::with_log_patience) after the end | `Backoff` |
//! | the next piece of log | `Delivery`: an interval after the last one, which GitLab names | `Interval` |
//! | the next keep-alive | `Contact`: [`RunnerConfig::with_keep_alive`](crate::RunnerConfig::with_keep_alive) after the last call that worked | `KeepAlive` |
//! | the report, once GitLab said 202 | `Finishing`: as GitLab says, or 1, 2, 4 … 64 s | `Archive` |
//! | the next request to save | `Saving`: at once, or a keep-alive interval after the last time; if that is not done, 3 to 60 s later | `Save` |
//! | the next request for a part of the log | `Delivery`: one to ten minutes after the last one, or 3 to 60 s after an empty answer | `Trace` |
//!
//! Nothing waits here. `Job::step` checks each deadline, and returns the nearest one that has not come.

use super::event::JobEvent;
use super::rules::Intent;
use crate::time::Timestamp;

/// What a [`Job`](crate::Job) waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitReason {
    /// The application: it may write to the log, or finish the job.
    Application,
    /// The answer to a call.
    Answer,
    /// The pause after a failed call, or one that GitLab asked for.
    Backoff,
    /// The next piece of log is not due.
    Interval,
    /// The next keep-alive is not due.
    KeepAlive,
    /// GitLab is archiving the log, and the report is repeated later.
    Archive,
    /// The application must save the job.
    Save,
    /// The application must bring back a part of the log.
    Trace,
    /// The job's timeout.
    Timeout,
}

/// The next step of a job.
pub(super) enum Step {
    Send(Intent),
    Tell(JobEvent),
    Wait(Soonest),
}

/// The nearest deadline that has not come, and what it is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Soonest {
    /// [`NEVER`] if there is none.
    time: Timestamp,
    reason: WaitReason,
}

/// A time that no clock reaches.
const NEVER: Timestamp = Timestamp::from_millis(u64::MAX);

impl Default for Soonest {
    fn default() -> Self {
        Self { time: NEVER, reason: WaitReason::Application }
    }
}

impl Soonest {
    pub(super) fn time(self) -> Option<Timestamp> {
        (self.time < NEVER).then_some(self.time)
    }

    pub(super) fn reason(self) -> WaitReason {
        self.reason
    }

    pub(super) fn at(&mut self, time: Timestamp, reason: WaitReason) {
        if time < self.time {
            *self = Self { time, reason };
        }
    }

    /// Whether this time has come. If not, it is waited for.
    pub(super) fn has_come(&mut self, time: Timestamp, now: Timestamp, reason: WaitReason) -> bool {
        if now < time {
            self.at(time, reason);
        }
        now >= time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_deadline_is_waited_for_with_its_reason() {
        let at = Timestamp::from_millis;
        let mut soonest = Soonest::default();
        assert_eq!((soonest.time(), soonest.reason()), (None, WaitReason::Application));
        assert!(soonest.has_come(at(5), at(5), WaitReason::Answer));
        assert!(!soonest.has_come(at(9), at(5), WaitReason::Interval));
        assert!(!soonest.has_come(at(7), at(5), WaitReason::KeepAlive));
        assert!(!soonest.has_come(at(8), at(5), WaitReason::Timeout));
        assert_eq!((soonest.time(), soonest.reason()), (Some(at(7)), WaitReason::KeepAlive));
    }
}
