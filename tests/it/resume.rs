//! A job saved at any moment goes on where it was.

use std::sync::Arc;
use std::time::Duration;

use gitlab_runner_api::log::{LogLimit, LogOptions};
use gitlab_runner_api::{
    Assignment, Cancellation, Failure, Job, JobEvent, JobRecord, JobResult, JobSnapshot, Outcome, ResumeError, Retain,
    RunnerConfig, Secret, Timestamp,
};
use gitlab_runner_api_testkit::{Coordinator, JobStatus, NewJob, Settings};

use crate::common::{Hand, Rest, SECOND, START, assignment, config, gitlab, take_job};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

fn resume(config: &RunnerConfig, assignment: &Assignment, snapshot: &str, now: Timestamp) -> Hand<Job> {
    let snapshot = JobSnapshot::from_json(snapshot).unwrap();
    let mut hand = Hand::new(Job::resume(Arc::new(config.clone()), assignment, snapshot, now).unwrap());
    hand.now = now;
    hand
}

/// A record as an application keeps it: assignment, snapshot, log.
struct Record {
    assignment: Assignment,
    snapshot: String,
    log: Vec<u8>,
}

impl Record {
    /// What an application does when it is told to save, and whenever else it likes.
    fn save(&mut self, job: &mut Job) {
        let (offset, chunks) = job.unsaved();
        self.log.truncate(usize::try_from(offset).unwrap());
        self.log.extend(chunks.concat());
        let snapshot = job.snapshot();
        self.snapshot = snapshot.to_json();
        job.saved(snapshot.revision(), snapshot.log_size());
    }

    /// Runs until nothing is to be done for `patience`, saving when told to.
    fn run(&mut self, job: &mut Hand<Job>, server: &mut Coordinator, patience: Duration) {
        loop {
            job.run(server, patience);
            let mut again = false;
            for event in std::mem::take(&mut job.events) {
                match event {
                    JobEvent::Save => self.save(&mut job.machine),
                    JobEvent::TraceNeeded(range) => {
                        let bytes = self.log[range.start as usize..range.end as usize].to_vec();
                        job.machine.supply_trace(range.start, bytes.into()).unwrap();
                    }
                    _ => continue,
                }
                again = true;
            }
            if !again {
                return;
            }
        }
    }
}

/// The record of a job with one line of log, all of it at GitLab.
fn old_record(server: &mut Coordinator, config: &RunnerConfig) -> Record {
    let assignment = take_job(server, config, START, NewJob::new("old"));
    let mut record = Record { assignment, snapshot: String::new(), log: Vec::new() };
    let mut job = Hand::new(Job::new(Arc::new(config.clone()), &record.assignment, START));
    job.machine.write("line 0\n");
    record.run(&mut job, server, SECOND);
    record.save(&mut job.machine);
    record
}

/// Must show 6: the Python package documents that this loses lines.
#[test]
fn one_old_record_can_be_loaded_three_times_and_no_line_is_lost() {
    for durable in [false, true] {
        for lines in [["line 1\n", "line 2\n", "line 3\n"], ["one\n", "a longer second line\n", "3\n"]] {
            let config = config().with_durable(durable);
            let mut server = gitlab(Settings::default());
            let Record { assignment, snapshot, log } = old_record(&mut server, &config);
            let mut now = START;
            for (number, line) in lines.iter().enumerate() {
                now = now.saturating_add(100 * SECOND);
                let mut record =
                    Record { assignment: assignment.clone(), snapshot: snapshot.clone(), log: log.clone() };
                let mut job = resume(&config, &assignment, &snapshot, now);
                job.machine.write(*line);
                if number == 2 {
                    job.machine.finish(JobResult::success());
                }
                record.run(&mut job, &mut server, SECOND);
                assert_eq!(job.machine.unsent(), 0);
            }
            let held = server.job(assignment.id()).unwrap();
            let wanted = ["line 0\n", lines[0], lines[1], lines[2]].concat();
            assert_eq!(String::from_utf8_lossy(held.trace()), wanted, "durable: {durable}");
            assert_eq!(held.status(), JobStatus::Success);
            assert_eq!(held.reported_checksum(), None, "ours would be wrong");
        }
    }
}

