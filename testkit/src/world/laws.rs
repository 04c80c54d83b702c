//! What a world checks on top of the [monitors](crate::monitor): it knows what GitLab really holds.

use gitlab_runner_api::{JobEvent, Machine, Outcome, Output, Timestamp};

use super::{Violation, World};
use crate::coordinator::JobStatus;

impl World {
    /// L2: a state machine that waits does nothing until its time. The monitor checks that the time is right.
    pub(super) fn check_rest(&mut self, id: u64, until: Option<Timestamp>) -> Result<(), Violation> {
        let now = self.now;
        let Some(actor) = self.actors.get_mut(&id) else { return Ok(()) };
        actor.wakes = until;
        let before = actor.job.snapshot();
        let again = actor.job.poll(now);
        let same = matches!(again, Output::Wait(again) if again == until) && actor.job.snapshot() == before;
        if !same {
            return Err(self.violation_of(id, &format!("L2: it waits until {until:?}, and then says {again:?}")));
        }
        let waits = actor.monitor.waits(until, now);
        waits.map_err(|what| self.violation_of(id, &what))
    }

    /// The same for the poller.
    pub(super) fn check_poller_rest(&mut self, until: Option<Timestamp>) -> Result<(), Violation> {
        let again = self.poller.poll(self.now);
        if !matches!(again, Output::Wait(again) if again == until) {
            return Err(self.violation(format!("L2: the poller waits until {until:?}, and then says {again:?}")));
        }
        self.poller_monitor.waits(until, self.poller.capacity(), self.now).map_err(|what| self.violation(what))
    }

    /// L4 for the poller.
    pub(super) fn check_poller_done(&mut self) -> Result<(), Violation> {
        let again = self.poller.poll(self.now.saturating_add(std::time::Duration::from_secs(100_000)));
        if matches!(again, Output::Done) {
            return Ok(());
        }
        Err(self.violation(format!("L4: the poller was done, and now says {again:?}")))
    }

    /// L4: done is done.
    pub(super) fn check_done(&mut self, id: u64) -> Result<(), Violation> {
        let late = self.now.saturating_add(std::time::Duration::from_secs(100_000));
        let Some(actor) = self.actors.get_mut(&id) else { return Ok(()) };
        let printed = actor.job.log_size();
        actor.monitor.ended();
        if let Some(story) = self.stories.get_mut(&id) {
            story.printed = printed;
        }
        let again = actor.job.poll(late);
        if matches!(again, Output::Done) {
            return Ok(());
        }
        Err(self.violation_of(id, &format!("L4: it was done, and now says {again:?}")))
    }

    /// L7: GitLab's log is always a beginning of what was printed.
    pub(super) fn check_log(&mut self, id: u64) -> Result<(), Violation> {
        let (Some(record), Some(actor)) = (self.coordinator.job(id), self.actors.get(&id)) else { return Ok(()) };
        if actor.process.payload.output.starts_with(record.trace()) {
            return Ok(());
        }
        Err(self.violation_of(id, "L7: GitLab's log is not what was printed"))
    }

    /// L9: what is told of the end is what GitLab holds.
    pub(super) fn check_event(&mut self, id: u64, event: &JobEvent) -> Result<(), Violation> {
        let JobEvent::Finished(outcome) = event else { return Ok(()) };
        let held = self.coordinator.job(id).map(crate::coordinator::JobRecord::status);
        let wanted = match outcome {
            Outcome::Success => JobStatus::Success,
            Outcome::Failed => JobStatus::Failed,
            Outcome::Canceled => JobStatus::Canceled,
            _ => return Ok(()),
        };
        if held == Some(wanted) {
            return Ok(());
        }
        Err(self.violation_of(id, &format!("L9: it is told to have ended as {outcome}, GitLab holds {held:?}")))
    }

    /// At the end of a run: every job whose result GitLab took has its whole log there, and each job request whose answer did
    /// not come home was told of once.
    pub(super) fn check_end(&mut self) -> Result<(), Violation> {
        if self.uncertain != self.unanswered {
            let what = format!("{} job requests had no answer, {} were told of", self.unanswered, self.uncertain);
            return Err(self.violation(what));
        }
        for (id, story) in &self.stories {
            let delivered = matches!(story.events.last(), Some(JobEvent::Finished(Outcome::Success | Outcome::Failed)));
            let record = self.coordinator.job(*id);
            let stored = record.map_or(0, |record| record.trace().len() as u64);
            if delivered && stored != story.printed {
                let what = format!("it printed {} bytes, GitLab holds {stored}", story.printed);
                return Err(self.violation_of(*id, &what));
            }
        }
        Ok(())
    }
}
