//! The simulated GitLab as a server for runners in any language: what the program `simulated-gitlab` runs.
//!
//! Besides the API of GitLab, it serves a control API below `/_sim/`, and a page at `/` that shows the jobs.
//!
#![doc = include_str!("sim/page/picture.md")]
//!
//! Requests that change something below `/_sim/` need the header `Control-Token`, with the `control_token` that the program prints
//! at its start. The page has buttons after `/?control_token=…` was opened, which gives the browser a cookie. Requests of pages of
//! other sites are refused, and so are requests whose `Host` is not an address of this host. Below `/_sim/`, a query is refused, and so is
//! the body of a `POST` or `PATCH` with a member that the request does not know.
//!
//! The server may be below a path, speak TLS, and serve a git repository that jobs are about: see [`Options`]. All addresses in
//! payloads and answers are then those of this server. The paths below are relative to its URL. Other paths are answered with 404.
//!
//! To run for a long time in bounded memory, the program drops the oldest data: logs of jobs that have ended beyond 256 MiB, their files beyond 4 GiB,
//! the jobs themselves beyond 1,000, and the record of requests beyond 10,000. The settings `kept_log_bytes`,
//! `kept_artifact_bytes`, `kept_jobs` and `kept_requests` change that. A job, a log or a file that was dropped is answered with 404
//! and a sentence. A runner manager that was not heard of for a week is removed, as in GitLab. Jobs that have not ended, with their
//! logs and files, runners, users and registration tokens stay until somebody ends or removes them.
//!
//! | Request | Answer |
//! |---|---|
//! | `POST /_sim/jobs` | queues a job, `{"id": 4294967297}`. The body is a payload as GitLab sends it, or a short form: `name`, `script`, `after_script` (a line or a list), `variables`, `masked_variables` and `trigger_variables` (objects), `timeout` (seconds), `runner` (a number), `system_id` (of the only manager that gets it), `requires` (features), `tags`, `stage`, `branch`, `git_tag`, `merge_request` (`iid`, `source_branch`), `depth`, `registry` (a boolean), `dependencies` (names or numbers of jobs), `allow_failure` (a boolean), `allow_failure_exit_codes`, `environment` (a name, or `name`, `action`, `tier`, `url`), `user_role` (of the user in whose name the job runs, as below; the job of a `stranger` may download no artifacts); members of the payload such as `artifacts` and `image` go into it as they are; another member is refused |
//! | `GET /_sim/jobs`, `GET /_sim/jobs/:id` | jobs: among others `id`, `name`, `status`, `failure_reason`, `exit_code`, `trace_bytes`, `trace_crc32`, `reported_checksum`, `final_updates`, `history`, `artifacts`, `requests`, `retry_of` (the job in whose place it is) |
//! | `GET /_sim/jobs/:id/trace` | the log |
//! | `GET /_sim/jobs/:id/artifacts/:type` | a file that the job left |
//! | `GET /_sim/jobs/:id/token` | the token of the job, also while it is pending |
//! | `POST /_sim/jobs/:id/cancel` | a user presses cancel; with `{"force": true}`, forces it. The job, as above |
//! | `POST /_sim/jobs/:id/retry` | a user retries a job that has ended; the new job, as above |
//! | `POST /_sim/jobs/:id/ACTION` | something happens to the job; the job, as above. `watch` (`watched`: a boolean): somebody looks at the log, and runners are asked for it more often. `erase`, `delete_project`: its files are deleted, and calls are answered with 403. `lock` and `lock_log` (`seconds`): the record or the log is locked, calls are answered with 409. `lose_log` (`keep`: bytes): the rest of the log is lost, the next piece is answered with 416. `revoke_token`: calls with the token of the job are answered with 403. `expire_token` (`seconds`): the same from then on, and the job fails |
//! | `GET /_sim/runners`, `GET /_sim/runners/:id` | runners: `id`, `token`, `attributes`, `managers` (with `info`, `features` and `contacted_at`) |
//! | `POST /_sim/runners`, `PATCH /_sim/runners/:id` | makes a runner, with `token` and attributes if they are given, or changes attributes of one: `description`, `paused`, `locked`, `run_untagged`, `tag_list`, `access_level`, `maximum_timeout`, `maintenance_note`, `runner_type`; the runner, as above |
//! | `POST /_sim/runners/:id/ACTION` | something happens to the runner; the runner, as above. `pause`, `unpause`; `reset_token`: it gets a new token, the old one is refused; `expire_token` (`seconds`): its token expires; `orphan`: its group or project is deleted |
//! | `DELETE /_sim/runners/:id`, `DELETE /_sim/runners/:id/managers/:system_id` | the runner or one of its managers is removed |
//! | `POST /_sim/users` | adds a user: `token`, `role` (`stranger`, `guest`, `developer`, `maintainer`, `owner`, `administrator`), `scopes` |
//! | `POST /_sim/registration_tokens` | adds a registration token: `token`, `runner_type`, `allowed`, `tokens_enabled`, `runner_limit` |
//! | `GET /_sim/settings`, `PATCH /_sim/settings` | the settings of the instance; times are seconds. A `PATCH` changes those that it names |
//! | `GET /_sim/faults`, `POST /_sim/faults`, `DELETE /_sim/faults` | the faults that are on, as `--fault` takes them; adds one, `{"fault": "503:patch:3"}`; switches all off |
//! | `GET /_sim/requests`, `DELETE /_sim/requests` | the requests to GitLab in their order: `at`, `method`, `path`, `status`, `changes`; forgets them. A request that a fault kept from GitLab is missing |
//! | `GET /_sim/time`, `POST /_sim/time` | the time of the simulation, `{"now": 1700000040.0}`; lets time pass, `{"advance": 3600}` |
//! | `GET /_sim/health` | `{"status": "ok"}` once the program serves |
//! | `GET /acme/widgets.git/…` | with `--repository`: the git repository, for `git clone` with the `repo_url` of a job that runs. The user is `gitlab-ci-token`, the password is the token of the job; else the answer is 401 |
//! | `GET /_sim/report` | all jobs, runners, requests and answers |
//! | `GET /_sim/openapi.json` | this table and the API for users as an OpenAPI document, [`OPENAPI`] |
//!
//! A test also uses GitLab's own API for users, with the access token that the program prints. There is one project, with
//! the number 4242 and the path `acme/widgets`. The roles of users, the scopes of tokens and the pages of lists are GitLab's.
//!
//! | Request below `/api/v4/` | Answer |
//! |---|---|
//! | `GET projects/:id`, `GET projects/:id/jobs`, `GET projects/:id/jobs/:job_id` | the project, its jobs, a job |
//! | `GET projects/:id/jobs/:job_id/trace`, `GET projects/:id/jobs/:job_id/artifacts` | the log; the archive, or the file of the type in `file_type` |
//! | `POST projects/:id/jobs/:job_id/cancel`, `…/retry`, `…/erase` | cancels a job, with `force` also one that is `canceling`; queues it again; removes its log and files |
//! | `GET runners`, `GET runners/all`, `GET projects/:id/runners` | the runners that the user owns, all runners, those that the project can use |
//! | `GET runners/:id`, `PUT runners/:id`, `DELETE runners/:id` | a runner; changes it, such as `paused`; deletes it |
//! | `GET runners/:id/managers`, `GET runners/:id/jobs` | the managers of a runner, and the jobs that it got |

