//! The clock of a server.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use gitlab_runner_api::Timestamp;

/// A monotonic clock that starts at a Unix time. It can be advanced, and it can be stopped so that it moves only then.
#[derive(Debug)]
pub(crate) struct Clock {
    origin: Timestamp,
    started: Instant,
    stands: AtomicBool,
    /// Milliseconds that it was put forward, and those that had passed when it was stopped.
    ahead: AtomicU64,
}

impl Clock {
    /// A clock that goes, and shows the time of this machine.
    pub(crate) fn start() -> Self {
        let (stands, ahead) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { origin: SystemTime::now().into(), started: Instant::now(), stands, ahead }
    }

    /// A clock that stands at this time until it is put forward.
    pub(crate) fn standing_at(origin: Timestamp) -> Self {
        Self { origin, stands: AtomicBool::new(true), ..Self::start() }
    }

    pub(super) fn now(&self) -> Timestamp {
        let ahead = Duration::from_millis(self.ahead.load(Ordering::SeqCst));
        let elapsed = if self.stands.load(Ordering::SeqCst) { Duration::ZERO } else { self.started.elapsed() };
        self.origin.saturating_add(ahead.saturating_add(elapsed))
    }

    pub(super) fn advance(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        // The closure always returns a value.
        let _ = self.ahead.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |ahead| Some(ahead.saturating_add(millis)));
    }

    /// From now on it only moves when it is put forward.
    pub(super) fn stop(&self) {
        if !self.stands.load(Ordering::SeqCst) {
            self.advance(self.started.elapsed());
            self.stands.store(true, Ordering::SeqCst);
        }
    }
}
