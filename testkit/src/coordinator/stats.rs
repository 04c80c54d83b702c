//! Counting what the simulated GitLab was asked and what it answered.

use std::collections::BTreeMap;

use http::StatusCode;

/// The endpoints that are told apart when requests are counted.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// `POST /runners`
    Register,
    /// `POST /runners/verify`
    Verify,
    /// `POST /jobs/request`
    RequestJob,
    /// `PUT /jobs/:id`
    UpdateJob,
    /// `PATCH /jobs/:id/trace`
    PatchTrace,
    /// `DELETE /runners`
    Unregister,
    /// `DELETE /runners/managers`
    UnregisterManager,
    /// `POST /runners/reset_authentication_token`
    ResetToken,
    /// `POST /runners/:id/reset_authentication_token`
    ResetTokenAsUser,
    /// `POST /user/runners`
    CreateRunner,
    /// `GET /runners/router/discovery`
    DiscoverRouter,
    /// `GET /jobs/:id/runtime_environment_key`
    RuntimeEnvironmentKey,
    /// `POST /jobs/:id/artifacts`
    UploadArtifact,
    /// `GET /jobs/:id/artifacts`
    DownloadArtifacts,
    /// `POST /jobs/:id/artifacts/authorize`, which is only for the front proxy.
    AuthorizeUpload,
    /// `GET /object-storage/:id`, an address outside the API that a direct download is sent to.
    ReadStorage,
    /// An operation of the API for users, such as `GET /projects/:id/jobs`. Runners do not call it.
    UserApi,
    /// Anything that was answered with 404, 405 or 410 without being looked at.
    Other,
}

impl Endpoint {
    /// Method and path, with placeholders.
    #[must_use]
    pub const fn route(self) -> &'static str {
        match self {
            Self::Register => "POST /runners",
            Self::Verify => "POST /runners/verify",
            Self::RequestJob => "POST /jobs/request",
            Self::UpdateJob => "PUT /jobs/:id",
            Self::PatchTrace => "PATCH /jobs/:id/trace",
            Self::Unregister => "DELETE /runners",
            Self::UnregisterManager => "DELETE /runners/managers",
            Self::ResetToken => "POST /runners/reset_authentication_token",
            Self::ResetTokenAsUser => "POST /runners/:id/reset_authentication_token",
            Self::CreateRunner => "POST /user/runners",
            Self::DiscoverRouter => "GET /runners/router/discovery",
            Self::RuntimeEnvironmentKey => "GET /jobs/:id/runtime_environment_key",
            Self::UploadArtifact => "POST /jobs/:id/artifacts",
            Self::DownloadArtifacts => "GET /jobs/:id/artifacts",
            Self::AuthorizeUpload => "POST /jobs/:id/artifacts/authorize",
            Self::ReadStorage => "GET /object-storage/:id",
            Self::UserApi => "user API",
            Self::Other => "other",
        }
    }
}

/// Requests and answers so far.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    requests: BTreeMap<Endpoint, u64>,
    answers: BTreeMap<(Endpoint, u16), u64>,
    abandoned: u64,
}

impl Stats {
    /// Requests received at an endpoint.
    #[must_use]
    pub fn requests(&self, endpoint: Endpoint) -> u64 {
        self.requests.get(&endpoint).copied().unwrap_or(0)
    }

    /// Every endpoint that was asked, and how often.
    pub fn all_requests(&self) -> impl Iterator<Item = (Endpoint, u64)> {
        self.requests.iter().map(|(endpoint, count)| (*endpoint, *count))
    }

    /// Requests received in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.requests.values().sum()
    }

    /// Answers with that status, from any endpoint.
    #[must_use]
    pub fn answers(&self, status: u16) -> u64 {
        self.answers.iter().filter(|((_, code), _)| *code == status).map(|(_, count)| count).sum()
    }

    /// Every status that was answered, and how often.
    pub fn all_answers(&self) -> impl Iterator<Item = (u16, u64)> {
        let mut counts: BTreeMap<u16, u64> = BTreeMap::new();
        for ((_, status), count) in &self.answers {
            *counts.entry(*status).or_default() += count;
        }
        counts.into_iter()
    }

    /// Answers with that status from one endpoint.
    #[must_use]
    pub fn answers_of(&self, endpoint: Endpoint, status: u16) -> u64 {
        self.answers.get(&(endpoint, status)).copied().unwrap_or(0)
    }

    /// Held job requests whose client went away.
    #[must_use]
    pub fn abandoned(&self) -> u64 {
        self.abandoned
    }

    pub(super) fn count_request(&mut self, endpoint: Endpoint) {
        *self.requests.entry(endpoint).or_default() += 1;
    }

    pub(super) fn count_answer(&mut self, endpoint: Endpoint, status: StatusCode) {
        *self.answers.entry((endpoint, status.as_u16())).or_default() += 1;
    }

    pub(super) fn count_abandoned(&mut self) {
        self.abandoned += 1;
    }
}
