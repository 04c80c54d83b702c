//! Jobs to be queued, and the payload a runner receives for them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use super::variables::{self, DEFAULT_BRANCH, PIPELINE, PROJECT, PROJECT_PATH, REGISTRY, SHA, Scene, variable};
use crate::repository::{Commit, Repository};

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

/// A job to be queued with [`Coordinator::queue`](crate::Coordinator::queue).
///
/// ```
/// use gitlab_runner_api_testkit::NewJob;
///
/// let job = NewJob::new("unit tests")
///     .with_script(["make test"])
///     .with_masked_variable("API_KEY", "correct horse")
///     .with_runner(1);
/// # let _ = job;
/// ```
#[derive(Clone, Debug)]
pub struct NewJob {
    name: String,
    script: Vec<String>,
    after_script: Vec<String>,
    variables: Vec<Value>,
    timeout: Duration,
    members: BTreeMap<String, Value>,
    verbatim: Option<Value>,
    requires: BTreeSet<String>,
    runner: Option<u64>,
    tags: BTreeSet<String>,
    stage: String,
    git_ref: GitRef,
    /// The commit of that branch or tag, once the job is queued and if there is a repository.
    commit: Option<Commit>,
    depth: Option<u32>,
    registry: bool,
    trigger: Option<Vec<(String, String)>>,
    dependencies: Vec<Dependency>,
    allow_failure: bool,
    allowed_exit_codes: BTreeSet<i64>,
    environment: Option<Environment>,
    system_id: Option<String>,
}

/// The environment that a job deploys to. It shows in the variables `CI_ENVIRONMENT_…` of the job.
///
/// ```
/// use gitlab_runner_api_testkit::{Environment, NewJob};
///
/// let staging = Environment::new("staging").with(|it| it.url = Some("https://staging.example.test".to_owned()));
/// let job = NewJob::new("deploy").with_environment(staging);
/// # let _ = job;
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// The name, such as `review/topic`.
    pub name: String,
    /// What the job does with the environment: `start`, `prepare`, `stop`, `verify` or `access`. The default is `start`.
    pub action: String,
    /// `production`, `staging`, `testing`, `development` or `other`. The default is what GitLab guesses from the name.
    pub tier: String,
    /// Where the environment can be reached. The default is `None`.
    pub url: Option<String>,
}

impl Environment {
    /// An environment that the job starts.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let tier = guess_tier(name).to_owned();
        Self { name: name.to_owned(), action: "start".to_owned(), tier, url: None }
    }

    /// Returns this environment with a change applied.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// The tier that GitLab guesses from the name of an environment: the first row with a word that is part of the name.
fn guess_tier(name: &str) -> &'static str {
    let name = name.to_ascii_lowercase();
    let words = [
        ("development", &["dev", "review", "trunk"][..]),
        ("testing", &["test", "tst", "int", "accept", "acpt", "qa", "qc", "control", "quality"]),
        ("staging", &["stag", "stg", "model", "modl", "pre", "demo", "non"]),
        ("production", &["prod", "prd", "live"]),
    ];
    let found = words.into_iter().find(|(_, words)| words.iter().any(|word| name.contains(word)));
    found.map_or("other", |(tier, _)| tier)
}

/// What a pipeline was made for.
#[derive(Clone, Debug)]
enum GitRef {
    /// The default branch of the project.
    DefaultBranch,
    Branch(String),
    Tag(String),
    MergeRequest {
        iid: u64,
        branch: String,
    },
}

/// A job that another one depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Dependency {
    Id(u64),
    /// The newest job of this name.
    Name(String),
}

impl Default for NewJob {
    fn default() -> Self {
        Self::new("test")
    }
}

