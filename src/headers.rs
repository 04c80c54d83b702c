//! The protocol's header names, and parsers that accept anything a server may send.
//!
//! A parser here never fails: a header that is missing or makes no sense is `None`, and the caller does what it does
//! without it.

use std::time::Duration;

use http::StatusCode;
use http::header::{DATE, HeaderMap, HeaderName, RANGE, RETRY_AFTER};

use crate::status::JobStatus;
use crate::time::Timestamp;

pub(crate) const RUNNER_TOKEN: HeaderName = HeaderName::from_static("runner-token");
pub(crate) const PRIVATE_TOKEN: HeaderName = HeaderName::from_static("private-token");
pub(crate) const JOB_TOKEN: HeaderName = HeaderName::from_static("job-token");
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const LAST_UPDATE: HeaderName = HeaderName::from_static("x-gitlab-last-update");

const JOB_STATUS: HeaderName = HeaderName::from_static("job-status");
const TRACE_UPDATE_INTERVAL: HeaderName = HeaderName::from_static("x-gitlab-trace-update-interval");
const RATE_LIMIT_RESET_TIME: HeaderName = HeaderName::from_static("ratelimit-resettime");
const RATE_LIMIT_NAME: HeaderName = HeaderName::from_static("ratelimit-name");

/// No server makes us wait longer than this, whatever it says.
pub(crate) const TOLD_DELAY_CAP: Duration = Duration::from_secs(600);

/// The largest update interval that is taken from a server: beyond it GitLab may call a job stuck.
pub(crate) const UPDATE_INTERVAL_CAP: Duration = Duration::from_secs(900);

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// Decimal digits only: no sign, no space, no fraction. A number too large for `u64` is none.
fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// `Job-Status`.
pub(crate) fn job_status(headers: &HeaderMap) -> Option<JobStatus> {
    text(headers, JOB_STATUS).filter(|word| !word.is_empty()).map(JobStatus::from)
}

/// `Range: 0-<size>` of an answer to a log patch. The number is how many bytes are stored, not the last byte.
pub(crate) fn stored_size(headers: &HeaderMap) -> Option<u64> {
    let (start, size) = text(headers, RANGE)?.split_once('-')?;
    (digits(start)? == 0).then(|| digits(size)).flatten()
}

/// `X-GitLab-Trace-Update-Interval`: whole seconds, 1 to 900. Some servers send `1/2`, which is none.
pub(crate) fn update_interval(headers: &HeaderMap) -> Option<Duration> {
    let seconds = digits(text(headers, TRACE_UPDATE_INTERVAL)?)?;
    (seconds > 0).then(|| Duration::from_secs(seconds).min(UPDATE_INTERVAL_CAP))
}

/// `X-GitLab-Last-Update`, unless it is missing or empty: the front end leaves it out on purpose at times.
pub(crate) fn last_update(headers: &HeaderMap) -> Option<&str> {
    text(headers, LAST_UPDATE).filter(|value| !value.is_empty())
}

/// `X-Request-Id`, shortened to what is worth printing.
pub(crate) fn request_id(headers: &HeaderMap) -> Option<String> {
    let id = text(headers, REQUEST_ID)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (!id.is_empty() && id.len() <= 128 && id.bytes().all(plain)).then(|| id.to_owned())
}

/// How long the server asks us to wait: `RateLimit-ResetTime`, else `Retry-After`; never more than ten minutes.
///
/// Dates are compared with the answer's own `Date`, so that our clock does not matter; `now` stands in if there is none.
/// Nothing told, or a moment that is over, is `None`.
pub(crate) fn told_delay(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let server_now = || text(headers, DATE).and_then(Timestamp::from_http_date).unwrap_or(now);
    let until = |date: &str| Some(Timestamp::from_http_date(date)?.saturating_since(server_now()));
    let reset = text(headers, RATE_LIMIT_RESET_TIME).and_then(until);
    let retry = || {
        let value = text(headers, RETRY_AFTER)?;
        digits(value).map(Duration::from_secs).or_else(|| until(value))
    };
    reset
        .filter(|delay| !delay.is_zero())
        .or_else(retry)
        .filter(|delay| !delay.is_zero())
        .map(|d| d.min(TOLD_DELAY_CAP))
}

