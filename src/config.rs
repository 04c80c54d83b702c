//! What a runner is and how it behaves: one value, shared by all its machines.

use std::fmt;
use std::time::Duration;

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::api::info::Info;
use crate::error::ConfigError;
use crate::headers::TOLD_DELAY_CAP;
use crate::identity::StreamCounter;
use crate::log::LogOptions;
use crate::time::Timestamp;

/// How often logs are sent before GitLab says how often it wants them.
pub(crate) const DEFAULT_UPDATE_INTERVAL: Duration = Duration::from_secs(3);

/// The pause after an answer without a job, as in the official runner.
const DEFAULT_CHECK_INTERVAL: Duration = Duration::from_secs(3);

/// The silence after which GitLab is told that a job lives, as in the official runner.
const DEFAULT_KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The longest such silence. GitLab may call a job stuck after 15 minutes, and two keep-alives may fail before that.
const LONGEST_KEEP_ALIVE: Duration = Duration::from_secs(300);

/// Timestamps have whole milliseconds: shorter intervals would be none.
const SHORTEST: Duration = Duration::from_millis(1);

/// The address of a GitLab instance, checked and brought into one form.
///
/// Trailing slashes and one trailing `/ci` (very old documentation) are dropped, a relative URL root is kept, and
/// `/api/v4/` is what calls go to.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    url: String,
}

impl Server {
    /// Reads an address such as `https://gitlab.example.com` or `https://example.com/gitlab/`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if it is not an `http` or `https` URL, or has a user name, password, query or fragment.
    pub fn parse(address: &str) -> Result<Self, ConfigError> {
        let url = Url::parse(address.trim())?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(ConfigError::Scheme);
        }
        let plain = url.username().is_empty() && url.password().is_none();
        if !plain || url.query().is_some() || url.fragment().is_some() {
            return Err(ConfigError::UrlParts);
        }
        let root = url.as_str().trim_end_matches('/');
        let root = root.strip_suffix("/ci").unwrap_or(root).trim_end_matches('/');
        let server = Self { url: root.to_owned() };
        let uri = server.api(format_args!("jobs/{}/trace?debug_trace=false", u64::MAX));
        if uri.parse::<http::Uri>().is_err() {
            return Err(ConfigError::Unusable);
        }
        Ok(server)
    }

    /// The address in its one form, without a trailing slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.url
    }

    /// The URI of an API call, `path` being what follows `/api/v4/`.
    pub(crate) fn api(&self, path: fmt::Arguments<'_>) -> String {
        format!("{}/api/v4/{path}", self.url)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.url)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// The name of one machine among those that share a runner token; GitLab's *runner manager* is found by it.
///
/// The official runner's form is `s_` or `r_` and twelve letters or digits; GitLab takes up to 64 characters. Make it
/// once per machine and keep it: a new one is a new runner manager in GitLab's list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SystemId(String);

impl SystemId {
    /// Checks a system ID.
    ///
    /// # Errors
    ///
    /// [`ConfigError::SystemId`] unless it has 1 to 64 printable ASCII characters.
    pub fn new(id: impl Into<String>) -> Result<Self, ConfigError> {
        let id = id.into();
        let fits = (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self(id)) } else { Err(ConfigError::SystemId) }
    }

    /// The ID as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SystemId {
    type Error = ConfigError;

    fn try_from(id: String) -> Result<Self, ConfigError> {
        Self::new(id)
    }
}

impl From<SystemId> for String {
    fn from(id: SystemId) -> Self {
        id.0
    }
}

/// How much of a job's log the core keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retain {
    /// All of it, so that it can be sent again whatever happens.
    All,
    /// What GitLab has not acknowledged. If GitLab loses what it had, or after a resume, the application is asked for
    /// the rest by [`crate::JobEvent::TraceNeeded`].
    Unacknowledged,
}

