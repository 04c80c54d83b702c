//! The API to steer the simulation.

use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::Timestamp;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::faults::{Faults, InvalidFault};
use super::settings;
use crate::coordinator::{Coordinator, Endpoint, JobRecord, NewJob, RequestRecord};

/// Why not, with the status.
type Refusal = (StatusCode, String);

/// Answers a request to steer the simulation. The second part is the time that the request lets pass.
pub(super) fn answer(
    gitlab: &mut Coordinator,
    faults: &mut Faults,
    now: Timestamp,
    request: &Request<Bytes>,
    path: &str,
) -> (Response<Bytes>, Option<Duration>) {
    let segments: Vec<&str> = path.split('/').collect();
    let found = match segments[..] {
        ["time"] => time(now, request),
        ["jobs", ..] => jobs(gitlab, now, request, &segments[1..]).map(|response| (response, None)),
        ["runners", ..] => runners(gitlab, now, request, &segments[1..]).map(|response| (response, None)),
        _ => instance(gitlab, faults, request, &segments).map(|response| (response, None)),
    };
    found.unwrap_or_else(|(status, why)| (told(status, &json!({ "error": why })), None))
}

fn unknown(request: &Request<Bytes>) -> Refusal {
    (StatusCode::NOT_FOUND, format!("there is no {} {}", request.method(), request.uri().path()))
}

fn bad(why: impl Into<String>) -> Refusal {
    (StatusCode::BAD_REQUEST, why.into())
}

fn instance(
    gitlab: &mut Coordinator,
    faults: &mut Faults,
    request: &Request<Bytes>,
    segments: &[&str],
) -> Result<Response<Bytes>, Refusal> {
    let list = |faults: &Faults| told(StatusCode::OK, &faults.list().iter().map(ToString::to_string).collect());
    match (request.method(), segments) {
        (&Method::GET, ["health"]) => Ok(told(StatusCode::OK, &json!({ "status": "ok" }))),
        (&Method::GET, ["report"]) => Ok(told(StatusCode::OK, &report(gitlab))),
        (&Method::GET, ["settings"]) => Ok(told(StatusCode::OK, &settings::view(gitlab.settings()))),
        (&Method::PATCH, ["settings"]) => {
            let members = members(request.body())?;
            settings::change(gitlab.settings_mut(), &members).map_err(bad)?;
            Ok(told(StatusCode::OK, &settings::view(gitlab.settings())))
        }
        (&Method::GET, ["faults"]) => Ok(list(faults)),
        (&Method::POST, ["faults"]) => {
            let members = members(request.body())?;
            let text = members.get("fault").and_then(Value::as_str).ok_or_else(|| bad("fault is a text"))?;
            faults.add(text.parse().map_err(|error: InvalidFault| bad(error.to_string()))?);
            Ok(list(faults))
        }
        (&Method::DELETE, ["faults"]) => {
            faults.clear();
            Ok(list(faults))
        }
        (&Method::GET, ["requests"]) => Ok(told(StatusCode::OK, &gitlab.requests().map(request_view).collect())),
        (&Method::DELETE, ["requests"]) => {
            gitlab.clear_requests();
            Ok(told(StatusCode::OK, &json!([])))
        }
        _ => Err(unknown(request)),
    }
}

fn time(now: Timestamp, request: &Request<Bytes>) -> Result<(Response<Bytes>, Option<Duration>), Refusal> {
    let seconds = |time: Timestamp| Duration::from_millis(time.as_millis()).as_secs_f64();
    match *request.method() {
        Method::GET => Ok((told(StatusCode::OK, &json!({ "now": seconds(now) })), None)),
        Method::POST => {
            let members = members(request.body())?;
            let by = members.get("advance").and_then(settings::duration);
            let by = by.ok_or_else(|| bad("advance is a number of seconds"))?;
            Ok((told(StatusCode::OK, &json!({ "now": seconds(now.saturating_add(by)) })), Some(by)))
        }
        _ => Err(unknown(request)),
    }
}

