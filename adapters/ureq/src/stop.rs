//! How a runner that waits is told to stop, or that something has changed.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::lock;

/// Tells [`Runner::run`](crate::Runner::run) and [`Runner::next_job_until`](crate::Runner::next_job_until) to take no more
/// jobs. Clones are handles to the same; one can stop any number of runners.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    pub(crate) signal: Arc<Signal>,
}

/// Wakes a runner that waits for something other than GitLab.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    draining: bool,
    /// Counts what may concern a runner that waits: a drain, a slot given back.
    changes: u64,
}

impl Stop {
    /// A handle that stops nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes no more jobs. [`Runner::run`](crate::Runner::run) returns when those it holds have ended. A request for a job that
    /// is on the wire is waited for, and its job run: GitLab hands a job out only once.
    pub fn drain(&self) {
        self.signal.change(|state| state.draining = true);
    }

    /// Sleeps so long, or until it is drained; not at all if no span is given.
    pub(crate) fn pause(&self, span: Option<Duration>) {
        let state = lock(&self.signal.state);
        let calm = |state: &mut State| !state.draining;
        let span = span.unwrap_or(Duration::ZERO);
        drop(self.signal.changed.wait_timeout_while(state, span, calm).unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether [`Stop::drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        lock(&self.signal.state).draining
    }
}

impl Signal {
    /// Says that something has changed.
    pub(crate) fn notify(&self) {
        self.change(|_| {});
    }

    /// Changes what is waited for, and says so.
    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.state);
        change(&mut state);
        state.changes += 1;
        self.changed.notify_all();
    }

    /// Whether it was drained, and the number of changes so far.
    pub(crate) fn look(&self) -> (bool, u64) {
        let state = lock(&self.state);
        (state.draining, state.changes)
    }

    /// Waits until something has changed since `seen`, or so long.
    pub(crate) fn wait(&self, seen: u64, span: Duration) {
        let state = lock(&self.state);
        let same = |state: &mut State| state.changes == seen;
        drop(self.changed.wait_timeout_while(state, span, same).unwrap_or_else(PoisonError::into_inner));
    }
}
