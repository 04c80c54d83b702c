//! What goes into a log, and what must not come out.

use std::sync::Arc;

use bytes::Bytes;
use gitlab_runner_api::log::{LogLimit, LogOptions, Section, Timestamps};
use gitlab_runner_api::{
    Assignment, Job, JobEvent, JobRecord, JobResult, JobSnapshot, Masked, Outcome, Retain, RunnerConfig, Secret,
    Stream, Timestamp,
};
use gitlab_runner_api_testkit::fuzz::{self, LogCase, LogStep};
use gitlab_runner_api_testkit::{NewJob, Settings};
use proptest::prelude::*;

use crate::common::{Hand, START, assignment, config, gitlab, take_job};

fn job(config: RunnerConfig, payload: &serde_json::Value) -> Job {
    Job::new(Arc::new(config), &Assignment::from_json(payload.to_string()).unwrap(), START)
}

fn log(job: &mut Job) -> String {
    String::from_utf8(job.retained().1.concat()).unwrap()
}

fn ended(mut job: Job) -> String {
    job.finish(JobResult::success());
    log(&mut job)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// The reference knows of no writes, streams or restarts: what comes out does not depend on them.
    #[test]
    fn logs_are_what_the_reference_says(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        fuzz::log(&data);
    }

    #[test]
    fn without_secrets_a_log_is_what_was_written(
        lines in proptest::collection::vec("[ -~\u{e4}\u{20ac}]{0,40}", 0..20),
        cut in 1..50_usize,
    ) {
        let text = lines.join("\n").replace(['?', '&'], "").replace("gl", "").replace("_gitlab", "");
        let mut job = Job::new(Arc::new(config()), &assignment(), START);
        for piece in text.as_bytes().chunks(cut) {
            job.write_to(Stream::Stdout, piece.to_vec());
        }
        prop_assert_eq!(job.taken(Stream::Stdout), text.len() as u64);
        prop_assert_eq!(ended(job), text);
    }

    /// What does not come out at once is shorter than the longest secret, and the character and the prefix it may cut.
    #[test]
    fn little_is_held_back(text in "[a-c]{0,200}", secrets in proptest::collection::vec("[a-c]{1,12}", 0..6)) {
        let longest = secrets.iter().map(String::len).max().unwrap_or(1);
        let variables: Vec<_> = secrets.iter().map(|it| serde_json::json!({ "key": "K", "value": it, "masked": true })).collect();
        let mut job = job(config(), &serde_json::json!({ "id": 7, "token": "t", "variables": variables }));
        for end in 1..=text.len() {
            job.write_to(Stream::Stdout, Bytes::copy_from_slice(&text.as_bytes()[end - 1..end]));
            // Each of the bytes that may be held back may stand for a marker.
            let settled = LogCase::printing(secrets.clone(), &[&text.as_bytes()[..end]]).expected();
            let settled_size = settled.len().saturating_sub(longest * 8);
            prop_assert!(job.log_size() >= settled_size as u64, "{} of {}", job.log_size(), settled_size);
        }
    }
}

/// Found by fuzzing: taken up within an occurrence, with another secret inside that, the rest of it was shown.
#[test]
fn an_occurrence_is_hidden_to_its_end_after_a_restart() {
    let text = "abcabc".repeat(6).into_bytes();
    let secrets = vec!["abcabcabcabc".to_owned(), "a".to_owned()];
    for size in 1..text.len() {
        let write = |piece: &[u8]| [LogStep::Write(Stream::Stdout, piece.to_vec()), LogStep::Resume];
        let steps = text.chunks(size).flat_map(write).collect();
        LogCase { secrets: secrets.clone(), steps, ..LogCase::default() }.check();
    }
}

/// Runs a case, and returns its log as it is without a limit.
fn checked(case: &LogCase) -> String {
    case.check();
    String::from_utf8(case.run(LogLimit::None).0).unwrap()
}

fn printed(secrets: &[&str], text: &str) -> String {
    // However it is cut, and stored in between.
    for size in 1..text.len() {
        let write = |piece: &[u8]| [LogStep::Write(Stream::Stdout, piece.to_vec()), LogStep::Resume];
        let steps = text.as_bytes().chunks(size).flat_map(write).collect();
        let secrets = secrets.iter().map(|it| (*it).to_owned()).collect();
        LogCase { secrets, steps, ..LogCase::default() }.check();
    }
    checked(&LogCase::printing(secrets.iter().map(|it| (*it).to_owned()).collect(), &[text.as_bytes()]))
}

