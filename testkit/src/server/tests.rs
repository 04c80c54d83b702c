use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use http::Method;

use super::shared::{ANSWERS_LIMIT, BODIES_LIMIT, NoFilter};
use super::{Clock, Listen};
use crate::coordinator::Reading;
use crate::{Coordinator, Maintenance, NewJob, Server, Settings, TimeLimit};

const CLIENT_TIMEOUT: Duration = Duration::from_secs(20);

struct Client(TcpStream);

impl Client {
    fn connect(server: &Server) -> Self {
        let address = server.url().trim_start_matches("http://").to_owned();
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(CLIENT_TIMEOUT)).expect("a timeout");
        Self(stream)
    }

    fn send(&mut self, head: &str, body: &str) {
        let length = body.len();
        let request = format!(
            "{head} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        self.0.write_all(request.as_bytes()).expect("sent");
    }

    /// The next answer: its head in lower case, and its body.
    fn receive(&mut self) -> (String, Vec<u8>) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).expect("an answer");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a number"))];
        self.0.read_exact(&mut body).expect("a body");
        (head, body)
    }

    fn call(&mut self, head: &str, body: &str) -> (String, Vec<u8>) {
        self.send(head, body);
        self.receive()
    }
}

fn start(long_poll: Duration) -> Server {
    let mut gitlab = Coordinator::new(Settings::default().with(|settings| settings.long_poll = Some(long_poll)));
    gitlab.add_runner("glrt-fake");
    Server::start(gitlab).expect("a server").with_time_limit(TimeLimit::TEST)
}

