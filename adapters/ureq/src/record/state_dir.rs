//! A state directory: a folder of records, and `ended.log`.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gitlab_runner_api_common::{FileError, form};

use super::folder::{ASSIGNMENT, ENDED, LEASE, LOG, SNAPSHOT, has, is_gone, private, remove, remove_unfinished};
use super::lease::{self, Lease};
use super::{END_KIND, FORMAT, StoredEnd};

/// A record that was begun this long ago and is still none will never be one.
const BEGINNING: Duration = Duration::from_secs(3600);

/// What a state directory holds.
#[derive(Default)]
pub(crate) struct Kept {
    /// The folders of its records.
    pub(crate) records: Vec<PathBuf>,
    /// Folders that were to become one, and whose process died first: of those jobs nothing was ever sent.
    pub(crate) begun: Vec<PathBuf>,
}

pub(crate) fn list(state_dir: &Path) -> Result<Kept, FileError> {
    let failed = |error| FileError::io(state_dir, error);
    let entries = match fs::read_dir(state_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
        entries => entries.map_err(failed)?,
    };
    let mut kept = Kept::default();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        // What cannot be looked at is one, and whoever opens it is told why it cannot be.
        let has = |name| has(&path, name).unwrap_or(true);
        if !path.is_dir() {
            continue;
        }
        if has(ASSIGNMENT) || has(ENDED) {
            kept.records.push(path);
        } else if is_old(&path) && job_of(&path).is_some() {
            if lease::is_lease(&path.join(LEASE)) {
                kept.begun.push(path);
            } else {
                // Empty ones are left where a file system keeps names of open files. This one stays if it is not.
                _ = fs::remove_dir(&path);
            }
        }
    }
    kept.records.sort();
    Ok(kept)
}

/// Whether nobody can still be about to make it a record.
pub(super) fn is_old(path: &Path) -> bool {
    let changed = fs::metadata(path).and_then(|meta| meta.modified()).ok();
    changed.and_then(|changed| changed.elapsed().ok()).is_some_and(|age| age > BEGINNING)
}

/// The job that a folder is named for.
fn job_of(folder: &Path) -> Option<u64> {
    folder.file_name()?.to_str()?.parse().ok()
}

/// Removes the folder of a record that never became one.
pub(crate) fn give_up(folder: &Path) -> Result<(), FileError> {
    let _lease = Lease::take(&folder.join(LEASE))?;
    if !is_gone(folder) {
        return Ok(());
    }
    let Some(job) = job_of(folder) else { return Ok(()) };
    clear(folder, &StoredEnd { job, how: "its process died before the record was written".to_owned() })
}

/// Whether the record in this folder is held by somebody who was silent for so long that it is dead, wherever it is.
pub(crate) fn is_orphaned(folder: &Path) -> bool {
    lease::is_orphaned(&folder.join(LEASE))
}

/// Finishes what a process that closed this record of a state directory was killed in; false if nobody has closed it.
pub(crate) fn finish_closing(folder: &Path) -> Result<bool, FileError> {
    let read = || form::read::<StoredEnd>(&folder.join(ENDED), END_KIND, FORMAT);
    if read()?.is_none() {
        return Ok(false);
    }
    let _lease = Lease::take(&folder.join(LEASE))?;
    // Somebody else may have done it meanwhile, and have made a new record.
    match read()? {
        Some(end) => clear(folder, &end).map(|()| true),
        None => Ok(!has(folder, ASSIGNMENT)?),
    }
}

/// Leaves a line of a record in a state directory. Why it ended goes last, so that whoever is killed here can be followed.
pub(super) fn clear(folder: &Path, end: &StoredEnd) -> Result<(), FileError> {
    let path = folder.with_file_name("ended.log");
    let tell = || {
        let mut file = private().append(true).create(true).open(&path)?;
        file.write_all(format!("job {}: {}\n", end.job, end.how).as_bytes())?;
        file.sync_data()
    };
    tell().map_err(|error| FileError::io(&path, error))?;
    remove_unfinished(folder)?;
    remove(folder, &[ASSIGNMENT, SNAPSHOT, LOG, LEASE, ENDED])?;
    // What somebody else has put there stays.
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(FileError::io(folder, error)),
        _ => Ok(()),
    }
}
