use gitlab_runner_api::Timestamp;
use serde_json::json;

use crate::coordinator::NewJob;
use crate::coordinator::fixture::{Lab, body, header, seconds, work};
use crate::coordinator::settings::minutes;

const GRACEFUL: &[&str] = &["cancel_gracefully"];
const TWO_PHASE: &[&str] = &["two_phase_job_commit"];

/// What can happen to a job, in the words of the tables below.
fn happen(lab: &mut Lab, id: u64, event: &str) {
    let now = lab.now;
    match event {
        "run" => assert_eq!(lab.request_job(&work(GRACEFUL)).status(), 201),
        "run hard" => assert_eq!(lab.request_job(&work(&[])).status(), 201),
        "cancel" => lab.gitlab.cancel(now, id),
        "force" => lab.gitlab.force_cancel(now, id),
        "exceed" => {
            lab.gitlab.settings_mut().trace_size_limit = Some(1);
            lab.patch(id, 0, "a");
        }
        "success" | "failed" => {
            lab.put(id, json!({ "state": event }));
        }
        "silence" => {
            lab.pass(minutes(61));
            lab.gitlab.poll(lab.now);
        }
        _ => panic!("{event}"),
    }
}

#[test]
fn every_transition_is_gitlabs() {
    for (events, states) in [
        ("run,success", "pending running success"),
        ("run,failed", "pending running failed"),
        ("run,exceed", "pending running failed"),
        ("run,silence", "pending running failed"),
        ("run,cancel,success", "pending running canceling canceled"),
        ("run,cancel,failed", "pending running canceling canceled"),
        ("run,cancel,exceed", "pending running canceling canceled"),
        ("run,cancel,silence", "pending running canceling canceled"),
        ("run,cancel,cancel,force", "pending running canceling canceled"),
        ("run hard,cancel,success", "pending running canceled"),
        ("run,force,success", "pending running canceled"),
        ("cancel", "pending canceled"),
        ("run,success,cancel,force,failed", "pending running success"),
        ("silence,run,success", "pending running success"),
    ] {
        let mut lab = Lab::new(|_| {});
        let id = lab.gitlab.queue(lab.now, NewJob::default());
        for event in events.split(',') {
            happen(&mut lab, id, event);
        }
        let history: Vec<&str> = lab.job(id).history().iter().map(|(_, status)| status.as_str()).collect();
        assert_eq!(history.join(" "), states, "{events}");
    }
}

#[test]
fn a_runner_learns_of_a_cancellation_from_any_answer() {
    let mut lab = Lab::new(|_| {});
    let (soft, hard) = (lab.running_job(GRACEFUL), lab.running_job(GRACEFUL));
    lab.gitlab.cancel(lab.now, soft);
    lab.gitlab.force_cancel(lab.now, hard);
    let running = || json!({ "state": "running" });
    for (id, status, word) in [(soft, 202, "canceling"), (hard, 403, "canceled")] {
        let response = lab.patch(id, 0, "a");
        assert_eq!((response.status().as_u16(), header(&response, "job-status")), (status, Some(word)));
        assert_eq!(header(&lab.put(id, running()), "job-status"), Some(word));
    }
    let response = lab.put(soft, json!({ "state": "success" }));
    assert_eq!((response.status().as_u16(), header(&response, "job-status")), (200, Some("canceled")));
}

#[test]
fn timeouts_end_jobs_by_themselves() {
    let mut lab = Lab::new(|settings| settings.job_token_grace = None);
    let start = lab.now;
    let id = lab.running_job(GRACEFUL);
    assert_eq!(lab.gitlab.deadline(), Some(start.saturating_add(minutes(60))));

    // Contact refreshes the last-update time only if that is older than 15 minutes.
    for (after, refreshed) in [(15, false), (16, true), (30, false), (32, true)] {
        lab.now = start.saturating_add(minutes(after));
        match after {
            30.. => lab.patch(id, 0, ""),
            _ => lab.put(id, json!({ "state": "running" })),
        };
        assert_eq!(lab.job(id).updated_at() == lab.now, refreshed, "{after}");
    }
    // Timeout of one hour and 15 minutes of grace come before 32 + 60 minutes.
    let end = start.saturating_add(minutes(75));
    assert_eq!(lab.gitlab.deadline(), Some(end));
    lab.gitlab.poll(Timestamp::from_millis(end.as_millis() - 1));
    assert_eq!(lab.status(id), "running");
    lab.gitlab.poll(end.saturating_add(seconds(99)));
    assert_eq!((lab.status(id), lab.job(id).failure_reason()), ("failed", Some("server_timeout_running")));
    assert_eq!(lab.job(id).history().last().map(|(at, _)| *at), Some(end));
    assert_eq!(lab.gitlab.deadline(), None);
}

#[test]
fn silence_ends_jobs() {
    let mut lab = Lab::new(|_| {});
    let start = lab.now;
    let (running, canceling) = (lab.running_job(GRACEFUL), lab.running_job(GRACEFUL));
    lab.gitlab.cancel(lab.now, canceling);
    assert_eq!(lab.gitlab.deadline(), Some(start.saturating_add(minutes(30))));
    lab.pass(minutes(30));
    lab.gitlab.poll(lab.now);
    assert_eq!((lab.status(running), lab.status(canceling)), ("running", "canceled"));
    assert_eq!(lab.job(canceling).failure_reason(), Some("no_updates_canceling"));
    lab.pass(minutes(30));
    assert_eq!(header(&lab.patch(running, 0, "a"), "job-status"), Some("failed"));
    assert_eq!(lab.job(running).failure_reason(), Some("no_updates_running"));

    let mut lab = Lab::new(|settings| settings.stuck_after = minutes(30));
    let id = lab.running_job(&[]);
    lab.pass(minutes(30));
    lab.gitlab.poll(lab.now);
    assert_eq!(lab.status(id), "failed");
}

