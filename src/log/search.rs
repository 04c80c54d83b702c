//! Finds the places of a stream where a text may begin, faster than by looking at each byte.
//!
//! This is a filter: it looks at the first few bytes of the texts only, and its findings are compared with the texts afterwards. It
//! misses no place.

use aho_corasick::packed;
use memchr::memmem::Finder;

use super::texts::Texts;

/// How many bytes of a text's beginning are searched for. With more bytes there would be fewer false candidates, but
/// [`packed::Searcher`] looks at four bytes in one step, and copies of secrets should be short.
const LONGEST_BEGINNING: usize = 4;

/// Each of these few beginnings is searched for by itself: [`Finder`] is as fast, and smaller than [`packed::Searcher`].
const MOST_FINDERS: usize = 3;

/// More beginnings have no [`packed::Searcher`].
const MOST_PACKED: usize = 64;

/// About how many bytes a [`packed::Searcher`] takes on the heap, as measured, without its beginnings.
const PACKED_SIZE: usize = 3100;

/// About how many bytes it takes for each beginning, as measured.
const PACKED_BEGINNING: usize = 75;

/// The shortest text for which looking at windows pays.
const SHORTEST_WINDOW: usize = 4;

/// The longest window: further jumps gain nothing.
const LONGEST_WINDOW: usize = 32;

/// How places are found where a text may begin.
pub(super) enum Search {
    /// There are no texts.
    Nothing,
    /// All texts have one of these few beginnings, of the same length.
    Finders(Vec<Finder<'static>>),
    /// All texts have one of up to [`MOST_PACKED`] beginnings: a Teddy search, which compares 16 or 32 places at once.
    Packed {
        /// Takes its place on the heap anyway.
        searcher: Box<packed::Searcher>,
        /// How long the beginnings are.
        length: usize,
    },
    /// All texts are as long as a window. Its last three bytes say how far it may move on.
    Window(Window),
    /// For small pieces, and many short texts: the bytes that a text begins with, by bit.
    FirstByte([u64; 4]),
}

impl Search {
    /// The fastest search for these texts that takes no more memory than this, as far as that can be chosen.
    pub(super) fn over(texts: &Texts, budget: usize) -> Self {
        let shortest = texts.shortest();
        if shortest == 0 {
            return Self::Nothing;
        }
        let length = shortest.min(LONGEST_BEGINNING);
        let mut beginnings: Vec<&[u8]> = texts.iter().filter_map(|text| text.get(..length)).collect();
        beginnings.dedup();
        if beginnings.len() <= MOST_FINDERS {
            return Self::Finders(beginnings.into_iter().map(|text| Finder::new(text).into_owned()).collect());
        }
        if beginnings.len() <= MOST_PACKED && PACKED_SIZE + PACKED_BEGINNING * beginnings.len() <= budget {
            let mut builder = packed::Config::new().match_kind(packed::MatchKind::LeftmostFirst).builder();
            if let Some(searcher) = builder.extend(&beginnings).build() {
                return Self::Packed { searcher: Box::new(searcher), length };
            }
        }
        if shortest >= SHORTEST_WINDOW {
            return Self::Window(Window::over(texts, shortest));
        }
        Self::by_first_byte(texts)
    }

    /// A search that takes no memory but its own, and no time to make.
    pub(super) fn by_first_byte(texts: &Texts) -> Self {
        let mut first = [0; 4];
        for byte in texts.iter().filter_map(<[u8]>::first) {
            set(&mut first, *byte);
        }
        Self::FirstByte(first)
    }

    /// Searches this stream.
    pub(super) fn through<'a>(&'a self, stream: &'a [u8]) -> Candidates<'a> {
        Candidates { search: self, stream, found: [None; MOST_FINDERS] }
    }
}

fn set(bytes: &mut [u64; 4], byte: u8) {
    if let Some(word) = bytes.get_mut(usize::from(byte >> 6)) {
        *word |= 1 << (byte & 63);
    }
}

fn is_set(bytes: &[u64; 4], byte: u8) -> bool {
    bytes.get(usize::from(byte >> 6)).is_some_and(|word| word >> (byte & 63) & 1 == 1)
}

/// The search of one stream.
pub(super) struct Candidates<'a> {
    search: &'a Search,
    stream: &'a [u8],
    /// What lies ahead for each finder, so that no byte is searched twice for the same.
    found: [Option<usize>; MOST_FINDERS],
}

