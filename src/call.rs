//! A call: one request, and the ticket that brings its answer home.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::body::Body;
use crate::config::Server;
use crate::identity::MachineId;
use crate::reply::{Failure, Received};
use crate::secret::Secret;
use crate::time::Timestamp;

/// Which API call a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum CallKind {
    /// `POST /runners`.
    Register,
    /// `POST /runners/verify`.
    Verify,
    /// `POST /jobs/request`.
    RequestJob,
    /// `PUT /jobs/:id`.
    UpdateJob,
    /// `PATCH /jobs/:id/trace`.
    PatchTrace,
    /// `POST /user/runners`.
    CreateRunner,
    /// `DELETE /runners`.
    Unregister,
    /// `DELETE /runners/managers`.
    UnregisterManager,
    /// `POST /runners/reset_authentication_token`.
    ResetToken,
    /// `POST /runners/:id/reset_authentication_token`.
    ResetTokenAsUser,
    /// `GET /runners/router/discovery`.
    DiscoverRouter,
    /// `GET /jobs/:id/runtime_environment_key`.
    GetRuntimeEnvironmentKey,
    /// `POST /jobs/:id/artifacts`.
    UploadArtifact,
    /// `GET /jobs/:id/artifacts`.
    DownloadArtifacts,
}

impl CallKind {
    /// Method and path, with placeholders: safe to print.
    #[must_use]
    pub const fn route(self) -> &'static str {
        match self {
            Self::Register => "POST /runners",
            Self::Verify => "POST /runners/verify",
            Self::RequestJob => "POST /jobs/request",
            Self::UpdateJob => "PUT /jobs/:id",
            Self::PatchTrace => "PATCH /jobs/:id/trace",
            Self::CreateRunner => "POST /user/runners",
            Self::Unregister => "DELETE /runners",
            Self::UnregisterManager => "DELETE /runners/managers",
            Self::ResetToken => "POST /runners/reset_authentication_token",
            Self::ResetTokenAsUser => "POST /runners/:id/reset_authentication_token",
            Self::DiscoverRouter => "GET /runners/router/discovery",
            Self::GetRuntimeEnvironmentKey => "GET /jobs/:id/runtime_environment_key",
            Self::UploadArtifact => "POST /jobs/:id/artifacts",
            Self::DownloadArtifacts => "GET /jobs/:id/artifacts",
        }
    }
}

/// Whether sending a request twice is harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replay {
    /// The second one changes nothing.
    Safe,
    /// The second one does the thing a second time. Only a request that certainly never left may be sent again.
    Never,
}

/// What to do with the body of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResponseBody {
    /// Collect all of it; fail with [`crate::Failure::TooLarge`] if it is larger than `limit` bytes.
    #[non_exhaustive]
    Collect {
        /// The largest body, in bytes.
        limit: u64,
    },
    /// Collect at most `limit` bytes. A longer body is cut there, and one that breaks off is handed in as far as it came: neither is a
    /// failure.
    #[non_exhaustive]
    Truncate {
        /// How many bytes to hand in at most.
        limit: u64,
    },
    /// The body of a 2xx answer says nothing: read it away, or hand it in, as is easier.
    Discard,
}

impl ResponseBody {
    /// Collect all of it, if it is no larger than `limit` bytes.
    #[must_use]
    pub const fn collect(limit: u64) -> Self {
        Self::Collect { limit }
    }

    /// Collect at most `limit` bytes, and cut what is longer.
    #[must_use]
    pub const fn truncate(limit: u64) -> Self {
        Self::Truncate { limit }
    }
}

/// The largest body of an answer that is not 2xx. What is longer is cut off there, and is no failure.
pub const ERROR_BODY_LIMIT: u64 = 64 * 1024;

/// Which calls go first when more are ready than may be on the wire. Earlier variants go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Priority {
    /// The report that ends a job.
    FinalUpdate,
    /// Keeps a job alive, or accepts it.
    KeepAlive,
    /// A piece of a log.
    Trace,
    /// Asks for work.
    RequestJob,
    /// Whatever a person waits for at a terminal.
    Other,
}

/// What the transport has to know about a call beside the request itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hints {
    /// Which call it is.
    pub kind: CallKind,
    /// From the first byte sent to the last byte received. Report its passing as [`crate::Failure::TimedOut`].
    pub deadline: Duration,
    /// Whether an HTTP stack below may repeat the request on its own.
    pub replay: Replay,
    /// What to do with the answer's body.
    pub response: ResponseBody,
    /// Its place in the queue.
    pub priority: Priority,
}

/// How long a call may take that a person waits for.
const DEADLINE: Duration = Duration::from_secs(30);

/// The largest answer of a call whose answer is a small object.
const ANSWER_LIMIT: u64 = 1 << 20;

