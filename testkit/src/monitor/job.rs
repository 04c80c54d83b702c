//! The laws of a job.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::{AbortReason, JobEvent, Outcome, Timestamp};
use http::{Method, Request, Response};
use serde_json::Value;

use super::answer::Answer;
use super::economy::{Economy, Worst};

/// No call is waited for any longer after its deadline than this.
const GRACE: Duration = Duration::from_secs(30);
/// The longest pause of a keep-alive that fails, without a told delay: its back-off, and the time in which the budget of L13 allows
/// one more call.
const RETRY_CAP: Duration = Duration::from_secs(70);
/// The same bytes may pass again once in so long.
const AGAIN: Duration = Duration::from_secs(3600);

/// The times of a runner's configuration that the laws speak of.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Patience {
    /// How long GitLab may go without hearing of a job.
    pub keep_alive: Duration,
    /// How long nothing but a foreign 403 ends no job.
    pub forbidden: Duration,
    /// How long nothing but 404 ends no job.
    pub not_found: Duration,
    /// How long a refused log holds a report back.
    pub log: Duration,
    /// Whether nothing may be sent that is not saved.
    pub durable: bool,
}

impl Default for Patience {
    /// That of a default configuration.
    fn default() -> Self {
        let hour = Duration::from_secs(3600);
        let (keep_alive, log) = (Duration::from_secs(30), Duration::from_secs(600));
        Self { keep_alive, forbidden: hour, not_found: hour, log, durable: false }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Accept,
    KeepAlive,
    Report,
    Patch { start: u64, end: u64 },
}

#[derive(Debug)]
struct Open {
    kind: Kind,
    sent: Timestamp,
    deadline: Timestamp,
    /// Of use whatever the answer is: a keep-alive that was due, a check, a report asked for again.
    exempt: bool,
}

/// Watches one [`Job`](gitlab_runner_api::Job), through its resumes.
#[derive(Debug)]
pub struct JobMonitor {
    patience: Patience,
    written: Vec<u8>,
    saved: u64,
    /// From which of our bytes on they lie from which offset of GitLab's on; none once bytes were forfeited, when what is sent is not
    /// what was written.
    lies: Option<Vec<(u64, u64)>>,
    open: Option<Open>,
    accepted: bool,
    /// Where GitLab's log ends, by its last word, in its offsets.
    server_size: u64,
    best: u64,
    highest_sent: u64,
    repeated: Vec<(Range<u64>, Timestamp)>,
    /// State, reason and exit code, as first reported.
    reported: Option<[Value; 3]>,
    digest: Option<Value>,
    report_taken: bool,
    report_may_have_arrived: bool,
    /// When a report that was taken may be repeated.
    again_at: Option<Timestamp>,
    last_answer: Option<Answer>,
    bare_403_since: Option<Timestamp>,
    not_found_since: Option<Timestamp>,
    log_refused_since: Option<Timestamp>,
    log_given_up: bool,
    canceling: bool,
    finished_at: Option<Timestamp>,
    last_reached: Timestamp,
    put_failed_at: Option<Timestamp>,
    put_held_until: Timestamp,
    last_free_keep_alive: Option<Timestamp>,
    wire_free_since: Timestamp,
    check_asked: bool,
    /// The call in flight was sent before the question, so that its answer does not count.
    check_skips_open: bool,
    caused: bool,
    calls: Economy,
    events: Economy,
    done: bool,
}

impl JobMonitor {
    /// Watches a job that was just made.
    #[must_use]
    pub fn new(patience: Patience, now: Timestamp) -> Self {
        Self {
            patience,
            written: Vec::new(),
            saved: 0,
            lies: Some(vec![(0, 0)]),
            open: None,
            accepted: false,
            server_size: 0,
            best: 0,
            highest_sent: 0,
            repeated: Vec::new(),
            reported: None,
            digest: None,
            report_taken: false,
            report_may_have_arrived: false,
            again_at: None,
            last_answer: None,
            bare_403_since: None,
            not_found_since: None,
            log_refused_since: None,
            log_given_up: false,
            canceling: false,
            finished_at: None,
            last_reached: now,
            put_failed_at: None,
            put_held_until: now,
            last_free_keep_alive: None,
            wire_free_since: now,
            check_asked: false,
            check_skips_open: false,
            caused: true,
            calls: Economy::default(),
            events: Economy::default(),
            done: false,
        }
    }

