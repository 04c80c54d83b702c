//! The option `--repository` of the program `simulated-gitlab`: jobs can be cloned with their tokens, and by nobody else.

#![cfg(unix)]

mod program;

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gitlab_runner_api_testkit::TimeLimit;
use program::{Sim, has};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with a repository `work`, and places for clones of it.
struct Desk {
    folder: TempDir,
}

impl Desk {
    /// `None`, and a reason is printed, if there is no git.
    fn new() -> Option<Self> {
        if !has("git") {
            println!("skipped: there is no git here");
            return None;
        }
        let desk = Self { folder: tempfile::tempdir().unwrap() };
        desk.git(".", &["init", "--quiet", "--initial-branch", "trunk", "work"]);
        Some(desk)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, at: &str, words: &[&str], vars: &[(&str, &str)]) -> Output {
        let mut command = Command::new("git");
        // Neither the configuration nor the repository of the person who runs the test.
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_SSL_CAINFO"] {
            command.env_remove(name);
        }
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0");
        command.env("NO_PROXY", "*").env("no_proxy", "*").envs(vars.iter().copied());
        let who = [("user.name", "Grace <Example>"), ("user.email", "grace@example.test")];
        command.args(who.iter().flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]));
        command.args(words).current_dir(self.path(at)).output().expect("git")
    }

    /// What git prints. It must succeed.
    #[track_caller]
    fn git(&self, at: &str, words: &[&str]) -> String {
        let output = self.run(at, words, &[]);
        assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Commits a file with this content, and returns the commit.
    fn commit(&self, content: &str, message: &str) -> String {
        fs::write(self.path("work/file"), content).unwrap();
        self.git("work", &["add", "file"]);
        self.git("work", &["commit", "--quiet", "--message", message]);
        self.git("work", &["rev-parse", "HEAD"])
    }

    fn serve(&self, words: &[&str]) -> Sim {
        Sim::start(&[&["--repository", self.path("work").to_str().unwrap()], words].concat())
    }
}

/// Queues a job, gets it as a runner, and returns its payload.
fn job(sim: &Sim, described: &Value) -> Value {
    let (status, told) = sim.sim("POST", "/_sim/jobs", &described.to_string());
    assert_eq!(status, 201, "{told}");
    let ask = json!({ "token": sim.told("runner_token"), "info": { "features": { "refspecs": true } } }).to_string();
    let (status, payload) =
        sim.call("POST", "/api/v4/jobs/request", "Content-Type: application/json\r\n", &ask).unwrap();
    assert_eq!(status, 201, "{payload}");
    serde_json::from_str(&payload).unwrap()
}

fn repo_url(payload: &Value) -> &str {
    payload["git_info"]["repo_url"].as_str().unwrap()
}

fn variable<'p>(payload: &'p Value, key: &str) -> &'p str {
    let variables = payload["variables"].as_array().unwrap();
    variables.iter().find(|variable| variable["key"] == key).and_then(|found| found["value"].as_str()).unwrap()
}

fn end(sim: &Sim, payload: &Value) {
    let body = json!({ "token": payload["token"], "state": "success" }).to_string();
    let path = format!("/api/v4/jobs/{}", payload["id"]);
    assert_eq!(sim.call("PUT", &path, "Content-Type: application/json\r\n", &body).unwrap().0, 200);
}

fn basic(user: &str, password: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{password}")))
}

