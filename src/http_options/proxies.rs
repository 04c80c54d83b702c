//! Which proxy a request goes through, decided as the official runner decides it.

use std::fmt;
// The address as a value, which has no socket in it.
use core::net::IpAddr;

use percent_encoding::percent_decode_str;
use url::{Host, Url};

use crate::error::ConfigError;
use crate::secret::Secret;

/// The proxies for `http` and for `https`, and the hosts that are reached without one.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    http: Option<ProxyUrl>,
    https: Option<ProxyUrl>,
    direct: Vec<Exempt>,
    direct_loopback: bool,
}

impl Proxies {
    /// No proxy.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Everything through this one.
    #[must_use]
    pub fn all(proxy: ProxyUrl) -> Self {
        Self { http: Some(proxy.clone()), https: Some(proxy), ..Self::default() }
    }

    /// What the environment says: `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, or the same in lower case where a name is
    /// not set in capitals. `get` looks a variable up; the core reads no environment.
    ///
    /// As with the official runner, this machine itself (`localhost` and loopback addresses) is never asked for through a
    /// proxy that comes from the environment, and `HTTP_PROXY` is for `http` alone.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Proxy`] if an address of a proxy cannot be used.
    pub fn from_vars(get: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let get = |name: &str| {
            let value = get(name).filter(|value| !value.is_empty()).or_else(|| get(&name.to_ascii_lowercase()));
            value.filter(|value| !value.trim().is_empty())
        };
        let proxy = |name: &str| get(name).map(|address| ProxyUrl::parse(&address)).transpose();
        let (http, https) = (proxy("HTTP_PROXY")?, proxy("HTTPS_PROXY")?);
        let proxies = Self { http, https, direct: Vec::new(), direct_loopback: true };
        Ok(proxies.with_no_proxy(&get("NO_PROXY").unwrap_or_default()))
    }

    /// Reaches these hosts without a proxy, in the form of `NO_PROXY`: names, addresses and address blocks, separated by
    /// commas. `example.com` means the name and all below it, `.example.com` only those below; `host:port` one port;
    /// `*` everything. What cannot be read names no host.
    #[must_use]
    pub fn with_no_proxy(mut self, hosts: &str) -> Self {
        self.direct.extend(hosts.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(Exempt::parse));
        self
    }

    /// The proxy for a request, if it is to go through one.
    #[must_use]
    pub fn for_url(&self, scheme: &str, host: &str, port: u16) -> Option<&ProxyUrl> {
        let proxy = if scheme.eq_ignore_ascii_case("https") { self.https.as_ref() } else { self.http.as_ref() }?;
        let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
        let address = host.parse::<IpAddr>().ok();
        let here = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        let direct = (here && self.direct_loopback) || self.direct.iter().any(|it| it.covers(&host, address, port));
        (!direct).then_some(proxy)
    }
}

/// The address of an HTTP proxy. `Debug` shows no user name and no password.
#[derive(Clone)]
pub struct ProxyUrl {
    host: String,
    port: u16,
    credentials: Option<(String, Secret)>,
}

impl ProxyUrl {
    /// Reads an address such as `http://proxy.example.com:3128` or `http://user:password@proxy:3128`; the scheme and, if
    /// it is 80, the port may be left out.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Proxy`] if it is not the address of an HTTP proxy.
    pub fn parse(address: &str) -> Result<Self, ConfigError> {
        let address = address.trim();
        let whole = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let url = Url::parse(&whole).map_err(|_| ConfigError::Proxy)?;
        let host = url.host().filter(|host| !matches!(host, Host::Domain(""))).ok_or(ConfigError::Proxy)?;
        if url.scheme() != "http" {
            return Err(ConfigError::Proxy);
        }
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let password = decoded(url.password().unwrap_or_default());
        let named = !url.username().is_empty() || url.password().is_some();
        let credentials = named.then(|| (decoded(url.username()), Secret::new(password)));
        Ok(Self { host: host.to_string(), port: url.port().unwrap_or(80), credentials })
    }

    /// Its host: a name or an address, an IPv6 address in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// User name and password for basic authentication.
    #[must_use]
    pub fn credentials(&self) -> Option<(&str, &Secret)> {
        self.credentials.as_ref().map(|(user, password)| (user.as_str(), password))
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyUrl({}:{})", self.host, self.port)
    }
}

/// One entry of `NO_PROXY`.
#[derive(Clone, Debug)]
struct Exempt {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Clone, Debug)]
enum Hosts {
    All,
    Address(IpAddr),
    Block(IpAddr, u32),
    /// The name itself, and those that end with a dot and it.
    Domain(String),
    /// Only those that end with it; it starts with a dot.
    Below(String),
    Nothing,
}

