//! What kind of GitLab is simulated.

use std::time::Duration;

/// How a patch is answered that repeats the end of the stored trace and adds nothing.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayRule {
    /// 202, as current servers answer. The bytes are not compared.
    TailRepeatAccepted,
    /// 416 like every other mismatch, as GitLab 11 answers.
    Strict416,
}

/// Whether the instance is down for maintenance.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maintenance {
    /// Requests are served.
    Off,
    /// Every request is answered with 503 and an HTML page.
    On,
    /// The same, with a `Retry-After` header of that many seconds.
    RetryAfter(u32),
}

/// A limit for the whole instance, as administrators configure it with Rack::Attack.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLimit {
    /// Sent as `RateLimit-Name`.
    pub name: String,
    /// So many requests are served per period.
    pub requests: u32,
    /// Length of the fixed window, at least one second.
    pub period: Duration,
    /// Requests with a valid token of a runner, of a job or of a user do not count.
    pub unauthenticated_only: bool,
}

impl HostLimit {
    /// A limit of `requests` per `period` for all requests, named like GitLab's throttle for API calls without a user.
    #[must_use]
    pub fn new(requests: u32, period: Duration) -> Self {
        Self { name: "throttle_unauthenticated_api".to_owned(), requests, period, unauthenticated_only: false }
    }

    /// GitLab's own throttle for API calls without a user: requests with the token of a runner, of a job or of a user do
    /// not count.
    #[must_use]
    pub fn unauthenticated(requests: u32, period: Duration) -> Self {
        Self { unauthenticated_only: true, ..Self::new(requests, period) }
    }
}

