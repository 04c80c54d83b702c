use http::Method;
use serde_json::{Value, json};

use crate::coordinator::Endpoint;
use crate::coordinator::fixture::{Lab, body, header, seconds};

const INTERVAL: &str = "x-gitlab-trace-update-interval";

fn done() -> Value {
    json!({ "state": "success", "output": { "checksum": "crc32:0000002a", "bytesize": 3 } })
}

#[test]
fn every_state_is_answered_as_gitlab_answers_it() {
    for (update, status, after, reason, exit_code) in [
        (json!({ "state": "running" }), 200, "running", None, None),
        (json!({ "state": "running", "checksum": "crc32:00000001" }), 200, "running", None, None),
        (json!({ "state": "success" }), 200, "success", None, None),
        (json!({ "state": "success", "exit_code": 3, "failure_reason": "script_failure" }), 200, "success", None, None),
        (json!({ "state": "failed" }), 200, "failed", Some("unknown_failure"), None),
        (json!({ "state": "failed", "failure_reason": "made_up" }), 200, "failed", Some("unknown_failure"), None),
        (
            json!({ "state": "failed", "failure_reason": "script_failure", "exit_code": 7, "future": [] }),
            200,
            "failed",
            Some("script_failure"),
            Some(7),
        ),
        (json!({ "state": "pending" }), 400, "running", None, None),
        (json!({ "state": "canceled" }), 400, "running", None, None),
        (json!({}), 400, "running", None, None),
        (json!({ "checksum": "crc32:00000001" }), 400, "running", None, None),
    ] {
        let mut lab = Lab::new(|_| {});
        let id = lab.running_job(&[]);
        let response = lab.put(id, update.clone());
        assert_eq!(response.status(), status, "{update}");
        assert_eq!(header(&response, "job-status"), Some(after), "{update}");
        assert_eq!(header(&response, INTERVAL), None, "{update}");
        assert_eq!(response.body(), status.to_string().as_bytes(), "{update}");
        let job = lab.job(id);
        assert_eq!(
            (job.status().as_str(), job.failure_reason(), job.exit_code()),
            (after, reason, exit_code),
            "{update}"
        );
        assert_eq!(job.requests(Endpoint::UpdateJob), 1);
    }
}

#[test]
fn parameters_that_do_not_fit_are_refused_without_a_job_status() {
    let mut lab = Lab::new(|_| {});
    let id = lab.running_job(&[]);
    let (path, token) = (format!("/jobs/{id}"), lab.job(id).token().to_owned());
    let headers = [("content-type", "application/json"), ("job-token", token.as_str())];
    for (update, error) in [
        (json!({ "state": "success" }), "token is missing"),
        (json!({ "token": token, "state": {} }), "state is invalid"),
        (json!({ "token": token, "state": "failed", "exit_code": "one" }), "exit_code is invalid"),
        (json!({ "token": token, "state": "failed", "output": "crc32:00000001" }), "output is invalid"),
    ] {
        let response = lab.call(Method::PUT, &path, &headers, update.to_string().as_bytes());
        assert_eq!((response.status().as_u16(), &body(&response)["error"]), (400, &error.into()));
        assert_eq!(header(&response, "job-status"), None);
    }
    // Scalars also travel as a form or in the query.
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let response = lab.call(Method::PUT, &path, &form, format!("token={token}&state=running").as_bytes());
    assert_eq!(response.status(), 200);
    assert_eq!(lab.call(Method::PUT, &format!("{path}?token={token}&state=success"), &[], b"").status(), 200);
    assert_eq!(lab.status(id), "success");
}

#[test]
fn old_servers_do_not_say_the_status_of_an_updated_job() {
    let mut lab = Lab::new(|settings| settings.job_status_header_on_put = false);
    let id = lab.running_job(&[]);
    assert_eq!(header(&lab.put(id, done()), "job-status"), None);
    assert_eq!(header(&lab.put(id, done()), "job-status"), Some("success"));
}

#[test]
fn a_finished_job_refuses_everything_and_names_its_state() {
    let mut lab = Lab::new(|_| {});
    let id = lab.running_job(&[]);
    assert_eq!(lab.put(id, json!({ "state": "failed", "failure_reason": "script_failure" })).status(), 200);
    for response in [lab.put(id, done()), lab.put(id, json!({ "state": "running" })), lab.patch(id, 0, "late")] {
        assert_eq!((response.status().as_u16(), header(&response, "job-status")), (403, Some("failed")));
    }
    assert_eq!((lab.status(id), lab.trace(id), lab.job(id).reports()), ("failed", "", 1));
}

