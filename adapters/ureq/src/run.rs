//! The loop of a runner that serves many jobs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use gitlab_runner_api::{Output, PollerEvent};

use crate::error::Error;
use crate::job::Job;
use crate::link::lock;
use crate::runner::Runner;

/// Tells [`Runner::run`] and [`Runner::next_job_until`] to take no more jobs. Clones are handles to the same; one can stop any number of runners.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    bell: Arc<Bell>,
}

#[derive(Debug, Default)]
pub(crate) struct Bell {
    state: Mutex<State>,
    rung: Condvar,
}

#[derive(Debug, Default)]
struct State {
    draining: bool,
    /// Counts what may concern a runner that waits: a drain, a slot given back.
    changes: u64,
}

impl Stop {
    /// A handle that stops nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes no more jobs. [`Runner::run`] returns when those it holds have ended. A request for a job that is on the wire
    /// is waited for, and its job run: GitLab hands a job out only once.
    pub fn drain(&self) {
        self.bell.change(|state| state.draining = true);
    }

    /// Sleeps so long, or until it is drained; not at all if no span is given.
    pub(crate) fn pause(&self, span: Option<Duration>) {
        let state = lock(&self.bell.state);
        let calm = |state: &mut State| !state.draining;
        let span = span.unwrap_or(Duration::ZERO);
        drop(self.bell.rung.wait_timeout_while(state, span, calm).unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether [`Stop::drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        lock(&self.bell.state).draining
    }
}

impl Bell {
    /// Says that something has changed.
    pub(crate) fn ring(&self) {
        self.change(|_| {});
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.state);
        change(&mut state);
        state.changes += 1;
        self.rung.notify_all();
    }

    /// Waits until something has changed since `seen`, or so long.
    fn wait(&self, seen: u64, span: Option<Duration>) {
        let state = lock(&self.state);
        let same = |state: &mut State| state.changes == seen;
        match span {
            Some(span) => drop(self.rung.wait_timeout_while(state, span, same).unwrap_or_else(PoisonError::into_inner)),
            None => drop(self.rung.wait_while(state, same).unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

/// A place for a job, given back when it is dropped, also by a handler that panicked.
struct Slot<'a> {
    busy: &'a AtomicU32,
    bell: &'a Bell,
}

impl<'a> Slot<'a> {
    fn hold(busy: &'a AtomicU32, bell: &'a Bell) -> Self {
        busy.fetch_add(1, Ordering::Relaxed);
        Self { busy, bell }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.bell.change(|_| _ = self.busy.fetch_sub(1, Ordering::Relaxed));
    }
}

impl Runner {
    /// Takes jobs and runs `handler` on each, on a thread of its own, at most `capacity` at a time, until `stop` drains it
    /// and GitLab has the result of the last job.
    ///
    /// A slot is held before a job is asked for, so that none is taken that there is no room for; jobs of this runner that were
    /// taken up outside of this loop fill slots as well. A handler gives its job a result; one that panics, or returns without,
    /// fails it with `runner_system_failure`. Whatever else the poller has to tell goes to `hear`: refusals, outages, lost
    /// answers. It goes on by itself after all of them.
    ///
    /// With a [state directory](Runner::with_state_dir), jobs that a process left there which died, and which were not taken up
    /// by [`Runner::recover`] before, are failed with `runner_system_failure` and a line that says so.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if there is no thread for a job, [`Error::File`] if there can be no record of it; that job is failed, and
    /// those running are waited for.
    /// [`Error::Patience`] if GitLab has not taken all results within the runner's patience after the last handler ended.
    pub fn run_with(
        &mut self,
        capacity: u32,
        handler: impl Fn(Job) + Sync,
        stop: &Stop,
        mut hear: impl FnMut(PollerEvent),
    ) -> Result<(), Error> {
        let link = self.link.apart();
        self.fail_left_behind(&link)?;
        let (bell, handler, busy) = (&*stop.bell, &handler, &AtomicU32::new(0));
        let mut poller = self.new_poller();
        let ran = self.link.ringing(&stop.bell, || {
            thread::scope(|scope| {
                loop {
                    let (draining, seen) = {
                        let state = lock(&bell.state);
                        (state.draining, state.changes)
                    };
                    let elsewhere = u32::try_from(self.link.driven()).unwrap_or(u32::MAX);
                    let held = busy.load(Ordering::Relaxed).saturating_add(elsewhere);
                    poller.set_capacity(capacity.saturating_sub(held));
                    if draining {
                        poller.drain();
                    }
                    match link.poll(&mut poller) {
                        Output::Send(call) => {
                            let reply = link.exchange(call);
                            _ = reply.hand_in(&mut poller, link.clock.now());
                        }
                        Output::Event(PollerEvent::Assigned(assignment)) => {
                            let job = match self.take_up(&assignment, &link) {
                                // GitLab handed it out again while another process has it.
                                Err(Error::Held { .. }) => continue,
                                job => job?,
                            };
                            let slot = Slot::hold(busy, bell);
                            let run = move || {
                                let _slot = slot;
                                // The panic was told of on its own thread, and the job's drop has failed the job.
                                _ = catch_unwind(AssertUnwindSafe(|| handler(job)));
                            };
                            thread::Builder::new().spawn_scoped(scope, run).map_err(Error::System)?;
                        }
                        Output::Event(PollerEvent::Unreadable(job)) => self.start(job, &link)?.forsake(),
                        Output::Event(event) => hear(event),
                        Output::Wait(until) => bell.wait(seen, until.map(|until| link.clock.until(until))),
                        Output::Done => return Ok(()),
                    }
                }
            })
        });
        // What a handler could not deliver in its patience is still being sent, for as long as this process lives.
        let delivered = link.wait_idle(self.patience);
        ran.and(if delivered { Ok(()) } else { Err(Error::Patience) })
    }

    /// [`Runner::run_with`], for those who need not hear of the poller's troubles.
    ///
    /// # Errors
    ///
    /// As [`Runner::run_with`].
    pub fn run(&mut self, capacity: u32, handler: impl Fn(Job) + Sync, stop: &Stop) -> Result<(), Error> {
        self.run_with(capacity, handler, stop, drop)
    }
}
