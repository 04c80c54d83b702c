//! The variables that GitLab puts into every job, in its order.

use std::collections::BTreeSet;

use gitlab_runner_api::Timestamp;
use http::Uri;
use serde_json::{Value, json};

use super::calendar;
use super::new_job::{NewJob, PIPELINE, variable};
use crate::repository::Commit;

pub(super) const PROJECT: u64 = 4242;
pub(crate) const PROJECT_PATH: &str = "acme/widgets";
pub(super) const REGISTRY: &str = "registry.gitlab.example.test";
const VERSION: &str = "19.4.0";
/// The commit of jobs for which there is no repository.
pub(super) const SHA: &str = "1f0e9d8c7b6a59483726150f9e8d7c6b5a493827";
pub(super) const MESSAGE: &str = "Mend the widgets";
const AUTHOR: [&str; 2] = ["Ada Example", "ada@example.test"];
/// GitLab cuts slugs to this length, which is the longest label of a domain name.
const SLUG: usize = 63;

/// What the payload of a job depends on beside the job itself.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    pub(super) id: u64,
    pub(super) token: &'a str,
    /// The URL of the instance, without a slash at the end.
    pub(super) url: &'a str,
    pub(super) default_branch: &'a str,
    pub(super) created_at: Timestamp,
    pub(super) now: Timestamp,
    /// The runner that gets the job, once there is one.
    pub(super) runner: Option<RunnerView>,
    /// What the payload says about the jobs that this one depends on.
    pub(super) dependencies: Vec<Value>,
    /// The variables that those jobs left in dotenv files.
    pub(super) dotenv: Vec<(String, String)>,
    /// How many jobs run on runners of the instance.
    pub(super) running_jobs: String,
    /// Where the session server of the runner is.
    pub(super) session_url: Option<String>,
    /// How many attempts at this job there were before.
    pub(super) retries: usize,
}

/// A runner, as the variables of a job show it.
#[derive(Debug)]
pub(super) struct RunnerView {
    pub(super) id: u64,
    pub(super) description: String,
    pub(super) tags: Vec<String>,
}

/// Collects variables.
struct List(Vec<Value>);

impl List {
    fn add(&mut self, key: &str, value: impl Into<Value>) {
        self.0.push(variable(key, value, true, false));
    }

    fn add_all<const N: usize>(&mut self, pairs: [(&str, &str); N]) {
        pairs.into_iter().for_each(|(key, value)| self.add(key, value));
    }

    fn add_secret(&mut self, key: &str, value: &str) {
        self.0.push(variable(key, value, false, true));
    }
}

/// All variables of a job. `payload` has everything else already.
pub(super) fn of(job: &NewJob, payload: &Value, scene: &Scene<'_>) -> Vec<Value> {
    let mut list = List(Vec::with_capacity(96));
    add_job(&mut list, job, payload, scene);
    add_instance(&mut list, scene);
    add_project(&mut list, job, scene);
    add_pipeline(&mut list, job, payload, scene);
    if let Some(runner) = &scene.runner {
        list.add("CI_RUNNER_ID", runner.id.to_string());
        list.add("CI_RUNNER_DESCRIPTION", runner.description.as_str());
        list.add("CI_RUNNER_TAGS", json!(runner.tags).to_string());
    }
    list.add_all([
        ("GITLAB_USER_ID", "17"),
        ("GITLAB_USER_EMAIL", "ada@example.test"),
        ("GITLAB_USER_LOGIN", "ada"),
        ("GITLAB_USER_NAME", "Ada Example"),
    ]);
    list.0.extend(job.variables().iter().cloned());
    list.0.extend(scene.dotenv.iter().map(|(key, value)| variable(key, value.as_str(), false, false)));
    list.0.extend(job.trigger_variables().iter().map(|(key, value)| variable(key, value.as_str(), false, false)));
    list.add_all([
        ("CI_PAGES_HOSTNAME", "acme.pages.example.test"),
        ("CI_PAGES_URL", "https://acme.pages.example.test/widgets"),
    ]);
    if let Some(environment) = job.environment() {
        list.add("CI_ENVIRONMENT_SLUG", environment_slug(&environment.name));
    }
    last_of_each(list.0)
}

