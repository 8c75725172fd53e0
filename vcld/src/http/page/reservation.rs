//! One reservation: seen as it becomes usable, connected to, given another end, given back.

use super::ask::{Asked, Asker, No};
use super::forms;
use super::mine::job_of;
use super::reader::{Form, Path, Reader};
use super::{Page, Site, door, failed, led, shown, shown_with};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;
use vcl_page::confirm::{Choice, Confirm};
use vcl_page::jobs::percent;
use vcl_page::reservations::{Reservation, Way, usable};
use vcl_page::{Place, Verb, show};
use vcl_types::api::{Connection, JobView, ReservationView, StepState, Submitted, Why};
use vcl_types::lending::Purpose;
use vcl_types::people;
use vcl_types::state::reservation::State as Is;

const HERE: Place = Place::Reservations;

fn path(id: i64) -> String {
    format!("/v1/reservations/{id}")
}

pub(super) async fn view(State(page): Site, reader: Reader, Path(id): Path<i64>) -> Response {
    match view_or_no(&page, &reader, id).await {
        Ok(answer) => answer,
        Err(no) => failed(&page, &reader, HERE, &no),
    }
}

/// Whether the reader may do to it what its owner may.
fn may_act(reader: &Reader, view: &ReservationView, tags: &crate::rights::Tags) -> bool {
    let computer = view.computer.as_ref().or(view.booked.as_ref());
    let subject = crate::rights::reservation_subject(&view.owner, computer, &view.image.name, tags);
    reader.who.can(people::Verb::Operate, &subject)
}

