//! The program `simulated-gitlab`, over its socket and steered by its control API.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Map, Value, json};

use crate::gitlab::{ACCESS_TOKEN, EXTERNAL_URL, Gitlab, REGISTRATION_TOKEN, RUNNER_TOKEN, START, Sent, millis};

/// How long to wait for an answer before looking whether the request is held.
const GLANCE: Duration = Duration::from_millis(20);
/// How long a held request may take to be answered after the queue has changed, before time is let pass.
const PROMPT: Duration = Duration::from_millis(300);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

type Answer = Result<Response<Bytes>, String>;

/// The program, running.
pub(crate) struct Program {
    child: Child,
    address: String,
    control_token: String,
    held: Option<Receiver<Answer>>,
    hold: Duration,
}

impl Program {
    pub(crate) fn start() -> Result<Self, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_simulated-gitlab"));
        command.args(["--listen", "127.0.0.1:0", "--start-time", &START.to_string()]);
        command.args(["--registration-token", REGISTRATION_TOKEN, "--access-token", ACCESS_TOKEN]);
        command.args(["--runner-token", RUNNER_TOKEN]);
        command.args(["--allow-host", "gitlab.example.test"]);
        let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
        let mut line = String::new();
        let output = child.stdout.take().ok_or("no output")?;
        BufReader::new(output).read_line(&mut line).map_err(|error| error.to_string())?;
        let ready: Value = serde_json::from_str(&line).map_err(|error| error.to_string())?;
        let address = ready["url"].as_str().and_then(|url| url.strip_prefix("http://")).ok_or("no URL")?;
        let control_token = ready["control_token"].as_str().ok_or("no token")?.to_owned();
        let (held, hold) = (None, Duration::ZERO);
        let mut program = Self { address: address.to_owned(), control_token, child, held, hold };
        program.set(Map::from_iter([("external_url".to_owned(), json!(EXTERNAL_URL))]))?;
        Ok(program)
    }

    /// A request of the control API.
    fn control(&self, method: &str, path: &str, body: &Value) -> Result<(u16, Bytes), String> {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let request = Request::builder().method(method).uri(format!("/_sim/{path}"));
        let request = request.header("Control-Token", &self.control_token).body(body);
        let response = exchange(&self.address, &request.map_err(|error| error.to_string())?)?;
        Ok((response.status().as_u16(), response.into_body()))
    }

    /// A request of the control API that must be answered with 200 or 201.
    fn told(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let (status, answer) = self.control(method, path, body)?;
        if status != 200 && status != 201 {
            return Err(format!("{method} {path}: {status} {}", String::from_utf8_lossy(&answer)));
        }
        serde_json::from_slice(&answer).map_err(|error| format!("{method} {path}: {error}"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Gitlab for Program {
    fn now(&mut self) -> Result<u64, String> {
        let now = self.told("GET", "time", &Value::Null)?["now"].as_f64().ok_or("no time")?;
        millis(now)
    }

    fn pass(&mut self, time: Duration) -> Result<(), String> {
        self.told("POST", "time", &json!({ "advance": time.as_secs_f64() })).map(drop)
    }

    fn set_clock(&mut self, unix: u64) -> Result<(), String> {
        let ahead = (unix * 1000).checked_sub(self.now()?).ok_or("this time has passed")?;
        self.pass(Duration::from_millis(ahead))
    }

    fn set(&mut self, settings: Map<String, Value>) -> Result<(), String> {
        if let Some(seconds) = settings.get("long_poll").and_then(Value::as_f64) {
            self.hold = Duration::from_secs_f64(seconds);
        }
        self.told("PATCH", "settings", &settings.into()).map(drop)
    }

    fn add_user(&mut self, token: &str, role: &str, scopes: &[&str]) -> Result<(), String> {
        self.told("POST", "users", &json!({ "token": token, "role": role, "scopes": scopes })).map(drop)
    }

    fn add_registration_token(&mut self, registration: &Value) -> Result<(), String> {
        self.told("POST", "registration_tokens", registration).map(drop)
    }

    fn set_runner_type(&mut self, runner: u64, kind: &str) -> Result<(), String> {
        self.told("PATCH", &format!("runners/{runner}"), &json!({ "runner_type": kind })).map(drop)
    }

    fn happen_to_runner(&mut self, runner: u64, what: &str) -> Result<(), String> {
        self.told("POST", &format!("runners/{runner}/{what}"), &Value::Null).map(drop)
    }

    fn queue(&mut self, job: Value) -> Result<(u64, String), String> {
        let id = self.told("POST", "jobs", &job)?["id"].as_u64().ok_or("no number")?;
        let token = self.told("GET", &format!("jobs/{id}/token"), &Value::Null)?;
        Ok((id, token["token"].as_str().ok_or("no token")?.to_owned()))
    }

    fn happen_to_job(&mut self, job: u64, what: &str, with: Value) -> Result<(), String> {
        self.told("POST", &format!("jobs/{job}/{what}"), &with).map(drop)
    }

    fn submit(&mut self, request: Request<Bytes>) -> Result<Sent, String> {
        let (sender, receiver) = mpsc::channel();
        let address = self.address.clone();
        // It fails only if nobody waits any more.
        thread::spawn(move || _ = sender.send(exchange(&address, &request)));
        for _ in 0..PATIENCE.as_millis() / GLANCE.as_millis() {
            match receiver.recv_timeout(GLANCE) {
                Ok(answer) => return answer.map(Sent::Answered),
                Err(RecvTimeoutError::Disconnected) => return Err("the connection broke".to_owned()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let requests = self.told("GET", "requests", &Value::Null)?;
            let last = requests.as_array().and_then(|requests| requests.last());
            if last.is_some_and(|last| last["status"].is_null()) {
                self.held = Some(receiver);
                return Ok(Sent::Held);
            }
        }
        Err("there is no answer".to_owned())
    }

    fn wait(&mut self) -> Answer {
        let receiver = self.held.take().ok_or("nothing is held")?;
        if let Ok(answer) = receiver.recv_timeout(PROMPT) {
            return answer;
        }
        self.pass(self.hold)?;
        receiver.recv_timeout(PATIENCE).map_err(|error| error.to_string())?
    }

    fn job(&mut self, job: u64) -> Result<Value, String> {
        self.told("GET", &format!("jobs/{job}"), &Value::Null)
    }

    fn trace(&mut self, job: u64) -> Result<Bytes, String> {
        match self.control("GET", &format!("jobs/{job}/trace"), &Value::Null)? {
            (200, trace) => Ok(trace),
            (status, _) => Err(format!("the log of {job}: {status}")),
        }
    }

    fn artifact(&mut self, job: u64, kind: &str) -> Result<Option<Bytes>, String> {
        match self.control("GET", &format!("jobs/{job}/artifacts/{kind}"), &Value::Null)? {
            (200, file) => Ok(Some(file)),
            (404, _) => Ok(None),
            (status, _) => Err(format!("{kind} of {job}: {status}")),
        }
    }

    fn count_runners(&mut self) -> Result<usize, String> {
        let runners = self.told("GET", "runners", &Value::Null)?;
        runners.as_array().map(Vec::len).ok_or_else(|| "no list".to_owned())
    }

    fn runner(&mut self, runner: u64) -> Result<Option<Value>, String> {
        match self.control("GET", &format!("runners/{runner}"), &Value::Null)? {
            (404, _) => Ok(None),
            (_, told) => serde_json::from_slice(&told).map(Some).map_err(|error| error.to_string()),
        }
    }
}

/// Sends a request on a connection of its own, and reads the answer.
fn exchange(address: &str, request: &Request<Bytes>) -> Answer {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(address).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let host = request.uri().authority().map_or(address, |host| host.as_str());
    let mut head = format!("{} {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n", request.method());
    for (name, value) in request.headers() {
        head.push_str(&format!("{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes())));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", request.body().len()));
    stream.write_all(head.as_bytes()).map_err(failed)?;
    stream.write_all(request.body()).map_err(failed)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(failed)?;
    parse(&answer).ok_or_else(|| format!("not an answer: {:.300}", String::from_utf8_lossy(&answer)))
}

/// An answer, with a body that lasts until the end of the connection.
fn parse(answer: &[u8]) -> Option<Response<Bytes>> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let mut response = Response::builder().status(status);
    for line in lines {
        let (name, value) = line.split_once(':')?;
        response = response.header(name, value.trim());
    }
    response.body(Bytes::copy_from_slice(&answer[end + 4..])).ok()
}
