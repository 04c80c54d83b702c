//! The driver: one thread for each job, which polls the job's state machine, performs its calls, and sleeps in between.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use gitlab_runner_api::{
    AbortReason, Cancellation, Job, JobEvent, JobRecord, JobResult, Masked, Outcome, Output, RunnerConfig, Secret,
    Stream, Timestamp, Written,
};
use gitlab_runner_api_common::{FileError, READ_FOR, Spool, short_secrets_warning};

use crate::clock::Clock;
use crate::error::{Error, elsewhere};
use crate::link::Link;
use crate::lock;
use crate::record::{REFRESH, Record};

/// A job that its driver, its handle and its log writers share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    clock: Clock,
    /// Wakes the driver, because it has something to do.
    wake_driver: Condvar,
    /// Wakes everybody else, because something has changed.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    job: Job,
    end: Option<End>,
    archive: Archive,
    /// Why saving the record failed the last time. `None` if it worked.
    unsaved: Option<String>,
    /// Since when a needed part of the log cannot be read.
    unread: Option<Timestamp>,
}

/// Where the part of the log is that the state machine does not keep.
#[derive(Debug)]
pub(crate) enum Archive {
    /// A temporary file, for as long as the process lives.
    Spool(Box<Spool>),
    /// The files of a record, which are written before anything is sent.
    Files(Box<Record>),
}

/// How the job ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Finished(Outcome),
    Aborted(AbortReason),
    /// Another process has taken over its record, and continues the job.
    Elsewhere(Arc<FileError>),
}

/// The answer to the question whether the job still belongs to this runner.
#[derive(Clone, Debug)]
pub(crate) enum Checked {
    Ours,
    /// It does not, or it already has its result.
    Ended(Option<End>),
    Unknown,
}

/// When this many bytes are not acknowledged, a write wakes the driver: a full piece is sent at once, without waiting for the interval.
/// It is the default of `RunnerConfig::with_patch_limit`.
const PRESSING: u64 = 1 << 20;

impl Shared {
    pub(crate) fn new(job: Job, archive: Archive, clock: Clock) -> Arc<Self> {
        let state = Mutex::new(State { job, end: None, archive, unsaved: None, unread: None });
        Arc::new(Self { state, clock, wake_driver: Condvar::new(), changed: Condvar::new() })
    }

    /// Starts a thread that drives the job to its end, also after its handle was dropped.
    pub(crate) fn start(self: &Arc<Self>, link: &Link) -> io::Result<()> {
        let name = format!("job {}", self.look(|job, _| job.id()));
        let (driven, its_link, drive) = (self.clone(), link.clone(), link.begin());
        let thread = thread::Builder::new().name(name).spawn(move || {
            let _drive = drive;
            driven.drive(&its_link);
        });
        thread.map(drop)
    }

    /// Drives the job to its end on this thread.
    pub(crate) fn drive(&self, link: &Link) {
        let mut state = lock(&self.state);
        loop {
            if state.renew_lease().is_err() {
                self.changed.notify_all();
            }
            match link.poll(&mut state.job) {
                Output::Send(call) => {
                    drop(state);
                    let reply = link.exchange(call);
                    state = lock(&self.state);
                    // An error would mean that the ticket is another state machine's. The call is this job's own.
                    _ = reply.hand_in(&mut state.job, link.clock.now());
                    self.changed.notify_all();
                }
                Output::Event(event) => self.handle_event(&mut state, event),
                Output::Wait(until) => {
                    let mut span = until.map(|until| link.clock.until(until));
                    if let Archive::Files(_) = state.archive {
                        // The lease must be renewed while the job waits.
                        span = Some(span.map_or(REFRESH, |span| span.min(REFRESH)));
                    }
                    state = self.sleep(state, span);
                }
                Output::Done => return,
            }
        }
    }

    fn handle_event(&self, state: &mut State, event: JobEvent) {
        match event {
            JobEvent::Finished(outcome) => state.end(&outcome.to_string(), End::Finished(outcome)),
            JobEvent::Aborted(reason) => state.end(&reason.to_string(), End::Aborted(reason)),
            JobEvent::TraceNeeded(range) => state.supply_from_archive(range, self.clock.now()),
            // If it fails, the job asks again.
            JobEvent::Save => _ = state.save(),
            JobEvent::ShortSecrets(count) => _ = state.job.write(short_secrets_warning(count)),
            _ => {}
        }
        self.changed.notify_all();
    }

