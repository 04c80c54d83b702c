//! Sizes, and what may cross threads.

use std::sync::Arc;

use gitlab_runner_api::{
    Assignment, Call, Exchange, Job, JobSnapshot, Machine, Output, Poller, Ticket, api::verify::Verify,
};

use crate::common::{Hand, START, assignment, config};

#[test]
fn everything_can_be_sent_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<Job>();
    is_send::<Poller>();
    is_send::<Exchange<Verify>>();
    is_send::<Call>();
    is_send::<Ticket>();
    is_send::<Assignment>();
    is_send::<JobSnapshot>();
}

#[test]
fn an_idle_job_is_small() {
    let size = size_of::<Job>();
    println!("a job takes {size} bytes beside its payload and its log");
    assert!(size <= 1024, "{size}");
    assert!(size_of::<gitlab_runner_api::JobEvent>() <= 128);
}

#[test]
fn a_snapshot_is_small_however_long_the_log() {
    let mut job = Hand::accepted(config());
    job.machine.write(vec![b'x'; 3 << 20]);
    let json = job.machine.snapshot().to_json();
    assert!(json.len() < 1024, "{} bytes: {json}", json.len());
    // Beyond its limit, a log's end is part of it.
    job.machine.write(vec![b'x'; 32 << 20]);
    let json = job.machine.snapshot().to_json();
    assert!(json.len() < 1024 + (64 << 10), "{} bytes", json.len());
}

/// What the bench shows by counting: at rest, polling makes no allocation. Here the cheaper half: it changes nothing.
#[test]
fn polling_at_rest_changes_nothing() {
    let mut job = Job::new(Arc::new(config()), &assignment(), START);
    let Output::Send(call) = job.poll(START) else { panic!() };
    let before = job.snapshot();
    for _ in 0..100 {
        assert!(matches!(job.poll(START), Output::Wait(Some(_))));
    }
    assert_eq!(job.snapshot(), before);
    drop(call);
}
