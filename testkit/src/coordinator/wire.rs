//! Reading requests and writing answers, independently of the crate under test.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::stats::Endpoint;
use super::status::JobStatus;
use super::user_route;
use crate::content::Content;

pub(super) const JOB_STATUS: HeaderName = HeaderName::from_static("job-status");
pub(super) const JOB_TOKEN: HeaderName = HeaderName::from_static("job-token");
pub(super) const LAST_UPDATE: HeaderName = HeaderName::from_static("x-gitlab-last-update");
pub(super) const POLLING: HeaderName = HeaderName::from_static("gitlab-ci-builds-polling");
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const UPDATE_INTERVAL: HeaderName = HeaderName::from_static("x-gitlab-trace-update-interval");

/// An answer before the headers that all answers share.
#[derive(Debug)]
pub(super) struct Reply {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Content,
}

impl Reply {
    pub(super) fn empty(status: StatusCode) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new().into() }
    }

    pub(super) fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Self {
        Self::file(status, kind, body.into().into())
    }

    /// An answer that may come from a file.
    pub(super) fn file(status: StatusCode, kind: &'static str, body: Content) -> Self {
        Self { body, ..Self::empty(status) }.header(CONTENT_TYPE, HeaderValue::from_static(kind))
    }

    pub(super) fn json(status: StatusCode, body: &Value) -> Self {
        Self::text(status, "application/json", body.to_string())
    }

    /// The job endpoints answer with their own status as text.
    pub(super) fn number(status: StatusCode) -> Self {
        Self::text(status, "text/plain", status.as_str().to_owned())
    }

    /// A refusal by the API's helpers.
    pub(super) fn message(status: StatusCode, message: impl Into<Value>) -> Self {
        let message: Value = message.into();
        Self::json(status, &json!({ "message": message }))
    }

    /// A refusal by the framework, or by the trace endpoint.
    pub(super) fn error(status: StatusCode, error: impl Into<Value>) -> Self {
        let error: Value = error.into();
        Self::json(status, &json!({ "error": error }))
    }

    pub(super) fn forbidden() -> Self {
        Self::message(StatusCode::FORBIDDEN, "403 Forbidden")
    }

    /// The body has a media type that the framework cannot read.
    pub(super) fn unsupported(kind: &str) -> Self {
        let error = format!("The provided content-type '{kind}' is not supported.");
        Self::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, error)
    }

    /// A parameter or the path has a NUL, or bytes that are no text: a middleware of GitLab refuses that before the API sees it.
    pub(super) fn malformed_text() -> Self {
        Self::text(StatusCode::BAD_REQUEST, "text/plain", "Bad Request")
    }

    pub(super) fn resource_lock() -> Self {
        Self::message(StatusCode::CONFLICT, "409 Conflict: Resource lock")
    }

    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Adds a header made of a string that may not be fit for one; then it is left out.
    pub(super) fn header_text(self, name: HeaderName, value: &str) -> Self {
        match HeaderValue::from_str(value) {
            Ok(value) => self.header(name, value),
            Err(_) => self,
        }
    }

    pub(super) fn job_status(self, status: JobStatus) -> Self {
        self.header(JOB_STATUS, HeaderValue::from_static(status.as_str()))
    }

    pub(super) fn into_response(self) -> Response<Content> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        response
    }
}

/// What a request asks for.
#[derive(Debug)]
pub(super) enum Route {
    Register,
    Verify,
    RequestJob,
    UpdateJob(u64),
    PatchTrace(u64),
    Unregister,
    UnregisterManager,
    ResetToken,
    ResetTokenAsUser(u64),
    CreateRunner,
    DiscoverRouter,
    RuntimeEnvironmentKey(u64),
    UploadArtifact(u64),
    DownloadArtifacts(u64),
    AuthorizeUpload(u64),
    ReadStorage(u64),
    UserApi(user_route::Call),
    Refused(Reply),
}

