//! A simulated GitLab in the state that a vector describes.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use gitlab_runner_api::Timestamp;
use gitlab_runner_api_testkit::{Answer, Coordinator, HostLimit, NewJob, Registration, Role, RunnerType, Settings};
use http::{Request, Response};
use serde_json::{Map, Value, json};

use crate::expect::check;

/// Where the clock stands at first. Rate limits begin a new window here, and vectors mention this time.
const START: u64 = 1_700_000_040_000;
/// A log that is not migrated stays in live storage for so long.
const UNMIGRATED: Duration = Duration::from_secs(100);
/// What is locked stays locked for so long.
const LOCKED: Duration = Duration::from_secs(3600);
/// Nothing was heard of a runner for so long that it is stale.
const STALE: Duration = Duration::from_secs(120 * 24 * 3600);
const BOUNDARY: &str = "vector-boundary";

/// A simulated GitLab, a clock, and the variables of a vector.
pub(crate) struct Lab {
    gitlab: Coordinator,
    now: Timestamp,
    variables: BTreeMap<String, Value>,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let mut gitlab = Coordinator::new(Settings::default());
        gitlab.set_registration_token("GR1348941spec");
        gitlab.set_access_token("glpat-spec");
        let runner = gitlab.add_runner("glrt-spec");
        let variables = [
            ("runner.id", json!(runner)),
            ("runner.token", json!("glrt-spec")),
            ("registration_token", json!("GR1348941spec")),
            ("access_token", json!("glpat-spec")),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value)).into();
        Self { gitlab, now: Timestamp::from_millis(START), variables }
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
        let meanwhile = list(&vector["meanwhile"]).to_vec();
        let response = self.send(&vector["request"], &meanwhile)?;
        self.check("answer", &vector["expect"], &response)?;
        for (number, next) in list(&vector["then"]).iter().enumerate() {
            let response = self.send(&next["request"], &[])?;
            self.check(&format!("answer {}", number + 2), &next["expect"], &response)?;
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
            "cancel" => self.gitlab.cancel(self.now, self.number("job.id")?),
            "erase" => self.gitlab.erase(self.number("job.id")?),
            "delete_project" => self.gitlab.delete_project(self.number("job.id")?),
            "watch" => self.gitlab.watch(self.number("job.id")?, true),
            "lose_live_log" => self.gitlab.forget_trace_tail(self.number("job.id")?, 0),
            "lock_log" => self.gitlab.lock_trace(self.number("job.id")?, self.now.saturating_add(LOCKED)),
            "lock_job" => self.gitlab.lock_job(self.number("job.id")?, self.now.saturating_add(LOCKED)),
            "project" | "group" => self.change_owner(&step)?,
            "user" => self.add_user(&step)?,
            "access_token_scope" => {
                let scope = step["scope"].as_str().ok_or("no scope")?;
                self.gitlab.add_user("glpat-spec", Role::Administrator, [scope]);
            }
            "orphaned_runner" => {
                let runner = self.number("runner.id")?;
                self.gitlab.set_runner_type(runner, runner_type(&step["runner_type"])?);
                self.gitlab.orphan_runner(runner);
            }
            "gitaly_fails" => self.gitlab.settings_mut().gitaly_failures = 1,
            // A request below names a job that no step makes: these steps include one that runs.
            "artifact_limit_of" => {
                self.gitlab.settings_mut().artifact_size_limit = 1000;
                self.step(&json!({ "op": "running" }))?;
            }
            "artifacts_disabled" => {
                self.gitlab.settings_mut().artifacts_enabled = false;
                self.step(&json!({ "op": "running" }))?;
            }
            "dotenv_limits" => {
                let count = step["variables"].as_u64().and_then(|count| usize::try_from(count).ok());
                self.gitlab.settings_mut().dotenv_variable_limit = count.ok_or("no number of variables")?;
                self.step(&json!({ "op": "running" }))?;
            }
            "remote_storage" if step.get("missing").is_none() => {
                self.gitlab.settings_mut().object_storage = Some("https://storage.example.test".to_owned());
                self.step(&json!({ "op": "running" }))?;
                self.step(&json!({ "op": "upload", "text": "PK" }))?;
            }
            "pause" => self.gitlab.pause_runner(self.number("runner.id")?),
            "pass_time" => {
                let seconds = step["seconds"].as_u64().ok_or("no seconds")?;
                self.now = self.now.saturating_add(Duration::from_secs(seconds));
            }
            "clock" => {
                let seconds = step["unix"].as_u64().ok_or("no time")?;
                self.now = Timestamp::from_millis(seconds * 1000);
            }
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

    fn set(&mut self, step: &Value) -> Result<(), String> {
        let members = step.as_object().into_iter().flatten().filter(|(name, _)| *name != "op");
        let settings = self.gitlab.settings_mut();
        for (name, value) in members {
            let text = value.as_str().map(str::to_owned);
            let flag = value.as_bool().unwrap_or_default();
            let number = value.as_u64().unwrap_or_default();
            let count = u32::try_from(number).map_err(|_| "too large")?;
            match name.as_str() {
                "migration_backoff" => settings.migration_backoff = flag,
                "registration_tokens_allowed" => settings.registration_allowed = flag,
                "may_create_runners" => settings.creation_allowed = flag,
                "runner_token_expires_at" => settings.token_expires_at = text,
                "live_trace" => {
                    let delay = if text.as_deref() == Some("unmigrated") { UNMIGRATED } else { Duration::ZERO };
                    settings.archive_delay = Some(delay);
                }
                "trace_size_limit" => settings.trace_size_limit = Some(number),
                "max_artifact_bytes" => settings.artifact_size_limit = number,
                "linked_environment_key" => settings.runtime_environment_key = text,
                "job_router_url" => settings.router_url = text,
                "two_phase_commit" => settings.two_phase_commit = flag,
                "long_poll_seconds" => settings.long_poll = Some(Duration::from_secs(number)),
                "limit_runner_jobs_request_api" => settings.job_request_limit = count,
                "limit_runner_jobs_api" => settings.job_limit = count,
                "limit_runner_jobs_patch_trace_api" => settings.trace_limit = count,
                "throttle_unauthenticated_api" => {
                    let requests = value["requests"].as_u64().and_then(|count| u32::try_from(count).ok());
                    let period = Duration::from_secs(value["period"].as_u64().ok_or("no period")?);
                    settings.host_limit =
                        Some(HostLimit::unauthenticated(requests.ok_or("no number of requests")?, period));
                }
                "job_request_conflicts" => settings.job_request_conflicts = count,
                other => return Err(format!("there is no setting {other}")),
            }
        }
        Ok(())
    }

    /// A group or a project with a registration token, which stands in `${group.registration_token}` or
    /// `${project.registration_token}`.
    fn change_owner(&mut self, step: &Value) -> Result<(), String> {
        if let Some(enabled) = step["shared_runners"].as_bool() {
            self.gitlab.settings_mut().instance_runners_enabled = enabled;
            return self.step(&json!({ "op": "queue" }));
        }
        let (name, kind) =
            if step["op"] == "group" { ("group", RunnerType::Group) } else { ("project", RunnerType::Project) };
        let token = format!("GR1348941{name}");
        self.variables.insert(format!("{name}.registration_token"), json!(token));
        self.gitlab.add_registration_token(&token, Registration::new(kind));
        for _ in 0..step["runners"].as_u64().or(step["stale_runners"].as_u64()).unwrap_or(0) {
            self.call(&json!({ "method": "POST", "path": "/runners", "json": { "token": token } }), 201)?;
        }
        if step.get("stale_runners").is_some() {
            self.now = self.now.saturating_add(STALE);
        }
        let registration = Registration::new(kind).with(|registration| {
            registration.allowed = step["may_register"].as_bool().unwrap_or(true);
            registration.tokens_enabled = step["group_allows_tokens"].as_bool().unwrap_or(true);
            registration.runner_limit = step["runner_limit"].as_u64().and_then(|limit| usize::try_from(limit).ok());
        });
        self.gitlab.add_registration_token(&token, registration);
        Ok(())
    }

    /// A user, who has `${access_token}`, and `${user.token}` where the step names a runner.
    fn add_user(&mut self, step: &Value) -> Result<(), String> {
        let role = match step["role"].as_str().unwrap_or_default() {
            "plain user" | "stranger" => Role::Stranger,
            "guest" => Role::Guest,
            "developer" => Role::Developer,
            "maintainer" => Role::Maintainer,
            other => return Err(format!("there is no role {other}")),
        };
        let Some(kind) = step["runner_type"].as_str() else {
            self.gitlab.add_user("glpat-spec", role, ["api"]);
            return Ok(());
        };
        self.gitlab.set_runner_type(self.number("runner.id")?, runner_type(&json!(format!("{kind}_type")))?);
        self.gitlab.add_user("glpat-user", role, ["api"]);
        self.variables.insert("user.token".to_owned(), json!("glpat-user"));
        Ok(())
    }

    fn add_runner(&mut self, step: &Value) -> Result<(), String> {
        let name = step["as"].as_str().unwrap_or("runner").to_owned();
        let mut body = step["attributes"].as_object().cloned().unwrap_or_default();
        let request = if step["via"] == "register" {
            body.insert("token".to_owned(), json!("${registration_token}"));
            json!({ "method": "POST", "path": "/runners", "json": body })
        } else {
            body.insert("runner_type".to_owned(), json!("instance_type"));
            let headers = json!({ "PRIVATE-TOKEN": "${access_token}" });
            json!({ "method": "POST", "path": "/user/runners", "headers": headers, "json": body })
        };
        let made = json_of(&self.call(&request, 201)?).ok_or("no JSON")?;
        self.remember_runner(&name, &made);
        Ok(())
    }

    fn queue(&mut self, name: &str, step: &Value) -> Result<(), String> {
        let mut job = NewJob::new(step["job"]["name"].as_str().unwrap_or("test"));
        for (member, value) in step["job"].as_object().into_iter().flatten() {
            let lines = || list(value).iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
            job = match member.as_str() {
                "name" => job,
                "script" => job.with_script(lines()),
                "after_script" => job.with_after_script(lines()),
                "variables" => value
                    .as_object()
                    .into_iter()
                    .flatten()
                    .fold(job, |job, (key, value)| job.with_variable(key, value.as_str().unwrap_or_default())),
                "timeout" => job.with_timeout(Duration::from_secs(value.as_u64().ok_or("no seconds")?)),
                "runner" => job.with_runner(value.as_u64().ok_or("no number")?),
                other => job.with_member(other, value.clone()),
            };
        }
        for tag in list(&step["tags"]).iter().filter_map(Value::as_str) {
            job = job.with_tag(tag);
        }
        for (what, value) in step["pipeline"].as_object().into_iter().flatten() {
            job = self.in_pipeline(job, what, value, &step["pipeline"])?;
        }
        let id = self.gitlab.queue(self.now, job);
        if let Some(seconds) = step["pipeline"]["queued_seconds_ago"].as_u64() {
            self.now = self.now.saturating_add(Duration::from_secs(seconds));
        }
        let token = self.gitlab.job(id).map(|job| job.token().to_owned());
        self.variables.insert(format!("{name}.id"), id.into());
        self.variables.insert(format!("{name}.token"), token.into());
        Ok(())
    }

    /// The job in a pipeline of this kind.
    fn in_pipeline(&mut self, job: NewJob, what: &str, value: &Value, pipeline: &Value) -> Result<NewJob, String> {
        let number = value.as_u64().unwrap_or_default();
        Ok(match what {
            "tag" => job.with_git_tag("v1.0"),
            "branch" => job.with_branch("main"),
            // GitLab's test makes a pipeline whose ref is the source branch.
            "merge_request" => job.with_branch("feature"),
            "depth" => job.with_depth(u32::try_from(number).map_err(|_| "too deep")?),
            "registry" => job.with_registry(value.as_bool().unwrap_or_default()),
            "project_timeout" => job.with_timeout(Duration::from_secs(number)),
            "triggered" => job
                .with_trigger_variable("SECRET_KEY", "secret_value")
                .with_trigger_variable("TRIGGER_KEY_1", "TRIGGER_VALUE_1"),
            "earlier" => {
                let mut job = job;
                let named = pipeline.get("dependencies");
                for name in list(value) {
                    self.step(&json!({ "op": "running", "as": "earlier", "job": { "name": name } }))?;
                    self.step(&json!({ "op": "finish", "job": "earlier" }))?;
                    if named.is_none_or(|named| list(named).contains(name)) {
                        job = job.with_dependency(self.number("earlier.id")?);
                    }
                }
                job
            }
            "running_on_instance_runners" => {
                for _ in 0..number {
                    self.step(&json!({ "op": "running", "as": "earlier" }))?;
                }
                job
            }
            "bucket" => {
                let bucket = usize::try_from(number).map_err(|_| "too large")?;
                self.gitlab.settings_mut().running_jobs_bucket = bucket;
                job
            }
            "dependencies" | "queued_seconds_ago" => job,
            other => return Err(format!("nothing here makes a pipeline with {other}")),
        })
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
        let request = self.resolve(request)?;
        let times = request["times"].as_u64().unwrap_or(1);
        let mut last = None;
        for _ in 0..times {
            last = Some(match self.gitlab.submit(self.now, encode(&request)?) {
                Answer::Now(response) => response,
                Answer::Held(_) => {
                    for step in meanwhile {
                        self.step(step)?;
                    }
                    self.wait()?
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

    /// Waits until the held request is answered.
    fn wait(&mut self) -> Result<Response<Bytes>, String> {
        for _ in 0..10 {
            if let Some((_, response)) = self.gitlab.poll(self.now) {
                return Ok(response);
            }
            self.now = self.gitlab.deadline().ok_or("it is held for ever")?;
        }
        Err("it is held for ever".to_owned())
    }

    fn check(&self, place: &str, expected: &Value, response: &Response<Bytes>) -> Result<(), String> {
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
            check(&format!("{place}: stored {what}"), &fact["is"], self.stored(fact)?.as_ref())?;
        }
        Ok(())
    }

    /// A stored fact, `None` if it is absent.
    fn stored(&self, fact: &Value) -> Result<Option<Value>, String> {
        let what = fact["what"].as_str().unwrap_or_default();
        let (subject, attribute) = what.split_once('.').ok_or("no fact")?;
        let system_id = fact["system_id"].as_str().unwrap_or_default();
        let runner = self.number(&format!("{}.id", fact["runner"].as_str().unwrap_or("runner")));
        let millis = |time: Option<Timestamp>| time.map(|time| json!(time.as_millis()));
        if subject == "job" || subject == "artifact" {
            let id = self.number(&format!("{}.id", fact["job"].as_str().unwrap_or("job")))?;
            let job = self.gitlab.job(id).ok_or("no such job")?;
            if subject == "artifact" {
                let file = job.artifact(attribute);
                let content = file.and_then(|file| file.content.to_bytes().ok());
                return Ok(content.map(|content| json!(String::from_utf8_lossy(&content))));
            }
            return Ok(match attribute {
                "status" => Some(json!(job.status().as_str())),
                "failure_reason" => Some(json!(job.failure_reason())),
                "exit_code" => Some(json!(job.exit_code())),
                "trace" => Some(json!(String::from_utf8_lossy(job.trace()))),
                "checksum" => Some(json!(job.reported_checksum())),
                "bytesize" => Some(json!(job.reported_bytesize())),
                "debug_trace" => Some(json!(job.debug_trace())),
                "updated_at" => millis(Some(job.updated_at())),
                "started_at" => millis(job.started_at()),
                "runner" => Some(json!(job.runner())),
                "system_id" => Some(json!(job.system_id())),
                other => return Err(format!("jobs have no {other} here")),
            });
        }
        Ok(match (subject, attribute) {
            ("runners", "count") => Some(json!(self.gitlab.runners().count())),
            ("runner", "exists") => Some(json!(self.gitlab.runner_token(runner?).is_some())),
            ("runner", "token") => self.gitlab.runner_token(runner?).map(Value::from),
            ("runner", "managers") => Some(self.gitlab.managers(runner?).collect()),
            ("runner", name) => self.gitlab.runner_attributes(runner?).and_then(|known| known.get(name)).cloned(),
            ("manager", "version" | "revision") => {
                self.gitlab.manager_info(runner?, system_id).and_then(|info| info.get(attribute)).cloned()
            }
            ("manager", "contacted_at") => millis(self.gitlab.manager_contacted_at(runner?, system_id)),
            _ => return Err(format!("there is no {what} here")),
        })
    }

    fn number(&self, variable: &str) -> Result<u64, String> {
        let value = self.variables.get(variable).and_then(Value::as_u64);
        value.ok_or_else(|| format!("{variable} is no number"))
    }

    /// The value with variables put in. A text that is one variable keeps the type of its value.
    fn resolve(&self, value: &Value) -> Result<Value, String> {
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

    fn resolve_text(&self, text: &str) -> Result<Value, String> {
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
                    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(self.now.as_millis());
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

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn runner_type(name: &Value) -> Result<RunnerType, String> {
    let all = [RunnerType::Instance, RunnerType::Group, RunnerType::Project];
    let found = all.into_iter().find(|kind| *name == kind.as_str());
    found.ok_or_else(|| format!("there is no runner of type {name}"))
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

/// A scalar as Rails' test suite writes it into a form or a query.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The request as HTTP.
fn encode(request: &Value) -> Result<Request<Bytes>, String> {
    let method = request["method"].as_str().ok_or("no method")?;
    let path = request["path"].as_str().ok_or("no path")?;
    let mut query = Vec::new();
    pairs(None, &request["query"], &mut query);
    let mark = if query.is_empty() { "" } else { "?" };
    let mut built = Request::builder()
        .method(method)
        .uri(format!("https://gitlab.example.test/api/v4{path}{mark}{}", query.join("&")));
    let headers = request["headers"].as_object().cloned().unwrap_or_default();
    let (kind, body) = body(request)?;
    if let Some(kind) = kind
        && !headers.keys().any(|name| name.eq_ignore_ascii_case("content-type"))
    {
        built = built.header("content-type", kind);
    }
    for (name, value) in &headers {
        built = built.header(name, plain(value));
    }
    built.body(body).map_err(|error| error.to_string())
}

/// The media type and the bytes of the body.
fn body(request: &Value) -> Result<(Option<String>, Bytes), String> {
    if let Some(json) = request.get("json") {
        return Ok((Some("application/json".to_owned()), json.to_string().into()));
    }
    if let Some(form) = request.get("form") {
        let mut fields = Vec::new();
        pairs(None, form, &mut fields);
        return Ok((Some("application/x-www-form-urlencoded".to_owned()), fields.join("&").into()));
    }
    if let Some(parts) = request.get("multipart") {
        let mut whole = Vec::new();
        for part in list(parts) {
            let name = part["name"].as_str().ok_or("a part has a name")?;
            let file_name = part["filename"].as_str().map(|name| format!("; filename=\"{name}\"")).unwrap_or_default();
            let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{file_name}\r\n\r\n");
            whole.extend_from_slice(head.as_bytes());
            whole.extend_from_slice(&content(part)?);
            whole.extend_from_slice(b"\r\n");
        }
        whole.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
        return Ok((Some(format!("multipart/form-data; boundary={BOUNDARY}")), whole.into()));
    }
    match request.get("text") {
        Some(Value::String(text)) => Ok((Some("text/plain".to_owned()), text.clone().into())),
        Some(size) => Ok((Some("text/plain".to_owned()), content(size)?.into())),
        None => Ok((None, Bytes::new())),
    }
}

/// The bytes of a part: a text, a text to be compressed, or so many of one letter.
fn content(part: &Value) -> Result<Vec<u8>, String> {
    if let Some(text) = part["text"].as_str() {
        return Ok(text.as_bytes().to_vec());
    }
    if let Some(text) = part["gzip"].as_str() {
        return Ok(gzip(text.as_bytes()));
    }
    let size = part["size"].as_u64().and_then(|size| usize::try_from(size).ok());
    Ok(vec![b'x'; size.ok_or("a part has no content")?])
}

/// Name and value of each scalar, nested as Rails writes it: `a[b]=1&c[]=2`.
fn pairs(name: Option<&str>, value: &Value, out: &mut Vec<String>) {
    match (value, name) {
        (Value::Object(members), _) => {
            for (member, value) in members {
                let nested = name.map_or_else(|| member.clone(), |name| format!("{name}[{member}]"));
                pairs(Some(&nested), value, out);
            }
        }
        (Value::Array(items), Some(name)) => {
            for item in items {
                pairs(Some(&format!("{name}[]")), item, out);
            }
        }
        (Value::Null, _) | (_, None) => {}
        (scalar, Some(name)) => out.push(format!("{}={}", escape(name), escape(&plain(scalar)))),
    }
}

fn escape(text: &str) -> String {
    let escaped = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escaped).collect()
}

/// Compressed in one block that stores the bytes as they are.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("vectors are small");
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    file.extend_from_slice(&length.to_le_bytes());
    file.extend_from_slice(&(!length).to_le_bytes());
    file.extend_from_slice(bytes);
    file.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
    file.extend_from_slice(&u32::from(length).to_le_bytes());
    file
}
