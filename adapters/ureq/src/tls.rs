//! Certificates, from PEM to what ureq takes.

use gitlab_runner_api::{HttpOptions, Secret};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, parse_pem};

use crate::error::Error;

/// The certificates to trust.
pub(crate) fn roots(options: &HttpOptions) -> Result<RootCerts, Error> {
    if options.extra_ca().is_empty() {
        return Ok(RootCerts::PlatformVerifier);
    }
    let mut trusted = Vec::new();
    if options.system_roots() {
        // What cannot be read of the system's list trusts nobody, which is the safe side.
        let system = rustls_native_certs::load_native_certs().certs;
        trusted.extend(system.iter().map(|certificate| Certificate::from_der(certificate).to_owned()));
    }
    for pem in options.extra_ca() {
        trusted.extend(certificates(pem, "CA certificate")?);
    }
    Ok(RootCerts::from(trusted))
}

/// The certificate to show.
pub(crate) fn client(chain: &[u8], key: &Secret) -> Result<ClientCert, Error> {
    let chain = certificates(chain, "client certificate")?;
    let key = PrivateKey::from_pem(key.expose().as_bytes()).map_err(|_| Error::Certificate("client key"))?;
    Ok(ClientCert::new_with_certs(&chain, key))
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<Certificate<'static>>, Error> {
    let mut found = Vec::new();
    for item in parse_pem(pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => found.push(certificate),
            Ok(_) => {}
            Err(_) => return Err(Error::Certificate(what)),
        }
    }
    if found.is_empty() { Err(Error::Certificate(what)) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_pem_is_refused_without_being_shown() {
        let broken = "-----BEGIN CERTIFICATE-----\ncanary!\n-----END CERTIFICATE-----\n";
        for pem in ["", "canary", broken, "-----BEGIN CERTIFICATE-----\n"] {
            let error = roots(&HttpOptions::new().with_ca(pem.to_owned())).unwrap_err().to_string();
            assert!(error.contains("CA certificate") && !error.contains("canary"), "{error}");
            let error = client(pem.as_bytes(), &Secret::new("canary")).unwrap_err().to_string();
            assert!(error.contains("client certificate") && !error.contains("canary"), "{error}");
        }
        assert!(matches!(roots(&HttpOptions::new()), Ok(RootCerts::PlatformVerifier)));
    }
}
