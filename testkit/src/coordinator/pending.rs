//! The jobs that wait for a runner, so that finding one for a runner takes no look at those for others.

use std::collections::{BTreeMap, BTreeSet};

use super::Coordinator;
use super::access::RunnerType;
use super::jobs::JobRecord;
use super::runners::Runner;
use super::status::JobStatus;

/// The jobs that were not handed out.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    all: BTreeSet<u64>,
    /// Those of them that do not wait for other jobs: by the only runner that may have them, then by what else decides about
    /// it. There may be many jobs, but there are few kinds of them.
    ready: BTreeMap<Option<u64>, BTreeMap<Kind, BTreeSet<u64>>>,
}

/// What decides which runners may have a job.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    is_protected: bool,
    tags: BTreeSet<String>,
    /// The system ID of the only manager that may have it.
    machine: Option<String>,
}

impl Kind {
    fn of(job: &JobRecord) -> Self {
        Self {
            is_protected: is_protected(job),
            tags: job.template.tags().clone(),
            machine: job.template.system_id().map(str::to_owned),
        }
    }
}

fn is_protected(job: &JobRecord) -> bool {
    job.payload["git_info"]["protected"].as_bool() == Some(true)
}

impl Pending {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len() + self.ready.values().flatten().map(|(_, jobs)| jobs.len()).sum::<usize>()
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.all.contains(&id)
    }

    /// Returns whether the job is new here.
    fn insert(&mut self, id: u64) -> bool {
        self.all.insert(id)
    }

    /// Whether runners can get the job from now on.
    fn set_ready(&mut self, job: &JobRecord, is_ready: bool) {
        let kinds = self.ready.entry(job.template.runner()).or_default();
        let kind = Kind::of(job);
        if is_ready {
            kinds.entry(kind).or_default().insert(job.id);
            return;
        }
        if let Some(jobs) = kinds.get_mut(&kind) {
            jobs.remove(&job.id);
            if jobs.is_empty() {
                kinds.remove(&kind);
            }
        }
        if kinds.is_empty() {
            self.ready.remove(&job.template.runner());
        }
    }

    /// Returns whether the job was here.
    fn remove(&mut self, job: &JobRecord) -> bool {
        let was_here = self.all.remove(&job.id);
        if was_here {
            self.set_ready(job, false);
        }
        was_here
    }
}

impl Coordinator {
    /// The job waits for a runner from now on.
    pub(super) fn add_pending(&mut self, id: u64) {
        let is_new = self.pending.insert(id);
        self.note_pending(id, !is_new);
        self.update_ready(id);
    }

    /// The job does not wait for a runner any more.
    pub(super) fn remove_pending(&mut self, id: u64) {
        let Some(job) = self.jobs.get(&id) else { return };
        let was_pending = self.pending.remove(job);
        self.note_pending(id, was_pending);
    }

    /// The jobs that a pending job depends on have changed.
    pub(super) fn update_ready(&mut self, id: u64) {
        if let Some(job) = self.jobs.get(&id)
            && self.pending.contains(id)
        {
            let is_ready = self.is_ready(job);
            self.pending.set_ready(job, is_ready);
        }
    }

    /// The oldest job that a runner manager may have: by the type of its runner, its tags and its access level, and if the job
    /// is for it.
    pub(super) fn candidate(&self, runner: u64, system_id: &str) -> Option<u64> {
        let known = self.runners.get(&runner)?;
        if !self.settings.instance_runners_enabled && known.kind() == RunnerType::Instance {
            return None;
        }
        let kinds = [None, Some(runner)].into_iter().filter_map(|only| self.pending.ready.get(&only)).flatten();
        let fits = |kind: &Kind| {
            kind.machine.as_deref().is_none_or(|only| only == system_id) && known.takes(&kind.tags, kind.is_protected)
        };
        let resumes_here = |id: &&u64| {
            let job = self.jobs.get(id);
            job.is_some_and(|job| self.suspended_on(job).is_none_or(|only| only == system_id))
        };
        kinds.filter(|(kind, _)| fits(kind)).filter_map(|(_, jobs)| jobs.iter().find(resumes_here)).min().copied()
    }

    /// The machine that suspended the environment that a job goes on in. A job that names its machine does not go on elsewhere.
    fn suspended_on<'a>(&'a self, job: &JobRecord) -> Option<&'a str> {
        let key = job.payload.pointer("/suspend_options/runtime_environment_key")?.as_str()?;
        if job.template.system_id().is_some() {
            return None;
        }
        let suspended = |other: &&JobRecord| other.environment_key.as_deref() == Some(key);
        self.jobs.values().rev().find(suspended)?.system_id()
    }

    /// A job can be handed out. The queue changes for the runners that may have it, as in GitLab.
    pub(super) fn announce(&mut self, id: u64) {
        let now = self.clock;
        let Some(job) = self.jobs.get(&id).filter(|job| job.status == JobStatus::Pending && self.is_ready(job)) else {
            return;
        };
        let (tags, is_protected) = (job.template.tags(), is_protected(job));
        let mut tick = |id: u64, runner: &mut Runner| {
            if runner.takes(tags, is_protected) {
                runner.tick(now);
                self.holds.queue_changed(id);
            }
        };
        match job.template.runner() {
            Some(only) => _ = self.runners.get_mut(&only).map(|runner| tick(only, runner)),
            None => self.runners.iter_mut().for_each(|(id, runner)| tick(*id, runner)),
        }
    }
}
