//! The page of `simulated-gitlab` in a real browser.
//!
//! With `SIMULATED_GITLAB_PICTURES=FOLDER` the test writes a picture of each thing that it looks at to that folder.

#![cfg(unix)]

use std::fs;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

#[path = "support/browser.rs"]
mod browser;
mod program;

use browser::Browser;
use program::Sim;

/// A job that a runner has got.
struct Job {
    id: u64,
    token: String,
    sent: usize,
}

impl Job {
    fn start(sim: &Sim, job: &Value) -> Self {
        sim.sim("POST", "/_sim/jobs", &job.to_string());
        Self::take(sim)
    }

    fn take(sim: &Sim) -> Self {
        let body = json!({
            "token": sim.told("runner_token"), "system_id": "s_laptop",
            "info": { "features": { "cancel_gracefully": true } },
        });
        let json = "Content-Type: application/json\r\n";
        let (status, payload) = sim.call("POST", "/api/v4/jobs/request", json, &body.to_string()).expect("an answer");
        assert_eq!(status, 201);
        let payload: Value = serde_json::from_str(&payload).expect("JSON");
        let token = payload["token"].as_str().expect("a text").to_owned();
        Self { id: payload["id"].as_u64().expect("a number"), token, sent: 0 }
    }

    fn log(&mut self, sim: &Sim, text: &str) {
        let (start, end) = (self.sent, self.sent + text.len() - 1);
        let headers =
            format!("JOB-TOKEN: {}\r\nContent-Type: text/plain\r\nContent-Range: {start}-{end}\r\n", self.token);
        let path = format!("/api/v4/jobs/{}/trace", self.id);
        assert_eq!(sim.call("PATCH", &path, &headers, text).expect("an answer").0, 202);
        self.sent += text.len();
    }

    fn end(&self, sim: &Sim, state: &str) {
        let update = json!({ "token": self.token, "state": state, "failure_reason": "script_failure", "exit_code": 2 });
        let path = format!("/api/v4/jobs/{}", self.id);
        let json = "Content-Type: application/json\r\n";
        assert_eq!(sim.call("PUT", &path, json, &update.to_string()).expect("an answer").0, 200);
    }
}

/// The folder for pictures, if pictures are asked for.
fn pictures() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("SIMULATED_GITLAB_PICTURES")?);
    fs::create_dir_all(&folder).expect("a folder");
    Some(folder)
}

/// Writes a picture, if pictures are asked for.
fn keep_picture(browser: &mut Browser, name: &str) {
    let Some(folder) = pictures() else { return };
    fs::write(folder.join(name), browser.picture()).expect("a file");
}

/// What a terminal shows while a project is built.
const BUILD: &str = concat!(
    "section_start:1700000000:prepare_executor\r\x1b[0K\x1b[36;1mPreparing the \"shell\" executor\x1b[0;m\n",
    "Using Shell executor...\n",
    "section_end:1700000002:prepare_executor\r\x1b[0K",
    "section_start:1700000002:get_sources\r\x1b[0K\x1b[36;1mGetting source from Git repository\x1b[0;m\n",
    "Fetching changes with git depth set to 20...\n",
    "\x1b[32;1mChecking out 1f0e9d8c as main...\x1b[0;m\n",
    "section_end:1700000009:get_sources\r\x1b[0K",
    "section_start:1700000009:step_script\r\x1b[0K\x1b[36;1mExecuting \"step_script\" stage of the job script\x1b[0;m\n",
    "\x1b[32;1m$ make test\x1b[0;m\n",
    "\x1b[1mbold\x1b[0m \x1b[4munderlined\x1b[0m \x1b[31mred\x1b[0m \x1b[93mbright\x1b[0m \x1b[38;5;208morange\x1b[0m \
     \x1b[38;2;120;200;255mtrue colour\x1b[0m \x1b[41;97m on red \x1b[0m\n",
    "\x1b[33;1mWARNING:\x1b[0;m 2 tests are slow\n",
    "[=====>                   ] 25 %\r[============>            ] 50 %",
);

