//! Reads the objects that GitLab sends, member by member.
//!
//! Every object is declared once, with [`members!`]. The macro gives it two ways to be read:
//!
//! - The *fast path* is a `Deserialize` that serde_json drives. A member that is missing or null reads as its default, an
//!   unknown member is skipped, and if a member occurs more than once the last one wins. Any other fault is an error.
//! - The *slow path* ([`Read`]) is taken when the fast path fails. It looks at the text of each member on its own. A
//!   member that cannot be read takes its default, and a [`Loss`] says which one it was. The rest is read as always.
//!
//! Where the fast path succeeds, both give the same result: they share the list of members and the [`Reader`] of each.

mod repair;

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

use crate::secret::{JobToken, RunnerToken, Secret};

pub(crate) use repair::repair;

/// Losses beyond this number are counted and not listed, so that a broken payload cannot fill the memory.
const LISTED_LOSSES: usize = 100;

/// serde_json refuses values that are nested deeper than 128 levels, and so does the slow path.
const DEPTH_LIMIT: usize = 120;

/// Down to this level the parts of a value that is nested too deeply are looked at one by one. No executor's options have
/// as many levels.
const PARTS_LEVEL: usize = 8;

/// The longest key that is shown in a path. GitLab's own names are shorter.
const SHOWN_KEY: usize = 64;

/// Of these members depends what a job does. If a part of one is dropped, it is not the job that GitLab meant.
const ESSENTIAL: [&str; 5] = ["steps", "run", "variables", "image", "services"];

/// A part of a payload that could not be read, see [`Assignment::losses`](crate::Assignment::losses).
///
/// It names the place and never quotes the value. `Display` is one sentence without its full stop.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loss {
    /// Where it is, such as `dependencies[0].token`. A key that is not a plain name is shown as `*`.
    pub path: String,
    /// What is wrong with it.
    pub kind: LossKind,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path, self.kind)
    }
}

/// What is wrong with a part of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LossKind {
    /// It is of another JSON type than it should be. It was dropped.
    WrongType,
    /// It is of the right type and still no value for this place: a number that is negative, no integer or too large, or a
    /// token with characters that cannot be sent. It was dropped.
    InvalidValue,
    /// It is nested too deeply. It was dropped.
    TooDeep,
    /// It has bytes that are not UTF-8, or half of a surrogate pair. They became U+FFFD, as in the official runner. The
    /// rest of the text was kept.
    Replaced,
}

impl fmt::Display for LossKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WrongType => "has the wrong type",
            Self::InvalidValue => "has a value that is not possible there",
            Self::TooDeep => "is nested too deeply",
            Self::Replaced => "has characters that are not valid text, and which were replaced",
        })
    }
}

/// What the slow path found, besides the values.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    pub(crate) list: Vec<Loss>,
    /// How many more there were.
    pub(crate) more: usize,
    /// Something of an [`ESSENTIAL`] member was dropped.
    pub(crate) essential: bool,
}

#[derive(Debug)]
enum Step {
    Name(&'static str),
    Key(String),
    Item(usize),
}

/// Where the slow path is, and what it has found.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    text: &'a str,
    /// Where characters of `text` were replaced, in order.
    replaced: &'a [usize],
    path: Vec<Step>,
    losses: Losses,
}

impl<'a> Walk<'a> {
    /// Prepares to walk through `text`, in which characters were replaced at the given offsets.
    pub(crate) fn new(text: &'a str, replaced: &'a [usize]) -> Self {
        Self { text, replaced, path: Vec::new(), losses: Losses::default() }
    }

    pub(crate) fn into_losses(self) -> Losses {
        self.losses
    }

    /// Goes into a member, and comes back.
    pub(crate) fn member<T>(&mut self, name: &'static str, read: impl FnOnce(&mut Self) -> T) -> T {
        self.within(Step::Name(name), read)
    }

    fn within<T>(&mut self, step: Step, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(step);
        let read = read(self);
        self.path.pop();
        read
    }

    /// Notes that the value at this place is dropped.
    pub(crate) fn dropped(&mut self, kind: LossKind) {
        self.losses.essential |= matches!(self.path.first(), Some(Step::Name(name)) if ESSENTIAL.contains(name));
        self.note(kind);
    }

