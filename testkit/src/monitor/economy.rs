//! L13: whatever the answers are, a state machine makes few calls that achieve nothing, and tells few events about them.

use std::collections::VecDeque;
use std::time::Duration;

use gitlab_runner_api::Timestamp;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// The most that law L13 allows in any minute.
const MOST_IN_A_MINUTE: usize = 26;
/// The most that law L13 allows in any hour.
const MOST_IN_AN_HOUR: usize = 380;

/// How many there were in the worst minute and in the worst hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Worst {
    /// In the worst minute.
    pub minute: usize,
    /// In the worst hour.
    pub hour: usize,
}

impl Worst {
    /// The larger of both, figure by figure.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { minute: self.minute.max(other.minute), hour: self.hour.max(other.hour) }
    }
}

/// Counts in sliding windows.
#[derive(Debug, Default)]
pub struct Economy {
    /// The moments of the last hour, oldest first.
    moments: VecDeque<Timestamp>,
    worst: Worst,
}

impl Economy {
    /// Counts one more at this moment. Moments must not go back.
    ///
    /// # Errors
    ///
    /// If that makes more than the law allows; `what` says of what.
    pub fn count(&mut self, what: &str, now: Timestamp) -> Result<(), String> {
        self.moments.push_back(now);
        while self.moments.front().is_some_and(|first| now.saturating_since(*first) > HOUR) {
            self.moments.pop_front();
        }
        let hour = self.moments.len();
        let minute = self.moments.iter().rev().take_while(|moment| now.saturating_since(**moment) <= MINUTE).count();
        self.worst = self.worst.max(Worst { minute, hour });
        if minute > MOST_IN_A_MINUTE || hour > MOST_IN_AN_HOUR {
            return Err(format!("L13: {minute} {what} in a minute, {hour} in an hour"));
        }
        Ok(())
    }

    /// The worst so far.
    #[must_use]
    pub fn worst(&self) -> Worst {
        self.worst
    }
}
