//! Finds every occurrence of many texts in a stream, and knows what of it may still become one.
//!
//! A fast [`Search`] names the places where a text may begin, and [`Texts`] compares each with what is there. Places are decided
//! in order: at the first one where all that is known of the stream is the beginning of a text, the search stops and waits for more.
//! The bytes from there on need not be kept, because the number of that text and a length name them.
//!
//! ```text
//!                 begun
//!                 |<- length ->|
//! ... all decided |   waits    | what comes next ...
//! ```
//!
//! Comparing can be slow where a stream repeats the beginning of a long text over and over: a secret of 10,000 times `a` in a stream
//! of `a` would be compared at each byte. The work of comparing is therefore counted against a credit, to which each byte of the stream
//! adds. When the credit is used up, an Aho-Corasick automaton takes over, which takes the same time for each byte whatever the texts and the
//! stream are. It needs 25 bytes for each byte of a text, so it is built only then, and dropped when the stream has become usual again.

use std::ops::Range;

use super::search::Search;
use super::texts::{Begun, Texts};
use super::trie::{ROOT, State, Trie};

/// The most that comparing may cost before the automaton takes over, in bytes compared: about a tenth of a millisecond's work.
const CREDIT: i64 = 1 << 20;

/// What each byte of the stream adds. A place where a text may begin is paid for by less than three bytes, so that usual text never
/// uses the credit up.
const CREDIT_OF_BYTE: i64 = 8;

/// What it costs to look at one place, besides the bytes that are compared.
const PRICE_OF_PLACE: i64 = 20;

/// The automaton is used for at least this many bytes, and for at least four times as many as the texts have, so that building it costs
/// little compared to its use.
const SHORTEST_WALK: usize = 64 << 10;

/// If the stream ends with at most this many bytes of a text, the search can continue in place of the automaton. Prefixes this short occur
/// too often by chance to be worth tracking.
const LITTLE: usize = 2;

/// A piece of this size is worth a search of its own kind, which is then kept for the next ones. It takes up to 6 KiB, and some
/// microseconds to build.
const WORTH_A_SEARCH: usize = 4 << 10;

/// The texts, ready to be found in streams.
pub(super) struct Matcher {
    texts: Texts,
    /// The search for small pieces.
    simple: Search,
}

/// Where the search of a stream stands between two of its pieces.
pub(super) struct Place {
    /// How much of the stream came.
    position: u64,
    /// The first text that what waits is the beginning of.
    text: u32,
    /// How much waits.
    length: u32,
    credit: i64,
    /// For large pieces, built when the first one comes.
    search: Option<Box<Search>>,
    walk: Option<Box<Walk>>,
}

impl Place {
    /// In a stream of which so much came, and nothing waits.
    pub(super) fn at(position: u64) -> Self {
        Self { position, text: 0, length: 0, credit: CREDIT, search: None, walk: None }
    }

    /// How much of the stream came.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// What waits: the beginning of that length of the text of that number. No text before begins so.
    pub(super) fn begun(&self) -> (u32, u32) {
        self.walk.as_ref().map_or((self.text, self.length), |walk| walk.trie.position(walk.state))
    }

    /// No large piece is expected soon, so that the search for those is not kept.
    pub(super) fn rest(&mut self) {
        self.search = None;
    }

    fn wait(&mut self, text: u32, length: usize) {
        (self.text, self.length) = (text, length as u32);
    }
}

/// The automaton at work.
struct Walk {
    trie: Trie,
    state: State,
    served: usize,
}

/// Where a search of some bytes ended.
enum Stop {
    /// Everywhere it is decided what begins there.
    Decided,
    /// All from this place on is the beginning of this text.
    Begun(usize, u32),
    /// The credit is used up. All before this place is decided.
    Spent(usize),
}

impl Matcher {
    pub(super) fn new(texts: Vec<Vec<u8>>) -> Self {
        let texts = Texts::new(texts);
        Self { simple: Search::by_first_byte(&texts), texts }
    }

