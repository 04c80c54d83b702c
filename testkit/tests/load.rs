//! The program `simulated-gitlab` with many runners, with long polls by the thousand, and with readers that are slow.
//!
//! No test measures time, so that a busy machine changes no result. What takes how long is in `benches/server.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use gitlab_runner_api_testkit::TimeLimit;
use serde_json::{Value, json};

mod program;

use program::Sim;

/// How many long polls are held, if the operating system allows for so many connections.
const POLLS: usize = 5000;
/// File descriptors that are left for other things, also for other tests of this program.
const SPARE: usize = 200;

/// The number of long polls that can be held at once here.
fn polls() -> usize {
    let limit = Command::new("sh").args(["-c", "ulimit -n"]).output().ok();
    let limit = limit.and_then(|output| String::from_utf8(output.stdout).ok()?.trim().parse().ok());
    // Without a limit the shell prints `unlimited`.
    let polls = limit.map_or(POLLS, |limit: usize| limit.saturating_sub(SPARE)).min(POLLS);
    if polls < POLLS {
        println!("{polls} long polls instead of {POLLS}, because that is how many files a process may have open here");
    }
    polls
}

/// Starts the program without limits of rates.
fn start(words: &[&str]) -> Sim {
    start_for(TimeLimit::TEST, words)
}

fn start_for(span: Duration, words: &[&str]) -> Sim {
    let sim = Sim::start_for(span, words);
    sim.sim("PATCH", "/_sim/settings", r#"{"job_request_limit":0,"trace_limit":0,"job_limit":0}"#);
    sim
}

/// A connection that is kept.
struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    fn connect(sim: &Sim) -> Self {
        let stream = TcpStream::connect(sim.address()).expect("a connection");
        stream.set_nodelay(true).expect("an option of TCP");
        Self { stream, read: Vec::new() }
    }

    fn send(&mut self, method: &str, path: &str, headers: &str, body: &str) {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}");
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        self.stream.write_all(request.as_bytes()).expect("sent");
    }

    /// The next answer: its status, the lines of its head, and its body.
    fn receive(&mut self) -> (u16, String, Vec<u8>) {
        let mut piece = [0; 16 << 10];
        loop {
            if let Some(end) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8(self.read[..end].to_vec()).expect("text");
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let end = end + 4 + length.map_or(0, |length| length.parse().expect("a number"));
                if self.read.len() >= end {
                    let body = self.read[head.len() + 4..end].to_vec();
                    self.read.drain(..end);
                    return (head[9..12].parse().expect("a status"), head, body);
                }
            }
            let read = self.stream.read(&mut piece).expect("an answer");
            assert_ne!(read, 0, "the connection was closed");
            self.read.extend_from_slice(&piece[..read]);
        }
    }

    fn call(&mut self, method: &str, path: &str, headers: &str, body: &str) -> (u16, Vec<u8>) {
        self.send(method, path, headers, body);
        let (status, _, body) = self.receive();
        (status, body)
    }

    fn steer(&mut self, sim: &Sim, path: &str, body: &Value) -> Value {
        let token = format!("Control-Token: {}\r\n", sim.told("control_token"));
        let (status, answer) = self.call("POST", path, &token, &body.to_string());
        assert_eq!(status / 100, 2, "{path}");
        serde_json::from_slice(&answer).expect("JSON")
    }

    fn ask(&mut self, token: &str, system_id: &str, last_update: &str) {
        let body = json!({ "token": token, "system_id": system_id, "last_update": last_update }).to_string();
        self.send("POST", "/api/v4/jobs/request", JSON, &body);
    }

    /// Asks for a job in such a way that the request is held. Returns before it is.
    fn hold(&mut self, token: &str, system_id: &str) {
        self.ask(token, system_id, "");
        let (status, head, _) = self.receive();
        assert_eq!(status, 204);
        let value = head.lines().find_map(|line| line.strip_prefix("x-gitlab-last-update: ")).expect("a queue value");
        self.ask(token, system_id, value);
    }

    /// Whether nothing has come, and the connection is open.
    fn is_silent(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("an option of the socket");
        let read = self.stream.read(&mut [0]);
        self.stream.set_nonblocking(false).expect("an option of the socket");
        read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Runs a job as a runner does, from the payload to its end.
    fn run(&mut self, payload: &[u8], log: &str) -> u64 {
        let payload: Value = serde_json::from_slice(payload).expect("a payload");
        let (id, token) = (payload["id"].as_u64().expect("a number"), payload["token"].as_str().expect("a text"));
        let headers =
            format!("JOB-TOKEN: {token}\r\nContent-Type: text/plain\r\nContent-Range: 0-{}\r\n", log.len() - 1);
        assert_eq!(self.call("PATCH", &format!("/api/v4/jobs/{id}/trace"), &headers, log).0, 202);
        let update = json!({ "token": token, "state": "success" }).to_string();
        assert_eq!(self.call("PUT", &format!("/api/v4/jobs/{id}"), JSON, &update).0, 200);
        id
    }
}

