//! The adapter contract over TLS with a private CA, and through proxies.

use std::sync::{Arc, Mutex};

use gitlab_runner_api_hyper::{Error, HttpOptions, Proxies, ProxyUrl, Registration, Runner, Transport};
use gitlab_runner_api_testkit::conformance::{self, Report};
use gitlab_runner_api_testkit::{Coordinator, Front, Proxy, Server, Settings, TimeLimit, TlsFront, Treatment};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// A CA, and a front with a certificate that it issued.
fn tls_front() -> (String, TlsFront) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let front = TlsFront::start(&leaf.pem(), &key.serialize_pem()).unwrap().with_time_limit(TimeLimit::TEST);
    (ca, front)
}

fn check(options: &HttpOptions, front: TlsFront) -> Report {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let transport = Transport::with_options(options).unwrap();
    conformance::check_through(
        move |address| front.door(address).unwrap(),
        |call| runtime.block_on(transport.exchange(call)),
    )
}

#[test]
fn the_contract_is_kept_over_tls_with_a_private_ca() {
    let (ca, front) = tls_front();
    let report = check(&HttpOptions::new().with_only_ca(ca), front);
    assert!(report.is_good(), "\n{report}");
}

#[test]
fn the_contract_is_kept_through_a_tunnel() {
    let ((ca, front), proxy) = (tls_front(), Proxy::start().unwrap());
    let address = ProxyUrl::parse(&format!("http://user:canary@{}", proxy.address())).unwrap();
    let proxies = Proxies::all(address).with_no_proxy("no-such-host.invalid");
    let report = check(&HttpOptions::new().with_only_ca(ca).with_proxies(proxies), front);
    assert!(report.is_good(), "\n{report}");
    let heads = proxy.heads();
    let told = |head: &String| head.to_ascii_lowercase().contains("proxy-authorization: basic ");
    assert!(!heads.is_empty() && heads.iter().all(told), "{heads:?}");
}

#[tokio::test]
async fn a_certificate_of_nobodys_is_refused_before_anything_is_sent() {
    let ((_, front), (other, _)) = (tls_front(), tls_front());
    let server = Server::start(Coordinator::new(Settings::default())).unwrap();
    let url = front.door(server.url().trim_start_matches("http://").parse().unwrap()).unwrap();
    let transport = Transport::with_options(&HttpOptions::new().with_only_ca(other)).unwrap();
    let refused = Runner::register_with(transport, &url, "canary-token", Registration::new()).await.unwrap_err();
    let text = refused.to_string();
    assert!(matches!(refused, Error::Unreachable { .. }) && text.contains("certificate"), "{text}");
    assert!(!text.contains("canary"));
    // It would say that the call may have been carried out, if it might.
    assert!(!text.contains("not known"), "{text}");
    let bad = Transport::with_options(&HttpOptions::new().with_ca("no certificate")).unwrap_err();
    assert!(matches!(bad, Error::Tls(_)), "{bad}");
}

#[tokio::test]
async fn plain_requests_are_passed_on_by_a_proxy_that_is_told_who_asks() {
    let mut gitlab = Coordinator::new(Settings::default());
    gitlab.add_runner("glrt-canary");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let decide = move |request: &http::Request<bytes::Bytes>| {
        let authorization = request.headers().get("proxy-authorization").cloned();
        noted.lock().unwrap().push((request.uri().to_string(), authorization));
        Treatment::Deliver
    };
    let front =
        Front::start(Arc::new(Server::start(gitlab).unwrap().with_time_limit(TimeLimit::TEST)), decide).unwrap();
    let address = front.url().replace("http://", "http://user:canary@");
    let options = HttpOptions::new().with_proxies(Proxies::all(ProxyUrl::parse(&address).unwrap()));
    let transport = Transport::with_options(&options).unwrap();
    let url = "http://gitlab.example.test";
    Runner::register_with(transport, url, "glrt-canary", Registration::new()).await.unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0].0, "http://gitlab.example.test/api/v4/runners/verify");
    assert_eq!(seen[0].1.as_ref().unwrap(), "Basic dXNlcjpjYW5hcnk=");
}
