//! A runner: registered once, saved, loaded, and asking for jobs.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gitlab_runner_api::api::Endpoint;
use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::api::register::{Attributes, Register};
use gitlab_runner_api::api::verify::{Verified, Verify};
use gitlab_runner_api::{
    CallError, Cause, Exchange, ExchangeError, Misuse, Output, Poller, PollerEvent, RegistrationToken, RunnerConfig,
    RunnerToken, Server, SystemId, Timestamp,
};

use gitlab_runner_api_files::{Record, Registration, make_system_id};

use crate::driver::Link;
use crate::error::Error;
use crate::job::Job;
use crate::transport::Transport;

/// How long the result of a job is waited for.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A runner of a GitLab instance.
///
/// Two runners are equal if they are the same one of the same instance. `Debug` does not show the token.
pub struct Runner {
    pub(crate) record: Record,
    pub(crate) config: Arc<RunnerConfig>,
    pub(crate) link: Link,
    pub(crate) patience: Duration,
    /// Kept between requests, for the value that lets GitLab hold them.
    poller: Option<Poller>,
    /// How long [`Runner::next_job`] leaves GitLab alone after it was refused.
    refused_until: Option<Timestamp>,
}

impl Runner {
    /// Makes a runner of this machine.
    ///
    /// A registration token registers a new one (`POST /runners`). A token that starts with `glrt-` belongs to a runner
    /// that was created in GitLab: it is verified, and the runner is that one.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`] if GitLab does not know the token; [`Error::RegistrationDisabled`] if it takes no
    /// registration tokens; [`Error::AttributesIgnored`] if attributes come with a `glrt-` token; others if the address
    /// is wrong or GitLab cannot be reached.
    pub fn register(url: &str, token: impl Into<String>, registration: Registration) -> Result<Self, Error> {
        let token = token.into();
        let (server, system_id) = (Server::parse(url)?, make_system_id().map_err(Error::System)?);
        let link = Link::new(Transport::new());
        let config = config(&server, &system_id, registration.told_info().cloned().unwrap_or_else(default_info))?;
        let (id, token, token_expires_at) = if RunnerToken::looks_like(&token) {
            let given = registration.given();
            if !given.is_empty() {
                return Err(Error::AttributesIgnored(given.join(", ")));
            }
            let token = RunnerToken::new(token)?;
            let verified = verify(&config, &link, &token, &system_id)?;
            (verified.id.unwrap_or(0), token, verified.token_expires_at)
        } else {
            let call = Register::new(RegistrationToken::new(token)?, config.info());
            let call = call.system_id(system_id.clone()).attributes(registration.attributes().clone());
            let made = complete(Exchange::new(&config, call, link.clock.now()), &link)?;
            (made.id, made.token, made.token_expires_at)
        };
        let mut record = Record::new(server, id, token, system_id);
        (record.token_expires_at, record.attributes) = (token_expires_at, registration.attributes().clone());
        Ok(Self { record, config, link, patience: PATIENCE, poller: None, refused_until: None })
    }

