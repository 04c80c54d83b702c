//! What may be shown of the words of a command line, and what a misspelt word was meant to be.
//!
//! A token easily lands in the wrong place: where FILE was forgotten, after an option that is misspelt, in the place of a
//! verb. Terminals are recorded and logs are kept, so a message shows a word of the command line only if the word cannot be a
//! token. It is close to a word that this program knows, or it is the name of a file that exists or has an ending that files
//! have. Many tokens have no prefix that tells what they are, so it is not enough to look for prefixes.

use std::borrow::Cow;
use std::path::Path;

/// The prefixes of GitLab's tokens, and what they are tokens of. A GitLab can have other prefixes, and older tokens have none.
const KINDS: [(&str, &str); 15] = [
    ("glpat-", "a personal access token"),
    ("glrt-", "the token of a runner"),
    ("glrtr-", "the token of a runner"),
    ("GR1348941", "a registration token"),
    ("glcbt-", "the token of a job"),
    ("gldt-", "a deploy token"),
    ("glptt-", "the token of a pipeline trigger"),
    ("glagent-", "the token of an agent for Kubernetes"),
    ("gloas-", "the secret of an OAuth application"),
    ("glft-", "a feed token"),
    ("glimt-", "a token for incoming mail"),
    ("glsoat-", "a SCIM token"),
    ("glffct-", "the token of a feature flags client"),
    ("glwt-", "the token of a workspace"),
    ("_gitlab_session=", "the cookie of a session"),
];

/// The prefix of a token and what it is, if its prefix tells.
pub(crate) fn kind_of(token: &str) -> Option<(&'static str, &'static str)> {
    KINDS.into_iter().find(|(prefix, _)| token.trim_start().starts_with(prefix))
}

/// Characters that tokens consist of.
fn is_of_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.=+".contains(c)
}

/// Where the first thing is that a prefix shows to be a token.
fn find_token(text: &str) -> Option<(usize, usize)> {
    let ends = |(start, prefix): (usize, &str)| {
        let rest = text.get(start + prefix.len()..)?;
        let length = rest.find(|c| !is_of_token(c)).unwrap_or(rest.len());
        // The prefix alone is a word about tokens.
        (length > 0).then_some((start, start + prefix.len() + length))
    };
    KINDS.iter().flat_map(|(prefix, _)| text.match_indices(prefix)).filter_map(ends).min()
}

/// Whether a token with a prefix that is known is in this text.
pub(crate) fn has_token(text: &str) -> bool {
    find_token(text).is_some()
}

/// The text without the tokens in it whose prefixes are known. This is the last net below all messages: no message is meant
/// to need it.
pub(crate) fn without_tokens(text: &str) -> Cow<'_, str> {
    let Some((start, end)) = find_token(text) else { return text.into() };
    let (before, after) = (text.get(..start).unwrap_or_default(), text.get(end..).unwrap_or_default());
    format!("{before}[hidden]{}", without_tokens(after)).into()
}

/// How a message calls a file: by its name, if that cannot be a token.
pub(crate) fn shown(file: &Path, place: &str) -> String {
    let has_ending = |ending: &str| file.extension().is_some_and(|extension| extension == ending);
    let is_file = ["json", "pem", "crt", "cer", "key", "txt"].into_iter().any(has_ending) || file.exists();
    if is_file && !has_token(&file.to_string_lossy()) {
        return file.display().to_string();
    }
    format!("the file given as {place} (its name is not shown, because it may be a token)")
}

/// The known word that a misspelt one is closest to, if it is close.
pub(crate) fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let scored = known.into_iter().map(|known| (distance(&word, known), known));
    // Two mistakes, but no more than one in three letters.
    scored.filter(|(far, known)| *far <= 2.min(known.len() / 3)).min_by_key(|(far, _)| *far).map(|(_, known)| known)
}

/// How many letters must be inserted, removed or replaced to make one word of the other (Levenshtein's distance).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    // The distances of the part of `from` that was looked at to each beginning of `to`.
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, letter) in from.chars().enumerate() {
        let mut next = vec![index + 1];
        for ((other, pair), left) in to.iter().zip(row.windows(2)).zip(0..) {
            let &[diagonal, above] = pair else { continue };
            let replaced = diagonal + usize::from(letter != *other);
            let inserted = next.get(left).copied().unwrap_or(usize::MAX - 1) + 1;
            next.push(replaced.min(above + 1).min(inserted));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (from, to, far) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("verify", "verify", 0),
            ("verfy", "verify", 1),
            ("veriffy", "verify", 1),
            ("vorify", "verify", 1),
            ("verfiy", "verify", 2),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!((distance(from, to), distance(to, from)), (far, far), "{from} {to}");
        }
    }

    #[test]
    fn only_what_is_close_is_suggested() {
        let known = ["verify", "unregister", "all"];
        for (word, meant) in [
            ("verfy", Some("verify")),
            ("Verify", Some("verify")),
            ("un-register", Some("unregister")),
            ("al", Some("all")),
            ("a", None),
            ("glrt-canary", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(closest(word, known), meant, "{word}");
        }
    }

    #[test]
    fn tokens_are_taken_out_of_texts_and_words_about_them_stay() {
        let hidden = "./glrt-a.01.b_c-d and glpat-x, GR1348941y; use its glrt- token (glpat-)";
        let without = "./[hidden] and [hidden], [hidden]; use its glrt- token (glpat-)";
        assert_eq!(without_tokens(hidden), without);
        assert_eq!(without_tokens(without), without);
        assert!(has_token("xglrt-y") && !has_token("glrt- y"));
    }

    #[test]
    fn names_of_files_are_shown_and_tokens_are_not() {
        let here = std::env::current_dir().unwrap();
        for (name, is_shown) in [
            ("my.json", true),
            ("none/ca.pem", true),
            (here.to_str().unwrap(), true),
            ("canary-0123456789abcdef", false),
            ("glrt-canary", false),
            ("glrt-canary.json", false),
            ("a.01.canary", false),
        ] {
            assert_eq!(shown(Path::new(name), "FILE").contains(name), is_shown, "{name}");
        }
    }
}
