//! The final handshake, in every order.

use std::sync::Arc;
use std::time::Duration;

use gitlab_runner_api::log::LogOptions;
use gitlab_runner_api::{
    Cause, Failure, FailureReason, Job, JobEvent, JobResult, JobStatus as Status, Outcome, Written,
};
use gitlab_runner_api_testkit::{Endpoint, JobStatus, NewJob, Settings};
use http::StatusCode;

use crate::common::{Hand, SECOND, START, config, gitlab, take_job};

/// A job whose log `abc` is acknowledged, with this result.
fn finished(result: JobResult) -> Hand<Job> {
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    job.machine.finish(result);
    job.sends("patch 0+3");
    job.answer(202, &[], "");
    job
}

fn outcome(job: &mut Hand<Job>) -> Outcome {
    assert!(job.is_done(), "{:?}", job.events);
    match job.events.last() {
        Some(JobEvent::Finished(outcome)) => outcome.clone(),
        other => panic!("not finished: {other:?}"),
    }
}

#[test]
fn the_report_says_what_the_log_was() {
    let mut job = finished(JobResult::success());
    let report = job.sends("report success").json();
    let checksum = format!("crc32:{:08x}", crc32fast::hash(b"abc"));
    assert_eq!(report["output"], serde_json::json!({"checksum": checksum, "bytesize": 3}));
    assert_eq!((&report["token"], &report["checksum"]), (&"glcbt-7".into(), &checksum.into()));
    assert!(report.get("failure_reason").is_none() && report.get("exit_code").is_none());
}

#[test]
fn a_small_job_makes_three_calls_after_it_was_asked_for() {
    let mut gitlab = gitlab(Settings::default());
    let config = config();
    let assignment = take_job(&mut gitlab, &config, START, NewJob::new("small"));
    let mut job = Hand::new(Job::new(Arc::new(config), &assignment, START));
    job.machine.write("hello\n");
    job.machine.finish(JobResult::success());
    job.run(&mut gitlab, 60 * SECOND);
    let stored = gitlab.job(assignment.id()).unwrap();
    assert_eq!((stored.requests(Endpoint::UpdateJob), stored.requests(Endpoint::PatchTrace)), (2, 1));
    assert_eq!(outcome(&mut job), Outcome::Success);
}

