//! The calls of a job: from what is to be done to the request that does it.

use bytes::Bytes;
use http::header::USER_AGENT;

use super::Job;
use super::outcome::JobResult;
use super::phase::Phase;
use super::rules::Intent;
use crate::api::patch_trace::PatchTrace;
use crate::api::update_job::{LogDigest, UpdateJob};
use crate::api::{CorrelationId, Endpoint};
use crate::call::Call;
use crate::secret::JobToken;
use crate::status::{FailureReason, JobState};
use crate::time::Timestamp;

/// A call in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) intent: Intent,
    /// It was paid for from the budget of calls that achieve nothing, and the price is given back if it achieves something.
    pub(super) paid: bool,
    /// It was sent before the application asked whether the job is still ours, so that its answer does not answer that.
    pub(super) predates_check: bool,
}

impl Job {
    pub(super) fn send(&mut self, intent: Intent, now: Timestamp) -> Call {
        self.saving.change();
        let sent = Sent { intent, paid: !self.is_free(intent, now), predates_check: false };
        if sent.paid {
            self.pacing.budget.spend(now);
        }
        match intent {
            Intent::Accept | Intent::KeepAlive => {
                if self.pacing.keep_alive_is_free(self.config.keep_alive, now) {
                    self.pacing.send_free_keep_alive(now);
                }
                if intent == Intent::KeepAlive {
                    self.contact.check_is_sent();
                }
                self.call(sent, &UpdateJob::running(self.id(), self.token()), now)
            }
            Intent::Probe { base } => {
                let at = self.delivery.trace.at_server(base);
                self.call(sent, &PatchTrace::new(self.id(), self.token(), at, Bytes::new()), now)
            }
            Intent::Patch { start, end } => {
                let (content, at) = (self.delivery.send(start..end), self.delivery.trace.at_server(start));
                let patch = PatchTrace::new(self.id(), self.token(), at, content);
                self.call(sent, &patch.with_debug_trace(self.log.is_debug_trace), now)
            }
            Intent::Report => {
                let report = self.report();
                self.call(sent, &report, now)
            }
        }
    }

    fn token(&self) -> JobToken {
        self.spec().token.clone()
    }

    fn call(&mut self, sent: Sent, endpoint: &impl Endpoint, now: Timestamp) -> Call {
        let id = CorrelationId::draw(&mut self.rng);
        let mut request = endpoint.request(&self.config.server, id);
        request.headers_mut().insert(USER_AGENT, self.config.user_agent.clone());
        self.wire.send(sent, request, endpoint.hints(), now)
    }

    /// The report. State, reason and exit code are the same each time; checksum and size may be dropped.
    fn report(&mut self) -> UpdateJob {
        let trace = &self.delivery.trace;
        let digest = LogDigest::new(trace.crc(), trace.written());
        // With bytes of somebody else in GitLab's log, no checksum of ours can be right.
        let intact = trace.is_exact();
        let (id, token) = (self.id(), self.token());
        let Phase::Finishing(finishing) = &mut self.phase else { return UpdateJob::running(id, token) };
        finishing.sent = true;
        if !intact {
            // Once it was sent without a checksum it stays so, also if GitLab loses what was not ours.
            finishing.drop_digest();
        }
        let digest = finishing.digest(digest);
        let JobResult { state, reason, exit_code, environment_key } = finishing.result.clone();
        let mut report = match state {
            JobState::Success => UpdateJob::success(id, token),
            JobState::Failed => {
                UpdateJob::failed(id, token, reason.unwrap_or(FailureReason::UnknownFailure), exit_code)
            }
        };
        if let Some(key) = environment_key {
            report = report.with_runtime_environment_key(key);
        }
        match digest {
            Some(digest) => report.with_digest(digest),
            None => report,
        }
    }
}
