//! What a published package holds: its archive, and what its manifest says to a registry.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What a user must find in every archive. The licences ask to be handed on with the code, and a registry shows the rest.
const IN_EVERY_ARCHIVE: [&str; 4] = ["CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT", "README.md"];

/// Runs cargo in a folder of the workspace and returns its standard output. A test has no network, so that it must not
/// update anything.
fn cargo(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).arg("--offline").current_dir(folder).output().unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The manifests, as `cargo metadata` gives them, of all packages of this workspace that a registry may take.
fn published() -> Vec<Value> {
    let metadata: Value =
        serde_json::from_str(&cargo(root(), &["metadata", "--no-deps", "--format-version", "1"])).unwrap();
    let mut packages = metadata["packages"].as_array().unwrap().clone();
    // `publish` is null for a package that any registry takes, and an empty list for one that none does.
    packages.retain(|package| !package["publish"].as_array().is_some_and(Vec::is_empty));
    assert!(packages.len() >= 5, "{} packages", packages.len());
    packages
}

fn folder(package: &Value) -> PathBuf {
    Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned()
}

#[test]
fn every_archive_holds_both_licences_the_readme_and_the_changelog() {
    for package in published() {
        let name = package["name"].as_str().unwrap();
        let list = cargo(root(), &["package", "--list", "--allow-dirty", "-p", name]);
        let files: BTreeSet<&str> = list.lines().collect();
        for file in IN_EVERY_ARCHIVE {
            assert!(files.contains(file), "{name} lacks {file}");
        }
        let is_testkit = name == "gitlab-runner-api-testkit";
        assert_eq!(
            files.contains("openapi.json"),
            is_testkit,
            "{name}: the description of the simulated GitLab's APIs"
        );
        let target = files.iter().find(|file| file.starts_with("target/"));
        assert_eq!(target, None, "{name} holds what was built");
    }
}

/// Licences and changelog of the packages below are symbolic links to those of the root. Cargo follows them. Git writes
/// them as small files that hold a path where links are switched off, and such a file would be published.
#[test]
fn every_package_has_the_licences_and_the_changelog_of_the_root() {
    for package in published() {
        for file in IN_EVERY_ARCHIVE.into_iter().filter(|file| *file != "README.md") {
            let (ours, theirs) = (fs::read(root().join(file)).unwrap(), fs::read(folder(&package).join(file)).unwrap());
            assert_eq!(ours, theirs, "{file} of {}", package["name"]);
        }
    }
}

#[test]
fn every_manifest_says_what_a_registry_shows() {
    let (mut descriptions, mut readmes) = (BTreeSet::new(), BTreeSet::new());
    for package in published() {
        let name = package["name"].as_str().unwrap();
        let description = package["description"].as_str().unwrap_or_default();
        assert!(description.len() > 30, "{name}: {description:?}");
        assert!(descriptions.insert(description.to_owned()), "{name} has the description of another package");
        assert_eq!(package["license"], "MIT OR Apache-2.0", "{name}");
        assert_eq!(package["readme"], "README.md", "{name}");
        let readme = fs::read_to_string(folder(&package).join("README.md")).unwrap();
        assert!(readme.starts_with(&format!("# {name}\n")), "{name} shows the README of another package");
        assert!(readmes.insert(readme), "{name} has the README of another package");
        assert!(!package["categories"].as_array().unwrap().is_empty(), "{name} has no category");
        // The limits of crates.io: at most five keywords of at most twenty characters, each of them one word.
        let keywords = package["keywords"].as_array().unwrap();
        assert!((1..=5).contains(&keywords.len()), "{name}: {keywords:?}");
        for keyword in keywords.iter().map(|keyword| keyword.as_str().unwrap()) {
            let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
            assert!(keyword.len() <= 20 && keyword.chars().all(plain), "{name}: {keyword}");
        }
        assert_eq!(package["metadata"]["docs"]["rs"]["all-features"], true, "{name}");
        // No address is invented. When there is one, it is the same for all packages.
        assert_eq!(package["repository"], published()[0]["repository"], "{name}");
    }
}
