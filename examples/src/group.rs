//! Process groups: a script and everything that it has started.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process_group};

/// The groups that exist, for [`Group::kill_all`].
static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// A script and all processes that it has started, which are killed when this is dropped.
///
/// A process that leaves the group, as a daemon does, is not found.
#[derive(Debug)]
pub struct Group(Pid);

impl Group {
    /// The group of a process that was started with `process_group(0)`: its number is that of its first process. None if
    /// that is no number of a process.
    #[must_use]
    pub fn of(first: u32) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(first).ok()?)?;
        GROUPS.lock().unwrap_or_else(PoisonError::into_inner).insert(pid.as_raw_nonzero().get());
        Some(Self(pid))
    }

    /// Asks all processes of the group to end.
    pub fn terminate(&self) {
        // If none of them is left, they have ended already.
        _ = kill_process_group(self.0, Signal::TERM);
    }

    /// Kills all groups of this process, before it exits without unwinding.
    pub fn kill_all() {
        for group in std::mem::take(&mut *GROUPS.lock().unwrap_or_else(PoisonError::into_inner)) {
            if let Some(pid) = Pid::from_raw(group) {
                _ = kill_process_group(pid, Signal::KILL);
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        _ = kill_process_group(self.0, Signal::KILL);
        GROUPS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0.as_raw_nonzero().get());
    }
}
