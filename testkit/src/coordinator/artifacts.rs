//! `POST /jobs/:id/artifacts` and `GET /jobs/:id/artifacts`.

use std::collections::BTreeMap;

use gitlab_runner_api::Timestamp;
use http::header::{AUTHORIZATION, CONTENT_DISPOSITION, HOST, HeaderName, HeaderValue, LOCATION};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, StatusCode};
use serde_json::json;

use super::access::Role;
use super::files::{StoredArtifact, check_format, check_pair, check_type};
use super::limits::Limited;
use super::params::Params;
use super::reports::ReportError;
use super::settings::Maintenance;
use super::trace::Caller;
use super::wire::{self, Reply, Route};
use super::{Body, Coordinator, Inbound, Reading, reports, tokens};

/// The header with which the front proxy signs. In GitLab it has a JWT.
const FRONT_PROXY: HeaderName = HeaderName::from_static("gitlab-workhorse-api-request");

fn storage_path(job: u64, token: &str) -> String {
    format!("/object-storage/{job}?signature={}", tokens::signature(token))
}

pub(super) fn send_file(file: &StoredArtifact) -> Reply {
    Reply::file(StatusCode::OK, "application/octet-stream", file.content.clone())
        .header_text(CONTENT_DISPOSITION, &file.disposition())
        .header(HeaderName::from_static("content-transfer-encoding"), HeaderValue::from_static("binary"))
}

fn not_allowed() -> Reply {
    Reply::message(StatusCode::METHOD_NOT_ALLOWED, "405 Method Not Allowed")
}

fn too_large() -> Reply {
    Reply::message(StatusCode::PAYLOAD_TOO_LARGE, "file size has reached maximum size limit")
}

