//! `PUT /jobs/:id`.

use std::time::Duration;

use gitlab_runner_api::Timestamp;
use http::StatusCode;
use http::header::HeaderValue;

use super::jobs::{FinalUpdate, JobRecord, Report};
use super::limits::Limited;
use super::params::Params;
use super::payload::FAILURE_REASONS;
use super::settings::{Settings, minutes};
use super::trace::Caller;
use super::wire::{self, Reply};
use super::{Coordinator, Inbound};

/// The longest key of an environment that GitLab stores.
const MAX_ENVIRONMENT_KEY: usize = 4096;

/// The states that GitLab can store with a report: all that a job or a stage can have.
const STATES: &[&str] = &[
    "created",
    "waiting_for_resource",
    "preparing",
    "waiting_for_callback",
    "pending",
    "canceling",
    "success",
    "failed",
    "canceled",
    "skipped",
    "manual",
    "scheduled",
];

/// The parameters of an update.
#[derive(Debug)]
struct Update {
    state: Option<String>,
    failure_reason: Option<String>,
    exit_code: Option<i64>,
    checksum: Option<String>,
    bytesize: Option<u64>,
    environment_key: Option<String>,
}

impl Update {
    fn read(params: &Params) -> Result<Self, Reply> {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let checksum = params.text_in("output", "checksum")?;
        let bytesize = params.integer_in("output", "bytesize")?;
        Ok(Self {
            state: given(params.text("state")?),
            failure_reason: given(params.text("failure_reason")?),
            exit_code: params.integer("exit_code")?,
            // An empty one in `output` wins as well, and counts as none.
            checksum: given(checksum.or(params.text("checksum")?)),
            bytesize: bytesize.and_then(|size| u64::try_from(size).ok()),
            environment_key: environment_key(params)?,
        })
    }
}

/// The key of a suspended environment. GitLab 19.0 to 19.3 call it `environment_key`.
fn environment_key(params: &Params) -> Result<Option<String>, Reply> {
    for name in ["runtime_environment_key", "environment_key"] {
        if let Some(key) = params.text(name)?.filter(|key| !key.is_empty()) {
            if key.chars().count() > MAX_ENVIRONMENT_KEY {
                let error = format!("{name} must be less than {MAX_ENVIRONMENT_KEY} characters");
                return Err(Reply::error(StatusCode::BAD_REQUEST, error));
            }
            return Ok(Some(key));
        }
    }
    Ok(None)
}

impl Coordinator {
    pub(super) fn update_job(&mut self, now: Timestamp, id: u64, inbound: &Inbound) -> Result<Reply, Reply> {
        // Only a parameter will do, although other job endpoints accept the header.
        let token = inbound.params.required("token")?;
        let update = Update::read(&inbound.params)?;
        self.limits.check(now, Limited::Job, &token, self.settings.job_limit)?;
        self.authenticate_job(now, id, &token, Caller::Runner)?;
        let has_manager = self.jobs.get(&id).is_some_and(|job| self.has_manager(job));
        let reply = self.change_with(id, |job, settings| {
            if now < job.locked_until {
                return Err(Reply::resource_lock());
            }
            let reply = if job.is_waiting() {
                accept(now, job, &update, has_manager, settings.acceptance_patience)
            } else {
                apply(now, job, &update, settings)
            };
            Ok(if settings.job_status_header_on_put { reply.job_status(job.status) } else { reply })
        });
        reply.unwrap_or_else(|| Err(Reply::forbidden()))
    }
}

/// An update of a job that its runner has not accepted yet.
fn accept(now: Timestamp, job: &mut JobRecord, update: &Update, has_manager: bool, patience: Duration) -> Reply {
    Reply::number(match update.state.as_deref() {
        Some("pending") => {
            job.lend(now, patience);
            StatusCode::OK
        }
        Some("running") if has_manager => {
            job.start(now);
            StatusCode::OK
        }
        _ => StatusCode::BAD_REQUEST,
    })
}

fn apply(now: Timestamp, job: &mut JobRecord, update: &Update, settings: &mut Settings) -> Reply {
    let state = update.state.as_deref();
    if state == Some("running") {
        job.touch(now);
        return Reply::number(StatusCode::OK);
    }
    let is_final = matches!(state, Some("success" | "failed"));
    if is_final {
        job.final_updates.push(FinalUpdate {
            at: now,
            state: state.unwrap_or_default().to_owned(),
            failure_reason: update.failure_reason.clone(),
            exit_code: update.exit_code,
            checksum: update.checksum.clone(),
            bytesize: update.bytesize,
        });
    }
    if let Some(checksum) = &update.checksum {
        if is_final && let Some(left) = settings.reject_checksum.checked_sub(1) {
            settings.reject_checksum = left;
            return Reply::message(StatusCode::PRECONDITION_FAILED, "412 Precondition Failed");
        }
        if settings.archive_delay.is_some() && !state.is_some_and(|state| STATES.contains(&state)) {
            // GitLab stores what is reported before it looks at the state, and fails at one that it cannot store.
            return Reply::message(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error");
        }
        let report = || Report { checksum: checksum.clone(), bytesize: update.bytesize, at: now };
        let first_at = job.report.get_or_insert_with(report).at;
        if is_archiving(now, job, first_at, settings) {
            let interval = interval(now, first_at, settings.fractional_interval);
            return Reply::number(StatusCode::ACCEPTED).header(wire::UPDATE_INTERVAL, interval);
        }
    }
    if !is_final {
        return Reply::number(StatusCode::BAD_REQUEST);
    }
    if let Some(key) = &update.environment_key {
        job.environment_key = Some(key.clone());
    }
    if state == Some("success") {
        job.succeed(now);
    } else {
        job.allow_failure |= update.exit_code.is_some_and(|code| job.template.allows_exit_code(code));
        let reason = update.failure_reason.as_deref().filter(|reason| FAILURE_REASONS.contains(reason));
        job.fail(now, reason.unwrap_or("unknown_failure"), update.exit_code);
    }
    Reply::number(StatusCode::OK)
}

/// Whether part of the trace is still in live storage, or somebody writes to it.
fn is_archiving(now: Timestamp, job: &JobRecord, first_at: Timestamp, settings: &Settings) -> bool {
    let Some(delay) = settings.archive_delay else { return false };
    // A trace that is locked is waited for without the limit of five minutes.
    if now < job.trace_locked_until {
        return true;
    }
    let archived_at = first_at.max(job.appended_at).saturating_add(delay);
    !job.trace.is_empty() && now < archived_at && now.saturating_since(first_at) < minutes(5)
}

/// Doubles with the time since the first final update, from 1 to 64 seconds.
fn interval(now: Timestamp, first_at: Timestamp, fractional: bool) -> HeaderValue {
    let age = now.saturating_since(first_at);
    if fractional && (1001..2000).contains(&age.as_millis()) {
        return HeaderValue::from_static("1/2");
    }
    let slot = age.as_secs().checked_ilog2().unwrap_or(0).saturating_sub(1);
    HeaderValue::from(1_u32 << slot.min(6))
}

#[cfg(test)]
mod tests;
