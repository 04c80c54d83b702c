//! What a new runner is to be like, and what a runner says of itself.

use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::api::register::{AccessLevel, Attributes};

/// What a new runner is to be like. GitLab keeps it; change it there later.
///
/// By default the runner takes jobs with and without tags.
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
    /// A runner that takes all jobs.
    #[must_use]
    pub fn new() -> Self {
        let mut attributes = Attributes::default();
        attributes.run_untagged = true;
        Self { attributes, info: default_info() }
    }

    /// A text for people.
    #[must_use]
    pub fn with_description(mut self, text: impl Into<String>) -> Self {
        self.attributes.description = Some(text.into());
        self
    }

    /// A note for administrators, up to 1024 characters.
    #[must_use]
    pub fn with_maintenance_note(mut self, text: impl Into<String>) -> Self {
        self.attributes.maintenance_note = Some(text.into());
        self
    }

    /// Takes no jobs until it is resumed in GitLab.
    #[must_use]
    pub fn with_paused(mut self, paused: bool) -> Self {
        self.attributes.paused = paused;
        self
    }

    /// Bound to its project.
    #[must_use]
    pub fn with_locked(mut self, locked: bool) -> Self {
        self.attributes.locked = locked;
        self
    }

    /// Takes jobs without tags. A runner that takes none needs tags.
    #[must_use]
    pub fn with_run_untagged(mut self, untagged: bool) -> Self {
        self.attributes.run_untagged = untagged;
        self
    }

    /// The tags of the jobs it takes.
    #[must_use]
    pub fn with_tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.attributes.tag_list = tags.into_iter().map(Into::into).collect();
        self
    }

    /// Which refs it takes jobs from.
    #[must_use]
    pub fn with_access_level(mut self, level: AccessLevel) -> Self {
        self.attributes.access_level = Some(level);
        self
    }

    /// The longest a job may take, in whole seconds.
    #[must_use]
    pub fn with_maximum_timeout(mut self, seconds: u64) -> Self {
        self.attributes.maximum_timeout = Some(seconds);
        self
    }

    /// What the runner tells about itself. Give the adapter's `Runner::with_info` the same.
    #[must_use]
    pub fn with_info(mut self, info: Info) -> Self {
        self.info = info;
        self
    }

    /// What the runner tells about itself.
    #[must_use]
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The attributes as GitLab gets them.
    #[must_use]
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// The names of those attributes that differ from the default.
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

/// This library and this platform, in the spelling of the official runner: what a runner says of itself that was told nothing
/// else.
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
