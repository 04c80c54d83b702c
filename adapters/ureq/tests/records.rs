//! Jobs that outlive what runs them, against the simulated GitLab behind a loopback socket.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use gitlab_runner_api_testkit::{Coordinator, Endpoint, JobStatus, NewJob, Server, Settings, TimeLimit};
use gitlab_runner_api_ureq::gitlab_runner_api::api::info::Info;
use gitlab_runner_api_ureq::gitlab_runner_api::{
    self, Assignment, Retain, RunnerConfig, Server as ServerUrl, Timestamp,
};
use gitlab_runner_api_ureq::{
    Error, HttpOptions, Job, JobRecord, LogLimit, LogOptions, Outcome, Proxies, ProxyUrl, Registration, Runner, Secret,
    State, Stop, Stream, Transport,
};

const TOKEN: &str = "glrt-canary";
const QUICK: Duration = Duration::from_millis(30);
/// No test waits for longer than this until GitLab has a result.
const PATIENCE: Duration = Duration::from_secs(60);

fn server() -> Server {
    let mut gitlab = Coordinator::new(Settings::default().with(|settings| settings.trace_interval = Some(1)));
    gitlab.add_runner(TOKEN);
    Server::start(gitlab).unwrap().with_time_limit(TimeLimit::TEST)
}

fn runner(server: &Server) -> Runner {
    let runner = Runner::register(&server.url(), TOKEN, Registration::new()).unwrap().with_log_header(false);
    runner
        .with_patience(PATIENCE)
        .configure(|config| config.with_check_interval(QUICK).with_update_interval(QUICK).with_keep_alive(QUICK))
}