#[test]
fn a_job_is_cloned_with_its_token_and_not_without() {
    let Some(desk) = Desk::new() else { return };
    desk.commit("one", "First");
    let sha = desk.commit("two", "Title of it\n\nWhat it does.\nAnd why.");
    let sim = desk.serve(&["--root", "/gitlab"]);
    let payload = job(&sim, &json!({ "name": "clone" }));
    assert_eq!((&payload["git_info"]["sha"], &payload["git_info"]["ref"]), (&json!(sha), &json!("trunk")));
    for (key, value) in [
        ("CI_COMMIT_SHA", sha.as_str()),
        ("CI_COMMIT_SHORT_SHA", &sha[..8]),
        ("CI_COMMIT_BRANCH", "trunk"),
        ("CI_DEFAULT_BRANCH", "trunk"),
        ("CI_COMMIT_TITLE", "Title of it"),
        ("CI_COMMIT_MESSAGE", "Title of it\n\nWhat it does.\nAnd why.\n"),
        ("CI_COMMIT_DESCRIPTION", "\nWhat it does.\nAnd why."),
        // Git leaves out the angle brackets.
        ("CI_COMMIT_AUTHOR", "Grace Example <grace@example.test>"),
        ("CI_COMMIT_TIMESTAMP", &desk.git("work", &["log", "-1", "--format=%cI"])),
    ] {
        assert_eq!(variable(&payload, key), value, "{key}");
    }
    desk.git(".", &["clone", "--quiet", repo_url(&payload), "clone"]);
    assert_eq!(desk.git("clone", &["rev-parse", "HEAD"]), sha);
    assert_eq!(desk.git("clone", &["log", "--format=%s"]), "Title of it\nFirst");
    assert_eq!(fs::read_to_string(desk.path("clone/file")).unwrap(), "two");
    desk.git("clone", &["fsck", "--strict"]);

    let access = format!("PRIVATE-TOKEN: {}\r\n", sim.told("access_token"));
    let shown = sim.call("GET", &format!("/api/v4/projects/4242/jobs/{}", payload["id"]), &access, "").unwrap().1;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["commit"]["id"], &shown["commit"]["title"]), (&json!(sha), &json!("Title of it")));
    let project = sim.call("GET", "/api/v4/projects/4242", &access, "").unwrap().1;
    assert_eq!(serde_json::from_str::<Value>(&project).unwrap()["default_branch"], "trunk");

    let token = payload["token"].as_str().unwrap();
    let with = |user: &str, password: &str| {
        repo_url(&payload).replace(&format!("gitlab-ci-token:{token}"), &format!("{user}:{password}"))
    };
    let refused = |url: &str| {
        let output = desk.run(".", &["clone", "--quiet", url, "refused"], &[]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && !desk.path("refused").exists(), "{url}: {told}");
        told
    };
    let anonymous = repo_url(&payload).replace(&format!("gitlab-ci-token:{token}@"), "");
    assert!(refused(&anonymous).contains("could not read Username"));
    for (user, password) in
        [("gitlab-ci-token", "wrong"), ("ada", token), ("gitlab-ci-token", sim.told("access_token")), (token, "")]
    {
        assert!(refused(&with(user, password)).contains("Authentication failed"), "{user}");
    }
    end(&sim, &payload);
    assert!(refused(repo_url(&payload)).contains("Authentication failed"), "its job has ended");
}

