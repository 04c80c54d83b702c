//! The content of reports that GitLab reads while a runner uploads them: dotenv and annotations.

use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::MultiGzDecoder;
use serde_json::Value;

use super::settings::Settings;
use crate::content::Content;

/// No report is decompressed beyond this, so that a small file cannot fill the memory.
const MAX_UNPACKED: u64 = 16 << 20;

/// Reads a dotenv file.
///
/// # Errors
///
/// The message with which GitLab refuses the file.
pub(super) fn dotenv(file: &Content, settings: &Settings) -> Result<BTreeMap<String, String>, String> {
    let limit = settings.dotenv_size_limit;
    if file.len() >= limit {
        return Err(format!("Dotenv Artifact Too Big. Maximum Allowable Size: {limit}"));
    }
    let text = unpack(file).and_then(|bytes| String::from_utf8(bytes).ok()).ok_or("Invalid Format")?;
    let mut variables = BTreeMap::new();
    for line in text.lines() {
        let (key, value) = line.split_once('=').ok_or("Invalid Format")?;
        variables.insert(key.trim().to_owned(), value.trim().to_owned());
    }
    let count = settings.dotenv_variable_limit;
    if variables.len() > count {
        return Err(format!("Dotenv files cannot have more than {count} variables"));
    }
    let mut errors = Vec::new();
    if variables.contains_key("") {
        errors.push("Key can't be blank");
    }
    let is_word = |key: &String| !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !variables.keys().all(is_word) {
        errors.push("Key can contain only letters, digits and '_'.");
    }
    if errors.is_empty() { Ok(variables) } else { Err(format!("Validation failed: {}", errors.join(", "))) }
}

/// Checks an annotations file: an object of lists of external links.
///
/// # Errors
///
/// The message with which GitLab refuses the file.
pub(super) fn annotations(file: &Content, settings: &Settings) -> Result<(), String> {
    let limit = settings.annotations_size_limit;
    if file.len() > limit {
        return Err(format!("Annotations Artifact Too Big. Maximum Allowable Size: {limit}"));
    }
    let bytes = unpack(file).ok_or("Invalid Format")?;
    let content: Value = serde_json::from_slice(&bytes).map_err(|_| "Invalid Format")?;
    let lists = content.as_object().ok_or("Annotations files must be a JSON object")?;
    let count = settings.annotations_list_limit;
    if lists.len() > count {
        return Err(format!("Annotations files cannot have more than {count} annotation lists"));
    }
    if lists.values().all(is_annotation_list) {
        Ok(())
    } else {
        Err("Validation failed: Data must be a valid json schema".to_owned())
    }
}

fn is_annotation_list(list: &Value) -> bool {
    let is_link = |item: &Value| {
        let members = item.as_object().filter(|members| members.len() == 1);
        let link = members.and_then(|members| members.get("external_link")).and_then(Value::as_object);
        let text = |name| link.and_then(|link| link.get(name)).is_some_and(Value::is_string);
        link.is_some_and(|link| link.len() == 2) && text("label") && text("url")
    };
    list.as_array().is_some_and(|items| items.iter().all(is_link))
}

/// What a gzip file contains. `None` if it is not one, or far too large.
fn unpack(file: &Content) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    MultiGzDecoder::new(file.reader()).take(MAX_UNPACKED + 1).read_to_end(&mut bytes).ok()?;
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
        let read = |text: &str| dotenv(&pack(text), &Settings::default());
        let variables = read("A=1\nB_2 = x y \nA=2\nC=\nD=a=b\r\n").expect("well-formed");
        let pairs: Vec<(&str, &str)> = variables.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("A", "2"), ("B_2", "x y"), ("C", ""), ("D", "a=b")]);
        assert_eq!(read("A=1\n\n"), Err("Invalid Format".to_owned()));
        assert_eq!(dotenv(&Bytes::from_static(b"A=1").into(), &Settings::default()), Err("Invalid Format".to_owned()));
        let many: String = (0..21).map(|at| format!("K{at}=1\n")).collect();
        assert_eq!(read(&many), Err("Dotenv files cannot have more than 20 variables".to_owned()));
        let small = Settings::default().with(|settings| settings.dotenv_size_limit = 10);
        assert_eq!(dotenv(&pack("A=1"), &small), Err("Dotenv Artifact Too Big. Maximum Allowable Size: 10".to_owned()));
    }

    #[test]
    fn annotations_are_lists_of_links() {
        let read = |text: &str| annotations(&pack(text), &Settings::default());
        assert_eq!(read(r#"{"a":[{"external_link":{"label":"l","url":"u"}}],"b":[]}"#), Ok(()));
        for wrong in [r#"{"a":{}}"#, r#"{"a":[{"link":{}}]}"#, r#"{"a":[{"external_link":{"label":"l"}}]}"#] {
            assert_eq!(read(wrong), Err("Validation failed: Data must be a valid json schema".to_owned()), "{wrong}");
        }
        assert_eq!(read("[]"), Err("Annotations files must be a JSON object".to_owned()));
        assert_eq!(read("{"), Err("Invalid Format".to_owned()));
        let few = Settings::default().with(|settings| settings.annotations_list_limit = 1);
        let two = annotations(&pack(r#"{"a":[],"b":[]}"#), &few);
        assert_eq!(two, Err("Annotations files cannot have more than 1 annotation lists".to_owned()));
    }
}
