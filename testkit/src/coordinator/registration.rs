//! `POST /runners`, and the attributes of new runners.

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::params::Params;
use super::wire::Reply;
use super::{Coordinator, Inbound, Timestamp, tokens};

/// `Ci::Runner` takes no more tags, no longer texts, and no shorter timeout.
const MAX_TAGS: usize = 50;
const MAX_TEXT: usize = 1024;
const MIN_TIMEOUT: i64 = 600;

impl Coordinator {
    pub(super) fn register(&mut self, now: Timestamp, inbound: &Inbound) -> Result<Reply, Reply> {
        let params = &inbound.params;
        let with = params.required("token")?;
        let mut attributes = attributes(params)?;
        let kind = self.check_registration(now, &with)?;
        check_model(&attributes)?;
        attributes.insert("runner_type".to_owned(), kind.as_str().into());
        let token = tokens::runner_token(self.next_runner);
        let id = self.add_with(now, &token, attributes);
        if let Some(runner) = self.runners.get_mut(&id) {
            runner.registered_with = Some(with);
        }
        Ok(Reply::json(StatusCode::CREATED, &self.credentials(id, &token)))
    }

    /// Adds a runner with these attributes, which were checked.
    pub(super) fn add_with(&mut self, now: Timestamp, token: &str, attributes: Map<String, Value>) -> u64 {
        let id = self.add_runner(token);
        let paused = attributes.get("paused") == Some(&Value::Bool(true));
        if let Some(runner) = self.runners.get_mut(&id) {
            runner.attributes = attributes;
            runner.updated_at = now;
        }
        if paused {
            self.pause_runner(id);
        }
        id
    }
}

/// Reads the attributes of a new runner.
///
/// # Errors
///
/// Answers with 400 if the framework refuses a parameter. What the model refuses is told by [`errors`].
pub(super) fn attributes(params: &Params) -> Result<Map<String, Value>, Reply> {
    check_exclusive(params, &[("maintainer_note", "maintenance_note"), ("active", "paused")])?;
    check_access_level(params)?;
    for name in ["name", "version", "revision", "platform", "architecture"] {
        params.text_in("info", name)?;
    }
    let mut given = changes(params)?;
    given.entry("paused").or_insert(Value::Bool(false));
    given.entry("tag_list").or_insert_with(|| json!([]));
    given.retain(|_, value| !value.is_null());
    Ok(given)
}

/// Reads those attributes of a runner that the request gives. One that is to have no value any more is null.
///
/// # Errors
///
/// As [`attributes`].
pub(super) fn changes(params: &Params) -> Result<Map<String, Value>, Reply> {
    let mut given = Map::new();
    for (name, stored) in [
        ("description", "description"),
        ("maintainer_note", "maintenance_note"),
        ("maintenance_note", "maintenance_note"),
        ("access_level", "access_level"),
    ] {
        given.extend(params.text(name)?.map(|text| (stored.to_owned(), text.into())));
    }
    for name in ["locked", "run_untagged"] {
        given.extend(params.flag(name)?.map(|flag| (name.to_owned(), flag.into())));
    }
    if params.has("maximum_timeout") {
        given.insert("maximum_timeout".to_owned(), params.integer("maximum_timeout")?.into());
    }
    let paused = params.flag("paused")?.or(params.flag("active")?.map(|active| !active));
    given.extend(paused.map(|paused| ("paused".to_owned(), paused.into())));
    if params.has("tag_list") {
        given.insert("tag_list".to_owned(), params.list("tag_list").into());
    }
    Ok(given)
}

/// Refuses a request that gives both parameters of such a pair.
pub(super) fn check_exclusive(params: &Params, pairs: &[(&str, &str)]) -> Result<(), Reply> {
    match pairs.iter().find(|(one, other)| params.has(one) && params.has(other)) {
        Some((one, other)) => {
            Err(Reply::error(StatusCode::BAD_REQUEST, format!("{one}, {other} are mutually exclusive")))
        }
        None => Ok(()),
    }
}

/// Refuses an access level that does not exist.
pub(super) fn check_access_level(params: &Params) -> Result<(), Reply> {
    match params.text("access_level")?.as_deref() {
        None | Some("not_protected" | "ref_protected") => Ok(()),
        Some(_) => Err(Reply::error(StatusCode::BAD_REQUEST, "access_level does not have a valid value")),
    }
}

/// Refuses attributes that the model refuses, with the errors by attribute.
pub(super) fn check_model(attributes: &Map<String, Value>) -> Result<(), Reply> {
    let Some(errors) = errors(attributes) else { return Ok(()) };
    let errors: Map<String, Value> = errors.into_iter().map(|(name, why)| (name.to_owned(), json!([why]))).collect();
    Err(Reply::message(StatusCode::BAD_REQUEST, errors))
}

/// What the model refuses about these attributes, by attribute. `None` if nothing.
pub(super) fn errors(attributes: &Map<String, Value>) -> Option<Vec<(&'static str, String)>> {
    let mut errors = Vec::new();
    let tags = attributes.get("tag_list").and_then(Value::as_array).map_or(0, Vec::len);
    if attributes.get("run_untagged") == Some(&Value::Bool(false)) && tags == 0 {
        errors.push(("tags_list", "can not be empty when runner is not allowed to pick untagged jobs".to_owned()));
    }
    if tags > MAX_TAGS {
        errors.push(("tags_list", format!("Too many tags specified. Please limit the number of tags to {MAX_TAGS}")));
    }
    if attributes.get("maximum_timeout").and_then(Value::as_i64).is_some_and(|seconds| seconds < MIN_TIMEOUT) {
        errors.push(("maximum_timeout", "needs to be at least 10 minutes".to_owned()));
    }
    for name in ["description", "maintenance_note"] {
        let text = attributes.get(name).and_then(Value::as_str).unwrap_or_default();
        if text.chars().count() > MAX_TEXT {
            errors.push((name, format!("is too long (maximum is {MAX_TEXT} characters)")));
        }
    }
    (!errors.is_empty()).then_some(errors)
}

/// The errors in one sentence, with the names of attributes as Rails writes them for people.
pub(super) fn sentence(errors: &[(&'static str, String)]) -> String {
    let words = errors.iter().map(|(name, why)| {
        let (first, rest) = name.split_at(1);
        format!("{}{} {why}", first.to_uppercase(), rest.replace('_', " "))
    });
    let words: Vec<String> = words.collect();
    match &words[..] {
        [one, other] => format!("{one} and {other}"),
        [first @ .., last] if !first.is_empty() => format!("{}, and {last}", first.join(", ")),
        _ => words.concat(),
    }
}
