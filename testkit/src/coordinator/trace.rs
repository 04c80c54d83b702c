//! `PATCH /jobs/:id/trace`, and how job endpoints recognise a job.

use gitlab_runner_api::Timestamp;
use http::StatusCode;
use http::header::{CONTENT_RANGE, HeaderValue, RANGE};

use super::jobs::JobRecord;
use super::limits::Limited;
use super::settings::ReplayRule;
use super::status::JobStatus;
use super::wire::{self, Reply};
use super::{Coordinator, Inbound};

/// Who calls a job endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// The runner alone.
    Runner,
    /// The runner, or a process in the environment of the job.
    Environment,
}

/// Why a job endpoint does not recognise the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unrecognised {
    /// There is no such job, the token is unknown or that of another job, or it is gone because its job ended long ago.
    Unknown,
    TokenExpired,
    NotProcessing,
    Erased,
    ProjectDeleted,
}

impl Unrecognised {
    /// The refusal. `status` is the state of the job.
    fn reply(self, status: JobStatus) -> Reply {
        let refused = |reason: &str| Reply::message(StatusCode::FORBIDDEN, format!("403 Forbidden - {reason}"));
        match self {
            Self::Unknown => Reply::forbidden(),
            Self::TokenExpired => refused("Job token has expired").job_status(status),
            Self::NotProcessing => refused("Job is not processing on runner").job_status(status),
            Self::Erased => refused("Job has been erased!"),
            Self::ProjectDeleted => refused("Project has been deleted!"),
        }
    }
}

impl Coordinator {
    /// Makes the checks that every job endpoint makes, in GitLab's order.
    ///
    /// Some endpoints are only called by the runner: they count as a contact of its manager, and fail a job with an expired
    /// token. The others may be called from inside the environment of the job, and leave both alone.
    pub(super) fn authenticate_job(&mut self, now: Timestamp, id: u64, token: &str, by: Caller) -> Result<(), Reply> {
        if let Err((why, owner)) = self.recognise_job(now, id, token) {
            if why == Unrecognised::TokenExpired && by == Caller::Runner {
                self.change(owner, |job| job.fail(now, "job_token_expired", None));
            }
            return Err(why.reply(self.status_of(owner)));
        }
        if by == Caller::Runner {
            self.heartbeat(now, id);
        }
        Ok(())
    }

    /// Checks whether a job endpoint may be called with this token, and changes nothing. GitLab looks for the job that the token
    /// belongs to and checks that one, before it asks whether it is the job of the call.
    ///
    /// # Errors
    ///
    /// Why not, and the number of the job that this is about.
    pub(super) fn recognise_job(&self, now: Timestamp, id: u64, token: &str) -> Result<(), (Unrecognised, u64)> {
        let settings = &self.settings;
        let has_token = |job: &&JobRecord| job.token == token;
        let called = self.jobs.get(&id).ok_or((Unrecognised::Unknown, id))?;
        let owner = Some(called).filter(has_token).or_else(|| self.jobs.values().find(has_token));
        let owner = owner.filter(|job| !job.is_token_removed(now, settings)).ok_or((Unrecognised::Unknown, id))?;
        let why = if owner.is_token_expired(now, settings) {
            Unrecognised::TokenExpired
        } else if !owner.is_executing() {
            Unrecognised::NotProcessing
        } else if owner.erased {
            Unrecognised::Erased
        } else if owner.project_deleted {
            Unrecognised::ProjectDeleted
        } else if owner.id != id {
            Unrecognised::Unknown
        } else {
            return Ok(());
        };
        Err((why, owner.id))
    }

    pub(super) fn status_of(&self, id: u64) -> JobStatus {
        self.jobs.get(&id).map_or(JobStatus::Failed, |job| job.status)
    }

    pub(super) fn patch_trace(&mut self, now: Timestamp, id: u64, inbound: &Inbound) -> Result<Reply, Reply> {
        let kind = wire::media_type(&inbound.headers);
        // The Python package `gitlab_runner_api` names no media type.
        if !kind.is_empty() && kind != "text/plain" {
            return Err(Reply::unsupported(&kind));
        }
        let debug_trace = inbound.params.flag("debug_trace")?;
        // A token in the query wins over the header, even an empty one.
        let token = match inbound.params.text("token")? {
            Some(token) => token,
            None => inbound.headers.get(wire::JOB_TOKEN).and_then(|token| token.to_str().ok()).unwrap_or("").to_owned(),
        };
        self.limits.check(now, Limited::Trace, &token, self.settings.trace_limit)?;
        self.authenticate_job(now, id, &token, Caller::Runner)?;
        let Some(range) = inbound.headers.get(CONTENT_RANGE) else {
            return Err(Reply::error(StatusCode::BAD_REQUEST, "400 Missing header Content-Range"));
        };
        let start = wire::range_start(range.as_bytes());
        let end = start.saturating_add(inbound.body.bytes().len() as u64);
        if start == 0 && debug_trace == Some(true) {
            // Also if the patch is refused below.
            self.change(id, |job| job.debug_trace = true);
        }
        if self.settings.trace_size_limit.is_some_and(|limit| limit > 0 && end >= limit) {
            self.change(id, |job| job.fail(now, "trace_size_exceeded", None));
            return Err(Reply::error(StatusCode::FORBIDDEN, "403 Forbidden"));
        }

        let told_interval = self.settings.trace_interval;
        let replay = self.settings.replay;
        let mask = self.settings.mask_job_token;
        let reply = self.change(id, |job| {
            if now < job.trace_locked_until {
                return Err(Reply::resource_lock());
            }
            let fits = start == job.trace.len() as u64;
            if fits {
                let from = job.trace.len();
                job.trace.extend_from_slice(inbound.body.bytes());
                if mask {
                    hide(&mut job.trace[from..], job.token.as_bytes());
                }
                if !inbound.body.bytes().is_empty() {
                    job.appended_at = now;
                }
                job.touch(now);
            }
            let size = job.trace.len() as u64;
            let range = format!("0-{size}");
            if end == size && (fits || replay == ReplayRule::TailRepeatAccepted) {
                let interval = told_interval.unwrap_or(if job.watched { 3 } else { 60 });
                Ok(Reply::number(StatusCode::ACCEPTED)
                    .job_status(job.status)
                    .header_text(RANGE, &range)
                    .header(wire::UPDATE_INTERVAL, HeaderValue::from(interval)))
            } else {
                let reply = Reply::error(StatusCode::RANGE_NOT_SATISFIABLE, "416 Range Not Satisfiable");
                Err(reply.header_text(RANGE, &range))
            }
        });
        reply.unwrap_or_else(|| Err(Reply::forbidden()))
    }
}

/// Replaces every occurrence of a secret by as many `x`.
fn hide(text: &mut [u8], secret: &[u8]) {
    if secret.is_empty() {
        return;
    }
    let mut at = 0;
    while let Some(window) = text.get_mut(at..at + secret.len()) {
        if window == secret {
            window.fill(b'x');
            at += secret.len();
        } else {
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests;
