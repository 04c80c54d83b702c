//! The same jobs as GitLab's official runner 18.5.0 ran: what its scripts saw, and what stood in its logs.
//!
//! `tests/official` holds 40 payloads with random variables, and 994 random texts that a script printed. Each line is one case, with
//! its values in Base64. The official runner wrote these logs without a limit and without timestamps, and did not hide
//! single lines of a secret.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gitlab_runner_api::log::{LogLimit, LogOptions};
use gitlab_runner_api::variables::{Place, Variables};
use gitlab_runner_api::{Assignment, Job, JobResult, Stream};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::common::{START, config};

const VARIABLES: &str = include_str!("../official/variables.jsonl");
const LOGS: &str = include_str!("../official/logs.jsonl");

/// The texts in which the logs differ.
///
/// In the first and the last, occurrences of a secret overlap each other. The official runner replaces one and goes on behind it, so
/// that the rest of the last one shows; ours hides it. In the other, the script itself prints `[MASKED]` behind a token. The
/// official runner may take that for a marker of its own, depending on how the text is cut, and then hides the prefix of the next
/// token with the first; ours takes it for text, and hides both tokens.
const DIFFERENT: [(u32, u32); 3] = [(27, 6), (78, 16), (96, 18)];

#[derive(Deserialize)]
struct VariablesCase {
    case: u32,
    variables: Value,
    environment: BTreeMap<String, Option<String>>,
    files: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct LogCase {
    case: u32,
    text: u32,
    writes: Vec<String>,
    official: String,
}

fn decoded(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap()
}

fn cases() -> BTreeMap<u32, VariablesCase> {
    let read = |line| serde_json::from_str::<VariablesCase>(line).unwrap();
    VARIABLES.lines().map(read).map(|case| (case.case, case)).collect()
}

fn assignment(case: &VariablesCase) -> Assignment {
    let payload = json!({
        "id": 4_294_967_297_u64, "token": "glcbt-64_VuKhiFqSJRprqOoAVvrG", "variables": case.variables,
        "job_info": { "project_full_path": "acme/widgets" },
    });
    Assignment::from_json(payload.to_string()).unwrap()
}

#[test]
fn scripts_see_the_same_variables() {
    let (cases, mut compared) = (cases(), 0);
    for case in cases.values() {
        let variables = Variables::new(assignment(case).spec(), &Place::new("/b"));
        let environment: BTreeMap<_, _> = variables.environment().into_iter().collect();
        for (key, official) in &case.environment {
            let ours = environment.get(key).map(|value| value.expose().as_bytes().to_vec());
            assert_eq!(ours, official.as_deref().map(decoded), "{key} of case {}", case.case);
            compared += 1;
        }
        let files: BTreeMap<_, _> = variables.files().into_iter().collect();
        for (key, official) in &case.files {
            let path = format!("{}/{key}", variables.temp_project_dir());
            let ours = files.get(&path).map(|content| content.expose().as_bytes());
            assert_eq!(ours, Some(&*decoded(official)), "{key} of case {}", case.case);
            compared += 1;
        }
    }
    assert_eq!((cases.len(), compared), (40, 986));
}

/// Markers that touch count as one: the official runner puts one for each occurrence, where ours puts one for those that overlap.
fn merged(log: &[u8]) -> String {
    let mut log = String::from_utf8(log.to_vec()).unwrap();
    while log.contains("[MASKED][MASKED]") {
        log = log.replace("[MASKED][MASKED]", "[MASKED]");
    }
    log
}

#[test]
fn logs_are_the_same_but_where_ours_hides_more() {
    let cases = cases();
    let options = LogOptions::default().with_limit(LogLimit::None).with_masked_lines(false);
    let config = Arc::new(config().with_log(options));
    let mut compared = 0;
    for line in LOGS.lines() {
        let LogCase { case, text, writes, official } = serde_json::from_str(line).unwrap();
        let mut job = Job::new(config.clone(), &assignment(&cases[&case]), START);
        for write in &writes {
            job.write_to(Stream::Stdout, decoded(write));
        }
        job.finish(JobResult::success());
        let (ours, official) = (merged(&job.retained().1.concat()), merged(&decoded(&official)));
        compared += 1;
        if DIFFERENT.contains(&(case, text)) {
            assert_ne!(ours, official, "text {text} of case {case} is no exception any more");
        } else {
            assert_eq!(ours, official, "text {text} of case {case}");
        }
    }
    assert_eq!(compared, 994);
}
