//! A job that the driver, its handle and its log writers share.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use gitlab_runner_api::{
    AbortReason, Cancellation, Job, JobEvent, JobResult, Masked, Outcome, Output, Secret, Stream, Timestamp, Written,
};
use gitlab_runner_api_common::short_secrets_warning;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::link::{Link, Reply};
use crate::lock;
use crate::spool::LogFile;

/// When this many bytes are not acknowledged, a write wakes the driver: a full piece is sent at once, without waiting for the interval.
/// It is the default of `RunnerConfig::with_patch_limit`.
const PRESSING: u64 = 1 << 20;

/// When this many bytes are not acknowledged, writers that can wait do so. Less than the 6 MiB that the core keeps in memory, so that
/// what they wrote is not read back from the file only to be sent.
pub(crate) const FULL: u64 = 4 << 20;

#[derive(Debug)]
pub(crate) struct Shared {
    /// Makes the driver poll this job.
    driver: Waker,
    clock: Clock,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    job: Job,
    end: Option<End>,
    /// The part of the log that the state machine does not keep.
    log_file: LogFile,
    /// Writers that wait until fewer than [`FULL`] bytes are not acknowledged.
    writers: Vec<Waker>,
}

/// How the job ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Finished(Outcome),
    Aborted(AbortReason),
}

impl Shared {
    pub(crate) fn new(job: Job, driver: Waker, clock: Clock) -> Arc<Self> {
        let state = Mutex::new(State { job, end: None, log_file: LogFile::default(), writers: Vec::new() });
        Arc::new(Self { driver, clock, state, changed: Notify::new() })
    }

    /// Called by the driver. Handles the events of the job, and returns its next output that is none.
    pub(crate) fn poll(&self, link: &Link) -> Output<Infallible> {
        let mut state = lock(&self.state);
        loop {
            let output = match link.poll(&mut state.job) {
                Output::Send(call) => Output::Send(call),
                Output::Event(event) => {
                    self.handle_event(&mut state, event);
                    continue;
                }
                Output::Wait(until) => Output::Wait(until),
                Output::Done => Output::Done,
            };
            make_room(state);
            return output;
        }
    }

