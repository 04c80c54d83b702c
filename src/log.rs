//! From what a job prints to what GitLab gets: secrets hidden, valid UTF-8, within its size.
//!
//! Every byte of a log passes through here exactly once, before it is counted, kept, saved or sent. Offsets, checksum and
//! saved logs are all of bytes *after* the pipeline. It has one chain of stages for each [`Stream`], in the order of the
//! official runner:
//!
//! | Stage | What it does | Holds back |
//! | --- | --- | --- |
//! | masks | hides every byte of every occurrence of a secret | what may become a secret |
//! | URL parameters | hides the values of `?private_token=` and the like | nothing |
//! | token prefixes | hides what follows `glpat-` and the like | nothing |
//! | UTF-8 | replaces bytes that are no text with U+FFFD | an incomplete character |
//! | timestamps | puts its time before each line, if wanted | an unfinished line |
//!
//! Behind all chains is the [limit](LogLimit). UTF-8 is made whole before lines are stamped, and per stream, so that a character
//! that one write begins and the next one ends survives whatever comes between them.
//!
//! # What is hidden
//!
//! - The values of the variables that are masked, the job's token, the password in the address of the repository, the passwords of
//!   `credentials`, and what [`Job::mask`](crate::Job::mask) adds. Tokens and passwords that are not variables count from 8 bytes
//!   on.
//! - The value of a query parameter that authenticates, such as `private_token`, up to white space, a control character, `?` or `&`.
//! - What follows the prefix of a token, as long as it is made of letters, digits and `-._=`.
//!
//! Each of these is an occurrence. Occurrences that overlap share one `[MASKED]`; those that only touch have one each. A secret ends
//! neither a token nor the value of a parameter: `glpat-` before a secret and more letters hides all three parts.
//!
//! How a stream is cut into writes makes no difference to what a reader sees. With timestamps it makes one to the entries: a CR at
//! the end of a write ends an entry, also if an LF follows in the next, and a line without an end is waited for up to 8 KiB. Each
//! entry that continues a line says so, and the text is the same.
//!
//! # Where a stream ends
//!
//! What is held back comes out when it is decided what it is, or when its stream ends: by [`Job::end_step`](crate::Job::end_step),
//! [`Job::close_stream`](crate::Job::close_stream) or the end of the job. The end of a section is not the end of a stream, because
//! a script may write on; end the step first where it has ended. The markers of sections are the runner's: they go into the log at
//! once, pass none of the stages, and end nothing.
//!
//! # What is not hidden
//!
//! A secret is recognised where its bytes stand in one stream as they are. These show:
//!
//! - An encoded value, such as Base64 or hexadecimal digits. [`LogOptions::with_masked_encodings`] hides the forms that it names;
//!   hexadecimal digits, compressed text and other alphabets are never recognised.
//! - A single line of a secret of several lines, if the line is shorter than 8 bytes. Such lines match too much other text. The
//!   same holds for all lines without [`LogOptions::with_masked_lines`].
//! - A value that a job changes in any other way: in upper case, one that it prints in two halves, or with colours in between.
//! - A secret that is cut in two by the end of its stream, or one of which a part each is in two streams. Write standard output and
//!   standard error to one stream where that matters.
//! - What went out before [`Job::mask`](crate::Job::mask) was called. A part of such a secret may have gone out too: then the rest
//!   shows as well.
//! - A secret that is learnt when its first bytes are already in the unfinished line of a log with timestamps, or wait for the end
//!   of the log, and its last ones come later. Where all of it waits there, it is hidden.
//! - A character of a token that its form does not allow, and all behind it; a prefix that is neither GitLab's nor named by the job.
//! - Everything, with [`LogOptions::dangerously_raw`].
//!
//! Masked values are expanded as they are in [`crate::variables::Place::default`]. Where a job runs elsewhere and a value depends
//! on the place, add those of [`crate::variables::Variables::masked`] with [`crate::Job::mask`].
//!
//! What is done is chosen by [`LogOptions`], with [`crate::RunnerConfig::with_log`].

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

/// Where a piece of a log comes from. Each has a chain of its own, so that streams cut each other's lines nowhere.
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
    /// A service of the job, by its place in the payload.
    Service(u16),
}

/// The stages of one job's log, and before them what was written and waits for them. All that gives anything out lets that through
/// first; [`Pipeline::run`] does nothing else.
#[derive(Debug)]
pub(crate) struct Pipeline {
    raw: bool,
    stamped: bool,
    /// On the heap, and made when something is written: jobs are many.
    input: Option<Box<Input>>,
    masks: Arc<Masks>,
    prefixes: Arc<Automaton>,
    /// In the order of their streams. Most jobs have one or two, and no room for more.
    chains: Vec<Chain>,
    limit: Limit,
}

