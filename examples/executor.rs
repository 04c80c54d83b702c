//! A shell runner in one file.
//!
//! Without arguments it starts a simulated GitLab in its own process, queues four jobs there, runs them at the same time,
//! and prints a table of what *GitLab* holds of each in the end. It exits with 1 if anything is not as it should be.
//!
//! With `--url URL --token glrt-TOKEN` it serves a real GitLab. It runs whatever the jobs say, as the user who started
//! it: use it where you would let their authors type.
//!
//! How to read it: `Execution` is one job; `serve` reports it; `Options::run` is the runner; `demo` is the show. It needs
//! a Unix, for process groups and `sh`.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "an application has threads, files and a clock"
)]

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use gitlab_runner_api::api::info::{Features, Info};
use gitlab_runner_api_testkit::{Coordinator, JobStatus, NewJob, Server, Settings};
use gitlab_runner_api_ureq::{
    Cancellation, Error, FailureReason, Job, JobResult, Log, Registration, Runner, Stop, Stream,
};
use rustix::process::{Pid, Signal, kill_process_group};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const USAGE: &str = "\
executor: runs the jobs of a GitLab runner with sh

  executor                           a show: a simulated GitLab, four jobs, and what became of them
  executor --url URL --token TOKEN   serves a real GitLab; the token starts with glrt-
           [--builds DIR]            where jobs work (default: a folder that is removed in the end)
           [--concurrent N]          how many jobs at once (default: 4)";

/// What `after_script` may take, whatever the job's own timeout is.
const AFTER_SCRIPT_TIMEOUT: Duration = Duration::from_secs(300);

/// From asking a script to stop to making it.
const GRACE: Duration = Duration::from_secs(5);

/// How often a running script is looked at.
const TICK: Duration = Duration::from_millis(20);

/// One job: its directory, its environment, and a copy of all that it prints.
struct Execution<'a> {
    job: &'a Job,
    project: PathBuf,
    scratch: PathBuf,
    environment: Vec<(String, OsString)>,
    record: File,
}

/// How a script ended.
enum End {
    Exited(ExitStatus),
    Canceled,
    TimedOut,
    Aborted,
}

impl<'a> Execution<'a> {
    /// Lays out `<builds>/<job id>/`: `project` to work in, `tmp` for what belongs to the runner, `log` for the record.
    fn prepare(job: &'a Job, builds: &Path) -> Result<Self> {
        let root = builds.join(job.id().to_string());
        let (project, scratch) = (root.join("project"), root.join("tmp"));
        fs::create_dir_all(&project)?;
        fs::create_dir_all(&scratch)?;
        let record = File::create(root.join("log"))?;
        let environment = environment(job, &project, &scratch)?;
        Ok(Self { job, project, scratch, environment, record })
    }

    /// `script`, then `after_script` whatever became of it. What it says of the job is what `script` did.
    fn run(&self) -> Result<JobResult> {
        let end = self.step("script", self.job.time_left(), true)?;
        let (result, status) = match &end {
            End::Exited(status) if status.success() => (JobResult::success(), "success"),
            End::Exited(status) => {
                let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
                (JobResult::from_exit_code(code), "failed")
            }
            End::TimedOut => (JobResult::failed(FailureReason::JobExecutionTimeout), "timedout"),
            End::Canceled | End::Aborted => (JobResult::failed(FailureReason::ScriptFailure), "canceled"),
        };
        if !matches!(end, End::Aborted) && self.job.spec().step("after_script").is_some() {
            fs::write(self.scratch.join("status"), status)?;
            self.step("after_script", AFTER_SCRIPT_TIMEOUT, false)?;
        }
        Ok(result)
    }
}

