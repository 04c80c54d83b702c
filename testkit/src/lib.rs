//! A simulated GitLab, for tests of GitLab runners.
//!
//! To test your own runner, use one of these:
//!
//! - [`Server`] is the simulated GitLab behind a loopback socket, for tests with a real HTTP client.
//! - [`Coordinator`] is the simulated GitLab as a pure function of requests and virtual time, for tests without a
//!   network.
//! - [`sim`] is what the program `simulated-gitlab` runs: a server for runners in any language, with requests to steer
//!   it.
//! - [`TimeLimit`] ends a test that hangs.
//!
//! To test your own adapter of `gitlab-runner-api`, use these:
//!
//! - [`conformance`] checks what a transport must and must not do, against a loopback server that misbehaves.
//! - [`scenarios`] runs jobs through an adapter while the network misbehaves.
//! - [`Front`] stands between a client and a [`Server`]. It loses or delays requests and answers, or answers by itself.
//! - [`Proxy`] is an HTTP proxy that understands `CONNECT`. With the feature `tls`, `TlsFront` adds TLS to a
//!   [`Server`].
//!
//! The tests of `gitlab-runner-api` itself use the rest, which the feature `checks` adds:
//!
//! - `World` runs a complete runner, an unreliable network and a GitLab on virtual time. It checks the rules for a
//!   correct runner after every step.
//! - `exhaustive` tries all short lives of a job, with each kind of fault at each step.
//! - `adversary` looks for answers of a server that make a state machine break these rules, and `monitor` checks
//!   them.
//! - `fuzz` contains the bodies of the fuzz targets.
//!
//! With virtual time, the test sets the clock. An outage of hours then takes a moment, and every run is the same.
//!
//! The test kit shares no parsing code with `gitlab-runner-api`. If it did, a mistake in that code could go unnoticed,
//! because both sides would make it.

#[cfg(feature = "checks")]
pub mod adversary;
pub mod conformance;
mod content;
mod coordinator;
mod dice;
#[cfg(feature = "checks")]
pub mod exhaustive;
mod form;
mod front;
#[cfg(feature = "checks")]
pub mod fuzz;
#[cfg(feature = "checks")]
pub mod monitor;
#[cfg(feature = "checks")]
mod net;
mod proxy;
mod repository;
mod routes;
pub mod scenarios;
mod server;
pub mod sim;
mod time_limit;
#[cfg(feature = "tls")]
mod tls;
mod treatment;
#[cfg(feature = "checks")]
mod world;

pub use self::content::Content;
pub use self::coordinator::{
    Answer, Coordinator, Endpoint, Environment, FinalUpdate, HoldId, HostLimit, JobRecord, JobStatus, Maintenance,
    NewJob, Registration, ReplayRule, RequestRecord, Role, RunnerType, Settings, Stats, StoredArtifact,
};
pub use self::dice::Dice;
pub use self::front::Front;
#[cfg(feature = "checks")]
pub use self::net::{Fate, Faults, Net};
pub use self::proxy::Proxy;
pub use self::server::Server;
pub use self::time_limit::TimeLimit;
#[cfg(feature = "tls")]
pub use self::tls::TlsFront;
pub use self::treatment::Treatment;
#[cfg(feature = "checks")]
pub use self::world::{Intervention, JobStory, Payload, Scenario, Violation, World};
