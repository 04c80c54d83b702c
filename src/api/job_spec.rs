//! The job payload: the body of a 201 to `POST /jobs/request`.
//!
//! Of all members only `id` and `token` must be readable. A member that is missing or null reads as its default, an
//! unknown member is skipped, and an unknown word of an enumeration is kept. Any other member that cannot be read takes its
//! default too, and [`Assignment::losses`] names it. The JSON itself stays with the [`Assignment`] as it came.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

mod access;
mod files;
mod image;
mod part;
mod properties;

pub use super::members::{Loss, LossKind};
pub use access::{
    Credential, Hook, Input, InputType, InputValue, JobSecret, PolicyOptions, SecretProvider, SuspendOptions,
};
pub use files::{ArtifactFormat, ArtifactSpec, ArtifactWhen, ArtifactsFile, Cache, CachePolicy, Dependency};
pub use image::{Image, Port, Service, ServiceVariable};
pub use part::{Optional, Part};

use super::members::{Losses, Read as _, Walk, members, repair, words};
use crate::error::ProtocolError;
use crate::secret::{JobToken, Secret};
use crate::status::{FailureReason, open_enum};
use crate::variables::expansion::{expand_word, is_true};

/// What a payload that is not UTF-8 begins with as a text. No JSON does.
const BASE64: &str = "base64:";

/// The log of a job names so many losses, and counts the others.
const SHOWN_LOSSES: usize = 8;

/// A job that was handed out to us: its payload, decoded and as it came.
///
/// It holds the job's token and secrets. Save [`Assignment::as_json`] or [`Assignment::to_text`] before anything else: until
/// then, a crash loses the job. `Debug` shows no secret. Cloning shares the payload.
#[derive(Clone)]
pub struct Assignment {
    spec: Arc<JobSpec>,
    json: Bytes,
    /// None if all of it was read.
    losses: Option<Arc<Losses>>,
    masked_at_run_time: Arc<[Secret]>,
}

impl Assignment {
    /// Reads a payload, or what [`Assignment::as_json`] gave earlier.
    ///
    /// A member that cannot be read takes its default. [`Assignment::losses`] tells which ones these are, and
    /// [`Assignment::is_damaged`] whether the job is still the one that GitLab meant.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::Unreadable`] if this is not JSON, or if its `id` or `token` is missing or cannot be read. It says
    /// where the JSON is wrong, and never quotes it.
    pub fn from_json(json: impl Into<Bytes>) -> Result<Self, ProtocolError> {
        let json = json.into();
        // Nearly every payload is read here. If anything is wrong with one, it is read again with more care.
        if let Ok(spec) = serde_json::from_slice(&json) {
            return Ok(Self { spec: Arc::new(spec), json, losses: None, masked_at_run_time: Arc::default() });
        }
        let (text, replaced) = repair(&json);
        let document: &RawValue = serde_json::from_str(&text).map_err(|error| ProtocolError::json(&error))?;
        let mut walk = Walk::new(&text, &replaced);
        let spec = JobSpec::read(document.get(), &mut walk).ok_or_else(|| {
            ProtocolError::Unreadable("the job's `id` or `token` is missing or has the wrong type".to_owned())
        })?;
        let losses = walk.into_losses();
        let losses = (!losses.list.is_empty()).then(|| Arc::new(losses));
        Ok(Self { spec: Arc::new(spec), json, losses, masked_at_run_time: Arc::default() })
    }

    /// The parts of the payload that could not be read, in the payload's own order within each object. Empty for nearly every
    /// job. At most 100 are listed.
    ///
    /// Null elements of lists are skipped without being a loss.
    #[must_use]
    pub fn losses(&self) -> &[Loss] {
        self.losses.as_ref().map_or(&[], |losses| &losses.list)
    }

