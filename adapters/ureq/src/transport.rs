//! A [`Call`] to ureq and back, by the contract of [`gitlab_runner_api::manual::adapters`].

use std::io::{self, Read};
use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::{Call, ERROR_BODY_LIMIT, Failure, Hints, HttpOptions, Proxies, ResponseBody, Ticket};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Response};
use ureq::config::Config;
use ureq::tls::{ClientCert, RootCerts, TlsConfig};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{ConnectionDetails, Connector, DefaultConnector, NextTimeout};
use ureq::{Agent, Proxy, ProxyProtocol, SendBody, Timeout};

use crate::error::Error;
use crate::tls;

/// ureq adds deadlines to the system's clock, which ends somewhere. No call takes a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// How much of a body is handed to the operating system at once. A piece of log has up to 1 MiB, and each call costs. Memory is used
/// only as far as a body fills it.
const OUTPUT_BUFFER: usize = 512 << 10;

/// Performs calls with ureq. Cloning shares the connections.
///
/// It follows no redirect, repeats nothing, and takes every status for an answer. Connections are reused for a few seconds
/// only: one that the server closed meanwhile would make it uncertain whether a job request arrived.
#[derive(Clone, Debug)]
pub struct Transport {
    agent: Agent,
    proxies: Proxies,
}

impl Default for Transport {
    fn default() -> Self {
        Self::new()
    }
}

impl Transport {
    /// Trusts the certificates that the operating system trusts, and uses no proxy.
    #[must_use]
    pub fn new() -> Self {
        Self::built(RootCerts::PlatformVerifier, None, Proxies::none())
    }

    /// Trusts what the operating system trusts, and uses the proxies that the environment names (`HTTP_PROXY`,
    /// `HTTPS_PROXY`, `NO_PROXY`, in capitals or not).
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the address of a proxy cannot be used.
    pub fn from_env() -> Result<Self, Error> {
        let proxies = Proxies::from_vars(|name| std::env::var(name).ok())?;
        Ok(Self::built(RootCerts::PlatformVerifier, None, proxies))
    }

    /// With certificates and proxies of one's own.
    ///
    /// Certificates beside those of the operating system are added to a copy of its list, so that rules which the
    /// platform keeps outside of that list do not apply then.
    ///
    /// # Errors
    ///
    /// [`Error::Certificate`] if a certificate or a key cannot be read.
    pub fn with_options(options: &HttpOptions) -> Result<Self, Error> {
        let client = options.client_certificate().map(|(chain, key)| tls::client(chain, key)).transpose()?;
        Ok(Self::built(tls::roots(options)?, client, options.proxies().clone()))
    }

    fn built(roots: RootCerts, client: Option<ClientCert>, proxies: Proxies) -> Self {
        let tls = TlsConfig::builder().root_certs(roots).client_cert(client).build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(30)))
            .max_idle_age(Duration::from_secs(10))
            .output_buffer_size(OUTPUT_BUFFER)
            .accept("")
            .accept_encoding("")
            .user_agent(concat!("gitlab-runner-api-ureq/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: Agent::with_parts(config, Connecting::default(), Resolving::default()), proxies }
    }

    /// Sends the request, and waits for its answer or for its deadline to pass.
    ///
    /// Hand both results to the machine that made the call.
    pub fn exchange(&self, call: Call) -> (Ticket, Result<Response<Bytes>, Failure>) {
        let (ticket, outcome) = self.perform(call);
        (ticket, outcome.map_err(|trouble| trouble.failure))
    }

    /// The same, with the cause of a failure in words.
    pub(crate) fn perform(&self, call: Call) -> (Ticket, Result<Response<Bytes>, Trouble>) {
        let (request, ticket) = call.split();
        let outcome = self.send(request, ticket.hints());
        (ticket, outcome)
    }

    fn send(&self, request: http::Request<gitlab_runner_api::Body>, hints: &Hints) -> Result<Response<Bytes>, Trouble> {
        let (mut head, body) = request.into_parts();
        // Without it, ureq would send a body read from a reader in chunks, which the trace endpoint need not take.
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        let mut reader = body.reader();
        let proxy = self
            .proxy_for(&head.uri)
            .map_err(|()| Trouble { failure: Failure::NotSent, why: "the proxy cannot be used".to_owned() })?;
        let request = http::Request::from_parts(head, SendBody::from_reader(&mut reader));
        let request = self.agent.configure_request(request).timeout_global(Some(hints.deadline.min(LONGEST)));
        let request = request.proxy(proxy).build();
        let trouble = |error: ureq::Error| Trouble { failure: classify(&error), why: in_words(&error) };
        let response = self.agent.run(request).map_err(trouble)?;
        let (head, body) = response.into_parts();
        let bytes = collect(body.into_reader(), head.status.is_success(), hints.response);
        let bytes = bytes.map_err(|failure| Trouble { failure, why: failure.to_string() })?;
        Ok(Response::from_parts(head, bytes))
    }
}

