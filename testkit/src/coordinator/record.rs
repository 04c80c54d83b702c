//! An ordered record of requests, for tests that assert on what a runner did.

use std::collections::BTreeSet;

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
    /// The path without the query, which may contain tokens.
    pub path: String,
    /// The status of the answer. `None` while the request is held, and if its client went away.
    pub status: Option<u16>,
    /// What the request changed, in words such as `job 4294967297 running` or `log of job 4294967297 12 bytes`.
    pub changes: Vec<String>,
}

/// What a request may change.
#[derive(Debug)]
pub(super) struct Snapshot {
    record: u64,
    pending: BTreeSet<u64>,
    runners: BTreeSet<u64>,
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

    /// Records a request, if requests are recorded. `job` is the job that its path names.
    pub(super) fn begin_record(&mut self, now: Timestamp, parts: &Parts, job: Option<u64>) -> Option<Snapshot> {
        if !self.settings.record_requests {
            return None;
        }
        self.drop_old_records();
        let number = self.next_record;
        self.next_record += 1;
        let record = RequestRecord {
            at: now,
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            status: None,
            changes: Vec::new(),
        };
        self.records.insert(number, record);
        Some(Snapshot {
            record: number,
            pending: self.pending.clone(),
            runners: self.runners.keys().copied().collect(),
            job: job.and_then(|id| Some((id, self.state_of(id)?))),
        })
    }

    /// Records what a request changed since the snapshot.
    pub(super) fn record_changes(&mut self, before: Snapshot) {
        let mut changes = Vec::new();
        for id in before.pending.difference(&self.pending) {
            let status = self.jobs.get(id).map_or("gone", |job| job.status.as_str());
            changes.push(format!("job {id} {status}"));
        }
        if let Some((id, (status, log, artifacts))) = before.job
            && let Some((new_status, new_log, new_artifacts)) = self.state_of(id)
        {
            if new_status != status && !before.pending.contains(&id) {
                changes.push(format!("job {id} {}", new_status.as_str()));
            }
            if new_log != log {
                changes.push(format!("log of job {id} {new_log} bytes"));
            }
            if new_artifacts != artifacts {
                changes.push(format!("artifacts of job {id} {new_artifacts}"));
            }
        }
        let runners: BTreeSet<u64> = self.runners.keys().copied().collect();
        changes.extend(runners.difference(&before.runners).map(|id| format!("runner {id} added")));
        changes.extend(before.runners.difference(&runners).map(|id| format!("runner {id} removed")));
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

impl Snapshot {
    /// The record that it belongs to.
    pub(super) fn record(&self) -> u64 {
        self.record
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
        lab.gitlab.clear_requests();
        assert_eq!(lab.gitlab.requests().count(), 0);
    }
}
