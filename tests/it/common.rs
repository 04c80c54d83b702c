//! Drives one machine by hand, against scripted answers or the simulated GitLab, on virtual time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::api::info::{Features, Info};
use gitlab_runner_api::{
    Assignment, CallKind, Failure, Hints, Job, JobEvent, Machine, Output, Poller, PollerEvent, Priority, RunnerConfig,
    RunnerToken, Server, SystemId, Ticket, Timestamp, WrongMachine,
};
use gitlab_runner_api_testkit::{Answer, Coordinator, NewJob, Settings};
use http::{Request, Response};
use serde_json::Value;

pub(crate) const START: Timestamp = Timestamp::from_millis(1_750_000_000_000);
pub(crate) const TOKEN: &str = "glrt-by-hand";
pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn config() -> RunnerConfig {
    let features = Features::default().cancel_gracefully(true);
    let info = Info::new("by-hand", "1").with_platform("linux", "amd64").with_features(features);
    RunnerConfig::new(Server::parse("https://gitlab.example.test").unwrap(), info)
        .with_system_id(SystemId::new("s_0123456789ab").unwrap())
}

pub(crate) fn assignment() -> Assignment {
    Assignment::from_json(r#"{"id":7,"token":"glcbt-7","features":{"failure_reasons":["script_failure"]}}"#).unwrap()
}

/// A call that left: what is on the wire, and when it left.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) hints: Hints,
    pub(crate) request: Request<Bytes>,
    pub(crate) at: Timestamp,
}

impl Sent {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(self.request.body()).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.request.headers()[name].to_str().unwrap()
    }

    /// A short name, as the manual's tables use it: `accept`, `keep-alive`, `report`, `patch 3-9`, `probe 9`.
    pub(crate) fn name(&self) -> String {
        match (self.hints.kind, self.hints.priority) {
            (CallKind::PatchTrace, _) => {
                let start = self.header("content-range").split('-').next().unwrap();
                match self.request.body().len() {
                    0 => format!("probe {start}"),
                    length => format!("patch {start}+{length}"),
                }
            }
            (CallKind::UpdateJob, Priority::FinalUpdate) => {
                format!("report {}", self.json()["state"].as_str().unwrap())
            }
            (CallKind::UpdateJob, _) => "running".to_owned(),
            (kind, _) => kind.route().to_owned(),
        }
    }
}

/// What a machine does when it is polled until it rests.
#[derive(Debug)]
pub(crate) enum Rest {
    Sent(Box<Sent>),
    Waits(Option<Timestamp>),
    Done,
}

pub(crate) struct Hand<M: Machine> {
    pub(crate) machine: M,
    pub(crate) now: Timestamp,
    pub(crate) events: Vec<M::Event>,
    ticket: Option<Ticket>,
    /// The name of the last call.
    name: String,
}

impl<M: Machine<Event: std::fmt::Debug>> Hand<M> {
    pub(crate) fn new(machine: M) -> Self {
        Self { machine, now: START, events: Vec::new(), ticket: None, name: String::new() }
    }

    pub(crate) fn poll(&mut self) -> Rest {
        for _ in 0..1000 {
            match self.machine.poll(self.now) {
                Output::Event(event) => self.events.push(event),
                Output::Wait(until) => return Rest::Waits(until),
                Output::Done => return Rest::Done,
                Output::Send(call) => {
                    let (request, ticket) = call.split();
                    let hints = ticket.hints().clone();
                    assert!(self.ticket.replace(ticket).is_none(), "a second ticket is out");
                    let request = request.map(gitlab_runner_api::Body::into_bytes);
                    let sent = Sent { hints, request, at: self.now };
                    self.name = sent.name();
                    return Rest::Sent(Box::new(sent));
                }
            }
        }
        panic!("1000 events and no end: {:?}", self.events);
    }

    /// The next call, with as much time passing as it takes.
    pub(crate) fn call(&mut self) -> Box<Sent> {
        for _ in 0..100 {
            match self.poll() {
                Rest::Sent(sent) => return sent,
                Rest::Waits(Some(until)) => self.now = self.now.max(until),
                rest => panic!("no call to come: {rest:?}, {:?}", self.events),
            }
        }
        panic!("no call in 100 waits");
    }

    /// The name of the call that is in flight, else of the next one, with as much time passing as it takes.
    pub(crate) fn call_or_pending(&mut self) -> String {
        if self.has_ticket() { self.name.clone() } else { self.call().name() }
    }

