//! Which state of a job is saved, and when the application is asked to save it.

use std::time::Duration;

use super::deadlines::Soonest;
use super::deadlines::WaitReason;
use super::reminder::{self, Reminder};
use crate::rng::Rng;
use crate::time::Timestamp;

/// Counts the states of a job, and knows which of them is saved.
///
/// Some changes are critical: a process that resumes the job from an older state would do harm. A
/// [durable](crate::RunnerConfig::with_durable) job sends nothing that depends on such a change before it is saved.
#[derive(Debug)]
pub(super) struct Saving {
    durable: bool,
    /// The number of the state.
    revision: u64,
    /// The number of the last critical change.
    critical: u64,
    /// The number of the latest state that is saved.
    saved: u64,
    saved_at: Timestamp,
    reminder: Reminder,
}

impl Saving {
    /// Starts for a job whose state of this number is saved, or is new.
    pub(super) fn starting(durable: bool, revision: u64, now: Timestamp) -> Self {
        let reminder = Reminder::default();
        Self { durable, revision, critical: revision, saved: revision, saved_at: now, reminder }
    }

    pub(super) fn is_durable(&self) -> bool {
        self.durable
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Notes that the state has changed.
    pub(super) fn change(&mut self) {
        self.revision += 1;
    }

    /// Notes a change that a durable job must save before it sends more of its log, or its result.
    pub(super) fn change_critically(&mut self) {
        self.revision += 1;
        self.critical = self.revision;
    }

    /// Whether a critical change must be saved first.
    pub(super) fn holds_back(&self) -> bool {
        self.durable && self.saved < self.critical
    }

    /// The state of this number is saved. `more_log` says whether more of the log is saved than before. If neither is new, the
    /// application is still asked to save.
    pub(super) fn saved(&mut self, revision: u64, more_log: bool, now: Timestamp) {
        let revision = revision.min(self.revision);
        if more_log || revision > self.saved {
            self.reminder.done();
            self.saved_at = now;
        }
        self.saved = self.saved.max(revision);
    }

    /// Whether the application is to be asked to save although nothing waits for that: for a critical change at once, so that a
    /// result is not lost in an outage, and for log that is `written` and not saved at most one keep-alive interval after the last time.
    pub(super) fn is_due(&self, written: bool, keep_alive: Duration, now: Timestamp, soonest: &mut Soonest) -> bool {
        let due_at = match (self.durable, self.holds_back(), written) {
            (false, _, _) | (true, false, false) => return false,
            (true, true, _) => Timestamp::EPOCH,
            (true, false, true) => self.saved_at.saturating_add(keep_alive),
        };
        soonest.has_come(due_at, now, WaitReason::Save) && self.may_ask(now, soonest)
    }

    /// Whether the application may be asked now. Not if it was a moment ago; again after a while, since it may have failed to save.
    pub(super) fn may_ask(&self, now: Timestamp, soonest: &mut Soonest) -> bool {
        match self.reminder.not_before(now) {
            Some(again_at) => {
                soonest.at(again_at, WaitReason::Save);
                false
            }
            None => true,
        }
    }

    /// The application was asked.
    pub(super) fn asked(&mut self, now: Timestamp, rng: &mut Rng) {
        self.reminder.ask_again(reminder::TO_SAVE, now, rng);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1000)
    }

    fn is_due(saving: &Saving, written: bool, now: Timestamp) -> bool {
        saving.is_due(written, INTERVAL, now, &mut Soonest::default())
    }

    #[test]
    fn a_critical_change_holds_back_until_it_is_saved() {
        let mut saving = Saving::starting(true, 7, at(0));
        saving.change();
        assert!(!saving.holds_back() && !is_due(&saving, false, at(100)));
        saving.change_critically();
        saving.change();
        assert!(saving.holds_back() && is_due(&saving, false, at(0)));
        saving.saved(8, false, at(1));
        assert!(saving.holds_back());
        // A number of the future is none: only what there is can have been saved.
        saving.saved(u64::MAX, false, at(1));
        assert!(!saving.holds_back());
        saving.change_critically();
        assert!(saving.holds_back());
    }

    #[test]
    fn what_was_written_is_saved_after_an_interval() {
        let saving = Saving::starting(true, 0, at(0));
        let mut soonest = Soonest::default();
        assert!(!saving.is_due(true, INTERVAL, at(29), &mut soonest));
        assert_eq!(soonest.time(), Some(at(30)));
        assert!(is_due(&saving, true, at(30)));
    }

    #[test]
    fn the_application_is_not_asked_twice_in_a_moment() {
        let (mut saving, mut rng) = (Saving::starting(true, 0, at(0)), Rng::new(1, 1));
        saving.change_critically();
        saving.asked(at(0), &mut rng);
        assert!(!is_due(&saving, false, at(1)) && is_due(&saving, false, at(6)));
        // It saved an old state: that is not what it was asked for.
        saving.saved(0, false, at(1));
        assert!(!is_due(&saving, false, at(1)));
        saving.saved(0, true, at(1));
        assert!(is_due(&saving, false, at(1)));
    }

    #[test]
    fn a_job_that_is_not_durable_asks_for_nothing() {
        let mut saving = Saving::starting(false, 0, at(0));
        saving.change_critically();
        assert!(!saving.holds_back() && !is_due(&saving, true, at(1_000)));
    }
}
