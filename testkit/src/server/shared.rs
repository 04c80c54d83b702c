//! The state that all connections of a server share.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::Timestamp;
use http::request::Parts;
use http::{Request, Response};
use tokio::sync::{Notify, oneshot};

use super::budget::Budget;
use super::clock::Clock;
use super::{Listen, Root};
use crate::content::Content;
use crate::coordinator::{Coordinator, HoldId};
use crate::treatment::Treatment;

/// The most memory for bodies of requests, and for answers: several of the largest at once. Else many clients that send half of a
/// body, or that do not read their answers, could fill the memory.
pub(super) const BODIES_LIMIT: usize = 256 << 20;
pub(super) const ANSWERS_LIMIT: usize = 512 << 20;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Clock,
    state: Mutex<State>,
    /// The coordinator may have something to do, now or sooner than before.
    pub(super) changed: Notify,
    pub(super) stop: Notify,
    pub(super) root: Root,
    pub(super) client_timeout: Duration,
    /// The memory for bodies of requests that are being read.
    pub(super) bodies: Arc<Budget>,
    /// The memory for answers that are being sent.
    pub(super) answers: Arc<Budget>,
    /// `None`: connections are not encrypted.
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
}

pub(super) struct State {
    pub(super) coordinator: Coordinator,
    /// The connections of held requests.
    pub(super) waiting: BTreeMap<HoldId, oneshot::Sender<Response<Bytes>>>,
    pub(super) filter: Box<dyn RequestFilter>,
}

/// Sees each request before GitLab does, and can answer it instead.
pub(crate) trait RequestFilter: Send {
    /// Returns an answer if the request must be refused because of its head. Its body is then not kept in memory.
    fn refuse(&self, head: &Parts) -> Option<Response<Content>>;

    /// Decides on a request that was read. The body is empty if it is a form with files, which the filter does not see.
    fn handle(&mut self, gitlab: &mut Coordinator, now: Timestamp, request: &Request<Bytes>) -> Handling;
}

/// Passes every request to GitLab.
pub(super) struct NoFilter;

impl RequestFilter for NoFilter {
    fn refuse(&self, _: &Parts) -> Option<Response<Content>> {
        None
    }

    fn handle(&mut self, _: &mut Coordinator, _: Timestamp, _: &Request<Bytes>) -> Handling {
        Handling::GitLab(Treatment::Deliver)
    }
}

/// What a [`RequestFilter`] decides about a request.
#[derive(Debug)]
pub(crate) enum Handling {
    /// GitLab answers it, with this fault of the network.
    GitLab(Treatment),
    /// The filter has answered it.
    Answered(Response<Content>),
    /// The filter has answered it, and the clock is to be advanced by this time.
    Advanced(Duration, Response<Content>),
    /// The filter answers it, and a part of the work takes long.
    Later(Later),
}

/// Finishes an answer under the lock.
pub(crate) type Finish = Box<dyn FnOnce(&mut Coordinator, Timestamp) -> Response<Content> + Send>;

/// An answer in two steps. The first takes long, and is made on another thread from a copy of what it needs, so that no other
/// request waits for it. The second is quick, and sees the coordinator.
pub(crate) struct Later(Box<dyn FnOnce() -> Finish + Send>);

impl Later {
    /// An answer that needs no second step.
    pub(crate) fn new(make: impl FnOnce() -> Response<Content> + Send + 'static) -> Self {
        Self::then(make, |_, _, response| response)
    }

    /// An answer that `finish` makes from what `prepare` returns.
    pub(crate) fn then<T: Send + 'static>(
        prepare: impl FnOnce() -> T + Send + 'static,
        finish: impl FnOnce(&mut Coordinator, Timestamp, T) -> Response<Content> + Send + 'static,
    ) -> Self {
        Self(Box::new(move || {
            let prepared = prepare();
            Box::new(move |gitlab, now| finish(gitlab, now, prepared))
        }))
    }

    pub(crate) fn prepare(self) -> Finish {
        (self.0)()
    }

    /// Changes the answer once it is made.
    fn map(self, change: fn(Response<Content>) -> Response<Content>) -> Self {
        Self::then(|| self.prepare(), move |gitlab, now, finish| change(finish(gitlab, now)))
    }
}

impl Handling {
    /// Changes the answer, if it is not GitLab's.
    pub(crate) fn map(self, change: fn(Response<Content>) -> Response<Content>) -> Self {
        match self {
            Self::GitLab(treatment) => Self::GitLab(treatment),
            Self::Answered(response) => Self::Answered(change(response)),
            Self::Advanced(by, response) => Self::Advanced(by, change(response)),
            Self::Later(later) => Self::Later(later.map(change)),
        }
    }
}

impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Later").finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(coordinator: Coordinator, filter: Box<dyn RequestFilter>, listen: &Listen, clock: Clock) -> Self {
        Self {
            clock,
            state: Mutex::new(State { coordinator, waiting: BTreeMap::new(), filter }),
            changed: Notify::new(),
            stop: Notify::new(),
            root: listen.root.clone(),
            client_timeout: listen.client_timeout,
            bodies: Budget::new(BODIES_LIMIT),
            answers: Budget::new(ANSWERS_LIMIT),
            #[cfg(feature = "tls")]
            tls: listen.identity.as_ref().map(|identity| Arc::clone(&identity.config)),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A closure that panicked in `with` fails its own test; the coordinator is usable after any prefix of calls.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("coordinator", &self.coordinator).finish_non_exhaustive()
    }
}
