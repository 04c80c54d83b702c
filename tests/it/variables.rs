//! A job's variables: the order they come in, files, masks, and the shell.

use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::api::job_spec::Variable;
use gitlab_runner_api::variables::{Place, Variables, export, quote};
use gitlab_runner_api::{Assignment, RunnerToken, Secret};
use proptest::prelude::*;
use serde_json::{Value, json};

fn variables(list: Value, place: &Place) -> Variables {
    let payload = json!({
        "id": 1, "token": "t", "variables": list, "image": { "name": "alpine:$TAG" },
        "job_info": { "project_full_path": "group/project" }, "runner_info": { "timeout": 600 },
    });
    Variables::new(Assignment::from_json(payload.to_string()).unwrap().spec(), place)
}

#[test]
fn a_runner_adds_its_own_and_the_job_may_override_some() {
    let place = Place::new("/work/")
        .with_concurrent(3, 1)
        .with_token(&RunnerToken::new("glrt-abcdefghijklmnop").unwrap())
        .with_info(&Info::new("ours", "1.2").with_revision("abc").with_platform("linux", "arm64"))
        .with_variable(Variable::new("SITE", "hpc"))
        .with_tls_ca_chain("PEM");
    let list = json!([
        { "key": "CI_BUILDS_DIR", "value": "/mine" }, { "key": "SITE", "value": "job's" }, { "key": "TAG", "value": "3" },
        { "key": "CI_RUNNER_VERSION", "value": "forged" }, { "key": "CI_DISPOSABLE_ENVIRONMENT", "value": "forged" },
    ]);
    let mut variables = variables(list, &place);
    for (key, value) in [
        ("CI_JOB_IMAGE", "alpine:3"),
        ("CI_RUNNER_SHORT_TOKEN", "abcdefghi"),
        ("CI_BUILDS_DIR", "/mine"),
        ("CI_PROJECT_DIR", "/work/group/project"),
        ("CI_CONCURRENT_ID", "3"),
        ("CI_CONCURRENT_PROJECT_ID", "1"),
        ("CI_SERVER", "yes"),
        ("CI_JOB_STATUS", "running"),
        ("CI_JOB_TIMEOUT", "600"),
        ("SITE", "job's"),
        ("CI_DISPOSABLE_ENVIRONMENT", "true"),
        ("CI_RUNNER_VERSION", "1.2"),
        ("CI_RUNNER_REVISION", "abc"),
        ("CI_RUNNER_EXECUTABLE_ARCH", "linux/arm64"),
        ("RUNNER_TEMP_PROJECT_DIR", "/work/group/project.tmp"),
        ("CI_SERVER_TLS_CA_FILE", "/work/group/project.tmp/CI_SERVER_TLS_CA_FILE"),
    ] {
        assert_eq!(variables.value(key).as_deref(), Some(value), "{key}");
    }
    assert!(variables.value("CI_SHARED_ENVIRONMENT").is_none() && variables.is_true("CI_DISPOSABLE_ENVIRONMENT"));
    variables.push(Variable::new("CI_JOB_STATUS", "failed"));
    assert_eq!(variables.expand("$CI_JOB_STATUS of ${CI_PROJECT_DIR}"), "failed of /work/group/project");
    let shared = self::variables(
        json!([]),
        &Place::default().with_shared(true).with_project_dir("/p").with_temp_project_dir("/t"),
    );
    assert_eq!((shared.value("CI_PROJECT_DIR").as_deref(), shared.temp_project_dir()), (Some("/p"), "/t"));
    assert!(shared.is_true("CI_SHARED_ENVIRONMENT"));
}

#[test]
fn values_are_expanded_once() {
    let list = json!([
        { "key": "A", "value": "a-$B" }, { "key": "B", "value": "b-$C" }, { "key": "C", "value": "c" },
        { "key": "SELF", "value": "x$SELF" }, { "key": "RAW", "value": "$A", "raw": true },
        { "key": "USES_RAW", "value": "<$RAW>" }, { "key": "F", "value": "in $C", "file": true },
        { "key": "USES_F", "value": "cat $F" }, { "key": "TWICE", "value": "1" }, { "key": "TWICE", "value": "2" },
        { "key": "USES_TWICE", "value": "$TWICE" },
    ]);
    let variables = variables(list, &Place::default());
    let path = "/builds/group/project.tmp/F";
    for (key, value) in [
        ("A", "a-b-$C"),
        ("B", "b-c"),
        ("SELF", "xx$SELF"),
        ("RAW", "$A"),
        ("USES_RAW", "<$A>"),
        ("F", path),
        ("USES_F", "cat /builds/group/project.tmp/F"),
        ("USES_TWICE", "2"),
    ] {
        assert_eq!(variables.value(key).as_deref(), Some(value), "{key}");
    }
    let files = variables.files();
    assert_eq!((files.len(), files[0].0.as_str(), files[0].1.expose()), (1, path, "in c"));
    let environment = variables.environment();
    assert_eq!(environment.iter().filter(|(key, _)| key == "TWICE").count(), 1);
    assert!(environment.iter().any(|(key, value)| key == "F" && value.expose() == path));
}

