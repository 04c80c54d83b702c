//! How answers and failures move a job's state.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};

use super::pacing::{Lane, News, Progress};
use super::phase::{AbortReason, Acceptance, Cancellation, Closed, Outcome, Phase};
use super::rules::{self, Context, Intent, Verdict};
use super::trace::Location;
use super::{Job, JobEvent, LogRefused, NothingBut, Probe, Purpose, Sent};
use crate::error::Rejection;
use crate::headers;
use crate::reply::Cause;
use crate::status::{JobState, JobStatus};
use crate::time::Timestamp;

/// GitLab ends a job five minutes after its report, whether or not the log is archived by then. After twice that time the report
/// goes without a checksum, which GitLab completes at once.
const ARCHIVE_PATIENCE: Duration = Duration::from_secs(600);

/// The longest pause before a report that was taken is repeated: the last of the intervals that GitLab names.
pub(super) const ASK_AGAIN_CAP: Duration = Duration::from_secs(64);

/// After so many useless answers a probe is given up, and the log goes on where it would have gone on without one.
const PROBE_ATTEMPTS: u8 = 3;

impl Job {
    pub(super) fn answered(&mut self, sent: Sent, response: &Response<Bytes>, now: Timestamp) {
        self.revision += 1;
        let intent = sent.intent;
        let (status, headers) = (response.status(), response.headers());
        if let Some(interval) = headers::update_interval(headers) {
            self.interval = interval;
        }
        let job_status = headers::job_status(headers);
        let context = self.context(intent);
        let verdict = rules::verdict(intent, context, response);
        let told = headers::told_delay(headers, now);
        self.note_answer(intent, context, &verdict, response, now);
        match verdict {
            Verdict::Failed | Verdict::ForeignForbidden => self.failed(sent, Cause::Status(status), told, now),
            Verdict::Refused => self.refused(sent, response, told, now),
            Verdict::TooLarge => self.too_large(sent, told, now),
            Verdict::Mismatch => self.mismatch(sent, told, now),
            Verdict::Resync(size) => self.resynchronise(sent, size, now),
            Verdict::ProbeNext => {
                self.failed(sent, Cause::Status(status), told, now);
                self.probe = Some(Probe::new(Purpose::NextByte(self.trace.acknowledged() + 1)));
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
        let (start, end) = match intent {
            Intent::Patch { start, end } => (start, end),
            Intent::Probe { base } => (base, base),
            _ => (0, 0),
        };
        let (begun, end) = (self.trace.at_server(start), self.trace.at_server(end));
        Context { reported, report_may_have_arrived, begun, end, stalled: self.stalled }
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
        if self.nothing_but.map(|(kind, _)| kind) != nothing_but {
            self.nothing_but = nothing_but.map(|kind| (kind, now));
        }
        if Lane::from(intent) == Lane::Trace {
            let names_start = headers::stored_size(response.headers()) == Some(context.begun);
            self.stalled = status == StatusCode::RANGE_NOT_SATISFIABLE && names_start;
            let useless = matches!(verdict, Verdict::Failed | Verdict::ForeignForbidden | Verdict::TooLarge);
            if !useless || !is_refusal(status) {
                self.log_refused = None;
            } else {
                let refused = LogRefused { since: now, cause: Cause::Status(status), others_work: false };
                self.log_refused.get_or_insert_with(|| Box::new(refused));
            }
        }
        if let Phase::Finishing(finishing) = &mut self.phase {
            if status != StatusCode::BAD_REQUEST {
                finishing.refused_since = None;
            }
            if intent == Intent::Final {
                finishing.asked_again = false;
                finishing.may_have_arrived |=
                    status.is_success() || status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT;
            }
        }
    }

    /// The call did what it should, or the job is over.
    fn worked(&mut self, sent: Sent, verdict: Verdict, status: Option<&JobStatus>, now: Timestamp) {
        self.contact(sent, now);
        match verdict {
            Verdict::Accepted | Verdict::NotInForce => {
                self.give_back(sent);
                self.acceptance = Acceptance::Untold;
                if self.config.durable {
                    self.change_critically();
                }
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
    fn contact(&mut self, sent: Sent, now: Timestamp) {
        self.pacing.of(Lane::from(sent.intent)).worked();
        self.reached(sent, now);
        if !self.pacing.is_failing() {
            self.reach.recovered();
        }
    }

    /// GitLab has answered.
    fn reached(&mut self, sent: Sent, now: Timestamp) {
        self.last_contact = now;
        if let Some(refused) = &mut self.log_refused {
            refused.others_work |= Lane::from(sent.intent) != Lane::Trace;
        }
        if !sent.predates_check {
            self.check = None;
        }
    }

    /// The call achieved something, and costs nothing.
    fn give_back(&mut self, sent: Sent) {
        if sent.paid {
            self.pacing.budget.give_back();
        }
    }

    fn acknowledged(&mut self, sent: Sent, now: Timestamp) {
        (self.frozen, self.fate_unknown) = (None, false);
        let end = match sent.intent {
            Intent::Probe { base } => {
                let rewind = self.probe.take().is_some_and(|probe| probe.purpose == Purpose::Rewind);
                // A record of before the probe must not be taken up after what is sent now.
                self.change_critically();
                if rewind {
                    self.trace.rewind();
                    self.progress.lost_from(self.trace.acknowledged(), now);
                    self.trace_request.done();
                    return;
                }
                base
            }
            Intent::Patch { start, end } => {
                self.patch_size.taken(end - start);
                self.flush_at = now.saturating_add(self.interval);
                end
            }
            _ => return,
        };
        self.trace.acknowledge(end);
        if self.progress.reached(end) {
            self.give_back(sent);
        }
        self.trace_request.done();
    }

    /// GitLab's log ends elsewhere than the patch began.
    ///
    /// ```text
    ///            floor        acknowledged        sent     written
    ///  our log     |================|--------------|- - - - - |
    ///  GitLab's    |=========|                                      size within what was sent: go on there
    ///  GitLab's  |=|                                                size before the floor: our first known byte goes there
    ///  GitLab's    |=========|####|                                 size among foreign bytes: our next one goes there
    ///  GitLab's    |=======================================|        size beyond: somebody else wrote; ours goes behind
    /// ```
    fn resynchronise(&mut self, sent: Sent, size: u64, now: Timestamp) {
        let begun = match sent.intent {
            Intent::Patch { start, .. } => start,
            Intent::Probe { base } => base,
            _ => return,
        };
        if self.probe.is_some_and(|probe| matches!(probe.purpose, Purpose::NextByte(_))) {
            return self.failed(sent, Cause::Status(StatusCode::RANGE_NOT_SATISFIABLE), None, now);
        }
        self.contact(sent, now);
        let arrived = std::mem::take(&mut self.fate_unknown) || self.probe.is_some();
        if self.probe.take().is_some() {
            self.change_critically();
        }
        self.frozen = None;
        self.trace_request.done();
        let progress = match self.trace.locate(size) {
            Location::Within(offset) => {
                if self.trace.go_back_to(offset, size) {
                    // What is sent now lies elsewhere than a record of before says.
                    self.change_critically();
                }
                self.progress.lost_from(offset, now);
                self.progress.named(offset)
            }
            Location::Shifted(offset) => {
                self.shift(offset, size);
                false
            }
            // Somebody else's bytes are behind ours, or in place of a piece that certainly did not arrive.
            Location::Beyond => {
                self.shift(if arrived { self.trace.sent() } else { begun }, size);
                false
            }
        };
        if progress {
            self.give_back(sent);
        } else {
            let until = self.detours.count(self.config.retry_cap, now, &mut self.rng);
            self.pacing.trace.pause_until(until);
        }
    }

    fn shift(&mut self, offset: u64, server_offset: u64) {
        self.trace.shift_to(offset, server_offset);
        self.progress = Progress::starting(self.trace.acknowledged());
        self.events.push_back(JobEvent::TraceShifted { server_offset });
        self.change_critically();
    }

    fn too_large(&mut self, sent: Sent, told: Option<Duration>, now: Timestamp) {
        let cause = Cause::Status(StatusCode::PAYLOAD_TOO_LARGE);
        let Intent::Patch { start, end } = sent.intent else { return self.failed(sent, cause, told, now) };
        if !self.patch_size.refused(end - start, now) {
            return self.failed(sent, cause, told, now);
        }
        // Nothing of it was stored, so that the next piece may be another one.
        self.frozen = None;
        self.pacing.trace.failed(self.config.retry_cap, told, now, &mut self.rng);
    }

    fn ask_again(&mut self, sent: Sent, told: Option<Duration>, now: Timestamp) {
        self.contact(sent, now);
        let Phase::Finishing(finishing) = &mut self.phase else { return };
        let first = finishing.accepted_since.is_none();
        let since = *finishing.accepted_since.get_or_insert(now);
        // GitLab names 1, 2, 4 … 64 s, and at one moment `1/2`.
        let own = Duration::from_secs(1 << finishing.accepted.min(6));
        finishing.not_before = now.saturating_add(told.unwrap_or(own).min(ASK_AGAIN_CAP));
        finishing.accepted = finishing.accepted.saturating_add(1);
        finishing.asked_again = true;
        if first {
            self.give_back(sent);
        }
        if now.saturating_since(since) >= ARCHIVE_PATIENCE {
            self.drop_digest();
        }
    }

    /// GitLab says that checksum or size do not match (412). The first time, its log is written again from the start. After that
    /// the report goes without a checksum, since sending the same again would not help.
    fn mismatch(&mut self, sent: Sent, told: Option<Duration>, now: Timestamp) {
        self.reached(sent, now);
        let Phase::Finishing(finishing) = &mut self.phase else { return };
        finishing.mismatches = finishing.mismatches.saturating_add(1);
        if finishing.mismatches == 1 && !finishing.without_digest {
            self.probe = Some(Probe::new(Purpose::Rewind));
        } else {
            self.drop_digest();
        }
        self.pacing.report.failed(self.config.retry_cap, told, now, &mut self.rng);
    }

    pub(super) fn drop_digest(&mut self) {
        if let Phase::Finishing(finishing) = &mut self.phase
            && !finishing.without_digest
        {
            finishing.without_digest = true;
            self.change_critically();
        }
    }

    /// What is missing of the log at GitLab is not sent any more.
    pub(super) fn give_log_up(&mut self) {
        if let Phase::Finishing(finishing) = &mut self.phase {
            finishing.log_given_up = true;
            (self.probe, self.log_refused) = (None, None);
            self.drop_digest();
            // Nothing of that kind is sent any more, so that nothing of it fails.
            self.pacing.trace.worked();
            if !self.pacing.is_failing() {
                self.reach.recovered();
            }
        }
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

    fn refused(&mut self, sent: Sent, response: &Response<Bytes>, told: Option<Duration>, now: Timestamp) {
        self.reached(sent, now);
        let Phase::Finishing(finishing) = &mut self.phase else { return };
        let since = *finishing.refused_since.get_or_insert(now);
        if now.saturating_since(since) >= self.config.report_patience {
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
        if self.reach.news(self.clock.now()) == News::Recovered {
            self.reach.told(self.clock.now());
            self.events.push_back(JobEvent::Recovered);
        }
        self.events.push_back(closed.event());
        self.phase = Phase::Closed(closed);
    }

    /// The call came to nothing. Log and result wait.
    pub(super) fn failed(&mut self, sent: Sent, cause: Cause, told: Option<Duration>, now: Timestamp) {
        self.revision += 1;
        if matches!(cause, Cause::Status(_)) && self.is_out_of_patience(now) {
            return;
        }
        let lane = Lane::from(sent.intent);
        self.note_fate(sent.intent, cause);
        if lane == Lane::Trace && matches!(cause, Cause::Failure(_)) {
            // Nobody has refused anything.
            (self.log_refused, self.stalled) = (None, false);
        }
        if matches!(sent.intent, Intent::Probe { .. }) {
            self.note_useless_probe(cause);
        }
        self.pacing.of(lane).failed(self.config.retry_cap, told, now, &mut self.rng);
        self.reach.failed(cause, now);
    }

    /// Ends the job if nothing but 404, or nothing but a foreign 403, came back for very long.
    fn is_out_of_patience(&mut self, now: Timestamp) -> bool {
        let Some((kind, since)) = self.nothing_but else { return false };
        let patience = match kind {
            NothingBut::NotFound => self.config.not_found_patience,
            NothingBut::ForeignForbidden => self.config.forbidden_patience,
        };
        if now.saturating_since(since) < patience {
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

    /// Notes what may have arrived at GitLab although the call failed.
    fn note_fate(&mut self, intent: Intent, cause: Cause) {
        let certainly_refused = match cause {
            Cause::Failure(failure) => !failure.may_have_arrived(),
            Cause::Status(status) => status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT,
        };
        match (intent, &mut self.phase) {
            (Intent::Patch { .. }, _) => self.fate_unknown |= !certainly_refused,
            // Answers are noted where they come in: not every status that is no refusal comes from where the report went.
            (Intent::Final, Phase::Finishing(finishing)) if matches!(cause, Cause::Failure(_)) => {
                finishing.asked_again = false;
                finishing.may_have_arrived |= !certainly_refused;
            }
            _ => {}
        }
    }

    /// Gives a probe up that only gets answers which tell nothing.
    fn note_useless_probe(&mut self, cause: Cause) {
        let useless = matches!(cause, Cause::Status(status) if matches!(status.as_u16(), 400 | 405 | 411 | 413 | 416));
        let Some(probe) = &mut self.probe else { return };
        if matches!(probe.purpose, Purpose::NextByte(_)) {
            self.probe = None;
        } else if useless {
            probe.useless += 1;
            if probe.useless >= PROBE_ATTEMPTS {
                self.probe = None;
            }
        }
    }

    /// Marks a change that must be saved before anything else is sent.
    pub(super) fn change_critically(&mut self) {
        self.revision += 1;
        self.critical = self.revision;
    }
}

/// Whether a status refuses a piece of log, rather than asking to send it later or elsewhere.
fn is_refusal(status: StatusCode) -> bool {
    match status {
        StatusCode::REQUEST_TIMEOUT
        | StatusCode::CONFLICT
        | StatusCode::RANGE_NOT_SATISFIABLE
        | StatusCode::TOO_MANY_REQUESTS => false,
        status => !status.is_server_error() || status == StatusCode::NOT_IMPLEMENTED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_refuses_a_log_and_what_only_delays_it() {
        for status in [200, 204, 302, 400, 401, 403, 404, 405, 407, 413, 422, 501] {
            assert!(is_refusal(StatusCode::from_u16(status).unwrap()), "{status}");
        }
        for status in [408, 409, 416, 429, 500, 502, 503, 504] {
            assert!(!is_refusal(StatusCode::from_u16(status).unwrap()), "{status}");
        }
    }
}
