//! A simulated GitLab: the part of the API that runners use, as a state machine without I/O on virtual time.
//!
//! The [`Coordinator`] takes requests and gives answers. It has no clock, no threads and no sockets: time is an argument,
//! and a request that GitLab's front proxy would hold comes back as [`Answer::Held`] and is answered by a later
//! [`Coordinator::poll`]. The same calls always have the same results.
//!
//! It shares no code with the crate under test for reading requests. So a mistake in what that crate writes is not hidden by the same
//! mistake here.

mod access;
mod artifacts;
mod body;
mod calendar;
mod dependencies;
mod files;
mod holds;
mod jobs;
mod limits;
mod new_job;
mod ownership;
mod params;
mod payload;
mod pending;
mod queue;
mod record;
mod registration;
mod reports;
mod retention;
mod runners;
mod settings;
mod stats;
mod status;
mod tokens;
mod trace;
mod update;
mod user_api;
mod user_route;
mod variables;
mod wire;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use gitlab_runner_api::Timestamp;
use http::header::{DATE, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};

pub use self::access::{Registration, Role, RunnerType};
pub use self::files::StoredArtifact;
pub use self::jobs::{FinalUpdate, JobRecord};
pub use self::new_job::{Environment, NewJob};
pub use self::record::RequestRecord;
pub use self::settings::{HostLimit, Maintenance, ReplayRule, Settings};
pub use self::stats::{Endpoint, Stats};
pub use self::status::JobStatus;

#[cfg(test)]
pub(crate) use self::user_route::operations as user_operations;
pub(crate) use self::variables::PROJECT_PATH;

pub(crate) use self::body::{Body, Reading};

use self::access::User;
use self::holds::Holds;
use self::jobs::Expiry;
use self::limits::{HostHeaders, Limits};
use self::params::Params;
use self::pending::Pending;
use self::record::Journal;
use self::retention::{Bounds, Leavings};
use self::runners::Runner;
use self::wire::{Reply, Route};
use crate::content::Content;
use crate::form::FilePart;
use crate::repository::Repository;

/// Identifies a held request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldId(u64);

/// The result of handing in a request. `B` is the type of the bodies of answers.
#[expect(clippy::exhaustive_enums, reason = "a caller that ignores a third kind of answer would hang")]
#[derive(Clone, Debug)]
pub enum Answer<B = Bytes> {
    /// The answer.
    Now(Response<B>),
    /// The request is held: [`Coordinator::poll`] will answer it, unless it is abandoned.
    Held(HoldId),
}

/// The simulated GitLab.
///
/// ```
/// use bytes::Bytes;
/// use gitlab_runner_api::Timestamp;
/// use gitlab_runner_api_testkit::{Coordinator, NewJob, Settings};
///
/// let now = Timestamp::from_millis(1_700_000_000_000);
/// let mut gitlab = Coordinator::new(Settings::default());
/// gitlab.add_runner("glrt-secret");
/// let job = gitlab.queue(now, NewJob::new("test"));
///
/// let request = http::Request::post("https://gitlab.example.test/api/v4/jobs/request")
///     .header("Content-Type", "application/json")
///     .body(Bytes::from_static(br#"{"token":"glrt-secret"}"#))?;
/// assert_eq!(gitlab.respond(now, request).status(), 201);
/// assert!(gitlab.job(job).is_some_and(|job| job.status().as_str() == "running"));
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Coordinator {
    settings: Settings,
    clock: Timestamp,
    registrations: BTreeMap<String, Registration>,
    users: BTreeMap<String, User>,
    runners: BTreeMap<u64, Runner>,
    /// The runners by their tokens.
    runner_tokens: BTreeMap<String, u64>,
    next_runner: u64,
    next_manager: u64,
    jobs: BTreeMap<u64, JobRecord>,
    next_job: u64,
    /// The jobs that have ended and are kept, in the order in which they ended.
    ended: VecDeque<u64>,
    ended_logs: Leavings,
    ended_artifacts: Leavings,
    /// How much was to be kept when old jobs were last dropped. `None`: a job has ended since.
    swept: Option<Bounds>,
    /// How many jobs are running.
    running: usize,
    pending: Pending,
    /// The pending jobs that depend on others.
    dependent: BTreeSet<u64>,
    /// Every job that another one depends on, with the other one.
    needed_by: BTreeSet<(u64, u64)>,
    timers: BTreeSet<(Timestamp, u64)>,
    holds: Holds,
    next_request: u64,
    records: BTreeMap<u64, RequestRecord>,
    next_record: u64,
    /// What the request that is being answered has changed, if it is recorded.
    journal: Option<Journal>,
    limits: Limits,
    stats: Stats,
    /// The repository that jobs are about. Without one, they have a commit that does not exist.
    repository: Option<Repository>,
}

