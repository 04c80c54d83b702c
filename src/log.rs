//! The log pipeline: turns what a job prints into what GitLab gets. It hides secrets, repairs UTF-8, and limits the size.
//!
//! Every byte of a log passes through the pipeline exactly once, before it is counted, kept, saved or sent. Offsets, checksum
//! and saved logs are all those of the bytes *after* the pipeline. Each [`Stream`] has its own chain of stages, in the order
//! of the official runner:
//!
//! | Stage | What it does | Holds back |
//! | --- | --- | --- |
//! | masks | hides every byte of every occurrence of a secret | what may be the beginning of a secret |
//! | URL parameters | hides the values of `?private_token=` and the like | nothing |
//! | token prefixes | hides what follows `glpat-` and the like | nothing |
//! | UTF-8 | replaces bytes that are not valid UTF-8 with U+FFFD | an incomplete character |
//! | timestamps | puts the time before each line, if that is switched on | an unfinished line |
//!
//! The [limit](LogLimit) comes after all chains. UTF-8 is repaired for each stream, before lines get timestamps. So a character that is cut
//! by the end of a write stays whole, even if another stream writes in between.
//!
//! # What is hidden
//!
//! - The values of the variables that are masked, the job's token, the password in the address of the repository, the passwords of
//!   `credentials`, and what [`Job::mask`](crate::Job::mask) adds. Tokens and passwords that are not variables are hidden if they have at least
//!   8 bytes.
//! - The value of a query parameter that authenticates, such as `private_token`, up to white space, a control character, `?` or `&`.
//! - What follows the prefix of a token, as long as it is made of letters, digits and `-._=`.
//!
//! Each of these is an occurrence. Occurrences that overlap are replaced with one `[MASKED]`. Occurrences that only touch get one each. A
//! secret does not end a token or the value of a parameter: if `glpat-` is followed by a secret and then by more letters, the secret and
//! the letters are hidden.
//!
//! How a stream is cut into writes makes no difference to the text that a reader sees. With timestamps it can change where an entry
//! ends: a CR at the end of a write ends an entry, even if the next write begins with an LF. A line without an end becomes an entry
//! when it has 8 KiB. An entry that continues a line is marked as such.
//!
//! # Where a stream ends
//!
//! Bytes that are held back are released when later bytes show what they are, or when their stream ends. A stream ends with
//! [`Job::end_step`](crate::Job::end_step), [`Job::close_stream`](crate::Job::close_stream) or the end of the job. The end of a section does
//! not end a stream, because the script may continue to write. If the script has ended, end the step first. The markers of sections
//! enter the log at once. They pass no stage, and end no stream.
//!
//! # What is not hidden
//!
//! A secret is recognised if its bytes appear unchanged in one stream. These are **not** hidden:
//!
//! - An encoded value, such as Base64 or hexadecimal digits. [`LogOptions::with_masked_encodings`] hides the forms that it names;
//!   hexadecimal digits, compressed text and other alphabets are never recognised.
//! - A single line of a secret of several lines, if the line is shorter than 8 bytes. Such lines match too much other text. The
//!   same holds for all lines without [`LogOptions::with_masked_lines`].
//! - A value that a job changes in any other way: in upper case, one that it prints in two halves, or with colours in between.
//! - A secret that is cut in two by the end of its stream, or that is partly in one stream and partly in another. If that matters, write
//!   standard output and standard error to one stream.
//! - What passed the pipeline before [`Job::mask`](crate::Job::mask) was called. If only a part of the secret has passed by then, the rest
//!   is not hidden either.
//! - A secret for which [`Job::mask`](crate::Job::mask) is called when its first bytes are already in the unfinished line of a log with
//!   timestamps, or wait for the end of the log, while its last bytes come later. If all of it waits there, it is hidden.
//! - The rest of a token behind a character that tokens cannot contain, and tokens with a prefix that is neither GitLab's nor named in the
//!   payload.
//! - Everything, with [`LogOptions::dangerously_raw`].
//!
//! References in masked values are expanded as for [`crate::variables::Place::default`]. If a job runs in another place and a value depends
//! on the place, add the values of [`crate::variables::Variables::masked`] with [`crate::Job::mask`].
//!
//! [`LogOptions`] selects what is done. [`crate::RunnerConfig::with_log`] sets them.

