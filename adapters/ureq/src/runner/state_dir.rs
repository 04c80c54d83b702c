//! The jobs of a runner and their records.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gitlab_runner_api::log::ansi;
use gitlab_runner_api::{Assignment, FailureReason, Job as Core, JobRecord, JobResult, RunnerConfig, Server};
use gitlab_runner_api_common::FileError;

use super::Runner;
use crate::driver::Archive;
use crate::error::Error;
use crate::job::{Job, kept, unkept};
use crate::link::Link;
use crate::record::{self, Claimed, Loaded, Record};

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

/// The records in the state directory that cannot be used, and whether that may pass. Each was told of.
pub(crate) type Unusable = BTreeMap<PathBuf, bool>;

impl Runner {
    /// Keeps a record of each job in this folder: before its handler has it, and before anything is sent. It is gone when the
    /// job has ended, and a line in the folder's `ended.log` says how. What a process leaves behind that dies,
    /// [`Runner::recover`] takes up. Several processes of one runner can share a folder; runners of several instances cannot.
    #[must_use]
    pub fn with_state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        // For programs that go elsewhere. If that cannot be told, nothing can be done there either.
        self.state_dir = Some(std::path::absolute(&path).unwrap_or(path));
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
    fn records(&self) -> Result<Vec<PathBuf>, Error> {
        let Some(state_dir) = &self.state_dir else { return Ok(Vec::new()) };
        let record::Kept { records, begun } = record::list(state_dir)?;
        // What cannot be cleared away now is found again the next time.
        begun.iter().for_each(|folder| _ = record::give_up(folder));
        Ok(records)
    }

    /// Takes up the jobs in these folders of the state directory; also those that could not be, and why.
    fn take_up_all(&self, folders: Vec<PathBuf>, link: &Link) -> (Vec<Job>, Vec<(PathBuf, Error)>) {
        let claim = |folder: &Path| match record::finish_closing(folder)? {
            true => Ok(None),
            false => Record::claim(folder).map(Some),
        };
        // All are claimed before it is waited for any.
        let claimed: Vec<_> = folders.into_iter().map(|folder| (claim(&folder), folder)).collect();
        let (mut jobs, mut left) = (Vec::new(), Vec::new());
        for (claimed, folder) in claimed {
            let opened = claimed.and_then(|claimed| claimed.map(Claimed::open).transpose()).map_err(Error::from);
            let taken = opened.and_then(|opened| {
                let resume = |(record, loaded): (Record, _)| self.resume(record.in_state_dir(), loaded, &folder, link);
                opened.map(resume).transpose()
            });
            match taken {
                Ok(job) => jobs.extend(job),
                // Its job has ended meanwhile.
                Err(_) if record::is_gone(&folder) => {}
                Err(error) => left.push((folder, error)),
            }
        }
        (jobs, left)
    }

    /// Fails the jobs that a process left behind which died, and which nobody has recovered: what ran them is gone. Tells of
    /// what cannot be used.
    pub(crate) fn fail_left_behind(&self, link: &Link, tell: impl FnMut(Error)) -> Result<Unusable, Error> {
        let mut unusable = Unusable::new();
        self.fail(self.records()?, &mut unusable, link, tell);
        Ok(unusable)
    }

    /// The same some time later: for those that could not be read, and those whose holder was silent for so long that it is
    /// dead. What was given back is somebody's who will take it up.
    pub(crate) fn fail_orphaned(&self, unusable: &mut Unusable, link: &Link, tell: impl FnMut(Error)) {
        // What cannot be listed now may be the next time.
        let Ok(mut records) = self.records() else { return };
        unusable.retain(|folder, _| records.contains(folder));
        records.retain(|folder| unusable.get(folder).copied().unwrap_or_else(|| record::is_orphaned(folder)));
        self.fail(records, unusable, link, tell);
    }

    fn fail(&self, folders: Vec<PathBuf>, unusable: &mut Unusable, link: &Link, mut tell: impl FnMut(Error)) {
        let (jobs, left) = self.take_up_all(folders, link);
        for job in jobs {
            job.give_up("Nothing runs this job any more: its runner was restarted, or lost it.");
        }
        for (folder, error) in left {
            let may_pass = matches!(error, Error::File { .. } | Error::System(_));
            if matches!(error, Error::Held { .. }) {
                unusable.remove(&folder);
            } else if unusable.insert(folder, may_pass).is_none() {
                tell(error);
            }
        }
    }

    /// Takes a job up from the record in this folder, as [`Job::load`] does, with the settings of this runner.
    ///
    /// # Errors
    ///
    /// As [`Job::load`]; [`Error::BadFile`] also if it is a job of another instance.
    pub fn load_job(&self, path: impl AsRef<Path>) -> Result<Job, Error> {
        let (record, loaded) = Record::open(path.as_ref())?;
        self.resume(record, loaded, path.as_ref(), &self.link).map(Job::staying)
    }

    fn resume(&self, record: Record, loaded: Loaded, folder: &Path, link: &Link) -> Result<Job, Error> {
        self.is_ours(&loaded.server, folder)?;
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
            return Job::of(job, Archive::default(), &config, link, self.patience).start();
        };
        let saved = JobRecord::of(&mut job).map_err(Error::BadRecord)?;
        match Record::create_in(state_dir, &saved) {
            Ok(record) => {
                job.saved(saved.snapshot().revision(), saved.snapshot().log_size());
                Job::of(job, Archive::Files(Box::new(record)), &config, link, self.patience).start()
            }
            Err(error @ FileError::Held { .. }) => Err(error.into()),
            Err(error) => {
                job.write(ansi::error("The runner cannot keep a record of this job."));
                job.finish(JobResult::failed(FailureReason::RunnerSystemFailure));
                Job::of(job, Archive::default(), &config, link, self.patience).start()?.release();
                Err(error.into())
            }
        }
    }
}
