//! Jobs: queueing them, looking at them, and what happens to them.

use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::Timestamp;
use http::header::{CONTENT_DISPOSITION, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::call::{Call, Refusal, bad, created, missing, ok, raw, seconds, told, typed};
use super::refused;
use crate::content::Content;
use crate::coordinator::{Coordinator, JobRecord, NewJob};
use crate::server::{Handling, Later};
use crate::sim::describe;

pub(super) fn list(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    ok(&call.gitlab.jobs().map(view).collect())
}

pub(super) fn queue(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    let mut job = describe::job(call.json()?).map_err(bad)?;
    let Some(repository) = call.gitlab.repository().cloned() else {
        return Ok(Handling::Answered(enqueue(call.gitlab, call.now, job)));
    };
    // To ask git takes long, and nobody else is to wait for it.
    let check_out = move || {
        let found = job.check_out(&repository);
        (job, found)
    };
    let finish = |gitlab: &mut Coordinator, now, (job, found): (NewJob, bool)| {
        if found {
            return enqueue(gitlab, now, job);
        }
        refused(bad(format!("the repository has no {}", job.source_reference())))
    };
    Ok(Handling::Later(Later::then(check_out, finish)))
}

fn enqueue(gitlab: &mut Coordinator, now: Timestamp, job: NewJob) -> Response<Content> {
    match gitlab.missing_dependency(&job) {
        Some(missing) => refused(bad(format!("there is no job {missing} to depend on"))),
        None => told(StatusCode::CREATED, &json!({ "id": gitlab.queue(now, job) })),
    }
}

pub(super) fn show(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    ok(&view(call.job()?))
}

pub(super) fn show_token(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    ok(&json!({ "token": call.job()?.token() }))
}

pub(super) fn show_trace(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    let job = call.job()?;
    if let Some(why) = job.why_no_log(call.gitlab.settings()) {
        return Err(missing(why));
    }
    raw("text/plain; charset=utf-8", Bytes::copy_from_slice(job.trace()))
}

pub(super) fn show_artifact(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    let (job, kind) = (call.job()?, call.value(1));
    let dropped = job.why_no_artifacts(call.gitlab.settings());
    let why = || missing(dropped.unwrap_or_else(|| format!("job {} left no {kind}", job.id())));
    let file = job.artifact(kind).ok_or_else(why)?;
    let disposition = HeaderValue::try_from(file.disposition());
    let mut response = typed("application/octet-stream", file.content.clone());
    response.headers_mut().extend(disposition.ok().map(|disposition| (CONTENT_DISPOSITION, disposition)));
    Ok(Handling::Answered(response))
}

pub(super) fn cancel(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    let force = call.flag("force", false)?;
    let act = if force { Coordinator::force_cancel } else { Coordinator::cancel };
    call.change(act)
}

pub(super) fn retry(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    let id = call.job()?.id();
    let again = call.gitlab.retry(call.now, id).and_then(|again| call.gitlab.job(again));
    let why = || Refusal(StatusCode::CONFLICT, format!("job {id} has not ended, or it was retried already"));
    created(&view(again.ok_or_else(why)?))
}

pub(super) fn watch(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    let watched = call.flag("watched", true)?;
    call.change(|gitlab, _, job| gitlab.watch(job, watched))
}

pub(super) fn erase(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    call.change(|gitlab, _, job| gitlab.erase(job))
}

pub(super) fn delete_project(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    call.change(|gitlab, _, job| gitlab.delete_project(job))
}

pub(super) fn lock(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    let until = call.until()?;
    call.change(|gitlab, _, job| gitlab.lock_job(job, until))
}

pub(super) fn lock_log(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    let until = call.until()?;
    call.change(|gitlab, _, job| gitlab.lock_trace(job, until))
}

pub(super) fn lose_log(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    let keep = call.members()?.get("keep").map_or(Some(0), Value::as_u64);
    let keep = keep.ok_or_else(|| bad("keep is a number of bytes"))?;
    call.change(|gitlab, _, job| gitlab.forget_trace_tail(job, keep))
}

pub(super) fn revoke_token(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    call.change(|gitlab, _, job| gitlab.revoke_job_token(job))
}

pub(super) fn expire_token(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    let after = call.duration("seconds")?.unwrap_or(Duration::ZERO);
    call.change(|gitlab, now, job| gitlab.expire_job_token(job, now.saturating_add(after)))
}

/// Why there is no such job.
pub(in crate::sim) fn no_job(gitlab: &Coordinator, id: u64) -> String {
    gitlab.why_no_job(id).unwrap_or_else(|| format!("there is no job {id}"))
}

impl Call<'_> {
    /// The job that the path names.
    fn job(&self) -> Result<&JobRecord, Refusal> {
        let named = self.value(0);
        let id = named.parse().map_err(|_| missing(format!("there is no job {named}")))?;
        self.gitlab.job(id).ok_or_else(|| missing(no_job(self.gitlab, id)))
    }

    /// Changes the job that the path names, and shows it.
    fn change(&mut self, change: impl FnOnce(&mut Coordinator, Timestamp, u64)) -> Result<Handling, Refusal> {
        let id = self.job()?.id();
        change(self.gitlab, self.now, id);
        ok(&view(self.job()?))
    }

    /// The end of a span of time that the body names.
    fn until(&self) -> Result<Timestamp, Refusal> {
        let span = self.duration("seconds")?.ok_or_else(|| bad("seconds is a number of seconds"))?;
        Ok(self.now.saturating_add(span))
    }
}

/// Everything about a job, without its log, its files and its token.
pub(super) fn view(job: &JobRecord) -> Value {
    let requests: Map<String, Value> =
        job.all_requests().map(|(endpoint, count)| (endpoint.route().to_owned(), count.into())).collect();
    let artifact = |file: &crate::StoredArtifact| {
        json!({
            "type": file.artifact_type,
            "format": file.artifact_format,
            "file_name": file.file_name,
            "bytes": file.content.len(),
        })
    };
    let updates = job.final_updates().iter().map(|update| {
        json!({
            "at": seconds(update.at),
            "state": update.state,
            "failure_reason": update.failure_reason,
            "exit_code": update.exit_code,
            "checksum": update.checksum,
            "bytesize": update.bytesize,
        })
    });
    let history = job.history().iter().map(|(at, status)| json!({ "at": seconds(*at), "status": status.as_str() }));
    json!({
        "id": job.id(),
        "name": job.name(),
        "status": job.status().as_str(),
        "failure_reason": job.failure_reason(),
        "exit_code": job.exit_code(),
        "allow_failure": job.allow_failure(),
        "runner": job.runner(),
        "system_id": job.system_id(),
        "started_at": job.started_at().map(seconds),
        "updated_at": seconds(job.updated_at()),
        "history": history.collect::<Vec<_>>(),
        "trace_bytes": job.log_bytes(),
        "trace_crc32": format!("{:08x}", job.log_crc32()),
        "trace_dropped": job.is_log_dropped(),
        "debug_trace": job.debug_trace(),
        "reported_checksum": job.reported_checksum(),
        "reported_bytesize": job.reported_bytesize(),
        "final_updates": updates.collect::<Vec<_>>(),
        "artifacts": job.artifacts().iter().map(artifact).collect::<Vec<_>>(),
        "artifacts_dropped": job.are_artifacts_dropped(),
        "dotenv": job.dotenv(),
        "runtime_environment_key": job.environment_key(),
        "requests": requests,
        "retry_of": job.retry_of(),
    })
}
