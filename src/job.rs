//! One job: accepts it, delivers its log, notices its cancellation, and reports its result.

mod drive;
mod log;
mod phase;
mod rules;
mod snapshot;
mod trace;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;

use crate::api::job_spec::{Assignment, JobSpec};
use crate::api::patch_trace::PatchTrace;
use crate::api::update_job::{LogDigest, UpdateJob};
use crate::api::{CorrelationId, Endpoint};
use crate::backoff::{Backoff, Policy};
use crate::call::{Call, CallKind, Owner, Scope, Ticket, Wire};
use crate::config::RunnerConfig;
use crate::error::{Misuse, ProtocolError, Rejection};
use crate::headers::{self, TOLD_DELAY_CAP};
use crate::log::{Pipeline, ansi};
use crate::output::{Machine, Output, sealed::Sealed};
use crate::reply::{Cause, Failure, Received};
use crate::rng::Rng;
use crate::snapshot::ResumeError;
use crate::status::{FailureReason, JobState, JobStatus};
use crate::time::{Steady, Timestamp};
use phase::{Closed, Finishing, Phase};
use rules::{Context, Intent, Verdict};
use trace::{Location, Trace};

pub use phase::{AbortReason, Cancellation, JobResult, Outcome};
pub use snapshot::JobSnapshot;

/// GitLab ends a job five minutes after its report, archived or not. Twice that, and we no longer ask for archiving.
const ARCHIVE_PATIENCE: Duration = Duration::from_secs(600);

/// A report that is not understood for so long never will be.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(600);

/// The longest pause before a report that was taken is repeated.
const ASK_AGAIN_CAP: Duration = Duration::from_secs(64);

/// After so many useless answers a probe is given up.
const PROBE_ATTEMPTS: u8 = 3;

/// What a [`Job`] has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobEvent {
    /// GitLab knows that the job is ours. Where a job is not handed out for good before that (two-phase commit), this is
    /// the moment to start it.
    Accepted,
    /// A user cancelled the job: stop the script, run `after_script`, then [`Job::finish`]. Once, and once more after a
    /// resume; also to be read from [`Job::cancellation`].
    CancelRequested,
    /// The job's time is up: stop it, and finish it with [`FailureReason::JobExecutionTimeout`].
    TimedOut,
    /// The job is over: kill everything. Nothing more is sent.
    Aborted(AbortReason),
    /// So many of the secrets that are masked are shorter than the 8 bytes GitLab asks of a masked variable. They are
    /// hidden, and much of the log that is no secret may be hidden with them.
    ShortSecrets(usize),
    /// Save now: append [`Job::unsaved`] to the saved log, replace the saved snapshot by [`Job::snapshot`], make both
    /// durable, and then say so with [`Job::saved`]. Only of a [durable](RunnerConfig::with_durable) job: before anything is
    /// sent; at once when it has its result; and within a keep-alive of what was written, though it cannot be sent.
    Save,
    /// These bytes of the log are needed again and not kept here: bring them with [`Job::supply_trace`], or say with
    /// [`Job::forfeit_trace`] that they are gone.
    TraceNeeded(Range<u64>),
    /// GitLab's log holds bytes of somebody else: our next byte goes to this offset of its log. Nothing of ours is lost;
    /// the checksum is no longer reported.
    #[non_exhaustive]
    TraceShifted {
        /// Where our next byte goes.
        server_offset: u64,
    },
    /// Calls about this job fail. Once until one works again; nothing is lost, and they are repeated as long as it takes.
    #[non_exhaustive]
    Unreachable {
        /// What happened first.
        cause: Cause,
        /// When.
        since: Timestamp,
    },
    /// Calls work again, after `Unreachable`.
    Recovered,
    /// The result is delivered.
    Finished(Outcome),
}

/// Whether bytes were taken into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "they were or they were not")]
pub enum Written {
    /// They will be delivered, unless the log's [limit](crate::log::LogLimit) was reached.
    Queued,
    /// The job is finished or over, and its log complete: they were dropped.
    Ended,
}

/// What a [`Job`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitReason {
    /// Log, result, or nothing at all: the application.
    Application,
    /// The answer to a call.
    Answer,
    /// The pause after a failed call, or one that GitLab asked for.
    Backoff,
    /// The next piece of log is not due.
    Interval,
    /// The next keep-alive is not due.
    KeepAlive,
    /// The report is to be repeated, but not yet.
    Archive,
    /// The application is to save the job.
    Save,
    /// The application is to bring back a part of the log.
    Trace,
    /// The job's timeout.
    Timeout,
}

