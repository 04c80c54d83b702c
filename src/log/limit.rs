//! Keeps a log within its size.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// How large a log may become, counted as GitLab stores it. The total is never exceeded, notices included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogLimit {
    /// Without end.
    None,
    /// The first bytes, at most so many: what the official runner does. A notice ends such a log.
    #[non_exhaustive]
    Head {
        /// Bytes in all.
        total: u64,
    },
    /// The first bytes, and the last ones: of a long log, the end is what tells why it failed. The last `tail` bytes are
    /// kept in memory and in the job's snapshot, and written when the job has ended, behind a notice.
    #[non_exhaustive]
    HeadAndTail {
        /// Bytes in all.
        total: u64,
        /// Of which so many are kept free for the end.
        tail: u64,
    },
}

impl LogLimit {
    /// The first bytes alone.
    #[must_use]
    pub const fn head(total: u64) -> Self {
        Self::Head { total }
    }

    /// The first bytes and the last ones, at most half of the total.
    #[must_use]
    pub const fn head_and_tail(total: u64, tail: u64) -> Self {
        Self::HeadAndTail { total, tail: if tail > total / 2 { total / 2 } else { tail } }
    }
}

impl Default for LogLimit {
    /// 4 MiB, as in the official runner, with the last 64 KiB.
    fn default() -> Self {
        Self::head_and_tail(4 << 20, 64 << 10)
    }
}

/// The stage behind all streams. Takes whole characters.
pub(super) struct Limit {
    policy: LogLimit,
    total: u64,
    /// What the first bytes leave free.
    reserve: u64,
    /// How many bytes of the end fit.
    tail: usize,
    written: u64,
    phase: Phase,
}

enum Phase {
    Open,
    /// Nothing more fits.
    Cut,
    /// All that comes is for the end.
    Tail {
        kept: VecDeque<u8>,
        dropped: u64,
    },
}

impl Limit {
    pub(super) fn new(policy: LogLimit) -> Self {
        let (total, reserve, tail) = match policy {
            LogLimit::None => (u64::MAX, 0, 0),
            LogLimit::Head { total } => (total, exceeded(total, NO_MORE).len() as u64, 0),
            LogLimit::HeadAndTail { total, tail } => {
                let notices = (exceeded(total, END_FOLLOWS).len() + left_out(u64::MAX).len()) as u64;
                let tail = tail.min(total.saturating_sub(notices));
                (total, notices + tail, tail)
            }
        };
        let tail = usize::try_from(tail).unwrap_or(usize::MAX);
        Self { policy, total, reserve, tail, written: 0, phase: Phase::Open }
    }

    /// Whether more bytes have no effect.
    pub(super) fn is_cut(&self) -> bool {
        matches!(self.phase, Phase::Cut)
    }

    pub(super) fn push(&mut self, mut chunk: Bytes, out: &mut dyn FnMut(Bytes)) {
        if matches!(self.phase, Phase::Open) {
            let room = self.total.saturating_sub(self.written).saturating_sub(self.reserve);
            if chunk.len() as u64 <= room {
                return self.pass_on(chunk, out);
            }
            let head = chunk.split_to(floor_char(&chunk, room as usize));
            self.pass_on(head, out);
            if let LogLimit::HeadAndTail { .. } = self.policy {
                self.phase = Phase::Tail { kept: VecDeque::new(), dropped: 0 };
            } else {
                self.phase = Phase::Cut;
                self.pass_on(exceeded(self.total, NO_MORE).into(), out);
            }
        }
        if self.keep(&chunk) {
            self.pass_on(exceeded(self.total, END_FOLLOWS).into(), out);
        }
    }

