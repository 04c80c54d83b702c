//! What is dropped, so that a program that runs for a week does not need more and more memory.
//!
//! Each bound drops what is oldest. The logs and the files of jobs that have ended are dropped in the order in which the jobs
//! ended, while the jobs themselves stay; then whole jobs, in the same order; and the records of requests in the order in which
//! they came. Nothing of a job that has not ended is dropped, nor of one that another job still waits for.

use std::collections::VecDeque;

use super::Coordinator;
use super::jobs::JobRecord;

/// How many jobs that have ended are kept, and how many bytes of their logs and of their files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    jobs: usize,
    logs: u64,
    artifacts: u64,
}

/// The logs, or the files, of jobs that have ended: number of the job and bytes, in the order in which the jobs ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Leavings {
    queue: VecDeque<(u64, u64)>,
    bytes: u64,
}

impl Leavings {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    fn add(&mut self, job: u64, bytes: u64) {
        if bytes > 0 {
            self.queue.push_back((job, bytes));
            self.bytes += bytes;
        }
    }

    fn pop(&mut self) -> Option<(u64, u64)> {
        let (job, bytes) = self.queue.pop_front()?;
        self.bytes -= bytes;
        Some((job, bytes))
    }

    /// What a job left has become smaller.
    pub(super) fn shrink(&mut self, job: u64, bytes: u64) {
        if let Some((_, counted)) = self.queue.iter_mut().find(|(id, _)| *id == job) {
            self.bytes -= *counted - bytes.min(*counted);
            *counted = bytes.min(*counted);
        }
    }

    /// Removes what is oldest until no more than `kept` bytes are left, or all that is left is needed. Returns the numbers of
    /// the jobs. What jobs left that are gone does not count.
    fn sweep(&mut self, kept: u64, is_gone: impl Fn(u64) -> bool, is_needed: impl Fn(u64) -> bool) -> Vec<u64> {
        let mut dropped = Vec::new();
        for _ in 0..self.queue.len() {
            let gone = self.queue.front().is_some_and(|(job, _)| is_gone(*job));
            if self.bytes <= kept && !gone {
                break;
            }
            let Some((job, bytes)) = self.pop() else { break };
            if is_needed(job) {
                self.add(job, bytes);
            } else if !gone {
                dropped.push(job);
            }
        }
        dropped
    }
}

impl Coordinator {
    /// Whether there was such a job, which was dropped because [`Settings::kept_jobs`](crate::Settings::kept_jobs) others
    /// ended after it.
    #[must_use]
    pub fn is_dropped(&self, job: u64) -> bool {
        (self.settings.first_job_id..self.next_job).contains(&job) && !self.jobs.contains_key(&job)
    }

    /// Why a job is not there, if it was dropped.
    pub(crate) fn why_no_job(&self, id: u64) -> Option<String> {
        let kept = self.settings.kept_jobs;
        self.is_dropped(id).then(|| {
            format!(
                "job {id} was dropped: of the jobs that have ended the last {kept} are kept (the setting kept_jobs)"
            )
        })
    }

    /// A job has ended, so that what it left may be dropped from now on.
    pub(super) fn note_end(&mut self, id: u64) {
        let Some(job) = self.jobs.get(&id) else { return };
        self.ended.push_back(id);
        self.ended_logs.add(id, job.trace.len() as u64);
        self.ended_artifacts.add(id, job.artifacts.iter().map(|file| file.content.len()).sum());
        self.swept = None;
    }

