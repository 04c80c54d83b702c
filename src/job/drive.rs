//! What a job does next: the four verbs of a state machine, and the order in which things are due.

use std::collections::VecDeque;
use std::ops::Range;

use http::Response;

use super::pacing::{Lane, News};
use super::phase::{Acceptance, Closed, Phase};
use super::rules::Intent;
use super::{ASK_FOR_TRACE, ASK_TO_SAVE, Check, Job, JobEvent, LogRefused, Purpose, WaitReason};
use crate::call::{CallKind, Scope, Scopes, Ticket};
use crate::error::WrongMachine;
use crate::headers::TOLD_DELAY_CAP;
use crate::output::sealed::Sealed;
use crate::output::{Machine, Output};
use crate::reply::{Cause, Failure, Received};
use crate::time::Timestamp;

impl Sealed for Job {}

impl Machine for Job {
    type Event = JobEvent;

    fn poll(&mut self, now: Timestamp) -> Output<JobEvent> {
        let now = self.clock.advance(now);
        if self.abandoned || self.done {
            return Output::Done;
        }
        self.run_log();
        if let Phase::Finishing(finishing) = &mut self.phase {
            // `finish` is not told the time.
            finishing.since.get_or_insert(now);
        }
        if let Some(sent) = self.wire.take_overdue(now) {
            self.failed(sent, Cause::Failure(Failure::TimedOut), None, now);
        }
        if self.owes_acceptance() {
            if self.saved >= self.critical || !self.config.durable {
                self.acceptance = Acceptance::Told;
                self.revision += 1;
                return Output::Event(JobEvent::Accepted);
            }
            // What is queued is said after the acceptance, which waits to be saved.
        } else if let Some(event) = self.events.pop_front() {
            if self.events.is_empty() {
                // Events are rare, and jobs are many: room for four of them is half of what an idle job keeps besides.
                self.events = VecDeque::new();
            }
            return Output::Event(event);
        }
        if matches!(self.phase, Phase::Closed(_)) {
            self.done = true;
            return Output::Done;
        }
        match self.step(now) {
            Step::Send(intent) => Output::Send(self.send(intent, now)),
            Step::Tell(event) => Output::Event(self.tell(event, now)),
            Step::Wait(until, _) => Output::Wait(until),
        }
    }

    fn handle_received(
        &mut self,
        ticket: Ticket,
        response: Response<Received>,
        now: Timestamp,
    ) -> Result<(), WrongMachine> {
        if let (Some(sent), response) = self.wire.take(ticket, response)? {
            let now = self.clock.advance(now);
            self.answered(sent, &response.map(Received::into_bytes), now);
        }
        Ok(())
    }

    fn handle_failure(&mut self, ticket: Ticket, failure: Failure, now: Timestamp) -> Result<(), WrongMachine> {
        if let (Some(sent), failure) = self.wire.take(ticket, failure)? {
            let now = self.clock.advance(now);
            self.failed(sent, Cause::Failure(failure), None, now);
        }
        Ok(())
    }

    fn hold_until(&mut self, scope: Scope, until: Timestamp) {
        let until = self.clock.at_most(until, TOLD_DELAY_CAP);
        match scope.kind {
            CallKind::PatchTrace => self.pacing.trace.hold_until(until),
            CallKind::UpdateJob => {
                self.pacing.keep_alive.hold_until(until);
                self.pacing.report.hold_until(until);
            }
            _ => {}
        }
    }

    fn scopes(&self) -> Scopes {
        Scopes::new(self.wire.owner(), CallKind::PatchTrace, Some(CallKind::UpdateJob))
    }
}

/// What the state calls for.
pub(super) enum Step {
    Send(Intent),
    Tell(JobEvent),
    Wait(Option<Timestamp>, WaitReason),
}

/// The nearest deadline, and what it is for.
pub(super) struct Soonest(Option<Timestamp>, WaitReason);

impl Soonest {
    fn at(&mut self, time: Timestamp, reason: WaitReason) {
        if self.0.is_none_or(|soonest| time < soonest) {
            *self = Self(Some(time), reason);
        }
    }

    /// Whether this time has come. If not, it is waited for.
    fn has_come(&mut self, time: Timestamp, now: Timestamp, reason: WaitReason) -> bool {
        if now < time {
            self.at(time, reason);
        }
        now >= time
    }
}

impl From<Soonest> for Step {
    fn from(Soonest(until, reason): Soonest) -> Self {
        Self::Wait(until, reason)
    }
}

