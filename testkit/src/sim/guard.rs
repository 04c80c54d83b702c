//! Who may use the program.
//!
//! A browser sends requests for any page that it shows, also to addresses of this machine. A page from elsewhere is told by its
//! `Origin`. One whose name was made to point at this machine is told by the `Host`. Changes need a token besides, so that other
//! programs and users of this machine cannot make any.

use std::hint::black_box;
use std::net::{IpAddr, Ipv6Addr};

use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, COOKIE as COOKIE_HEADER, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{Method, Response, StatusCode};

use crate::content::Content;

/// The header with the token for changes.
pub(super) const CONTROL_TOKEN: HeaderName = HeaderName::from_static("control-token");
/// What begins the name of the cookie with it, which the page uses.
const COOKIE_PREFIX: &str = "control_token";

/// Where a browser says that a request comes from, and what it is for. Scripts cannot set these headers.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

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
    /// `None` if this cannot be a token: it stands in a header, a URL and a cookie, and an empty one would be no secret.
    pub(super) fn new(token: String, hosts: Vec<String>, remote: bool) -> Option<Self> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        (!token.is_empty() && token.bytes().all(is_plain)).then_some(Self { token, hosts, remote })
    }

    /// Checks from where a request comes, whatever it asks for.
    ///
    /// # Errors
    ///
    /// The answer to a request for another host, or from a page of another site.
    pub(super) fn check_source(&self, head: &Parts) -> Result<(), Refusal> {
        let all = |name| head.headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default());
        let forbidden = |why| Err(Refusal(StatusCode::FORBIDDEN, why));
        // Programs may do without a host. Browsers cannot. Two hosts would be read differently by what stands before the server.
        let hosts: Vec<&str> = head.uri.authority().map(|named| named.as_str()).into_iter().chain(all(HOST)).collect();
        if let Some(host) = hosts.iter().find(|host| !self.is_ours(host)) {
            return forbidden(format!(
                "{host} is not an address of this server; the option --allow-host allows a name"
            ));
        }
        if hosts.iter().any(|host| *host != hosts[0]) {
            return forbidden("the request is for two hosts".to_owned());
        }
        let is_own = |origin: &str| {
            let site = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            site.is_some() && site == hosts.first().copied()
        };
        if let Some(origin) = all(ORIGIN).find(|origin| !is_own(origin)) {
            return forbidden(format!("a page of {origin} may not use this server"));
        }
        // A browser sends no `Origin` with images, scripts and frames. A link of another site may lead to the page.
        let is_link = matches!(head.method, Method::GET | Method::HEAD)
            && all(FETCH_MODE).eq(["navigate"])
            && all(FETCH_DEST).eq(["document"]);
        if !is_link && all(FETCH_SITE).any(|site| !matches!(site, "same-origin" | "none")) {
            return forbidden("a page of another site may not use this server".to_owned());
        }
        Ok(())
    }

    /// Whether this is a name or an address of this server, with or without a port.
    fn is_ours(&self, host: &str) -> bool {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port),
            _ => (host, ""),
        };
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return false;
        }
        let address = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
            Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => name.parse().ok().filter(IpAddr::is_ipv4),
        };
        match address {
            Some(address) => self.remote || address.is_loopback(),
            None => {
                name.eq_ignore_ascii_case("localhost") || self.hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
            }
        }
    }

    /// Checks that a request to steer the simulation only reads, or has the token.
    ///
    /// # Errors
    ///
    /// The answer to a change without the token.
    pub(super) fn check_change(&self, method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
        // A browser sends a cookie for any page. It also says which page asks, and `check_source` has seen that it is the own one.
        let is_own_page =
            || headers.contains_key(ORIGIN) || headers.get(FETCH_SITE).is_some_and(|site| site == "same-origin");
        let has_token = || self.has_header(headers) || (self.has_cookie(headers) && is_own_page());
        if matches!(*method, Method::GET | Method::HEAD) || has_token() {
            return Ok(());
        }
        let why = "changes need the header Control-Token, with the control_token that the program printed at its start";
        Err(Refusal(StatusCode::UNAUTHORIZED, why.to_owned()))
    }

    fn has_header(&self, headers: &HeaderMap) -> bool {
        headers.get(CONTROL_TOKEN).is_some_and(|token| self.is_token(token.as_bytes()))
    }

    /// Whether the browser has the cookie with the token, so that buttons work.
    pub(super) fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let wanted = cookie_name(headers);
        let cookies = headers.get_all(COOKIE_HEADER).iter().filter_map(|value| value.to_str().ok());
        let mut cookies = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        cookies.any(|(name, value)| name == wanted && self.is_token(value.as_bytes()))
    }

    /// Whether this is the token. The time that this takes says nothing about where another text differs from it.
    pub(super) fn is_token(&self, text: &[u8]) -> bool {
        let token = self.token.as_bytes();
        let differences = token.iter().zip(text).fold(0, |found, (one, other)| black_box(found | (one ^ other)));
        token.len() == text.len() && differences == 0
    }
}

