//! Sample payloads of all ages and editions: decoded, cut off anywhere, and with any member gone.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use gitlab_runner_api::api::info::Features;
use gitlab_runner_api::api::job_spec::{ArtifactFormat, CachePolicy, InputType, LossKind, SecretProvider};
use gitlab_runner_api::variables::{Place, Variables};
use gitlab_runner_api::{
    Assignment, Job, JobEvent, JobRecord, JobResult, JobSnapshot, Poller, PollerEvent, RunnerConfig, RunnerToken,
    Secret,
};
use gitlab_runner_api_testkit::fuzz::payload::{FORM_COUNT, Payload};
use serde_json::Value;

use crate::common::{Hand, START, TOKEN, config};

fn samples() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/payloads");
    let mut found: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap()))
        .collect();
    found.sort();
    assert_eq!(found.len(), 22);
    found
}

fn sample(number: &str) -> Assignment {
    let (_, json) = samples().into_iter().find(|(name, _)| name.starts_with(number)).unwrap();
    Assignment::from_json(json).unwrap()
}

/// Everything that can be asked of a payload.
fn look_at(assignment: &Assignment) {
    let spec = assignment.spec();
    let variables = Variables::new(spec, &Place::default());
    _ = (variables.environment(), variables.files(), variables.masked(), variables.expand("$CI ${CI_JOB_ID}"));
    _ = (spec.registry_credential("registry.example.test/a"), spec.run_steps(), spec.tags(), spec.timeout());
    _ = (spec.script_timeout(), spec.after_script_timeout(), format!("{assignment:?}"));
    _ = spec.services.iter().map(|service| service.aliases().count()).sum::<usize>();
}

