//! `POST /jobs/request`, and the front proxy that holds it.

use std::net::IpAddr;

use bytes::Bytes;
use gitlab_runner_api::Timestamp;
use http::header::HeaderMap;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::access::RunnerType;
use super::jobs::JobRecord;
use super::limits::Limited;
use super::payload::{Dependency, NewJob};
use super::runners::Runner;
use super::stats::Endpoint;
use super::status::JobStatus;
use super::variables::{DEFAULT_BRANCH, RunnerView, Scene};
use super::wire::{self, Reply};
use super::{Coordinator, Envelope, HoldId, Inbound, params, runners, tokens};
use crate::repository::Repository;

/// The front proxy reads no more of a job request.
const POLL_BODY_LIMIT: usize = 32 << 10;
/// After so many candidates GitLab gives up and answers 409.
const MAX_CANDIDATES: u32 = 45;

/// A job request that waits for the queue to change.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    pub(super) until: Timestamp,
    runner: u64,
    last_update: String,
    envelope: Envelope,
}

impl Coordinator {
    /// The front proxy's part: whether the request is held, let through, or too large.
    pub(super) fn consider_holding(
        &mut self,
        now: Timestamp,
        headers: &HeaderMap,
        body: &[u8],
        envelope: &Envelope,
    ) -> Result<Option<HoldId>, Reply> {
        if body.len() > POLL_BODY_LIMIT {
            let text = "Request Entity Too Large\n";
            return Err(Reply::text(StatusCode::PAYLOAD_TOO_LARGE, "text/plain; charset=utf-8", text));
        }
        let (Some(wait), "application/json") = (self.settings.long_poll, wire::media_type(headers).as_str()) else {
            return Ok(None);
        };
        let parsed: Value = serde_json::from_slice(body).unwrap_or_default();
        let given = |name: &str| parsed[name].as_str().filter(|text| !text.is_empty());
        let (Some(token), Some(last_update)) = (given("token"), given("last_update")) else { return Ok(None) };
        let Some(runner) = self.runner_with(token) else { return Ok(None) };
        if self.stored_queue_value(now, runner) != Some(last_update) {
            return Ok(None);
        }
        let hold = Hold {
            until: now.saturating_add(wait),
            runner,
            last_update: last_update.to_owned(),
            envelope: envelope.clone(),
        };
        let id = HoldId(self.next_hold);
        self.next_hold += 1;
        self.holds.insert(id, hold);
        Ok(Some(id))
    }

    pub(super) fn has_queue_changed(&self, hold: &Hold) -> bool {
        self.queue_value_moved(hold.runner, &hold.last_update)
    }

    /// Ends the wait of a held request. The answer says nothing about the queue value.
    pub(super) fn release(&mut self, id: HoldId) -> Option<Response<Bytes>> {
        let hold = self.holds.remove(&id)?;
        Some(super::in_memory(self.seal(self.clock, hold.envelope, Reply::empty(StatusCode::NO_CONTENT))))
    }

    pub(super) fn enqueue(&mut self, now: Timestamp, mut template: NewJob, retry_of: Option<u64>) -> u64 {
        if let Some(repository) = &self.repository {
            template.check_out(repository);
        }
        let id = self.next_job;
        self.next_job = self.next_job.saturating_add(1);
        let only = template.runner();
        let token = tokens::job_token(id);
        let payload = template.render(&self.scene(now, id, &token, now, None, &[]));
        let dependencies = match retry_of.and_then(|failed| self.jobs.get(&failed)) {
            Some(failed) => failed.dependencies.clone(),
            None => self.resolve(template.dependencies()),
        };
        if !dependencies.is_empty() {
            self.dependent.insert(id);
        }
        let mut job = JobRecord::new(now, id, token, template, payload);
        job.retry_of = retry_of;
        job.dependencies = dependencies;
        self.jobs.insert(id, job);
        self.pending.insert(id);
        self.tick_queues(now, only);
        if let Some(failed) = retry_of {
            self.wait_for_retry(failed, id);
        }
        self.skip_hopeless(now);
        id
    }