    /// Bytes were added to the log, after all that is done with them before they are sent.
    pub fn wrote(&mut self, bytes: &[u8]) {
        self.written.extend_from_slice(bytes);
        self.caused = true;
    }

    /// The application declared the log saved up to here.
    pub fn saved(&mut self, up_to: u64) {
        self.saved = self.saved.max(up_to);
        self.caused = true;
    }

    /// The application gave the result. The first call counts.
    pub fn finished(&mut self, now: Timestamp) {
        self.finished_at.get_or_insert(now);
        self.check_asked = false;
        self.caused = true;
    }

    /// The application asked whether the job is still ours.
    pub fn checked_in(&mut self) {
        self.check_asked = self.finished_at.is_none();
        self.check_skips_open = self.open.is_some();
        self.caused = true;
    }

    /// The application used another of its verbs. `forfeited`: it gave up bytes, so that what is sent is not what it wrote.
    pub fn verb(&mut self, forfeited: bool) {
        self.caused = true;
        if forfeited {
            self.lies = None;
        }
    }

    /// The job was resumed from a snapshot of when so many bytes were written: what was written after it is no more, nor is what
    /// was in flight, and any report may have been sent. `at_once`: the snapshot is of this very moment. An older one cannot know
    /// of the calls since, so that L13 begins anew.
    pub fn resumed(&mut self, written: u64, at_once: bool, now: Timestamp) {
        self.highest_sent = self.highest_sent.max(self.written.len() as u64);
        self.written.truncate(usize::try_from(written).unwrap_or(usize::MAX));
        if self.open.take().is_some() {
            self.put_failed_at = Some(now);
        }
        if !at_once {
            (self.calls, self.events) = (Economy::default(), Economy::default());
        }
        self.wire_free_since = now;
        self.report_may_have_arrived |= self.finished_at.is_some();
        self.caused = true;
    }

    /// The job sends a call whose deadline is `deadline` from now.
    ///
    /// # Errors
    ///
    /// The law that this breaks.
    pub fn sent(&mut self, request: &Request<Bytes>, deadline: Duration, now: Timestamp) -> Result<(), String> {
        if self.done {
            return Err("L4: a call after the end".to_owned());
        }
        if let Some(open) = self.open.take() {
            if now < open.deadline.saturating_add(GRACE) {
                return Err("L1: a second ticket is out".to_owned());
            }
            self.unanswered(&open, now)?;
        }
        let kind = self.kind(request)?;
        if !matches!(kind, Kind::Patch { .. }) {
            // The call is the keep-alive that was due.
        } else if now > self.keep_alive_due() {
            return Err(format!(
                "L14: a patch goes out at {now:?}, a keep-alive was due at {:?}",
                self.keep_alive_due()
            ));
        }
        let exempt = match kind {
            Kind::KeepAlive if self.check_asked => {
                self.check_asked = false;
                true
            }
            Kind::KeepAlive | Kind::Accept => {
                let due =
                    self.last_free_keep_alive.is_none_or(|last| now.saturating_since(last) >= self.patience.keep_alive);
                if due {
                    self.last_free_keep_alive = Some(now);
                }
                due
            }
            Kind::Report => self.again_at.is_some_and(|at| now >= at),
            Kind::Patch { .. } => false,
        };
        self.open = Some(Open { kind, sent: now, deadline: now.saturating_add(deadline), exempt });
        self.caused = false;
        Ok(())
    }

    /// Works out what a call is, and holds it against L6 and L8.
    fn kind(&mut self, request: &Request<Bytes>) -> Result<Kind, String> {
        let body = request.body();
        if request.method() == Method::PATCH {
            let header = request.headers().get("content-range").and_then(|value| value.to_str().ok());
            let start: u64 = header.and_then(|range| range.split('-').next()?.parse().ok()).unwrap_or(u64::MAX);
            let end = start.saturating_add(body.len() as u64);
            self.check_patch(start, body)?;
            self.highest_sent = self.highest_sent.max(end);
            return Ok(Kind::Patch { start, end });
        }
        let json: Value = serde_json::from_slice(body).unwrap_or_default();
        if json["state"] == "running" {
            return Ok(if self.accepted { Kind::KeepAlive } else { Kind::Accept });
        }
        self.check_report(&json)?;
        Ok(Kind::Report)
    }