    /// The next call, which is to be this one, now.
    pub(crate) fn sends(&mut self, name: &str) -> Box<Sent> {
        match self.poll() {
            Rest::Sent(sent) => {
                assert_eq!(sent.name(), name);
                sent
            }
            rest => panic!("{name} was to be sent, not {rest:?}"),
        }
    }

    pub(crate) fn waits(&mut self) -> Option<Timestamp> {
        match self.poll() {
            Rest::Waits(until) => until,
            rest => panic!("it was to wait, not {rest:?}"),
        }
    }

    pub(crate) fn is_done(&mut self) -> bool {
        matches!(self.poll(), Rest::Done)
    }

    pub(crate) fn answer(&mut self, status: u16, headers: &[(&str, &str)], body: &str) {
        let response =
            headers.iter().fold(Response::builder().status(status), |r, (name, value)| r.header(*name, *value));
        self.hand_in(response.body(Bytes::copy_from_slice(body.as_bytes())).unwrap()).unwrap();
    }

    pub(crate) fn hand_in(&mut self, response: Response<Bytes>) -> Result<(), WrongMachine> {
        self.machine.handle_response(self.ticket.take().expect("a ticket is out"), response, self.now)
    }

    pub(crate) fn fail(&mut self, failure: Failure) {
        self.machine.handle_failure(self.ticket.take().expect("a ticket is out"), failure, self.now).unwrap();
    }

    pub(crate) fn has_ticket(&self) -> bool {
        self.ticket.is_some()
    }

    pub(crate) fn drop_ticket(&mut self) -> Ticket {
        self.ticket.take().expect("a ticket is out")
    }

    pub(crate) fn pass(&mut self, span: Duration) {
        self.now = self.now.saturating_add(span);
    }

    /// Performs all calls against the simulated GitLab until the machine waits longer than `patience`, or is done.
    /// Answers how many calls it took.
    pub(crate) fn run(&mut self, gitlab: &mut Coordinator, patience: Duration) -> usize {
        let mut calls = 0;
        for _ in 0..10_000 {
            match self.poll() {
                Rest::Sent(sent) => {
                    calls += 1;
                    let response = match gitlab.submit(self.now, sent.request) {
                        Answer::Now(response) => response,
                        Answer::Held(hold) => loop {
                            self.now = self.now.max(gitlab.deadline().unwrap());
                            if let Some((answered, response)) = gitlab.poll(self.now) {
                                assert_eq!(answered, hold);
                                break response;
                            }
                        },
                    };
                    self.hand_in(response).unwrap();
                }
                Rest::Waits(Some(until)) if until.saturating_since(self.now) <= patience => self.now = until,
                Rest::Waits(_) | Rest::Done => return calls,
            }
        }
        panic!("10000 steps and no end");
    }
}

impl Hand<Job> {
    /// A job that GitLab knows to be ours.
    pub(crate) fn accepted(config: RunnerConfig) -> Self {
        let mut hand = Self::new(Job::new(Arc::new(config), &assignment(), START));
        hand.sends("running");
        hand.answer(200, &[], "200");
        assert!(hand.waits().is_some());
        if hand.events.pop_if(|event| *event == JobEvent::Save).is_some() {
            // A durable job is saved before it says that it is accepted.
            hand.machine.saved(hand.machine.revision(), 0);
            hand.waits();
        }
        assert_eq!(hand.events, [JobEvent::Accepted]);
        hand.events.clear();
        hand
    }
}

/// A simulated GitLab with our runner.
pub(crate) fn gitlab(settings: Settings) -> Coordinator {
    let mut gitlab = Coordinator::new(settings);
    gitlab.add_runner(TOKEN);
    gitlab
}

/// Queues a job, asks for it, and gives it back as GitLab handed it out.
pub(crate) fn take_job(gitlab: &mut Coordinator, config: &RunnerConfig, now: Timestamp, job: NewJob) -> Assignment {
    gitlab.queue(now, job);
    let mut poller = Hand::new(Poller::new(Arc::new(config.clone()), RunnerToken::new(TOKEN).unwrap(), now));
    poller.now = now;
    poller.machine.set_capacity(1);
    poller.run(gitlab, Duration::ZERO);
    match poller.events.pop() {
        Some(PollerEvent::Assigned(assignment)) => assignment,
        other => panic!("no job: {other:?}"),
    }
}
