//! The poller, row by row of its table, and what lies between the rows.

use std::sync::Arc;
use std::time::Duration;

use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::api::register::Register;
use gitlab_runner_api::api::reset_token::{rotation_due, rotation_due_before};
use gitlab_runner_api::api::verify::Verify;
use gitlab_runner_api::{
    Cause, Exchange, Failure, Job, Machine, Poller, PollerEvent, RegistrationToken, RunnerConfig, RunnerToken, Throttle,
};
use gitlab_runner_api_testkit::{Endpoint, JobStatus, NewJob, Settings};
use http::{HeaderMap, StatusCode};

use crate::common::{Hand, Rest, SECOND, START, TOKEN, config, gitlab};

const JOB: &str = r#"{"id":7,"token":"glcbt-7"}"#;

fn poller() -> Hand<Poller> {
    poller_of(config())
}

fn poller_of(config: RunnerConfig) -> Hand<Poller> {
    let mut hand = Hand::new(Poller::new(Arc::new(config), RunnerToken::new(TOKEN).unwrap(), START));
    hand.machine.set_capacity(3);
    hand
}

#[test]
fn without_room_nothing_is_asked_for() {
    let mut poller = poller();
    poller.machine.set_capacity(0);
    assert_eq!(poller.waits(), None);
    poller.machine.set_capacity(1);
    poller.call();
    poller.answer(201, &[], JOB);
    assert_eq!((poller.waits(), poller.machine.capacity()), (None, 0), "the job took the room");
    assert!(matches!(poller.events[..], [PollerEvent::Assigned(_)]));
}

#[test]
fn a_job_is_followed_by_another_request_at_once() {
    let mut poller = poller();
    poller.call();
    poller.answer(201, &[], JOB);
    assert_eq!(poller.call().at, START);
}

