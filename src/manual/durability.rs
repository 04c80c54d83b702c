//! What to save, when, and what is lost otherwise.
//!
//! # What a saved job is
//!
//! | Part | When it changes | Secret |
//! |---|---|---|
//! | the payload: [`Assignment::as_json`](crate::Assignment::as_json) | never | **yes**: it holds the job's token and its variables |
//! | secrets learnt later: [`Assignment::masked_at_run_time`](crate::Assignment::masked_at_run_time) | by [`Job::mask`](crate::Job::mask), grows | **yes** |
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
//! [`JobEvent::Save`](crate::JobEvent::Save), also in an outage: a crash then costs no result, and no more log
//! than that of half a minute and of the call that is on its way. Then you:
//!
//! 1. append the bytes of [`unsaved`](crate::Job::unsaved) at their offset to the log file, and make it durable;
//! 2. replace the stored [`snapshot`](crate::Job::snapshot) atomically;
//! 3. say [`saved(revision, log_size)`](crate::Job::saved) with the snapshot's numbers.
//!
//! ```
//! use gitlab_runner_api::Job;
//!
//! /// Your storage of one job.
//! trait Disk {
//!     /// Writes these pieces at this offset of the log file, and makes them durable.
//!     fn append(&mut self, offset: u64, chunks: &[bytes::Bytes]) -> std::io::Result<()>;
//!     /// Replaces the stored snapshot atomically.
//!     fn replace(&mut self, snapshot: &str) -> std::io::Result<()>;
//! }
//!
//! fn save(disk: &mut impl Disk, job: &mut Job) -> std::io::Result<()> {
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
//! once and in order.
//!
//! # One job, one writer
//!
//! The rows above tell what *was* sent. They cannot tell two processes apart that go on with one saved job at the same time,
//! and GitLab does not either: both have the job's token. What they can do to each other:
//!
//! | Both | Then |
//! |---|---|
//! | send pieces that end at the same place | GitLab takes the second for a repeat, and drops it: those lines are lost, and nobody is told |
//! | send pieces that do not | the second is refused, takes the first for a stranger's, and goes on behind it: each log has holes where the other's lines are, also in the middle of a line |
//! | report a result | the first one counts. The other's job is aborted, and what it had not sent is lost |
//! | have a script | it runs twice |
//! | write one log file | its bytes are no longer those that the snapshot's checksum speaks of, and the next load is refused |
//!
//! So whatever keeps a saved job must see to it that one process has it: with a lock, a lease, or a queue that hands it to one
//! worker. A copy of a saved job is a second writer as soon as both are taken up. Handing it on is simple:
//! [`Job::abandon`](crate::Job::abandon), save, and let go; the next one asks GitLab where the log ends.
//!
//! # As one text
//!
//! [`JobRecord`](crate::JobRecord) is all of it in one value, with the log as far as it is kept, for those who have a database
//! and want a single column: [`to_json`](crate::JobRecord::to_json), [`from_json`](crate::JobRecord::from_json). Take up a job with
//! [`JobRecord::resume`](crate::JobRecord::resume), so that it has its log again and a later record has all of it. It is as
//! large as the log, so it is no way to save a job at each step. Jobs of the Python package become one too
//! ([`from_python`](crate::JobRecord::from_python)).
//!
//! # In files
//!
//! The blocking adapter, `gitlab-runner-api-ureq`, does all of this page: `Job::save` and `Job::load` for one job,
//! `Runner::with_state_dir` and `Runner::recover` for all. A record is a folder, for its owner alone (0700, its files 0600):
//!
//! | File | Is |
//! |---|---|
//! | `log` | appended to, and synchronised, before a byte of it is sent |
//! | `snapshot.json` | replaced with each piece of log: written beside, synchronised, renamed, and the folder synchronised |
//! | `assignment.json` | written last when a record is made: a folder without one is no record. **Secret** |
//! | `lease` | who has it; there is none while nobody has |
//! | `ended.json` | how the job ended; the assignment is removed then |
//!
//! What is cut or damaged in any place, or of a newer version, is refused with the name of the file, and left as it is. Bytes
//! of the log behind what the snapshot knows were never sent, and are cut off.
//!
//! The **lease** is held as long as the job's handle lives, and until its result is delivered. A second process is refused, and
//! told who holds it:
//!
//! | Holder and newcomer | What keeps them apart | A dead holder is known |
//! |---|---|---|
//! | on one machine and mount, also in different containers, with file locks | the lock | at once, unless it died in the three seconds of a take-over |
//! | all others | a stamp in the file, renewed every 30 s | after 300 s of silence |
//!
//! The file is made as a whole, and removed when the lease is given back: of several that find none, one makes it, on any file
//! system that can link or rename without replacing. Of several that find one and the same dead holder, the last to write has
//! the lease three seconds later.
//!
//! Where the stamp decides, clocks must agree within two minutes. A holder that slept for longer, as a suspended machine does, looks
//! before it says anything more: if the lease is another's, the job is over *here* (`Error::Held`), and goes on there. One that
//! cannot renew its stamp for three minutes gives up by itself. Neither a request nor the one write to a file that was under way
//! when the host was suspended can be called back; the log is another file by then.
//!
//! A job has one record. While nobody holds it, its folder can be moved as any other.
//!
//! A **state directory** has a record of each job before its handler starts. `Runner::recover` takes up what a dead process left:
//! jobs whose script survived can go on, and the others can be failed at once; a job that GitLab no longer wants is found out by
//! its first call. `Runner::run` fails what nobody recovered, and what turns out to be a dead holder's later. Each record that is
//! closed leaves a line in `ended.log` with the reason (two, if a second process had to see to it). Between GitLab's handing a
//! job out and its record there is a moment in which a crash loses the job; under two-phase commit GitLab then gives it out
//! again, as a new job.
//!
//! # What is kept in memory
//!
//! [`Retain::All`](crate::Retain::All) keeps the whole log, so that nothing is ever asked for before a resume.
//! [`Retain::Unacknowledged`](crate::Retain::Unacknowledged) keeps what GitLab has not confirmed: of a durable job, all that is not
//! saved, and at most 256 KiB of what is. That bounds memory whatever the log's size, and however long GitLab is away; then be
//! ready for [`TraceNeeded`](crate::JobEvent::TraceNeeded).
//!
//! [`Retain::Unsaved`](crate::Retain::Unsaved) is for jobs that are not durable. It keeps what GitLab has not confirmed and what the
//! application has not saved, and at most 6 MiB of what is saved and waits to be sent. Nothing waits for the saving, and no snapshot
//! is needed: whenever [`Job::unsaved_backlog`](crate::Job::unsaved_backlog) is large, append what [`Job::unsaved`](crate::Job::unsaved)
//! gives to a temporary file, call [`Job::saved`](crate::Job::saved), and answer
//! [`TraceNeeded`](crate::JobEvent::TraceNeeded) from that file. Both adapters do this with the logs of jobs that have no record:
//! a log of more than 2 MiB goes to a file without a name in the folder for temporary files, after the masks.
