//! Runners and their managers: making them, looking at them, and what happens to them.

use std::time::Duration;

use gitlab_runner_api::Timestamp;
use serde_json::{Map, Value, json};

use super::call::{Call, Refusal, bad, created, missing, ok, seconds};
use crate::coordinator::{Coordinator, RunnerType};
use crate::server::Handling;

pub(super) fn list(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    let gitlab = &*call.gitlab;
    ok(&gitlab.runners().map(|id| view(gitlab, id)).collect())
}

pub(super) fn add(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    let mut members = call.members()?;
    let token = members.remove("token");
    let attributes = attributes(members)?;
    let id = match token {
        None => call.gitlab.make_runner(),
        Some(Value::String(token)) if !token.is_empty() => {
            let known = call.gitlab.runners().count();
            let id = call.gitlab.add_runner(&token);
            if call.gitlab.runners().count() == known {
                return Err(bad("there is a runner with this token already"));
            }
            id
        }
        Some(_) => return Err(bad("token is a text")),
    };
    call.gitlab.change_runner(id, attributes);
    created(&view(call.gitlab, id))
}

pub(super) fn show(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    let id = call.runner()?;
    ok(&view(call.gitlab, id))
}

pub(super) fn change(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    let changes = attributes(call.members()?)?;
    call.change_runner(|gitlab, _, id| gitlab.change_runner(id, changes))
}

pub(super) fn delete(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    let id = call.runner()?;
    call.gitlab.remove_runner(id);
    ok(&json!({}))
}

pub(super) fn pause(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    call.change_runner(|gitlab, _, id| gitlab.pause_runner(id))
}

pub(super) fn unpause(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    call.change_runner(|gitlab, _, id| gitlab.unpause_runner(id))
}

pub(super) fn reset_token(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    // The new token is part of what is shown.
    call.change_runner(|gitlab, _, id| drop(gitlab.reset_runner_token(id).map(str::to_owned)))
}

pub(super) fn expire_token(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    let after = call.duration("seconds")?.unwrap_or(Duration::ZERO);
    call.change_runner(|gitlab, now, id| gitlab.expire_runner_token(id, now.saturating_add(after)))
}

pub(super) fn orphan(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    call.change_runner(|gitlab, _, id| gitlab.orphan_runner(id))
}

pub(super) fn delete_manager(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    let (id, system_id) = (call.runner()?, call.value(1).to_owned());
    if !call.gitlab.remove_manager(id, &system_id) {
        return Err(missing(format!("runner {id} has no manager {system_id}")));
    }
    ok(&view(call.gitlab, id))
}

impl Call<'_> {
    /// The number of the runner that the path names.
    fn runner(&self) -> Result<u64, Refusal> {
        let named = self.value(0);
        let id = named.parse().ok().filter(|id| self.gitlab.runner_token(*id).is_some());
        id.ok_or_else(|| missing(format!("there is no runner {named}")))
    }

    /// Changes the runner that the path names, and shows it.
    fn change_runner(&mut self, change: impl FnOnce(&mut Coordinator, Timestamp, u64)) -> Result<Handling, Refusal> {
        let id = self.runner()?;
        change(self.gitlab, self.now, id);
        ok(&view(self.gitlab, id))
    }
}

/// Refuses attributes that a runner does not have, or with values of another kind. Those that GitLab would refuse for another
/// reason are taken.
fn attributes(members: Map<String, Value>) -> Result<Map<String, Value>, Refusal> {
    for (name, value) in &members {
        let (fits, kind) = match name.as_str() {
            "description" | "maintenance_note" => (value.is_string() || value.is_null(), "a text or null"),
            "paused" | "locked" | "run_untagged" => (value.is_boolean(), "true or false"),
            "maximum_timeout" => (value.is_u64() || value.is_null(), "a number of seconds or null"),
            "tag_list" => {
                let is_list = value.as_array().is_some_and(|tags| tags.iter().all(Value::is_string));
                (is_list, "a list of texts")
            }
            "access_level" => {
                let is_level = matches!(value.as_str(), Some("not_protected" | "ref_protected"));
                (is_level, "not_protected or ref_protected")
            }
            "runner_type" => {
                let is_type = value.as_str().and_then(RunnerType::named).is_some();
                (is_type, "instance_type, group_type or project_type")
            }
            unknown => return Err(bad(format!("a runner has no attribute {unknown}"))),
        };
        if !fits {
            return Err(bad(format!("{name} is {kind}")));
        }
    }
    Ok(members)
}

fn view(gitlab: &Coordinator, id: u64) -> Value {
    let manager = |system_id: &str| {
        json!({
            "info": gitlab.manager_info(id, system_id),
            "features": gitlab.manager_features(id, system_id),
            "contacted_at": gitlab.manager_contacted_at(id, system_id).map(seconds),
        })
    };
    let managers: Map<String, Value> =
        gitlab.managers(id).map(|system_id| (system_id.to_owned(), manager(system_id))).collect();
    json!({
        "id": id,
        "token": gitlab.runner_token(id),
        "attributes": gitlab.runner_attributes(id),
        "managers": managers,
    })
}
