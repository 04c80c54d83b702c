//! The stored form of a job. Holds no secret: credentials come with the assignment.

use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::alignment::Alignment;
use super::answers::ASK_AGAIN_CAP;
use super::pacing::{Lane, Pacing, PatchSize, Progress};
use super::phase::{Acceptance, Cancellation, Closed, Finishing, JobResult, Phase};
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
const FORMAT: u32 = 1;

/// A job's state at one moment: small plain data, without secrets and without the log.
///
/// Taken by [`crate::Job::snapshot`] at *any* moment, also with a call on the wire, and taken up by
/// [`crate::Job::resume`] together with the job's [`crate::Assignment`]. It may be printed and logged.
///
/// It is also `Serialize` and `Deserialize`, for those who keep it as a part of something else. Numbers that contradict each other are
/// refused on every way in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredJob")]
pub struct JobSnapshot(pub(super) StoredJob);

/// The members of a [`JobSnapshot`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredJob {
    pub(super) job: u64,
    pub(super) revision: u64,
    pub(super) phase: StoredPhase,
    pub(super) acceptance: Acceptance,
    pub(super) cancellation: Cancellation,
    pub(super) timed_out: bool,
    pub(super) on_the_wire: Option<Intent>,
    pub(super) rng: Rng,
    pub(super) pacing: Pacing,
    pub(super) log_written: u64,
    pub(super) log_acknowledged: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) log_probe: Option<StoredProbe>,
    pub(super) log_crc32: u32,
    #[serde(default, skip_serializing_if = "Alignment::is_exact")]
    pub(super) log_shifts: Alignment,
    pub(super) patch_limit: u64,
    pub(super) interval_ms: u64,
    pub(super) deadline: Timestamp,
    pub(super) last_contact: Timestamp,
    pub(super) flush_at: Timestamp,
    /// What GitLab lost and was sent again, and when it lost it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) log_lost: Option<(Range<u64>, Timestamp)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) nothing_but: Option<(NothingBut, Timestamp)>,
    #[serde(default, skip_serializing_if = "PipelineSnapshot::is_idle")]
    pub(super) log_pipeline: PipelineSnapshot,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) log_sections: Vec<String>,
}

/// A probe that stands. It goes on after a resume, with what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredProbe {
    /// The offset of the log that is asked for: nothing behind that was sent.
    pub(super) at: u64,
    /// Whether all of the log is to be sent again afterwards.
    pub(super) rewinds: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StoredPhase {
    Running,
    Finishing(Finishing),
    Closed(Closed),
}

/// The one way in, for a text and for `serde`: a number that cannot be is found here, and not by the arithmetic on it.
impl TryFrom<StoredJob> for JobSnapshot {
    type Error = &'static str;

    fn try_from(stored: StoredJob) -> Result<Self, Self::Error> {
        let probed = stored.log_probe.map_or(stored.log_written, |probe| probe.at);
        // No job comes so far, and whatever is added can be counted.
        let countable = [stored.log_written, stored.revision].iter().all(|number| *number <= u64::MAX / 2);
        let lost = stored.log_lost.as_ref().is_none_or(|(lost, _)| lost.start <= lost.end && lost.end <= probed);
        let sound = countable
            && lost
            && stored.log_shifts.is_sound(stored.log_acknowledged)
            && stored.log_acknowledged <= probed
            && probed <= stored.log_written;
        if sound { Ok(Self(stored)) } else { Err("its numbers contradict each other") }
    }
}

impl JobSnapshot {
    /// A job that another client ran until now. All of its log may be at GitLab, or none.
    pub(crate) fn of_another_client(job: u64, log: &[u8], result: Option<JobResult>) -> Self {
        let size = log.len() as u64;
        // Where its log ends is asked before more is sent. If there is a result, that was sent after the log.
        let log_probe = result.is_none().then_some(StoredProbe { at: size, rewinds: false });
        let log_acknowledged = if result.is_none() { 0 } else { size };
        Self(StoredJob {
            job,
            revision: 0,
            phase: result.map_or(StoredPhase::Running, |result| StoredPhase::Finishing(*Finishing::new(result))),
            acceptance: Acceptance::Told,
            cancellation: Cancellation::None,
            timed_out: false,
            on_the_wire: None,
            rng: Rng::new(0, job),
            pacing: Pacing::default(),
            log_written: size,
            log_acknowledged,
            log_probe,
            log_crc32: crc32fast::hash(log),
            log_shifts: Alignment::default(),
            patch_limit: u64::MAX,
            interval_ms: DEFAULT_UPDATE_INTERVAL.as_millis() as u64,
            deadline: Timestamp::from_millis(u64::MAX),
            last_contact: Timestamp::EPOCH,
            flush_at: Timestamp::EPOCH,
            log_lost: None,
            nothing_but: None,
            log_pipeline: PipelineSnapshot::default(),
            log_sections: Vec::new(),
        })
    }