    /// The log is complete: writes what was kept of its end.
    pub(super) fn end(&mut self, out: &mut dyn FnMut(Bytes)) {
        let Phase::Tail { kept, dropped } = &mut self.phase else { return };
        let (mut tail, dropped) = (Bytes::from(Vec::from(std::mem::take(kept))), *dropped);
        self.phase = Phase::Cut;
        if dropped > 0 {
            // A line that is cut off at its start says little, unless it is a long one.
            let near = tail.get(..tail.len() / 4).unwrap_or_default();
            let start = memchr::memchr(b'\n', near).map_or(0, |end| end + 1);
            _ = tail.split_to(start);
            self.pass_on(left_out(dropped.saturating_add(start as u64)).into(), out);
        }
        self.pass_on(tail, out);
    }

    /// Keeps what may be the end, and says whether this was the first time that something else had to go.
    fn keep(&mut self, chunk: &[u8]) -> bool {
        let Phase::Tail { kept, dropped } = &mut self.phase else { return false };
        let first = *dropped == 0;
        let skipped = chunk.len().saturating_sub(self.tail);
        let chunk = chunk.get(skipped..).unwrap_or_default();
        let excess = (kept.len() + chunk.len()).saturating_sub(self.tail);
        kept.drain(..excess);
        kept.extend(chunk);
        *dropped = dropped.saturating_add((skipped + excess) as u64);
        while kept.front().is_some_and(|byte| !starts_char(*byte)) {
            kept.pop_front();
            *dropped = dropped.saturating_add(1);
        }
        first && *dropped > 0
    }

    /// What does not fit is left out: notices of a total that is smaller than they are.
    fn pass_on(&mut self, bytes: Bytes, out: &mut dyn FnMut(Bytes)) {
        let written = self.written.saturating_add(bytes.len() as u64);
        if !bytes.is_empty() && written <= self.total {
            self.written = written;
            out(bytes);
        }
    }

    /// What must be remembered besides the size.
    pub(super) fn ending(&self) -> Ending {
        match &self.phase {
            Phase::Open => Ending::Open,
            Phase::Cut => Ending::Cut,
            Phase::Tail { kept, dropped } => {
                let (front, back) = kept.as_slices();
                let text = String::from_utf8_lossy(&[front, back].concat()).into_owned();
                Ending::Tail { text: Text(text), dropped: *dropped }
            }
        }
    }

    /// Where another stopped, when so much was written.
    pub(super) fn resume(policy: LogLimit, written: u64, ending: Ending) -> Self {
        let mut limit = Self { written, ..Self::new(policy) };
        match ending {
            Ending::Open => {}
            Ending::Cut => limit.phase = Phase::Cut,
            Ending::Tail { text, dropped } => {
                limit.phase = Phase::Tail { kept: VecDeque::new(), dropped };
                limit.keep(text.0.as_bytes());
            }
        }
        limit
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Limit");
        shown.field("policy", &self.policy).field("written", &self.written).finish_non_exhaustive()
    }
}

/// How far a log is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ending {
    #[default]
    Open,
    Cut,
    Tail {
        text: Text,
        dropped: u64,
    },
}

impl Ending {
    pub(super) fn is_open(&self) -> bool {
        *self == Self::Open
    }
}

/// Of a log. `Debug` shows its size.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Text(String);

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

const NO_MORE: &str = "no more output will be collected";
const END_FOLLOWS: &str = "the end of its log will follow here";

fn exceeded(total: u64, what: &str) -> String {
    format!("\n\x1b[33;1mJob's log exceeded limit of {total} bytes.\nJob execution will continue but {what}.\x1b[0;m\n")
}

fn left_out(bytes: u64) -> String {
    format!("\x1b[33;1m{bytes} bytes were left out. The end of the log:\x1b[0;m\n")
}

/// The last start of a character at or before `at`.
fn floor_char(text: &[u8], at: usize) -> usize {
    let starts = |at: &usize| text.get(*at).is_none_or(|byte| starts_char(*byte));
    (0..=at.min(text.len())).rev().find(starts).unwrap_or(0)
}

const fn starts_char(byte: u8) -> bool {
    byte & 0xc0 != 0x80
}
