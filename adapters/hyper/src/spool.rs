//! Moves the logs of jobs to temporary files and back, on threads that may block.

use std::io;
use std::ops::Range;

use bytes::Bytes;
use gitlab_runner_api::{Job, Timestamp};
use gitlab_runner_api_common::{READ_FOR, Spool};

/// The temporary file of a job's log, and the next thing to do with it.
#[derive(Debug)]
pub(crate) struct LogFile {
    /// `None` while a thread works on it.
    spool: Option<Spool>,
    /// The bytes that the job asked for with `TraceNeeded`.
    needed: Option<Range<u64>>,
    /// Since when the needed bytes cannot be read.
    unread_since: Option<Timestamp>,
}

/// What a thread that may block does with the file.
#[derive(Debug)]
pub(crate) enum Work {
    Append { offset: u64, chunks: Vec<Bytes> },
    Read(Range<u64>),
}

/// The result of a [`Work`].
#[derive(Debug)]
pub(crate) enum Done {
    /// The offset up to which the log is in the file.
    Appended(io::Result<u64>),
    Read(u64, io::Result<Option<Bytes>>),
}

impl Default for LogFile {
    fn default() -> Self {
        Self { spool: Some(Spool::default()), needed: None, unread_since: None }
    }
}

impl LogFile {
    /// The job asks for a part of its log.
    pub(crate) fn need(&mut self, range: Range<u64>) {
        self.needed = Some(range);
    }

    /// Whether this many bytes that are only in memory should be moved to the file.
    pub(crate) fn is_worthwhile(&self, unsaved: u64) -> bool {
        self.spool.as_ref().is_some_and(|spool| spool.is_worthwhile(unsaved))
    }

    /// Returns the next thing to do, and the file to do it with. Returns `None` if there is nothing to do, or while a thread has the file.
    pub(crate) fn next_work(&mut self, job: &mut Job) -> Option<(Spool, Work)> {
        if self.needed.is_none() && !self.is_worthwhile(job.unsaved_backlog()) {
            return None;
        }
        let spool = self.spool.take()?;
        let work = match self.needed.take() {
            Some(range) => Work::Read(range),
            None => {
                let (offset, chunks) = job.unsaved();
                Work::Append { offset, chunks }
            }
        };
        Some((spool, work))
    }

    /// Takes the file back, and tells the job what was done with it.
    pub(crate) fn done(&mut self, spool: Spool, done: Done, job: &mut Job, now: Timestamp) {
        self.spool = Some(spool);
        match done {
            Done::Appended(Ok(end)) => job.saved(job.revision(), end),
            // The log stays in memory.
            Done::Appended(Err(_)) => {}
            // The job asked twice, because a read took long, and has had the first answer.
            Done::Read(start, _) if job.trace_needed().is_none_or(|needed| needed.start != start) => {
                self.unread_since = None;
            }
            Done::Read(start, Err(_)) if now.saturating_since(*self.unread_since.get_or_insert(now)) < READ_FOR => {
                // Empty bytes make the job ask again after a pause. An error only means that it no longer needs them.
                _ = job.supply_trace(start, Bytes::new());
            }
            Done::Read(start, read) => {
                self.unread_since = None;
                let bytes = read.ok().flatten().filter(|bytes| !bytes.is_empty());
                if bytes.is_none_or(|bytes| job.supply_trace(start, bytes).is_err()) {
                    _ = job.forfeit_trace();
                }
            }
        }
    }
}

