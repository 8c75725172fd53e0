//! What each request takes: the table of all methods and paths, each with its rule.
//!
//! A request whose method and path stand not in the table is refused, whatever answers it; a test walks the OpenAPI document
//! and finds those that are missing, and those that are in the table and nowhere else.

use crate::node::{Node, Refusal};
use crate::rights::{Subject, Tagged, Who, reservation_subject};
use axum::http::Method;
use std::collections::HashMap;
use vcl_types::people::Verb;
use vcl_types::{ComputerName, ImageName, ReservationId};

/// What a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Nothing: it is how one says who one is.
    Open,
    /// To be let in. The answer holds what the caller may see, or what is asked for stands in the body: the handler
    /// decides, as the words say.
    Within(&'static str),
    /// The verb on everything.
    Site(Verb),
    /// The verb on the computer `{name}`.
    Computer(Verb),
    /// The verb on the image `{name}`.
    Image(Verb),
    /// The verb on the job `{id}`.
    Job(Verb),
    /// The verb on the reservation `{id}`.
    Reservation(Verb),
}

use Rule::{Computer, Image, Job, Open, Reservation, Site, Within};
use Verb::{Administer, Images, Look, Operate, People};

const SEEN: &str = "only what the caller may see is in it";
const REQUEST: &str = "by the kind of job, its computer and its image";
const ACTION: &str = "as the action itself";
const OWN: &str = "one's own; others' take `people`";
const CLASS: &str = "`classes` on its image and on computers; another's takes it on everything; one's own is called off and ended without";
const WINDOW: &str = "`operate` on each of its computers";
const GIVE: &str = "`people`, and nobody gives or touches more than he has";

