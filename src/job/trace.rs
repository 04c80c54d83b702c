//! The log of a job as a growing list of buffers, with offsets, checksum and retention.
//!
//! Offsets count our own bytes. The [`Alignment`] says where they lie in GitLab's log.
//!
//! ```text
//!   floor          acknowledged            sent        saved        written
//!     |==================|-------------------|...........|............|
//!     | GitLab has this  | may be at GitLab  | may be    | the        |
//!     |                  | too               | sent      | application has not saved it: a durable job does not send it
//!   what was before is lost for good
//! ```
//!
//! `acknowledged` goes back when GitLab loses the end of its log. The others only grow, except `sent` where bytes are lost for good
//! and a mark takes their place.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::alignment::{Alignment, Place};
use crate::config::Retain;

/// Writes smaller than this are copied into a shared buffer, so that many small writes do not become many buffers. Larger ones are kept.
const GATHER_BELOW: usize = 4 * 1024;

/// The size of a gathering buffer, once this much is kept. Before that it is as large as what is kept, so that the buffer of a job that
/// printed a line is not much larger than the line.
const GATHER_BLOCK: usize = 16 * 1024;

/// The size of the first gathering buffer.
const FIRST_GATHER_BLOCK: usize = 256;

/// When more than this waits to be acknowledged, and the application has saved it, it is not kept here as well. A durable job reads it
/// from its record, which the application has at hand.
const KEPT_BACKLOG: u64 = 256 * 1024;

/// The same for [`Retain::Unsaved`]. Writers of the hyper adapter that can wait do so before that much waits, so that what they wrote
/// is not read back only to be sent.
const KEPT_UNSAVED_BACKLOG: u64 = 6 * 1024 * 1024;

/// Contiguous bytes from `start` on.
#[derive(Default)]
struct Segments {
    /// Each buffer with the offset of its first byte.
    list: VecDeque<(u64, Bytes)>,
    /// Small writes since the last buffer.
    open: BytesMut,
    start: u64,
    end: u64,
}

impl Segments {
    fn starting(at: u64) -> Self {
        Self { start: at, end: at, ..Self::default() }
    }

    fn push(&mut self, bytes: Bytes) {
        let length = bytes.len() as u64;
        if bytes.len() < GATHER_BELOW {
            if self.open.capacity() - self.open.len() < bytes.len() {
                self.close();
                // The buffer can be used again once all slices of it are freed.
                if !self.open.try_reclaim(bytes.len()) {
                    let kept = usize::try_from(self.end - self.start).unwrap_or(usize::MAX);
                    let size = kept.clamp(FIRST_GATHER_BLOCK, GATHER_BLOCK);
                    self.open = BytesMut::with_capacity(size.max(bytes.len()));
                }
            }
            self.open.extend_from_slice(&bytes);
        } else {
            self.close();
            self.list.push_back((self.end, bytes));
        }
        self.end += length;
    }

    /// Makes a buffer of what was gathered; the rest of its block stays for what comes.
    fn close(&mut self) {
        if !self.open.is_empty() {
            let gathered = self.open.split().freeze();
            self.list.push_back((self.end - gathered.len() as u64, gathered));
        }
    }

    /// The bytes of a range that lies within, without a copy.
    fn slice(&mut self, range: Range<u64>) -> Vec<Bytes> {
        self.close();
        let first = self.list.partition_point(|(at, bytes)| at + bytes.len() as u64 <= range.start);
        let within = self.list.range(first..).take_while(|(at, _)| *at < range.end);
        let cut = |(at, bytes): &(u64, Bytes)| {
            let from = range.start.saturating_sub(*at) as usize;
            let to = (range.end - at).min(bytes.len() as u64) as usize;
            bytes.slice(from..to)
        };
        within.map(cut).collect()
    }

    /// Frees the buffers that lie wholly before `offset`.
    fn release(&mut self, offset: u64) {
        if offset >= self.end {
            self.close();
        }
        while let Some((at, bytes)) = self.list.front() {
            if at + bytes.len() as u64 > offset {
                break;
            }
            self.list.pop_front();
        }
        self.start = self.list.front().map_or(self.end - self.open.len() as u64, |(at, _)| *at);
        if self.list.is_empty() && self.open.is_empty() {
            // An idle job keeps no buffers.
            (self.list, self.open) = (VecDeque::new(), BytesMut::new());
        }
    }
}

