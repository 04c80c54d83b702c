//! How long to wait after a failure, and how many calls that achieve nothing are allowed at all.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::rng::Rng;
use crate::time::Timestamp;

/// Waits start at `base`, double with each failure, and stop growing at `cap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) base: Duration,
    pub(crate) cap: Duration,
}

impl Policy {
    /// The values of the official runner: 100 ms to 60 s.
    pub(crate) const CALL: Self = Self { base: Duration::from_millis(100), cap: Duration::from_secs(60) };
}

/// How many failures there were in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Counts one more failure and returns how long to wait: a random time in the upper half of the current step, or the
    /// told time if that is longer. A told delay lengthens a pause and never shortens it. Told times get a random spread on
    /// top, because many state machines are told the same time at once.
    pub(crate) fn failed(&mut self, policy: Policy, told: Option<Duration>, rng: &mut Rng) -> Duration {
        let step = policy.base.saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(policy.cap);
        self.failures = self.failures.saturating_add(1).min(31);
        let own = rng.upper_half(step);
        let Some(told) = told else { return own };
        let spread = rng.upper_half(policy.base.saturating_mul(10).min(told / 10));
        own.max(told.saturating_add(spread))
    }

    /// Counts a first failure, which costs no wait. Returns false, and counts nothing, if it is not the first.
    pub(crate) fn count_first(&mut self) -> bool {
        let first = self.failures == 0;
        self.failures = self.failures.max(1);
        first
    }

    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }

    pub(crate) const fn failures(self) -> u32 {
        self.failures
    }
}

/// How many calls that achieve nothing a state machine may make in a row before it has to wait for each.
const BURST: u32 = 20;

/// After how long one more is allowed. Together with [`BURST`] that is at most 26 in any minute and 380 in any hour, about as
/// many as the official runner makes in an outage.
const REFILL: Duration = Duration::from_secs(10);

/// The budget of calls that achieve nothing, shared by all kinds of call of one state machine: see [`crate::manual::protocol`].
///
/// Back-off decides *when* a call is tried again, and starts anew when a call of its kind works. Answers can be chosen so that
/// something always works, and that what works is of no use: then the budget decides *whether* a call is made.
///
/// A call is paid for when it is sent, and the price is given back when the call turns out to have achieved something. One
/// moment is enough to count with: the one at which the budget will be full again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Budget {
    full_at: Timestamp,
}

impl Budget {
    /// When the next call can be paid for. That may be in the past.
    pub(crate) fn open_at(self) -> Timestamp {
        self.full_at.saturating_sub(REFILL.saturating_mul(BURST - 1))
    }

    /// Pays for a call.
    pub(crate) fn spend(&mut self, now: Timestamp) {
        self.full_at = self.full_at.max(now).saturating_add(REFILL);
    }

    /// Gives the price of the last call back.
    pub(crate) fn give_back(&mut self) {
        self.full_at = self.full_at.saturating_sub(REFILL);
    }

    /// The same budget by another clock: no emptier than empty.
    pub(crate) fn restored(self, now: Timestamp) -> Self {
        Self { full_at: self.full_at.min(now.saturating_add(REFILL.saturating_mul(BURST))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_start_anew_after_success() {
        let (mut backoff, mut rng) = (Backoff::default(), Rng::new(3, 3));
        let mut step = Duration::from_millis(100);
        for _ in 0..40 {
            let wait = backoff.failed(Policy::CALL, None, &mut rng);
            assert!(wait >= step / 2 && wait <= step, "{wait:?} for {step:?}");
            step = (step * 2).min(Policy::CALL.cap);
        }
        backoff.succeeded();
        assert!(backoff.failed(Policy::CALL, None, &mut rng) <= Duration::from_millis(100));
    }

    #[test]
    fn a_told_time_is_never_cut_short() {
        let (mut backoff, mut rng) = (Backoff::default(), Rng::new(3, 3));
        let told = Duration::from_secs(60);
        let wait = backoff.failed(Policy::CALL, Some(told), &mut rng);
        assert!(wait >= told && wait <= told + Duration::from_secs(1), "{wait:?}");
    }

    #[test]
    fn a_told_time_never_shortens_a_pause() {
        let (mut backoff, mut rng) = (Backoff::default(), Rng::new(3, 3));
        for _ in 0..20 {
            backoff.failed(Policy::CALL, None, &mut rng);
        }
        assert!(backoff.failed(Policy::CALL, Some(Duration::from_secs(1)), &mut rng) >= Duration::from_secs(30));
    }

    #[test]
    fn a_budget_allows_twenty_six_in_a_minute_and_what_achieved_something_is_free() {
        let (mut budget, start) = (Budget::default(), Timestamp::from_millis(1_000_000));
        let spent_within = |budget: &mut Budget, from: Timestamp, span: Duration| {
            let (mut now, mut spent) = (from, 0);
            while now <= from.saturating_add(span) {
                budget.spend(now);
                spent += 1;
                now = now.max(budget.open_at());
            }
            spent
        };
        let mut free = budget;
        assert_eq!(spent_within(&mut budget, start, Duration::from_secs(60)), 26);
        assert!(budget.open_at() > start.saturating_add(Duration::from_secs(60)));
        assert_eq!(spent_within(&mut Budget::default(), start, Duration::from_secs(3600)), 380);
        for _ in 0..1000 {
            free.spend(start);
            free.give_back();
        }
        assert!(free.open_at() <= start);
    }
}