/// All of them.
pub(super) const RULES: &[(Method, &str, Rule)] = &[
    (Method::GET, "/v1/status", Within(SEEN)),
    (Method::GET, "/v1/doctor", Site(Look)),
    (Method::GET, "/v1/computers", Within(SEEN)),
    (Method::GET, "/v1/computers/{name}", Computer(Look)),
    (Method::POST, "/v1/computers/{name}/power", Computer(Operate)),
    (Method::GET, "/v1/computers/{name}/console", Computer(Operate)),
    (Method::GET, "/v1/computers/{name}/screenshot", Computer(Operate)),
    (Method::GET, "/v1/computers/{name}/why", Computer(Look)),
    (Method::GET, "/v1/computers/{name}/configured", Site(Administer)),
    (Method::POST, "/v1/computers/apply", Site(Administer)),
    (Method::GET, "/v1/leases", Within(SEEN)),
    (Method::GET, "/v1/nodes", Site(Look)),
    (Method::GET, "/v1/nodes/{name}", Site(Look)),
    (Method::POST, "/v1/nodes/{name}/drain", Site(Administer)),
    (Method::POST, "/v1/nodes/{name}/undrain", Site(Administer)),
    (Method::GET, "/v1/images", Within(SEEN)),
    (Method::GET, "/v1/images/{name}", Image(Look)),
    (Method::POST, "/v1/images/{name}/{revision}/promote", Image(Images)),
    (Method::GET, "/v1/images/{name}/{revision}/why", Image(Look)),
    (Method::GET, "/v1/trash", Within(SEEN)),
    (Method::GET, "/v1/backends", Site(Look)),
    (Method::GET, "/v1/backends/{name}", Site(Look)),
    (Method::GET, "/v1/backends/{name}/vms", Site(Operate)),
    (Method::GET, "/v1/backends/{name}/vms/{vm}/preview", Site(Administer)),
    (Method::GET, "/v1/jobs", Within(SEEN)),
    (Method::POST, "/v1/jobs", Within(REQUEST)),
    (Method::GET, "/v1/jobs/{id}", Job(Look)),
    (Method::POST, "/v1/jobs/{id}/cancel", Within("one's own, or `operate` on it")),
    (Method::POST, "/v1/jobs/{id}/retry", Job(Operate)),
    (Method::POST, "/v1/jobs/{id}/abandon", Job(Operate)),
    (Method::POST, "/v1/jobs/{id}/undo", Job(Operate)),
    (Method::GET, "/v1/jobs/{id}/evidence", Job(Operate)),
    (Method::GET, "/v1/jobs/{id}/evidence/{name}", Job(Operate)),
    (Method::GET, "/v1/jobs/{id}/why", Job(Look)),
    (Method::POST, "/v1/plan", Within(REQUEST)),
    (Method::POST, "/v1/plan/action", Within(ACTION)),
    (Method::GET, "/v1/reservations", Within(SEEN)),
    (
        Method::POST,
        "/v1/reservations",
        Within("`reserve` on the image and on computers; for others `operate`"),
    ),
    (Method::GET, "/v1/reservations/{id}", Reservation(Look)),
    (Method::GET, "/v1/reservations/{id}/why", Reservation(Look)),
    (Method::POST, "/v1/reservations/{id}/extend", Reservation(Operate)),
    (Method::POST, "/v1/reservations/{id}/release", Reservation(Operate)),
    (Method::POST, "/v1/reservations/{id}/connect", Reservation(Operate)),
    (Method::POST, "/v1/reservations/{id}/reload", Reservation(Operate)),
    (Method::POST, "/v1/reservations/{id}/checkpoint", Reservation(Operate)),
    (Method::POST, "/v1/reservations/{id}/access", Reservation(Operate)),
    (Method::POST, "/v1/reservations/{id}/reboot", Reservation(Operate)),
    (Method::GET, "/v1/orphans", Site(Operate)),
    (Method::POST, "/v1/orphans", Site(Operate)),
    (Method::GET, "/v1/events", Within(SEEN)),
    (Method::GET, "/v1/stream", Within(SEEN)),
    (Method::GET, "/v1/usage", Within("one's own; all take `look` on everything")),
    (Method::GET, "/v1/trends", Within("one's own; all take `look` on everything")),
    (Method::GET, "/metrics", Site(Look)),
    (Method::GET, "/healthz", Open),
    (Method::GET, "/readyz", Open),
    (Method::GET, "/v1/openapi.json", Within("the same for everybody")),
    // Classes, and what is out of use.
    (Method::GET, "/v1/classes", Within("one's own, and those whose image the caller may see")),
    (Method::POST, "/v1/classes", Within(CLASS)),
    (Method::GET, "/v1/classes/{name}", Within("one's own, or `look` on its image")),
    (Method::DELETE, "/v1/classes/{name}", Within(CLASS)),
    (Method::POST, "/v1/classes/{name}/call-off", Within(CLASS)),
    (Method::GET, "/v1/maintenance", Within(SEEN)),
    (Method::POST, "/v1/maintenance", Within(WINDOW)),
    (Method::DELETE, "/v1/maintenance/{id}", Within(WINDOW)),
    (Method::GET, "/v1/hosts", Site(Look)),
    (Method::POST, "/v1/hosts/{name}/drain", Site(Operate)),
    (Method::POST, "/v1/hosts/{name}/undrain", Site(Operate)),
    // People.
    (Method::GET, "/v1/sign-in", Open),
    (Method::POST, "/v1/sign-in", Open),
    (Method::POST, "/v1/sign-in/code", Open),
    (Method::POST, "/v1/sign-in/code/end", Open),
    (Method::POST, "/v1/sign-in/device", Open),
    (Method::POST, "/v1/sign-in/device/end", Open),
    (Method::PUT, "/v1/users/{name}/password", Within(GIVE)),
    (Method::GET, "/v1/whoami", Within("about the caller")),
    (Method::POST, "/v1/sign-out", Within("the caller's own token")),
    (Method::GET, "/v1/users", Site(People)),
    (Method::POST, "/v1/users", Site(People)),
    (Method::GET, "/v1/users/{name}", Within(OWN)),
    (Method::PATCH, "/v1/users/{name}", Within(GIVE)),
    (Method::DELETE, "/v1/users/{name}", Within(GIVE)),
    (Method::POST, "/v1/users/{name}/keys", Within(OWN)),
    (Method::GET, "/v1/groups", Site(People)),
    (Method::POST, "/v1/groups", Site(People)),
    (Method::GET, "/v1/groups/{name}", Within("one's own groups; others take `people`")),
    (Method::DELETE, "/v1/groups/{name}", Within(GIVE)),
    (Method::PUT, "/v1/groups/{name}/members/{user}", Within(GIVE)),
    (Method::DELETE, "/v1/groups/{name}/members/{user}", Within(GIVE)),
    (Method::GET, "/v1/image-groups", Within("those that the caller has rights on; all take `people`")),
    (Method::POST, "/v1/image-groups", Site(People)),
    (Method::DELETE, "/v1/image-groups/{name}", Site(Administer)),
    (Method::PUT, "/v1/image-groups/{name}/images/{pattern}", Site(Administer)),
    (Method::DELETE, "/v1/image-groups/{name}/images/{pattern}", Site(Administer)),
    (Method::GET, "/v1/grants", Within("those of one's own groups; all take `people`")),
    (Method::POST, "/v1/grants", Within(GIVE)),
    (Method::DELETE, "/v1/grants/{id}", Within(GIVE)),
    (Method::GET, "/v1/tokens", Within(OWN)),
    (
        Method::POST,
        "/v1/tokens",
        Within("one's own, and not with a limited token; others' take `administer`"),
    ),
    (Method::DELETE, "/v1/tokens/{id}", Within(OWN)),
    (Method::GET, "/v1/audit", Site(People)),
];

