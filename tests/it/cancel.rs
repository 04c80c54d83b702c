//! Cancellation from every side, at every moment; timeouts; keep-alives.

use std::sync::Arc;
use std::time::Duration;

use gitlab_runner_api::{AbortReason, Cancellation, Failure, Job, JobEvent, JobResult, Outcome, Written};
use gitlab_runner_api_testkit::{JobStatus, NewJob, Settings};

use crate::common::{Hand, SECOND, START, config, gitlab, take_job};

const FORBIDDEN: &str = r#"{"message":"403 Forbidden"}"#;

#[test]
fn canceling_on_any_answer_asks_for_a_graceful_stop_once() {
    for status in [200, 202, 400, 404, 409, 416, 429, 500, 502] {
        let mut job = Hand::accepted(config());
        job.machine.write("abc");
        for _ in 0..3 {
            job.call();
            job.answer(status, &[("job-status", "canceling")], "");
        }
        job.waits();
        let told = job.events.iter().filter(|event| **event == JobEvent::CancelRequested).count();
        assert_eq!((told, job.machine.cancellation()), (1, Cancellation::Requested), "{status}");
        assert_eq!(job.machine.write("after_script"), Written::Queued, "the log goes on");
    }
}

#[test]
fn final_words_abort_whatever_the_status() {
    for status in [200, 202, 403, 404, 409, 500] {
        for (said, reason) in [("canceled", AbortReason::Canceled), ("failed", AbortReason::Failed)] {
            let mut job = Hand::accepted(config());
            job.machine.write("abc");
            job.call();
            job.answer(status, &[("job-status", said)], FORBIDDEN);
            assert!(job.is_done(), "{status} {said}");
            assert_eq!(
                (&job.events[..], job.machine.cancellation()),
                (&[JobEvent::Aborted(reason)][..], Cancellation::Aborted)
            );
            assert_eq!(job.machine.write("more"), Written::Ended);
            assert_eq!(job.machine.unsent() == 0, status == 202, "a 202 still says that the bytes are there");
        }
    }
}

#[test]
fn gitlabs_403_aborts_and_a_firewalls_is_asked_about() {
    for (headers, body) in
        [(&[][..], FORBIDDEN), (&[("job-status", "success")][..], ""), (&[("job-status", "running")][..], "<html>")]
    {
        let mut job = Hand::accepted(config());
        job.machine.write("abc");
        job.call();
        job.answer(403, headers, body);
        assert!(job.is_done());
        assert_eq!(job.events, [JobEvent::Aborted(AbortReason::Forbidden)], "{headers:?} {body}");
    }
    // One page of a firewall is asked about …
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    job.call();
    job.answer(403, &[], "<html>Forbidden</html>");
    assert_eq!(job.call().name(), "running");
    job.answer(502, &[], "<html>");
    assert_eq!(job.call().name(), "running", "an answer that says nothing settles nothing");
    job.answer(200, &[("job-status", "running")], "200");
    // … and forgotten when GitLab knows better; a second one, later, is a first one again.
    job.sends("patch 0+3");
    job.answer(403, &[], "<html>Forbidden</html>");
    assert_eq!(job.call().name(), "running");
    job.answer(403, &[], "<html>Forbidden</html>");
    assert!(job.is_done());
    assert_eq!(job.events.last(), Some(&JobEvent::Aborted(AbortReason::Forbidden)));
}

#[test]
fn nothing_a_proxy_says_ends_a_job() {
    for status in [301, 302, 401, 404, 405, 407, 408, 429, 500, 502, 503, 504, 200, 204] {
        let mut job = Hand::accepted(config());
        job.machine.write("abc");
        for _ in 0..20 {
            job.call();
            job.answer(status, &[("location", "https://login.example.test/")], "<html>");
        }
        job.call();
        job.answer(202, &[], "");
        job.waits();
        assert_eq!(job.machine.unsent(), 0, "{status}");
        assert!(
            matches!(job.events[..], [JobEvent::Unreachable { .. }, JobEvent::Recovered]),
            "{status}: {:?}",
            job.events
        );
    }
}