/// If a name occurs more than once, the last variable counts.
fn last_of_each(list: Vec<Value>) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    let mut kept: Vec<Value> =
        list.into_iter().rev().filter(|variable| seen.insert(variable["key"].to_string())).collect();
    kept.reverse();
    kept
}

fn add_job(list: &mut List, job: &NewJob, payload: &Value, scene: &Scene<'_>) {
    let project = format!("{}/{PROJECT_PATH}", scene.url);
    let text = |pointer: &str| payload.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    list.add("CI_PIPELINE_ID", PIPELINE.to_string());
    list.add("CI_PIPELINE_URL", format!("{project}/-/pipelines/{PIPELINE}"));
    list.add("CI_JOB_ID", scene.id.to_string());
    list.add("CI_JOB_URL", format!("{project}/-/jobs/{}", scene.id));
    list.add_secret("CI_JOB_TOKEN", scene.token);
    list.add("CI_JOB_STARTED_AT", calendar::format(scene.now));
    list.add("CI_REGISTRY_USER", "gitlab-ci-token");
    list.add_secret("CI_REGISTRY_PASSWORD", scene.token);
    list.0.push(variable("CI_REPOSITORY_URL", text("/git_info/repo_url"), false, false));
    list.add("CI_DEPENDENCY_PROXY_USER", "gitlab-ci-token");
    list.add_secret("CI_DEPENDENCY_PROXY_PASSWORD", scene.token);
    let name = text("/job_info/name");
    list.add("CI_JOB_NAME", name.as_str());
    list.add("CI_JOB_NAME_SLUG", slug(&name));
    list.add("CI_JOB_STAGE", text("/job_info/stage"));
    list.add("CI_JOB_TAGS", json!(job.tags()).to_string());
    list.add("CI_JOB_RETRY_COUNT", scene.retries.to_string());
    if job.is_triggered() {
        list.add("CI_PIPELINE_TRIGGERED", "true");
    }
    list.add("CI_NODE_TOTAL", "1");
    if let Some(environment) = job.environment() {
        list.add("CI_ENVIRONMENT_NAME", environment.name.as_str());
        list.add("CI_ENVIRONMENT_ACTION", environment.action.as_str());
        list.add("CI_ENVIRONMENT_TIER", environment.tier.as_str());
        if let Some(url) = &environment.url {
            list.add("CI_ENVIRONMENT_URL", url.as_str());
        }
    }
}

fn add_instance(list: &mut List, scene: &Scene<'_>) {
    let uri: Uri = scene.url.parse().unwrap_or_default();
    let (host, port) = host_and_port(scene);
    let scheme = uri.scheme_str().unwrap_or("https");
    let fqdn = uri.authority().map_or(host.as_str(), |authority| authority.as_str());
    let mut parts = VERSION.split('.');
    let mut part = || parts.next().unwrap_or_default();
    list.add_all([
        ("CI", "true"),
        ("GITLAB_CI", "true"),
        ("CI_SERVER_FQDN", fqdn),
        ("CI_SERVER_URL", scene.url),
        ("CI_SERVER_HOST", &host),
        ("CI_SERVER_PORT", &port),
        ("CI_SERVER_PROTOCOL", scheme),
        ("CI_SERVER_SHELL_SSH_HOST", &host),
        ("CI_SERVER_SHELL_SSH_PORT", "22"),
        ("CI_SERVER_NAME", "GitLab"),
        ("CI_SERVER_VERSION", VERSION),
        ("CI_SERVER_VERSION_MAJOR", part()),
        ("CI_SERVER_VERSION_MINOR", part()),
        ("CI_SERVER_VERSION_PATCH", part()),
        ("CI_SERVER_REVISION", "5a1b2c3d4e5"),
        ("GITLAB_FEATURES", ""),
    ]);
}