#[test]
fn a_resumed_job_asks_where_gitlabs_log_ends_before_it_sends_anything() {
    let mut job = Hand::accepted(config());
    job.machine.write("abcdef");
    job.sends("patch 0+6");
    let snapshot = job.machine.snapshot().to_json(); // with the call on the wire
    // (what GitLab answers, what goes on)
    let rows: [(u16, &str, &[&str]); 5] = [
        (202, "0-6", &["patch 6+4"]),
        (416, "0-4", &["needs 4..6"]),
        (416, "0-0", &["needs 0..6"]),
        (416, "0-20", &["patch 20+4"]),
        (416, "nonsense", &["probe 6"]),
    ];
    for (status, range, next) in rows {
        let mut job = resume(&config(), &assignment(), &snapshot, START);
        job.machine.write("more");
        assert_eq!(job.call().name(), "probe 6");
        job.answer(status, &[("range", range)], "");
        job.pass(5 * SECOND);
        match job.poll() {
            Rest::Sent(sent) => assert_eq!([&sent.name()[..]], next, "{range}"),
            rest => {
                let needed = job.machine.trace_needed().unwrap_or_else(|| panic!("{rest:?}"));
                assert_eq!([&format!("needs {}..{}", needed.start, needed.end)[..]], next);
            }
        }
    }
}

#[test]
fn lines_written_before_the_probe_are_not_taken_for_somebody_elses() {
    let mut job = Hand::accepted(config());
    job.machine.write("abcdef");
    job.sends("patch 0+6");
    job.answer(202, &[], "");
    let first = job.machine.snapshot().to_json();
    // Taken up, written to, and saved again before GitLab was asked anything.
    let mut second = resume(&config(), &assignment(), &first, START);
    second.machine.write("1234");
    let snapshot = second.machine.snapshot().to_json();
    // Meanwhile somebody else took the first one up, and wrote four bytes of its own.
    let mut third = resume(&config(), &assignment(), &snapshot, START);
    assert_eq!(third.call().name(), "probe 6");
    third.answer(416, &[("range", "0-10")], "");
    third.pass(5 * SECOND);
    third.waits();
    assert_eq!(third.machine.trace_needed(), Some(6..10), "ours are not there: {:?}", third.events);
    third.machine.supply_trace(6, "1234".into()).unwrap();
    assert_eq!(third.sends("patch 10+4").request.body(), "1234");
}

#[test]
fn at_every_step_of_a_life_a_snapshot_leads_to_the_same_end() {
    // Snapshots before each call, with each call out, and after each answer.
    for cut in 0..30 {
        for durable in [false, true] {
            let config = config().with_durable(durable);
            let mut server = gitlab(Settings::default().with(|s| s.archive_delay = Some(3 * SECOND)));
            let assignment = take_job(&mut server, &config, START, NewJob::new("cut"));
            let mut record = Record { assignment, snapshot: String::new(), log: Vec::new() };
            let mut job = Hand::new(Job::new(Arc::new(config.clone()), &record.assignment, START));
            let steps = std::cell::Cell::new(0);
            let cut_here = |job: &mut Hand<Job>, record: &mut Record| {
                if steps.get() == cut {
                    record.save(&mut job.machine);
                    *job = resume(&config, &record.assignment, &record.snapshot, job.now);
                }
                steps.set(steps.get() + 1);
            };
            for piece in ["first\n", "second\n", ""] {
                match piece {
                    "" => job.machine.finish(JobResult::from_exit_code(3)),
                    piece => _ = job.machine.write(piece),
                }
                for _ in 0..40 {
                    cut_here(&mut job, &mut record);
                    match job.poll() {
                        Rest::Sent(sent) => {
                            let response = server.respond(job.now, sent.request);
                            let ticket = (steps.get() == cut).then(|| job.drop_ticket());
                            cut_here(&mut job, &mut record);
                            if ticket.is_none() {
                                job.hand_in(response).unwrap();
                            }
                        }
                        Rest::Waits(_)
                            if job.events.contains(&JobEvent::Save) || job.machine.trace_needed().is_some() =>
                        {
                            record.run(&mut job, &mut server, Duration::ZERO);
                        }
                        Rest::Waits(until) => job.now = job.now.max(until.unwrap()),
                        Rest::Done => break,
                    }
                    if !piece.is_empty() && job.machine.unsent() == 0 {
                        break;
                    }
                }
            }
            let held = server.job(record.assignment.id()).unwrap();
            assert_eq!(
                (held.status(), held.trace()),
                (JobStatus::Failed, &b"first\nsecond\n"[..]),
                "cut at {cut}, durable {durable}"
            );
            assert_eq!((held.exit_code(), job.is_done()), (Some(3), true), "cut at {cut}, durable {durable}");
        }
    }
}

