//! A shell runner in one file.
//!
//! Without arguments it starts a simulated GitLab in its own process, queues four jobs there, runs them at the same time,
//! and prints a table of what *GitLab* holds of each in the end. It exits with 1 if anything is not as it should be.
//!
//! With `--url URL --token glrt-TOKEN` it serves a real GitLab. It runs whatever the jobs say, as the user who started
//! it: use it where you would let their authors type.
//!
//! How to read it: `main` chooses; `serve` is the runner; `Execution` is one job; `demo` is the show.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use gitlab_runner_api::{Cancellation, FailureReason, JobResult, Stream};
use gitlab_runner_api_ureq::{Job, Log};
use rustix::process::{Pid, Signal, kill_process_group};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

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
        let timeout = self.job.spec().timeout().unwrap_or(Duration::from_secs(7200));
        let end = self.step("script", timeout, true)?;
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
