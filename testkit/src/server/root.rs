//! The path below which a server answers.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use http::Uri;
use http::uri::PathAndQuery;

/// The path of a GitLab that is not at the root of its address, such as `/gitlab`. GitLab calls it the relative URL root.
///
/// ```
/// use gitlab_runner_api_testkit::sim::Root;
///
/// let root: Root = "/gitlab/".parse()?;
/// assert_eq!(root.as_str(), "/gitlab");
/// assert_eq!("/".parse::<Root>()?, Root::default());
/// assert!("gitlab".parse::<Root>().is_err());
/// # Ok::<(), gitlab_runner_api_testkit::sim::InvalidRoot>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Root(String);

/// The text is not the path of a GitLab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidRoot(());

impl Root {
    /// Returns the path, without a slash at the end. It is empty for a GitLab at the root of its address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the URI as a GitLab at the root of its address would see it; `None` if it is not below this path.
    pub(crate) fn strip(&self, uri: &Uri) -> Option<Uri> {
        if self.0.is_empty() {
            return Some(uri.clone());
        }
        let rest = uri.path_and_query()?.as_str().strip_prefix(self.as_str())?;
        // `/gitlab` is the same as `/gitlab/`, and `/gitlab2` is another place.
        let path = match rest.bytes().next() {
            None | Some(b'?') => format!("/{rest}"),
            Some(b'/') => rest.to_owned(),
            Some(_) => return None,
        };
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
        Uri::from_parts(parts).ok()
    }
}

impl FromStr for Root {
    type Err = InvalidRoot;

    /// Takes a path of letters, digits, `-`, `_`, `~` and dots, so that it reads the same in a URL, in HTML and in a cookie.
    fn from_str(text: &str) -> Result<Self, InvalidRoot> {
        let path = text.strip_suffix('/').unwrap_or(text);
        if path.is_empty() {
            return Ok(Self::default());
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        let is_segment = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(is_plain);
        let segments = path.strip_prefix('/').ok_or(InvalidRoot(()))?;
        if segments.split('/').all(is_segment) { Ok(Self(path.to_owned())) } else { Err(InvalidRoot(())) }
    }
}

impl fmt::Display for InvalidRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the root is a path such as /gitlab")
    }
}

impl Error for InvalidRoot {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_a_path_of_plain_characters() {
        for (text, path) in [
            ("", Some("")),
            ("/", Some("")),
            ("/gitlab", Some("/gitlab")),
            ("/gitlab/", Some("/gitlab")),
            ("/a/b-c_d.e~1", Some("/a/b-c_d.e~1")),
            ("gitlab", None),
            ("//", None),
            ("/a//b", None),
            ("/..", None),
            ("/a/./b", None),
            ("/a b", None),
            ("/a\"b", None),
            ("/a;b", None),
            ("/a%20b", None),
            ("/a?b", None),
            ("https://gitlab.test/a", None),
        ] {
            assert_eq!(text.parse::<Root>().ok().as_ref().map(Root::as_str), path, "{text}");
        }
    }

    #[test]
    fn only_what_is_below_the_root_is_served() {
        let root: Root = "/gitlab".parse().unwrap();
        for (uri, expected) in [
            ("/gitlab", Some("/")),
            ("/gitlab/", Some("/")),
            ("/gitlab?a=b", Some("/?a=b")),
            ("/gitlab/api/v4/jobs?a=/gitlab", Some("/api/v4/jobs?a=/gitlab")),
            ("http://host.test/gitlab/x", Some("http://host.test/x")),
            ("/", None),
            ("/gitlab2", None),
            ("/gitla", None),
            ("/api/v4/jobs", None),
            ("/x/gitlab/api/v4/jobs", None),
            ("*", None),
        ] {
            let stripped = root.strip(&uri.parse().unwrap()).map(|uri| uri.to_string());
            assert_eq!(stripped.as_deref(), expected, "{uri}");
            let whole = Root::default().strip(&uri.parse().unwrap()).map(|uri| uri.to_string());
            assert_eq!(whole, Some(uri.parse::<Uri>().unwrap().to_string()));
        }
    }
}
