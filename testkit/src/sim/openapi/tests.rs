//! Compares the description of the APIs, `openapi.json`, with the tables of operations and with what the server answers.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::OPENAPI;
use crate::coordinator::{Coordinator, Settings, user_operations};
use crate::server::Server;
use crate::sim::{Options, control, describe, serve, settings};
use crate::time_limit::TimeLimit;

const ACCESS_TOKEN: &str = "glpat-admin";
const CONTROL_TOKEN: &str = "control";
const RUNNER_TOKEN: &str = "glrt-runner";

fn document() -> Value {
    serde_json::from_str(OPENAPI).expect("JSON")
}

/// The value that a reference stands for, or the value itself.
fn resolve<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    match value["$ref"].as_str() {
        Some(reference) => {
            let pointer = reference.strip_prefix('#').expect("a reference within the document");
            document.pointer(pointer).unwrap_or_else(|| panic!("there is no {reference}"))
        }
        None => value,
    }
}

/// Every operation of the document: method, path and description.
fn operations(document: &Value) -> Vec<(String, &str, &Value)> {
    let mut found = Vec::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            found.push((method.to_uppercase(), path.as_str(), operation));
        }
    }
    found
}

/// Checks a value against a schema: as much of JSON Schema as the document uses.
fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let schema = resolve(document, schema);
    let fail = |why: String| Err(format!("{why}: {value}"));
    if let Some(choices) = schema["oneOf"].as_array() {
        let fits = choices.iter().filter(|choice| check(document, choice, value).is_ok()).count();
        return if fits == 1 { Ok(()) } else { fail(format!("{fits} choices fit")) };
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => return Ok(()),
    };
    let is = |kind: &&str| match *kind {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        other => panic!("there is no type {other}"),
    };
    if !kinds.iter().any(is) {
        return fail(format!("not {}", kinds.join(" or ")));
    }
    if let (Some(allowed), false) = (schema["enum"].as_array(), value.is_null())
        && !allowed.contains(value)
    {
        return fail(format!("not one of {}", schema["enum"]));
    }
    for item in value.as_array().into_iter().flatten() {
        check(document, &schema["items"], item)?;
    }
    let Some(members) = value.as_object() else { return Ok(()) };
    for name in schema["required"].as_array().into_iter().flatten() {
        if !members.contains_key(name.as_str().expect("a name")) {
            return fail(format!("{name} is missing"));
        }
    }
    for (name, member) in members {
        let described = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
        match described {
            Some(Value::Bool(false)) => return fail(format!("{name} is not described")),
            Some(schema) => check(document, schema, member).map_err(|why| format!("{name}: {why}"))?,
            None => {}
        }
    }
    Ok(())
}

#[test]
fn the_checks_of_this_test_tell_values_apart() {
    let document = json!({ "components": { "schemas": { "Number": { "type": "integer" } } } });
    let number = json!({ "$ref": "#/components/schemas/Number" });
    let schema = json!({
        "type": "object",
        "properties": { "a": number, "b": { "type": ["string", "null"], "enum": ["x"] }, "c": { "oneOf": [number, { "type": "array", "items": number }] } },
        "required": ["a"],
        "additionalProperties": false,
    });
    for (value, fits) in [
        (json!({ "a": 1 }), true),
        (json!({ "a": 1, "b": "x", "c": [1, 2] }), true),
        (json!({ "a": 1, "b": null, "c": 3 }), true),
        (json!({}), false),
        (json!({ "a": 1.5 }), false),
        (json!({ "a": 1, "b": "y" }), false),
        (json!({ "a": 1, "c": ["x"] }), false),
        (json!({ "a": 1, "d": 1 }), false),
        (json!([]), false),
    ] {
        assert_eq!(check(&document, &schema, &value).is_ok(), fits, "{value}");
    }
}

#[test]
fn the_description_has_exactly_the_operations_that_are_dispatched() {
    let document = document();
    let described: BTreeSet<(String, String)> =
        operations(&document).into_iter().map(|(method, path, _)| (method, path.to_owned())).collect();
    let steering = control::operations().map(|(method, path)| (method.to_string(), path.to_owned()));
    let for_users = user_operations().map(|(method, path)| (method.to_string(), format!("/api/v4/{path}")));
    let dispatched: Vec<_> = steering.chain(for_users).collect();
    assert_eq!(described, dispatched.iter().cloned().collect());
    assert_eq!(described.len(), dispatched.len(), "an operation is in the tables twice");
    let names: BTreeSet<String> =
        operations(&document).iter().map(|(.., operation)| operation["operationId"].to_string()).collect();
    assert_eq!(names.len(), dispatched.len(), "every operation has a name of its own");
}

