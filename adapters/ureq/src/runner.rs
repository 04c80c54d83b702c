//! A runner: registered once, saved, loaded, and asking for jobs.

mod registration;
mod state_dir;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gitlab_runner_api::api::Endpoint;
use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::api::register::Attributes;
use gitlab_runner_api::api::reset_token::{NewToken, ResetToken, ResetTokenAsUser};
use gitlab_runner_api::api::router::DiscoverRouter;
use gitlab_runner_api::api::unregister::{Removal, Unregister, UnregisterManager};
use gitlab_runner_api::api::verify::Verify;
use gitlab_runner_api::{
    CallError, Cause, Exchange, ExchangeError, Output, PersonalAccessToken, Poller, PollerEvent, RunnerConfig,
    RunnerToken, SystemId, Timestamp,
};

use gitlab_runner_api_common::{self as file, Record as Stored, Registration, at};

use crate::error::Error;
use crate::exchange::{as_user, complete, misused};
use crate::instance::{Instance, config};
use crate::job::{Job, PATIENCE};
use crate::link::Link;
use crate::stop::Stop;
use crate::transport::Transport;

pub use state_dir::Recovered;

/// How often it is looked for jobs whose holder has died.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// A runner of a GitLab instance.
///
/// Two runners are equal if they are the same one of the same instance. `Debug` does not show the token.
pub struct Runner {
    pub(crate) record: Stored,
    pub(crate) config: Arc<RunnerConfig>,
    pub(crate) link: Link,
    pub(crate) patience: Duration,
    header: bool,
    state_dir: Option<PathBuf>,
    /// How often [`Runner::run`] looks for jobs whose holder has died.
    pub(crate) look_again: Duration,
    /// Kept between requests, for the value that lets GitLab hold them.
    poller: Option<Poller>,
    /// How long [`Runner::next_job`] leaves GitLab alone after it was refused.
    refused_until: Option<Timestamp>,
}

impl Runner {
    pub(crate) fn of(record: Stored, config: Arc<RunnerConfig>, link: Link) -> Self {
        let config = Arc::new(config.as_ref().clone().with_rotation_due(record.rotation_due()));
        Self {
            record,
            config,
            link,
            patience: PATIENCE,
            header: true,
            state_dir: None,
            look_again: LOOK_AGAIN,
            poller: None,
            refused_until: None,
        }
    }

    /// Makes a runner of this machine, as [`Instance::register`] does, with the proxies of the environment.
    ///
    /// # Errors
    ///
    /// Those of [`Instance::new`] and [`Instance::register`].
    pub fn register(url: &str, token: impl Into<String>, registration: Registration) -> Result<Self, Error> {
        Instance::new(url)?.register(token, registration)
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

    /// Reads a runner file of the Python package `gitlab_runner_api` (`Runner.dump`). Asks nobody, and never changes it. Then
    /// [`Runner::save`] it elsewhere: the package knew no system ID, and on a machine that has no ID of its own each load makes
    /// another one.
    ///
    /// # Errors
    ///
    /// [`Error::File`], [`Error::BadFile`].
    pub fn load_python(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::loaded(file::load_python(path.as_ref())?)
    }

    fn loaded(record: Stored) -> Result<Self, Error> {
        let config = config(&record.server, &record.system_id, record.info.clone())?;
        Ok(Self::of(record, config, Link::new(Transport::from_env()?)))
    }

    /// Whether a runner file can be written there, found out without touching what is there. Ask before a token is made
    /// that needs a place.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn check_writable(path: impl AsRef<Path>) -> Result<(), Error> {
        Ok(file::check_writable(path.as_ref())?)
    }

    /// What the runner tells GitLab about itself and its features, in place of this crate's name and the features that
    /// the library keeps by itself. Say it before the first call: GitLab remembers what it hears first for most of an hour.
    #[must_use]
    pub fn with_info(mut self, info: Info) -> Self {
        self.record.info = info.clone();
        self.config = Arc::new(self.config.as_ref().clone().with_info(info));
        self.poller = None;
        self
    }

