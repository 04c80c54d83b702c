//! Files of every format ever released: they are read, and go on as they should. Files in `tests/golden` are never changed; a
//! new format gets new ones.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use gitlab_runner_api_testkit::{Coordinator, JobStatus, NewJob, Server, Settings, TimeLimit};
use gitlab_runner_api_ureq::{Error, Job, JobRecord, Runner};
use tempfile::TempDir;

/// The job of the golden files has the id and the token of this simulated GitLab's first, and its address is this:
const ADDRESS: &str = "https://gitlab.example.test";
const TOKEN: &str = "glrt-canary";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A copy of the golden record, as if it were of the GitLab at this address.
fn record_of(url: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["assignment.json", "snapshot.json", "log", "lease"] {
        let text = text(&golden("record-1").join(name)).replace(ADDRESS, url);
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

#[test]
fn this_version_writes_what_the_files_say() {
    let folder = tempfile::tempdir().unwrap();
    let stored = include_str!("../../../tests/golden/job-record-1.json");
    let record = folder.path().join("record");
    Job::store(&JobRecord::from_json(stored).unwrap(), &record).unwrap();
    for name in ["assignment.json", "snapshot.json", "log"] {
        // Look at what has changed before you commit it.
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::copy(record.join(name), golden("record-1").join(name)).unwrap();
        }
        assert_eq!(text(&record.join(name)), text(&golden("record-1").join(name)), "{name}");
    }
    let runner = folder.path().join("runner.json");
    Runner::load(golden("runner-1.json")).unwrap().save(&runner).unwrap();
    assert_eq!(text(&runner), text(&golden("runner-1.json")));
    let as_text = Runner::from_json(&text(&runner)).unwrap().to_json();
    assert_eq!(as_text.as_str(), text(&runner).trim_end());
    let newer = as_text.replace("\"format\": 1", "\"format\": 2");
    assert!(
        matches!(Runner::from_json(&newer), Err(Error::BadText(problem)) if problem.contains("use a newer version"))
    );
}

#[test]
fn a_record_goes_on_and_says_how_it_ended() {
    let mut gitlab = Coordinator::new(Settings::default());
    gitlab.add_runner(TOKEN);
    let gitlab = Server::start(gitlab).unwrap().with_time_limit(TimeLimit::TEST);
    let id = gitlab.with(|gitlab, now| {
        let id = gitlab.queue(now, NewJob::new("long"));
        let body = format!(r#"{{"token":"{TOKEN}","system_id":"s_1"}}"#);
        let request = http::Request::post("http://gitlab.test/api/v4/jobs/request");
        let request = request.header("content-type", "application/json").body(body.into()).unwrap();
        assert_eq!(gitlab.respond(now, request).status(), 201);
        id
    });
    let folder = record_of(&gitlab.url());
    let mut job = Job::load(folder.path()).unwrap();
    job.log().write_all("two, größe ✓\n".as_bytes()).unwrap();
    job.success().unwrap();
    gitlab.with(|gitlab, _| {
        let job = gitlab.job(id).unwrap();
        assert_eq!(job.status(), JobStatus::Success);
        assert_eq!(String::from_utf8_lossy(job.trace()), "one, [MASKED]\ntwo, [MASKED]\n");
    });
    drop(job);
    assert_eq!(text(&folder.path().join("ended.json")), text(&golden("ended-1.json")));
    let ended = Job::load(folder.path()).unwrap_err().to_string();
    assert!(ended.contains("job 4294967297 has ended: success"), "{ended}");
}

#[test]
fn a_lease_tells_who_holds_it() {
    let folder = record_of("http://127.0.0.1:1");
    // Its holder was last heard of in 2026.
    let lease = folder.path().join("lease");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let lives = text(&lease).replace("1790000000", &now.to_string());
    assert_ne!(lives, text(&lease));
    fs::write(&lease, lives).unwrap();
    let Err(Error::Held { by, .. }) = Job::load(folder.path()) else { panic!("it is held") };
    assert!(by.contains("process 4711 on \"node-7\""), "{by}");
    fs::copy(golden("record-1").join("lease"), &lease).unwrap();
    Job::load(folder.path()).unwrap().leave().unwrap();
}
