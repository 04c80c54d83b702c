//! Tables of operations.
//!
//! A dispatcher looks a request up in such a table. A test reads the same table and compares it with the documentation, so
//! that neither can change without the other.

use std::borrow::Cow;

use http::Method;
use percent_encoding::percent_decode_str;

/// One operation of an API.
#[derive(Debug)]
pub(crate) struct Operation<A> {
    pub(crate) method: Method,
    /// The path, with the names of parameters in braces.
    pub(crate) path: &'static str,
    /// What the operation does: a function, or a name that the dispatcher matches on.
    pub(crate) act: A,
}

impl<A> Operation<A> {
    pub(crate) const fn new(method: Method, path: &'static str, act: A) -> Self {
        Self { method, path, act }
    }
}

/// The values of the parameters in a path, in their order.
pub(crate) type Values<'p> = Vec<Cow<'p, str>>;

/// Returns the operations of a table at a path, each with the values of its parameters. If a path matches several, such as
/// `/runners/all` and `/runners/{id}`, the one that stands first in the table comes first.
pub(crate) fn at<'a, A>(
    table: &'static [Operation<A>],
    path: &'a str,
) -> impl Iterator<Item = (&'static Operation<A>, Values<'a>)> {
    table.iter().filter_map(move |operation| Some((operation, values(operation.path, path)?)))
}

/// The values in a path that has the form of this template. A parameter is one segment that is not empty.
fn values<'p>(template: &str, path: &'p str) -> Option<Values<'p>> {
    let mut segments = path.split('/');
    let mut values = Vec::new();
    for part in template.split('/') {
        let segment = segments.next()?;
        if part.starts_with('{') && !segment.is_empty() {
            values.push(percent_decode_str(segment).decode_utf8_lossy());
        } else if part != segment {
            return None;
        }
    }
    segments.next().is_none().then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_match_their_templates() {
        for (template, path, expected) in [
            ("/jobs", "/jobs", Some(vec![])),
            ("/jobs", "/jobs/", None),
            ("/jobs/{id}", "/jobs/7", Some(vec!["7"])),
            ("/jobs/{id}", "/jobs/", None),
            ("/jobs/{id}", "/jobs/7/trace", None),
            ("/jobs/{id}/trace", "/jobs/7", None),
            ("/projects/{id}/jobs/{job}", "/projects/a%2Fb/jobs/7", Some(vec!["a/b", "7"])),
        ] {
            let expected = expected.map(|list| list.into_iter().map(Cow::from).collect());
            assert_eq!(values(template, path), expected, "{template} {path}");
        }
    }
}
