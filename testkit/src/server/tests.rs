use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::{Coordinator, NewJob, Server, Settings, TimeLimit};

const PATIENCE: Duration = Duration::from_secs(20);

struct Client(TcpStream);

impl Client {
    fn connect(server: &Server) -> Self {
        let address = server.url().trim_start_matches("http://").to_owned();
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
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
        assert!(start.elapsed() < PATIENCE, "it did not happen in time");
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
