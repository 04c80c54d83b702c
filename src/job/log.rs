//! How the application writes to the log of a job: writes, sections, masked values, and the end of streams.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Job;
use super::event::{JobEvent, Written};
use super::phase::{Driving, Phase};
use crate::api::job_spec::Assignment;
use crate::log::{LogOptions, Pipeline, PipelineSnapshot, Section, Stream, section};
use crate::secret::Secret;
use crate::time::Timestamp;

/// Whether a value is hidden, see [`Job::mask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Masked {
    /// It is hidden in all that goes into the log from now on.
    Hidden,
    /// There is nothing to hide: it is empty, or white space.
    Empty,
    /// It is **not** hidden, because [`LogOptions::dangerously_raw`](crate::log::LogOptions::dangerously_raw) switches masking off.
    Raw,
}

/// What the application writes, on its way through the stages of [`crate::log`].
#[derive(Debug)]
pub(super) struct JobLog {
    pub(super) pipeline: Pipeline,
    /// Whether GitLab is told that the log has debug output (`debug_trace=true`). Stored here because finding it out looks at all variables.
    pub(super) is_debug_trace: bool,
    /// The names of the sections that are open, the innermost last.
    sections: Vec<String>,
    /// The latest time that a line was written at. The lines that close the log are not earlier.
    stamped_at: Timestamp,
}

/// What a snapshot holds of a [`JobLog`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredLog {
    #[serde(default, skip_serializing_if = "PipelineSnapshot::is_idle")]
    pipeline: PipelineSnapshot,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sections: Vec<String>,
}

impl StoredLog {
    pub(super) fn is_idle(&self) -> bool {
        self.pipeline.is_idle() && self.sections.is_empty()
    }

    /// Whether more may come into the log without a further write.
    pub(super) fn holds(&self) -> bool {
        self.pipeline.holds()
    }
}

impl JobLog {
    pub(super) fn new(pipeline: Pipeline, is_debug_trace: bool) -> Self {
        Self { pipeline, is_debug_trace, sections: Vec::new(), stamped_at: Timestamp::EPOCH }
    }

    pub(super) fn stored(&self, assignment: &Assignment) -> StoredLog {
        StoredLog { pipeline: self.pipeline.snapshot(assignment), sections: self.sections.clone() }
    }

    /// Restores the log from a snapshot. `written` is the size of the log then, after the stages.
    pub(super) fn restore(
        &mut self,
        stored: StoredLog,
        written: u64,
        options: &LogOptions,
        assignment: &Assignment,
        now: Timestamp,
    ) {
        self.pipeline.restore(stored.pipeline, written, options, assignment, now);
        self.sections = stored.sections;
    }

    /// Opens a section. Returns what begins it: a marker, if the server understands sections, and its title.
    fn open(&mut self, section: &Section, with_marker: bool, now: Timestamp) -> String {
        let mut text = String::new();
        if with_marker {
            let name = self.pipeline.section_name(section.wanted_name());
            text = section.start(&name, now);
            self.sections.push(name);
        }
        if let Some(title) = section.title() {
            let title = if self.pipeline.is_raw() { title.to_owned() } else { self.pipeline.hidden(title) };
            text += &section::title_line(&title);
        }
        text
    }

    /// Nothing more is written: all streams end, then the sections that are open, then the log.
    fn complete(&mut self, now: Timestamp, out: &mut dyn FnMut(Bytes)) {
        let now = now.max(self.stamped_at);
        self.pipeline.close(|_| true, now, out);
        while let Some(name) = self.sections.pop() {
            self.pipeline.insert(section::end(&name, now).into(), now, out);
        }
        self.pipeline.end(out);
    }
}

impl Job {
    /// Appends to the log as [`Stream::Runner`], for messages of the runner itself.
    pub fn write(&mut self, chunk: impl Into<Bytes>) -> Written {
        self.write_to(Stream::Runner, chunk)
    }

    /// Appends to the log. If lines have timestamps, the time is the one of the last call that had a `now`.
    pub fn write_to(&mut self, stream: Stream, chunk: impl Into<Bytes>) -> Written {
        self.write_at(stream, chunk, self.clock.now())
    }

    /// Appends to the log with this time, which is used only if lines have [timestamps](crate::log::Timestamps). It does not change the clock
    /// by which the job's timeout counts.
    ///
    /// The bytes are copied unless they are many. They pass the stages of [`crate::log`] together with other writes, when there is enough
    /// for a block, or when the result is needed.
    pub fn write_at(&mut self, stream: Stream, chunk: impl Into<Bytes>, now: Timestamp) -> Written {
        self.put(now, |log, out| log.pipeline.push(stream, chunk.into(), now, out))
    }

    /// Appends borrowed bytes to the log, as [`Job::write_to`] does. They are copied behind what was written before, without an allocation
    /// for each write.
    pub fn copy_to(&mut self, stream: Stream, chunk: &[u8]) -> Written {
        self.copy_at(stream, chunk, self.clock.now())
    }

    /// Appends borrowed bytes to the log, as [`Job::write_at`] does.
    pub fn copy_at(&mut self, stream: Stream, chunk: &[u8], now: Timestamp) -> Written {
        self.put(now, |log, out| log.pipeline.push_copy(stream, chunk, now, out))
    }

