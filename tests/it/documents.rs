//! The documents for people who change the project, and the pictures.

use std::collections::BTreeSet;
use std::path::Path;

/// Documents that are read in the repository, where a path leads somewhere.
const DOCUMENTS: [(&str, &str); 5] = [
    ("ARCHITECTURE.md", include_str!("../../ARCHITECTURE.md")),
    ("CHANGELOG.md", include_str!("../../CHANGELOG.md")),
    ("CONTRIBUTING.md", include_str!("../../CONTRIBUTING.md")),
    ("README.md", include_str!("../../README.md")),
    ("SECURITY.md", include_str!("../../SECURITY.md")),
];

const PICTURES: [(&str, &str); 2] = [
    ("src/manual/job.svg", include_str!("../../src/manual/job.svg")),
    ("src/manual/parts.svg", include_str!("../../src/manual/parts.svg")),
];

/// Folders of the root whose names begin a path. A path of anything else, such as `jobs/request`, is none of this project.
const FOLDERS: [&str; 9] = [".ci", "adapters", "benches", "docs", "examples", "fuzz", "src", "testkit", "tests"];

/// The paths that a text names as code, and the targets of its links that are within the repository.
fn paths(text: &str) -> BTreeSet<&str> {
    let code = text.split('`').skip(1).step_by(2).filter(|code| {
        let first = code.split('/').next().unwrap_or_default();
        let document = !code.contains(['/', ' ']) && code.ends_with(".md");
        !code.contains(char::is_whitespace) && (document || FOLDERS.contains(&first))
    });
    let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    code.chain(links.filter(|link| !link.contains("://"))).collect()
}

#[test]
fn every_path_that_a_document_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, text) in DOCUMENTS {
        for path in paths(text) {
            assert!(root.join(path).exists(), "{name} names {path}");
        }
    }
    assert!(paths(DOCUMENTS[0].1).len() > 15, "{:?}", paths(DOCUMENTS[0].1));
}

#[test]
fn a_path_that_is_not_there_is_found() {
    let text = "`src/none.rs` and `GET jobs/1` and `None` and [a](b/c.svg) and [d](https://e.example)";
    assert_eq!(paths(text), BTreeSet::from(["b/c.svg", "src/none.rs"]));
}

/// A blank line would end the HTML in the Markdown that includes a picture, and a first line that is no whole tag would not
/// begin it. A background or text of a fixed colour cannot be read in one of the two themes.
#[test]
fn the_pictures_can_stand_in_the_documentation_and_be_read_in_both_themes() {
    for (name, picture) in PICTURES {
        let first = picture.lines().next().unwrap();
        assert!(first.starts_with("<svg ") && first.ends_with('>'), "{name}: {first}");
        assert!(picture.lines().all(|line| !line.trim().is_empty()), "{name} has a blank line");
        assert!(first.contains("fill=\"currentColor\""), "{name} has text of a fixed colour");
        assert!(picture.contains("prefers-color-scheme: dark"), "{name} has one theme");
        assert!(!picture.contains("white") && !picture.contains("#fff"), "{name} has a light background");
        assert!(picture.contains("<title "), "{name} says nothing to those who cannot see it");
    }
}
