//! The requests that are held, so that finding those whose wait has ended takes no look at the others.

use std::collections::{BTreeMap, BTreeSet};

use gitlab_runner_api::Timestamp;

use super::{Envelope, HoldId};

/// A job request that waits for the queue of its runner to change.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    pub(super) until: Timestamp,
    pub(super) runner: u64,
    pub(super) envelope: Envelope,
}

/// All requests that are held. Thousands of runners may wait at once, so every operation takes a time that hardly grows with
/// their number.
#[derive(Clone, Debug, Default)]
pub(super) struct Holds {
    held: BTreeMap<HoldId, Hold>,
    next: u64,
    /// When each wait ends, unless it has ended already.
    ends: BTreeSet<(Timestamp, HoldId)>,
    /// The requests of each runner, unless their wait has ended already.
    by_runner: BTreeSet<(u64, HoldId)>,
    /// The requests whose wait has ended and that are not answered yet.
    ended: BTreeSet<HoldId>,
}

impl Holds {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.held.len() + self.ends.len() + self.by_runner.len() + self.ended.len()
    }

    pub(super) fn insert(&mut self, hold: Hold) -> HoldId {
        let id = HoldId(self.next);
        self.next += 1;
        self.ends.insert((hold.until, id));
        self.by_runner.insert((hold.runner, id));
        self.held.insert(id, hold);
        id
    }

    pub(super) fn remove(&mut self, id: HoldId) -> Option<Hold> {
        let hold = self.held.remove(&id)?;
        self.ends.remove(&(hold.until, id));
        self.by_runner.remove(&(hold.runner, id));
        self.ended.remove(&id);
        Some(hold)
    }

    /// The queue of a runner changed, so the wait of its requests ends.
    pub(super) fn queue_changed(&mut self, runner: u64) {
        let all = (runner, HoldId(0))..=(runner, HoldId(u64::MAX));
        while let Some(&(_, id)) = self.by_runner.range(all.clone()).next() {
            self.end(id);
        }
    }

    /// The oldest request whose wait has ended.
    pub(super) fn first_ended(&mut self, now: Timestamp) -> Option<HoldId> {
        while let Some(&(_, id)) = self.ends.first().filter(|(end, _)| *end <= now) {
            self.end(id);
        }
        self.ended.first().copied()
    }

    /// When the next wait ends, given that it is `now`.
    pub(super) fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        if self.ended.is_empty() { self.ends.first().map(|(end, _)| *end) } else { Some(now) }
    }

    fn end(&mut self, id: HoldId) {
        if let Some(hold) = self.held.get(&id) {
            self.ends.remove(&(hold.until, id));
            self.by_runner.remove(&(hold.runner, id));
            self.ended.insert(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;
    use crate::coordinator::Endpoint;

    fn hold(runner: u64, until: u64) -> Hold {
        let request_id = HeaderValue::from_static("1");
        let envelope = Envelope { endpoint: Endpoint::RequestJob, request_id, polling: true, record: None };
        Hold { until: Timestamp::from_millis(until), runner, envelope }
    }

    /// Takes all whose wait has ended.
    fn ended(holds: &mut Holds, now: u64) -> Vec<u64> {
        let mut ids = Vec::new();
        while let Some(id) = holds.first_ended(Timestamp::from_millis(now)) {
            holds.remove(id);
            ids.push(id.0);
        }
        ids
    }

    #[test]
    fn a_wait_ends_with_its_time_or_with_a_change_of_the_queue() {
        let mut holds = Holds::default();
        for (runner, until) in [(1, 30), (2, 10), (1, 20), (3, 10)] {
            holds.insert(hold(runner, until));
        }
        assert_eq!(holds.next_end(Timestamp::from_millis(5)), Some(Timestamp::from_millis(10)));
        assert!(ended(&mut holds, 9).is_empty());
        holds.remove(HoldId(3));
        holds.queue_changed(1);
        assert_eq!(holds.next_end(Timestamp::from_millis(9)), Some(Timestamp::from_millis(9)));
        // The oldest first, whatever ended the wait.
        assert_eq!(ended(&mut holds, 10), [0, 1, 2]);
        assert_eq!(holds.next_end(Timestamp::from_millis(10)), None);
        let Holds { held, ends, by_runner, ended, .. } = holds;
        assert!(held.is_empty() && ends.is_empty() && by_runner.is_empty() && ended.is_empty());
    }
}
