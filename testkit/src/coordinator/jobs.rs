//! Jobs as the simulated GitLab knows them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gitlab_runner_api::Timestamp;
use serde_json::Value;

use super::files::StoredArtifact;
use super::new_job::NewJob;
use super::settings::{Settings, minutes};
use super::stats::Endpoint;
use super::status::JobStatus;

/// The last-update time of a job is refreshed only if it is older than this.
const TOUCH_AFTER: Duration = minutes(15);
/// So long after its timeout a running job is failed.
const TIMEOUT_GRACE: Duration = minutes(15);
/// So long a job may be `canceling` without an update.
const CANCELING_PATIENCE: Duration = minutes(30);

/// What the first final update with a checksum reported. It stands, whatever later ones say.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) checksum: String,
    pub(super) bytesize: Option<u64>,
    pub(super) at: Timestamp,
}

/// An update to `success` or `failed`, as it was received while the job was executing.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinalUpdate {
    /// When it was received.
    pub at: Timestamp,
    /// `success` or `failed`.
    pub state: String,
    /// The failure reason as it was sent.
    pub failure_reason: Option<String>,
    /// The exit code.
    pub exit_code: Option<i64>,
    /// The checksum of the trace.
    pub checksum: Option<String>,
    /// The size of the trace.
    pub bytesize: Option<u64>,
}

/// A job, from the queue to its end.
#[derive(Clone, Debug)]
pub struct JobRecord {
    pub(super) id: u64,
    pub(super) token: String,
    pub(super) template: NewJob,
    pub(super) payload: Value,
    pub(super) features: BTreeSet<String>,
    pub(super) status: JobStatus,
    pub(super) history: Vec<(Timestamp, JobStatus)>,
    pub(super) failure_reason: Option<String>,
    pub(super) exit_code: Option<i64>,
    pub(super) trace: Vec<u8>,
    /// The log was dropped to bound the memory. It had so many bytes, with this checksum.
    pub(super) dropped_log: Option<(u64, u32)>,
    pub(super) artifacts: Vec<StoredArtifact>,
    /// The files were dropped to bound the memory.
    pub(super) dropped_artifacts: bool,
    pub(super) dotenv: BTreeMap<String, String>,
    pub(super) environment_key: Option<String>,
    pub(super) appended_at: Timestamp,
    pub(super) debug_trace: bool,
    pub(super) watched: bool,
    pub(super) erased: bool,
    /// When a user erased the job.
    pub(super) erased_at: Option<Timestamp>,
    /// The pipeline goes on although this job failed.
    pub(super) allow_failure: bool,
    /// The token was revoked.
    pub(super) token_revoked: bool,
    /// When the token expires, in place of what the settings say.
    pub(super) own_token_expiry: Option<Timestamp>,
    pub(super) project_deleted: bool,
    pub(super) trace_locked_until: Timestamp,
    pub(super) locked_until: Timestamp,
    pub(super) runner: Option<u64>,
    pub(super) system_id: Option<String>,
    pub(super) handed_out_at: Option<Timestamp>,
    pub(super) started_at: Option<Timestamp>,
    pub(super) updated_at: Timestamp,
    pub(super) accept_by: Option<Timestamp>,
    pub(super) report: Option<Report>,
    pub(super) final_updates: Vec<FinalUpdate>,
    pub(super) requests: BTreeMap<Endpoint, u64>,
    pub(super) retry_of: Option<u64>,
    /// Another job is in the place of this one.
    pub(super) is_retried: bool,
    /// The jobs that must succeed before this one is handed out.
    pub(super) dependencies: Vec<u64>,
    pub(super) armed: Option<Timestamp>,
}

impl JobRecord {
    pub(super) fn new(now: Timestamp, id: u64, token: String, template: NewJob, payload: Value) -> Self {
        Self {
            id,
            token,
            features: template.required_features(&payload),
            allow_failure: template.allows_failure(),
            template,
            payload,
            status: JobStatus::Pending,
            history: vec![(now, JobStatus::Pending)],
            failure_reason: None,
            exit_code: None,
            trace: Vec::new(),
            dropped_log: None,
            artifacts: Vec::new(),
            dropped_artifacts: false,
            dotenv: BTreeMap::new(),
            environment_key: None,
            appended_at: now,
            debug_trace: false,
            watched: false,
            erased: false,
            erased_at: None,
            token_revoked: false,
            own_token_expiry: None,
            project_deleted: false,
            trace_locked_until: Timestamp::EPOCH,
            locked_until: Timestamp::EPOCH,
            runner: None,
            system_id: None,
            handed_out_at: None,
            started_at: None,
            updated_at: now,
            accept_by: None,
            report: None,
            final_updates: Vec::new(),
            requests: BTreeMap::new(),
            retry_of: None,
            is_retried: false,
            dependencies: Vec::new(),
            armed: None,
        }
    }

