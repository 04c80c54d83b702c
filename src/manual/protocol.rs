//! What GitLab's answers are taken to mean.
//!
//! # Answers to a job's calls
//!
//! First match wins. *Report* is the final `PUT`; *report sent* means that one was on the wire, in this life of the job or
//! an earlier one. This table is the specification: a test reads it and compares it with the code, on every combination.
//!
#![doc = include_str!("verdicts.md")]
//!
//! Besides, `Job-Status: canceling` on any answer asks for a graceful stop, and `X-GitLab-Trace-Update-Interval` on any
//! answer sets the pace.
//!
//! | Verdict | What the job does |
//! |---|---|
//! | confirmed | [`Finished`](crate::JobEvent::Finished) as reported. A lost 200 shows up later as a 403 that names our own state: that is success |
//! | canceled, overruled | [`Finished`](crate::JobEvent::Finished) as GitLab holds it |
//! | abort | [`Aborted`](crate::JobEvent::Aborted); nothing more is sent |
//! | ask once more | a bare 403 may be a firewall's: one `state=running`, and a second 403 aborts |
//! | accepted | goes on. A 400 here means that the server knows no acceptance |
//! | acknowledged | the log is there to the end of the piece; the next one after the interval, at once if it is a full one |
//! | resynchronise | goes on where GitLab's log ends, at once the first time, then with pauses until a piece is taken; see [durability](super::durability) for "before" and "behind" |
//! | halve | sends half as much, from now on |
//! | touched | nothing |
//! | ask again | repeats the report after 1, 2, 4 … 64 s; after ten minutes without checksum, which GitLab completes at once |
//! | mismatch | finds out where GitLab's log ends, and sends it again from the start; the second time reports without checksum |
//! | refused | as failed; after ten minutes of nothing else [`Outcome::Refused`](crate::Outcome::Refused) |
//! | failed | repeats the call, after the time told, else after 100 ms to 60 s. One [`Unreachable`](crate::JobEvent::Unreachable) |
//!
//! Four things end a running job:
//!
//! - an answer with the `Job-Status` `canceled` or `failed`;
//! - a 403 that has a `Job-Status`, or the JSON of GitLab in its body;
//! - a second 403 after the job has asked once more, whatever its body is;
//! - an hour of nothing but 404, which is [`AbortReason::NotFound`](crate::AbortReason::NotFound). A single 404 proves
//!   nothing, since GitLab avoids it on purpose.
//!
//! A proxy can therefore end a job, if it answers 403 twice or writes a JSON body as GitLab does. No other answer of a
//! proxy ends a job, and no number of failed calls does.
//!
//! The final state, the reason and the exit code are fixed by [`finish`](crate::Job::finish) and never change. Checksum
//! and size are fixed when they are first reported, and may be dropped.
//!
//! # Answers to a job request
//!
#![doc = include_str!("job_requests.md")]
//!
//! A job request is not idempotent: GitLab hands a job out once. If the answer is lost, the job runs nowhere until
//! GitLab's timeouts find it; [`AssignmentUncertain`](crate::PollerEvent::AssignmentUncertain) says so, once. Where the
//! server has two-phase commit it comes back after two minutes, which is why the feature is announced. There is no
//! better answer on this side of the wire, hence the long deadline of that call, and a
//! [`drain`](crate::Poller::drain) that waits for it.
//!
//! # Features and system ID
//!
//! They are the same in register, verify and job request. GitLab stores what a runner manager says at its first contact,
//! and refreshes it only every 40 to 55 minutes: without `cancel_gracefully` in it, jobs are cancelled hard for as long.
