//! The machines under arbitrary operations and answers, with the laws as oracle.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::{
    Assignment, CallKind, Failure, FailureReason, Hints, Job, JobEvent, JobRecord, JobResult, JobSnapshot, Machine,
    Misuse, Output, Poller, PollerEvent, Priority, ResumeError, Retain, RunnerConfig, RunnerToken, Secret, Server,
    Stream, Ticket, Timestamp, Written,
};
use http::{Request, Response};

use super::Script;

pub(super) const NOW: Timestamp = Timestamp::from_millis(1_750_000_000_000);
const PATCH_LIMIT: u64 = 16;
const STATUSES: [u16; 20] =
    [200, 202, 416, 403, 204, 201, 400, 401, 404, 408, 409, 412, 413, 429, 500, 502, 503, 302, 100, 599];
const WORDS: [&str; 8] = ["", "running", "canceling", "canceled", "failed", "success", "pending", "moon"];
const RANGES: [&str; 4] = ["", "0-x", "bytes 0-1", "0--1"];
const BODIES: [&str; 5] =
    ["", "<html>", r#"{"message":"403 Forbidden"}"#, r#"{"id":9,"token":"t"}"#, r#"{"id":9,"token":"t","steps":1}"#];
const FAILURES: [Failure; 6] = [
    Failure::NotSent,
    Failure::Unknown,
    Failure::TimedOut,
    Failure::TooLarge,
    Failure::Cancelled,
    Failure::interrupted(3),
];

pub(super) fn config(script: &mut Script<'_>) -> Arc<RunnerConfig> {
    let flags = script.byte();
    let server = Server::parse("https://gitlab.example.test").expect("a valid address");
    let retain = [Retain::All, Retain::Unacknowledged, Retain::Unsaved, Retain::Unsaved][usize::from(flags >> 1 & 3)];
    let config = RunnerConfig::new(server, Info::new("fuzz", "1"))
        .with_durable(flags & 1 != 0)
        .with_retain(retain)
        .with_patch_limit(PATCH_LIMIT);
    Arc::new(config)
}

pub(super) fn assignment() -> Assignment {
    Assignment::from_json(r#"{"id":9,"token":"t","features":{"failure_reasons":[]}}"#).expect("a valid payload")
}

fn answer(script: &mut Script<'_>) -> Response<Bytes> {
    let mut response = Response::builder().status(script.pick(&STATUSES));
    let word = script.pick(&WORDS);
    if !word.is_empty() {
        response = response.header("job-status", word);
    }
    response = match script.byte() {
        odd @ 250.. => response.header("range", RANGES[usize::from(odd) % RANGES.len()]),
        0 => response,
        _ => response.header("range", format!("0-{}", script.number())),
    };
    if script.byte() & 7 == 7 {
        response =
            response.header("retry-after", script.number()).header("x-gitlab-trace-update-interval", script.number());
    }
    response.body(Bytes::from_static(script.pick(&BODIES).as_bytes())).expect("valid headers")
}

/// What the fuzzed application and its driver know.
struct Bench {
    config: Arc<RunnerConfig>,
    durable: bool,
    now: Timestamp,
    ticket: Option<Ticket>,
    /// All bytes ever written, after the pipeline.
    log: Vec<u8>,
    saved: u64,
    /// GitLab's offset less ours, as last told. After bytes were forfeited, what is sent is not what was written.
    shift: Option<i128>,
    said: Option<[serde_json::Value; 3]>,
    done: bool,
}

impl Bench {
    /// Polls until the machine rests, checking what it does.
    fn drain(&mut self, job: &mut Job) {
        for _ in 0..200 {
            match job.poll(self.now) {
                Output::Send(call) => {
                    assert!(!self.done, "L4: a call after the end");
                    let (request, ticket) = call.split();
                    if let Some(old) = self.ticket.take() {
                        job.handle_failure(old, Failure::Unknown, self.now).expect("a late answer is no error");
                    }
                    self.check(job, ticket.hints(), &request.map(gitlab_runner_api::Body::into_bytes));
                    self.ticket = Some(ticket);
                }
                Output::Event(event) => {
                    assert!(!self.done, "L4: an event after the end");
                    self.hear(&event);
                }
                Output::Wait(until) => {
                    let before = job.snapshot();
                    assert!(matches!(job.poll(self.now), Output::Wait(again) if again == until), "L2: it did not rest");
                    assert_eq!(job.snapshot(), before, "L2: resting changed it");
                    let asked = job.trace_needed().is_some();
                    assert!(until.is_some() || asked, "L3: nothing will ever happen again");
                    return;
                }
                Output::Done => {
                    self.done = true;
                    return;
                }
            }
        }
        panic!("200 outputs and no rest");
    }

    fn hear(&mut self, event: &JobEvent) {
        if matches!(event, JobEvent::TraceShifted { .. }) {
            // Where ours lies in GitLab's log is told by the next piece.
            self.shift = None;
        }
    }

    fn check(&mut self, job: &Job, hints: &Hints, request: &Request<Bytes>) {
        let body = request.body();
        match (hints.kind, hints.priority) {
            (CallKind::PatchTrace, _) => {
                assert!(body.len() as u64 <= PATCH_LIMIT, "L6: {} bytes in a piece", body.len());
                let lossless = self.shift.is_some();
                let range = request.headers()["content-range"].to_str().expect("digits");
                let start: i128 = range.split('-').next().and_then(|start| start.parse().ok()).expect("a number");
                if let (true, Some(shift)) = (lossless && !body.is_empty(), self.shift) {
                    let at = usize::try_from(start - shift).expect("L6: a piece before the log");
                    assert_eq!(self.log.get(at..at + body.len()), Some(&body[..]), "L6: the piece is not the log");
                    assert!(!self.durable || (at + body.len()) as u64 <= self.saved, "L6: not saved");
                }
            }
            (CallKind::UpdateJob, Priority::FinalUpdate) => {
                assert_eq!(job.unsent(), 0, "L8: the report before the log");
                let json: serde_json::Value = serde_json::from_slice(body).expect("JSON");
                let said = ["state", "failure_reason", "exit_code"].map(|name| json[name].clone());
                let first = self.said.get_or_insert_with(|| said.clone());
                assert_eq!(*first, said, "L8: the report changed");
            }
            _ => {}
        }
    }

    fn hand_in(&mut self, machine: &mut impl Machine, script: &mut Script<'_>, fail: bool) {
        let Some(ticket) = self.ticket.take() else { return };
        let handed = if fail {
            machine.handle_failure(ticket, script.pick(&FAILURES), self.now)
        } else {
            machine.handle_response(ticket, answer(script), self.now)
        };
        handed.expect("it is this machine's ticket");
    }

    fn save(&mut self, job: &mut Job) {
        let (offset, chunks) = job.unsaved();
        let bytes = chunks.concat();
        let end = job.log_size();
        assert_eq!(offset as usize + bytes.len(), end as usize, "the unsaved bytes reach to the end");
        assert_eq!(&self.log[offset as usize..], &bytes[..], "the unsaved bytes are those written");
        job.saved(job.revision(), end);
        self.saved = end;
    }
}

/// A [`Job`] under arbitrary operations and answers.
pub fn job(data: &[u8]) {
    let script = &mut Script(data);
    let durable = data.first().is_some_and(|flags| flags & 1 != 0);
    let config = config(script);
    let mut job = Job::new(config.clone(), &assignment(), NOW);
    let (log, saved, shift, said) = (Vec::new(), 0, Some(0), None);
    let mut bench = Bench { config, durable, now: NOW, ticket: None, log, saved, shift, said, done: false };
    while !script.is_over() {
        match script.byte() % 16 {
            0 | 1 => {
                let text = vec![b'a' + script.byte() % 26; usize::from(script.byte() % 40)];
                if job.write_to(Stream::Stdout, text.clone()) == Written::Queued {
                    bench.log.extend(text);
                }
            }
            2 => job.finish(JobResult::from_exit_code(i32::from(script.byte()))),
            3 => job.finish(JobResult::failed(FailureReason::ImagePullFailure)),
            4..=6 => bench.hand_in(&mut job, script, false),
            7 => bench.hand_in(&mut job, script, true),
            8 => bench.now = bench.now.saturating_add(Duration::from_millis(script.number() % 10_000_000 * 1000)),
            9 => bench.now = Timestamp::from_millis(bench.now.as_millis().saturating_sub(script.number())),
            10 => bench.save(&mut job),
            11 => {
                // The process dies. What is not saved is lost with it, if it saves.
                if !durable || bench.saved == job.log_size() {
                    let json = job.snapshot().to_json();
                    let snapshot = JobSnapshot::from_json(&json).expect("what was written can be read");
                    job =
                        Job::resume(bench.config.clone(), &assignment(), snapshot, bench.now).expect("it is this job");
                    bench.saved = job.log_size();
                    bench.ticket = None;
                    bench.done = false;
                }
            }
            12 => supply(&mut job, &bench),
            13 => {
                if script.byte() & 3 == 3 && job.forfeit_trace().is_ok() {
                    bench.shift = None;
                }
            }
            14 => {
                let until = Timestamp::from_millis(bench.now.as_millis().saturating_add(script.number()));
                let held = usize::from(script.byte() & 1);
                job.scopes().skip(held).for_each(|scope| job.hold_until(scope, until));
            }
            _ => match script.byte() {
                255 => job.abandon(),
                // No text here has a digit, so that nothing of the log is hidden or held back.
                254 => _ = job.mask(&Secret::new(format!("0123456{}", script.byte()))),
                253 if !durable || bench.saved == job.log_size() => {
                    job = through_a_record(&mut job, &bench);
                    bench.saved = job.log_size();
                    bench.ticket = None;
                    bench.done = false;
                }
                _ => {}
            },
        }
        bench.drain(&mut job);
    }
}

/// The process dies, and another one goes on from a record. The application knows the log as far as the job does not hold it.
fn through_a_record(job: &mut Job, bench: &Bench) -> Job {
    let record = match JobRecord::of(job) {
        Err(ResumeError::LogElsewhere { missing, .. }) => {
            JobRecord::with_log_before(job, 0, &bench.log[..missing.end as usize])
        }
        record => record,
    };
    let json = record.expect("its log is known").to_json();
    let record = JobRecord::from_json(&json).expect("what was written can be read");
    let resumed = record.resume(bench.config.clone(), bench.now).expect("it is this job");
    assert_eq!((resumed.log_size(), resumed.is_ended()), (job.log_size(), job.is_ended()), "it is as it was");
    resumed
}

fn supply(job: &mut Job, bench: &Bench) {
    match job.trace_needed() {
        Some(range) => {
            let bytes = bench.log[range.start as usize..range.end as usize].to_vec();
            job.supply_trace(range.start, bytes.into()).expect("those are the bytes asked for");
        }
        None => {
            let handed = job.supply_trace(0, Bytes::new());
            assert!(matches!(handed, Ok(()) | Err(Misuse::TraceNotNeeded)), "{handed:?}");
        }
    }
}

/// A [`Poller`] under arbitrary operations and answers.
pub fn poller(data: &[u8]) {
    let script = &mut Script(data);
    let config = config(script);
    let mut poller = Poller::new(config, RunnerToken::new("t").expect("a token"), NOW);
    let (mut now, mut ticket, mut room, mut lost, mut told, mut done) = (NOW, None::<Ticket>, 0i64, 0, 0, false);
    while !script.is_over() {
        match script.byte() % 8 {
            0 => {
                room = i64::from(script.byte() % 4);
                poller.set_capacity(room as u32);
            }
            1..=3 => {
                if let Some(ticket) = ticket.take() {
                    let response = answer(script);
                    let unknown = match response.status().as_u16() {
                        201 => Assignment::salvage(response.body().clone()).is_none(),
                        status => matches!(status, 408 | 500 | 502 | 504),
                    };
                    poller.handle_response(ticket, response, now).expect("it is this machine's ticket");
                    lost += u32::from(unknown && !done);
                }
            }
            4 => {
                if let Some(ticket) = ticket.take() {
                    let failure = script.pick(&FAILURES);
                    poller.handle_failure(ticket, failure, now).expect("it is this machine's ticket");
                    lost += u32::from(failure.may_have_arrived() && !done);
                }
            }
            5 => now = now.saturating_add(Duration::from_secs(script.number() % 100_000)),
            6 => {
                let until = Timestamp::from_millis(now.as_millis().saturating_add(script.number()));
                poller.scopes().for_each(|scope| poller.hold_until(scope, until));
            }
            _ => {
                if script.byte() == 255 {
                    poller.drain();
                }
            }
        }
        for round in 0.. {
            assert!(round < 50, "50 outputs and no rest");
            match poller.poll(now) {
                Output::Send(call) => {
                    assert!(ticket.is_none(), "L1: a second ticket is out");
                    assert!(!done && room > 0, "asked without room, or after the end");
                    ticket = Some(call.split().1);
                }
                Output::Event(event) => {
                    assert!(!done, "L4: an event after the end");
                    match event {
                        PollerEvent::Assigned(_) => room = i64::from(poller.capacity()),
                        PollerEvent::AssignmentUncertain { .. } => {
                            told += 1;
                            // The poller gave this one up by itself.
                            if told > lost && ticket.take().is_some() {
                                lost += 1;
                            }
                        }
                        _ => {}
                    }
                }
                Output::Wait(until) => {
                    assert!(matches!(poller.poll(now), Output::Wait(again) if again == until), "L2: it did not rest");
                    assert!(until.is_some() || room == 0, "L3: nothing will ever happen again");
                    break;
                }
                Output::Done => {
                    done = true;
                    break;
                }
            }
        }
        assert_eq!(told, lost, "each lost answer is told of once");
    }
}

/// A text up to the first zero, and what follows it.
fn text_and_rest(data: &[u8]) -> Option<(&str, &[u8])> {
    let (text, rest) = match data.iter().position(|byte| *byte == 0) {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &[][..]),
    };
    Some((str::from_utf8(text).ok()?, rest))
}

/// Arbitrary text as a snapshot: an error, or a job that can be driven to rest whatever it is answered.
pub fn resume(data: &[u8]) {
    let Some((text, rest)) = text_and_rest(data) else { return };
    let Ok(snapshot) = JobSnapshot::from_json(text) else { return };
    let script = &mut Script(rest);
    let config = config(script);
    let json = snapshot.to_json();
    assert_eq!(JobSnapshot::from_json(&json).as_ref(), Ok(&snapshot), "what was written can be read");
    let spec = format!(r#"{{"id":{},"token":"t"}}"#, snapshot.job_id());
    let assignment = Assignment::from_json(spec).expect("a valid payload");
    let Ok(mut job) = Job::resume(config.clone(), &assignment, snapshot, NOW) else {
        panic!("it is this job's snapshot")
    };
    if script.byte() & 1 == 1 {
        // It gets its result, and the process dies again before anything is said.
        job.finish(JobResult::success());
        let snapshot = JobSnapshot::from_json(&job.snapshot().to_json()).expect("what was written can be read");
        job = Job::resume(config, &assignment, snapshot, NOW).expect("it is this job's snapshot");
        assert!(job.is_ended(), "the result is lost");
    }
    to_rest(job, script, |job, _| _ = job.forfeit_trace());
}

/// Arbitrary text as a record of ours and as one of the Python package: an error that shows nothing, or a job that can be
/// written and read again, and driven to rest with the log that the record holds.
pub fn record(data: &[u8]) {
    let Some((text, rest)) = text_and_rest(data) else { return };
    for read in [JobRecord::from_json, JobRecord::from_python] {
        let record = match read(text) {
            Ok(record) => record,
            Err(error) => {
                assert!(!error.to_string().contains("glcbt-"), "a token shows: {error}");
                continue;
            }
        };
        let json = record.to_json();
        let again = JobRecord::from_json(&json).expect("what was written can be read");
        assert_eq!(again.to_json(), json, "what was read is what was written");
        let script = &mut Script(rest);
        let (config, snapshot) = (config(script), record.snapshot().clone());
        let job = Job::resume(config, record.assignment(), snapshot, NOW).expect("it is this job's record");
        let (begin, log) = record.log();
        to_rest(job, script, |job, needed| {
            let within = |at: u64| at.checked_sub(begin).and_then(|at| usize::try_from(at).ok());
            let bytes = within(needed.start).zip(within(needed.end)).and_then(|(from, to)| log.get(from..to));
            match bytes {
                Some(bytes) => {
                    job.supply_trace(needed.start, bytes.to_vec().into()).expect("those are the bytes asked for");
                }
                // What is not in the record was acknowledged before.
                None => _ = job.forfeit_trace(),
            }
        });
    }
}

/// Goes on with a job that was stored, whatever it is answered.
fn to_rest(mut job: Job, script: &mut Script<'_>, mut supply: impl FnMut(&mut Job, Range<u64>)) {
    if script.byte() & 1 == 1 {
        for stream in [Stream::Stdout, Stream::Stderr, Stream::Service(3)] {
            job.write_to(stream, "and more \u{e4}\n of it");
        }
        job.finish(JobResult::success());
    }
    let (mut now, mut calls) = (NOW, 0);
    for _ in 0..1000 {
        match job.poll(now) {
            Output::Send(call) => {
                calls += 1;
                if calls > 50 {
                    return;
                }
                job.handle_response(call.split().1, answer(script), now).expect("it is this machine's ticket");
            }
            Output::Event(JobEvent::TraceNeeded(range)) => supply(&mut job, range),
            Output::Event(JobEvent::Save) => job.saved(job.revision(), job.log_size()),
            Output::Event(_) => {}
            Output::Wait(Some(until)) => {
                assert!(until > now, "a time to wait for that is over");
                now = until;
            }
            Output::Wait(None) | Output::Done => return,
        }
    }
    panic!("1000 outputs and {calls} calls");
}
