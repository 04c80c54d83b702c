//! Runner files of the Python package `gitlab_runner_api`, as `Runner.dump` wrote them.
//!
//! `[1, api_url, id, token, data]`, where `data` holds what the runner was registered with.

use std::fs;
use std::path::Path;

use gitlab_runner_api::api::register::{AccessLevel, Attributes};
use gitlab_runner_api::{RunnerToken, Server};
use serde::Deserialize;

use crate::error::FileError;
use crate::file::Record;
use crate::registration::default_info;
use crate::system_id;

/// Version, address, id, token, data.
#[derive(Deserialize)]
struct Stored(u32, String, u64, String, Data);

#[derive(Default, Deserialize)]
#[serde(default)]
struct Data {
    description: Option<String>,
    locked: Option<bool>,
    run_untagged: Option<bool>,
    /// Separated by commas.
    tag_list: Option<String>,
    maximum_timeout: Option<u64>,
    info: Program,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Program {
    name: Option<String>,
    version: Option<String>,
    revision: Option<String>,
    executor: Option<String>,
    /// The package puts it here.
    access_level: Option<AccessLevel>,
}

/// Reads a runner file that the Python package `gitlab_runner_api` wrote, and never changes it. Asks nobody. The package knew
/// no system ID: the runner gets that of this machine.
///
/// # Errors
///
/// [`FileError::Io`], also if there are no random numbers; [`FileError::Bad`].
pub fn load(path: &Path) -> Result<Record, FileError> {
    let failed = |error| FileError::io(path, error);
    let text = fs::read(path).map_err(failed)?;
    // Serde's own words quote the file, which holds a token.
    let Stored(version, url, id, token, data) = serde_json::from_slice(&text).map_err(|error| {
        let at = format!("line {} column {}", error.line(), error.column());
        FileError::bad(path, format!("this is not a runner of the Python package, or it is damaged ({at})"))
    })?;
    if version != 1 {
        return Err(FileError::bad(path, format!("it has version {version}, and version 1 is what can be read")));
    }
    let Program { name, version, revision, executor, access_level } = data.info;
    let mut info = default_info();
    if let Some(name) = name {
        info = info.with_name(name);
    }
    if let Some(version) = version {
        info = info.with_version(version);
    }
    if let Some(revision) = revision {
        info = info.with_revision(revision);
    }
    if let Some(executor) = executor {
        info = info.with_executor(executor);
    }
    let mut attributes = Attributes::default();
    attributes.description = data.description;
    attributes.locked = data.locked.unwrap_or_default();
    // GitLab's own choice where nothing was said.
    attributes.run_untagged = data.run_untagged.unwrap_or(true);
    attributes.tag_list = data.tag_list.iter().flat_map(|tags| tags.split(',')).map(str::to_owned).collect();
    attributes.access_level = access_level;
    attributes.maximum_timeout = data.maximum_timeout;
    Ok(Record {
        server: Server::parse(&url).map_err(|error| FileError::bad(path, error.to_string()))?,
        id,
        token: RunnerToken::new(token).map_err(|error| FileError::bad(path, error.to_string()))?,
        token_obtained_at: None,
        token_expires_at: None,
        system_id: system_id::make().map_err(failed)?,
        attributes,
        info,
    })
}
