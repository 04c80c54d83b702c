//! The stored form of a job. It contains no secret, because a resume gets the credentials from the assignment.

use serde::{Deserialize, Serialize};

use super::Job;
use super::contact::{Contact, StoredContact};
use super::delivery::{Delivery, StoredDelivery};
use super::event::JobEvent;
use super::finishing::Finishing;
use super::log::StoredLog;
use super::outcome::{Cancellation, JobResult};
use super::pacing::{Lane, Pacing};
use super::phase::{Acceptance, Closed, Phase, Timeout};
use super::rules::Intent;
use super::saving::Saving;
use crate::rng::Rng;
use crate::snapshot::{self, ResumeError};
use crate::time::Timestamp;

const KIND: &str = "job";
const FORMAT: u32 = 1;

/// A job's state at one moment: small plain data, without secrets and without the log.
///
/// [`crate::Job::snapshot`] takes one at *any* moment, also while a call is in flight. [`crate::Job::resume`] continues the job from it,
/// together with the job's [`crate::Assignment`]. A snapshot may be printed and logged.
///
/// It implements `Serialize` and `Deserialize`, so that it can be a part of a larger document. A snapshot whose numbers contradict each
/// other is refused, however it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredJob")]
pub struct JobSnapshot(pub(super) StoredJob);

/// The members of a [`JobSnapshot`]. Each part of the job says what it stores of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredJob {
    job: u64,
    revision: u64,
    phase: StoredPhase,
    acceptance: Acceptance,
    cancellation: Cancellation,
    timeout: Timeout,
    on_the_wire: Option<Intent>,
    rng: Rng,
    pacing: Pacing,
    contact: StoredContact,
    delivery: StoredDelivery,
    #[serde(default, skip_serializing_if = "StoredLog::is_idle")]
    log: StoredLog,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredPhase {
    Running,
    Finishing(Finishing),
    Closed(Closed),
}

/// Texts and `serde` both come through here, so impossible numbers are found before anything is calculated with them.
impl TryFrom<StoredJob> for JobSnapshot {
    type Error = &'static str;

    fn try_from(stored: StoredJob) -> Result<Self, Self::Error> {
        // The log of a job with a result is complete.
        let is_complete = !matches!(stored.phase, StoredPhase::Finishing(_)) || !stored.log.holds();
        // No job has so many revisions, and adding to them cannot overflow.
        let sound = stored.revision <= u64::MAX / 2 && stored.delivery.is_sound() && is_complete;
        if sound { Ok(Self(stored)) } else { Err("its numbers contradict each other") }
    }
}

impl JobSnapshot {
    /// A job that another client ran until now. All of its log may be at GitLab, or none.
    pub(crate) fn of_another_client(job: u64, log: &[u8], result: Option<JobResult>) -> Self {
        Self(StoredJob {
            job,
            revision: 0,
            delivery: StoredDelivery::of_another_client(log, result.is_some()),
            phase: result.map_or(StoredPhase::Running, |result| StoredPhase::Finishing(*Finishing::new(result))),
            acceptance: Acceptance::Told,
            cancellation: Cancellation::None,
            timeout: Timeout::at(Timestamp::from_millis(u64::MAX)),
            on_the_wire: None,
            rng: Rng::new(0, job),
            pacing: Pacing::default(),
            contact: StoredContact::NEVER,
            log: StoredLog::default(),
        })
    }

    /// The id of the job.
    #[must_use]
    pub fn job_id(&self) -> u64 {
        self.0.job
    }

    /// The size of the log at the moment of the snapshot, in bytes. If the saved log is longer, cut it to this size: the other bytes were
    /// written after the snapshot, and were never sent if the job was [durable](crate::RunnerConfig::with_durable).
    #[must_use]
    pub fn log_size(&self) -> u64 {
        self.0.delivery.written
    }

