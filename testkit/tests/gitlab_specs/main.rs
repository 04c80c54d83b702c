//! What GitLab's own tests assert about the runner API, run against the simulated GitLab.
//!
//! The vectors are the files `../gitlab-specs/*.jsonl`, and our own in `../gitlab-specs/ours`. `../gitlab-specs/README.md`
//! explains their members.
//! `../gitlab-specs/left-out.txt` lists the vectors that do not pass, with a reason for each. A test fails if a vector
//! outside this list fails, and also if a vector in the list passes, so the list stays correct.
//!
//! The vectors run twice: against a `Coordinator`, and against the program `simulated-gitlab` over its socket, where the
//! control API brings about the state.

mod encode;
mod expect;
mod gitlab;
mod in_process;
mod lab;
mod program;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use gitlab::Gitlab;
use gitlab_runner_api_testkit::TimeLimit;
use in_process::InProcess;
use lab::Lab;
use program::Program;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gitlab-specs")
}

/// All vectors in a folder, in the order of their files.
fn vectors(folder: &Path) -> Vec<Value> {
    let entries = fs::read_dir(folder).expect("the vectors are there");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    let texts: Vec<String> = files.iter().map(|file| fs::read_to_string(file).expect("text")).collect();
    texts.iter().flat_map(|text| text.lines()).map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The vectors that are left out, by ID, with the reason.
fn left_out() -> BTreeMap<String, String> {
    let text = fs::read_to_string(folder().join("left-out.txt")).expect("the list is there");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let entry = |line: &str| {
        let (id, reason) = line.split_once(": ").expect("an entry is `ID: reason`");
        (id.to_owned(), reason.to_owned())
    };
    let entries: Vec<(String, String)> = lines.map(entry).collect();
    let count = entries.len();
    let list: BTreeMap<String, String> = entries.into_iter().collect();
    assert_eq!(list.len(), count, "an ID is listed twice");
    list
}

/// Runs all vectors, those of GitLab's specs and our own, each against a GitLab of its own. Those in the list must fail, all
/// others must pass.
fn run<G: Gitlab>(start: impl Fn() -> Result<G, String>) {
    let mut left_out = left_out();
    let mut wrong = Vec::new();
    for (whose, folder) in [("of GitLab's specs", folder()), ("of our own", folder().join("ours"))] {
        run_folder(whose, &folder, &start, &mut left_out, &mut wrong);
    }
    wrong.extend(left_out.keys().map(|id| format!("{id} is listed as left out, but no file contains it")));
    assert!(wrong.is_empty(), "{} vectors:\n{}", wrong.len(), wrong.join("\n"));
}

fn run_folder<G: Gitlab>(
    whose: &str,
    folder: &Path,
    start: &impl Fn() -> Result<G, String>,
    left_out: &mut BTreeMap<String, String>,
    wrong: &mut Vec<String>,
) {
    let vectors = vectors(folder);
    let mut passed = 0;
    for vector in &vectors {
        let id = vector["id"].as_str().expect("an ID");
        let outcome = start().and_then(|gitlab| Lab::new(gitlab).run(vector));
        match (outcome, left_out.remove(id)) {
            (Ok(()), None) => passed += 1,
            (Err(_), Some(_)) => {}
            (Ok(()), Some(_)) => wrong.push(format!("{id} passes, but it is listed as left out")),
            (Err(why), None) => wrong.push(format!("{id} ({}): {why}", vector["ref"].as_str().unwrap_or_default())),
        }
    }
    println!("{passed} of {} vectors {whose} pass", vectors.len());
}

#[test]
fn the_simulated_gitlab_does_what_gitlab_does() {
    run(|| Ok(InProcess::new()));
}

#[test]
fn the_program_does_it_over_its_socket() {
    let _limit = TimeLimit::start(TimeLimit::TEST * 4);
    run(Program::start);
}
