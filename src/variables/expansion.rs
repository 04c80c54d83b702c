//! What the values of variables mean, as the official runner reads them: references (`$NAME`, `${NAME}`, `$$`, and nothing of a shell),
//! and yes or no.

use std::borrow::Cow;

/// A piece of a text with references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part<'a> {
    /// Text that stays as it is.
    Plain(&'a str),
    /// The name of a variable whose value comes here.
    Name(&'a str),
}

/// Whether a text has anything to expand. `$$` counts.
pub(super) fn has_references(text: &str) -> bool {
    text.contains('$')
}

/// Takes a text apart.
fn parts(text: &str) -> impl Iterator<Item = Part<'_>> {
    let mut rest = text;
    let mut reference_next = false;
    std::iter::from_fn(move || {
        loop {
            if !reference_next {
                if rest.is_empty() {
                    return None;
                }
                let (plain, after) = rest.split_once('$').map_or((rest, None), |(plain, after)| (plain, Some(after)));
                reference_next = after.is_some();
                rest = after.unwrap_or_default();
                if !plain.is_empty() {
                    return Some(Part::Plain(plain));
                }
                continue;
            }
            reference_next = false;
            let (found, tail) = reference(rest);
            rest = tail;
            match found {
                Reference::Name("$") | Reference::None => return Some(Part::Plain("$")),
                Reference::Name(special) if is_special(special) => {}
                Reference::Name(name) => return Some(Part::Name(name)),
                Reference::Malformed => {}
            }
        }
    })
}

/// The length of a text after expansion; none if it is more than `limit`. The work that this takes is bounded by the length
/// of the text and does not depend on the values, so that it can be asked before anything is expanded.
pub(super) fn expanded_len(text: &str, limit: usize, mut len_of: impl FnMut(&str) -> usize) -> Option<usize> {
    let mut sum = 0_usize;
    for part in parts(text) {
        sum = sum.saturating_add(match part {
            Part::Plain(plain) => plain.len(),
            Part::Name(name) => len_of(name),
        });
        if sum > limit {
            return None;
        }
    }
    Some(sum)
}

/// Replaces each reference by what `value` gives for its name, or by nothing. `len` is what [`expanded_len`] gave.
pub(super) fn expand<'v>(text: &str, len: usize, value: impl Fn(&str) -> Option<Cow<'v, str>>) -> String {
    let mut out = String::with_capacity(len);
    for part in parts(text) {
        match part {
            Part::Plain(plain) => out.push_str(plain),
            Part::Name(name) => out.push_str(&value(name).unwrap_or_default()),
        }
    }
    out
}

/// The value of a variable that says one word, such as a switch or a span, among variables that need no place. None if it
/// is longer than any such word.
pub(crate) fn expand_word<'v>(text: &str, value: impl Fn(&str) -> Option<Cow<'v, str>>) -> Option<String> {
    if text.len() > WORD_LIMIT {
        return None;
    }
    let len = expanded_len(text, WORD_LIMIT, |name| value(name).map_or(0, |value| value.len()))?;
    Some(expand(text, len, value))
}

/// No switch and no span is longer, in bytes.
const WORD_LIMIT: usize = 256;

enum Reference<'a> {
    Name(&'a str),
    /// Braces with nothing between them, or without an end: they vanish.
    Malformed,
    /// A dollar sign and nothing else.
    None,
}

/// What stands behind a dollar sign, and what follows it.
fn reference(after: &str) -> (Reference<'_>, &str) {
    if let Some(inside) = after.strip_prefix('{') {
        return match inside.split_once('}') {
            Some(("", tail)) => (Reference::Malformed, tail),
            Some((name, tail)) => (Reference::Name(name), tail),
            None => (Reference::Malformed, inside),
        };
    }
    let of_one =
        after.starts_with(|c: char| matches!(c, '*' | '#' | '$' | '@' | '!' | '?' | '-') || c.is_ascii_digit());
    let end = match of_one {
        true => 1,
        false => after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len()),
    };
    match after.split_at(end) {
        ("", tail) => (Reference::None, tail),
        (name, tail) => (Reference::Name(name), tail),
    }
}

/// What a shell would know, and a runner does not.
fn is_special(name: &str) -> bool {
    matches!(name, "*" | "#" | "@" | "!" | "?") || (name.len() == 1 && name.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What GitLab's runner takes for true: `true` and `t` in any case, and every spelling of 1.
pub(crate) fn is_true(value: &str) -> bool {
    value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("t") || value.parse() == Ok(1_u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_as_the_official_runner_does() {
        let value = |name: &str| match name {
            "A" => Some("a$B".to_owned()),
            "B_1" => Some("b".to_owned()),
            "-" => Some("minus".to_owned()),
            "A:-d" => None,
            _ => None,
        };
        let rows = [
            ("$A", "a$B"),
            ("${A}x", "a$Bx"),
            ("$B_1-$B_1", "b-b"),
            ("x$UNKNOWN.y", "x.y"),
            ("$$", "$"),
            ("$$A", "$A"),
            ("$*$#$@$!$?$0$9", ""),
            ("$12", "2"),
            ("$-", "minus"),
            ("${?}", ""),
            ("${$}", "$"),
            ("${A:-d}", ""),
            ("${}x", "x"),
            ("${A", "A"),
            ("a$", "a$"),
            ("$ $. $\u{e9}", "$ $. $\u{e9}"),
            ("%A%", "%A%"),
            ("", ""),
        ];
        for (text, expanded) in rows {
            assert_eq!(expand(text, 0, |name| value(name).map(Cow::Owned)), expanded, "{text:?}");
            let len = |limit| expanded_len(text, limit, |name| value(name).map_or(0, |value| value.len()));
            assert_eq!(len(expanded.len()), Some(expanded.len()), "{text:?}");
            assert!(expanded.is_empty() || len(expanded.len() - 1).is_none(), "{text:?}");
        }
    }
}
