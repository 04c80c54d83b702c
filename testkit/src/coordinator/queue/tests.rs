use http::{Method, Response};
use serde_json::json;

use crate::coordinator::fixture::{Lab, TOKEN, body, header, seconds, work};
use crate::coordinator::settings::minutes;
use crate::coordinator::{Answer, NewJob};

const LAST_UPDATE: &str = "x-gitlab-last-update";
const POLLING: &str = "gitlab-ci-builds-polling";

fn last_update(response: &Response<bytes::Bytes>) -> String {
    header(response, LAST_UPDATE).expect("a queue value").to_owned()
}

#[test]
fn every_answer_to_a_job_request() {
    let mut lab = Lab::new(|_| {});

    let idle = lab.request_job(&work(&[]));
    assert_eq!((idle.status().as_u16(), idle.body().len()), (204, 0));
    let value = last_update(&idle);
    assert!(value.len() == 32 && value.bytes().all(|byte| byte.is_ascii_hexdigit()));

    // A current value means that the queue is not looked at, not even by another runner's fault.
    let mut current = work(&[]);
    current["last_update"] = json!(value);
    assert_eq!(last_update(&lab.request_job(&current)), value);

    let id = lab.gitlab.queue(lab.now, NewJob::default());
    let job = lab.request_job(&current);
    assert_eq!((job.status().as_u16(), header(&job, "content-type")), (201, Some("application/json")));
    assert_eq!(header(&job, LAST_UPDATE), None);
    assert_eq!((&body(&job)["id"], &body(&job)["token"]), (&json!(id), &json!(lab.job(id).token())));
    assert!(id > u64::from(u32::MAX));
    assert_eq!((lab.job(id).runner(), lab.job(id).system_id()), (Some(lab.runner), Some("s_1")));
    assert_eq!(lab.job(id).handed_out_at(), Some(lab.now));

    // Not handed out again.
    assert_ne!(last_update(&lab.request_job(&current)), value);

    lab.gitlab.queue(lab.now, NewJob::default());
    lab.gitlab.pause_runner(lab.runner);
    let paused = lab.request_job(&work(&[]));
    assert_eq!((paused.status().as_u16(), header(&paused, LAST_UPDATE).is_some()), (204, true));
    lab.gitlab.unpause_runner(lab.runner);

    lab.gitlab.settings_mut().job_request_conflicts = 1;
    let conflict = lab.request_job(&work(&[]));
    assert_eq!((conflict.status().as_u16(), header(&conflict, LAST_UPDATE)), (409, None));
    assert_eq!(body(&conflict)["message"], "409 Conflict");
    assert_eq!(lab.request_job(&work(&[])).status(), 201);

    for (request, status, key, text) in [
        (json!({}), 400, "error", "token is missing"),
        (json!({ "token": "wrong" }), 403, "message", "403 Forbidden"),
        (json!({ "token": "" }), 403, "message", "403 Forbidden"),
        (json!({ "token": TOKEN, "info": "text" }), 400, "error", "info is invalid"),
    ] {
        let response = lab.request_job(&request);
        assert_eq!((response.status().as_u16(), &body(&response)[key]), (status, &json!(text)), "{request}");
        assert_eq!(header(&response, LAST_UPDATE), None);
    }
    // The header is not looked at.
    let headers = [("content-type", "application/json"), ("runner-token", TOKEN)];
    assert_eq!(lab.call(Method::POST, "/jobs/request", &headers, b"{}").status(), 400);
    lab.gitlab.remove_runner(lab.runner);
    assert_eq!(lab.request_job(&work(&[])).status(), 403);
}

#[test]
fn jobs_for_other_runners_are_left_alone() {
    let mut lab = Lab::new(|_| {});
    let other = lab.gitlab.add_runner("glrt-other");
    let before = last_update(&lab.request_job(&work(&[])));
    let theirs = lab.gitlab.queue(lab.now, NewJob::default().with_runner(other));
    assert_eq!(last_update(&lab.request_job(&work(&[]))), before);
    let ours = lab.gitlab.queue(lab.now, NewJob::default().with_runner(lab.runner));
    assert_eq!(body(&lab.request_job(&work(&[])))["id"], ours);
    assert_eq!(body(&lab.request_job(&json!({ "token": "glrt-other" })))["id"], theirs);
}