/// The log of a job, see the module.
pub(super) struct Trace {
    retain: Retain,
    /// What was written and is kept.
    tail: Segments,
    /// Bytes that were not kept and that the application brought back. Boxed, because it is rare and there may be thousands of jobs.
    refill: Option<Box<Segments>>,
    /// The bytes before this offset are lost, or the job was resumed without them because GitLab had them. Nobody is asked for them when
    /// a record is made.
    gone: u64,
    acknowledged: u64,
    /// Where what may be at GitLab ends.
    sent: u64,
    /// Everything before is safe on the application's side.
    saved: u64,
    durable: bool,
    crc: u32,
    alignment: Alignment,
}

impl Trace {
    pub(super) fn new(retain: Retain, durable: bool) -> Self {
        Self::restored(retain, durable, Offsets::default())
    }

    /// The log of a resumed job: the application has its bytes, and this value none.
    pub(super) fn restored(retain: Retain, durable: bool, offsets: Offsets) -> Self {
        let Offsets { acknowledged, sent, written, crc, alignment } = offsets;
        let tail = Segments::starting(written);
        Self { retain, tail, refill: None, gone: 0, acknowledged, sent, saved: written, durable, crc, alignment }
    }

    /// Gives a restored log its bytes from `start` to its end, so that the application is not asked for them.
    pub(super) fn hold(&mut self, start: u64, log: Bytes) {
        let mut tail = Segments::starting(start);
        tail.push(log);
        if self.tail.start == self.tail.end && tail.end == self.tail.end {
            (self.tail, self.gone) = (tail, start);
            self.release();
        }
    }

    /// The part of the log that is not kept here although GitLab may need it, and that somebody else may have.
    pub(super) fn elsewhere(&self) -> Option<Range<u64>> {
        let needed = match self.retain {
            Retain::All | Retain::Unsaved => self.floor(),
            Retain::Unacknowledged => self.acknowledged,
        };
        let missing = needed.max(self.gone)..self.tail.start;
        (!missing.is_empty()).then_some(missing)
    }

    pub(super) fn offsets(&self) -> Offsets {
        let Self { acknowledged, sent, crc, .. } = *self;
        Offsets { acknowledged, sent, written: self.written(), crc, alignment: self.alignment.clone() }
    }

