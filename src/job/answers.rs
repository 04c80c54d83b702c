//! How answers and failures move a job's state.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};

use super::Job;
use super::contact::{NothingBut, Notice};
use super::delivery::Effect;
use super::event::JobEvent;
use super::outcome::{AbortReason, Cancellation, Outcome};
use super::pacing::Lane;
use super::phase::{Acceptance, Closed, Phase};
use super::requests::Sent;
use super::rules::{self, Context, Intent, Verdict};
use crate::error::Rejection;
use crate::headers;
use crate::reply::Cause;
use crate::status::{JobState, JobStatus};
use crate::time::Timestamp;

impl Job {
    pub(super) fn answered(&mut self, sent: Sent, response: &Response<Bytes>, now: Timestamp) {
        self.saving.change();
        let (status, headers) = (response.status(), response.headers());
        if let Some(interval) = headers::update_interval(headers) {
            self.delivery.set_interval(interval);
        }
        let job_status = headers::job_status(headers);
        let context = self.context(sent.intent);
        let verdict = rules::verdict(sent.intent, context, response);
        let told = headers::told_delay(headers, now);
        self.note_answer(sent.intent, context, &verdict, response, now);
        match verdict {
            Verdict::Failed | Verdict::ForeignForbidden => self.failed(sent, Cause::Status(status), told, now),
            Verdict::ReportRejected => self.report_rejected(sent, response, told, now),
            Verdict::TooLarge => self.too_large(sent, told, now),
            Verdict::Mismatch => self.mismatched(sent, told, now),
            Verdict::Resync(size) => self.resynchronise(sent, size, now),
            Verdict::ProbeNext => {
                self.failed(sent, Cause::Status(status), told, now);
                self.delivery.guess_next_byte();
            }
            Verdict::AskAgain => self.ask_again(sent, headers::update_interval(headers), now),
            verdict => self.worked(sent, verdict, job_status.as_ref(), now),
        }
        if job_status == Some(JobStatus::Canceling) {
            self.request_cancel();
        }
    }

    fn context(&self, intent: Intent) -> Context {
        let (mut reported, mut report_may_have_arrived) = (None, false);
        if let Phase::Finishing(finishing) = &self.phase {
            reported = finishing.sent.then_some(finishing.result.state);
            report_may_have_arrived = finishing.may_have_arrived;
        }
        let (start, end) = intent.piece().unwrap_or((0, 0));
        let (begun, end) = (self.delivery.trace.at_server(start), self.delivery.trace.at_server(end));
        Context { reported, report_may_have_arrived, begun, end, stalled: self.delivery.is_stalled() }
    }

    /// Keeps count of what answers have in common over several calls, whatever this one means.
    fn note_answer(
        &mut self,
        intent: Intent,
        context: Context,
        verdict: &Verdict,
        response: &Response<Bytes>,
        now: Timestamp,
    ) {
        let status = response.status();
        let nothing_but = match verdict {
            Verdict::ForeignForbidden => Some(NothingBut::ForeignForbidden),
            Verdict::Failed if status == StatusCode::NOT_FOUND => Some(NothingBut::NotFound),
            _ => None,
        };
        self.contact.note(nothing_but, now);
        if Lane::from(intent) == Lane::Trace {
            let useless = matches!(verdict, Verdict::Failed | Verdict::ForeignForbidden | Verdict::TooLarge);
            let stored = headers::stored_size(response.headers());
            self.delivery.note_answer(status, stored, context.begun, useless, now);
        }
        if let Phase::Finishing(finishing) = &mut self.phase {
            finishing.note_answer(status, intent == Intent::Report);
        }
    }

    /// The call did what it should, or the job is over.
    fn worked(&mut self, sent: Sent, verdict: Verdict, status: Option<&JobStatus>, now: Timestamp) {
        self.works(sent, now);
        match verdict {
            Verdict::Accepted | Verdict::NotInForce => {
                self.acceptance = Acceptance::Untold;
                // A durable job is saved before its application is told.
                self.take_effect(sent, Effect { productive: true, critical: true, shifted_to: None });
            }
            Verdict::Acknowledged => self.acknowledged(sent, now),
            Verdict::AcknowledgedAbort(reason) => {
                self.acknowledged(sent, now);
                self.abort(reason);
            }
            Verdict::Abort(reason) => self.abort(reason),
            Verdict::Confirmed => self.confirmed(status),
            Verdict::Inferred => self.inferred(),
            Verdict::Canceled => self.close(Closed::Finished(Outcome::Canceled)),
            Verdict::Overruled(status) => self.close(Closed::Finished(Outcome::Overruled(status))),
            // A keep-alive that was taken has done its work by being a contact.
            _ => {}
        }
    }

