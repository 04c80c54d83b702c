//! A limit on how long a test may take.

use std::io::Write;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// Ends the process with a message if it is not dropped in time, so that a test which hangs fails instead.
///
/// A runner that works waits for an hour and more until GitLab can be reached. In a test of a runner that does not work, this
/// is time in which nothing is learnt. A limit sees the end of every kind of waiting, also of a `join` or of a `drop` that
/// never returns. It cannot end a thread that hangs, so it ends the process: the other tests of the program are lost with it.
/// The exit code is 101, as of a program that panicked.
///
/// ```
/// use gitlab_runner_api_testkit::TimeLimit;
///
/// let _limit = TimeLimit::start(TimeLimit::TEST);
/// // What the test does.
/// ```
#[derive(Debug)]
#[must_use = "a limit counts until it is dropped"]
pub struct TimeLimit {
    /// Its end is heard when it is dropped. Nothing is ever sent.
    _alive: Sender<()>,
}

impl TimeLimit {
    /// A limit for one test: 120 s. Many times what any test of this workspace takes, because the machine may be busy, and
    /// short enough to be waited for.
    pub const TEST: Duration = Duration::from_secs(120);

    /// Allows for so much time from now on.
    ///
    /// # Panics
    ///
    /// If the operating system refuses a thread.
    pub fn start(span: Duration) -> Self {
        let (alive, heard) = mpsc::channel();
        // Test programs name a thread after the test that it runs.
        let name = thread::current().name().unwrap_or("a thread").to_owned();
        thread::spawn(move || {
            if heard.recv_timeout(span) == Err(RecvTimeoutError::Timeout) {
                // Not by `eprintln`: what that prints is kept back until the test has ended, and it will not.
                _ = writeln!(std::io::stderr(), "\n{name} has not ended within {span:?}, and is given up");
                std::process::exit(101);
            }
        });
        Self { _alive: alive }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Instant;

    use super::*;

    const HANGS: &str = "GITLAB_RUNNER_API_TEST_HANGS";

    /// Does nothing, unless the test below runs it.
    #[test]
    fn hangs() {
        if std::env::var_os(HANGS).is_some() {
            drop(TimeLimit::start(Duration::from_millis(1)));
            thread::sleep(Duration::from_millis(100));
            let _limit = TimeLimit::start(Duration::from_millis(200));
            thread::sleep(Duration::from_secs(60));
        }
    }

    #[test]
    fn a_test_that_hangs_is_ended_with_its_name() {
        let started = Instant::now();
        let mut program = Command::new(std::env::current_exe().expect("this program"));
        let output = program.args(["--exact", "time_limit::tests::hangs"]).env(HANGS, "1").output().expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(101), "{told}");
        assert!(told.contains("time_limit::tests::hangs has not ended within 200ms"), "{told}");
        assert!(started.elapsed() < Duration::from_secs(50));
    }
}
