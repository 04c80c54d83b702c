//! `artifacts`, `cache` and `dependencies`: files that come and go with a job.

use crate::api::members::{members, words};
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

members! {
    /// One entry of `artifacts`: what to upload when the script has ended.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct ArtifactSpec {
        /// The name of the archive, which may have references to variables.
        pub name: Option<String>,
        /// All files that git does not know, too.
        pub untracked: bool,
        /// Patterns of the files.
        pub paths: Vec<String>,
        /// Patterns of files that are left out.
        pub exclude: Vec<String>,
        /// When; none means after a success.
        pub when: Option<ArtifactWhen>,
        /// How long GitLab keeps it: `1 week`.
        pub expire_in: Option<String>,
        /// `archive`, or a type of report. Servers of 11 leave it out and mean the archive.
        pub artifact_type: Option<String>,
        /// How to pack it. Servers of 11 leave it out and mean zip.
        pub artifact_format: Option<ArtifactFormat>,
    }
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

members! {
    /// One entry of `cache`.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct Cache {
        /// Its key, which may have references to variables.
        pub key: String,
        /// All files that git does not know, too.
        pub untracked: bool,
        /// Patterns of the files.
        pub paths: Vec<String>,
        /// What to do with it; none means both.
        pub policy: Option<CachePolicy>,
        /// When to save it; none means after a success.
        pub when: Option<ArtifactWhen>,
        /// Keys to be tried in order if there is nothing under [`Cache::key`].
        pub fallback_keys: Vec<String>,
    }
}

members! {
    /// One entry of `dependencies`: a job whose artifacts are wanted.
    #[derive(Clone, Debug)]
    #[non_exhaustive]
    pub struct Dependency {
        /// The id of the job that left them.
        pub id: u64,
        /// Its name.
        pub name: String,
        /// The token to fetch them with: the running job's, or on older servers that job's own.
        pub token: Option<JobToken>,
        /// What there is to fetch; none if there is nothing.
        pub artifacts_file: Option<ArtifactsFile>,
    }
}

members! {
    /// An archive that a job left.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct ArtifactsFile {
        /// Its name.
        pub filename: String,
        /// Its size in bytes.
        pub size: u64,
    }
}

words!(ArtifactWhen, ArtifactFormat, CachePolicy);