    fn note(&mut self, kind: LossKind) {
        if self.losses.list.len() < LISTED_LOSSES {
            let path = self.shown_path();
            self.losses.list.push(Loss { path, kind });
        } else {
            self.losses.more += 1;
        }
    }

    /// Notes characters that were replaced in a text, which is a part of the whole text.
    fn look_for_replacements(&mut self, raw: &str) {
        if self.replaced.is_empty() {
            return;
        }
        let start = (raw.as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize);
        let next = self.replaced.partition_point(|at| *at < start);
        if self.replaced.get(next).is_some_and(|at| at - start < raw.len()) {
            self.note(LossKind::Replaced);
        }
    }

    fn shown_path(&self) -> String {
        let mut path = String::new();
        for step in &self.path {
            let dot = if path.is_empty() { "" } else { "." };
            path += &match step {
                Step::Name(name) => format!("{dot}{name}"),
                Step::Key(key) if is_plain(key) => format!("{dot}{key}"),
                Step::Key(_) => format!("{dot}*"),
                Step::Item(at) => format!("[{at}]"),
            };
        }
        path
    }
}

/// Whether a key can be shown without a thought for control characters and the like.
pub(crate) fn is_plain(key: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=SHOWN_KEY).contains(&key.len()) && key.bytes().all(fits)
}

/// The types of JSON, by their first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Json {
    Null,
    Boolean,
    Number,
    Text,
    List,
    Object,
}

impl Json {
    fn of(raw: &str) -> Self {
        match raw.as_bytes().first() {
            Some(b'"') => Self::Text,
            Some(b'[') => Self::List,
            Some(b'{') => Self::Object,
            Some(b't' | b'f') => Self::Boolean,
            Some(b'n') | None => Self::Null,
            Some(_) => Self::Number,
        }
    }
}

/// A value that the slow path can read.
pub(crate) trait Read: Sized {
    /// Reads what can be read of `raw`, which is JSON and not null, and notes in `walk` what cannot. `None` if nothing of
    /// it can be read, which is noted too.
    fn read(raw: &str, walk: &mut Walk<'_>) -> Option<Self>;

    /// Gives back the room that a list was given to grow. A payload is read once, and kept as long as its job.
    fn shrink(&mut self) {}
}

/// Reads a value that has no parts.
fn leaf<T: DeserializeOwned>(raw: &str, wanted: Json, walk: &mut Walk<'_>) -> Option<T> {
    match serde_json::from_str(raw) {
        Ok(value) => {
            walk.look_for_replacements(raw);
            Some(value)
        }
        Err(_) => {
            walk.dropped(if Json::of(raw) == wanted { LossKind::InvalidValue } else { LossKind::WrongType });
            None
        }
    }
}

/// Types without parts, by what they are in JSON.
macro_rules! leaves {
    ($($json:ident: $($type:ty),+;)+) => {
        $($(
            impl $crate::api::members::Read for $type {
                fn read(raw: &str, walk: &mut $crate::api::members::Walk<'_>) -> Option<Self> {
                    leaf(raw, Json::$json, walk)
                }
            }
        )+)+
    };
}

leaves! {
    Boolean: bool;
    Number: u32, u64, f64;
    Text: String, Secret, JobToken, RunnerToken;
}

/// Reads a word of an open enumeration, of which every text is one.
pub(crate) fn read_word<T: DeserializeOwned>(raw: &str, walk: &mut Walk<'_>) -> Option<T> {
    leaf(raw, Json::Text, walk)
}

/// Declares open enumerations as values that the slow path can read.
macro_rules! words {
    ($($type:ty),+ $(,)?) => {
        $(
            impl $crate::api::members::Read for $type {
                fn read(raw: &str, walk: &mut $crate::api::members::Walk<'_>) -> Option<Self> {
                    $crate::api::members::read_word(raw, walk)
                }
            }
        )+
    };
}
pub(crate) use words;

impl<T: Read> Read for Option<T> {
    fn read(raw: &str, walk: &mut Walk<'_>) -> Option<Self> {
        T::read(raw, walk).map(Some)
    }

