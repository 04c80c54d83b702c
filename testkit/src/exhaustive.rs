//! Every small life of a job: a log of four bytes, patches of up to three, and each of a few faults at each place where it
//! can happen, on the real machine and the simulated GitLab.
//!
//! Somebody else may write five bytes into the same log, more than a patch has. That happens only while GitLab has all that the job
//! may have sent: if it does not, nobody can tell from the size of the log whose bytes are there.

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
/// What somebody else writes into it.
const FOREIGN: &[u8] = b"#####";
const START: Timestamp = Timestamp::from_millis(1_750_000_000_000);
const TOKEN: &str = "glrt-exhaustive";

/// What may go wrong in a life, and how often in all.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a case of a test, to be written down")]
pub struct Bounds {
    /// Faults of all kinds together. Each kind happens at most once: a request lost, an answer lost, a request that arrives a
    /// second time later, a crash, a GitLab that forgets the end of its log, and a foreign writer.
    pub faults: u8,
    /// How many bytes GitLab forgets: each of these, and all that it has.
    pub forgets: &'static [u64],
    /// Whether somebody else writes into the same log.
    pub foreign: bool,
    /// Whether some jobs get their result only when GitLab has acknowledged all of their log. Only a probe finds out what GitLab loses
    /// from then on.
    pub patient: bool,
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
    /// GitLab forgets so many bytes at the end of its log, and then the request arrives.
    Forget(u64),
    /// Somebody else writes into the log, and then the request arrives.
    Foreign,
}

impl Fault {
    fn is_crash(self) -> bool {
        matches!(self, Self::CrashBefore | Self::CrashAfter | Self::CrashLate)
    }

