//! Canaries in every secret place, and a scan of everything that can be printed, told or stored (L11).

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use gitlab_runner_api::api::Endpoint;
use gitlab_runner_api::api::register::Register;
use gitlab_runner_api::api::verify::Verify;
use gitlab_runner_api::{
    Assignment, Exchange, Job, JobResult, Machine, Output, Poller, RegistrationToken, RunnerToken, Server,
};
use http::Response;

use crate::common::{START, config};

const PAYLOAD: &str = r#"{"id":7,"token":"canary-job-token",
    "git_info":{"repo_url":"https://gitlab-ci-token:canary-job-token@gitlab.example.test/x.git","ref":"main"},
    "variables":[{"key":"PASSWORD","value":"canary-variable","masked":true},{"key":"OPEN","value":"canary-public","public":true}],
    "credentials":[{"type":"registry","password":"canary-registry"}],
    "steps":[{"name":"script","script":["echo"]}]}"#;

/// Everything seen, to be scanned at the end.
#[derive(Default)]
struct Seen(Vec<String>);

impl Seen {
    fn shows(&mut self, thing: &impl Debug) {
        self.0.push(format!("{thing:?}"));
        self.0.push(format!("{thing:#?}"));
    }

    /// Drives a machine through these answers, and looks at whatever it shows on the way. Answers that echo a token stand
    /// in for servers and proxies that do.
    fn drive<M: Machine<Event: Debug> + Debug>(&mut self, machine: &mut M, answers: &[(u16, &str)]) -> Vec<M::Event> {
        let mut now = START;
        let mut events = Vec::new();
        let mut answers = answers.iter();
        loop {
            self.shows(machine);
            match machine.poll(now) {
                Output::Send(call) => {
                    self.shows(&call);
                    let (request, ticket) = call.split();
                    self.shows(&request.headers());
                    self.shows(request.body());
                    self.shows(&ticket);
                    self.shows(&ticket.scope());
                    let Some((status, body)) = answers.next() else { return events };
                    let location = "https://canary-user:canary-password@other.example.test/?token=canary-job-token";
                    let response = Response::builder().status(*status).header("location", location);
                    let response = response.header("x-request-id", "not a canary").body(Bytes::from(body.to_string()));
                    machine.handle_response(ticket, response.unwrap(), now).unwrap();
                }
                Output::Event(event) => {
                    self.shows(&event);
                    events.push(event);
                }
                Output::Wait(Some(until)) => now = until,
                Output::Wait(None) | Output::Done => return events,
            }
        }
    }
}

#[test]
fn no_canary_is_seen_in_a_whole_life() {
    let mut seen = Seen::default();
    let echo = r#"{"message":"403 Forbidden - canary-runner-token canary-registration-token canary-job-token"}"#;
    let config = Arc::new(config());

    let token = RegistrationToken::new("canary-registration-token").unwrap();
    seen.shows(&token);
    let register = || Register::new(token.clone(), config.info());
    for answers in [
        &[(201, r#"{"id":1,"token":"canary-runner-token"}"#)][..],
        &[(403, r#"{"message":"no canary-registration-token"}"#)],
        &[(302, "")],
        &[(201, "canary-runner-token")],
    ] {
        for result in seen.drive(&mut Exchange::new(&config, register(), START), answers) {
            seen.shows(&result);
            if let Err(error) = result {
                seen.0.push(error.to_string());
            }
        }
    }

    let token = RunnerToken::new("canary-runner-token").unwrap();
    let verify = Verify::new(token.clone(), config.info());
    seen.shows(&verify);
    seen.shows(&verify.hints());
    seen.drive(&mut Exchange::new(&config, verify, START), &[(403, r#"{"message":"canary-runner-token"}"#)]);

    let mut poller = Poller::new(config.clone(), token, START);
    poller.set_capacity(3);
    let unreadable = r#"{"id":8,"token":"canary-job-token","steps":"canary-variable"}"#;
    let answers = [
        (403, r#"{"message":"canary-runner-token"}"#),
        (422, "canary-runner-token"),
        (404, "<html>canary-html</html>"),
        (307, ""),
        (201, "canary-lost"),
        (201, unreadable),
        (201, PAYLOAD),
        (204, ""),
    ];
    seen.drive(&mut poller, &answers);

    let assignment = Assignment::from_json(PAYLOAD).unwrap();
    seen.shows(&assignment);
    seen.shows(&assignment.spec());
    for answers in [
        &[(200, ""), (403, echo)][..],
        &[(200, ""), (202, ""), (400, r#"{"error":"canary-job-token"}"#), (200, "")],
        &[(200, ""), (416, "canary-html"), (302, ""), (403, "<html>"), (403, "")],
    ] {
        let mut job = Job::new(config.clone(), &assignment, START);
        job.write("canary-log\n");
        job.finish(JobResult::from_exit_code(1));
        seen.drive(&mut job, answers);
        seen.shows(&job.snapshot());
        seen.0.push(job.snapshot().to_json());
    }
    for bad in [
        Assignment::from_json("{\"id\":7,\"token\":canary}").unwrap_err().to_string(),
        Assignment::from_json(r#"{"id":"canary","token":"t"}"#).unwrap_err().to_string(),
        Server::parse("https://canary:canary@h").unwrap_err().to_string(),
        RunnerToken::new("canary\ntoken").unwrap_err().to_string(),
    ] {
        seen.0.push(bad);
    }

    assert!(seen.0.len() > 300, "{}", seen.0.len());
    for shown in &seen.0 {
        assert!(!shown.contains("canary"), "{shown}");
    }
}
