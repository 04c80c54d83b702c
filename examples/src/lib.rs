//! What the runners in this folder share: how a job is run with a shell, and the demonstration.
//!
//! - [`Host`] is what all jobs of a runner have in common. It prepares a [`Workspace`] for each: folders, variables, files.
//! - [`Execution`] takes one job through its steps and says what goes into its log. It starts no process and never waits, so
//!   that the blocking and the async runner run jobs in exactly the same way.
//! - [`Group`] is a running script with all that it has started.
//! - [`Console`] prints one line whenever the state of a job changes.
//! - [`Demo`] is a simulated GitLab with a few jobs, and a user who cancels one of them.
//!
//! All of it needs a Unix, for process groups and `sh`.

mod console;
mod demo;
mod execution;
mod group;
mod workspace;

use gitlab_runner_api::api::info::{Features, Info};

pub use console::{Console, State};
pub use demo::Demo;
pub use execution::{End, Execution, Step};
pub use group::Group;
pub use workspace::{Folder, Host, Workspace, script};

/// Any error, as a text for people.
pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// What a runner that runs jobs by [`Execution`] tells GitLab about itself.
///
/// `like` is what the library says by itself, which has the platform and the features that the library keeps. What is
/// promised beyond that is kept here: variables are passed on, those marked raw are not expanded, all entries of `steps` are
/// run, and a job that is cancelled runs its `after_script`.
#[must_use]
pub fn info(like: &Info, name: &str) -> Info {
    let features = Features::default().variables(true).raw_variables(true).shared(true);
    let features = features.multi_build_steps(true).cancel_gracefully(true);
    like.clone().with_name(name).with_version(env!("CARGO_PKG_VERSION")).with_executor("shell").with_features(features)
}
