//! A page for a person who watches: jobs, their states, and their logs.

use std::fmt::Write;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};

use crate::coordinator::{Coordinator, JobRecord};

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
<meta name=\"viewport\" content=\"width=device-width\"><meta http-equiv=\"refresh\" content=\"2\">\
<title>Simulated GitLab</title><style>\
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .8rem;border-bottom:1px solid #8884}\
.badge{border-radius:1rem;padding:.1rem .6rem;color:#fff;background:#666}\
.success{background:#108548}.failed{background:#c91c00}.running{background:#1f75cb}.canceling,.canceled{background:#8f4700}\
pre{background:#111;color:#ddd;padding:1rem;border-radius:.4rem;overflow-x:auto;white-space:pre-wrap}\
summary{cursor:pointer}.b{font-weight:700}.u{text-decoration:underline}\
.c0{color:#777}.c1{color:#f66}.c2{color:#5c5}.c3{color:#db4}.c4{color:#69f}.c5{color:#d7d}.c6{color:#4cc}.c7{color:#fff}\
</style></head><body>";

/// The page at this path; none if the path is GitLab's.
pub(super) fn answer(gitlab: &Coordinator, path: &str) -> Option<Response<Bytes>> {
    let (status, page) = match path {
        "/" => (StatusCode::OK, overview(gitlab)),
        _ => {
            let id = path.strip_prefix("/jobs/")?;
            match id.parse().ok().and_then(|id| gitlab.job(id)) {
                Some(job) => (StatusCode::OK, log(job)),
                None => {
                    (StatusCode::NOT_FOUND, format!("{HEAD}<p>There is no such job. <a href=\"/\">All jobs</a></p>"))
                }
            }
        }
    };
    let mut response = Response::new(Bytes::from(page));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    Some(response)
}

fn overview(gitlab: &Coordinator) -> String {
    let mut page = format!(
        "{HEAD}<h1>Simulated GitLab</h1><p>{} runners, {} requests</p>\
         <table><thead><tr><th>Job</th><th>Name</th><th>Status</th><th>Reason</th><th>Log</th></tr></thead><tbody>",
        gitlab.runners().count(),
        gitlab.stats().total()
    );
    for job in gitlab.jobs() {
        let (id, bytes) = (job.id(), job.trace().len());
        let reason = escape(job.failure_reason().unwrap_or_default());
        // Writing to a text does not fail.
        _ = write!(
            page,
            "<tr><td><a href=\"/jobs/{id}\">{id}</a></td><td>{}</td><td>{}</td><td>{reason}</td><td>{bytes} bytes</td></tr>",
            escape(job.name()),
            badge(job)
        );
    }
    page.push_str("</tbody></table></body></html>");
    page
}

fn badge(job: &JobRecord) -> String {
    let status = job.status().as_str();
    format!("<span class=\"badge {status}\">{status}</span>")
}

