//! One thread for each held job: it polls the machine, performs its calls, and sleeps in between.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use gitlab_runner_api::log::ansi;
use gitlab_runner_api::{
    AbortReason, Call, Cancellation, Failure, FailureReason, Job, JobEvent, JobRecord, JobResult, JobSnapshot, Machine,
    Misuse, Outcome, Output, RunnerConfig, Secret, Stream, Throttle, Timestamp, Written,
};
use gitlab_runner_api_files::{FileError, short_secrets_warning};

use crate::clock::Clock;
use crate::error::Error;
use crate::record::{HANDED_ON, Record};
use crate::run::Bell;
use crate::transport::Transport;

/// What every machine of a runner needs for its calls.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) transport: Transport,
    pub(crate) clock: Clock,
    throttle: Arc<Mutex<Throttle>>,
    /// Why the last call that failed did, in words.
    trouble: Arc<Mutex<String>>,
    driven: Arc<Driven>,
}

/// How many jobs have a driver.
#[derive(Debug, Default)]
struct Driven {
    count: Mutex<usize>,
    fewer: Condvar,
    /// Of loops that take jobs as there is room beside these.
    bells: Mutex<Vec<Arc<Bell>>>,
}

/// One of them.
struct Drive(Arc<Driven>);

impl Drive {
    fn begin(driven: &Arc<Driven>) -> Self {
        *lock(&driven.count) += 1;
        Self(driven.clone())
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        *lock(&self.0.count) -= 1;
        self.0.fewer.notify_all();
        lock(&self.0.bells).iter().for_each(|bell| bell.ring());
    }
}

impl Link {
    pub(crate) fn new(transport: Transport) -> Self {
        Self {
            transport,
            clock: Clock::start(),
            throttle: Arc::default(),
            trouble: Arc::default(),
            driven: Arc::default(),
        }
    }

    /// The same link, for jobs that are waited for apart from all others.
    pub(crate) fn apart(&self) -> Self {
        Self { driven: Arc::default(), ..self.clone() }
    }

    /// How many jobs are driven.
    pub(crate) fn driven(&self) -> usize {
        *lock(&self.driven.count)
    }

    /// Rings this bell whenever one is driven no more, for as long as `during` takes.
    pub(crate) fn ringing<R>(&self, bell: &Arc<Bell>, during: impl FnOnce() -> R) -> R {
        lock(&self.driven.bells).push(bell.clone());
        let done = during();
        lock(&self.driven.bells).retain(|other| !Arc::ptr_eq(other, bell));
        done
    }

    /// Waits until no job is driven any more, or `span` has passed; false in that case.
    pub(crate) fn wait_idle(&self, span: Duration) -> bool {
        let busy = |count: &mut usize| *count > 0;
        let waited = self.driven.fewer.wait_timeout_while(lock(&self.driven.count), span, busy);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }

    /// Polls a machine, after telling it what others were told.
    pub(crate) fn poll<M: Machine>(&self, machine: &mut M) -> Output<M::Event> {
        machine.hold_until(lock(&self.throttle).closed_until(machine.scope()));
        machine.poll(self.clock.now())
    }

    /// Why the last call that failed did, in words.
    pub(crate) fn trouble(&self) -> String {
        lock(&self.trouble).clone()
    }

    /// Sleeps until then; not at all if no time is given.
    pub(crate) fn pause(&self, until: Option<Timestamp>) {
        thread::sleep(until.map_or(Duration::ZERO, |until| self.clock.until(until)));
    }

    /// Performs a call. No lock may be held.
    pub(crate) fn exchange(&self, call: Call) -> Reply {
        let (ticket, outcome) = self.transport.perform(call);
        let outcome = match outcome {
            Ok(answer) => {
                let (now, scope) = (self.clock.now(), ticket.scope());
                lock(&self.throttle).observe(scope, answer.status(), answer.headers(), answer.body(), now);
                Ok(answer)
            }
            Err(trouble) => {
                *lock(&self.trouble) = trouble.why;
                Err(trouble.failure)
            }
        };
        Reply { ticket, outcome }
    }
}

/// The outcome of a call, on its way back to its machine.
pub(crate) struct Reply {
    ticket: gitlab_runner_api::Ticket,
    outcome: Result<http::Response<bytes::Bytes>, Failure>,
}

