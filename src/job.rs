//! The state machine of one job: it accepts the job, delivers its log, notices a cancellation, and reports the result.

mod alignment;
mod answers;
mod drive;
mod log;
mod pacing;
mod payload;
mod phase;
mod requests;
mod rules;
mod snapshot;
mod trace;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::api::info::Unpromised;
use crate::api::job_spec::{Assignment, JobSpec, Loss};
use crate::backoff::{Backoff, Policy};
use crate::call::{Owner, Wire};
use crate::config::RunnerConfig;
use crate::error::Misuse;
use crate::log::{LogOptions, Pipeline};
use crate::reply::Cause;
use crate::rng::Rng;
use crate::snapshot::ResumeError;
use crate::time::{Steady, Timestamp};
use drive::Step;
use pacing::{Detours, Pacing, PatchSize, Progress, Reachability};
use phase::{Acceptance, Finishing, Phase};
use rules::Intent;
use trace::Trace;

pub use log::Masked;
pub use phase::{AbortReason, Cancellation, JobResult, Outcome};
pub use snapshot::JobSnapshot;

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
    /// Only a [durable](RunnerConfig::with_durable) job asks for this: before it sends anything, as soon as it has its result, and
    /// at the latest one keep-alive interval after something was written, even if it cannot be sent.
    Save,
    /// These bytes of the log must be sent again, and this job no longer has them. Bring them with [`Job::supply_trace`], or call
    /// [`Job::forfeit_trace`] if they are gone.
    TraceNeeded(Range<u64>),
    /// GitLab's log contains bytes that this job did not send. The next byte of this job goes to this offset of GitLab's log.
    /// Nothing that this job wrote is lost, but its checksum is no longer reported.
    #[non_exhaustive]
    TraceShifted {
        /// Where our next byte goes.
        server_offset: u64,
    },
    /// The job has ended, and its log was refused for the time set by [`RunnerConfig::with_log_patience`] while other calls worked.
    /// The result is reported without this part of the log, and without a checksum.
    #[non_exhaustive]
    TraceRefused {
        /// What GitLab does not have, in offsets of this job's log.
        missing: Range<u64>,
        /// How it was refused first.
        cause: Cause,
    },
    /// Calls about this job fail. Nothing is lost, and they are repeated as long as it takes.
    ///
    /// This event comes once, until all kinds of call work again. Two such events are at least 30 s apart.
    #[non_exhaustive]
    Unreachable {
        /// What happened first.
        cause: Cause,
        /// When.
        since: Timestamp,
    },
    /// All kinds of call work again, after `Unreachable`.
    Recovered,
    /// The result is delivered.
    Finished(Outcome),
}

