//! Finds many texts at once in a stream.
//!
//! An Aho-Corasick automaton over a trie: its state is always the longest end of the stream that is the beginning of a
//! text. That is exactly what must be held back, and a text and a length name it. Where nothing is begun, a search that
//! looks at few of the bytes takes over, so that the automaton itself walks over a small part of a usual log only. Both
//! take linear time whatever the texts and the stream are.

use std::fmt;
use std::ops::Range;

use memchr::memmem::Finder;

/// A node of the trie, and with it a state.
pub(super) type State = u32;

/// Nothing is begun.
pub(super) const ROOT: State = 0;

#[derive(Clone, Copy, Default)]
struct Node {
    /// Its children lie next to each other, from here on.
    first: u32,
    children: u32,
    /// The longest proper end of this node's string that is a node as well.
    fail: State,
    /// The length of its string.
    depth: u32,
    /// The length of the longest text its string ends with, 0 if there is none.
    found: u32,
    /// The first of the texts that begin with its string.
    text: u32,
}

/// See the module. Offsets are 32 bits wide: 4 GiB of secrets are more than any memory has room for here.
pub(super) struct Automaton {
    /// The texts in order, each once, one behind the other.
    bytes: Vec<u8>,
    /// Where each begins in `bytes`, and where the last ends.
    starts: Vec<u32>,
    nodes: Vec<Node>,
    /// The byte that leads to each node.
    labels: Vec<u8>,
    /// The root's children.
    from_root: Box<[State; 256]>,
    search: Search,
}

impl Automaton {
    pub(super) fn new(mut texts: Vec<Vec<u8>>) -> Self {
        texts.retain(|text| !text.is_empty());
        texts.sort_unstable();
        texts.dedup();
        let mut starts = vec![0];
        let mut bytes = Vec::with_capacity(texts.iter().map(Vec::len).sum());
        for text in &texts {
            bytes.extend_from_slice(text);
            starts.push(bytes.len() as u32);
        }
        let mut automaton = Self {
            bytes,
            starts,
            nodes: vec![Node::default()],
            labels: vec![0],
            from_root: Box::new([ROOT; 256]),
            search: Search::over(&texts),
        };
        automaton.grow(&texts);
        #[cfg(feature = "zeroize")]
        texts.iter_mut().for_each(zeroize::Zeroize::zeroize);
        automaton
    }

