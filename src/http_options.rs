//! How an HTTP client is to reach GitLab: certificates and proxies, as plain data that every adapter understands.

mod proxies;

use bytes::Bytes;

pub use proxies::{Proxies, ProxyUrl};

use crate::secret::Secret;

/// Certificates and proxies for a transport.
///
/// By default the certificates are trusted that the operating system trusts, and no proxy is used. The core does nothing
/// with it; the adapters take it when a transport is made. Certificates and keys are PEM texts, read when the transport
/// is made, not here.
#[derive(Clone, Debug, Default)]
pub struct HttpOptions {
    extra_ca: Vec<Bytes>,
    only_extra: bool,
    client: Option<(Bytes, Secret)>,
    proxies: Proxies,
}

impl HttpOptions {
    /// What the operating system trusts, and no proxy.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the certificates of this PEM text too: one or more, such as the CA of a private GitLab.
    #[must_use]
    pub fn with_ca(mut self, pem: impl Into<Bytes>) -> Self {
        self.extra_ca.push(pem.into());
        self
    }

    /// Trusts the certificates of this PEM text, and no longer those of the operating system.
    #[must_use]
    pub fn with_only_ca(mut self, pem: impl Into<Bytes>) -> Self {
        self.only_extra = true;
        self.with_ca(pem)
    }

    /// Shows this certificate to servers that ask for one. The chain starts with the client's own certificate.
    #[must_use]
    pub fn with_client_certificate(mut self, chain_pem: impl Into<Bytes>, key_pem: Secret) -> Self {
        self.client = Some((chain_pem.into(), key_pem));
        self
    }

    /// Goes through these proxies.
    #[must_use]
    pub fn with_proxies(mut self, proxies: Proxies) -> Self {
        self.proxies = proxies;
        self
    }

    /// The PEM texts of the certificates to be trusted beside, or instead of, those of the operating system.
    #[must_use]
    pub fn extra_ca(&self) -> &[Bytes] {
        &self.extra_ca
    }

    /// Whether the certificates of the operating system are trusted.
    #[must_use]
    pub fn system_roots(&self) -> bool {
        !self.only_extra
    }

    /// The PEM texts of the certificate chain to show, and of its key.
    #[must_use]
    pub fn client_certificate(&self) -> Option<(&Bytes, &Secret)> {
        self.client.as_ref().map(|(chain, key)| (chain, key))
    }

    /// The proxies.
    #[must_use]
    pub fn proxies(&self) -> &Proxies {
        &self.proxies
    }
}