/// Whether bytes were taken into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "they were or they were not")]
pub enum Written {
    /// They are in the log, unless its [limit](crate::log::LogLimit) was reached, and will be delivered.
    Queued,
    /// The job has a result or is over, so its log is complete. The bytes were dropped.
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
/// Write its log with [`Job::write`], report its result with [`Job::finish`], and handle its events. A driver connects it with
/// an HTTP client, through the methods of [`Machine`](crate::Machine).
///
/// Whatever the network does, what GitLab has of the log stays a prefix of the job's log. The result is sent again until
/// GitLab has it, or refuses it for good.
///
/// ```
/// use std::sync::Arc;
///
/// use gitlab_runner_api::api::info::Info;
/// use gitlab_runner_api::{Assignment, Job, JobEvent, JobResult, Machine, Output, RunnerConfig, Server, Timestamp};
///
/// let config = RunnerConfig::new(Server::parse("https://gitlab.example.com")?, Info::new("my-runner", "1.0"));
/// // As a `Poller` hands it out.
/// let assignment = Assignment::from_json(r#"{"id":7,"token":"glcbt-64_0123456789"}"#)?;
/// let now = Timestamp::from_millis(1_750_000_000_000);
/// let mut job = Job::new(Arc::new(config), &assignment, now);
///
/// // Its first call accepts the job.
/// let Output::Send(call) = job.poll(now) else { panic!("nothing else can come first") };
/// let (request, ticket) = call.split();
/// assert_eq!((request.method().as_str(), request.uri().path()), ("PUT", "/api/v4/jobs/7"));
/// let answer = http::Response::builder().status(200).body(b"200".to_vec())?;
/// job.handle_response(ticket, answer, now)?;
/// assert!(matches!(job.poll(now), Output::Event(JobEvent::Accepted)));
///
/// // Now the script runs. What it prints is sent, and its result when GitLab has all of that.
/// job.write("hello\n");
/// job.finish(JobResult::success());
/// let Output::Send(call) = job.poll(now) else { panic!("the log is due") };
/// assert_eq!(call.split().0.headers()["content-range"], "0-5");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a job sends nothing unless it is polled, and GitLab waits for its result"]
pub struct Job {
    config: Arc<RunnerConfig>,
    assignment: Assignment,
    wire: Wire<Sent>,
    clock: Steady,
    rng: Rng,
    phase: Phase,
    trace: Trace,
    pipeline: Pipeline,
    /// The names of the sections that are open, the innermost last.
    sections: Vec<String>,
    /// The latest time that a line was written at. The lines that close the log are not earlier.
    stamped_at: Timestamp,
    events: VecDeque<JobEvent>,
    cancellation: Cancellation,
    /// When calls may be sent.
    pacing: Pacing,
    reach: Reachability,
    detours: Detours,
    progress: Progress,
    patch_size: PatchSize,
    /// The number of the state, and that of the last change which must be saved before anything else is sent.
    revision: u64,
    critical: u64,
    saved: u64,
    saved_at: Timestamp,
    save_request: Request,
    trace_request: Request,
    interval: Duration,
    deadline: Timestamp,
    /// When an answer of GitLab last came.
    last_contact: Timestamp,
    flush_at: Timestamp,
    /// What alone was answered since when, if that may mean the end of the job.
    nothing_but: Option<(NothingBut, Timestamp)>,
    /// Boxed, because it is rare and jobs are many.
    log_refused: Option<Box<LogRefused>>,
    /// The end of a piece that may have arrived. It is repeated as it was, so that the repetition is harmless.
    frozen: Option<u64>,
    /// A piece may have arrived although its answer did not.
    fate_unknown: bool,
    probe: Option<Probe>,
    /// The last piece or probe was answered with a 416 that named the very offset at which it began.
    stalled: bool,
    acceptance: Acceptance,
    check: Option<Check>,
    timed_out: bool,
    abandoned: bool,
    /// `Done` was returned, and nothing else ever is from then on.
    done: bool,
}

/// The log is refused.
#[derive(Clone, Copy, Debug)]
struct LogRefused {
    since: Timestamp,
    /// How it was refused first.
    cause: Cause,
    /// GitLab has answered a call of another kind since.
    others_work: bool,
}

/// Answers that end a job when nothing else comes back for very long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum NothingBut {
    NotFound,
    ForeignForbidden,
}

/// A call in flight.
#[derive(Clone, Copy, Debug)]
struct Sent {
    intent: Intent,
    /// It was paid for from the budget of calls that achieve nothing, and the price is given back if it achieves something.
    paid: bool,
    /// It was sent before the application asked whether the job is still ours, so that its answer does not answer that.
    predates_check: bool,
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

/// The question of the application whether the job is still ours, see [`Job::check_in`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// A call is to be sent for it.
    Due,
    /// A call was sent for it.
    Sent,
}

/// Something that only the application can do, and is asked for. It is asked again, with growing pauses, until it is done.
#[derive(Clone, Copy, Debug, Default)]
struct Request {
    /// In the past if it was not asked for.
    again_at: Timestamp,
    backoff: Backoff,
}

/// When a job that was not saved asks for it again. The first pause is about the interval of the log.
const ASK_TO_SAVE: Policy = Policy { base: Duration::from_secs(6), cap: Duration::from_secs(60) };

/// When a part of the log that was not brought is asked for again. Reading it from where it is kept may take a while, and two
/// answers to one question would confuse the application.
const ASK_FOR_TRACE: Policy = Policy { base: Duration::from_secs(120), cap: Duration::from_secs(600) };

/// The same after an answer without any bytes.
const ASK_AFTER_NOTHING: Policy = Policy { base: Duration::from_secs(6), cap: Duration::from_secs(60) };

impl Request {
    /// When to ask, if that is not now.
    fn not_before(&self, now: Timestamp) -> Option<Timestamp> {
        (now < self.again_at).then_some(self.again_at)
    }

    /// It was asked for, or not done: it is asked for again after a pause.
    fn ask_again(&mut self, policy: Policy, now: Timestamp, rng: &mut Rng) {
        self.again_at = now.saturating_add(self.backoff.failed(policy, None, rng));
    }

