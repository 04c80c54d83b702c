//! The record of a job, as files in a folder of its own.
//!
//! | File | What it is | Written |
//! |---|---|---|
//! | `log` | the log, as GitLab gets it | appended to |
//! | `snapshot.json` | the job's state, by which the log's size and checksum are known | replaced whole, with each piece of log |
//! | `assignment.json` | the payload, and the instance it is of. Secret | last of the first three, and when a secret is learnt |
//! | `lease` | who may go on with it | made by its holder, renewed every 30 s, removed when it is given back |
//! | `ended.json` | how it ended; the assignment is gone then | once |
//!
//! A folder without an assignment is no record. In a state directory, the folder of a job that has ended is removed, and a line in
//! `ended.log` says how it ended.

mod folder;
mod lease;
mod state_dir;

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use gitlab_runner_api::{Assignment, Job, JobRecord, JobSnapshot, Secret, Server};
use gitlab_runner_api_common::{FileError, form};
use serde::{Deserialize, Serialize};

use folder::{
    ASSIGNMENT, ENDED, LEASE, LOG, SNAPSHOT, absolute, has, is_record, make_folder, open_log, remove, remove_unfinished,
};
use lease::{Claim, Lease};
use state_dir::{clear, is_old};

pub(crate) use folder::is_gone;
pub(crate) use lease::REFRESH;
pub(crate) use state_dir::{Kept, finish_closing, give_up, is_orphaned, list};

const ASSIGNMENT_KIND: &str = "job-assignment";
const END_KIND: &str = "job-end";
const FORMAT: u32 = 1;

/// How many bytes of a log are read at a time to check it, so that a large log needs little memory.
const PIECE: usize = 256 * 1024;

/// The error for a log of the right length with another checksum.
const DAMAGED: &str = "it is damaged: its checksum is not the one in the job's state";

#[derive(Serialize, Deserialize)]
struct StoredAssignment {
    url: String,
    payload: String,
    /// What is masked besides what the payload names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    masked_at_run_time: Vec<String>,
}

/// Reads the payload of the record in this folder.
fn read_assignment(folder: &Path) -> Result<StoredAssignment, FileError> {
    let path = folder.join(ASSIGNMENT);
    let stored = form::read(&path, ASSIGNMENT_KIND, FORMAT)?;
    stored.ok_or_else(|| FileError::bad(&path, "it is gone: the job has ended meanwhile"))
}

impl StoredAssignment {
    fn assignment(self, folder: &Path) -> Result<Assignment, FileError> {
        let bad = |error: gitlab_runner_api::ProtocolError| FileError::bad(&folder.join(ASSIGNMENT), error.to_string());
        let assignment = Assignment::from_text(self.payload).map_err(bad)?;
        Ok(assignment.with_masked_at_run_time(self.masked_at_run_time.into_iter().map(Secret::new)))
    }
}

#[derive(Serialize, Deserialize)]
struct StoredEnd {
    job: u64,
    how: String,
}

impl StoredEnd {
    fn refusal(&self, folder: &Path) -> FileError {
        FileError::bad(folder, format!("job {} has ended: {}", self.job, self.how))
    }
}

/// A record of which this process holds the lease.
#[derive(Debug)]
pub(crate) struct Record {
    folder: PathBuf,
    lease: Lease,
    log: File,
    /// How many bytes of the log are in the file.
    log_size: u64,
    /// The job whose record this is.
    job: u64,
    /// How many values are saved that are masked besides those of the payload.
    masked: usize,
    server: Server,
    /// Whether the folder goes when the job has ended, and a line in its parent's `ended.log` stays.
    in_state_dir: bool,
}

/// The content of a record, without its log.
pub(crate) struct Loaded {
    pub(crate) server: Server,
    pub(crate) assignment: Assignment,
    pub(crate) snapshot: JobSnapshot,
}

