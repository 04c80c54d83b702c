//! Making and unmaking runners and their tokens: by themselves, or in the name of a user.

use http::StatusCode;
use http::header::{AUTHORIZATION, HeaderName, IF_UNMODIFIED_SINCE};
use serde_json::{Value, json};

use super::runners::attributes;
use super::wire::Reply;
use super::{Coordinator, Inbound, Timestamp, tokens};

const PRIVATE_TOKEN: HeaderName = HeaderName::from_static("private-token");
const RUNNER_TOKEN: HeaderName = HeaderName::from_static("runner-token");

impl Coordinator {
    /// Sets the personal access token with which a user may create runners and reset their tokens. Without one, none may.
    pub fn set_access_token(&mut self, token: &str) {
        self.access_token = Some(token.to_owned());
    }

    pub(super) fn unregister(&mut self, inbound: &Inbound) -> Result<Reply, Reply> {
        let token = inbound.params.required("token")?;
        let runner = self.authenticate_runner(&token)?;
        unmodified(inbound)?;
        self.remove_runner(runner);
        Ok(Reply::empty(StatusCode::NO_CONTENT))
    }

    pub(super) fn unregister_manager(&mut self, inbound: &Inbound) -> Result<Reply, Reply> {
        let token = inbound.params.required("token")?;
        let system_id = inbound.params.required("system_id")?;
        let runner = self.authenticate_runner(&token)?;
        unmodified(inbound)?;
        match self.runners.get_mut(&runner).and_then(|runner| runner.managers.remove(&system_id)) {
            Some(_) => Ok(Reply::empty(StatusCode::NO_CONTENT)),
            None => Err(Reply::message(StatusCode::NOT_FOUND, "404 Runner manager not found Not Found")),
        }
    }

    pub(super) fn reset_token(&mut self, inbound: &Inbound) -> Result<Reply, Reply> {
        let token = inbound.params.required("token")?;
        let runner = self.authenticate_runner(&token)?;
        self.new_token(runner)
    }

    pub(super) fn reset_token_as_user(&mut self, runner: u64, inbound: &Inbound) -> Result<Reply, Reply> {
        self.authenticate_user(inbound)?;
        self.new_token(runner)
    }

    fn new_token(&mut self, id: u64) -> Result<Reply, Reply> {
        let Some(runner) = self.runners.get_mut(&id) else {
            return Err(Reply::message(StatusCode::NOT_FOUND, "404 Not found"));
        };
        runner.resets += 1;
        let fresh = tokens::created_token(id, runner.resets);
        runner.token = if runner.token.starts_with("glrt-") { format!("glrt-{fresh}") } else { fresh };
        let token = runner.token.clone();
        Ok(Reply::json(StatusCode::CREATED, &self.credentials(None, &token)))
    }

    pub(super) fn create_runner(&mut self, inbound: &Inbound) -> Result<Reply, Reply> {
        self.authenticate_user(inbound)?;
        let params = &inbound.params;
        let kind = params.required("runner_type")?;
        let needed = match kind.as_str() {
            "instance_type" => None,
            "group_type" => Some("group_id"),
            "project_type" => Some("project_id"),
            _ => return Err(Reply::error(StatusCode::BAD_REQUEST, "runner_type does not have a valid value")),
        };
        if let Some(name) = needed
            && params.integer(name)?.is_none()
        {
            return Err(Reply::error(StatusCode::BAD_REQUEST, format!("{name} is missing")));
        }
        let mut given = attributes(params)?;
        if !self.settings.creation_allowed {
            return Err(Reply::message(StatusCode::FORBIDDEN, "403 Forbidden - Insufficient permissions"));
        }
        given.insert("runner_type".to_owned(), kind.into());
        let token = format!("glrt-{}", tokens::created_token(self.next_runner, 0));
        let id = self.add_with(&token, given)?;
        Ok(Reply::json(StatusCode::CREATED, &self.credentials(Some(id), &token)))
    }

    pub(super) fn discover_router(&self, inbound: &Inbound) -> Result<Reply, Reply> {
        let token = inbound.headers.get(RUNNER_TOKEN).and_then(|token| token.to_str().ok()).unwrap_or_default();
        self.authenticate_runner(token)?;
        match &self.settings.router_url {
            Some(url) => Ok(Reply::json(StatusCode::OK, &json!({ "server_url": url }))),
            None => {
                let message = "Job Router is not available. Please contact your administrator.";
                Err(Reply::message(StatusCode::NOT_IMPLEMENTED, message))
            }
        }
    }

    pub(super) fn runtime_environment_key(
        &mut self,
        now: Timestamp,
        job: u64,
        inbound: &Inbound,
    ) -> Result<Reply, Reply> {
        self.authenticate_executing(now, job, inbound)?;
        match &self.settings.runtime_environment_key {
            Some(key) => Ok(Reply::json(StatusCode::OK, &json!({ "runtime_environment_key": key }))),
            None => Err(Reply::message(StatusCode::NOT_FOUND, "404 Runtime environment key Not Found")),
        }
    }

    fn authenticate_user(&self, inbound: &Inbound) -> Result<(), Reply> {
        let header = |name| inbound.headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = header(AUTHORIZATION).and_then(|value: &str| value.split_once(' '));
        let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token);
        let given = match header(PRIVATE_TOKEN).or(bearer.map(str::trim)) {
            Some(token) => Some(token.to_owned()),
            None => inbound.params.text("private_token")?.or(inbound.params.text("access_token")?),
        };
        match (&self.access_token, given) {
            (Some(known), Some(given)) if *known == given => Ok(()),
            _ => Err(Reply::message(StatusCode::UNAUTHORIZED, "401 Unauthorized")),
        }
    }

    /// A runner's token as the API tells it, with the runner's number where that is told.
    pub(super) fn credentials(&self, id: Option<u64>, token: &str) -> Value {
        let mut told = json!({ "token": token, "token_expires_at": self.settings.token_expires_at });
        if let Some(id) = id {
            told["id"] = id.into();
        }
        told
    }
}

/// Nothing here keeps the time of a runner's last change: it is taken to be later than any that is named.
fn unmodified(inbound: &Inbound) -> Result<(), Reply> {
    match inbound.headers.contains_key(IF_UNMODIFIED_SINCE) {
        true => Err(Reply::message(StatusCode::PRECONDITION_FAILED, "412 Precondition Failed")),
        false => Ok(()),
    }
}
