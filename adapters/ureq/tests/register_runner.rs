//! `register-runner`, the program, against the simulated GitLab: each flow and each error as a person sees it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use gitlab_runner_api_testkit::{Coordinator, JobStatus, NewJob, Server, Settings, TimeLimit};
use gitlab_runner_api_ureq::{Job, Runner};
use serde_json::json;
use tempfile::TempDir;

const REGISTRATION: &str = "GR1348941canary-registration";
const CREATED: &str = "glrt-canary-created";

/// A GitLab, a folder, and the program run in it.
struct Desk {
    gitlab: Server,
    folder: TempDir,
}

/// What the program did.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Desk {
    fn new() -> Self {
        let mut gitlab = Coordinator::new(Settings::default());
        gitlab.add_runner(CREATED);
        gitlab.set_registration_token(REGISTRATION);
        Self {
            gitlab: Server::start(gitlab).unwrap().with_time_limit(TimeLimit::TEST),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Runs `register-runner` with these words; `URL` stands for the GitLab's address.
    fn run(&self, words: &[&str]) -> Ran {
        self.run_with(words, &[], "")
    }

    fn run_with(&self, words: &[&str], vars: &[(&str, &str)], input: &str) -> Ran {
        let url = self.gitlab.url();
        let mut command = Command::new(env!("CARGO_BIN_EXE_register-runner"));
        command.args(words.iter().map(|word| if *word == "URL" { url.as_str() } else { word }));
        command.current_dir(self.folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for var in ["GITLAB_RUNNER_TOKEN", "GITLAB_ACCESS_TOKEN", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"] {
            command.env_remove(var);
        }
        let mut child = command.envs(vars.iter().copied()).spawn().unwrap();
        // A program that does not read its input is fine.
        _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&url, "URL");
        let ran = Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) };
        assert!(!ran.out.contains("canary") && !ran.err.contains("canary"), "a token shows: {} {}", ran.out, ran.err);
        ran
    }

    fn runners(&self) -> usize {
        self.gitlab.with(|gitlab, _| gitlab.runners().count())
    }
}

impl Ran {
    #[track_caller]
    fn succeeded(&self, out: &str) {
        assert_eq!((self.code, self.out.trim_end(), self.err.as_str()), (0, out, ""));
    }

    #[track_caller]
    fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{}", self.err);
        assert!(self.err.starts_with("register-runner: ") && self.err.trim_end().lines().count() == 1, "{}", self.err);
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in: {}", self.err);
        }
    }
}

#[test]
fn a_registration_token_makes_a_runner() {
    let desk = Desk::new();
    let ran = desk.run(&[
        "URL",
        REGISTRATION,
        "my.json",
        "--locked",
        "--maximum-timeout",
        "3600",
        "--description",
        "a b",
        "--tag-list",
        "hpc, gpu",
        "--run-untagged=false",
        "--paused",
        "--access-level",
        "ref_protected",
        "--maintenance-note",
        "n",
        "--name",
        "our-runner",
        "--executor",
        "slurm",
    ]);
    ran.succeeded("URL: Successfully registered runner 2");
    let runner = Runner::load(desk.path("my.json")).unwrap();
    runner.check_auth().unwrap();
    let kept = runner.attributes();
    assert_eq!((runner.id(), kept.locked, kept.paused, kept.run_untagged), (2, true, true, false));
    assert_eq!((kept.maximum_timeout, kept.description.as_deref()), (Some(3600), Some("a b")));
    assert_eq!(
        (&kept.tag_list[..], kept.maintenance_note.as_deref()),
        (&["hpc".to_owned(), "gpu".to_owned()][..], Some("n"))
    );
    assert_eq!(kept.access_level.as_ref().map(|level| level.as_str()), Some("ref_protected"));
    assert_eq!((runner.info().name(), runner.info().executor()), ("our-runner", Some("slurm")));
}

#[test]
fn a_token_of_a_runner_that_exists_is_verified_and_kept() {
    let desk = Desk::new();
    desk.run(&["URL", CREATED, "my.json"]).succeeded("URL: Successfully registered runner 1");
    assert_eq!(Runner::load(desk.path("my.json")).unwrap().token().expose(), CREATED);
    desk.run(&["verify", "my.json"]).succeeded("URL: Runner 1 is valid");
    let ran = desk.run(&["URL", CREATED, "other.json", "--locked", "--tag-list", "a"]);
    ran.failed(2, &["locked, tags", "change its attributes in GitLab"]);
    assert!(!Path::new(&desk.path("other.json")).exists());
    assert_eq!(desk.runners(), 1);
}