impl Route {
    pub(super) fn of(method: &Method, path: &str) -> Self {
        if let Some(id) = path.strip_prefix("/object-storage/") {
            return if *method == Method::GET { with_id(id, Self::ReadStorage) } else { Self::Refused(not_found()) };
        }
        if is_malformed(&percent_decode_str(path).collect::<Vec<u8>>()) {
            return Self::Refused(Reply::malformed_text());
        }
        let Some((_, path)) = path.split_once("/api/v4/") else {
            return Self::Refused(if path.contains("/api/v3/") {
                Reply::error(StatusCode::GONE, "API V3 is no longer supported. Use API V4 instead.")
            } else {
                not_found()
            });
        };
        // The Python package `gitlab_runner_api` registers at `/runners/`, and has always been understood.
        let path = path.strip_suffix('/').unwrap_or(path);
        let segments: Vec<&str> = path.split('/').collect();
        let mut routes: Vec<(Method, Self)> = match segments[..] {
            ["runners"] => vec![(Method::POST, Self::Register), (Method::DELETE, Self::Unregister)],
            ["runners", "verify"] => vec![(Method::POST, Self::Verify)],
            ["runners", "managers"] => vec![(Method::DELETE, Self::UnregisterManager)],
            ["runners", "reset_authentication_token"] => vec![(Method::POST, Self::ResetToken)],
            ["runners", "router", "discovery"] => vec![(Method::GET, Self::DiscoverRouter)],
            ["runners", id, "reset_authentication_token"] => {
                vec![(Method::POST, with_id(id, Self::ResetTokenAsUser))]
            }
            ["user", "runners"] => vec![(Method::POST, Self::CreateRunner)],
            ["jobs", "request"] => vec![(Method::POST, Self::RequestJob)],
            ["jobs", id] => vec![(Method::PUT, with_id(id, Self::UpdateJob))],
            ["jobs", id, "trace"] => vec![(Method::PATCH, with_id(id, Self::PatchTrace))],
            ["jobs", id, "artifacts"] => vec![
                (Method::POST, with_id(id, Self::UploadArtifact)),
                (Method::GET, with_id(id, Self::DownloadArtifacts)),
            ],
            ["jobs", id, "artifacts", "authorize"] => vec![(Method::POST, with_id(id, Self::AuthorizeUpload))],
            ["jobs", id, "runtime_environment_key"] => {
                vec![(Method::GET, with_id(id, Self::RuntimeEnvironmentKey))]
            }
            _ => Vec::new(),
        };
        routes.extend(user_route::calls(path).map(|call| (call.method(), Self::UserApi(call))));
        if routes.is_empty() {
            return Self::Refused(not_found());
        }
        let mut allowed: Vec<&str> = routes.iter().map(|(allowed, _)| allowed.as_str()).collect();
        if allowed.contains(&"GET") {
            allowed.push("HEAD");
        }
        let refusal = match *method {
            Method::OPTIONS => Reply::empty(StatusCode::NO_CONTENT),
            _ => Reply::error(StatusCode::METHOD_NOT_ALLOWED, "405 Not Allowed"),
        };
        let refusal = refusal.header_text(ALLOW, &format!("OPTIONS, {}", allowed.join(", ")));
        // The framework answers HEAD as GET, without the body.
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        let found = routes.into_iter().find(|(allowed, _)| allowed == method);
        found.map_or(Self::Refused(refusal), |(_, route)| route)
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        match self {
            Self::Register => Endpoint::Register,
            Self::Verify => Endpoint::Verify,
            Self::RequestJob => Endpoint::RequestJob,
            Self::UpdateJob(_) => Endpoint::UpdateJob,
            Self::PatchTrace(_) => Endpoint::PatchTrace,
            Self::Unregister => Endpoint::Unregister,
            Self::UnregisterManager => Endpoint::UnregisterManager,
            Self::ResetToken => Endpoint::ResetToken,
            Self::ResetTokenAsUser(_) => Endpoint::ResetTokenAsUser,
            Self::CreateRunner => Endpoint::CreateRunner,
            Self::DiscoverRouter => Endpoint::DiscoverRouter,
            Self::RuntimeEnvironmentKey(_) => Endpoint::RuntimeEnvironmentKey,
            Self::UploadArtifact(_) => Endpoint::UploadArtifact,
            Self::DownloadArtifacts(_) => Endpoint::DownloadArtifacts,
            Self::AuthorizeUpload(_) => Endpoint::AuthorizeUpload,
            Self::ReadStorage(_) => Endpoint::ReadStorage,
            Self::UserApi(_) => Endpoint::UserApi,
            Self::Refused(_) => Endpoint::Other,
        }
    }

