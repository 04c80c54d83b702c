//! Which certificates are trusted, and which one is shown.

use std::sync::Arc;

use gitlab_runner_api::HttpOptions;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_platform_verifier::Verifier;

use crate::error::Error;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(crate) fn with_options(options: &HttpOptions) -> Result<ClientConfig, Error> {
    let builder = builder()?;
    let extra = options.extra_ca().iter().map(|pem| certificates(pem)).collect::<Result<Vec<_>, _>>()?.concat();
    let builder = if options.system_roots() {
        let anything = !extra.is_empty();
        match Verifier::new_with_extra_roots(extra, provider()) {
            Ok(verifier) => {
                let verifier: Arc<dyn ServerCertVerifier> = Arc::new(verifier);
                builder.dangerous().with_custom_certificate_verifier(verifier)
            }
            Err(error) if anything => return Err(tls(error)),
            // A system without certificates trusts nobody, and can still speak plain HTTP.
            Err(_) => builder.with_root_certificates(RootCertStore::empty()),
        }
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
