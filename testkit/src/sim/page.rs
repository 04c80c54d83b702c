//! The pages for a person who watches: the jobs, and one job with its log.
//!
//! The server renders all of it. A small script asks for the page again and replaces its main part, so that a log grows while
//! one looks at it. What the page shows is copied under the lock. Another thread renders it, so that runners do not wait. What is shown
//! comes from runners and jobs, so every text is escaped, and the browser is told to run no script but that one.

mod log;

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::Timestamp;
use http::header::{
    ALLOW, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, LOCATION, SET_COOKIE,
};
use http::{Method, Request, Response, StatusCode};

use super::control;
use super::guard::{self, Guard};
use crate::coordinator::{Coordinator, JobRecord, JobStatus};
use crate::server::Root;

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
const STYLE_PATH: &str = "/_page/page.css";
const SCRIPT_PATH: &str = "/_page/page.js";
/// What begins the path of the page of a job.
const JOB_PATH: &str = "/jobs/";

/// The colours of a log that are no class of the style sheet are attributes; they hold numbers only.
const POLICY: &str = "default-src 'none'; style-src 'self'; style-src-attr 'unsafe-inline'; script-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The parameter of the query with the token for changes.
const TOKEN: &str = "control_token";

const NEW_JOB: &str = "<details><summary>New job</summary><form data-path=\"/_sim/jobs\">\
    <label>Name <input name=\"name\" value=\"test\" required></label>\
    <label>Script <textarea name=\"script\" rows=\"4\" required></textarea></label><button>Queue</button></form></details>";

const READ_ONLY: &str =
    "<p>Open the address that the program printed as <code>page</code> to cancel, retry and queue jobs.</p>";

/// How many jobs the list shows.
const LISTED: usize = 200;

/// How many bytes at the end of a log are shown, about as in GitLab. To copy more would delay the runners.
const LOG_SHOWN: usize = 500 << 10;

/// The states by which the list can be filtered.
const FILTERS: [JobStatus; 7] = [
    JobStatus::Pending,
    JobStatus::Running,
    JobStatus::Canceling,
    JobStatus::Success,
    JobStatus::Failed,
    JobStatus::Canceled,
    JobStatus::Skipped,
];

/// An answer that is still to be made.
pub(super) enum Page {
    Made(Response<Bytes>),
    Rendered {
        status: StatusCode,
        kind: &'static str,
        /// What stands before the log and after it.
        frame: (String, String),
        log: Option<Vec<u8>>,
        /// The version that the browser has.
        known: Option<HeaderValue>,
    },
}

impl Page {
    /// Makes the answer, which may take some time.
    pub(super) fn response(self) -> Response<Bytes> {
        let (status, kind, frame, log, known) = match self {
            Self::Made(response) => return response,
            Self::Rendered { status, kind, frame, log, known } => (status, kind, frame, log, known),
        };
        let (mut body, end) = frame;
        if let Some(log) = log {
            _ = write!(body, "<pre>{}</pre>", log::render(&String::from_utf8_lossy(&log)));
        }
        body.push_str(&end);
        let version = format!("\"{:08x}-{}\"", crc32fast::hash(body.as_bytes()), body.len());
        let is_known = known.is_some_and(|known| known == version);
        let mut response = Response::new(if is_known { Bytes::new() } else { Bytes::from(body) });
        *response.status_mut() = if is_known { StatusCode::NOT_MODIFIED } else { status };
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        // It has nothing but digits and quotation marks.
        headers.extend(HeaderValue::try_from(version).ok().map(|version| (ETAG, version)));
        response
    }
}