    /// L6: every patch is the written log at its place, and never ahead of what is saved.
    fn check_patch(&mut self, start: u64, body: &[u8]) -> Result<(), String> {
        let Some(lies) = &mut self.lies else { return Ok(()) };
        if start == self.server_size {
            // What lay behind the end of GitLab's log is lost, and comes again.
            lies.retain(|(_, server)| *server <= start);
        }
        let ours = lies.last().map_or(u64::MAX, |(ours, server)| start.wrapping_sub(*server).wrapping_add(*ours));
        let ours = usize::try_from(ours).unwrap_or(usize::MAX);
        let end = ours.saturating_add(body.len());
        if !body.is_empty() && self.written.get(ours..end) != Some(body) {
            return Err(format!("L6: the patch at {start} is not the log at its place"));
        }
        if self.patience.durable && !body.is_empty() && end as u64 > self.saved {
            return Err(format!("L6: the patch ends at {end}, saved are {}", self.saved));
        }
        Ok(())
    }

    /// L8: a report comes when the log is there, and never says anything else.
    fn check_report(&mut self, json: &Value) -> Result<(), String> {
        let said = ["state", "failure_reason", "exit_code"].map(|name| json[name].clone());
        let digest = json["output"].clone();
        let dropped = digest.as_object().is_none_or(serde_json::Map::is_empty);
        let first = self.reported.get_or_insert_with(|| said.clone());
        if *first != said {
            return Err(format!("L8: first reported {first:?}, and now {said:?}"));
        }
        if dropped {
            self.digest = Some(Value::Null);
        } else if *self.digest.get_or_insert_with(|| digest.clone()) != digest {
            return Err(format!("L8: first reported {:?}, and now {digest}", self.digest));
        }
        if self.log_given_up {
            return if dropped { Ok(()) } else { Err("L8: a checksum of a log that did not arrive".to_owned()) };
        }
        let Some((ours, server)) = self.lies.as_ref().and_then(|lies| lies.last()) else { return Ok(()) };
        let wanted = self.written.len() as i128 - i128::from(*ours) + i128::from(*server);
        if i128::from(self.server_size) < wanted {
            return Err(format!("L8: it reports with {} of {wanted} bytes at GitLab", self.server_size));
        }
        Ok(())
    }

    /// The answer to the call on the wire.
    ///
    /// # Errors
    ///
    /// The law that this breaks.
    pub fn answered(&mut self, response: &Response<Bytes>, now: Timestamp) -> Result<(), String> {
        let Some(open) = self.open.take() else { return Ok(()) };
        self.wire_free_since = now;
        let patch = matches!(open.kind, Kind::Patch { .. });
        let answer = Answer::read(response, !patch);
        let mark = |since: &mut Option<Timestamp>, stands: bool| match stands {
            true => _ = since.get_or_insert(now),
            false => *since = None,
        };
        mark(&mut self.bare_403_since, answer.is_bare_403());
        mark(&mut self.not_found_since, answer.status == 404);
        if patch {
            mark(&mut self.log_refused_since, answer.refuses_log());
        }
        self.canceling |= answer.says("canceling");
        let mut productive = open.exempt;
        let reached = match &open.kind {
            Kind::Patch { start, end } => self.patched(*start..*end, &answer, &mut productive, now),
            Kind::Accept | Kind::KeepAlive => self.touched(&open.kind, &answer, &mut productive),
            Kind::Report => self.report_answered(&answer, &mut productive, now),
        };
        if reached || answer.job_status.is_some() || (answer.status == 403 && answer.gitlabs_word) {
            self.last_reached = now;
            self.check_asked &= self.check_skips_open;
        }
        self.check_skips_open = false;
        if !patch {
            self.put_failed_at = (!reached).then_some(now);
        }
        let told = Duration::from_secs(answer.retry_after.unwrap_or(0).min(600)).mul_f64(1.2);
        let host = matches!(answer.status, 503) || answer.names_host_limit;
        if !patch || host {
            self.put_held_until = self.put_held_until.max(now.saturating_add(told));
        }
        self.last_answer = Some(answer);
        self.caused = productive;
        if productive { Ok(()) } else { self.calls.count("calls that achieved nothing", open.sent) }
    }

    /// What an answer to a patch tells of GitLab's log. Returns whether it is GitLab's.
    fn patched(&mut self, range: Range<u64>, answer: &Answer, productive: &mut bool, now: Timestamp) -> bool {
        match (answer.status, answer.stored) {
            (202, _) if !answer.html => {
                self.server_size = range.end;
                if range.end > self.best {
                    self.best = range.end;
                    *productive = true;
                } else if range.start < range.end && self.passes_again(range, now) {
                    *productive = true;
                }
                true
            }
            (416, Some(size)) => {
                self.server_size = size;
                if size > self.best && size <= self.highest_sent {
                    self.best = size;
                    *productive = true;
                }
                size != range.start
            }
            _ => false,
        }
    }

