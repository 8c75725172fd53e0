//! Answers, and the no among them.

use crate::node::{Refusal, RefusalKind};
use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use vcl_types::api::Problem;

/// JSON, or a problem with its status.
pub(super) enum Answer<T> {
    Ok(T),
    Err(Refusal),
}

impl<T> From<Result<T, Refusal>> for Answer<T> {
    fn from(result: Result<T, Refusal>) -> Self {
        match result {
            Ok(value) => Self::Ok(value),
            Err(refusal) => Self::Err(refusal),
        }
    }
}

pub(super) fn respond(status: StatusCode, kind: &str, message: String) -> Response {
    let problem = Json(Problem { kind: kind.to_owned(), message });
    if status == StatusCode::SERVICE_UNAVAILABLE {
        return (status, [(header::RETRY_AFTER, "5")], problem).into_response();
    }
    (status, problem).into_response()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, kind) = match self.kind {
            RefusalKind::NotFound => (StatusCode::NOT_FOUND, "not-found"),
            RefusalKind::Refused => (StatusCode::CONFLICT, "refused"),
            RefusalKind::Busy => (StatusCode::CONFLICT, "busy"),
            RefusalKind::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
            RefusalKind::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
            RefusalKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            RefusalKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(message = self.message, "a request failed");
        }
        respond(status, kind, self.message)
    }
}

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        match self {
            Self::Ok(value) => Json(value).into_response(),
            Self::Err(refusal) => refusal.into_response(),
        }
    }
}

/// The no for whoever does not say who he is, or whose word is not good. It does not say which.
pub(super) fn unauthorized() -> Response {
    let message = "say who you are: sign in with `vclctl login`, or send `Authorization: Bearer` with a token that is good";
    let mut answer = respond(StatusCode::UNAUTHORIZED, "unauthorized", message.to_owned());
    let scheme = axum::http::HeaderValue::from_static("Bearer realm=\"vcld\"");
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    answer
}

pub(super) async fn nowhere(request: Request) -> Response {
    let message =
        format!("there is nothing at {}; the API is described at /v1/openapi.json", request.uri().path());
    respond(StatusCode::NOT_FOUND, "not-found", message)
}
pub(super) async fn not_so(request: Request) -> Response {
    let message = format!("{} does not take {}", request.uri().path(), request.method());
    respond(StatusCode::METHOD_NOT_ALLOWED, "invalid", message)
}

/// A JSON body whose faults are told as a problem.
pub(super) struct Body<T>(pub(super) T);
impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Response;
    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(e) => {
                let status = match &e {
                    JsonRejection::JsonDataError(_) => StatusCode::UNPROCESSABLE_ENTITY,
                    other => other.status(),
                };
                Err(respond(status, "invalid", e.body_text()))
            }
        }
    }
}

/// Parameters of the path whose faults are told as a problem.
pub(super) struct Path<T>(pub(super) T);
impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Response;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(e)) => {
                Err(respond(StatusCode::NOT_FOUND, "not-found", e.body_text()))
            }
            Err(e) => Err(respond(StatusCode::BAD_REQUEST, "invalid", e.body_text())),
        }
    }
}

/// Parameters of the query whose faults are told as a problem.
pub(super) struct Query<T>(pub(super) T);
impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Response;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let read: Result<_, QueryRejection> =
            axum::extract::Query::<T>::from_request_parts(parts, state).await;
        match read {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(e) => Err(respond(StatusCode::BAD_REQUEST, "invalid", e.body_text())),
        }
    }
}