/// Where the instance is, also if its URL names no port.
fn host_and_port(scene: &Scene<'_>) -> (String, String) {
    let uri: Uri = scene.url.parse().unwrap_or_default();
    let usual = if uri.scheme_str() == Some("http") { 80 } else { 443 };
    (uri.host().unwrap_or("gitlab.example.test").to_owned(), uri.port_u16().unwrap_or(usual).to_string())
}

fn add_project(list: &mut List, job: &NewJob, scene: &Scene<'_>) {
    let url = format!("{}/{PROJECT_PATH}", scene.url);
    let (host, port) = host_and_port(scene);
    let proxy = format!("{host}:{port}");
    let images = format!("{proxy}/acme/dependency_proxy/containers");
    list.add_all([
        ("CI_PROJECT_ID", &PROJECT.to_string()),
        ("CI_PROJECT_NAME", "widgets"),
        ("CI_PROJECT_TITLE", "Widgets"),
        ("CI_PROJECT_DESCRIPTION", "Makes widgets"),
        ("CI_PROJECT_PATH", PROJECT_PATH),
        ("CI_PROJECT_PATH_SLUG", &slug(PROJECT_PATH)),
        ("CI_PROJECT_NAMESPACE", "acme"),
        ("CI_PROJECT_NAMESPACE_ID", "101"),
        ("CI_PROJECT_ROOT_NAMESPACE", "acme"),
        ("CI_PROJECT_URL", &url),
        ("CI_PROJECT_VISIBILITY", "private"),
        ("CI_PROJECT_REPOSITORY_LANGUAGES", "rust"),
    ]);
    list.add("CI_PROJECT_CLASSIFICATION_LABEL", Value::Null);
    list.add_all([
        ("CI_DEFAULT_BRANCH", scene.default_branch),
        ("CI_CONFIG_PATH", ".gitlab-ci.yml"),
        ("CI_PAGES_DOMAIN", "pages.example.test"),
        ("CI_DEPENDENCY_PROXY_SERVER", &proxy),
        ("CI_DEPENDENCY_PROXY_GROUP_IMAGE_PREFIX", &images),
        ("CI_DEPENDENCY_PROXY_DIRECT_GROUP_IMAGE_PREFIX", &images),
    ]);
    if job.has_registry() {
        list.add("CI_REGISTRY", REGISTRY);
        list.add("CI_REGISTRY_IMAGE", format!("{REGISTRY}/{PROJECT_PATH}"));
    }
    list.add("CI_API_V4_URL", format!("{}/api/v4", scene.url));
    list.add("CI_API_GRAPHQL_URL", format!("{}/api/graphql", scene.url));
    list.add("CI_TEMPLATE_REGISTRY_HOST", "registry.gitlab.com");
}