    fn forgets(self) -> bool {
        matches!(self, Self::Forget(_))
    }
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
    /// GitLab may lack bytes that the job has sent, and the job does not know.
    unsure: bool,
    /// Whether the job waits for its log before it gets its result, once that is chosen.
    waits: Option<bool>,
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
        Ok(Self {
            path,
            bounds,
            gitlab,
            config,
            assignment,
            job,
            now: START,
            faults,
            late: None,
            unsure: false,
            waits: None,
            disk: None,
            told,
        })
    }

    fn run(mut self) -> Result<u64, String> {
        for _ in 0..400 {
            match self.job.poll(self.now) {
                Output::Send(call) => {
                    let (request, ticket) = call.split();
                    self.send(request.map(Body::into_bytes), ticket)?;
                }
                Output::Event(JobEvent::Save) => {
                    self.save();
                    self.end_early()?;
                }
                Output::Event(JobEvent::TraceNeeded(range)) => {
                    let bytes = Bytes::from_static(&LOG[range.start as usize..range.end as usize]);
                    self.job.supply_trace(range.start, bytes).map_err(|error| error.to_string())?;
                }
                Output::Event(event) => self.told.push(format!("{event:?}")),
                Output::Wait(until) => {
                    self.print()?;
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
    fn print(&mut self) -> Result<(), String> {
        let taken = self.job.taken(Stream::Runner) as usize;
        match LOG.get(taken..LOG.len().min(taken + 2)) {
            Some(bytes) if !bytes.is_empty() => _ = self.job.write(Bytes::from_static(bytes)),
            _ if self.job.is_ended() || (self.waits_for_log() && self.job.unsent() > 0) => {}
            _ => {
                self.forget_at_the_end();
                self.job.finish(JobResult::success());
                self.end_early()?;
            }
        }
        Ok(())
    }

    fn waits_for_log(&mut self) -> bool {
        let Self { waits, path, bounds, .. } = self;
        *waits.get_or_insert_with(|| bounds.patient && path.choose(2) == 1)
    }

    /// GitLab forgets the end of a log right before the job gets its result. Nothing but a probe can find that out.
    fn forget_at_the_end(&mut self) {
        if self.is_spent() || self.faults.iter().any(|fault| fault.forgets()) || !self.runs() {
            return;
        }
        let lost: Vec<u64> = [0].into_iter().chain(self.bounds.forgets.iter().copied()).collect();
        let way = self.path.choose(lost.len() as u8);
        if let Some(bytes) = lost.get(usize::from(way)).filter(|bytes| **bytes > 0) {
            self.faults.push(Fault::Forget(*bytes));
            self.told.push(format!("GitLab forgets {bytes} bytes before the job ends"));
            self.forget(*bytes);
        }
    }

    /// The process dies between the result and the next request.
    fn end_early(&mut self) -> Result<(), String> {
        let crashed = self.faults.iter().any(|fault| fault.is_crash());
        if !self.job.is_ended() || self.is_spent() || crashed || self.path.choose(2) == 0 {
            return Ok(());
        }
        self.faults.push(Fault::CrashBefore);
        self.told.push("a crash after the result".to_owned());
        self.crash()
    }

    fn is_spent(&self) -> bool {
        self.faults.len() >= usize::from(self.bounds.faults)
    }

    fn forget(&mut self, bytes: u64) {
        let held = self.gitlab.job(self.assignment.id()).map_or(0, |job| job.trace().len()) as u64;
        self.gitlab.forget_trace_tail(self.assignment.id(), held.saturating_sub(bytes));
        self.unsure = true;
    }

    /// Somebody else who has the job's token appends to its log.
    fn write_as_another(&mut self) {
        let Some(job) = self.gitlab.job(self.assignment.id()) else { return };
        let (size, token) = (job.trace().len(), job.token().to_owned());
        let request = Request::patch(format!("https://gitlab.example.test/api/v4/jobs/{}/trace", self.assignment.id()))
            .header("job-token", token)
            .header("content-range", format!("{size}-{}", size + FOREIGN.len() - 1))
            .body(Bytes::from_static(FOREIGN));
        if let Ok(request) = request {
            _ = self.gitlab.submit(self.now, request);
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
        match fault {
            Fault::Forget(bytes) if self.runs() => self.forget(bytes),
            Fault::Foreign if self.runs() => self.write_as_another(),
            _ => {}
        }
        let arrives = !matches!(fault, Fault::RequestLost | Fault::CrashBefore | Fault::CrashLate);
        if matches!(fault, Fault::Twice | Fault::CrashLate) {
            self.late = Some(request.clone());
        }
        let answer = if arrives { Some(self.gitlab.submit(self.now, request)) } else { None };
        let handed = match (fault, answer) {
            (Fault::CrashBefore | Fault::CrashAfter | Fault::CrashLate, _) => return self.crash(),
            (Fault::None | Fault::Twice | Fault::Forget(_) | Fault::Foreign, Some(Answer::Now(answer))) => {
                self.unsure &= kind != CallKind::PatchTrace;
                self.job.handle_response(ticket, answer, self.now)
            }
            _ => {
                self.unsure |= kind == CallKind::PatchTrace;
                self.job.handle_failure(ticket, Failure::Unknown, self.now)
            }
        };
        handed.map_err(|misuse| self.fault(&misuse.to_string()))
    }

    fn choose_fault(&mut self, kind: CallKind) -> Fault {
        if self.is_spent() {
            return Fault::None;
        }
        let crashed = self.faults.iter().any(|fault| fault.is_crash());
        let (late, patch) = (self.late.is_some(), kind == CallKind::PatchTrace && self.runs());
        let mut ways = vec![Fault::None];
        let mut offer = |fault: Fault, possible: bool| ways.extend(possible.then_some(fault));
        for fault in [Fault::RequestLost, Fault::AnswerLost] {
            offer(fault, !self.faults.contains(&fault));
        }
        offer(Fault::Twice, !late && !self.faults.contains(&Fault::Twice));
        // What GitLab forgets right before the report, or when the job has ended there, is its own loss.
        let forgot = self.faults.iter().any(|fault| fault.forgets());
        for bytes in self.bounds.forgets {
            offer(Fault::Forget(*bytes), patch && !forgot);
        }
        let foreign = self.bounds.foreign && patch && !self.unsure && !late;
        offer(Fault::Foreign, foreign && !self.faults.contains(&Fault::Foreign));
        offer(Fault::CrashBefore, !crashed);
        offer(Fault::CrashAfter, !crashed);
        offer(Fault::CrashLate, !crashed && !late);
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
        self.unsure = self.printed().len() as u64 != self.job.log_size();
        Ok(())
    }

    /// Whether it does at GitLab.
    fn runs(&self) -> bool {
        self.gitlab.job(self.assignment.id()).is_some_and(|job| job.status() == JobStatus::Running)
    }

    /// What GitLab has of the job's log, without what somebody else wrote.
    fn printed(&self) -> Vec<u8> {
        let held = self.gitlab.job(self.assignment.id()).map_or(&[][..], |job| job.trace());
        held.iter().copied().filter(|byte| !FOREIGN.contains(byte)).collect()
    }

    fn check_log(&self) -> Result<(), String> {
        if LOG.starts_with(&self.printed()) { Ok(()) } else { Err(self.fault("GitLab's log is not what was printed")) }
    }

    fn check_end(&self) -> Result<u64, String> {
        let Some(job) = self.gitlab.job(self.assignment.id()) else { return Err(self.fault("GitLab lost the job")) };
        if self.printed() != LOG {
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
