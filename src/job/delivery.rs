//! How the log gets to GitLab: which bytes are sent next, and what an answer to them means for those that follow.
//!
//! ```text
//!            floor        acknowledged        sent     written
//!  our log     |================|--------------|- - - - - |
//!  GitLab's    |=========|                                      size within what was sent: go on there
//!  GitLab's  |=|                                                size before the floor: our first known byte goes there
//!  GitLab's    |=========|####|                                 size among foreign bytes: our next one goes there
//!  GitLab's    |=======================================|        size beyond: somebody else wrote; ours goes behind
//! ```
//!
//! [`Trace`] has the bytes and the first line of this picture. The others are what a 416 can say.
//!
//! A job notices that GitLab lost the end of its log by the answer to its next piece, to the probe at its end or after a resume, or by
//! a 412 to its report. It then goes on from where GitLab's log ends. For bytes that it no longer keeps it asks the application
//! ([`JobEvent::TraceNeeded`](super::JobEvent::TraceNeeded)).

mod patch_size;
mod progress;

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use self::patch_size::PatchSize;
use self::progress::{Detours, Progress};
use super::alignment::Alignment;
use super::deadlines::WaitReason;
use super::reminder::{self, Reminder};
use super::rules::Intent;
use super::trace::{Location, Offsets, Trace};
use crate::config::{DEFAULT_UPDATE_INTERVAL, RunnerConfig};
use crate::error::Misuse;
use crate::headers;
use crate::reply::Cause;
use crate::rng::Rng;
use crate::time::Timestamp;

/// After how many answers a probe is dropped by which a server refuses the probe itself (400, 405, 411, 413, 416). The log then goes on
/// from the last acknowledged byte. A probe for the next byte is dropped when it fails for the first time.
const PROBE_ATTEMPTS: u8 = 3;

/// The log on its way to GitLab.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) trace: Trace,
    /// When the next piece is due while the job runs, unless there is enough for a full one.
    flush_at: Timestamp,
    /// How long after a piece the next one is due. GitLab says: 3 s while somebody looks at the log, and 60 s otherwise.
    interval: Duration,
    patch_size: PatchSize,
    progress: Progress,
    detours: Detours,
    /// The end of the last piece that was sent and neither taken nor placed by an answer. It is repeated as it was, so that the
    /// repetition is harmless if the piece had arrived.
    unsettled_end: Option<u64>,
    /// That piece may have arrived: there was no answer, or one that does not say.
    fate_unknown: bool,
    probe: Option<Probe>,
    /// The last piece or probe was answered with a 416 that named the very offset at which it began.
    stalled: bool,
    /// Boxed, because it is rare and there may be thousands of jobs.
    refusal: Option<Box<Refusal>>,
    /// The log was refused for too long, and what is missing of it is not sent any more.
    given_up: bool,
    /// Asks the application for bytes that are not kept here.
    reminder: Reminder,
}

/// An empty patch that finds out where GitLab's log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Probe {
    /// How many answers told nothing.
    useless: u8,
    purpose: Purpose,
}

/// What a [`Probe`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// To go on at the end of what we sent.
    GoOn,
    /// To send everything again, after GitLab said that checksum or size do not match (412).
    Rewind,
    /// To see whether GitLab's log ends at this offset of ours, one byte after where its last two answers said.
    NextByte(u64),
}

impl Probe {
    const fn new(purpose: Purpose) -> Self {
        Self { useless: 0, purpose }
    }
}

/// That the log is being refused, and since when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    pub(super) since: Timestamp,
    /// How it was refused first.
    pub(super) cause: Cause,
    /// GitLab has answered a call of another kind since.
    pub(super) others_work: bool,
}

/// What is to be done about the log next.
pub(super) enum Due {
    /// Nothing: all that is to be sent was acknowledged.
    Nothing,
    /// Nothing before this time.
    Wait(Timestamp, WaitReason),
    /// The application must bring these bytes.
    Supply(Range<u64>),
    /// The application must save what was written: a durable job sends nothing else.
    Save,
    /// A piece, or a probe.
    Send(Intent),
}

