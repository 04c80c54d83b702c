//! Rate limits: per token as GitLab's application limits them, and for the whole host.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use gitlab_runner_api::Timestamp;
use http::StatusCode;
use http::header::{HeaderName, HeaderValue, RETRY_AFTER};
use serde_json::json;

use super::settings::HostLimit;
use super::wire::Reply;

const MINUTE: u64 = 60_000;
/// The last second an HTTP date can name.
const LAST_SECOND: u64 = 253_402_300_799;

/// So many characters of a token tell it from others. All of GitLab's tokens are shorter. What is sent as a token is counted
/// before anybody knows whether it is one, so that it must not fill the memory.
const TOKEN: usize = 255;
/// So many tokens are counted in a minute. Further tokens in that minute are not limited.
const TOKENS: usize = 100_000;

/// What is limited separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Limited {
    JobRequest,
    Trace,
    Job,
}

/// A counter that starts anew with every fixed window of time.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    number: u64,
    count: u32,
}

impl Window {
    fn hit(&mut self, number: u64) -> u32 {
        if self.number != number {
            *self = Self { number, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Limits {
    /// The minute that is counted, and the calls in it. All windows begin with a minute, so that none of them is needed in the
    /// next one.
    minute: u64,
    tokens: BTreeMap<(Limited, String), u32>,
    host: Window,
}

impl Limits {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Counts a call; refused if it is one too many in this minute.
    pub(super) fn check(&mut self, now: Timestamp, what: Limited, token: &str, limit: u32) -> Result<(), Reply> {
        if limit == 0 {
            return Ok(());
        }
        let minute = now.as_millis() / MINUTE;
        if self.minute != minute {
            self.minute = minute;
            self.tokens.clear();
        }
        let key = (what, token.chars().take(TOKEN).collect());
        if self.tokens.len() >= TOKENS && !self.tokens.contains_key(&key) {
            return Ok(());
        }
        let count = self.tokens.entry(key).or_default();
        *count = count.saturating_add(1);
        if *count <= limit {
            return Ok(());
        }
        let error = "This endpoint has been requested too many times. Try again later.";
        Err(Reply::message(StatusCode::TOO_MANY_REQUESTS, json!({ "error": error })).header(RETRY_AFTER, 60.into()))
    }

    /// Counts a request to the host. The headers go on whatever answer it gets.
    pub(super) fn check_host(&mut self, now: Timestamp, limit: &HostLimit) -> (HostHeaders, Result<(), Reply>) {
        let period = limit.period.as_secs().max(1);
        let seconds = now.as_millis() / 1000;
        let observed = self.host.hit(seconds / period);
        let reset = (seconds / period).saturating_add(1).saturating_mul(period);
        let headers = vec![
            ("ratelimit-name", limit.name.clone()),
            ("ratelimit-limit", u64::from(limit.requests).saturating_mul(60).div_ceil(period).to_string()),
            ("ratelimit-observed", observed.to_string()),
            ("ratelimit-remaining", limit.requests.saturating_sub(observed).to_string()),
            ("ratelimit-reset", reset.to_string()),
        ];
        let verdict = if observed <= limit.requests {
            Ok(())
        } else {
            Err(Reply::text(StatusCode::TOO_MANY_REQUESTS, "text/plain", "Retry later\n")
                .header(
                    HeaderName::from_static("ratelimit-resettime"),
                    http_date(Timestamp::from_millis(reset.saturating_mul(1000))),
                )
                .header(RETRY_AFTER, (reset - seconds).into()))
        };
        (HostHeaders(headers), verdict)
    }
}

/// The `RateLimit-*` headers.
#[derive(Debug, Default)]
pub(super) struct HostHeaders(Vec<(&'static str, String)>);

impl HostHeaders {
    pub(super) fn add_to(self, reply: Reply) -> Reply {
        self.0.into_iter().fold(reply, |reply, (name, value)| reply.header_text(HeaderName::from_static(name), &value))
    }
}

/// A time as an HTTP date, cut to whole seconds.
pub(super) fn http_date(time: Timestamp) -> HeaderValue {
    let seconds = (time.as_millis() / 1000).min(LAST_SECOND);
    let text = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn tokens_are_limited_separately_and_anew_every_minute() {
        let mut limits = Limits::default();
        let mut hit = |second, what, token| limits.check(at(second), what, token, 2).is_ok();
        assert!(hit(0, Limited::Job, "a") && hit(1, Limited::Job, "a"));
        assert!(!hit(59, Limited::Job, "a"));
        assert!(hit(59, Limited::Job, "b") && hit(59, Limited::Trace, "a"));
        assert!(hit(60, Limited::Job, "a"));
        assert_eq!(limits.tokens.len(), 1, "those of the last minute are forgotten");
        let mut hit = |second, what, token| limits.check(at(second), what, token, 2).is_ok();
        assert!(hit(60, Limited::Job, "a") && !hit(60, Limited::Job, "a"));
        assert!((0..5).all(|_| limits.check(at(0), Limited::Job, "c", 0).is_ok()));
    }

    #[test]
    fn the_host_limit_names_its_reset_time() {
        let mut limits = Limits::default();
        let limit = HostLimit::new(1, Duration::from_secs(30));
        assert!(limits.check_host(at(1_445_412_451), &limit).1.is_ok());
        let (headers, verdict) = limits.check_host(at(1_445_412_460), &limit);
        let response = headers.add_to(verdict.expect_err("one too many")).into_response();
        for (name, value) in [
            ("ratelimit-limit", "2"),
            ("ratelimit-observed", "2"),
            ("ratelimit-remaining", "0"),
            ("ratelimit-reset", "1445412480"),
            ("ratelimit-resettime", "Wed, 21 Oct 2015 07:28:00 GMT"),
            ("retry-after", "20"),
        ] {
            assert_eq!(response.headers()[name], value, "{name}");
        }
        assert!(limits.check_host(at(1_445_412_480), &limit).1.is_ok());
    }

    #[test]
    fn every_time_has_a_date() {
        assert_eq!(http_date(Timestamp::from_millis(u64::MAX)), "Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn what_is_no_token_takes_little_memory() {
        let mut limits = Limits::default();
        let now = Timestamp::from_millis(MINUTE);
        assert!(limits.check(now, Limited::Job, &"a".repeat(1 << 20), 1).is_ok());
        assert!(limits.check(now, Limited::Job, &"a".repeat(1 << 20), 1).is_err());
        assert_eq!(limits.tokens.keys().map(|(_, token)| token.len()).sum::<usize>(), TOKEN);
        for number in 0..TOKENS + 10 {
            assert!(limits.check(now, Limited::Job, &number.to_string(), 1).is_ok());
        }
        assert_eq!(limits.len(), TOKENS);
        assert!(limits.check(now, Limited::Job, "7", 1).is_err());
        assert!(limits.check(Timestamp::from_millis(2 * MINUTE), Limited::Job, "7", 1).is_ok());
        assert_eq!(limits.len(), 1);
    }
}