    /// Drops the jobs that ended first, until as many are left as are kept, and then logs and files of those that are left,
    /// until as many bytes are left as are kept.
    ///
    /// A job that others depend on stays whole as long as one of them has not ended. Nobody may hold the ID of a job meanwhile.
    pub(super) fn drop_old_jobs(&mut self) {
        let settings = &self.settings;
        let kept =
            Bounds { jobs: settings.kept_jobs, logs: settings.kept_log_bytes, artifacts: settings.kept_artifact_bytes };
        if self.swept.replace(kept) == Some(kept) {
            return;
        }
        let surplus = self.ended.len().saturating_sub(kept.jobs);
        for _ in 0..surplus {
            let Some(oldest) = self.ended.pop_front() else { break };
            if self.is_needed(oldest) {
                self.ended.push_back(oldest);
            } else if let Some(job) = self.jobs.remove(&oldest) {
                for needed in &job.dependencies {
                    self.needed_by.remove(&(*needed, oldest));
                }
                job.armed.map(|at| self.timers.remove(&(at, oldest)));
            }
        }
        let (mut logs, mut artifacts) =
            (std::mem::take(&mut self.ended_logs), std::mem::take(&mut self.ended_artifacts));
        let (is_gone, is_needed) = (|id| !self.jobs.contains_key(&id), |id| self.is_needed(id));
        let (without_log, without_files) =
            (logs.sweep(kept.logs, is_gone, is_needed), artifacts.sweep(kept.artifacts, is_gone, is_needed));
        (self.ended_logs, self.ended_artifacts) = (logs, artifacts);
        for job in without_log {
            self.jobs.entry(job).and_modify(JobRecord::drop_log);
        }
        for job in without_files {
            self.jobs.entry(job).and_modify(JobRecord::drop_artifacts);
        }
    }