#[test]
fn in_two_phases_a_job_is_pending_until_it_is_accepted() {
    let mut lab = Lab::new(|settings| settings.two_phase_commit = true);
    let id = lab.running_job(TWO_PHASE);
    assert!(lab.job(id).is_waiting());
    assert_eq!((lab.status(id), lab.job(id).started_at()), ("pending", None));
    assert_eq!(lab.request_job(&work(TWO_PHASE)).status(), 204);

    for state in ["success", "failed", "nonsense"] {
        let response = lab.put(id, json!({ "state": state }));
        assert_eq!((response.status().as_u16(), header(&response, "job-status")), (400, Some("pending")), "{state}");
    }
    assert_eq!(lab.patch(id, 0, "early").status(), 202);
    lab.pass(seconds(119));
    assert_eq!(lab.put(id, json!({ "state": "pending" })).status(), 200);
    lab.pass(seconds(119));
    let response = lab.put(id, json!({ "state": "running" }));
    assert_eq!((response.status().as_u16(), header(&response, "job-status")), (200, Some("running")));
    assert_eq!(lab.job(id).started_at(), Some(lab.now));
    assert_eq!(lab.put(id, json!({ "state": "running" })).status(), 200);
    assert_eq!(lab.put(id, json!({ "state": "pending" })).status(), 400);
    assert_eq!(lab.put(id, json!({ "state": "success" })).status(), 200);
}

#[test]
fn a_job_that_nobody_accepts_comes_back_as_another() {
    let mut lab = Lab::new(|settings| settings.two_phase_commit = true);
    let id = lab.running_job(TWO_PHASE);
    assert_eq!(lab.gitlab.deadline(), Some(lab.now.saturating_add(minutes(2))));
    lab.pass(minutes(2));
    let response = lab.put(id, json!({ "state": "running" }));
    assert_eq!((response.status().as_u16(), header(&response, "job-status")), (403, Some("failed")));
    assert_eq!(lab.job(id).failure_reason(), Some("runner_provisioning_timeout"));
    let retry = lab.gitlab.jobs().last().expect("a retry");
    assert_eq!((retry.id(), retry.retry_of(), retry.status().as_str()), (id + 1, Some(id), "pending"));
    assert_ne!(retry.token(), lab.job(id).token());
    assert_eq!(lab.request_job(&work(TWO_PHASE)).status(), 201);
}

#[test]
fn a_waiting_job_can_be_cancelled_and_loses_its_manager() {
    let mut lab = Lab::new(|settings| settings.two_phase_commit = true);
    let (canceled, orphan) = (lab.running_job(TWO_PHASE), lab.running_job(TWO_PHASE));
    lab.gitlab.cancel(lab.now, canceled);
    assert_eq!(header(&lab.put(canceled, json!({ "state": "running" })), "job-status"), Some("canceled"));
    lab.gitlab.remove_runner(lab.runner);
    assert_eq!(lab.put(orphan, json!({ "state": "running" })).status(), 400);
}

#[test]
fn one_phase_is_the_rule() {
    // The feature is off, or the runner does not know it.
    for (on, features) in [(false, TWO_PHASE), (true, &[])] {
        let mut lab = Lab::new(|settings| settings.two_phase_commit = on);
        let id = lab.running_job(features);
        assert_eq!(lab.status(id), "running");
        assert_eq!(lab.put(id, json!({ "state": "running" })).status(), 200);
    }
    // A job that nobody got is not processed by anybody.
    let mut lab = Lab::new(|_| {});
    let id = lab.gitlab.queue(lab.now, NewJob::default());
    let response = lab.put(id, json!({ "state": "pending" }));
    assert_eq!((response.status().as_u16(), header(&response, "job-status")), (403, Some("pending")));
}

#[test]
fn the_token_of_a_job_is_removed_some_time_after_its_end() {
    let mut lab = Lab::new(|settings| settings.job_token_removed_after = Some(seconds(10)));
    let id = lab.running_job(&[]);
    lab.pass(seconds(60));
    assert_eq!(lab.put(id, json!({ "state": "success" })).status(), 200);
    lab.pass(seconds(9));
    let response = lab.put(id, json!({ "state": "success" }));
    assert_eq!((response.status().as_u16(), header(&response, "job-status")), (403, Some("success")));
    lab.pass(seconds(1));
    for response in [lab.put(id, json!({ "state": "success" })), lab.patch(id, 0, "a")] {
        assert_eq!((response.status().as_u16(), header(&response, "job-status")), (403, None));
        assert_eq!(body(&response), json!({ "message": "403 Forbidden" }));
    }
}

#[test]
fn the_key_of_a_suspended_environment_is_kept() {
    for (name, key, status) in [
        ("runtime_environment_key", "k".repeat(4096), 200),
        ("environment_key", "42/s_1/data".to_owned(), 200),
        ("runtime_environment_key", "k".repeat(4097), 400),
    ] {
        let mut lab = Lab::new(|_| {});
        let id = lab.running_job(&[]);
        assert_eq!(lab.put(id, json!({ "state": "success", name: key })).status(), status, "{name}");
        assert_eq!(lab.job(id).environment_key(), (status == 200).then_some(key.as_str()));
    }
}
