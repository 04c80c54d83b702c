//! Offsets, resynchronisation, retention and pace of the log.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::{AbortReason, Failure, Job, JobEvent, JobResult, Machine, Outcome, Output, Retain, Timestamp};
use gitlab_runner_api_testkit::{JobStatus, NewJob, ReplayRule, Settings};

use crate::common::{Hand, Rest, SECOND, START, assignment, config, gitlab, take_job};

#[test]
fn the_first_piece_goes_at_once_and_the_next_after_the_interval() {
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    let sent = job.sends("patch 0+3");
    assert_eq!((sent.header("content-range"), sent.header("content-type")), ("0-2", "text/plain"));
    assert_eq!((sent.header("job-token"), sent.request.uri().query()), ("glcbt-7", Some("debug_trace=false")));
    job.answer(202, &[("range", "0-3"), ("x-gitlab-trace-update-interval", "60")], "");
    job.machine.write("de");
    job.pass(Duration::from_secs(30));
    job.sends("running"); // the log is not due, the keep-alive is
    job.answer(200, &[], "200");
    job.pass(Duration::from_secs(30));
    assert_eq!(job.sends("patch 3+2").header("content-range"), "3-4");
}

#[test]
fn intervals_that_make_no_sense_change_nothing() {
    for (value, seconds) in [("3", 3), ("1/2", 3), ("0", 3), ("-1", 3), ("", 3), ("1", 1), ("7", 7)] {
        let mut job = Hand::accepted(config());
        job.machine.write("abc");
        job.sends("patch 0+3");
        job.answer(202, &[("x-gitlab-trace-update-interval", value)], "");
        job.machine.write("de");
        assert_eq!(job.waits(), Some(START.saturating_add(Duration::from_secs(seconds))), "{value:?}");
    }
}

#[test]
fn a_piece_whose_fate_is_unknown_is_repeated_as_it_was() {
    for failure in [Failure::NotSent, Failure::Unknown, Failure::TimedOut, Failure::interrupted(1), Failure::Cancelled]
    {
        let mut job = Hand::accepted(config());
        job.machine.write("abc");
        let first = job.sends("patch 0+3").request.into_body();
        job.machine.write("more, meanwhile");
        job.fail(failure);
        let again = job.call();
        assert_eq!((again.name().as_str(), again.request.body()), ("patch 0+3", &first), "{failure:?}");
        job.answer(202, &[], "");
        job.pass(3 * SECOND);
        job.sends("patch 3+15");
    }
}

#[test]
fn more_than_one_piece_is_caught_up_without_a_pause() {
    let mut job = Hand::accepted(config().with_patch_limit(4));
    job.machine.write("0123456789");
    for name in ["patch 0+4", "patch 4+4"] {
        job.sends(name);
        job.answer(202, &[], "");
    }
    assert_eq!(job.waits(), Some(START.saturating_add(3 * SECOND)));
}

#[test]
fn a_416_leads_to_where_gitlabs_log_ends() {
    // We wrote 9 bytes, 6 of them acknowledged, and send the rest.
    let rows = [
        ("0-9", None),              // all is there
        ("0-8", Some("patch 8+1")), // some of it
        ("0-3", Some("patch 3+6")), // less than it had
        ("0-0", Some("patch 0+9")), // nothing any more
    ];
    for (range, next) in rows {
        let mut job = Hand::accepted(config());
        job.machine.write("012345");
        job.sends("patch 0+6");
        job.answer(202, &[], "");
        job.machine.write("678");
        job.pass(3 * SECOND);
        job.sends("patch 6+3");
        job.answer(416, &[("range", range)], "");
        match next {
            Some(next) => _ = job.sends(next),
            None => assert_eq!((job.waits().is_some(), job.machine.unsent()), (true, 0)),
        }
        assert_eq!(job.events, [], "{range}");
    }
}

