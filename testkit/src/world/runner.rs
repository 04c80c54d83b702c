//! The runner: what an adapter and an application do with the core's machines.

use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::{
    Assignment, FailureReason, Job, JobEvent, JobResult, JobSnapshot, Machine, Output, PollerEvent, Stream, Timestamp,
};

use super::payload::Process;
use super::{Actor, JobStory, Violation, Who, World};
use crate::monitor::{JobMonitor, Patience};

impl World {
    /// Polls every machine until all of them wait.
    pub(super) fn settle(&mut self) -> Result<(), Violation> {
        self.settle_poller()?;
        for id in self.actors.keys().copied().collect::<Vec<_>>() {
            while self.poll_job(id)? {}
        }
        Ok(())
    }

    fn settle_poller(&mut self) -> Result<(), Violation> {
        let busy = self.actors.values().filter(|actor| !actor.done).count() as u32;
        let capacity = self.scenario.capacity.saturating_sub(busy);
        if capacity != self.poller.capacity() {
            self.poller_monitor.verb();
        }
        self.poller.set_capacity(capacity);
        while !self.poller_done {
            match self.poller.poll(self.now) {
                Output::Send(call) => self.launch(Who::Poller, call)?,
                Output::Event(event) => {
                    self.poller_monitor.told(&event, self.now).map_err(|what| self.violation(what))?;
                    match event {
                        PollerEvent::Assigned(assignment) => self.take_on(&assignment)?,
                        PollerEvent::AssignmentUncertain { cause, .. } => {
                            self.uncertain += 1;
                            self.note(format!("Poller: a job may be lost: {cause}"));
                        }
                        event => self.told.push(format!("{event:?}")),
                    }
                }
                Output::Wait(until) => {
                    self.poller_wakes = until;
                    return self.check_poller_rest(until);
                }
                Output::Done => {
                    (self.poller_done, self.poller_wakes) = (true, None);
                    self.poller_monitor.ended();
                    return self.check_poller_done();
                }
            }
        }
        Ok(())
    }

    fn take_on(&mut self, assignment: &Assignment) -> Result<(), Violation> {
        let id = assignment.id();
        let root = std::iter::successors(Some(id), |id| self.coordinator.job(*id)?.retry_of()).last().unwrap_or(id);
        let Some(payload) = self.payloads.get(&root).cloned() else {
            return Err(self.violation(format!("job {id} was never queued")));
        };
        self.note(format!("Poller: job {id}"));
        let job = Job::new(self.config.clone(), assignment, self.now);
        let process = Process::start(payload, self.now);
        let patience = Patience { durable: self.scenario.durable, ..Patience::default() };
        let monitor = JobMonitor::new(patience, self.now);
        let actor = Actor { job, process, wakes: None, done: false, disk: None, monitor };
        self.actors.insert(id, actor);
        self.stories.insert(id, JobStory { id, events: Vec::new(), printed: 0, crashes: 0 });
        Ok(())
    }

    /// Polls one job once; false when it waits.
    fn poll_job(&mut self, id: u64) -> Result<bool, Violation> {
        let Some(actor) = self.actors.get_mut(&id).filter(|actor| !actor.done) else { return Ok(false) };
        let output = actor.job.poll(self.now);
        match output {
            Output::Send(call) => self.launch(Who::Job(id), call)?,
            Output::Event(event) => self.obey(id, event)?,
            Output::Wait(until) => {
                self.check_rest(id, until)?;
                return Ok(false);
            }
            Output::Done => {
                actor.done = true;
                (actor.wakes, actor.process.next) = (None, None);
                self.check_done(id)?;
                return Ok(false);
            }
        }
        if self.scenario.spool > 0 && self.net.dice().per_mille(self.scenario.spool) {
            self.save(id)?;
        }
        if self.net.dice().per_mille(self.scenario.crash) {
            self.crash(id)?;
        }
        Ok(true)
    }