    /// The job it is of.
    #[must_use]
    pub fn job_id(&self) -> u64 {
        self.0.job
    }

    /// How many bytes of log it speaks of. A saved log that is longer holds bytes written after the snapshot: they were
    /// never sent if the job was [durable](crate::RunnerConfig::with_durable). Cut it to this length.
    #[must_use]
    pub fn log_size(&self) -> u64 {
        self.0.log_written
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
        let lossless = self.0.log_shifts.floor() == 0;
        size == self.0.log_written && (!lossless || hasher.finalize() == self.0.log_crc32)
    }

    /// The number of the state it holds, for [`crate::Job::saved`].
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.0.revision
    }

    /// The snapshot as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        snapshot::seal(KIND, FORMAT, &self.0)
    }

    /// Reads what [`JobSnapshot::to_json`] wrote, in this version or an older one.
    ///
    /// # Errors
    ///
    /// [`ResumeError`] if the text is damaged, something else, or written by a newer version.
    pub fn from_json(text: &str) -> Result<Self, ResumeError> {
        let stored: StoredJob = snapshot::open(KIND, FORMAT, text)?;
        Self::try_from(stored).map_err(|fault| ResumeError::Corrupt(fault.to_owned()))
    }
}

impl Job {
    /// The job's state, to be taken up by [`Job::resume`]. Valid at every moment, also after [`Job::abandon`].
    #[must_use]
    pub fn snapshot(&mut self) -> JobSnapshot {
        self.run_log();
        let phase = match &self.phase {
            Phase::Running => StoredPhase::Running,
            Phase::Finishing(finishing) => StoredPhase::Finishing(Finishing::clone(finishing)),
            Phase::Closed(closed) => StoredPhase::Closed(closed.clone()),
        };
        let Offsets { acknowledged, sent: _, written, crc, alignment } = self.trace.offsets();
        JobSnapshot(StoredJob {
            job: self.id(),
            revision: self.revision,
            phase,
            acceptance: self.stored_acceptance(),
            cancellation: self.cancellation,
            timed_out: self.timed_out,
            on_the_wire: self.wire.intent().map(|sent| sent.intent),
            rng: self.rng.clone(),
            pacing: self.pacing,
            log_written: written,
            log_acknowledged: acknowledged,
            log_probe: self.stored_probe(),
            log_crc32: crc,
            log_shifts: alignment,
            patch_limit: self.patch_size.limit(),
            interval_ms: u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX),
            deadline: self.deadline,
            last_contact: self.last_contact,
            flush_at: self.flush_at,
            log_lost: self.progress.lost(),
            nothing_but: self.nothing_but,
            log_pipeline: self.pipeline.snapshot(),
            log_sections: self.sections.clone(),
        })
    }

    /// An acceptance that is saved and not told yet counts as told: a durable job tells it at most once, whenever the process dies.
    fn stored_acceptance(&self) -> Acceptance {
        match self.acceptance {
            Acceptance::Untold if self.config.durable => Acceptance::Told,
            acceptance => acceptance,
        }
    }

    /// The probe to go on with after a resume.
    fn stored_probe(&self) -> Option<StoredProbe> {
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
            None if self.is_rewound() && acknowledged == self.trace.floor() && sent > acknowledged => stored(true),
            None => None,
        }
    }

    /// Whether the log is being sent again because its checksum did not match.
    fn is_rewound(&self) -> bool {
        matches!(&self.phase, Phase::Finishing(finishing) if finishing.mismatches > 0 && !finishing.without_digest)
    }

    /// Takes a snapshot up. No restored time is trusted further than its own longest wait: clocks differ.
    pub(super) fn restore(&mut self, from: StoredJob, now: Timestamp) {
        let at_most = |time: Timestamp, span: Duration| time.min(now.saturating_add(span));
        let offsets = Offsets {
            acknowledged: from.log_acknowledged,
            // What was saved may have been sent since.
            sent: from.log_probe.map_or(from.log_written, |probe| probe.at),
            written: from.log_written,
            crc: from.log_crc32,
            alignment: from.log_shifts,
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
        (self.acceptance, self.cancellation) = (from.acceptance, from.cancellation);
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
        // A report that was sent is repeated. Anything else first finds out where GitLab's log ends, and so does a result that still
        // waits for that: GitLab may have lost the end of the log, and nobody else would notice.
        let standing = matches!(self.phase, Phase::Finishing(_)) && !self.owes_log();
        self.probe = match from.log_probe {
            Some(StoredProbe { rewinds: true, .. }) => Some(Probe::new(Purpose::Rewind)),
            Some(StoredProbe { rewinds: false, .. }) => Some(Probe::new(Purpose::GoOn)),
            None => (!standing).then(|| Probe::new(Purpose::GoOn)),
        };
    }
}
