//! What the connections of a server share.

use std::collections::BTreeMap;
use std::fmt;
#[cfg(feature = "tls")]
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::Timestamp;
use http::{Request, Response};
use tokio::sync::{Notify, oneshot};

use super::clock::Clock;
use super::{Listen, Root};
use crate::content::Content;
use crate::coordinator::{Coordinator, HoldId};
use crate::treatment::Treatment;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Clock,
    state: Mutex<State>,
    /// The coordinator may have something to do, now or sooner than before.
    pub(super) changed: Notify,
    pub(super) stop: Notify,
    pub(super) root: Root,
    /// `None`: connections are not encrypted.
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
}

pub(super) struct State {
    pub(super) coordinator: Coordinator,
    /// The connections of held requests.
    pub(super) waiting: BTreeMap<HoldId, oneshot::Sender<Response<Bytes>>>,
    pub(super) door: Box<Door>,
}

/// Looks at each request before GitLab does. The body is empty if it is a form with files, which the door does not see.
pub(super) type Door = dyn FnMut(&mut Coordinator, Timestamp, &Request<Bytes>) -> Passage + Send;

/// What the door does with a request.
#[derive(Debug)]
pub(crate) enum Passage {
    /// It is GitLab's, and a network does this to it.
    GitLab(Treatment),
    /// It is not GitLab's affair.
    Answered(Response<Content>),
    /// It is not GitLab's affair, and lets this much time pass.
    Advanced(Duration, Response<Content>),
    /// It is not GitLab's affair, and to make the answer takes long.
    Later(Later),
}

/// Makes an answer from a copy of what it needs, so that no other request waits for it.
pub(crate) struct Later(Box<dyn FnOnce() -> Response<Content> + Send>);

impl Later {
    pub(crate) fn new(make: impl FnOnce() -> Response<Content> + Send + 'static) -> Self {
        Self(Box::new(make))
    }

    pub(crate) fn make(self) -> Response<Content> {
        (self.0)()
    }
}

impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Later").finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(coordinator: Coordinator, door: Box<Door>, listen: &Listen, clock: Clock) -> Self {
        Self {
            clock,
            state: Mutex::new(State { coordinator, waiting: BTreeMap::new(), door }),
            changed: Notify::new(),
            stop: Notify::new(),
            root: listen.root.clone(),
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
