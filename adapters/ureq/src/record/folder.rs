//! The files of a record.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use gitlab_runner_api_common::{FileError, form};

pub(super) const ASSIGNMENT: &str = "assignment.json";
pub(super) const SNAPSHOT: &str = "snapshot.json";
pub(super) const LOG: &str = "log";
pub(super) const LEASE: &str = "lease";
pub(super) const ENDED: &str = "ended.json";

/// Whether there is a record in this folder of a job that has not ended, or may be one.
pub(super) fn is_record(folder: &Path) -> bool {
    has(folder, ASSIGNMENT).unwrap_or(true) && !folder.join(ENDED).is_file()
}

/// Whether there is nothing of a record in this folder, not even of one that has ended.
pub(crate) fn is_gone(folder: &Path) -> bool {
    let has = |name| has(folder, name).unwrap_or(true);
    !has(ASSIGNMENT) && !has(ENDED)
}

pub(super) fn has(folder: &Path, name: &str) -> Result<bool, FileError> {
    let path = folder.join(name);
    path.try_exists().map_err(|error| FileError::io(&path, error))
}

pub(super) fn remove(folder: &Path, names: &[&str]) -> Result<(), FileError> {
    for path in names.iter().map(|name| folder.join(name)) {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(FileError::io(&path, error)),
            _ => {}
        }
    }
    Ok(())
}

/// Files that a process was about to put in their place when it died.
pub(super) fn remove_unfinished(folder: &Path) -> Result<(), FileError> {
    let failed = |error| FileError::io(folder, error);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if let Some(name) = name.to_str().filter(|name| name.starts_with(form::UNFINISHED)) {
            remove(folder, &[name])?;
        }
    }
    Ok(())
}

/// For programs that go elsewhere.
pub(super) fn absolute(folder: &Path) -> Result<PathBuf, FileError> {
    std::path::absolute(folder).map_err(|error| FileError::io(folder, error))
}

pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.is_dir();
    let missing: Vec<&Path> = folder.ancestors().take_while(is_missing).collect();
    builder.create(folder)?;
    missing.into_iter().try_for_each(|path| form::sync_folder(&form::folder(path)))
}

/// For files that their owner alone can read.
pub(super) fn private() -> OpenOptions {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "a mode is given on Unix"))]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

pub(super) fn open_log(folder: &Path, create: bool) -> Result<File, FileError> {
    let path = folder.join(LOG);
    let opened = private().read(true).write(true).create(create).truncate(false).open(&path);
    opened.map_err(|error| FileError::io(&path, error))
}