#[test]
fn an_hour_of_nothing_but_404_is_taken_at_its_word() {
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    let mut last = job.now;
    while !job.is_done() {
        if !job.has_ticket() {
            job.call();
        }
        last = job.now;
        job.answer(404, &[], "");
    }
    let span = last.saturating_since(START);
    assert!(span >= 3600 * SECOND && span < 3800 * SECOND, "{span:?}");
    assert_eq!(job.events.last(), Some(&JobEvent::Aborted(AbortReason::NotFound)));

    // One other answer in between starts the hour anew.
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    for tries in 0..120 {
        job.call();
        job.answer(if tries == 60 { 502 } else { 404 }, &[], "");
    }
    assert!(
        job.now.saturating_since(START) > 4500 * SECOND && !matches!(job.events.last(), Some(JobEvent::Aborted(_)))
    );
}

#[test]
fn a_cancelled_job_ends_as_canceled_whatever_it_reports() {
    for result in [JobResult::success(), JobResult::from_exit_code(1)] {
        let mut server = gitlab(Settings::default());
        let assignment = take_job(&mut server, &config(), START, NewJob::new("cancelled"));
        let mut job = Hand::new(Job::new(Arc::new(config()), &assignment, START));
        job.machine.write("abc\n");
        job.run(&mut server, SECOND);
        server.cancel(job.now, assignment.id());
        job.pass(30 * SECOND);
        job.run(&mut server, Duration::ZERO);
        assert!(job.events.contains(&JobEvent::CancelRequested), "within a keep-alive");
        job.machine.write("cleaned up\n");
        job.machine.finish(result);
        job.run(&mut server, 61 * SECOND);
        assert_eq!(job.events.last(), Some(&JobEvent::Finished(Outcome::Canceled)));
        let record = server.job(assignment.id()).unwrap();
        assert_eq!((record.status(), record.trace()), (JobStatus::Canceled, &b"abc\ncleaned up\n"[..]));
    }
}

#[test]
fn a_cancelled_job_whose_end_is_not_named_ended_as_canceled() {
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    job.call();
    job.answer(202, &[("job-status", "canceling")], "");
    job.machine.write("cleaned up");
    job.machine.finish(JobResult::success());
    job.call();
    job.answer(202, &[], "");
    job.sends("report success");
    job.answer(200, &[], "200");
    assert!(job.is_done());
    assert_eq!(job.events.last(), Some(&JobEvent::Finished(Outcome::Canceled)));
}

#[test]
fn a_cancellation_that_comes_while_the_result_is_delivered_is_no_abort() {
    for graceful in [true, false] {
        let mut server = gitlab(Settings::default().with(|s| s.archive_delay = Some(20 * SECOND)));
        let assignment = take_job(&mut server, &config(), START, NewJob::new("late"));
        let mut job = Hand::new(Job::new(Arc::new(config()), &assignment, START));
        job.machine.write("abc");
        job.machine.finish(JobResult::success());
        job.run(&mut server, Duration::ZERO);
        if graceful {
            server.cancel(job.now, assignment.id())
        } else {
            server.force_cancel(job.now, assignment.id())
        }
        job.run(&mut server, 60 * SECOND);
        assert_eq!(job.events.last(), Some(&JobEvent::Finished(Outcome::Canceled)), "graceful: {graceful}");
    }
}