#[test]
fn an_answer_that_names_our_own_state_is_no_rejection() {
    let rows = [
        (JobResult::success(), 200, "success", Outcome::Success),
        (JobResult::success(), 200, "", Outcome::Success),
        (JobResult::success(), 200, "running", Outcome::Success),
        (JobResult::from_exit_code(1), 200, "failed", Outcome::Failed),
        (JobResult::success(), 200, "canceled", Outcome::Canceled),
        (JobResult::success(), 200, "failed", Outcome::Overruled(Status::Failed)),
        (JobResult::from_exit_code(1), 200, "success", Outcome::Overruled(Status::Success)),
        // The first answer was lost; by now the job is over.
        (JobResult::success(), 403, "success", Outcome::Success),
        (JobResult::from_exit_code(1), 403, "failed", Outcome::Failed),
        (JobResult::from_exit_code(1), 403, "canceled", Outcome::Canceled),
        (JobResult::success(), 403, "failed", Outcome::Overruled(Status::Failed)),
    ];
    for (result, status, said, wanted) in rows {
        let mut job = finished(result);
        job.call();
        let headers: &[(&str, &str)] = if said.is_empty() { &[] } else { &[("job-status", said)] };
        job.answer(status, headers, r#"{"message":"403 Forbidden"}"#);
        assert_eq!(outcome(&mut job), wanted, "{status} {said:?}");
    }
}

#[test]
fn a_report_is_repeated_until_it_is_heard() {
    let mut job = finished(JobResult::from_exit_code(7));
    let first = job.sends("report failed");
    for tries in 0..30 {
        match tries % 4 {
            0 => job.fail(Failure::TimedOut),
            1 => job.answer(502, &[], "<html>"),
            2 => job.answer(409, &[], r#"{"message":"409 Conflict: Resource lock"}"#),
            _ => job.answer(404, &[], ""),
        }
        assert_eq!(job.call().request.body(), first.request.body(), "the same, whatever happens");
    }
    job.answer(200, &[("job-status", "failed")], "200");
    assert_eq!(outcome(&mut job), Outcome::Failed);
    let told: Vec<_> = job.events.iter().map(|event| matches!(event, JobEvent::Unreachable { .. })).collect();
    assert_eq!(told, [true, false, false], "{:?}", job.events);
}

#[test]
fn a_log_that_is_not_archived_yet_is_waited_for() {
    let mut job = finished(JobResult::success());
    let first = job.sends("report success").request.into_body();
    let mut at = job.now;
    // The header names the pause; where it makes no sense, ours doubles as GitLab's would.
    let rows = [(Some("1"), 1), (Some("1/2"), 2), (Some("4"), 4), (None, 8), (Some("16"), 16), (Some("900"), 64)];
    for (told, seconds) in rows {
        let headers: Vec<_> = told.map(|told| ("x-gitlab-trace-update-interval", told)).into_iter().collect();
        job.answer(202, &headers, "202");
        let report = loop {
            let sent = job.call();
            if sent.name() == "report success" {
                break sent;
            }
            job.answer(200, &[("job-status", "running")], "200");
        };
        assert_eq!((report.request.body(), report.at.saturating_since(at)), (&first, seconds * SECOND), "{told:?}");
        at = report.at;
    }
}

#[test]
fn a_log_that_is_never_archived_is_not_waited_for_for_ever() {
    for archive_delay in [20, 200, 100_000] {
        let settings = Settings::default().with(|s| {
            s.archive_delay = Some(Duration::from_secs(archive_delay));
            s.fractional_interval = true;
        });
        let mut server = gitlab(settings);
        let assignment = take_job(&mut server, &config(), START, NewJob::new("archived"));
        let mut job = Hand::new(Job::new(Arc::new(config()), &assignment, START));
        job.machine.write("abc");
        job.machine.finish(JobResult::success());
        if archive_delay > 1000 {
            // The lock of another process lets GitLab answer 202 beyond its own five minutes.
            job.run(&mut server, Duration::ZERO);
            server.lock_trace(assignment.id(), START.saturating_add(100_000 * SECOND));
        }
        job.run(&mut server, 100 * SECOND);
        assert_eq!(outcome(&mut job), Outcome::Success, "{archive_delay}");
        // Ten minutes of patience, and the pause that was running when they ended.
        assert!(job.now.saturating_since(START) < (600 + 2 * 64) * SECOND, "{archive_delay}: {:?}", job.now);
        assert!(server.job(assignment.id()).unwrap().requests(Endpoint::UpdateJob) < 30);
    }
}

#[test]
fn a_mismatch_sends_the_log_again_and_then_goes_without_checksum() {
    let mut job = finished(JobResult::success());
    job.sends("report success");
    job.answer(412, &[], "");
    job.sends("probe 3");
    job.answer(202, &[], "");
    job.sends("patch 0+3");
    job.answer(416, &[("range", "0-3")], "");
    let second = job.call();
    assert_eq!((second.name().as_str(), &second.json()["output"]["bytesize"]), ("report success", &3.into()));
    assert!(second.at > START, "a mismatch is followed by a pause");
    let mut last = second.at;
    for _ in 0..8 {
        job.answer(412, &[], "");
        let again = job.call();
        assert_eq!((again.name().as_str(), &again.json()["output"]), ("report success", &serde_json::json!({})));
        assert!(again.at > last);
        last = again.at;
    }
    assert!(last.saturating_since(START) > 10 * SECOND, "and by longer ones: {last:?}");
    job.answer(200, &[], "200");
    assert_eq!(outcome(&mut job), Outcome::Success);
}

#[test]
fn a_report_that_is_not_understood_is_given_up_after_ten_minutes() {
    let mut job = finished(JobResult::success());
    let mut reports = 0;
    while job.now.saturating_since(START) < 2000 * SECOND {
        if job.is_done() {
            break;
        }
        let sent = job.call_or_pending();
        reports += usize::from(sent == "report success");
        job.answer(400, &[], r#"{"error":"state does not have a valid value"}"#);
    }
    let Outcome::Refused(rejection) = outcome(&mut job) else { panic!() };
    assert!(rejection.message.contains("valid value") && reports > 5, "{rejection} after {reports}");
    let span = job.now.saturating_since(START);
    assert!(span >= 600 * SECOND && span < 700 * SECOND, "{span:?}");
}

#[test]
fn exit_codes_and_reasons_are_those_gitlab_can_take() {
    use FailureReason as R;
    let rows = [
        (JobResult::from_exit_code(7), "script_failure", Some(7)),
        (JobResult::from_exit_code(-1), "script_failure", Some(-1)),
        (JobResult::failed(R::ScriptFailure).with_exit_code(0), "script_failure", None),
        (JobResult::failed(R::JobExecutionTimeout), "job_execution_timeout", None),
        (JobResult::failed(R::RunnerSystemFailure), "runner_system_failure", None),
        (JobResult::failed(R::ImagePullFailure), "runner_system_failure", None), // not in this payload's list
        (JobResult::failed(R::RunnerConfigurationError), "script_failure", None),
        (JobResult::failed(R::from("job_canceled")), "unknown_failure", None),
    ];
    for (result, reason, exit_code) in rows {
        let report = finished(result.clone()).sends("report failed").json();
        assert_eq!(report["failure_reason"], reason, "{result:?}");
        assert_eq!(report.get("exit_code").and_then(serde_json::Value::as_i64), exit_code, "{result:?}");
    }
    let mut server = gitlab(Settings::default());
    let assignment = take_job(&mut server, &config(), START, NewJob::new("interrupted"));
    let mut job = Hand::new(Job::new(Arc::new(config()), &assignment, START));
    job.machine.finish(JobResult::failed(R::RunnerInterrupted));
    job.run(&mut server, SECOND);
    assert_eq!(server.job(assignment.id()).unwrap().failure_reason(), Some("runner_interrupted"), "this one knows it");
}

#[test]
fn the_first_result_counts_and_completes_the_log() {
    let mut job = Hand::accepted(config());
    assert_eq!(job.machine.write("abc"), Written::Queued);
    job.machine.finish(JobResult::from_exit_code(3));
    job.machine.finish(JobResult::success());
    assert_eq!(job.machine.write("too late"), Written::Ended);
    job.sends("patch 0+3");
    job.answer(202, &[], "");
    assert_eq!(job.sends("report failed").json()["exit_code"], 3);
}

#[test]
fn an_end_that_gitlab_may_have_lost_is_looked_for_before_the_report() {
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    job.sends("patch 0+3");
    job.answer(202, &[], "");
    job.machine.finish(JobResult::success());
    job.sends("probe 3");
    job.answer(416, &[("range", "0-1")], "");
    job.sends("patch 1+2");
    job.answer(202, &[], "");
    job.sends("report success");
}

#[test]
fn a_probe_that_nobody_understands_is_given_up() {
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    job.sends("patch 0+3");
    job.answer(202, &[], "");
    job.machine.finish(JobResult::success());
    for status in [400, 411, 416] {
        assert_eq!(job.call().name(), "probe 3");
        job.answer(status, &[], "");
    }
    assert_eq!(job.call().name(), "report success");
}

#[test]
fn a_job_is_accepted_before_anything_else_is_said_of_it() {
    let mut server = gitlab(Settings::default().with(|s| s.two_phase_commit = true));
    let assignment = take_job(&mut server, &config(), START, NewJob::new("lent"));
    assert_eq!(server.job(assignment.id()).unwrap().status(), JobStatus::Pending);
    let mut job = Hand::new(Job::new(Arc::new(config()), &assignment, START));
    job.machine.write("abc");
    job.machine.finish(JobResult::success());
    for _ in 0..3 {
        assert_eq!(job.call().name(), "running");
        job.fail(Failure::Unknown);
    }
    job.run(&mut server, SECOND);
    assert_eq!(outcome(&mut job), Outcome::Success);
    assert_eq!(server.job(assignment.id()).unwrap().trace(), b"abc");
}

#[test]
fn a_server_that_knows_no_acceptance_is_no_obstacle() {
    let mut job = Hand::new(Job::new(Arc::new(config()), &crate::common::assignment(), START));
    job.sends("running");
    job.answer(400, &[("job-status", "running")], r#"{"message":"400 Bad request"}"#);
    job.machine.write("abc");
    job.sends("patch 0+3");
}

#[test]
fn a_log_that_gitlab_altered_still_ends_well() {
    // GitLab replaces the job's token by x: no checksum of ours can match then.
    let mut server = gitlab(Settings::default());
    let config = config().with_log(LogOptions::dangerously_raw());
    let assignment = take_job(&mut server, &config, START, NewJob::new("leaks"));
    let mut job = Hand::new(Job::new(Arc::new(config), &assignment, START));
    job.machine.write(format!("token {}\n", assignment.spec().token.expose()));
    job.machine.finish(JobResult::success());
    job.run(&mut server, SECOND);
    assert_eq!(outcome(&mut job), Outcome::Success);
    assert!(server.job(assignment.id()).unwrap().trace().ends_with(b"xxx\n"));
}

#[test]
fn gitlab_13_names_no_status_and_is_understood() {
    let mut server = gitlab(Settings::default().with(|s| s.job_status_header_on_put = false));
    let assignment = take_job(&mut server, &config(), START, NewJob::new("old"));
    let mut job = Hand::new(Job::new(Arc::new(config()), &assignment, START));
    job.machine.finish(JobResult::from_exit_code(1));
    job.run(&mut server, SECOND);
    assert_eq!(outcome(&mut job), Outcome::Failed);
}

#[test]
fn trouble_is_told_once_with_its_first_cause() {
    let mut job = finished(JobResult::success());
    job.sends("report success");
    job.answer(503, &[("retry-after", "30")], "<html>");
    assert!(job.call().at.saturating_since(START) >= 30 * SECOND);
    let cause = Cause::Status(StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        matches!(&job.events[..], [JobEvent::Unreachable { cause: told, since, .. }] if *told == cause && *since == START)
    );
}

#[test]
fn another_answer_starts_the_patience_with_a_refused_report_anew() {
    let mut job = finished(JobResult::success());
    let mut answered = None;
    while !job.is_done() {
        job.call_or_pending();
        let at = job.now.saturating_since(START);
        assert!(at < 2000 * SECOND, "no end");
        if at > 400 * SECOND && answered.is_none() {
            answered = Some(at);
            job.answer(502, &[], "");
        } else {
            job.answer(400, &[], r#"{"error":"state does not have a valid value"}"#);
        }
    }
    assert!(matches!(outcome(&mut job), Outcome::Refused(_)));
    let since = job.now.saturating_since(START) - answered.unwrap();
    assert!(since >= 600 * SECOND && since < 800 * SECOND, "{since:?}");
}
