//! The four verbs: what the state calls for next, and how answers move it.

use super::{
    ARCHIVE_PATIENCE, ASK_AGAIN_CAP, AbortReason, Bytes, Call, CallKind, Cancellation, Cause, Closed, Context,
    CorrelationId, Duration, Endpoint, Failure, FailureReason, Intent, Job, JobEvent, JobResult, JobState, JobStatus,
    Location, LogDigest, Machine, Misuse, Outcome, Output, PROBE_ATTEMPTS, PatchTrace, Phase, Policy, Probe,
    REFUSAL_PATIENCE, Range, Received, Rejection, Response, Scope, Sealed, Step, TOLD_DELAY_CAP, Ticket, Timestamp,
    UpdateJob, Verdict, WaitReason, headers, rules,
};

impl Sealed for Job {}

impl Machine for Job {
    type Event = JobEvent;

    fn poll(&mut self, now: Timestamp) -> Output<JobEvent> {
        let now = self.clock.advance(now);
        if self.abandoned {
            return Output::Done;
        }
        if let Some(intent) = self.wire.take_overdue(now) {
            self.failed(intent, Cause::Failure(Failure::TimedOut), None, now);
        }
        if let Some(event) = self.events.pop_front() {
            return Output::Event(event);
        }
        if matches!(self.phase, Phase::Closed(_)) {
            return Output::Done;
        }
        match self.step(now) {
            Step::Send(intent) => Output::Send(self.send(intent, now)),
            Step::Tell(event) => Output::Event(self.tell(event, now)),
            Step::Wait(until, _) => Output::Wait(until),
        }
    }

    fn handle_response(
        &mut self,
        ticket: Ticket,
        response: Response<impl Into<Received>>,
        now: Timestamp,
    ) -> Result<(), Misuse> {
        let intent = self.wire.take(&ticket)?;
        let now = self.clock.advance(now);
        self.answered(intent, &response.map(|body| body.into().into_bytes()), now);
        Ok(())
    }

    fn handle_failure(&mut self, ticket: Ticket, failure: Failure, now: Timestamp) -> Result<(), Misuse> {
        let intent = self.wire.take(&ticket)?;
        let now = self.clock.advance(now);
        self.failed(intent, Cause::Failure(failure), None, now);
        Ok(())
    }

    fn hold_until(&mut self, until: Timestamp) {
        self.hold = self.clock.at_most(until, TOLD_DELAY_CAP);
    }

    fn scope(&self) -> Scope {
        let patches = self.accepted && self.trace.unsent() > 0;
        let kind = if patches { CallKind::PatchTrace } else { CallKind::UpdateJob };
        Scope { owner: self.wire.owner(), kind }
    }
}

/// The nearest deadline, and what it is for.
struct Soonest(Option<Timestamp>, WaitReason);

impl Soonest {
    fn at(&mut self, time: Timestamp, reason: WaitReason) {
        if self.0.is_none_or(|soonest| time < soonest) {
            *self = Self(Some(time), reason);
        }
    }
}

impl From<Soonest> for Step {
    fn from(Soonest(until, reason): Soonest) -> Self {
        Self::Wait(until, reason)
    }
}

