//! The handle of a job that GitLab assigned to this runner.

mod record;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::driver::{Archive, Checked, End, Shared, cancellation};
use crate::error::{Error, elsewhere};
use crate::exchange::complete;
use crate::link::Link;
use bytes::Bytes;
use gitlab_runner_api::api::artifacts::{DownloadArtifacts, UploadArtifact};
use gitlab_runner_api::api::runtime_environment_key::GetRuntimeEnvironmentKey;
use gitlab_runner_api::log::{Section, ansi};
use gitlab_runner_api::{
    AbortReason, Assignment, Cancellation, Exchange, FailureReason, Job as Core, JobResult, JobSpec, JobStatus,
    JobToken, Masked, Outcome, RunnerConfig, Secret, Stream, Written,
};

pub(crate) use record::{kept, unkept};

/// The default of [`Job::set_patience`].
pub(crate) const PATIENCE: Duration = Duration::from_secs(3600);

/// How long dropping a job without a result waits until GitLab has taken its failure.
const DROP_WAIT: Duration = Duration::from_secs(10);

/// A job that GitLab assigned to this runner.
///
/// A thread of its own sends its log, keeps it alive, and watches for its cancellation, from the moment it is received
/// until GitLab has its result.
///
/// ```no_run
/// use std::io::Write;
///
/// use gitlab_runner_api_ureq::{Cancellation, Error, FailureReason, Job};
///
/// fn run(mut job: Job) -> Result<(), Error> {
///     for step in 1..=3 {
///         // Does not wait for the network.
///         _ = writeln!(job.log(), "step {step} of job {}", job.id());
///         if job.cancellation() != Cancellation::None {
///             return job.failed(FailureReason::ScriptFailure);
///         }
///     }
///     // Waits until GitLab has the log and the result.
///     job.success()
/// }
/// ```
///
/// If a job is dropped without a result, for instance because its handler panicked, it is failed with `runner_system_failure` and a line
/// in its log that says so. The drop waits up to ten seconds until GitLab has taken that. Afterwards the thread goes on trying as long
/// as the process lives. A job that was [saved](Job::save) stays in its record instead.
pub struct Job {
    shared: Arc<Shared>,
    assignment: Assignment,
    config: Arc<RunnerConfig>,
    link: Link,
    patience: Duration,
    reported: bool,
    /// If it is dropped without a result, it stays in its record and is not failed.
    stays: bool,
}

/// A file to upload for a job, and what GitLab does with it.
#[derive(Clone, Debug)]
pub struct Artifact {
    file_name: String,
    content: Bytes,
    artifact_type: String,
    artifact_format: String,
    expire_in: Option<String>,
}

impl Artifact {
    /// A zip archive, the kind that other jobs and people download.
    #[must_use]
    pub fn archive(file_name: impl Into<String>, content: impl Into<Bytes>) -> Self {
        Self::report("archive", "zip", file_name, content)
    }

    /// A report of this type and format, such as `junit` and `gzip`. Each type has one format that GitLab takes.
    #[must_use]
    pub fn report(
        artifact_type: impl Into<String>,
        artifact_format: impl Into<String>,
        file_name: impl Into<String>,
        content: impl Into<Bytes>,
    ) -> Self {
        let (artifact_type, artifact_format) = (artifact_type.into(), artifact_format.into());
        Self { file_name: file_name.into(), content: content.into(), artifact_type, artifact_format, expire_in: None }
    }

    /// How long GitLab keeps it, as the job says: `1 week`, `never`.
    #[must_use]
    pub fn with_expire_in(mut self, span: impl Into<String>) -> Self {
        self.expire_in = Some(span.into());
        self
    }
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
    /// GitLab ended it before its result was reported, or another process has taken over its record.
    Aborted,
}

impl State {
    /// Whether the job has a result, or is over.
    #[must_use]
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Running | Self::Canceling)
    }
}

impl Job {
    pub(crate) fn of(
        mut job: Core,
        archive: Archive,
        config: &Arc<RunnerConfig>,
        link: &Link,
        patience: Duration,
    ) -> Self {
        if let Archive::Files(_) = archive {
            job.drop_payload_text();
        }
        let assignment = job.assignment().clone();
        let (config, link) = (config.clone(), link.clone());
        let shared = Shared::new(job, archive, link.clock);
        Self { shared, assignment, config, link, patience, reported: false, stays: false }
    }

    /// Starts to drive a new job.
    ///
    /// If no thread can be started, this thread reports the job as failed. Otherwise GitLab would show it as running until it times out.
    pub(crate) fn start(self) -> Result<Self, Error> {
        self.start_or(|job| {
            job.fail("The runner's system has no thread left for this job.");
            job.shared.drive(&job.link);
        })
    }

    /// Starts to drive a resumed job. If no thread can be started, nothing is sent, and the job stays in its record.
    fn go_on(self) -> Result<Self, Error> {
        self.start_or(|_| {})
    }

