//! `/projects/:id` and `/projects/:id/jobs`.

use gitlab_runner_api::Timestamp;
use http::StatusCode;
use http::header::CONTENT_DISPOSITION;

use super::asked::{Asked, not_found};
use super::paging::Total;
use crate::coordinator::Coordinator;
use crate::coordinator::access::Role;
use crate::coordinator::artifacts;
use crate::coordinator::files;
use crate::coordinator::jobs::JobRecord;
use crate::coordinator::status::JobStatus;
use crate::coordinator::wire::Reply;

/// All states of a job in GitLab. Those that the simulation does not have may be asked for.
pub(super) const STATUSES: &[&str] = &[
    "created",
    "waiting_for_resource",
    "preparing",
    "waiting_for_callback",
    "pending",
    "running",
    "success",
    "failed",
    "canceling",
    "canceled",
    "skipped",
    "manual",
    "scheduled",
];

pub(super) fn project(gitlab: &mut Coordinator, asked: &Asked<'_>) -> Result<Reply, Reply> {
    asked.check_project(Role::Guest)?;
    Ok(Reply::json(StatusCode::OK, &gitlab.project_view()))
}

pub(super) fn list(gitlab: &mut Coordinator, asked: &Asked<'_>) -> Result<Reply, Reply> {
    let scope = asked.inbound.params.list("scope");
    if scope.iter().any(|status| !STATUSES.contains(&status.as_str())) {
        return Err(Reply::error(StatusCode::BAD_REQUEST, "scope does not have a valid value"));
    }
    asked.choice("order_by", &["id"])?;
    let ascending = asked.choice("sort", &["asc", "desc"])? == Some("asc");
    asked.check_project(Role::Guest)?;
    let mut jobs: Vec<&JobRecord> = gitlab
        .jobs
        .values()
        .filter(|job| !job.project_deleted)
        .filter(|job| scope.is_empty() || scope.iter().any(|status| status == job.status.as_str()))
        .collect();
    if !ascending {
        jobs.reverse();
    }
    asked.page(&gitlab.settings.external_url, &jobs, Total::Unknown, |job| gitlab.job_view(asked.now, job))
}

pub(super) fn show(gitlab: &mut Coordinator, asked: &Asked<'_>) -> Result<Reply, Reply> {
    let job = job(gitlab, asked, Role::Guest)?;
    Ok(Reply::json(StatusCode::OK, &gitlab.job_view(asked.now, job)))
}

pub(super) fn trace(gitlab: &mut Coordinator, asked: &Asked<'_>) -> Result<Reply, Reply> {
    let job = job(gitlab, asked, Role::Guest)?;
    if let Some(why) = job.why_no_log(&gitlab.settings) {
        return Err(Reply::message(StatusCode::NOT_FOUND, why));
    }
    // GitLab writes `infile` where the standard has `inline`.
    let disposition = format!("infile; filename=\"{}.log\"", job.id);
    Ok(Reply::text(StatusCode::OK, "text/plain", job.trace.clone()).header_text(CONTENT_DISPOSITION, &disposition))
}

pub(super) fn artifacts(gitlab: &mut Coordinator, asked: &Asked<'_>) -> Result<Reply, Reply> {
    let kind = asked.inbound.params.text("file_type")?.filter(|kind| !kind.is_empty());
    let kind = kind.unwrap_or_else(|| "archive".to_owned());
    if !files::is_type(&kind) {
        return Err(Reply::error(StatusCode::BAD_REQUEST, "file_type does not have a valid value"));
    }
    let job = job(gitlab, asked, Role::Guest)?;
    let why = || job.why_no_artifacts(&gitlab.settings).unwrap_or_else(|| "404 Not Found".to_owned());
    job.artifact(&kind).map(artifacts::send_file).ok_or_else(|| Reply::message(StatusCode::NOT_FOUND, why()))
}

pub(super) fn cancel(gitlab: &mut Coordinator, asked: &Asked<'_>) -> Result<Reply, Reply> {
    let force = asked.inbound.params.flag("force")? == Some(true);
    let known = job(gitlab, asked, if force { Role::Maintainer } else { Role::Developer })?;
    let (id, status) = (known.id, known.status);
    match (force, status) {
        // Only the end of a cancellation that was begun can be forced.
        (true, JobStatus::Canceling) => gitlab.force_cancel(asked.now, id),
        (true, _) => {}
        (false, _) => gitlab.cancel(asked.now, id),
    }
    created(gitlab, asked.now, id)
}

pub(super) fn retry(gitlab: &mut Coordinator, asked: &Asked<'_>) -> Result<Reply, Reply> {
    let id = job(gitlab, asked, Role::Developer)?.id;
    let refusal = || Reply::message(StatusCode::FORBIDDEN, "403 Forbidden - Job is not retryable");
    let retry = gitlab.retry(asked.now, id).ok_or_else(refusal)?;
    created(gitlab, asked.now, retry)
}

/// Removes the log and the artifacts of a job. Developers may erase their own jobs only, and all jobs here are of another
/// user.
pub(super) fn erase(gitlab: &mut Coordinator, asked: &Asked<'_>) -> Result<Reply, Reply> {
    let job = job(gitlab, asked, Role::Maintainer)?;
    if !job.status.is_final() || (job.trace.is_empty() && job.artifacts.is_empty()) {
        return Err(Reply::message(StatusCode::FORBIDDEN, "403 Forbidden - Job is not erasable!"));
    }
    let id = job.id;
    gitlab.erase(id);
    created(gitlab, asked.now, id)
}

/// The job that the path names.
fn job<'a>(gitlab: &'a Coordinator, asked: &Asked<'_>, needed: Role) -> Result<&'a JobRecord, Reply> {
    let id = asked.number(1, "job_id")?;
    asked.check_project(needed)?;
    let why = || gitlab.why_no_job(id).map_or_else(not_found, |why| Reply::message(StatusCode::NOT_FOUND, why));
    gitlab.jobs.get(&id).filter(|job| !job.project_deleted).ok_or_else(why)
}

/// The job, in the answer to a POST.
fn created(gitlab: &Coordinator, now: Timestamp, id: u64) -> Result<Reply, Reply> {
    let job = gitlab.jobs.get(&id).ok_or_else(not_found)?;
    Ok(Reply::json(StatusCode::CREATED, &gitlab.job_view(now, job)))
}
