//! Sample payloads of all ages and editions: decoded, cut off anywhere, and with any member gone.

use std::fs;
use std::path::Path;

use gitlab_runner_api::api::job_spec::{ArtifactFormat, CachePolicy, InputType, SecretProvider};
use gitlab_runner_api::variables::{Place, Variables};
use gitlab_runner_api::{Assignment, Secret};
use serde_json::Value;

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
        for length in (0..end).filter(|length| json.is_char_boundary(*length)) {
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

/// Calls `act` with each value that this one becomes by losing one member, or by one member becoming something else.
fn each_change(value: &Value, replacement: Option<&Value>, act: &mut dyn FnMut(Value)) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let mut changed = members.clone();
                match replacement {
                    None => changed.remove(name),
                    Some(with) => changed.insert(name.clone(), with.clone()),
                };
                act(Value::Object(changed));
                each_change(member, replacement, &mut |member| {
                    let mut changed = members.clone();
                    changed.insert(name.clone(), member);
                    act(Value::Object(changed));
                });
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                let mut changed = items.clone();
                changed.remove(at);
                act(Value::Array(changed));
                each_change(item, replacement, &mut |item| {
                    let mut changed = items.clone();
                    changed[at] = item;
                    act(Value::Array(changed));
                });
            }
        }
        _ => {}
    }
}

#[test]
fn any_member_may_be_gone_or_null_but_id_and_token() {
    for (name, json) in samples() {
        let whole: Value = serde_json::from_str(&json).unwrap();
        for replacement in [None, Some(&Value::Null)] {
            each_change(&whole, replacement, &mut |changed| {
                let has_both = changed["id"].is_u64() && changed["token"].is_string();
                match Assignment::from_json(changed.to_string()) {
                    Ok(assignment) => look_at(&assignment),
                    Err(error) => assert!(!has_both, "{name}: {error}"),
                }
            });
        }
    }
}

#[test]
fn a_member_of_another_type_is_a_value_or_an_error() {
    let strange = serde_json::json!([{ "moon": -1.5 }, "canary"]);
    for (name, json) in samples() {
        each_change(&serde_json::from_str(&json).unwrap(), Some(&strange), &mut |changed| match Assignment::from_json(
            changed.to_string(),
        ) {
            Ok(assignment) => look_at(&assignment),
            Err(error) => assert!(!error.to_string().contains("canary"), "{name}: {error}"),
        });
    }
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