    /// Writes the runner file: whole or not at all, readable by its owner alone. It holds the runner's token.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        Ok(self.record.save(path.as_ref())?)
    }

    /// Reads a runner file. Asks nobody whether the token is still good: see [`Runner::check_auth`].
    ///
    /// # Errors
    ///
    /// [`Error::File`], [`Error::BadFile`]. The file is never changed.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let record = Record::load(path.as_ref())?;
        let config = config(&record.server, &record.system_id, default_info())?;
        Ok(Self {
            record,
            config,
            link: Link::new(Transport::new()),
            patience: PATIENCE,
            poller: None,
            refused_until: None,
        })
    }

    /// What the runner tells GitLab about itself and its features, in place of this crate's name and the features that
    /// the library keeps by itself. Say it before the first call: GitLab remembers what it hears first for most of an hour.
    #[must_use]
    pub fn with_info(mut self, info: Info) -> Self {
        self.config = Arc::new(self.config.as_ref().clone().with_info(info));
        self.poller = None;
        self
    }

    /// Changes intervals and limits.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(RunnerConfig) -> RunnerConfig) -> Self {
        self.config = Arc::new(change(self.config.as_ref().clone()));
        self.poller = None;
        self
    }

    /// Performs calls with this transport.
    #[must_use]
    pub fn with_transport(mut self, transport: Transport) -> Self {
        self.link = Link::new(transport);
        self.poller = None;
        self
    }

    /// How long a job's result is waited for, see [`Job::success`]. Default one hour.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The runner's id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.record.id
    }

    /// The instance it is a runner of.
    #[must_use]
    pub fn url(&self) -> &str {
        self.record.server.as_str()
    }

    /// Its authentication token. **Secret.**
    #[must_use]
    pub fn token(&self) -> &RunnerToken {
        &self.record.token
    }

    /// When the token stops working, in ISO 8601; none if never.
    #[must_use]
    pub fn token_expires_at(&self) -> Option<&str> {
        self.record.token_expires_at.as_deref()
    }

    /// The name of this machine among those that share the token.
    #[must_use]
    pub fn system_id(&self) -> &SystemId {
        &self.record.system_id
    }

    /// The attributes it was registered with.
    #[must_use]
    pub fn attributes(&self) -> &Attributes {
        &self.record.attributes
    }

    /// Asks GitLab whether the token is good (`POST /runners/verify`).
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`] if it is not. Anything else says nothing about the token.
    pub fn check_auth(&self) -> Result<(), Error> {
        verify(&self.config, &self.link, &self.record.token, &self.record.system_id).map(drop)
    }

    /// Asks for a job, once, and does not wait for one (`POST /jobs/request`).
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`], [`Error::Refused`], [`Error::Unavailable`]; [`Error::AssignmentUncertain`] if the answer
    /// did not come home.
    pub fn request_job(&mut self) -> Result<Option<Job>, Error> {
        let mut poller = self.new_poller();
        poller.set_capacity(1);
        let mut asked = Ok(None);
        loop {
            match self.link.poll(&mut poller) {
                Output::Send(call) => {
                    let reply = self.link.exchange(call);
                    reply.hand_in(&mut poller, self.link.clock.now()).map_err(misused)?;
                    poller.drain();
                }
                Output::Event(event) => match self.take(event) {
                    Ok(Some(job)) => asked = Ok(Some(job)),
                    // What was said first is the cause of what was said next.
                    Err(error) if asked.is_ok() => asked = Err(error),
                    Ok(None) | Err(_) => {}
                },
                Output::Wait(until) => self.link.pause(until),
                Output::Done => return asked,
            }
        }
    }

    /// Waits for a job, however long it takes, and through any outage.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`] when GitLab refused the token three times in a row. Asking again after that first waits as
    /// long as the runner would have.
    pub fn next_job(&mut self) -> Result<Job, Error> {
        // A caller who tries again after a refusal is no reason to ask faster.
        self.link.pause(self.refused_until.take());
        let mut poller = self.poller.take().unwrap_or_else(|| self.new_poller());
        loop {
            poller.set_capacity(1);
            match self.link.poll(&mut poller) {
                Output::Send(call) => {
                    let reply = self.link.exchange(call);
                    reply.hand_in(&mut poller, self.link.clock.now()).map_err(misused)?;
                }
                Output::Event(PollerEvent::Refused { unhealthy: false, .. }) => {}
                Output::Event(
                    event @ (PollerEvent::Assigned(_) | PollerEvent::Unreadable(_) | PollerEvent::Refused { .. }),
                ) => match self.take(event) {
                    Ok(Some(job)) => {
                        self.poller = Some(poller);
                        return Ok(job);
                    }
                    Ok(None) => poller.set_capacity(1),
                    Err(error) => {
                        // A new poller tells of the next refusals again; this one knows how long to wait before.
                        if let Output::Wait(until) = self.link.poll(&mut poller) {
                            self.refused_until = until;
                        }
                        return Err(error);
                    }
                },
                Output::Event(_) => {}
                Output::Wait(until) => self.link.pause(until),
                Output::Done => poller = self.new_poller(),
            }
        }
    }

    pub(crate) fn new_poller(&self) -> Poller {
        Poller::new(self.config.clone(), self.record.token.clone(), self.link.clock.now())
    }

    /// Turns what a poller tells into a job, or into the error that a caller who asked once gets.
    fn take(&self, event: PollerEvent) -> Result<Option<Job>, Error> {
        match event {
            PollerEvent::Assigned(assignment) => {
                let job = gitlab_runner_api::Job::new(self.config.clone(), &assignment, self.link.clock.now());
                Job::start(job, &self.link, self.patience).map(Some)
            }
            PollerEvent::Unreadable(job) => {
                // It fails by itself; nobody is to run it.
                Job::start(job, &self.link, self.patience)?.forsake();
                Ok(None)
            }
            PollerEvent::Refused { refusal, .. } => match refusal.error {
                CallError::Rejected(rejection) if rejection.status == http::StatusCode::FORBIDDEN => {
                    Err(Error::Unauthorized(rejection))
                }
                _ => Err(Error::Refused(refusal)),
            },
            PollerEvent::Misconfigured(refusal) => Err(Error::Refused(refusal)),
            PollerEvent::Unavailable { cause: Cause::Failure(_), .. } => Err(Error::Unavailable(self.link.trouble())),
            PollerEvent::Unavailable { cause, .. } => Err(Error::Unavailable(cause.to_string())),
            PollerEvent::AssignmentUncertain { cause, .. } => Err(Error::AssignmentUncertain(cause.to_string())),
            _ => Ok(None),
        }
    }
}

