//! Tests for GitLab runners without a GitLab.
//!
//! - [`Coordinator`]: a simulated GitLab, a pure machine on virtual time.
//! - [`World`]: a whole runner, a faulty network and a GitLab on virtual time, with the laws of a correct runner checked.
//! - [`conformance`]: what a transport must do and must not, over a loopback server that misbehaves.
//! - [`scenarios`]: what an adapter must get right, whatever the network does.
//! - [`exhaustive`]: every small life of a job, with a fault at every place.
//! - [`Front`]: a door to the server with faults.
//! - [`Server`]: the same GitLab behind a loopback HTTP server, for tests of real clients.
//!
//! Nothing here shares parsing code with the crate under test.

pub mod adversary;
pub mod conformance;
mod coordinator;
mod dice;
pub mod exhaustive;
mod front;
pub mod fuzz;
pub mod monitor;
mod net;
mod proxy;
pub mod scenarios;
mod server;
pub mod sim;
#[cfg(feature = "tls")]
mod tls;
mod world;

pub use self::coordinator::{
    Answer, Coordinator, Endpoint, FinalUpdate, HoldId, HostLimit, JobRecord, JobStatus, Maintenance, NewJob,
    ReplayRule, Settings, Stats, StoredArtifact,
};
pub use self::dice::Dice;
pub use self::front::{Front, Treatment};
pub use self::net::{Fate, Faults, Net};
pub use self::proxy::Proxy;
pub use self::server::Server;
#[cfg(feature = "tls")]
pub use self::tls::TlsFront;
pub use self::world::{Intervention, JobStory, Payload, Scenario, Violation, World};
