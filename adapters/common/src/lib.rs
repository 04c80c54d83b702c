//! What the adapters of [`gitlab_runner_api`] share: the runner file, the system id, the files of
//! file variables, and what a new runner is to be like.
//!
//! Applications use an adapter, which passes on what they need of this. It does no networking, and the file is the same
//! for all adapters.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod error;
mod file;
pub mod form;
mod python;
mod registration;
mod system_id;
mod variables;

pub use error::FileError;
pub use file::{Record, at, from_json, load, save, to_json};
pub use form::check_writable;
pub use python::load as load_python;
pub use registration::{Registration, default_info};
pub use system_id::make as make_system_id;
pub use variables::write_files;

/// What a job's log says when masked values are so short that much else is hidden with them.
#[must_use]
pub fn short_secrets_warning(count: usize) -> String {
    gitlab_runner_api::log::ansi::warning(&format!(
        "Masked values shorter than 8 characters: {count}. Other text that contains them is masked too."
    ))
}
