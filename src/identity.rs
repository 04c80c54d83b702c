//! What tells state machines apart.
//!
//! The two counters of this file are the only shared mutable state of the core. Neither is visible on the wire, and neither is
//! ever stored:
//!
//! - Each state machine of a process gets a number of its own, so that no ticket is taken for another's, even where two of them
//!   speak about the same job or make the same kind of call.
//! - Each state machine that is made from a configuration, or from a clone of it, counts how many were made before. The
//!   number goes into the seed of its random stream, so that two of them never draw the same request ids, and the same order of
//!   creation still gives the same requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The number of one state machine, unique in its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MachineId(u64);

impl MachineId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Only uniqueness counts; nothing else is published with the number.
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// How many state machines were made from a configuration and its clones.
#[derive(Clone, Debug, Default)]
pub(crate) struct StreamCounter(Arc<AtomicU64>);

impl StreamCounter {
    /// The number of the next one.
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_clones_count_together() {
        assert_ne!(MachineId::next(), MachineId::next());
        let counter = StreamCounter::default();
        assert_eq!([counter.next(), counter.clone().next(), counter.next()], [0, 1, 2]);
    }
}