/// Settings and version quirks of the simulated instance.
///
/// [`Settings::default`] is a current GitLab without long polling and without incremental logging, the state of a
/// fresh installation. Everything may also be changed later, with [`Coordinator::settings_mut`].
///
/// ```
/// use gitlab_runner_api_testkit::{ReplayRule, Settings};
///
/// let old = Settings::default().with(|settings| settings.replay = ReplayRule::Strict416);
/// # assert_eq!(old.replay, ReplayRule::Strict416);
/// ```
///
/// [`Coordinator::settings_mut`]: crate::Coordinator::settings_mut
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Settings {
    /// A patch that ends at or beyond this many bytes fails the job with `trace_size_exceeded`. 100 MiB; `None` or 0: no limit.
    pub trace_size_limit: Option<u64>,
    /// The answer to a repeated end of the trace.
    pub replay: ReplayRule,
    /// Answers to patches ask for so many seconds between them, in place of 3 while somebody watches and 60 otherwise.
    pub trace_interval: Option<u32>,
    /// Occurrences of the job token in a patch are stored as `x`, so that no checksum of such a trace ever matches.
    pub mask_job_token: bool,

    /// Incremental logging: the trace needs this long to get from live to permanent storage, counted from the first
    /// final update or the last patch. Meanwhile final updates with a checksum are answered with 202. `None`: off.
    pub archive_delay: Option<Duration>,
    /// The 202 between one and two seconds after the first final update carries the interval `1/2`, not `1`.
    pub fractional_interval: bool,
    /// So many final updates with a checksum are still answered with 412; counts down.
    pub reject_checksum: u32,
    /// Answers to updates carry `Job-Status`. GitLab 13 did not send it.
    pub job_status_header_on_put: bool,

    /// Jobs are only lent to a runner that announces `two_phase_job_commit`, until it accepts them with an update to
    /// `running`.
    pub two_phase_commit: bool,
    /// A job that was lent and not accepted for so long fails with `runner_provisioning_timeout`. GitLab then retries it as a
    /// new job. Two minutes.
    pub acceptance_patience: Duration,
    /// So long the front proxy holds a job request whose `last_update` is current. `None`: not at all.
    pub long_poll: Option<Duration>,
    /// So many looks at the queue are still answered with 409; counts down.
    pub job_request_conflicts: u32,
    /// Job requests may announce a session server at a local address. If not, such a request is answered with 409 when
    /// there is a job for it, as on an instance with default settings.
    pub local_sessions_allowed: bool,
    /// So many jobs still fail with `scheduler_failure` when they are about to be handed out, because Gitaly does not
    /// answer; counts down.
    pub gitaly_failures: u32,
    /// Runners of the instance are switched on in the project of the jobs. If not, they get none.
    pub instance_runners_enabled: bool,
    /// The stored features of a runner manager are replaced only if they are at least this old. GitLab draws between 40
    /// and 55 minutes.
    pub feature_refresh: Duration,

    /// Job requests per minute and runner token; 0: no limit.
    pub job_request_limit: u32,
    /// Trace patches per minute and job token; 0: no limit.
    pub trace_limit: u32,
    /// Job updates per minute and job token; 0: no limit.
    pub job_limit: u32,
    /// A limit for requests from all clients together.
    pub host_limit: Option<HostLimit>,
    /// Runner endpoints answer 429 because of database migrations.
    pub migration_backoff: bool,
    /// The whole instance answers 503.
    pub maintenance: Maintenance,

    /// Registration with a registration token is allowed; if not, it is answered with 410.
    pub registration_allowed: bool,
    /// Users may create runners with a personal access token; if not, that is answered with 403.
    pub creation_allowed: bool,
    /// When runner tokens stop working, as GitLab writes it: `2027-01-11T14:39:24.000Z`. `None`: never. From then on they
    /// are answered with 403 everywhere.
    pub token_expires_at: Option<String>,
    /// Where the job router is. `None`: there is none, and the discovery is answered with 501.
    pub router_url: Option<String>,
    /// The key of the suspended environment that jobs go on in. `None`: 404.
    pub runtime_environment_key: Option<String>,
    /// An artifact of more than this many bytes is answered with 413. 100 MiB.
    pub artifact_size_limit: u64,
    /// Artifacts are switched on; if not, uploads are answered with 405.
    pub artifacts_enabled: bool,
    /// Object storage fails: uploads are answered with 503.
    pub object_storage_fails: bool,
    /// Object storage loses a file before GitLab looks for it: uploads are answered with 500 and `Missing file`.
    pub object_storage_loses_uploads: bool,
    /// A request to authorize an upload comes from GitLab's front proxy if its header `Gitlab-Workhorse-Api-Request` is this
    /// text, where GitLab expects a signed token. Another request is answered with 403, as all of them are if this is `None`.
    pub front_proxy_signature: Option<String>,
    /// Where artifacts are stored, such as `http://127.0.0.1:9000`. A download with `direct_download=true` is answered with
    /// 302 and an address there. The simulated GitLab serves such addresses itself, whatever their host is. `None`: there
    /// is no object storage, and downloads come from GitLab.
    pub object_storage: Option<String>,
    /// Uploads to another host than this one are answered with 307, as GitLab.com's edge answers runners in its own
    /// network: scheme, host and port, such as `http://localhost:8929`. `None`: uploads are taken.
    pub upload_redirect: Option<String>,
    /// A dotenv file must be smaller than this many bytes, compressed. 5 KiB.
    pub dotenv_size_limit: u64,
    /// A dotenv file may have so many variables. 20.
    pub dotenv_variable_limit: usize,
    /// An annotations file may have so many bytes, compressed. 80 KiB.
    pub annotations_size_limit: u64,
    /// An annotations file may have so many lists. 20.
    pub annotations_list_limit: usize,
    /// A verification is answered with the plain text `200`, as GitLab 13 did.
    pub verify_plain_text: bool,

    /// A running job without an update for so long is failed. One hour, or 30 minutes on instances with lowered limits.
    pub stuck_after: Duration,
    /// The token of a job is removed so long after the end of the job, by a background worker that usually runs within
    /// seconds. From then on calls with it are answered with 403 without `Job-Status`. `None`: it is kept.
    pub job_token_removed_after: Option<Duration>,
    /// The token of a job expires so long after the job's timeout. `None`: never.
    pub job_token_grace: Option<Duration>,
    /// The URL that payloads name as that of the instance, without a slash at the end. `simulated-gitlab` sets it to the
    /// address at which it serves.
    pub external_url: String,
    /// From so many running jobs on, payloads name this number with a `+` as the count of jobs on runners of the instance.
    pub running_jobs_bucket: usize,
    /// Requests are recorded, see [`Coordinator::requests`](crate::Coordinator::requests). `simulated-gitlab` records them.
    pub record_requests: bool,
    /// So many requests are recorded, the newest. `simulated-gitlab` keeps 10,000.
    pub kept_requests: usize,
    /// So many jobs that have ended are kept; the ones that ended first are dropped. A dropped job is unknown to all calls.
    /// `simulated-gitlab` keeps 1,000.
    pub kept_jobs: usize,
    /// So many bytes of the logs of jobs that have ended are kept; the logs of the jobs that ended first are dropped. Calls for
    /// a dropped log are answered with 404. `simulated-gitlab` keeps 256 MiB.
    pub kept_log_bytes: u64,
    /// So many bytes of the files of jobs that have ended are kept; the files of the jobs that ended first are dropped, but not
    /// those that another job still waits for. Calls for a dropped file are answered with 404. `simulated-gitlab` keeps 4 GiB.
    pub kept_artifact_bytes: u64,
    /// Number of the first job. Above 2^32, so that 32-bit clients fail.
    pub first_job_id: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            trace_size_limit: Some(100 << 20),
            replay: ReplayRule::TailRepeatAccepted,
            trace_interval: None,
            mask_job_token: true,
            archive_delay: None,
            fractional_interval: false,
            reject_checksum: 0,
            job_status_header_on_put: true,
            two_phase_commit: false,
            acceptance_patience: minutes(2),
            long_poll: None,
            job_request_conflicts: 0,
            local_sessions_allowed: false,
            gitaly_failures: 0,
            instance_runners_enabled: true,
            feature_refresh: minutes(55),
            job_request_limit: 2000,
            trace_limit: 200,
            job_limit: 200,
            host_limit: None,
            migration_backoff: false,
            maintenance: Maintenance::Off,
            registration_allowed: true,
            creation_allowed: true,
            token_expires_at: None,
            router_url: None,
            runtime_environment_key: None,
            artifact_size_limit: 100 << 20,
            artifacts_enabled: true,
            object_storage_fails: false,
            object_storage_loses_uploads: false,
            front_proxy_signature: None,
            object_storage: None,
            upload_redirect: None,
            dotenv_size_limit: 5 << 10,
            dotenv_variable_limit: 20,
            annotations_size_limit: 80 << 10,
            annotations_list_limit: 20,
            verify_plain_text: false,
            stuck_after: minutes(60),
            job_token_removed_after: None,
            job_token_grace: Some(minutes(5)),
            external_url: "https://gitlab.example.test".to_owned(),
            running_jobs_bucket: 1000,
            record_requests: false,
            kept_requests: usize::MAX,
            kept_jobs: usize::MAX,
            kept_log_bytes: u64::MAX,
            kept_artifact_bytes: u64::MAX,
            first_job_id: (1 << 32) + 1,
        }
    }
}

impl Settings {
    /// These settings with a change applied.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

pub(super) const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}