impl NewJob {
    /// A job with a one-line script and a timeout of one hour.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            script: vec!["echo hello".to_owned()],
            after_script: Vec::new(),
            variables: Vec::new(),
            timeout: Duration::from_secs(3600),
            members: BTreeMap::new(),
            verbatim: None,
            requires: BTreeSet::new(),
            runner: None,
            tags: BTreeSet::new(),
            stage: "test".to_owned(),
            git_ref: GitRef::DefaultBranch,
            commit: None,
            depth: None,
            registry: true,
            trigger: None,
            dependencies: Vec::new(),
            allow_failure: false,
            allowed_exit_codes: BTreeSet::new(),
            environment: None,
            system_id: None,
        }
    }

    /// A job with a payload of the caller's own.
    ///
    /// If it is an object, `id`, `token` and `job_info.id` are overwritten, and the token it came with is replaced
    /// wherever it occurs. Anything else is handed out as it is.
    #[must_use]
    pub fn from_payload(payload: Value) -> Self {
        let name = payload["job_info"]["name"].as_str().unwrap_or("test").to_owned();
        Self { verbatim: Some(payload), ..Self::new(name) }
    }

    /// The lines of `script`.
    #[must_use]
    pub fn with_script<T: Into<String>>(mut self, lines: impl IntoIterator<Item = T>) -> Self {
        self.script = lines.into_iter().map(Into::into).collect();
        self
    }

    /// The lines of `after_script`.
    #[must_use]
    pub fn with_after_script<T: Into<String>>(mut self, lines: impl IntoIterator<Item = T>) -> Self {
        self.after_script = lines.into_iter().map(Into::into).collect();
        self
    }

    /// Adds a variable that may be shown.
    #[must_use]
    pub fn with_variable(mut self, key: &str, value: &str) -> Self {
        self.variables.push(variable(key, value, true, false));
        self
    }

    /// Adds a variable whose value must not appear in the trace.
    #[must_use]
    pub fn with_masked_variable(mut self, key: &str, value: &str) -> Self {
        self.variables.push(variable(key, value, false, true));
        self
    }

    /// Adds a variable whose value is to be written to a file.
    #[must_use]
    pub fn with_file_variable(mut self, key: &str, value: &str) -> Self {
        self.variables.push(with(variable(key, value, false, false), "file", json!(true)));
        self
    }

    /// The timeout of the job.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Replaces a top-level member of the payload, such as `artifacts`.
    #[must_use]
    pub fn with_member(mut self, name: &str, value: Value) -> Self {
        self.members.insert(name.to_owned(), value);
        self
    }

    /// A feature the runner must announce, besides those that follow from the payload. `return_exit_code` is one that
    /// does not show in it.
    #[must_use]
    pub fn with_required_feature(mut self, feature: &str) -> Self {
        self.requires.insert(feature.to_owned());
        self
    }

    /// Only this runner gets the job. Otherwise every runner may.
    #[must_use]
    pub fn with_runner(mut self, runner: u64) -> Self {
        self.runner = Some(runner);
        self
    }

    /// Only runners with this tag get the job. If there are several, a runner needs all of them. A job without tags goes to
    /// runners that take untagged jobs.
    #[must_use]
    pub fn with_tag(mut self, tag: &str) -> Self {
        self.tags.insert(tag.to_owned());
        self
    }

    /// The stage of the job. The default is `test`.
    #[must_use]
    pub fn with_stage(mut self, stage: &str) -> Self {
        self.stage = stage.to_owned();
        self
    }

    /// The branch that the pipeline was made for. The default is the default branch of the project, which is `main` if no
    /// repository is served.
    #[must_use]
    pub fn with_branch(mut self, branch: &str) -> Self {
        self.git_ref = GitRef::Branch(branch.to_owned());
        self
    }

    /// The pipeline was made for a tag of the repository, not for a branch.
    #[must_use]
    pub fn with_git_tag(mut self, tag: &str) -> Self {
        self.git_ref = GitRef::Tag(tag.to_owned());
        self
    }

    /// The pipeline was made for a merge request with this number and source branch. A runner must announce `refspecs`.
    #[must_use]
    pub fn with_merge_request(mut self, iid: u64, source_branch: &str) -> Self {
        self.git_ref = GitRef::MergeRequest { iid, branch: source_branch.to_owned() };
        self
    }

    /// How many commits the runner fetches. 0 means all, with all branches and tags. The default is 20. If a repository is
    /// served, it is 0, because git's plain protocol cannot do with a part of the history.
    #[must_use]
    pub fn with_depth(mut self, depth: u32) -> Self {
        self.depth = Some(depth);
        self
    }

    /// Whether the instance has a container registry. It has one by default.
    #[must_use]
    pub fn with_registry(mut self, registry: bool) -> Self {
        self.registry = registry;
        self
    }

    /// Adds a variable of the trigger that started the pipeline.
    #[must_use]
    pub fn with_trigger_variable(mut self, key: &str, value: &str) -> Self {
        self.trigger.get_or_insert_default().push((key.to_owned(), value.to_owned()));
        self
    }

    /// The job depends on another one, by its number. It is handed out when that one has succeeded, with a token that
    /// downloads its artifacts and with the variables of its dotenv file. If that one fails, this one is skipped. Without
    /// such a job, the dependency is left out.
    #[must_use]
    pub fn with_dependency(mut self, job: u64) -> Self {
        self.dependencies.push(Dependency::Id(job));
        self
    }

    /// The job depends on the newest job of this name, as in [`with_dependency`](Self::with_dependency).
    #[must_use]
    pub fn with_dependency_named(mut self, name: &str) -> Self {
        self.dependencies.push(Dependency::Name(name.to_owned()));
        self
    }

    /// The pipeline goes on if the job fails: jobs that depend on it are handed out.
    #[must_use]
    pub fn with_allow_failure(mut self) -> Self {
        self.allow_failure = true;
        self
    }

    /// The pipeline goes on if the job fails with one of these exit codes. A runner must announce `return_exit_code`.
    #[must_use]
    pub fn with_allowed_exit_codes(mut self, codes: impl IntoIterator<Item = i64>) -> Self {
        self.allowed_exit_codes = codes.into_iter().collect();
        self
    }

    /// The environment that the job deploys to.
    #[must_use]
    pub fn with_environment(mut self, environment: Environment) -> Self {
        self.environment = Some(environment);
        self
    }

    /// Only the runner manager with this system ID gets the job. A job whose payload has
    /// `suspend_options.runtime_environment_key` goes to the manager that reported this key at the end of an earlier job,
    /// also without a call of this method.
    #[must_use]
    pub fn with_system_id(mut self, system_id: &str) -> Self {
        self.system_id = Some(system_id.to_owned());
        self
    }

    pub(super) fn allows_failure(&self) -> bool {
        self.allow_failure
    }

    pub(super) fn allows_exit_code(&self, code: i64) -> bool {
        self.allowed_exit_codes.contains(&code)
    }

    pub(super) fn environment(&self) -> Option<&Environment> {
        self.environment.as_ref()
    }

    pub(super) fn system_id(&self) -> Option<&str> {
        self.system_id.as_deref()
    }

    pub(super) fn dependencies(&self) -> &[Dependency] {
        &self.dependencies
    }

    pub(super) fn variables(&self) -> &[Value] {
        &self.variables
    }

    pub(super) fn trigger_variables(&self) -> &[(String, String)] {
        self.trigger.as_deref().unwrap_or_default()
    }

    pub(super) fn is_triggered(&self) -> bool {
        self.trigger.is_some()
    }

    /// What started the pipeline, in GitLab's word.
    pub(super) fn source(&self) -> &'static str {
        match (self.is_triggered(), self.merge_request()) {
            (true, _) => "trigger",
            (false, Some(_)) => "merge_request_event",
            (false, None) => "push",
        }
    }

    pub(super) fn has_registry(&self) -> bool {
        self.registry
    }

    /// Makes the job one for the commit that its branch or tag has now, unless it has a commit already: a job that is retried
    /// keeps it. Returns whether the repository has the branch or the tag.
    pub(crate) fn check_out(&mut self, repository: &Repository) -> bool {
        if self.commit.is_some() || self.verbatim.is_some() {
            return true;
        }
        if matches!(self.git_ref, GitRef::DefaultBranch) {
            self.git_ref = GitRef::Branch(repository.default_branch().to_owned());
        }
        self.commit = repository.commit(&self.source_reference());
        self.commit.is_some()
    }

    /// The branch or the tag in the repository, by its full name.
    pub(crate) fn source_reference(&self) -> String {
        match &self.git_ref {
            GitRef::DefaultBranch => format!("refs/heads/{DEFAULT_BRANCH}"),
            GitRef::Branch(name) | GitRef::MergeRequest { branch: name, .. } => format!("refs/heads/{name}"),
            GitRef::Tag(name) => format!("refs/tags/{name}"),
        }
    }

    /// The commit in the repository.
    pub(crate) fn commit(&self) -> Option<&Commit> {
        self.commit.as_ref()
    }

    /// What GitLab's repository has beside branches and tags: a name for the commit of the pipeline, and one for that of the
    /// merge request. Runners fetch the former.
    pub(crate) fn hidden_references(&self) -> Vec<(String, &str)> {
        let Some(commit) = &self.commit else { return Vec::new() };
        let merge_request = self.merge_request().map(|(iid, _)| format!("refs/merge-requests/{iid}/head"));
        let names = merge_request.into_iter().chain([format!("refs/pipelines/{PIPELINE}")]);
        names.map(|name| (name, commit.sha.as_str())).collect()
    }

    /// Number and source branch of the merge request.
    pub(super) fn merge_request(&self) -> Option<(u64, &str)> {
        match &self.git_ref {
            GitRef::MergeRequest { iid, branch } => Some((*iid, branch)),
            _ => None,
        }
    }

    pub(super) fn tags(&self) -> &BTreeSet<String> {
        &self.tags
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn runner(&self) -> Option<u64> {
        self.runner
    }

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
    fn the_tier_of_an_environment_follows_from_its_name() {
        for (name, tier) in [
            ("production", "production"),
            ("staging", "staging"),
            ("review/topic", "development"),
            ("QA", "testing"),
            ("pre-prod", "staging"),
            ("moon", "other"),
        ] {
            assert_eq!(Environment::new(name).tier, tier, "{name}");
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
