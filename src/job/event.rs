//! What a job tells the application.

use std::ops::Range;

use super::outcome::{AbortReason, Outcome};
use crate::api::info::Unpromised;
use crate::api::job_spec::Loss;
use crate::reply::Cause;
use crate::time::Timestamp;
#[cfg(doc)]
use crate::{Assignment, Job, RunnerConfig};

/// What a [`Job`] tells the application.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobEvent {
    /// GitLab has confirmed that this runner has the job. This is the moment to start its script: until then, a server with
    /// two-phase commit may still give the job to another runner.
    ///
    /// A [durable](RunnerConfig::with_durable) job asks to be saved first, so that this event comes at most once even if the process
    /// dies. If it dies between the two, the event does not come: after a resume, [`Job::is_accepted`] tells that the job is accepted.
    /// A job that already has its result does not tell it.
    Accepted,
    /// A user cancelled the job. Stop the script, run `after_script`, then call [`Job::finish`].
    ///
    /// This event comes once, and once more after a resume. [`Job::cancellation`] tells the same at any time.
    CancelRequested,
    /// The timeout of the job has passed. Stop the job, and finish it with
    /// [`FailureReason::JobExecutionTimeout`](crate::FailureReason::JobExecutionTimeout).
    TimedOut,
    /// The job is over. Kill all its processes. Nothing more is sent.
    Aborted(AbortReason),
    /// Parts of `steps`, `run`, `variables`, `image` or `services` could not be read and were dropped. What is left may not
    /// be the job that GitLab meant. This event comes before all others, with all of [`Assignment::losses`], and again after
    /// a resume.
    ///
    /// Such a job fails by itself, unless [`RunnerConfig::with_damaged_payloads`] allows it to run. Then do not run it, unless you know
    /// that you can do without what was dropped: [`Job::finish`] it with
    /// [`FailureReason::RunnerSystemFailure`](crate::FailureReason::RunnerSystemFailure).
    PayloadDamaged(Vec<Loss>),
    /// These variables and texts of the payload stay as they are written, because they would be too long if the references
    /// in them were replaced: see [`Variables::unexpanded`](crate::variables::Variables::unexpanded). The job goes on, and
    /// its log names them. Comes before the job starts, and again after a resume.
    Unexpanded(Vec<String>),
    /// The payload asks for these, but the runner did not announce that it supports them: see
    /// [`Features`](crate::api::info::Features). If your runner supports them, call the methods that are named. If not, the
    /// job runs without them. This event comes before the job starts, and again after a resume.
    NotPromised(Vec<Unpromised>),
    /// This many of the masked secrets are shorter than 8 bytes, the shortest that GitLab accepts for a masked variable. They are
    /// hidden all the same. Short texts occur by chance, so other parts of the log may be hidden with them.
    ShortSecrets(usize),
    /// Save now: append [`Job::unsaved`] to the saved log, replace the saved snapshot by [`Job::snapshot`], make both
    /// durable, and then call [`Job::saved`].
    ///
    /// Only a [durable](RunnerConfig::with_durable) job asks for this: before it sends log or a result that is not saved, and
    /// at the latest one keep-alive interval after something was written, even if it cannot be sent.
    Save,
    /// GitLab has lost these bytes of the log, or the job was resumed without them. They must be sent, and this job does not have them.
    /// Bring them back with [`Job::supply_trace`], or call [`Job::forfeit_trace`] if they are gone.
    TraceNeeded(Range<u64>),
    /// GitLab's log contains bytes that this job did not send. The next byte of this job goes to this offset of GitLab's log.
    /// What this job writes from there on is not lost, but its checksum is no longer reported.
    #[non_exhaustive]
    TraceShifted {
        /// The offset in GitLab's log at which the next byte of this job goes.
        server_offset: u64,
    },
    /// The job has ended, and its log was refused for the time set by [`RunnerConfig::with_log_patience`] while other calls worked.
    /// The result is reported without this part of the log, and without a checksum.
    #[non_exhaustive]
    TraceRefused {
        /// What GitLab does not have, in offsets of this job's log.
        missing: Range<u64>,
        /// The first refusal.
        cause: Cause,
    },
    /// Calls about this job fail. Nothing is lost. They are repeated until they work, or for as long as the methods of [`RunnerConfig`] that
    /// end in `patience` say.
    ///
    /// This event comes once, until all kinds of call work again. Two such events are at least 30 s apart.
    #[non_exhaustive]
    Unreachable {
        /// The first failure.
        cause: Cause,
        /// When it happened.
        since: Timestamp,
    },
    /// All kinds of call work again, after `Unreachable`.
    Recovered,
    /// The result is delivered.
    Finished(Outcome),
}

impl JobEvent {
    /// Whether it is told before the job starts.
    pub(super) fn is_about_payload(&self) -> bool {
        matches!(self, Self::PayloadDamaged(_) | Self::Unexpanded(_) | Self::NotPromised(_) | Self::ShortSecrets(_))
    }
}

/// Whether bytes were taken into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there is no third case")]
pub enum Written {
    /// They are in the log, unless its [limit](crate::log::LogLimit) was reached, and will be delivered.
    Queued,
    /// The job has a result or is over, so its log is complete. The bytes were dropped.
    Ended,
}
