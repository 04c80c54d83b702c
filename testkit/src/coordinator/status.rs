//! The states of a job.

/// The states of a job that a runner can cause or see.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobStatus {
    /// Queued, or lent to a runner that has not accepted it yet.
    Pending,
    /// Handed out.
    Running,
    /// Cancelled gracefully: the runner is to run `after_script` and to finish.
    Canceling,
    /// Ended well.
    Success,
    /// Ended badly.
    Failed,
    /// Ended by a user.
    Canceled,
    /// Not handed out, because a job that it depends on did not succeed. It waits again if that one is retried.
    Skipped,
}

impl JobStatus {
    /// The word GitLab uses, also in the `Job-Status` header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Canceling => "canceling",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Skipped => "skipped",
        }
    }

    /// Whether nothing changes any more, except that a skipped job may wait again.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Success | Self::Failed | Self::Canceled | Self::Skipped)
    }
}
