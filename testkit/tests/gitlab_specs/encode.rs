//! Requests of vectors as HTTP.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::Request;
use serde_json::Value;

const BOUNDARY: &str = "vector-boundary";

/// A scalar as Rails' test suite writes it into a form or a query.
pub(crate) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The request as HTTP.
pub(crate) fn encode(request: &Value) -> Result<Request<Bytes>, String> {
    let method = request["method"].as_str().ok_or("no method")?;
    let path = request["path"].as_str().ok_or("no path")?;
    let mut query = Vec::new();
    pairs(None, &request["query"], &mut query);
    let mark = if query.is_empty() { "" } else { "?" };
    let mut built = Request::builder()
        .method(method)
        .uri(format!("https://gitlab.example.test/api/v4{path}{mark}{}", query.join("&")));
    let headers = request["headers"].as_object().cloned().unwrap_or_default();
    let (kind, body) = body(request)?;
    if let Some(kind) = kind
        && !headers.keys().any(|name| name.eq_ignore_ascii_case("content-type"))
    {
        built = built.header("content-type", kind);
    }
    for (name, value) in &headers {
        built = built.header(name, plain(value));
    }
    built.body(body).map_err(|error| error.to_string())
}

/// The media type and the bytes of the body.
fn body(request: &Value) -> Result<(Option<String>, Bytes), String> {
    if let Some(json) = request.get("json") {
        return Ok((Some("application/json".to_owned()), json.to_string().into()));
    }
    if let Some(form) = request.get("form") {
        let mut fields = Vec::new();
        pairs(None, form, &mut fields);
        return Ok((Some("application/x-www-form-urlencoded".to_owned()), fields.join("&").into()));
    }
    if let Some(parts) = request.get("multipart") {
        let mut whole = Vec::new();
        for part in parts.as_array().into_iter().flatten() {
            let name = part["name"].as_str().ok_or("a part has a name")?;
            let file_name = part["filename"].as_str().map(|name| format!("; filename=\"{name}\"")).unwrap_or_default();
            let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{file_name}\r\n\r\n");
            whole.extend_from_slice(head.as_bytes());
            whole.extend_from_slice(&content(part)?);
            whole.extend_from_slice(b"\r\n");
        }
        whole.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
        return Ok((Some(format!("multipart/form-data; boundary={BOUNDARY}")), whole.into()));
    }
    match request.get("text") {
        Some(Value::String(text)) => Ok((Some("text/plain".to_owned()), text.clone().into())),
        Some(size) => Ok((Some("text/plain".to_owned()), content(size)?.into())),
        None => Ok((None, Bytes::new())),
    }
}

/// The bytes of a part: a text, a text to be compressed, or so many of one letter.
fn content(part: &Value) -> Result<Vec<u8>, String> {
    if let Some(text) = part["text"].as_str() {
        return Ok(text.as_bytes().to_vec());
    }
    if let Some(text) = part["gzip"].as_str() {
        return Ok(gzip(text.as_bytes()));
    }
    let size = part["size"].as_u64().and_then(|size| usize::try_from(size).ok());
    Ok(vec![b'x'; size.ok_or("a part has no content")?])
}

/// Name and value of each scalar, nested as Rails writes it: `a[b]=1&c[]=2`.
fn pairs(name: Option<&str>, value: &Value, out: &mut Vec<String>) {
    match (value, name) {
        (Value::Object(members), _) => {
            for (member, value) in members {
                let nested = name.map_or_else(|| member.clone(), |name| format!("{name}[{member}]"));
                pairs(Some(&nested), value, out);
            }
        }
        (Value::Array(items), Some(name)) => {
            for item in items {
                pairs(Some(&format!("{name}[]")), item, out);
            }
        }
        (Value::Null, _) | (_, None) => {}
        (scalar, Some(name)) => out.push(format!("{}={}", escape(name), escape(&plain(scalar)))),
    }
}

fn escape(text: &str) -> String {
    let escaped = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escaped).collect()
}

/// Compressed in blocks that store the bytes as they are, so that a large file stays large.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}
