//! The settings of the instance as JSON, for `GET` and `PATCH /_sim/settings`.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::coordinator::{HostLimit, Maintenance, Settings};

/// All settings that can be changed while the program runs.
pub(super) fn view(settings: &Settings) -> Value {
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    let maintenance = match settings.maintenance {
        Maintenance::Off => json!(false),
        Maintenance::On => json!(true),
        Maintenance::RetryAfter(seconds) => json!(seconds),
    };
    let host_limit = settings.host_limit.as_ref().map(|limit| {
        json!({
            "requests": limit.requests,
            "period": limit.period.as_secs_f64(),
            "unauthenticated_only": limit.unauthenticated_only,
        })
    });
    json!({
        "acceptance_patience": settings.acceptance_patience.as_secs_f64(),
        "archive_delay": seconds(settings.archive_delay),
        "artifact_size_limit": settings.artifact_size_limit,
        "artifacts_enabled": settings.artifacts_enabled,
        "creation_allowed": settings.creation_allowed,
        "external_url": settings.external_url,
        "gitaly_failures": settings.gitaly_failures,
        "host_limit": host_limit,
        "instance_runners_enabled": settings.instance_runners_enabled,
        "job_limit": settings.job_limit,
        "job_request_conflicts": settings.job_request_conflicts,
        "job_request_limit": settings.job_request_limit,
        "job_token_removed_after": seconds(settings.job_token_removed_after),
        "local_sessions_allowed": settings.local_sessions_allowed,
        "long_poll": seconds(settings.long_poll),
        "maintenance": maintenance,
        "migration_backoff": settings.migration_backoff,
        "object_storage": settings.object_storage,
        "object_storage_fails": settings.object_storage_fails,
        "registration_allowed": settings.registration_allowed,
        "reject_checksum": settings.reject_checksum,
        "router_url": settings.router_url,
        "runtime_environment_key": settings.runtime_environment_key,
        "token_expires_at": settings.token_expires_at,
        "trace_interval": settings.trace_interval,
        "trace_limit": settings.trace_limit,
        "trace_size_limit": settings.trace_size_limit,
        "two_phase_commit": settings.two_phase_commit,
        "upload_redirect": settings.upload_redirect,
        "verify_plain_text": settings.verify_plain_text,
    })
}

/// Changes these settings, or none of them.
///
/// # Errors
///
/// A sentence that names the setting that does not exist, or whose value is not what it should be.
pub(super) fn change(settings: &mut Settings, members: &Map<String, Value>) -> Result<(), String> {
    let mut changed = settings.clone();
    for (name, value) in members {
        change_one(&mut changed, name, value)?;
    }
    *settings = changed;
    Ok(())
}

