//! What the driver of a runner shares with those who wait for it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};

use gitlab_runner_api::{PollerEvent, Refusal};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::error::Error;
use crate::job::Job;
use crate::lock;

/// Where the driver and everybody else meet. Its lock is held for moments, and never across an await.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    pub(crate) desk: Mutex<Desk>,
    /// For the driver: there is something to do.
    pub(crate) bell: Notify,
    /// For everybody else: something on the desk has changed.
    pub(crate) news: Notify,
}

/// An answer to [`crate::Runner::request_job`].
pub(crate) type Asked = Result<Option<Job>, Error>;

#[derive(Debug, Default)]
pub(crate) struct Desk {
    /// A driver was started.
    pub(crate) started: bool,
    /// How many callers wait for a job.
    pub(crate) wanted: u32,
    /// Jobs that came, and that nobody has taken yet.
    pub(crate) arrived: VecDeque<Job>,
    /// Requests to ask once.
    pub(crate) asks: Vec<oneshot::Sender<Asked>>,
    /// Jobs with something to do.
    pub(crate) ready: BTreeSet<u64>,
    /// The token was refused so often that callers are told; the number of such times, and the last one.
    pub(crate) refused: (u64, Option<Refusal>),
    /// Who hears what else the poller tells.
    pub(crate) listener: Option<mpsc::UnboundedSender<PollerEvent>>,
    /// A job request is on the wire.
    pub(crate) asking: bool,
    /// How many jobs are driven.
    pub(crate) driven: usize,
    /// The runner is gone: nothing new is taken.
    pub(crate) closing: bool,
}

impl Hub {
    /// Changes something that concerns the driver.
    pub(crate) fn tell<R>(&self, change: impl FnOnce(&mut Desk) -> R) -> R {
        let result = change(&mut lock(&self.desk));
        self.bell.notify_one();
        result
    }

    /// What a job with this key wakes the driver with.
    pub(crate) fn waker(self: &Arc<Self>, key: u64) -> Waker {
        Waker::from(Arc::new(JobWaker { hub: self.clone(), key }))
    }

    /// Looks at the desk until what is looked for is there.
    pub(crate) async fn until<R>(&self, mut look: impl FnMut(&mut Desk) -> Option<R>) -> R {
        loop {
            // Made before the look: what changes in between is not missed.
            let news = self.news.notified();
            let found = look(&mut lock(&self.desk));
            match found {
                Some(found) => return found,
                None => news.await,
            }
        }
    }
}

/// Notes that a job has something to do, and wakes the driver.
struct JobWaker {
    hub: Arc<Hub>,
    key: u64,
}

impl Wake for JobWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.hub.tell(|desk| _ = desk.ready.insert(self.key));
    }
}

/// A wish for one job, withdrawn when it is dropped.
pub(crate) struct Wish<'a> {
    hub: &'a Hub,
    open: AtomicBool,
}

impl<'a> Wish<'a> {
    pub(crate) fn make(hub: &'a Hub) -> Self {
        hub.tell(|desk| desk.wanted = desk.wanted.saturating_add(1));
        Self { hub, open: AtomicBool::new(true) }
    }

    /// Takes a job that has arrived. The wish goes with it, in one step: else another job would be asked for meanwhile.
    pub(crate) fn take(&self, desk: &mut Desk) -> Option<Job> {
        let job = desk.arrived.pop_front()?;
        self.withdraw(desk);
        Some(job)
    }

    fn withdraw(&self, desk: &mut Desk) {
        if self.open.swap(false, Ordering::Relaxed) {
            desk.wanted = desk.wanted.saturating_sub(1);
        }
    }
}

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        self.hub.tell(|desk| self.withdraw(desk));
    }
}

/// The receiving end of an ask. If it is dropped with a job in it, the job waits for the next caller.
pub(crate) struct Asking {
    hub: Arc<Hub>,
    answer: oneshot::Receiver<Asked>,
}

impl Asking {
    pub(crate) fn make(hub: &Arc<Hub>) -> Self {
        let (sender, answer) = oneshot::channel();
        hub.tell(|desk| desk.asks.push(sender));
        Self { hub: hub.clone(), answer }
    }

    pub(crate) async fn answer(mut self) -> Asked {
        let gone = || Err(Error::System(std::io::Error::other("the tokio runtime is shutting down")));
        (&mut self.answer).await.unwrap_or_else(|_| gone())
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.answer.close();
        if let Ok(Ok(Some(job))) = self.answer.try_recv() {
            self.hub.tell(|desk| desk.arrived.push_back(job));
            self.hub.news.notify_waiters();
        }
    }
}

/// The runner's hold on its hub: when it goes, nothing new is taken, and jobs that nobody took are failed.
#[derive(Debug, Default)]
pub(crate) struct Owner(pub(crate) Arc<Hub>);

impl Drop for Owner {
    fn drop(&mut self) {
        let left = self.0.tell(|desk| {
            desk.closing = true;
            std::mem::take(&mut desk.arrived)
        });
        // Each is failed by its own drop, which needs the lock.
        drop(left);
    }
}
