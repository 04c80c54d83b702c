//! What the core costs. `cargo bench -p gitlab-runner-api`; the allocation columns count, the times are this machine's.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use divan::{AllocProfiler, Bencher};
use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::variables::{Place, Variables};
use gitlab_runner_api::{
    Assignment, Call, Job, JobResult, JobSnapshot, Machine, Output, RunnerConfig, Server, Timestamp,
};
use http::Response;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const NOW: Timestamp = Timestamp::from_millis(1_750_000_000_000);

const PAYLOAD: &str = r#"{"id":9000000001,"token":"glcbt-0123456789abcdef","job_info":{"name":"test","stage":"test","project_id":1,
    "project_name":"x"},"git_info":{"repo_url":"https://x","ref":"main","sha":"1f0e9d8c7b6a59483726150f9e8d7c6b5a493827",
    "ref_type":"branch","refspecs":["+refs/heads/main:refs/remotes/origin/main"],"depth":20},"runner_info":{"timeout":3600},
    "variables":[{"key":"CI","value":"true","public":true,"masked":false},{"key":"TOKEN","value":"secret","masked":true}],
    "steps":[{"name":"script","script":["make"],"timeout":3600,"when":"on_success","allow_failure":false}],
    "image":null,"services":[],"artifacts":null,"cache":[],"credentials":[],"dependencies":[],
    "features":{"trace_sections":true,"failure_reasons":["script_failure","runner_system_failure"]}}"#;

fn main() {
    println!("a job takes {} bytes beside its payload and its log", size_of::<Job>());
    divan::main();
}

fn config() -> Arc<RunnerConfig> {
    let server = Server::parse("https://gitlab.example.test").expect("a valid address");
    Arc::new(RunnerConfig::new(server, Info::new("bench", "1")))
}

fn assignment() -> Assignment {
    Assignment::from_json(PAYLOAD).expect("a valid payload")
}

fn call(job: &mut Job) -> Call {
    loop {
        match job.poll(NOW) {
            Output::Send(call) => return call,
            Output::Event(_) => {}
            Output::Wait(_) | Output::Done => unreachable!("there is something to send"),
        }
    }
}

fn answer(job: &mut Job, status: u16) {
    let (_, ticket) = call(job).split();
    let response = Response::builder().status(status).body(()).expect("a status");
    job.handle_response(ticket, response, NOW).expect("its own ticket");
}

/// A job that is accepted, with `log` acknowledged.
fn running(log: &'static [u8]) -> Job {
    let mut job = Job::new(config(), &assignment(), NOW);
    answer(&mut job, 200);
    if !log.is_empty() {
        job.write(Bytes::from_static(log));
        answer(&mut job, 202);
    }
    while let Output::Event(_) = job.poll(NOW) {}
    job
}

/// The whole way from `poll` to a request that can be sent.
#[divan::bench(args = [80, 64 << 10, 1 << 20])]
fn build_a_patch(bencher: Bencher<'_, '_>, size: usize) {
    let log = Bytes::from(vec![b'x'; size]);
    let ready = || {
        let mut job = running(b"");
        job.write(log.clone());
        job
    };
    bencher.with_inputs(ready).bench_values(|mut job| (call(&mut job), job));
}

/// Nothing is due. The allocation columns must stay empty.
#[divan::bench]
fn poll_at_rest(bencher: Bencher<'_, '_>) {
    let mut job = running(b"hello\n");
    bencher.bench_local(move || matches!(black_box(&mut job).poll(black_box(NOW)), Output::Wait(_)));
}

/// 1 MiB written in pieces of this size.
#[divan::bench(args = [1, 80, 4096, 64 << 10])]
fn append_a_mebibyte(bencher: Bencher<'_, '_>, piece: usize) {
    let text = Bytes::from(vec![b'x'; piece]);
    bencher.with_inputs(|| running(b"")).bench_values(|mut job| {
        for _ in 0..(1 << 20) / piece {
            job.write(text.clone());
        }
        job
    });
}

#[divan::bench]
fn take_a_snapshot(bencher: Bencher<'_, '_>) {
    let mut job = running(b"hello\n");
    bencher.bench_local(move || job.snapshot().to_json());
}

