//! Jobs that outlive the process that took them: saving, leaving and resuming them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gitlab_runner_api::{Job as Core, JobRecord, Retain, RunnerConfig, Server};
use gitlab_runner_api_common::{Spool, default_info, make_system_id};

use super::{Job, PATIENCE};
use crate::driver::Archive;
use crate::error::Error;
use crate::instance::config;
use crate::link::Link;
use crate::record::{Loaded, Record};
use crate::transport::Transport;

fn default_config(server: &Server) -> Result<Arc<RunnerConfig>, Error> {
    config(server, &make_system_id().map_err(Error::System)?, default_info())
}

/// The settings of jobs that have a record in files.
pub(crate) fn kept(config: &RunnerConfig) -> Arc<RunnerConfig> {
    Arc::new(config.clone().with_durable(true).with_retain(Retain::Unacknowledged))
}

/// The settings of jobs that have none: their logs move to temporary files when they are large.
pub(crate) fn unkept(config: &RunnerConfig) -> Arc<RunnerConfig> {
    Arc::new(config.clone().with_durable(false).with_retain(Retain::Unsaved))
}

impl Job {
    /// Creates the record of the job in this folder, and keeps it up to date from now on: everything is stored before it is sent.
    /// If the handle is then dropped without a result, the job stays in its record. [`Job::load`] can resume it in this process or
    /// another one, on this host or another one, as soon as this handle is gone.
    ///
    /// Only the owner can read the record. It contains the job's token and variables, but never the runner's token. A job has one record.
    /// While nobody has the job, its folder can be moved.
    ///
    /// # Errors
    ///
    /// [`Error::File`], [`Error::Held`]; [`Error::BadFile`] if another job is saved there, or this one elsewhere;
    /// [`Error::AlreadyFinished`] if GitLab has its result. The job goes on as before.
    pub fn save(&mut self, path: impl AsRef<Path>) -> Result<(), Error> {
        if self.shared.is_in(path.as_ref()) {
            self.shared.save()?;
        } else {
            let config = kept(&self.config);
            self.shared.keep(path.as_ref(), &config)?;
            self.config = config;
            self.assignment = self.assignment.clone().without_text();
        }
        self.stays = true;
        Ok(())
    }

