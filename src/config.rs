//! The configuration of a runner: one value, shared by all its state machines.

use std::fmt;
use std::time::Duration;

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::api::info::Info;
use crate::api::job_spec::Assignment;
use crate::error::ConfigError;
use crate::headers::TOLD_DELAY_CAP;
use crate::identity::StreamCounter;
use crate::log::LogOptions;
use crate::time::Timestamp;

/// How often logs are sent before GitLab says how often it wants them.
pub(crate) const DEFAULT_UPDATE_INTERVAL: Duration = Duration::from_secs(3);

/// How long a poller waits after an answer without a job, as in the official runner.
const DEFAULT_CHECK_INTERVAL: Duration = Duration::from_secs(3);

/// The time without an answer after which a keep-alive is sent, as in the official runner.
const DEFAULT_KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The longest time between two keep-alives. GitLab may end a job as stuck after 15 minutes without one, so two of them may fail.
const LONGEST_KEEP_ALIVE: Duration = Duration::from_secs(300);

/// The shortest interval. Timestamps have whole milliseconds, so a shorter interval would be zero.
const SHORTEST: Duration = Duration::from_millis(1);

/// The address of a GitLab instance, checked and brought into one form.
///
/// Trailing slashes are removed, and so is one trailing `/ci`, which very old documentation of GitLab asked for. A relative
/// URL root, such as `/gitlab`, is kept. Calls go to `/api/v4/` below this address.
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

/// The system ID: it names one host among the hosts that share a runner token.
///
/// GitLab lists one *runner manager* for each system ID. Make the ID once for each host and store it. Otherwise each new ID
/// adds a runner manager to GitLab's list. The official runner uses `s_` or `r_`, followed by twelve letters or digits.
/// GitLab accepts up to 64 characters.
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
    /// Only what GitLab has not acknowledged. A [durable](RunnerConfig::with_durable) job also releases saved bytes that wait to be sent,
    /// if they are more than 256 KiB. Earlier bytes may be needed after a resume, or if GitLab loses a part of the log.
    /// [`crate::JobEvent::TraceNeeded`] then asks the application for them.
    Unacknowledged,
    /// Only what GitLab has not acknowledged or the application has not saved. An application that is not
    /// [durable](RunnerConfig::with_durable) uses this to move the logs of running jobs from memory to files: whenever
    /// [`crate::Job::unsaved_backlog`] is large, it appends [`crate::Job::unsaved`] to a file and calls [`crate::Job::saved`]. Nothing
    /// waits for that. If saved bytes are needed again, [`crate::JobEvent::TraceNeeded`] asks for them; that also happens when more
    /// than 6 MiB that were saved wait to be sent.
    Unsaved,
}