impl Record {
    /// Makes a record of a job. All of it is on disk when this returns.
    pub(crate) fn create(folder: &Path, job: &JobRecord) -> Result<Self, FileError> {
        let folder = &absolute(folder)?;
        let (start, log) = job.log();
        if start > 0 {
            let problem = format!("the first {start} bytes of its log are missing: take it up with Job::from_record");
            return Err(FileError::bad(folder, problem));
        }
        if !job.snapshot().is_log([log]) {
            return Err(FileError::bad(folder, "its log is not the one that its state speaks of"));
        }
        make_folder(folder).map_err(|error| FileError::io(folder, error))?;
        let has = |name| has(folder, name);
        let is_taken = || match has(ASSIGNMENT)? {
            true => Err(FileError::bad(folder, "a job has its record there already; give each a folder of its own")),
            false => Ok(()),
        };
        is_taken()?;
        let was_ours = lease::is_lease(&folder.join(LEASE)) || has(ENDED)?;
        if !was_ours && (has(LOG)? || has(SNAPSHOT)? || has(LEASE)?) {
            return Err(FileError::bad(folder, "there are files of something else; give each job a folder of its own"));
        }
        let lease = Lease::take(&folder.join(LEASE))?;
        is_taken()?;
        // Files that an ended job left here, or a process that died while it made a record.
        remove(folder, &[SNAPSHOT, LOG, ENDED])?;
        remove_unfinished(folder)?;
        let (server, in_state_dir) = (job.server().clone(), false);
        let (id, masked) = (job.assignment().id(), job.assignment().masked_at_run_time().len());
        let (log, folder) = (open_log(folder, true)?, folder.clone());
        let mut record = Self { folder, lease, log, log_size: 0, job: id, masked, server, in_state_dir };
        match record.fill(job) {
            Ok(()) => Ok(record),
            Err(error) => {
                record.discard();
                Err(error)
            }
        }
    }

    fn fill(&mut self, job: &JobRecord) -> Result<(), FileError> {
        let (start, log) = job.log();
        self.append(start, std::slice::from_ref(log))?;
        self.renew_lease()?;
        self.replace_snapshot(job.snapshot())?;
        self.renew_lease()?;
        self.save_assignment(job.assignment().to_text(), job.assignment())?;
        self.renew_lease()
    }

    /// Removes a record that could not be completed. The job continues without it.
    fn discard(mut self) {
        if self.renew_lease().is_err() {
            return;
        }
        _ = remove(&self.folder, &[ASSIGNMENT, SNAPSHOT, LOG]);
        let folder = self.folder.clone();
        drop(self);
        // Fails if somebody else has put files there, which then stay.
        _ = fs::remove_dir(folder);
    }

    /// Makes a record in a state directory. If there already is a record of this job, for example because GitLab was restored from a backup
    /// and assigns the job again, the old record is closed.
    pub(crate) fn create_in(state_dir: &Path, job: &JobRecord) -> Result<Self, FileError> {
        let id = job.assignment().id();
        let folder = absolute(state_dir)?.join(id.to_string());
        finish_closing(&folder)?;
        if has(&folder, ASSIGNMENT)? {
            let (old, loaded) = Self::open(&folder)?;
            if loaded.server != *job.server() {
                let problem =
                    format!("it is of job {id} of {}; give each runner a state directory of its own", loaded.server);
                return Err(FileError::bad(&folder, problem));
            }
            old.in_state_dir().close(id, "handed out again by GitLab")?;
        }
        Ok(Self::create(&folder, job)?.in_state_dir())
    }

    /// Opens a record, and reads its content. If the content cannot be read, nothing is changed.
    pub(crate) fn open(folder: &Path) -> Result<(Self, Loaded), FileError> {
        Self::claim(folder)?.open()
    }

    /// Claims the lease of a record, which is opened later. Many records can be claimed before the first is opened, so that the wait of
    /// three seconds is needed only once.
    pub(crate) fn claim(folder: &Path) -> Result<Claimed, FileError> {
        let folder = absolute(folder)?;
        if let Some(end) = form::read::<StoredEnd>(&folder.join(ENDED), END_KIND, FORMAT)? {
            // Either a process was killed while it closed this record, or another one is making a new record here.
            let lease = Lease::take(&folder.join(LEASE));
            if lease.is_ok() && has(&folder, ENDED)? {
                _ = remove(&folder, &[ASSIGNMENT]);
                _ = remove_unfinished(&folder);
            }
            return Err(end.refusal(&folder));
        }
        if !has(&folder, ASSIGNMENT)? {
            // A process that died while it made this record may have left a secret.
            if is_old(&folder)
                && lease::is_lease(&folder.join(LEASE))
                && let Ok(_lease) = Lease::take(&folder.join(LEASE))
                && is_gone(&folder)
            {
                _ = remove_unfinished(&folder);
                _ = remove(&folder, &[SNAPSHOT, LOG]);
            }
            return Err(FileError::bad(&folder, "this is no record of a job"));
        }
        let claim = Claim::stake(&folder.join(LEASE))?;
        Ok(Claimed { folder, claim })
    }