/// The page at the path of this request; none if the path is GitLab's.
pub(super) fn answer(
    gitlab: &Coordinator,
    guard: &Guard,
    root: &Root,
    now: Timestamp,
    request: &Request<Bytes>,
) -> Option<Page> {
    let uri = request.uri();
    let is_page = matches!(uri.path(), "/" | STYLE_PATH | SCRIPT_PATH) || uri.path().starts_with(JOB_PATH);
    if is_page && !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "The page can only be read.\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Some(Page::Made(response));
    }
    if uri.path() == "/"
        && let Some(token) = parameter(uri.query(), TOKEN)
    {
        // Behind TLS the browser must not show the cookie to a server of the same name that does without.
        let secure = gitlab.settings().external_url.starts_with("https://");
        return Some(Page::Made(admit(guard, root, secure, &token, request.headers())));
    }
    let may_change = guard.has_cookie(request.headers());
    let known = request.headers().get(IF_NONE_MATCH).cloned();
    let file = |kind, text: &str| Page::Rendered {
        status: StatusCode::OK,
        kind,
        frame: (text.to_owned(), String::new()),
        log: None,
        known: known.clone(),
    };
    Some(match uri.path() {
        STYLE_PATH => file("text/css; charset=utf-8", STYLE),
        SCRIPT_PATH => file("text/javascript; charset=utf-8", SCRIPT),
        path => {
            let (status, title, main, log, end) = page(&View { gitlab, now, may_change }, path, uri.query())?;
            let frame = (below(root, format!("{}{main}", head(&title))), below(root, end.to_owned()));
            Page::Rendered { status, kind: "text/html; charset=utf-8", frame, log, known }
        }
    })
}

/// What a page is made from.
struct View<'a> {
    gitlab: &'a Coordinator,
    now: Timestamp,
    /// The browser has the cookie with the token, so that buttons work.
    may_change: bool,
}

/// A parameter of the query.
fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// Gives the browser a cookie with the token, and shows the list.
fn admit(guard: &Guard, root: &Root, secure: bool, token: &str, headers: &HeaderMap) -> Response<Bytes> {
    let home = format!("{}/", root.as_str());
    // A path with a slash at its end would leave out the root itself.
    let path = if root.as_str().is_empty() { "/" } else { root.as_str() };
    let secure = if secure { "; Secure" } else { "" };
    let name = guard::cookie_name(headers);
    let cookie = HeaderValue::try_from(format!("{name}={token}; Path={path}; HttpOnly; SameSite=Strict{secure}"));
    match (cookie, HeaderValue::try_from(&home)) {
        (Ok(cookie), Ok(home)) if guard.is_token(token.as_bytes()) => {
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = StatusCode::SEE_OTHER;
            response.headers_mut().insert(LOCATION, home);
            response.headers_mut().insert(SET_COOKIE, cookie);
            response
        }
        _ => plain(StatusCode::FORBIDDEN, "This is not the control_token that the program printed at its start.\n"),
    }
}

