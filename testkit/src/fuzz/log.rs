//! What a job's log should be, said as simply as can be, and held against what comes out of a [`Job`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::log::{LogLimit, LogOptions, Timestamps};
use gitlab_runner_api::{Assignment, Job, JobResult, JobSnapshot, RunnerConfig, Secret, Server, Stream, Timestamp};
use serde_json::json;

use super::Script;

/// A job that prints, and what it is not to show.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "a case of a test, to be written down")]
pub struct LogCase {
    /// The values of masked variables.
    pub secrets: Vec<String>,
    /// Values that are masked from the start of the job on, besides.
    pub learnt: Vec<String>,
    /// `features.token_mask_prefixes`.
    pub prefixes: Vec<String>,
    /// Whether each line begins with the time. Without, only the first stream counts.
    pub stamped: bool,
    /// What is written, one after the other.
    pub writes: Vec<(Stream, Vec<u8>)>,
    /// After which writes the job is stored, and taken up from that: one bit each, over and over.
    pub resumes: u32,
}

const MARKER: &[u8] = b"[MASKED]";

impl LogCase {
    /// Writes it all, and compares each stream with what [`LogCase::expected`] says of it.
    ///
    /// # Panics
    ///
    /// If they differ.
    pub fn check(&self) {
        let output = self.run();
        let mut streams: Vec<Stream> = self.writes.iter().map(|(stream, _)| *stream).collect();
        if !self.stamped {
            streams.truncate(1);
        }
        streams.sort_unstable();
        streams.dedup();
        let mut found =
            if self.stamped { unstamped(&output) } else { streams.iter().map(|it| (*it, output.clone())).collect() };
        for stream in streams {
            let mut expected = self.expected(stream);
            if self.stamped && !expected.is_empty() && !expected.ends_with(b"\n") {
                expected.push(b'\n');
            }
            let found = found.remove(&stream).unwrap_or_default();
            assert!(
                found == expected,
                "{stream:?} of {self:?}\n   found {}\nexpected {}",
                found.escape_ascii(),
                expected.escape_ascii()
            );
        }
    }

    /// The log, as it is when the job has ended.
    #[must_use]
    pub fn run(&self) -> Vec<u8> {
        let variables: Vec<_> = self
            .secrets
            .iter()
            .map(|value| json!({ "key": "SECRET", "value": value, "masked": true, "raw": true }))
            .collect();
        let payload = json!({ "id": 7, "token": "glcbt-7", "variables": variables, "features": { "token_mask_prefixes": self.prefixes } });
        let assignment = Assignment::from_json(payload.to_string()).expect("a payload");
        let timestamps = if self.stamped { Timestamps::On } else { Timestamps::Off };
        let options = LogOptions::default().with_timestamps(timestamps).with_limit(LogLimit::None);
        let server = Server::parse("https://gitlab.example.test").expect("an address");
        let config = Arc::new(RunnerConfig::new(server, Info::new("fuzz", "1")).with_log(options));
        let mut now = Timestamp::from_millis(1_750_000_000_000);
        let mut job = Job::new(config.clone(), &assignment, now);
        self.learnt.iter().for_each(|value| job.mask(&Secret::new(value.clone())));
        let first = self.writes.first().map(|(stream, _)| *stream);
        let mut output = Vec::new();
        for (number, (stream, bytes)) in self.writes.iter().enumerate() {
            if !self.stamped && Some(*stream) != first {
                continue;
            }
            now = now.saturating_add(std::time::Duration::from_millis(7));
            job.write_at(*stream, bytes.clone(), now);
            if self.resumes >> (number % 32) & 1 == 1 {
                output.extend(job.retained().1.concat());
                let snapshot = JobSnapshot::from_json(&job.snapshot().to_json()).expect("what was just stored");
                job = Job::resume(config.clone(), job.assignment(), snapshot, now).expect("the same job");
            }
        }
        job.finish(JobResult::success());
        output.extend(job.retained().1.concat());
        output
    }