    /// Whether something of `steps`, `run`, `variables`, `image` or `services` was dropped, so that what is left may not be the
    /// job that GitLab meant. Text in which only characters were [replaced](LossKind::Replaced) does not count.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.losses.as_ref().is_some_and(|losses| losses.essential)
    }

    /// The losses in one line for people; none if there are none. It names places and quotes no value.
    #[must_use]
    pub(crate) fn losses_in_words(&self) -> Option<String> {
        let losses = self.losses.as_ref()?;
        let shown: Vec<String> = losses.list.iter().take(SHOWN_LOSSES).map(Loss::to_string).collect();
        let more = losses.more + losses.list.len() - shown.len();
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        Some(format!("{}{more}", shown.join("; ")))
    }

    /// Returns a job with nothing to run, for a payload that is not JSON but in which an id and a token can be found, such
    /// as one that was cut off. Use it to report the failure to GitLab.
    #[must_use]
    pub fn salvage(json: impl Into<Bytes>) -> Option<Self> {
        let mut found = Salvage::default();
        let (text, _) = repair(&json.into());
        // The error is why we are here; what was found before it counts.
        let _ = (&mut found).deserialize(&mut serde_json::Deserializer::from_str(&text));
        let (id, token) = (found.id?, found.token?);
        // What was to run is lost. `steps` that are no list say so wherever this is stored and read again.
        let rest = serde_json::json!({ "id": id, "token": token.expose(), "steps": "lost" });
        Self::from_json(rest.to_string()).ok()
    }

    /// The decoded payload.
    #[must_use]
    pub fn spec(&self) -> &JobSpec {
        &self.spec
    }

    /// The same, and a value to be masked that is not in the payload.
    pub(crate) fn masking(&self, secret: Secret) -> Self {
        let all = self.masked_at_run_time.iter().cloned().chain([secret]);
        Self { masked_at_run_time: all.collect(), ..self.clone() }
    }

    /// The same without the text of the payload, which takes about as much memory as all that is read from it. For applications that
    /// have stored it. [`Job::drop_payload_text`](crate::Job::drop_payload_text) does this for a job.
    #[must_use]
    pub fn without_text(self) -> Self {
        Self { json: Bytes::new(), ..self }
    }

    /// Whether the text of the payload is here. It is, unless it was [dropped](Assignment::without_text).
    #[must_use]
    pub fn has_text(&self) -> bool {
        !self.json.is_empty()
    }

    /// The payload as it came, byte by byte; empty if it was [dropped](Assignment::without_text). **Secret**: it holds the job's token
    /// and its variables. Values that were [masked](crate::Job::mask) later are not in it, see [`Assignment::masked_at_run_time`].
    #[must_use]
    pub fn as_json(&self) -> &Bytes {
        &self.json
    }

    /// The payload as it came, as a text that can be stored where bytes cannot: the JSON itself, or, if that is not
    /// UTF-8, `base64:` and its bytes. **Secret**, as [`Assignment::as_json`].
    #[must_use]
    pub fn to_text(&self) -> String {
        match std::str::from_utf8(&self.json) {
            Ok(json) => json.to_owned(),
            Err(_) => format!("{BASE64}{}", STANDARD.encode(&self.json)),
        }
    }

    /// Reads what [`Assignment::to_text`] gave earlier.
    ///
    /// # Errors
    ///
    /// Those of [`Assignment::from_json`].
    pub fn from_text(text: impl Into<String>) -> Result<Self, ProtocolError> {
        let text = text.into();
        let Some(encoded) = text.strip_prefix(BASE64) else { return Self::from_json(text) };
        let json = STANDARD.decode(encoded);
        Self::from_json(json.map_err(|_| ProtocolError::Unreadable("this is not Base64".to_owned()))?)
    }

    /// The values that [`crate::Job::mask`] hides besides those of the payload, in the order in which they were learnt. Save them
    /// with the payload, as [`crate::JobRecord`] does. **Secret.**
    #[must_use]
    pub fn masked_at_run_time(&self) -> &[Secret] {
        &self.masked_at_run_time
    }

    /// The same, with values that were saved from [`Assignment::masked_at_run_time`].
    #[must_use]
    pub fn with_masked_at_run_time(self, secrets: impl IntoIterator<Item = Secret>) -> Self {
        Self { masked_at_run_time: secrets.into_iter().collect(), ..self }
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

/// Takes `id` and `token` out of an object and keeps them even if the JSON is broken later on.
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
            let value = map.next_value::<&RawValue>()?.get();
            match key.as_str() {
                "id" => self.id = serde_json::from_str(value).ok(),
                "token" => self.token = serde_json::from_str(value).ok(),
                _ => {}
            }
        }
        Ok(())
    }
}