fn add_pipeline(list: &mut List, job: &NewJob, payload: &Value, scene: &Scene<'_>) {
    let git = |name: &str| payload["git_info"][name].as_str().unwrap_or_default();
    let merge_request = job.merge_request();
    let created_at = calendar::format(scene.created_at);
    // A pipeline of a merge request is named after the source branch.
    let name = merge_request.map_or(git("ref"), |(_, branch)| branch);
    list.add_all([
        ("CI_PIPELINE_IID", "101"),
        ("CI_PIPELINE_SOURCE", job.source()),
        ("CI_PIPELINE_CREATED_AT", &created_at),
    ]);
    list.add("CI_PIPELINE_NAME", Value::Null);
    list.add_all([
        ("CI_COMMIT_SHA", git("sha")),
        ("CI_COMMIT_SHORT_SHA", git("sha").get(..8).unwrap_or(git("sha"))),
        ("CI_COMMIT_BEFORE_SHA", git("before_sha")),
        ("CI_COMMIT_REF_NAME", name),
        ("CI_COMMIT_REF_SLUG", &slug(name)),
    ]);
    let is_tag = git("ref_type") == "tag";
    if !is_tag && merge_request.is_none() {
        list.add("CI_COMMIT_BRANCH", name);
    }
    let protected = payload["git_info"]["protected"].as_bool() == Some(true);
    let commit = commit_of(job, git("sha"), &created_at);
    list.add_all([
        ("CI_COMMIT_MESSAGE", &commit.message),
        ("CI_COMMIT_TITLE", commit.title()),
        ("CI_COMMIT_DESCRIPTION", commit.description()),
        ("CI_COMMIT_REF_PROTECTED", if protected { "true" } else { "false" }),
        ("CI_COMMIT_TIMESTAMP", &commit.committed_at),
        ("CI_COMMIT_AUTHOR", &format!("{} <{}>", commit.author_name, commit.author_email)),
    ]);
    if is_tag {
        list.add("CI_COMMIT_TAG", name);
        list.add("CI_COMMIT_TAG_MESSAGE", commit.tag_message.as_str());
    }
    if let Some((iid, branch)) = merge_request {
        let (project, url) = (PROJECT.to_string(), format!("{}/{PROJECT_PATH}", scene.url));
        list.add_all([
            ("CI_MERGE_REQUEST_EVENT_TYPE", "detached"),
            // Only pipelines of merged results have them.
            ("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA", ""),
            ("CI_MERGE_REQUEST_TARGET_BRANCH_SHA", ""),
            ("CI_MERGE_REQUEST_DIFF_ID", &(8_000_000 + iid).to_string()),
            ("CI_MERGE_REQUEST_DIFF_BASE_SHA", git("before_sha")),
            ("CI_MERGE_REQUEST_ID", &(9_000_000 + iid).to_string()),
            ("CI_MERGE_REQUEST_IID", &iid.to_string()),
            ("CI_MERGE_REQUEST_REF_PATH", &format!("refs/merge-requests/{iid}/head")),
            ("CI_MERGE_REQUEST_PROJECT_ID", &project),
            ("CI_MERGE_REQUEST_PROJECT_PATH", PROJECT_PATH),
            ("CI_MERGE_REQUEST_PROJECT_URL", &url),
            ("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", scene.default_branch),
            ("CI_MERGE_REQUEST_TARGET_BRANCH_PROTECTED", "true"),
            ("CI_MERGE_REQUEST_TITLE", commit.title()),
            ("CI_MERGE_REQUEST_DESCRIPTION", commit.description()),
            ("CI_MERGE_REQUEST_DESCRIPTION_IS_TRUNCATED", "false"),
            ("CI_MERGE_REQUEST_SQUASH_ON_MERGE", "false"),
            ("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", &project),
            ("CI_MERGE_REQUEST_SOURCE_PROJECT_PATH", PROJECT_PATH),
            ("CI_MERGE_REQUEST_SOURCE_PROJECT_URL", &url),
            ("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", branch),
            ("CI_MERGE_REQUEST_SOURCE_BRANCH_PROTECTED", "false"),
        ]);
    }
}

/// The commit of a job. If it is not that of a repository, or the payload names another one, it is one that does not exist.
pub(super) fn commit_of(job: &NewJob, sha: &str, created_at: &str) -> Commit {
    if let Some(commit) = job.commit().filter(|commit| commit.sha == sha) {
        return commit.clone();
    }
    let [author_name, author_email] = AUTHOR.map(str::to_owned);
    let (sha, message, committed_at) = (sha.to_owned(), MESSAGE.to_owned(), created_at.to_owned());
    Commit { sha, message, author_name, author_email, committed_at, tag_message: String::new() }
}

/// Lower case, with hyphens in place of all other characters, so that it may be part of a domain name.
fn slug(text: &str) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let slug: String = text.chars().map(word).take(SLUG).collect();
    slug.trim_matches('-').to_owned()
}

