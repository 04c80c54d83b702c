//! Making and unmaking runners and their tokens: by themselves, or in the name of a user.

use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderName, IF_UNMODIFIED_SINCE};
use serde_json::{Value, json};

use super::access::RunnerType;
use super::params::Params;
use super::registration::{attributes, errors, sentence};
use super::runners::{announced, system_id};
use super::settings::minutes;
use super::wire::Reply;
use super::{Coordinator, Inbound, Timestamp, calendar, tokens};

/// A user who creates a runner may choose the end of its token between these times from now:
/// `EE::Ci::Runners::CreateRunnerService`.
const SHORTEST_TOKEN_LIFE: Duration = minutes(5);
const LONGEST_TOKEN_LIFE: Duration = Duration::from_secs(15 * 24 * 3600);

const RUNNER_TOKEN: HeaderName = HeaderName::from_static("runner-token");

impl Coordinator {
    /// The token of a runner is replaced by a new one, as a user does who no longer trusts it. Returns the new token, `None` if
    /// there is no such runner.
    pub fn reset_runner_token(&mut self, runner: u64) -> Option<&str> {
        self.new_token(self.clock, runner).ok()?;
        self.runner_token(runner)
    }

    /// A runner manager is removed. Returns whether there was one.
    pub fn remove_manager(&mut self, runner: u64, system_id: &str) -> bool {
        self.runners.get_mut(&runner).is_some_and(|runner| runner.managers.remove(system_id).is_some())
    }

    pub(super) fn unregister(&mut self, now: Timestamp, inbound: &Inbound) -> Result<Reply, Reply> {
        let token = inbound.params.required("token")?;
        let runner = self.authenticate_runner(now, &token)?;
        unmodified(inbound, self.runners.get(&runner).map_or(now, |runner| runner.updated_at))?;
        self.remove_runner(runner);
        Ok(Reply::empty(StatusCode::NO_CONTENT))
    }

    pub(super) fn unregister_manager(&mut self, now: Timestamp, inbound: &Inbound) -> Result<Reply, Reply> {
        let token = inbound.params.required("token")?;
        let system_id = inbound.params.required("system_id")?;
        let runner = self.authenticate_runner(now, &token)?;
        let managers = self.runners.get_mut(&runner).map(|runner| &mut runner.managers);
        let Some((managers, known)) = managers.and_then(|all| all.get(&system_id).cloned().map(|known| (all, known)))
        else {
            return Err(Reply::message(StatusCode::NOT_FOUND, "404 Runner manager not found Not Found"));
        };
        unmodified(inbound, known.made_at)?;
        managers.remove(&system_id);
        Ok(Reply::empty(StatusCode::NO_CONTENT))
    }

    pub(super) fn reset_token(&mut self, now: Timestamp, inbound: &Inbound) -> Result<Reply, Reply> {
        let token = inbound.params.required("token")?;
        let system_id = system_id(&inbound.params)?;
        let announced = announced(&inbound.params)?;
        let runner = self.authenticate_runner(now, &token)?;
        self.contact(now, runner, &system_id, announced);
        self.check_rotation(now, runner)?;
        self.new_token(now, runner)
    }

    pub(super) fn reset_token_as_user(
        &mut self,
        now: Timestamp,
        runner: u64,
        inbound: &Inbound,
    ) -> Result<Reply, Reply> {
        let user = self.authenticate_user(&inbound.headers, &inbound.params)?;
        user.check_scopes("api manage_runner")?;
        if let Some(known) = self.runners.get(&runner) {
            user.check_access(known.kind())?;
        }
        self.check_rotation(now, runner)?;
        self.new_token(now, runner)
    }

