//! The clock machines are driven by: anchored once on Unix time, monotonic from there.

use std::time::{Duration, Instant, SystemTime};

use gitlab_runner_api::{AnchoredClock, Timestamp};

/// Neither jumps when the system's clock is set, nor loses its meaning across processes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(AnchoredClock);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(AnchoredClock::new(SystemTime::now(), Instant::now()))
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.0.at(Instant::now())
    }

    /// How long until then; zero if it is over.
    pub(crate) fn until(&self, time: Timestamp) -> Duration {
        time.saturating_since(self.now())
    }
}
