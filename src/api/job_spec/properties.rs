//! Accessors for what a runner needs to know of a job, wherever in the payload it is.

use std::time::Duration;

use serde_json::Value;

use super::{Credential, JobSpec, RefType};
use crate::error::ProtocolError;
use crate::secret::Secret;

/// How long `after_script` may take if the job does not say.
const AFTER_SCRIPT_TIMEOUT: Duration = Duration::from_secs(300);

impl JobSpec {
    /// The job's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.job_info.name
    }

    /// The stage it is in.
    #[must_use]
    pub fn stage(&self) -> &str {
        &self.job_info.stage
    }

    /// The user who started it (`GITLAB_USER_LOGIN`).
    #[must_use]
    pub fn username(&self) -> Option<&str> {
        self.told("GITLAB_USER_LOGIN")
    }

    /// The project's page (`CI_PROJECT_URL`).
    #[must_use]
    pub fn project_url(&self) -> Option<&str> {
        self.told("CI_PROJECT_URL")
    }

    /// The project's path with all groups, from `job_info` or `CI_PROJECT_PATH`.
    #[must_use]
    pub fn project_path(&self) -> Option<&str> {
        self.job_info.project_full_path.as_deref().or_else(|| self.told("CI_PROJECT_PATH"))
    }

    /// The project's name.
    #[must_use]
    pub fn project_name(&self) -> &str {
        &self.job_info.project_name
    }

    /// The branch or tag the job was started for.
    #[must_use]
    pub fn git_ref(&self) -> &str {
        &self.git_info.git_ref
    }

    /// Whether that is a branch.
    #[must_use]
    pub fn is_branch(&self) -> bool {
        self.git_info.ref_type == Some(RefType::Branch)
    }

    /// Where to clone from, with the job's token in it.
    #[must_use]
    pub fn repo_url(&self) -> Option<&Secret> {
        self.git_info.repo_url.as_ref()
    }

    /// The job's page (`CI_JOB_URL`).
    #[must_use]
    pub fn job_url(&self) -> Option<&str> {
        self.told("CI_JOB_URL")
    }

    /// The pipeline's page (`CI_PIPELINE_URL`).
    #[must_use]
    pub fn pipeline_url(&self) -> Option<&str> {
        self.told("CI_PIPELINE_URL")
    }

    /// The pipeline's id, from `job_info` or `CI_PIPELINE_ID`.
    #[must_use]
    pub fn pipeline_id(&self) -> Option<u64> {
        self.job_info.pipeline_id.or_else(|| self.told("CI_PIPELINE_ID")?.parse().ok())
    }

    /// The commit.
    #[must_use]
    pub fn commit_sha(&self) -> &str {
        &self.git_info.sha
    }

    /// The commit's message (`CI_COMMIT_MESSAGE`).
    #[must_use]
    pub fn commit_message(&self) -> Option<&str> {
        self.told("CI_COMMIT_MESSAGE")
    }

    /// The commands of the step `script`, one an entry.
    #[must_use]
    pub fn script(&self) -> &[String] {
        self.step("script").map_or(&[], |step| &step.script)
    }

    /// The commands of the step `after_script`, one an entry.
    #[must_use]
    pub fn after_script(&self) -> &[String] {
        self.step("after_script").map_or(&[], |step| &step.script)
    }

    /// The tags of the job, from `CI_JOB_TAGS`, or those of its runner, from `CI_RUNNER_TAGS`: a list in JSON, or words
    /// with commas between them, as older servers write it.
    #[must_use]
    pub fn tags(&self) -> Vec<String> {
        let text = self.told("CI_JOB_TAGS").or_else(|| self.told("CI_RUNNER_TAGS")).unwrap_or_default();
        serde_json::from_str(text).unwrap_or_else(|_| {
            text.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
        })
    }

    /// What `run` says, decoded a second time: one object for each CI step.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::Unreadable`] if it is no list in JSON.
    pub fn run_steps(&self) -> Result<Vec<Value>, ProtocolError> {
        let text = self.run.as_deref().filter(|text| !text.trim().is_empty());
        text.map_or(Ok(Vec::new()), |text| serde_json::from_str(text).map_err(|error| ProtocolError::json(&error)))
    }

    /// How long the script may take (`RUNNER_SCRIPT_TIMEOUT`, such as `1h30m`); none if the job does not say. Never more
    /// than the job's own time.
    #[must_use]
    pub fn script_timeout(&self) -> Option<Duration> {
        self.span("RUNNER_SCRIPT_TIMEOUT")
    }

    /// How long `after_script` may take (`RUNNER_AFTER_SCRIPT_TIMEOUT`); five minutes if the job does not say. Never more
    /// than the job's own time, also if that is less than five minutes.
    #[must_use]
    pub fn after_script_timeout(&self) -> Duration {
        let span = self.span("RUNNER_AFTER_SCRIPT_TIMEOUT").unwrap_or(AFTER_SCRIPT_TIMEOUT);
        self.timeout().map_or(span, |timeout| span.min(timeout))
    }

    /// How often the job was retried before (`CI_JOB_RETRY_COUNT`, GitLab 19.3 and newer): 0 for the first run.
    #[must_use]
    pub fn retry_count(&self) -> Option<u32> {
        self.told("CI_JOB_RETRY_COUNT")?.parse().ok()
    }

    /// The project's path as the address of its repository names it, without `.git`.
    pub(crate) fn repo_path(&self) -> Option<String> {
        let url = url::Url::parse(self.repo_url()?.expose()).ok()?;
        let path = url.path().trim_matches('/');
        let path = path.strip_suffix(".git").unwrap_or(path);
        (!path.is_empty()).then(|| path.to_owned())
    }

    /// The credential for an image's registry: of those whose address is the image's or lies above it, the longest.
    #[must_use]
    pub fn registry_credential(&self, image: &str) -> Option<&Credential> {
        let bare = |url: &str| {
            let url = url.split_once("://").map_or(url, |(_, rest)| rest);
            url.trim_end_matches('/').to_owned()
        };
        let image = bare(image);
        let covers = |credential: &&Credential| {
            let url = bare(&credential.url);
            let rest = image.strip_prefix(&url).filter(|_| !url.is_empty());
            // Not a longer host name, nor another port.
            credential.kind == "registry" && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.credentials.iter().filter(covers).max_by_key(|credential| bare(&credential.url).len())
    }

    /// The value of a variable, if it is not empty.
    fn told(&self, key: &str) -> Option<&str> {
        self.variable(key).filter(|value| !value.is_empty())
    }

    fn span(&self, key: &str) -> Option<Duration> {
        let span = duration(&self.word(key)?).filter(|span| !span.is_zero())?;
        Some(self.timeout().map_or(span, |timeout| span.min(timeout)))
    }
}