fn queue(server: &Server) -> u64 {
    server.with(|gitlab, now| gitlab.queue(now, NewJob::new("long").with_masked_variable("KEY", "canary-variable")))
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

/// Waits until GitLab's store is as wanted.
fn until(server: &Server, what: &str, wanted: impl Fn(&Coordinator) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !server.with(|gitlab, _| wanted(gitlab)) {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until GitLab has this log.
fn arrived(server: &Server, id: u64, text: &str) {
    until(server, "GitLab has another log", |gitlab| gitlab.job(id).unwrap().trace() == text.as_bytes());
}

/// Saves a job and lets go of it, as a process that ends.
fn save(mut job: Job, path: &Path) {
    job.save(path).unwrap();
}

fn to_text(job: Job) -> String {
    job.into_record().unwrap().to_json()
}

fn from_text(runner: &Runner, text: &str) -> Job {
    runner.job_from_record(JobRecord::from_json(text).unwrap()).unwrap()
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
    save(job, &first);

    // Nothing is needed but the folder.
    let job = Job::load(&first).unwrap();
    assert_eq!((job.id(), job.state(), job.taken(Stream::Runner)), (id, State::Running, 22));
    assert!(matches!(Job::load(&first), Err(Error::Held { by, .. }) if by.contains("is held by process")));
    print(&job, "ched\n");
    arrived(&server, id, "one\ntwo and [MASKED]\n");
    assert_eq!(String::from_utf8(job.log_content().unwrap()).unwrap(), "one\ntwo and [MASKED]\n");
    job.leave().unwrap();

    let text = to_text(runner.load_job(&first).unwrap());
    assert!(matches!(Job::load(&first), Err(Error::BadFile { problem, .. }) if problem.contains("handed on")));
    let job = from_text(&runner, &text);
    print(&job, "three\n");
    let (second, third) = (folder.path().join("second"), folder.path().join("third"));
    save(job, &second);
    let mut job = Job::load(&second).unwrap();
    let refused = job.save(&third).unwrap_err().to_string();
    assert!(refused.contains("this job has its record in") && refused.contains("second"), "{refused}");
    job.leave().unwrap();
    fs::rename(&second, &third).unwrap();
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

/// Saving is no end: the job goes on, and whatever it sends is in the record.
#[test]
fn a_job_that_is_saved_goes_on_and_its_record_with_it() {
    let (server, folder) = (server(), tempfile::tempdir().unwrap());
    let mut runner = runner(&server);
    let ids = [queue(&server), queue(&server)];
    let [mut job, mut other] = [(); 2].map(|()| runner.request_job().unwrap().unwrap());
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    print(&job, "one\n");
    job.save(&first).unwrap();
    print(&job, "two\n");
    arrived(&server, ids[0], "one\ntwo\n");
    assert_eq!(fs::read_to_string(first.join("log")).unwrap(), "one\ntwo\n");
    // Again, and with words that are not due yet.
    print(&job, "three\n");
    job.save(&first).unwrap();
    assert_eq!(fs::read_to_string(first.join("log")).unwrap(), "one\ntwo\nthree\n");

    // No two jobs in one place, whether somebody holds what is there or not.
    let refused = other.save(&first).unwrap_err().to_string();
    assert!(refused.contains("a job has its record there already"), "{refused}");
    job.leave().unwrap();
    assert!(matches!(other.save(&first), Err(Error::BadFile { .. })));
    assert!(matches!(Job::store(&JobRecord::from_json(&to_text(other)).unwrap(), &first), Err(Error::BadFile { .. })));
    let mut job = runner.load_job(&first).unwrap();
    print(&job, "four\n");
    job.success().unwrap();
    assert_eq!(held(&server, ids[0]), (JobStatus::Success, "one\ntwo\nthree\nfour\n".into()));
    assert!(matches!(job.save(&second), Err(Error::AlreadyFinished)));
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
        let text = to_text(job);
        let mut whole = "start\n".to_owned();
        for line in lines {
            let job = from_text(&runner, &text);
            print(&job, line);
            whole.push_str(line);
            arrived(&server, id, &whole);
            // What becomes of this one is not told to the next.
            drop(to_text(job));
        }
        from_text(&runner, &text).success().unwrap();
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
    let (good, bad) = (folder.path().join("good"), folder.path().join("bad"));
    save(job, &good);
    copy(&good, &bad);
    let refused = |path: &Path, text: &[u8], how: &str| {
        fs::write(path, text).unwrap();
        let Err(Error::BadFile { path: named, problem, .. }) = runner.load_job(&bad) else { panic!("{path:?} {how}") };
        assert_eq!(named, path, "{problem}");
        assert!(!problem.contains("canary") && !problem.contains("glcbt"), "{problem}");
        assert_eq!(fs::read(path).unwrap(), text, "it was changed: {path:?} {how}");
    };
    for name in ["assignment.json", "snapshot.json", "log"] {
        let path = bad.join(name);
        let text = fs::read(&path).unwrap();
        // The line end is not part of what is said.
        let said = text.strip_suffix(b"\n").filter(|_| name != "log").unwrap_or(&text).len();
        (0..said).for_each(|length| refused(&path, &text[..length], &format!("cut to {length}")));
        if name != "log" {
            let newer = String::from_utf8(text.clone()).unwrap().replacen("\"format\":", "\"format\":9", 1);
            refused(&path, newer.as_bytes(), "of a newer version");
        }
        let mut damaged = text.clone();
        damaged[0] ^= 1;
        refused(&path, &damaged, "damaged");
        fs::write(&path, &text).unwrap();
    }
    runner.load_job(&bad).unwrap().leave().unwrap();
    fs::remove_file(bad.join("snapshot.json")).unwrap();
    assert!(matches!(runner.load_job(&bad), Err(Error::File { path, .. }) if path.ends_with("snapshot.json")));
    assert_eq!(fs::read_to_string(bad.join("log")).unwrap(), "one\n", "a log without its state was cut");
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
    let mut job = runner(&server).request_job().unwrap().unwrap();
    job.save(&record).unwrap();
    let mode = |path: &Path| fs::metadata(path).map(|found| found.permissions().mode() & 0o777);
    assert_eq!(mode(&record).unwrap(), 0o700);
    let names = ["assignment.json", "lease", "log", "snapshot.json"];
    for name in names {
        assert_eq!(mode(&record.join(name)).unwrap(), 0o600, "{name}");
    }
    // The job may be saving just now: a file that is about to take the place of one of these has a name of its own until
    // then. It may be gone before it is looked at.
    for entry in fs::read_dir(&record).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(names.contains(&name) || name.starts_with(".runner-"), "{name}");
        match mode(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !names.contains(&name) => {}
            mode => assert_eq!(mode.unwrap(), 0o600, "{name}"),
        }
    }
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
    arrived_status(&server, id, JobStatus::Failed);
    assert!(held(&server, id).1.contains("cannot keep a record"));
}

#[test]
fn jobs_taken_up_again_fill_room_and_those_left_behind_are_failed() {
    let (server, folder) = (server(), tempfile::tempdir().unwrap());
    let state = folder.path().join("state");
    let mut before = runner(&server).with_state_dir(&state);
    let old = [queue(&server), queue(&server)];
    for _ in old {
        let job = before.request_job().unwrap().unwrap();
        print(&job, "before\n");
        job.leave().unwrap();
    }
    drop(before);

    let mut runner = runner(&server).with_state_dir(&state);
    let mut recovered = runner.recover().unwrap();
    assert_eq!((recovered.jobs.len(), recovered.left.len()), (2, 0));
    // One of them is nobody's when the loop begins.
    recovered.jobs.pop().unwrap().leave().unwrap();
    let mut kept = recovered.jobs.pop().unwrap();
    let new = queue(&server);
    let (stop, taken) = (Stop::new(), std::sync::atomic::AtomicBool::new(false));
    let handler = |mut job: Job| {
        taken.store(true, std::sync::atomic::Ordering::SeqCst);
        job.success().unwrap();
        stop.drain();
    };
    thread::scope(|scope| {
        let running = scope.spawn(|| runner.run(1, handler, &stop));
        // The other one is failed, which takes no room; the one that is held takes all there is.
        arrived_status(&server, old[1], JobStatus::Failed);
        let waiting = server.with(|gitlab, _| gitlab.stats().requests(Endpoint::RequestJob));
        thread::sleep(10 * QUICK);
        let still = server.with(|gitlab, _| gitlab.stats().requests(Endpoint::RequestJob));
        assert_eq!((waiting, still, taken.load(std::sync::atomic::Ordering::SeqCst)), (2, 2, false));
        print(&kept, "after\n");
        kept.success().unwrap();
        running.join().unwrap().unwrap();
    });
    assert_eq!(held(&server, old[0]), (JobStatus::Success, "before\nafter\n".into()));
    assert!(held(&server, old[1]).1.contains("its runner was restarted"), "{:?}", held(&server, old[1]));
    assert_eq!(held(&server, new).0, JobStatus::Success);
}

fn arrived_status(server: &Server, id: u64, status: JobStatus) {
    until(server, "GitLab has another status", |gitlab| gitlab.job(id).unwrap().status() == status);
}

/// A record of a job as a process left it that died before it said anything to GitLab.
fn record_of_queued(server: &Server, id: u64) -> JobRecord {
    let token = server.with(|gitlab, _| gitlab.job(id).unwrap().token().to_owned());
    let assignment = Assignment::from_json(format!(r#"{{"id":{id},"token":"{token}"}}"#)).unwrap();
    let config = RunnerConfig::new(ServerUrl::parse(&server.url()).unwrap(), Info::new("old", "1"));
    let mut job = gitlab_runner_api::Job::new(config.into(), &assignment, Timestamp::EPOCH);
    job.write("never seen\n");
    JobRecord::of(&mut job).unwrap()
}

/// GitLab is away when a job ends, and the process is killed before it is back.
#[test]
fn a_result_is_in_the_record_before_anybody_waits_for_gitlab() {
    let (server, folder) = (server(), tempfile::tempdir().unwrap());
    let id = queue(&server);
    let (record, killed) = (folder.path().join("record"), folder.path().join("killed"));
    save(runner(&server).request_job().unwrap().unwrap(), &record);
    let nowhere = Proxies::all(ProxyUrl::parse("http://127.0.0.1:1").unwrap());
    let nowhere = Transport::with_options(&HttpOptions::new().with_proxies(nowhere)).unwrap();
    let mut job = runner(&server).with_transport(nowhere).load_job(&record).unwrap();
    print(&job, "one\n");
    job.set_patience(Duration::ZERO);
    assert!(matches!(job.success(), Err(Error::Patience)));
    copy(&record, &killed);
    fs::remove_file(killed.join("lease")).unwrap();
    assert_eq!(runner(&server).load_job(&killed).unwrap().wait_delivered().unwrap(), Outcome::Success);
    assert_eq!(held(&server, id), (JobStatus::Success, "one\n".into()));
}

#[test]
fn what_has_ended_is_not_saved_again() {
    let (server, folder) = (server(), tempfile::tempdir().unwrap());
    queue(&server);
    let mut job = runner(&server).request_job().unwrap().unwrap();
    job.save(folder.path()).unwrap();
    job.success().unwrap();
    job.mask(&Secret::new("canary-fetched"));
    assert!(matches!(job.save(folder.path()), Err(Error::AlreadyFinished)));
    assert!(!folder.path().join("assignment.json").exists(), "its token is back");
}

/// What a process left that was killed while it made a record is no obstacle to the next.
#[test]
fn a_record_that_was_only_begun_gives_way() {
    let (server, folder) = (server(), tempfile::tempdir().unwrap());
    let id = queue(&server);
    let (whole, begun) = (folder.path().join("whole"), folder.path().join("begun"));
    save(runner(&server).request_job().unwrap().unwrap(), &whole);
    copy(&whole, &begun);
    fs::rename(begun.join("assignment.json"), begun.join(".runner-x")).unwrap();
    let dead = r#"{"host":"node-7","boot_id":"b","pid":4711,"heard_of":1790000000}"#;
    fs::write(begun.join("lease"), dead).unwrap();
    let second = folder.path().join("second");
    copy(&begun, &second);
    // It may be on its way: nothing is touched until it is old.
    for (wait, left) in [(0, 4), (3601, 0)] {
        let then = std::time::SystemTime::now() - Duration::from_secs(wait);
        fs::File::open(&second).unwrap().set_modified(then).unwrap();
        assert!(matches!(Job::load(&second), Err(Error::BadFile { problem, .. }) if problem.contains("no record")));
        assert_eq!(fs::read_dir(&second).unwrap().count(), left, "its token stays behind");
    }
    let record = Job::load(&whole).unwrap().into_record().unwrap();
    Job::store(&record, &begun).unwrap();
    Job::load(&begun).unwrap().success().unwrap();
    assert_eq!(held(&server, id).0, JobStatus::Success);
}

/// Whoever comes has it, or is told who has.
#[test]
fn a_record_that_many_want_is_one_ones_at_a_time() {
    let (server, folder) = (server(), tempfile::tempdir().unwrap());
    queue(&server);
    save(runner(&server).request_job().unwrap().unwrap(), folder.path());
    let busy = std::sync::atomic::AtomicBool::new(false);
    let once = || match Job::load(folder.path()) {
        Ok(job) => {
            assert!(!busy.swap(true, std::sync::atomic::Ordering::SeqCst), "two have it");
            busy.store(false, std::sync::atomic::Ordering::SeqCst);
            job.leave().unwrap();
            true
        }
        Err(Error::Held { .. }) => false,
        Err(error) => panic!("{error}"),
    };
    // Those who have had it go, so that each has it in the end, however threads are scheduled.
    let five_times = || {
        for _ in 0..5 {
            while !once() {
                thread::yield_now();
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(five_times);
        }
    });
    Job::load(folder.path()).unwrap().success().unwrap();
}

/// The record cannot be closed: then the job is not given away as a value, and stays where it is.
#[test]
fn a_job_that_cannot_be_handed_on_stays_where_it_is() {
    let (server, folder) = (server(), tempfile::tempdir().unwrap());
    let id = queue(&server);
    let mut job = runner(&server).request_job().unwrap().unwrap();
    job.save(folder.path()).unwrap();
    print(&job, "one\n");
    fs::create_dir_all(folder.path().join("ended.json/x")).unwrap();
    assert!(matches!(job.into_record(), Err(Error::File { path, .. }) if path.ends_with("ended.json")));
    fs::remove_dir_all(folder.path().join("ended.json")).unwrap();
    Job::load(folder.path()).unwrap().success().unwrap();
    assert_eq!(held(&server, id), (JobStatus::Success, "one\n".into()));
}

/// Files with the names of ours, of which nothing says that they are.
#[test]
fn a_folder_of_something_else_is_no_place_for_a_record() {
    let (server, folder) = (server(), tempfile::tempdir().unwrap());
    queue(&server);
    let mut job = runner(&server).request_job().unwrap().unwrap();
    fs::write(folder.path().join("log"), "precious").unwrap();
    assert!(
        matches!(job.save(folder.path()), Err(Error::BadFile { problem, .. }) if problem.contains("something else"))
    );
    assert_eq!(fs::read_to_string(folder.path().join("log")).unwrap(), "precious");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    fs::write(folder.path().join("lease"), "of a flat").unwrap();
    assert!(matches!(job.save(folder.path()), Err(Error::BadFile { .. })));
    assert!(matches!(Job::load(folder.path()), Err(Error::BadFile { problem, .. }) if problem.contains("no record")));
    assert_eq!(fs::read_to_string(folder.path().join("lease")).unwrap(), "of a flat");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    job.success().unwrap();
}

/// Whoever has no record has the whole log, whatever the settings say.
#[test]
fn a_job_without_files_has_its_whole_log() {
    let (server, folder) = (server(), tempfile::tempdir().unwrap());
    let id = queue(&server);
    let runner = runner(&server);
    let mut runner = runner.configure(|config| config.with_durable(true).with_retain(Retain::Unacknowledged));
    let job = runner.request_job().unwrap().unwrap();
    print(&job, "one\n");
    arrived(&server, id, "one\n");
    let mut job = from_text(&runner, &to_text(job));
    print(&job, "two\n");
    arrived(&server, id, "one\ntwo\n");
    assert_eq!(job.log_content().unwrap(), b"one\ntwo\n");
    job.save(folder.path().join("record")).unwrap();
    job.success().unwrap();
}

/// A large log is in a temporary file, and no other way to it is different.
#[test]
fn a_large_log_without_a_record_is_all_there_in_each_life() {
    let (server, folder) = (server(), tempfile::tempdir().unwrap());
    let id = queue(&server);
    let unlimited = LogOptions::default().with_limit(LogLimit::None);
    let mut runner = runner(&server).configure(|config| config.with_log(unlimited));
    let mut job = runner.request_job().unwrap().unwrap();
    let mut log = String::new();
    let print_much = |job: &Job, log: &mut String| {
        for number in 0..24 {
            let part = format!("{number} {}\n", "x".repeat(99_000));
            print(job, &part);
            log.push_str(&part);
        }
    };
    for life in 0..2 {
        print_much(&job, &mut log);
        assert!(job.log_content().unwrap() == log.as_bytes(), "the log of life {life}");
        arrived(&server, id, &log);
        // What was in the file of this life is in the value, and what follows is in a file of the next.
        let text = to_text(job);
        server.with(|gitlab, _| gitlab.forget_trace_tail(id, 50_000));
        job = from_text(&runner, &text);
        arrived(&server, id, &log);
    }
    job.save(folder.path().join("record")).unwrap();
    server.with(|gitlab, _| gitlab.forget_trace_tail(id, 0));
    job.success().unwrap();
    assert!(held(&server, id).1 == log, "GitLab has another log");
}

/// Of a record that has no more than the end of the log, a large log follows that end.
#[test]
fn a_large_log_goes_on_behind_the_end_of_another() {
    let (server, folder) = (server(), tempfile::tempdir().unwrap());
    let id = queue(&server);
    let mut runner = runner(&server);
    let job = runner.request_job().unwrap().unwrap();
    print(&job, "the beginning that is gone, and the end\n");
    arrived(&server, id, "the beginning that is gone, and the end\n");
    let whole = job.into_record().unwrap();
    let cut = |record: &JobRecord, from: usize| {
        let (server, assignment, snapshot) = (record.server(), record.assignment(), record.snapshot());
        let log = record.log().1.slice(from..);
        JobRecord::new(server.clone(), assignment.clone(), snapshot.clone(), from as u64, log).unwrap()
    };
    let job = runner.job_from_record(cut(&whole, 28)).unwrap();
    let much = "y".repeat(99) + "\n";
    for _ in 0..24_000 {
        print(&job, &much);
    }
    let known = format!("and the end\n{}", much.repeat(24_000));
    assert!(job.log_content().unwrap() == known.as_bytes(), "what is known of the log");
    let record = job.into_record().unwrap();
    assert!(record.log().0 == 28 && *record.log().1 == known, "the record from byte {}", record.log().0);
    assert!(Job::store(&record, folder.path()).is_err(), "a record in files has the whole log");
    let mut job = runner.job_from_record(record).unwrap();
    print(&job, "more\n");
    job.success().unwrap();
    assert!(held(&server, id).1 == format!("the beginning that is gone, {known}more\n"), "GitLab has another log");
}

#[test]
fn a_recovered_job_without_a_result_stays() {
    let (server, folder) = (server(), tempfile::tempdir().unwrap());
    let mut runner = runner(&server).with_state_dir(folder.path());
    let id = queue(&server);
    runner.request_job().unwrap().unwrap().leave().unwrap();
    for _ in 0..2 {
        let recovered = runner.recover().unwrap();
        assert_eq!((recovered.jobs.len(), recovered.left.len()), (1, 0));
    }
    assert_eq!(held(&server, id).0, JobStatus::Running);
    runner.recover().unwrap().jobs.pop().unwrap().success().unwrap();
    assert_eq!(held(&server, id).0, JobStatus::Success);
}

#[test]
fn a_log_that_is_not_whole_makes_no_record() {
    let folder = tempfile::tempdir().unwrap();
    let stored = JobRecord::from_json(include_str!("../../../tests/golden/job-record-1.json")).unwrap();
    let (server, assignment, snapshot) = (stored.server(), stored.assignment(), stored.snapshot());
    let part =
        JobRecord::new(server.clone(), assignment.clone(), snapshot.clone(), 4, stored.log().1.slice(4..)).unwrap();
    let refused = Job::store(&part, folder.path().join("record")).unwrap_err().to_string();
    assert!(refused.contains("record: the first 4 bytes of its log are missing"), "{refused}");
    for other in ["another log of no use", "another log 14"] {
        let other = JobRecord::new(server.clone(), assignment.clone(), snapshot.clone(), 0, other.into());
        assert!(matches!(other, Err(gitlab_runner_api::ResumeError::Corrupt(_))), "{other:?}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// GitLab hands out a job of which there is a record, as after a restore from a backup: the old record is closed, unless somebody
/// has it.
#[test]
fn a_job_that_is_handed_out_again_gets_a_new_record() {
    let mut gitlab = Coordinator::new(Settings::default().with(|settings| settings.two_phase_commit = true));
    gitlab.add_runner(TOKEN);
    let (server, folder) =
        (Server::start(gitlab).unwrap().with_time_limit(TimeLimit::TEST), tempfile::tempdir().unwrap());
    let state = folder.path().join("state");
    let ids = [queue(&server), queue(&server)];
    for id in ids {
        Job::store(&record_of_queued(&server, id), state.join(id.to_string())).unwrap();
    }
    fs::write(state.join(ids[1].to_string()).join(".runner-x"), "what was about to be written").unwrap();
    // Somebody who does not reach GitLab has the first.
    let nowhere = Proxies::all(ProxyUrl::parse("http://127.0.0.1:1").unwrap());
    let nowhere = Transport::with_options(&HttpOptions::new().with_proxies(nowhere)).unwrap();
    let other = runner(&server).with_transport(nowhere).load_job(state.join(ids[0].to_string())).unwrap();

    let mut runner = runner(&server).with_state_dir(&state);
    assert!(matches!(runner.request_job(), Err(Error::Held { .. })), "two processes have one job");
    assert_eq!(held(&server, ids[0]).0, JobStatus::Pending, "nobody accepts it, so that GitLab will fail it");
    other.leave().unwrap();

    let mut job = runner.request_job().unwrap().unwrap();
    print(&job, "seen\n");
    job.success().unwrap();
    assert_eq!(held(&server, ids[1]), (JobStatus::Success, "seen\n".into()));
    let told = fs::read_to_string(state.join("ended.log")).unwrap();
    assert_eq!(told, format!("job {0}: handed out again by GitLab\njob {0}: success\n", ids[1]));
    assert!(!state.join(ids[1].to_string()).exists());
}