    pub(super) fn texts(&self) -> &Texts {
        &self.texts
    }

    /// All together takes no more than six bytes for each byte of the texts, and 4 KiB. This is what the texts leave of it.
    fn search_budget(&self) -> usize {
        let list = self.texts.len() * size_of::<[u32; 3]>();
        (self.texts.total() * 5 + 3700).saturating_sub(list)
    }

    /// What waits.
    pub(super) fn held(&self, place: &Place) -> &[u8] {
        let (text, length) = place.begun();
        self.texts.get(text).get(..length as usize).unwrap_or_default()
    }

    /// Goes on with more of the stream. Tells `found` where texts are: at least the longest one at each place where one begins,
    /// or the longest one at each place where one ends.
    pub(super) fn feed(&self, place: &mut Place, chunk: &[u8], found: &mut dyn FnMut(Range<u64>)) {
        let mut search = place.search.take();
        if search.is_none() && chunk.len() >= WORTH_A_SEARCH {
            search = Some(Box::new(Search::over(&self.texts, self.search_budget())));
        }
        self.feed_with(search.as_deref().unwrap_or(&self.simple), place, chunk, found);
        place.search = search;
    }

    fn feed_with(&self, search: &Search, place: &mut Place, chunk: &[u8], found: &mut dyn FnMut(Range<u64>)) {
        let base = place.position;
        place.position += chunk.len() as u64;
        let mut from = 0;
        if place.walk.is_none() && place.length > 0 {
            if self.is_continued(place, chunk) {
                place.length += chunk.len() as u32;
                return;
            }
            if !self.decide_held(place, chunk, base, found) {
                return;
            }
        }
        loop {
            if place.walk.is_some() {
                match self.walk(place, base, chunk, from, found) {
                    Some(at) => from = at,
                    None => return,
                }
            }
            match self.scan(search, chunk, from..chunk.len(), false, base, &mut place.credit, found) {
                Stop::Decided => return,
                Stop::Begun(at, text) => return place.wait(text, chunk.len() - at),
                Stop::Spent(at) => from = at,
            }
            place.walk = Some(Box::new(Walk { trie: Trie::over(&self.texts), state: ROOT, served: 0 }));
        }
    }

    /// The stream has ended, so that nothing waits any more. Only the credit is left as it is.
    pub(super) fn finish(&self, place: &mut Place, found: &mut dyn FnMut(Range<u64>)) {
        let held = self.held(place);
        let base = place.position - held.len() as u64;
        // The automaton has told of all that it came by.
        if place.walk.take().is_none()
            && let Stop::Spent(at) = self.scan(&self.simple, held, 0..held.len(), true, base, &mut place.credit, found)
        {
            let (trie, rest) = (Trie::over(&self.texts), held.get(at..).unwrap_or_default());
            trie.feed(ROOT, rest, |end, length| found(span(base + (at + end) as u64, length)));
        }
        place.wait(0, 0);
    }

    /// Whether what waits goes on as the same text does, and still is a part of it. Then the text is also still the first.
    fn is_continued(&self, place: &Place, chunk: &[u8]) -> bool {
        let rest = self.texts.get(place.text).get(place.length as usize..).unwrap_or_default();
        rest.len() > chunk.len() && rest.starts_with(chunk)
    }

    /// Decides the places of what waits, now that more is known. Returns false if some of it still waits.
    fn decide_held(&self, place: &mut Place, chunk: &[u8], base: u64, found: &mut dyn FnMut(Range<u64>)) -> bool {
        let held = self.held(place);
        // No text that begins there reaches further.
        let known = chunk.get(..self.texts.longest()).unwrap_or(chunk);
        let joined = [held, known].concat();
        // These bytes have paid in already, and are copied and looked at again.
        place.credit -= (held.len() as i64).saturating_mul(CREDIT_OF_BYTE + 1);
        let start = base - held.len() as u64;
        place.wait(0, 0);
        match self.scan(&self.simple, &joined, 0..held.len(), false, start, &mut place.credit, found) {
            Stop::Decided => true,
            Stop::Begun(at, text) => {
                place.wait(text, joined.len() - at);
                false
            }
            Stop::Spent(at) => {
                let trie = Trie::over(&self.texts);
                let rest = held.get(at..).unwrap_or_default();
                let state = trie.feed(ROOT, rest, |end, length| found(span(start + (at + end) as u64, length)));
                place.walk = Some(Box::new(Walk { trie, state, served: rest.len() }));
                true
            }
        }
    }

