//! The content of reports that GitLab reads while a runner uploads them: dotenv and annotations.

use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::MultiGzDecoder;
use serde_json::Value;

use super::settings::Settings;
use crate::content::Content;

/// No report is decompressed beyond this, so that a small file cannot fill the memory.
const MAX_UNPACKED: u64 = 16 << 20;
/// The items of a list of annotations: `ci_job_annotation_data.json`.
const MAX_ANNOTATIONS: usize = 1000;

/// Why a report is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReportError {
    /// The message with which GitLab refuses the file.
    Refused(String),
    /// GitLab cannot read files of this format, and fails.
    Unsupported,
}

fn refused(message: impl Into<String>) -> ReportError {
    ReportError::Refused(message.into())
}

/// Reads a dotenv file.
pub(super) fn dotenv(
    file: &Content,
    format: &str,
    settings: &Settings,
) -> Result<BTreeMap<String, String>, ReportError> {
    let limit = settings.dotenv_size_limit;
    if file.len() >= limit {
        return Err(refused(format!("Dotenv Artifact Too Big. Maximum Allowable Size: {limit}")));
    }
    let text = text(file, format)?;
    let mut variables: Vec<(String, String)> = Vec::new();
    for line in text.split_terminator('\n') {
        let (key, value) = line.split_once('=').ok_or_else(|| refused("Invalid Format"))?;
        let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
        // A key that comes again keeps its place.
        match variables.iter_mut().find(|(known, _)| *known == key) {
            Some(variable) => variable.1 = value,
            None => variables.push((key, value)),
        }
    }
    let count = settings.dotenv_variable_limit;
    if variables.len() > count {
        return Err(refused(format!("Dotenv files cannot have more than {count} variables")));
    }
    variables.iter().try_for_each(|(key, _)| check_key(key))?;
    Ok(variables.into_iter().collect())
}

/// Checks the key of a variable. The first one that is wrong is told with all that is wrong about it.
fn check_key(key: &str) -> Result<(), ReportError> {
    let mut errors = Vec::new();
    if key.is_empty() {
        errors.push("Key can't be blank");
    }
    if key.chars().count() > 255 {
        errors.push("Key is too long (maximum is 255 characters)");
    }
    if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        errors.push("Key can contain only letters, digits and '_'.");
    }
    if errors.is_empty() { Ok(()) } else { Err(refused(format!("Validation failed: {}", errors.join(", ")))) }
}

/// Checks an annotations file: an object of lists of external links.
pub(super) fn annotations(file: &Content, format: &str, settings: &Settings) -> Result<(), ReportError> {
    let limit = settings.annotations_size_limit;
    if file.len() > limit {
        return Err(refused(format!("Annotations Artifact Too Big. Maximum Allowable Size: {limit}")));
    }
    let content: Value = serde_json::from_str(&text(file, format)?).map_err(|_| refused("Invalid Format"))?;
    let lists = content.as_object().ok_or_else(|| refused("Annotations files must be a JSON object"))?;
    let count = settings.annotations_list_limit;
    if lists.len() > count {
        return Err(refused(format!("Annotations files cannot have more than {count} annotation lists")));
    }
    for (name, list) in lists {
        let mut errors = Vec::new();
        if !is_annotation_list(list) {
            errors.push("Data must be a valid json schema");
        }
        if name.trim().is_empty() {
            errors.push("Name can't be blank");
        }
        if name.chars().count() > 255 {
            errors.push("Name is too long (maximum is 255 characters)");
        }
        if !errors.is_empty() {
            return Err(refused(format!("Validation failed: {}", errors.join(", "))));
        }
    }
    Ok(())
}

/// Whether GitLab's schema takes the list. Of a link it only says which members there may be, and that they are texts.
fn is_annotation_list(list: &Value) -> bool {
    let is_link = |link: &Value| match link {
        Value::Object(members) => {
            members.iter().all(|(name, value)| ["label", "url"].contains(&name.as_str()) && value.is_string())
        }
        _ => true,
    };
    let is_item = |item: &Value| {
        item.as_object()
            .is_some_and(|members| members.iter().all(|(name, link)| name == "external_link" && is_link(link)))
    };
    list.as_array().is_some_and(|items| items.len() <= MAX_ANNOTATIONS && items.iter().all(is_item))
}

