//! The jobs of a runner and their records.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gitlab_runner_api::log::ansi;
use gitlab_runner_api::{Assignment, FailureReason, Job as Core, JobRecord, JobResult, RunnerConfig, Server};
use gitlab_runner_api_files::FileError;

use super::Runner;
use crate::driver::Archive;
use crate::error::Error;
use crate::job::{Job, kept, unkept};
use crate::link::Link;
use crate::record::{self, Record};

/// What [`Runner::recover`] found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Recovered {
    /// The jobs, each with what is known of it: see [`Job::state`], [`Job::cancellation`], [`Job::taken`]. Those that had their
    /// result need nothing more: it is being delivered. The others need a result. Dropped without one, they stay in their
    /// records.
    pub jobs: Vec<Job>,
    /// Why the other records were left as they are: [`Error::Held`] by another process, or in need of a human. A holder that
    /// died is known at once where a lock tells so, and otherwise after five minutes: recover again then.
    pub left: Vec<Error>,
}

impl Runner {
    /// Keeps a record of each job in this folder: before its handler has it, and before anything is sent. It is gone when the
    /// job has ended, and a line in the folder's `ended.log` says how. What a process leaves behind that dies,
    /// [`Runner::recover`] takes up. Several processes of one runner can share a folder; runners of several instances cannot.
    #[must_use]
    pub fn with_state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(path.into());
        self.poller = None;
        self
    }

    /// Takes up the jobs whose records an earlier process left in the state directory: all that nobody holds. Each is kept
    /// alive from now on, and takes up room in [`Runner::run`] until it has ended. Those that GitLab no longer wants find that
    /// out by themselves, and their records are closed.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the folder cannot be read. A single record that cannot be used is told of in
    /// [`Recovered::left`], and never changed.
    pub fn recover(&self) -> Result<Recovered, Error> {
        let (jobs, left) = self.take_up_all(self.records()?, &self.link);
        let jobs = jobs.into_iter().map(Job::staying).collect();
        Ok(Recovered { jobs, left: left.into_iter().map(|(_, error)| error).collect() })
    }

    /// The records in the state directory. What was begun there and never became one goes.
    pub(crate) fn records(&self) -> Result<Vec<PathBuf>, Error> {
        let Some(state_dir) = &self.state_dir else { return Ok(Vec::new()) };
        let record::Kept { records, begun } = record::list(state_dir)?;
        // What cannot be cleared away now is found again the next time.
        begun.iter().for_each(|folder| _ = record::give_up(folder));
        Ok(records)
    }

    /// Takes up the jobs in these folders of the state directory; also those that could not be, and why.
    fn take_up_all(&self, folders: Vec<PathBuf>, link: &Link) -> (Vec<Job>, Vec<(PathBuf, Error)>) {
        let (mut jobs, mut left) = (Vec::new(), Vec::new());
        for folder in folders {
            match record::finish_closing(&folder) {
                Ok(true) => continue,
                Ok(false) => self.take_up_record(&folder, true, link),
                Err(error) => Err(error.into()),
            }
            .map_or_else(|error| left.push((folder, error)), |job| jobs.push(job));
        }
        // A job that has ended meanwhile is nobody's trouble.
        left.retain(|(folder, _)| folder.try_exists().unwrap_or(true));
        (jobs, left)
    }

    /// Fails the jobs in these folders that a process left behind which died, and which nobody has recovered: what ran them is
    /// gone. Tells of what cannot be used, and gives those folders that another process seems to hold.
    pub(crate) fn fail_left_behind(
        &self,
        folders: Vec<PathBuf>,
        link: &Link,
        mut tell: impl FnMut(Error),
    ) -> Vec<PathBuf> {
        let (jobs, left) = self.take_up_all(folders, link);
        for job in jobs {
            job.give_up("The runner was restarted, and this job was lost with it.");
        }
        let mut held = Vec::new();
        for (folder, error) in left {
            match error {
                // Those that this process holds are no other's.
                Error::Held { .. } if record::is_held_here(&folder) => {}
                Error::Held { .. } => held.push(folder),
                error => tell(error),
            }
        }
        held
    }

    /// Takes a job up from the record in this folder, as [`Job::load`] does, with the settings of this runner.
    ///
    /// # Errors
    ///
    /// As [`Job::load`]; [`Error::BadFile`] also if it is a job of another instance.
    pub fn load_job(&self, path: impl AsRef<Path>) -> Result<Job, Error> {
        self.take_up_record(path.as_ref(), false, &self.link).map(Job::staying)
    }

    fn take_up_record(&self, folder: &Path, in_state_dir: bool, link: &Link) -> Result<Job, Error> {
        let (record, loaded) = Record::open(folder)?;
        self.is_ours(&loaded.server, folder)?;
        let record = if in_state_dir { record.in_state_dir() } else { record };
        Job::resume(record, loaded, &kept(&self.config), link, self.patience)
    }

    /// Takes a job up from one value, as [`Job::from_record`] does, with the settings of this runner.
    ///
    /// # Errors
    ///
    /// [`Error::BadRecord`]; [`Error::BadFile`] if it is a job of another instance.
    pub fn job_from_record(&self, record: JobRecord) -> Result<Job, Error> {
        self.is_ours(record.server(), Path::new("the record"))?;
        Job::resume_value(record, &self.config, &self.link, self.patience)
    }

    fn is_ours(&self, server: &Server, path: &Path) -> Result<(), Error> {
        if server == self.config.server() {
            return Ok(());
        }
        let problem = format!("it is of a job of {server}, and this is a runner of {}", self.config.server());
        Err(FileError::bad(path, problem).into())
    }

    /// The settings of new jobs.
    pub(super) fn job_config(&self) -> Arc<RunnerConfig> {
        if self.state_dir.is_some() { kept(&self.config) } else { unkept(&self.config) }
    }

    /// Takes up a job that was just handed out.
    pub(crate) fn take_up(&self, assignment: &Assignment, link: &Link) -> Result<Job, Error> {
        let mut job = Core::new(self.job_config(), assignment, link.clock.now());
        if self.header {
            job.write(self.record.log_header(self.config.info()));
        }
        self.start(job, link)
    }

    /// Starts a new job when it has its record, if jobs have one.
    ///
    /// If another process has a record of this very job, the job is not touched: nobody has accepted it, and GitLab will hand it
    /// out again. If there can be no record, it is failed, and GitLab is to know why.
    pub(crate) fn start(&self, mut job: Core, link: &Link) -> Result<Job, Error> {
        let config = self.job_config();
        let Some(state_dir) = &self.state_dir else {
            return Job::start(job, Archive::Memory, &config, link, self.patience);
        };
        let saved = JobRecord::of(&mut job);
        match Record::create_in(state_dir, &saved) {
            Ok(record) => {
                job.saved(saved.snapshot().revision(), saved.snapshot().log_size());
                Job::start(job, Archive::Files(Box::new(record)), &config, link, self.patience)
            }
            Err(error @ FileError::Held { .. }) => Err(error.into()),
            Err(error) => {
                job.write(ansi::error("The runner cannot keep a record of this job."));
                job.finish(JobResult::failed(FailureReason::RunnerSystemFailure));
                Job::start(job, Archive::Memory, &config, link, self.patience)?.forsake();
                Err(error.into())
            }
        }
    }
}