    fn start_or(self, without_thread: impl FnOnce(&Self)) -> Result<Self, Error> {
        let Err(error) = self.shared.start(&self.link) else { return Ok(self) };
        without_thread(&self);
        self.release();
        Err(Error::System(error))
    }

    /// How many bytes of a stream were written to the log. After [`Job::load`], continue from this offset if the output still exists, for
    /// example as a file that the script writes.
    #[must_use]
    pub fn taken(&self, stream: Stream) -> u64 {
        self.shared.look(|job, _| job.taken(stream))
    }

    /// Writes the reason to the log, and fails the job. Returns false if it already has a result, or is over.
    fn fail(&self, why: &str) -> bool {
        _ = self.shared.write(Stream::Runner, ansi::error(why).as_bytes());
        self.shared.finish(JobResult::failed(FailureReason::RunnerSystemFailure))
    }

    /// Fails the job for this reason, unless it has its result already, and drops the handle without waiting.
    pub(crate) fn give_up(self, why: &str) {
        self.fail(why);
        self.release();
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
        Log { shared: self.shared.clone(), stream: Stream::Runner }
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
        self.shared.log(Core::end_step);
    }

    /// Tells the log that one stream has ended, so that what is held back of it is written, as by [`Job::end_step`]. The stream can be
    /// written to again.
    pub fn close_stream(&self, stream: Stream) {
        self.shared.log(|job, now| job.close_stream(stream, now));
    }

    /// Opens a section of the log, within the section that is open. GitLab shows how long it took, and can fold it.
    pub fn open_section(&self, section: &Section) {
        self.shared.log(|job, now| job.open_section(section, now));
    }

    /// Closes the section that was opened last. Those that are open when the job ends are closed then. Where the section is
    /// a step that has ended, call [`Job::end_step`] first.
    pub fn close_section(&self) {
        self.shared.log(Core::close_section);
    }

    /// The size of the log in bytes, after secrets were hidden: as GitLab gets it.
    #[must_use]
    pub fn log_size(&self) -> u64 {
        self.shared.look(|job, _| job.log_size())
    }

    /// The log so far, as GitLab gets it. The whole log is read into memory.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the job has a record that cannot be read.
    pub fn log_content(&self) -> Result<Vec<u8>, Error> {
        Ok(self.shared.retained()?.concat())
    }

    /// The job's token. **Secret.**
    #[must_use]
    pub fn token(&self) -> &JobToken {
        &self.spec().token
    }

    /// Asks GitLab whether the job still belongs to this runner (`PUT /jobs/:id`), and waits for the answer. This succeeds also for a job
    /// that is being cancelled: see [`Job::cancellation`].
    ///
    /// # Errors
    ///
    /// [`Error::Canceled`], [`Error::Aborted`] or [`Error::AlreadyFinished`] if it does not; [`Error::Unavailable`] if
    /// GitLab could not be reached within the time that [`Job::set_patience`] sets.
    pub fn auth(&self) -> Result<(), Error> {
        match self.shared.check_in(self.patience) {
            Checked::Ours => Ok(()),
            Checked::Unknown => Err(Error::Unavailable(self.link.last_transport_error())),
            Checked::Ended(None | Some(End::Finished(_))) => Err(Error::AlreadyFinished),
            Checked::Ended(Some(End::Aborted(AbortReason::Canceled))) => Err(Error::Canceled),
            Checked::Ended(Some(End::Aborted(reason))) => Err(Error::Aborted(reason)),
            Checked::Ended(Some(End::Elsewhere(held))) => Err(elsewhere(&held)),
        }
    }