impl Job {
    /// What the state calls for. Changes nothing, so that asking too early or too often is harmless.
    ///
    /// The order: what needs no call; then the acceptance, before which nothing else is sent; then the report, once the log is
    /// delivered; then the log, and a keep-alive or a check that is due. If the log cannot be sent, the keep-alive comes first, so
    /// that the job becomes neither silent nor deaf to a cancellation.
    pub(super) fn step(&self, now: Timestamp) -> Step {
        let mut soonest = Soonest(None, WaitReason::Application);
        if let Some(step) = self.event_step(now, &mut soonest) {
            return step;
        }
        if let Some(overdue_at) = self.wire.overdue_at() {
            soonest.at(overdue_at, WaitReason::Answer);
            return soonest.into();
        }
        if self.acceptance == Acceptance::Pending {
            return self.send_step(Intent::Accept, now, &mut soonest).unwrap_or_else(|| soonest.into());
        }
        let step = match (self.is_log_delivered(), &self.phase) {
            (true, Phase::Running) => self.keep_alive_step(now, &mut soonest),
            (true, _) => self.report_step(now, &mut soonest),
            // A piece of log that goes out is heard of by GitLab as well, unless pieces are just what fails.
            (false, _) if self.pacing.trace.is_failing() => {
                self.keep_alive_step(now, &mut soonest).or_else(|| self.trace_step(now, &mut soonest))
            }
            (false, _) => self.trace_step(now, &mut soonest).or_else(|| self.keep_alive_step(now, &mut soonest)),
        };
        step.unwrap_or_else(|| soonest.into())
    }

    /// Whether the application is still to be told that the job is accepted. One that has its result starts no script any more.
    fn owes_acceptance(&self) -> bool {
        self.acceptance == Acceptance::Untold && self.phase == Phase::Running
    }

    /// What is to be told, whether or not anything can be sent.
    fn event_step(&self, now: Timestamp, soonest: &mut Soonest) -> Option<Step> {
        if self.phase == Phase::Running && !self.timed_out && soonest.has_come(self.deadline, now, WaitReason::Timeout)
        {
            return Some(Step::Tell(JobEvent::TimedOut));
        }
        match self.reach.news(now) {
            News::Unreachable(cause, since) => return Some(Step::Tell(JobEvent::Unreachable { cause, since })),
            News::Recovered => return Some(Step::Tell(JobEvent::Recovered)),
            News::NotBefore(at) => soonest.at(at, WaitReason::Backoff),
            News::None => {}
        }
        if let Some(due_at) = self.save_due()
            && soonest.has_come(due_at, now, WaitReason::Save)
            && let Some(step) = self.save_step(now, soonest)
        {
            return Some(step);
        }
        self.give_up_step(now, soonest)
    }

    /// Whether this call achieves something whatever its answer is, so that it costs nothing of the budget.
    pub(super) fn is_free(&self, intent: Intent, now: Timestamp) -> bool {
        match intent {
            Intent::Accept => self.pacing.keep_alive_is_free(self.config.keep_alive, now),
            Intent::Heartbeat => {
                self.pacing.keep_alive_is_free(self.config.keep_alive, now) || self.check == Some(Check::Due)
            }
            // GitLab asked for the report to be repeated, and said when.
            Intent::Final => matches!(&self.phase, Phase::Finishing(finishing) if finishing.asked_again),
            Intent::Probe { .. } | Intent::Patch { .. } => false,
        }
    }

    /// Sends this, unless calls of its kind have to wait, or nothing is left of the budget.
    fn send_step(&self, intent: Intent, now: Timestamp, soonest: &mut Soonest) -> Option<Step> {
        let mut pacing = self.pacing;
        let open_at = pacing.of(Lane::from(intent)).open_at();
        let paid_at = if self.is_free(intent, now) { Timestamp::EPOCH } else { pacing.budget.open_at() };
        soonest.has_come(open_at.max(paid_at), now, WaitReason::Backoff).then_some(Step::Send(intent))
    }

    /// Whether nothing is to be sent any more of the log that there is.
    fn is_log_delivered(&self) -> bool {
        self.probe.is_none() && !self.owes_log()
    }

    /// The report, if it is its turn.
    fn report_step(&self, now: Timestamp, soonest: &mut Soonest) -> Option<Step> {
        let Phase::Finishing(finishing) = &self.phase else { return None };
        if self.config.durable && self.saved < self.critical {
            return self.save_step(now, soonest);
        }
        if !soonest.has_come(finishing.not_before, now, WaitReason::Archive) {
            return None;
        }
        self.send_step(Intent::Final, now, soonest)
    }