    /// Changes intervals and limits. What is kept of a log in memory, and whether jobs are durable, is not asked here: with a
    /// [state directory](Runner::with_state_dir) jobs are durable, and in both cases logs move to files.
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

    /// Whether each job's log begins with the lines that the official runner writes: `Running with` and the runner's name
    /// and version, then its description, short token and system ID. Default yes.
    #[must_use]
    pub fn with_log_header(mut self, header: bool) -> Self {
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

    /// When the token should be replaced, by [`Runner::reset_token`]: after three quarters of its life; none if it never
    /// expires. [`Runner::run_with`] tells when it is time, by [`PollerEvent::RotationDue`]. Nothing is done by itself,
    /// since the token may be shared by other machines.
    #[must_use]
    pub fn rotation_due(&self) -> Option<Timestamp> {
        self.record.rotation_due()
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
        let call =
            Verify::new(self.record.token.clone(), self.config.info()).with_system_id(self.record.system_id.clone());
        self.ask(call).map(drop)
    }

    /// Takes this machine out of GitLab, as the official runner does: of a runner that was created in GitLab
    /// (`glrt-`) only this manager is removed (`DELETE /runners/managers`); one that was registered is removed as a whole
    /// (`DELETE /runners`), and its token is worth nothing afterwards.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`] if GitLab does not know the token.
    pub fn unregister(&self) -> Result<Removal, Error> {
        if RunnerToken::looks_like(self.record.token.expose()) {
            self.ask(UnregisterManager::new(self.record.token.clone(), self.record.system_id.clone()))
        } else {
            self.unregister_all()
        }
    }

    /// Removes the runner with all its machines (`DELETE /runners`).
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`] if GitLab does not know the token.
    pub fn unregister_all(&self) -> Result<Removal, Error> {
        self.ask(Unregister::new(self.record.token.clone()))
    }

    /// Replaces the runner's token by a new one, which is saved to `path` before this returns. The old one stops working
    /// at once, for every machine that shares it. Never repeated when the answer was lost.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if nothing can be written there, before GitLab is asked; [`Error::TokenUncertain`] if the answer
    /// was lost; [`Error::Unauthorized`] if GitLab refuses.
    pub fn reset_token(&mut self, path: impl AsRef<Path>) -> Result<(), Error> {
        file::check_writable(path.as_ref())?;
        let new = self.ask(ResetToken::new(self.record.token.clone())).map_err(|error| match error {
            Error::Unreachable { error: ExchangeError::Uncertain(_), why } => Error::TokenUncertain(why),
            Error::Exchange(ExchangeError::Call(CallError::Protocol(error))) => {
                Error::TokenUncertain(error.to_string())
            }
            other => other,
        })?;
        self.take_token(new, path.as_ref())
    }

    /// The same in the name of a user, whose personal access token has the scope `manage_runner` or `api`. Works also if
    /// the runner's own token is lost or has expired.
    ///
    /// # Errors
    ///
    /// [`Error::File`], [`Error::NotPermitted`].
    pub fn reset_token_as_user(&mut self, user: PersonalAccessToken, path: impl AsRef<Path>) -> Result<(), Error> {
        file::check_writable(path.as_ref())?;
        let call = ResetTokenAsUser::new(user, self.record.id);
        let new = self.ask(call).map_err(|error| as_user(error, "manage_runner"))?;
        self.take_token(new, path.as_ref())
    }

    fn take_token(&mut self, new: NewToken, path: &Path) -> Result<(), Error> {
        self.record.token = new.token;
        self.record.token_expires_at = new.token_expires_at;
        self.record.token_obtained_at = Some(at(self.link.clock.now()));
        let config = self.config.as_ref().clone().with_rotation_due(self.record.rotation_due());
        (self.config, self.poller) = (Arc::new(config), None);
        self.save(path)
    }

    /// Where the job router is, if this GitLab has one (`GET /runners/router/discovery`).
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`] if GitLab does not know the token.
    pub fn discover_router(&self) -> Result<Option<String>, Error> {
        self.ask(DiscoverRouter::new(self.record.token.clone()))
    }