/// The rule of a request; none where there is no such endpoint.
pub(super) fn of(method: &Method, path: &str) -> Option<Rule> {
    // Whoever may have a thing may have its head.
    let method = if method == Method::HEAD { &Method::GET } else { method };
    RULES.iter().find(|(m, p, _)| m == method && *p == path).map(|(_, _, rule)| *rule)
}

/// What a request touches by its path alone. A thing that is not there is nobody's: whoever may do it to everything is
/// told so by the handler, anybody else is refused like for one that is another's.
async fn subject(node: &Node, rule: Rule, path: &HashMap<String, String>) -> Result<Subject, Refusal> {
    let part = |name: &str| path.get(name).map(String::as_str).unwrap_or_default();
    Ok(match rule {
        Open | Within(_) | Site(_) => Subject::Nothing,
        Computer(_) => match part("name").parse::<ComputerName>() {
            Ok(name) => Subject::Computer(Tagged::of(&name, &*node.tags().await?)),
            Err(_) => Subject::Nothing,
        },
        Image(_) => part("name").parse::<ImageName>().map_or(Subject::Nothing, Subject::Image),
        Job(_) => match part("id").parse() {
            Ok(id) => node.job_touched(id).await?,
            Err(_) => Subject::Nothing,
        },
        Reservation(_) => match part("id").parse() {
            Ok(id) => of_reservation(node, id).await?,
            Err(_) => Subject::Nothing,
        },
    })
}

/// A reservation as rights see it; nothing for one that is not there.
///
/// # Errors
/// The database does not answer.
async fn of_reservation(node: &Node, id: ReservationId) -> Result<Subject, Refusal> {
    match node.queue.reservation(id).await {
        Ok(row) => {
            let computer = row.computer.as_ref().or(row.booked.as_ref());
            Ok(reservation_subject(&row.owner, computer, &row.image.name, &*node.tags().await?))
        }
        Err(e) if e.kind == vcl_queue::Kind::NotFound => Ok(Subject::Nothing),
        Err(e) => Err(e.into()),
    }
}

/// Refuses what the rule does.
///
/// # Errors
/// [`crate::node::RefusalKind::Forbidden`]; or the database does not answer.
pub(super) async fn check(
    node: &Node,
    who: &Who,
    rule: Rule,
    path: &HashMap<String, String>,
) -> Result<(), Refusal> {
    match rule {
        Open | Within(_) => Ok(()),
        // Nothing has to be looked up for whoever may do everything.
        Site(verb) | Computer(verb) | Image(verb) | Job(verb) | Reservation(verb)
            if who.can(verb, &Subject::Nothing) =>
        {
            Ok(())
        }
        Site(verb) => who.may(verb, &Subject::Nothing),
        Computer(verb) | Image(verb) | Job(verb) | Reservation(verb) => {
            who.may(verb, &subject(node, rule, path).await?)
        }
    }
}