#[test]
fn no_job_means_the_check_interval() {
    let mut poller = poller();
    poller.call();
    poller.answer(204, &[("x-gitlab-last-update", "v1")], r#"{"message":"204 No Content"}"#);
    let again = poller.call();
    let pause = again.at.saturating_since(START);
    assert!(pause >= 3 * SECOND && pause < Duration::from_millis(3500), "{pause:?}");
    assert_eq!(again.json()["last_update"], "v1");
}

#[test]
fn the_last_update_is_kept_until_there_is_a_new_one() {
    let mut poller = poller();
    assert!(poller.call().json().get("last_update").is_none());
    type Row<'a> = (u16, &'a [(&'a str, &'a str)], &'a str);
    let rows: [Row<'_>; 5] = [
        (204, &[("x-gitlab-last-update", "v1")], "v1"),
        (204, &[], "v1"),
        (204, &[("x-gitlab-last-update", "")], "v1"),
        (409, &[], "v1"),
        (204, &[("x-gitlab-last-update", "v2")], "v2"),
    ];
    for (status, headers, value) in rows {
        poller.answer(status, headers, "");
        assert_eq!(poller.call().json()["last_update"], value);
    }
}

#[test]
fn a_lost_race_is_run_again_soon() {
    let mut poller = poller();
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let before = poller.now;
        poller.call();
        pauses.push(poller.now.saturating_since(before));
        poller.answer(409, &[], r#"{"message":"409 Conflict"}"#);
    }
    poller.waits();
    assert!(pauses[1] <= Duration::from_millis(500), "{pauses:?}");
    assert!(pauses[6..].iter().all(|pause| (SECOND..=3 * SECOND).contains(pause)), "{pauses:?}");
    assert!(poller.events.is_empty(), "{:?}", poller.events);
}

#[test]
fn a_refused_token_is_told_of_twice_and_asked_with_less_and_less() {
    for status in [403, 422] {
        let mut poller = poller();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let before = poller.now;
            poller.call();
            pauses.push(poller.now.saturating_since(before));
            poller.answer(status, &[], r#"{"message":"403 Forbidden"}"#);
        }
        assert!(pauses[1..].is_sorted_by(|a, b| b.as_millis() * 2 > a.as_millis()), "{pauses:?}");
        assert!(pauses[11] > 100 * SECOND && pauses.iter().all(|pause| *pause <= 300 * SECOND), "{pauses:?}");
        poller.call();
        poller.answer(204, &[], "");
        poller.waits();
        let told: Vec<_> =
            poller.events.iter().map(|event| matches!(event, PollerEvent::Refused { unhealthy: true, .. })).collect();
        assert_eq!(told, [false, true, false], "{:?}", poller.events);
        assert!(matches!(poller.events[2], PollerEvent::Recovered));
    }
}

#[test]
fn what_is_not_gitlab_is_told_of_once_with_what_to_check() {
    let rows = [
        (200, "address"),
        (301, "https://other.example.test"),
        (400, "understood"),
        (401, "proxy"),
        (404, "address"),
        (405, "address"),
        (413, "labels"),
    ];
    for (status, advice) in rows {
        let mut poller = poller();
        for _ in 0..4 {
            poller.call();
            poller.answer(
                status,
                &[("location", "https://other.example.test/login?token=canary")],
                "<html>canary</html>",
            );
        }
        poller.waits();
        let [PollerEvent::Misconfigured(refusal)] = &poller.events[..] else { panic!("{:?}", poller.events) };
        let text = refusal.to_string();
        assert!(text.contains(advice) && !text.contains("canary"), "{status}: {text}");
    }
}

#[test]
fn an_outage_is_told_of_once_and_outlived() {
    for status in [408, 429, 500, 502, 503, 504] {
        let mut poller = poller();
        for _ in 0..8 {
            poller.call();
            poller.answer(status, &[], "<html>");
        }
        poller.call();
        assert!(poller.now.saturating_since(START) < 120 * SECOND, "{status}: {:?}", poller.now);
        poller.answer(201, &[], JOB);
        poller.call();
        let uncertain = poller.events.extract_if(.., |event| matches!(event, PollerEvent::AssignmentUncertain { .. }));
        let wanted = if matches!(status, 408 | 500 | 502 | 504) { 8 } else { 0 };
        assert_eq!(uncertain.count(), wanted, "{status}: each may have been answered with a job");
        let [PollerEvent::Unavailable { cause, .. }, PollerEvent::Recovered, PollerEvent::Assigned(_)] =
            &poller.events[..]
        else {
            panic!("{:?}", poller.events)
        };
        assert_eq!(*cause, Cause::Status(StatusCode::from_u16(status).unwrap()));
    }
}

#[test]
fn told_delays_are_kept() {
    let date = ("date", "Wed, 21 Oct 2015 07:28:00 GMT");
    let rows: [&[(&str, &str)]; 3] = [
        &[("retry-after", "60")],
        &[date, ("retry-after", "Wed, 21 Oct 2015 07:29:00 GMT")],
        &[date, ("ratelimit-resettime", "Wed, 21 Oct 2015 07:29:00 GMT")],
    ];
    for headers in rows {
        let mut poller = poller();
        poller.call();
        poller.answer(429, headers, "");
        let pause = poller.call().at.saturating_since(START);
        assert!(pause >= 60 * SECOND && pause < 70 * SECOND, "{headers:?}: {pause:?}");
    }
}

#[test]
fn a_lost_answer_is_told_of_once_and_an_unsent_request_is_not() {
    use Failure as F;
    for (failure, uncertain) in [
        (F::NotSent, 0),
        (F::Unknown, 1),
        (F::TimedOut, 1),
        (F::interrupted(9), 1),
        (F::TooLarge, 1),
        (F::Cancelled, 1),
    ] {
        let mut poller = poller();
        for lost in 1..=3 {
            poller.call();
            poller.fail(failure);
            poller.waits();
            let told = poller.events.iter().filter(|event| matches!(event, PollerEvent::AssignmentUncertain { .. }));
            assert_eq!(told.count(), lost * uncertain, "{failure:?}");
        }
        assert_eq!(poller.events.iter().filter(|event| matches!(event, PollerEvent::Unavailable { .. })).count(), 1);
    }
}

#[test]
fn a_driver_that_forgets_a_call_is_not_waited_for_for_ever() {
    let mut poller = poller();
    let sent = poller.call();
    let ticket = poller.drop_ticket();
    assert_eq!(poller.waits(), Some(START.saturating_add(sent.hints.deadline + 30 * SECOND)));
    poller.pass(sent.hints.deadline + 30 * SECOND);
    poller.waits();
    assert!(matches!(poller.events[..], [PollerEvent::AssignmentUncertain { .. }, PollerEvent::Unavailable { .. }]));
    poller.machine.handle_failure(ticket, Failure::Unknown, poller.now).expect("a late answer is no error");
}

#[test]
fn a_job_is_taken_whenever_it_comes() {
    let late = |poller: &mut Hand<Poller>| {
        let sent = poller.call();
        let ticket = poller.drop_ticket();
        poller.pass(sent.hints.deadline + 40 * SECOND);
        poller.waits();
        ticket
    };
    let job = || http::Response::builder().status(201).body(bytes::Bytes::from(JOB)).unwrap();
    // Another request is in flight by then, and brings a job as well.
    let mut poller = poller();
    let ticket = late(&mut poller);
    poller.call();
    poller.machine.handle_response(ticket, job(), poller.now).unwrap();
    poller.answer(201, &[], JOB);
    poller.poll();
    let jobs = poller.events.iter().filter(|event| matches!(event, PollerEvent::Assigned(_))).count();
    assert_eq!(jobs, 2, "{:?}", poller.events);
    // Any other late answer says nothing any more.
    let mut poller = poller_of(config());
    let ticket = late(&mut poller);
    let (events, refusal) = (poller.events.len(), http::Response::builder().status(403).body(()).unwrap());
    poller.machine.handle_response(ticket, refusal, poller.now).unwrap();
    poller.waits();
    assert_eq!(poller.events.len(), events);
    // After the end nothing comes, and nothing is waited for.
    let mut poller = poller_of(config());
    let ticket = late(&mut poller);
    poller.machine.drain();
    assert!(poller.is_done());
    poller.machine.handle_response(ticket, job(), poller.now).unwrap();
    assert!(poller.is_done());
}

#[test]
fn a_payload_that_cannot_be_read_fails_its_job() {
    let mut server = gitlab(Settings::default());
    let mut poller = poller_of(config());
    let id = server.queue(START, NewJob::new("odd").with_member("steps", serde_json::json!("not a list")));
    poller.run(&mut server, Duration::ZERO);
    let Some(PollerEvent::Assigned(assignment)) = poller.events.pop() else { panic!("{:?}", poller.events) };
    let mut job = Hand::new(Job::new(Arc::new(config()), &assignment, START));
    job.run(&mut server, SECOND);
    assert!(job.is_done());
    let record = server.job(id).unwrap();
    assert_eq!((record.status(), record.failure_reason()), (JobStatus::Failed, Some("runner_system_failure")));
    let log = String::from_utf8(record.trace().to_vec()).unwrap();
    assert!(log.contains("steps has the wrong type") && log.contains("does not run this job"), "{log}");
}

#[test]
fn a_payload_without_id_and_token_is_uncertain() {
    for body in ["", "<html>", "{}", r#"{"id":7}"#, r#"{"id":7,"tok"#] {
        let mut poller = poller();
        poller.call();
        poller.answer(201, &[], body);
        poller.waits();
        assert!(
            matches!(poller.events[..], [PollerEvent::AssignmentUncertain { .. }]),
            "{body:?}: {:?}",
            poller.events
        );
        assert_eq!(poller.machine.capacity(), 3);
    }
}

#[test]
fn draining_waits_for_the_request_that_is_out() {
    let mut idle = poller();
    idle.machine.drain();
    assert!(idle.is_done());

    let mut poller = poller();
    poller.call();
    poller.machine.drain();
    assert!(poller.machine.is_asking() && poller.waits().is_some());
    poller.answer(201, &[], JOB);
    assert!(poller.is_done());
    assert!(matches!(poller.events[..], [PollerEvent::Assigned(_)]));
}

#[test]
fn gitlab_may_hold_a_request_and_the_job_comes_when_it_is_there() {
    let mut server = gitlab(Settings::default().with(|s| s.long_poll = Some(50 * SECOND)));
    let mut poller = poller();
    poller.machine.set_capacity(1);
    // The first is answered at once, with the value that lets GitLab hold the second.
    poller.run(&mut server, Duration::ZERO);
    poller.pass(4 * SECOND);
    let Rest::Sent(sent) = poller.poll() else { panic!() };
    assert!(sent.hints.deadline > 60 * SECOND, "longer than any administrator lets GitLab hold it");
    let gitlab_runner_api_testkit::Answer::Held(_) = server.submit(poller.now, sent.request) else {
        panic!("not held")
    };
    poller.pass(20 * SECOND);
    let id = server.queue(poller.now, NewJob::new("late"));
    let (_, woken) = server.poll(poller.now).unwrap();
    assert_eq!((woken.status(), woken.headers().get("x-gitlab-last-update")), (StatusCode::NO_CONTENT, None));
    poller.hand_in(woken).unwrap();
    poller.run(&mut server, 4 * SECOND);
    assert!(poller.events.iter().any(|event| matches!(event, PollerEvent::Assigned(job) if job.id() == id)));
}

#[test]
fn what_one_machine_is_told_about_the_host_others_hear_of() {
    let (mut one, mut other) = (poller(), poller_of(config().with_jitter_seed(1)));
    let mut throttle = Throttle::new();
    let (sent, ticket) = (one.call(), one.drop_ticket());
    let headers: HeaderMap = [("retry-after", "120"), ("ratelimit-name", "throttle_unauthenticated_api")]
        .into_iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect();
    throttle.observe(ticket.scope(), StatusCode::TOO_MANY_REQUESTS, &headers, b"", sent.at);
    throttle.hold(&mut other.machine);
    assert_eq!(other.call().at.saturating_since(START), 120 * SECOND);
}

#[test]
fn no_hold_lasts_for_ever() {
    let mut poller = poller();
    let scope = poller.machine.scopes().next().unwrap();
    poller.machine.hold_until(scope, gitlab_runner_api::Timestamp::from_millis(u64::MAX));
    assert_eq!(poller.call().at.saturating_since(START), 600 * SECOND);
}

#[test]
fn features_and_system_id_are_the_same_everywhere() {
    let config = config();
    let id = gitlab_runner_api::SystemId::new("s_0123456789ab").unwrap();
    let register = Register::new(RegistrationToken::new("r").unwrap(), config.info()).with_system_id(id.clone());
    let verify = Verify::new(RunnerToken::new(TOKEN).unwrap(), config.info()).with_system_id(id);
    let registered = Hand::new(Exchange::new(&config, register, START)).call();
    let verified = Hand::new(Exchange::new(&config, verify, START)).call();
    let asked = poller().call();
    for sent in [&registered, &verified, &asked] {
        assert_eq!(sent.json()["info"], serde_json::to_value(config.info()).unwrap());
        assert_eq!(sent.json()["system_id"], "s_0123456789ab");
        assert_eq!(sent.header("user-agent"), "by-hand 1 (linux/amd64)");
        assert_eq!(sent.header("x-request-id").len(), 32);
        assert_eq!((sent.header("content-type"), sent.header("accept")), ("application/json", "application/json"));
    }
}

#[test]
fn a_first_contact_without_graceful_cancelling_costs_it_for_most_of_an_hour() {
    // The trap: another program of the same machine verified the token first, and promised less.
    for promised_first in [true, false] {
        let mut server = gitlab(Settings::default());
        let first = if promised_first { config().info().clone() } else { Info::new("other", "1") };
        let id = gitlab_runner_api::SystemId::new("s_0123456789ab").unwrap();
        let verify = Verify::new(RunnerToken::new(TOKEN).unwrap(), &first).with_system_id(id);
        Hand::new(Exchange::new(&config(), verify, START)).run(&mut server, SECOND);
        let job = crate::common::take_job(&mut server, &config(), START, NewJob::new("cancel me"));
        server.cancel(START, job.id());
        let wanted = if promised_first { JobStatus::Canceling } else { JobStatus::Canceled };
        assert_eq!(server.job(job.id()).unwrap().status(), wanted);
    }
}

#[test]
fn registration_and_verification_tell_what_they_hear() {
    let mut server = gitlab(Settings::default());
    server.set_registration_token("GR1348941");
    let register = |token: &str| {
        let call = Register::new(RegistrationToken::new(token).unwrap(), config().info());
        Hand::new(Exchange::new(&config(), call, START))
    };
    let mut good = register("GR1348941");
    good.run(&mut server, SECOND);
    let Some(Ok(registered)) = good.events.pop() else { panic!() };
    let mut verified = Hand::new(Exchange::new(&config(), Verify::new(registered.token, config().info()), START));
    verified.run(&mut server, SECOND);
    assert_eq!(verified.events.pop().unwrap().unwrap().id, Some(registered.id));

    let mut bad = register("wrong");
    bad.run(&mut server, SECOND);
    assert!(bad.events.pop().unwrap().unwrap_err().to_string().contains("403"));
    server.settings_mut().registration_allowed = false;
    let mut gone = register("GR1348941");
    gone.run(&mut server, SECOND);
    assert!(gone.events.pop().unwrap().unwrap_err().to_string().contains("410"));
    server.settings_mut().verify_plain_text = true;
    let mut old =
        Hand::new(Exchange::new(&config(), Verify::new(RunnerToken::new(TOKEN).unwrap(), config().info()), START));
    old.run(&mut server, SECOND);
    assert_eq!(old.events.pop().unwrap().unwrap().id, None, "GitLab 13 says 200 and no more");
    assert_eq!(server.stats().requests(Endpoint::Register), 3);
}

#[test]
fn a_registration_whose_answer_is_lost_is_not_repeated() {
    let exchange = || {
        let call = Register::new(RegistrationToken::new("t").unwrap(), config().info());
        Hand::new(Exchange::new(&config(), call, START))
    };
    let mut lost = exchange();
    lost.call();
    lost.fail(Failure::Unknown);
    assert!(lost.is_done() && lost.events.pop().unwrap().unwrap_err().to_string().contains("not known"));

    let mut unsent = exchange();
    for _ in 0..5 {
        unsent.call();
        unsent.fail(Failure::NotSent);
    }
    assert!(unsent.is_done() && unsent.events.pop().unwrap().unwrap_err().to_string().contains("cannot be reached"));

    let mut limited = exchange();
    limited.call();
    limited.answer(429, &[("retry-after", "60")], "");
    assert!(limited.call().at.saturating_since(START) >= 60 * SECOND, "it was refused before it was looked at");
}

#[test]
fn a_token_that_grows_old_is_told_of_once() {
    let obtained = START;
    let (expires, deadline) = (obtained.saturating_add(SECOND * 4000), obtained.saturating_add(SECOND * 400));
    assert_eq!(rotation_due_before(obtained, expires, deadline), obtained.saturating_add(SECOND * 300));
    assert_eq!(rotation_due_before(obtained, deadline, expires), obtained.saturating_add(SECOND * 300));
    let due = rotation_due(obtained, obtained.saturating_add(SECOND * 4000));
    assert_eq!(due.saturating_since(obtained), SECOND * 3000);
    assert_eq!(
        rotation_due(obtained, gitlab_runner_api::Timestamp::EPOCH),
        obtained,
        "one that has expired is due at once"
    );

    let mut poller = poller_of(config().with_rotation_due(Some(due)));
    poller.machine.set_capacity(0);
    assert_eq!(poller.waits(), Some(due), "also a poller without room wakes up for it");
    poller.machine.set_capacity(1);
    poller.sends("POST /jobs/request");
    poller.answer(204, &[], "");
    poller.now = due;
    poller.sends("POST /jobs/request");
    poller.answer(204, &[], "");
    poller.call();
    let told = poller.events.iter().filter(|event| matches!(event, PollerEvent::RotationDue)).count();
    assert_eq!(told, 1, "{:?}", poller.events);
}

#[test]
fn neither_jobs_nor_their_absence_use_a_poller_s_budget_up() {
    let mut poller = poller();
    for _ in 0..200 {
        let before = poller.now;
        poller.call();
        let pause = poller.now.saturating_since(before);
        assert!(pause < Duration::from_millis(3500), "{pause:?}");
        poller.answer(204, &[], "");
    }
    let start = poller.call().at;
    poller.machine.set_capacity(100);
    for id in 1..=100 {
        poller.answer(201, &[], &format!(r#"{{"id":{id},"token":"glcbt-{id}"}}"#));
        if id < 100 {
            assert_eq!(poller.call().at, start, "{id}");
        }
    }
    poller.poll();
    let jobs = poller.events.iter().filter(|event| matches!(event, PollerEvent::Assigned(_))).count();
    assert_eq!(jobs, 100);
}

#[test]
fn trouble_of_two_kinds_in_turns_is_no_reason_to_ask_more_often() {
    let mut poller = poller();
    for number in 0..60 {
        let before = poller.now;
        poller.call();
        let pause = poller.now.saturating_since(before);
        assert!(number < 15 || pause >= 30 * SECOND, "{pause:?} before request {number}");
        poller.answer(if number % 2 == 0 { 503 } else { 404 }, &[], "");
    }
}
