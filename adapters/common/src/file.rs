//! The runner file: what must be kept of a runner between runs.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use gitlab_runner_api::api::register::Attributes;
use gitlab_runner_api::{RunnerToken, Server, SystemId};
use serde::{Deserialize, Serialize};

use crate::error::FileError;

const KIND: &str = "runner";
const FORMAT: u32 = 1;

/// What is known of a runner, and kept in its file.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Record {
    /// The instance it is a runner of.
    pub server: Server,
    /// Its id there.
    pub id: u64,
    /// Its authentication token.
    pub token: RunnerToken,
    /// When that stops working, in ISO 8601.
    pub token_expires_at: Option<String>,
    /// The name of this machine among those that share the token.
    pub system_id: SystemId,
    /// The attributes it was registered with.
    pub attributes: Attributes,
}

impl Record {
    /// A runner with no attributes, whose token does not expire.
    #[must_use]
    pub fn new(server: Server, id: u64, token: RunnerToken, system_id: SystemId) -> Self {
        Self { server, id, token, token_expires_at: None, system_id, attributes: Attributes::default() }
    }

    /// Writes a file that is there whole or not at all, that its owner alone can read, and that outlives a power cut.
    ///
    /// # Errors
    ///
    /// [`FileError::Io`].
    pub fn save(&self, path: &Path) -> Result<(), FileError> {
        save(self, path)
    }

    /// Reads a file that [`Record::save`] wrote.
    ///
    /// # Errors
    ///
    /// [`FileError::Io`], [`FileError::Bad`]. The file is never changed.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        load(path)
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    kind: String,
    format: u32,
    url: String,
    id: u64,
    token: String,
    #[serde(default)]
    token_expires_at: Option<String>,
    system_id: SystemId,
    #[serde(default)]
    attributes: Attributes,
}

fn save(record: &Record, path: &Path) -> Result<(), FileError> {
    let stored = Stored {
        kind: KIND.to_owned(),
        format: FORMAT,
        url: record.server.as_str().to_owned(),
        id: record.id,
        token: record.token.expose().to_owned(),
        token_expires_at: record.token_expires_at.clone(),
        system_id: record.system_id.clone(),
        attributes: record.attributes.clone(),
    };
    let json = serde_json::to_vec_pretty(&stored).map_err(|error| FileError::io(path, error.into()))?;
    replace(path, &json).map_err(|error| FileError::io(path, error))
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut file = tempfile::Builder::new().prefix(".runner-").tempfile_in(&folder)?;
    file.write_all(content)?;
    file.write_all(b"\n")?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    // Elsewhere a folder cannot be opened as a file, and renames are durable by other means.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

fn load(path: &Path) -> Result<Record, FileError> {
    #[derive(Deserialize)]
    struct Head {
        kind: String,
        format: u32,
    }
    let text = fs::read(path).map_err(|error| FileError::io(path, error))?;
    // Serde's own words quote the file, which holds a token.
    let damaged = |error: serde_json::Error| {
        let at = format!("line {} column {}", error.line(), error.column());
        FileError::bad(path, format!("this is not a runner file, or it is damaged ({at})"))
    };
    let head: Head = serde_json::from_slice(&text).map_err(damaged)?;
    if head.kind != KIND {
        return Err(FileError::bad(path, "this is not a runner file"));
    }
    if head.format > FORMAT {
        let problem = format!("it has format {}, this version reads up to {FORMAT}; use a newer version", head.format);
        return Err(FileError::bad(path, problem));
    }
    let stored: Stored = serde_json::from_slice(&text).map_err(damaged)?;
    let bad = |what: String| FileError::bad(path, what);
    Ok(Record {
        server: Server::parse(&stored.url).map_err(|error| bad(error.to_string()))?,
        id: stored.id,
        token: RunnerToken::new(stored.token).map_err(|error| bad(error.to_string()))?,
        token_expires_at: stored.token_expires_at,
        system_id: stored.system_id,
        attributes: stored.attributes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            server: Server::parse("https://gitlab.example.test").unwrap(),
            id: 12,
            token: RunnerToken::new("glrt-canary").unwrap(),
            token_expires_at: Some("2027-01-11T14:39:24.000Z".to_owned()),
            system_id: SystemId::new("s_0123456789ab").unwrap(),
            attributes: Attributes::default(),
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runner.json");
        save(&record(), &path).unwrap();
        save(&record(), &path).unwrap();
        let loaded = load(&path).unwrap();
        assert_eq!((loaded.id, loaded.token.expose()), (12, "glrt-canary"));
        assert_eq!((loaded.system_id, loaded.token_expires_at), (record().system_id, record().token_expires_at));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays behind");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runner.json");
        save(&record(), &path).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        let newer = good.replace("\"format\": 1", "\"format\": 2").replace("system_id", "name");
        let mut bad = vec![newer, good.replace("\"runner\"", "\"job\""), good.replace("https", "ftp"), String::new()];
        bad.extend((0..good.len() - 2).map(|length| good[..length].to_owned()));
        for text in bad {
            fs::write(&path, &text).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(error.contains("runner.json") && error.contains("not changed"), "{error}");
            assert!(!error.contains("canary"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert!(matches!(load(&folder.path().join("none.json")), Err(FileError::Io { .. })));
        assert!(matches!(save(&record(), &folder.path().join("none/runner.json")), Err(FileError::Io { .. })));
    }
}
