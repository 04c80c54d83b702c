//! What a job's log should be, said as simply as can be, and held against what comes out of a [`Job`].
//!
//! The reference works on whole texts. It looks for every secret at every place, joins the occurrences that overlap, and knows
//! neither of an automaton nor of buffers. What it does know is which bytes may already be sent: those before the longest end of a
//! stream that may still become a secret. From that follow both the order in which streams come out and what a secret that is
//! learnt late can still hide.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::log::{LogLimit, LogOptions, Section, Timestamps};
use gitlab_runner_api::{Assignment, Job, JobRecord, JobResult, RunnerConfig, Secret, Server, Stream, Timestamp};
use serde_json::json;

use super::Script;

/// Something that happens to the log of a job.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a case of a test, to be written down")]
pub enum LogStep {
    /// Bytes are written to a stream.
    Write(Stream, Vec<u8>),
    /// A secret is learnt.
    Mask(String),
    /// A stream ends.
    CloseStream(Stream),
    /// A step of the job ends.
    EndStep,
    /// A section of this name is opened.
    OpenSection(&'static str),
    /// The innermost section is closed.
    CloseSection,
    /// The job is stored as a record, and taken up from that.
    Resume,
}

/// A job that prints, and what it is not to show.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "a case of a test, to be written down")]
pub struct LogCase {
    /// The values of masked variables.
    pub secrets: Vec<String>,
    /// `features.token_mask_prefixes`.
    pub prefixes: Vec<String>,
    /// Whether each line begins with the time.
    pub stamped: bool,
    /// What happens, one after the other.
    pub steps: Vec<LogStep>,
    /// How large the log may become; without end if none is given.
    pub limit: Option<LogLimit>,
}

const MARKER: &[u8] = b"[MASKED]";

const START: Timestamp = Timestamp::from_millis(1_750_000_000_000);

/// The job's token, which is a secret like all others.
const TOKEN: &str = "glcbt-7_long-enough";

/// One stream of the reference.
#[derive(Default)]
struct Text {
    /// What was written since the stream last ended.
    raw: Vec<u8>,
    /// The bytes before this are out.
    released: usize,
    /// What came out since the stream last ended.
    shown: Vec<u8>,
    /// Occurrences of secrets that were learnt late, in what was out but still in an unfinished line.
    late: Vec<Range<usize>>,
    /// From which place on each learnt secret is looked for.
    learnt: Vec<(String, usize)>,
    /// With timestamps: what came out before.
    before: Vec<u8>,
}

impl LogCase {
    /// A job that writes to standard output, in these pieces.
    #[must_use]
    pub fn printing(secrets: Vec<String>, pieces: &[&[u8]]) -> Self {
        let steps = pieces.iter().map(|piece| LogStep::Write(Stream::Stdout, piece.to_vec())).collect();
        Self { secrets, steps, ..Self::default() }
    }

    /// Does it all, and compares the log with what the reference says of it.
    ///
    /// # Panics
    ///
    /// If they differ.
    pub fn check(&self) {
        let (output, sizes) = self.run(LogLimit::None);
        if self.stamped {
            self.check_stamped(&output);
        } else {
            self.same(&output, &self.expected());
        }
        if let Some(limit) = self.limit {
            let (limited, _) = self.run(limit);
            self.same(&limited, &self.limited(limit, &output, &sizes));
            let total = match limit {
                LogLimit::Head { total, .. } | LogLimit::HeadAndTail { total, .. } => total,
                _ => u64::MAX,
            };
            assert!(limited.len() as u64 <= total, "{} bytes of {self:?}", limited.len());
        }
    }

    fn same(&self, found: &[u8], expected: &[u8]) {
        assert!(found == expected, "{self:?}\n   found {}\nexpected {}", found.escape_ascii(), expected.escape_ascii());
    }

