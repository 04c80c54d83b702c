//! Runners, runner managers, and how they become known.

use std::collections::{BTreeMap, BTreeSet};

use gitlab_runner_api::Timestamp;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::jobs::JobRecord;
use super::params::{self, Params};
use super::settings::minutes;
use super::wire::Reply;
use super::{Coordinator, Inbound, tokens};

/// A manager that does not name its system ID is filed under this one.
const LEGACY_SYSTEM_ID: &str = "<legacy>";

#[derive(Clone, Debug)]
pub(super) struct Runner {
    pub(super) token: String,
    pub(super) paused: bool,
    pub(super) resets: u64,
    pub(super) attributes: Map<String, Value>,
    pub(super) managers: BTreeMap<String, Manager>,
    generation: u64,
    queue: Option<QueueValue>,
}

/// The value that stands for the state of a runner's queue.
#[derive(Clone, Debug)]
struct QueueValue {
    value: String,
    expires: Timestamp,
}

#[derive(Clone, Debug)]
pub(super) struct Manager {
    features: BTreeSet<String>,
    stored_at: Timestamp,
    contacted_at: Timestamp,
}

impl Coordinator {
    /// Creates a runner, as a user does, and returns its number. A token that is known already keeps its runner.
    pub fn add_runner(&mut self, token: &str) -> u64 {
        if let Some(id) = self.runner_with(token) {
            return id;
        }
        let id = self.next_runner;
        self.next_runner += 1;
        let runner = Runner {
            token: token.to_owned(),
            paused: false,
            resets: 0,
            attributes: Map::new(),
            managers: BTreeMap::new(),
            generation: 0,
            queue: None,
        };
        self.runners.insert(id, runner);
        id
    }

    /// Sets the token with which runners may register themselves. Without one, none may.
    pub fn set_registration_token(&mut self, token: &str) {
        self.registration_token = Some(token.to_owned());
    }

    /// Pauses a runner: it gets no jobs.
    pub fn pause_runner(&mut self, runner: u64) {
        self.set_paused(runner, true);
    }

    /// Ends the pause of a runner.
    pub fn unpause_runner(&mut self, runner: u64) {
        self.set_paused(runner, false);
    }

    /// Deletes a runner with its managers. Its token becomes unknown; its jobs go on.
    pub fn remove_runner(&mut self, runner: u64) {
        self.runners.remove(&runner);
    }

    /// The numbers of all runners.
    pub fn runners(&self) -> impl Iterator<Item = u64> {
        self.runners.keys().copied()
    }

    /// The token of a runner now.
    #[must_use]
    pub fn runner_token(&self, runner: u64) -> Option<&str> {
        Some(&self.runners.get(&runner)?.token)
    }

    /// The attributes a runner was made with, such as `description` and `tag_list`, by the names the API gives them.
    #[must_use]
    pub fn runner_attributes(&self, runner: u64) -> Option<&Map<String, Value>> {
        Some(&self.runners.get(&runner)?.attributes)
    }

    /// The system IDs of a runner's managers.
    pub fn managers(&self, runner: u64) -> impl Iterator<Item = &str> {
        self.runners.get(&runner).into_iter().flat_map(|runner| runner.managers.keys().map(String::as_str))
    }

    /// The features stored for a runner manager: those that decide how its jobs are cancelled.
    #[must_use]
    pub fn manager_features(&self, runner: u64, system_id: &str) -> Option<&BTreeSet<String>> {
        Some(&self.runners.get(&runner)?.managers.get(system_id)?.features)
    }

    /// When a runner manager was last heard of.
    #[must_use]
    pub fn manager_contacted_at(&self, runner: u64, system_id: &str) -> Option<Timestamp> {
        Some(self.runners.get(&runner)?.managers.get(system_id)?.contacted_at)
    }

    fn set_paused(&mut self, id: u64, paused: bool) {
        let now = self.clock;
        if let Some(runner) = self.runners.get_mut(&id) {
            runner.paused = paused;
            runner.tick(id, now);
        }
    }

