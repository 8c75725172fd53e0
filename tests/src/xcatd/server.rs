//! HTTPS as Apache does it: a certificate of an authority that nobody else knows, HTTP/1.1, bodies in chunks.

use std::convert::Infallible;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use anyhow::{Context, Result, anyhow, bail};
use camino::{Utf8Path, Utf8PathBuf};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::state::Shared;
use super::{Asked, cgi, faults};

/// More than any call needs.
const LARGEST_BODY: usize = 1 << 20;

/// The server's certificate, and where that of its authority lies.
pub(super) struct Certificate {
    pub(super) ca: Utf8PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Certificate {
    /// Makes an authority and a certificate of it for `localhost` and 127.0.0.1.
    pub(super) fn make(directory: &Utf8Path) -> Result<Self> {
        let authority_key = KeyPair::generate().context("failed to make a key")?;
        let mut authority = CertificateParams::default();
        // Both would have the same name otherwise, and OpenSSL takes issuer and subject of one name for one.
        authority.distinguished_name.push(DnType::CommonName, "xCAT CA");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = directory.join("xcatd-ca.pem");
        fs::write(&ca, authority.self_signed(&authority_key)?.pem())
            .with_context(|| format!("failed to write {ca}"))?;
        let issuer = Issuer::new(authority, authority_key);

        let key = KeyPair::generate().context("failed to make a key")?;
        let names = ["localhost".to_owned(), Ipv4Addr::LOCALHOST.to_string()];
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, "xcatmn");
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(Self {
            ca,
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        })
    }
}

/// Begins to serve, and returns where.
pub(super) async fn listen(shared: Arc<Shared>, certificate: &Certificate) -> Result<SocketAddr> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificate.chain.clone(), certificate.key.clone_key())?;
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("failed to listen")?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        // An error of accept is one connection's, or passes.
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            tokio::spawn(serve(shared.clone(), acceptor.clone(), stream));
        }
    });
    Ok(address)
}

/// One connection. Whatever ends it is the client's to notice.
async fn serve(shared: Arc<Shared>, acceptor: TlsAcceptor, stream: TcpStream) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { respond(&shared, request).await }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// The error of a dropped connection is not sent: it ends it.
async fn respond(shared: &Arc<Shared>, request: Request<Incoming>) -> Result<Response<Chunks>> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, LARGEST_BODY).collect().await.map_err(|error| anyhow!(error))?;
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let call = cgi::Call {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        content_type: header("content-type"),
        token: header("x-auth-token"),
        body: body.to_bytes(),
    };
    let path = call.path.strip_prefix(cgi::BASE).unwrap_or(&call.path).to_owned();
    let method = call.method.clone();
    let log = |status| {
        let asked = Asked { method: method.clone(), path: path.clone(), status };
        shared.with(|state| state.asked.push(asked));
    };
    if shared.with(|state| faults::drops(state, &path, false)) {
        log(None);
        bail!("dropped");
    }
    let (status, text) = cgi::answer(shared, call).await;
    if shared.with(|state| faults::drops(state, &path, true)) {
        log(None);
        bail!("dropped");
    }
    log(Some(status));
    let response = Response::builder()
        .status(status)
        .header("Server", "Apache")
        .header("Content-Type", cgi::CONTENT_TYPE)
        .body(Chunks(Some(text.into())))?;
    Ok(response)
}

/// A body of a length that its beginning does not tell: a CGI program's output goes out as it comes, an empty one too.
struct Chunks(Option<Bytes>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes))))
    }
}
