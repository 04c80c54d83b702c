//! The parameters of a request, as Rails reads them on every endpoint.
//!
//! GitLab takes parameters from the query, from a JSON object, from a urlencoded form with nested names and from
//! multipart. Where query and body give the same parameter, the body wins. Names are nested by Rack's rules:
//! `a[b]=1` is a member of an object, `c[]=2` is an item of a list, and `d[][e]=3` is a member of an object in a list.

use bytes::Bytes;
use futures_util::{FutureExt, stream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use percent_encoding::percent_decode;
use serde_json::{Map, Value};

use super::body::Body;
use super::wire::{self, Reply, media_type};
use crate::form::{FilePart, Form, FormError, Keep};

/// Rack refuses names that are nested deeper than this.
const MAX_DEPTH: usize = 32;

/// The parameters of a request.
#[derive(Debug, Default)]
pub(super) struct Params(Map<String, Value>);

impl Params {
    /// Reads the parameters, and the files of a multipart body.
    ///
    /// # Errors
    ///
    /// Answers with 400 if the body does not have the format that its media type names.
    pub(super) fn read(query: Option<&str>, headers: &HeaderMap, body: &Body) -> Result<(Self, Vec<FilePart>), Reply> {
        let mut params = Self::from_query(query)?;
        let body = match body {
            Body::Whole(body) => body,
            Body::Form(form) => {
                params.add_form(form)?;
                return Ok((params, form.files.clone()));
            }
            Body::Malformed => return Err(malformed()),
            Body::Discarded => return Ok((params, Vec::new())),
        };
        let mut files = Vec::new();
        match media_type(headers).as_str() {
            kind if kind != "multipart/form-data" && body.is_empty() => {}
            // Grape takes a body without a media type for JSON.
            "application/json" | "" => match serde_json::from_slice(body) {
                Ok(value) if has_nul(&value) => return Err(Reply::malformed_text()),
                Ok(Value::Object(members)) => params.0.extend(members),
                Ok(_) => {}
                Err(_) => return Err(malformed()),
            },
            "application/x-www-form-urlencoded" => {
                let mut form = Self::default();
                form.add_pairs(body)?;
                params.0.extend(form.0);
            }
            "multipart/form-data" => {
                let form = multipart(headers, body)?;
                params.add_form(&form)?;
                files = form.files;
            }
            "text/plain" => {}
            kind => return Err(Reply::unsupported(kind)),
        }
        Ok((params, files))
    }

    /// Reads the parameters of the query alone, for endpoints with a body that is a log.
    pub(super) fn from_query(query: Option<&str>) -> Result<Self, Reply> {
        let mut params = Self::default();
        params.add_pairs(query.unwrap_or_default().as_bytes())?;
        Ok(params)
    }

    /// Adds the fields of a multipart form, which win over what is there.
    fn add_form(&mut self, form: &Form) -> Result<(), Reply> {
        let mut fields = Self::default();
        for (name, value) in &form.fields {
            let value = std::str::from_utf8(value).ok().filter(|value| !value.contains('\0'));
            fields.add(name, value.ok_or_else(Reply::malformed_text)?.to_owned())?;
        }
        self.0.extend(fields.0);
        Ok(())
    }

    fn add_pairs(&mut self, form: &[u8]) -> Result<(), Reply> {
        if wire::is_malformed(&percent_decode(form).collect::<Vec<u8>>()) {
            return Err(Reply::malformed_text());
        }
        for (name, value) in form_urlencoded::parse(form) {
            self.add(&name, value.into_owned())?;
        }
        Ok(())
    }

    fn add(&mut self, name: &str, value: String) -> Result<(), Reply> {
        let (first, rest) = match name.find('[') {
            // A bracket at the start is part of the name.
            Some(at) if at > 0 => name.split_at(at),
            _ => (name, ""),
        };
        if first.is_empty() {
            return Ok(());
        }
        let keys = nested(rest)
            .ok_or_else(|| Reply::error(StatusCode::BAD_REQUEST, "exceeded available parameter key space"))?;
        let mismatch = |_| Reply::error(StatusCode::BAD_REQUEST, format!("{first} is invalid"));
        insert(&mut self.0, first, &keys, value).map_err(mismatch)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Returns a parameter that must be given, though it may be empty.
    pub(super) fn required(&self, name: &str) -> Result<String, Reply> {
        if !self.has(name) {
            return Err(Reply::error(StatusCode::BAD_REQUEST, format!("{name} is missing")));
        }
        Ok(self.text(name)?.unwrap_or_default())
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Reply> {
        text(self.0.get(name), || name.to_owned())
    }

    /// Returns a text in an object, which the parameter `parent` is.
    pub(super) fn text_in(&self, parent: &str, name: &str) -> Result<Option<String>, Reply> {
        let value = self.object(parent)?.and_then(|members| members.get(name));
        text(value, || format!("{parent}[{name}]"))
    }

    pub(super) fn integer(&self, name: &str) -> Result<Option<i64>, Reply> {
        integer(self.0.get(name), || name.to_owned())
    }

    /// Returns a whole number in an object, which the parameter `parent` is.
    pub(super) fn integer_in(&self, parent: &str, name: &str) -> Result<Option<i64>, Reply> {
        let value = self.object(parent)?.and_then(|members| members.get(name));
        integer(value, || format!("{parent}[{name}]"))
    }

    /// Returns a boolean in one of the spellings that GitLab takes. They are exact: `False` is a boolean, `FaLSE` is not.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, Reply> {
        Ok(match self.text(name)?.as_deref() {
            None | Some("") => None,
            Some(
                "1" | "on" | "On" | "ON" | "t" | "true" | "True" | "TRUE" | "T" | "y" | "yes" | "Yes" | "YES" | "Y",
            ) => Some(true),
            Some(
                "0" | "off" | "Off" | "OFF" | "f" | "false" | "False" | "FALSE" | "F" | "n" | "no" | "No" | "NO" | "N",
            ) => Some(false),
            Some(_) => return Err(invalid(name)),
        })
    }

    pub(super) fn object(&self, name: &str) -> Result<Option<&Map<String, Value>>, Reply> {
        object(self.0.get(name), || name.to_owned())
    }

    /// Returns an object in an object, which the parameter `parent` is.
    pub(super) fn object_in(&self, parent: &str, name: &str) -> Result<Option<&Map<String, Value>>, Reply> {
        let value = self.object(parent)?.and_then(|members| members.get(name));
        object(value, || format!("{parent}[{name}]"))
    }

    /// Returns a list of words: a text with commas, or a list of such texts. Each word occurs once.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let texts: Vec<String> = match self.0.get(name) {
            Some(Value::Array(items)) => items.iter().filter_map(scalar).collect(),
            Some(Value::String(text)) => vec![text.clone()],
            // GitLab takes anything else for an empty list.
            _ => Vec::new(),
        };
        let mut words: Vec<String> = Vec::new();
        for word in texts.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|word| !word.is_empty()) {
            if !words.iter().any(|known| known == word) {
                words.push(word.to_owned());
            }
        }
        words
    }
}