/// One job, from its acceptance to its end.
///
/// Feed it with [`Job::write`] and one [`Job::finish`]; obey its events; drive it with the four verbs of
/// [`Machine`]. Whatever the network does, GitLab's log stays a prefix of what was written, and the result is sent
/// again until GitLab has it, or says that it no longer wants it.
#[derive(Debug)]
pub struct Job {
    config: Arc<RunnerConfig>,
    assignment: Assignment,
    wire: Wire<Intent>,
    clock: Steady,
    rng: Rng,
    backoff: Backoff,
    phase: Phase,
    trace: Trace,
    pipeline: Pipeline,
    /// The names of the sections that are open, the innermost last.
    sections: Vec<String>,
    events: VecDeque<JobEvent>,
    cancellation: Cancellation,
    revision: u64,
    /// The revision of the last change that must be saved before anything else is sent.
    critical: u64,
    saved: u64,
    patch_limit: u64,
    interval: Duration,
    deadline: Timestamp,
    last_contact: Timestamp,
    flush_at: Timestamp,
    retry_at: Timestamp,
    hold: Timestamp,
    not_found_since: Option<Timestamp>,
    save_asked: Option<Timestamp>,
    saved_at: Timestamp,
    /// The end of a piece whose fate is unknown. It is repeated as it was.
    frozen: Option<u64>,
    /// How often GitLab's log turned out elsewhere since a piece was last taken.
    detours: Backoff,
    /// A piece may have arrived although its answer did not.
    fate_unknown: bool,
    probe: Option<Probe>,
    accepted: bool,
    /// A bare 403 came: a keep-alive asks whether it was meant.
    doubted: bool,
    /// The application wants to know whether the job is still ours.
    check_wanted: bool,
    timed_out: bool,
    trace_asked: bool,
    unreachable: bool,
    abandoned: bool,
}

/// An empty patch, at the end of what we sent, is to find out where GitLab's log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Probe {
    useless: u8,
    /// Where to go on if GitLab's log ends where ours does: at its end, or, after 412, at its start.
    then_rewind: bool,
}

impl Probe {
    const fn new() -> Self {
        Self { useless: 0, then_rewind: false }
    }
}

/// What the state calls for.
enum Step {
    Send(Intent),
    Tell(JobEvent),
    Wait(Option<Timestamp>, WaitReason),
}

impl Job {
    /// Takes a job up that was just assigned. The first call accepts it.
    #[must_use]
    pub fn new(config: Arc<RunnerConfig>, assignment: &Assignment, now: Timestamp) -> Self {
        let trace = Trace::new(config.retain, config.durable);
        let rng = Rng::new(config.jitter_seed, assignment.id());
        let timeout = assignment.spec().timeout().unwrap_or(config.default_timeout);
        let mut job = Self {
            wire: Wire::new(Owner::Job(assignment.id()), 0),
            clock: Steady::starting(now),
            rng,
            backoff: Backoff::default(),
            phase: Phase::Running,
            trace,
            pipeline: Pipeline::new(&config.log, assignment.spec()),
            sections: Vec::new(),
            events: VecDeque::new(),
            cancellation: Cancellation::None,
            revision: 0,
            critical: 0,
            saved: 0,
            patch_limit: config.patch_limit,
            interval: config.update_interval,
            deadline: now.saturating_add(timeout),
            last_contact: now,
            flush_at: Timestamp::EPOCH,
            retry_at: Timestamp::EPOCH,
            hold: Timestamp::EPOCH,
            not_found_since: None,
            save_asked: None,
            saved_at: now,
            frozen: None,
            detours: Backoff::default(),
            fate_unknown: false,
            probe: None,
            accepted: false,
            doubted: false,
            check_wanted: false,
            timed_out: false,
            trace_asked: false,
            unreachable: false,
            abandoned: false,
            assignment: assignment.clone(),
            config,
        };
        job.report_short_secrets(0);
        job
    }

    /// A job that cannot be run because its payload cannot be read: says so in its log, and fails.
    pub(crate) fn unreadable(
        config: Arc<RunnerConfig>,
        assignment: &Assignment,
        error: &ProtocolError,
        now: Timestamp,
    ) -> Self {
        let mut job = Self::new(config, assignment, now);
        job.write(ansi::error(&format!("The runner cannot read this job: {error}")));
        job.finish(JobResult::failed(FailureReason::RunnerSystemFailure));
        job
    }

    /// Takes a job up where a snapshot left it, here or on another machine.
    ///
    /// A call that was on the wire counts as failed with unknown outcome. Before anything is appended, GitLab is asked
    /// where its log ends, so that one snapshot can be taken up several times, one after the other, without a line lost
    /// or doubled. Events that stand (a cancellation, a timeout, the end) are given again.
    ///
    /// # Errors
    ///
    /// [`ResumeError::WrongJob`] if snapshot and assignment are not of the same job.
    pub fn resume(
        config: Arc<RunnerConfig>,
        assignment: &Assignment,
        snapshot: JobSnapshot,
        now: Timestamp,
    ) -> Result<Self, ResumeError> {
        if snapshot.job != assignment.id() {
            return Err(ResumeError::WrongJob { found: snapshot.job, wanted: assignment.id() });
        }
        let mut job = Self::new(config, assignment, now);
        job.restore(snapshot, now);
        Ok(job)
    }

