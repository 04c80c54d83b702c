//! How long to wait after a failure: what the server said, else exponentially longer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::rng::Rng;

/// Waits start at `base`, double with each failure, and stop growing at `cap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) base: Duration,
    pub(crate) cap: Duration,
}

impl Policy {
    /// What the official runner uses: 100 ms to 60 s.
    pub(crate) const CALL: Self = Self { base: Duration::from_millis(100), cap: Duration::from_secs(60) };
}

/// How many failures there were in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Counts one more failure and says how long to wait: the told time if there is one, else a random time in the
    /// upper half of the current step. Told times get some random spread on top, since many machines hear the same.
    pub(crate) fn failed(&mut self, policy: Policy, told: Option<Duration>, rng: &mut Rng) -> Duration {
        let step = policy.base.saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(policy.cap);
        self.failures = self.failures.saturating_add(1).min(31);
        match told {
            Some(told) => told.saturating_add(rng.upper_half(policy.base.saturating_mul(10).min(told / 10))),
            None => rng.upper_half(step),
        }
    }

    /// Counts a first failure that costs no wait; false if it is not the first.
    pub(crate) fn is_first(&mut self) -> bool {
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
        assert_eq!(backoff.failed(Policy::CALL, Some(Duration::ZERO), &mut rng), Duration::ZERO);
    }
}