/// Whether Ruby takes the value for true: everything is, except null and false.
pub(super) fn is_truthy(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false))
}

/// Whether a text in the value has a NUL.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(members) => members.values().any(has_nul),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Returns a scalar as text: the framework converts numbers and booleans. `name` names the parameter in the refusal.
fn text(value: Option<&Value>, name: impl Fn() -> String) -> Result<Option<String>, Reply> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) => scalar(value).map(Some).ok_or_else(|| invalid(&name())),
    }
}

/// Returns a whole number, converted as Ruby's `Integer` does: a text may have spaces around it and underscores between digits,
/// and the fraction of a number is cut off.
fn integer(value: Option<&Value>, name: impl Fn() -> String) -> Result<Option<i64>, Reply> {
    let number = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.is_empty() => return Ok(None),
        Some(Value::String(text)) => whole_number(text.trim()),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a fraction is to be cut off, and too large a number is saturated"
        )]
        Some(Value::Number(number)) => number.as_i64().or(number.as_f64().map(|number| number as i64)),
        Some(_) => None,
    };
    number.map(Some).ok_or_else(|| invalid(&name()))
}

fn whole_number(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let well_formed =
        digits.split('_').all(|group| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit()));
    if well_formed { text.replace('_', "").parse().ok() } else { None }
}

/// Returns an object. An empty text is not one, although a form cannot write an empty object in another way.
fn object(value: Option<&Value>, name: impl Fn() -> String) -> Result<Option<&Map<String, Value>>, Reply> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(members)) => Ok(Some(members)),
        Some(_) => Err(invalid(&name())),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn invalid(name: &str) -> Reply {
    Reply::error(StatusCode::BAD_REQUEST, format!("{name} is invalid"))
}