    /// What is to become of a stream, stage by stage, each over the whole of it.
    #[must_use]
    pub fn expected(&self, stream: Stream) -> Vec<u8> {
        let writes = self.writes.iter().filter(|(of, _)| *of == stream);
        let whole: Vec<u8> = writes.flat_map(|(_, bytes)| bytes.clone()).collect();
        let defaults = [
            "glpat-",
            "gloas-",
            "gldt-",
            "glrt-",
            "glcbt-",
            "glrtr-",
            "glptt-",
            "glft-",
            "glimt-",
            "glagent-",
            "glsoat-",
            "glffct-",
            "_gitlab_session=",
            "gltok-",
        ];
        let own = self.prefixes.iter().map(|prefix| prefix.trim());
        let prefixes: Vec<&str> = defaults.into_iter().chain(own).filter(|prefix| !prefix.is_empty()).collect();
        repaired(&without_tokens(&without_parameters(&self.masked(&whole)), &prefixes))
    }

    fn masked(&self, text: &[u8]) -> Vec<u8> {
        let mut hidden: Vec<Range<usize>> = Vec::new();
        for form in self.forms() {
            let places = (0..text.len()).filter(|start| text[*start..].starts_with(form.as_bytes()));
            hidden.extend(places.map(|start| start..start + form.len()));
        }
        hidden.sort_by_key(|range| range.start);
        let mut joined: Vec<Range<usize>> = Vec::new();
        for range in hidden {
            match joined.last_mut() {
                Some(last) if range.start < last.end || range.start == last.start => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        let (mut output, mut at) = (Vec::new(), 0);
        for range in joined {
            output.extend_from_slice(&text[at..range.start]);
            output.extend_from_slice(MARKER);
            at = range.end;
        }
        output.extend_from_slice(&text[at..]);
        output
    }

    fn forms(&self) -> Vec<String> {
        let mut forms = Vec::new();
        for secret in self.secrets.iter().chain(&self.learnt).map(|secret| secret.trim()) {
            forms.push(secret.to_owned());
            if secret.contains(['\n', '\r']) {
                let unix = secret.replace("\r\n", "\n");
                forms.extend(unix.split(['\n', '\r']).map(str::trim).filter(|line| line.len() >= 8).map(str::to_owned));
                forms.extend([unix.replace('\n', "\r\n"), unix]);
            }
        }
        forms.retain(|form| !form.is_empty());
        forms
    }
}

/// The character at the start of some bytes.
fn character(bytes: &[u8]) -> Option<char> {
    let valid = (1..=4).filter_map(|length| bytes.get(..length)).find_map(|bytes| std::str::from_utf8(bytes).ok());
    valid.and_then(|text| text.chars().next())
}

fn without_parameters(text: &[u8]) -> Vec<u8> {
    let keys = [
        "private_token=",
        "authenticity_token=",
        "rss_token=",
        "x-amz-signature=",
        "x-amz-credential=",
        "x-amz-security-token=",
    ];
    let ends = |at: usize| match character(&text[at..]) {
        Some(c) => c == '?' || c == '&' || c.is_whitespace() || c.is_control(),
        None => false,
    };
    let (mut output, mut at) = (Vec::new(), 0);
    while at < text.len() {
        output.push(text[at]);
        at += 1;
        let rest = &text[at..];
        let is_key = |key: &&str| rest.get(..key.len()).is_some_and(|start| start.eq_ignore_ascii_case(key.as_bytes()));
        if let Some(key) = keys.iter().find(|key| matches!(text[at - 1], b'?' | b'&') && is_key(key)) {
            output.extend_from_slice(&rest[..key.len()]);
            output.extend_from_slice(MARKER);
            at += key.len();
            while at < text.len() && !ends(at) {
                at += character(&text[at..]).map_or(1, char::len_utf8);
            }
        }
    }
    output
}

fn without_tokens(text: &[u8], prefixes: &[&str]) -> Vec<u8> {
    let of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._=".contains(byte);
    let (mut output, mut at) = (Vec::new(), 0);
    while at < text.len() {
        let run = text[at..].iter().take_while(|byte| of_token(byte)).count();
        if run > 0 && prefixes.iter().any(|prefix| text[..at].ends_with(prefix.as_bytes())) {
            output.extend_from_slice(MARKER);
            at += run;
        } else {
            output.push(text[at]);
            at += 1;
        }
    }
    output
}

fn repaired(text: &[u8]) -> Vec<u8> {
    let (mut output, mut at) = (String::new(), 0);
    while at < text.len() {
        let c = character(&text[at..]);
        output.push(c.unwrap_or('\u{fffd}'));
        at += c.map_or(1, char::len_utf8);
    }
    output.into()
}

/// What a reader makes of a log with timestamps: each stream as it was.
fn unstamped(log: &[u8]) -> BTreeMap<Stream, Vec<u8>> {
    let mut streams: BTreeMap<Stream, Vec<u8>> = BTreeMap::new();
    for entry in log.split_inclusive(|byte| *byte == b'\n') {
        assert!(entry.len() > 32 && entry[26..28] == *b"Z " && entry.ends_with(b"\n"), "{}", entry.escape_ascii());
        let stream = match &entry[28..31] {
            b"00O" => Stream::Runner,
            b"01O" => Stream::Stdout,
            b"01E" => Stream::Stderr,
            b"0fO" => Stream::Service(0),
            other => panic!("no stream is {}", other.escape_ascii()),
        };
        let text = streams.entry(stream).or_default();
        if entry[31] == b'+' {
            assert_eq!(text.pop(), Some(b'\n'), "it continues a line that had no end");
        }
        text.extend_from_slice(&entry[32..]);
    }
    streams
}

/// What secrets are made of, so that they contain, overlap and begin each other.
const LETTERS: [&str; 16] = [
    "a",
    "b",
    "ab",
    "aab",
    "c",
    "\n",
    "\r\n",
    "x1",
    "-",
    "=",
    "%",
    "\u{e4}",
    "glpat-",
    "a long line of it",
    " ",
    "abcabcabc",
];

/// What else is printed.
const PRINTED: [&[u8]; 16] = [
    b"?private_token=",
    b"&X-Amz-Security-Token=",
    b"?",
    b"&",
    b"glrt-",
    b"my:",
    b" ",
    b"\n",
    b"\r",
    "\u{2003}".as_bytes(),
    b"\xe2",
    b"\x80",
    b"\xff",
    MARKER,
    b"gl",
    b"a usual line of a log\n",
];

/// Any secrets in any writes, to any streams, cut and resumed anywhere, come out as the reference says.
pub fn log(data: &[u8]) {
    let mut script = Script(data);
    let shape = script.byte();
    let text = |script: &mut Script<'_>, most: u8| -> String {
        (0..script.byte() % most).map(|_| script.pick(&LETTERS)).collect()
    };
    let secrets: Vec<String> = (0..shape & 7).map(|_| text(&mut script, 8)).collect();
    let learnt: Vec<String> = (0..shape >> 3 & 1).map(|_| text(&mut script, 8)).collect();
    let prefixes =
        [" my:", "c", "glpat-x"].iter().take(usize::from(shape >> 4 & 3)).map(|it| (*it).to_owned()).collect();
    let resumes = u32::from(script.byte()) * 0x0001_0101;
    let mut writes = Vec::new();
    while !script.is_over() && writes.len() < 64 {
        let stream = script.pick(&[Stream::Stdout, Stream::Stdout, Stream::Runner, Stream::Stderr, Stream::Service(0)]);
        let mut bytes = Vec::new();
        for _ in 0..script.byte() % 8 {
            let kind = script.byte();
            let known: Vec<&String> = secrets.iter().chain(&learnt).collect();
            match (kind % 4, known.get(usize::from(kind / 4) % known.len().max(1))) {
                (0, Some(secret)) => bytes.extend_from_slice(secret.as_bytes()),
                (1, Some(secret)) => {
                    bytes.extend_from_slice(&secret.as_bytes()[..usize::from(script.byte()) % (secret.len() + 1)])
                }
                (2, _) => bytes.extend_from_slice(script.pick(&LETTERS).as_bytes()),
                _ => bytes.extend_from_slice(script.pick(&PRINTED)),
            }
        }
        writes.push((stream, bytes));
    }
    LogCase { secrets, learnt, prefixes, stamped: shape >> 6 & 1 == 1, writes, resumes }.check();
}