/// As [`slug`], at most 24 characters long. It begins with a letter and has no two hyphens in a row. A name that is not its own slug gets
/// six characters of its SHA-256 at the end, so that different names have different slugs.
fn environment_slug(name: &str) -> String {
    const LONGEST: usize = 24;
    const BEFORE_DIGEST: usize = 17;
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let mut slug: String = name.to_lowercase().chars().map(word).collect();
    if !slug.starts_with(|c: char| c.is_ascii_alphabetic()) {
        slug.insert_str(0, "env-");
    }
    let mut last = ' ';
    slug.retain(|c| std::mem::replace(&mut last, c) != '-' || c != '-');
    if slug == name && slug.len() <= LONGEST {
        return slug.trim_end_matches('-').to_owned();
    }
    slug.truncate(BEFORE_DIGEST);
    if !slug.ends_with('-') {
        slug.push('-');
    }
    slug + &end_of_digest(name)
}

/// The last six digits of the SHA-256 of a text in base 36.
fn end_of_digest(text: &str) -> String {
    const DIGITS: u32 = 6;
    let digest = hmac_sha256::Hash::hash(text.as_bytes());
    let rest = digest.iter().fold(0, |rest: u64, byte| (rest * 256 + u64::from(*byte)) % 36_u64.pow(DIGITS));
    let digit = |place: u32| char::from_digit((rest / 36_u64.pow(place) % 36) as u32, 36).unwrap_or('0');
    (0..DIGITS).rev().map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::fixture::{Lab, body, work};
    use crate::coordinator::new_job::Environment;

    /// The names in the payload, without those of the pipeline's end.
    fn names(payload: &Value) -> Vec<String> {
        let list = payload["variables"].as_array().expect("a list");
        list.iter().map(|variable| variable["key"].as_str().expect("a name").to_owned()).collect()
    }

    fn value(payload: &Value, key: &str) -> Value {
        let list = payload["variables"].as_array().expect("a list");
        let found = list.iter().find(|variable| variable["key"] == key);
        found.map_or(Value::Null, |variable| variable["value"].clone())
    }

    #[test]
    fn a_job_knows_its_tags_and_its_earlier_attempts() {
        let mut lab = Lab::new(|_| {});
        let changes = json!({ "tag_list": ["linux", "gpu"] });
        lab.gitlab.change_runner(lab.runner, changes.as_object().expect("an object").clone());
        let mut id = lab.gitlab.queue(lab.now, NewJob::default().with_tag("linux").with_tag("gpu"));
        for retries in ["0", "1", "2"] {
            let payload = body(&lab.request_job(&work(&[])));
            assert_eq!(payload["id"], id);
            assert_eq!(value(&payload, "CI_JOB_TAGS"), r#"["gpu","linux"]"#);
            assert_eq!(value(&payload, "CI_JOB_RETRY_COUNT"), retries);
            assert_eq!(lab.gitlab.retry(lab.now, id), None, "it runs");
            lab.put(id, json!({ "state": "failed" }));
            id = lab.gitlab.retry(lab.now, id).expect("it has ended");
        }
    }

    fn payload(job: NewJob) -> Value {
        let mut lab = Lab::new(|_| {});
        lab.gitlab.queue(lab.now, job);
        body(&lab.request_job(&work(&["refspecs"])))
    }

    #[test]
    fn every_job_has_all_variables_in_gitlabs_order() {
        let payload = payload(NewJob::default().with_variable("MINE", "1").with_variable("CI_NODE_TOTAL", "7"));
        let expected = "CI_PIPELINE_ID CI_PIPELINE_URL CI_JOB_ID CI_JOB_URL CI_JOB_TOKEN CI_JOB_STARTED_AT CI_REGISTRY_USER \
            CI_REGISTRY_PASSWORD CI_REPOSITORY_URL CI_DEPENDENCY_PROXY_USER CI_DEPENDENCY_PROXY_PASSWORD CI_JOB_NAME \
            CI_JOB_NAME_SLUG CI_JOB_STAGE CI_JOB_TAGS CI_JOB_RETRY_COUNT CI GITLAB_CI CI_SERVER_FQDN CI_SERVER_URL CI_SERVER_HOST CI_SERVER_PORT \
            CI_SERVER_PROTOCOL CI_SERVER_SHELL_SSH_HOST CI_SERVER_SHELL_SSH_PORT CI_SERVER_NAME CI_SERVER_VERSION \
            CI_SERVER_VERSION_MAJOR CI_SERVER_VERSION_MINOR CI_SERVER_VERSION_PATCH CI_SERVER_REVISION GITLAB_FEATURES \
            CI_PROJECT_ID CI_PROJECT_NAME CI_PROJECT_TITLE CI_PROJECT_DESCRIPTION CI_PROJECT_PATH CI_PROJECT_PATH_SLUG \
            CI_PROJECT_NAMESPACE CI_PROJECT_NAMESPACE_ID CI_PROJECT_ROOT_NAMESPACE CI_PROJECT_URL CI_PROJECT_VISIBILITY \
            CI_PROJECT_REPOSITORY_LANGUAGES CI_PROJECT_CLASSIFICATION_LABEL CI_DEFAULT_BRANCH CI_CONFIG_PATH \
            CI_PAGES_DOMAIN CI_DEPENDENCY_PROXY_SERVER CI_DEPENDENCY_PROXY_GROUP_IMAGE_PREFIX \
            CI_DEPENDENCY_PROXY_DIRECT_GROUP_IMAGE_PREFIX CI_REGISTRY CI_REGISTRY_IMAGE CI_API_V4_URL CI_API_GRAPHQL_URL \
            CI_TEMPLATE_REGISTRY_HOST CI_PIPELINE_IID CI_PIPELINE_SOURCE CI_PIPELINE_CREATED_AT CI_PIPELINE_NAME \
            CI_COMMIT_SHA CI_COMMIT_SHORT_SHA CI_COMMIT_BEFORE_SHA CI_COMMIT_REF_NAME CI_COMMIT_REF_SLUG CI_COMMIT_BRANCH \
            CI_COMMIT_MESSAGE CI_COMMIT_TITLE CI_COMMIT_DESCRIPTION CI_COMMIT_REF_PROTECTED CI_COMMIT_TIMESTAMP \
            CI_COMMIT_AUTHOR CI_RUNNER_ID CI_RUNNER_DESCRIPTION CI_RUNNER_TAGS GITLAB_USER_ID GITLAB_USER_EMAIL \
            GITLAB_USER_LOGIN GITLAB_USER_NAME MINE CI_NODE_TOTAL CI_PAGES_HOSTNAME CI_PAGES_URL";
        assert_eq!(names(&payload).join(" "), expected.split_whitespace().collect::<Vec<_>>().join(" "));
        assert_eq!(value(&payload, "CI_NODE_TOTAL"), "7", "the last value counts");
        assert_eq!(value(&payload, "CI_JOB_STARTED_AT"), "2023-11-14T22:14:00.000Z");
        for (key, public, masked) in [
            ("CI_JOB_TOKEN", false, true),
            ("CI_REGISTRY_PASSWORD", false, true),
            ("CI_REPOSITORY_URL", false, false),
            ("CI_DEPENDENCY_PROXY_PASSWORD", false, true),
            ("CI_JOB_NAME", true, false),
        ] {
            let list = payload["variables"].as_array().expect("a list");
            let found = list.iter().find(|variable| variable["key"] == key).expect("it is there");
            assert_eq!((&found["public"], &found["masked"]), (&json!(public), &json!(masked)), "{key}");
        }
    }

    #[test]
    fn an_environment_with_an_unusual_name_has_a_slug_of_its_own() {
        for (name, slug) in [
            ("production", "production"),
            ("PRODUCTION", "production-vl4voz"),
            ("foo-", "foo"),
            ("foo--bar", "foo-bar-q006cp"),
            ("1-foo", "env-1-foo-1k46wz"),
            ("*-foo", "env-foo-i1o6om"),
            ("gr\u{f6}\u{df}e", "gr-e-f0k8ec"),
            ("staging-1234567890123456", "staging-1234567890123456"),
            ("staging-12345678901234567", "staging-123456789-s729ne"),
        ] {
            assert_eq!(environment_slug(name), slug, "{name}");
        }
    }

    #[test]
    fn what_a_job_sets_shows_in_its_variables() {
        let job = NewJob::new("Unit tests: 1/2").with_stage("verify").with_git_tag("v1.0");
        let tag = payload(job.with_registry(false));
        for (key, expected) in [
            ("CI_JOB_NAME", json!("Unit tests: 1/2")),
            ("CI_JOB_NAME_SLUG", json!("unit-tests--1-2")),
            ("CI_JOB_STAGE", json!("verify")),
            ("CI_COMMIT_TAG", json!("v1.0")),
            ("CI_COMMIT_TAG_MESSAGE", json!("")),
            ("CI_COMMIT_REF_SLUG", json!("v1-0")),
            ("CI_COMMIT_BRANCH", Value::Null),
            ("CI_REGISTRY", Value::Null),
        ] {
            assert_eq!(value(&tag, key), expected, "{key}");
        }
        let merge_request = payload(NewJob::default().with_merge_request(5, "topic"));
        assert_eq!(merge_request["git_info"]["ref"], "refs/merge-requests/5/head");
        for (key, expected) in [
            ("CI_COMMIT_REF_NAME", json!("topic")),
            ("CI_COMMIT_BRANCH", Value::Null),
            ("CI_PIPELINE_SOURCE", json!("merge_request_event")),
            ("CI_MERGE_REQUEST_IID", json!("5")),
        ] {
            assert_eq!(value(&merge_request, key), expected, "{key}");
        }
        let of_merge_request = |name: &String| name.starts_with("CI_MERGE_REQUEST_");
        let names: Vec<String> = names(&merge_request).into_iter().filter(of_merge_request).collect();
        let expected = "EVENT_TYPE SOURCE_BRANCH_SHA TARGET_BRANCH_SHA DIFF_ID DIFF_BASE_SHA ID IID REF_PATH PROJECT_ID \
            PROJECT_PATH PROJECT_URL TARGET_BRANCH_NAME TARGET_BRANCH_PROTECTED TITLE DESCRIPTION DESCRIPTION_IS_TRUNCATED \
            SQUASH_ON_MERGE SOURCE_PROJECT_ID SOURCE_PROJECT_PATH SOURCE_PROJECT_URL SOURCE_BRANCH_NAME \
            SOURCE_BRANCH_PROTECTED";
        let expected: Vec<String> = expected
            .split(' ')
            .filter(|name| !name.is_empty())
            .map(|name| format!("CI_MERGE_REQUEST_{name}"))
            .collect();
        assert_eq!(names, expected);
        let git_info = json!({ "ref": "other", "sha": "0123456789", "ref_type": "branch", "protected": false });
        let own = payload(NewJob::default().with_member("git_info", git_info));
        assert_eq!(value(&own, "CI_COMMIT_SHORT_SHA"), "01234567");
        assert_eq!(
            (value(&own, "CI_COMMIT_BRANCH"), value(&own, "CI_COMMIT_REF_PROTECTED")),
            (json!("other"), json!("false"))
        );
        let environment = Environment::new("review/Topic").with(|it| it.url = Some("https://topic.test".to_owned()));
        let deployed = payload(NewJob::new("deploy").with_environment(environment));
        for (key, expected) in [
            ("CI_ENVIRONMENT_NAME", "review/Topic"),
            ("CI_ENVIRONMENT_ACTION", "start"),
            ("CI_ENVIRONMENT_TIER", "development"),
            ("CI_ENVIRONMENT_URL", "https://topic.test"),
            ("CI_ENVIRONMENT_SLUG", "review-topic-wkrfw8"),
        ] {
            assert_eq!(value(&deployed, key), expected, "{key}");
        }
        let triggered = payload(NewJob::default().with_trigger_variable("WHY", "because"));
        assert_eq!(
            (value(&triggered, "CI_PIPELINE_TRIGGERED"), value(&triggered, "WHY")),
            (json!("true"), json!("because"))
        );
    }
}
