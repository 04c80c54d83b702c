//! The loop of a runner that serves many jobs.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::FutureExt;
use gitlab_runner_api::PollerEvent;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use crate::driver_state::{DriverShared, JobWaiter};
use crate::error::Error;
use crate::job::Job;
use crate::runner::Runner;

/// How many handlers run.
#[derive(Debug, Default)]
struct Busy {
    count: AtomicU32,
    fewer: Notify,
}

/// A place for a job, given back when it is dropped, also by a handler that panicked.
struct Slot(Arc<Busy>);

impl Slot {
    fn hold(busy: &Arc<Busy>) -> Self {
        busy.count.fetch_add(1, Ordering::Relaxed);
        Self(busy.clone())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
        self.0.fewer.notify_one();
    }
}

/// While it exists, the events of the poller are sent to its channel.
struct Listener<'a>(&'a DriverShared);

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        self.0.update(|state| state.listener = None);
    }
}

impl Runner {
    /// Takes jobs and runs `handler` on each, in a task of its own, at most `capacity` at a time, until `shutdown` is ready
    /// and GitLab has the result of the last job.
    ///
    /// A job is requested only while a slot is free. A handler gives its job a result. If it panics or returns without one, the job is
    /// failed with `runner_system_failure`. The other events of the poller, such as refusals, outages and lost answers, go to `hear`. The
    /// loop continues by itself after each of them.
    ///
    /// If a job request is in flight when `shutdown` is ready, this waits for its answer and runs its job, because GitLab assigns a job only
    /// once. If the future is dropped, the handlers are dropped with it, and their jobs are failed.
    ///
    /// # Errors
    ///
    /// [`Error::Patience`] if GitLab has not taken all results within the runner's patience after the last handler ended.
    pub async fn run_with<F, R>(
        &mut self,
        capacity: u32,
        handler: F,
        shutdown: impl Future<Output = ()>,
        mut hear: impl FnMut(PollerEvent),
    ) -> Result<(), Error>
    where
        F: Fn(Job) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send,
    {
        self.start()?;
        let (driver, busy, mut tasks) = (&*self.driver.0, Arc::<Busy>::default(), JoinSet::new());
        let (sender, mut events) = mpsc::unbounded_channel();
        driver.update(|state| state.listener = Some(sender));
        let _listener = Listener(driver);
        let (mut shutdown, handler) = (pin!(shutdown), Arc::new(handler));
        let serve = |job: Job, tasks: &mut JoinSet<()>| {
            let (shared, slot, handler) = (job.shared(), Slot::hold(&busy), handler.clone());
            tasks.spawn(async move {
                let handled = AssertUnwindSafe(async move {
                    let _slot = slot;
                    handler(job).await;
                });
                // The panic was told of by the process's hook, and the job's drop has failed the job.
                _ = handled.catch_unwind().await;
                shared.ended().await;
            });
        };
        let mut draining = false;
        loop {
            let room = busy.count.load(Ordering::Relaxed) < capacity;
            tokio::select! {
                () = shutdown.as_mut(), if !draining => draining = true,
                job = next(driver, draining), if room => match job {
                    Some(job) => serve(job, &mut tasks),
                    None => break,
                },
                () = busy.fewer.notified(), if !room => {}
                Some(event) = events.recv() => hear(event),
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            }
        }
        while busy.count.load(Ordering::Relaxed) > 0 {
            busy.fewer.notified().await;
        }
        // What a handler could not deliver in its patience is still being sent, for as long as the runtime lives.
        let all = async { while tasks.join_next().await.is_some() {} };
        let delivered = tokio::time::timeout(self.patience, all).await.map_err(|_| Error::Patience);
        while let Ok(event) = events.try_recv() {
            hear(event);
        }
        delivered
    }

    /// [`Runner::run_with`], for those who need not hear of the poller's troubles.
    ///
    /// # Errors
    ///
    /// As [`Runner::run_with`].
    pub async fn run<F, R>(
        &mut self,
        capacity: u32,
        handler: F,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), Error>
    where
        F: Fn(Job) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send,
    {
        self.run_with(capacity, handler, shutdown, drop).await
    }
}

/// The next job; when `draining`, none is asked for any more, and there is none once no request is on the wire.
async fn next(driver: &DriverShared, draining: bool) -> Option<Job> {
    if !draining {
        let waiter = JobWaiter::make(driver);
        return Some(driver.until(|state| waiter.take(state)).await);
    }
    driver
        .until(|state| match state.arrived.pop_front() {
            None if state.request_in_flight => None,
            job => Some(job),
        })
        .await
}
