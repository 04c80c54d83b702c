//! Errors, sorted by whose fault they are.
//!
//! [`ConfigError`]: the user's settings. [`WrongMachine`] and [`Misuse`]: the driver's code. [`Rejection`]: GitLab said no.
//! [`ProtocolError`]: something answered that is not GitLab, or not as GitLab answers. Transport trouble is no error
//! but an input, [`crate::Failure`].

use std::fmt;

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, LOCATION};
use serde_json::Value;

use crate::headers;
use crate::secret::Secret;

/// Settings that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The address of the GitLab instance cannot be read.
    #[error("the GitLab address is not a URL ({0}); it should look like https://gitlab.example.com")]
    Url(#[from] url::ParseError),
    /// The address is not one of a web server.
    #[error("the GitLab address must start with https:// or http://")]
    Scheme,
    /// The address has a user name, password, query or fragment.
    #[error("the GitLab address must not have a user name, a password, a query or a fragment")]
    UrlParts,
    /// The address cannot be sent in an HTTP request.
    #[error("the GitLab address is too long, or has characters that cannot be sent")]
    Unusable,
    /// The system ID does not fit.
    #[error("the system ID must have 1 to 64 printable characters; it looks like s_0123456789ab")]
    SystemId,
    /// The address of a proxy cannot be used. It is not shown, since it may hold a password.
    #[error("the address of the proxy is not that of an HTTP proxy; it looks like http://proxy.example.com:3128")]
    Proxy,
}

/// The driver used a machine in a way that cannot be right. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// The trace bytes handed in are not the ones asked for.
    #[error("trace bytes were offered at offset {offered}, but those from {wanted} on are needed next")]
    #[non_exhaustive]
    TraceMismatch {
        /// The offset the bytes were offered at.
        offered: u64,
        /// The offset of the first byte needed.
        wanted: u64,
    },
    /// No trace bytes are wanted now.
    #[error("no trace bytes were asked for; answer `JobEvent::TraceNeeded` only")]
    TraceNotNeeded,
}

/// GitLab (or something that speaks like it) refused a call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejection {
    /// The HTTP status.
    pub status: StatusCode,
    /// What the server said, on one line, at most 500 characters, without the token the call was made with. Empty if
    /// the answer had no text that could be understood.
    pub message: String,
    /// The server's `X-Request-Id`, to be quoted to its administrator.
    pub request_id: Option<String>,
}

