//! The job payload: the body of a 201 to `POST /jobs/request`.
//!
//! Decoding is tolerant: of all members only `id` and `token` must be there. A member that is missing or null reads as
//! its default, an unknown one is left alone, an unknown word of an enumeration is kept. Nothing is lost by that: the
//! JSON itself stays with the [`Assignment`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

mod access;
mod files;
mod image;
mod properties;

pub use access::{
    Credential, Hook, Input, InputType, InputValue, JobSecret, PolicyOptions, SecretProvider, SuspendOptions,
};
pub use files::{ArtifactFormat, ArtifactSpec, ArtifactWhen, ArtifactsFile, Cache, CachePolicy, Dependency};
pub use image::{Image, Port, Service, ServiceVariable};

use super::or_default;
use crate::error::ProtocolError;
use crate::secret::{JobToken, Secret};
use crate::status::{FailureReason, open_enum};
use crate::variables::is_true;

/// A job that was handed out to us: its payload, decoded and as it came.
///
/// It holds the job's token and secrets. Persist [`Assignment::as_json`] before anything else: until then, a crash loses
/// the job. `Debug` shows no secret. Cloning shares the payload.
#[derive(Clone)]
pub struct Assignment {
    spec: Arc<JobSpec>,
    json: Bytes,
}

impl Assignment {
    /// Reads a payload, or what [`Assignment::as_json`] gave earlier.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::Unreadable`] says where the JSON is wrong, and never quotes it.
    pub fn from_json(json: impl Into<Bytes>) -> Result<Self, ProtocolError> {
        let json = json.into();
        let spec = serde_json::from_slice(&json).map_err(|error| ProtocolError::json(&error))?;
        Ok(Self { spec: Arc::new(spec), json })
    }

    /// What can be saved of a payload that cannot be read: if its id and token can be found, even in JSON that is cut
    /// off, an otherwise empty job by which to report the failure.
    #[must_use]
    pub fn salvage(json: impl Into<Bytes>) -> Option<Self> {
        let mut found = Salvage::default();
        // The error is why we are here; what was found before it counts.
        let _ = (&mut found).deserialize(&mut serde_json::Deserializer::from_slice(&json.into()));
        let (id, token) = (found.id?, found.token?);
        let rest = serde_json::json!({ "id": id, "token": token.expose() });
        Self::from_json(rest.to_string()).ok()
    }

    /// The decoded payload.
    #[must_use]
    pub fn spec(&self) -> &JobSpec {
        &self.spec
    }

    /// The same, and a value to be masked that is not in the payload: it becomes part of the JSON.
    pub(crate) fn masking(&self, secret: &Secret) -> Result<Self, ProtocolError> {
        let mut json: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&self.json).map_err(|error| ProtocolError::json(&error))?;
        let known = self.spec.masked_at_run_time.iter();
        let values: Vec<&str> = known.chain([secret]).map(Secret::expose).collect();
        json.insert("masked_at_run_time".to_owned(), values.into());
        Self::from_json(serde_json::Value::from(json).to_string())
    }

    /// The payload as it came; after [`crate::Job::mask`], with what is masked besides. **Secret**: it holds the job's
    /// token and its variables.
    #[must_use]
    pub fn as_json(&self) -> &Bytes {
        &self.json
    }

    /// The job's id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.spec.id
    }
}

impl fmt::Debug for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assignment").field("spec", &self.spec).finish_non_exhaustive()
    }
}

/// Takes `id` and `token` out of an object and keeps them even if a later member breaks the JSON.
#[derive(Default)]
struct Salvage {
    id: Option<u64>,
    token: Option<JobToken>,
}

impl<'de> DeserializeSeed<'de> for &mut Salvage {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Salvage {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a job payload")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "id" => self.id = Some(map.next_value()?),
                "token" => self.token = Some(map.next_value()?),
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(())
    }
}