    fn done(&mut self) {
        *self = Self::default();
    }
}

impl Job {
    /// Starts a job that was just assigned. Its first call tells GitLab that the job is accepted.
    ///
    /// If its payload is [damaged](Assignment::is_damaged), and [`RunnerConfig::with_damaged_payloads`] does not allow that, the job has
    /// its result already: it fails with `runner_system_failure`, and its log says why. Drive it to its end like any other, and run
    /// nothing: [`JobEvent::Accepted`] does not come, and [`Job::is_ended`] tells it at once.
    pub fn new(config: Arc<RunnerConfig>, assignment: &Assignment, now: Timestamp) -> Self {
        let refused = config.refuses(assignment);
        let mut job = Self::unstarted(config, assignment, now);
        job.warn_of_payload();
        if refused {
            job.refuse();
        }
        job
    }

    /// A new job with an empty log.
    fn unstarted(config: Arc<RunnerConfig>, assignment: &Assignment, now: Timestamp) -> Self {
        let trace = Trace::new(config.retain, config.durable);
        let owner = Owner::job(&config.server, assignment.id(), assignment.spec().token.secret());
        let mut rng = Rng::new(config.jitter_seed, assignment.id());
        rng.mix(config.streams.next());
        let variables = LogOptions::variables(assignment.spec());
        let mut job = Self {
            wire: Wire::new(owner),
            clock: Steady::starting(now),
            rng,
            phase: Phase::Running,
            trace,
            pipeline: Pipeline::new(&config.log, assignment, &variables),
            sections: Vec::new(),
            stamped_at: Timestamp::EPOCH,
            events: VecDeque::new(),
            cancellation: Cancellation::None,
            pacing: Pacing::default(),
            reach: Reachability::default(),
            detours: Detours::default(),
            progress: Progress::default(),
            patch_size: PatchSize::new(config.patch_limit),
            revision: 0,
            critical: 0,
            saved: 0,
            saved_at: now,
            save_request: Request::default(),
            trace_request: Request::default(),
            interval: config.update_interval,
            deadline: now,
            last_contact: now,
            flush_at: Timestamp::EPOCH,
            nothing_but: None,
            log_refused: None,
            frozen: None,
            fate_unknown: false,
            probe: None,
            stalled: false,
            acceptance: Acceptance::Pending,
            check: None,
            timed_out: false,
            abandoned: false,
            done: false,
            assignment: assignment.clone(),
            config,
        };
        job.deadline = now.saturating_add(job.timeout());
        job.tell_of_payload(&variables);
        job.report_short_secrets(0);
        job
    }

