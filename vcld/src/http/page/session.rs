//! Signing in and out: a token in a cookie. And the theme.

use super::ask::No;
use super::reader::{self, Form, Query, Reader, is_here};
use super::{Page, Site, led, shown_with};
use axum::extract::State;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use vcl_page::Place;
use vcl_page::way_in::SignIn;
use vcl_types::api::{SignIn as Asked, TokenMade, TokenView, WaysIn};
use vcl_types::people::Via;

/// What a token that a browser got is called in lists.
const LABEL: &str = "browser";
/// The cookie with the sign-in that was begun at the provider: whoever ends it is who began it.
const BEGUN: &str = "__Host-vcld-begun";
/// How long one may take there, in seconds.
const PATIENCE: i64 = 600;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Next {
    next: String,
}

fn on(next: &str) -> &str {
    if is_here(next) && !next.starts_with("/sign-in") { next } else { "/" }
}

/// The ways in.
pub(super) async fn ways(State(page): Site, reader: Reader, Query(Next { next }): Query<Next>) -> Response {
    if reader.who.via != Via::Nobody {
        return Redirect::to(on(&next)).into_response();
    }
    ways_with(&page, &reader, &next, "", None).await
}

async fn ways_with(page: &Arc<Page>, reader: &Reader, next: &str, name: &str, no: Option<No>) -> Response {
    let ways: WaysIn = match reader.ask(page).get("/v1/sign-in").await {
        Ok(ways) => ways,
        Err(no) => return super::failed(page, reader, Place::Elsewhere, &no),
    };
    let status = no.as_ref().map_or(StatusCode::OK, |no| no.status);
    let view = SignIn {
        frame: reader.frame(page, Place::Elsewhere),
        password: ways.password,
        oidc: ways.oidc.as_deref().filter(|_| page.node.config.page.url.is_some()),
        next: on(next),
        name,
        problem: no.map(|no| no.message),
    };
    shown_with(status, &view)
}