    /// Adds the nodes level by level, so that what a node falls back to is always there before it.
    fn grow(&mut self, texts: &[Vec<u8>]) {
        // The texts that begin with a node's string lie next to each other.
        let mut ranges: Vec<Range<usize>> = std::iter::once(0..texts.len()).collect();
        let mut at = 0;
        while let Some(range) = ranges.get(at).cloned() {
            let parent = self.node(at as State);
            let depth = parent.depth as usize;
            let first = self.nodes.len() as u32;
            let mut rest = texts.get(range.clone()).unwrap_or_default();
            let mut text = range.start;
            while let Some(next) = rest.first() {
                let Some(&label) = next.get(depth) else {
                    (rest, text) = (rest.get(1..).unwrap_or_default(), text + 1);
                    continue;
                };
                let siblings = rest.partition_point(|other| other.get(depth) == Some(&label));
                let fail = if at == 0 { ROOT } else { self.step(parent.fail, label) };
                let whole = next.len() == depth + 1;
                let found = if whole { depth as u32 + 1 } else { self.node(fail).found };
                let node = Node { fail, depth: parent.depth + 1, found, text: text as u32, ..Node::default() };
                if let Some(child) = self.from_root.get_mut(usize::from(label)).filter(|_| at == 0) {
                    *child = self.nodes.len() as State;
                }
                self.nodes.push(node);
                self.labels.push(label);
                ranges.push(text..text + siblings);
                (rest, text) = (rest.get(siblings..).unwrap_or_default(), text + siblings);
            }
            let children = self.nodes.len() as u32 - first;
            if let Some(parent) = self.nodes.get_mut(at) {
                (parent.first, parent.children) = (first, children);
            }
            at += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The texts in order.
    pub(super) fn texts(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.starts.len().saturating_sub(1)).map(|text| self.text(text as u32))
    }

    /// The lengths of the texts, in one number: by it, a stored state is told from one of other texts.
    pub(super) fn shape(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        self.starts.iter().for_each(|start| hasher.update(&start.to_le_bytes()));
        hasher.finalize()
    }

    /// What is begun in this state.
    pub(super) fn held(&self, state: State) -> &[u8] {
        let node = self.node(state);
        self.text(node.text).get(..node.depth as usize).unwrap_or_default()
    }

    /// A state as the number of a text and a length.
    pub(super) fn position(&self, state: State) -> (u32, u32) {
        let node = self.node(state);
        (node.text, node.depth)
    }

    /// The beginning of a text, if it has that many bytes.
    pub(super) fn beginning(&self, text: u32, length: u32) -> Option<&[u8]> {
        self.text(text).get(..length as usize)
    }

    /// The state after more of the stream. Tells `found`, for each place where a text ends, how many bytes of the stream
    /// were before that, and the length of the longest text that ends there.
    pub(super) fn feed(&self, mut state: State, stream: &[u8], mut found: impl FnMut(usize, usize)) -> State {
        let mut at = 0;
        let mut hits = [0; MOST_BEGINNINGS];
        loop {
            // With many texts, something is always begun by a byte or two; whether it may come to more, the search knows.
            let begun = self.node(state).depth as usize;
            if begun <= LITTLE && begun <= at {
                let candidate = self.next_candidate(stream, at - begun, &mut hits);
                if candidate > at - begun {
                    (state, at) = (ROOT, candidate);
                }
            }
            let Some(&byte) = stream.get(at) else { return state };
            state = self.step(state, byte);
            at += 1;
            let mut node = self.node(state);
            if node.found > 0 {
                found(at, node.found as usize);
                // Where a text can become no longer one, it is not begun any more.
                while state != ROOT && node.children == 0 {
                    state = node.fail;
                    node = self.node(state);
                }
            }
        }
    }

    fn step(&self, mut state: State, byte: u8) -> State {
        while state != ROOT {
            let node = self.node(state);
            let first = node.first as usize;
            let labels = self.labels.get(first..first + node.children as usize).unwrap_or_default();
            if let Some(child) = labels.iter().position(|label| *label == byte) {
                return node.first + child as u32;
            }
            state = node.fail;
        }
        self.from_root.get(usize::from(byte)).copied().unwrap_or(ROOT)
    }

    /// The first place from `at` on where a text may begin, or of which that cannot be told without what follows.
    fn next_candidate(&self, stream: &[u8], at: usize, hits: &mut [usize; MOST_BEGINNINGS]) -> usize {
        match &self.search {
            Search::Nothing => stream.len(),
            Search::Beginnings(beginnings) => next_beginning(beginnings, stream, at, hits),
            Search::Window(window) => window.next(stream, at),
            Search::FirstByte => {
                let rest = stream.get(at..).unwrap_or_default();
                let begins = |byte: &u8| self.from_root.get(usize::from(*byte)).is_some_and(|child| *child != ROOT);
                at + rest.iter().position(begins).unwrap_or(rest.len())
            }
        }
    }

    fn node(&self, state: State) -> Node {
        self.nodes.get(state as usize).copied().unwrap_or_default()
    }

    fn text(&self, text: u32) -> &[u8] {
        let text = text as usize;
        let range = self.starts.get(text).zip(self.starts.get(text + 1));
        range.and_then(|(start, end)| self.bytes.get(*start as usize..*end as usize)).unwrap_or_default()
    }
}

impl fmt::Debug for Automaton {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Automaton").field("texts", &(self.starts.len() - 1)).finish_non_exhaustive()
    }
}

#[cfg(feature = "zeroize")]
impl Drop for Automaton {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.bytes);
        zeroize::Zeroize::zeroize(&mut self.labels);
    }
}

/// So many bytes of a text are as good as none.
const LITTLE: usize = 2;

/// More of them are not searched for one by one.
const MOST_BEGINNINGS: usize = 4;

/// So much of a beginning is searched for.
const LONGEST_BEGINNING: usize = 4;

/// The shortest text for which looking at windows pays.
const SHORTEST_WINDOW: usize = 4;

/// The longest window: further jumps gain nothing.
const LONGEST_WINDOW: usize = 32;

