//! A shell runner that blocks, on the ureq adapter.
//!
//! Without arguments it starts a simulated GitLab in its own process, queues four jobs there, and runs them at the same time.
//! It prints one line whenever the state of a job changes, then a log, and then a table of what *GitLab* holds. It exits
//! with 1 if anything is not as it should be.
//!
//! With `--url URL --token glrt-TOKEN` it serves a real GitLab. It runs whatever the jobs say, as the user who started it:
//! use it where you would let their authors type.
//!
//! How to read it: `serve` is the runner's side of one job, `execute` runs its steps, `run` is one of them. What does not
//! depend on threads is in the library of this package, see `src/execution.rs`; `async-executor.rs` uses it as well.

use std::io::{PipeReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use examples::{Console, Demo, End, Execution, Group, Host, Result, State, Step, info};
use gitlab_runner_api_ureq::{
    Cancellation, Error, FailureReason, Job, JobResult, Registration, Runner, Section, Stop, ansi,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ioctl_fionread};

const USAGE: &str = "\
executor: runs the jobs of a GitLab runner with sh

  executor                           a demonstration: a simulated GitLab, four jobs, and what became of them
  executor --url URL --token TOKEN   serves a real GitLab; the token starts with glrt-
           [--builds DIR]            where jobs work (default: a folder that is removed in the end)
           [--state DIR]             keeps a record of each job, so that a restarted runner takes it up again
           [--concurrent N]          how many jobs at once (default: 4)
  executor --help | --version

The first interrupt ends the runner when its jobs have ended, the second aborts them, the third leaves them.";

/// From asking a script to stop to making it.
const GRACE: Duration = Duration::from_secs(5);

/// For how long more output is waited for once a script has ended. Only a process that has left its group can still write.
const LINGER: Duration = Duration::from_secs(1);

/// How often a running script is looked at.
const TICK: Duration = Duration::from_millis(20);

/// How many interrupts came: see `USAGE`.
static INTERRUPTS: AtomicU8 = AtomicU8::new(0);

/// The runner's side of one job, new or recovered: run it, report what became of it, and say so.
fn serve(mut job: Job, host: &Host, console: &Console) {
    let mut note = String::new();
    let delivered = if job.state().is_over() {
        // It has its result from an earlier process, or GitLab no longer wants it. The adapter does the rest.
        job.wait_delivered()
    } else {
        let ran = execute(&job, host, console);
        let (result, why) = ran.unwrap_or_else(|error| {
            write(&job, &ansi::error(&format!("Job failed (system failure): {error}")));
            (JobResult::failed(FailureReason::RunnerSystemFailure), error.to_string())
        });
        note = why;
        job.finish(result)
    };
    console.ended(job.spec(), &delivered, &note);
    // Where GitLab does not have the result yet, the folder tells a later process that the script was started.
    if let Ok(_) | Err(Error::Aborted(_)) = delivered
        && let Err(error) = host.folder(job.id()).map_err(Into::into).and_then(|folder| folder.remove())
    {
        eprintln!("executor: job {}: its folder is still there: {error}", job.id());
    }
}

/// Runs the steps of a job. Gives its result, and how it ended in a few words.
fn execute(job: &Job, host: &Host, console: &Console) -> Result<(JobResult, String)> {
    console.job(job.spec(), State::Running, "");
    let mut execution = Execution::new(host, job.spec())?;
    for secret in &execution.secrets() {
        job.mask(secret);
    }
    execution.introduction().iter().for_each(|(section, text)| write_section(job, section, text));
    while let Some(step) = execution.next_step()? {
        job.open_section(&step.section);
        let end = run(job, step, console)?;
        job.end_step();
        write(job, &execution.step_ended(end));
        job.close_section();
    }
    let (section, text) = execution.clean_up();
    write_section(job, &section, &text);
    write(job, &execution.last_line());
    Ok((execution.result(), execution.summary()))
}

/// Runs one step to its end. What it prints goes into the log as it comes.
///
/// Everything is written as the same stream, that of the runner itself. So the order of the log is the order of the writes,
/// also where a piece is held back because it may be the beginning of a secret.
fn run(job: &Job, step: Step, console: &Console) -> Result<End> {
    let Step { mut command, output, cancelable, limit, .. } = step;
    let mut child = command.spawn()?;
    // The end of the output is when all processes that can write have ended, and `command` is not one of them.
    drop(command);
    let group = Group::of(child.id()).ok_or("the script has no process group")?;
    let (started, mut asked) = (Instant::now(), None::<(Instant, End)>);
    let mut output = Output::new(output, job);
    let end = loop {
        output.forward(TICK)?;
        if let Some(status) = child.try_wait()? {
            // A script that was asked to stop may still say that all is well.
            break asked.map_or(End::Exited(status), |(_, why)| why);
        }
        let why = match job.cancellation() {
            Cancellation::Aborted => break End::Aborted,
            Cancellation::Requested if cancelable => End::Canceled,
            _ if INTERRUPTS.load(Ordering::Relaxed) > 1 => End::Interrupted,
            _ if job.time_left().is_zero() || limit.is_some_and(|limit| started.elapsed() >= limit) => End::TimedOut,
            _ => continue,
        };
        match asked {
            Some((since, why)) if since.elapsed() >= GRACE => break why,
            Some(_) => {}
            None => {
                if matches!(why, End::Canceled) {
                    console.job(job.spec(), State::Canceling, "");
                }
                group.terminate();
                asked = Some((Instant::now(), why));
            }
        }
    };
    // Whatever the script has left behind is killed.
    drop(group);
    child.wait()?;
    output.forward_rest()?;
    Ok(end)
}

/// What a script prints, on its way into the log.
struct Output<'a> {
    pipe: PipeReader,
    job: &'a Job,
    buffer: Vec<u8>,
    has_ended: bool,
    /// What it printed so far ends with a newline, or is empty.
    newline: bool,
}

