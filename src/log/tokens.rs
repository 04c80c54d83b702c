//! Hides tokens that are known by their prefix.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::automaton::Automaton;
use super::piece::{MARKER, Piece};
use super::trie::{ROOT, State};

/// The prefix that is always looked for: personal access tokens.
pub(super) const ALWAYS: &str = "glpat-";

/// The other prefixes that GitLab gives to tokens, unless it is configured otherwise. Snapshots hold places in this list: new ones
/// come at its end.
pub(super) const DEFAULTS: [&str; 13] = [
    "gloas-",
    "gldt-",
    "glrt-",
    "glcbt-",
    "glrtr-",
    "glptt-",
    "glft-",
    "glimt-",
    "glagent-",
    "glsoat-",
    "glffct-",
    "_gitlab_session=",
    "gltok-",
];

/// Prepares to look for these prefixes. All of them count.
pub(super) fn prefixes<'a>(prefixes: impl IntoIterator<Item = &'a str>) -> Arc<Automaton> {
    Arc::new(Automaton::new(prefixes.into_iter().map(|prefix| prefix.trim().into()).collect()))
}

/// One stream's stage. The prefix itself stays, so that nothing is ever held back.
#[derive(Clone)]
pub(super) struct Tokens {
    prefixes: Arc<Automaton>,
    state: State,
    place: Place,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Place {
    #[default]
    Text,
    /// Right behind a prefix.
    Prefix,
    /// Within a token, whose marker is out.
    Token,
}

impl Tokens {
    pub(super) fn new(prefixes: Arc<Automaton>) -> Self {
        Self { prefixes, state: ROOT, place: Place::Text }
    }

    pub(super) fn push(&mut self, piece: Piece, out: &mut dyn FnMut(Bytes)) {
        match piece {
            Piece::Shown(chunk) => self.push_shown(chunk, out),
            Piece::Hidden { bytes, starts, .. } => self.push_hidden(&bytes, starts, out),
        }
    }

    /// The stream has ended, and with it a token.
    pub(super) fn end(&mut self) {
        (self.state, self.place) = (ROOT, Place::Text);
    }

    fn push_shown(&mut self, mut chunk: Bytes, out: &mut dyn FnMut(Bytes)) {
        let mut ends = Vec::new();
        self.state = self.prefixes.feed(self.state, &chunk, |end, _| ends.push(end));
        let mut done = self.hide(&mut chunk, out);
        for end in ends {
            // A prefix within a token is part of that.
            if end > done {
                out(chunk.split_to(end - done));
                self.place = Place::Prefix;
                done = end + self.hide(&mut chunk, out);
            }
        }
        if !chunk.is_empty() {
            out(chunk);
        }
    }

    /// A prefix counts also where a secret overlaps it, and no byte of a secret ends a token.
    fn push_hidden(&mut self, bytes: &[u8], starts: bool, out: &mut dyn FnMut(Bytes)) {
        let mut ends = (None, None);
        self.state = self.prefixes.feed(self.state, bytes, |end, _| ends = (ends.0.or(Some(end)), Some(end)));
        if starts && self.place != Place::Token {
            out(MARKER);
        }
        self.place = match (self.place, ends) {
            (place, _) if bytes.is_empty() => place,
            (Place::Prefix | Place::Token, _) => Place::Token,
            (Place::Text, (Some(first), _)) if first < bytes.len() => Place::Token,
            (Place::Text, (_, Some(_))) => Place::Prefix,
            (Place::Text, _) => Place::Text,
        };
    }

    /// Hides what `chunk` has of a token at its start, and tells how many bytes that was.
    fn hide(&mut self, chunk: &mut Bytes, out: &mut dyn FnMut(Bytes)) -> usize {
        if self.place == Place::Text || chunk.is_empty() {
            return 0;
        }
        let length = chunk.iter().take_while(|byte| in_token(**byte)).count();
        if length > 0 && self.place == Place::Prefix {
            out(MARKER);
        }
        self.place = if length < chunk.len() { Place::Text } else { Place::Token };
        _ = chunk.split_to(length);
        length
    }

    /// Where it stands, by name. `own` are the prefixes that the job names.
    pub(super) fn mark(&self, own: &[String]) -> Option<Mark> {
        let (text, length) = self.prefixes.position(self.state);
        let begun = self.prefixes.beginning(text, length).unwrap_or_default();
        let prefix = Prefix::all(own).find(|(_, prefix)| !begun.is_empty() && prefix.as_bytes().starts_with(begun));
        let mark = Mark { prefix: prefix.map(|(name, _)| name), length, place: self.place };
        (length > 0 || self.place != Place::Text).then_some(mark)
    }

    /// Where another stopped, which may have looked for other prefixes.
    pub(super) fn resume(prefixes: Arc<Automaton>, mark: Option<Mark>, own: &[String]) -> Self {
        let mut tokens = Self::new(prefixes);
        if let Some(Mark { prefix, length, place }) = mark {
            let text = Prefix::all(own).find(|(name, _)| Some(*name) == prefix).map_or("", |(_, text)| text);
            let begun = text.as_bytes().get(..length as usize).unwrap_or_default();
            let mut end = 0;
            tokens.state = tokens.prefixes.feed(ROOT, begun, |at, _| end = at);
            // Some other prefix may be whole already.
            tokens.place = if place == Place::Text && end > 0 && end == begun.len() { Place::Prefix } else { place };
        }
        tokens
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("place", &self.place).finish_non_exhaustive()
    }
}

/// What is begun: the beginning of that length of one of the prefixes, and what was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    prefix: Option<Prefix>,
    length: u32,
    place: Place,
}

/// A prefix by its place in a list that does not change: the text itself may be the beginning of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Prefix {
    /// In [`ALWAYS`] and then [`DEFAULTS`].
    Known(u32),
    /// In those that the job names.
    Own(u32),
}

impl Prefix {
    fn all(own: &[String]) -> impl Iterator<Item = (Self, &str)> {
        let known = (0..).map(Self::Known).zip([ALWAYS].into_iter().chain(DEFAULTS));
        known.chain((0..).map(Self::Own).zip(own.iter().map(|prefix| prefix.trim())))
    }
}

/// What a token is made of.
const fn in_token(byte: u8) -> bool {
    matches!(byte, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'=')
}
