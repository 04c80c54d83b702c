//! Large artifacts pass through the program `simulated-gitlab` without being in its memory.
//!
//! What a process needs of memory, and which files it has open, is read as Linux tells it.
#![cfg(target_os = "linux")]

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use gitlab_runner_api_testkit::TimeLimit;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
/// More than GitLab takes by default.
const SIZE: u64 = 120 * MIB;
/// The most that the program may have needed, with its code and its threads.
const MEMORY: u64 = 64 * MIB;

/// The program, running.
struct Sim {
    child: Child,
    ready: Value,
    _limit: TimeLimit,
}

/// An answer whose body has not been read.
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: io::Take<BufReader<TcpStream>>,
}

impl Sim {
    fn start() -> Self {
        let limit = TimeLimit::start(TimeLimit::TEST);
        let mut command = Command::new(env!("CARGO_BIN_EXE_simulated-gitlab"));
        let mut child = command.args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        Self { child, ready: serde_json::from_str(&line).expect("JSON"), _limit: limit }
    }

    /// The URL of the program, or what else it printed.
    fn told(&self, name: &str) -> &str {
        self.ready[name].as_str().expect("a text")
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.told("url").trim_start_matches("http://")).expect("a connection")
    }

    /// Sends a request without a body that is larger than a text.
    fn call(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let mut stream = self.connect();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n");
        stream.write_all(format!("{head}{body}").as_bytes()).expect("sent");
        Answer::read(stream)
    }

    /// The header for requests that change something.
    fn control_token(&self) -> String {
        format!("Control-Token: {}\r\n", self.told("control_token"))
    }

    fn json(&self, method: &str, path: &str, body: &Value) -> Value {
        let headers = format!("Content-Type: application/json\r\n{}", self.control_token());
        let answer = self.call(method, path, &headers, &body.to_string());
        serde_json::from_reader(answer.body).expect("JSON")
    }

    /// A job that runs: its number, and its token.
    fn running_job(&self) -> (u64, String) {
        self.json("POST", "/_sim/jobs", &json!({ "name": "large" }));
        let job = self.json("POST", "/api/v4/jobs/request", &json!({ "token": self.told("runner_token") }));
        (job["id"].as_u64().expect("a number"), job["token"].as_str().expect("a token").to_owned())
    }

    /// Uploads a large file as an archive, in pieces.
    fn upload(&self, job: u64, token: &str, file: &File, size: u64) -> Answer {
        let before = "--xx\r\nContent-Disposition: form-data; name=\"artifact_type\"\r\n\r\narchive\r\n\
                      --xx\r\nContent-Disposition: form-data; name=\"file\"; filename=\"large.zip\"\r\n\r\n";
        let after = "\r\n--xx--\r\n";
        let mut stream = self.connect();
        let head = format!(
            "POST /api/v4/jobs/{job}/artifacts HTTP/1.1\r\nHost: localhost\r\nJOB-TOKEN: {token}\r\n\
             Content-Type: multipart/form-data; boundary=xx\r\nContent-Length: {}\r\n\r\n{before}",
            (before.len() + after.len()) as u64 + size
        );
        stream.write_all(head.as_bytes()).expect("sent");
        let mut at = 0;
        while at < size {
            at += stream.write(file.from(at, size - at)).expect("sent") as u64;
        }
        stream.write_all(after.as_bytes()).expect("sent");
        Answer::read(stream)
    }

    /// The most memory that the program had at any time, in bytes.
    fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    /// The files without a name that the program has open.
    fn temporary_files(&self) -> usize {
        let files = fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("its files");
        let targets = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        // Linux says so of a file with no name.
        targets.filter(|target| target.to_string_lossy().ends_with(" (deleted)")).count()
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Answer {
    fn read(stream: TcpStream) -> Self {
        let mut stream = BufReader::with_capacity(64 << 10, stream);
        let mut line = || {
            let mut line = String::new();
            stream.read_line(&mut line).expect("a head");
            line.trim_end().to_owned()
        };
        let status = line().split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let pair = |line: String| {
            let (name, value) = line.split_once(": ").expect("a header");
            (name.to_ascii_lowercase(), value.to_owned())
        };
        let headers: Vec<(String, String)> =
            std::iter::from_fn(|| Some(line())).take_while(|line| !line.is_empty()).map(pair).collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length = length.map_or(0, |(_, length)| length.parse().expect("a number"));
        Self { status, headers, body: stream.take(length) }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str()).expect("the header")
    }

    fn text(mut self) -> String {
        let mut text = String::new();
        self.body.read_to_string(&mut text).expect("a text");
        text
    }
}