mod control;
mod describe;
mod faults;
mod git;
mod guard;
mod openapi;
mod page;
mod settings;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use gitlab_runner_api::Timestamp;
use http::request::Parts;
use http::{Request, Response};
use serde_json::{Map, Value};

pub use faults::{Fault, InvalidFault};
pub use openapi::OPENAPI;

pub use crate::repository::Repository;
pub use crate::server::{InvalidRoot, Root};

use crate::content::Content;
use crate::coordinator::{Coordinator, NewJob, Settings};
use crate::dice::Dice;
use crate::server::{self, Clock, Handling, Later, Listen, RequestFilter, Server};
#[cfg(feature = "tls")]
use crate::tls::Identity;
use crate::treatment::Treatment;
use faults::Faults;
use guard::Guard;

/// How much the program keeps, if the settings do not keep less.
const KEPT_JOBS: usize = 1000;
const KEPT_REQUESTS: usize = 10_000;
const KEPT_LOG_BYTES: u64 = 256 << 20;
const KEPT_ARTIFACT_BYTES: u64 = 4 << 30;

/// How a simulated GitLab is served.
///
/// ```
/// use gitlab_runner_api_testkit::{Coordinator, Settings, sim};
///
/// let options = sim::Options::new("a-secret").with_fault("503:patch:1".parse()?);
/// let server = sim::serve(Coordinator::new(Settings::default()), options)?;
/// println!("{} is open to whoever has the secret", server.url());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Options {
    address: SocketAddr,
    root: Root,
    #[cfg(feature = "tls")]
    tls: bool,
    repository: Option<Repository>,
    control_token: String,
    hosts: Vec<String>,
    remote: bool,
    faults: Vec<Fault>,
    seed: u64,
    start: Option<Timestamp>,
}