impl Work {
    pub(crate) fn perform(self, spool: &mut Spool) -> Done {
        match self {
            Self::Append { offset, chunks } => Done::Appended(spool.append(offset, &chunks)),
            Self::Read(range) => Done::Read(range.start, spool.read(range)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use gitlab_runner_api::api::info::Info;
    use gitlab_runner_api::log::{LogLimit, LogOptions};
    use gitlab_runner_api::{Assignment, JobEvent, JobResult, Machine, Output, Retain, RunnerConfig, Server};

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    /// A job with 4 MiB of log that GitLab had and lost, all of it in the file.
    fn bereft() -> (Job, LogFile, Vec<u8>) {
        let server = Server::parse("https://gitlab.example.test").unwrap();
        let config = RunnerConfig::new(server, Info::new("test", "1"))
            .with_log(LogOptions::default().with_limit(LogLimit::None))
            .with_retain(Retain::Unsaved);
        let assignment = Assignment::from_json(r#"{"id":7,"token":"glcbt-64_0123456789"}"#).unwrap();
        let (mut job, mut file) = (Job::new(Arc::new(config), &assignment, NOW), LogFile::default());
        let log: Vec<u8> = (0..4 << 20).map(|at: u32| b'a' + (at / 1000 % 26) as u8).collect();
        answer(&mut job, 200, "");
        assert!(matches!(job.poll(NOW), Output::Event(JobEvent::Accepted)));
        for piece in log.chunks(2 << 20) {
            job.write(piece.to_vec());
            work(&mut job, &mut file);
            answer(&mut job, 202, "");
            answer(&mut job, 202, "");
        }
        job.finish(JobResult::success());
        answer(&mut job, 416, "0-0");
        assert_eq!(job.retained().0, 4 << 20, "nothing is left in memory");
        (job, file, log)
    }

    fn answer(job: &mut Job, status: u16, range: &str) {
        let Output::Send(call) = job.poll(NOW) else { panic!("a call is due") };
        let answer = http::Response::builder().status(status).header("range", range).body(()).unwrap();
        job.handle_response(call.split().1, answer, NOW).unwrap();
    }

    fn work(job: &mut Job, file: &mut LogFile) {
        let (mut spool, work) = file.next_work(job).expect("there is something to do");
        assert!(file.next_work(job).is_none(), "the file is away");
        let done = work.perform(&mut spool);
        file.done(spool, done, job, NOW);
    }

    fn needed(job: &mut Job) -> Range<u64> {
        match job.poll(NOW) {
            Output::Event(JobEvent::TraceNeeded(range)) => range,
            other => panic!("the log is needed: {other:?}"),
        }
    }

    #[test]
    fn a_log_that_gitlab_lost_is_read_from_the_file() {
        let (mut job, mut file, log) = bereft();
        file.need(needed(&mut job));
        work(&mut job, &mut file);
        let Output::Send(call) = job.poll(NOW) else { panic!("the log is sent again") };
        assert_eq!(call.split().0.into_body().into_bytes(), log[..1 << 20]);
        assert!(file.next_work(&mut job).is_none());
    }

    #[test]
    fn an_answer_to_a_question_that_was_answered_changes_nothing() {
        let (mut job, mut file, log) = bereft();
        let range = needed(&mut job);
        file.need(range.clone());
        let (mut spool, first) = file.next_work(&mut job).unwrap();
        // That takes so long that the job asks again meanwhile.
        file.need(range.clone());
        let done = first.perform(&mut spool);
        file.done(spool, done, &mut job, NOW);
        let (mut spool, second) = file.next_work(&mut job).unwrap();
        answer(&mut job, 202, "");
        assert_eq!(needed(&mut job).start, range.end);
        let done = second.perform(&mut spool);
        file.done(spool, done, &mut job, NOW);
        assert_eq!(job.trace_needed().map(|needed| needed.start), Some(range.end));
        file.need(job.trace_needed().unwrap());
        work(&mut job, &mut file);
        let Output::Send(call) = job.poll(NOW) else { panic!("the next piece is sent again") };
        assert_eq!(call.split().0.into_body().into_bytes(), log[1 << 20..2 << 20]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_tried_again_and_then_given_up() {
        let (mut job, mut file, _) = bereft();
        let range = needed(&mut job);
        for (later, is_given_up) in [(0, false), (599, false), (600, true)] {
            let spool = file.spool.take().unwrap();
            let done = Done::Read(range.start, Err(io::ErrorKind::Other.into()));
            file.done(spool, done, &mut job, NOW.saturating_add(Duration::from_secs(later)));
            assert_eq!(job.trace_needed().is_none(), is_given_up, "after {later} s");
        }
        assert_eq!(job.log_size(), 4 << 20);
    }
}
