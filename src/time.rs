//! Time as the core sees it: a number handed in by the caller.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A point in time: whole milliseconds since the Unix epoch.
///
/// The core never reads a clock. Every `now` comes from the caller, whose clock should be anchored once on Unix time
/// and advance monotonically from there, so that it neither jumps within a process nor loses its meaning across
/// processes. All arithmetic saturates; no operation panics.
///
/// A `now` that goes backwards is treated as no time having passed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The Unix epoch, earlier than any time a clock will report.
    pub const EPOCH: Self = Self(0);

    /// The time that many milliseconds after the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// This time plus `span`, cut to whole milliseconds, at most the largest representable time.
    #[must_use]
    pub fn saturating_add(self, span: Duration) -> Self {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// This time less `span`, cut to whole milliseconds, at least the epoch.
    pub(crate) fn saturating_sub(self, span: Duration) -> Self {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(millis))
    }

    /// The span from `earlier` to this time, or zero if `earlier` is later.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Reads an HTTP date (`Wed, 21 Oct 2015 07:28:00 GMT`, and the two obsolete forms of RFC 9110).
    pub(crate) fn from_http_date(text: &str) -> Option<Self> {
        httpdate::parse_http_date(text)
            .ok()?
            .duration_since(UNIX_EPOCH)
            .ok()
            .map(|since| Self::EPOCH.saturating_add(since))
    }
}

impl From<SystemTime> for Timestamp {
    /// Times before 1970 become [`Timestamp::EPOCH`].
    fn from(time: SystemTime) -> Self {
        Self::EPOCH.saturating_add(time.duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0 / 1000, self.0 % 1000)
    }
}

/// Turns a monotonic clock into [`Timestamp`]s. It is anchored once, on Unix time, and advances with the monotonic clock from there.
///
/// The system's clock is set now and then, forward and back. A monotonic clock is not, but means nothing in another process. This
/// joins the two: it neither jumps within a process nor loses its meaning across processes. It reads no clock itself.
///
/// ```
/// use std::sync::LazyLock;
/// use std::time::{Instant, SystemTime};
///
/// use gitlab_runner_api::{AnchoredClock, Timestamp};
///
/// /// The `now` of all calls to state machines.
/// fn now() -> Timestamp {
///     static CLOCK: LazyLock<AnchoredClock> = LazyLock::new(|| AnchoredClock::new(SystemTime::now(), Instant::now()));
///     CLOCK.at(Instant::now())
/// }
/// # assert!(now() <= now());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct AnchoredClock {
    unix: Timestamp,
    anchor: Instant,
}

impl AnchoredClock {
    /// Takes both clocks as they are at one moment.
    #[must_use]
    pub fn new(unix: SystemTime, anchor: Instant) -> Self {
        Self { unix: unix.into(), anchor }
    }

    /// The time at this instant. An instant before the anchor counts as the anchor.
    #[must_use]
    pub fn at(&self, instant: Instant) -> Timestamp {
        self.unix.saturating_add(instant.saturating_duration_since(self.anchor))
    }
}

/// A clock that never goes back, fed by the caller.
///
/// Machines keep one, so that a `now` that went backwards neither fires nor postpones anything.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Steady(Timestamp);

impl Steady {
    pub(crate) const fn starting(now: Timestamp) -> Self {
        Self(now)
    }

    pub(crate) fn advance(&mut self, now: Timestamp) -> Timestamp {
        self.0 = self.0.max(now);
        self.0
    }

    pub(crate) const fn now(self) -> Timestamp {
        self.0
    }

    /// `time`, but no later than `span` from now.
    pub(crate) fn at_most(self, time: Timestamp, span: Duration) -> Timestamp {
        time.min(self.0.saturating_add(span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        let end = Timestamp::from_millis(u64::MAX);
        assert_eq!(end.saturating_add(Duration::MAX), end);
        assert_eq!(Timestamp::EPOCH.saturating_since(end), Duration::ZERO);
    }

    #[test]
    fn http_dates_are_read_and_nonsense_is_not() {
        let read = Timestamp::from_http_date("Wed, 21 Oct 2015 07:28:00 GMT");
        assert_eq!(read, Some(Timestamp::from_millis(1_445_412_480_000)));
        for bad in ["", "1445412480", "Wed, 99 Oct 2015 07:28:00 GMT", "tomorrow"] {
            assert_eq!(Timestamp::from_http_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_clock_that_goes_back_stands_still() {
        let mut clock = Steady::starting(Timestamp::from_millis(10));
        assert_eq!(clock.advance(Timestamp::from_millis(5)), Timestamp::from_millis(10));
        assert_eq!(clock.now(), Timestamp::from_millis(10));
    }
}
