//! Tables for each stage, whole and byte by byte.

use super::limit::Limit;
use super::mask::Forms;
use super::*;
use crate::secret::Secret;

const ESC: &str = "\u{1b}";

/// What comes out of a stage, the input cut after every `size` bytes, and once whole.
fn in_pieces(input: &[u8], mut stage: impl FnMut(&[Bytes]) -> Vec<u8>) -> Vec<u8> {
    let whole = stage(&[Bytes::copy_from_slice(input)]);
    for size in [1, 2, 3, 7] {
        let pieces: Vec<Bytes> = input.chunks(size).map(Bytes::copy_from_slice).collect();
        assert_eq!(show(&stage(&pieces)), show(&whole), "in pieces of {size}");
    }
    whole
}

fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn masked_with(secrets: &[&str], forms: Forms, input: &[u8]) -> String {
    let list: Vec<Secret> = secrets.iter().map(|secret| Secret::new(*secret)).collect();
    let secrets = Secrets { of_payload: list.len(), list };
    let masks = Arc::new(Masks::with_forms(&secrets.list, forms));
    let output = in_pieces(input, |pieces| {
        let (mut masker, mut output) = (Masker::new(Arc::clone(&masks)), Vec::new());
        for piece in pieces {
            // Wherever a masker stops, another goes on.
            let (resumed, held) = Masker::resume(&masks, masker.held(&secrets).as_ref(), &secrets);
            masker = resumed;
            masker.push(held.into(), &mut |bytes| output.extend(bytes));
            masker.push(piece.clone(), &mut |bytes| output.extend(bytes));
        }
        masker.end(&mut |bytes| output.extend(bytes));
        output
    });
    String::from_utf8(output).unwrap()
}

const PLAIN: Forms = Forms { lines: true, encoded: false };

#[test]
fn masks() {
    for (secrets, input, output) in [
        (&[][..], "nothing to hide", "nothing to hide"),
        (&["", "  ", "\n"], "nothing to hide", "nothing to hide"),
        (&["secret"], "", ""),
        (&["secret"], "secret", "[MASKED]"),
        (&[" secret\n"], "a secret, a secre t", "a [MASKED], a secre t"),
        (&["secret"], "secretsecret", "[MASKED][MASKED]"),
        (&["secret"], "Secret sECRET", "Secret sECRET"),
        (&["secret"], "what ends in secre", "what ends in secre"),
        // Where the official runner moves bytes, or lets a secret through.
        (&["ab", "xyz"], "axyz", "a[MASKED]"),
        (&["aab"], "aaab", "a[MASKED]"),
        (&["foo", "foobar"], "foobar foob foo", "[MASKED] [MASKED]b [MASKED]"),
        (&["bc", "abcd"], "abcd abcx xbcd", "[MASKED] a[MASKED]x x[MASKED]d"),
        (&["abcXbcY", "bc"], "abcXbcZ", "a[MASKED]X[MASKED]Z"),
        // What overlaps is hidden as one.
        (&["aa"], "aaaaa b a", "[MASKED] b a"),
        (&["abab"], "xabababx", "x[MASKED]x"),
        (&["xxab", "abcd"], "xxabcd xxabc", "[MASKED] [MASKED]c"),
        (&["one-two", "two-three", "three-four"], "one-two-three-four", "[MASKED]"),
        // A marker is never masked again, and what is left around it does not become a secret.
        (&["MASK", "secret"], "secret", "[MASKED]"),
        (&["secret", "leftright"], "leftsecretright", "left[MASKED]right"),
        (&["a"], "banana", "b[MASKED]n[MASKED]n[MASKED]"),
        (&["pässwörd"], "pässwörd pässword", "[MASKED] pässword"),
        // Several lines.
        (&["first line\nsecond line\nshort"], "first line\nsecond line\nshort\n", "[MASKED]\n"),
        (&["first line\nsecond line\nshort"], "first line\r\nsecond line\r\nshort\n", "[MASKED]\n"),
        (&["first line\r\nsecond line"], "first line\nsecond line\n", "[MASKED]\n"),
        (&["first line\nsecond line\nshort"], "> second line\n> short\n", "> [MASKED]\n> short\n"),
    ] {
        assert_eq!(masked_with(secrets, PLAIN, input.as_bytes()), output, "{secrets:?} in {input:?}");
    }
    let whole = Forms { lines: false, encoded: false };
    assert_eq!(masked_with(&["first line\nsecond line"], whole, b"second line"), "second line");
}