/// A token's value, and the value of a URL's parameter, are occurrences like those of secrets: what overlaps shares a marker.
#[test]
fn a_secret_ends_neither_a_token_nor_the_value_of_a_parameter() {
    for (secrets, text, shown) in [
        (&["hunter2-hunter2"][..], "glpat-hunter2-hunter2abcdef end", "glpat-[MASKED] end"),
        (&["hunter2-hunter2"], "glpat-abc.hunter2-hunter2 end", "glpat-[MASKED] end"),
        (&["hunter2-hunter2"], "glpat-hunter2-hunter2hunter2-hunter2x", "glpat-[MASKED]"),
        // What is in a token only as a part of a secret ends it neither.
        (&["p@ss word"], "glpat-p@ss wordabc end", "glpat-[MASKED] end"),
        (&["p@ss word"], "glpat-abcp@ss worddef end", "glpat-[MASKED] end"),
        (&["p@ss word"], "?private_token=ap@ss wordb&c", "?private_token=[MASKED]&c"),
        (&["&more&"], "?private_token=a&more&b&c", "?private_token=[MASKED]&c"),
        // A secret may begin before the token, or overlap its prefix.
        (&["my glpat-abc"], "my glpat-abcdef end", "[MASKED] end"),
        (&["pat-abc"], "glpat-abcdef end", "gl[MASKED] end"),
        (&["token=abc"], "?private_token=abcdef end", "?private_[MASKED] end"),
        (&["my glpat-"], "my glpat-abc end", "[MASKED][MASKED] end"),
        // What only touches has markers of its own.
        (&["secret-a", "secret-b"], "secret-asecret-b", "[MASKED][MASKED]"),
        (&["token="], "?private_token=&a ?private_token=b", "?private_[MASKED][MASKED]&a ?private_[MASKED][MASKED]"),
        (&["aaaaaaaaaa"], &"a".repeat(45), "[MASKED]"),
    ] {
        assert_eq!(printed(secrets, text), shown, "{secrets:?} in {text:?}");
    }
}

fn written(stream: Stream, text: &str) -> LogStep {
    LogStep::Write(stream, text.as_bytes().to_vec())
}

/// The markers of sections are the runner's: no stage of a script's text touches them, and they end no stream.
#[test]
fn markers_of_sections_stay_whole_in_any_text() {
    let start = "section_start:1750000000:deploy\r\u{1b}[0K";
    let end = "section_end:1750000000:deploy\r\u{1b}[0K";
    let (open, close) = (LogStep::OpenSection("deploy"), LogStep::CloseSection);
    for (before, shown, after, then) in [
        ("GET https://h/?private_token=abc", "GET https://h/?private_token=[MASKED]", "def ghi", " ghi"),
        ("glpat-abc", "glpat-[MASKED]", "def ghi", " ghi"),
        ("glpat-", "glpat-", "def ghi", "[MASKED] ghi"),
        ("no errors", "no error", " left", "s left"),
        ("no secret-val", "no ", "ue", "[MASKED]"),
        ("caf\u{e9}", "caf\u{e9}", "s", "s"),
        // Behind a key of a URL, a marker's text is no part of the key.
        ("?private_", "?private_", "token=abc d", "token=[MASKED] d"),
    ] {
        for stream in [Stream::Runner, Stream::Stdout] {
            let steps = vec![open.clone(), written(stream, before), close.clone(), written(stream, after)];
            let case = LogCase { secrets: vec!["secret-value".to_owned()], steps, ..LogCase::default() };
            assert_eq!(checked(&case), format!("{start}{shown}{end}{then}"), "{before:?} to {stream:?}");
        }
    }
}

/// Without the end of a step, a possible secret stays held back when a section is closed: the script may go on writing.
#[test]
fn the_end_of_a_step_gives_out_what_was_held_back() {
    let start = "section_start:1750000000:deploy\r\u{1b}[0K";
    let end = "section_end:1750000000:deploy\r\u{1b}[0K";
    for (ending, expected) in [
        (None, format!("{start}no error{end}Job succeeded\ns")),
        (Some(LogStep::EndStep), format!("{start}no errors{end}Job succeeded\n")),
        (Some(LogStep::CloseStream(Stream::Stdout)), format!("{start}no errors{end}Job succeeded\n")),
        (Some(LogStep::CloseStream(Stream::Stderr)), format!("{start}no error{end}Job succeeded\ns")),
    ] {
        let mut steps = vec![LogStep::OpenSection("deploy"), written(Stream::Stdout, "no errors")];
        steps.extend(ending);
        steps.extend([LogStep::CloseSection, written(Stream::Runner, "Job succeeded\n")]);
        let case = LogCase { secrets: vec!["secret-value".to_owned()], steps, ..LogCase::default() };
        assert_eq!(checked(&case), expected);
    }
}

#[test]
fn no_secret_reaches_over_the_end_of_a_stream() {
    for (before, after, shown) in [
        ("secret-", "value", "secret-value"),
        ("glpat-abc", "def", "glpat-[MASKED]def"),
        ("glpat-", "def", "glpat-def"),
        ("?private_token=abc", "def", "?private_token=[MASKED]def"),
        ("?private_", "token=abc", "?private_token=abc"),
    ] {
        let steps = vec![written(Stream::Stdout, before), LogStep::EndStep, written(Stream::Stdout, after)];
        let case = LogCase { secrets: vec!["secret-value".to_owned()], steps, ..LogCase::default() };
        assert_eq!(checked(&case), shown);
    }
    // The first half of a character, and the other.
    let halves = [&b"\xc3"[..], b"\xa4"].map(|half| LogStep::Write(Stream::Stdout, half.to_vec()));
    let [first, second] = halves;
    let case = LogCase { steps: vec![first, LogStep::EndStep, second], ..LogCase::default() };
    assert_eq!(checked(&case), "\u{fffd}\u{fffd}");
}