#[test]
fn somebody_elses_bytes_are_stepped_over_without_a_checksum() {
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    job.sends("patch 0+3");
    job.answer(416, &[("range", "0-7")], "");
    // Ours certainly did not arrive.
    job.sends("patch 7+3");
    assert!(matches!(job.events[..], [JobEvent::TraceShifted { server_offset: 7, .. }]), "{:?}", job.events);
    // Now they may have.
    job.fail(Failure::Unknown);
    assert_eq!(job.call().name(), "patch 7+3");
    job.answer(416, &[("range", "0-20")], "");
    job.machine.write("de");
    job.pass(3 * SECOND);
    job.sends("patch 20+2");
    job.answer(202, &[], "");
    job.machine.finish(JobResult::success());
    job.sends("probe 22");
    job.answer(202, &[], "");
    assert_eq!(job.sends("report success").json()["output"], serde_json::json!({}));
}

#[test]
fn a_416_that_does_not_help_is_no_invitation_to_loop() {
    for range in ["0-0", "", "bytes 0-2", "0--1", "x"] {
        let mut job = Hand::accepted(config());
        job.machine.write("abc");
        let mut last = START;
        let mut tries = 0;
        while tries < 12 {
            let sent = job.call();
            if sent.name() == "running" {
                job.answer(200, &[], "200");
                continue;
            }
            // The second answer that names the very start is asked about with an empty patch, one byte further on.
            let probe = range == "0-0" && tries % 3 == 2;
            assert_eq!(sent.name(), if probe { "probe 1" } else { "patch 0+3" }, "{range:?}");
            assert!(tries == 0 || sent.at > last, "{range:?}");
            last = sent.at;
            job.answer(416, &[("range", range)], "");
            tries += 1;
        }
        assert!(last.saturating_since(START) > 60 * SECOND, "{range:?}: 12 tries in {last:?}");
        let unreachable = job.events.iter().filter(|event| matches!(event, JobEvent::Unreachable { .. })).count();
        assert_eq!(unreachable, 1, "one event an episode");
    }
}

#[test]
fn servers_that_do_not_agree_are_not_hammered() {
    let mut job = Hand::accepted(config());
    job.machine.write("abcdef");
    job.sends("patch 0+6");
    job.answer(202, &[], "");
    job.machine.write("g");
    job.pass(3 * SECOND);
    for size in ["0-3", "0-5"].iter().cycle().take(24) {
        while job.call().name() == "running" {
            job.answer(200, &[], "200");
        }
        job.answer(416, &[("range", size)], "");
    }
    assert!(job.now.saturating_since(START) > 300 * SECOND, "24 detours in {:?}", job.now);
    while job.machine.unsent() > 0 {
        let patch = job.call().name() != "running";
        job.answer(if patch { 202 } else { 200 }, &[], "");
    }
    assert_eq!(job.machine.unsent(), 0);
}

/// The size of the next piece, with as much time passing as it takes.
fn next_piece(job: &mut Hand<Job>) -> u64 {
    loop {
        let sent = job.call();
        match sent.request.body().len() {
            _ if sent.name() == "running" => job.answer(200, &[], "200"),
            size => return size as u64,
        }
    }
}

#[test]
fn pieces_that_are_too_large_are_halved_and_grow_again() {
    const LIMIT: u64 = 50_000;
    let mut job = Hand::accepted(config());
    job.machine.write(vec![b'x'; 3 << 20]);
    let (mut refused, mut taken) = (Vec::new(), Vec::new());
    while taken.len() < 20 {
        match next_piece(&mut job) {
            size if size > LIMIT => {
                refused.push(size);
                job.answer(413, &[], "<html>");
            }
            size => {
                taken.push(size);
                job.answer(202, &[], "");
            }
        }
    }
    assert_eq!(refused, [1 << 20, 1 << 19, 1 << 18, 1 << 17, 1 << 16]);
    assert!(taken.iter().all(|size| *size == 1 << 15), "{taken:?}");
    assert!(job.now > START, "each refusal is followed by a pause");
    // Ten minutes later one larger piece is tried, and the size that is known to pass stays.
    job.pass(600 * SECOND);
    assert_eq!(next_piece(&mut job), 1 << 16);
    job.answer(413, &[], "<html>");
    assert_eq!(next_piece(&mut job), 1 << 15);
    job.answer(202, &[], "");
    // The next try comes after twice the time; then the front end has been mended.
    job.pass(1200 * SECOND);
    for size in [1 << 16, 1 << 17, 1 << 18, 1 << 19] {
        assert_eq!(next_piece(&mut job), size);
        job.answer(202, &[], "");
    }
}

