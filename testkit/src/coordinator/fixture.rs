//! A short way to talk to a coordinator in tests.

use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::Timestamp;
use http::{Method, Request, Response};
use serde_json::{Value, json};

use super::{Answer, Coordinator, HoldId, JobRecord, NewJob, Settings};

pub(super) const TOKEN: &str = "glrt-fake";

/// A coordinator with one runner, and a clock.
pub(super) struct Lab {
    pub(super) gitlab: Coordinator,
    pub(super) now: Timestamp,
    pub(super) runner: u64,
}

impl Lab {
    pub(super) fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let mut gitlab = Coordinator::new(Settings::default().with(change));
        let runner = gitlab.add_runner(TOKEN);
        // A whole minute, so that windows of rate limits begin here.
        Self { gitlab, now: Timestamp::from_millis(1_700_000_040_000), runner }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now = self.now.saturating_add(time);
    }

    pub(super) fn submit(&mut self, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("https://host.test/api/v4{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Bytes::copy_from_slice(body)).expect("a valid request");
        self.gitlab.submit(self.now, request)
    }

    pub(super) fn call(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response<Bytes> {
        match self.submit(method, path, headers, body) {
            Answer::Now(response) => response,
            Answer::Held(hold) => panic!("{path} is held as {hold:?}"),
        }
    }

    pub(super) fn json(&mut self, method: Method, path: &str, body: &Value) -> Response<Bytes> {
        self.call(method, path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    pub(super) fn request_job(&mut self, body: &Value) -> Response<Bytes> {
        self.json(Method::POST, "/jobs/request", body)
    }

    pub(super) fn hold(&mut self, last_update: &str) -> HoldId {
        let body = json!({ "token": TOKEN, "last_update": last_update }).to_string();
        match self.submit(Method::POST, "/jobs/request", &[("content-type", "application/json")], body.as_bytes()) {
            Answer::Held(hold) => hold,
            Answer::Now(response) => panic!("not held: {response:?}"),
        }
    }

    /// A job that was just handed out to the manager `s_1`, which announced these features.
    pub(super) fn running_job(&mut self, features: &[&str]) -> u64 {
        let id = self.gitlab.queue(self.now, NewJob::default());
        assert_eq!(self.request_job(&work(features)).status(), 201);
        id
    }

    pub(super) fn put(&mut self, id: u64, update: Value) -> Response<Bytes> {
        let mut update = update;
        update["token"] = json!(self.job(id).token());
        self.json(Method::PUT, &format!("/jobs/{id}"), &update)
    }

    pub(super) fn patch(&mut self, id: u64, start: u64, body: &str) -> Response<Bytes> {
        let token = self.job(id).token().to_owned();
        let range = format!("{start}-{}", (start + body.len() as u64).saturating_sub(1));
        let headers = [("content-type", "text/plain"), ("job-token", &token), ("content-range", &range)];
        self.call(Method::PATCH, &format!("/jobs/{id}/trace"), &headers, body.as_bytes())
    }

    pub(super) fn job(&self, id: u64) -> &JobRecord {
        self.gitlab.job(id).expect("a job")
    }

    pub(super) fn status(&self, id: u64) -> &'static str {
        self.job(id).status().as_str()
    }

    pub(super) fn trace(&self, id: u64) -> &str {
        std::str::from_utf8(self.job(id).trace()).expect("text")
    }
}

/// The body of a job request by the manager `s_1`.
pub(super) fn work(features: &[&str]) -> Value {
    let features: Value = features.iter().map(|feature| ((*feature).to_owned(), json!(true))).collect();
    json!({ "token": TOKEN, "system_id": "s_1", "info": { "features": features } })
}

pub(super) fn header<'a>(response: &'a Response<Bytes>, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().expect("text"))
}

pub(super) fn body(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).expect("JSON")
}

pub(super) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
