//! Makes valid text of a payload, in a copy that is used for decoding only.

/// Makes text of what may not be: bytes that are not UTF-8 and halves of surrogate pairs become U+FFFD. Returns the text
/// and the offsets, in it, of what was replaced.
///
/// serde_json takes such things where it skips a value, and refuses the whole document where they are in a key or in a
/// text that is read.
pub(crate) fn repair(bytes: &[u8]) -> (String, Vec<usize>) {
    let (mut text, mut replaced) = (String::with_capacity(bytes.len()), Vec::new());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            note(&mut replaced, text.len());
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    let halves = halves_of_surrogates(text.as_bytes());
    if !halves.is_empty() {
        // An escape is as long as the one that replaces it, so that the offsets stay what they are.
        let mut repaired = String::with_capacity(text.len());
        let mut copied = 0;
        for at in halves {
            repaired.push_str(text.get(copied..at).unwrap_or_default());
            repaired.push_str(r"\ufffd");
            copied = at + 6;
            note(&mut replaced, at);
        }
        repaired.push_str(text.get(copied..).unwrap_or_default());
        text = repaired;
        replaced.sort_unstable();
    }
    (text, replaced)
}

/// Offsets are kept of so many replacements; which of the rest are in a value that is read is not told.
const REPLACEMENTS: usize = 4096;

fn note(replaced: &mut Vec<usize>, at: usize) {
    if replaced.len() < REPLACEMENTS {
        replaced.push(at);
    }
}

/// Where the escapes are that stand for one half of a surrogate pair, without the other.
fn halves_of_surrogates(text: &[u8]) -> Vec<usize> {
    let unit = |at: usize| -> Option<u32> {
        let escape = text.get(at..at.checked_add(6)?)?.strip_prefix(br"\u")?;
        escape.iter().all(u8::is_ascii_hexdigit).then_some(())?;
        u32::from_str_radix(std::str::from_utf8(escape).ok()?, 16).ok()
    };
    let mut halves = Vec::new();
    let mut at = 0;
    while let Some(found) = text.get(at..).and_then(|rest| memchr::memchr(b'\\', rest)) {
        at += found;
        at += match (unit(at), unit(at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                halves.push(at);
                6
            }
            // A backslash hides what follows it, be it another backslash.
            _ => 2,
        };
    }
    halves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_none_is_replaced_and_its_place_known() {
        let rows: [(&[u8], &str, &[usize]); 9] = [
            (b"plain", "plain", &[]),
            (br"\ud83d\ude00", r"\ud83d\ude00", &[]),
            (br"a\ud800b", r"a\ufffdb", &[1]),
            (br"\udc00\ud800", r"\ufffd\ufffd", &[0, 6]),
            (br"\ud800\ud83d\ude00", r"\ufffd\ud83d\ude00", &[0]),
            (br"\\ud800", r"\\ud800", &[]),
            (br"\\\ud800", r"\\\ufffd", &[2]),
            (b"\xff\\uDFFF", "\u{fffd}\\ufffd", &[0, 3]),
            (br"\ud8", r"\ud8", &[]),
        ];
        for (bytes, text, replaced) in rows {
            assert_eq!(repair(bytes), (text.to_owned(), replaced.to_vec()), "{bytes:?}");
        }
    }
}
