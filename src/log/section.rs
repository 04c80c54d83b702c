//! Sections: parts of a log that GitLab can fold.

use super::ansi::{BOLD_CYAN, CLEAR_LINE, RESET};
use crate::time::Timestamp;

/// A section: a part of a log that GitLab shows with its duration, and can fold. [`crate::Job::open_section`] opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The name as it was given, because secrets are searched for before characters are replaced.
    wanted: String,
    name: String,
    title: Option<String>,
    collapsed: bool,
    hide_duration: bool,
}

impl Section {
    /// Returns a section with this name, which must be unique within the log. GitLab allows letters, digits, `_`, `.` and `-`. Every other
    /// character becomes `_`. A secret of the job becomes `_MASKED_` when the section is opened.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let name = if name.is_empty() { "section" } else { name };
        Self { wanted: name.to_owned(), name: sanitized(name), title: None, collapsed: false, hide_duration: false }
    }

    /// Sets the title: the line that GitLab shows when the section is folded. Line ends in it become spaces.
    #[must_use]
    pub fn with_title(mut self, title: &str) -> Self {
        self.title = Some(title.replace(['\r', '\n'], " "));
        self
    }

    /// Makes GitLab show the section folded at first.
    #[must_use]
    pub fn with_collapsed(mut self) -> Self {
        self.collapsed = true;
        self
    }

    /// Makes GitLab show the section without its duration.
    #[must_use]
    pub fn without_duration(mut self) -> Self {
        self.hide_duration = true;
        self
    }

    /// The name, as it stands in the log if it holds no secret.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name as it was given.
    pub(crate) fn wanted_name(&self) -> &str {
        &self.wanted
    }

    /// The marker that opens the section under this name.
    pub(crate) fn start(&self, name: &str, now: Timestamp) -> String {
        let options = [(self.hide_duration, "hide_duration=true"), (self.collapsed, "collapsed=true")];
        let options: Vec<&str> = options.into_iter().filter_map(|(set, option)| set.then_some(option)).collect();
        let options = if options.is_empty() { String::new() } else { format!("[{}]", options.join(",")) };
        format!("section_start:{}:{name}{options}\r{CLEAR_LINE}", seconds(now))
    }

    /// The title, as it was given.
    pub(crate) fn title(&self) -> Option<&str> {
        self.title.as_deref()
    }
}

/// The line that follows the marker.
pub(crate) fn title_line(title: &str) -> String {
    format!("{CLEAR_LINE}{BOLD_CYAN}{title}{RESET}{RESET}\n")
}

/// A name with `_` for all that GitLab does not take. It has as many characters as before.
pub(super) fn sanitized(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    name.chars().map(|c| if fits(c) { c } else { '_' }).collect()
}

/// The marker that closes a section.
pub(crate) fn end(name: &str, now: Timestamp) -> String {
    format!("section_end:{}:{name}\r{CLEAR_LINE}", seconds(now))
}

fn seconds(now: Timestamp) -> u64 {
    now.as_millis() / 1000
}
