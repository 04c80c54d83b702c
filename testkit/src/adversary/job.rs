//! A job under attack.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::log::LogOptions;
use gitlab_runner_api::{
    Assignment, Body, Call, Failure, Job, JobEvent, JobResult, JobSnapshot, Machine, Outcome as Ending, Output, Retain,
    RunnerConfig, Server, Ticket, Timestamp,
};
use http::{Method, Request, Response};

use super::reply::latency;
use super::{Choose, Finding, HEALING, Life, Reply, Report, Target};
use crate::monitor::{JobMonitor, Patience};

pub(super) const START: Timestamp = Timestamp::from_millis(1_750_000_000_000);
pub(super) const VALID: &str = "the fixed names of an attack are valid";
const SECOND: Duration = Duration::from_secs(1);

pub(super) type Outcome = Result<Response<Bytes>, Failure>;

/// The last lines of what happened.
#[derive(Default)]
pub(super) struct Timeline(VecDeque<String>);

impl Timeline {
    pub(super) fn note(&mut self, now: Timestamp, line: impl FnOnce() -> String) {
        if self.0.len() == 60 {
            self.0.pop_front();
        }
        let after = now.saturating_since(START).as_secs_f64();
        self.0.push_back(format!("{after:>10.3} {}", line()));
    }

    pub(super) fn finding(&mut self, what: &str, answers: u64) -> Finding {
        Finding { what: what.to_owned(), timeline: std::mem::take(&mut self.0).into(), answers }
    }
}

/// What GitLab holds, as far as its answers and the forged ones say.
struct Held {
    size: u64,
    state: &'static str,
    /// A forged answer named a final state, so that nothing is promised of the log any more.
    forged_end: bool,
}

