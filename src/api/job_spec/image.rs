//! `image` and `services`: what a job runs in and beside.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::or_default;

/// `image`: the image the job is to run in.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Image {
    /// Its name, which may have references to variables.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// What to run in place of its entry point.
    #[serde(default, deserialize_with = "one_or_many")]
    pub entrypoint: Option<Vec<String>>,
    /// Ports of the image.
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<Port>,
    /// Options by executor, such as `docker.platform`, `docker.user` or `kubernetes.user` (a text or a number).
    #[serde(default, deserialize_with = "or_default")]
    pub executor_opts: Map<String, Value>,
    /// When to pull it, in order of preference: `always`, `if-not-present`, `never`.
    #[serde(default, deserialize_with = "or_default")]
    pub pull_policy: Vec<String>,
}

/// One entry of `services`: what is to run beside the job.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Service {
    /// The name of its image, which may have references to variables.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// The names it is reached by, in one text. See [`Service::aliases`].
    #[serde(default, deserialize_with = "or_default")]
    pub alias: Option<String>,
    /// What to run in place of its entry point.
    #[serde(default, deserialize_with = "one_or_many")]
    pub entrypoint: Option<Vec<String>>,
    /// What to run in place of its command.
    #[serde(default, deserialize_with = "one_or_many")]
    pub command: Option<Vec<String>>,
    /// Ports of the image.
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<Port>,
    /// Variables for this service alone.
    #[serde(default, deserialize_with = "or_default")]
    pub variables: Vec<ServiceVariable>,
    /// As [`Image::executor_opts`].
    #[serde(default, deserialize_with = "or_default")]
    pub executor_opts: Map<String, Value>,
    /// As [`Image::pull_policy`].
    #[serde(default, deserialize_with = "or_default")]
    pub pull_policy: Vec<String>,
}

impl Service {
    /// The names it is reached by. GitLab separates several by commas or spaces.
    pub fn aliases(&self) -> impl Iterator<Item = &str> {
        let all = self.alias.as_deref().unwrap_or_default();
        all.split(|c: char| c == ',' || c.is_whitespace()).filter(|alias| !alias.is_empty())
    }
}

/// A variable of a service. `Debug` shows its key alone.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct ServiceVariable {
    /// The name.
    #[serde(default, deserialize_with = "or_default")]
    pub key: String,
    /// The value, to be expanded with the job's variables.
    #[serde(default, deserialize_with = "or_default")]
    pub value: String,
}

impl std::fmt::Debug for ServiceVariable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceVariable").field("key", &self.key).finish_non_exhaustive()
    }
}

/// A port of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Port {
    /// Its number.
    #[serde(default, deserialize_with = "or_default")]
    pub number: u32,
    /// `http` or `https`.
    #[serde(default, deserialize_with = "or_default")]
    pub protocol: String,
    /// A name for it.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
}

/// A command that is a list of words, or one text, as some servers send it.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(String),
        Many(Vec<String>),
    }
    Ok(Option::deserialize(deserializer)?.map(|words| match words {
        Words::One(word) => vec![word],
        Words::Many(words) => words,
    }))
}