#[test]
fn a_runner_fetches_what_the_payload_names() {
    let Some(desk) = Desk::new() else { return };
    let first = desk.commit("one", "First");
    desk.git("work", &["tag", "--annotate", "--message", "Of it", "v1"]);
    desk.git("work", &["tag", "light"]);
    desk.git("work", &["checkout", "--quiet", "-b", "topic/deep"]);
    let topic = desk.commit("two", "Second");
    desk.git("work", &["checkout", "--quiet", "trunk"]);
    let sim = desk.serve(&[]);
    for (number, (described, sha, git_ref)) in [
        (json!({}), &first, "trunk"),
        (json!({ "branch": "topic/deep" }), &topic, "topic/deep"),
        (json!({ "git_tag": "v1" }), &first, "v1"),
        (json!({ "git_tag": "light" }), &first, "light"),
        (json!({ "merge_request": { "iid": 5, "source_branch": "topic/deep" } }), &topic, "refs/merge-requests/5/head"),
    ]
    .iter()
    .enumerate()
    {
        let payload = job(&sim, described);
        let git = &payload["git_info"];
        assert_eq!((&git["sha"], &git["ref"], &git["depth"]), (&json!(sha), &json!(git_ref), &json!(0)), "{described}");
        if described["git_tag"].is_string() {
            let message = if *git_ref == "v1" { "Of it" } else { "" };
            assert_eq!(variable(&payload, "CI_COMMIT_TAG_MESSAGE"), message);
        }
        // The commands of GitLab's own runner.
        let at = format!("build{number}");
        desk.git(".", &["init", "--quiet", &at]);
        desk.git(&at, &["remote", "add", "origin", repo_url(&payload)]);
        let refspecs = git["refspecs"].as_array().unwrap().iter().map(|refspec| refspec.as_str().unwrap());
        desk.git(&at, &["fetch", "origin", "--prune", "--quiet"].into_iter().chain(refspecs).collect::<Vec<_>>());
        desk.git(&at, &["checkout", "--quiet", "--force", "--detach", sha]);
        let content = if *sha == &first { "one" } else { "two" };
        assert_eq!(fs::read_to_string(desk.path(&at).join("file")).unwrap(), content);
        end(&sim, &payload);
    }
    for (described, missing) in [
        (json!({ "branch": "moon" }), "refs/heads/moon"),
        (json!({ "git_tag": "moon" }), "refs/tags/moon"),
        (json!({ "merge_request": { "iid": 5, "source_branch": "moon" } }), "refs/heads/moon"),
        // These are no names of branches, although git could find a commit by them.
        (json!({ "branch": "trunk~0" }), "refs/heads/trunk~0"),
        (json!({ "branch": "tr*" }), "refs/heads/tr*"),
        (json!({ "branch": "topic" }), "refs/heads/topic"),
        (json!({ "branch": "" }), "refs/heads/"),
    ] {
        let (status, told) = sim.sim("POST", "/_sim/jobs", &described.to_string());
        assert_eq!((status, &told["error"]), (400, &json!(format!("the repository has no {missing}"))), "{described}");
    }
}

/// The repository may change while it is served, also the way in which it is stored. A job that is retried keeps its commit.
#[test]
fn the_repository_may_change() {
    let Some(desk) = Desk::new() else { return };
    let first = desk.commit("one", "First");
    let sim = desk.serve(&[]);
    let old = job(&sim, &json!({}));
    end(&sim, &old);
    let second = desk.commit("two", "Second");
    // What `git update-server-info` left some time ago is not what is served.
    fs::create_dir_all(desk.path("work/.git/info")).unwrap();
    fs::write(desk.path("work/.git/info/refs"), format!("{first}\trefs/heads/trunk\n")).unwrap();
    desk.git("work", &["gc", "--quiet"]);
    let third = desk.commit("three", "Third");
    let new = job(&sim, &json!({}));
    assert_eq!(new["git_info"]["sha"], json!(third));
    desk.git(".", &["clone", "--quiet", repo_url(&new), "new"]);
    assert_eq!(desk.git("new", &["log", "--format=%H"]), [third, second, first.clone()].join("\n"));

    assert_eq!(sim.sim("POST", &format!("/_sim/jobs/{}/retry", old["id"]), "").0, 201);
    let again: Value = serde_json::from_str(&sim.request_job().unwrap().1).unwrap();
    assert_eq!(again["git_info"]["sha"], json!(first));
    desk.git(".", &["clone", "--quiet", repo_url(&again), "again"]);
    desk.git("again", &["checkout", "--quiet", &first]);
}

