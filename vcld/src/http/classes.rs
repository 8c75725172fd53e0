//! Paths about classes, maintenance windows and hosts.
//!
//! What a class or a window touches stands in the body or in the database, so these handlers ask for the right themselves:
//! a class takes `classes` on its image and on computers; another's is changed and ended with `classes` on everything, one's own
//! without it; a window `operate` on each of its computers.

use super::problem::{Answer, Body, Path};
use super::reservations::narrow;
use crate::node::{Node, Refusal};
use crate::rights::{Subject, Tagged, Tags, Who};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use vcl_types::api::Problem;
use vcl_types::lending::{
    CallOff, ClassRequest, ClassView, DrainHost, HostView, MaintenanceRequest, MaintenanceView,
};
use vcl_types::people::Verb;
use vcl_types::{BackendName, ComputerName};

type Daemon = State<Arc<Node>>;

/// Whether the caller may do that to a class: his own is his. Whoever may see its image sees it; who may make classes of that
/// image alone ends none of others'.
fn may(who: &Who, verb: Verb, class: &ClassView) -> Result<(), Refusal> {
    let own = Subject::Reservation {
        owner: class.owner.clone(),
        computer: None,
        image: Some(class.image.name.clone()),
    };
    // What is one's own one may look at and give back; a token has to be for that.
    let as_owner = if verb == Verb::Look { Verb::Look } else { Verb::Reserve };
    if who.name == class.owner && who.can(as_owner, &own) {
        return Ok(());
    }
    match verb {
        Verb::Look => who.may(verb, &Subject::Image(class.image.name.clone())),
        _ => who.may(verb, &Subject::Nothing),
    }
}

async fn of_one(node: &Node, who: &Who, verb: Verb, name: &str) -> Result<ClassView, Refusal> {
    match node.class(name).await {
        Ok(class) => may(who, verb, &class).map(|()| class),
        // Whether it is there is told to whoever may do it to all.
        Err(no) => Err(who.may(verb, &Subject::Nothing).err().unwrap_or(no)),
    }
}

/// All classes that the caller may see.
#[utoipa::path(get, path = "/v1/classes", responses((status = 200, body = [ClassView])))]
pub(super) async fn classes(State(node): Daemon, who: Who) -> Answer<Vec<ClassView>> {
    let result = async {
        let mut all = node.classes().await?;
        all.retain(|class| may(&who, Verb::Look, class).is_ok());
        Ok::<_, Refusal>(all)
    };
    result.await.into()
}

/// Make a class, or change the one of its name, and book its seats.
#[utoipa::path(post, path = "/v1/classes", request_body = ClassRequest,
    responses((status = 200, body = ClassView), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn add_class(
    State(node): Daemon,
    who: Who,
    Body(mut request): Body<ClassRequest>,
) -> Answer<ClassView> {
    let result = async {
        who.may(Verb::Classes, &Subject::Image(request.image.name.clone()))?;
        // Its seats are of those computers alone.
        narrow(&who, Verb::Classes, &mut request.wish.any_of)?;
        // In another's name, or over another's class, by whoever may make any.
        let name = request.name.trim();
        let other = node.classes().await?.into_iter().find(|class| class.name == name);
        let others = other.is_some_and(|class| class.owner != who.name);
        if others || request.owner.as_ref().is_some_and(|owner| *owner != who.name) {
            who.may(Verb::Classes, &Subject::Nothing)?;
        }
        node.add_class(request, &who.name).await
    };
    result.await.into()
}

/// One class with its next times.
#[utoipa::path(get, path = "/v1/classes/{name}", params(("name" = String, Path, description = "The class")),
    responses((status = 200, body = ClassView), (status = 404, body = Problem)))]
pub(super) async fn class(State(node): Daemon, who: Who, Path(name): Path<String>) -> Answer<ClassView> {
    of_one(&node, &who, Verb::Look, &name).await.into()
}

/// End a class: seats that nobody has taken are given back.
#[utoipa::path(delete, path = "/v1/classes/{name}", params(("name" = String, Path, description = "The class")),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn delete_class(State(node): Daemon, who: Who, Path(name): Path<String>) -> Response {
    let result = async {
        let class = of_one(&node, &who, Verb::Classes, &name).await?;
        node.end_class(&class.name, &who.name).await
    };
    match result.await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(no) => no.into_response(),
    }
}