#[test]
fn a_413_for_a_small_piece_is_a_failure_like_any_other() {
    let mut job = Hand::accepted(config());
    job.machine.write(vec![b'x'; 5000]);
    let mut sizes = Vec::new();
    while job.now.saturating_since(START) < 600 * SECOND {
        sizes.push(next_piece(&mut job));
        job.answer(413, &[], "<html>");
    }
    assert_eq!((sizes[0], sizes[1]), (5000, 4096), "{sizes:?}");
    assert!(sizes[2..].iter().all(|size| *size == 4096 || *size == 5000) && sizes.len() < 40, "{sizes:?}");
}

/// Some servers write the last byte where the size belongs.
#[test]
fn a_server_that_names_the_last_byte_is_understood() {
    let mut job = Hand::accepted(config());
    job.machine.write("abcdef");
    job.sends("patch 0+6");
    job.fail(Failure::Unknown); // and yet all six bytes arrived
    for name in ["patch 0+6", "patch 5+1", "patch 5+1"] {
        assert_eq!(job.call().name(), name);
        job.answer(416, &[("range", "0-5")], "");
    }
    assert_eq!(job.call().name(), "probe 6");
    job.answer(202, &[], "");
    job.machine.write("g");
    assert_eq!(job.call().name(), "patch 6+1", "nothing is sent twice");
    job.answer(202, &[], "");
    assert_eq!((job.machine.unsent(), job.machine.is_checking_in()), (0, false));
}

#[test]
fn every_row_of_gitlabs_offset_table_is_outlived() {
    for replay in [ReplayRule::TailRepeatAccepted, ReplayRule::Strict416] {
        for keep in [0u64, 4, 9] {
            let mut server = gitlab(Settings::default().with(|s| s.replay = replay));
            let assignment = take_job(&mut server, &config(), START, NewJob::new("offsets"));
            let mut job = Hand::new(Job::new(Arc::new(config()), &assignment, START));
            job.machine.write("012345678");
            // The first answer is lost: GitLab has the bytes, and hears of them again.
            job.run_one(&mut server);
            let Rest::Sent(patch) = job.poll() else { panic!() };
            server.respond(job.now, patch.request);
            job.fail(Failure::Unknown);
            server.forget_trace_tail(assignment.id(), keep);
            job.machine.write("9ab");
            job.machine.finish(JobResult::success());
            job.run(&mut server, 60 * SECOND);
            assert!(job.is_done());
            let record = server.job(assignment.id()).unwrap();
            assert_eq!(
                (record.trace(), record.status()),
                (&b"0123456789ab"[..], JobStatus::Success),
                "{replay:?} {keep}"
            );
            let crc = format!("crc32:{:08x}", crc32fast::hash(b"0123456789ab"));
            assert_eq!((record.reported_checksum(), record.reported_bytesize()), (Some(&crc[..]), Some(12)));
        }
    }
}

impl Hand<Job> {
    /// One call against the simulated GitLab.
    fn run_one(&mut self, gitlab: &mut gitlab_runner_api_testkit::Coordinator) {
        let Rest::Sent(sent) = self.poll() else { panic!("no call") };
        let response = gitlab.respond(self.now, sent.request);
        self.hand_in(response).unwrap();
    }
}