impl Transport {
    /// The proxy for a request. ureq's own choice knows neither the scheme nor addresses in blocks.
    fn proxy_for(&self, uri: &http::Uri) -> Result<Option<Proxy>, ()> {
        let scheme = uri.scheme_str().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        let Some(proxy) = self.proxies.for_url(scheme, uri.host().unwrap_or_default(), port) else { return Ok(None) };
        let mut builder = Proxy::builder(ProxyProtocol::Http).host(proxy.host()).port(proxy.port());
        if let Some((user, password)) = proxy.credentials() {
            builder = builder.username(user).password(password.expose());
        }
        builder.build().map(Some).map_err(drop)
    }
}

/// Why there is no answer: for the machine, and for people.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) failure: Failure,
    pub(crate) why: String,
}

/// The cause, without what ureq might quote of a request.
fn in_words(error: &ureq::Error) -> String {
    use ureq::Error;
    match error {
        Error::HostNotFound => "the name of the host does not resolve".to_owned(),
        Error::ConnectProxyFailed(why) => format!("the proxy made no connection: {why}"),
        Error::Io(error) => error.to_string(),
        Error::Rustls(error) => error.to_string(),
        Error::Timeout(timeout) => format!("timeout: {timeout}"),
        Error::ConnectionFailed => "no connection could be made".to_owned(),
        other => classify(other).to_string(),
    }
}

/// Looks names up as ureq does, and says of every failure that nothing was sent.
#[derive(Debug, Default)]
struct Resolving(DefaultResolver);

impl Resolver for Resolving {
    fn resolve(
        &self,
        uri: &http::Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        self.0.resolve(uri, config, timeout).map_err(|error| match error {
            ureq::Error::Io(_) => ureq::Error::HostNotFound,
            other => other,
        })
    }
}

/// An error from before there was a connection.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotConnected(io::Error);

/// Connects as ureq does, and says of every failure that nothing was sent.
#[derive(Debug, Default)]
struct Connecting(DefaultConnector);

impl Connector for Connecting {
    type Out = <DefaultConnector as Connector>::Out;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<()>) -> Result<Option<Self::Out>, ureq::Error> {
        // Requests differ in their deadline and proxy, never in their TLS settings. Said to be the agent's, these are
        // prepared once, and not for each connection.
        let details = ConnectionDetails {
            uri: details.uri,
            addrs: details.addrs.clone(),
            config: details.config,
            request_level: false,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        self.0.connect(&details, chained).map_err(|error| match error {
            ureq::Error::Io(error) => ureq::Error::Io(io::Error::new(error.kind(), NotConnected(error))),
            ureq::Error::Timeout(_) | ureq::Error::Rustls(_) => ureq::Error::ConnectionFailed,
            other => other,
        })
    }
}

