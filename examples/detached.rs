//! The cron pattern: a runner that is only there for a moment, and jobs that outlive it.
//!
//! Each call looks after the jobs in its state directory, takes one more if there is room, and exits. A script is a process of
//! its own that writes to a file; the next call forwards what is new, hears of a cancellation, and reports the result. A call
//! may be killed at any moment: the next one goes on where it was.
//!
//! Without arguments it starts a simulated GitLab in its own process, queues two jobs there, calls itself until both have
//! ended, and prints what GitLab holds. It needs a Unix, for `sh` and process groups.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use examples::{Folder, Host, Result, script};
use gitlab_runner_api::api::info::Features;
use gitlab_runner_api_testkit::{Coordinator, JobStatus, NewJob, Server, Settings};
use gitlab_runner_api_ureq::{Cancellation, Error, FailureReason, Job, JobResult, Registration, Runner, Stream, ansi};

const USAGE: &str = "\
detached: looks after its jobs for a moment, and exits; call it from cron

  detached                              a demonstration, against a simulated GitLab
  detached register URL TOKEN FOLDER    makes a runner that keeps all it knows in FOLDER
  detached step FOLDER                  forwards logs, reports results, takes a job if there is room
  detached --help | --version";

/// Jobs at a time.
const CAPACITY: usize = 2;

/// How long one call waits for GitLab. What it could not deliver, the next one does.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a job's scripts once, also if several calls start it at the same time, and leaves the exit code in `status`. Its
/// input is a file that is locked for as long as it lives, or anything its scripts have started.
///
/// It writes the last line of the log itself. A call that wrote it could be killed before it has reported the result, and the
/// next one would write it again.
const WRAPPER: &str = r#"(set -C; : > started) 2> /dev/null || exit 0
echo $$ > group
exec 3<&0 < /dev/null > output 2>&1
(cd project && sh ../scripts/script)
code=$?
status=success
[ $code = 0 ] || status=failed
if [ -e scripts/after_script ]; then
  [ -z "$(tail -c 1 output 2> /dev/null)" ] || echo
  printf '\033[0K\033[36;1mRunning after_script\033[0;m\033[0;m\n'
  (cd project && CI_JOB_STATUS=$status sh ../scripts/after_script) ||
    printf '\033[0;33mWARNING: after_script failed, but job will continue unaffected: exit code %s\033[0;m\n' $?
fi
[ -z "$(tail -c 1 output 2> /dev/null)" ] || echo
if [ $code = 0 ]; then
  printf '\033[32;1mJob succeeded\033[0;m\n'
else
  printf '\033[31;1mERROR: Job failed: exit code %s\033[0;m\n' $code