#[test]
fn a_clock_that_was_set_delays_nothing() {
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    job.sends("patch 0+3");
    job.answer(429, &[("retry-after", "600")], "");
    job.waits();
    let snapshot = job.machine.snapshot().to_json();
    for (now, most) in
        [(START.as_millis() - YEAR.as_millis() as u64, 661), (START.as_millis() + YEAR.as_millis() as u64, 0)]
    {
        let now = Timestamp::from_millis(now);
        let mut job = resume(&config(), &assignment(), &snapshot, now);
        let sent = job.call();
        assert!(sent.at.saturating_since(now) <= most * SECOND, "{:?} after {now:?}", sent.at);
        assert!(job.machine.deadline().saturating_since(now) <= 7200 * SECOND);
    }
}

#[test]
fn what_stands_is_told_again() {
    let mut canceling = Hand::accepted(config());
    canceling.machine.write("abc");
    canceling.call();
    canceling.answer(202, &[("job-status", "canceling")], "");
    canceling.waits();
    let mut again = resume(&config(), &assignment(), &canceling.machine.snapshot().to_json(), START);
    again.call();
    assert_eq!(
        (&again.events[..], again.machine.cancellation()),
        (&[JobEvent::CancelRequested][..], Cancellation::Requested)
    );

    let mut aborted = Hand::accepted(config());
    aborted.machine.write("abc");
    aborted.call();
    aborted.answer(403, &[("job-status", "canceled")], "");
    let mut again = resume(&config(), &assignment(), &aborted.machine.snapshot().to_json(), START);
    assert!(again.is_done() && matches!(again.events[..], [JobEvent::Aborted(_)]), "{:?}", again.events);

    let mut finished = Hand::accepted(config());
    finished.machine.finish(JobResult::success());
    finished.sends("report success");
    finished.answer(200, &[("job-status", "success")], "");
    let mut again = resume(&config(), &assignment(), &finished.machine.snapshot().to_json(), START);
    assert!(again.is_done());
    assert_eq!(again.events, [JobEvent::Finished(Outcome::Success)]);
}

#[test]
fn a_report_that_may_have_been_sent_is_repeated_and_recognised() {
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    job.machine.finish(JobResult::success());
    job.sends("patch 0+3");
    job.answer(202, &[], "");
    let report = job.sends("report success").request.into_body();
    let snapshot = job.machine.snapshot().to_json();
    let mut again = resume(&config(), &assignment(), &snapshot, START);
    let repeated = again.call();
    assert_eq!((repeated.name().as_str(), repeated.request.body()), ("report success", &report));
    again.answer(403, &[("job-status", "success")], "");
    assert!(again.is_done());
    assert_eq!(again.events.last(), Some(&JobEvent::Finished(Outcome::Success)));
}

/// Whether a call is on the wire or GitLab is away: a crash costs no result, and no more than a keep-alive of log.
#[test]
fn a_durable_job_is_to_be_saved_though_nothing_can_be_sent() {
    let mut job = Hand::accepted(config().with_durable(true));
    let saves = |job: &mut Hand<Job>| {
        let asked = job.events.drain(..).filter(|event| *event == JobEvent::Save).count();
        if asked > 0 {
            job.machine.saved(job.machine.revision(), job.machine.log_size());
        }
        asked
    };
    job.machine.write("one\n");
    job.poll();
    assert_eq!(saves(&mut job), 1);
    job.sends("patch 0+4");
    job.machine.write("two\n");
    let until = job.waits().unwrap();
    assert_eq!((saves(&mut job), until), (0, START.saturating_add(30 * SECOND)));
    job.now = until;
    job.waits();
    assert_eq!(saves(&mut job), 1);
    job.machine.write("three\n");
    job.waits();
    assert_eq!(saves(&mut job), 0, "a line each is too often");
    job.machine.finish(JobResult::success());
    job.waits();
    assert_eq!((saves(&mut job), job.has_ticket()), (1, true));
    job.fail(Failure::TimedOut);
    job.sends("running"); // GitLab has heard nothing for a keep-alive
    job.answer(200, &[], "200");
    job.waits();
    assert_eq!(saves(&mut job), 0);
    // The application failed to, and is asked again.
    let mut job = Hand::accepted(config().with_durable(true));
    job.machine.finish(JobResult::success());
    for _ in 0..3 {
        let until = job.waits().unwrap();
        assert_eq!(job.events.drain(..).collect::<Vec<_>>(), [JobEvent::Save]);
        job.now = until;
    }
}

