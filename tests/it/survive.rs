//! Whatever happens to the process that runs a job, and to its calls, the end is the same.

use std::sync::Arc;
use std::time::Duration;

use gitlab_runner_api::{
    Failure, Job, JobEvent, JobRecord, JobResult, Machine, Output, Retain, RunnerConfig, Stream, Timestamp,
};
use gitlab_runner_api_testkit::{Coordinator, JobStatus, NewJob, Settings};
use proptest::prelude::*;

use crate::common::{START, config, gitlab, take_job};

/// What becomes of a call, and of the process that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    RequestLost,
    AnswerLost,
    /// It arrives, and again with the next one.
    Twice,
    /// Written out as one text with the call on the wire, and taken up from that; then the call arrives, or does not.
    Moved(bool),
    /// Written out and taken up after the answer.
    MovedAfter,
    /// The process dies, and goes on from what it last saved; before that the call arrives, or does not.
    Killed(bool),
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        3 => Just(Fate::Answered),
        1 => Just(Fate::RequestLost),
        1 => Just(Fate::AnswerLost),
        1 => Just(Fate::Twice),
        2 => any::<bool>().prop_map(Fate::Moved),
        2 => Just(Fate::MovedAfter),
        2 => any::<bool>().prop_map(Fate::Killed),
    ];
    prop::collection::vec(fate, 0..60)
}

/// What the script prints, and how it ends. Each piece is written when all before it is at GitLab, or at once.
#[derive(Clone, Debug)]
struct Script {
    pieces: Vec<(String, bool)>,
    code: i32,
}

fn scripts() -> impl Strategy<Value = Script> {
    let word = prop_oneof![
        "[a-z]{1,6}\n?".prop_map(String::from),
        Just("correct horse".to_owned()),
        Just("correct".to_owned()),
        Just(" horse".to_owned()),
        Just("größe\n".to_owned()),
        "[x]{40,80}\n".prop_map(String::from),
    ];
    let pieces = prop::collection::vec((word, any::<bool>()), 0..10);
    (pieces, prop_oneof![Just(0), Just(3)]).prop_map(|(pieces, code)| Script { pieces, code })
}

struct Life<'a> {
    config: Arc<RunnerConfig>,
    script: &'a Script,
    server: Coordinator,
    job: Job,
    now: Timestamp,
    /// What is on disk: a record as one text.
    saved: String,
    late: Option<http::Request<bytes::Bytes>>,
}

