//! What is done with the log of a job.

use std::fmt;
use std::sync::Arc;

use super::automaton::Automaton;
use super::limit::LogLimit;
use super::mask::{Forms, Masks};
use super::tokens::{self, ALWAYS, DEFAULTS};
use crate::api::job_spec::JobSpec;
use crate::variables::{Place, Variables, is_true};

/// Whether lines begin with the time they were written at, in the form GitLab reads and shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Timestamps {
    /// Lines are as they were written.
    #[default]
    Off,
    /// Each line has its time.
    On,
    /// As the job's variable `FF_TIMESTAMPS` says; on where there is none, as in the official runner.
    AsJobSays,
}

/// What is done with the log of a job before it is sent. The default hides all masked variables, tokens and URL parameters
/// that authenticate; makes the log valid UTF-8; and keeps it within 4 MiB.
#[derive(Clone)]
pub struct LogOptions {
    timestamps: Timestamps,
    limit: LogLimit,
    forms: Forms,
    raw: bool,
    /// Ready to be searched for: those of a job that names none of its own.
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
    /// Passes every byte on as it is: **secrets show**, and the log has no limit. For those who have masked it already;
    /// the feature `masking` is not announced.
    #[must_use]
    pub fn dangerously_raw() -> Self {
        Self { raw: true, ..Self::default() }
    }

    /// Whether lines begin with the time. Default [`Timestamps::Off`].
    #[must_use]
    pub fn with_timestamps(mut self, timestamps: Timestamps) -> Self {
        self.timestamps = timestamps;
        self
    }

    /// How large the log may become. Default: 4 MiB, the last 64 KiB of which are those of the end.
    #[must_use]
    pub fn with_limit(mut self, limit: LogLimit) -> Self {
        self.limit = limit;
        self
    }

    /// Whether, of a secret of several lines, each line of at least 8 bytes is hidden also where it stands alone. Default
    /// yes.
    #[must_use]
    pub fn with_masked_lines(mut self, masked: bool) -> Self {
        self.forms.lines = masked;
        self
    }

    /// Whether secrets are hidden also in Base64 (wherever they lie in what was encoded), percent-encoded, and as they
    /// stand in JSON. Default no: it makes up to ten forms of each secret.
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

    pub(super) fn masks(&self, spec: &JobSpec, variables: &Variables) -> Arc<Masks> {
        let mut secrets = variables.masked();
        secrets.extend_from_slice(&spec.masked_at_run_time);
        Arc::new(Masks::with_forms(&secrets, self.forms))
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

    pub(super) fn variables(spec: &JobSpec) -> Variables {
        Variables::new(spec, &Place::default())
    }
}

impl fmt::Debug for LogOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { timestamps, limit, forms, raw, prefixes: _ } = self;
        let mut shown = f.debug_struct("LogOptions");
        shown.field("timestamps", timestamps).field("limit", limit).field("forms", forms).field("raw", raw);
        shown.finish_non_exhaustive()
    }
}
