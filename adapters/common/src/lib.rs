//! What the adapters of [`gitlab_runner_api`] share: the runner file, the system id, and what a new runner is to be like.
//!
//! Applications use an adapter, which passes on what they need of this. It does no networking, and the file is the same
//! for all adapters.
//!
//! ```
//! use gitlab_runner_api::api::register::Attributes;
//! use gitlab_runner_api::{RunnerToken, Server};
//! use gitlab_runner_api_files::{Record, make_system_id};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("my-runner.json");
//! let record = Record::new(Server::parse("https://gitlab.example.com")?, 12, RunnerToken::new("glrt-x")?, make_system_id()?);
//! record.save(&path)?;
//! assert_eq!(Record::load(&path)?.id, 12);
//! # Ok(())
//! # }
//! ```

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod error;
mod file;
mod registration;
mod system_id;

pub use error::FileError;
pub use file::Record;
pub use registration::{Registration, default_info};
pub use system_id::make as make_system_id;
