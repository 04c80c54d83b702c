//! Credentials, secrets, inputs, hooks, and options of policies and suspension.

use std::fmt;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::or_default;
use crate::secret::Secret;
use crate::status::open_enum;

/// One entry of `credentials`.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Credential {
    /// `registry`, or what else newer servers send.
    #[serde(rename = "type", default, deserialize_with = "or_default")]
    pub kind: String,
    /// Host and perhaps port and path, without a scheme.
    #[serde(default, deserialize_with = "or_default")]
    pub url: String,
    /// The user name.
    #[serde(default, deserialize_with = "or_default")]
    pub username: String,
    /// The password: mostly the job's token.
    #[serde(default, deserialize_with = "or_default")]
    pub password: Option<Secret>,
}

/// One entry of `hooks`: a script for a certain moment, such as `pre_get_sources_script`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Hook {
    /// The moment.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// The commands, one an entry.
    #[serde(default, deserialize_with = "or_default")]
    pub script: Vec<String>,
}

/// One entry of `inputs`.
#[derive(Clone, Debug, Default, Deserialize)]
#[non_exhaustive]
pub struct Input {
    /// Its name.
    #[serde(default, deserialize_with = "or_default")]
    pub key: String,
    /// Its value.
    #[serde(default, deserialize_with = "or_default")]
    pub value: InputValue,
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

/// The value of an input. `Debug` shows its type alone.
#[derive(Clone, Default, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct InputValue {
    /// Its type.
    #[serde(rename = "type", default, deserialize_with = "or_default")]
    pub kind: Option<InputType>,
    /// The value itself, null if there is none.
    #[serde(default)]
    pub content: Value,
    /// It must not be shown.
    #[serde(default, deserialize_with = "or_default")]
    pub sensitive: bool,
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

impl<'de> Deserialize<'de> for JobSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let members: Map<String, Value> = or_default(deserializer)?;
        let file = members.get("file").and_then(Value::as_bool).unwrap_or(true);
        // Beside `file` and `token` an entry has one member: its provider.
        let provider = members.iter().find(|(_, value)| value.is_object()).map(|(name, _)| name.as_str().into());
        Ok(Self { file, provider, members })
    }
}

impl fmt::Debug for JobSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobSecret").field("file", &self.file).field("provider", &self.provider).finish_non_exhaustive()
    }
}

/// `policy_options`: how a policy bears upon the job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct PolicyOptions {
    /// The job comes from an execution policy.
    #[serde(default, deserialize_with = "or_default")]
    pub execution_policy_job: bool,
    /// Which.
    #[serde(default, deserialize_with = "or_default")]
    pub policy_name: Option<String>,
    /// Whether variables of the job may override those of the policy.
    #[serde(default, deserialize_with = "or_default")]
    pub policy_variables_override_allowed: Option<bool>,
    /// The variables for which that is the other way round.
    #[serde(default, deserialize_with = "or_default")]
    pub policy_variables_override_exceptions: Vec<String>,
}

/// `suspend_options`: whether the environment is to be suspended when the job has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct SuspendOptions {
    /// After a success.
    #[serde(default, deserialize_with = "or_default")]
    pub suspend_on_success: bool,
    /// After a failure.
    #[serde(default, deserialize_with = "or_default")]
    pub suspend_on_failure: bool,
    /// The environment to go on in.
    #[serde(default, deserialize_with = "or_default")]
    pub runtime_environment_key: Option<String>,
}
