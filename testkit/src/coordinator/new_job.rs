//! Jobs to be queued.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use super::access::Role;
use crate::repository::{Commit, Repository};

/// The one pipeline of all jobs.
pub(super) const PIPELINE: u64 = 7_000_000_001;

/// The branch of jobs for which there is no repository.
pub(super) const DEFAULT_BRANCH: &str = "main";

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
    pub(super) name: String,
    pub(super) script: Vec<String>,
    pub(super) after_script: Vec<String>,
    pub(super) variables: Vec<Value>,
    pub(super) timeout: Duration,
    pub(super) members: BTreeMap<String, Value>,
    pub(super) verbatim: Option<Value>,
    pub(super) requires: BTreeSet<String>,
    pub(super) runner: Option<u64>,
    pub(super) tags: BTreeSet<String>,
    pub(super) stage: String,
    pub(super) git_ref: GitRef,
    /// The commit of that branch or tag, once the job is queued and if there is a repository.
    pub(super) commit: Option<Commit>,
    pub(super) depth: Option<u32>,
    pub(super) registry: bool,
    pub(super) trigger: Option<Vec<(String, String)>>,
    pub(super) dependencies: Vec<Dependency>,
    pub(super) allow_failure: bool,
    pub(super) allowed_exit_codes: BTreeSet<i64>,
    pub(super) environment: Option<Environment>,
    pub(super) system_id: Option<String>,
    pub(super) user_role: Role,
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
pub(super) enum GitRef {
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
            user_role: Role::Developer,
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
        let mut file = variable(key, value, false, false);
        file["file"] = json!(true);
        self.variables.push(file);
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

    /// The role in the project of the user in whose name the job runs. The default is [`Role::Developer`]. The job of a
    /// [`Role::Stranger`] may not download the artifacts of other jobs: it is answered with 403.
    #[must_use]
    pub fn with_user_role(mut self, role: Role) -> Self {
        self.user_role = role;
        self
    }

    pub(super) fn user_role(&self) -> Role {
        self.user_role
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
}

// Here, because a repository knows nothing of jobs.
impl Repository {
    /// Returns the branch or the tag that a job is for, such as `refs/heads/topic`, if the repository does not have it.
    #[must_use]
    pub fn missing_reference(&self, job: &NewJob) -> Option<String> {
        let mut job = job.clone();
        if job.check_out(self) { None } else { Some(job.source_reference()) }
    }
}

pub(super) fn variable(key: &str, value: impl Into<Value>, public: bool, masked: bool) -> Value {
    let value: Value = value.into();
    json!({ "key": key, "value": value, "public": public, "masked": masked })
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
