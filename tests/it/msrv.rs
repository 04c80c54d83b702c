//! The Rust version that each package declares, against those that its dependencies declare.
//!
//! An older toolchain is rarely at hand to build with, so that a dependency that needs a newer Rust than the package says
//! would be noticed by users first.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// What `cargo metadata` says of the workspace that this package is in.
///
/// All platforms are looked at if the sources of all are on this machine, and the host's alone otherwise: a build
/// downloads no more than those, and a test has no network.
fn metadata() -> Value {
    let metadata = |platform: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command.args(["metadata", "--offline", "--locked", "--all-features", "--format-version", "1"]).args(platform);
        command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap()
    };
    let mut output = metadata(&[]);
    if !output.status.success() {
        let rustc = Command::new("rustc").arg("-vV").output().unwrap();
        let text = String::from_utf8(rustc.stdout).unwrap();
        let host = text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned();
        output = metadata(&["--filter-platform", &host]);
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// `1.88` and `1.88.0` as numbers that compare. The oldest Rust where a package declares nothing.
fn version(package: &Value) -> [u32; 3] {
    let mut parts = [0; 3];
    let text = package["rust_version"].as_str().unwrap_or_default();
    for (part, number) in parts.iter_mut().zip(text.split('.').filter(|number| !number.is_empty())) {
        *part = number.parse().unwrap();
    }
    parts
}

/// A list of `cargo metadata` by the `id` that each item of it has.
fn by_id(list: &Value) -> BTreeMap<&str, &Value> {
    list.as_array().unwrap().iter().map(|item| (item["id"].as_str().unwrap(), item)).collect()
}

/// All packages that are compiled for a user of `root`: its dependencies and theirs, but those of tests.
fn dependencies<'a>(root: &'a str, nodes: &BTreeMap<&'a str, &'a Value>) -> BTreeSet<&'a str> {
    let (mut found, mut open) = (BTreeSet::new(), vec![root]);
    while let Some(id) = open.pop() {
        for dependency in nodes[id]["deps"].as_array().unwrap() {
            let for_users = dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"] != "dev");
            let id = dependency["pkg"].as_str().unwrap();
            if for_users && found.insert(id) {
                open.push(id);
            }
        }
    }
    found
}

/// Every dependency of a published package that needs a newer Rust than the package declares, and the names of the
/// published packages.
fn too_new(metadata: &Value) -> (Vec<String>, Vec<&str>) {
    let (packages, nodes) = (by_id(&metadata["packages"]), by_id(&metadata["resolve"]["nodes"]));
    let (mut found, mut published) = (Vec::new(), Vec::new());
    for member in metadata["workspace_members"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()) {
        let package = packages[member];
        // `publish` is null for a package that any registry takes, and an empty list for one that none does.
        if package["publish"].as_array().is_some_and(Vec::is_empty) {
            continue;
        }
        published.push(package["name"].as_str().unwrap());
        let declared = version(package);
        for dependency in dependencies(member, &nodes).into_iter().map(|id| packages[id]) {
            if version(dependency) > declared {
                found.push(format!("{}: {} {}", package["name"], dependency["name"], dependency["rust_version"]));
            }
        }
    }
    (found, published)
}

#[test]
fn no_dependency_needs_a_newer_rust_than_its_package_declares() {
    let metadata = metadata();
    let (found, published) = too_new(&metadata);
    assert!(found.is_empty(), "{found:#?}");
    assert!(published.len() >= 5, "{published:?}");
    let packages = by_id(&metadata["packages"]);
    for package in packages.values().filter(|package| published.contains(&package["name"].as_str().unwrap())) {
        assert!(version(package) > [0; 3], "{} declares no Rust version", package["name"]);
    }
}

#[test]
fn a_dependency_of_a_dependency_is_found_and_one_of_a_test_is_not() {
    let package =
        |id: &str, rust: &str| serde_json::json!({"id": id, "name": id, "rust_version": rust, "publish": null});
    let needs = |id: &str, kind: Value| serde_json::json!({"pkg": id, "dep_kinds": [{"kind": kind}]});
    let metadata = serde_json::json!({
        "workspace_members": ["ours"],
        "packages": [package("ours", "1.88"), package("near", "1.88.0"), package("far", "1.88.1"), package("test", "1.90")],
        "resolve": {"nodes": [
            {"id": "ours", "deps": [needs("near", Value::Null), needs("test", "dev".into())]},
            {"id": "near", "deps": [needs("far", "build".into())]},
            {"id": "far", "deps": []},
            {"id": "test", "deps": []},
        ]},
    });
    assert_eq!(too_new(&metadata), (vec![r#""ours": "far" "1.88.1""#.to_owned()], vec!["ours"]));
}

#[test]
fn the_readme_names_the_versions_that_the_packages_declare() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let ours = packages.filter(|package| package["source"].is_null());
    let versions: BTreeMap<&str, &str> = ours
        .map(|package| (package["name"].as_str().unwrap(), package["rust_version"].as_str().unwrap_or("")))
        .collect();
    let (readme, most) = (include_str!("../../README.md"), versions["gitlab-runner-api"]);
    assert!(readme.contains(&format!("All packages build with Rust {most}")), "{most}");
    for (name, version) in versions.into_iter().filter(|(_, version)| !version.is_empty() && *version != most) {
        assert!(readme.contains(&format!("`{name}` needs Rust {version}")), "{name}: {version}");
    }
}
