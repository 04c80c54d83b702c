//! A GitLab instance, before there is a runner of it.

use std::sync::Arc;

use gitlab_runner_api::api::create_runner::{CreateRunner, RunnerType};
use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::api::register::Register;
use gitlab_runner_api::api::verify::Verify;
use gitlab_runner_api::{
    Exchange, PersonalAccessToken, RegistrationToken, RunnerConfig, RunnerToken, Server, SystemId,
};

use gitlab_runner_api_common::{Record, Registration, at, make_system_id};

use crate::error::Error;
use crate::exchange::{as_user, complete};
use crate::link::Link;
use crate::runner::Runner;
use crate::transport::Transport;

/// A GitLab instance to make runners of, over a transport of one's own.
///
/// [`Runner::register`] is the short form for a GitLab that needs no certificates of its own.
#[derive(Clone, Debug)]
pub struct Instance {
    server: Server,
    link: Link,
}

impl Instance {
    /// The instance of this address, with the proxies of the environment.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the address, or that of a proxy, cannot be used.
    pub fn new(url: &str) -> Result<Self, Error> {
        Ok(Self { server: Server::parse(url)?, link: Link::new(Transport::from_env()?) })
    }

    /// Performs calls with this transport, those of the runners that are made as well.
    #[must_use]
    pub fn with_transport(mut self, transport: Transport) -> Self {
        self.link = Link::new(transport);
        self
    }

    /// Makes a runner of this machine.
    ///
    /// A registration token registers a new one (`POST /runners`). A token that starts with `glrt-` belongs to a runner
    /// that was created in GitLab: it is verified, and the runner is that one.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`] if GitLab does not know the token; [`Error::RegistrationDisabled`] if it takes no
    /// registration tokens; [`Error::AttributesIgnored`] if attributes come with a `glrt-` token; others if GitLab cannot
    /// be reached.
    pub fn register(&self, token: impl Into<String>, registration: Registration) -> Result<Runner, Error> {
        let token = token.into();
        let system_id = machine()?;
        if RunnerToken::looks_like(&token) {
            let given = registration.given();
            if !given.is_empty() {
                return Err(Error::AttributesIgnored(given.join(", ")));
            }
            return self.adopt(RunnerToken::new(token)?, None, system_id, registration);
        }
        let config = config(&self.server, &system_id, registration.info().clone())?;
        let call = Register::new(RegistrationToken::new(token)?, config.info());
        let call = call.with_system_id(system_id.clone()).with_attributes(registration.attributes().clone());
        let made = complete(Exchange::new(&config, call, self.link.clock.now()), &self.link)?;
        let record = Record {
            server: self.server.clone(),
            id: made.id,
            token: made.token,
            token_obtained_at: Some(at(self.link.clock.now())),
            token_expires_at: made.token_expires_at,
            system_id,
            attributes: registration.attributes().clone(),
            info: registration.info().clone(),
        };
        Ok(Runner::of(record, config, self.link.clone()))
    }

    /// Creates a runner in the name of a user (`POST /user/runners`), and makes this machine one of its managers.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] if GitLab does not let the user; others if it cannot be reached. If the runner was created
    /// and cannot be verified, it is removed again as far as that is possible.
    pub fn create_runner(
        &self,
        user: PersonalAccessToken,
        runner_type: RunnerType,
        registration: Registration,
    ) -> Result<Runner, Error> {
        let system_id = machine()?;
        let config = config(&self.server, &system_id, registration.info().clone())?;
        let call = CreateRunner::new(user, runner_type).with_attributes(registration.attributes().clone());
        let made = complete(Exchange::new(&config, call, self.link.clock.now()), &self.link)
            .map_err(|error| as_user(error, "create_runner"))?;
        let expires_at = made.token_expires_at.clone();
        self.adopt(made.token.clone(), Some((made.id, expires_at)), system_id, registration).inspect_err(|_| {
            let call = gitlab_runner_api::api::unregister::Unregister::new(made.token);
            // Nobody has its token; the error that is told is why.
            _ = complete(Exchange::new(&config, call, self.link.clock.now()), &self.link);
        })
    }

    /// The runner of a token that exists: its first contact makes this machine known, with its features.
    fn adopt(
        &self,
        token: RunnerToken,
        known: Option<(u64, Option<String>)>,
        system_id: SystemId,
        registration: Registration,
    ) -> Result<Runner, Error> {
        let config = config(&self.server, &system_id, registration.info().clone())?;
        let call = Verify::new(token.clone(), config.info()).with_system_id(system_id.clone());
        let verified = complete(Exchange::new(&config, call, self.link.clock.now()), &self.link)?;
        let (id, expires_at) = known.unwrap_or((verified.id.unwrap_or(0), verified.token_expires_at));
        let record = Record {
            server: self.server.clone(),
            id,
            token,
            token_obtained_at: Some(at(self.link.clock.now())),
            token_expires_at: expires_at,
            system_id,
            attributes: registration.attributes().clone(),
            info: registration.info().clone(),
        };
        Ok(Runner::of(record, config, self.link.clone()))
    }
}

fn machine() -> Result<SystemId, Error> {
    make_system_id().map_err(Error::System)
}

pub(crate) fn config(server: &Server, system_id: &SystemId, info: Info) -> Result<Arc<RunnerConfig>, Error> {
    let seed = getrandom::u64().map_err(|error| Error::System(error.into()))?;
    let config = RunnerConfig::new(server.clone(), info).with_system_id(system_id.clone()).with_jitter_seed(seed);
    Ok(Arc::new(config))
}