#[test]
fn a_silent_job_is_kept_alive_for_hours() {
    let mut server = gitlab(Settings::default().with(|s| s.stuck_after = 1800 * SECOND));
    let assignment = take_job(&mut server, &config(), START, NewJob::new("thinks").with_timeout(20 * 3600 * SECOND));
    let mut job = Hand::new(Job::new(Arc::new(config()), &assignment, START));
    while job.now.saturating_since(START) < 10 * 3600 * SECOND {
        job.run(&mut server, Duration::ZERO);
        job.pass(10 * SECOND);
        while server.poll(job.now).is_some() {}
    }
    assert_eq!(server.job(assignment.id()).unwrap().status(), JobStatus::Running);
    job.machine.finish(JobResult::success());
    job.run(&mut server, SECOND);
    assert_eq!(job.events.last(), Some(&JobEvent::Finished(Outcome::Success)));
}

#[test]
fn a_job_is_told_when_its_time_is_up() {
    let mut server = gitlab(Settings::default());
    let assignment = take_job(&mut server, &config(), START, NewJob::new("slow").with_timeout(100 * SECOND));
    let mut job = Hand::new(Job::new(Arc::new(config()), &assignment, START));
    assert_eq!(job.machine.deadline(), START.saturating_add(100 * SECOND));
    job.run(&mut server, 31 * SECOND - SECOND);
    job.pass(100 * SECOND);
    job.run(&mut server, SECOND);
    let told = job.events.iter().filter(|event| **event == JobEvent::TimedOut).count();
    assert_eq!(told, 1);
    let unnamed = Job::new(Arc::new(config()), &crate::common::assignment(), START);
    assert_eq!(unnamed.deadline(), START.saturating_add(7200 * SECOND));
}

#[test]
fn a_job_that_ran_out_of_its_token_is_over() {
    let mut server = gitlab(Settings::default());
    let assignment = take_job(&mut server, &config(), START, NewJob::new("expired").with_timeout(100 * SECOND));
    let mut job = Hand::new(Job::new(Arc::new(config()), &assignment, START));
    job.run(&mut server, SECOND);
    job.pass(500 * SECOND);
    job.run(&mut server, SECOND);
    assert!(matches!(job.events.last(), Some(JobEvent::Aborted(_))), "{:?}", job.events);
    assert_eq!(server.job(assignment.id()).unwrap().failure_reason(), Some("job_token_expired"));
}

#[test]
fn an_abandoned_job_says_nothing_more_and_can_be_taken_up() {
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    job.sends("patch 0+3");
    let before = job.machine.snapshot();
    job.machine.abandon();
    assert!(job.is_done());
    job.fail(Failure::Cancelled);
    assert!(job.is_done() && job.machine.write("more") == Written::Ended);
    assert_eq!(job.machine.snapshot().log_size(), before.log_size());
    let taken = Job::resume(Arc::new(config()), &crate::common::assignment(), job.machine.snapshot(), START).unwrap();
    assert_eq!(Hand::new(taken).call().name(), "probe 3");
}

#[test]
fn a_job_can_be_asked_whether_it_is_ours() {
    let mut job = Hand::accepted(config());
    job.waits();
    assert!(!job.machine.is_checking_in());
    job.machine.check_in();
    job.sends("running");
    job.answer(502, &[], "");
    assert!(job.machine.is_checking_in(), "a gateway knows nothing of jobs");
    assert_eq!(job.call().name(), "running");
    job.answer(200, &[("job-status", "canceling")], "");
    assert!(!job.machine.is_checking_in() && job.machine.cancellation() == Cancellation::Requested);

    job.machine.check_in();
    job.machine.write("any answer that GitLab gives to a call of this job says it");
    job.call();
    job.answer(202, &[("job-status", "canceling")], "");
    while job.machine.is_checking_in() {
        job.call();
        job.answer(202, &[], "");
    }
    job.machine.check_in();
    job.machine.finish(JobResult::success());
    assert!(!job.machine.is_checking_in(), "a job with a result needs no asking");
    job.machine.check_in();
    assert!(!job.machine.is_checking_in());

    let mut gone = Hand::accepted(config());
    gone.machine.check_in();
    gone.sends("running");
    gone.answer(403, &[], FORBIDDEN);
    assert!(gone.is_done() && !gone.machine.is_checking_in());
}