#[test]
fn tokens_come_from_a_file_the_environment_or_standard_input() {
    let desk = Desk::new();
    fs::write(desk.path("token"), format!("{REGISTRATION}\n")).unwrap();
    desk.run(&["URL", "a.json", "--token-file", "token"]).succeeded("URL: Successfully registered runner 2");
    let ran = desk.run_with(&["URL", "b.json"], &[("GITLAB_RUNNER_TOKEN", REGISTRATION)], "");
    ran.succeeded("URL: Successfully registered runner 3");
    let ran = desk.run_with(&["URL", "c.json", "--token-file", "-"], &[], REGISTRATION);
    ran.succeeded("URL: Successfully registered runner 4");
    desk.run(&["URL", "d.json"]).failed(2, &["GITLAB_RUNNER_TOKEN"]);
    desk.run(&["URL", "d.json", "--token-file", "none"]).failed(5, &["the file given as --token-file", "No such file"]);
    desk.run(&["URL", "d.json", "--token-file", "none.txt"]).failed(5, &["none.txt: "]);
    desk.run(&["URL", "x", "d.json", "--token-file", "token"]).failed(2, &["not both"]);
}

#[test]
fn programs_read_json() {
    let desk = Desk::new();
    let ran = desk.run(&["--output=json", "URL", REGISTRATION, "my.json"]);
    let told: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &told["id"], &told["url"], &told["file"]), (0, &2.into(), &"URL".into(), &"my.json".into()));
    assert!(told["system_id"].as_str().is_some_and(|id| id.len() == 14) && told["token_expires_at"].is_null());
    let ran = desk.run(&["URL", "GR1348941wrong", "my2.json", "--output", "json"]);
    let told: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &told["exit_code"], ran.err.as_str()), (3, &3.into(), ""));
    assert!(told["error"].as_str().unwrap().contains("403"));
}

#[test]
fn refusals_say_what_to_do() {
    let desk = Desk::new();
    let words = &["403", "check the token"];
    desk.run(&["URL", "GR1348941wrong", "my.json"]).failed(3, words);
    desk.run(&["URL", "glrt-wrong", "my.json"]).failed(3, words);
    desk.run(&["URL", "  ", "my.json"]).failed(2, &["token is empty"]);
    assert!(!Path::new(&desk.path("my.json")).exists());
}

#[test]
fn an_address_that_cannot_work_is_told() {
    let desk = Desk::new();
    desk.run(&["gitlab.example.com", "t", "my.json"]).failed(2, &["https://gitlab.example.com"]);
    desk.run(&["ftp://gitlab.example.com", "t", "my.json"]).failed(2, &["https:// or http://"]);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    desk.run(&[&format!("http://{nobody}"), "glrt-t", "my.json"]).failed(4, &["GitLab cannot be reached", "refused"]);
}

/// Answers each connection with this text.
fn answering(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            _ = stream.read(&mut request);
            _ = stream.write_all(answer.as_bytes());
        }
    });
    format!("http://{address}")
}

#[test]
fn what_is_not_gitlab_is_told_apart() {
    let desk = Desk::new();
    let moved = "HTTP/1.1 301 Moved\r\nLocation: https://gitlab.example.com/x?t=canary\r\nContent-Length: 0\r\n\r\n";
    let ran = desk.run(&[&answering(moved), "glrt-t", "my.json"]);
    ran.failed(4, &["redirects to https://gitlab.example.com", "use it as the address"]);
    let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>";
    desk.run(&[&answering(page), "glrt-t", "my.json"]).failed(4, &["cannot be read"]);
    let gone = "HTTP/1.1 410 Gone\r\nContent-Type: application/json\r\nContent-Length: 58\r\n\r\n\
                {\"message\":\"410 Gone - runner registration disallowed\"}   ";
    let ran = desk.run(&[&answering(gone), REGISTRATION, "my.json"]);
    ran.failed(3, &["410", "takes no registration tokens", "glrt-"]);
    let hangs_up = answering("");
    let ran = desk.run(&[&hangs_up, REGISTRATION, "my.json"]);
    ran.failed(6, &["not known whether", "look before you repeat"]);
}

