//! What an answer is, read a second time and without the core's code.

use bytes::Bytes;
use http::Response;
use serde_json::Value;

/// The parts of an answer that the laws speak of.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) job_status: Option<String>,
    /// `Range: 0-n`.
    pub(super) stored: Option<u64>,
    pub(super) html: bool,
    /// The delay that `Retry-After` asks for, in seconds.
    pub(super) retry_after: Option<u64>,
    pub(super) interval: Option<u64>,
    /// Whether only GitLab says such a thing: see the manual's chapter on the protocol.
    pub(super) gitlabs_word: bool,
    pub(super) names_host_limit: bool,
}

impl Answer {
    pub(super) fn read(response: &Response<Bytes>, reads_body: bool) -> Self {
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let number = |name: &str| header(name).and_then(|value| value.parse::<u64>().ok());
        let status = response.status().as_u16();
        let job_status = header("job-status").filter(|word| !word.is_empty());
        let body = response.body();
        let typed = header("content-type").is_some_and(|kind| kind.to_ascii_lowercase().starts_with("text/html"));
        let angle = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'<');
        let json = serde_json::from_slice::<Value>(body).unwrap_or_default();
        let said = ["message", "error"].map(|name| json.get(name).cloned());
        let forbidden = said.iter().flatten().filter_map(Value::as_str).any(|text| text.starts_with("403 Forbidden"));
        let validation = json.is_object() && said.iter().any(Option::is_some);
        Self {
            status,
            stored: header("range").and_then(|range| range.strip_prefix("0-")?.parse().ok()),
            html: typed || (angle && (reads_body || status >= 300)),
            retry_after: number("retry-after").filter(|delay| *delay > 0),
            interval: number("x-gitlab-trace-update-interval").filter(|interval| *interval > 0),
            gitlabs_word: job_status.is_some() || (status == 403 && forbidden) || (status == 400 && validation),
            names_host_limit: response.headers().contains_key("ratelimit-name"),
            job_status,
        }
    }

    pub(super) fn says(&self, word: &str) -> bool {
        self.job_status.as_deref() == Some(word)
    }

    /// A status that only a job that is over has.
    pub(super) fn is_final(&self) -> bool {
        matches!(self.job_status.as_deref(), Some("success" | "failed" | "canceled"))
    }

    /// A 403 that anybody could have written.
    pub(super) fn is_bare_403(&self) -> bool {
        self.status == 403 && !self.gitlabs_word
    }

    /// Whether the answer means that the log is *refused*, and not that something is not there.
    pub(super) fn refuses_log(&self) -> bool {
        match self.status {
            202 => self.html,
            408 | 409 | 416 | 429 => false,
            500 | 502.. => false,
            _ => true,
        }
    }
}
