//! The adapter contract, over a loopback server that misbehaves.

use gitlab_runner_api_testkit::{TimeLimit, conformance};
use gitlab_runner_api_ureq::Transport;

#[test]
fn the_transport_keeps_the_contract() {
    let _limit = TimeLimit::start(TimeLimit::TEST);
    let transport = Transport::new();
    let report = conformance::check(|call| transport.exchange(call));
    println!("{report}");
    assert!(report.is_good(), "\n{report}");
}