#[test]
fn the_page_shows_jobs_and_follows_a_log() {
    let sim = Sim::start(&["--update-interval", "3"]);
    let Some(mut browser) = Browser::start() else {
        println!("skipped: there is no browser here to show the page in");
        return;
    };
    for (name, state) in [("compile", "success"), ("unit tests", "failed"), ("lint", "success")] {
        let mut job = Job::start(&sim, &json!({ "name": name }));
        job.log(&sim, "hello\n");
        job.end(&sim, state);
    }
    let mut job = Job::start(&sim, &json!({ "name": "integration tests" }));
    job.log(&sim, BUILD);
    sim.sim("POST", "/_sim/jobs", r#"{"name":"<b>deploy</b> to a place with a rather long name"}"#);

    // The list, newest first.
    browser.resize(960, 560, false);
    browser.prefer("light");
    browser.open(sim.told("page"));
    browser.wait_for("document.querySelectorAll('tbody tr').length === 5");
    assert_eq!(
        browser.evaluate("Array.from(document.querySelectorAll('.badge'), badge => badge.textContent)"),
        json!(["pending", "running", "success", "failed", "success"])
    );
    assert_eq!(browser.evaluate("document.querySelectorAll('td.name b').length"), 0);
    keep_picture(&mut browser, "list.png");
    browser.prefer("dark");
    keep_picture(&mut browser, "list-dark.png");

    // The list changes without being loaded anew.
    browser.evaluate("window.isTheSamePage = true");
    sim.sim("POST", "/_sim/jobs", r#"{"name":"one more"}"#);
    browser.wait_for("document.querySelectorAll('tbody tr').length === 6");
    assert_eq!(browser.evaluate("window.isTheSamePage"), true);

    // What a person types stays, and so does what is marked, while the list changes.
    browser.click("footer summary");
    browser.click("textarea");
    browser.type_text("echo one\necho two");
    sim.sim("POST", "/_sim/jobs", r#"{"name":"still one more"}"#);
    browser.wait_for("document.querySelectorAll('tbody tr').length === 7");
    assert_eq!(browser.evaluate("document.activeElement.value"), "echo one\necho two");

    // A log with colours and a progress bar, whose lines overwrite themselves.
    browser.prefer("light");
    browser.click(&format!("a[href='/jobs/{}']", job.id));
    browser.wait_for("document.querySelector('pre')?.textContent.includes('50 %')");
    let shown = browser.evaluate("document.querySelector('pre').textContent");
    assert!(!shown.as_str().unwrap().contains("25 %"), "{shown}");
    let style = |browser: &mut Browser, text: &str, property: &str| {
        browser.evaluate(&format!(
            "getComputedStyle(Array.from(document.querySelectorAll('pre span')).find(at => at.textContent === {text:?}))\
             .{property}"
        ))
    };
    assert_eq!(style(&mut browser, "orange", "color"), "rgb(255, 135, 0)");
    assert_eq!(style(&mut browser, "true colour", "color"), "rgb(120, 200, 255)");
    assert_eq!(style(&mut browser, "bold", "fontWeight"), "700");
    assert_eq!(style(&mut browser, "underlined", "textDecorationLine"), "underline");
    let plain = browser.evaluate("getComputedStyle(document.querySelector('pre')).color");
    for text in ["red", "bright", " on red "] {
        assert_ne!(style(&mut browser, text, "color"), plain, "{text}");
    }
    assert_ne!(style(&mut browser, " on red ", "backgroundColor"), "rgba(0, 0, 0, 0)");

    // A section that the reader folds stays folded while the log grows.
    browser.evaluate("window.isTheSamePage = true");
    browser.click("details[data-section=get_sources] > summary");
    browser.wait_for("!document.querySelector('details[data-section=get_sources]').open");
    keep_picture(&mut browser, "log.png");
    // The one in the documentation.
    browser.resize(720, 350, false);
    keep_picture(&mut browser, "page.png");
    if let Some(folder) = pictures() {
        let text = format!("{}{}{}", PICTURE.0, STANDARD.encode(browser.picture()), PICTURE.1);
        fs::write(folder.join("picture.md"), text).expect("a file");
    }
    browser.resize(960, 560, false);
    job.log(&sim, "\r[=========================] 100 %\n\x1b[32m✓\x1b[0m 214 passed\n");
    browser.wait_for("document.querySelector('pre').textContent.includes('214 passed')");
    let shown = browser.evaluate("document.querySelector('pre').textContent");
    assert!(shown.as_str().unwrap().contains("100 %") && !shown.as_str().unwrap().contains("50 %"), "{shown}");
    let open = "Array.from(document.querySelectorAll('pre details'), section => section.open)";
    assert_eq!(browser.evaluate(open), json!([true, false, true]));
    assert_eq!(
        browser.evaluate("Array.from(document.querySelectorAll('pre .duration'), span => span.textContent)"),
        json!(["00:02", "00:07"])
    );

    // The button cancels the job, and the page tells it. This runner ends a job that is cancelled by itself.
    browser.click("button[data-post$='/cancel']");
    browser.wait_for("document.querySelector('.badge').textContent === 'canceling'");
    assert_eq!(sim.sim("GET", &format!("/_sim/jobs/{}", job.id), "").1["status"], "canceling");
    job.end(&sim, "failed");
    browser.wait_for("document.querySelector('.badge').textContent === 'canceled'");
    browser.wait_for("document.querySelector(\"button[data-post$='/retry']\")");
    assert_eq!(browser.evaluate(open), json!([true, false, true]));
    assert_eq!(browser.evaluate("window.isTheSamePage"), true);
    keep_picture(&mut browser, "canceled.png");
    browser.prefer("dark");
    keep_picture(&mut browser, "canceled-dark.png");

    // Dark and light pages are what they are called: the sum of red, green and blue of the page behind everything.
    let brightness = "(() => { const root = document.documentElement; root.style.backgroundColor = 'Canvas'; \
                      const sum = getComputedStyle(root).backgroundColor.match(/\\d+/g).slice(0, 3)\
                      .reduce((sum, part) => sum + Number(part), 0); root.style.backgroundColor = ''; return sum; })()";
    let dark = browser.evaluate(brightness).as_u64().unwrap();
    browser.prefer("light");
    let light = browser.evaluate(brightness).as_u64().unwrap();
    assert!(dark < 200 && light > 700, "{dark} {light}");

    // Nothing is wider than a phone, except for the table, which is scrolled by itself.
    browser.resize(390, 844, true);
    for (path, picture) in [(format!("/jobs/{}", job.id), "phone-log.png"), ("/".to_owned(), "phone-list.png")] {
        browser.open(&format!("{}{path}", sim.told("url")));
        browser.wait_for("document.querySelector('main')");
        let width = browser.evaluate("[innerWidth, document.documentElement.scrollWidth]");
        assert_eq!(width, json!([390, 390]), "{path}");
        keep_picture(&mut browser, picture);
    }
    // The buttons of a job are in sight.
    let right = "Array.from(document.querySelectorAll('td button'), it => it.getBoundingClientRect().right)";
    assert!(browser.evaluate(&format!("Math.max(...{right}) <= 390")).as_bool().unwrap());
    // A table that is wider than its place stays where the reader has scrolled it.
    browser.resize(640, 844, false);
    browser.evaluate("document.querySelector('.wide').scrollLeft = 120");
    browser.evaluate("window.shown = document.querySelector('main')");
    sim.sim("POST", "/_sim/jobs", r#"{"name":"another"}"#);
    browser.wait_for("document.querySelector('main') !== window.shown");
    assert_eq!(browser.evaluate("document.querySelector('.wide').scrollLeft"), 120);

    // A job that is queued by the form.
    browser.resize(960, 560, false);
    browser.click("footer summary");
    browser.click("textarea");
    browser.type_text("echo one\necho two");
    keep_picture(&mut browser, "form.png");
    browser.click("form button");
    browser.wait_for("document.querySelectorAll('tbody tr').length === 9");
    let (_, jobs) = sim.sim("GET", "/_sim/jobs", "");
    assert_eq!(jobs.as_array().unwrap().last().unwrap()["name"], "test");

    // A refusal is told, and does not vanish with the next look at the server.
    sim.sim("POST", &format!("/_sim/jobs/{}/retry", job.id), "");
    browser.wait_for("document.querySelectorAll('tbody tr').length === 10");
    browser.click(&format!("button[data-post='/_sim/jobs/{}/retry']", job.id));
    browser.wait_for("document.querySelector('#problem').textContent.includes('was retried already')");
    sim.sim("POST", "/_sim/jobs", "{}");
    browser.wait_for("document.querySelectorAll('tbody tr').length === 11");
    let told = browser.evaluate("document.querySelector('#problem').textContent");
    assert!(told.as_str().unwrap().contains("was retried already"), "{told}");
}

/// What stands before the picture in the documentation, and after it. The picture is in the text because docs.rs serves no files
/// of a package.
const PICTURE: (&str, &str) = (
    "![The page of a job that runs: its status, a button to cancel it, and its log with colours, a folded section and a progress \
     bar](data:image/png;base64,",
    ")\n",
);

#[test]
fn the_documentation_shows_a_picture() {
    let shown = include_str!("../src/sim/page/picture.md");
    let data = shown.strip_prefix(PICTURE.0).and_then(|rest| rest.strip_suffix(PICTURE.1)).expect("a picture");
    let picture = STANDARD.decode(data).expect("base64");
    assert!(picture.starts_with(b"\x89PNG\r\n\x1a\n") && picture.len() < 60_000, "{} bytes", picture.len());
}

/// What the server sends is a page also for those who have no script.
#[test]
fn the_page_is_whole_without_a_script() {
    let sim = Sim::start(&[]);
    let mut job = Job::start(&sim, &json!({ "name": "<b>watched" }));
    job.log(&sim, "section_start:1:s\r\x1b[0KTitle\n\x1b[32mgreen\x1b[0m\nsection_end:2:s\r\x1b[0K<script>");
    let form = "--xx\r\nContent-Disposition: form-data; name=\"file\"; filename=\"<img src=x onerror=alert(1)>.zip\"\r\n\r\n\
                PK\r\n--xx--\r\n";
    let headers = format!("JOB-TOKEN: {}\r\nContent-Type: multipart/form-data; boundary=xx\r\n", job.token);
    let path = format!("/api/v4/jobs/{}/artifacts", job.id);
    assert_eq!(sim.call("POST", &path, &headers, form).unwrap().0, 201);
    let page = sim.call("GET", "/", "", "").unwrap().1;
    assert!(page.contains("&lt;b&gt;watched") && page.contains("running") && !page.contains("<b>watched"));
    let page = sim.call("GET", &format!("/jobs/{}", job.id), "", "").unwrap().1;
    assert!(page.contains("<span class=\"f2\">green</span>") && page.contains("&lt;script&gt;"), "{page}");
    assert!(page.contains("<span class=\"duration\">00:01</span>Title</summary>"), "{page}");
    assert!(page.contains("&lt;img src=x onerror=alert(1)&gt;.zip") && !page.contains("<img"), "{page}");
    assert_eq!(sim.call("GET", "/jobs/7", "", "").unwrap().0, 404);
}

/// What a log may contain beside well-formed lines: a wide line, a table, colours on colours, dim and hidden text, links, cursor
/// moves, bytes that are no text, a section that begins in the middle of a line and one that never ends.
const ROUGH: &str = concat!(
    "section_start:1700000000:step_script\r\x1b[0K\x1b[36;1mExecuting \"step_script\" stage of the job script\x1b[0;m\n",
    "\x1b[0K\x1b[32;1m$ cargo test --workspace --all-features\x1b[0;m\n",
    "https://gitlab.example.test/acme/widgets/-/jobs/artifacts/main/raw/target/criterion/report/index.html?job=benchmarks&with=a-very-long-query-that-never-ends\n",
    "| name      | before |  after |\n| --------- | ------ | ------ |\n| requests  |  12345 |  23456 |\n",
    "\x1b[30mblack\x1b[31m red\x1b[32m green\x1b[33m yellow\x1b[34m blue\x1b[35m magenta\x1b[36m cyan\x1b[37m white\x1b[0m\n",
    "\x1b[90mblack\x1b[91m red\x1b[92m green\x1b[93m yellow\x1b[94m blue\x1b[95m magenta\x1b[96m cyan\x1b[97m white\x1b[0m\n",
    "\x1b[40mblack\x1b[41m red\x1b[42m green\x1b[43m yellow\x1b[44m blue\x1b[45m magenta\x1b[46m cyan\x1b[47m white\x1b[0m\n",
    "\x1b[100mblack\x1b[101m red\x1b[102m green\x1b[103m yellow\x1b[104m blue\x1b[105m magenta\x1b[106m cyan\x1b[107m white\x1b[0m\n",
    "\x1b[38;5;16mblack\x1b[38;5;18m navy\x1b[38;5;235m grey\x1b[38;2;10;10;40m midnight\x1b[0m \x1b[7mreverse\x1b[0m \x1b[2mdim\x1b[0m \x1b[8mhidden\x1b[0m\n",
    "a \x1b]8;;javascript:alert(1)\x1b\\link\x1b]8;;\x07 and a title \x1b]0;evil\x07.\n",
    "one\x1b[2Atwo\x1b[5Cthree\x1b[2Kfour \u{fffd} end\n",
    "text before section_start:1700000003:middle[collapsed=true]\r\x1b[0KA folded section with a name that is so long that it does not stand on one line of a phone\ninside\nsection_end:1700000075:middle\r\x1b[0K",
    "section_start:1700000080:open_end\r\x1b[0KA section that does not end\n",
    "Downloading    0%\rDownloading   57%\rDownloading  100%\n",
    "last line",
);

#[test]
fn the_page_bears_what_is_rough() {
    let sim = Sim::start(&[]);
    let Some(mut browser) = Browser::start() else {
        println!("skipped: there is no browser here to show the page in");
        return;
    };
    browser.prefer("light");
    browser.resize(960, 560, false);
    browser.open(sim.told("page"));
    keep_picture(&mut browser, "empty.png");
    let name =
        "integration/with-a-name-that-has-no-place-to-break-and-goes-on-and-on-and-on-until-nobody-reads-it-any-more";
    let mut job = Job::start(&sim, &json!({ "name": name, "stage": "a stage" }));
    browser.wait_for("document.querySelector('td.name')");
    keep_picture(&mut browser, "one.png");
    browser.open(&format!("{}/jobs/{}", sim.told("url"), job.id));
    assert!(
        browser.evaluate("document.querySelector('main').innerText.includes('There is no log.')").as_bool().unwrap()
    );
    keep_picture(&mut browser, "no-log.png");
    job.log(&sim, ROUGH);
    browser.wait_for("document.querySelector('pre')?.textContent.includes('last line')");
    // What could lead somewhere, and what is for a terminal, is not there.
    let shown = browser.evaluate("document.querySelector('pre').innerText");
    let shown = shown.as_str().unwrap();
    assert!(
        shown.contains("a link and a title .") && !shown.contains("javascript") && !shown.contains("57%"),
        "{shown}"
    );
    assert_eq!(browser.evaluate("document.querySelectorAll('pre a, pre script').length"), 0);
    // No text has the colour of what is behind it, but for what the job wants to hide.
    let same = "Array.from(document.querySelectorAll('pre span'), it => getComputedStyle(it))\
                .filter(it => it.visibility !== 'hidden' && it.color === it.backgroundColor).length";
    assert_eq!(browser.evaluate(same), 0);
    for (scheme, width, height, phone, picture) in [
        ("light", 960, 760, false, "rough.png"),
        ("dark", 960, 760, false, "rough-dark.png"),
        ("light", 390, 844, true, "rough-phone.png"),
        ("dark", 390, 844, true, "rough-phone-dark.png"),
    ] {
        browser.prefer(scheme);
        browser.resize(width, height, phone);
        browser.wait_for(&format!("innerWidth === {width}"));
        browser.evaluate("scrollTo(0, 0)");
        keep_picture(&mut browser, picture);
        let wide = browser.evaluate("document.documentElement.scrollWidth");
        assert_eq!(wide, json!(width), "{picture}");
    }
}
