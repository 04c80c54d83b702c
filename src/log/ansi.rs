//! Colours, and the runner's own lines, as GitLab's log shows them.
//!
//! The bytes are those of the official runner.

/// Black, bold.
pub const BOLD_BLACK: &str = "\x1b[30;1m";
/// Red, bold: errors.
pub const BOLD_RED: &str = "\x1b[31;1m";
/// Green, bold: what the runner does.
pub const BOLD_GREEN: &str = "\x1b[32;1m";
/// Yellow, bold: notices.
pub const BOLD_YELLOW: &str = "\x1b[33;1m";
/// Blue, bold.
pub const BOLD_BLUE: &str = "\x1b[34;1m";
/// Magenta, bold.
pub const BOLD_MAGENTA: &str = "\x1b[35;1m";
/// Cyan, bold: titles of sections.
pub const BOLD_CYAN: &str = "\x1b[36;1m";
/// White, bold.
pub const BOLD_WHITE: &str = "\x1b[37;1m";
/// Yellow: warnings.
pub const YELLOW: &str = "\x1b[0;33m";
/// Resets colour and weight.
pub const RESET: &str = "\x1b[0;m";
/// Clears the rest of the line.
pub const CLEAR_LINE: &str = "\x1b[0K";

/// A line of the runner, without colour.
#[must_use]
pub fn plain(text: &str) -> String {
    format!("{CLEAR_LINE}{text}{RESET}\n")
}

/// A line that tells what the runner does, in green.
#[must_use]
pub fn info(text: &str) -> String {
    format!("{BOLD_GREEN}{text}{RESET}\n")
}

/// A warning, in yellow.
#[must_use]
pub fn warning(text: &str) -> String {
    format!("{YELLOW}WARNING: {text}{RESET}\n")
}

/// An error, in red.
#[must_use]
pub fn error(text: &str) -> String {
    format!("{BOLD_RED}ERROR: {text}{RESET}\n")
}