impl Reply {
    pub(crate) fn hand_in(self, machine: &mut impl Machine, now: Timestamp) -> Result<(), Misuse> {
        let handed = match self.outcome {
            Ok(answer) => machine.handle_response(self.ticket, answer, now),
            Err(failure) => machine.handle_failure(self.ticket, failure, now),
        };
        handed.or_else(|misuse| if misuse == Misuse::Stale { Ok(()) } else { Err(misuse) })
    }
}

/// A job that its driver, its handle and its log writers share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    clock: Clock,
    /// For the driver: there is something to do.
    work: Condvar,
    /// For everybody else: something has changed.
    news: Condvar,
}

#[derive(Debug)]
struct State {
    job: Job,
    end: Option<End>,
    archive: Archive,
    /// Why the record could not be saved the last time.
    unsaved: Option<String>,
}

/// Where a job is kept beside its machine.
#[derive(Debug)]
pub(crate) enum Archive {
    /// All there is of the log is in memory.
    Memory,
    /// What a record that was one value held of the log.
    Value(Box<JobRecord>),
    /// Files, which are written before anything is sent.
    Files(Box<Record>),
}

/// How it ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Finished(Outcome),
    Aborted(AbortReason),
    /// Another process has its record, and goes on with it.
    Elsewhere(Arc<FileError>),
}

/// What GitLab says of a job.
#[derive(Clone, Debug)]
pub(crate) enum Checked {
    Ours,
    /// It is not, or has its result.
    Ended(Option<End>),
    Unknown,
}

/// Beyond this many bytes that are not sent, the driver is woken by each write.
const PRESSING: u64 = 1 << 20;

impl Shared {
    /// Starts a thread that drives `job` to its end, whoever else still holds it.
    ///
    /// If there is no thread to be had, the job is failed here and now, and not left to GitLab's timeouts.
    pub(crate) fn start(job: Job, archive: Archive, link: &Link) -> io::Result<Arc<Self>> {
        let name = format!("job {}", job.id());
        let state = Mutex::new(State { job, end: None, archive, unsaved: None });
        let shared = Arc::new(Self { state, clock: link.clock, work: Condvar::new(), news: Condvar::new() });
        let (driven, its_link, drive) = (shared.clone(), link.clone(), Drive::begin(&link.driven));
        match thread::Builder::new().name(name).spawn(move || {
            let _drive = drive;
            driven.drive(&its_link);
        }) {
            Ok(_) => Ok(shared),
            Err(error) => {
                shared.write(
                    Stream::Runner,
                    ansi::error("The runner's system has no thread left for this job.").as_bytes(),
                );
                shared.finish(JobResult::failed(FailureReason::RunnerSystemFailure));
                shared.drive(link);
                Err(error)
            }
        }
    }

    fn drive(&self, link: &Link) {
        let mut state = lock(&self.state);
        loop {
            if state.confirm().is_err() {
                self.news.notify_all();
            }
            match link.poll(&mut state.job) {
                Output::Send(call) => {
                    drop(state);
                    let reply = link.exchange(call);
                    state = lock(&self.state);
                    // No misuse but a stale ticket is possible: the call is this job's own, and answered once.
                    _ = reply.hand_in(&mut state.job, link.clock.now());
                    self.news.notify_all();
                }
                Output::Event(event) => self.obey(&mut state, event),
                Output::Wait(until) => state = self.sleep(state, until.map(|until| link.clock.until(until))),
                Output::Done => return,
            }
        }
    }

    fn obey(&self, state: &mut State, event: JobEvent) {
        match event {
            JobEvent::Finished(outcome) => state.end(&outcome.to_string(), End::Finished(outcome)),
            JobEvent::Aborted(reason) => state.end(&reason.to_string(), End::Aborted(reason)),
            JobEvent::TraceNeeded(range) => state.bring(range),
            // If it fails, the job asks again.
            JobEvent::Save => _ = state.save(),
            JobEvent::ShortSecrets(count) => _ = state.job.write(short_secrets_warning(count)),
            _ => {}
        }
        self.news.notify_all();
    }

