//! What goes into a log, and what must not come out.

use std::sync::Arc;

use bytes::Bytes;
use gitlab_runner_api::log::{LogLimit, LogOptions, Section, Timestamps};
use gitlab_runner_api::{
    Assignment, Job, JobEvent, JobResult, JobSnapshot, Outcome, Retain, RunnerConfig, Secret, Stream, Timestamp,
};
use gitlab_runner_api_testkit::fuzz::{self, LogCase};
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
            let case = LogCase { secrets: secrets.clone(), writes: vec![(Stream::Stdout, text[..end].into())], ..LogCase::default() };
            let settled = case.expected(Stream::Stdout);
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
        let writes = text.chunks(size).map(|piece| (Stream::Stdout, piece.to_vec())).collect();
        LogCase { secrets: secrets.clone(), writes, resumes: u32::MAX, ..LogCase::default() }.check();
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
    let stored = Assignment::from_json(job.assignment().as_json().clone()).unwrap();
    assert!(!format!("{stored:?}").contains("fetched"));
    let mut resumed = Job::resume(config, &stored, job.snapshot(), START).unwrap();
    resumed.write("secret fetched-secret");
    assert_eq!(resumed.taken(Stream::Runner), 8 + 21);
    assert_eq!(ended(resumed), "[MASKED] [MASKED]");
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
