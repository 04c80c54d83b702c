//! A simulated GitLab in the state that a vector describes.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Response;
use serde_json::{Map, Value, json};

use crate::encode::{encode, plain};
use crate::expect::check;
use crate::gitlab::{ACCESS_TOKEN, Gitlab, REGISTRATION_TOKEN, RUNNER_TOKEN, Sent, millis};

/// A log that is not migrated stays in live storage for so many seconds.
const UNMIGRATED: u64 = 100;
/// What is locked stays locked for so many seconds.
const LOCKED: u64 = 3600;
/// Nothing was heard of a runner for so long that it is stale.
const STALE: Duration = Duration::from_secs(120 * 24 * 3600);

/// The number of a job that does not exist.
const NO_JOB: u64 = 999_999_999_999;
/// What the front proxy writes into the header with which it signs.
const SIGNATURE: &str = "signed-by-the-front-proxy";

/// A simulated GitLab, and the variables of a vector.
pub(crate) struct Lab<G> {
    gitlab: G,
    variables: BTreeMap<String, Value>,
    /// The role of the user in whose name the jobs run that the vector takes for granted.
    role: Option<String>,
    /// Whether requests to authorize an upload come from the front proxy, and the query that it adds.
    signs: Option<&'static str>,
}

impl<G: Gitlab> Lab<G> {
    pub(crate) fn new(gitlab: G) -> Self {
        let variables = [
            ("runner.id", json!(1)),
            ("runner.token", json!(RUNNER_TOKEN)),
            ("registration_token", json!(REGISTRATION_TOKEN)),
            ("access_token", json!(ACCESS_TOKEN)),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value)).into();
        Self { gitlab, variables, role: None, signs: None }
    }

    /// Brings about the state, sends the requests, and checks the answers and what is stored.
    ///
    /// # Errors
    ///
    /// A sentence that says what differs, or what cannot be brought about.
    pub(crate) fn run(&mut self, vector: &Value) -> Result<(), String> {
        for step in list(&vector["given"]) {
            self.step(step).map_err(|why| format!("given {step}: {why}"))?;
        }
        self.complete(vector)?;
        let meanwhile = list(&vector["meanwhile"]).to_vec();
        let response = self.send(&vector["request"], &meanwhile)?;
        self.check("answer", &vector["expect"], &response)?;
        for (number, next) in list(&vector["then"]).iter().enumerate() {
            let response = self.send(&next["request"], &[])?;
            self.check(&format!("answer {}", number + 2), &next["expect"], &response)?;
        }
        Ok(())
    }

    /// Makes the jobs that a vector names and no step makes: they run, and what is downloaded is there.
    fn complete(&mut self, vector: &Value) -> Result<(), String> {
        let request = vector["request"].to_string();
        let downloads = vector["request"]["method"] == "GET" && request.contains("/artifacts");
        for name in ["job", "dep", "other"] {
            if !request.contains(&format!("${{{name}.")) || self.variables.contains_key(&format!("{name}.id")) {
                continue;
            }
            let job = self.role.as_ref().map_or(json!({}), |role| json!({ "user_role": role }));
            self.step(&json!({ "op": "running", "as": name, "job": job }))?;
            if name == "job" && downloads {
                self.step(&json!({ "op": "upload", "text": "PK" }))?;
            }
        }
        Ok(())
    }

    fn step(&mut self, step: &Value) -> Result<(), String> {
        let step = self.resolve(step)?;
        let name = step["as"].as_str().unwrap_or("job").to_owned();
        match step["op"].as_str().unwrap_or_default() {
            "instance" => self.set(&step)?,
            "runner" => self.add_runner(&step)?,
            "manager" => {
                let body = json!({
                    "token": "${runner.token}",
                    "system_id": step["system_id"],
                    "info": { "features": features(&step["features"]) },
                });
                self.call(&json!({ "method": "POST", "path": "/runners/verify", "json": body }), 200)?;
            }
            "queue" => {
                self.queue(&name, &step)?;
            }
            "running" => {
                self.queue(&name, &step)?;
                let body = json!({
                    "token": "${runner.token}",
                    "system_id": step["system_id"].as_str().unwrap_or("s_spec"),
                    "info": { "features": features(&step["features"]) },
                });
                self.call(&json!({ "method": "POST", "path": "/jobs/request", "json": body }), 201)?;
            }
            "append" => {
                let text = step["text"].as_str().ok_or("no text")?;
                let start = step["start"].as_u64().unwrap_or(0);
                let headers = json!({
                    "Content-Type": "text/plain",
                    "JOB-TOKEN": "${job.token}",
                    "Content-Range": format!("{start}-{}", start + text.len() as u64 - 1),
                });
                let request =
                    json!({ "method": "PATCH", "path": "/jobs/${job.id}/trace", "headers": headers, "text": text });
                self.call(&request, 202)?;
            }
            "upload" => {
                let mut part = json!({ "name": "file", "filename": step["filename"].as_str().unwrap_or("a.zip") });
                for content in ["text", "gzip"] {
                    if step[content].is_string() {
                        part[content] = step[content].clone();
                    }
                }
                let query = json!({
                    "artifact_type": step["type"].as_str().unwrap_or("archive"),
                    "artifact_format": step["format"].as_str().unwrap_or("zip"),
                });
                let request = json!({
                    "method": "POST",
                    "path": "/jobs/${job.id}/artifacts",
                    "headers": { "JOB-TOKEN": "${job.token}" },
                    "query": query,
                    "multipart": [part],
                });
                self.call(&request, 201)?;
            }
            "finish" => {
                let job = step["job"].as_str().unwrap_or("job");
                let body = json!({ "token": format!("${{{job}.token}}"), "state": "success" });
                self.call(&json!({ "method": "PUT", "path": format!("/jobs/${{{job}.id}}"), "json": body }), 200)?;
            }
            what @ ("cancel" | "erase" | "delete_project" | "watch") => {
                self.gitlab.happen_to_job(self.number("job.id")?, what, Value::Null)?;
            }
            "lose_live_log" => {
                self.gitlab.happen_to_job(self.number("job.id")?, "lose_log", Value::Null)?;
            }
            what @ ("lock_log" | "lock_job") => {
                let what = what.strip_suffix("_job").unwrap_or(what);
                self.gitlab.happen_to_job(self.number("job.id")?, what, json!({ "seconds": LOCKED }))?;
            }
            "project" | "group" => self.change_owner(&step)?,
            "user" => self.add_user(&step)?,
            "access_token_scope" => {
                let scope = step["scope"].as_str().ok_or("no scope")?;
                self.gitlab.add_user(ACCESS_TOKEN, "administrator", &[scope])?;
            }
            "orphaned_runner" => {
                let runner = self.number("runner.id")?;
                self.gitlab.set_runner_type(runner, step["runner_type"].as_str().unwrap_or("project_type"))?;
                self.gitlab.happen_to_runner(runner, "orphan")?;
            }
            "gitaly_fails" => self.set_one("gitaly_failures", json!(1))?,
            "artifact_limit_of" => self.set_one("artifact_size_limit", json!(1000))?,
            "artifacts_disabled" => self.set_one("artifacts_enabled", json!(false))?,
            "dotenv_limits" => {
                if step.get("variables").is_none() {
                    // Without a size, every file is too large.
                    self.set_one("dotenv_size_limit", json!(step["size"].as_u64().unwrap_or(0)))?;
                } else {
                    self.set_one("dotenv_variable_limit", step["variables"].clone())?;
                }
            }
            // The step names no limits. These are exceeded by every file.
            "annotations_limits" => {
                self.set_one("annotations_list_limit", json!(0))?;
                self.set_one("annotations_size_limit", json!(0))?;
            }
            "object_storage_fails" => self.set_one("object_storage_fails", json!(true))?,
            "remote_storage" => {
                self.set_one("object_storage", json!("https://storage.example.test"))?;
                self.set_one("object_storage_loses_uploads", json!(step["missing"] == true))?;
            }
            "front_proxy_signs" => self.sign(step["case"].as_str().unwrap_or_default())?,
            "pause" => self.gitlab.happen_to_runner(self.number("runner.id")?, "pause")?,
            "pass_time" => {
                self.gitlab.pass(Duration::from_secs(step["seconds"].as_u64().ok_or("no seconds")?))?;
            }
            "clock" => self.gitlab.set_clock(step["unix"].as_u64().ok_or("no time")?)?,
            "call" => {
                let status = step["status"].as_u64().ok_or("no status")?;
                let response = self.call(&step["request"], status)?;
                for (name, place) in step["save"].as_object().into_iter().flatten() {
                    let place = place.as_str().unwrap_or_default();
                    let value = match place.split_once(':') {
                        Some(("header", header)) => header_of(&response, header),
                        Some(("json", pointer)) => json_of(&response).and_then(|body| body.pointer(pointer).cloned()),
                        _ => return Err(format!("{place} is no place")),
                    };
                    self.variables.insert(name.clone(), value.ok_or_else(|| format!("no {place}"))?);
                }
            }
            "note" => {
                let name = step["name"].as_str().ok_or("no name")?.to_owned();
                let value = self.stored(&step)?.ok_or("there is no such fact")?;
                self.variables.insert(name, value);
            }
            other => return Err(format!("nothing here brings about {other:?}")),
        }
        Ok(())
    }

    /// From now on, requests to authorize an upload come from the front proxy.
    fn sign(&mut self, case: &str) -> Result<(), String> {
        self.signs = Some("");
        self.set_one("front_proxy_signature", json!(SIGNATURE))?;
        match case {
            "remote storage" => self.step(&json!({ "op": "remote_storage" }))?,
            "no such job" => {
                self.step(&json!({ "op": "running" }))?;
                self.variables.insert("job.id".to_owned(), json!(NO_JOB));
            }
            // What these are about is missing in the request.
            "too large" => self.signs = Some("?filesize=104857601"),
            "lsif" => self.signs = Some("?artifact_type=lsif"),
            "rate limit" => {
                self.step(&json!({ "op": "running" }))?;
                self.set_one("job_limit", json!(1))?;
                let form = json!({ "token": "${job.token}" });
                self.call(
                    &json!({ "method": "POST", "path": "/jobs/${job.id}/artifacts/authorize", "form": form }),
                    200,
                )?;
            }
            "migrations" => {
                self.step(&json!({ "op": "running" }))?;
                self.set_one("migration_backoff", json!(true))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn set(&mut self, step: &Value) -> Result<(), String> {
        let members = step.as_object().into_iter().flatten().filter(|(name, _)| *name != "op");
        for (name, value) in members {
            let (name, value) = match name.as_str() {
                "registration_tokens_allowed" => ("registration_allowed", value.clone()),
                "may_create_runners" => ("creation_allowed", value.clone()),
                "runner_token_expires_at" => ("token_expires_at", value.clone()),
                "live_trace" => ("archive_delay", json!(if value == "unmigrated" { UNMIGRATED } else { 0 })),
                "max_artifact_bytes" => ("artifact_size_limit", value.clone()),
                "linked_environment_key" => ("runtime_environment_key", value.clone()),
                "job_router_url" => ("router_url", value.clone()),
                "long_poll_seconds" => ("long_poll", value.clone()),
                "limit_runner_jobs_request_api" => ("job_request_limit", value.clone()),
                "limit_runner_jobs_api" => ("job_limit", value.clone()),
                "limit_runner_jobs_patch_trace_api" => ("trace_limit", value.clone()),
                "throttle_unauthenticated_api" => {
                    let mut limit = value.clone();
                    limit["unauthenticated_only"] = json!(true);
                    ("host_limit", limit)
                }
                same => (same, value.clone()),
            };
            self.set_one(name, value)?;
        }
        Ok(())
    }

    fn set_one(&mut self, name: &str, value: Value) -> Result<(), String> {
        self.gitlab.set(Map::from_iter([(name.to_owned(), value)]))
    }

    /// A group or a project with a registration token, which stands in `${group.registration_token}` or
    /// `${project.registration_token}`.
    fn change_owner(&mut self, step: &Value) -> Result<(), String> {
        if let Some(enabled) = step.get("shared_runners") {
            self.set_one("instance_runners_enabled", enabled.clone())?;
            return self.step(&json!({ "op": "queue" }));
        }
        let (name, kind) = if step["op"] == "group" { ("group", "group_type") } else { ("project", "project_type") };
        let token = format!("GR1348941{name}");
        self.variables.insert(format!("{name}.registration_token"), json!(token));
        self.gitlab.add_registration_token(&json!({ "token": token, "runner_type": kind }))?;
        for _ in 0..step["runners"].as_u64().or(step["stale_runners"].as_u64()).unwrap_or(0) {
            self.call(&json!({ "method": "POST", "path": "/runners", "json": { "token": token } }), 201)?;
        }
        if step.get("stale_runners").is_some() {
            self.gitlab.pass(STALE)?;
        }
        self.gitlab.add_registration_token(&json!({
            "token": token,
            "runner_type": kind,
            "allowed": step["may_register"].as_bool().unwrap_or(true),
            "tokens_enabled": step["group_allows_tokens"].as_bool().unwrap_or(true),
            "runner_limit": step["runner_limit"],
        }))
    }

    /// A user, who has `${access_token}` and `${user.token}`. Where the step names a type, the runner is of this type, and
    /// `${access_token}` stays that of an administrator.
    fn add_user(&mut self, step: &Value) -> Result<(), String> {
        let role = match step["role"].as_str().ok_or("no role")? {
            "plain user" => "stranger",
            "admin" => "administrator",
            // GitLab tells them apart, but not in what concerns runners.
            "reporter" | "planner" => "guest",
            same => same,
        };
        self.role = Some(role.to_owned());
        self.variables.insert("user.token".to_owned(), json!("glpat-user"));
        self.gitlab.add_user("glpat-user", role, &["api"])?;
        let Some(kind) = step["runner_type"].as_str() else {
            return self.gitlab.add_user(ACCESS_TOKEN, role, &["api"]);
        };
        let kind = kind.strip_suffix("_type").unwrap_or(kind);
        self.gitlab.set_runner_type(self.number("runner.id")?, &format!("{kind}_type"))
    }

    fn add_runner(&mut self, step: &Value) -> Result<(), String> {
        let name = step["as"].as_str().unwrap_or("runner").to_owned();
        let mut body = step["attributes"].as_object().cloned().unwrap_or_default();
        let request = if step["via"] == "register" {
            body.insert("token".to_owned(), json!("${registration_token}"));
            json!({ "method": "POST", "path": "/runners", "json": body })
        } else {
            body.entry("runner_type").or_insert(json!("instance_type"));
            body.entry("group_id").or_insert(json!(1));
            body.entry("project_id").or_insert(json!(1));
            let headers = json!({ "PRIVATE-TOKEN": "${access_token}" });
            json!({ "method": "POST", "path": "/user/runners", "headers": headers, "json": body })
        };
        let made = json_of(&self.call(&request, 201)?).ok_or("no JSON")?;
        self.remember_runner(&name, &made);
        Ok(())
    }

    fn queue(&mut self, name: &str, step: &Value) -> Result<(), String> {
        let mut job = step["job"].as_object().cloned().unwrap_or_default();
        if let Some(tags) = step.get("tags") {
            job.insert("tags".to_owned(), tags.clone());
        }
        let pipeline = step["pipeline"].as_object().cloned().unwrap_or_default();
        for (what, value) in &pipeline {
            self.add_pipeline(&mut job, what, value, &pipeline)?;
        }
        let (id, token) = self.gitlab.queue(job.into())?;
        if let Some(seconds) = pipeline.get("queued_seconds_ago").and_then(Value::as_u64) {
            self.gitlab.pass(Duration::from_secs(seconds))?;
        }
        self.variables.insert(format!("{name}.id"), id.into());
        self.variables.insert(format!("{name}.token"), token.into());
        Ok(())
    }

    /// Puts the job into a pipeline of this kind.
    fn add_pipeline(
        &mut self,
        job: &mut Map<String, Value>,
        what: &str,
        value: &Value,
        pipeline: &Map<String, Value>,
    ) -> Result<(), String> {
        let (member, value) = match what {
            "tag" => ("git_tag", json!("v1.0")),
            "branch" => ("branch", json!("main")),
            // GitLab's test makes a pipeline whose ref is the source branch.
            "merge_request" => ("branch", json!("feature")),
            "depth" | "registry" => (what, value.clone()),
            "project_timeout" => ("timeout", value.clone()),
            "triggered" => {
                let variables = json!({ "SECRET_KEY": "secret_value", "TRIGGER_KEY_1": "TRIGGER_VALUE_1" });
                ("trigger_variables", variables)
            }
            "earlier" => {
                let named = pipeline.get("dependencies");
                let mut dependencies = Vec::new();
                for name in list(value) {
                    self.step(&json!({ "op": "running", "as": "earlier", "job": { "name": name } }))?;
                    self.step(&json!({ "op": "finish", "job": "earlier" }))?;
                    if named.is_none_or(|named| list(named).contains(name)) {
                        dependencies.push(json!(self.number("earlier.id")?));
                    }
                }
                ("dependencies", dependencies.into())
            }
            "running_on_instance_runners" => {
                for _ in 0..value.as_u64().unwrap_or_default() {
                    self.step(&json!({ "op": "running", "as": "earlier" }))?;
                }
                return Ok(());
            }
            "bucket" => return self.set_one("running_jobs_bucket", value.clone()),
            "dependencies" | "queued_seconds_ago" => return Ok(()),
            other => return Err(format!("nothing here makes a pipeline with {other}")),
        };
        job.insert(member.to_owned(), value);
        Ok(())
    }

    fn remember_runner(&mut self, name: &str, made: &Value) {
        for member in ["id", "token"] {
            self.variables.insert(format!("{name}.{member}"), made[member].clone());
        }
    }

    /// A request that is needed for the state. It must have this status.
    fn call(&mut self, request: &Value, status: u64) -> Result<Response<Bytes>, String> {
        let response = self.send(request, &[])?;
        check("its status", &status.into(), Some(&json!(response.status().as_u16())))?;
        Ok(response)
    }

    /// Sends a request as often as it says. The last answer counts. A held request is answered after the steps of
    /// `meanwhile`, when its wait ends.
    fn send(&mut self, request: &Value, meanwhile: &[Value]) -> Result<Response<Bytes>, String> {
        let mut request = self.resolve(request)?;
        if let Some(query) = self.signs
            && let Some(path) = request["path"].as_str().filter(|path| path.ends_with("/authorize"))
        {
            request["path"] = json!(format!("{path}{query}"));
            request["headers"]["Gitlab-Workhorse-Api-Request"] = json!(SIGNATURE);
        }
        let times = request["times"].as_u64().unwrap_or(1);
        let mut last = None;
        for _ in 0..times {
            last = Some(match self.gitlab.submit(encode(&request)?)? {
                Sent::Answered(response) => response,
                Sent::Held => {
                    for step in meanwhile {
                        self.step(step)?;
                    }
                    self.gitlab.wait()?
                }
            });
        }
        let response = last.ok_or("it is not sent at all")?;
        let makes_runner = ["/runners", "/user/runners"].iter().any(|path| request["path"] == *path);
        if makes_runner && response.status() == 201 {
            let made = json_of(&response).ok_or("no JSON")?;
            self.remember_runner("made", &made);
        }
        Ok(response)
    }

    fn check(&mut self, place: &str, expected: &Value, response: &Response<Bytes>) -> Result<(), String> {
        let expected = self.resolve(expected)?;
        let body = String::from_utf8_lossy(response.body()).into_owned();
        let inside = |why: String| format!("{why} (the body is {body:.300})");
        if let Some(status) = expected.get("status") {
            let actual = json!(response.status().as_u16());
            check(&format!("{place}: the status"), status, Some(&actual)).map_err(inside)?;
        }
        for (name, expected) in expected["headers"].as_object().into_iter().flatten() {
            check(&format!("{place}: {name}"), expected, header_of(response, name).as_ref())?;
        }
        if let Some(text) = expected.get("body") {
            check(&format!("{place}: the body"), text, Some(&json!(body)))?;
        }
        if let Some(value) = expected.get("json") {
            check(&format!("{place}: the body"), value, json_of(response).as_ref())?;
        }
        for fact in list(&expected["stored"]) {
            let what = fact["what"].as_str().unwrap_or_default();
            let actual = self.stored(fact)?.filter(|value| !value.is_null());
            // A fact that is null is absent.
            let actual = if fact["is"].is_null() { Some(actual.unwrap_or_default()) } else { actual };
            check(&format!("{place}: stored {what}"), &fact["is"], actual.as_ref())?;
        }
        Ok(())
    }

    /// A stored fact, `None` if it is absent.
    fn stored(&mut self, fact: &Value) -> Result<Option<Value>, String> {
        let what = fact["what"].as_str().unwrap_or_default();
        let (subject, attribute) = what.split_once('.').ok_or("no fact")?;
        let text = |bytes: Bytes| json!(String::from_utf8_lossy(&bytes));
        if subject == "job" || subject == "artifact" {
            let id = self.number(&format!("{}.id", fact["job"].as_str().unwrap_or("job")))?;
            if subject == "artifact" {
                return Ok(self.gitlab.artifact(id, attribute)?.map(text));
            }
            let member = match attribute {
                "trace" => return self.gitlab.trace(id).map(text).map(Some),
                "checksum" => "reported_checksum",
                "bytesize" => "reported_bytesize",
                same => same,
            };
            let job = self.gitlab.job(id)?;
            let value = job.get(member).ok_or_else(|| format!("jobs have no {attribute} here"))?;
            return if member.ends_with("_at") { time(value) } else { Ok(Some(value.clone())) };
        }
        if what == "runners.count" {
            return self.gitlab.count_runners().map(|count| Some(json!(count)));
        }
        let runner = self.number(&format!("{}.id", fact["runner"].as_str().unwrap_or("runner")))?;
        let runner = self.gitlab.runner(runner)?;
        let manager = |told: &Value| told["managers"][fact["system_id"].as_str().unwrap_or_default()].clone();
        let known = |value: Value| Some(value).filter(|value| !value.is_null());
        Ok(match (subject, attribute) {
            ("runner", "exists") => Some(json!(runner.is_some())),
            ("runner", "token") => runner.and_then(|told| told.get("token").cloned()),
            ("runner", "managers") => {
                let managers = runner.and_then(|told| told["managers"].as_object().cloned());
                Some(managers.unwrap_or_default().keys().cloned().collect())
            }
            ("runner", name) => runner.and_then(|told| told["attributes"].get(name).cloned()),
            ("manager", "contacted_at") => {
                return runner.map_or(Ok(None), |told| time(&manager(&told)["contacted_at"]));
            }
            ("manager", told_by_it) => runner.and_then(|told| known(manager(&told)["info"][told_by_it].clone())),
            _ => return Err(format!("there is no {what} here")),
        })
    }

    fn number(&self, variable: &str) -> Result<u64, String> {
        let value = self.variables.get(variable).and_then(Value::as_u64);
        value.ok_or_else(|| format!("{variable} is no number"))
    }

    /// The value with variables put in. A text that is one variable keeps the type of its value.
    fn resolve(&mut self, value: &Value) -> Result<Value, String> {
        Ok(match value {
            Value::String(text) => self.resolve_text(text)?,
            Value::Array(items) => items.iter().map(|item| self.resolve(item)).collect::<Result<_, _>>()?,
            Value::Object(members) => {
                // Nested requests and expectations are resolved when they are used: what they name may not exist yet.
                let later = |name: &str| name == "request";
                let resolved = members.iter().map(|(name, value)| {
                    let value = if later(name) { value.clone() } else { self.resolve(value)? };
                    Ok::<_, String>((name.clone(), value))
                });
                Value::Object(resolved.collect::<Result<Map<_, _>, _>>()?)
            }
            other => other.clone(),
        })
    }

    fn resolve_text(&mut self, text: &str) -> Result<Value, String> {
        let mut resolved = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            if let Some(before) = before.strip_suffix('$') {
                resolved.push_str(before);
                resolved.push_str("${");
                rest = after;
                continue;
            }
            let (name, after) = after.split_once('}').ok_or("an unfinished variable")?;
            let value = match name {
                "http_date_now" => {
                    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(self.gitlab.now()?);
                    json!(httpdate::fmt_http_date(now))
                }
                _ => self.variables.get(name).cloned().ok_or_else(|| format!("there is no variable {name}"))?,
            };
            if before.is_empty() && after.is_empty() && resolved.is_empty() {
                return Ok(value);
            }
            resolved.push_str(before);
            resolved.push_str(&plain(&value));
            rest = after;
        }
        resolved.push_str(rest);
        Ok(Value::String(resolved))
    }
}

/// A time in milliseconds, from one in seconds. `None` if it is null.
fn time(seconds: &Value) -> Result<Option<Value>, String> {
    seconds.as_f64().map(|seconds| millis(seconds).map(Value::from)).transpose()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The features as a runner announces them.
fn features(names: &Value) -> Map<String, Value> {
    list(names).iter().filter_map(Value::as_str).map(|name| (name.to_owned(), json!(true))).collect()
}

fn header_of(response: &Response<Bytes>, name: &str) -> Option<Value> {
    response.headers().get(name).and_then(|value| value.to_str().ok()).map(Value::from)
}

fn json_of(response: &Response<Bytes>) -> Option<Value> {
    serde_json::from_slice(response.body()).ok()
}