    /// Refuses a reset after the deadline for the rotation of a token. It stays refused.
    fn check_rotation(&self, now: Timestamp, runner: u64) -> Result<(), Reply> {
        let deadline = self.runners.get(&runner).and_then(|runner| runner.rotation_deadline);
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Reply::error(StatusCode::FORBIDDEN, "Token rotation deadline has passed"));
        }
        Ok(())
    }

    fn new_token(&mut self, now: Timestamp, id: u64) -> Result<Reply, Reply> {
        let Some(runner) = self.runners.get_mut(&id) else {
            return Err(Reply::message(StatusCode::NOT_FOUND, "404 Not found"));
        };
        runner.rotation_deadline = None;
        runner.resets += 1;
        runner.updated_at = now;
        runner.token_expires_at = None;
        let fresh = tokens::created_token(id, runner.resets);
        let token = if runner.token.starts_with("glrt-") { format!("glrt-{fresh}") } else { fresh };
        let old = std::mem::replace(&mut runner.token, token.clone());
        self.runner_tokens.remove(&old);
        self.runner_tokens.insert(token.clone(), id);
        let told = json!({ "token": token, "token_expires_at": self.token_expiry(id) });
        Ok(Reply::json(StatusCode::CREATED, &told))
    }

    pub(super) fn create_runner(&mut self, now: Timestamp, inbound: &Inbound) -> Result<Reply, Reply> {
        let params = &inbound.params;
        let user = self.authenticate_user(&inbound.headers, &inbound.params)?;
        user.check_scopes("api create_runner")?;
        let wrong = |error: &str| Reply::error(StatusCode::BAD_REQUEST, error);
        if !params.has("runner_type") {
            return Err(wrong("runner_type is missing, runner_type does not have a valid value"));
        }
        let named = params.text("runner_type")?.unwrap_or_default();
        let kind = RunnerType::named(&named).ok_or_else(|| wrong("runner_type does not have a valid value"))?;
        let needed = match kind {
            RunnerType::Instance => None,
            RunnerType::Group => Some("group_id"),
            RunnerType::Project => Some("project_id"),
        };
        if let Some(name) = needed
            && params.integer(name)?.is_none()
        {
            // A parameter that is there and empty is one of nothing.
            return Err(if params.has(name) {
                invalid("Missing/invalid scope")
            } else {
                wrong(&format!("{name} is missing"))
            });
        }
        let mut given = attributes(params)?;
        user.check_role(kind)?;
        if !self.settings.creation_allowed {
            return Err(Reply::message(StatusCode::FORBIDDEN, "403 Forbidden - Insufficient permissions"));
        }
        // Here the message is a text, while a registration tells the errors by attribute.
        if let Some(errors) = errors(&given) {
            return Err(invalid(&sentence(&errors)));
        }
        let (expires_at, rotation_deadline) = self.token_times(now, params)?;
        given.insert("runner_type".to_owned(), kind.as_str().into());
        let token = format!("glrt-{}", tokens::created_token(self.next_runner, 0));
        let id = self.add_with(now, &token, given);
        if let Some(runner) = self.runners.get_mut(&id) {
            runner.token_expires_at = expires_at.map(calendar::format);
            runner.rotation_deadline = rotation_deadline;
        }
        Ok(Reply::json(StatusCode::CREATED, &self.credentials(id, &token)))
    }

    /// Reads until when the token of a new runner is valid, and until when it may be replaced.
    fn token_times(&self, now: Timestamp, params: &Params) -> Result<(Option<Timestamp>, Option<Timestamp>), Reply> {
        let time = |name: &str| {
            let Some(text) = params.text(name)?.filter(|text| !text.is_empty()) else { return Ok(None) };
            let invalid = || Reply::error(StatusCode::BAD_REQUEST, format!("{name} is invalid"));
            calendar::parse(&text).map(Some).ok_or_else(invalid)
        };
        let (expires_at, deadline) = (time("token_expires_at")?, time("token_rotation_deadline")?);
        let refused = |why: String| Err(invalid(&why));
        let Some(expires) = expires_at else {
            return match deadline {
                Some(_) => refused("token_expires_at is required when token_rotation_deadline is specified".to_owned()),
                None => Ok((None, None)),
            };
        };
        if expires < now.saturating_add(SHORTEST_TOKEN_LIFE) {
            return refused("token_expires_at must be at least 5 minutes in the future".to_owned());
        }
        let longest = now.saturating_add(LONGEST_TOKEN_LIFE);
        let instance = self.settings.token_expires_at.as_deref().and_then(calendar::parse);
        let latest = instance.map_or(longest, |instance| instance.min(longest));
        if expires > latest {
            let latest = calendar::format(latest);
            return refused(format!("token_expires_at is too far in the future (maximum is {latest})"));
        }
        match deadline {
            Some(deadline) if deadline < now => refused("token_rotation_deadline cannot be in the past".to_owned()),
            Some(deadline) if deadline > expires => {
                refused("token_rotation_deadline must be less than or equal to token_expires_at".to_owned())
            }
            _ => Ok((expires_at, deadline)),
        }
    }

    pub(super) fn discover_router(&self, now: Timestamp, inbound: &Inbound) -> Result<Reply, Reply> {
        let token = inbound.headers.get(RUNNER_TOKEN).and_then(|token| token.to_str().ok()).unwrap_or_default();
        self.authenticate_runner(now, token)?;
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

    /// A runner's token as the API tells it, with the runner's number where that is told.
    pub(super) fn credentials(&self, id: u64, token: &str) -> Value {
        json!({ "id": id, "token": token, "token_expires_at": self.token_expiry(id) })
    }
}

/// The refusal of a runner that a user wants to create, and that is not as it must be.
fn invalid(why: &str) -> Reply {
    Reply::message(StatusCode::BAD_REQUEST, format!("400 Bad request - {why}"))
}

/// Refuses if something was modified after the time that the request names. A time that cannot be read is ignored, as
/// GitLab does.
pub(super) fn unmodified(inbound: &Inbound, modified_at: Timestamp) -> Result<(), Reply> {
    let named = inbound.headers.get(IF_UNMODIFIED_SINCE).and_then(|value| value.to_str().ok());
    let named =
        named.and_then(|text| httpdate::parse_http_date(text).ok().map(Timestamp::from).or(calendar::parse(text)));
    match named {
        Some(named) if modified_at > named => {
            Err(Reply::message(StatusCode::PRECONDITION_FAILED, "412 Precondition Failed"))
        }
        _ => Ok(()),
    }
}
