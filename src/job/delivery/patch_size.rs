//! How much of a log is sent at once.

use std::time::Duration;

use crate::time::Timestamp;

/// How much of a log is sent at once: less after a front end has refused a piece as too large, and more again after a while.
#[derive(Clone, Debug)]
pub(super) struct PatchSize {
    /// What the application configured.
    most: u64,
    /// The largest size that was accepted, or that was not tried yet.
    limit: u64,
    /// Boxed, because it is rare and there may be thousands of jobs.
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

    /// Restores the size from a snapshot. If it is less than `most`, a larger size was refused.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000 + seconds * 1000)
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
}