    /// Whether these bytes have not passed again within the hour.
    fn passes_again(&mut self, range: Range<u64>, now: Timestamp) -> bool {
        self.repeated.retain(|(_, at)| now.saturating_since(*at) <= AGAIN);
        let mut open = range.start;
        let mut known: Vec<_> = self.repeated.iter().map(|(range, _)| range.clone()).collect();
        known.sort_by_key(|known| known.start);
        for known in known {
            if known.start <= open {
                open = open.max(known.end);
            }
        }
        let new = open < range.end;
        if new {
            self.repeated.push((range, now));
        }
        new
    }

    fn touched(&mut self, kind: &Kind, answer: &Answer, productive: &mut bool) -> bool {
        let taken = answer.status == 200 && !answer.html;
        let unknown = answer.status == 400 && !answer.html && !answer.says("pending") && !answer.is_final();
        if *kind == Kind::Accept && (taken || unknown) && !answer.is_final() {
            self.accepted = true;
            *productive = true;
            return true;
        }
        taken
    }

    fn report_answered(&mut self, answer: &Answer, productive: &mut bool, now: Timestamp) -> bool {
        self.again_at = None;
        let taken = matches!(answer.status, 200 | 202) && !answer.html;
        if taken && !std::mem::replace(&mut self.report_taken, true) {
            *productive = true;
        }
        if answer.status == 202 && taken {
            self.again_at = Some(now.saturating_add(Duration::from_secs(answer.interval.unwrap_or(1).min(64))));
        }
        self.report_may_have_arrived |= matches!(answer.status, 200..300 | 408 | 500..);
        taken || answer.status == 412 || (answer.status == 400 && answer.gitlabs_word)
    }

    /// The call on the wire failed in transport.
    ///
    /// # Errors
    ///
    /// The law that this breaks.
    pub fn failed(&mut self, may_have_arrived: bool, now: Timestamp) -> Result<(), String> {
        let Some(open) = self.open.take() else { return Ok(()) };
        if may_have_arrived && open.kind == Kind::Report {
            self.report_may_have_arrived = true;
        }
        self.unanswered(&open, now)
    }

    fn unanswered(&mut self, open: &Open, now: Timestamp) -> Result<(), String> {
        self.check_skips_open = false;
        self.wire_free_since = now;
        match open.kind {
            Kind::Patch { .. } => self.log_refused_since = None,
            Kind::Report => self.again_at = None,
            _ => {}
        }
        if !matches!(open.kind, Kind::Patch { .. }) {
            self.put_failed_at = Some(now);
        }
        self.caused = open.exempt;
        if open.exempt { Ok(()) } else { self.calls.count("calls that achieved nothing", open.sent) }
    }

    /// The job tells an event. `acknowledged` is how many bytes of its log it holds for acknowledged after it.
    ///
    /// # Errors
    ///
    /// The law that this breaks.
    pub fn told(&mut self, event: &JobEvent, acknowledged: u64, now: Timestamp) -> Result<(), String> {
        if self.done {
            return Err(format!("L4: an event after the end: {event:?}"));
        }
        match event {
            JobEvent::TraceShifted { server_offset, .. } => {
                if let Some(lies) = &mut self.lies {
                    lies.retain(|(ours, _)| *ours < acknowledged);
                    lies.push((acknowledged, *server_offset));
                }
            }
            JobEvent::TraceRefused { .. } => self.check_giving_up(now)?,
            JobEvent::Finished(outcome) => self.check_outcome(outcome, now)?,
            JobEvent::Aborted(reason) => self.check_abort(*reason, now)?,
            _ => {}
        }
        let always = matches!(event, JobEvent::Unreachable { .. } | JobEvent::Recovered);
        if always || !self.caused {
            self.events.count("events that nothing useful caused", now)?;
        }
        Ok(())
    }

    /// L8: a log is given up only when it was refused for long enough after the end, and the event comes before the report.
    fn check_giving_up(&mut self, now: Timestamp) -> Result<(), String> {
        let since = self.log_refused_since.max(self.finished_at);
        let long = since.is_some_and(|since| now.saturating_since(since) >= self.patience.log);
        let both = self.log_refused_since.is_some() && self.finished_at.is_some();
        self.log_given_up = true;
        if long && both { Ok(()) } else { Err("L8: a log was given up too early".to_owned()) }
    }