#[test]
fn a_job_that_needs_a_feature_the_runner_lacks_is_failed() {
    let mut lab = Lab::new(|_| {});
    let needy = || NewJob::default().with_required_feature("return_exit_code").with_required_feature("refspecs");
    let (first, second) = (lab.gitlab.queue(lab.now, needy()), lab.gitlab.queue(lab.now, NewJob::default()));
    assert_eq!(body(&lab.request_job(&work(&["refspecs"])))["id"], second);
    assert_eq!((lab.status(first), lab.job(first).failure_reason()), ("failed", Some("runner_unsupported")));
    assert_eq!(lab.job(first).runner(), Some(lab.runner));

    lab.gitlab.queue(lab.now, needy());
    assert!(header(&lab.request_job(&work(&[])), LAST_UPDATE).is_some());
    let fourth = lab.gitlab.queue(lab.now, needy());
    assert_eq!(body(&lab.request_job(&work(&["refspecs", "return_exit_code"])))["id"], fourth);

    // Only so many candidates are tried at once.
    for _ in 0..46 {
        lab.gitlab.queue(lab.now, needy());
    }
    assert_eq!(lab.request_job(&work(&[])).status(), 409);
    assert_eq!(lab.request_job(&work(&[])).status(), 204);
}

#[test]
fn the_front_proxy_holds_a_request_whose_value_is_current() {
    let mut lab = Lab::new(|settings| settings.long_poll = Some(seconds(50)));
    let idle = lab.request_job(&work(&[]));
    assert_eq!(header(&idle, POLLING), Some("yes"));
    let value = last_update(&idle);

    // Until the timeout.
    let held = lab.hold(&value);
    assert_eq!(lab.gitlab.deadline(), Some(lab.now.saturating_add(seconds(50))));
    lab.pass(seconds(49));
    assert!(lab.gitlab.poll(lab.now).is_none());
    lab.pass(seconds(1));
    let (id, response) = lab.gitlab.poll(lab.now).expect("an answer");
    assert_eq!((id, response.status().as_u16()), (held, 204));
    assert_eq!((header(&response, LAST_UPDATE), header(&response, POLLING)), (None, Some("yes")));
    assert_eq!(lab.gitlab.deadline(), None);

    // Until the queue changes: oldest first, and at once.
    let (older, newer) = (lab.hold(&value), lab.hold(&value));
    lab.gitlab.queue(lab.now, NewJob::default());
    assert_eq!(lab.gitlab.deadline(), Some(lab.now));
    assert_eq!(lab.gitlab.poll(lab.now).map(|(id, _)| id), Some(older));
    let (id, response) = lab.gitlab.poll(lab.now).expect("an answer");
    assert_eq!((id, header(&response, LAST_UPDATE)), (newer, None));
    assert!(lab.gitlab.poll(lab.now).is_none());

    // The old value is not current any more, so the next one gets through.
    let mut again = work(&[]);
    again["last_update"] = json!(value);
    assert_eq!(lab.request_job(&again).status(), 201);
}

#[test]
fn some_requests_are_never_held() {
    let mut lab = Lab::new(|settings| settings.long_poll = Some(seconds(50)));
    let value = last_update(&lab.request_job(&work(&[])));
    let full = json!({ "token": TOKEN, "last_update": value }).to_string();
    for (kind, body, status) in [
        ("application/json", json!({ "token": TOKEN, "last_update": "" }).to_string(), 204),
        ("application/json", json!({ "token": TOKEN, "last_update": "other" }).to_string(), 204),
        ("application/json", json!({ "token": "wrong", "last_update": value }).to_string(), 403),
        ("application/json", "{".to_owned(), 400),
        ("application/x-www-form-urlencoded", format!("token={TOKEN}&last_update={value}"), 204),
        ("application/json", full.clone() + &" ".repeat(32 << 10), 413),
    ] {
        let response = lab.call(Method::POST, "/jobs/request", &[("content-type", kind)], body.as_bytes());
        assert_eq!((response.status().as_u16(), header(&response, POLLING)), (status, Some("yes")), "{kind} {status}");
    }
    // Charset parameters do not matter.
    let kind = [("content-type", "application/json; charset=utf-8")];
    assert!(matches!(lab.submit(Method::POST, "/jobs/request", &kind, full.as_bytes()), Answer::Held(_)));

    // Without long polling nothing is held and nothing too large.
    lab.gitlab.settings_mut().long_poll = None;
    let large = full + &" ".repeat(32 << 10);
    let response = lab.call(Method::POST, "/jobs/request", &kind, large.as_bytes());
    assert_eq!((response.status().as_u16(), header(&response, POLLING)), (204, None));
}