    /// With timestamps, each stream is compared for itself, as a reader gets it.
    fn check_stamped(&self, output: &[u8]) {
        let (streams, markers) = unstamped(output);
        assert_eq!(markers, self.markers(), "the markers of sections in {self:?}");
        for (stream, expected) in self.follow(|_| ()) {
            self.same(streams.get(&stream).map_or(&[], Vec::as_slice), &expected);
        }
    }

    /// The log without timestamps and without a limit.
    #[must_use]
    pub fn expected(&self) -> Vec<u8> {
        let mut output = Vec::new();
        self.follow(|bytes| output.extend_from_slice(bytes));
        output
    }

    /// The log as it is when the job has ended, and its size after each step.
    #[must_use]
    pub fn run(&self, limit: LogLimit) -> (Vec<u8>, Vec<usize>) {
        let variable = |value| json!({ "key": "SECRET", "value": value, "masked": true, "raw": true });
        let variables: Vec<_> = self.secrets.iter().map(variable).collect();
        let features = json!({ "token_mask_prefixes": self.prefixes, "trace_sections": true });
        let payload = json!({ "id": 7, "token": TOKEN, "variables": variables, "features": features });
        let assignment = Assignment::from_json(payload.to_string()).expect("a payload");
        let timestamps = if self.stamped { Timestamps::On } else { Timestamps::Off };
        let options = LogOptions::default().with_timestamps(timestamps).with_limit(limit);
        let server = Server::parse("https://gitlab.example.test").expect("an address");
        let config = Arc::new(RunnerConfig::new(server, Info::new("fuzz", "1")).with_log(options));
        let mut job = Job::new(config.clone(), &assignment, START);
        let mut sizes = Vec::new();
        for (number, step) in self.steps.iter().enumerate() {
            let now = time_of(number);
            match step {
                LogStep::Write(stream, bytes) => _ = job.write_at(*stream, bytes.clone(), now),
                LogStep::Mask(value) => _ = job.mask(&Secret::new(value.clone())),
                LogStep::CloseStream(stream) => _ = job.close_stream(*stream, now),
                LogStep::EndStep => _ = job.end_step(now),
                LogStep::OpenSection(name) => _ = job.open_section(&Section::new(name), now),
                LogStep::CloseSection => _ = job.close_section(now),
                LogStep::Resume => {
                    let stored = JobRecord::of(&mut job).expect("it keeps its whole log").to_json();
                    let record = JobRecord::from_json(&stored).expect("what was just stored");
                    assert_eq!(record.assignment().as_json(), assignment.as_json(), "the payload as it came");
                    job = record.resume(config.clone(), now).expect("the same job");
                }
            }
            sizes.push(job.log_size() as usize);
        }
        job.finish(JobResult::success());
        let output = job.retained().1.concat();
        sizes.push(output.len());
        (output, sizes)
    }

    /// Goes through all steps, and says what comes out in which order. Returns what a reader gets of each stream of a log with
    /// timestamps, without the markers of sections.
    fn follow(&self, mut out: impl FnMut(&[u8])) -> BTreeMap<Stream, Vec<u8>> {
        let mut texts: BTreeMap<Stream, Text> = BTreeMap::new();
        let mut learnt: Vec<String> = Vec::new();
        let mut sections = Vec::new();
        for (number, step) in self.steps.iter().enumerate() {
            match step {
                LogStep::Write(stream, bytes) => {
                    let text = texts.entry(*stream).or_default();
                    if text.learnt.is_empty() {
                        text.learnt = learnt.iter().map(|secret| (secret.clone(), 0)).collect();
                    }
                    text.raw.extend_from_slice(bytes);
                    self.advance(text, false, &mut out);
                }
                LogStep::Mask(secret) => {
                    learnt.push(secret.clone());
                    texts.values_mut().for_each(|text| self.learn(text, secret));
                }
                LogStep::CloseStream(stream) => {
                    texts.get_mut(stream).into_iter().for_each(|text| self.close(text, &learnt, &mut out));
                }
                LogStep::EndStep => {
                    let of_step = texts.iter_mut().filter(|(stream, _)| !matches!(stream, Stream::Service(_)));
                    of_step.for_each(|(_, text)| self.close(text, &learnt, &mut out));
                }
                LogStep::OpenSection(name) => {
                    sections.push(*name);
                    out(marker("start", name, time_of(number)).as_bytes());
                }
                LogStep::CloseSection => {
                    let closed = sections.pop().map(|name| marker("end", name, time_of(number)));
                    closed.iter().for_each(|marker| out(marker.as_bytes()));
                }
                LogStep::Resume => {}
            }
        }
        texts.values_mut().for_each(|text| self.close(text, &learnt, &mut out));
        let end = self.steps.len().checked_sub(1).map_or(START, time_of);
        sections.iter().rev().for_each(|name| out(marker("end", name, end).as_bytes()));
        texts.into_iter().map(|(stream, text)| (stream, text.before)).collect()
    }

