//! Paths for whoever watches the daemon: usage, metrics, health.
//!
//! `/healthz` and `/readyz` answer whoever asks, and so does all of this on `metrics.listen`, which is this machine's alone.

use super::problem::{Answer, Query, respond};
use crate::node::{Node, Refusal, RefusalKind};
use crate::rights::Who;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;
use vcl_types::api::*;
use vcl_types::usage::{Trends, UsageBy, UsageReport};

type Daemon = State<Arc<Node>>;

/// The form in which Prometheus reads metrics.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a report of usage is to be of.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct UsageAsked {
    /// What it is counted by; `image` if not said
    by: Option<UsageBy>,
    /// From when; thirty days before `until` if not said
    from: Option<DateTime<Utc>>,
    /// Until when; now if not said
    until: Option<DateTime<Utc>>,
    /// Only this user's
    owner: Option<String>,
    /// `json` or `csv`; `json` if not said
    format: Option<Format>,
}

/// A form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    Json,
    Csv,
}

/// How the computers were used: counts, hours, peaks, waiting times. One's own reservations; with `look` on everything all.
#[utoipa::path(get, path = "/v1/usage", params(UsageAsked),
    responses((status = 200, content((UsageReport = "application/json"), (String = "text/csv"))),
        (status = 400, body = Problem), (status = 403, body = Problem), (status = 422, body = Problem),
        (status = 503, body = Problem)))]
pub(super) async fn usage(State(node): Daemon, who: Who, Query(asked): Query<UsageAsked>) -> Response {
    let format = asked.format.unwrap_or(Format::Json);
    match report(&node, &who, asked).await {
        Ok(report) if format == Format::Csv => {
            ([(header::CONTENT_TYPE, "text/csv; charset=utf-8; header=present")], report.csv())
                .into_response()
        }
        answer => Answer::from(answer).into_response(),
    }
}

/// Of how many days the trends are to be.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct TrendsAsked {
    /// How many days, today among them; 30 if not said, 400 at most
    days: Option<u32>,
}

/// How the days went: how long loads and captures took, how much the computers were used, how long was waited, how the library
/// grew. Of one's own reservations; with `look` on everything all.
#[utoipa::path(get, path = "/v1/trends", params(TrendsAsked),
    responses((status = 200, body = Trends), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn trends(
    State(node): Daemon,
    who: Who,
    Query(asked): Query<TrendsAsked>,
) -> Answer<Trends> {
    let owner = (!who.sees_all()).then_some(who.name.as_str());
    node.trends(asked.days.unwrap_or(30).clamp(1, 400), owner).await.into()
}

async fn report(node: &Node, who: &Who, asked: UsageAsked) -> Result<UsageReport, Refusal> {
    let owner = match asked.owner {
        owner if who.sees_all() => owner,
        Some(owner) if owner != who.name => {
            let message = format!(
                "{} may see what {} used and nobody else: that takes `look` on everything",
                who.name, who.name
            );
            return Err(Refusal::new(RefusalKind::Forbidden, message));
        }
        _ => Some(who.name.clone()),
    };
    let until = asked.until.unwrap_or_else(|| node.clock.now());
    let from = match asked.from {
        Some(from) => Some(from),
        None => until.checked_sub_signed(TimeDelta::days(30)),
    };
    let from = from.ok_or_else(|| {
        Refusal::new(RefusalKind::Invalid, format!("`until` is {until}, which is too early"))
    })?;
    node.usage_report((from, until), asked.by.unwrap_or(UsageBy::Image), owner.as_deref()).await
}

/// Metrics, as Prometheus reads them.
#[utoipa::path(get, path = "/metrics",
    responses((status = 200, body = String, content_type = "application/openmetrics-text"), (status = 503, body = Problem)))]
pub(super) async fn metrics(State(node): Daemon) -> Response {
    match node.metrics_text().await {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(no) => no.into_response(),
    }
}

