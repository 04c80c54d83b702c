//! `POST /jobs/request`, and the front proxy that holds it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bytes::Bytes;
use gitlab_runner_api::Timestamp;
use http::header::HeaderMap;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::access::RunnerType;
use super::holds::Hold;
use super::jobs::JobRecord;
use super::limits::Limited;
use super::new_job::{DEFAULT_BRANCH, NewJob};
use super::runners::Runner;
use super::stats::Endpoint;
use super::variables::{RunnerView, Scene};
use super::wire::{self, Reply};
use super::{Coordinator, Envelope, HoldId, Inbound, runners, tokens};
use crate::repository::Repository;

/// The front proxy reads no more of a job request.
const POLL_BODY_LIMIT: usize = 32 << 10;
/// After so many candidates GitLab gives up and answers 409.
const MAX_CANDIDATES: u32 = 45;

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
        if self.stored_queue_value(now, runner).as_deref() != Some(last_update) {
            return Ok(None);
        }
        let hold = Hold { until: now.saturating_add(wait), runner, envelope: envelope.clone() };
        Ok(Some(self.holds.insert(hold)))
    }

    /// Ends the wait of a held request. The answer says nothing about the queue value.
    pub(super) fn release(&mut self, id: HoldId) -> Option<Response<Bytes>> {
        let hold = self.holds.remove(id)?;
        Some(super::in_memory(self.seal(self.clock, hold.envelope, Reply::empty(StatusCode::NO_CONTENT))))
    }

    pub(super) fn enqueue(&mut self, now: Timestamp, mut template: NewJob, retry_of: Option<u64>) -> u64 {
        if let Some(repository) = &self.repository {
            template.check_out(repository);
        }
        let id = self.next_job;
        self.next_job = self.next_job.saturating_add(1);
        let token = tokens::job_token(id);
        let payload = template.render(&self.scene(now, id, &token, now, None, &[]));
        let dependencies = match retry_of.and_then(|failed| self.jobs.get(&failed)) {
            Some(failed) => failed.dependencies.clone(),
            None => self.resolve(template.dependencies()),
        };
        if !dependencies.is_empty() {
            self.dependent.insert(id);
            self.needed_by.extend(dependencies.iter().map(|needed| (*needed, id)));
        }
        let mut job = JobRecord::new(now, id, token, template, payload);
        job.retry_of = retry_of;
        job.dependencies = dependencies;
        self.jobs.insert(id, job);
        self.add_pending(id);
        self.announce(id);
        if let Some(failed) = retry_of {
            if let Some(failed) = self.jobs.get_mut(&failed) {
                failed.is_retried = true;
            }
            self.wait_for_retry(failed, id);
        }
        self.skip_if_hopeless(id);
        id
    }

    pub(super) fn request_job(&mut self, now: Timestamp, inbound: &Inbound) -> Result<Reply, Reply> {
        let token = inbound.params.required("token")?;
        let last_update = inbound.params.text("last_update")?;
        let system_id = runners::system_id(&inbound.params)?;
        let announced = runners::announced(&inbound.params)?;
        let session = inbound.params.text_in("session", "url")?;
        let features = announced.features.clone().unwrap_or_default();
        self.limits.check(now, Limited::JobRequest, &token, self.settings.job_request_limit)?;
        let runner = self.authenticate_runner(now, &token)?;
        if self.is_orphaned(runner) {
            return Err(Reply::message(StatusCode::FORBIDDEN, "403 Forbidden - Runner is orphaned"));
        }
        self.contact(now, runner, &system_id, announced);

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
            let Some(id) = self.candidate(runner, &system_id) else { return Ok(nothing()) };
            if session.as_deref().is_some_and(is_local) && !self.settings.local_sessions_allowed {
                return Err(Reply::message(StatusCode::CONFLICT, "409 Conflict"));
            }
            self.remove_pending(id);
            let two_phase = self.settings.two_phase_commit && features.contains("two_phase_job_commit");
            let patience = self.settings.acceptance_patience;
            let longest = self.runners.get(&runner).and_then(Runner::maximum_timeout);
            let payload = self.payload_for(now, id, runner, session.clone());
            let refusal = self.refusal(id, &features);
            let handed_out = self.change(id, |job| {
                // Also of a job that fails now.
                job.runner = Some(runner);
                if let Some(reason) = refusal {
                    job.fail(now, reason, None);
                    return None;
                }
                job.payload = payload.unwrap_or_default();
                job.limit_timeout(longest);
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
        if self.candidate(runner, &system_id).is_none() {
            return Ok(nothing());
        }
        Err(Reply::message(StatusCode::CONFLICT, "409 Conflict"))
    }
}

impl Coordinator {
    /// Why GitLab fails a job when it is about to hand it out to a runner with these features.
    fn refusal(&mut self, id: u64, features: &BTreeSet<String>) -> Option<&'static str> {
        let job = self.jobs.get(&id)?;
        let is_erased = |id: &u64| self.jobs.get(id).is_some_and(|needed| needed.erased);
        if job.dependencies.iter().any(is_erased) {
            Some("missing_dependency_failure")
        } else if !job.features.is_subset(features) {
            Some("runner_unsupported")
        } else if job.project_deleted {
            Some("project_deleted")
        } else {
            // The payload is made, for which GitLab asks Gitaly.
            self.settings.gitaly_failures = self.settings.gitaly_failures.checked_sub(1)?;
            Some("scheduler_failure")
        }
    }

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
        let running = self.running;
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
