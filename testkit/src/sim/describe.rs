//! Jobs as `POST /_sim/jobs` takes them: a payload, or a short form.

use std::time::Duration;

use serde_json::Value;

use crate::coordinator::{Environment, NewJob, Role};

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

/// A job from its description.
///
/// # Errors
///
/// A sentence that says which member is not what it should be.
pub(super) fn job(described: Value) -> Result<NewJob, String> {
    let Value::Object(members) = described else { return Err("a job is a JSON object".to_owned()) };
    if ["id", "token", "job_info", "steps", "run"].iter().any(|name| members.contains_key(*name)) {
        return Ok(NewJob::from_payload(Value::Object(members)));
    }
    let made_for: Vec<&str> =
        ["branch", "git_tag", "merge_request"].into_iter().filter(|it| members.contains_key(*it)).collect();
    if made_for.len() > 1 {
        return Err(format!("a job has one of {}", made_for.join(" and ")));
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
            "merge_request" => merge_request(job, &value)?,
            "depth" => {
                let depth = value.as_u64().and_then(|depth| u32::try_from(depth).ok());
                job.with_depth(depth.ok_or("depth is a number of commits")?)
            }
            "registry" => job.with_registry(value.as_bool().ok_or("registry is true or false")?),
            "dependencies" => dependencies(job, &value)?,
            "allow_failure" => match value {
                Value::Bool(allowed) => {
                    if allowed {
                        job.with_allow_failure()
                    } else {
                        job
                    }
                }
                _ => return Err("allow_failure is true or false".to_owned()),
            },
            "allow_failure_exit_codes" => {
                let wrong = || "allow_failure_exit_codes is a list of whole numbers".to_owned();
                let codes = value.as_array().ok_or_else(wrong)?.iter().map(|code| code.as_i64().ok_or_else(wrong));
                job.with_allowed_exit_codes(codes.collect::<Result<Vec<_>, _>>()?)
            }
            "environment" => job.with_environment(environment(&value)?),
            "system_id" => job.with_system_id(value.as_str().ok_or("system_id is a text")?),
            "user_role" => {
                let roles = || format!("user_role is one of {}", Role::NAMES);
                job.with_user_role(value.as_str().and_then(Role::named).ok_or_else(roles)?)
            }
            known if PAYLOAD.contains(&known) => job.with_member(known, value),
            unknown => return Err(format!("a job has no member {unknown}")),
        };
    }
    Ok(job)
}

/// Adds the jobs that this one depends on, each by its name or number. Objects are passed on as members of the payload.
fn dependencies(job: NewJob, value: &Value) -> Result<NewJob, String> {
    let wrong = || "dependencies is a list of names or numbers of jobs".to_owned();
    let list = value.as_array().ok_or_else(wrong)?;
    if !list.is_empty() && list.iter().all(Value::is_object) {
        return Ok(job.with_member("dependencies", value.clone()));
    }
    list.iter().try_fold(job, |job, one| match one {
        Value::String(name) => Ok(job.with_dependency_named(name)),
        one => Ok(job.with_dependency(one.as_u64().ok_or_else(wrong)?)),
    })
}

fn merge_request(job: NewJob, value: &Value) -> Result<NewJob, String> {
    let wrong = || "merge_request has an iid and may have a source_branch".to_owned();
    let members = value.as_object().ok_or_else(wrong)?;
    if let Some(unknown) = members.keys().find(|name| !["iid", "source_branch"].contains(&name.as_str())) {
        return Err(format!("a merge_request has no member {unknown}"));
    }
    let iid = members.get("iid").and_then(Value::as_u64).ok_or_else(wrong)?;
    let branch = members.get("source_branch").map_or(Some("feature"), Value::as_str).ok_or_else(wrong)?;
    Ok(job.with_merge_request(iid, branch))
}

/// The environment of a job, by its name or with its members.
fn environment(value: &Value) -> Result<Environment, String> {
    let wrong = || "environment is a name, or has a name and perhaps action, tier and url".to_owned();
    if let Some(name) = value.as_str() {
        return Ok(Environment::new(name));
    }
    let members = value.as_object().ok_or_else(wrong)?;
    let mut environment = Environment::new(members.get("name").and_then(Value::as_str).ok_or_else(wrong)?);
    for (name, value) in members {
        let text = value.as_str().ok_or_else(wrong)?.to_owned();
        match name.as_str() {
            "name" => {}
            "action" => environment.action = one_of(name, text, &["start", "prepare", "stop", "verify", "access"])?,
            "tier" => {
                let tiers = ["production", "staging", "testing", "development", "other"];
                environment.tier = one_of(name, text, &tiers)?;
            }
            "url" => environment.url = Some(text),
            _ => return Err(wrong()),
        }
    }
    Ok(environment)
}

fn one_of(name: &str, text: String, words: &[&str]) -> Result<String, String> {
    let wrong = || format!("the {name} of an environment is one of {}", words.join(", "));
    words.contains(&text.as_str()).then_some(text).ok_or_else(wrong)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is misspelt or contradicts itself must not be left out in silence.
    #[test]
    fn every_member_of_a_short_form_counts_or_is_refused() {
        for (described, why) in [
            (json!({ "branch": "a", "git_tag": "b" }), "a job has one of branch and git_tag"),
            (json!({ "git_tag": "b", "merge_request": { "iid": 1 } }), "a job has one of git_tag and merge_request"),
            (
                json!({ "merge_request": { "iid": 1, "sourcebranch": "x" } }),
                "a merge_request has no member sourcebranch",
            ),
            (
                json!({ "merge_request": { "iid": 1, "source_branch": 5 } }),
                "merge_request has an iid and may have a source_branch",
            ),
            (
                json!({ "environment": { "name": "a", "tier": "prod" } }),
                "the tier of an environment is one of production, staging, testing, development, other",
            ),
            (
                json!({ "environment": { "name": "a", "action": "begin" } }),
                "the action of an environment is one of start, prepare, stop, verify, access",
            ),
            (json!({ "brunch": "a" }), "a job has no member brunch"),
        ] {
            assert_eq!(job(described.clone()).map(|_| ()), Err(why.to_owned()), "{described}");
        }
        for described in [
            json!({ "merge_request": { "iid": 1 } }),
            json!({ "merge_request": { "iid": 1, "source_branch": "x" }, "environment": { "name": "a", "tier": "other" } }),
        ] {
            assert!(job(described.clone()).is_ok(), "{described}");
        }
    }
}