    /// Number of the job.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The job token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Name of the job.
    #[must_use]
    pub fn name(&self) -> &str {
        self.template.name()
    }

    /// The payload handed to the runner. It is complete from the moment when a runner gets the job; before, its variables are
    /// missing.
    #[must_use]
    pub fn payload(&self) -> &Value {
        &self.payload
    }

    /// The state now.
    #[must_use]
    pub fn status(&self) -> JobStatus {
        self.status
    }

    /// Every state so far, and when it began.
    #[must_use]
    pub fn history(&self) -> &[(Timestamp, JobStatus)] {
        &self.history
    }

    /// Why the job failed, or why the server gave up waiting for its cancellation.
    #[must_use]
    pub fn failure_reason(&self) -> Option<&str> {
        self.failure_reason.as_deref()
    }

    /// Whether the pipeline goes on if this job fails. It is decided at the end if only some exit codes are allowed.
    #[must_use]
    pub fn allow_failure(&self) -> bool {
        self.allow_failure
    }

    /// The exit code reported with a failure.
    #[must_use]
    pub fn exit_code(&self) -> Option<i64> {
        self.exit_code
    }

    /// What the job was made from.
    pub(crate) fn template(&self) -> &NewJob {
        &self.template
    }

    /// The stored trace. It is empty if it was dropped.
    #[must_use]
    pub fn trace(&self) -> &[u8] {
        &self.trace
    }

    /// Whether the trace was dropped because of [`Settings::kept_log_bytes`](crate::Settings::kept_log_bytes).
    #[must_use]
    pub fn is_log_dropped(&self) -> bool {
        self.dropped_log.is_some()
    }