fn jobs(
    gitlab: &mut Coordinator,
    now: Timestamp,
    request: &Request<Bytes>,
    segments: &[&str],
) -> Result<Response<Bytes>, Refusal> {
    match (request.method(), segments) {
        (&Method::GET, []) => Ok(told(StatusCode::OK, &gitlab.jobs().map(view).collect())),
        (&Method::POST, []) => queue(gitlab, now, request.body()),
        (&Method::GET, [id]) => record(gitlab, id).map(|job| told(StatusCode::OK, &view(job))),
        (&Method::GET, [id, "token"]) => {
            record(gitlab, id).map(|job| told(StatusCode::OK, &json!({ "token": job.token() })))
        }
        (&Method::GET, [id, "trace"]) => {
            record(gitlab, id).map(|job| raw("text/plain; charset=utf-8", job.trace().to_vec().into()))
        }
        (&Method::GET, [id, "artifacts", kind]) => record(gitlab, id).and_then(|job| {
            let file = job.artifact(kind).map(|file| raw("application/octet-stream", file.content.clone()));
            file.ok_or_else(|| (StatusCode::NOT_FOUND, format!("job {id} left no {kind}")))
        }),
        (&Method::POST, [id, "cancel"]) => cancel(gitlab, now, id, request.body()),
        (&Method::POST, [id, action]) => {
            let number = record(gitlab, id)?.id();
            let members = members(request.body())?;
            let until = || {
                let seconds = members.get("seconds").and_then(settings::duration);
                seconds.map(|seconds| now.saturating_add(seconds)).ok_or_else(|| bad("seconds is a number of seconds"))
            };
            match *action {
                "watch" => match members.get("watched") {
                    None | Some(Value::Bool(true)) => gitlab.watch(number, true),
                    Some(Value::Bool(false)) => gitlab.watch(number, false),
                    Some(_) => return Err(bad("watched is true or false")),
                },
                "erase" => gitlab.erase(number),
                "delete_project" => gitlab.delete_project(number),
                "lock" => gitlab.lock_job(number, until()?),
                "lock_log" => gitlab.lock_trace(number, until()?),
                "lose_log" => {
                    let keep = members.get("keep").map_or(Some(0), Value::as_u64);
                    gitlab.forget_trace_tail(number, keep.ok_or_else(|| bad("keep is a number of bytes"))?);
                }
                _ => return Err(unknown(request)),
            }
            record(gitlab, id).map(|job| told(StatusCode::OK, &view(job)))
        }
        _ => Err(unknown(request)),
    }
}

fn runners(
    gitlab: &mut Coordinator,
    now: Timestamp,
    request: &Request<Bytes>,
    segments: &[&str],
) -> Result<Response<Bytes>, Refusal> {
    let known = |gitlab: &Coordinator, id: &str| {
        let number = id.parse().ok().filter(|number| gitlab.runner_token(*number).is_some());
        number.ok_or_else(|| (StatusCode::NOT_FOUND, format!("there is no runner {id}")))
    };
    match (request.method(), segments) {
        (&Method::GET, []) => {
            let all = gitlab.runners().map(|id| runner_view(gitlab, id)).collect();
            Ok(told(StatusCode::OK, &all))
        }
        (&Method::GET, [id]) => Ok(told(StatusCode::OK, &runner_view(gitlab, known(gitlab, id)?))),
        (&Method::DELETE, [id]) => {
            gitlab.remove_runner(known(gitlab, id)?);
            Ok(told(StatusCode::OK, &json!({})))
        }
        (&Method::DELETE, [id, "managers", system_id]) => {
            let number = known(gitlab, id)?;
            if !gitlab.remove_manager(number, system_id) {
                return Err((StatusCode::NOT_FOUND, format!("runner {id} has no manager {system_id}")));
            }
            Ok(told(StatusCode::OK, &runner_view(gitlab, number)))
        }
        (&Method::POST, [id, action]) => {
            let number = known(gitlab, id)?;
            let members = members(request.body())?;
            match *action {
                "pause" => gitlab.pause_runner(number),
                "unpause" => gitlab.unpause_runner(number),
                "orphan" => gitlab.orphan_runner(number),
                "reset_token" => drop(gitlab.reset_runner_token(number).map(str::to_owned)),
                "expire_token" => {
                    let seconds = members.get("seconds").map_or(Some(Duration::ZERO), settings::duration);
                    let seconds = seconds.ok_or_else(|| bad("seconds is a number of seconds"))?;
                    gitlab.expire_runner_token(number, now.saturating_add(seconds));
                }
                _ => return Err(unknown(request)),
            }
            Ok(told(StatusCode::OK, &runner_view(gitlab, number)))
        }
        _ => Err(unknown(request)),
    }
}

/// The members of a body, which may be empty.
fn members(body: &Bytes) -> Result<Map<String, Value>, Refusal> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    match json_of(body)? {
        Value::Object(members) => Ok(members),
        _ => Err(bad("the body is a JSON object")),
    }
}

