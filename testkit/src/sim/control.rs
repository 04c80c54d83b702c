//! The API to steer the simulation.

use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::Timestamp;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::coordinator::{Coordinator, Endpoint, JobRecord, NewJob};

/// Why not, with the status.
type Refusal = (StatusCode, String);

pub(super) fn answer(
    gitlab: &mut Coordinator,
    now: Timestamp,
    request: &Request<Bytes>,
    path: &str,
) -> Response<Bytes> {
    let segments: Vec<&str> = path.split('/').collect();
    let found = match (request.method(), &segments[..]) {
        (&Method::GET, ["report"]) => Ok(told(StatusCode::OK, &report(gitlab))),
        (&Method::GET, ["jobs"]) => Ok(told(StatusCode::OK, &gitlab.jobs().map(view).collect())),
        (&Method::POST, ["jobs"]) => queue(gitlab, now, request.body()),
        (&Method::GET, ["jobs", id]) => record(gitlab, id).map(|job| told(StatusCode::OK, &view(job))),
        (&Method::GET, ["jobs", id, "trace"]) => {
            record(gitlab, id).map(|job| raw("text/plain; charset=utf-8", job.trace().to_vec().into()))
        }
        (&Method::GET, ["jobs", id, "artifacts", kind]) => record(gitlab, id).and_then(|job| {
            let file = job.artifact(kind).map(|file| raw("application/octet-stream", file.content.clone()));
            file.ok_or_else(|| (StatusCode::NOT_FOUND, format!("job {id} left no {kind}")))
        }),
        (&Method::POST, ["jobs", id, "cancel"]) => cancel(gitlab, now, id, request.body()),
        _ => Err((StatusCode::NOT_FOUND, format!("there is no {} /_sim/{path}", request.method()))),
    };
    found.unwrap_or_else(|(status, why)| told(status, &json!({ "error": why })))
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