impl Hints {
    /// The hints of most calls: 30 seconds, an answer of up to 1 MiB, and no hurry.
    pub(crate) const fn new(kind: CallKind, replay: Replay) -> Self {
        let response = ResponseBody::collect(ANSWER_LIMIT);
        Self { kind, deadline: DEADLINE, replay, response, priority: Priority::Other }
    }

    pub(crate) const fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    pub(crate) const fn with_response(self, response: ResponseBody) -> Self {
        Self { response, ..self }
    }

    pub(crate) const fn with_priority(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }
}

/// Which token and which kind of call an answer speaks about. GitLab's rate limits count per token and kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    pub(crate) owner: Owner,
    pub(crate) kind: CallKind,
}

/// The [`Scope`]s of one state machine, see [`crate::Machine::scopes`].
#[derive(Clone, Debug)]
pub struct Scopes {
    owner: Owner,
    /// No state machine makes calls of more than two kinds.
    kinds: [Option<CallKind>; 2],
}

impl Scopes {
    pub(crate) const fn new(owner: Owner, first: CallKind, second: Option<CallKind>) -> Self {
        Self { owner, kinds: [Some(first), second] }
    }
}

impl Iterator for Scopes {
    type Item = Scope;

    fn next(&mut self) -> Option<Scope> {
        let kind = self.kinds.iter_mut().find_map(Option::take)?;
        Some(Scope { owner: self.owner, kind })
    }
}

/// Whose rate limits a call counts against: a token of an instance, by a hash of both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Owner {
    Job { id: u64, token: u64 },
    Runner { token: u64 },
    Exchange { number: u64 },
}

impl Owner {
    /// The owner of the calls about a job.
    pub(crate) fn job(server: &Server, id: u64, token: &Secret) -> Self {
        Self::Job { id, token: hash_of(server, token) }
    }

    /// The owner of a runner's calls.
    pub(crate) fn runner(server: &Server, token: &Secret) -> Self {
        Self::Runner { token: hash_of(server, token) }
    }

    /// A number that is the same for the same owner, for the choice of a random stream.
    pub(crate) const fn number(self) -> u64 {
        match self {
            Self::Job { token, .. } | Self::Runner { token } => token,
            Self::Exchange { number } => number,
        }
    }
}

fn hash_of(server: &Server, token: &Secret) -> u64 {
    let mut hasher = DefaultHasher::new();
    (server.as_str(), token.expose()).hash(&mut hasher);
    hasher.finish()
}

/// Without the hash of the token, by which somebody could find out whether a guess of it is right.
impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Job { id, .. } => write!(f, "Job({id})"),
            Self::Runner { .. } => f.write_str("Runner"),
            Self::Exchange { number } => write!(f, "Exchange({number})"),
        }
    }
}

/// One HTTP exchange that a machine wants done.
///
/// Perform [`Call::split`]'s request and bring the ticket back with the answer or the failure. `Debug` prints the kind
/// of call and the hints, never a URI, a header or a body: it is what a driver may log.
#[must_use = "a call must be performed, and its ticket handed back"]
pub struct Call {
    pub(crate) request: http::Request<Body>,
    pub(crate) ticket: Ticket,
}

impl Call {
    /// The request to send as it is, and the ticket to hand back with the outcome.
    pub fn split(self) -> (http::Request<Body>, Ticket) {
        (self.request, self.ticket)
    }

    /// The request with its [`Hints`] among its extensions, for stacks that pass nothing but requests around.
    pub fn into_request_with_extensions(self) -> (http::Request<Body>, Ticket) {
        let (mut request, ticket) = self.split();
        request.extensions_mut().insert(ticket.hints.clone());
        (request, ticket)
    }

    /// What the transport has to know.
    #[must_use]
    pub fn hints(&self) -> &Hints {
        &self.ticket.hints
    }

    /// Which rate limits the call counts against, for [`crate::Throttle`].
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.ticket.scope()
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("route", &self.ticket.hints.kind.route())
            .field("host", &self.request.uri().host().unwrap_or_default())
            .field("body", self.request.body())
            .field("ticket", &self.ticket)
            .finish()
    }
}

/// The right to answer one call, once. It cannot be cloned, and goes back to the state machine that made the call.
#[must_use = "hand the ticket back with the answer or the failure, or nothing happens until its deadline has passed"]
pub struct Ticket {
    machine: MachineId,
    pub(crate) owner: Owner,
    pub(crate) sequence: u64,
    pub(crate) hints: Hints,
}

impl Ticket {
    /// What the transport has to know.
    #[must_use]
    pub fn hints(&self) -> &Hints {
        &self.hints
    }

