//! Values that must not be seen: tokens and whatever else authenticates.

use std::fmt;

use http::HeaderValue;
use serde::Deserialize;

/// A text that never shows in `Debug`, has no `Display`, and leaves only through [`Secret::expose`].
///
/// With the feature `zeroize` its memory is overwritten on drop. Secrets are deliberately not comparable.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Every call of this is a place to review.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// A header value that `http` itself prints as `Sensitive`; `None` if the text cannot stand in a header.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&self.0).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(feature = "zeroize")]
impl Drop for Secret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

macro_rules! token {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Secret);

        impl $name {
            /// Takes a token as GitLab gave it; white space around it is dropped.
            ///
            /// # Errors
            ///
            /// [`InvalidToken`] if nothing is left, or if it has characters that cannot stand in an HTTP header.
            pub fn new(token: impl Into<String>) -> Result<Self, InvalidToken> {
                let token = token.into();
                let trimmed = token.trim();
                let secret = Secret::new(trimmed);
                if trimmed.is_empty() || secret.header().is_none() {
                    return Err(InvalidToken);
                }
                Ok(Self(secret))
            }

            /// The token itself. Every call of this is a place to review.
            #[must_use]
            pub fn expose(&self) -> &str {
                self.0.expose()
            }

            pub(crate) fn secret(&self) -> &Secret {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidToken;

            fn try_from(token: String) -> Result<Self, InvalidToken> {
                Self::new(token)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

token! {
    /// The token a new runner is registered with (`POST /runners`), from the settings of an instance, group or project.
    ///
    /// GitLab calls these deprecated. A token that starts with `glrt-` is not one of them: it belongs to a runner that
    /// exists already, see [`RunnerToken::looks_like`].
    RegistrationToken
}
token! {
    /// The authentication token of a runner: asks for jobs, and is checked by `POST /runners/verify`.
    RunnerToken
}
token! {
    /// A user's personal access token: makes runners, and resets their tokens, in the user's name.
    PersonalAccessToken
}
token! {
    /// The token of one job, valid while the job runs: sends its log and its result.
    JobToken
}

impl RunnerToken {
    /// Whether the text has the prefix GitLab gives to runners created by a user: `glrt-`, on some instances behind a prefix
    /// of their own, as in `acme-glrt-`. Such a token needs no registration.
    #[must_use]
    pub fn looks_like(text: &str) -> bool {
        behind_prefix(text.trim(), "glrt-").is_some()
    }

    /// As much of the token as may be shown, by which people tell runners apart: the nine characters after its prefix,
    /// as the official runner and GitLab's own pages show it.
    #[must_use]
    pub fn short(&self) -> &str {
        let text = self.expose();
        let rest = ["glrtr-", "glrt-", "glcbt-"].iter().find_map(|prefix| behind_prefix(text, prefix)).unwrap_or(text);
        let rest = ["t1_", "t2_", "t3_"].iter().find_map(|kind| rest.strip_prefix(kind)).unwrap_or(rest);
        let old = rest.get(2..9).filter(|hex| rest.starts_with("GR") && hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let rest = old.and_then(|_| rest.get(9..)).unwrap_or(rest);
        // A token of nine characters or less would be shown whole.
        let shown = if rest.chars().count() > 9 { 9 } else { 0 };
        rest.char_indices().nth(shown).and_then(|(end, _)| rest.get(..end)).unwrap_or_default()
    }
}

/// What follows GitLab's own prefix of a token. Before it there may be one that the instance's administrator chose, which
/// ends with a hyphen.
fn behind_prefix<'a>(token: &'a str, prefix: &str) -> Option<&'a str> {
    let (before, rest) = token.split_once(prefix)?;
    (before.is_empty() || before.ends_with('-')).then_some(rest)
}

/// A token that is empty, or that cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("the token is empty or has characters that cannot be sent in an HTTP header; copy it again from GitLab")]
pub struct InvalidToken;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_type_alone() {
        let token = RunnerToken::new(" glrt-canary\n").unwrap();
        assert_eq!(format!("{token:?} {:?}", token.secret()), "RunnerToken(..) Secret(..)");
        assert_eq!(token.expose(), "glrt-canary");
        assert_eq!(format!("{:?}", token.secret().header().unwrap()), "Sensitive");
    }

    #[test]
    fn a_short_token_is_what_the_official_runner_shows() {
        for (token, short) in [
            ("glrt-abcdefghijklmnop", "abcdefghi"),
            ("glrt-t1_abcdefghijklmnop", "abcdefghi"),
            ("t3_abcdefghijklmnop", "abcdefghi"),
            ("glrtr-abcdefghijklmnop", "abcdefghi"),
            ("GR1348941abcdefghijklmnop", "abcdefghi"),
            ("GRxyz8941abcdefghijklmnop", "GRxyz8941"),
            ("abcdefghijklmnop", "abcdefghi"),
            ("acme-glrt-abcdefghijklmnop", "abcdefghi"),
            ("a-b-glrt-t2_abcdefghijklmnop", "abcdefghi"),
            ("acme-glrtr-abcdefghijklmnop", "abcdefghi"),
            ("glrt-abcdefghi-glrt-xyz", "abcdefghi"),
            ("acme-glrt-123456789", ""),
            ("glrt-123456789", ""),
            ("x", ""),
        ] {
            assert_eq!(RunnerToken::new(token).unwrap().short(), short, "{token}");
        }
    }

    #[test]
    fn tokens_of_runners_are_told_from_registration_tokens() {
        for (text, is_one) in [
            ("glrt-abc", true),
            (" glrt-t1_abc\n", true),
            ("acme-glrt-abc", true),
            ("acme-corp-glrt-abc", true),
            ("glrtr-abc", false),
            ("acme-glrtr-abc", false),
            ("GR1348941abc", false),
            ("acmeglrt-abc", false),
            ("t1_abc", false),
            ("", false),
        ] {
            assert_eq!(RunnerToken::looks_like(text), is_one, "{text}");
        }
    }

    #[test]
    fn unusable_tokens_are_refused_without_being_shown() {
        for bad in ["", "  \n", "can\nary", "can\u{7f}ary"] {
            let error = RunnerToken::new(bad).unwrap_err();
            assert!(!error.to_string().contains("ary"));
        }
    }
}