impl Job {
    /// What the state calls for. Changes nothing, so that asking too early or too often is harmless.
    pub(super) fn step(&self, now: Timestamp) -> Step {
        let mut soonest = Soonest(None, WaitReason::Application);
        if self.phase == Phase::Running && !self.timed_out {
            if now >= self.deadline {
                return Step::Tell(JobEvent::TimedOut);
            }
            soonest.at(self.deadline, WaitReason::Timeout);
        }
        // Whether or not anything can be sent.
        match self.save_due() {
            Some(due_at) if now < due_at => soonest.at(due_at, WaitReason::Save),
            Some(_) => {
                if let Some(step) = self.save_step(now, &mut soonest) {
                    return step;
                }
            }
            None => {}
        }
        if let Some(overdue_at) = self.wire.overdue_at() {
            soonest.at(overdue_at, WaitReason::Answer);
            return soonest.into();
        }
        let open_at = self.retry_at.max(self.hold);
        if now < open_at {
            soonest.at(open_at, WaitReason::Backoff);
            return soonest.into();
        }
        if self.doubted {
            return Step::Send(Intent::Heartbeat);
        }
        if !self.accepted {
            return Step::Send(Intent::Accept);
        }
        if let Some(step) = self.report_step(now, &mut soonest).or_else(|| self.trace_step(now, &mut soonest)) {
            return step;
        }
        let silent_at = self.last_contact.saturating_add(self.config.keep_alive);
        if now >= silent_at || (self.check_wanted && self.phase == Phase::Running) {
            return Step::Send(Intent::Heartbeat);
        }
        soonest.at(silent_at, WaitReason::KeepAlive);
        soonest.into()
    }

    /// The report, if it is its turn.
    fn report_step(&self, now: Timestamp, soonest: &mut Soonest) -> Option<Step> {
        let Phase::Finishing(finishing) = &self.phase else { return None };
        if self.probe.is_some() || self.trace.unsent() > 0 {
            return None;
        }
        if self.config.durable && self.saved < self.critical {
            return self.save_step(now, soonest);
        }
        if now >= finishing.not_before {
            return Some(Step::Send(Intent::Final));
        }
        soonest.at(finishing.not_before, WaitReason::Archive);
        Some(Step::Wait(soonest.0, soonest.1))
    }

    /// The next piece of log, or what stands in its way.
    fn trace_step(&self, now: Timestamp, soonest: &mut Soonest) -> Option<Step> {
        if self.probe.is_some() {
            return Some(Step::Send(Intent::Probe { base: self.trace.sent() }));
        }
        if self.trace.unsent() == 0 {
            return None;
        }
        if let Some(range) = self.trace.missing(self.patch_limit) {
            soonest.1 = if soonest.0.is_none() { WaitReason::Trace } else { soonest.1 };
            return (!self.trace_asked).then_some(Step::Tell(JobEvent::TraceNeeded(range)));
        }
        let full = self.trace.unsent() >= self.patch_limit;
        if !full && self.phase == Phase::Running && now < self.flush_at {
            soonest.at(self.flush_at, WaitReason::Interval);
            return None;
        }
        let range = self.next_piece();
        if range.is_empty() || (self.config.durable && self.saved < self.critical) {
            return self.save_step(now, soonest);
        }
        Some(Step::Send(Intent::Patch { start: range.start, end: range.end }))
    }

    /// When it is to be saved though nothing may be sent: a result at once, what was written after a while.
    fn save_due(&self) -> Option<Timestamp> {
        if !self.config.durable {
            return None;
        }
        let written = self.trace.saved() < self.trace.written();
        let after_a_while = || self.saved_at.saturating_add(self.config.keep_alive);
        if self.saved < self.critical { Some(Timestamp::EPOCH) } else { written.then(after_a_while) }
    }

    /// Asks to be saved; again after a while, since the application may have failed to.
    fn save_step(&self, now: Timestamp, soonest: &mut Soonest) -> Option<Step> {
        let again_at = self.save_asked.map(|asked| asked.saturating_add(self.config.update_interval));
        match again_at {
            Some(again_at) if now < again_at => {
                soonest.at(again_at, WaitReason::Save);
                None
            }
            _ => Some(Step::Tell(JobEvent::Save)),
        }
    }

    /// The range of the next piece. One whose fate is unknown is repeated as it was.
    fn next_piece(&self) -> Range<u64> {
        let limit = self.frozen.map_or(self.patch_limit, |end| end.saturating_sub(self.trace.acknowledged()));
        self.trace.next(limit)
    }

