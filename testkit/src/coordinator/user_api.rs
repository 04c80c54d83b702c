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
use super::user_route::{Call, UserRoute};
use super::wire::Reply;
use super::{Coordinator, Inbound};

impl Coordinator {
    /// Answers a call of the API for users.
    pub(super) fn answer_user(
        &mut self,
        now: Timestamp,
        call: &Call,
        query: Option<&str>,
        inbound: &Inbound,
    ) -> Result<Reply, Reply> {
        let user = self.authenticate_user(&inbound.headers, &inbound.params)?.clone();
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

#[cfg(test)]
mod tests;
