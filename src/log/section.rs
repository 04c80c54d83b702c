//! Parts of a log that can be folded.

use std::fmt::Write as _;

use super::ansi::{BOLD_CYAN, CLEAR_LINE, RESET};
use crate::time::Timestamp;

/// A part of a log that GitLab shows with its duration, and folds. Open it with [`crate::Job::open_section`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    name: String,
    title: Option<String>,
    collapsed: bool,
    hide_duration: bool,
}

impl Section {
    /// A section of this name, unique within the log. Anything but letters, digits, `_`, `.` and `-`, which is all GitLab
    /// takes, becomes `_`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let name: String = name.chars().map(|c| if fits(c) { c } else { '_' }).collect();
        let name = if name.is_empty() { "section".to_owned() } else { name };
        Self { name, title: None, collapsed: false, hide_duration: false }
    }

    /// The line that stays to be seen when the section is folded. Line ends in it become spaces.
    #[must_use]
    pub fn with_title(mut self, title: &str) -> Self {
        self.title = Some(title.replace(['\r', '\n'], " "));
        self
    }

    /// Folded at first.
    #[must_use]
    pub fn with_collapsed(mut self) -> Self {
        self.collapsed = true;
        self
    }

    /// Without its duration.
    #[must_use]
    pub fn without_duration(mut self) -> Self {
        self.hide_duration = true;
        self
    }

    /// The name, as it stands in the log.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What opens the section: its marker, if the server understands such, and its title.
    pub(crate) fn start(&self, now: Timestamp, markers: bool) -> String {
        let mut text = String::new();
        if markers {
            let options = [(self.hide_duration, "hide_duration=true"), (self.collapsed, "collapsed=true")];
            let options: Vec<&str> = options.into_iter().filter_map(|(set, option)| set.then_some(option)).collect();
            let options = if options.is_empty() { String::new() } else { format!("[{}]", options.join(",")) };
            _ = write!(text, "section_start:{}:{}{options}\r{CLEAR_LINE}", seconds(now), self.name);
        }
        if let Some(title) = &self.title {
            _ = writeln!(text, "{CLEAR_LINE}{BOLD_CYAN}{title}{RESET}{RESET}");
        }
        text
    }
}

/// What closes a section.
pub(crate) fn end(name: &str, now: Timestamp) -> String {
    format!("section_end:{}:{name}\r{CLEAR_LINE}", seconds(now))
}

fn seconds(now: Timestamp) -> u64 {
    now.as_millis() / 1000
}