impl Options {
    /// A free port of the loopback interface, no faults, and this token for requests that steer the simulation.
    #[must_use]
    pub fn new(control_token: impl Into<String>) -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            root: Root::default(),
            #[cfg(feature = "tls")]
            tls: false,
            repository: None,
            control_token: control_token.into(),
            hosts: Vec::new(),
            remote: false,
            faults: Vec::new(),
            seed: 0,
            start: None,
        }
    }

    /// Serves at this address.
    #[must_use]
    pub fn with_address(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// Serves below this path only. Default: at the root of the address.
    #[must_use]
    pub fn with_root(mut self, root: Root) -> Self {
        self.root = root;
        self
    }

    /// Speaks TLS, with a certificate that is made for this server: for `localhost`, `127.0.0.1`, `::1`, the address, and the
    /// names of [`with_host`](Self::with_host). Clients must trust [`Server::ca`].
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Serves this repository at the `repo_url` of jobs, to those who have the token of a job that runs. Jobs are about the
    /// commit that their branch or tag has when they are queued. A job for a branch or a tag that the repository does not have
    /// is about a commit that does not exist; `POST /_sim/jobs` refuses it.
    #[must_use]
    pub fn with_repository(mut self, repository: Repository) -> Self {
        self.repository = Some(repository);
        self
    }

    /// Serves requests to this host name, besides those to addresses and to `localhost`. If the server listens at all
    /// addresses of the machine, the first name is the one in its URL.
    #[must_use]
    pub fn with_host(mut self, name: impl Into<String>) -> Self {
        self.hosts.push(name.into());
        self
    }

    /// Allows an address that other hosts can reach. Without this, such an address is refused.
    #[must_use]
    pub fn with_remote(mut self) -> Self {
        self.remote = true;
        self
    }

    /// Adds a fault that is on from the beginning.
    #[must_use]
    pub fn with_fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// Sets the seed of the random numbers that decide which requests a fault such as `503:patch:10%` applies to. Default 0.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Lets time begin at `start`, and pass only by `POST /_sim/time` and [`Server::advance`].
    #[must_use]
    pub fn with_virtual_time(mut self, start: Timestamp) -> Self {
        self.start = Some(start);
        self
    }
}