    fn tell(&mut self, event: JobEvent, now: Timestamp) -> JobEvent {
        match &event {
            JobEvent::TimedOut => {
                self.timed_out = true;
                self.revision += 1;
            }
            JobEvent::TraceNeeded(_) => self.trace_asked = true,
            JobEvent::Save => self.save_asked = Some(now),
            _ => {}
        }
        event
    }

    fn send(&mut self, intent: Intent, now: Timestamp) -> Call {
        self.revision += 1;
        match intent {
            Intent::Accept | Intent::Heartbeat => self.call(intent, &UpdateJob::running(self.id(), self.token()), now),
            Intent::Probe { base } => {
                let probe = PatchTrace::new(self.id(), self.token(), self.trace.at_server(base), Bytes::new());
                self.call(intent, &probe, now)
            }
            Intent::Patch { start, end } => {
                self.frozen = Some(end);
                let (content, at) = (self.trace.send(start..end), self.trace.at_server(start));
                let patch = PatchTrace::new(self.id(), self.token(), at, content);
                self.call(intent, &patch.with_debug_trace(self.spec().is_debug_trace()), now)
            }
            Intent::Final => {
                let report = self.report();
                self.call(intent, &report, now)
            }
        }
    }

    fn token(&self) -> crate::secret::JobToken {
        self.spec().token.clone()
    }

    fn call(&mut self, intent: Intent, endpoint: &impl Endpoint, now: Timestamp) -> Call {
        let id = CorrelationId::draw(&mut self.rng);
        let mut request = endpoint.request(&self.config.server, id);
        request.headers_mut().insert(http::header::USER_AGENT, self.config.user_agent.clone());
        self.wire.send(intent, request, endpoint.hints(), now)
    }

    /// The report, the same each time but for a checksum that may be dropped.
    fn report(&mut self) -> UpdateJob {
        let digest = LogDigest::new(self.trace.crc(), self.trace.written());
        let intact = self.trace.shift() == 0;
        let (id, token) = (self.id(), self.token());
        let Phase::Finishing(finishing) = &mut self.phase else { return UpdateJob::running(id, token) };
        finishing.sent = true;
        let JobResult { state, reason, exit_code } = finishing.result.clone();
        let report = match state {
            JobState::Success => UpdateJob::success(id, token),
            JobState::Failed => {
                UpdateJob::failed(id, token, reason.unwrap_or(FailureReason::UnknownFailure), exit_code)
            }
        };
        if finishing.without_digest || !intact {
            return report;
        }
        report.with_digest(*finishing.digest.get_or_insert(digest))
    }

    fn answered(&mut self, intent: Intent, response: &Response<Bytes>, now: Timestamp) {
        self.revision += 1;
        let headers = response.headers();
        if let Some(interval) = headers::update_interval(headers) {
            self.interval = interval;
        }
        let status = headers::job_status(headers);
        let verdict = rules::verdict(intent, self.context(), response);
        let told = headers::told_delay(headers, now);
        if response.status() != http::StatusCode::NOT_FOUND {
            self.not_found_since = None;
        }
        if response.status() != http::StatusCode::BAD_REQUEST
            && let Phase::Finishing(finishing) = &mut self.phase
        {
            finishing.refused_since = None;
        }
        match verdict {
            Verdict::Failed => self.failed(intent, Cause::Status(response.status()), told, now),
            Verdict::Refused => self.refused(intent, response, told, now),
            Verdict::Doubt => {
                self.doubted = true;
                self.failed(intent, Cause::Status(response.status()), told, now);
            }
            Verdict::TooLarge => self.halve(intent, told, now),
            Verdict::Resync(size) => self.resynchronise(intent, size, now),
            Verdict::AskAgain => self.ask_again(headers::update_interval(headers), now),
            verdict => self.worked(intent, verdict, status.as_ref(), now),
        }
        if status == Some(JobStatus::Canceling) {
            self.request_cancel();
        }
    }