    /// The job's id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.assignment.id()
    }

    /// The instance the job is of.
    #[must_use]
    pub fn server(&self) -> &crate::config::Server {
        self.config.server()
    }

    /// The job's payload.
    #[must_use]
    pub fn spec(&self) -> &JobSpec {
        self.assignment.spec()
    }

    /// The payload in the form to be saved.
    #[must_use]
    pub fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    /// The job has ended like this. The log is complete, and will be delivered first. The first call counts.
    pub fn finish(&mut self, result: JobResult) {
        if self.abandoned || self.phase != Phase::Running {
            return;
        }
        self.complete_log();
        let reason = result.reason.map(|reason| reason.supported_by(&self.spec().features.failure_reasons));
        self.phase = Phase::Finishing(Finishing::new(JobResult { reason, ..result }));
        // GitLab may have lost an end that nobody sends any more; what is still to be sent finds that out by itself.
        if self.trace.unsent() == 0 && self.trace.written() > 0 && self.probe.is_none() {
            self.probe = Some(Probe::new());
        }
        self.change_critically();
    }

    /// Asks GitLab at the next opportunity whether the job is still ours, without waiting for the keep-alive to fall due.
    /// What it says comes as events, as always. Of no effect once the job has a result or is over.
    pub fn check_in(&mut self) {
        self.check_wanted = !self.abandoned && self.phase == Phase::Running;
    }

    /// Whether [`Job::check_in`] still waits for an answer. If not, GitLab has taken a call of this job since, or the job
    /// has ended.
    #[must_use]
    pub fn is_checking_in(&self) -> bool {
        self.check_wanted && self.phase == Phase::Running
    }

    /// Stops talking about this job, without a verdict: somebody else takes it up from a snapshot.
    pub fn abandon(&mut self) {
        self.abandoned = true;
        self.events.clear();
    }

    /// How urgently the job is to stop.
    #[must_use]
    pub fn cancellation(&self) -> Cancellation {
        self.cancellation
    }

    /// When the job's time is up.
    #[must_use]
    pub fn deadline(&self) -> Timestamp {
        self.deadline
    }

    /// Whether a result was given, or the job is over.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.phase != Phase::Running
    }

    /// How many bytes of log there are.
    #[must_use]
    pub fn log_size(&self) -> u64 {
        self.trace.written()
    }

    /// How many bytes of log GitLab has not acknowledged.
    #[must_use]
    pub fn unsent(&self) -> u64 {
        self.trace.unsent()
    }

    /// The bytes of the log that are kept, and the offset of the first: all of them with [`crate::Retain::All`].
    #[must_use]
    pub fn retained(&mut self) -> (u64, Vec<Bytes>) {
        self.trace.retained()
    }

    /// The bytes of the log that are not declared saved, and the offset of the first.
    #[must_use]
    pub fn unsaved(&mut self) -> (u64, Vec<Bytes>) {
        self.trace.unsaved()
    }

    /// Declares durable: the snapshot of this revision, and the log up to this offset.
    pub fn saved(&mut self, revision: u64, up_to: u64) {
        self.saved = self.saved.max(revision.min(self.revision));
        self.trace.mark_saved(up_to);
        (self.save_asked, self.saved_at) = (None, self.clock.now());
    }

    /// Which part of the log is needed from the application, see [`JobEvent::TraceNeeded`].
    #[must_use]
    pub fn trace_needed(&self) -> Option<Range<u64>> {
        let wanted = self.probe.is_none() && self.trace.unsent() > 0 && !matches!(self.phase, Phase::Closed(_));
        wanted.then(|| self.trace.missing(self.patch_limit)).flatten()
    }

    /// Brings back bytes of the log that were asked for: those at the start of [`Job::trace_needed`], or the first of
    /// them. More than asked for is cut off.
    ///
    /// # Errors
    ///
    /// [`Misuse::TraceNotNeeded`], or [`Misuse::TraceMismatch`] if `offset` is not where they are needed.
    pub fn supply_trace(&mut self, offset: u64, bytes: Bytes) -> Result<(), Misuse> {
        let wanted = self.trace_needed().ok_or(Misuse::TraceNotNeeded)?;
        if offset != wanted.start {
            return Err(Misuse::TraceMismatch { offered: offset, wanted: wanted.start });
        }
        self.trace.refill(bytes);
        self.trace_asked = false;
        Ok(())
    }

    /// The bytes that were asked for are gone. A line in the log marks the hole, and the result is reported without a
    /// checksum.
    ///
    /// # Errors
    ///
    /// [`Misuse::TraceNotNeeded`].
    pub fn forfeit_trace(&mut self) -> Result<(), Misuse> {
        self.trace_needed().ok_or(Misuse::TraceNotNeeded)?;
        self.trace.forfeit();
        self.trace_asked = false;
        self.frozen = None;
        self.drop_digest();
        self.change_critically();
        Ok(())
    }

    /// The number of the state; it grows when [`Job::snapshot`] would differ.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What [`Machine::poll`] would wait for now.
    #[must_use]
    pub fn wait_reason(&self) -> WaitReason {
        match self.step(self.clock.now()) {
            Step::Wait(_, reason) => reason,
            Step::Send(_) | Step::Tell(_) => WaitReason::Application,
        }
    }
}
