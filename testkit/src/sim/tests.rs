//! Who gets through the entrance, for each operation of the control API. The table of operations is read, so that a new one
//! cannot be forgotten.

use http::header::{ALLOW, CONTENT_SECURITY_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{Method, StatusCode};

use super::*;
use crate::coordinator::{JobRecord, JobStatus};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "MOON"];

fn entrance() -> Entrance {
    let guard = Guard::new("secret".to_owned(), Vec::new(), false).expect("a token");
    Entrance { guard, root: Root::default(), faults: Faults::new(Vec::new(), Dice::new(0)) }
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
    let mut entrance = entrance();
    let (head, body) = request.into_parts();
    if let Some(refused) = entrance.refuse(&head) {
        return (refused, true);
    }
    let response = match entrance.pass(gitlab, NOW, &Request::from_parts(head, body)) {
        Passage::Answered(response) | Passage::Advanced(_, response) => response,
        Passage::Later(later) => later.prepare()(gitlab, NOW),
        Passage::GitLab(_) => gitlab.respond(NOW, request_of_gitlab()).map(Content::from),
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
