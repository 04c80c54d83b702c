//! The core's only source of variety: a seeded generator, so that the same inputs give the same requests.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// SplitMix64. Small, statistically sound, and *not* for secrets: it feeds jitter and correlation ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Rng(u64);

impl Rng {
    /// A generator for one state machine: the same seed gives different streams to different `stream` numbers.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut mixed = Self(seed);
        mixed.mix(stream);
        mixed
    }

    /// Goes on in another stream, which this number chooses.
    pub(crate) fn mix(&mut self, stream: u64) {
        self.0 ^= stream.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        // The next state depends on all bits of both, so that neighbouring numbers give streams that have nothing in common.
        self.0 = self.next_u64();
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A time between half of `span` and all of it, in whole milliseconds.
    pub(crate) fn upper_half(&mut self, span: Duration) -> Duration {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let floor = millis / 2;
        Duration::from_millis(floor.saturating_add(self.next_u64() % (millis - floor).saturating_add(1).max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_and_repeat() {
        let draw = |stream| Rng::new(7, stream).next_u64();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn jitter_stays_in_the_upper_half() {
        let mut rng = Rng::new(1, 1);
        for millis in [0, 1, 2, 3, 100, 60_000] {
            let span = Duration::from_millis(millis);
            for _ in 0..100 {
                let drawn = rng.upper_half(span);
                assert!(drawn <= span && drawn >= span / 2 - Duration::from_micros(500).min(span / 2), "{drawn:?}");
            }
        }
        rng.upper_half(Duration::MAX);
    }
}