    fn ask<E: Endpoint>(&self, call: E) -> Result<E::Response, Error> {
        complete(Exchange::new(&self.config, call, self.link.clock.now()), &self.link)
    }

    /// Asks for a job, once, and does not wait for one (`POST /jobs/request`).
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`], [`Error::Refused`], [`Error::Unavailable`]; [`Error::AssignmentUncertain`] if the answer
    /// did not come home; [`Error::System`] if there is no thread for the job, and [`Error::File`] or [`Error::BadFile`] if there
    /// can be no record of it in the [state directory](Runner::with_state_dir): then it is failed; [`Error::Held`] if another
    /// process has it there.
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
    /// long as the runner would have. Those that [`Runner::request_job`] has for a job that was handed out.
    pub fn next_job(&mut self) -> Result<Job, Error> {
        loop {
            if let Some(job) = self.next_job_until(&Stop::new())? {
                return Ok(job);
            }
        }
    }

    /// The same, until `stop` is drained: then there is no job to come. A request that is on the wire at that moment is
    /// waited for, and its job given: GitLab hands a job out only once.
    ///
    /// # Errors
    ///
    /// As [`Runner::next_job`].
    pub fn next_job_until(&mut self, stop: &Stop) -> Result<Option<Job>, Error> {
        // A caller who tries again after a refusal is no reason to ask faster.
        stop.pause(self.refused_until.take().map(|until| self.link.clock.until(until)));
        let mut poller = self.poller.take().unwrap_or_else(|| self.new_poller());
        loop {
            if stop.is_draining() {
                poller.drain();
            } else {
                poller.set_capacity(1);
            }
            match self.link.poll(&mut poller) {
                Output::Send(call) => {
                    let reply = self.link.exchange(call);
                    reply.hand_in(&mut poller, self.link.clock.now()).map_err(misused)?;
                }
                Output::Event(PollerEvent::Refused { unhealthy: false, .. }) => {}
                Output::Event(event @ (PollerEvent::Assigned(_) | PollerEvent::Refused { .. })) => {
                    match self.take(event) {
                        Ok(Some(job)) => {
                            // One that drains is at its end.
                            self.poller = (!stop.is_draining()).then_some(poller);
                            return Ok(Some(job));
                        }
                        Ok(None) => {}
                        Err(error) => {
                            // A new poller tells of the next refusals again; this one knows how long to wait before.
                            if let Output::Wait(until) = self.link.poll(&mut poller) {
                                self.refused_until = until;
                            }
                            return Err(error);
                        }
                    }
                }
                Output::Event(_) => {}
                Output::Wait(until) => stop.pause(until.map(|until| self.link.clock.until(until))),
                Output::Done => return Ok(None),
            }
        }
    }

    pub(crate) fn new_poller(&self) -> Poller {
        Poller::new(self.job_config(), self.record.token.clone(), self.link.clock.now())
    }

    /// Turns what a poller tells into a job, or into the error that a caller who asked once gets.
    fn take(&self, event: PollerEvent) -> Result<Option<Job>, Error> {
        match event {
            PollerEvent::Assigned(assignment) if self.config.refuses(&assignment) => {
                // It fails by itself; nobody is to run it.
                self.take_up(&assignment, &self.link)?.forsake();
                Ok(None)
            }
            PollerEvent::Assigned(assignment) => self.take_up(&assignment, &self.link).map(Some),
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

impl PartialEq for Runner {
    fn eq(&self, other: &Self) -> bool {
        self.record.server == other.record.server && self.record.id == other.record.id
    }
}

impl Eq for Runner {}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stored { server, id, system_id, .. } = &self.record;
        f.debug_struct("Runner")
            .field("server", server)
            .field("id", id)
            .field("system_id", system_id)
            .finish_non_exhaustive()
    }
}
