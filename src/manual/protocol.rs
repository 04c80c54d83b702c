//! What GitLab's answers are taken to mean.
//!
//! # Answers to a job's calls
//!
//! The first row that matches decides. *Report* is the final `PUT`. *Report sent* means that one was in flight, in this life of the
//! job or in an earlier one; *may have arrived* means that it got no answer, or one of 2xx, 408 or 5xx. This table is the
//! specification: a test reads it and compares it with the code, on every combination.
//!
#![doc = include_str!("verdicts.md")]
//!
//! *GitLab's word* is an answer with a `Job-Status`; or a 403 whose JSON body has a `message` or an `error` that begins with
//! `403 Forbidden`; or a 400 whose body is a JSON object with a `message` or an `error`. *No page* means that the answer is not
//! HTML: its `Content-Type` is not `text/html`, and its body does not begin with `<`. Of answers to a patch, whose bodies need
//! not be collected, the `Content-Type` alone decides.
//!
//! Besides, `Job-Status: canceling` on any answer asks for a graceful stop, and `X-GitLab-Trace-Update-Interval` on any
//! answer sets the pace.
//!
//! | Verdict | What the job does |
//! |---|---|
//! | confirmed | [`Finished`](crate::JobEvent::Finished) as reported. A lost 200 shows up later as a 403 that names our own state: that is success |
//! | confirmed by inference | [`Finished`](crate::JobEvent::Finished) with [`Outcome::Inferred`](crate::Outcome::Inferred). GitLab removes a job's token soon after the job has ended, so that this is the usual answer to a report that is repeated after its answer was lost |
//! | canceled, overruled | [`Finished`](crate::JobEvent::Finished) as GitLab holds it |
//! | abort | [`Aborted`](crate::JobEvent::Aborted); nothing more is sent. *Not accepted*: the runner manager that took the job is gone, and GitLab fails the job two minutes later |
//! | foreign refusal | the call failed. When nothing else came back for an hour ([`with_forbidden_patience`](crate::RunnerConfig::with_forbidden_patience)), the job is aborted as forbidden, or ends as [`Outcome::Unconfirmed`](crate::Outcome::Unconfirmed) if a report may have arrived |
//! | accepted | goes on |
//! | not in force | goes on: this server knows no acceptance |
//! | acknowledged | the log is there to the end of the piece; the next one after the interval, at once if it is a full one |
//! | resynchronise | goes on where GitLab's log ends, at once the first time, then with growing pauses until there was no such answer for a minute; see [durability](super::durability) for "before" and "behind" |
//! | probe the next byte | some servers name the last byte in place of the size: one empty patch asks whether the log ends one byte later |
//! | halve | sends half as much after a pause, but not less than 4 KiB. After ten minutes one larger piece is tried; if that is refused, the time doubles, up to four hours |
//! | touched | nothing |
//! | ask again | repeats the report after 1, 2, 4 … 64 s; after ten minutes without checksum, which GitLab completes at once |
//! | mismatch | pauses, finds out where GitLab's log ends, and sends it again from the start; the second time reports without checksum |
//! | refused | as failed; after ten minutes of nothing else ([`with_report_patience`](crate::RunnerConfig::with_report_patience)) [`Outcome::Refused`](crate::Outcome::Refused) |
//! | failed | repeats the call, after 100 ms to 60 s, or after the time told if that is longer |
//!
//! A running job is ended by GitLab's word alone: its own 403, `Job-Status` `canceled` or `failed`, or an acceptance that it refuses.
//! Nothing else ends it within an hour, and no number of failures does: log and result wait. An hour of nothing but 403 from somebody
//! else, or of nothing but 404, is taken for an end after all: GitLab avoids 404 on purpose, because a proxy may write one.
//!
//! Two kinds of answer cannot be told from GitLab's own, and are believed: a 2xx that is not a page, and a `Job-Status`. Somebody who
//! can forge these can end a job, or make it believe that its log arrived. HTTPS is what keeps them out.
//!
//! The final state, the reason and the exit code are fixed by [`finish`](crate::Job::finish) and never change. Checksum
//! and size are fixed when they are first reported, and may be dropped.
//!
//! # One thing that fails does not stop the others
//!
//! Log, keep-alives and report have pauses of their own, which grow and start anew independently. A keep-alive is due after
//! [`with_keep_alive`](crate::RunnerConfig::with_keep_alive) without an answer of GitLab, whatever becomes of the log meanwhile, so that
//! a cancellation is heard within one and a half intervals. A [`check_in`](crate::Job::check_in) goes out as soon as no other call is in
//! flight. Both wait only for a delay that was told for `PUT /jobs/:id` or for the whole host.
//!
//! A log that is *refused* (3xx, a 2xx that is no 202 of GitLab's, 4xx other than 408, 409, 416 and 429, or 501) does not hold the
//! result back for ever: ten minutes after [`finish`](crate::Job::finish) ([`with_log_patience`](crate::RunnerConfig::with_log_patience)),
//! if other calls work, [`TraceRefused`](crate::JobEvent::TraceRefused) says what is missing, and the report goes without checksum. Where
//! no answer comes, or one that asks to try again, log and result wait as long as it takes.
//!
//! # How much is sent at most
//!
//! Under all pauses lies a budget of calls that achieve nothing: 20, refilled by one every ten seconds. It is never refilled by an
//! answer, so that no sequence of answers makes a state machine hammer a server. A call achieves something if GitLab's log gets
//! longer than it ever was, or gets back what it lost (once an hour); if an acceptance or a report is taken for the first time, or a
//! job is handed out; if it is the job request of its check interval, the keep-alive of its interval, a check that the application
//! asked for, or a report that GitLab asked to repeat.
//!
#![doc = include_str!("economy.md")]
//!
//! The figures are the worst of two million answers, chosen by the adversary of the test kit: each answer alone, pairs in turns, at
//! random, and those that cost most.
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
