//! What an answer to a job request means. Pure; its specification is the table in [`crate::manual::protocol`].

use std::fmt;

use bytes::Bytes;
use http::{Response, StatusCode};

use crate::api::Endpoint;
use crate::api::job_spec::Assignment;
use crate::api::request_job::{JobRequestAnswer, RequestJob};
use crate::error::{CallError, ProtocolError};
use crate::headers;

#[derive(Debug)]
pub(super) enum Verdict {
    /// 201 with a job, of which perhaps not all can be read, or nothing but id and token.
    Job(Assignment),
    /// 201, of which nothing can be read.
    Lost(ProtocolError),
    /// 204.
    None,
    /// 409.
    Conflict,
    /// 403, 422.
    Refused(Refusal),
    /// 200, 3xx, and the 4xx that GitLab does not answer with here.
    Misconfigured(Refusal),
    /// 429, 503, and 5xx that mean neither.
    Unavailable,
    /// 408, 500, 502, 504: the same, and a job may have been handed out.
    Uncertain,
}

/// What was said instead of a job, and what to check. `Display` is one sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// What the server said.
    pub error: CallError,
    /// What to check.
    pub advice: &'static str,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.error, self.advice)
    }
}

impl std::error::Error for Refusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

pub(super) fn verdict(request: &RequestJob, response: &Response<Bytes>) -> Verdict {
    let error = match request.decode(response) {
        Ok(JobRequestAnswer::Job(assignment)) => return Verdict::Job(assignment),
        Ok(JobRequestAnswer::None { .. }) => return Verdict::None,
        Ok(JobRequestAnswer::Conflict) => return Verdict::Conflict,
        Err(error) => error,
    };
    let status = response.status();
    match (status, error) {
        (StatusCode::CREATED, CallError::Protocol(error)) => match Assignment::salvage(response.body().clone()) {
            Some(assignment) => Verdict::Job(assignment),
            None => Verdict::Lost(error),
        },
        (StatusCode::FORBIDDEN | StatusCode::UNPROCESSABLE_ENTITY, error) => {
            Verdict::Refused(Refusal { error, advice: advice(status) })
        }
        (status, _) if headers::may_have_been_carried_out(status) => Verdict::Uncertain,
        (StatusCode::TOO_MANY_REQUESTS, _) => Verdict::Unavailable,
        (status, _) if status.is_server_error() => Verdict::Unavailable,
        (status, error) => Verdict::Misconfigured(Refusal { error, advice: advice(status) }),
    }
}

fn advice(status: StatusCode) -> &'static str {
    match status.as_u16() {
        403 => "check that the runner still exists in GitLab and that its token has not expired or been reset",
        422 => "the runner belongs to no project any more; assign it to one in GitLab",
        400 => "the request was not understood; check that nothing on the way changes it",
        401 | 407 => "a proxy wants credentials; check the way to GitLab",
        404 | 405 => "check the address of the GitLab instance, and its relative URL root if it has one",
        413 => "the request is too large for the front end; give the runner fewer or shorter labels",
        300..400 => "the address must be that of the GitLab instance itself",
        _ => "check that the address is that of a GitLab instance, and what answers in its place",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::info::Info;
    use crate::config::{RunnerConfig, Server};
    use crate::secret::RunnerToken;

    fn word(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Job(_) => "assigned",
            Verdict::Lost(_) => "lost",
            Verdict::None => "none",
            Verdict::Conflict => "conflict",
            Verdict::Refused(_) => "refused",
            Verdict::Misconfigured(_) => "misconfigured",
            Verdict::Unavailable => "unavailable",
            Verdict::Uncertain => "unavailable, uncertain",
        }
    }

    #[test]
    fn the_manual_and_the_code_agree_on_every_row() {
        let config = RunnerConfig::new(Server::parse("https://gitlab.example.test").unwrap(), Info::new("t", "1"));
        let request = RequestJob::new(RunnerToken::new("t").unwrap(), &config);
        let rows = include_str!("../manual/job_requests.md").lines().filter(|line| line.starts_with("| ")).skip(1);
        let mut checked = 0;
        for row in rows {
            let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
            let bodies: &[&str] = match cells[1] {
                "a job" => &[r#"{"id":1,"token":"t"}"#],
                "a job with members that cannot be read" => &[
                    r#"{"id":1,"token":"t","steps":3}"#,
                    r#"{"id":1,"token":"t","cache":[null],"moon":1e400,"moon":"\ud800"}"#,
                ],
                "no JSON, in which an id and a token can be found" => &[r#"{"id":1,"token":"t","steps":[{"na"#],
                "anything else" => &["", "<html>", "{}", r#"{"id":1}"#, "201"],
                "any" => &["", "<html>", r#"{"message":"no"}"#, r#"{"id":1,"token":"t"}"#],
                other => panic!("the table has a body this test does not know: {other}"),
            };
            for status in cells[0].split(", ") {
                for body in bodies {
                    let response = Response::builder().status(status).body(Bytes::from(*body)).unwrap();
                    assert_eq!(word(&verdict(&request, &response)), cells[2], "{status} {body:?}");
                    checked += 1;
                }
            }
        }
        assert!(checked > 60, "{checked}");
    }
}
