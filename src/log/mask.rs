//! Hides secrets.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::encodings::encodings;
use super::matcher::{Matcher, Place};
use super::piece::{MARKER, Piece};
use super::section::sanitized;
use crate::secret::Secret;

/// GitLab accepts no shorter value for a masked variable, and makes no shorter tokens and passwords.
pub(super) const SHORT: usize = 8;

/// Shorter lines of a value of several lines are not hidden alone, because they match too much other text.
const SHORTEST_LINE: usize = 8;

/// Which forms of a secret are hidden beside the secret itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forms {
    pub(super) lines: bool,
    pub(super) encoded: bool,
}

/// The secrets of a job, ready to be searched for. `Debug` shows how many there are.
///
/// White space around a value is ignored, and so are empty values. A value of several lines is hidden with LF and with CR LF, and each of
/// its lines of at least 8 bytes is also hidden alone.
///
/// They take about the memory of the values, twice that for a value of several lines, and 12 bytes for each value and each line. A
/// [`Masker`] that gets pieces of 4 KiB and more adds a search of up to 6 bytes for each byte of the values, and 4 KiB, all in all.
pub struct Masks {
    matcher: Matcher,
    count: usize,
    short: usize,
}

impl Masks {
    /// Prepares to hide these secrets.
    #[must_use]
    pub fn new(secrets: &[Secret]) -> Self {
        Self::with_forms(secrets, Forms { lines: true, encoded: false })
    }

    pub(super) fn with_forms(secrets: &[Secret], forms: Forms) -> Self {
        let mut texts = Vec::with_capacity(secrets.len());
        let (mut count, mut short) = (0, 0);
        for secret in secrets.iter().map(|secret| secret.expose().trim()).filter(|secret| !secret.is_empty()) {
            count += 1;
            short += usize::from(secret.len() < SHORT);
            let mut own = Vec::new();
            each_form(secret, forms, &mut |_, form| own.push(form));
            own.sort_unstable();
            own.dedup();
            texts.append(&mut own);
        }
        Self { matcher: Matcher::new(texts), count, short }
    }

    /// Hides them in a text that was behind the stages before they were known. Markers in it stay whole.
    pub(super) fn hide_in(self: &Arc<Self>, text: &[u8]) -> Vec<u8> {
        let mut hidden = Vec::with_capacity(text.len());
        let mut from = 0;
        let markers = memchr::memmem::find_iter(text, b"[MASKED]").map(|at| at..at + MARKER.len());
        for marker in markers.chain(std::iter::once(text.len()..text.len())) {
            let mut masker = Masker::new(Arc::clone(self));
            let mut out = |bytes: Bytes| hidden.extend_from_slice(&bytes);
            masker.push(Bytes::copy_from_slice(text.get(from..marker.start).unwrap_or_default()), &mut out);
            masker.end(&mut out);
            hidden.extend_from_slice(text.get(marker.clone()).unwrap_or_default());
            from = marker.end;
        }
        hidden
    }

    /// Hides them in the name of a section, where characters that do not fit into one were replaced.
    pub(super) fn hide_in_name(&self, name: &str) -> String {
        let mut is_hidden = vec![false; name.len()];
        let secrets = self.matcher.texts().iter().map(|text| sanitized(&String::from_utf8_lossy(text)));
        for secret in secrets {
            for (at, _) in
                name.char_indices().filter(|(at, _)| name.get(*at..).is_some_and(|it| it.starts_with(&secret)))
            {
                is_hidden.iter_mut().skip(at).take(secret.len()).for_each(|hidden| *hidden = true);
            }
        }
        let mut shown = String::with_capacity(name.len());
        let mut before = false;
        for (c, hidden) in name.chars().zip(is_hidden) {
            match (hidden, before) {
                (false, _) => shown.push(c),
                (true, false) => shown.push_str(&sanitized("[MASKED]")),
                (true, true) => {}
            }
            before = hidden;
        }
        shown
    }

    /// How many of the secrets are shorter than the 8 bytes that GitLab requires of a masked variable. They are hidden like all others, but
    /// they also match much text that is not secret.
    #[must_use]
    pub fn short(&self) -> usize {
        self.short
    }
}

