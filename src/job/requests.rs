//! The calls of a job: from what is to be done to the request that does it.

use bytes::Bytes;
use http::header::USER_AGENT;

use super::phase::{JobResult, Phase};
use super::rules::Intent;
use super::{Check, Job, Sent};
use crate::api::patch_trace::PatchTrace;
use crate::api::update_job::{LogDigest, UpdateJob};
use crate::api::{CorrelationId, Endpoint};
use crate::call::Call;
use crate::secret::JobToken;
use crate::status::{FailureReason, JobState};
use crate::time::Timestamp;

impl Job {
    pub(super) fn send(&mut self, intent: Intent, now: Timestamp) -> Call {
        self.revision += 1;
        let paid = !self.is_free(intent, now);
        match intent {
            Intent::Accept | Intent::Heartbeat => {
                if self.pacing.keep_alive_is_free(self.config.keep_alive, now) {
                    self.pacing.send_free_keep_alive(now);
                }
                if intent == Intent::Heartbeat && self.check.is_some() {
                    self.check = Some(Check::Sent);
                }
            }
            Intent::Patch { end, .. } => self.frozen = Some(end),
            Intent::Probe { .. } | Intent::Final => {}
        }
        if paid {
            self.pacing.budget.spend(now);
        }
        let sent = Sent { intent, paid, predates_check: false };
        match intent {
            Intent::Accept | Intent::Heartbeat => self.call(sent, &UpdateJob::running(self.id(), self.token()), now),
            Intent::Probe { base } => {
                let probe = PatchTrace::new(self.id(), self.token(), self.trace.at_server(base), Bytes::new());
                self.call(sent, &probe, now)
            }
            Intent::Patch { start, end } => {
                let (content, at) = (self.trace.send(start..end), self.trace.at_server(start));
                let patch = PatchTrace::new(self.id(), self.token(), at, content);
                self.call(sent, &patch.with_debug_trace(self.spec().is_debug_trace()), now)
            }
            Intent::Final => {
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
        let digest = LogDigest::new(self.trace.crc(), self.trace.written());
        // With bytes of somebody else in GitLab's log, no checksum of ours can be right.
        let intact = self.trace.is_exact();
        let (id, token) = (self.id(), self.token());
        let Phase::Finishing(finishing) = &mut self.phase else { return UpdateJob::running(id, token) };
        finishing.sent = true;
        let JobResult { state, reason, exit_code, environment_key } = finishing.result.clone();
        let report = match state {
            JobState::Success => UpdateJob::success(id, token),
            JobState::Failed => {
                UpdateJob::failed(id, token, reason.unwrap_or(FailureReason::UnknownFailure), exit_code)
            }
        };
        let report = match environment_key {
            Some(key) => report.with_runtime_environment_key(key),
            None => report,
        };
        // Once it was sent without a checksum it stays so, also if GitLab loses what was not ours.
        finishing.without_digest |= !intact;
        if finishing.without_digest {
            return report;
        }
        report.with_digest(*finishing.digest.get_or_insert(digest))
    }
}