    pub(super) fn register(&mut self, _now: Timestamp, inbound: &Inbound) -> Result<Reply, Reply> {
        let params = &inbound.params;
        let token = params.required("token")?;
        let attributes = attributes(params)?;
        if !self.settings.registration_allowed {
            return Err(Reply::message(StatusCode::GONE, "410 Gone - runner registration disallowed"));
        }
        if self.registration_token.as_deref() != Some(&token) {
            return Err(Reply::message(StatusCode::FORBIDDEN, "403 Forbidden - invalid token supplied"));
        }
        let token = tokens::runner_token(self.next_runner);
        let id = self.add_with(&token, attributes)?;
        Ok(Reply::json(StatusCode::CREATED, &self.credentials(Some(id), &token)))
    }

    /// A runner with these attributes, unless they contradict each other.
    pub(super) fn add_with(&mut self, token: &str, attributes: Map<String, Value>) -> Result<u64, Reply> {
        let untagged = attributes.get("run_untagged").and_then(Value::as_bool);
        let tagged = attributes.get("tag_list").and_then(Value::as_array).is_some_and(|tags| !tags.is_empty());
        if untagged == Some(false) && !tagged {
            let reason = "can not be empty when runner is not allowed to pick untagged jobs";
            return Err(Reply::message(StatusCode::BAD_REQUEST, json!({ "tags_list": [reason] })));
        }
        let id = self.add_runner(token);
        if attributes.get("paused") == Some(&Value::Bool(true)) {
            self.pause_runner(id);
        }
        if let Some(runner) = self.runners.get_mut(&id) {
            runner.attributes = attributes;
        }
        Ok(id)
    }

    pub(super) fn verify(&mut self, now: Timestamp, inbound: &Inbound) -> Result<Reply, Reply> {
        let token = inbound.params.required("token")?;
        let system_id = system_id(&inbound.params)?;
        let features = announced(&inbound.params)?;
        let runner = self.authenticate_runner(&token)?;
        self.contact(now, runner, &system_id, features);
        Ok(if self.settings.verify_plain_text {
            Reply::number(StatusCode::OK)
        } else {
            Reply::json(StatusCode::OK, &self.credentials(Some(runner), &token))
        })
    }

    pub(super) fn runner_with(&self, token: &str) -> Option<u64> {
        self.runners.iter().find(|(_, runner)| runner.token == token).map(|(id, _)| *id)
    }

    pub(super) fn authenticate_runner(&self, token: &str) -> Result<u64, Reply> {
        self.runner_with(token).ok_or_else(Reply::forbidden)
    }

    /// A manager showed up. What it announces is only stored at first, and when what is stored is old.
    pub(super) fn contact(&mut self, now: Timestamp, runner: u64, system_id: &str, features: BTreeSet<String>) {
        let refresh = self.settings.feature_refresh;
        let Some(runner) = self.runners.get_mut(&runner) else { return };
        match runner.managers.get_mut(system_id) {
            Some(manager) => {
                manager.contacted_at = now;
                if now.saturating_since(manager.stored_at) >= refresh {
                    manager.stored_at = now;
                    manager.features = features;
                }
            }
            None => {
                let manager = Manager { features, stored_at: now, contacted_at: now };
                runner.managers.insert(system_id.to_owned(), manager);
            }
        }
    }

    /// A manager called about its job.
    pub(super) fn heartbeat(&mut self, now: Timestamp, job: u64) {
        let Some(job) = self.jobs.get(&job) else { return };
        let runner = job.runner.and_then(|runner| self.runners.get_mut(&runner));
        if let (Some(runner), Some(system_id), false) = (runner, &job.system_id, job.is_waiting())
            && let Some(manager) = runner.managers.get_mut(system_id)
        {
            manager.contacted_at = now;
        }
    }

    pub(super) fn can_cancel_gracefully(&self, job: &JobRecord) -> bool {
        job.runner
            .zip(job.system_id())
            .and_then(|(runner, system_id)| self.manager_features(runner, system_id))
            .is_some_and(|features| features.contains("cancel_gracefully"))
    }

    pub(super) fn has_manager(&self, job: &JobRecord) -> bool {
        let found = job.runner.zip(job.system_id()).and_then(|(runner, id)| self.manager_features(runner, id));
        found.is_some()
    }