#[test]
fn a_queue_value_lives_for_an_hour() {
    let mut lab = Lab::new(|settings| settings.long_poll = Some(seconds(50)));
    let value = last_update(&lab.request_job(&work(&[])));
    lab.pass(seconds(3590));
    lab.hold(&value);
    lab.pass(seconds(20));
    // Nobody is told that it expired.
    assert!(lab.gitlab.poll(lab.now).is_none());
    let mut next = work(&[]);
    next["last_update"] = json!(value);
    assert_ne!(last_update(&lab.request_job(&next)), value);
    assert!(lab.gitlab.poll(lab.now).is_some());
    lab.pass(minutes(61));
    assert_eq!(lab.gitlab.stats().answers(204), 3);
}

#[test]
fn a_client_may_go_away_or_be_unable_to_wait() {
    let mut lab = Lab::new(|settings| settings.long_poll = Some(seconds(50)));
    let value = last_update(&lab.request_job(&work(&[])));
    let hold = lab.hold(&value);
    lab.gitlab.abandon(hold);
    lab.gitlab.abandon(hold);
    assert_eq!((lab.gitlab.deadline(), lab.gitlab.stats().abandoned()), (None, 1));
    let request = http::Request::post("/api/v4/jobs/request")
        .header("content-type", "application/json")
        .body(json!({ "token": TOKEN, "last_update": value }).to_string().into())
        .expect("a request");
    let response = lab.gitlab.respond(lab.now, request);
    assert_eq!((response.status().as_u16(), header(&response, LAST_UPDATE)), (204, None));
    assert_eq!(lab.gitlab.deadline(), None);
}

#[test]
fn a_runner_gets_the_jobs_that_its_tags_and_its_access_level_allow() {
    let unprotected = || NewJob::default().with_member("git_info", json!({ "ref": "topic", "protected": false }));
    let two = || NewJob::default().with_tag("linux").with_tag("arm");
    for (attributes, job, status) in [
        (json!({}), NewJob::default(), 201),
        (json!({}), two(), 204),
        (json!({ "tag_list": ["linux"] }), two(), 204),
        (json!({ "tag_list": ["linux", "arm", "gpu"] }), two(), 201),
        (json!({ "tag_list": ["linux"] }), NewJob::default(), 201),
        (json!({ "tag_list": ["linux"], "run_untagged": false }), NewJob::default(), 204),
        (json!({ "access_level": "ref_protected" }), NewJob::default(), 201),
        (json!({ "access_level": "ref_protected" }), unprotected(), 204),
        (json!({ "access_level": "not_protected" }), unprotected(), 201),
    ] {
        let mut lab = Lab::new(|_| {});
        lab.gitlab.set_registration_token("reg");
        let mut registration = attributes.clone();
        registration["token"] = json!("reg");
        let token = body(&lab.json(Method::POST, "/runners", &registration))["token"].clone();
        let id = lab.gitlab.queue(lab.now, job);
        let response = lab.request_job(&json!({ "token": token }));
        assert_eq!(response.status(), status, "{attributes}");
        assert_eq!(lab.status(id), if status == 201 { "running" } else { "pending" });
        assert_eq!(header(&response, LAST_UPDATE).is_some(), status == 204);
    }
}

#[test]
fn the_smaller_timeout_counts() {
    for (longest, own, told) in [(json!(600), 3600, 600), (json!(7200), 3600, 3600), (json!(""), 3600, 3600)] {
        let mut lab = Lab::new(|_| {});
        lab.gitlab.set_registration_token("reg");
        let registration = json!({ "token": "reg", "maximum_timeout": longest });
        let token = body(&lab.json(Method::POST, "/runners", &registration))["token"].clone();
        lab.gitlab.queue(lab.now, NewJob::default().with_timeout(seconds(own)));
        let payload = body(&lab.request_job(&json!({ "token": token })));
        assert_eq!((&payload["runner_info"]["timeout"], &payload["steps"][0]["timeout"]), (&json!(told), &json!(told)));
    }
}

#[test]
fn a_session_server_at_a_local_address_is_a_conflict() {
    for (url, local) in [
        ("https://127.0.0.1:8093/session", true),
        ("https://localhost/session", true),
        ("https://192.168.1.7:8093", true),
        ("http://user@10.0.0.1/", true),
        ("https://[::1]:8093/session", true),
        ("https://[fd00::7]/", true),
        ("https://runner.example.test:8093/session", false),
        ("https://[2001:db8::7]:8093/session", false),
        ("https://203.0.113.9:8093/session", false),
    ] {
        let mut lab = Lab::new(|_| {});
        let mut request = work(&[]);
        request["session"] = json!({ "url": url, "certificate": "c", "authorization": "a" });
        assert_eq!(lab.request_job(&request).status(), 204, "without a job {url} is not looked at");
        let id = lab.gitlab.queue(lab.now, NewJob::default());
        assert_eq!(lab.request_job(&request).status(), if local { 409 } else { 201 }, "{url}");
        assert_eq!(lab.status(id), if local { "pending" } else { "running" }, "{url}");
        if local {
            lab.gitlab.settings_mut().local_sessions_allowed = true;
            assert_eq!(lab.request_job(&request).status(), 201, "{url}");
        }
    }
}

