//! Jobs, runners and managers as the API for users shows them.

use std::time::Duration;

use gitlab_runner_api::Timestamp;
use serde_json::{Map, Value, json};

use crate::coordinator::access::{Role, RunnerType, User};
use crate::coordinator::jobs::JobRecord;
use crate::coordinator::new_job::PIPELINE;
use crate::coordinator::runners::{Manager, Runner};
use crate::coordinator::status::JobStatus;
use crate::coordinator::variables::{PROJECT, PROJECT_PATH};
use crate::coordinator::{Coordinator, calendar, variables};

/// A runner that was heard of within this time is online: `Ci::Runner::ONLINE_CONTACT_TIMEOUT`.
const ONLINE: Duration = Duration::from_secs(2 * 3600);
/// One that was not heard of for so long is stale: `Ci::Runner::STALE_TIMEOUT`, three months.
const STALE: Duration = Duration::from_secs(90 * 24 * 3600);

impl Coordinator {
    /// A job with everything that GitLab shows of it: `Entities::Ci::Job`.
    pub(super) fn job_view(&self, now: Timestamp, job: &JobRecord) -> Value {
        let mut view = self.basic_view(now, job);
        let archive = job.artifact("archive");
        if let Some(archive) = archive {
            let file = json!({ "filename": archive.file_name, "size": archive.content.len() });
            view.insert("artifacts_file".to_owned(), file);
        }
        let manager = job.runner.zip(job.system_id()).and_then(|(runner, system_id)| {
            let manager = self.runners.get(&runner)?.managers.get(system_id)?;
            Some(self.manager_view(now, runner, system_id, manager))
        });
        let runner = job.runner.and_then(|id| Some(self.runner_view(now, id, self.runners.get(&id)?)));
        view.extend(members(json!({
            "artifacts": artifacts(job),
            "runner": runner,
            "runner_manager": manager,
            "artifacts_expire_at": null,
            "archived": false,
            "source": job.template.source(),
            "tag_list": job.template.tags(),
            "project": { "ci_job_token_scope_enabled": false },
        })));
        view.into()
    }

    /// A job as the list of a runner's jobs shows it: `Entities::Ci::JobBasicWithProject`.
    pub(super) fn job_with_project(&self, now: Timestamp, job: &JobRecord) -> Value {
        let mut view = self.basic_view(now, job);
        view.insert("project".to_owned(), self.project_view());
        view.into()
    }

    fn basic_view(&self, now: Timestamp, job: &JobRecord) -> Map<String, Value> {
        let (created, started) = (job.history.first().map(|(at, _)| *at), job.started_at);
        let finished = job.history.last().filter(|(_, status)| status.is_final()).map(|(at, _)| *at);
        let span = |from: Option<Timestamp>, to: Timestamp| from.map(|from| to.saturating_since(from).as_secs_f64());
        let queued_until = started.or((job.status == JobStatus::Pending).then_some(now));
        let git = &job.payload["git_info"];
        let mut view = members(json!({
            "id": job.id,
            "status": job.status.as_str(),
            "stage": job.payload.pointer("/job_info/stage").unwrap_or(&Value::Null),
            "name": job.name(),
            "ref": git["ref"],
            "tag": git["ref_type"] == "tag",
            "coverage": null,
            "allow_failure": job.allow_failure,
            "created_at": created.map(calendar::format),
            "started_at": started.map(calendar::format),
            "finished_at": finished.map(calendar::format),
            "erased_at": job.erased_at.map(calendar::format),
            "duration": span(started, finished.unwrap_or(now)),
            "queued_duration": queued_until.and_then(|until| span(created, until)),
            "user": user(&self.settings.external_url),
            "commit": self.commit_view(job),
            "pipeline": self.pipeline_view(job),
            "web_url": format!("{}/{PROJECT_PATH}/-/jobs/{}", self.settings.external_url, job.id),
        }));
        if job.status == JobStatus::Failed {
            view.insert("failure_reason".to_owned(), job.failure_reason.clone().into());
        }
        view
    }

