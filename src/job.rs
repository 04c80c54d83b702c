//! The state machine of one job: it accepts the job, delivers its log, notices a cancellation, and reports the result.
//!
//! The table in `deadlines` lists everything a job waits for, and where each of these times comes from.

mod alignment;
mod answers;
mod contact;
mod deadlines;
mod delivery;
mod drive;
mod event;
mod finishing;
mod log;
mod outcome;
mod pacing;
mod payload;
mod phase;
mod reminder;
mod requests;
mod rules;
mod saving;
mod snapshot;
mod trace;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use self::contact::Contact;
use self::deadlines::Step;
use self::delivery::Delivery;
use self::finishing::Finishing;
use self::log::JobLog;
use self::pacing::Pacing;
use self::phase::{Acceptance, Driving, Phase, Timeout};
use self::requests::Sent;
use self::saving::Saving;
use crate::api::job_spec::{Assignment, JobSpec};
use crate::call::{Owner, Wire};
use crate::config::RunnerConfig;
use crate::error::Misuse;
use crate::log::{LogOptions, Pipeline};
use crate::rng::Rng;
use crate::snapshot::ResumeError;
use crate::time::{Steady, Timestamp};

pub use self::deadlines::WaitReason;
pub use self::event::{JobEvent, Written};
pub use self::log::Masked;
pub use self::outcome::{AbortReason, Cancellation, JobResult, Outcome};
pub use self::snapshot::JobSnapshot;

