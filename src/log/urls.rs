//! Hides the values of query parameters that authenticate.

use bytes::Bytes;
use memchr::memchr2;
use serde::{Deserialize, Serialize};

use super::piece::Piece;

/// The parameters that the official runner hides, compared without regard to case.
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
    pub(super) fn push(&mut self, piece: Piece, out: &mut dyn FnMut(Piece)) {
        match piece {
            Piece::Shown(chunk) => self.push_shown(chunk, out),
            Piece::Hidden { bytes, starts, continues } => self.push_hidden(bytes, starts, continues, out),
        }
    }

    /// The stream has ended, and with it a value.
    pub(super) fn end(&mut self) {
        *self = Self::Text;
    }

    fn push_shown(&mut self, mut chunk: Bytes, out: &mut dyn FnMut(Piece)) {
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
                        out(Piece::Shown(chunk.split_to(at)));
                        out(Piece::marker());
                        at = 0;
                    }
                }
                Self::Value { end: _, matched: 0 } if !may_end(byte) => {
                    let more = chunk.iter().position(|byte| may_end(*byte)).unwrap_or(chunk.len());
                    out(Piece::more(chunk.split_to(more)));
                }
                Self::Value { end, matched } => match in_value(end, matched, byte) {
                    Step::On { end: next, matched: more } => {
                        *self = Self::Value { end: next, matched: more };
                        let byte = chunk.split_to(1);
                        // What looked like the beginning of an end was none.
                        if more <= matched {
                            out(Piece::more(Bytes::from_static(begun(end, matched))));
                        }
                        if more == 0 {
                            out(Piece::more(byte));
                        }
                    }
                    Step::Over { of_end } => {
                        let before = Bytes::from_static(begun(end, matched));
                        out(if of_end { Piece::Shown(before) } else { Piece::more(before) });
                        // It may be the `?` or `&` of the next.
                        *self = if matches!(byte, b'?' | b'&') { Self::key() } else { Self::Text };
                        at = 1;
                    }
                },
            }
        }
        if !chunk.is_empty() {
            out(Piece::Shown(chunk));
        }
    }

    /// A key counts also where a secret overlaps it, and no byte of a secret ends a value.
    fn push_hidden(&mut self, bytes: Bytes, starts: bool, continues: bool, out: &mut dyn FnMut(Piece)) {
        if let Self::Value { end, matched } = *self {
            *self = Self::Value { end: 0, matched: 0 };
            out(Piece::more(Bytes::from_static(begun(end, matched))));
            return out(Piece::more(bytes));
        }
        let key_at = bytes.iter().position(|byte| {
            *self = match *self {
                Self::Key { candidates, matched } => Self::in_key(candidates, matched, *byte),
                _ if matches!(byte, b'?' | b'&') => Self::key(),
                _ => Self::Text,
            };
            matches!(self, Self::Value { .. })
        });
        let value_touches = key_at.is_some_and(|at| at + 1 == bytes.len()) && !continues;
        out(Piece::Hidden { bytes, starts, continues });
        if value_touches {
            out(Piece::marker());
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
        // Hardly any `?` or `&` of a log is before one of the keys: their first letters tell.
        if matched == 0 && !matches!(byte.to_ascii_lowercase(), b'p' | b'a' | b'r' | b'x') {
            return Self::Text;
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

/// What one more byte of a value makes of it.
enum Step {
    /// So many of the last bytes are the first of that end.
    On { end: u8, matched: u8 },
    /// With this byte the value is over. `of_end`: the bytes that began an end belong to the same character.
    Over { of_end: bool },
}

/// The first bytes of an end.
fn begun(end: u8, matched: u8) -> &'static [u8] {
    let lead: &'static [u8] = ENDS.get(usize::from(end)).map_or(&[], |(lead, _)| lead);
    lead.get(..usize::from(matched)).unwrap_or_default()
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
    let held = begun(end, matched);
    for (number, (lead, last)) in ENDS.iter().enumerate().filter(|_| matched > 0) {
        match lead.strip_prefix(held).map(<[u8]>::first) {
            Some(None) if last.contains(&byte) => return Step::Over { of_end: true },
            Some(Some(next)) if *next == byte => return Step::On { end: number as u8, matched: matched + 1 },
            _ => {}
        }
    }
    if ends(byte) {
        return Step::Over { of_end: false };
    }
    let begun = ENDS.iter().position(|(lead, _)| lead.first() == Some(&byte));
    begun.map_or(Step::On { end: 0, matched: 0 }, |end| Step::On { end: end as u8, matched: 1 })
}