    /// The markers of sections that are to be in the log, in order.
    fn markers(&self) -> Vec<String> {
        let (mut markers, mut sections) = (Vec::new(), Vec::new());
        for (number, step) in self.steps.iter().enumerate() {
            match step {
                LogStep::OpenSection(name) => {
                    sections.push(*name);
                    markers.push(marker("start", name, time_of(number)));
                }
                LogStep::CloseSection => {
                    markers.extend(sections.pop().map(|name| marker("end", name, time_of(number))))
                }
                _ => {}
            }
        }
        let end = self.steps.len().checked_sub(1).map_or(START, time_of);
        markers.extend(sections.iter().rev().map(|name| marker("end", name, end)));
        markers
    }

    /// Says what more of a stream comes out.
    fn advance(&self, text: &mut Text, ended: bool, out: &mut impl FnMut(&[u8])) {
        text.released = if ended { text.raw.len() } else { self.settled(text) };
        let shown = repaired(&self.hidden(text, &[]), ended);
        let more = shown.strip_prefix(&*text.shown);
        let (before, after) = (text.shown.escape_ascii(), shown.escape_ascii());
        out(more.unwrap_or_else(|| panic!("the reference contradicts itself: {before} became {after} in {self:?}")));
        text.shown = shown;
    }

    fn close(&self, text: &mut Text, learnt: &[String], out: &mut impl FnMut(&[u8])) {
        self.advance(text, true, out);
        let with_late = repaired(&self.hidden(text, &text.late), true);
        text.before.extend_from_slice(&with_late);
        // A line that has no end gets one.
        if !with_late.is_empty() && !with_late.ends_with(b"\n") {
            text.before.push(b'\n');
        }
        let learnt = learnt.iter().map(|secret| (secret.clone(), 0)).collect();
        *text = Text { learnt, before: std::mem::take(&mut text.before), ..Text::default() };
    }

    /// A secret is looked for in all that is not out, and in an unfinished line that waits for its end.
    fn learn(&self, text: &mut Text, secret: &str) {
        if self.stamped {
            let spans = self.spans(text);
            let covered = |at: usize| spans.iter().chain(&text.late).any(|span| span.contains(&at));
            let ends_line = |at: &usize| matches!(text.raw[*at], b'\n' | b'\r') && !covered(*at);
            let line = (0..text.released).rev().find(ends_line).map_or(0, |at| at + 1);
            let within = |range: &Range<usize>| range.start >= line && range.end <= text.released;
            let found = occurrences(&text.raw, &forms(secret)).into_iter();
            // A value without any bytes has a marker too, which parts what is before it from what is behind it.
            let is_parted = |range: &Range<usize>| {
                spans.iter().any(|span| span.is_empty() && range.start < span.start && span.start < range.end)
            };
            let is_whole = |range: &Range<usize>| !range.clone().any(covered) && !is_parted(range);
            let late: Vec<_> = found.filter(within).filter(is_whole).collect();
            text.late.extend(late);
        }
        text.learnt.push((secret.to_owned(), text.released));
    }

