//! An ordered record of requests, for tests that assert on what a runner did.

use std::collections::BTreeMap;

use gitlab_runner_api::Timestamp;
use http::StatusCode;
use http::request::Parts;

use super::Coordinator;
use super::status::JobStatus;

/// A request, its answer, and what it changed.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// When the request came.
    pub at: Timestamp,
    /// The method, such as `PATCH`.
    pub method: String,
    /// The path without the query, which may contain tokens. Of a path that is very long only the beginning.
    pub path: String,
    /// The status of the answer. `None` while the request is held, and if its client went away.
    pub status: Option<u16>,
    /// What the request changed, in words such as `job 4294967297 running` or `log of job 4294967297 12 bytes`.
    pub changes: Vec<String>,
}

/// How much of a path is recorded. All paths of GitLab are much shorter.
const PATH_RECORDED: usize = 1000;

/// The beginning of a path, so that nobody can fill the memory with paths that do not exist.
fn shortened(path: &str) -> String {
    let end = (0..=PATH_RECORDED.min(path.len())).rev().find(|at| path.is_char_boundary(*at)).unwrap_or(0);
    path[..end].to_owned()
}

/// What a request has changed so far: whether each job that it touched was pending before, and whether each runner was there.
///
/// Only what is touched is noted. A copy of all jobs and runners for each request would take longer than to answer it.
#[derive(Clone, Debug, Default)]
pub(super) struct Journal {
    pending: BTreeMap<u64, bool>,
    runners: BTreeMap<u64, bool>,
}

/// The state before a request.
#[derive(Debug)]
pub(super) struct Before {
    record: u64,
    job: Option<(u64, JobState)>,
}

/// Status, size of the log, and number of artifacts.
type JobState = (JobStatus, usize, usize);

impl Coordinator {
    /// The requests since the record began or was cleared, in the order in which they came. They are recorded if
    /// [`Settings::record_requests`](crate::Settings::record_requests) is on.
    pub fn requests(&self) -> impl Iterator<Item = &RequestRecord> {
        self.records.values()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&mut self) {
        self.records.clear();
    }

    /// Records a request, if requests are recorded. Returns the number of the record.
    pub(super) fn begin_record(&mut self, now: Timestamp, parts: &Parts) -> Option<u64> {
        if !self.settings.record_requests {
            return None;
        }
        self.drop_old_records();
        let number = self.next_record;
        self.next_record += 1;
        let record = RequestRecord {
            at: now,
            method: parts.method.to_string(),
            path: shortened(parts.uri.path()),
            status: None,
            changes: Vec::new(),
        };
        self.records.insert(number, record);
        Some(number)
    }

    /// Begins to note what a request changes, until [`record_changes`](Self::record_changes). `job` is the job that its path
    /// names.
    pub(super) fn begin_changes(&mut self, record: u64, job: Option<u64>) -> Before {
        self.journal = Some(Journal::default());
        Before { record, job: job.and_then(|id| Some((id, self.state_of(id)?))) }
    }

    /// Notes whether a job was pending before it is altered.
    pub(super) fn note_pending(&mut self, id: u64, was_pending: bool) {
        if let Some(journal) = &mut self.journal {
            journal.pending.entry(id).or_insert(was_pending);
        }
    }

    /// Notes whether there was a runner before it is added or removed.
    pub(super) fn note_runner(&mut self, id: u64, was_there: bool) {
        if let Some(journal) = &mut self.journal {
            journal.runners.entry(id).or_insert(was_there);
        }
    }

    /// Records what a request changed.
    pub(super) fn record_changes(&mut self, before: Before) {
        let Some(journal) = self.journal.take() else { return };
        let mut changes = Vec::new();
        for (id, _) in journal.pending.iter().filter(|(id, was_pending)| **was_pending && !self.pending.contains(**id))
        {
            let status = self.jobs.get(id).map_or("gone", |job| job.status.as_str());
            changes.push(format!("job {id} {status}"));
        }
        if let Some((id, (status, log, artifacts))) = before.job
            && let Some((new_status, new_log, new_artifacts)) = self.state_of(id)
        {
            let was_pending = journal.pending.get(&id).copied().unwrap_or_else(|| self.pending.contains(id));
            if new_status != status && !was_pending {
                changes.push(format!("job {id} {}", new_status.as_str()));
            }
            if new_log != log {
                changes.push(format!("log of job {id} {new_log} bytes"));
            }
            if new_artifacts != artifacts {
                changes.push(format!("artifacts of job {id} {new_artifacts}"));
            }
        }
        let runners = journal.runners.iter().map(|(id, was_there)| (id, *was_there, self.runners.contains_key(id)));
        let (added, removed): (Vec<_>, Vec<_>) = runners.filter(|(_, was, is)| was != is).partition(|(_, was, _)| !was);
        changes.extend(added.iter().map(|(id, ..)| format!("runner {id} added")));
        changes.extend(removed.iter().map(|(id, ..)| format!("runner {id} removed")));
        if let Some(record) = self.records.get_mut(&before.record) {
            record.changes = changes;
        }
    }

    /// Records the status of an answer.
    pub(super) fn record_answer(&mut self, record: Option<u64>, status: StatusCode) {
        if let Some(record) = record.and_then(|record| self.records.get_mut(&record)) {
            record.status = Some(status.as_u16());
        }
    }

    fn state_of(&self, id: u64) -> Option<JobState> {
        self.jobs.get(&id).map(|job| (job.status, job.trace.len(), job.artifacts.len()))
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::super::fixture::{Lab, TOKEN, seconds, work};

    #[test]
    fn requests_are_recorded_with_what_they_changed() {
        let mut lab = Lab::new(|settings| {
            settings.record_requests = true;
            settings.long_poll = Some(seconds(50));
        });
        let id = lab.running_job(&[]);
        lab.patch(id, 0, "hello");
        lab.patch(id, 9, "hello");
        lab.put(id, json!({ "state": "success" }));
        let value =
            super::super::fixture::header(&lab.request_job(&work(&[])), "x-gitlab-last-update").map(str::to_owned);
        let hold = lab.hold(&value.expect("a queue value"));
        lab.json(Method::DELETE, "/runners?secret=1", &json!({ "token": TOKEN }));
        let told = |lab: &Lab| -> Vec<String> {
            let line = |record: &super::RequestRecord| {
                let path = record.path.trim_start_matches("/api/v4");
                format!("{} {path} {:?} {}", record.method, record.status, record.changes.join(", "))
            };
            lab.gitlab.requests().map(line).collect()
        };
        let expected = [
            format!("POST /jobs/request Some(201) job {id} running"),
            format!("PATCH /jobs/{id}/trace Some(202) log of job {id} 5 bytes"),
            format!("PATCH /jobs/{id}/trace Some(416) "),
            format!("PUT /jobs/{id} Some(200) job {id} success"),
            "POST /jobs/request Some(204) ".to_owned(),
            "POST /jobs/request None ".to_owned(),
            format!("DELETE /runners Some(204) runner {} removed", lab.runner),
        ];
        assert_eq!(told(&lab), expected);
        lab.pass(seconds(50));
        assert_eq!(lab.gitlab.poll(lab.now).map(|(held, _)| held), Some(hold));
        assert_eq!(told(&lab)[5], "POST /jobs/request Some(204) ");
        lab.json(Method::GET, &format!("/{}", "é".repeat(2000)), &json!({}));
        assert_eq!(lab.gitlab.requests().last().map(|record| record.path.len()), Some(super::PATH_RECORDED));
        lab.gitlab.clear_requests();
        assert_eq!(lab.gitlab.requests().count(), 0);
    }
}
