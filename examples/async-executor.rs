//! A shell runner that is async, on the hyper adapter: the sister of `executor.rs`, which runs jobs in the same way.
//!
//! Without arguments it is the same demonstration. With `--url URL --token glrt-TOKEN` it serves a real GitLab. It runs
//! whatever the jobs say, as the user who started it: use it where you would let their authors type.

use std::io::Write;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use examples::{Console, Demo, End, Execution, Group, Host, Result, State, Step, info};
use gitlab_runner_api_hyper::{
    Cancellation, Error, FailureReason, Job, JobResult, Log, Registration, Runner, Section, ansi,
};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const USAGE: &str = "\
async-executor: runs the jobs of a GitLab runner with sh

  async-executor                           a demonstration: a simulated GitLab, four jobs, and what became of them
  async-executor --url URL --token TOKEN   serves a real GitLab; the token starts with glrt-
  async-executor --help | --version

The first interrupt ends the runner when its jobs have ended, the second aborts them, the third leaves them.";

/// Jobs at a time.
const CONCURRENT: u32 = 4;

/// From asking a script to stop to making it.
const GRACE: Duration = Duration::from_secs(5);

/// For how long output is waited for once a script has ended. Only a process that has left its group can still write.
const LINGER: Duration = Duration::from_secs(1);

/// What the handlers of all jobs share.
struct Shared {
    host: Host,
    console: Console,
    /// How many interrupts came: see `USAGE`.
    interrupts: watch::Receiver<u8>,
}

/// The runner's side of one job: run it, report what became of it, and say so.
async fn serve(mut job: Job, shared: &Shared) {
    let ran = execute(&job, shared).await;
    let (result, note) = ran.unwrap_or_else(|error| {
        write(&job, &ansi::error(&format!("Job failed (system failure): {error}")));
        (JobResult::failed(FailureReason::RunnerSystemFailure), error.to_string())
    });
    let delivered = job.finish(result).await;
    shared.console.ended(job.spec(), &delivered, &note);
    if let Ok(_) | Err(Error::Aborted(_)) = delivered
        && let Err(error) = shared.host.folder(job.id()).map_err(Into::into).and_then(|folder| folder.remove())
    {
        eprintln!("async-executor: job {}: its folder is still there: {error}", job.id());
    }
}

/// Runs the steps of a job. Gives its result, and how it ended in a few words.
async fn execute(job: &Job, shared: &Shared) -> Result<(JobResult, String)> {
    shared.console.job(job.spec(), State::Running, "");
    let mut execution = Execution::new(&shared.host, job.spec())?;
    for secret in &execution.secrets() {
        job.mask(secret);
    }
    execution.introduction().iter().for_each(|(section, text)| write_section(job, section, text));
    while let Some(step) = execution.next_step()? {
        job.open_section(&step.section);
        let end = run(job, step, shared).await?;
        job.end_step();
        write(job, &execution.step_ended(end));
        job.close_section();
    }
    let (section, text) = execution.clean_up();
    write_section(job, &section, &text);
    write(job, &execution.last_line());
    Ok((execution.result(), execution.summary()))
}

/// Runs one step to its end. What it prints goes into the log as it comes, as one stream: see `run` in `executor.rs`.
///
/// If the future is dropped, the script is killed with all that it has started.
async fn run(job: &Job, step: Step, shared: &Shared) -> Result<End> {
    let Step { command, output, cancelable, limit, .. } = step;
    let mut command = Command::from(command);
    let mut child = command.spawn()?;
    // The end of the output is when all processes that can write have ended, and `command` is not one of them.
    drop(command);
    let group = child.id().and_then(Group::of).ok_or("the script has no process group")?;
    let (ended, has_ended) = oneshot::channel();
    let mut forwarding = JoinSet::new();
    forwarding.spawn(forward(Receiver::from_owned_fd(output.into())?, job.log(), has_ended));
    let left = job.time_left();
    let end = tokio::select! {
        status = child.wait() => End::Exited(status?),
        end = stops(job, cancelable, shared) => end,
        () = sleep(limit.map_or(left, |limit| limit.min(left))) => End::TimedOut,
    };
    if matches!(end, End::Canceled) {
        shared.console.job(job.spec(), State::Canceling, "");
    }
    if matches!(end, End::Canceled | End::TimedOut | End::Interrupted) {
        group.terminate();
        tokio::select! {
            _ = timeout(GRACE, child.wait()) => {}
            () = aborted(job) => {}
        }
    }
    // Whatever the script has left behind is killed.
    drop(group);
    child.wait().await?;
    _ = ended.send(());
    // What was read is waited for while the log has no room for it, until the job is over or its time is up.
    let forwarded = timeout(job.time_left().max(LINGER), forwarding.join_next()).await;
    if !matches!(forwarded, Ok(Some(Ok(true)))) {
        write(job, "\n");
    }
    Ok(end)
}