    pub(super) fn write(&mut self, bytes: Bytes) {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.crc);
        hasher.update(&bytes);
        self.crc = hasher.finalize();
        self.tail.push(bytes);
    }

    #[inline]
    pub(super) fn written(&self) -> u64 {
        self.tail.end
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    #[inline]
    pub(super) fn unsent(&self) -> u64 {
        self.written() - self.acknowledged
    }

    /// Where what the application has declared safe ends.
    #[inline]
    pub(super) fn saved(&self) -> u64 {
        self.saved
    }

    /// Where what may be at GitLab ends.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    pub(super) fn crc(&self) -> u32 {
        self.crc
    }

    /// Whether GitLab's log is ours, byte by byte. If not, no checksum of ours can be right.
    pub(super) fn is_exact(&self) -> bool {
        self.alignment.is_exact()
    }

    /// GitLab's offset for one of ours.
    pub(super) fn at_server(&self, offset: u64) -> u64 {
        self.alignment.at_server(offset)
    }

    /// Compares where GitLab's log ends with what we sent of ours.
    pub(super) fn locate(&self, server_end: u64) -> Location {
        match self.alignment.locate(server_end) {
            Place::Before => Location::Shifted(self.floor()),
            Place::Foreign(next) => Location::Shifted(next),
            Place::Ours(ours) if ours > self.sent => Location::Beyond,
            Place::Ours(ours) => Location::Within(ours),
        }
    }

    /// Our first byte still known.
    pub(super) fn floor(&self) -> u64 {
        self.alignment.floor()
    }

    /// GitLab holds everything before `offset`, and nothing from there on.
    pub(super) fn acknowledge(&mut self, offset: u64) {
        self.acknowledged = offset.min(self.written());
        let acknowledged = self.acknowledged;
        _ = self.refill.take_if(|refill| !(refill.start..refill.end).contains(&acknowledged));
        self.release();
    }

    /// GitLab's log ends with our byte before `offset`, which it has at `server_end`: the log goes on from there. That is further than
    /// was acknowledged if the answer to a piece was lost, and less far if GitLab lost the end of its log. Returns whether bytes of
    /// somebody else were lost with it, so that ours lie elsewhere from now on.
    pub(super) fn continue_at(&mut self, offset: u64, server_end: u64) -> bool {
        let moves = self.alignment.cut(server_end);
        self.acknowledge(offset);
        moves
    }

    /// Our byte at `offset` is to go where GitLab's log now ends.
    pub(super) fn shift_to(&mut self, offset: u64, server_end: u64) {
        self.alignment.shift(offset, server_end);
        self.acknowledge(offset);
    }

    /// All of the log is to be sent again, from the first byte that is known.
    pub(super) fn rewind(&mut self) {
        let floor = self.floor();
        self.alignment.cut(self.at_server(floor));
        self.acknowledge(floor);
    }

    /// Frees the bytes that need not be kept. If much waits to be sent, saved bytes are freed too, and the application brings them back
    /// later. This bounds the memory in an outage, however large the log is.
    fn release(&mut self) {
        let (kept_from, most) = match self.retain {
            Retain::All => return,
            // Of a durable log everything acknowledged is saved: nothing else was sent.
            Retain::Unacknowledged => (self.acknowledged, if self.durable { KEPT_BACKLOG } else { u64::MAX }),
            Retain::Unsaved => (self.acknowledged.min(self.saved), KEPT_UNSAVED_BACKLOG),
        };
        let is_backlog = self.saved.saturating_sub(self.acknowledged) > most;
        self.tail.release(if is_backlog { self.saved } else { kept_from });
    }

    /// Bytes needed next that are kept nowhere, at most `limit` of them.
    pub(super) fn missing(&self, limit: u64) -> Option<Range<u64>> {
        let next = self.refilled_to();
        let needed = next == self.acknowledged && next < self.tail.start;
        needed.then(|| next..self.tail.start.min(next.saturating_add(limit)))
    }

    fn refilled_to(&self) -> u64 {
        let within = |refill: &&Segments| (refill.start..refill.end).contains(&self.acknowledged);
        self.refill.as_deref().filter(within).map_or(self.acknowledged, |refill| refill.end)
    }

    /// Takes bytes that follow those known; what exceeds the hole is cut off.
    pub(super) fn refill(&mut self, mut bytes: Bytes) {
        let next = self.refilled_to();
        if next == self.acknowledged {
            self.refill = None;
        }
        let hole = self.tail.start.saturating_sub(next);
        bytes.truncate(usize::try_from(hole).unwrap_or(usize::MAX));
        self.refill.get_or_insert_with(|| Box::new(Segments::starting(next))).push(bytes);
    }

    /// The bytes asked for are gone. A mark stands in for all of the hole, and what follows moves up behind it.
    pub(super) fn forfeit(&mut self) {
        let hole = self.acknowledged..self.tail.start;
        let lost = hole.end - hole.start;
        let server_end = self.at_server(hole.start);
        let mut mark = Bytes::from(format!("\n[the runner has lost {lost} bytes of this log]\n"));
        mark.truncate(usize::try_from(lost).unwrap_or(usize::MAX));
        let start = hole.end - mark.len() as u64;
        self.alignment.restart(start, server_end);
        self.acknowledge(start);
        (self.sent, self.gone) = (start, hole.end);
        let mut refill = Box::new(Segments::starting(start));
        refill.push(mark);
        self.refill = Some(refill);
    }

    /// The next bytes to send, up to `limit` and `end`: their range, empty if there are none that may go.
    pub(super) fn next(&self, limit: u64) -> Range<u64> {
        let start = self.acknowledged;
        let known = if start < self.tail.start { self.refilled_to() } else { self.written() };
        let safe = if self.durable { self.saved.max(self.refilled_to()) } else { u64::MAX };
        start..known.min(safe).min(start.saturating_add(limit)).max(start)
    }

    /// The bytes of a range that [`Trace::next`] gave, which are now on their way.
    pub(super) fn send(&mut self, range: Range<u64>) -> Vec<Bytes> {
        self.sent = self.sent.max(range.end);
        match &mut self.refill {
            Some(refill) if range.start < self.tail.start => refill.slice(range),
            _ => self.tail.slice(range),
        }
    }

    /// What is not saved: the offset, and the bytes from there on.
    pub(super) fn unsaved(&mut self) -> (u64, Vec<Bytes>) {
        let range = self.saved.max(self.tail.start)..self.written();
        (range.start, self.tail.slice(range))
    }

    /// What is kept: the offset, and the bytes from there on.
    pub(super) fn retained(&mut self) -> (u64, Vec<Bytes>) {
        let range = self.tail.start..self.written();
        (range.start, self.tail.slice(range))
    }

    pub(super) fn mark_saved(&mut self, up_to: u64) {
        self.saved = self.saved.max(up_to.min(self.written()));
        self.release();
    }
}

