//! The simulated GitLab as a server for runners in any language: what the program `simulated-gitlab` runs.
//!
//! Beside the API of GitLab there is one to steer it, below `/_sim/`, and a page at `/` for people who watch.
//!
//! | Request | Answer |
//! |---|---|
//! | `POST /_sim/jobs` | queues a job, `{"id": 4294967297}`. The body is a payload as GitLab sends it, or a short form: `name`, `script`, `after_script` (a line or a list), `variables`, `masked_variables` and `trigger_variables` (objects), `timeout` (seconds), `runner` (a number), `requires` (features), `tags`, `stage`, `branch`, `git_tag`, `merge_request` (`iid`, `source_branch`), `depth`, `registry` (a boolean), `dependencies` (names or numbers of jobs); members of the payload such as `artifacts` and `image` go into it as they are; another member is refused |
//! | `GET /_sim/jobs`, `GET /_sim/jobs/:id` | jobs: `id`, `name`, `status`, `failure_reason`, `exit_code`, `trace_bytes`, `trace_crc32`, `reported_checksum`, `reported_bytesize`, `artifacts`, `requests`, `retry_of` (the job in whose place it is) |
//! | `GET /_sim/jobs/:id/trace` | the log |
//! | `GET /_sim/jobs/:id/artifacts/:type` | a file that the job left |
//! | `POST /_sim/jobs/:id/cancel` | a user presses cancel; with `{"force": true}`, forces it. The job, as above |
//! | `GET /_sim/report` | all jobs, runners, requests and answers |

mod control;
mod faults;
mod page;

use std::io;
use std::net::SocketAddr;

use serde_json::Value;

pub use faults::{Fault, InvalidFault};

use crate::coordinator::{Coordinator, NewJob};
use crate::dice::Dice;
use crate::server::{Passage, Server};
use faults::Faults;

/// Serves GitLab's API, the one to steer it, and the page, at this address.
///
/// # Errors
///
/// If the operating system refuses the port, or a thread.
pub fn serve(coordinator: Coordinator, at: SocketAddr, faults: Vec<Fault>, seed: u64) -> io::Result<Server> {
    let mut faults = Faults::new(faults, Dice::new(seed));
    let door = move |gitlab: &mut Coordinator, now, request: &http::Request<bytes::Bytes>| {
        let path = request.uri().path();
        if let Some(rest) = path.strip_prefix("/_sim/") {
            return Passage::Answered(control::answer(gitlab, now, request, rest));
        }
        match page::answer(gitlab, path) {
            Some(page) => Passage::Answered(page),
            None => Passage::GitLab(faults.treat(request)),
        }
    };
    let server = Server::start_behind(coordinator, at, Box::new(door))?;
    let url = server.url();
    server.with(|gitlab, _| gitlab.settings_mut().external_url = url);
    Ok(server)
}

/// A job from the short form, or from a whole payload, as `POST /_sim/jobs` takes them.
///
/// # Errors
///
/// A sentence that says which member is not what it should be.
pub fn job(described: Value) -> Result<NewJob, String> {
    control::job(described)
}

/// Everything that happened, as `GET /_sim/report` tells it.
#[must_use]
pub fn report(gitlab: &Coordinator) -> Value {
    control::report(gitlab)
}
