//! The stored form of a job. Holds no secret: credentials come with the assignment.

use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::answers::ASK_AGAIN_CAP;
use super::pacing::{Lane, Pacing, PatchSize, Progress};
use super::phase::{Cancellation, Closed, Finishing, JobResult, Phase};
use super::rules::Intent;
use super::trace::{Offsets, Trace};
use super::{Job, JobEvent, NothingBut, Probe, Purpose};
use crate::config::DEFAULT_UPDATE_INTERVAL;
use crate::headers;
use crate::log::PipelineSnapshot;
use crate::rng::Rng;
use crate::snapshot::{self, ResumeError};
use crate::time::Timestamp;

const KIND: &str = "job";
/// Format 1 had no pipeline: its fields are missing there, and their defaults say so.
const FORMAT: u32 = 2;

/// A job's state at one moment: small plain data, without secrets and without the log.
///
/// Taken by [`crate::Job::snapshot`] at *any* moment, also with a call on the wire, and taken up by
/// [`crate::Job::resume`] together with the job's [`crate::Assignment`]. It may be printed and logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSnapshot {
    pub(super) job: u64,
    pub(super) revision: u64,
    pub(super) phase: StoredPhase,
    pub(super) accepted: bool,
    pub(super) cancellation: Cancellation,
    pub(super) timed_out: bool,
    pub(super) on_the_wire: Option<Intent>,
    pub(super) rng: Rng,
    #[serde(default)]
    pub(super) pacing: Pacing,
    pub(super) log_written: u64,
    pub(super) log_acknowledged: u64,
    /// Where the log was to be probed, if it was: nothing behind that was sent.
    pub(super) probe_at: Option<u64>,
    pub(super) log_crc32: u32,
    pub(super) log_shift: i64,
    pub(super) log_floor: u64,
    pub(super) patch_limit: u64,
    pub(super) interval_ms: u64,
    pub(super) deadline: Timestamp,
    pub(super) last_contact: Timestamp,
    pub(super) flush_at: Timestamp,
    /// What GitLab lost and was sent again, and when it lost it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) log_lost: Option<(Range<u64>, Timestamp)>,
    #[serde(default)]
    pub(super) nothing_but: Option<(NothingBut, Timestamp)>,
    #[serde(default, skip_serializing_if = "PipelineSnapshot::is_idle")]
    pub(super) log_pipeline: PipelineSnapshot,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) log_sections: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StoredPhase {
    Running,
    Finishing(Finishing),
    Closed(Closed),
}

impl JobSnapshot {
    /// A job that another client ran until now. All of its log may be at GitLab, or none.
    pub(crate) fn of_another_client(job: u64, log: &[u8], result: Option<JobResult>) -> Self {
        let size = log.len() as u64;
        Self {
            job,
            revision: 0,
            phase: result.map_or(StoredPhase::Running, |result| StoredPhase::Finishing(*Finishing::new(result))),
            accepted: true,
            cancellation: Cancellation::None,
            timed_out: false,
            on_the_wire: None,
            rng: Rng::new(0, job),
            pacing: Pacing::default(),
            log_written: size,
            log_acknowledged: size,
            probe_at: Some(size),
            log_crc32: crc32fast::hash(log),
            log_shift: 0,
            log_floor: 0,
            patch_limit: u64::MAX,
            interval_ms: DEFAULT_UPDATE_INTERVAL.as_millis() as u64,
            deadline: Timestamp::from_millis(u64::MAX),
            last_contact: Timestamp::EPOCH,
            flush_at: Timestamp::EPOCH,
            log_lost: None,
            nothing_but: None,
            log_pipeline: PipelineSnapshot::default(),
            log_sections: Vec::new(),
        }
    }

    /// The job it is of.
    #[must_use]
    pub fn job_id(&self) -> u64 {
        self.job
    }

    /// How many bytes of log it speaks of. A saved log that is longer holds bytes written after the snapshot: they were
    /// never sent if the job was [durable](crate::RunnerConfig::with_durable). Cut it to this length.
    #[must_use]
    pub fn log_size(&self) -> u64 {
        self.log_written
    }

    /// Whether these bytes, one after the other, are the log it speaks of, by size and checksum. Of one that lost bytes for
    /// good, the checksum cannot be told.
    #[must_use]
    pub fn is_log(&self, chunks: impl IntoIterator<Item = impl AsRef<[u8]>>) -> bool {
        let (mut hasher, mut size) = (crc32fast::Hasher::new(), 0u64);
        for chunk in chunks {
            hasher.update(chunk.as_ref());
            size = size.saturating_add(chunk.as_ref().len() as u64);
        }
        size == self.log_written && (self.log_floor > 0 || hasher.finalize() == self.log_crc32)
    }

    /// The number of the state it holds, for [`crate::Job::saved`].
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The snapshot as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        snapshot::seal(KIND, FORMAT, self)
    }

    /// Reads what [`JobSnapshot::to_json`] wrote, in this version or an older one.
    ///
    /// # Errors
    ///
    /// [`ResumeError`] if the text is damaged, something else, or written by a newer version.
    pub fn from_json(text: &str) -> Result<Self, ResumeError> {
        let read: Self = snapshot::open(KIND, FORMAT, text)?;
        let probed = read.probe_at.unwrap_or(read.log_written);
        // No job comes so far, and whatever is added can be counted.
        let countable = [read.log_written, read.revision].iter().all(|number| *number <= u64::MAX / 2);
        let sound = countable
            && read.log_floor <= read.log_acknowledged
            && read.log_acknowledged <= probed
            && probed <= read.log_written;
        if !sound {
            return Err(ResumeError::Corrupt("its numbers contradict each other".to_owned()));
        }
        Ok(read)
    }
}

