//! The handle of a job that GitLab assigned to this runner.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use gitlab_runner_api::log::{Section, ansi};
use gitlab_runner_api::{
    Assignment, Cancellation, FailureReason, JobResult, JobSpec, JobStatus, Masked, Outcome, Secret, Stream,
};

use crate::clock::Clock;
use crate::error::Error;
use crate::log::Log;
use crate::shared::{End, Shared};

/// A job that GitLab assigned to this runner.
///
/// The runner's task sends its log, keeps it alive, and watches for its cancellation, from the moment it is received until
/// GitLab has its result.
///
/// ```no_run
/// use gitlab_runner_api_hyper::{Cancellation, Error, FailureReason, Job};
///
/// async fn run(mut job: Job) -> Result<(), Error> {
///     let log = job.log();
///     let work = async {
///         // Waits only if much of the log has not reached GitLab.
///         log.send("working\n").await.is_ok()
///     };
///     let done = tokio::select! {
///         done = work => done,
///         _ = job.cancelled() => false,
///     };
///     // Waits until GitLab has the log and the result.
///     if done { job.success().await } else { job.failed(FailureReason::ScriptFailure).await }
/// }
/// ```
///
/// If a job is dropped without a result, for instance because its handler panicked, it is failed with `runner_system_failure` and a line
/// in its log that says so. The drop does not wait. The runner's task delivers the failure as long as the tokio runtime lives: see
/// [`Runner::delivered`](crate::Runner::delivered).
pub struct Job {
    shared: Arc<Shared>,
    assignment: Assignment,
    clock: Clock,
    patience: Duration,
    reported: bool,
}

/// The state of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// The job has no result yet.
    Running,
    /// A user cancelled it. Stop the script, run `after_script`, and give the job a result.
    Canceling,
    /// It has a result, which GitLab does not have yet.
    Finishing,
    /// GitLab holds `success`.
    Success,
    /// GitLab holds `failed`.
    Failed,
    /// GitLab holds `canceled`.
    Canceled,
    /// GitLab ended it before its result was reported.
    Aborted,
}

impl Job {
    pub(crate) fn new(shared: Arc<Shared>, assignment: Assignment, clock: Clock, patience: Duration) -> Self {
        Self { shared, assignment, clock, patience, reported: false }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Drops the handle of a job that has its result already, without waiting. The driver delivers the result.
    pub(crate) fn release(mut self) {
        self.reported = true;
    }

    /// The job's id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.assignment.id()
    }

    /// The job's payload.
    #[must_use]
    pub fn spec(&self) -> &JobSpec {
        self.assignment.spec()
    }

    /// The branch or tag the job was started for.
    #[must_use]
    pub fn git_ref(&self) -> &str {
        &self.spec().git_info.git_ref
    }

    /// The value of a job variable, as GitLab sent it. If a name occurs more than once, the last value wins.
    #[must_use]
    pub fn variable(&self, key: &str) -> Option<&str> {
        self.spec().variable(key)
    }

    /// Returns a writer to the job's log, as [`Stream::Runner`]. Any number of writers can write at the same time, from any thread.
    #[must_use]
    pub fn log(&self) -> Log {
        Log::new(self.shared.clone())
    }

    /// Hides a value in everything that is written from now on. Use it for a secret that was fetched or made for this job; the secrets
    /// of the payload are hidden anyway. It is also hidden in what was written before and is still held back. The result says whether
    /// the value is hidden.
    pub fn mask(&self, secret: &Secret) -> Masked {
        self.shared.mask(secret)
    }

    /// Tells the log that a step of the job has ended, so that what is held back of its output is written. Call it when a script has
    /// ended, before anything else is written. Otherwise the last bytes of the script, which may be the beginning of a secret, appear
    /// behind the next message of the runner. A secret that goes on behind the end of a step is not recognised. The streams of services
    /// stay open: end them with [`Job::close_stream`].
    pub fn end_step(&self) {
        self.shared.log(gitlab_runner_api::Job::end_step);
    }

    /// Tells the log that one stream has ended, so that what is held back of it is written, as by [`Job::end_step`]. The stream can be
    /// written to again.
    pub fn close_stream(&self, stream: Stream) {
        self.shared.log(|job, now| job.close_stream(stream, now));
    }

    /// Opens a section of the log, within the one that is open. GitLab shows how long it took, and can fold it.
    pub fn open_section(&self, section: &Section) {
        self.shared.log(|job, now| job.open_section(section, now));
    }