    fn sleep<'a>(&self, state: MutexGuard<'a, State>, span: Option<Duration>) -> MutexGuard<'a, State> {
        match span {
            None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(span) => self.work.wait_timeout(state, span).unwrap_or_else(PoisonError::into_inner).0,
        }
    }

    pub(crate) fn write(&self, stream: Stream, bytes: &[u8]) -> Written {
        self.log(|job, now| job.write_at(stream, bytes::Bytes::copy_from_slice(bytes), now))
    }

    /// Whatever goes into the log.
    pub(crate) fn log(&self, write: impl FnOnce(&mut Job, Timestamp) -> Written) -> Written {
        let mut state = lock(&self.state);
        let idle = state.job.unsent() == 0;
        let written = write(&mut state.job, self.clock.now());
        state.bound();
        // If there was something to send already, the driver sleeps no longer than until that is due.
        if idle || state.job.unsent() >= PRESSING {
            self.work.notify_all();
        }
        written
    }

    /// Hides a value from now on.
    pub(crate) fn mask(&self, secret: &Secret) {
        lock(&self.state).job.mask(secret);
        self.work.notify_all();
    }

    /// Gives the job its result; false if it has one, or is over.
    pub(crate) fn finish(&self, result: JobResult) -> bool {
        let mut state = lock(&self.state);
        if state.job.is_ended() {
            return false;
        }
        state.job.finish(result);
        self.work.notify_all();
        true
    }

    pub(crate) fn look<R>(&self, at: impl FnOnce(&Job, Option<&End>) -> R) -> R {
        let state = lock(&self.state);
        at(&state.job, state.end.as_ref())
    }

    /// Waits until the job has ended at GitLab, or `span` has passed.
    pub(crate) fn wait_end(&self, span: Duration) -> Option<End> {
        self.wait_for(span, |state| state.end.is_some()).end.clone()
    }

    /// Asks GitLab whether the job is still ours.
    pub(crate) fn check_in(&self, span: Duration) -> Checked {
        {
            let mut state = lock(&self.state);
            state.job.check_in();
            self.work.notify_all();
        }
        let state = self.wait_for(span, |state| state.end.is_some() || !state.job.is_checking_in());
        match &state.end {
            None if state.job.is_checking_in() => Checked::Unknown,
            None if !state.job.is_ended() => Checked::Ours,
            end => Checked::Ended(end.clone()),
        }
    }

    /// The log, as far as it is kept.
    pub(crate) fn retained(&self) -> Vec<bytes::Bytes> {
        let state = &mut *lock(&self.state);
        let (start, mut kept) = state.job.retained();
        if let Some(before) = state.archive.log(0..start) {
            kept.insert(0, before);
        }
        kept
    }

    /// Whether the job has a record in files, in this folder if one is named.
    pub(crate) fn has_files(&self, folder: Option<&Path>) -> bool {
        match &lock(&self.state).archive {
            Archive::Files(record) => folder.is_none_or(|folder| record.is_in(folder)),
            _ => false,
        }
    }

    /// Goes on in a record in this folder, and sends nothing from now on that is not in it.
    pub(crate) fn keep(&self, folder: &Path, config: &Arc<RunnerConfig>) -> Result<(), Error> {
        let state = &mut *lock(&self.state);
        if state.end.is_some() {
            return Err(Error::AlreadyFinished);
        }
        let value = state.value();
        let record = Record::create(folder, &value)?;
        // As if it had been left and taken up. A call on the wire comes home to a machine that no longer knows of it.
        state.job = Job::resume(config.clone(), value.assignment(), value.snapshot().clone(), self.clock.now())
            .map_err(Error::BadRecord)?;
        let old = std::mem::replace(&mut state.archive, Archive::Files(Box::new(record)));
        self.work.notify_all();
        match old {
            Archive::Files(mut old) => Ok(old.close(state.job.id(), HANDED_ON)?),
            Archive::Memory | Archive::Value(_) => Ok(()),
        }
    }

    /// Stops talking about the job, which is somebody else's from now on, and gives all that is known of it.
    pub(crate) fn leave(&self) -> Result<Left, Error> {
        let state = &mut *lock(&self.state);
        if state.end.is_some() {
            return Err(Error::AlreadyFinished);
        }
        state.job.abandon();
        self.work.notify_all();
        match std::mem::replace(&mut state.archive, Archive::Memory) {
            Archive::Files(mut record) => {
                record.save(&mut state.job)?;
                Ok(Left::Files(record, Box::new(state.job.snapshot())))
            }
            archive => {
                state.archive = archive;
                Ok(Left::Value(Box::new(state.value())))
            }
        }
    }

    /// Writes the record now.
    pub(crate) fn save(&self) -> Result<(), FileError> {
        lock(&self.state).save()
    }

    /// Why the job's record could not be written the last time, if so. Nothing of it is sent meanwhile.
    pub(crate) fn unsaved(&self) -> Option<String> {
        lock(&self.state).unsaved.clone()
    }

    /// Waits until the job is to stop, or has ended, or `span` has passed.
    pub(crate) fn wait_cancelled(&self, span: Duration) -> Cancellation {
        let stops = |state: &State| state.job.cancellation() != Cancellation::None || state.end.is_some();
        let state = self.wait_for(span, stops);
        cancellation(&state.job, state.end.as_ref())
    }

    fn wait_for(&self, span: Duration, mut is_so: impl FnMut(&State) -> bool) -> MutexGuard<'_, State> {
        let deadline = Instant::now().checked_add(span);
        let mut state = lock(&self.state);
        while !is_so(&state) {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            state = match left {
                Some(Duration::ZERO) => break,
                Some(left) => self.news.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.news.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        state
    }
}

