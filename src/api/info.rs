//! What a runner tells GitLab about itself: name, version, platform and features.
//!
//! It is part of register, verify and every job request, and must be the *same* in all three: GitLab stores the features
//! of a runner manager at its first contact and refreshes them only every 40 to 55 minutes. A first contact without
//! `cancel_gracefully` makes GitLab cancel that manager's jobs hard for as long.

use std::collections::BTreeMap;
use std::fmt;

use http::HeaderValue;
use serde::Serialize;

use crate::api::job_spec::JobSpec;

/// GitLab takes so many labels of a runner manager.
const MAX_LABELS: usize = 32;

/// A label that GitLab does not take. The request that carries it would be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidLabel {
    /// The key is too short or too long.
    #[error("the key of a label must have 3 to 65 characters")]
    Key,
    /// The value is too short or too long.
    #[error("the value of a label must have 1 to 256 characters")]
    Value,
    /// There are too many.
    #[error("a runner can have at most 32 labels")]
    TooMany,
}

/// The `info` object of register, verify and job request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Info {
    name: String,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    architecture: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    executor: Option<String>,
    features: Features,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
}

impl Info {
    /// A runner program of this name and version, with the features of [`Features::default`].
    #[must_use]
    pub fn new(name: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
            revision: None,
            platform: None,
            architecture: None,
            executor: None,
            features: Features::default(),
            labels: BTreeMap::new(),
        }
    }

    /// Another name.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Another version.
    #[must_use]
    pub fn with_version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// The commit the program was built from.
    #[must_use]
    pub fn with_revision(mut self, revision: impl Into<String>) -> Self {
        self.revision = Some(revision.into());
        self
    }

    /// Operating system and processor, in the spelling of the official runner: `linux`, `amd64`.
    #[must_use]
    pub fn with_platform(mut self, platform: impl Into<String>, architecture: impl Into<String>) -> Self {
        self.platform = Some(platform.into());
        self.architecture = Some(architecture.into());
        self
    }

    /// What runs the jobs, such as `shell` or `slurm`.
    #[must_use]
    pub fn with_executor(mut self, executor: impl Into<String>) -> Self {
        self.executor = Some(executor.into());
        self
    }

    /// What the runner promises.
    #[must_use]
    pub fn with_features(mut self, features: Features) -> Self {
        self.features = features;
        self
    }

    /// A label of this runner manager; newer servers show it. A label of the same key is replaced.
    ///
    /// # Errors
    ///
    /// [`InvalidLabel`] unless the key has 3 to 65 characters, the value 1 to 256, and there are no more than 32 labels.
    pub fn with_label(mut self, key: impl Into<String>, value: impl Into<String>) -> Result<Self, InvalidLabel> {
        let (key, value) = (key.into(), value.into());
        if !(3..=65).contains(&key.chars().count()) {
            return Err(InvalidLabel::Key);
        }
        if !(1..=256).contains(&value.chars().count()) {
            return Err(InvalidLabel::Value);
        }
        self.labels.insert(key, value);
        if self.labels.len() > MAX_LABELS { Err(InvalidLabel::TooMany) } else { Ok(self) }
    }

    /// The program's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The program's version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The commit the program was built from.
    #[must_use]
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// The operating system.
    #[must_use]
    pub fn platform(&self) -> Option<&str> {
        self.platform.as_deref()
    }

    /// The processor.
    #[must_use]
    pub fn architecture(&self) -> Option<&str> {
        self.architecture.as_deref()
    }

    /// What runs the jobs.
    #[must_use]
    pub fn executor(&self) -> Option<&str> {
        self.executor.as_deref()
    }

    /// The promises made.
    #[must_use]
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// `name version (platform/architecture)`, without what a header cannot hold.
    pub(crate) fn user_agent(&self) -> HeaderValue {
        let mut text = format!("{} {}", self.name, self.version);
        if let (Some(platform), Some(architecture)) = (&self.platform, &self.architecture) {
            text = format!("{text} ({platform}/{architecture})");
        }
        text.retain(|c| c == ' ' || c.is_ascii_graphic());
        HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("gitlab-runner-api"))
    }
}

