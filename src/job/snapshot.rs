//! The stored form of a job. Holds no secret: credentials come with the assignment.

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
/// Taken by [`crate::Job::snapshot`] at *any* moment, also with a call on the wire, and taken up by
/// [`crate::Job::resume`] together with the job's [`crate::Assignment`]. It may be printed and logged.
///
/// It is also `Serialize` and `Deserialize`, for those who keep it as a part of something else. Numbers that contradict each other are
/// refused on every way in.
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

/// The one way in, for a text and for `serde`: a number that cannot be is found here, and not by the arithmetic on it.
impl TryFrom<StoredJob> for JobSnapshot {
    type Error = &'static str;

    fn try_from(stored: StoredJob) -> Result<Self, Self::Error> {
        // The log of a job with a result is complete.
        let is_complete = !matches!(stored.phase, StoredPhase::Finishing(_)) || !stored.log.holds();
        // No job comes so far, and whatever is added can be counted.
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

    /// The job it is of.
    #[must_use]
    pub fn job_id(&self) -> u64 {
        self.0.job
    }

    /// How many bytes of log it speaks of. A saved log that is longer holds bytes written after the snapshot: they were
    /// never sent if the job was [durable](crate::RunnerConfig::with_durable). Cut it to this length.
    #[must_use]
    pub fn log_size(&self) -> u64 {
        self.0.delivery.written
    }

    /// Whether these bytes, one after the other, are the log it speaks of, by size and checksum. Of one that lost bytes for
    /// good, the checksum cannot be told.
    #[must_use]
    pub fn is_log(&self, chunks: impl IntoIterator<Item = impl AsRef<[u8]>>) -> bool {
        self.0.delivery.is_log(chunks)
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

    /// An acceptance that is saved and not told yet counts as told: a durable job tells it at most once, whenever the process dies.
    fn stored_acceptance(&self) -> Acceptance {
        match self.acceptance {
            Acceptance::Untold if self.saving.is_durable() => Acceptance::Told,
            acceptance => acceptance,
        }
    }

    /// Takes a snapshot up. No restored time is trusted further than its own longest wait: clocks differ.
    pub(super) fn restore(&mut self, from: StoredJob, now: Timestamp) {
        // The stream goes on elsewhere than in another life that is resumed from the same snapshot.
        let own = self.rng.next_u64();
        self.rng = from.rng;
        self.rng.mix(own);
        self.pacing = from.pacing.restored(now);
        if let Some(intent) = from.on_the_wire {
            // It counts as failed, and nobody knows how.
            self.pacing.of(Lane::from(intent)).failed(self.config.retry_cap, None, now, &mut self.rng);
        }
        let has_result = matches!(from.phase, StoredPhase::Finishing(_));
        self.log.restore(from.log, from.delivery.written, &self.config.log, &self.assignment, now);
        self.delivery = Delivery::restored(from.delivery, has_result, &self.config, now);
        self.contact = Contact::restored(from.contact, self.config.keep_alive, now);
        self.saving = Saving::starting(self.config.durable, from.revision, now);
        if self.log.pipeline.waiting() > 0 {
            // What was held back is written once more. If other secrets are known now, it may come into the log at once.
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