/// A file without end: a block that repeats, with a length that no buffer has.
struct File {
    block: Vec<u8>,
}

impl File {
    fn new(seed: u64) -> Self {
        let next = |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        let words = std::iter::successors(Some(seed), next).map(|word| word.to_be_bytes()[0]);
        Self { block: words.take(1_000_003).collect() }
    }

    /// The bytes from an offset on, as many as are at hand.
    fn from(&self, at: u64, most: u64) -> &[u8] {
        let rest = &self.block[usize::try_from(at % self.block.len() as u64).expect("small")..];
        &rest[..rest.len().min(usize::try_from(most).unwrap_or(usize::MAX))]
    }

    /// Checks that an answer is the beginning of this file.
    fn check(&self, answer: Answer, size: u64) {
        assert_eq!((answer.status, answer.body.limit()), (200, size));
        let mut body = answer.body;
        let mut at = 0;
        let mut piece = vec![0; 64 << 10];
        while at < size {
            let expected = self.from(at, (piece.len() as u64).min(size - at));
            let piece = &mut piece[..expected.len()];
            body.read_exact(piece).expect("the body");
            assert!(piece == expected, "other bytes at {at}");
            at += expected.len() as u64;
        }
    }
}

#[test]
fn a_large_artifact_goes_up_and_down_with_little_memory() {
    let sim = Sim::start();
    let (job, token) = sim.running_job();
    let file = File::new(1);
    let token_header = format!("JOB-TOKEN: {token}\r\n");
    let path = format!("/api/v4/jobs/{job}/artifacts");

    // It is too large at first.
    let answer = sim.upload(job, &token, &file, SIZE);
    assert_eq!((answer.status, answer.text().contains("maximum size limit")), (413, true));
    assert_eq!(sim.temporary_files(), 0);

    sim.json("PATCH", "/_sim/settings", &json!({ "artifact_size_limit": SIZE, "object_storage": sim.told("url") }));
    assert_eq!(sim.upload(job, &token, &file, SIZE).status, 201);
    assert_eq!(sim.temporary_files(), 1);

    // Down by each of the three ways.
    file.check(sim.call("GET", &path, &token_header, ""), SIZE);
    let answer = sim.call("GET", &format!("{path}?direct_download=true"), &token_header, "");
    assert_eq!(answer.status, 302);
    let storage = answer.header("location").strip_prefix(sim.told("url")).expect("an address of the program");
    file.check(sim.call("GET", storage, "", ""), SIZE);
    file.check(sim.call("GET", &format!("/_sim/jobs/{job}/artifacts/archive"), "", ""), SIZE);

    // The same file once more is taken for a repeated upload, and another one is refused. Neither is kept.
    assert_eq!(sim.upload(job, &token, &file, SIZE).status, 201);
    assert_eq!(sim.upload(job, &token, &File::new(2), SIZE).status, 400);
    assert_eq!(sim.temporary_files(), 1);

    let peak = sim.peak_memory();
    println!("the program needed {} MiB", peak / MIB);
    assert!(peak <= MEMORY, "the program needed {peak} bytes");

    // The file is deleted with the job.
    sim.call("POST", &format!("/_sim/jobs/{job}/erase"), &sim.control_token(), "{}").text();
    assert_eq!(sim.temporary_files(), 0);
}

#[test]
fn a_file_that_comes_in_part_leaves_nothing() {
    let sim = Sim::start();
    let (job, token) = sim.running_job();
    let mut stream = sim.connect();
    let head = format!(
        "POST /api/v4/jobs/{job}/artifacts HTTP/1.1\r\nHost: localhost\r\nJOB-TOKEN: {token}\r\n\
         Content-Type: multipart/form-data; boundary=xx\r\nContent-Length: {SIZE}\r\n\r\n\
         --xx\r\nContent-Disposition: form-data; name=\"file\"; filename=\"large.zip\"\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("sent");
    stream.write_all(&File::new(1).block).expect("sent");
    let eventually = |count| {
        let start = std::time::Instant::now();
        while sim.temporary_files() != count {
            assert!(start.elapsed().as_secs() < 20, "there are {} temporary files", sim.temporary_files());
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    };
    eventually(1);
    drop(stream);
    eventually(0);
    let view = sim.call("GET", &format!("/_sim/jobs/{job}"), "", "").text();
    assert!(view.contains("\"artifacts\":[]"), "{view}");
}
