//! The API for users: what tests of runners ask GitLab about jobs and runners, and do to them.
//!
//! There is one project, with the number and the path that payloads name. It is private, so that a user who is not a member
//! does not see it. Answers have all members of GitLab's that the simulation knows something about.

mod asked;
mod jobs;
mod paging;
mod runners;
mod views;

use gitlab_runner_api::Timestamp;

use self::asked::Asked;
use super::access::{Role, User};
use super::jobs::JobRecord;
use super::user_route::{Call, UserRoute};
use super::wire::Reply;
use super::{Coordinator, Inbound, artifacts};

impl Coordinator {
    /// Answers a call of the API for users.
    pub(super) fn answer_user(
        &mut self,
        now: Timestamp,
        call: &Call,
        query: Option<&str>,
        inbound: &Inbound,
    ) -> Result<Reply, Reply> {
        let user = match self.authenticate_user(&inbound.headers, &inbound.params) {
            Ok(user) => user.clone(),
            Err(refusal) if call.takes_job_token() => self.user_of_job(now, inbound)?.ok_or(refusal)?,
            Err(refusal) => return Err(refusal),
        };
        user.check_scopes(call.scopes())?;
        let asked = Asked { now, user: &user, call, query, inbound };
        match call.route() {
            UserRoute::ShowProject => jobs::project(self, &asked),
            UserRoute::ListJobs => jobs::list(self, &asked),
            UserRoute::ShowJob => jobs::show(self, &asked),
            UserRoute::ShowTrace => jobs::trace(self, &asked),
            UserRoute::DownloadArtifacts => jobs::artifacts(self, &asked),
            UserRoute::CancelJob => jobs::cancel(self, &asked),
            UserRoute::RetryJob => jobs::retry(self, &asked),
            UserRoute::EraseJob => jobs::erase(self, &asked),
            UserRoute::ListProjectRunners => runners::list_of_project(self, &asked),
            UserRoute::ListOwnedRunners => runners::list_owned(self, &asked),
            UserRoute::ListAllRunners => runners::list_all(self, &asked),
            UserRoute::ShowRunner => runners::show(self, &asked),
            UserRoute::UpdateRunner => runners::update(self, &asked),
            UserRoute::DeleteRunner => runners::delete(self, &asked),
            UserRoute::ListManagers => runners::managers(self, &asked),
            UserRoute::ListRunnerJobs => runners::jobs(self, &asked),
        }
    }
}

impl Coordinator {
    /// The user in whose name a running job calls with its token. `None` without the valid token of one.
    fn user_of_job(&self, now: Timestamp, inbound: &Inbound) -> Result<Option<User>, Reply> {
        let token = artifacts::job_token(&inbound.headers, &inbound.params, &["job_token"])?;
        let calls =
            |job: &JobRecord| job.token == token && job.is_executing() && job.is_token_valid(now, &self.settings);
        let user = || User { role: Role::Developer, scopes: vec!["read_api".to_owned()] };
        Ok(self.jobs.values().any(calls).then(user))
    }
}

#[cfg(test)]
mod tests;