/// A probe for the next byte is a guess. A snapshot taken while it stands must not say that nothing is sent behind it: the patches
/// that follow a wrong guess are not saved again.
#[test]
fn a_snapshot_taken_during_a_wrong_guess_knows_what_was_sent_later() {
    let mut job = Hand::accepted(config().with_patch_limit(4));
    job.machine.write("0123456789");
    job.sends("patch 0+4");
    for _ in 0..2 {
        job.answer(416, &[("range", "0-0")], "");
        job.call_or_pending();
    }
    assert_eq!(job.call_or_pending(), "probe 1");
    let guessing = job.machine.snapshot();
    job.answer(416, &[("range", "0-0")], "");
    while job.machine.unsent() > 0 {
        let patch = job.call_or_pending() != "running";
        job.answer(if patch { 202 } else { 200 }, &[], "");
    }
    let mut resumed = Hand::new(Job::resume(Arc::new(config()), &assignment(), guessing, job.now).unwrap());
    assert_eq!(resumed.call().name(), "probe 10");
    resumed.answer(202, &[], "");
    resumed.poll();
    assert!(!resumed.events.iter().any(|event| matches!(event, JobEvent::TraceShifted { .. })), "{:?}", resumed.events);
    assert_eq!(resumed.machine.unsent(), 0);
}

#[test]
fn a_durable_job_sends_nothing_that_is_not_saved() {
    let mut job = Hand::accepted(config().with_durable(true));
    job.machine.write("abc");
    job.waits();
    assert_eq!(job.events, [JobEvent::Save]);
    job.pass(Duration::from_secs(2));
    job.waits();
    assert_eq!(job.events.len(), 1, "asked once");
    job.pass(Duration::from_secs(2));
    job.waits();
    assert_eq!(job.events.len(), 2, "and again when nothing came of it");
    let revision = job.machine.snapshot().revision();
    job.machine.saved(revision, 2);
    job.sends("patch 0+2");
    job.answer(202, &[], "");
    job.machine.saved(revision, 3);
    job.machine.finish(JobResult::success());
    job.events.clear();
    job.waits();
    assert_eq!(job.events, [JobEvent::Save], "the result is not saved");
    let (revision, size) = (job.machine.snapshot().revision(), job.machine.log_size());
    job.machine.saved(revision, size);
    job.sends("patch 2+1");
    job.answer(202, &[], "");
    job.sends("report success");
}

