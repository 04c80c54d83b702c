//! What an answer to a call of a job means, as a pure function. Its specification is the table in [`crate::manual::protocol`].

use bytes::Bytes;
use http::{Response, StatusCode};

use super::outcome::AbortReason;
use crate::error;
use crate::headers;
use crate::status::{JobState, JobStatus};

/// The purpose of a call in flight. A snapshot contains it instead of the bytes of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Intent {
    /// The first `state=running`.
    Accept,
    /// An empty patch at the end of our log, which asks where GitLab's ends.
    Probe { base: u64 },
    /// These bytes of our log.
    Patch { start: u64, end: u64 },
    /// A later `state=running`.
    KeepAlive,
    /// The report of the result.
    Report,
}

impl Intent {
    /// The part of our log that a patch or a probe carries: start and end, which are the same for a probe.
    pub(super) fn piece(self) -> Option<(u64, u64)> {
        match self {
            Self::Patch { start, end } => Some((start, end)),
            Self::Probe { base } => Some((base, base)),
            Self::Accept | Self::KeepAlive | Self::Report => None,
        }
    }
}

/// The part of the job's state that decides what an answer means.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Context {
    /// The state that is reported, once the report was sent.
    pub(super) reported: Option<JobState>,
    /// The report may have arrived at GitLab although no answer said so.
    pub(super) report_may_have_arrived: bool,
    /// GitLab's offset at which the piece of log began.
    pub(super) begun: u64,
    /// GitLab's offset at which the piece ended.
    pub(super) end: u64,
    /// The answer before this one was a 416 that named the very offset at which the piece began.
    pub(super) stalled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// GitLab holds what we report.
    Confirmed,
    /// GitLab most likely holds what we report: it takes nothing more for the job, and the report may have arrived.
    Inferred,
    /// GitLab holds `canceled`.
    Canceled,
    /// GitLab holds another final state.
    Overruled(JobStatus),
    /// The bytes are stored, and the job is over.
    AcknowledgedAbort(AbortReason),
    /// The job is over.
    Abort(AbortReason),
    /// A 403 that GitLab may not have written: it has neither a `Job-Status` nor GitLab's body. The call is repeated. If nothing else is
    /// answered for as long as `RunnerConfig::with_forbidden_patience` says, the job ends: see `Job::end_if_out_of_patience`.
    ForeignForbidden,
    /// The job is ours.
    Accepted,
    /// The server has no two-phase commit, so the job is ours without acceptance.
    NotInForce,
    /// The bytes are stored.
    Acknowledged,
    /// GitLab's log ends here, and not where the piece began.
    Resync(u64),
    /// GitLab's log may end one byte after where it says: ask there.
    ProbeNext,
    /// The piece is too large: send fewer bytes at a time.
    TooLarge,
    /// The keep-alive worked.
    Touched,
    /// The report is taken, the log not yet archived.
    AskAgain,
    /// Checksum or size do not match.
    Mismatch,
    /// GitLab does not understand the report.
    ReportRejected,
    /// Anything else: try again later.
    Failed,
}

pub(super) fn verdict(intent: Intent, context: Context, response: &Response<Bytes>) -> Verdict {
    let status = response.status();
    let job_status = headers::job_status(response.headers());

    if let (Some(state), StatusCode::OK | StatusCode::FORBIDDEN, Some(held)) = (context.reported, status, &job_status) {
        if held.as_str() == state.as_str() {
            return Verdict::Confirmed;
        }
        match held {
            JobStatus::Canceled => return Verdict::Canceled,
            held if held.is_final() => return Verdict::Overruled(held.clone()),
            _ => {}
        }
    }
    let over = match &job_status {
        Some(JobStatus::Canceled) => Some(AbortReason::Canceled),
        Some(JobStatus::Failed) => Some(AbortReason::Failed),
        _ => None,
    };
    if let Some(reason) = over {
        let stored = status == StatusCode::ACCEPTED && matches!(intent, Intent::Patch { .. } | Intent::Probe { .. });
        return if stored { Verdict::AcknowledgedAbort(reason) } else { Verdict::Abort(reason) };
    }
    if status == StatusCode::FORBIDDEN {
        return match (is_gitlabs_word(response, job_status.as_ref()), &job_status) {
            (false, _) => Verdict::ForeignForbidden,
            (true, None) if context.report_may_have_arrived => Verdict::Inferred,
            (true, _) => Verdict::Abort(AbortReason::Forbidden),
        };
    }
    let page = is_page(intent, response);
    match (intent, status.as_u16()) {
        (Intent::Accept, 200) if !page => Verdict::Accepted,
        (Intent::Accept, 400) if job_status == Some(JobStatus::Pending) => Verdict::Abort(AbortReason::NotAccepted),
        (Intent::Accept, 400) if !page && job_status.as_ref().is_none_or(|status| !status.is_final()) => {
            Verdict::NotInForce
        }
        (Intent::Patch { .. } | Intent::Probe { .. }, 202) if !page => Verdict::Acknowledged,
        (Intent::Patch { .. } | Intent::Probe { .. }, 416) => read_range(context, response),
        (Intent::Patch { .. }, 413) => Verdict::TooLarge,
        (Intent::KeepAlive, 200) if !page => Verdict::Touched,
        (Intent::Report, 200) if !page => Verdict::Confirmed,
        (Intent::Report, 202) if !page => Verdict::AskAgain,
        (Intent::Report, 412) => Verdict::Mismatch,
        (Intent::Report, 400) if is_gitlabs_word(response, job_status.as_ref()) => Verdict::ReportRejected,
        _ => Verdict::Failed,
    }
}