impl fmt::Debug for Masks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Masks").field("count", &self.count).field("short", &self.short).finish_non_exhaustive()
    }
}

/// Adds what is searched for of a secret, each with its name in snapshots: the same name must always stand for the same form.
fn each_form(secret: &str, forms: Forms, add: &mut dyn FnMut(fmt::Arguments<'_>, Vec<u8>)) {
    let mut whole = vec![("plain", secret.to_owned())];
    if secret.contains(['\n', '\r']) {
        let unix = secret.replace("\r\n", "\n");
        for (number, line) in unix.split(['\n', '\r']).map(str::trim).enumerate() {
            if forms.lines && line.len() >= SHORTEST_LINE {
                add(format_args!("line-{number}"), line.into());
            }
        }
        whole.extend([("crlf", unix.replace('\n', "\r\n")), ("lf", unix)]);
    }
    for (name, text) in whole {
        add(format_args!("{name}"), text.clone().into());
        if forms.encoded {
            encodings(&text, &mut |encoding, form| add(format_args!("{name}:{encoding}"), form));
        }
    }
}

/// The secrets of a job in an order that stays: those of the payload, then those learnt at run time. What is held back is named by
/// its place here, because the order of the texts that are searched for changes with each secret and each form.
pub(super) struct Secrets {
    pub(super) list: Vec<Secret>,
    pub(super) of_payload: usize,
}

impl Secrets {
    /// All forms that any options search for, with the places of their secrets. They are made one secret at a time.
    fn find<T>(&self, mut look: impl FnMut(usize, fmt::Arguments<'_>, &[u8]) -> Option<T>) -> Option<T> {
        let mut found = None;
        for (place, secret) in self.list.iter().enumerate() {
            each_form(secret.expose().trim(), Forms { lines: true, encoded: true }, &mut |name, form| {
                found = found.take().or_else(|| look(place, name, &form));
                #[cfg(feature = "zeroize")]
                zeroize::Zeroize::zeroize(&mut { form });
            });
            if found.is_some() {
                break;
            }
        }
        found
    }

    /// The lengths of the payload's secrets, in one number: by it, a stored place is told from one of other secrets.
    fn shape(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for secret in self.list.iter().take(self.of_payload) {
            hasher.update(&(secret.expose().len() as u64).to_le_bytes());
        }
        hasher.finalize()
    }
}

/// Hides secrets in one stream: every byte of every occurrence, however the stream is cut.
///
/// Each occurrence becomes `[MASKED]`, and occurrences that overlap become one. Only bytes that may be the
/// beginning of a secret are held back, always fewer than the longest secret has. All other bytes are passed on in order, without a copy.
///
/// ```
/// use std::sync::Arc;
/// use gitlab_runner_api::Secret;
/// use gitlab_runner_api::log::{Masker, Masks};
///
/// let mut masker = Masker::new(Arc::new(Masks::new(&[Secret::new("correct horse")])));
/// let mut shown = Vec::new();
/// for piece in ["It is corr", "ect hor", "se, and correct."] {
///     masker.push(piece.into(), &mut |bytes| shown.extend(bytes));
/// }
/// masker.end(&mut |bytes| shown.extend(bytes));
/// assert_eq!(shown, b"It is [MASKED], and correct.");
/// ```
pub struct Masker {
    masks: Arc<Masks>,
    /// How far the stream was searched.
    place: Place,
    /// All before this is passed on or hidden.
    done: u64,
    /// Occurrences that reach beyond `done`, joined where they overlap. Of one that begins before it, the marker is out.
    hidden: VecDeque<Range<u64>>,
    /// The bytes that were held back before a resume are not known any more, so a marker takes their place.
    owes_marker: bool,
}

impl Masker {
    /// Returns a masker for a new stream.
    #[must_use]
    pub fn new(masks: Arc<Masks>) -> Self {
        Self { masks, place: Place::at(0), done: 0, hidden: VecDeque::new(), owes_marker: false }
    }

    /// Appends to the stream, and passes on all bytes that cannot be part of a secret.
    pub fn push(&mut self, chunk: Bytes, out: &mut dyn FnMut(Bytes)) {
        self.push_pieces(chunk, &mut |piece| piece.show(out));
    }

    /// Ends the stream, and passes on the bytes that were held back and turned out to be no secret.
    pub fn end(&mut self, out: &mut dyn FnMut(Bytes)) {
        self.end_pieces(&mut |piece| piece.show(out));
    }

    pub(super) fn push_pieces(&mut self, chunk: Bytes, out: &mut dyn FnMut(Piece)) {
        self.pay_marker(out);
        if self.masks.matcher.texts().is_empty() || chunk.is_empty() {
            if !chunk.is_empty() {
                out(Piece::Shown(chunk));
            }
            return;
        }
        let masks = Arc::clone(&self.masks);
        let held = masks.matcher.held(&self.place);
        self.take(&masks.matcher, &chunk);
        let undecided = u64::from(self.place.begun().1);
        self.release(self.place.position() - undecided, held, &chunk, out);
    }

    pub(super) fn end_pieces(&mut self, out: &mut dyn FnMut(Piece)) {
        self.pay_marker(out);
        let masks = Arc::clone(&self.masks);
        let held = masks.matcher.held(&self.place);
        masks.matcher.finish(&mut self.place, &mut |span| join(&mut self.hidden, span));
        self.release(self.place.position(), held, &Bytes::new(), out);
    }

    /// No large piece is expected soon: only what must be kept is.
    pub(super) fn rest(&mut self) {
        self.place.rest();
    }

    fn pay_marker(&mut self, out: &mut dyn FnMut(Piece)) {
        if std::mem::take(&mut self.owes_marker) {
            out(Piece::Hidden { bytes: Bytes::new(), starts: true, continues: false });
        }
    }

    /// Goes on with other secrets: what is held back is looked through for them too.
    pub(super) fn replace(&mut self, masks: &Arc<Masks>) {
        *self = self.with(masks);
    }

    /// The same place of the stream.
    pub(super) fn copy(&self) -> Self {
        self.with(&self.masks)
    }

    fn with(&self, masks: &Arc<Masks>) -> Self {
        let mut masker = Self::after_hidden(masks, self.hidden_of_held());
        masker.owes_marker = self.owes_marker;
        masker.take(&masks.matcher, self.masks.matcher.held(&self.place));
        masker
    }

    /// At a place behind which the first bytes are hidden already.
    fn after_hidden(masks: &Arc<Masks>, hidden: u64) -> Self {
        let mut masker = Self::new(Arc::clone(masks));
        // One byte before what comes, there is room for the beginning of an occurrence.
        (masker.place, masker.done) = (Place::at(1), 1);
        if hidden > 0 {
            masker.hidden.push_back(0..1 + hidden);
        }
        masker
    }

    /// How many of the held bytes belong to an occurrence whose marker is out.
    fn hidden_of_held(&self) -> u64 {
        self.hidden.front().filter(|span| span.start < self.done).map_or(0, |span| span.end.saturating_sub(self.done))
    }

    fn take(&mut self, matcher: &Matcher, chunk: &[u8]) {
        matcher.feed(&mut self.place, chunk, &mut |span| join(&mut self.hidden, span));
    }

    /// Passes on all up to an offset. The last bytes of the stream are `chunk`, and before that was `held`.
    fn release(&mut self, to: u64, held: &[u8], chunk: &Bytes, out: &mut dyn FnMut(Piece)) {
        let source = Source { held, chunk, base: self.place.position() - chunk.len() as u64 };
        while self.done < to {
            let Some(span) = self.hidden.front().filter(|span| span.start < to).cloned() else {
                source.show(self.done..to, out);
                self.done = to;
                return;
            };
            let starts = self.done <= span.start;
            if starts {
                source.show(self.done..span.start, out);
            }
            let end = span.end.min(to);
            source.hide(self.done.max(span.start)..end, starts, span.end > to, out);
            self.done = end;
            if span.end <= to {
                self.hidden.pop_front();
            }
        }
    }

    /// Whether anything is held back.
    pub(super) fn holds(&self) -> bool {
        self.place.begun().1 > 0
    }

    /// What is held back, by name.
    pub(super) fn held(&self, secrets: &Secrets) -> Option<Held> {
        let held = Some(self.masks.matcher.held(&self.place)).filter(|held| !held.is_empty())?;
        let named = secrets.find(|place, form, text| text.starts_with(held).then(|| (place as u32, form.to_string())));
        // Without a name, which cannot be, a marker takes its place.
        let (secret, form) = named.unwrap_or_default();
        let (length, hidden) = (held.len() as u32, self.hidden_of_held() as u32);
        Some(Held { shape: secrets.shape(), secret, form, length, hidden })
    }

    /// Resumes at the place where another masker stopped. Also returns the bytes that it held back, which must be pushed next: the secrets may
    /// have changed, so they may not be held back again. If the bytes are not known, because the payload has other secrets, a marker takes
    /// their place.
    pub(super) fn resume(masks: &Arc<Masks>, held: Option<&Held>, secrets: &Secrets) -> (Self, Vec<u8>) {
        let Some(held) = held else { return (Self::new(Arc::clone(masks)), Vec::new()) };
        match held.bytes(secrets) {
            Some(bytes) => (Self::after_hidden(masks, u64::from(held.hidden.min(held.length))), bytes),
            None => (Self { owes_marker: held.hidden < held.length, ..Self::new(Arc::clone(masks)) }, Vec::new()),
        }
    }
}

impl fmt::Debug for Masker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.place.begun().1;
        f.debug_struct("Masker").field("masks", &self.masks).field("held", &held).finish_non_exhaustive()
    }
}