    pub(super) fn is_paused(&self, runner: u64) -> bool {
        self.runners.get(&runner).is_some_and(|runner| runner.paused)
    }

    /// The queue value of a runner, made anew if there is none or if it is an hour old.
    pub(super) fn ensure_queue_value(&mut self, now: Timestamp, id: u64) -> String {
        let Some(runner) = self.runners.get_mut(&id) else { return String::new() };
        match &runner.queue {
            Some(queue) if now < queue.expires => queue.value.clone(),
            _ => runner.tick(id, now),
        }
    }

    /// What the front proxy sees: the stored value, if any.
    pub(super) fn stored_queue_value(&self, now: Timestamp, runner: u64) -> Option<&str> {
        let queue = self.runners.get(&runner)?.queue.as_ref()?;
        (now < queue.expires).then_some(queue.value.as_str())
    }

    /// Whether the queue value differs from what it was. That it expired is not announced.
    pub(super) fn queue_value_moved(&self, runner: u64, since: &str) -> bool {
        let queue = self.runners.get(&runner).and_then(|runner| runner.queue.as_ref());
        queue.is_some_and(|queue| queue.value != since)
    }

    /// The queue changed for one runner, or for all.
    pub(super) fn tick_queues(&mut self, now: Timestamp, only: Option<u64>) {
        for (&id, runner) in &mut self.runners {
            if only.is_none_or(|only| only == id) {
                runner.tick(id, now);
            }
        }
    }
}

impl Runner {
    fn tick(&mut self, id: u64, now: Timestamp) -> String {
        self.generation += 1;
        let value = tokens::queue_value(id, self.generation);
        self.queue = Some(QueueValue { value: value.clone(), expires: now.saturating_add(minutes(60)) });
        value
    }
}

/// The attributes of a new runner, as they were given.
pub(super) fn attributes(params: &Params) -> Result<Map<String, Value>, Reply> {
    for (one, other) in [("maintainer_note", "maintenance_note"), ("paused", "active")] {
        if params.has(one) && params.has(other) {
            let error = format!("{one}, {other} are mutually exclusive");
            return Err(Reply::error(StatusCode::BAD_REQUEST, error));
        }
    }
    if let Some(level) = params.text("access_level")?
        && !matches!(level.as_str(), "not_protected" | "ref_protected")
    {
        return Err(Reply::error(StatusCode::BAD_REQUEST, "access_level does not have a valid value"));
    }
    params.object("info")?;
    params.integer("maximum_timeout")?;
    let mut given = Map::new();
    for name in ["description", "maintenance_note", "access_level"] {
        given.extend(params.text(name)?.map(|text| (name.to_owned(), text.into())));
    }
    for name in ["locked", "run_untagged"] {
        given.extend(params.flag(name)?.map(|flag| (name.to_owned(), flag.into())));
    }
    given.extend(params.integer("maximum_timeout")?.map(|seconds| ("maximum_timeout".to_owned(), seconds.into())));
    let paused = params.flag("paused")?.unwrap_or(params.flag("active")? == Some(false));
    given.insert("paused".to_owned(), paused.into());
    given.insert("tag_list".to_owned(), params.list("tag_list").into());
    Ok(given)
}

/// The system ID of the manager that makes the request.
pub(super) fn system_id(params: &Params) -> Result<String, Reply> {
    let system_id = params.text("system_id")?.filter(|id| !id.is_empty());
    let system_id = system_id.unwrap_or_else(|| LEGACY_SYSTEM_ID.to_owned());
    if system_id.chars().count() > 64 {
        return Err(Reply::error(StatusCode::BAD_REQUEST, "system_id must be less than 64 characters"));
    }
    Ok(system_id)
}

/// The features the manager announces.
pub(super) fn announced(params: &Params) -> Result<BTreeSet<String>, Reply> {
    let features = params.object("info")?.and_then(|info| info.get("features")).and_then(Value::as_object);
    let set = |features: &Map<String, Value>| {
        features.iter().filter(|(_, on)| params::is_truthy(on)).map(|(name, _)| name.clone()).collect()
    };
    Ok(features.map(set).unwrap_or_default())
}

#[cfg(test)]
mod tests;
