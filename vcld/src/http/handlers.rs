//! One function a path.

use super::pages::{self, Page};
use super::problem::{Answer, Body, Path, Query};
use super::seen;
use crate::node::Node;
use crate::rights::{Subject, Who};
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;
use vcl_types::api::*;
use vcl_types::people::Verb;
use vcl_types::state::job;
use vcl_types::{BackendName, ComputerName, ImageName, JobId, JobRequest};

type Daemon = State<Arc<Node>>;

/// One screen of everything.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status), (status = 503, body = Problem)))]
pub(super) async fn status(State(node): Daemon, who: Who) -> Answer<Status> {
    seen::status(&node, &who).await.into()
}

/// What the doctor is to do beside looking.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub(super) struct Doctor {
    /// Make rows for revisions that have none, and compare the database with the library and the backends.
    #[serde(default)]
    rescan: bool,
}

/// What this node lacks.
#[utoipa::path(get, path = "/v1/doctor", params(Doctor), responses((status = 200, body = [Finding])))]
pub(super) async fn doctor(State(node): Daemon, who: Who, Query(asked): Query<Doctor>) -> Response {
    if !asked.rescan {
        return Json(node.doctor().await).into_response();
    }
    // It makes rows, so it is recorded who did it.
    let mut answer = match who.may(Verb::Administer, &Subject::Nothing) {
        Ok(()) => Json(node.rescan_findings().await).into_response(),
        Err(no) => no.into_response(),
    };
    answer.extensions_mut().insert(super::access::About("rescan".into()));
    answer
}

/// All computers.
#[utoipa::path(get, path = "/v1/computers", params(Page), responses((status = 200, body = [ComputerView]), (status = 503, body = Problem)))]
pub(super) async fn computers(State(node): Daemon, who: Who, uri: Uri, Query(page): Query<Page>) -> Response {
    page.of(seen::computers(&node, &who).await, |item| item.computer.name.to_string(), &uri)
}

/// One computer, with its power state.
#[utoipa::path(get, path = "/v1/computers/{name}", params(("name" = String, Path, description = "The computer")),
    responses((status = 200, body = ComputerView), (status = 404, body = Problem)))]
pub(super) async fn computer(
    State(node): Daemon,
    who: Who,
    Path(name): Path<ComputerName>,
) -> Answer<ComputerView> {
    let result = async {
        let mut computer = node.computer(&name).await?;
        seen::cut_lease(&node, &who, &mut computer.lease).await?;
        Ok::<_, crate::node::Refusal>(computer)
    };
    result.await.into()
}

/// Change a computer's power, outside of any job.
#[utoipa::path(post, path = "/v1/computers/{name}/power", params(("name" = String, Path, description = "The computer")),
    request_body = PowerRequest,
    responses((status = 200, body = ComputerView), (status = 404, body = Problem), (status = 409, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn power(
    State(node): Daemon,
    who: Who,
    Path(name): Path<ComputerName>,
    Body(wish): Body<PowerRequest>,
) -> Answer<ComputerView> {
    node.power(&name, wish.action, &who.name).await.into()
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Lines {
    /// How many lines from the end; 50 if not said, 10000 at most
    lines: Option<usize>,
}

/// The last lines of a computer's serial console.
#[utoipa::path(get, path = "/v1/computers/{name}/console", params(("name" = String, Path, description = "The computer"), Lines),
    responses((status = 200, body = Console), (status = 404, body = Problem)))]
pub(super) async fn console(
    State(node): Daemon,
    Path(name): Path<ComputerName>,
    Query(Lines { lines }): Query<Lines>,
) -> Answer<Console> {
    node.console(&name, lines.unwrap_or(50)).await.into()
}

/// A computer's display.
#[utoipa::path(get, path = "/v1/computers/{name}/screenshot", params(("name" = String, Path, description = "The computer")),
    responses((status = 200, content_type = "image/png", body = Vec<u8>), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn screenshot(State(node): Daemon, Path(name): Path<ComputerName>) -> Response {
    match node.screenshot(&name).await {
        Ok(png) => ([(header::CONTENT_TYPE, "image/png")], png).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Dry {
    /// Only say what would change
    #[serde(default)]
    dry_run: bool,
}

/// Read `[computers]` of the configuration again.
#[utoipa::path(post, path = "/v1/computers/apply", params(Dry),
    responses((status = 200, body = Applied), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn apply(State(node): Daemon, Query(Dry { dry_run }): Query<Dry>) -> Answer<Applied> {
    node.apply_computers(dry_run).await.into()
}

/// Everything that a job has to itself: computers and images, with who has them, what for and since when.
#[utoipa::path(get, path = "/v1/leases", params(Page), responses((status = 200, body = [LeaseView]), (status = 503, body = Problem)))]
pub(super) async fn leases(State(node): Daemon, who: Who, uri: Uri, Query(page): Query<Page>) -> Response {
    page.of(seen::leases(&node, &who).await, |item| format!("{:?} {}", item.of, item.name), &uri)
}

/// All management nodes.
#[utoipa::path(get, path = "/v1/nodes", params(Page), responses((status = 200, body = [NodeView]), (status = 503, body = Problem)))]
pub(super) async fn nodes(State(node): Daemon, uri: Uri, Query(page): Query<Page>) -> Response {
    page.of(node.nodes().await, |item| item.name.clone(), &uri)
}

/// One management node.
#[utoipa::path(get, path = "/v1/nodes/{name}", params(("name" = String, Path, description = "The node")),
    responses((status = 200, body = NodeView), (status = 404, body = Problem)))]
pub(super) async fn management_node(State(node): Daemon, Path(name): Path<String>) -> Answer<NodeView> {
    node.management_node(&name).await.into()
}

/// Let a node claim nothing new; what it runs goes on.
#[utoipa::path(post, path = "/v1/nodes/{name}/drain", params(("name" = String, Path, description = "The node")),
    responses((status = 200, body = NodeView), (status = 404, body = Problem)))]
pub(super) async fn drain_node(State(node): Daemon, who: Who, Path(name): Path<String>) -> Answer<NodeView> {
    node.drain_node(&name, true, &who.name).await.into()
}

/// Let a node claim again.
#[utoipa::path(post, path = "/v1/nodes/{name}/undrain", params(("name" = String, Path, description = "The node")),
    responses((status = 200, body = NodeView), (status = 404, body = Problem)))]