members! {
    /// The payload, decoded.
    ///
    /// ```
    /// use gitlab_runner_api::Assignment;
    ///
    /// let assignment = Assignment::from_json(
    ///     r#"{
    ///         "id": 9000000001,
    ///         "token": "glcbt-0123456789",
    ///         "job_info": { "name": "test", "stage": "verify" },
    ///         "runner_info": { "timeout": 3600 },
    ///         "variables": [{ "key": "CI_JOB_URL", "value": "https://gitlab.example.com/a/b/-/jobs/9000000001" }],
    ///         "steps": [{ "name": "script", "script": ["make", "make test"] }],
    ///         "cache": [null]
    ///     }"#,
    /// )?;
    /// let spec = assignment.spec();
    /// assert_eq!((spec.name(), spec.stage()), ("test", "verify"));
    /// assert_eq!(spec.script(), ["make", "make test"]);
    /// assert_eq!(spec.timeout().map(|timeout| timeout.as_secs()), Some(3600));
    /// assert!(spec.job_url().is_some() && spec.cache.is_empty());
    /// # Ok::<(), gitlab_runner_api::ProtocolError>(())
    /// ```
    #[derive(Clone, Debug)]
    #[non_exhaustive]
    pub struct JobSpec needs {
        /// The job's id, unique on its instance.
        pub id: u64,
        /// The token for all calls about this job.
        pub token: JobToken,
    } {
        /// Whether an existing clone may be fetched into; if not, clone afresh.
        pub allow_git_fetch: bool,
        /// What the job is part of.
        pub job_info: Part<JobInfo>,
        /// What to check out.
        pub git_info: Part<GitInfo>,
        /// What GitLab says about the runner.
        pub runner_info: Part<RunnerInfo>,
        /// The job's variables, in order. If a key occurs more than once, the last value wins.
        pub variables: Vec<Variable>,
        /// What to run, in order.
        pub steps: Vec<Step>,
        /// What the server knows and wants.
        pub features: Part<JobFeatures>,
        /// What to run in place of `steps`: a JSON list, as a text. See [`JobSpec::run_steps`].
        pub run: Option<String>,
        /// Scripts for certain moments of the job.
        pub hooks: Vec<Hook>,
        /// The job's inputs.
        pub inputs: Vec<Input>,
        /// The image the job is to run in.
        pub image: Option<Box<Image>>,
        /// What is to run beside the job.
        pub services: Vec<Service>,
        /// What to upload when the script has ended.
        pub artifacts: Vec<ArtifactSpec>,
        /// What to restore before, and save after the script.
        pub cache: Vec<Cache>,
        /// Credentials for registries. See [`JobSpec::registry_credential`].
        pub credentials: Vec<Credential>,
        /// Jobs whose artifacts are wanted.
        pub dependencies: Vec<Dependency>,
        /// Values to be fetched from vaults, by the name of the variable they go into.
        pub secrets: BTreeMap<String, JobSecret>,
        /// How a policy bears upon the job.
        pub policy_options: Option<Box<PolicyOptions>>,
        /// Whether the environment is to be suspended when the job has ended.
        pub suspend_options: Option<Box<SuspendOptions>>,
    }
}

impl JobSpec {
    /// The value of a variable, not expanded. If the key occurs more than once, the last value wins.
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
        ["CI_DEBUG_TRACE", "CI_DEBUG_SERVICES"].iter().any(|key| self.word(key).is_some_and(|word| is_true(&word)))
    }

    /// The value of a variable that says one word, expanded with those of the payload.
    pub(crate) fn word(&self, key: &str) -> Option<String> {
        let variable = self.variables.iter().rev().find(|variable| variable.key == key)?;
        if variable.raw {
            return Some(variable.value().to_owned());
        }
        expand_word(variable.value(), |key| match (self.variable(key), key) {
            // The runner's own, where GitLab does not send it.
            (None, "CI_JOB_TIMEOUT") => self.timeout().map(|timeout| timeout.as_secs().to_string().into()),
            (value, _) => value.map(Cow::Borrowed),
        })
    }
}

