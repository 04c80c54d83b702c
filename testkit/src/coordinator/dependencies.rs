//! Jobs that wait for others, and retries.

use gitlab_runner_api::Timestamp;

use super::Coordinator;
use super::jobs::JobRecord;
use super::new_job::{Dependency, NewJob};
use super::status::JobStatus;

impl Coordinator {
    /// How many attempts there were before this one.
    pub(super) fn retries_of(&self, job: &JobRecord) -> usize {
        let earlier = |job: &&JobRecord| job.retry_of.and_then(|id| self.jobs.get(&id));
        std::iter::successors(earlier(&job), earlier).count()
    }

    /// Queues a job again, as a user does who retries it. Jobs that were skipped because of it wait again. Returns the number
    /// of the new job; `None` if there is no such job, if it has not ended, or if it was retried already.
    pub fn retry(&mut self, now: Timestamp, job: u64) -> Option<u64> {
        let now = self.advance(now);
        let known = self.jobs.get(&job).filter(|job| job.status.is_final() && !job.is_retried)?;
        let template = known.template.clone();
        let retry = self.enqueue(now, template, Some(job));
        self.wait_again(now, job, retry);
        Some(retry)
    }

    /// Jobs that were skipped because of a failed one wait again, now for its retry, and so do those that were skipped because
    /// of them.
    fn wait_again(&mut self, now: Timestamp, failed: u64, retry: u64) {
        let mut causes = vec![failed];
        let mut again = Vec::new();
        while let Some(cause) = causes.pop() {
            let skipped = |id: &u64| self.jobs.get(id).is_some_and(|job| job.status == JobStatus::Skipped);
            for id in self.dependents_of(cause).filter(skipped).collect::<Vec<_>>() {
                self.replace_dependency(id, failed, retry);
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.wait_again(now);
                }
                self.dependent.insert(id);
                self.add_pending(id);
                self.ended.retain(|ended| *ended != id);
                causes.push(id);
                again.push(id);
            }
        }
        // Some may depend on another job that failed.
        for id in again {
            self.skip_if_hopeless(id);
        }
    }

    /// The numbers of the jobs that these mean, each once.
    pub(super) fn resolve(&self, dependencies: &[Dependency]) -> Vec<u64> {
        let mut found: Vec<u64> = Vec::new();
        for id in dependencies.iter().filter_map(|dependency| self.find(dependency)) {
            if !found.contains(&id) {
                found.push(id);
            }
        }
        found
    }

    fn find(&self, dependency: &Dependency) -> Option<u64> {
        match dependency {
            Dependency::Id(id) => self.jobs.contains_key(id).then_some(*id),
            Dependency::Name(name) => self.jobs.values().rev().find(|job| job.name() == name).map(|job| job.id),
        }
    }

    /// The name or the number of a job that this one depends on and that there is not.
    pub(crate) fn missing_dependency(&self, job: &NewJob) -> Option<String> {
        let missing = job.dependencies().iter().find(|dependency| self.find(dependency).is_none())?;
        Some(match missing {
            Dependency::Id(id) => id.to_string(),
            Dependency::Name(name) => name.clone(),
        })
    }

    /// A job that others depend on was retried: they wait for the retry.
    pub(super) fn wait_for_retry(&mut self, failed: u64, retry: u64) {
        for id in self.waiting_for(failed) {
            self.replace_dependency(id, failed, retry);
            self.update_ready(id);
        }
    }

    /// A job has ended: those that depend on it can be handed out now, or never. The jobs that wait for one that did not
    /// succeed are skipped, and those that wait for a skipped one.
    pub(super) fn release_dependents(&mut self, ended: u64) {
        let now = self.clock;
        // Not by a call for each, because a chain of jobs may be long.
        let mut causes = vec![ended];
        while let Some(cause) = causes.pop() {
            for id in self.waiting_for(cause) {
                if self.is_hopeless(id) {
                    self.settle(id, |job, _| job.skip(now));
                    causes.push(id);
                } else {
                    self.update_ready(id);
                    self.announce(id);
                }
            }
        }
    }

    /// Skips a job that waits for one that did not succeed.
    pub(super) fn skip_if_hopeless(&mut self, id: u64) {
        let now = self.clock;
        if self.dependent.contains(&id) && self.is_hopeless(id) {
            self.change(id, |job| job.skip(now));
        }
    }

    fn is_hopeless(&self, id: u64) -> bool {
        let failed = |id: &u64| self.jobs.get(id).is_some_and(|job| job.status.is_final() && !job.is_passed());
        self.jobs.get(&id).is_some_and(|job| job.dependencies.iter().any(failed))
    }

    /// Whether all jobs that this one depends on have succeeded, or were allowed to fail.
    pub(super) fn is_ready(&self, job: &JobRecord) -> bool {
        let passed = |id: &u64| self.jobs.get(id).is_some_and(JobRecord::is_passed);
        job.dependencies.iter().all(passed)
    }

    /// Whether a job that has not ended depends on this one.
    pub(super) fn is_needed(&self, id: u64) -> bool {
        self.dependents_of(id).any(|id| self.jobs.get(&id).is_some_and(|job| !job.status.is_final()))
    }

    /// The jobs that depend on this one, whatever became of them.
    fn dependents_of(&self, id: u64) -> impl Iterator<Item = u64> + '_ {
        self.needed_by.range((id, 0)..=(id, u64::MAX)).map(|(_, dependent)| *dependent)
    }

    /// The pending jobs that depend on this one.
    fn waiting_for(&self, id: u64) -> Vec<u64> {
        self.dependents_of(id).filter(|id| self.dependent.contains(id)).collect()
    }

    fn replace_dependency(&mut self, id: u64, from: u64, to: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        for dependency in job.dependencies.iter_mut().filter(|dependency| **dependency == from) {
            *dependency = to;
            self.needed_by.remove(&(from, id));
            self.needed_by.insert((to, id));
        }
    }
}
