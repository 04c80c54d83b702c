use http::{Method, Response};
use serde_json::{Value, json};

use super::super::fixture::{Lab, body, header, seconds, work};
use super::super::{NewJob, Role, RunnerType};

const ADMIN: &str = "glpat-admin";

fn lab() -> Lab {
    let mut lab = Lab::new(|_| {});
    lab.gitlab.set_access_token(ADMIN);
    lab
}

fn call(lab: &mut Lab, token: &str, method: Method, path: &str, body: &str) -> Response<bytes::Bytes> {
    let headers = [("private-token", token), ("content-type", "application/x-www-form-urlencoded")];
    lab.call(method, path, &headers, body.as_bytes())
}

fn get(lab: &mut Lab, path: &str) -> Value {
    let response = call(lab, ADMIN, Method::GET, path, "");
    assert_eq!(response.status(), 200, "{path}: {response:?}");
    body(&response)
}

fn post(lab: &mut Lab, path: &str, fields: &str) -> (u16, Value) {
    let response = call(lab, ADMIN, Method::POST, path, fields);
    (response.status().as_u16(), body(&response))
}

fn upload(lab: &mut Lab, id: u64, kind: &str, format: &str, content: &str) {
    let token = lab.job(id).token().to_owned();
    let headers = [("content-type", "multipart/form-data; boundary=xx"), ("job-token", token.as_str())];
    let head = "Content-Disposition: form-data; name=\"file\"; filename=\"a.bin\"";
    let form = format!("--xx\r\n{head}\r\n\r\n{content}\r\n--xx--\r\n");
    let path = format!("/jobs/{id}/artifacts?artifact_type={kind}&artifact_format={format}");
    assert_eq!(lab.call(Method::POST, &path, &headers, form.as_bytes()).status(), 201);
}

