//! The state that the driver of a runner shares with the callers of the runner, and how they wake each other.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};

use gitlab_runner_api::{PollerEvent, Refusal};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::error::Error;
use crate::job::Job;
use crate::lock;

/// Shared by the driver, the runner, its callers and its jobs. The lock of the state is never held across an `await`.
#[derive(Debug, Default)]
pub(crate) struct DriverShared {
    pub(crate) state: Mutex<DriverState>,
    /// Wakes the driver, because it has something to do.
    pub(crate) wake_driver: Notify,
    /// Wakes everybody else, because something in the state has changed.
    pub(crate) changed: Notify,
}

/// The result of [`crate::Runner::request_job`].
pub(crate) type RequestResult = Result<Option<Job>, Error>;

#[derive(Debug, Default)]
pub(crate) struct DriverState {
    /// Whether the driver was started. There is at most one.
    pub(crate) started: bool,
    /// How many callers wait for a job.
    pub(crate) wanted: u32,
    /// Jobs that GitLab has assigned and that no caller has taken yet.
    pub(crate) arrived: VecDeque<Job>,
    /// Calls of [`crate::Runner::request_job`] that the driver has not begun. Each makes one request.
    pub(crate) requests: Vec<oneshot::Sender<RequestResult>>,
    /// The keys of jobs that the driver must poll.
    pub(crate) ready: BTreeSet<u64>,
    /// How often the token was refused so many times in a row that callers get an error, and the last of these refusals.
    pub(crate) refused: (u64, Option<Refusal>),
    /// Receives the other events of the poller.
    pub(crate) listener: Option<mpsc::UnboundedSender<PollerEvent>>,
    /// Whether a job request of the poller is in flight.
    pub(crate) request_in_flight: bool,
    /// How many jobs the driver has that are not delivered.
    pub(crate) driven: usize,
    /// The runner was dropped: no job is asked for any more.
    pub(crate) closing: bool,
}

impl DriverShared {
    /// Changes the state, and wakes the driver.
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut DriverState) -> R) -> R {
        let result = change(&mut lock(&self.state));
        self.wake_driver.notify_one();
        result
    }

    /// Returns the waker by which the job with this key is polled.
    pub(crate) fn waker(self: &Arc<Self>, key: u64) -> Waker {
        Waker::from(Arc::new(JobWaker { driver: self.clone(), key }))
    }

    /// Waits until `look` finds what it looks for in the state.
    pub(crate) async fn until<R>(&self, mut look: impl FnMut(&mut DriverState) -> Option<R>) -> R {
        loop {
            // Registered before `look` is called, so that no change in between is missed.
            let changed = self.changed.notified();
            let found = look(&mut lock(&self.state));
            match found {
                Some(found) => return found,
                None => changed.await,
            }
        }
    }
}

/// Marks a job as ready, and wakes the driver.
struct JobWaker {
    driver: Arc<DriverShared>,
    key: u64,
}

impl Wake for JobWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.driver.update(|state| _ = state.ready.insert(self.key));
    }
}

/// A caller that waits for one job. Dropping it lets the driver ask for one job less.
pub(crate) struct JobWaiter<'a> {
    driver: &'a DriverShared,
    open: AtomicBool,
}

impl<'a> JobWaiter<'a> {
    pub(crate) fn make(driver: &'a DriverShared) -> Self {
        driver.update(|state| state.wanted = state.wanted.saturating_add(1));
        Self { driver, open: AtomicBool::new(true) }
    }

    /// Takes a job that has arrived. Both happen under one lock: the job is taken and this caller no longer counts. Otherwise the driver
    /// could ask for another job in between.
    pub(crate) fn take(&self, state: &mut DriverState) -> Option<Job> {
        let job = state.arrived.pop_front()?;
        self.withdraw(state);
        Some(job)
    }

    fn withdraw(&self, state: &mut DriverState) {
        if self.open.swap(false, Ordering::Relaxed) {
            state.wanted = state.wanted.saturating_sub(1);
        }
    }
}

impl Drop for JobWaiter<'_> {
    fn drop(&mut self) {
        self.driver.update(|state| self.withdraw(state));
    }
}

/// A call of [`crate::Runner::request_job`] that waits for its result. If it is dropped after a job has arrived for it, the next caller
/// gets that job.
pub(crate) struct PendingRequest {
    driver: Arc<DriverShared>,
    answer: oneshot::Receiver<RequestResult>,
}

impl PendingRequest {
    pub(crate) fn make(driver: &Arc<DriverShared>) -> Self {
        let (sender, answer) = oneshot::channel();
        driver.update(|state| state.requests.push(sender));
        Self { driver: driver.clone(), answer }
    }

    pub(crate) async fn answer(mut self) -> RequestResult {
        let gone = || Err(Error::System(std::io::Error::other("the tokio runtime is shutting down")));
        (&mut self.answer).await.unwrap_or_else(|_| gone())
    }
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        self.answer.close();
        if let Ok(Ok(Some(job))) = self.answer.try_recv() {
            self.driver.update(|state| state.arrived.push_back(job));
            self.driver.changed.notify_waiters();
        }
    }
}

/// Held by the runner. When it is dropped, the driver asks for no more jobs, and jobs that no caller has taken are failed.
#[derive(Debug, Default)]
pub(crate) struct DriverHandle(pub(crate) Arc<DriverShared>);

impl Drop for DriverHandle {
    fn drop(&mut self) {
        let left = self.0.update(|state| {
            state.closing = true;
            std::mem::take(&mut state.arrived)
        });
        // Dropping a job fails it. That takes the lock, so it must happen outside of `update`.
        drop(left);
    }
}
