//! Which certificates are trusted, and which one is shown.

use std::sync::{Arc, OnceLock};

use gitlab_runner_api::HttpOptions;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme, WantsVerifier};
use rustls_platform_verifier::Verifier;

use crate::error::Error;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(crate) fn with_options(options: &HttpOptions) -> Result<ClientConfig, Error> {
    let builder = builder()?;
    let extra = options.extra_ca().iter().map(|pem| certificates(pem)).collect::<Result<Vec<_>, _>>()?.concat();
    let builder = if options.system_roots() {
        let verifier: Arc<dyn ServerCertVerifier> = match extra.is_empty() {
            true => Arc::new(SystemRoots::default()),
            false => Arc::new(Verifier::new_with_extra_roots(extra, provider()).map_err(tls)?),
        };
        builder.dangerous().with_custom_certificate_verifier(verifier)
    } else {
        let mut roots = RootCertStore::empty();
        for certificate in extra {
            roots.add(certificate).map_err(tls)?;
        }
        builder.with_root_certificates(roots)
    };
    match options.client_certificate() {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes());
            // The reader's own words might quote the key.
            let key =
                key.map_err(|_| Error::Tls("the key of the client certificate is no PEM text with a key".into()))?;
            builder.with_client_auth_cert(certificates(chain)?, key).map_err(tls)
        }
    }
}

/// The certificates that the operating system trusts, read when the first server shows its own. That takes milliseconds, and a system
/// without certificates can still speak plain HTTP.
#[derive(Debug, Default)]
struct SystemRoots(OnceLock<Result<Verifier, rustls::Error>>);

impl SystemRoots {
    fn get(&self) -> Result<&Verifier, rustls::Error> {
        self.0.get_or_init(|| Verifier::new(provider())).as_ref().map_err(Clone::clone)
    }
}

impl ServerCertVerifier for SystemRoots {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.get()?.verify_server_cert(certificate, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.get()?.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.get()?.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, Error> {
    ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(tls)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bad = || Error::Tls("a PEM text with certificates cannot be read".into());
    let read = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|_| bad())?;
    if read.is_empty() { Err(bad()) } else { Ok(read) }
}

fn tls(error: rustls::Error) -> Error {
    Error::Tls(error.to_string())
}