    pub(super) fn request_job(&mut self, now: Timestamp, inbound: &Inbound) -> Result<Reply, Reply> {
        let token = inbound.params.required("token")?;
        let last_update = inbound.params.text("last_update")?;
        let system_id = runners::system_id(&inbound.params)?;
        let announced = runners::announced(&inbound.params)?;
        let features = announced.features.clone();
        self.limits.check(now, Limited::JobRequest, &token, self.settings.job_request_limit)?;
        let runner = self.authenticate_runner(now, &token)?;
        if self.is_orphaned(runner) {
            return Err(Reply::message(StatusCode::FORBIDDEN, "403 Forbidden - Runner is orphaned"));
        }
        self.contact(now, runner, &system_id, announced);

        let session =
            inbound.params.object("session")?.map(|session| params::text(session, "url")).transpose()?.flatten();
        let current = self.ensure_queue_value(now, runner);
        let nothing = || Reply::empty(StatusCode::NO_CONTENT).header_text(wire::LAST_UPDATE, &current);
        if self.is_paused(runner) || last_update.as_ref() == Some(&current) {
            return Ok(nothing());
        }
        if let Some(left) = self.settings.job_request_conflicts.checked_sub(1) {
            self.settings.job_request_conflicts = left;
            return Err(Reply::message(StatusCode::CONFLICT, "409 Conflict"));
        }

        for _ in 0..MAX_CANDIDATES {
            let fits = |job: &JobRecord| self.may_take(runner, &system_id, job);
            let candidate = self.pending.iter().find(|&id| self.jobs.get(id).is_some_and(fits)).copied();
            let Some(id) = candidate else { return Ok(nothing()) };
            if session.as_deref().is_some_and(is_local) && !self.settings.local_sessions_allowed {
                return Err(Reply::message(StatusCode::CONFLICT, "409 Conflict"));
            }
            self.pending.remove(&id);
            if let Some(left) = self.settings.gitaly_failures.checked_sub(1) {
                self.settings.gitaly_failures = left;
                self.change(id, |job| job.fail(now, "scheduler_failure", None));
                continue;
            }
            let two_phase = self.settings.two_phase_commit && features.contains("two_phase_job_commit");
            let patience = self.settings.acceptance_patience;
            let longest = self.runners.get(&runner).and_then(Runner::maximum_timeout);
            let payload = self.payload_for(now, id, runner, session.clone());
            let handed_out = self.change(id, |job| {
                if !job.features.is_subset(&features) {
                    job.fail(now, "runner_unsupported", None);
                    return None;
                }
                job.payload = payload.unwrap_or_default();
                job.limit_timeout(longest);
                job.runner = Some(runner);
                job.system_id = Some(system_id.clone());
                job.handed_out_at = Some(now);
                job.count(Endpoint::RequestJob);
                if two_phase {
                    job.lend(now, patience);
                } else {
                    job.start(now);
                }
                Some(Reply::json(StatusCode::CREATED, &job.payload))
            });
            if let Some(reply) = handed_out.flatten() {
                return Ok(reply);
            }
        }
        Err(Reply::message(StatusCode::CONFLICT, "409 Conflict"))
    }
}

impl Coordinator {
    /// The payload of a job as this runner gets it.
    fn payload_for(&self, now: Timestamp, id: u64, runner: u64, session_url: Option<String>) -> Option<Value> {
        let job = self.jobs.get(&id)?;
        let known = self.runners.get(&runner)?;
        let created_at = job.history.first().map_or(now, |(at, _)| *at);
        let view = RunnerView {
            id: runner,
            description: known.attributes.get("description").and_then(Value::as_str).unwrap_or_default().to_owned(),
            tags: known.tags().map(str::to_owned).collect(),
        };
        let mut scene = self.scene(now, id, &job.token, created_at, Some(view), &job.dependencies);
        if known.kind() != RunnerType::Instance {
            scene.running_jobs = "+Inf".to_owned();
        }
        scene.session_url = session_url;
        scene.retries = self.retries_of(job);
        Some(job.template.render(&scene))
    }

