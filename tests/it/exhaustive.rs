//! All small lives of a job.

use gitlab_runner_api_testkit::exhaustive::{Bounds, explore};

#[track_caller]
fn explored(bounds: Bounds, at_least: u64) {
    let explored = explore(bounds).unwrap_or_else(|fault| panic!("{bounds:?}: {fault}"));
    println!("{bounds:?}: {explored:?}");
    assert!(explored.lives > at_least, "{explored:?}");
}

/// Each kind of fault once, in any order and at any place.
#[test]
fn no_small_life_loses_doubles_or_splices_a_log() {
    for durable in [true, false] {
        explored(Bounds { faults: 5, durable, forgets: &[1], foreign: false, patient: false }, 20_000);
    }
}

/// The same with somebody else's bytes in the log, and a GitLab that forgets more than the last byte.
#[test]
fn no_small_life_with_foreign_bytes_loses_doubles_or_splices_a_log() {
    for durable in [true, false] {
        let forgets = &[1, 2, 3, 4, 5, 6, 9];
        explored(Bounds { faults: 3, durable, forgets, foreign: true, patient: true }, 20_000);
    }
}