/// Services run on when a step ends.
#[test]
fn the_end_of_a_step_is_not_that_of_a_service() {
    let service = Stream::Service(0);
    for (ending, shown) in [(LogStep::EndStep, "a [MASKED]"), (LogStep::CloseStream(service), "a secret-value")] {
        let steps = vec![written(service, "a secret-"), ending, written(service, "value")];
        let case = LogCase { secrets: vec!["secret-value".to_owned()], steps, ..LogCase::default() };
        assert_eq!(checked(&case), shown);
    }
}

#[test]
fn with_timestamps_a_script_that_has_ended_comes_before_what_the_runner_says() {
    let lines = |ending: Option<LogStep>| {
        let mut steps = vec![written(Stream::Stdout, "all tests passed")];
        steps.extend(ending);
        steps.push(written(Stream::Runner, "Job succeeded\n"));
        let case = LogCase { stamped: true, steps, ..LogCase::default() };
        let lines: Vec<String> = checked(&case).lines().map(|line| line[28..].to_owned()).collect();
        lines
    };
    let (script, runner) = ("01O all tests passed", "00O Job succeeded");
    assert_eq!(lines(Some(LogStep::EndStep)), [script, runner]);
    assert_eq!(lines(Some(LogStep::CloseStream(Stream::Stdout))), [script, runner]);
    assert_eq!(lines(None), [runner, script]);
}

/// With timestamps, a marker is an entry of its own, and an unfinished line stays held back.
#[test]
fn with_timestamps_markers_of_sections_are_entries_of_their_own() {
    for (stream, ending, expected) in [
        (Stream::Stdout, None, ["00O section_start", "00O+section_end", "01O half a", "01O line"].as_slice()),
        (Stream::Stdout, Some(LogStep::EndStep), &["00O section_start", "01O half a", "00O section_end", "01O line"]),
        (Stream::Runner, None, &["00O section_start", "00O+section_end", "00O+half a line"]),
        (Stream::Runner, Some(LogStep::EndStep), &["00O section_start", "00O+half a", "00O section_end", "00O+ line"]),
    ] {
        let mut steps = vec![LogStep::OpenSection("deploy"), written(stream, "half a")];
        steps.extend(ending.clone());
        steps.extend([LogStep::CloseSection, written(stream, " line\n")]);
        let case = LogCase { stamped: true, steps, ..LogCase::default() };
        let entries: Vec<String> =
            checked(&case).lines().map(|line| line[28..].replace(":1750000000:deploy\r\u{1b}[0K", "")).collect();
        let expected: Vec<&str> = if stream == Stream::Stdout && ending.is_none() {
            vec!["00O section_start", "00O+section_end", "01O half a line"]
        } else {
            expected.iter().map(|it| if *it == "01O line" { "01O  line" } else { it }).collect()
        };
        assert_eq!(entries, expected, "{stream:?} {ending:?}");
    }
}

/// All that a log is made of, from nothing to far too much, with every limit around the sizes that matter.
#[test]
fn a_log_that_fits_is_never_touched() {
    let text: String = (0..40).map(|number| format!("line {number} \u{20ac}\n")).collect();
    for size in (0..text.len()).filter(|at| text.is_char_boundary(*at)).step_by(29) {
        let text = &text[..size];
        for total in (0..600).step_by(37).chain([size as u64, size as u64 + 1, size.saturating_sub(1) as u64]) {
            for limit in
                [LogLimit::head(total), LogLimit::head_and_tail(total, 60), LogLimit::head_and_tail(total, total / 2)]
            {
                for cut in [text.len().max(1), 5] {
                    let pieces: Vec<&[u8]> = text.as_bytes().chunks(cut).collect();
                    let case = LogCase { limit: Some(limit), ..LogCase::printing(Vec::new(), &pieces) };
                    case.check();
                    let log = String::from_utf8(case.run(limit).0).unwrap();
                    assert!(log.len() as u64 <= total, "{} bytes of {limit:?}", log.len());
                    if size as u64 <= total {
                        assert_eq!(log, text, "{limit:?}");
                    } else if !log.contains("exceeded limit") {
                        assert!(text.starts_with(&log) && log.len() as u64 + 3 >= total.min(130), "{limit:?}: {log:?}");
                    }
                }
            }
        }
    }
}

/// The largest log that fits into the usual limit.
#[test]
fn a_log_as_long_as_its_limit_is_whole() {
    for limit in [LogLimit::head(4 << 20), LogLimit::default()] {
        for (size, fits) in [(4_194_254, true), (4 << 20, true), ((4 << 20) + 1, false)] {
            let mut job =
                Job::new(Arc::new(config().with_log(LogOptions::default().with_limit(limit))), &assignment(), START);
            let line = Bytes::from_static(b"a usual line of a log, of a certain length of 64 bytes or so...\n");
            let text = Bytes::from(line.repeat(size / line.len() + 1)).slice(..size);
            for piece in (0..size).step_by(50_000) {
                job.write_to(Stream::Stdout, text.slice(piece..size.min(piece + 50_000)));
            }
            job.finish(JobResult::success());
            let log = Bytes::from(job.retained().1.concat());
            assert_eq!(log == text, fits, "{size} bytes of {limit:?}");
            assert!(log.len() <= 4 << 20);
        }
    }
}

