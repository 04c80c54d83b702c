//! Payloads with one thing wrong, and what a runner is to make of them.
//!
//! [`Payload`] takes a payload that plain serde_json reads, and puts every form that JSON has in every place of it. What
//! must come out is found naively, with serde_json's derived types and nothing of the code under test: the payload
//! without the thing that is wrong.

use std::fmt::Write as _;

use gitlab_runner_api::api::job_spec::{Assignment, JobSpec, LossKind};

/// Stands for a byte that is not UTF-8, in a text that has to be UTF-8 until it is written out.
const BAD_BYTE: char = '\u{e000}';

/// What is put in each place, as JSON text. The word `canary` must never be shown.
const FORMS: [&str; 22] = [
    "null",
    "true",
    "false",
    "7",
    "-1",
    "12.5",
    "1e400",
    "123456789012345678901234567890",
    r#""canary""#,
    r#""""#,
    r#""\ud800canary""#,
    r#""canary\udc00\ud800""#,
    "\"\u{e000}canary\"",
    "{}",
    "[]",
    "[null]",
    r#"[7,"canary",{},null,[],-1,1e400]"#,
    r#"{"\ud800canary":1}"#,
    "{\"\u{e000}\":null}",
    r#"{"name":7,"key":"k","value":[1e400],"name":"canary","script":["canary",null,7]}"#,
    "deep list",
    "deep object",
];

/// JSON, with numbers and texts as they were written.
#[derive(Clone, Debug, PartialEq)]
enum Json {
    Scalar(String),
    List(Vec<Json>),
    /// Keys with their quotes.
    Object(Vec<(String, Json)>),
}

impl Json {
    fn of(value: &serde_json::Value) -> Self {
        match value {
            serde_json::Value::Array(items) => Self::List(items.iter().map(Self::of).collect()),
            serde_json::Value::Object(members) => {
                let member = |(key, value): (&String, &serde_json::Value)| {
                    (serde_json::Value::from(key.as_str()).to_string(), Self::of(value))
                };
                Self::Object(members.iter().map(member).collect())
            }
            scalar => Self::Scalar(scalar.to_string()),
        }
    }

