//! When a job may send what.
//!
//! Each kind of call has a back-off of its own, so that a kind that works does not make one that fails be tried again sooner,
//! and a kind that fails does not hold the others back. Under all of them lies one [`Budget`] of calls that achieve nothing.

use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rules::Intent;
use crate::backoff::{Backoff, Budget, Policy};
use crate::headers::TOLD_DELAY_CAP;
use crate::reply::Cause;
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
            Intent::Accept | Intent::Heartbeat => Self::KeepAlive,
            Intent::Final => Self::Report,
        }
    }
}

/// The pauses of one kind of call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pace {
    backoff: Backoff,
    retry_at: Timestamp,
    /// Told by a [`crate::Throttle`], which knows what other state machines were told. The next poll tells it again, so it is not
    /// stored.
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
    /// When the last keep-alive was sent that cost nothing: one in each interval is of use whatever its answer.
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

    /// Whether the last call of any kind failed.
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

    /// The same pauses by another clock. No restored time is trusted further than the longest wait of its kind.
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

/// How often GitLab's log turned out to end where it should not.
///
/// The first time is followed at once. GitLab loses a part of a log now and then, but a server that sends the job to and fro is
/// not to be hammered: the pauses grow until there was no such answer for as long as the longest of them.
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
        if self.backoff.is_first() {
            return now;
        }
        let base = Duration::from_millis(500);
        now.saturating_add(self.backoff.failed(Policy { base, cap: cap.max(base) }, None, rng))
    }
}

/// How far GitLab's log has ever come, and what of it must pass again.
///
/// Law L13 calls a piece of log productive if GitLab's log reaches a new maximum by it, or if it refills what GitLab lost; the
/// latter once an hour, since a server that keeps losing the same bytes is fed for nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    best: u64,
    /// What GitLab lost and has not got back yet, and when. Boxed, because it is rare and jobs are many.
    lost: Option<Box<(Range<u64>, Timestamp)>>,
}

/// After how long it is productive again to refill what GitLab lost.
const REFILL_AGAIN: Duration = Duration::from_secs(3600);

impl Progress {
    /// That of a log of which this much is acknowledged.
    pub(super) fn starting(acknowledged: u64) -> Self {
        Self { best: acknowledged, lost: None }
    }

    /// What a snapshot holds: what GitLab lost, and when. Otherwise each resume would make it productive again to refill it.
    pub(super) fn lost(&self) -> Option<(Range<u64>, Timestamp)> {
        self.lost.as_deref().cloned()
    }

    /// That of an earlier life, by another clock.
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

/// How much of a log is sent at once: less after a front end has refused a piece as too large, and more again after a while.
#[derive(Clone, Debug)]
pub(super) struct PatchSize {
    /// What the application configured.
    most: u64,
    /// What is known to be taken, as far as that is known.
    limit: u64,
    /// Boxed, because it is rare and jobs are many.
    refused: Option<Box<TooLarge>>,
}

/// A size that was refused.
#[derive(Clone, Copy, Debug)]
struct TooLarge {
    size: u64,
    /// When a piece of this size is tried again, and how long that was put off.
    again_at: Timestamp,
    wait: Duration,
}

/// No piece is made smaller than this because of a 413. A front end whose limit is lower lets no artifact and no job request
/// pass either, and a log in pieces of a few bytes would be thousands of calls.
const PATCH_FLOOR: u64 = 4 * 1024;

/// When a larger piece is first tried again after a 413, and how far that time may grow if it is refused each time.
const TRY_LARGER: Duration = Duration::from_secs(10 * 60);
const TRY_LARGER_CAP: Duration = Duration::from_secs(4 * 3600);

impl PatchSize {
    pub(super) fn new(most: u64) -> Self {
        Self { most, limit: most, refused: None }
    }

    /// The size of an earlier life, in which more was refused if it is less than `most`.
    pub(super) fn restored(limit: u64, most: u64, now: Timestamp) -> Self {
        let limit = limit.clamp(PATCH_FLOOR.min(most), most);
        let refused =
            TooLarge { size: limit.saturating_mul(2), again_at: now.saturating_add(TRY_LARGER), wait: TRY_LARGER };
        Self { most, limit, refused: (limit < most).then(|| Box::new(refused)) }
    }

    /// The size that is stored.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// The largest piece to send now.
    pub(super) fn now(&self, now: Timestamp) -> u64 {
        match &self.refused {
            Some(refused) if now < refused.again_at => self.limit,
            Some(refused) => refused.size.min(self.most),
            // One step at a time, so that the first refusal leaves the size that is known to pass.
            None => self.limit.saturating_mul(2).min(self.most),
        }
    }

