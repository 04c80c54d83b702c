//! The demonstration: a simulated GitLab, a few jobs, a user who cancels one of them, and a look at what GitLab holds.

use std::thread;
use std::time::{Duration, Instant};

use gitlab_runner_api::RunnerConfig;
use gitlab_runner_api::log::ansi;
use gitlab_runner_api_testkit::{Coordinator, JobRecord, JobStatus, NewJob, Server, Settings};

use crate::{Console, Result};

/// The value of a masked variable, which the jobs print.
const SECRET: &str = "correct-horse-battery";

/// How much one of the jobs prints.
const MUCH: usize = 3 << 20;

/// When the user gives up. Nothing takes nearly as long, but the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// A simulated GitLab with four jobs.
#[derive(Debug)]
pub struct Demo {
    server: Server,
    jobs: Vec<Expected>,
}

/// A job, and what GitLab is to hold of it in the end.
#[derive(Debug)]
struct Expected {
    id: u64,
    status: JobStatus,
    reason: Option<&'static str>,
    exit_code: Option<i64>,
    /// Texts that are in its log, in this order.
    log: Vec<String>,
}

impl Demo {
    /// The token of the simulated runner.
    pub const TOKEN: &str = "glrt-simulated-runner-token";

    /// Starts the simulated GitLab in this process, and queues the jobs.
    ///
    /// # Errors
    ///
    /// If the operating system refuses a port or a thread.
    pub fn start() -> Result<Self> {
        let mut gitlab = Coordinator::new(Settings::default().with(|settings| {
            settings.first_job_id = 1;
            // GitLab asks for a piece of log a minute while nobody looks at it. The user of the demonstration does.
            settings.trace_interval = Some(1);
        }));
        gitlab.add_runner(Self::TOKEN);
        let server = Server::start(gitlab)?;
        let mut jobs = Vec::new();
        for (job, expected) in jobs_and_ends() {
            let id = server.with(|gitlab, now| gitlab.queue(now, job));
            jobs.push(Expected { id, ..expected });
        }
        Ok(Self { server, jobs })
    }

    /// The address of the simulated GitLab.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Shorter intervals than a runner should have, so that nobody has to wait.
    #[must_use]
    pub fn hurry(config: RunnerConfig) -> RunnerConfig {
        let short = Duration::from_millis(200);
        config.with_check_interval(short).with_update_interval(short).with_keep_alive(short)
    }