    fn scene<'a>(
        &'a self,
        now: Timestamp,
        id: u64,
        token: &'a str,
        created_at: Timestamp,
        runner: Option<RunnerView>,
        dependencies: &[u64],
    ) -> Scene<'a> {
        let earlier = || dependencies.iter().filter_map(|id| self.jobs.get(id));
        let bucket = self.settings.running_jobs_bucket;
        let running = self.jobs.values().filter(|job| job.status == JobStatus::Running).take(bucket).count();
        Scene {
            id,
            token,
            url: &self.settings.external_url,
            default_branch: self.default_branch(),
            created_at,
            now,
            runner,
            dependencies: earlier().map(|job| dependency(job, token)).collect(),
            dotenv: earlier().flat_map(|job| job.dotenv.clone()).collect(),
            running_jobs: if running < bucket { running.to_string() } else { format!("{bucket}+") },
            session_url: None,
            retries: 0,
        }
    }

    /// The default branch of the one project.
    pub(super) fn default_branch(&self) -> &str {
        self.repository.as_ref().map_or(DEFAULT_BRANCH, Repository::default_branch)
    }

    /// How many attempts there were before this one.
    fn retries_of(&self, job: &JobRecord) -> usize {
        let earlier = |job: &&JobRecord| job.retry_of.and_then(|id| self.jobs.get(&id));
        std::iter::successors(earlier(&job), earlier).count()
    }

    /// Queues a job again, as a user does who retries it. Jobs that were skipped because of it wait again. Returns the number
    /// of the new job; `None` if there is no such job, if it has not ended, or if it was retried already.
    pub fn retry(&mut self, now: Timestamp, job: u64) -> Option<u64> {
        let now = self.advance(now);
        let known = self.jobs.get(&job).filter(|job| job.status.is_final())?;
        if self.jobs.values().any(|other| other.retry_of == Some(job)) {
            return None;
        }
        let template = known.template.clone();
        let retry = self.enqueue(now, template, Some(job));
        self.wait_again(now, job, retry);
        Some(retry)
    }

    /// Jobs that were skipped because of a failed one wait again, now for its retry, and so do those that were skipped because
    /// of them.
    fn wait_again(&mut self, now: Timestamp, failed: u64, retry: u64) {
        let mut causes = vec![failed];
        while let Some(cause) = causes.pop() {
            let skipped = |job: &&mut JobRecord| job.status == JobStatus::Skipped && job.dependencies.contains(&cause);
            for job in self.jobs.values_mut().filter(skipped) {
                job.dependencies.iter_mut().filter(|id| **id == failed).for_each(|id| *id = retry);
                job.wait_again(now);
                self.pending.insert(job.id);
                self.dependent.insert(job.id);
                self.ended.retain(|ended| *ended != job.id);
                causes.push(job.id);
            }
        }
        // Some may depend on another job that failed.
        self.skip_hopeless(now);
    }

    /// The numbers of the jobs that these mean.
    fn resolve(&self, dependencies: &[Dependency]) -> Vec<u64> {
        dependencies.iter().filter_map(|dependency| self.find(dependency)).collect()
    }

    fn find(&self, dependency: &Dependency) -> Option<u64> {
        match dependency {
            Dependency::Id(id) => self.jobs.contains_key(id).then_some(*id),
            Dependency::Name(name) => self.jobs.values().rev().find(|job| job.name() == name).map(|job| job.id),
        }
    }

    /// The name or the number of a job that this one depends on and that there is not.
    pub(crate) fn missing_dependency(&self, job: &NewJob) -> Option<String> {
        let missing = job.dependencies().iter().find(|dependency| self.find(dependency).is_none())?;
        Some(match missing {
            Dependency::Id(id) => id.to_string(),
            Dependency::Name(name) => name.clone(),
        })
    }

    /// A job that others depend on was retried: they wait for the retry.
    fn wait_for_retry(&mut self, failed: u64, retry: u64) {
        for waiting in &self.dependent {
            let dependencies = self.jobs.get_mut(waiting).map(|job| job.dependencies.iter_mut());
            dependencies.into_iter().flatten().filter(|id| **id == failed).for_each(|id| *id = retry);
        }
    }

    /// A job has ended: those that depend on it can be handed out now, or never.
    pub(super) fn release_dependents(&mut self, ended: u64) {
        let now = self.clock;
        let waits = |id: &&u64| self.jobs.get(id).is_some_and(|job| job.dependencies.contains(&ended));
        if self.dependent.iter().any(|id| waits(&id)) {
            self.skip_hopeless(now);
            self.tick_queues(now, None);
        }
    }

    /// Skips the jobs that wait for one that did not succeed, and those that wait for a skipped one.
    fn skip_hopeless(&mut self, now: Timestamp) {
        let failed = |id: &u64| self.jobs.get(id).is_some_and(|job| job.status.is_final() && !job.is_passed());
        let hopeless = |id: &&u64| self.jobs.get(id).is_some_and(|job| job.dependencies.iter().any(failed));
        let Some(id) = self.dependent.iter().find(hopeless).copied() else { return };
        // The change comes back here for the next one.
        self.change(id, |job| job.skip(now));
    }

    /// Whether all jobs that this one depends on have succeeded, or were allowed to fail.
    fn is_ready(&self, job: &JobRecord) -> bool {
        let passed = |id: &u64| self.jobs.get(id).is_some_and(JobRecord::is_passed);
        job.dependencies.iter().all(passed)
    }

    /// The only machine that may have a job: the one that the job names, or the one that suspended the environment that the
    /// job goes on in.
    fn only_machine<'a>(&'a self, job: &'a JobRecord) -> Option<&'a str> {
        let resumed = || {
            let key = job.payload.pointer("/suspend_options/runtime_environment_key")?.as_str()?;
            let suspended = |other: &&JobRecord| other.environment_key.as_deref() == Some(key);
            self.jobs.values().rev().find(suspended)?.system_id()
        };
        job.template.system_id().or_else(resumed)
    }

    /// Whether a runner manager may have a job: by the type of its runner, its tags and its access level, and if the job is
    /// for it.
    fn may_take(&self, runner: u64, system_id: &str, job: &JobRecord) -> bool {
        let Some(known) = self.runners.get(&runner) else { return false };
        let is_protected = job.payload["git_info"]["protected"].as_bool() == Some(true);
        self.is_ready(job)
            && job.template.runner().is_none_or(|only| only == runner)
            && self.only_machine(job).is_none_or(|only| only == system_id)
            && (self.settings.instance_runners_enabled || known.kind() != RunnerType::Instance)
            && known.takes(job.template.tags(), is_protected)
    }
}

/// What the payload of a job says about one that it depends on. The token is that of the running job.
fn dependency(job: &JobRecord, token: &str) -> Value {
    let mut told = json!({ "id": job.id, "name": job.name(), "token": token });
    if let Some(archive) = job.artifact("archive") {
        told["artifacts_file"] = json!({ "filename": archive.file_name, "size": archive.content.len() });
    }
    told
}

/// Whether an address is one that GitLab does not connect to unless its administrator allows local addresses. Names other
/// than `localhost` are not resolved.
fn is_local(url: &str) -> bool {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    match host.parse() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_unspecified(),
        Ok(IpAddr::V6(ip)) => {
            ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() || ip.is_unicast_link_local()
        }
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests;
