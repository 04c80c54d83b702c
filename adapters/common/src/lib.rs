//! The code that the adapters of [`gitlab_runner_api`] share.
//!
//! Applications do not need this crate directly. Each adapter re-exports the parts that its users need.
//!
//! - [`Record`], [`load`] and [`save`]: the runner file, which holds the token and the attributes of a runner. Its
//!   format is the same for all adapters. [`load_python`] reads the runner file of the Python package
//!   `gitlab_runner_api`.
//! - [`form`]: how all stored files are written, so that a crash leaves either the old or the new content.
//! - [`write_files`]: the files of file variables.
//! - [`make_system_id`]: the system ID, by which GitLab tells the hosts apart that share a runner token.
//! - [`Registration`]: the attributes of a new runner.
//! - [`Spool`]: a temporary file for the log of a running job.
//!
//! The crate does no networking. Files that hold secrets can be read by their owner only.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod error;
mod file;
pub mod form;
mod python;
mod registration;
mod spool;
mod system_id;
mod variables;

pub use error::FileError;
pub use file::{Record, at, from_json, load, save, to_json};
pub use form::check_writable;
pub use python::load as load_python;
pub use registration::{Registration, default_info};
pub use spool::{READ_FOR, Spool};
pub use system_id::make as make_system_id;
pub use variables::write_files;

/// Returns the warning for a job's log that some masked values are so short that other text is hidden too.
#[must_use]
pub fn short_secrets_warning(count: usize) -> String {
    gitlab_runner_api::log::ansi::warning(&format!(
        "Masked values shorter than 8 characters: {count}. Other text that contains them is masked too."
    ))
}