    fn obey(&mut self, id: u64, event: JobEvent) -> Result<(), Violation> {
        self.note(format!("Job {id}: {event:?}"));
        if let Some(story) = self.stories.get_mut(&id) {
            story.events.push(event.clone());
        }
        self.check_event(id, &event)?;
        let now = self.now;
        let Some(actor) = self.actors.get_mut(&id) else { return Ok(()) };
        let acknowledged = actor.job.log_size() - actor.job.unsent();
        let told = actor.monitor.told(&event, acknowledged, now);
        told.map_err(|what| self.violation_of(id, &what))?;
        let Some(actor) = self.actors.get_mut(&id) else { return Ok(()) };
        match event {
            JobEvent::CancelRequested => {
                actor.process.stopping = true;
                actor.process.next = actor.process.next.map(|_| now.saturating_add(Duration::from_secs(1)));
            }
            JobEvent::TimedOut => {
                actor.process.next = None;
                actor.job.finish(JobResult::failed(FailureReason::JobExecutionTimeout));
                actor.monitor.finished(now);
            }
            JobEvent::Aborted(_) => actor.process.next = None,
            JobEvent::TraceNeeded(range) => {
                let saved = actor.disk.as_ref().map_or(0, |(_, size)| *size);
                if self.scenario.spool > 0 && range.end > saved {
                    return Err(self.violation_of(id, &format!("it asks for {range:?}, and {saved} bytes are saved")));
                }
                let bytes = &actor.process.payload.output[range.start as usize..range.end as usize];
                let supplied = actor.job.supply_trace(range.start, Bytes::copy_from_slice(bytes));
                actor.monitor.verb(false);
                supplied.map_err(|misuse| self.violation(format!("supply_trace: {misuse}")))?;
            }
            JobEvent::Save => self.save(id)?,
            _ => {}
        }
        Ok(())
    }

    /// Does what an application does on `Save`, and holds what it gets against what it knows.
    fn save(&mut self, id: u64) -> Result<(), Violation> {
        let Some(actor) = self.actors.get_mut(&id) else { return Ok(()) };
        let (offset, chunks) = actor.job.unsaved();
        let (bytes, size) = (chunks.concat(), actor.job.log_size());
        let printed = &actor.process.payload.output;
        let exact = printed.get(offset as usize..size as usize) == Some(&bytes[..]);
        let on_disk = actor.disk.as_ref().map_or(0, |(_, size)| *size);
        if !exact || offset > on_disk {
            return Err(self.violation_of(id, &format!("the unsaved bytes at {offset} are not those written")));
        }
        let snapshot = actor.job.snapshot();
        actor.job.saved(snapshot.revision(), size);
        actor.monitor.saved(size);
        actor.disk = Some((snapshot.to_json(), size));
        Ok(())
    }

    /// The runner's process dies and is started again: from its last save if it saves, else from a snapshot of the very
    /// moment. Tickets that were out die with it; what was sent may still arrive.
    pub(super) fn crash(&mut self, id: u64) -> Result<(), Violation> {
        let Some(actor) = self.actors.get_mut(&id).filter(|actor| !actor.done) else { return Ok(()) };
        let stored = match (&actor.disk, self.scenario.durable) {
            (None, true) => None,
            (Some((snapshot, _)), true) => Some(snapshot.clone()),
            (_, false) => Some(actor.job.snapshot().to_json()),
        };
        let assignment = Assignment::from_json(actor.job.assignment().as_json().clone());
        let resumed = assignment.map_err(|error| error.to_string()).and_then(|assignment| match stored {
            None => Ok(Job::new(self.config.clone(), &assignment, self.now)),
            Some(json) => JobSnapshot::from_json(&json)
                .and_then(|snapshot| Job::resume(self.config.clone(), &assignment, snapshot, self.now))
                .map_err(|error| error.to_string()),
        });
        match resumed {
            Ok(job) => {
                // What was written and is still held back comes out without being written again.
                actor.monitor.resumed(job.taken(Stream::Runner), !self.scenario.durable, self.now);
                actor.job = job;
            }
            Err(error) => return Err(self.violation_of(id, &format!("cannot be resumed: {error}"))),
        }
        // Whatever ended the process may have been forgotten: it ends again.
        actor.process.next = Some(self.now);
        self.flights.retain(|_, flight| flight.who != Who::Job(id));
        if let Some(story) = self.stories.get_mut(&id) {
            story.crashes += 1;
        }
        self.note(format!("Job {id}: crashed and resumed"));
        Ok(())
    }
}

impl Actor {
    /// Lets the process print, or end, if it is its time.
    pub(super) fn live(&mut self, now: Timestamp) {
        if self.done || self.process.next.is_none_or(|next| next > now) {
            return;
        }
        if !self.process.stopping {
            let (from, to) = (self.job.taken(Stream::Runner) as usize, self.process.printed(now) as usize);
            if to > from {
                let bytes = Bytes::copy_from_slice(&self.process.payload.output[from..to]);
                self.monitor.wrote(&bytes);
                self.job.write(bytes);
            }
        }
        if self.process.has_ended(now) {
            let stopped = JobResult::failed(FailureReason::ScriptFailure);
            self.monitor.finished(now);
            self.job.finish(if self.process.stopping { stopped } else { self.process.payload.result.clone() });
            self.process.next = None;
        } else {
            self.process.next = Some(now.saturating_add(self.process.payload.tick));
        }
    }
}