/// Serves GitLab's API, the control API, and the page.
///
/// # Errors
///
/// If other hosts can reach the address and [`Options::with_remote`] was not called; if the operating system refuses the port,
/// or a thread; if a host name cannot stand in a certificate.
pub fn serve(mut coordinator: Coordinator, options: Options) -> io::Result<Server> {
    #[cfg(feature = "tls")]
    let identity = if options.tls { Some(identity(&options)?) } else { None };
    let Options { address, root, repository, control_token, hosts, remote, faults, seed, start, .. } = options;
    if !remote && !address.ip().is_loopback() {
        let why = format!("other machines can reach {address}; the option --allow-remote allows that");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    if let Some(repository) = repository {
        coordinator.set_repository(repository);
    }
    let listen = Listen {
        root: root.clone(),
        name: hosts.first().cloned(),
        #[cfg(feature = "tls")]
        identity,
        ..Listen::at(address)
    };
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why);
    let guard = Guard::new(control_token, hosts, remote);
    let guard = guard.ok_or_else(|| invalid("the control token has letters, digits, -, _, . and ~, at least one"))?;
    let filter = SimFilter { guard, root, faults: Faults::new(faults, Dice::new(seed)) };
    let clock = start.map_or_else(Clock::start, Clock::standing_at);
    let server = Server::start_with_filter(coordinator, listen, Box::new(filter), clock)?;
    let url = server.url();
    server.with(|gitlab, _| {
        let settings = gitlab.settings_mut();
        settings.external_url = url;
        settings.record_requests = true;
        settings.kept_jobs = settings.kept_jobs.min(KEPT_JOBS);
        settings.kept_requests = settings.kept_requests.min(KEPT_REQUESTS);
        settings.kept_log_bytes = settings.kept_log_bytes.min(KEPT_LOG_BYTES);
        settings.kept_artifact_bytes = settings.kept_artifact_bytes.min(KEPT_ARTIFACT_BYTES);
    });
    Ok(server)
}

/// Sees each request before GitLab does: the guard, the control API, the repository, the page and the faults.
struct SimFilter {
    guard: Guard,
    root: Root,
    faults: Faults,
}

impl RequestFilter for SimFilter {
    fn refuse(&self, head: &Parts) -> Option<Response<Content>> {
        let checked = self.guard.check_source(head).and_then(|()| {
            let is_control = head.uri.path().starts_with(control::BELOW);
            if is_control { self.guard.check_change(&head.method, &head.headers) } else { Ok(()) }
        });
        checked.err().map(|refusal| guard::protect(control::refused(refusal)))
    }

    fn handle(&mut self, gitlab: &mut Coordinator, now: Timestamp, request: &Request<Bytes>) -> Handling {
        self.decide(gitlab, now, request).map(guard::protect)
    }
}

impl SimFilter {
    fn decide(&mut self, gitlab: &mut Coordinator, now: Timestamp, request: &Request<Bytes>) -> Handling {
        let path = request.uri().path();
        if path.starts_with(control::BELOW) {
            gitlab.advance(now);
            return control::answer(gitlab, &mut self.faults, now, request);
        }
        if let Some(handling) = git::answer(gitlab, now, request) {
            return handling;
        }
        match page::answer(gitlab, &self.guard, &self.root, now, request) {
            Some(page) => Handling::Later(Later::new(move || page.response().map(Content::from))),
            None if has_other_root(path) => Handling::Answered(server::outside(path)),
            // Faults are for runners, not for the test that watches them.
            None if Coordinator::is_for_users(request) => Handling::GitLab(Treatment::Deliver),
            None => Handling::GitLab(self.faults.treat(request)),
        }
    }
}

/// Whether this is a path of the API of a GitLab at another root. [`Coordinator`] takes it for its own.
fn has_other_root(path: &str) -> bool {
    let apis = ["/api/v3/", "/api/v4/"];
    apis.iter().any(|api| path.contains(api)) && !apis.iter().any(|api| path.starts_with(api))
}

/// A certificate for all names by which clients may call the server.
#[cfg(feature = "tls")]
fn identity(options: &Options) -> io::Result<Identity> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    let address = options.address.ip().to_string();
    for name in [address].iter().chain(&options.hosts) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    Identity::make(names)
}

/// A job from the short form, or from a whole payload, as `POST /_sim/jobs` takes them.
///
/// # Errors
///
/// A sentence that says which member is not what it should be.
pub fn job(described: Value) -> Result<NewJob, String> {
    describe::job(described)
}

/// Changes settings by their names, or none of them, as `PATCH /_sim/settings` does. Times are seconds.
///
/// # Errors
///
/// A sentence that names the setting that does not exist, or whose value is not what it should be.
pub fn change_settings(settings: &mut Settings, changes: &Map<String, Value>) -> Result<(), String> {
    settings::change(settings, changes)
}

/// Returns everything that happened, as `GET /_sim/report` does.
#[must_use]
pub fn report(gitlab: &Coordinator) -> Value {
    control::report(gitlab)
}

#[cfg(test)]
mod tests;
