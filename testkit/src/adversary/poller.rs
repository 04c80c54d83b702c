//! A poller under attack.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::{Machine, Output, Poller, PollerEvent, RunnerConfig, RunnerToken, Server, Ticket, Timestamp};
use http::Response;

use super::job::{Outcome, START, Timeline, VALID};
use super::reply::latency;
use super::{Choose, Finding, HEALING, Reply, Report};
use crate::monitor::PollerMonitor;

/// A job for the end, when the trouble is over.
const JOB: &str = r#"{"id":9,"token":"t"}"#;

/// Lets a poller ask until `span` has passed, and then hands out a job.
pub(super) fn attack(seed: u64, span: Duration, choose: Choose<'_>) -> Result<Report, Finding> {
    let server = Server::parse("https://gitlab.example.test").expect(VALID);
    let config = Arc::new(RunnerConfig::new(server, Info::new("adversary", "1")).with_jitter_seed(seed));
    let token = RunnerToken::new("glrt-adversary").expect(VALID);
    let mut poller = Poller::new(config, token, START);
    let mut monitor = PollerMonitor::new(Duration::from_secs(3));
    let mut timeline = Timeline::default();
    let (mut now, mut answers, heals) = (START, 0, START.saturating_add(span));
    let mut home: Option<(Timestamp, Ticket, Outcome)> = None;
    poller.set_capacity(1);
    let mut outputs = 0;
    loop {
        outputs += 1;
        if outputs > 1000 {
            return Err(timeline.finding("a thousand outputs at one moment", answers));
        }
        let checked = match poller.poll(now) {
            Output::Send(call) => {
                let (_, ticket) = call.split();
                let deadline = ticket.hints().deadline;
                let reply = if now < heals { choose(answers) } else { Reply::Honest };
                timeline.note(now, || format!("job request -> {reply:?}"));
                answers += 1;
                let outcome = match reply {
                    Reply::Says { .. } => Ok(reply.answer(0..0).unwrap_or_default()),
                    Reply::Fails(failure) | Reply::AnswerLost(failure) => Err(failure),
                    Reply::Honest if now >= heals => Ok(answer(201, JOB)),
                    Reply::Honest | Reply::Never => Ok(answer(204, "")),
                };
                home = latency(reply, deadline).map(|span| (now.saturating_add(span), ticket, outcome));
                monitor.sent(deadline.saturating_add(Duration::from_secs(30)), now)
            }
            Output::Event(PollerEvent::Assigned(_)) if now >= heals => {
                let (calls, events) = monitor.worst();
                return Ok(Report { answers, calls, events });
            }
            Output::Event(event) => {
                timeline.note(now, || format!("{event:?}"));
                let told = monitor.told(&event, now);
                if matches!(event, PollerEvent::Assigned(_)) {
                    poller.set_capacity(1);
                    monitor.verb();
                }
                told
            }
            Output::Wait(until) => {
                let checked = monitor.waits(until, poller.capacity(), now);
                let arrival = home.as_ref().map(|(at, ..)| *at);
                let next = until.into_iter().chain(arrival).min().unwrap_or(heals);
                outputs = 0;
                now = now.max(next);
                if let Some((_, ticket, outcome)) = home.take_if(|(at, ..)| *at <= now) {
                    let seen = monitor.answered(outcome.as_ref().ok(), now);
                    let handed = match outcome {
                        Ok(response) => poller.handle_response(ticket, response, now),
                        Err(failure) => poller.handle_failure(ticket, failure, now),
                    };
                    seen.and(handed.map_err(|misuse| format!("misused: {misuse}"))).and(checked)
                } else {
                    checked
                }
            }
            Output::Done => Err("L4: done without a drain".to_owned()),
        };
        checked.map_err(|what| timeline.finding(&what, answers))?;
        if now > heals.saturating_add(HEALING) {
            return Err(timeline.finding("L12: no job within twenty minutes", answers));
        }
    }
}

fn answer(status: u16, body: &'static str) -> Response<Bytes> {
    Response::builder().status(status).body(Bytes::from_static(body.as_bytes())).unwrap_or_default()
}
