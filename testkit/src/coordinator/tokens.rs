//! Tokens and queue values: opaque to clients, the same in every run.

/// The next state of a SplitMix64 generator, and its output.
pub(super) fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn opaque(seed: u64, alphabet: &[u8], length: usize) -> String {
    let mut state = seed;
    let size = alphabet.len() as u64;
    let mut pick = || usize::try_from(mix(&mut state) % size).unwrap_or_default();
    (0..length).map(|_| char::from(alphabet[pick()])).collect()
}

const LETTERS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-";

pub(super) fn job_token(job: u64) -> String {
    format!("glcbt-64_{}", opaque(job ^ 0x6a6f_6200_0000_0000, LETTERS, 20))
}

/// The token of a runner that registered itself.
pub(super) fn runner_token(runner: u64) -> String {
    format!("glrtr-{}", opaque(runner ^ 0x7275_6e00_0000_0000, LETTERS, 20))
}

/// What follows the prefix of a runner's token after so many resets.
pub(super) fn created_token(runner: u64, resets: u64) -> String {
    opaque(runner.rotate_left(20) ^ resets ^ 0x6e65_7700_0000_0000, LETTERS, 20)
}

/// What makes an address in object storage hard to guess.
pub(super) fn signature(token: &str) -> String {
    let seed = token.bytes().fold(0x7369_6700_0000_0000, |seed: u64, byte| seed.rotate_left(7) ^ u64::from(byte));
    opaque(seed, b"0123456789abcdef", 32)
}

pub(super) fn queue_value(runner: u64, generation: u64) -> String {
    opaque(runner.rotate_left(32) ^ generation ^ 0x7175_6500_0000_0000, b"0123456789abcdef", 32)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn tokens_differ_and_repeat() {
        let tokens: BTreeSet<String> = (0..1000).map(job_token).collect();
        assert_eq!(tokens.len(), 1000);
        assert_eq!(job_token(1 << 33), job_token(1 << 33));
        assert_ne!(queue_value(1, 2), queue_value(2, 1));
    }
}