pub mod ansi;
mod automaton;
mod encodings;
mod input;
mod limit;
mod mask;
mod matcher;
mod options;
mod piece;
mod search;
pub(crate) mod section;
#[cfg(test)]
mod tests;
mod texts;
mod timestamps;
mod tokens;
mod trie;
mod urls;
mod utf8;

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::api::job_spec::Assignment;
use crate::secret::Secret;
use crate::time::Timestamp;
use crate::variables::Variables;
use automaton::Automaton;
use input::Input;
use limit::{Ending, Limit};
use mask::Secrets;
use piece::Piece;
use timestamps::{Line, Stamper};
use tokens::Tokens;
use urls::Urls;
use utf8::Repair;

pub use limit::LogLimit;
pub use mask::{Masker, Masks};
pub use options::{LogOptions, Timestamps};
pub use section::Section;

/// The origin of a part of a log. Each stream has its own chain of stages, so that a line or a secret of one stream is not cut by
/// another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Stream {
    /// Messages of the runner itself.
    #[default]
    Runner,
    /// The job's standard output.
    Stdout,
    /// The job's standard error.
    Stderr,
    /// A service of the job, by its index in the payload.
    Service(u16),
}

/// The stages of one job's log, and the writes that wait to pass them. Methods that need the result call [`Pipeline::run`] first, which
/// passes the waiting writes through the stages.
#[derive(Debug)]
pub(crate) struct Pipeline {
    raw: bool,
    stamped: bool,
    /// Boxed, and made when something is written, because there may be thousands of idle jobs.
    input: Option<Box<Input>>,
    masks: Arc<Masks>,
    prefixes: Arc<Automaton>,
    /// In the order of their streams, without spare capacity, because most jobs have one or two.
    chains: Vec<Chain>,
    limit: Limit,
}

impl Pipeline {
    /// The pipeline of a job. `variables` are those of [`LogOptions::variables`]: an argument, because the caller has them already, and making
    /// them costs more than everything else here.
    pub(crate) fn new(options: &LogOptions, assignment: &Assignment, variables: &Variables) -> Self {
        let spec = assignment.spec();
        Self {
            raw: options.is_raw(),
            stamped: options.stamps(variables),
            input: None,
            masks: options.masks(assignment, variables),
            prefixes: options.prefixes(spec, variables),
            chains: Vec::new(),
            limit: Limit::new(options.limit()),
        }
    }

    /// Whether nothing is hidden, see [`LogOptions::dangerously_raw`].
    pub(crate) fn is_raw(&self) -> bool {
        self.raw
    }

    /// Whether lines begin with the time they were written at.
    #[inline]
    pub(crate) fn is_stamped(&self) -> bool {
        self.stamped && !self.raw
    }

    /// Appends a write. If there is enough for a block, passes it through the stages.
    pub(crate) fn push(&mut self, stream: Stream, chunk: Bytes, now: Timestamp, out: &mut dyn FnMut(Bytes)) {
        if Input::is_block(chunk.len()) {
            self.run(out);
            self.process(stream, chunk, now, out);
        } else {
            self.push_copy(stream, &chunk, now, out);
        }
    }

    /// Appends a write by copying it. The write is cut where a block is full, unless lines have timestamps: without them it makes no
    /// difference how a stream is cut.
    pub(crate) fn push_copy(&mut self, stream: Stream, mut chunk: &[u8], now: Timestamp, out: &mut dyn FnMut(Bytes)) {
        let timed = self.is_stamped();
        while !chunk.is_empty() {
            let input = self.input.get_or_insert_default();
            let length = if timed { chunk.len() } else { chunk.len().min(input.room()) };
            let (part, rest) = chunk.split_at(length);
            input.append(stream, part, now, timed);
            chunk = rest;
            if input.is_full() {
                self.run(out);
            }
        }
    }

    /// Passes the waiting writes through the stages. Inlined, because most polls find none.
    #[inline]
    pub(crate) fn run(&mut self, out: &mut dyn FnMut(Bytes)) {
        if let Some(input) = self.input.take() {
            self.run_block(input, out);
        }
    }

