//! The core does no I/O, shown mechanically: no path in its source leads to a clock, socket, thread, file, environment or
//! randomness, and none of its dependencies is there for such a thing.
//!
//! `clippy.toml` bans the same at the level of resolved names.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What must not stand in the code of `src/`.
const FORBIDDEN: &[&str] = &[
    "std::net",
    "std::fs",
    "std::thread",
    "std::env",
    "std::process",
    "std::os",
    "Instant::now",
    ".elapsed(",
    "SystemTime::now",
    "tokio",
    "async fn",
    ".await",
    "println!",
    "eprintln!",
    "dbg!",
    "thread_rng",
    "getrandom",
    "RandomState",
    "HashMap",
    "HashSet",
    "Mutex",
    "RwLock",
    "Atomic",
    "OnceLock",
    "thread_local!",
    "static mut",
    "unsafe",
    "extern ",
];

/// Each with what it is for. Adding one is a decision.
const DEPENDENCIES: &[(&str, &str)] = &[
    ("aho-corasick", "searches the log for many secrets at once"),
    ("base64", "secrets that were encoded; on request"),
    ("bytes", "log and bodies without copies"),
    ("crc32fast", "the log's checksum"),
    ("http", "requests and responses"),
    ("httpdate", "Retry-After and Date"),
    ("humantime", "the time before each line"),
    ("memchr", "searches the log; part of serde_json"),
    ("percent-encoding", "names and passwords in a proxy's address; part of url"),
    ("serde", "payloads and snapshots"),
    ("serde_json", "payloads and snapshots"),
    ("thiserror", "errors"),
    ("url", "the server's address"),
    ("zeroize", "optional: overwrites secrets"),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The code of a file: no comments, no docs, no tests.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().take_while(|(_, line)| line.trim() != "#[cfg(test)]");
    lines.map(|(number, line)| (number + 1, line.split("//").next().unwrap_or_default()))
}

#[test]
fn no_path_leads_out_of_the_core() {
    let files = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(files.len() > 30, "{files:?}");
    let mut lines = 0;
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in code(&text) {
            lines += 1;
            for word in FORBIDDEN.iter().filter(|word| !is_allowed(&file, word)) {
                assert!(!line.contains(word), "{}:{number}: `{word}` has no place in the core: {line}", file.display());
            }
        }
    }
    assert!(lines > 2000, "{lines}");
}

/// The one exception. Tickets of two state machines of one process must never be taken for each other, and two state machines must
/// not share a random stream. Two counters see to that: neither can be observed from outside, and neither makes a call.
fn is_allowed(file: &Path, word: &str) -> bool {
    word == "Atomic" && file.ends_with("src/identity.rs")
}

#[test]
fn the_exception_is_used() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/identity.rs")).unwrap();
    assert!(code(&text).any(|(_, line)| line.contains("AtomicU64")));
}

#[test]
fn the_scan_sees_what_it_forbids() {
    let text = "// Instant in a comment\nlet now = Instant::now();\n#[cfg(test)]\nuse std::fs;\n";
    let hits: Vec<_> = code(text)
        .filter(|(_, line)| FORBIDDEN.iter().any(|word| line.contains(word)))
        .map(|(number, _)| number)
        .collect();
    assert_eq!(hits, [2]);
}

#[test]
fn every_dependency_is_on_the_list() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let (_, section) = manifest.split_once("\n[dependencies]\n").unwrap();
    let section = section.split("\n[").next().unwrap();
    let name = |line: &str| line.split(['.', ' ', '=']).next().unwrap_or_default().to_owned();
    let declared: BTreeSet<_> = section.lines().filter(|line| !line.trim().is_empty()).map(name).collect();
    let listed: BTreeSet<_> = DEPENDENCIES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(declared, listed);
}

#[test]
fn nothing_below_the_core_talks_to_the_world() {
    // The lock file holds all members' dependencies; walk those of the core alone.
    let lock = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).unwrap();
    let dependencies = |package: &str| -> Vec<String> {
        let (_, entry) = lock.split_once(&format!("name = \"{package}\"\n")).unwrap_or_default();
        let entry = entry.split("\n\n").next().unwrap_or_default();
        let list =
            entry.split_once("dependencies = [").map_or("", |(_, list)| list.split(']').next().unwrap_or_default());
        list.split('"').skip(1).step_by(2).map(|name| name.split(' ').next().unwrap_or_default().to_owned()).collect()
    };
    let mut seen = BTreeSet::new();
    let mut open: Vec<String> = DEPENDENCIES.iter().map(|(name, _)| (*name).to_owned()).collect();
    while let Some(package) = open.pop() {
        if seen.insert(package.clone()) {
            open.extend(dependencies(&package));
        }
    }
    for banned in
        ["tokio", "mio", "libc", "rustix", "socket2", "ring", "rustls", "getrandom", "rand", "windows-sys", "log"]
    {
        assert!(!seen.contains(banned), "the core pulls in {banned}: {seen:?}");
    }
    assert!(seen.len() <= 50, "{} packages below the core: {seen:?}", seen.len());
}
