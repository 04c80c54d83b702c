//! Requests to steer the simulation, and the parts of their answers.

use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::Timestamp;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Map, Value};

use crate::content::Content;
use crate::coordinator::Coordinator;
use crate::routes::Values;
use crate::server::Handling;
use crate::sim::faults::Faults;
pub(super) use crate::sim::guard::Refusal;
use crate::sim::settings;

/// A request to steer the simulation.
pub(super) struct Call<'a> {
    pub(super) gitlab: &'a mut Coordinator,
    pub(super) faults: &'a mut Faults,
    pub(super) now: Timestamp,
    pub(super) body: &'a Bytes,
    /// The values of the parameters in the path.
    pub(super) values: Values<'a>,
}

/// Refuses a body that is not what it should be.
pub(super) fn bad(why: impl Into<String>) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, why.into())
}

/// Refuses a request about something that does not exist.
pub(super) fn missing(why: impl Into<String>) -> Refusal {
    Refusal(StatusCode::NOT_FOUND, why.into())
}

/// An answer in JSON.
pub(super) fn told(status: StatusCode, body: &Value) -> Response<Content> {
    let mut response = typed("application/json", Bytes::from(format!("{body}\n")));
    *response.status_mut() = status;
    response
}

pub(super) fn ok(body: &Value) -> Result<Handling, Refusal> {
    Ok(Handling::Answered(told(StatusCode::OK, body)))
}

pub(super) fn created(body: &Value) -> Result<Handling, Refusal> {
    Ok(Handling::Answered(told(StatusCode::CREATED, body)))
}

pub(super) fn raw(kind: &'static str, body: impl Into<Content>) -> Result<Handling, Refusal> {
    Ok(Handling::Answered(typed(kind, body)))
}

/// An answer of this media type.
pub(super) fn typed(kind: &'static str, body: impl Into<Content>) -> Response<Content> {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A time as a number of seconds since 1970.
pub(super) fn seconds(time: Timestamp) -> f64 {
    Duration::from_millis(time.as_millis()).as_secs_f64()
}

impl Call<'_> {
    /// A value in the path.
    pub(super) fn value(&self, at: usize) -> &str {
        self.values.get(at).map_or("", |value| value)
    }

    pub(super) fn json(&self) -> Result<Value, Refusal> {
        serde_json::from_slice(self.body).map_err(|error| bad(format!("the body is not JSON: {error}")))
    }

    /// The members of the body, which may be empty.
    pub(super) fn members(&self) -> Result<Map<String, Value>, Refusal> {
        if self.body.is_empty() {
            return Ok(Map::new());
        }
        match self.json()? {
            Value::Object(members) => Ok(members),
            _ => Err(bad("the body is a JSON object")),
        }
    }

    /// Refuses a body with another member than these.
    pub(super) fn check_members(&self, known: &[&str]) -> Result<(), Refusal> {
        let Some(unknown) =
            self.members()?.into_iter().map(|(name, _)| name).find(|name| !known.contains(&name.as_str()))
        else {
            return Ok(());
        };
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Err(bad(format!("there is no member {unknown}; the members are: {known}")))
    }

    /// A member of the body that is a number of seconds.
    pub(super) fn duration(&self, name: &str) -> Result<Option<Duration>, Refusal> {
        let wrong = || bad(format!("{name} is a number of seconds"));
        self.members()?.get(name).map(|value| settings::duration(value).ok_or_else(wrong)).transpose()
    }

    /// A member of the body that is true or false.
    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool, Refusal> {
        match self.members()?.get(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(bad(format!("{name} is true or false"))),
        }
    }

    /// A member of the body that is a text and must be given.
    pub(super) fn text(&self, name: &str) -> Result<String, Refusal> {
        let members = self.members()?;
        members.get(name).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| bad(format!("{name} is a text")))
    }
}
