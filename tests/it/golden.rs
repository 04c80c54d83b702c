//! Stored forms, of every version ever released: they load, and go on as they should. Files in `tests/golden` are never
//! changed; a new format gets new ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gitlab_runner_api::log::Section;
use gitlab_runner_api::{
    Assignment, FailureReason, Job, JobEvent, JobRecord, JobResult, JobSnapshot, Machine, Output, Secret, Stream,
};

use crate::common::{Hand, START, assignment, config};

/// Each phase of a job, as this version stores it, and the first thing a job resumed from it does.
fn phases() -> Vec<(&'static str, JobSnapshot, &'static str)> {
    let mut all = Vec::new();
    let fresh = Job::new(Arc::new(config()), &assignment(), START);
    all.push(("fresh", fresh.snapshot(), "running"));

    let mut running = Hand::accepted(config());
    running.machine.write("abcdef");
    running.sends("patch 0+6");
    all.push(("patch-on-the-wire", running.machine.snapshot(), "probe 6"));
    running.answer(202, &[("job-status", "canceling"), ("x-gitlab-trace-update-interval", "60")], "");
    running.machine.write("gh");
    running.waits();
    all.push(("canceling", running.machine.snapshot(), "probe 8"));
    running.machine.finish(JobResult::failed(FailureReason::ScriptFailure).with_exit_code(3));
    all.push(("finishing", running.machine.snapshot(), "probe 8"));
    running.sends("patch 6+2");
    running.answer(202, &[], "");
    running.sends("report failed");
    all.push(("report-on-the-wire", running.machine.snapshot(), "report failed"));
    running.answer(202, &[("x-gitlab-trace-update-interval", "4")], "");
    running.waits();
    all.push(("archiving", running.machine.snapshot(), "report failed"));
    running.call();
    running.answer(200, &[("job-status", "canceled")], "");
    assert!(running.is_done());
    all.push(("finished", running.machine.snapshot(), "Finished(Canceled)"));

    let mut aborted = Hand::accepted(config());
    aborted.machine.write("abc");
    aborted.sends("patch 0+3");
    aborted.answer(403, &[("job-status", "canceled")], "");
    assert!(aborted.is_done());
    all.push(("aborted", aborted.machine.snapshot(), "Aborted(Canceled)"));

    let mut shifted = Hand::accepted(config());
    shifted.machine.write("abc");
    shifted.sends("patch 0+3");
    shifted.answer(416, &[("range", "0-10")], "");
    shifted.sends("patch 10+3");
    all.push(("shifted", shifted.machine.snapshot(), "probe 13"));

    let mut printing = Hand::accepted(config());
    printing.machine.mask(&Secret::new("correct horse battery"));
    printing.machine.open_section(&Section::new("step_script"), START);
    printing.machine.write_to(Stream::Stdout, "the password is correct horse ");
    printing.machine.write_to(Stream::Stderr, &b"?private_token=\xe2\x80"[..]);
    printing.machine.write_to(Stream::Service(3), &b"glrt-1 gl\xc3"[..]);
    all.push(("held-back", printing.machine.snapshot(), "probe 55"));
    all
}

/// The format this version writes.
const CURRENT: u32 = 2;

fn file(format: u32, name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/job-{format}-{name}.json"))
}

/// What the file says. With `UPDATE_GOLDEN` in the environment it is written first: look at what has changed before you commit it.
fn golden(path: &Path, now: &str) -> String {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, format!("{now}\n")).unwrap();
    }
    fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn this_version_stores_what_the_files_say() {
    for (name, snapshot, _) in phases() {
        let json = snapshot.to_json();
        let golden = golden(&file(CURRENT, name), &json);
        assert_eq!(golden.trim_end(), json, "{name}: if this is a new format, give it a new number and new files");
    }
}

#[test]
fn what_was_stored_goes_on_as_it_should() {
    let phases = (1..=CURRENT).flat_map(|format| phases().into_iter().map(move |phase| (format, phase)));
    for (format, (name, _, first)) in phases {
        let Ok(golden) = fs::read_to_string(file(format, name)) else {
            assert_eq!((format, name), (1, "held-back"), "a stored form is missing");
            continue;
        };
        let snapshot = JobSnapshot::from_json(&golden).unwrap();
        let resume = || Job::resume(Arc::new(config()), &assignment(), snapshot.clone(), START).unwrap();
        let does = match resume().poll(START) {
            Output::Event(event @ (JobEvent::Finished(_) | JobEvent::Aborted(_))) => format!("{event:?}"),
            _ => Hand::new(resume()).call().name(),
        };
        assert_eq!(does, first, "{name}, format {format}");
    }
}

/// A job of the simulated GitLab's, with a patch on the wire: the adapters' golden files are made from it.
fn record() -> JobRecord {
    let payload = r#"{"id":4294967297,"token":"glcbt-64_VuKhiFqSJRprqOoAVvrG","runner_info":{"timeout":3000000000},"variables":[{"key":"KEY","value":"größe ✓","masked":true}]}"#;
    let mut job = Hand::new(Job::new(Arc::new(config()), &Assignment::from_json(payload).unwrap(), START));
    job.sends("running");
    job.answer(200, &[], "200");
    job.machine.write_to(Stream::Stdout, "one, größe ✓\n");
    job.sends("patch 0+14");
    JobRecord::of(&mut job.machine)
}

#[test]
fn a_record_of_a_job_is_read_and_written_as_ever() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/job-record-1.json");
    let golden = golden(&path, &record().to_json());
    assert_eq!(golden.trim_end(), record().to_json(), "if this is a new format, give it a new number and a new file");
    let read = JobRecord::from_json(&golden).unwrap();
    assert_eq!((read.server(), read.log().1.as_ref()), (config().server(), &b"one, [MASKED]\n"[..]));
    let job = Job::resume(Arc::new(config()), read.assignment(), read.snapshot().clone(), START).unwrap();
    assert_eq!(Hand::new(job).call().name(), "probe 14");
}