#[test]
fn every_sample_is_read_and_survives_a_round_trip() {
    for (name, json) in samples() {
        let assignment = Assignment::from_json(json.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(assignment.as_json(), &json, "{name}: the payload is kept as it came, unknown members and all");
        let again = Assignment::from_json(assignment.as_json().clone()).unwrap();
        assert_eq!(format!("{again:?}"), format!("{assignment:?}"), "{name}");
        look_at(&assignment);
    }
}

#[test]
fn every_prefix_is_read_or_refused_with_a_reason() {
    for (name, json) in samples() {
        let end = json.trim_end().len();
        // Each prefix of one sample, and every 13th of the others: they are many.
        let step = if name.starts_with("02") { 1 } else { 13 };
        for length in (0..end).step_by(step).filter(|length| json.is_char_boundary(*length)) {
            let error = Assignment::from_json(json[..length].to_owned()).expect_err(&name).to_string();
            assert!(error.contains("line") && error.contains("column"), "{name} {length}: {error}");
        }
        for length in (0..end).step_by(7).filter(|length| json.is_char_boundary(*length)) {
            if let Some(salvaged) = Assignment::salvage(json[..length].to_owned()) {
                assert_eq!(salvaged.id(), Assignment::from_json(json.clone()).unwrap().id());
            }
        }
    }
}

/// Each form in each place of the first payload that has a place of this shape, and one form in all other places.
#[test]
fn every_form_in_every_place_is_decoded_and_everything_else_stays() {
    let mut seen = BTreeSet::new();
    let mut problems = Vec::new();
    let mut checks = 0_usize;
    for (name, json) in samples() {
        let payload = Payload::new(&json).unwrap_or_else(|| panic!("{name} is plain JSON"));
        for (number, place) in payload.places().into_iter().enumerate() {
            let new = seen.insert(place.shape().to_owned());
            // Each form in place of what was there, and some of them beside it.
            let all = (0..FORM_COUNT / 3).chain((FORM_COUNT / 3 + number % 7..FORM_COUNT).step_by(7));
            let one = (number % FORM_COUNT..).take(1);
            for form in all.filter(|_| new).chain(one.filter(|_| !new)) {
                problems.extend(payload.check(&place, form).err().map(|problem| format!("{name}: {problem}")));
                checks += 1;
            }
        }
    }
    assert!(problems.is_empty(), "{} of {checks}: {:#?}", problems.len(), &problems[..problems.len().min(20)]);
    println!("{checks} payloads, {} shapes of places", seen.len());
    assert!(seen.len() > 200, "{} shapes", seen.len());
}

/// All forms in all places. Takes minutes without optimisation.
#[test]
#[ignore = "slow; run with --release -- --ignored"]
fn every_form_in_really_every_place() {
    let mut checks = 0_usize;
    for (name, json) in samples() {
        let payload = Payload::new(&json).unwrap_or_else(|| panic!("{name} is plain JSON"));
        for place in payload.places() {
            for form in 0..FORM_COUNT {
                payload.check(&place, form).unwrap_or_else(|problem| panic!("{name}: {problem}"));
                checks += 1;
            }
        }
    }
    println!("{checks} payloads");
}

#[test]
fn what_is_wrong_with_a_payload_is_named_by_its_path() {
    type Row<'a> = (&'a str, &'a [(&'a str, LossKind)], bool);
    let deep =
        format!(r#""image":{{"name":"a","executor_opts":{{"docker":{}1{}}}}}"#, "[".repeat(200), "]".repeat(200));
    let rows: [Row<'_>; 22] = [
        (r#""cache":[null]"#, &[], false),
        (r#""steps":[null],"variables":[null],"services":[null]"#, &[], false),
        (r#""job_info":{"time_in_queue_seconds":-1}"#, &[], false),
        (r#""job_info":{"time_in_queue_seconds":12.5}"#, &[], false),
        (r#""job_info":{"queue_size":-1}"#, &[("job_info.queue_size", LossKind::InvalidValue)], false),
        (r#""git_info":{"depth":-1}"#, &[], false),
        (r#""git_info":{"depth":1.5}"#, &[("git_info.depth", LossKind::InvalidValue)], false),
        (r#""runner_info":{"timeout":-1}"#, &[("runner_info.timeout", LossKind::InvalidValue)], false),
        (r#""runner_info":{"timeout":1e400}"#, &[("runner_info.timeout", LossKind::InvalidValue)], false),
        (r#""dependencies":[{"id":1,"token":7}]"#, &[("dependencies[0].token", LossKind::WrongType)], false),
        (r#""dependencies":[{"id":1,"token":" "}]"#, &[("dependencies[0].token", LossKind::InvalidValue)], false),
        (r#""steps":"canary""#, &[("steps", LossKind::WrongType)], true),
        (r#""steps":[{"name":"script","script":["a",7]}]"#, &[("steps[0].script[1]", LossKind::WrongType)], true),
        (r#""variables":[{"key":"A","masked":"canary"}]"#, &[("variables[0].masked", LossKind::WrongType)], true),
        (r#""variables":[{"key":"A","value":"\ud800"}]"#, &[("variables[0].value", LossKind::Replaced)], false),
        (r#""run":[]"#, &[("run", LossKind::WrongType)], true),
        (
            r#""services":[7,null,{"name":[]}]"#,
            &[("services[0]", LossKind::WrongType), ("services[2].name", LossKind::WrongType)],
            true,
        ),
        (&deep, &[("image.executor_opts.docker", LossKind::TooDeep)], true),
        (r#""secrets":{"A":{"file":"canary"}}"#, &[("secrets.A.file", LossKind::WrongType)], false),
        (r#""secrets":{"a b\n":7}"#, &[("secrets.*", LossKind::WrongType)], false),
        (r#""moon\ud800":"\ud800","moon":1e400,"moon":[]"#, &[], false),
        (r#""steps":7,"steps":[]"#, &[], false),
    ];
    for (members, losses, damaged) in rows {
        let json = format!(r#"{{"id":5,"token":"t",{members}}}"#);
        let assignment = Assignment::from_json(json.clone()).unwrap_or_else(|error| panic!("{json}: {error}"));
        let found: Vec<_> = assignment.losses().iter().map(|loss| (loss.path.as_str(), loss.kind)).collect();
        assert_eq!((&found[..], assignment.is_damaged()), (losses, damaged), "{json}");
        assert_eq!(assignment.as_json(), &json);
        let shown: Vec<_> = assignment.losses().iter().map(ToString::to_string).collect();
        assert!(!shown.concat().contains("canary"), "{shown:?}");
    }
    let json =
        r#"{"id":5,"token":"t","variables":[{"key":"A","value":"x","masked":7}],"inputs":[{"value":{"sensitive":0}}]}"#;
    let careful = Assignment::from_json(json).unwrap();
    assert!(careful.spec().variables[0].masked && careful.spec().inputs[0].value.sensitive);
    let many = format!(r#"{{"id":5,"token":"t","steps":[{}7]}}"#, "7,".repeat(5000));
    assert_eq!(Assignment::from_json(many).unwrap().losses().len(), 100, "they are counted, not all listed");
}

/// What a poller makes of an answer with this payload.
fn polled(body: &str, config: RunnerConfig) -> PollerEvent {
    let mut poller = Hand::new(Poller::new(Arc::new(config), RunnerToken::new(TOKEN).unwrap(), START));
    poller.machine.set_capacity(1);
    poller.call();
    poller.answer(201, &[], body);
    poller.machine.set_capacity(0);
    poller.poll();
    poller.events.pop().expect("an event")
}

#[test]
fn only_an_id_a_token_and_a_document_make_a_job_unreadable() {
    let forms = [
        "null",
        "true",
        "-1",
        "1.5",
        "1e400",
        "123456789012345678901234567890",
        r#""\ud800\u0000""#,
        r#""""#,
        "[]",
        "{}",
        "[null]",
    ];
    for (name, json) in samples() {
        let whole: Value = serde_json::from_str(&json).unwrap();
        for member in ["id", "token"] {
            for form in forms {
                let mut changed = whole.clone();
                changed[member] = "PLACE".into();
                let text = changed.to_string().replace(r#""PLACE""#, form);
                for text in [text.clone(), text[..text.len() - 1].to_owned()] {
                    let error = Assignment::from_json(text.clone()).expect_err(&name).to_string();
                    assert!(!error.contains(form) || form.len() < 5, "{name}: {error}");
                    let event = polled(&text, config());
                    assert!(
                        matches!(event, PollerEvent::AssignmentUncertain { .. }),
                        "{name} {member} {form}: {event:?}"
                    );
                }
            }
            // The last of several counts.
            let good = whole[member].to_string();
            let twice =
                json.trim_end().trim_end_matches('}').to_owned() + &format!(r#","{member}":7.5,"{member}":{good}}}"#);
            assert_eq!(Assignment::from_json(twice).unwrap().id(), whole["id"].as_u64().unwrap());
        }
        // What is no document any more: both are found if they come first, and the job is failed.
        let start = format!(r#"{{"id":{},"moon\ud800":1e400,"token":{},"#, whole["id"], whole["token"]);
        for rest in ["", r#""steps":[{"na"#, "]", "NaN}", r#""a":"\x"}"#, "\u{1}"] {
            let event = polled(&(start.clone() + rest), config());
            let PollerEvent::Assigned(assignment) = event else { panic!("{name} {rest}: {event:?}") };
            // It is refused also if it is stored and read again before it is driven.
            let stored = Assignment::from_text(assignment.to_text()).unwrap();
            let job = Job::new(Arc::new(config()), &stored, START);
            assert!(assignment.is_damaged() && job.is_ended(), "{name} {rest}");
        }
    }
    for body in ["", "null", "[]", "7", "<html>", r#""text""#] {
        assert!(matches!(polled(body, config()), PollerEvent::AssignmentUncertain { .. }), "{body}");
    }
}

#[test]
fn a_damaged_job_is_failed_unless_the_application_takes_it() {
    let body = r#"{"id":7,"token":"glcbt-7","steps":[{"name":"script","script":["make",{"canary":1}]}],"cache":7}"#;
    let PollerEvent::Assigned(assignment) = polled(body, config()) else { panic!("it is lost") };
    let job = Job::new(Arc::new(config()), &assignment, START);
    assert!(job.is_ended() && config().refuses(&assignment));
    let mut job = Hand::new(job);
    assert_eq!(job.call().name(), "running");
    job.answer(200, &[], "");
    let log = String::from_utf8(job.call().request.body().to_vec()).unwrap();
    let line = "could not read all of this job: steps[0].script[1] has the wrong type; cache has the wrong type.";
    assert!(log.contains(line) && log.contains("does not run this job") && !log.contains("canary"), "{log}");
    assert!(matches!(&job.events[0], JobEvent::PayloadDamaged(losses) if losses.len() == 2), "{:?}", job.events);
    assert!(!job.events.contains(&JobEvent::Accepted), "{:?}", job.events);

    let accepting = config().with_damaged_payloads(true);
    assert_eq!((assignment.spec().script(), assignment.is_damaged()), (&["make".to_owned()][..], true));
    let mut job = Hand::new(Job::new(Arc::new(accepting), &assignment, START));
    job.sends("running");
    assert!(matches!(job.events[..], [JobEvent::PayloadDamaged(_)]), "before it starts: {:?}", job.events);
    let snapshot = job.machine.snapshot();
    let mut again = Hand::new(Job::resume(Arc::new(config()), &assignment, snapshot, START).unwrap());
    let written = again.machine.log_size();
    again.poll();
    assert!(matches!(again.events[..], [JobEvent::PayloadDamaged(_)]) && written == job.machine.log_size());
    // Also if the job was accepted before the resume, and that was not told.
    job.answer(200, &[], "");
    let snapshot = job.machine.snapshot();
    let mut again = Hand::new(Job::resume(Arc::new(config()), &assignment, snapshot, START).unwrap());
    again.poll();
    assert!(matches!(again.events[..], [JobEvent::PayloadDamaged(_), JobEvent::Accepted]), "{:?}", again.events);

    // What decides nothing of that kind is told in the log alone.
    let PollerEvent::Assigned(harmless) = polled(r#"{"id":7,"token":"t","cache":7}"#, config()) else {
        panic!("refused")
    };
    let mut job = Hand::new(Job::new(Arc::new(config()), &harmless, START));
    job.sends("running");
    assert!(job.events.is_empty() && job.machine.log_size() > 0);
    let PollerEvent::Assigned(fine) = polled(r#"{"id":7,"token":"t","cache":[null]}"#, config()) else {
        panic!("refused")
    };
    assert_eq!(Job::new(Arc::new(config()), &fine, START).log_size(), 0);
}

#[test]
fn a_record_keeps_the_bytes_that_came() {
    for body in [
        &b"{\"id\":7,\"token\":\"t\",\"x\":\"\xff\",\"x\":1e400}"[..],
        br#"{"id":7,"token":"t","a":"\ud800","steps":[null]}"#,
    ] {
        let assignment = Assignment::from_json(body.to_vec()).unwrap();
        let mut job = Job::new(Arc::new(config()), &assignment, START);
        job.write("hello\n");
        let record = JobRecord::from_json(&JobRecord::of(&mut job).unwrap().to_json()).unwrap();
        assert_eq!(record.assignment().as_json(), body);
        let again = Assignment::from_text(assignment.to_text()).unwrap();
        assert_eq!((again.as_json(), again.losses()), (assignment.as_json(), assignment.losses()));
    }
    assert!(Assignment::from_text("base64:?").is_err());
}

#[test]
fn everything_a_current_server_sends_is_found() {
    let full = sample("03");
    let spec = full.spec();
    let json: Value = serde_json::from_slice(full.as_json()).unwrap();
    assert_eq!(spec.image.as_ref().unwrap().name, json["image"]["name"].as_str().unwrap());
    assert_eq!(spec.services.len(), json["services"].as_array().unwrap().len());
    assert_eq!(spec.artifacts.len(), json["artifacts"].as_array().unwrap().len());
    assert_eq!(spec.credentials.len(), json["credentials"].as_array().unwrap().len());
    let password = spec.credentials[0].password.as_ref().map(Secret::expose);
    assert_eq!(password, json["credentials"][0]["password"].as_str());
    assert_eq!(
        spec.dependencies[0].artifacts_file.as_ref().map(|file| file.size),
        json["dependencies"][0]["artifacts_file"]["size"].as_u64()
    );
    assert_eq!(spec.secrets.len(), json["secrets"].as_object().unwrap().len());
    assert_eq!(spec.timeout().map(|span| span.as_secs()), json["runner_info"]["timeout"].as_u64());
    assert!(!spec.hooks.is_empty() && !spec.inputs.is_empty() && spec.policy_options.is_some());

    let formats: Vec<_> = sample("07").spec().artifacts.iter().filter_map(|one| one.artifact_format.clone()).collect();
    assert!([ArtifactFormat::Zip, ArtifactFormat::Gzip, ArtifactFormat::Raw].iter().all(|one| formats.contains(one)));
    let policies: Vec<_> = sample("08").spec().cache.iter().filter_map(|one| one.policy.clone()).collect();
    assert!(policies.contains(&CachePolicy::PullPush) && policies.iter().any(|one| one.as_str().contains('$')));
    let large = sample("09")
        .spec()
        .dependencies
        .iter()
        .filter_map(|one| one.artifacts_file.clone())
        .max_by_key(|file| file.size);
    assert!(large.unwrap().size > 1 << 32);
    let types: Vec<_> = sample("12").spec().inputs.iter().filter_map(|input| input.value.kind.clone()).collect();
    assert!(
        [InputType::String, InputType::Number, InputType::Boolean, InputType::Array]
            .iter()
            .all(|one| types.contains(one))
    );
    assert!(
        !sample("11").spec().run_steps().unwrap().is_empty() && sample("03").spec().run_steps().unwrap().is_empty()
    );
    assert!(sample("19").spec().suspend_options.as_ref().unwrap().runtime_environment_key.is_some());
    let strings = sample("22");
    let service = &strings.spec().services[0];
    assert!(service.entrypoint.as_ref().is_some_and(|words| words.len() == 1) || service.command.is_some());
}

#[test]
fn secrets_of_every_provider_are_described_and_none_is_shown() {
    let assignment = sample("10");
    let spec = assignment.spec();
    for provider in [
        SecretProvider::Vault,
        SecretProvider::GcpSecretManager,
        SecretProvider::AzureKeyVault,
        SecretProvider::AwsSecretsManager,
        SecretProvider::GitlabSecretsManager,
    ] {
        let found = spec.secrets.values().find(|secret| secret.provider.as_ref() == Some(&provider));
        assert!(found.is_some_and(|secret| secret.configuration().is_some_and(Value::is_object)), "{provider:?}");
    }
    assert!(spec.secrets.values().any(|secret| !secret.file) && spec.secrets.values().any(|secret| secret.file));
    for (name, json) in samples() {
        let whole: Value = serde_json::from_str(&json).unwrap();
        let shown = format!("{:?}", Assignment::from_json(json).unwrap());
        let token = whole["token"].as_str().unwrap();
        assert!(!shown.contains(token), "{name}: the job's token shows");
        for variable in whole["variables"].as_array().into_iter().flatten().filter(|it| it["masked"] == true) {
            let value = variable["value"].as_str().unwrap_or_default();
            assert!(value.len() < 6 || !shown.contains(value), "{name}: {} shows", variable["key"]);
        }
    }
}

#[test]
fn what_a_runner_did_not_promise_is_told() {
    let rows = [
        ("artifacts", r#"[{"paths":["a"]}]"#, "artifacts"),
        ("cache", r#"[{"key":"k"}]"#, "cache"),
        ("services", r#"[{"name":"s"}]"#, "services"),
        ("image", r#"{"name":"alpine"}"#, "image"),
        ("secrets", r#"{"A":{}}"#, "vault_secrets"),
        ("run", r#""[{}]""#, "native_steps_integration"),
        ("inputs", r#"[{"key":"k"}]"#, "job_inputs"),
    ];
    let empty =
        r#"{"id":7,"token":"t","artifacts":[],"cache":[null],"services":null,"image":null,"secrets":{},"run":" [] "}"#;
    assert!(Features::none().unpromised(Assignment::from_json(empty).unwrap().spec()).is_empty());
    for (member, value, method) in rows {
        let assignment = Assignment::from_json(format!(r#"{{"id":7,"token":"t","{member}":{value}}}"#)).unwrap();
        let mut job = Hand::new(Job::new(Arc::new(config()), &assignment, START));
        job.sends("running");
        let [JobEvent::NotPromised(told)] = &job.events[..] else { panic!("{member}: {:?}", job.events) };
        assert_eq!((told.len(), told[0].member, told[0].method), (1, member, method));
        job.answer(200, &[], "");
        let log = String::from_utf8(job.call().request.body().to_vec()).unwrap();
        assert!(log.contains(&format!("asks for: {member} (Features::{method}).")), "{log}");
        let features = Features::shell_executor()
            .artifacts(true)
            .cache(true)
            .services(true)
            .image(true)
            .vault_secrets(true)
            .native_steps_integration(true)
            .job_inputs(true);
        assert!(features.unpromised(assignment.spec()).is_empty());
    }
}

#[test]
fn a_suspended_environment_is_reported() {
    let key = |members: &str| {
        let json = format!(r#"{{"id":7,"token":"t","suspend_options":{{{members}}}}}"#);
        Assignment::from_json(json).unwrap().spec().suspend_options.as_ref().unwrap().key().map(str::to_owned)
    };
    assert_eq!(key(r#""runtime_environment_key":"42/s_a/x""#).as_deref(), Some("42/s_a/x"));
    assert_eq!(key(r#""environment_key":"42/s_a/y""#).as_deref(), Some("42/s_a/y"), "GitLab 19.0 to 19.3");
    assert_eq!(key(r#""suspend_on_success":true"#), None);
    for (key, sent) in
        [("42/s_a/x".to_owned(), true), (String::new(), false), ("x".repeat(4096), true), ("x".repeat(4097), false)]
    {
        let mut job = Hand::<Job>::accepted(config());
        job.machine.finish(JobResult::success().with_runtime_environment_key(key.clone()));
        // The key outlives a restart.
        let snapshot = JobSnapshot::from_json(&job.machine.snapshot().to_json()).unwrap();
        let assignment = job.machine.assignment().clone();
        let mut job = Hand::new(Job::resume(Arc::new(config()), &assignment, snapshot, job.now).unwrap());
        let report = job.sends("report success").json();
        for name in ["runtime_environment_key", "environment_key"] {
            assert_eq!(report.get(name).and_then(Value::as_str), sent.then_some(&key[..]));
        }
    }
}