/// The name of the cookie with the token. Browsers send the cookies of a host to all of its ports, so that the name has the port:
/// two programs on one machine do not take the cookie from each other.
pub(super) fn cookie_name(headers: &HeaderMap) -> String {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let port =
        host.rsplit_once(':').map(|(_, port)| port).filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    port.map_or_else(|| COOKIE_PREFIX.to_owned(), |port| format!("{COOKIE_PREFIX}_{port}"))
}

/// Adds what tells a browser to do nothing with an answer but to show it. What the answer says of these itself stays.
pub(super) fn protect(mut response: Response<Content>) -> Response<Content> {
    for (name, value) in [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'; sandbox"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ] {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn guard(token: &str, hosts: &[&str], remote: bool) -> Guard {
        Guard::new(token.to_owned(), hosts.iter().map(|host| (*host).to_owned()).collect(), remote).unwrap()
    }

    fn head_at(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let request = Request::builder().method(method).uri(uri);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    fn head(method: &str, headers: &[(&str, &str)]) -> Parts {
        head_at(method, "/_sim/jobs", headers)
    }

    #[test]
    fn only_addresses_of_this_server_are_served() {
        let guard = |remote| guard("t", &["gitlab.test"], remote);
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
            ("localhost.:8929", false, false),
            ("localhost:8929:8929", false, false),
            ("[[127.0.0.1]]", false, false),
            ("[127.0.0.1]", false, false),
            ("[::1", false, false),
            ("::1", false, false),
            ("127.1", false, false),
            ("2130706433", false, false),
            ("0x7f.0.0.1", false, false),
            ("user@127.0.0.1", false, false),
            ("127.0.0.1/", false, false),
            ("127.0.0.1, evil.example", false, false),
            ("", false, false),
        ] {
            let asked = head("GET", &[("host", host)]);
            assert_eq!(guard(false).check_source(&asked).is_ok(), local, "{host}");
            assert_eq!(guard(true).check_source(&asked).is_ok(), remote, "{host}");
        }
        assert!(guard(false).check_source(&head("GET", &[])).is_ok());
        for (uri, hosts, fine) in [
            ("http://evil.example/_sim/jobs", &["127.0.0.1"][..], false),
            ("http://127.0.0.1/_sim/jobs", &["evil.example"], false),
            ("http://127.0.0.1/_sim/jobs", &["127.0.0.1"], true),
            ("/_sim/jobs", &["127.0.0.1", "evil.example"], false),
            ("/_sim/jobs", &["127.0.0.1", "localhost"], false),
        ] {
            let headers: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            let asked = head_at("GET", uri, &headers);
            assert_eq!(guard(false).check_source(&asked).is_ok(), fine, "{uri} {hosts:?}");
        }
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let guard = guard("t", &[], false);
        for (origins, fine) in [
            (&["http://127.0.0.1:8929"][..], true),
            (&["https://127.0.0.1:8929"], true),
            (&["http://127.0.0.1:8930"], false),
            (&["http://localhost:8929"], false),
            (&["https://evil.example"], false),
            (&["file://127.0.0.1:8929"], false),
            (&["null"], false),
            (&[""], false),
            (&["http://127.0.0.1:8929", "https://evil.example"], false),
        ] {
            let headers = [("host", "127.0.0.1:8929"), ("control-token", "t")];
            let headers: Vec<_> = headers.into_iter().chain(origins.iter().map(|origin| ("origin", *origin))).collect();
            assert_eq!(guard.check_source(&head("POST", &headers)).is_ok(), fine, "{origins:?}");
        }
    }

    /// A browser sends no `Origin` with an image, a script, a frame or a link.
    #[test]
    fn only_a_link_of_another_site_is_followed() {
        let guard = guard("t", &[], false);
        for (method, site, mode, dest, fine) in [
            ("GET", "none", "navigate", "document", true),
            ("GET", "same-origin", "cors", "empty", true),
            ("POST", "same-origin", "cors", "empty", true),
            ("GET", "cross-site", "navigate", "document", true),
            ("GET", "same-site", "navigate", "document", true),
            ("POST", "cross-site", "navigate", "document", false),
            ("GET", "cross-site", "navigate", "iframe", false),
            ("GET", "cross-site", "no-cors", "image", false),
            ("GET", "same-site", "no-cors", "script", false),
            ("POST", "same-site", "no-cors", "empty", false),
            ("GET", "moon", "cors", "empty", false),
        ] {
            let headers = [("sec-fetch-site", site), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)];
            assert_eq!(guard.check_source(&head(method, &headers)).is_ok(), fine, "{method} {site} {mode} {dest}");
        }
    }

    #[test]
    fn changes_need_the_token() {
        let guard = guard("secret", &[], false);
        let (host, own) = (("host", "localhost:8929"), ("origin", "http://localhost:8929"));
        for (method, headers, fine) in [
            ("GET", &[][..], true),
            ("HEAD", &[], true),
            ("POST", &[], false),
            ("DELETE", &[], false),
            ("OPTIONS", &[], false),
            ("TRACE", &[], false),
            ("POST", &[("control-token", "secret")], true),
            ("POST", &[("control-token", "secre")], false),
            ("POST", &[("control-token", "secretx")], false),
            ("POST", &[("control-token", "")], false),
            ("POST", &[host, own, ("cookie", "a=b; control_token_8929=secret; c=d")], true),
            ("POST", &[host, own, ("cookie", "a=b"), ("cookie", "control_token_8929=secret")], true),
            ("POST", &[("host", "localhost"), own, ("cookie", "control_token=secret")], true),
            ("POST", &[host, ("sec-fetch-site", "same-origin"), ("cookie", "control_token_8929=secret")], true),
            ("POST", &[host, ("cookie", "control_token_8929=secret")], false),
            ("POST", &[host, ("sec-fetch-site", "none"), ("cookie", "control_token_8929=secret")], false),
            ("POST", &[host, own, ("cookie", "control_token_8930=secret")], false),
            ("POST", &[host, own, ("cookie", "control_token=secret")], false),
            ("POST", &[host, own, ("cookie", "control_token_8929=other")], false),
            ("POST", &[host, own, ("cookie", "control_token_8929=")], false),
            ("POST", &[host, own, ("cookie", "xcontrol_token_8929=secret")], false),
        ] {
            let head = head(method, headers);
            assert_eq!(guard.check_change(&head.method, &head.headers).is_ok(), fine, "{method} {headers:?}");
        }
    }

    #[test]
    fn a_token_can_stand_in_a_header_and_a_cookie() {
        for (token, fine) in
            [("a-Z_0.~", true), ("", false), ("a b", false), ("a;b", false), ("a\r\nb", false), ("é", false)]
        {
            assert_eq!(Guard::new(token.to_owned(), Vec::new(), false).is_some(), fine, "{token}");
        }
    }
}