/// What an answer changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// The call achieved something, and its price is given back to the budget.
    pub(super) productive: bool,
    /// A process that resumes from an older state would send the wrong bytes.
    pub(super) critical: bool,
    /// The offset of GitLab's log at which our next byte now goes, if that has changed.
    pub(super) shifted_to: Option<u64>,
}

/// What a snapshot holds of a [`Delivery`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredDelivery {
    pub(super) written: u64,
    acknowledged: u64,
    crc32: u32,
    #[serde(default, skip_serializing_if = "Alignment::is_exact")]
    shifts: Alignment,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    probe: Option<StoredProbe>,
    /// What GitLab lost and was sent again, and when it lost it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lost: Option<(Range<u64>, Timestamp)>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    given_up: bool,
    patch_limit: u64,
    interval_ms: u64,
    flush_at: Timestamp,
}

/// A probe that stands. It goes on after a resume, with what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredProbe {
    /// The offset of the log that is asked for: nothing behind that was sent.
    at: u64,
    /// Whether all of the log is to be sent again afterwards.
    rewinds: bool,
}

impl StoredDelivery {
    /// The state of a log that another client has sent until now. If it is `complete`, the result was sent after it. If not, GitLab may have
    /// all of it or nothing, so a probe asks where GitLab's log ends before more is sent.
    pub(super) fn of_another_client(log: &[u8], complete: bool) -> Self {
        let written = log.len() as u64;
        Self {
            written,
            acknowledged: if complete { written } else { 0 },
            crc32: crc32fast::hash(log),
            shifts: Alignment::default(),
            probe: (!complete).then_some(StoredProbe { at: written, rewinds: false }),
            lost: None,
            given_up: false,
            patch_limit: u64::MAX,
            interval_ms: DEFAULT_UPDATE_INTERVAL.as_millis() as u64,
            flush_at: Timestamp::EPOCH,
        }
    }

    /// Whether these numbers can be those of a log.
    pub(super) fn is_sound(&self) -> bool {
        // What may be at GitLab.
        let sent = self.probe.map_or(self.written, |probe| probe.at);
        let lost = self.lost.as_ref().is_none_or(|(lost, _)| lost.start <= lost.end && lost.end <= sent);
        // No log is so large, and adding to it cannot overflow.
        let countable = self.written <= u64::MAX / 2;
        let shifts = self.shifts.is_sound(self.acknowledged);
        countable && lost && shifts && self.acknowledged <= sent && sent <= self.written
    }

    /// Whether these chunks together are the log. Compares size and checksum, or only the size if bytes were lost for good.
    pub(super) fn is_log(&self, chunks: impl IntoIterator<Item = impl AsRef<[u8]>>) -> bool {
        let (mut hasher, mut size) = (crc32fast::Hasher::new(), 0u64);
        for chunk in chunks {
            hasher.update(chunk.as_ref());
            size = size.saturating_add(chunk.as_ref().len() as u64);
        }
        let lossless = self.shifts.floor() == 0;
        size == self.written && (!lossless || hasher.finalize() == self.crc32)
    }
}

impl Delivery {
    /// The delivery of an empty log.
    pub(super) fn new(config: &RunnerConfig) -> Self {
        Self {
            trace: Trace::new(config.retain, config.durable),
            flush_at: Timestamp::EPOCH,
            interval: config.update_interval,
            patch_size: PatchSize::new(config.patch_limit),
            progress: Progress::default(),
            detours: Detours::default(),
            unsettled_end: None,
            fate_unknown: false,
            probe: None,
            stalled: false,
            refusal: None,
            given_up: false,
            reminder: Reminder::default(),
        }
    }