impl Life<'_> {
    fn run(script: &Script, fates: &[Fate], durable: bool) -> (JobStatus, String, Option<i64>) {
        // A job that says when to save lets go of what was saved; one that does not must keep it all.
        let retain = if durable { Retain::Unacknowledged } else { Retain::All };
        let config = config().with_patch_limit(37).with_retain(retain).with_durable(durable);
        let mut server = gitlab(Settings::default());
        let new = NewJob::new("long").with_masked_variable("PASSWORD", "correct horse");
        let assignment = take_job(&mut server, &config, START, new);
        let config = Arc::new(config);
        let mut job = Job::new(config.clone(), &assignment, START);
        let saved = JobRecord::of(&mut job).unwrap().to_json();
        let mut life = Life { config, script, server, job, now: START, saved, late: None };
        let mut fates = fates.iter().copied();
        for _ in 0..5000 {
            match life.job.poll(life.now) {
                Output::Send(call) => {
                    let fate = fates.next().unwrap_or(Fate::Answered);
                    // What was not saved cannot be gone back to.
                    life.exchange(call, if durable { fate } else { life.undone(fate) });
                }
                Output::Event(JobEvent::Save) => life.save(),
                Output::Event(JobEvent::TraceNeeded(range)) => life.supply(range.start),
                Output::Event(_) => {}
                Output::Wait(until) => life.print(until),
                Output::Done => {
                    let held = life.server.job(assignment.id()).unwrap();
                    let log = String::from_utf8(held.trace().to_vec()).unwrap();
                    return (held.status(), log, held.exit_code());
                }
            }
        }
        panic!("it has no end: {:?}", life.job);
    }

    fn undone(&self, fate: Fate) -> Fate {
        if let Fate::Killed(arrives) = fate { Fate::Moved(arrives) } else { fate }
    }

    /// Everything there is, in one value.
    fn record(&mut self) -> JobRecord {
        let before = JobRecord::from_json(&self.saved).unwrap();
        JobRecord::with_log_before(&mut self.job, 0, before.log().1).unwrap()
    }

    fn save(&mut self) {
        let record = self.record();
        self.saved = record.to_json();
        self.job.saved(record.snapshot().revision(), record.snapshot().log_size());
    }

    fn take_up(&mut self) {
        let record = JobRecord::from_json(&self.saved).unwrap();
        let resumed = Job::resume(self.config.clone(), record.assignment(), record.snapshot().clone(), self.now);
        self.job = resumed.unwrap();
    }

    fn supply(&mut self, start: u64) {
        let record = JobRecord::from_json(&self.saved).unwrap();
        let bytes = record.log().1.slice(usize::try_from(start).unwrap()..);
        self.job.supply_trace(start, bytes).unwrap();
    }

    /// The script goes on where the job left it, as one that writes to a file.
    fn print(&mut self, until: Option<Timestamp>) {
        let mut taken = usize::try_from(self.job.taken(Stream::Stdout)).unwrap();
        for (piece, patient) in &self.script.pieces {
            if taken < piece.len() {
                if *patient && self.job.unsent() > 0 {
                    break;
                }
                self.job.write_to(Stream::Stdout, piece.as_bytes()[taken..].to_vec());
                self.now = self.now.saturating_add(Duration::from_millis(50));
                return;
            }
            taken -= piece.len();
        }
        let whole: usize = self.script.pieces.iter().map(|(piece, _)| piece.len()).sum();
        if self.job.taken(Stream::Stdout) == whole as u64 {
            self.job.finish(JobResult::from_exit_code(self.script.code));
        }
        self.now = until.unwrap_or(self.now).max(self.now.saturating_add(Duration::from_millis(1)));
    }

    fn exchange(&mut self, call: gitlab_runner_api::Call, fate: Fate) {
        let (request, ticket) = call.split();
        let request = request.map(gitlab_runner_api::Body::into_bytes);
        if let Some(late) = self.late.take() {
            self.server.respond(self.now, late);
        }
        if fate == Fate::Twice {
            self.late = Some(request.clone());
        }
        let answer = match fate {
            Fate::RequestLost | Fate::Moved(false) | Fate::Killed(false) => None,
            _ => Some(self.server.respond(self.now, request)),
        };
        match (fate, answer) {
            (Fate::Answered | Fate::Twice | Fate::MovedAfter, Some(answer)) => {
                self.job.handle_response(ticket, answer, self.now).unwrap();
            }
            (Fate::RequestLost | Fate::AnswerLost, _) => {
                self.job.handle_failure(ticket, Failure::Unknown, self.now).unwrap();
            }
            // Nobody is there any more to hear of it.
            _ => {}
        }
        match fate {
            Fate::Moved(_) | Fate::MovedAfter => {
                self.save();
                self.take_up();
            }
            Fate::Killed(_) => self.take_up(),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn moved_and_killed_at_any_step_a_job_ends_as_without(script in scripts(), fates in fates(), durable in any::<bool>()) {
        let undisturbed = Life::run(&script, &[], durable);
        let wanted = if script.code == 0 { JobStatus::Success } else { JobStatus::Failed };
        prop_assert_eq!(undisturbed.0, wanted);
        prop_assert!(!undisturbed.1.contains("correct horse"), "{}", undisturbed.1);
        prop_assert_eq!(Life::run(&script, &fates, durable), undisturbed);
    }
}
