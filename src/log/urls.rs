//! Hides the values of query parameters that authenticate.

use bytes::Bytes;
use memchr::memchr2;
use serde::{Deserialize, Serialize};

use super::mask::MARKER;

/// Those the official runner hides. Compared without regard to case.
const KEYS: [&[u8]; 6] = [
    b"private_token",
    b"authenticity_token",
    b"rss_token",
    b"x-amz-signature",
    b"x-amz-credential",
    b"x-amz-security-token",
];

/// One stream's stage. Holds nothing back but, within a value that is hidden, the first bytes of a character that may
/// end it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Urls {
    #[default]
    Text,
    /// Behind `?` or `&`: which keys it may be, by bit, and how many of their bytes were there.
    Key { candidates: u8, matched: u8 },
    /// Behind the `=`, with so far so many bytes of the one of [`ENDS`].
    Value { end: u8, matched: u8 },
}

/// The characters of several bytes that end a value: white space and control characters. Each range is of last bytes.
const ENDS: [(&[u8], std::ops::RangeInclusive<u8>); 7] = [
    (b"\xc2", 0x80..=0xa0),
    (b"\xe1\x9a", 0x80..=0x80),
    (b"\xe2\x80", 0x80..=0x8a),
    (b"\xe2\x80", 0xa8..=0xa9),
    (b"\xe2\x80", 0xaf..=0xaf),
    (b"\xe2\x81", 0x9f..=0x9f),
    (b"\xe3\x80", 0x80..=0x80),
];

impl Urls {
    pub(super) fn push(&mut self, mut chunk: Bytes, out: &mut dyn FnMut(Bytes)) {
        let mut at = 0;
        while let Some(&byte) = chunk.get(at) {
            match *self {
                Self::Text => {
                    let rest = chunk.get(at..).unwrap_or_default();
                    let Some(found) = memchr2(b'?', b'&', rest) else { break };
                    at += found + 1;
                    *self = Self::key();
                }
                Self::Key { candidates, matched } => {
                    at += 1;
                    *self = Self::in_key(candidates, matched, byte);
                    if matches!(self, Self::Value { .. }) {
                        out(chunk.split_to(at));
                        out(MARKER);
                        at = 0;
                    }
                }
                Self::Value { end: _, matched: 0 } if !may_end(byte) => {
                    let more = chunk.iter().position(|byte| may_end(*byte)).unwrap_or(chunk.len());
                    _ = chunk.split_to(more);
                }
                Self::Value { end, matched } => match in_value(end, matched, byte) {
                    Step::On(state) => {
                        *self = state;
                        _ = chunk.split_to(1);
                    }
                    Step::Over(held) => {
                        if !held.is_empty() {
                            out(Bytes::from_static(held));
                        }
                        // It may be the `?` or `&` of the next.
                        *self = if matches!(byte, b'?' | b'&') { Self::key() } else { Self::Text };
                        at = 1;
                    }
                },
            }
        }
        if !chunk.is_empty() {
            out(chunk);
        }
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_idle(&self) -> bool {
        *self == Self::Text
    }

    const fn key() -> Self {
        Self::Key { candidates: (1 << KEYS.len()) - 1, matched: 0 }
    }

    fn in_key(candidates: u8, matched: u8, byte: u8) -> Self {
        if matches!(byte, b'?' | b'&') {
            return Self::key();
        }
        let at = usize::from(matched);
        let mut left = 0;
        for (number, key) in KEYS.iter().enumerate().filter(|(number, _)| candidates >> number & 1 == 1) {
            match key.get(at) {
                None if byte == b'=' => return Self::Value { end: 0, matched: 0 },
                Some(expected) if expected.eq_ignore_ascii_case(&byte) => left |= 1 << number,
                _ => {}
            }
        }
        if left == 0 { Self::Text } else { Self::Key { candidates: left, matched: matched + 1 } }
    }
}

enum Step {
    On(Urls),
    /// With this byte a value is over. These before it belong to the same character.
    Over(&'static [u8]),
}

/// Whether a value may end with this byte, or with a character that begins with it.
const fn may_end(byte: u8) -> bool {
    ends(byte) || !byte.is_ascii()
}

const fn ends(byte: u8) -> bool {
    matches!(byte, 0..=b' ' | 0x7f | b'?' | b'&')
}

/// One more byte of a value, of which the last `matched` bytes are the first of an end.
fn in_value(end: u8, matched: u8, byte: u8) -> Step {
    let lead: &'static [u8] = ENDS.get(usize::from(end)).map_or(&[], |(lead, _)| lead);
    let held = lead.get(..usize::from(matched)).unwrap_or_default();
    for (number, (lead, last)) in ENDS.iter().enumerate().filter(|_| matched > 0) {
        match lead.strip_prefix(held).map(<[u8]>::first) {
            Some(None) if last.contains(&byte) => return Step::Over(held),
            Some(Some(next)) if *next == byte => {
                return Step::On(Urls::Value { end: number as u8, matched: matched + 1 });
            }
            _ => {}
        }
    }
    if ends(byte) {
        return Step::Over(&[]);
    }
    let begun = ENDS.iter().position(|(lead, _)| lead.first() == Some(&byte));
    Step::On(begun.map_or(Urls::Value { end: 0, matched: 0 }, |end| Urls::Value { end: end as u8, matched: 1 }))
}