/// Adds an occurrence to those that come before it or overlap it, and joins it with the latter.
fn join(hidden: &mut VecDeque<Range<u64>>, mut span: Range<u64>) {
    while let Some(last) = hidden.back().filter(|last| last.end > span.start) {
        span = span.start.min(last.start)..span.end.max(last.end);
        hidden.pop_back();
    }
    hidden.push_back(span);
}

/// What a masker holds back, without a byte of it: the beginning of that length of a form of a secret. The first `hidden` bytes of it
/// end an occurrence whose marker is out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    /// See [`Secrets::shape`].
    shape: u32,
    /// The place of the secret in [`Secrets`].
    secret: u32,
    /// The name of [`each_form`].
    form: String,
    length: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    hidden: u32,
}

impl Held {
    fn bytes(&self, secrets: &Secrets) -> Option<Vec<u8>> {
        let length = self.length as usize;
        let is_it = |place, form: fmt::Arguments<'_>| place == self.secret as usize && form.to_string() == self.form;
        let form = secrets.find(|place, form, text| is_it(place, form).then(|| text.to_vec()));
        let form = form.filter(|form| self.shape == secrets.shape() && length <= form.len())?;
        Some(form.into_iter().take(length).collect())
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The last bytes of a stream: a chunk from `base` on, and before it what was held.
struct Source<'a> {
    held: &'a [u8],
    chunk: &'a Bytes,
    base: u64,
}

impl Source<'_> {
    fn show(&self, range: Range<u64>, out: &mut dyn FnMut(Piece)) {
        let held = self.of_held(&range);
        if !held.is_empty() {
            out(Piece::Shown(Bytes::copy_from_slice(held)));
        }
        let rest = self.of_chunk(&range);
        if !rest.is_empty() {
            out(Piece::Shown(rest));
        }
    }

    /// `continues`: the same is hidden also behind this range.
    fn hide(&self, range: Range<u64>, starts: bool, continues: bool, out: &mut dyn FnMut(Piece)) {
        let (held, rest) = (self.of_held(&range), self.of_chunk(&range));
        let in_both = !held.is_empty() && !rest.is_empty();
        if !held.is_empty() {
            out(Piece::Hidden { bytes: Bytes::copy_from_slice(held), starts, continues: continues || in_both });
        }
        if !rest.is_empty() {
            out(Piece::Hidden { bytes: rest, starts: starts && !in_both, continues });
        }
    }

    /// What of a range was held.
    fn of_held(&self, range: &Range<u64>) -> &[u8] {
        let at = |offset: u64| self.held.len().saturating_sub(self.base.saturating_sub(offset) as usize);
        self.held.get(at(range.start)..at(range.end)).unwrap_or_default()
    }

    /// What of a range is in the chunk.
    fn of_chunk(&self, range: &Range<u64>) -> Bytes {
        let at = |offset: u64| offset.saturating_sub(self.base) as usize;
        self.chunk.slice(at(range.start)..at(range.end))
    }
}
