//! Stored forms: what this version stores is what the files in `tests/golden` say, and it goes on as it should.
//!
//! Nothing was released yet, so that there is one format of each. It changes in place, together with its files. From the first release
//! on, files are never changed, and a new format gets new ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gitlab_runner_api::log::{LogLimit, LogOptions, Section};
use gitlab_runner_api::{
    Assignment, FailureReason, Job, JobEvent, JobRecord, JobResult, JobSnapshot, Machine, Output, Retain, Secret,
    Stream,
};

use crate::common::{Hand, Rest, SECOND, START, assignment, config};

/// Each phase of a job, as this version stores it, and the first thing a job resumed from it does.
fn phases() -> Vec<(&'static str, JobSnapshot, &'static str)> {
    let mut all = Vec::new();
    let mut fresh = Job::new(Arc::new(config()), &assignment(), START);
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
    printing.machine.write_to(Stream::Service(4), "gl");
    all.push(("held-back", printing.machine.snapshot(), "probe 57"));
    all.extend(rare_phases());
    all
}

/// What a job is seldom saved in.
fn rare_phases() -> Vec<(&'static str, JobSnapshot, &'static str)> {
    let mut all = Vec::new();
    let mut accepted = Hand::new(Job::new(Arc::new(config()), &assignment(), START));
    accepted.sends("running");
    accepted.answer(200, &[], "200");
    all.push(("accepted", accepted.machine.snapshot(), "probe 0"));

    let mut probing = Hand::accepted(config());
    probing.machine.write("abc");
    probing.sends("patch 0+3");
    probing.answer(202, &[], "");
    probing.machine.finish(JobResult::success());
    all.push(("finishing-with-a-probe", probing.machine.snapshot(), "probe 3"));
    probing.sends("probe 3");
    probing.answer(202, &[], "");
    probing.sends("report success");
    probing.answer(412, &[], "");
    all.push(("rewinding", probing.machine.snapshot(), "probe 3"));
    probing.call();
    probing.answer(202, &[], "");
    all.push(("rewound", probing.machine.snapshot(), "probe 3"));

    let mut interrupted = Hand::accepted(config());
    interrupted.machine.write("0123456789");
    interrupted.sends("patch 0+10");
    interrupted.answer(202, &[], "");
    interrupted.machine.write("abc");
    interrupted.call();
    interrupted.answer(416, &[("range", "0-15")], "");
    interrupted.call();
    interrupted.answer(202, &[], "");
    all.push(("shifted-from-an-offset-on", interrupted.machine.snapshot(), "probe 18"));

    let mut gone = Hand::accepted(config().with_retain(Retain::Unacknowledged));
    gone.machine.write("0123456789");
    gone.sends("patch 0+10");
    gone.answer(202, &[], "");
    gone.machine.write("abc");
    gone.call();
    gone.answer(416, &[("range", "0-2")], "");
    gone.waits();
    gone.machine.forfeit_trace().unwrap();
    all.push(("forfeited", gone.machine.snapshot(), "probe 13"));

    let mut refused = Hand::accepted(config());
    refused.machine.write("abc");
    refused.machine.finish(JobResult::success());
    while !refused.events.iter().any(|event| matches!(event, JobEvent::TraceRefused { .. })) {
        match refused.poll() {
            Rest::Sent(sent) if sent.name() == "running" => refused.answer(200, &[], "200"),
            Rest::Sent(_) => refused.answer(405, &[], ""),
            Rest::Waits(until) => refused.now = until.unwrap(),
            Rest::Done => panic!("it has a result"),
        }
    }
    all.push(("log-given-up", refused.machine.snapshot(), "report success"));

    let limit = LogOptions::default().with_limit(LogLimit::head_and_tail(400, 60));
    let mut long = Hand::accepted(config().with_log(limit));
    long.machine.write("0123456789".repeat(60));
    long.pass(SECOND);
    all.push(("beyond-its-limit", long.machine.snapshot(), "probe 266"));
    all
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/job-1-{name}.json"))
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
        assert_eq!(golden(&file(name), &json).trim_end(), json, "{name}");
    }
}

#[test]
fn what_was_stored_goes_on_as_it_should() {
    for (name, _, first) in phases() {
        let golden = fs::read_to_string(file(name)).expect(name);
        let snapshot = JobSnapshot::from_json(&golden).unwrap();
        let resume = || Job::resume(Arc::new(config()), &assignment(), snapshot.clone(), START).unwrap();
        let does = match resume().poll(START) {
            Output::Event(event @ (JobEvent::Finished(_) | JobEvent::Aborted(_))) => format!("{event:?}"),
            _ => Hand::new(resume()).call().name(),
        };
        assert_eq!(does, first, "{name}");
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
    JobRecord::of(&mut job.machine).unwrap()
}

#[test]
fn a_record_of_a_job_is_read_and_written_as_ever() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/job-record-1.json");
    let golden = golden(&path, &record().to_json());
    assert_eq!(golden.trim_end(), record().to_json());
    let read = JobRecord::from_json(&golden).unwrap();
    assert_eq!((read.server(), read.log().1.as_ref()), (config().server(), &b"one, [MASKED]\n"[..]));
    let job = Job::resume(Arc::new(config()), read.assignment(), read.snapshot().clone(), START).unwrap();
    assert_eq!(Hand::new(job).call().name(), "probe 14");
}

/// What a fuzz target goes on with after the text of a stored job.
fn scripts() -> impl Iterator<Item = Vec<u8>> {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    (0..3).map(move |number| {
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as u8
        };
        // Zero answers everything with 200 and nothing else.
        (0..200).map(|_| if number == 0 { 0 } else { next() }).collect()
    })
}

/// The corpora of two fuzz targets are made of the stored forms, so that fuzzing begins behind the envelope. `UPDATE_GOLDEN` makes
/// them anew.
#[test]
fn the_corpora_of_stored_jobs_get_past_the_envelope() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = fs::read_dir(root.join("tests/python")).unwrap().map(|entry| entry.unwrap().path());
    let python = python.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("job-"));
    let python = python.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let name = |path: &Path| path.file_stem().unwrap().to_string_lossy().replacen("job", "python", 1);
    let mut records: Vec<_> = python.map(|path| (name(&path), fs::read_to_string(&path).unwrap())).collect();
    records.push(("record".to_owned(), record().to_json()));
    let snapshots = phases().into_iter().map(|(name, snapshot, _)| (name.to_owned(), snapshot.to_json())).collect();
    let corpora: [(&str, Vec<(String, String)>); 2] = [("resume", snapshots), ("record", records)];
    for (target, texts) in corpora {
        let folder = root.join("fuzz/corpus").join(target);
        for (name, text) in texts {
            for (number, script) in scripts().enumerate() {
                let input = [text.as_bytes(), &[0], &script].concat();
                let path = folder.join(format!("{name}-{number}"));
                if std::env::var_os("UPDATE_GOLDEN").is_some() {
                    fs::write(&path, &input).unwrap();
                }
                assert!(fs::read(&path).unwrap_or_default() == input, "{} is not of this version", path.display());
                let read = match target {
                    "resume" => JobSnapshot::from_json(&text).is_ok(),
                    _ => JobRecord::from_json(&text).is_ok() || JobRecord::from_python(&text).is_ok(),
                };
                assert!(read, "{} gets no further than the envelope", path.display());
            }
        }
    }
}