const SECRETS: [&str; 4] = [
    "canary-of-a-variable",
    "canary first line\ncanary second line\ncanary third",
    "canary-%&?$/\\-of-signs",
    "canary-with-\u{e4}\u{20ac}-in-it",
];

/// All secrets, in all places a job may print them.
fn leaky_output(token: &str) -> String {
    let mut text = String::from("a build begins\n");
    for (number, secret) in SECRETS.iter().enumerate() {
        text.push_str(&format!("{number}: {secret}{secret} '{secret}'\n{}\r\n", secret.replace('\n', "\r\n")));
    }
    text.push_str("> canary second line\n");
    text.push_str("curl https://x.test/?a=1&private_token=canary-in-a-url&x=2 and ?X-Amz-Signature=canary-signed\n");
    text.push_str("glpat-canary-token glrt-canary.token_2 own_canary-token _gitlab_session=canary-session; \n");
    text.push_str(&format!("https://gitlab-ci-token:{token}@gitlab.example.test/x.git canary-learnt-later\n"));
    text.push_str(&"and much that is no secret, line by line\n".repeat(200));
    text.push_str("the end, and a secret at that: canary-of-a-variable");
    text
}

/// A whole job, with a crash in the middle of each write: GitLab's log and everything stored are scanned.
#[test]
fn no_canary_reaches_gitlab_or_a_snapshot() {
    for (size, timestamps) in
        [(1, Timestamps::Off), (7, Timestamps::On), (7, Timestamps::Off), (64 << 10, Timestamps::On)]
    {
        let config = config().with_retain(Retain::All).with_log(LogOptions::default().with_timestamps(timestamps));
        let mut server = gitlab(Settings::default().with(|settings| settings.mask_job_token = false));
        let mut new =
            NewJob::new("leaky").with_member("features", serde_json::json!({ "token_mask_prefixes": ["own_"] }));
        for (number, secret) in SECRETS.iter().enumerate() {
            new = new.with_masked_variable(&format!("SECRET_{number}"), secret);
        }
        let assignment = take_job(&mut server, &config, START, new);
        let (token, config) = (assignment.spec().token.expose().to_owned(), Arc::new(config));
        let mut hand = Hand::new(Job::new(config.clone(), &assignment, START));
        hand.machine.mask(&Secret::new("canary-learnt-later"));
        hand.run(&mut server, crate::common::SECOND);
        let (mut kept, mut stored) = (Vec::new(), Vec::new());
        let output = leaky_output(&token);
        for (number, piece) in output.as_bytes().chunks(size).enumerate() {
            hand.machine.write_at(Stream::Stdout, piece.to_vec(), hand.now);
            if number % 50 == 11 || output.len() / size < 50 {
                kept.extend(hand.machine.retained().1.concat());
                let json = hand.machine.snapshot().to_json();
                stored.push(format!("{json} {:?} {:?}", hand.machine.snapshot(), hand.machine));
                let snapshot = JobSnapshot::from_json(&json).unwrap();
                let now = hand.now;
                let resumed = Job::resume(config.clone(), hand.machine.assignment(), snapshot, now).unwrap();
                hand = Hand::new(resumed);
                hand.now = now;
                hand.run(&mut server, crate::common::SECOND);
                while let Some(range) = hand.machine.trace_needed() {
                    let bytes = Bytes::copy_from_slice(&kept[range.start as usize..range.end as usize]);
                    hand.machine.supply_trace(range.start, bytes).unwrap();
                    hand.run(&mut server, crate::common::SECOND);
                }
            }
        }
        hand.machine.finish(JobResult::success());
        kept.extend(hand.machine.retained().1.concat());
        // So many resumes within one moment have used up the budget of calls that achieve nothing.
        for _ in 0..40 {
            hand.run(&mut server, crate::common::SECOND * 10);
            if let Some(range) = hand.machine.trace_needed() {
                let bytes = Bytes::copy_from_slice(&kept[range.start as usize..range.end as usize]);
                hand.machine.supply_trace(range.start, bytes).unwrap();
            }
        }
        assert_eq!(hand.events.last(), Some(&JobEvent::Finished(Outcome::Success)));
        let held = server.job(assignment.id()).unwrap().trace().to_vec();
        assert_eq!(String::from_utf8_lossy(&held), String::from_utf8_lossy(&kept), "in writes of {size}");
        let text = String::from_utf8(held).unwrap();
        for scanned in stored.iter().chain([&text]) {
            assert!(!scanned.contains("canary") && !scanned.contains(&token), "in writes of {size}: {scanned}");
        }
        let markers = text.matches("[MASKED]").count();
        assert_eq!(markers, 4 * 4 + 1 + 2 + 4 + 2 + 1, "in writes of {size}: {text}");
        assert!(text.contains("own_[MASKED]") && text.contains("and much that is no secret"), "{text}");
    }
}

