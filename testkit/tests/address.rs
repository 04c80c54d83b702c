//! The address of the program `simulated-gitlab`: a path of its own, and TLS. Everything that it names leads to itself.

mod program;

use program::Sim;
use serde_json::{Value, json};

/// All texts in a value.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::Object(members) => members.values().flat_map(texts).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}

fn variable<'p>(payload: &'p Value, key: &str) -> &'p str {
    let variables = payload["variables"].as_array().expect("a list");
    let found = variables.iter().find(|variable| variable["key"] == key);
    found.and_then(|variable| variable["value"].as_str()).unwrap_or_else(|| panic!("no {key}"))
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let found = head.lines().filter_map(|line| line.split_once(": "));
    found.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
}

/// The status and all of the answer to a request for a path that counts from the root of the address.
fn status_at(sim: &Sim, method: &str, path: &str) -> (u16, String) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(sim.address()).unwrap();
    let host = sim.address();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

#[test]
fn it_answers_below_its_root_only() {
    let sim = Sim::start(&["--root", "/gitlab/"]);
    assert_eq!((sim.root(), sim.told("url").ends_with("/gitlab")), ("/gitlab", true));
    for (method, path, status) in [
        ("GET", "/gitlab", 200),
        ("GET", "/gitlab/", 200),
        ("GET", "/gitlab?status=failed", 200),
        ("GET", "/gitlab/_page/page.css", 200),
        ("GET", "/gitlab/_page/page.js", 200),
        ("GET", "/gitlab/_sim/health", 200),
        ("POST", "/gitlab/api/v4/jobs/request", 400),
        ("GET", "/", 404),
        ("GET", "/_sim/health", 404),
        ("GET", "/_page/page.css", 404),
        ("POST", "/api/v4/jobs/request", 404),
        ("POST", "/api/v4/jobs/1/artifacts", 404),
        ("POST", "/gitlab2/api/v4/jobs/request", 404),
        ("POST", "/other/gitlab/api/v4/jobs/request", 404),
        ("POST", "/gitlab/other/api/v4/jobs/request", 404),
        ("POST", "/gitlab/gitlab/api/v4/jobs/request", 404),
        ("POST", "/gitlab/api/x/api/v4/jobs/request", 404),
        ("POST", "/gitlab/api/v3/jobs/request", 410),
        ("OPTIONS", "*", 404),
    ] {
        let (found, answer) = status_at(&sim, method, path);
        assert_eq!(found, status, "{method} {path}: {answer}");
    }
    let (_, answer) = status_at(&sim, "POST", "/api/v4/jobs/request");
    assert!(answer.ends_with("Not found \"/api/v4/jobs/request\"\n"), "{answer}");

    let at_the_root = Sim::start(&["--root", "/"]);
    assert_eq!(at_the_root.root(), "");
    for (path, status) in [("/api/v4/jobs/request", 400), ("/wrong/api/v4/jobs/request", 404), ("/gitlab/", 404)] {
        assert_eq!(status_at(&at_the_root, "POST", path).0, status, "{path}");
    }
}