#[test]
fn bare_repositories_and_linked_worktrees_are_served() {
    let Some(desk) = Desk::new() else { return };
    let sha = desk.commit("one", "First");
    desk.git("work", &["branch", "other"]);
    desk.git(".", &["clone", "--quiet", "--bare", "work", "bare.git"]);
    desk.git("work", &["worktree", "add", "--quiet", "../linked", "other"]);
    for (name, branch) in [("bare.git", "trunk"), ("linked", "other")] {
        let sim = Sim::start(&["--repository", desk.path(name).to_str().unwrap()]);
        let payload = job(&sim, &json!({}));
        assert_eq!((&payload["git_info"]["ref"], &payload["git_info"]["sha"]), (&json!(branch), &json!(sha)), "{name}");
        let clone = format!("clone-of-{name}");
        desk.git(".", &["clone", "--quiet", repo_url(&payload), &clone]);
        assert_eq!(desk.git(&clone, &["rev-parse", "--abbrev-ref", "HEAD"]), branch);
    }
    desk.git(".", &["clone", "--quiet", "--shared", "work", "borrowing"]);
    desk.commit("two", "Second");
    let local = format!("file://{}", desk.path("work").display());
    desk.git(".", &["clone", "--quiet", "--depth", "1", &local, "shallow"]);
    desk.git("work", &["config", "uploadpack.allowFilter", "true"]);
    desk.git(".", &["clone", "--quiet", "--filter", "blob:none", &local, "partial"]);
    desk.git(".", &["init", "--quiet", "empty"]);
    fs::create_dir(desk.path("nothing")).unwrap();
    for (name, why) in [
        ("borrowing", "borrows objects"),
        ("shallow", "only a part of the history"),
        ("partial", "partial clone"),
        ("empty", "no branch with a commit"),
        ("nothing", "not a git repository"),
        ("moon", "--repository"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_simulated-gitlab"));
        let output = command.args(["--listen", "127.0.0.1:0", "--repository"]).arg(desk.path(name)).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && told.contains(why) && told.lines().count() == 1, "{name}: {told}");
    }
}

#[test]
fn nothing_but_objects_is_served_and_only_to_jobs() {
    let Some(desk) = Desk::new() else { return };
    let sha = desk.commit("one", "First");
    let secret = desk.path("secret");
    fs::write(&secret, "secret").unwrap();
    let objects = desk.path("work/.git/objects");
    // Links with the names of an object and of a pack, to a file elsewhere and to a folder elsewhere.
    let stray = "0123456789abcdef0123456789abcdef01234567";
    fs::create_dir_all(objects.join("ff")).unwrap();
    std::os::unix::fs::symlink(&secret, objects.join("ff").join(&stray[2..])).unwrap();
    std::os::unix::fs::symlink(&secret, objects.join(format!("pack/pack-{stray}.pack"))).unwrap();
    fs::create_dir_all(desk.path("elsewhere")).unwrap();
    fs::write(desk.path("elsewhere").join(&stray[2..]), "secret").unwrap();
    std::os::unix::fs::symlink(desk.path("elsewhere"), objects.join("fe")).unwrap();
    fs::write(desk.path("work/.git/config"), "[core]\n\trepositoryformatversion = 0\n[x]\n\ty = secret\n").unwrap();

    let sim = desk.serve(&[]);
    let payload = job(&sim, &json!({}));
    let token = payload["token"].as_str().unwrap();
    let object = format!("objects/{}/{}", &sha[..2], &sha[2..]);
    let served = ["HEAD", "info/refs", "info/refs?service=git-upload-pack", "objects/info/packs", &object];
    for (credentials, status) in [
        (basic("gitlab-ci-token", token), 200),
        (basic("gitlab-ci-token", token).replace("Basic", "basic"), 200),
        (String::new(), 401),
        (basic("gitlab-ci-token", "wrong"), 401),
        (basic("root", token), 401),
        (format!("Authorization: Bearer {token}\r\n"), 401),
        (format!("JOB-TOKEN: {token}\r\n"), 401),
        ("Authorization: Basic !!!\r\n".to_owned(), 401),
        ("Authorization: Basic\r\n".to_owned(), 401),
    ] {
        for path in served {
            let (head, body) = sim.exchange("GET", &format!("/acme/widgets.git/{path}"), &credentials, "").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {credentials}: {head}");
            let challenged = head.to_lowercase().contains("www-authenticate: basic realm=\"gitlab\"");
            assert_eq!(challenged, status == 401, "{head}");
            assert!(status == 200 || !body.contains(&sha), "{body}");
        }
    }
    let credentials = basic("gitlab-ci-token", token);
    for path in [
        "",
        "config",
        "index",
        "description",
        "logs/HEAD",
        "refs/heads/trunk",
        "packed-refs",
        "objects/info/alternates",
        "objects/../config",
        "objects/..%2fconfig",
        "objects/%2e%2e/config",
        "objects/pack/../../config",
        "objects/pack/pack-../../../config.pack",
        "../widgets.git/config",
        "..%2f..%2fsecret",
        "../../../../../../../../etc/passwd",
        "objects//etc/passwd",
        &format!("objects/ff/{}", &stray[2..]),
        &format!("objects/fe/{}", &stray[2..]),
        &format!("objects/pack/pack-{stray}.pack"),
        "objects/ff",
        "objects/pack",
    ] {
        let (status, body) = sim.call("GET", &format!("/acme/widgets.git/{path}"), &credentials, "").unwrap();
        assert!(status == 404 && !body.contains("secret"), "{path}: {status} {body}");
    }
    for method in ["POST", "PUT", "DELETE"] {
        for path in ["git-upload-pack", "git-receive-pack", "HEAD", &object] {
            let status = sim.call(method, &format!("/acme/widgets.git/{path}"), &credentials, "").unwrap().0;
            assert_eq!(status, 403, "{method} {path}");
        }
    }
    // A job that no runner has got yet cannot clone.
    let (_, pending) = sim.sim("POST", "/_sim/jobs", "{}");
    let told = sim.sim("GET", &format!("/_sim/jobs/{}/token", pending["id"]), "").1;
    let early = basic("gitlab-ci-token", told["token"].as_str().unwrap());
    assert_eq!(sim.call("GET", "/acme/widgets.git/HEAD", &early, "").unwrap().0, 401);
    assert_eq!(sim.sim("POST", &format!("/_sim/jobs/{}/revoke_token", payload["id"]), "").0, 200);
    assert_eq!(sim.call("GET", "/acme/widgets.git/HEAD", &credentials, "").unwrap().0, 401);
    // Without a repository, there is nothing to ask a password for.
    let none = Sim::start(&[]);
    assert_eq!(none.call("GET", "/acme/widgets.git/info/refs", "", "").unwrap().0, 404);
}