#[test]
fn a_job_says_how_its_log_is_stamped() {
    let stamped = |timestamps, value: Option<&str>| {
        let config = config().with_log(LogOptions::default().with_timestamps(timestamps));
        let variables: Vec<_> =
            value.iter().map(|it| serde_json::json!({ "key": "FF_TIMESTAMPS", "value": it })).collect();
        let mut job = job(config, &serde_json::json!({ "id": 7, "token": "t", "variables": variables }));
        job.write_at(Stream::Stdout, "x\n", Timestamp::from_millis(1_750_000_001_234));
        ended(job)
    };
    let with = "2025-06-15T15:06:41.234000Z 01O x\n";
    for (timestamps, value, expected) in [
        (Timestamps::Off, Some("true"), "x\n"),
        (Timestamps::On, Some("false"), with),
        (Timestamps::AsJobSays, None, with),
        (Timestamps::AsJobSays, Some("true"), with),
        (Timestamps::AsJobSays, Some("0"), "x\n"),
    ] {
        assert_eq!(stamped(timestamps, value), expected, "{timestamps:?} {value:?}");
    }
}

#[test]
fn jobs_choose_which_tokens_are_known() {
    let shown = |variables: serde_json::Value, prefixes: serde_json::Value| {
        let features = serde_json::json!({ "token_mask_prefixes": prefixes });
        let payload = serde_json::json!({ "id": 7, "token": "t", "variables": variables, "features": features });
        let mut job = job(config(), &payload);
        job.write("glpat-a glrt-b my-c");
        ended(job)
    };
    let off = serde_json::json!([{ "key": "FF_MASK_ALL_DEFAULT_TOKENS", "value": "false" }]);
    let none = serde_json::json!([]);
    let own = serde_json::json!([" my- ", "my-"]);
    assert_eq!(shown(none.clone(), none.clone()), "glpat-[MASKED] glrt-[MASKED] my-c");
    assert_eq!(shown(none.clone(), own.clone()), "glpat-[MASKED] glrt-[MASKED] my-[MASKED]");
    assert_eq!(shown(off.clone(), none), "glpat-[MASKED] glrt-b my-c");
    assert_eq!(shown(off, own), "glpat-[MASKED] glrt-b my-[MASKED]");
}

#[test]
fn what_is_passed_on_raw_is_passed_on_as_it_is() {
    let raw = config().with_log(LogOptions::dangerously_raw());
    assert!(serde_json::to_value(raw.info()).unwrap()["features"]["masking"] == false);
    assert!(serde_json::to_value(config().info()).unwrap()["features"]["masking"] == true);
    let payload =
        serde_json::json!({ "id": 7, "token": "t", "variables": [{ "key": "K", "value": "hidden", "masked": true }] });
    let mut job = job(raw, &payload);
    let text = Bytes::from_static(b"hidden glpat-x \xff ?private_token=1");
    job.write(text.clone());
    assert_eq!(job.retained().1.concat(), text);
}

#[test]
fn short_secrets_are_told_of_and_hidden() {
    let payload =
        serde_json::json!({ "id": 7, "token": "t", "variables": [{ "key": "K", "value": "abc", "masked": true }] });
    let mut hand = Hand::new(job(config(), &payload));
    hand.machine.mask(&Secret::new("long enough"));
    hand.machine.mask(&Secret::new("short"));
    hand.machine.mask(&Secret::new("short"));
    hand.machine.mask(&Secret::new("  "));
    hand.call();
    assert_eq!(hand.events, [JobEvent::ShortSecrets(1), JobEvent::ShortSecrets(2)]);
    hand.machine.write("an abc, a short one, long enough");
    assert_eq!(ended(hand.machine), "an [MASKED], a [MASKED] one, [MASKED]");
}

#[test]
fn what_was_learnt_stays_hidden_after_a_restart() {
    let config = Arc::new(config());
    let mut job = Job::new(config.clone(), &assignment(), START);
    job.mask(&Secret::new("fetched-secret"));
    job.write("fetched-");
    let stored = JobRecord::from_json(&JobRecord::of(&mut job).unwrap().to_json()).unwrap();
    assert_eq!(stored.assignment().as_json(), assignment().as_json(), "the payload is kept as it came");
    assert!(!format!("{stored:?}").contains("fetched"));
    let mut resumed = Job::resume(config, stored.assignment(), stored.snapshot().clone(), START).unwrap();
    resumed.write("secret fetched-secret");
    assert_eq!(resumed.taken(Stream::Runner), 8 + 21);
    assert_eq!(ended(resumed), "[MASKED] [MASKED]");
}

