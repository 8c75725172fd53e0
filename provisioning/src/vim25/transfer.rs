//! Files to and from the datastore over its HTTP, with progress, digests, and going on after a broken connection.
//!
//! What a datastore does with a range in a PUT is written down nowhere: some refuse it, some take the part for the whole
//! file. So it is tried once, on a file of a few bytes, the first time that an upload breaks; where ranges work an upload
//! goes on where it broke, elsewhere the file is sent again from its beginning. Downloads always go on.
//!
//! Digests are made by the thread that reads or writes the local file, beside the connection, of the same chunks that
//! `content` is made of: an upload is compared with the manifest, a download tells what the new revision's content is.

use super::Site;
use super::client::{Session, held, is_over};
use super::pieces::{read_all, read_pieces, write_pieces};
use super::request::Reference;
use super::task::{Watcher, stopped};
use crate::{Error, ErrorKind, Result};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, COOKIE, RANGE};
use reqwest::{Method, RequestBuilder, StatusCode};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use vcl_images::digest::Content;

/// How long nothing may move.
const SILENCE: Duration = Duration::from_secs(120);
/// How often in a row a transfer is taken up again that got nowhere.
const AGAIN: u32 = 6;

impl Site {
    /// How long a file is; `None` when there is none.
    pub(crate) async fn length(&self, name: &str) -> Result<Option<u64>> {
        let what = format!("looking at {}", self.on_datastore(name));
        match self.http(&what, Method::HEAD, name, |request| request.timeout(super::client::CALL)).await {
            Ok(answer) => {
                // reqwest's own length is that of the body, of which there is none here.
                let length = answer.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
                let untold =
                    || Error::new(ErrorKind::Corrupt, format!("{what}: the server does not tell its length"));
                Ok(Some(length.ok_or_else(untold)?))
            }
            Err(e) if e.kind == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes a small file.
    pub(crate) async fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let what = format!("writing {}", self.on_datastore(name));
        let limited = |request: RequestBuilder| request.timeout(super::client::CALL).body(bytes.to_vec());
        self.http(&what, Method::PUT, name, limited).await.map(drop)
    }

    /// Sends a file, and answers the digest of what it holds. The name must be ours alone. A file of that length that is
    /// there already has come whole in an earlier life and is not sent again.
    pub(crate) async fn upload(&self, from: &Path, name: &str, watcher: &Watcher) -> Result<Content> {
        let _turn = self.turn(watcher).await?;
        let what = format!("sending {} to {}", from.display(), self.on_datastore(name));
        let size = std::fs::metadata(from)
            .map_err(|e| Error::caused(ErrorKind::Failed, format!("reading {}", from.display()), e))?
            .len();
        if self.length(name).await? == Some(size) {
            watcher.tell(size, size);
            return read_all(from.to_owned(), size).await;
        }
        let mut whole = tokio::time::Instant::now() + watcher.limit();
        let (mut at, mut idle) = (0, 0);
        loop {
            let sent = Arc::new(AtomicU64::new(at));
            let sending = self.send_from(&what, from, name, at, size, &sent, watcher);
            let error = match tokio::time::timeout_at(whole, sending).await {
                Ok(Ok(Some(content))) => return Ok(content),
                // It was taken up in the middle: what was sent before is hashed from the file.
                Ok(Ok(None)) => return read_all(from.to_owned(), size).await,
                Ok(Err(e)) => e,
                Err(_) => return Err(Error::new(ErrorKind::Deadline, format!("{what}: it takes too long"))),
            };
            let broken = matches!(error.kind, ErrorKind::Unreachable | ErrorKind::Deadline);
            idle = if sent.load(Ordering::Relaxed) > at + (8 << 20) { 0 } else { idle + 1 };
            if !broken || idle >= AGAIN {
                return Err(error);
            }
            at = 0;
            // While the server is away this waits, and that is not the transfer's time.
            let asked = tokio::time::Instant::now();
            let arrived = match self.length(name).await {
                Err(e) if e.kind == ErrorKind::Away => return Err(e),
                arrived => arrived.unwrap_or_default().unwrap_or(0),
            };
            whole += asked.elapsed();
            if arrived > 0 && arrived < size && self.takes_ranges(watcher).await {
                at = arrived;
            }
            say(
                "upload-broken",
                format!("{} broke ({}); it goes on at byte {at} of {size}", what, error.chain()),
            );
            watcher.tell(at, size);
            rest(&what, idle, watcher).await?;
        }
    }

    /// Sends the rest of a file. `Some` when that was the whole of it.
    #[expect(clippy::too_many_arguments, reason = "each is a fact of its own about one transfer")]
    async fn send_from(
        &self,
        what: &str,
        from: &Path,
        name: &str,
        at: u64,
        size: u64,
        sent: &Arc<AtomicU64>,
        watcher: &Watcher,
    ) -> Result<Option<Content>> {
        let (pieces, read) = mpsc::channel::<std::io::Result<Vec<u8>>>(4);
        let path = from.to_owned();
        let reading = tokio::task::spawn_blocking(move || read_pieces(&path, at, &pieces));
        let counted = sent.clone();
        let stream = futures::stream::unfold(read, move |mut read| {
            let counted = counted.clone();
            async move {
                let piece = read.recv().await?;
                if let Ok(piece) = &piece {
                    counted.fetch_add(piece.len() as u64, Ordering::Relaxed);
                }
                Some((piece, read))
            }
        });
        let body = std::sync::Mutex::new(Some(reqwest::Body::wrap_stream(stream)));
        let sending = self.http_now(what, Method::PUT, name, |request| {
            // A body can be sent once: after a session's end the whole is tried again.
            let body = body.lock().ok().and_then(|mut b| b.take()).unwrap_or_default();
            let request = request.header(CONTENT_LENGTH, size - at).body(body);
            if at == 0 {
                request
            } else {
                request.header(CONTENT_RANGE, format!("bytes {at}-{}/{size}", size - 1))
            }
        });
        watched(what, sending, sent, size, watcher).await?;
        let content = reading.await.map_err(|e| Error::caused(ErrorKind::Failed, what, e))?;
        let content = content.map_err(|e| Error::caused(ErrorKind::Failed, what, e))?;
        watcher.tell(size, size);
        Ok((at == 0).then_some(Content { virtual_size: size, chunks: content }))
    }

    /// Whether the datastore takes a part of a file and leaves the rest of it as it was. Tried once.
    async fn takes_ranges(&self, watcher: &Watcher) -> bool {
        let tried = self
            .ranges
            .get_or_try_init(|| async {
                let name = format!("{}/.probe-{}", self.settings.images, uuid::Uuid::now_v7().simple());
                let what = format!("trying whether {} takes parts of files", self.on_datastore(&name));
                self.write(&name, b"abcd").await?;
                let part = |request: RequestBuilder| {
                    request
                        .timeout(super::client::CALL)
                        .header(CONTENT_RANGE, "bytes 4-7/8")
                        .body(b"efgh".to_vec())
                };
                let taken = self.http(&what, Method::PUT, &name, part).await;
                let read = async {
                    let get = |request: RequestBuilder| request.timeout(super::client::CALL);
                    let answer = self.http(&what, Method::GET, &name, get).await?;
                    if answer.content_length().is_some_and(|n| n > 64) {
                        return Ok(false);
                    }
                    let bytes = answer.bytes().await.map_err(|e| self.client.trouble(&what, e))?;
                    Ok::<_, Error>(&bytes[..] == b"abcdefgh")
                };
                let works = match taken {
                    Ok(_) => read.await?,
                    Err(e) if e.kind == ErrorKind::Unreachable => return Err(e),
                    Err(_) => false,
                };
                self.delete(&name, watcher).await?;
                Ok(works)
            })
            .await;
        tried.is_ok_and(|works| *works)
    }

    /// Fetches a file of `size` bytes into a new sparse one, and answers the digest of what it holds. A file that is there
    /// is overwritten.
    pub(crate) async fn download(
        &self,
        name: &str,
        size: u64,
        to: &Path,
        watcher: &Watcher,
    ) -> Result<Content> {
        let _turn = self.turn(watcher).await?;
        let what = format!("fetching {}", self.on_datastore(name));
        let (pieces, read) = mpsc::channel::<bytes::Bytes>(8);
        let path = to.to_owned();
        let writing = tokio::task::spawn_blocking(move || write_pieces(&path, size, read));
        let mut whole = tokio::time::Instant::now() + watcher.limit();
        let got = Arc::new(AtomicU64::new(0));
        let mut idle = 0;
        while got.load(Ordering::Relaxed) < size {
            let at = got.load(Ordering::Relaxed);
            let fetching = self.fetch_from(&what, name, at, size, &pieces, &got);
            let fetching = watched(&what, fetching, &got, size, watcher);
            let mut error = match tokio::time::timeout_at(whole, fetching).await {
                Ok(Ok(())) => continue,
                Ok(Err(e)) => e,
                Err(_) => Error::new(ErrorKind::Deadline, format!("{what}: it takes too long")),
            };
            let mut broken = matches!(error.kind, ErrorKind::Unreachable | ErrorKind::Deadline);
            // While the server is away this waits, and that is not the transfer's time.
            let asked = tokio::time::Instant::now();
            if broken
                && let Err(e) = self.length(name).await
                && e.kind == ErrorKind::Away
            {
                (error, broken) = (e, false);
            }
            whole += asked.elapsed();
            let now = got.load(Ordering::Relaxed);
            idle = if now > at { 0 } else { idle + 1 };
            // The writer may be what is at its end, and knows why.
            let gone = pieces.is_closed();
            if gone || !broken || idle >= AGAIN || tokio::time::Instant::now() >= whole {
                drop(pieces);
                let written = writing.await.map_err(|e| Error::caused(ErrorKind::Failed, &*what, e))?;
                return Err(match written {
                    Err(e) if gone => local(&what, e),
                    _ => error,
                });
            }
            say(
                "download-broken",
                format!("{what} broke ({}); it goes on at byte {now} of {size}", error.chain()),
            );
            rest(&what, idle, watcher).await?;
        }
        drop(pieces);
        let chunks = writing.await.map_err(|e| Error::caused(ErrorKind::Failed, &*what, e))?;
        let chunks = chunks.map_err(|e| local(&what, e))?;
        watcher.tell(size, size);
        Ok(Content { virtual_size: size, chunks })
    }

    async fn fetch_from(
        &self,
        what: &str,
        name: &str,
        at: u64,
        size: u64,
        to: &mpsc::Sender<bytes::Bytes>,
        got: &AtomicU64,
    ) -> Result<()> {
        let mut answer = self
            .http_now(what, Method::GET, name, |request| {
                if at == 0 { request } else { request.header(RANGE, format!("bytes={at}-")) }
            })
            .await?;
        if at > 0 {
            let range = answer.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
            let expected = format!("bytes {at}-{}/{size}", size - 1);
            if range != Some(expected.as_str()) {
                let message = format!("{what}: the server answers with another part than was asked for");
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
        }
        while let Some(bytes) = answer.chunk().await.map_err(|e| self.client.trouble(what, e))? {
            let length = bytes.len() as u64;
            if got.load(Ordering::Relaxed) + length > size {
                return Err(Error::new(ErrorKind::Corrupt, format!("{what}: it grows while it is fetched")));
            }
            let gone = |_| Error::new(ErrorKind::Failed, format!("{what}: it cannot be written"));
            to.send(bytes).await.map_err(gone)?;
            got.fetch_add(length, Ordering::Relaxed);
        }
        if got.load(Ordering::Relaxed) < size {
            return Err(Error::new(ErrorKind::Unreachable, format!("{what}: it ended before its end")));
        }
        Ok(())
    }

    /// One request to the datastore's HTTP, once more after a session's end. In a step, a server that is away is waited
    /// for, as [`Client::call`](super::Client::call) does.
    async fn http(
        &self,
        what: &str,
        method: Method,
        name: &str,
        with: impl Fn(RequestBuilder) -> RequestBuilder + Send,
    ) -> Result<reqwest::Response> {
        match self.http_now(what, method, name, with).await {
            Err(e) => Err(self.client.outlast(e).await),
            answer => answer,
        }
    }
    /// The same for transfers, which go on by themselves where they broke.
    async fn http_now(
        &self,
        what: &str,
        method: Method,
        name: &str,
        with: impl Fn(RequestBuilder) -> RequestBuilder + Send,
    ) -> Result<reqwest::Response> {
        let mut renewed = false;
        loop {
            let session = self.client.session().await?;
            let url = self.url(name, &self.place().await?.path)?;
            let request = self.client.http().request(method.clone(), url);
            let request = with(request.header(COOKIE, session.cookie.clone()));
            if method == Method::PUT {
                held(what)?;
            }
            let answer = request.send().await.map_err(|e| self.client.trouble(what, e))?;
            let status = answer.status();
            if status.is_success() {
                return Ok(answer);
            }
            if status == StatusCode::UNAUTHORIZED && !renewed {
                renewed = true;
                self.still(&session).await?;
                if method == Method::PUT {
                    // The body has been used up. Whoever sends it begins again.
                    return Err(Error::new(ErrorKind::Unreachable, format!("{what}: the session was over")));
                }
                continue;
            }
            let address = self.client.address();
            let kind = match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorKind::Denied,
                StatusCode::NOT_FOUND => ErrorKind::NotFound,
                StatusCode::INSUFFICIENT_STORAGE => ErrorKind::NoSpace,
                // What a host says of a file that a running machine holds.
                StatusCode::INTERNAL_SERVER_ERROR => ErrorKind::Busy,
                StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                    ErrorKind::Unreachable
                }
                _ => ErrorKind::Failed,
            };
            let mut message = format!("{what}: {address} answers HTTP {status}");
            if kind == ErrorKind::NoSpace {
                message.push_str("; make room on the datastore, or configure another one");
            }
            return Err(Error::new(kind, message));
        }
    }