/// This crate and this platform.
fn default_info() -> Info {
    gitlab_runner_api_files::default_info(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
}

fn config(server: &Server, system_id: &SystemId, info: Info) -> Result<Arc<RunnerConfig>, Error> {
    let seed = getrandom::u64().map_err(|error| Error::System(error.into()))?;
    let config = RunnerConfig::new(server.clone(), info).with_system_id(system_id.clone()).with_jitter_seed(seed);
    Ok(Arc::new(config))
}

fn verify(config: &RunnerConfig, link: &Link, token: &RunnerToken, system_id: &SystemId) -> Result<Verified, Error> {
    let call = Verify::new(token.clone(), config.info()).system_id(system_id.clone());
    complete(Exchange::new(config, call, link.clock.now()), link)
}

/// Drives one exchange to its end.
fn complete<E: Endpoint>(mut exchange: Exchange<E>, link: &Link) -> Result<E::Response, Error> {
    loop {
        match link.poll(&mut exchange) {
            Output::Send(call) => {
                let reply = link.exchange(call);
                reply.hand_in(&mut exchange, link.clock.now()).map_err(misused)?;
            }
            Output::Event(result) => return result.map_err(|error| sorted(error, link)),
            Output::Wait(until) => link.pause(until),
            Output::Done => return Err(misused(Misuse::Stale)),
        }
    }
}

/// Tells the refusals apart that have a mend of their own.
fn sorted(error: ExchangeError, link: &Link) -> Error {
    match error {
        ExchangeError::Call(CallError::Rejected(rejection)) => match rejection.status.as_u16() {
            403 => Error::Unauthorized(rejection),
            410 => Error::RegistrationDisabled(rejection),
            _ => Error::Exchange(CallError::Rejected(rejection).into()),
        },
        ExchangeError::Unreachable(_) | ExchangeError::Uncertain(_) => {
            Error::Unreachable { error, why: link.trouble() }
        }
        other => Error::Exchange(other),
    }
}

/// Cannot happen: each driver hands its own tickets to its own machine.
fn misused(misuse: Misuse) -> Error {
    Error::System(std::io::Error::other(misuse))
}

impl PartialEq for Runner {
    fn eq(&self, other: &Self) -> bool {
        self.record.server == other.record.server && self.record.id == other.record.id
    }
}

impl Eq for Runner {}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { server, id, system_id, .. } = &self.record;
        f.debug_struct("Runner")
            .field("server", server)
            .field("id", id)
            .field("system_id", system_id)
            .finish_non_exhaustive()
    }
}