    fn shrink(&mut self) {
        self.iter_mut().for_each(T::shrink);
    }
}

impl<T: Read> Read for Box<T> {
    fn read(raw: &str, walk: &mut Walk<'_>) -> Option<Self> {
        T::read(raw, walk).map(Box::new)
    }
}

/// A null element is nothing, and no loss: GitLab up to 13.10 sends `"cache":[null]` for a job without a cache.
impl<T: Read> Read for Vec<T> {
    fn read(raw: &str, walk: &mut Walk<'_>) -> Option<Self> {
        let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(raw) else {
            walk.dropped(LossKind::WrongType);
            return None;
        };
        let items = items.into_iter().map(RawValue::get).enumerate().filter(|(_, item)| *item != "null");
        Some(items.filter_map(|(at, item)| walk.within(Step::Item(at), |walk| T::read(item, walk))).collect())
    }

    fn shrink(&mut self) {
        self.shrink_to_fit();
    }
}

impl<T: Read> Read for std::collections::BTreeMap<String, T> {
    fn read(raw: &str, walk: &mut Walk<'_>) -> Option<Self> {
        let mut read = Self::new();
        for (key, raw) in last_members(raw, walk)? {
            if let Some(value) = walk.within(Step::Key(key.clone()), |walk| T::read(raw, walk)) {
                read.insert(key, value);
            }
        }
        Some(read)
    }
}

impl Read for Map<String, Value> {
    fn read(raw: &str, walk: &mut Walk<'_>) -> Option<Self> {
        let members = last_members(raw, walk)?;
        let read = |(key, raw): (String, &str)| {
            let value = walk.within(Step::Key(key.clone()), |walk| read_value(raw, 1, walk))?;
            Some((key, value))
        };
        Some(members.into_iter().filter_map(read).collect())
    }
}

/// The members of an object, each key once: the last one wins.
fn last_members<'a>(raw: &'a str, walk: &mut Walk<'_>) -> Option<std::collections::BTreeMap<String, &'a str>> {
    let mut members = std::collections::BTreeMap::new();
    each_member(raw, walk, &mut |key: String, raw| _ = members.insert(key, raw)).then_some(members)
}

impl Read for Value {
    fn read(raw: &str, walk: &mut Walk<'_>) -> Option<Self> {
        read_value(raw, 0, walk)
    }
}

/// Reads a value that lies so many levels below a member. Of one that is nested too deeply, as little as possible is
/// dropped: if it has several parts, those are looked at one by one.
fn read_value(raw: &str, level: usize, walk: &mut Walk<'_>) -> Option<Value> {
    match Json::of(raw) {
        Json::Null => Some(Value::Null),
        Json::List => {
            let items = serde_json::from_str::<Vec<&RawValue>>(raw).unwrap_or_default();
            let levels = items.iter().map(|item| depth(item.get())).max();
            if is_too_deep(level, items.len(), levels) {
                walk.dropped(LossKind::TooDeep);
                return None;
            }
            // A null within is kept: here nobody knows what it means.
            let read = |(at, item): (usize, &RawValue)| {
                walk.within(Step::Item(at), |walk| read_value(item.get(), level + 1, walk))
            };
            Some(Value::Array(items.into_iter().enumerate().filter_map(read).collect()))
        }
        Json::Object => {
            let members = last_members(raw, walk)?;
            let levels = members.values().map(|member| depth(member)).max();
            if is_too_deep(level, members.len(), levels) {
                walk.dropped(LossKind::TooDeep);
                return None;
            }
            let read = |(key, raw): (String, &str)| {
                let value = walk.within(Step::Key(key.clone()), |walk| read_value(raw, level + 1, walk))?;
                Some((key, value))
            };
            Some(Value::Object(members.into_iter().filter_map(read).collect()))
        }
        scalar => leaf(raw, scalar, walk),
    }
}

/// Whether a value of so many parts, the deepest of which has so many levels, is to be dropped as a whole.
fn is_too_deep(level: usize, parts: usize, levels: Option<usize>) -> bool {
    let too_deep = level + 1 + levels.unwrap_or_default() > DEPTH_LIMIT;
    too_deep && (parts < 2 || level > PARTS_LEVEL)
}

/// How deeply lists and objects are nested in JSON.
fn depth(raw: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_text, mut escaped) = (false, false);
    for byte in raw.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Hands out the members of an object with the text of their values. False, and noted, if it is not an object.
pub(crate) fn each_member<'a, K: Deserialize<'a>>(
    raw: &'a str,
    walk: &mut Walk<'_>,
    member: &mut dyn FnMut(K, &'a str),
) -> bool {
    let read = EachMember { member, key: PhantomData }.deserialize(&mut serde_json::Deserializer::from_str(raw));
    if read.is_err() {
        walk.dropped(LossKind::WrongType);
    }
    read.is_ok()
}

struct EachMember<'f, 'a, K> {
    member: &'f mut dyn FnMut(K, &'a str),
    key: PhantomData<K>,
}

impl<'a, K: Deserialize<'a>> DeserializeSeed<'a> for EachMember<'_, 'a, K> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a, K: Deserialize<'a>> Visitor<'a> for EachMember<'_, 'a, K> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key()? {
            (self.member)(key, map.next_value::<&RawValue>()?.get());
        }
        Ok(())
    }
}