/// Waits until a script must not go on. A graceful cancellation stops the script, and not `after_script`.
async fn stops(job: &Job, cancelable: bool, shared: &Shared) -> End {
    let mut interrupts = shared.interrupts.clone();
    let interrupted = async {
        if interrupts.wait_for(|count| *count > 1).await.is_err() {
            std::future::pending().await
        }
    };
    let canceled = async {
        match job.cancelled().await {
            Cancellation::Requested if !cancelable => {
                aborted(job).await;
                End::Aborted
            }
            Cancellation::Requested => End::Canceled,
            _ => End::Aborted,
        }
    };
    tokio::select! {
        end = canceled => end,
        () = interrupted => End::Interrupted,
    }
}

/// Waits until GitLab no longer wants a job that is being cancelled.
async fn aborted(job: &Job) {
    while job.cancelled().await == Cancellation::Requested {
        sleep(Duration::from_millis(100)).await;
    }
}

/// Copies what a script prints to the log, for as long as there is room in it. True if it ends with a newline, or is empty.
async fn forward(mut output: Receiver, log: Log, has_ended: oneshot::Receiver<()>) -> bool {
    let mut lingered = pin!(async {
        _ = has_ended.await;
        sleep(LINGER).await;
    });
    let (mut buffer, mut newline) = (BytesMut::new(), true);
    loop {
        buffer.reserve(64 * 1024);
        let count = tokio::select! {
            biased;
            count = output.read_buf(&mut buffer) => count,
            () = &mut lingered => return newline,
        };
        match count {
            Ok(0) | Err(_) => return newline,
            Ok(_) => newline = buffer.ends_with(b"\n"),
        }
        // A job that is over takes no more log. Its script is about to be stopped.
        _ = log.send(buffer.split().freeze()).await;
    }
}

fn write(job: &Job, text: &str) {
    _ = job.log().write_all(text.as_bytes());
}

fn write_section(job: &Job, section: &Section, text: &str) {
    job.open_section(section);
    write(job, text);
    job.close_section();
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => demo().await,
        ["--url", url, "--token", token] | ["--token", token, "--url", url] => serve_instance(url, token).await,
        ["--help" | "-h"] => {
            println!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        ["--version" | "-V"] => {
            println!("async-executor {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
        _ => Err(USAGE.into()),
    };
    done.unwrap_or_else(|error| {
        eprintln!("async-executor: {error}");
        ExitCode::from(2)
    })
}

/// Makes a runner that announces what this one keeps.
async fn register(url: &str, token: &str) -> Result<Runner> {
    let registration = Registration::new();
    let info = info(registration.info(), "async-executor");
    Ok(Runner::register(url, token, registration.with_info(info.clone())).await?.with_info(info))
}

async fn serve_instance(url: &str, token: &str) -> Result<ExitCode> {
    let mut runner = register(url, token).await?;
    let console = Console::new();
    console.line(&format!("serving {} as runner {}; interrupt to stop", runner.url(), runner.id()));
    serve_all(&mut runner, console, std::future::pending()).await?;
    Ok(ExitCode::SUCCESS)
}

/// Takes jobs until `done` is ready or an interrupt comes. Gives the console back.
async fn serve_all(runner: &mut Runner, console: Console, done: impl Future<Output = ()>) -> Result<Arc<Shared>> {
    let builds = tempfile::tempdir()?;
    let mut interrupts = heed_signals()?;
    let host = Host::new(builds.path(), runner.token(), runner.info());
    let shared = Arc::new(Shared { host, console, interrupts: interrupts.clone() });
    let handler = {
        let shared = Arc::clone(&shared);
        move |job| {
            let shared = Arc::clone(&shared);
            async move { serve(job, &shared).await }
        }
    };
    let stopped = async {
        tokio::select! {
            () = done => {}
            _ = interrupts.wait_for(|count| *count > 0) => {}
        }
    };
    runner.run_with(CONCURRENT, handler, stopped, |event| eprintln!("async-executor: {event:?}")).await?;
    Ok(shared)
}

/// Counts interrupts, and acts upon the third.
fn heed_signals() -> Result<watch::Receiver<u8>> {
    let (count, interrupts) = watch::channel(0);
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            count.send_modify(|count| *count += 1);
            match *count.borrow() {
                1 => eprintln!("async-executor: takes no more jobs; interrupt again to abort those that run"),
                2 => eprintln!("async-executor: aborts its jobs; interrupt again to leave them"),
                _ => {
                    Group::kill_all();
                    std::process::exit(1);
                }
            }
        }
    });
    Ok(interrupts)
}

async fn demo() -> Result<ExitCode> {
    let demo = Arc::new(Demo::start()?);
    let console = Console::new();
    console.line(&format!("A GitLab, simulated in this process at {}, and a runner:\n", demo.url()));
    let mut runner = register(&demo.url(), Demo::TOKEN).await?.configure(Demo::hurry);
    let user = {
        let demo = Arc::clone(&demo);
        tokio::task::spawn_blocking(move || demo.play_user())
    };
    let shared = serve_all(&mut runner, console, async { _ = user.await }).await?;
    Ok(if demo.report(&shared.console) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
