//! The instance: settings, faults, requests, time, users and registration tokens.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::call::{Call, Refusal, bad, created, ok, raw, seconds, told};
use super::jobs;
use crate::coordinator::{Coordinator, Endpoint, Registration, RequestRecord, Role, RunnerType};
use crate::server::Handling;
use crate::sim::faults::InvalidFault;
use crate::sim::openapi::{DESCRIBED_URL, OPENAPI};
use crate::sim::settings;

pub(super) fn health(_: &mut Call<'_>) -> Result<Handling, Refusal> {
    ok(&json!({ "status": "ok" }))
}

pub(super) fn description(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    // With the address of this server, so that generated clients find it.
    let url = json!(call.gitlab.settings().external_url).to_string();
    raw("application/json", Bytes::from(OPENAPI.replacen(DESCRIBED_URL, &url, 1)))
}

pub(super) fn show_report(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    ok(&report(call.gitlab))
}

pub(super) fn show_settings(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    ok(&settings::view(call.gitlab.settings()))
}

pub(super) fn change_settings(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    let members = call.members()?;
    settings::change(call.gitlab.settings_mut(), &members).map_err(bad)?;
    show_settings(call)
}

pub(super) fn list_faults(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    ok(&call.faults.list().iter().map(ToString::to_string).collect())
}

pub(super) fn add_fault(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    let fault = call.text("fault")?.parse();
    call.faults.add(fault.map_err(|error: InvalidFault| bad(error.to_string()))?);
    list_faults(call)
}

pub(super) fn clear_faults(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    call.faults.clear();
    list_faults(call)
}

pub(super) fn list_requests(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    ok(&call.gitlab.requests().map(request_view).collect())
}

pub(super) fn clear_requests(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    call.gitlab.clear_requests();
    list_requests(call)
}

fn request_view(record: &RequestRecord) -> Value {
    json!({
        "at": seconds(record.at),
        "method": record.method,
        "path": record.path,
        "status": record.status,
        "changes": record.changes,
    })
}

pub(super) fn show_time(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    ok(&json!({ "now": seconds(call.now) }))
}

pub(super) fn advance_time(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    let by = call.duration("advance")?.ok_or_else(|| bad("advance is a number of seconds"))?;
    // The clock counts milliseconds, and a number such as 0.877 is not exact.
    let by = by.saturating_add(Duration::from_micros(500));
    let by = Duration::from_millis(u64::try_from(by.as_millis()).unwrap_or(u64::MAX));
    Ok(Handling::Advanced(by, told(StatusCode::OK, &json!({ "now": seconds(call.now.saturating_add(by)) }))))
}

pub(super) fn add_user(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    let token = call.text("token")?;
    let members = call.members()?;
    let named = members.get("role").and_then(Value::as_str).unwrap_or(Role::Administrator.as_str());
    let role = Role::named(named).ok_or_else(|| bad(format!("role is one of {}", Role::NAMES)))?;
    let scopes = match members.get("scopes") {
        None => Some(vec!["api".to_owned()]),
        Some(list) => list.as_array().and_then(|list| list.iter().map(|one| one.as_str().map(str::to_owned)).collect()),
    };
    let scopes = scopes.ok_or_else(|| bad("scopes is a list of texts such as api or manage_runner"))?;
    call.gitlab.add_user(&token, role, scopes.clone());
    created(&json!({ "token": token, "role": role.as_str(), "scopes": scopes }))
}

pub(super) fn add_registration_token(call: &mut Call<'_>) -> Result<Handling, Refusal> {
    let token = call.text("token")?;
    let members = call.members()?;
    let kind = match members.get("runner_type") {
        None => Some(RunnerType::Instance),
        Some(named) => named.as_str().and_then(RunnerType::named),
    };
    let kind = kind.ok_or_else(|| bad("runner_type is instance_type, group_type or project_type"))?;
    let (allowed, enabled) = (call.flag("allowed", true)?, call.flag("tokens_enabled", true)?);
    let limit = match members.get("runner_limit") {
        None | Some(Value::Null) => None,
        Some(limit) => {
            let limit = limit.as_u64().and_then(|limit| usize::try_from(limit).ok());
            Some(limit.ok_or_else(|| bad("runner_limit is a number of runners"))?)
        }
    };
    let registration = Registration::new(kind).with(|registration| {
        registration.allowed = allowed;
        registration.tokens_enabled = enabled;
        registration.runner_limit = limit;
    });
    call.gitlab.add_registration_token(&token, registration);
    let view = json!({
        "token": token,
        "runner_type": kind.as_str(),
        "allowed": allowed,
        "tokens_enabled": enabled,
        "runner_limit": limit,
    });
    created(&view)
}

/// Everything that happened.
pub(in crate::sim) fn report(gitlab: &Coordinator) -> Value {
    let counts = |counted: &mut dyn Iterator<Item = (Endpoint, u64)>| -> Map<String, Value> {
        counted.map(|(endpoint, count)| (endpoint.route().to_owned(), count.into())).collect()
    };
    let answers: Map<String, Value> =
        gitlab.stats().all_answers().map(|(status, count)| (status.to_string(), count.into())).collect();
    let runners: Vec<Value> = gitlab
        .runners()
        .map(|id| {
            let managers: Vec<&str> = gitlab.managers(id).collect();
            json!({ "id": id, "managers": managers, "attributes": gitlab.runner_attributes(id) })
        })
        .collect();
    json!({
        "jobs": gitlab.jobs().map(jobs::view).collect::<Vec<_>>(),
        "runners": runners,
        "requests": counts(&mut gitlab.stats().all_requests()),
        "answers": answers,
    })
}
