//! When a job may send a call of which kind.
//!
//! Each kind of call has its own back-off. A success of one kind does not shorten the pause of another, and a failure does not
//! delay it. Under all of them lies one [`Budget`] of calls that achieve nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rules::Intent;
use crate::backoff::{Backoff, Budget, Policy};
use crate::headers::TOLD_DELAY_CAP;
use crate::rng::Rng;
use crate::time::Timestamp;

/// Calls that fail, and are repeated, independently of the other kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Pieces of the log, and probes.
    Trace,
    /// The acceptance, keep-alives and checks.
    KeepAlive,
    /// The report of the result.
    Report,
}

impl From<Intent> for Lane {
    fn from(intent: Intent) -> Self {
        match intent {
            Intent::Patch { .. } | Intent::Probe { .. } => Self::Trace,
            Intent::Accept | Intent::KeepAlive => Self::KeepAlive,
            Intent::Report => Self::Report,
        }
    }
}

/// The pauses of one kind of call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pace {
    backoff: Backoff,
    retry_at: Timestamp,
    /// Set by a [`crate::Throttle`], which knows the rate limits that other state machines were told. It is set again before the next poll,
    /// so it is not stored.
    #[serde(skip)]
    hold: Timestamp,
}

impl Pace {
    /// When a call of this kind may be sent. That may be in the past.
    pub(super) fn open_at(self) -> Timestamp {
        self.retry_at.max(self.hold)
    }

    /// Whether the last call of this kind failed.
    pub(super) fn is_failing(self) -> bool {
        self.backoff.failures() > 0
    }

    pub(super) fn hold_until(&mut self, until: Timestamp) {
        self.hold = until;
    }

    pub(super) fn failed(&mut self, cap: Duration, told: Option<Duration>, now: Timestamp, rng: &mut Rng) {
        let wait = self.backoff.failed(Policy { cap, ..Policy::CALL }, told, rng);
        self.retry_at = now.saturating_add(wait);
    }

    pub(super) fn worked(&mut self) {
        self.backoff.succeeded();
        self.retry_at = Timestamp::EPOCH;
    }

    /// Sends no call of this kind before `until`, although none failed.
    pub(super) fn pause_until(&mut self, until: Timestamp) {
        self.retry_at = until;
    }
}

/// The pauses of all kinds of call, and the budget under them. This is what a snapshot holds of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pacing {
    pub(super) trace: Pace,
    pub(super) keep_alive: Pace,
    pub(super) report: Pace,
    pub(super) budget: Budget,
    /// When the last keep-alive was sent that the budget did not pay for. One in each interval is free, because it is of use whatever
    /// its answer is. This does not decide when the next one is due.
    free_keep_alive_at: Timestamp,
}

impl Pacing {
    pub(super) fn of(&mut self, lane: Lane) -> &mut Pace {
        match lane {
            Lane::Trace => &mut self.trace,
            Lane::KeepAlive => &mut self.keep_alive,
            Lane::Report => &mut self.report,
        }
    }

    /// When a call of this kind may be sent. That may be in the past.
    pub(super) fn open_at(&self, lane: Lane) -> Timestamp {
        match lane {
            Lane::Trace => self.trace.open_at(),
            Lane::KeepAlive => self.keep_alive.open_at(),
            Lane::Report => self.report.open_at(),
        }
    }

    /// Whether the last call of at least one kind failed.
    pub(super) fn is_failing(&self) -> bool {
        [self.trace, self.keep_alive, self.report].into_iter().any(Pace::is_failing)
    }

    /// Whether a keep-alive sent now is the one of its interval.
    pub(super) fn keep_alive_is_free(&self, interval: Duration, now: Timestamp) -> bool {
        now.saturating_since(self.free_keep_alive_at) >= interval
    }

    /// Notes that the keep-alive of this interval is sent.
    pub(super) fn send_free_keep_alive(&mut self, now: Timestamp) {
        self.free_keep_alive_at = now;
    }

    /// Restores the pauses from a snapshot. Its times may come from another clock, so none may be later than the longest wait of its kind.
    pub(super) fn restored(mut self, now: Timestamp) -> Self {
        let latest = now.saturating_add(TOLD_DELAY_CAP);
        for lane in [Lane::Trace, Lane::KeepAlive, Lane::Report] {
            let pace = self.of(lane);
            pace.retry_at = pace.retry_at.min(latest);
        }
        self.budget = self.budget.restored(now);
        self.free_keep_alive_at = self.free_keep_alive_at.min(now);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000 + seconds * 1000)
    }

    #[test]
    fn a_kind_that_works_does_not_open_one_that_fails() {
        let (mut pacing, mut rng) = (Pacing::default(), Rng::new(1, 1));
        for _ in 0..12 {
            pacing.trace.failed(Duration::from_secs(60), None, at(0), &mut rng);
        }
        pacing.keep_alive.worked();
        assert!(pacing.trace.open_at() >= at(30) && pacing.is_failing());
        assert_eq!(pacing.report.open_at(), Timestamp::EPOCH);
        pacing.trace.worked();
        assert!(!pacing.is_failing());
    }
}
