//! A node's certificate, and what it makes of the certificates of others.

use anyhow::Context;
use chrono::{DateTime, Utc};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::Arc;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Both configurations that are made from one certificate. A certificate that was replaced counts from the daemon's
/// next start.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: ClientConfig,
    /// The names it is for.
    pub(crate) names: Vec<String>,
    /// When it ends.
    pub(crate) expires: DateTime<Utc>,
}

impl Identity {
    /// Reads the certificate, the authority's and the key, all in PEM.
    ///
    /// # Errors
    /// A file that cannot be read or is none of these; a key that is another certificate's.
    pub(crate) fn read(config: &vcl_config::Exchange, key: &[u8]) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        // reqwest looks for it. Another one that is installed already is the same.
        let _ = rustls::crypto::CryptoProvider::install_default(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&config.ca).with_context(|| format!("exchange.ca: {}", config.ca))? {
            roots.add(certificate).with_context(|| format!("exchange.ca: {}", config.ca))?;
        }
        let roots = Arc::new(roots);
        let file = &config.certificate;
        let chain = certificates(file).with_context(|| format!("exchange.certificate: {file}"))?;
        let first = chain.first().context("no certificate")?;
        let (_, parsed) = X509Certificate::from_der(first)
            .map_err(|e| anyhow::anyhow!("exchange.certificate: {file} cannot be read: {e}"))?;
        let (names, expires) = (names(&parsed), time(parsed.validity().not_after.timestamp()));
        let key = || PrivateKeyDer::from_pem_slice(key).context("exchange.key is not a private key in PEM");
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key()?)
            .with_context(|| format!("exchange.key is not the key of {file}"))?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key()?)
            .with_context(|| format!("exchange.key is not the key of {file}"))?;
        Ok(Self { server: Arc::new(server), client, names, expires })
    }
}

fn certificates(path: &camino::Utf8Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>()?;
    anyhow::ensure!(!found.is_empty(), "there is no certificate in it");
    Ok(found)
}

fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// The names in a certificate that was verified already: DNS names, or the common name where there are none.
pub(super) fn names_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    X509Certificate::from_der(certificate).map(|(_, parsed)| names(&parsed)).unwrap_or_default()
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let mut names: Vec<String> = alternative
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    if names.is_empty() {
        let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        names.extend(common.map(str::to_ascii_lowercase));
    }
    names
}
