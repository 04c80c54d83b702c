//! What is dropped, so that a program that runs for a week does not need more and more memory.

use super::Coordinator;

impl Coordinator {
    /// Whether there was such a job, which was dropped because [`Settings::kept_jobs`](crate::Settings::kept_jobs) others
    /// ended after it.
    #[must_use]
    pub fn is_dropped(&self, job: u64) -> bool {
        (self.settings.first_job_id..self.next_job).contains(&job) && !self.jobs.contains_key(&job)
    }

    /// Drops the jobs that ended first, with their logs and files, until as many are left as are kept.
    ///
    /// A job that others depend on stays as long as one of them has not ended. Nobody may hold the ID of a job meanwhile.
    pub(super) fn drop_old_jobs(&mut self) {
        let kept = self.settings.kept_jobs;
        if self.swept.replace(kept) == Some(kept) {
            return;
        }
        let surplus = self.ended.len().saturating_sub(kept);
        for _ in 0..surplus {
            let Some(oldest) = self.ended.pop_front() else { return };
            if self.is_needed(oldest) {
                self.ended.push_back(oldest);
            } else if let Some(job) = self.jobs.remove(&oldest) {
                for needed in &job.dependencies {
                    self.needed_by.remove(&(*needed, oldest));
                }
                job.armed.map(|at| self.timers.remove(&(at, oldest)));
            }
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
    use http::Request;

    use crate::coordinator::{Coordinator, NewJob, Settings};

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
