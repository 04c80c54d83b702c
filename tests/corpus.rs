//! Replays what fuzzing found, and what it started from.

use std::fs;
use std::path::Path;

use gitlab_runner_api_testkit::fuzz;

fn replay(target: &str, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display()); // shown if the body panics
        body(&fs::read(path).unwrap());
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}

#[test]
fn headers() {
    replay("headers", fuzz::headers);
}

#[test]
fn job_spec() {
    replay("job_spec", fuzz::job_spec);
}

#[test]
fn job() {
    replay("job", fuzz::job);
}

#[test]
fn poller() {
    replay("poller", fuzz::poller);
}

#[test]
fn resume() {
    replay("resume", fuzz::resume);
}

#[test]
fn log() {
    replay("log", fuzz::log);
}

#[test]
fn record() {
    replay("record", fuzz::record);
}

#[test]
fn delivery() {
    replay("delivery", fuzz::delivery);
}

/// Without a fuzzer too: lives that differ with each run of the tests.
#[test]
fn a_log_is_delivered_whatever_is_lost_on_the_way() {
    use proptest::prelude::*;
    let config = ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(script in proptest::collection::vec(any::<u8>(), 0..300))| fuzz::delivery(&script));
}
