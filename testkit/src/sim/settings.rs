//! The settings of the instance as JSON, for `GET` and `PATCH /_sim/settings`.

use std::time::Duration;

use http::Uri;
use serde_json::{Map, Value, json};

use crate::coordinator::{HostLimit, Maintenance, ReplayRule, Settings};

/// A value that a setting can have.
trait Setting: Sized {
    /// What the value must be, to follow "is".
    fn expected() -> String;
    fn to_json(&self) -> Value;
    /// `None` if the value is not what it should be.
    fn from_json(value: &Value) -> Option<Self>;
}

/// A setting by its name.
struct Entry {
    name: &'static str,
    show: fn(&Settings) -> Value,
    /// Fails with a sentence that says what the value must be.
    set: fn(&mut Settings, &Value) -> Result<(), String>,
}

macro_rules! entries {
    ($($name:ident),* $(,)?) => {
        &[$(Entry {
            name: stringify!($name),
            show: |settings| settings.$name.to_json(),
            set: |settings, value| {
                settings.$name = read(stringify!($name), value)?;
                Ok(())
            },
        }),*]
    };
}

/// All settings that can be changed while the program runs.
static ENTRIES: &[Entry] = entries![
    acceptance_patience,
    annotations_list_limit,
    annotations_size_limit,
    archive_delay,
    artifact_size_limit,
    artifacts_enabled,
    creation_allowed,
    dotenv_size_limit,
    dotenv_variable_limit,
    external_url,
    feature_refresh,
    fractional_interval,
    front_proxy_signature,
    gitaly_failures,
    host_limit,
    instance_runners_enabled,
    job_limit,
    job_request_conflicts,
    job_request_limit,
    job_status_header_on_put,
    job_token_grace,
    job_token_removed_after,
    kept_artifact_bytes,
    kept_jobs,
    kept_log_bytes,
    kept_requests,
    local_sessions_allowed,
    long_poll,
    maintenance,
    mask_job_token,
    migration_backoff,
    object_storage,
    object_storage_fails,
    object_storage_loses_uploads,
    registration_allowed,
    reject_checksum,
    replay,
    router_url,
    running_jobs_bucket,
    runtime_environment_key,
    stuck_after,
    token_expires_at,
    trace_interval,
    trace_limit,
    trace_size_limit,
    two_phase_commit,
    upload_redirect,
    verify_plain_text,
];

/// All settings that can be changed while the program runs.
pub(super) fn view(settings: &Settings) -> Value {
    ENTRIES.iter().map(|entry| (entry.name.to_owned(), (entry.show)(settings))).collect::<Map<_, _>>().into()
}

/// Changes these settings, or none of them.
///
/// # Errors
///
/// A sentence that names the setting that does not exist, or whose value is not what it should be.
pub(super) fn change(settings: &mut Settings, members: &Map<String, Value>) -> Result<(), String> {
    let mut changed = settings.clone();
    for (name, value) in members {
        let entry = ENTRIES.iter().find(|entry| entry.name == name);
        let entry = entry.ok_or_else(|| format!("there is no setting {name}"))?;
        (entry.set)(&mut changed, value)?;
        // Clients are sent there.
        let is_address = ["external_url", "object_storage", "upload_redirect"].contains(&entry.name);
        if is_address && value.as_str().is_some_and(|text| !is_address_of_a_server(text)) {
            return Err(format!("{name} is an address such as https://gitlab.example.test"));
        }
    }
    *settings = changed;
    Ok(())
}

fn is_address_of_a_server(text: &str) -> bool {
    let parsed: Option<Uri> = text.parse().ok();
    parsed.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    })
}

fn read<T: Setting>(name: &str, value: &Value) -> Result<T, String> {
    T::from_json(value).ok_or_else(|| format!("{name} is {}", T::expected()))
}

/// A number of seconds.
pub(super) fn duration(value: &Value) -> Option<Duration> {
    value.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

impl Setting for bool {
    fn expected() -> String {
        "true or false".to_owned()
    }

    fn to_json(&self) -> Value {
        json!(self)
    }

    fn from_json(value: &Value) -> Option<Self> {
        value.as_bool()
    }
}

impl Setting for String {
    fn expected() -> String {
        "a text".to_owned()
    }

    fn to_json(&self) -> Value {
        json!(self)
    }

    fn from_json(value: &Value) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
}

macro_rules! whole_numbers {
    ($($number:ty),*) => {$(
        impl Setting for $number {
            fn expected() -> String {
                "a whole number".to_owned()
            }

            fn to_json(&self) -> Value {
                json!(self)
            }

            fn from_json(value: &Value) -> Option<Self> {
                value.as_u64()?.try_into().ok()
            }
        }
    )*};
}

whole_numbers!(u32, u64, usize);

impl Setting for Duration {
    fn expected() -> String {
        "a number of seconds".to_owned()
    }

    fn to_json(&self) -> Value {
        json!(self.as_secs_f64())
    }

    fn from_json(value: &Value) -> Option<Self> {
        duration(value)
    }
}

impl<T: Setting> Setting for Option<T> {
    fn expected() -> String {
        format!("{} or null", T::expected())
    }

    fn to_json(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::to_json)
    }

    fn from_json(value: &Value) -> Option<Self> {
        if value.is_null() { Some(None) } else { T::from_json(value).map(Some) }
    }
}

impl Setting for Maintenance {
    fn expected() -> String {
        "true, false or a number of seconds".to_owned()
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Off => json!(false),
            Self::On => json!(true),
            Self::RetryAfter(seconds) => json!(seconds),
        }
    }

    fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(false) => Some(Self::Off),
            Value::Bool(true) => Some(Self::On),
            _ => u32::from_json(value).map(Self::RetryAfter),
        }
    }
}

impl Setting for ReplayRule {
    fn expected() -> String {
        "accepted or refused".to_owned()
    }

    fn to_json(&self) -> Value {
        match self {
            Self::TailRepeatAccepted => json!("accepted"),
            Self::Strict416 => json!("refused"),
        }
    }

    fn from_json(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "accepted" => Some(Self::TailRepeatAccepted),
            "refused" => Some(Self::Strict416),
            _ => None,
        }
    }
}

impl Setting for HostLimit {
    fn expected() -> String {
        "an object with requests, a period in seconds, and perhaps unauthenticated_only,".to_owned()
    }

    fn to_json(&self) -> Value {
        json!({
            "requests": self.requests,
            "period": self.period.as_secs_f64(),
            "unauthenticated_only": self.unauthenticated_only,
        })
    }

    fn from_json(value: &Value) -> Option<Self> {
        let (requests, period) = (u32::from_json(&value["requests"])?, duration(&value["period"])?);
        match value.get("unauthenticated_only") {
            None | Some(Value::Bool(false)) => Some(Self::new(requests, period)),
            Some(Value::Bool(true)) => Some(Self::unauthenticated(requests, period)),
            Some(_) => None,
        }
    }
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

    /// An address that is none would only show in a client that is sent to nowhere.
    #[test]
    fn addresses_are_addresses() {
        for name in ["external_url", "object_storage", "upload_redirect"] {
            for (text, is_taken) in [
                ("https://near.test:8443", true),
                ("http://[::1]:80/gitlab", true),
                ("javascript:x", false),
                ("near.test", false),
                ("https://", false),
                ("http://a\r\nX: y", false),
                ("ftp://near.test", false),
                ("", false),
            ] {
                let members = Map::from_iter([(name.to_owned(), json!(text))]);
                assert_eq!(change(&mut Settings::default(), &members).is_ok(), is_taken, "{name} {text:?}");
            }
        }
    }
}