#[divan::bench]
fn resume_from_a_snapshot(bencher: Bencher<'_, '_>) {
    let (config, assignment, json) = (config(), assignment(), running(b"hello\n").snapshot().to_json());
    bencher.bench_local(move || {
        let snapshot = JobSnapshot::from_json(&json).expect("its own text");
        Job::resume(config.clone(), &assignment, snapshot, NOW).expect("its own job")
    });
}

#[divan::bench]
fn decode_a_payload() -> Assignment {
    assignment()
}

/// From hand-out to the confirmed report, with a line of log: four calls.
#[divan::bench]
fn a_short_life(bencher: Bencher<'_, '_>) {
    let (config, assignment) = (config(), assignment());
    bencher.bench_local(move || {
        let mut job = Job::new(config.clone(), &assignment, NOW);
        answer(&mut job, 200);
        job.write("hello\n");
        job.finish(JobResult::success());
        answer(&mut job, 202);
        answer(&mut job, 200);
        assert!(matches!(job.poll(NOW), Output::Event(_)));
        job
    });
}

/// An idle job, with all that it keeps on the heap: see `max alloc`.
#[divan::bench]
fn an_idle_job(bencher: Bencher<'_, '_>) {
    let (config, assignment) = (config(), assignment());
    bencher.bench_local(move || {
        let mut job = Box::new(Job::new(config.clone(), &assignment, NOW));
        answer(&mut job, 200);
        _ = job.poll(NOW.saturating_add(Duration::from_secs(1)));
        job
    });
}

/// The fullest payload of the samples.
fn payload() -> Bytes {
    include_bytes!("../tests/payloads/03-modern-full.json").as_slice().into()
}

/// A payload, read as a runner reads it.
#[divan::bench]
fn decode_payload(bencher: Bencher<'_, '_>) {
    bencher.with_inputs(payload).bench_local_values(|json| Assignment::from_json(json).unwrap());
}

/// The same types, read by serde_json alone.
#[divan::bench]
fn decode_payload_bare(bencher: Bencher<'_, '_>) {
    bencher
        .with_inputs(payload)
        .bench_local_values(|json| serde_json::from_slice::<gitlab_runner_api::JobSpec>(&json).unwrap());
}

/// A job of 117 KB whose author makes a value of 2.3 GB of it. It must end within 50 ms and 8 MiB: see `max alloc`.
#[divan::bench]
fn expansion_bomb(bencher: Bencher<'_, '_>) {
    let long = "b".repeat(58_000);
    let references = "$B".repeat(29_000);
    let payload = format!(
        r#"{{"id":1,"token":"t","variables":[{{"key":"B","value":"{long}","raw":true}},
            {{"key":"FF_MASK_ALL_DEFAULT_TOKENS","value":"{references}"}}]}}"#
    );
    let config = config();
    bencher.bench_local(move || {
        let assignment = Assignment::from_json(payload.clone()).expect("a valid payload");
        Job::new(config.clone(), &assignment, NOW)
    });
}

/// The longest values that are expanded: eight of nearly a mebibyte, and what a shell would be given.
#[divan::bench]
fn expansion_at_its_bounds(bencher: Bencher<'_, '_>) {
    let mut payload = format!(r#"{{"id":1,"token":"t","variables":[{{"key":"B","value":"{}"}}"#, "b".repeat(1000));
    for at in 0..12 {
        payload += &format!(r#",{{"key":"V{at}","value":"{}"}}"#, "$B".repeat(1040));
    }
    let assignment = Assignment::from_json(payload + "]}").expect("a valid payload");
    bencher.bench_local(move || Variables::new(assignment.spec(), &Place::default()).environment());
}

/// The same fullest payload with one member that cannot be read, so that each member is looked at alone.
#[divan::bench]
fn decode_payload_with_care(bencher: Bencher<'_, '_>) {
    let json = String::from_utf8(payload().to_vec()).expect("text");
    let json = Bytes::from(json.replacen('{', r#"{"cache":7,"#, 1).replace(r#""depth""#, r#""depth":1.5,"x""#));
    bencher.bench_local(move || Assignment::from_json(json.clone()).expect("a valid payload"));
}
