//! Runners, runner managers, and how they become known.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gitlab_runner_api::Timestamp;
use http::StatusCode;
use serde_json::{Map, Value};

use super::access::RunnerType;
use super::jobs::JobRecord;
use super::params::{Params, is_truthy};
use super::settings::minutes;
use super::wire::Reply;
use super::{Coordinator, Inbound, calendar, tokens};

/// A manager that was not heard of for so long is removed, as by GitLab's `Ci::Runners::StaleManagersCleanupService`.
const STALE_AFTER: Duration = minutes(7 * 24 * 60);
/// How often stale managers are looked for.
const STALE_CHECK: Duration = minutes(60);
/// So many managers of a runner are stored, more than any test has. Else whoever has the token of a runner could fill the memory
/// with system IDs. The one that was not heard of for the longest time is removed first.
const MANAGERS: usize = 10_000;
/// So many features of a manager are stored, and so many bytes of the name of each.
const FEATURES: usize = 1000;
const FEATURE_NAME: usize = 255;
/// So many characters of each text that a manager says of itself are stored.
const INFO_TEXT: usize = 2048;
/// A manager that does not name its system ID is filed under this one.
const LEGACY_SYSTEM_ID: &str = "<legacy>";

#[derive(Clone, Debug)]
pub(super) struct Runner {
    pub(super) token: String,
    pub(super) paused: bool,
    pub(super) resets: u64,
    pub(super) attributes: Map<String, Value>,
    pub(super) managers: BTreeMap<String, Manager>,
    pub(super) created_at: Timestamp,
    /// When its attributes or its token last changed.
    pub(super) updated_at: Timestamp,
    /// When its token stops working, in place of what the settings say.
    pub(super) token_expires_at: Option<String>,
    /// From this time on its token cannot be replaced.
    pub(super) rotation_deadline: Option<Timestamp>,
    /// The registration token that it registered itself with.
    pub(super) registered_with: Option<String>,
    /// Its group or its project was deleted.
    orphaned: bool,
    generation: u64,
    /// When stale managers were last looked for.
    checked_at: Timestamp,
    /// Until when the queue value of this generation is stored.
    queue_expires: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub(super) struct Manager {
    pub(super) id: u64,
    pub(super) features: BTreeSet<String>,
    pub(super) info: Map<String, Value>,
    pub(super) made_at: Timestamp,
    stored_at: Timestamp,
    pub(super) contacted_at: Timestamp,
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
            created_at: self.clock,
            updated_at: self.clock,
            token_expires_at: None,
            rotation_deadline: None,
            registered_with: None,
            orphaned: false,
            generation: 0,
            checked_at: Timestamp::EPOCH,
            queue_expires: None,
        };
        self.runners.insert(id, runner);
        self.runner_tokens.insert(token.to_owned(), id);
        self.note_runner(id, false);
        id
    }

    /// Creates a runner, as a user does, with a token that GitLab chooses. Returns its number.
    pub fn make_runner(&mut self) -> u64 {
        let token = format!("glrt-{}", tokens::created_token(self.next_runner, 0));
        self.add_runner(&token)
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
        if let Some(known) = self.runners.remove(&runner) {
            self.runner_tokens.remove(&known.token);
            self.note_runner(runner, true);
        }
    }

    /// The token of a runner stops working at this time, whatever [`Settings::token_expires_at`] says. A reset makes a token
    /// that the settings apply to again.
    ///
    /// [`Settings::token_expires_at`]: crate::Settings::token_expires_at
    pub fn expire_runner_token(&mut self, runner: u64, at: Timestamp) {
        if let Some(runner) = self.runners.get_mut(&runner) {
            runner.token_expires_at = Some(calendar::format(at));
        }
    }

    /// The group or the project of a runner is deleted. Its job requests are answered with 403. Runners of the instance
    /// belong to neither and stay as they are.
    pub fn orphan_runner(&mut self, runner: u64) {
        if let Some(runner) = self.runners.get_mut(&runner) {
            runner.orphaned = true;
        }
    }

    /// Changes what a runner belongs to. A runner belongs to the instance unless it was made otherwise.
    pub fn set_runner_type(&mut self, runner: u64, runner_type: RunnerType) {
        if let Some(runner) = self.runners.get_mut(&runner) {
            runner.attributes.insert("runner_type".to_owned(), runner_type.as_str().into());
        }
    }

    /// Changes attributes of a runner, by the names that the API gives them, such as `description`, `tag_list`, `paused`,
    /// `locked`, `run_untagged`, `access_level`, `maximum_timeout` and `runner_type`. One that is null is removed. Runners
    /// that wait for their queue to change see it change.
    pub fn change_runner(&mut self, runner: u64, changes: Map<String, Value>) {
        let now = self.clock;
        let Some(known) = self.runners.get_mut(&runner) else { return };
        known.attributes.extend(changes);
        known.attributes.retain(|_, value| !value.is_null());
        known.paused = known.attributes.get("paused") == Some(&Value::Bool(true));
        known.updated_at = now;
        known.tick(now);
        self.holds.queue_changed(runner);
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

    /// What a runner manager said of itself: `name`, `version`, `revision`, `platform`, `architecture`, `executor`.
    #[must_use]
    pub fn manager_info(&self, runner: u64, system_id: &str) -> Option<&Map<String, Value>> {
        Some(&self.runners.get(&runner)?.managers.get(system_id)?.info)
    }

    /// When a runner manager was last heard of.
    #[must_use]
    pub fn manager_contacted_at(&self, runner: u64, system_id: &str) -> Option<Timestamp> {
        Some(self.runners.get(&runner)?.managers.get(system_id)?.contacted_at)
    }

    fn set_paused(&mut self, id: u64, paused: bool) {
        self.change_runner(id, Map::from_iter([("paused".to_owned(), paused.into())]));
    }

    pub(super) fn verify(&mut self, now: Timestamp, inbound: &Inbound) -> Result<Reply, Reply> {
        let token = inbound.params.required("token")?;
        let system_id = system_id(&inbound.params)?;
        let announced = announced(&inbound.params)?;
        let runner = self.authenticate_runner(now, &token)?;
        self.contact(now, runner, &system_id, announced);
        Ok(if self.settings.verify_plain_text {
            Reply::number(StatusCode::OK)
        } else {
            Reply::json(StatusCode::OK, &self.credentials(runner, &token))
        })
    }

    pub(super) fn runner_with(&self, token: &str) -> Option<u64> {
        self.runner_tokens.get(token).copied()
    }

    /// Returns the runner with this token, unless the token has expired.
    pub(super) fn authenticate_runner(&self, now: Timestamp, token: &str) -> Result<u64, Reply> {
        let runner = self.runner_with(token).ok_or_else(Reply::forbidden)?;
        let expiry = self.token_expiry(runner).and_then(calendar::parse);
        if expiry.is_some_and(|at| at <= now) { Err(Reply::forbidden()) } else { Ok(runner) }
    }

    /// When the token of a runner stops working, as the API tells it.
    pub(super) fn token_expiry(&self, runner: u64) -> Option<&str> {
        let own = self.runners.get(&runner).and_then(|runner| runner.token_expires_at.as_deref());
        own.or(self.settings.token_expires_at.as_deref())
    }

    /// A manager showed up. What it says of itself shows at once. Its features are only stored at first, and when those that are
    /// stored are old.
    pub(super) fn contact(&mut self, now: Timestamp, runner: u64, system_id: &str, announced: Announced) {
        let refresh = self.settings.feature_refresh;
        let Some(runner) = self.runners.get_mut(&runner) else { return };
        let Announced { features, info } = announced;
        match runner.managers.get_mut(system_id) {
            Some(manager) => {
                manager.contacted_at = now;
                manager.info.extend(info);
                if now.saturating_since(manager.stored_at) >= refresh {
                    manager.stored_at = now;
                    // Features that are not told stay as they are.
                    manager.features = features.unwrap_or(std::mem::take(&mut manager.features));
                }
            }
            None => {
                let id = self.next_manager;
                self.next_manager += 1;
                if now.saturating_since(runner.checked_at) >= STALE_CHECK {
                    runner.checked_at = now;
                    runner.managers.retain(|_, known| now.saturating_since(known.contacted_at) < STALE_AFTER);
                }
                if runner.managers.len() >= MANAGERS {
                    let oldest = runner.managers.iter().min_by_key(|(_, known)| known.contacted_at);
                    let oldest = oldest.map(|(system_id, _)| system_id.clone());
                    oldest.map(|system_id| runner.managers.remove(&system_id));
                }
                let features = features.unwrap_or_default();
                let manager = Manager { id, features, info, made_at: now, stored_at: now, contacted_at: now };
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

    /// Whether a job request is refused because the runner belongs to nothing any more.
    pub(super) fn is_orphaned(&self, runner: u64) -> bool {
        self.runners.get(&runner).is_some_and(|runner| runner.orphaned && runner.kind() != RunnerType::Instance)
    }

    pub(super) fn is_paused(&self, runner: u64) -> bool {
        self.runners.get(&runner).is_some_and(|runner| runner.paused)
    }

    /// The queue value of a runner, made anew if there is none or if it is an hour old.
    pub(super) fn ensure_queue_value(&mut self, now: Timestamp, id: u64) -> String {
        let Some(runner) = self.runners.get_mut(&id) else { return String::new() };
        if runner.queue_expires.is_none_or(|expires| expires <= now) {
            runner.tick(now);
            self.holds.queue_changed(id);
        }
        tokens::queue_value(id, runner.generation)
    }

    /// What the front proxy sees: the stored value, if any.
    pub(super) fn stored_queue_value(&self, now: Timestamp, id: u64) -> Option<String> {
        let runner = self.runners.get(&id)?;
        // That the value expired is not announced.
        runner.queue_expires.filter(|expires| now < *expires).map(|_| tokens::queue_value(id, runner.generation))
    }
}

impl Runner {
    /// What it belongs to.
    pub(super) fn kind(&self) -> RunnerType {
        let named = self.attributes.get("runner_type").and_then(Value::as_str).and_then(RunnerType::named);
        named.unwrap_or(RunnerType::Instance)
    }

    /// When one of its managers was last heard of, or when it was made.
    pub(super) fn heard_of_at(&self) -> Timestamp {
        self.managers.values().map(|manager| manager.contacted_at).fold(self.updated_at, Timestamp::max)
    }

    /// The tags of the jobs that it takes.
    pub(super) fn tags(&self) -> impl Iterator<Item = &str> {
        let list = self.attributes.get("tag_list").and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str)
    }

    /// Whether it takes a job with these tags: it must have all of them, and take untagged jobs if there are none.
    pub(super) fn takes(&self, tags: &BTreeSet<String>, protected: bool) -> bool {
        let attribute = |name| self.attributes.get(name);
        if attribute("access_level").and_then(Value::as_str) == Some("ref_protected") && !protected {
            return false;
        }
        if tags.is_empty() {
            return attribute("run_untagged") != Some(&Value::Bool(false));
        }
        tags.iter().all(|tag| self.tags().any(|own| own == tag))
    }

    /// The longest time that a job may have on it.
    pub(super) fn maximum_timeout(&self) -> Option<Duration> {
        self.attributes.get("maximum_timeout").and_then(Value::as_u64).map(Duration::from_secs)
    }

    /// The queue changed: its value is another one from now on.
    pub(super) fn tick(&mut self, now: Timestamp) {
        self.generation += 1;
        self.queue_expires = Some(now.saturating_add(minutes(60)));
    }
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

/// What a manager says of itself.
#[derive(Debug)]
pub(super) struct Announced {
    /// `None` if it says nothing about features.
    pub(super) features: Option<BTreeSet<String>>,
    info: Map<String, Value>,
}

pub(super) fn announced(params: &Params) -> Result<Announced, Reply> {
    let is_wanted = |name: &str, on: &Value| name.len() <= FEATURE_NAME && is_truthy(on);
    let features = params.object_in("info", "features")?.map(|features| {
        let wanted = features.iter().filter(|(name, on)| is_wanted(name, on));
        wanted.take(FEATURES).map(|(name, _)| name.clone()).collect()
    });
    params.object_in("info", "config")?;
    params.object_in("info", "labels")?;
    let mut info = Map::new();
    for name in ["name", "version", "revision", "platform", "architecture", "executor"] {
        let told = params.text_in("info", name)?.filter(|text| !text.is_empty());
        let told = told.map(|text| text.chars().take(INFO_TEXT).collect::<String>());
        info.extend(told.map(|text| (name.to_owned(), text.into())));
    }
    Ok(Announced { features, info })
}

#[cfg(test)]
mod tests;
