//! The payload that a runner receives for a job.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::new_job::{GitRef, NewJob, PIPELINE};
use super::variables::{self, PROJECT, PROJECT_PATH, REGISTRY, SHA, Scene};

/// How many commits a runner fetches: GitLab's default for new projects.
const DEPTH: u32 = 20;

/// The failure reasons a current server lists in the payload, and stores as they are.
pub(super) const FAILURE_REASONS: &[&str] = &[
    "unknown_failure",
    "script_failure",
    "api_failure",
    "stuck_or_timeout_failure",
    "runner_system_failure",
    "missing_dependency_failure",
    "runner_unsupported",
    "stale_schedule",
    "job_execution_timeout",
    "archived_failure",
    "unmet_prerequisites",
    "scheduler_failure",
    "data_integrity_failure",
    "forward_deployment_failure",
    "user_blocked",
    "project_deleted",
    "ci_quota_exceeded",
    "pipeline_loop_detected",
    "no_matching_runner",
    "trace_size_exceeded",
    "builds_disabled",
    "environment_creation_failure",
    "deployment_rejected",
    "failed_outdated_deployment_job",
    "job_execution_server_timeout",
    "stuck_pending_with_matching_runners",
    "stuck_pending_no_matching_runners",
    "no_updates_running",
    "no_updates_canceling",
    "server_timeout_running",
    "server_timeout_canceling",
    "runner_configuration_error",
    "runner_external_dependency_failure",
    "runner_interrupted",
    "protected_environment_failure",
    "insufficient_bridge_permissions",
    "downstream_bridge_project_not_found",
    "invalid_bridge_trigger",
    "upstream_bridge_project_not_found",
    "insufficient_upstream_permissions",
    "bridge_pipeline_is_child_pipeline",
    "downstream_pipeline_creation_failed",
    "secrets_provider_not_found",
    "reached_max_descendant_pipelines_depth",
    "ip_restriction_failure",
    "reached_max_pipeline_hierarchy_size",
    "reached_downstream_pipeline_trigger_rate_limit",
    "duo_workflow_not_allowed",
    "job_router_failure",
    "job_token_expired",
    "id_token_burned_project_path",
    "downstream_project_trigger_resolved_to_empty",
];

impl NewJob {
    pub(super) fn render(&self, scene: &Scene<'_>) -> Value {
        let mut payload = match &self.verbatim {
            Some(verbatim) => adopt(verbatim.clone(), scene.id, scene.token),
            None => self.modern(scene),
        };
        if let Some(members) = payload.as_object_mut() {
            members.extend(self.members.clone());
            if self.members.get("run").is_some_and(|run| !run.is_null()) {
                // GitLab describes a job either way, not in both.
                members.remove("steps");
            }
        }
        // The variables show the runner. Before there is one, nobody gets the payload.
        if scene.runner.is_some() && self.verbatim.is_none() && !self.members.contains_key("variables") {
            let variables = variables::of(self, &payload, scene);
            payload["variables"] = variables.into();
        }
        payload
    }

    /// A payload as current servers make it, without its variables.
    fn modern(&self, scene: &Scene<'_>) -> Value {
        let (id, token) = (scene.id, scene.token);
        let timeout = self.timeout.as_secs();
        let mut steps = vec![step("script", &self.script, timeout, "on_success")];
        if !self.after_script.is_empty() {
            steps.push(step("after_script", &self.after_script, timeout, "always"));
        }
        let queued = scene.now.saturating_since(scene.created_at);
        let registry = json!({
            "type": "registry",
            "url": REGISTRY,
            "username": "gitlab-ci-token",
            "password": token,
        });
        let credentials = if self.registry { vec![registry] } else { Vec::new() };
        json!({
            "id": id,
            "token": token,
            "allow_git_fetch": true,
            "job_info": {
                "id": id,
                "name": self.name,
                "stage": self.stage,
                "pipeline_id": PIPELINE,
                "project_id": PROJECT,
                "project_name": "Widgets",
                "project_full_path": PROJECT_PATH,
                "namespace_id": 101,
                "root_namespace_id": 101,
                "organization_id": 1,
                "instance_id": "simulated",
                "instance_uuid": "00000000-0000-4000-8000-000000000001",
                "user_id": 17,
                "scoped_user_id": null,
                "time_in_queue_seconds": queued.as_secs_f64(),
                "project_jobs_running_on_instance_runners_count": scene.running_jobs,
                "queue_size": 1,
                "queue_depth": 1,
            },
            "git_info": self.git_info(scene),
            "runner_info": { "timeout": timeout, "runner_session_url": scene.session_url, "uuid": "simulated" },
            "inputs": [],
            "variables": [],
            "steps": steps,
            "hooks": [],
            "image": null,
            "services": [],
            "artifacts": null,
            "cache": [],
            "credentials": credentials,
            "features": { "trace_sections": true, "failure_reasons": FAILURE_REASONS },
            "dependencies": scene.dependencies,
        })
    }

