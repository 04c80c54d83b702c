//! The runner: registers itself, is saved and loaded, and asks for jobs.

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

/// How often [`Runner::run`] looks for records whose process has died. If that was on another host, the record counts as orphaned only
/// after five minutes, so that another minute makes little difference.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// A runner of a GitLab instance.
///
/// ```no_run
/// use gitlab_runner_api_ureq::{FailureReason, Runner, Stop};
///
/// # fn build(script: &[String]) -> bool { !script.is_empty() }
/// let mut runner = Runner::load("my-runner.json")?;
/// let stop = Stop::new();
/// // Runs at most four jobs at a time, each on a thread of its own, until another thread calls `stop.drain()`.
/// runner.run(
///     4,
///     |mut job| {
///         let script: Vec<String> = job.spec().steps.iter().flat_map(|step| step.script.clone()).collect();
///         let reported = if build(&script) { job.success() } else { job.failed(FailureReason::ScriptFailure) };
///         reported.unwrap_or_else(|error| eprintln!("job {}: {error}", job.id()));
///     },
///     &stop,
/// )?;
/// # Ok::<(), gitlab_runner_api_ureq::Error>(())
/// ```
///
/// Two runners are equal if they have the same id at the same instance. `Debug` does not show the token.
pub struct Runner {
    pub(crate) record: Stored,
    pub(crate) config: Arc<RunnerConfig>,
    pub(crate) link: Link,
    pub(crate) patience: Duration,
    header: bool,
    state_dir: Option<PathBuf>,
    /// See [`LOOK_AGAIN`]. Tests use a shorter time.
    pub(crate) look_again: Duration,
    /// Kept between requests, because GitLab holds a request back (long polling) only if it has the last `X-GitLab-Last-Update`.
    poller: Option<Poller>,
    /// When [`Runner::next_job`] may ask again, after GitLab refused the token.
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

    /// Registers this host as a runner, as [`Instance::register`] does, with the proxies of the environment.
    ///
    /// # Errors
    ///
    /// Those of [`Instance::new`] and [`Instance::register`].
    pub fn register(url: &str, token: impl Into<String>, registration: Registration) -> Result<Self, Error> {
        Instance::new(url)?.register(token, registration)
    }