    fn sleep<'a>(&self, state: MutexGuard<'a, State>, span: Option<Duration>) -> MutexGuard<'a, State> {
        match span {
            None => self.wake_driver.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(span) => self.wake_driver.wait_timeout(state, span).unwrap_or_else(PoisonError::into_inner).0,
        }
    }

    pub(crate) fn write(&self, stream: Stream, bytes: &[u8]) -> Written {
        let mut state = lock(&self.state);
        let before = state.job.backlog();
        // The clock is read only for lines that show the time.
        let written = if state.job.has_timestamps() {
            state.job.copy_at(stream, bytes, self.clock.now())
        } else {
            state.job.copy_to(stream, bytes)
        };
        state.enforce_backlog_limit();
        // If there was something to send already, the driver wakes by itself when that is due.
        if before == 0 || (before < PRESSING && state.job.backlog() >= PRESSING) {
            self.wake_driver.notify_all();
        }
        written
    }

    /// Writes anything else into the log, such as sections.
    pub(crate) fn log(&self, write: impl FnOnce(&mut Job, Timestamp) -> Written) -> Written {
        let mut state = lock(&self.state);
        let idle = state.job.backlog() == 0;
        let written = write(&mut state.job, self.clock.now());
        state.enforce_backlog_limit();
        // If there was something to send already, the driver wakes by itself when that is due.
        if idle || state.job.backlog() >= PRESSING {
            self.wake_driver.notify_all();
        }
        written
    }

    /// See [`crate::Job::mask`].
    pub(crate) fn mask(&self, secret: &Secret) -> Masked {
        let masked = lock(&self.state).job.mask(secret);
        self.wake_driver.notify_all();
        masked
    }

    /// Gives the job its result. Returns false if it already has one, or is over.
    pub(crate) fn finish(&self, result: JobResult) -> bool {
        let mut state = lock(&self.state);
        if state.job.is_ended() {
            return false;
        }
        state.job.finish(result);
        // Saved here and not by the driver: it may be waiting for an answer, and the process may be killed before that comes.
        if let Archive::Files(_) = state.archive {
            _ = state.save();
        }
        self.wake_driver.notify_all();
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

    /// Asks GitLab whether the job still belongs to this runner. Waits at most `span` for the answer.
    pub(crate) fn check_in(&self, span: Duration) -> Checked {
        {
            let mut state = lock(&self.state);
            state.job.check_in();
            self.wake_driver.notify_all();
        }
        let state = self.wait_for(span, |state| state.end.is_some() || !state.job.is_checking_in());
        match &state.end {
            None if state.job.is_checking_in() => Checked::Unknown,
            None if !state.job.is_ended() => Checked::Ours,
            end => Checked::Ended(end.clone()),
        }
    }

    /// The log, as far as the state machine or the archive keeps it.
    pub(crate) fn retained(&self) -> Result<Vec<bytes::Bytes>, FileError> {
        let state = &mut *lock(&self.state);
        let (start, mut kept) = state.job.retained();
        if let Some(before) = state.archive.log_before(start)? {
            kept.insert(0, before);
        }
        Ok(kept)
    }

    /// Whether the job has a record.
    pub(crate) fn has_record(&self) -> bool {
        matches!(lock(&self.state).archive, Archive::Files(_))
    }

    /// Whether the job has its record in this folder.
    pub(crate) fn is_in(&self, folder: &Path) -> bool {
        matches!(&lock(&self.state).archive, Archive::Files(record) if record.is_in(folder))
    }

    /// Makes a record in this folder. From now on the job sends only what the record contains.
    pub(crate) fn keep(&self, folder: &Path, config: &Arc<RunnerConfig>) -> Result<(), Error> {
        let state = &mut *lock(&self.state);
        state.ensure_active()?;
        if let Archive::Files(record) = &state.archive {
            let problem = format!("this job has its record in {}: leave it, and move that", record.folder().display());
            return Err(FileError::bad(folder, problem).into());
        }
        let value = state.value()?;
        // The job becomes durable by being resumed. An answer to a call in flight is refused by the new state machine, which sends it again.
        let job = value.resume(config.clone(), self.clock.now()).map_err(Error::BadRecord)?;
        let record = Record::create(folder, &value)?;
        (state.job, state.archive) = (job, Archive::Files(Box::new(record)));
        state.job.drop_payload_text();
        self.wake_driver.notify_all();
        Ok(())
    }

    /// Stops all calls about the job. It stays in its record, from which another process can resume it.
    pub(crate) fn leave(&self) -> Result<(), Error> {
        let state = &mut *lock(&self.state);
        match state.ensure_active() {
            Err(Error::AlreadyFinished) => return Ok(()),
            active => active?,
        }
        let Archive::Files(record) = &mut state.archive else { return Err(Error::NoRecord) };
        state.job.abandon();
        let saved = record.save(&mut state.job);
        state.archive = Archive::default();
        self.wake_driver.notify_all();
        Ok(saved?)
    }

    /// Stops all calls about the job, and returns it as one value, from which it can be resumed.
    pub(crate) fn take_value(&self) -> Result<JobRecord, Error> {
        let state = &mut *lock(&self.state);
        state.ensure_active()?;
        if let Archive::Spool(_) = state.archive {
            // The job has no record. If no value can be made of it, it continues here.
            let value = state.value()?;
            state.job.abandon();
            self.wake_driver.notify_all();
            return Ok(value);
        }
        state.job.abandon();
        self.wake_driver.notify_all();
        let Archive::Files(mut record) = std::mem::take(&mut state.archive) else { return Err(Error::NoRecord) };
        record.save(&mut state.job)?;
        Ok(record.into_value(state.job.snapshot())?)
    }

    /// Writes the record now.
    pub(crate) fn save(&self) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.ensure_active()?;
        Ok(state.save()?)
    }

    /// Why the job's record could not be written the last time, if it could not. Until it can, nothing new of the job is sent.
    pub(crate) fn save_error(&self) -> Option<String> {
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
                Some(left) => self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        state
    }
}

