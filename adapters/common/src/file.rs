//! The runner file: what is stored of a runner between runs.

use std::io;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::api::register::Attributes;
use gitlab_runner_api::api::reset_token::rotation_due;
use gitlab_runner_api::{RunnerToken, Server, SystemId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::error::FileError;
use crate::form;
use crate::registration::default_info;

const KIND: &str = "runner";
const FORMAT: u32 = 1;

/// The content of a runner file.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a new member is one that every adapter must fill in")]
pub struct Record {
    /// The GitLab instance that the runner belongs to.
    pub server: Server,
    /// The id of the runner at this instance.
    pub id: u64,
    /// The authentication token of the runner.
    pub token: RunnerToken,
    /// When this host got the token, in ISO 8601.
    pub token_obtained_at: Option<String>,
    /// When the token expires, in ISO 8601. `None` if it never does.
    pub token_expires_at: Option<String>,
    /// The system ID: it names this host among the hosts that share the token.
    pub system_id: SystemId,
    /// The attributes that the runner was registered with.
    pub attributes: Attributes,
    /// What the runner tells GitLab about itself. Its features are not stored.
    pub info: Info,
}

/// Formats a time as the runner file contains it.
#[must_use]
pub fn at(time: Timestamp) -> String {
    let since = time.min(LAST).saturating_since(Timestamp::EPOCH);
    humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string()
}

/// The last second of the year 9999, the latest that ISO 8601 can express with four digits.
const LAST: Timestamp = Timestamp::from_millis(253_402_300_799_000);

/// GitLab writes UTC as `Z`, and the offset (`+02:00`) if its administrator has set another time zone.
fn time(text: &str) -> Option<Timestamp> {
    let (local, ahead, offset) = match text.strip_suffix('Z') {
        Some(local) => (local, false, Duration::ZERO),
        None => {
            let (local, offset) = text.split_at_checked(text.len().checked_sub("+00:00".len())?)?;
            let (hours, minutes) = offset.strip_prefix(['+', '-'])?.split_once(':')?;
            let seconds = 60 * (60 * hours.parse::<u64>().ok()? + minutes.parse::<u64>().ok()?);
            (local, offset.starts_with('+'), Duration::from_secs(seconds))
        }
    };
    let time = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    let utc = if ahead { time.checked_sub(offset)? } else { time.checked_add(offset)? };
    let since = utc.duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(Timestamp::from_millis(u64::try_from(since.as_millis()).ok()?))
}

impl Record {
    /// When the token should be replaced. `None` if it never expires, or if it is not known when it was issued.
    #[must_use]
    pub fn rotation_due(&self) -> Option<Timestamp> {
        let (obtained, expires) = self.token_obtained_at.as_deref().zip(self.token_expires_at.as_deref())?;
        Some(rotation_due(time(obtained)?, time(expires)?))
    }

    /// The first lines of a job's log, as the official runner writes them. They name the runner and the host.
    ///
    /// The second line names the runner by its description and its short token. A part that is missing leaves no gap: a
    /// runner that was created in GitLab has no description here, and a token of nine characters or less has no short form,
    /// because that would be the whole token. If both are missing, the line has the runner's id.
    #[must_use]
    pub fn log_header(&self, info: &Info) -> String {
        let revision = info.revision().map(|revision| format!(" ({revision})")).unwrap_or_default();
        let description = self.attributes.description.as_deref().unwrap_or_default();
        let description = description.replace(|c: char| c.is_control(), " ");
        let named = match (description.trim(), self.token.short()) {
            ("", "") => format!("runner {}", self.id),
            ("", short) => short.to_owned(),
            (description, "") => description.to_owned(),
            (description, short) => format!("{description} {short}"),
        };
        let (name, version, system_id) = (info.name(), info.version(), self.system_id.as_str());
        format!("Running with {name} {version}{revision}\n  on {named}, system ID: {system_id}\n")
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    url: String,
    id: u64,
    token: String,
    #[serde(default)]
    token_obtained_at: Option<String>,
    #[serde(default)]
    token_expires_at: Option<String>,
    system_id: SystemId,
    #[serde(default)]
    attributes: Attributes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    info: Option<Program>,
}

/// What a program tells GitLab about itself. Its features are not stored, because they depend on its code.
#[derive(Serialize, Deserialize)]
struct Program {
    name: String,
    version: String,
    #[serde(default)]
    revision: Option<String>,
    #[serde(default)]
    executor: Option<String>,
}

impl Program {
    /// Returns `None` for the defaults of this crate, because the running version counts and not the one that wrote the file.
    fn of(info: &Info) -> Option<Self> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let (revision, executor) = (owned(info.revision()), owned(info.executor()));
        let own = info.name() == default_info().name() && revision.is_none() && executor.is_none();
        (!own).then(|| Self { name: info.name().to_owned(), version: info.version().to_owned(), revision, executor })
    }

    fn into_info(self) -> Info {
        let mut info = default_info().with_name(self.name).with_version(self.version);
        if let Some(revision) = self.revision {
            info = info.with_revision(revision);
        }
        if let Some(executor) = self.executor {
            info = info.with_executor(executor);
        }
        info
    }
}

/// Writes a runner file. The file is replaced atomically, only its owner can read it, and it is synced to disk.
///
/// # Errors
///
/// [`FileError::Io`] if it cannot be written.
pub fn save(record: &Record, path: &Path) -> Result<(), FileError> {
    form::write(path, KIND, FORMAT, &stored(record))
}

/// Returns what [`save`] writes, as a text. **Secret**: it contains the token.
#[must_use]
pub fn to_json(record: &Record) -> String {
    form::print(KIND, FORMAT, &stored(record))
}

fn stored(record: &Record) -> Stored {
    Stored {
        url: record.server.as_str().to_owned(),
        id: record.id,
        token: record.token.expose().to_owned(),
        token_obtained_at: record.token_obtained_at.clone(),
        token_expires_at: record.token_expires_at.clone(),
        system_id: record.system_id.clone(),
        attributes: record.attributes.clone(),
        info: Program::of(&record.info),
    }
}

/// Reads a file that [`save`] wrote, and never changes it.
///
/// # Errors
///
/// [`FileError::Io`] if it cannot be read, [`FileError::Bad`] if it is no runner file.
pub fn load(path: &Path) -> Result<Record, FileError> {
    let Some(stored) = form::read::<Stored>(path, KIND, FORMAT)? else {
        return Err(FileError::io(path, io::ErrorKind::NotFound.into()));
    };
    record(stored).map_err(|problem| FileError::bad(path, problem))
}

/// Reads what [`to_json`] returned or [`save`] wrote.
///
/// # Errors
///
/// A message that says what is wrong with the text, without quoting it.
pub fn from_json(text: &str) -> Result<Record, String> {
    record(form::parse(text.as_bytes(), KIND, FORMAT)?)
}

fn record(stored: Stored) -> Result<Record, String> {
    Ok(Record {
        server: Server::parse(&stored.url).map_err(|error| error.to_string())?,
        id: stored.id,
        token: RunnerToken::new(stored.token).map_err(|error| error.to_string())?,
        token_obtained_at: stored.token_obtained_at,
        token_expires_at: stored.token_expires_at,
        system_id: stored.system_id,
        attributes: stored.attributes,
        info: stored.info.map_or_else(default_info, Program::into_info),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn record() -> Record {
        Record {
            server: Server::parse("https://gitlab.example.test").unwrap(),
            id: 12,
            token: RunnerToken::new("glrt-canary").unwrap(),
            token_obtained_at: Some(at(Timestamp::from_millis(1_800_000_000_123))),
            token_expires_at: Some("2027-01-16T08:00:00.123+00:00".to_owned()),
            system_id: SystemId::new("s_0123456789ab").unwrap(),
            attributes: Attributes::default(),
            info: default_info().with_name("ours").with_revision("abc"),
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
        assert_eq!(loaded.info, record().info);
        let due = loaded.rotation_due().unwrap();
        assert_eq!(due.as_millis(), 1_800_000_000_123 + 86_400_000 * 3 / 4, "three quarters of a day");
        assert_eq!((loaded.system_id, loaded.token_expires_at), (record().system_id, record().token_expires_at));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays behind");
        // The file and the text are one and the same.
        let text = to_json(&record());
        assert_eq!(fs::read_to_string(&path).unwrap(), text.clone() + "\n");
        assert_eq!(to_json(&from_json(&text).unwrap()), text);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn the_header_names_the_runner_without_gaps() {
        let named = |description: Option<&str>, token: &str| {
            let mut record = record();
            record.attributes.description = description.map(str::to_owned);
            record.token = RunnerToken::new(token).unwrap();
            record.log_header(&Info::new("ours", "1.2").with_revision("abc"))
        };
        let long = "glrt-t1_abcdefghijklmnop";
        for (description, token, line) in [
            (Some("build farm"), long, "  on build farm abcdefghi, system ID: s_0123456789ab"),
            (Some("a\u{1b}b\n"), long, "  on a b abcdefghi, system ID: s_0123456789ab"),
            (None, long, "  on abcdefghi, system ID: s_0123456789ab"),
            (Some(" "), long, "  on abcdefghi, system ID: s_0123456789ab"),
            (Some("build farm"), "glrt-canary", "  on build farm, system ID: s_0123456789ab"),
            (None, "glrt-canary", "  on runner 12, system ID: s_0123456789ab"),
        ] {
            assert_eq!(named(description, token), format!("Running with ours 1.2 (abc)\n{line}\n"));
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
            let problem = from_json(&text).unwrap_err();
            assert!(error.contains(&problem) && !problem.is_empty(), "{problem}");
        }
        assert!(matches!(load(&folder.path().join("none.json")), Err(FileError::Io { .. })));
        assert!(matches!(save(&record(), &folder.path().join("none/runner.json")), Err(FileError::Io { .. })));
    }
}
