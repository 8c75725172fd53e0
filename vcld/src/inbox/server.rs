//! The listener that machines reach.
//!
//! Whoever asks for anything but a box's own URL gets the same 404. Header, body and the number of connections are
//! bounded in bytes and in time, and no body is read before the token was right.

use super::store::{self, Refused};
use super::{Boxes, Papers};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::io::SeekFrom;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use vcl_provisioning::inbox::{CHUNK, Place};
use vcl_types::Digest;

/// How long a machine may take to say what it wants.
const HEAD: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 20 });
/// How long a machine may take to send a chunk.
const BODY: Duration = Duration::from_secs(120);
/// How much anything but a chunk may have.
const SMALL: usize = 4096;
/// How many connections there may be at once.
const CONNECTIONS: usize = 256;
/// How much of a file is read at once.
const PIECE: usize = 256 * 1024;

/// Serves machines until told to stop. What is under way then is cut: it is sent again.
pub async fn serve(boxes: Arc<Boxes>, listener: TcpListener, closing: CancellationToken) {
    let router = Router::new()
        .route("/inbox/{name}/{token}/{file}", any(handle))
        .fallback(async || nothing())
        .with_state(boxes);
    let (places, tasks) = (Arc::new(Semaphore::new(CONNECTIONS)), TaskTracker::new());
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closing.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!(error = %e, "a machine's connection to the inbox cannot be accepted");
                tokio::time::sleep(Duration::from_secs(1)).await; // why: out of descriptors; nothing tells when there are some
                continue;
            }
        };
        let (service, closing) = (TowerToHyperService::new(router.clone()), closing.clone());
        tasks.spawn(async move {
            let _place = place;
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(64 * 1024);
            let connection = http.serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                done = connection => if let Err(e) = done {
                    tracing::debug!(error = %e, "a connection to the inbox ended early");
                },
                () = closing.cancelled() => {}
            }
        });
    }
    tasks.close();
    tasks.wait().await;
}

fn nothing() -> Response {
    (StatusCode::NOT_FOUND, "there is nothing here\n").into_response()
}

fn no(status: StatusCode, why: impl Into<String>) -> Response {
    (status, why.into() + "\n").into_response()
}

#[derive(Deserialize)]
struct Which {
    chunk: Option<u64>,
}

async fn handle(
    State(boxes): State<Arc<Boxes>>,
    Path((name, token, file)): Path<(String, String, String)>,
    Query(which): Query<Which>,
    request: Request,
) -> Response {
    let Some((place, papers)) = boxes.enter(&name, &token) else {
        tracing::warn!(
            name,
            "somebody asks the inbox for a box with the wrong token, or for one that is closed"
        );
        return nothing();
    };
    let (parts, body) = request.into_parts();
    match parts.method {
        Method::GET | Method::HEAD => {
            let head = parts.method == Method::HEAD;
            give(&place, &file, which.chunk, head, &parts.headers).await
        }
        // Not every wget can PUT.
        Method::PUT | Method::POST => take(&place, &papers, &file, &parts.headers, body).await,
        _ => no(StatusCode::METHOD_NOT_ALLOWED, "a box is fetched from and put into"),
    }
}

