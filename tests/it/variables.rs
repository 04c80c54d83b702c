//! A job's variables: the order they come in, files, masks, and the shell.

use std::sync::Arc;

use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::api::job_spec::Variable;
use gitlab_runner_api::variables::{Place, Variables, export, quote};
use gitlab_runner_api::{Assignment, Job, JobEvent, RunnerToken, Secret};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::common::{Hand, START, config};

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
fn a_project_is_where_its_job_or_its_repository_says() {
    let folder = |members: Value, place: &Place| {
        let mut payload = json!({ "id": 1, "token": "t" });
        payload.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        let assignment = Assignment::from_json(payload.to_string()).unwrap();
        let variables = Variables::new(assignment.spec(), place);
        assert_eq!(variables.value("RUNNER_TEMP_PROJECT_DIR").as_deref(), Some(variables.temp_project_dir()));
        variables.value("CI_PROJECT_DIR").unwrap()
    };
    let repository = |url: &str| json!({ "git_info": { "repo_url": url } });
    let clone =
        |path: &str| json!({ "variables": [{ "key": "GIT_CLONE_PATH", "value": path }, { "key": "N", "value": "n" }] });
    let place = Place::new("/work/");
    let rows = [
        (repository("https://gitlab-ci-token:t@h.test/group/sub/project.git"), "/work/group/sub/project"),
        (repository("https://h.test/"), "/work/project"),
        (repository("no address"), "/work/project"),
        (clone("$CI_BUILDS_DIR/$N/src"), "/work/n/src"),
        (clone("/work/../../etc"), "/work/etc"),
        (clone("/elsewhere"), "/work/project"),
        (clone("/workshop/x"), "/work/project"),
        (clone("/work/"), "/work/project"),
        (clone("src"), "/work/project"),
    ];
    for (members, expected) in rows {
        assert_eq!(folder(members.clone(), &place), expected, "{members}");
    }
    assert_eq!(folder(clone("/work/a"), &place.clone().with_project_dir("/p")), "/p", "the executor knows better");
}

/// Variables of which each refers many times to a long one.
fn bomb(count: usize, length: usize, references: usize) -> Vec<Value> {
    let mut list = vec![json!({ "key": "B", "value": "b".repeat(length), "raw": true })];
    list.extend((0..count).map(|at| json!({ "key": format!("V{at}"), "value": "$B".repeat(references) })));
    list
}

#[test]
fn expansion_is_bounded_wherever_a_job_can_write() {
    let references = "$B".repeat(1100);
    let mut list = bomb(1, 1024, 1100);
    list.push(json!({ "key": "FF_MASK_ALL_DEFAULT_TOKENS", "value": references }));
    list.push(json!({ "key": "SMALL", "value": "<$N>" }));
    list.push(json!({ "key": "N", "value": "n" }));
    list.push(json!({ "key": "not a\nname", "value": references }));
    let payload = json!({
        "id": 1, "token": "t", "variables": list, "image": { "name": references },
        "services": [{ "name": "s", "alias": references, "variables": [{ "key": "X", "value": references }] }, { "name": references }],
        "artifacts": [{ "name": references, "paths": ["a/$N", references], "exclude": [references] }],
        "cache": [{ "key": format!("$V0$N{references}"), "paths": [references], "fallback_keys": ["x", references] }],
    });
    let assignment = Assignment::from_json(payload.to_string()).unwrap();
    let variables = Variables::new(assignment.spec(), &Place::default());
    // Texts that are alike are told of once.
    let names = ["CI_JOB_IMAGE", "V0", "FF_MASK_ALL_DEFAULT_TOKENS", "*", "image.name", "cache[0].key"];
    assert_eq!(variables.unexpanded(), names);
    assert_eq!(variables.value("V0").unwrap(), references);
    assert_eq!(variables.expand(&references), references);
    assert_eq!(variables.value("SMALL").as_deref(), Some("<n>"));
    assert_eq!(variables.expand("a/$N"), "a/n");

    // Below the bound for one value, the bound for all of a job counts.
    let assignment = Assignment::from_json(
        json!({ "id": 1, "token": "t", "variables": bomb(12, 1024, 1000), "image": { "name": "$V11" } }).to_string(),
    );
    let mut variables = Variables::new(assignment.unwrap().spec(), &Place::default());
    assert_eq!(variables.unexpanded(), ["V8", "V9", "V10", "V11"]);
    let all: usize = variables.environment().iter().map(|(_, value)| value.expose().len()).sum();
    assert!(all < (8 << 20) + 16384, "{all}");
    variables.push(Variable::new("B", "short"));
    assert!(variables.unexpanded().is_empty(), "what is pushed counts too");
    assert_eq!(variables.value("V9").unwrap().len(), 5000);
}

#[test]
fn a_job_names_what_it_does_not_expand_and_goes_on() {
    let payload = json!({ "id": 7, "token": "t", "variables": bomb(10, 4096, 300) });
    let assignment = Assignment::from_json(payload.to_string()).unwrap();
    let mut job = Hand::new(Job::new(Arc::new(config()), &assignment, START));
    job.sends("running");
    let names: Vec<String> = (0..10).map(|at| format!("V{at}")).collect();
    assert_eq!(job.events, [JobEvent::Unexpanded(names)]);
    job.answer(200, &[], "");
    let log = String::from_utf8(job.call().request.body().to_vec()).unwrap();
    assert!(log.contains("stay as they are written: V0, V1, V2, V3, V4, V5, V6, V7 and 2 more."), "{log}");
    assert!(!job.machine.is_ended());
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