impl Pipeline {
    /// For a job with these variables, those of [`LogOptions::variables`]: to make them costs more than all the rest.
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

    /// Takes a write in, and gives out what may go on if that is enough for a block.
    pub(crate) fn push(&mut self, stream: Stream, chunk: Bytes, now: Timestamp, out: &mut dyn FnMut(Bytes)) {
        if Input::is_block(chunk.len()) {
            self.run(out);
            self.process(stream, chunk, now, out);
        } else {
            self.push_copy(stream, &chunk, now, out);
        }
    }

    /// The same for a write that is copied. It is cut where a block is full, unless it has a time: how a stream is cut makes no difference
    /// without timestamps.
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

    /// Lets through the stages what was written. Most polls come here with nothing.
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
            // The next block is expected to be full too, and finds its room again.
            self.input = Some(input);
        } else if waits {
            self.chains.iter_mut().for_each(|chain| chain.masker.rest());
        }
    }

    /// How many bytes were written that have not gone through the stages.
    #[inline]
    pub(crate) fn waiting(&self) -> u64 {
        self.input.as_ref().map_or(0, |input| input.len() as u64)
    }

    /// How many bytes would come out if what waits went through the stages now, after so many that came out before.
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

    /// The stages of a stream, and what is behind those of all.
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

    /// Takes in what the runner itself adds between pieces of text, without secrets: no stage of a script's text touches it, and
    /// what is held back stays so. With timestamps it is an entry of its own.
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

    /// These streams have ended: gives out what they held back. What is written to one of them later begins anew.
    pub(crate) fn close(&mut self, of: impl Fn(Stream) -> bool, now: Timestamp, out: &mut dyn FnMut(Bytes)) {
        self.run(out);
        let Self { chains, limit, .. } = self;
        for chain in chains.iter_mut().filter(|chain| of(chain.stream)) {
            chain.end(now, &mut |bytes| limit.push(bytes, out));
        }
    }

    /// The log has ended, after all its streams: gives out what waited for that.
    pub(crate) fn end(&mut self, out: &mut dyn FnMut(Bytes)) {
        self.run(out);
        self.limit.end(out);
    }

    /// How many bytes of a stream came in.
    pub(crate) fn taken(&self, stream: Stream) -> u64 {
        self.chains
            .iter()
            .find(|chain| chain.stream == stream)
            .map_or(0, |chain| chain.taken)
            .saturating_add(self.input.as_ref().map_or(0, |input| input.len_of(stream)))
    }

    /// Hides also a secret that the assignment names since, first of all in what was written and is still here.
    ///
    /// What may become another secret is searched as if it came now. An unfinished line, and what waits for the end of the log, are
    /// behind the stages already: there the secret is hidden where all of it is.
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

    /// A text of the runner's that is no part of any stream, without secrets.
    pub(crate) fn hidden(&self, text: &str) -> String {
        let masker = Masker::new(Arc::clone(&self.masks));
        let mut chain = Chain::new(Stream::Runner, masker, Arc::clone(&self.prefixes), false);
        let mut shown = Vec::new();
        let mut out = |bytes: Bytes| shown.extend_from_slice(&bytes);
        chain.push(Bytes::copy_from_slice(text.as_bytes()), Timestamp::EPOCH, &mut out);
        chain.end(Timestamp::EPOCH, &mut out);
        String::from_utf8_lossy(&shown).into_owned()
    }

    /// The name of a section as it may stand in the log and in snapshots: without secrets, and of characters that GitLab takes.
    pub(crate) fn section_name(&self, name: &str) -> String {
        self.masks.hide_in_name(&section::sanitized(&self.hidden(name)))
    }

    /// The same for a name that was fit for the log when its section was opened.
    pub(crate) fn hide_in_section_name(&self, name: &mut String) {
        *name = self.masks.hide_in_name(name);
    }

    /// How many secrets are short, see [`Masks::short`].
    pub(crate) fn short_secrets(&self) -> usize {
        if self.raw { 0 } else { self.masks.short() }
    }

    /// What is to be remembered, if nothing waits for the stages.
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

    /// Takes up a snapshot that was made when so much had been written. What was held back is written once more, because what may
    /// become a secret now depends on the secrets that are known now.
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

    /// Gives out what is held back, and is again as at the beginning of a stream.
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

/// What a pipeline holds back. What may be part of a secret is named, never shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PipelineSnapshot {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    chains: Vec<ChainSnapshot>,
    #[serde(default, skip_serializing_if = "Ending::is_open")]
    ending: Ending,
}

impl PipelineSnapshot {
    /// Whether nothing is to be remembered.
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
    /// Of a character that is not complete.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    bytes: Vec<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    line: Option<Line>,
}