    fn commit_view(&self, job: &JobRecord) -> Value {
        let sha = job.payload["git_info"]["sha"].as_str().unwrap_or_default();
        let created_at = job.history.first().map(|(at, _)| calendar::format(*at));
        let commit = variables::commit_of(&job.template, sha, created_at.as_deref().unwrap_or_default());
        json!({
            "id": sha,
            "short_id": sha.get(..8).unwrap_or(sha),
            "title": commit.title(),
            "message": commit.message,
            "created_at": commit.committed_at,
            "author_name": commit.author_name,
            "author_email": commit.author_email,
            "web_url": format!("{}/{PROJECT_PATH}/-/commit/{sha}", self.settings.external_url),
        })
    }

    fn pipeline_view(&self, job: &JobRecord) -> Value {
        json!({
            "id": PIPELINE,
            "iid": 101,
            "project_id": PROJECT,
            "sha": job.payload["git_info"]["sha"],
            "ref": job.payload["git_info"]["ref"],
            "status": self.pipeline_status(),
            "source": job.template.source(),
            "web_url": format!("{}/{PROJECT_PATH}/-/pipelines/{PIPELINE}", self.settings.external_url),
        })
    }

    /// The status of the one pipeline that all jobs belong to. A job that was retried does not count.
    fn pipeline_status(&self) -> &'static str {
        let is_retried = |job: &&JobRecord| self.jobs.values().any(|other| other.retry_of == Some(job.id));
        let has = |status: JobStatus| self.jobs.values().any(|job| job.status == status);
        let failed = |job: &&JobRecord| job.status == JobStatus::Failed && !job.allow_failure;
        if has(JobStatus::Running) || has(JobStatus::Canceling) {
            "running"
        } else if has(JobStatus::Pending) {
            "pending"
        } else if self.jobs.values().filter(failed).any(|job| !is_retried(&job)) {
            "failed"
        } else if has(JobStatus::Canceled) {
            "canceled"
        } else {
            "success"
        }
    }

    /// The one project.
    pub(super) fn project_view(&self) -> Value {
        json!({
            "id": PROJECT,
            "description": "Makes widgets",
            "name": "Widgets",
            "name_with_namespace": "Acme / Widgets",
            "path": "widgets",
            "path_with_namespace": PROJECT_PATH,
            "created_at": calendar::format(Timestamp::EPOCH),
            "default_branch": self.default_branch(),
            "visibility": "private",
            "web_url": format!("{}/{PROJECT_PATH}", self.settings.external_url),
        })
    }

    /// A runner in a list: `Entities::Ci::Runner`.
    pub(super) fn runner_view(&self, now: Timestamp, id: u64, runner: &Runner) -> Value {
        let contact = runner.contact_status(now);
        let busy = self.jobs.values().any(|job| job.runner == Some(id) && job.is_executing());
        let status = if runner.paused && matches!(contact, "online" | "offline") { "paused" } else { contact };
        json!({
            "id": id,
            "description": runner.attributes.get("description"),
            "ip_address": null,
            "active": !runner.paused,
            "paused": runner.paused,
            "is_shared": runner.kind() == RunnerType::Instance,
            "runner_type": runner.kind().as_str(),
            "name": null,
            "online": contact == "online",
            "created_at": calendar::format(runner.created_at),
            "status": status,
            "job_execution_status": if busy { "active" } else { "idle" },
        })
    }

    /// A runner alone: `Entities::Ci::RunnerDetails`.
    pub(super) fn runner_details(&self, now: Timestamp, id: u64, runner: &Runner, user: &User) -> Value {
        let mut view = members(self.runner_view(now, id, runner));
        let attribute = |name: &str, default: Value| runner.attributes.get(name).cloned().unwrap_or(default);
        let latest = runner.managers.values().max_by_key(|manager| (manager.contacted_at, manager.id));
        let told = |name: &str| latest.and_then(|manager| manager.info.get(name));
        let may_update = user.role >= Role::needed_for(runner.kind());
        let note = may_update.then(|| attribute("maintenance_note", Value::Null));
        let (projects, groups) = match runner.kind() {
            RunnerType::Instance => (json!([]), json!([])),
            RunnerType::Project => (json!([self.project_view()]), json!([])),
            RunnerType::Group => (json!([]), json!([self.group_view()])),
        };
        view.extend(members(json!({
            "tag_list": runner.tags().collect::<Vec<_>>(),
            "run_untagged": attribute("run_untagged", true.into()),
            "locked": attribute("locked", false.into()),
            "maximum_timeout": attribute("maximum_timeout", Value::Null),
            "access_level": attribute("access_level", "not_protected".into()),
            "version": told("version"),
            "revision": told("revision"),
            "platform": told("platform"),
            "architecture": told("architecture"),
            "contacted_at": latest.map(|manager| calendar::format(manager.contacted_at)),
            "maintenance_note": note,
            "projects": projects,
            "groups": groups,
        })));
        view.into()
    }

    fn group_view(&self) -> Value {
        json!({ "id": 101, "web_url": format!("{}/groups/acme", self.settings.external_url), "name": "Acme" })
    }

    /// A runner manager: `Entities::Ci::RunnerManager`.
    pub(super) fn manager_view(&self, now: Timestamp, runner: u64, system_id: &str, manager: &Manager) -> Value {
        let runs =
            |job: &JobRecord| job.runner == Some(runner) && job.system_id() == Some(system_id) && job.is_executing();
        let told = |name: &str| manager.info.get(name);
        json!({
            "id": manager.id,
            "system_id": system_id,
            "version": told("version"),
            "revision": told("revision"),
            "platform": told("platform"),
            "architecture": told("architecture"),
            "created_at": calendar::format(manager.made_at),
            "contacted_at": calendar::format(manager.contacted_at),
            "ip_address": "127.0.0.1",
            "status": contact_status(now, manager.contacted_at),
            "job_execution_status": if self.jobs.values().any(runs) { "active" } else { "idle" },
        })
    }
}

