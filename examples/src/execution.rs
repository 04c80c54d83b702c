//! One job, step by step, without waiting for anything.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, PipeReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use gitlab_runner_api::api::job_spec::{Step as Spec, Variable};
use gitlab_runner_api::log::{Section, ansi};
use gitlab_runner_api::variables::quote;
use gitlab_runner_api::{FailureReason, JobResult, JobSpec, Secret};

use crate::Result;
use crate::workspace::{Host, Workspace, script};

/// What `after_script` may take, as with GitLab's own runner.
const AFTER_SCRIPT_TIMEOUT: Duration = Duration::from_secs(300);

/// One job: which step comes next, and what the log says in between.
///
/// Write [`Execution::introduction`] to the log. Run each [`Execution::next_step`] and tell [`Execution::step_ended`] how it
/// ended. Then write [`Execution::clean_up`] and [`Execution::last_line`], and report [`Execution::result`].
#[derive(Debug)]
pub struct Execution<'a> {
    spec: &'a JobSpec,
    workspace: Workspace<'a>,
    steps: VecDeque<&'a Spec>,
    after_script: Option<&'a Spec>,
    now: Option<&'a str>,
    verdict: Verdict,
}

/// How a step ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum End {
    /// By itself.
    Exited(ExitStatus),
    /// A user cancelled the job.
    Canceled,
    /// The job took too long.
    TimedOut,
    /// The runner is to stop at once.
    Interrupted,
    /// GitLab no longer wants the job.
    Aborted,
}

/// What became of the job so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Success,
    Failed(i32),
    Canceled,
    TimedOut(Duration),
    Interrupted,
    Aborted,
    /// A script ran when the process of the runner died.
    LeftBehind,
}

/// A step to be run now: within its section of the log, by its command, all of whose output comes from one pipe.
#[derive(Debug)]
#[non_exhaustive]
pub struct Step {
    /// The part of the log that holds the output.
    pub section: Section,
    /// The process. It makes a group of its own, and holds the other end of the pipe: drop it once it is started.
    pub command: Command,
    /// Standard output and standard error, in the order in which they were written.
    pub output: PipeReader,
    /// Whether a cancellation stops this step. It stops the script, and not `after_script`.
    pub cancelable: bool,
    /// The longest this step may take, if it has a limit of its own.
    pub limit: Option<Duration>,
}

impl<'a> Execution<'a> {
    /// Prepares a job that was just handed out, or that an earlier process of this runner left behind.
    ///
    /// Its scripts were children of that process and wrote to it, so that they cannot go on. If one was started, what is left
    /// of it is killed, and the job fails.
    ///
    /// # Errors
    ///
    /// If the operating system refuses.
    pub fn new(host: &'a Host, spec: &'a JobSpec) -> Result<Self> {
        let workspace = host.prepare(spec)?;
        let left_behind = workspace.folder.was_started();
        if left_behind {
            workspace.folder.kill()?;
        }
        let verdict = if left_behind { Verdict::LeftBehind } else { Verdict::Success };
        let (after_script, steps) = spec.steps.iter().partition::<Vec<_>, _>(|step| step.name == "after_script");
        Ok(Self {
            spec,
            workspace,
            steps: steps.into(),
            after_script: after_script.first().copied(),
            now: None,
            verdict,
        })
    }

    /// Values to give to `Job::mask` before anything runs.
    #[must_use]
    pub fn secrets(&self) -> Vec<Secret> {
        self.workspace.further_secrets(self.spec)
    }

    /// The sections that the log begins with, and the text of each.
    #[must_use]
    pub fn introduction(&self) -> Vec<(Section, String)> {
        if self.verdict == Verdict::LeftBehind {
            return Vec::new();
        }
        let host = rustix::system::uname();
        let mut source = "Skipping Git repository setup\n".to_owned();
        let ignored = ignored(self.spec);
        if !ignored.is_empty() {
            source.push_str(&ansi::warning(&format!("This runner ignores {}.", ignored.join(", "))));
        }
        vec![
            (
                Section::new("prepare_executor").with_title("Preparing the \"shell\" executor"),
                "Using Shell (sh) executor...\n".to_owned(),
            ),
            (
                Section::new("prepare_script").with_title("Preparing environment"),
                format!("Running on {}...\n", host.nodename().to_string_lossy()),
            ),
            (Section::new("get_sources").with_title("Getting source from Git repository"), source),
        ]
    }

    /// The next step, if there is one.
    ///
    /// All entries of `steps` are run until the first that fails. Then comes `after_script`, whether the script did well,
    /// failed, or was cancelled.
    ///
    /// # Errors
    ///
    /// If the operating system refuses.
    pub fn next_step(&mut self) -> Result<Option<Step>> {
        let script = if self.verdict == Verdict::Success { self.steps.pop_front() } else { None };
        let (spec, cancelable) = match script {
            Some(spec) => (spec, true),
            None => match self.after_script.take().zip(self.verdict.status()) {
                Some((spec, status)) => {
                    self.workspace.variables.push(Variable::new("CI_JOB_STATUS", status));
                    (spec, false)
                }
                None => return Ok(None),
            },
        };
        self.now = Some(&spec.name);
        let (section, limit) = if cancelable {
            let title = format!("Executing \"step_{}\" stage of the job script", spec.name);
            (Section::new(&format!("step_{}", spec.name)).with_title(&title), None)
        } else {
            (Section::new("after_script").with_title("Running after_script"), Some(AFTER_SCRIPT_TIMEOUT))
        };
        let (command, output) = self.command(spec)?;
        Ok(Some(Step { section, command, output, cancelable, limit }))
    }