    fn run_block(&mut self, mut input: Box<Input>, out: &mut dyn FnMut(Bytes)) {
        let waits = input.len() > 0;
        let is_full = input.take(|stream, chunk, at| self.process(stream, chunk, at, out));
        if is_full {
            // The next block is expected to be full too, so the buffer is kept for it.
            self.input = Some(input);
        } else if waits {
            self.chains.iter_mut().for_each(|chain| chain.masker.rest());
        }
    }

    /// How many bytes wait to pass the stages.
    #[inline]
    pub(crate) fn waiting(&self) -> u64 {
        self.input.as_ref().map_or(0, |input| input.len() as u64)
    }

    /// How many bytes would come out if the waiting writes passed the stages now. `written` is how many came out before.
    pub(crate) fn coming(&self, written: u64, options: &LogOptions) -> u64 {
        let Some(input) = self.input.as_ref().filter(|input| input.len() > 0) else { return 0 };
        let mut copy = Self {
            input: Some(input.clone()),
            masks: Arc::clone(&self.masks),
            prefixes: Arc::clone(&self.prefixes),
            chains: self.chains.iter().map(Chain::copy).collect(),
            limit: Limit::resume(options.limit(), written, self.limit.ending()),
            ..*self
        };
        let mut coming = 0;
        copy.run(&mut |bytes| coming += bytes.len() as u64);
        coming
    }

    /// The chain of a stream, and the limit, which comes after all chains.
    #[expect(clippy::indexing_slicing, reason = "the place was found or filled a line before")]
    fn chain(&mut self, stream: Stream) -> (&mut Chain, &mut Limit) {
        let Self { chains, limit, .. } = self;
        let at = chains.partition_point(|chain| chain.stream < stream);
        if chains.get(at).is_none_or(|chain| chain.stream != stream) {
            let masker = Masker::new(Arc::clone(&self.masks));
            chains.reserve_exact(1);
            chains.insert(at, Chain::new(stream, masker, Arc::clone(&self.prefixes), self.stamped));
        }
        (&mut chains[at], limit)
    }

    fn process(&mut self, stream: Stream, chunk: Bytes, now: Timestamp, out: &mut dyn FnMut(Bytes)) {
        let raw = self.raw;
        let (chain, limit) = self.chain(stream);
        chain.taken = chain.taken.saturating_add(chunk.len() as u64);
        if limit.is_cut() {
            return;
        }
        if raw {
            return limit.push(chunk, out);
        }
        chain.push(chunk, now, &mut |bytes| limit.push(bytes, out));
    }

    /// Adds a text of the runner itself, such as the marker of a section, which contains no secrets. It passes no stage of a stream, and what is
    /// held back stays so. With timestamps it is an entry of its own.
    pub(crate) fn insert(&mut self, marker: Bytes, now: Timestamp, out: &mut dyn FnMut(Bytes)) {
        self.run(out);
        if self.raw || !self.stamped || marker.is_empty() {
            return self.limit.push(marker, out);
        }
        let (chain, limit) = self.chain(Stream::Runner);
        if let Some(stamper) = &mut chain.stamper {
            stamper.insert(marker, now, &mut |bytes| limit.push(bytes, out));
        }
    }

    /// Ends the streams for which `of` returns true, and releases what they held back. They can be written to again.
    pub(crate) fn close(&mut self, of: impl Fn(Stream) -> bool, now: Timestamp, out: &mut dyn FnMut(Bytes)) {
        self.run(out);
        let Self { chains, limit, .. } = self;
        for chain in chains.iter_mut().filter(|chain| of(chain.stream)) {
            chain.end(now, &mut |bytes| limit.push(bytes, out));
        }
    }

    /// Ends the log, after all its streams, and releases what waited for its end.
    pub(crate) fn end(&mut self, out: &mut dyn FnMut(Bytes)) {
        self.run(out);
        self.limit.end(out);
    }

    /// How many bytes were written to a stream.
    pub(crate) fn taken(&self, stream: Stream) -> u64 {
        self.chains
            .iter()
            .find(|chain| chain.stream == stream)
            .map_or(0, |chain| chain.taken)
            .saturating_add(self.input.as_ref().map_or(0, |input| input.len_of(stream)))
    }