    pub(super) fn stored(&self, is_rewound: bool) -> StoredDelivery {
        let Offsets { acknowledged, sent: _, written, crc, alignment } = self.trace.offsets();
        StoredDelivery {
            written,
            acknowledged,
            crc32: crc,
            shifts: alignment,
            probe: self.stored_probe(is_rewound),
            lost: self.progress.lost(),
            given_up: self.given_up,
            patch_limit: self.patch_size.limit(),
            interval_ms: u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX),
            flush_at: self.flush_at,
        }
    }

    /// The probe to go on with after a resume. `is_rewound` if the log is being sent again because its checksum did not match.
    fn stored_probe(&self, is_rewound: bool) -> Option<StoredProbe> {
        let Offsets { acknowledged, sent, .. } = self.trace.offsets();
        let stored = |rewinds| Some(StoredProbe { at: sent, rewinds });
        match self.probe.map(|probe| probe.purpose) {
            // Nothing is sent behind these two before they are answered and that is saved.
            Some(Purpose::GoOn) => stored(false),
            Some(Purpose::Rewind) => stored(true),
            // A guess. If it is wrong, the log goes on without another save.
            Some(Purpose::NextByte(_)) => None,
            // All of the log is to be sent again, and nothing of it was: without this, the probe after a resume would find the log
            // whole, and leave it as it is.
            None if is_rewound && acknowledged == self.trace.floor() && sent > acknowledged => stored(true),
            None => None,
        }
    }

    /// Restores the delivery from a snapshot. Its times may come from another clock, so none may be later than the longest wait of its kind.
    ///
    /// A report that was sent is repeated. Anything else first finds out where GitLab's log ends, and so does a result that still
    /// waits for that: GitLab may have lost the end of the log, and nobody else would notice.
    pub(super) fn restored(stored: StoredDelivery, has_result: bool, config: &RunnerConfig, now: Timestamp) -> Self {
        let offsets = Offsets {
            acknowledged: stored.acknowledged,
            // What was saved may have been sent since.
            sent: stored.probe.map_or(stored.written, |probe| probe.at),
            written: stored.written,
            crc: stored.crc32,
            alignment: stored.shifts,
        };
        let interval = Duration::from_millis(stored.interval_ms).min(headers::UPDATE_INTERVAL_CAP);
        let mut delivery = Self {
            trace: Trace::restored(config.retain, config.durable, offsets),
            flush_at: stored.flush_at.min(now.saturating_add(interval)),
            interval,
            patch_size: PatchSize::restored(stored.patch_limit, config.patch_limit, now),
            progress: Progress::restored(stored.acknowledged, stored.lost, now),
            given_up: stored.given_up,
            ..Self::new(config)
        };
        let purpose = match stored.probe {
            Some(StoredProbe { rewinds: true, .. }) => Some(Purpose::Rewind),
            Some(StoredProbe { rewinds: false, .. }) => Some(Purpose::GoOn),
            None if has_result && !delivery.owes() => None,
            None => Some(Purpose::GoOn),
        };
        delivery.probe = purpose.map(Probe::new);
        delivery
    }

    /// GitLab says how often it wants pieces.
    pub(super) fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// Whether there is log that GitLab has not acknowledged and is still to get.
    fn owes(&self) -> bool {
        self.trace.unsent() > 0 && !self.given_up
    }

    /// Whether nothing is to be sent any more of the log that there is.
    pub(super) fn is_complete(&self) -> bool {
        self.probe.is_none() && !self.owes()
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled
    }

    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.refusal.as_deref().copied()
    }

    /// The next piece of log, or what stands in its way. While the job is `running`, pieces wait until they are due or full.
    pub(super) fn due(&self, running: bool, now: Timestamp) -> Due {
        if let Some(probe) = self.probe {
            let base = match probe.purpose {
                Purpose::GoOn | Purpose::Rewind => self.trace.sent(),
                Purpose::NextByte(offset) => offset,
            };
            return Due::Send(Intent::Probe { base });
        }
        if !self.owes() {
            return Due::Nothing;
        }
        if let Some(range) = self.trace.missing(self.patch_size.limit()) {
            return match self.reminder.not_before(now) {
                Some(at) => Due::Wait(at, WaitReason::Trace),
                None => Due::Supply(range),
            };
        }
        let full = self.trace.unsent() >= self.patch_size.now(now);
        if running && !full && now < self.flush_at {
            return Due::Wait(self.flush_at, WaitReason::Interval);
        }
        let piece = self.next_piece(now);
        if piece.is_empty() { Due::Save } else { Due::Send(Intent::Patch { start: piece.start, end: piece.end }) }
    }

    /// The range of the next piece. One whose fate is not settled is repeated as it was.
    fn next_piece(&self, now: Timestamp) -> Range<u64> {
        let limit = self
            .unsettled_end
            .map_or_else(|| self.patch_size.now(now), |end| end.saturating_sub(self.trace.acknowledged()));
        self.trace.next(limit)
    }

    /// A piece is sent: its bytes.
    pub(super) fn send(&mut self, piece: Range<u64>) -> Vec<Bytes> {
        self.unsettled_end = Some(piece.end);
        self.trace.send(piece)
    }

    /// The log is complete. GitLab may have lost its end since it was acknowledged. The answer to the next piece would show that. If
    /// no piece is left to send, a probe asks.
    pub(super) fn finish(&mut self) {
        if self.trace.unsent() == 0 && self.trace.written() > 0 && self.probe.is_none() {
            self.probe = Some(Probe::new(Purpose::GoOn));
        }
    }

    /// All of the log is to be sent again, once GitLab has said where its own ends.
    pub(super) fn send_again(&mut self) {
        self.probe = Some(Probe::new(Purpose::Rewind));
    }

    /// GitLab took a piece, or what a probe asked for is where its log ends.
    pub(super) fn acknowledged(&mut self, intent: Intent, now: Timestamp) -> Effect {
        (self.unsettled_end, self.fate_unknown) = (None, false);
        self.reminder.done();
        let (end, critical) = match intent {
            Intent::Probe { base } => {
                // Critical, because a process that resumed from a state before the probe would send the wrong bytes after this.
                if self.probe.take().is_some_and(|probe| probe.purpose == Purpose::Rewind) {
                    self.trace.rewind();
                    self.progress.lost_from(self.trace.acknowledged(), now);
                    return Effect { critical: true, ..Effect::default() };
                }
                (base, true)
            }
            Intent::Patch { start, end } => {
                self.patch_size.taken(end - start);
                self.flush_at = now.saturating_add(self.interval);
                (end, false)
            }
            Intent::Accept | Intent::KeepAlive | Intent::Report => return Effect::default(),
        };
        self.trace.acknowledge(end);
        Effect { productive: self.progress.reached(end), critical, shifted_to: None }
    }

    /// Whether a probe asks for the byte after where GitLab's last two answers said its log ends.
    pub(super) fn is_guessing(&self) -> bool {
        self.probe.is_some_and(|probe| matches!(probe.purpose, Purpose::NextByte(_)))
    }

    /// GitLab names the same offset again and again: its log may end one byte behind, as some servers name the last byte in place of
    /// the size.
    pub(super) fn guess_next_byte(&mut self) {
        self.probe = Some(Probe::new(Purpose::NextByte(self.trace.acknowledged() + 1)));
    }

    /// GitLab's log ends at `size`, and not where the piece or probe began: see the picture of the module.
    pub(super) fn resynchronise(&mut self, begun: u64, size: u64, now: Timestamp) -> Effect {
        let was_probing = self.probe.take().is_some();
        let arrived = std::mem::take(&mut self.fate_unknown) || was_probing;
        self.unsettled_end = None;
        self.reminder.done();
        match self.trace.locate(size) {
            Location::Within(offset) => {
                // If somebody else's bytes are lost with ours, what is sent now lies elsewhere than a record of before says.
                let critical = self.trace.continue_at(offset, size) || was_probing;
                self.progress.lost_from(offset, now);
                Effect { productive: self.progress.named(offset), critical, shifted_to: None }
            }
            Location::Shifted(offset) => self.shift(offset, size),
            // Somebody else's bytes are behind ours, or in place of a piece that certainly did not arrive.
            Location::Beyond => self.shift(if arrived { self.trace.sent() } else { begun }, size),
        }
    }

    fn shift(&mut self, offset: u64, server_offset: u64) -> Effect {
        self.trace.shift_to(offset, server_offset);
        self.progress = Progress::starting(self.trace.acknowledged());
        Effect { productive: false, critical: true, shifted_to: Some(server_offset) }
    }

    /// One more answer led elsewhere and no further. Returns until when to wait with the next piece.
    pub(super) fn count_detour(&mut self, cap: Duration, now: Timestamp, rng: &mut Rng) -> Timestamp {
        self.detours.count(cap, now, rng)
    }

    /// A piece of this size is refused as too large. Returns whether a smaller one can be sent.
    pub(super) fn halve(&mut self, size: u64, now: Timestamp) -> bool {
        let smaller = self.patch_size.refused(size, now);
        if smaller {
            // Nothing of it was stored, so that the next piece may be another one.
            self.unsettled_end = None;
        }
        smaller
    }

    /// A piece or probe was answered. `begun` is where it began in GitLab's log; `useless` if the answer neither took it nor said
    /// where to go on.
    pub(super) fn note_answer(
        &mut self,
        status: StatusCode,
        stored: Option<u64>,
        begun: u64,
        useless: bool,
        now: Timestamp,
    ) {
        self.stalled = status == StatusCode::RANGE_NOT_SATISFIABLE && stored == Some(begun);
        if useless && is_refusal(status) {
            let refusal = Refusal { since: now, cause: Cause::Status(status), others_work: false };
            self.refusal.get_or_insert_with(|| Box::new(refusal));
        } else {
            self.refusal = None;
        }
    }

    /// GitLab has answered a call of another kind.
    pub(super) fn note_other_answer(&mut self) {
        if let Some(refusal) = &mut self.refusal {
            refusal.others_work = true;
        }
    }

    /// A piece or probe came to nothing.
    pub(super) fn failed(&mut self, intent: Intent, cause: Cause) {
        if let Cause::Failure(_) = cause {
            // Nobody has refused anything.
            (self.refusal, self.stalled) = (None, false);
        }
        match intent {
            Intent::Patch { .. } => self.fate_unknown |= may_have_arrived(cause),
            Intent::Probe { .. } => self.note_useless_probe(cause),
            Intent::Accept | Intent::KeepAlive | Intent::Report => {}
        }
    }

    /// Drops a probe that only gets useless answers.
    fn note_useless_probe(&mut self, cause: Cause) {
        let useless = matches!(cause, Cause::Status(status) if matches!(status.as_u16(), 400 | 405 | 411 | 413 | 416));
        let Some(probe) = &mut self.probe else { return };
        probe.useless += u8::from(useless);
        if matches!(probe.purpose, Purpose::NextByte(_)) || probe.useless >= PROBE_ATTEMPTS {
            self.probe = None;
        }
    }

    /// What is missing of the log at GitLab is not sent any more.
    pub(super) fn give_up(&mut self) {
        self.given_up = true;
        (self.probe, self.refusal) = (None, None);
    }

    /// The bytes that the application must bring next.
    pub(super) fn needed(&self) -> Option<Range<u64>> {
        let wanted = self.probe.is_none() && self.owes();
        wanted.then(|| self.trace.missing(self.patch_size.limit())).flatten()
    }

    /// The application was asked for them.
    pub(super) fn asked(&mut self, now: Timestamp, rng: &mut Rng) {
        self.reminder.ask_again(reminder::TO_SUPPLY, now, rng);
    }

    /// The application brings bytes from `offset` on.
    pub(super) fn supply(&mut self, offset: u64, bytes: Bytes, now: Timestamp, rng: &mut Rng) -> Result<(), Misuse> {
        let wanted = self.needed().ok_or(Misuse::TraceNotNeeded)?;
        if offset != wanted.start {
            return Err(Misuse::TraceMismatch { offered: offset, wanted: wanted.start });
        }
        if bytes.is_empty() {
            self.reminder.ask_again(reminder::TO_SUPPLY_MORE, now, rng);
        } else {
            self.trace.refill(bytes);
            self.reminder.done();
        }
        Ok(())
    }

    /// The bytes that are needed are nowhere: a mark takes their place.
    pub(super) fn forfeit(&mut self) -> Result<(), Misuse> {
        self.needed().ok_or(Misuse::TraceNotNeeded)?;
        self.trace.forfeit();
        self.reminder.done();
        self.unsettled_end = None;
        Ok(())
    }
}