/// The configuration that all state machines of a runner share, usually in an [`Arc`](std::sync::Arc). It holds no token.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use gitlab_runner_api::api::info::{Features, Info};
/// use gitlab_runner_api::{Retain, RunnerConfig, Server};
///
/// let info = Info::new("my-runner", "1.0").with_features(Features::default().cancel_gracefully(true));
/// let config = RunnerConfig::new(Server::parse("https://gitlab.example.com/gitlab")?, info)
///     .with_keep_alive(Duration::from_secs(60))
///     // Jobs are saved before they send anything, and hold in memory only what GitLab has not acknowledged.
///     .with_durable(true)
///     .with_retain(Retain::Unacknowledged);
/// let config = Arc::new(config);
/// # Ok::<(), gitlab_runner_api::ConfigError>(())
/// ```
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
    /// Returns a configuration for a runner of `server`, with the defaults of the official runner.
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

    /// The GitLab instance that the runner belongs to.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// What the runner tells GitLab about itself.
    #[must_use]
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Replaces what the runner tells GitLab about itself.
    #[must_use]
    pub fn with_info(mut self, info: Info) -> Self {
        self.user_agent = info.user_agent();
        self.info = info;
        self.announce_masking()
    }

    /// Sets the system ID of this host. By default none is sent.
    #[must_use]
    pub fn with_system_id(mut self, id: SystemId) -> Self {
        self.system_id = Some(id);
        self
    }

    /// Seeds jitter and correlation ids. Default 0. Use a random number from the operating system, or a fixed one in a test.
    ///
    /// Each state machine has a random stream of its own. The stream depends on the seed, and on how many state machines were made
    /// before from this configuration and its clones. If seed, order of creation and inputs are the same, the requests are the
    /// same, byte for byte. A replay must therefore start with a new configuration.
    #[must_use]
    pub fn with_jitter_seed(mut self, seed: u64) -> Self {
        self.jitter_seed = seed;
        self
    }

    /// Sets when the runner's token should be replaced. Default never.
    ///
    /// After this time a poller reports [`crate::PollerEvent::RotationDue`] once. Use
    /// [`crate::api::reset_token::rotation_due`] to choose the time.
    #[must_use]
    pub fn with_rotation_due(mut self, at: Option<Timestamp>) -> Self {
        self.rotation_due = at;
        self
    }

    /// The pause after an answer without a job. Default 3 s, as in the official runner.
    ///
    /// A server with long polling holds the request back while there is no job; this pause then comes on top. Zero means the
    /// default, as in the official runner's configuration. [`Duration::MAX`] asks once and never again.
    #[must_use]
    pub fn with_check_interval(mut self, interval: Duration) -> Self {
        self.check_interval = if interval.is_zero() { DEFAULT_CHECK_INTERVAL } else { interval.max(SHORTEST) };
        self
    }

    /// How long a job request may take. Default 10 minutes.
    ///
    /// It must be longer than the time for which the server holds a request back (long polling, usually 50 s). If a request is
    /// cut short, the job in its answer can be lost.
    #[must_use]
    pub fn with_job_request_deadline(mut self, deadline: Duration) -> Self {
        self.job_request_deadline = deadline;
        self
    }

    /// The shortest time between two pieces of log. Default 3 s, and zero means the default. It applies until GitLab names an
    /// interval of its own.
    ///
    /// With [`Duration::MAX`], a piece is sent only when it is full or the job ends.
    #[must_use]
    pub fn with_update_interval(mut self, interval: Duration) -> Self {
        self.update_interval = if interval.is_zero() { DEFAULT_UPDATE_INTERVAL } else { interval.max(SHORTEST) };
        self
    }

    /// The longest time without an answer from GitLab before a keep-alive is sent. Default 30 s, as in the official runner.
    ///
    /// A keep-alive tells GitLab that the job is alive, and its answer tells whether the job was cancelled. Zero means the default.
    /// Longer times than five minutes, and [`Duration::MAX`], mean five minutes, because GitLab may declare a job stuck that was
    /// silent for 15.
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

    /// The timeout of a job for which GitLab names none. Default two hours.
    #[must_use]
    pub fn with_default_timeout(mut self, timeout: Duration) -> Self {
        self.default_timeout = timeout;
        self
    }

    /// The longest pause before a call that failed is tried again. Default 60 s, as in the official runner.
    ///
    /// Zero means one second, the shortest cap. [`Duration::MAX`] means ten minutes, the longest. If the server asks for a longer
    /// delay than this cap, the job waits that long, but at most ten minutes.
    #[must_use]
    pub fn with_retry_cap(mut self, cap: Duration) -> Self {
        self.retry_cap = cap.clamp(Duration::from_secs(1), TOLD_DELAY_CAP);
        self
    }

    /// How long a job goes on while every answer is a 404. Default one hour.
    ///
    /// GitLab itself never answers a job call with 404, but a proxy may. Zero ends the job at the first 404.
    /// [`Duration::MAX`] never ends it for that reason.
    #[must_use]
    pub fn with_not_found_patience(mut self, patience: Duration) -> Self {
        self.not_found_patience = patience;
        self
    }

    /// How long a job goes on while every answer is a 403 that GitLab has not written. Default one hour.
    ///
    /// Gateways, firewalls and login services answer 403 as well. GitLab's own 403 ends a job at once, whatever is set here. Zero
    /// ends the job at the first foreign 403. [`Duration::MAX`] never ends it for that reason.
    #[must_use]
    pub fn with_forbidden_patience(mut self, patience: Duration) -> Self {
        self.forbidden_patience = patience;
        self
    }

    /// How long the result of a job waits for a log that is refused while other calls work. Default ten minutes.
    /// The time counts from the end of the job, or from the first refusal if that is later.
    ///
    /// A front end that forbids `PATCH`, for example, refuses every piece of a log. After this time
    /// [`JobEvent::TraceRefused`](crate::JobEvent::TraceRefused) says what GitLab does not have, and the result is reported without
    /// a checksum. This does not apply if there is no answer, or one that asks to try again later: log and result then wait as long
    /// as it takes. Zero gives the log up at the first refusal after the job has ended. [`Duration::MAX`] never gives it up.
    #[must_use]
    pub fn with_log_patience(mut self, patience: Duration) -> Self {
        self.log_patience = patience;
        self
    }

    /// How long a result is reported again while GitLab answers that it does not understand the report (400). Default ten minutes.
    ///
    /// After that the job ends as [`Outcome::Refused`](crate::Outcome::Refused). Zero ends it at the first such answer.
    /// [`Duration::MAX`] never ends it for that reason.
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

    /// Sets what is done with the logs of jobs before they are sent. The default hides secrets.
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

    /// Whether damaged jobs may run: those for which a part of `steps`, `run`, `variables`, `image` or `services` could
    /// not be read. Default no: such a job fails by itself with `runner_system_failure`, and its log says what is wrong.
    ///
    /// If you accept them, each of these jobs reports [`crate::JobEvent::PayloadDamaged`] before anything else.
    #[must_use]
    pub fn with_damaged_payloads(mut self, accept: bool) -> Self {
        self.damaged_payloads = accept;
        self
    }

    /// Whether a job with this payload fails by itself, see [`RunnerConfig::with_damaged_payloads`].
    #[must_use]
    pub fn refuses(&self, assignment: &Assignment) -> bool {
        assignment.is_damaged() && !self.damaged_payloads
    }

    /// Whether the application saves jobs. Default no.
    ///
    /// If it does, a job reports [`crate::JobEvent::Save`] when something must be saved, and sends nothing before that is saved.
    /// See [`crate::manual::durability`].
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
