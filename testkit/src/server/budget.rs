//! Limits the memory for requests that are being received, and for answers that are being sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bodies up to this size are not counted, so that small requests are always served, however much memory the large ones take.
pub(super) const SMALL: usize = 64 << 10;

/// A number of bytes that all connections share.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    taken: AtomicUsize,
}

/// A part of a budget, which is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, taken: AtomicUsize::new(0) })
    }

    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    /// A part of no bytes.
    pub(super) fn share(self: &Arc<Self>) -> Share {
        Share { budget: Arc::clone(self), bytes: 0 }
    }
}

impl Share {
    /// Makes this part as large as is needed for this many bytes. Returns false, and changes nothing, if the budget has no room for them.
    pub(super) fn grow_to(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        if bytes <= SMALL || more == 0 {
            return true;
        }
        let taken = self.budget.taken.fetch_add(more, Ordering::SeqCst);
        if taken.saturating_add(more) > self.budget.limit {
            self.budget.taken.fetch_sub(more, Ordering::SeqCst);
            return false;
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let budget = Budget::new(300 << 10);
        let (mut one, mut two) = (budget.share(), budget.share());
        assert!(one.grow_to(100 << 10) && one.grow_to(200 << 10) && one.grow_to(150 << 10));
        assert!(!two.grow_to(200 << 10) && two.grow_to(SMALL) && two.grow_to(100 << 10));
        drop(one);
        assert!(two.grow_to(300 << 10) && !two.grow_to((300 << 10) + 1));
        drop(two);
        assert_eq!(budget.taken(), 0);
    }
}
