//! Jobs of the Python package `gitlab_runner_api`, from files it wrote itself; and the table for people who come from it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use gitlab_runner_api::{FailureReason, Job, JobEvent, JobRecord, JobResult, Outcome, ResumeError};
use gitlab_runner_api_testkit::{Coordinator, JobStatus, NewJob, Settings};
use http::{Method, Request};
use serde_json::{Value, json};

use crate::common::{Hand, SECOND, START, config, gitlab, take_job};

/// The jobs of `tests/python`, in the order they were made: the simulated GitLab gives them the same ids and tokens again.
const JOBS: [&str; 5] = ["running", "non-ascii", "success", "failed", "unsent"];

fn file(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(name)).expect(name)
}

fn text(job: &str) -> String {
    String::from_utf8(file(&format!("job-{job}.json"))).unwrap()
}

/// The log as the Python package remembers it.
fn remembered(text: &str) -> String {
    serde_json::from_str::<Value>(text).unwrap()[4].as_str().unwrap().to_owned()
}

fn send(gitlab: &mut Coordinator, method: Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> u16 {
    let request = Request::builder().method(method).uri(format!("https://gitlab.example.test/api/v4/jobs/{path}"));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    gitlab.respond(START, request.body(body.into()).unwrap()).status().as_u16()
}

/// GitLab as the package left it.
fn left_behind() -> Coordinator {
    let mut gitlab = gitlab(Settings::default());
    for name in JOBS {
        let id = take_job(&mut gitlab, &config(), START, NewJob::new("long")).id();
        let token = gitlab.job(id).unwrap().token().to_owned();
        let log = file(&format!("job-{name}.trace"));
        let headers = [("content-range", "0-"), ("job-token", &token)];
        assert_eq!(send(&mut gitlab, Method::PATCH, &format!("{id}/trace"), &headers, log), 202);
        let ended = match name {
            "success" => json!({ "token": token, "state": "success" }),
            "failed" => json!({ "token": token, "state": "failed", "failure_reason": "script_failure" }),
            _ => continue,
        };
        let headers = [("content-type", "application/json")];
        assert_eq!(send(&mut gitlab, Method::PUT, &id.to_string(), &headers, ended.to_string().into()), 200);
    }
    gitlab
}

fn take_up(record: &JobRecord) -> Hand<Job> {
    let resumed = Job::resume(Arc::new(config()), record.assignment(), record.snapshot().clone(), START);
    Hand::new(resumed.unwrap())
}

/// Until nothing is to be done for a while, with the log answering what the job asks of it.
fn run(hand: &mut Hand<Job>, gitlab: &mut Coordinator, record: &JobRecord) {
    loop {
        hand.run(gitlab, 20 * SECOND);
        let needed = hand.events.iter().position(|event| matches!(event, JobEvent::TraceNeeded(_)));
        let Some(JobEvent::TraceNeeded(range)) = needed.map(|at| hand.events.swap_remove(at)) else { return };
        let log = record.log().1.slice(range.start as usize..range.end as usize);
        hand.machine.supply_trace(range.start, log).unwrap();
    }
}

#[test]
fn a_job_the_package_left_running_gets_all_of_its_log_and_ends() {
    for name in ["running", "non-ascii", "unsent"] {
        let mut gitlab = left_behind();
        let text = text(name);
        let record = JobRecord::from_python(&text).unwrap();
        let mut hand = take_up(&record);
        hand.machine.write("and on it goes: 5 µm\n");
        hand.machine.finish(JobResult::failed(FailureReason::ScriptFailure).with_exit_code(3));
        run(&mut hand, &mut gitlab, &record);
        assert!(hand.is_done(), "{name}");

        let job = gitlab.job(record.assignment().id()).unwrap();
        let log = String::from_utf8(job.trace().to_vec()).unwrap();
        assert_eq!(log, remembered(&text) + "and on it goes: 5 µm\n", "{name}");
        assert_eq!((job.status(), job.exit_code()), (JobStatus::Failed, Some(3)), "{name}");
        assert_eq!(job.reported_bytesize(), Some(log.len() as u64), "{name}");
    }
}

#[test]
fn a_job_the_package_had_ended_is_confirmed_and_stays_as_it_is() {
    for (name, status, reason) in
        [("success", JobStatus::Success, None), ("failed", JobStatus::Failed, Some("script_failure"))]
    {
        let mut gitlab = left_behind();
        let record = JobRecord::from_python(&text(name)).unwrap();
        let mut hand = take_up(&record);
        run(&mut hand, &mut gitlab, &record);
        assert!(hand.is_done(), "{name}");
        let job = gitlab.job(record.assignment().id()).unwrap();
        assert_eq!((job.status(), job.failure_reason()), (status, reason));
        assert_eq!(job.trace(), file(&format!("job-{name}.trace")), "{name}");
        let ended = if name == "success" { Outcome::Success } else { Outcome::Failed };
        assert_eq!(hand.events, [JobEvent::Finished(ended)]);
    }
}

/// The text is refused, with these words, and shows nothing of what is in it.
#[track_caller]
fn refused(text: &str, words: &str) -> ResumeError {
    let error = JobRecord::from_python(text).unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(shown.contains(words), "no {words:?} in: {shown}");
    for secret in ["glcbt", "glrtr", "fake-masked", "long"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    error
}

#[test]
fn what_is_no_job_of_the_package_is_refused_in_words() {
    let good = text("running");
    for cut in (0..good.len()).filter(|&at| good.is_char_boundary(at)) {
        refused(&good[..cut], "damaged");
    }
    let changed = |at: usize, value: Value| {
        let mut members: Value = serde_json::from_str(&good).unwrap();
        members[at] = value;
        members.to_string()
    };
    refused(&String::from_utf8(file("runner.json")).unwrap(), "no job of the Python package");
    refused(&JobRecord::from_python(&good).unwrap().to_json(), "no job of the Python package");
    let newer = refused(&changed(0, json!(2)), "format 2");
    assert!(matches!(newer, ResumeError::Newer { found: 2, known: 1, .. }));
    refused(&changed(0, json!("1")), "version");
    refused(&changed(1, json!("[1, \"nowhere\", 2, \"glrtr-x\", {}]")), "its address");
    refused(&changed(1, json!("[1, \"http://gitlab.test\", 2")), "no job of the Python package");
    refused(&changed(2, json!({ "id": "glcbt-long" })), "its payload");
    refused(&changed(3, json!("glcbt")), "its state");
    refused(&changed(4, json!(5)), "no job of the Python package");
}

#[test]
fn every_row_of_the_inventory_has_a_test() {
    let table = include_str!("../../src/manual/coming_from_python.md");
    let rows: Vec<&str> =
        table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Python")).collect();
    assert!(rows.len() >= 34, "{} rows", rows.len());
    for row in rows {
        let shown_by = row.rsplit('|').nth(1).unwrap();
        let mut quoted = shown_by.split('`').skip(1).step_by(2);
        let (file, test) = (quoted.next().unwrap(), quoted.next().unwrap());
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect(file);
        let (before, _) = text.split_once(&format!("fn {test}(")).unwrap_or_else(|| panic!("no {test} in {file}"));
        let attributes = before.rsplit("\n\n").next().unwrap();
        assert!(attributes.contains("#[test]"), "{test} in {file} is no test");
    }
}

#[test]
fn a_job_of_an_old_server_is_taken_over() {
    let mut parts: Vec<Value> = serde_json::from_str(&text("running")).unwrap();
    parts[2]["cache"] = json!([null]);
    parts[2]["job_info"]["time_in_queue_seconds"] = json!(-1);
    parts[4] = "\u{e000} line\n".into();
    // As Python writes a byte that is no UTF-8.
    let text = Value::from(parts).to_string().replace('\u{e000}', "\\udcff");
    let record = JobRecord::from_python(&text).unwrap();
    assert!(record.assignment().losses().is_empty());
    assert_eq!(record.log().1, "\u{fffd} line\n");
}
