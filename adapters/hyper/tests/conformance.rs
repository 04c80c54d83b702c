//! The adapter contract, over a loopback server that misbehaves.

use gitlab_runner_api_hyper::Transport;
use gitlab_runner_api_testkit::{TimeLimit, conformance};

#[test]
fn the_transport_keeps_the_contract() {
    let _limit = TimeLimit::start(TimeLimit::TEST);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let transport = Transport::new().unwrap();
    let report = conformance::check(|call| runtime.block_on(transport.exchange(call)));
    println!("{report}");
    assert!(report.is_good(), "\n{report}");
}

/// A client of the user's own keeps the contract too, if it says itself what never left.
#[test]
fn a_service_of_the_users_keeps_the_contract() {
    use gitlab_runner_api_hyper::RequestBody;
    use gitlab_runner_api_hyper::gitlab_runner_api::Failure;
    use hyper_util::client::legacy;
    use hyper_util::rt::TokioExecutor;

    let _limit = TimeLimit::start(TimeLimit::TEST);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client =
        || legacy::Client::builder(TokioExecutor::new()).retry_canceled_requests(false).build_http::<RequestBody>();
    let classify = |error: &legacy::Error| if error.is_connect() { Failure::NotSent } else { Failure::Unknown };
    let transport = Transport::from_service_with(client(), classify);
    let report = conformance::check(|call| runtime.block_on(transport.exchange(call)));
    assert!(report.is_good(), "\n{report}");

    let transport = Transport::from_service(client());
    let report = conformance::check(|call| runtime.block_on(transport.exchange(call)));
    let failed: Vec<_> = report.cases.iter().filter(|(_, result)| result.is_err()).map(|(name, _)| *name).collect();
    let unsent = ["a refused connection is NotSent", "a name that does not exist is NotSent"];
    assert_eq!(failed, unsent, "in doubt, a request may have arrived");
}
