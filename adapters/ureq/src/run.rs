//! The loop of a runner that serves many jobs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use gitlab_runner_api::{Output, PollerEvent};

use crate::error::Error;
use crate::job::Job;
use crate::runner::Runner;
use crate::stop::{Signal, Stop};

/// An event of [`Runner::run_with`]. The loop continues by itself after each of them.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunEvent {
    /// A job request brought no job: a refusal, an outage, or a lost answer.
    Poller(PollerEvent),
    /// A record in the state directory cannot be used. Each such record is reported once.
    ///
    /// [`Error::BadFile`] needs a human. The record stays as it is. GitLab's timeouts end its job, or it was failed if it was just assigned.
    /// [`Error::File`] and [`Error::System`] may be temporary, so the record is tried again every minute. [`Error::Held`] means that GitLab
    /// assigned a job that another process has.
    Record(Error),
}

/// Whether an error is about one record only, so that other records can still be used.
fn concerns_one(error: &Error) -> bool {
    matches!(error, Error::Held { .. } | Error::BadFile { .. })
}

/// One of the slots for jobs. Dropping it frees the slot, also when a handler has panicked.
struct Slot<'a> {
    busy: &'a AtomicU32,
    signal: &'a Signal,
}

impl<'a> Slot<'a> {
    fn hold(busy: &'a AtomicU32, signal: &'a Signal) -> Self {
        busy.fetch_add(1, Ordering::Relaxed);
        Self { busy, signal }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.signal.change(|_| _ = self.busy.fetch_sub(1, Ordering::Relaxed));
    }
}

impl Runner {
    /// Takes jobs and runs `handler` on each, on a thread of its own, at most `capacity` at a time, until `stop` drains it
    /// and GitLab has the result of the last job.
    ///
    /// A job is requested only while a slot is free. Jobs of this runner that were resumed outside of this loop also take slots. A handler
    /// gives its job a result. If it panics or returns without one, the job is failed with `runner_system_failure`, unless the handler has
    /// [saved](Job::save) it. All other events go to `hear`.
    ///
    /// With a [state directory](Runner::with_state_dir), this fails all jobs there that no process has when it begins, because their
    /// process died or called [`Job::leave`](crate::Job::leave). They get `runner_system_failure` and a line in their logs. Call
    /// [`Runner::recover`] before to continue some of them. Every minute this also looks for jobs whose process has died since, and fails
    /// them. It leaves jobs alone that another process releases in the meantime.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if no thread can be started for a job, and [`Error::File`] if its record cannot be written. That job is failed, and
    /// this waits for the others.
    ///
    /// [`Error::Patience`] if GitLab has not taken all results within the runner's patience after the last handler ended.
    pub fn run_with(
        &mut self,
        capacity: u32,
        handler: impl Fn(Job) + Sync,
        stop: &Stop,
        mut hear: impl FnMut(RunEvent),
    ) -> Result<(), Error> {
        let link = self.link.apart();
        let mut unusable = self.fail_left_behind(&link, |error| hear(RunEvent::Record(error)))?;
        let mut look_again = link.clock.now().saturating_add(self.look_again);
        let (signal, handler, busy) = (&*stop.signal, &handler, &AtomicU32::new(0));
        let mut poller = self.new_poller();
        let ran = self.link.notifying(&stop.signal, || {
            thread::scope(|scope| {
                loop {
                    if link.clock.now() >= look_again {
                        self.fail_orphaned(&mut unusable, &link, |error| hear(RunEvent::Record(error)));
                        look_again = link.clock.now().saturating_add(self.look_again);
                    }
                    let (draining, seen) = signal.look();
                    let elsewhere = u32::try_from(self.link.driven()).unwrap_or(u32::MAX);
                    let held = busy.load(Ordering::Relaxed).saturating_add(elsewhere);
                    poller.set_capacity(capacity.saturating_sub(held));
                    if draining {
                        poller.drain();
                    }
                    match link.poll(&mut poller) {
                        Output::Send(call) => {
                            let reply = link.exchange(call);
                            _ = reply.hand_in(&mut poller, link.clock.now());
                        }
                        // It fails by itself; nobody is to run it.
                        Output::Event(PollerEvent::Assigned(assignment)) if self.config.refuses(&assignment) => {
                            match self.take_up(&assignment, &link) {
                                Err(error) if concerns_one(&error) => hear(RunEvent::Record(error)),
                                job => job?.release(),
                            }
                        }
                        Output::Event(PollerEvent::Assigned(assignment)) => {
                            let job = match self.take_up(&assignment, &link) {
                                Err(error) if concerns_one(&error) => {
                                    hear(RunEvent::Record(error));
                                    continue;
                                }
                                job => job?,
                            };
                            let slot = Slot::hold(busy, signal);
                            let run = move || {
                                let _slot = slot;
                                // The panic was told of on its own thread, and the job's drop has failed the job.
                                _ = catch_unwind(AssertUnwindSafe(|| handler(job)));
                            };
                            thread::Builder::new().spawn_scoped(scope, run).map_err(Error::System)?;
                        }
                        Output::Event(event) => hear(RunEvent::Poller(event)),
                        Output::Wait(until) => {
                            let until = until.map_or(look_again, |until| until.min(look_again));
                            signal.wait(seen, link.clock.until(until));
                        }
                        Output::Done => return Ok(()),
                    }
                }
            })
        });
        // What a handler could not deliver in its patience is still being sent, for as long as this process lives.
        let delivered = link.wait_idle(self.patience);
        ran.and(if delivered { Ok(()) } else { Err(Error::Patience) })
    }

