//! Jobs that outlive what runs them, against the simulated GitLab behind a loopback socket.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use gitlab_runner_api_testkit::{Coordinator, JobStatus, NewJob, Server, Settings};
use gitlab_runner_api_ureq::{Error, Job, Registration, Runner, Secret, State, Stop, Stream};

const TOKEN: &str = "glrt-canary";
const QUICK: Duration = Duration::from_millis(30);

fn server() -> Server {
    let mut gitlab = Coordinator::new(Settings::default().with(|settings| settings.trace_interval = Some(1)));
    gitlab.add_runner(TOKEN);
    Server::start(gitlab).unwrap()
}

fn runner(server: &Server) -> Runner {
    let runner = Runner::register(&server.url(), TOKEN, Registration::new()).unwrap().with_log_header(false);
    runner.configure(|config| config.with_check_interval(QUICK).with_update_interval(QUICK).with_keep_alive(QUICK))
}

fn queue(server: &Server) -> u64 {
    server.with(|gitlab, now| gitlab.queue(now, NewJob::new("long").masked_variable("KEY", "canary-variable")))
}

fn held(server: &Server, job: u64) -> (JobStatus, String) {
    server.with(|gitlab, _| {
        let job = gitlab.job(job).unwrap();
        (job.status(), String::from_utf8_lossy(job.trace()).into_owned())
    })
}

fn print(job: &Job, text: &str) {
    write!(job.log(), "{text}").unwrap();
}

