//! One thread for each held job: it polls the machine, performs its calls, and sleeps in between.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use gitlab_runner_api::log::ansi;
use gitlab_runner_api::{
    AbortReason, Call, Cancellation, Failure, FailureReason, Job, JobEvent, JobRecord, JobResult, JobSnapshot, Machine,
    Misuse, Outcome, Output, Secret, Stream, Throttle, Timestamp, Written,
};
use gitlab_runner_api_files::{FileError, short_secrets_warning};

use crate::clock::Clock;
use crate::record::Record;
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
    Text(Box<JobRecord>),
    /// Files, which are written before anything is sent.
    Files(Box<Record>),
}

/// How it ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Finished(Outcome),
    Aborted(AbortReason),
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
                Output::Wait(until) => {
                    if let Archive::Files(record) = &mut state.archive {
                        record.refresh();
                    }
                    state = self.sleep(state, until.map(|until| link.clock.until(until)));
                }
                Output::Done => return,
            }
        }
    }

    fn obey(&self, state: &mut State, event: JobEvent) {
        match event {
            JobEvent::Finished(outcome) => state.end(&outcome.to_string(), End::Finished(outcome)),
            JobEvent::Aborted(reason) => state.end(&reason.to_string(), End::Aborted(reason)),
            JobEvent::TraceNeeded(range) => state.bring(range),
            JobEvent::Save => state.save(),
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

    /// Whether the job has a record in files.
    pub(crate) fn has_files(&self) -> bool {
        matches!(lock(&self.state).archive, Archive::Files(_))
    }

    /// Stops talking about the job, which is somebody else's from now on, and gives all that is known of it.
    pub(crate) fn leave(&self) -> Result<Left, FileError> {
        let mut state = lock(&self.state);
        state.job.abandon();
        self.work.notify_all();
        match std::mem::replace(&mut state.archive, Archive::Memory) {
            Archive::Files(mut record) => {
                record.save(&mut state.job)?;
                Ok(Left::Files(record, Box::new(state.job.snapshot())))
            }
            mut archive => {
                let record = JobRecord::of(&mut state.job);
                let (start, log) = record.log();
                let whole = archive.log(0..start).map(|before| bytes::Bytes::from([before, log.clone()].concat()));
                let (start, log) = whole.map_or((start, log.clone()), |log| (0, log));
                let (server, assignment) = (record.server().clone(), record.assignment().clone());
                let record = JobRecord::new(server, assignment, record.snapshot().clone(), start, log);
                Ok(Left::Value(Box::new(record)))
            }
        }
    }

    /// Why the job's record could not be written the last time, if so. Nothing of it is sent meanwhile.
    pub(crate) fn unsaved(&self) -> Option<String> {
        lock(&self.state).unsaved.clone()
    }

    /// Waits until the job is to stop, or has ended, or `span` has passed.
    pub(crate) fn wait_cancelled(&self, span: Duration) -> Cancellation {
        let stops = |state: &State| state.job.cancellation() != Cancellation::None || state.end.is_some();
        self.wait_for(span, stops).job.cancellation()
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

    fn save(&mut self) {
        if let Archive::Files(record) = &mut self.archive {
            // The job asks again.
            self.unsaved = record.save(&mut self.job).err().map(|error| error.to_string());
        }
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
            Self::Text(record) => {
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