fn runner_view(gitlab: &Coordinator, id: u64) -> Value {
    let managers: Map<String, Value> = gitlab
        .managers(id)
        .map(|system_id| (system_id.to_owned(), json!(gitlab.manager_info(id, system_id))))
        .collect();
    json!({
        "id": id,
        "token": gitlab.runner_token(id),
        "attributes": gitlab.runner_attributes(id),
        "managers": managers,
    })
}

fn request_view(record: &RequestRecord) -> Value {
    json!({
        "at": Duration::from_millis(record.at.as_millis()).as_secs_f64(),
        "method": record.method,
        "path": record.path,
        "status": record.status,
        "changes": record.changes,
    })
}

fn told(status: StatusCode, body: &Value) -> Response<Bytes> {
    let mut response = raw("application/json", format!("{body}\n").into());
    *response.status_mut() = status;
    response
}

fn raw(kind: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn record<'a>(gitlab: &'a Coordinator, id: &str) -> Result<&'a JobRecord, Refusal> {
    let job = id.parse().ok().and_then(|id| gitlab.job(id));
    job.ok_or_else(|| (StatusCode::NOT_FOUND, format!("there is no job {id}")))
}

fn json_of(body: &Bytes) -> Result<Value, Refusal> {
    serde_json::from_slice(body).map_err(|error| (StatusCode::BAD_REQUEST, format!("the body is not JSON: {error}")))
}

fn queue(gitlab: &mut Coordinator, now: Timestamp, body: &Bytes) -> Result<Response<Bytes>, Refusal> {
    let job = job(json_of(body)?).map_err(|why| (StatusCode::BAD_REQUEST, why))?;
    if let Some(missing) = gitlab.missing_dependency(&job) {
        return Err((StatusCode::BAD_REQUEST, format!("there is no job {missing} to depend on")));
    }
    let id = gitlab.queue(now, job);
    Ok(told(StatusCode::CREATED, &json!({ "id": id })))
}

fn cancel(gitlab: &mut Coordinator, now: Timestamp, id: &str, body: &Bytes) -> Result<Response<Bytes>, Refusal> {
    let asked = if body.is_empty() { Value::Null } else { json_of(body)? };
    let number = record(gitlab, id)?.id();
    match asked.get("force") {
        Some(Value::Bool(true)) => gitlab.force_cancel(now, number),
        None | Some(Value::Bool(false)) => gitlab.cancel(now, number),
        Some(_) => return Err((StatusCode::BAD_REQUEST, "force is true or false".to_owned())),
    }
    record(gitlab, id).map(|job| told(StatusCode::OK, &view(job)))
}

/// The members of a payload that a short form may give as they are.
const PAYLOAD: &[&str] = &[
    "allow_git_fetch",
    "artifacts",
    "cache",
    "credentials",
    "features",
    "git_info",
    "hooks",
    "image",
    "inputs",
    "policy_options",
    "runner_info",
    "secrets",
    "services",
    "suspend_options",
];

pub(super) fn job(described: Value) -> Result<NewJob, String> {
    let Value::Object(members) = described else { return Err("a job is a JSON object".to_owned()) };
    if ["id", "token", "job_info", "steps", "run"].iter().any(|name| members.contains_key(*name)) {
        return Ok(NewJob::from_payload(Value::Object(members)));
    }
    let mut job = NewJob::new(members.get("name").and_then(Value::as_str).unwrap_or("test"));
    for (name, value) in members {
        job = match name.as_str() {
            "name" => value.as_str().map(|_| job).ok_or("name is a text")?,
            "script" => job.with_script(lines(&name, &value)?),
            "after_script" => job.with_after_script(lines(&name, &value)?),
            "variables" => texts(&name, &value)?.iter().fold(job, |job, (key, value)| job.with_variable(key, value)),
            "masked_variables" => {
                texts(&name, &value)?.iter().fold(job, |job, (key, value)| job.with_masked_variable(key, value))
            }
            "trigger_variables" => {
                texts(&name, &value)?.iter().fold(job, |job, (key, value)| job.with_trigger_variable(key, value))
            }
            "timeout" => job.with_timeout(Duration::from_secs(value.as_u64().ok_or("timeout is a number of seconds")?)),
            "runner" => job.with_runner(value.as_u64().ok_or("runner is the number of a runner")?),
            "requires" => lines(&name, &value)?.iter().fold(job, |job, feature| job.with_required_feature(feature)),
            "tags" => lines(&name, &value)?.iter().fold(job, |job, tag| job.with_tag(tag)),
            "stage" => job.with_stage(value.as_str().ok_or("stage is a text")?),
            "branch" => job.with_branch(value.as_str().ok_or("branch is a text")?),
            "git_tag" => job.with_git_tag(value.as_str().ok_or("git_tag is a text")?),
            "merge_request" => {
                let branch = value["source_branch"].as_str().unwrap_or("feature");
                let iid = value["iid"].as_u64().ok_or("merge_request has an iid and may have a source_branch")?;
                job.with_merge_request(iid, branch)
            }
            "depth" => {
                let depth = value.as_u64().and_then(|depth| u32::try_from(depth).ok());
                job.with_depth(depth.ok_or("depth is a number of commits")?)
            }
            "registry" => job.with_registry(value.as_bool().ok_or("registry is true or false")?),
            "dependencies" => dependencies(job, &value)?,
            known if PAYLOAD.contains(&known) => job.with_member(known, value),
            unknown => return Err(format!("a job has no member {unknown}")),
        };
    }
    Ok(job)
}

