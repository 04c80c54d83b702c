//! The options of the log pipeline.

use std::fmt;
use std::sync::Arc;

use super::automaton::Automaton;
use super::limit::LogLimit;
use super::mask::{Forms, Masks, SHORT, Secrets};
use super::tokens::{self, ALWAYS, DEFAULTS};
use crate::api::job_spec::{Assignment, JobSpec};
use crate::secret::Secret;
use crate::variables::expansion::is_true;
use crate::variables::{Place, Variables};

/// Whether lines begin with the time they were written at, in the form GitLab reads and shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Timestamps {
    /// Lines get no timestamps.
    #[default]
    Off,
    /// Each line begins with its time.
    On,
    /// The job's variable `FF_TIMESTAMPS` decides. Without this variable it is on, as in the official runner.
    AsJobSays,
}

/// What is done with the log of a job before it is sent. The default hides all masked variables, tokens and URL parameters
/// that authenticate; makes the log valid UTF-8; and keeps it within 4 MiB.
///
/// ```
/// use gitlab_runner_api::api::info::Info;
/// use gitlab_runner_api::log::{LogLimit, LogOptions, Timestamps};
/// use gitlab_runner_api::{RunnerConfig, Server};
///
/// let options = LogOptions::default()
///     .with_timestamps(Timestamps::AsJobSays)
///     .with_limit(LogLimit::head_and_tail(16 << 20, 256 << 10)) // the end of a long log tells why it failed
///     .with_masked_encodings(true);
/// let server = Server::parse("https://gitlab.example.com")?;
/// let config = RunnerConfig::new(server, Info::new("my-runner", "1.0.0")).with_log(options);
/// # let _ = config;
/// # Ok::<(), gitlab_runner_api::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct LogOptions {
    timestamps: Timestamps,
    limit: LogLimit,
    forms: Forms,
    raw: bool,
    /// The prefixes of tokens for jobs that name none of their own, ready to be searched for.
    prefixes: Arc<Automaton>,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            timestamps: Timestamps::Off,
            limit: LogLimit::default(),
            forms: Forms { lines: true, encoded: false },
            raw: false,
            prefixes: tokens::prefixes([ALWAYS].into_iter().chain(DEFAULTS)),
        }
    }
}

impl LogOptions {
    /// Passes every byte on unchanged: **secrets are not hidden**, and the log has no limit. Use it only if the application hides secrets
    /// itself. The feature `masking` is not announced to GitLab.
    #[must_use]
    pub fn dangerously_raw() -> Self {
        Self { raw: true, ..Self::default() }
    }

    /// Sets whether lines begin with the time. Default [`Timestamps::Off`].
    #[must_use]
    pub fn with_timestamps(mut self, timestamps: Timestamps) -> Self {
        self.timestamps = timestamps;
        self
    }

    /// Sets how large the log may become. Default 4 MiB, of which the last 64 KiB are reserved for the end of the log.
    #[must_use]
    pub fn with_limit(mut self, limit: LogLimit) -> Self {
        self.limit = limit;
        self
    }

    /// Sets whether each line of at least 8 bytes of a secret of several lines is also hidden alone. Default yes.
    #[must_use]
    pub fn with_masked_lines(mut self, masked: bool) -> Self {
        self.forms.lines = masked;
        self
    }

    /// Sets whether secrets are also hidden in the encodings below. Default no, because this searches for up to thirty forms of each secret,
    /// fewer if it has few special characters.
    ///
    /// - Base64, with either alphabet, wherever the secret lies in what was encoded.
    /// - In URLs, with digits of either case: JavaScript's `encodeURIComponent` and `encodeURI`, Python's `quote` and
    ///   `quote_plus`, Java's `URLEncoder`, Go's `url.QueryEscape` and `url.PathEscape`.
    /// - In strings of JSON: JavaScript's `JSON.stringify`, Go's `json.Marshal` with and without its escapes for HTML, PHP's
    ///   `json_encode` with and without `JSON_UNESCAPED_SLASHES` and `JSON_UNESCAPED_UNICODE`, Python's `json.dumps` with and
    ///   without `ensure_ascii`.
    ///
    /// A value of several lines is encoded as a whole. Forms of less than four bytes are not hidden.
    #[must_use]
    pub fn with_masked_encodings(mut self, masked: bool) -> Self {
        self.forms.encoded = masked;
        self
    }

