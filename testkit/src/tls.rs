//! A front that speaks TLS, for servers that do not.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use crate::time_limit::TimeLimit;

/// Opens doors that speak TLS, with one certificate, to servers of this machine that do not. They close when it is dropped.
#[derive(Debug)]
pub struct TlsFront {
    /// Taken when it is dropped, and never else.
    runtime: Option<Runtime>,
    config: Arc<ServerConfig>,
    limit: Option<TimeLimit>,
}

impl TlsFront {
    /// A front that shows this certificate, which is to be one for `127.0.0.1`. Both are PEM texts.
    ///
    /// # Errors
    ///
    /// If the certificate or the key cannot be used, or the operating system refuses a thread.
    pub fn start(chain_pem: &str, key_pem: &str) -> io::Result<Self> {
        let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(io::Error::other)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(io::Error::other)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(io::Error::other)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_io().build()?;
        Ok(Self { runtime: Some(runtime), config: Arc::new(config), limit: None })
    }

    /// Ends the process with a message if the front is not dropped within so much time from now, as [`TimeLimit`] does.
    #[must_use]
    pub fn with_time_limit(mut self, span: Duration) -> Self {
        self.limit = Some(TimeLimit::start(span));
        self
    }

    /// A door to this server: its URL. If the server is not there, the door is closed before the handshake.
    ///
    /// # Errors
    ///
    /// If the operating system refuses a port.
    pub fn door(&self, to: SocketAddr) -> io::Result<String> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = self.runtime.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let _context = runtime.enter();
        let (listener, acceptor) = (TcpListener::from_std(listener)?, TlsAcceptor::from(self.config.clone()));
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(to).await?;
                    let mut client = acceptor.accept(client).await?;
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        Ok(format!("https://{address}"))
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        // Without waiting, so that it may be dropped in async code.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