/// How one member is read, on both paths.
pub(crate) trait Reader<T> {
    /// The fast path. Null reads as the default.
    fn fast<'de, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error>;

    /// The slow path. Null reads as the default.
    fn slow(raw: &str, walk: &mut Walk<'_>) -> T;
}

/// Reads a member as its type says, and takes the default of the type for what cannot be read.
#[derive(Debug)]
pub(crate) struct Plain;

impl<T: DeserializeOwned + Default + Read> Reader<T> for Plain {
    fn fast<'de, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        let mut value: T = Option::deserialize(deserializer)?.unwrap_or_default();
        value.shrink();
        Ok(value)
    }

    fn slow(raw: &str, walk: &mut Walk<'_>) -> T {
        let mut value = if raw == "null" { T::default() } else { T::read(raw, walk).unwrap_or_default() };
        value.shrink();
        value
    }
}

/// Reads whether something is to be hidden. What cannot be read means yes.
#[derive(Debug)]
pub(crate) struct Careful;

impl Reader<bool> for Careful {
    fn fast<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
        Plain::fast(deserializer)
    }

    fn slow(raw: &str, walk: &mut Walk<'_>) -> bool {
        raw != "null" && bool::read(raw, walk).unwrap_or(true)
    }
}

/// Reads a count for which users may write a negative number, such as `GIT_DEPTH: "-1"`. That means 0.
#[derive(Debug)]
pub(crate) struct Count;

impl Reader<u64> for Count {
    fn fast<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let Some(number) = Option::<Number>::deserialize(deserializer)? else { return Ok(0) };
        count(&number).ok_or_else(|| de::Error::custom("the number is no integer, or too large"))
    }

    fn slow(raw: &str, walk: &mut Walk<'_>) -> u64 {
        match serde_json::from_str(raw).ok().and_then(|number| count(&number)) {
            Some(count) => count,
            None => Plain::slow(raw, walk),
        }
    }
}

fn count(number: &Number) -> Option<u64> {
    number.as_u64().or_else(|| number.is_i64().then_some(0))
}

/// Reads the words of a command, which some servers send as one text.
#[derive(Debug)]
pub(crate) struct OneOrMany;

impl Reader<Option<Vec<String>>> for OneOrMany {
    fn fast<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Words {
            One(String),
            Many(Vec<String>),
        }
        Ok(Option::deserialize(deserializer)?.map(|words| match words {
            Words::One(word) => vec![word],
            Words::Many(words) => words,
        }))
    }

    fn slow(raw: &str, walk: &mut Walk<'_>) -> Option<Vec<String>> {
        match Json::of(raw) {
            Json::Null => None,
            Json::Text => String::read(raw, walk).map(|word| vec![word]),
            _ => Vec::read(raw, walk),
        }
    }
}

/// Lets serde drive the fast path of a [`Reader`].
pub(crate) struct Fast<R, T>(PhantomData<(R, T)>);