    /// Whether this was made by [`LogOptions::dangerously_raw`].
    #[must_use]
    pub fn is_raw(&self) -> bool {
        self.raw
    }

    pub(super) fn limit(&self) -> LogLimit {
        if self.raw { LogLimit::None } else { self.limit }
    }

    pub(super) fn masks(&self, assignment: &Assignment, variables: &Variables) -> Arc<Masks> {
        Arc::new(Masks::with_forms(&Secrets::of(assignment, variables).list, self.forms))
    }

    /// Prepares to hide one secret alone.
    pub(super) fn masks_of(&self, secret: &Secret) -> Arc<Masks> {
        Arc::new(Masks::with_forms(std::slice::from_ref(secret), self.forms))
    }

    pub(super) fn prefixes(&self, spec: &JobSpec, variables: &Variables) -> Arc<Automaton> {
        let all = variables.value("FF_MASK_ALL_DEFAULT_TOKENS").is_none_or(|value| is_true(&value));
        let own = &spec.features.token_mask_prefixes;
        if all && own.is_empty() {
            return Arc::clone(&self.prefixes);
        }
        let defaults = DEFAULTS.into_iter().filter(|_| all);
        tokens::prefixes([ALWAYS].into_iter().chain(defaults).chain(own.iter().map(String::as_str)))
    }

    pub(super) fn stamps(&self, variables: &Variables) -> bool {
        match self.timestamps {
            Timestamps::Off => false,
            Timestamps::On => true,
            Timestamps::AsJobSays => variables.value("FF_TIMESTAMPS").is_none_or(|value| is_true(&value)),
        }
    }

    /// The variables of a job by which its log is treated: expanded where a job usually runs.
    pub(crate) fn variables(spec: &JobSpec) -> Variables {
        Variables::new(spec, &Place::default())
    }
}

impl Secrets {
    pub(super) fn of(assignment: &Assignment, variables: &Variables) -> Self {
        let mut list = variables.masked();
        list.extend(credentials(assignment.spec()));
        let of_payload = list.len();
        list.extend_from_slice(assignment.masked_at_run_time());
        Self { list, of_payload }
    }
}

/// The secrets of a payload that need not be variables: the job's token, and passwords of its repository and of registries.
fn credentials(spec: &JobSpec) -> impl Iterator<Item = Secret> {
    let token = spec.token.expose().to_owned();
    let of_registries = spec.credentials.iter().filter_map(|it| it.password.as_ref());
    let of_registries = of_registries.map(|password| password.expose().to_owned());
    let of_repository = spec.git_info.repo_url.as_ref().map(|url| passwords(url.expose())).unwrap_or_default();
    let all = [token].into_iter().chain(of_repository).chain(of_registries);
    all.filter(|secret| secret.trim().len() >= SHORT).map(Secret::new)
}

/// The password in an address, as it stands there and decoded.
fn passwords(url: &str) -> Vec<String> {
    let authority = url.split_once("://").and_then(|(_, rest)| rest.split(['/', '?', '#']).next());
    let user_info = authority.and_then(|authority| authority.rsplit_once('@'));
    let Some((_, password)) = user_info.and_then(|(user_info, _)| user_info.split_once(':')) else { return Vec::new() };
    vec![password.to_owned(), percent_encoding::percent_decode_str(password).decode_utf8_lossy().into_owned()]
}

impl fmt::Debug for LogOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { timestamps, limit, forms, raw, prefixes: _ } = self;
        let mut shown = f.debug_struct("LogOptions");
        shown.field("timestamps", timestamps).field("limit", limit).field("forms", forms).field("raw", raw);
        shown.finish_non_exhaustive()
    }
}