#[test]
fn the_trace_is_archived_before_a_final_update_is_taken() {
    let mut lab = Lab::new(|settings| settings.archive_delay = Some(seconds(290)));
    let id = lab.running_job(&[]);
    lab.patch(id, 0, "abc");
    let start = lab.now;
    for (age, interval) in [
        (0, "1"),
        (999, "1"),
        (1000, "1"),
        (1500, "1"),
        (2000, "1"),
        (3999, "1"),
        (4000, "2"),
        (8000, "4"),
        (16_000, "8"),
        (32_000, "16"),
        (64_000, "32"),
        (128_000, "64"),
        (256_000, "64"),
        (289_999, "64"),
    ] {
        lab.now = start.saturating_add(std::time::Duration::from_millis(age));
        let response = lab.put(id, done());
        assert_eq!((response.status().as_u16(), header(&response, INTERVAL)), (202, Some(interval)), "{age} ms");
        assert_eq!((header(&response, "job-status"), lab.status(id)), (Some("running"), "running"));
    }
    lab.now = start.saturating_add(seconds(290));
    // The checksum that stands is the first one; the state that counts is the last one.
    let other = json!({ "state": "failed", "checksum": "crc32:00000007", "failure_reason": "script_failure" });
    let response = lab.put(id, other);
    assert_eq!((response.status().as_u16(), header(&response, "job-status")), (200, Some("failed")));
    assert_eq!(header(&response, INTERVAL), None);
    let job = lab.job(id);
    assert_eq!((job.reported_checksum(), job.reported_bytesize()), (Some("crc32:0000002a"), Some(3)));
    assert_eq!((job.failure_reason(), job.reports()), (Some("script_failure"), 15));
    let states: Vec<&str> = job.final_updates().iter().map(|update| update.state.as_str()).collect();
    assert_eq!((states[13], states[14]), ("success", "failed"));
}

#[test]
fn between_one_and_two_seconds_the_interval_may_be_a_fraction() {
    let mut lab = Lab::new(|settings| {
        settings.archive_delay = Some(seconds(60));
        settings.fractional_interval = true;
    });
    let id = lab.running_job(&[]);
    lab.patch(id, 0, "abc");
    let start = lab.now;
    for (age, interval) in [(0, "1"), (1000, "1"), (1001, "1/2"), (1999, "1/2"), (2000, "1")] {
        lab.now = start.saturating_add(std::time::Duration::from_millis(age));
        assert_eq!(header(&lab.put(id, done()), INTERVAL), Some(interval), "{age}");
    }
}

#[test]
fn archiving_is_waited_for_only_if_there_is_something_to_wait_for() {
    type Case = (&'static str, bool, bool, Value, u16);
    let cases: [Case; 4] = [
        ("incremental logging is off", false, true, done(), 200),
        ("no checksum", true, true, json!({ "state": "success" }), 200),
        ("empty trace", true, false, done(), 200),
        ("all conditions hold", true, true, done(), 202),
    ];
    for (case, live, written, update, status) in cases {
        let mut lab = Lab::new(|settings| settings.archive_delay = live.then_some(seconds(10)));
        let id = lab.running_job(&[]);
        if written {
            lab.patch(id, 0, "abc");
        }
        assert_eq!(lab.put(id, update).status(), status, "{case}");
    }
}

#[test]
fn archiving_is_waited_for_five_minutes_but_a_lock_for_ever() {
    let mut lab = Lab::new(|settings| settings.archive_delay = Some(seconds(100_000)));
    let (slow, locked) = (lab.running_job(&[]), lab.running_job(&[]));
    lab.gitlab.lock_trace(locked, lab.now.saturating_add(seconds(900)));
    lab.patch(slow, 0, "abc");
    for (age, of_slow, of_locked) in [(0, 202, 202), (299, 202, 202), (300, 200, 202), (899, 403, 202), (900, 403, 200)]
    {
        let start = lab.now;
        lab.pass(seconds(age));
        assert_eq!(lab.put(slow, done()).status(), of_slow, "{age}");
        assert_eq!(lab.put(locked, done()).status(), of_locked, "{age}");
        lab.now = start;
    }
}

#[test]
fn while_it_is_archived_a_trace_still_grows() {
    let mut lab = Lab::new(|settings| settings.archive_delay = Some(seconds(10)));
    let id = lab.running_job(&["cancel_gracefully"]);
    lab.patch(id, 0, "abc");
    assert_eq!(lab.put(id, done()).status(), 202);
    lab.pass(seconds(8));
    assert_eq!(lab.patch(id, 3, "d").status(), 202);
    lab.pass(seconds(3));
    assert_eq!(lab.put(id, done()).status(), 202);
    lab.gitlab.cancel(lab.now, id);
    assert_eq!(header(&lab.put(id, done()), "job-status"), Some("canceling"));
    lab.pass(seconds(7));
    assert_eq!(header(&lab.put(id, done()), "job-status"), Some("canceled"));
}

#[test]
fn checksums_are_rejected_so_many_times() {
    let mut lab = Lab::new(|settings| settings.reject_checksum = 2);
    let id = lab.running_job(&[]);
    assert_eq!(lab.put(id, json!({ "state": "running", "checksum": "crc32:00000001" })).status(), 200);
    for status in [412, 412, 200] {
        assert_eq!(lab.put(id, done()).status(), status);
    }
    assert_eq!(lab.gitlab.settings().reject_checksum, 0);
}

#[test]
fn a_locked_job_is_a_conflict() {
    let mut lab = Lab::new(|_| {});
    let id = lab.running_job(&[]);
    lab.gitlab.lock_job(id, lab.now.saturating_add(seconds(1)));
    let response = lab.put(id, done());
    assert_eq!((response.status().as_u16(), header(&response, "job-status")), (409, None));
    assert_eq!(lab.patch(id, 0, "a").status(), 202);
    lab.pass(seconds(1));
    assert_eq!(lab.put(id, done()).status(), 200);
}

#[test]
fn a_checksum_without_a_state_breaks_incremental_logging() {
    let mut lab = Lab::new(|settings| settings.archive_delay = Some(seconds(1)));
    let id = lab.running_job(&[]);
    assert_eq!(lab.put(id, json!({ "checksum": "crc32:00000001" })).status(), 500);
}