pub(super) async fn undrain_node(
    State(node): Daemon,
    who: Who,
    Path(name): Path<String>,
) -> Answer<NodeView> {
    node.drain_node(&name, false, &who.name).await.into()
}

/// All images.
#[utoipa::path(get, path = "/v1/images", params(Page), responses((status = 200, body = [ImageView]), (status = 503, body = Problem)))]
pub(super) async fn images(State(node): Daemon, who: Who, uri: Uri, Query(page): Query<Page>) -> Response {
    page.of(seen::images(&node, &who).await, |item| item.name.to_string(), &uri)
}

/// One image.
#[utoipa::path(get, path = "/v1/images/{name}", params(("name" = String, Path, description = "The image")),
    responses((status = 200, body = ImageView), (status = 404, body = Problem)))]
pub(super) async fn image(State(node): Daemon, who: Who, Path(name): Path<ImageName>) -> Answer<ImageView> {
    let result = async {
        let mut image = node.image(&name).await?;
        seen::cut_image(&node, &who, &mut image).await?;
        Ok::<_, crate::node::Refusal>(image)
    };
    result.await.into()
}

/// All backend instances: whether each answers, what it can do, what is wrong with it.
#[utoipa::path(get, path = "/v1/backends",
    params(Page), responses((status = 200, body = [BackendView]), (status = 503, body = Problem)))]
pub(super) async fn backends(State(node): Daemon, uri: Uri, Query(page): Query<Page>) -> Response {
    page.of(node.backend_views().await, |item| item.name.to_string(), &uri)
}