    fn git_info(&self, scene: &Scene<'_>) -> Value {
        let (scheme, host) = scene.url.split_once("://").unwrap_or(("https", scene.url));
        let pipeline = format!("+refs/pipelines/{PIPELINE}:refs/pipelines/{PIPELINE}");
        let all = || {
            let both = ["+refs/tags/*:refs/tags/*", "+refs/heads/*:refs/remotes/origin/*"];
            both.map(str::to_owned).to_vec()
        };
        let branch = |name: &str| (name.to_owned(), "branch", format!("+refs/heads/{name}:refs/remotes/origin/{name}"));
        let (git_ref, ref_type, own) = match &self.git_ref {
            GitRef::DefaultBranch => branch(scene.default_branch),
            GitRef::Branch(name) => branch(name),
            GitRef::Tag(name) => (name.clone(), "tag", format!("+refs/tags/{name}:refs/tags/{name}")),
            GitRef::MergeRequest { iid, .. } => {
                let name = format!("refs/merge-requests/{iid}/head");
                (name.clone(), "branch", format!("+{name}:refs/remotes/origin/merge-requests/{iid}/head"))
            }
        };
        let depth = self.depth.unwrap_or(if self.commit.is_some() { 0 } else { DEPTH });
        let refspecs = [vec![pipeline], if depth > 0 { vec![own] } else { all() }].concat();
        let sha = self.commit.as_ref().map_or(SHA, |commit| commit.sha.as_str());
        json!({
            "repo_url": format!("{scheme}://gitlab-ci-token:{}@{host}/{PROJECT_PATH}.git", scene.token),
            "ref": git_ref,
            "sha": sha,
            "before_sha": "0000000000000000000000000000000000000000",
            "ref_type": ref_type,
            "refspecs": refspecs,
            "depth": depth,
            "repo_object_format": if sha.len() == 64 { "sha256" } else { "sha1" },
            "protected": true,
        })
    }

    /// The features a runner must announce to get this job.
    pub(super) fn required_features(&self, payload: &Value) -> BTreeSet<String> {
        let artifacts = || payload["artifacts"].as_array().into_iter().flatten();
        let filled = |value: &Value| value.as_array().is_some_and(|items| !items.is_empty());
        let report = |artifact: &Value| artifact["artifact_type"].as_str().is_some_and(|kind| kind != "archive");
        let git_ref = payload["git_info"]["ref"].as_str().unwrap_or_default();
        let names = |list: &Value, key: &str, name: &str| {
            list.as_array().is_some_and(|items| items.iter().any(|item| item[key].as_str() == Some(name)))
        };
        let caches = || payload["cache"].as_array().into_iter().flatten();
        let mut features = self.requires.clone();
        features.extend(
            [
                ("return_exit_code", !self.allowed_exit_codes.is_empty()),
                ("upload_multiple_artifacts", artifacts().any(report)),
                ("artifacts_exclude", artifacts().any(|artifact| filled(&artifact["exclude"]))),
                ("refspecs", git_ref.starts_with("refs/merge-requests/") || git_ref.starts_with("refs/workloads/")),
                ("multi_build_steps", names(&payload["steps"], "name", "release")),
                ("fallback_cache_keys", caches().any(|cache| filled(&cache["fallback_keys"]))),
                ("vault_secrets", payload["secrets"].as_object().is_some_and(|secrets| !secrets.is_empty())),
            ]
            .into_iter()
            .filter(|(_, needed)| *needed)
            .map(|(feature, _)| feature.to_owned()),
        );
        features
    }
}