fi
echo $code > status"#;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        [] => demo(),
        ["register", url, token, folder] => register(url, token, Path::new(folder)),
        ["step", folder] => step(Path::new(folder)),
        ["--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        ["--version" | "-V"] => {
            println!("detached {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
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

/// A runner that passes variables on and runs `after_script`. It does not promise to do so when a job is cancelled: then it
/// kills everything.
fn register(url: &str, token: &str, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    Ok(Runner::register(url, token, with_info(Registration::new()))?.save(folder.join("runner.json"))?)
}

fn with_info(registration: Registration) -> Registration {
    let features = Features::default().variables(true).raw_variables(true).shared(true);
    let info = registration.info().clone().with_name("detached").with_version(env!("CARGO_PKG_VERSION"));
    registration.with_info(info.with_executor("shell").with_features(features))
}

/// One call: everything that is to be done now.
fn step(folder: &Path) -> Result<()> {
    let info = with_info(Registration::new()).info().clone();
    let runner = Runner::load(folder.join("runner.json"))?.with_info(info).with_patience(PATIENCE);
    let mut runner = runner.with_state_dir(folder.join("jobs"));
    let host = Host::new(&folder.join("work"), runner.token(), runner.info());
    let recovered = runner.recover()?;
    // A job that another call looks after at this moment is in good hands. All else needs a human.
    let (held, bad): (Vec<_>, Vec<_>) =
        recovered.left.into_iter().partition(|error| matches!(error, Error::Held { .. }));
    let mut running = held.len() + recovered.jobs.len();
    let mut troubles: Vec<String> = bad.iter().map(Error::to_string).collect();
    // The troubles of one job are not the others'. It stays in its record, and the next call tries again.
    for job in recovered.jobs {
        let id = job.id();
        troubles.extend(look_after(job, &host).err().map(|error| format!("job {id}: {error}")));
    }
    while running < CAPACITY {
        match runner.request_job() {
            Ok(None) => break,
            Ok(Some(job)) => troubles.extend(look_after(job, &host).err().map(|error| error.to_string())),
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
fn look_after(mut job: Job, host: &Host) -> Result<()> {
    let work = host.folder(job.id())?;
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
    let started = || work.path().join("started").exists();
    if !unwanted && !started() {
        start(&job, host)?;
    }
    // Each before the next: a script that no longer lives has left its status, and all of its output was there before.
    let lives = !started() || work.is_alive()?;
    let status = fs::read_to_string(work.path().join("status")).unwrap_or_default();
    // Without its newline it may not be complete.
    let status = status.strip_suffix('\n').and_then(|code| code.parse::<i32>().ok());
    let newline = forward(&job, &work.path().join("output"))?;
    let (result, why) = match status {
        _ if unwanted => (JobResult::failed(FailureReason::ScriptFailure), Some("canceled")),
        Some(code) => (JobResult::from_exit_code(code), None),
        None if job.time_left().is_zero() => {
            (JobResult::failed(FailureReason::JobExecutionTimeout), Some("the job's time is up"))
        }
        // Killed, or the machine was restarted.
        None if !lives => (JobResult::failed(FailureReason::RunnerSystemFailure), Some("the script was killed")),
        None => return Ok(job.leave()?),
    };
    if lives && status.is_none() {
        work.kill()?;
    }
    if let Some(why) = why {
        // A job that is over takes no more log.
        let line = ansi::error(&format!("Job failed: {why}"));
        _ = job.log().write_all(if newline { line } else { format!("\n{line}") }.as_bytes());
    }
    report(job.finish(result), &work)
}

/// The scripts, in a process that lives on when this one ends.
fn start(job: &Job, host: &Host) -> Result<()> {
    let (life, locked) = host.folder(job.id())?.life()?;
    if !locked {
        // An earlier call started them this moment.
        return Ok(());
    }
    let work = host.prepare(job.spec())?;
    for secret in &work.further_secrets(job.spec()) {
        job.mask(secret);
    }
    for step in &job.spec().steps {
        if ["script", "after_script"].contains(&step.name.as_str()) {
            work.write_script(&step.name, &script(step))?;
        }
    }
    work.command("sh")
        .args(["-c", WRAPPER])
        .current_dir(work.folder.path())
        .stdin(life)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(())
}

/// Writes to the log what the script has printed since the job was last saved. False if that does not end with a newline.
fn forward(job: &Job, output: &Path) -> Result<bool> {
    let mut file = match File::open(output) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        file => file?,
    };
    let (mut log, mut last) = (job.log().stream(Stream::Stdout), [b'\n']);
    // The last byte is read here, because nothing may be new.
    if file.seek(SeekFrom::End(-1)).is_ok() {
        file.read_exact(&mut last)?;
    }
    file.seek(SeekFrom::Start(job.taken(Stream::Stdout)))?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = file.read(&mut buffer)?;
        let chunk = buffer.get(..count).unwrap_or_default();
        if let Some(byte) = chunk.last() {
            last = [*byte];
        }
        if count == 0 || log.write_all(chunk).is_err() {
            return Ok(last == *b"\n");
        }
    }
}

/// GitLab knows: nothing of the job is needed any more.
fn report(delivered: Result<gitlab_runner_api_ureq::Outcome, Error>, work: &Folder) -> Result<()> {
    match delivered {
        Ok(_) | Err(Error::Aborted(_) | Error::AlreadyFinished) => work.remove(),
        Err(error) => Err(error.into()),
    }
}

fn demo() -> Result<()> {
    let mut gitlab = Coordinator::new(Settings::default());
    gitlab.add_runner("glrt-simulated-runner-token");
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
    call(&["register", &server.url(), "glrt-simulated-runner-token", &place])?;
    let mut calls = 0;
    while server.with(|gitlab, _| !gitlab.jobs().all(|job| job.status().is_final())) {
        call(&["step", &place])?;
        calls += 1;
        thread::sleep(Duration::from_millis(100));
    }
    println!("After {calls} calls, GitLab holds:\n");
    let wanted = [
        (JobStatus::Success, ["\nstarted\n", "\ndone\n", "Job succeeded"]),
        (JobStatus::Failed, ["\nstarted\n", "exit 3", "ERROR: Job failed: exit code 3"]),
    ];
    let mut good = true;
    for (id, (status, texts)) in ids.into_iter().zip(wanted) {
        good &= server.with(|gitlab, _| {
            let Some(job) = gitlab.job(id) else { return false };
            let log = String::from_utf8_lossy(job.trace());
            let complete = texts.iter().all(|text| log.contains(text));
            println!("{:<10} {:<8} {} bytes of log", job.name(), job.status().as_str(), log.len());
            job.status() == status && complete
        });
    }
    fs::remove_dir_all(folder)?;
    if good { Ok(()) } else { Err("something is not as it should be".into()) }
}