    /// Plays the user: cancels the third job once its log shows that it runs, and returns when all jobs have ended.
    pub fn play_user(&self) {
        let (deadline, mut cancelled) = (Instant::now() + PATIENCE, false);
        loop {
            let all_ended = self.server.with(|gitlab, now| {
                let third = self.jobs.get(2).and_then(|expected| gitlab.job(expected.id));
                let runs = third.filter(|job| String::from_utf8_lossy(job.trace()).contains("working for hours\n"));
                if let (Some(id), false) = (runs.map(JobRecord::id), cancelled) {
                    gitlab.cancel(now, id);
                    cancelled = true;
                }
                gitlab.jobs().all(|job| job.status().is_final())
            });
            if all_ended || Instant::now() > deadline {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Prints the log of the first job and a table of all. Returns whether everything is as it should be.
    #[must_use]
    pub fn report(&self, console: &Console) -> bool {
        if let Some(first) = self.jobs.first() {
            let trace = self.server.with(|gitlab, _| gitlab.job(first.id).map(|job| job.trace().to_vec()));
            console.line(&format!("\nThe log of job {}, as GitLab has it:\n", first.id));
            let bar = console.paint(ansi::BOLD_BLACK, "|");
            for line in shown(&String::from_utf8_lossy(&trace.unwrap_or_default()), console.is_coloured()) {
                console.line(format!("  {bar} {line}").trim_end());
            }
        }
        console.line("\nWhat GitLab holds of all jobs:\n");
        let head = format!(
            "{:>3}  {:<12}  {:<8}  {:<14}  {:>4}  {:>7}  {}",
            "Job", "Name", "Status", "Reason", "Exit", "Bytes", "Log"
        );
        console.line(&head);
        let mut good = true;
        for expected in &self.jobs {
            good &= self.server.with(|gitlab, _| {
                let Some(job) = gitlab.job(expected.id) else { return false };
                let as_printed = is_in_order(&String::from_utf8_lossy(job.trace()), &expected.log);
                let status = console.paint(colour(job.status()), &format!("{:<8}", job.status().as_str()));
                console.line(&format!(
                    "{:>3}  {:<12}  {status}  {:<14}  {:>4}  {:>7}  {}",
                    job.id(),
                    job.name(),
                    job.failure_reason().unwrap_or("-"),
                    job.exit_code().map_or("-".to_owned(), |code| code.to_string()),
                    job.trace().len(),
                    if as_printed { "complete" } else { "WRONG" },
                ));
                // A cancelled job keeps whatever reason its runner gave.
                let ended_so = expected.status == JobStatus::Canceled
                    || (job.failure_reason(), job.exit_code()) == (expected.reason, expected.exit_code);
                as_printed && job.status() == expected.status && ended_so
            });
        }
        let last = if good {
            console.paint(ansi::BOLD_GREEN, "Everything is as it should be: logs in order, the secret in none of them.")
        } else {
            console.paint(ansi::BOLD_RED, "Something is NOT as it should be.")
        };
        console.line(&format!("\n{last}"));
        good
    }
}

/// The jobs, and for each what GitLab is to hold in the end. Their numbers come with the queue.
fn jobs_and_ends() -> [(NewJob, Expected); 4] {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let hello = NewJob::new("hello")
        .with_variable("NAME", "world")
        .with_variable("GREETING", "hello, $NAME")
        .with_file_variable("LETTER", "written to a file\n")
        .with_masked_variable("API_KEY", SECRET)
        .with_script([
            "echo \"$GREETING from job $CI_JOB_ID\"",
            "cat \"$LETTER\"",
            "echo \"the key is $API_KEY\"",
            "echo first; echo second >&2; echo third",
            "for colour in 31 32 33 34 35 36; do\n  printf '\\033[%sm* ' $colour\ndone\nprintf '\\033[0m\\n'",
        ])
        .with_after_script(["echo \"after the script: $CI_JOB_STATUS\""]);
    let hello_log = texts(&[
        "on simulated, system ID: ",
        "$ echo \"$GREETING from job $CI_JOB_ID\"",
        "\nhello, world from job 1\n",
        "\nwritten to a file\n",
        "\nthe key is [MASKED]\n",
        "\nfirst\nsecond\nthird\n",
        "for colour in 31 32 33 34 35 36; do # collapsed multi-line command",
        "after the script: success\n",
        "Job succeeded",
    ]);
    let fails = NewJob::new("fails")
        .with_script(["echo one", "sh -c 'exit 42'", "echo never"])
        .with_after_script(["echo \"after the script: $CI_JOB_STATUS\""]);
    let fails_log = texts(&["\none\n", "after the script: failed\n", "ERROR: Job failed: exit code 42"]);
    let cancelled = NewJob::new("is cancelled")
        .with_script(["echo working for hours", "sleep 7200 & sleep 7200"])
        .with_after_script(["echo \"cleaning up: $CI_JOB_STATUS\""]);
    let cancelled_log = texts(&[
        "\nworking for hours\n",
        "WARNING: script canceled externally (UI, API)",
        "\ncleaning up: canceled\n",
        "ERROR: Job failed: canceled",
    ]);
    let much = NewJob::new("prints much").with_masked_variable("API_KEY", SECRET).with_script([
        format!("yes \"a line, with $API_KEY in it\" | head -c {MUCH}"),
        "printf 'the end, without a newline'".to_owned(),
    ]);
    let printed =
        format!("a line, with {SECRET} in it\n").repeat(MUCH / 32).split_at(MUCH).0.replace(SECRET, "[MASKED]");
    let much_log = vec![printed, "the end, without a newline\n".to_owned(), "Job succeeded".to_owned()];
    let ends = |status, reason, exit_code, log| Expected { id: 0, status, reason, exit_code, log };
    [
        (hello, ends(JobStatus::Success, None, None, hello_log)),
        (fails, ends(JobStatus::Failed, Some("script_failure"), Some(42), fails_log)),
        (cancelled, ends(JobStatus::Canceled, None, None, cancelled_log)),
        (much, ends(JobStatus::Success, None, None, much_log)),
    ]
}

/// Whether all of these texts are in the log, one after the other, and the secret is not.
fn is_in_order(log: &str, texts: &[String]) -> bool {
    let mut rest = log;
    let found = texts.iter().all(|text| match rest.find(text.as_str()) {
        Some(at) => {
            // The newline at the end of one text may be the one at the start of the next.
            let end = at + text.len() - usize::from(text.ends_with('\n'));
            rest = rest.get(end..).unwrap_or_default();
            true
        }
        None => false,
    });
    found && !log.contains(SECRET)
}

fn colour(status: JobStatus) -> &'static str {
    match status {
        JobStatus::Success => ansi::BOLD_GREEN,
        JobStatus::Canceled => ansi::BOLD_YELLOW,
        _ => ansi::BOLD_RED,
    }
}

/// The lines of a log as GitLab's page shows them: without the marks of sections, and without colours where there are none.
fn shown(log: &str, coloured: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for line in log.lines() {
        // A mark is everything up to the carriage return and the sequence that clears the line.
        let mut rest = line;
        let mut marks = false;
        while let Some((_, after)) = rest.strip_prefix("section_").and_then(|rest| rest.split_once('\r')) {
            rest = after.strip_prefix(ansi::CLEAR_LINE).unwrap_or(after);
            marks = true;
        }
        let rest = rest.replace(ansi::CLEAR_LINE, "");
        let text = if coloured { rest } else { without_colours(&rest) };
        if !(marks && text.is_empty()) {
            lines.push(text);
        }
    }
    lines
}

/// A text without the sequences that set colours.
fn without_colours(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(part.split_once('m').map_or(part, |(_, rest)| rest));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_shown_as_on_gitlabs_page() {
        let log = "a\n\x1b[0Ksection_start:1:x\r\x1b[0K";
        assert_eq!(shown(log, false)[0], "a");
        let log = "section_start:1:x[collapsed=true]\r\x1b[0K\x1b[0K\x1b[36;1mTitle\x1b[0;m\x1b[0;m\nout\n\
            section_end:2:x\r\x1b[0Ksection_start:2:y\r\x1b[0KNext\nsection_end:3:y\r\x1b[0K\nend\n";
        assert_eq!(shown(log, false), ["Title", "out", "Next", "end"]);
        assert_eq!(shown(log, true)[0], "\x1b[36;1mTitle\x1b[0;m\x1b[0;m");
    }

    #[test]
    fn a_log_that_is_out_of_order_or_has_the_secret_is_wrong() {
        let texts = ["\na\n".to_owned(), "\nb\n".to_owned()];
        assert!(is_in_order("x\na\nb\n", &texts));
        assert!(!is_in_order("x\nb\na\n", &texts));
        assert!(!is_in_order(&format!("x\na\nb\n{SECRET}"), &texts));
    }
}