/// What is needed to finish the answer to a request.
#[derive(Clone, Debug)]
struct Envelope {
    endpoint: Endpoint,
    request_id: HeaderValue,
    polling: bool,
    /// Number of the record that the status of the answer goes into.
    record: Option<u64>,
}

/// A request on its way to an endpoint.
#[derive(Debug)]
struct Inbound {
    /// The parameters of query and body together.
    params: Params,
    /// The parameters of the query alone.
    query: Params,
    headers: http::HeaderMap,
    /// The files of a multipart body.
    files: Vec<FilePart>,
    body: Body,
}

impl Coordinator {
    /// Returns a GitLab without runners and jobs.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            next_job: settings.first_job_id,
            settings,
            clock: Timestamp::EPOCH,
            registrations: BTreeMap::new(),
            users: BTreeMap::new(),
            runners: BTreeMap::new(),
            runner_tokens: BTreeMap::new(),
            next_runner: 1,
            next_manager: 1,
            jobs: BTreeMap::new(),
            ended: VecDeque::new(),
            ended_logs: Leavings::default(),
            ended_artifacts: Leavings::default(),
            swept: None,
            running: 0,
            pending: Pending::default(),
            dependent: BTreeSet::new(),
            needed_by: BTreeSet::new(),
            timers: BTreeSet::new(),
            holds: Holds::default(),
            next_request: 0,
            records: BTreeMap::new(),
            next_record: 0,
            journal: None,
            limits: Limits::default(),
            stats: Stats::default(),
            repository: None,
        }
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The settings, for changing them while it runs. A change does not affect requests that are held already and timers that are set.
    pub fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// Jobs that are queued from now on are about this repository.
    pub(crate) fn set_repository(&mut self, repository: Repository) {
        self.repository = Some(repository);
    }

    pub(crate) fn repository(&self) -> Option<&Repository> {
        self.repository.as_ref()
    }

    /// The job that executes with this token, as long as the token is valid.
    pub(crate) fn executing_job(&self, now: Timestamp, token: &str) -> Option<&JobRecord> {
        let executes =
            |job: &&JobRecord| job.token == token && job.is_executing() && job.is_token_valid(now, &self.settings);
        self.jobs.values().find(executes)
    }

    /// Puts a job into the queue and returns its number. Runners that wait for the queue to change and that may have the job see
    /// it change.
    pub fn queue(&mut self, now: Timestamp, job: NewJob) -> u64 {
        let now = self.advance(now);
        self.enqueue(now, job, None)
    }

    /// A user presses cancel: the job becomes `canceling` if the manager that runs it has `cancel_gracefully` among its
    /// stored features, else `canceled`.
    pub fn cancel(&mut self, now: Timestamp, job: u64) {
        let now = self.advance(now);
        let graceful = self.jobs.get(&job).is_some_and(|job| self.can_cancel_gracefully(job));
        self.change(job, |job| job.cancel(now, graceful));
    }

    /// A user forces the cancellation of a job.
    pub fn force_cancel(&mut self, now: Timestamp, job: u64) {
        let now = self.advance(now);
        self.change(job, |job| job.force_cancel(now));
    }

    /// Whether somebody watches the log, which shortens the update interval from 60 to 3 seconds.
    pub fn watch(&mut self, job: u64, watched: bool) {
        self.change(job, |job| job.watched = watched);
    }

    /// The live storage of a trace is lost, except for its first `keep` bytes.
    pub fn forget_trace_tail(&mut self, job: u64, keep: u64) {
        self.change(job, |job| job.trace.truncate(usize::try_from(keep).unwrap_or(usize::MAX)));
        self.ended_logs.shrink(job, keep);
    }

    /// Another process writes to the trace until then: patches are answered with 409, and with incremental logging final
    /// updates with 202, however long it takes.
    pub fn lock_trace(&mut self, job: u64, until: Timestamp) {
        self.change(job, |job| job.trace_locked_until = until);
    }

    /// The record of a job is locked until then: updates are answered with 409.
    pub fn lock_job(&mut self, job: u64, until: Timestamp) {
        self.change(job, |job| job.locked_until = until);
    }

    /// The token of a job is revoked: calls with it are answered with 403 without `Job-Status`, as they are after GitLab
    /// has removed the token of a job that ended.
    pub fn revoke_job_token(&mut self, job: u64) {
        self.change(job, |job| job.token_revoked = true);
    }

    /// The token of a job expires at this time, whatever [`Settings::job_token_grace`] says. From then on calls with it are
    /// answered with 403, and an update or a patch fails the job with `job_token_expired`.
    pub fn expire_job_token(&mut self, job: u64, at: Timestamp) {
        self.change(job, |job| job.own_token_expiry = Some(at));
    }

    /// A job is erased. Its log and the files that it left are deleted.
    pub fn erase(&mut self, job: u64) {
        let now = self.clock;
        self.change(job, |job| {
            job.erased = true;
            job.erased_at = Some(now);
            job.trace.clear();
            job.artifacts.clear();
        });
        self.ended_logs.shrink(job, 0);
        self.ended_artifacts.shrink(job, 0);
    }

    /// The project of a job is deleted, with the files that the job left.
    pub fn delete_project(&mut self, job: u64) {
        self.change(job, |job| {
            job.project_deleted = true;
            job.artifacts.clear();
        });
        self.ended_artifacts.shrink(job, 0);
    }

    /// Returns a job, or `None` if there is no such job or it was dropped.
    #[must_use]
    pub fn job(&self, id: u64) -> Option<&JobRecord> {
        self.jobs.get(&id)
    }

    /// All jobs, in the order of their numbers. [`Settings::kept_jobs`] limits how many jobs are kept that have ended.
    pub fn jobs(&self) -> impl Iterator<Item = &JobRecord> {
        self.jobs.values()
    }

    /// The numbers of requests and answers so far.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Hands in a request. Only the part of the path from `/api/v4/` on matters, not the host and the relative root.
    ///
    /// Files in the request stay in memory.
    pub fn submit(&mut self, now: Timestamp, request: Request<Bytes>) -> Answer {
        let is_head = *request.method() == Method::HEAD;
        match self.handle(now, request.map(Body::Whole)) {
            // A server leaves the body out when it has told its length.
            Answer::Now(response) if is_head => Answer::Now(response.map(|_| Bytes::new())),
            Answer::Now(response) => Answer::Now(in_memory(response)),
            Answer::Held(hold) => Answer::Held(hold),
        }
    }

    /// [`submit`](Self::submit) for callers that read forms while they come in, and that send files from where they are.
    pub(crate) fn handle(&mut self, now: Timestamp, request: Request<Body>) -> Answer<Content> {
        let now = self.advance(now);
        let (parts, body) = request.into_parts();
        let route = Route::of(&parts.method, parts.uri.path());
        let endpoint = route.endpoint();
        self.stats.count_request(endpoint);
        if let Some(job) = route.job().and_then(|id| self.jobs.get_mut(&id)) {
            job.count(endpoint);
        }
        let request_id = parts.headers.get(wire::REQUEST_ID).cloned().unwrap_or_else(|| {
            self.next_request += 1;
            self.next_request.into()
        });
        let polling = endpoint == Endpoint::RequestJob && self.settings.long_poll.is_some();
        let record = self.begin_record(now, &parts);
        let envelope = Envelope { endpoint, request_id, polling, record };

        if let Some(reply) = self.maintenance() {
            return Answer::Now(self.seal(now, envelope, reply));
        }
        if polling {
            match self.consider_holding(now, &parts.headers, body.bytes(), &envelope) {
                Ok(Some(hold)) => return Answer::Held(hold),
                Ok(None) => {}
                Err(reply) => return Answer::Now(self.seal(now, envelope, reply)),
            }
        }
        let (limit_headers, admitted) = match &self.settings.host_limit {
            Some(limit) if !limit.unauthenticated_only || !self.is_authenticated(now, &parts, &body) => {
                self.limits.check_host(now, limit)
            }
            _ => (HostHeaders::default(), Ok(())),
        };
        let before = record.map(|record| self.begin_changes(record, route.subject()));
        let reply = admitted.and_then(|()| self.dispatch(now, route, parts, body)).unwrap_or_else(|refusal| refusal);
        if let Some(before) = before {
            self.record_changes(before);
        }
        Answer::Now(self.seal(now, envelope, limit_headers.add_to(reply)))
    }

    /// Whether a request is one of the API for users, which runners do not call.
    pub(crate) fn is_for_users<T>(request: &Request<T>) -> bool {
        matches!(Route::of(request.method(), request.uri().path()), Route::UserApi(_))
    }

    /// [`submit`](Self::submit) for callers that cannot wait: a request that would be held is answered at once, as if the
    /// wait had ended.
    pub fn respond(&mut self, now: Timestamp, request: Request<Bytes>) -> Response<Bytes> {
        let hold = match self.submit(now, request) {
            Answer::Now(response) => return response,
            Answer::Held(hold) => hold,
        };
        self.release(hold).unwrap_or_else(|| in_memory(Reply::empty(StatusCode::NO_CONTENT).into_response()))
    }

    /// Returns a held request whose wait has ended by `now`, with its answer, the oldest first. Call it until it returns `None`.
    pub fn poll(&mut self, now: Timestamp) -> Option<(HoldId, Response<Bytes>)> {
        let now = self.advance(now);
        let id = self.holds.first_ended(now)?;
        Some((id, self.release(id)?))
    }

    /// When [`poll`](Self::poll) should be called next: a held request will be answered or a job will change by itself.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        let timer = self.timers.first().map(|(at, _)| *at);
        self.holds.next_end(self.clock).into_iter().chain(timer).min()
    }

    /// Drops a held request, because its client has closed the connection.
    pub fn abandon(&mut self, hold: HoldId) {
        if self.holds.remove(hold).is_some() {
            self.stats.count_abandoned();
        }
    }

    fn maintenance(&self) -> Option<Reply> {
        let page = "<html><head><title>GitLab is not responding (503)</title></head><body></body></html>\n";
        let reply = || Reply::text(StatusCode::SERVICE_UNAVAILABLE, "text/html; charset=utf-8", page);
        match self.settings.maintenance {
            Maintenance::Off => None,
            Maintenance::On => Some(reply()),
            Maintenance::RetryAfter(seconds) => Some(reply().header(RETRY_AFTER, seconds.into())),
        }
    }

    fn dispatch(
        &mut self,
        now: Timestamp,
        route: Route,
        parts: http::request::Parts,
        body: Body,
    ) -> Result<Reply, Reply> {
        if let Route::Refused(refusal) = route {
            return Err(refusal);
        }
        if self.settings.migration_backoff && !matches!(route, Route::ReadStorage(_) | Route::UserApi(_)) {
            let message = "Executing database migrations. Please retry later.";
            return Err(Reply::message(StatusCode::TOO_MANY_REQUESTS, message).header(RETRY_AFTER, 60.into()));
        }
        if matches!(route, Route::UploadArtifact(_))
            && let Some(reply) = self.redirect_upload(&parts)
        {
            return Ok(reply);
        }
        let query = parts.uri.query();
        let (params, files) = match route {
            // The body is the log.
            Route::PatchTrace(_) => (Params::from_query(query)?, Vec::new()),
            _ => Params::read(query, &parts.headers, &body)?,
        };
        let inbound = Inbound { params, query: Params::from_query(query)?, headers: parts.headers, files, body };
        match route {
            Route::Register => self.register(now, &inbound),
            Route::Verify => self.verify(now, &inbound),
            Route::RequestJob => self.request_job(now, &inbound),
            Route::UpdateJob(id) => self.update_job(now, id, &inbound),
            Route::PatchTrace(id) => self.patch_trace(now, id, &inbound),
            Route::Unregister => self.unregister(now, &inbound),
            Route::UnregisterManager => self.unregister_manager(now, &inbound),
            Route::ResetToken => self.reset_token(now, &inbound),
            Route::ResetTokenAsUser(id) => self.reset_token_as_user(now, id, &inbound),
            Route::CreateRunner => self.create_runner(now, &inbound),
            Route::DiscoverRouter => self.discover_router(now, &inbound),
            Route::RuntimeEnvironmentKey(id) => self.runtime_environment_key(now, id, &inbound),
            Route::UploadArtifact(id) => self.upload_artifact(now, id, &inbound),
            Route::DownloadArtifacts(id) => self.download_artifacts(now, id, &inbound),
            Route::AuthorizeUpload(id) => self.authorize_upload(now, id, &inbound),
            Route::ReadStorage(id) => self.read_storage(id, &inbound),
            Route::UserApi(call) => self.answer_user(now, &call, query, &inbound),
            Route::Refused(refusal) => Err(refusal),
        }
    }

    /// Whether a request has the valid token of a runner, of a job or of a user.
    fn is_authenticated(&self, now: Timestamp, parts: &http::request::Parts, body: &Body) -> bool {
        let read = Params::read(parts.uri.query(), &parts.headers, body);
        let params = read.map(|(params, _)| params).unwrap_or_default();
        let headers =
            ["runner-token", "job-token"].map(|name| parts.headers.get(name).and_then(|value| value.to_str().ok()));
        let parameters = ["token", "job_token"].map(|name| params.text(name).ok().flatten());
        let mut tokens = headers.into_iter().flatten().chain(parameters.iter().flatten().map(String::as_str));
        let known = |token: &str| {
            self.authenticate_runner(now, token).is_ok() || self.jobs.values().any(|job| job.token == token)
        };
        tokens.any(known) || self.authenticate_user(&parts.headers, &params).is_ok()
    }

    fn seal(&mut self, now: Timestamp, envelope: Envelope, reply: Reply) -> Response<Content> {
        let mut response = reply.into_response();
        self.stats.count_answer(envelope.endpoint, response.status());
        self.record_answer(envelope.record, response.status());
        let headers = response.headers_mut();
        headers.insert(DATE, limits::http_date(now));
        headers.insert(wire::REQUEST_ID, envelope.request_id);
        if envelope.polling {
            headers.insert(wire::POLLING, HeaderValue::from_static("yes"));
        }
        response
    }

    /// Moves the clock, never back, and lets everything happen that is due.
    pub(crate) fn advance(&mut self, now: Timestamp) -> Timestamp {
        if self.clock == Timestamp::EPOCH {
            // Runners may be added before any time is known. They were made when time began.
            for runner in self.runners.values_mut() {
                runner.created_at = runner.created_at.max(now);
                runner.updated_at = runner.updated_at.max(now);
            }
        }
        self.clock = self.clock.max(now);
        self.drop_old_jobs();
        while let Some((at, id)) = self.timers.first().copied().filter(|(at, _)| *at <= self.clock) {
            self.timers.pop_first();
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            job.armed = None;
            let due = job.expiry(&self.settings).filter(|(due, _)| *due <= at).map(|(_, expiry)| expiry);
            if due == Some(Expiry::Unaccepted) {
                // Before the job fails, so that those which depend on it wait for the retry and are not skipped.
                let template = job.template.clone();
                self.enqueue(at, template, Some(id));
            }
            self.change(id, |job| {
                if let Some(expiry) = due {
                    job.expire(at, expiry);
                }
            });
        }
        self.clock
    }

    fn change<R>(&mut self, id: u64, alter: impl FnOnce(&mut JobRecord) -> R) -> Option<R> {
        self.change_with(id, |job, _| alter(job))
    }

    /// Alters a job and sets its timer anew. If the job has ended by that, those that depend on it are released. `None`: there
    /// is no such job.
    fn change_with<R>(&mut self, id: u64, alter: impl FnOnce(&mut JobRecord, &mut Settings) -> R) -> Option<R> {
        let (result, has_ended) = self.settle(id, alter)?;
        if has_ended {
            self.release_dependents(id);
        }
        Some(result)
    }

    /// Alters a job and sets its timer anew. Also returns whether the job has ended by that.
    fn settle<R>(&mut self, id: u64, alter: impl FnOnce(&mut JobRecord, &mut Settings) -> R) -> Option<(R, bool)> {
        let job = self.jobs.get_mut(&id)?;
        let before = job.status;
        let result = alter(job, &mut self.settings);
        let has_ended = job.status.is_final() && !before.is_final();
        self.running -= usize::from(before == JobStatus::Running);
        self.running += usize::from(job.status == JobStatus::Running);
        let due = job.expiry(&self.settings).map(|(at, _)| at);
        if let Some(at) = job.armed.take() {
            self.timers.remove(&(at, id));
        }
        if let Some(at) = due {
            job.armed = Some(at);
            self.timers.insert((at, id));
        }
        if job.status != JobStatus::Pending {
            self.dependent.remove(&id);
            self.remove_pending(id);
        }
        if has_ended {
            self.note_end(id);
        }
        Some((result, has_ended))
    }
}

/// The response with all of its body in memory.
fn in_memory(response: Response<Content>) -> Response<Bytes> {
    let (mut parts, content) = response.into_parts();
    let body = content.to_bytes().unwrap_or_else(|_| {
        // Only a file of a server's upload can be unreadable, and only if the disk is.
        parts.status = StatusCode::INTERNAL_SERVER_ERROR;
        Bytes::new()
    });
    Response::from_parts(parts, body)
}
