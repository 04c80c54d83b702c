//! The record of a job, as files in a folder of its own.
//!
//! | File | What it is | Written |
//! |---|---|---|
//! | `assignment.json` | the payload, and the instance it is of. Secret | when the job is taken, and when a secret is learnt |
//! | `log` | the log, as GitLab gets it | appended to |
//! | `snapshot.json` | the job's state | replaced whole |
//! | `lease` | who may go on with it | by its holder, every 30 s |
//! | `ended.json` | how it ended; the assignment is gone then | once |

mod lease;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use gitlab_runner_api::{Assignment, Job, JobRecord, JobSnapshot, Server};
use gitlab_runner_api_files::{FileError, replace};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use lease::Lease;

const ASSIGNMENT: &str = "assignment.json";
const SNAPSHOT: &str = "snapshot.json";
const LOG: &str = "log";
const LEASE: &str = "lease";
const ENDED: &str = "ended.json";
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Head {
    kind: String,
    format: u32,
}

#[derive(Serialize, Deserialize)]
struct StoredAssignment {
    kind: String,
    format: u32,
    url: String,
    payload: String,
}

#[derive(Serialize, Deserialize)]
struct StoredEnd {
    kind: String,
    format: u32,
    job: u64,
    how: String,
}

/// A record that is held.
#[derive(Debug)]
pub(crate) struct Record {
    folder: PathBuf,
    lease: Lease,
    log: File,
    /// The payload that is saved, by which one that has become another is known.
    saved: Assignment,
    server: Server,
    /// Whether the folder goes when the job has ended, and a line in its parent's `ended.log` stays.
    kept_in_state_dir: bool,
}

/// What a record says.
pub(crate) struct Loaded {
    pub(crate) server: Server,
    pub(crate) assignment: Assignment,
    /// None if the job was taken, and nothing else is known of it.
    pub(crate) snapshot: Option<JobSnapshot>,
}

impl Record {
    /// Begins the record of a job. It is on disk when this returns.
    pub(crate) fn create(folder: &Path, server: &Server, assignment: &Assignment) -> Result<Self, FileError> {
        make_folder(folder).map_err(|error| FileError::io(folder, error))?;
        let lease = Lease::take(&folder.join(LEASE))?;
        // Of an earlier life of the job, which GitLab has handed out anew.
        remove(folder, &[SNAPSHOT, LOG, ENDED])?;
        let (server, saved) = (server.clone(), assignment.clone());
        let log = open_log(folder, true)?;
        let record = Self { folder: folder.to_owned(), lease, log, saved, server, kept_in_state_dir: false };
        record.save_assignment(assignment)?;
        Ok(record)
    }

