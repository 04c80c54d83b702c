//! How the state machines interpret GitLab's answers.
//!
//! # Answers to a job's calls
//!
//! The first row that matches decides. *Report* is the final `PUT`. *Report sent* means that a report was sent before, by this
//! process or by an earlier one that had the job. *May have arrived* means that this report got no answer, or one of 2xx, 408 or
//! 5xx. This table is the specification: a test reads it and compares it with the code, on every combination.
//!
#![doc = include_str!("verdicts.md")]
//!
//! An answer is *GitLab's word* in three cases: it has a `Job-Status`; it is a 403 and the `message` or `error` in its JSON body
//! begins with `403 Forbidden`; or it is a 400 and its body is a JSON object with a `message` or an `error`. *No page* means that
//! the answer is not HTML: its `Content-Type` is not `text/html`, and its body does not begin with `<`. The body of an answer to a
//! patch may not have been read, so for a patch only the `Content-Type` counts.
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
//! Nothing else ends it within an hour: log and result wait, however many calls fail. If every answer in an hour is a 403 that
//! GitLab has not written, or every answer is a 404, the job ends after all. One 404 says little, because GitLab never answers a
//! job's calls with it and a proxy may.
//!
//! Two kinds of answer are believed although anybody can forge them: a 2xx that is not a page, and a `Job-Status`. Somebody who
//! can change the traffic can therefore end a job, or make it believe that its log arrived. HTTPS prevents that.
//!
//! The final state, the reason and the exit code are fixed by [`finish`](crate::Job::finish) and never change. Checksum
//! and size are fixed when they are first reported, and may be dropped.
//!
//! # A patch that does not begin where GitLab's log ends
//!
//! GitLab appends a patch only if it begins where its log ends. Otherwise it answers 416 and names the end. This is a job whose patch
//! of bytes 10 to 20 arrived, while the answer to it was lost:
//!
//! ```text
//!   job                                           GitLab has
//!    |  PATCH 10-19  ----------------------------->  10 bytes, then 20
//!    |                  X------------------ 202       the answer is lost
//!    |  PATCH 10-19  ----------------------------->  20: nothing is appended
//!    |  <-------- 202, or on older servers 416 with Range: 0-20
//!    |  PATCH 20-24  ----------------------------->  25
//! ```
//!
//! If the end is one that the job has not sent, somebody else has written to the same log. From there on the offsets of both logs
//! differ:
//!
//! ```text
//!   offsets of the job      0              10    13
//!                           |==============|=====|
//!                           |               \     \
//!   offsets at GitLab       0              10 15    18
//!                           |==============|##|=====|         ## somebody else's bytes
//! ```
//!
//! | GitLab's log ends at | The job goes on with its byte | because |
//! |---|---|---|
//! | 18 | 13 | all of it is there |
//! | 16 | 11 | GitLab lost the end |
//! | 12 | 10, at offset 12 | GitLab lost the end, and a part of the foreign bytes |
//! | 8 | 8 | GitLab lost the end and all foreign bytes. The offsets are the same again |
//!
//! # One thing that fails does not stop the others
//!
//! Log, keep-alives and report each have a back-off of their own. A keep-alive is due after
//! [`with_keep_alive`](crate::RunnerConfig::with_keep_alive) without an answer of GitLab, even while the log fails, so that the job
//! learns of a cancellation within one and a half intervals. A [`check_in`](crate::Job::check_in) goes out as soon as no other call is in
//! flight. Both wait only for a delay that was told for `PUT /jobs/:id` or for the whole host.
//!
//! A log that is *refused* (3xx, a 2xx that is no 202 of GitLab's, 4xx other than 408, 409, 416 and 429, or 501) does not hold the
//! result back for ever: ten minutes after [`finish`](crate::Job::finish) ([`with_log_patience`](crate::RunnerConfig::with_log_patience)),
//! if other calls work, [`TraceRefused`](crate::JobEvent::TraceRefused) says what is missing, and the report goes without checksum. Where
//! no answer comes, or one that asks to try again, log and result wait as long as it takes.
//!
//! # How much is sent at most
//!
//! Besides the pauses, each state machine has a budget of calls that achieve nothing. It holds 20 calls and gains one every ten
//! seconds. Only time refills it and no answer does, so no sequence of answers makes a state machine hammer a server. These calls
//! cost nothing of it:
//!
//! - a piece of log after which GitLab's log is longer than ever, or has back what GitLab lost (the latter once an hour);
//! - the first acceptance and the first report that GitLab takes, and a job request that brings a job;
//! - the one job request of each check interval, and the one keep-alive of each keep-alive interval;
//! - a check that the application asked for, and a report that GitLab asked to repeat.
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
//! A job request is not idempotent: GitLab hands a job out once. If the answer is lost, no runner has the job until one of
//! GitLab's timeouts fails it. [`AssignmentUncertain`](crate::PollerEvent::AssignmentUncertain) reports that, once for each
//! request. A server with two-phase commit fails such a job after two minutes, with the reason `runner_provisioning_timeout`, and
//! may retry it as a new job. The runner announces that feature, so that the loss costs minutes and not an hour. A runner can do no
//! more than wait for the answer. Job requests therefore have a long deadline, and [`drain`](crate::Poller::drain) waits for one
//! that is in flight.
//!
//! # Features and system ID
//!
//! Registration, verification and job requests send the same features and the same system ID. GitLab stores them at the first
//! contact of a runner manager, and updates them only every 40 to 55 minutes. If the first contact did not name
//! `cancel_gracefully`, GitLab cancels jobs without `after_script` for that long.
