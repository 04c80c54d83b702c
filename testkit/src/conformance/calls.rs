//! Calls to try a transport with, made by real machines.

use std::sync::Arc;
use std::time::Duration;

use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::api::verify::Verify;
use gitlab_runner_api::{
    Assignment, Call, Exchange, Job, JobResult, Machine, Output, Poller, RunnerConfig, RunnerToken, Server, Timestamp,
};
use http::Response;

/// The deadline of [`request_job`]. Long, because a busy machine may take seconds to make a connection, and the cases that
/// use it are not about time.
const DEADLINE: Duration = Duration::from_secs(60);

const NOW: Timestamp = Timestamp::from_millis(1_750_000_000_000);

/// What the names and tokens of this module cannot bring about.
const VALID: &str = "the fixed names of the conformance suite are valid";

fn config(url: &str) -> RunnerConfig {
    RunnerConfig::new(Server::parse(url).expect(VALID), Info::new("conformance", "1"))
}

fn token() -> RunnerToken {
    RunnerToken::new("glrt-conformance").expect(VALID)
}

fn next<M: Machine>(machine: &mut M) -> Call {
    loop {
        match machine.poll(NOW) {
            Output::Send(call) => return call,
            Output::Event(_) => {}
            Output::Wait(_) | Output::Done => unreachable!("the machines of the conformance suite have a call to make"),
        }
    }
}

/// `POST /runners/verify`: collects up to 1 MiB.
pub(super) fn verify(url: &str) -> Call {
    let config = config(url);
    next(&mut Exchange::new(&config, Verify::new(token(), config.info()), NOW))
}

/// `POST /jobs/request`: must never be repeated.
pub(super) fn request_job(url: &str) -> Call {
    request_job_within(url, DEADLINE)
}

/// The same with a deadline that is to pass.
pub(super) fn request_job_within(url: &str, deadline: Duration) -> Call {
    let config = config(url).with_job_request_deadline(deadline);
    let mut poller = Poller::new(Arc::new(config), token(), NOW);
    poller.set_capacity(1);
    next(&mut poller)
}

/// A job whose next call is the one after its acceptance.
fn job(url: &str) -> Job {
    let assignment = Assignment::from_json(r#"{"id":4294967297,"token":"glcbt-conformance"}"#).expect(VALID);
    let mut job = Job::new(Arc::new(config(url)), &assignment, NOW);
    answer(&mut job, 200);
    job
}

fn answer(job: &mut Job, status: u16) {
    let (_, ticket) = next(job).split();
    let mut response = Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(status).expect(VALID);
    job.handle_response(ticket, response, NOW).expect(VALID);
}

/// `PUT /jobs/:id` with `state=running`: collects up to 4 KiB, and cuts what is longer.
pub(super) fn accept(url: &str) -> Call {
    let assignment = Assignment::from_json(r#"{"id":4294967297,"token":"glcbt-conformance"}"#).expect(VALID);
    next(&mut Job::new(Arc::new(config(url)), &assignment, NOW))
}

/// `PATCH /jobs/:id/trace`, with a query and any bytes.
pub(super) fn patch(url: &str) -> Call {
    let mut job = job(url);
    job.write(b"any bytes: \0\xff\r\n\r\n".to_vec());
    next(&mut job)
}

/// One of 1 MiB, in many chunks.
pub(super) fn long_patch(url: &str) -> Call {
    let mut job = job(url);
    for number in 0..16u8 {
        job.write(vec![number; 64 << 10]);
    }
    next(&mut job)
}

/// One without a body.
pub(super) fn empty_patch(url: &str) -> Call {
    let mut job = job(url);
    job.write("abc");
    answer(&mut job, 202);
    job.finish(JobResult::success());
    next(&mut job)
}