/// Shows offsets only, because the content of a log may be confidential.
impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.tail.start..self.tail.end;
        f.debug_struct("Trace").field("kept", &kept).field("offsets", &self.offsets()).finish_non_exhaustive()
    }
}

/// What must be remembered of a log besides its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Offsets {
    pub(super) acknowledged: u64,
    pub(super) sent: u64,
    pub(super) written: u64,
    pub(super) crc: u32,
    pub(super) alignment: Alignment,
}

/// Where an end of GitLab's log lies in ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Location {
    /// At this offset.
    Within(u64),
    /// Elsewhere than at one of our bytes: before the first that is known, or among somebody else's. Ours go on with this one.
    Shifted(u64),
    /// Behind all we ever sent: somebody else's bytes are there.
    Beyond,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(chunks: Vec<Bytes>) -> String {
        String::from_utf8(chunks.concat()).unwrap()
    }

    fn trace(retain: Retain, log: &'static str) -> Trace {
        let mut trace = Trace::new(retain, false);
        trace.write(Bytes::from_static(log.as_bytes()));
        trace
    }

    #[test]
    fn small_writes_are_gathered_and_large_ones_shared() {
        let mut trace = Trace::new(Retain::All, false);
        let large = Bytes::from(vec![b'x'; GATHER_BELOW]);
        trace.write(Bytes::from_static(b"ab"));
        trace.write(Bytes::from_static(b"cd"));
        trace.write(large.clone());
        trace.write(Bytes::from_static(b"ef"));
        let chunks = trace.send(0..trace.written());
        assert_eq!(chunks.iter().map(Bytes::len).collect::<Vec<_>>(), [4, GATHER_BELOW, 2]);
        assert_eq!(chunks[1].as_ptr(), large.as_ptr());
        assert_eq!(text(trace.send(3..6)), "dxx");
        assert_eq!(trace.crc(), crc32fast::hash(&chunks.concat()));
    }

    #[test]
    fn what_is_acknowledged_is_let_go_only_if_asked_to() {
        let mut kept = trace(Retain::All, "abcdef");
        kept.acknowledge(6);
        kept.acknowledge(2);
        assert_eq!((kept.missing(9), text(kept.send(2..6))), (None, "cdef".into()));

        let mut freed = trace(Retain::Unacknowledged, "abcdef");
        freed.acknowledge(6);
        freed.acknowledge(2);
        assert_eq!(freed.missing(3), Some(2..5));
        freed.refill(Bytes::from_static(b"cde"));
        assert_eq!((freed.missing(3), freed.next(9)), (None, 2..5));
        freed.acknowledge(5);
        assert_eq!(freed.missing(3), Some(5..6));
        freed.refill(Bytes::from_static(b"fgh"));
        assert_eq!((freed.next(9), text(freed.send(5..6))), (5..6, "f".into()));
    }

    #[test]
    fn nothing_goes_out_before_it_is_saved() {
        let mut trace = Trace::new(Retain::Unacknowledged, true);
        trace.write(Bytes::from_static(b"abcdef"));
        assert_eq!(trace.next(9), 0..0);
        let (at, chunks) = trace.unsaved();
        assert_eq!((at, text(chunks)), (0, "abcdef".into()));
        trace.mark_saved(4);
        assert_eq!((trace.next(9), trace.next(3)), (0..4, 0..3));
        let (at, chunks) = trace.unsaved();
        assert_eq!((at, text(chunks)), (4, "ef".into()));
    }

    #[test]
    fn a_long_backlog_that_is_saved_is_not_kept_in_memory() {
        let mut trace = Trace::new(Retain::Unacknowledged, true);
        let log: Vec<u8> = (0..2_000_000u32).map(|number| number as u8).collect();
        for chunk in log.chunks(1000) {
            trace.write(Bytes::copy_from_slice(chunk));
            trace.mark_saved(trace.written());
            let kept: usize = trace.tail.list.iter().map(|(_, bytes)| bytes.len()).sum();
            assert!(kept as u64 <= KEPT_BACKLOG + 2 * GATHER_BLOCK as u64, "{kept}");
        }
        let mut arrived = Vec::new();
        while arrived.len() < log.len() {
            if let Some(range) = trace.missing(300_000) {
                trace.refill(Bytes::copy_from_slice(&log[range.start as usize..range.end as usize]));
            }
            let range = trace.next(300_000);
            arrived.extend(trace.send(range.clone()).concat());
            trace.acknowledge(range.end);
        }
        assert!(arrived == log, "what was brought back is not what was written");
    }

    #[test]
    fn what_is_not_saved_is_kept_although_it_is_acknowledged() {
        let mut trace = trace(Retain::Unsaved, "abcdef");
        trace.acknowledge(4);
        assert_eq!(trace.retained().0, 0);
        trace.mark_saved(2);
        // Buffers go as a whole.
        assert_eq!(trace.retained().0, 0);
        trace.write(Bytes::from_static(b"gh"));
        trace.mark_saved(6);
        trace.acknowledge(7);
        assert_eq!((trace.retained().0, trace.missing(9)), (6, None));
        trace.acknowledge(1);
        assert_eq!(trace.missing(9), Some(1..6));
        trace.refill(Bytes::from_static(b"bcdef"));
        assert_eq!((trace.next(9), text(trace.send(1..6))), (1..6, "bcdef".into()));
        // A record is made of all of it.
        assert_eq!(trace.elsewhere(), Some(0..6));
    }

    #[test]
    fn a_log_that_moves_to_a_file_stays_small_in_memory_and_whole() {
        let mut trace = Trace::new(Retain::Unsaved, false);
        let mut file = Vec::new();
        let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
        let kept = |trace: &Trace| trace.tail.end - trace.tail.start;
        for _ in 0..400 {
            trace.write(chunk.clone());
            let (at, chunks) = trace.unsaved();
            assert_eq!(at as usize, file.len());
            file.extend(chunks.concat());
            trace.mark_saved(trace.written());
            assert!(kept(&trace) <= KEPT_UNSAVED_BACKLOG + chunk.len() as u64, "{}", kept(&trace));
        }
        // In an outage: all that is needed comes from the file.
        let mut arrived = 0;
        while arrived < file.len() as u64 {
            if let Some(range) = trace.missing(1 << 20) {
                assert!(range.end <= trace.saved());
                trace.refill(Bytes::copy_from_slice(&file[range.start as usize..range.end as usize]));
            }
            let range = trace.next(1 << 20);
            assert_eq!(trace.send(range.clone()).concat(), file[range.start as usize..range.end as usize]);
            trace.acknowledge(range.end);
            arrived = range.end;
        }
        assert_eq!(kept(&trace), 0);
    }

    #[test]
    fn a_hole_is_marked_and_what_follows_moves_up() {
        for lost in [3u64, 500] {
            let offsets = Offsets { acknowledged: 0, written: lost, ..Offsets::default() };
            let mut trace = Trace::restored(Retain::All, false, offsets);
            trace.write(Bytes::from_static(b"after"));
            trace.forfeit();
            let mark = trace.next(1000);
            let bytes = text(trace.send(mark.clone()));
            assert_eq!((trace.at_server(mark.start), mark.end), (0, lost));
            assert!(bytes.len() as u64 <= lost && (lost == 3 || bytes.contains("500 bytes")), "{bytes}");
            trace.acknowledge(mark.end);
            assert_eq!(trace.at_server(trace.next(1000).start), bytes.len() as u64);
            assert_eq!(text(trace.send(lost..lost + 5)), "after");
        }
    }
}
