//! The adapter contract over TLS with a private CA, and through a proxy; and what `register-runner` says of certificates.

use std::fs;
use std::io::Write;
use std::process::Command;

use gitlab_runner_api_testkit::conformance::{self, Report};
use gitlab_runner_api_testkit::{Coordinator, JobStatus, NewJob, Proxy, Server, Settings, TimeLimit, TlsFront, sim};
use gitlab_runner_api_ureq::{Error, HttpOptions, Instance, Proxies, ProxyUrl, Registration, Runner, Transport};
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
    let transport = Transport::with_options(options).unwrap();
    conformance::check_through(move |address| front.door(address).unwrap(), |call| transport.exchange(call))
}

/// A GitLab with one runner, behind TLS.
fn gitlab(front: &TlsFront) -> (Server, String) {
    let mut gitlab = Coordinator::new(Settings::default());
    gitlab.add_runner("glrt-canary");
    let server = Server::start(gitlab).unwrap();
    let url = front.door(server.url().trim_start_matches("http://").parse().unwrap()).unwrap();
    (server, url)
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

#[test]
fn a_ca_may_be_added_to_the_systems_and_a_client_may_show_a_certificate() {
    let (ca, front) = tls_front();
    let (_server, url) = gitlab(&front);
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["runner".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let shown = gitlab_runner_api_ureq::gitlab_runner_api::Secret::new(key.serialize_pem());
    let options = HttpOptions::new().with_ca(ca).with_client_certificate(own, shown);
    let instance = Instance::new(&url).unwrap().with_transport(Transport::with_options(&options).unwrap());
    let runner = instance.register("glrt-canary", Registration::new()).unwrap();
    runner.check_auth().unwrap();
}

#[test]
fn a_certificate_of_nobodys_is_refused_before_anything_is_sent() {
    let ((_, front), (other, _)) = (tls_front(), tls_front());
    let (_server, url) = gitlab(&front);
    let transport = Transport::with_options(&HttpOptions::new().with_only_ca(other)).unwrap();
    let instance = Instance::new(&url).unwrap().with_transport(transport);
    // A registration is never repeated if it may have arrived: this one cannot have.
    let refused = instance.register("canary-token", Registration::new()).unwrap_err();
    let text = refused.to_string();
    assert!(matches!(refused, Error::Unreachable { .. }) && text.contains("certificate"), "{text}");
    assert!(!text.contains("canary") && !text.contains("not known"), "{text}");
}

#[test]
fn register_runner_says_how_to_mend_a_certificate() {
    let (ca, front) = tls_front();
    let (_server, url) = gitlab(&front);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ca.pem"), ca).unwrap();
    fs::write(folder.path().join("bad.pem"), "canary").unwrap();
    let run = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_register-runner"));
        command.args([&url, "glrt-canary", "my.json", "--no-proxy"]).args(words).current_dir(folder.path());
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, err) = run(&[]);
    assert!(code == 4 && err.contains("certificate") && err.contains("give its certificate with --ca-file"), "{err}");
    let (code, err) = run(&["--ca-file", "bad.pem"]);
    assert!(code == 5 && err.contains("CA certificate cannot be read") && !err.contains("canary"), "{err}");
    assert_eq!(run(&["--ca-file", "none.pem"]).0, 5);
    assert_eq!(run(&["--ca-file", "ca.pem", "--ca-only"]), (0, String::new()));
}

/// A GitLab below a path, with a certificate of a CA that nobody else knows: a runner needs nothing but that CA.
#[test]
fn a_gitlab_below_a_path_is_served_over_tls() {
    let mut gitlab = Coordinator::new(Settings::default());
    gitlab.set_registration_token("GR1348941canary");
    let options = sim::Options::new("a-secret").with_root("/gitlab".parse().unwrap()).with_tls();
    let server = sim::serve(gitlab, options).unwrap().with_time_limit(TimeLimit::TEST);
    let (url, ca) = (server.url(), server.ca().unwrap().to_owned());
    assert!(url.starts_with("https://127.0.0.1:") && url.ends_with("/gitlab"), "{url}");

    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ca.pem"), &ca).unwrap();
    let register = |url: &str, words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_register-runner"));
        command.args([url, "GR1348941canary", "my.json", "--no-proxy"]).args(words).current_dir(folder.path());
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let trusting = ["--ca-file", "ca.pem", "--ca-only"];
    assert_eq!(register(&url, &[]).0, 4, "nobody else knows the CA");
    assert_ne!(register(&url.replace("/gitlab", ""), &trusting).0, 0, "the path is wrong");
    assert_eq!(register(&url, &trusting), (0, String::new()));

    let transport = Transport::with_options(&HttpOptions::new().with_only_ca(ca)).unwrap();
    let mut runner = Runner::load(folder.path().join("my.json")).unwrap().with_transport(transport);
    let id = server.with(|gitlab, now| gitlab.queue(now, NewJob::new("hello")));
    let mut job = runner.request_job().unwrap().expect("the job");
    assert_eq!(job.id(), id);
    assert_eq!(job.variable("CI_SERVER_URL"), Some(url.as_str()));
    job.log().write_all(b"over TLS\n").unwrap();
    job.success().unwrap();
    server.with(|gitlab, _| {
        let job = gitlab.job(id).unwrap();
        assert_eq!(job.status(), JobStatus::Success);
        assert!(job.trace().ends_with(b"\nover TLS\n"), "{}", String::from_utf8_lossy(job.trace()));
    });
}
