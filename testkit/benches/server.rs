//! What the simulated GitLab costs as a server: requests per second, and how soon a job reaches a runner whose request is held.
//! `cargo bench -p gitlab-runner-api-testkit`.
//!
//! The clients are threads of the same process and take their part of the processor. Compare two versions on one machine.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use divan::Bencher;
use divan::counter::ItemsCount;
use gitlab_runner_api_testkit::{Coordinator, NewJob, Server, Settings};

/// Connections that ask all the time.
const BUSY: usize = 64;
/// Requests on each of them in one measurement.
const ROUNDS: usize = 16;

fn main() {
    divan::main();
}

/// A server with a runner for each connection. It records requests, as the program does.
fn server(runners: usize) -> Server {
    let settings = Settings::default().with(|settings| {
        settings.record_requests = true;
        settings.long_poll = Some(Duration::from_secs(3600));
        settings.job_request_limit = 0;
    });
    let mut gitlab = Coordinator::new(settings);
    for number in 0..runners {
        gitlab.add_runner(&format!("glrt-{number}"));
    }
    Server::start(gitlab).expect("a server")
}

struct Client {
    stream: TcpStream,
    number: usize,
}

impl Client {
    fn connect(server: &Server, number: usize) -> Self {
        let address = server.url().trim_start_matches("http://").to_owned();
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("an option of TCP");
        Self { stream, number }
    }

    /// Asks for a job. With the queue value that the runner has seen last, the request is held.
    fn ask(&mut self, last_update: &str) {
        let body = format!(r#"{{"token":"glrt-{}","last_update":"{last_update}"}}"#, self.number);
        let length = body.len();
        let head = "POST /api/v4/jobs/request HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
        let request = format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}");
        self.stream.write_all(request.as_bytes()).expect("sent");
    }

    /// The head of the next answer, after which its body was read.
    fn hear(&mut self) -> String {
        let mut answer = Vec::new();
        let mut piece = [0; 16 << 10];
        loop {
            let read = self.stream.read(&mut piece).expect("an answer");
            assert_ne!(read, 0, "the connection was closed");
            answer.extend_from_slice(&piece[..read]);
            let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&answer[..end]).into_owned();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if answer.len() >= end + 4 + length.map_or(0, |length| length.parse().expect("a number")) {
                return head;
            }
        }
    }

    /// Waits with a request that is held.
    fn hold(&mut self) {
        self.ask("");
        let head = self.hear();
        let value = head.lines().find_map(|line| line.strip_prefix("x-gitlab-last-update: "));
        self.ask(value.expect("a queue value"));
    }
}

/// So many clients that wait, each for a runner of its own, once their requests are held.
fn waiting(server: &Server, polls: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..polls).map(|number| Client::connect(server, number)).collect();
    clients.iter_mut().for_each(Client::hold);
    wait_until_held(server, polls);
    clients
}

fn wait_until_held(server: &Server, polls: usize) {
    // The record of a request that is held has no status.
    while server.with(|gitlab, _| gitlab.requests().filter(|record| record.status.is_none()).count()) < polls {
        std::thread::yield_now();
    }
}

/// Job requests on 64 connections, while other requests are held.
#[divan::bench(args = [0, 5000], sample_count = 20, sample_size = 1)]
fn requests_on_64_connections(bencher: Bencher<'_, '_>, polls: usize) {
    let server = server(polls + BUSY);
    let _waiting = waiting(&server, polls);
    let mut clients: Vec<Client> = (polls..polls + BUSY).map(|number| Client::connect(&server, number)).collect();
    bencher.counter(ItemsCount::new(BUSY * ROUNDS)).bench_local(|| {
        for _ in 0..ROUNDS {
            clients.iter_mut().for_each(|client| client.ask(""));
            for client in &mut clients {
                assert!(client.hear().starts_with("HTTP/1.1 204 "));
            }
        }
    });
}

/// From the moment when a job for one runner is queued until that runner, whose request was held, has it.
#[divan::bench(args = [1, 5000], sample_count = 20, sample_size = 1)]
fn job_to_a_held_request(bencher: Bencher<'_, '_>, polls: usize) {
    let server = server(polls);
    let clients = RefCell::new(waiting(&server, polls));
    let mut is_first = true;
    let hold_again = || {
        if !std::mem::take(&mut is_first) {
            clients.borrow_mut()[0].hold();
        }
        wait_until_held(&server, polls);
    };
    bencher.with_inputs(hold_again).bench_local_values(|()| {
        server.with(|gitlab, now| gitlab.queue(now, NewJob::new("bench").with_runner(1)));
        get_job(&mut clients.borrow_mut()[0]);
    });
}

/// From the moment when a job for any runner is queued until one of them has it. All requests that are held are answered.
#[divan::bench(args = [1, 5000], sample_count = 10, sample_size = 1)]
fn job_to_any_held_request(bencher: Bencher<'_, '_>, polls: usize) {
    let server = server(polls);
    let clients = RefCell::new(waiting(&server, polls));
    let mut is_first = true;
    let hold_again = || {
        if !std::mem::take(&mut is_first) {
            let mut clients = clients.borrow_mut();
            clients[0].hold();
            for client in &mut clients[1..] {
                assert!(client.hear().starts_with("HTTP/1.1 204 "));
                client.hold();
            }
        }
        wait_until_held(&server, polls);
    };
    bencher.with_inputs(hold_again).bench_local_values(|()| {
        server.with(|gitlab, now| gitlab.queue(now, NewJob::new("bench")));
        get_job(&mut clients.borrow_mut()[0]);
    });
}

/// The wait ends, and the runner asks again and gets the job.
fn get_job(client: &mut Client) {
    assert!(client.hear().starts_with("HTTP/1.1 204 "));
    client.ask("");
    assert!(client.hear().starts_with("HTTP/1.1 201 "));
}
