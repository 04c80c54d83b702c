//! The texts that are searched for, in order.

use std::cmp::Ordering;

/// Texts in order, each once, none of them empty. Offsets are 32 bits wide: no payload has 4 GiB.
///
/// One text costs its bytes and 12 more. A line of a text of several lines is stored only once, as a part of that text.
pub(super) struct Texts {
    bytes: Box<[u8]>,
    list: Box<[Text]>,
    longest: usize,
}

#[derive(Clone, Copy)]
struct Text {
    /// Where it begins in `bytes`.
    at: u32,
    length: u32,
    /// The longest other text that it begins with, or [`NONE`].
    parent: u32,
}

const NONE: u32 = u32::MAX;

/// What the texts have to do with a stream that begins at a certain place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Begun {
    /// The length of the longest text that the stream begins with, 0 if there is none.
    pub(super) whole: usize,
    /// The first text that begins with all of the stream, if some text is longer than the stream and begins with it.
    pub(super) open: Option<u32>,
    /// About how many bytes were compared to find that out.
    pub(super) compared: usize,
}

impl Texts {
    pub(super) fn new(mut texts: Vec<Vec<u8>>) -> Self {
        texts.retain(|text| !text.is_empty());
        texts.sort_unstable();
        texts.dedup();
        let lines = |text: &[u8]| memchr::memchr2(b'\n', b'\r', text).is_some();
        let several: usize = texts.iter().filter(|text| lines(text)).map(Vec::len).sum();
        let mut bytes = Vec::with_capacity(texts.iter().map(Vec::len).sum());
        let mut list = vec![Text { at: 0, length: 0, parent: NONE }; texts.len()];
        // Those of several lines are stored first, so that their lines are found there.
        for of_several in [true, false] {
            for (text, entry) in texts.iter().zip(&mut list).filter(|(text, _)| lines(text) == of_several) {
                let stored = bytes.get(..several).filter(|_| !of_several && several > 0);
                let at = stored.and_then(|stored| memchr::memmem::find(stored, text));
                (entry.at, entry.length) = (at.unwrap_or(bytes.len()) as u32, text.len() as u32);
                if at.is_none() {
                    bytes.extend_from_slice(text);
                }
            }
        }
        // Of the texts that came before, those which the current one begins with, the longest last.
        let mut beginnings: Vec<usize> = Vec::new();
        for (number, (text, entry)) in texts.iter().zip(&mut list).enumerate() {
            while let Some(last) = beginnings.last() {
                if texts.get(*last).is_some_and(|last| text.starts_with(last)) {
                    entry.parent = *last as u32;
                    break;
                }
                beginnings.pop();
            }
            beginnings.push(number);
        }
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        #[cfg(feature = "zeroize")]
        texts.iter_mut().for_each(zeroize::Zeroize::zeroize);
        Self { bytes: shrunk(bytes), list: list.into(), longest }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// The length of the longest text.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// The length of the shortest text, 0 if there is none.
    pub(super) fn shortest(&self) -> usize {
        self.list.iter().map(|text| text.length as usize).min().unwrap_or(0)
    }

    /// The length of all texts together.
    pub(super) fn total(&self) -> usize {
        self.list.iter().map(|text| text.length as usize).sum()
    }

    /// The texts in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.list.iter().map(|text| self.bytes_of(text))
    }

    /// The text of this number, or an empty one.
    pub(super) fn get(&self, number: u32) -> &[u8] {
        self.list.get(number as usize).map_or(&[], |text| self.bytes_of(text))
    }

    /// Compares a stream with the texts. What it costs grows with what they have in common.
    pub(super) fn begun_by(&self, stream: &[u8]) -> Begun {
        // All texts before this one come before the stream in order. If the stream is the beginning of a text, it is that of this
        // one. The texts that the stream begins with are this one, or among those before.
        let next = self.list.partition_point(|text| self.bytes_of(text).cmp(stream) == Ordering::Less);
        let mut begun = Begun::default();
        if let Some(text) = self.list.get(next).map(|text| self.bytes_of(text)).filter(|text| text.starts_with(stream))
        {
            begun.compared = stream.len();
            let is_whole = text.len() == stream.len();
            let after = self.get(next as u32 + 1);
            if !is_whole || after.starts_with(stream) {
                begun.open = Some(next as u32);
            }
            if is_whole {
                begun.whole = stream.len();
                return begun;
            }
        }
        // The last text before the stream begins with the longest text that the stream begins with: all that lies between the two
        // in order does.
        let Some(mut text) = next.checked_sub(1).and_then(|before| self.list.get(before)) else { return begun };
        let common = common(self.bytes_of(text), stream);
        begun.compared = begun.compared.max(common);
        loop {
            if text.length as usize <= common {
                begun.whole = text.length as usize;
                return begun;
            }
            begun.compared += 1;
            match self.list.get(text.parent as usize) {
                Some(parent) => text = parent,
                None => return begun,
            }
        }
    }

    fn bytes_of(&self, text: &Text) -> &[u8] {
        let at = text.at as usize;
        self.bytes.get(at..at + text.length as usize).unwrap_or_default()
    }
}

/// Without room to grow. Where the bytes move, what they leave behind is overwritten.
fn shrunk(bytes: Vec<u8>) -> Box<[u8]> {
    if bytes.len() == bytes.capacity() {
        return bytes.into();
    }
    let shrunk = bytes.as_slice().into();
    #[cfg(feature = "zeroize")]
    zeroize::Zeroize::zeroize(&mut { bytes });
    shrunk
}

#[cfg(feature = "zeroize")]
impl Drop for Texts {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.bytes);
    }
}

/// How many bytes two texts have in common at their start.
fn common(a: &[u8], b: &[u8]) -> usize {
    const STEP: usize = 32;
    let steps = a.chunks_exact(STEP).zip(b.chunks_exact(STEP)).take_while(|(a, b)| a == b).count() * STEP;
    let (a, b) = (a.get(steps..).unwrap_or_default(), b.get(steps..).unwrap_or_default());
    steps + a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Texts {
        Texts::new(texts.iter().map(|text| text.as_bytes().to_vec()).collect())
    }

    #[test]
    fn a_stream_is_compared_with_all_texts_at_once() {
        let sorted = texts(&["abc", "abcabc", "abcabd", "abcx", "b", "", "abc"]);
        assert_eq!(sorted.iter().collect::<Vec<_>>(), [&b"abc"[..], b"abcabc", b"abcabd", b"abcx", b"b"]);
        for (stream, whole, open) in [
            ("", 0, Some(0)),
            ("a", 0, Some(0)),
            ("abc", 3, Some(0)),
            ("abca", 3, Some(1)),
            ("abcabc", 6, None),
            ("abcabcx", 6, None),
            ("abcabx", 3, None),
            ("abcw", 3, None),
            ("abcz", 3, None),
            ("aa", 0, None),
            ("bb", 1, None),
            ("c", 0, None),
        ] {
            let begun = sorted.begun_by(stream.as_bytes());
            assert_eq!((begun.whole, begun.open), (whole, open), "{stream:?}");
        }
        assert_eq!(texts(&[]).begun_by(b"a"), Begun::default());
    }

    #[test]
    fn lines_are_stored_with_the_text_that_they_are_of() {
        let sorted = texts(&["one line\nanother", "one line", "another", "elsewhere"]);
        assert_eq!(sorted.bytes.len(), "one line\nanotherelsewhere".len());
        assert_eq!(
            sorted.iter().collect::<Vec<_>>(),
            [&b"another"[..], b"elsewhere", b"one line", b"one line\nanother"]
        );
    }
}