/// Adds the jobs that this one depends on, each by its name or number.
fn dependencies(job: NewJob, value: &Value) -> Result<NewJob, String> {
    let wrong = || "dependencies is a list of names or numbers of jobs".to_owned();
    value.as_array().ok_or_else(wrong)?.iter().try_fold(job, |job, one| match one {
        Value::String(name) => Ok(job.with_dependency_named(name)),
        one => Ok(job.with_dependency(one.as_u64().ok_or_else(wrong)?)),
    })
}

fn lines(name: &str, value: &Value) -> Result<Vec<String>, String> {
    let wrong = || format!("{name} is a text or a list of texts");
    match value {
        Value::String(line) => Ok(vec![line.clone()]),
        Value::Array(lines) => lines.iter().map(|line| line.as_str().map(str::to_owned).ok_or_else(wrong)).collect(),
        _ => Err(wrong()),
    }
}

/// An object of texts; numbers and booleans are written out.
fn texts(name: &str, value: &Value) -> Result<Vec<(String, String)>, String> {
    let wrong = || format!("{name} is an object of texts");
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
        _ => Err(wrong()),
    };
    let members = value.as_object().ok_or_else(wrong)?;
    members.iter().map(|(key, value)| Ok((key.clone(), text(value)?))).collect()
}

fn view(job: &JobRecord) -> Value {
    let requests: Map<String, Value> =
        job.all_requests().map(|(endpoint, count)| (endpoint.route().to_owned(), count.into())).collect();
    let artifacts: Vec<Value> = job
        .artifacts()
        .iter()
        .map(|file| {
            json!({
                "type": file.artifact_type,
                "format": file.artifact_format,
                "file_name": file.file_name,
                "bytes": file.content.len(),
            })
        })
        .collect();
    json!({
        "id": job.id(),
        "name": job.name(),
        "status": job.status().as_str(),
        "failure_reason": job.failure_reason(),
        "exit_code": job.exit_code(),
        "runner": job.runner(),
        "trace_bytes": job.trace().len(),
        "trace_crc32": format!("{:08x}", crc32fast::hash(job.trace())),
        "reported_checksum": job.reported_checksum(),
        "reported_bytesize": job.reported_bytesize(),
        "artifacts": artifacts,
        "requests": requests,
        "retry_of": job.retry_of(),
    })
}

pub(super) fn report(gitlab: &Coordinator) -> Value {
    let counts = |counted: &mut dyn Iterator<Item = (Endpoint, u64)>| -> Map<String, Value> {
        counted.map(|(endpoint, count)| (endpoint.route().to_owned(), count.into())).collect()
    };
    let answers: Map<String, Value> =
        gitlab.stats().all_answers().map(|(status, count)| (status.to_string(), count.into())).collect();
    let runners: Vec<Value> = gitlab
        .runners()
        .map(|id| {
            let managers: Vec<&str> = gitlab.managers(id).collect();
            json!({ "id": id, "managers": managers, "attributes": gitlab.runner_attributes(id) })
        })
        .collect();
    json!({
        "jobs": gitlab.jobs().map(view).collect::<Vec<_>>(),
        "runners": runners,
        "requests": counts(&mut gitlab.stats().all_requests()),
        "answers": answers,
    })
}