/// One job, from its acceptance to its end.
///
/// Write its log with [`Job::write`], report its result with [`Job::finish`], and handle its events. A driver connects it with
/// an HTTP client, through the methods of [`Machine`](crate::Machine).
///
/// Whatever the network does, what GitLab has of the log stays a prefix of the job's log. The result is sent again until GitLab has it, or
/// accepts no more calls for the job. It is also given up if GitLab does not understand it or does not know the job, for as long as the
/// methods of [`RunnerConfig`] that end in `patience` say.
///
/// ```
/// use std::sync::Arc;
///
/// use gitlab_runner_api::api::info::Info;
/// use gitlab_runner_api::{Assignment, Job, JobEvent, JobResult, Machine, Output, RunnerConfig, Server, Timestamp};
///
/// let config = RunnerConfig::new(Server::parse("https://gitlab.example.com")?, Info::new("my-runner", "1.0"));
/// // A `Poller` returns it in `PollerEvent::Assigned`.
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
    /// The call in flight, if there is one. If it fails or times out, see `Job::failed`.
    wire: Wire<Sent>,
    clock: Steady,
    rng: Rng,
    /// What the application writes, until it has passed all stages of the log.
    log: JobLog,
    /// The log that has passed the stages: what GitLab has of it, and what is sent next.
    delivery: Delivery,
    /// Which state is saved, and when the application must save again.
    saving: Saving,
    /// The back-off of each kind of call, and their budget.
    pacing: Pacing,
    /// When a call last worked, from which the next keep-alive is counted, and whether calls fail.
    contact: Contact,
    timeout: Timeout,
    phase: Phase,
    acceptance: Acceptance,
    cancellation: Cancellation,
    driving: Driving,
    /// Events that the next polls return.
    events: VecDeque<JobEvent>,
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
        let owner = Owner::job(&config.server, assignment.id(), assignment.spec().token.secret());
        let mut rng = Rng::new(config.jitter_seed, assignment.id());
        rng.mix(config.streams.next());
        let variables = LogOptions::variables(assignment.spec());
        let pipeline = Pipeline::new(&config.log, assignment, &variables);
        let mut job = Self {
            wire: Wire::new(owner),
            clock: Steady::starting(now),
            rng,
            log: JobLog::new(pipeline, assignment.spec().is_debug_trace()),
            delivery: Delivery::new(&config),
            saving: Saving::starting(config.durable, 0, now),
            pacing: Pacing::default(),
            contact: Contact::starting(config.keep_alive, now),
            timeout: Timeout::at(now),
            phase: Phase::Running,
            acceptance: Acceptance::Pending,
            cancellation: Cancellation::None,
            driving: Driving::Open,
            events: VecDeque::new(),
            assignment: assignment.clone(),
            config,
        };
        job.timeout.at = now.saturating_add(job.run_time());
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

    /// Gives a resumed job its log from this offset to its end, so that it does not ask for these bytes with `TraceNeeded`.
    pub(crate) fn hold_log(&mut self, start: u64, log: Bytes) {
        self.delivery.trace.hold(start, log);
    }

    /// The part of the log that is not kept here although GitLab may need it, if there is one.
    pub(crate) fn log_elsewhere(&self) -> Option<Range<u64>> {
        // An abandoned job counts too, because another process continues it from the record that is made of it.
        let sends_no_more = self.delivery.is_given_up() || matches!(self.phase, Phase::Closed(_));
        if sends_no_more { None } else { self.delivery.trace.elsewhere() }
    }

    /// Whether GitLab has confirmed that this runner has the job, and [`JobEvent::Accepted`] does not come any more.
    ///
    /// Usually the event was returned before. If the process of a durable job died between saving the job and returning the event, the job
    /// is accepted although its script was not started. The application must know for itself whether it has started the script.
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

    /// Frees the text of the payload, for an application that has stored it. Afterwards [`Job::assignment`] has no text, and no
    /// [`JobRecord`](crate::JobRecord) can be made of the job. An idle job with a usual payload of 12 KB takes 28 KB of memory with
    /// the text, and 16 KB without.
    pub fn drop_payload_text(&mut self) {
        self.assignment = self.assignment.clone().without_text();
    }

    /// Ends the job with this result. Nothing more can be written, and the log is delivered before the result. Later calls have
    /// no effect.
    pub fn finish(&mut self, result: JobResult) {
        if self.driving != Driving::Open || self.phase != Phase::Running {
            return;
        }
        self.complete_log();
        let reason = result.reason.map(|reason| reason.supported_by(&self.spec().features.failure_reasons));
        self.phase = Phase::Finishing(Finishing::new(JobResult { reason, ..result }));
        self.delivery.finish();
        self.saving.change_critically();
    }

    /// Asks GitLab whether the job still belongs to this runner. The request is sent as soon as no other call is in flight, without waiting
    /// for the next keep-alive.
    ///
    /// The answer comes as events, as always. An answer to a call that was sent before the question does not count. This has no
    /// effect once the job has a result or is over.
    pub fn check_in(&mut self) {
        if self.driving == Driving::Open && self.phase == Phase::Running {
            self.contact.check();
            if let Some(sent) = self.wire.intent_mut() {
                sent.predates_check = true;
            }
        }
    }

    /// Whether [`Job::check_in`] still waits for an answer. If not, GitLab has answered a call that was sent after the question, or
    /// the job has ended.
    #[must_use]
    pub fn is_checking_in(&self) -> bool {
        self.contact.is_checking() && self.driving == Driving::Open && self.phase == Phase::Running
    }

    /// Starts the job's timeout again, from `now` on. Use it if your executor puts jobs into a queue of its own before they run.
    ///
    /// [`JobEvent::TimedOut`] comes when the job's timeout has passed from here, also if it was told before. GitLab's own timeout is
    /// not changed by this: it counts from the moment at which the job was handed out, and GitLab fails a job that exceeds it.
    /// Raise the timeout of such jobs in GitLab by the time that they may wait.
    pub fn restart_timeout(&mut self, now: Timestamp) {
        let now = self.clock.advance(now);
        if self.phase == Phase::Running {
            self.timeout = Timeout::at(now.saturating_add(self.run_time()));
            self.saving.change_critically();
        }
    }

    /// How long the job may run.
    fn run_time(&self) -> Duration {
        self.spec().timeout().unwrap_or(self.config.default_timeout)
    }

    /// Stops all calls about this job without reporting a result, because another process resumes it from a snapshot.
    pub fn abandon(&mut self) {
        self.run_log();
        if self.driving == Driving::Open {
            self.driving = Driving::Abandoned;
        }
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
        self.timeout.at
    }

    /// Whether the job has a result or is over.
    #[must_use]
    #[inline]
    pub fn is_ended(&self) -> bool {
        self.phase != Phase::Running
    }

    /// The size of the log in bytes, after the stages of [`crate::log`]. To count what was written since the last
    /// [`Machine::poll`](crate::Machine::poll), this passes a copy of it through the stages. [`Job::backlog`] is less exact and costs nothing.
    #[must_use]
    pub fn log_size(&self) -> u64 {
        let written = self.delivery.trace.written();
        written.saturating_add(self.log.pipeline.coming(written, &self.config.log))
    }

    /// How many bytes of log GitLab has not acknowledged. This is as exact as [`Job::log_size`], and costs as much.
    #[must_use]
    pub fn unsent(&self) -> u64 {
        self.log_size().saturating_sub(self.delivery.trace.acknowledged())
    }

    /// About how many bytes of log GitLab has not acknowledged. Bytes that have not passed the stages of [`crate::log`] count as they were
    /// written. Drivers use it at each write, to find out whether there is something to send, or too much.
    #[must_use]
    #[inline]
    pub fn backlog(&self) -> u64 {
        self.delivery.trace.unsent().saturating_add(self.log.pipeline.waiting())
    }

    /// About how many bytes of log are not saved, counted as in [`Job::backlog`]. Drivers use it to save more often when much is written.
    #[must_use]
    #[inline]
    pub fn unsaved_backlog(&self) -> u64 {
        let Self { delivery: Delivery { trace, .. }, log, .. } = self;
        trace.written().saturating_sub(trace.saved()).saturating_add(log.pipeline.waiting())
    }

    /// Returns the offset of the first byte of the log that is kept, and the bytes from there on. With [`crate::Retain::All`] that is
    /// the whole log.
    #[must_use]
    pub fn retained(&mut self) -> (u64, Vec<Bytes>) {
        self.run_log();
        self.delivery.trace.retained()
    }

    /// Returns the offset of the first byte of the log that is not saved, and the bytes from there on.
    #[must_use]
    pub fn unsaved(&mut self) -> (u64, Vec<Bytes>) {
        self.run_log();
        self.delivery.trace.unsaved()
    }

    /// Tells the job that the snapshot of this revision and the log up to this offset are stored durably.
    pub fn saved(&mut self, revision: u64, up_to: u64) {
        let before = self.delivery.trace.saved();
        self.delivery.trace.mark_saved(up_to);
        self.saving.saved(revision, self.delivery.trace.saved() > before, self.clock.now());
    }

    /// The part of the log that the application must bring back, see [`JobEvent::TraceNeeded`].
    #[must_use]
    pub fn trace_needed(&self) -> Option<Range<u64>> {
        if matches!(self.phase, Phase::Closed(_)) { None } else { self.delivery.needed() }
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
        self.delivery.supply(offset, bytes, self.clock.now(), &mut self.rng)
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
        self.delivery.forfeit()?;
        self.drop_digest();
        self.saving.change_critically();
        Ok(())
    }

    /// Whether nothing of the log is sent any more, whatever GitLab lacks.
    fn sends_no_more_log(&self) -> bool {
        self.driving != Driving::Open || self.delivery.is_given_up() || matches!(self.phase, Phase::Closed(_))
    }

    /// The revision of the state. It grows whenever [`Job::snapshot`] would return something else than before.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.saving.revision()
    }

    /// What [`Machine::poll`](crate::Machine::poll) would wait for now.
    #[must_use]
    pub fn wait_reason(&mut self) -> WaitReason {
        self.run_log();
        match self.step(self.clock.now()) {
            Step::Wait(soonest) => soonest.reason(),
            Step::Send(_) | Step::Tell(_) => WaitReason::Application,
        }
    }
}