#[test]
fn a_job_is_shown_as_gitlab_shows_it() {
    let mut lab = lab();
    let id = lab.gitlab.queue(lab.now, NewJob::new("unit").with_stage("verify").with_git_tag("v1").with_tag("a"));
    let pending = get(&mut lab, &format!("/projects/4242/jobs/{id}"));
    for (name, expected) in [
        ("status", json!("pending")),
        ("stage", json!("verify")),
        ("ref", json!("v1")),
        ("tag", json!(true)),
        ("tag_list", json!(["a"])),
        ("started_at", Value::Null),
        ("runner", Value::Null),
        ("runner_manager", Value::Null),
        ("artifacts", json!([])),
        ("created_at", json!("2023-11-14T22:14:00.000Z")),
    ] {
        assert_eq!(pending[name], expected, "{name}");
    }
    assert_eq!((pending.get("failure_reason"), pending.get("artifacts_file")), (None, None));

    let tags = json!({ "tag_list": ["a"] });
    lab.gitlab.change_runner(lab.runner, tags.as_object().expect("an object").clone());
    lab.pass(seconds(2));
    assert_eq!(lab.request_job(&work(&[])).status(), 201);
    lab.patch(id, 0, "hello");
    upload(&mut lab, id, "archive", "zip", "PK");
    upload(&mut lab, id, "junit", "gzip", "gz");
    lab.pass(seconds(3));
    assert_eq!(lab.put(id, json!({ "state": "failed", "failure_reason": "script_failure" })).status(), 200);
    let path = format!("/projects/acme%2Fwidgets/jobs/{id}");
    let failed = get(&mut lab, &path);
    assert_eq!((&failed["status"], &failed["failure_reason"]), (&json!("failed"), &json!("script_failure")));
    assert_eq!((&failed["duration"], &failed["queued_duration"]), (&json!(3.0), &json!(2.0)));
    assert_eq!((&failed["runner"]["id"], &failed["runner_manager"]["system_id"]), (&json!(1), &json!("s_1")));
    assert_eq!(failed["artifacts_file"], json!({ "filename": "a.bin", "size": 2 }));
    let kinds: Vec<&Value> = failed["artifacts"].as_array().unwrap().iter().map(|file| &file["file_type"]).collect();
    assert_eq!(kinds, ["archive", "junit", "trace"]);
    assert_eq!(failed["pipeline"]["status"], "failed");

    let trace = call(&mut lab, ADMIN, Method::GET, &format!("{path}/trace"), "");
    assert_eq!((&trace.body()[..], header(&trace, "content-type")), (&b"hello"[..], Some("text/plain")));
    for (query, status, content) in [
        ("", 200, "PK"),
        ("?file_type=junit", 200, "gz"),
        ("?file_type=sast", 404, r#"{"message":"404 Not Found"}"#),
        ("?file_type=moon", 400, r#"{"error":"file_type does not have a valid value"}"#),
    ] {
        let answer = call(&mut lab, ADMIN, Method::GET, &format!("{path}/artifacts{query}"), "");
        assert_eq!((answer.status().as_u16(), &answer.body()[..]), (status, content.as_bytes()), "{query}");
    }
    let (status, erased) = post(&mut lab, &format!("{path}/erase"), "");
    assert_eq!(
        (status, &erased["erased_at"], &erased["artifacts"]),
        (201, &json!("2023-11-14T22:14:05.000Z"), &json!([]))
    );
    assert_eq!(post(&mut lab, &format!("{path}/erase"), "").0, 403, "nothing is left");
    assert_eq!(lab.trace(id), "");
}

#[test]
fn jobs_are_cancelled_and_retried() {
    let mut lab = lab();
    let id = lab.running_job(&["cancel_gracefully"]);
    let path = format!("/projects/4242/jobs/{id}");
    let not_retryable = (403, json!({ "message": "403 Forbidden - Job is not retryable" }));
    assert_eq!(post(&mut lab, &format!("{path}/retry"), ""), not_retryable);
    assert_eq!(post(&mut lab, &format!("{path}/cancel"), "force=true").1["status"], "running", "nothing to force");
    assert_eq!(post(&mut lab, &format!("{path}/cancel"), "").1["status"], "canceling");
    assert_eq!(post(&mut lab, &format!("{path}/cancel"), "force=true").1["status"], "canceled");
    assert_eq!(post(&mut lab, &format!("{path}/cancel"), "").0, 201, "a job that has ended stays as it is");
    let (status, retry) = post(&mut lab, &format!("{path}/retry"), "");
    assert_eq!((status, &retry["status"], &retry["name"]), (201, &json!("pending"), &json!("test")));
    assert_eq!(lab.job(retry["id"].as_u64().unwrap()).retry_of(), Some(id));
    assert_eq!(post(&mut lab, &format!("{path}/retry"), ""), not_retryable, "once is enough");
}

#[test]
fn lists_have_pages_and_filters() {
    let mut lab = lab();
    let ids: Vec<u64> = (0..45).map(|_| lab.gitlab.queue(lab.now, NewJob::default())).collect();
    lab.gitlab.cancel(lab.now, ids[3]);
    lab.gitlab.delete_project(ids[4]);
    let numbers =
        |list: &Value| -> Vec<u64> { list.as_array().unwrap().iter().map(|job| job["id"].as_u64().unwrap()).collect() };
    assert_eq!(numbers(&get(&mut lab, "/projects/4242/jobs"))[..2], [ids[44], ids[43]], "the newest first");
    assert_eq!(numbers(&get(&mut lab, "/projects/4242/jobs?sort=asc&per_page=2")), ids[..2]);
    assert_eq!(numbers(&get(&mut lab, "/projects/4242/jobs?scope[]=canceled&scope[]=failed")), [ids[3]]);
    assert_eq!(numbers(&get(&mut lab, "/projects/4242/jobs?scope=running")), [0; 0]);
    assert_eq!(numbers(&get(&mut lab, "/projects/4242/jobs?per_page=500")).len(), 44);
    let second = call(&mut lab, ADMIN, Method::GET, "/projects/4242/jobs?scope[]=pending&page=2&per_page=20", "");
    for (name, value) in [("x-page", "2"), ("x-per-page", "20"), ("x-next-page", "3"), ("x-prev-page", "1")] {
        assert_eq!(header(&second, name), Some(value), "{name}");
    }
    assert_eq!(header(&second, "x-total"), None, "GitLab does not count jobs");
    let next =
        "<https://gitlab.example.test/api/v4/projects/4242/jobs?scope%5B%5D=pending&page=3&per_page=20>; rel=\"next\"";
    assert!(header(&second, "link").unwrap().contains(next), "{second:?}");
    for (query, error) in [
        ("per_page=0", "per_page has a value not allowed"),
        ("page=-1", "page has a value not allowed"),
        ("scope=moon", "scope does not have a valid value"),
        ("sort=up", "sort does not have a valid value"),
    ] {
        let answer = call(&mut lab, ADMIN, Method::GET, &format!("/projects/4242/jobs?{query}"), "");
        assert_eq!((answer.status().as_u16(), body(&answer)), (400, json!({ "error": error })), "{query}");
    }
    let last = call(&mut lab, ADMIN, Method::GET, "/runners/all?private_token=glpat-admin", "");
    assert_eq!((header(&last, "x-total"), header(&last, "x-total-pages")), (Some("1"), Some("1")));
    assert!(!header(&last, "link").unwrap().contains(ADMIN), "an address has no token");
}

#[test]
fn runners_are_listed_changed_and_deleted() {
    let mut lab = lab();
    let group = lab.gitlab.add_runner("glrt-group");
    lab.gitlab.set_runner_type(group, RunnerType::Group);
    let project = lab.gitlab.add_runner("glrt-project");
    lab.gitlab.set_runner_type(project, RunnerType::Project);
    lab.running_job(&[]);
    let ids = |lab: &mut Lab, path: &str| -> Vec<u64> {
        get(lab, path).as_array().unwrap().iter().map(|runner| runner["id"].as_u64().unwrap()).collect()
    };
    for (path, expected) in [
        ("/runners/all", vec![project, group, 1]),
        ("/runners", vec![project, group]),
        ("/projects/4242/runners", vec![project, group, 1]),
        ("/runners/all?type=group_type", vec![group]),
        ("/runners/all?scope=shared", vec![1]),
        ("/runners/all?status=online", vec![1]),
        ("/runners/all?status=never_contacted&paused=false", vec![project, group]),
        ("/runners/all?paused=true", vec![]),
        ("/runners/all?tag_list=gpu", vec![]),
        ("/runners/all?version_prefix=19.", vec![]),
    ] {
        assert_eq!(ids(&mut lab, path), expected, "{path}");
    }
    let update = "paused=true&tag_list=gpu,linux&locked=true&maximum_timeout=1200&maintenance_note=soon";
    let changed = call(&mut lab, ADMIN, Method::PUT, "/runners/1", update);
    let changed = (changed.status().as_u16(), body(&changed));
    assert_eq!(changed.0, 200);
    for (name, expected) in [
        ("paused", json!(true)),
        ("active", json!(false)),
        ("status", json!("paused")),
        ("tag_list", json!(["gpu", "linux"])),
        ("locked", json!(true)),
        ("run_untagged", json!(true)),
        ("maximum_timeout", json!(1200)),
        ("maintenance_note", json!("soon")),
        ("access_level", json!("not_protected")),
        ("job_execution_status", json!("active")),
        ("projects", json!([])),
    ] {
        assert_eq!(changed.1[name], expected, "{name}");
    }
    assert_eq!(lab.request_job(&work(&[])).status(), 204, "it is paused");
    for (update, told) in [
        ("", "at least one parameter must be provided"),
        ("active=true&paused=true", "active, paused are mutually exclusive"),
        ("access_level=moon", "access_level does not have a valid value"),
        ("maximum_timeout=5", "needs to be at least 10 minutes"),
        ("run_untagged=false&tag_list=", "can not be empty"),
    ] {
        let answer = call(&mut lab, ADMIN, Method::PUT, "/runners/1", update);
        assert!(answer.status() == 400 && body(&answer).to_string().contains(told), "{update}: {answer:?}");
    }
    let managers = get(&mut lab, "/runners/1/managers");
    let told = ["system_id", "status", "job_execution_status"].map(|name| managers[0][name].clone());
    assert_eq!(told, [json!("s_1"), json!("online"), json!("active")]);
    lab.pass(seconds(2 * 3600));
    assert_eq!(get(&mut lab, "/runners/1/managers")[0]["status"], "offline");
    let jobs = get(&mut lab, "/runners/1/jobs?system_id=s_1&order_by=id&sort=asc");
    assert_eq!((&jobs[0]["project"]["id"], jobs.as_array().unwrap().len()), (&json!(4242), 1));
    assert_eq!(get(&mut lab, "/runners/1/jobs?status=success"), json!([]));
    let stale = [("private-token", ADMIN), ("if-unmodified-since", "Fri, 19 Jan 1990 00:12:58 GMT")];
    assert_eq!(lab.call(Method::DELETE, "/runners/1", &stale, b"").status(), 412);
    assert_eq!(call(&mut lab, ADMIN, Method::DELETE, "/runners/1", "").status(), 204);
    assert_eq!(call(&mut lab, ADMIN, Method::GET, "/runners/1", "").status(), 404);
}

#[test]
fn users_may_do_what_their_roles_and_scopes_allow() {
    let mut lab = lab();
    let id = lab.running_job(&[]);
    let group = lab.gitlab.add_runner("glrt-group");
    lab.gitlab.set_runner_type(group, RunnerType::Group);
    for role in Role::ALL {
        lab.gitlab.add_user(role.as_str(), role, ["api"]);
    }
    for (token, scope) in [("reads", "read_api"), ("manages", "manage_runner"), ("creates", "create_runner")] {
        lab.gitlab.add_user(token, Role::Administrator, [scope]);
    }
    let job = format!("/projects/4242/jobs/{id}");
    let runner = format!("/runners/{group}");
    for (token, method, path, status) in [
        ("nobody", Method::GET, "/projects/4242/jobs", 401),
        ("stranger", Method::GET, "/projects/4242/jobs", 404),
        ("administrator", Method::GET, "/projects/7/jobs", 404),
        ("administrator", Method::GET, "/projects/4242/jobs/7", 404),
        ("administrator", Method::GET, "/projects/4242/jobs/x", 400),
        ("administrator", Method::PATCH, "/projects/4242/jobs", 405),
        ("guest", Method::GET, &job, 200),
        ("guest", Method::POST, &format!("{job}/cancel"), 403),
        ("developer", Method::POST, &format!("{job}/cancel?force=true"), 403),
        ("developer", Method::POST, &format!("{job}/erase"), 403),
        ("reads", Method::GET, &job, 200),
        ("reads", Method::POST, &format!("{job}/cancel"), 403),
        ("manages", Method::GET, &job, 403),
        ("creates", Method::GET, &runner, 403),
        ("manages", Method::GET, &runner, 200),
        ("owner", Method::GET, "/runners/all", 403),
        ("stranger", Method::GET, "/runners", 200),
        ("stranger", Method::GET, "/runners/1", 200),
        ("developer", Method::GET, &runner, 403),
        ("developer", Method::GET, "/runners/1/jobs", 403),
        ("maintainer", Method::PUT, &format!("{runner}?paused=1"), 403),
        ("maintainer", Method::DELETE, &runner, 403),
        ("developer", Method::POST, &format!("{job}/cancel"), 201),
        ("owner", Method::PUT, &format!("{runner}?paused=1"), 200),
        ("manages", Method::DELETE, &runner, 204),
    ] {
        let answer = call(&mut lab, token, method.clone(), path, "");
        assert_eq!(answer.status().as_u16(), status, "{token} {method} {path}: {answer:?}");
    }
    assert_eq!(lab.status(id), "canceled");
    let bearer = [("authorization", "Bearer reads")];
    assert_eq!(lab.call(Method::GET, &job, &bearer, b"").status(), 200);
}

#[test]
fn the_record_of_requests_says_what_a_user_changed() {
    let mut lab = lab();
    let id = lab.running_job(&[]);
    lab.gitlab.settings_mut().record_requests = true;
    post(&mut lab, &format!("/projects/4242/jobs/{id}/cancel"), "");
    get(&mut lab, &format!("/projects/4242/jobs/{id}"));
    let changes: Vec<Vec<String>> = lab.gitlab.requests().map(|record| record.changes.clone()).collect();
    assert_eq!(changes, [vec![format!("job {id} canceled")], vec![]]);
    assert_eq!(lab.job(id).requests(crate::Endpoint::UserApi), 0, "a runner did not ask for this job");
}

#[test]
fn a_running_job_reads_jobs_and_artifacts_with_its_token() {
    let mut lab = lab();
    let earlier = lab.running_job(&[]);
    upload(&mut lab, earlier, "archive", "zip", "PK");
    let id = lab.running_job(&[]);
    let token = lab.job(id).token().to_owned();
    let ask = |lab: &mut Lab, method: Method, path: &str| {
        lab.call(method, path, &[("job-token", token.as_str())], b"").status().as_u16()
    };
    let job = format!("/projects/4242/jobs/{earlier}");
    let artifacts = format!("{job}/artifacts");
    assert_eq!(ask(&mut lab, Method::GET, "/projects/4242/jobs"), 200);
    assert_eq!(ask(&mut lab, Method::GET, &artifacts), 200);
    assert_eq!(ask(&mut lab, Method::GET, &job), 401, "GitLab does not take a job token here");
    assert_eq!(ask(&mut lab, Method::POST, &format!("{job}/cancel")), 401);
    lab.put(id, json!({ "state": "success" }));
    assert_eq!(ask(&mut lab, Method::GET, &artifacts), 401, "the job has ended");
}
