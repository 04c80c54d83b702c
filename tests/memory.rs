//! What an idle job keeps in memory, by a counting allocator.
//!
//! One test, because the count is of the whole process.

use std::alloc::System;
use std::sync::Arc;

use cap::Cap;
use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::log::{Masker, Masks};
use gitlab_runner_api::{
    Assignment, Call, Job, Machine, Output, Retain, RunnerConfig, Secret, Server, Stream, Timestamp,
};
use http::Response;
use serde_json::json;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const NOW: Timestamp = Timestamp::from_millis(1_750_000_000_000);

/// How many bytes what this makes keeps on the heap.
fn kept<T>(make: impl FnOnce() -> T) -> usize {
    let before = ALLOCATOR.allocated();
    let made = make();
    let after = ALLOCATOR.allocated();
    drop(made);
    after - before
}

fn config(retain: Retain) -> Arc<RunnerConfig> {
    let server = Server::parse("https://gitlab.example.test").unwrap();
    Arc::new(RunnerConfig::new(server, Info::new("memory", "1")).with_retain(retain))
}

fn answer(job: &mut Job, status: u16) {
    let call: Call = loop {
        match job.poll(NOW) {
            Output::Send(call) => break call,
            Output::Event(_) => {}
            Output::Wait(_) | Output::Done => unreachable!("there is something to send"),
        }
    };
    let (_, ticket) = call.split();
    job.handle_response(ticket, Response::builder().status(status).body(()).unwrap(), NOW).unwrap();
}

/// A job that was accepted, has printed a line, and had that acknowledged. With all that belongs to it alone.
fn idle(config: &Arc<RunnerConfig>, payload: &str) -> Box<Job> {
    let assignment = Assignment::from_json(payload.to_owned()).unwrap();
    let mut job = Box::new(Job::new(config.clone(), &assignment, NOW));
    drop(assignment);
    answer(&mut job, 200);
    job.copy_to(Stream::Stdout, b"$ make test -j 8 # this takes a while\n");
    answer(&mut job, 202);
    while let Output::Event(_) = job.poll(NOW) {}
    assert_eq!(job.unsent(), 0);
    job
}

fn secrets(values: &[String]) -> String {
    let variable = |value| json!({ "key": "SECRET", "value": value, "masked": true, "raw": true });
    let variables: Vec<_> = values.iter().map(variable).collect();
    json!({ "id": 7, "token": "glcbt-64_0123456789abcdef", "variables": variables }).to_string()
}

/// As a current GitLab sends it for a job of a merge request: 12 KB, most of it variables.
fn usual_payload() -> String {
    let token = "glcbt-64_0123456789abcdef0123";
    let variable = |key: &str, value: &str, masked: bool| json!({ "key": key, "value": value, "public": !masked, "masked": masked });
    let mut variables = vec![
        variable("CI_JOB_TOKEN", token, true),
        variable("CI_REGISTRY_PASSWORD", token, true),
        variable("CI_JOB_JWT_V2", &letters(720, 7), true),
        variable("GITLAB_FEATURES", &letters(24, 8).repeat(25), false),
        variable("CI_COMMIT_MESSAGE", "Make it faster\n\nIt was \"slow\"; now it is not.\n\u{2728}", false),
    ];
    variables.extend((0..6).map(|number| variable(&format!("DEPLOY_SECRET_{number}"), &letters(23, number), true)));
    let usual = |number: u64| {
        variable(&format!("CI_PIPELINE_MEMBER_{number:02}"), &letters(4 + number as usize % 40, number), false)
    };
    variables.extend((0..76).map(usual));
    let step = |name: &str, lines: u64| {
        json!({ "name": name, "script": (0..lines).map(|line| letters(50, line)).collect::<Vec<_>>(), "timeout": 3600,
            "when": "on_success", "allow_failure": false })
    };
    json!({
        "id": 7, "token": token, "allow_git_fetch": true,
        "job_info": { "id": 7, "name": "build: [linux, x86_64]", "stage": "build", "pipeline_id": 90_000_007, "project_id": 4242,
            "project_name": "widgets", "project_full_path": "acme/widgets", "namespace_id": 77, "time_in_queue_seconds": 1.5 },
        "git_info": { "repo_url": format!("https://gitlab-ci-token:{token}@gitlab.example.test/acme/widgets.git"),
            "ref": "feature/faster", "sha": "1f0e9d8c7b6a59483726150f9e8d7c6b5a493827", "ref_type": "branch",
            "before_sha": "0000000000000000000000000000000000000000", "depth": 20,
            "refspecs": ["+refs/pipelines/90000007:refs/pipelines/90000007", "+refs/heads/a:refs/remotes/origin/a"] },
        "runner_info": { "timeout": 3600, "runner_session_url": null },
        "variables": variables, "steps": [step("script", 9), step("after_script", 2)],
        "image": { "name": "rust:1.90-bookworm" }, "services": [{ "name": "postgres:17", "alias": "db" }],
        "cache": [{ "key": "target-1", "untracked": false, "policy": "pull-push", "paths": ["target/", ".cargo/"], "when": "on_success" }],
        "artifacts": [{ "name": "out", "paths": ["out/"], "expire_in": "1 week", "artifact_type": "archive",
            "artifact_format": "zip" }],
        "credentials": [{ "type": "registry", "url": "registry.example.test", "username": "gitlab-ci-token", "password": token }],
        "dependencies": [{ "id": 6, "name": "prepare", "token": token, "artifacts_file": { "filename": "a.zip", "size": 9000 } }],
        "features": { "trace_sections": true, "token_mask_prefixes": [], "failure_reasons": ["script_failure",
            "runner_system_failure", "job_execution_timeout", "image_pull_failure", "unknown_failure"] },
    })
    .to_string()
}