    /// Resumes a job from a snapshot, on this host or another one.
    ///
    /// A call that was in flight counts as failed with unknown outcome. Before the log continues, the job asks GitLab where its
    /// log ends. The same snapshot can therefore be resumed several times, one after the other, and no line is lost or doubled.
    /// Events that still hold (a cancellation, a timeout, the end) come again.
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
        if snapshot.job_id() != assignment.id() {
            return Err(ResumeError::WrongJob { found: snapshot.job_id(), wanted: assignment.id() });
        }
        let mut job = Self::unstarted(config, assignment, now);
        job.restore(snapshot.0, now);
        Ok(job)
    }

    /// Takes the log of a resumed job from this offset to its end, so that nobody has to bring it back.
    pub(crate) fn hold_log(&mut self, start: u64, log: Bytes) {
        self.trace.hold(start, log);
    }

    /// The part of the log that is not kept here although GitLab may need it, if there is one.
    pub(crate) fn log_elsewhere(&self) -> Option<Range<u64>> {
        // An abandoned job goes on elsewhere, from the record that is made of it.
        if self.is_log_given_up() || matches!(self.phase, Phase::Closed(_)) { None } else { self.trace.elsewhere() }
    }

    /// Whether GitLab has confirmed that this runner has the job, and [`JobEvent::Accepted`] does not come any more.
    ///
    /// Usually it came. A durable job whose process died between saving and that event is accepted as well, and its script was not
    /// started: whoever starts scripts knows which of the two it is.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.acceptance == Acceptance::Told
    }

    /// The job's id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.assignment.id()
    }

    /// The GitLab instance that the job belongs to.
    #[must_use]
    pub fn server(&self) -> &crate::config::Server {
        self.config.server()
    }

    /// The job's payload.
    #[must_use]
    pub fn spec(&self) -> &JobSpec {
        self.assignment.spec()
    }

    /// The payload, in the form in which it can be saved.
    #[must_use]
    pub fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    /// Ends the job with this result. Nothing more can be written, and the log is delivered before the result. Later calls have
    /// no effect.
    pub fn finish(&mut self, result: JobResult) {
        if self.abandoned || self.phase != Phase::Running {
            return;
        }
        self.complete_log();
        let reason = result.reason.map(|reason| reason.supported_by(&self.spec().features.failure_reasons));
        self.phase = Phase::Finishing(Finishing::new(JobResult { reason, ..result }));
        // GitLab may have lost the end of the log since it was acknowledged. If there is more to send, the answer to that tells;
        // if there is not, nobody else would ask.
        if self.trace.unsent() == 0 && self.trace.written() > 0 && self.probe.is_none() {
            self.probe = Some(Probe::new(Purpose::GoOn));
        }
        self.change_critically();
    }

    /// Asks GitLab as soon as no other call is in flight whether the job is still ours, without waiting for the next keep-alive.
    ///
    /// The answer comes as events, as always. An answer to a call that was sent before the question does not count. This has no
    /// effect once the job has a result or is over.
    pub fn check_in(&mut self) {
        if !self.abandoned && self.phase == Phase::Running {
            self.check = Some(Check::Due);
            if let Some(sent) = self.wire.intent_mut() {
                sent.predates_check = true;
            }
        }
    }

    /// Whether [`Job::check_in`] still waits for an answer. If not, GitLab has answered a call that was sent after the question, or
    /// the job has ended.
    #[must_use]
    pub fn is_checking_in(&self) -> bool {
        self.check.is_some() && !self.abandoned && self.phase == Phase::Running
    }

    /// Starts the job's own timeout again, from `now` on. For executors whose jobs wait in a queue of their own before they run.
    ///
    /// [`JobEvent::TimedOut`] comes when the job's timeout has passed from here, also if it was told before. GitLab's own timeout is
    /// not changed by this: it counts from the moment at which the job was handed out, and GitLab fails a job that exceeds it.
    /// Raise the timeout of such jobs in GitLab by the time that they may wait.
    pub fn restart_timeout(&mut self, now: Timestamp) {
        let now = self.clock.advance(now);
        if self.phase == Phase::Running {
            self.deadline = now.saturating_add(self.timeout());
            self.timed_out = false;
            self.change_critically();
        }
    }

    /// How long the job may run.
    fn timeout(&self) -> Duration {
        self.spec().timeout().unwrap_or(self.config.default_timeout)
    }

    /// Stops all calls about this job without reporting a result, because another process resumes it from a snapshot.
    pub fn abandon(&mut self) {
        self.run_log();
        self.abandoned = true;
        self.events.clear();
    }

    /// Whether and how the job was cancelled.
    #[must_use]
    pub fn cancellation(&self) -> Cancellation {
        self.cancellation
    }

    /// When the timeout of the job passes.
    #[must_use]
    pub fn deadline(&self) -> Timestamp {
        self.deadline
    }

    /// Whether the job has a result or is over.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.phase != Phase::Running
    }

    /// How many bytes of log there are. What was written since the last [`Machine::poll`](crate::Machine::poll) goes through the stages
    /// of [`crate::log`] to be counted. [`Job::backlog`] says about as much and costs nothing.
    #[must_use]
    pub fn log_size(&self) -> u64 {
        let written = self.trace.written();
        written.saturating_add(self.pipeline.coming(written, &self.config.log))
    }

    /// How many bytes of log GitLab has not acknowledged, as exactly as [`Job::log_size`].
    #[must_use]
    pub fn unsent(&self) -> u64 {
        self.log_size().saturating_sub(self.trace.acknowledged())
    }

    /// About how many bytes of log GitLab has not acknowledged. What has not gone through the stages of [`crate::log`] counts as it was
    /// written. For drivers, which ask at each write whether there is something to send, or too much.
    #[must_use]
    pub fn backlog(&self) -> u64 {
        self.trace.unsent().saturating_add(self.pipeline.waiting())
    }

    /// About how many bytes of log are not saved, as [`Job::backlog`]. For drivers that save more often where much is written.
    #[must_use]
    pub fn unsaved_backlog(&self) -> u64 {
        self.trace.written().saturating_sub(self.trace.saved()).saturating_add(self.pipeline.waiting())
    }

    /// Returns the offset of the first byte of the log that is kept, and the bytes from there on. With [`crate::Retain::All`] that is
    /// the whole log.
    #[must_use]
    pub fn retained(&mut self) -> (u64, Vec<Bytes>) {
        self.run_log();
        self.trace.retained()
    }

    /// Returns the offset of the first byte of the log that is not saved, and the bytes from there on.
    #[must_use]
    pub fn unsaved(&mut self) -> (u64, Vec<Bytes>) {
        self.run_log();
        self.trace.unsaved()
    }

    /// Tells the job that the snapshot of this revision and the log up to this offset are stored durably.
    pub fn saved(&mut self, revision: u64, up_to: u64) {
        let before = (self.saved, self.trace.saved());
        self.saved = self.saved.max(revision.min(self.revision));
        self.trace.mark_saved(up_to);
        // Saving the same state again is not what was asked for.
        if (self.saved, self.trace.saved()) > before {
            self.save_request.done();
            self.saved_at = self.clock.now();
        }
    }

    /// The part of the log that the application must bring back, see [`JobEvent::TraceNeeded`].
    #[must_use]
    pub fn trace_needed(&self) -> Option<Range<u64>> {
        let wanted = self.probe.is_none() && self.owes_log() && !matches!(self.phase, Phase::Closed(_));
        wanted.then(|| self.trace.missing(self.patch_size.limit())).flatten()
    }

    /// Brings back bytes of the log, from the start of [`Job::trace_needed`] on. They may be fewer than were asked for; bytes
    /// beyond that part are ignored. If `bytes` is empty, the job asks again after a pause.
    ///
    /// # Errors
    ///
    /// [`Misuse::TraceNotNeeded`] if nothing is needed, or [`Misuse::TraceMismatch`] if `offset` is not the start of that part. Once
    /// nothing of the log is sent any more, because the job is over or its log was given up, the bytes are ignored: the job cannot
    /// tell when you began to read them.
    pub fn supply_trace(&mut self, offset: u64, bytes: Bytes) -> Result<(), Misuse> {
        if self.sends_no_more_log() {
            return Ok(());
        }
        let wanted = self.trace_needed().ok_or(Misuse::TraceNotNeeded)?;
        if offset != wanted.start {
            return Err(Misuse::TraceMismatch { offered: offset, wanted: wanted.start });
        }
        if bytes.is_empty() {
            self.trace_request.ask_again(ASK_AFTER_NOTHING, self.clock.now(), &mut self.rng);
        } else {
            self.trace.refill(bytes);
            self.trace_request.done();
        }
        Ok(())
    }

    /// Tells the job that the bytes it asked for are gone. A line in the log marks the gap, and the result is reported without a
    /// checksum.
    ///
    /// # Errors
    ///
    /// [`Misuse::TraceNotNeeded`] if nothing is needed. Once nothing of the log is sent any more, this has no effect.
    pub fn forfeit_trace(&mut self) -> Result<(), Misuse> {
        if self.sends_no_more_log() {
            return Ok(());
        }
        self.trace_needed().ok_or(Misuse::TraceNotNeeded)?;
        self.trace.forfeit();
        self.trace_request.done();
        self.frozen = None;
        self.drop_digest();
        self.change_critically();
        Ok(())
    }

    /// Whether nothing of the log is sent any more, whatever GitLab lacks.
    fn sends_no_more_log(&self) -> bool {
        self.abandoned || self.is_log_given_up() || matches!(self.phase, Phase::Closed(_))
    }

    fn is_log_given_up(&self) -> bool {
        matches!(&self.phase, Phase::Finishing(finishing) if finishing.log_given_up)
    }

    /// Whether there is log that GitLab has not acknowledged and is still to get.
    fn owes_log(&self) -> bool {
        self.trace.unsent() > 0 && !self.is_log_given_up()
    }

    /// The revision of the state. It grows whenever [`Job::snapshot`] would return something else than before.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What [`Machine::poll`](crate::Machine::poll) would wait for now.
    #[must_use]
    pub fn wait_reason(&mut self) -> WaitReason {
        self.run_log();
        match self.step(self.clock.now()) {
            Step::Wait(_, reason) => reason,
            Step::Send(_) | Step::Tell(_) => WaitReason::Application,
        }
    }
}