/// How urgently a job must stop. A job that another process has taken over counts as aborted here.
pub(crate) fn cancellation(job: &Job, end: Option<&End>) -> Cancellation {
    if matches!(end, Some(End::Elsewhere(_))) { Cancellation::Aborted } else { job.cancellation() }
}

impl State {
    /// Returns an error if the job has ended, or if another process continues it.
    fn ensure_active(&self) -> Result<(), Error> {
        match &self.end {
            None => Ok(()),
            Some(End::Elsewhere(held)) => Err(elsewhere(held)),
            Some(_) => Err(Error::AlreadyFinished),
        }
    }

    fn end(&mut self, how: &str, end: End) {
        self.end = Some(end);
        let job = self.job.id();
        if let Archive::Files(record) = &mut self.archive {
            // If the record cannot be closed, a later process finds it, asks GitLab, and learns that the job is over.
            self.unsaved = record.close(job, how).err().map(|error| error.to_string());
        }
    }

    fn save(&mut self) -> Result<(), FileError> {
        if self.end.is_some() {
            return Ok(());
        }
        let saved = match &mut self.archive {
            Archive::Files(record) => record.save(&mut self.job),
            // The job asks for this although it has no record, because a record could not be made. There is nothing to wait for.
            Archive::Spool(_) => {
                self.job.saved(self.job.revision(), self.job.log_size());
                Ok(())
            }
        };
        self.unsaved = saved.as_ref().err().map(ToString::to_string);
        saved
    }

    /// Moves log that is only in memory to the archive if it is much. If the record cannot be written, the driver tries again.
    fn enforce_backlog_limit(&mut self) {
        let unsaved = self.job.unsaved_backlog();
        match &mut self.archive {
            Archive::Spool(spool) if spool.is_worthwhile(unsaved) => {
                let (offset, chunks) = self.job.unsaved();
                // If that fails, the log stays in memory.
                if let Ok(end) = spool.append(offset, &chunks) {
                    self.job.saved(self.job.revision(), end);
                }
            }
            Archive::Files(_) if self.unsaved.is_none() && unsaved >= PRESSING => _ = self.save(),
            Archive::Spool(_) | Archive::Files(_) => {}
        }
    }

    /// Renews the lease of the record if that is due. If another process has it, all calls about the job stop here.
    fn renew_lease(&mut self) -> Result<(), ()> {
        let Archive::Files(record) = &mut self.archive else { return Ok(()) };
        let Err(held) = record.renew_lease() else { return Ok(()) };
        self.job.abandon();
        self.archive = Archive::default();
        self.end.get_or_insert(End::Elsewhere(Arc::new(held)));
        Err(())
    }

    /// The whole job as one value.
    fn value(&mut self) -> Result<JobRecord, Error> {
        let (start, _) = self.job.retained();
        let record = match self.archive.log_before(start)? {
            Some(before) => JobRecord::with_log_before(&mut self.job, self.archive.start(), &before),
            None => JobRecord::of(&mut self.job),
        };
        record.map_err(Error::BadRecord)
    }

    /// Gives the state machine the bytes of the log that it asked for. If the archive does not have them, a mark takes their place.
    fn supply_from_archive(&mut self, range: Range<u64>, now: Timestamp) {
        let start = range.start;
        let found = match self.archive.log(range) {
            Err(_) if now.saturating_since(*self.unread.get_or_insert(now)) < READ_FOR => {
                // Empty bytes make the job ask again after a pause.
                _ = self.job.supply_trace(start, bytes::Bytes::new());
                return;
            }
            found => found.ok().flatten().filter(|bytes| !bytes.is_empty()),
        };
        self.unread = None;
        if found.is_none_or(|bytes| self.job.supply_trace(start, bytes).is_err()) {
            _ = self.job.forfeit_trace();
        }
    }
}