    /// Where the longest end begins that may still become a secret.
    fn settled(&self, text: &Text) -> usize {
        let mut forms = self.known();
        forms.extend(text.learnt.iter().flat_map(|(secret, _)| forms_of(secret)));
        let begins = |end: &[u8]| forms.iter().any(|form| form.len() > end.len() && form.starts_with(end));
        (text.released..text.raw.len()).find(|at| begins(&text.raw[*at..])).unwrap_or(text.raw.len())
    }

    /// The secrets that are known from the start, in all their forms.
    fn known(&self) -> Vec<Vec<u8>> {
        self.secrets.iter().map(String::as_str).chain([TOKEN]).flat_map(forms_of).collect()
    }

    /// Every occurrence of anything that is to be hidden, as far as it is known: secrets, values of URL parameters, tokens.
    fn spans(&self, text: &Text) -> Vec<Range<usize>> {
        let raw = &text.raw;
        let mut spans = occurrences(raw, &self.known());
        for (secret, from) in &text.learnt {
            spans.extend(occurrences(raw, &forms(secret)).into_iter().filter(|range| range.start >= *from));
        }
        spans.retain(|span| span.start < text.released);
        let mut covered = vec![false; raw.len()];
        spans.iter().for_each(|span| covered[span.clone()].fill(true));
        let values = self.parameters(&raw[..text.released], &covered);
        values.iter().for_each(|value| covered[value.clone()].fill(true));
        let tokens = self.tokens(&raw[..text.released], &covered);
        // A value that begins where a token or another value has not ended yet is a part of that.
        let within = |start: usize| move |span: &Range<usize>| span.start < start && span.end == start;
        let is_part = |value: &&Range<usize>| values.iter().chain(&tokens).any(within(value.start));
        spans.extend(values.iter().filter(|value| !value.is_empty() || !is_part(value)).cloned());
        spans.extend(tokens);
        spans
    }

    /// What a stream shows so far.
    fn hidden(&self, text: &Text, late: &[Range<usize>]) -> Vec<u8> {
        let mut spans = self.spans(text);
        spans.extend_from_slice(late);
        hide(&text.raw[..text.released], spans)
    }

    /// The values of query parameters that authenticate. A byte of a secret ends none.
    fn parameters(&self, text: &[u8], covered: &[bool]) -> Vec<Range<usize>> {
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
            // It may become such a character.
            None => false,
        };
        let mut values = Vec::new();
        for at in (0..text.len()).filter(|at| matches!(text[*at], b'?' | b'&')) {
            let rest = &text[at + 1..];
            let is_key = |key: &&&str| rest.get(..key.len()).is_some_and(|it| it.eq_ignore_ascii_case(key.as_bytes()));
            if let Some(key) = keys.iter().find(is_key) {
                let start = at + 1 + key.len();
                let mut end = start;
                while end < text.len() && (covered[end] || !ends(end)) {
                    end += if covered[end] { 1 } else { character(&text[end..]).map_or(1, char::len_utf8) };
                }
                values.push(start..end);
            }
        }
        values
    }

    /// What follows the prefixes of tokens. A byte of a secret or of a URL's value ends none.
    fn tokens(&self, text: &[u8], covered: &[bool]) -> Vec<Range<usize>> {
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
        let of_token = |at: usize| covered[at] || text[at].is_ascii_alphanumeric() || b"-._=".contains(&text[at]);
        let starts = (1..text.len()).filter(|at| prefixes.iter().any(|it| text[..*at].ends_with(it.as_bytes())));
        let token = |start: usize| start..(start..text.len()).find(|at| !of_token(*at)).unwrap_or(text.len());
        starts.map(token).filter(|token| !token.is_empty()).collect()
    }