/// Payloads that serde reads, but that cannot be written again: `mask` must not need to.
#[test]
fn what_is_learnt_is_hidden_whatever_the_payload_holds() {
    let nested = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    for unknown in ["1e400", "123456789012345678901234567890", "\"\\ud800\"", &nested, "null", "{\"a\":1,\"a\":2}"] {
        let payload = format!("{{\"id\":7,\"token\":\"t\",\"unknown\":{unknown}}}");
        let Ok(assignment) = Assignment::from_json(payload.clone()) else { panic!("{unknown} is not decoded") };
        let config = Arc::new(config());
        let mut job = Job::new(config.clone(), &assignment, START);
        job.write("correct-");
        assert_eq!(job.mask(&Secret::new("correct-horse")), Masked::Hidden);
        assert_eq!(job.mask(&Secret::new(" \n")), Masked::Empty);
        job.write("horse, correct-horse");
        assert_eq!(job.assignment().as_json(), payload.as_bytes(), "the payload as it came");
        let record = JobRecord::from_json(&JobRecord::of(&mut job).unwrap().to_json()).unwrap();
        assert_eq!(record.assignment().as_json(), payload.as_bytes(), "the payload as it came");
        let mut resumed = Job::resume(config, record.assignment(), record.snapshot().clone(), START).unwrap();
        resumed.write(" and correct-horse");
        // What had gone out when it was learnt stays.
        assert_eq!(
            String::from_utf8(record.log().1.to_vec()).unwrap() + &ended(resumed),
            "correct-horse, [MASKED] and [MASKED]"
        );
    }
    let mut raw = Job::new(Arc::new(config().with_log(LogOptions::dangerously_raw())), &assignment(), START);
    assert_eq!(raw.mask(&Secret::new("correct-horse")), Masked::Raw);
}

/// What is held back when a secret is learnt is searched for it: a beginning of another secret, an unfinished line, and what waits
/// for the end of the log.
#[test]
fn what_is_still_held_back_is_searched_when_a_secret_is_learnt() {
    let learn = || LogStep::Mask("correct-horse".to_owned());
    let held = LogCase {
        secrets: vec!["correct-horse-battery".to_owned(), "horses".to_owned()],
        steps: vec![written(Stream::Stdout, "a correct-horse"), learn(), written(Stream::Stdout, " b")],
        ..LogCase::default()
    };
    assert_eq!(checked(&held), "a [MASKED] b");
    let steps = vec![written(Stream::Stdout, "out\na correct-horse"), learn(), written(Stream::Stdout, " b\n")];
    let line = LogCase { stamped: true, steps, ..LogCase::default() };
    assert!(checked(&line).ends_with("01O a [MASKED] b\n"));
    let filler = "x".repeat(70);
    let text = format!("{filler} a correct-horse");
    let steps = vec![written(Stream::Stdout, &text), learn(), written(Stream::Stdout, " b\n")];
    for limit in [LogLimit::head(140), LogLimit::head_and_tail(300, 50)] {
        let waiting = LogCase { limit: Some(limit), steps: steps.clone(), ..LogCase::default() };
        waiting.check();
        assert_eq!(String::from_utf8(waiting.run(limit).0).unwrap(), format!("{filler} a [MASKED] b\n"));
    }
    // Long after the limit, the end is still here.
    let many = written(Stream::Stdout, &"a usual line\n".repeat(100));
    let steps = vec![many, written(Stream::Stdout, "a correct-horse"), learn(), written(Stream::Stdout, " b\n")];
    let limit = LogLimit::head_and_tail(600, 100);
    let cut = LogCase { limit: Some(limit), steps, ..LogCase::default() };
    cut.check();
    assert!(String::from_utf8(cut.run(limit).0).unwrap().ends_with("usual line\na [MASKED] b\n"));
}

/// The job's token and passwords are secrets also where they are no variables.
#[test]
fn credentials_of_the_payload_are_hidden() {
    let payload = serde_json::json!({
        "id": 7, "token": "canary-job-token",
        "git_info": { "repo_url": "https://gitlab-ci-token:canary%2Frepository@gitlab.example.test/group/project.git" },
        "credentials": [
            { "type": "registry", "url": "registry.example.test", "username": "user", "password": "canary-registry" },
            { "type": "registry", "url": "other.example.test", "username": "user", "password": "" },
        ],
    });
    let mut hand = Hand::new(job(config(), &payload));
    hand.call();
    assert_eq!(hand.events, []);
    hand.machine
        .write_to(Stream::Stdout, "canary-job-token canary%2Frepository canary/repository canary-registry user");
    assert_eq!(ended(hand.machine), "[MASKED] [MASKED] [MASKED] [MASKED] user");
    // One that is too short for a token would hide much that is none.
    let short = job(config(), &serde_json::json!({ "id": 7, "token": "t" }));
    let mut short = short;
    short.write("a test");
    assert_eq!(ended(short), "a test");
}