/// Waits until GitLab has so much of the log.
fn arrived(server: &Server, id: u64, text: &str) {
    for _ in 0..2000 {
        if held(server, id).1 == text {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("GitLab holds {:?}, not {text:?}", held(server, id).1);
}

#[test]
fn a_job_goes_from_record_to_record_and_from_text_to_text() {
    let (server, folder) = (server(), tempfile::tempdir().unwrap());
    let mut runner = runner(&server);
    let id = queue(&server);
    let job = runner.request_job().unwrap().unwrap();
    job.mask(&Secret::new("canary-fetched"));
    print(&job, "one\n");
    arrived(&server, id, "one\n");
    print(&job, "two and canary-fet");
    let first = folder.path().join("first");
    job.leave_in(&first).unwrap();

    // Nothing is needed but the folder.
    let job = Job::load(&first).unwrap();
    assert_eq!((job.id(), job.state(), job.taken(Stream::Runner)), (id, State::Running, 22));
    assert!(matches!(Job::load(&first), Err(Error::BadFile { problem, .. }) if problem.contains("is held by process")));
    print(&job, "ched\n");
    arrived(&server, id, "one\ntwo and [MASKED]\n");
    assert_eq!(String::from_utf8(job.log_content()).unwrap(), "one\ntwo and [MASKED]\n");
    job.leave().unwrap();

    let text = runner.load_job(&first).unwrap().into_text().unwrap();
    assert!(matches!(Job::load(&first), Err(Error::BadFile { problem, .. }) if problem.contains("handed on")));
    let job = runner.job_from_text(&text).unwrap();
    print(&job, "three\n");
    let (second, third) = (folder.path().join("second"), folder.path().join("third"));
    job.leave_in(&second).unwrap();
    let job = Job::load(&second).unwrap();
    job.leave_in(&third).unwrap();
    assert!(!second.join("assignment.json").exists());
    let mut job = Job::load(&third).unwrap();
    print(&job, "four canary-fetched canary-variable\n");
    job.success().unwrap();
    assert_eq!(
        held(&server, id),
        (JobStatus::Success, "one\ntwo and [MASKED]\nthree\nfour [MASKED] [MASKED]\n".into())
    );
    let ended = Job::load(&third).unwrap_err().to_string();
    assert!(ended.contains("has ended: success"), "{ended}");
    assert!(!third.join("assignment.json").exists(), "its token stays behind");
    for scanned in ["snapshot.json", "log", "ended.json"] {
        assert!(!fs::read_to_string(third.join(scanned)).unwrap().contains("canary"), "{scanned}");
    }
}

/// Lines of equal and of unequal length: three processes, one after the other, each going on where the text was made.
#[test]
fn one_text_taken_up_three_times_loses_and_doubles_nothing() {
    for lines in [["aa\n", "bb\n", "cc\n"], ["a\n", "bbbb\n", "cc\n"]] {
        let server = server();
        let mut runner = runner(&server);
        let id = queue(&server);
        let job = runner.request_job().unwrap().unwrap();
        print(&job, "start\n");
        arrived(&server, id, "start\n");
        let text = job.into_text().unwrap();
        let mut whole = "start\n".to_owned();
        for line in lines {
            let job = runner.job_from_text(&text).unwrap();
            print(&job, line);
            whole.push_str(line);
            arrived(&server, id, &whole);
            // What becomes of this one is not told to the next.
            _ = job.into_text().unwrap();
        }
        runner.job_from_text(&text).unwrap().success().unwrap();
        assert_eq!(held(&server, id), (JobStatus::Success, whole));
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Whatever a file is cut to, there is an error that names it, or the job as it was.
#[test]
fn a_record_that_is_cut_anywhere_is_refused_and_stays_as_it_is() {
    let (server, folder) = (server(), tempfile::tempdir().unwrap());
    let mut runner = runner(&server);
    let id = queue(&server);
    let job = runner.request_job().unwrap().unwrap();
    print(&job, "one\n");
    arrived(&server, id, "one\n");
    let good = folder.path().join("good");
    job.leave_in(&good).unwrap();
    for name in ["assignment.json", "snapshot.json", "log"] {
        let text = fs::read(good.join(name)).unwrap();
        // The line end is not part of what is said.
        let said = text.strip_suffix(b"\n").filter(|_| name != "log").unwrap_or(&text).len();
        for length in (0..said).step_by(if text.len() > 1000 { 37 } else { 1 }) {
            let bad: PathBuf = folder.path().join("bad");
            copy(&good, &bad);
            fs::write(bad.join(name), &text[..length]).unwrap();
            let Err(Error::BadFile { path, .. }) = runner.load_job(&bad) else { panic!("{name} cut to {length}") };
            assert_eq!(path, bad.join(name));
            assert_eq!(fs::read(bad.join(name)).unwrap(), text[..length], "{name} was changed");
            fs::remove_dir_all(&bad).unwrap();
        }
        assert!(!String::from_utf8_lossy(&text).is_empty());
    }
    // Bytes of the log that were written after the state was are of no consequence.
    fs::OpenOptions::new().append(true).open(good.join("log")).unwrap().write_all(b"never sent\n").unwrap();
    let mut job = runner.load_job(&good).unwrap();
    job.success().unwrap();
    assert_eq!(held(&server, id), (JobStatus::Success, "one\n".into()));
    assert!(matches!(Job::load(folder.path()), Err(Error::BadFile { problem, .. }) if problem.contains("no record")));
}

#[cfg(unix)]
#[test]
fn a_record_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (server, folder) = (server(), tempfile::tempdir().unwrap());
    queue(&server);
    let record = folder.path().join("record");
    runner(&server).request_job().unwrap().unwrap().leave_in(&record).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&record), 0o700);
    let files = fs::read_dir(&record).unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(files.map(|path| mode(&path)).collect::<Vec<_>>(), [0o600; 4]);
}

#[test]
fn a_state_directory_holds_what_runs_and_says_how_it_ended() {
    let (server, folder) = (server(), tempfile::tempdir().unwrap());
    let state = folder.path().join("state");
    let mut runner = runner(&server).with_state_dir(&state);
    let ids = [queue(&server), queue(&server), queue(&server)];
    let stop = Stop::new();
    let handler = |mut job: Job| {
        let record = state.join(job.id().to_string());
        assert!(record.join("assignment.json").exists(), "the handler has a job that has no record");
        print(&job, "working\n");
        match ids.iter().position(|id| *id == job.id()) {
            Some(0) => _ = job.success(),
            // The process that runs this is about to be replaced.
            Some(1) => job.leave().unwrap(),
            _ => {
                job.leave().unwrap();
                stop.drain();
            }
        }
    };
    runner.run(1, handler, &stop).unwrap();
    assert_eq!(held(&server, ids[0]).0, JobStatus::Success);
    assert!(!state.join(ids[0].to_string()).exists());
    server.with(|gitlab, now| gitlab.cancel(now, ids[2]));

    let mut recovered = runner.recover().unwrap();
    assert_eq!((recovered.jobs.len(), recovered.left.len()), (2, 0));
    // Its record is held now.
    let again = runner.recover().unwrap();
    assert_eq!((again.jobs.len(), again.left.len()), (0, 2), "{again:?}");
    let (unwanted, mut wanted) = (recovered.jobs.pop().unwrap(), recovered.jobs.pop().unwrap());
    print(&wanted, "went on\n");
    wanted.success().unwrap();
    assert_eq!(held(&server, ids[1]), (JobStatus::Success, "working\nwent on\n".into()));
    assert!(matches!(unwanted.wait_delivered(), Err(Error::Aborted(_))));
    drop(unwanted);
    let told = fs::read_to_string(state.join("ended.log")).unwrap();
    assert_eq!(told.lines().count(), 3, "{told}");
    assert!(told.contains(&format!("job {}: ", ids[2])) && !told.contains("canary"), "{told}");
    assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "only what says how they ended");
}

#[test]
fn a_job_that_cannot_have_a_record_is_not_run() {
    let (server, folder) = (server(), tempfile::tempdir().unwrap());
    let blocked = folder.path().join("file");
    fs::write(&blocked, "").unwrap();
    let id = queue(&server);
    let error = runner(&server).with_state_dir(&blocked).request_job().unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error}");
    for _ in 0..1000 {
        if held(&server, id).0 == JobStatus::Failed {
            assert!(held(&server, id).1.contains("cannot keep a record"));
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("the job is left to GitLab's timeouts");
}
