//! The adapter contract, over a loopback server that misbehaves.

use gitlab_runner_api_hyper::Transport;
use gitlab_runner_api_testkit::conformance;

#[test]
fn the_transport_keeps_the_contract() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let transport = Transport::new().unwrap();
    let report = conformance::check(|call| runtime.block_on(transport.exchange(call)));
    println!("{report}");
    assert!(report.is_good(), "\n{report}");
}