    fn command(&self, spec: &Spec) -> Result<(Command, PipeReader)> {
        // A daemon that an earlier step left behind may hold the lock: this step runs all the same.
        let (life, _) = self.workspace.folder.life()?;
        // The lock stays open as descriptor 3 of the script and of all that it starts.
        let begin = format!(
            "exec 3<&0 < /dev/null\necho $$ > {}\n",
            quote(&self.workspace.folder.group_file().to_string_lossy())
        );
        let file = self.workspace.write_script(&spec.name, &(begin + &script(spec)))?;
        let (output, input) = io::pipe()?;
        let mut command = self.workspace.command("sh");
        command.arg(file).stdin(life).stdout(input.try_clone()?).stderr(input);
        Ok((command, output))
    }

    /// Takes in how the last step ended. The text goes into the log.
    #[must_use]
    pub fn step_ended(&mut self, end: End) -> String {
        let code = |status: ExitStatus| status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        if self.now == Some("after_script") {
            let problem = match end {
                End::Exited(status) if status.success() => return String::new(),
                End::Exited(status) => format!("exit code {}", code(status)),
                End::TimedOut => "it took too long".to_owned(),
                End::Interrupted => {
                    self.verdict = Verdict::Interrupted;
                    return String::new();
                }
                End::Canceled | End::Aborted => {
                    self.verdict = Verdict::Aborted;
                    return String::new();
                }
            };
            return ansi::warning(&format!("after_script failed, but job will continue unaffected: {problem}"));
        }
        self.verdict = match end {
            End::Exited(status) if status.success() => Verdict::Success,
            End::Exited(status) => Verdict::Failed(code(status)),
            End::Canceled => Verdict::Canceled,
            // Two hours is what the core takes where GitLab names no timeout.
            End::TimedOut => Verdict::TimedOut(self.spec.timeout().unwrap_or(Duration::from_secs(7200))),
            End::Interrupted => Verdict::Interrupted,
            End::Aborted => Verdict::Aborted,
        };
        match self.verdict {
            Verdict::Canceled => ansi::warning("script canceled externally (UI, API)"),
            _ => String::new(),
        }
    }

    /// Removes the files that hold secrets. Gives the section of the log that says so.
    #[must_use]
    pub fn clean_up(&self) -> (Section, String) {
        let title = "Cleaning up project directory and file based variables";
        let text = match self.workspace.remove_secrets() {
            Ok(()) => String::new(),
            Err(error) => ansi::warning(&format!("the files of file variables are still there: {error}")),
        };
        (Section::new("cleanup_file_variables").with_title(title), text)
    }

    /// The line that the log ends with; empty if nobody reads it.
    #[must_use]
    pub fn last_line(&self) -> String {
        match self.verdict {
            Verdict::Success => ansi::info("Job succeeded"),
            Verdict::Failed(_) | Verdict::Canceled | Verdict::TimedOut(_) => {
                ansi::error(&format!("Job failed: {}", self.verdict))
            }
            Verdict::Interrupted | Verdict::LeftBehind => {
                ansi::error(&format!("Job failed (system failure): {}", self.verdict))
            }
            Verdict::Aborted => String::new(),
        }
    }

    /// What to report to GitLab.
    #[must_use]
    pub fn result(&self) -> JobResult {
        match self.verdict {
            Verdict::Success => JobResult::success(),
            Verdict::Failed(code) => JobResult::from_exit_code(code),
            // GitLab makes `canceled` of it, whatever the reason.
            Verdict::Canceled | Verdict::Aborted => JobResult::failed(FailureReason::ScriptFailure),
            Verdict::TimedOut(_) => JobResult::failed(FailureReason::JobExecutionTimeout),
            Verdict::Interrupted => JobResult::failed(FailureReason::RunnerInterrupted),
            Verdict::LeftBehind => JobResult::failed(FailureReason::RunnerSystemFailure),
        }
    }

    /// How the job ended, in a few words.
    #[must_use]
    pub fn summary(&self) -> String {
        self.verdict.to_string()
    }
}

impl Verdict {
    /// What `after_script` finds in `CI_JOB_STATUS`; none if it does not run.
    fn status(self) -> Option<&'static str> {
        match self {
            Self::Success => Some("success"),
            Self::Failed(_) => Some("failed"),
            Self::Canceled => Some("canceled"),
            Self::TimedOut(_) | Self::Interrupted | Self::Aborted | Self::LeftBehind => None,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success => f.write_str("exit code 0"),
            Self::Failed(code) => write!(f, "exit code {code}"),
            Self::Canceled => f.write_str("canceled"),
            Self::TimedOut(limit) => {
                let (hours, minutes, seconds) =
                    (limit.as_secs() / 3600, limit.as_secs() / 60 % 60, limit.as_secs() % 60);
                // The words of GitLab's own runner, in which a span of time has its units already.
                f.write_str("execution took longer than ")?;
                match (hours, minutes) {
                    (0, 0) => write!(f, "{seconds}s seconds"),
                    (0, _) => write!(f, "{minutes}m{seconds}s seconds"),
                    _ => write!(f, "{hours}h{minutes}m{seconds}s seconds"),
                }
            }
            Self::Interrupted => f.write_str("aborted: the runner was told to stop"),
            Self::Aborted => f.write_str("aborted by GitLab"),
            Self::LeftBehind => f.write_str("the runner was restarted while the script ran"),
        }
    }
}

/// The parts of a job that this runner does nothing about, in words for the log.
fn ignored(spec: &JobSpec) -> Vec<&'static str> {
    let rows = [
        ("the image", spec.image.is_some()),
        ("the services", !spec.services.is_empty()),
        ("the caches", !spec.cache.is_empty()),
        ("the artifacts", !spec.artifacts.is_empty()),
        ("the artifacts of earlier jobs", !spec.dependencies.is_empty()),
    ];
    rows.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
}