    /// Checks the log against the size and checksum in the snapshot, and cuts it to that size. What is behind was written after the last
    /// snapshot, and was never sent.
    fn check_log(&mut self, snapshot: &JobSnapshot) -> Result<(), FileError> {
        let path = self.folder.join(LOG);
        let failed = |error| FileError::io(&path, error);
        let size = self.log.metadata().map_err(failed)?.len();
        let known = snapshot.log_size();
        if size < known {
            let problem = format!("it has {size} bytes, and the job's state speaks of {known}");
            return Err(FileError::bad(&path, problem));
        }
        let mut trouble = None;
        let pieces = (0..known).step_by(PIECE).map(|start| start..known.min(start.saturating_add(PIECE as u64)));
        let chunks = pieces.map_while(|range| self.log(range).map_err(|error| trouble = Some(error)).ok());
        let whole = snapshot.is_log(chunks);
        if let Some(error) = trouble {
            return Err(error);
        }
        if !whole {
            return Err(FileError::bad(&path, DAMAGED));
        }
        self.renew_lease()?;
        self.log.set_len(known).map_err(failed)
    }

    /// Turns the record into one value, and closes the record, because one job must not be continued from both.
    pub(crate) fn into_value(mut self, snapshot: JobSnapshot) -> Result<JobRecord, FileError> {
        let log = self.log(0..snapshot.log_size())?;
        let assignment = read_assignment(&self.folder)?.assignment(&self.folder)?;
        let record = JobRecord::new(self.server.clone(), assignment, snapshot, 0, log)
            .map_err(|_| FileError::bad(&self.folder.join(LOG), DAMAGED))?;
        // Once the record is marked as ended, the value is the only copy. Files that could not be removed then do no harm.
        match self.close(self.job, "handed on as one value") {
            Err(error) if matches!(error, FileError::Held { .. }) || is_record(&self.folder) => Err(error),
            _ => Ok(record),
        }
    }

    pub(crate) fn in_state_dir(mut self) -> Self {
        self.in_state_dir = true;
        self
    }

    /// The folder of the record.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the record is in this folder.
    pub(crate) fn is_in(&self, folder: &Path) -> bool {
        let whole = |path: &Path| fs::canonicalize(path).ok();
        whole(&self.folder).is_some_and(|ours| Some(ours) == whole(folder))
    }

    /// Writes the job to the record, and tells the job that it is saved.
    pub(crate) fn save(&mut self, job: &mut Job) -> Result<(), FileError> {
        self.renew_lease()?;
        // The payload itself never changes, and only the file has its text. The list of other masked values only grows.
        let masked = job.assignment().masked_at_run_time().len();
        if masked != self.masked {
            self.save_assignment(read_assignment(&self.folder)?.payload, job.assignment())?;
            self.masked = masked;
        }
        let (offset, chunks) = job.unsaved();
        self.append(offset, &chunks)?;
        // Writing may have taken so long that another process took the lease.
        self.renew_lease()?;
        let snapshot = job.snapshot();
        self.replace_snapshot(&snapshot)?;
        job.saved(snapshot.revision(), snapshot.log_size());
        Ok(())
    }

    fn append(&mut self, offset: u64, chunks: &[Bytes]) -> Result<(), FileError> {
        if chunks.is_empty() {
            return Ok(());
        }
        self.with_log(|log| {
            log.seek(SeekFrom::Start(offset))?;
            chunks.iter().try_for_each(|chunk| log.write_all(chunk))?;
            log.sync_data()
        })?;
        self.log_size = chunks.iter().fold(offset, |size, chunk| size.saturating_add(chunk.len() as u64));
        Ok(())
    }

    /// Opens the file again after an error: a network file system that was away may have lost the open file.
    fn with_log<R>(&mut self, mut work: impl FnMut(&mut File) -> io::Result<R>) -> Result<R, FileError> {
        work(&mut self.log).map_err(|error| {
            if let Ok(log) = open_log(&self.folder, false) {
                self.log = log;
            }
            FileError::io(&self.folder.join(LOG), error)
        })
    }

    fn replace_snapshot(&self, snapshot: &JobSnapshot) -> Result<(), FileError> {
        let path = self.folder.join(SNAPSHOT);
        form::replace(&path, snapshot.to_json().as_bytes()).map_err(|error| FileError::io(&path, error))
    }

