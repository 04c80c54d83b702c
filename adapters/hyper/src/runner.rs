//! The runner: registers itself, is saved and loaded, and asks for jobs.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gitlab_runner_api::api::Endpoint;
use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::api::register::{Attributes, Register};
use gitlab_runner_api::api::verify::{Verified, Verify};
use gitlab_runner_api::{
    CallError, Exchange, ExchangeError, Output, RegistrationToken, Retain, RunnerConfig, RunnerToken, Server, SystemId,
    WrongMachine,
};

use gitlab_runner_api_common::{self as file, Record, Registration, at, make_system_id};
use tokio::runtime::Handle;

use crate::driver::{Driver, Setup};
use crate::driver_state::{DriverHandle, JobWaiter, PendingRequest};
use crate::error::Error;
use crate::job::Job;
use crate::link::Link;
use crate::transport::Transport;

/// How long the result of a job is waited for.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A runner of a GitLab instance.
///
/// ```no_run
/// use gitlab_runner_api_hyper::{Error, Runner};
///
/// # async fn example() -> Result<(), Error> {
/// let runner = Runner::load("my-runner.json")?;
/// let mut job = runner.next_job().await?;
/// job.log().send("Hello\n").await.unwrap_or_default();
/// job.success().await?;
/// # Ok(())
/// # }
/// ```
///
/// One task of the tokio runtime drives all jobs of the runner. It starts with the first request for a job. If the runner is dropped, the
/// task continues until GitLab has the results of all jobs that somebody holds, and a job that no caller has taken is failed. The
/// runtime needs time and I/O enabled, as `#[tokio::main]` does.
///
/// Change settings before the first request. A later change starts a new task for later jobs, and leaves the running jobs as they are.
///
/// Two runners are equal if they have the same id at the same instance. `Debug` does not show the token.
pub struct Runner {
    pub(crate) record: Record,
    pub(crate) config: Arc<RunnerConfig>,
    pub(crate) link: Link,
    pub(crate) patience: Duration,
    /// Whether logs start with what ran the job.
    header: bool,
    pub(crate) driver: DriverHandle,
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
    pub async fn register(url: &str, token: impl Into<String>, registration: Registration) -> Result<Self, Error> {
        Self::register_with(Transport::new()?, url, token, registration).await
    }

    /// [`Runner::register`] through a transport of yours.
    ///
    /// # Errors
    ///
    /// As [`Runner::register`].
    pub async fn register_with(
        transport: Transport,
        url: &str,
        token: impl Into<String>,
        registration: Registration,
    ) -> Result<Self, Error> {
        let token = token.into();
        let (server, system_id) = (Server::parse(url)?, make_system_id().map_err(Error::System)?);
        let link = Link::new(transport);
        let config = config(&server, &system_id, registration.info().clone())?;
        let (id, token, token_expires_at) = if RunnerToken::looks_like(&token) {
            let given = registration.given();
            if !given.is_empty() {
                return Err(Error::AttributesIgnored(given.join(", ")));
            }
            let token = RunnerToken::new(token)?;
            let verified = verify(&config, &link, &token, &system_id).await?;
            (verified.id.unwrap_or(0), token, verified.token_expires_at)
        } else {
            let call = Register::new(RegistrationToken::new(token)?, config.info());
            let call = call.with_system_id(system_id.clone()).with_attributes(registration.attributes().clone());
            let made = complete(Exchange::new(&config, call, link.clock.now()), &link).await?;
            (made.id, made.token, made.token_expires_at)
        };
        let (attributes, info) = (registration.attributes().clone(), registration.info().clone());
        let token_obtained_at = Some(at(link.clock.now()));
        let record = Record { server, id, token, token_obtained_at, token_expires_at, system_id, attributes, info };
        let config = Arc::new(config.as_ref().clone().with_rotation_due(record.rotation_due()));
        Ok(Self { record, config, link, patience: PATIENCE, header: true, driver: DriverHandle::default() })
    }

