//! All that is known of a job, in one text.

mod python;

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::api::job_spec::Assignment;
use crate::config::{RunnerConfig, Server};
use crate::job::{Job, JobSnapshot};
use crate::snapshot::{self, ResumeError};
use crate::time::Timestamp;

const KIND: &str = "job-record";
const FORMAT: u32 = 1;

/// All that is known of a job: where it is from, its payload, its state and its log, as far as it is kept. For those who
/// want to save a job as one value and nothing else; [`crate::manual::durability`] has a way that writes less.
///
/// **Secret**: it holds the job's token and its variables. It does not hold the runner's token. `Debug` shows no secret.
///
/// ```
/// use std::sync::Arc;
///
/// use gitlab_runner_api::api::info::Info;
/// use gitlab_runner_api::{Assignment, Job, JobRecord, RunnerConfig, Server, Timestamp};
///
/// let config = RunnerConfig::new(Server::parse("https://gitlab.example.com")?, Info::new("my-runner", "1.0"));
/// let config = Arc::new(config);
/// let assignment = Assignment::from_json(r#"{"id":7,"token":"glcbt-64_0123456789"}"#)?;
/// let now = Timestamp::from_millis(1_750_000_000_000);
/// let mut job = Job::new(config.clone(), &assignment, now);
/// job.write("hello\n");
/// job.abandon();
/// let text = JobRecord::of(&mut job)?.to_json();
///
/// // Later, in another process.
/// let record = JobRecord::from_json(&text)?;
/// let job = record.resume(config, now)?;
/// assert_eq!((job.id(), job.log_size()), (7, 6));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct JobRecord {
    server: Server,
    assignment: Assignment,
    snapshot: JobSnapshot,
    log_start: u64,
    log: Bytes,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    url: String,
    payload: String,
    /// What [`Job::mask`] hides besides what the payload names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    masked_at_run_time: Vec<String>,
    snapshot: String,
    log_start: u64,
    log: String,
}

impl JobRecord {
    /// A job as it is now. It is as good as the moment it is taken: a job that goes on from here must not be sent to GitLab
    /// by two. [`Job::abandon`] it first, or be sure that nothing is done with the record unless the process died.
    ///
    /// # Errors
    ///
    /// [`ResumeError::LogElsewhere`] if the job was resumed without its log, and GitLab may still need the bytes from before. Resume
    /// with [`JobRecord::resume`], so that the job has them, or give them to [`JobRecord::with_log_before`].
    /// [`ResumeError::PayloadElsewhere`] after [`Job::drop_payload_text`].
    pub fn of(job: &mut Job) -> Result<Self, ResumeError> {
        if let Some(missing) = job.log_elsewhere() {
            return Err(ResumeError::LogElsewhere { missing });
        }
        let (log_start, log) = job.retained();
        let (server, assignment, snapshot) = (job.server().clone(), job.assignment().clone(), job.snapshot());
        if !assignment.has_text() {
            return Err(ResumeError::PayloadElsewhere);
        }
        Ok(Self { server, assignment, snapshot, log_start, log: log.concat().into() })
    }

    /// A job as it is now, of which `before` is the log from the offset `start` up to what [`Job::retained`] has, or further. With 0
    /// for `start`, the record has the whole log then.
    ///
    /// # Errors
    ///
    /// [`ResumeError::LogElsewhere`] if bytes are missing that GitLab may need, or [`ResumeError::Corrupt`] if the whole log is not the
    /// one that this job has written. [`ResumeError::PayloadElsewhere`] after [`Job::drop_payload_text`].
    pub fn with_log_before(job: &mut Job, start: u64, before: &[u8]) -> Result<Self, ResumeError> {
        let (kept_from, log) = job.retained();
        if let Some(missing) = job.log_elsewhere().filter(|missing| missing.start < start) {
            return Err(ResumeError::LogElsewhere { missing: missing.start..start.min(missing.end) });
        }
        let Some(length) = kept_from.checked_sub(start) else { return Self::of(job) };
        let known = usize::try_from(length).ok().and_then(|length| before.get(..length));
        let Some(known) = known else {
            return Err(ResumeError::LogElsewhere { missing: start + before.len() as u64..kept_from });
        };
        let log = [known, &log.concat()].concat();
        Self::new(job.server().clone(), job.assignment().clone(), job.snapshot(), start, log.into())
    }