    /// Writes the runner file. The file is replaced atomically, and only its owner can read it. It contains the runner's token.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        Ok(file::save(&self.record, path.as_ref())?)
    }

    /// Reads a runner file. Does not use the network: [`Runner::check_auth`] checks the token.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the file cannot be read, [`Error::BadFile`] if it is no runner file. The file is never changed.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::loaded(file::load(path.as_ref())?)
    }

    /// Returns what [`Runner::save`] writes, to store it elsewhere. **Secret**: it contains the runner's token.
    #[must_use]
    pub fn to_json(&self) -> String {
        file::to_json(&self.record)
    }

    /// Reads what [`Runner::to_json`] returned or [`Runner::save`] wrote, in this version or an older one. Does not use the network.
    ///
    /// # Errors
    ///
    /// [`Error::BadText`] if the text is something else.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        Self::loaded(file::from_json(text).map_err(Error::BadText)?)
    }

    /// Reads a runner file of the Python package `gitlab_runner_api` (`Runner.dump`). Does not use the network, and never changes the
    /// file. [`Runner::save`] the runner to another file afterwards. The Python package has no system ID, and on a host without a
    /// machine ID each load makes a new one.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the file cannot be read, [`Error::BadFile`] if it is no file of the Python package.
    pub fn load_python(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::loaded(file::load_python(path.as_ref())?)
    }

    fn loaded(record: Stored) -> Result<Self, Error> {
        let config = config(&record.server, &record.system_id, record.info.clone())?;
        Ok(Self::of(record, config, Link::new(Transport::from_env()?)))
    }

    /// Checks that a runner file can be written there, without changing an existing one. Call this before you create a token that must
    /// be stored there.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it cannot.
    pub fn check_writable(path: impl AsRef<Path>) -> Result<(), Error> {
        Ok(file::check_writable(path.as_ref())?)
    }

    /// Sets what the runner tells GitLab about itself and its features. The default is the name of this crate, and the features that the
    /// crate supports by itself. Call this before the first request, because GitLab may ignore a later
    /// change for most of an hour.
    #[must_use]
    pub fn with_info(mut self, info: Info) -> Self {
        self.record.info = info.clone();
        self.config = Arc::new(self.config.as_ref().clone().with_info(info));
        self.poller = None;
        self
    }

    /// Changes intervals and limits. [`RunnerConfig::with_retain`] and [`RunnerConfig::with_durable`] have no effect here: with a
    /// [state directory](Runner::with_state_dir) jobs are durable, and the adapter always moves large logs to files.
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

    /// Sets how long [`Job::success`] and the other methods that report a result wait. Default one hour.
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

    /// When the token should be replaced with [`Runner::reset_token`]: after three quarters of its lifetime. `None` if it never expires.
    /// [`Runner::run_with`] reports that time with [`PollerEvent::RotationDue`]. The token is not replaced automatically, because other
    /// hosts may share it.
    #[must_use]
    pub fn rotation_due(&self) -> Option<Timestamp> {
        self.record.rotation_due()
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
    pub fn check_auth(&self) -> Result<(), Error> {
        let call =
            Verify::new(self.record.token.clone(), self.config.info()).with_system_id(self.record.system_id.clone());
        self.ask(call).map(drop)
    }

    /// Unregisters this host, as the official runner does. If the runner was created in GitLab (`glrt-`), only the runner manager of this
    /// host is removed (`DELETE /runners/managers`). If it was registered with a registration token, the whole runner is removed
    /// (`DELETE /runners`), and its token is no longer valid.
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

    /// Removes the runner with all its runner managers (`DELETE /runners`).
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`] if GitLab does not know the token.
    pub fn unregister_all(&self) -> Result<Removal, Error> {
        self.ask(Unregister::new(self.record.token.clone()))
    }

    /// Replaces the runner's token with a new one, which is saved to `path` before this returns. The old token stops working at once, for
    /// every host that shares it. The request is not repeated if its answer was lost.
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

    /// Replaces the runner's token as [`Runner::reset_token`] does, in the name of a user. The personal access token needs the scope
    /// `manage_runner` or `api`. This works also if the runner's own token is lost or has expired.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if nothing can be written to `path`, before GitLab is asked; [`Error::NotPermitted`] if the user may not do that.
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

    /// Returns the address of the job router (`GET /runners/router/discovery`), or `None` if this GitLab has none.
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
    /// was lost; [`Error::System`] if there is no thread for the job, and [`Error::File`] or [`Error::BadFile`] if there
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
                    // The first error is the cause of those that follow it.
                    Err(error) if asked.is_ok() => asked = Err(error),
                    Ok(None) | Err(_) => {}
                },
                Output::Wait(until) => self.link.pause(until),
                Output::Done => return asked,
            }
        }
    }

    /// Waits until GitLab assigns a job, also through an outage.
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

    /// Waits for a job as [`Runner::next_job`] does, but returns `None` after [`Stop::drain`] was called. If a request is in flight at that
    /// moment, this waits for its answer and returns its job, because GitLab assigns a job only once.
    ///
    /// # Errors
    ///
    /// As [`Runner::next_job`].
    pub fn next_job_until(&mut self, stop: &Stop) -> Result<Option<Job>, Error> {
        // A caller who tries again at once after a refusal must not make the runner ask faster.
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
                            // A poller that drains cannot ask again.
                            self.poller = (!stop.is_draining()).then_some(poller);
                            return Ok(Some(job));
                        }
                        Ok(None) => {}
                        Err(error) => {
                            // The old poller knows how long to wait. A new one takes its place at the next call, because a poller
                            // reports only once that it is unhealthy, and the next caller must get the error too.
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

    /// Turns an event of the poller into a job, or into the error of [`Runner::request_job`].
    fn take(&self, event: PollerEvent) -> Result<Option<Job>, Error> {
        match event {
            PollerEvent::Assigned(assignment) if self.config.refuses(&assignment) => {
                // The job fails by itself, so the caller does not get it.
                self.take_up(&assignment, &self.link)?.release();
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
            PollerEvent::Unavailable { cause: Cause::Failure(_), .. } => {
                Err(Error::Unavailable(self.link.last_transport_error()))
            }
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
