//! The report of a job's result: what was sent, and what GitLab answered.

use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::outcome::JobResult;
use crate::api::update_job::LogDigest;
use crate::reply::Failure;
use crate::time::Timestamp;

/// GitLab ends a job five minutes after its report, whether or not the log is archived by then. After twice that time the report
/// goes without a checksum, which GitLab completes at once.
const ARCHIVE_PATIENCE: Duration = Duration::from_secs(600);

/// The longest pause before a report that was taken is repeated: the last of the intervals that GitLab names.
const ASK_AGAIN_CAP: Duration = Duration::from_secs(64);

/// The report of a job's result, until GitLab has confirmed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Finishing {
    pub(super) result: JobResult,
    /// When the job was first polled with its result.
    pub(super) since: Option<Timestamp>,
    /// The report was in flight at least once.
    pub(super) sent: bool,
    /// A report may have arrived at GitLab although no answer said so.
    pub(super) may_have_arrived: bool,
    /// The last answer was 202, so that the next report is one that GitLab asked for.
    pub(super) asked_again: bool,
    /// The checksum and size first reported. They never change.
    #[serde(skip)]
    digest: Option<LogDigest>,
    /// Checksum and size are no longer reported.
    without_digest: bool,
    /// How often GitLab answered 412.
    mismatches: u8,
    /// How often GitLab asked for the report again (202).
    times_asked_again: u8,
    /// When GitLab first asked for it again.
    asked_again_since: Option<Timestamp>,
    /// Since when every answer was a 400.
    rejected_since: Option<Timestamp>,
    /// The report is not repeated before this time.
    pub(super) not_before: Timestamp,
}

impl Finishing {
    pub(super) fn new(result: JobResult) -> Box<Self> {
        Box::new(Self {
            result,
            since: None,
            sent: false,
            may_have_arrived: false,
            asked_again: false,
            digest: None,
            without_digest: false,
            mismatches: 0,
            times_asked_again: 0,
            asked_again_since: None,
            rejected_since: None,
            not_before: Timestamp::EPOCH,
        })
    }

    /// Restores the report from a snapshot. It may have been sent after the snapshot was taken. Its times may come from another clock, so none
    /// may be later than the longest wait of its kind.
    pub(super) fn restored(mut self, now: Timestamp) -> Box<Self> {
        (self.sent, self.may_have_arrived) = (true, true);
        for time in [&mut self.since, &mut self.asked_again_since, &mut self.rejected_since].into_iter().flatten() {
            *time = (*time).min(now);
        }
        self.not_before = self.not_before.min(now.saturating_add(ASK_AGAIN_CAP));
        Box::new(self)
    }

    /// The checksum to report, if any: always the first one, so that a repetition is the same report.
    pub(super) fn digest(&mut self, now: LogDigest) -> Option<LogDigest> {
        (!self.without_digest).then(|| *self.digest.get_or_insert(now))
    }

    /// Reports no checksum any more. Returns whether one was reported until now.
    pub(super) fn drop_digest(&mut self) -> bool {
        !std::mem::replace(&mut self.without_digest, true)
    }

    /// Whether the log was sent again because its checksum did not match.
    pub(super) fn is_rewound(&self) -> bool {
        self.mismatches > 0 && !self.without_digest
    }

    /// A call about the job was answered, by GitLab or by somebody else. `to_report` if that call was the report.
    pub(super) fn note_answer(&mut self, status: StatusCode, to_report: bool) {
        if status != StatusCode::BAD_REQUEST {
            self.rejected_since = None;
        }
        if to_report {
            self.asked_again = false;
            // Other statuses, such as a redirect, may come from a server that never passed the report on.
            self.may_have_arrived |=
                status.is_success() || status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT;
        }
    }

    /// The report brought no answer.
    pub(super) fn failed(&mut self, failure: Failure) {
        self.asked_again = false;
        self.may_have_arrived |= failure.may_have_arrived();
    }