/// GitLab fails.
fn server_error() -> Reply {
    Reply::message(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error")
}

/// The front proxy fails.
fn internal_error() -> Reply {
    Reply::text(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "Internal Server Error\n")
}

/// Returns the token of a job, from one of these parameters or from the header.
pub(super) fn job_token(headers: &HeaderMap, params: &Params, names: &[&str]) -> Result<String, Reply> {
    for name in names {
        if let Some(token) = params.text(name)? {
            return Ok(token);
        }
    }
    let header = headers.get(wire::JOB_TOKEN).and_then(|token| token.to_str().ok());
    Ok(header.unwrap_or_default().to_owned())
}

impl Coordinator {
    /// The checks of the job endpoints that count against the limit for all of a job's calls.
    pub(super) fn authenticate_executing(&mut self, now: Timestamp, id: u64, inbound: &Inbound) -> Result<(), Reply> {
        let token = job_token(&inbound.headers, &inbound.params, &["token"])?;
        self.limits.check(now, Limited::Job, &token, self.settings.job_limit)?;
        self.authenticate_job(now, id, &token, Caller::Environment)
    }

    /// Only the front proxy may ask whether an upload is welcome, and it signs its request.
    pub(super) fn authorize_upload(&mut self, now: Timestamp, id: u64, inbound: &Inbound) -> Result<Reply, Reply> {
        let artifact_type = inbound.params.text("artifact_type")?.unwrap_or_else(|| "archive".to_owned());
        check_type(&artifact_type)?;
        let file_size = inbound.params.integer("filesize")?;
        let token = job_token(&inbound.headers, &inbound.params, &["token"])?;
        self.limits.check(now, Limited::Job, &token, self.settings.job_limit)?;
        if !self.settings.artifacts_enabled {
            return Err(not_allowed());
        }
        let signature = inbound.headers.get(FRONT_PROXY).and_then(|signature| signature.to_str().ok());
        if signature.is_none() || signature != self.settings.front_proxy_signature.as_deref() {
            return Err(Reply::forbidden());
        }
        self.authenticate_job(now, id, &token, Caller::Environment)?;
        let limit = self.settings.artifact_size_limit;
        if file_size.and_then(|size| u64::try_from(size).ok()).is_some_and(|size| size > limit) {
            return Err(too_large());
        }
        let mut told = match &self.settings.object_storage {
            None => json!({ "TempPath": "/var/opt/gitlab/artifacts/tmp/uploads" }),
            Some(storage) => {
                let upload = format!("{storage}{}", storage_path(id, &token));
                let urls =
                    json!({ "PartSize": 100 << 20, "PartURLs": [upload], "CompleteURL": upload, "AbortURL": upload });
                json!({ "RemoteObject": {
                    "ID": tokens::signature(&token),
                    "GetURL": upload,
                    "StoreURL": upload,
                    "DeleteURL": upload,
                    "SkipDelete": true,
                    "MultipartUpload": urls,
                } })
            }
        };
        told["MaximumSize"] = json!(limit);
        if artifact_type == "lsif" {
            told["ProcessLsif"] = json!(true);
        }
        Ok(Reply::text(StatusCode::OK, "application/vnd.gitlab-workhorse+json", told.to_string()))
    }

    pub(super) fn upload_artifact(&mut self, now: Timestamp, id: u64, inbound: &Inbound) -> Result<Reply, Reply> {
        // The front proxy asks whether it may take the file before it does. It has read no body yet, so that a token
        // counts only in the query or in the header.
        if let Some(artifact_type) = inbound.query.text("artifact_type")? {
            check_type(&artifact_type)?;
        }
        let token = job_token(&inbound.headers, &inbound.query, &["token"])?;
        self.limits.check(now, Limited::Job, &token, self.settings.job_limit)?;
        self.limits.check(now, Limited::Job, &token, self.settings.job_limit)?;
        if !self.settings.artifacts_enabled {
            return Err(not_allowed());
        }
        self.authenticate_job(now, id, &token, Caller::Environment)?;
        if matches!(inbound.body, Body::Discarded) {
            // The upload was to be refused when its head came, and its file is gone. What changed since then comes too late.
            return Err(Reply::forbidden());
        }
        let artifact = self.read_upload(inbound)?;
        if self.settings.object_storage_loses_uploads {
            return Err(Reply::message(StatusCode::INTERNAL_SERVER_ERROR, "Missing file"));
        }
        let Some(job) = self.jobs.get_mut(&id) else { return Err(Reply::forbidden()) };
        let stored = job.artifact(&artifact.artifact_type);
        let is_known = stored.is_some();
        if let Some(stored) = stored {
            // Before anything else of the file is looked at.
            match stored.content.has_same_bytes(&artifact.content) {
                Ok(true) => return Ok(Reply::number(StatusCode::CREATED)),
                Ok(false) => {}
                Err(_) => return Err(internal_error()),
            }
        }
        let bad = |message: &str| Reply::message(StatusCode::BAD_REQUEST, message);
        let format = &artifact.artifact_format;
        let unread = |why| match why {
            ReportError::Refused(message) => bad(&message),
            ReportError::Unsupported => server_error(),
        };
        let dotenv = match artifact.artifact_type.as_str() {
            "dotenv" => reports::dotenv(&artifact.content, format, &self.settings).map_err(unread)?,
            "annotations" => {
                reports::annotations(&artifact.content, format, &self.settings).map_err(unread)?;
                BTreeMap::new()
            }
            _ => BTreeMap::new(),
        };
        check_pair(&artifact.artifact_type, format)?;
        if is_known {
            return Err(bad("another artifact of the same type already exists"));
        }
        if self.settings.object_storage_fails {
            return Err(Reply::message(StatusCode::SERVICE_UNAVAILABLE, "Input/output error"));
        }
        job.artifacts.push(artifact);
        job.dotenv.extend(dotenv);
        Ok(Reply::number(StatusCode::CREATED))
    }

    /// The file of an upload, with what the parameters say about it.
    ///
    /// # Errors
    ///
    /// Answers as the front proxy or the framework do, which look at the request before GitLab does.
    fn read_upload(&self, inbound: &Inbound) -> Result<StoredArtifact, Reply> {
        let params = &inbound.params;
        let artifact_type = params.text("artifact_type")?.unwrap_or_else(|| "archive".to_owned());
        let artifact_format = params.text("artifact_format")?.unwrap_or_else(|| "zip".to_owned());
        check_type(&artifact_type)?;
        check_format(&artifact_format)?;
        let (file_name, content) = match &inbound.files[..] {
            [] => {
                let why = if params.has("file") { "file is invalid" } else { "file is missing" };
                return Err(Reply::error(StatusCode::BAD_REQUEST, why));
            }
            [file] if file.name == "file" => (file.file_name.clone(), file.content.clone()),
            // The front proxy fails at a second file and at a file with another name.
            _ => return Err(internal_error()),
        };
        let limit = self.settings.artifact_size_limit;
        let content = content.filter(|content| content.len() <= limit).ok_or_else(too_large)?;
        let accessibility = params.text("accessibility")?.unwrap_or_default();
        if !matches!(accessibility.trim(), "" | "public" | "private" | "none") {
            return Err(server_error());
        }
        let expire_in = params.text("expire_in")?;
        Ok(StoredArtifact { artifact_type, artifact_format, file_name, expire_in, content })
    }

    /// What to do with the body of a request while it comes in. Only uploads have files that are worth a place outside of the
    /// memory, and only those that GitLab is not going to refuse in any case.
    pub(crate) fn reading(&self, now: Timestamp, parts: &Parts) -> Reading {
        let Route::UploadArtifact(id) = Route::of(&parts.method, parts.uri.path()) else { return Reading::Whole };
        if self.redirect_upload(parts).is_some() {
            return Reading::AnswerFirst;
        }
        if wire::media_type(&parts.headers) != "multipart/form-data" {
            return Reading::Whole;
        }
        let settings = &self.settings;
        let takes_uploads =
            settings.maintenance == Maintenance::Off && !settings.migration_backoff && settings.artifacts_enabled;
        let query = Params::from_query(parts.uri.query());
        let token = query.and_then(|query| job_token(&parts.headers, &query, &["token"]));
        if takes_uploads && token.is_ok_and(|token| self.recognise_job(now, id, &token).is_ok()) {
            Reading::Form { limit: settings.artifact_size_limit }
        } else {
            Reading::Discard
        }
    }

    pub(super) fn download_artifacts(&mut self, now: Timestamp, id: u64, inbound: &Inbound) -> Result<Reply, Reply> {
        let direct = inbound.params.flag("direct_download")? == Some(true);
        let limited = job_token(&inbound.headers, &inbound.params, &["token"])?;
        self.limits.check(now, Limited::Job, &limited, self.settings.job_limit)?;
        let role = self.downloading_role(now, inbound)?;
        let why = || self.why_no_job(id).map(|why| Reply::message(StatusCode::NOT_FOUND, why));
        let job = self.jobs.get(&id).ok_or_else(|| why().unwrap_or_else(Reply::forbidden))?;
        if role < Role::Guest {
            return Err(Reply::forbidden());
        }
        let archive = job.artifact("archive");
        let why = || job.why_no_artifacts(&self.settings).unwrap_or_else(|| "404 Not Found".to_owned());
        let archive = archive.ok_or_else(|| Reply::message(StatusCode::NOT_FOUND, why()))?;
        if let Some(storage) = &self.settings.object_storage
            && direct
        {
            let location = format!("{storage}{}", storage_path(id, &job.token));
            return Ok(Reply::empty(StatusCode::FOUND).header_text(LOCATION, &location));
        }
        Ok(send_file(archive))
    }

    /// The role of the user in whose name the running job downloads, whose token the request has. Here an empty token is none.
    fn downloading_role(&self, now: Timestamp, inbound: &Inbound) -> Result<Role, Reply> {
        let parameters = ["job_token", "token"].map(|name| inbound.params.text(name));
        let header = job_token(&inbound.headers, &Params::default(), &[])?;
        let mut given = None;
        for token in parameters.into_iter().chain([Ok(Some(header))]) {
            given = given.or(token?.filter(|token| !token.trim().is_empty()));
        }
        let Some(token) = given else {
            // A user is known, but may not download here.
            self.authenticate_user(&inbound.headers, &inbound.params)?;
            return Err(Reply::forbidden());
        };
        let job = self.executing_job(now, &token);
        let job = job.ok_or_else(|| Reply::message(StatusCode::UNAUTHORIZED, "401 Unauthorized"))?;
        Ok(job.template().user_role())
    }

    /// Answers a request to object storage, at an address that a download was sent to. The address is a secret in itself. A
    /// token of GitLab must not be sent there, so that a request with one is refused.
    pub(super) fn read_storage(&self, id: u64, inbound: &Inbound) -> Result<Reply, Reply> {
        if [wire::JOB_TOKEN, AUTHORIZATION].iter().any(|name| inbound.headers.contains_key(name)) {
            let text = "The request has a token of GitLab, which must not be sent to object storage.\n";
            return Err(Reply::text(StatusCode::BAD_REQUEST, "text/plain", text));
        }
        let signature = inbound.query.text("signature")?.unwrap_or_default();
        let job = self.jobs.get(&id).filter(|job| signature == tokens::signature(&job.token));
        let archive = job.and_then(|job| job.artifact("archive"));
        let dropped = job.and_then(|job| job.why_no_artifacts(&self.settings));
        archive.map(send_file).ok_or_else(|| {
            let gone = dropped.map(|why| Reply::message(StatusCode::NOT_FOUND, why));
            gone.unwrap_or_else(|| Reply::empty(StatusCode::FORBIDDEN))
        })
    }

    /// The other address that an upload is to be sent to, unless the request came there already.
    pub(super) fn redirect_upload(&self, parts: &Parts) -> Option<Reply> {
        let target = self.settings.upload_redirect.as_deref()?;
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = host.or(parts.uri.authority().map(Authority::as_str)).unwrap_or_default();
        let authority = target.split_once("://").and_then(|(_, rest)| rest.split('/').next());
        if authority == Some(host) {
            return None;
        }
        let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
        Some(Reply::empty(StatusCode::TEMPORARY_REDIRECT).header_text(LOCATION, &format!("{target}{path}")))
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::super::fixture::{Lab, header};

    const FORM: &[(&str, &str)] = &[("content-type", "multipart/form-data; boundary=xx")];

    fn form(name: &str, content: &str) -> Vec<u8> {
        format!(
            "--xx\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"a.zip\"\r\n\r\n{content}\r\n--xx--\r\n"
        )
        .into_bytes()
    }

    #[test]
    fn a_file_is_taken_once_for_each_type() {
        let mut lab = Lab::new(|settings| settings.artifact_size_limit = 9);
        let id = lab.running_job(&[]);
        let token = lab.job(id).token().to_owned();
        let mut send = |query: &str, body: &[u8]| {
            let headers = [FORM[0], ("job-token", token.as_str())];
            lab.call(Method::POST, &format!("/jobs/{id}/artifacts{query}"), &headers, body).status().as_u16()
        };
        let archive = "?artifact_type=archive&artifact_format=zip&expire_in=1+week";
        let rows = [
            (archive, form("file", "PK"), 201),
            (archive, form("file", "PK"), 201),
            (archive, form("file", "other"), 400),
            ("?artifact_type=junit&artifact_format=gzip", form("file", "gz"), 201),
            ("?artifact_type=junit&artifact_format=raw", form("file", "gz"), 201),
            ("?artifact_type=metrics&artifact_format=raw", form("file", "gz"), 400),
            ("?artifact_type=dotenv&artifact_format=zip", form("file", "A=1"), 500),
            ("?accessibility=secret", form("file", "PK"), 500),
            ("?artifact_type=moon", form("file", "gz"), 400),
            ("?artifact_type=sast&artifact_format=raw", form("file", "0123456789"), 413),
            ("?artifact_type=sast&artifact_format=raw", form("else", "x"), 500),
            ("?artifact_type=sast&artifact_format=raw", b"no form".to_vec(), 400),
        ];
        for (query, body, status) in rows {
            assert_eq!(send(query, &body), status, "{query}");
        }
        let job = lab.job(id);
        let kept = job.artifact("archive").unwrap();
        assert_eq!(
            (&kept.content.to_bytes().unwrap()[..], kept.expire_in.as_deref(), kept.file_name.as_str()),
            (&b"PK"[..], Some("1 week"), "a.zip")
        );
        assert_eq!(job.artifacts().len(), 2);
    }

    #[test]
    fn an_archive_is_given_to_running_jobs() {
        let mut lab = Lab::new(|_| {});
        let first = lab.running_job(&[]);
        let token = lab.job(first).token().to_owned();
        let headers = [FORM[0], ("job-token", token.as_str())];
        let path = format!("/jobs/{first}/artifacts");
        let get = |lab: &mut Lab, path: &str, token: &str| {
            let response = lab.call(Method::GET, path, &[("job-token", token)], b"");
            (response.status().as_u16(), response.into_body())
        };
        assert_eq!(get(&mut lab, &path, &token).0, 404);
        assert_eq!(lab.call(Method::POST, &path, &headers, &form("file", "PK")).status(), 201);
        let second = lab.running_job(&[]);
        let other = lab.job(second).token().to_owned();
        lab.put(first, serde_json::json!({ "state": "success" }));
        assert_eq!(get(&mut lab, &path, &other), (200, "PK".into()));
        assert_eq!(get(&mut lab, &path, &token).0, 401, "its job has ended");
        assert_eq!(get(&mut lab, "/jobs/7/artifacts", &other).0, 403);
        assert_eq!(lab.call(Method::POST, &path, &headers, &form("file", "PK")).status(), 403);
    }

    /// A name that cannot be a header must not make a download one that a browser shows.
    #[test]
    fn a_download_is_an_attachment_whatever_its_name_is() {
        for (file_name, expected) in [
            ("a.zip", "attachment; filename=\"a.zip\"; filename*=UTF-8''a.zip"),
            ("a b\"\\\r\nX: 1", "attachment; filename=\"a b____X: 1\"; filename*=UTF-8''a%20b%22%5C__X%3A%201"),
            ("é.html", "attachment; filename=\"_.html\"; filename*=UTF-8''%C3%A9.html"),
            ("", "attachment; filename=\"\"; filename*=UTF-8''"),
        ] {
            let (kind, format) = ("archive".to_owned(), "zip".to_owned());
            let (file_name, content) = (file_name.to_owned(), bytes::Bytes::new().into());
            let file = super::StoredArtifact {
                artifact_type: kind,
                artifact_format: format,
                file_name,
                expire_in: None,
                content,
            };
            let response = super::send_file(&file).into_response();
            assert_eq!(response.headers()["content-disposition"], expected);
        }
    }

    #[test]
    fn uploads_are_refused_in_all_ways() {
        for (change, status) in [
            ((|settings| settings.artifacts_enabled = false) as fn(&mut crate::Settings), 405),
            (|settings| settings.object_storage_fails = true, 503),
        ] {
            let mut lab = Lab::new(change);
            let id = lab.running_job(&[]);
            let token = lab.job(id).token().to_owned();
            let headers = [FORM[0], ("job-token", token.as_str())];
            let response = lab.call(Method::POST, &format!("/jobs/{id}/artifacts"), &headers, &form("file", "PK"));
            assert_eq!((response.status().as_u16(), lab.job(id).artifacts().len()), (status, 0));
        }
    }

    #[test]
    fn uploads_are_sent_to_another_host() {
        let mut lab = Lab::new(|settings| settings.upload_redirect = Some("https://near.test:8443".to_owned()));
        let id = lab.running_job(&[]);
        let token = lab.job(id).token().to_owned();
        let path = format!("/jobs/{id}/artifacts?artifact_type=archive");
        let headers = [FORM[0], ("job-token", token.as_str())];
        let response = lab.call(Method::POST, &path, &headers, &form("file", "PK"));
        let target = format!("https://near.test:8443/api/v4{path}");
        assert_eq!((response.status().as_u16(), header(&response, "location")), (307, Some(target.as_str())));
        let headers = [FORM[0], ("job-token", token.as_str()), ("host", "near.test:8443")];
        assert_eq!(lab.call(Method::POST, &path, &headers, &form("file", "PK")).status(), 201);
    }

    #[test]
    fn a_direct_download_comes_from_object_storage() {
        let mut lab = Lab::new(|settings| settings.object_storage = Some("https://storage.test".to_owned()));
        let id = lab.running_job(&[]);
        let token = lab.job(id).token().to_owned();
        let headers = [FORM[0], ("job-token", token.as_str())];
        let path = format!("/jobs/{id}/artifacts");
        assert_eq!(lab.call(Method::POST, &path, &headers, &form("file", "PK")).status(), 201);
        let through = lab.call(Method::GET, &path, &headers[1..], b"");
        assert_eq!((through.status().as_u16(), &through.body()[..]), (200, &b"PK"[..]));
        let direct = lab.call(Method::GET, &format!("{path}?direct_download=true"), &headers[1..], b"");
        assert_eq!(direct.status(), 302);
        let location = header(&direct, "location").expect("an address").to_owned();
        assert!(location.starts_with("https://storage.test/object-storage/") && !location.contains(&token));
        let mut fetch = |address: &str, headers: &[(&str, &str)]| {
            let mut request = http::Request::get(address);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            lab.gitlab.respond(lab.now, request.body(bytes::Bytes::new()).expect("a request")).status().as_u16()
        };
        assert_eq!(fetch(&location, &[]), 200);
        assert_eq!(fetch(&location, &headers[1..]), 400, "the job token must stay with GitLab");
        assert_eq!(fetch(&location[..location.len() - 1], &[]), 403);
    }
}