fn log(job: &JobRecord) -> String {
    format!(
        "{HEAD}<p><a href=\"/\">All jobs</a></p><h1>{} {}</h1><pre>{}</pre></body></html>",
        escape(job.name()),
        badge(job),
        render(&String::from_utf8_lossy(job.trace()))
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A log as HTML: colours, and sections that fold.
fn render(log: &str) -> String {
    let mut html = Html::default();
    let mut rest = log;
    while let Some(at) = rest.find(['\x1b', '\r', '\n', 's']) {
        let (plain, tail) = rest.split_at(at);
        html.text(plain);
        rest = if let Some(marker) = tail.strip_prefix("section_") {
            html.section(marker).unwrap_or_else(|| {
                html.text("section_");
                marker
            })
        } else if let Some(codes) = tail.strip_prefix("\x1b[") {
            html.escape_sequence(codes)
        } else {
            let mut letters = tail.chars();
            match letters.next() {
                Some('\n') => html.newline(),
                // What follows a lone carriage return overwrites the line; both are shown, one after the other.
                Some('\r') if !letters.as_str().starts_with('\n') => html.text(" "),
                Some('s') => html.text("s"),
                _ => {}
            }
            letters.as_str()
        };
    }
    html.text(rest);
    html.finish()
}

#[derive(Default)]
struct Html {
    out: String,
    bold: bool,
    underline: bool,
    colour: Option<u8>,
    /// Sections that are open, and whether the line with the title of the last one still goes on.
    open: usize,
    in_title: bool,
}

impl Html {
    fn text(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let mut classes = Vec::new();
        classes.extend(self.bold.then(|| "b".to_owned()));
        classes.extend(self.underline.then(|| "u".to_owned()));
        classes.extend(self.colour.map(|colour| format!("c{colour}")));
        let text = escape(text);
        if classes.is_empty() {
            self.out.push_str(&text);
        } else {
            // Writing to a text does not fail.
            _ = write!(self.out, "<span class=\"{}\">{text}</span>", classes.join(" "));
        }
    }

    fn newline(&mut self) {
        if std::mem::take(&mut self.in_title) {
            self.out.push_str("</summary>");
        } else {
            self.out.push('\n');
        }
    }

    /// `start:<seconds>:<name>` or `end:...`, to the end of its line control; what follows, or none if it is no marker.
    fn section<'a>(&mut self, marker: &'a str) -> Option<&'a str> {
        let (kind, rest) = marker.split_once(':')?;
        let (time, rest) = rest.split_once(':')?;
        let (name, rest) = rest.split_once("\r\x1b[0K")?;
        let fits = time.bytes().all(|byte| byte.is_ascii_digit()) && !name.contains(['\n', '\x1b']);
        match kind {
            "start" if fits => {
                self.close_title();
                let folded = name.contains("collapsed=true");
                self.out.push_str(if folded { "<details><summary>" } else { "<details open><summary>" });
                (self.open, self.in_title) = (self.open + 1, true);
            }
            "end" if fits => {
                self.close_title();
                if self.open > 0 {
                    self.open -= 1;
                    self.out.push_str("</details>");
                }
            }
            _ => return None,
        }
        Some(rest)
    }

    fn close_title(&mut self) {
        if std::mem::take(&mut self.in_title) {
            self.out.push_str("</summary>");
        }
    }

    /// Parameters and a final letter; `m` sets colours, all others are left out.
    fn escape_sequence<'a>(&mut self, codes: &'a str) -> &'a str {
        let Some(end) = codes.find(|c: char| ('@'..='~').contains(&c)) else { return "" };
        let (parameters, rest) = codes.split_at(end);
        if rest.starts_with('m') {
            for code in parameters.split(';') {
                match code.parse().unwrap_or(0_u8) {
                    0 => (self.bold, self.underline, self.colour) = (false, false, None),
                    1 => self.bold = true,
                    4 => self.underline = true,
                    22 => self.bold = false,
                    24 => self.underline = false,
                    code @ (30..=37 | 90..=97) => self.colour = Some(code % 10),
                    39 => self.colour = None,
                    _ => {}
                }
            }
        }
        rest.get(1..).unwrap_or_default()
    }

    fn finish(mut self) -> String {
        self.close_title();
        self.out.push_str(&"</details>".repeat(self.open));
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_and_sections_are_rendered_and_nothing_is_html_that_should_not_be() {
        let rows = [
            ("plain <b>&\"\n", "plain &lt;b&gt;&amp;&quot;\n"),
            ("\x1b[32;1mgreen\x1b[0;m after", "<span class=\"b c2\">green</span> after"),
            ("\x1b[0Kx\x1b[4mu\x1b[24mv\x1b[91mr\x1b[39m.", "x<span class=\"u\">u</span>v<span class=\"c1\">r</span>."),
            ("50%\r100%\r\ndone", "50% 100%\ndone"),
            (
                "section_start:1:a\r\x1b[0KTitle\nbody\nsection_end:2:a\r\x1b[0Kafter",
                "<details open><summary>Title</summary>body\n</details>after",
            ),
            (
                "section_start:1:a[collapsed=true]\r\x1b[0Ksection_start:1:b\r\x1b[0KT\n",
                "<details><summary></summary><details open><summary>T</summary></details></details>",
            ),
            ("section_end:1:a\r\x1b[0K", ""),
            ("section_moon:1:a\r\x1b[0K sss", "section_moon:1:a  sss"),
            ("section_start:x", "section_start:x"),
            ("\x1b[31", ""),
            ("\x1b[31é", ""),
        ];
        for (log, html) in rows {
            assert_eq!(render(log), html, "{log:?}");
        }
    }
}