    /// GitLab has answered, and calls of this kind work.
    fn works(&mut self, sent: Sent, now: Timestamp) {
        self.pacing.of(Lane::from(sent.intent)).worked();
        self.reached(sent, now);
        self.note_recovery();
    }

    /// GitLab has answered: the call worked, or the report was answered with 400 or 412.
    fn reached(&mut self, sent: Sent, now: Timestamp) {
        self.contact.answered(!sent.predates_check, self.config.keep_alive, now);
        if Lane::from(sent.intent) != Lane::Trace {
            self.delivery.note_other_answer();
        }
    }

    /// Notes it if no kind of call fails any more.
    fn note_recovery(&mut self) {
        if !self.pacing.is_failing() {
            self.contact.reach.recovered();
        }
    }

    fn take_effect(&mut self, sent: Sent, effect: Effect) {
        if effect.productive && sent.paid {
            self.pacing.budget.give_back();
        }
        if effect.critical {
            self.saving.change_critically();
        }
        if let Some(server_offset) = effect.shifted_to {
            self.events.push_back(JobEvent::TraceShifted { server_offset });
        }
    }

    fn acknowledged(&mut self, sent: Sent, now: Timestamp) {
        let effect = self.delivery.acknowledged(sent.intent, now);
        self.take_effect(sent, effect);
    }

    /// GitLab's log ends elsewhere than the patch began.
    fn resynchronise(&mut self, sent: Sent, size: u64, now: Timestamp) {
        let Some((begun, _)) = sent.intent.piece() else { return };
        if self.delivery.is_guessing() {
            return self.failed(sent, Cause::Status(StatusCode::RANGE_NOT_SATISFIABLE), None, now);
        }
        self.works(sent, now);
        let effect = self.delivery.resynchronise(begun, size, now);
        self.take_effect(sent, effect);
        if !effect.productive {
            let until = self.delivery.count_detour(self.config.retry_cap, now, &mut self.rng);
            self.pacing.trace.pause_until(until);
        }
    }

    fn too_large(&mut self, sent: Sent, told: Option<Duration>, now: Timestamp) {
        match sent.intent.piece() {
            Some((start, end)) if self.delivery.halve(end - start, now) => {
                self.pacing.trace.failed(self.config.retry_cap, told, now, &mut self.rng);
            }
            _ => self.failed(sent, Cause::Status(StatusCode::PAYLOAD_TOO_LARGE), told, now),
        }
    }

    fn ask_again(&mut self, sent: Sent, told: Option<Duration>, now: Timestamp) {
        self.works(sent, now);
        let Phase::Finishing(finishing) = &mut self.phase else { return };
        let productive = finishing.ask_again(told, now);
        let too_long = finishing.is_archiving_for_too_long(now);
        self.take_effect(sent, Effect { productive, ..Effect::default() });
        if too_long {
            self.drop_digest();
        }
    }

    /// GitLab says that checksum or size do not match (412).
    fn mismatched(&mut self, sent: Sent, told: Option<Duration>, now: Timestamp) {
        self.reached(sent, now);
        let Phase::Finishing(finishing) = &mut self.phase else { return };
        if finishing.mismatched() {
            self.delivery.send_again();
        } else {
            self.drop_digest();
        }
        self.pacing.report.failed(self.config.retry_cap, told, now, &mut self.rng);
    }

    /// The result is reported without a checksum from now on.
    pub(super) fn drop_digest(&mut self) {
        if let Phase::Finishing(finishing) = &mut self.phase
            && finishing.drop_digest()
        {
            self.saving.change_critically();
        }
    }

    /// What is missing of the log at GitLab is not sent any more.
    pub(super) fn give_log_up(&mut self) {
        self.delivery.give_up();
        self.drop_digest();
        // Nothing of that kind is sent any more, so that nothing of it fails.
        self.pacing.trace.worked();
        self.note_recovery();
    }