    /// One of [`FORMS`], taken apart. Those parts that serde_json cannot hold stay text.
    fn form(text: &str) -> Self {
        match text {
            "deep list" => Self::Scalar("[".repeat(200) + &"]".repeat(200)),
            "deep object" => Self::Scalar(r#"{"a":"#.repeat(200) + "1" + &"}".repeat(200)),
            r#"[7,"canary",{},null,[],-1,1e400]"# => {
                Self::List(["7", r#""canary""#, "{}", "null", "[]", "-1", "1e400"].map(Self::form).into())
            }
            r#"{"name":7,"key":"k","value":[1e400],"name":"canary","script":["canary",null,7]}"# => {
                let member = |key: &str, value: &str| (format!("\"{key}\""), Self::form(value));
                let values = ("value".to_owned(), Self::List(vec![Self::form("1e400")]));
                let script = Self::List([r#""canary""#, "null", "7"].map(Self::form).into());
                Self::Object(vec![
                    member("name", "7"),
                    member("key", r#""k""#),
                    (format!("\"{}\"", values.0), values.1),
                    member("name", r#""canary""#),
                    (r#""script""#.to_owned(), script),
                ])
            }
            r#"{"\ud800canary":1}"# => Self::Object(vec![(r#""\ud800canary""#.to_owned(), Self::form("1"))]),
            "{\"\u{e000}\":null}" => Self::Object(vec![("\"\u{e000}\"".to_owned(), Self::form("null"))]),
            "[null]" => Self::List(vec![Self::form("null")]),
            "{}" => Self::Object(Vec::new()),
            "[]" => Self::List(Vec::new()),
            text => Self::Scalar(text.to_owned()),
        }
    }

    fn is_null(&self) -> bool {
        *self == Self::Scalar("null".to_owned())
    }

    /// The same with replacement characters for what is no text.
    fn repaired(&self) -> Self {
        let repair = |text: &str| {
            text.replace(BAD_BYTE, "\u{fffd}").replace(r"\ud800", "\u{fffd}").replace(r"\udc00", "\u{fffd}")
        };
        match self {
            Self::Scalar(text) => Self::Scalar(repair(text)),
            Self::List(items) => Self::List(items.iter().map(Self::repaired).collect()),
            Self::Object(members) => {
                Self::Object(members.iter().map(|(key, value)| (repair(key), value.repaired())).collect())
            }
        }
    }

    fn text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        match self {
            Self::Scalar(text) => out.push_str(text),
            Self::List(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    out.push_str(if at == 0 { "" } else { "," });
                    item.write(out);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (at, (key, value)) in members.iter().enumerate() {
                    out.push_str(if at == 0 { "" } else { "," });
                    out.push_str(key);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let text = self.text();
        let mut parts = text.split(BAD_BYTE);
        let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
        for part in parts {
            bytes.push(0xff);
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes
    }

    /// The children of a list or an object, by their places.
    fn children(&self) -> Vec<Part> {
        match self {
            Self::Scalar(_) => Vec::new(),
            Self::List(items) => (0..items.len()).map(Part::Item).collect(),
            Self::Object(members) => (0..members.len()).map(Part::Member).collect(),
        }
    }

    fn child(&mut self, part: Part) -> Option<&mut Self> {
        match (self, part) {
            (Self::List(items), Part::Item(at)) => items.get_mut(at),
            (Self::Object(members), Part::Member(at)) => members.get_mut(at).map(|(_, value)| value),
            _ => None,
        }
    }

    fn at(&mut self, path: &[Part]) -> Option<&mut Self> {
        path.iter().try_fold(self, |json, part| json.child(*part))
    }

    /// The same with something else in a place, or with nothing there.
    fn with(&self, path: &[Part], value: Option<Self>) -> Self {
        let mut changed = self.clone();
        match (value, path.split_last()) {
            (Some(value), _) => {
                if let Some(place) = changed.at(path) {
                    *place = value;
                }
            }
            (None, Some((Part::Item(at), parent))) => {
                if let Some(Self::List(items)) = changed.at(parent) {
                    items.remove(*at);
                }
            }
            (None, Some((Part::Member(at), parent))) => {
                if let Some(Self::Object(members)) = changed.at(parent) {
                    members.remove(*at);
                }
            }
            (None, None) => {}
        }
        changed
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Item(usize),
    Member(usize),
}

/// What is done to one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// The form takes the place of what was there.
    Replace,
    /// The form stands before what was there, under the same key: the last of both counts.
    Before,
    /// The form stands behind what was there, under the same key.
    After,
}

/// A place of a payload: where the tests put things.
#[derive(Clone, Debug)]
pub struct Place {
    path: Vec<Part>,
    /// The payload, with a place made where none was: a member of a new name, or one more element.
    whole: Json,
    /// What stood there is one's own addition, so that leaving it out gives the payload as it was.
    added: bool,
    shape: String,
    key: String,
}

impl Place {
    /// The place without the numbers of elements: places of one shape are alike.
    #[must_use]
    pub fn shape(&self) -> &str {
        &self.shape
    }
}

/// A payload that plain serde_json reads.
#[derive(Clone, Debug)]
pub struct Payload {
    json: Json,
}

/// How many forms there are to put in a place: the argument of [`Payload::check`] is less than this.
pub const FORM_COUNT: usize = FORMS.len() * 3;

impl Payload {
    /// Takes a payload. `None` unless plain serde_json reads it.
    #[must_use]
    pub fn new(json: &str) -> Option<Self> {
        plain(json)?;
        let value = serde_json::from_str(json).ok()?;
        Some(Self { json: Json::of(&value) })
    }

    /// Every place but the payload itself, its `id` and its `token`: each member, each element, and in each object and
    /// list one more.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let mut places = Vec::new();
        collect(&self.json, &self.json, &mut Vec::new(), "", &mut places);
        places.retain(|place| !matches!(place.shape.as_str(), "id" | "token"));
        places
    }

    /// Puts a form in a place and looks at what is made of it. `Err` says what is wrong with that.
    ///
    /// # Errors
    ///
    /// A sentence for people: the place, the form, and which expectation was not met.
    pub fn check(&self, place: &Place, form: usize) -> Result<(), String> {
        let change = [Change::Replace, Change::Before, Change::After][form / FORMS.len() % 3];
        let form = Json::form(FORMS[form % FORMS.len()]);
        let is_member = matches!(place.path.last(), Some(Part::Member(_)));
        if change != Change::Replace && !is_member {
            return Ok(());
        }
        let (bytes, expected) = match change {
            Change::Replace => {
                (place.whole.with(&place.path, Some(form.clone())).bytes(), readings(self, place, &form))
            }
            _ => {
                let (doubled, last) = self.doubled(place, &form, change);
                (doubled.bytes(), readings(self, place, &last))
            }
        };
        let problem = |what: String| {
            format!("{} ({:?} {change:?}): {what}", place.shape, form.text().chars().take(60).collect::<String>())
        };
        let assignment =
            Assignment::from_json(bytes.clone()).map_err(|error| problem(format!("not decoded: {error}")))?;
        if assignment.as_json() != &bytes {
            return Err(problem("the payload is not kept as it came".to_owned()));
        }
        let told = tell(assignment.spec());
        let Some(reading) = expected.iter().find(|reading| reading.told == told) else {
            return Err(problem(difference(&told, &expected)));
        };
        let dropped: Vec<_> =
            assignment.losses().iter().filter(|loss| loss.kind != LossKind::Replaced).map(|loss| &loss.path).collect();
        let shown = format!("{:?} {assignment:?}", assignment.losses());
        match (reading.dropped, &dropped[..]) {
            (true, []) => Err(problem("nobody is told of what was dropped".to_owned())),
            (false, [path, ..]) => Err(problem(format!("{path} is said to be dropped, and was not"))),
            (true, paths) if !paths.iter().all(|path| same_place(path, &place.shape)) => {
                Err(problem(format!("{paths:?} are said to be dropped")))
            }
            _ if reading.dropped
                && shown.contains("canary")
                && !self.json.text().contains("canary")
                && !kept(&told) =>
            {
                Err(problem(format!("a value is shown: {shown}")))
            }
            _ => Ok(()),
        }
    }

    /// The payload with a member twice, and what the last of both is.
    fn doubled(&self, place: &Place, form: &Json, change: Change) -> (Json, Json) {
        let mut whole = place.whole.clone();
        let original = whole.at(&place.path).cloned().unwrap_or(Json::Scalar("null".to_owned()));
        if let Some((Part::Member(at), parent)) = place.path.split_last()
            && let Some(Json::Object(members)) = whole.at(parent)
        {
            let key = members[*at].0.clone();
            members.insert(if change == Change::Before { *at } else { *at + 1 }, (key, form.clone()));
        }
        let last = if change == Change::Before { original } else { form.clone() };
        (whole, last)
    }
}

/// Whether the canary became a value that may be shown: a name, say.
fn kept(told: &str) -> bool {
    told.contains("canary")
}

/// `steps[2].name` and `steps[].name`, and what lies below it.
fn same_place(path: &str, shape: &str) -> bool {
    let mut bare = String::new();
    let mut inside = false;
    for c in path.chars() {
        match c {
            '[' => {
                inside = true;
                bare.push('[');
            }
            ']' => {
                inside = false;
                bare.push(']');
            }
            _ if inside => {}
            c => bare.push(c),
        }
    }
    // Names that are no identifiers are not shown in full: then only what lies above can be compared.
    let known = shape.split_once('*').map_or(shape, |(known, _)| known);
    bare.starts_with(known.trim_end_matches('.')) || shape.starts_with(bare.split('*').next().unwrap_or_default())
}

fn collect(root: &Json, here: &Json, path: &mut Vec<Part>, shape: &str, places: &mut Vec<Place>) {
    let name = |part: Part| match (here, part) {
        (Json::Object(members), Part::Member(at)) => {
            let key = members[at].0.trim_matches('"').to_owned();
            let dot = if shape.is_empty() { "" } else { "." };
            (format!("{shape}{dot}{key}"), key)
        }
        _ => (format!("{shape}[]"), String::new()),
    };
    for part in here.children() {
        let mut probe = here.clone();
        let Some(child) = probe.child(part) else { continue };
        path.push(part);
        let (below, key) = name(part);
        places.push(Place { path: path.clone(), whole: root.clone(), added: false, shape: below.clone(), key });
        collect(root, child, path, &below, places);
        path.pop();
    }
    // One more of each.
    let mut whole = root.clone();
    let key = match whole.at(path) {
        Some(Json::List(items)) => {
            items.push(Json::Scalar("null".to_owned()));
            path.push(Part::Item(items.len() - 1));
            String::new()
        }
        Some(Json::Object(members)) => {
            members.push(("\"moon\\ud800\u{e000}\"".to_owned(), Json::Scalar("null".to_owned())));
            path.push(Part::Member(members.len() - 1));
            "*".to_owned()
        }
        _ => return,
    };
    let shape = match key.as_str() {
        "" => format!("{shape}[]"),
        _ if shape.is_empty() => key.clone(),
        _ => format!("{shape}.{key}"),
    };
    places.push(Place { path: path.clone(), whole, added: true, shape, key });
    path.pop();
}

/// What may come out.
struct Reading {
    told: String,
    /// Something was dropped, and somebody must be told.
    dropped: bool,
}

/// What may come of a form in a place, found by asking plain serde_json.
fn readings(payload: &Payload, place: &Place, form: &Json) -> Vec<Reading> {
    let whole = place.whole.repaired();
    let without = if place.added { payload.json.clone() } else { whole.with(&place.path, None) };
    let at = |json: &Json| plain(&whole.with(&place.path, Some(json.clone())).text());
    let form = form.repaired();
    // A null in a list is nothing, whether or not its type could be null.
    let is_item = matches!(place.path.last(), Some(Part::Item(_)));
    if let Some(told) = at(&form) {
        return vec![Reading { told, dropped: false }];
    }
    let removed = |dropped| plain(&without.text()).map(|told| Reading { told, dropped });
    if is_item && form.is_null() {
        return removed(false).into_iter().collect();
    }
    let mut found = Vec::new();
    let filtered = filtered(&form, &|json| at(json).is_some());
    if let Some((kept, dropped)) = filtered
        && let Some(told) = at(&kept)
    {
        found.push(Reading { told, dropped });
    }
    if matches!(form, Json::Scalar(_)) || found.is_empty() {
        found.extend(removed(true));
    }
    // A secret is an object of its own, so that only what is in it is too deep.
    if matches!(&form, Json::Scalar(text) if text.starts_with('{')) {
        let inner = Json::Object(vec![("\"a\"".to_owned(), Json::Object(Vec::new()))]);
        found.extend(at(&inner).map(|told| Reading { told, dropped: true }));
    }
    // Of a value that is nested too deeply, more may go: what holds nothing else.
    let mut path = &place.path[..];
    while let Json::Scalar(text) = &form
        && text.starts_with(['[', '{'])
        && let Some((_, parent)) = path.split_last()
        && place.whole.clone().at(parent).is_some_and(|parent| parent.children().len() == 1)
    {
        path = parent;
        found.extend(plain(&whole.with(path, None).text()).map(|told| Reading { told, dropped: true }));
    }
    // What cannot be read must not make a job less careful.
    if matches!(place.key.as_str(), "masked" | "sensitive")
        && let Some(told) = at(&Json::Scalar("true".to_owned()))
    {
        return vec![Reading { told, dropped: true }];
    }
    found
}

/// A form without those of its parts that cannot be read, and whether a part is missing that was something.
fn filtered(form: &Json, reads: &dyn Fn(&Json) -> bool) -> Option<(Json, bool)> {
    match form {
        Json::Scalar(text) if text.starts_with('[') => {
            reads(&Json::List(Vec::new())).then(|| (Json::List(Vec::new()), true))
        }
        Json::Scalar(text) if text.starts_with('{') => {
            reads(&Json::Object(Vec::new())).then(|| (Json::Object(Vec::new()), true))
        }
        Json::Scalar(_) => None,
        Json::List(items) => {
            reads(&Json::List(Vec::new())).then_some(())?;
            let mut dropped = false;
            let mut kept = Vec::new();
            for item in items {
                let alone = |json: &Json| reads(&Json::List(vec![json.clone()]));
                if alone(item) {
                    kept.push(item.clone());
                } else if item.is_null() {
                    // It is nothing, and no loss.
                } else if let Some((part, _)) = filtered(item, &alone) {
                    dropped = true;
                    kept.push(part);
                } else {
                    dropped = true;
                }
            }
            Some((Json::List(kept), dropped))
        }
        Json::Object(members) => {
            reads(&Json::Object(Vec::new())).then_some(())?;
            let mut dropped = false;
            let mut kept: Vec<(String, Json)> = Vec::new();
            for (at, (key, value)) in members.iter().enumerate() {
                if members[at + 1..].iter().any(|(later, _)| later == key) {
                    continue;
                }
                let alone = |json: &Json| reads(&Json::Object(vec![(key.clone(), json.clone())]));
                if alone(value) {
                    kept.push((key.clone(), value.clone()));
                } else if let Some((part, lost)) = filtered(value, &alone) {
                    dropped |= lost;
                    kept.push((key.clone(), part));
                } else {
                    dropped = true;
                }
            }
            Some((Json::Object(kept), dropped))
        }
    }
}

/// What the derived types of serde_json make of a payload.
fn plain(json: &str) -> Option<String> {
    serde_json::from_str::<JobSpec>(json).ok().map(|spec| tell(&spec))
}

/// All that a payload says, secrets and all.
#[must_use]
pub fn tell(spec: &JobSpec) -> String {
    let mut told = format!("{spec:#?}\n{}\n", spec.token.expose());
    let mut say = |what: &str, value: Option<&str>| writeln!(told, "{what}: {value:?}").unwrap_or_default();
    say("repo_url", spec.git_info.repo_url.as_ref().map(|url| url.expose()));
    spec.variables.iter().for_each(|variable| say(&variable.key, Some(variable.value())));
    for credential in &spec.credentials {
        say(&credential.url, credential.password.as_ref().map(|password| password.expose()));
    }
    for dependency in &spec.dependencies {
        say(&dependency.name, dependency.token.as_ref().map(|token| token.expose()));
    }
    spec.inputs.iter().for_each(|input| say(&input.key, Some(&input.value.content.to_string())));
    for (name, secret) in &spec.secrets {
        say(name, Some(&serde_json::Value::from(secret.members().clone()).to_string()));
    }
    for variable in spec.services.iter().flat_map(|service| &service.variables) {
        say(&variable.key, Some(&variable.value));
    }
    told
}

/// The first line that differs.
fn difference(told: &str, expected: &[Reading]) -> String {
    let Some(wanted) = expected.first() else { return "no reading is expected".to_owned() };
    let lines = told.lines().zip(wanted.told.lines()).enumerate().find(|(_, (a, b))| a != b);
    match lines {
        Some((line, (found, wanted))) => format!("line {line} is {found:?}, not {wanted:?}"),
        None => format!("{} lines, not {}", told.lines().count(), wanted.told.lines().count()),
    }
}
