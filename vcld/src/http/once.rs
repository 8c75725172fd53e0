//! Requests that may come again: with an `Idempotency-Key` a POST is done once, and asked again it has the same answer.
//!
//! What was answered is kept for a day, by caller and key. The work goes on when the caller goes away, which is when he comes
//! again. An answer with a secret in it is not kept: asked again, it says that the secret was told. A key is free again only
//! where surely nothing was done: after a failure of ours in the middle it stays begun, and the caller is told to look.

use super::LONGEST_REQUEST;
use super::problem::respond;
use crate::node::{Node, Refusal, RefusalKind};
use crate::people::tokens;
use crate::rights::Who;
use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use vcl_queue::Before;

/// The header with the caller's key.
pub(super) const KEY: &str = "idempotency-key";
/// The header that says that an answer was given before.
const REPLAYED: &str = "idempotent-replayed";
/// The largest answer that is kept.
const LARGEST_ANSWER: usize = 1 << 20;

/// What a handler puts into an answer with a secret in it, which is told this once and kept nowhere.
#[derive(Debug, Clone, Copy)]
pub(super) struct ToldOnce;

/// Does a request once.
pub(super) async fn once(node: Arc<Node>, who: &Who, key: &str, request: Request, next: Next) -> Response {
    if let Err(e) = vcl_queue::check_key(key) {
        return Refusal::new(RefusalKind::Invalid, e.context).into_response();
    }
    let (parts, body) = request.into_parts();
    let reading = axum::body::to_bytes(body, super::LARGEST_BODY);
    let bytes = match tokio::time::timeout(LONGEST_REQUEST, reading).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => {
            let message = format!("a request has at most {} bytes", super::LARGEST_BODY);
            return respond(StatusCode::PAYLOAD_TOO_LARGE, "invalid", message);
        }
        Err(_) => {
            let message = "the request did not come to its end in time".to_owned();
            return respond(StatusCode::GATEWAY_TIMEOUT, "invalid", message);
        }
    };
    let mut asked = format!("{} {}\n", parts.method, parts.uri).into_bytes();
    asked.extend_from_slice(&bytes);
    let digest = tokens::hex(&<sha2::Sha256 as sha2::Digest>::digest(&asked));
    // They keep the database from being filled, which an administrator can do in other ways as well.
    let most = (!who.admin).then_some(vcl_queue::ANSWERS);
    match node.queue.begin_answer(&who.name, key, &digest, most).await {
        Ok(Before::Never) => {}
        Ok(Before::Answered(status, body)) => return again(status, body),
        Ok(Before::Begun) => {
            let message = "a request with this Idempotency-Key is under way, or vcld was stopped in the middle of it: look whether it was done, then use another key";
            return respond(StatusCode::CONFLICT, "busy", message.to_owned());
        }
        Ok(Before::Other) => {
            let message = "another request had this Idempotency-Key; use a new one for each";
            return respond(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message.to_owned());
        }
        Err(e) => return Refusal::from(e).into_response(),
    }
    let (name, key) = (who.name.clone(), key.to_owned());
    // It ends by itself: within the longest time of a request.
    let work = tokio::spawn(async move {
        let answer = next.run(Request::from_parts(parts, Body::from(bytes))).await;
        keep(&node, (&name, &key), answer).await
    });
    work.await.unwrap_or_else(|e| {
        Refusal::new(RefusalKind::Internal, format!("the request broke off: {e}")).into_response()
    })
}