    fn confirmed(&mut self, status: Option<&JobStatus>) {
        let Phase::Finishing(finishing) = &self.phase else { return };
        // A server that does not name the status ends a job it is cancelling as cancelled, whatever is reported.
        let canceled = status.is_none_or(|status| !status.is_final()) && self.cancellation == Cancellation::Requested;
        let outcome = match finishing.result.state {
            _ if canceled => Outcome::Canceled,
            JobState::Success => Outcome::Success,
            JobState::Failed => Outcome::Failed,
        };
        self.close(Closed::Finished(outcome));
    }

    /// GitLab removes the token of a job soon after the job has ended. So its own 403 without a status, after a report that may have
    /// arrived, most likely means that it did.
    fn inferred(&mut self) {
        let Phase::Finishing(finishing) = &self.phase else { return };
        let status = match finishing.result.state {
            _ if self.cancellation == Cancellation::Requested => JobStatus::Canceled,
            JobState::Success => JobStatus::Success,
            JobState::Failed => JobStatus::Failed,
        };
        self.close(Closed::Finished(Outcome::Inferred(status)));
    }

    fn report_rejected(&mut self, sent: Sent, response: &Response<Bytes>, told: Option<Duration>, now: Timestamp) {
        self.reached(sent, now);
        let Phase::Finishing(finishing) = &mut self.phase else { return };
        if finishing.rejected(now) >= self.config.report_patience {
            let secret = self.assignment.spec().token.secret();
            let rejection = Rejection::new(response.status(), response.headers(), response.body(), secret);
            return self.close(Closed::Finished(Outcome::Refused(rejection)));
        }
        self.failed(sent, Cause::Status(response.status()), told, now);
    }

    fn request_cancel(&mut self) {
        if self.cancellation == Cancellation::None && !matches!(self.phase, Phase::Closed(_)) {
            self.cancellation = Cancellation::Requested;
            self.events.push_back(JobEvent::CancelRequested);
        }
    }

    fn abort(&mut self, reason: AbortReason) {
        self.cancellation = Cancellation::Aborted;
        self.close(Closed::Aborted(reason));
    }

    fn close(&mut self, closed: Closed) {
        if self.contact.reach.notice(self.clock.now()) == Notice::Recovered {
            self.contact.reach.told(self.clock.now());
            self.events.push_back(JobEvent::Recovered);
        }
        self.events.push_back(closed.event());
        self.phase = Phase::Closed(closed);
    }

    /// A call brought no answer, or one that is no use. Calls of its kind wait for their back-off; the other kinds go on. May end the job,
    /// see [`Job::end_if_out_of_patience`].
    ///
    /// If a piece of log may have arrived, the same range is sent again: GitLab stores it (202), or says in a 416 that it has it
    /// already, and the job goes on behind it.
    pub(super) fn failed(&mut self, sent: Sent, cause: Cause, told: Option<Duration>, now: Timestamp) {
        self.saving.change();
        if matches!(cause, Cause::Status(_)) && self.end_if_out_of_patience(now) {
            return;
        }
        let lane = Lane::from(sent.intent);
        if lane == Lane::Trace {
            self.delivery.failed(sent.intent, cause);
        }
        if let (Lane::Report, Phase::Finishing(finishing), Cause::Failure(failure)) = (lane, &mut self.phase, cause) {
            finishing.failed(failure);
        }
        self.pacing.of(lane).failed(self.config.retry_cap, told, now, &mut self.rng);
        self.contact.reach.failed(cause, now);
    }

    /// Ends the job if all answers were 404, or all were a 403 that GitLab may not have written, for as long as the settings allow.
    /// Returns whether it did.
    fn end_if_out_of_patience(&mut self, now: Timestamp) -> bool {
        let Some((kind, span)) = self.contact.nothing_but(now) else { return false };
        let patience = match kind {
            NothingBut::NotFound => self.config.not_found_patience,
            NothingBut::ForeignForbidden => self.config.forbidden_patience,
        };
        if span < patience {
            return false;
        }
        match (kind, &self.phase) {
            (NothingBut::NotFound, _) => self.abort(AbortReason::NotFound),
            (NothingBut::ForeignForbidden, Phase::Finishing(finishing)) if finishing.may_have_arrived => {
                self.close(Closed::Finished(Outcome::Unconfirmed));
            }
            (NothingBut::ForeignForbidden, _) => self.abort(AbortReason::Forbidden),
        }
        true
    }
}
