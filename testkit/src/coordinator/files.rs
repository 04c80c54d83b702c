//! The files that jobs leave.

use http::StatusCode;

use super::wire::Reply;
use crate::content::Content;

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
            "trace",
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
#[derive(Clone, Debug)]
pub struct StoredArtifact {
    /// `archive`, or the type of a report.
    pub artifact_type: String,
    /// `zip`, `gzip` or `raw`.
    pub artifact_format: String,
    /// The name of the file as it was sent.
    pub file_name: String,
    /// How long it is kept, as it was sent.
    pub expire_in: Option<String>,
    /// The content of the file.
    pub content: Content,
}

impl StoredArtifact {
    /// The `Content-Disposition` of a download. It can be a header whatever the name of the file is, so that no browser shows
    /// the file in place of storing it.
    pub(crate) fn disposition(&self) -> String {
        let whole = self.file_name.replace(char::is_control, "_");
        let plain = whole.replace(|c: char| !matches!(c, ' '..='~') || matches!(c, '"' | '\\'), "_");
        let encoded: String = form_urlencoded::byte_serialize(whole.as_bytes()).collect();
        format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{}", encoded.replace('+', "%20"))
    }
}

/// Refuses a type that GitLab does not have.
pub(super) fn check_type(artifact_type: &str) -> Result<(), Reply> {
    if is_type(artifact_type) {
        return Ok(());
    }
    Err(Reply::error(StatusCode::BAD_REQUEST, "artifact_type does not have a valid value"))
}

/// Refuses a format that GitLab does not have.
pub(super) fn check_format(artifact_format: &str) -> Result<(), Reply> {
    if FORMATS.iter().any(|(format, _)| *format == artifact_format) {
        return Ok(());
    }
    Err(Reply::error(StatusCode::BAD_REQUEST, "artifact_format does not have a valid value"))
}

/// Refuses files of this type in another format than its own.
pub(super) fn check_pair(artifact_type: &str, artifact_format: &str) -> Result<(), Reply> {
    if FORMATS.iter().any(|(format, types)| *format == artifact_format && types.contains(&artifact_type)) {
        return Ok(());
    }
    let message = "Validation failed: Invalid file format with specified file type";
    Err(Reply::message(StatusCode::BAD_REQUEST, message))
}

/// Whether GitLab has artifacts of this type.
pub(super) fn is_type(name: &str) -> bool {
    FORMATS.iter().any(|(_, types)| types.contains(&name))
}