/// Call one time of a class off.
#[utoipa::path(post, path = "/v1/classes/{name}/call-off", params(("name" = String, Path, description = "The class")),
    request_body = CallOff, responses((status = 200, body = ClassView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn call_off(
    State(node): Daemon,
    who: Who,
    Path(name): Path<String>,
    Body(asked): Body<CallOff>,
) -> Answer<ClassView> {
    let result = async {
        let class = of_one(&node, &who, Verb::Classes, &name).await?;
        node.call_off_class(&class.name, asked.start, &who.name).await
    };
    result.await.into()
}

fn on_all(who: &Who, verb: Verb, computers: &[ComputerName], tags: &Tags) -> Result<(), Refusal> {
    computers.iter().try_for_each(|name| who.may(verb, &Subject::Computer(Tagged::of(name, tags))))
}

/// Maintenance windows that are not over, of computers that the caller may see.
#[utoipa::path(get, path = "/v1/maintenance", responses((status = 200, body = [MaintenanceView])))]
pub(super) async fn maintenance(State(node): Daemon, who: Who) -> Answer<Vec<MaintenanceView>> {
    let result = async {
        let (mut all, tags) = (node.maintenance().await?, node.tags().await?);
        for window in &mut all {
            window.computers.retain(|name| who.can(Verb::Look, &Subject::Computer(Tagged::of(name, &tags))));
            if !who.sees_all() {
                window.in_the_way.clear();
            }
        }
        all.retain(|window| !window.computers.is_empty());
        Ok::<_, Refusal>(all)
    };
    result.await.into()
}

/// Take computers out of use for a time. Who is on one of them finishes first.
#[utoipa::path(post, path = "/v1/maintenance", request_body = MaintenanceRequest,
    responses((status = 200, body = MaintenanceView), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn add_maintenance(
    State(node): Daemon,
    who: Who,
    Body(request): Body<MaintenanceRequest>,
) -> Answer<MaintenanceView> {
    let result = async {
        let tags = node.tags().await?;
        // Whoever may not touch those he names is not told whether they are there.
        on_all(&who, Verb::Operate, &request.computers, &tags)?;
        on_all(&who, Verb::Operate, &node.maintenance_computers(&request).await?, &tags)?;
        node.add_maintenance(request, &who.name).await
    };
    result.await.into()
}

/// End a maintenance window: its computers come back.
#[utoipa::path(delete, path = "/v1/maintenance/{id}", params(("id" = i64, Path, description = "The window")),
    responses((status = 200, body = MaintenanceView), (status = 404, body = Problem)))]
pub(super) async fn end_maintenance(
    State(node): Daemon,
    who: Who,
    Path(id): Path<i64>,
) -> Answer<MaintenanceView> {
    let result = async {
        let found = node.maintenance().await?.into_iter().find(|window| window.id == id);
        match &found {
            Some(window) => on_all(&who, Verb::Operate, &window.computers, &*node.tags().await?)?,
            // Whether it is there is told to whoever may touch all.
            None => who.may(Verb::Operate, &Subject::Nothing)?,
        }
        node.end_maintenance(id, &who.name).await
    };
    result.await.into()
}

/// The hosts of all backends, and which of them take nothing new.
#[utoipa::path(get, path = "/v1/hosts", responses((status = 200, body = [HostView])))]
pub(super) async fn hosts(State(node): Daemon) -> Answer<Vec<HostView>> {
    node.hosts().await.into()
}

/// Let a backend's host take nothing new. Who is on it finishes.
#[utoipa::path(post, path = "/v1/hosts/{name}/drain", params(("name" = String, Path, description = "The backend")),
    request_body = DrainHost, responses((status = 200, body = HostView), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn drain_host(
    State(node): Daemon,
    who: Who,
    Path(name): Path<BackendName>,
    Body(asked): Body<DrainHost>,
) -> Answer<HostView> {
    node.drain_host(&name, true, asked.reason.as_deref(), &who.name).await.into()
}

/// Let a backend's host take everything again.
#[utoipa::path(post, path = "/v1/hosts/{name}/undrain", params(("name" = String, Path, description = "The backend")),
    responses((status = 200, body = HostView), (status = 404, body = Problem)))]
pub(super) async fn undrain_host(
    State(node): Daemon,
    who: Who,
    Path(name): Path<BackendName>,
) -> Answer<HostView> {
    node.drain_host(&name, false, None, &who.name).await.into()
}
