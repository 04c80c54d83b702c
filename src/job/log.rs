//! What goes into a job's log.

use bytes::Bytes;

use super::phase::Phase;
use super::{Job, JobEvent, Written};
use crate::log::{Section, Stream, section};
use crate::secret::Secret;
use crate::time::Timestamp;

impl Job {
    /// Appends to the log, as the runner itself.
    pub fn write(&mut self, chunk: impl Into<Bytes>) -> Written {
        self.write_to(Stream::Runner, chunk)
    }

    /// Appends to the log, at the time the job was last told.
    pub fn write_to(&mut self, stream: Stream, chunk: impl Into<Bytes>) -> Written {
        self.write_at(stream, chunk, self.clock.now())
    }

    /// Appends to the log. The time is that of [timestamps](crate::log::Timestamps), where lines have any; the job's own clock, which
    /// its timeout goes by, is not moved by it.
    pub fn write_at(&mut self, stream: Stream, chunk: impl Into<Bytes>, now: Timestamp) -> Written {
        if self.abandoned || self.phase != Phase::Running {
            return Written::Ended;
        }
        self.stamped_at = self.stamped_at.max(now);
        let trace = &mut self.trace;
        self.pipeline.push(stream, chunk.into(), now, &mut |bytes| trace.write(bytes));
        self.revision += 1;
        Written::Queued
    }

    /// How many bytes of a stream were written, before anything was done with them. [`Job::log_size`] counts those that came
    /// out. After a resume, this is where to go on in an output that is still there: what was taken and held back is in
    /// the snapshot.
    #[must_use]
    pub fn taken(&self, stream: Stream) -> u64 {
        self.pipeline.taken(stream)
    }

    /// Hides this value too, in all that is written from now on: a secret the runner fetched, or one it made. What of it
    /// the log holds already stays.
    ///
    /// It becomes part of [`Job::assignment`]. Where jobs are saved, save that again before the next snapshot: without the
    /// value, a job taken up from there does not mask it.
    pub fn mask(&mut self, secret: &Secret) {
        let known = self.spec().masked_at_run_time.iter().any(|known| known.expose() == secret.expose());
        if known || secret.expose().trim().is_empty() {
            return;
        }
        // What was read once can be read with one more member.
        let Ok(assignment) = self.assignment.masking(secret) else { return };
        self.assignment = assignment;
        let before = self.pipeline.short_secrets();
        self.pipeline.mask_more(&self.config.log, self.assignment.spec());
        self.report_short_secrets(before);
        self.revision += 1;
    }

    pub(super) fn report_short_secrets(&mut self, before: usize) {
        let short = self.pipeline.short_secrets();
        if short > before {
            self.events.push_back(JobEvent::ShortSecrets(short));
        }
    }

    /// Opens a section of the log, within the one that is open. Where the server does not understand sections
    /// (`features.trace_sections`), only its title is written.
    pub fn open_section(&mut self, section: &Section, now: Timestamp) -> Written {
        let markers = self.spec().features.trace_sections;
        let written = self.write_at(Stream::Runner, section.start(now, markers), now);
        if markers && written == Written::Queued {
            self.sections.push(section.name().to_owned());
        }
        written
    }

    /// Closes the section that was opened last. Those that are open when the job finishes are closed then.
    pub fn close_section(&mut self, now: Timestamp) -> Written {
        match self.sections.pop() {
            Some(name) => self.write_at(Stream::Runner, section::end(&name, now), now),
            None => self.write_at(Stream::Runner, "", now),
        }
    }

    /// Nothing more is written.
    pub(super) fn complete_log(&mut self) {
        let now = self.clock.now().max(self.stamped_at);
        while !self.sections.is_empty() {
            self.close_section(now);
        }
        let trace = &mut self.trace;
        self.pipeline.end(now, &mut |bytes| trace.write(bytes));
    }
}