macro_rules! features {
    ($($(#[$doc:meta])* $flag:ident = $default:literal,)+) => {
        /// The promises a runner makes to GitLab. Each flag is a builder method that takes yes or no.
        ///
        /// The default is what this library itself keeps. Claim the others only if your executor keeps them: GitLab
        /// **fails** a job that needs a feature its runner did not announce, and trusts the ones it did.
        ///
        /// ```
        /// use gitlab_runner_api::api::info::{Features, Info};
        ///
        /// // Runs scripts in a shell, and uploads artifacts one by one.
        /// let features = Features::shell_executor().artifacts(true).upload_multiple_artifacts(true);
        /// let info = Info::new("my-runner", "1.0.0").with_features(features);
        /// assert_eq!(info.features(), &features);
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
        pub struct Features {
            $($flag: bool,)+
        }

        impl Default for Features {
            fn default() -> Self {
                Self { $($flag: $default,)+ }
            }
        }

        impl Features {
            /// Promises nothing, not even what this library keeps: for programs that ask for jobs and do the rest without it.
            #[must_use]
            pub const fn none() -> Self {
                Self { $($flag: false,)+ }
            }

            $(
                $(#[$doc])*
                #[must_use]
                pub fn $flag(mut self, promised: bool) -> Self {
                    self.$flag = promised;
                    self
                }
            )+
        }
    };
}

features! {
    /// Job variables reach the job's environment.
    variables = false,
    /// The job runs in its `image`.
    image = false,
    /// The job's `services` are started.
    services = false,
    /// Artifacts are uploaded, and those of earlier jobs downloaded.
    artifacts = false,
    /// Caches are restored and saved.
    cache = false,
    /// A cache falls back to its further keys. Needed by jobs that have such keys.
    fallback_cache_keys = false,
    /// Jobs share the environment they run in.
    shared = false,
    /// Each entry of `artifacts` is uploaded on its own. Needed by jobs with reports.
    upload_multiple_artifacts = false,
    /// Artifacts of format `raw` are uploaded unpacked.
    upload_raw_artifacts = false,
    /// A session server is offered.
    session = false,
    /// A web terminal is offered over the session server.
    terminal = false,
    /// Exactly the payload's refspecs are fetched. Needed by merge request pipelines.
    refspecs = false,
    /// Masked variables do not show in the log. Kept by this library, unless logs are passed on
    /// [raw](crate::log::LogOptions::dangerously_raw).
    masking = true,
    /// Services are proxied to the web terminal.
    proxy = false,
    /// Variables marked `raw` are not expanded.
    raw_variables = false,
    /// `artifacts:exclude` is applied. Needed by jobs that have it.
    artifacts_exclude = false,
    /// All entries of `steps` are run, not just `script` and `after_script`. Needed by jobs with `release`.
    multi_build_steps = false,
    /// The log can be sent again from its start. Kept by this library.
    trace_reset = true,
    /// The final report has the log's checksum. Kept by this library.
    trace_checksum = true,
    /// The final report has the log's size. Kept by this library.
    trace_size = true,
    /// `secrets` are fetched. Needed by jobs that have them.
    vault_secrets = false,
    /// A cancelled job is noticed. Kept by this library, if its events are obeyed.
    cancelable = true,
    /// A cancelled job's script is stopped gracefully, and its `after_script` runs. Without it, GitLab ends the job at
    /// once and takes no further log.
    cancel_gracefully = false,
    /// The exit code is reported. Kept by this library, if results are given with theirs.
    return_exit_code = true,
    /// The variables of a service reach that service alone.
    service_variables = false,
    /// A service may have several names.
    service_multiple_aliases = false,
    /// `image.executor_opts` is honoured.
    image_executor_opts = false,
    /// `services[].executor_opts` is honoured.
    service_executor_opts = false,
    /// `run` is executed natively.
    native_steps_integration = false,
    /// A job is accepted by a call of its own before it is run. Kept by this library.
    two_phase_job_commit = true,
    /// `inputs` are understood.
    job_inputs = false,
}

impl Features {
    /// The promises of a runner that executes scripts in a shell on its own machine. Beside those of the default it promises
    /// that
    ///
    /// - job variables reach the script's environment ([`variables`](Self::variables)), and those that are marked raw are
    ///   not expanded ([`raw_variables`](Self::raw_variables)): [`Variables`](crate::variables::Variables) does both,
    /// - jobs share the machine ([`shared`](Self::shared)),
    /// - the refspecs of the payload are fetched ([`refspecs`](Self::refspecs)),
    /// - all entries of `steps` are run, in order ([`multi_build_steps`](Self::multi_build_steps)),
    /// - a cancelled script is stopped gracefully and `after_script` runs ([`cancel_gracefully`](Self::cancel_gracefully)).
    ///
    /// It promises no artifacts, caches, images, services, secrets, inputs and native steps. Add what your runner does.
    #[must_use]
    pub fn shell_executor() -> Self {
        Self::default()
            .variables(true)
            .raw_variables(true)
            .shared(true)
            .refspecs(true)
            .multi_build_steps(true)
            .cancel_gracefully(true)
    }

    /// What a payload asks for without that it was promised.
    #[must_use]
    pub fn unpromised(&self, spec: &JobSpec) -> Vec<Unpromised> {
        let image = spec.image.as_ref().is_some_and(|image| !image.name.is_empty());
        let run = spec.run.as_ref().is_some_and(|run| !matches!(run.trim(), "" | "[]"));
        let rows = [
            ("artifacts", !spec.artifacts.is_empty(), self.artifacts, "artifacts"),
            ("cache", !spec.cache.is_empty(), self.cache, "cache"),
            ("services", !spec.services.is_empty(), self.services, "services"),
            ("image", image, self.image, "image"),
            ("secrets", !spec.secrets.is_empty(), self.vault_secrets, "vault_secrets"),
            ("run", run, self.native_steps_integration, "native_steps_integration"),
            ("inputs", !spec.inputs.is_empty(), self.job_inputs, "job_inputs"),
        ];
        let unpromised = rows.into_iter().filter(|(_, wanted, promised, _)| *wanted && !*promised);
        unpromised.map(|(member, _, _, method)| Unpromised { member, method }).collect()
    }
}

/// Something that a job asks for and its runner did not promise, so that perhaps nothing is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unpromised {
    /// The member of the payload: `artifacts`, `cache`, `services`, `image`, `secrets`, `run` or `inputs`.
    pub member: &'static str,
    /// The method of [`Features`] that promises it.
    pub method: &'static str,
}

impl fmt::Display for Unpromised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (Features::{})", self.member, self.method)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_only_what_the_library_keeps_is_promised() {
        let json = serde_json::to_value(Features::default()).unwrap();
        let promised: Vec<_> =
            json.as_object().unwrap().iter().filter(|(_, on)| **on == true).map(|(name, _)| name.as_str()).collect();
        let mut kept = [
            "masking",
            "trace_reset",
            "trace_checksum",
            "trace_size",
            "cancelable",
            "return_exit_code",
            "two_phase_job_commit",
        ];
        kept.sort_unstable();
        assert_eq!(promised, kept);
        assert_eq!(json.as_object().unwrap().len(), 31);
    }

    #[test]
    fn presets_promise_what_they_say() {
        let promised = |features: Features| {
            let json = serde_json::to_value(features).unwrap();
            let on = json.as_object().unwrap().iter().filter(|(_, on)| **on == true);
            on.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        assert!(promised(Features::none()).is_empty());
        let (shell, default) = (promised(Features::shell_executor()), promised(Features::default()));
        let more: Vec<_> = shell.iter().filter(|name| !default.contains(name)).collect();
        let listed = ["cancel_gracefully", "multi_build_steps", "raw_variables", "refspecs", "shared", "variables"];
        assert_eq!(more, listed);
        assert_eq!(shell.len(), default.len() + listed.len());
    }

    #[test]
    fn labels_are_checked() {
        let label = |key: usize, value: usize| Info::new("r", "1").with_label("\u{e9}".repeat(key), "v".repeat(value));
        assert!(label(3, 1).is_ok() && label(65, 256).is_ok());
        assert_eq!(label(2, 1), Err(InvalidLabel::Key));
        assert_eq!(label(66, 1), Err(InvalidLabel::Key));
        assert_eq!(label(3, 0), Err(InvalidLabel::Value));
        assert_eq!(label(3, 257), Err(InvalidLabel::Value));
        let many = |count: usize| {
            (0..count).try_fold(Info::new("r", "1"), |info, at| info.with_label(format!("key{at}"), "v"))
        };
        assert!(many(32).is_ok_and(|info| info.with_label("key0", "again").is_ok()));
        assert_eq!(many(33), Err(InvalidLabel::TooMany));
    }

    #[test]
    fn a_user_agent_never_breaks_a_header() {
        let agent = Info::new("run\r\nner\u{e9}", "1").with_platform("linux", "amd64").user_agent();
        assert_eq!(agent, "runner 1 (linux/amd64)");
    }
}