#[test]
fn what_is_not_kept_is_asked_for_in_pieces() {
    let config = config().with_retain(Retain::Unacknowledged).with_patch_limit(4);
    let mut job = Hand::accepted(config);
    job.machine.write("0123456789");
    job.machine.finish(JobResult::success());
    for name in ["patch 0+4", "patch 4+4", "patch 8+2"] {
        job.sends(name);
        job.answer(202, &[], "");
    }
    job.sends("report success");
    job.answer(412, &[], "");
    job.sends("probe 10");
    job.answer(416, &[("range", "0-3")], "");
    assert!(job.waits().is_some());
    assert_eq!(job.events, [JobEvent::TraceNeeded(3..7)]);
    assert!(job.machine.supply_trace(0, Bytes::from_static(b"012")).is_err(), "those are not the ones");
    job.machine.supply_trace(3, Bytes::from_static(b"34")).unwrap();
    job.sends("patch 3+2");
    job.answer(202, &[], "");
    job.waits();
    job.machine.supply_trace(5, Bytes::from_static(b"56789 and more than was asked for")).unwrap();
    assert!(job.machine.supply_trace(9, Bytes::new()).is_err(), "nothing is needed now");
    assert_eq!(job.sends("patch 5+4").request.body(), "5678");
    job.answer(202, &[], "");
    job.sends("patch 9+1");
    job.answer(202, &[], "");
    let report = job.call(); // after the pause that follows a mismatch
    assert_eq!((report.name().as_str(), &report.json()["output"]["bytesize"]), ("report success", &10.into()));
}

#[test]
fn bytes_that_are_gone_leave_a_mark_and_no_checksum() {
    let mut job = Hand::accepted(config().with_retain(Retain::Unacknowledged));
    job.machine.write(vec![b'x'; 1000]);
    job.sends("patch 0+1000");
    job.answer(202, &[], "");
    job.machine.write("the end\n");
    job.pass(3 * SECOND);
    job.sends("patch 1000+8");
    job.answer(416, &[("range", "0-100")], "");
    job.waits();
    job.machine.forfeit_trace().unwrap();
    assert!(job.machine.forfeit_trace().is_err(), "nothing is needed now");
    job.machine.finish(JobResult::success());
    let mark = job.call();
    let text = String::from_utf8(mark.request.body().to_vec()).unwrap();
    assert!(mark.name().starts_with("patch 100+") && text.contains("900 bytes"), "{text}");
    job.answer(202, &[], "");
    let end = 100 + text.len();
    job.sends(&format!("patch {end}+8"));
    job.answer(202, &[], "");
    assert_eq!(job.sends("report success").json()["output"], serde_json::json!({}));
}

#[test]
fn an_empty_log_is_no_trouble() {
    let mut server = gitlab(Settings::default());
    let assignment = take_job(&mut server, &config(), START, NewJob::new("silent"));
    let mut job = Hand::new(Job::new(Arc::new(config()), &assignment, START));
    job.machine.finish(JobResult::success());
    assert_eq!(job.run(&mut server, SECOND), 2, "accept and report, nothing else");
    let record = server.job(assignment.id()).unwrap();
    assert_eq!(record.reported_checksum(), Some("crc32:00000000"));
    assert_eq!(job.events.last(), Some(&JobEvent::Finished(Outcome::Success)));
}

#[test]
fn a_log_over_gitlabs_limit_ends_the_job() {
    let mut server = gitlab(Settings::default().with(|s| s.trace_size_limit = Some(1 << 20)));
    let assignment = take_job(&mut server, &config(), START, NewJob::new("chatty"));
    let mut job = Hand::new(Job::new(Arc::new(config()), &assignment, START));
    job.machine.write(vec![b'x'; 3 << 20]);
    job.run(&mut server, SECOND);
    assert_eq!(job.events.last(), Some(&JobEvent::Aborted(AbortReason::Forbidden)));
    assert_eq!(server.job(assignment.id()).unwrap().failure_reason(), Some("trace_size_exceeded"));
}

#[test]
fn debug_logs_are_marked_as_such() {
    for (key, value, marked) in
        [("CI_DEBUG_TRACE", "true", true), ("CI_DEBUG_SERVICES", "1", true), ("CI_DEBUG_TRACE", "yes", false)]
    {
        let mut server = gitlab(Settings::default());
        let assignment = take_job(&mut server, &config(), START, NewJob::new("debug").with_variable(key, value));
        let mut job = Hand::new(Job::new(Arc::new(config()), &assignment, START));
        job.machine.write("abc");
        job.run(&mut server, SECOND);
        assert_eq!(server.job(assignment.id()).unwrap().debug_trace(), marked, "{key}={value}");
    }
}