/// Keeps what was answered, and frees the key where nothing was done. What failed in the middle stays begun.
async fn keep(node: &Node, (who, key): (&str, &str), answer: Response) -> Response {
    let (parts, body) = answer.into_parts();
    // One that is larger, or may be, is not gathered at all: it would be lost to who waits for it.
    let small = body.size_hint().upper().is_some_and(|most| most <= LARGEST_ANSWER as u64);
    let (text, body) = if small {
        match axum::body::to_bytes(body, LARGEST_ANSWER).await {
            Ok(bytes) => (String::from_utf8(bytes.to_vec()).ok(), Body::from(bytes)),
            Err(e) => {
                let message = format!("the answer broke off: {e}");
                return Refusal::new(RefusalKind::Internal, message).into_response();
            }
        }
    } else {
        (None, body)
    };
    let done = |message: &str| {
        let told = serde_json::json!({ "kind": "refused", "message": message });
        Some((StatusCode::CONFLICT.as_u16(), told.to_string()))
    };
    let kept = match text {
        // Refused before anything was looked at.
        _ if parts.status == StatusCode::TOO_MANY_REQUESTS => None,
        _ if parts.extensions.get::<ToldOnce>().is_some() => {
            done("it was done, and the secret in its answer was told once")
        }
        Some(text) if !parts.status.is_server_error() => Some((parts.status.as_u16(), text)),
        None if parts.status.is_success() => done("it was done, and its answer was too large to keep"),
        // It may have been done all the same.
        _ => return Response::from_parts(parts, body),
    };
    if let Err(e) = node.queue.end_answer(who, key, kept).await {
        tracing::error!(error = vcl_job::chain(&e), key, "an answer could not be kept");
    }
    Response::from_parts(parts, body)
}

fn again(status: u16, body: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let replayed = (header::HeaderName::from_static(REPLAYED), HeaderValue::from_static("true"));
    if body.is_empty() {
        return (status, [replayed]).into_response();
    }
    let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    (status, [json, replayed], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::super::tests::Site;
    use super::*;

    #[tokio::test]
    async fn a_key_is_free_again_only_where_nothing_was_done() {
        let site = Site::new().await;
        let queue = &site.node.queue;
        for (status, before) in [
            (429, Before::Never),
            (500, Before::Begun),
            (503, Before::Begun),
            (504, Before::Begun),
            (201, Before::Answered(201, "{}".into())),
            (409, Before::Answered(409, "{}".into())),
        ] {
            let key = status.to_string();
            assert_eq!(queue.begin_answer("alice", &key, "x", None).await.unwrap(), Before::Never);
            let answer = (StatusCode::from_u16(status).unwrap(), "{}").into_response();
            let answer = keep(&site.node, ("alice", &key), answer).await;
            assert_eq!(answer.status().as_u16(), status);
            assert_eq!(queue.begin_answer("alice", &key, "x", None).await.unwrap(), before, "{status}");
        }
    }
    #[tokio::test]
    async fn an_answer_that_is_too_large_to_keep_is_answered_whole() {
        let site = Site::new().await;
        for (key, length) in [("small", LARGEST_ANSWER), ("large", LARGEST_ANSWER + 1)] {
            site.node.queue.begin_answer("alice", key, "x", None).await.unwrap();
            let answer = (StatusCode::OK, "x".repeat(length)).into_response();
            let answer = keep(&site.node, ("alice", key), answer).await;
            assert_eq!(answer.status(), StatusCode::OK);
            let told = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
            assert_eq!(told.len(), length, "{key}");
            let again = site.node.queue.begin_answer("alice", key, "x", None).await.unwrap();
            let Before::Answered(status, text) = again else { panic!("{again:?}") };
            let kept = if key == "small" { (200, length) } else { (409, text.len()) };
            assert_eq!((status, text.len()), kept);
            assert_eq!(text.contains("it was done"), key == "large");
        }
    }
    #[tokio::test]
    async fn a_secret_is_in_no_answer_that_is_kept() {
        let site = Site::new().await;
        site.node.queue.begin_answer("alice", "one", "x", None).await.unwrap();
        let mut answer = (StatusCode::OK, "{\"password\":\"hunter2\"}").into_response();
        answer.extensions_mut().insert(ToldOnce);
        let answer = keep(&site.node, ("alice", "one"), answer).await;
        let told = axum::body::to_bytes(answer.into_body(), 1000).await.unwrap();
        assert!(told.starts_with(b"{\"password\":\"hunter2"), "it is told this once");
        let again = site.node.queue.begin_answer("alice", "one", "x", None).await.unwrap();
        let Before::Answered(409, text) = again else { panic!("{again:?}") };
        assert!(text.contains("told once") && !text.contains("hunter2"), "{text}");
    }
}