    /// What a limit leaves of a log that grew to these sizes.
    fn limited(&self, limit: LogLimit, log: &[u8], sizes: &[usize]) -> Vec<u8> {
        let (total, tail) = match limit {
            LogLimit::Head { total, .. } => (total as usize, None),
            LogLimit::HeadAndTail { total, tail, .. } => (total as usize, Some(tail as usize)),
            _ => return log.to_vec(),
        };
        let exceeded = |what: &str| {
            format!(
                "\n\x1b[33;1mJob's log exceeded limit of {total} bytes.\nJob execution will continue but {what}.\x1b[0;m\n"
            )
        };
        let left_out = |bytes: u64| format!("\x1b[33;1m{bytes} bytes were left out. The end of the log:\x1b[0;m\n");
        let (no_more, follows) =
            (exceeded("no more output will be collected"), exceeded("the end of its log will follow here"));
        let notices = follows.len() + left_out(u64::MAX).len();
        let tail = tail.filter(|_| notices <= total).map(|tail| tail.min(total - notices));
        let head = match tail {
            Some(tail) => total - notices - tail,
            None if no_more.len() <= total => total - no_more.len(),
            None => total,
        };
        let (mut kept, mut cut, mut before): (Vec<u8>, Option<u64>, usize) = (Vec::new(), None, 0);
        // Where the part begins that waits.
        let mut waits_from = None;
        let keep_tail = |kept: &mut Vec<u8>, dropped: &mut u64| {
            let from = kept.len().saturating_sub(tail.unwrap_or(0));
            let from = (from..=kept.len()).find(|at| starts_character(kept, *at)).unwrap_or(kept.len());
            kept.drain(..from);
            *dropped += from as u64;
        };
        let mut output = Vec::new();
        let ended = [LogStep::Resume];
        for (step, size) in self.steps.iter().chain(&ended).zip(sizes) {
            kept.extend_from_slice(&log[before..*size]);
            before = *size;
            if waits_from.is_none() && kept.len() > head {
                waits_from = (0..=head).rev().find(|at| starts_character(&kept, *at));
            }
            if let LogStep::Mask(secret) = step {
                let from = waits_from.unwrap_or(kept.len());
                let waiting = kept.split_off(from);
                kept.extend(hide_late(&waiting, secret));
            }
            if cut.is_none() && kept.len() > total {
                let rest = kept.split_off(waits_from.unwrap_or(kept.len()));
                output = std::mem::replace(&mut kept, rest);
                (cut, waits_from) = (Some(0), Some(0));
                match tail {
                    Some(_) => output.extend_from_slice(follows.as_bytes()),
                    None if head < total => output.extend_from_slice(no_more.as_bytes()),
                    None => {}
                }
            }
            if let Some(dropped) = &mut cut {
                keep_tail(&mut kept, dropped);
            }
        }
        let Some(dropped) = cut else { return kept };
        if tail.is_some() {
            let start = kept[..kept.len() / 4].iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            output.extend_from_slice(left_out(dropped + start as u64).as_bytes());
            output.extend_from_slice(&kept[start..]);
        }
        output
    }
}

fn time_of(step: usize) -> Timestamp {
    START.saturating_add(Duration::from_millis(7 * (step as u64 + 1)))
}

fn marker(kind: &str, name: &str, now: Timestamp) -> String {
    format!("section_{kind}:{}:{name}\r\x1b[0K", now.as_millis() / 1000)
}

/// All forms in which a secret is hidden.
fn forms(secret: &str) -> Vec<Vec<u8>> {
    forms_of(secret).collect()
}

fn forms_of(secret: &str) -> impl Iterator<Item = Vec<u8>> {
    let mut forms = Vec::new();
    let secret = secret.trim();
    forms.push(secret.to_owned());
    if secret.contains(['\n', '\r']) {
        let unix = secret.replace("\r\n", "\n");
        forms.extend(unix.split(['\n', '\r']).map(str::trim).filter(|line| line.len() >= 8).map(str::to_owned));
        forms.extend([unix.replace('\n', "\r\n"), unix]);
    }
    forms.into_iter().filter(|form| !form.is_empty()).map(String::into_bytes)
}