#[test]
fn no_file_is_lost_and_no_runner_made_without_a_place() {
    let desk = Desk::new();
    fs::write(desk.path("old.json"), "precious").unwrap();
    desk.run(&["URL", REGISTRATION, "old.json"]).failed(5, &["old.json exists", "--overwrite"]);
    assert_eq!(fs::read_to_string(desk.path("old.json")).unwrap(), "precious");
    let ran = desk.run(&["URL", REGISTRATION, "none/my.json"]);
    ran.failed(5, &["register-runner: none/my.json: No such file", "see that the folder exists"]);
    assert!(!ran.err.contains(".runner-"), "a temporary file is named: {}", ran.err);
    desk.run(&["URL", REGISTRATION, "my.txt"]).failed(2, &["must end in .json"]);
    fs::create_dir(desk.path("folder.json")).unwrap();
    desk.run(&["URL", REGISTRATION, "folder.json", "--overwrite"]).failed(5, &["folder.json"]);
    assert_eq!(desk.runners(), 1);
    desk.run(&["URL", REGISTRATION, "old.json", "--overwrite"]).succeeded("URL: Successfully registered runner 2");
}

#[test]
fn wrong_usage_is_told_in_one_sentence() {
    let desk = Desk::new();
    for (words, told) in [
        (&["URL"][..], "are needed"),
        (&[], "are needed"),
        (&["URL", "t", "f.json", "more"], "are needed"),
        (&["--nonsense"], "no such option (word 1)"),
        (&["URL", "t", "f.json", "--nonsense=1"], "no such option (word 4)"),
        (&["-x"], "no option -x"),
        (&["URL", "t", "f.json", "--maximum-timeout", "1h"], "--maximum-timeout needs a whole number"),
        (&["URL", "t", "f.json", "--maximum-timeout"], "--maximum-timeout needs a value"),
        (&["URL", "t", "f.json", "--locked=maybe"], "--locked is true or false"),
        (&["URL", "t", "f.json", "--access-level", "all"], "--access-level is"),
        (&["URL", "t", "f.json", "--output", "xml"], "--output is"),
        (&["URL", "t", "f.json", "--all"], "--all belongs to unregister"),
        (&["URL", "t", "f.json", "--access-token", "p"], "not both"),
        (&["URL", "f.json", "--access-token", "p"], "--runner-type"),
        (&["URL", "f.json", "--access-token", "p", "--runner-type", "group", "--project-id", "1"], "--runner-type"),
        (&["URL", "f.json", "--project-id", "1"], "GITLAB_ACCESS_TOKEN"),
        (&["URL", "t", "f.json", "--client-cert", "c"], "belong together"),
        (&["URL", "t", "f.json", "--ca-only"], "--ca-only needs --ca-file"),
        (&["URL", "t", "f.json", "--proxy", "socks5://x"], "HTTP proxy"),
        (&["verify"], "give one FILE.json"),
        (&["verify", "f.json", "--locked"], "cannot be given here"),
        (&["verify", "f.json", "--all"], "cannot be given here"),
    ] {
        let ran = desk.run(words);
        assert_eq!(ran.code, 2, "{words:?}: {}", ran.err);
        ran.failed(2, &[told]);
    }
    desk.run(&["verify", "none.json"]).failed(5, &["none.json"]);
    fs::write(desk.path("bad.json"), "{").unwrap();
    desk.run(&["verify", "bad.json"]).failed(5, &["bad.json", "not changed"]);
}

