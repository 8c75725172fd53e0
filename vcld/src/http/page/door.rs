//! The page's door: who reads is found out, changes that another site asks for are refused, and every answer carries what a
//! browser is to forbid.

use super::super::access::{self, Unread};
use super::reader::{self, Reader, cookie};
use super::{Page, ask};
use crate::rights::Who;
use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use std::sync::Arc;
use vcl_page::Place;
use vcl_page::show::segment;
use vcl_types::people::Via;

/// What every answer of the page carries.
const FORBIDDEN: [(HeaderName, HeaderValue); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
             form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

/// Whether somebody who is nobody yet may ask for it.
fn open(path: &str) -> bool {
    path == "/sign-in" || path.starts_with("/sign-in/") || path.starts_with("/assets/") || path == "/theme"
}

pub(super) async fn door(State(page): State<Arc<Page>>, request: Request, next: Next) -> Response {
    let (said, part) =
        (cookie(request.headers(), reader::SAID).is_some(), request.headers().contains_key("hx-request"));
    let asset = request.uri().path().starts_with("/assets/");
    let id = access::request_id(request.headers());
    let mut answer = through(&page, request, &id, next).await;
    let headers = answer.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(access::REQUEST_ID, id);
    }
    for (name, value) in FORBIDDEN {
        headers.entry(name).or_insert(value);
    }
    if !asset {
        // It is somebody's.
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    }
    // It was said.
    let html =
        headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if said && !part && html {
        reader::keep(&mut answer, reader::SAID, "", Some(0));
    }
    answer
}

async fn through(page: &Arc<Page>, request: Request, id: &str, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let safe = matches!(parts.method, Method::GET | Method::HEAD);
    if !safe && !access::from_here(&parts.headers, page.node.config.page.url.as_deref()) {
        let message = "another site asked for this, and it was not done";
        let no = super::super::problem::respond(StatusCode::FORBIDDEN, "forbidden", message.into());
        return as_view(page, parts, no).await;
    }
    let path = parts.uri.path().to_owned();
    let token =
        cookie(&parts.headers, reader::TOKEN).filter(|token| !token.is_empty()).map(ToOwned::to_owned);
    // What is everybody's is had without finding out whose it is.
    let known = match path.starts_with("/assets/") {
        true => access::nobody(&parts),
        false => match access::reader(&page.node, &parts, token.as_deref()).await {
            Ok(who) => who,
            // A token that has ended, or was taken back: whoever had it signs in again.
            Err(Unread::Stale) => access::nobody(&parts),
            Err(Unread::Refused(no)) => return as_view(page, parts, *no).await,
        },
    };
    let who = Who { request: id.to_owned(), ..known };
    if who.via == Via::Nobody && !open(&path) {
        return to_sign_in(&parts, safe);
    }
    parts.extensions.insert::<Who>(who);
    next.run(Request::from_parts(parts, body)).await
}

/// A problem as a view, for a browser that asked for one.
async fn as_view(page: &Arc<Page>, mut parts: Parts, no: Response) -> Response {
    let viewed = parts.headers.get(header::ACCEPT).and_then(|kinds| kinds.to_str().ok());
    if !viewed.is_some_and(|kinds| kinds.contains("text/html")) {
        return no;
    }
    let nobody = access::nobody(&parts);
    parts.extensions.insert::<Who>(nobody);
    let (status, retry) = (no.status(), no.headers().get(header::RETRY_AFTER).cloned());
    let no = ask::No::of(no).await;
    let mut answer = match Reader::from_request_parts(&mut parts, page).await {
        Ok(reader) => super::failed(page, &reader, Place::Elsewhere, &no),
        Err(never) => match never {},
    };
    *answer.status_mut() = status;
    if let Some(retry) = retry {
        answer.headers_mut().insert(header::RETRY_AFTER, retry);
    }
    answer
}

/// Leads to where one signs in, and from there back to what was asked for.
fn to_sign_in(parts: &Parts, safe: bool) -> Response {
    if parts.uri.path() == "/live" {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let here = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let to = match safe && here != "/" {
        true => format!("/sign-in?next={}", segment(here)),
        false => "/sign-in".to_owned(),
    };
    if parts.headers.contains_key("hx-request") {
        // A part of a view is not exchanged for a way in.
        let mut answer = StatusCode::NO_CONTENT.into_response();
        if let Ok(to) = HeaderValue::from_str(&to) {
            answer.headers_mut().insert("hx-redirect", to);
        }
        return answer;
    }
    Redirect::to(&to).into_response()
}

/// The no for a verb that there is none of.
pub(super) fn no_such_verb() -> ask::No {
    ask::No::nowhere()
}

#[cfg(test)]
mod unit {
    use super::access::from_here;
    use super::*;
    use axum::http::HeaderMap;

    #[test]
    fn what_another_site_asks_for_is_told_apart() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            pairs
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect()
        };
        for (pairs, here) in [
            (&[("sec-fetch-site", "same-origin")][..], true),
            (&[("sec-fetch-site", "none")], true),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "cross-site"), ("origin", "https://vcld"), ("host", "vcld")], false),
            (&[("origin", "https://vcld:8443"), ("host", "vcld:8443")], true),
            (&[("origin", "https://evil.example"), ("host", "vcld")], false),
            (&[("origin", "null"), ("host", "vcld")], false),
            (&[], true),
        ] {
            assert_eq!(from_here(&headers(pairs), Some("https://page.example")), here, "{pairs:?}");
        }
        // A proxy asks for another host than the browser did.
        let proxied = headers(&[("origin", "https://page.example"), ("host", "vcld")]);
        assert!(from_here(&proxied, Some("https://page.example")) && !from_here(&proxied, None));
    }
}