/// The payload of the next job, which must be this one.
fn next(lab: &mut Lab, id: u64) -> serde_json::Value {
    let payload = body(&lab.request_job(&work(&["two_phase_job_commit"])));
    assert_eq!(payload["id"], id);
    payload
}

fn leave(lab: &mut Lab, id: u64, query: &str, file: &[u8]) {
    let token = lab.job(id).token().to_owned();
    let headers = [("content-type", "multipart/form-data; boundary=xx"), ("job-token", token.as_str())];
    let head = b"--xx\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.zip\"\r\n\r\n".to_vec();
    let form = [head, file.to_vec(), b"\r\n--xx--\r\n".to_vec()].concat();
    assert_eq!(lab.call(Method::POST, &format!("/jobs/{id}/artifacts{query}"), &headers, &form).status(), 201);
}

#[test]
fn jobs_that_depend_on_each_other_are_handed_out_in_order_with_what_the_earlier_left() {
    use std::io::Write;
    let mut lab = Lab::new(|settings| settings.long_poll = Some(seconds(50)));
    let build = lab.gitlab.queue(lab.now, NewJob::new("build"));
    let test = lab.gitlab.queue(lab.now, NewJob::new("test").with_dependency_named("build"));
    let deploy = lab.gitlab.queue(
        lab.now,
        NewJob::new("deploy").with_dependency(build).with_dependency(test).with_dependency_named("build"),
    );
    assert_eq!(next(&mut lab, build)["dependencies"], json!([]));
    let value = last_update(&lab.request_job(&work(&[])));
    let hold = lab.hold(&value);
    leave(&mut lab, build, "", b"PK");
    let mut dotenv = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    dotenv.write_all(b"VERSION=1.2").expect("written");
    let dotenv = dotenv.finish().expect("finished");
    leave(&mut lab, build, "?artifact_type=dotenv&artifact_format=gzip", &dotenv);
    assert!(lab.gitlab.poll(lab.now).is_none());
    lab.put(build, json!({ "state": "success" }));
    assert_eq!(lab.gitlab.poll(lab.now).map(|(id, _)| id), Some(hold), "the end of a job wakes who waits for the next");

    let payload = next(&mut lab, test);
    let token = lab.job(test).token().to_owned();
    let told =
        json!({ "id": build, "name": "build", "token": token, "artifacts_file": { "filename": "a.zip", "size": 2 } });
    assert_eq!(payload["dependencies"], json!([told]));
    let variables = payload["variables"].as_array().expect("a list");
    assert!(variables.iter().any(|variable| variable["key"] == "VERSION" && variable["value"] == "1.2"));
    let path = format!("/jobs/{build}/artifacts");
    let response = lab.call(Method::GET, &path, &[("job-token", &token)], b"");
    assert_eq!((response.status().as_u16(), &response.body()[..]), (200, &b"PK"[..]));
    lab.put(test, json!({ "state": "success" }));
    let payload = next(&mut lab, deploy);
    assert_eq!(payload["dependencies"][0]["id"], build);
    assert_eq!(payload["dependencies"].as_array().map(Vec::len), Some(2), "a job that is named twice counts once");
    assert_eq!(payload["dependencies"][1], json!({ "id": test, "name": "test", "token": lab.job(deploy).token() }));
}

#[test]
fn jobs_that_depend_on_a_failed_one_are_skipped() {
    let mut lab = Lab::new(|_| {});
    let first = lab.gitlab.queue(lab.now, NewJob::new("first"));
    let second = lab.gitlab.queue(lab.now, NewJob::new("second").with_dependency(first));
    let third = lab.gitlab.queue(lab.now, NewJob::new("third").with_dependency(second));
    let free = lab.gitlab.queue(lab.now, NewJob::new("free").with_dependency(7));
    next(&mut lab, first);
    lab.put(first, json!({ "state": "failed" }));
    assert_eq!([second, third, free].map(|id| lab.status(id)), ["skipped", "skipped", "pending"]);
    next(&mut lab, free);
    let late = lab.gitlab.queue(lab.now, NewJob::new("late").with_dependency(second));
    assert_eq!(lab.status(late), "skipped");
}