fn occurrences(text: &[u8], forms: &[Vec<u8>]) -> Vec<Range<usize>> {
    let of_form = |form: &Vec<u8>| {
        let length = form.len();
        let starts: Vec<usize> = (0..text.len()).filter(|at| text[*at..].starts_with(form)).collect();
        starts.into_iter().map(move |start| start..start + length)
    };
    forms.iter().flat_map(of_form).collect()
}

/// Puts one marker for spans that overlap, and one each for those that only touch.
fn hide(text: &[u8], mut spans: Vec<Range<usize>>) -> Vec<u8> {
    spans.sort_by_key(|span| (span.start, span.end));
    let mut joined: Vec<Range<usize>> = Vec::new();
    for span in spans {
        match joined.last_mut() {
            Some(last) if span.start < last.end || span == *last => last.end = last.end.max(span.end),
            _ => joined.push(span),
        }
    }
    let (mut output, mut at) = (Vec::new(), 0);
    for span in joined {
        output.extend_from_slice(&text[at..span.start]);
        output.extend_from_slice(MARKER);
        at = span.end.min(text.len());
    }
    output.extend_from_slice(&text[at..]);
    output
}

/// What becomes of text that is out of its stream but not out of the job: between markers, a secret is hidden where all of it is.
fn hide_late(text: &[u8], secret: &str) -> Vec<u8> {
    let marker = (0..text.len()).find(|at| text[*at..].starts_with(MARKER));
    let (before, rest) = text.split_at(marker.unwrap_or(text.len()));
    let mut output = hide(before, occurrences(before, &forms(secret)));
    if let Some(rest) = rest.strip_prefix(MARKER) {
        output.extend_from_slice(MARKER);
        output.extend(hide_late(rest, secret));
    }
    output
}

/// The character at the start of some bytes.
fn character(bytes: &[u8]) -> Option<char> {
    let valid = (1..=4).filter_map(|length| bytes.get(..length)).find_map(|bytes| std::str::from_utf8(bytes).ok());
    valid.and_then(|text| text.chars().next())
}

fn starts_character(text: &[u8], at: usize) -> bool {
    text.get(at).is_none_or(|byte| byte & 0xc0 != 0x80)
}

/// Each byte that is part of no character becomes U+FFFD. At the end of a stream that goes on, it may still become one.
fn repaired(text: &[u8], ended: bool) -> Vec<u8> {
    let (mut output, mut at) = (String::new(), 0);
    while at < text.len() {
        let rest = &text[at..];
        let c = character(rest);
        if c.is_none() && !ended && std::str::from_utf8(rest).is_err_and(|error| error.error_len().is_none()) {
            break;
        }
        output.push(c.unwrap_or('\u{fffd}'));
        at += c.map_or(1, char::len_utf8);
    }
    output.into()
}

/// What a reader makes of a log with timestamps: each stream as it was, and the markers of sections.
fn unstamped(log: &[u8]) -> (BTreeMap<Stream, Vec<u8>>, Vec<String>) {
    let mut streams: BTreeMap<Stream, Vec<u8>> = BTreeMap::new();
    let mut markers = Vec::new();
    let mut after_marker = false;
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
        let after_marker_of_it = stream == Stream::Runner && after_marker;
        match entry[31] {
            b'+' if after_marker_of_it => {}
            b'+' => assert_eq!(text.pop(), Some(b'\n'), "it continues a line that had no end"),
            // The end of the marker's entry ended the line.
            _ if after_marker_of_it && !text.is_empty() && !text.ends_with(b"\n") => text.push(b'\n'),
            _ => {}
        }
        if stream == Stream::Runner {
            after_marker = entry[32..].starts_with(b"section_") && entry.ends_with(b"\r\x1b[0K\n");
        }
        if stream == Stream::Runner && after_marker {
            markers.push(String::from_utf8_lossy(&entry[32..entry.len() - 1]).into_owned());
        } else {
            text.extend_from_slice(&entry[32..]);
        }
    }
    if let Some(text) = streams.get_mut(&Stream::Runner).filter(|text| !text.is_empty() && !text.ends_with(b"\n")) {
        text.push(b'\n');
    }
    (streams, markers)
}