impl Execution<'_> {
    /// Runs one step's script with `sh -e`, in a process group of its own, both outputs in one pipe.
    ///
    /// A graceful cancellation stops `script` and nothing else; that the job is over stops everything.
    fn step(&self, name: &str, limit: Duration, cancelable: bool) -> Result<End> {
        let Some(step) = self.job.spec().step(name) else { return Ok(End::Exited(ExitStatus::default())) };
        let file = self.scratch.join(name);
        fs::write(&file, step.script.join("\n"))?;
        let (output, input) = io::pipe()?;
        let status = fs::read_to_string(self.scratch.join("status")).unwrap_or("running".to_owned());
        let child = Command::new("sh")
            .arg("-e")
            .arg(&file)
            .current_dir(&self.project)
            .env_clear()
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .env("CI_JOB_STATUS", status)
            .stdin(Stdio::null())
            .stdout(input.try_clone()?)
            .stderr(input)
            .process_group(0)
            .spawn()?;
        let (log, record) = (self.job.log().stream(Stream::Stdout), self.record.try_clone()?);
        thread::scope(|scope| {
            let copy = scope.spawn(|| copy(output, log, record));
            let end = self.watch(child, limit, cancelable);
            // What the script left behind would hold the pipe open for ever; `watch` has made an end of it.
            copy.join().map_err(|_| "the copying thread panicked")??;
            end
        })
    }

    /// Waits for a script, and stops it when it must not go on.
    fn watch(&self, mut child: Child, limit: Duration, cancelable: bool) -> Result<End> {
        let (group, started) = (Pid::from_child(&child), Instant::now());
        let end = loop {
            if let Some(status) = child.try_wait()? {
                break End::Exited(status);
            }
            match self.job.cancellation() {
                Cancellation::Aborted => break End::Aborted,
                Cancellation::Requested if cancelable => break End::Canceled,
                _ if started.elapsed() >= limit => break End::TimedOut,
                _ => thread::sleep(TICK),
            }
        };
        if matches!(end, End::Canceled | End::TimedOut) {
            // That the group is gone already is as good as any other outcome.
            _ = kill_process_group(group, Signal::TERM);
            let asked = Instant::now();
            while child.try_wait()?.is_none() && asked.elapsed() < GRACE {
                thread::sleep(TICK);
            }
        }
        _ = kill_process_group(group, Signal::KILL);
        child.wait()?;
        Ok(end)
    }
}

/// Copies what a script prints, as it comes, to the job's log and to the record.
fn copy(mut output: impl Read, mut log: Log, mut record: File) -> Result<()> {
    let mut buffer = [0; 64 * 1024];
    loop {
        let count = output.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        record.write_all(&buffer[..count])?;
        // A job that is over takes no more log; its script is about to be stopped.
        _ = log.write_all(&buffer[..count]);
    }
}

/// The runner's own variables, the job's, and those that a job cannot override. Variables of type file are written out.
fn environment(job: &Job, project: &Path, scratch: &Path) -> Result<Vec<(String, OsString)>> {
    let mut environment = vec![
        ("PATH".to_owned(), std::env::var_os("PATH").unwrap_or("/usr/local/bin:/usr/bin:/bin".into())),
        ("HOME".to_owned(), scratch.into()),
        ("CI_BUILDS_DIR".to_owned(), project.parent().unwrap_or(project).into()),
        ("CI_PROJECT_DIR".to_owned(), project.into()),
        ("CI_SERVER".to_owned(), "yes".into()),
    ];
    for variable in &job.spec().variables {
        if !variable.file {
            environment.push((variable.key.clone(), variable.value().into()));
            continue;
        }
        let safe = variable.key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if safe && !variable.key.is_empty() {
            let path = scratch.join(format!("{}.file", variable.key));
            fs::write(&path, variable.value())?;
            environment.push((variable.key.clone(), path.into()));
        }
    }
    environment.retain(|(key, _)| !key.is_empty() && !key.contains(['=', '\0']));
    environment.push(("CI_SHARED_ENVIRONMENT".to_owned(), "true".into()));
    Ok(environment)
}

fn main() -> ExitCode {
    match Options::parse().and_then(|options| options.run()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("executor: {error}");
            ExitCode::from(2)
        }
    }
}

struct Options {
    real: Option<(String, String)>,
    builds: Option<PathBuf>,
    concurrent: u32,
}