#[test]
fn the_description_has_exactly_the_members_that_are_taken() {
    let document = document();
    for (method, path, members) in control::members() {
        let operation = &document["paths"][path][method.as_str().to_lowercase()];
        let schema = resolve(&document, &operation["requestBody"]["content"]["application/json"]["schema"]);
        let described = schema["properties"].as_object().into_iter().flat_map(|properties| properties.keys());
        let described: BTreeSet<&str> = described.map(String::as_str).collect();
        assert_eq!(described, members.iter().copied().collect(), "{method} {path}");
    }
}

#[test]
fn the_description_has_exactly_the_settings_that_there_are() {
    let document = document();
    let view = settings::view(&Settings::default());
    let described = document["components"]["schemas"]["Settings"]["properties"].as_object().expect("settings");
    assert!(described.keys().eq(view.as_object().expect("an object").keys()), "{described:?}");
}

#[test]
fn every_member_of_a_new_job_is_taken_as_it_is_described() {
    let document = document();
    let members = document["components"]["schemas"]["NewJob"]["properties"].as_object().expect("members");
    for (name, schema) in members {
        let examples = schema["examples"].as_array().unwrap_or_else(|| panic!("{name} has no example"));
        for example in examples {
            check(&document, schema, example).unwrap_or_else(|why| panic!("{name}: {why}"));
            let described = Value::Object([(name.clone(), example.clone())].into_iter().collect());
            describe::job(described).unwrap_or_else(|why| panic!("{name}: {why}"));
        }
    }
}

/// A server with a job that has failed and left a log and an archive, and with a runner and its manager.
struct Scene {
    server: Server,
    job: u64,
}

impl Scene {
    fn new() -> Self {
        let mut gitlab = Coordinator::new(Settings::default());
        gitlab.set_access_token(ACCESS_TOKEN);
        gitlab.add_user("glpat-guest", crate::Role::Guest, ["read_user"]);
        gitlab.add_runner(RUNNER_TOKEN);
        let server = serve(gitlab, Options::new(CONTROL_TOKEN)).expect("a server").with_time_limit(TimeLimit::TEST);
        let mut scene = Self { server, job: 0 };
        let token = format!("Control-Token: {CONTROL_TOKEN}\r\n");
        let (status, queued) = scene.call("POST", "/_sim/jobs", &token, r#"{"name":"first"}"#);
        assert_eq!(status, 201);
        scene.job = json_of(&queued)["id"].as_u64().expect("a number");
        let ask = json!({ "token": RUNNER_TOKEN, "system_id": "s_1", "info": { "version": "1" } }).to_string();
        let json = "Content-Type: application/json\r\n";
        let (_, payload) = scene.call("POST", "/api/v4/jobs/request", json, &ask);
        let token = json_of(&payload)["token"].as_str().expect("a token").to_owned();
        let job = format!("/api/v4/jobs/{}", scene.job);
        let patch = format!("JOB-TOKEN: {token}\r\nContent-Type: text/plain\r\nContent-Range: 0-4\r\n");
        assert_eq!(scene.call("PATCH", &format!("{job}/trace"), &patch, "hello").0, 202);
        let form = format!("JOB-TOKEN: {token}\r\nContent-Type: multipart/form-data; boundary=xx\r\n");
        let head = "Content-Disposition: form-data; name=\"file\"; filename=\"a.zip\"";
        let body = format!("--xx\r\n{head}\r\n\r\nPK\r\n--xx--\r\n");
        assert_eq!(scene.call("POST", &format!("{job}/artifacts"), &form, &body).0, 201);
        let failed = json!({ "token": token, "state": "failed", "failure_reason": "script_failure" }).to_string();
        assert_eq!(scene.call("PUT", &job, json, &failed).0, 200);
        scene
    }

    /// One request on a connection of its own; the status, the body, and the media type.
    fn exchange(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String, String) {
        let url = self.server.url();
        let address = url.strip_prefix("http://").expect("plain HTTP");
        let mut stream = TcpStream::connect(address).expect("a connection");
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}");
        stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let kind = head.to_ascii_lowercase().lines().find_map(|line| {
            let kind = line.strip_prefix("content-type: ")?;
            kind.split(';').next().map(str::to_owned)
        });
        (status.expect("a status"), body.to_owned(), kind.unwrap_or_default())
    }