/// A span as Go writes it: `90s`, `1h30m`, `1.5h`. None if it is negative or something else.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    rest = rest.strip_prefix('+').unwrap_or(rest);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut sum = Duration::ZERO;
    let mut some = false;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, next) = tail.split_at(end);
        let scale = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * scale).ok()?;
        (sum, some, rest) = (sum.checked_add(part)?, true, next);
    }
    some.then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::job_spec::Assignment;

    fn spec(json: Value) -> Assignment {
        Assignment::from_json(json.to_string()).unwrap()
    }

    #[test]
    fn spans_are_read_as_go_reads_them() {
        let seconds = Duration::from_secs;
        let rows = [
            ("10m", Some(seconds(600))),
            ("1h30m", Some(seconds(5400))),
            ("1.5h", Some(seconds(5400))),
            ("+90s", Some(seconds(90))),
            ("250ms", Some(Duration::from_millis(250))),
            ("0", Some(seconds(0))),
            ("0s", Some(seconds(0))),
            ("-1m", None),
            ("10", None),
            ("", None),
            ("m", None),
            ("1.2.3s", None),
            ("1d", None),
            ("99999999999999999999999h", None),
        ];
        for (text, span) in rows {
            assert_eq!(duration(text), span, "{text:?}");
        }
    }

    #[test]
    fn timeouts_of_scripts_come_from_variables() {
        let of = |script: &str, after: &str| {
            let variables = serde_json::json!([
                { "key": "RUNNER_SCRIPT_TIMEOUT", "value": script },
                { "key": "RUNNER_AFTER_SCRIPT_TIMEOUT", "value": after },
                { "key": "T", "value": "90s" }, { "key": "LONG", "value": "1".repeat(300) },
            ]);
            let job = spec(serde_json::json!({
                "id": 1, "token": "t", "variables": variables, "runner_info": { "timeout": 3600 }
            }));
            (job.spec().script_timeout().map(|span| span.as_secs()), job.spec().after_script_timeout().as_secs())
        };
        assert_eq!(of("10m", "1m"), (Some(600), 60));
        assert_eq!(of("soon", "-1m"), (None, 300));
        assert_eq!(of("0", "0"), (None, 300));
        assert_eq!(of("3h", "3h"), (Some(3600), 3600), "no more than the job has");
        assert_eq!(of("$T", "${UNKNOWN}1m"), (Some(90), 60), "they are expanded");
        assert_eq!(of("${CI_JOB_TIMEOUT}s", "$LONG"), (Some(3600), 300));
        let short = spec(serde_json::json!({ "id": 1, "token": "t", "runner_info": { "timeout": 60 } }));
        assert_eq!(short.spec().after_script_timeout().as_secs(), 60, "also if the job does not say");
    }

    #[test]
    fn words_of_variables_are_expanded() {
        let of = |value: &str, raw: bool| {
            spec(serde_json::json!({ "id": 1, "token": "t", "variables": [
                { "key": "D", "value": "true" }, { "key": "CI_DEBUG_TRACE", "value": value, "raw": raw },
                { "key": "CI_JOB_RETRY_COUNT", "value": value },
            ] }))
        };
        assert!(of("$D", false).spec().is_debug_trace() && of("${D}", false).spec().is_debug_trace());
        assert!(!of("$D", true).spec().is_debug_trace(), "a raw value is what it says");
        assert!(!of("$UNKNOWN", false).spec().is_debug_trace() && !of("$D$D", false).spec().is_debug_trace());
        // No switch is as long as this, and expanding it would take long.
        assert!(!of(&"$D".repeat(100_000), false).spec().is_debug_trace());
        assert_eq!(of("2", false).spec().retry_count(), Some(2));
        assert_eq!(of("", false).spec().retry_count(), None);
        assert_eq!(of("-1", false).spec().retry_count(), None);
    }

    #[test]
    fn the_longest_credential_of_a_registry_counts() {
        let entry = |kind: &str, url: &str| serde_json::json!({ "type": kind, "url": url, "username": url });
        let job = spec(serde_json::json!({ "id": 1, "token": "t", "credentials": [
            entry("registry", "registry.example.com"),
            entry("registry", "registry.example.com:5005"),
            entry("registry", "https://registry.example.com/group/"),
            entry("moon", "registry.example.com/group/project"),
            entry("registry", ""),
        ] }));
        let rows = [
            ("registry.example.com/a:latest", Some("registry.example.com")),
            ("registry.example.com", Some("registry.example.com")),
            ("registry.example.com:5005/a", Some("registry.example.com:5005")),
            ("registry.example.com/group/project/a@sha256:0", Some("https://registry.example.com/group/")),
            ("registry.example.com/groups/a", Some("registry.example.com")),
            ("registry.example.com.evil.org/a", None),
            ("registry.example.com:5006/a", None),
            ("alpine", None),
            ("", None),
        ];
        for (image, found) in rows {
            assert_eq!(job.spec().registry_credential(image).map(|one| one.username.as_str()), found, "{image}");
        }
    }
}