impl<'a> Output<'a> {
    fn new(pipe: PipeReader, job: &'a Job) -> Self {
        Self { pipe, job, buffer: vec![0; 64 * 1024], has_ended: false, newline: true }
    }

    /// Waits for output, and writes what there is of it to the log. Returns its length: 0 if none came, or if it has ended.
    fn forward(&mut self, wait: Duration) -> Result<usize> {
        if self.has_ended {
            thread::sleep(wait);
            return Ok(0);
        }
        let mut pipe = [PollFd::new(&self.pipe, PollFlags::IN)];
        match poll(&mut pipe, Some(&wait.try_into()?)) {
            Ok(0) | Err(Errno::INTR) => return Ok(0),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let count = self.pipe.read(&mut self.buffer)?;
        let read = self.buffer.get(..count).unwrap_or_default();
        self.has_ended = read.is_empty();
        if let Some(last) = read.last() {
            self.newline = *last == b'\n';
        }
        // A job that is over takes no more log. Its script is about to be stopped.
        _ = self.job.log().write_all(read);
        Ok(count)
    }

    /// Writes to the log what has not been read when the script has ended, however long that takes, and ends the last line.
    fn forward_rest(mut self) -> Result<()> {
        let (mut unread, ended) = (usize::try_from(ioctl_fionread(&self.pipe)?)?, Instant::now());
        while !self.has_ended && (unread > 0 || ended.elapsed() < LINGER) {
            unread = unread.saturating_sub(self.forward(LINGER)?);
        }
        if !self.newline {
            write(self.job, "\n");
        }
        Ok(())
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

fn main() -> ExitCode {
    match Options::parse().and_then(Options::run) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("executor: {error}");
            ExitCode::from(2)
        }
    }
}

#[derive(Default)]
struct Options {
    url: Option<String>,
    token: Option<String>,
    builds: Option<PathBuf>,
    state: Option<PathBuf>,
    concurrent: Option<u32>,
    /// What was asked for in place of serving.
    told: Option<String>,
}

impl Options {
    fn parse() -> Result<Self> {
        use lexopt::prelude::*;
        let mut options = Self::default();
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("url") => options.url = Some(parser.value()?.string()?),
                Long("token") => options.token = Some(parser.value()?.string()?),
                Long("builds") => options.builds = Some(parser.value()?.into()),
                Long("state") => options.state = Some(parser.value()?.into()),
                Long("concurrent") => options.concurrent = Some(parser.value()?.parse()?),
                Long("help") | Short('h') => options.told = Some(USAGE.to_owned()),
                Long("version") | Short('V') => {
                    options.told = Some(concat!("executor ", env!("CARGO_PKG_VERSION")).into())
                }
                // An argument that is not known may be a token: it is not repeated.
                Value(_) => return Err(format!("there is an argument too many\n\n{USAGE}").into()),
                other => return Err(format!("{}\n\n{USAGE}", other.unexpected()).into()),
            }
        }
        if options.url.is_some() != options.token.is_some() {
            return Err("--url and --token go together".into());
        }
        Ok(options)
    }

    fn run(self) -> Result<ExitCode> {
        if let Some(told) = self.told {
            writeln!(std::io::stdout(), "{told}")?;
            return Ok(ExitCode::SUCCESS);
        }
        let temporary = tempfile::tempdir()?;
        let builds = self.builds.as_deref().unwrap_or(temporary.path());
        let stop = Stop::new();
        heed_signals(&stop)?;
        let concurrent = self.concurrent.unwrap_or(4);
        let Some((url, token)) = self.url.zip(self.token) else { return demo(builds, concurrent, &stop) };
        let mut runner = register(&url, &token)?;
        if let Some(state) = self.state {
            runner = runner.with_state_dir(state);
        }
        let console = Console::new();
        console.line(&format!("serving {} as runner {}; interrupt to stop", runner.url(), runner.id()));
        serve_all(&mut runner, builds, concurrent, &console, &stop)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Makes a runner that announces what this one keeps.
fn register(url: &str, token: &str) -> Result<Runner> {
    let registration = Registration::new();
    let info = info(registration.info(), "executor");
    Ok(Runner::register(url, token, registration.with_info(info.clone()))?.with_info(info))
}

/// Takes up the jobs that an earlier process left behind, and then new ones, until it is stopped.
fn serve_all(runner: &mut Runner, builds: &Path, concurrent: u32, console: &Console, stop: &Stop) -> Result<()> {
    let host = &Host::new(builds, runner.token(), runner.info());
    let recovered = runner.recover()?;
    recovered.left.iter().for_each(|error| eprintln!("executor: {error}"));
    thread::scope(|scope| {
        for job in recovered.jobs {
            scope.spawn(|| serve(job, host, console));
        }
        Ok(runner.run_with(
            concurrent,
            |job| serve(job, host, console),
            stop,
            |event| eprintln!("executor: {event:?}"),
        )?)
    })
}

/// Acts upon interrupts as `USAGE` says.
fn heed_signals(stop: &Stop) -> Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let (mut signals, stop) = (signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?, stop.clone());
    thread::spawn(move || {
        for _ in signals.forever() {
            match INTERRUPTS.fetch_add(1, Ordering::Relaxed) {
                0 => eprintln!("executor: takes no more jobs; interrupt again to abort those that run"),
                1 => eprintln!("executor: aborts its jobs; interrupt again to leave them"),
                _ => {
                    Group::kill_all();
                    std::process::exit(1);
                }
            }
            stop.drain();
        }
    });
    Ok(())
}

fn demo(builds: &Path, concurrent: u32, stop: &Stop) -> Result<ExitCode> {
    let demo = Demo::start()?;
    let console = Console::new();
    console.line(&format!("A GitLab, simulated in this process at {}, and a runner:\n", demo.url()));
    let mut runner = register(&demo.url(), Demo::TOKEN)?.configure(Demo::hurry);
    thread::scope(|scope| {
        scope.spawn(|| {
            demo.play_user();
            stop.drain();
        });
        serve_all(&mut runner, builds, concurrent, &console, stop)
    })?;
    Ok(if demo.report(&console) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