#[test]
fn all_that_a_payload_names_leads_to_itself() {
    let sim = Sim::start(&["--root", "/deep/gitlab"]);
    let url = sim.told("url");
    sim.sim("POST", "/_sim/jobs", r#"{"name":"one","artifacts":[{"paths":["a"]}]}"#);
    let (status, payload) = sim.request_job().unwrap();
    let payload: Value = serde_json::from_str(&payload).unwrap();
    assert_eq!(status, 201);
    let (host, port) = sim.address().split_once(':').unwrap();
    let token = payload["token"].as_str().unwrap();
    let repository = format!("http://gitlab-ci-token:{token}@{}/deep/gitlab/acme/widgets.git", sim.address());
    for (key, value) in [
        ("CI_SERVER_URL", url),
        ("CI_SERVER_HOST", host),
        ("CI_SERVER_PORT", port),
        ("CI_SERVER_PROTOCOL", "http"),
        ("CI_SERVER_FQDN", sim.address()),
        ("CI_API_V4_URL", &format!("{url}/api/v4")),
        ("CI_API_GRAPHQL_URL", &format!("{url}/api/graphql")),
        ("CI_PROJECT_URL", &format!("{url}/acme/widgets")),
        ("CI_JOB_URL", &format!("{url}/acme/widgets/-/jobs/{}", payload["id"])),
        ("CI_DEPENDENCY_PROXY_SERVER", sim.address()),
        ("CI_PROJECT_PATH", "acme/widgets"),
        ("CI_REPOSITORY_URL", &repository),
    ] {
        assert_eq!(variable(&payload, key), value, "{key}");
    }
    assert_eq!(payload["git_info"]["repo_url"], json!(repository));
    for text in texts(&payload).into_iter().filter(|text| text.contains("://") && text.contains(sim.address())) {
        assert!(text.replace(&format!("gitlab-ci-token:{token}@"), "").starts_with(url), "{text}");
    }

    // The addresses that answers name, with the settings that the README gives.
    let settings = json!({ "object_storage": url, "router_url": url });
    assert_eq!(sim.sim("PATCH", "/_sim/settings", &settings.to_string()).0, 200);
    let job = format!("JOB-TOKEN: {token}\r\n");
    let form = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.zip\"\r\n\r\nPK\r\n--x--\r\n";
    let headers = format!("{job}Content-Type: multipart/form-data; boundary=x\r\n");
    let path = format!("/api/v4/jobs/{}/artifacts", payload["id"]);
    assert_eq!(sim.call("POST", &path, &headers, form).unwrap().0, 201);
    let (head, _) = sim.exchange("GET", &format!("{path}?direct_download=true"), &job, "").unwrap();
    let storage = header(&head, "location").unwrap().strip_prefix(url).expect("below its URL");
    assert_eq!(sim.call("GET", storage, "", "").unwrap(), (200, "PK".to_owned()));
    let runner = format!("RUNNER-TOKEN: {}\r\n", sim.told("runner_token"));
    let (_, router) = sim.call("GET", "/api/v4/runners/router/discovery", &runner, "").unwrap();
    assert_eq!(serde_json::from_str::<Value>(&router).unwrap(), json!({ "server_url": url }));

    // An upload that is sent to the program itself arrives, and is not sent round and round.
    assert_eq!(sim.sim("PATCH", "/_sim/settings", &json!({ "upload_redirect": url }).to_string()).0, 200);
    assert_eq!(sim.call("POST", &path, &headers, form).unwrap().0, 201);
    let elsewhere = json!({ "upload_redirect": "http://127.0.0.1:1/elsewhere" });
    sim.sim("PATCH", "/_sim/settings", &elsewhere.to_string());
    let (head, _) = sim.exchange("POST", &path, &headers, form).unwrap();
    assert_eq!(header(&head, "location"), Some(format!("http://127.0.0.1:1/elsewhere{path}").as_str()));

    let access = format!("PRIVATE-TOKEN: {}\r\n", sim.told("access_token"));
    let (head, jobs) = sim.exchange("GET", "/api/v4/projects/4242/jobs?per_page=1", &access, "").unwrap();
    assert!(header(&head, "link").unwrap().contains(&format!("<{url}/api/v4/projects/4242/jobs?")), "{head}");
    let jobs: Value = serde_json::from_str(&jobs).unwrap();
    for text in texts(&jobs).into_iter().filter(|text| text.contains("://")) {
        assert!(text.starts_with(url), "{text}");
    }
    assert_eq!(sim.sim("GET", "/_sim/openapi.json", "").1["servers"], json!([{ "url": url }]));
}

/// An address that stands for all addresses of the machine is not one to which all clients can connect.
#[test]
fn a_server_at_all_addresses_names_one_of_them() {
    let everywhere = ["--listen", "0.0.0.0:0", "--allow-remote"];
    let sim = Sim::start(&everywhere);
    assert!(sim.told("url").starts_with("http://127.0.0.1:"), "{}", sim.told("url"));
    assert_eq!(sim.call("GET", "/_sim/health", "", "").unwrap().0, 200);
    let sim = Sim::start(&[&everywhere[..], &["--allow-host", "gitlab.test", "--root", "/gitlab"]].concat());
    assert!(sim.told("url").starts_with("http://gitlab.test:") && sim.root() == "/gitlab", "{}", sim.told("url"));
}

#[test]
fn the_page_and_its_cookie_are_below_the_root() {
    let sim = Sim::start(&["--root", "/gitlab"]);
    let evil = r#"{"name":"<a href=\"/evil\">","script":["echo '=\"/evil'"]}"#;
    let (_, job) = sim.sim("POST", "/_sim/jobs", evil);
    let page = sim.told("page").strip_prefix(sim.told("url")).unwrap();
    let (head, _) = sim.exchange("GET", page, "", "").unwrap();
    assert_eq!(header(&head, "location"), Some("/gitlab/"));
    let cookie = header(&head, "set-cookie").unwrap();
    assert!(cookie.contains("; Path=/gitlab;") && !cookie.contains("Secure"), "{cookie}");
    let cookie = format!("Cookie: {}\r\n", cookie.split(';').next().unwrap());
    for path in ["/".to_owned(), format!("/jobs/{}", job["id"]), "/jobs/7".to_owned()] {
        let (_, page) = sim.call("GET", &path, &cookie, "").unwrap();
        let places = ["href=\"", "src=\"", "data-post=\"", "data-path=\""];
        let links = places.iter().flat_map(|place| page.split(place).skip(1));
        let links: Vec<_> = links.map(|rest| rest.split('"').next().unwrap()).collect();
        assert!(links.len() > 2 && links.iter().all(|link| link.starts_with("/gitlab/")), "{path}: {links:?}");
        assert!(!page.contains("/gitlab/evil"), "what a job says stays as it is: {page}");
        for link in links.into_iter().filter(|link| !link.contains("/_sim/")) {
            let status = status_at(&sim, "GET", link).0;
            assert_eq!(status, 200, "{link}");
        }
    }
}

/// What only a client that speaks TLS can see.
#[cfg(all(feature = "tls", unix))]
mod tls {
    use std::fs;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Output};

    use super::program::{Sim, has};
    use super::*;

    /// Runs `curl`, which trusts this file alone and asks no proxy.
    fn curl(ca_file: &str, words: &[&str]) -> Output {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--noproxy", "*", "--cacert", ca_file, "--max-time", "60"]);
        command.args(words).output().expect("curl")
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    #[test]
    fn a_runner_of_curl_and_sh_needs_the_printed_ca_file_alone() {
        if !has("curl") {
            println!("skipped: there is no curl here");
            return;
        }
        let sim = Sim::start(&["--tls", "--root", "/gitlab", "--registration-token", "GR1348941secret"]);
        let (url, ca_file) = (sim.told("url"), sim.told("ca_file").to_owned());
        let mode = fs::metadata(&ca_file).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "other users may read it: {mode:o}");
        assert!(url.starts_with("https://127.0.0.1:") && url.ends_with("/gitlab"), "{url}");
        let control = format!("Control-Token: {}", sim.told("control_token"));
        let queued =
            curl(&ca_file, &["--header", &control, "--data", r#"{"name":"tls"}"#, &format!("{url}/_sim/jobs")]);
        let queued: Value = serde_json::from_slice(&queued.stdout).expect("JSON");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/curl-runner.sh");
        let mut runner = Command::new("sh");
        runner.args([script, url, "GR1348941secret"]).env("CURL_CA_BUNDLE", &ca_file).env("NO_PROXY", "*");
        let ran = runner.output().expect("sh");
        assert!(ran.status.success(), "{}\n{}", text(&ran.stdout), text(&ran.stderr));
        let shown = curl(&ca_file, &[&format!("{url}/_sim/jobs/{}", queued["id"])]);
        let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
        assert_eq!(shown["status"], "success", "{shown}");

        assert_eq!(sim.terminate(), 0);
        assert!(!fs::exists(&ca_file).expect("known"), "{ca_file} is left behind");
    }

    #[test]
    fn the_certificate_is_for_all_names_of_the_server_and_trusted_by_its_ca_alone() {
        if !has("curl") {
            println!("skipped: there is no curl here");
            return;
        }
        let sim = Sim::start(&["--tls", "--root", "/gitlab", "--allow-host", "gitlab.test"]);
        let other = Sim::start(&["--tls"]);
        let ca_file = sim.told("ca_file");
        let port = sim.address().rsplit_once(':').unwrap().1;
        let asked = |ca_file: &str, host: &str, words: &[&str]| {
            let url = format!("https://{host}:{port}/gitlab/_sim/health");
            let output = curl(ca_file, &[words, &["--write-out", "%{http_code}", &url]].concat());
            (output.status.code(), text(&output.stdout))
        };
        let to = |host: &str| format!("{host}:{port}:127.0.0.1");
        for (host, fine) in [("127.0.0.1", true), ("localhost", true), ("gitlab.test", true), ("evil.test", false)] {
            let (code, answer) = asked(ca_file, host, &["--resolve", &to(host)]);
            assert_eq!((code == Some(0), answer.ends_with("200")), (fine, fine), "{host}: {code:?} {answer}");
        }
        // curl's exit code for a certificate that it does not trust.
        assert_eq!(asked(other.told("ca_file"), "127.0.0.1", &[]).0, Some(60));

        let page = curl(ca_file, &["--dump-header", "-", &sim.told("page").replace("/?", "?")]);
        let page = text(&page.stdout);
        assert!(page.contains("location: /gitlab/\r\n") && page.contains("; Path=/gitlab;"), "{page}");
        assert!(page.to_lowercase().contains("; secure"), "{page}");
    }

    /// Clients that hang in the middle of a handshake, or that do not speak TLS, delay nobody.
    #[test]
    fn who_speaks_no_tls_is_not_answered() {
        if !has("curl") {
            println!("skipped: there is no curl here");
            return;
        }
        let sim = Sim::start(&["--tls"]);
        let silent: Vec<_> = (0..20).map(|_| TcpStream::connect(sim.address()).unwrap()).collect();
        let mut plain = TcpStream::connect(sim.address()).unwrap();
        plain.write_all(b"GET /_sim/health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        _ = plain.read_to_end(&mut answer);
        assert!(!text(&answer).contains("HTTP/1.1"), "{}", text(&answer));
        let health = curl(sim.told("ca_file"), &[&format!("{}/_sim/health", sim.told("url"))]);
        assert_eq!(text(&health.stdout), "{\"status\":\"ok\"}\n");
        drop(silent);
    }

    /// The module `ssl` of Python 3.13 is strict about what stands in certificates. Older versions are when they are told so.
    #[test]
    fn a_strict_client_takes_the_certificates() {
        if !has("python3") {
            println!("skipped: there is no python3 here");
            return;
        }
        let program = "import ssl, sys, urllib.request as r\n\
            context = ssl.create_default_context(cafile=sys.argv[1])\n\
            context.verify_flags |= ssl.VERIFY_X509_STRICT\n\
            opener = r.build_opener(r.ProxyHandler({}), r.HTTPSHandler(context=context))\n\
            print(opener.open(sys.argv[2] + '/_sim/health').status)\n";
        let sim = Sim::start(&["--tls"]);
        let output =
            Command::new("python3").args(["-c", program, sim.told("ca_file"), sim.told("url")]).output().unwrap();
        assert_eq!(text(&output.stdout), "200\n", "{}", text(&output.stderr));
    }
}

#[cfg(not(feature = "tls"))]
#[test]
fn without_the_feature_the_program_says_how_to_build_it_with_tls() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_simulated-gitlab")).arg("--tls").output().unwrap();
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && why.contains("--features tls") && why.lines().count() == 1, "{why}");
}