    /// Resumes a job from the record in this folder, which stays its record. This does not use the network; afterwards the thread of the
    /// job asks GitLab for the state of the job. [`crate::Runner::load_job`] does the same with the settings of a runner.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the record cannot be read; [`Error::Held`] if another process has it; [`Error::BadFile`] if the record is damaged
    /// or of a newer version, or the job has ended;
    /// [`Error::Config`] if a proxy in the environment is not valid; [`Error::System`] if there is no thread for it. The
    /// record stays as it is.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let (record, loaded) = Record::open(path.as_ref())?;
        let config = kept(default_config(&loaded.server)?.as_ref());
        Self::resume(record, loaded, &config, &Link::new(Transport::from_env()?), PATIENCE).map(Self::staying)
    }

    /// Makes the job stay in its record if it is dropped without a result.
    pub(crate) fn staying(mut self) -> Self {
        self.stays = true;
        self
    }

    /// Resumes a job from one value: what [`Job::into_record`] returned, or a job of the Python package. The job has no record in files.
    /// [`crate::Runner::job_from_record`] does the same with the settings of a runner.
    ///
    /// # Errors
    ///
    /// [`Error::BadRecord`] if its parts contradict each other; [`Error::Config`] and [`Error::System`] as [`Job::load`].
    pub fn from_record(record: JobRecord) -> Result<Self, Error> {
        let config = default_config(record.server())?;
        Self::resume_value(record, &config, &Link::new(Transport::from_env()?), PATIENCE)
    }

    /// Writes the record of a job to this folder, from which [`Job::load`] resumes it. Does not use the network.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it cannot be written; [`Error::Held`] if another process has a record there; [`Error::BadFile`] if a job is saved
    /// there, or the value has only the end of the log.
    pub fn store(record: &JobRecord, path: impl AsRef<Path>) -> Result<(), Error> {
        Ok(Record::create(path.as_ref(), record).map(drop)?)
    }

    pub(crate) fn resume(
        record: Record,
        loaded: Loaded,
        config: &Arc<RunnerConfig>,
        link: &Link,
        patience: Duration,
    ) -> Result<Self, Error> {
        let Loaded { assignment, snapshot, .. } = loaded;
        let job = Core::resume(config.clone(), &assignment, snapshot, link.clock.now()).map_err(Error::BadRecord)?;
        Self::of(job, Archive::Files(Box::new(record)), config, link, patience).go_on()
    }

    pub(crate) fn resume_value(
        record: JobRecord,
        config: &Arc<RunnerConfig>,
        link: &Link,
        patience: Duration,
    ) -> Result<Self, Error> {
        let config = &unkept(config);
        let job = record.resume(config.clone(), link.clock.now()).map_err(Error::BadRecord)?;
        let (start, log) = record.log();
        let archive = Archive::Spool(Box::new(Spool::after(start, log.clone())));
        Self::of(job, archive, config, link, patience).go_on()
    }

    /// Releases the job: it stays in its record, and this or another process can resume it. No more calls are made about it, and it is
    /// not failed. Its script keeps running under its original owner. A job that is over has no record any more, and is just dropped.
    ///
    /// # Errors
    ///
    /// [`Error::NoRecord`] if the job has no record; it is then failed. [`Error::File`] if the record cannot be written; it then has the
    /// state that was saved last. [`Error::Held`] if another process has taken the record over.
    pub fn leave(mut self) -> Result<(), Error> {
        let left = self.shared.leave();
        self.reported = !matches!(left, Err(Error::NoRecord));
        left
    }

    /// Releases the job, and returns it as one value. [`JobRecord::to_json`] makes a text of it that can be stored anywhere. **Secret**: it
    /// contains the job's token and variables.
    ///
    /// If the job has a record in files, this closes the record, and the value is the only copy. If the process dies before it has stored
    /// the value, the job is lost. With [`Job::save`] and [`Job::leave`] there is no such moment.
    ///
    /// # Errors
    ///
    /// [`Error::File`] and [`Error::BadFile`] if the record cannot be read or closed; the job then stays in its record, or is failed if it
    /// has none. [`Error::AlreadyFinished`] if the job is over. [`Error::Held`] if another process has taken its record over.
    pub fn into_record(mut self) -> Result<JobRecord, Error> {
        // A job without a record, of which no value can be made, is failed like any job that is dropped.
        let has_record = self.shared.has_record();
        let taken = self.shared.take_value();
        self.reported = has_record || taken.is_ok();
        taken
    }

    /// Why the job's record could not be written the last time, or `None` if it was written. Until it can be written again, nothing new is
    /// sent.
    #[must_use]
    pub fn save_error(&self) -> Option<String> {
        self.shared.save_error()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use gitlab_runner_api::Cancellation;
    use gitlab_runner_api_testkit::{Coordinator, Server as Gitlab, Settings, TimeLimit};

    use super::*;

    /// A machine that slept for so long that another took its job over says nothing more about it.
    #[test]
    fn a_job_whose_lease_was_lost_is_over_here() {
        let gitlab = Gitlab::start(Coordinator::new(Settings::default())).unwrap().with_time_limit(TimeLimit::TEST);
        let folder = tempfile::tempdir().unwrap();
        let stored = include_str!("../../../../tests/golden/job-record-1.json");
        let stored = stored.replace("https://gitlab.example.test", &gitlab.url());
        Job::store(&JobRecord::from_json(&stored).unwrap(), folder.path()).unwrap();

        let (mut record, loaded) = Record::open(folder.path()).unwrap();
        record.oversleep();
        let other = r#"{"host":"node-7","boot_id":"b","pid":4711,"heard_of":18446744073709551615}"#;
        fs::write(folder.path().join("lease"), other).unwrap();
        let config = kept(&default_config(&loaded.server).unwrap());
        let link = Link::new(Transport::from_env().unwrap());
        let mut job = Job::resume(record, loaded, &config, &link, PATIENCE).unwrap();
        assert!(matches!(job.success(), Err(Error::Held { by, .. }) if by.contains("process 4711 on \"node-7\"")));
        assert_eq!(job.cancellation(), Cancellation::Aborted);
        assert!(matches!(job.save(folder.path()), Err(Error::Held { .. })));
        assert!(matches!(job.leave(), Err(Error::Held { .. })));
        assert_eq!(gitlab.with(|gitlab, _| gitlab.stats().total()), 0);
        assert_eq!(fs::read_to_string(folder.path().join("lease")).unwrap(), other);
        assert!(folder.path().join("assignment.json").exists());
    }
}
