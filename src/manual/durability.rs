//! What to save, when, and what is lost otherwise.
//!
//! # What a saved job is
//!
//! | Part | When it changes | Secret |
//! |---|---|---|
//! | the assignment: [`Assignment::as_json`](crate::Assignment::as_json) | by [`Job::mask`](crate::Job::mask) alone | **yes**: it holds the job's token and its variables |
//! | the log: an append-only file of what [`Job::unsaved`](crate::Job::unsaved) gives | it grows | as much as the log is |
//! | the snapshot: [`JobSnapshot::to_json`](crate::JobSnapshot::to_json), a few hundred bytes | with each call | no, see below |
//!
//! [`Job::resume`](crate::Job::resume) needs the assignment and the snapshot. It asks for bytes of the log only if GitLab
//! turns out to need them ([`JobEvent::TraceNeeded`](crate::JobEvent::TraceNeeded)). If they are gone,
//! [`Job::forfeit_trace`](crate::Job::forfeit_trace) marks the hole, and the job can still be finished.
//!
//! The log is what came out of the [pipeline](crate::log); what the pipeline still holds back is in the snapshot. What may be
//! the beginning of a secret is named there by the number of the secret and a length. Where lines are stamped, the text of the
//! unfinished line is part of it, and of a log beyond its limit the end that is still to be written: by then both have been
//! masked. Nothing of it shows in `Debug`.
//!
//! An output that survives the runner, such as the file a detached process writes to, is read on from
//! [`Job::taken`](crate::Job::taken) after a resume: that counts what went in, where `log_size` counts what came out.
//!
//! # The order
//!
//! > **1. Save the assignment before anything else.** Until then, a crash loses the job.
//! >
//! > **2. Save, then send.**
//!
//! The second rule is kept for you: configure [`with_durable`](crate::RunnerConfig::with_durable), and a job never sends
//! a byte of log that was not declared [`saved`](crate::Job::saved), nor a result. When it needs you to save, it says
//! [`JobEvent::Save`](crate::JobEvent::Save), and then you:
//!
//! 1. append the bytes of [`unsaved`](crate::Job::unsaved) at their offset to the log file, and make it durable;
//! 2. replace the stored [`snapshot`](crate::Job::snapshot) atomically;
//! 3. say [`saved(revision, log_size)`](crate::Job::saved) with the snapshot's numbers.
//!
//! ```
//! # use gitlab_runner_api::*;
//! # struct Disk;
//! # impl Disk {
//! #     fn append(&mut self, _: u64, _: &[bytes::Bytes]) -> std::io::Result<()> { Ok(()) }
//! #     fn replace(&mut self, _: &str) -> std::io::Result<()> { Ok(()) }
//! # }
//! fn save(disk: &mut Disk, job: &mut Job) -> std::io::Result<()> {
//!     let (offset, chunks) = job.unsaved();
//!     disk.append(offset, &chunks)?;
//!     let snapshot = job.snapshot();
//!     disk.replace(&snapshot.to_json())?;
//!     job.saved(snapshot.revision(), snapshot.log_size());
//!     Ok(())
//! }
//! ```
//!
//! If saving fails, just go on: the job sends nothing new, keeps itself alive, and asks again.
//!
//! # Why the order matters
//!
//! GitLab compares sizes, not bytes: a patch that would end where the log already ends is taken for a repeat, and
//! dropped. If bytes could be sent that a resumed job no longer knows of, it would write other bytes in the same place,
//! and where the lengths happen to agree, they would be lost without a word. So nothing is sent that is not saved, and a
//! resumed job asks where GitLab's log ends before it sends anything: an *empty* patch at the end of what it may have
//! sent, which can change nothing. What is written meanwhile waits.
//!
//! | GitLab's log ends | Meaning | The job |
//! |---|---|---|
//! | there | nothing happened since | goes on |
//! | before | it has less than we saved | sends the rest again |
//! | behind | all of ours is there, and somebody else's after it | goes on behind that, and reports no checksum |
//!
//! The last row is what makes one saved job loadable several times, one after the other, with every line in GitLab's log
//! once and in order. Two processes that run one saved job *at the same time* cannot be kept apart by this protocol: do
//! not let it come to that.
//!
//! # What is kept in memory
//!
//! [`Retain::All`](crate::Retain::All) keeps the whole log, so that nothing is ever asked for before a resume.
//! [`Retain::Unacknowledged`](crate::Retain::Unacknowledged) keeps what GitLab has not confirmed (and, of a durable job,
//! what is not saved), which bounds memory whatever the log's size; then be ready for `TraceNeeded`.