    fn context(&self) -> Context {
        let reported = match &self.phase {
            Phase::Finishing(finishing) if finishing.sent => Some(finishing.result.state),
            _ => None,
        };
        Context { reported, doubted: self.doubted }
    }

    /// The call did what it should, or the job is over.
    fn worked(&mut self, intent: Intent, verdict: Verdict, status: Option<&JobStatus>, now: Timestamp) {
        self.contact(now);
        match verdict {
            Verdict::Accepted => {
                self.accepted = true;
                self.events.push_back(JobEvent::Accepted);
            }
            Verdict::Acknowledged => self.acknowledged(intent, now),
            Verdict::AcknowledgedAbort(reason) => {
                self.acknowledged(intent, now);
                self.abort(reason);
            }
            Verdict::Abort(reason) => self.abort(reason),
            Verdict::Mismatch => self.mismatch(),
            Verdict::Confirmed => self.confirmed(status),
            Verdict::Canceled => self.close(Closed::Finished(Outcome::Canceled)),
            Verdict::Overruled(status) => self.close(Closed::Finished(Outcome::Overruled(status))),
            // A keep-alive that was taken has done its work by being a contact.
            _ => {}
        }
    }

    fn contact(&mut self, now: Timestamp) {
        self.last_contact = now;
        (self.doubted, self.check_wanted) = (false, false);
        self.backoff.succeeded();
        self.retry_at = Timestamp::EPOCH;
        if std::mem::take(&mut self.unreachable) {
            self.events.push_back(JobEvent::Recovered);
        }
    }

    fn acknowledged(&mut self, intent: Intent, now: Timestamp) {
        (self.frozen, self.fate_unknown) = (None, false);
        match intent {
            Intent::Probe { base } => {
                let rewind = self.probe.take().is_some_and(|probe| probe.then_rewind);
                self.trace.acknowledge(if rewind { self.trace.floor() } else { base });
                // A record of before the probe must not be taken up after what comes now.
                self.change_critically();
            }
            Intent::Patch { end, .. } => {
                self.detours.succeeded();
                self.trace.acknowledge(end);
                self.flush_at = now.saturating_add(self.interval);
            }
            _ => {}
        }
        self.trace_asked = false;
    }

    /// GitLab's log ends elsewhere than the patch began.
    fn resynchronise(&mut self, intent: Intent, size: u64, now: Timestamp) {
        let begun = match intent {
            Intent::Patch { start, .. } => start,
            Intent::Probe { base } => base,
            _ => return,
        };
        if size == self.trace.at_server(begun) {
            return self.failed(intent, Cause::Status(http::StatusCode::RANGE_NOT_SATISFIABLE), None, now);
        }
        self.contact(now);
        // The first is followed at once. Servers that send us to and fro are not to be hammered.
        if !self.detours.is_first() {
            self.retry_at = now.saturating_add(self.detours.failed(Policy::CALL, None, &mut self.rng));
        }
        let arrived = std::mem::take(&mut self.fate_unknown) || self.probe.is_some();
        if self.probe.take().is_some() {
            self.change_critically();
        }
        (self.frozen, self.trace_asked) = (None, false);
        match self.trace.locate(size) {
            Location::Within(offset) => self.trace.acknowledge(offset),
            Location::Before => self.shift(self.trace.floor(), size),
            // Somebody else's bytes are behind ours, or in place of a piece that certainly did not arrive.
            Location::Beyond => self.shift(if arrived { self.trace.sent() } else { begun }, size),
        }
    }

    fn shift(&mut self, offset: u64, server_offset: u64) {
        self.trace.shift_to(offset, server_offset);
        self.events.push_back(JobEvent::TraceShifted { server_offset });
        self.change_critically();
    }

    fn halve(&mut self, intent: Intent, told: Option<Duration>, now: Timestamp) {
        match intent {
            Intent::Patch { start, end } if end - start > 1 => {
                self.patch_limit = (end - start) / 2;
                self.frozen = None;
            }
            intent => self.failed(intent, Cause::Status(http::StatusCode::PAYLOAD_TOO_LARGE), told, now),
        }
    }