async fn view_or_no(page: &Page, reader: &Reader, id: i64) -> Asked<Response> {
    let ask = reader.ask(page);
    let view: ReservationView = ask.get(&path(id)).await?;
    let tags = page
        .node
        .tags()
        .await
        .map_err(|no| No::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", no.message))?;
    let acts = may_act(reader, &view, &tags);
    let job = job_of(&ask, &view).await;
    let why = why(&ask, &view).await;
    let texts = reader.texts(page);
    let now = page.node.clock.now();
    let usable = usable(&view);
    let left = job.as_ref().and_then(|job| job.left);
    let view = Reservation {
        frame: reader.frame(page, HERE),
        percent: job.as_ref().and_then(|job| percent(job, now)),
        step: job.as_ref().and_then(step),
        left: left.map(|left| {
            texts.with("job-left", &[("p50", &show::took(left.p50_ms)), ("p95", &show::took(left.p95_ms))])
        }),
        why,
        verbs: if acts { verbs(reader, &view) } else { Vec::new() },
        usable: usable && acts,
        own: view.owner == reader.who.name,
        extends: acts && view.end.is_some() && !matches!(view.state, Is::Ending | Is::Ended),
        view: &view,
    };
    Ok(shown(&view))
}

/// The step that a job is at.
fn step(job: &JobView) -> Option<String> {
    job.steps.iter().rev().find(|step| step.state == StepState::Running).map(|step| step.name.clone())
}

/// Why it is as it is, as long as there is something to wait for, or when it is over.
async fn why(ask: &Asker, view: &ReservationView) -> Option<String> {
    match view.state {
        Is::Ended => view.ended_because.clone(),
        Is::Ready | Is::InUse => None,
        _ => ask.get::<Why>(&format!("{}/why", path(view.id.0))).await.ok().map(|why| why.sentence),
    }
}

fn verbs(reader: &Reader, view: &ReservationView) -> Vec<Verb> {
    let mut verbs = Vec::new();
    if usable(view) {
        let image = crate::rights::Subject::Image(view.image.name.clone());
        if view.purpose != Purpose::Seat && reader.who.can(people::Verb::Imaging, &image) {
            verbs.push(Verb::plain("checkpoint"));
        }
        verbs.push(Verb::plain("reboot"));
        verbs.push(Verb::danger("reload"));
    }
    if !matches!(view.state, Is::Ending | Is::Ended) {
        verbs.push(Verb::danger("release"));
    }
    verbs
}

/// What a verb will do.
pub(super) async fn preview(
    State(page): Site,
    reader: Reader,
    Path((id, verb)): Path<(i64, String)>,
) -> Response {
    match preview_or_no(&page, &reader, id, &verb).await {
        Ok(answer) => answer,
        Err(no) => failed(&page, &reader, HERE, &no),
    }
}

async fn preview_or_no(page: &Page, reader: &Reader, id: i64, verb: &str) -> Asked<Response> {
    let view: ReservationView = reader.ask(page).get(&path(id)).await?;
    let texts = reader.texts(page);
    let imaging = view.purpose == Purpose::Imaging && view.usable.is_some();
    let (says, options, danger) = match verb {
        "release" if imaging => (
            "release-imaging-says",
            vec![Choice { name: "discard", label: texts.say("release-discard").into_owned(), on: false }],
            false,
        ),
        "release" => ("release-says", Vec::new(), true),
        "reload" => ("reload-says", Vec::new(), true),
        "checkpoint" => ("checkpoint-says", Vec::new(), false),
        "reboot" => (
            "reboot-says",
            vec![Choice { name: "hard", label: texts.say("reboot-hard").into_owned(), on: false }],
            false,
        ),
        _ => return Err(door::no_such_verb()),
    };
    let view = Confirm {
        frame: reader.frame(page, HERE),
        title: texts.with(&format!("{verb}-title"), &[("image", &view.image), ("id", &view.id)]),
        lines: vec![texts.say(says).into_owned()],
        hindrance: None,
        steps: Vec::new(),
        usual: None,
        action: format!("/reservations/{id}/{verb}"),
        hidden: Vec::new(),
        options,
        field: None,
        button: texts.word("verb", verb).into_owned(),
        danger,
        back: format!("/reservations/{id}"),
    };
    Ok(shown(&view))
}

/// Does it.
pub(super) async fn act(
    State(page): Site,
    reader: Reader,
    Path((id, verb)): Path<(i64, String)>,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let (ask, at, texts) = (reader.ask(&page), path(id), reader.texts(&page));
    let on = |name: &str| form.get(name).is_some_and(|value| value == "true");
    let done = match verb.as_str() {
        "release" => {
            let asked = json!({ "discard": on("discard") });
            ask.post::<ReservationView>(&format!("{at}/release"), &asked).await.map(drop)
        }
        "reboot" => {
            let asked = json!({ "hard": on("hard") });
            ask.post::<ReservationView>(&format!("{at}/reboot"), &asked).await.map(drop)
        }
        "reload" => ask.post::<Submitted>(&format!("{at}/reload"), &json!({})).await.map(drop),
        "checkpoint" => ask.post::<Submitted>(&format!("{at}/checkpoint"), &json!({})).await.map(drop),
        _ => Err(door::no_such_verb()),
    };
    let said = done.map(|()| texts.say(&format!("{verb}-done")).into_owned());
    led(&format!("/reservations/{id}"), said)
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ExtendBy {
    by: String,
}

pub(super) async fn extend(
    State(page): Site,
    reader: Reader,
    Path(id): Path<i64>,
    Form(form): Form<ExtendBy>,
) -> Response {
    let extended = async {
        let minutes: u64 = forms::needed("Minutes", &form.by)?;
        let asked = json!({ "by_s": minutes.saturating_mul(60) });
        reader.ask(&page).post::<ReservationView>(&format!("{}/extend", path(id)), &asked).await?;
        Ok(reader.texts(&page).of("extend-done", show::span(minutes.saturating_mul(60))))
    };
    led(&format!("/reservations/{id}"), extended.await)
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Password {
    password: String,
}

/// Says that one comes, and shows how. A password is in this answer and nowhere else.
pub(super) async fn connect(
    State(page): Site,
    reader: Reader,
    Path(id): Path<i64>,
    Form(form): Form<Password>,
) -> Response {
    let asked = json!({ "password": form.password == "yes" });
    let to: Asked<Connection> = reader.ask(&page).post(&format!("{}/connect", path(id)), &asked).await;
    let commands = to.as_ref().map(commands).unwrap_or_default();
    let way = Way {
        frame: reader.frame(&page, HERE),
        id,
        rdp: to.as_ref().is_ok_and(|to| to.rdp().is_some()),
        // The browser follows it, and it is the configuration's.
        guacamole: to.as_ref().ok().and_then(|to| to.guacamole.as_deref()),
        commands,
        to: to.as_ref().ok(),
        problem: to.as_ref().err().map(|no| no.message.as_str()),
    };
    shown_with(to.as_ref().err().map_or(StatusCode::OK, |no| no.status), &way)
}

/// A command for each method that one is known for.
fn commands(to: &Connection) -> Vec<(&str, String)> {
    let mut commands = Vec::new();
    for way in &to.methods {
        let (account, address, port) = (&to.account, to.address, way.port);
        let command = match way.method.as_str() {
            "ssh" if port == 22 => format!("ssh {account}@{address}"),
            "ssh" => format!("ssh -p {port} {account}@{address}"),
            "vnc" => format!("vncviewer {}", std::net::SocketAddr::new(address, port)),
            _ => continue,
        };
        commands.push((way.method.as_str(), command));
    }
    commands
}

/// A file for a remote desktop. It says nothing that its owner does not know, and has no password in it.
pub(super) async fn rdp(State(page): Site, reader: Reader, Path(id): Path<i64>) -> Response {
    let asked = json!({ "password": false });
    let to: Asked<Connection> = reader.ask(&page).post(&format!("{}/connect", path(id)), &asked).await;
    let to = match to {
        Ok(to) => to,
        Err(no) => return failed(&page, &reader, HERE, &no),
    };
    let Some(text) = to.rdp() else {
        return failed(&page, &reader, HERE, &No::nowhere());
    };
    let mut answer = ([(header::CONTENT_TYPE, "application/x-rdp")], text).into_response();
    if let Ok(name) = HeaderValue::from_str(&format!("attachment; filename=\"reservation-{id}.rdp\"")) {
        answer.headers_mut().insert(header::CONTENT_DISPOSITION, name);
    }
    answer
}
