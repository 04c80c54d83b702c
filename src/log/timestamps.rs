//! Puts the time before each line.

use std::time::{Duration, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr2};
use serde::{Deserialize, Serialize};

use super::Stream;
use crate::time::Timestamp;

/// What goes before each line: the time, the stream, and whether it continues the line before.
const HEADER: usize = 32;

/// The largest size of an entry, header included. A line that would become longer is continued in another entry.
const LONGEST: usize = 8192;

/// The last millisecond of the year 9999: the format has four digits for the year.
const LAST: u64 = 253_402_300_799_999;

/// One stream's stage. Takes valid UTF-8, and holds back the line that is not complete.
#[derive(Debug)]
pub(super) struct Stamper {
    stream: Stream,
    line: BytesMut,
    /// When the first byte of `line` came.
    since: Timestamp,
    continues: bool,
    /// The last header, with the time and the flag it is of: many lines are written at once.
    header: (Timestamp, bool, Bytes),
}

impl Stamper {
    pub(super) fn new(stream: Stream) -> Self {
        Self::resume(stream, Line::default())
    }

    /// An entry ends with a line, and with a CR that ends none: progress is shown while it is made. A CR that ends a write is not
    /// waited for, so that a CR LF that is cut in two makes two entries.
    pub(super) fn push(&mut self, mut chunk: Bytes, now: Timestamp, out: &mut dyn FnMut(Bytes)) {
        if self.line.is_empty() {
            self.since = now;
        }
        // Most text has none, and to look for one byte is faster than for two.
        let has_cr = memchr(b'\r', &chunk).is_some();
        let entry_end = |chunk: &[u8]| if has_cr { memchr2(b'\n', b'\r', chunk) } else { memchr(b'\n', chunk) };
        while let Some(mut end) = entry_end(&chunk) {
            let mut is_line = true;
            if has_cr && chunk.get(end) == Some(&b'\r') {
                is_line = chunk.get(end + 1) == Some(&b'\n');
                end += usize::from(is_line);
            }
            self.entry(chunk.split_to(end + 1), out);
            (self.since, self.continues) = (now, false);
            if !is_line {
                self.break_off(out);
            }
        }
        if HEADER + self.line.len() + chunk.len() > LONGEST {
            self.entry(chunk, out);
            self.break_off(out);
        } else {
            self.line.extend_from_slice(&chunk);
        }
    }

    /// An entry of its own, before the line that is not complete.
    pub(super) fn insert(&mut self, text: Bytes, now: Timestamp, out: &mut dyn FnMut(Bytes)) {
        let since = std::mem::replace(&mut self.since, now);
        let is_line = text.ends_with(b"\n");
        out(self.header());
        out(text);
        (self.since, self.continues) = (since, false);
        if !is_line {
            self.break_off(out);
        }
    }

    /// The stream has ended: its last line is completed. What comes is another stream's.
    pub(super) fn end(&mut self, out: &mut dyn FnMut(Bytes)) {
        if !self.line.is_empty() {
            self.entry(Bytes::new(), out);
            self.break_off(out);
        }
        self.continues = false;
    }

    /// Hides what was not hidden when it came, in the line that is not complete.
    pub(super) fn rewrite(&mut self, hide: impl Fn(&[u8]) -> Vec<u8>) {
        if !self.line.is_empty() {
            self.line = hide(&self.line).as_slice().into();
        }
    }

    /// The header, what waited, and this behind it.
    fn entry(&mut self, rest: Bytes, out: &mut dyn FnMut(Bytes)) {
        out(self.header());
        if !self.line.is_empty() {
            out(self.line.split().freeze());
        }
        if !rest.is_empty() {
            out(rest);
        }
    }

    /// What comes continues a line that had no end.
    fn break_off(&mut self, out: &mut dyn FnMut(Bytes)) {
        out(Bytes::from_static(b"\n"));
        self.continues = true;
    }

    fn header(&mut self) -> Bytes {
        if (self.since, self.continues) != (self.header.0, self.header.1) || self.header.2.is_empty() {
            self.header = (self.since, self.continues, self.new_header());
        }
        self.header.2.clone()
    }

    fn new_header(&self) -> Bytes {
        let time = UNIX_EPOCH + Duration::from_millis(self.since.as_millis().min(LAST));
        let time = humantime::format_rfc3339_micros(time);
        let (number, kind) = match self.stream {
            Stream::Runner => (0, 'O'),
            Stream::Stdout => (1, 'O'),
            Stream::Stderr => (1, 'E'),
            // Two digits is all there is: services beyond share the last number.
            Stream::Service(place) => (place.saturating_add(15).min(0xff), 'O'),
        };
        let continues = if self.continues { '+' } else { ' ' };
        format!("{time} {number:02x}{kind}{continues}").into()
    }

    /// The unfinished line, if there is one.
    pub(super) fn line(&self) -> Option<Line> {
        let text = String::from_utf8_lossy(&self.line).into_owned();
        let begun = self.continues || !text.is_empty();
        begun.then_some(Line { text, since: self.since, continues: self.continues })
    }

    pub(super) fn resume(stream: Stream, line: Line) -> Self {
        let header = (Timestamp::EPOCH, false, Bytes::new());
        Self { stream, line: line.text.as_bytes().into(), since: line.since, continues: line.continues, header }
    }
}

/// A line that is not complete, with what goes before it.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Line {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    text: String,
    since: Timestamp,
    continues: bool,
}

/// Shows no text, because the content of a log may be confidential.
impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("size", &self.text.len()).field("since", &self.since).finish_non_exhaustive()
    }
}