/// The text of a report. GitLab takes UTF-16 as well, which PowerShell writes, and replaces what is no text.
fn text(file: &Content, format: &str) -> Result<String, ReportError> {
    let bytes = match format {
        "gzip" => unpack(MultiGzDecoder::new(file.reader())),
        "raw" => unpack(file.reader()),
        _ => return Err(ReportError::Unsupported),
    };
    let bytes = bytes.ok_or_else(|| refused("Invalid Format"))?;
    let utf16 = |unit: fn([u8; 2]) -> u16, bytes: &[u8]| {
        let units: Vec<u16> = bytes.chunks(2).map(|pair| unit([pair[0], *pair.get(1).unwrap_or(&0)])).collect();
        String::from_utf16_lossy(&units)
    };
    Ok(match &bytes[..] {
        [0xff, 0xfe, rest @ ..] => utf16(u16::from_le_bytes, rest),
        [0xfe, 0xff, rest @ ..] => utf16(u16::from_be_bytes, rest),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        bytes => String::from_utf8_lossy(bytes).into_owned(),
    })
}

/// All bytes of a file. `None` if it cannot be read, or if it is far too large.
fn unpack(file: impl Read) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_UNPACKED + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= MAX_UNPACKED).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use bytes::Bytes;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn pack(text: &str) -> Content {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).expect("written");
        Content::from(Bytes::from(encoder.finish().expect("finished")))
    }

    #[test]
    fn dotenv_files_are_read() {
        let read = |text: &str| dotenv(&pack(text), "gzip", &Settings::default());
        let variables = read("A=1\nB_2 = x y \nA=2\nC=\nD=a=b\r\n").expect("well-formed");
        let pairs: Vec<(&str, &str)> = variables.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("A", "2"), ("B_2", "x y"), ("C", ""), ("D", "a=b")]);
        assert_eq!(read("A=1\n\n"), Err(refused("Invalid Format")));
        assert_eq!(
            dotenv(&Bytes::from_static(b"A=1").into(), "gzip", &Settings::default()),
            Err(refused("Invalid Format"))
        );
        let many: String = (0..21).map(|at| format!("K{at}=1\n")).collect();
        assert_eq!(read(&many), Err(refused("Dotenv files cannot have more than 20 variables")));
        let small = Settings::default().with(|settings| settings.dotenv_size_limit = 10);
        let too_big = dotenv(&pack("A=1"), "gzip", &small);
        assert_eq!(too_big, Err(refused("Dotenv Artifact Too Big. Maximum Allowable Size: 10")));
        let plain =
            |bytes: &'static [u8], format| dotenv(&Bytes::from_static(bytes).into(), format, &Settings::default());
        assert_eq!(plain(b"A=1", "zip"), Err(ReportError::Unsupported));
        for bytes in
            [&b"A=1"[..], b"\xef\xbb\xbfA=1\n", b"\xff\xfeA\x00=\x001\x00\r\x00\n\x00", b"\xfe\xff\x00A\x00=\x001"]
        {
            assert_eq!(plain(bytes, "raw"), Ok(BTreeMap::from([("A".to_owned(), "1".to_owned())])), "{bytes:?}");
        }
        let replaced = plain(b"A=\xff", "raw").expect("what is no text is replaced");
        assert_eq!(replaced["A"], "\u{fffd}");
        let wrong = "Validation failed: Key can't be blank, Key can contain only letters, digits and '_'.";
        assert_eq!(read("=1\na b=2"), Err(refused(wrong)), "the first one that is wrong is told");
        let long = format!("{}=1", "K".repeat(256));
        assert_eq!(read(&long), Err(refused("Validation failed: Key is too long (maximum is 255 characters)")));
    }

    #[test]
    fn annotations_are_lists_of_links() {
        let read = |text: &str| annotations(&pack(text), "gzip", &Settings::default());
        assert_eq!(read(r#"{"a":[{"external_link":{"label":"l","url":"u"}}],"b":[]}"#), Ok(()));
        assert_eq!(read(r#"{"a":[{},{"external_link":{"label":"l"}}]}"#), Ok(()));
        let many = format!(r#"{{"a":[{}]}}"#, vec!["{}"; 1001].join(","));
        for wrong in [r#"{"a":{}}"#, r#"{"a":[{"link":{}}]}"#, r#"{"a":[{"external_link":{"label":1}}]}"#, &many] {
            assert_eq!(read(wrong), Err(refused("Validation failed: Data must be a valid json schema")), "{wrong}");
        }
        assert_eq!(read("[]"), Err(refused("Annotations files must be a JSON object")));
        assert_eq!(read("{"), Err(refused("Invalid Format")));
        let few = Settings::default().with(|settings| settings.annotations_list_limit = 1);
        let two = annotations(&pack(r#"{"a":[],"b":[]}"#), "gzip", &few);
        assert_eq!(two, Err(refused("Annotations files cannot have more than 1 annotation lists")));
        assert_eq!(read(r#"{"":[]}"#), Err(refused("Validation failed: Name can't be blank")));
    }
}
