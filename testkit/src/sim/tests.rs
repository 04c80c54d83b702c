//! Who gets through the filter, for each operation of the control API. The table of operations is read, so that a new one
//! cannot be forgotten.

use http::header::{ALLOW, CONTENT_SECURITY_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{Method, StatusCode};

use super::*;
use crate::coordinator::{JobRecord, JobStatus};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "MOON"];

fn sim_filter() -> SimFilter {
    let guard = Guard::new("secret".to_owned(), Vec::new(), false).expect("a token");
    SimFilter { guard, root: Root::default(), faults: Faults::new(Vec::new(), Dice::new(0)) }
}

/// A GitLab with a runner, its manager, and a job with a log.
fn gitlab() -> (Coordinator, u64) {
    let mut gitlab = Coordinator::new(Settings::default());
    gitlab.add_runner("glrt-x");
    let id = gitlab.queue(NOW, NewJob::new("test"));
    let ask = Request::post("http://localhost/api/v4/jobs/request?token=glrt-x&system_id=s_1");
    gitlab.respond(NOW, ask.body(Bytes::new()).expect("a request"));
    assert_eq!(gitlab.job(id).map(JobRecord::status), Some(JobStatus::Running));
    (gitlab, id)
}

fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<Bytes> {
    let request = Request::builder().method(method).uri(path).header("host", "localhost:8929");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Bytes::new()).expect("a request")
}

/// The answer to a request, and whether it was refused for its head.
fn ask(gitlab: &mut Coordinator, request: Request<Bytes>) -> (Response<Content>, bool) {
    let mut filter = sim_filter();
    let (head, body) = request.into_parts();
    if let Some(refused) = filter.refuse(&head) {
        return (refused, true);
    }
    let response = match filter.handle(gitlab, NOW, &Request::from_parts(head, body)) {
        Handling::Answered(response) | Handling::Advanced(_, response) => response,
        Handling::Later(later) => later.prepare()(gitlab, NOW),
        Handling::GitLab(_) => gitlab.respond(NOW, request_of_gitlab()).map(Content::from),
    };
    (response, false)
}

fn request_of_gitlab() -> Request<Bytes> {
    request("GET", "/api/v4/moon", &[])
}

fn paths(id: u64) -> Vec<(&'static Method, String)> {
    let filled = |path: &str| {
        let path = if path.starts_with("/_sim/jobs/") {
            path.replace("{id}", &id.to_string())
        } else {
            path.replace("{id}", "1")
        };
        path.replace("{type}", "archive").replace("{system_id}", "s_1")
    };
    control::operations().map(|(method, path)| (method, filled(path))).collect()
}

#[test]
fn each_change_needs_the_token() {
    let (gitlab, id) = gitlab();
    let operations = paths(id);
    let changes = operations.iter().filter(|(method, _)| **method != Method::GET);
    assert!(changes.clone().count() > 20);
    for (method, path) in changes {
        let mut state = gitlab.clone();
        let before = format!("{state:?}");
        for headers in [
            &[][..],
            &[("control-token", "")],
            &[("control-token", "wrong")],
            &[("control-token", "secret ")],
            &[("control-token", "wrong"), ("control-token", "secret")],
            &[("cookie", "control_token_8929=secret")],
            &[("origin", "http://localhost:8929"), ("cookie", "control_token_8929=wrong")],
            &[("origin", "http://localhost:8929"), ("cookie", "control_token_8930=secret")],
            &[("origin", "http://localhost:8930"), ("control-token", "secret")],
            &[("origin", "null"), ("control-token", "secret")],
            &[("sec-fetch-site", "same-site"), ("control-token", "secret")],
            &[("host", "evil.example"), ("control-token", "secret")],
            // What a form of another site sends without asking first.
            &[("content-type", "text/plain"), ("cookie", "control_token_8929=secret")],
            &[("content-type", "multipart/form-data; boundary=x"), ("cookie", "control_token_8929=secret")],
            &[("content-type", "application/x-www-form-urlencoded"), ("x-http-method-override", "GET")],
        ] {
            let (response, refused) = ask(&mut state, request(method.as_str(), path, headers));
            assert!(refused && matches!(response.status().as_u16(), 401 | 403), "{method} {path} {headers:?}");
            assert_eq!(format!("{state:?}"), before, "{method} {path} {headers:?}");
        }
        for headers in [
            &[("control-token", "secret")][..],
            &[("origin", "http://localhost:8929"), ("cookie", "control_token_8929=secret")],
        ] {
            assert!(
                !ask(&mut gitlab.clone(), request(method.as_str(), path, headers)).1,
                "{method} {path} {headers:?}"
            );
        }
    }
}