fn with(mut object: Value, name: &str, value: Value) -> Value {
    if let Some(members) = object.as_object_mut() {
        members.insert(name.to_owned(), value);
    }
    object
}

fn step(name: &str, script: &[String], timeout: u64, when: &str) -> Value {
    json!({ "name": name, "script": script, "timeout": timeout, "when": when, "allow_failure": when == "always" })
}

fn adopt(mut payload: Value, id: u64, token: &str) -> Value {
    if !payload.is_object() {
        return payload;
    }
    if let Some(old) = payload["token"].as_str().filter(|old| !old.is_empty()).map(str::to_owned) {
        replace_everywhere(&mut payload, &old, token);
    }
    if payload["job_info"]["id"].is_u64() {
        payload["job_info"]["id"] = json!(id);
    }
    with(with(payload, "id", json!(id)), "token", json!(token))
}

fn replace_everywhere(value: &mut Value, old: &str, new: &str) {
    match value {
        Value::String(text) => *text = text.replace(old, new),
        Value::Array(items) => items.iter_mut().for_each(|item| replace_everywhere(item, old, new)),
        Value::Object(members) => members.values_mut().for_each(|member| replace_everywhere(member, old, new)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use gitlab_runner_api::Timestamp;

    use super::*;

    fn scene(id: u64, token: &str) -> Scene<'_> {
        Scene {
            id,
            token,
            url: "https://gitlab.example.test",
            default_branch: "main",
            created_at: Timestamp::EPOCH,
            now: Timestamp::EPOCH,
            runner: None,
            dependencies: Vec::new(),
            dotenv: Vec::new(),
            running_jobs: "0".to_owned(),
            session_url: None,
            retries: 0,
        }
    }

    #[test]
    fn a_payload_of_ones_own_is_adopted() {
        let payload =
            json!({ "id": 1, "token": "OLD", "job_info": { "id": 1, "name": "n" }, "a": [{ "b": "x OLD y" }] });
        let job = NewJob::from_payload(payload);
        assert_eq!(job.name(), "n");
        let rendered = job.render(&scene(9, "NEW"));
        assert_eq!(
            rendered,
            json!({ "id": 9, "token": "NEW", "job_info": { "id": 9, "name": "n" }, "a": [{ "b": "x NEW y" }] })
        );
        for odd in [json!(null), json!([1]), json!("text")] {
            assert_eq!(NewJob::from_payload(odd.clone()).render(&scene(9, "NEW")), odd);
        }
    }

    #[test]
    fn required_features_follow_from_the_payload() {
        let needs = |job: NewJob| {
            let features = job.required_features(&job.render(&scene(1, "t")));
            features.into_iter().collect::<Vec<_>>().join(" ")
        };
        let job = NewJob::default;
        for (job, expected) in [
            (job(), ""),
            (job().with_required_feature("return_exit_code"), "return_exit_code"),
            (job().with_allowed_exit_codes([1, 2]), "return_exit_code"),
            (job().with_allow_failure(), ""),
            (job().with_member("artifacts", json!([{ "artifact_type": "archive", "paths": ["a"] }])), ""),
            (job().with_member("artifacts", json!([{ "artifact_type": "junit" }])), "upload_multiple_artifacts"),
            (job().with_member("artifacts", json!([{ "exclude": ["b"] }])), "artifacts_exclude"),
            (job().with_member("git_info", json!({ "ref": "refs/merge-requests/1/head" })), "refspecs"),
            (job().with_member("steps", json!([{ "name": "script" }, { "name": "release" }])), "multi_build_steps"),
            (
                job().with_member("cache", json!([{ "fallback_keys": [] }, { "fallback_keys": ["k"] }])),
                "fallback_cache_keys",
            ),
            (job().with_member("secrets", json!({ "A": {} })), "vault_secrets"),
            (job().with_member("secrets", json!({})), ""),
        ] {
            assert_eq!(needs(job), expected);
        }
    }
}