impl Rejection {
    pub(crate) fn new(status: StatusCode, headers: &HeaderMap, body: &[u8], secret: &Secret) -> Self {
        let told = message(body).unwrap_or_default();
        // Cut only after the token is out: a cut through a token would leave a piece that no longer matches.
        let message = one_line(&told.replace(secret.expose(), "[MASKED]"));
        Self { status, message, request_id: headers::request_id(headers) }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answered {}", self.status)?;
        let said = self.message.strip_prefix(self.status.as_str()).unwrap_or(&self.message).trim();
        if !said.is_empty() && Some(said) != self.status.canonical_reason() {
            write!(f, ": {said}")?;
        }
        if let Some(id) = &self.request_id {
            write!(f, " (request {id})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Rejection {}

/// An answer that GitLab would not give.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A redirect. Following it would hand tokens to another place, so it is never done.
    #[error("the server redirects to {to}; if that is your GitLab, use it as the address")]
    #[non_exhaustive]
    Redirected {
        /// Scheme, host and port of the target, or `an unreadable place`.
        to: String,
    },
    /// A status that this call never gets from GitLab.
    #[error("unexpected answer: {0}; is the address that of a GitLab instance, and is a proxy in the way?")]
    Unexpected(Rejection),
    /// A good status with a body that cannot be understood.
    #[error("the answer cannot be read: {0}")]
    Unreadable(String),
}

impl ProtocolError {
    pub(crate) fn redirected(headers: &HeaderMap) -> Self {
        let location =
            headers.get(LOCATION).and_then(|value| value.to_str().ok()).and_then(|to| url::Url::parse(to).ok());
        let to = location.map(|url| url.origin()).filter(url::Origin::is_tuple);
        Self::Redirected { to: to.map_or_else(|| "an unreadable place".to_owned(), |to| to.ascii_serialization()) }
    }

    /// Serde's own words quote the input, which may hold secrets; where and what kind of fault is enough.
    pub(crate) fn json(error: &serde_json::Error) -> Self {
        Self::Unreadable(json_fault(error))
    }
}

/// Where the JSON is wrong, without a byte of it.
pub(crate) fn json_fault(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Eof => "the JSON ends too early",
        serde_json::error::Category::Syntax => "this is not JSON",
        serde_json::error::Category::Data => "a member is missing or has the wrong type",
        serde_json::error::Category::Io => "the JSON cannot be read",
    };
    format!("{what}, line {} column {}", error.line(), error.column())
}

/// Why a call got no usable answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The server refused.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Whatever answered does not behave like GitLab.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

impl CallError {
    /// Sorts an answer that is not the one hoped for.
    pub(crate) fn from_response(response: &http::Response<bytes::Bytes>, secret: &Secret) -> Self {
        let (status, headers) = (response.status(), response.headers());
        if status.is_redirection() {
            return ProtocolError::redirected(headers).into();
        }
        let rejection = Rejection::new(status, headers, response.body(), secret);
        if status.is_client_error() || status.is_server_error() {
            rejection.into()
        } else {
            ProtocolError::Unexpected(rejection).into()
        }
    }
}

/// Whether the JSON body says `403 Forbidden`, as GitLab's own does. What gateways write is shorter or longer.
pub(crate) fn says_forbidden(body: &[u8]) -> bool {
    let Ok(Value::Object(map)) = serde_json::from_slice(body) else { return false };
    ["message", "error"]
        .iter()
        .any(|name| map.get(*name).and_then(Value::as_str).is_some_and(|text| text.starts_with("403 Forbidden")))
}

/// Whether an answer is a page for people, by its media type or by what its body begins with.
pub(crate) fn is_html(headers: &HeaderMap, body: &[u8]) -> bool {
    let typed = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    typed.is_some_and(|value| value.get(..9).is_some_and(|start| start.eq_ignore_ascii_case("text/html")))
        || body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'<')
}

/// Whether the body is a JSON object with a `message` or an `error`, as all refusals of GitLab are.
pub(crate) fn is_gitlab_body(body: &[u8]) -> bool {
    matches!(serde_json::from_slice(body), Ok(Value::Object(map)) if map.contains_key("message") || map.contains_key("error"))
}

/// The text of an error body: `message`, `error` or `detail`, each a string, an object of lists, or an object holding a string;
/// a bare short text; or nothing.
fn message(body: &[u8]) -> Option<String> {
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        let text = std::str::from_utf8(body).ok()?.trim();
        return (!text.starts_with('<')).then(|| text.to_owned());
    };
    match &value {
        // `detail` is what other servers of this protocol write.
        Value::Object(map) => ["message", "error", "detail"].iter().find_map(|name| map.get(*name)).map(flatten),
        Value::String(text) => Some(text.clone()),
        _ => None,
    }
}

