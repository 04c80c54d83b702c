//! The laws a correct core keeps, checked while a world runs.

use bytes::Bytes;
use gitlab_runner_api::{CallKind, Hints, JobEvent, Machine, Outcome, Output, Priority, Timestamp};
use http::Request;
use serde_json::Value;

use super::{Violation, World};
use crate::coordinator::JobStatus;

/// What a job's final updates said.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// State, reason and exit code.
    said: Option<[Value; 3]>,
    /// Checksum and size; null once dropped.
    digest: Option<Value>,
}

impl World {
    /// L6 and L8: what a call of a job must look like when it leaves.
    pub(super) fn check_call(&mut self, id: u64, hints: &Hints, request: &Request<Bytes>) -> Result<(), Violation> {
        let Some(actor) = self.actors.get_mut(&id) else { return Ok(()) };
        let body = request.body();
        let problem = match (hints.kind, hints.priority) {
            (CallKind::PatchTrace, _) => {
                let range =
                    request.headers().get("content-range").and_then(|value| value.to_str().ok()).unwrap_or_default();
                let start: usize = range.split('-').next().and_then(|start| start.parse().ok()).unwrap_or(usize::MAX);
                let end = start.saturating_add(body.len());
                let saved = actor.disk.as_ref().map_or(0, |(_, size)| *size as usize);
                if actor.process.payload.output.get(start..end) != Some(&body[..]) {
                    Some(format!("L6: the patch at {start} is not the log at its place"))
                } else if self.scenario.durable && !body.is_empty() && end > saved {
                    Some(format!("L6: the patch ends at {end}, saved are {saved}"))
                } else {
                    None
                }
            }
            (CallKind::UpdateJob, Priority::FinalUpdate) => {
                let json: Value = serde_json::from_slice(body).unwrap_or_default();
                let said = ["state", "failure_reason", "exit_code"].map(|name| json[name].clone());
                let digest = json["output"].clone();
                let dropped = digest.as_object().is_none_or(serde_json::Map::is_empty);
                let first = actor.reports.said.get_or_insert_with(|| said.clone());
                let first_digest = actor.reports.digest.get_or_insert_with(|| digest.clone());
                if *first != said {
                    Some(format!("L8: first reported {first:?}, and now {said:?}"))
                } else if dropped {
                    *first_digest = digest;
                    None
                } else if *first_digest != digest {
                    Some(format!("L8: first reported {first_digest}, and now {digest}"))
                } else {
                    (actor.job.unsent() > 0).then(|| "L8: it reports before its log is acknowledged".to_owned())
                }
            }
            _ => None,
        };
        problem.map_or(Ok(()), |problem| Err(self.violation_of(id, &problem)))
    }

    /// L2 and L3: a machine that waits does nothing until its time.
    pub(super) fn check_rest(&mut self, id: u64, until: Option<Timestamp>) -> Result<(), Violation> {
        let now = self.now;
        let Some(actor) = self.actors.get_mut(&id) else { return Ok(()) };
        actor.wakes = until;
        let before = actor.job.snapshot();
        let again = actor.job.poll(now);
        let same = matches!(again, Output::Wait(again) if again == until) && actor.job.snapshot() == before;
        let awake = until.is_some_and(|until| until > now) || (until.is_none() && actor.job.trace_needed().is_some());
        if !same {
            return Err(self.violation_of(id, &format!("L2: it waits until {until:?}, and then says {again:?}")));
        }
        if !awake {
            return Err(self.violation_of(id, &format!("L3: it waits until {until:?} at {now:?}")));
        }
        Ok(())
    }

    /// L2 and L3 for the poller, which may wait for the application only if it can take no job.
    pub(super) fn check_poller_rest(&mut self, until: Option<Timestamp>) -> Result<(), Violation> {
        let again = self.poller.poll(self.now);
        if !matches!(again, Output::Wait(again) if again == until) {
            return Err(self.violation(format!("L2: the poller waits until {until:?}, and then says {again:?}")));
        }
        let awake = until.map_or(self.poller.capacity() == 0, |until| until > self.now);
        if awake { Ok(()) } else { Err(self.violation(format!("L3: the poller waits until {until:?}"))) }
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
