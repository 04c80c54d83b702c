//! The endpoints alone: a job from hand-out to its end without a machine.

use gitlab_runner_api::api::patch_trace::PatchTrace;
use gitlab_runner_api::api::request_job::{JobRequestAnswer, RequestJob};
use gitlab_runner_api::api::update_job::{LogDigest, UpdateJob};
use gitlab_runner_api::api::verify::Verify;
use gitlab_runner_api::api::{CorrelationId, Endpoint};
use gitlab_runner_api::{CallError, FailureReason, JobStatus as Status, RunnerToken};
use gitlab_runner_api_testkit::{Coordinator, JobStatus, NewJob, Settings};
use http::Response;

use crate::common::{SECOND, START, TOKEN, config, gitlab};

/// What a client without machines does.
fn call<E: Endpoint>(gitlab: &mut Coordinator, endpoint: &E) -> Result<E::Response, CallError> {
    let config = config();
    let request = endpoint.request(config.server(), CorrelationId::from_bits(0xabc));
    assert_eq!(request.headers()["x-request-id"], "00000000000000000000000000000abc");
    endpoint.decode(&gitlab.respond(START, request.map(gitlab_runner_api::Body::into_bytes)))
}

#[test]
fn a_job_can_be_served_by_hand() {
    let mut server = gitlab(Settings::default().with(|s| s.archive_delay = Some(60 * SECOND)));
    let ask = RequestJob::new(RunnerToken::new(TOKEN).unwrap(), &config());
    let JobRequestAnswer::None { last_update: Some(value), .. } = call(&mut server, &ask).unwrap() else { panic!() };
    assert!(matches!(call(&mut server, &ask.clone().with_last_update(Some(value))), Ok(JobRequestAnswer::None { .. })));

    let id = server.queue(START, NewJob::new("by hand"));
    let JobRequestAnswer::Job(assignment) = call(&mut server, &ask).unwrap() else { panic!() };
    let token = || assignment.spec().token.clone();
    let accepted = call(&mut server, &UpdateJob::running(id, token())).unwrap();
    assert!(accepted.completed && accepted.status == Some(Status::Running));

    let piece = PatchTrace::new(id, token(), 0, b"hello\n".to_vec());
    let receipt = call(&mut server, &piece).unwrap();
    assert_eq!((receipt.accepted, receipt.stored, receipt.interval), (true, Some(6), Some(60 * SECOND)));
    assert!(call(&mut server, &piece).unwrap().accepted, "a repeat is taken for what it is");
    let gap = call(&mut server, &PatchTrace::new(id, token(), 9, b"x".to_vec())).unwrap();
    assert_eq!((gap.accepted, gap.stored), (false, Some(6)));

    let digest = LogDigest::new(crc32fast::hash(b"hello\n"), 6);
    let report = UpdateJob::failed(id, token(), FailureReason::ScriptFailure, Some(3)).with_digest(digest);
    let taken = call(&mut server, &report).unwrap();
    assert!(!taken.completed && taken.interval == Some(SECOND), "not archived yet: {taken:?}");
    let without = UpdateJob::failed(id, token(), FailureReason::ScriptFailure, Some(3));
    let done = call(&mut server, &without).unwrap();
    assert_eq!((done.completed, done.status), (true, Some(Status::Failed)));

    let CallError::Rejected(late) = call(&mut server, &UpdateJob::success(id, token())).unwrap_err() else { panic!() };
    assert_eq!((late.status.as_u16(), late.request_id.is_some()), (403, true));
    let job = server.job(id).unwrap();
    assert_eq!((job.status(), job.exit_code(), job.trace()), (JobStatus::Failed, Some(3), &b"hello\n"[..]));
}

#[test]
fn old_and_odd_answers_to_a_verification() {
    let verify = Verify::new(RunnerToken::new(TOKEN).unwrap(), config().info());
    let decode = |status: u16, content_type: &str, body: &str| {
        let response = Response::builder().status(status).header("content-type", content_type);
        verify.decode(&response.body(body.to_owned().into()).unwrap())
    };
    assert_eq!(
        decode(200, "application/json", r#"{"id":12,"token":"x","token_expires_at":null}"#).unwrap().id,
        Some(12)
    );
    assert_eq!(decode(200, "text/plain", "200").unwrap().id, None, "GitLab 13");
    assert_eq!(decode(200, "application/json", "200").unwrap().id, None, "GitLab 13, as JSON");
    for (status, content_type, body) in [
        (200, "text/html", "<html>Log in</html>"),
        (200, "application/json", "{\"id\":\"x\"}"),
        (204, "", ""),
        (302, "", ""),
        (500, "", ""),
    ] {
        assert!(decode(status, content_type, body).is_err(), "{status} {body}");
    }
}