#[test]
fn what_cannot_be_taken_up_is_refused_with_a_reason() {
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    job.sends("patch 0+3");
    let good = job.machine.snapshot().to_json();
    for length in 0..good.len() {
        assert!(matches!(JobSnapshot::from_json(&good[..length]), Err(ResumeError::Corrupt(_))), "{length}");
    }
    let newer = good.replace("\"format\":1", "\"format\":2").replace("\"written\"", "\"size\"");
    assert!(matches!(JobSnapshot::from_json(&newer), Err(ResumeError::Newer { found: 2, known: 1, .. })));
    let other = good.replace("\"kind\":\"job\"", "\"kind\":\"runner\"");
    assert!(matches!(JobSnapshot::from_json(&other), Err(ResumeError::WrongKind { .. })));
    let impossible = good.replace("\"acknowledged\":0", "\"acknowledged\":4");
    assert!(matches!(JobSnapshot::from_json(&impossible), Err(ResumeError::Corrupt(_))));
    let endless = good.replace("\"written\":3", "\"written\":18446744073709551615");
    assert!(matches!(JobSnapshot::from_json(&endless), Err(ResumeError::Corrupt(_))));
    let stranger = Assignment::from_json(r#"{"id":8,"token":"t"}"#).unwrap();
    let snapshot = JobSnapshot::from_json(&good).unwrap();
    let refused = Job::resume(Arc::new(config()), &stranger, snapshot, START).unwrap_err();
    assert!(matches!(refused, ResumeError::WrongJob { found: 7, wanted: 8, .. }), "{refused}");
}

/// A job is saved by a clock that is ahead by a year. The told delay of its log is not a year longer for that.
#[test]
fn a_clock_that_was_set_delays_no_log() {
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    job.sends("patch 0+3");
    job.answer(429, &[("retry-after", "600")], "");
    job.waits();
    let now = Timestamp::from_millis(START.as_millis() - YEAR.as_millis() as u64);
    let mut job = resume(&config(), &assignment(), &job.machine.snapshot().to_json(), now);
    while job.call_or_pending() == "running" {
        assert!(job.now.saturating_since(now) <= 661 * SECOND, "{:?} after {now:?}", job.now);
        job.answer(200, &[], "200");
    }
    assert!(job.now.saturating_since(now) <= 661 * SECOND, "{:?} after {now:?}", job.now);
}

#[test]
fn saying_again_that_the_old_state_is_saved_makes_no_job_ask_each_moment() {
    let mut job = Hand::accepted(config().with_durable(true));
    let old = job.machine.revision();
    job.machine.saved(old, 0);
    job.machine.write("abc");
    job.machine.finish(JobResult::success());
    let mut asked = 0;
    while job.now.saturating_since(START) < 60 * SECOND {
        match job.poll() {
            Rest::Sent(_) => job.answer(200, &[], "200"),
            // Time passes only once nothing more is asked for.
            Rest::Waits(Some(until)) if job.events.is_empty() => job.now = until,
            rest => assert!(matches!(rest, Rest::Waits(_)), "{rest:?}"),
        }
        asked += job.events.drain(..).filter(|event| *event == JobEvent::Save).count();
        assert!(asked < 10, "asked {asked} times by {:?}", job.now);
        job.machine.saved(old, 0);
    }
    assert!(asked > 2, "{asked}");
}

/// GitLab loses the log between its last piece and the result, and the runner is restarted right then.
#[test]
fn a_result_that_waits_for_a_probe_still_does_after_a_resume() {
    for durable in [false, true] {
        let config = config().with_durable(durable);
        let mut server = gitlab(Settings::default());
        let assignment = take_job(&mut server, &config, START, NewJob::new("lost"));
        let mut record = Record { assignment, snapshot: String::new(), log: Vec::new() };
        let mut job = Hand::new(Job::new(Arc::new(config.clone()), &record.assignment, START));
        job.machine.write("hello");
        record.run(&mut job, &mut server, SECOND);
        let id = record.assignment.id();
        assert_eq!(server.job(id).unwrap().trace(), b"hello");
        server.forget_trace_tail(id, 0);
        job.machine.finish(JobResult::success());
        record.save(&mut job.machine);
        let mut job = resume(&config, &record.assignment, &record.snapshot, job.now);
        record.run(&mut job, &mut server, SECOND);
        assert!(job.is_done());
        let held = server.job(id).unwrap();
        assert_eq!((held.status(), held.trace()), (JobStatus::Success, &b"hello"[..]), "durable {durable}");
    }
}

#[test]
fn a_log_that_is_to_be_sent_again_still_is_after_a_resume() {
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    job.machine.finish(JobResult::success());
    job.sends("patch 0+3");
    job.answer(202, &[], "");
    job.sends("report success");
    job.answer(412, &[], "");
    // Before the probe is answered, and after that: nothing of the log was sent again yet.
    let waiting = job.machine.snapshot().to_json();
    assert_eq!(job.call().name(), "probe 3");
    job.answer(202, &[], "");
    let rewound = job.machine.snapshot().to_json();
    for snapshot in [waiting, rewound] {
        let mut again = resume(&config(), &assignment(), &snapshot, START);
        assert_eq!(again.call().name(), "probe 3");
        again.answer(202, &[], "");
        again.waits();
        assert_eq!(again.machine.trace_needed(), Some(0..3));
        again.machine.supply_trace(0, "abc".into()).unwrap();
        assert_eq!(again.call().name(), "patch 0+3");
    }
}

#[test]
fn a_record_of_a_job_whose_log_is_elsewhere_is_refused_or_given_it() {
    for retain in [Retain::All, Retain::Unacknowledged] {
        let config = Arc::new(config().with_retain(retain));
        let mut job = Hand::accepted(RunnerConfig::clone(&config));
        job.machine.write("first half, ");
        job.sends("patch 0+12");
        job.fail(Failure::NotSent);
        let first = JobRecord::of(&mut job.machine).unwrap();

        let bare = Job::resume(config.clone(), &assignment(), first.snapshot().clone(), START).unwrap();
        let mut bare = Hand::new(bare);
        bare.machine.write("second half");
        let refused = JobRecord::of(&mut bare.machine).unwrap_err();
        assert!(matches!(&refused, ResumeError::LogElsewhere { missing, .. } if *missing == (0..12)), "{refused}");
        let short = JobRecord::with_log_before(&mut bare.machine, 0, b"first").unwrap_err();
        assert!(matches!(&short, ResumeError::LogElsewhere { missing, .. } if *missing == (5..12)), "{short}");
        let wrong = JobRecord::with_log_before(&mut bare.machine, 0, b"another log.").unwrap_err();
        assert!(matches!(wrong, ResumeError::Corrupt(_)), "{wrong}");
        let given = JobRecord::with_log_before(&mut bare.machine, 0, first.log().1).unwrap();

        let mut whole = first.resume(config.clone(), START).unwrap();
        whole.write("second half");
        let held = JobRecord::of(&mut whole).unwrap();
        for record in [given, held] {
            let record = JobRecord::from_json(&record.to_json()).unwrap();
            assert_eq!(record.log(), (0, &"first half, second half".into()));
            let mut last = Hand::new(record.resume(config.clone(), START).unwrap());
            assert_eq!(last.call().name(), "probe 12", "what was written after the resume was never sent");
            last.answer(416, &[("range", "0-0")], "");
            let patch = last.call();
            assert_eq!((patch.name().as_str(), patch.request.body()), ("patch 0+23", record.log().1));
        }
    }
}

/// What is gone is elsewhere for nobody, also after another resume.
#[test]
fn a_record_of_a_job_that_gave_bytes_up_needs_them_no_more() {
    let mut job = Hand::accepted(config());
    job.machine.write("0123456789".repeat(20));
    job.sends("patch 0+200");
    let mut bare = resume(&config(), &assignment(), &job.machine.snapshot().to_json(), START);
    bare.machine.write("and on");
    assert_eq!(bare.call().name(), "probe 200");
    bare.answer(416, &[("range", "0-0")], "");
    bare.waits();
    bare.machine.forfeit_trace().unwrap();
    for _ in 0..2 {
        let record = JobRecord::from_json(&JobRecord::of(&mut bare.machine).unwrap().to_json()).unwrap();
        assert_eq!(record.log(), (200, &"and on".into()));
        bare = Hand::new(record.resume(Arc::new(config()), START).unwrap());
    }
}

#[test]
fn a_record_is_checked_on_every_way_in() {
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    let record = JobRecord::of(&mut job.machine).unwrap();
    let parts = |job: Assignment, start: u64, log: &'static str| {
        JobRecord::new(record.server().clone(), job, record.snapshot().clone(), start, log.into())
    };
    assert!(parts(assignment(), 0, "abc").is_ok() && parts(assignment(), 1, "bc").is_ok());
    for (start, log) in [(0, "ab"), (0, "abd"), (1, "abc"), (u64::MAX, "abc")] {
        assert!(matches!(parts(assignment(), start, log), Err(ResumeError::Corrupt(_))), "{start} {log}");
    }
    let stranger = Assignment::from_json(r#"{"id":8,"token":"t"}"#).unwrap();
    assert!(matches!(parts(stranger, 0, "abc"), Err(ResumeError::WrongJob { .. })));
}

/// Ours 10, foreign 5, ours 3. What the job sends next, for each size that GitLab's log falls back to.
#[test]
fn a_shift_holds_from_an_offset_on() {
    // (what GitLab has left, where the next patch goes, which of our bytes it begins with)
    let rows = [(18, 18, 13), (16, 16, 11), (15, 15, 10), (12, 12, 10), (10, 10, 10), (8, 8, 8), (0, 0, 0)];
    for resumed in [false, true] {
        for (left, at, ours) in rows {
            let log = "0123456789abcd";
            let mut job = Hand::accepted(config());
            job.machine.write(&log[..10]);
            job.sends("patch 0+10");
            job.answer(202, &[("x-gitlab-trace-update-interval", "1")], "");
            job.machine.write(&log[10..13]);
            assert_eq!(job.call().name(), "patch 10+3");
            job.answer(416, &[("range", "0-15")], "");
            assert_eq!(job.call().name(), "patch 15+3");
            assert!(matches!(job.events[..], [JobEvent::TraceShifted { server_offset: 15, .. }]), "{:?}", job.events);
            job.answer(202, &[], "");
            if resumed {
                let record = JobRecord::of(&mut job.machine).unwrap();
                let record = JobRecord::from_json(&record.to_json()).unwrap();
                job = Hand::new(record.resume(Arc::new(config()), job.now).unwrap());
            }
            job.machine.write(&log[13..]);
            job.call();
            match left {
                18 if resumed => job.answer(202, &[], ""),
                18 => job.answer(409, &[], ""),
                _ => job.answer(416, &[("range", &format!("0-{left}"))], ""),
            }
            let patch = job.call();
            let case = format!("{left} bytes left, resumed: {resumed}");
            assert_eq!(patch.name(), format!("patch {at}+{}", 14 - ours), "{case}");
            assert_eq!(patch.request.body(), &log.as_bytes()[ours..], "{case}");
            job.answer(202, &[], "");
            job.machine.finish(JobResult::success());
            assert_eq!(job.call().name(), format!("probe {}", at + 14 - ours), "{case}");
            job.answer(202, &[], "");
            // The checksum is ours again when nothing foreign is left.
            let report = job.call().json();
            assert_eq!(report["output"]["bytesize"].as_u64(), (left <= 10).then_some(14), "{case}");
        }
    }
}

#[test]
fn a_durable_job_is_saved_as_accepted_before_it_says_so() {
    let mut job = Hand::new(Job::new(Arc::new(config().with_durable(true)), &assignment(), START));
    job.sends("running");
    job.answer(200, &[("job-status", "canceling")], "200");
    job.waits();
    // Not even the cancellation comes before the acceptance.
    assert_eq!(job.events.drain(..).collect::<Vec<_>>(), [JobEvent::Save]);
    assert!(!job.machine.is_accepted());
    let snapshot = job.machine.snapshot();
    job.machine.saved(snapshot.revision(), snapshot.log_size());
    job.waits();
    assert_eq!(job.events, [JobEvent::Accepted, JobEvent::CancelRequested]);
    assert!(job.machine.is_accepted());
    // Killed after that: the script is not started a second time.
    let mut again = resume(&config().with_durable(true), &assignment(), &snapshot.to_json(), START);
    again.pass(60 * SECOND);
    assert_eq!(again.call().name(), "probe 0");
    assert!(again.machine.is_accepted() && !again.events.contains(&JobEvent::Accepted), "{:?}", again.events);
}

#[test]
fn a_job_that_has_its_result_starts_no_script() {
    for durable in [false, true] {
        let mut job = Hand::new(Job::new(Arc::new(config().with_durable(durable)), &assignment(), START));
        job.machine.finish(JobResult::success());
        job.sends("running");
        let snapshot = job.machine.snapshot().to_json();
        job.machine.saved(job.machine.revision(), 0);
        for mut job in [job, resume(&config().with_durable(durable), &assignment(), &snapshot, START)] {
            job.call_or_pending();
            job.answer(200, &[], "200");
            job.machine.saved(job.machine.revision(), 0);
            assert_eq!(job.call().name(), "report success");
            assert!(!job.events.contains(&JobEvent::Accepted), "durable {durable}: {:?}", job.events);
        }
    }
}

/// A job that is not durable is saved whenever the application likes, also between an answer and the event that it brings.
#[test]
fn an_acceptance_that_was_not_told_is_told_after_a_resume() {
    let mut job = Hand::new(Job::new(Arc::new(config()), &assignment(), START));
    job.sends("running");
    job.answer(200, &[], "200");
    let mut again = resume(&config(), &assignment(), &job.machine.snapshot().to_json(), START);
    again.call();
    assert_eq!(again.events, [JobEvent::Accepted]);
    let mut third = resume(&config(), &assignment(), &again.machine.snapshot().to_json(), START);
    third.call();
    assert_eq!(third.events, []);
}

#[test]
fn numbers_that_contradict_each_other_come_in_on_no_way() {
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    job.sends("patch 0+3");
    let good = job.machine.snapshot();
    let json = serde_json::to_string(&good).unwrap();
    assert_eq!(serde_json::from_str::<JobSnapshot>(&json).unwrap(), good);
    let edits = [
        (r#""acknowledged":0"#, r#""acknowledged":4"#),
        (r#""written":3"#, r#""written":18446744073709551615"#),
        (r#""crc32""#, r#""probe":{"at":4,"rewinds":false},"crc32""#),
        (r#""crc32""#, r#""shifts":[[0,0],[1,9]],"crc32""#),
        (r#""crc32""#, r#""shifts":[[0,5],[0,4]],"crc32""#),
        (r#""crc32""#, r#""lost":[{"start":3,"end":1},0],"crc32""#),
    ];
    for (found, wrong) in edits {
        assert!(json.contains(found), "{json}");
        let edited = json.replace(found, wrong);
        serde_json::from_str::<JobSnapshot>(&edited).unwrap_err();
        let sealed = good.to_json().replace(found, wrong);
        assert!(matches!(JobSnapshot::from_json(&sealed), Err(ResumeError::Corrupt(_))), "{wrong}");
    }
    // The log of a job with a result is complete, so that nothing of it is held back.
    job.machine.mask(&Secret::new("correct horse"));
    job.machine.write("correct");
    let mut holding = serde_json::to_value(job.machine.snapshot()).unwrap();
    assert!(holding["log"].to_string().contains("held"), "{holding}");
    job.machine.finish(JobResult::success());
    let ended = serde_json::to_value(job.machine.snapshot()).unwrap();
    serde_json::from_value::<JobSnapshot>(ended.clone()).unwrap();
    holding["phase"] = ended["phase"].clone();
    serde_json::from_value::<JobSnapshot>(holding).unwrap_err();
}

#[test]
fn what_waits_for_the_end_of_a_log_is_delivered_when_the_limit_is_lifted() {
    let text: String = (0..500).map(|line| format!("line {line}\n")).collect();
    let limited = |limit| config().with_log(LogOptions::default().with_limit(limit));
    let small = limited(LogLimit::head_and_tail(1000, 200));
    let larger = limited(LogLimit::head_and_tail(1 << 20, 200));
    for config in [limited(LogLimit::None), larger, small.clone()] {
        let mut job = Hand::accepted(small.clone());
        job.machine.write(text.clone());
        let record = JobRecord::of(&mut job.machine).unwrap();
        let mut job = record.resume(Arc::new(config), START).unwrap();
        job.write("later 1\n");
        job.write("later 2\n");
        job.finish(JobResult::success());
        let log = String::from_utf8(job.retained().1.concat()).unwrap();
        assert!(log.ends_with("line 499\nlater 1\nlater 2\n"), "{log}");
        assert!(log.contains(" bytes were left out. The end of the log:"), "{log}");
    }
    // Nothing was kept of this one, and what comes later is not dropped as well.
    let mut job = Hand::accepted(limited(LogLimit::head(1000)));
    job.machine.write(text);
    let record = JobRecord::of(&mut job.machine).unwrap();
    let mut job = record.resume(Arc::new(limited(LogLimit::None)), START).unwrap();
    job.write("later\n");
    assert!(job.retained().1.concat().ends_with(b"later\n"));
}

/// The state is not the stored one any more: what was held back is in the log.
#[test]
fn what_a_resume_brings_into_the_log_is_a_change_that_is_saved() {
    let payload = r#"{"id":7,"token":"glcbt-7","variables":[{"key":"V","value":"correct-horse!","masked":true}]}"#;
    let assignment = Assignment::from_json(payload).unwrap();
    let [plain, encoded] =
        [false, true].map(|on| config().with_durable(true).with_log(LogOptions::default().with_masked_encodings(on)));
    // The second text ends as the secret begins in Base64.
    for (text, comes) in [("no secret\n", false), ("x Y29ycm", true)] {
        let mut job = Job::new(Arc::new(encoded.clone()), &assignment, START);
        job.write(text);
        let stored = job.snapshot();
        assert_eq!(stored.log_size() < text.len() as u64, comes);
        let mut job = resume(&plain, &assignment, &stored.to_json(), START);
        assert_eq!((job.machine.revision() > stored.revision(), job.machine.log_size()), (comes, text.len() as u64));
        job.poll();
        job.fail(Failure::NotSent);
        job.pass(60 * SECOND);
        job.poll();
        assert_eq!(job.events.contains(&JobEvent::Save), comes, "{:?}", job.events);
    }
}
