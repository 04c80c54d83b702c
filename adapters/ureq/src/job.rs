//! A job in hand.

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

/// How long the result of a job is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3600);

/// How long a job that is dropped unfinished is waited for.
const FAREWELL: Duration = Duration::from_secs(10);

/// A job that GitLab handed out to us.
///
/// A thread of its own sends its log, keeps it alive, and watches for its cancellation, from the moment it is received
/// until GitLab has its result.
///
/// A job that is dropped without a result, for instance because its handler panicked, is failed with
/// `runner_system_failure` and a line in its log that says so. The drop waits for GitLab to take that, up to ten seconds;
/// the thread goes on trying for as long as the process lives. A job that was [saved](Job::save) stays in its record instead.
pub struct Job {
    shared: Arc<Shared>,
    assignment: Assignment,
    config: Arc<RunnerConfig>,
    link: Link,
    patience: Duration,
    reported: bool,
    /// Dropped without a result, it stays in its record.
    stays: bool,
}

/// A file to be kept beside a job.
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

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It runs.
    Running,
    /// A user cancelled it, and it is to stop gracefully.
    Canceling,
    /// It has a result, which GitLab does not have yet.
    Finishing,
    /// GitLab holds `success`.
    Success,
    /// GitLab holds `failed`.
    Failed,
    /// GitLab holds `canceled`.
    Canceled,
    /// It was over before it had a result, or is another process's by now.
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

    /// Starts a job that is new.
    ///
    /// If there is no thread to be had, it is failed here and now, and not left to GitLab's timeouts.
    pub(crate) fn start(self) -> Result<Self, Error> {
        self.start_or(|job| {
            job.fail("The runner's system has no thread left for this job.");
            job.shared.drive(&job.link);
        })
    }

    /// Starts a job that others had before. If there is no thread to be had, nothing is said about it, and it stays where it was.
    fn go_on(self) -> Result<Self, Error> {
        self.start_or(|_| {})
    }

    fn start_or(self, without_thread: impl FnOnce(&Self)) -> Result<Self, Error> {
        let Err(error) = self.shared.start(&self.link) else { return Ok(self) };
        without_thread(&self);
        self.forsake();
        Err(Error::System(error))
    }

    /// How many bytes of a stream were written to the log. After [`Job::load`], this is where to go on in an output that is
    /// still there: the file a script of its own writes to.
    #[must_use]
    pub fn taken(&self, stream: Stream) -> u64 {
        self.shared.look(|job, _| job.taken(stream))
    }

    /// Says so in the log, and gives the job a failure for its result; false if it has one, or is over.
    fn fail(&self, why: &str) -> bool {
        _ = self.shared.write(Stream::Runner, ansi::error(why).as_bytes());
        self.shared.finish(JobResult::failed(FailureReason::RunnerSystemFailure))
    }

    /// Leaves a job to its driver, failed for this reason unless it has its result already.
    pub(crate) fn give_up(self, why: &str) {
        self.fail(why);
        self.forsake();
    }

    /// Leaves a job to its driver that has its result already.
    pub(crate) fn forsake(mut self) {
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

    /// The value of a job variable, as GitLab sent it. Of several with one name the last counts.
    #[must_use]
    pub fn variable(&self, key: &str) -> Option<&str> {
        self.spec().variable(key)
    }

    /// A writer to the job's log, as the runner itself. Any number of them can write at the same time, from any thread.
    #[must_use]
    pub fn log(&self) -> Log {
        Log { shared: self.shared.clone(), stream: Stream::Runner }
    }

    /// Hides this value too, wherever it is written from now on: a secret that was fetched or made for this job. Those of the
    /// payload are hidden anyway. What was written before and is still held back is searched too. The result says whether the value
    /// is hidden.
    pub fn mask(&self, secret: &Secret) -> Masked {
        self.shared.mask(secret)
    }

    /// A step of the job has ended, and with it what it wrote. Call it when a script has ended, before anything else is written:
    /// otherwise the script's last bytes, which may be the beginning of a secret, come out behind what the runner says next. No
    /// secret reaches over the end of a step. Services run on: end their streams with [`Job::close_stream`].
    pub fn end_step(&self) {
        self.shared.log(Core::end_step);
    }

    /// A stream has ended: what is held back of it is written, as by [`Job::end_step`]. What is written to it later begins anew.
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
        self.shared.log(Core::close_section);
    }

    /// How many bytes of log there are, as GitLab gets it.
    #[must_use]
    pub fn log_size(&self) -> u64 {
        self.shared.look(|job, _| job.log_size())
    }

    /// The log so far, as GitLab gets it. All of it is taken into memory.
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

    /// Asks GitLab now whether the job is still ours (`PUT /jobs/:id`), and waits for what it says. A job that is
    /// being cancelled still is: see [`Job::cancellation`].
    ///
    /// # Errors
    ///
    /// [`Error::Canceled`], [`Error::Aborted`] or [`Error::AlreadyFinished`] if it is not; [`Error::Unavailable`] if
    /// GitLab could not be reached for as long as results are waited for.
    pub fn auth(&self) -> Result<(), Error> {
        match self.shared.check_in(self.patience) {
            Checked::Ours => Ok(()),
            Checked::Unknown => Err(Error::Unavailable(self.link.trouble())),
            Checked::Ended(None | Some(End::Finished(_))) => Err(Error::AlreadyFinished),
            Checked::Ended(Some(End::Aborted(AbortReason::Canceled))) => Err(Error::Canceled),
            Checked::Ended(Some(End::Aborted(reason))) => Err(Error::Aborted(reason)),
            Checked::Ended(Some(End::Elsewhere(held))) => Err(elsewhere(&held)),
        }
    }

    /// Uploads a file beside the job (`POST /jobs/:id/artifacts`), before the job has its result. What a job is to leave is
    /// in its payload: see [`JobSpec`].
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

    /// Fetches the archive of a job that this one depends on (`GET /jobs/:id/artifacts`); none if there is none. At most
    /// `limit` bytes are taken into memory.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`] or [`Error::Exchange`] if GitLab refuses.
    pub fn download_artifacts(&self, job: u64, token: JobToken, limit: u64) -> Result<Option<Bytes>, Error> {
        let call = DownloadArtifacts::new(job, token, limit);
        complete(Exchange::new(&self.config, call, self.link.clock.now()), &self.link)
    }

    /// The name of the suspended environment that the job is to go on in, if there is one
    /// (`GET /jobs/:id/runtime_environment_key`).
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`] if the job is over.
    pub fn runtime_environment_key(&self) -> Result<Option<String>, Error> {
        let call = GetRuntimeEnvironmentKey::new(self.id(), self.token().clone());
        complete(Exchange::new(&self.config, call, self.link.clock.now()), &self.link)
    }

    /// Where the job is.
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

    /// Waits until the job is to stop, or `timeout` has passed.
    #[must_use]
    pub fn wait_cancelled(&self, timeout: Duration) -> Cancellation {
        self.shared.wait_cancelled(timeout)
    }

    /// How much is left of the time the job may take; zero if it is up. Then stop it, and finish it with
    /// [`FailureReason::JobExecutionTimeout`]: GitLab fails it a quarter of an hour later.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.link.clock.until(self.shared.look(|job, _| job.deadline()))
    }

    /// How long [`Job::success`] and its sisters wait for GitLab to take a result. Default one hour.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// The job did what it should. Waits until GitLab has the whole log and the result.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyFinished`]; [`Error::Canceled`], [`Error::Aborted`] or [`Error::NotAsReported`] if GitLab holds
    /// something else; [`Error::Patience`] if GitLab could not be reached for too long. Nothing is lost then: the result
    /// is still being sent.
    pub fn success(&mut self) -> Result<(), Error> {
        self.report(JobResult::success(), &JobStatus::Success)
    }

    /// The job failed. Waits until GitLab has the whole log and the result.
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

    /// The job ended with this result. Waits until GitLab has the whole log and the result, and says what it holds: for a
    /// cancelled job, [`Outcome::Canceled`] whatever the result.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyFinished`], [`Error::Aborted`], [`Error::Patience`]; [`Error::Held`] if another process has taken its
    /// record over.
    pub fn finish(&mut self, result: JobResult) -> Result<Outcome, Error> {
        if std::mem::replace(&mut self.reported, true) {
            return Err(Error::AlreadyFinished);
        }
        // A job that is over takes no result, and has an end to tell.
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
            // What cannot be written now is what it was when it was last saved.
            _ = self.shared.leave();
            return;
        }
        let why = if thread::panicking() { "its handler panicked" } else { "it was dropped without a result" };
        if self.fail(&format!("The runner gave this job up: {why}.")) {
            _ = self.shared.wait_end(FAREWELL);
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("id", &self.id()).field("state", &self.state()).finish_non_exhaustive()
    }
}

/// A writer to a job's log. Clones write to the same log; each write stays in one piece.
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

    /// The stream that this writes to has ended, see [`Job::close_stream`]. Dropping a writer does not say so: others may write to
    /// the same stream.
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
