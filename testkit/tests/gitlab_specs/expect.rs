//! Compares a value with what a vector expects.

use serde_json::{Map, Value};

/// Compares `actual` with `expected`, which is a value or a matcher. `None` means that there is no value.
///
/// # Errors
///
/// A sentence that names the place and says what is there instead.
pub(crate) fn check(place: &str, expected: &Value, actual: Option<&Value>) -> Result<(), String> {
    if matches(expected, actual) {
        return Ok(());
    }
    let actual = actual.map_or("absent".to_owned(), Value::to_string);
    Err(format!("{place} is {actual:.600}, expected {expected}"))
}

fn matches(expected: &Value, actual: Option<&Value>) -> bool {
    match expected {
        Value::Object(members) => match matcher(members) {
            Some((name, argument)) => matches_with(name, argument, actual),
            None => {
                let Some(Value::Object(actual)) = actual else { return false };
                has(members, actual) && actual.keys().all(|name| members.contains_key(name))
            }
        },
        Value::Array(items) => {
            let Some(Value::Array(actual)) = actual else { return false };
            items.len() == actual.len() && items.iter().zip(actual).all(|(item, actual)| matches(item, Some(actual)))
        }
        scalar => actual == Some(scalar),
    }
}

/// The name and the argument, if these members are a matcher.
fn matcher(members: &Map<String, Value>) -> Option<(&str, &Value)> {
    let (name, argument) = members.iter().next().filter(|(name, _)| name.starts_with('$'))?;
    assert_eq!(members.len(), 1, "a matcher stands alone: {members:?}");
    Some((name, argument))
}

fn matches_with(name: &str, argument: &Value, actual: Option<&Value>) -> bool {
    let text = actual.and_then(Value::as_str);
    let wanted = argument.as_str();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    match name {
        "$has" => match (argument, actual) {
            (Value::Object(members), Some(Value::Object(actual))) => has(members, actual),
            _ => false,
        },
        "$include" => actual.is_some_and(|actual| includes(&list(argument), &list(actual))),
        "$only" => actual.is_some_and(|actual| {
            let (wanted, actual) = (list(argument), list(actual));
            wanted.len() == actual.len() && includes(&wanted, &actual)
        }),
        "$text" => text.zip(wanted).is_some_and(|(text, part)| text.contains(part)),
        "$prefix" => text.zip(wanted).is_some_and(|(text, prefix)| text.starts_with(prefix)),
        "$type" => actual.is_some_and(|actual| match wanted {
            Some("integer") => actual.is_i64() || actual.is_u64(),
            Some("number") => actual.is_number(),
            Some("string") => actual.is_string(),
            Some("boolean") => actual.is_boolean(),
            Some("list" | "array") => actual.is_array(),
            Some("object") => actual.is_object(),
            other => panic!("there is no type {other:?}"),
        }),
        "$in" => list(argument).iter().any(|one| matches(one, actual)),
        "$not" => !matches(argument, actual),
        "$above" => number(actual).zip(number(Some(argument))).is_some_and(|(actual, bound)| actual > bound),
        "$range" => {
            let bounds = list(argument);
            let (from, to) = (number(bounds.first()), number(bounds.get(1)));
            number(actual)
                .is_some_and(|actual| from.is_some_and(|from| from <= actual) && to.is_some_and(|to| actual < to))
        }
        "$number" => number(actual).is_some() && number(actual) == number(Some(argument)),
        "$present" => actual.is_some(),
        "$absent" => actual.is_none(),
        "$null_or_absent" => actual.is_none_or(Value::is_null),
        other => panic!("there is no matcher {other}"),
    }
}

fn has(members: &Map<String, Value>, actual: &Map<String, Value>) -> bool {
    members.iter().all(|(name, expected)| matches(expected, actual.get(name)))
}

/// Whether each expectation is met by an item of its own.
fn includes(wanted: &[Value], items: &[Value]) -> bool {
    let mut items: Vec<&Value> = items.iter().collect();
    wanted.iter().all(|wanted| {
        let found = items.iter().position(|item| matches(wanted, Some(item)));
        found.map(|at| items.swap_remove(at)).is_some()
    })
}

/// A number, also one that is written as a text.
fn number(value: Option<&Value>) -> Option<f64> {
    match value? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

#[test]
fn matchers_tell_values_apart() {
    use serde_json::json;
    let object = json!({ "a": 1, "b": ["x", "y"], "c": "12" });
    for (expected, matched) in [
        (json!({ "a": 1 }), false),
        (json!({ "$has": { "a": 1 } }), true),
        (json!({ "$has": { "a": 2 } }), false),
        (json!({ "$has": { "d": { "$absent": true } } }), true),
        (json!({ "$has": { "d": { "$present": true } } }), false),
        (json!({ "a": 1, "b": { "$only": ["y", "x"] }, "c": { "$number": 12 } }), true),
        (json!({ "$has": { "b": ["y", "x"] } }), false),
        (json!({ "$has": { "b": { "$only": ["x"] } } }), false),
        (json!({ "$has": { "b": { "$include": ["x"] } } }), true),
        (json!({ "$has": { "b": { "$include": ["x", "x"] } } }), false),
        (json!({ "$has": { "c": { "$above": 11 } } }), true),
        (json!({ "$has": { "c": { "$range": [1, 12] } } }), false),
        (json!({ "$has": { "c": { "$not": { "$prefix": "1" } } } }), false),
        (json!({ "$has": { "c": { "$in": [{ "$text": "2" }, null] } } }), true),
        (json!({ "$has": { "a": { "$type": "string" } } }), false),
    ] {
        assert_eq!(matches(&expected, Some(&object)), matched, "{expected}");
    }
}