/// A section that is named after a secret shows it neither in the log nor in a snapshot, whether it was known or is learnt later.
#[test]
fn names_and_titles_of_sections_hold_no_secrets() {
    let variables = serde_json::json!([
        { "key": "A", "value": "canary-variable", "masked": true }, { "key": "B", "value": "canary of/signs", "masked": true },
    ]);
    let features = serde_json::json!({ "trace_sections": true });
    let payload = serde_json::json!({ "id": 7, "token": "t", "variables": variables, "features": features });
    let config = Arc::new(config());
    let assignment = Assignment::from_json(payload.to_string()).unwrap();
    let mut job = Job::new(config.clone(), &assignment, START);
    for name in ["deploy-canary-variable", "canary of/signs", "canary_of_signs", "glpat-canary-token", "learnt-later"] {
        job.open_section(&Section::new(name).with_title(&format!("Title: {name}")), START);
    }
    job.mask(&Secret::new("learnt-later"));
    let snapshot = job.snapshot();
    let shown = log(&mut job);
    let json = snapshot.to_json();
    for text in [&json, &format!("{snapshot:?}"), &format!("{job:?}")] {
        assert!(!text.contains("canary") && !text.contains("learnt-later"), "{text}");
    }
    assert!(!shown.contains("canary-") && !shown.contains("canary of"), "{shown}");
    assert!(shown.contains(":deploy-_MASKED_\r") && shown.contains("Title: deploy-[MASKED]"), "{shown}");
    let mut job = Job::resume(config, &assignment, JobSnapshot::from_json(&json).unwrap(), START).unwrap();
    for name in ["_MASKED_", "glpat-_MASKED_", "_MASKED_", "_MASKED_", "deploy-_MASKED_"] {
        let before = log(&mut job).len();
        job.close_section(START);
        let end = log(&mut job).split_off(before);
        assert!(end.ends_with(&format!(":{name}\r\u{1b}[0K")), "{end:?} does not close {name}");
    }
}

/// Titles pass no stage of a stream: what the runner wrote before is not a part of them.
#[test]
fn a_title_is_a_line_of_its_own_with_timestamps_too() {
    for timestamps in [Timestamps::Off, Timestamps::On] {
        let config = config().with_log(LogOptions::default().with_timestamps(timestamps));
        let features = serde_json::json!({ "trace_sections": true });
        let mut job = job(config, &serde_json::json!({ "id": 7, "token": "t", "features": features }));
        job.write("GET https://h/?private_token=abc");
        job.open_section(&Section::new("x").with_title("Build all"), START);
        job.write("def ghi\n");
        let shown = ended(job);
        assert_eq!(
            shown.matches("\r\u{1b}[0K\u{1b}[0K\u{1b}[36;1mBuild all\u{1b}[0;m\u{1b}[0;m\n").count(),
            1,
            "{shown}"
        );
        assert!(shown.contains("private_token=[MASKED]") && !shown.contains("def"), "{shown}");
    }
}

#[test]
fn sections_nest_and_are_closed_at_the_end() {
    const ESC: &str = "\u{1b}";
    let payload = |markers| serde_json::json!({ "id": 7, "token": "t", "features": { "trace_sections": markers } });
    let at = |seconds: u64| Timestamp::from_millis(seconds * 1000);
    let written = |markers| {
        let config = Arc::new(config());
        let assignment = Assignment::from_json(payload(markers).to_string()).unwrap();
        let mut job = Job::new(config.clone(), &assignment, at(1));
        job.open_section(&Section::new("outer").with_title("Outer"), at(1));
        job.open_section(&Section::new("in ner").with_collapsed(), at(2));
        let before = log(&mut job);
        let mut job = Job::resume(config, &assignment, job.snapshot(), at(3)).unwrap();
        job.close_section(at(3));
        job.open_section(&Section::new("third"), at(4));
        before + &ended(job)
    };
    let title = format!("{ESC}[0K{ESC}[36;1mOuter{ESC}[0;m{ESC}[0;m\n");
    assert_eq!(written(false), title);
    let marker = |text: &str| format!("section_{text}\r{ESC}[0K");
    let expected = [
        marker("start:1:outer") + &title,
        marker("start:2:in_ner[collapsed=true]"),
        marker("end:3:in_ner"),
        marker("start:4:third"),
        marker("end:4:third"),
        marker("end:4:outer"),
    ];
    assert_eq!(written(true), expected.concat());
}

/// The end of a log that is too long survives a restart, and no total is exceeded.
#[test]
fn the_end_of_a_long_log_survives_a_restart() {
    let config = Arc::new(config().with_log(LogOptions::default().with_limit(LogLimit::head_and_tail(2000, 300))));
    let mut job = Job::new(config.clone(), &assignment(), START);
    let mut shown = String::new();
    for number in 0..500 {
        job.write(format!("line {number}\n"));
        if number % 100 == 99 {
            shown += &log(&mut job);
            let json = job.snapshot().to_json();
            assert!(!format!("{:?}", job.snapshot()).contains("line 4"));
            job = Job::resume(config.clone(), &assignment(), JobSnapshot::from_json(&json).unwrap(), START).unwrap();
        }
    }
    shown += &ended(job);
    assert!(
        shown.len() <= 2000 && shown.starts_with("line 0\nline 1\n") && shown.ends_with("line 498\nline 499\n"),
        "{shown}"
    );
    assert_eq!(shown.matches("exceeded limit of 2000 bytes").count(), 1);
}