members! {
    /// `job_info`: what the job is part of.
    #[derive(Clone, Debug, Default, PartialEq)]
    #[non_exhaustive]
    pub struct JobInfo {
        /// The job's name.
        pub name: String,
        /// The stage it is in.
        pub stage: String,
        /// Its project's id.
        pub project_id: Option<u64>,
        /// Its project's name.
        pub project_name: String,
        /// Its project's path with all groups; newer servers.
        pub project_full_path: Option<String>,
        /// Its pipeline's id; newer servers.
        pub pipeline_id: Option<u64>,
        /// The job's id, the same as [`JobSpec::id`]. GitLab 11 leaves it out.
        pub id: Option<u64>,
        /// The id of the group or user the project belongs to.
        pub namespace_id: Option<u64>,
        /// The id of the outermost group.
        pub root_namespace_id: Option<u64>,
        /// The id of the organization.
        pub organization_id: Option<u64>,
        /// A name of the instance.
        pub instance_id: Option<String>,
        /// The instance's UUID.
        pub instance_uuid: Option<String>,
        /// The user whose job it is.
        pub user_id: Option<u64>,
        /// The user in whose name a composite identity acts.
        pub scoped_user_id: Option<u64>,
        /// How long the job waited, in seconds. It is negative if the clocks of GitLab's own machines differ.
        pub time_in_queue_seconds: Option<f64>,
        /// How many jobs of the project run on the instance's runners: a number, `"N+"`, or `"+Inf"`.
        pub project_jobs_running_on_instance_runners_count: Option<String>,
        /// How many jobs waited for this runner.
        pub queue_size: Option<u64>,
        /// Which of them this one was.
        pub queue_depth: Option<u64>,
    }
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

members! {
    /// `git_info`: what to check out.
    #[derive(Clone, Debug, Default)]
    #[non_exhaustive]
    pub struct GitInfo {
        /// Where to clone from. A secret, because the job's token is part of it.
        pub repo_url: Option<Secret>,
        /// The branch or tag, or a `refs/merge-requests/` ref.
        pub git_ref as "ref": String,
        /// The commit.
        pub sha: String,
        /// The commit before the push; zeros if there is none.
        pub before_sha: String,
        /// What kind of ref it is.
        pub ref_type: Option<RefType>,
        /// What to fetch.
        pub refspecs: Vec<String>,
        /// How many commits to fetch; 0 means all.
        pub depth: u64 = Count,
        /// How the repository names its objects, `sha1` or `sha256`.
        pub repo_object_format: Option<String>,
        /// Whether the ref is protected; newer servers.
        pub protected: Option<bool>,
    }
}

members! {
    /// `runner_info`: what GitLab says about the runner.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct RunnerInfo {
        /// The job's timeout in seconds: the smallest of the job's, the project's and the runner's.
        pub timeout: Option<u64>,
        /// Where a session of the runner is expected.
        pub runner_session_url: Option<String>,
        /// The runner's UUID; newest servers.
        pub uuid: Option<String>,
    }
}

members! {
    /// A job variable. `Debug` shows its key and flags, never its value.
    #[derive(Clone)]
    #[non_exhaustive]
    pub struct Variable {
        /// The name.
        pub key: String,
        value: Option<Secret>,
        /// Anybody who sees the job may see the value.
        pub public: bool,
        /// The value must not show in the log.
        pub masked: bool = Careful,
        /// The value goes into a file, and the variable names the file.
        pub file: bool,
        /// References in the value are not expanded.
        pub raw: bool,
    }
}

impl Variable {
    /// Makes a public variable that the runner adds by itself.
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

members! {
    /// One entry of `steps`.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct Step {
        /// `script`, `after_script`, `release`, or what else newer servers send.
        pub name: String,
        /// The commands, one an entry.
        pub script: Vec<String>,
        /// The step's own timeout in seconds.
        pub timeout: Option<u64>,
        /// When it runs.
        pub when: Option<StepCondition>,
        /// Its failure does not fail the job.
        pub allow_failure: bool,
    }
}

members! {
    /// `features`: what the server knows and wants.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
    #[non_exhaustive]
    pub struct JobFeatures {
        /// Section markers in the log are understood.
        pub trace_sections: bool,
        /// The failure reasons the server knows.
        pub failure_reasons: Vec<FailureReason>,
        /// Prefixes of tokens that must not show in the log, beside the usual ones.
        pub token_mask_prefixes: Vec<String>,
        /// Where to send traces of the job's course: `trace_id`, `span_parent_id`, `otel_endpoints`.
        pub tracing: Option<serde_json::Value>,
    }
}

words!(RefType, StepCondition, FailureReason);

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