impl Exempt {
    fn parse(entry: &str) -> Self {
        let entry = entry.to_ascii_lowercase();
        let bare = |text: &str| text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        if entry == "*" {
            return Self { hosts: Hosts::All, port: None };
        }
        if let Ok(address) = bare(&entry) {
            return Self { hosts: Hosts::Address(address), port: None };
        }
        if let Some((address, length)) = entry.split_once('/') {
            let block = address.parse().ok().zip(length.parse().ok());
            return Self { hosts: block.map_or(Hosts::Nothing, |(at, length)| Hosts::Block(at, length)), port: None };
        }
        let (name, port) = match entry.rsplit_once(':').map(|(name, port)| (name, port.parse())) {
            Some((name, Ok(port))) => (name, Some(port)),
            Some((_, Err(_))) => return Self { hosts: Hosts::Nothing, port: None },
            None => (entry.as_str(), None),
        };
        let hosts = match (bare(name), name.strip_prefix("*.").or_else(|| name.strip_prefix('.'))) {
            (Ok(address), _) => Hosts::Address(address),
            (_, Some(parent)) => Hosts::Below(format!(".{parent}")),
            (_, None) if name.is_empty() => Hosts::Nothing,
            (_, None) => Hosts::Domain(name.trim_end_matches('.').to_owned()),
        };
        Self { hosts, port }
    }

    fn covers(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        let named = match &self.hosts {
            Hosts::All => true,
            Hosts::Address(one) => address == Some(*one),
            Hosts::Block(start, length) => address.is_some_and(|address| in_block(address, *start, *length)),
            Hosts::Domain(name) => {
                host == name || host.strip_suffix(name.as_str()).is_some_and(|below| below.ends_with('.'))
            }
            Hosts::Below(suffix) => host.ends_with(suffix.as_str()),
            Hosts::Nothing => false,
        };
        named && self.port.is_none_or(|only| only == port)
    }
}

/// Whether two addresses agree in their first `length` bits.
fn in_block(address: IpAddr, start: IpAddr, length: u32) -> bool {
    let (differ, width) = match (address, start) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits() ^ b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits(), 128),
        _ => return false,
    };
    length <= width && differ.checked_shr(width - length).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(vars: &[(&str, &str)]) -> Result<Proxies, ConfigError> {
        let find = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Proxies::from_vars(find)
    }

    #[test]
    fn the_environment_says_which_proxy() {
        let both = from(&[("HTTP_PROXY", "one:1"), ("https_proxy", "http://two"), ("http_proxy", "three:3")]).unwrap();
        let host = |scheme, host| both.for_url(scheme, host, 80).map(|proxy| (proxy.host(), proxy.port()));
        assert_eq!(host("http", "gitlab.example.com"), Some(("one", 1)));
        assert_eq!(host("https", "gitlab.example.com"), Some(("two", 80)));
        for here in ["localhost", "127.0.0.1", "127.9.9.9", "[::1]", "LOCALHOST."] {
            assert_eq!(host("http", here), None, "{here}");
        }
        assert!(from(&[]).unwrap().for_url("https", "a", 443).is_none());
        assert!(from(&[("HTTP_PROXY", " ")]).unwrap().for_url("http", "a", 80).is_none());
        let told = Proxies::all(ProxyUrl::parse("proxy").unwrap());
        assert!(told.for_url("http", "127.0.0.1", 80).is_some(), "only the environment spares this machine");
    }

    #[test]
    fn hosts_without_a_proxy() {
        let rows = [
            ("example.com", "example.com", 443, true),
            ("example.com", "GitLab.Example.com", 443, true),
            ("example.com", "badexample.com", 443, false),
            (".example.com", "example.com", 443, false),
            (".example.com", "a.example.com", 443, true),
            ("*.example.com", "a.example.com", 443, true),
            ("other, example.com:8080", "example.com", 8080, true),
            ("example.com:8080", "example.com", 443, false),
            ("*", "anything", 1, true),
            ("10.0.0.0/8", "10.9.8.7", 1, true),
            ("10.0.0.0/8", "11.0.0.1", 1, false),
            ("0.0.0.0/0", "11.0.0.1", 1, true),
            ("::/0", "[2001:db8::1]", 1, true),
            ("2001:db8::/32", "[2001:db8::1]", 1, true),
            ("2001:db8::1", "[2001:db8::1]", 1, true),
            ("[2001:db8::1]:8443", "[2001:db8::1]", 8443, true),
            ("10.1.2.3:80", "10.1.2.3", 80, true),
            ("10.1.2.3:80", "10.1.2.3", 81, false),
            ("10.0.0.0/99", "10.0.0.0", 1, false),
            ("10.0.0.0/x,:,,host:port", "host", 1, false),
        ];
        for (exempt, host, port, direct) in rows {
            let proxies = Proxies::all(ProxyUrl::parse("proxy").unwrap()).with_no_proxy(exempt);
            assert_eq!(proxies.for_url("https", host, port).is_none(), direct, "{exempt} {host}:{port}");
        }
    }

    #[test]
    fn an_address_is_read_and_its_password_never_shown() {
        let proxy = ProxyUrl::parse("http://us%40er:can%3Aary@proxy.example.com:3128/").unwrap();
        let (user, password) = proxy.credentials().unwrap();
        assert_eq!((user, password.expose()), ("us@er", "can:ary"));
        assert_eq!(format!("{proxy:?}"), "ProxyUrl(proxy.example.com:3128)");
        assert_eq!(ProxyUrl::parse("[::1]:3128").unwrap().host(), "[::1]");
        for bad in ["", "socks5://proxy:1", "https://proxy", "http://", "http://x:99999", "::", "http://can ary"] {
            let error = ProxyUrl::parse(bad).unwrap_err().to_string();
            assert!(error.contains("HTTP proxy") && !error.contains("ary"), "{bad}: {error}");
        }
    }
}