/// How the next place is found where a text may begin.
enum Search {
    /// There are no texts.
    Nothing,
    /// All texts have one of these few beginnings: each is searched for as fast as the processor can.
    Beginnings(Vec<Finder<'static>>),
    /// All texts are as long as a window, whose last three bytes say how far it may move on.
    Window(Window),
    /// Some text is too short for anything else.
    FirstByte,
}

impl Search {
    /// Of texts in order.
    fn over(texts: &[Vec<u8>]) -> Self {
        let Some(shortest) = texts.iter().map(Vec::len).min() else { return Self::Nothing };
        let alike = |a: &Vec<u8>, b: &Vec<u8>| a.iter().zip(b).take(2).all(|(a, b)| a == b);
        let groups: Vec<&[Vec<u8>]> = texts.chunk_by(alike).take(MOST_BEGINNINGS + 1).collect();
        if groups.len() <= MOST_BEGINNINGS {
            return Self::Beginnings(groups.into_iter().map(|group| Finder::new(common(group)).into_owned()).collect());
        }
        if shortest < SHORTEST_WINDOW { Self::FirstByte } else { Self::Window(Window::over(texts, shortest)) }
    }
}

/// What texts in order begin with, all of them.
fn common(texts: &[Vec<u8>]) -> &[u8] {
    let (first, last) = (texts.first().map_or(&[][..], Vec::as_slice), texts.last().map_or(&[][..], Vec::as_slice));
    let length = first.iter().zip(last).take(LONGEST_BEGINNING).take_while(|(a, b)| a == b).count();
    first.get(..length).unwrap_or_default()
}

/// The nearest hit of any. `hits` remembers what lies ahead, so that no byte is searched twice for one beginning.
fn next_beginning(
    beginnings: &[Finder<'static>],
    stream: &[u8],
    at: usize,
    hits: &mut [usize; MOST_BEGINNINGS],
) -> usize {
    let rest = stream.get(at..).unwrap_or_default();
    let mut nearest = stream.len();
    for (beginning, hit) in beginnings.iter().zip(hits) {
        if *hit < at {
            *hit = beginning.find(rest).map_or(usize::MAX, |found| at + found);
        }
        // A beginning may be cut off by the end of what is known.
        let cut = stream.len().saturating_sub(beginning.needle().len() - 1).max(at);
        nearest = nearest.min(*hit).min(cut);
    }
    nearest
}

/// How far a window may move on, by a hash of its last three bytes: the way of Wu and Manber.
struct Window {
    length: usize,
    shifts: Box<[u8; 1 << Window::BITS]>,
}

impl Window {
    const BITS: u32 = 14;

    fn over(texts: &[Vec<u8>], shortest: usize) -> Self {
        // Longer windows jump further, but their many triples fill the table.
        let length = (4096 / texts.len()).clamp(8, LONGEST_WINDOW).min(shortest);
        let mut shifts = Box::new([(length - 2) as u8; 1 << Self::BITS]);
        for text in texts {
            let triples = text.get(..length).unwrap_or_default().windows(3);
            for (shift, triple) in (0..length - 2).rev().zip(triples) {
                if let &[a, b, c] = triple
                    && let Some(slot) = shifts.get_mut(Self::slot([0, a, b, c]))
                {
                    *slot = (*slot).min(shift as u8);
                }
            }
        }
        Self { length, shifts }
    }

    /// Of four bytes, the last three count.
    fn slot(bytes: [u8; 4]) -> usize {
        ((u32::from_le_bytes(bytes) >> 8).wrapping_mul(0x9e37_79b1) >> (32 - Self::BITS)) as usize
    }

    fn next(&self, stream: &[u8], mut at: usize) -> usize {
        while let Some(end) = stream.get(at + self.length - 4..).and_then(<[u8]>::first_chunk) {
            match self.shifts.get(Self::slot(*end)) {
                Some(0) | None => return at,
                Some(shift) => at += usize::from(*shift),
            }
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(texts: &[&str], stream: &str) -> Vec<(usize, usize)> {
        let automaton = Automaton::new(texts.iter().map(|text| text.as_bytes().to_vec()).collect());
        let mut found = Vec::new();
        automaton.feed(ROOT, stream.as_bytes(), |end, length| found.push((end, length)));
        found
    }

    /// At every end, the longest.
    fn naive(texts: &[&str], stream: &str) -> Vec<(usize, usize)> {
        let longest = |end: &usize| {
            let found = texts.iter().filter(|text| !text.is_empty() && stream[..*end].ends_with(**text));
            found.map(|text| (*end, text.len())).max()
        };
        (1..=stream.len()).filter_map(|end| longest(&end)).collect()
    }

    #[test]
    fn every_way_to_search_finds_the_same() {
        let stream = "abcabcdeabcdefgxxabcdefghijkltheabyss-of-abcdefghij and more zz of 12345678 and q".repeat(3);
        let sets: [&[&str]; 8] = [
            &[],
            &["", "abcdefghij"],
            &["abcd", "abcdefgh", "zz"],
            &["abcabc", "bcde", "cde", "12345678", "of-abc"],
            &["abcdefgh", "bcdefghi", "theabyss", "12345678", "efghijkl", "and more "],
            &["abcdefghijkl", "bcdefghijkl", "defghijkl", "fghijkltheabyss-of", "12345678 and q"],
            &["a", "b", "c", "zz", "12"],
            &["abc", "bcd", "cde", "def", "efg"],
        ];
        for texts in sets {
            assert_eq!(ends(texts, &stream), naive(texts, &stream), "{texts:?}");
        }
        let many: Vec<String> = (0..500).map(|n| format!("secret-{n:04}")).chain(["abcdefgh".into()]).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(ends(&many, &stream), naive(&many, &stream));
    }

    #[test]
    fn a_state_is_the_longest_beginning_of_a_text_that_may_still_come() {
        let automaton = Automaton::new(["abcab", "bcd", "cabx"].iter().map(|text| text.as_bytes().to_vec()).collect());
        for (stream, held) in
            [("", ""), ("xab", "ab"), ("abca", "abca"), ("abcabc", "abc"), ("abcabx", ""), ("abcab", "cab")]
        {
            let state = automaton.feed(ROOT, stream.as_bytes(), |_, _| ());
            assert_eq!(automaton.held(state), held.as_bytes(), "{stream}");
            let (text, length) = automaton.position(state);
            assert_eq!(automaton.beginning(text, length), Some(held.as_bytes()));
        }
        assert_eq!(automaton.beginning(3, 1), None);
        assert_eq!(automaton.beginning(0, 6), None);
    }
}
