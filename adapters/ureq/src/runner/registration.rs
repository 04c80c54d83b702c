//! How an instance makes its runners: by a registration, in the name of a user, or of a token that exists.

use gitlab_runner_api::api::create_runner::{CreateRunner, RunnerType};
use gitlab_runner_api::api::register::Register;
use gitlab_runner_api::api::verify::Verify;
use gitlab_runner_api::{Exchange, PersonalAccessToken, RegistrationToken, RunnerToken, SystemId};
use gitlab_runner_api_common::{Record, Registration, at, make_system_id};

use super::Runner;
use crate::error::Error;
use crate::exchange::{as_user, complete};
use crate::instance::{Instance, config};

impl Instance {
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