/// Reads a body as far as it is wanted.
fn collect(body: impl Read, is_success: bool, wanted: ResponseBody) -> Result<Bytes, Failure> {
    let (limit, strict) = match wanted {
        ResponseBody::Collect { limit, .. } if is_success => (limit, true),
        ResponseBody::Truncate { limit, .. } if is_success => (limit, false),
        // What it says does not matter, but reading it lets the connection be used again.
        _ => (ERROR_BODY_LIMIT, false),
    };
    let mut bytes = Vec::new();
    let read = body.take(limit.saturating_add(1)).read_to_end(&mut bytes);
    let received = bytes.len() as u64;
    match read {
        Err(error) if error.kind() == io::ErrorKind::TimedOut || is_timeout(&error) => Err(Failure::TimedOut),
        // The head has come, and the body of a refusal that broke off is still worth its status.
        Err(_) if strict => Err(Failure::interrupted(received)),
        Ok(_) if received > limit && strict => Err(Failure::TooLarge),
        _ => {
            bytes.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            Ok(bytes.into())
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    matches!(inner, Some(ureq::Error::Timeout(_)))
}

/// What a failure says of the request. [`Failure::NotSent`] only where ureq has not come to sending yet.
fn classify(error: &ureq::Error) -> Failure {
    use ureq::Error;
    match error {
        Error::HostNotFound
        | Error::ConnectionFailed
        | Error::BadUri(_)
        | Error::Http(_)
        | Error::InvalidProxyUrl
        | Error::ConnectProxyFailed(_)
        | Error::RequireHttpsOnly(_)
        | Error::Tls(_)
        | Error::TlsRequired
        | Error::Pem(_)
        | Error::Timeout(Timeout::Resolve | Timeout::Connect) => Failure::NotSent,
        Error::Timeout(_) => Failure::TimedOut,
        Error::Rustls(error) if is_handshake(error) => Failure::NotSent,
        Error::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<NotConnected>()) => Failure::NotSent,
        Error::Io(error) if error.get_ref().and_then(|inner| inner.downcast_ref()).is_some_and(is_handshake) => {
            Failure::NotSent
        }
        Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => Failure::TimedOut,
        _ => Failure::Unknown,
    }
}

/// Whether TLS failed in a way that it can fail only before the request is sent.
fn is_handshake(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(_) | rustls::Error::PeerIncompatible(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_have_left_is_not_sent() {
        use io::ErrorKind as Kind;
        let tls = |error: rustls::Error| ureq::Error::Io(io::Error::new(Kind::InvalidData, error));
        let rows = [
            (ureq::Error::HostNotFound, Failure::NotSent),
            (ureq::Error::Timeout(Timeout::Connect), Failure::NotSent),
            (ureq::Error::Timeout(Timeout::SendBody), Failure::TimedOut),
            (ureq::Error::Timeout(Timeout::RecvResponse), Failure::TimedOut),
            (ureq::Error::Timeout(Timeout::Global), Failure::TimedOut),
            (ureq::Error::ConnectionFailed, Failure::NotSent),
            (ureq::Error::Io(Kind::ConnectionRefused.into()), Failure::Unknown),
            (ureq::Error::Io(Kind::ConnectionReset.into()), Failure::Unknown),
            (ureq::Error::Io(Kind::BrokenPipe.into()), Failure::Unknown),
            (ureq::Error::Io(Kind::UnexpectedEof.into()), Failure::Unknown),
            (ureq::Error::Io(Kind::NetworkUnreachable.into()), Failure::Unknown),
            (tls(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)), Failure::NotSent),
            (tls(rustls::Error::DecryptError), Failure::Unknown),
            (ureq::Error::LargeResponseHeader(1, 2), Failure::Unknown),
            (ureq::Error::BodyStalled, Failure::Unknown),
        ];
        for (error, failure) in rows {
            assert_eq!(classify(&error), failure, "{error:?}");
        }
    }

    /// Reads what there is, then fails.
    struct Broken(&'static [u8], io::ErrorKind);

    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(self.1.into()),
                count => Ok(count),
            }
        }
    }

    #[test]
    fn bodies_are_read_as_far_as_wanted() {
        let whole = |limit| {
            let hints = ResponseBody::collect(limit);
            collect(&b"12345"[..], true, hints)
        };
        assert_eq!(whole(5).unwrap(), "12345");
        assert_eq!(whole(4), Err(Failure::TooLarge));
        assert_eq!(collect(&b"12345"[..], true, ResponseBody::truncate(4)).unwrap(), "1234");
        let long = vec![b'x'; ERROR_BODY_LIMIT as usize + 9];
        let page = collect(&long[..], false, ResponseBody::collect(4)).unwrap();
        assert_eq!(page.len() as u64, ERROR_BODY_LIMIT);
        let broken = |success, kind| collect(Broken(b"123", kind), success, ResponseBody::collect(9));
        assert_eq!(broken(true, io::ErrorKind::ConnectionReset), Err(Failure::interrupted(3)));
        assert_eq!(broken(true, io::ErrorKind::TimedOut), Err(Failure::TimedOut));
        assert_eq!(broken(false, io::ErrorKind::ConnectionReset).unwrap(), "123");
    }
}