    /// Drops the oldest records of requests, until there is room for one more.
    pub(super) fn drop_old_records(&mut self) {
        while self.records.len() >= self.settings.kept_requests.max(1) {
            self.records.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use gitlab_runner_api::Timestamp;
    use http::{Method, Request};
    use serde_json::json;

    use crate::coordinator::fixture::Lab;
    use crate::coordinator::{Coordinator, NewJob, Role, Settings};

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn gitlab(kept_jobs: usize) -> Coordinator {
        Coordinator::new(Settings::default().with(|settings| settings.kept_jobs = kept_jobs))
    }

    fn ids(gitlab: &mut Coordinator) -> Vec<u64> {
        gitlab.advance(NOW);
        gitlab.jobs().map(crate::JobRecord::id).collect()
    }

    #[test]
    fn the_jobs_that_ended_first_are_dropped_first() {
        let mut gitlab = gitlab(2);
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| gitlab.queue(NOW, NewJob::new(name)));
        for ended in [c, a, b] {
            gitlab.force_cancel(NOW, ended);
        }
        assert_eq!(ids(&mut gitlab), [a, b, d]);
        assert!(gitlab.is_dropped(c) && !gitlab.is_dropped(a) && !gitlab.is_dropped(d + 1) && !gitlab.is_dropped(1));
        assert!(gitlab.job(c).is_none());
        gitlab.force_cancel(NOW, d);
        assert_eq!(ids(&mut gitlab), [b, d]);
    }

    #[test]
    fn a_job_that_others_wait_for_stays() {
        let mut gitlab = gitlab(0);
        gitlab.add_runner("glrt-x");
        let ask = |gitlab: &mut Coordinator| {
            let request = Request::post("https://gitlab.example.test/api/v4/jobs/request?token=glrt-x");
            gitlab.respond(NOW, request.body(Bytes::new()).unwrap()).status()
        };
        let first = gitlab.queue(NOW, NewJob::new("first"));
        let second = gitlab.queue(NOW, NewJob::new("second").with_dependency(first));
        assert_eq!(ask(&mut gitlab), 201);
        let token = gitlab.job(first).unwrap().token().to_owned();
        let done = format!("https://gitlab.example.test/api/v4/jobs/{first}?token={token}&state=success");
        assert_eq!(gitlab.respond(NOW, Request::put(done).body(Bytes::new()).unwrap()).status(), 200);
        assert_eq!(ids(&mut gitlab), [first, second]);
        assert_eq!(ask(&mut gitlab), 201);
        assert_eq!(ids(&mut gitlab), [first, second]);
        gitlab.force_cancel(NOW, second);
        assert_eq!(ids(&mut gitlab), [0_u64; 0]);
    }

    #[test]
    fn a_skipped_job_that_waits_again_has_not_ended() {
        let mut gitlab = gitlab(3);
        let first = gitlab.queue(NOW, NewJob::new("first"));
        let second = gitlab.queue(NOW, NewJob::new("second").with_dependency(first));
        gitlab.force_cancel(NOW, first);
        assert_eq!(gitlab.job(second).unwrap().status(), crate::JobStatus::Skipped);
        let again = gitlab.retry(NOW, first).unwrap();
        gitlab.settings_mut().kept_jobs = 0;
        assert_eq!(ids(&mut gitlab), [second, again]);
    }

    /// Ends a job that has such a log, and returns its number.
    fn end_with_log(lab: &mut Lab, log: &str) -> u64 {
        let id = lab.running_job(&[]);
        lab.patch(id, 0, log);
        lab.put(id, json!({ "state": "success" }));
        lab.gitlab.advance(lab.now);
        id
    }

    fn logs(lab: &Lab, ids: &[u64]) -> Vec<(u64, bool)> {
        let of = |id: &u64| lab.gitlab.job(*id).map(|job| (job.trace().len() as u64, job.is_log_dropped()));
        ids.iter().map(|id| of(id).expect("a job")).collect()
    }

    #[test]
    fn the_logs_of_the_jobs_that_ended_first_are_dropped_first() {
        let mut lab = Lab::new(|settings| settings.kept_log_bytes = 10);
        let running = lab.running_job(&[]);
        lab.patch(running, 0, "a log that is longer than all that is kept");
        let ids: Vec<u64> = ["1234", "", "5678", "90"].map(|log| end_with_log(&mut lab, log)).into();
        assert_eq!(logs(&lab, &ids), [(4, false), (0, false), (4, false), (2, false)]);
        let one_more = end_with_log(&mut lab, "x");
        assert_eq!(logs(&lab, &ids), [(0, true), (0, false), (4, false), (2, false)], "an empty log is none to drop");
        assert_eq!(logs(&lab, &[one_more, running])[0], (1, false));
        assert!(!lab.job(running).is_log_dropped() && !lab.job(running).trace().is_empty());
        // What was there is told, without the text.
        assert_eq!((lab.job(ids[0]).log_bytes(), lab.job(ids[0]).log_crc32()), (4, crc32fast::hash(b"1234")));
        let large = end_with_log(&mut lab, "larger than ten bytes");
        assert_eq!(logs(&lab, &[ids[2], ids[3], one_more, large]), [(0, true); 4]);
        lab.gitlab.settings_mut().kept_jobs = 0;
        lab.gitlab.advance(lab.now);
        assert_eq!((lab.gitlab.jobs().count(), lab.gitlab.ended_logs.len(), lab.gitlab.ended_logs.bytes), (1, 0, 0));
    }

    /// What the jobs that are gone left makes no room for nothing.
    #[test]
    fn the_logs_of_jobs_that_are_gone_do_not_count() {
        let mut lab = Lab::new(|settings| (settings.kept_log_bytes, settings.kept_jobs) = (10, 2));
        let ids: Vec<u64> = ["1234", "5678", "1234", "5678", "90"].map(|log| end_with_log(&mut lab, log)).into();
        assert_eq!(logs(&lab, &ids[3..]), [(4, false), (2, false)]);
        assert_eq!((lab.gitlab.ended_logs.len(), lab.gitlab.ended_logs.bytes), (2, 6));
    }

    /// Whoever asks for a job that was dropped is told so.
    #[test]
    fn a_job_that_was_dropped_is_missing_with_a_sentence() {
        let mut lab = Lab::new(|settings| settings.kept_jobs = 1);
        lab.gitlab.add_user("glpat-root", Role::Administrator, ["api"]);
        let dropped = end_with_log(&mut lab, "a");
        end_with_log(&mut lab, "b");
        let running = lab.running_job(&[]);
        let token = lab.job(running).token().to_owned();
        let path = format!("/projects/4242/jobs/{dropped}");
        let user = ("private-token", "glpat-root");
        for (method, path, header) in [
            (Method::GET, path.clone(), user),
            (Method::GET, format!("{path}/trace"), user),
            (Method::GET, format!("{path}/artifacts"), user),
            (Method::POST, format!("{path}/retry"), user),
            (Method::GET, format!("/jobs/{dropped}/artifacts"), ("job-token", token.as_str())),
        ] {
            let response = lab.call(method, &path, &[header], b"");
            let told = String::from_utf8_lossy(response.body()).into_owned();
            assert!(response.status() == 404 && told.contains("was dropped"), "{path}: {} {told}", response.status());
        }
    }

    #[test]
    fn an_erased_log_does_not_count_as_kept() {
        let mut lab = Lab::new(|settings| settings.kept_log_bytes = 10);
        let ids = ["1234", "5678"].map(|log| end_with_log(&mut lab, log));
        lab.gitlab.erase(ids[1]);
        assert!(lab.job(ids[1]).trace().is_empty());
        end_with_log(&mut lab, "12345");
        assert_eq!(logs(&lab, &ids), [(4, false), (0, false)]);
    }

    fn upload(lab: &mut Lab, id: u64, size: usize) {
        let token = lab.job(id).token().to_owned();
        let headers = [("content-type", "multipart/form-data; boundary=x"), ("job-token", token.as_str())];
        let head = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.zip\"\r\n\r\n";
        let body = format!("{head}{}\r\n--x--\r\n", "a".repeat(size));
        let path = format!("/jobs/{id}/artifacts");
        assert_eq!(lab.call(Method::POST, &path, &headers, body.as_bytes()).status(), 201);
    }

    #[test]
    fn the_files_of_the_jobs_that_ended_first_are_dropped_first() {
        let mut lab = Lab::new(|settings| settings.kept_artifact_bytes = 10);
        let end = |lab: &mut Lab, size| {
            let id = lab.running_job(&[]);
            upload(lab, id, size);
            lab.put(id, json!({ "state": "success" }));
            lab.gitlab.advance(lab.now);
            id
        };
        let left = |lab: &Lab, id| (lab.job(id).artifacts().len(), lab.job(id).are_artifacts_dropped());
        let first = end(&mut lab, 4);
        let waiting = lab.gitlab.queue(lab.now, NewJob::new("later").with_dependency(first).with_tag("rare"));
        let (second, third) = (end(&mut lab, 4), end(&mut lab, 4));
        assert_eq!(
            [first, second, third].map(|id| left(&lab, id)),
            [(1, false), (0, true), (1, false)],
            "one is needed"
        );
        lab.gitlab.force_cancel(lab.now, waiting);
        let fourth = end(&mut lab, 9);
        assert_eq!([first, third, fourth].map(|id| left(&lab, id)), [(0, true), (0, true), (1, false)]);

        // What a user has erased takes no room from others.
        lab.gitlab.erase(fourth);
        let (fifth, sixth) = (end(&mut lab, 5), end(&mut lab, 5));
        assert_eq!([fifth, sixth].map(|id| left(&lab, id)), [(1, false), (1, false)]);

        let running = lab.running_job(&[]);
        let token = lab.job(running).token().to_owned();
        let response = lab.call(Method::GET, &format!("/jobs/{third}/artifacts"), &[("job-token", &token)], b"");
        let told = String::from_utf8_lossy(response.body()).into_owned();
        assert!(
            response.status() == 404 && told.contains("the files of job") && told.contains("kept_artifact_bytes"),
            "{told}"
        );
    }

    #[test]
    fn the_oldest_records_of_requests_are_dropped() {
        let mut gitlab = gitlab(0);
        gitlab.settings_mut().record_requests = true;
        gitlab.settings_mut().kept_requests = 2;
        for path in ["a", "b", "c"] {
            let request =
                Request::get(format!("https://gitlab.example.test/api/v4/{path}")).body(Bytes::new()).unwrap();
            gitlab.respond(NOW, request);
        }
        let paths: Vec<&str> = gitlab.requests().map(|record| record.path.as_str()).collect();
        assert_eq!(paths, ["/api/v4/b", "/api/v4/c"]);
    }
}
