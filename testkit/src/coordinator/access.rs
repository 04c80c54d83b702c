//! Who may make runners: users with their access tokens, and registration tokens.

use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderMap, StatusCode};
use serde_json::json;

use super::params::Params;
use super::wire::Reply;
use super::{Coordinator, Timestamp};

const PRIVATE_TOKEN: HeaderName = HeaderName::from_static("private-token");
/// A runner that was not heard of for so long does not count against a limit of runners: `Ci::Runner::STALE_TIMEOUT`, which was
/// three months before GitLab 18.
const STALE_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a runner belongs to.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunnerType {
    /// The whole instance.
    Instance,
    /// A group.
    Group,
    /// A project.
    Project,
}

impl RunnerType {
    /// Returns the word GitLab uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Instance => "instance_type",
            Self::Group => "group_type",
            Self::Project => "project_type",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Instance, Self::Group, Self::Project].into_iter().find(|kind| kind.as_str() == name)
    }
}

/// What a user is in the group and in the project of the simulation.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A user who is not a member.
    Stranger,
    /// A member who may look.
    Guest,
    /// A member who may push.
    Developer,
    /// A member who may make runners of the project.
    Maintainer,
    /// A member who may make runners of the group.
    Owner,
    /// An administrator of the instance, who may make all runners.
    Administrator,
}

impl Role {
    /// All roles, from the lowest to the highest.
    pub(crate) const ALL: [Self; 6] =
        [Self::Stranger, Self::Guest, Self::Developer, Self::Maintainer, Self::Owner, Self::Administrator];

    /// The words for all of them, for people.
    pub(crate) const NAMES: &str = "stranger, guest, developer, maintainer, owner, administrator";

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }

    /// The word for the role, such as `maintainer`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::Guest => "guest",
            Self::Developer => "developer",
            Self::Maintainer => "maintainer",
            Self::Owner => "owner",
            Self::Administrator => "administrator",
        }
    }

    /// The lowest role that may make and change runners of this type.
    pub(super) const fn needed_for(kind: RunnerType) -> Self {
        match kind {
            RunnerType::Instance => Self::Administrator,
            RunnerType::Group => Self::Owner,
            RunnerType::Project => Self::Maintainer,
        }
    }
}

/// A user, as far as runners are concerned.
#[derive(Clone, Debug)]
pub(super) struct User {
    pub(super) role: Role,
    pub(super) scopes: Vec<String>,
}

impl User {
    /// # Errors
    ///
    /// Answers with 403 if the access token has none of these scopes, which are separated by spaces.
    pub(super) fn check_scopes(&self, scopes: &str) -> Result<(), Reply> {
        if scopes.split(' ').any(|scope| self.scopes.iter().any(|own| own == scope)) {
            return Ok(());
        }
        let refusal = json!({
            "error": "insufficient_scope",
            "error_description": "The request requires higher privileges than provided by the access token.",
            "scope": scopes,
        });
        Err(Reply::json(StatusCode::FORBIDDEN, &refusal))
    }

    /// # Errors
    ///
    /// Answers with 403 if the user may not make or change runners of this type.
    pub(super) fn check_role(&self, kind: RunnerType) -> Result<(), Reply> {
        if self.role >= Role::needed_for(kind) {
            return Ok(());
        }
        Err(Reply::message(StatusCode::FORBIDDEN, "403 Forbidden - Insufficient permissions"))
    }

    /// # Errors
    ///
    /// Answers with 403 if the user may not change a runner of this type that is there already.
    pub(super) fn check_access(&self, kind: RunnerType) -> Result<(), Reply> {
        if self.role >= Role::needed_for(kind) {
            return Ok(());
        }
        Err(Reply::message(StatusCode::FORBIDDEN, "403 Forbidden - No access granted"))
    }
}

/// What a registration token makes, and what stands against it.
///
/// ```
/// use gitlab_runner_api_testkit::{Coordinator, Registration, RunnerType, Settings};
///
/// let mut gitlab = Coordinator::new(Settings::default());
/// let group = Registration::new(RunnerType::Group).with(|group| group.runner_limit = Some(50));
/// gitlab.add_registration_token("GR1348941group", group);
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// What the new runners belong to.
    pub runner_type: RunnerType,
    /// Runners of this type may be registered. If not, a registration is answered with 403.
    pub allowed: bool,
    /// Registration tokens are switched on in the group. If not, a registration is answered with 410.
    pub tokens_enabled: bool,
    /// The plan allows so many runners with this registration token. `None`: no limit. Runners that were not heard of for a
    /// week do not count.
    pub runner_limit: Option<usize>,
}