    /// The job that the request may change.
    pub(super) fn subject(&self) -> Option<u64> {
        match self {
            Self::UserApi(call) => call.job(),
            _ => self.job(),
        }
    }

    /// The job that a runner asks about.
    pub(super) fn job(&self) -> Option<u64> {
        match self {
            Self::UpdateJob(id)
            | Self::PatchTrace(id)
            | Self::RuntimeEnvironmentKey(id)
            | Self::UploadArtifact(id)
            | Self::AuthorizeUpload(id)
            | Self::ReadStorage(id)
            | Self::DownloadArtifacts(id) => Some(*id),
            _ => None,
        }
    }
}

fn not_found() -> Reply {
    Reply::error(StatusCode::NOT_FOUND, "404 Not Found")
}

/// Whether GitLab refuses these bytes wherever a text is expected.
pub(super) fn is_malformed(bytes: &[u8]) -> bool {
    bytes.contains(&0) || std::str::from_utf8(bytes).is_err()
}

/// The number in a path. One that is negative or too large is that of nothing.
fn with_id(text: &str, route: fn(u64) -> Route) -> Route {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Route::Refused(Reply::error(StatusCode::BAD_REQUEST, "id is invalid"));
    }
    route(text.parse().unwrap_or(u64::MAX))
}

pub(super) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The start of a `Content-Range` as Ruby's `to_i` reads it: the text before the first `-`, leading digits only.
pub(super) fn range_start(header: &[u8]) -> u64 {
    let text = header.split(|&byte| byte == b'-').next().unwrap_or_default().trim_ascii_start();
    let text = text.strip_prefix(b"+").unwrap_or(text);
    let mut start = 0_u64;
    let mut after_digit = false;
    for &byte in text {
        match byte {
            b'0'..=b'9' => start = start.saturating_mul(10).saturating_add(u64::from(byte - b'0')),
            b'_' if after_digit => {}
            _ => break,
        }
        after_digit = byte != b'_';
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_starts_are_read_as_ruby_reads_them() {
        for (header, start) in [
            ("0-99", 0),
            ("100-199", 100),
            ("100-199/200", 100),
            ("100", 100),
            ("  7-8", 7),
            ("+7-8", 7),
            ("1_000-", 1000),
            ("1__0-", 1),
            ("_1-2", 0),
            ("12ab-34", 12),
            ("-5", 0),
            ("", 0),
            ("bytes 100-199/200", 0),
            ("bytes=100-199", 0),
            ("99999999999999999999999-", u64::MAX),
        ] {
            assert_eq!(range_start(header.as_bytes()), start, "{header:?}");
        }
    }

    #[test]
    fn routes() {
        for (method, path, status) in [
            (Method::GET, "/", 404),
            (Method::GET, "/api/v4", 404),
            (Method::POST, "/api/v3/runners", 410),
            (Method::GET, "/api/v4/jobs/request", 405),
            (Method::POST, "/api/v4/jobs/1", 405),
            (Method::PUT, "/api/v4/jobs/1/trace", 405),
            (Method::PUT, "/api/v4/jobs/one", 400),
            (Method::PUT, "/api/v4/jobs/-", 400),
            (Method::PUT, "/api/v4/jobs/1.5", 400),
            (Method::POST, "/api/v4/jobs/1/what", 404),
        ] {
            match Route::of(&method, path) {
                Route::Refused(reply) => assert_eq!(reply.into_response().status(), status, "{method} {path}"),
                route => panic!("{method} {path}: {route:?}"),
            }
        }
        for path in ["/api/v4/jobs/-1", "/api/v4/jobs/99999999999999999999"] {
            assert_eq!(Route::of(&Method::PUT, path).job(), Some(u64::MAX), "{path}");
        }
        let route = Route::of(&Method::PATCH, "/some/root/api/v4/jobs/4294967297/trace");
        assert_eq!((route.endpoint(), route.job()), (Endpoint::PatchTrace, Some(4_294_967_297)));
        assert_eq!(Route::of(&Method::POST, "/api/v4/runners/").endpoint(), Endpoint::Register);
    }
}