    fn save_assignment(&self, payload: String, assignment: &Assignment) -> Result<(), FileError> {
        let masked_at_run_time = assignment.masked_at_run_time().iter().map(|it| it.expose().to_owned()).collect();
        let stored = StoredAssignment { url: self.server.as_str().to_owned(), payload, masked_at_run_time };
        form::write(&self.folder.join(ASSIGNMENT), ASSIGNMENT_KIND, FORMAT, &stored)
    }

    /// Renews the lease if that is due.
    ///
    /// # Errors
    ///
    /// [`FileError::Held`] if another process holds it, or may hold it, now.
    pub(crate) fn renew_lease(&mut self) -> Result<(), FileError> {
        self.lease.renew_if_due().map_err(|by| FileError::held(&self.folder.join(LEASE), by))
    }

    /// Makes the lease look as after a long suspend of the host.
    #[cfg(test)]
    pub(crate) fn oversleep(&mut self) {
        self.lease.oversleep();
    }

    /// Makes reads of the log fail, until `allow_reads`.
    #[cfg(test)]
    pub(crate) fn fail_reads(&mut self) {
        let blind = File::options().write(true).open(self.folder.join(LOG));
        self.log = blind.expect("it is there");
        fs::rename(self.folder.join(LOG), self.folder.join("elsewhere")).expect("both are ours");
    }

    #[cfg(test)]
    pub(crate) fn allow_reads(&mut self) {
        fs::rename(self.folder.join("elsewhere"), self.folder.join(LOG)).expect("both are ours");
    }

    /// Reads a part of the log.
    pub(crate) fn log(&mut self, range: Range<u64>) -> Result<Bytes, FileError> {
        self.with_log(|log| {
            let mut bytes = Vec::new();
            log.seek(SeekFrom::Start(range.start))?;
            log.take(range.end.saturating_sub(range.start)).read_to_end(&mut bytes)?;
            Ok(bytes.into())
        })
    }

    /// Notes how the job has ended, and removes the files with secrets.
    pub(crate) fn close(&mut self, job: u64, how: &str) -> Result<(), FileError> {
        self.renew_lease()?;
        let end = StoredEnd { job, how: how.to_owned() };
        form::write(&self.folder.join(ENDED), END_KIND, FORMAT, &end)?;
        remove(&self.folder, &[ASSIGNMENT])?;
        remove_unfinished(&self.folder)?;
        if self.in_state_dir { clear(&self.folder, &end) } else { Ok(()) }
    }
}

/// A record whose lease was claimed. The claim is settled after three seconds, see [`lease`].
pub(crate) struct Claimed {
    folder: PathBuf,
    claim: Claim,
}

impl Claimed {
    /// Opens the record, as [`Record::open`] does. Waits until three seconds have passed since the claim.
    pub(crate) fn open(self) -> Result<(Record, Loaded), FileError> {
        let Self { folder, claim } = self;
        // The log becomes a new file, so that what the previous holder may still write goes into the old one.
        let lease = claim.settle(|is_ours| match form::renew(&folder.join(LOG), is_ours) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renewed => renewed,
        })?;
        if let Some(end) = form::read::<StoredEnd>(&folder.join(ENDED), END_KIND, FORMAT)? {
            return Err(end.refusal(&folder));
        }
        let stored = read_assignment(&folder)?;
        let path = folder.join(ASSIGNMENT);
        let server = Server::parse(&stored.url).map_err(|error| FileError::bad(&path, error.to_string()))?;
        let assignment = stored.assignment(&folder)?;
        let path = folder.join(SNAPSHOT);
        let snapshot = fs::read_to_string(&path).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => FileError::bad(&path, "it is no text"),
            _ => FileError::io(&path, error),
        })?;
        let snapshot = JobSnapshot::from_json(&snapshot).map_err(|error| FileError::bad(&path, error.to_string()))?;
        if snapshot.job_id() != assignment.id() {
            return Err(FileError::bad(&path, "it is of another job"));
        }
        let log = open_log(&folder, false)?;
        let (job, masked) = (assignment.id(), assignment.masked_at_run_time().len());
        let (log_size, in_state_dir) = (snapshot.log_size(), false);
        let mut record = Record { folder, lease, log, log_size, job, masked, server: server.clone(), in_state_dir };
        record.check_log(&snapshot)?;
        remove_unfinished(&record.folder)?;
        Ok((record, Loaded { server, assignment, snapshot }))
    }
}
