//! Paths for whoever is nobody yet: signing in.

use super::access::About;
use super::problem::{Body, respond};
use crate::node::{Node, Refusal};
use crate::people::sign_in::NotIn;
use crate::rights::Who;
use axum::Json;
use axum::extract::{Extension, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use vcl_types::Secret;
use vcl_types::api::*;

type Daemon = State<Arc<Node>>;
/// Whoever asks, who is nobody yet, with the address that he comes from.
type At = Option<Extension<Who>>;

fn from(at: At) -> Option<std::net::IpAddr> {
    at.and_then(|Extension(who)| who.from)
}

fn made(result: Result<TokenMade, Refusal>) -> Response {
    match result {
        Ok(made) => {
            let about = About(format!("{} {}", made.token.owner, made.token.id));
            let mut answer = (StatusCode::CREATED, Json(made)).into_response();
            answer.extensions_mut().insert(about);
            answer
        }
        Err(no) => no.into_response(),
    }
}

/// Which ways to sign in there are.
#[utoipa::path(get, path = "/v1/sign-in", responses((status = 200, body = WaysIn)))]
pub(super) async fn ways(State(node): Daemon) -> Json<WaysIn> {
    Json(node.ways_in())
}

/// Sign in with a name and a password. Whoever fails too often has to wait.
#[utoipa::path(post, path = "/v1/sign-in", request_body = SignIn,
    responses((status = 201, body = TokenMade), (status = 401, body = Problem), (status = 429, body = Problem)))]
pub(super) async fn password(State(node): Daemon, at: At, Body(asked): Body<SignIn>) -> Response {
    let SignIn { name, password, label } = asked;
    // What can be nobody's name is not recorded: it costs whoever tries it nothing.
    let about = crate::people::sign_in::named(&name).map(|name| About(name.to_string()));
    let mut answer = match node.sign_in((&name, Secret::new(password)), from(at), label).await {
        Ok(token) => return made(Ok(token)),
        Err(NotIn::Wrong) => {
            let message = "the name or the password is wrong".to_owned();
            let mut answer = respond(StatusCode::UNAUTHORIZED, "unauthorized", message);
            let scheme = HeaderValue::from_static("Bearer realm=\"vcld\"");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
            answer
        }
        Err(NotIn::Slow(wait)) => {
            let seconds = wait.as_secs().max(1);
            let message = format!("too many sign-ins failed; try again in {seconds} s");
            let mut answer = respond(StatusCode::TOO_MANY_REQUESTS, "busy", message);
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            answer
        }
        Err(NotIn::Refused(no)) => no.into_response(),
    };
    if let Some(about) = about {
        answer.extensions_mut().insert(about);
    }
    answer
}

/// Begin to sign in with a browser, at the OpenID Connect provider.
#[utoipa::path(post, path = "/v1/sign-in/code", request_body = BeginCode, responses((status = 200, body = CodeBegun)))]
pub(super) async fn begin_code(State(node): Daemon, at: At, Body(asked): Body<BeginCode>) -> Response {
    match node.begin_code(&asked.redirect, from(at)).await {
        Ok((url, state)) => Json(CodeBegun { url, state }).into_response(),
        Err(no) => no.into_response(),
    }
}

/// End it with the code that the browser brought.
#[utoipa::path(post, path = "/v1/sign-in/code/end", request_body = EndCode, responses((status = 201, body = TokenMade)))]
pub(super) async fn end_code(State(node): Daemon, Body(asked): Body<EndCode>) -> Response {
    made(node.end_code(&asked.state, &asked.code, asked.label).await)
}

/// Begin to sign in on another device, at the OpenID Connect provider.
#[utoipa::path(post, path = "/v1/sign-in/device", responses((status = 200, body = DeviceBegun)))]
pub(super) async fn begin_device(State(node): Daemon, at: At) -> Response {
    match node.begin_device(from(at)).await {
        Ok((device, state)) => Json(DeviceBegun {
            url: device.verification_uri,
            code: device.user_code,
            complete_url: device.verification_uri_complete,
            state,
            seconds: device.expires_in,
            interval: device.interval.unwrap_or(5).clamp(1, 60),
        })
        .into_response(),
        Err(no) => no.into_response(),
    }
}

/// Ask whether that is done.
#[utoipa::path(post, path = "/v1/sign-in/device/end", request_body = EndDevice,
    responses((status = 201, body = TokenMade), (status = 202, description = "Not yet; ask again")))]
pub(super) async fn end_device(State(node): Daemon, Body(asked): Body<EndDevice>) -> Response {
    match node.end_device(&asked.state, asked.label).await {
        Ok(None) => StatusCode::ACCEPTED.into_response(),
        Ok(Some(token)) => made(Ok(token)),
        Err(no) => made(Err(no)),
    }
}
