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

/// The members are: version, address, id, token, data.
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
    /// The package stores the access level in `data`.
    access_level: Option<AccessLevel>,
}

/// Reads a runner file that the Python package `gitlab_runner_api` wrote, and never changes it. Does not use the network. Such files have
/// no system ID, so the runner gets the one of this host.
///
/// # Errors
///
/// [`FileError::Io`] if it cannot be read, or the operating system gives no random numbers; [`FileError::Bad`] if it is something else.
pub fn load(path: &Path) -> Result<Record, FileError> {
    let failed = |error| FileError::io(path, error);
    let text = fs::read(path).map_err(failed)?;
    // The messages of serde quote the file, which contains a token.
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
    // The default of GitLab.
    attributes.run_untagged = data.run_untagged.unwrap_or(true);
    let tags = data.tag_list.iter().flat_map(|tags| tags.split(',')).map(str::trim);
    attributes.tag_list = tags.filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn written_by_python(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python").join(name)
    }

    #[test]
    fn all_that_the_package_kept_of_a_runner_is_taken_over() {
        let runner = load(&written_by_python("runner.json")).unwrap();
        assert_eq!((runner.server.as_str(), runner.id), ("http://gitlab.example.test", 2));
        assert_eq!(runner.token.expose(), "glrtr-e4U5Uv-2pbRcPb2joRpB");
        let kept = runner.attributes;
        assert_eq!(kept.description.as_deref(), Some("Ångström runner, \"quoted\""));
        assert_eq!((kept.locked, kept.run_untagged, kept.maximum_timeout), (true, true, Some(3600)));
        assert_eq!(kept.tag_list, ["hpc", "größe"]);
        assert_eq!(kept.access_level, Some(AccessLevel::NotProtected));
        let info = runner.info;
        assert_eq!((info.name(), info.version(), info.revision()), ("lhcb-runner", "1.2.3", Some("abc")));
        assert_eq!(info.executor(), Some("dirac"));
    }

    #[test]
    fn what_the_package_was_not_told_is_as_gitlab_has_it() {
        let runner = load(&written_by_python("runner-minimal.json")).unwrap();
        assert_eq!((runner.id, runner.token.expose()), (3, "glrtr-Yn298kZNKNN3c036NQH2"));
        assert!(runner.attributes.run_untagged && runner.attributes.tag_list.is_empty());
        assert_eq!(runner.info, default_info());
    }

    #[test]
    fn what_is_no_runner_of_the_package_is_refused_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.json");
        let good = fs::read_to_string(written_by_python("runner.json")).unwrap();
        let cuts = (0..good.len()).filter(|&at| good.is_char_boundary(at)).map(|at| good[..at].to_owned());
        let others = [
            good.replacen("[1,", "[2,", 1),
            good.replace("http://", "nowhere"),
            good.replace("glrtr-", "glrtr-\\n"),
            good.replace("3600", "\"glrtr-\""),
            fs::read_to_string(written_by_python("job-running.json")).unwrap(),
        ];
        for text in cuts.chain(others) {
            fs::write(&path, &text).unwrap();
            let error = load(&path).unwrap_err();
            assert!(matches!(error, FileError::Bad { .. }), "{error:?}");
            let shown = format!("{error} {error:?}");
            assert!(shown.contains("old.json") && !shown.contains("glrtr") && !shown.contains("glcbt"), "{shown}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
