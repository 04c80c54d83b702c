//! Finds the prefixes of tokens in a stream, each as soon as its last byte has come.
//!
//! An Aho-Corasick automaton tells them at once, also where a longer prefix may follow. Where nothing is begun, a search that looks at
//! many bytes in one step takes over, so that the automaton walks over a small part of a usual log only.

use std::fmt;

use super::search::Search;
use super::texts::Texts;
use super::trie::{ROOT, State, Trie};

/// The prefixes, ready to be found in streams.
pub(super) struct Automaton {
    texts: Texts,
    trie: Trie,
    search: Search,
}

impl Automaton {
    pub(super) fn new(texts: Vec<Vec<u8>>) -> Self {
        let texts = Texts::new(texts);
        Self { trie: Trie::over(&texts), search: Search::over(&texts, usize::MAX), texts }
    }

    /// A state as the number of a text and a length.
    pub(super) fn position(&self, state: State) -> (u32, u32) {
        self.trie.position(state)
    }

    /// The beginning of a text, if it has that many bytes.
    pub(super) fn beginning(&self, text: u32, length: u32) -> Option<&[u8]> {
        self.texts.get(text).get(..length as usize)
    }

    /// The state after more of the stream. Tells `found`, for each place where a text ends, how many bytes of the stream
    /// were before that, and the length of the longest text that ends there.
    pub(super) fn feed(&self, mut state: State, stream: &[u8], mut found: impl FnMut(usize, usize)) -> State {
        let mut candidates = self.search.through(stream);
        let mut at = 0;
        loop {
            let begun = self.trie.depth(state);
            if begun <= LITTLE && begun <= at {
                let candidate = candidates.next_from(at - begun);
                if candidate > at - begun {
                    (state, at) = (ROOT, candidate);
                }
            }
            let Some(byte) = stream.get(at) else { return state };
            at += 1;
            state = self.trie.feed(state, &[*byte], |_, length| found(at, length));
        }
    }
}

impl fmt::Debug for Automaton {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Automaton").field("texts", &self.texts.len()).finish_non_exhaustive()
    }
}

/// If the stream ends with at most this many bytes of a text, the search continues in place of the automaton. A byte or two of a text occur
/// often by chance, and the search finds out faster whether more follows.
const LITTLE: usize = 2;

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
            let (text, length) = automaton.position(state);
            assert_eq!(automaton.beginning(text, length), Some(held.as_bytes()), "{stream}");
        }
        assert_eq!(automaton.beginning(3, 1), None);
        assert_eq!(automaton.beginning(0, 6), None);
    }
}
