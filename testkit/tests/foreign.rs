//! The program `simulated-gitlab`, as runners in any language and the people who test them use it.

mod program;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};

use gitlab_runner_api_testkit::TimeLimit;
use program::{Sim, has};
use serde_json::{Value, json};

#[test]
fn a_runner_of_curl_and_sh_runs_a_job() {
    if !has("curl") || cfg!(not(unix)) {
        println!("skipped: there is no curl here");
        return;
    }
    let sim = Sim::start(&["--registration-token", "GR1348941secret"]);
    let (status, queued) = sim.sim("POST", "/_sim/jobs", r#"{"name":"foreign","script":["echo hello","echo done"]}"#);
    assert_eq!(status, 201);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/curl-runner.sh");
    let ran = Command::new("sh").args([script, sim.told("url"), "GR1348941secret"]).output().expect("sh");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(ran.status.success(), "{}\n{}", text(&ran.stdout), text(&ran.stderr));
    assert_eq!(text(&ran.stdout).lines().last(), Some(format!("job {} 21", queued["id"]).as_str()));

    let path = format!("/_sim/jobs/{}", queued["id"]);
    let (_, job) = sim.sim("GET", &path, "");
    let crc = format!("{:08x}", crc32fast::hash(b"hello from curl\ndone\n"));
    assert_eq!(
        (&job["status"], &job["trace_bytes"], &job["trace_crc32"]),
        (&json!("success"), &json!(21), &json!(crc))
    );
    assert_eq!(job["requests"]["PATCH /jobs/:id/trace"], 6);
    assert_eq!(job["artifacts"][0]["file_name"], "artifacts.zip");
    assert_eq!(sim.sim("GET", &format!("{path}/trace"), "").1, "hello from curl\ndone\n");
    assert_eq!(sim.sim("GET", &format!("{path}/artifacts/archive"), "").1, "PK\u{5}\u{6}");
}

/// The one shell script in the README.
fn script_of_the_readme() -> &'static str {
    let readme = include_str!("../README.md");
    let (_, after) = readme.split_once("```sh\n").expect("a script");
    after.split_once("```").expect("its end").0
}

