//! Whether what is sent brings GitLab's log any further.

use std::ops::Range;
use std::time::Duration;

use crate::backoff::{Backoff, Policy};
use crate::rng::Rng;
use crate::time::Timestamp;

/// The largest size that GitLab's log ever had, and the bytes that GitLab lost since.
///
/// A piece of log is productive, and costs nothing of the budget, if GitLab's log reaches a new maximum by it, or if it refills what
/// GitLab lost. The latter counts once an hour only, because sending to a server that keeps losing the same bytes achieves nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    best: u64,
    /// The bytes that GitLab lost and has not got back yet, and when it lost them. Boxed, because it is rare and there may be thousands of
    /// jobs.
    lost: Option<Box<(Range<u64>, Timestamp)>>,
}

/// After how long it is productive again to refill what GitLab lost.
const REFILL_AGAIN: Duration = Duration::from_secs(3600);

impl Progress {
    /// The progress of a log of which this much is acknowledged.
    pub(super) fn starting(acknowledged: u64) -> Self {
        Self { best: acknowledged, lost: None }
    }

    /// What a snapshot holds: what GitLab lost, and when. Otherwise each resume would make it productive again to refill it.
    pub(super) fn lost(&self) -> Option<(Range<u64>, Timestamp)> {
        self.lost.as_deref().cloned()
    }

    /// Restores the progress from a snapshot, whose times may come from another clock.
    pub(super) fn restored(acknowledged: u64, lost: Option<(Range<u64>, Timestamp)>, now: Timestamp) -> Self {
        let best = lost.as_ref().map_or(acknowledged, |(lost, _)| lost.end.max(acknowledged));
        Self { best, lost: lost.map(|(lost, at)| Box::new((lost, at.min(now)))) }
    }

    /// GitLab says that its log ends at `end`. Returns whether that is further than ever.
    pub(super) fn named(&mut self, end: u64) -> bool {
        let further = end > self.best;
        self.best = self.best.max(end);
        further
    }

    /// GitLab took a piece that ends at `end`. Returns whether that is progress.
    pub(super) fn reached(&mut self, end: u64) -> bool {
        let mut refilled = false;
        if let Some((lost, _)) = self.lost.as_deref_mut() {
            refilled = !lost.is_empty() && end > lost.start;
            lost.start = end.max(lost.start).min(lost.end);
        }
        self.named(end) || refilled
    }

    /// GitLab lost all of the log from `end` on.
    pub(super) fn lost_from(&mut self, end: u64, now: Timestamp) {
        let recently = self.lost.as_ref().is_some_and(|lost| now.saturating_since(lost.1) < REFILL_AGAIN);
        if !recently && end < self.best {
            self.lost = Some(Box::new((end..self.best, now)));
        }
    }
}

/// How often GitLab's log turned out to end where it should not.
///
/// After the first such answer the job continues at once, because GitLab loses a part of a log now and then. A server that keeps naming
/// other offsets must not be flooded. So the pauses grow, until there was no such answer for as long as the longest pause.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Detours {
    backoff: Backoff,
    last: Timestamp,
}

impl Detours {
    /// Counts one more, and returns until when to wait.
    pub(super) fn count(&mut self, cap: Duration, now: Timestamp, rng: &mut Rng) -> Timestamp {
        if now.saturating_since(self.last) > cap {
            self.backoff.succeeded();
        }
        self.last = now;
        if self.backoff.count_first() {
            return now;
        }
        let base = Duration::from_millis(500);
        now.saturating_add(self.backoff.failed(Policy { base, cap: cap.max(base) }, None, rng))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000 + seconds * 1000)
    }

    #[test]
    fn what_was_lost_is_progress_once_an_hour() {
        let mut progress = Progress::default();
        assert!(progress.reached(10) && !progress.reached(10) && !progress.reached(4));
        progress.lost_from(2, at(0));
        assert!(progress.reached(6) && progress.reached(10) && !progress.reached(10));
        progress.lost_from(0, at(3599));
        assert!(!progress.reached(10));
        progress.lost_from(0, at(3600));
        assert!(progress.reached(10));
    }

    #[test]
    fn a_resume_does_not_make_it_productive_to_refill_again() {
        let mut progress = Progress::default();
        progress.reached(10);
        progress.lost_from(0, at(0));
        assert!(progress.reached(10));
        let mut resumed = Progress::restored(0, progress.lost(), at(60));
        resumed.lost_from(0, at(61));
        assert!(!resumed.reached(10) && resumed.reached(11));
        assert!(Progress::restored(4, None, at(0)).reached(5));
    }

    #[test]
    fn the_first_detour_is_followed_at_once() {
        let (mut detours, mut rng) = (Detours::default(), Rng::new(1, 1));
        let cap = Duration::from_secs(60);
        assert_eq!(detours.count(cap, at(0), &mut rng), at(0));
        let mut last = at(0);
        for _ in 0..9 {
            last = detours.count(cap, at(0), &mut rng);
        }
        assert!(last >= at(30) && last <= at(60));
        assert_eq!(detours.count(cap, at(61), &mut rng), at(61));
    }
}