    /// A piece of this size was refused as too large. Returns false if it cannot be made smaller.
    pub(super) fn refused(&mut self, size: u64, now: Timestamp) -> bool {
        let floor = PATCH_FLOOR.min(self.most);
        if size <= floor {
            return false;
        }
        let tried_again = size > self.limit;
        let wait = match &self.refused {
            Some(before) if tried_again => before.wait.saturating_mul(2).min(TRY_LARGER_CAP),
            Some(before) => before.wait,
            None => TRY_LARGER,
        };
        if !tried_again {
            self.limit = (size / 2).max(floor);
        }
        self.refused = Some(Box::new(TooLarge { size, again_at: now.saturating_add(wait), wait }));
        true
    }

    /// A piece of this size was taken.
    pub(super) fn taken(&mut self, size: u64) {
        if size > self.limit {
            self.limit = size;
            self.refused = None;
        }
    }
}

/// Whether calls fail, and whether the application was told so.
///
/// It is a level, told at most once in [`TELL_AGAIN`]: where calls fail and work in turns, the application hears of it twice a
/// minute and not with each call.
#[derive(Clone, Debug, Default)]
pub(super) struct Reachability {
    /// Boxed, because it is rare and jobs are many.
    failing: Option<Box<(Cause, Timestamp)>>,
    told: bool,
    /// Long ago if it was never told.
    told_at: Timestamp,
}

/// An outage is told no sooner after the last one was than this.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// What [`Reachability`] has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing, until the state changes.
    None,
    /// Nothing before this moment.
    NotBefore(Timestamp),
    /// Calls fail: what happened first, and when.
    Unreachable(Cause, Timestamp),
    /// They work again.
    Recovered,
}

impl Reachability {
    pub(super) fn failed(&mut self, cause: Cause, now: Timestamp) {
        self.failing.get_or_insert_with(|| Box::new((cause, now)));
    }

    /// No kind of call fails any more.
    pub(super) fn recovered(&mut self) {
        self.failing = None;
    }

    pub(super) fn news(&self, now: Timestamp) -> News {
        match (self.failing.as_deref(), self.told) {
            (None, true) => News::Recovered,
            (Some(&(cause, since)), false) => {
                let at = self.told_at.saturating_add(TELL_AGAIN);
                if now < at { News::NotBefore(at) } else { News::Unreachable(cause, since) }
            }
            _ => News::None,
        }
    }

    /// Notes that [`Reachability::news`] were told.
    pub(super) fn told(&mut self, now: Timestamp) {
        self.told = self.failing.is_some();
        if self.told {
            self.told_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

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

    #[test]
    fn a_piece_that_is_refused_is_halved_down_to_the_floor_and_grows_again() {
        let mut size = PatchSize::new(1 << 20);
        let mut refusals = 0;
        while size.refused(size.now(at(0)), at(0)) {
            refusals += 1;
        }
        assert_eq!((refusals, size.now(at(0))), (8, PATCH_FLOOR));
        assert_eq!((size.now(at(599)), size.now(at(600))), (PATCH_FLOOR, 2 * PATCH_FLOOR));
        // Refused again: what is known to pass stays, and the next try comes after twice the time.
        assert!(size.refused(2 * PATCH_FLOOR, at(600)));
        assert_eq!((size.now(at(600 + 1199)), size.now(at(600 + 1200))), (PATCH_FLOOR, 2 * PATCH_FLOOR));
        for _ in 0..10 {
            assert!(size.refused(2 * PATCH_FLOOR, at(0)));
        }
        assert_eq!((size.now(at(4 * 3600 - 1)), size.now(at(4 * 3600))), (PATCH_FLOOR, 2 * PATCH_FLOOR));
        // Taken: it grows with each full piece, up to what was configured.
        for _ in 0..9 {
            let sent = size.now(at(4 * 3600));
            size.taken(sent);
        }
        assert_eq!(size.now(at(4 * 3600)), 1 << 20);
        assert!(!PatchSize::new(100).refused(100, at(0)));
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
    fn an_outage_that_comes_and_goes_is_told_twice_a_minute() {
        let mut reach = Reachability::default();
        let cause = Cause::Status(StatusCode::BAD_GATEWAY);
        let mut told = 0;
        for second in 0..=60 {
            reach.failed(cause, at(second));
            for half in 0..2 {
                if matches!(reach.news(at(second)), News::Unreachable(..) | News::Recovered) {
                    told += 1;
                    reach.told(at(second));
                }
                if half == 0 {
                    reach.recovered();
                }
            }
        }
        assert!(told <= 6, "{told}");
        assert_eq!(reach.news(at(61)), News::None);
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
