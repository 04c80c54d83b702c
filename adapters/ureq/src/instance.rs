//! A GitLab instance, before there is a runner of it.

use std::sync::Arc;

use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::{RunnerConfig, Server, SystemId};

use crate::error::Error;
use crate::link::Link;
use crate::transport::Transport;

/// A GitLab instance to make runners of, over a transport of one's own.
///
/// [`Runner::register`](crate::Runner::register) is the short form for a GitLab that needs no certificates of its own.
#[derive(Clone, Debug)]
pub struct Instance {
    pub(crate) server: Server,
    pub(crate) link: Link,
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
}

pub(crate) fn config(server: &Server, system_id: &SystemId, info: Info) -> Result<Arc<RunnerConfig>, Error> {
    let seed = getrandom::u64().map_err(|error| Error::System(error.into()))?;
    let config = RunnerConfig::new(server.clone(), info).with_system_id(system_id.clone()).with_jitter_seed(seed);
    Ok(Arc::new(config))
}