    /// L9: what is told of the end is what GitLab said.
    fn check_outcome(&self, outcome: &Outcome, now: Timestamp) -> Result<(), String> {
        let Some(answer) = &self.last_answer else { return Err(format!("L9: {outcome} before any answer")) };
        let state = self.reported.as_ref().and_then(|said| said[0].as_str()).unwrap_or_default();
        let named = |word: &str| answer.says(word) && matches!(answer.status, 200 | 403);
        let taken = answer.status == 200 && !answer.html && !answer.is_final();
        let right = match outcome {
            Outcome::Success => named("success") || (taken && state == "success"),
            Outcome::Failed => named("failed") || (taken && state == "failed"),
            Outcome::Canceled => answer.says("canceled") || (taken && self.canceling),
            Outcome::Overruled(status) => named(status.as_str()) && status.as_str() != state,
            Outcome::Refused(_) => answer.status == 400,
            _ => self.check_unsure(outcome, answer, now),
        };
        if right { Ok(()) } else { Err(format!("L9: it ended as {outcome} after {answer:?}")) }
    }

    /// Outcomes that GitLab did not confirm.
    fn check_unsure(&self, outcome: &Outcome, answer: &Answer, now: Timestamp) -> bool {
        let lasted = self.bare_403_since.is_some_and(|at| now.saturating_since(at) >= self.patience.forbidden);
        match outcome {
            Outcome::Inferred(_) => {
                self.report_may_have_arrived
                    && answer.status == 403
                    && answer.gitlabs_word
                    && answer.job_status.is_none()
            }
            Outcome::Unconfirmed => self.report_may_have_arrived && lasted,
            _ => false,
        }
    }

    /// A running job is ended by GitLab's word alone, or when for very long nobody else spoke.
    fn check_abort(&self, reason: AbortReason, now: Timestamp) -> Result<(), String> {
        let Some(answer) = &self.last_answer else { return Err(format!("L9: {reason} before any answer")) };
        let lasted = |since: Option<Timestamp>, patience| since.is_some_and(|at| now.saturating_since(at) >= patience);
        let right = match reason {
            AbortReason::Canceled => answer.says("canceled"),
            AbortReason::Failed => answer.says("failed"),
            AbortReason::Forbidden => {
                (answer.status == 403 && answer.gitlabs_word) || lasted(self.bare_403_since, self.patience.forbidden)
            }
            AbortReason::NotFound => lasted(self.not_found_since, self.patience.not_found),
            _ => answer.status == 400 && answer.says("pending"),
        };
        if right { Ok(()) } else { Err(format!("L9: the job was ended ({reason}) after {answer:?}")) }
    }

    /// When a keep-alive must have been sent at the latest (L14).
    fn keep_alive_due(&self) -> Timestamp {
        if !self.accepted || self.done || self.reported.is_some() {
            return Timestamp::from_millis(u64::MAX);
        }
        let regular = self.last_reached.saturating_add(self.patience.keep_alive.mul_f64(1.5));
        let retry = self.put_failed_at.map(|failed| failed.saturating_add(RETRY_CAP));
        regular.max(retry.unwrap_or_default()).max(self.put_held_until).max(self.wire_free_since)
    }

    /// The job waits.
    ///
    /// # Errors
    ///
    /// The law that this breaks.
    pub fn waits(&mut self, until: Option<Timestamp>, now: Timestamp) -> Result<(), String> {
        let Some(until) = until.filter(|until| *until > now) else {
            return Err(format!("L3: it waits until {until:?} at {now:?}"));
        };
        if self.open.is_some() {
            return Ok(());
        }
        let due = self.keep_alive_due();
        if until > due {
            return Err(format!("L14: it waits until {until:?}, a keep-alive is due at {due:?}"));
        }
        if self.check_asked && self.accepted && self.put_failed_at.is_none() && now >= self.put_held_until {
            return Err(format!("L14: it waits until {until:?} and was asked to check in"));
        }
        Ok(())
    }

    /// The job is done.
    pub fn ended(&mut self) {
        self.done = true;
    }

    /// Calls that achieved nothing, and events that nothing useful caused: the most of each in a minute and an hour.
    #[must_use]
    pub fn worst(&self) -> (Worst, Worst) {
        (self.calls.worst(), self.events.worst())
    }

    /// Where GitLab's log ends by its last word.
    #[must_use]
    pub fn server_size(&self) -> u64 {
        self.server_size
    }
}