/// Everything the machines of a runner share. Cheap to share in an `Arc`; holds no token.
#[derive(Clone, Debug)]
pub struct RunnerConfig {
    pub(crate) server: Server,
    pub(crate) system_id: Option<SystemId>,
    pub(crate) info: Info,
    pub(crate) user_agent: HeaderValue,
    pub(crate) jitter_seed: u64,
    pub(crate) check_interval: Duration,
    pub(crate) job_request_deadline: Duration,
    pub(crate) payload_limit: u64,
    pub(crate) update_interval: Duration,
    pub(crate) keep_alive: Duration,
    pub(crate) patch_limit: u64,
    pub(crate) default_timeout: Duration,
    pub(crate) retry_cap: Duration,
    pub(crate) not_found_patience: Duration,
    pub(crate) forbidden_patience: Duration,
    pub(crate) log_patience: Duration,
    pub(crate) report_patience: Duration,
    pub(crate) retain: Retain,
    pub(crate) durable: bool,
    pub(crate) damaged_payloads: bool,
    pub(crate) log: LogOptions,
    pub(crate) rotation_due: Option<Timestamp>,
    /// How many state machines were made with this configuration and its clones.
    pub(crate) streams: StreamCounter,
}

impl RunnerConfig {
    /// The defaults of the official runner for a runner at `server`.
    #[must_use]
    pub fn new(server: Server, info: Info) -> Self {
        Self {
            user_agent: info.user_agent(),
            server,
            system_id: None,
            info,
            jitter_seed: 0,
            check_interval: DEFAULT_CHECK_INTERVAL,
            job_request_deadline: Duration::from_secs(600),
            payload_limit: 64 << 20,
            update_interval: DEFAULT_UPDATE_INTERVAL,
            keep_alive: DEFAULT_KEEP_ALIVE,
            patch_limit: 1 << 20,
            default_timeout: Duration::from_secs(7200),
            retry_cap: Duration::from_secs(60),
            not_found_patience: Duration::from_secs(3600),
            forbidden_patience: Duration::from_secs(3600),
            log_patience: Duration::from_secs(600),
            report_patience: Duration::from_secs(600),
            retain: Retain::All,
            durable: false,
            damaged_payloads: false,
            log: LogOptions::default(),
            rotation_due: None,
            streams: StreamCounter::default(),
        }
    }

    /// The instance this is a runner of.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// What the runner tells GitLab about itself.
    #[must_use]
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// What the runner tells GitLab about itself, in place of what was given to [`RunnerConfig::new`].
    #[must_use]
    pub fn with_info(mut self, info: Info) -> Self {
        self.user_agent = info.user_agent();
        self.info = info;
        self.announce_masking()
    }

    /// The name of this machine among those that share the token.
    #[must_use]
    pub fn with_system_id(mut self, id: SystemId) -> Self {
        self.system_id = Some(id);
        self
    }

    /// Seeds jitter and correlation ids. Draw it from the operating system; in tests, from the case number. Default 0.
    ///
    /// Each state machine has a random stream of its own, which also depends on how many were made before it from this configuration
    /// and its clones. The same seed, the same order of creation and the same inputs give the same requests, byte for byte; a replay
    /// takes a new configuration.
    #[must_use]
    pub fn with_jitter_seed(mut self, seed: u64) -> Self {
        self.jitter_seed = seed;
        self
    }

    /// When the runner's token is to be replaced: from then on a poller says so once, by
    /// [`crate::PollerEvent::RotationDue`]. See [`crate::api::reset_token::rotation_due`]. Default never.
    #[must_use]
    pub fn with_rotation_due(mut self, at: Option<Timestamp>) -> Self {
        self.rotation_due = at;
        self
    }

    /// The pause after an answer without a job. Default 3 s, as in the official runner; on servers with long polling the wait is
    /// in the answer.
    ///
    /// Zero means the default, as in the official runner's configuration. [`Duration::MAX`] asks once and never again.
    #[must_use]
    pub fn with_check_interval(mut self, interval: Duration) -> Self {
        self.check_interval = if interval.is_zero() { DEFAULT_CHECK_INTERVAL } else { interval.max(SHORTEST) };
        self
    }

