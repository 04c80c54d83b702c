//! The cron pattern: a runner that is only there for a moment, and jobs that outlive it.
//!
//! Each call looks after the jobs in its state directory, takes one more if there is room, and exits. A script is a process of
//! its own that writes to a file; the next call forwards what is new, hears of a cancellation, and reports the result. A call
//! may be killed at any moment: the next one goes on where it was.
//!
//! Without arguments it starts a simulated GitLab in its own process, queues two jobs there, calls itself until both have
//! ended, and prints what GitLab holds. It needs a Unix, for `sh` and process groups.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "an application has processes, files and a clock"
)]

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use gitlab_runner_api_testkit::{Coordinator, JobStatus, NewJob, Server, Settings};
use gitlab_runner_api_ureq::{Cancellation, Error, FailureReason, Job, JobResult, Registration, Runner, Stream};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const USAGE: &str = "\
detached: looks after its jobs for a moment, and exits; call it from cron

  detached                              a show, against a simulated GitLab
  detached register URL TOKEN FOLDER    makes a runner that keeps all it knows in FOLDER
  detached step FOLDER                  forwards logs, reports results, takes a job if none runs";

/// Jobs at a time.
const CAPACITY: usize = 2;

/// How long one call waits for GitLab. What it could not deliver, the next one does.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a script once, whoever starts it how often, and leaves its exit code in `status`. Its input is a file that is locked
/// for as long as it lives, or anything its script has started.
const WRAPPER: &str = r#"mkdir started 2>/dev/null || exit 0
echo $$ > pid
sh -e ./script 3<&0 > output 2>&1 < /dev/null
echo $? > status.new
mv status.new status"#;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        [] => show(),
        ["register", url, token, folder] => register(url, token, Path::new(folder)),
        ["step", folder] => step(Path::new(folder)),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("detached: {error}");
            ExitCode::FAILURE
        }
    }
}

fn register(url: &str, token: &str, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    Ok(Runner::register(url, token, Registration::new())?.save(folder.join("runner.json"))?)
}

/// One call: everything that is to be done now.
fn step(folder: &Path) -> Result<()> {
    let runner = Runner::load(folder.join("runner.json"))?.with_log_header(false).with_patience(PATIENCE);
    let mut runner = runner.with_state_dir(folder.join("jobs"));
    let recovered = runner.recover()?;
    // A job that another call looks after at this moment is in good hands. All else needs a human.
    let (held, bad): (Vec<_>, Vec<_>) =
        recovered.left.into_iter().partition(|error| matches!(error, Error::Held { .. }));
    let mut running = held.len() + recovered.jobs.len();
    let mut troubles: Vec<String> = bad.iter().map(Error::to_string).collect();
    // The troubles of one job are not the others'. It stays in its record, and the next call tries again.
    for job in recovered.jobs {
        let id = job.id();
        troubles.extend(look_after(job, folder).err().map(|error| format!("job {id}: {error}")));
    }
    while running < CAPACITY {
        match runner.request_job() {
            Ok(None) => break,
            Ok(Some(job)) => troubles.extend(look_after(job, folder).err().map(|error| error.to_string())),
            Err(error) => {
                troubles.push(error.to_string());
                break;
            }
        }
        running += 1;
    }
    if troubles.is_empty() { Ok(()) } else { Err(troubles.join("\ndetached: ").into()) }
}

/// Brings a job as far as it can be brought now.
fn look_after(mut job: Job, folder: &Path) -> Result<()> {
    let work = folder.join("work").join(job.id().to_string());
    if job.state().is_over() {
        return report(job.wait_delivered(), &work);
    }
    // Whether GitLab still wants it: that is news for a runner that was away, and the acceptance of a job that is new.
    let unwanted = match job.auth() {
        Ok(()) => job.cancellation() != Cancellation::None,
        Err(Error::Aborted(_) | Error::Canceled) => true,
        // GitLab is not there: the script goes on, and the next call asks again.
        Err(_) => return Ok(job.leave()?),
    };
    if !unwanted && !work.join("started").exists() {
        start(&job, &work)?;
    }
    // Each before the next: a script that no longer lives has left its status, and all of its output was there before.
    let lives = !work.join("started").exists() || lives(&work)?;
    let status = fs::read_to_string(work.join("status")).ok().and_then(|code| code.trim().parse::<i32>().ok());
    forward(&job, &work.join("output"))?;
    let result = match status {
        _ if unwanted => JobResult::failed(FailureReason::ScriptFailure),
        Some(code) => JobResult::from_exit_code(code),
        None if job.time_left().is_zero() => JobResult::failed(FailureReason::JobExecutionTimeout),
        // Killed, or the machine was restarted.
        None if !lives => JobResult::failed(FailureReason::RunnerSystemFailure),
        None => return Ok(job.leave()?),
    };
    if lives && status.is_none() {
        stop(&work);
    }
    report(job.finish(result), &work)
}

