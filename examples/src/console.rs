//! What a runner prints while it serves.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::Instant;

use gitlab_runner_api::log::ansi;
use gitlab_runner_api::{JobSpec, Outcome};

/// What a runner tells of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "each has its colour")]
pub enum State {
    /// Its script runs.
    Running,
    /// It is being stopped, because a user cancelled it.
    Canceling,
    /// GitLab holds `success`.
    Success,
    /// GitLab holds `failed`, or something else that is not good.
    Failed,
    /// GitLab holds `canceled`.
    Canceled,
}

/// Standard output: one line whenever the state of a job changes. In colours if it is a terminal, and plain otherwise, or if
/// the variable `NO_COLOR` is set.
#[derive(Debug)]
pub struct Console {
    started: Instant,
    coloured: bool,
    /// Held while a line is printed.
    turn: Mutex<()>,
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

impl Console {
    /// Counts the seconds from now on.
    #[must_use]
    pub fn new() -> Self {
        let coloured = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { started: Instant::now(), coloured, turn: Mutex::default() }
    }

    /// Whether there are colours.
    #[must_use]
    pub fn is_coloured(&self) -> bool {
        self.coloured
    }

    /// A text in a colour, if there are colours.
    #[must_use]
    pub fn paint(&self, colour: &str, text: &str) -> String {
        if self.coloured { format!("{colour}{text}{}", ansi::RESET) } else { text.to_owned() }
    }

    /// Prints a line, which is lost if nobody reads it: that is no reason to stop jobs.
    pub fn line(&self, line: &str) {
        let _turn = self.turn.lock();
        _ = writeln!(io::stdout(), "{line}");
    }

    /// Prints the state of a job, and a note if there is something to add.
    pub fn job(&self, spec: &JobSpec, state: State, note: &str) {
        let (colour, word) = match state {
            State::Running => (ansi::BOLD_BLUE, "running"),
            State::Canceling => (ansi::BOLD_YELLOW, "canceling"),
            State::Success => (ansi::BOLD_GREEN, "success"),
            State::Failed => (ansi::BOLD_RED, "failed"),
            State::Canceled => (ansi::BOLD_YELLOW, "canceled"),
        };
        let seconds = self.started.elapsed().as_secs_f64();
        // A name is whatever the author of a pipeline wrote: it must not steer the terminal.
        let name = spec.job_info.name.replace(|c: char| c.is_control(), " ");
        let state = self.paint(colour, &format!("{word:<9}"));
        self.line(format!("{seconds:7.1} s  job {:<4} {name:<14}  {state}  {note}", spec.id).trim_end());
    }

    /// Prints how a job ended: what GitLab holds of it, or why that is not known. The note says why it failed.
    pub fn ended(&self, spec: &JobSpec, delivered: &Result<Outcome, impl fmt::Display>, note: &str) {
        match delivered {
            Ok(Outcome::Success) => self.job(spec, State::Success, ""),
            Ok(Outcome::Canceled) => self.job(spec, State::Canceled, ""),
            Ok(Outcome::Failed) => self.job(spec, State::Failed, note),
            Ok(outcome) => self.job(spec, State::Failed, &outcome.to_string()),
            Err(error) => self.job(spec, State::Failed, &error.to_string()),
        }
    }
}