    /// Uploads an artifact of the job (`POST /jobs/:id/artifacts`). Do this before you give the job its result. The payload says which
    /// artifacts GitLab wants: see [`JobSpec`].
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`] if the job is over; [`Error::Exchange`] if GitLab refuses the file: it is too large (413),
    /// not what its type should be, or another one of that type was uploaded (400).
    pub fn upload_artifact(&self, artifact: Artifact) -> Result<(), Error> {
        let Artifact { file_name, content, artifact_type, artifact_format, expire_in } = artifact;
        let mut call = UploadArtifact::new(self.id(), self.token().clone(), file_name, content)
            .with_artifact_type(artifact_type)
            .with_artifact_format(artifact_format);
        if let Some(span) = expire_in {
            call = call.with_expire_in(span);
        }
        complete(Exchange::new(&self.config, call, self.link.clock.now()), &self.link)
    }

    /// Downloads the artifact archive of a job that this one depends on (`GET /jobs/:id/artifacts`). Returns `None` if that job has none.
    /// The archive is read into memory, at most `limit` bytes of it.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`] or [`Error::Exchange`] if GitLab refuses.
    pub fn download_artifacts(&self, job: u64, token: JobToken, limit: u64) -> Result<Option<Bytes>, Error> {
        let call = DownloadArtifacts::new(job, token, limit);
        complete(Exchange::new(&self.config, call, self.link.clock.now()), &self.link)
    }

    /// Fetches the key of the suspended environment in which this job should continue (`GET /jobs/:id/runtime_environment_key`). Returns
    /// `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`] if the job is over.
    pub fn runtime_environment_key(&self) -> Result<Option<String>, Error> {
        let call = GetRuntimeEnvironmentKey::new(self.id(), self.token().clone());
        complete(Exchange::new(&self.config, call, self.link.clock.now()), &self.link)
    }

    /// The current state of the job.
    #[must_use]
    pub fn state(&self) -> State {
        self.shared.look(|job, end| match end {
            Some(End::Aborted(_) | End::Elsewhere(_)) => State::Aborted,
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
        self.shared.look(cancellation)
    }

    /// Waits until the job must stop, or is over, or `timeout` has passed. Returns how urgently it must stop.
    #[must_use]
    pub fn wait_cancelled(&self, timeout: Duration) -> Cancellation {
        self.shared.wait_cancelled(timeout)
    }

    /// How much is left of the job's timeout. When it is zero, stop the job and finish it with
    /// [`FailureReason::JobExecutionTimeout`]. GitLab itself fails the job a quarter of an hour later.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.link.clock.until(self.shared.look(|job, _| job.deadline()))
    }

    /// Sets how long [`Job::success`], [`Job::failed`] and [`Job::finish`] wait until GitLab has the result. Default one hour.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Reports that the job succeeded. Waits until GitLab has the whole log and the result.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyFinished`]; [`Error::Canceled`], [`Error::Aborted`] or [`Error::NotAsReported`] if GitLab holds
    /// something else; [`Error::Patience`] if GitLab could not be reached for too long. Nothing is lost then: the result
    /// is still being sent.
    pub fn success(&mut self) -> Result<(), Error> {
        self.report(JobResult::success(), &JobStatus::Success)
    }

    /// Reports that the job failed. Waits until GitLab has the whole log and the result.
    ///
    /// # Errors
    ///
    /// As [`Job::success`].
    pub fn failed(&mut self, reason: FailureReason) -> Result<(), Error> {
        self.report(JobResult::failed(reason), &JobStatus::Failed)
    }

    fn report(&mut self, result: JobResult, wanted: &JobStatus) -> Result<(), Error> {
        match self.finish(result)? {
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
    /// [`Error::AlreadyFinished`], [`Error::Aborted`], [`Error::Patience`]; [`Error::Held`] if another process has taken its
    /// record over.
    pub fn finish(&mut self, result: JobResult) -> Result<Outcome, Error> {
        if std::mem::replace(&mut self.reported, true) {
            return Err(Error::AlreadyFinished);
        }
        // Has no effect on a job that is over. How that ended is then returned below.
        self.shared.finish(result);
        self.wait_delivered()
    }

    /// Waits until GitLab has the result of a finished job, as [`Job::finish`] does.
    ///
    /// # Errors
    ///
    /// [`Error::Aborted`], [`Error::Patience`]; [`Error::Held`] if another process has taken its record over.
    pub fn wait_delivered(&self) -> Result<Outcome, Error> {
        match self.shared.wait_end(self.patience) {
            Some(End::Finished(outcome)) => Ok(outcome),
            Some(End::Aborted(reason)) => Err(Error::Aborted(reason)),
            Some(End::Elsewhere(held)) => Err(elsewhere(&held)),
            None => Err(Error::Patience),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.reported {
            return;
        }
        if self.stays {
            // If this cannot be written, the record has the state that was saved last.
            _ = self.shared.leave();
            return;
        }
        let why = if thread::panicking() { "its handler panicked" } else { "it was dropped without a result" };
        if self.fail(&format!("The runner gave this job up: {why}.")) {
            _ = self.shared.wait_end(DROP_WAIT);
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("id", &self.id()).field("state", &self.state()).finish_non_exhaustive()
    }
}

/// A writer to a job's log. Clones write to the same log. The bytes of one write stay together.
///
/// What is written is kept and sent in the background: no write waits for the network. Once the job has a result or is
/// over, writing fails with [`io::ErrorKind::BrokenPipe`].
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    stream: Stream,
}

impl Log {
    /// The same log, written as another stream.
    #[must_use]
    pub fn stream(&self, stream: Stream) -> Self {
        Self { shared: self.shared.clone(), stream }
    }

    /// Tells the log that the stream of this writer has ended, see [`Job::close_stream`]. Dropping a writer does not do that, because
    /// other writers may write to the same stream.
    pub fn close_stream(&self) {
        self.shared.log(|job, now| job.close_stream(self.stream, now));
    }
}

impl io::Write for Log {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self.shared.write(self.stream, buffer) {
            Written::Queued => Ok(buffer.len()),
            Written::Ended => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the job has ended and takes no more log")),
        }
    }

    /// The log is sent in the background; there is nothing to flush.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("stream", &self.stream).finish_non_exhaustive()
    }
}
