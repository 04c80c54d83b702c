//! The log and the result of a job, delivered to a GitLab that keeps its word and loses the end of its log now and then, by a process
//! that dies now and then.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::{
    Call, CallKind, Failure, Job, JobEvent, JobRecord, JobResult, JobSnapshot, Machine, Outcome, Output, Priority,
    RunnerConfig, Stream, Ticket, Timestamp, Written,
};
use http::{Request, Response};

use super::Script;
use super::machines::{NOW, assignment, config};

/// What GitLab has of the job.
#[derive(Default)]
struct GitLab {
    log: Vec<u8>,
    is_over: bool,
}

impl GitLab {
    /// Takes a call and answers it, if it arrives.
    fn take(&mut self, call: Call, arrives: bool) -> (Ticket, Option<Response<Bytes>>) {
        let is_report = call.hints().kind == CallKind::UpdateJob && call.hints().priority == Priority::FinalUpdate;
        let (request, ticket) = call.split();
        let request = request.map(gitlab_runner_api::Body::into_bytes);
        (ticket, arrives.then(|| self.answer(is_report, &request)))
    }

    /// Carries a request out, and answers it.
    fn answer(&mut self, is_report: bool, request: &Request<Bytes>) -> Response<Bytes> {
        let is_patch = request.method() == "PATCH";
        let answer = Response::builder().header("job-status", if self.is_over { "success" } else { "running" });
        let answer = match (self.is_over, is_patch) {
            (true, _) => answer.status(403),
            (false, true) => {
                let range = request.headers()["content-range"].to_str().expect("digits");
                let start = range.split('-').next().and_then(|start| start.parse().ok());
                let fits = start == Some(self.log.len());
                if fits {
                    self.log.extend_from_slice(request.body());
                }
                answer.status(if fits { 202 } else { 416 }).header("range", format!("0-{}", self.log.len()))
            }
            (false, false) => {
                self.is_over |= is_report;
                answer.status(200)
            }
        };
        answer.body(Bytes::new()).expect("valid headers")
    }
}

/// A job, the process that runs it, and what is outside of both.
struct Life {
    config: Arc<RunnerConfig>,
    durable: bool,
    job: Job,
    gitlab: GitLab,
    now: Timestamp,
    /// All that the job has written. It is on a disk, as far as `saved` says.
    log: Vec<u8>,
    saved: (JobSnapshot, usize),
    outcome: Option<Outcome>,
}

impl Life {
    fn save(&mut self) {
        self.saved = (self.job.snapshot(), self.log.len());
        self.job.saved(self.job.revision(), self.log.len() as u64);
    }

    /// Polls until there is a call, or nothing before a later time.
    fn next(&mut self) -> Option<Call> {
        for _ in 0..200 {
            match self.job.poll(self.now) {
                Output::Send(call) => return Some(call),
                Output::Event(JobEvent::Save) => self.save(),
                Output::Event(JobEvent::TraceNeeded(range)) => {
                    let bytes = self.log[range.start as usize..range.end as usize].to_vec();
                    self.job.supply_trace(range.start, bytes.into()).expect("those are the bytes asked for");
                }
                Output::Event(JobEvent::Finished(outcome)) => self.outcome = Some(outcome),
                Output::Event(event @ (JobEvent::Aborted(_) | JobEvent::TraceShifted { .. })) => {
                    panic!("{event:?} although GitLab keeps its word")
                }
                Output::Event(_) => {}
                Output::Wait(_) | Output::Done => return None,
            }
        }
        panic!("200 outputs and no rest");
    }

    /// One call, if one is due: it arrives or not, and so does its answer.
    fn exchange(&mut self, arrives: bool, is_answered: bool) {
        let Some(call) = self.next() else { return };
        let (ticket, answer) = self.gitlab.take(call, arrives);
        let handed = match answer.filter(|_| is_answered) {
            Some(answer) => self.job.handle_response(ticket, answer, self.now),
            None => self.job.handle_failure(ticket, Failure::TimedOut, self.now),
        };
        handed.expect("it is this job's ticket");
    }

    /// The process dies, also between a call and its answer. A durable job goes on from what was saved, another one from a moment at
    /// which it was moved.
    fn die(&mut self, in_flight: bool) {
        if in_flight && let Some(call) = self.next() {
            // Nobody waits for the answer any more.
            _ = self.gitlab.take(call, true);
        }
        if !self.durable {
            self.save();
        }
        let (snapshot, length) = self.saved.clone();
        self.log.truncate(length);
        let snapshot = JobSnapshot::from_json(&snapshot.to_json()).expect("what was written can be read");
        self.job = Job::resume(self.config.clone(), &assignment(), snapshot, self.now).expect("it is this job");
    }

    /// The job moves to another process in a record, with its log.
    fn move_on(&mut self) {
        let record = JobRecord::with_log_before(&mut self.job, 0, &self.log).expect("its log is known");
        let record = JobRecord::from_json(&record.to_json()).expect("what was written can be read");
        self.job = record.resume(self.config.clone(), self.now).expect("it is this job");
        self.save();
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.saturating_add(time);
    }
}

/// Whatever is lost on the way, at GitLab before the job has its result, or with the process: in the end GitLab has the whole log, once
/// and in order, and the result.
pub fn delivery(data: &[u8]) {
    let script = &mut Script(data);
    let durable = data.first().is_some_and(|flags| flags & 1 != 0);
    let config = config(script);
    let mut job = Job::new(config.clone(), &assignment(), NOW);
    let saved = (job.snapshot(), 0);
    let (gitlab, log) = (GitLab::default(), Vec::new());
    let mut life = Life { config, durable, job, gitlab, now: NOW, log, saved, outcome: None };
    while !script.is_over() {
        match script.byte() % 12 {
            0 | 1 => {
                let text = vec![b'a' + script.byte() % 26; usize::from(script.byte() % 40)];
                if life.job.write_to(Stream::Stdout, text.clone()) == Written::Queued {
                    life.log.extend(text);
                }
            }
            2..=4 => life.exchange(true, true),
            5 => life.exchange(true, false),
            6 => life.exchange(false, false),
            7 => life.pass(Duration::from_secs(u64::from(script.byte()))),
            8 => {
                // After the result, nobody would notice a loss between the last answer about the log and the report.
                let left = life.gitlab.log.len().saturating_sub(usize::from(script.byte()));
                if !life.job.is_ended() {
                    life.gitlab.log.truncate(left);
                }
            }
            9 => life.die(script.byte() & 1 == 1),
            10 => life.move_on(),
            _ => life.job.finish(JobResult::success()),
        }
    }
    life.job.finish(JobResult::success());
    for _ in 0..2000 {
        if life.outcome.is_some() {
            assert_eq!(life.gitlab.log, life.log, "the log is not what was written");
            assert_eq!((life.outcome, life.gitlab.is_over), (Some(Outcome::Success), true));
            return;
        }
        life.exchange(true, true);
        life.pass(Duration::from_secs(1));
    }
    panic!("GitLab works, and 2000 seconds later the job is not over");
}
