//! Paths about what goes wrong: evidence, why, orphans, what an action would do.

use super::pages;
use super::problem::{Answer, Body, Path, Query};
use crate::node::{Node, Refusal};
use crate::rights::Who;
use axum::extract::State;
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;
use vcl_types::api::*;
use vcl_types::{ComputerName, JobId, ReservationId};

type Daemon = State<Arc<Node>>;

/// What was kept of a job that failed.
#[utoipa::path(get, path = "/v1/jobs/{id}/evidence", params(("id" = i64, Path, description = "The job's number")),
    responses((status = 200, body = [EvidenceView]), (status = 404, body = Problem)))]
pub(super) async fn evidence(State(node): Daemon, Path(id): Path<JobId>) -> Answer<Vec<EvidenceView>> {
    node.queue.evidence(id).await.map_err(Refusal::from).into()
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Attempt {
    /// Of which attempt; the newest that has it, if not said
    attempt: Option<u32>,
}

/// One piece of it. Its bytes may have been written by a guest: they are never shown as a page.
#[utoipa::path(get, path = "/v1/jobs/{id}/evidence/{name}",
    params(("id" = i64, Path, description = "The job's number"), ("name" = String, Path, description = "Its name"), Attempt),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>), (status = 404, body = Problem)))]
pub(super) async fn evidence_part(
    State(node): Daemon,
    Path((id, name)): Path<(JobId, String)>,
    Query(Attempt { attempt }): Query<Attempt>,
) -> Response {
    match node.queue.evidence_part(id, &name, attempt).await {
        Ok(part) => (
            [
                (header::CONTENT_TYPE, part.media_type),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff".into()),
                (header::CONTENT_DISPOSITION, "attachment".into()),
            ],
            part.bytes,
        )
            .into_response(),
        Err(error) => Refusal::from(error).into_response(),
    }
}

/// By which manifests this node has configured a computer, and what changed from the last run but one to the last.
#[utoipa::path(get, path = "/v1/computers/{name}/configured", params(("name" = String, Path, description = "The computer")),
    responses((status = 200, body = [ConfiguredView]), (status = 404, body = Problem)))]
pub(super) async fn configured(
    State(node): Daemon,
    Path(name): Path<ComputerName>,
) -> Answer<Vec<ConfiguredView>> {
    node.configured(&name).await.into()
}

/// Why a job is where it is.
#[utoipa::path(get, path = "/v1/jobs/{id}/why", params(("id" = i64, Path, description = "The job's number")),
    responses((status = 200, body = Why), (status = 404, body = Problem)))]
pub(super) async fn why_job(State(node): Daemon, Path(id): Path<JobId>) -> Answer<Why> {
    node.why_job(id).await.into()
}

/// Why a computer is where it is.
#[utoipa::path(get, path = "/v1/computers/{name}/why", params(("name" = String, Path, description = "The computer")),
    responses((status = 200, body = Why), (status = 404, body = Problem)))]
pub(super) async fn why_computer(
    State(node): Daemon,
    who: Who,
    Path(name): Path<ComputerName>,
) -> Answer<Why> {
    node.why_computer(&name, Some(&who)).await.into()
}

/// Why a reservation is where it is.
#[utoipa::path(get, path = "/v1/reservations/{id}/why", params(("id" = i64, Path, description = "The reservation's number")),
    responses((status = 200, body = Why), (status = 404, body = Problem)))]
pub(super) async fn why_reservation(State(node): Daemon, Path(id): Path<ReservationId>) -> Answer<Why> {
    node.why_reservation(id).await.into()
}

/// Take a stuck job back from its journal.
#[utoipa::path(post, path = "/v1/jobs/{id}/undo", params(("id" = i64, Path, description = "The job's number")),
    responses((status = 200, body = JobView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn undo(State(node): Daemon, who: Who, Path(id): Path<JobId>) -> Answer<JobView> {
    node.undo(id, &who.name).await.into()
}

/// What an action that is no job would do, without doing it.
#[utoipa::path(post, path = "/v1/plan/action", request_body = Action,
    responses((status = 200, body = Plan), (status = 404, body = Problem), (status = 409, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn plan_action(State(node): Daemon, who: Who, Body(action): Body<Action>) -> Answer<Plan> {
    let result = async {
        node.may_act(&who, &action).await?;
        node.plan_action(&action).await
    };
    result.await.into()
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct OrphansAsked {
    /// Also those that somebody ignores
    #[serde(default)]
    all: bool,
    /// Only what comes after this one, as the `Link` header of the part before has it
    after: Option<String>,
    /// How many, 1000 at most; without `after` and this all of them
    limit: Option<u32>,
}

/// What is there and belongs to nobody, and what should be there and is not.
#[utoipa::path(get, path = "/v1/orphans", params(OrphansAsked),
    responses((status = 200, body = Orphans), (status = 503, body = Problem)))]
pub(super) async fn orphans(
    State(node): Daemon,
    uri: Uri,
    Query(OrphansAsked { all, after, limit }): Query<OrphansAsked>,
) -> Response {
    let mut orphans = match node.orphans(all).await {
        Ok(orphans) => orphans,
        Err(no) => return no.into_response(),
    };
    let page = pages::Page { after, limit };
    let next = page.cut(&mut orphans.found, |orphan| orphan.id.clone());
    pages::linked(orphans, next.as_deref(), "after", &uri)
}

/// Adopt, delete or ignore one of them.
#[utoipa::path(post, path = "/v1/orphans", request_body = OrphanRequest,
    responses((status = 200, body = Plan), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn orphan(State(node): Daemon, who: Who, Body(asked): Body<OrphanRequest>) -> Response {
    let wish = match &asked.wish {
        OrphanWish::Adopt => "adopt",
        OrphanWish::Delete => "delete",
        OrphanWish::Ignore { .. } => "ignore",
    };
    let tried = if asked.dry_run { ", only tried" } else { "" };
    let about = super::access::About(format!("{wish} {}{tried}", asked.id));
    let mut answer = Answer::from(node.orphan(&asked, &who.name).await).into_response();
    answer.extensions_mut().insert(about);
    answer
}
