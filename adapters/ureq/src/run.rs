//! The loop of a runner that serves many jobs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use gitlab_runner_api::{Output, PollerEvent};

use crate::driver::lock;
use crate::error::Error;
use crate::job::Job;
use crate::runner::Runner;

/// Tells a running [`Runner::run`] to take no more jobs. Clones are handles to the same.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    bell: Arc<Bell>,
}

#[derive(Debug, Default)]
struct Bell {
    state: Mutex<State>,
    rung: Condvar,
}

#[derive(Debug, Default)]
struct State {
    draining: bool,
    busy: u32,
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
        lock(&self.bell.state).draining = true;
        self.bell.rung.notify_all();
    }

    /// Whether [`Stop::drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        lock(&self.bell.state).draining
    }
}

impl Bell {
    fn add_busy(&self) {
        lock(&self.state).busy += 1;
    }

    fn remove_busy(&self) {
        lock(&self.state).busy -= 1;
        self.rung.notify_all();
    }

    /// Waits until something changes, or so long.
    fn wait(&self, seen: (bool, u32), span: Option<Duration>) {
        let state = lock(&self.state);
        let same = |state: &mut State| (state.draining, state.busy) == seen;
        match span {
            Some(span) => drop(self.rung.wait_timeout_while(state, span, same).unwrap_or_else(PoisonError::into_inner)),
            None => drop(self.rung.wait_while(state, same).unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

/// Gives a slot back, also when its handler panicked.
struct Slot<'a>(&'a Bell);

impl<'a> Slot<'a> {
    fn hold(bell: &'a Bell) -> Self {
        bell.add_busy();
        Self(bell)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.remove_busy();
    }
}

impl Runner {
    /// Takes jobs and runs `handler` on each, on a thread of its own, at most `capacity` at a time, until `stop` drains it
    /// and the last job has ended.
    ///
    /// A slot is held before a job is asked for, so that none is taken that there is no room for. A handler gives its job
    /// a result; one that panics, or returns without, fails it with `runner_system_failure`. Whatever else the poller has
    /// to tell goes to `hear`: refusals, outages, lost answers. It goes on by itself after all of them.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if there is no thread for a job; that job is failed, and those running are waited for.
    pub fn run_with(
        &mut self,
        capacity: u32,
        handler: impl Fn(Job) + Sync,
        stop: &Stop,
        mut hear: impl FnMut(PollerEvent),
    ) -> Result<(), Error> {
        let (bell, handler) = (&*stop.bell, &handler);
        let mut poller = self.new_poller();
        thread::scope(|scope| {
            loop {
                let (draining, busy) = {
                    let state = lock(&bell.state);
                    (state.draining, state.busy)
                };
                poller.set_capacity(capacity.saturating_sub(busy));
                if draining {
                    poller.drain();
                }
                match self.link.poll(&mut poller) {
                    Output::Send(call) => {
                        let reply = self.link.exchange(call);
                        _ = reply.hand_in(&mut poller, self.link.clock.now());
                    }
                    Output::Event(PollerEvent::Assigned(assignment)) => {
                        let job = gitlab_runner_api::Job::new(self.config.clone(), &assignment, self.link.clock.now());
                        let (job, slot) = (Job::start(job, &self.link, self.patience)?, Slot::hold(bell));
                        let run = move || {
                            let _slot = slot;
                            // The panic was told of on its own thread, and the job's drop has failed the job.
                            _ = catch_unwind(AssertUnwindSafe(|| handler(job)));
                        };
                        thread::Builder::new().spawn_scoped(scope, run).map_err(Error::System)?;
                    }
                    Output::Event(PollerEvent::Unreadable(job)) => {
                        Job::start(job, &self.link, self.patience)?.forsake()
                    }
                    Output::Event(event) => hear(event),
                    Output::Wait(until) => bell.wait((draining, busy), until.map(|until| self.link.clock.until(until))),
                    Output::Done => return Ok(()),
                }
            }
        })
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