fn plain(status: StatusCode, why: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(why.as_bytes()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A page with all its links below the root. Only the page's own attributes have a quotation mark before the path, because those
/// in what a job or a runner says are escaped.
fn below(root: &Root, page: String) -> String {
    match root.as_str() {
        "" => page,
        root => page.replace("=\"/", &format!("=\"{root}/")),
    }
}

/// The status, the title, the main part of the page, the log in it, and the end.
type Parts = (StatusCode, String, String, Option<Vec<u8>>, &'static str);

fn page(view: &View<'_>, path: &str, query: Option<&str>) -> Option<Parts> {
    if path == "/" {
        return Some((StatusCode::OK, "Simulated GitLab".to_owned(), list(view, query), None, END_OF_FOOTER));
    }
    let id = path.strip_prefix(JOB_PATH)?;
    let gitlab = view.gitlab;
    Some(match id.parse().ok().and_then(|id| gitlab.job(id)) {
        Some(job) => {
            let shown = last_lines(job.trace());
            let log = (!shown.is_empty()).then(|| shown.to_vec());
            (StatusCode::OK, job.name().to_owned(), one(view, job, shown.len()), log, END)
        }
        None => {
            let why = id.parse().map_or_else(|_| "there is no such job".to_owned(), |id| control::no_job(gitlab, id));
            let main = format!("<p>404: {}. <a href=\"/\">All jobs</a></p>", escape(&why));
            (StatusCode::NOT_FOUND, "No such job".to_owned(), main, None, END)
        }
    })
}

fn head(title: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <link rel=\"stylesheet\" href=\"{STYLE_PATH}\"><script src=\"{SCRIPT_PATH}\" defer></script></head>\
         <body><p id=\"problem\" role=\"alert\"></p><main>"
    )
}

/// What ends a page.
const END: &str = "</main></body></html>";
/// What ends a page with something after its main part, which stays when the script replaces that.
const END_OF_FOOTER: &str = "</footer></body></html>";

fn list(view: &View<'_>, query: Option<&str>) -> String {
    let View { gitlab, now, .. } = *view;
    let asked = |name: &str| parameter(query, name).unwrap_or_default();
    let (status, name, before) = (asked("status"), asked("name"), asked("before").parse().unwrap_or(u64::MAX));
    let fits = |job: &&JobRecord| {
        let has_status = status.is_empty() || job.status().as_str() == status;
        has_status && job.name().contains(&name) && job.id() < before
    };
    let mut newest: Vec<&JobRecord> = gitlab.jobs().filter(fits).collect();
    newest.reverse();
    let mut page = String::from("<h1>Simulated GitLab</h1><nav>");
    for filter in std::iter::once("").chain(FILTERS.map(JobStatus::as_str)) {
        let current = if status == filter { " aria-current=\"page\"" } else { "" };
        let label = if filter.is_empty() { "all" } else { filter };
        _ = write!(page, "<a href=\"{}\"{current}>{label}</a>", list_at(filter, &name, None));
    }
    let (runners, requests) = (gitlab.runners().count() as u64, gitlab.stats().total());
    _ = write!(page, "<span>{}, {}</span></nav>", count(runners, "runner"), count(requests, "request"));
    page.push_str(
        "<div class=\"wide\"><table><thead><tr><th>Job</th><th>Name</th><th>Status</th>\
         <th>Reason</th><th>Runner</th><th>Started</th><th>Took</th><th>Log</th><th></th></tr></thead><tbody>",
    );
    for job in newest.iter().take(LISTED) {
        let id = job.id();
        let (started, took) = times(job, now);
        _ = write!(
            page,
            "<tr><td><a href=\"/jobs/{id}\">{id}</a></td><td class=\"name\">{}</td><td>{}</td><td class=\"reason\">{}</td>\
             <td>{}</td><td>{started}</td><td>{took}</td><td>{}</td><td>{}</td></tr>",
            escape(job.name()),
            badge(job),
            reason(job),
            runner(gitlab, job),
            size(job.log_bytes()),
            buttons(view, job),
        );
    }
    if newest.is_empty() {
        let why = if gitlab.jobs().next().is_none() { "No job was queued yet." } else { "There is no such job." };
        _ = write!(page, "<tr><td class=\"none\" colspan=\"9\">{why}</td></tr>");
    }
    page.push_str("</tbody></table></div>");
    if newest.len() > LISTED || before < u64::MAX {
        page.push_str("<nav>");
        if before < u64::MAX {
            _ = write!(page, "<a href=\"{}\">Newest jobs</a>", list_at(&status, &name, None));
        }
        if let Some(last) = newest.get(LISTED - 1).filter(|_| newest.len() > LISTED) {
            let older = list_at(&status, &name, Some(last.id()));
            _ = write!(page, "<a href=\"{older}\">Older jobs</a><span>{LISTED} of {} jobs</span>", newest.len());
        }
        page.push_str("</nav>");
    }
    page.push_str("</main><footer>");
    page.push_str(if view.may_change { NEW_JOB } else { READ_ONLY });
    page
}

/// The address of the list of jobs with this status and this in their names, of which all have smaller numbers than `before`.
fn list_at(status: &str, name: &str, before: Option<u64>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    let before = before.map(|id| id.to_string()).unwrap_or_default();
    for (key, value) in
        [("status", status), ("name", name), ("before", &before)].iter().filter(|pair| !pair.1.is_empty())
    {
        query.append_pair(key, value);
    }
    let query = query.finish();
    escape(&if query.is_empty() { "/".to_owned() } else { format!("/?{query}") })
}

/// What stands before the log of a job, of which the last `shown` bytes are shown.
fn one(view: &View<'_>, job: &JobRecord, shown: usize) -> String {
    let View { gitlab, now, .. } = *view;
    let (started, took) = times(job, now);
    let mut page = format!(
        "<p><a href=\"/\">All jobs</a></p><h1>{} {}</h1><div class=\"facts\">\
         <span>Job {}</span>{}",
        escape(job.name()),
        badge(job),
        job.id(),
        buttons(view, job),
    );
    for (what, text) in [("Reason", reason(job)), ("Runner", runner(gitlab, job)), ("Started", started), ("Took", took)]
    {
        if !text.is_empty() {
            _ = write!(page, "<span>{what}: {text}</span>");
        }
    }
    if let Some(first) = job.retry_of() {
        _ = write!(page, "<span>In place of <a href=\"/jobs/{first}\">{first}</a></span>");
    }
    for file in job.artifacts() {
        _ = write!(
            page,
            "<span><a href=\"/_sim/jobs/{}/artifacts/{kind}\" download>{}</a> ({kind}, {})</span>",
            job.id(),
            escape(&file.file_name),
            size(file.content.len()),
            kind = escape(&file.artifact_type),
        );
    }
    page.push_str("</div>");
    let settings = gitlab.settings();
    for why in [job.why_no_log(settings), job.why_no_artifacts(settings)].into_iter().flatten() {
        _ = write!(page, "<p class=\"gone\">404: {}.</p>", escape(&why));
    }
    if job.log_bytes() == 0 {
        page.push_str("<p class=\"gone\">There is no log.</p>");
    }
    if shown < job.trace().len() {
        let (id, part) = (job.id(), size(shown as u64));
        _ = write!(page, "<p>These are the last {part}. <a href=\"/_sim/jobs/{id}/trace\">The whole log</a></p>");
    }
    page
}

/// The end of a log, from the start of a line on.
fn last_lines(trace: &[u8]) -> &[u8] {
    let Some(hidden) = trace.len().checked_sub(LOG_SHOWN).filter(|hidden| *hidden > 0) else { return trace };
    let shown = &trace[hidden..];
    shown.iter().position(|byte| *byte == b'\n').map_or(shown, |at| &shown[at + 1..])
}

fn badge(job: &JobRecord) -> String {
    let status = job.status().as_str();
    format!("<span class=\"badge {status}\">{status}</span>")
}

/// Why the job failed, and the exit code of its script.
fn reason(job: &JobRecord) -> String {
    let reason = escape(job.failure_reason().unwrap_or_default());
    match job.exit_code() {
        Some(code) => format!("{reason} (exit code {code})"),
        None => reason,
    }
}

/// What the runner is called, and the machine.
fn runner(gitlab: &Coordinator, job: &JobRecord) -> String {
    let Some(id) = job.runner() else { return String::new() };
    let attributes = gitlab.runner_attributes(id);
    let description = attributes.and_then(|attributes| attributes.get("description")?.as_str()).unwrap_or_default();
    let parts = [Some(description), job.system_id()].into_iter().flatten().filter(|part| !part.is_empty());
    parts.fold(format!("#{id}"), |text, part| format!("{text} {}", escape(part)))
}

/// When the job was handed out, as a time of day in UTC, and how long it ran or has been running.
fn times(job: &JobRecord, now: Timestamp) -> (String, String) {
    let Some(started) = job.started_at() else { return (String::new(), String::new()) };
    let second = started.as_millis() / 1000;
    let of_day = format!("{:02}:{:02}:{:02}", second / 3600 % 24, second / 60 % 60, second % 60);
    let ended = job.history().iter().find(|(_, status)| status.is_final()).map_or(now, |(at, _)| *at);
    (of_day, duration(ended.saturating_since(started)))
}

fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, minutes, seconds) => format!("{minutes:02}:{seconds:02}"),
        (hours, minutes, seconds) => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// What can be done with the job.
fn buttons(view: &View<'_>, job: &JobRecord) -> String {
    if !view.may_change {
        return String::new();
    }
    let (verb, label) = if job.status().is_final() { ("retry", "Retry") } else { ("cancel", "Cancel") };
    format!("<button data-post=\"/_sim/jobs/{}/{verb}\">{label}</button>", job.id())
}

fn count(number: u64, of: &str) -> String {
    format!("{number} {of}{}", if number == 1 { "" } else { "s" })
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => count(bytes, "byte"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::{NewJob, Settings};

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn guard() -> Guard {
        Guard::new("secret".to_owned(), Vec::new(), false).unwrap()
    }

    fn get(gitlab: &Coordinator, path: &str) -> Response<Bytes> {
        answer(gitlab, &guard(), &Root::default(), NOW, &Request::get(path).body(Bytes::new()).unwrap())
            .unwrap()
            .response()
    }

    fn text(response: &Response<Bytes>) -> &str {
        std::str::from_utf8(response.body()).unwrap()
    }

    #[test]
    fn the_list_is_newest_first_and_can_be_filtered() {
        let mut gitlab = Coordinator::new(Settings::default());
        let ids = ["one", "two", "three"].map(|name| gitlab.queue(NOW, NewJob::new(name)));
        gitlab.force_cancel(NOW, ids[1]);
        let shown = |path: &str| {
            let page = text(&get(&gitlab, path)).to_owned();
            let mut at: Vec<_> = ["one", "two", "three"]
                .iter()
                .filter_map(|name| Some((page.find(&format!(">{name}<"))?, *name)))
                .collect();
            at.sort_unstable();
            at.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
        };
        assert_eq!(shown("/"), ["three", "two", "one"]);
        assert_eq!(shown("/?status=canceled"), ["two"]);
        assert_eq!(shown("/?status=pending&name=o"), ["one"]);
        assert!(text(&get(&gitlab, "/")).contains("0 runners, 0 requests"));
        gitlab.add_runner("glrt-x");
        assert!(text(&get(&gitlab, "/")).contains("1 runner, 0 requests"));
    }

    #[test]
    fn very_many_jobs_are_listed_in_parts() {
        let mut gitlab = Coordinator::new(Settings::default());
        assert!(text(&get(&gitlab, "/")).contains("No job was queued yet."));
        let ids: Vec<u64> =
            (0..LISTED * 2 + 1).map(|number| gitlab.queue(NOW, NewJob::new(format!("a&b {number}")))).collect();
        let (mut path, mut seen) = ("/?name=a%26b&status=pending".to_owned(), Vec::new());
        loop {
            let page = text(&get(&gitlab, &path)).to_owned();
            seen.extend(page.split("<tr><td><a href=\"/jobs/").skip(1).map(|row| row[..10].parse::<u64>().unwrap()));
            let Some(link) = page.split("href=\"").find(|rest| rest.contains("\">Older jobs</a>")) else { break };
            path = link.split('"').next().unwrap().replace("&amp;", "&");
            assert!(path.contains("status=pending&name=a%26b&before="), "{path}");
        }
        assert!(seen.into_iter().eq(ids.into_iter().rev()));
        assert!(text(&get(&gitlab, &path)).contains(">Newest jobs<"));
        for none in ["/?name=moon", "/?before=1", "/?status=failed"] {
            assert!(text(&get(&gitlab, none)).contains("There is no such job."), "{none}");
        }
        // A filter of states keeps the name, and is no HTML.
        let page = text(&get(&gitlab, "/?name=%22%3E%3Cimg")).to_owned();
        assert!(page.contains("/?status=failed&amp;name=%22%3E%3Cimg\"") && !page.contains("<img"), "{page}");
    }

    #[test]
    fn who_opens_the_page_with_the_token_gets_buttons() {
        let mut gitlab = Coordinator::new(Settings::default());
        gitlab.queue(NOW, NewJob::new("test"));
        assert!(!text(&get(&gitlab, "/")).contains("<button"));
        let refused = get(&gitlab, "/?control_token=wrong");
        assert_eq!((refused.status(), refused.headers().get(SET_COOKIE)), (StatusCode::FORBIDDEN, None));
        let admitted = get(&gitlab, "/?control_token=secret");
        assert_eq!((admitted.status(), &admitted.headers()[LOCATION]), (StatusCode::SEE_OTHER, &"/".parse().unwrap()));
        let cookie = admitted.headers()[SET_COOKIE].to_str().unwrap();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
        let cookie = cookie.split(';').next().unwrap();
        let request = Request::get("/").header("cookie", cookie).body(Bytes::new()).unwrap();
        let page = answer(&gitlab, &guard(), &Root::default(), NOW, &request).unwrap().response();
        assert_eq!(text(&page).matches("<button").count(), 2);
        assert!(!text(&page).contains("secret"));
    }

    #[test]
    fn nothing_that_a_job_says_is_html() {
        let mut gitlab = Coordinator::new(Settings::default());
        let evil = "<img src=x onerror=alert(1)>\"'";
        let id = gitlab.queue(NOW, NewJob::new(evil));
        for path in ["/".to_owned(), format!("/jobs/{id}"), "/?name=<img".to_owned(), "/?status=\"><img".to_owned()] {
            let path = path.replace('<', "%3C").replace('"', "%22").replace('>', "%3E");
            let response = get(&gitlab, &path);
            assert!(!text(&response).contains("<img"), "{path}");
            assert!(response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().contains("script-src 'self'"));
        }
        assert!(text(&get(&gitlab, "/")).contains("&lt;img src=x onerror=alert(1)&gt;&quot;&#39;"));
    }

    #[test]
    fn what_has_not_changed_is_not_sent_again() {
        let mut gitlab = Coordinator::new(Settings::default());
        let id = gitlab.queue(NOW, NewJob::new("test"));
        let path = format!("/jobs/{id}");
        let version = get(&gitlab, &path).headers()[ETAG].clone();
        let again = |gitlab: &Coordinator| {
            let request = Request::get(&path).header(IF_NONE_MATCH, &version).body(Bytes::new()).unwrap();
            answer(gitlab, &guard(), &Root::default(), NOW, &request).unwrap().response()
        };
        let unchanged = again(&gitlab);
        assert_eq!((unchanged.status(), unchanged.body().len()), (StatusCode::NOT_MODIFIED, 0));
        gitlab.force_cancel(NOW, id);
        let changed = again(&gitlab);
        assert_eq!(changed.status(), StatusCode::OK);
        assert!(text(&changed).contains("canceled"));
    }

    #[test]
    fn other_paths_are_gitlab_s_and_an_unknown_job_is_not_found() {
        let gitlab = Coordinator::new(Settings::default());
        let request = Request::get("/api/v4/jobs/request").body(Bytes::new()).unwrap();
        assert!(answer(&gitlab, &guard(), &Root::default(), NOW, &request).is_none());
        for path in ["/jobs/7", "/jobs/x", "/jobs/"] {
            assert_eq!(get(&gitlab, path).status(), StatusCode::NOT_FOUND, "{path}");
        }
        assert_eq!(get(&gitlab, STYLE_PATH).headers()[CONTENT_TYPE], "text/css; charset=utf-8");
        for path in ["/", "/?control_token=secret", "/jobs/7", STYLE_PATH, SCRIPT_PATH] {
            for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "MOON"] {
                let request = Request::builder().method(method).uri(path).body(Bytes::new()).unwrap();
                let refused = answer(&gitlab, &guard(), &Root::default(), NOW, &request).unwrap().response();
                assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
                assert_eq!(refused.headers()[ALLOW], "GET, HEAD");
                assert!(!refused.headers().contains_key(SET_COOKIE), "{method} {path}");
            }
        }
    }

    #[test]
    fn of_a_long_log_the_last_lines_are_shown() {
        let line = format!("{}\n", "x".repeat(1023));
        let log = |lines: usize| line.repeat(lines).into_bytes();
        assert_eq!(last_lines(&log(500)), log(500));
        assert_eq!(last_lines(&log(600)), log(500 - 1));
        assert_eq!(last_lines(&[b'x'; LOG_SHOWN + 9]).len(), LOG_SHOWN);
    }

    #[test]
    fn sizes_and_times_are_words_of_a_person() {
        assert_eq!([0, 1, 2048, 3 << 20].map(size), ["0 bytes", "1 byte", "2 KiB", "3.0 MiB"]);
        assert_eq!([9, 75, 3661].map(|seconds| duration(Duration::from_secs(seconds))), ["00:09", "01:15", "1:01:01"]);
    }
}
