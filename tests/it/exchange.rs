//! One call through retries, and what tells state machines apart.

use std::sync::Arc;
use std::time::Duration;

use gitlab_runner_api::api::create_runner::{CreateRunner, RunnerType};
use gitlab_runner_api::api::register::{Attributes, Register};
use gitlab_runner_api::api::reset_token::ResetToken;
use gitlab_runner_api::api::router::DiscoverRouter;
use gitlab_runner_api::api::unregister::{Removal, Unregister};
use gitlab_runner_api::api::verify::Verify;
use gitlab_runner_api::{
    Assignment, Cause, Exchange, ExchangeError, Failure, Job, JobEvent, JobResult, Machine, Output,
    PersonalAccessToken, Poller, PollerEvent, RegistrationToken, RunnerConfig, RunnerToken, Secret, Server, Stream,
    Timestamp,
};

use crate::common::{Hand, Rest, SECOND, START, TOKEN, assignment, config};

fn token() -> RunnerToken {
    RunnerToken::new(TOKEN).unwrap()
}

fn register(config: &RunnerConfig) -> Hand<Exchange<Register>> {
    let call = Register::new(RegistrationToken::new("t").unwrap(), config.info());
    Hand::new(Exchange::new(config, call, START))
}

fn verify(config: &RunnerConfig) -> Hand<Exchange<Verify>> {
    Hand::new(Exchange::new(config, Verify::new(token(), config.info()), START))
}

/// Answers each call with this status, and returns how many there were.
fn calls_answered<M: Machine<Event: std::fmt::Debug>>(hand: &mut Hand<M>, status: u16) -> usize {
    for calls in 0..20 {
        if hand.is_done() {
            return calls;
        }
        hand.call_or_pending();
        hand.answer(status, &[], "<html>");
    }
    panic!("no end: {:?}", hand.events);
}

#[test]
fn a_call_that_must_not_be_repeated_is_not_and_its_outcome_is_uncertain() {
    for status in [408, 500, 502, 504] {
        let mut made = register(&config());
        assert_eq!(calls_answered(&mut made, status), 1, "{status}");
        let error = made.events.pop().unwrap().unwrap_err();
        assert!(matches!(error, ExchangeError::Uncertain(Cause::Status(told)) if told == status), "{error}");

        let call = CreateRunner::new(PersonalAccessToken::new("glpat-1").unwrap(), RunnerType::Project(7));
        let mut made = Hand::new(Exchange::new(&config(), call, START));
        assert_eq!(calls_answered(&mut made, status), 1, "{status}");
        assert!(matches!(made.events.pop(), Some(Err(ExchangeError::Uncertain(_)))));

        let mut reset = Hand::new(Exchange::new(&config(), ResetToken::new(token()), START));
        assert_eq!(calls_answered(&mut reset, status), 1, "{status}");
        assert!(matches!(reset.events.pop(), Some(Err(ExchangeError::Uncertain(_)))));
    }
    // Nobody knows what these mean: they are an answer, and no reason to repeat the call.
    for status in [505, 507, 520] {
        let mut made = register(&config());
        assert_eq!(calls_answered(&mut made, status), 1, "{status}");
    }
    // What was refused before it was looked at may be repeated, and so may a call that changes nothing.
    for status in [429, 503] {
        let mut made = register(&config());
        assert!(calls_answered(&mut made, status) > 4, "{status}");
    }
    for status in [408, 429, 500, 502, 503, 504] {
        assert!(calls_answered(&mut verify(&config()), status) > 4, "{status}");
    }
}

