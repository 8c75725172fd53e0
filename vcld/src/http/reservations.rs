//! Paths about reservations.
//!
//! Whoever reserves needs `reserve` on the image (`imaging` for one that is to be captured) and on the computers: of these
//! only those are chosen from that lie in their grants. What is one's own one may look at, extend, use and give back.

use super::access::About;
use super::once::ToldOnce;
use super::pages;
use super::problem::{Answer, Body, Path, Query};
use crate::node::{Node, Refusal, RefusalKind};
use crate::rights::{Subject, Who};
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::net::IpAddr;
use std::sync::Arc;
use utoipa::IntoParams;
use vcl_queue::ReservationRow;
use vcl_types::ReservationId;
use vcl_types::api::*;
use vcl_types::people::Verb;

type Daemon = State<Arc<Node>>;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ReservationsAsked {
    /// Only this user's
    owner: Option<String>,
    /// Those that are over too
    #[serde(default)]
    all: bool,
    /// Those with a lower number: for the next page
    before: Option<i64>,
    /// How many; 100 if not said, 1000 at most
    limit: Option<u32>,
}

/// Reservations, the newest first, as far as the caller may see them.
#[utoipa::path(get, path = "/v1/reservations", params(ReservationsAsked),
    responses((status = 200, body = [ReservationView]), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn reservations(
    State(node): Daemon,
    who: Who,
    uri: Uri,
    Query(asked): Query<ReservationsAsked>,
) -> Response {
    let limit = asked.limit.unwrap_or(100).clamp(1, 1000);
    match seen(&node, &who, asked, limit).await {
        Ok((part, next)) => pages::linked(part, next.map(|id| id.to_string()).as_deref(), "before", &uri),
        Err(no) => no.into_response(),
    }
}

async fn seen(
    node: &Node,
    who: &Who,
    asked: ReservationsAsked,
    limit: u32,
) -> Result<(Vec<ReservationView>, Option<ReservationId>), Refusal> {
    let (all, before) = (asked.all, asked.before.map(ReservationId));
    if who.sees_all() {
        return node.reservations(asked.owner.as_deref(), all, before, limit, |_| true).await;
    }
    let owner = match asked.owner {
        owner if who.sees_others() => owner,
        Some(other) if other != who.name => return Ok((Vec::new(), None)),
        _ => Some(who.name.clone()),
    };
    let tags = node.tags().await?;
    let seen = |row: &ReservationRow| who.sees_reservation(row, &tags);
    node.reservations(owner.as_deref(), all, before, limit, seen).await
}

/// Reserve a computer, now or later.
#[utoipa::path(post, path = "/v1/reservations", request_body = ReservationRequest,
    responses((status = 201, body = Grabbed), (status = 200, body = Grabbed, description = "It was only tried"),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn reserve(
    State(node): Daemon,
    who: Who,
    Body(request): Body<ReservationRequest>,
) -> Response {
    let about = About(request.image.to_string());
    let dry = request.dry_run;
    let result = match settle(&node, &who, request).await {
        Ok(request) => node.reserve(request, &who.name).await,
        Err(no) => Err(no),
    };
    let mut answer = match result {
        Ok(grabbed) if dry => Json(grabbed).into_response(),
        Ok(grabbed) => (StatusCode::CREATED, Json(grabbed)).into_response(),
        Err(no) => no.into_response(),
    };
    answer.extensions_mut().insert(about);
    answer
}

/// Checks the caller's rights and fills in what they decide: from which computers is chosen, for which group it is.
async fn settle(
    node: &Node,
    who: &Who,
    mut request: ReservationRequest,
) -> Result<ReservationRequest, Refusal> {
    let verb = if request.purpose == Purpose::Imaging { Verb::Imaging } else { Verb::Reserve };
    who.may(verb, &Subject::Image(request.image.name.clone()))?;
    let other = request.owner.as_ref().filter(|owner| **owner != who.name);
    if other.is_some() {
        who.may(Verb::Operate, &Subject::Nothing)?;
    }
    // Its times and limits are its owner's.
    let groups = match other {
        None => who.groups.clone(),
        Some(owner) => {
            node.queue.standing_of(owner).await?.map(|standing| standing.groups).unwrap_or_default()
        }
    };
    if let Some(group) = &request.group {
        if !who.admin && !groups.iter().any(|g| g.as_str() == group) {
            let owner = other.unwrap_or(&who.name);
            return Err(forbidden(format!("`group` is `{group}`, and {owner} is no member of it")));
        }
    } else {
        let mut ruled = groups.iter().filter(|group| node.config.lending.has_group(group.as_str()));
        // Of several nobody but the user can say which is meant.
        if let (Some(one), None) = (ruled.next(), ruled.next()) {
            request.group = Some(one.as_str().to_owned());
        }
    }
    narrow(who, verb, &mut request.wish.any_of)?;
    if request.purpose == Purpose::Server && !node.config.lending.servers(request.group.as_deref()) {
        narrow(who, Verb::Operate, &mut request.wish.any_of).map_err(|no| {
            let of = request.group.as_ref().map(|group| format!(" of {group}")).unwrap_or_default();
            forbidden(format!("a server is not for members{of} here; {no}"))
        })?;
    }
    for key in &request.keys {
        vcl_types::ssh_key(key).map_err(|e| Refusal::new(RefusalKind::Invalid, format!("`keys`: {e}")))?;
    }
    Ok(request)
}

fn forbidden(message: String) -> Refusal {
    Refusal::new(RefusalKind::Forbidden, message)
}

/// Leaves of the computers that are wished for, by one of these tags or by none, those on which somebody has a right.
///
/// # Errors
/// [`RefusalKind::Forbidden`] where none is left.
pub(super) fn narrow(who: &Who, verb: Verb, any_of: &mut Vec<String>) -> Result<(), Refusal> {
    let Some(tags) = who.computers_for(verb) else { return Ok(()) };
    let name = &who.name;
    if tags.is_empty() {
        return Err(forbidden(format!(
            "{name} may `{verb}` no computer; an administrator can give it to a group: vclctl grant add GROUP {verb} computers:TAG"
        )));
    }
    if any_of.is_empty() {
        *any_of = tags;
        return Ok(());
    }
    any_of.retain(|tag| tags.contains(tag));
    if any_of.is_empty() {
        let tags = tags.join(", ");
        return Err(forbidden(format!(
            "{name} may `{verb}` none of these computers, but those with a tag of: {tags}"
        )));
    }
    Ok(())
}

/// One reservation.
#[utoipa::path(get, path = "/v1/reservations/{id}", params(("id" = i64, Path, description = "The reservation's number")),
    responses((status = 200, body = ReservationView), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn reservation(
    State(node): Daemon,
    Path(id): Path<ReservationId>,
) -> Answer<ReservationView> {
    node.reservation(id).await.into()
}

/// Give a reservation another end.
#[utoipa::path(post, path = "/v1/reservations/{id}/extend", params(("id" = i64, Path, description = "The reservation's number")),
    request_body = Extend,
    responses((status = 200, body = ReservationView), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn extend(
    State(node): Daemon,
    who: Who,
    Path(id): Path<ReservationId>,
    Body(wish): Body<Extend>,
) -> Answer<ReservationView> {
    node.extend(id, wish, &who.name).await.into()
}

/// Give a reservation's computer back.
#[utoipa::path(post, path = "/v1/reservations/{id}/release", params(("id" = i64, Path, description = "The reservation's number")),
    request_body = Release,
    responses((status = 200, body = ReservationView), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn release(
    State(node): Daemon,
    who: Who,
    Path(id): Path<ReservationId>,
    Body(wish): Body<Release>,
) -> Answer<ReservationView> {
    node.release(id, wish.discard, &who.name).await.into()
}

/// Say that one comes, and learn how: from which address, and with a password if one is wanted.
#[utoipa::path(post, path = "/v1/reservations/{id}/connect", params(("id" = i64, Path, description = "The reservation's number")),
    request_body = Connect,
    responses((status = 200, body = Connection), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn connect(
    State(node): Daemon,
    who: Who,
    Path(id): Path<ReservationId>,
    Body(wish): Body<Connect>,
) -> Response {
    let secret = wish.password;
    let mut answer = Answer::from(comes(&node, &who, id, wish).await).into_response();
    if secret && answer.status().is_success() {
        answer.extensions_mut().insert(ToldOnce);
    }
    answer
}

/// From where somebody comes to a reservation, and whether anybody does: who looks how to get to another's does not.
fn coming(who: &Who, owner: &str, said: Option<IpAddr>) -> Option<Option<IpAddr>> {
    match said {
        Some(address) => Some(Some(address)),
        None => (who.name == owner).then_some(who.from),
    }
}

async fn comes(node: &Node, who: &Who, id: ReservationId, wish: Connect) -> Result<Connection, Refusal> {
    let owner = node.queue.reservation(id).await?.owner;
    // A password is shown to its owner and to nobody else, whatever else they may.
    if wish.password && owner != who.name {
        return Err(forbidden(format!("a password of reservation {id} is for {owner} alone")));
    }
    if let Some(from) = coming(who, &owner, wish.from) {
        let (_, job) = node.connect(id, from).await?;
        if let Some(job) = job {
            node.ended(job).await?;
        }
    }
    node.connection(id, wish.password).await
}

/// Load a reservation's computer anew, for the same user: everything on it is lost.
#[utoipa::path(post, path = "/v1/reservations/{id}/reload", params(("id" = i64, Path, description = "The reservation's number")),
    responses((status = 202, body = Submitted), (status = 404, body = Problem), (status = 409, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn reload(State(node): Daemon, who: Who, Path(id): Path<ReservationId>) -> Response {
    match node.reload(id, &who.name).await {
        Ok(job) => (StatusCode::ACCEPTED, Json(Submitted { job })).into_response(),
        Err(no) => no.into_response(),
    }
}

/// Capture what is on a reservation's computer and go on using it: a revision of its image. The machine is rebooted, and its
/// users' accounts are made anew: what is in their homes is lost.
#[utoipa::path(post, path = "/v1/reservations/{id}/checkpoint", params(("id" = i64, Path, description = "The reservation's number")),
    responses((status = 202, body = Submitted), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn checkpoint(State(node): Daemon, who: Who, Path(id): Path<ReservationId>) -> Response {
    match capture(&node, &who, id).await {
        Ok(submitted) => (StatusCode::ACCEPTED, Json(submitted)).into_response(),
        Err(no) => no.into_response(),
    }
}

async fn capture(node: &Node, who: &Who, id: ReservationId) -> Result<Submitted, Refusal> {
    let row = node.queue.reservation(id).await?;
    who.may(Verb::Imaging, &Subject::Image(row.image.name.clone()))?;
    node.checkpoint(id, &who.name).await
}

/// Change who is let in: the other users, the keys.
#[utoipa::path(post, path = "/v1/reservations/{id}/access", params(("id" = i64, Path, description = "The reservation's number")),
    request_body = AccessChange,
    responses((status = 200, body = ReservationView), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn access(
    State(node): Daemon,
    Path(id): Path<ReservationId>,
    Body(change): Body<AccessChange>,
) -> Answer<ReservationView> {
    node.change_access(id, change).await.into()
}

/// Start a reservation's computer anew.
#[utoipa::path(post, path = "/v1/reservations/{id}/reboot", params(("id" = i64, Path, description = "The reservation's number")),
    request_body = Reboot,
    responses((status = 200, body = ReservationView), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn reboot(
    State(node): Daemon,
    who: Who,
    Path(id): Path<ReservationId>,
    Body(wish): Body<Reboot>,
) -> Answer<ReservationView> {
    node.reboot(id, wish.hard, &who.name).await.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_helps_another_does_not_come_in_their_place() {
        let at = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let who = |name: &str| Who { from: at("192.0.2.7"), ..Who::administrator(name) };
        assert_eq!(coming(&who("alice"), "alice", None), Some(at("192.0.2.7")));
        assert_eq!(coming(&who("alice"), "alice", at("192.0.2.9")), Some(at("192.0.2.9")));
        assert_eq!(coming(&who("root"), "alice", None), None);
        assert_eq!(coming(&who("root"), "alice", at("192.0.2.9")), Some(at("192.0.2.9")));
        let here = Who { from: None, ..who("alice") };
        assert_eq!(coming(&here, "alice", None), Some(None), "they come, and nobody knows from where");
    }
    #[test]
    fn of_the_computers_wished_for_those_stay_on_which_one_has_the_right() {
        let who = crate::rights::tests::somebody(&[(Verb::Classes, "computers:b12")]);
        let narrowed = |verb, tags: &[&str]| {
            let mut tags: Vec<String> = tags.iter().map(ToString::to_string).collect();
            narrow(&who, verb, &mut tags).map(|()| tags).map_err(|no| no.kind)
        };
        assert_eq!(narrowed(Verb::Classes, &[]), Ok(vec!["b12".to_owned()]));
        assert_eq!(narrowed(Verb::Classes, &["c3", "b12"]), Ok(vec!["b12".to_owned()]));
        assert_eq!(narrowed(Verb::Classes, &["c3"]), Err(RefusalKind::Forbidden));
        assert_eq!(narrowed(Verb::Reserve, &[]), Err(RefusalKind::Forbidden));
    }
}
