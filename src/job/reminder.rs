//! Reminders of what only the application can do: saving the job, and bringing back a part of the log.

use std::time::Duration;

use crate::backoff::{Backoff, Policy};
use crate::rng::Rng;
use crate::time::Timestamp;

/// The pauses between two reminders to save the job. The first one, 3 to 6 s with jitter, is about the interval of the log.
pub(super) const TO_SAVE: Policy = Policy { base: Duration::from_secs(6), cap: Duration::from_secs(60) };

/// The pauses between two reminders to bring back a part of the log. Reading it from where it is kept may take a while, and two
/// answers to one question would confuse the application.
pub(super) const TO_SUPPLY: Policy = Policy { base: Duration::from_secs(120), cap: Duration::from_secs(600) };

/// The pauses between two reminders after the application has brought back no bytes.
pub(super) const TO_SUPPLY_MORE: Policy = Policy { base: Duration::from_secs(6), cap: Duration::from_secs(60) };

/// Asks the application for something, again and with growing pauses, until it is done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reminder {
    /// When to ask again. In the past if the application was not asked.
    again_at: Timestamp,
    backoff: Backoff,
}

impl Reminder {
    /// When to ask, if that is not now.
    pub(super) fn not_before(&self, now: Timestamp) -> Option<Timestamp> {
        (now < self.again_at).then_some(self.again_at)
    }

    /// It was asked for, or not done: it is asked for again after a pause.
    pub(super) fn ask_again(&mut self, policy: Policy, now: Timestamp, rng: &mut Rng) {
        self.again_at = now.saturating_add(self.backoff.failed(policy, None, rng));
    }

    pub(super) fn done(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_done_is_asked_for_again_with_growing_pauses() {
        let (mut reminder, mut rng, mut now) = (Reminder::default(), Rng::new(1, 1), Timestamp::from_millis(1_000));
        let mut pauses = Vec::new();
        for _ in 0..6 {
            assert_eq!(reminder.not_before(now), None);
            reminder.ask_again(TO_SAVE, now, &mut rng);
            let next = reminder.not_before(now).expect("a pause");
            pauses.push(next.saturating_since(now).as_secs());
            now = next;
        }
        assert!(pauses[0] <= 6 && pauses[5] >= 30 && pauses.iter().all(|pause| *pause <= 60), "{pauses:?}");
        reminder.ask_again(TO_SAVE, now, &mut rng);
        reminder.done();
        assert_eq!(reminder.not_before(now), None);
    }
}
