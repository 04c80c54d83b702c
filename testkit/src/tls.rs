//! TLS for servers: a front for those that do not speak it, and certificates for the one that does.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use crate::time_limit::TimeLimit;

/// For how long a certificate that is made here is valid. Some clients refuse one that is valid for more than 398 days.
const VALIDITY: Duration = Duration::from_secs(397 * 24 * 3600);
/// It is valid from this long ago, for clients with a clock that is behind.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);

fn server_config(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> io::Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(io::Error::other)?;
    Ok(Arc::new(config))
}

/// A certificate that was made for one server, and the CA that issued it.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) config: Arc<ServerConfig>,
    /// The certificate of the CA, as PEM text. Its key is gone, so that nobody can issue another certificate.
    pub(crate) ca_pem: String,
}

impl Identity {
    /// Makes a certificate for these host names and addresses.
    ///
    /// # Errors
    ///
    /// If one of them cannot stand in a certificate, or there are no random numbers.
    pub(crate) fn make(names: Vec<String>) -> io::Result<Self> {
        let now = SystemTime::now();
        let (not_before, not_after) =
            (now.checked_sub(BACKDATED).unwrap_or(now), now.checked_add(VALIDITY).unwrap_or(now));
        let mut ca = CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        ca.distinguished_name.push(DnType::CommonName, "CA of one simulated GitLab");
        (ca.not_before, ca.not_after) = (not_before.into(), not_after.into());
        let ca_key = KeyPair::generate().map_err(io::Error::other)?;
        let ca_pem = ca.self_signed(&ca_key).map_err(io::Error::other)?.pem();

        let mut leaf = CertificateParams::new(names).map_err(io::Error::other)?;
        // Strict clients, such as Python 3.13, want all of these.
        leaf.use_authority_key_identifier_extension = true;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.distinguished_name.push(DnType::CommonName, "simulated-gitlab");
        (leaf.not_before, leaf.not_after) = (not_before.into(), not_after.into());
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).map_err(io::Error::other)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok(Self { config: server_config(vec![leaf.der().clone()], key.into())?, ca_pem })
    }
}

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
        let config = server_config(chain, key)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_io().build()?;
        Ok(Self { runtime: Some(runtime), config, limit: None })
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
