//! The form of our files: JSON that says what it is and in which format.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tempfile::NamedTempFile;

use crate::error::FileError;

/// What the names of files begin with that are not yet in their place.
pub const UNFINISHED: &str = ".runner-";

#[derive(Serialize, Deserialize)]
struct Form<T> {
    kind: String,
    format: u32,
    #[serde(flatten)]
    content: T,
}

/// Reads a file that [`write()`] wrote, in this format or an older one; none if there is no such file. Its text is never quoted.
///
/// # Errors
///
/// [`FileError::Io`]; [`FileError::Bad`] if it is damaged, something else, or of a newer format.
pub fn read<T: DeserializeOwned>(path: &Path, kind: &str, format: u32) -> Result<Option<T>, FileError> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| FileError::io(path, error))?,
    };
    parse(&text, kind, format).map(Some).map_err(|problem| FileError::bad(path, problem))
}

/// Reads what [`print()`] gave, in this format or an older one.
///
/// # Errors
///
/// What is wrong with it. It is never quoted.
pub fn parse<T: DeserializeOwned>(text: &[u8], kind: &str, format: u32) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Anything {}
    // Serde's own words quote the text, which may hold a token.
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

/// Writes a file in our form, as [`replace`] does.
///
/// # Errors
///
/// [`FileError::Io`].
pub fn write(path: &Path, kind: &str, format: u32, content: &impl Serialize) -> Result<(), FileError> {
    replace(path, print(kind, format, content).as_bytes()).map_err(|error| FileError::io(path, error))
}

/// A text in our form.
#[must_use]
pub fn print(kind: &str, format: u32, content: &impl Serialize) -> String {
    // Fails only for maps with keys that are not strings; our forms have none.
    serde_json::to_string_pretty(&Form { kind: kind.to_owned(), format, content }).unwrap_or_default()
}

/// Replaces a file by one of this content and a line end: it is there whole or not at all, its owner alone can read it, and
/// it outlives a power cut.
///
/// # Errors
///
/// What the operating system says.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = folder(path);
    let mut file = unfinished(&folder)?;
    file.as_file_mut().write_all(content)?;
    file.as_file_mut().write_all(b"\n")?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync_folder(&folder)
}

/// Makes a file that its owner alone can read: it is there whole or not at all. `content` has it before anybody else can see it.
///
/// # Errors
///
/// [`io::ErrorKind::AlreadyExists`] if there is one, also if another machine was faster; what else the operating system says.
pub fn create(path: &Path, content: impl FnOnce(&File) -> io::Result<Vec<u8>>) -> io::Result<File> {
    let mut file = unfinished(&folder(path))?;
    let content = content(file.as_file())?;
    file.as_file_mut().write_all(&content)?;
    file.as_file().sync_all()?;
    Ok(file.persist_noclobber(path)?)
}

/// Puts a copy of a file in its place, so that what was opened before is another file from now on; unless `may_i` says at the
/// last moment why not.
///
/// # Errors
///
/// What the operating system says, or `may_i`.
pub fn renew(path: &Path, may_i: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let folder = folder(path);
    let mut file = unfinished(&folder)?;
    io::copy(&mut File::open(path)?, file.as_file_mut())?;
    file.as_file().sync_all()?;
    may_i()?;
    file.persist(path)?;
    sync_folder(&folder)
}

/// A file that is not yet in its place, and that its owner alone can read. It is removed if it never comes there.
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

/// Makes a change of what is in a folder outlive a power cut.
///
/// # Errors
///
/// What the operating system says.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    // Elsewhere a folder cannot be opened as a file, and renames are durable by other means.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Whether a file can be written there, found out without touching it.
///
/// # Errors
///
/// [`FileError::Io`] if not.
pub fn check_writable(path: &Path) -> Result<(), FileError> {
    let trial = || {
        if path.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        fs::remove_file(unfinished(&folder(path))?.path())
    };
    trial().map_err(|error| FileError::io(path, error))
}

/// The folder that a file is in.
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
