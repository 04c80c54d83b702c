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
    /// Anything that was answered with 404, 405 or 410 without being looked at.
    Other,
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
