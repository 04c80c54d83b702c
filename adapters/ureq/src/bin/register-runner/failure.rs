//! Failures as a person at a terminal needs them: one sentence on what to do, and an exit code.

use std::fmt;

use gitlab_runner_api_ureq::Error;
use gitlab_runner_api_ureq::gitlab_runner_api::ExchangeError;
use gitlab_runner_api_ureq::gitlab_runner_api::api::unregister::Removal;

use crate::words::{shown, without_tokens};

/// Where a file stands on the command line that the library says something of.
const PLACE: &str = "FILE";

/// Something that has no code of its own.
const OTHER: u8 = 1;
const USAGE: u8 = 2;
/// GitLab said no.
const REFUSED: u8 = 3;
/// No answer, or none of GitLab's.
const UNREACHABLE: u8 = 4;
const FILE: u8 = 5;
/// It may have been done.
const UNCERTAIN: u8 = 6;

/// Why it did not work.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    text: String,
}

impl Failure {
    pub(crate) fn usage(text: impl fmt::Display) -> Self {
        Self { code: USAGE, text: format!("{text}; register-runner --help tells more") }
    }

    pub(crate) fn file(text: impl Into<String>) -> Self {
        Self { code: FILE, text: text.into() }
    }

    /// A runner was made, and could not be kept.
    pub(crate) fn unsaved(error: Error, undone: Option<Result<Removal, Error>>) -> Self {
        let rest = match undone {
            None => "the runner itself is as it was",
            Some(Ok(_)) => "the new runner was removed from GitLab again",
            Some(Err(_)) => "the new runner is still in GitLab, and its token is lost: remove it there",
        };
        let Self { code, text } = error.into();
        Self { code, text: format!("{text}; {rest}") }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_tokens(&self.text))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (code, hint) = match &error {
            Error::Config(_) | Error::Token(_) | Error::AttributesIgnored(_) => (USAGE, ""),
            Error::Certificate(_) => (FILE, ""),
            Error::Unauthorized(_) | Error::RegistrationDisabled(_) | Error::NotPermitted(..) => (REFUSED, ""),
            Error::Unreachable { error: ExchangeError::Uncertain(_), .. } | Error::TokenUncertain(_) => (UNCERTAIN, ""),
            Error::Unreachable { why, .. } if why.contains("certificate") => {
                (UNREACHABLE, "; if the GitLab has a private CA, give its certificate with --ca-file")
            }
            Error::Unreachable { .. } | Error::Exchange(_) => (UNREACHABLE, ""),
            Error::File { .. } => (FILE, "; see that the folder exists and the file may be read and written"),
            Error::BadFile { .. } | Error::BadRecord(_) | Error::Held { .. } => (FILE, ""),
            _ => (OTHER, ""),
        };
        // The library names each file. Here a file was named by somebody who may have mistaken its place.
        let text = match &error {
            Error::File { path, source, .. } => format!("{}: {source}{hint}", shown(path, PLACE)),
            Error::BadFile { path, problem, .. } => {
                format!("{}: {problem}; the file was not changed", shown(path, PLACE))
            }
            Error::Held { path, by, .. } => format!("{}: {by}", shown(path, PLACE)),
            error => format!("{error}{hint}"),
        };
        Self { code, text }
    }
}
