//! Answering other nodes.

use super::Exchange;
use super::identity::names_of;
use crate::node::chain;
use axum::Router;
use axum::body::Body;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::{IncomingStream, Listener};
use std::io::SeekFrom;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;
use vcl_images::{ErrorKind, Library};
use vcl_types::{ImageName, ImageRef};

/// How long it may take until both ends have agreed.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many may be agreeing at once.
const HANDSHAKES: usize = 64;
/// How much of a file is read at once.
const PIECE: usize = 256 * 1024;

/// Whoever is at the other end: the names in its certificate, and its address.
#[derive(Debug, Clone)]
struct Caller {
    names: Arc<[String]>,
    address: SocketAddr,
}

impl Connected<IncomingStream<'_, Tls>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Tls>) -> Self {
        stream.remote_addr().clone()
    }
}

/// Connections whose two ends have agreed.
struct Tls {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, Caller)>,
    address: SocketAddr,
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = Caller;
    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(ready) => ready,
            None => std::future::pending().await,
        }
    }
    fn local_addr(&self) -> std::io::Result<Caller> {
        Ok(Caller { names: Arc::new([]), address: self.address })
    }
}

#[derive(Clone)]
struct Shared {
    exchange: Arc<Exchange>,
    library: Library,
    closing: CancellationToken,
}

/// Gives other nodes what this library holds, until told to stop. What is under way then is cut: it is taken up again.
pub(crate) async fn serve(
    exchange: Arc<Exchange>,
    library: Library,
    listener: TcpListener,
    closing: CancellationToken,
) -> std::io::Result<()> {
    let (sender, ready) = mpsc::channel(HANDSHAKES);
    let tls = Tls { ready, address: listener.local_addr()? };
    let accepting = tokio::spawn(accept(exchange.clone(), listener, sender, closing.clone()));
    let shared = Shared { exchange, library, closing: closing.clone() };
    let router = Router::new()
        .route("/v1/node", get(node))
        .route("/v1/revisions/{image}/{number}", get(listing))
        .route("/v1/revisions/{image}/{number}/{file}", get(file))
        .layer(middleware::from_fn_with_state(shared.clone(), only_nodes))
        .with_state(shared);
    let service = router.into_make_service_with_connect_info::<Caller>();
    let serving = axum::serve(tls, service);
    tokio::select! {
        done = serving => done?,
        () = closing.cancelled() => {}
    }
    accepting.abort();
    Ok(())
}

async fn accept(
    exchange: Arc<Exchange>,
    listener: TcpListener,
    sender: mpsc::Sender<(TlsStream<TcpStream>, Caller)>,
    closing: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(exchange.identity.server.clone());
    let places = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closing.cancelled() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                tracing::warn!(error = %e, "a connection of another node cannot be accepted");
                tokio::time::sleep(Duration::from_secs(1)).await; // why: out of descriptors; nothing tells when there are some
                continue;
            }
        };
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        // It ends by itself: by its deadline, or because nobody takes what it made.
        tokio::spawn(async move {
            let _place = place;
            let _ = stream.set_nodelay(true);
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
                    let names = certificates.first().map(names_of).unwrap_or_default().into();
                    let _ = sender.send((stream, Caller { names, address })).await;
                }
                Ok(Err(e)) => {
                    tracing::info!(%address, error = %e, "no node, or not one of ours: turned away");
                }
                Err(_) => tracing::info!(%address, "no handshake within 10 s: turned away"),
            }
        });
    }
}

/// Lets those in whose certificate names a node that is known.
async fn only_nodes(
    State(shared): State<Shared>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
    next: Next,
) -> Response {
    let known = match shared.exchange.peers().await {
        Ok(known) => known,
        Err(e) => {
            let message = format!("who the nodes are cannot be told now: {}", e.failure().message);
            return problem(StatusCode::SERVICE_UNAVAILABLE, message);
        }
    };
    let known = known.keys().chain([&shared.exchange.name]);
    let named = |node: &String| caller.names.iter().any(|name| name.eq_ignore_ascii_case(node));
    if known.into_iter().any(named) {
        return next.run(request).await;
    }
    let names = caller.names.join(", ");
    tracing::warn!(address = %caller.address, names, "a certificate of the authority that names no node of ours");
    let message = format!(
        "the certificate is for {names}, which is no node that {} knows; see exchange.peers there",
        shared.exchange.name
    );
    problem(StatusCode::FORBIDDEN, message)
}

fn problem(status: StatusCode, message: String) -> Response {
    (status, message).into_response()
}

fn refused(error: &vcl_images::Error) -> Response {
    let status = match error.kind {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Corrupt => StatusCode::CONFLICT,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    problem(status, chain(error))
}

async fn node(State(shared): State<Shared>) -> String {
    format!("{} vcld {}", shared.exchange.name, env!("CARGO_PKG_VERSION"))
}

async fn listing(State(shared): State<Shared>, Path((image, number)): Path<(ImageName, u32)>) -> Response {
    // A caller that goes away takes the work along.
    let stop = shared.closing.child_token();
    let _guard = stop.clone().drop_guard();
    match shared.library.listing(&ImageRef::new(image, number), &stop).await {
        Ok(listing) => axum::Json(listing).into_response(),
        Err(e) => refused(&e),
    }
}

async fn file(
    State(shared): State<Shared>,
    Path((image, number, name)): Path<(ImageName, u32, String)>,
    headers: HeaderMap,
) -> Response {
    let image = ImageRef::new(image, number);
    let stop = shared.closing.child_token();
    let _guard = stop.clone().drop_guard();
    let (listed, path) = match shared.library.listed(&image, &name, &stop).await {
        Ok(Some(found)) => found,
        Ok(None) => return problem(StatusCode::NOT_FOUND, format!("{image} has no such file")),
        Err(e) => return refused(&e),
    };
    let tag = format!("\"{}\"", listed.digest);
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_MATCH)
        .is_some_and(|wanted| !wanted.split(',').any(|w| w.trim() == "*" || w.trim() == tag))
    {
        let message = format!("{name} of {image} is not what it was: its digest is {}", listed.digest);
        return problem(StatusCode::PRECONDITION_FAILED, message);
    }
    let from = match text(header::RANGE).map(beginning) {
        None => None,
        Some(Some(from)) if from < listed.size => Some(from),
        Some(_) => {
            let message = format!("{name} has {} bytes; ask for bytes=N- before its end", listed.size);
            return problem(StatusCode::RANGE_NOT_SATISFIABLE, message);
        }
    };
    let opened = async {
        let mut file = tokio::fs::File::open(&path).await?;
        file.seek(SeekFrom::Start(from.unwrap_or(0))).await?;
        Ok::<_, std::io::Error>(file)
    };
    let file = match opened.await {
        Ok(file) => file,
        Err(e) => return problem(StatusCode::SERVICE_UNAVAILABLE, format!("reading {name} of {image}: {e}")),
    };
    let (size, at) = (listed.size, from.unwrap_or(0));
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(size - at), PIECE));
    let answer = Response::builder()
        .header(header::ETAG, tag)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, size - at);
    let answer = match from {
        Some(at) => answer
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, format!("bytes {at}-{}/{size}", size - 1)),
        None => answer.status(StatusCode::OK),
    };
    answer.body(body).unwrap_or_else(|e| problem(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

/// The N of `bytes=N-`, which is all that is asked for here.
fn beginning(range: &str) -> Option<u64> {
    range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}
