//! The page: HTML on top of the API.
//!
//! A view asks the API what it shows, inside this process and as the one who reads it ([`ask`]), so rights are checked and deeds
//! recorded where they are for everybody else; nothing of the page touches the daemon in another way. What it looks like is
//! the crate `vcl-page`. Who reads is found out at a door of its own ([`door`]): by a cookie with a token, or by the proxy's
//! word. Nothing but the page takes the cookie, and the page takes no change from another site.
//!
//! A view without scripts is whole: links, forms, and an answer that leads to the next view. With them, what it shows is
//! asked for again when the [`live`] stream names one of its topics.

mod ask;
mod charts;
mod classes;
mod computers;
mod door;
mod forms;
mod images;
mod jobs;
mod live;
mod mine;
mod operations;
mod reader;
mod reservation;
mod session;
#[cfg(test)]
mod tests;

use crate::node::Node;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use reader::Reader;
use std::sync::Arc;
use std::time::Duration;
use vcl_page::{Catalogue, Place, Template};

/// What every view needs.
pub(super) struct Page {
    node: Arc<Node>,
    /// The API, behind its door.
    api: Router,
    texts: Catalogue,
    /// How many streams each reader has.
    readers: super::serve::Seats<String>,
}

/// How long a view may take: what it asks of the API has its own limit, which is the shorter.
const LONGEST: Duration = super::LONGEST_REQUEST.saturating_add(Duration::from_secs(15));

type Site = State<Arc<Page>>;

/// All paths of the page. Whatever else is asked for is the API's.
pub(super) fn router(node: Arc<Node>, api: Router) -> Router {
    let texts = texts(&node);
    let page = Arc::new(Page { node, api: api.clone(), texts, readers: super::serve::Seats::default() });
    let views = Router::new()
        .route("/", get(mine::home))
        .route("/sign-in", get(session::ways).post(session::password))
        .route("/sign-in/token", post(session::token))
        .route("/sign-in/provider", get(session::provider))
        .route("/sign-in/end", get(session::provider_end))
        .route("/sign-out", post(session::sign_out))
        .route("/theme", post(session::theme))
        .route("/reservations", get(mine::mine))
        .route("/reserve", get(mine::form).post(mine::reserve))
        .route("/reservations/{id}", get(reservation::view))
        .route("/reservations/{id}/connect", post(reservation::connect))
        .route("/reservations/{id}/extend", post(reservation::extend))
        .route("/reservations/{id}/rdp", post(reservation::rdp))
        .route("/reservations/{id}/{verb}", get(reservation::preview).post(reservation::act))
        .route("/wall", get(computers::wall))
        .route("/computers/{name}", get(computers::computer))
        .route("/computers/{name}/console", get(computers::console))
        .route("/computers/{name}/screenshot", get(computers::screenshot))
        .route("/computers/{name}/{verb}", get(computers::preview).post(computers::act))
        .route("/queue", get(jobs::queue))
        .route("/jobs/{id}", get(jobs::job))
        .route("/jobs/{id}/evidence/{part}", get(jobs::evidence))
        .route("/jobs/{id}/configured/{part}", get(jobs::configured))
        .route("/jobs/{id}/{verb}", get(jobs::preview).post(jobs::act))
        .route("/images", get(images::images))
        .route("/images/new", get(images::form))
        .route("/images/new/from-vm", post(images::from_vm))
        .route("/images/new/import", post(images::import))
        .route("/images/{name}", get(images::image))
        .route("/images/{name}/prune", get(images::preview_prune).post(images::prune))
        .route("/images/{name}/{revision}/{verb}", get(images::preview).post(images::act))
        .route("/classes", get(classes::classes).post(classes::add))
        .route("/classes/{name}", get(classes::class))
        .route("/classes/{name}/{verb}", get(classes::preview).post(classes::act))
        .route("/charts", get(charts::charts))
        .route("/operations", get(operations::operations))
        .route("/operations/hosts/{name}/{verb}", get(operations::preview_host).post(operations::act_host))
        .route("/operations/orphans", get(operations::orphans))
        .route("/operations/orphans/{wish}", get(operations::preview_orphan).post(operations::act_orphan))
        .route("/operations/maintenance", get(operations::maintenance).post(operations::add_window))
        .route(
            "/operations/maintenance/{id}/end",
            get(operations::preview_window).post(operations::end_window),
        )
        .route("/operations/audit", get(operations::audit))
        .layer(tower_http::timeout::TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, LONGEST));
    let open = Router::new().route("/live", get(live::live)).route("/assets/{digest}/{name}", get(asset));
    let behind = middleware::from_fn_with_state(page.clone(), door::door);
    views
        .merge(open)
        .layer(axum::extract::DefaultBodyLimit::max(super::LARGEST_BODY))
        .layer(behind)
        .with_state(page)
        .fallback_service(api)
}

/// The texts, with those of the site. What of them cannot be read is said in the log, and the page is in English there.
fn texts(node: &Node) -> Catalogue {
    let mut texts = Catalogue::default();
    let Some(directory) = &node.config.page.texts else { return texts };
    let entries = match directory.read_dir_utf8() {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(%directory, %error, "the page's texts cannot be read; it is in English");
            return texts;
        }
    };
    for entry in entries.flatten() {
        let Some(language) = entry.file_name().strip_suffix(".ftl") else { continue };
        let added = std::fs::read_to_string(entry.path())
            .map_err(|error| error.to_string())
            .and_then(|text| texts.add(language, &text).map_err(|error| error.to_string()));
        if let Err(error) = added {
            tracing::warn!(file = %entry.path(), error, "texts of the page are left out");
        }
    }
    texts
}

/// A part of the page that is the same for everybody. Its address has its digest in it.
async fn asset(Path((digest, name)): Path<(String, String)>) -> Response {
    let Some(asset) = vcl_page::assets::at(&format!("/assets/{digest}/{name}")) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let kept = HeaderValue::from_static("public, max-age=31536000, immutable");
    ([(header::CONTENT_TYPE, asset.media_type)], [(header::CACHE_CONTROL, kept)], asset.bytes).into_response()
}

/// A view as an answer.
fn shown(view: &impl Template) -> Response {
    shown_with(StatusCode::OK, view)
}

/// A view as an answer with a status.
fn shown_with(status: StatusCode, view: &impl Template) -> Response {
    match view.render() {
        Ok(html) => (status, Html(html)).into_response(),
        Err(error) => {
            tracing::error!(%error, "a view cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// That something cannot be shown, as a view.
fn failed(page: &Page, reader: &Reader, place: Place, no: &ask::No) -> Response {
    let frame = reader.frame(page, place);
    let back = reader.back();
    shown_with(
        no.status,
        &vcl_page::way_in::Problem { frame, kind: &no.kind, message: &no.message, back: &back },
    )
}

/// Leads to another view, where something is said once.
fn led(to: &str, said: Result<String, ask::No>) -> Response {
    let (bad, text) = match said {
        Ok(text) => (false, text),
        Err(no) => (true, no.message),
    };
    let mut answer = Redirect::to(to).into_response();
    if !text.is_empty() {
        reader::tell(&mut answer, bad, &text);
    }
    answer
}
