//! A shell runner in one file, async: the sister of the executor of the blocking adapter.
//!
//! Without arguments it starts a simulated GitLab in its own process, queues four jobs there, runs them at the same time,
//! and prints what *GitLab* holds of each in the end. It exits with 1 if anything is not as it should be.
//!
//! With `--url URL --token glrt-TOKEN` it serves a real GitLab until it is interrupted. It runs whatever the jobs say, as
//! the user who started it: use it where you would let their authors type.

use std::io::Write;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use gitlab_runner_api_hyper::gitlab_runner_api::api::info::{Features, Info};
use gitlab_runner_api_hyper::{Cancellation, Error, FailureReason, Job, JobResult, Registration, Runner, Stream};
use gitlab_runner_api_testkit::{Coordinator, JobStatus, NewJob, Server, Settings};
use tokio::process::Command;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// What `after_script` may take, whatever the job's own timeout is.
const AFTER_SCRIPT_TIMEOUT: Duration = Duration::from_secs(300);

/// How a script ended.
enum End {
    Exited(i32),
    Canceled,
    TimedOut,
    Aborted,
}

/// Runs one step's script with `sh -e` in a folder of its own; both outputs go to the log as they come.
async fn step(job: &Job, name: &str, limit: Duration, cancelable: bool) -> Result<End> {
    let Some(step) = job.spec().step(name) else { return Ok(End::Exited(0)) };
    let folder = tempfile::tempdir()?;
    let variables = job
        .spec()
        .variables
        .iter()
        .filter(|variable| !variable.file && !variable.key.is_empty() && !variable.key.contains(['=', '\0']));
    let mut child = Command::new("sh")
        .arg("-ec")
        .arg(step.script.join("\n"))
        .current_dir(folder.path())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or("/usr/local/bin:/usr/bin:/bin".into()))
        .envs(variables.map(|variable| (variable.key.as_str(), variable.value())))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (mut to_out, mut to_err) = (job.log().stream(Stream::Stdout), job.log().stream(Stream::Stderr));
    let script = async {
        let copy_out = async {
            if let Some(mut out) = out {
                _ = tokio::io::copy(&mut out, &mut to_out).await;
            }
        };
        let copy_err = async {
            if let Some(mut err) = err {
                _ = tokio::io::copy(&mut err, &mut to_err).await;
            }
        };
        tokio::join!(copy_out, copy_err);
        child.wait().await
    };
    // Whichever comes first; a script that is not waited for any longer is killed with its future.
    tokio::select! {
        status = script => Ok(End::Exited(status?.code().unwrap_or(137))),
        () = stops(job, cancelable) => match job.cancellation() {
            Cancellation::Requested => Ok(End::Canceled),
            _ => Ok(End::Aborted),
        },
        () = tokio::time::sleep(limit) => Ok(End::TimedOut),
    }
}

/// Waits until a script must not go on. A graceful cancellation stops `script` and nothing else.
async fn stops(job: &Job, cancelable: bool) {
    if job.cancelled().await == Cancellation::Requested && !cancelable {
        std::future::pending().await
    }
}

/// `script`, then `after_script` whatever became of it.
async fn execute(job: &Job) -> Result<JobResult> {
    let end = step(job, "script", job.time_left(), true).await?;
    if !matches!(end, End::Aborted) {
        step(job, "after_script", AFTER_SCRIPT_TIMEOUT, false).await?;
    }
    Ok(match end {
        End::Exited(code) => JobResult::from_exit_code(code),
        End::TimedOut => JobResult::failed(FailureReason::JobExecutionTimeout),
        End::Canceled | End::Aborted => JobResult::failed(FailureReason::ScriptFailure),
    })
}

/// The runner's side of one job: run it, and report what became of it.
async fn serve(mut job: Job) {
    let result = execute(&job).await.unwrap_or_else(|error| {
        _ = writeln!(job.log(), "ERROR: {error}");
        JobResult::failed(FailureReason::RunnerSystemFailure)
    });
    match job.finish(result).await {
        Ok(_) | Err(Error::Aborted(_)) => {}
        Err(error) => eprintln!("job {}: {error}", job.id()),
    }
}

fn info() -> Info {
    let features = Features::default().cancel_gracefully(true).variables(true).raw_variables(true);
    Info::new("executor", env!("CARGO_PKG_VERSION")).with_executor("shell").with_features(features)
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => demo().await,
        ["--url", url, "--token", token] => {
            let registration = Registration::new().with_info(info());
            let mut runner = Runner::register(url, token, registration).await?.with_info(info());
            eprintln!("serving {} as runner {}; interrupt to stop", runner.url(), runner.id());
            let interrupted = async { _ = tokio::signal::ctrl_c().await };
            runner.run_with(4, serve, interrupted, |event| eprintln!("{event:?}")).await?;
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprintln!("executor [--url URL --token TOKEN]");
            Ok(ExitCode::from(2))
        }
    }
}

async fn demo() -> Result<ExitCode> {
    let mut gitlab = Coordinator::new(Settings::default());
    gitlab.add_runner("glrt-simulated");
    let server = Server::start(gitlab)?;
    let hello = NewJob::new("succeeds")
        .with_variable("GREETING", "hello")
        .with_script(["echo \"$GREETING\"", "echo error >&2"]);
    let jobs = [
        (hello.with_after_script(["echo after"]), JobStatus::Success, 18),
        (NewJob::new("fails").with_script(["echo one", "sh -c 'exit 42'", "echo never"]), JobStatus::Failed, 4),
        (
            NewJob::new("is cancelled")
                .with_script(["echo started", "exec sleep 600"])
                .with_after_script(["echo cleaned up"]),
            JobStatus::Canceled,
            19,
        ),
        (NewJob::new("prints 3 MiB").with_script(["head -c 3145728 /dev/zero"]), JobStatus::Success, 3 << 20),
    ];
    let wanted: Vec<_> = jobs
        .into_iter()
        .map(|(job, status, bytes)| (server.with(|gitlab, now| gitlab.queue(now, job)), status, bytes))
        .collect();

    let quick = Duration::from_millis(200);
    let registration = Registration::new().with_info(info());
    let mut runner = Runner::register(&server.url(), "glrt-simulated", registration)
        .await?
        .with_info(info())
        .with_log_header(false)
        .configure(|config| config.with_check_interval(quick).with_update_interval(quick).with_keep_alive(quick));
    runner.run(4, serve, watch(&server)).await?;

    println!("{:<14} {:<9} {:>9}", "Job", "Status", "Bytes");
    let mut good = true;
    for (id, status, bytes) in wanted {
        server.with(|gitlab, _| {
            let Some(job) = gitlab.job(id) else { return good = false };
            println!("{:<14} {:<9} {:>9}", job.name(), job.status().as_str(), job.trace().len());
            good &= job.status() == status && job.trace().len() == bytes;
        });
    }
    println!("\n{}", if good { "All as it should be." } else { "Something is NOT as it should be." });
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Plays the user: cancels the job that sleeps once its log shows that it runs, and is ready when all have ended.
async fn watch(server: &Server) {
    let all_ended = async {
        loop {
            let ended = server.with(|gitlab, now| {
                let started = |job: &&gitlab_runner_api_testkit::JobRecord| job.trace() == b"started\n";
                let sleeper = gitlab.jobs().find(started).filter(|job| job.status() == JobStatus::Running);
                if let Some(id) = sleeper.map(|job| job.id()) {
                    gitlab.cancel(now, id);
                }
                gitlab.jobs().all(|job| job.status().is_final())
            });
            if ended {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    _ = tokio::time::timeout(Duration::from_secs(60), all_ended).await;
}
