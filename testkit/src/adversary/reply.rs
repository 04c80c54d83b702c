//! What may come back.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::Failure;
use http::Response;

/// The body of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Body {
    /// What GitLab writes with this status.
    GitLab,
    /// JSON that is not GitLab's.
    Foreign,
    /// A page.
    Html,
    /// Nothing.
    Empty,
}

/// The `Range` of an answer to a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Range {
    /// None.
    Missing,
    /// Where the patch began.
    Start,
    /// One byte short of where it ended.
    OneShort,
    /// The start of the log.
    Zero,
    /// The middle of what was sent.
    Middle,
    /// Five bytes behind all that was sent.
    Beyond,
}

/// What comes back for one call: an answer, a failure, or nothing at all.
#[derive(Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a tester wants to see all of it")]
pub enum Reply {
    /// What GitLab would say.
    Honest,
    /// GitLab takes the call, and its answer is lost.
    AnswerLost(Failure),
    /// The call never arrives.
    Fails(Failure),
    /// Nothing comes back, and the driver is too broken to notice.
    Never,
    /// Somebody writes this answer.
    Says {
        /// The status.
        status: u16,
        /// The body.
        body: Body,
        /// `Job-Status`, if not empty.
        job_status: &'static str,
        /// `Range`.
        range: Range,
        /// `Retry-After`, in seconds, if not zero.
        retry_after: u32,
        /// `X-GitLab-Trace-Update-Interval`, in seconds, if not zero.
        interval: u32,
        /// Whether it names the limit of the host.
        names_limit: bool,
    },
}

impl Reply {
    /// What GitLab would say.
    #[must_use]
    pub const fn honest() -> Self {
        Self::Honest
    }

    /// An answer with this status and body, and nothing else.
    #[must_use]
    pub const fn status(status: u16, body: Body) -> Self {
        let (range, retry_after, interval) = (Range::Missing, 0, 0);
        Self::Says { status, body, job_status: "", range, retry_after, interval, names_limit: false }
    }

    /// The same with a `Job-Status`.
    #[must_use]
    pub const fn with_job_status(self, word: &'static str) -> Self {
        match self {
            Self::Says { status, body, range, retry_after, interval, names_limit, .. } => {
                Self::Says { status, body, job_status: word, range, retry_after, interval, names_limit }
            }
            other => other,
        }
    }

    const fn with_range(self, to: Range) -> Self {
        match self {
            Self::Says { status, body, job_status, retry_after, interval, names_limit, .. } => {
                Self::Says { status, body, job_status, range: to, retry_after, interval, names_limit }
            }
            other => other,
        }
    }

    const fn with_told(self, seconds: u32, limit: bool) -> Self {
        match self {
            Self::Says { status, body, job_status, range, interval, .. } => {
                Self::Says { status, body, job_status, range, retry_after: seconds, interval, names_limit: limit }
            }
            other => other,
        }
    }

    const fn with_interval(self, seconds: u32) -> Self {
        match self {
            Self::Says { status, body, job_status, range, retry_after, names_limit, .. } => {
                Self::Says { status, body, job_status, range, retry_after, interval: seconds, names_limit }
            }
            other => other,
        }
    }