/// The script, in a process that lives on when this one ends.
fn start(job: &Job, work: &Path) -> Result<()> {
    fs::create_dir_all(work)?;
    let script = job.spec().step("script").map(|step| step.script.join("\n")).unwrap_or_default();
    // An earlier call may have started it this moment: the file is whole at any time.
    fs::write(work.join("script.new"), script)?;
    fs::rename(work.join("script.new"), work.join("script"))?;
    let life = File::create(work.join("life"))?;
    if !lock(&life)? {
        // It was.
        return Ok(());
    }
    Command::new("sh")
        .args(["-c", WRAPPER])
        .current_dir(work)
        .stdin(life)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    Ok(())
}

/// Whether the script still runs: nothing but the end of all that belongs to it gives the lock back.
fn lives(work: &Path) -> Result<bool> {
    Ok(!lock(&File::open(work.join("life"))?)?)
}

/// False if somebody else has it locked.
fn lock(file: &File) -> Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Ok(false),
        locked => Ok(locked.map(|()| true)?),
    }
}

/// What the script has printed since the job was last saved.
fn forward(job: &Job, output: &Path) -> Result<()> {
    let mut file = match File::open(output) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    file.seek(SeekFrom::Start(job.taken(Stream::Stdout)))?;
    let mut log = job.log().stream(Stream::Stdout);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 || log.write_all(&buffer[..count]).is_err() {
            return Ok(());
        }
    }
}

fn stop(work: &Path) {
    let pid = fs::read_to_string(work.join("pid")).ok().and_then(|pid| pid.trim().parse().ok()).and_then(Pid::from_raw);
    if let Some(group) = pid {
        // That it is gone already is as good.
        _ = kill_process_group(group, Signal::KILL);
    }
}

/// GitLab knows: nothing of the job is needed any more.
fn report(delivered: Result<gitlab_runner_api_ureq::Outcome, Error>, work: &Path) -> Result<()> {
    match delivered {
        Ok(_) | Err(Error::Aborted(_) | Error::AlreadyFinished) => match fs::remove_dir_all(work) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        },
        Err(error) => Err(error.into()),
    }
}

fn show() -> Result<()> {
    let mut gitlab = Coordinator::new(Settings::default());
    gitlab.add_runner("glrt-simulated");
    let server = Server::start(gitlab)?;
    let scripts =
        [("succeeds", ["echo started", "sleep 1", "echo done"]), ("fails", ["echo started", "sleep 0.2", "exit 3"])];
    let ids = scripts
        .map(|(name, script)| server.with(|gitlab, now| gitlab.queue(now, NewJob::new(name).with_script(script))));
    let folder: PathBuf = tempfile::tempdir()?.keep();
    let call = |arguments: &[&str]| -> Result<()> {
        let status = Command::new(std::env::current_exe()?).args(arguments).status()?;
        if status.success() { Ok(()) } else { Err(format!("a call failed: {status}").into()) }
    };
    let place = folder.to_string_lossy();
    call(&["register", &server.url(), "glrt-simulated", &place])?;
    let mut calls = 0;
    while server.with(|gitlab, _| !gitlab.jobs().all(|job| job.status().is_final())) {
        call(&["step", &place])?;
        calls += 1;
        thread::sleep(Duration::from_millis(100));
    }
    println!("After {calls} calls, GitLab holds:\n");
    let wanted = [(JobStatus::Success, "started\ndone\n"), (JobStatus::Failed, "started\n")];
    let mut good = true;
    for (id, (status, log)) in ids.into_iter().zip(wanted) {
        good &= server.with(|gitlab, _| {
            let Some(job) = gitlab.job(id) else { return false };
            let text = String::from_utf8_lossy(job.trace());
            println!("{:<10} {:<8} exit {:?}, log {text:?}", job.name(), job.status().as_str(), job.exit_code());
            job.status() == status && text == log
        });
    }
    fs::remove_dir_all(folder)?;
    if good { Ok(()) } else { Err("something is not as it should be".into()) }
}