    fn call(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let (status, body, _) = self.exchange(method, path, headers, body);
        (status, body)
    }

    /// A path with the values of the scene, or with others that do not exist.
    fn fill(&self, path: &str, exist: bool) -> String {
        let (number, name) = if exist { (self.job.to_string(), "archive") } else { ("7".to_owned(), "sast") };
        let path = path.replace("/projects/{id}", if exist { "/projects/acme%2Fwidgets" } else { "/projects/7" });
        let path = path.replace("/runners/{id}", if exist { "/runners/1" } else { "/runners/7" });
        let path = path.replace("{system_id}", "s_1").replace("{type}", name);
        path.replace("{id}", &number).replace("{job_id}", &number)
    }
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Checks an answer against the description of its status.
fn check_answer(document: &Value, name: &str, operation: &Value, (status, body, kind): &(u16, String, String)) {
    let described = operation["responses"].get(status.to_string());
    let described = described.unwrap_or_else(|| panic!("{name}: {status} is not described: {body}"));
    match resolve(document, described).get("content") {
        None => assert_eq!((body.as_str(), kind.as_str()), ("", ""), "{name}: {status} has no body"),
        Some(content) => {
            let media = content.get(kind).unwrap_or_else(|| panic!("{name}: {status} is not {kind:?}: {content}"));
            if kind == "application/json" {
                check(document, &media["schema"], &json_of(body))
                    .unwrap_or_else(|why| panic!("{name}: {status}: {why}"));
            }
        }
    }
}

#[test]
fn every_operation_answers_as_it_is_described() {
    let document = document();
    for (method, path, operation) in operations(&document) {
        let is_for_users = operation["tags"] == json!(["users"]);
        let name = format!("{method} {path}");
        let request = &operation["requestBody"]["content"]["application/json"];
        let body = request.get("example").map(Value::to_string).unwrap_or_default();
        if let Some(example) = request.get("example") {
            check(&document, &request["schema"], example).unwrap_or_else(|why| panic!("{name}: {why}"));
        }
        let json = "Content-Type: application/json\r\n";
        let headers = |token: &str| format!("PRIVATE-TOKEN: {token}\r\nControl-Token: {CONTROL_TOKEN}\r\n{json}");

        let scene = Scene::new();
        let answer = scene.exchange(&method, &scene.fill(path, true), &headers(ACCESS_TOKEN), &body);
        assert!((200..300).contains(&answer.0), "{name}: {answer:?}");
        check_answer(&document, &name, operation, &answer);

        let scene = Scene::new();
        if path.contains('{') {
            let answer = scene.exchange(&method, &scene.fill(path, false), &headers(ACCESS_TOKEN), &body);
            assert_eq!(answer.0, 404, "{name}: {answer:?}");
            check_answer(&document, &name, operation, &answer);
        }
        if operation["requestBody"]["required"] == true && !is_for_users {
            let answer = scene.exchange(&method, &scene.fill(path, true), &headers(ACCESS_TOKEN), "[]");
            assert_eq!(answer.0, 400, "{name}: {answer:?}");
            check_answer(&document, &name, operation, &answer);
        }
        if method != "GET" && !is_for_users {
            assert_eq!(operation["security"], json!([{ "controlToken": [] }]), "{name}");
            let answer = scene.exchange(&method, &scene.fill(path, true), json, &body);
            assert_eq!(answer.0, 401, "{name}: {answer:?}");
            check_answer(&document, &name, operation, &answer);
        }
        if is_for_users {
            for (token, expected) in [("nobody", 401), ("glpat-guest", 403)] {
                let answer = scene.exchange(&method, &scene.fill(path, true), &headers(token), &body);
                assert_eq!(answer.0, expected, "{name}: {answer:?}");
                check_answer(&document, &name, operation, &answer);
            }
        }
    }
}