/// The payload, decoded.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct JobSpec {
    /// The job's id, unique on its instance.
    pub id: u64,
    /// The token for all calls about this job.
    pub token: JobToken,
    /// Whether an existing clone may be fetched into; if not, clone afresh.
    #[serde(default, deserialize_with = "or_default")]
    pub allow_git_fetch: bool,
    /// What the job is part of.
    #[serde(default, deserialize_with = "or_default")]
    pub job_info: JobInfo,
    /// What to check out.
    #[serde(default, deserialize_with = "or_default")]
    pub git_info: GitInfo,
    /// What GitLab says about the runner.
    #[serde(default, deserialize_with = "or_default")]
    pub runner_info: RunnerInfo,
    /// The job's variables, in order; of several with one key the last counts.
    #[serde(default, deserialize_with = "or_default")]
    pub variables: Vec<Variable>,
    /// What to run, in order.
    #[serde(default, deserialize_with = "or_default")]
    pub steps: Vec<Step>,
    /// What the server knows and wants.
    #[serde(default, deserialize_with = "or_default")]
    pub features: JobFeatures,
    /// What to run in place of `steps`: a JSON list, as a text. See [`JobSpec::run_steps`].
    #[serde(default, deserialize_with = "or_default")]
    pub run: Option<String>,
    /// Scripts for certain moments of the job.
    #[serde(default, deserialize_with = "or_default")]
    pub hooks: Vec<Hook>,
    /// The job's inputs.
    #[serde(default, deserialize_with = "or_default")]
    pub inputs: Vec<Input>,
    /// The image the job is to run in.
    #[serde(default, deserialize_with = "or_default")]
    pub image: Option<Image>,
    /// What is to run beside the job.
    #[serde(default, deserialize_with = "or_default")]
    pub services: Vec<Service>,
    /// What to upload when the script has ended.
    #[serde(default, deserialize_with = "or_default")]
    pub artifacts: Vec<ArtifactSpec>,
    /// What to restore before, and save after the script.
    #[serde(default, deserialize_with = "or_default")]
    pub cache: Vec<Cache>,
    /// Credentials for registries. See [`JobSpec::registry_credential`].
    #[serde(default, deserialize_with = "or_default")]
    pub credentials: Vec<Credential>,
    /// Jobs whose artifacts are wanted.
    #[serde(default, deserialize_with = "or_default")]
    pub dependencies: Vec<Dependency>,
    /// Values to be fetched from vaults, by the name of the variable they go into.
    #[serde(default, deserialize_with = "or_default")]
    pub secrets: BTreeMap<String, JobSecret>,
    /// How a policy bears upon the job.
    #[serde(default, deserialize_with = "or_default")]
    pub policy_options: Option<PolicyOptions>,
    /// Whether the environment is to be suspended when the job has ended.
    #[serde(default, deserialize_with = "or_default")]
    pub suspend_options: Option<SuspendOptions>,
    /// Not of GitLab: values that the runner learnt in the meantime, see [`crate::Job::mask`].
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) masked_at_run_time: Vec<Secret>,
}

impl JobSpec {
    /// The value of a variable, not expanded. Of several with one key the last counts.
    #[must_use]
    pub fn variable(&self, key: &str) -> Option<&str> {
        self.variables.iter().rev().find(|variable| variable.key == key).map(Variable::value)
    }

    /// The step of this name.
    #[must_use]
    pub fn step(&self, name: &str) -> Option<&Step> {
        self.steps.iter().find(|step| step.name == name)
    }

    /// How long the job may run, if GitLab names a limit.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.runner_info.timeout.filter(|seconds| *seconds > 0).map(Duration::from_secs)
    }

    /// Whether a debug variable makes the log one that GitLab shows to fewer people (`debug_trace` of a log patch).
    pub(crate) fn is_debug_trace(&self) -> bool {
        ["CI_DEBUG_TRACE", "CI_DEBUG_SERVICES"].iter().any(|key| self.variable(key).is_some_and(is_true))
    }
}