    /// Hides one more secret, which was added to the assignment, also in what is still held back.
    ///
    /// What may be the beginning of another secret is searched again. The unfinished line, and what waits for the end of the log, have
    /// passed the masks already: there the secret is hidden only if all of it is there.
    pub(crate) fn mask_more(
        &mut self,
        options: &LogOptions,
        assignment: &Assignment,
        secret: &Secret,
        out: &mut dyn FnMut(Bytes),
    ) {
        self.run(out);
        self.masks = options.masks(assignment, &LogOptions::variables(assignment.spec()));
        let late = options.masks_of(secret);
        for chain in &mut self.chains {
            chain.masker.replace(&self.masks);
            if let Some(stamper) = &mut chain.stamper {
                stamper.rewrite(|text| late.hide_in(text));
            }
        }
        if !self.raw {
            self.limit.rewrite(|text| late.hide_in(text), out);
        }
    }

    /// Returns a text with its secrets hidden. The text is not part of a stream.
    pub(crate) fn hidden(&self, text: &str) -> String {
        let masker = Masker::new(Arc::clone(&self.masks));
        let mut chain = Chain::new(Stream::Runner, masker, Arc::clone(&self.prefixes), false);
        let mut shown = Vec::new();
        let mut out = |bytes: Bytes| shown.extend_from_slice(&bytes);
        chain.push(Bytes::copy_from_slice(text.as_bytes()), Timestamp::EPOCH, &mut out);
        chain.end(Timestamp::EPOCH, &mut out);
        String::from_utf8_lossy(&shown).into_owned()
    }

    /// The name of a section for the log and for snapshots: without secrets, and only with characters that GitLab allows.
    pub(crate) fn section_name(&self, name: &str) -> String {
        self.masks.hide_in_name(&section::sanitized(&self.hidden(name)))
    }

    /// Hides secrets that were added later in the name of an open section.
    pub(crate) fn hide_in_section_name(&self, name: &mut String) {
        *name = self.masks.hide_in_name(name);
    }

    /// How many secrets are short, see [`Masks::short`].
    pub(crate) fn short_secrets(&self) -> usize {
        if self.raw { 0 } else { self.masks.short() }
    }

    /// The state to store. Call [`Pipeline::run`] before, because waiting writes are not part of it.
    pub(crate) fn snapshot(&self, assignment: &Assignment) -> PipelineSnapshot {
        let spec = assignment.spec();
        let holds = self.chains.iter().any(|chain| chain.masker.holds());
        let secrets = holds.then(|| Secrets::of(assignment, &LogOptions::variables(spec)));
        let own = &spec.features.token_mask_prefixes;
        let chains = self.chains.iter().map(|chain| ChainSnapshot {
            stream: chain.stream,
            taken: chain.taken,
            held: secrets.as_ref().and_then(|secrets| chain.masker.held(secrets)),
            urls: chain.urls,
            token: chain.tokens.mark(own),
            bytes: chain.repair.held().to_vec(),
            line: chain.stamper.as_ref().and_then(|stamper| stamper.line()),
        });
        PipelineSnapshot { chains: chains.collect(), ending: self.limit.ending() }
    }

    /// Restores the state from a snapshot. `written` is the size of the log then. What was held back is written again, because the secrets may
    /// have changed.
    pub(crate) fn restore(
        &mut self,
        from: PipelineSnapshot,
        written: u64,
        options: &LogOptions,
        assignment: &Assignment,
        now: Timestamp,
    ) {
        let spec = assignment.spec();
        let secrets = from.holds().then(|| Secrets::of(assignment, &LogOptions::variables(spec)));
        self.limit = Limit::resume(options.limit(), written, from.ending);
        for ChainSnapshot { stream, taken, held, urls, token, bytes, line } in from.chains {
            let resumed = secrets.as_ref().map(|secrets| Masker::resume(&self.masks, held.as_ref(), secrets));
            let (masker, held) = resumed.unwrap_or_else(|| (Masker::new(Arc::clone(&self.masks)), Vec::new()));
            let restored = Chain {
                stream,
                taken: taken.saturating_sub(held.len() as u64),
                masker,
                urls,
                tokens: Tokens::resume(Arc::clone(&self.prefixes), token, &spec.features.token_mask_prefixes),
                repair: Repair::resume(bytes),
                stamper: self.stamped.then(|| Box::new(Stamper::resume(stream, line.unwrap_or_default()))),
            };
            *self.chain(stream).0 = restored;
            if !held.is_empty() {
                let timed = self.is_stamped();
                self.input.get_or_insert_default().append(stream, &held, now, timed);
            }
        }
    }
}

