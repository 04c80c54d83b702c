//! Every small life of a job: a log of four bytes, patches of up to three, and each of a few faults at each place where it
//! can happen, on the real machine and the simulated GitLab.

use std::sync::Arc;

use bytes::Bytes;
use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::{
    Assignment, Body, CallKind, Failure, Job, JobEvent, JobResult, JobSnapshot, Machine, Output, Poller, PollerEvent,
    Retain, RunnerConfig, RunnerToken, Server, Stream, Ticket, Timestamp,
};
use http::Request;

use crate::coordinator::{Answer, Coordinator, JobStatus, NewJob, Settings};

const LOG: &[u8] = b"abcd";
const START: Timestamp = Timestamp::from_millis(1_750_000_000_000);
const TOKEN: &str = "glrt-exhaustive";

/// What may go wrong in a life, and how often in all.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a case of a test, to be written down")]
pub struct Bounds {
    /// Faults of all kinds together. Each kind happens at most once: a request lost, an answer lost, a request that arrives a
    /// second time later, a crash, and a GitLab that forgets the end of its log.
    pub faults: u8,
    /// Whether the job is saved before it sends, and a crash leads back to that; if not, a crash leads to a snapshot of the
    /// very moment.
    pub durable: bool,
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "two numbers")]
pub struct Explored {
    /// Different lives, each from its start to its end.
    pub lives: u64,
    /// Places in them where something could have gone another way.
    pub choices: u64,
}

/// Lives all lives within the bounds.
///
/// # Errors
///
/// The first in which GitLab's log was ever no beginning of the job's, or was not all of it in the end, or the job not what
/// was reported: what happened in it, line by line.
pub fn explore(bounds: Bounds) -> Result<Explored, String> {
    let mut explored = Explored::default();
    let mut path = Path::default();
    loop {
        let life = Life::begin(bounds, &mut path)?;
        explored.choices += life.run()?;
        explored.lives += 1;
        if !path.advance() {
            return Ok(explored);
        }
    }
}

/// Which way was taken at each choice, and how many there were.
#[derive(Default)]
struct Path {
    taken: Vec<(u8, u8)>,
    at: usize,
}

impl Path {
    fn choose(&mut self, ways: u8) -> u8 {
        if self.at == self.taken.len() {
            self.taken.push((0, ways));
        }
        self.at += 1;
        self.taken[self.at - 1].0
    }

    /// To the next path that was not taken; false if there is none.
    fn advance(&mut self) -> bool {
        while let Some((way, ways)) = self.taken.pop() {
            if way + 1 < ways {
                self.taken.push((way + 1, ways));
                self.at = 0;
                return true;
            }
        }
        false
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    RequestLost,
    AnswerLost,
    /// It arrives, and once more before the next one.
    Twice,
    /// The process dies with the request on the wire, which is lost with it.
    CrashBefore,
    /// The process dies, and the request arrives.
    CrashAfter,
    /// The process dies, and the request arrives when its successor has sent one.
    CrashLate,
    /// GitLab forgets the last byte of its log, and then the request arrives.
    Forget,
}

struct Life<'a> {
    path: &'a mut Path,
    bounds: Bounds,
    gitlab: Coordinator,
    config: Arc<RunnerConfig>,
    assignment: Assignment,
    job: Job,
    now: Timestamp,
    faults: Vec<Fault>,
    /// A request that is still on its way.
    late: Option<Request<Bytes>>,
    /// What is on disk: a snapshot, and how long the log is there.
    disk: Option<String>,
    told: Vec<String>,
}

impl<'a> Life<'a> {
    fn begin(bounds: Bounds, path: &'a mut Path) -> Result<Self, String> {
        let server = Server::parse("https://gitlab.example.test").map_err(|error| error.to_string())?;
        let config = RunnerConfig::new(server, Info::new("exhaustive", "1"))
            .with_patch_limit(3)
            .with_retain(Retain::Unacknowledged)
            .with_durable(bounds.durable);
        let config = Arc::new(config);
        let mut gitlab = Coordinator::new(Settings::default());
        gitlab.add_runner(TOKEN);
        gitlab.queue(START, NewJob::new("small"));
        let token = RunnerToken::new(TOKEN).map_err(|error| error.to_string())?;
        let mut poller = Poller::new(config.clone(), token, START);
        poller.set_capacity(1);
        let assignment = loop {
            match poller.poll(START) {
                Output::Send(call) => {
                    let (request, ticket) = call.split();
                    let Answer::Now(answer) = gitlab.submit(START, request.map(Body::into_bytes)) else {
                        return Err("the request for a job is held".to_owned());
                    };
                    poller.handle_response(ticket, answer, START).map_err(|error| error.to_string())?;
                }
                Output::Event(PollerEvent::Assigned(assignment)) => break assignment,
                other => return Err(format!("no job: {other:?}")),
            }
        };
        let job = Job::new(config.clone(), &assignment, START);
        let (faults, told) = (Vec::new(), Vec::new());
        Ok(Self { path, bounds, gitlab, config, assignment, job, now: START, faults, late: None, disk: None, told })
    }

    fn run(mut self) -> Result<u64, String> {
        for _ in 0..400 {
            match self.job.poll(self.now) {
                Output::Send(call) => {
                    let (request, ticket) = call.split();
                    self.send(request.map(Body::into_bytes), ticket)?;
                }
                Output::Event(JobEvent::Save) => self.save(),
                Output::Event(JobEvent::TraceNeeded(range)) => {
                    let bytes = Bytes::from_static(&LOG[range.start as usize..range.end as usize]);
                    self.job.supply_trace(range.start, bytes).map_err(|error| error.to_string())?;
                }
                Output::Event(event) => self.told.push(format!("{event:?}")),
                Output::Wait(until) => {
                    self.print();
                    self.now =
                        until.unwrap_or(self.now).max(self.now.saturating_add(std::time::Duration::from_millis(1)));
                }
                Output::Done => return self.check_end(),
            }
            self.check_log()?;
        }
        Err(self.fault("it has no end"))
    }