fn malformed() -> Reply {
    Reply::error(StatusCode::BAD_REQUEST, "message body does not match declared format")
}

/// The keys in `[a][][b]`, where an empty one stands for an item of a list. What does not close a bracket is left out, as
/// Rack does. `None` if there are too many.
fn nested(mut rest: &str) -> Option<Vec<&str>> {
    let mut keys = Vec::new();
    while let Some((key, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        keys.push(key);
        rest = after;
    }
    (keys.len() < MAX_DEPTH).then_some(keys)
}

/// A name means a text in one place and an object or a list in another.
struct Mismatch;

fn insert(members: &mut Map<String, Value>, name: &str, keys: &[&str], value: String) -> Result<(), Mismatch> {
    match keys {
        [] => {
            members.insert(name.to_owned(), Value::String(value));
            Ok(())
        }
        ["", rest @ ..] => {
            let list = members.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            let list = list.as_array_mut().ok_or(Mismatch)?;
            let [key, deeper @ ..] = rest else {
                list.push(Value::String(value));
                return Ok(());
            };
            // An object is continued until one of its members comes a second time.
            let begins = list.last().is_none_or(|last| last.get(*key).is_some() && deeper.first() != Some(&""));
            if begins {
                list.push(Value::Object(Map::new()));
            }
            let last = list.last_mut().and_then(Value::as_object_mut).ok_or(Mismatch)?;
            insert(last, key, deeper, value)
        }
        [key, rest @ ..] => {
            let object = members.entry(name).or_insert_with(|| Value::Object(Map::new()));
            insert(object.as_object_mut().ok_or(Mismatch)?, key, rest, value)
        }
    }
}

/// Reads a multipart body that is there as a whole.
fn multipart(headers: &HeaderMap, body: &Bytes) -> Result<Form, Reply> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let whole = stream::once(std::future::ready(Ok(body.clone())));
    let read = Form::read(kind, whole, Keep::InMemory).now_or_never();
    // The whole body is there, so that the future never waits.
    read.unwrap_or(Err(FormError::Malformed)).map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;
    use serde_json::json;

    use super::*;

    fn read(query: Option<&str>, kind: &'static str, body: &str) -> Result<(Params, Vec<FilePart>), Reply> {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
        Params::read(query, &headers, &Body::Whole(Bytes::from(body.to_owned())))
    }

    fn form(body: &str) -> Value {
        let (params, _) = read(None, "application/x-www-form-urlencoded", body).expect("a form");
        Value::Object(params.0)
    }

    #[test]
    fn the_body_wins_over_the_query() {
        let (json, _) = read(Some("a=1&b=x%2By+z&c"), "application/json; charset=utf-8", r#"{"a":2}"#).expect("JSON");
        assert_eq!(Value::Object(json.0.clone()), json!({ "a": 2, "b": "x+y z", "c": "" }));
        assert_eq!(json.text("a").ok().flatten().as_deref(), Some("2"));
        assert!(json.required("d").is_err());
        assert!(read(None, "application/json", "{").is_err());
        let (params, _) = read(Some("a[x]=1"), "application/x-www-form-urlencoded", "a[y]=2").expect("a form");
        assert_eq!(Value::Object(params.0), json!({ "a": { "y": "2" } }));
    }

    #[test]
    fn names_are_nested_as_rack_nests_them() {
        for (body, value) in [
            ("token=t%zz%4", json!({ "token": "t%zz%4" })),
            ("a=1&a=2", json!({ "a": "2" })),
            (
                "info[features][x]=true&info%5Bname%5D=n",
                json!({ "info": { "features": { "x": "true" }, "name": "n" } }),
            ),
            ("t[]=a&t[]=b", json!({ "t": ["a", "b"] })),
            ("t[][a]=1&t[][b]=2&t[][a]=3", json!({ "t": [{ "a": "1", "b": "2" }, { "a": "3" }] })),
            ("a[b=1", json!({ "a": "1" })),
            ("=1&[a]=2&b", json!({ "[a]": "2", "b": "" })),
        ] {
            assert_eq!(form(body), value, "{body}");
        }
        let deep = format!("a{}=1", "[b]".repeat(40));
        for body in ["a=1&a[b]=2", "a[]=1&a[b]=2", "a[b]=1&a[]=2", &deep] {
            assert!(read(None, "application/x-www-form-urlencoded", body).is_err(), "{body}");
        }
    }

    #[test]
    fn booleans_have_exact_spellings() {
        for text in "1 on On ON t true True TRUE T y yes Yes YES Y".split(' ') {
            let (params, _) = read(Some(&format!("x={text}")), "text/plain", "").expect("a query");
            assert_eq!(params.flag("x").ok().flatten(), Some(true), "{text}");
        }
        for text in "0 off Off OFF f false False FALSE F n no No NO N".split(' ') {
            let (params, _) = read(Some(&format!("x={text}")), "text/plain", "").expect("a query");
            assert_eq!(params.flag("x").ok().flatten(), Some(false), "{text}");
        }
        for text in ["tRUE", "FaLSE", "2", "yEs", "maybe"] {
            let (params, _) = read(Some(&format!("x={text}")), "text/plain", "").expect("a query");
            assert!(params.flag("x").is_err(), "{text}");
        }
        let (params, _) =
            read(None, "application/json", r#"{"a":true,"b":false,"c":null,"d":1,"e":[]}"#).expect("JSON");
        assert_eq!(
            ["a", "b", "c", "d"].map(|name| params.flag(name).ok().flatten()),
            [Some(true), Some(false), None, Some(true)]
        );
        assert!(params.flag("e").is_err());
    }

    #[test]
    fn whole_numbers_are_converted_as_ruby_does() {
        let body = r#"{"a":" 12 ","b":"1_000","c":12.9,"d":"","e":null,"f":-3,"o":{"n":"7"}}"#;
        let (params, _) = read(None, "application/json", body).expect("JSON");
        let number = |name| params.integer(name).ok().flatten();
        assert_eq!(["a", "b", "c", "d", "e", "f"].map(number), [Some(12), Some(1000), Some(12), None, None, Some(-3)]);
        assert_eq!(params.integer_in("o", "n").ok().flatten(), Some(7));
        for wrong in [r#""12a""#, r#""1__0""#, r#""0x1""#, r#""1.5""#, "true", "[]", "{}"] {
            let (params, _) = read(None, "application/json", &format!(r#"{{"a":{wrong}}}"#)).expect("JSON");
            assert!(params.integer("a").is_err(), "{wrong}");
        }
    }

    #[test]
    fn media_types_are_those_of_the_api() {
        assert!(read(None, "application/xml", "<a/>").is_err());
        assert!(read(None, "application/xml", "").is_ok());
        assert!(read(None, "text/plain", "a=1").is_ok_and(|(params, _)| !params.has("a")));
        let (params, _) =
            Params::read(None, &HeaderMap::new(), &Body::Whole(Bytes::from_static(br#"{"a":1}"#))).expect("JSON");
        assert!(params.has("a"));
    }

    #[test]
    fn lists_are_words() {
        let (params, _) = read(Some("a=x,+y,,x&b[]=p,q&b[]=r&c=3"), "text/plain", "").expect("a query");
        assert_eq!(params.list("a"), ["x", "y"]);
        assert_eq!(params.list("b"), ["p", "q", "r"]);
        assert_eq!(params.list("c"), ["3"]);
        let (params, _) = read(None, "application/json", r#"{"a":3,"b":[4,"5,6"],"c":null}"#).expect("JSON");
        assert_eq!(params.list("a"), [""; 0]);
        assert_eq!(params.list("b"), ["4", "5", "6"]);
        assert_eq!(params.list("c"), [""; 0]);
        assert_eq!(params.list("d"), [""; 0]);
    }

    #[test]
    fn multipart_has_fields_and_files() {
        let part = |head: &str, text: &str| format!("--xx\r\nContent-Disposition: form-data; {head}\r\n\r\n{text}\r\n");
        let body = [
            part("name=\"info[name]\"", "n"),
            part("name=\"file\"; filename=\"a.zip\"", "PK"),
            part("name=\"late\"", "1"),
            "--xx--\r\n".to_owned(),
        ];
        let (params, files) = read(None, "multipart/form-data; boundary=xx", &body.concat()).expect("a form");
        assert_eq!(Value::Object(params.0), json!({ "info": { "name": "n" }, "late": "1" }));
        let [file] = &files[..] else { panic!("{files:?}") };
        let content = file.content.as_ref().and_then(|content| content.in_memory()).expect("content in memory");
        assert_eq!((file.name.as_str(), file.file_name.as_str(), &content[..]), ("file", "a.zip", &b"PK"[..]));
        assert!(read(None, "multipart/form-data; boundary=xx", &body[..2].concat()).is_err());
        assert!(read(None, "multipart/form-data", "").is_err());
    }
}