/// That the daemon lives.
#[utoipa::path(get, path = "/healthz", responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn healthz() -> &'static str {
    "alive\n"
}

/// Whether the daemon can do its work, and if not, why.
#[utoipa::path(get, path = "/readyz", responses((status = 200, body = Readiness), (status = 503, body = Readiness)))]
pub(super) async fn readyz(State(node): Daemon) -> Response {
    let readiness = node.readiness().await;
    if readiness.ready {
        return Json(readiness).into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")], Json(readiness)).into_response()
}

/// What `metrics.listen` answers.
pub(super) fn router(node: Arc<Node>) -> Router {
    let nothing = async || {
        let message = "here are /metrics, /healthz and /readyz and nothing else".to_owned();
        respond(StatusCode::NOT_FOUND, "not-found", message)
    };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(nothing)
        .with_state(node)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Site, request};
    use super::*;
    use axum::http::Method;
    use vcl_types::people::Verb;

    #[tokio::test(flavor = "multi_thread")]
    async fn usage_is_ones_own_and_everybodys_for_whoever_sees_everything() {
        let site = Site::new().await;
        let (alice, boss) = (site.user("alice", &[]).await, site.user("boss", &[(Verb::Look, "all")]).await);
        let get = async |token: &str, query: &str| {
            site.with(token, Method::GET, &format!("/v1/usage{query}"), "").await
        };
        let read = |said: &super::super::tests::Said| serde_json::from_str::<UsageReport>(&said.1).unwrap();
        let own = get(&alice, "").await;
        assert_eq!((own.0, read(&own).own), (StatusCode::OK, true));
        assert!(!read(&get(&boss, "?by=group").await).own);
        assert!(read(&get(&boss, "?owner=alice").await).own);
        let others = get(&alice, "?owner=bob").await;
        assert_eq!(others.0, StatusCode::FORBIDDEN, "{}", others.1);
        let csv = get(&boss, "?by=computer&format=csv").await;
        assert!(csv.1.starts_with("computer,reservations,"), "{}", csv.1);
        for (query, status) in [
            ("?by=colour", 400),
            ("?from=yesterday", 400),
            ("?from=2999-01-01T00:00:00Z", 422),
            ("?from=2026-02-01T00:00:00Z&until=2026-01-01T00:00:00Z", 422),
        ] {
            let said = get(&boss, query).await;
            assert_eq!(said.0.as_u16(), status, "{query}: {}", said.1);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn metrics_take_a_look_at_everything_and_health_takes_nothing() {
        let site = Site::new().await;
        let (alice, boss) = (site.user("alice", &[]).await, site.user("boss", &[(Verb::Look, "all")]).await);
        assert_eq!(site.with(&alice, Method::GET, "/metrics", "").await.0, StatusCode::FORBIDDEN);
        site.with(&alice, Method::GET, "/no/such/place/of/mallory", "").await;
        let (status, text) = site.with(&boss, Method::GET, "/metrics", "").await;
        assert_eq!(status, StatusCode::OK);
        for line in [
            "vcld_http_requests_total{method=\"GET\",route=\"/metrics\",status=\"403\"} 1",
            "vcld_http_requests_total{method=\"GET\",route=\"none\",status=\"404\"} 1",
            "vcld_computers{state=\"available\"} 2",
            "vcld_ready 1",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(!text.contains("mallory") && !text.contains("alice"), "{text}");
        let ready = async || {
            let said = site.ask(None, request(Method::GET, "/readyz", None, "")).await;
            (said.0.as_u16(), serde_json::from_str::<Readiness>(&said.1).unwrap())
        };
        assert_eq!(ready().await, (200, Readiness { ready: true, reasons: vec![] }));
        site.node.insight.see_stopping();
        let (status, readiness) = ready().await;
        assert_eq!((status, readiness.reasons.len()), (503, 1));
        let said = site.ask(None, request(Method::GET, "/healthz", None, "")).await;
        assert_eq!(said, (StatusCode::OK, "alive\n".to_owned()));
    }
}