impl Registration {
    /// A registration of runners of this type that nothing stands against.
    #[must_use]
    pub fn new(runner_type: RunnerType) -> Self {
        Self { runner_type, allowed: true, tokens_enabled: true, runner_limit: None }
    }

    /// Returns this registration with a change applied.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The words of a limit that is reached, and the name of the check that fails.
    fn exceeded(&self, limit: usize) -> (String, &'static str) {
        let (word, check) = match self.runner_type {
            RunnerType::Group => ("group", "runner_namespaces.base"),
            _ => ("project", "runner_projects.base"),
        };
        (format!("Maximum number of ci registered {word} runners ({limit}) exceeded"), check)
    }
}

impl Coordinator {
    /// Sets the personal access token of an administrator, who may create runners and reset their tokens. Without one,
    /// nobody may, except the users of [`add_user`](Self::add_user).
    pub fn set_access_token(&mut self, token: &str) {
        self.add_user(token, Role::Administrator, ["api"]);
    }

    /// Adds a user with a personal access token of these scopes, such as `api` or `create_runner`. A token that is known
    /// already gets the new role and scopes.
    pub fn add_user<T: Into<String>>(&mut self, token: &str, role: Role, scopes: impl IntoIterator<Item = T>) {
        let scopes = scopes.into_iter().map(Into::into).collect();
        self.users.insert(token.to_owned(), User { role, scopes });
    }

    /// Sets the token with which runners of the instance may register themselves. The one before no longer counts.
    pub fn set_registration_token(&mut self, token: &str) {
        self.registrations.retain(|_, registration| registration.runner_type != RunnerType::Instance);
        self.add_registration_token(token, Registration::new(RunnerType::Instance));
    }

    /// Adds a registration token, such as that of a group or of a project.
    pub fn add_registration_token(&mut self, token: &str, registration: Registration) {
        self.registrations.insert(token.to_owned(), registration);
    }

    /// Returns the type of the runners that this token may register.
    pub(super) fn check_registration(&self, now: Timestamp, token: &str) -> Result<RunnerType, Reply> {
        let gone = || Reply::message(StatusCode::GONE, "410 Gone - runner registration disallowed");
        let unknown = || Reply::message(StatusCode::FORBIDDEN, "403 Forbidden - invalid token supplied");
        if !self.settings.registration_allowed {
            return Err(if token.trim().is_empty() { unknown() } else { gone() });
        }
        let registration = self.registrations.get(token).filter(|known| known.allowed).ok_or_else(unknown)?;
        if !registration.tokens_enabled {
            return Err(gone());
        }
        if let Some(limit) = registration.runner_limit {
            let fresh = |at: Timestamp| now.saturating_since(at) < STALE_AFTER;
            let registered = self.runners.values().filter(|runner| runner.registered_with.as_deref() == Some(token));
            if registered.filter(|runner| fresh(runner.heard_of_at())).count() >= limit {
                let (words, check) = registration.exceeded(limit);
                return Err(Reply::message(StatusCode::BAD_REQUEST, json!({ check: [words] })));
            }
        }
        Ok(registration.runner_type)
    }

    /// Returns the user whose access token the request has: in `PRIVATE-TOKEN`, as a bearer, or in a parameter.
    pub(super) fn authenticate_user(&self, headers: &HeaderMap, params: &Params) -> Result<&User, Reply> {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = header(AUTHORIZATION).and_then(|value: &str| value.split_once(' '));
        let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token);
        let given = match header(PRIVATE_TOKEN).or(bearer.map(str::trim)) {
            Some(token) => Some(token.to_owned()),
            None => params.text("private_token")?.or(params.text("access_token")?),
        };
        let user = given.and_then(|token| self.users.get(&token));
        user.ok_or_else(|| Reply::message(StatusCode::UNAUTHORIZED, "401 Unauthorized"))
    }
}