/// How urgently a job is to stop. One that another process has is over here.
pub(crate) fn cancellation(job: &Job, end: Option<&End>) -> Cancellation {
    if matches!(end, Some(End::Elsewhere(_))) { Cancellation::Aborted } else { job.cancellation() }
}

/// A job that was left.
pub(crate) enum Left {
    Files(Box<Record>, Box<JobSnapshot>),
    Value(Box<JobRecord>),
}

impl State {
    fn end(&mut self, how: &str, end: End) {
        self.end = Some(end);
        let job = self.job.id();
        if let Archive::Files(record) = &mut self.archive {
            // A record that stays is found again, and GitLab asked: the job is over there.
            self.unsaved = record.close(job, how).err().map(|error| error.to_string());
        }
    }

    fn save(&mut self) -> Result<(), FileError> {
        let saved = match &mut self.archive {
            Archive::Files(record) => record.save(&mut self.job),
            // What has no files is as safe as it will ever be.
            Archive::Memory | Archive::Value(_) => {
                self.job.saved(self.job.revision(), self.job.log_size());
                Ok(())
            }
        };
        self.unsaved = saved.as_ref().err().map(ToString::to_string);
        saved
    }

    /// Keeps no more than so much in memory that is not in the record. If the record cannot be written, the driver tries again.
    fn bound(&mut self) {
        if let (Archive::Files(record), None) = (&self.archive, &self.unsaved)
            && self.job.log_size().saturating_sub(record.log_size()) >= PRESSING
        {
            _ = self.save();
        }
    }

    /// Whether the record is still ours. If it is not, nothing more is said about the job here.
    fn confirm(&mut self) -> Result<(), ()> {
        let Archive::Files(record) = &mut self.archive else { return Ok(()) };
        let Err(held) = record.confirm() else { return Ok(()) };
        self.job.abandon();
        self.archive = Archive::Memory;
        self.end.get_or_insert(End::Elsewhere(Arc::new(held)));
        Err(())
    }

    /// All that is known of the job.
    fn value(&mut self) -> JobRecord {
        let record = JobRecord::of(&mut self.job);
        let (start, log) = record.log();
        if start == 0 {
            return record;
        }
        let Some(before) = self.archive.log(0..start) else { return record };
        let (server, assignment) = (record.server().clone(), record.assignment().clone());
        JobRecord::new(server, assignment, record.snapshot().clone(), 0, [before, log.clone()].concat().into())
    }

    /// Bytes of the log that are needed once more. If nobody has them, a mark takes their place.
    fn bring(&mut self, range: Range<u64>) {
        let start = range.start;
        let brought = self.archive.log(range).filter(|bytes| !bytes.is_empty());
        if brought.is_none_or(|bytes| self.job.supply_trace(start, bytes).is_err()) {
            _ = self.job.forfeit_trace();
        }
    }
}

impl Archive {
    /// A part of the log, if it is there.
    fn log(&mut self, range: Range<u64>) -> Option<bytes::Bytes> {
        match self {
            Self::Memory => None,
            Self::Files(record) => record.log(range).ok(),
            Self::Value(record) => {
                let (start, log) = record.log();
                let within = |at: u64| usize::try_from(at.checked_sub(start)?).ok();
                let (from, to) = (within(range.start)?, within(range.end)?.min(log.len()));
                (from <= to).then(|| log.slice(from..to))
            }
        }
    }
}

/// A panic elsewhere leaves nothing half-done under any of our locks, so that poison means nothing.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