impl Job {
    /// The job's state, to be taken up by [`Job::resume`]. Valid at every moment, also after [`Job::abandon`].
    #[must_use]
    pub fn snapshot(&self) -> JobSnapshot {
        let phase = match &self.phase {
            Phase::Running => StoredPhase::Running,
            Phase::Finishing(finishing) => StoredPhase::Finishing(Finishing::clone(finishing)),
            Phase::Closed(closed) => StoredPhase::Closed(closed.clone()),
        };
        let Offsets { acknowledged, sent, written, crc, shift, floor } = self.trace.offsets();
        JobSnapshot {
            job: self.id(),
            revision: self.revision,
            phase,
            accepted: self.accepted,
            cancellation: self.cancellation,
            timed_out: self.timed_out,
            on_the_wire: self.wire.intent().map(|sent| sent.intent),
            rng: self.rng.clone(),
            pacing: self.pacing,
            log_written: written,
            log_acknowledged: acknowledged,
            // Nothing is sent behind these two before they are answered and that is saved. The third kind is a guess, and if it is
            // wrong the log goes on without another save.
            probe_at: self.probe.filter(|probe| matches!(probe.purpose, Purpose::GoOn | Purpose::Rewind)).map(|_| sent),
            log_crc32: crc,
            log_shift: shift,
            log_floor: floor,
            patch_limit: self.patch_size.limit(),
            interval_ms: u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX),
            deadline: self.deadline,
            last_contact: self.last_contact,
            flush_at: self.flush_at,
            log_lost: self.progress.lost(),
            nothing_but: self.nothing_but,
            log_pipeline: self.pipeline.snapshot(),
            log_sections: self.sections.clone(),
        }
    }

    /// Takes a snapshot up. No restored time is trusted further than its own longest wait: clocks differ.
    pub(super) fn restore(&mut self, from: JobSnapshot, now: Timestamp) {
        let at_most = |time: Timestamp, span: Duration| time.min(now.saturating_add(span));
        let offsets = Offsets {
            acknowledged: from.log_acknowledged,
            // What was saved may have been sent since.
            sent: from.probe_at.unwrap_or(from.log_written),
            written: from.log_written,
            crc: from.log_crc32,
            shift: from.log_shift,
            floor: from.log_floor,
        };
        self.pipeline.restore(from.log_pipeline, from.log_written, &self.config.log);
        self.sections = from.log_sections;
        self.trace = Trace::restored(self.config.retain, self.config.durable, offsets);
        // The stream goes on elsewhere than in another life that is resumed from the same snapshot.
        let own = self.rng.next_u64();
        self.rng = from.rng;
        self.rng.mix(own);
        self.pacing = from.pacing.restored(now);
        self.progress = Progress::restored(from.log_acknowledged, from.log_lost, now);
        (self.accepted, self.cancellation) = (from.accepted, from.cancellation);
        (self.revision, self.saved, self.critical) = (from.revision, from.revision, from.revision);
        self.patch_size = PatchSize::restored(from.patch_limit, self.config.patch_limit, now);
        self.interval = Duration::from_millis(from.interval_ms).min(headers::UPDATE_INTERVAL_CAP);
        self.deadline = from.deadline.min(self.deadline);
        self.last_contact = from.last_contact.min(now);
        self.flush_at = at_most(from.flush_at, self.interval);
        self.nothing_but = from.nothing_but.map(|(kind, since)| (kind, since.min(now)));
        if let Some(intent) = from.on_the_wire {
            // It counts as failed, and nobody knows how.
            self.pacing.of(Lane::from(intent)).failed(self.config.retry_cap, None, now, &mut self.rng);
        }
        let open = !matches!(from.phase, StoredPhase::Closed(_));
        if open && self.cancellation == Cancellation::Requested {
            self.events.push_back(JobEvent::CancelRequested);
        }
        self.phase = match from.phase {
            StoredPhase::Running => Phase::Running,
            StoredPhase::Finishing(mut finishing) => {
                // It was saved before it was sent, so that it may have been sent.
                (finishing.sent, finishing.may_have_arrived) = (true, true);
                finishing.since = finishing.since.map(|since| since.min(now));
                finishing.not_before = at_most(finishing.not_before, ASK_AGAIN_CAP);
                finishing.accepted_since = finishing.accepted_since.map(|since| since.min(now));
                finishing.refused_since = finishing.refused_since.map(|since| since.min(now));
                Phase::Finishing(Box::new(finishing))
            }
            StoredPhase::Closed(closed) => {
                self.events.push_back(closed.event());
                Phase::Closed(closed)
            }
        };
        // A standing report is repeated; anything else first finds out where GitLab's log ends.
        let standing = matches!(self.phase, Phase::Finishing(_)) && self.trace.unsent() == 0;
        self.probe = (!standing).then(|| Probe::new(Purpose::GoOn));
    }
}
