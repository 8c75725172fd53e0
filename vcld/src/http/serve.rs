//! Connections: accepted, limited in number and in time, and told who is at the other end.
//!
//! A head that does not come within [`HEAD`] ends its connection, a body within [`super::LONGEST_REQUEST`]. Whoever reads
//! nothing for [`STALLED`] loses the connection, so that nobody holds one, and what is kept for it, by doing nothing.

use super::access::Peer;
use axum::Router;
use axum::extract::Request;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

/// How long a request's head may take.
pub(super) const HEAD: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 15 });
/// For how long somebody may read nothing of what is written to him.
const STALLED: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 60 });
/// How many connections one listener has at once.
pub(super) const CONNECTIONS: usize = 1024;
/// How many connections one account has at once.
const PER_ACCOUNT: usize = 128;
/// How much of a head is kept.
const BUFFER: usize = 64 * 1024;
/// How long those under way may take to end when the daemon does.
const ENDING: Duration = Duration::from_secs(3);
/// How long the name service may take to say who is at the other end.
const NAMING: Duration = Duration::from_secs(10);

/// Answers requests of this machine's accounts until told to stop; `who` says what an account is by its user and group, `limited`
/// of which users one has no more than [`PER_ACCOUNT`] connections: whoever takes all that he gets takes them from nobody else.
pub(super) async fn unix(
    router: Router,
    listener: UnixListener,
    who: impl Fn(Option<(u32, u32)>) -> Peer + Clone + Send + 'static,
    limited: impl Fn(u32) -> bool,
    closing: CancellationToken,
) {
    let (places, tasks) = (Arc::new(Semaphore::new(CONNECTIONS)), TaskTracker::new());
    let accounts = Seats::default();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { break };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(e) => {
                    tracing::warn!(error = %e, "a connection to the socket cannot be accepted");
                    tokio::time::sleep(Duration::from_secs(1)).await; // why: out of descriptors; nothing tells when there are some
                    continue;
                }
            },
            () = closing.cancelled() => break,
        };
        let credentials = stream.peer_cred().ok().map(|c| (c.uid(), c.gid()));
        let uid = credentials.map(|(uid, _)| uid);
        let most = if uid.is_none_or(&limited) { PER_ACCOUNT } else { CONNECTIONS };
        let Some(seat) = accounts.enter(uid, most) else { continue };
        let (router, closing, who) = (router.clone(), closing.clone(), who.clone());
        tasks.spawn(async move {
            let _kept = (place, seat);
            let naming = tokio::task::spawn_blocking(move || who(credentials));
            match tokio::time::timeout(NAMING, naming).await {
                Ok(Ok(peer)) => connection(router, stream, peer, closing).await,
                _ => tracing::warn!("the name service does not say who is at the socket's other end"),
            }
        });
    }
    tasks.close();
    let _ = tokio::time::timeout(ENDING, tasks.wait()).await;
}

/// How many connections each has: each address, or each account.
#[derive(Clone)]
pub(super) struct Seats<K: Eq + Hash>(Arc<Mutex<HashMap<K, usize>>>);

/// One of them. It is free again when this is dropped.
pub(super) struct Seat<K: Eq + Hash>(Seats<K>, K);

impl<K: Eq + Hash> Default for Seats<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash + Clone> Seats<K> {
    /// Another one, unless there are so many already.
    pub(super) fn enter(&self, whose: K, most: usize) -> Option<Seat<K>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(whose.clone()).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Seat(self.clone(), whose))
    }
}

impl<K: Eq + Hash> Drop for Seat<K> {
    fn drop(&mut self) {
        let mut all = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.1);
            }
        }
    }
}

/// Answers the requests of one connection.
pub(super) async fn connection(
    router: Router,
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    peer: Peer,
    closing: CancellationToken,
) {
    let service = router.map_request(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer.clone());
        request
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(BUFFER);
    let stream = Box::pin(Stalling { stream, waiting: None });
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(ENDING, connection).await {
                Ok(ended) => ended,
                Err(_) => Ok(()), // a stream of events has no end of its own
            }
        }
    };
    if let Err(e) = ended {
        tracing::debug!(error = %e, "a connection to the API ended early");
    }
}

pin_project_lite::pin_project! {
    /// A stream whose writes fail when nobody reads for too long.
    struct Stalling<S> {
        #[pin]
        stream: S,
        waiting: Option<Pin<Box<Sleep>>>,
    }
}

/// What a write came to, or an error when it has been waiting for too long.
fn patience<T>(
    waiting: &mut Option<Pin<Box<Sleep>>>,
    cx: &mut Context<'_>,
    wrote: Poll<io::Result<T>>,
) -> Poll<io::Result<T>> {
    if wrote.is_ready() {
        *waiting = None;
        return wrote;
    }
    let sleep = waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALLED)));
    match sleep.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads"))),
        Poll::Pending => Poll::Pending,
    }
}

impl<S: AsyncRead> AsyncRead for Stalling<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_read(cx, to)
    }
}
impl<S: AsyncWrite> AsyncWrite for Stalling<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.project();
        let wrote = this.stream.poll_write(cx, bytes);
        patience(this.waiting, cx, wrote)
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let flushed = this.stream.poll_flush(cx);
        patience(this.waiting, cx, flushed)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let shut = this.stream.poll_shutdown(cx);
        patience(this.waiting, cx, shut)
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        let wrote = this.stream.poll_write_vectored(cx, slices);
        patience(this.waiting, cx, wrote)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::super::access::Local;
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    /// Whether a connection is kept, by what comes of a request.
    async fn answered(stream: &mut UnixStream) -> bool {
        // One that was shut takes no request, or answers none.
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: vcld\r\n\r\n").await;
        stream.read_u8().await.is_ok()
    }

    #[tokio::test]
    async fn one_account_has_no_more_connections_than_it_may() {
        let directory = tempfile::tempdir().unwrap();
        for (limited, kept) in [(true, false), (false, true)] {
            let path = directory.path().join(limited.to_string());
            let listener = UnixListener::bind(&path).unwrap();
            let who = |_| Peer::Local { name: "eve".into(), standing: Local::Stranger };
            let closing = CancellationToken::new();
            let served = tokio::spawn(unix(Router::new(), listener, who, move |_| limited, closing.clone()));
            let mut streams = Vec::new();
            for _ in 0..PER_ACCOUNT {
                streams.push(UnixStream::connect(&path).await.unwrap());
            }
            assert!(answered(streams.last_mut().unwrap()).await);
            let mut more = UnixStream::connect(&path).await.unwrap();
            assert_eq!(answered(&mut more).await, kept, "limited: {limited}");
            closing.cancel();
            drop((streams, more));
            served.await.unwrap();
        }
    }
    #[test]
    fn a_seat_is_free_again_when_it_is_left() {
        let seats = Seats::default();
        let first = seats.enter("eve", 1).unwrap();
        assert!(seats.enter("eve", 1).is_none() && seats.enter("bob", 1).is_some());
        drop(first);
        assert!(seats.enter("eve", 1).is_some());
    }
}
