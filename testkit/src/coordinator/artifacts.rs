//! `POST /jobs/:id/artifacts` and `GET /jobs/:id/artifacts`.

use bytes::Bytes;
use gitlab_runner_api::Timestamp;
use http::StatusCode;
use http::header::CONTENT_DISPOSITION;

use super::jobs::JobRecord;
use super::limits::Limited;
use super::params::Params;
use super::wire::{self, Reply};
use super::{Coordinator, Inbound};

/// The types of artifacts by the one format GitLab takes for each.
const FORMATS: &[(&str, &[&str])] = &[
    ("zip", &["archive", "lsif", "scip"]),
    (
        "gzip",
        &[
            "metadata",
            "junit",
            "metrics",
            "metrics_referee",
            "network_referee",
            "dotenv",
            "cobertura",
            "jacoco",
            "cluster_applications",
            "cyclonedx",
            "annotations",
            "repository_xray",
        ],
    ),
    (
        "raw",
        &[
            "sast",
            "secret_detection",
            "dependency_scanning",
            "container_scanning",
            "cluster_image_scanning",
            "dast",
            "license_scanning",
            "accessibility",
            "codequality",
            "performance",
            "browser_performance",
            "load_performance",
            "terraform",
            "requirements",
            "requirements_v2",
            "coverage_fuzzing",
            "api_fuzzing",
            "sarif",
        ],
    ),
];

/// A file that a job left.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredArtifact {
    /// `archive`, or the type of a report.
    pub artifact_type: String,
    /// `zip`, `gzip` or `raw`.
    pub artifact_format: String,
    /// The name of the file as it was sent.
    pub file_name: String,
    /// How long it is kept, as it was sent.
    pub expire_in: Option<String>,
    /// The file.
    pub content: Bytes,
}

impl JobRecord {
    /// The files the job left, in the order they came.
    #[must_use]
    pub fn artifacts(&self) -> &[StoredArtifact] {
        &self.artifacts
    }

    /// The file of that type.
    #[must_use]
    pub fn artifact(&self, artifact_type: &str) -> Option<&StoredArtifact> {
        self.artifacts.iter().find(|artifact| artifact.artifact_type == artifact_type)
    }
}

/// Returns the token of a job, from one of these parameters or from the header.
fn job_token(inbound: &Inbound, params: &Params, names: &[&str]) -> Result<String, Reply> {
    for name in names {
        if let Some(token) = params.text(name)? {
            return Ok(token);
        }
    }
    let header = inbound.headers.get(wire::JOB_TOKEN).and_then(|token| token.to_str().ok());
    Ok(header.unwrap_or_default().to_owned())
}

impl Coordinator {
    /// The checks of the job endpoints that count against the limit for all of a job's calls.
    pub(super) fn authenticate_executing(&mut self, now: Timestamp, id: u64, inbound: &Inbound) -> Result<(), Reply> {
        let token = job_token(inbound, &inbound.params, &["token"])?;
        self.limits.check(now, Limited::Job, &token, self.settings.job_limit)?;
        self.authenticate_job(now, id, &token)
    }

    pub(super) fn upload_artifact(&mut self, now: Timestamp, id: u64, inbound: &Inbound) -> Result<Reply, Reply> {
        // The front proxy asks whether it may take the file before it does. It has read no body yet, so that a token
        // counts only in the query or in the header.
        let token = job_token(inbound, &inbound.query, &["token"])?;
        self.limits.check(now, Limited::Job, &token, self.settings.job_limit)?;
        self.limits.check(now, Limited::Job, &token, self.settings.job_limit)?;
        self.authenticate_job(now, id, &token)?;
        let bad = |message: &str| Reply::message(StatusCode::BAD_REQUEST, message);
        let artifact_type = inbound.params.text("artifact_type")?.unwrap_or_else(|| "archive".to_owned());
        let artifact_format = inbound.params.text("artifact_format")?.unwrap_or_else(|| "zip".to_owned());
        let formats = FORMATS.iter().find(|(_, types)| types.contains(&artifact_type.as_str()));
        match formats {
            None => return Err(Reply::error(StatusCode::BAD_REQUEST, "artifact_type does not have a valid value")),
            Some((format, _)) if *format != artifact_format => return Err(bad("Invalid artifact format")),
            Some(_) => {}
        }
        let (file_name, content) = match &inbound.files[..] {
            [] => return Err(bad("Missing artifacts file!")),
            [file] if file.name == "file" => (file.file_name.clone(), file.content.clone()),
            // The front proxy fails at a second file and at a file with another name.
            _ => {
                return Err(Reply::text(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "Internal Server Error\n"));
            }
        };
        if content.len() as u64 > self.settings.artifact_size_limit {
            return Err(Reply::message(StatusCode::PAYLOAD_TOO_LARGE, "413 Request Entity Too Large"));
        }
        let expire_in = inbound.params.text("expire_in")?;
        let artifact = StoredArtifact { artifact_type, artifact_format, file_name, expire_in, content };
        let Some(job) = self.jobs.get_mut(&id) else { return Err(Reply::forbidden()) };
        match job.artifact(&artifact.artifact_type) {
            Some(stored) if stored.content == artifact.content => {}
            Some(_) => return Err(bad("another artifact of the same type already exists")),
            None => job.artifacts.push(artifact),
        }
        Ok(Reply::number(StatusCode::CREATED))
    }

    pub(super) fn download_artifacts(&mut self, now: Timestamp, id: u64, inbound: &Inbound) -> Result<Reply, Reply> {
        let token = job_token(inbound, &inbound.params, &["job_token", "token"])?;
        self.limits.check(now, Limited::Job, &token, self.settings.job_limit)?;
        if !self.jobs.values().any(|job| job.token == token && job.is_executing()) {
            return Err(Reply::message(StatusCode::UNAUTHORIZED, "401 Unauthorized"));
        }
        let job = self.jobs.get(&id).ok_or_else(Reply::forbidden)?;
        let archive = job.artifact("archive");
        let archive = archive.ok_or_else(|| Reply::message(StatusCode::NOT_FOUND, "404 Not found"))?;
        let name = archive.file_name.replace(|c: char| c == '"' || c.is_control(), "_");
        Ok(Reply::text(StatusCode::OK, "application/octet-stream", archive.content.clone())
            .header_text(CONTENT_DISPOSITION, &format!("attachment; filename=\"{name}\"")))
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::super::fixture::Lab;

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
            ("?artifact_type=junit&artifact_format=raw", form("file", "gz"), 400),
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
            (&kept.content[..], kept.expire_in.as_deref(), kept.file_name.as_str()),
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
}
