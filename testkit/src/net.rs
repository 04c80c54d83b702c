//! A network that does to calls what networks do.

use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::Failure;
use http::{Response, StatusCode};

use crate::dice::Dice;

/// How often what goes wrong, in calls of 1000. The default is a network where nothing does.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Faults {
    /// The connection cannot be made.
    pub not_sent: u32,
    /// The request is lost, and the connection breaks.
    pub lost_request: u32,
    /// The server acts, its answer is lost, and the connection breaks.
    pub lost_answer: u32,
    /// Request or answer vanish without a trace, and the deadline has to pass.
    pub silence: u32,
    /// A front end answers 502 without asking GitLab.
    pub bad_gateway: u32,
    /// The request arrives a second time, later.
    pub duplicate: u32,
    /// Request and answer take up to twenty seconds each.
    pub slow: u32,
    /// Something on the way answers: a login page (302), 401, 403 or 404 with HTML, 407, 413, 503.
    pub proxy_page: u32,
    /// A limit answers 429, with a `Retry-After` of up to 20 seconds.
    pub limited: u32,
    /// A log patch is answered 416 with the true size, and not carried out.
    pub forced_416: u32,
    /// Before a log patch is looked at, the log is locked by somebody else for a moment.
    pub locked_trace: u32,
    /// Before a log patch is looked at, GitLab loses a part of the log's end, or all of it.
    pub forgotten_tail: u32,
}

impl Faults {
    /// A network where each call has a good chance to get into trouble: 5 % lost requests, 5 % lost answers, 5 % 502, and
    /// 1 or 2 % of all else but proxy pages.
    #[must_use]
    pub fn rough() -> Self {
        Self {
            not_sent: 20,
            lost_request: 50,
            lost_answer: 50,
            silence: 10,
            bad_gateway: 50,
            duplicate: 20,
            slow: 20,
            proxy_page: 0,
            limited: 10,
            forced_416: 20,
            locked_trace: 20,
            forgotten_tail: 10,
        }
    }

    /// These faults with a change applied.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// What becomes of one call.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fate {
    /// The request arrives, its answer comes home.
    #[non_exhaustive]
    Delivered {
        /// How long the request takes.
        there: Duration,
        /// How long the answer takes.
        back: Duration,
        /// The request arrives once more, so long after it was sent.
        again: Option<Duration>,
    },
    /// The request arrives, the answer does not; the client sees this failure, or nothing until its deadline.
    #[non_exhaustive]
    AnswerLost {
        /// How long the request takes.
        there: Duration,
        /// What the client sees.
        seen: Option<Failure>,
    },
    /// The request does not arrive; the client sees this failure, or nothing until its deadline.
    RequestLost(Option<Failure>),
    /// Somebody else answers.
    Forged(Box<Response<Bytes>>),
    /// The answer is 416 with the true size.
    Forced416,
}

/// Draws the fate of each call.
#[derive(Clone, Debug)]
pub struct Net {
    /// What may go wrong from now on.
    pub faults: Faults,
    dice: Dice,
}

impl Net {
    /// A network with these faults.
    #[must_use]
    pub fn new(faults: Faults, seed: u64) -> Self {
        Self { faults, dice: Dice::new(seed) }
    }

    /// What becomes of the next call, `is_patch` telling whether it is one of a log.
    pub fn fate(&mut self, is_patch: bool) -> Fate {
        let faults = self.faults.clone();
        let dice = &mut self.dice;
        let most = Duration::from_millis(if dice.per_mille(faults.slow) { 20_000 } else { 200 });
        let (there, back) = (dice.between(Duration::ZERO, most), dice.between(Duration::ZERO, most));
        if dice.per_mille(faults.not_sent) {
            return Fate::RequestLost(Some(Failure::NotSent));
        }
        if dice.per_mille(faults.lost_request) {
            return Fate::RequestLost(Some(Failure::Unknown));
        }
        if dice.per_mille(faults.lost_answer) {
            return Fate::AnswerLost { there, seen: Some(Failure::Unknown) };
        }
        if dice.per_mille(faults.silence) {
            let arrives = dice.per_mille(500);
            return if arrives { Fate::AnswerLost { there, seen: None } } else { Fate::RequestLost(None) };
        }
        if dice.per_mille(faults.bad_gateway) {
            return Fate::Forged(Box::new(page(StatusCode::BAD_GATEWAY)));
        }
        if dice.per_mille(faults.proxy_page) {
            let status = [302, 401, 403, 404, 407, 413, 503][dice.below(7) as usize];
            return Fate::Forged(Box::new(page(StatusCode::from_u16(status).unwrap_or_default())));
        }
        if dice.per_mille(faults.limited) {
            let mut page = page(StatusCode::TOO_MANY_REQUESTS);
            let seconds = http::HeaderValue::from(1 + dice.below(20));
            page.headers_mut().insert(http::header::RETRY_AFTER, seconds);
            return Fate::Forged(Box::new(page));
        }
        if is_patch && dice.per_mille(faults.forced_416) {
            return Fate::Forced416;
        }
        let again = dice.per_mille(faults.duplicate).then(|| dice.between(there, Duration::from_secs(90)));
        Fate::Delivered { there, back, again }
    }

    /// Whether this fault of the server's happens now.
    pub(crate) fn strikes(&mut self, fault: impl FnOnce(&Faults) -> u32) -> bool {
        self.dice.per_mille(fault(&self.faults))
    }

    pub(crate) fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }
}

/// A page as a proxy writes it: HTML, no `Job-Status`, and a `Location` where one belongs.
fn page(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(b"<html><body>Something on the way</body></html>"));
    *response.status_mut() = status;
    if status.is_redirection() {
        let login = http::HeaderValue::from_static("https://login.example.test/?next=gitlab");
        response.headers_mut().insert(http::header::LOCATION, login);
    }
    response
}