impl Archive {
    /// The offset at which the part of the log begins that the archive has.
    fn start(&self) -> u64 {
        match self {
            Self::Spool(spool) => spool.start(),
            Self::Files(_) => 0,
        }
    }

    /// The log up to this offset, if all of it is there from its [start](Archive::start) on.
    fn log_before(&mut self, end: u64) -> Result<Option<bytes::Bytes>, FileError> {
        let range = self.start()..end;
        if range.is_empty() {
            return Ok(None);
        }
        let length = range.end - range.start;
        Ok(self.log(range)?.filter(|log| log.len() as u64 == length))
    }

    /// Reads a part of the log. Returns `None` if the archive does not have all of it.
    fn log(&mut self, range: Range<u64>) -> Result<Option<bytes::Bytes>, FileError> {
        match self {
            Self::Spool(spool) => spool
                .read(range)
                .map_err(|error| FileError::io(&std::env::temp_dir().join("(the log of a job)"), error)),
            Self::Files(record) => record.log(range).map(Some),
        }
    }
}

impl Default for Archive {
    fn default() -> Self {
        Self::Spool(Box::default())
    }
}

#[cfg(test)]
mod tests {
    use gitlab_runner_api::{Machine, Output};

    use gitlab_runner_api::{Call, CallKind};

    use super::*;
    use crate::job::kept;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    /// A job with a record, of whose log GitLab has nothing.
    fn job_that_needs_its_log(folder: &Path) -> State {
        let stored = include_str!("../../../tests/golden/job-record-1.json");
        drop(Record::create(folder, &JobRecord::from_json(stored).unwrap()).unwrap());
        let (record, loaded) = Record::open(folder).unwrap();
        let info = gitlab_runner_api::api::info::Info::new("test", "1");
        let config = kept(&RunnerConfig::new(loaded.server, info));
        let before = Timestamp::from_millis(NOW.as_millis() - 60_000);
        let mut job = Job::resume(config, &loaded.assignment, loaded.snapshot, before).unwrap();
        let asked = loop {
            match job.poll(NOW) {
                Output::Send(call) => answer(&mut job, call),
                Output::Event(JobEvent::TraceNeeded(range)) => break range,
                Output::Event(JobEvent::Save) => job.saved(job.revision(), job.log_size()),
                other => panic!("it asks first: {other:?}"),
            }
        };
        assert_eq!(asked, 0..14);
        State { job, end: None, archive: Archive::Files(Box::new(record)), unsaved: None, unread: None }
    }

    /// Takes a keep-alive, and says of the log that nothing of it is there.
    fn answer(job: &mut Job, call: Call) {
        let status = if call.hints().kind == CallKind::UpdateJob { 200 } else { 416 };
        let answer = http::Response::builder().status(status).header("range", "0-0").body(()).unwrap();
        job.handle_response(call.split().1, answer, NOW).unwrap();
    }

    fn record(state: &mut State) -> &mut Record {
        let Archive::Files(record) = &mut state.archive else { panic!("it has files") };
        record
    }

    fn sent(state: &mut State) -> bytes::Bytes {
        for _ in 0..10 {
            match state.job.poll(NOW) {
                Output::Send(call) if call.hints().kind == CallKind::UpdateJob => answer(&mut state.job, call),
                Output::Send(call) => return call.split().0.into_body().into_bytes(),
                Output::Event(JobEvent::Save) => state.save().unwrap(),
                Output::Event(_) => {}
                other => panic!("nothing is sent: {other:?}"),
            }
        }
        panic!("nothing is sent");
    }

    #[test]
    fn a_log_that_cannot_be_read_for_a_while_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = job_that_needs_its_log(folder.path());
        record(&mut state).fail_reads();
        state.supply_from_archive(0..14, NOW);
        state.supply_from_archive(0..14, NOW.saturating_add(READ_FOR / 2));
        assert_eq!(state.job.trace_needed(), Some(0..14));
        record(&mut state).allow_reads();
        state.supply_from_archive(0..14, NOW.saturating_add(READ_FOR / 2));
        state.supply_from_archive(0..14, NOW.saturating_add(READ_FOR * 2));
        assert_eq!((sent(&mut state).as_ref(), state.unread), (&b"one, [MASKED]\n"[..], None));
    }

    #[test]
    fn a_log_that_cannot_be_read_for_too_long_has_a_hole() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = job_that_needs_its_log(folder.path());
        record(&mut state).fail_reads();
        state.supply_from_archive(0..14, NOW);
        state.supply_from_archive(0..14, NOW.saturating_add(READ_FOR));
        assert_eq!(state.job.trace_needed(), None);
        assert!(!state.job.is_ended());
    }
}