const JSON: &str = "Content-Type: application/json\r\n";

/// Connections that hold a long poll each, all for one runner and with a system ID of their own.
fn hold_all(sim: &Sim, polls: usize) -> Vec<Client> {
    let token = sim.told("runner_token");
    // Two for each poll, and those of the test.
    sim.sim("PATCH", "/_sim/settings", &json!({ "kept_requests": polls * 4 }).to_string());
    let mut clients: Vec<Client> = (0..polls).map(|_| Client::connect(sim)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.hold(token, &format!("s_{number}"));
    }
    wait_until_held(sim, polls);
    clients
}

/// The record of a request that is held has no status.
fn wait_until_held(sim: &Sim, polls: usize) {
    let held = || {
        let (_, requests) = sim.sim("GET", "/_sim/requests", "");
        requests.as_array().expect("a list").iter().filter(|request| request["status"].is_null()).count()
    };
    while held() < polls {
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_job_reaches_its_runner_while_thousands_of_long_polls_are_held() {
    let sim = start(&["--long-poll", "3600"]);
    let polls = polls();
    let mut clients = hold_all(&sim, polls);
    let mut control = Client::connect(&sim);
    let other = control.steer(&sim, "/_sim/runners", &json!({}));
    let (number, token) = (&other["id"], other["token"].as_str().expect("a token"));
    let mut runner = Client::connect(&sim);
    runner.hold(token, "s_other");
    wait_until_held(&sim, polls + 1);

    // A job that only this runner may have changes the queue of no other.
    control.steer(&sim, "/_sim/jobs", &json!({ "runner": number }));
    assert_eq!(runner.receive().0, 204);
    runner.ask(token, "s_other", "");
    let (status, _, payload) = runner.receive();
    assert_eq!(status, 201);
    runner.run(&payload, "done");
    assert!(clients.iter_mut().all(Client::is_silent));

    // A job for all of them ends every wait, and one of them gets it.
    control.steer(&sim, "/_sim/jobs", &json!({}));
    assert!(clients.iter_mut().all(|client| client.receive().0 == 204));
    for (number, client) in clients.iter_mut().enumerate() {
        client.ask(sim.told("runner_token"), &format!("s_{number}"), "");
    }
    let got = clients.iter_mut().map(|client| client.receive().0).filter(|status| *status == 201).count();
    assert_eq!(got, 1);
}

#[test]
#[cfg(unix)]
fn it_ends_cleanly_while_thousands_of_long_polls_are_held() {
    let report = std::env::temp_dir().join(format!("simulated-gitlab-load-{}.json", std::process::id()));
    let sim = start(&["--long-poll", "3600", "--report", report.to_str().expect("a path")]);
    let polls = polls();
    let clients = hold_all(&sim, polls);
    assert_eq!(sim.terminate(), 0);
    let mut rest = Vec::new();
    for mut client in clients {
        // The connection was closed, or it was reset.
        assert!(matches!(client.stream.read_to_end(&mut rest), Ok(0) | Err(_)), "{rest:?}");
    }
    let written: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    assert_eq!(written["requests"]["POST /jobs/request"], polls * 2);
    fs::remove_file(report).unwrap();
}

#[test]
fn many_runners_share_the_jobs_and_each_job_runs_once() {
    const RUNNERS: usize = 32;
    const JOBS: usize = 400;
    let sim = start(&["--long-poll", "3600"]);
    let mut control = Client::connect(&sim);
    let runners: Vec<String> = (0..RUNNERS)
        .map(|_| control.steer(&sim, "/_sim/runners", &json!({}))["token"].as_str().expect("a token").to_owned())
        .collect();
    let work = |token: &str| {
        let mut client = Client::connect(&sim);
        let (mut done, mut last_update) = (Vec::new(), String::new());
        loop {
            client.ask(token, "s_1", &last_update);
            let (status, head, body) = client.receive();
            if status == 201 {
                let payload: Value = serde_json::from_slice(&body).expect("a payload");
                if payload["job_info"]["name"] == "end" {
                    client.run(&body, "end");
                    return done;
                }
                done.push(client.run(&body, "hello\n"));
            }
            // A request that was held is answered without the value.
            let value = head.lines().find_map(|line| line.strip_prefix("x-gitlab-last-update: "));
            last_update = value.unwrap_or_default().to_owned();
        }
    };
    let done: Vec<u64> = thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = runners.iter().map(|token| scope.spawn(move || work(token))).collect();
        for _ in 0..JOBS {
            control.steer(&sim, "/_sim/jobs", &json!({ "name": "work" }));
        }
        for runner in 0..RUNNERS {
            // The program has a runner with the number 1 from its start.
            control.steer(&sim, "/_sim/jobs", &json!({ "name": "end", "runner": runner + 2 }));
        }
        threads.into_iter().flat_map(|thread| thread.join().expect("a runner")).collect()
    });
    let mut times: BTreeMap<u64, usize> = BTreeMap::new();
    done.iter().for_each(|id| *times.entry(*id).or_default() += 1);
    assert_eq!((times.len(), done.len()), (JOBS, JOBS));
    let (_, jobs) = sim.sim("GET", "/_sim/jobs", "");
    assert!(jobs.as_array().unwrap().iter().all(|job| job["status"] == "success"));
}