    /// GitLab has taken the report and not archived the log (202): it asks for the report again, after `told` if it says. Returns
    /// whether this is the first time.
    pub(super) fn ask_again(&mut self, told: Option<Duration>, now: Timestamp) -> bool {
        let first = self.asked_again_since.is_none();
        self.asked_again_since.get_or_insert(now);
        // GitLab names 1, 2, 4 … 64 s, and at one moment `1/2`.
        let own = Duration::from_secs(1 << self.times_asked_again.min(6));
        self.not_before = now.saturating_add(told.unwrap_or(own).min(ASK_AGAIN_CAP));
        self.times_asked_again = self.times_asked_again.saturating_add(1);
        self.asked_again = true;
        first
    }

    /// Whether GitLab should have archived the log long ago.
    pub(super) fn is_archiving_for_too_long(&self, now: Timestamp) -> bool {
        self.asked_again_since.is_some_and(|since| now.saturating_since(since) >= ARCHIVE_PATIENCE)
    }

    /// GitLab says that checksum or size do not match (412). Returns whether the log is to be sent again from its start: the first time
    /// only, since sending the same once more would not help.
    pub(super) fn mismatched(&mut self) -> bool {
        self.mismatches = self.mismatches.saturating_add(1);
        self.mismatches == 1 && !self.without_digest
    }

    /// GitLab does not understand the report (400). Returns for how long that has been its only answer.
    pub(super) fn rejected(&mut self, now: Timestamp) -> Duration {
        now.saturating_since(*self.rejected_since.get_or_insert(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1000)
    }

    fn digest(size: u64) -> LogDigest {
        LogDigest::new(1, size)
    }

    #[test]
    fn a_repetition_reports_the_first_checksum_or_none() {
        let mut finishing = Finishing::new(JobResult::success());
        assert_eq!(finishing.digest(digest(3)), Some(digest(3)));
        assert_eq!(finishing.digest(digest(4)), Some(digest(3)));
        assert!(finishing.drop_digest() && !finishing.drop_digest());
        assert_eq!(finishing.digest(digest(3)), None);
    }

    #[test]
    fn a_log_is_sent_again_once() {
        let mut finishing = Finishing::new(JobResult::success());
        assert!(finishing.mismatched() && finishing.is_rewound());
        assert!(!finishing.mismatched());
        let mut finishing = Finishing::new(JobResult::success());
        finishing.drop_digest();
        assert!(!finishing.mismatched() && !finishing.is_rewound());
    }

    #[test]
    fn gitlab_is_asked_again_after_pauses_that_double_unless_it_names_one() {
        let mut finishing = Finishing::new(JobResult::success());
        let pauses = [1, 2, 4, 8, 16, 32, 64, 64].map(|expected| {
            let first = finishing.ask_again(None, at(0));
            (first == (expected == 1), finishing.not_before == at(expected))
        });
        assert_eq!(pauses, [(true, true); 8]);
        finishing.ask_again(Some(Duration::from_secs(7)), at(0));
        assert_eq!(finishing.not_before, at(7));
        finishing.ask_again(Some(Duration::MAX), at(0));
        assert_eq!(finishing.not_before, at(64));
        assert!(!finishing.is_archiving_for_too_long(at(599)) && finishing.is_archiving_for_too_long(at(600)));
    }

    #[test]
    fn a_refusal_counts_while_nothing_else_is_answered() {
        let mut finishing = Finishing::new(JobResult::success());
        finishing.rejected(at(0));
        finishing.note_answer(StatusCode::BAD_REQUEST, true);
        assert_eq!(finishing.rejected(at(60)), Duration::from_secs(60));
        finishing.note_answer(StatusCode::ACCEPTED, false);
        assert_eq!(finishing.rejected(at(70)), Duration::ZERO);
    }

    #[test]
    fn what_may_have_arrived_is_known_by_the_answer() {
        let arrived = |status: u16| {
            let mut finishing = Finishing::new(JobResult::success());
            finishing.note_answer(StatusCode::from_u16(status).unwrap(), true);
            finishing.may_have_arrived
        };
        for (status, may) in
            [(200, true), (202, true), (502, true), (408, true), (302, false), (403, false), (429, false)]
        {
            assert_eq!(arrived(status), may, "{status}");
        }
        let mut finishing = Finishing::new(JobResult::success());
        finishing.failed(Failure::NotSent);
        assert!(!finishing.may_have_arrived);
        finishing.failed(Failure::TimedOut);
        assert!(finishing.may_have_arrived);
    }
}