    /// The number of bytes of the trace, also after it was dropped.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.dropped_log.map_or(self.trace.len() as u64, |(bytes, _)| bytes)
    }

    /// The CRC-32 of the trace, also after it was dropped.
    #[must_use]
    pub fn log_crc32(&self) -> u32 {
        self.dropped_log.map_or_else(|| crc32fast::hash(&self.trace), |(_, checksum)| checksum)
    }

    /// Whether the files were dropped because of [`Settings::kept_artifact_bytes`](crate::Settings::kept_artifact_bytes).
    #[must_use]
    pub fn are_artifacts_dropped(&self) -> bool {
        self.dropped_artifacts
    }

    pub(super) fn drop_log(&mut self) {
        // A user may have erased it meanwhile.
        if !self.trace.is_empty() {
            self.dropped_log = Some((self.trace.len() as u64, crc32fast::hash(&self.trace)));
            self.trace = Vec::new();
        }
    }

    pub(super) fn drop_artifacts(&mut self) {
        self.dropped_artifacts |= !self.artifacts.is_empty();
        self.artifacts = Vec::new();
    }

    /// Why the log is not there, if it was dropped.
    pub(crate) fn why_no_log(&self, settings: &Settings) -> Option<String> {
        let (id, kept) = (self.id, settings.kept_log_bytes);
        self.dropped_log.map(|_| {
            format!(
                "the log of job {id} was dropped: of the logs of jobs that have ended the last {kept} bytes are kept \
                 (the setting kept_log_bytes)"
            )
        })
    }

    /// Why a file is not there, if the files were dropped.
    pub(crate) fn why_no_artifacts(&self, settings: &Settings) -> Option<String> {
        let (id, kept) = (self.id, settings.kept_artifact_bytes);
        self.dropped_artifacts.then(|| {
            format!(
                "the files of job {id} were dropped: of the files of jobs that have ended the last {kept} bytes are kept \
                 (the setting kept_artifact_bytes)"
            )
        })
    }

    /// The files the job left, in the order they came.
    #[must_use]
    pub fn artifacts(&self) -> &[StoredArtifact] {
        &self.artifacts
    }

    /// The file of that type.
    #[must_use]
    pub fn artifact(&self, artifact_type: &str) -> Option<&StoredArtifact> {
        self.artifacts.iter().find(|artifact| artifact.artifact_type == artifact_type)
    }

    /// Whether the first patch marked the trace as a debug trace.
    #[must_use]
    pub fn debug_trace(&self) -> bool {
        self.debug_trace
    }

    /// The checksum of the first final update that carried one.
    #[must_use]
    pub fn reported_checksum(&self) -> Option<&str> {
        self.report.as_ref().map(|report| report.checksum.as_str())
    }

    /// The size that was reported together with that checksum.
    #[must_use]
    pub fn reported_bytesize(&self) -> Option<u64> {
        self.report.as_ref().and_then(|report| report.bytesize)
    }

    /// The final updates that were received while the job was executing, whatever their answer.
    #[must_use]
    pub fn final_updates(&self) -> &[FinalUpdate] {
        &self.final_updates
    }

    /// How many of them there were.
    #[must_use]
    pub fn reports(&self) -> usize {
        self.final_updates.len()
    }

    /// Every endpoint that was asked about this job, and how often.
    pub fn all_requests(&self) -> impl Iterator<Item = (Endpoint, u64)> {
        self.requests.iter().map(|(endpoint, count)| (*endpoint, *count))
    }

    /// Requests that named this job, by endpoint, whatever their answer. The job request is the one that got it.
    #[must_use]
    pub fn requests(&self, endpoint: Endpoint) -> u64 {
        self.requests.get(&endpoint).copied().unwrap_or(0)
    }

    /// The runner that got the job, or to which it was about to be handed out when it failed.
    #[must_use]
    pub fn runner(&self) -> Option<u64> {
        self.runner
    }

    /// System ID of the runner manager that got the job.
    #[must_use]
    pub fn system_id(&self) -> Option<&str> {
        self.system_id.as_deref()
    }

    /// When a runner got the job.
    #[must_use]
    pub fn handed_out_at(&self) -> Option<Timestamp> {
        self.handed_out_at
    }

    /// When the job began to run.
    #[must_use]
    pub fn started_at(&self) -> Option<Timestamp> {
        self.started_at
    }

    /// The last-update time, refreshed only if it is older than 15 minutes.
    #[must_use]
    pub fn updated_at(&self) -> Timestamp {
        self.updated_at
    }

    /// Whether a runner has got the job and must still accept it.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.accept_by.is_some()
    }

    /// The variables in the dotenv file that the job left.
    #[must_use]
    pub fn dotenv(&self) -> &BTreeMap<String, String> {
        &self.dotenv
    }

    /// The key of the suspended environment that the final update reported.
    #[must_use]
    pub fn environment_key(&self) -> Option<&str> {
        self.environment_key.as_deref()
    }

    /// The job this one is the server's own retry of.
    #[must_use]
    pub fn retry_of(&self) -> Option<u64> {
        self.retry_of
    }

    pub(super) fn is_executing(&self) -> bool {
        matches!(self.status, JobStatus::Running | JobStatus::Canceling) || self.is_waiting()
    }

    /// Whether the jobs that depend on this one can be handed out.
    pub(super) fn is_passed(&self) -> bool {
        self.status == JobStatus::Success || (self.status == JobStatus::Failed && self.allow_failure)
    }

    /// Whether the token was revoked, or the job ended so long ago that its token is gone.
    pub(super) fn is_token_removed(&self, now: Timestamp, settings: &Settings) -> bool {
        if self.token_revoked {
            return true;
        }
        let ended_at = self.history.last().filter(|(_, status)| status.is_final()).map(|(at, _)| *at);
        ended_at.zip(settings.job_token_removed_after).is_some_and(|(at, delay)| at.saturating_add(delay) <= now)
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs(self.payload["runner_info"]["timeout"].as_u64().unwrap_or(3600))
    }

    /// The runner has a limit of its own: the payload names the smaller one.
    pub(super) fn limit_timeout(&mut self, longest: Option<Duration>) {
        let Some(longest) = longest.map(|longest| longest.as_secs()).filter(|_| self.payload.is_object()) else {
            return;
        };
        let lower = |timeout: &mut Value| {
            if timeout.as_u64().is_some_and(|seconds| seconds > longest) {
                *timeout = longest.into();
            }
        };
        self.payload.pointer_mut("/runner_info/timeout").map(lower);
        for step in self.payload.get_mut("steps").and_then(Value::as_array_mut).into_iter().flatten() {
            step.get_mut("timeout").map(lower);
        }
    }

    pub(super) fn count(&mut self, endpoint: Endpoint) {
        *self.requests.entry(endpoint).or_default() += 1;
    }

    pub(super) fn touch(&mut self, now: Timestamp) {
        if now.saturating_since(self.updated_at) > TOUCH_AFTER {
            self.updated_at = now;
        }
    }

    fn enter(&mut self, now: Timestamp, status: JobStatus) {
        self.status = status;
        self.updated_at = now;
        self.accept_by = None;
        self.history.push((now, status));
    }

    pub(super) fn lend(&mut self, now: Timestamp, patience: Duration) {
        self.accept_by = Some(now.saturating_add(patience));
    }

    pub(super) fn start(&mut self, now: Timestamp) {
        self.started_at = Some(now);
        self.enter(now, JobStatus::Running);
    }

    pub(super) fn cancel(&mut self, now: Timestamp, graceful: bool) {
        match self.status {
            JobStatus::Running if graceful => self.enter(now, JobStatus::Canceling),
            JobStatus::Running | JobStatus::Pending => self.enter(now, JobStatus::Canceled),
            _ => {}
        }
    }

    pub(super) fn skip(&mut self, now: Timestamp) {
        if self.status == JobStatus::Pending {
            self.enter(now, JobStatus::Skipped);
        }
    }

    /// A job that was skipped waits again.
    pub(super) fn wait_again(&mut self, now: Timestamp) {
        if self.status == JobStatus::Skipped {
            self.enter(now, JobStatus::Pending);
        }
    }

    pub(super) fn force_cancel(&mut self, now: Timestamp) {
        if !self.status.is_final() {
            self.enter(now, JobStatus::Canceled);
        }
    }

    pub(super) fn succeed(&mut self, now: Timestamp) {
        match self.status {
            JobStatus::Running => self.enter(now, JobStatus::Success),
            JobStatus::Canceling => self.enter(now, JobStatus::Canceled),
            _ => {}
        }
    }

    pub(super) fn fail(&mut self, now: Timestamp, reason: &str, exit_code: Option<i64>) {
        match self.status {
            JobStatus::Running | JobStatus::Pending => {
                self.failure_reason = Some(reason.to_owned());
                self.exit_code = exit_code;
                self.enter(now, JobStatus::Failed);
            }
            JobStatus::Canceling => self.enter(now, JobStatus::Canceled),
            _ => {}
        }
    }

    pub(super) fn token_expires_at(&self, settings: &Settings) -> Option<Timestamp> {
        if self.own_token_expiry.is_some() {
            return self.own_token_expiry;
        }
        let issued = self.handed_out_at?;
        Some(issued.saturating_add(self.timeout().saturating_add(settings.job_token_grace?)))
    }

    pub(super) fn is_token_expired(&self, now: Timestamp, settings: &Settings) -> bool {
        self.token_expires_at(settings).is_some_and(|at| at <= now)
    }

    pub(super) fn is_token_valid(&self, now: Timestamp, settings: &Settings) -> bool {
        !self.is_token_removed(now, settings) && !self.is_token_expired(now, settings)
    }

    /// When the server will end this job if nothing happens, and how.
    pub(super) fn expiry(&self, settings: &Settings) -> Option<(Timestamp, Expiry)> {
        match self.status {
            JobStatus::Pending => self.accept_by.map(|at| (at, Expiry::Unaccepted)),
            JobStatus::Running => {
                let silent = self.updated_at.saturating_add(settings.stuck_after);
                let started = self.started_at.unwrap_or(self.updated_at);
                let overtime = started.saturating_add(self.timeout().saturating_add(TIMEOUT_GRACE));
                Some((silent, Expiry::Silent).min((overtime, Expiry::Overtime)))
            }
            JobStatus::Canceling => Some((self.updated_at.saturating_add(CANCELING_PATIENCE), Expiry::SilentCanceling)),
            _ => None,
        }
    }

    pub(super) fn expire(&mut self, at: Timestamp, expiry: Expiry) {
        match expiry {
            Expiry::Unaccepted => self.fail(at, "runner_provisioning_timeout", None),
            Expiry::Silent => self.fail(at, "no_updates_running", None),
            Expiry::Overtime => self.fail(at, "server_timeout_running", None),
            Expiry::SilentCanceling => {
                self.failure_reason = Some("no_updates_canceling".to_owned());
                self.force_cancel(at);
            }
        }
    }
}

/// Why the server ends a job by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Expiry {
    Unaccepted,
    Silent,
    Overtime,
    SilentCanceling,
}

#[cfg(test)]
mod tests;