impl<R, T> Fast<R, T> {
    pub(crate) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<'de, R: Reader<T>, T> DeserializeSeed<'de> for Fast<R, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        R::fast(deserializer)
    }
}

/// Declares an object that GitLab sends, see [`crate::api::members`].
///
/// `needs { … }` lists the members without which the object cannot be read. `field as "name"` says what GitLab calls a
/// member whose field has another name. `= Reader` names a [`Reader`] other than [`Plain`].
macro_rules! members {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident $(needs { $($(#[$need_meta:meta])* $need_vis:vis $need:ident: $need_type:ty,)+ })? {
            $($(#[$field_meta:meta])* $field_vis:vis $field:ident $(as $wire:literal)?: $type:ty $(= $reader:ident)?,)*
        }
    ) => {
        $(#[$meta])*
        $vis struct $name {
            $($($(#[$need_meta])* $need_vis $need: $need_type,)+)?
            $($(#[$field_meta])* $field_vis $field: $type,)*
        }

        const _: () = {
            /// The names of the members, each as its field is called.
            #[derive(serde::Deserialize)]
            #[serde(field_identifier)]
            #[expect(non_camel_case_types, reason = "named as the fields")]
            enum Member {
                $($($need,)+)?
                $($(#[serde(rename = $wire)])? $field,)*
                #[serde(other)]
                Unknown,
            }

            struct Visit;

            impl<'de> serde::de::Visitor<'de> for Visit {
                type Value = $name;

                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("an object")
                }

                fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                    $($(let mut $need: Option<$need_type> = None;)+)?
                    $(let mut $field = <$type>::default();)*
                    while let Some(member) = map.next_key::<Member>()? {
                        match member {
                            $($(Member::$need => $need = Some(map.next_value()?),)+)?
                            $(Member::$field => {
                                type Reader = $crate::api::members::members!(@reader $($reader)?);
                                $field = map.next_value_seed($crate::api::members::Fast::<Reader, $type>::new())?;
                            })*
                            Member::Unknown => _ = map.next_value::<serde::de::IgnoredAny>()?,
                        }
                    }
                    Ok($name {
                        $($($need: $need.ok_or_else(|| serde::de::Error::missing_field(stringify!($need)))?,)+)?
                        $($field,)*
                    })
                }
            }

            impl<'de> serde::Deserialize<'de> for $name {
                fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    deserializer.deserialize_map(Visit)
                }
            }

            impl $crate::api::members::Read for $name {
                fn read(raw: &str, walk: &mut $crate::api::members::Walk<'_>) -> Option<Self> {
                    $($(let mut $need: Option<&str> = None;)+)?
                    $(let mut $field: Option<&str> = None;)*
                    let is_object = $crate::api::members::each_member(raw, walk, &mut |member, raw| match member {
                        $($(Member::$need => $need = Some(raw),)+)?
                        $(Member::$field => $field = Some(raw),)*
                        Member::Unknown => {}
                    });
                    if !is_object {
                        return None;
                    }
                    Some(Self {
                        $($($need: walk.member(stringify!($need), |walk| {
                            <$need_type as $crate::api::members::Read>::read($need?, walk)
                        })?,)+)?
                        $($field: walk.member($crate::api::members::members!(@wire $field $($wire)?), |walk| {
                            type Reader = $crate::api::members::members!(@reader $($reader)?);
                            $field.map_or_else(Default::default, |raw| {
                                <Reader as $crate::api::members::Reader<$type>>::slow(raw, walk)
                            })
                        }),)*
                    })
                }
            }
        };
    };
    (@reader) => { $crate::api::members::Plain };
    (@reader $reader:ident) => { $crate::api::members::$reader };
    (@wire $field:ident) => { stringify!($field) };
    (@wire $field:ident $wire:literal) => { $wire };
}
pub(crate) use members;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_does_not_count_what_is_in_a_text() {
        for (raw, levels) in [("1", 0), ("[]", 1), (r#"{"a":["]\"["]}"#, 2), (r#""[[""#, 0), ("[[],[[]]]", 3)] {
            assert_eq!(depth(raw), levels, "{raw}");
        }
    }
}