#[test]
fn encoded_secrets_are_hidden_on_request() {
    use base64::Engine as _;
    let secret = "p\u{e4}ss/w?rd \"x\"";
    let encoded = Forms { lines: true, encoded: true };
    let url = "https://x.test/p%C3%A4ss%2Fw%3Frd%20%22x%22/p%c3%a4ss%2fw%3frd%20%22x%22?a=p%C3%A4ss%2Fw%3Frd+%22x%22";
    assert_eq!(masked_with(&[secret], encoded, url.as_bytes()), "https://x.test/[MASKED]/[MASKED]?a=[MASKED]");
    let json = serde_json::json!({ "key": secret }).to_string();
    assert_eq!(masked_with(&[secret], encoded, json.as_bytes()), r#"{"key":"[MASKED]"}"#);
    assert_eq!(masked_with(&[secret], PLAIN, json.as_bytes()), json);
    for before in 0..5 {
        let text = base64::engine::general_purpose::STANDARD.encode(format!("{}{secret} and", "x".repeat(before)));
        let shown = masked_with(&[secret], encoded, text.as_bytes());
        assert!(shown.contains("[MASKED]") && shown.len() < 24, "{before}: {text} became {shown}");
    }
}

/// What JavaScript, Python, Java, Go and PHP make of one secret, and of one of several lines.
#[test]
fn secrets_are_hidden_as_the_usual_encoders_write_them() {
    let encoded = Forms { lines: true, encoded: true };
    let secret = "p@ss/w0rd!x &<\u{e4}\u{1f600}'*~";
    for form in [
        "p%40ss%2Fw0rd!x%20%26%3C%C3%A4%F0%9F%98%80'*~",
        "p@ss/w0rd!x%20&%3C%C3%A4%F0%9F%98%80'*~",
        "p%40ss/w0rd%21x%20%26%3C%C3%A4%F0%9F%98%80%27%2A~",
        "p%40ss%2Fw0rd%21x+%26%3C%C3%A4%F0%9F%98%80%27%2A~",
        "p%40ss%2Fw0rd%21x+%26%3C%C3%A4%F0%9F%98%80%27*%7E",
        "p%40ss%2fw0rd%21x+%26%3c%c3%a4%f0%9f%98%80%27%2a~",
        "p@ss%2Fw0rd%21x%20&%3C%C3%A4%F0%9F%98%80%27%2A~",
        "p@ss/w0rd!x \\u0026\\u003c\u{e4}\u{1f600}'*~",
        "p@ss\\/w0rd!x &<\\u00e4\\ud83d\\ude00'*~",
        "p@ss\\/w0rd!x &<\u{e4}\u{1f600}'*~",
        "p@ss/w0rd!x &<\\u00e4\\ud83d\\ude00'*~",
    ] {
        assert_eq!(masked_with(&[secret], encoded, format!("a {form} b").as_bytes()), "a [MASKED] b", "{form}");
        assert_ne!(masked_with(&[secret], PLAIN, form.as_bytes()), "[MASKED]", "{form}");
    }
    let lines = "a first line\nshort";
    for form in
        ["a first line\\nshort", "a first line\\r\\nshort", "a+first+line%0D%0Ashort", "a%20first%20line%0ashort"]
    {
        assert_eq!(masked_with(&[lines], encoded, format!("a {form} b").as_bytes()), "a [MASKED] b", "{form}");
    }
}

#[test]
fn short_secrets_are_counted_and_hidden() {
    let masks = Masks::new(&[Secret::new("abc"), Secret::new(" 1234567 "), Secret::new("12345678"), Secret::new(" ")]);
    assert_eq!((masks.short(), format!("{masks:?}")), (2, "Masks { count: 3, short: 2, .. }".to_owned()));
}

/// All before what may become a secret goes on at once.
#[test]
fn no_more_is_held_back_than_may_become_a_secret() {
    let masks = Arc::new(Masks::new(&[Secret::new("abcdefgh"), Secret::new("defx")]));
    let mut masker = Masker::new(masks);
    for (input, passed_on) in
        [("12", "12"), ("abcde", ""), ("f", ""), ("x", "abc[MASKED]"), ("ab", ""), ("a", "ab"), ("z", "az")]
    {
        let mut output = Vec::new();
        masker.push(input.into(), &mut |bytes| output.extend(bytes));
        assert_eq!(String::from_utf8(output).unwrap(), passed_on, "after {input}");
    }
}

#[test]
fn a_masker_of_other_secrets_does_not_guess_what_was_held_back() {
    let secrets = |secret: &str| Secrets { list: vec![Secret::new(secret)], of_payload: 1 };
    let masks = |secrets: &Secrets| Arc::new(Masks::new(&secrets.list));
    let (old, new) = (secrets("a-secret-value"), secrets("something longer"));
    let mut first = Masker::new(masks(&old));
    first.push("x a-secret".into(), &mut |_| ());
    let held = first.held(&old);
    assert!(!format!("{held:?} {first:?}").contains("secret-"), "{held:?} {first:?}");
    let (mut resumed, known) = Masker::resume(&masks(&new), held.as_ref(), &new);
    let mut output = Vec::new();
    resumed.push("-value".into(), &mut |bytes| output.extend(bytes));
    assert_eq!((known, output), (Vec::new(), b"[MASKED]-value".to_vec()));
}

#[test]
fn a_secret_learnt_in_the_middle_of_itself_is_hidden() {
    let old = Arc::new(Masks::new(&[Secret::new("password")]));
    let new = Arc::new(Masks::new(&[Secret::new("password"), Secret::new("sword-fish"), Secret::new("pass")]));
    let (mut masker, mut output) = (Masker::new(old), Vec::new());
    masker.push("the passwor".into(), &mut |bytes| output.extend(bytes));
    masker.replace(&new);
    masker.push("d-fish".into(), &mut |bytes| output.extend(bytes));
    masker.end(&mut |bytes| output.extend(bytes));
    assert_eq!(String::from_utf8(output).unwrap(), "the [MASKED]");
}

#[test]
fn url_parameters() {
    for (input, output) in [
        ("http://x.test/?private_token=abc", "http://x.test/?private_token=[MASKED]"),
        ("?Private_Token=abc&x=1&RSS_TOKEN=def end", "?Private_Token=[MASKED]&x=1&RSS_TOKEN=[MASKED] end"),
        (
            "?authenticity_token=&rss_token=?rss_token=1",
            "?authenticity_token=[MASKED]&rss_token=[MASKED]?rss_token=[MASKED]",
        ),
        (
            "?X-Amz-Signature=a&X-Amz-Credential=b&X-Amz-Security-Token=c",
            "?X-Amz-Signature=[MASKED]&X-Amz-Credential=[MASKED]&X-Amz-Security-Token=[MASKED]",
        ),
        ("?private_token=a\"b'c)d]#e,f\n", "?private_token=[MASKED]\n"),
        ("?private_token=a\u{a0}b", "?private_token=[MASKED]\u{a0}b"),
        ("?private_token=a\u{85}b", "?private_token=[MASKED]\u{85}b"),
        ("?private_token=a\u{2003}b", "?private_token=[MASKED]\u{2003}b"),
        ("?private_token=a\u{2029}b", "?private_token=[MASKED]\u{2029}b"),
        ("?private_token=a\u{3000}b", "?private_token=[MASKED]\u{3000}b"),
        ("?private_token=a\u{1680}b", "?private_token=[MASKED]\u{1680}b"),
        ("?private_token=a\u{205f}b", "?private_token=[MASKED]\u{205f}b"),
        ("?private_token=\u{e4}\u{20ac}\u{2019}\u{2041}\u{3001}\u{1f600} b", "?private_token=[MASKED] b"),
        ("private_token=abc", "private_token=abc"),
        ("?xprivate_token=abc&private_tokens=1", "?xprivate_token=abc&private_tokens=1"),
        ("?private_token&private_token=1", "?private_token&private_token=[MASKED]"),
        ("?priv?private_token=1", "?priv?private_token=[MASKED]"),
        ("a && b || c ? d : e & ", "a && b || c ? d : e & "),
    ] {
        let shown = in_pieces(input.as_bytes(), |pieces| {
            let (mut urls, mut output) = (Urls::default(), Vec::new());
            pieces.iter().for_each(|piece| {
                urls.push(Piece::Shown(piece.clone()), &mut |piece| piece.show(&mut |bytes| output.extend(bytes)))
            });
            output
        });
        assert_eq!(String::from_utf8(shown).unwrap(), output, "{input}");
    }
    let mut output = Vec::new();
    let cut = Piece::Shown(Bytes::from_static(b"?rss_token=\xc2 \xe2\x80"));
    Urls::default().push(cut, &mut |piece| piece.show(&mut |bytes| output.extend(bytes)));
    assert_eq!(output, b"?rss_token=[MASKED] \xe2\x80");
}

#[test]
fn tokens() {
    let own = [" my_tok ", "my_tok", "ab:", "glpat-very-own-", "x1", "x2", "x3", "x4"];
    let prefixes = tokens::prefixes([tokens::ALWAYS].into_iter().chain(tokens::DEFAULTS).chain(own));
    let own = own.map(str::to_owned);
    for (input, output) in [
        ("glpat-abc.DEF_0-9=", "glpat-[MASKED]"),
        ("glpat-", "glpat-"),
        ("glpat- x", "glpat- x"),
        ("glpat-\u{e4}", "glpat-\u{e4}"),
        ("GLPAT-abc", "GLPAT-abc"),
        ("xglpat-abc:def", "xglpat-[MASKED]:def"),
        ("glpat-abcglpat-def", "glpat-[MASKED]"),
        ("glglpat-a glrt-b glrtr-c", "glglpat-[MASKED] glrt-[MASKED] glrtr-[MASKED]"),
        ("_gitlab_session=abc; x", "_gitlab_session=[MASKED]; x"),
        ("my_tok123 ab:456/", "my_tok[MASKED] ab:[MASKED]/"),
        ("glpat-xxab:456", "glpat-[MASKED]:[MASKED]"),
        ("glpat-very-own-abc", "glpat-[MASKED]"),
        ("x1a x2b x3c x4d", "x1[MASKED] x2[MASKED] x3[MASKED] x4[MASKED]"),
        ("glpat-[MASKED]", "glpat-[MASKED]"),
    ] {
        let shown = in_pieces(input.as_bytes(), |pieces| {
            let (mut tokens, mut output) = (Tokens::new(Arc::clone(&prefixes)), Vec::new());
            for piece in pieces {
                tokens = Tokens::resume(Arc::clone(&prefixes), tokens.mark(&own), &own);
                tokens.push(Piece::Shown(piece.clone()), &mut |bytes| output.extend(bytes));
            }
            output
        });
        assert_eq!(String::from_utf8(shown).unwrap(), output, "{input}");
    }
}

/// A job may be taken up where other prefixes are looked for.
#[test]
fn the_beginning_of_a_prefix_survives_other_prefixes() {
    let own = ["my_tok".to_owned(), "my_token-".to_owned()];
    let old = tokens::prefixes([tokens::ALWAYS, "gloas-", "my_token-"]);
    let new = tokens::prefixes([tokens::ALWAYS, "a", "gloas-", "my_tok", "my_token-"]);
    for (first, second) in [("glo", "as-x"), ("my_t", "okx"), ("my_tok", "x"), ("glpat-", "x"), ("glpat-my", "_tok")] {
        let (mut output, mut tokens) = (Vec::new(), Tokens::new(Arc::clone(&old)));
        tokens.push(Piece::Shown(first.into()), &mut |bytes| output.extend(bytes));
        let mark = serde_json::to_string(&tokens.mark(&own)).unwrap();
        assert!(!mark.contains(first), "{mark}");
        let mut tokens = Tokens::resume(Arc::clone(&new), serde_json::from_str(&mark).unwrap(), &own);
        tokens.push(Piece::Shown(second.into()), &mut |bytes| output.extend(bytes));
        assert!(output.ends_with(b"[MASKED]"), "{first} and {second}: {}", show(&output));
    }
}

#[test]
fn repair() {
    for (input, output) in [
        (&b""[..], ""),
        ("all of this is text: \u{e4}\u{20ac}\u{1f600}".as_bytes(), "all of this is text: \u{e4}\u{20ac}\u{1f600}"),
        (b"a\xffb", "a\u{fffd}b"),
        // A cut sequence counts byte by byte.
        (b"\xe2\x82x", "\u{fffd}\u{fffd}x"),
        (b"\xf0\x9f\x98", "\u{fffd}\u{fffd}\u{fffd}"),
        (b"\xe2\xe2\x82\xac", "\u{fffd}\u{20ac}"),
        (b"\xed\xa0\x80\xc0\x80", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
        (b"\xf4\x90\x80\x80 \x80", "\u{fffd}\u{fffd}\u{fffd}\u{fffd} \u{fffd}"),
    ] {
        let shown = in_pieces(input, |pieces| {
            let (mut repair, mut output) = (Repair::default(), Vec::new());
            pieces.iter().for_each(|piece| repair.push(piece.clone(), &mut |bytes| output.extend(bytes)));
            repair.end(&mut |bytes| output.extend(bytes));
            output
        });
        assert_eq!(String::from_utf8(shown).unwrap(), output, "{input:?}");
    }
}

/// Writes at these times, in seconds.
fn stamped(stream: Stream, writes: &[(u64, &str)]) -> String {
    let (mut stamper, mut output) = (Stamper::new(stream), Vec::new());
    for (at, text) in writes {
        let now = Timestamp::from_millis(1_637_629_323_000 + at * 1000);
        stamper = Stamper::resume(stream, stamper.line().unwrap_or_default());
        stamper.push(Bytes::copy_from_slice(text.as_bytes()), now, &mut |bytes| output.extend(bytes));
    }
    stamper.end(&mut |bytes| output.extend(bytes));
    String::from_utf8(output).unwrap()
}

#[test]
fn timestamps() {
    for (writes, output) in [
        (&[][..], ""),
        (&[(0, "hello\n")], "2021-11-23T01:02:03.000000Z 01O hello\n"),
        (&[(0, "hello")], "2021-11-23T01:02:03.000000Z 01O hello\n"),
        // The time of a line is that of its first byte.
        (
            &[(0, "hel"), (1, "lo\nyou"), (2, "\n")],
            "2021-11-23T01:02:03.000000Z 01O hello\n2021-11-23T01:02:04.000000Z 01O you\n",
        ),
        (&[(0, "\n\n")], "2021-11-23T01:02:03.000000Z 01O \n2021-11-23T01:02:03.000000Z 01O \n"),
        (
            &[(0, "10%\r"), (1, "20%\r"), (2, "done\n"), (3, "x\n")],
            "2021-11-23T01:02:03.000000Z 01O 10%\r\n2021-11-23T01:02:04.000000Z 01O+20%\r\n2021-11-23T01:02:05.000000Z 01O+done\n2021-11-23T01:02:06.000000Z 01O x\n",
        ),
        (&[(0, "a\r\nb")], "2021-11-23T01:02:03.000000Z 01O a\r\n2021-11-23T01:02:03.000000Z 01O b\n"),
        // Each CR that ends no line ends an entry, in one write as in many.
        (
            &[(0, "10%\r20%\rdone\n")],
            "2021-11-23T01:02:03.000000Z 01O 10%\r\n2021-11-23T01:02:03.000000Z 01O+20%\r\n2021-11-23T01:02:03.000000Z 01O+done\n",
        ),
        // A CR at the end of a write is not waited for: the one difference that cutting makes.
        (&[(0, "a\r"), (1, "\n")], "2021-11-23T01:02:03.000000Z 01O a\r\n2021-11-23T01:02:04.000000Z 01O+\n"),
    ] {
        assert_eq!(stamped(Stream::Stdout, writes), output, "{writes:?}");
    }
    for (stream, tag) in [
        (Stream::Runner, "00O"),
        (Stream::Stderr, "01E"),
        (Stream::Service(0), "0fO"),
        (Stream::Service(1), "10O"),
        (Stream::Service(u16::MAX), "ffO"),
    ] {
        assert_eq!(stamped(stream, &[(0, "x")]), format!("2021-11-23T01:02:03.000000Z {tag} x\n"));
    }
    let late = Stamper::resume(Stream::Stdout, Line::default());
    let (mut stamper, mut output) = (late, Vec::new());
    stamper.push(Bytes::from_static(b"x\n"), Timestamp::from_millis(u64::MAX), &mut |bytes| output.extend(bytes));
    assert_eq!(output, b"9999-12-31T23:59:59.999000Z 01O x\n");
}

#[test]
fn lines_that_get_long_are_broken_off() {
    for (length, broken) in [(8192 - 32, false), (8192 - 31, true)] {
        let text = "x".repeat(length);
        let shown = stamped(Stream::Stdout, &[(0, &text[..5]), (1, &text[5..]), (2, "y\n")]);
        let header = "2021-11-23T01:02:03.000000Z 01O ";
        let rest = if broken { "\n2021-11-23T01:02:05.000000Z 01O+y\n" } else { "y\n" };
        assert_eq!(shown, format!("{header}{text}{rest}"), "{length}");
    }
}

fn limited(policy: LogLimit, input: &[u8]) -> String {
    let output = in_pieces(input, |pieces| {
        let (mut limit, mut output) = (Limit::new(policy), Vec::new());
        let mut repair = Repair::default();
        for piece in pieces {
            limit = Limit::resume(policy, output.len() as u64, limit.ending());
            repair.push(piece.clone(), &mut |text| limit.push(text, &mut |bytes| output.extend(bytes)));
        }
        limit.end(&mut |bytes| output.extend(bytes));
        output
    });
    String::from_utf8(output).unwrap()
}

#[test]
fn a_log_ends_with_a_notice_at_its_limit() {
    let notice = format!(
        "\n{ESC}[33;1mJob's log exceeded limit of 200 bytes.\nJob execution will continue but no more output will be \
         collected.{ESC}[0;m\n"
    );
    let text = "x".repeat(300);
    let head = &text[..200 - notice.len()];
    for size in [0, head.len(), head.len() + 1, 199, 200] {
        assert_eq!(limited(LogLimit::head(200), &text.as_bytes()[..size]), text[..size]);
    }
    for size in [201, 202, 300] {
        assert_eq!(limited(LogLimit::head(200), &text.as_bytes()[..size]), format!("{head}{notice}"));
    }
    // It is cut at a character.
    let cut = format!("{}\u{20ac}{text}", &head[1..]);
    assert_eq!(limited(LogLimit::head(200), cut.as_bytes()), format!("{}{notice}", &head[1..]));
    // Where the notice does not fit, there is none.
    for limit in [LogLimit::head(9), LogLimit::head_and_tail(9, 4)] {
        assert_eq!(limited(limit, b"01234567\xe2\x82\xac"), "01234567");
        assert_eq!(limited(limit, b"012345678"), "012345678");
    }
    assert_eq!(limited(LogLimit::None, &[b'x'; 10_000]).len(), 10_000);
}

/// A job may be taken up with another configuration.
#[test]
fn a_limit_may_change_while_the_end_of_a_log_waits() {
    let text = "0123456789".repeat(15);
    for (new, shown) in [(LogLimit::None, text.clone() + "x"), (LogLimit::head(160), text.clone() + "x")] {
        let (mut output, mut old) = (Vec::new(), Limit::new(LogLimit::head(155)));
        old.push(text.clone().into(), &mut |bytes| output.extend(bytes));
        assert!(output.len() < text.len());
        let mut limit = Limit::resume(new, output.len() as u64, old.ending());
        limit.push("x".into(), &mut |bytes| output.extend(bytes));
        assert_eq!(output.len() == shown.len(), new == LogLimit::None, "without a limit nothing waits");
        limit.end(&mut |bytes| output.extend(bytes));
        assert_eq!(String::from_utf8(output).unwrap(), shown);
    }
    let mut smaller = Limit::resume(LogLimit::head(20), 30, Limit::new(LogLimit::head(155)).ending());
    smaller.push("x".into(), &mut |_| panic!("the log is longer than it may be"));
    smaller.end(&mut |_| panic!("the log is longer than it may be"));
}

#[test]
fn the_end_of_a_long_log_is_kept() {
    let policy = LogLimit::head_and_tail(1000, 100);
    let lines: String = (0..1000).map(|n| format!("line {n}\n")).collect();
    let shown = limited(policy, lines.as_bytes());
    assert!(shown.len() <= 1000 && shown.len() > 900, "{}", shown.len());
    let (head, rest) = shown.split_once(&format!("\n{ESC}[33;1mJob's log exceeded limit of 1000 bytes.\n")).unwrap();
    assert!(lines.starts_with(head) && head.len() > 500);
    let (notice, tail) = rest.split_once(&format!(" bytes were left out. The end of the log:{ESC}[0;m\n")).unwrap();
    let left_out: usize = notice.rsplit_once('m').unwrap().1.parse().unwrap();
    assert!(lines.ends_with(tail) && tail.starts_with("line ") && tail.len() > 80, "{tail}");
    assert_eq!(head.len() + left_out + tail.len(), lines.len());
    // A log that just fits is whole.
    for size in [head.len(), head.len() + 50, 999, 1000] {
        assert_eq!(limited(policy, &lines.as_bytes()[..size]), lines[..size]);
    }
    assert!(limited(policy, &lines.as_bytes()[..1001]).contains("left out"));
    // One long line has no start to be found.
    let shown = limited(policy, "\u{20ac}".repeat(1000).as_bytes());
    assert!(shown.len() <= 1000 && shown.ends_with(&"\u{20ac}".repeat(33)), "{shown}");
    for total in (0..400).step_by(9) {
        assert!(limited(LogLimit::head_and_tail(total, 50), lines.as_bytes()).len() as u64 <= total);
        assert!(limited(LogLimit::head(total), lines.as_bytes()).len() as u64 <= total);
    }
}

#[test]
fn sections() {
    let now = Timestamp::from_millis(1_560_896_352_999);
    let marker = |section: Section| section.start(section.name(), now);
    assert_eq!(marker(Section::new("step_script")), format!("section_start:1560896352:step_script\r{ESC}[0K"));
    assert_eq!(
        marker(Section::new("my name\u{e4}\r[x]").with_collapsed().without_duration()),
        format!("section_start:1560896352:my_name___x_[hide_duration=true,collapsed=true]\r{ESC}[0K")
    );
    assert_eq!(Section::new("").name(), "section");
    assert_eq!(Section::new("x").with_title("Build\nall").title(), Some("Build all"));
    assert_eq!(section::title_line("T"), format!("{ESC}[0K{ESC}[36;1mT{ESC}[0;m{ESC}[0;m\n"));
    assert_eq!(section::end("x", now), format!("section_end:1560896352:x\r{ESC}[0K"));
}

#[test]
fn the_runners_own_lines() {
    assert_eq!(ansi::plain("x"), format!("{ESC}[0Kx{ESC}[0;m\n"));
    assert_eq!(ansi::info("x"), format!("{ESC}[32;1mx{ESC}[0;m\n"));
    assert_eq!(ansi::warning("x"), format!("{ESC}[0;33mWARNING: x{ESC}[0;m\n"));
    assert_eq!(ansi::error("x"), format!("{ESC}[31;1mERROR: x{ESC}[0;m\n"));
}