#[test]
fn a_pipeline_of_three_jobs_runs_by_the_words_of_the_readme() {
    if !has("curl") || !has("jq") || cfg!(not(unix)) {
        println!("skipped: there is no curl or no jq here");
        return;
    }
    let folder = std::env::temp_dir().join(format!("simulated-gitlab-pipeline-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let sim = Sim::start(&[]);
    let ran = Command::new("sh")
        .args(["-euc", script_of_the_readme()])
        .env("url", sim.told("url"))
        .env("runner_token", sim.told("runner_token"))
        .env("control_token", sim.told("control_token"))
        .current_dir(&folder)
        .output()
        .expect("sh");
    fs::remove_dir_all(folder).unwrap();
    let printed = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{printed}\n{}", String::from_utf8_lossy(&ran.stderr));
    assert!(printed.ends_with("source > build > test > deploy"), "{printed}");
    let (_, jobs) = sim.sim("GET", "/_sim/jobs", "");
    let told: Vec<_> = jobs.as_array().unwrap().iter().map(|job| (&job["name"], &job["status"])).collect();
    assert_eq!(
        told,
        ["build", "test", "deploy"].map(|name| (json!(name), json!("success"))).each_ref().map(|(a, b)| (a, b))
    );
    let files = jobs.as_array().unwrap().iter().map(|job| job["artifacts"][0]["bytes"].as_u64().unwrap());
    assert_eq!(files.collect::<Vec<_>>(), [14, 21, 30]);
}

#[test]
fn the_python_test_of_the_readme_passes() {
    if !has("python3") || !has("curl") || cfg!(not(unix)) {
        println!("skipped: there is no python3 or no curl here");
        return;
    }
    let _limit = TimeLimit::start(TimeLimit::TEST);
    let (_, after) = include_str!("../README.md").split_once("```python\n").expect("a test");
    let program = after.split_once("```").expect("its end").0;
    let program_folder = std::path::Path::new(env!("CARGO_BIN_EXE_simulated-gitlab")).parent().expect("a folder");
    let path = format!("{}:{}", program_folder.display(), std::env::var("PATH").unwrap_or_default());
    let ran = Command::new("python3")
        .args(["-c", program])
        .env("PATH", path)
        .env("RUNNER", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/short-runner.sh"))
        .output()
        .expect("python3");
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}\n{err}");
    assert!(out.contains("PATCH /api/v4/jobs/") && out.contains("202 ['log of job"), "{out}");
}

#[test]
fn only_who_has_the_token_can_change_something_and_no_other_site_can_ask() {
    let sim = Sim::start(&["--allow-host", "gitlab.test"]);
    let address = sim.told("url").strip_prefix("http://").unwrap().to_owned();
    let token = format!("Control-Token: {}", sim.told("control_token"));
    let own = format!("Origin: http://{address}");
    let named = |port: &str, token: &str| format!("Cookie: control_token_{port}={token}");
    let port = address.rsplit_once(':').unwrap().1;
    let (cookie, wrong) = (named(port, sim.told("control_token")), named(port, "wrong"));
    let of_another_port = named("1", sim.told("control_token"));
    let job = r#"{"name":"x"}"#;
    for (headers, status) in [
        (vec![], 401),
        (vec!["Control-Token: wrong"], 401),
        (vec!["Control-Token:"], 401),
        (vec![&wrong, &own], 401),
        (vec![&of_another_port, &own], 401),
        // A page of another site sends the cookie too. It also says that it is one.
        (vec![&cookie], 401),
        (vec![&cookie, "Sec-Fetch-Site: same-site"], 403),
        (vec![token.as_str(), "Origin: https://evil.example"], 403),
        (vec![&cookie, "Origin: null"], 403),
        (vec![&cookie, "Origin: http://127.0.0.1:1"], 403),
        (vec![&token], 201),
        (vec![&cookie, "Sec-Fetch-Site: same-origin"], 201),
        (vec![&cookie, &own], 201),
    ] {
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        assert_eq!(sim.call("POST", "/_sim/jobs", &headers, job).unwrap().0, status, "{headers}");
    }
    for path in ["/", "/_sim/jobs", "/api/v4/jobs/request"] {
        for (host, served) in
            [("evil.example", false), ("192.0.2.1", false), ("gitlab.test:8929", true), ("[::1]", true)]
        {
            let mut stream = TcpStream::connect(&address).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert_eq!(!answer.starts_with("HTTP/1.1 403 "), served, "{path} {host}: {answer}");
        }
    }
    // No answer says that pages of other sites may read it.
    let mut stream = TcpStream::connect(&address).unwrap();
    write!(stream, "OPTIONS /_sim/jobs HTTP/1.1\r\nHost: {address}\r\nOrigin: https://evil.example\r\n\r\n").unwrap();
    let mut answer = [0; 512];
    let read = stream.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]).to_lowercase();
    assert!(answer.starts_with("http/1.1 403 ") && !answer.contains("access-control-allow"), "{answer}");
}

#[test]
fn an_address_that_others_can_reach_must_be_allowed() {
    let program = env!("CARGO_BIN_EXE_simulated-gitlab");
    let refused = Command::new(program).args(["--listen", "0.0.0.0:0"]).output().unwrap();
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && why.contains("--allow-remote"), "{why}");
    let (one, two) = (Sim::start(&["--allow-remote"]), Sim::start(&["--seed", "0"]));
    assert_ne!(one.told("control_token"), two.told("control_token"), "it can be guessed");
    assert_eq!(one.told("runner_token"), two.told("runner_token"));
}

