mod growth;
mod storm;

use http::Method;
use serde_json::json;

use super::fixture::{Lab, body, header, seconds, work};
use super::{Endpoint, HostLimit, Maintenance, NewJob};

#[test]
fn what_is_not_simulated_is_not_found() {
    let mut lab = Lab::new(|_| {});
    let response = lab.call(Method::GET, "/version", &[], b"");
    assert_eq!((response.status().as_u16(), body(&response)), (404, json!({ "error": "404 Not Found" })));
    let response = lab.call(Method::GET, "/jobs/request", &[], b"");
    assert_eq!((response.status().as_u16(), header(&response, "allow")), (405, Some("OPTIONS, POST")));
    let old = http::Request::post("/gitlab/api/v3/runners").body(bytes::Bytes::new()).expect("a request");
    assert_eq!(lab.gitlab.respond(lab.now, old).status(), 410);
    assert_eq!(lab.gitlab.stats().requests(Endpoint::Other), 3);
}

#[test]
fn the_framework_answers_head_and_options_by_itself() {
    let mut lab = Lab::new(|_| {});
    let mut ask = |method: Method, path: &str| {
        let response = lab.call(method, path, &[("private-token", "none")], b"");
        let allow = header(&response, "allow").map(str::to_owned);
        (response.status().as_u16(), allow, response.body().is_empty())
    };
    for path in ["/jobs/1/artifacts", "/runners/router/discovery", "/projects/4242/jobs", "/runners/all"] {
        let (read, head) = (ask(Method::GET, path), ask(Method::HEAD, path));
        assert_eq!((head.0, head.2), (read.0, true), "{path}");
    }
    assert_eq!(ask(Method::HEAD, "/jobs/request").0, 405);
    assert_eq!(ask(Method::OPTIONS, "/jobs/request"), (204, Some("OPTIONS, POST".to_owned()), true));
    let allowed = Some("OPTIONS, POST, GET, HEAD".to_owned());
    assert_eq!(ask(Method::OPTIONS, "/jobs/1/artifacts"), (204, allowed.clone(), true));
    assert_eq!(ask(Method::PUT, "/jobs/1/artifacts"), (405, allowed, false));
}

