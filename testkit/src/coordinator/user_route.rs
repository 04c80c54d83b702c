//! What a request of the API for users asks for.

use std::borrow::Cow;

use http::Method;

use crate::routes::{self, Operation};

/// The operations of the API for users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UserRoute {
    ShowProject,
    ListJobs,
    ShowJob,
    ShowTrace,
    DownloadArtifacts,
    CancelJob,
    RetryJob,
    EraseJob,
    ListProjectRunners,
    ListOwnedRunners,
    ListAllRunners,
    ShowRunner,
    UpdateRunner,
    DeleteRunner,
    ListManagers,
    ListRunnerJobs,
}

/// All operations, with paths below `/api/v4/`.
static OPERATIONS: &[Operation<UserRoute>] = &[
    Operation::new(Method::GET, "projects/{id}", UserRoute::ShowProject),
    Operation::new(Method::GET, "projects/{id}/jobs", UserRoute::ListJobs),
    Operation::new(Method::GET, "projects/{id}/jobs/{job_id}", UserRoute::ShowJob),
    Operation::new(Method::GET, "projects/{id}/jobs/{job_id}/trace", UserRoute::ShowTrace),
    Operation::new(Method::GET, "projects/{id}/jobs/{job_id}/artifacts", UserRoute::DownloadArtifacts),
    Operation::new(Method::POST, "projects/{id}/jobs/{job_id}/cancel", UserRoute::CancelJob),
    Operation::new(Method::POST, "projects/{id}/jobs/{job_id}/retry", UserRoute::RetryJob),
    Operation::new(Method::POST, "projects/{id}/jobs/{job_id}/erase", UserRoute::EraseJob),
    Operation::new(Method::GET, "projects/{id}/runners", UserRoute::ListProjectRunners),
    Operation::new(Method::GET, "runners", UserRoute::ListOwnedRunners),
    Operation::new(Method::GET, "runners/all", UserRoute::ListAllRunners),
    Operation::new(Method::GET, "runners/{id}", UserRoute::ShowRunner),
    Operation::new(Method::PUT, "runners/{id}", UserRoute::UpdateRunner),
    Operation::new(Method::DELETE, "runners/{id}", UserRoute::DeleteRunner),
    Operation::new(Method::GET, "runners/{id}/managers", UserRoute::ListManagers),
    Operation::new(Method::GET, "runners/{id}/jobs", UserRoute::ListRunnerJobs),
];

/// An operation that a request asks for.
#[derive(Debug)]
pub(super) struct Call {
    operation: &'static Operation<UserRoute>,
    /// The values of the parameters in the path.
    values: Vec<String>,
}

/// The methods and the paths of all operations.
#[cfg(test)]
pub(crate) fn operations() -> impl Iterator<Item = (&'static Method, &'static str)> {
    OPERATIONS.iter().map(|operation| (&operation.method, operation.path))
}

/// Returns the calls that are possible at a path below `/api/v4/`.
pub(super) fn calls(path: &str) -> impl Iterator<Item = Call> {
    let values = |values: routes::Values<'_>| values.into_iter().map(Cow::into_owned).collect();
    routes::at(OPERATIONS, path).map(move |(operation, found)| Call { operation, values: values(found) })
}

impl Call {
    /// The operation.
    pub(super) fn route(&self) -> UserRoute {
        self.operation.act
    }

    /// The values of the parameters in the path, in their order.
    pub(super) fn values(&self) -> &[String] {
        &self.values
    }

    /// The method of the operation.
    pub(super) fn method(&self) -> Method {
        self.operation.method.clone()
    }

    /// Whether a running job may make the call with its token.
    pub(super) fn takes_job_token(&self) -> bool {
        matches!(self.operation.act, UserRoute::ListJobs | UserRoute::DownloadArtifacts)
    }

    /// The job that the call changes.
    pub(super) fn job(&self) -> Option<u64> {
        if self.operation.method == Method::GET || !self.operation.path.starts_with("projects/{id}/jobs/") {
            return None;
        }
        self.values.get(1)?.parse().ok()
    }

    /// The scopes of an access token that allow the call, separated by spaces.
    pub(super) fn scopes(&self) -> &'static str {
        let reads = self.operation.method == Method::GET;
        match (reads, self.operation.path.starts_with("runners/{id}")) {
            (true, true) => "api read_api manage_runner",
            (true, false) => "api read_api",
            (false, true) => "api manage_runner",
            (false, false) => "api",
        }
    }

    /// The path below `/api/v4/`.
    pub(super) fn path(&self) -> String {
        let mut values = self.values.iter();
        let segment = |part: &str| match part.strip_prefix('{').and_then(|_| values.next()) {
            Some(value) => form_urlencoded::byte_serialize(value.as_bytes()).collect(),
            None => part.to_owned(),
        };
        self.operation.path.split('/').map(segment).collect::<Vec<String>>().join("/")
    }
}
