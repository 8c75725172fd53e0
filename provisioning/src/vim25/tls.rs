//! Which server is believed to be the one: an authority's word, or one certificate's fingerprint. Never anybody.
//!
//! ESXi hosts sign their certificates themselves, so the usual way is the fingerprint: SHA-256 of the certificate as it
//! is sent, or SHA-1 as VMware's own tools print it. A signature by the certificate's key is asked for either way.

use crate::{Error, ErrorKind, Result};
use camino::{Utf8Path, Utf8PathBuf};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::Digest as _;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// How a server shows that it is the one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Its certificate is signed by one of the authorities in this PEM file, for the name it is dialled at; or it is
    /// itself in that file, as of a host that signed its own.
    Ca(Utf8PathBuf),
    /// Its certificate is this one.
    Fingerprint(Fingerprint),
}

/// The digest of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fingerprint {
    /// SHA-256.
    Sha256([u8; 32]),
    /// SHA-1, as VMware's tools print it.
    Sha1([u8; 20]),
}

impl Fingerprint {
    fn is_of(&self, certificate: &[u8]) -> bool {
        match self {
            Self::Sha256(wanted) => sha2::Sha256::digest(certificate)[..] == wanted[..],
            Self::Sha1(wanted) => sha1::Sha1::digest(certificate)[..] == wanted[..],
        }
    }
}
impl FromStr for Fingerprint {
    type Err = &'static str;
    /// Hex digits, with or without colons.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "a fingerprint is 64 hex digits (SHA-256) or 40 (SHA-1), with or without colons";
        let digits: Vec<u8> = text.bytes().filter(|b| *b != b':').collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let plain = digits.len().is_multiple_of(2) && digits.iter().all(u8::is_ascii_hexdigit);
        let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
        let bytes = bytes.filter(|_| plain).ok_or(RULE)?;
        if let Ok(sha256) = <[u8; 32]>::try_from(bytes.as_slice()) {
            return Ok(Self::Sha256(sha256));
        }
        <[u8; 20]>::try_from(bytes.as_slice()).map(Self::Sha1).map_err(|_| RULE)
    }
}
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, bytes): (_, &[u8]) = match self {
            Self::Sha256(bytes) => ("SHA-256", bytes),
            Self::Sha1(bytes) => ("SHA-1", bytes),
        };
        let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02X}")).collect();
        write!(f, "{name} {}", hex.join(":"))
    }
}

/// What begins the refusal of a certificate; the client's errors are told apart by it.
pub(super) const REFUSED: &str = "the server shows a certificate with the fingerprint";

/// The settings of a connection that trusts so.
pub(super) fn config(trust: &Trust) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let failed = |what: String| move |e: rustls::Error| Error::caused(ErrorKind::Failed, what, e);
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(failed("choosing versions of TLS".into()))?;
    Ok(match trust {
        Trust::Ca(path) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(authorities(path, provider)?))
            .with_no_client_auth(),
        Trust::Fingerprint(wanted) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned { wanted: *wanted, provider }))
            .with_no_client_auth(),
    })
}

fn authorities(path: &Utf8Path, provider: Arc<CryptoProvider>) -> Result<Authorities> {
    let failed = |why: String| {
        Error::new(ErrorKind::Refused, format!("the authority's certificate ca = \"{path}\": {why}"))
    };
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let listed = read.map_err(|e| failed(e.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in &listed {
        roots.add(certificate.clone()).map_err(|e| failed(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(failed("there is no certificate in it".into()));
    }
    let signed = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    Ok(Authorities { listed, signed: signed.map_err(|e| failed(e.to_string()))? })
}

/// Certificates that are trusted themselves, and to sign others.
#[derive(Debug)]
struct Authorities {
    listed: Vec<CertificateDer<'static>>,
    signed: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Authorities {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // One that signed itself is refused as its own authority's; here somebody has named it.
        if self.listed.iter().any(|listed| listed == end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        self.signed.verify_server_cert(end_entity, intermediates, name, ocsp, now)
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed.verify_tls12_signature(message, certificate, signed)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed.verify_tls13_signature(message, certificate, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

#[derive(Debug)]
struct Pinned {
    wanted: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.wanted.is_of(end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        let shown = match self.wanted {
            Fingerprint::Sha256(_) => Fingerprint::Sha256(sha2::Sha256::digest(end_entity).into()),
            Fingerprint::Sha1(_) => Fingerprint::Sha1(sha1::Sha1::digest(end_entity).into()),
        };
        let wanted = self.wanted;
        Err(rustls::Error::General(format!("{REFUSED} {shown}, and the configuration has {wanted}")))
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_as_tools_print_them() {
        let sha1 = "DA:39:A3:EE:5E:6B:4B:0D:32:55:BF:EF:95:60:18:90:AF:D8:07:09";
        let read: Fingerprint = sha1.parse().unwrap();
        assert!(read.is_of(b"") && !read.is_of(b"x"));
        assert_eq!(read.to_string(), format!("SHA-1 {sha1}"));
        let sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert!(sha256.parse::<Fingerprint>().unwrap().is_of(b""));
        for bad in ["", "AB:CD", "zz", &sha256[1..], &format!("+{}", &sha256[1..]), "é"] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }
}