/// Whether a piece may be at GitLab although the call failed. A refusal says that it is not.
fn may_have_arrived(cause: Cause) -> bool {
    match cause {
        Cause::Failure(failure) => failure.may_have_arrived(),
        Cause::Status(status) => !status.is_client_error() || status == StatusCode::REQUEST_TIMEOUT,
    }
}

/// Whether a status refuses a piece of log, rather than asking to send it later or elsewhere.
fn is_refusal(status: StatusCode) -> bool {
    match status {
        StatusCode::REQUEST_TIMEOUT
        | StatusCode::CONFLICT
        | StatusCode::RANGE_NOT_SATISFIABLE
        | StatusCode::TOO_MANY_REQUESTS => false,
        status => !status.is_server_error() || status == StatusCode::NOT_IMPLEMENTED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::info::Info;
    use crate::config::{Retain, Server};
    use crate::reply::Failure;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000 + seconds * 1000)
    }

    /// A log of these bytes, in pieces of four.
    fn delivery(log: &'static str) -> Delivery {
        let server = Server::parse("https://gitlab.example.com").unwrap();
        let config = RunnerConfig::new(server, Info::new("r", "1")).with_retain(Retain::All).with_patch_limit(4);
        let mut delivery = Delivery::new(&config);
        delivery.trace.write(Bytes::from_static(log.as_bytes()));
        delivery
    }

    /// Sends what is due, and returns it.
    fn send(delivery: &mut Delivery) -> Intent {
        let Due::Send(intent) = delivery.due(false, at(0)) else { panic!("nothing is due") };
        if let Intent::Patch { start, end } = intent {
            delivery.send(start..end);
        }
        intent
    }

    #[test]
    fn a_piece_that_may_have_arrived_is_repeated_as_it_was() {
        let mut delivery = delivery("ab");
        assert_eq!(send(&mut delivery), Intent::Patch { start: 0, end: 2 });
        delivery.failed(Intent::Patch { start: 0, end: 2 }, Cause::Failure(Failure::TimedOut));
        delivery.trace.write(Bytes::from_static(b"cd"));
        assert_eq!(send(&mut delivery), Intent::Patch { start: 0, end: 2 });
        let effect = delivery.acknowledged(Intent::Patch { start: 0, end: 2 }, at(0));
        assert_eq!(effect, Effect { productive: true, critical: false, shifted_to: None });
        assert_eq!(send(&mut delivery), Intent::Patch { start: 2, end: 4 });
    }

    #[test]
    fn what_gitlab_lost_is_sent_again_from_there() {
        let mut delivery = delivery("abcdef");
        for (start, end) in [(0, 4), (4, 6)] {
            assert_eq!(send(&mut delivery), Intent::Patch { start, end });
            delivery.acknowledged(Intent::Patch { start, end }, at(0));
        }
        assert!(delivery.is_complete());
        // Nothing more is written, so that nobody else would ask.
        delivery.finish();
        assert_eq!(send(&mut delivery), Intent::Probe { base: 6 });
        let effect = delivery.resynchronise(6, 3, at(1));
        assert_eq!(effect, Effect { productive: false, critical: true, shifted_to: None });
        assert_eq!(send(&mut delivery), Intent::Patch { start: 3, end: 6 });
        assert!(delivery.acknowledged(Intent::Patch { start: 3, end: 6 }, at(1)).productive);
        assert!(delivery.is_complete());
    }

    #[test]
    fn bytes_of_somebody_else_are_stepped_over() {
        let mut delivery = delivery("ab");
        assert_eq!(send(&mut delivery), Intent::Patch { start: 0, end: 2 });
        let effect = delivery.resynchronise(0, 5, at(0));
        assert_eq!((effect.shifted_to, effect.critical), (Some(5), true));
        assert_eq!(send(&mut delivery), Intent::Patch { start: 0, end: 2 });
        assert_eq!(delivery.trace.at_server(0), 5);
    }

    #[test]
    fn a_probe_that_only_gets_useless_answers_is_given_up() {
        let mut delivery = delivery("ab");
        delivery.send_again();
        let Intent::Probe { base } = send(&mut delivery) else { panic!("a probe comes first") };
        for _ in 0..2 {
            delivery.failed(Intent::Probe { base }, Cause::Status(StatusCode::METHOD_NOT_ALLOWED));
            delivery.failed(Intent::Probe { base }, Cause::Status(StatusCode::BAD_GATEWAY));
        }
        assert_eq!(send(&mut delivery), Intent::Probe { base });
        delivery.failed(Intent::Probe { base }, Cause::Status(StatusCode::METHOD_NOT_ALLOWED));
        assert_eq!(send(&mut delivery), Intent::Patch { start: 0, end: 2 });
    }

    #[test]
    fn pieces_wait_for_their_interval_while_the_job_runs() {
        let mut delivery = delivery("ab");
        delivery.set_interval(Duration::from_secs(3));
        assert!(matches!(delivery.due(true, at(0)), Due::Send(_)));
        delivery.acknowledged(Intent::Patch { start: 0, end: 2 }, at(0));
        assert!(matches!(delivery.due(true, at(0)), Due::Nothing));
        delivery.trace.write(Bytes::from_static(b"cd"));
        assert!(matches!(delivery.due(true, at(2)), Due::Wait(time, WaitReason::Interval) if time == at(3)));
        assert!(matches!(delivery.due(false, at(2)), Due::Send(_)));
        // Enough for a full piece.
        delivery.trace.write(Bytes::from_static(b"ef"));
        assert!(matches!(delivery.due(true, at(2)), Due::Send(_)));
    }

    #[test]
    fn a_log_that_is_given_up_is_complete() {
        let mut delivery = delivery("ab");
        delivery.note_answer(StatusCode::METHOD_NOT_ALLOWED, None, 0, true, at(0));
        assert!(delivery.refusal().is_some_and(|refusal| !refusal.others_work));
        delivery.note_other_answer();
        assert!(delivery.refusal().is_some_and(|refusal| refusal.others_work));
        // Trouble on the way is no refusal, and ends one.
        delivery.note_answer(StatusCode::BAD_GATEWAY, None, 0, true, at(1));
        assert!(delivery.refusal().is_none() && !delivery.is_complete());
        delivery.give_up();
        assert!(delivery.is_complete() && delivery.needed().is_none());
    }

    #[test]
    fn what_refuses_a_log_and_what_only_delays_it() {
        for status in [200, 204, 302, 400, 401, 403, 404, 405, 407, 413, 422, 501] {
            assert!(is_refusal(StatusCode::from_u16(status).unwrap()), "{status}");
        }
        for status in [408, 409, 416, 429, 500, 502, 503, 504] {
            assert!(!is_refusal(StatusCode::from_u16(status).unwrap()), "{status}");
        }
    }
}