/// One backend instance.
#[utoipa::path(get, path = "/v1/backends/{name}", params(("name" = String, Path, description = "The backend instance")),
    responses((status = 200, body = BackendView), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn backend(State(node): Daemon, Path(name): Path<BackendName>) -> Answer<BackendView> {
    node.backend_view(&name).await.into()
}

/// All machines of a backend, vcld's or not.
#[utoipa::path(get, path = "/v1/backends/{name}/vms", params(("name" = String, Path, description = "The backend instance"), Page),
    responses((status = 200, body = [VmView]), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn vms(
    State(node): Daemon,
    Path(name): Path<BackendName>,
    uri: Uri,
    Query(page): Query<Page>,
) -> Response {
    page.of(node.vms(&name).await, |item| item.name.clone(), &uri)
}

#[derive(Deserialize, IntoParams)]
pub(super) struct PreviewQuery {
    /// Its operating system.
    #[serde(default)]
    os: vcl_types::OsName,
}

/// What an image made from a machine would be.
#[utoipa::path(get, path = "/v1/backends/{name}/vms/{vm}/preview",
    params(("name" = String, Path, description = "The backend instance"), ("vm" = String, Path, description = "The machine's name there"), PreviewQuery),
    responses((status = 200, body = VmPreview), (status = 404, body = Problem), (status = 409, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn preview(
    State(node): Daemon,
    Path((name, vm)): Path<(BackendName, String)>,
    Query(query): Query<PreviewQuery>,
) -> Answer<VmPreview> {
    node.preview(&name, &vm, query.os).await.into()
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Turn {
    /// Wait for its turn when another job has the computer or the image, instead of being refused
    #[serde(default)]
    wait: bool,
}

/// Queue a job.
#[utoipa::path(post, path = "/v1/jobs", params(Turn), request_body = JobRequest,
    responses((status = 202, body = Submitted), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn submit(
    State(node): Daemon,
    who: Who,
    Query(Turn { wait }): Query<Turn>,
    Body(request): Body<JobRequest>,
) -> Response {
    let about = seen::about(&request);
    let result = async {
        node.may_submit(&who, &request).await?;
        node.submit_as(request, &who.name, wait).await
    };
    let mut answer = match result.await {
        Ok(submitted) => (StatusCode::ACCEPTED, Json(submitted)).into_response(),
        Err(refusal) => refusal.into_response(),
    };
    answer.extensions_mut().insert(about);
    answer
}

/// What a job would do, without doing it.
#[utoipa::path(post, path = "/v1/plan", request_body = JobRequest,
    responses((status = 200, body = Plan), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn plan(State(node): Daemon, who: Who, Body(request): Body<JobRequest>) -> Answer<Plan> {
    let result = async {
        node.may_submit(&who, &request).await?;
        node.plan(&request).await
    };
    result.await.into()
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct JobsAsked {
    /// Only jobs in this state
    #[param(value_type = Option<job::State>)]
    state: Option<job::State>,
    /// Only jobs before this number: for the next page
    before: Option<i64>,
    /// How many; 50 if not said, 1000 at most
    limit: Option<u32>,
}

/// Jobs, newest first, without their steps.
#[utoipa::path(get, path = "/v1/jobs", params(JobsAsked), responses((status = 200, body = [JobView]), (status = 400, body = Problem)))]
pub(super) async fn jobs(
    State(node): Daemon,
    who: Who,
    uri: Uri,
    Query(asked): Query<JobsAsked>,
) -> Response {
    let limit = asked.limit.unwrap_or(50).clamp(1, 1000);
    match seen::jobs(&node, &who, asked.state, asked.before.map(JobId), limit).await {
        Ok((jobs, next)) => pages::linked(jobs, next.map(|id| id.to_string()).as_deref(), "before", &uri),
        Err(no) => no.into_response(),
    }
}

/// One job, with its steps.
#[utoipa::path(get, path = "/v1/jobs/{id}", params(("id" = i64, Path, description = "The job's number")),
    responses((status = 200, body = JobView), (status = 404, body = Problem)))]
pub(super) async fn job(State(node): Daemon, Path(id): Path<JobId>) -> Answer<JobView> {
    node.job(id).await.into()
}

/// Call a job off.
#[utoipa::path(post, path = "/v1/jobs/{id}/cancel", params(("id" = i64, Path, description = "The job's number")),
    responses((status = 200, body = JobView), (status = 404, body = Problem)))]
pub(super) async fn cancel(State(node): Daemon, who: Who, Path(id): Path<JobId>) -> Answer<JobView> {
    let result = async {
        node.may_cancel(&who, id).await?;
        node.cancel(id, &who.name).await
    };
    result.await.into()
}

/// Try a failed or stuck job again.
#[utoipa::path(post, path = "/v1/jobs/{id}/retry", params(("id" = i64, Path, description = "The job's number")),
    responses((status = 200, body = JobView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn retry(State(node): Daemon, who: Who, Path(id): Path<JobId>) -> Answer<JobView> {
    node.retry(id, &who.name).await.into()
}

/// Give a stuck job up as it is.
#[utoipa::path(post, path = "/v1/jobs/{id}/abandon", params(("id" = i64, Path, description = "The job's number")),
    responses((status = 200, body = JobView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn abandon(State(node): Daemon, who: Who, Path(id): Path<JobId>) -> Answer<JobView> {
    node.abandon(id, &who.name).await.into()
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsAsked {
    /// Only events after this number, oldest first; without it, the newest
    after: Option<i64>,
    /// Only events of this job
    job: Option<i64>,
    /// How many; 100 if not said, 1000 at most
    limit: Option<u32>,
}

/// What happened.
#[utoipa::path(get, path = "/v1/events", params(EventsAsked), responses((status = 200, body = [EventView]), (status = 400, body = Problem)))]
pub(super) async fn events(
    State(node): Daemon,
    who: Who,
    uri: Uri,
    Query(asked): Query<EventsAsked>,
) -> Response {
    let limit = asked.limit.unwrap_or(100).min(1000);
    let events = match node.events(asked.after, asked.job.map(JobId), limit).await {
        Ok(events) => events,
        Err(no) => return no.into_response(),
    };
    // Where it goes on is told by what was looked at, not by what of it may be seen.
    let last = events.last().filter(|_| asked.after.is_some() && events.len() >= limit.max(1) as usize);
    let last = last.map(|event| event.id.to_string());
    match seen::Jobs::default().of(&node, &who, events).await {
        Ok(seen) => pages::linked(seen, last.as_deref(), "after", &uri),
        Err(no) => no.into_response(),
    }
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, description = "The OpenAPI document", body = serde_json::Value)))]
pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], super::openapi()).into_response()
}