    /// Whether these chunks together are the log of this snapshot. Compares size and checksum, or only the size if a part of the log was lost
    /// for good.
    #[must_use]
    pub fn is_log(&self, chunks: impl IntoIterator<Item = impl AsRef<[u8]>>) -> bool {
        self.0.delivery.is_log(chunks)
    }

    /// The revision of the job at the moment of the snapshot, for [`crate::Job::saved`].
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.0.revision
    }

    /// The snapshot as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        snapshot::seal(KIND, FORMAT, &self.0)
    }

    /// Reads what [`JobSnapshot::to_json`] returned, in this version or an older one.
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
    /// Returns the state of the job, from which [`Job::resume`] continues it. This works at every moment, also after [`Job::abandon`].
    #[must_use]
    pub fn snapshot(&mut self) -> JobSnapshot {
        self.run_log();
        let (phase, is_rewound) = match &self.phase {
            Phase::Running => (StoredPhase::Running, false),
            Phase::Finishing(finishing) => {
                (StoredPhase::Finishing(Finishing::clone(finishing)), finishing.is_rewound())
            }
            Phase::Closed(closed) => (StoredPhase::Closed(closed.clone()), false),
        };
        JobSnapshot(StoredJob {
            job: self.id(),
            revision: self.saving.revision(),
            phase,
            acceptance: self.stored_acceptance(),
            cancellation: self.cancellation,
            timeout: self.timeout,
            on_the_wire: self.wire.intent().map(|sent| sent.intent),
            rng: self.rng.clone(),
            pacing: self.pacing,
            contact: self.contact.stored(),
            delivery: self.delivery.stored(is_rewound),
            log: self.log.stored(&self.assignment),
        })
    }

    /// For a durable job, an acceptance whose event was not returned yet is stored as if it had been. So the event comes at most once,
    /// whenever the process dies.
    fn stored_acceptance(&self) -> Acceptance {
        match self.acceptance {
            Acceptance::Untold if self.saving.is_durable() => Acceptance::Told,
            acceptance => acceptance,
        }
    }

    /// Restores the job from a snapshot. Its times may come from another clock, so none may be later than the longest wait of its kind.
    pub(super) fn restore(&mut self, from: StoredJob, now: Timestamp) {
        // The random stream differs from that of another process that resumes the same snapshot.
        let own = self.rng.next_u64();
        self.rng = from.rng;
        self.rng.mix(own);
        self.pacing = from.pacing.restored(now);
        if let Some(intent) = from.on_the_wire {
            // A call that was in flight counts as failed with an unknown outcome.
            self.pacing.of(Lane::from(intent)).failed(self.config.retry_cap, None, now, &mut self.rng);
        }
        let has_result = matches!(from.phase, StoredPhase::Finishing(_));
        self.log.restore(from.log, from.delivery.written, &self.config.log, &self.assignment, now);
        self.delivery = Delivery::restored(from.delivery, has_result, &self.config, now);
        self.contact = Contact::restored(from.contact, self.config.keep_alive, now);
        self.saving = Saving::starting(self.config.durable, from.revision, now);
        if self.log.pipeline.waiting() > 0 {
            // What was held back goes through the stages again. If other secrets are known now, some of it may enter the log at once.
            self.saving.change();
        }
        self.timeout = Timeout { at: from.timeout.at.min(self.timeout.at), told: from.timeout.told };
        (self.acceptance, self.cancellation) = (from.acceptance, from.cancellation);
        self.phase = match from.phase {
            StoredPhase::Running => Phase::Running,
            StoredPhase::Finishing(finishing) => Phase::Finishing(finishing.restored(now)),
            StoredPhase::Closed(closed) => Phase::Closed(closed),
        };
        match &self.phase {
            Phase::Closed(closed) => self.events.push_back(closed.event()),
            _ if self.cancellation == Cancellation::Requested => self.events.push_back(JobEvent::CancelRequested),
            _ => {}
        }
    }
}