#[test]
fn a_slow_reader_delays_nobody() {
    const READERS: usize = 50;
    let sim = start(&[]);
    sim.sim("PATCH", "/_sim/settings", r#"{"trace_size_limit":1000000000}"#);
    sim.sim("POST", "/_sim/jobs", "{}");
    let payload: Value = serde_json::from_str(&sim.request_job().unwrap().1).unwrap();
    let (id, token) = (payload["id"].as_u64().unwrap(), payload["token"].as_str().unwrap());
    // More than the operating system takes for a connection that nobody reads from.
    let log = "all work and no play\n".repeat(1 << 20);
    let headers = format!("JOB-TOKEN: {token}\r\nContent-Type: text/plain\r\nContent-Range: 0-{}\r\n", log.len() - 1);
    let mut client = Client::connect(&sim);
    assert_eq!(client.call("PATCH", &format!("/api/v4/jobs/{id}/trace"), &headers, &log).0, 202);
    let form =
        format!("--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.zip\"\r\n\r\n{log}\r\n--x--\r\n");
    let headers = format!("JOB-TOKEN: {token}\r\nContent-Type: multipart/form-data; boundary=x\r\n");
    assert_eq!(client.call("POST", &format!("/api/v4/jobs/{id}/artifacts"), &headers, &form).0, 201);

    let paths = [format!("/_sim/jobs/{id}/trace"), format!("/_sim/jobs/{id}/artifacts/archive"), format!("/jobs/{id}")];
    let mut readers: Vec<Client> = (0..READERS).map(|_| Client::connect(&sim)).collect();
    for (reader, path) in readers.iter_mut().zip(paths.iter().cycle()) {
        reader.send("GET", path, "", "");
    }
    // None of them has read anything.
    for _ in 0..100 {
        sim.sim("POST", "/_sim/jobs", "{}");
        client.ask(sim.told("runner_token"), "s_1", "");
        let (status, _, payload) = client.receive();
        assert_eq!(status, 201);
        client.run(&payload, "done");
    }
    for (number, reader) in readers.iter_mut().take(3).enumerate() {
        let (status, _, body) = reader.receive();
        assert_eq!(status, 200);
        assert!(number == 2 || body == log.as_bytes(), "{} bytes", body.len());
    }
}

/// The memory of the program in KiB; none where the operating system does not tell it in this way.
fn memory(sim: &Sim) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", sim.process())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Lets jobs run with a log of so many bytes each. Returns the memory in KiB after the first ones, and after all.
fn memory_of_jobs(sim: &Sim, first: usize, all: usize, log: usize) -> Option<(u64, u64)> {
    let log = format!("{}\n", "x".repeat(log - 1));
    let mut client = Client::connect(sim);
    let mut after_first = None;
    for number in 1..=all {
        client.steer(sim, "/_sim/jobs", &json!({ "name": "test" }));
        client.ask(sim.told("runner_token"), "s_1", "");
        let (status, _, payload) = client.receive();
        assert_eq!(status, 201);
        client.run(&payload, &log);
        if number == first {
            after_first = memory(sim);
        }
    }
    after_first.zip(memory(sim))
}

#[test]
fn memory_does_not_grow_with_the_number_of_jobs() {
    let sim = start(&[]);
    sim.sim("PATCH", "/_sim/settings", r#"{"kept_jobs":100,"kept_requests":1000}"#);
    let Some((first, all)) = memory_of_jobs(&sim, 300, 1500, 16 << 10) else {
        println!("skipped: this operating system does not tell how much memory a process has");
        return;
    };
    // The logs of the jobs between would be 19 MiB.
    assert!(all < first + (8 << 10), "{first} KiB after 300 jobs, {all} KiB after 1,500");
}

/// With the settings that the program has from its start:
/// `cargo test --release -p gitlab-runner-api-testkit --test load -- --ignored --nocapture`
#[test]
#[ignore = "takes minutes, and measures an optimised program"]
fn a_hundred_thousand_jobs_take_no_more_memory_than_a_thousand() {
    let sim = start_for(TimeLimit::TEST * 20, &[]);
    let (first, all) = memory_of_jobs(&sim, 1000, 100_000, 4 << 10).expect("an operating system that tells it");
    println!("{first} KiB after 1,000 jobs, {all} KiB after 100,000");
    assert!(all < first + (64 << 10), "{first} KiB after 1,000 jobs, {all} KiB after 100,000");
}