/// Whether a call that was answered with this status may have been carried out all the same: the answer says that somebody on the
/// way did not wait for the end, or that something failed at some point.
pub(crate) fn may_have_been_carried_out(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 500 | 502 | 504)
}

/// Whether a throttle of the whole instance answered, and not one of a single token.
pub(crate) fn is_host_limit(headers: &HeaderMap) -> bool {
    headers.contains_key(RATE_LIMIT_NAME)
}

/// A date plus what the fuzzers need: every parser of this module, on arbitrary headers.
#[doc(hidden)]
pub fn parse_all(headers: &HeaderMap, now: Timestamp) {
    let interval = update_interval(headers);
    assert!(interval.is_none_or(|interval| !interval.is_zero() && interval <= UPDATE_INTERVAL_CAP));
    let delay = told_delay(headers, now);
    assert!(delay.is_none_or(|delay| !delay.is_zero() && delay <= TOLD_DELAY_CAP));
    let _ = (job_status(headers), stored_size(headers), last_update(headers), request_id(headers));
    let _ = is_host_limit(headers);
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(rows: &[(&'static str, &str)]) -> HeaderMap {
        rows.iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    #[test]
    fn stored_sizes() {
        let rows = [
            ("0-0", Some(0)),
            ("0-11", Some(11)),
            ("0-18446744073709551615", Some(u64::MAX)),
            ("0-18446744073709551616", None),
            ("0--5", None),
            ("5-11", None),
            ("bytes 0-11", None),
            ("0-11/12", None),
            ("0", None),
            ("", None),
            ("-", None),
        ];
        for (value, size) in rows {
            assert_eq!(stored_size(&headers(&[("range", value)])), size, "{value:?}");
        }
        assert_eq!(stored_size(&HeaderMap::new()), None);
    }

    #[test]
    fn update_intervals() {
        let rows =
            [("3", Some(3)), ("901", Some(900)), ("0", None), ("-3", None), ("1/2", None), ("3.0", None), ("", None)];
        for (value, seconds) in rows {
            let read = update_interval(&headers(&[("x-gitlab-trace-update-interval", value)]));
            assert_eq!(read, seconds.map(Duration::from_secs), "{value:?}");
        }
        let huge = headers(&[("x-gitlab-trace-update-interval", "99999999999999999999999")]);
        assert_eq!(update_interval(&huge), None);
    }

    #[test]
    fn told_delays() {
        let now = Timestamp::from_http_date("Tue, 20 Oct 2015 00:00:00 GMT").unwrap();
        let (date, later) = ("Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:30 GMT");
        type Row<'a> = (&'a [(&'static str, &'a str)], Option<u64>);
        let rows: &[Row<'_>] = &[
            (&[("retry-after", "60")], Some(60)),
            (&[("retry-after", "86400")], Some(600)),
            (&[("retry-after", "0")], None),
            (&[("retry-after", "soon")], None),
            (&[("date", date), ("retry-after", later)], Some(30)),
            (&[("date", date), ("ratelimit-resettime", later), ("retry-after", "7")], Some(30)),
            (&[("date", later), ("ratelimit-resettime", date), ("retry-after", "7")], Some(7)),
            (&[("ratelimit-resettime", later)], Some(600)),
            (&[], None),
        ];
        for (given, seconds) in rows {
            assert_eq!(told_delay(&headers(given), now), seconds.map(Duration::from_secs), "{given:?}");
        }
    }

    #[test]
    fn empty_values_are_none() {
        let empty = headers(&[("job-status", ""), ("x-gitlab-last-update", " "), ("x-request-id", "")]);
        assert_eq!((job_status(&empty), last_update(&empty), request_id(&empty)), (None, None, None));
        assert_eq!(request_id(&headers(&[("x-request-id", "a b")])), None);
    }
}