async fn give(place: &Place, file: &str, chunk: Option<u64>, head: bool, headers: &HeaderMap) -> Response {
    let failed = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => nothing(),
        _ => no(StatusCode::SERVICE_UNAVAILABLE, e.to_string()),
    };
    if !head {
        let place = place.clone();
        let noted = tokio::task::spawn_blocking(move || store::fetched(&place)).await;
        if let Ok(Err(e)) = noted {
            return failed(e);
        }
    }
    if file == "have" {
        let place = place.clone();
        return match tokio::task::spawn_blocking(move || store::have_lines(&place)).await {
            Ok(Ok(lines)) => lines.into_response(),
            Ok(Err(e)) => failed(e),
            Err(e) => no(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
        };
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    if file.starts_with('.') || !file.bytes().all(plain) {
        return nothing();
    }
    let opened = async {
        let file = tokio::fs::File::open(place.out().join(file)).await?;
        let size = file.metadata().await?.len();
        Ok::<_, std::io::Error>((file, size))
    };
    let (mut file, size) = match opened.await {
        Ok(opened) => opened,
        Err(e) => return failed(e),
    };
    let asked = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let (from, to, status) = match (chunk, asked) {
        (Some(n), _) => match n.checked_mul(CHUNK).filter(|from| *from < size) {
            Some(from) => (from, size.min(from + CHUNK), StatusCode::OK),
            None => return no(StatusCode::RANGE_NOT_SATISFIABLE, "there is no such chunk"),
        },
        (None, None) => (0, size, StatusCode::OK),
        (None, Some(asked)) => match range(asked, size) {
            Some((from, to)) => (from, to, StatusCode::PARTIAL_CONTENT),
            None => return no(StatusCode::RANGE_NOT_SATISFIABLE, format!("there are {size} bytes")),
        },
    };
    if let Err(e) = file.seek(SeekFrom::Start(from)).await {
        return failed(e);
    }
    let mut answer = Response::builder()
        .status(status)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, to - from);
    if status == StatusCode::PARTIAL_CONTENT {
        let last = to - 1;
        answer = answer.header(header::CONTENT_RANGE, format!("bytes {from}-{last}/{size}"));
    }
    let body = match head {
        true => Body::empty(),
        false => Body::from_stream(ReaderStream::with_capacity(file.take(to - from), PIECE)),
    };
    answer.body(body).unwrap_or_else(|e| no(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

/// From where to where `bytes=A-` or `bytes=A-B` is, the end not included.
fn range(asked: &str, size: u64) -> Option<(u64, u64)> {
    let (from, last) = asked.strip_prefix("bytes=")?.split_once('-')?;
    let from: u64 = from.parse().ok()?;
    let to = match last {
        "" => size,
        last => last.parse::<u64>().ok()?.checked_add(1)?.min(size),
    };
    (from < to).then_some((from, to))
}

/// A chunk's place: `bytes A-B/SIZE`.
fn chunk_of(range: &str) -> Option<(u64, u64, u64)> {
    let (span, size) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (from, last) = span.split_once('-')?;
    let (from, last): (u64, u64) = (from.parse().ok()?, last.parse().ok()?);
    let size: u64 = size.parse().ok()?;
    let whole = last.checked_add(1).is_some_and(|end| end == size.min(from.saturating_add(CHUNK)));
    (from % CHUNK == 0 && from <= last && whole).then(|| (from, last + 1 - from, size))
}

async fn take(place: &Place, papers: &Papers, file: &str, headers: &HeaderMap, body: Body) -> Response {
    let text =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (range, claimed, mac) = (text("content-range"), text("x-vcl-digest"), text("x-vcl-mac"));
    // The key covers what is claimed, and what is claimed covers the body; so who has no key cannot make us read one.
    if !is_signed(
        &papers.key,
        &format!("PUT {file} {} {claimed}", if range.is_empty() { "-" } else { &range }),
        &mac,
    ) {
        return no(StatusCode::FORBIDDEN, "X-Vcl-Mac is not what it has to be");
    }
    let chunk = match file {
        "disk0" => match chunk_of(&range) {
            Some((_, _, size)) if size > papers.takes.disk => {
                let most = papers.takes.disk;
                return no(StatusCode::PAYLOAD_TOO_LARGE, format!("at most {most} bytes of disk are taken"));
            }
            Some(chunk) => Some(chunk),
            None => {
                return no(StatusCode::BAD_REQUEST, "Content-Range has to be one whole chunk of the disk");
            }
        },
        "at" | "result" => None,
        _ => return nothing(),
    };
    let most = chunk.map_or(SMALL, |(_, length, _)| length as usize);
    let body = match tokio::time::timeout(BODY, axum::body::to_bytes(body, most)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return no(StatusCode::PAYLOAD_TOO_LARGE, format!("at most {most} bytes are taken")),
        Err(_) => return no(StatusCode::REQUEST_TIMEOUT, "the body took too long"),
    };
    if chunk.is_some_and(|(_, length, _)| length != body.len() as u64) {
        return no(StatusCode::BAD_REQUEST, "the body has not as many bytes as Content-Range says");
    }
    let (place, file) = (place.clone(), file.to_owned());
    let stored = tokio::task::spawn_blocking(move || {
        let digest = Digest::from_bytes(Sha256::digest(&body).into());
        if digest.as_str() != claimed {
            let _ = store::wrong(&place);
            return no(
                StatusCode::UNPROCESSABLE_ENTITY,
                "the body is not what X-Vcl-Digest says; nothing was stored",
            );
        }
        keep(&place, &file, chunk, &body, digest.as_str())
    });
    stored.await.unwrap_or_else(|e| no(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

fn keep(place: &Place, file: &str, chunk: Option<(u64, u64, u64)>, body: &Bytes, digest: &str) -> Response {
    let words = String::from_utf8_lossy(body);
    let kept = match (chunk, file) {
        (Some((from, _, size)), _) => store::put(place, from / CHUNK, size, body, digest).map(|()| true),
        (None, "at") => store::at(place, &words),
        (None, _) => store::result(place, &words),
    };
    match kept {
        Ok(true) => StatusCode::OK.into_response(),
        Ok(false) => no(StatusCode::BAD_REQUEST, "that is not how it is written"),
        Err(Refused::Over) => no(StatusCode::CONFLICT, "it is over: nothing more is taken"),
        Err(Refused::Size(size)) => {
            no(StatusCode::CONFLICT, format!("the disk had {size} bytes before; it cannot have others now"))
        }
        Err(Refused::Io(e)) => {
            tracing::warn!(r#box = place.name, error = %e, "what a machine sent cannot be stored");
            no(StatusCode::INSUFFICIENT_STORAGE, "it cannot be stored now")
        }
    }
}

/// Whether a MAC in hexadecimal digits is that of a text; compared in constant time.
fn is_signed(key: &str, text: &str, mac: &str) -> bool {
    // It is as long as a digest, and written as one.
    let Ok(mac) = Digest::try_from(mac.to_owned()) else { return false };
    // The key is its digits: so a shell has it without turning it into bytes.
    let Ok(mut hmac) = Hmac::<Sha256>::new_from_slice(key.as_bytes()) else { return false };
    hmac.update(text.as_bytes());
    hmac.verify_slice(&mac.to_bytes()).is_ok()
}