/// The parts of the log of a job that learns a secret, and may be configured anew, between two writes.
struct Learning<'a> {
    secrets: &'a [String],
    learnt: &'a str,
    options: [&'a LogOptions; 2],
    writes: [&'a [u8]; 2],
}

impl Learning<'_> {
    fn config(options: &LogOptions) -> RunnerConfig {
        config().with_retain(Retain::All).with_log(options.clone())
    }

    fn job(&self, options: &LogOptions) -> Job {
        let variable = |value| serde_json::json!({ "key": "V", "value": value, "masked": true, "raw": true });
        let variables: Vec<_> = self.secrets.iter().map(variable).collect();
        let payload = serde_json::json!({ "id": 7, "token": "a-token-that-is-nowhere", "variables": variables });
        job(Self::config(options), &payload)
    }

    /// The job is resumed with an assignment that was saved later than the snapshot.
    fn in_two_lives(&self) -> String {
        let mut job = self.job(self.options[0]);
        job.write_to(Stream::Stdout, self.writes[0].to_vec());
        let kept = job.retained().1.concat();
        let stored = job.snapshot().to_json();
        let held = self.writes[0].strip_prefix(&kept[..]).unwrap_or_default();
        let held = std::str::from_utf8(held).unwrap_or_default();
        assert!(held.len() < 5 || !stored.contains(held), "{held} shows in {stored}");
        let learnt = job.assignment().clone().with_masked_at_run_time([Secret::new(self.learnt)]);
        let snapshot = JobSnapshot::from_json(&stored).unwrap();
        let mut job = Job::resume(Arc::new(Self::config(self.options[1])), &learnt, snapshot, START).unwrap();
        assert_eq!(job.taken(Stream::Stdout), self.writes[0].len() as u64);
        let size = job.log_size();
        assert_eq!(size, (kept.len() + log(&mut job).len()) as u64);
        job.write_to(Stream::Stdout, self.writes[1].to_vec());
        String::from_utf8(kept).unwrap() + &ended(job)
    }

    /// The same without a restart.
    fn in_one_life(&self) -> String {
        let mut job = self.job(self.options[1]);
        job.write_to(Stream::Stdout, self.writes[0].to_vec());
        job.mask(&Secret::new(self.learnt));
        job.write_to(Stream::Stdout, self.writes[1].to_vec());
        ended(job)
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let writes = self.writes.map(String::from_utf8_lossy);
        prop_assert_eq!(
            self.in_two_lives(),
            self.in_one_life(),
            "{:?} and {}: {:?}",
            self.secrets,
            self.learnt,
            writes
        );
        Ok(())
    }
}

/// What is held back is named by the secret and its form, so that it is known also to a job that looks for other texts.
#[test]
fn what_is_held_back_survives_other_secrets_and_options() {
    use base64::Engine as _;
    let secrets = ["p\u{e4}ss/w?rd \"x\" & <more>", "a first line\nand\r\na third line", "correct horse battery"];
    let all: Vec<String> = secrets.map(str::to_owned).to_vec();
    let [plain, encoded] = [false, true].map(|encoded| LogOptions::default().with_masked_encodings(encoded));
    let mut forms = vec!["a third line".to_owned(), "a first line\r\nand\r\na third line".to_owned()];
    forms.push("a first line\nand\na third line".to_owned());
    for secret in secrets {
        let in_url: String = secret
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' => char::from(byte).to_string(),
                _ => format!("%{byte:02x}"),
            })
            .collect();
        forms.extend([secret.to_owned(), in_url.to_uppercase().to_lowercase(), in_url]);
        forms.push(serde_json::json!(secret).to_string().trim_matches('"').to_owned());
        for before in 0..3 {
            for engine in [base64::engine::general_purpose::STANDARD, base64::engine::general_purpose::URL_SAFE] {
                forms.push(engine.encode(format!("{}{secret}", "x".repeat(before))));
            }
        }
    }
    let (mut wrong, mut cases) = (Vec::new(), 0);
    let mut check = |case: Learning<'_>| {
        cases += 1;
        wrong.extend(case.check().err());
    };
    for form in &forms {
        for cut in 1..form.len() {
            let (held, rest) = form.as_bytes().split_at(cut);
            let first = [b"> ", held].concat();
            for second in [[rest, b" <"].concat(), b" is no secret".to_vec()] {
                let case = |learnt, options| Learning { secrets: &all, learnt, options, writes: [&first, &second] };
                let learnt = ["! this is sorted first", "rst line and more", "~ this is sorted last", "d battery"];
                learnt.iter().for_each(|learnt| check(case(learnt, [&plain; 2])));
                check(case(learnt[cut % learnt.len()], [&encoded; 2]));
                // Of a form that nobody looked for, nothing was held back. One that was whole is hidden already.
                if all.contains(form) {
                    check(case(learnt[0], [&plain, &encoded]));
                }
                let mut before = case(learnt[0], [&encoded; 2]).job(&encoded);
                before.write_to(Stream::Stdout, first.clone());
                if !ended(before).contains("[MASKED]") {
                    check(case(learnt[0], [&encoded, &plain]));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {cases}: {}", wrong.len(), wrong[0]);
}

proptest! {
    #[test]
    fn what_is_held_back_survives_any_other_secret(
        secrets in proptest::collection::vec("[ab]{1,9}", 1..5),
        learnt in "[abc]{1,6}",
        text in "[abc]{1,30}",
        cut in any::<prop::sample::Index>(),
    ) {
        let (first, second) = text.as_bytes().split_at(cut.index(text.len()));
        let options = LogOptions::default();
        Learning { secrets: &secrets, learnt: &learnt, options: [&options; 2], writes: [first, second] }.check()?;
    }
}