    /// How long a job request may take. Default 10 minutes.
    ///
    /// It must be longer than the wait the administrator configured for long polling (usually 50 s): a request cut
    /// short can lose the job that was about to be its answer.
    #[must_use]
    pub fn with_job_request_deadline(mut self, deadline: Duration) -> Self {
        self.job_request_deadline = deadline;
        self
    }

    /// The shortest time between two pieces of log while GitLab has not said otherwise. Default 3 s, which zero means as well. With
    /// [`Duration::MAX`], pieces go out when they are full and when the job ends, until GitLab says otherwise.
    #[must_use]
    pub fn with_update_interval(mut self, interval: Duration) -> Self {
        self.update_interval = if interval.is_zero() { DEFAULT_UPDATE_INTERVAL } else { interval.max(SHORTEST) };
        self
    }

    /// After how long a silence GitLab is told that a job lives, and asked whether it is cancelled. Default 30 s, as in the official
    /// runner.
    ///
    /// At most five minutes, which is also what [`Duration::MAX`] means: GitLab may call a job stuck that was silent for 15. Zero
    /// means the default.
    #[must_use]
    pub fn with_keep_alive(mut self, silence: Duration) -> Self {
        self.keep_alive =
            if silence.is_zero() { DEFAULT_KEEP_ALIVE } else { silence.clamp(SHORTEST, LONGEST_KEEP_ALIVE) };
        self
    }

    /// The largest piece of log sent at once, in bytes, at least 1. Default 1 MiB.
    #[must_use]
    pub fn with_patch_limit(mut self, bytes: u64) -> Self {
        self.patch_limit = bytes.max(1);
        self
    }

    /// A job's timeout if GitLab names none. Default two hours.
    #[must_use]
    pub fn with_default_timeout(mut self, timeout: Duration) -> Self {
        self.default_timeout = timeout;
        self
    }

    /// The longest pause before a call that failed is tried again. Default 60 s, as in the official runner.
    ///
    /// Between one second (which is what zero means) and ten minutes (which is what [`Duration::MAX`] means). A delay that the
    /// server asks for may be longer than this cap, but not longer than ten minutes.
    #[must_use]
    pub fn with_retry_cap(mut self, cap: Duration) -> Self {
        self.retry_cap = cap.clamp(Duration::from_secs(1), TOLD_DELAY_CAP);
        self
    }

    /// For how long a job is held on to while all that comes back is 404. Default one hour.
    ///
    /// GitLab itself never answers a job call with 404, but a box on the way may. Zero ends the job at the first 404,
    /// [`Duration::MAX`] never.
    #[must_use]
    pub fn with_not_found_patience(mut self, patience: Duration) -> Self {
        self.not_found_patience = patience;
        self
    }

    /// For how long a job is held on to while all that comes back is a 403 that GitLab has not written. Default one hour.
    ///
    /// Gateways, firewalls and login services answer 403 as well. GitLab's own 403 ends a job at once. Zero ends the job at the first
    /// foreign one, [`Duration::MAX`] never.
    #[must_use]
    pub fn with_forbidden_patience(mut self, patience: Duration) -> Self {
        self.forbidden_patience = patience;
        self
    }

    /// For how long a log that is refused holds back the result of a job that has ended, while other calls work. Default ten minutes.
    ///
    /// A front end that forbids `PATCH`, for instance, refuses each piece of a log. After this time
    /// [`JobEvent::TraceRefused`](crate::JobEvent::TraceRefused) says what is missing at GitLab, and the result is reported without a
    /// checksum. Where no answer comes, or one that asks to try again later, log and result wait as long as it takes. Zero gives the log
    /// up at the first refusal after the end, [`Duration::MAX`] never.
    #[must_use]
    pub fn with_log_patience(mut self, patience: Duration) -> Self {
        self.log_patience = patience;
        self
    }

