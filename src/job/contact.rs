//! What the answers of GitLab tell about the connection: when a call last worked (the next keep-alive counts from there), and whether
//! calls fail.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::reply::Cause;
use crate::time::Timestamp;

/// When a call last worked, whether calls fail, and the question of the application that waits for an answer.
#[derive(Debug)]
pub(super) struct Contact {
    /// When a call last worked, or the report was answered with 400 or 412.
    last: Timestamp,
    /// One keep-alive interval later.
    keep_alive_due_at: Timestamp,
    pub(super) reach: Reachability,
    /// If all answers since a moment were 404, or all were a 403 that GitLab may not have written: which of the two, and since when. If
    /// this lasts too long, the job ends.
    nothing_but: Option<(NothingBut, Timestamp)>,
    check: Option<Check>,
}

/// Answers that end a job when nothing else comes back for very long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum NothingBut {
    NotFound,
    ForeignForbidden,
}

/// The question of the application whether the job still belongs to this runner, see [`Job::check_in`](super::Job::check_in).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// A call is to be sent for it.
    Due,
    /// A call was sent for it.
    Sent,
}

/// What a snapshot holds of a [`Contact`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredContact {
    last: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nothing_but: Option<(NothingBut, Timestamp)>,
}

impl StoredContact {
    /// The stored contact of a job for which no call was made yet.
    pub(super) const NEVER: Self = Self { last: Timestamp::EPOCH, nothing_but: None };
}

impl Contact {
    pub(super) fn starting(keep_alive: Duration, now: Timestamp) -> Self {
        let keep_alive_due_at = now.saturating_add(keep_alive);
        Self { last: now, keep_alive_due_at, reach: Reachability::default(), nothing_but: None, check: None }
    }

    pub(super) fn stored(&self) -> StoredContact {
        StoredContact { last: self.last, nothing_but: self.nothing_but }
    }

    /// Restores the contact from a snapshot. Its times may come from another clock, so none may be later than now.
    pub(super) fn restored(stored: StoredContact, keep_alive: Duration, now: Timestamp) -> Self {
        let nothing_but = stored.nothing_but.map(|(kind, since)| (kind, since.min(now)));
        Self { nothing_but, ..Self::starting(keep_alive, stored.last.min(now)) }
    }

    /// When the next keep-alive is due: one interval after the last call that worked, or after a 400 or 412 to the report.
    ///
    /// A piece of log that is refused is an answer too, but it ends no silence. Otherwise a log that is refused each second would keep
    /// the keep-alives back, and the job would not hear of its cancellation.
    pub(super) fn keep_alive_due_at(&self) -> Timestamp {
        self.keep_alive_due_at
    }

    /// A call worked, or GitLab understood the report and did not take it. `settles_check` is false for a call that was sent before the
    /// application asked.
    pub(super) fn answered(&mut self, settles_check: bool, keep_alive: Duration, now: Timestamp) {
        (self.last, self.keep_alive_due_at) = (now, now.saturating_add(keep_alive));
        if settles_check {
            self.check = None;
        }
    }

    /// The application asks whether the job is still ours.
    pub(super) fn check(&mut self) {
        self.check = Some(Check::Due);
    }

    /// A keep-alive is sent, which asks.
    pub(super) fn check_is_sent(&mut self) {
        self.check = self.check.map(|_| Check::Sent);
    }

    pub(super) fn is_checking(&self) -> bool {
        self.check.is_some()
    }

    /// Whether a call is to be sent for the question of the application.
    pub(super) fn is_check_due(&self) -> bool {
        self.check == Some(Check::Due)
    }

    /// Notes the kind of an answer. One of another kind, or of no kind, starts the count anew.
    pub(super) fn note(&mut self, kind: Option<NothingBut>, now: Timestamp) {
        if self.nothing_but.map(|(kind, _)| kind) != kind {
            self.nothing_but = kind.map(|kind| (kind, now));
        }
    }

    /// The only kind of answer since some time, and for how long.
    pub(super) fn nothing_but(&self, now: Timestamp) -> Option<(NothingBut, Duration)> {
        self.nothing_but.map(|(kind, since)| (kind, now.saturating_since(since)))
    }
}