    /// Writes the runner file: whole or not at all, readable by its owner alone. It holds the runner's token.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        Ok(file::save(&self.record, path.as_ref())?)
    }

    /// Reads a runner file. Asks nobody whether the token is still good: see [`Runner::check_auth`].
    ///
    /// # Errors
    ///
    /// [`Error::File`], [`Error::BadFile`]. The file is never changed.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::loaded(file::load(path.as_ref())?)
    }

    /// What [`Runner::save`] writes, for those who keep it elsewhere. **Secret**: it holds the runner's token.
    #[must_use]
    pub fn to_json(&self) -> String {
        file::to_json(&self.record)
    }

    /// Reads what [`Runner::to_json`] gave, or [`Runner::save`] wrote, in this version or an older one. Asks nobody.
    ///
    /// # Errors
    ///
    /// [`Error::BadText`].
    pub fn from_json(text: &str) -> Result<Self, Error> {
        Self::loaded(file::from_json(text).map_err(Error::BadText)?)
    }

    fn loaded(record: Record) -> Result<Self, Error> {
        let config = config(&record.server, &record.system_id, record.info.clone())?;
        let config = Arc::new(config.as_ref().clone().with_rotation_due(record.rotation_due()));
        Ok(Self {
            record,
            config,
            link: Link::new(Transport::new()?),
            patience: PATIENCE,
            header: true,
            driver: DriverHandle::default(),
        })
    }

    /// Sets what the runner tells GitLab about itself and its features. The default is the name of this crate, and the features that the
    /// crate supports by itself. Call this before the first request, because GitLab may ignore a later change for most of an hour.
    #[must_use]
    pub fn with_info(mut self, info: Info) -> Self {
        self.record.info = info.clone();
        self.config = Arc::new(self.config.as_ref().clone().with_info(info));
        self.driver = DriverHandle::default();
        self
    }

    /// Changes intervals and limits. [`RunnerConfig::with_retain`] and [`RunnerConfig::with_durable`] have no effect here, because large
    /// logs always move to temporary files, and jobs have no records.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(RunnerConfig) -> RunnerConfig) -> Self {
        self.config = Arc::new(change(self.config.as_ref().clone()));
        self.driver = DriverHandle::default();
        self
    }

    /// Performs calls with this transport.
    #[must_use]
    pub fn with_transport(mut self, transport: Transport) -> Self {
        self.link = Link::new(transport);
        self.driver = DriverHandle::default();
        self
    }

    /// Sets how long [`Job::success`] and the other methods that report a result wait. Default one hour.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.driver = DriverHandle::default();
        self.patience = patience;
        self
    }

    /// Whether each log starts with the lines that say which runner it was, as with the official runner. Default yes.
    #[must_use]
    pub fn with_log_header(mut self, header: bool) -> Self {
        self.driver = DriverHandle::default();
        self.header = header;
        self
    }

    /// What the runner tells GitLab about itself.
    #[must_use]
    pub fn info(&self) -> &Info {
        self.config.info()
    }

    /// The runner's id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.record.id
    }

    /// The GitLab instance that the runner belongs to.
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

    /// The system ID: it names this host among the hosts that share the token.
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
    pub async fn check_auth(&self) -> Result<(), Error> {
        verify(&self.config, &self.link, &self.record.token, &self.record.system_id).await.map(drop)
    }

    /// Asks for a job, once, and does not wait for one (`POST /jobs/request`).
    ///
    /// If the future is dropped, a job that comes after that is kept for the next caller.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`], [`Error::Refused`], [`Error::Unavailable`]; [`Error::AssignmentUncertain`] if the answer
    /// was lost.
    pub async fn request_job(&self) -> Result<Option<Job>, Error> {
        self.start()?;
        let kept = self.driver.0.update(|state| state.arrived.pop_front());
        match kept {
            Some(job) => Ok(Some(job)),
            None => PendingRequest::make(&self.driver.0).answer().await,
        }
    }

    /// Waits until GitLab assigns a job, also through an outage.
    ///
    /// If the future is dropped, a job that comes after that is kept for the next caller.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`] when GitLab refused the token three times in a row. Asking again after that first waits as
    /// long as the runner would have.
    pub async fn next_job(&self) -> Result<Job, Error> {
        self.start()?;
        let seen = self.driver.0.update(|state| state.refused.0);
        let waiter = JobWaiter::make(&self.driver.0);
        let found = self.driver.0.until(|state| match (waiter.take(state), &state.refused) {
            (Some(job), _) => Some(Ok(job)),
            (None, (count, Some(refusal))) if *count != seen => Some(Err(Error::refused(refusal.clone()))),
            (None, _) => None,
        });
        found.await
    }

    /// Waits until GitLab has the results of all jobs of this runner, also of those that still run. Call this before the tokio runtime ends.
    ///
    /// # Errors
    ///
    /// [`Error::Patience`] if that takes longer than [`Runner::with_patience`] says.
    pub async fn delivered(&self) -> Result<(), Error> {
        let idle = self.driver.0.until(|state| (state.driven == 0 && state.ready.is_empty()).then_some(()));
        tokio::time::timeout(self.patience, idle).await.map_err(|_| Error::Patience)
    }

    /// Starts the task that drives the jobs, if it does not run yet.
    pub(crate) fn start(&self) -> Result<(), Error> {
        let runtime = Handle::try_current().map_err(|error| Error::System(std::io::Error::other(error)))?;
        let started = self.driver.0.update(|state| std::mem::replace(&mut state.started, true));
        if !started {
            let config = self.config.as_ref().clone().with_durable(false).with_retain(Retain::Unsaved);
            let (config, token) = (Arc::new(config), self.record.token.clone());
            let header = self.header.then(|| self.record.log_header(self.config.info()));
            let setup = Setup { config, token, header, link: self.link.clone(), patience: self.patience };
            runtime.spawn(Driver::new(self.driver.0.clone(), setup).run());
        }
        Ok(())
    }
}