    /// The answer that somebody writes to a call that sent `sent` of the log: from where to where, in GitLab's offsets.
    pub(super) fn answer(self, sent: std::ops::Range<u64>) -> Option<Response<Bytes>> {
        let Self::Says { status, body, job_status, range, retry_after, interval, names_limit } = self else {
            return None;
        };
        let mut response = Response::builder().status(status);
        let size = match range {
            Range::Missing => None,
            Range::Start => Some(sent.start),
            Range::OneShort => Some(sent.end.saturating_sub(1)),
            Range::Zero => Some(0),
            Range::Middle => Some(sent.end / 2),
            Range::Beyond => Some(sent.end + 5),
        };
        if let Some(size) = size {
            response = response.header("range", format!("0-{size}"));
        }
        if !job_status.is_empty() {
            response = response.header("job-status", job_status);
        }
        if retry_after > 0 {
            response = response.header("retry-after", retry_after);
        }
        if interval > 0 {
            response = response.header("x-gitlab-trace-update-interval", interval);
        }
        if names_limit {
            response = response.header("ratelimit-name", "throttle_authenticated_api");
        }
        let (kind, text) = match body {
            Body::GitLab => ("application/json", gitlab_body(status)),
            Body::Foreign => ("application/json", r#"{"message":"Forbidden","detail":"policy"}"#),
            Body::Html => ("text/html", "<!doctype html><title>Sign in</title>"),
            Body::Empty => ("", ""),
        };
        if !kind.is_empty() {
            response = response.header("content-type", kind);
        }
        response.body(Bytes::from_static(text.as_bytes())).ok()
    }
}

fn gitlab_body(status: u16) -> &'static str {
    match status {
        400 => r#"{"error":"token is missing"}"#,
        403 => r#"{"message":"403 Forbidden"}"#,
        404 => r#"{"message":"404 Not found"}"#,
        409 => r#"{"message":"409 Conflict"}"#,
        200 | 202 | 204 => "",
        _ => r#"{"message":"no"}"#,
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Honest => f.write_str("honest"),
            Self::AnswerLost(failure) => write!(f, "taken, then {failure:?}"),
            Self::Fails(failure) => write!(f, "{failure:?}"),
            Self::Never => f.write_str("nothing ever"),
            Self::Says { status, body, job_status, range, retry_after, interval, names_limit } => {
                write!(f, "{status} {body:?}")?;
                if !job_status.is_empty() {
                    write!(f, " Job-Status: {job_status}")?;
                }
                if *range != Range::Missing {
                    write!(f, " Range: {range:?}")?;
                }
                if *retry_after > 0 {
                    write!(f, " Retry-After: {retry_after}")?;
                }
                if *interval > 0 {
                    write!(f, " interval {interval}")?;
                }
                if *names_limit { f.write_str(" of the host") } else { Ok(()) }
            }
        }
    }
}

/// How long a reply takes to come back, of a call with this deadline; none if it never does.
pub(super) fn latency(reply: Reply, deadline: Duration) -> Option<Duration> {
    match reply {
        Reply::Never => None,
        Reply::Fails(Failure::TimedOut) | Reply::AnswerLost(Failure::TimedOut) => Some(deadline),
        _ => Some(Duration::from_millis(1)),
    }
}

/// Each row of the verdict table, once as GitLab's word and once as anybody's, and the ways in which nothing comes back.
#[must_use]
pub fn replies() -> Vec<Reply> {
    let says = Reply::status;
    let ranges = [Range::Missing, Range::Start, Range::OneShort, Range::Zero, Range::Middle, Range::Beyond];
    let mut all = vec![
        says(200, Body::Empty).with_job_status("running"),
        says(200, Body::Html),
        says(200, Body::Empty),
        says(200, Body::Foreign),
        says(200, Body::Empty).with_job_status("canceling"),
        says(200, Body::Empty).with_job_status("success"),
        says(200, Body::Empty).with_job_status("canceled"),
        says(202, Body::Empty).with_job_status("running"),
        says(202, Body::Html),
        says(202, Body::Empty).with_interval(1),
        says(202, Body::Empty).with_interval(60).with_job_status("canceling"),
        says(202, Body::Empty).with_job_status("failed"),
        says(201, Body::Foreign),
        says(204, Body::Empty),
        says(302, Body::Html),
        says(307, Body::Empty),
        says(400, Body::GitLab),
        says(400, Body::Foreign),
        says(400, Body::Html),
        says(400, Body::Empty).with_job_status("pending"),
        says(401, Body::Html),
        says(403, Body::GitLab),
        says(403, Body::GitLab).with_job_status("running"),
        says(403, Body::Foreign),
        says(403, Body::Html),
        says(403, Body::Empty).with_job_status("success"),
        says(403, Body::Empty).with_job_status("failed"),
        says(403, Body::Empty).with_job_status("canceled"),
        says(404, Body::GitLab),
        says(404, Body::Html),
        says(405, Body::Html),
        says(407, Body::Html),
        says(408, Body::Empty),
        says(409, Body::GitLab),
        says(412, Body::Empty),
        says(413, Body::Html),
        says(422, Body::Foreign),
        says(429, Body::Empty),
        says(429, Body::Empty).with_told(1, false),
        says(429, Body::Empty).with_told(600, false),
        says(429, Body::Empty).with_told(30, true),
        says(500, Body::GitLab),
        says(501, Body::Html),
        says(502, Body::Html),
        says(503, Body::Html),
        says(503, Body::Html).with_told(600, false),
        says(504, Body::Html),
    ];
    all.extend(ranges.map(|range| says(416, Body::Empty).with_range(range)));
    all.extend([Failure::NotSent, Failure::Unknown, Failure::TimedOut, Failure::TooLarge].map(Reply::Fails));
    all.extend([Failure::Unknown, Failure::TimedOut].map(Reply::AnswerLost));
    all.push(Reply::Never);
    all
}
