//! A secret as the usual encoders write it.

use std::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// A form that is shorter says too little: it would be found anywhere.
const SHORTEST: usize = 4;

/// What is left as it is in a URL, besides letters and digits, and what stands for a space. Others become `%` and two hexadecimal
/// digits for each byte.
struct UrlEncoder {
    /// What names it in snapshots.
    name: &'static str,
    literal: &'static str,
    space: &'static str,
}

const URL_ENCODERS: [UrlEncoder; 7] = [
    // RFC 3986's unreserved characters: Python's `quote(safe="")`.
    UrlEncoder { name: "url", literal: "-._~", space: "%20" },
    // Go's `url.QueryEscape` and Python's `quote_plus`.
    UrlEncoder { name: "url-plus", literal: "-._~", space: "+" },
    // Python's `quote`.
    UrlEncoder { name: "url-slash", literal: "-._~/", space: "%20" },
    // Go's `url.PathEscape`.
    UrlEncoder { name: "url-go-path", literal: "-._~$&+=:@", space: "%20" },
    // Java's `URLEncoder`.
    UrlEncoder { name: "url-java", literal: "-._*", space: "+" },
    // JavaScript's `encodeURIComponent`.
    UrlEncoder { name: "url-js-component", literal: "-._~!*'()", space: "%20" },
    // JavaScript's `encodeURI`.
    UrlEncoder { name: "url-js", literal: "-._~!*'();,/?:@&=+$#", space: "%20" },
];

impl UrlEncoder {
    fn encode(&self, secret: &str, lower_case: bool) -> String {
        let mut encoded = String::with_capacity(secret.len());
        for byte in secret.bytes() {
            match char::from(byte) {
                ' ' => encoded.push_str(self.space),
                c if c.is_ascii_alphanumeric() || self.literal.contains(c) => encoded.push(c),
                _ if lower_case => _ = write!(encoded, "%{byte:02x}"),
                _ => _ = write!(encoded, "%{byte:02X}"),
            }
        }
        encoded
    }
}

/// What becomes `\u` and four hexadecimal digits in a JSON string, besides control characters.
struct JsonEncoder {
    /// What names it in snapshots.
    name: &'static str,
    /// All that is not ASCII. Characters beyond U+FFFF become two surrogates.
    non_ascii: bool,
    /// U+007F.
    delete: bool,
    /// `<`, `>` and `&`.
    html: bool,
    /// U+2028 and U+2029, which end a line in JavaScript.
    separators: bool,
    /// `/` becomes `\/`.
    slash: bool,
    /// Backspace and form feed have no letters of their own.
    long_controls: bool,
}

const PLAIN: JsonEncoder = JsonEncoder {
    name: "json",
    non_ascii: false,
    delete: false,
    html: false,
    separators: false,
    slash: false,
    long_controls: false,
};

const JSON_ENCODERS: [JsonEncoder; 9] = [
    // JavaScript's `JSON.stringify`, serde_json, Python's `json.dumps` with `ensure_ascii=False`.
    PLAIN,
    // Go's `json.Marshal`, since 1.22 and before, and its encoder with `SetEscapeHTML(false)`.
    JsonEncoder { name: "json-go", html: true, separators: true, ..PLAIN },
    JsonEncoder { name: "json-go-1.21", html: true, separators: true, long_controls: true, ..PLAIN },
    JsonEncoder { name: "json-go-no-html", separators: true, ..PLAIN },
    JsonEncoder { name: "json-go-1.21-no-html", separators: true, long_controls: true, ..PLAIN },
    // PHP's `json_encode`, with `JSON_UNESCAPED_SLASHES`, and with `JSON_UNESCAPED_UNICODE`, which still escapes the separators.
    JsonEncoder { name: "json-php", non_ascii: true, separators: true, slash: true, ..PLAIN },
    JsonEncoder { name: "json-php-slashes", non_ascii: true, separators: true, ..PLAIN },
    JsonEncoder { name: "json-php-unicode", separators: true, slash: true, ..PLAIN },
    // Python's `json.dumps`.
    JsonEncoder { name: "json-python", non_ascii: true, separators: true, delete: true, ..PLAIN },
];