    /// Closes the section that was opened last. Those that are open when the job ends are closed then. Where the section is
    /// a step that has ended, call [`Job::end_step`] first.
    pub fn close_section(&self) {
        self.shared.log(gitlab_runner_api::Job::close_section);
    }

    /// The size of the log in bytes, after secrets were hidden: as GitLab gets it.
    #[must_use]
    pub fn log_size(&self) -> u64 {
        self.shared.look(|job, _| job.log_size())
    }

    /// The current state of the job.
    #[must_use]
    pub fn state(&self) -> State {
        self.shared.look(|job, end| match end {
            Some(End::Aborted(_)) => State::Aborted,
            Some(End::Finished(outcome)) => match outcome.status() {
                Some(JobStatus::Success) => State::Success,
                Some(JobStatus::Canceled) => State::Canceled,
                _ => State::Failed,
            },
            None if job.is_ended() => State::Finishing,
            None if job.cancellation() == Cancellation::Requested => State::Canceling,
            None => State::Running,
        })
    }

    /// How urgently the job is to stop. GitLab is asked at least every 30 seconds.
    #[must_use]
    pub fn cancellation(&self) -> Cancellation {
        self.shared.look(|job, _| job.cancellation())
    }

    /// Waits until the job must stop, or is over. Returns [`Cancellation::None`] if it is over and was never cancelled.
    pub async fn cancelled(&self) -> Cancellation {
        self.shared.cancelled().await
    }

    /// How much is left of the job's timeout. When it is zero, stop the job and finish it with
    /// [`FailureReason::JobExecutionTimeout`]. GitLab itself fails the job a quarter of an hour later.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.clock.until(self.shared.look(|job, _| job.deadline()))
    }

    /// Sets how long [`Job::success`], [`Job::failed`] and [`Job::finish`] wait until GitLab has the result. Default one hour.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Reports that the job succeeded. Waits until GitLab has the whole log and the result.
    ///
    /// The job has its result as soon as this future was polled once. Dropping the future only ends the wait.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyFinished`]; [`Error::Canceled`], [`Error::Aborted`] or [`Error::NotAsReported`] if GitLab holds
    /// something else; [`Error::Patience`] if GitLab could not be reached for too long. Nothing is lost then: the result
    /// is still being sent.
    pub async fn success(&mut self) -> Result<(), Error> {
        self.report(JobResult::success(), &JobStatus::Success).await
    }

    /// Reports that the job failed. Waits until GitLab has the whole log and the result.
    ///
    /// # Errors
    ///
    /// As [`Job::success`].
    pub async fn failed(&mut self, reason: FailureReason) -> Result<(), Error> {
        self.report(JobResult::failed(reason), &JobStatus::Failed).await
    }

    async fn report(&mut self, result: JobResult, wanted: &JobStatus) -> Result<(), Error> {
        match self.finish(result).await? {
            outcome if outcome.status().as_ref() == Some(wanted) => Ok(()),
            outcome if outcome.status() == Some(JobStatus::Canceled) => Err(Error::Canceled),
            other => Err(Error::NotAsReported(other)),
        }
    }

    /// Reports this result. Waits until GitLab has the whole log and the result, and returns what GitLab then holds. For a cancelled job
    /// that is [`Outcome::Canceled`], whatever was reported.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyFinished`], [`Error::Aborted`], [`Error::Patience`].
    pub async fn finish(&mut self, result: JobResult) -> Result<Outcome, Error> {
        if std::mem::replace(&mut self.reported, true) {
            return Err(Error::AlreadyFinished);
        }
        // Has no effect on a job that is over. How that ended is then returned below.
        self.shared.finish(result);
        self.wait_delivered().await
    }

    /// Waits until GitLab has the result of a finished job, as [`Job::finish`] does.
    ///
    /// # Errors
    ///
    /// [`Error::Aborted`], [`Error::Patience`].
    pub async fn wait_delivered(&self) -> Result<Outcome, Error> {
        match tokio::time::timeout(self.patience, self.shared.ended()).await {
            Ok(End::Finished(outcome)) => Ok(outcome),
            Ok(End::Aborted(reason)) => Err(Error::Aborted(reason)),
            Err(_) => Err(Error::Patience),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.reported {
            return;
        }
        let why = if thread::panicking() { "its handler panicked" } else { "it was dropped without a result" };
        let line = ansi::error(&format!("The runner gave this job up: {why}."));
        _ = self.shared.write(Stream::Runner, line.into());
        self.shared.finish(JobResult::failed(FailureReason::RunnerSystemFailure));
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("id", &self.id()).field("state", &self.state()).finish_non_exhaustive()
    }
}