#[test]
fn help_and_version_are_no_errors() {
    let desk = Desk::new();
    for words in [&["--help"][..], &["-h"], &["verify", "--help"], &["URL", "t", "f.json", "--help"]] {
        let help = desk.run(words);
        assert!(help.code == 0 && help.err.is_empty(), "{words:?}: {}", help.err);
        assert!(help.out.contains("register-runner verify FILE.json") && help.out.contains("Exit codes"), "{words:?}");
    }
    for words in [&["--version"][..], &["-V"], &["verify", "--version"]] {
        desk.run(words).succeeded(concat!("register-runner ", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn a_misspelt_word_is_told_what_it_was_meant_to_be() {
    let desk = Desk::new();
    for (words, told) in [
        (&["verfy", "f.json"][..], "no verb verfy; did you mean verify?"),
        (&["Verify", "f.json"], "did you mean verify?"),
        (&["unregistr", "f.json"], "did you mean unregister?"),
        (&["un-register", "f.json"], "did you mean unregister?"),
        (&["reset_token", "f.json"], "did you mean reset-token?"),
        (&["convrt", "a", "b"], "did you mean convert?"),
        (&["register", "URL", "t", "f.json"], "to register takes no verb"),
        (&["regster", "URL", "t", "f.json"], "to register takes no verb"),
        (&["help"], "did you mean --help?"),
        (&["gitlab.example.com", "t", "f.json"], "neither a verb nor a URL such as https://gitlab.example.com"),
        (&["URL", "t", "f.json", "--descripton", "x"], "no option --descripton; did you mean --description?"),
        (&["URL", "t", "f.json", "--tag-lists", "x"], "did you mean --tag-list?"),
        (&["unregister", "f.json", "--al"], "did you mean --all?"),
        (&["URL", "f.json", "--token", "x"], "no option --token: give URL, TOKEN and FILE.json in this order"),
    ] {
        desk.run(words).failed(2, &[told]);
    }
}

/// Each kind of token in the place of another.
#[test]
fn a_token_of_another_kind_is_told_what_it_is() {
    let desk = Desk::new();
    let user = ["personal access token (glpat-)", "--access-token", "--runner-type, --group-id or --project-id"];
    desk.run(&["URL", "glpat-canary", "f.json"]).failed(2, &[&["TOKEN is a"], &user[..]].concat());
    fs::write(desk.path("token"), "glpat-canary\n").unwrap();
    let ran = desk.run(&["URL", "f.json", "--token-file", "token"]);
    ran.failed(2, &[&["the content of --token-file is a"], &user[..]].concat());
    let ran = desk.run_with(&["URL", "f.json"], &[("GITLAB_RUNNER_TOKEN", "glpat-canary")], "");
    ran.failed(2, &[&["GITLAB_RUNNER_TOKEN is a"], &user[..]].concat());
    for (token, kind) in [("glcbt-canary", "of a job (glcbt-)"), ("gldt-canary", "a deploy token (gldt-)")] {
        desk.run(&["URL", token, "f.json"]).failed(2, &[kind, "makes no runner"]);
    }
    let create = ["URL", "f.json", "--project-id", "1", "--access-token"];
    for (token, kind) in [(CREATED, "of a runner (glrt-)"), (REGISTRATION, "a registration token (GR1348941)")] {
        let ran = desk.run(&[&create[..], &[token]].concat());
        ran.failed(2, &["--access-token is", kind, "a user's personal access token (glpat-) is needed"]);
    }
    assert_eq!(desk.runners(), 1);
}

#[test]
fn a_token_in_the_place_of_a_file_is_told() {
    let desk = Desk::new();
    for (words, told) in [
        (&["URL", CREATED][..], "FILE.json is missing"),
        (&["URL", "my.json", CREATED], "TOKEN comes before it"),
        (&["URL", "t", CREATED], "must end in .json"),
        (&["verify", CREATED], "a token was given where the name of a file belongs"),
        (&["unregister", CREATED, "--all"], "a token was given where the name of a file belongs"),
        (&["reset-token", CREATED], "a token was given where the name of a file belongs"),
        (&["convert", "old.json", CREATED], "a token was given where the name of a file belongs"),
        (&["URL", "my.json", "--token-file", CREATED], "--token-file takes the name of a file that holds the token"),
        (&["URL", "my.json", "--project-id", "1", "--access-token-file", "glpat-canary"], "--access-token-file takes"),
        (&["https://glrt-canary", "t", "my.json"], "a token in the URL"),
        (&["URL", "t", "my.json", "--proxy", "glrt-canary"], "a token in the address of the proxy"),
    ] {
        desk.run(words).failed(2, &[told]);
    }
    // Where no prefix shows what it is.
    desk.run(&["verify", "canary0123456789"])
        .failed(5, &["the file given as FILE (its name is not shown", "not found"]);
}

/// Every word of a good command line replaced by a token, and a token before and after each; each word left out; each option
/// with a token as its value, and a token as an option. [`Desk::run_with`] asserts that it shows nowhere.
#[test]
fn a_token_shows_in_no_message_wherever_it_stands() {
    const COMMANDS: &[&[&str]] = &[
        &["URL", "TOKEN", "a.json"],
        &["URL", "b.json", "--token-file", "token"],
        &["URL", "c.json", "--access-token", "TOKEN", "--project-id", "7"],
        &["URL", "d.json", "--access-token-file", "token", "--runner-type", "instance"],
        &["verify", "e.json"],
        &["unregister", "e.json", "--all"],
        &["reset-token", "e.json", "--access-token", "TOKEN"],
        &["convert", "old.json", "new.json"],
    ];
    let desk = Desk::new();
    // Refused as long as it is no runner's: nothing is to be made here.
    desk.gitlab.with(|gitlab, _| {
        (gitlab.settings_mut().registration_allowed, gitlab.settings_mut().creation_allowed) = (false, false)
    });
    fs::write(desk.path("token"), "glrt-canary-of-nobody").unwrap();
    fs::write(desk.path("e.json"), "{\"kind\":\"runner\",\"format\":1,\"token\":\"glrt-canary\"}").unwrap();
    let help = desk.run(&["--help"]).out;
    let word = |c: char| !c.is_ascii_alphanumeric() && c != '-';
    let options: std::collections::BTreeSet<&str> =
        help.split(word).filter(|word| word.starts_with("--") && word.len() > 2).collect();
    assert!(options.len() > 25, "{options:?}");

    let tokens =
        ["glrt-canary0123456789.01.ab", "GR1348941canary", "glpat-canary", "canary0123456789abcdef", "canary/0123+=="];
    let mut lines: std::collections::BTreeSet<Vec<String>> = std::collections::BTreeSet::new();
    for (number, token) in tokens.into_iter().enumerate() {
        for command in COMMANDS {
            let command: Vec<String> =
                command.iter().map(|word| if *word == "TOKEN" { token } else { word }.to_owned()).collect();
            lines.insert(command.clone());
            for at in 0..=command.len() {
                let strange = [token.to_owned(), format!("--{token}"), format!("--{token}=x"), format!("-{token}")];
                // All forms with each token would be thousands of processes. Each form is in each place with some token.
                let form = strange[(at + number) % strange.len()].clone();
                let mut line = command.clone();
                line.insert(at, form.clone());
                lines.insert(line);
                if at < command.len() {
                    let (mut replaced, mut missing) = (command.clone(), command.clone());
                    replaced[at] = token.to_owned();
                    missing.remove(at);
                    lines.extend([replaced, missing]);
                }
            }
        }
        for option in options.iter().skip(number % 2).step_by(2) {
            let base = ["URL".to_owned(), "f.json".to_owned()];
            lines.insert([&base[..], &[(*option).to_owned(), token.to_owned()]].concat());
            lines.insert([&base[..], &[format!("{option}={token}")]].concat());
            lines.insert([&base[..], &[format!("{option}x={token}")]].concat());
        }
        let url = desk.gitlab.url();
        for url in [
            format!("https://{token}"),
            format!("{token}://x"),
            format!("{url}/{token}"),
            format!("{url}/?private_token={token}"),
            url.replace("://", &format!("://oauth2:{token}@")),
        ] {
            lines.insert(vec![url.clone(), token.to_owned(), "g.json".to_owned()]);
            lines.insert(vec![url, token.to_owned()]);
        }
    }
    for (number, line) in lines.iter().enumerate() {
        let mut words: Vec<&str> = line.iter().map(String::as_str).collect();
        // A name server is not to be waited for.
        if !words.iter().any(|word| word.contains("proxy")) {
            words.push("--no-proxy");
        }
        let is_json = number % 2 == 1;
        if is_json {
            words.extend(["--output", "json"]);
        }
        let token = tokens[number % tokens.len()];
        let ran = desk.run_with(&words, &[("GITLAB_RUNNER_TOKEN", token), ("GITLAB_ACCESS_TOKEN", token)], token);
        assert!((0..=6).contains(&ran.code), "{words:?}: {} {}", ran.code, ran.err);
        assert!(
            ran.out.lines().count() + ran.err.lines().count() == 1 || ran.code == 0,
            "{words:?}: {} {}",
            ran.out,
            ran.err
        );
    }
    println!("{} command lines", lines.len());
    assert!(lines.len() > 400);
}

#[test]
fn a_user_creates_a_runner_first() {
    let desk = Desk::new();
    desk.gitlab.with(|gitlab, _| gitlab.set_access_token("glpat-canary"));
    let ran = desk.run(&["URL", "a.json", "--access-token", "glpat-canary", "--project-id", "7", "--tag-list", "x"]);
    ran.succeeded("URL: Successfully registered runner 2");
    desk.run(&["verify", "a.json"]).succeeded("URL: Runner 2 is valid");
    let words = &["URL", "b.json", "--runner-type", "instance"];
    desk.run_with(words, &[("GITLAB_ACCESS_TOKEN", "glpat-canary")], "")
        .succeeded("URL: Successfully registered runner 3");
    let words = &["URL", "c.json", "--group-id", "3", "--access-token-file", "-"];
    desk.run_with(words, &[], "glpat-canary\n").succeeded("URL: Successfully registered runner 4");
    desk.run(&["URL", "d.json", "--access-token", "glpat-wrong", "--project-id", "7"])
        .failed(3, &["401", "create_runner"]);
    desk.gitlab.with(|gitlab, _| gitlab.settings_mut().creation_allowed = false);
    desk.run(&["URL", "d.json", "--access-token", "glpat-canary", "--project-id", "7"])
        .failed(3, &["403", "Insufficient permissions", "the user's role"]);
    assert!(!Path::new(&desk.path("d.json")).exists());
}

#[test]
fn a_runner_is_taken_out_of_gitlab() {
    let desk = Desk::new();
    desk.run(&["URL", REGISTRATION, "a.json"]).succeeded("URL: Successfully registered runner 2");
    desk.run(&["unregister", "a.json"]).succeeded("URL: Runner 2 was removed; its file was kept: a.json");
    desk.run(&["unregister", "a.json"]).failed(3, &["403"]);
    desk.run(&["verify", "a.json"]).failed(3, &["403", "check the token"]);
    desk.run(&["URL", CREATED, "b.json"]).succeeded("URL: Successfully registered runner 1");
    desk.run(&["unregister", "b.json"]).succeeded("URL: Runner 1 was removed; its file was kept: b.json");
    desk.run(&["unregister", "b.json"]).succeeded("URL: Runner 1 was gone already; its file was kept: b.json");
    assert_eq!(desk.runners(), 1, "the runner stays for its other machines");
    desk.run(&["unregister", "b.json", "--all"]).succeeded("URL: Runner 1 was removed; its file was kept: b.json");
    assert_eq!(desk.runners(), 0);
}

#[test]
fn a_token_is_reset() {
    let desk = Desk::new();
    desk.gitlab.with(|gitlab, _| gitlab.set_access_token("glpat-canary"));
    desk.run(&["URL", CREATED, "a.json"]).succeeded("URL: Successfully registered runner 1");
    desk.run(&["URL", CREATED, "b.json"]).succeeded("URL: Successfully registered runner 1");
    desk.run(&["reset-token", "a.json"]).succeeded("URL: Runner 1 has a new token");
    desk.run(&["verify", "a.json"]).succeeded("URL: Runner 1 is valid");
    desk.run(&["reset-token", "b.json"]).failed(3, &["403"]);
    desk.run(&["reset-token", "b.json", "--access-token", "glpat-canary"]).succeeded("URL: Runner 1 has a new token");
    desk.run(&["verify", "b.json"]).succeeded("URL: Runner 1 is valid");
    desk.run(&["verify", "a.json"]).failed(3, &["403"]);
}

/// Text that the Python package wrote, as if it had talked to this desk's GitLab.
fn written_by_python(desk: &Desk, name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python").join(name);
    fs::read_to_string(file).unwrap().replace("http://gitlab.example.test", &desk.gitlab.url())
}

#[test]
fn a_runner_of_the_python_package_is_taken_over() {
    let desk = Desk::new();
    let old = written_by_python(&desk, "runner.json");
    fs::write(desk.path("old.json"), &old).unwrap();
    desk.gitlab.with(|gitlab, _| {
        let token = "glrtr-e4U5Uv-2pbRcPb2joRpB";
        assert_eq!(gitlab.add_runner(token), 2);
    });
    desk.run(&["convert", "old.json", "new.json"]).succeeded("URL: Runner 2 is now in new.json");
    desk.run(&["verify", "new.json"]).succeeded("URL: Runner 2 is valid");
    assert_eq!(fs::read_to_string(desk.path("old.json")).unwrap(), old, "the old file is left as it is");

    desk.run(&["convert", "old.json", "new.json"]).failed(5, &["new.json exists", "--overwrite"]);
    desk.run(&["convert", "old.json", "new.json", "--overwrite"]).succeeded("URL: Runner 2 is now in new.json");
    desk.run(&["convert", "old.json", "new"]).failed(2, &["must end in .json"]);
    desk.run(&["convert", "old.json", "./old.json", "--overwrite"]).failed(2, &["old.json is the old file"]);
    desk.run(&["convert", "new.json", "newer.json"]).failed(5, &["new.json", "neither a runner nor a job"]);
    assert!(!Path::new(&desk.path("newer.json")).exists());
}

#[test]
fn a_job_of_the_python_package_is_taken_over_and_ends() {
    let desk = Desk::new();
    fs::write(desk.path("old.json"), written_by_python(&desk, "job-running.json")).unwrap();
    let sent = written_by_python(&desk, "job-running.trace");
    let id = desk.gitlab.with(|gitlab, now| {
        let id = gitlab.queue(now, NewJob::new("long"));
        let asked = http::Request::post("http://gitlab.test/api/v4/jobs/request")
            .header("content-type", "application/json")
            .body(json!({ "token": CREATED, "system_id": "s_1" }).to_string().into());
        assert_eq!(gitlab.respond(now, asked.unwrap()).status(), 201);
        let token = gitlab.job(id).unwrap().token().to_owned();
        let patch = http::Request::patch(format!("http://gitlab.test/api/v4/jobs/{id}/trace"))
            .header("job-token", token)
            .header("content-range", "0-")
            .body(sent.clone().into());
        assert_eq!(gitlab.respond(now, patch.unwrap()).status(), 202);
        id
    });
    let ran = desk.run(&["convert", "old.json", "job", "--output", "json"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let told: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(told, json!({ "url": "URL", "job_id": id, "folder": "job" }));
    desk.run(&["convert", "old.json", "job"]).failed(5, &["job: a job has its record there already"]);

    let mut job = Job::load(desk.path("job")).unwrap();
    desk.run(&["convert", "old.json", "job"]).failed(5, &["job: a job has its record there already"]);
    job.log().write_all(b"and on it goes\n").unwrap();
    job.success().unwrap();
    desk.gitlab.with(|gitlab, _| {
        let job = gitlab.job(id).unwrap();
        assert_eq!(job.status(), JobStatus::Success);
        assert_eq!(String::from_utf8_lossy(job.trace()), sent + "and on it goes\n");
    });
}

#[test]
fn what_cannot_be_taken_over_is_told_and_left() {
    let desk = Desk::new();
    let good = written_by_python(&desk, "job-unsent.json");
    fs::write(desk.path("old.json"), &good[..good.len() - 1]).unwrap();
    desk.run(&["convert", "old.json", "job"]).failed(5, &["old.json", "damaged", "not changed"]);
    fs::write(desk.path("old.json"), good.replace("\"running\"", "\"asleep\"")).unwrap();
    desk.run(&["convert", "old.json", "job"]).failed(5, &["old.json", "its state", "not changed"]);
    fs::write(desk.path("old.json"), &good).unwrap();
    desk.run(&["convert", "old.json", "job", "--overwrite"]).failed(2, &["old.json is a job"]);
    desk.run(&["convert", "old.json", "old.json"]).failed(2, &["old.json is the old file"]);
    desk.run(&["convert", "old.json"]).failed(2, &["OLD", "NEW"]);
    desk.run(&["convert", "none.json", "new.json"]).failed(5, &["none.json"]);
    desk.run(&["convert", "old.json", "job", "--no-proxy"]).failed(2, &["asks nobody"]);
    desk.run(&["convert", "old.json", "job", "--locked"]).failed(2, &["attributes"]);
    assert!(!Path::new(&desk.path("job")).exists());
    assert_eq!(fs::read_to_string(desk.path("old.json")).unwrap(), good);
}