/// Jobs are queued and clones are made while git takes its time. Everybody else is served, and the program ends.
#[test]
fn a_slow_git_delays_nobody_else() {
    let Some(desk) = Desk::new() else { return };
    let sha = desk.commit("one", "First");
    let (tools, hold, started) = (desk.path("tools"), desk.path("hold"), desk.path("started"));
    fs::create_dir(&tools).unwrap();
    let real = String::from_utf8(Command::new("sh").args(["-c", "command -v git"]).output().unwrap().stdout).unwrap();
    let slow = format!(
        "#!/bin/sh\nif test -e '{}'; then echo >>'{}'; fi\nwhile test -e '{}'; do sleep 0.05; done\nexec '{}' \"$@\"\n",
        hold.display(),
        started.display(),
        hold.display(),
        real.trim()
    );
    fs::write(tools.join("git"), slow).unwrap();
    fs::set_permissions(tools.join("git"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap_or_default());
    let work = desk.path("work");
    let words = ["--repository", work.to_str().unwrap()];
    let sim = Sim::start_with(TimeLimit::TEST, &words, &[("PATH", &path)]);
    let payload = job(&sim, &json!({}));
    let credentials = basic("gitlab-ci-token", payload["token"].as_str().unwrap());

    let begin = |number: usize| {
        while fs::read(&started).unwrap_or_default().len() < number {
            thread::sleep(Duration::from_millis(20));
        }
    };
    let (queued, listed) = thread::scope(|scope| {
        fs::write(&hold, "").unwrap();
        let queued = scope.spawn(|| sim.sim("POST", "/_sim/jobs", r#"{"name":"slow"}"#));
        let listed = scope.spawn(|| sim.call("GET", "/acme/widgets.git/info/refs", &credentials, ""));
        begin(2);
        // While git hangs.
        assert_eq!(sim.sim("GET", "/_sim/jobs", "").1.as_array().map(Vec::len), Some(1));
        assert_eq!(sim.request_job().unwrap().0, 204);
        fs::remove_file(&hold).unwrap();
        (queued.join().unwrap(), listed.join().unwrap().unwrap())
    });
    assert_eq!((queued.0, listed.0), (201, 200));
    assert!(listed.1.contains(&format!("{sha}\trefs/heads/trunk\n")), "{}", listed.1);
    let (_, jobs) = sim.sim("GET", "/_sim/jobs", "");
    assert_eq!(jobs[1]["name"], "slow");

    fs::remove_file(&started).unwrap();
    fs::write(&hold, "").unwrap();
    let mut client = TcpStream::connect(sim.address()).unwrap();
    let head = format!("GET /acme/widgets.git/info/refs HTTP/1.1\r\nHost: localhost\r\n{credentials}\r\n");
    client.write_all(head.as_bytes()).unwrap();
    begin(1);
    assert_eq!(sim.terminate(), 0, "it ends although git hangs");
    fs::remove_file(&hold).unwrap();
}

/// Names of branches and tags, messages and authors may contain HTML. Git forbids only a few characters.
#[test]
fn a_script_in_the_names_of_a_repository_does_no_harm() {
    let Some(desk) = Desk::new() else { return };
    let evil = "<img/src=x/onerror=\"alert(1)\">";
    desk.commit("one", &format!("{evil}\n\n<script>alert(2)</script>"));
    desk.git("work", &["branch", evil]);
    desk.git("work", &["tag", evil]);
    let sim = desk.serve(&[]);
    let branch = job(&sim, &json!({ "branch": evil, "name": format!("on {evil}") }));
    let tag = job(&sim, &json!({ "git_tag": evil, "stage": evil }));
    assert_eq!(variable(&branch, "CI_COMMIT_REF_NAME"), evil);
    assert_eq!(variable(&tag, "CI_COMMIT_TAG"), evil);
    desk.git(".", &["clone", "--quiet", "--branch", evil, repo_url(&branch), "clone"]);
    let token = sim.told("control_token");
    let port = sim.address().rsplit_once(':').unwrap().1;
    let cookie = format!("Cookie: control_token_{port}={token}\r\n");
    for path in ["/".to_owned(), format!("/jobs/{}", branch["id"]), format!("/jobs/{}", tag["id"])] {
        let (head, page) = sim.exchange("GET", &path, &cookie, "").unwrap();
        assert!(!page.contains("<img") && !page.contains("alert(2)</script>"), "{path}: {page}");
        assert!(head.to_lowercase().contains("script-src 'self'"), "{head}");
    }
    assert!(sim.call("GET", "/", "", "").unwrap().1.contains("on &lt;img/src=x"));
}

#[cfg(feature = "tls")]
#[test]
fn a_job_is_cloned_over_tls_with_the_printed_ca_file() {
    let Some(desk) = Desk::new() else { return };
    if !has("curl") {
        println!("skipped: there is no curl here");
        return;
    }
    let sha = desk.commit("one", "First");
    let sim = desk.serve(&["--tls", "--root", "/gitlab"]);
    let (url, ca_file) = (sim.told("url"), sim.told("ca_file"));
    let curl = |header: &str, body: &Value, path: &str| -> Value {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--noproxy", "*", "--cacert", ca_file, "--header", header]);
        command.args(["--header", "Content-Type: application/json", "--data", &body.to_string()]);
        let output = command.arg(format!("{url}{path}")).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    };
    curl(&format!("Control-Token: {}", sim.told("control_token")), &json!({}), "/_sim/jobs");
    let payload =
        curl("Accept: application/json", &json!({ "token": sim.told("runner_token") }), "/api/v4/jobs/request");
    assert!(repo_url(&payload).starts_with("https://gitlab-ci-token:") && repo_url(&payload).contains("/gitlab/acme/"));
    assert_eq!(variable(&payload, "CI_SERVER_PROTOCOL"), "https");
    let clone = |to: &str, vars: &[(&str, &str)]| desk.run(".", &["clone", "--quiet", repo_url(&payload), to], vars);
    let cloned = clone("clone", &[("GIT_SSL_CAINFO", ca_file)]);
    assert!(cloned.status.success(), "{}", String::from_utf8_lossy(&cloned.stderr));
    assert_eq!(desk.git("clone", &["rev-parse", "HEAD"]), sha);
    let untrusted = clone("refused", &[]);
    assert!(!untrusted.status.success() && !desk.path("refused").exists());
}