/// Whether calls fail, and whether the application was told so.
///
/// An outage is reported at most once in [`TELL_AGAIN`]. If calls fail and work in turns, the application gets two events a minute and not
/// one for each call.
#[derive(Clone, Debug, Default)]
pub(super) struct Reachability {
    /// Boxed, because it is rare and there may be thousands of jobs.
    failing: Option<Box<(Cause, Timestamp)>>,
    told: bool,
    /// When an outage was last reported. [`Timestamp::EPOCH`] if none was.
    told_at: Timestamp,
}

/// The shortest time between two events about outages.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// What the application has to be told about reachability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// Nothing, until the state changes.
    None,
    /// Nothing before this moment.
    NotBefore(Timestamp),
    /// Calls fail: what happened first, and when.
    Unreachable(Cause, Timestamp),
    /// They work again.
    Recovered,
}

impl Reachability {
    pub(super) fn failed(&mut self, cause: Cause, now: Timestamp) {
        self.failing.get_or_insert_with(|| Box::new((cause, now)));
    }

    /// No kind of call fails any more.
    pub(super) fn recovered(&mut self) {
        self.failing = None;
    }

    pub(super) fn notice(&self, now: Timestamp) -> Notice {
        match (self.failing.as_deref(), self.told) {
            (None, true) => Notice::Recovered,
            (Some(&(cause, since)), false) => {
                let at = self.told_at.saturating_add(TELL_AGAIN);
                if now < at { Notice::NotBefore(at) } else { Notice::Unreachable(cause, since) }
            }
            _ => Notice::None,
        }
    }

    /// Notes that the application was told what [`Reachability::notice`] returned.
    pub(super) fn told(&mut self, now: Timestamp) {
        self.told = self.failing.is_some();
        if self.told {
            self.told_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    const KEEP_ALIVE: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000 + seconds * 1000)
    }

    #[test]
    fn the_silence_counts_from_the_last_call_that_worked() {
        let mut contact = Contact::starting(KEEP_ALIVE, at(0));
        contact.reach.failed(Cause::Status(StatusCode::BAD_GATEWAY), at(10));
        assert_eq!(contact.keep_alive_due_at(), at(30));
        contact.answered(true, KEEP_ALIVE, at(20));
        assert_eq!(contact.keep_alive_due_at(), at(50));
    }

    #[test]
    fn only_a_call_sent_after_the_question_answers_it() {
        let mut contact = Contact::starting(KEEP_ALIVE, at(0));
        contact.check();
        contact.answered(false, KEEP_ALIVE, at(1));
        assert!(contact.is_check_due());
        contact.check_is_sent();
        assert!(contact.is_checking() && !contact.is_check_due());
        contact.answered(true, KEEP_ALIVE, at(2));
        assert!(!contact.is_checking());
        contact.check_is_sent();
        assert!(!contact.is_checking());
    }

    #[test]
    fn patience_counts_answers_of_one_kind_only() {
        let mut contact = Contact::starting(KEEP_ALIVE, at(0));
        contact.note(Some(NothingBut::NotFound), at(1));
        contact.note(Some(NothingBut::NotFound), at(5));
        assert_eq!(contact.nothing_but(at(9)), Some((NothingBut::NotFound, Duration::from_secs(8))));
        contact.note(Some(NothingBut::ForeignForbidden), at(9));
        assert_eq!(contact.nothing_but(at(9)), Some((NothingBut::ForeignForbidden, Duration::ZERO)));
        contact.note(None, at(10));
        assert_eq!(contact.nothing_but(at(99)), None);
    }

    #[test]
    fn an_outage_that_comes_and_goes_is_told_twice_a_minute() {
        let mut reach = Reachability::default();
        let cause = Cause::Status(StatusCode::BAD_GATEWAY);
        let mut told = 0;
        for second in 0..=60 {
            reach.failed(cause, at(second));
            for half in 0..2 {
                if matches!(reach.notice(at(second)), Notice::Unreachable(..) | Notice::Recovered) {
                    told += 1;
                    reach.told(at(second));
                }
                if half == 0 {
                    reach.recovered();
                }
            }
        }
        assert!(told <= 6, "{told}");
        assert_eq!(reach.notice(at(61)), Notice::None);
    }
}
