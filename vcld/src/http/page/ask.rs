//! Asking the API, inside this process, as the one who reads.

use super::super::access::{REQUEST_ID, Vouched};
use crate::people::tokens;
use crate::rights::Who;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use axum::response::Response;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Digest as _;
use tower::ServiceExt as _;
use vcl_types::api::Problem;

/// The largest answer that a view is made of.
const LARGEST: usize = 256 * 1024 * 1024;
/// The longest that is said in the place of an answer.
const LARGEST_PROBLEM: usize = 64 * 1024;

/// An answer that is not what was asked for.
#[derive(Debug, Clone)]
pub(super) struct No {
    pub(super) status: StatusCode,
    /// The API's word for it.
    pub(super) kind: String,
    pub(super) message: String,
}

impl No {
    pub(super) fn new(status: StatusCode, kind: &str, message: impl Into<String>) -> Self {
        Self { status, kind: kind.to_owned(), message: message.into() }
    }
    /// What was given in a form is no such thing.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message)
    }
    /// What the API said in the place of what was asked for.
    pub(super) async fn of(answer: Response) -> Self {
        let (parts, body) = answer.into_parts();
        let bytes = axum::body::to_bytes(body, LARGEST_PROBLEM).await.unwrap_or_default();
        Self::read(parts.status, &bytes)
    }
    fn read(status: StatusCode, bytes: &[u8]) -> Self {
        match serde_json::from_slice::<Problem>(bytes) {
            Ok(problem) => Self { status, kind: problem.kind, message: problem.message },
            Err(_) => Self::new(status, "internal", String::from_utf8_lossy(bytes)),
        }
    }
    pub(super) fn nowhere() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "there is nothing at this address")
    }
}

pub(super) type Asked<T> = Result<T, No>;

/// The API as somebody sees it.
#[derive(Clone)]
pub(super) struct Asker {
    api: Router,
    who: Who,
    once: Option<String>,
}

impl Asker {
    pub(super) fn new(api: Router, who: Who) -> Self {
        Self { api, who, once: None }
    }

    /// The same for a form that is answered once, however often it is sent: `key` is the form's own.
    pub(super) fn once(self, key: Option<&str>) -> Self {
        Self { once: key.map(ToOwned::to_owned), ..self }
    }

    /// What the API answers, whatever it is.
    pub(super) async fn raw(&self, method: Method, path: &str, body: Option<String>) -> Response {
        let method_is_post = method == Method::POST;
        let mut request = Request::builder().method(method).uri(path);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(once) = self.once.as_deref().filter(|_| method_is_post) {
            // Filled in otherwise it is another wish.
            let wished = body.as_deref().unwrap_or_default();
            let digest = sha2::Sha256::digest(format!("{once}\n{path}\n{wished}"));
            request = request.header(super::super::once::KEY, format!("page-{}", tokens::hex(&digest)));
        }
        if !self.who.request.is_empty() {
            request = request.header(REQUEST_ID, &self.who.request);
        }
        let request =
            request.extension(Vouched(self.who.clone())).body(body.map_or_else(Body::empty, Body::from));
        match request {
            Ok(request) => {
                let (api, safe) = (self.api.clone(), request.method() == Method::GET);
                let asked = async move {
                    match api.oneshot(request).await {
                        Ok(answer) => answer,
                        Err(never) => match never {},
                    }
                };
                // A change goes to its end, and into the record, although the browser has gone away meanwhile.
                match safe {
                    true => asked.await,
                    false => tokio::spawn(asked).await.unwrap_or_else(|e| {
                        let message = format!("the request broke off: {e}");
                        super::super::problem::respond(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
                    }),
                }
            }
            Err(error) => super::super::problem::respond(
                StatusCode::BAD_REQUEST,
                "invalid",
                format!("`{path}` is no address: {error}"),
            ),
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<String>) -> Asked<(HeaderMap, Bytes)> {
        let (parts, body) = self.raw(method, path, body).await.into_parts();
        let unread = |e: axum::Error| {
            No::new(StatusCode::BAD_GATEWAY, "internal", format!("an answer broke off: {e}"))
        };
        let bytes = axum::body::to_bytes(body, LARGEST).await.map_err(unread)?;
        if parts.status.is_success() {
            return Ok((parts.headers, bytes));
        }
        Err(No::read(parts.status, &bytes))
    }

    fn read<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> Asked<T> {
        serde_json::from_slice(bytes).map_err(|e| {
            let message = format!("the answer to {path} is not what it should be: {e}");
            No::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
        })
    }

    /// What is at a path.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Asked<T> {
        let (_, bytes) = self.ask(Method::GET, path, None).await?;
        Self::read(path, &bytes)
    }

    /// What is at a path, and whether there is more after it.
    pub(super) async fn part<T: DeserializeOwned>(&self, path: &str) -> Asked<(T, bool)> {
        let (headers, bytes) = self.ask(Method::GET, path, None).await?;
        Ok((Self::read(path, &bytes)?, headers.contains_key(header::LINK)))
    }

    /// Has something done.
    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Asked<T> {
        let (_, bytes) = self.ask(Method::POST, path, Some(Self::written(body)?)).await?;
        Self::read(path, &bytes)
    }

    /// Has something done whose answer says nothing.
    pub(super) async fn done(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Asked<()> {
        let body = body.map(Self::written).transpose()?;
        self.ask(method, path, body).await.map(drop)
    }

    fn written(body: &impl Serialize) -> Asked<String> {
        serde_json::to_string(body).map_err(|e| {
            No::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", format!("a wish cannot be written: {e}"))
        })
    }

    /// All open reservations that somebody may see.
    pub(super) async fn open_reservations(&self) -> Asked<Vec<vcl_types::api::ReservationView>> {
        let mut all: Vec<vcl_types::api::ReservationView> = Vec::new();
        loop {
            let before = all.last().map(|last| format!("&before={}", last.id)).unwrap_or_default();
            let path = format!("/v1/reservations?limit=1000{before}");
            let (part, more): (Vec<_>, bool) = self.part(&path).await?;
            let none = part.is_empty();
            all.extend(part);
            if !more || none {
                return Ok(all);
            }
        }
    }
}
