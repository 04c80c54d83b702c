//! The programs `executor` and `async-executor` against the simulated GitLab: both must run jobs as GitLab's own runner does.

#![cfg(unix)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use gitlab_runner_api_testkit::{Coordinator, JobStatus, NewJob, Server, Settings, TimeLimit, sim};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

const TOKEN: &str = "glrt-abcdefghijklmnop";

/// Longer than anything takes on a machine that is busy, and shorter than what would be a fault.
const PATIENCE: Duration = Duration::from_secs(100);

fn executor() -> PathBuf {
    env!("CARGO_BIN_EXE_executor").into()
}

/// An example of this package, which has no variable of its own.
fn async_executor() -> PathBuf {
    let program = executor().parent().unwrap().join("examples/async-executor");
    assert!(program.exists(), "{} is not built: run cargo test without --test", program.display());
    program
}

fn gitlab() -> Server {
    Server::start(coordinator()).unwrap()
}

fn coordinator() -> Coordinator {
    let mut gitlab = Coordinator::new(Settings::default().with(|settings| {
        settings.first_job_id = 1;
        settings.trace_interval = Some(1);
    }));
    gitlab.add_runner(TOKEN);
    gitlab
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn trace(gitlab: &Server, job: u64) -> String {
    gitlab.with(|gitlab, _| String::from_utf8(gitlab.job(job).unwrap().trace().to_vec()).unwrap())
}

/// Status, failure reason and exit code of a job.
fn held(gitlab: &Server, job: u64) -> (JobStatus, Option<String>, Option<i64>) {
    gitlab.with(|gitlab, _| {
        let job = gitlab.job(job).unwrap();
        (job.status(), job.failure_reason().map(str::to_owned), job.exit_code())
    })
}

fn all_ended(gitlab: &Server) -> bool {
    gitlab.with(|gitlab, _| gitlab.jobs().all(|job| job.status().is_final()))
}

/// The number behind a word at the start of a line of a log.
fn number(log: &str, word: &str) -> Option<Pid> {
    let line = log.lines().find_map(|line| line.strip_prefix(word))?;
    Pid::from_raw(line.trim().parse().ok()?)
}

/// Processes that have ended are gone when their parent, or process 1, has heard of it.
fn is_gone(pid: Pid) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    test_kill_process(pid).is_err() || state.contains(") Z ")
}

/// A runner that serves, killed when this is dropped.
struct Serving(Child);

impl Serving {
    fn start(program: &Path, gitlab: &Server, options: &[&str]) -> Self {
        Self::start_by(Command::new(program), gitlab, options)
    }

