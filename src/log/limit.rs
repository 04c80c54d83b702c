//! Limits the size of a log.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// How large a log may become, in bytes as GitLab stores them.
///
/// A log that fits is not changed. A log that does not fit is cut between two characters, and a notice in it says so. The notices count: the
/// total is never exceeded. If the total is too small for a notice, the log is cut without one.
///
/// Near the limit, as many bytes as the notices need are held back until the log continues or ends, because only then it is known whether
/// the log fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogLimit {
    /// No limit.
    None,
    /// Keeps the beginning of the log, as the official runner does. A log that is cut ends with a notice.
    #[non_exhaustive]
    Head {
        /// The largest size of the log in bytes, with notices.
        total: u64,
    },
    /// Keeps the beginning and the end of the log, because the end of a long log usually says why the job failed. The last `tail` bytes are
    /// kept in memory and in the job's snapshot. They are sent when the job has ended, behind a notice. If the total is too small for the
    /// two notices, this is [`LogLimit::Head`].
    #[non_exhaustive]
    HeadAndTail {
        /// The largest size of the log in bytes, with notices.
        total: u64,
        /// How many of these bytes are reserved for the end of the log.
        tail: u64,
    },
}

impl LogLimit {
    /// Returns [`LogLimit::Head`], with the total in bytes.
    #[must_use]
    pub const fn head(total: u64) -> Self {
        Self::Head { total }
    }

    /// Returns [`LogLimit::HeadAndTail`], with both numbers in bytes. The tail is at most half of the total.
    #[must_use]
    pub const fn head_and_tail(total: u64, tail: u64) -> Self {
        Self::HeadAndTail { total, tail: if tail > total / 2 { total / 2 } else { tail } }
    }
}

impl Default for LogLimit {
    /// 4 MiB, as in the official runner, of which the last 64 KiB are reserved for the end.
    fn default() -> Self {
        Self::head_and_tail(4 << 20, 64 << 10)
    }
}

/// The stage behind all streams. Takes whole characters.
///
/// ```text
/// 0                  head                          total
/// | passed on at once | waits until the log goes on or ends |
/// ```
///
/// If the log ends before `total`, what waits follows as it is. If more comes, the room behind `head` is for the notices and, with
/// [`LogLimit::HeadAndTail`], for the last bytes.
pub(super) struct Limit {
    policy: LogLimit,
    total: u64,
    /// The bytes before this are passed on at once.
    head: u64,
    /// How many of the last bytes are kept, if any.
    tail: Option<usize>,
    written: u64,
    phase: Phase,
}

enum Phase {
    /// All that came fits. Behind the head it waits.
    Fits { waiting: Vec<u8> },
    /// Nothing more fits.
    Cut,
    /// All that comes is for the end.
    Tail { kept: VecDeque<u8>, dropped: u64 },
}

impl Limit {
    pub(super) fn new(policy: LogLimit) -> Self {
        let (total, wanted) = match policy {
            LogLimit::None => (u64::MAX, None),
            LogLimit::Head { total } => (total, None),
            LogLimit::HeadAndTail { total, tail } => (total, Some(tail)),
        };
        let follows = exceeded(total, END_FOLLOWS);
        let notices = (follows.len() + left_out(u64::MAX).len()) as u64;
        let tail = wanted.filter(|_| notices <= total).map(|tail| tail.min(total - notices));
        let reserve = match tail {
            Some(tail) => notices + tail,
            None => notice(total, false).map_or(0, |notice| notice.len() as u64),
        };
        // Without a limit nothing ever waits.
        let head = if policy == LogLimit::None { u64::MAX } else { total - reserve };
        let tail = tail.map(|tail| usize::try_from(tail).unwrap_or(usize::MAX));
        Self { policy, total, head, tail, written: 0, phase: Phase::Fits { waiting: Vec::new() } }
    }

    /// Whether more bytes have no effect.
    pub(super) fn is_cut(&self) -> bool {
        matches!(self.phase, Phase::Cut)
    }

    pub(super) fn push(&mut self, mut chunk: Bytes, out: &mut dyn FnMut(Bytes)) {
        // After a resume with a larger limit, the log need not wait any more.
        if let Phase::Fits { waiting } = &mut self.phase
            && !waiting.is_empty()
            && self.written.saturating_add(waiting.len() as u64) <= self.head
        {
            let waiting = std::mem::take(waiting);
            self.pass_on(waiting.into(), out);
        }
        if matches!(&self.phase, Phase::Fits { waiting } if waiting.is_empty()) {
            let room = self.head.saturating_sub(self.written);
            if chunk.len() as u64 <= room {
                return self.pass_on(chunk, out);
            }
            let head = chunk.split_to(floor_char(&chunk, room as usize));
            self.pass_on(head, out);
        }
        self.push_behind_head(&chunk, out);
    }

    fn push_behind_head(&mut self, chunk: &[u8], out: &mut dyn FnMut(Bytes)) {
        match &mut self.phase {
            Phase::Fits { waiting } => {
                waiting.extend_from_slice(chunk);
                if self.written.saturating_add(waiting.len() as u64) > self.total {
                    self.cut(out);
                }
            }
            Phase::Tail { .. } => self.keep(chunk),
            Phase::Cut => {}
        }
    }