#[test]
fn a_late_answer_to_a_call_that_was_given_up_changes_nothing() {
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    job.sends("patch 0+3");
    let ticket = job.drop_ticket();
    let deadline = ticket.hints().deadline;
    assert_eq!(job.waits(), Some(START.saturating_add(deadline + 30 * SECOND)));
    job.pass(deadline + 30 * SECOND);
    // A keep-alive is due by now, and goes first after a piece that was not answered.
    assert_eq!(job.call().name(), "running");
    job.answer(200, &[], "200");
    assert_eq!(job.call().name(), "patch 0+3");
    let late = http::Response::builder().status(202).body(Bytes::new()).unwrap();
    let stale = gitlab_runner_api::Machine::handle_response(&mut job.machine, ticket, late, job.now);
    stale.unwrap();
    job.answer(202, &[], "");
    assert_eq!(job.machine.unsent(), 0);
}

#[test]
fn tickets_go_home_to_their_own_machine() {
    let mut one = Hand::accepted(config());
    let other = gitlab_runner_api::Assignment::from_json(r#"{"id":8,"token":"t"}"#).unwrap();
    let mut other = Hand::new(Job::new(Arc::new(config()), &other, START));
    let Rest::Sent(_) = other.poll() else { panic!() };
    let ticket = other.drop_ticket();
    let wrong = one.machine.handle_failure(ticket, Failure::Unknown, Timestamp::EPOCH).unwrap_err();
    let (ticket, Err(Failure::Unknown)) = wrong.into_parts() else { panic!("it was a failure") };
    // The ticket comes back, and the response with it.
    let accepted = http::Response::builder().status(200).body(Bytes::from_static(b"200")).unwrap();
    let wrong = one.machine.handle_response(ticket, accepted, START).unwrap_err();
    assert!(!format!("{wrong:?} {wrong}").contains("glcbt"));
    let (ticket, Ok(response)) = wrong.into_parts() else { panic!("it was a response") };
    other.machine.handle_response(ticket, response, START).unwrap();
    other.waits();
    assert_eq!(other.events, [JobEvent::Accepted]);
}

/// An application reads old bytes of a log, and meanwhile the job is over.
#[test]
fn bytes_that_come_after_the_end_are_ignored() {
    let mut job = Hand::accepted(config().with_retain(Retain::Unacknowledged));
    job.machine.write("abc");
    job.sends("patch 0+3");
    job.answer(202, &[("x-gitlab-trace-update-interval", "1")], "");
    job.machine.write("def");
    assert_eq!(job.call().name(), "patch 3+3");
    job.answer(416, &[("range", "0-0")], "");
    job.waits();
    assert_eq!(job.machine.trace_needed(), Some(0..3));
    while job.call_or_pending() != "running" {}
    job.answer(403, &[("job-status", "canceled")], "");
    assert!(job.is_done());
    assert_eq!((job.machine.supply_trace(0, "abc".into()), job.machine.forfeit_trace()), (Ok(()), Ok(())));
}

/// One driver for state machines of all kinds whose events are of one type.
#[test]
fn state_machines_can_be_trait_objects() {
    let mut jobs: Vec<Box<dyn Machine<Event = JobEvent>>> = Vec::new();
    for _ in 0..2 {
        jobs.push(Box::new(Job::new(Arc::new(config()), &assignment(), START)));
    }
    let throttle = gitlab_runner_api::Throttle::new();
    for job in &mut jobs {
        throttle.hold(job.as_mut());
        let mut hand = Hand::new(job);
        hand.sends("running");
        hand.answer(200, &[], "200");
        hand.waits();
        assert_eq!(hand.events, [JobEvent::Accepted]);
    }
    let Output::Wait(Some(_)) = jobs[0].poll(START) else { panic!("it waits") };
}