impl Held {
    /// What GitLab answers, and what it then holds.
    fn take(&mut self, request: &Request<Bytes>, sent: &Range<u64>) -> Response<Bytes> {
        let response = Response::builder().header("job-status", self.state);
        if self.state != "running" {
            return response.status(403).body(Bytes::from_static(br#"{"message":"403 Forbidden"}"#)).expect(VALID);
        }
        if request.method() == Method::PATCH {
            if sent.start == self.size {
                self.size = sent.end;
            }
            let response = if sent.end == self.size {
                response.status(202)
            } else {
                response.status(416).header("range", format!("0-{}", self.size))
            };
            return response.body(Bytes::new()).expect(VALID);
        }
        if let Some(state) = reported(request) {
            self.state = state;
        }
        Response::builder().status(200).header("job-status", self.state).body(Bytes::new()).expect(VALID)
    }

    /// What a forged answer makes true: GitLab holds what an answer says that may be GitLab's.
    fn believe(&mut self, request: &Request<Bytes>, sent: &Range<u64>, response: &Response<Bytes>) {
        let word = response.headers().get("job-status").and_then(|word| word.to_str().ok()).unwrap_or_default();
        self.forged_end |= matches!(word, "success" | "failed" | "canceled");
        let page = response.headers().get("content-type").is_some_and(|kind| kind == "text/html");
        let size =
            response.headers().get("range").and_then(|range| range.to_str().ok()?.strip_prefix("0-")?.parse().ok());
        match (request.method() == Method::PATCH, response.status().as_u16(), size) {
            (true, 202, _) if !page => self.size = sent.end,
            (true, 416, Some(size)) => self.size = size,
            (false, 200, _) if !page => {
                if let Some(state) = reported(request) {
                    self.state = state;
                }
            }
            _ => {}
        }
    }
}

/// The final state that a request reports.
fn reported(request: &Request<Bytes>) -> Option<&'static str> {
    let json: serde_json::Value = serde_json::from_slice(request.body()).ok()?;
    ["success", "failed"].into_iter().find(|state| json["state"] == *state)
}

struct Arena {
    life: Life,
    config: Arc<RunnerConfig>,
    assignment: Assignment,
    job: Job,
    monitor: JobMonitor,
    now: Timestamp,
    heals: Timestamp,
    /// When the application acts next.
    acts: Timestamp,
    seconds: u64,
    home: Option<(Timestamp, Ticket, Outcome)>,
    held: Held,
    written: Vec<u8>,
    saved: Option<String>,
    attacked: u64,
    answers: u64,
    finished: bool,
    given_up: bool,
    end: Option<JobEvent>,
    timeline: Timeline,
}

/// Lives a job's life. With `until`, stops after so many attacked calls and says how many calls and events that made a second.
pub(super) fn attack(
    life: Life,
    target: Target,
    seed: u64,
    choose: Choose<'_>,
    until: Option<(u64, &mut Option<f64>)>,
) -> Result<Report, Finding> {
    let mut arena = Arena::new(life, seed);
    let limit = until.as_ref().map_or(u64::MAX, |(calls, _)| *calls);
    let lived = arena.live(target, choose, limit);
    let answers = arena.answers;
    lived.map_err(|what| arena.timeline.finding(&what, answers))?;
    let (calls, events) = arena.monitor.worst();
    if let Some((wanted, rate)) = until {
        let seconds = arena.now.saturating_since(START).as_secs_f64();
        *rate = (arena.attacked >= wanted).then(|| (calls.hour + events.hour) as f64 / (seconds + 0.001));
    }
    Ok(Report { answers, calls, events })
}

impl Arena {
    fn new(life: Life, seed: u64) -> Self {
        let server = Server::parse("https://gitlab.example.test").expect(VALID);
        let retain = if life.keeps_log { Retain::Unacknowledged } else { Retain::All };
        let config = RunnerConfig::new(server, Info::new("adversary", "1"))
            .with_jitter_seed(seed)
            .with_durable(life.durable)
            .with_retain(retain)
            .with_log(LogOptions::dangerously_raw());
        let config = Arc::new(config);
        let assignment =
            Assignment::from_json(r#"{"id":9,"token":"t","runner_info":{"timeout":1000000}}"#).expect(VALID);
        let patience = Patience { durable: life.durable, ..Patience::default() };
        let heals = START.saturating_add(life.attack);
        let mut arena = Self {
            job: Job::new(config.clone(), &assignment, START),
            monitor: JobMonitor::new(patience, START),
            config,
            assignment,
            now: START,
            heals,
            acts: START.saturating_add(SECOND),
            seconds: 0,
            home: None,
            held: Held { size: 0, state: "running", forged_end: false },
            written: Vec::new(),
            saved: None,
            attacked: 0,
            answers: 0,
            finished: false,
            given_up: false,
            end: None,
            timeline: Timeline::default(),
            life,
        };
        arena.write(life.first);
        arena
    }

    fn write(&mut self, length: usize) {
        if length == 0 || self.finished {
            return;
        }
        let from = self.written.len();
        let bytes: Vec<u8> = (from..from + length).map(|at| b'a' + (at % 26) as u8).collect();
        self.written.extend_from_slice(&bytes);
        self.monitor.wrote(&bytes);
        self.job.write(bytes);
    }

    fn live(&mut self, target: Target, choose: Choose<'_>, limit: u64) -> Result<(), String> {
        let mut outputs = 0;
        while self.attacked < limit {
            outputs += 1;
            if outputs > 1000 {
                return Err("a thousand outputs at one moment".to_owned());
            }
            match self.job.poll(self.now) {
                Output::Send(call) => {
                    self.send(call, target, choose)?;
                    let due = self.life.resume_every > 0 && self.answers.is_multiple_of(self.life.resume_every);
                    if due && self.now < self.heals {
                        self.resume()?;
                        outputs = 0;
                    }
                }
                Output::Event(event) => self.hear(event)?,
                Output::Wait(until) => {
                    self.monitor.waits(until, self.now)?;
                    outputs = 0;
                    self.pass(until)?;
                }
                Output::Done => return self.check_end(),
            }
            if self.now > self.heals.saturating_add(HEALING) {
                return Err("L12: no end within twenty minutes".to_owned());
            }
        }
        Ok(())
    }

    fn send(&mut self, call: Call, target: Target, choose: Choose<'_>) -> Result<(), String> {
        let (request, ticket) = call.split();
        let (request, deadline) = (request.map(Body::into_bytes), ticket.hints().deadline);
        let patch = request.method() == Method::PATCH;
        let report = !patch && reported(&request).is_some();
        let start = request
            .headers()
            .get("content-range")
            .and_then(|range| range.to_str().ok()?.split('-').next()?.parse().ok());
        let start: u64 = start.unwrap_or(0);
        let sent = start..start + if patch { request.body().len() as u64 } else { 0 };
        let aimed = match target {
            Target::All => true,
            Target::Patches => patch,
            Target::KeepAlives => !patch && !report,
            Target::Reports => report,
        };
        let reply = if self.now < self.heals && aimed {
            self.attacked += 1;
            choose(self.attacked - 1)
        } else {
            Reply::Honest
        };
        self.answers += 1;
        self.timeline.note(self.now, || {
            let what = if patch {
                format!("PATCH {sent:?}")
            } else if report {
                "report".into()
            } else {
                "running".into()
            };
            format!("{what} -> {reply:?}")
        });
        let outcome = match reply {
            Reply::Honest | Reply::Never => Ok(self.held.take(&request, &sent)),
            Reply::AnswerLost(failure) => {
                self.held.take(&request, &sent);
                Err(failure)
            }
            Reply::Fails(failure) => Err(failure),
            Reply::Says { .. } => {
                let response = reply.answer(sent.clone()).ok_or("no answer")?;
                self.held.believe(&request, &sent, &response);
                Ok(response)
            }
        };
        self.home = latency(reply, deadline).map(|span| (self.now.saturating_add(span), ticket, outcome));
        self.monitor.sent(&request, deadline, self.now)
    }

    /// Lets time pass to whatever comes next.
    fn pass(&mut self, until: Option<Timestamp>) -> Result<(), String> {
        let arrival = self.home.as_ref().map(|(at, ..)| *at);
        let acts = (!self.finished).then_some(self.acts);
        let next = until.into_iter().chain(arrival).chain(acts).min().ok_or("nothing will ever happen again")?;
        self.now = self.now.max(next);
        if let Some((_, ticket, outcome)) = self.home.take_if(|(at, ..)| *at <= self.now) {
            match &outcome {
                Ok(response) => self.monitor.answered(response, self.now)?,
                Err(failure) => self.monitor.failed(failure.may_have_arrived(), self.now)?,
            }
            let handed = match outcome {
                Ok(response) => self.job.handle_response(ticket, response, self.now),
                Err(failure) => self.job.handle_failure(ticket, failure, self.now),
            };
            handed.map_err(|misuse| format!("misused: {misuse}"))?;
        }
        if !self.finished && self.acts <= self.now {
            self.act();
        }
        Ok(())
    }

    /// What the application does once a second.
    fn act(&mut self) {
        self.seconds += 1;
        // Nothing else would happen for a long time in an idle life.
        let quiet = self.life.every_second == 0 && self.life.check_every == 0;
        let due = self.life.finish_after > 0 && self.seconds >= self.life.finish_after;
        self.acts = self.acts.saturating_add(if quiet { Duration::from_secs(60) } else { SECOND });
        self.seconds += if quiet { 59 } else { 0 };
        self.write(self.life.every_second);
        if self.life.check_every > 0 && self.seconds.is_multiple_of(self.life.check_every) {
            self.job.check_in();
            self.monitor.checked_in();
        }
        if due || self.now >= self.heals {
            self.finished = true;
            self.job.finish(JobResult::success());
            self.monitor.finished(self.now);
        }
    }

    fn hear(&mut self, event: JobEvent) -> Result<(), String> {
        self.timeline.note(self.now, || format!("{event:?}"));
        let acknowledged = self.job.log_size() - self.job.unsent();
        self.monitor.told(&event, acknowledged, self.now)?;
        match event {
            JobEvent::Save => {
                let snapshot = self.job.snapshot();
                self.job.saved(snapshot.revision(), self.job.log_size());
                self.monitor.saved(self.job.log_size());
                self.saved = Some(snapshot.to_json());
            }
            JobEvent::TraceNeeded(range) => {
                let bytes =
                    self.written.get(range.start as usize..range.end as usize).ok_or("a range that is not there")?;
                self.job
                    .supply_trace(range.start, Bytes::copy_from_slice(bytes))
                    .map_err(|misuse| misuse.to_string())?;
                self.monitor.verb(false);
            }
            JobEvent::CancelRequested if !self.finished => {
                self.finished = true;
                self.job.finish(JobResult::success());
                self.monitor.finished(self.now);
            }
            JobEvent::TraceRefused { .. } => self.given_up = true,
            JobEvent::Finished(_) | JobEvent::Aborted(_) => self.end = Some(event),
            _ => {}
        }
        Ok(())
    }

    /// The process dies, and goes on from a snapshot: the last that was saved, or one of this very moment.
    fn resume(&mut self) -> Result<(), String> {
        let text = match (&self.saved, self.life.durable) {
            (Some(saved), true) => saved.clone(),
            (None, true) => return Ok(()),
            (_, false) => self.job.snapshot().to_json(),
        };
        // No process starts again within no time.
        self.now = self.now.saturating_add(SECOND);
        self.timeline.note(self.now, || "resumed".to_owned());
        let snapshot = JobSnapshot::from_json(&text).map_err(|error| error.to_string())?;
        let (size, finishing) = (snapshot.log_size() as usize, text.contains("finishing"));
        self.job = Job::resume(self.config.clone(), &self.assignment, snapshot, self.now)
            .map_err(|error| error.to_string())?;
        self.home = None;
        self.monitor.resumed(size as u64, !self.life.durable, self.now);
        // What the application wrote since is written again, and a result given since is given again.
        let lost = self.written.split_off(size);
        self.job.write(lost.clone());
        self.monitor.wrote(&lost);
        self.written.extend_from_slice(&lost);
        if self.finished && !finishing {
            self.job.finish(JobResult::success());
        }
        Ok(())
    }

    fn check_end(&mut self) -> Result<(), String> {
        self.monitor.ended();
        let late = self.now.saturating_add(Duration::from_secs(100_000));
        self.job.check_in();
        self.job.finish(JobResult::success());
        if !matches!(self.job.poll(late), Output::Done) {
            return Err("L4: it was done, and then it was not".to_owned());
        }
        if let Some(JobEvent::Finished(Ending::Success)) = self.end
            && !self.given_up
            && !self.held.forged_end
            && self.held.size < self.written.len() as u64
        {
            return Err(format!("L7: {} of {} bytes arrived", self.held.size, self.written.len()));
        }
        Ok(())
    }
}
