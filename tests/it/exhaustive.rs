//! All small lives of a job.

use gitlab_runner_api_testkit::exhaustive::{Bounds, explore};

/// Each kind of fault once, in any order and at any place.
#[test]
fn no_small_life_loses_doubles_or_splices_a_log() {
    for durable in [true, false] {
        let explored =
            explore(Bounds { faults: 5, durable }).unwrap_or_else(|fault| panic!("durable {durable}: {fault}"));
        println!("durable {durable}: {explored:?}");
        assert!(explored.lives > 20_000, "{explored:?}");
    }
}