fn change_one(settings: &mut Settings, name: &str, value: &Value) -> Result<(), String> {
    let flag = || value.as_bool().ok_or_else(|| format!("{name} is true or false"));
    let number = || value.as_u64().ok_or_else(|| format!("{name} is a whole number"));
    let count = || {
        value.as_u64().and_then(|count| u32::try_from(count).ok()).ok_or_else(|| format!("{name} is a whole number"))
    };
    let seconds = || duration(value).ok_or_else(|| format!("{name} is a number of seconds"));
    let text = || value.as_str().map(str::to_owned).ok_or_else(|| format!("{name} is a text"));
    let is_null = value.is_null();
    match name {
        "acceptance_patience" => settings.acceptance_patience = seconds()?,
        "archive_delay" => settings.archive_delay = (!is_null).then(seconds).transpose()?,
        "artifact_size_limit" => settings.artifact_size_limit = number()?,
        "artifacts_enabled" => settings.artifacts_enabled = flag()?,
        "creation_allowed" => settings.creation_allowed = flag()?,
        "external_url" => settings.external_url = text()?,
        "gitaly_failures" => settings.gitaly_failures = count()?,
        "host_limit" => settings.host_limit = (!is_null).then(|| host_limit(value)).transpose()?,
        "instance_runners_enabled" => settings.instance_runners_enabled = flag()?,
        "job_limit" => settings.job_limit = count()?,
        "job_request_conflicts" => settings.job_request_conflicts = count()?,
        "job_request_limit" => settings.job_request_limit = count()?,
        "job_token_removed_after" => settings.job_token_removed_after = (!is_null).then(seconds).transpose()?,
        "local_sessions_allowed" => settings.local_sessions_allowed = flag()?,
        "long_poll" => settings.long_poll = (!is_null).then(seconds).transpose()?,
        "maintenance" => {
            settings.maintenance = match value {
                Value::Bool(false) => Maintenance::Off,
                Value::Bool(true) => Maintenance::On,
                _ => Maintenance::RetryAfter(count().map_err(|_| "maintenance is true, false or a number of seconds")?),
            };
        }
        "migration_backoff" => settings.migration_backoff = flag()?,
        "object_storage" => settings.object_storage = (!is_null).then(text).transpose()?,
        "object_storage_fails" => settings.object_storage_fails = flag()?,
        "registration_allowed" => settings.registration_allowed = flag()?,
        "reject_checksum" => settings.reject_checksum = count()?,
        "router_url" => settings.router_url = (!is_null).then(text).transpose()?,
        "runtime_environment_key" => settings.runtime_environment_key = (!is_null).then(text).transpose()?,
        "token_expires_at" => settings.token_expires_at = (!is_null).then(text).transpose()?,
        "trace_interval" => settings.trace_interval = (!is_null).then(count).transpose()?,
        "trace_limit" => settings.trace_limit = count()?,
        "trace_size_limit" => settings.trace_size_limit = (!is_null).then(number).transpose()?,
        "two_phase_commit" => settings.two_phase_commit = flag()?,
        "upload_redirect" => settings.upload_redirect = (!is_null).then(text).transpose()?,
        "verify_plain_text" => settings.verify_plain_text = flag()?,
        unknown => return Err(format!("there is no setting {unknown}")),
    }
    Ok(())
}

fn host_limit(value: &Value) -> Result<HostLimit, String> {
    let wrong =
        || "host_limit is null, or has requests, a period in seconds, and perhaps unauthenticated_only".to_owned();
    let requests = value["requests"].as_u64().and_then(|requests| u32::try_from(requests).ok()).ok_or_else(wrong)?;
    let period = duration(&value["period"]).ok_or_else(wrong)?;
    match value.get("unauthenticated_only") {
        None | Some(Value::Bool(false)) => Ok(HostLimit::new(requests, period)),
        Some(Value::Bool(true)) => Ok(HostLimit::unauthenticated(requests, period)),
        Some(_) => Err(wrong()),
    }
}

/// A number of seconds.
pub(super) fn duration(value: &Value) -> Option<Duration> {
    value.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_that_is_shown_can_be_set_to_what_is_shown() {
        let mut settings = Settings::default().with(|settings| {
            settings.host_limit = Some(HostLimit::unauthenticated(3, Duration::from_secs(60)));
            settings.maintenance = Maintenance::RetryAfter(7);
            settings.archive_delay = Some(Duration::from_millis(1500));
        });
        let shown = view(&settings);
        let members = shown.as_object().expect("an object");
        change(&mut settings, members).expect("all of them");
        assert_eq!(view(&settings), shown);
        for name in members.keys() {
            let wrong = Map::from_iter([(name.clone(), json!({ "wrong": [] }))]);
            let why = change(&mut settings, &wrong).expect_err(name);
            assert!(why.starts_with(name.as_str()), "{why}");
        }
        let mut partly = Map::from_iter([("long_poll".to_owned(), json!(5)), ("moon".to_owned(), json!(1))]);
        assert_eq!(change(&mut settings, &partly), Err("there is no setting moon".to_owned()));
        assert_eq!(settings.long_poll, None, "a refused change changes nothing");
        partly.remove("moon");
        assert_eq!(change(&mut settings, &partly), Ok(()));
        assert_eq!(settings.long_poll, Some(Duration::from_secs(5)));
    }
}