    /// Decides the places within `range` of some bytes of the stream, the first of which is at `base`.
    #[expect(clippy::too_many_arguments, reason = "the one loop that everything comes to")]
    fn scan(
        &self,
        search: &Search,
        stream: &[u8],
        range: Range<usize>,
        ended: bool,
        base: u64,
        credit: &mut i64,
        found: &mut dyn FnMut(Range<u64>),
    ) -> Stop {
        let mut candidates = search.through(stream);
        let mut at = range.start;
        loop {
            let next = candidates.next_from(at).min(range.end);
            let passed = (next - at) as i64 + 1;
            *credit = credit.saturating_add(passed.saturating_mul(CREDIT_OF_BYTE)).min(CREDIT);
            at = next;
            if at == range.end {
                return Stop::Decided;
            }
            if *credit < 0 {
                return Stop::Spent(at);
            }
            let Begun { whole, open, compared } = self.texts.begun_by(stream.get(at..).unwrap_or_default());
            *credit -= PRICE_OF_PLACE + compared as i64;
            if let Some(text) = open.filter(|_| !ended) {
                return Stop::Begun(at, text);
            }
            if whole > 0 {
                found(span(base + (at + whole) as u64, whole));
            }
            at += 1;
        }
    }

    /// Goes on with the automaton, until the stream has become usual again: then it says where the search goes on.
    fn walk(
        &self,
        place: &mut Place,
        base: u64,
        chunk: &[u8],
        from: usize,
        found: &mut dyn FnMut(Range<u64>),
    ) -> Option<usize> {
        let walk = place.walk.as_mut()?;
        let serves = SHORTEST_WALK.max(self.texts.total().saturating_mul(4));
        // A shortest text must be longer than this. Otherwise one that the automaton has already reported would be found again.
        let little = LITTLE.min(self.texts.shortest().saturating_sub(1));
        let must_serve = serves.saturating_sub(walk.served).min(chunk.len() - from);
        let (all, mut at) = (chunk.get(from..).unwrap_or_default(), from + must_serve);
        walk.served += all.len();
        let mut tell = |end: usize, length: usize| found(span(base + end as u64, length));
        let first = all.get(..must_serve).unwrap_or_default();
        walk.state = walk.trie.feed(walk.state, first, |end, length| tell(from + end, length));
        for byte in chunk.get(at..).unwrap_or_default() {
            let begun = walk.trie.depth(walk.state);
            if begun <= little && begun <= at {
                at -= begun;
                place.walk = None;
                place.credit = CREDIT;
                return Some(at);
            }
            let end = at;
            walk.state = walk.trie.feed(walk.state, &[*byte], |_, length| tell(end + 1, length));
            at += 1;
        }
        if walk.trie.depth(walk.state) == 0 && walk.served >= serves {
            place.walk = None;
            place.credit = CREDIT;
        }
        None
    }
}