/// The stages of one stream.
#[derive(Debug)]
struct Chain {
    stream: Stream,
    taken: u64,
    masker: Masker,
    urls: Urls,
    tokens: Tokens,
    repair: Repair,
    stamper: Option<Box<Stamper>>,
}

impl Chain {
    fn new(stream: Stream, masker: Masker, prefixes: Arc<Automaton>, stamped: bool) -> Self {
        let stamper = stamped.then(|| Box::new(Stamper::new(stream)));
        Self {
            stream,
            taken: 0,
            masker,
            urls: Urls::default(),
            tokens: Tokens::new(prefixes),
            repair: Repair::default(),
            stamper,
        }
    }

    fn push(&mut self, chunk: Bytes, now: Timestamp, out: &mut dyn FnMut(Bytes)) {
        let Self { stream: _, taken: _, masker, urls, tokens, repair, stamper } = self;
        masker.push_pieces(chunk, &mut |piece| behind_masks(urls, tokens, repair, stamper, piece, now, out));
    }

    /// Releases what is held back. Afterwards the chain is as at the beginning of a stream.
    fn end(&mut self, now: Timestamp, out: &mut dyn FnMut(Bytes)) {
        let Self { stream: _, taken: _, masker, urls, tokens, repair, stamper } = self;
        masker.end_pieces(&mut |piece| behind_masks(urls, tokens, repair, stamper, piece, now, out));
        urls.end();
        tokens.end();
        repair.end(&mut |bytes| stamp(stamper, bytes, now, out));
        if let Some(stamper) = stamper {
            stamper.end(out);
        }
    }

    fn copy(&self) -> Self {
        let line = |stamper: &Stamper| stamper.line().unwrap_or_default();
        Self {
            stream: self.stream,
            taken: self.taken,
            masker: self.masker.copy(),
            urls: self.urls,
            tokens: self.tokens.clone(),
            repair: Repair::resume(self.repair.held().to_vec()),
            stamper: self.stamper.as_ref().map(|stamper| Box::new(Stamper::resume(self.stream, line(stamper)))),
        }
    }
}

fn behind_masks(
    urls: &mut Urls,
    tokens: &mut Tokens,
    repair: &mut Repair,
    stamper: &mut Option<Box<Stamper>>,
    piece: Piece,
    now: Timestamp,
    out: &mut dyn FnMut(Bytes),
) {
    urls.push(piece, &mut |piece| {
        tokens.push(piece, &mut |bytes| repair.push(bytes, &mut |bytes| stamp(stamper, bytes, now, out)));
    });
}

fn stamp(stamper: &mut Option<Box<Stamper>>, bytes: Bytes, now: Timestamp, out: &mut dyn FnMut(Bytes)) {
    match stamper {
        Some(stamper) => stamper.push(bytes, now, out),
        None => out(bytes),
    }
}

/// What a pipeline holds back. Bytes that may be part of a secret are not stored: the snapshot names the secret and a length.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PipelineSnapshot {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    chains: Vec<ChainSnapshot>,
    #[serde(default, skip_serializing_if = "Ending::is_open")]
    ending: Ending,
}

impl PipelineSnapshot {
    /// Whether there is nothing to store.
    pub(crate) fn is_idle(&self) -> bool {
        *self == Self::default()
    }

    /// Whether anything is held back that may be the beginning of a secret.
    pub(crate) fn holds(&self) -> bool {
        self.chains.iter().any(|chain| chain.held.is_some())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ChainSnapshot {
    stream: Stream,
    taken: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held: Option<mask::Held>,
    #[serde(default, skip_serializing_if = "Urls::is_idle")]
    urls: Urls,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<tokens::Mark>,
    /// The bytes of an incomplete character.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    bytes: Vec<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    line: Option<Line>,
}
