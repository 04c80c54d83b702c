//! Starts the program `simulated-gitlab` and talks to it, for all tests of the program.

#![allow(dead_code, reason = "each of these tests uses a part")]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use gitlab_runner_api_testkit::TimeLimit;
use serde_json::{Value, json};

/// The program, running.
pub(crate) struct Sim {
    child: Child,
    pub(crate) ready: Value,
    _limit: TimeLimit,
}

impl Sim {
    pub(crate) fn start(words: &[&str]) -> Self {
        Self::start_for(TimeLimit::TEST, words)
    }

    /// Starts it for a test that may take so long.
    pub(crate) fn start_for(span: Duration, words: &[&str]) -> Self {
        Self::start_with(span, words, &[])
    }

    /// Starts it with these variables in its environment.
    pub(crate) fn start_with(span: Duration, words: &[&str], vars: &[(&str, &str)]) -> Self {
        let limit = TimeLimit::start(span);
        let mut command = Command::new(env!("CARGO_BIN_EXE_simulated-gitlab"));
        command.args(["--listen", "127.0.0.1:0"]).args(words).envs(vars.iter().copied()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        Self { child, ready: serde_json::from_str(&line).expect("JSON"), _limit: limit }
    }

    pub(crate) fn told(&self, name: &str) -> &str {
        self.ready[name].as_str().expect("a text")
    }

    /// The address in its URL, without scheme and path.
    pub(crate) fn address(&self) -> &str {
        self.told("url").split('/').nth(2).expect("an address")
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// The path in its URL.
    pub(crate) fn root(&self) -> &str {
        self.told("url").split_once(self.address()).expect("the address").1
    }

    /// One request on a connection of its own. The path is below the root. Returns the head and the body of the answer.
    pub(crate) fn exchange(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> std::io::Result<(String, String)> {
        let (address, root, length) = (self.address(), self.root(), body.len());
        let mut stream = TcpStream::connect(address)?;
        let request = format!(
            "{method} {root}{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").ok_or(ErrorKind::UnexpectedEof)?;
        Ok((head.to_owned(), body.to_owned()))
    }

    /// The status and the body of the answer to such a request.
    pub(crate) fn call(&self, method: &str, path: &str, headers: &str, body: &str) -> std::io::Result<(u16, String)> {
        let (head, body) = self.exchange(method, path, headers, body)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.ok_or(ErrorKind::InvalidData)?, body))
    }

    /// A request to steer the simulation.
    pub(crate) fn sim(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let token = format!("Control-Token: {}\r\n", self.told("control_token"));
        let (status, body) = self.call(method, path, &token, body).expect("an answer");
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    pub(crate) fn request_job(&self) -> std::io::Result<(u16, String)> {
        let body = json!({ "token": self.told("runner_token"), "system_id": "s_1" }).to_string();
        self.call("POST", "/api/v4/jobs/request", "Content-Type: application/json\r\n", &body)
    }

    /// Asks it to end, as a person or a service manager does.
    #[cfg(unix)]
    pub(crate) fn terminate(mut self) -> i32 {
        let killed = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill");
        assert!(killed.success());
        self.child.wait().expect("it ends").code().expect("a code")
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
        // A program that is killed leaves it behind.
        if let Some(file) = self.ready["ca_file"].as_str() {
            _ = std::fs::remove_file(file);
        }
    }
}

/// Whether a program is there. Tests that need it are skipped otherwise.
pub(crate) fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}
