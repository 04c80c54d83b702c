//! Cancellation from every side, at every moment; timeouts; keep-alives.

use std::sync::Arc;
use std::time::Duration;

use gitlab_runner_api::{
    AbortReason, Cancellation, Failure, Job, JobEvent, JobResult, JobStatus, Machine, Outcome, RunnerConfig, Written,
};
use gitlab_runner_api_testkit::{JobStatus as Held, NewJob, Settings};

use crate::common::{Hand, SECOND, START, assignment, config, gitlab, take_job};

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

const FOREIGN: &str = r#"{"message":"Forbidden"}"#;

#[test]
fn gitlabs_own_403_aborts_at_once() {
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
}

/// Answers all that is sent, until the job ends or this much time has passed. Returns when the job ended.
fn answer_all(job: &mut Hand<Job>, span: Duration, answer: impl Fn(&str) -> (u16, &'static str)) -> Option<Duration> {
    let start = job.now;
    while job.now.saturating_since(start) <= span {
        if job.is_done() {
            return Some(job.now.saturating_since(start));
        }
        let (status, body) = answer(&job.call_or_pending());
        job.answer(status, &[], body);
    }
    None
}

#[test]
fn an_hour_of_nothing_but_somebody_elses_403_is_taken_at_its_word() {
    let hour = 3600 * SECOND;
    for body in ["", "<html>", FOREIGN, "403 Forbidden", r#"{"error":"forbidden"}"#] {
        let mut job = Hand::accepted(config());
        job.machine.write("abc");
        let ended =
            answer_all(&mut job, 2 * hour, |_| (403, if body == FOREIGN { FOREIGN } else { "<html>" })).unwrap();
        assert!(ended >= hour && ended < hour + 100 * SECOND, "{body}: {ended:?}");
        assert_eq!(job.events.last(), Some(&JobEvent::Aborted(AbortReason::Forbidden)));
    }
    // One other answer in between, of any kind of call, and the hour begins anew.
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    let answer = |name: &str| if name == "running" { (502, "<html>") } else { (403, FOREIGN) };
    assert_eq!(answer_all(&mut job, 3 * hour, answer), None);
    // The patience can be set, and zero is none.
    let mut job = Hand::accepted(config().with_forbidden_patience(Duration::ZERO));
    job.machine.write("abc");
    assert_eq!(answer_all(&mut job, hour, |_| (403, FOREIGN)), Some(Duration::ZERO));
    let mut job = Hand::accepted(config().with_forbidden_patience(Duration::MAX));
    job.machine.write("abc");
    assert_eq!(answer_all(&mut job, 30 * hour, |_| (403, FOREIGN)), None);
}

#[test]
fn a_report_that_may_have_arrived_and_then_only_others_speak_is_unconfirmed() {
    let mut job = Hand::accepted(config());
    job.machine.finish(JobResult::success());
    job.sends("report success");
    job.fail(Failure::TimedOut);
    answer_all(&mut job, 7200 * SECOND, |_| (403, FOREIGN)).unwrap();
    assert_eq!(job.events.last(), Some(&JobEvent::Finished(Outcome::Unconfirmed)));
    // Of a report that certainly did not arrive nothing of the kind is said.
    let mut job = Hand::accepted(config());
    job.machine.finish(JobResult::success());
    answer_all(&mut job, 7200 * SECOND, |_| (403, FOREIGN)).unwrap();
    assert_eq!(job.events.last(), Some(&JobEvent::Aborted(AbortReason::Forbidden)));
}

#[test]
fn gitlabs_bare_403_after_a_report_that_may_have_arrived_confirms_it() {
    let lost: [fn(&mut Hand<Job>); 5] = [
        |job| job.fail(Failure::Unknown),
        |job| job.fail(Failure::TimedOut),
        |job| job.answer(502, &[], "<html>"),
        |job| job.answer(408, &[], ""),
        |job| job.answer(202, &[], "202"),
    ];
    for (number, lose) in lost.into_iter().enumerate() {
        for (result, cancel, status) in [
            (JobResult::success(), false, JobStatus::Success),
            (JobResult::from_exit_code(1), false, JobStatus::Failed),
            (JobResult::success(), true, JobStatus::Canceled),
        ] {
            let mut job = Hand::new(Job::new(Arc::new(config()), &assignment(), START));
            job.sends("running");
            job.answer(200, &[("job-status", if cancel { "canceling" } else { "running" })], "200");
            job.machine.finish(result);
            job.call();
            lose(&mut job);
            job.call();
            job.answer(403, &[], FORBIDDEN);
            assert!(job.is_done());
            let outcome = Outcome::Inferred(status);
            assert_eq!(job.events.last(), Some(&JobEvent::Finished(outcome)), "case {number}");
        }
    }
    // One that was refused for sure did not arrive.
    let refused: [fn(&mut Hand<Job>); 3] =
        [|job| job.fail(Failure::NotSent), |job| job.answer(429, &[], ""), |job| job.answer(409, &[], "")];
    for refuse in refused {
        let mut job = Hand::accepted(config());
        job.machine.finish(JobResult::success());
        job.call();
        refuse(&mut job);
        job.call();
        job.answer(403, &[], FORBIDDEN);
        assert!(job.is_done());
        assert_eq!(job.events.last(), Some(&JobEvent::Aborted(AbortReason::Forbidden)));
    }
}

#[test]
fn a_login_page_confirms_nothing() {
    for (status, headers, body) in [
        (200, &[("content-type", "text/html; charset=utf-8")][..], ""),
        (200, &[][..], "\n <!doctype html>"),
        (202, &[("content-type", "text/html")][..], ""),
    ] {
        // The acceptance, the log, a keep-alive, the report: each is repeated.
        let mut job = Hand::new(Job::new(Arc::new(config()), &assignment(), START));
        job.sends("running");
        job.answer(status, headers, body);
        assert_eq!(job.call().name(), "running");
        assert!(!job.events.contains(&JobEvent::Accepted));
        job.answer(200, &[], "200");
        job.machine.write("abc");
        job.call();
        job.answer(202, &[("content-type", "text/html")], "");
        assert_eq!(job.machine.unsent(), 3);
        job.call();
        job.answer(202, &[], "");
        job.machine.finish(JobResult::success());
        job.sends("probe 3");
        job.answer(202, &[], "");
        job.sends("report success");
        job.answer(status, headers, body);
        assert_eq!(job.call().name(), "report success");
        job.answer(200, &[("job-status", "success")], "200");
        assert!(job.is_done());
        assert_eq!(job.events.last(), Some(&JobEvent::Finished(Outcome::Success)));
    }
}

#[test]
fn a_job_that_gitlab_lets_nobody_accept_is_not_started() {
    let accept = |headers: &[(&str, &str)], body: &str| {
        let mut job = Hand::new(Job::new(Arc::new(config()), &assignment(), START));
        job.sends("running");
        job.answer(400, headers, body);
        job.poll();
        job.events.remove(0)
    };
    assert_eq!(accept(&[("job-status", "pending")], ""), JobEvent::Aborted(AbortReason::NotAccepted));
    for (headers, body) in [(&[][..], ""), (&[("job-status", "running")][..], ""), (&[][..], r#"{"message":"no"}"#)] {
        assert_eq!(accept(headers, body), JobEvent::Accepted, "{headers:?} {body}");
    }
    assert!(matches!(accept(&[], "<html>"), JobEvent::Unreachable { .. }));
}

#[test]
fn nothing_a_proxy_says_ends_a_job() {
    for status in [301, 302, 401, 403, 404, 405, 407, 408, 429, 500, 502, 503, 504, 200, 204] {
        let mut job = Hand::accepted(config());
        job.machine.write("abc");
        for _ in 0..20 {
            job.call();
            job.answer(status, &[("location", "https://login.example.test/")], "<html>");
        }
        while job.machine.unsent() > 0 || job.events.len() < 2 {
            let patch = job.call().name() != "running";
            job.answer(if patch { 202 } else { 200 }, &[], "");
            job.poll();
        }
        assert!(
            matches!(job.events[..], [JobEvent::Unreachable { .. }, JobEvent::Recovered]),
            "{status}: {:?}",
            job.events
        );
    }
}

#[test]
fn an_hour_of_nothing_but_404_is_taken_at_its_word() {
    let hour = 3600 * SECOND;
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    let ended = answer_all(&mut job, 2 * hour, |_| (404, "")).unwrap();
    assert!(ended >= hour && ended < hour + 200 * SECOND, "{ended:?}");
    assert_eq!(job.events.last(), Some(&JobEvent::Aborted(AbortReason::NotFound)));

    // One other answer in between starts the hour anew.
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    assert_eq!(answer_all(&mut job, hour / 2, |_| (404, "")), None);
    job.call_or_pending();
    job.answer(502, &[], "");
    let ended = answer_all(&mut job, 2 * hour, |_| (404, "")).unwrap();
    assert!(ended >= hour && ended < hour + 200 * SECOND, "{ended:?}");
}

/// L14: whatever becomes of the log, GitLab hears of the job, and the job of its cancellation.
#[test]
fn a_log_that_cannot_be_sent_makes_no_job_deaf() {
    for status in [405, 403, 401, 302, 413, 416, 429, 500, 502, 503, 200] {
        let mut job = Hand::accepted(config());
        job.machine.write("abc");
        let (mut last, mut heard) = (job.now, 0);
        while job.now.saturating_since(START) < 3600 * SECOND {
            let patch = job.call_or_pending() != "running";
            if patch {
                job.answer(status, &[], "<html>");
            } else {
                let silence = job.now.saturating_since(last);
                assert!(silence <= 45 * SECOND, "{status}: silent for {silence:?}");
                last = job.now;
                heard += 1;
                job.answer(200, &[("job-status", "running")], "200");
            }
        }
        assert!(heard > 100, "{status}: {heard}");
        // A cancellation is heard, and a check goes out at once.
        job.machine.check_in();
        assert_eq!(job.call_or_pending(), "running", "{status}");
        job.answer(200, &[("job-status", "canceling")], "200");
        job.poll();
        assert!(!job.machine.is_checking_in() && job.events.contains(&JobEvent::CancelRequested), "{status}");
    }
}

#[test]
fn a_log_that_is_refused_does_not_hold_the_result_back_for_ever() {
    for (status, given_up) in [
        (405, true),
        (403, true),
        (302, true),
        (204, true),
        (413, true),
        (501, true),
        (429, false),
        (416, false),
        (500, false),
    ] {
        let mut job = Hand::accepted(config());
        job.machine.write("abc");
        job.machine.finish(JobResult::success());
        let mut reported = None;
        while job.now.saturating_since(START) < 3600 * SECOND {
            match job.call_or_pending().as_str() {
                "running" => job.answer(200, &[], "200"),
                "report success" => {
                    reported = Some(job.now.saturating_since(START));
                    break;
                }
                _ => job.answer(status, &[], ""),
            }
        }
        assert_eq!(reported.is_some(), given_up, "{status}: {reported:?}");
        let told = job
            .events
            .iter()
            .any(|event| matches!(event, JobEvent::TraceRefused { missing, .. } if *missing == (0..3)));
        assert_eq!(told, given_up, "{status}: {:?}", job.events);
        assert!(reported.is_none_or(|at| at >= 600 * SECOND && at < 640 * SECOND), "{status}: {reported:?}");
    }
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
        assert_eq!((record.status(), record.trace()), (Held::Canceled, &b"abc\ncleaned up\n"[..]));
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
    assert_eq!(server.job(assignment.id()).unwrap().status(), Held::Running);
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

#[test]
fn an_answer_that_is_older_than_the_question_does_not_count() {
    // The acceptance was sent before the question. The job can have been cancelled since GitLab answered it.
    let mut job = Hand::new(Job::new(Arc::new(config()), &crate::common::assignment(), START));
    job.sends("running");
    job.machine.check_in();
    job.answer(200, &[("job-status", "running")], "");
    assert!(job.machine.is_checking_in(), "the acceptance was sent before the question");
    job.sends("running");
    job.answer(403, &[], FORBIDDEN);
    assert!(job.is_done() && !job.machine.is_checking_in());

    // The same with a piece of the log on the wire.
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    job.sends("patch 0+3");
    job.machine.check_in();
    job.answer(202, &[], "");
    assert!(job.machine.is_checking_in(), "the patch was sent before the question");
    job.sends("running");
    // A second question during the call that answers the first.
    job.machine.check_in();
    job.answer(200, &[], "");
    assert!(job.machine.is_checking_in(), "the second question is younger than the call");
    job.sends("running");
    job.answer(200, &[], "");
    assert!(!job.machine.is_checking_in());
    job.waits();

    // A call that fails answers nothing, whether it was sent before or after the question.
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    job.sends("patch 0+3");
    job.machine.check_in();
    job.fail(Failure::TimedOut);
    assert!(job.machine.is_checking_in());
    // A piece of log that fails does not hold the question back.
    job.sends("running");
    job.fail(Failure::TimedOut);
    assert!(job.machine.is_checking_in());
    let patch = job.call_or_pending() != "running";
    job.answer(if patch { 202 } else { 200 }, &[], "");
    assert!(!job.machine.is_checking_in());

    let mut job = Hand::accepted(config());
    job.machine.check_in();
    job.machine.abandon();
    assert!(!job.machine.is_checking_in(), "nobody is asked any more");
}

#[test]
fn what_one_kind_of_call_is_told_does_not_hold_the_other() {
    let told = START.saturating_add(120 * SECOND);
    let mut job = Hand::accepted(config());
    let [log, update]: [_; 2] = job.machine.scopes().collect::<Vec<_>>().try_into().unwrap();
    job.machine.hold_until(log, told);
    job.machine.write("abc");
    for keep_alive in 1..=3 {
        let sent = job.call();
        assert_eq!((sent.name().as_str(), sent.at), ("running", START.saturating_add(keep_alive * 30 * SECOND)));
        job.answer(200, &[], "200");
    }
    let sent = job.call();
    assert_eq!((sent.name().as_str(), sent.at), ("patch 0+3", told));

    let mut job = Hand::accepted(config());
    job.machine.hold_until(update, told);
    job.machine.write("abc");
    job.sends("patch 0+3");
    job.answer(202, &[], "");
    job.machine.check_in();
    let sent = job.call();
    assert_eq!((sent.name().as_str(), sent.at), ("running", told));
}

/// Finishes a job whose log is refused. Returns when the report was sent, if it was within an hour.
fn reported_although_refused(config: RunnerConfig, answer: impl Fn(&str, Duration) -> Option<u16>) -> Option<Duration> {
    let mut job = Hand::accepted(config);
    job.machine.write("abc");
    job.machine.finish(JobResult::success());
    while job.now.saturating_since(START) < 3600 * SECOND {
        let name = job.call_or_pending();
        let at = job.now.saturating_since(START);
        if name == "report success" {
            return Some(at);
        }
        match answer(&name, at) {
            Some(status) => job.answer(status, &[], ""),
            None => job.fail(Failure::NotSent),
        }
    }
    None
}

#[test]
fn a_log_is_given_up_only_while_other_calls_work() {
    // It waits for the answer to a keep-alive, however short the patience is.
    let reported = reported_although_refused(config().with_log_patience(SECOND), |name, _| {
        Some(if name == "running" { 200 } else { 405 })
    });
    assert!(reported.is_some_and(|at| at >= 30 * SECOND && at < 60 * SECOND), "{reported:?}");
    // Keep-alives worked for five minutes, and then never again.
    let reported = reported_although_refused(config(), |name, at| {
        Some(if name != "running" {
            405
        } else if at < 300 * SECOND {
            200
        } else {
            502
        })
    });
    assert_eq!(reported, None);
}

#[test]
fn a_failure_on_the_way_starts_the_patience_with_a_refused_log_anew() {
    let reported = reported_although_refused(config(), |name, at| match name {
        "running" => Some(200),
        _ if at > 400 * SECOND && at < 500 * SECOND => None,
        _ => Some(405),
    });
    assert!(reported.is_some_and(|at| at >= 1060 * SECOND), "{reported:?}");
}

#[test]
fn a_check_goes_before_a_log_that_fails_when_both_are_due() {
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    job.sends("patch 0+3");
    job.answer(502, &[], "");
    job.pass(10 * SECOND);
    job.machine.check_in();
    job.sends("running");
    job.answer(200, &[], "200");
    job.sends("patch 0+3");
}

/// How many calls a job makes in an hour in which each is answered like this.
fn calls_in_an_hour(
    mut job: Hand<Job>,
    mut answer: impl FnMut(&str, usize) -> (u16, &'static str, &'static str),
) -> usize {
    let start = job.now;
    let mut calls = 0;
    loop {
        let name = job.call_or_pending();
        if job.now.saturating_since(start) > 3600 * SECOND {
            return calls;
        }
        let (status, header, value) = answer(&name, calls);
        let headers = [(header, value)];
        job.answer(status, if header.is_empty() { &[] } else { &headers }, "");
        calls += 1;
    }
}

/// 380 calls that achieve nothing, and a keep-alive in each half minute, are the most that law L13 allows.
const MOST: usize = 380 + 120 + 1;

#[test]
fn no_call_that_fails_is_made_more_often_than_the_budget_allows_however_short_the_pauses() {
    let quick = || config().with_retry_cap(SECOND);
    let acceptance = Hand::new(Job::new(Arc::new(quick()), &assignment(), START));
    let mut check = Hand::accepted(quick());
    check.machine.check_in();
    let mut report = Hand::accepted(quick());
    report.machine.finish(JobResult::success());
    for (job, what) in [(acceptance, "acceptance"), (check, "check"), (report, "report")] {
        let calls = calls_in_an_hour(job, |_, _| (502, "", ""));
        assert!((300..=MOST).contains(&calls), "{what}: {calls}");
    }
    // A report that is taken and then fails, in turns: only the repetitions that GitLab asked for are free.
    let mut report = Hand::accepted(quick());
    report.machine.finish(JobResult::success());
    let answers = [(202, "x-gitlab-trace-update-interval", "1"), (502, "", "")];
    let calls = calls_in_an_hour(report, |_, number| answers[number % 2]);
    assert!(calls <= 2 * MOST, "{calls}");
}

#[test]
fn a_server_that_takes_the_same_pieces_again_and_again_is_not_hammered() {
    let mut job = Hand::accepted(config().with_patch_limit(1));
    job.machine.write("abc".repeat(20));
    // GitLab takes all but the last byte, and then it has nothing. Each byte is new once, and is filled in again once an hour.
    let calls = calls_in_an_hour(job, |name, _| match name {
        "running" => (200, "", ""),
        "patch 59+1" => (416, "range", "0-0"),
        _ => (202, "", ""),
    });
    assert!(calls <= MOST + 3 * 60, "{calls}");
}

#[test]
fn a_log_that_was_given_up_fails_no_more() {
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    job.machine.finish(JobResult::success());
    loop {
        match job.call_or_pending().as_str() {
            "running" => job.answer(200, &[], "200"),
            "report success" => break,
            _ => job.answer(405, &[], ""),
        }
    }
    let at = |wanted: fn(&JobEvent) -> bool| job.events.iter().position(wanted);
    let refused = at(|event| matches!(event, JobEvent::TraceRefused { .. }));
    let recovered = at(|event| *event == JobEvent::Recovered);
    assert!(refused.is_some() && recovered > refused, "{:?}", job.events);
}