    /// Which rate limits the call counts against, for [`crate::Throttle`].
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope { owner: self.owner, kind: self.hints.kind }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hints { kind, deadline, replay, response, priority } = &self.hints;
        f.debug_struct("Ticket")
            .field("owner", &self.owner)
            .field("sequence", &self.sequence)
            .field("kind", kind)
            .field("deadline", deadline)
            .field("replay", replay)
            .field("response", response)
            .field("priority", priority)
            .finish()
    }
}

/// An answer or a failure was handed to another state machine than the one that made the call. Nothing was changed.
///
/// This error gives back what was handed in. Hand it to the right state machine, or that one waits until the deadline of its call has
/// passed. [`Ticket::scope`] tells whose call it is.
///
/// ```
/// use gitlab_runner_api::{Failure, Machine, Timestamp, WrongMachine};
///
/// fn hand_in(wrong: WrongMachine, right: &mut impl Machine, now: Timestamp) -> Result<(), WrongMachine> {
///     let (ticket, outcome) = wrong.into_parts();
///     right.handle_outcome(ticket, outcome, now)
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[error("this ticket belongs to another state machine; hand each answer to the one whose `poll` gave the call")]
pub struct WrongMachine {
    ticket: Ticket,
    outcome: Result<Box<http::Response<Received>>, Failure>,
}

impl WrongMachine {
    pub(crate) fn new(ticket: Ticket, outcome: Result<http::Response<Received>, Failure>) -> Self {
        Self { ticket, outcome: outcome.map(Box::new) }
    }

    /// The ticket, with the response or the failure that was handed in with it.
    pub fn into_parts(self) -> (Ticket, Result<http::Response<Received>, Failure>) {
        (self.ticket, self.outcome.map(|response| *response))
    }
}

/// The call of one state machine that is in flight: remembers what it is for, and gives it up when it is overdue.
#[derive(Debug)]
pub(crate) struct Wire<I> {
    machine: MachineId,
    owner: Owner,
    /// The number of the last call.
    sequence: u64,
    open: Option<Open<I>>,
}

#[derive(Debug)]
struct Open<I> {
    sequence: u64,
    intent: I,
    overdue_at: Timestamp,
}

/// What is handed in with a ticket.
pub(crate) struct Outcome(Result<http::Response<Received>, Failure>);

impl From<http::Response<Received>> for Outcome {
    fn from(response: http::Response<Received>) -> Self {
        Self(Ok(response))
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        Self(Err(failure))
    }
}

/// How long past its deadline a call is still waited for. Only a driver that is broken or suspended lets it come to that.
const GRACE: Duration = Duration::from_secs(30);

impl<I> Wire<I> {
    pub(crate) fn new(owner: Owner) -> Self {
        Self { machine: MachineId::next(), owner, sequence: 0, open: None }
    }

    pub(crate) const fn owner(&self) -> Owner {
        self.owner
    }

    pub(crate) fn intent(&self) -> Option<&I> {
        self.open.as_ref().map(|open| &open.intent)
    }

    pub(crate) fn intent_mut(&mut self) -> Option<&mut I> {
        self.open.as_mut().map(|open| &mut open.intent)
    }

    pub(crate) fn overdue_at(&self) -> Option<Timestamp> {
        self.open.as_ref().map(|open| open.overdue_at)
    }

    pub(crate) fn send(&mut self, intent: I, request: http::Request<Body>, hints: Hints, now: Timestamp) -> Call {
        debug_assert!(self.open.is_none(), "one call of a state machine is in flight at a time");
        self.sequence += 1;
        let overdue_at = now.saturating_add(hints.deadline.saturating_add(GRACE));
        self.open = Some(Open { sequence: self.sequence, intent, overdue_at });
        let ticket = Ticket { machine: self.machine, owner: self.owner, sequence: self.sequence, hints };
        Call { request, ticket }
    }

    /// Takes the call that `ticket` answers, and its outcome. `None` if the answer comes late: the call was given up, or was made by
    /// the same job before it was resumed.
    ///
    /// # Errors
    ///
    /// [`WrongMachine`] if another state machine made the call, with the ticket and the outcome.
    pub(crate) fn take<R>(&mut self, ticket: Ticket, outcome: R) -> Result<(Option<I>, R), WrongMachine>
    where
        R: Into<Outcome>,
    {
        if ticket.machine != self.machine {
            let same_job = matches!(self.owner, Owner::Job { .. }) && ticket.owner == self.owner;
            return if same_job { Ok((None, outcome)) } else { Err(WrongMachine::new(ticket, outcome.into().0)) };
        }
        Ok((self.open.take_if(|open| open.sequence == ticket.sequence).map(|open| open.intent), outcome))
    }

    /// Takes the call that should have been answered by `now`.
    pub(crate) fn take_overdue(&mut self, now: Timestamp) -> Option<I> {
        self.open.take_if(|open| open.overdue_at <= now).map(|open| open.intent)
    }
}