    fn ask_again(&mut self, told: Option<Duration>, now: Timestamp) {
        self.contact(now);
        let Phase::Finishing(finishing) = &mut self.phase else { return };
        let since = *finishing.accepted_since.get_or_insert(now);
        // GitLab names 1, 2, 4 … 64 s, and at one moment `1/2`.
        let own = Duration::from_secs(1 << finishing.accepted.min(6));
        finishing.not_before = now.saturating_add(told.unwrap_or(own).min(ASK_AGAIN_CAP));
        finishing.accepted = finishing.accepted.saturating_add(1);
        if now.saturating_since(since) >= ARCHIVE_PATIENCE {
            self.drop_digest();
        }
    }

    fn mismatch(&mut self) {
        let Phase::Finishing(finishing) = &mut self.phase else { return };
        finishing.mismatches = finishing.mismatches.saturating_add(1);
        let first = finishing.mismatches == 1 && !finishing.without_digest;
        if first {
            self.probe = Some(Probe { useless: 0, then_rewind: true });
        } else {
            self.drop_digest();
        }
    }

    pub(super) fn drop_digest(&mut self) {
        if let Phase::Finishing(finishing) = &mut self.phase
            && !finishing.without_digest
        {
            finishing.without_digest = true;
            self.change_critically();
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

    fn refused(&mut self, intent: Intent, response: &Response<Bytes>, told: Option<Duration>, now: Timestamp) {
        let Phase::Finishing(finishing) = &mut self.phase else { return };
        let since = *finishing.refused_since.get_or_insert(now);
        if now.saturating_since(since) >= REFUSAL_PATIENCE {
            let secret = self.assignment.spec().token.secret();
            let rejection = Rejection::new(response.status(), response.headers(), response.body(), secret);
            return self.close(Closed::Finished(Outcome::Refused(rejection)));
        }
        self.failed(intent, Cause::Status(response.status()), told, now);
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
        self.events.push_back(closed.event());
        self.phase = Phase::Closed(closed);
    }

    /// The call came to nothing. Log and result wait.
    fn failed(&mut self, intent: Intent, cause: Cause, told: Option<Duration>, now: Timestamp) {
        self.revision += 1;
        if cause == Cause::Status(http::StatusCode::NOT_FOUND) {
            let since = *self.not_found_since.get_or_insert(now);
            if now.saturating_since(since) >= self.config.not_found_patience {
                return self.abort(AbortReason::NotFound);
            }
        }
        let refused = match cause {
            Cause::Failure(failure) => !failure.may_have_arrived(),
            Cause::Status(status) => status.is_client_error() && status != http::StatusCode::REQUEST_TIMEOUT,
        };
        self.fate_unknown |= matches!(intent, Intent::Patch { .. }) && !refused;
        let useless = matches!(cause, Cause::Status(status) if matches!(status.as_u16(), 400 | 405 | 411 | 413 | 416));
        if useless
            && matches!(intent, Intent::Probe { .. })
            && let Some(probe) = &mut self.probe
        {
            probe.useless += 1;
            if probe.useless >= PROBE_ATTEMPTS {
                self.probe = None;
            }
        }
        self.retry_at = now.saturating_add(self.backoff.failed(Policy::CALL, told, &mut self.rng));
        if !std::mem::replace(&mut self.unreachable, true) {
            self.events.push_back(JobEvent::Unreachable { cause, since: now });
        }
    }

    /// Marks a change that must be saved before anything else is sent.
    pub(super) fn change_critically(&mut self) {
        self.revision += 1;
        self.critical = self.revision;
    }
}

impl Closed {
    pub(super) fn event(&self) -> JobEvent {
        match self {
            Self::Finished(outcome) => JobEvent::Finished(outcome.clone()),
            Self::Aborted(reason) => JobEvent::Aborted(*reason),
        }
    }
}