/// What secrets are made of, so that they contain, overlap and begin each other, tokens and values of URLs.
const LETTERS: [&str; 20] = [
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
    "@",
    "&",
    "\u{e4}",
    "glpat-",
    "pat-a",
    "a long line of it",
    " ",
    "abcabcabc",
    "_token=",
];

/// What else is printed.
const PRINTED: [&[u8]; 20] = [
    b"?private_token=",
    b"&X-Amz-Security-Token=",
    b"?rss_token=a",
    b"?",
    b"&",
    b"glrt-",
    b"glpat-ab",
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
    b"glcbt-7_long-",
    TOKEN.as_bytes(),
];

/// Any secrets in anything that may happen to a log, cut and resumed anywhere, come out as the reference says.
pub fn log(data: &[u8]) {
    let mut script = Script(data);
    let shape = script.byte();
    let text = |script: &mut Script<'_>, most: u8| -> String {
        (0..script.byte() % most).map(|_| script.pick(&LETTERS)).collect()
    };
    let secrets: Vec<String> = (0..shape & 7).map(|_| text(&mut script, 8)).collect();
    let later: Vec<String> = (0..shape >> 3 & 1).map(|_| text(&mut script, 8)).collect();
    let prefixes =
        [" my:", "c", "glpat-x"].iter().take(usize::from(shape >> 4 & 3)).map(|it| (*it).to_owned()).collect();
    let limits = script.byte();
    let limit = (limits & 1 == 1).then(|| {
        let total = u64::from(script.byte()) * 2;
        if limits & 2 == 2 { LogLimit::head(total) } else { LogLimit::head_and_tail(total, u64::from(limits >> 2)) }
    });
    let mut steps = Vec::new();
    while !script.is_over() && steps.len() < 64 {
        let stream = script.pick(&[Stream::Stdout, Stream::Stdout, Stream::Runner, Stream::Stderr, Stream::Service(0)]);
        let kind = script.byte();
        match kind % 32 {
            0 => steps.push(LogStep::CloseStream(stream)),
            1 => steps.push(LogStep::EndStep),
            2 | 3 => steps.push(LogStep::OpenSection(script.pick(&["deploy", "quiz"]))),
            4 | 5 => steps.push(LogStep::CloseSection),
            6..9 => steps.push(LogStep::Resume),
            9 => steps.extend(later.first().cloned().map(LogStep::Mask)),
            10 => steps.push(LogStep::Mask(text(&mut script, 4))),
            _ => {}
        }
        let mut bytes = Vec::new();
        for _ in 0..script.byte() % 8 {
            let kind = script.byte();
            let known: Vec<&String> = secrets.iter().chain(&later).collect();
            match (kind % 4, known.get(usize::from(kind / 4) % known.len().max(1))) {
                (0, Some(secret)) => bytes.extend_from_slice(secret.as_bytes()),
                (1, Some(secret)) => {
                    bytes.extend_from_slice(&secret.as_bytes()[..usize::from(script.byte()) % (secret.len() + 1)]);
                }
                (2, _) => bytes.extend_from_slice(script.pick(&LETTERS).as_bytes()),
                _ => bytes.extend_from_slice(script.pick(&PRINTED)),
            }
        }
        steps.push(LogStep::Write(stream, bytes));
    }
    LogCase { secrets, prefixes, stamped: shape >> 6 & 1 == 1, steps, limit }.check();
}