impl Options {
    fn parse() -> Result<Self> {
        use lexopt::prelude::*;
        let (mut url, mut token, mut builds, mut concurrent) = (None, None, None, 4);
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("url") => url = Some(parser.value()?.string()?),
                Long("token") => token = Some(parser.value()?.string()?),
                Long("builds") => builds = Some(parser.value()?.into()),
                Long("concurrent") => concurrent = parser.value()?.parse()?,
                Long("help") => return Err(USAGE.into()),
                other => return Err(format!("{}\n\n{USAGE}", other.unexpected()).into()),
            }
        }
        let real = match (url, token) {
            (Some(url), Some(token)) => Some((url, token)),
            (None, None) => None,
            _ => return Err("--url and --token go together".into()),
        };
        Ok(Self { real, builds, concurrent })
    }

    fn run(self) -> Result<ExitCode> {
        let temporary = tempfile::tempdir()?;
        let builds = std::path::absolute(self.builds.as_deref().unwrap_or(temporary.path()))?;
        match self.real {
            None => demo(&builds),
            Some((url, token)) => {
                let mut runner =
                    Runner::register(&url, token, Registration::new().with_info(info()))?.with_info(info());
                let stop = Stop::new();
                leave_on_signal(&stop)?;
                eprintln!("serving {} as runner {}; interrupt to stop", runner.url(), runner.id());
                runner.run_with(self.concurrent, |job| serve(job, &builds), &stop, |event| eprintln!("{event:?}"))?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// What this runner promises: `after_script` on cancellation, and variables in the environment. It checks nothing out.
fn info() -> Info {
    let features = Features::default().cancel_gracefully(true).variables(true).raw_variables(true).shared(true);
    Info::new("executor", env!("CARGO_PKG_VERSION"))
        .with_platform("linux", "amd64")
        .with_executor("shell")
        .with_features(features)
}

/// The first signal drains the runner, the second ends the process: its jobs are left to GitLab's timeouts.
fn leave_on_signal(stop: &Stop) -> Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let (mut signals, stop) = (signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?, stop.clone());
    thread::spawn(move || {
        for _ in signals.forever() {
            if stop.is_draining() {
                std::process::exit(1);
            }
            eprintln!("taking no more jobs; interrupt again to leave those that run");
            stop.drain();
        }
    });
    Ok(())
}

/// The runner's side of one job: run it, and report what became of it.
fn serve(mut job: Job, builds: &Path) {
    let ran = Execution::prepare(&job, builds).and_then(|execution| execution.run());
    let result = ran.unwrap_or_else(|error| {
        _ = writeln!(job.log(), "ERROR: {error}");
        JobResult::failed(FailureReason::RunnerSystemFailure)
    });
    match job.finish(result) {
        Ok(_) | Err(Error::Aborted(_)) => {}
        Err(error) => eprintln!("job {}: {error}", job.id()),
    }
}

/// What a job of the show is to end as: its status, reason and exit code at GitLab.
type Wanted = (JobStatus, Option<&'static str>, Option<i64>);

/// The value of a masked variable, which the jobs of the show print.
const SECRET: &str = "correct-horse-battery";

fn demo(builds: &Path) -> Result<ExitCode> {
    let mut gitlab = Coordinator::new(Settings::default());
    gitlab.add_runner("glrt-simulated");
    let server = Server::start(gitlab)?;

    let jobs: [(NewJob, Wanted); 4] = [
        (
            NewJob::new("succeeds")
                .with_variable("GREETING", "hello")
                .with_file_variable("LETTER", "from a file\n")
                .with_masked_variable("API_KEY", SECRET)
                .with_script(["echo \"$GREETING, $CI_JOB_NAME\"", "cat \"$LETTER\"", "pwd >&2", "echo key: $API_KEY"])
                .with_after_script(["echo \"after: $CI_JOB_STATUS\""]),
            (JobStatus::Success, None, None),
        ),
        (
            NewJob::new("fails")
                .with_script(["echo one", "sh -c 'exit 42'", "echo never"])
                .with_after_script(["echo \"after: $CI_JOB_STATUS\""]),
            (JobStatus::Failed, Some("script_failure"), Some(42)),
        ),
        (
            NewJob::new("is cancelled")
                .with_script(["echo started", "sleep 600"])
                .with_after_script(["echo cleaned up"]),
            (JobStatus::Canceled, None, None),
        ),
        (
            NewJob::new("prints 3 MiB").with_masked_variable("API_KEY", SECRET).with_script([
                "yes \"a line, with $API_KEY in it\" | head -c 3145728",
                "printf 'the end without newline'",
            ]),
            (JobStatus::Success, None, None),
        ),
    ];
    let wanted: Vec<_> =
        jobs.into_iter().map(|(job, wanted)| (server.with(|gitlab, now| gitlab.queue(now, job)), wanted)).collect();

    let quick = Duration::from_millis(200);
    let mut runner = Runner::register(&server.url(), "glrt-simulated", Registration::new().with_info(info()))?
        // What the scripts print is all that is to be in the logs.
        .with_log_header(false)
        .configure(|config| config.with_check_interval(quick).with_update_interval(quick).with_keep_alive(quick));
    let (stop, failure) = (Stop::new(), Mutex::new(None));
    thread::scope(|scope| {
        scope.spawn(|| watch_show(&server, &wanted, &stop));
        let run = runner.run(4, |job| serve(job, builds), &stop);
        if let (Err(error), Ok(mut failure)) = (run, failure.lock()) {
            *failure = Some(error);
        }
    });
    if let Ok(Some(error)) = failure.into_inner() {
        return Err(error.into());
    }
    let good = report(&server, &wanted, builds)?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Plays the user: cancels the third job once its log shows that it runs, and stops the runner when all have ended.
fn watch_show(server: &Server, wanted: &[(u64, Wanted)], stop: &Stop) {
    let (third, deadline) = (wanted[2].0, Instant::now() + Duration::from_secs(60));
    let mut cancelled = false;
    loop {
        let all_ended = server.with(|gitlab, now| {
            let runs = gitlab.job(third).is_some_and(|job| job.trace().starts_with(b"started"));
            if runs && !cancelled {
                gitlab.cancel(now, third);
                cancelled = true;
            }
            gitlab.jobs().all(|job| job.status().is_final())
        });
        if all_ended || Instant::now() > deadline {
            return stop.drain();
        }
        thread::sleep(TICK);
    }
}

/// Prints what GitLab holds of each job, and says whether that is what should be there.
fn report(server: &Server, wanted: &[(u64, Wanted)], builds: &Path) -> Result<bool> {
    println!("What GitLab holds:\n");
    println!("{:<14} {:<9} {:<15} {:>4} {:>9}  Log", "Job", "Status", "Reason", "Exit", "Bytes");
    let mut good = true;
    for (id, (status, reason, exit_code)) in wanted {
        let printed = fs::read_to_string(builds.join(id.to_string()).join("log"))?;
        let shown = printed.replace(SECRET, "[MASKED]");
        good &= server.with(|gitlab, _| {
            let Some(job) = gitlab.job(*id) else { return false };
            let same = job.trace() == shown.as_bytes();
            let (held, code) = (job.failure_reason(), job.exit_code());
            println!(
                "{:<14} {:<9} {:<15} {:>4} {:>9}  {}",
                job.name(),
                job.status().as_str(),
                held.unwrap_or("-"),
                code.map_or("-".to_owned(), |code| code.to_string()),
                job.trace().len(),
                match same {
                    false => "DIFFERS from what it printed",
                    true if shown == printed => "equals what it printed",
                    true => "equals what it printed, with its secret masked",
                }
            );
            // A cancelled job keeps whatever reason its runner gave.
            let as_wanted = *status == JobStatus::Canceled || (held, code) == (*reason, *exit_code);
            same && job.status() == *status && as_wanted
        });
    }
    println!("\n{}", if good { "All as it should be." } else { "Something is NOT as it should be." });
    Ok(good)
}