    /// The script prints two bytes, then two more, and then it has ended.
    fn print(&mut self) {
        let taken = self.job.taken(Stream::Runner) as usize;
        match LOG.get(taken..LOG.len().min(taken + 2)) {
            Some(bytes) if !bytes.is_empty() => _ = self.job.write(Bytes::from_static(bytes)),
            _ => self.job.finish(JobResult::success()),
        }
    }

    fn save(&mut self) {
        let snapshot = self.job.snapshot();
        self.job.saved(snapshot.revision(), snapshot.log_size());
        self.disk = Some(snapshot.to_json());
    }

    fn send(&mut self, request: Request<Bytes>, ticket: Ticket) -> Result<(), String> {
        let kind = ticket.hints().kind;
        let fault = self.choose_fault(kind);
        let range = request.headers().get("content-range").and_then(|range| range.to_str().ok()).unwrap_or("");
        self.told.push(format!("{kind:?} {range} {fault:?}"));
        if let Some(late) = self.late.take_if(|_| fault != Fault::CrashLate) {
            _ = self.gitlab.submit(self.now, late);
            self.check_log()?;
        }
        // What was late may just have ended it.
        if fault == Fault::Forget && self.runs() {
            let held = self.gitlab.job(self.assignment.id()).map_or(0, |job| job.trace().len());
            self.gitlab.forget_trace_tail(self.assignment.id(), held.saturating_sub(1) as u64);
        }
        let arrives = !matches!(fault, Fault::RequestLost | Fault::CrashBefore | Fault::CrashLate);
        if matches!(fault, Fault::Twice | Fault::CrashLate) {
            self.late = Some(request.clone());
        }
        let answer = if arrives { Some(self.gitlab.submit(self.now, request)) } else { None };
        let handed = match (fault, answer) {
            (Fault::CrashBefore | Fault::CrashAfter | Fault::CrashLate, _) => return self.crash(),
            (Fault::None | Fault::Twice | Fault::Forget, Some(Answer::Now(answer))) => {
                self.job.handle_response(ticket, answer, self.now)
            }
            _ => self.job.handle_failure(ticket, Failure::Unknown, self.now),
        };
        handed.map_err(|misuse| self.fault(&misuse.to_string()))
    }

    fn choose_fault(&mut self, kind: CallKind) -> Fault {
        if self.faults.len() >= usize::from(self.bounds.faults) {
            return Fault::None;
        }
        let is_crash = |fault: &Fault| matches!(fault, Fault::CrashBefore | Fault::CrashAfter | Fault::CrashLate);
        let crashed = self.faults.iter().any(is_crash);
        let late = self.late.is_some();
        let mut ways = vec![Fault::None];
        for fault in [Fault::RequestLost, Fault::AnswerLost, Fault::Twice, Fault::Forget] {
            // What GitLab forgets right before the report, or when the job has ended there, is its own loss.
            let possible = (fault != Fault::Forget || kind == CallKind::PatchTrace && self.runs())
                && !(fault == Fault::Twice && late);
            if possible && !self.faults.contains(&fault) {
                ways.push(fault);
            }
        }
        if !crashed {
            ways.extend([Fault::CrashBefore, Fault::CrashAfter]);
            ways.extend((!late).then_some(Fault::CrashLate));
        }
        let fault = ways[usize::from(self.path.choose(ways.len() as u8))];
        if fault != Fault::None {
            self.faults.push(fault);
        }
        fault
    }

    fn crash(&mut self) -> Result<(), String> {
        let stored = if self.bounds.durable { self.disk.clone() } else { Some(self.job.snapshot().to_json()) };
        let resumed = match stored {
            None => Ok(Job::new(self.config.clone(), &self.assignment, self.now)),
            Some(json) => JobSnapshot::from_json(&json)
                .and_then(|snapshot| Job::resume(self.config.clone(), &self.assignment, snapshot, self.now)),
        };
        self.job = resumed.map_err(|error| self.fault(&error.to_string()))?;
        Ok(())
    }

    /// Whether it does at GitLab.
    fn runs(&self) -> bool {
        self.gitlab.job(self.assignment.id()).is_some_and(|job| job.status() == JobStatus::Running)
    }

    fn check_log(&self) -> Result<(), String> {
        let held = self.gitlab.job(self.assignment.id()).map_or(&[][..], |job| job.trace());
        if LOG.starts_with(held) { Ok(()) } else { Err(self.fault("GitLab's log is not what was printed")) }
    }

    fn check_end(&self) -> Result<u64, String> {
        let Some(job) = self.gitlab.job(self.assignment.id()) else { return Err(self.fault("GitLab lost the job")) };
        if job.trace() != LOG {
            return Err(self.fault("GitLab's log is not whole"));
        }
        if job.status() != JobStatus::Success {
            return Err(self.fault("the job did not end as reported"));
        }
        Ok(self.path.taken.len() as u64)
    }

    fn fault(&self, what: &str) -> String {
        let held = self.gitlab.job(self.assignment.id()).map_or(&[][..], |job| job.trace());
        format!("{what}: GitLab has {:?} after\n{}", held.escape_ascii().to_string(), self.told.join("\n"))
    }
}