    fn start_by(mut command: Command, gitlab: &Server, options: &[&str]) -> Self {
        command.args(["--url", &gitlab.url(), "--token", TOKEN]).args(options);
        // Not a variable of the job, and therefore not in its environment.
        command.env("OF_THE_RUNNER", "secret");
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn stderr(&mut self) -> BufReader<ChildStderr> {
        BufReader::new(self.0.stderr.take().unwrap())
    }

    /// Waits for its end. Gives what it printed as well.
    fn end(mut self) -> (ExitStatus, String) {
        let mut printed = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
        (self.0.wait().unwrap(), printed)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// The sections of a log in the order in which they are closed; each must be closed before its end.
fn sections(log: &str) -> Vec<String> {
    let (mut open, mut closed) = (Vec::new(), Vec::new());
    for mark in log.split("section_").skip(1) {
        let (kind, rest) = mark.split_once(':').unwrap();
        let name = rest.split_once(':').unwrap().1.split('\r').next().unwrap().to_owned();
        match kind {
            "start" => open.push(name),
            "end" => {
                assert_eq!(open.pop().as_ref(), Some(&name), "{log}");
                closed.push(name);
            }
            _ => {}
        }
    }
    assert!(open.is_empty(), "{open:?} in {log}");
    closed
}

/// Four jobs at once: one that does all that a script may do, one that fails, one that is cancelled, one that takes too long.
fn runs_jobs(program: &Path, name: &str) {
    let gitlab = gitlab();
    let queue = |job: NewJob| gitlab.with(|gitlab, now| gitlab.queue(now, job));
    let order: String = (1..=50).map(|number| format!("echo out{number}; echo err{number} >&2; ")).collect();
    let good = queue(
        NewJob::new("good")
            .with_variable("A", "a")
            .with_variable("B", "b with $A and ${UNKNOWN}$$A")
            .with_variable("PLACE", "$CI_PROJECT_DIR/here")
            .with_file_variable("FILE", "content of $B\n")
            .with_masked_variable("SECRET", "correct-horse")
            .with_script([
                "echo \"B=$B\"; cat \"$FILE\"; [ \"$FILE\" = \"$RUNNER_TEMP_PROJECT_DIR/FILE\" ]",
                "[ \"$PLACE\" = \"$(pwd)/here\" ]",
                "echo \"$CI_SERVER $CI_CONCURRENT_ID $CI_RUNNER_SHORT_TOKEN $CI_RUNNER_VERSION $CI_SHARED_ENVIRONMENT\"",
                "echo \"status $CI_JOB_STATUS, ours ${OF_THE_RUNNER-unset}\"",
                order.as_str(),
                "echo $SECRET >&2",
                "sleep 600 & echo child $!",
                "printf 'one line\\n'\nprintf 'no newline'",
            ])
            .with_after_script(["echo \"after $CI_JOB_STATUS\"", "false"]),
    );
    let bad = queue(
        NewJob::new("bad")
            .with_script(["sh -c 'exit 42'", "echo never"])
            .with_after_script(["echo \"after $CI_JOB_STATUS\""]),
    );
    let endless = "sleep 600 & echo child $!; while :; do echo tick; sleep 0.1; done";
    let cancelled =
        queue(NewJob::new("cancelled").with_script([endless]).with_after_script(["echo \"after $CI_JOB_STATUS\""]));
    let late = queue(NewJob::new("late").with_timeout(Duration::from_secs(1)).with_script(["sleep 600"]));

    let serving = Serving::start(program, &gitlab, &[]);
    wait_until("the job to be cancelled runs", || trace(&gitlab, cancelled).contains("\ntick\n"));
    gitlab.with(|gitlab, now| gitlab.cancel(now, cancelled));
    wait_until("all jobs end", || all_ended(&gitlab));
    serving.signal(Signal::TERM);
    let (status, printed) = serving.end();
    assert!(status.success(), "{status}: {printed}");

    let log = trace(&gitlab, good);
    assert_eq!(held(&gitlab, good), (JobStatus::Success, None, None), "{log}");
    let version = env!("CARGO_PKG_VERSION");
    assert!(log.starts_with(&format!("Running with {name} {version}\n  on abcdefghi, system ID: ")), "{log}");
    for text in [
        "\nB=b with a and $A\ncontent of b with $A and ${UNKNOWN}$$A\n",
        "\nstatus running, ours unset\n",
        "\x1b[32;1m$ echo $SECRET >&2\x1b[0;m\n[MASKED]\n",
        "\x1b[32;1m$ printf 'one line\\n' # collapsed multi-line command\x1b[0;m\none line\nno newline\nsection_end:",
        "\nafter success\n",
        "WARNING: after_script failed, but job will continue unaffected: exit code 1",
    ] {
        assert!(log.contains(text), "{text:?} is not in {log}");
    }
    // Which of the slots a job gets is decided by whichever task runs first.
    let slots = (0..4).filter(|slot| log.contains(&format!("\nyes {slot} abcdefghi {version} true\n")));
    assert_eq!(slots.count(), 1, "{log}");
    let in_order: String = (1..=50).map(|number| format!("out{number}\nerr{number}\n")).collect();
    assert!(log.contains(&in_order), "{log}");
    assert!(log.ends_with("\x1b[32;1mJob succeeded\x1b[0;m\n"), "{log}");
    let shown =
        ["prepare_executor", "prepare_script", "get_sources", "step_script", "after_script", "cleanup_file_variables"];
    assert_eq!(sections(&log), shown);

    let log = trace(&gitlab, bad);
    assert_eq!(held(&gitlab, bad), (JobStatus::Failed, Some("script_failure".to_owned()), Some(42)), "{log}");
    assert!(log.contains("\nafter failed\n") && !log.contains("\nnever\n"), "{log}");
    assert!(log.ends_with("\x1b[31;1mERROR: Job failed: exit code 42\x1b[0;m\n"), "{log}");

    let log = trace(&gitlab, cancelled);
    assert_eq!(held(&gitlab, cancelled).0, JobStatus::Canceled, "{log}");
    assert!(log.contains("\nafter canceled\n") && log.contains("script canceled externally"), "{log}");

    let log = trace(&gitlab, late);
    assert_eq!(held(&gitlab, late).1.as_deref(), Some("job_execution_timeout"), "{log}");
    assert!(log.contains("ERROR: Job failed: execution took longer than 1s seconds"), "{log}");

    // What the scripts have left in the background is gone with them.
    for job in [good, cancelled] {
        let child = number(&trace(&gitlab, job), "child ").unwrap();
        wait_until("the whole group ends", || is_gone(child));
    }
    gitlab.with(|gitlab, _| {
        let runner = gitlab.runners().next().unwrap();
        let features = gitlab.manager_features(runner, gitlab.job(good).unwrap().system_id().unwrap()).unwrap();
        assert!(features.contains("cancel_gracefully") && !features.contains("artifacts"), "{features:?}");
    });
    for (job, states) in [(good, "running success"), (bad, "running failed"), (cancelled, "running canceling canceled")]
    {
        let lines = printed.lines().filter(|line| line.contains(&format!(" job {job} ")));
        let words = ["running", "canceling", "canceled", "success", "failed"];
        let said: Vec<&str> = lines.flat_map(str::split_whitespace).filter(|word| words.contains(word)).collect();
        assert_eq!(said.join(" "), states, "{printed}");
    }
}

#[test]
fn the_executor_runs_jobs() {
    runs_jobs(&executor(), "executor");
}

#[test]
fn the_async_executor_runs_jobs() {
    runs_jobs(&async_executor(), "async-executor");
}

/// A GitLab below a path, with a certificate of a CA that nobody else knows, and with a repository that the job clones. On other
/// systems the list of trusted certificates is not a file.
#[test]
#[cfg(target_os = "linux")]
fn a_gitlab_below_a_path_and_with_a_ca_of_its_own_is_served() {
    let git = |words: &[&str]| {
        let mut command = Command::new("git");
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env_remove("GIT_DIR");
        command.args(["-c", "user.name=Grace", "-c", "user.email=grace@example.test"]).args(words).output()
    };
    if git(&["--version"]).is_err() {
        println!("skipped: there is no git here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (work, ca) = (folder.path().join("work"), folder.path().join("ca.pem"));
    let work = work.to_str().unwrap();
    for words in [
        &["init", "--quiet", "--initial-branch", "main", work][..],
        &["-C", work, "commit", "--quiet", "--allow-empty", "--message", "First"],
    ] {
        let output = git(words).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    for program in [executor(), async_executor()] {
        let options = sim::Options::new("a-secret")
            .with_root("/gitlab".parse().unwrap())
            .with_repository(sim::Repository::open(work).unwrap())
            .with_tls();
        let gitlab = sim::serve(coordinator(), options).unwrap().with_time_limit(TimeLimit::TEST);
        std::fs::write(&ca, gitlab.ca().unwrap()).unwrap();
        let job = NewJob::new("clone").with_file_variable("CA", gitlab.ca().unwrap()).with_script([
            "GIT_SSL_CAINFO=\"$CA\" git clone --quiet \"$CI_REPOSITORY_URL\" clone",
            "[ \"$(git -C clone rev-parse HEAD)\" = \"$CI_COMMIT_SHA\" ] && echo \"cloned $CI_COMMIT_TITLE\"",
        ]);
        let job = gitlab.with(|gitlab, now| gitlab.queue(now, job));
        let mut command = Command::new(&program);
        command.env("SSL_CERT_FILE", &ca).env_remove("SSL_CERT_DIR").env("NO_PROXY", "127.0.0.1");
        let serving = Serving::start_by(command, &gitlab, &[]);
        wait_until("the job ends", || all_ended(&gitlab));
        serving.signal(Signal::TERM);
        let (status, printed) = serving.end();
        let log = trace(&gitlab, job);
        assert!(status.success() && held(&gitlab, job).0 == JobStatus::Success, "{status}: {printed}{log}");
        assert!(log.contains("\ncloned First\n"), "{log}");
    }
}

/// What a newcomer sees first.
#[test]
fn the_demonstrations_show_what_they_are_for() {
    for program in [executor(), async_executor()] {
        let output = Command::new(&program).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
        for text in [
            "hello           running\n",
            "is cancelled    canceling\n",
            "is cancelled    canceled\n",
            "failed     exit code 42\n",
            "  | $ echo \"the key is $API_KEY\"\n  | the key is [MASKED]\n",
            "  | Job succeeded\n",
            "Job  Name          Status ",
            "  2  fails         failed    script_failure    42 ",
            "Everything is as it should be",
        ] {
            assert!(printed.contains(text), "{text:?} is not in {printed}");
        }
        assert!(!printed.contains('\x1b'), "there are no colours where there is no terminal");
        assert!(!printed.contains("correct-horse-battery"), "{printed}");
        let widest = printed.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 80, "{widest} columns: {printed}");
    }
}

/// The first interrupt waits for the jobs, the second fails them with the reason that GitLab knows for this.
#[test]
fn a_second_interrupt_fails_the_jobs() {
    for program in [executor(), async_executor()] {
        let gitlab = gitlab();
        let job = gitlab
            .with(|gitlab, now| gitlab.queue(now, NewJob::new("long").with_script(["echo child $$", "sleep 600"])));
        let mut serving = Serving::start(&program, &gitlab, &[]);
        wait_until("the job runs", || number(&trace(&gitlab, job), "child ").is_some());
        let child = number(&trace(&gitlab, job), "child ").unwrap();
        let mut lines = serving.stderr().lines();
        serving.signal(Signal::TERM);
        lines.find(|line| line.as_ref().unwrap().contains("takes no more jobs")).unwrap().unwrap();
        assert!(!is_gone(child), "the job goes on");
        serving.signal(Signal::INT);
        let (status, printed) = serving.end();
        assert!(status.success(), "{status}: {printed}");
        assert_eq!(held(&gitlab, job).1.as_deref(), Some("runner_interrupted"), "{}", trace(&gitlab, job));
        wait_until("its script ends", || is_gone(child));
    }
}

/// A runner that was killed leaves a script behind. When it is started again, the job goes through the same handler.
#[test]
fn a_restarted_executor_ends_what_it_left_behind() {
    let gitlab = gitlab();
    let folder = tempfile::tempdir().unwrap();
    let (builds, state) = (folder.path().join("builds"), folder.path().join("state"));
    let options = ["--builds", builds.to_str().unwrap(), "--state", state.to_str().unwrap()];
    let job =
        gitlab.with(|gitlab, now| gitlab.queue(now, NewJob::new("long").with_script(["echo child $$", "sleep 600"])));
    let serving = Serving::start(&executor(), &gitlab, &options);
    wait_until("the job runs", || number(&trace(&gitlab, job), "child ").is_some());
    let child = number(&trace(&gitlab, job), "child ").unwrap();
    drop(serving);
    assert!(!is_gone(child), "nothing ends a script with its runner");

    let serving = Serving::start(&executor(), &gitlab, &options);
    wait_until("the job ends", || all_ended(&gitlab));
    serving.signal(Signal::TERM);
    let (status, printed) = serving.end();
    assert!(status.success() && printed.contains("the runner was restarted"), "{status}: {printed}");
    let log = trace(&gitlab, job);
    assert_eq!(held(&gitlab, job).1.as_deref(), Some("runner_system_failure"), "{log}");
    assert!(log.contains("Job failed (system failure): the runner was restarted while the script ran"), "{log}");
    assert_eq!(log.matches("$ echo child $$").count(), 1, "it is not started again: {log}");
    wait_until("its script ends", || is_gone(child));
    let left = std::fs::read_dir(builds.join("abcdefghi")).unwrap().count();
    assert_eq!(left, 0, "folders of jobs that have ended");
}