#[test]
fn whoever_reads_changes_nothing() {
    let (mut gitlab, id) = gitlab();
    let before = format!("{gitlab:?}");
    let pages =
        ["/", "/?control_token=secret", "/?control_token=wrong", "/_page/page.css", "/_page/page.js", "/jobs/7"];
    let pages = pages.map(str::to_owned).into_iter().chain([format!("/jobs/{id}")]);
    let operations = paths(id).into_iter().map(|(_, path)| path);
    for path in pages.chain(operations) {
        for method in ["GET", "HEAD"] {
            let (response, refused) = ask(&mut gitlab, request(method, &path, &[]));
            assert!(!refused && format!("{gitlab:?}") == before, "{method} {path}");
            assert_eq!(response.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
            assert!(response.headers().contains_key(CONTENT_SECURITY_POLICY), "{path}");
        }
    }
}

#[test]
fn a_path_is_refused_with_the_methods_that_it_has() {
    let (gitlab, id) = gitlab();
    let operations = paths(id);
    for (_, path) in &operations {
        let known: Vec<&str> =
            operations.iter().filter(|(_, other)| other == path).map(|(method, _)| method.as_str()).collect();
        for method in METHODS {
            let is_known = known.contains(&method) || (method == "HEAD" && known.contains(&"GET"));
            let (response, _) = ask(&mut gitlab.clone(), request(method, path, &[("control-token", "secret")]));
            assert_eq!(response.status() == StatusCode::METHOD_NOT_ALLOWED, !is_known, "{method} {path}");
            if !is_known {
                assert_eq!(response.headers()[ALLOW], known.join(", "), "{method} {path}");
            }
        }
    }
}

/// A client that asks for what was dropped is told so, in each API and on the page.
#[test]
fn what_was_dropped_is_not_found_and_never_empty() {
    let (mut gitlab, id) = gitlab();
    gitlab.set_access_token("glpat-x");
    let token = gitlab.job(id).expect("a job").token().to_owned();
    let send = |gitlab: &mut Coordinator, method: &str, path: String, headers: &[(&str, &str)], body: &'static [u8]| {
        let request = Request::builder().method(method).uri(format!("http://localhost/api/v4{path}"));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.header("job-token", &token).body(Bytes::from_static(body)).expect("a request");
        gitlab.respond(NOW, request)
    };
    let form = b"--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.zip\"\r\n\r\nPK\r\n--x--\r\n";
    let multipart = [("content-type", "multipart/form-data; boundary=x")];
    let range = [("content-type", "text/plain"), ("content-range", "0-2")];
    assert_eq!(send(&mut gitlab, "POST", format!("/jobs/{id}/artifacts"), &multipart, form).status(), 201);
    assert_eq!(send(&mut gitlab, "PATCH", format!("/jobs/{id}/trace"), &range, b"log").status(), 202);
    assert_eq!(send(&mut gitlab, "PUT", format!("/jobs/{id}?state=success&token={token}"), &[], b"").status(), 200);
    let (log, file) = (format!("/_sim/jobs/{id}/trace"), format!("/_sim/jobs/{id}/artifacts/archive"));
    let read = |gitlab: &mut Coordinator, path: &str| {
        let (response, _) = ask(gitlab, request("GET", path, &[]));
        let text = response.body().to_bytes().expect("read").to_vec();
        (response.status().as_u16(), String::from_utf8(text).expect("text"))
    };
    assert_eq!((read(&mut gitlab, &log), read(&mut gitlab, &file)), ((200, "log".into()), (200, "PK".into())));

    (gitlab.settings_mut().kept_log_bytes, gitlab.settings_mut().kept_artifact_bytes) = (2, 1);
    for (path, setting) in [(&log, "kept_log_bytes"), (&file, "kept_artifact_bytes")] {
        let (status, text) = read(&mut gitlab, path);
        assert!(status == 404 && text.contains("dropped") && text.contains(setting), "{status} {text}");
        let path = path.replace("/_sim/", "/projects/4242/").replace("/archive", "");
        let response = send(&mut gitlab, "GET", path, &[("private-token", "glpat-x")], b"");
        let text = String::from_utf8_lossy(response.body()).into_owned();
        assert!(response.status() == 404 && text.contains("dropped") && text.contains(setting), "{text}");
        let (status, page) = read(&mut gitlab, &format!("/jobs/{id}"));
        assert!(status == 200 && page.contains(setting) && !page.contains("<pre>"), "{page}");
    }
    let (_, shown) = read(&mut gitlab, &format!("/_sim/jobs/{id}"));
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!((&shown["trace_bytes"], &shown["trace_dropped"]), (&3.into(), &true.into()), "{shown}");
    let checksum = format!("{:08x}", crc32fast::hash(b"log"));
    assert_eq!((&shown["trace_crc32"], &shown["artifacts_dropped"]), (&checksum.into(), &true.into()), "{shown}");
    gitlab.settings_mut().kept_jobs = 0;
    for path in [&log, &file, &format!("/jobs/{id}"), &format!("/_sim/jobs/{id}")] {
        let (status, text) = read(&mut gitlab, path);
        assert!(status == 404 && text.contains("was dropped") && text.contains("kept_jobs"), "{status} {text}");
    }
}
