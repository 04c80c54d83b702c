//! The form of stored files: JSON with the kind and the format number of its content.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tempfile::NamedTempFile;

use crate::error::FileError;

/// The prefix of the names of temporary files, which become other files when they are complete.
pub const UNFINISHED: &str = ".runner-";

#[derive(Serialize, Deserialize)]
struct Form<T> {
    kind: String,
    format: u32,
    #[serde(flatten)]
    content: T,
}

/// Reads a file that [`write()`] wrote, in this format or an older one. Returns `None` if there is no such file.
///
/// # Errors
///
/// [`FileError::Io`] if it cannot be read; [`FileError::Bad`] if it is damaged, something else, or of a newer format. Neither quotes it.
pub fn read<T: DeserializeOwned>(path: &Path, kind: &str, format: u32) -> Result<Option<T>, FileError> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| FileError::io(path, error))?,
    };
    parse(&text, kind, format).map(Some).map_err(|problem| FileError::bad(path, problem))
}

/// Reads what [`print()`] returned, in this format or an older one.
///
/// # Errors
///
/// A message that says what is wrong with the text, without quoting it.
pub fn parse<T: DeserializeOwned>(text: &[u8], kind: &str, format: u32) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Anything {}
    // The messages of serde quote the text, which may contain a token.
    let damaged = |error: serde_json::Error| {
        let at = format!("line {} column {}", error.line(), error.column());
        format!("this is not the stored form of a {kind}, or it is damaged ({at})")
    };
    let head: Form<Anything> = serde_json::from_slice(text).map_err(damaged)?;
    if head.kind != kind {
        return Err(format!("this is not the stored form of a {kind}"));
    }
    if head.format > format {
        return Err(format!("it has format {}, this version reads up to {format}; use a newer version", head.format));
    }
    serde_json::from_slice::<Form<T>>(text).map(|form| form.content).map_err(damaged)
}

/// Writes a file in this form, as [`replace`] does.
///
/// # Errors
///
/// [`FileError::Io`] if it cannot be written.
pub fn write(path: &Path, kind: &str, format: u32, content: &impl Serialize) -> Result<(), FileError> {
    replace(path, print(kind, format, content).as_bytes()).map_err(|error| FileError::io(path, error))
}

/// Returns the text that [`write()`] writes.
#[must_use]
pub fn print(kind: &str, format: u32, content: &impl Serialize) -> String {
    // This fails only for maps with keys that are not strings, which no stored content has.
    serde_json::to_string_pretty(&Form { kind: kind.to_owned(), format, content }).unwrap_or_default()
}

/// Replaces a file with this content and a line end. This is atomic, only the owner can read the file, and it is synced to disk.
///
/// # Errors
///
/// The error of the operating system.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = folder(path);
    let mut file = unfinished(&folder)?;
    file.as_file_mut().write_all(content)?;
    file.as_file_mut().write_all(b"\n")?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync_folder(&folder)
}

/// Creates a file atomically. Only its owner can read it. `content` gets the file before others can see it, and returns what to write.
///
/// # Errors
///
/// [`io::ErrorKind::AlreadyExists`] if the file exists, also if another host was faster; otherwise the error of the operating system.
pub fn create(path: &Path, content: impl FnOnce(&File) -> io::Result<Vec<u8>>) -> io::Result<File> {
    let mut file = unfinished(&folder(path))?;
    let content = content(file.as_file())?;
    file.as_file_mut().write_all(&content)?;
    file.as_file().sync_all()?;
    Ok(file.persist_noclobber(path)?)
}

/// Replaces a file with a copy of itself, so that processes that have opened it before write to the old file from now on. `may_i` is asked
/// just before the replacement, and can refuse it with an error.
///
/// # Errors
///
/// The error of the operating system, or of `may_i`.
pub fn renew(path: &Path, may_i: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let folder = folder(path);
    let mut file = unfinished(&folder)?;
    io::copy(&mut File::open(path)?, file.as_file_mut())?;
    file.as_file().sync_all()?;
    may_i()?;
    file.persist(path)?;
    sync_folder(&folder)
}

/// Creates a temporary file that only its owner can read. It is removed if it is not renamed to its place.
///
/// The error is the operating system's, without the name of this file. The file was chosen by us, so its name means nothing
/// to the user, who gets the name of the file that was asked for. `tempfile_in`, and writing to a `NamedTempFile` but for its
/// `as_file_mut`, would add the name.
fn unfinished(folder: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix(UNFINISHED).make_in(folder, |path| {
        let mut options = File::options();
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.read(true).write(true).create_new(true).open(path)
    })
}

/// Syncs a folder to disk, so that a file created or renamed in it is still there after a power failure.
///
/// # Errors
///
/// The error of the operating system.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    // On other systems a folder cannot be opened as a file. They make renames durable themselves.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Checks that a file can be written there, without changing an existing one.
///
/// # Errors
///
/// [`FileError::Io`] if it cannot.
pub fn check_writable(path: &Path) -> Result<(), FileError> {
    let trial = || {
        if path.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        fs::remove_file(unfinished(&folder(path))?.path())
    };
    trial().map_err(|error| FileError::io(path, error))
}

/// Returns the folder that contains a file.
#[must_use]
pub fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_file_that_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let (file, missing) = (folder.path().join("file"), folder.path().join("none/runner.json"));
        fs::write(&file, "").unwrap();
        for path in [missing, file.join("runner.json")] {
            let told = |error: io::Error| FileError::io(&path, error).to_string();
            let content = |_: &File| Ok(Vec::new());
            for told in [
                write(&path, "runner", 1, &()).unwrap_err().to_string(),
                check_writable(&path).unwrap_err().to_string(),
                told(replace(&path, b"").unwrap_err()),
                told(create(&path, content).unwrap_err()),
                told(renew(&path, || Ok(())).unwrap_err()),
            ] {
                assert!(told.contains("runner.json: ") && told.contains("(os error "), "{told}");
                assert!(!told.contains(UNFINISHED), "{told}");
            }
        }
        // A folder cannot be replaced by a file.
        let told = FileError::io(folder.path(), replace(folder.path(), b"").unwrap_err()).to_string();
        assert!(!told.contains(UNFINISHED), "{told}");
    }

    #[test]
    fn a_trial_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        check_writable(&folder.path().join("runner.json")).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