impl Candidates<'_> {
    /// The first place from `at` on where a text may begin, or of which that cannot be told without what follows; the end of the
    /// stream if there is none.
    pub(super) fn next_from(&mut self, at: usize) -> usize {
        let stream = self.stream;
        // Of the last bytes, a beginning may be cut off by the end of the stream.
        let cut_from = |length: usize| stream.len().saturating_sub(length - 1).max(at);
        match self.search {
            Search::Nothing => stream.len(),
            Search::Finders(finders) => {
                let mut nearest = stream.len();
                for (finder, found) in finders.iter().zip(&mut self.found) {
                    if found.is_none_or(|found| found < at) {
                        let hit = finder.find(stream.get(at..).unwrap_or_default());
                        *found = Some(hit.map_or(usize::MAX, |hit| at + hit));
                    }
                    nearest = nearest.min(found.unwrap_or(usize::MAX)).min(cut_from(finder.needle().len()));
                }
                nearest
            }
            Search::Packed { searcher, length } => {
                let found = searcher.find_in(stream, (at.min(stream.len())..stream.len()).into());
                found.map_or_else(|| cut_from(*length), |found| found.start())
            }
            Search::Window(window) => window.next(stream, at),
            Search::FirstByte(first) => {
                let rest = stream.get(at..).unwrap_or_default();
                at + rest.iter().position(|byte| is_set(first, *byte)).unwrap_or(rest.len())
            }
        }
    }
}

/// How far a window may move on, by a hash of its last three bytes: the way of Wu and Manber.
pub(super) struct Window {
    length: usize,
    /// A power of two of them.
    shifts: Box<[u8]>,
    /// By bit, hashes of the first four bytes of the texts: few of the places where a window stops begin so.
    beginnings: Box<[u64; 1 << (Self::BEGINNINGS - 6)]>,
}

impl Window {
    /// A table of 2 KiB serves hundreds of triples, and one of 16 KiB all that there usually are.
    const BITS: std::ops::RangeInclusive<u32> = 11..=14;

    /// 8,192 bits, 1 KiB.
    const BEGINNINGS: u32 = 13;

    /// Of texts of which the shortest has at least four bytes.
    fn over(texts: &Texts, shortest: usize) -> Self {
        // The table takes no more than twice as much as the texts.
        let bits = (texts.total() * 2).max(1).ilog2().clamp(*Self::BITS.start(), *Self::BITS.end());
        // Longer windows jump further, but their many triples fill the table.
        let length = ((1 << bits) / 4 / texts.len()).clamp(8, LONGEST_WINDOW).min(shortest);
        let mut window = Self {
            length,
            shifts: vec![(length - 2) as u8; 1 << bits].into(),
            beginnings: Box::new([0; 1 << (Self::BEGINNINGS - 6)]),
        };
        for text in texts.iter() {
            if let Some(beginning) = text.first_chunk() {
                let (word, bit) = Self::beginning(*beginning);
                if let Some(word) = window.beginnings.get_mut(word) {
                    *word |= bit;
                }
            }
            let triples = text.get(..length).unwrap_or_default().windows(3);
            for (shift, triple) in (0..length - 2).rev().zip(triples) {
                if let &[a, b, c] = triple {
                    let slot = window.slot([0, a, b, c]);
                    if let Some(slot) = window.shifts.get_mut(slot) {
                        *slot = (*slot).min(shift as u8);
                    }
                }
            }
        }
        window
    }

    /// Of four bytes, the last three count.
    fn slot(&self, bytes: [u8; 4]) -> usize {
        let hash = (u32::from_le_bytes(bytes) >> 8).wrapping_mul(0x9e37_79b1);
        (hash >> (32 - self.shifts.len().ilog2())) as usize
    }

    /// Where the bit of a beginning is.
    fn beginning(bytes: [u8; 4]) -> (usize, u64) {
        let hash = u32::from_le_bytes(bytes).wrapping_mul(0x85eb_ca6b) >> (32 - Self::BEGINNINGS);
        ((hash >> 6) as usize, 1 << (hash & 63))
    }

    fn may_begin(&self, stream: &[u8]) -> bool {
        let (word, bit) = stream.first_chunk().map_or((0, u64::MAX), |bytes| Self::beginning(*bytes));
        self.beginnings.get(word).is_none_or(|word| word & bit != 0)
    }

    fn next(&self, stream: &[u8], mut at: usize) -> usize {
        while let Some(end) = stream.get(at + self.length - 4..).and_then(<[u8]>::first_chunk) {
            at += match self.shifts.get(self.slot(*end)) {
                Some(0) | None if self.may_begin(stream.get(at..).unwrap_or_default()) => return at,
                Some(0) | None => 1,
                Some(shift) => usize::from(*shift),
            }
        }
        at
    }
}