/// `job_info`: what the job is part of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct JobInfo {
    /// The job's name.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// The stage it is in.
    #[serde(default, deserialize_with = "or_default")]
    pub stage: String,
    /// Its project's id.
    #[serde(default, deserialize_with = "or_default")]
    pub project_id: Option<u64>,
    /// Its project's name.
    #[serde(default, deserialize_with = "or_default")]
    pub project_name: String,
    /// Its project's path with all groups; newer servers.
    #[serde(default, deserialize_with = "or_default")]
    pub project_full_path: Option<String>,
    /// Its pipeline's id; newer servers.
    #[serde(default, deserialize_with = "or_default")]
    pub pipeline_id: Option<u64>,
    /// The job's id once more. Servers of 11 leave it out.
    #[serde(default, deserialize_with = "or_default")]
    pub id: Option<u64>,
    /// The id of the group or user the project belongs to.
    #[serde(default, deserialize_with = "or_default")]
    pub namespace_id: Option<u64>,
    /// The id of the outermost group.
    #[serde(default, deserialize_with = "or_default")]
    pub root_namespace_id: Option<u64>,
    /// The id of the organization.
    #[serde(default, deserialize_with = "or_default")]
    pub organization_id: Option<u64>,
    /// A name of the instance.
    #[serde(default, deserialize_with = "or_default")]
    pub instance_id: Option<String>,
    /// The instance's UUID.
    #[serde(default, deserialize_with = "or_default")]
    pub instance_uuid: Option<String>,
    /// The user whose job it is.
    #[serde(default, deserialize_with = "or_default")]
    pub user_id: Option<u64>,
    /// The user in whose name a composite identity acts.
    #[serde(default, deserialize_with = "or_default")]
    pub scoped_user_id: Option<u64>,
    /// How long the job waited, in seconds.
    #[serde(default, deserialize_with = "or_default")]
    pub time_in_queue_seconds: Option<u64>,
    /// How many jobs of the project run on the instance's runners: a number, `"N+"`, or `"+Inf"`.
    #[serde(default, deserialize_with = "or_default")]
    pub project_jobs_running_on_instance_runners_count: Option<String>,
    /// How many jobs waited for this runner.
    #[serde(default, deserialize_with = "or_default")]
    pub queue_size: Option<u64>,
    /// Which of them this one was.
    #[serde(default, deserialize_with = "or_default")]
    pub queue_depth: Option<u64>,
}

open_enum! {
    /// What kind of ref a job was started for.
    RefType {
        /// A branch, or a merge request.
        Branch = "branch",
        /// A tag.
        Tag = "tag",
    }
}

/// `git_info`: what to check out.
#[derive(Clone, Debug, Default, Deserialize)]
#[non_exhaustive]
pub struct GitInfo {
    /// Where to clone from. A secret, because the job's token is part of it.
    #[serde(default, deserialize_with = "or_default")]
    pub repo_url: Option<Secret>,
    /// The branch or tag, or a `refs/merge-requests/` ref.
    #[serde(default, rename = "ref", deserialize_with = "or_default")]
    pub git_ref: String,
    /// The commit.
    #[serde(default, deserialize_with = "or_default")]
    pub sha: String,
    /// The commit before the push; zeros if there is none.
    #[serde(default, deserialize_with = "or_default")]
    pub before_sha: String,
    /// What kind of ref it is.
    #[serde(default, deserialize_with = "or_default")]
    pub ref_type: Option<RefType>,
    /// What to fetch.
    #[serde(default, deserialize_with = "or_default")]
    pub refspecs: Vec<String>,
    /// How many commits to fetch; 0 means all.
    #[serde(default, deserialize_with = "or_default")]
    pub depth: u64,
    /// How the repository names its objects, `sha1` or `sha256`.
    #[serde(default, deserialize_with = "or_default")]
    pub repo_object_format: Option<String>,
    /// Whether the ref is protected; newer servers.
    #[serde(default, deserialize_with = "or_default")]
    pub protected: Option<bool>,
}

/// `runner_info`: what GitLab says about the runner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct RunnerInfo {
    /// The job's timeout in seconds: the smallest of the job's, the project's and the runner's.
    #[serde(default, deserialize_with = "or_default")]
    pub timeout: Option<u64>,
    /// Where a session of the runner is expected.
    #[serde(default, deserialize_with = "or_default")]
    pub runner_session_url: Option<String>,
    /// The runner's UUID; newest servers.
    #[serde(default, deserialize_with = "or_default")]
    pub uuid: Option<String>,
}

/// A job variable. `Debug` shows its key and flags, never its value.
#[derive(Clone, Deserialize)]
#[non_exhaustive]
pub struct Variable {
    /// The name.
    #[serde(default, deserialize_with = "or_default")]
    pub key: String,
    #[serde(default, deserialize_with = "or_default")]
    value: Option<Secret>,
    /// Anybody who sees the job may see the value.
    #[serde(default, deserialize_with = "or_default")]
    pub public: bool,
    /// The value must not show in the log.
    #[serde(default, deserialize_with = "or_default")]
    pub masked: bool,
    /// The value goes into a file, and the variable names the file.
    #[serde(default, deserialize_with = "or_default")]
    pub file: bool,
    /// References in the value are not expanded.
    #[serde(default, deserialize_with = "or_default")]
    pub raw: bool,
}

impl Variable {
    /// A variable of the runner's own, that anybody may see.
    #[must_use]
    pub fn new(key: impl Into<String>, value: impl Into<String>) -> Self {
        let value = Some(Secret::new(value));
        Self { key: key.into(), value, public: true, masked: false, file: false, raw: false }
    }