/// GitLab's `HandleMalformedStrings` stands before the API.
#[test]
fn what_is_no_text_is_refused_wherever_a_text_is_expected() {
    let mut lab = Lab::new(|_| {});
    let id = lab.running_job(&[]);
    let token = lab.job(id).token().to_owned();
    let (form, json) = (("content-type", "application/x-www-form-urlencoded"), ("content-type", "application/json"));
    let parts = ("content-type", "multipart/form-data; boundary=xx");
    let field = |value: &[u8]| {
        [b"--xx\r\nContent-Disposition: form-data; name=\"token\"\r\n\r\n", value, b"\r\n--xx--\r\n"].concat()
    };
    for (path, kind, body, status) in [
        ("/runners/verify", form, b"token=a%00".to_vec(), 400),
        ("/runners/verify", form, b"token=%e9".to_vec(), 400),
        ("/runners/verify", form, b"token=%C3%A9".to_vec(), 403),
        ("/runners/verify?info[name]=%c0", form, b"token=a".to_vec(), 400),
        ("/runners/verify", json, br#"{"token":"a","info":{"labels":{"a":["\u0000"]}}}"#.to_vec(), 400),
        ("/runners/verify", parts, field(b"a\0"), 400),
        ("/runners/verify", parts, field(b"\xff"), 400),
        ("/runners/verify", parts, field(b"a"), 403),
        ("/runners/1%00/reset_authentication_token", form, Vec::new(), 400),
        ("/runners/%ff", form, Vec::new(), 400),
    ] {
        let response = lab.call(Method::POST, path, &[kind], &body);
        assert_eq!(response.status(), status, "{path} {}", String::from_utf8_lossy(&body));
        if status == 400 {
            assert_eq!(
                (header(&response, "content-type"), &response.body()[..]),
                (Some("text/plain"), &b"Bad Request"[..])
            );
        }
    }
    // A log is no text.
    let headers = [("content-type", "text/plain"), ("job-token", token.as_str()), ("content-range", "0-1")];
    assert_eq!(lab.call(Method::PATCH, &format!("/jobs/{id}/trace"), &headers, b"\0\xff").status(), 202);
}

#[test]
fn every_answer_has_a_date_and_a_request_id() {
    let mut lab = Lab::new(|_| {});
    let response = lab.call(Method::GET, "/", &[("x-request-id", "mine")], b"");
    assert_eq!(header(&response, "x-request-id"), Some("mine"));
    assert_eq!(header(&response, "date"), Some("Tue, 14 Nov 2023 22:14:00 GMT"));
    let (one, two) = (lab.request_job(&work(&[])), lab.request_job(&work(&[])));
    assert_ne!(header(&one, "x-request-id"), header(&two, "x-request-id"));
}

#[test]
fn tokens_are_limited_by_kind_of_call() {
    let mut lab = Lab::new(|settings| {
        settings.job_request_limit = 3;
        settings.trace_limit = 2;
        settings.job_limit = 1;
    });
    let (one, two) = (lab.running_job(&[]), lab.running_job(&[]));
    let running = || json!({ "state": "running" });
    assert_eq!((lab.put(one, running()).status().as_u16(), lab.put(two, running()).status().as_u16()), (200, 200));
    assert_eq!((lab.patch(one, 0, "").status().as_u16(), lab.patch(one, 0, "").status().as_u16()), (202, 202));
    assert_eq!(lab.request_job(&work(&[])).status(), 204);
    for response in [lab.put(one, running()), lab.patch(one, 0, "a"), lab.request_job(&work(&[]))] {
        assert_eq!((response.status().as_u16(), header(&response, "retry-after")), (429, Some("60")));
        assert_eq!(header(&response, "ratelimit-name"), None);
        assert!(body(&response)["message"]["error"].as_str().is_some_and(|text| text.contains("too many times")));
    }
    // Checked before the token is: a wrong one is limited, too. Missing parameters are noticed earlier.
    let wrong = json!({ "token": "wrong", "state": "running" });
    assert_eq!(lab.json(Method::PUT, &format!("/jobs/{one}"), &wrong).status(), 403);
    assert_eq!(lab.json(Method::PUT, &format!("/jobs/{one}"), &wrong).status(), 429);
    assert_eq!(lab.json(Method::PUT, &format!("/jobs/{one}"), &json!({})).status(), 400);
    lab.pass(seconds(60));
    assert_eq!(lab.put(one, running()).status(), 200);
    assert_eq!(lab.trace(one), "");
}

#[test]
fn the_host_is_limited_as_a_whole() {
    let mut lab = Lab::new(|settings| settings.host_limit = Some(HostLimit::new(2, seconds(60))));
    let id = lab.running_job(&[]);
    let admitted = lab.patch(id, 0, "a");
    assert_eq!((admitted.status().as_u16(), header(&admitted, "ratelimit-remaining")), (202, Some("0")));
    assert_eq!((header(&admitted, "retry-after"), header(&admitted, "ratelimit-resettime")), (None, None));
    lab.pass(seconds(15));
    let refused = lab.patch(id, 1, "b");
    assert_eq!((refused.status().as_u16(), header(&refused, "retry-after")), (429, Some("45")));
    assert_eq!(header(&refused, "ratelimit-resettime"), Some("Tue, 14 Nov 2023 22:15:00 GMT"));
    assert_eq!(header(&refused, "date"), Some("Tue, 14 Nov 2023 22:14:15 GMT"));
    lab.pass(seconds(45));
    assert_eq!(lab.patch(id, 1, "b").status(), 202);
}

#[test]
fn migrations_and_maintenance_stop_everything() {
    let mut lab = Lab::new(|_| {});
    let id = lab.running_job(&[]);
    lab.gitlab.settings_mut().migration_backoff = true;
    let response = lab.patch(id, 0, "a");
    assert_eq!((response.status().as_u16(), header(&response, "retry-after")), (429, Some("60")));
    assert_eq!(body(&response)["message"], "Executing database migrations. Please retry later.");
    for (maintenance, retry_after) in [(Maintenance::On, None), (Maintenance::RetryAfter(7), Some("7"))] {
        lab.gitlab.settings_mut().maintenance = maintenance;
        let response = lab.put(id, json!({ "state": "success" }));
        assert_eq!((response.status().as_u16(), header(&response, "retry-after")), (503, retry_after));
        assert!(response.body().starts_with(b"<html>"));
    }
    assert_eq!(lab.status(id), "running");
}

#[test]
fn requests_and_answers_are_counted() {
    let mut lab = Lab::new(|_| {});
    let id = lab.running_job(&[]);
    lab.patch(id, 0, "a");
    lab.patch(id, 7, "a");
    let stats = lab.gitlab.stats();
    assert_eq!((stats.total(), stats.requests(Endpoint::PatchTrace), stats.answers(416)), (3, 2, 1));
    assert_eq!((stats.answers_of(Endpoint::PatchTrace, 202), stats.answers_of(Endpoint::UpdateJob, 202)), (1, 0));
    let job = lab.job(id);
    assert_eq!((job.requests(Endpoint::PatchTrace), job.requests(Endpoint::RequestJob)), (2, 1));
}

#[test]
fn the_same_calls_have_the_same_results() {
    let run = || {
        let mut lab = Lab::new(|settings| settings.two_phase_commit = true);
        let id = lab.running_job(&["two_phase_job_commit"]);
        lab.patch(id, 0, "a");
        lab.pass(seconds(200));
        lab.gitlab.poll(lab.now);
        format!("{:?}", lab.gitlab)
    };
    assert_eq!(run(), run());
}

#[test]
fn time_does_not_go_back() {
    let mut lab = Lab::new(|_| {});
    let id = lab.running_job(&[]);
    let later = lab.now.saturating_add(seconds(3600));
    lab.gitlab.poll(later);
    assert_eq!(lab.status(id), "failed");
    let next = lab.gitlab.queue(lab.now, NewJob::default());
    assert_eq!(lab.job(next).history()[0].0, later);
}

#[test]
fn the_default_payload_is_that_of_a_current_server() {
    let mut lab = Lab::new(|_| {});
    let job = NewJob::new("deploy")
        .with_after_script(["cleanup"])
        .with_masked_variable("KEY", "hidden")
        .with_timeout(seconds(90));
    lab.gitlab.queue(lab.now, job.with_variable("A", "b").with_file_variable("F", "c"));
    let payload = body(&lab.request_job(&work(&[])));
    let variable = |key: &str| {
        let all = payload["variables"].as_array().expect("a list");
        all.iter().find(|variable| variable["key"] == key).cloned().unwrap_or_default()
    };
    let token = payload["token"].as_str().expect("a token");
    assert!(token.starts_with("glcbt-"));
    assert!(payload["git_info"]["repo_url"].as_str().is_some_and(|url| url.contains(token)));
    assert_eq!(
        (&variable("CI_JOB_TOKEN")["value"], &variable("CI_JOB_TOKEN")["masked"]),
        (&json!(token), &json!(true))
    );
    assert_eq!(variable("KEY"), json!({ "key": "KEY", "value": "hidden", "public": false, "masked": true }));
    assert_eq!((&variable("F")["file"], variable("A").get("file")), (&json!(true), None));
    assert_eq!(payload["runner_info"]["timeout"], 90);
    assert_eq!(payload["steps"][1]["name"], "after_script");
    assert!(payload["image"].is_null() && payload["artifacts"].is_null());
}

#[test]
fn gitlabs_own_throttle_counts_requests_without_a_token() {
    let mut lab = Lab::new(|settings| settings.host_limit = Some(HostLimit::unauthenticated(1, seconds(60))));
    lab.gitlab.set_access_token("pat");
    let id = lab.running_job(&[]);
    for at in 0..3 {
        assert_eq!(lab.patch(id, at, "a").status(), 202);
        assert_eq!(lab.put(id, json!({ "state": "running" })).status(), 200);
    }
    let unknown = json!({ "token": "unknown" });
    assert_eq!(lab.json(Method::POST, "/runners/verify", &unknown).status(), 403);
    assert_eq!(lab.json(Method::POST, "/runners/verify", &unknown).status(), 429);
    let headers = [("private-token", "pat")];
    assert_eq!(lab.call(Method::POST, "/user/runners?runner_type=instance_type", &headers, b"").status(), 201);
}