fn config(server: &Server, system_id: &SystemId, info: Info) -> Result<Arc<RunnerConfig>, Error> {
    let seed = getrandom::u64().map_err(|error| Error::System(error.into()))?;
    let config = RunnerConfig::new(server.clone(), info).with_system_id(system_id.clone()).with_jitter_seed(seed);
    Ok(Arc::new(config))
}

async fn verify(
    config: &RunnerConfig,
    link: &Link,
    token: &RunnerToken,
    system_id: &SystemId,
) -> Result<Verified, Error> {
    let call = Verify::new(token.clone(), config.info()).with_system_id(system_id.clone());
    complete(Exchange::new(config, call, link.clock.now()), link).await
}

/// Drives one exchange to its end.
async fn complete<E: Endpoint>(mut exchange: Exchange<E>, link: &Link) -> Result<E::Response, Error> {
    loop {
        match link.poll(&mut exchange) {
            Output::Send(call) => {
                let reply = link.exchange(call).await;
                reply.hand_in(&mut exchange, link.clock.now()).map_err(misused)?;
            }
            Output::Event(result) => return result.map_err(|error| classify(error, link)),
            Output::Wait(until) => link.pause(until).await,
            Output::Done => return Err(Error::System(std::io::Error::other("an exchange ended without a result"))),
        }
    }
}

/// Turns a failed call into the error that says what a user can do about it.
fn classify(error: ExchangeError, link: &Link) -> Error {
    match error {
        ExchangeError::Call(CallError::Rejected(rejection)) => match rejection.status.as_u16() {
            403 => Error::Unauthorized(rejection),
            410 => Error::RegistrationDisabled(rejection),
            _ => Error::Exchange(CallError::Rejected(rejection).into()),
        },
        ExchangeError::Unreachable(_) | ExchangeError::Uncertain(_) => {
            Error::Unreachable { error, why: link.last_transport_error() }
        }
        other => Error::Exchange(other),
    }
}

/// Cannot happen, because each exchange here gets only the answers to its own calls.
fn misused(misuse: WrongMachine) -> Error {
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