    /// Whether lines begin with the time they were written at, see [`Timestamps`](crate::log::Timestamps). If not, a writer that
    /// calls [`Job::copy_to`] or [`Job::write_to`] need not read the clock for each write.
    #[must_use]
    #[inline]
    pub fn has_timestamps(&self) -> bool {
        self.log.pipeline.is_stamped()
    }

    /// Passes everything that was written through the stages of the log.
    pub(super) fn run_log(&mut self) {
        let trace = &mut self.delivery.trace;
        self.log.pipeline.run(&mut |bytes| trace.write(bytes));
    }

    /// How many bytes were written to a stream, counted before the stages of [`crate::log`]. [`Job::log_size`] counts after them.
    ///
    /// After a resume, continue from this offset if the output still exists, for example as a file. Bytes that the stages hold back are in
    /// the snapshot, and need not be written again.
    #[must_use]
    pub fn taken(&self, stream: Stream) -> u64 {
        self.log.pipeline.taken(stream)
    }

    /// Hides a value in everything that is written from now on. Use it for a secret that the runner fetched or made.
    ///
    /// The value is also hidden in what was written before and is still held back: what may be the beginning of another secret, the
    /// unfinished line of a log with timestamps, and what waits for the end of a log near its [limit](crate::log::LogLimit). Bytes that
    /// have passed the stages before are not changed.
    ///
    /// The value is kept beside the payload, in [`Assignment::masked_at_run_time`](crate::Assignment::masked_at_run_time) of
    /// [`Job::assignment`]. If you save jobs, save the assignment again before the next snapshot. A job that is resumed
    /// without the value does not hide it.
    ///
    /// The result says whether the value is hidden.
    pub fn mask(&mut self, secret: &Secret) -> Masked {
        if secret.expose().trim().is_empty() {
            return Masked::Empty;
        }
        let known = self.assignment.masked_at_run_time().iter().any(|known| known.expose() == secret.expose());
        if !known {
            self.assignment = self.assignment.masking(secret.clone());
        }
        let before = self.log.pipeline.short_secrets();
        let JobLog { pipeline, sections, .. } = &mut self.log;
        let trace = &mut self.delivery.trace;
        pipeline.mask_more(&self.config.log, &self.assignment, secret, &mut |bytes| trace.write(bytes));
        for name in sections {
            pipeline.hide_in_section_name(name);
        }
        let shows = pipeline.is_raw();
        self.report_short_secrets(before);
        self.saving.change();
        if shows { Masked::Raw } else { Masked::Hidden }
    }

    pub(super) fn report_short_secrets(&mut self, before: usize) {
        let short = self.log.pipeline.short_secrets();
        if short > before {
            self.events.push_back(JobEvent::ShortSecrets(short));
        }
    }

    /// Opens a section of the log, within the section that is open. If the server does not support sections (`features.trace_sections`), only
    /// the title is written.
    ///
    /// The marker and the title enter the log at once, even if text that was written before them is still held back.
    pub fn open_section(&mut self, section: &Section, now: Timestamp) -> Written {
        let with_marker = self.spec().features.trace_sections;
        self.put(now, |log, out| {
            let text = log.open(section, with_marker, now);
            log.pipeline.insert(text.into(), now, out);
        })
    }

    /// Closes the section that was opened last. Those that are open when the job finishes are closed then.
    ///
    /// The marker enters the log at once. Text of the script that is held back stays so, because the script may continue writing. If it has
    /// ended, call [`Job::end_step`] or [`Job::close_stream`] first.
    pub fn close_section(&mut self, now: Timestamp) -> Written {
        self.put(now, |log, out| {
            if let Some(name) = log.sections.pop() {
                log.pipeline.insert(section::end(&name, now).into(), now, out);
            }
        })
    }

    /// Ends a step of the job: what is held back of the runner's messages, standard output and standard error enters the log. The streams of
    /// services stay open; end them with [`Job::close_stream`].
    ///
    /// Call it when a script has ended, before anything else is written. Otherwise the last bytes of the script may appear behind the next
    /// message of the runner, because they may be the beginning of a secret, or because their line has no end and lines have timestamps. A
    /// secret, token or URL parameter that begins before the end of a step and continues behind it is **not** hidden.
    pub fn end_step(&mut self, now: Timestamp) -> Written {
        self.close_streams(|stream| !matches!(stream, Stream::Service(_)), now)
    }

    /// Ends one stream: what is held back of it enters the log, as with [`Job::end_step`]. The stream can be written to again.
    pub fn close_stream(&mut self, stream: Stream, now: Timestamp) -> Written {
        self.close_streams(|of| of == stream, now)
    }

    fn close_streams(&mut self, of: impl Fn(Stream) -> bool, now: Timestamp) -> Written {
        self.put(now, |log, out| log.pipeline.close(of, now, out))
    }

    /// Lets `put` write into the log at this time, if the log still takes anything.
    fn put(&mut self, now: Timestamp, put: impl FnOnce(&mut JobLog, &mut dyn FnMut(Bytes))) -> Written {
        if self.driving != Driving::Open || self.phase != Phase::Running {
            return Written::Ended;
        }
        self.log.stamped_at = self.log.stamped_at.max(now);
        let trace = &mut self.delivery.trace;
        put(&mut self.log, &mut |bytes| trace.write(bytes));
        self.saving.change();
        Written::Queued
    }

    /// Nothing more is written.
    pub(super) fn complete_log(&mut self) {
        let trace = &mut self.delivery.trace;
        self.log.complete(self.clock.now(), &mut |bytes| trace.write(bytes));
    }
}