/// Where a text is that ends here.
fn span(end: u64, length: usize) -> Range<u64> {
    end - length as u64..end
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Each way to search takes its turn, whatever the stream is.
    const CREDITS: [i64; 3] = [CREDIT, 200, -1];

    /// Every place of every text, joined where they overlap.
    fn union(texts: &[Vec<u8>], stream: &[u8]) -> Vec<Range<u64>> {
        let mut joined: Vec<Range<u64>> = Vec::new();
        for at in 0..stream.len() {
            let texts = texts.iter().filter(|text| !text.is_empty() && stream[at..].starts_with(text));
            let Some(length) = texts.map(Vec::len).max() else { continue };
            let (start, end) = (at as u64, (at + length) as u64);
            match joined.last_mut() {
                Some(last) if start < last.end => last.end = last.end.max(end),
                _ => joined.push(start..end),
            }
        }
        joined
    }

    /// The longest end of a stream that may still become a text.
    fn undecided<'a>(texts: &[Vec<u8>], stream: &'a [u8]) -> &'a [u8] {
        let begins = |end: &[u8]| texts.iter().any(|text| text.len() > end.len() && text.starts_with(end));
        let at = (0..=stream.len()).find(|at| begins(&stream[*at..])).unwrap_or(stream.len());
        &stream[at..]
    }

    fn add(joined: &mut Vec<Range<u64>>, mut span: Range<u64>) {
        while let Some(last) = joined.pop_if(|last| last.end > span.start) {
            span = span.start.min(last.start)..span.end.max(last.end);
        }
        joined.push(span);
    }

    /// Searches a stream that is cut at these places, and compares after each piece.
    fn check(texts: &[Vec<u8>], stream: &[u8], cuts: &[usize], credit: i64) {
        let matcher = Matcher::new(texts.to_vec());
        let search = stream.len().is_multiple_of(2).then(|| Box::new(Search::over(matcher.texts(), usize::MAX)));
        let mut place = Place { credit, search, ..Place::at(0) };
        let (mut found, mut from) = (Vec::new(), 0);
        for cut in cuts.iter().copied().filter(|cut| *cut <= stream.len()).chain([stream.len()]) {
            let before = found.len();
            matcher.feed(&mut place, &stream[from..cut.max(from)], &mut |span| add(&mut found, span));
            from = from.max(cut);
            place.credit = place.credit.min(credit);
            assert_eq!(place.position(), from as u64);
            let waits = undecided(texts, &stream[..from]);
            assert_eq!(show(matcher.held(&place)), show(waits), "after {from} of {stream:?}, {before} found before");
            let (text, length) = place.begun();
            let first = matcher.texts().iter().position(|text| text.starts_with(waits));
            assert!(length == 0 || first == Some(text as usize), "the first text that begins so");
        }
        matcher.finish(&mut place, &mut |span| add(&mut found, span));
        assert_eq!(found, union(texts, stream), "{texts:?} in {stream:?}, cut at {cuts:?}, credit {credit}");
        assert_eq!(place.begun(), (0, 0));
    }

    fn show(bytes: &[u8]) -> String {
        bytes.escape_ascii().to_string()
    }

    /// Cut at every single place, nowhere, and everywhere.
    fn check_all_cuts(texts: &[Vec<u8>], stream: &[u8]) {
        for credit in CREDITS {
            (0..=stream.len()).for_each(|cut| check(texts, stream, &[cut], credit));
            check(texts, stream, &(0..stream.len()).collect::<Vec<_>>(), credit);
        }
    }

    fn texts(list: &[&str]) -> Vec<Vec<u8>> {
        list.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    #[test]
    fn places_that_overlap_are_all_found() {
        for (list, stream) in [
            (&["abcdefgh", "efghijkl"][..], "xxabcdefghijklxx"),
            (&["abcXbcY", "bc"], "abcXbcZ abcXbcY abcXbc"),
            (&["aa", "aab", "a"], "aabaaaab aa"),
            (&["abab", "bab", "b"], "abababab bab"),
            (&["foo", "foobar", "oba"], "foobar foob fooba foobarfoobar"),
            (&["one-two", "two-three", "three-four", "e-t", "o-th"], "one-two-three-four three-fou"),
            (&["", "a"], "banana"),
        ] {
            check_all_cuts(&texts(list), stream.as_bytes());
        }
    }

    /// Text that repeats itself is where a search by places could take forever.
    #[test]
    fn all_beginnings_of_one_text_are_found_in_one_byte_over_and_over() {
        let beginnings: Vec<Vec<u8>> = (1..=40).map(|length| vec![b'a'; length]).collect();
        let mut stream = vec![b'a'; 64];
        stream.extend_from_slice(b"xaaaaaaaaaxaa");
        check_all_cuts(&beginnings, &stream);
        check_all_cuts(&beginnings[7..], &stream);
        let ends: Vec<Vec<u8>> = (4..30).map(|length| [vec![b'a'; length], vec![b'b']].concat()).collect();
        stream.extend_from_slice(b"aaaaaabaaab");
        check_all_cuts(&ends, &stream);
    }

    #[test]
    fn every_way_to_search_finds_the_same() {
        let usual = "secret-0007 of a long line, secret-04 with secret-0499, secret-0500 and secret-00";
        for count in [1, 3, 4, 20, 64, 65, 500] {
            // Some begin differently, so that there are as many beginnings as texts.
            let number =
                |number: usize| format!("{}{number:03}secret-{number:04}", char::from(b'a' + (number % 26) as u8));
            let many: Vec<String> = (0..count).map(number).chain([number(7), "secret-0007".to_owned()]).collect();
            let many: Vec<Vec<u8>> = many.into_iter().map(String::into_bytes).collect();
            let stream = format!("{usual} {} h007secret-0007 {}", number(count - 1), number(count / 2)).repeat(2);
            check(&many, stream.as_bytes(), &[], CREDIT);
            check(&many, stream.as_bytes(), &[11, 12, 90, 99, 100, 120, 130], CREDIT);
            let short: Vec<Vec<u8>> = many.iter().map(|text| text[..3].to_vec()).collect();
            check(&short, stream.as_bytes(), &[1, 2, 90, 99, 100], CREDIT);
        }
    }

    #[test]
    fn the_automaton_goes_when_the_stream_is_usual_again() {
        let texts = texts(&["aaaaaaaab", "needle", "ab", "le ab"]);
        let stream = [&vec![b'a'; SHORTEST_WALK + 9], &b"ab needle ab nee"[..], b"dle abxneedl"].concat();
        for tail in 0..28 {
            let matcher = Matcher::new(texts.clone());
            let mut place = Place { credit: -1, ..Place::at(0) };
            let mut found = Vec::new();
            let (before, after) = stream.split_at(stream.len() - tail);
            matcher.feed(&mut place, before, &mut |span| add(&mut found, span));
            assert_eq!(show(matcher.held(&place)), show(undecided(&texts, before)), "before the last {tail}");
            matcher.feed(&mut place, after, &mut |span| add(&mut found, span));
            assert!(place.walk.is_none() && place.credit > 0, "after the last {tail}");
            assert_eq!(show(matcher.held(&place)), "needl");
            matcher.finish(&mut place, &mut |span| add(&mut found, span));
            assert_eq!(found, union(&texts, &stream), "before the last {tail}");
        }
    }

    fn secret() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![Just("a"), Just("b"), Just("ab"), Just("aab"), Just("c"), Just("abcabcabc"), Just("\n")];
        vec(part, 0..8).prop_map(|parts| parts.concat().into_bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

        #[test]
        fn any_texts_are_found_in_any_stream_however_it_is_cut(
            texts in vec(secret(), 0..9),
            parts in vec((any::<prop::sample::Index>(), 0..20_usize, any::<bool>()), 0..12),
            mut cuts in vec(0..80_usize, 0..8),
            credit in prop::sample::select(&CREDITS[..]),
        ) {
            let mut stream = Vec::new();
            for (index, most, whole) in parts {
                match texts.get(index.index(texts.len() + 1)) {
                    Some(text) if whole => stream.extend_from_slice(text),
                    Some(text) => stream.extend_from_slice(&text[..most.min(text.len())]),
                    None => stream.push(b'a' + most as u8 % 4),
                }
            }
            cuts.sort_unstable();
            check(&texts, &stream, &cuts, credit);
        }
    }
}
