//! Who may use the program.
//!
//! A browser sends requests for any page that it shows, also to addresses of this machine. A page from elsewhere is told by its
//! `Origin`. One whose name was made to point at this machine is told by the `Host`. Changes need a token besides, so that other
//! programs and users of this machine cannot make any.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{COOKIE, HOST, HeaderMap, HeaderName, ORIGIN};
use http::{Method, Request, StatusCode};

/// The header with the token for changes.
pub(super) const CONTROL_TOKEN: HeaderName = HeaderName::from_static("control-token");
/// The cookie with it, which the page uses.
pub(super) const COOKIE_NAME: &str = "control_token";

/// Why a request is refused, with the status.
pub(super) struct Refusal(pub(super) StatusCode, pub(super) String);

/// What is checked of each request.
pub(super) struct Guard {
    token: String,
    hosts: Vec<String>,
    /// Other machines may use the program by any of its addresses.
    remote: bool,
}

impl Guard {
    pub(super) fn new(token: String, hosts: Vec<String>, remote: bool) -> Self {
        Self { token, hosts, remote }
    }

    /// Checks from where a request comes, whatever it asks for.
    ///
    /// # Errors
    ///
    /// The answer to a request for another host, or from a page of another site.
    pub(super) fn check_source(&self, request: &Request<Bytes>) -> Result<(), Refusal> {
        let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
        let host = request.uri().authority().map(|authority| authority.as_str()).or_else(|| header(HOST));
        // Programs may do without a host. Browsers cannot.
        if let Some(host) = host.filter(|host| !self.is_ours(host)) {
            let why = format!("{host} is not an address of this server; the option --allow-host allows a name");
            return Err(Refusal(StatusCode::FORBIDDEN, why));
        }
        match (header(ORIGIN), host) {
            (None, _) => Ok(()),
            (Some(origin), Some(host)) if origin.split_once("://").is_some_and(|(_, site)| site == host) => Ok(()),
            (Some(origin), _) => {
                Err(Refusal(StatusCode::FORBIDDEN, format!("a page of {origin} may not use this server")))
            }
        }
    }

    /// Whether this is a name or an address of this server, with or without a port.
    fn is_ours(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        match address {
            Ok(address) => self.remote || address.is_loopback(),
            Err(_) => {
                name.eq_ignore_ascii_case("localhost") || self.hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
            }
        }
    }

    /// Checks that a request to steer the simulation only reads, or has the token.
    ///
    /// # Errors
    ///
    /// The answer to a change without the token.
    pub(super) fn check_change(&self, request: &Request<Bytes>) -> Result<(), Refusal> {
        if matches!(*request.method(), Method::GET | Method::HEAD) || self.has_token(request.headers()) {
            return Ok(());
        }
        let why = "changes need the header Control-Token, with the control_token that the program printed at its start";
        Err(Refusal(StatusCode::UNAUTHORIZED, why.to_owned()))
    }

    /// Whether the header or the cookie has the token.
    pub(super) fn has_token(&self, headers: &HeaderMap) -> bool {
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut cookies = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        headers.get(CONTROL_TOKEN).is_some_and(|token| self.is_token(token.as_bytes()))
            || cookies.any(|(name, value)| name == COOKIE_NAME && self.is_token(value.as_bytes()))
    }

    /// Whether this is the token.
    pub(super) fn is_token(&self, text: &[u8]) -> bool {
        text == self.token.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, headers: &[(&str, &str)]) -> Request<Bytes> {
        let request = Request::builder().method(method).uri("/_sim/jobs");
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(Bytes::new()).unwrap()
    }

    #[test]
    fn only_addresses_of_this_server_are_served() {
        let guard = |remote| Guard::new("t".to_owned(), vec!["gitlab.test".to_owned()], remote);
        for (host, local, remote) in [
            ("127.0.0.1:8929", true, true),
            ("127.0.0.1", true, true),
            ("[::1]:8929", true, true),
            ("LocalHost:80", true, true),
            ("gitlab.test:8929", true, true),
            ("Gitlab.Test", true, true),
            ("192.168.1.7:8929", false, true),
            ("[fe80::1]:8929", false, true),
            ("evil.example:8929", false, false),
            ("127.0.0.1.evil.example", false, false),
            ("localhost.evil.example:8929", false, false),
            ("evil.example:80:8929", false, false),
            ("", false, false),
        ] {
            let asked = request("GET", &[("host", host)]);
            assert_eq!(guard(false).check_source(&asked).is_ok(), local, "{host}");
            assert_eq!(guard(true).check_source(&asked).is_ok(), remote, "{host}");
        }
        assert!(guard(false).check_source(&request("GET", &[])).is_ok());
        let uri = Request::get("http://evil.example/_sim/jobs").header("host", "127.0.0.1").body(Bytes::new()).unwrap();
        assert!(guard(false).check_source(&uri).is_err());
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let guard = Guard::new("t".to_owned(), Vec::new(), false);
        for (origin, fine) in [
            ("http://127.0.0.1:8929", true),
            ("https://127.0.0.1:8929", true),
            ("http://127.0.0.1:8930", false),
            ("http://localhost:8929", false),
            ("https://evil.example", false),
            ("null", false),
            ("", false),
        ] {
            let asked = request("POST", &[("host", "127.0.0.1:8929"), ("origin", origin), ("control-token", "t")]);
            assert_eq!(guard.check_source(&asked).is_ok(), fine, "{origin}");
        }
    }

    #[test]
    fn changes_need_the_token() {
        let guard = Guard::new("secret".to_owned(), Vec::new(), false);
        for (method, headers, fine) in [
            ("GET", &[][..], true),
            ("POST", &[], false),
            ("DELETE", &[], false),
            ("POST", &[("control-token", "secret")], true),
            ("POST", &[("control-token", "secre")], false),
            ("POST", &[("control-token", "")], false),
            ("POST", &[("cookie", "a=b; control_token=secret; c=d")], true),
            ("POST", &[("cookie", "a=b"), ("cookie", "control_token=secret")], true),
            ("POST", &[("cookie", "control_token=other")], false),
            ("POST", &[("cookie", "xcontrol_token=secret")], false),
        ] {
            assert_eq!(guard.check_change(&request(method, headers)).is_ok(), fine, "{method} {headers:?}");
        }
    }
}