impl Runner {
    /// Whether and when one of its managers was heard of.
    pub(super) fn contact_status(&self, now: Timestamp) -> &'static str {
        match self.managers.values().map(|manager| manager.contacted_at).max() {
            Some(at) => contact_status(now, at),
            None if now.saturating_since(self.created_at) >= STALE => "stale",
            None => "never_contacted",
        }
    }

    /// Whether one of its managers has a version that begins like this.
    pub(super) fn has_version(&self, prefix: &str) -> bool {
        let version = |manager: &Manager| manager.info.get("version").and_then(Value::as_str).map(str::to_owned);
        self.managers.values().filter_map(version).any(|version| version.starts_with(prefix))
    }
}

fn contact_status(now: Timestamp, at: Timestamp) -> &'static str {
    match now.saturating_since(at) {
        ago if ago < ONLINE => "online",
        ago if ago < STALE => "offline",
        _ => "stale",
    }
}

/// The files of a job, and its log once it is stored for good.
fn artifacts(job: &JobRecord) -> Vec<Value> {
    let mut files: Vec<Value> = job
        .artifacts
        .iter()
        .map(|file| {
            json!({
                "file_type": file.artifact_type,
                "size": file.content.len(),
                "filename": file.file_name,
                "file_format": file.artifact_format,
            })
        })
        .collect();
    if job.status.is_final() && !job.trace.is_empty() {
        let size = job.trace.len();
        files.push(json!({ "file_type": "trace", "size": size, "filename": "job.log", "file_format": "raw" }));
    }
    files
}

/// The user who made all jobs.
fn user(url: &str) -> Value {
    json!({
        "id": 17,
        "username": "ada",
        "name": "Ada Example",
        "state": "active",
        "avatar_url": null,
        "web_url": format!("{url}/ada"),
        "created_at": calendar::format(Timestamp::EPOCH),
        "bio": "",
        "location": null,
        "public_email": "",
    })
}

fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}
