//! The words of GitLab: job states, job statuses and failure reasons.

use serde::{Deserialize, Serialize};

/// A word this version does not know. It is kept as it came and written back unchanged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnknownWord(pub(crate) Box<str>);

/// An enumeration whose words come from a server that may know more of them than we do.
macro_rules! open_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
            /// A word that this version does not know, see [`Self::as_str`].
            #[doc(hidden)]
            Unknown($crate::status::UnknownWord),
        }

        impl $name {
            /// The word as GitLab writes it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $word,)+
                    Self::Unknown(word) => &word.0,
                }
            }
        }

        impl From<&str> for $name {
            fn from(word: &str) -> Self {
                match word {
                    $($word => Self::$variant,)+
                    other => Self::Unknown($crate::status::UnknownWord(other.into())),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Ok(std::borrow::Cow::<str>::deserialize(deserializer)?.as_ref().into())
            }
        }
    };
}
pub(crate) use open_enum;

open_enum! {
    /// A job's status as GitLab sees it, from the header `Job-Status`.
    JobStatus {
        /// Waiting for a runner, or handed out and not yet accepted (two-phase commit).
        Pending = "pending",
        /// Running.
        Running = "running",
        /// A user cancelled it; the runner is to stop gracefully and to run `after_script`.
        Canceling = "canceling",
        /// Ended well.
        Success = "success",
        /// Ended badly.
        Failed = "failed",
        /// Ended by a user.
        Canceled = "canceled",
    }
}

impl JobStatus {
    /// Whether a job with this status has ended. Of unknown statuses nothing is assumed.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Success | Self::Failed | Self::Canceled)
    }
}

open_enum! {
    /// Why a job failed (`failure_reason` of `PUT /jobs/:id`).
    ///
    /// GitLab takes any word it knows and turns others into `unknown_failure`. Which ones it knows is in the payload's
    /// `features.failure_reasons`; a job maps its reason through that list before it reports.
    FailureReason {
        /// The user's script failed.
        ScriptFailure = "script_failure",
        /// The runner or its infrastructure failed.
        RunnerSystemFailure = "runner_system_failure",
        /// The job ran longer than its timeout.
        JobExecutionTimeout = "job_execution_timeout",
        /// A container image could not be pulled.
        ImagePullFailure = "image_pull_failure",
        /// The job or the runner is configured wrongly.
        RunnerConfigurationError = "runner_configuration_error",
        /// A system the runner depends on failed.
        RunnerExternalDependencyFailure = "runner_external_dependency_failure",
        /// The runner was told to stop.
        RunnerInterrupted = "runner_interrupted",
        /// The job needs a feature that the runner lacks.
        RunnerUnsupported = "runner_unsupported",
        /// The API failed.
        ApiFailure = "api_failure",
        /// The job was stuck, or timed out.
        StuckOrTimeoutFailure = "stuck_or_timeout_failure",
        /// A dependency of the job is missing.
        MissingDependencyFailure = "missing_dependency_failure",
        /// Something a user must provide first is missing.
        UnmetPrerequisites = "unmet_prerequisites",
        /// Data of the job are inconsistent.
        DataIntegrityFailure = "data_integrity_failure",
        /// Nothing is known of the reason.
        UnknownFailure = "unknown_failure",
    }
}

impl FailureReason {
    /// The reason to send to a server that knows `supported`, by the same steps as the official runner.
    #[must_use]
    pub(crate) fn supported_by(&self, supported: &[Self]) -> Self {
        let mut reason = self;
        loop {
            let always = matches!(
                reason,
                Self::ScriptFailure | Self::RunnerSystemFailure | Self::JobExecutionTimeout | Self::UnknownFailure
            );
            if always || supported.contains(reason) {
                return reason.clone();
            }
            reason = match reason {
                Self::ImagePullFailure | Self::RunnerExternalDependencyFailure => &Self::RunnerSystemFailure,
                Self::RunnerConfigurationError => &Self::ScriptFailure,
                _ => &Self::UnknownFailure,
            };
        }
    }
}

/// How a job ended, in the runner's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(clippy::exhaustive_enums, reason = "the API knows these two final states and no other")]
pub enum JobState {
    /// `success`.
    Success,
    /// `failed`.
    Failed,
}

impl JobState {
    /// The word as GitLab writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_words_survive_a_round_trip() {
        let status: JobStatus = serde_json::from_str("\"waiting_for_moon\"").unwrap();
        assert!(matches!(status, JobStatus::Unknown(_)) && !status.is_final());
        assert_eq!(serde_json::to_string(&status).unwrap(), "\"waiting_for_moon\"");
    }

    #[test]
    fn reasons_fall_back_as_the_official_runner_does() {
        use FailureReason as R;
        let rows = [
            (R::ImagePullFailure, vec![], R::RunnerSystemFailure),
            (R::ImagePullFailure, vec![R::ImagePullFailure], R::ImagePullFailure),
            (R::RunnerConfigurationError, vec![], R::ScriptFailure),
            (R::RunnerExternalDependencyFailure, vec![], R::RunnerSystemFailure),
            (R::RunnerInterrupted, vec![], R::UnknownFailure),
            (R::RunnerInterrupted, vec![R::RunnerInterrupted], R::RunnerInterrupted),
            (R::JobExecutionTimeout, vec![], R::JobExecutionTimeout),
            (R::from("job_canceled"), vec![], R::UnknownFailure),
        ];
        for (reason, supported, sent) in rows {
            assert_eq!(reason.supported_by(&supported), sent, "{reason} with {supported:?}");
        }
    }
}