/// The token in a cookie, and on to what was asked for.
fn let_in(made: &TokenMade, next: &str) -> Response {
    let mut answer = Redirect::to(on(next)).into_response();
    let seconds = made.token.expires.map(|end| (end - chrono::Utc::now()).num_seconds().max(0));
    reader::keep(&mut answer, reader::TOKEN, &made.secret, seconds);
    answer
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct NameAndPassword {
    name: String,
    password: String,
    next: String,
}

/// With a name and a password.
pub(super) async fn password(
    State(page): Site,
    reader: Reader,
    Form(form): Form<NameAndPassword>,
) -> Response {
    let asked = Asked { name: form.name.clone(), password: form.password, label: Some(LABEL.into()) };
    match reader.ask(&page).post::<TokenMade>("/v1/sign-in", &asked).await {
        Ok(made) => let_in(&made, &form.next),
        Err(no) => ways_with(&page, &reader, &form.next, &form.name, Some(no)).await,
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Token {
    token: String,
    next: String,
}

/// With a token that one has.
pub(super) async fn token(State(page): Site, reader: Reader, Form(form): Form<Token>) -> Response {
    let secret = form.token.trim();
    let good = secret.len() <= 4096 && secret.bytes().all(|b| b.is_ascii_graphic() && b != b';' && b != b',');
    let who = match good {
        true => match super::super::access::holder(&page.node, secret).await {
            Ok(who) => Some(who),
            Err(no) if no.status() == StatusCode::UNAUTHORIZED => None,
            Err(no) => {
                let no = No::new(no.status(), "unavailable", reader.texts(&page).say("problem-unavailable"));
                return ways_with(&page, &reader, &form.next, "", Some(no)).await;
            }
        },
        false => None,
    };
    match who.filter(|who| who.via != Via::Nobody) {
        Some(who) => {
            let mut answer = Redirect::to(on(&form.next)).into_response();
            let seconds = who.expires.map(|end| (end - chrono::Utc::now()).num_seconds().max(0));
            reader::keep(&mut answer, reader::TOKEN, secret, seconds);
            answer
        }
        None => {
            let no = No::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                reader.texts(&page).say("sign-in-no-token"),
            );
            ways_with(&page, &reader, &form.next, "", Some(no)).await
        }
    }
}

/// On to the provider.
pub(super) async fn provider(
    State(page): Site,
    reader: Reader,
    Query(Next { next }): Query<Next>,
) -> Response {
    match page.node.begin_page_code(reader.who.from).await {
        Ok((url, state)) => {
            let mut answer = Redirect::to(&url).into_response();
            reader::keep(
                &mut answer,
                BEGUN,
                &format!("{state}|{}", vcl_page::show::segment(on(&next))),
                Some(PATIENCE),
            );
            answer
        }
        Err(no) => {
            let no = No::new(StatusCode::CONFLICT, "refused", no.message);
            ways_with(&page, &reader, &next, "", Some(no)).await
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Ended {
    state: String,
    code: String,
    error: String,
    error_description: String,
}

/// Back from the provider.
pub(super) async fn provider_end(
    State(page): Site,
    reader: Reader,
    headers: axum::http::HeaderMap,
    Query(ended): Query<Ended>,
) -> Response {
    let begun = reader::cookie(&headers, BEGUN).and_then(|value| value.split_once('|'));
    let next = begun.map(|(_, next)| decoded(next)).unwrap_or_default();
    let mut answer = match begun {
        Some((state, _)) if !state.is_empty() && state == ended.state && ended.error.is_empty() => {
            let asked = json!({ "state": ended.state, "code": ended.code, "label": LABEL });
            match reader.ask(&page).post::<TokenMade>("/v1/sign-in/code/end", &asked).await {
                Ok(made) => let_in(&made, &next),
                Err(no) => ways_with(&page, &reader, &next, "", Some(no)).await,
            }
        }
        Some((state, _)) if !state.is_empty() && state == ended.state => {
            let texts = reader.texts(&page);
            let said = format!("{} {}", ended.error, ended.error_description);
            let no = No::new(StatusCode::UNAUTHORIZED, "unauthorized", texts.of("sign-in-provider-no", said));
            ways_with(&page, &reader, &next, "", Some(no)).await
        }
        // Whoever sent this did not begin here: what he says is not shown, and what was begun goes on.
        _ => {
            let said = reader.texts(&page).say("sign-in-not-begun");
            let no = No::new(StatusCode::UNAUTHORIZED, "unauthorized", said);
            return ways_with(&page, &reader, &next, "", Some(no)).await;
        }
    };
    reader::keep(&mut answer, BEGUN, "", Some(0));
    answer
}

fn decoded(text: &str) -> String {
    let query = format!("next={text}");
    let uri: Option<axum::http::Uri> = format!("/?{query}").parse().ok();
    let next = uri.and_then(|uri| axum::extract::Query::<Next>::try_from_uri(&uri).ok());
    next.map(|axum::extract::Query(Next { next })| next).unwrap_or_default()
}

/// Out: the browser's own token is good no more. One that was brought from elsewhere is only forgotten here.
pub(super) async fn sign_out(State(page): Site, reader: Reader) -> Response {
    let ask = reader.ask(&page);
    let tokens: Vec<TokenView> = ask.get("/v1/tokens").await.unwrap_or_default();
    let own = |token: &TokenView| reader.who.token.as_deref() == Some(&token.id) && token.label == LABEL;
    let out = match tokens.iter().any(own) {
        true => ask.done(Method::POST, "/v1/sign-out", None::<&()>).await,
        false => Ok(()),
    };
    let mut answer = match out {
        Ok(()) => Redirect::to("/sign-in").into_response(),
        Err(no) => led("/sign-in", Err(no)),
    };
    reader::keep(&mut answer, reader::TOKEN, "", Some(0));
    answer
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Theme {
    theme: String,
    back: String,
}

/// Light, dark, or as the reader's system has it.
pub(super) async fn theme(Form(form): Form<Theme>) -> Response {
    let mut answer = Redirect::to(if is_here(&form.back) { &form.back } else { "/" }).into_response();
    let (value, seconds) = match reader::theme(&form.theme) {
        Some(theme) => (theme, 365 * 86_400),
        None => ("", 0),
    };
    reader::keep(&mut answer, reader::THEME, value, Some(seconds));
    answer
}