fn flatten(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(flatten).collect::<Vec<_>>().join("; "),
        Value::Object(map) => {
            let row = |(name, value): (&String, &Value)| match name.as_str() {
                "error" | "message" => flatten(value),
                _ => format!("{name}: {}", flatten(value)),
            };
            map.iter().map(row).collect::<Vec<_>>().join(", ")
        }
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn one_line(text: &str) -> String {
    let flat = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    flat.take(500).collect::<String>().trim().to_owned()
}

/// Whether the answer claims to be JSON. Used to tell an old server's plain text from a broken answer.
pub(crate) fn claims_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejection(status: u16, body: &str) -> String {
        let secret = Secret::new("canary-token");
        Rejection::new(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes(), &secret).to_string()
    }

    #[test]
    fn every_shape_of_error_body_becomes_one_line() {
        let rows = [
            (403, r#"{"message":"403 Forbidden"}"#, "the server answered 403 Forbidden"),
            (
                403,
                r#"{"message":"403 Forbidden - invalid token supplied"}"#,
                "the server answered 403 Forbidden: Forbidden - invalid token supplied",
            ),
            (
                400,
                r#"{"message":{"tags_list":["can not be empty","x"]}}"#,
                "the server answered 400 Bad Request: tags_list: can not be empty; x",
            ),
            (
                429,
                r#"{"message":{"error":"Try again later."}}"#,
                "the server answered 429 Too Many Requests: Try again later.",
            ),
            (400, r#"{"error":"token is missing"}"#, "the server answered 400 Bad Request: token is missing"),
            (416, r#"{"error":"416 Range Not Satisfiable"}"#, "the server answered 416 Range Not Satisfiable"),
            (502, "<html><body>Bad gateway</body></html>", "the server answered 502 Bad Gateway"),
            (
                403,
                "Forbidden by\r\nadministrative rules",
                "the server answered 403 Forbidden: Forbidden by  administrative rules",
            ),
            (500, "", "the server answered 500 Internal Server Error"),
            (
                422,
                r#"{"detail":[{"loc":["body","token"],"msg":"field required"}]}"#,
                "the server answered 422 Unprocessable Entity: loc: body; token, msg: field required",
            ),
            (500, r#"[1]"#, "the server answered 500 Internal Server Error"),
            (500, r#"{"message":null}"#, "the server answered 500 Internal Server Error"),
        ];
        for (status, body, text) in rows {
            assert_eq!(rejection(status, body), text, "{body}");
        }
    }

    #[test]
    fn pages_and_foreign_refusals_are_told_from_gitlab_s() {
        let typed = |value: &str| HeaderMap::from_iter([(CONTENT_TYPE, value.parse().unwrap())]);
        assert!(is_html(&typed("Text/HTML; charset=utf-8"), b"") && is_html(&HeaderMap::new(), b" \n<!doctype html>"));
        assert!(!is_html(&typed("application/json"), b"{}") && !is_html(&HeaderMap::new(), b""));
        for own in [r#"{"message":"403 Forbidden"}"#, r#"{"error":"403 Forbidden - Your user is blocked"}"#] {
            assert!(says_forbidden(own.as_bytes()), "{own}");
        }
        for foreign in ["", "403 Forbidden", r#"{"message":"Forbidden"}"#, r#"{"message":403}"#, r#"["403 Forbidden"]"#]
        {
            assert!(!says_forbidden(foreign.as_bytes()), "{foreign}");
        }
    }

    #[test]
    fn an_echoed_token_is_taken_out_before_the_text_is_cut() {
        let body = format!("{}canary-token", "x".repeat(495));
        assert!(!rejection(500, &body).contains("can"));
        assert!(rejection(500, "no canary-token here").contains("no [MASKED] here"));
    }

    #[test]
    fn a_redirect_names_the_host_and_nothing_else() {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, "https://user:pw@other.example.test:444/x?token=canary".parse().unwrap());
        let text = ProtocolError::redirected(&headers).to_string();
        assert!(text.contains("https://other.example.test:444;") && !text.contains("canary") && !text.contains("pw"));
        headers.insert(LOCATION, "/relative".parse().unwrap());
        assert!(ProtocolError::redirected(&headers).to_string().contains("unreadable"));
    }

    #[test]
    fn json_faults_do_not_quote_the_input() {
        let error = serde_json::from_str::<u64>("\"canary\"").unwrap_err();
        assert!(!json_fault(&error).contains("canary"));
    }
}
