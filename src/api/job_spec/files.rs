//! `artifacts`, `cache` and `dependencies`: files that come and go with a job.

use serde::Deserialize;

use super::or_default;
use crate::secret::JobToken;
use crate::status::open_enum;

open_enum! {
    /// After which end something is uploaded or saved.
    ArtifactWhen {
        /// The script succeeded.
        OnSuccess = "on_success",
        /// The script failed.
        OnFailure = "on_failure",
        /// Either.
        Always = "always",
    }
}

open_enum! {
    /// How a file is packed.
    ArtifactFormat {
        /// A zip archive.
        Zip = "zip",
        /// Each file as a gzip member, one after the other.
        Gzip = "gzip",
        /// The one file as it is.
        Raw = "raw",
    }
}

/// One entry of `artifacts`: what to upload when the script has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct ArtifactSpec {
    /// The name of the archive, which may have references to variables.
    #[serde(default, deserialize_with = "or_default")]
    pub name: Option<String>,
    /// All files that git does not know, too.
    #[serde(default, deserialize_with = "or_default")]
    pub untracked: bool,
    /// Patterns of the files.
    #[serde(default, deserialize_with = "or_default")]
    pub paths: Vec<String>,
    /// Patterns of files that are left out.
    #[serde(default, deserialize_with = "or_default")]
    pub exclude: Vec<String>,
    /// When; none means after a success.
    #[serde(default, deserialize_with = "or_default")]
    pub when: Option<ArtifactWhen>,
    /// How long GitLab keeps it: `1 week`.
    #[serde(default, deserialize_with = "or_default")]
    pub expire_in: Option<String>,
    /// `archive`, or a type of report. Servers of 11 leave it out and mean the archive.
    #[serde(default, deserialize_with = "or_default")]
    pub artifact_type: Option<String>,
    /// How to pack it. Servers of 11 leave it out and mean zip.
    #[serde(default, deserialize_with = "or_default")]
    pub artifact_format: Option<ArtifactFormat>,
}

open_enum! {
    /// What to do with a cache. May also be a reference to a variable.
    CachePolicy {
        /// Restore it.
        Pull = "pull",
        /// Save it.
        Push = "push",
        /// Both.
        PullPush = "pull-push",
    }
}

/// One entry of `cache`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Cache {
    /// Its key, which may have references to variables.
    #[serde(default, deserialize_with = "or_default")]
    pub key: String,
    /// All files that git does not know, too.
    #[serde(default, deserialize_with = "or_default")]
    pub untracked: bool,
    /// Patterns of the files.
    #[serde(default, deserialize_with = "or_default")]
    pub paths: Vec<String>,
    /// What to do with it; none means both.
    #[serde(default, deserialize_with = "or_default")]
    pub policy: Option<CachePolicy>,
    /// When to save it; none means after a success.
    #[serde(default, deserialize_with = "or_default")]
    pub when: Option<ArtifactWhen>,
    /// Keys to be tried in order if there is nothing under [`Cache::key`].
    #[serde(default, deserialize_with = "or_default")]
    pub fallback_keys: Vec<String>,
}

/// One entry of `dependencies`: a job whose artifacts are wanted.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Dependency {
    /// The id of the job that left them.
    #[serde(default, deserialize_with = "or_default")]
    pub id: u64,
    /// Its name.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// The token to fetch them with: the running job's, or on older servers that job's own.
    #[serde(default, deserialize_with = "or_default")]
    pub token: Option<JobToken>,
    /// What there is to fetch; none if there is nothing.
    #[serde(default, deserialize_with = "or_default")]
    pub artifacts_file: Option<ArtifactsFile>,
}

/// An archive that a job left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct ArtifactsFile {
    /// Its name.
    #[serde(default, deserialize_with = "or_default")]
    pub filename: String,
    /// Its size in bytes.
    #[serde(default, deserialize_with = "or_default")]
    pub size: u64,
}