fn eventually(server: &Server, holds: impl Fn(&Coordinator) -> bool) {
    let start = Instant::now();
    while !server.with(|gitlab, _| holds(gitlab)) {
        assert!(start.elapsed() < CLIENT_TIMEOUT, "it did not happen in time");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The body of a job request that will be held.
fn idle(client: &mut Client) -> String {
    let (head, _) = client.call("POST /api/v4/jobs/request", r#"{"token":"glrt-fake"}"#);
    assert!(head.starts_with("http/1.1 204"), "{head}");
    let value = head.lines().find_map(|line| line.strip_prefix("x-gitlab-last-update: ")).expect("a queue value");
    format!(r#"{{"token":"glrt-fake","last_update":"{value}"}}"#)
}

#[test]
fn a_job_is_served_over_one_connection() {
    let server = start(Duration::from_secs(60));
    let mut client = Client::connect(&server);
    let request = idle(&mut client);

    // Held until the queue changes, then asked again.
    client.send("POST /api/v4/jobs/request", &request);
    eventually(&server, |gitlab| gitlab.deadline().is_some());
    let id = server.with(|gitlab, now| gitlab.queue(now, NewJob::default()));
    let (head, _) = client.receive();
    assert!(head.starts_with("http/1.1 204") && !head.contains("last-update"), "{head}");

    let (head, body) = client.call("POST /api/v4/jobs/request", &request);
    assert!(head.starts_with("http/1.1 201"), "{head}");
    let payload: serde_json::Value = serde_json::from_slice(&body).expect("a payload");
    assert_eq!(payload["id"], id);

    let update = serde_json::json!({ "token": payload["token"], "state": "success" }).to_string();
    let (head, body) = client.call(&format!("PUT /api/v4/jobs/{id}"), &update);
    assert!(head.starts_with("http/1.1 200") && head.contains("job-status: success"), "{head}");
    assert_eq!(body, b"200");
    assert_eq!(server.with(|gitlab, _| gitlab.job(id).map(|job| job.status().as_str())), Some("success"));
}

#[test]
fn a_wait_ends_by_itself() {
    let server = start(Duration::from_millis(30));
    let mut client = Client::connect(&server);
    let request = idle(&mut client);
    let (head, _) = client.call("POST /api/v4/jobs/request", &request);
    assert!(head.starts_with("http/1.1 204") && !head.contains("last-update"), "{head}");
}

#[test]
fn a_client_that_goes_away_is_forgotten() {
    let server = start(Duration::from_secs(3600));
    let mut client = Client::connect(&server);
    let request = idle(&mut client);
    client.send("POST /api/v4/jobs/request", &request);
    eventually(&server, |gitlab| gitlab.deadline().is_some());
    drop(client);
    eventually(&server, |gitlab| gitlab.stats().abandoned() == 1 && gitlab.deadline().is_none());
}

#[test]
fn dropping_the_server_closes_what_it_holds() {
    let server = start(Duration::from_secs(3600));
    let mut client = Client::connect(&server);
    let request = idle(&mut client);
    client.send("POST /api/v4/jobs/request", &request);
    eventually(&server, |gitlab| gitlab.deadline().is_some());
    drop(server);
    assert!(matches!(client.0.read(&mut [0]), Ok(0) | Err(_)));
}

#[test]
fn a_panic_in_a_test_does_not_take_the_server_down() {
    let server = start(Duration::from_secs(1));
    let panicked = thread::scope(|scope| scope.spawn(|| server.with(|_, _| panic!("on purpose"))).join().is_err());
    assert!(panicked);
    idle(&mut Client::connect(&server));
}

#[test]
fn bodies_are_limited() {
    let server = start(Duration::from_secs(1));
    server.with(|gitlab, _| gitlab.settings_mut().artifact_size_limit = 1);
    let mut client = Client::connect(&server);
    let head = format!("PUT /api/v4/jobs/1 HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 65 << 20);
    client.0.write_all(head.as_bytes()).expect("sent");
    let chunk = vec![b'a'; 1 << 20];
    (0..65).try_for_each(|_| client.0.write_all(&chunk)).expect("sent");
    let (head, _) = client.receive();
    assert!(head.starts_with("http/1.1 413"), "{head}");
}

/// The head and the body of an upload.
fn upload(path: &str, token: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let token = if token.is_empty() { String::new() } else { format!("job-token: {token}\r\n") };
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\n{token}content-type: multipart/form-data; boundary=xx\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn part(head: &str, content: &[u8]) -> Vec<u8> {
    let head = format!("--xx\r\nContent-Disposition: form-data; {head}\r\n\r\n");
    [head.as_bytes(), content, b"\r\n"].concat()
}

/// A coordinator in which a job runs, with its number and its token.
fn running() -> (Coordinator, u64, String) {
    let now = SystemTime::now().into();
    let mut gitlab = Coordinator::new(Settings::default().with(|settings| settings.artifact_size_limit = 600_000));
    gitlab.add_runner("glrt-fake");
    let id = gitlab.queue(now, NewJob::default());
    let request = http::Request::post("/api/v4/jobs/request").header("content-type", "application/json");
    let request = request.body(bytes::Bytes::from_static(br#"{"token":"glrt-fake"}"#)).expect("a request");
    assert_eq!(gitlab.respond(now, request).status(), 201);
    let token = gitlab.job(id).expect("a job").token().to_owned();
    (gitlab, id, token)
}

#[test]
fn uploads_are_answered_as_if_they_were_in_memory() {
    let (mut in_memory, id, token) = running();
    let server = Server::start(in_memory.clone()).expect("a server").with_time_limit(TimeLimit::TEST);
    server.stop_clock();
    let mut client = Client::connect(&server);

    let file = |name: &str, size| part(&format!("name=\"{name}\"; filename=\"a.zip\""), &vec![b'a'; size]);
    let field = |name: &str, value: &str| part(&format!("name=\"{name}\""), value.as_bytes());
    let end = || b"--xx--\r\n".to_vec();
    let path = format!("/api/v4/jobs/{id}/artifacts");
    let rows: [(&str, &str, Vec<Vec<u8>>, u16); 16] = [
        ("", &token, vec![], 400),
        ("", &token, vec![end()], 400),
        ("", &token, vec![file("file", 10)], 400),
        ("", &token, vec![file("other", 10), end()], 500),
        ("", &token, vec![file("file", 10), file("file", 10), end()], 500),
        ("", &token, vec![file("file", 600_001), end()], 413),
        ("", &token, vec![field("artifact_type", "moon"), file("file", 600_001), end()], 400),
        ("", "", vec![file("file", 500_000), end()], 403),
        ("", "wrong", vec![file("file", 500_000), end()], 403),
        // A token in the form comes after the front proxy has asked GitLab.
        ("", "", vec![field("token", &token), file("file", 500_000), end()], 403),
        (
            "",
            &token,
            vec![field("artifact_type", "sast"), field("artifact_format", "raw"), file("file", 9), end()],
            201,
        ),
        ("", &token, vec![file("file", 500_000), field("expire_in", "1 week"), end()], 201),
        ("?token=wrong", &token, vec![file("file", 500_000), end()], 403),
        ("", &token, vec![file("file", 500_000), end()], 201),
        ("", &token, vec![file("file", 499_999), end()], 400),
        ("?artifact_type=dotenv&artifact_format=gzip", &token, vec![file("file", 5 << 10), end()], 400),
    ];
    let query = format!("{path}?token={token}&artifact_type=lsif");
    let rows = rows.map(|(query, token, body, status)| (format!("{path}{query}"), token, body, status));
    for (path, token, body, status) in rows.into_iter().chain([(query, "", vec![file("file", 1), end()], 201)]) {
        let body = body.concat();
        let mut request = http::Request::post(&path).header("content-type", "multipart/form-data; boundary=xx");
        if !token.is_empty() {
            request = request.header("job-token", token);
        }
        let request = request.body(body.clone().into()).expect("a request");
        let expected = in_memory.respond(server.now(), request);
        client.0.write_all(&upload(&path, token, &body)).expect("sent");
        let (head, answer) = client.receive();
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{path}: {head}");
        assert_eq!((expected.status().as_u16(), &expected.body()[..]), (status, &answer[..]), "{path}");
    }
    let told = |gitlab: &Coordinator| -> Vec<String> {
        let artifacts = gitlab.job(id).expect("a job").artifacts().iter();
        artifacts
            .map(|file| {
                let (kind, format, name, kept) =
                    (&file.artifact_type, &file.artifact_format, &file.file_name, &file.expire_in);
                format!("{kind} {format} {name} {kept:?} {:?}", file.content.to_bytes().expect("read").len())
            })
            .collect()
    };
    let stored = server.with(|gitlab, _| told(gitlab));
    assert_eq!((stored.len(), &stored), (3, &told(&in_memory)));
    let archive =
        server.with(|gitlab, _| gitlab.job(id).and_then(|job| job.artifact("archive")).expect("one").content.clone());
    assert!(archive.in_memory().is_none(), "a file of 500000 bytes is on disk");

    let (head, body) = client.call(&format!("GET {path}?token={token}"), "");
    assert!(head.starts_with("http/1.1 200") && head.contains("filename=\"a.zip\""), "{head}");
    assert_eq!(body, vec![b'a'; 500_000]);
}

#[test]
fn what_is_refused_anyway_is_not_stored() {
    let (mut gitlab, id, token) = running();
    let now = SystemTime::now().into();
    let reading = |gitlab: &Coordinator, method: http::Method, path: &str, token: &str, kind: &str| {
        let request = http::Request::builder().method(method).uri(path).header("job-token", token);
        gitlab.reading(now, &request.header("content-type", kind).body(()).expect("a request").into_parts().0)
    };
    let path = format!("/api/v4/jobs/{id}/artifacts");
    let form = "multipart/form-data; boundary=xx";
    assert_eq!(reading(&gitlab, Method::POST, &path, &token, form), Reading::Form { limit: 600_000 });
    for (method, path, token, kind, expected) in [
        (Method::POST, path.as_str(), "wrong", form, Reading::Discard),
        (Method::POST, &path, "", form, Reading::Discard),
        (Method::POST, "/api/v4/jobs/7/artifacts", &token, form, Reading::Discard),
        (Method::POST, &path, &token, "application/json", Reading::Whole),
        (Method::POST, "/api/v4/jobs/request", &token, form, Reading::Whole),
        (Method::PATCH, &format!("/api/v4/jobs/{id}/trace"), &token, form, Reading::Whole),
        (Method::GET, &path, &token, form, Reading::Whole),
    ] {
        assert_eq!(reading(&gitlab, method, path, token, kind), expected, "{path} {token} {kind}");
    }
    let refusals: [fn(&mut Settings); 3] = [
        |settings| settings.artifacts_enabled = false,
        |settings| settings.maintenance = Maintenance::On,
        |settings| settings.migration_backoff = true,
    ];
    for change in refusals {
        let mut gitlab = gitlab.clone();
        change(gitlab.settings_mut());
        assert_eq!(reading(&gitlab, Method::POST, &path, &token, form), Reading::Discard);
    }
    gitlab.erase(id);
    assert_eq!(reading(&gitlab, Method::POST, &path, &token, form), Reading::Discard);
    gitlab.settings_mut().upload_redirect = Some("http://other.test".to_owned());
    assert_eq!(reading(&gitlab, Method::POST, &path, &token, form), Reading::AnswerFirst);
}

#[test]
fn too_many_fields_are_refused_and_the_connection_is_kept() {
    let (gitlab, id, token) = running();
    let server = Server::start(gitlab).expect("a server").with_time_limit(TimeLimit::TEST);
    let mut client = Client::connect(&server);
    let path = format!("/api/v4/jobs/{id}/artifacts");
    let body = [part("name=\"field\"", &vec![b'a'; 3 << 20]), b"--xx--\r\n".to_vec()].concat();
    client.0.write_all(&upload(&path, &token, &body)).expect("sent");
    let (head, _) = client.receive();
    assert!(head.starts_with("http/1.1 413"), "{head}");
    idle(&mut client);
}

#[test]
fn an_upload_is_sent_to_another_address_before_its_body_is_read() {
    let server = start(Duration::from_secs(1));
    server.with(|gitlab, _| gitlab.settings_mut().upload_redirect = Some("http://near.test".to_owned()));
    let mut client = Client::connect(&server);
    let body = vec![b'a'; 1 << 20];
    let head = format!("POST /api/v4/jobs/1/artifacts HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    client.0.write_all(head.as_bytes()).expect("sent");
    let (answer, _) = client.receive();
    assert!(
        answer.starts_with("http/1.1 307") && answer.contains("location: http://near.test/api/v4/jobs/1/artifacts")
    );
    // A client that has begun to send the body may finish, and use the connection again.
    client.0.write_all(&body).expect("sent");
    let (answer, _) = client.call("POST /api/v4/jobs/request", r#"{"token":"glrt-fake"}"#);
    assert!(answer.starts_with("http/1.1 204"), "{answer}");
    assert_eq!(server.with(|gitlab, _| gitlab.stats().answers(307)), 1);
}

/// A server that does not wait long for clients that are silent, with a job that runs and has a log of 8 MiB.
fn impatient(client_timeout: Duration) -> (Server, u64, String) {
    let (mut gitlab, id, token) = running();
    gitlab.add_runner("glrt-fake");
    let log = vec![b'x'; 8 << 20];
    let patch = http::Request::patch(format!("/api/v4/jobs/{id}/trace")).header("job-token", &token);
    let patch = patch.header("content-range", format!("0-{}", log.len() - 1)).body(log.into()).expect("a request");
    assert_eq!(gitlab.respond(SystemTime::now().into(), patch).status(), 202);
    gitlab.set_access_token("glpat-fake");
    let listen = Listen { client_timeout, ..Listen::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))) };
    let server = Server::start_with_filter(gitlab, listen, Box::new(NoFilter), Clock::start()).expect("a server");
    (server.with_time_limit(TimeLimit::TEST), id, token)
}

/// How much of the budgets for bodies and for answers is taken.
fn taken(server: &Server) -> [usize; 2] {
    [server.shared.bodies.taken(), server.shared.answers.taken()]
}

fn wait_until_taken(server: &Server, wanted: impl Fn([usize; 2]) -> bool) {
    while !wanted(taken(server)) {
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_silent_client_loses_its_connection_and_what_it_holds() {
    let (server, id, token) = impatient(Duration::from_millis(300));
    let half = "a".repeat(1 << 20);
    let json = "content-type: application/json\r\ncontent-length: 2000000\r\n\r\n";
    let form = "content-type: multipart/form-data; boundary=xx\r\ncontent-length: 2000000\r\n\r\n--xx\r\n";
    for (sent, answer) in [
        (String::new(), ""),
        ("POST /api/v4/jobs/request HTTP/1.1\r\nhost: x\r\ncontent-".to_owned(), ""),
        (format!("POST /api/v4/jobs/request HTTP/1.1\r\nhost: x\r\n{json}{half}"), "HTTP/1.1 408 "),
        (
            format!("POST /api/v4/jobs/{id}/artifacts HTTP/1.1\r\nhost: x\r\njob-token: {token}\r\n{form}"),
            "HTTP/1.1 408 ",
        ),
        // One whose body is not kept.
        (format!("POST /api/v4/jobs/7/artifacts HTTP/1.1\r\nhost: x\r\n{form}"), "HTTP/1.1 408 "),
        (
            "POST /api/v4/jobs/request HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab".to_owned(),
            "HTTP/1.1 408 ",
        ),
    ] {
        let mut client = Client::connect(&server);
        client.0.write_all(sent.as_bytes()).expect("sent");
        let mut told = Vec::new();
        client.0.read_to_end(&mut told).expect("the end");
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.starts_with(answer) && told.is_empty() == answer.is_empty(), "{answer}: {told}");
    }
    let reads = |path: &str| {
        let mut client = Client::connect(&server);
        client
            .0
            .write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nprivate-token: glpat-fake\r\n\r\n").as_bytes())
            .expect("sent");
        client
    };
    let _clients: Vec<Client> = (0..3).map(|_| reads(&format!("/api/v4/projects/4242/jobs/{id}/trace"))).collect();
    wait_until_taken(&server, |[_, answers]| answers > 0);
    wait_until_taken(&server, |taken| taken == [0, 0]);
}

#[test]
fn what_is_on_its_way_takes_a_bounded_memory_and_small_requests_are_served() {
    let (server, id, _) = impatient(CLIENT_TIMEOUT);
    let mut client = Client::connect(&server);
    let large = format!(r#"{{"token":"glrt-fake","info":{{"name":"{}"}}}}"#, "a".repeat(200 << 10));
    let read = |client: &mut Client, path: &str| {
        let head = format!(
            "GET /api/v4/projects/4242/jobs/{id}{path} HTTP/1.1\r\nhost: x\r\nprivate-token: glpat-fake\r\n\r\n"
        );
        client.0.write_all(head.as_bytes()).expect("sent");
        client.receive()
    };
    let (mut bodies, mut answers) = (server.shared.bodies.share(), server.shared.answers.share());
    assert!(bodies.grow_to(BODIES_LIMIT) && answers.grow_to(ANSWERS_LIMIT));
    for (told, status) in [
        (client.call("POST /api/v4/jobs/request", &large), 503),
        (read(&mut client, "/trace"), 503),
        (client.call("POST /api/v4/jobs/request", r#"{"token":"glrt-fake"}"#), 204),
        (read(&mut client, ""), 200),
    ] {
        assert!(told.0.starts_with(&format!("http/1.1 {status} ")), "{}", told.0);
        assert!(status != 503 || String::from_utf8_lossy(&told.1).contains("on their way"), "{:?}", told.1);
    }
    drop((bodies, answers));
    let (head, log) = read(&mut client, "/trace");
    assert!(head.starts_with("http/1.1 200") && log.len() == 8 << 20, "{head}");
    let (head, _) = client.call("POST /api/v4/jobs/request", &large);
    assert!(head.starts_with("http/1.1 204"), "{head}");
    wait_until_taken(&server, |taken| taken == [0, 0]);
}