#[test]
fn a_server_without_a_router_is_asked_once() {
    let mut asked = Hand::new(Exchange::new(&config(), DiscoverRouter::new(token()), START));
    asked.call();
    asked.answer(501, &[], r#"{"message":"Job Router is not available."}"#);
    assert!(asked.is_done());
    assert!(matches!(asked.events.pop(), Some(Ok(None))));
}

#[test]
fn an_answer_that_is_too_large_is_an_answer() {
    let mut asked = verify(&config());
    asked.call();
    asked.fail(Failure::TooLarge);
    assert!(asked.is_done());
    assert!(matches!(asked.events.pop(), Some(Err(ExchangeError::TooLarge))));
}

#[test]
fn tags_are_sent_as_one_text() {
    let mut attributes = Attributes::default();
    attributes.tag_list = vec!["hpc".to_owned(), "gpu".to_owned()];
    let config = config();
    let call = Register::new(RegistrationToken::new("t").unwrap(), config.info()).with_attributes(attributes);
    assert_eq!(Hand::new(Exchange::new(&config, call, START)).call().json()["tag_list"], "hpc,gpu");
    assert!(register(&config).call().json().get("tag_list").is_none());
}

#[test]
fn the_year_one_is_no_expiry() {
    for (sent, read) in [
        (r#""0001-01-01T00:00:00Z""#, None),
        ("null", None),
        (r#""2027-01-16T08:00:00.123Z""#, Some("2027-01-16T08:00:00.123Z".to_owned())),
    ] {
        let mut made = register(&config());
        made.call();
        made.answer(201, &[], &format!(r#"{{"id":1,"token":"glrt-1","token_expires_at":{sent}}}"#));
        assert!(made.is_done());
        assert_eq!(made.events.pop().unwrap().unwrap().token_expires_at, read);
    }
}

#[test]
fn no_state_machine_takes_the_ticket_of_another() {
    let config = config();
    // Two exchanges of one kind, from one configuration: not even their request ids are the same.
    let (mut one, mut two) = (verify(&config), verify(&config));
    let ids = [one.call(), two.call()].map(|sent| sent.header("x-request-id").to_owned());
    assert_ne!(ids[0], ids[1]);
    let ticket = two.drop_ticket();
    one.machine.handle_failure(ticket, Failure::NotSent, START).unwrap_err();
    // Two pollers of one token.
    let config = Arc::new(config);
    let mut pollers = [(), ()].map(|()| {
        let mut poller = Poller::new(config.clone(), token(), START);
        poller.set_capacity(1);
        Hand::new(poller)
    });
    let ids = pollers.each_mut().map(|poller| poller.call().header("x-request-id").to_owned());
    assert_ne!(ids[0], ids[1]);
    let ticket = pollers[1].drop_ticket();
    pollers[0].machine.handle_failure(ticket, Failure::NotSent, START).unwrap_err();
    // They share what is told about the token.
    assert_eq!(pollers[0].machine.scopes().next(), pollers[1].machine.scopes().next());
    // Two jobs with one id, on two instances.
    let elsewhere = RunnerConfig::new(Server::parse("https://other.example.test").unwrap(), config.info().clone());
    let mut here = Hand::new(Job::new(config.clone(), &assignment(), START));
    let mut there = Hand::new(Job::new(Arc::new(elsewhere), &assignment(), START));
    here.sends("running");
    there.sends("running");
    let ticket = there.drop_ticket();
    here.machine.handle_failure(ticket, Failure::NotSent, START).unwrap_err();
    assert_ne!(here.machine.scopes().next(), there.machine.scopes().next());
}

#[test]
fn the_same_seed_and_order_give_the_same_requests_and_clones_count_together() {
    let ids = |config: RunnerConfig| {
        let other = config.clone();
        [verify(&config).call(), verify(&other).call()].map(|sent| sent.header("x-request-id").to_owned())
    };
    assert_eq!(ids(config()), ids(config()));
    assert_ne!(ids(config()), ids(config().with_jitter_seed(1)));
}

#[test]
fn a_late_answer_of_an_earlier_life_is_no_error() {
    let mut job = Hand::accepted(config());
    job.machine.write("abc");
    job.sends("patch 0+3");
    let ticket = job.drop_ticket();
    let mut resumed = Job::resume(Arc::new(config()), &assignment(), job.machine.snapshot(), START).unwrap();
    let late = http::Response::builder().status(202).body(()).unwrap();
    resumed.handle_response(ticket, late, START).unwrap();
    assert_eq!(resumed.unsent(), 3, "and it says nothing about this life");
}

#[test]
fn done_is_done_whatever_the_application_does() {
    let config = Arc::new(config().with_rotation_due(Some(START.saturating_add(SECOND))));
    let mut poller = Poller::new(config.clone(), token(), START);
    poller.drain();
    assert!(matches!(poller.poll(START), Output::Done));
    let late = START.saturating_add(7200 * SECOND);
    assert!(matches!(poller.poll(late), Output::Done), "the rotation falls due after the end");
    poller.set_capacity(3);
    assert!(matches!(poller.poll(late), Output::Done));

    let mut job = Hand::accepted((*config).clone());
    job.machine.finish(JobResult::success());
    job.sends("report success");
    job.answer(200, &[("job-status", "success")], "");
    assert!(job.is_done());
    job.machine.mask(&Secret::new("short"));
    job.machine.check_in();
    job.machine.restart_timeout(late);
    job.machine.finish(JobResult::from_exit_code(1));
    assert!(matches!(job.machine.poll(late), Output::Done));
}

#[test]
fn a_line_s_own_time_moves_no_clock() {
    let mut job = Hand::accepted(config());
    let ahead = START.saturating_add(7200 * SECOND);
    job.machine.write_at(Stream::Stdout, "from a clock that is two hours ahead\n", ahead);
    job.sends("patch 0+37");
    job.answer(202, &[], "");
    job.waits();
    assert!(!job.events.contains(&JobEvent::TimedOut), "{:?}", job.events);
}

#[test]
fn a_timeout_can_be_started_again() {
    let assignment = Assignment::from_json(r#"{"id":7,"token":"t","runner_info":{"timeout":3600}}"#).unwrap();
    let config = Arc::new(config());
    let mut job = Hand::new(Job::new(config.clone(), &assignment, START));
    job.sends("running");
    job.answer(200, &[], "");
    job.pass(3000 * SECOND);
    job.machine.restart_timeout(job.now);
    let deadline = START.saturating_add(6600 * SECOND);
    assert_eq!(job.machine.deadline(), deadline);
    let resumed = Job::resume(config, &assignment, job.machine.snapshot(), job.now).unwrap();
    assert_eq!(resumed.deadline(), deadline, "it is part of the snapshot");
    let told = |job: &mut Hand<Job>| job.events.drain(..).any(|event| event == JobEvent::TimedOut);
    job.now = deadline;
    job.poll();
    assert!(told(&mut job));
    job.machine.restart_timeout(job.now);
    job.poll();
    assert!(!told(&mut job));
    job.now = job.machine.deadline();
    job.poll();
    assert!(told(&mut job), "a second time, after it was started again");
}

#[test]
fn a_check_interval_of_zero_is_the_default_and_the_longest_is_no_panic() {
    let pause = |interval: Duration| {
        let mut poller = Poller::new(Arc::new(config().with_check_interval(interval)), token(), START);
        poller.set_capacity(1);
        let mut hand = Hand::new(poller);
        hand.call();
        hand.answer(204, &[], "");
        hand.waits().unwrap()
    };
    assert!(pause(Duration::ZERO) >= START.saturating_add(3 * SECOND), "{:?}", pause(Duration::ZERO));
    assert_eq!(pause(Duration::MAX), Timestamp::from_millis(u64::MAX));
}

#[test]
fn bytes_that_were_not_supplied_are_asked_for_again_later() {
    let mut job = Hand::accepted(config().with_retain(gitlab_runner_api::Retain::Unacknowledged));
    job.machine.write("abcdef");
    job.sends("patch 0+6");
    job.answer(202, &[], "");
    job.machine.write("g");
    job.pass(3 * SECOND);
    job.sends("patch 6+1");
    job.answer(416, &[("range", "0-2")], "");
    // The first question comes at once. Each answer without bytes is followed by a pause, and then the question again.
    let mut last: Option<Timestamp> = None;
    for _ in 0..5 {
        while !job.events.iter().any(|event| matches!(event, JobEvent::TraceNeeded(_))) {
            match job.poll() {
                Rest::Sent(_) => job.answer(200, &[], ""),
                Rest::Waits(Some(until))
                    if !job.events.iter().any(|event| matches!(event, JobEvent::TraceNeeded(_))) =>
                {
                    job.now = until;
                }
                _ => {}
            }
        }
        job.events.clear();
        assert!(last.is_none_or(|last| job.now >= last.saturating_add(3 * SECOND)), "{last:?} {:?}", job.now);
        last = Some(job.now);
        assert_eq!(
            job.machine.supply_trace(2, bytes::Bytes::new()),
            Ok(()),
            "nothing supplied is no answer, and no mistake"
        );
    }
    job.machine.supply_trace(2, bytes::Bytes::from_static(b"cdef")).unwrap();
    assert_eq!(job.call_or_pending(), "patch 2+4");
}

#[test]
fn a_poller_s_trouble_that_comes_and_goes_is_told_twice_a_minute() {
    let mut poller = Poller::new(Arc::new(config()), token(), START);
    poller.set_capacity(1);
    let mut hand = Hand::new(poller);
    for turn in 0..40 {
        hand.call();
        hand.answer(if turn % 2 == 0 { 503 } else { 204 }, &[], "");
    }
    let minutes = hand.now.saturating_since(START).as_secs() / 60 + 1;
    let told = hand.events.iter().filter(|event| matches!(event, PollerEvent::Unavailable { .. })).count() as u64;
    assert!(told >= 2 && told <= 2 * minutes, "{told} in {minutes} minutes");
}

#[test]
fn a_token_that_an_earlier_attempt_may_have_removed_is_gone() {
    for (first, gone) in [(408, true), (500, true), (502, true), (504, true), (429, false), (503, false)] {
        let mut made = Hand::new(Exchange::new(&config(), Unregister::new(token()), START));
        made.call();
        made.answer(first, &[], "");
        made.call();
        made.answer(403, &[], r#"{"message":"403 Forbidden"}"#);
        assert!(made.is_done());
        let result = made.events.pop().unwrap();
        assert_eq!(matches!(result, Ok(Removal::AlreadyGone)), gone, "{first}: {result:?}");
        assert_eq!(result.is_ok(), gone, "{first}");
    }
}
