//! Credentials, secrets, inputs, hooks, and options of policies and suspension.

use std::fmt;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::api::members::{LossKind, Read, Walk, members, words};
use crate::secret::Secret;
use crate::status::open_enum;

members! {
    /// One entry of `credentials`.
    #[derive(Clone, Debug)]
    #[non_exhaustive]
    pub struct Credential {
        /// `registry`, or what else newer servers send.
        pub kind as "type": String,
        /// Host and perhaps port and path, without a scheme.
        pub url: String,
        /// The user name.
        pub username: String,
        /// The password: mostly the job's token.
        pub password: Option<Secret>,
    }
}

members! {
    /// One entry of `hooks`: a script for a certain moment, such as `pre_get_sources_script`.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct Hook {
        /// The moment.
        pub name: String,
        /// The commands, one an entry.
        pub script: Vec<String>,
    }
}

members! {
    /// One entry of `inputs`.
    #[derive(Clone, Debug, Default)]
    #[non_exhaustive]
    pub struct Input {
        /// Its name.
        pub key: String,
        /// Its value.
        pub value: InputValue,
    }
}

open_enum! {
    /// The type of an input.
    InputType {
        /// A text.
        String = "string",
        /// A number.
        Number = "number",
        /// True or false.
        Boolean = "boolean",
        /// A list.
        Array = "array",
        /// An object.
        Struct = "struct",
    }
}

members! {
    /// The value of an input. `Debug` shows its type alone.
    #[derive(Clone, Default, PartialEq)]
    #[non_exhaustive]
    pub struct InputValue {
        /// Its type.
        pub kind as "type": Option<InputType>,
        /// The value itself, null if there is none.
        pub content: Value,
        /// It must not be shown.
        pub sensitive: bool = Careful,
    }
}

impl fmt::Debug for InputValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, sensitive, content: _ } = self;
        f.debug_struct("InputValue").field("kind", kind).field("sensitive", sensitive).finish_non_exhaustive()
    }
}

open_enum! {
    /// Where a secret is kept.
    SecretProvider {
        /// HashiCorp Vault.
        Vault = "vault",
        /// Google Cloud Secret Manager.
        GcpSecretManager = "gcp_secret_manager",
        /// Azure Key Vault.
        AzureKeyVault = "azure_key_vault",
        /// AWS Secrets Manager.
        AwsSecretsManager = "aws_secrets_manager",
        /// GitLab's own.
        GitlabSecretsManager = "gitlab_secrets_manager",
        /// Akeyless.
        Akeyless = "akeyless",
    }
}

/// One entry of `secrets`: a value to be fetched. `Debug` shows the provider alone, because tokens may be in it.
#[derive(Clone)]
#[non_exhaustive]
pub struct JobSecret {
    /// Whether the variable names a file with the value in it, which it does unless the job says otherwise.
    pub file: bool,
    /// Where the value is kept; none if the entry names no provider.
    pub provider: Option<SecretProvider>,
    members: Map<String, Value>,
}

impl JobSecret {
    /// What the provider has to be told: where the value is, and how to authenticate. Texts in it may have references to
    /// variables. **Secret.**
    #[must_use]
    pub fn configuration(&self) -> Option<&Value> {
        self.members.get(self.provider.as_ref()?.as_str())
    }

    /// The whole entry. **Secret.**
    #[must_use]
    pub fn members(&self) -> &Map<String, Value> {
        &self.members
    }
}

impl JobSecret {
    fn of(members: Map<String, Value>) -> Self {
        let file = members.get("file").and_then(Value::as_bool).unwrap_or(true);
        // Beside `file` and `token` an entry has one member: its provider.
        let provider = members.iter().find(|(_, value)| value.is_object()).map(|(name, _)| name.as_str().into());
        Self { file, provider, members }
    }

    /// Whether `file` is there and neither yes nor no.
    fn is_file_unreadable(members: &Map<String, Value>) -> bool {
        members.get("file").is_some_and(|file| !file.is_boolean() && !file.is_null())
    }
}

impl<'de> Deserialize<'de> for JobSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let members = Option::<Map<String, Value>>::deserialize(deserializer)?.unwrap_or_default();
        if Self::is_file_unreadable(&members) {
            return Err(serde::de::Error::custom("`file` is neither true nor false"));
        }
        Ok(Self::of(members))
    }
}

impl Read for JobSecret {
    fn read(raw: &str, walk: &mut Walk<'_>) -> Option<Self> {
        if raw == "null" {
            return Some(Self::of(Map::new()));
        }
        let mut members = Map::read(raw, walk)?;
        if Self::is_file_unreadable(&members) {
            walk.member("file", |walk| walk.dropped(LossKind::WrongType));
            members.remove("file");
        }
        Some(Self::of(members))
    }
}

impl fmt::Debug for JobSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobSecret").field("file", &self.file).field("provider", &self.provider).finish_non_exhaustive()
    }
}

members! {
    /// `policy_options`: how a policy bears upon the job.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct PolicyOptions {
        /// The job comes from an execution policy.
        pub execution_policy_job: bool,
        /// Which.
        pub policy_name: Option<String>,
        /// Whether variables of the job may override those of the policy.
        pub policy_variables_override_allowed: Option<bool>,
        /// The variables for which that is the other way round.
        pub policy_variables_override_exceptions: Vec<String>,
    }
}

members! {
    /// `suspend_options`: whether the environment is to be suspended when the job has ended.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct SuspendOptions {
        /// After a success.
        pub suspend_on_success: bool,
        /// After a failure.
        pub suspend_on_failure: bool,
        /// The environment to go on in. See [`SuspendOptions::key`].
        pub runtime_environment_key: Option<String>,
        /// The same in GitLab 19.0 to 19.3, where the member had another name.
        pub environment_key: Option<String>,
    }
}

impl SuspendOptions {
    /// The environment to go on in, under whichever name the server sends it. A new key is reported with
    /// [`JobResult::with_runtime_environment_key`](crate::JobResult::with_runtime_environment_key).
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.runtime_environment_key.as_deref().or(self.environment_key.as_deref())
    }
}

words!(InputType, SecretProvider);