    /// The log does not fit. What waited makes room for the notice.
    fn cut(&mut self, out: &mut dyn FnMut(Bytes)) {
        let Phase::Fits { waiting } = std::mem::replace(&mut self.phase, Phase::Cut) else { return };
        if let Some(notice) = notice(self.total, self.tail.is_some()) {
            self.pass_on(notice.into(), out);
        }
        if self.tail.is_some() {
            self.phase = Phase::Tail { kept: VecDeque::new(), dropped: 0 };
            self.keep(&waiting);
        }
    }

    /// The log is complete: writes what waited, or what was kept of its end.
    pub(super) fn end(&mut self, out: &mut dyn FnMut(Bytes)) {
        match &mut self.phase {
            Phase::Fits { waiting } => {
                let waiting = std::mem::take(waiting);
                self.pass_on(waiting.into(), out);
            }
            Phase::Cut => {}
            Phase::Tail { kept, dropped } => {
                let (mut tail, dropped) = (Bytes::from(Vec::from(std::mem::take(kept))), *dropped);
                self.phase = Phase::Cut;
                // A line that is cut off at its start says little, unless it is a long one.
                let near = tail.get(..tail.len() / 4).unwrap_or_default();
                let start = memchr::memchr(b'\n', near).map_or(0, |end| end + 1);
                _ = tail.split_to(start);
                self.pass_on(left_out(dropped.saturating_add(start as u64)).into(), out);
                self.pass_on(tail, out);
            }
        }
    }

    /// Hides what was not hidden when it came, in all that is not passed on yet.
    pub(super) fn rewrite(&mut self, hide: impl Fn(&[u8]) -> Vec<u8>, out: &mut dyn FnMut(Bytes)) {
        match &mut self.phase {
            Phase::Fits { waiting } if !waiting.is_empty() => {
                let hidden = hide(&std::mem::take(waiting));
                self.push_behind_head(&hidden, out);
            }
            Phase::Tail { kept, .. } => {
                let hidden = hide(kept.make_contiguous());
                kept.clear();
                self.keep(&hidden);
            }
            Phase::Fits { .. } | Phase::Cut => {}
        }
    }

    /// Keeps what may be the end.
    fn keep(&mut self, chunk: &[u8]) {
        let (Phase::Tail { kept, dropped }, Some(most)) = (&mut self.phase, self.tail) else { return };
        let skipped = chunk.len().saturating_sub(most);
        let chunk = chunk.get(skipped..).unwrap_or_default();
        let excess = (kept.len() + chunk.len()).saturating_sub(most);
        kept.drain(..excess);
        kept.extend(chunk);
        *dropped = dropped.saturating_add((skipped + excess) as u64);
        while kept.front().is_some_and(|byte| !starts_char(*byte)) {
            kept.pop_front();
            *dropped = dropped.saturating_add(1);
        }
    }

    /// What would exceed the total is left out: a notice, where a job is taken up with a smaller limit.
    fn pass_on(&mut self, bytes: Bytes, out: &mut dyn FnMut(Bytes)) {
        let written = self.written.saturating_add(bytes.len() as u64);
        if !bytes.is_empty() && written <= self.total {
            self.written = written;
            out(bytes);
        }
    }

    /// What must be remembered besides the size.
    pub(super) fn ending(&self) -> Ending {
        let text = |bytes: &[u8]| Text(String::from_utf8_lossy(bytes).into_owned());
        match &self.phase {
            Phase::Fits { waiting } if waiting.is_empty() => Ending::Open,
            Phase::Fits { waiting } => Ending::Waiting { text: text(waiting) },
            Phase::Cut => Ending::Cut,
            Phase::Tail { kept, dropped } => {
                let (front, back) = kept.as_slices();
                Ending::Tail { text: text(&[front, back].concat()), dropped: *dropped }
            }
        }
    }

    /// Where another stopped, when so much was written. The limit may be another one than before.
    pub(super) fn resume(policy: LogLimit, written: u64, ending: Ending) -> Self {
        let mut limit = Self { written, ..Self::new(policy) };
        match ending {
            Ending::Open => {}
            Ending::Waiting { text } => limit.phase = Phase::Fits { waiting: text.0.into_bytes() },
            // What came since the log was cut is gone. Without a limit, what comes from now on is not.
            Ending::Cut if policy == LogLimit::None => {}
            Ending::Cut => limit.phase = Phase::Cut,
            Ending::Tail { text, dropped } => {
                let notice = if dropped > 0 { left_out(dropped) } else { String::new() };
                let size = written.saturating_add((notice.len() + text.0.len()) as u64);
                // The limit was raised or lifted. What was kept for the end follows now, and the log goes on behind it.
                if size <= if limit.tail.is_some() { limit.head } else { limit.total } {
                    limit.phase = Phase::Fits { waiting: (notice + &text.0).into_bytes() };
                    return limit;
                }
                limit.phase = Phase::Tail { kept: VecDeque::new(), dropped };
                limit.tail = limit.tail.or(Some(0));
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
    Waiting {
        text: Text,
    },
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

/// Bytes of a log. `Debug` shows only how many.
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

/// What stands where a log is cut, if there is room for it.
fn notice(total: u64, end_follows: bool) -> Option<String> {
    let notice = exceeded(total, if end_follows { END_FOLLOWS } else { NO_MORE });
    (notice.len() as u64 <= total).then_some(notice)
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