    /// The value of a secret that the runner has fetched, under the rules of GitLab: masked, and not expanded.
    #[must_use]
    pub fn secret(key: impl Into<String>, value: impl Into<String>, file: bool) -> Self {
        Self { public: false, masked: true, raw: true, file, ..Self::new(key, value) }
    }

    /// The value, empty if GitLab gave none.
    #[must_use]
    pub fn value(&self) -> &str {
        self.value.as_ref().map_or("", Secret::expose)
    }
}

impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, public, masked, file, raw, value: _ } = self;
        f.debug_struct("Variable")
            .field("key", key)
            .field("public", public)
            .field("masked", masked)
            .field("file", file)
            .field("raw", raw)
            .finish_non_exhaustive()
    }
}

open_enum! {
    /// When a step runs.
    StepCondition {
        /// If all before it ended well.
        OnSuccess = "on_success",
        /// If one before it failed.
        OnFailure = "on_failure",
        /// In any case.
        Always = "always",
    }
}

/// One entry of `steps`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Step {
    /// `script`, `after_script`, `release`, or what else newer servers send.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// The commands, one an entry.
    #[serde(default, deserialize_with = "or_default")]
    pub script: Vec<String>,
    /// The step's own timeout in seconds.
    #[serde(default, deserialize_with = "or_default")]
    pub timeout: Option<u64>,
    /// When it runs.
    #[serde(default, deserialize_with = "or_default")]
    pub when: Option<StepCondition>,
    /// Its failure does not fail the job.
    #[serde(default, deserialize_with = "or_default")]
    pub allow_failure: bool,
}

/// `features`: what the server knows and wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct JobFeatures {
    /// Section markers in the log are understood.
    #[serde(default, deserialize_with = "or_default")]
    pub trace_sections: bool,
    /// The failure reasons the server knows.
    #[serde(default, deserialize_with = "or_default")]
    pub failure_reasons: Vec<FailureReason>,
    /// Prefixes of tokens that must not show in the log, beside the usual ones.
    #[serde(default, deserialize_with = "or_default")]
    pub token_mask_prefixes: Vec<String>,
    /// Where to send traces of the job's course: `trace_id`, `span_parent_id`, `otel_endpoints`.
    #[serde(default, deserialize_with = "or_default")]
    pub tracing: Option<serde_json::Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_members_make_a_job() {
        let assignment =
            Assignment::from_json(r#"{"id":9000000001,"token":"t","steps":null,"moon":{"phase":3}}"#).unwrap();
        assert_eq!(assignment.id(), 9_000_000_001);
        assert!(assignment.spec().steps.is_empty() && assignment.as_json().ends_with(b"}}"));
    }

    #[test]
    fn debug_shows_no_secret() {
        let json = r#"{"id":1,"token":"canary1","git_info":{"repo_url":"https://u:canary2@h/x.git"},
            "variables":[{"key":"KEY","value":"canary3","masked":true}]}"#;
        let shown = format!("{:?}", Assignment::from_json(json).unwrap());
        assert!(shown.contains("KEY") && !shown.contains("canary"), "{shown}");
    }

    #[test]
    fn the_last_variable_of_a_name_counts() {
        let json = r#"{"id":1,"token":"t","variables":[{"key":"A","value":"1"},{"key":"A","value":"2"},{"key":"N","value":null}]}"#;
        let assignment = Assignment::from_json(json).unwrap();
        assert_eq!(assignment.spec().variable("A"), Some("2"));
        assert_eq!(assignment.spec().variable("N"), Some(""));
        assert_eq!(assignment.spec().variable("B"), None);
    }

    #[test]
    fn id_and_token_are_salvaged_from_what_cannot_be_read() {
        let rows = [
            (r#"{"id":5,"token":"t","steps":7}"#, true),
            (r#"{"id":5,"token":"t","steps":[{"name":"scr"#, true),
            (r#"{"steps":[{}],"token":"t","id":5"#, true),
            (r#"{"id":5,"tok"#, false),
            (r#"{"id":"5","token":"t"}"#, false),
            (r#"[5,"t"]"#, false),
            ("<html>", false),
        ];
        for (json, found) in rows {
            let salvaged = Assignment::salvage(json);
            assert_eq!(
                salvaged.map(|a| (a.id(), a.spec().token.expose().to_owned())),
                found.then(|| (5, "t".to_owned())),
                "{json}"
            );
        }
    }
}