#[test]
fn what_no_process_or_folder_can_hold_is_left_out() {
    let list = json!([
        { "key": "", "value": "x" }, { "key": "A=B", "value": "x" }, { "key": "NUL", "value": "a\u{0}b" },
        { "key": "../../etc/passwd", "value": "x", "file": true }, { "key": "..", "value": "x", "file": true },
    ]);
    let variables = variables(list, &Place::default());
    let environment = variables.environment();
    assert!(!environment.iter().any(|(key, _)| ["", "A=B", "NUL"].contains(&key.as_str())));
    assert!(variables.files().is_empty());
}

#[test]
fn a_project_path_does_not_lead_out_of_the_folder() {
    let payload =
        json!({ "id": 1, "token": "t", "variables": [{ "key": "CI_PROJECT_PATH", "value": "/../../etc/./x" }] });
    let assignment = Assignment::from_json(payload.to_string()).unwrap();
    let variables = Variables::new(assignment.spec(), &Place::default());
    assert_eq!(
        (variables.value("CI_PROJECT_DIR").as_deref(), variables.temp_project_dir()),
        (Some("/builds/etc/x"), "/builds/etc/x.tmp")
    );
}

#[test]
fn masked_values_are_expanded_trimmed_and_told_once() {
    let list = json!([
        { "key": "A", "value": " canary-$B \n", "masked": true }, { "key": "B", "value": "b" },
        { "key": "C", "value": "canary-b", "masked": true }, { "key": "D", "value": " ", "masked": true },
        { "key": "A", "value": "canary-2", "masked": true }, { "key": "E", "value": "canary-3", "masked": true, "file": true },
    ]);
    let mut variables = variables(list, &Place::default());
    variables.push(Variable::secret("VAULT", "canary-4$B", true));
    let masked: Vec<_> = variables.masked();
    let masked: Vec<&str> = masked.iter().map(Secret::expose).collect();
    assert_eq!(masked, ["canary-2", "canary-3", "canary-4$B", "canary-b"]);
    assert!(!format!("{variables:?}").contains("canary"));
}

#[test]
fn yes_has_many_spellings() {
    for (value, yes) in [
        ("true", true),
        ("T", true),
        ("1", true),
        ("+1", true),
        ("01", true),
        ("yes", false),
        ("on", false),
        ("", false),
        ("0", false),
    ] {
        let variables = variables(json!([{ "key": "FLAG", "value": value }]), &Place::default());
        assert_eq!(variables.is_true("FLAG"), yes, "{value}");
    }
}

#[test]
fn names_that_a_shell_does_not_take_are_not_exported() {
    assert_eq!(export("A_1", "it's").as_deref(), Some("export A_1='it'\\''s'\n"));
    for name in ["", "1A", "A-B", "A B", "A;B", "\u{e9}", "A\n"] {
        assert_eq!(export(name, "x"), None, "{name:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// A real shell reads each quoted word as the text that was quoted.
    #[test]
    #[cfg(unix)]
    fn a_shell_reads_back_what_was_quoted(texts in proptest::collection::vec("\\PC{0,8}|[ -~\n\t']{0,20}", 1..8)) {
        let words: Vec<String> = texts.iter().map(|text| quote(text)).collect();
        let script = format!("printf '%s\\0' {}", words.join(" "));
        let output = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
        let wanted: Vec<u8> = texts.iter().flat_map(|text| [text.as_bytes(), b"\0"].concat()).collect();
        prop_assert_eq!(output.stdout, wanted);
    }
}

proptest! {
    #[test]
    fn any_text_is_expanded_to_something(text in "[$A{}_\\- é0?]{0,40}", value in "[$A{}x]{0,10}") {
        let variables = variables(json!([{ "key": "A", "value": value }]), &Place::default());
        let expanded = variables.expand(&text);
        if !text.contains('$') {
            prop_assert_eq!(expanded, text);
        }
    }
}
