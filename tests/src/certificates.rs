//! A site's own certificate authority, for daemons that are asked over TLS.

use anyhow::Result;
use camino::Utf8Path;

/// Makes a certificate authority with a certificate for this machine: `ca.pem`, `server.pem`, `server.key` in the
/// directory.
///
/// # Errors
///
/// When a file cannot be written.
pub fn certificates(directory: &Utf8Path) -> Result<()> {
    let mut ca = rcgen::CertificateParams::new(Vec::<String>::new())?;
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "a site's authority");
    let key = rcgen::KeyPair::generate()?;
    let authority = ca.self_signed(&key)?;
    let issuer = rcgen::Issuer::new(ca, key);
    let server_key = rcgen::KeyPair::generate()?;
    let mut server = rcgen::CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    server.distinguished_name.push(rcgen::DnType::CommonName, "localhost");
    let server = server.signed_by(&server_key, &issuer)?;
    std::fs::write(directory.join("ca.pem"), authority.pem())?;
    std::fs::write(directory.join("server.pem"), server.pem())?;
    std::fs::write(directory.join("server.key"), server_key.serialize_pem())?;
    Ok(())
}
