//! References to variables, as the official runner reads them: `$NAME`, `${NAME}`, `$$`, and nothing of a shell.

/// Replaces each reference by what `value` gives for its name, or by nothing.
pub(super) fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, after)) = rest.split_once('$') {
        out.push_str(plain);
        let (found, tail) = reference(after);
        match found {
            Reference::Name("$") => out.push('$'),
            Reference::Name(special) if is_special(special) => {}
            Reference::Name(name) => out.push_str(&value(name).unwrap_or_default()),
            Reference::Malformed => {}
            Reference::None => out.push('$'),
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

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
            assert_eq!(expand(text, value), expanded, "{text:?}");
        }
    }
}
