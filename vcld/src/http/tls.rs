//! The doors over TCP: TLS for everybody, and the trusted proxy's own.
//!
//! A certificate that was replaced counts from the next connection after it was seen, which is within a minute; one that
//! cannot be read leaves the old one in place, and says so.

use super::access::Peer;
use super::serve::{CONNECTIONS, Seats, connection};
use anyhow::Context as _;
use axum::Router;
use camino::Utf8Path;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use vcl_config::{ApiTls, Config, KeySource};

/// How long both ends may take to agree.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many connections one address may have.
const PER_ADDRESS: usize = 128;
/// How often it is looked whether the certificate was replaced.
const LOOK: Duration = Duration::from_secs(30);

/// Reads the certificate and its key.
///
/// # Errors
/// A file that cannot be read or is none of these; a key that is another certificate's.
pub(super) fn identity(config: &Config, table: &ApiTls) -> anyhow::Result<ServerConfig> {
    let file = &table.certificate;
    let chain = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.with_context(|| format!("api.certificate: {file}"))?;
    anyhow::ensure!(!chain.is_empty(), "api.certificate: there is no certificate in {file}");
    let key = match &table.key {
        KeySource::File(path) => std::fs::read(path).with_context(|| format!("api.key: {path}"))?,
        KeySource::Credential(name) => config.credential(name)?.expose().as_bytes().to_vec(),
    };
    let key = PrivateKeyDer::from_pem_slice(&key).context("api.key is not a private key in PEM")?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .with_context(|| format!("api.key is not the key of {file}"))?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(server)
}

/// When the files of a certificate were last written.
fn written(table: &ApiTls) -> Vec<Option<std::time::SystemTime>> {
    let at = |path: &Utf8Path| std::fs::metadata(path).and_then(|found| found.modified()).ok();
    let mut all = vec![at(&table.certificate)];
    if let KeySource::File(path) = &table.key {
        all.push(at(path));
    }
    all
}

/// Puts a new certificate in the place of the old one when its files have changed.
async fn renew(config: Config, table: ApiTls, current: watch::Sender<Arc<ServerConfig>>) {
    let mut seen = written(&table);
    loop {
        tokio::time::sleep(LOOK).await; // why: nothing tells when a file is replaced, whatever replaces it
        let now = written(&table);
        if now == seen {
            continue;
        }
        match identity(&config, &table) {
            Ok(new) => {
                tracing::info!(certificate = %table.certificate, "the API has a new certificate");
                current.send_replace(Arc::new(new));
                seen = now;
            }
            // The two files may be replaced one after the other: it is looked again.
            Err(e) => tracing::warn!(error = format!("{e:#}"), "the API keeps its old certificate"),
        }
    }
}

/// Answers whoever comes over TLS until told to stop.
pub(super) async fn serve(
    router: Router,
    (config, table): (Config, ApiTls),
    listener: TcpListener,
    first: ServerConfig,
    closing: CancellationToken,
) {
    let (sender, current) = watch::channel(Arc::new(first));
    let renewing = tokio::spawn(renew(config, table, sender));
    let until = closing.clone();
    accept(listener, PER_ADDRESS, closing, |stream, address| {
        let (acceptor, router, closing) =
            (TlsAcceptor::from(current.borrow().clone()), router.clone(), until.clone());
        async move {
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let peer = Peer::Remote(address.ip().to_canonical());
                    connection(router, stream, peer, closing).await;
                }
                Ok(Err(e)) => tracing::debug!(%address, error = %e, "no TLS came of a connection to the API"),
                Err(_) => tracing::debug!(%address, "no handshake within 10 s"),
            }
        }
    })
    .await;
    renewing.abort();
}

/// Answers the proxy at its loopback address until told to stop.
pub(super) async fn loopback(router: Router, listener: TcpListener, peer: Peer, closing: CancellationToken) {
    let until = closing.clone();
    accept(listener, CONNECTIONS, closing, |stream, _| {
        connection(router.clone(), stream, peer.clone(), until.clone())
    })
    .await;
}

/// Accepts connections, so many at once, and so many from one address.
async fn accept<F>(
    listener: TcpListener,
    per_address: usize,
    closing: CancellationToken,
    each: impl Fn(tokio::net::TcpStream, std::net::SocketAddr) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let (places, tasks) = (Arc::new(Semaphore::new(CONNECTIONS)), TaskTracker::new());
    let addresses = Seats::default();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { break };
        let (stream, address) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    tracing::warn!(error = %e, "a connection to the API cannot be accepted");
                    tokio::time::sleep(Duration::from_secs(1)).await; // why: out of descriptors; nothing tells when there are some
                    continue;
                }
            },
            () = closing.cancelled() => break,
        };
        let Some(seat) = addresses.enter(address.ip().to_canonical(), per_address) else { continue };
        let _ = stream.set_nodelay(true);
        let answering = each(stream, address);
        tasks.spawn(async move {
            let _kept = (place, seat);
            answering.await;
        });
    }
    tasks.close();
    let _ = tokio::time::timeout(Duration::from_secs(3), tasks.wait()).await;
}