#[test]
fn jobs_are_steered_from_outside() {
    let sim = Sim::start(&[]);
    let short = r#"{"name":"s","script":"echo","after_script":["a"],"variables":{"A":1,"B":"x"},"timeout":60,"image":{"name":"alpine"}}"#;
    let (_, queued) = sim.sim("POST", "/_sim/jobs", short);
    let (status, payload) = sim.request_job().unwrap();
    let payload: Value = serde_json::from_str(&payload).unwrap();
    assert_eq!((status, &payload["id"]), (201, &queued["id"]));
    assert_eq!((&payload["image"]["name"], &payload["runner_info"]["timeout"]), (&json!("alpine"), &json!(60)));
    let variable = |key: &str| payload["variables"].as_array().unwrap().iter().find(|it| it["key"] == key).cloned();
    assert_eq!(variable("A").unwrap()["value"], "1");
    let (_, whole) =
        sim.sim("POST", "/_sim/jobs", r#"{"id":1,"token":"old","job_info":{"name":"whole"},"future":true}"#);
    let (_, payload) = sim.request_job().unwrap();
    assert!(payload.contains(r#""future":true"#) && !payload.contains("old"), "{payload}");

    let cancel = |id: &Value, body: &str| sim.sim("POST", &format!("/_sim/jobs/{id}/cancel"), body);
    assert_eq!(cancel(&whole["id"], r#"{"force":true}"#).1["status"], "canceled");
    assert_eq!(cancel(&queued["id"], "").1["status"], "canceled", "its runner did not say that it can do better");
    for (method, path, body, status, why) in [
        ("POST", "/_sim/jobs", "{", 400, "not JSON"),
        ("POST", "/_sim/jobs", "[]", 400, "a JSON object"),
        ("POST", "/_sim/jobs", r#"{"script":7}"#, 400, "script is a text or a list"),
        ("POST", "/_sim/jobs", r#"{"timeout":"1h"}"#, 400, "number of seconds"),
        ("POST", "/_sim/jobs", r#"{"scripts":["make"]}"#, 400, "no member scripts"),
        ("POST", "/_sim/jobs", r#"{"dependencies":["build"]}"#, 400, "no job build to depend on"),
        ("POST", "/_sim/jobs", r#"{"dependencies":[7]}"#, 400, "no job 7 to depend on"),
        ("POST", "/_sim/jobs", r#"{"dependencies":[true]}"#, 400, "names or numbers of jobs"),
        ("GET", "/_sim/jobs/7", "", 404, "no job 7"),
        ("GET", "/_sim/moon", "", 404, "no GET /_sim/moon"),
        ("PUT", "/_sim/jobs", "{}", 405, "no PUT /_sim/jobs, but GET, POST"),
        ("GET", "/_sim/jobs?status=pending", "", 400, "no parameters in its query"),
        (
            "POST",
            "/_sim/users",
            r#"{"token":"t","rol":"guest"}"#,
            400,
            "no member rol; the members are: token, role, scopes",
        ),
        ("POST", "/_sim/jobs/1/erase", "{", 400, "not JSON"),
        ("POST", "/_sim/jobs/1/erase", r#"{"now":true}"#, 400, "no member now; the members are: none"),
    ] {
        let (code, answer) = sim.sim(method, path, body);
        assert!(code == status && answer["error"].as_str().unwrap().contains(why), "{path} {body}: {code} {answer}");
    }
    assert_eq!(sim.sim("GET", "/_sim/jobs", "").1.as_array().unwrap().len(), 2);
}

#[test]
fn everything_that_a_runner_must_survive_is_brought_about_from_outside() {
    let sim = Sim::start(&["--virtual-time"]);
    assert_eq!(sim.sim("GET", "/_sim/health", ""), (200, json!({ "status": "ok" })));
    sim.sim("POST", "/_sim/jobs", "{}");
    let payload: Value = serde_json::from_str(&sim.request_job().unwrap().1).unwrap();
    let (id, token) = (payload["id"].as_u64().unwrap(), payload["token"].as_str().unwrap());
    assert!(payload["variables"].as_array().unwrap().iter().any(|it| it["value"] == sim.told("url")));
    let patch = |start: usize, text: &str| {
        let headers = format!(
            "JOB-TOKEN: {token}\r\nContent-Type: text/plain\r\nContent-Range: {start}-{}\r\n",
            start + text.len() - 1
        );
        sim.call("PATCH", &format!("/api/v4/jobs/{id}/trace"), &headers, text).unwrap().0
    };
    let put = |state: &str| {
        let body = json!({ "token": token, "state": state, "checksum": "crc32:0" }).to_string();
        sim.call("PUT", &format!("/api/v4/jobs/{id}"), "Content-Type: application/json\r\n", &body).unwrap().0
    };
    let on_job = |action: &str, body: &str| sim.sim("POST", &format!("/_sim/jobs/{id}/{action}"), body).0;
    let set = |body: &str| sim.sim("PATCH", "/_sim/settings", body);
    let pass = |seconds: u64| sim.sim("POST", "/_sim/time", &format!(r#"{{"advance":{seconds}}}"#)).0;

    assert_eq!((patch(0, "hello"), on_job("lose_log", r#"{"keep":2}"#), patch(5, "x")), (202, 200, 416));
    assert_eq!((on_job("lock_log", r#"{"seconds":60}"#), patch(2, "llo")), (200, 409));
    assert_eq!((pass(60), patch(2, "llo")), (200, 202));
    assert_eq!((on_job("lock", r#"{"seconds":60}"#), put("running"), pass(60), put("running")), (200, 409, 200, 200));
    assert_eq!(on_job("watch", ""), 200);

    assert_eq!(set(r#"{"maintenance":7}"#).1["maintenance"], 7);
    assert_eq!(
        (put("running"), set(r#"{"maintenance":false,"migration_backoff":true}"#).0, put("running")),
        (503, 200, 429)
    );
    assert_eq!(set(r#"{"migration_backoff":false,"trace_limit":1,"moon":1}"#).0, 400);
    assert_eq!((put("running"), set(r#"{"migration_backoff":false}"#).0, put("running")), (429, 200, 200));
    assert_eq!(sim.sim("POST", "/_sim/faults", r#"{"fault":"502:put:1"}"#), (200, json!(["502:put:1"])));
    assert_eq!((put("running"), put("running")), (502, 200));
    assert_eq!(sim.sim("DELETE", "/_sim/faults", ""), (200, json!([])));
    assert_eq!(sim.sim("POST", "/_sim/faults", r#"{"fault":"moon"}"#).0, 400);

    // A log that is still in live storage.
    assert_eq!((set(r#"{"archive_delay":30}"#).0, put("success"), pass(30), put("success")), (200, 202, 200, 200));
    assert_eq!((set(r#"{"job_token_removed_after":5}"#).0, pass(5)), (200, 200));
    let (_, answer) = sim.call("PUT", &format!("/api/v4/jobs/{id}?token={token}&state=success"), "", "").unwrap();
    assert_eq!(answer, r#"{"message":"403 Forbidden"}"#);

    // A job without a sign of life fails by itself, however short the test is.
    sim.sim("POST", "/_sim/jobs", r#"{"name":"silent"}"#);
    assert_eq!(sim.request_job().unwrap().0, 201);
    assert_eq!(
        (pass(3601), &sim.sim("GET", "/_sim/jobs", "").1[1]["failure_reason"]),
        (200, &json!("no_updates_running"))
    );

    // The token of a job that runs is revoked, or it expires.
    let (_, requests) = sim.sim("GET", "/_sim/requests", "");
    sim.sim("DELETE", "/_sim/requests", "");
    for (action, after) in [("revoke_token", "running"), ("expire_token", "failed")] {
        sim.sim("POST", "/_sim/jobs", "{}");
        let payload: Value = serde_json::from_str(&sim.request_job().unwrap().1).unwrap();
        let (id, token) = (&payload["id"], &payload["token"]);
        let update = || {
            let body = json!({ "token": token, "state": "running" }).to_string();
            sim.call("PUT", &format!("/api/v4/jobs/{id}"), "Content-Type: application/json\r\n", &body).unwrap().0
        };
        assert_eq!((update(), sim.sim("POST", &format!("/_sim/jobs/{id}/{action}"), "").0, update()), (200, 200, 403));
        assert_eq!(sim.sim("GET", &format!("/_sim/jobs/{id}"), "").1["status"], after);
    }

    // Another runner, which takes other jobs.
    let (status, second) = sim.sim("POST", "/_sim/runners", r#"{"tag_list":["gpu"],"run_untagged":false}"#);
    assert_eq!((status, &second["id"]), (201, &json!(2)));
    let gpu = sim.sim("POST", "/_sim/jobs", r#"{"tags":["gpu"]}"#).1;
    assert_eq!(sim.request_job().unwrap().0, 204);
    let ask = json!({ "token": second["token"] }).to_string();
    let json = "Content-Type: application/json\r\n";
    let (status, payload) = sim.call("POST", "/api/v4/jobs/request", json, &ask).unwrap();
    let payload: Value = serde_json::from_str(&payload).unwrap();
    assert_eq!((status, &payload["id"]), (201, &gpu["id"]));
    assert_eq!(sim.sim("PATCH", "/_sim/runners/2", r#"{"paused":"no"}"#).0, 400);
    assert_eq!(sim.sim("PATCH", "/_sim/runners/2", r#"{"paused":true}"#).1["attributes"]["paused"], true);
    assert_eq!(sim.sim("POST", "/_sim/runners", &format!(r#"{{"token":{}}}"#, second["token"])).0, 400);

    let (_, pending) = sim.sim("POST", "/_sim/jobs", "{}");
    let told = sim.sim("GET", &format!("/_sim/jobs/{}/token", pending["id"]), "").1;
    assert!(told["token"].as_str().unwrap().starts_with("glcbt-"));
    let on_runner = |method: &str, action: &str| sim.sim(method, &format!("/_sim/runners/1{action}"), "");
    assert_eq!((on_runner("POST", "/pause").0, sim.request_job().unwrap().0), (200, 204));
    assert_eq!(on_runner("POST", "/unpause").1["managers"]["s_1"]["info"], json!({}));
    assert_eq!(on_runner("DELETE", "/managers/s_1").1["managers"], json!({}));
    assert_eq!(on_runner("DELETE", "/managers/s_1").0, 404);
    assert_eq!((on_runner("POST", "/expire_token").0, sim.request_job().unwrap().0), (200, 403));
    assert!(on_runner("POST", "/reset_token").1["token"].as_str().unwrap().starts_with("glrt-"));
    assert_eq!((on_runner("DELETE", "").0, on_runner("GET", "").0, on_runner("POST", "/moon").0), (200, 404, 404));

    let first = &requests.as_array().unwrap()[..3];
    let path = format!("/api/v4/jobs/{id}/trace");
    for (request, (method, path, status, change)) in first.iter().zip([
        ("POST", "/api/v4/jobs/request", 201, Some(format!("job {id} running"))),
        ("PATCH", path.as_str(), 202, Some(format!("log of job {id} 5 bytes"))),
        ("PATCH", path.as_str(), 416, None),
    ]) {
        let change: Vec<String> = change.into_iter().collect();
        assert_eq!((&request["method"], &request["path"]), (&json!(method), &json!(path)));
        assert_eq!((&request["status"], &request["changes"]), (&json!(status), &json!(change)));
    }
    assert!(!requests.to_string().contains(token), "the record has no secrets");
    sim.sim("DELETE", "/_sim/requests", "");
    assert_eq!(sim.sim("GET", "/_sim/requests", "").1, json!([]));
    let (_, description) = sim.sim("GET", "/_sim/openapi.json", "");
    assert_eq!(description["openapi"], "3.1.0");
}

#[test]
fn a_user_asks_about_jobs_and_runners_as_in_gitlab() {
    let sim = Sim::start(&[]);
    let (_, queued) = sim.sim("POST", "/_sim/jobs", r#"{"name":"seen"}"#);
    assert_eq!(sim.request_job().unwrap().0, 201);
    let user = |method: &str, path: &str, form: &str| {
        let headers = format!(
            "PRIVATE-TOKEN: {}\r\nContent-Type: application/x-www-form-urlencoded\r\n",
            sim.told("access_token")
        );
        let (status, body) = sim.call(method, &format!("/api/v4/{path}"), &headers, form).unwrap();
        (status, serde_json::from_str::<Value>(&body).unwrap_or(Value::Null))
    };
    sim.sim("POST", "/_sim/faults", r#"{"fault":"503:any"}"#);
    assert_eq!(sim.request_job().unwrap().0, 503);
    let (status, jobs) = user("GET", "projects/acme%2Fwidgets/jobs?scope[]=running", "");
    assert_eq!((status, &jobs[0]["id"], &jobs[0]["name"]), (200, &queued["id"], &json!("seen")));
    sim.sim("DELETE", "/_sim/faults", "");
    let job = format!("projects/4242/jobs/{}", queued["id"]);
    assert_eq!(user("POST", &format!("{job}/cancel"), "").1["status"], "canceled");
    assert_eq!(user("POST", &format!("{job}/retry"), "").1["status"], "pending");
    assert_eq!(user("PUT", "runners/1", "paused=true").1["paused"], true);
    assert_eq!(sim.request_job().unwrap().0, 204, "the runner is paused");
    assert_eq!(user("GET", "runners/1/managers", "").1[0]["system_id"], "s_1");
    assert_eq!(sim.call("GET", &format!("/api/v4/{job}"), "", "").unwrap().0, 401);
    sim.sim("POST", "/_sim/users", r#"{"token":"glpat-guest","role":"guest","scopes":["read_api"]}"#);
    let guest =
        |method: &str| sim.call(method, &format!("/api/v4/{job}"), "PRIVATE-TOKEN: glpat-guest\r\n", "").unwrap().0;
    assert_eq!((guest("GET"), guest("DELETE")), (200, 405));
}

#[test]
fn virtual_time_ends_the_wait_of_a_held_request() {
    let sim = Sim::start(&["--start-time", "1700000000", "--long-poll", "3000"]);
    let (_, first) = sim.call("GET", "/_sim/time", "", "").unwrap();
    assert_eq!(first, "{\"now\":1700000000.0}\n");
    let ask = |last_update: &str| {
        let body = json!({ "token": sim.told("runner_token"), "last_update": last_update }).to_string();
        sim.call("POST", "/api/v4/jobs/request", "Content-Type: application/json\r\n", &body).unwrap().0
    };
    assert_eq!(ask(""), 204);
    let (_, _) = sim.sim("POST", "/_sim/jobs", "{}");
    assert_eq!(sim.request_job().unwrap().0, 201);
    assert_eq!(sim.call("GET", "/_sim/time", "", "").unwrap().1, first, "time stands still");
    let address = sim.told("url").strip_prefix("http://").unwrap();
    let value = {
        let body = json!({ "token": sim.told("runner_token") }).to_string();
        let mut stream = TcpStream::connect(address).unwrap();
        let length = body.len();
        let head = "POST /api/v4/jobs/request HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json";
        write!(stream, "{head}\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let line = answer.lines().find_map(|line| line.strip_prefix("x-gitlab-last-update: ")).expect("a queue value");
        line.to_owned()
    };
    std::thread::scope(|scope| {
        let held = scope.spawn(|| ask(&value));
        while sim.sim("GET", "/_sim/requests", "").1.as_array().unwrap().last().unwrap()["status"] != Value::Null {
            std::thread::yield_now();
        }
        sim.sim("POST", "/_sim/time", r#"{"advance":3000}"#);
        assert_eq!(held.join().unwrap(), 204);
    });
}

#[test]
#[cfg(unix)]
fn a_signal_ends_it_with_a_report() {
    let folder = std::env::temp_dir().join(format!("simulated-gitlab-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("jobs.json"), r#"[{"name":"one"},{"name":"two"}]"#).unwrap();
    let report = folder.join("report.txt");
    let sim = Sim::start(&["--jobs", folder.to_str().unwrap(), "--report", report.to_str().unwrap()]);
    assert_eq!(sim.request_job().unwrap().0, 201);
    let (_, told) = sim.sim("GET", "/_sim/report", "");
    assert_eq!(sim.terminate(), 0);
    let written: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    assert_eq!(written, told);
    let names: Vec<_> = written["jobs"].as_array().unwrap().iter().map(|job| (&job["name"], &job["status"])).collect();
    assert_eq!(names, [(&json!("one"), &json!("running")), (&json!("two"), &json!("pending"))]);
    assert_eq!((&written["answers"]["201"], &written["requests"]["POST /jobs/request"]), (&json!(1), &json!(1)));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn faults_strike_where_they_are_told_to() {
    let sim = Sim::start(&["--fault", "502:request:1", "--fault", "lose-answer:request:1", "--update-interval", "7"]);
    sim.sim("POST", "/_sim/jobs", "{}");
    assert_eq!(sim.request_job().unwrap().0, 502);
    assert!(sim.request_job().is_err(), "GitLab hands the job out, and nobody hears of it");
    assert_eq!(sim.request_job().unwrap().0, 204);
    assert_eq!(sim.sim("GET", "/_sim/jobs", "").1[0]["status"], "running");
}

#[test]
fn wrong_usage_is_told_in_one_sentence() {
    let run = |words: &[&str]| -> Output {
        Command::new(env!("CARGO_BIN_EXE_simulated-gitlab")).args(words).output().expect("it runs")
    };
    for (words, code, why) in [
        (&["--nonsense"][..], 2, "no such option"),
        (&["--runner-tokn", "x"], 2, "no option --runner-tokn; did you mean --runner-token?"),
        (&["--versoin"], 2, "did you mean --version?"),
        (&["-x"], 2, "no option -x"),
        (&["word"], 2, "a word that belongs to no option"),
        (&["--seed"], 2, "--seed needs a value"),
        (&["--seed", "x"], 2, "--seed needs a whole number"),
        (&["--listen", "here"], 2, "--listen needs an address"),
        (&["--control-token", ""], 2, "--control-token needs letters"),
        (&["--control-token", "a;b"], 2, "--control-token needs letters"),
        (&["--root", "gitlab"], 2, "--root needs a path such as /gitlab"),
        (&["--repository", "/nowhere"], 1, "--repository"),
        (&["--fault", "moon"], 2, "WHAT:WHERE"),
        (&["--start-time", "noon"], 2, "--start-time needs a whole number of seconds"),
        (&["--long-poll", "-1"], 2, "--long-poll needs a number of seconds"),
        (&["--jobs", "/nowhere/jobs.json"], 1, "/nowhere/jobs.json"),
    ] {
        let output = run(words);
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(code) && err.contains(why) && err.lines().count() == 1,
            "{words:?}: {err}"
        );
    }
    let sim = Sim::start(&[]);
    let taken = run(&["--listen", sim.told("url").strip_prefix("http://").unwrap()]);
    assert!(taken.status.code() == Some(1) && String::from_utf8_lossy(&taken.stderr).contains("cannot listen at"));
    for (words, told) in [
        (&["--help"][..], "Exit codes"),
        (&["-h"], "Exit codes"),
        (&["--seed", "1", "--help"], "Exit codes"),
        (&["--version"], concat!("simulated-gitlab ", env!("CARGO_PKG_VERSION"), "\n")),
        (&["-V"], "simulated-gitlab "),
    ] {
        let output = run(words);
        let out = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.code() == Some(0) && output.stderr.is_empty() && out.contains(told), "{words:?}: {out}");
    }
}

/// A token may stand in any place of a command line that is wrong in some way, and is never shown.
#[test]
fn no_message_shows_a_token() {
    let _limit = TimeLimit::start(TimeLimit::TEST);
    // A token may be the name of a host as well. The program would serve then, so its address is taken.
    let taken = TcpListener::bind("127.0.0.1:0").expect("an address");
    let taken = taken.local_addr().expect("the address").to_string();
    for token in
        ["glrt-canary0123456789", "GR1348941canary", "glpat-canary.01.x", "canary0123456789abcdef", "canary/+x=="]
    {
        let mut lines: Vec<Vec<String>> = vec![
            vec![token.into()],
            vec!["--".into(), token.into()],
            vec![format!("-{token}x")],
            vec![format!("--{token}")],
            vec![format!("--{token}=1")],
            vec![format!("--help-me={token}")],
            vec!["--runner-token".into(), token.into(), token.into()],
            vec!["--runner-tokn".into(), token.into()],
            vec![format!("--runner-tokn={token}")],
            vec!["--runner-token".into(), token.into(), "--access-token".into()],
        ];
        for option in [
            "listen",
            "root",
            "repository",
            "jobs",
            "seed",
            "fault",
            "update-interval",
            "long-poll",
            "two-phase-commit",
            "start-time",
            "allow-remote",
        ] {
            lines.push(vec![format!("--{option}"), token.into()]);
            lines.push(vec![format!("--{option}={token}")]);
        }
        lines.push(vec!["--listen".into(), taken.clone(), "--allow-host".into(), token.into()]);
        lines.push(vec!["--listen".into(), taken.clone(), format!("--allow-host={token}")]);
        for line in lines {
            let output = Command::new(env!("CARGO_BIN_EXE_simulated-gitlab")).args(&line).output().expect("it runs");
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(!out.contains("canary") && !err.contains("canary"), "{line:?}: {out} {err}");
            assert!(matches!(output.status.code(), Some(1 | 2)) && err.lines().count() == 1, "{line:?}: {out} {err}");
        }
    }
}
