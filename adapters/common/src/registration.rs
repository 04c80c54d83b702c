//! The attributes of a new runner, and what a runner tells GitLab about itself.

use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::api::register::{AccessLevel, Attributes};

/// The attributes of a new runner. GitLab stores them; later changes are made in GitLab.
///
/// By default the runner takes jobs with and without tags.
///
/// ```
/// use gitlab_runner_api_common::Registration;
///
/// let registration = Registration::new()
///     .with_description("the cluster in room 7")
///     .with_tags(["hpc", "gpu"])
///     .with_maximum_timeout(24 * 3600);
/// ```
#[derive(Clone, Debug)]
pub struct Registration {
    attributes: Attributes,
    info: Info,
}

impl Default for Registration {
    fn default() -> Self {
        Self::new()
    }
}

impl Registration {
    /// Returns the attributes of a runner that takes jobs with and without tags.
    #[must_use]
    pub fn new() -> Self {
        let mut attributes = Attributes::default();
        attributes.run_untagged = true;
        Self { attributes, info: default_info() }
    }

    /// Sets the description that GitLab shows for the runner.
    #[must_use]
    pub fn with_description(mut self, text: impl Into<String>) -> Self {
        self.attributes.description = Some(text.into());
        self
    }

    /// Sets the maintenance note, which administrators see. At most 1024 characters.
    #[must_use]
    pub fn with_maintenance_note(mut self, text: impl Into<String>) -> Self {
        self.attributes.maintenance_note = Some(text.into());
        self
    }

    /// Sets whether the runner is paused: it gets no jobs until somebody resumes it in GitLab.
    #[must_use]
    pub fn with_paused(mut self, paused: bool) -> Self {
        self.attributes.paused = paused;
        self
    }

    /// Sets whether the runner is locked to its project.
    #[must_use]
    pub fn with_locked(mut self, locked: bool) -> Self {
        self.attributes.locked = locked;
        self
    }

    /// Sets whether the runner takes jobs without tags. If it does not, it needs tags.
    #[must_use]
    pub fn with_run_untagged(mut self, untagged: bool) -> Self {
        self.attributes.run_untagged = untagged;
        self
    }

    /// Sets the tags of the jobs that the runner takes.
    #[must_use]
    pub fn with_tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.attributes.tag_list = tags.into_iter().map(Into::into).collect();
        self
    }

    /// Sets whether the runner takes jobs of all refs, or only of protected ones.
    #[must_use]
    pub fn with_access_level(mut self, level: AccessLevel) -> Self {
        self.attributes.access_level = Some(level);
        self
    }

    /// Sets the longest time that a job may take, in seconds.
    #[must_use]
    pub fn with_maximum_timeout(mut self, seconds: u64) -> Self {
        self.attributes.maximum_timeout = Some(seconds);
        self
    }

    /// Sets what the runner tells GitLab about itself. Give the adapter's `Runner::with_info` the same value.
    #[must_use]
    pub fn with_info(mut self, info: Info) -> Self {
        self.info = info;
        self
    }

    /// What the runner tells GitLab about itself.
    #[must_use]
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The attributes in the form in which GitLab gets them.
    #[must_use]
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// The names of the attributes that differ from the default.
    #[must_use]
    pub fn given(&self) -> Vec<&'static str> {
        let (given, default) = (&self.attributes, Self::new().attributes);
        let rows = [
            ("description", given.description != default.description),
            ("maintenance_note", given.maintenance_note != default.maintenance_note),
            ("paused", given.paused != default.paused),
            ("locked", given.locked != default.locked),
            ("run_untagged", given.run_untagged != default.run_untagged),
            ("tags", given.tag_list != default.tag_list),
            ("access_level", given.access_level != default.access_level),
            ("maximum_timeout", given.maximum_timeout != default.maximum_timeout),
        ];
        rows.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }
}

/// What a runner tells GitLab about itself by default: this library, and this platform as the official runner spells it.
#[must_use]
pub fn default_info() -> Info {
    let platform = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        other => other,
    };
    Info::new("gitlab-runner-api", env!("CARGO_PKG_VERSION")).with_platform(platform, architecture)
}