    /// [`Runner::run_with`], for those who need not hear of the poller's troubles.
    ///
    /// # Errors
    ///
    /// As [`Runner::run_with`].
    pub fn run(&mut self, capacity: u32, handler: impl Fn(Job) + Sync, stop: &Stop) -> Result<(), Error> {
        self.run_with(capacity, handler, stop, drop)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Mutex;
    use std::time::Duration;

    use gitlab_runner_api::JobRecord;
    use gitlab_runner_api_common::Registration;
    use gitlab_runner_api_testkit::{Coordinator, JobStatus, NewJob, Server as Gitlab, Settings, TimeLimit};

    use super::*;
    use crate::lock;

    const MOMENT: Duration = Duration::from_millis(5);

    /// A container that was replaced, and whose name is another now, is known to be dead only after a while.
    #[test]
    fn what_others_seem_to_hold_is_looked_at_again() {
        let mut gitlab = Coordinator::new(Settings::default());
        gitlab.add_runner("glrt-canary");
        let gitlab = Gitlab::start(gitlab).unwrap().with_time_limit(TimeLimit::TEST);
        let id = gitlab.with(|gitlab, now| gitlab.queue(now, NewJob::new("long")));
        let folder = tempfile::tempdir().unwrap();
        let runner = Runner::register(&gitlab.url(), "glrt-canary", Registration::new()).unwrap();
        let mut runner = runner.with_state_dir(folder.path());
        let job = runner.request_job().unwrap().unwrap();
        job.leave().unwrap();
        let lease = folder.path().join(id.to_string()).join("lease");
        let other = r#"{"host":"node-7","boot_id":"b","pid":4711,"heard_of":18446744073709551615}"#;
        fs::write(&lease, other).unwrap();
        // Another that nobody can use.
        let stored = include_str!("../../../tests/golden/job-record-1.json");
        let stored = stored.replace("https://gitlab.example.test", &gitlab.url());
        let damaged = folder.path().join("damaged");
        Job::store(&JobRecord::from_json(&stored).unwrap(), &damaged).unwrap();
        fs::write(damaged.join("snapshot.json"), "{").unwrap();

        runner.look_again = MOMENT;
        let (stop, heard) = (Stop::new(), Mutex::new(Vec::new()));
        let status = || gitlab.with(|gitlab, _| gitlab.job(id).unwrap().status());
        thread::scope(|scope| {
            let run = || runner.run_with(1, |_| panic!("no job is queued"), &stop, |event| lock(&heard).push(event));
            let running = scope.spawn(run);
            thread::sleep(20 * MOMENT);
            // What was given back is somebody's who will come.
            fs::remove_file(&lease).unwrap();
            thread::sleep(20 * MOMENT);
            assert_eq!(status(), JobStatus::Running);
            fs::write(&lease, other.replace("18446744073709551615", "1790000000")).unwrap();
            while status() == JobStatus::Running && !running.is_finished() {
                thread::sleep(MOMENT);
            }
            stop.drain();
            running.join().unwrap().unwrap();
        });
        assert_eq!(status(), JobStatus::Failed);
        let heard = heard.into_inner().unwrap();
        assert!(matches!(&heard[..], [RunEvent::Record(Error::BadFile { .. })]), "{heard:?}");
        assert_eq!(fs::read_to_string(damaged.join("snapshot.json")).unwrap(), "{");
    }
}