    /// For how long a result is reported again while GitLab answers that it does not understand the report (400). Default ten minutes.
    ///
    /// After that the job ends as [`Outcome::Refused`](crate::Outcome::Refused). Zero means at the first such answer,
    /// [`Duration::MAX`] never.
    #[must_use]
    pub fn with_report_patience(mut self, patience: Duration) -> Self {
        self.report_patience = patience;
        self
    }

    /// How much of a log is kept in memory. Default [`Retain::All`].
    #[must_use]
    pub fn with_retain(mut self, retain: Retain) -> Self {
        self.retain = retain;
        self
    }

    /// What is done with the logs of jobs before they are sent. The default hides secrets.
    #[must_use]
    pub fn with_log(mut self, options: LogOptions) -> Self {
        self.log = options;
        self.announce_masking()
    }

    /// A runner whose logs are passed on raw does not mask, whatever else it says.
    fn announce_masking(mut self) -> Self {
        if self.log.is_raw() {
            self.info = self.info.clone().with_features(self.info.features().masking(false));
        }
        self
    }

    /// Whether jobs are handed out although parts of their `steps`, `run`, `variables`, `image` or `services` could not be
    /// read. Default no: a poller fails such a job with `runner_system_failure` and says in its log what is wrong.
    ///
    /// If you accept them, each says [`crate::JobEvent::PayloadDamaged`] before anything else.
    #[must_use]
    pub fn with_damaged_payloads(mut self, accept: bool) -> Self {
        self.damaged_payloads = accept;
        self
    }

    /// Whether the application saves jobs. Default no.
    ///
    /// If so, jobs say [`crate::JobEvent::Save`] when something must be saved, and send nothing that is not: see
    /// [`crate::manual::durability`].
    #[must_use]
    pub fn with_durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_into_one_form() {
        let rows = [
            ("https://gitlab.example.test", "https://gitlab.example.test"),
            ("https://gitlab.example.test///", "https://gitlab.example.test"),
            (" http://gitlab.example.test:8080/ci/ ", "http://gitlab.example.test:8080"),
            ("https://example.test/gitlab/", "https://example.test/gitlab"),
        ];
        for (given, form) in rows {
            assert_eq!(Server::parse(given).unwrap().as_str(), form, "{given}");
        }
        let uri = Server::parse("https://example.test/gitlab/").unwrap().api(format_args!("jobs/request"));
        assert_eq!(uri, "https://example.test/gitlab/api/v4/jobs/request");
    }

    #[test]
    fn addresses_that_cannot_work_are_refused() {
        type Row<'a> = (&'a str, fn(&ConfigError) -> bool);
        let too_long = &format!("https://gitlab.example.test/{}", "x".repeat(70_000));
        let rows: [Row<'_>; 7] = [
            ("gitlab.example.test", |e| matches!(e, ConfigError::Url(_))),
            ("ftp://gitlab.example.test", |e| matches!(e, ConfigError::Scheme)),
            ("file:///etc", |e| matches!(e, ConfigError::Scheme)),
            ("https://user:canary@gitlab.example.test", |e| matches!(e, ConfigError::UrlParts)),
            ("https://gitlab.example.test/?private_token=canary", |e| matches!(e, ConfigError::UrlParts)),
            ("", |e| matches!(e, ConfigError::Url(_))),
            (too_long, |e| matches!(e, ConfigError::Unusable)),
        ];
        for (given, fits) in rows {
            let error = Server::parse(given).unwrap_err();
            assert!(fits(&error) && !error.to_string().contains("canary"), "{given}: {error}");
        }
    }

    #[test]
    fn system_ids() {
        assert!(SystemId::new("s_0123456789ab").is_ok());
        for bad in ["", "a b", "ä", &"x".repeat(65)] {
            assert_eq!(SystemId::new(bad), Err(ConfigError::SystemId), "{bad}");
        }
    }
}
