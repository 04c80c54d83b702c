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

/// The driver is woken when this many bytes are not sent: it need not wait for the next piece to be due.
const PRESSING: u64 = 1 << 20;

/// Beyond this many bytes that are not sent, writers that can wait do.
pub(crate) const FULL: u64 = 4 << 20;

#[derive(Debug)]
pub(crate) struct Shared {
    /// Tells the driver that this job has something to do.
    driver: Waker,
    clock: Clock,
    state: Mutex<State>,
    news: Notify,
}

#[derive(Debug)]
struct State {
    job: Job,
    end: Option<End>,
    /// Where the log is that the job does not keep.
    log_file: LogFile,
    /// Writers that wait for room.
    writers: Vec<Waker>,
}

/// How it ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Finished(Outcome),
    Aborted(AbortReason),
}

impl Shared {
    pub(crate) fn new(job: Job, driver: Waker, clock: Clock) -> Arc<Self> {
        let state = Mutex::new(State { job, end: None, log_file: LogFile::default(), writers: Vec::new() });
        Arc::new(Self { driver, clock, state, news: Notify::new() })
    }

    /// For the driver: what the job wants next, its events obeyed.
    pub(crate) fn poll(&self, link: &Link) -> Output<Infallible> {
        let mut state = lock(&self.state);
        loop {
            let output = match link.poll(&mut state.job) {
                Output::Send(call) => Output::Send(call),
                Output::Event(event) => {
                    self.obey(&mut state, event);
                    continue;
                }
                Output::Wait(until) => Output::Wait(until),
                Output::Done => Output::Done,
            };
            make_room(state);
            return output;
        }
    }

    /// For the driver: lets a thread that may block do what is to be done with the temporary file of the log.
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
        // No misuse but a stale ticket is possible: the call is this job's own, and answered once.
        _ = reply.hand_in(&mut lock(&self.state).job, link.clock.now());
    }

    fn obey(&self, state: &mut State, event: JobEvent) {
        match event {
            JobEvent::Finished(outcome) => state.end = Some(End::Finished(outcome)),
            JobEvent::Aborted(reason) => state.end = Some(End::Aborted(reason)),
            JobEvent::TraceNeeded(range) => state.log_file.need(range),
            JobEvent::ShortSecrets(count) => _ = state.job.write(short_secrets_warning(count)),
            _ => {}
        }
        self.news.notify_waiters();
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

    /// A write is the one thing that happens often: the clock is read only for lines that show the time, and the driver is woken only
    /// if it may have nothing else to wait for. If there was something to send already, it sleeps no longer than until that is due.
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

    /// Hides a value from now on.
    pub(crate) fn mask(&self, secret: &Secret) -> Masked {
        let masked = lock(&self.state).job.mask(secret);
        self.driver.wake_by_ref();
        masked
    }

    /// Whatever else goes into the log.
    pub(crate) fn log(&self, write: impl FnOnce(&mut Job, Timestamp) -> Written) -> Written {
        let (written, wake) = {
            let mut state = lock(&self.state);
            let idle = state.job.backlog() == 0;
            let written = write(&mut state.job, self.clock.now());
            // If there was something to send already, the driver sleeps no longer than until that is due.
            (written, idle || state.job.backlog() >= PRESSING)
        };
        if wake {
            self.driver.wake_by_ref();
        }
        written
    }

    /// Waits while too much is not sent yet; an ended job has room for what it will not take.
    pub(crate) fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        lock(&self.state).poll_room(context)
    }

    /// Gives the job its result; false if it has one, or is over.
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
            // Made before the look: what changes in between is not missed.
            let news = self.news.notified();
            let found = look(&lock(&self.state));
            match found {
                Some(found) => return found,
                None => news.await,
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
