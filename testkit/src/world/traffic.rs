//! The way of a call through the network, to GitLab and back.

use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::{Body, Call, CallKind, Failure, Machine};
use http::{Request, Response};

use super::{Arrival, Flight, Violation, Who, World};
use crate::coordinator::Answer;
use crate::net::Fate;

impl World {
    pub(super) fn arrive(&mut self, after: Duration, arrival: Arrival) {
        self.counter += 1;
        self.arrivals.insert((self.now.saturating_add(after), self.counter), arrival);
    }

    pub(super) fn serve(
        &mut self,
        flight: Option<u64>,
        request: Request<Bytes>,
        back: Option<Duration>,
    ) -> Result<(), Violation> {
        let job = job_of(&request);
        let what = format!("{} {}", request.method(), request.uri().path());
        let answer = self.coordinator.submit(self.now, request);
        match (answer, flight, back) {
            (Answer::Now(response), flight, back) => {
                self.note(format!(
                    "GitLab: {what} -> {} {:?}",
                    response.status(),
                    response.headers().get("job-status")
                ));
                if let (Some(flight), Some(back)) = (flight, back) {
                    self.arrive(back, Arrival::Outcome { flight, outcome: Ok(response) });
                }
            }
            (Answer::Held(hold), Some(flight), Some(back)) => _ = self.held.insert(hold, (flight, back)),
            (Answer::Held(hold), ..) => self.coordinator.abandon(hold),
        }
        job.map_or(Ok(()), |job| self.check_log(job))
    }

    /// The server's own troubles with a log, just before a patch of it is looked at.
    pub(super) fn meddle(&mut self, request: &Request<Bytes>) {
        let Some(job) = job_of(request).filter(|_| request.method() == http::Method::PATCH) else { return };
        if self.coordinator.job(job).is_none_or(|record| record.status().is_final()) {
            return;
        }
        if self.net.strikes(|faults| faults.locked_trace) {
            let span = self.net.dice().between(Duration::ZERO, Duration::from_secs(2));
            self.coordinator.lock_trace(job, self.now.saturating_add(span));
        }
        if self.net.strikes(|faults| faults.forgotten_tail) {
            let size = self.coordinator.job(job).map_or(0, |record| record.trace().len() as u64);
            let keep = self.net.dice().below(size + 1);
            self.note(format!("GitLab forgets all but {keep} of {size} bytes of job {job}"));
            self.coordinator.forget_trace_tail(job, keep);
        }
    }

    pub(super) fn launch(&mut self, who: Who, call: Call) -> Result<(), Violation> {
        if self.flights.values().any(|flight| flight.who == who) {
            return Err(self.violation(format!("L1: a second ticket of {who:?} is out")));
        }
        self.note(format!("{who:?}: {call:?}"));
        let (request, ticket) = call.split();
        let request = request.map(Body::into_bytes);
        let deadline = ticket.hints().deadline;
        let checked = match who {
            Who::Poller => self.poller_monitor.sent(deadline.saturating_add(Duration::from_secs(30)), self.now),
            Who::Job(id) => match self.actors.get_mut(&id) {
                Some(actor) => actor.monitor.sent(&request, deadline, self.now),
                None => Ok(()),
            },
        };
        checked.map_err(|what| self.violation_by(who, &what))?;
        let is_patch = ticket.hints().kind == CallKind::PatchTrace;
        let deadline = self.now.saturating_add(ticket.hints().deadline);
        self.counter += 1;
        let id = self.counter;
        self.flights.insert(id, Flight { who, ticket, deadline });
        let soon = Duration::from_millis(50);
        let fate = self.net.fate(is_patch);
        match fate {
            Fate::Delivered { there, back, again } => {
                if let Some(again) = again.filter(|_| is_patch) {
                    self.arrive(
                        again,
                        Arrival::Request { flight: None, request: request.clone(), back: None, spare: true },
                    );
                }
                self.arrive(there, Arrival::Request { flight: Some(id), request, back: Some(back), spare: false });
            }
            Fate::AnswerLost { there, seen } => {
                self.arrive(there, Arrival::Request { flight: None, request, back: None, spare: false });
                if let Some(failure) = seen {
                    self.arrive(there + soon, Arrival::Outcome { flight: id, outcome: Err(failure) });
                }
            }
            Fate::RequestLost(Some(failure)) => {
                self.arrive(soon, Arrival::Outcome { flight: id, outcome: Err(failure) })
            }
            Fate::RequestLost(None) => {}
            Fate::Forged(page) => self.arrive(soon, Arrival::Outcome { flight: id, outcome: Ok(*page) }),
            Fate::Forced416 => {
                let size =
                    job_of(&request).and_then(|job| self.coordinator.job(job)).map_or(0, |job| job.trace().len());
                let response = Response::builder().status(416).header("range", format!("0-{size}"));
                let response = response.body(Bytes::new()).unwrap_or_default();
                self.arrive(soon, Arrival::Outcome { flight: id, outcome: Ok(response) });
            }
        }
        Ok(())
    }

    pub(super) fn come_home(
        &mut self,
        flight: u64,
        outcome: Result<Response<Bytes>, Failure>,
    ) -> Result<(), Violation> {
        let Some(Flight { who, ticket, .. }) = self.flights.remove(&flight) else { return Ok(()) };
        let seen = outcome.as_ref().map_or_else(|failure| format!("{failure:?}"), |answer| answer.status().to_string());
        self.note(format!("{who:?}: home comes {seen}"));
        let unknown = match &outcome {
            Ok(response) => matches!(response.status().as_u16(), 408 | 500 | 502 | 504),
            Err(failure) => failure.may_have_arrived(),
        };
        if who == Who::Poller && unknown {
            self.unanswered += 1;
        }
        let checked = match who {
            Who::Poller => self.poller_monitor.answered(outcome.as_ref().ok(), self.now),
            Who::Job(id) => match (self.actors.get_mut(&id), &outcome) {
                (Some(actor), Ok(response)) => actor.monitor.answered(response, self.now),
                (Some(actor), Err(failure)) => actor.monitor.failed(failure.may_have_arrived(), self.now),
                (None, _) => Ok(()),
            },
        };
        checked.map_err(|what| self.violation_by(who, &what))?;
        let handed = match who {
            Who::Poller => self.poller.handle_outcome(ticket, outcome, self.now),
            Who::Job(id) => match self.actors.get_mut(&id) {
                Some(actor) => actor.job.handle_outcome(ticket, outcome, self.now),
                None => Ok(()),
            },
        };
        handed.map_err(|misuse| self.violation(format!("the world misused {who:?}: {misuse}")))
    }
}

/// The job a request is about.
fn job_of(request: &Request<Bytes>) -> Option<u64> {
    request.uri().path().split('/').find_map(|part| part.parse().ok())
}