/// Whether the answer is a page, and so somebody else's: a login page with status 200 is the usual case.
///
/// A transport may leave out the body of an answer to a patch, so that there it decides nothing.
fn is_page(intent: Intent, response: &Response<Bytes>) -> bool {
    let body: &[u8] = match intent {
        Intent::Patch { .. } | Intent::Probe { .. } => b"",
        Intent::Accept | Intent::KeepAlive | Intent::Report => response.body(),
    };
    error::is_html(response.headers(), body)
}

/// What a 416 tells of where GitLab's log ends.
fn read_range(context: Context, response: &Response<Bytes>) -> Verdict {
    match headers::stored_size(response.headers()) {
        None => Verdict::Failed,
        Some(size) if size != context.begun => Verdict::Resync(size),
        // Some servers name the last byte in place of the size. Following them as they mean it would send the same bytes for ever.
        Some(_) if context.stalled && context.begun < context.end => Verdict::ProbeNext,
        Some(_) => Verdict::Failed,
    }
}

/// Whether only GitLab itself writes such an answer, and no gateway or login page on the way.
fn is_gitlabs_word(response: &Response<Bytes>, job_status: Option<&JobStatus>) -> bool {
    job_status.is_some()
        || match response.status() {
            StatusCode::FORBIDDEN => error::says_forbidden(response.body()),
            StatusCode::BAD_REQUEST => error::is_gitlab_body(response.body()),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The name of a verdict in the manual's table.
    fn word(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Confirmed => "confirmed",
            Verdict::Inferred => "confirmed by inference",
            Verdict::Canceled => "canceled",
            Verdict::Overruled(_) => "overruled",
            Verdict::AcknowledgedAbort(_) => "acknowledged, then abort",
            Verdict::Abort(AbortReason::Forbidden) => "abort: forbidden",
            Verdict::Abort(AbortReason::NotAccepted) => "abort: not accepted",
            Verdict::Abort(_) => "abort",
            Verdict::ForeignForbidden => "foreign refusal",
            Verdict::Accepted => "accepted",
            Verdict::NotInForce => "not in force",
            Verdict::Acknowledged => "acknowledged",
            Verdict::Resync(_) => "resynchronise",
            Verdict::ProbeNext => "probe the next byte",
            Verdict::TooLarge => "halve",
            Verdict::Touched => "touched",
            Verdict::AskAgain => "ask again",
            Verdict::Mismatch => "mismatch",
            Verdict::ReportRejected => "refused",
            Verdict::Failed => "failed",
        }
    }

    /// One answer, described by what the table speaks of.
    #[derive(Clone, Copy, Debug)]
    struct Case {
        intent: Intent,
        context: Context,
        status: u16,
        job_status: &'static str,
        body: &'static str,
        range: &'static str,
    }

    impl Case {
        fn matches_call(&self, cell: &str) -> bool {
            let patch = matches!(self.intent, Intent::Patch { .. });
            match cell {
                "any" => true,
                "any, report sent" => self.context.reported.is_some(),
                "any, report may have arrived" => self.context.report_may_have_arrived,
                "accept" => self.intent == Intent::Accept,
                "patch" => patch,
                "patch, probe" => patch || matches!(self.intent, Intent::Probe { .. }),
                "keep-alive" => self.intent == Intent::KeepAlive,
                "report" => self.intent == Intent::Report,
                other => panic!("the table has a call this test does not know: {other}"),
            }
        }

        fn matches_job_status(&self, cell: &str) -> bool {
            let is_final = matches!(self.job_status, "success" | "failed" | "canceled");
            match cell {
                "" | "any" => true,
                "none" => self.job_status.is_empty(),
                "the state we report" => self.context.reported.is_some_and(|state| state.as_str() == self.job_status),
                "another final state" => is_final,
                "not final" => !is_final,
                words => words.split(", ").any(|word| word.trim_matches('`') == self.job_status),
            }
        }

        fn matches_condition(&self, cell: &str) -> bool {
            let (start, stored) = (self.context.begun.to_string(), self.range.strip_prefix("0-"));
            match cell {
                "" => true,
                "GitLab's word" => {
                    let own = match self.status {
                        403 => self.body.contains(r#":"403 Forbidden"#),
                        400 => self.body.starts_with('{'),
                        _ => false,
                    };
                    !self.job_status.is_empty() || own
                }
                // The body of an answer to a patch is not looked at; no case here has a media type.
                "no page" => {
                    matches!(self.intent, Intent::Patch { .. } | Intent::Probe { .. }) || self.body != "<html>"
                }
                "usable `Range`, not where the call began" => stored.is_some_and(|stored| stored != start),
                "`Range` where the call began, the second in a row" => stored == Some(&start) && self.context.stalled,
                other => panic!("the table has a condition this test does not know: {other}"),
            }
        }

        /// Reads the manual's table from top to bottom: first match wins. Returns the row and its verdict.
        fn by_the_table(&self) -> (usize, String) {
            for (number, row) in rows().enumerate() {
                let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
                let [call, statuses, said, and, verdict] = cells[..] else { panic!("five cells: {row}") };
                let status = statuses == "any" || statuses.split(", ").any(|one| one == self.status.to_string());
                if self.matches_call(call) && status && self.matches_job_status(said) && self.matches_condition(and) {
                    return (number, verdict.trim_matches('`').to_owned());
                }
            }
            panic!("the table has no row for {self:?}");
        }

        fn by_the_code(&self) -> &'static str {
            let mut response = Response::builder().status(self.status).header("range", self.range);
            if !self.job_status.is_empty() {
                response = response.header("job-status", self.job_status);
            }
            word(&verdict(self.intent, self.context, &response.body(Bytes::from(self.body)).unwrap()))
        }
    }

    fn rows() -> impl Iterator<Item = &'static str> {
        include_str!("../manual/verdicts.md").lines().filter(|line| line.starts_with("| ")).skip(1)
    }

    #[test]
    fn the_manual_and_the_code_agree_on_every_combination() {
        let intents = [
            (Intent::Accept, 0, 0),
            (Intent::Probe { base: 9 }, 9, 9),
            (Intent::Patch { start: 7, end: 9 }, 7, 9),
            (Intent::KeepAlive, 0, 0),
            (Intent::Report, 0, 0),
        ];
        let reports = [
            (None, false),
            (Some(JobState::Success), false),
            (Some(JobState::Success), true),
            (Some(JobState::Failed), true),
        ];
        let statuses =
            [200, 201, 202, 204, 302, 400, 401, 403, 404, 405, 407, 408, 409, 412, 413, 416, 422, 429, 500, 502, 503];
        let words = ["", "pending", "running", "canceling", "success", "failed", "canceled", "moon"];
        let bodies = ["", "<html>", r#"{"message":"403 Forbidden"}"#, r#"{"message":"Forbidden"}"#];
        let mut used = BTreeSet::new();
        let mut combinations = 0;
        for ((intent, begun, end), (reported, report_may_have_arrived)) in
            intents.into_iter().flat_map(|intent| reports.map(|report| (intent, report)))
        {
            for (stalled, status, job_status) in [false, true]
                .into_iter()
                .flat_map(|stalled| statuses.iter().map(move |status| (stalled, status)))
                .flat_map(|(stalled, status)| words.map(|word| (stalled, *status, word)))
            {
                let context = Context { reported, report_may_have_arrived, begun, end, stalled };
                for (body, range) in
                    bodies.into_iter().flat_map(|body| ["", "0-7", "0-9", "1-2"].map(|range| (body, range)))
                {
                    let case = Case { intent, context, status, job_status, body, range };
                    let (row, ruled) = case.by_the_table();
                    assert_eq!(case.by_the_code(), ruled, "{case:?}, row {row}");
                    used.insert(row);
                    combinations += 1;
                }
            }
        }
        assert_eq!(used.len(), rows().count(), "rows never used: {used:?}");
        assert_eq!(combinations, 5 * 4 * 2 * 21 * 8 * 16);
    }

    #[test]
    fn a_media_type_makes_a_page_of_any_answer() {
        let response = |status: u16| {
            let response = Response::builder().status(status).header("content-type", "text/html; charset=utf-8");
            response.body(Bytes::new()).unwrap()
        };
        for (intent, status) in [
            (Intent::Accept, 200),
            (Intent::Accept, 400),
            (Intent::Patch { start: 0, end: 9 }, 202),
            (Intent::Probe { base: 9 }, 202),
            (Intent::KeepAlive, 200),
            (Intent::Report, 200),
            (Intent::Report, 202),
            (Intent::Report, 400),
        ] {
            assert_eq!(verdict(intent, Context::default(), &response(status)), Verdict::Failed, "{intent:?} {status}");
        }
    }
}