impl JsonEncoder {
    fn encode(&self, secret: &str) -> String {
        let mut encoded = String::with_capacity(secret.len());
        for c in secret.chars() {
            match c {
                '"' | '\\' => encoded.extend(['\\', c]),
                '\n' => encoded.push_str("\\n"),
                '\r' => encoded.push_str("\\r"),
                '\t' => encoded.push_str("\\t"),
                '\u{8}' if !self.long_controls => encoded.push_str("\\b"),
                '\u{c}' if !self.long_controls => encoded.push_str("\\f"),
                '/' if self.slash => encoded.push_str("\\/"),
                c if self.escapes(c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        _ = write!(encoded, "\\u{unit:04x}");
                    }
                }
                c => encoded.push(c),
            }
        }
        encoded
    }

    fn escapes(&self, c: char) -> bool {
        match c {
            '\0'..'\u{20}' => true,
            '<' | '>' | '&' => self.html,
            '\u{7f}' => self.delete,
            '\u{2028}' | '\u{2029}' => self.separators,
            c => self.non_ascii && !c.is_ascii(),
        }
    }
}

/// Adds the forms that a secret takes in Base64 (wherever it lies in what was encoded), in URLs and in JSON strings, each with the
/// name of its encoding. Some may be equal. Snapshots hold these names: the same one must always stand for the same encoding.
pub(super) fn encodings(secret: &str, add: &mut dyn FnMut(fmt::Arguments<'_>, Vec<u8>)) {
    let mut add = |name: fmt::Arguments<'_>, form: Vec<u8>| {
        if form.len() >= SHORTEST {
            add(name, form);
        }
    };
    for (name, engine) in [("base64", &STANDARD), ("base64url", &URL_SAFE)] {
        add(format_args!("{name}"), engine.encode(secret).into());
        for before in 0..3_usize {
            let encoded = engine.encode([&vec![0; before], secret.as_bytes()].concat());
            // Only those characters that hold no bit of what is before or after the secret.
            let whole = (before * 8).div_ceil(6)..(before + secret.len()) * 8 / 6;
            add(format_args!("{name}-{before}"), encoded.as_bytes().get(whole).unwrap_or_default().to_vec());
        }
    }
    for encoder in &URL_ENCODERS {
        add(format_args!("{}", encoder.name), encoder.encode(secret, false).into());
        add(format_args!("{}-lower", encoder.name), encoder.encode(secret, true).into());
    }
    for encoder in &JSON_ENCODERS {
        add(format_args!("{}", encoder.name), encoder.encode(secret).into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each encoder was seen to write, of a text with every character that one of them treats in a way of its own.
    #[test]
    fn each_encoder_writes_as_its_language_does() {
        let url = "a b~!*'();,/?:@&=+$#%\u{e4}-._";
        let seen = [
            "a%20b~%21%2A%27%28%29%3B%2C%2F%3F%3A%40%26%3D%2B%24%23%25%C3%A4-._",
            "a+b~%21%2A%27%28%29%3B%2C%2F%3F%3A%40%26%3D%2B%24%23%25%C3%A4-._",
            "a%20b~%21%2A%27%28%29%3B%2C/%3F%3A%40%26%3D%2B%24%23%25%C3%A4-._",
            "a%20b~%21%2A%27%28%29%3B%2C%2F%3F:@&=+$%23%25%C3%A4-._",
            "a+b%7E%21*%27%28%29%3B%2C%2F%3F%3A%40%26%3D%2B%24%23%25%C3%A4-._",
            "a%20b~!*'()%3B%2C%2F%3F%3A%40%26%3D%2B%24%23%25%C3%A4-._",
            "a%20b~!*'();,/?:@&=+$#%25%C3%A4-._",
        ];
        assert_eq!(URL_ENCODERS.map(|encoder| encoder.encode(url, false)), seen);
        assert_eq!(URL_ENCODERS[6].encode("\u{e4}%", true), "%c3%a4%25");
        let json = "\"\\/\u{8}\u{c}\n\r\t\u{1}\u{7f}<>&\u{e4}\u{1f600}\u{2028}";
        let seen = [
            "\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\u{7f}<>&\u{e4}\u{1f600}\u{2028}",
            "\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\u{7f}\\u003c\\u003e\\u0026\u{e4}\u{1f600}\\u2028",
            "\\\"\\\\/\\u0008\\u000c\\n\\r\\t\\u0001\u{7f}\\u003c\\u003e\\u0026\u{e4}\u{1f600}\\u2028",
            "\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\u{7f}<>&\u{e4}\u{1f600}\\u2028",
            "\\\"\\\\/\\u0008\\u000c\\n\\r\\t\\u0001\u{7f}<>&\u{e4}\u{1f600}\\u2028",
            "\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0001\u{7f}<>&\\u00e4\\ud83d\\ude00\\u2028",
            "\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\u{7f}<>&\\u00e4\\ud83d\\ude00\\u2028",
            "\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0001\u{7f}<>&\u{e4}\u{1f600}\\u2028",
            "\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u007f<>&\\u00e4\\ud83d\\ude00\\u2028",
        ];
        assert_eq!(JSON_ENCODERS.map(|encoder| encoder.encode(json)), seen);
    }
}
