//! `POST /jobs/:id/artifacts` and `GET /jobs/:id/artifacts`: what a job leaves behind for others.
//!
//! Both hold the file in memory. GitLab takes an upload while the job runs or is being cancelled; the same bytes sent
//! again are taken again, other bytes for the same type are refused (400).

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use url::form_urlencoded;

use super::{CorrelationId, Endpoint, JSON, get_request, request};
use crate::body::Body;
use crate::call::{CallKind, Hints, Replay, ResponseBody};
use crate::config::Server;
use crate::error::CallError;
use crate::headers::JOB_TOKEN;
use crate::output::sealed::Sealed;
use crate::secret::JobToken;

/// GitLab stores a file beside a job. The job must have no result yet.
#[derive(Clone, Debug)]
pub struct UploadArtifact {
    job: u64,
    token: JobToken,
    file_name: String,
    content: Body,
    artifact_type: Option<String>,
    artifact_format: Option<String>,
    expire_in: Option<String>,
}

impl UploadArtifact {
    /// Uploads a file, by default as the job's archive in format `zip`. A payload's `artifacts` say what a job is to leave.
    #[must_use]
    pub fn new(job: u64, token: JobToken, file_name: impl Into<String>, content: impl Into<Body>) -> Self {
        Self {
            job,
            token,
            file_name: file_name.into(),
            content: content.into(),
            artifact_type: None,
            artifact_format: None,
            expire_in: None,
        }
    }

    /// `archive`, or a type of report such as `junit` or `dotenv`.
    #[must_use]
    pub fn with_artifact_type(mut self, of_it: impl Into<String>) -> Self {
        self.artifact_type = Some(of_it.into());
        self
    }

    /// `zip`, `gzip` or `raw`. Each type has one that GitLab takes.
    #[must_use]
    pub fn with_artifact_format(mut self, of_it: impl Into<String>) -> Self {
        self.artifact_format = Some(of_it.into());
        self
    }

    /// How long GitLab keeps it, as the job says: `1 week`, `never`.
    #[must_use]
    pub fn with_expire_in(mut self, span: impl Into<String>) -> Self {
        self.expire_in = Some(span.into());
        self
    }
}

impl Sealed for UploadArtifact {}

impl Endpoint for UploadArtifact {
    type Response = ();

    fn request(&self, server: &Server, id: CorrelationId) -> Request<Body> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let parameters = [
            ("artifact_format", &self.artifact_format),
            ("artifact_type", &self.artifact_type),
            ("expire_in", &self.expire_in),
        ];
        for (name, value) in parameters {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        let query = query.finish();
        let mark = if query.is_empty() { "" } else { "?" };
        let uri = server.api(format_args!("jobs/{}/artifacts{mark}{query}", self.job));
        // Random enough that no file has it.
        let boundary = format!("gitlab-runner-api-{id}");
        let name = quoted(&self.file_name);
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        let mut chunks = vec![Bytes::from(head)];
        chunks.extend(self.content.chunks().iter().cloned());
        chunks.push(format!("\r\n--{boundary}--\r\n").into());
        let kind = HeaderValue::from_str(&format!("multipart/form-data; boundary={boundary}")).unwrap_or(JSON);
        request(Method::POST, &uri, id, (JOB_TOKEN, self.token.secret()), kind, Body::from(chunks))
    }

    fn decode(&self, response: &Response<Bytes>) -> Result<(), CallError> {
        match response.status() {
            StatusCode::CREATED => Ok(()),
            _ => Err(CallError::from_response(response, self.token.secret())),
        }
    }

    fn hints(&self) -> Hints {
        Hints::new(CallKind::UploadArtifact, Replay::Safe)
            .with_deadline(Duration::from_secs(3600))
            .with_response(ResponseBody::Discard)
    }
}

/// A file name between quotes, escaped as browsers do.
fn quoted(name: &str) -> String {
    name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A")
}

/// Fetches the archive that an earlier job left.
#[derive(Clone, Debug)]
pub struct DownloadArtifacts {
    job: u64,
    token: JobToken,
    limit: u64,
}

impl DownloadArtifacts {
    /// Fetches the archive of the job of this id, with the token that comes with it in the payload's `dependencies`.
    /// More than `limit` bytes fail the call.
    #[must_use]
    pub fn new(job: u64, token: JobToken, limit: u64) -> Self {
        Self { job, token, limit }
    }
}

impl Sealed for DownloadArtifacts {}

impl Endpoint for DownloadArtifacts {
    /// The archive; none if the job left none, or it has expired (404).
    type Response = Option<Bytes>;

    fn request(&self, server: &Server, id: CorrelationId) -> Request<Body> {
        let uri = server.api(format_args!("jobs/{}/artifacts", self.job));
        get_request(&uri, id, (JOB_TOKEN, self.token.secret()))
    }

    fn decode(&self, response: &Response<Bytes>) -> Result<Option<Bytes>, CallError> {
        match response.status() {
            StatusCode::OK => Ok(Some(response.body().clone())),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(CallError::from_response(response, self.token.secret())),
        }
    }

    fn hints(&self) -> Hints {
        Hints::new(CallKind::DownloadArtifacts, Replay::Safe)
            .with_deadline(Duration::from_secs(3600))
            .with_response(ResponseBody::collect(self.limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_the_one_part_of_a_form() {
        let token = JobToken::new("canary").unwrap();
        let upload = UploadArtifact::new(7, token, "a\"b\r\n.zip", Bytes::from_static(b"PK\r\n--"))
            .with_artifact_type("archive")
            .with_artifact_format("zip")
            .with_expire_in("1 week & more");
        let server = Server::parse("https://gitlab.example.test/root").unwrap();
        let request = upload.request(&server, CorrelationId::from_bits(0xabc));
        assert_eq!(
            request.uri(),
            "https://gitlab.example.test/root/api/v4/jobs/7/artifacts?artifact_format=zip&artifact_type=archive\
             &expire_in=1+week+%26+more"
        );
        let boundary = "gitlab-runner-api-00000000000000000000000000000abc";
        assert_eq!(request.headers()["content-type"], format!("multipart/form-data; boundary={boundary}"));
        let body = request.into_body();
        assert_eq!(body.chunks()[1].as_ptr(), upload.content.chunks()[0].as_ptr(), "the file is not copied");
        let text = String::from_utf8(body.into_bytes().to_vec()).unwrap();
        assert_eq!(
            text,
            format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a%22b%0D%0A.zip\"\r\n\
                 Content-Type: application/octet-stream\r\n\r\nPK\r\n--\r\n--{boundary}--\r\n"
            )
        );
        assert!(!format!("{upload:?}").contains("canary"));
    }
}
