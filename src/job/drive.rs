//! What a job does next: the verbs of a state machine, and the order in which things are due.

use std::collections::VecDeque;

use http::Response;

use super::Job;
use super::contact::Notice;
use super::deadlines::{Soonest, Step, WaitReason};
use super::delivery::{Due, Refusal};
use super::event::JobEvent;
use super::finishing::Finishing;
use super::pacing::Lane;
use super::phase::{Acceptance, Driving, Phase};
use super::rules::Intent;
use crate::call::{CallKind, Scope, Scopes, Ticket, WrongMachine};
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
        if self.driving != Driving::Open {
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
        if let Some(event) = self.next_event() {
            return Output::Event(event);
        }
        if let Phase::Closed(_) = self.phase {
            self.driving = Driving::Done;
            return Output::Done;
        }
        match self.step(now) {
            Step::Send(intent) => Output::Send(self.send(intent, now)),
            Step::Tell(event) => Output::Event(self.tell(event, now)),
            Step::Wait(soonest) => Output::Wait(soonest.time()),
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

impl Job {
    /// The next event that waits to be told. What is wrong with the payload comes first, then the acceptance, once the job is saved;
    /// what else waits is told behind it. A job that has its result starts no script any more, and is not told that it may.
    fn next_event(&mut self) -> Option<JobEvent> {
        let accepts = self.acceptance == Acceptance::Untold && self.phase == Phase::Running;
        if accepts && !self.events.front().is_some_and(JobEvent::is_about_payload) {
            if self.saving.holds_back() {
                return None;
            }
            self.acceptance = Acceptance::Told;
            self.saving.change();
            return Some(JobEvent::Accepted);
        }
        let event = self.events.pop_front()?;
        if self.events.is_empty() {
            // Frees the queue: events are rare, there may be thousands of jobs, and its first four places take half as much memory as the
            // rest of an idle job.
            self.events = VecDeque::new();
        }
        Some(event)
    }

    /// What the state calls for. Changes nothing, so that asking too early or too often is harmless.
    ///
    /// The order: what needs no call; then the acceptance, before which nothing else is sent; then the report, once the log is
    /// delivered; then the log, and a keep-alive or a check that is due. If the log cannot be sent, the keep-alive comes first, so
    /// that the job becomes neither silent nor deaf to a cancellation.
    ///
    /// Inlined with what it always calls, because a driver polls far more often than anything is due: this is a quarter of what
    /// such a poll costs.
    #[inline(always)]
    pub(super) fn step(&self, now: Timestamp) -> Step {
        let mut soonest = Soonest::default();
        if let Some(event) = self.due_event(now, &mut soonest) {
            return Step::Tell(event);
        }
        if let Some(overdue_at) = self.wire.overdue_at() {
            soonest.at(overdue_at, WaitReason::Answer);
            return Step::Wait(soonest);
        }
        let step = match (self.delivery.is_complete(), &self.phase) {
            _ if self.acceptance == Acceptance::Pending => self.send_step(Intent::Accept, now, &mut soonest),
            (true, Phase::Running) => self.keep_alive_step(now, &mut soonest),
            (true, _) => self.report_step(now, &mut soonest),
            // A piece of log that goes out is heard of by GitLab as well, unless pieces are just what fails.
            (false, _) if self.pacing.trace.is_failing() => {
                self.keep_alive_step(now, &mut soonest).or_else(|| self.log_step(now, &mut soonest))
            }
            (false, _) => self.log_step(now, &mut soonest).or_else(|| self.keep_alive_step(now, &mut soonest)),
        };
        step.unwrap_or(Step::Wait(soonest))
    }

    /// What is to be told, whether or not anything can be sent.
    #[inline(always)]
    fn due_event(&self, now: Timestamp, soonest: &mut Soonest) -> Option<JobEvent> {
        let times_out = self.phase == Phase::Running && !self.timeout.told;
        if times_out && soonest.has_come(self.timeout.at, now, WaitReason::Timeout) {
            return Some(JobEvent::TimedOut);
        }
        match self.contact.reach.notice(now) {
            Notice::Unreachable(cause, since) => return Some(JobEvent::Unreachable { cause, since }),
            Notice::Recovered => return Some(JobEvent::Recovered),
            Notice::NotBefore(at) => soonest.at(at, WaitReason::Backoff),
            Notice::None => {}
        }
        let written = self.delivery.trace.saved() < self.delivery.trace.written();
        if self.saving.is_due(written, self.config.keep_alive, now, soonest) {
            return Some(JobEvent::Save);
        }
        match &self.phase {
            Phase::Finishing(finishing) => self.due_refusal(finishing, now, soonest),
            Phase::Running | Phase::Closed(_) => None,
        }
    }

    /// Tells that the rest of the log is given up, once it was refused for long enough after the end while other calls work.
    ///
    /// Otherwise a front end that forbids `PATCH` would hold the result back for ever, although GitLab would take it.
    fn due_refusal(&self, finishing: &Finishing, now: Timestamp, soonest: &mut Soonest) -> Option<JobEvent> {
        let Refusal { since, cause, others_work } = self.delivery.refusal()?;
        let others_work = others_work && !self.pacing.keep_alive.is_failing();
        if self.delivery.is_complete() || !others_work || self.wire.intent().is_some() {
            return None;
        }
        let at = since.max(finishing.since.unwrap_or(now)).saturating_add(self.config.log_patience);
        let missing = self.delivery.trace.acknowledged()..self.delivery.trace.written();
        soonest.has_come(at, now, WaitReason::Backoff).then_some(JobEvent::TraceRefused { missing, cause })
    }

    /// Whether this call achieves something whatever its answer is, so that it costs nothing of the budget.
    pub(super) fn is_free(&self, intent: Intent, now: Timestamp) -> bool {
        let first_of_interval = || self.pacing.keep_alive_is_free(self.config.keep_alive, now);
        match intent {
            Intent::Accept => first_of_interval(),
            Intent::KeepAlive => first_of_interval() || self.contact.is_check_due(),
            // GitLab asked for the report to be repeated, and said when.
            Intent::Report => matches!(&self.phase, Phase::Finishing(finishing) if finishing.asked_again),
            Intent::Probe { .. } | Intent::Patch { .. } => false,
        }
    }

    /// Sends this, unless calls of its kind have to wait, or nothing is left of the budget.
    fn send_step(&self, intent: Intent, now: Timestamp, soonest: &mut Soonest) -> Option<Step> {
        let mut open_at = self.pacing.open_at(Lane::from(intent));
        if !self.is_free(intent, now) {
            open_at = open_at.max(self.pacing.budget.open_at());
        }
        soonest.has_come(open_at, now, WaitReason::Backoff).then_some(Step::Send(intent))
    }

    /// Asks the application to save the job.
    fn save_step(&self, now: Timestamp, soonest: &mut Soonest) -> Option<Step> {
        self.saving.may_ask(now, soonest).then_some(Step::Tell(JobEvent::Save))
    }

    /// The report, if it is its turn.
    fn report_step(&self, now: Timestamp, soonest: &mut Soonest) -> Option<Step> {
        let Phase::Finishing(finishing) = &self.phase else { return None };
        if self.saving.holds_back() {
            return self.save_step(now, soonest);
        }
        if !soonest.has_come(finishing.not_before, now, WaitReason::Archive) {
            return None;
        }
        self.send_step(Intent::Report, now, soonest)
    }

    /// A keep-alive after a silence, or a check that the application asked for.
    #[inline(always)]
    fn keep_alive_step(&self, now: Timestamp, soonest: &mut Soonest) -> Option<Step> {
        if self.is_checking_in() || soonest.has_come(self.contact.keep_alive_due_at(), now, WaitReason::KeepAlive) {
            return self.send_step(Intent::KeepAlive, now, soonest);
        }
        None
    }

    /// The next piece of log, or what stands in its way.
    fn log_step(&self, now: Timestamp, soonest: &mut Soonest) -> Option<Step> {
        match self.delivery.due(self.phase == Phase::Running, now) {
            Due::Nothing => None,
            Due::Wait(at, reason) => {
                soonest.at(at, reason);
                None
            }
            Due::Supply(range) => Some(Step::Tell(JobEvent::TraceNeeded(range))),
            Due::Save => self.save_step(now, soonest),
            Due::Send(Intent::Patch { .. }) if self.saving.holds_back() => self.save_step(now, soonest),
            Due::Send(intent) => self.send_step(intent, now, soonest),
        }
    }

    /// Notes that an event of [`Job::step`] is told.
    fn tell(&mut self, event: JobEvent, now: Timestamp) -> JobEvent {
        match &event {
            JobEvent::TimedOut => {
                self.timeout.told = true;
                self.saving.change();
            }
            JobEvent::TraceNeeded(_) => self.delivery.asked(now, &mut self.rng),
            JobEvent::Save => self.saving.asked(now, &mut self.rng),
            JobEvent::Unreachable { .. } | JobEvent::Recovered => {
                self.contact.reach.told(now);
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