/// Letters as a key has them.
fn letters(length: usize, seed: u64) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(ALPHABET[(state >> 58) as usize])
    };
    (0..length).map(next).collect()
}

/// As `ssh-keygen` writes one of 4,096 bits: 51 lines.
fn rsa_key() -> String {
    let lines: Vec<String> = (0..49).map(|line| letters(64, line + 1)).collect();
    format!("-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----\n", lines.join("\n"))
}

fn short_secrets() -> Vec<String> {
    (0..10).map(|number| letters(40, 100 + number)).collect()
}

#[test]
fn memory() {
    writing_line_by_line_allocates_by_block();
    an_idle_job_keeps_little();
}

/// Of a log that is written by line, each byte is copied into a block, and stays there until it is sent.
fn writing_line_by_line_allocates_by_block() {
    const LINES: usize = 20_000;
    let line = [&[b'x'; 127][..], b"\n"].concat();
    let assignment = Assignment::from_json(secrets(&short_secrets())).unwrap();
    let mut job = Job::new(config(Retain::Unacknowledged), &assignment, NOW);
    answer(&mut job, 200);
    let before = ALLOCATOR.total_allocated();
    for _ in 0..LINES {
        job.copy_to(Stream::Stdout, &line);
    }
    let allocated = ALLOCATOR.total_allocated() - before;
    let written = LINES * line.len();
    println!("{allocated} bytes were allocated to write {written}, line by line");
    assert!(allocated < written + written / 4, "{allocated}");
}

fn an_idle_job_keeps_little() {
    let (unacknowledged, all) = (config(Retain::Unacknowledged), config(Retain::All));
    // What is made once for all jobs.
    drop((idle(&unacknowledged, &secrets(&[])), idle(&all, &secrets(&[]))));
    let cases = [
        ("no secrets", &unacknowledged, secrets(&[]), 2 << 10),
        ("no secrets, the log kept", &all, secrets(&[]), 3 << 10),
        ("ten secrets of 40 bytes", &unacknowledged, secrets(&short_secrets()), 6 << 10),
        ("an RSA key, masked line by line", &unacknowledged, secrets(&[rsa_key()]), 24 << 10),
        ("a usual payload of 12 KB", &unacknowledged, usual_payload(), 32 << 10),
    ];
    for (what, config, payload, most) in &cases {
        let bytes = kept(|| idle(config, payload));
        let of_assignment = kept(|| Assignment::from_json(payload.clone()).unwrap());
        println!("{what}: {bytes} of {most} bytes, of which {of_assignment} for the payload of {}", payload.len());
        assert!(bytes <= *most, "{what}: {bytes}");
    }
    let stored = kept(|| {
        let mut job = idle(&unacknowledged, &usual_payload());
        job.drop_payload_text();
        job
    });
    println!("a usual payload of 12 KB, stored elsewhere: {stored} of {} bytes", 20 << 10);
    assert!(stored <= 20 << 10, "{stored}");
    let shortest = |count: u64| (0..count).map(|number| letters(8, 200 + number)).collect();
    for (what, values) in [
        ("ten secrets of 40 bytes", short_secrets()),
        ("an RSA key", vec![rsa_key()]),
        ("20 secrets of 8 bytes", shortest(20)),
        ("64 secrets of 8 bytes", shortest(64)),
        ("65 secrets of 8 bytes", shortest(65)),
        ("500 secrets of 8 bytes", shortest(500)),
    ] {
        let size: usize = values.iter().map(String::len).sum();
        let values: Vec<Secret> = values.into_iter().map(Secret::new).collect();
        let masks = kept(|| Masks::new(&values));
        println!("{what}: {masks} bytes to mask {size}");
        assert!(masks <= 6 * size + (4 << 10), "{what}: {masks}");
        // So it is with what a search of large pieces adds.
        let used = kept(|| {
            let mut masker = Masker::new(Arc::new(Masks::new(&values)));
            masker.push(rsa_key().repeat(4).into(), &mut |_| ());
            masker
        });
        println!("{what}: {used} bytes with a search of large pieces");
        assert!(used <= 6 * size + (4 << 10), "{what}: {used}");
    }
}