    /// Called by the driver. Reads or writes the temporary file of the log, if that is needed, on a thread that may block.
    pub(crate) fn use_log_file(self: &Arc<Self>) {
        let work = {
            let State { job, log_file, .. } = &mut *lock(&self.state);
            log_file.next_work(job)
        };
        let Some((mut spool, work)) = work else { return };
        let shared = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let done = work.perform(&mut spool);
            let State { job, log_file, .. } = &mut *lock(&shared.state);
            log_file.done(spool, done, job, shared.clock.now());
            shared.driver.wake_by_ref();
        });
    }

    pub(crate) fn hand_in(&self, reply: Reply, link: &Link) {
        // An error would mean that the ticket is another state machine's. The call is this job's own.
        _ = reply.hand_in(&mut lock(&self.state).job, link.clock.now());
    }

    fn handle_event(&self, state: &mut State, event: JobEvent) {
        match event {
            JobEvent::Finished(outcome) => state.end = Some(End::Finished(outcome)),
            JobEvent::Aborted(reason) => state.end = Some(End::Aborted(reason)),
            JobEvent::TraceNeeded(range) => state.log_file.need(range),
            JobEvent::ShortSecrets(count) => _ = state.job.write(short_secrets_warning(count)),
            _ => {}
        }
        self.changed.notify_waiters();
    }

    /// Appends a buffer without a copy if it is large. Never waits.
    pub(crate) fn write(&self, stream: Stream, bytes: Bytes) -> Written {
        self.append(lock(&self.state), |job, now| match now {
            Some(now) => job.write_at(stream, bytes, now),
            None => job.write_to(stream, bytes),
        })
    }

    /// Appends bytes by copying them. Never waits.
    pub(crate) fn copy(&self, stream: Stream, bytes: &[u8]) -> Written {
        self.append(lock(&self.state), copying(stream, bytes))
    }

    /// Appends bytes by copying them when there is room.
    pub(crate) fn poll_copy(&self, stream: Stream, bytes: &[u8], context: &mut Context<'_>) -> Poll<Written> {
        let mut state = lock(&self.state);
        if state.poll_room(context).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(self.append(state, copying(stream, bytes)))
    }

    /// Writes happen often, so this does little. It reads the clock only if lines show the time. It wakes the driver only if there was
    /// nothing to send before, or if so much waits that it should act at once. Otherwise the driver wakes by itself when the next piece
    /// is due.
    fn append(
        &self,
        mut state: MutexGuard<'_, State>,
        write: impl FnOnce(&mut Job, Option<Timestamp>) -> Written,
    ) -> Written {
        let State { job, log_file, .. } = &mut *state;
        let (before, kept_before) = (job.backlog(), job.unsaved_backlog());
        let now = job.has_timestamps().then(|| self.clock.now());
        let written = write(job, now);
        let presses = before < PRESSING && job.backlog() >= PRESSING;
        let moves = !log_file.is_worthwhile(kept_before) && log_file.is_worthwhile(job.unsaved_backlog());
        drop(state);
        if before == 0 || presses || moves {
            self.driver.wake_by_ref();
        }
        written
    }

    /// See [`crate::Job::mask`].
    pub(crate) fn mask(&self, secret: &Secret) -> Masked {
        let masked = lock(&self.state).job.mask(secret);
        self.driver.wake_by_ref();
        masked
    }

    /// Writes anything else into the log, such as sections.
    pub(crate) fn log(&self, write: impl FnOnce(&mut Job, Timestamp) -> Written) -> Written {
        let (written, wake) = {
            let mut state = lock(&self.state);
            let idle = state.job.backlog() == 0;
            let written = write(&mut state.job, self.clock.now());
            // If there was something to send already, the driver wakes by itself when that is due.
            (written, idle || state.job.backlog() >= PRESSING)
        };
        if wake {
            self.driver.wake_by_ref();
        }
        written
    }

    /// Waits while [`FULL`] bytes or more are not acknowledged. Never waits for a job that has ended: the write then fails at once.
    pub(crate) fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        lock(&self.state).poll_room(context)
    }

    /// Gives the job its result. Returns false if it already has one, or is over.
    pub(crate) fn finish(&self, result: JobResult) -> bool {
        {
            let mut state = lock(&self.state);
            if state.job.is_ended() {
                return false;
            }
            state.job.finish(result);
            make_room(state);
        }
        self.driver.wake_by_ref();
        true
    }

    pub(crate) fn look<R>(&self, at: impl FnOnce(&Job, Option<&End>) -> R) -> R {
        let state = lock(&self.state);
        at(&state.job, state.end.as_ref())
    }

    /// Waits until the job has ended at GitLab.
    pub(crate) async fn ended(&self) -> End {
        self.until(|state| state.end.clone()).await
    }

    /// Waits until the job is to stop, or has ended.
    pub(crate) async fn cancelled(&self) -> Cancellation {
        let level = |state: &State| {
            let level = state.job.cancellation();
            (level != Cancellation::None || state.end.is_some()).then_some(level)
        };
        self.until(level).await
    }

    async fn until<R>(&self, look: impl Fn(&State) -> Option<R>) -> R {
        loop {
            // Registered before `look` is called, so that no change in between is missed.
            let changed = self.changed.notified();
            let found = look(&lock(&self.state));
            match found {
                Some(found) => return found,
                None => changed.await,
            }
        }
    }
}

impl State {
    #[inline]
    fn has_room(&self) -> bool {
        self.job.is_ended() || self.job.backlog() < FULL
    }

    #[inline]
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.has_room() {
            return Poll::Ready(());
        }
        if !self.writers.iter().any(|writer| writer.will_wake(context.waker())) {
            self.writers.push(context.waker().clone());
        }
        Poll::Pending
    }
}

fn copying(stream: Stream, bytes: &[u8]) -> impl FnOnce(&mut Job, Option<Timestamp>) -> Written {
    move |job, now| match now {
        Some(now) => job.copy_at(stream, bytes, now),
        None => job.copy_to(stream, bytes),
    }
}

fn make_room(mut state: MutexGuard<'_, State>) {
    if state.has_room() && !state.writers.is_empty() {
        let writers = std::mem::take(&mut state.writers);
        drop(state);
        writers.into_iter().for_each(Waker::wake);
    }
}