    /// From its parts, as files may keep them apart. `log` begins at the offset `log_start`.
    ///
    /// # Errors
    ///
    /// [`ResumeError::WrongJob`] if assignment and snapshot are not of the same job, or [`ResumeError::Corrupt`] if the log is not the
    /// one that the snapshot speaks of, by its size, and by its checksum if it is the whole log. [`ResumeError::PayloadElsewhere`] if
    /// the assignment is [without its text](Assignment::without_text).
    pub fn new(
        server: Server,
        assignment: Assignment,
        snapshot: JobSnapshot,
        log_start: u64,
        log: Bytes,
    ) -> Result<Self, ResumeError> {
        let corrupt = |what: &str| ResumeError::Corrupt(what.to_owned());
        if snapshot.job_id() != assignment.id() {
            return Err(ResumeError::WrongJob { found: snapshot.job_id(), wanted: assignment.id() });
        }
        if !assignment.has_text() {
            return Err(ResumeError::PayloadElsewhere);
        }
        if log_start.checked_add(log.len() as u64) != Some(snapshot.log_size()) {
            return Err(corrupt("its log is not as long as its state says"));
        }
        if log_start == 0 && !snapshot.is_log([&log]) {
            return Err(corrupt("the checksum of its log is not the one in its state"));
        }
        Ok(Self { server, assignment, snapshot, log_start, log })
    }

    /// Resumes the job, on this host or another one: [`Job::resume`], and the job has its log as far as the record holds it. It asks
    /// for none of that with [`crate::JobEvent::TraceNeeded`].
    ///
    /// # Errors
    ///
    /// [`ResumeError`] as [`Job::resume`].
    pub fn resume(&self, config: Arc<RunnerConfig>, now: Timestamp) -> Result<Job, ResumeError> {
        let mut job = Job::resume(config, &self.assignment, self.snapshot.clone(), now)?;
        job.hold_log(self.log_start, self.log.clone());
        Ok(job)
    }

    /// The instance the job is of.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The job's payload.
    #[must_use]
    pub fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    /// The job's state.
    #[must_use]
    pub fn snapshot(&self) -> &JobSnapshot {
        &self.snapshot
    }

    /// What is kept of the log, from which offset on: answers [`crate::JobEvent::TraceNeeded`].
    #[must_use]
    pub fn log(&self) -> (u64, &Bytes) {
        (self.log_start, &self.log)
    }

    /// The record as JSON. **Secret.**
    #[must_use]
    pub fn to_json(&self) -> String {
        let stored = Stored {
            url: self.server.as_str().to_owned(),
            payload: self.assignment.to_text(),
            masked_at_run_time: self.assignment.masked_at_run_time().iter().map(|it| it.expose().to_owned()).collect(),
            snapshot: self.snapshot.to_json(),
            log_start: self.log_start,
            log: STANDARD.encode(&self.log),
        };
        snapshot::seal(KIND, FORMAT, &stored)
    }

    /// Reads what [`JobRecord::to_json`] wrote, in this version or an older one.
    ///
    /// # Errors
    ///
    /// [`ResumeError`] if the text is damaged, something else, or written by a newer version. It is never quoted.
    pub fn from_json(text: &str) -> Result<Self, ResumeError> {
        let stored: Stored = snapshot::open(KIND, FORMAT, text)?;
        let corrupt = |what: &str| ResumeError::Corrupt(what.to_owned());
        let server = Server::parse(&stored.url).map_err(|_| corrupt("its address is none"))?;
        let assignment = Assignment::from_text(stored.payload).map_err(|_| corrupt("its payload cannot be read"))?;
        let assignment =
            assignment.with_masked_at_run_time(stored.masked_at_run_time.into_iter().map(crate::secret::Secret::new));
        let snapshot = JobSnapshot::from_json(&stored.snapshot)?;
        let log = STANDARD.decode(stored.log).map_err(|_| corrupt("its log cannot be read"))?;
        Self::new(server, assignment, snapshot, stored.log_start, log.into())
    }
}

impl fmt::Debug for JobRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, assignment, snapshot, log_start, log } = self;
        let kept = *log_start..log_start.saturating_add(log.len() as u64);
        let mut shown = f.debug_struct("JobRecord");
        shown.field("server", server).field("assignment", assignment).field("snapshot", snapshot);
        shown.field("log", &kept).finish()
    }
}
