//! `image` and `services`: what a job runs in and beside.

use serde_json::{Map, Value};

use crate::api::members::members;

members! {
    /// `image`: the image the job is to run in.
    #[derive(Clone, Debug, Default, PartialEq)]
    #[non_exhaustive]
    pub struct Image {
        /// Its name, which may have references to variables.
        pub name: String,
        /// What to run in place of its entry point.
        pub entrypoint: Option<Vec<String>> = OneOrMany,
        /// Ports of the image.
        pub ports: Vec<Port>,
        /// Options by executor, such as `docker.platform`, `docker.user` or `kubernetes.user` (a text or a number).
        pub executor_opts: Map<String, Value>,
        /// When to pull it, in order of preference: `always`, `if-not-present`, `never`.
        pub pull_policy: Vec<String>,
    }
}

members! {
    /// One entry of `services`: what is to run beside the job.
    #[derive(Clone, Debug, Default, PartialEq)]
    #[non_exhaustive]
    pub struct Service {
        /// The name of its image, which may have references to variables.
        pub name: String,
        /// The names it is reached by, in one text. See [`Service::aliases`].
        pub alias: Option<String>,
        /// What to run in place of its entry point.
        pub entrypoint: Option<Vec<String>> = OneOrMany,
        /// What to run in place of its command.
        pub command: Option<Vec<String>> = OneOrMany,
        /// Ports of the image.
        pub ports: Vec<Port>,
        /// Variables for this service alone.
        pub variables: Vec<ServiceVariable>,
        /// As [`Image::executor_opts`].
        pub executor_opts: Map<String, Value>,
        /// As [`Image::pull_policy`].
        pub pull_policy: Vec<String>,
    }
}

impl Service {
    /// The names it is reached by. GitLab separates several by commas or spaces.
    pub fn aliases(&self) -> impl Iterator<Item = &str> {
        let all = self.alias.as_deref().unwrap_or_default();
        all.split(|c: char| c == ',' || c.is_whitespace()).filter(|alias| !alias.is_empty())
    }
}

members! {
    /// A variable of a service. `Debug` shows its key alone.
    #[derive(Clone, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct ServiceVariable {
        /// The name.
        pub key: String,
        /// The value, to be expanded with the job's variables.
        pub value: String,
    }
}

impl std::fmt::Debug for ServiceVariable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceVariable").field("key", &self.key).finish_non_exhaustive()
    }
}

members! {
    /// A port of an image.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct Port {
        /// Its number.
        pub number: u32,
        /// `http` or `https`.
        pub protocol: String,
        /// A name for it.
        pub name: String,
    }
}
