//! Jobs that the Python package `gitlab_runner_api` saved, with `Job.dump` or `Job.dumps`.
//!
//! Its file is a JSON list: `[1, runner, payload, state, log]`, in which `runner` is a text that is a list itself:
//! `[1, api_url, id, token, data]`. The runner's token in there is not taken over.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::JobRecord;
use crate::api::job_spec::Assignment;
use crate::api::members::repair;
use crate::config::Server;
use crate::error::json_fault;
use crate::job::{JobResult, JobSnapshot};
use crate::snapshot::ResumeError;
use crate::status::FailureReason;

/// The only version there ever was.
const VERSION: u32 = 1;

impl JobRecord {
    /// Reads a job that the Python package `gitlab_runner_api` saved with `Job.dump` or `Job.dumps`.
    ///
    /// What the file cannot tell is learnt from GitLab, before anything is sent: it counts the log in characters, and how
    /// much of that arrived it does not say. A job that had its result is one whose result is still to be confirmed.
    ///
    /// # Errors
    ///
    /// [`ResumeError`] if the text is damaged or something else. It is never quoted: it holds tokens.
    pub fn from_python(text: &str) -> Result<Self, ResumeError> {
        let corrupt = |what: &str| ResumeError::Corrupt(what.to_owned());
        let members: Vec<&RawValue> = serde_json::from_str(text).map_err(damaged)?;
        match members.first().map(|first| serde_json::from_str(first.get())) {
            Some(Ok(VERSION)) => {}
            Some(Ok(found)) => return Err(ResumeError::Newer { found, known: VERSION }),
            _ => return Err(corrupt("this is no job of the Python package: it does not begin with a version")),
        }
        let [_, runner, payload, state, log] = members[..] else {
            return Err(corrupt("this is no job of the Python package: it has not five parts"));
        };
        // Python writes half a surrogate pair for a byte that is not UTF-8.
        let text = |raw: &RawValue| serde_json::from_str::<String>(&repair(raw.get().as_bytes()).0).map_err(damaged);
        let runner: PythonRunner = serde_json::from_str(&text(runner)?).map_err(damaged)?;
        let server = Server::parse(&runner.1).map_err(|_| corrupt("its address is none"))?;
        let payload = payload.get().to_owned();
        let assignment = Assignment::from_json(payload).map_err(|_| corrupt("its payload cannot be read"))?;
        let result = match text(state)?.as_str() {
            "running" => None,
            "success" => Some(JobResult::success()),
            // Which reason was given is not in the file. GitLab has it, if it has the result.
            "failed" => Some(JobResult::failed(FailureReason::UnknownFailure)),
            _ => return Err(corrupt("its state is neither running, success nor failed")),
        };
        let log = Bytes::from(text(log)?);
        let snapshot = JobSnapshot::of_another_client(assignment.id(), &log, result);
        Self::new(server, assignment, snapshot, 0, log)
    }
}

/// Version, address, and what a job does not need: id, token, data.
#[derive(Deserialize)]
struct PythonRunner(
    #[expect(dead_code, reason = "there is one version")] u32,
    String,
    IgnoredAny,
    IgnoredAny,
    IgnoredAny,
);

fn damaged(error: serde_json::Error) -> ResumeError {
    ResumeError::Corrupt(format!("this is no job of the Python package: {}", json_fault(&error)))
}