#[test]
fn jobs_that_depend_on_a_retried_one_wait_for_the_retry() {
    let mut lab = Lab::new(|settings| settings.two_phase_commit = true);
    let first = lab.gitlab.queue(lab.now, NewJob::new("first"));
    let second = lab.gitlab.queue(lab.now, NewJob::new("second").with_dependency(first));
    next(&mut lab, first);
    lab.pass(minutes(2));
    lab.gitlab.poll(lab.now);
    let retry = lab.gitlab.jobs().last().expect("a retry").id();
    assert_eq!((lab.status(first), lab.job(retry).retry_of()), ("failed", Some(first)));
    next(&mut lab, retry);
    lab.put(retry, json!({ "state": "running" }));
    assert_eq!(lab.status(second), "pending");
    lab.put(retry, json!({ "state": "success" }));
    assert_eq!(next(&mut lab, second)["dependencies"][0]["id"], retry);
}

#[test]
fn jobs_go_on_after_one_that_was_allowed_to_fail() {
    for (first, exit_code, second) in [
        (NewJob::new("first").with_allow_failure(), 7, "pending"),
        (NewJob::new("first").with_allowed_exit_codes([3, 4]), 4, "pending"),
        (NewJob::new("first").with_allowed_exit_codes([3, 4]), 5, "skipped"),
        (NewJob::new("first"), 7, "skipped"),
    ] {
        let mut lab = Lab::new(|_| {});
        let id = lab.gitlab.queue(lab.now, first);
        let dependent = lab.gitlab.queue(lab.now, NewJob::new("second").with_dependency(id));
        assert_eq!(lab.request_job(&work(&["return_exit_code"])).status(), 201);
        assert_eq!(lab.request_job(&work(&[])).status(), 204, "the other job waits");
        lab.put(id, json!({ "state": "failed", "failure_reason": "script_failure", "exit_code": exit_code }));
        assert_eq!((lab.status(id), lab.status(dependent)), ("failed", second));
        assert_eq!(lab.job(id).allow_failure(), second == "pending");
    }
}

#[test]
fn a_resumed_job_goes_to_the_machine_that_suspended_it() {
    let mut lab = Lab::new(|_| {});
    let id = lab.running_job(&[]);
    lab.put(id, json!({ "state": "success", "runtime_environment_key": "env-1" }));
    let resumed = json!({ "runtime_environment_key": "env-1" });
    let first = lab.gitlab.queue(lab.now, NewJob::new("resumed").with_member("suspend_options", resumed));
    let second = lab.gitlab.queue(lab.now, NewJob::new("other").with_system_id("s_2"));
    let mut ask = |system_id: &str| {
        let asked = json!({ "token": TOKEN, "system_id": system_id });
        let answer = lab.request_job(&asked);
        if answer.status() == 201 { body(&answer)["id"].as_u64() } else { None }
    };
    assert_eq!(["s_3", "s_2", "s_2", "s_1", "s_1"].map(&mut ask), [None, Some(second), None, Some(first), None]);
}

#[test]
fn skipped_jobs_wait_again_for_the_retry_of_the_failed_one() {
    let mut lab = Lab::new(|_| {});
    let first = lab.gitlab.queue(lab.now, NewJob::new("first"));
    let other = lab.gitlab.queue(lab.now, NewJob::new("other"));
    let second = lab.gitlab.queue(lab.now, NewJob::new("second").with_dependency(first));
    let third = lab.gitlab.queue(lab.now, NewJob::new("third").with_dependency(second));
    let both = lab.gitlab.queue(lab.now, NewJob::new("both").with_dependency(first).with_dependency(other));
    for id in [first, other] {
        assert_eq!(lab.request_job(&work(&[])).status(), 201);
        lab.put(id, json!({ "state": "failed", "failure_reason": "script_failure" }));
    }
    let statuses = |lab: &Lab| [second, third, both].map(|id| lab.status(id));
    assert_eq!(statuses(&lab), ["skipped"; 3]);
    let retry = lab.gitlab.retry(lab.now, first).expect("it has failed");
    assert_eq!(statuses(&lab), ["pending", "pending", "skipped"], "the other job has still failed");
    for id in [retry, second, third] {
        assert_eq!(body(&lab.request_job(&work(&[])))["id"], id);
        lab.put(id, json!({ "state": "success" }));
    }
    let retry = lab.gitlab.retry(lab.now, other).expect("it has failed");
    assert_eq!((lab.status(both), body(&lab.request_job(&work(&[])))["id"].as_u64()), ("pending", Some(retry)));
    lab.put(retry, json!({ "state": "success" }));
    assert_eq!(body(&lab.request_job(&work(&[])))["id"], both);
}