    /// Asks whether a session lives, and makes a new one if not.
    async fn still(&self, session: &Arc<Session>) -> Result<()> {
        let instance = Reference::new("ServiceInstance", "ServiceInstance");
        let time = super::request::Request::new("CurrentTime", &instance, |_| {});
        let what = "asking whether the session lives";
        match self.client.call_in(what, session, &time, super::client::CALL).await {
            Err(e) if is_over(&e) => self.client.renew(session).await.map(drop),
            asked => asked.map(drop),
        }
    }

    fn url(&self, name: &str, datacenter: &str) -> Result<reqwest::Url> {
        let bad = |e| Error::caused(ErrorKind::Refused, format!("the address {}", self.client.address()), e);
        let mut url = reqwest::Url::parse(&format!("https://{}/", self.client.address())).map_err(bad)?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.clear().push("folder").extend(name.split('/'));
        }
        url.query_pairs_mut()
            .append_pair("dcPath", datacenter)
            .append_pair("dsName", &self.settings.datastore);
        Ok(url)
    }
}

/// Runs a transfer until it is done, is to stop, or stands still.
async fn watched<T>(
    what: &str,
    work: impl Future<Output = Result<T>>,
    moved: &AtomicU64,
    size: u64,
    watcher: &Watcher,
) -> Result<T> {
    tokio::pin!(work);
    let mut last = (moved.load(Ordering::Relaxed), tokio::time::Instant::now());
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            biased;
            () = watcher.stop.cancelled() => return Err(stopped(what)),
            done = &mut work => return done,
            _ = tick.tick() => {
                let now = moved.load(Ordering::Relaxed);
                watcher.tell(now, size);
                if now != last.0 {
                    last = (now, tokio::time::Instant::now());
                } else if last.1.elapsed() > SILENCE {
                    let silence = SILENCE.as_secs();
                    let message = format!("{what}: nothing has moved for {silence} s at byte {now} of {size}");
                    return Err(Error::new(ErrorKind::Deadline, message));
                }
            }
        }
    }
}

/// Waits before a broken transfer is taken up again.
async fn rest(what: &str, tries: u32, watcher: &Watcher) -> Result<()> {
    tokio::select! {
        () = watcher.stop.cancelled() => Err(stopped(what)),
        () = tokio::time::sleep(Duration::from_millis(250) * 2u32.pow(tries.min(6))) => Ok(()), // why: nobody tells us when the way is free again
    }
}

fn say(kind: &str, message: String) {
    if let Some(doing) = vcl_job::doing() {
        doing.event(kind, message);
    }
}

fn local(what: &str, e: std::io::Error) -> Error {
    let kind = match e.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        _ => ErrorKind::Failed,
    };
    Error::caused(kind, format!("{what}: writing it here"), e)
}