    /// Takes up a record, and whatever it says. Nothing is changed if that cannot be understood.
    pub(crate) fn open(folder: &Path) -> Result<(Self, Loaded), FileError> {
        let path = folder.join(ASSIGNMENT);
        if let Some(end) = read::<StoredEnd>(&folder.join(ENDED), "job-end")? {
            return Err(FileError::bad(folder, format!("job {} has ended: {}", end.job, end.how)));
        }
        if !path.exists() {
            return Err(FileError::bad(folder, "this is no record of a job"));
        }
        let lease = Lease::take(&folder.join(LEASE))?;
        let Some(stored) = read::<StoredAssignment>(&path, "assignment")? else {
            return Err(FileError::bad(&path, "it is gone"));
        };
        let server = Server::parse(&stored.url).map_err(|error| FileError::bad(&path, error.to_string()))?;
        let assignment =
            Assignment::from_json(stored.payload).map_err(|error| FileError::bad(&path, error.to_string()))?;
        let path = folder.join(SNAPSHOT);
        let snapshot = match fs::read_to_string(&path) {
            Ok(text) => Some(JobSnapshot::from_json(&text).map_err(|error| FileError::bad(&path, error.to_string()))?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(FileError::io(&path, error)),
        };
        if snapshot.as_ref().is_some_and(|snapshot| snapshot.job_id() != assignment.id()) {
            return Err(FileError::bad(&path, "it is of another job"));
        }
        let log = open_log(folder, snapshot.is_none())?;
        let path = folder.join(LOG);
        let size = log.metadata().map_err(|error| FileError::io(&path, error))?.len();
        let known = snapshot.as_ref().map_or(0, JobSnapshot::log_size);
        if size < known {
            let problem = format!("it has {size} bytes, and the job's state speaks of {known}");
            return Err(FileError::bad(&path, problem));
        }
        // What is behind was written, but not saved: nothing of it was sent.
        log.set_len(known).map_err(|error| FileError::io(&path, error))?;
        let loaded = Loaded { server: server.clone(), assignment: assignment.clone(), snapshot };
        let folder = folder.to_owned();
        Ok((Self { folder, lease, log, saved: assignment, server, kept_in_state_dir: false }, loaded))
    }

    /// Writes all of a record that was one value.
    pub(crate) fn fill(&mut self, record: &JobRecord) -> Result<(), FileError> {
        self.save_assignment(record.assignment())?;
        let (start, log) = record.log();
        self.append(start, std::slice::from_ref(log)).map_err(|error| FileError::io(&self.folder.join(LOG), error))?;
        let path = self.folder.join(SNAPSHOT);
        replace(&path, record.snapshot().to_json().as_bytes()).map_err(|error| FileError::io(&path, error))
    }

    /// Makes one value of the record, which is gone then: there must not be two of one job.
    pub(crate) fn into_value(mut self, snapshot: JobSnapshot) -> Result<JobRecord, FileError> {
        let log = self.log(0..snapshot.log_size()).map_err(|error| FileError::io(&self.folder.join(LOG), error))?;
        let record = JobRecord::new(self.server.clone(), self.saved.clone(), snapshot, 0, log);
        self.close(record.assignment().id(), "handed on as another record")?;
        Ok(record)
    }

    pub(crate) fn kept_in_state_dir(mut self) -> Self {
        self.kept_in_state_dir = true;
        self
    }

    /// Saves a job, and tells it so.
    pub(crate) fn save(&mut self, job: &mut Job) -> Result<(), FileError> {
        if job.assignment().as_json() != self.saved.as_json() {
            self.save_assignment(job.assignment())?;
            self.saved = job.assignment().clone();
        }
        let (offset, chunks) = job.unsaved();
        self.append(offset, &chunks).map_err(|error| FileError::io(&self.folder.join(LOG), error))?;
        let (path, snapshot) = (self.folder.join(SNAPSHOT), job.snapshot());
        replace(&path, snapshot.to_json().as_bytes()).map_err(|error| FileError::io(&path, error))?;
        job.saved(snapshot.revision(), snapshot.log_size());
        Ok(())
    }

    fn append(&mut self, offset: u64, chunks: &[Bytes]) -> io::Result<()> {
        if chunks.is_empty() {
            return Ok(());
        }
        self.log.set_len(offset)?;
        self.log.seek(SeekFrom::Start(offset))?;
        chunks.iter().try_for_each(|chunk| self.log.write_all(chunk))?;
        self.log.sync_data()
    }

    /// Says that the holder lives. That a file system refuses for once is no reason to stop.
    pub(crate) fn refresh(&mut self) {
        _ = self.lease.refresh();
    }

    /// A part of the log.
    pub(crate) fn log(&mut self, range: Range<u64>) -> io::Result<Bytes> {
        let mut bytes = Vec::new();
        self.log.seek(SeekFrom::Start(range.start))?;
        (&self.log).take(range.end.saturating_sub(range.start)).read_to_end(&mut bytes)?;
        Ok(bytes.into())
    }

    /// The job has ended like this: what is secret is removed.
    pub(crate) fn close(&mut self, job: u64, how: &str) -> Result<(), FileError> {
        let end = StoredEnd { kind: "job-end".to_owned(), format: FORMAT, job, how: how.to_owned() };
        write(&self.folder.join(ENDED), &end)?;
        remove(&self.folder, &[ASSIGNMENT])?;
        if self.kept_in_state_dir { clear(&self.folder, &end) } else { Ok(()) }
    }

    fn save_assignment(&self, assignment: &Assignment) -> Result<(), FileError> {
        let stored = StoredAssignment {
            kind: "assignment".to_owned(),
            format: FORMAT,
            url: self.server.as_str().to_owned(),
            payload: String::from_utf8_lossy(assignment.as_json()).into_owned(),
        };
        write(&self.folder.join(ASSIGNMENT), &stored)
    }
}

/// Finishes what a process that closed this record of a state directory was killed in; false if nobody has closed it.
pub(crate) fn finish_closing(folder: &Path) -> Result<bool, FileError> {
    let Some(end) = read::<StoredEnd>(&folder.join(ENDED), "job-end")? else { return Ok(false) };
    let _lease = Lease::take(&folder.join(LEASE))?;
    clear(folder, &end).map(|()| true)
}

/// Leaves a line of a record in a state directory. Why it ended goes last, so that whoever is killed here can be followed.
fn clear(folder: &Path, end: &StoredEnd) -> Result<(), FileError> {
    let path = folder.with_file_name("ended.log");
    let tell = || {
        let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
        file.write_all(format!("job {}: {}\n", end.job, end.how).as_bytes())?;
        file.sync_data()
    };
    tell().map_err(|error| FileError::io(&path, error))?;
    remove(folder, &[ASSIGNMENT, SNAPSHOT, LOG, LEASE, ENDED])?;
    // What somebody else has put there stays.
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(FileError::io(folder, error)),
        _ => Ok(()),
    }
}

fn remove(folder: &Path, names: &[&str]) -> Result<(), FileError> {
    for path in names.iter().map(|name| folder.join(name)) {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(FileError::io(&path, error)),
            _ => {}
        }
    }
    Ok(())
}

/// The folders in a state directory that hold a record.
pub(crate) fn list(state_dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    let failed = |error| FileError::io(state_dir, error);
    let entries = match fs::read_dir(state_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.join(ASSIGNMENT).exists() || path.join(ENDED).exists() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

fn open_log(folder: &Path, create: bool) -> Result<File, FileError> {
    let path = folder.join(LOG);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(&path).map_err(|error| FileError::io(&path, error))
}

fn write(path: &Path, content: &impl Serialize) -> Result<(), FileError> {
    let json = serde_json::to_vec(content).map_err(|error| FileError::io(path, error.into()))?;
    replace(path, &json).map_err(|error| FileError::io(path, error))
}

/// Reads one of our files; none if there is no such file. Its text is never quoted.
fn read<T: DeserializeOwned>(path: &Path, kind: &str) -> Result<Option<T>, FileError> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| FileError::io(path, error))?,
    };
    let damaged = |error: serde_json::Error| {
        let at = format!("line {} column {}", error.line(), error.column());
        FileError::bad(path, format!("this is not the {kind} of a job's record, or it is damaged ({at})"))
    };
    let head: Head = serde_json::from_slice(&text).map_err(damaged)?;
    if head.kind != kind {
        return Err(FileError::bad(path, format!("this is not the {kind} of a job's record")));
    }
    if head.format > FORMAT {
        let problem = format!("it has format {}, this version reads up to {FORMAT}; use a newer version", head.format);
        return Err(FileError::bad(path, problem));
    }
    serde_json::from_slice(&text).map(Some).map_err(damaged)
}
