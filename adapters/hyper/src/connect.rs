//! Connections: direct or through a proxy, and TLS over them.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gitlab_runner_api::{HttpOptions, Proxies, ProxyUrl};
use http::header::{HeaderValue, PROXY_AUTHORIZATION};
use http::{Request, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::body::RequestBody;
use crate::error::Error;
use crate::tls;

/// How long a connection may take to come about, with the handshakes of proxy and TLS.
const PATIENCE: Duration = Duration::from_secs(30);

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Makes connections, TLS and all.
#[derive(Clone)]
pub(crate) struct Connector {
    proxies: Arc<Proxies>,
    https: HttpsConnector<Dial>,
}

pub(crate) fn with_options(options: &HttpOptions) -> Result<Connector, Error> {
    Ok(Connector::new(options.proxies().clone(), tls::with_options(options)?))
}

impl Connector {
    fn new(proxies: Proxies, tls: rustls::ClientConfig) -> Self {
        let proxies = Arc::new(proxies);
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let https = HttpsConnector::from((Dial { proxies: proxies.clone(), tcp }, tls));
        Self { proxies, https }
    }

    /// Tells a proxy that passes a plain request on who sends it. A tunnel is told when it is made.
    pub(crate) fn authorize(&self, request: &mut Request<RequestBody>) {
        let uri = request.uri();
        if !is_https(uri) {
            let credentials = proxy_for(&self.proxies, uri).and_then(authorization);
            if let Some(value) = credentials {
                request.headers_mut().insert(PROXY_AUTHORIZATION, value);
            }
        }
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<Line>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.https.poll_ready(context)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connecting = self.https.call(to);
        Box::pin(async move {
            let late = || io::Error::new(io::ErrorKind::TimedOut, "no connection could be made in time");
            tokio::time::timeout(PATIENCE, connecting).await.unwrap_or_else(|_| Err(late().into()))
        })
    }
}

/// Makes the connection below TLS.
#[derive(Clone)]
pub(crate) struct Dial {
    proxies: Arc<Proxies>,
    tcp: HttpConnector,
}

impl Service<Uri> for Dial {
    type Response = Line;
    type Error = BoxError;
    type Future = Connecting<Line>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let Some(proxy) = proxy_for(&self.proxies, &to) else {
            let direct = self.tcp.call(to);
            return Box::pin(async move { Ok(Line { io: direct.await?, forwarded: false }) });
        };
        let address = Uri::builder().scheme("http").authority(format!("{}:{}", proxy.host(), proxy.port()));
        let address = match address.path_and_query("/").build() {
            Ok(address) => address,
            Err(error) => return Box::pin(async move { Err(error.into()) }),
        };
        if !is_https(&to) {
            let forwarding = self.tcp.call(address);
            return Box::pin(async move { Ok(Line { io: forwarding.await?, forwarded: true }) });
        }
        let tunnel = Tunnel::new(address, self.tcp.clone());
        let tunneling = match authorization(proxy) {
            Some(value) => tunnel.with_auth(value),
            None => tunnel,
        }
        .call(to);
        Box::pin(async move { Ok(Line { io: tunneling.await?, forwarded: false }) })
    }
}

fn is_https(uri: &Uri) -> bool {
    uri.scheme() == Some(&http::uri::Scheme::HTTPS)
}

fn proxy_for<'a>(proxies: &'a Proxies, uri: &Uri) -> Option<&'a ProxyUrl> {
    let port = uri.port_u16().unwrap_or(if is_https(uri) { 443 } else { 80 });
    proxies.for_url(uri.scheme_str()?, uri.host()?, port)
}

fn authorization(proxy: &ProxyUrl) -> Option<HeaderValue> {
    let (user, password) = proxy.credentials()?;
    let mut value =
        HeaderValue::try_from(format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.expose()))));
    if let Ok(value) = &mut value {
        value.set_sensitive(true);
    }
    value.ok()
}

/// A TCP connection that knows whether a proxy at its other end is to pass requests on.
pub(crate) struct Line {
    io: TokioIo<TcpStream>,
    forwarded: bool,
}

impl Connection for Line {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.forwarded)
    }
}

impl Read for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for Line {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, buffers)
    }
}