    /// A keep-alive after a silence, or a check that the application asked for.
    ///
    /// The silence counts from the last answer that was GitLab's. Failed calls do not count, and neither do those of other kinds
    /// that are refused: a log that is refused each second would make the job deaf to its cancellation.
    fn keep_alive_step(&self, now: Timestamp, soonest: &mut Soonest) -> Option<Step> {
        let silent_at = self.last_contact.saturating_add(self.config.keep_alive);
        if self.is_checking_in() || soonest.has_come(silent_at, now, WaitReason::KeepAlive) {
            return self.send_step(Intent::Heartbeat, now, soonest);
        }
        None
    }

    /// The next piece of log, or what stands in its way.
    fn trace_step(&self, now: Timestamp, soonest: &mut Soonest) -> Option<Step> {
        if let Some(probe) = self.probe {
            let base = match probe.purpose {
                Purpose::GoOn | Purpose::Rewind => self.trace.sent(),
                Purpose::NextByte(offset) => offset,
            };
            return self.send_step(Intent::Probe { base }, now, soonest);
        }
        if !self.owes_log() {
            return None;
        }
        if let Some(range) = self.trace.missing(self.patch_size.limit()) {
            if let Some(at) = self.trace_request.not_before(now) {
                soonest.at(at, WaitReason::Trace);
                return None;
            }
            return Some(Step::Tell(JobEvent::TraceNeeded(range)));
        }
        let full = self.trace.unsent() >= self.patch_size.now(now);
        let waits = !full && self.phase == Phase::Running;
        if waits && !soonest.has_come(self.flush_at, now, WaitReason::Interval) {
            return None;
        }
        let range = self.next_piece(now);
        if range.is_empty() || (self.config.durable && self.saved < self.critical) {
            return self.save_step(now, soonest);
        }
        self.send_step(Intent::Patch { start: range.start, end: range.end }, now, soonest)
    }

    /// When the job is to be saved although nothing may be sent: a result at once, and what was written after a while.
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
        match self.save_request.not_before(now) {
            Some(again_at) => {
                soonest.at(again_at, WaitReason::Save);
                None
            }
            None => Some(Step::Tell(JobEvent::Save)),
        }
    }

    /// Gives the rest of the log up, once it was refused for long enough after the end while other calls work.
    ///
    /// Otherwise a front end that forbids `PATCH` would hold the result back for ever, although GitLab would take it.
    fn give_up_step(&self, now: Timestamp, soonest: &mut Soonest) -> Option<Step> {
        let (Phase::Finishing(finishing), Some(refused)) = (&self.phase, &self.log_refused) else { return None };
        let LogRefused { since, cause, others_work } = **refused;
        let others_work = others_work && !self.pacing.keep_alive.is_failing();
        if self.is_log_delivered() || !others_work || self.wire.intent().is_some() {
            return None;
        }
        let at = since.max(finishing.since.unwrap_or(now)).saturating_add(self.config.log_patience);
        let missing = self.trace.acknowledged()..self.trace.written();
        soonest.has_come(at, now, WaitReason::Backoff).then_some(Step::Tell(JobEvent::TraceRefused { missing, cause }))
    }

    /// The range of the next piece. One that may have arrived is repeated as it was.
    fn next_piece(&self, now: Timestamp) -> Range<u64> {
        let limit =
            self.frozen.map_or_else(|| self.patch_size.now(now), |end| end.saturating_sub(self.trace.acknowledged()));
        self.trace.next(limit)
    }

    /// Notes that an event of [`Job::step`] is told.
    fn tell(&mut self, event: JobEvent, now: Timestamp) -> JobEvent {
        match &event {
            JobEvent::TimedOut => {
                self.timed_out = true;
                self.revision += 1;
            }
            JobEvent::TraceNeeded(_) => self.trace_request.ask_again(ASK_FOR_TRACE, now, &mut self.rng),
            JobEvent::Save => self.save_request.ask_again(ASK_TO_SAVE, now, &mut self.rng),
            JobEvent::Unreachable { .. } | JobEvent::Recovered => {
                self.reach.told(now);
                // Where GitLab keeps losing the log, each call comes with a `TraceNeeded`. These events are counted with the
                // calls, so that the events of a minute are no more than its calls may be.
                self.pacing.budget.spend(now);
            }
            JobEvent::TraceRefused { .. } => self.give_log_up(),
            _ => {}
        }
        event
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
