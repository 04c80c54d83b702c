//! All small lives of a job.

use gitlab_runner_api_testkit::exhaustive::{Bounds, explore};

#[track_caller]
fn explored(bounds: Bounds, at_least: u64) {
    let explored = explore(bounds).unwrap_or_else(|fault| panic!("{bounds:?}: {fault}"));
    println!("{bounds:?}: {explored:?}");
    assert!(explored.lives > at_least, "{explored:?}");
}

/// How far GitLab's log may fall back: by one byte, and to each other length that matters.
const ONE: &[u64] = &[1];
const MANY: &[u64] = &[1, 2, 3, 4, 5, 6, 9];

/// Each kind of fault once, in any order and at any place.
#[test]
fn no_small_life_loses_doubles_or_splices_a_log() {
    for durable in [true, false] {
        explored(Bounds { faults: 4, durable, forgets: ONE, foreign: false, patient: false }, 5_000);
    }
}

/// The same with somebody else's bytes in the log, and a GitLab that forgets more than the last byte.
#[test]
fn no_small_life_with_foreign_bytes_loses_doubles_or_splices_a_log() {
    for durable in [true, false] {
        explored(Bounds { faults: 3, durable, forgets: MANY, foreign: true, patient: false }, 20_000);
    }
}

/// With five faults, and with jobs that get their result only when all of their log is acknowledged. Takes minutes:
/// `cargo test --release --test it -- --ignored no_larger --nocapture`.
#[test]
#[ignore = "takes minutes"]
fn no_larger_life_loses_doubles_or_splices_a_log() {
    for durable in [true, false] {
        explored(Bounds { faults: 5, durable, forgets: ONE, foreign: false, patient: false }, 20_000);
        explored(Bounds { faults: 3, durable, forgets: MANY, foreign: true, patient: true }, 20_000);
    }
}
