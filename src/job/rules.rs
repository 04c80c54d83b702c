//! What an answer to a job call means. Pure; its specification is the table in [`crate::manual::protocol`].

use bytes::Bytes;
use http::{Response, StatusCode};

use super::phase::AbortReason;
use crate::error;
use crate::headers;
use crate::status::{JobState, JobStatus};

/// What a call on the wire was for. It is stored in place of the call's bytes.
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
    Heartbeat,
    /// The report.
    Final,
}

/// As much of the job's state as decides what an answer means.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context {
    /// What is reported, once the report was on the wire.
    pub(super) reported: Option<JobState>,
    /// A bare 403 was already asked about.
    pub(super) doubted: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// GitLab holds what we report.
    Confirmed,
    /// GitLab holds `canceled`.
    Canceled,
    /// GitLab holds another final state.
    Overruled(JobStatus),
    /// The bytes are stored, and the job is over.
    AcknowledgedAbort(AbortReason),
    /// The job is over.
    Abort(AbortReason),
    /// A 403 that may come from anybody: ask once more.
    Doubt,
    /// The job is ours.
    Accepted,
    /// The bytes are stored.
    Acknowledged,
    /// GitLab's log ends here.
    Resync(u64),
    /// Fewer bytes at a time.
    TooLarge,
    /// GitLab knows that the job lives.
    Touched,
    /// The report is taken, the log not yet archived.
    AskAgain,
    /// Checksum or size do not match.
    Mismatch,
    /// The report is not understood.
    Refused,
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
        let from_gitlab = job_status.is_some() || error::is_gitlab_body(response.body());
        return if from_gitlab || context.doubted { Verdict::Abort(AbortReason::Forbidden) } else { Verdict::Doubt };
    }
    match (intent, status.as_u16()) {
        (Intent::Accept, 200 | 400) => Verdict::Accepted,
        (Intent::Patch { .. } | Intent::Probe { .. }, 202) => Verdict::Acknowledged,
        (Intent::Patch { .. } | Intent::Probe { .. }, 416) => {
            headers::stored_size(response.headers()).map_or(Verdict::Failed, Verdict::Resync)
        }
        (Intent::Patch { .. }, 413) => Verdict::TooLarge,
        (Intent::Heartbeat, 200) => Verdict::Touched,
        (Intent::Final, 200) => Verdict::Confirmed,
        (Intent::Final, 202) => Verdict::AskAgain,
        (Intent::Final, 412) => Verdict::Mismatch,
        (Intent::Final, 400) => Verdict::Refused,
        _ => Verdict::Failed,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The name of a verdict in the manual's table.
    fn word(verdict: &Verdict) -> String {
        match verdict {
            Verdict::Confirmed => "confirmed".into(),
            Verdict::Canceled => "canceled".into(),
            Verdict::Overruled(_) => "overruled".into(),
            Verdict::AcknowledgedAbort(_) => "acknowledged, then abort".into(),
            Verdict::Abort(AbortReason::Forbidden) => "abort: forbidden".into(),
            Verdict::Abort(_) => "abort".into(),
            Verdict::Doubt => "ask once more".into(),
            Verdict::Accepted => "accepted".into(),
            Verdict::Acknowledged => "acknowledged".into(),
            Verdict::Resync(_) => "resynchronise".into(),
            Verdict::TooLarge => "halve".into(),
            Verdict::Touched => "touched".into(),
            Verdict::AskAgain => "ask again".into(),
            Verdict::Mismatch => "mismatch".into(),
            Verdict::Refused => "refused".into(),
            Verdict::Failed => "failed".into(),
        }
    }

    fn matches_call(cell: &str, intent: Intent, reported: bool) -> bool {
        match cell {
            "any" => true,
            "any, report sent" => reported,
            "accept" => intent == Intent::Accept,
            "patch" => matches!(intent, Intent::Patch { .. }),
            "patch, probe" => matches!(intent, Intent::Patch { .. } | Intent::Probe { .. }),
            "heartbeat" => intent == Intent::Heartbeat,
            "report" => intent == Intent::Final,
            other => panic!("the table has a call this test does not know: {other}"),
        }
    }

    /// Reads the manual's table from top to bottom and says what it rules: first match wins.
    fn table(
        intent: Intent,
        context: Context,
        status: u16,
        job_status: &str,
        body: &str,
        range: &str,
    ) -> (usize, String) {
        let rows = include_str!("../manual/verdicts.md").lines().filter(|line| line.starts_with("| ")).skip(1);
        for (number, row) in rows.enumerate() {
            let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
            let [call, statuses, said, and, verdict] = cells[..] else { panic!("five cells: {row}") };
            let final_word = matches!(job_status, "success" | "failed" | "canceled");
            let said = match said {
                "" | "any" => true,
                "the state we report" => context.reported.is_some_and(|state| state.as_str() == job_status),
                "another final state" => final_word,
                words => words.split(", ").any(|word| word.trim_matches('`') == job_status),
            };
            let and = match and {
                "" => true,
                "a `Job-Status`, or GitLab's JSON" => !job_status.is_empty() || body.starts_with('{'),
                "asked before" => context.doubted,
                "usable `Range`" => range == "0-7",
                other => panic!("the table has a condition this test does not know: {other}"),
            };
            let status = statuses == "any" || statuses.split(", ").any(|one| one == status.to_string());
            if matches_call(call, intent, context.reported.is_some()) && status && said && and {
                return (number, verdict.trim_matches('`').to_owned());
            }
        }
        panic!("the table has no row for {intent:?} {status} {job_status:?}");
    }

    #[test]
    fn the_manual_and_the_code_agree_on_every_combination() {
        let intents = [
            Intent::Accept,
            Intent::Probe { base: 9 },
            Intent::Patch { start: 0, end: 9 },
            Intent::Heartbeat,
            Intent::Final,
        ];
        let statuses =
            [200, 201, 202, 204, 302, 400, 401, 403, 404, 405, 407, 408, 409, 412, 413, 416, 422, 429, 500, 502, 503];
        let words = ["", "pending", "running", "canceling", "success", "failed", "canceled", "moon"];
        let mut used = BTreeSet::new();
        let mut combinations = 0;
        for intent in intents {
            for reported in [None, Some(JobState::Success), Some(JobState::Failed)] {
                for doubted in [false, true] {
                    for (status, word_said) in statuses.iter().flat_map(|s| words.iter().map(move |w| (*s, *w))) {
                        for (body, range) in [("", ""), ("<html>", "0-7"), ("{\"message\":\"403 Forbidden\"}", "1-2")] {
                            let context = Context { reported, doubted };
                            let mut response = Response::builder().status(status).header("range", range);
                            if !word_said.is_empty() {
                                response = response.header("job-status", word_said);
                            }
                            let response = response.body(Bytes::from(body)).unwrap();
                            let (row, ruled) = table(intent, context, status, word_said, body, range);
                            let given = word(&verdict(intent, context, &response));
                            assert_eq!(
                                given, ruled,
                                "{intent:?} {context:?} {status} {word_said:?} {body:?}, row {row}"
                            );
                            used.insert(row);
                            combinations += 1;
                        }
                    }
                }
            }
        }
        let rows = include_str!("../manual/verdicts.md").lines().filter(|line| line.starts_with("| ")).count() - 1;
        assert_eq!(used.len(), rows, "rows never used: {used:?}");
        assert_eq!(combinations, 5 * 3 * 2 * 21 * 8 * 3);
    }
}
