//! What those who look after the site look at.

use super::ask::{Asked, No};
use super::reader::{Form, Path, Query, Reader};
use super::{Page, Site, door, failed, forms, led, shown, shown_with};
use crate::rights::Subject;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;
use vcl_page::confirm::{Confirm, Field};
use vcl_page::operations::{Audit, Maintenance, Operations, OrphansFound, WindowAsked, tabs};
use vcl_page::{Place, show};
use vcl_types::api::{
    AuditView, BackendView, Finding, LeaseView, OrphanRequest, OrphanWish, Orphans, Plan, Status,
};
use vcl_types::lending::{HostView, MaintenanceRequest, MaintenanceView};
use vcl_types::people::Verb;

const HERE: Place = Place::Operations;
/// How many deeds are shown at once.
const DEEDS: u32 = 100;

pub(super) async fn operations(State(page): Site, reader: Reader) -> Response {
    match operations_or_no(&page, &reader).await {
        Ok(answer) => answer,
        Err(no) => failed(&page, &reader, HERE, &no),
    }
}

async fn operations_or_no(page: &Page, reader: &Reader) -> Asked<Response> {
    let ask = reader.ask(page);
    let status: Status = ask.get("/v1/status").await?;
    let (findings, backends, hosts, leases) = tokio::join!(
        ask.get::<Vec<Finding>>("/v1/doctor"),
        ask.get::<Vec<BackendView>>("/v1/backends"),
        ask.get::<Vec<HostView>>("/v1/hosts"),
        ask.get::<Vec<LeaseView>>("/v1/leases"),
    );
    let (findings, backends, hosts, leases) = (findings?, backends?, hosts?, leases?);
    let frame = reader.frame(page, HERE);
    Ok(shown(&Operations::new(frame, &status, &findings, &backends, &hosts, &leases)))
}

/// A preview that says in words what a verb does.
#[expect(clippy::too_many_arguments, reason = "each is a part of the one view")]
fn words(
    page: &Page,
    reader: &Reader,
    title: String,
    says: &str,
    word: &str,
    field: Option<Field>,
    action: String,
    back: &str,
) -> Response {
    let texts = reader.texts(page);
    shown(&Confirm {
        frame: reader.frame(page, HERE),
        title,
        lines: vec![texts.say(says).into_owned()],
        hindrance: None,
        steps: Vec::new(),
        usual: None,
        action,
        hidden: Vec::new(),
        options: Vec::new(),
        field,
        button: texts.word("verb", word).into_owned(),
        danger: false,
        back: back.to_owned(),
    })
}

pub(super) async fn preview_host(
    State(page): Site,
    reader: Reader,
    Path((name, verb)): Path<(String, String)>,
) -> Response {
    let texts = reader.texts(&page);
    let action = format!("/operations/hosts/{}/{verb}", show::segment(&name));
    let title = texts.of(&format!("{verb}-title"), &name);
    let field = (verb == "drain").then(|| Field {
        name: "reason",
        label: texts.say("col-why").into_owned(),
        value: String::new(),
    });
    if let Err(no) = reader.who.may(Verb::Operate, &Subject::Nothing) {
        return failed(&page, &reader, HERE, &No::new(StatusCode::FORBIDDEN, "forbidden", no.message));
    }
    match verb.as_str() {
        "drain" | "undrain" => {
            words(&page, &reader, title, &format!("{verb}-says"), &verb, field, action, "/operations")
        }
        _ => failed(&page, &reader, HERE, &door::no_such_verb()),
    }
}

pub(super) async fn act_host(
    State(page): Site,
    reader: Reader,
    Path((name, verb)): Path<(String, String)>,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let at = format!("/v1/hosts/{}/{}", show::segment(&name), show::segment(&verb));
    let done = match verb.as_str() {
        "drain" => {
            let asked = json!({ "reason": form.get("reason").and_then(|reason| forms::some(reason)) });
            reader.ask(&page).post::<HostView>(&at, &asked).await
        }
        "undrain" => reader.ask(&page).post::<HostView>(&at, &json!({})).await,
        _ => Err(door::no_such_verb()),
    };
    let said = done.map(|_| reader.texts(&page).of(&format!("{verb}-done"), &name));
    led("/operations", said)
}

pub(super) async fn orphans(State(page): Site, reader: Reader) -> Response {
    let found: Asked<Orphans> = reader.ask(&page).get("/v1/orphans?all=true").await;
    match found {
        Ok(found) => {
            let frame = reader.frame(&page, HERE);
            shown(&OrphansFound { tabs: tabs(&frame), frame, found: &found })
        }
        Err(no) => failed(&page, &reader, HERE, &no),
    }
}

fn wish(word: &str, reason: &str) -> Asked<OrphanWish> {
    Ok(match word {
        "adopt" => OrphanWish::Adopt,
        "delete" => OrphanWish::Delete,
        "ignore" => OrphanWish::Ignore { reason: reason.to_owned() },
        _ => return Err(door::no_such_verb()),
    })
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct OrphanAsked {
    id: String,
    reason: String,
}

pub(super) async fn preview_orphan(
    State(page): Site,
    reader: Reader,
    Path(word): Path<String>,
    Query(asked): Query<OrphanAsked>,
) -> Response {
    let texts = reader.texts(&page);
    let plan = async {
        let wish = wish(&word, "…")?;
        let asked = OrphanRequest { id: asked.id.clone(), wish, dry_run: true };
        reader.ask(&page).post::<Plan>("/v1/orphans", &asked).await
    };
    match plan.await {
        Ok(plan) => shown(&Confirm {
            frame: reader.frame(&page, HERE),
            title: texts.with("orphan-title", &[("verb", &texts.word("verb", &word)), ("name", &asked.id)]),
            lines: vec![plan.title, texts.say(&format!("orphan-{word}-says")).into_owned()],
            hindrance: plan.hindrance,
            steps: plan.steps,
            usual: None,
            action: format!("/operations/orphans/{word}"),
            hidden: vec![("id", asked.id)],
            options: Vec::new(),
            field: (word == "ignore").then(|| Field {
                name: "reason",
                label: texts.say("col-why").into_owned(),
                value: String::new(),
            }),
            button: texts.word("verb", &word).into_owned(),
            danger: word == "delete",
            back: "/operations/orphans".into(),
        }),
        Err(no) => failed(&page, &reader, HERE, &no),
    }
}

pub(super) async fn act_orphan(
    State(page): Site,
    reader: Reader,
    Path(word): Path<String>,
    Form(form): Form<OrphanAsked>,
) -> Response {
    let done = async {
        let wish = wish(&word, &form.reason)?;
        let asked = OrphanRequest { id: form.id.clone(), wish, dry_run: false };
        let plan: Plan = reader.ask(&page).post("/v1/orphans", &asked).await?;
        Ok(plan.title)
    };
    led("/operations/orphans", done.await)
}

pub(super) async fn maintenance(State(page): Site, reader: Reader) -> Response {
    maintenance_with(&page, &reader, &WindowAsked::default(), None).await
}

async fn maintenance_with(page: &Page, reader: &Reader, asked: &WindowAsked, no: Option<No>) -> Response {
    let windows: Vec<MaintenanceView> = match reader.ask(page).get("/v1/maintenance").await {
        Ok(windows) => windows,
        Err(no) => return failed(page, reader, HERE, &no),
    };
    let frame = reader.frame(page, HERE);
    let status = no.as_ref().map_or(StatusCode::OK, |no| no.status);
    let view =
        Maintenance { tabs: tabs(&frame), frame, windows: &windows, asked, problem: no.map(|no| no.message) };
    shown_with(status, &view)
}

pub(super) async fn add_window(
    State(page): Site,
    reader: Reader,
    Form(asked): Form<WindowAsked>,
) -> Response {
    let added = async {
        let mut computers = Vec::new();
        for name in forms::words(&asked.computers) {
            computers.push(forms::needed("Computers", &name)?);
        }
        let request = MaintenanceRequest {
            computers,
            tags: forms::words(&asked.tags),
            start: forms::moment("Begin", &asked.start, &asked.zone)?,
            end: forms::moment("End", &asked.end, &asked.zone)?,
            reason: asked.reason.clone(),
        };
        reader.ask(&page).post::<MaintenanceView>("/v1/maintenance", &request).await
    };
    match added.await {
        Ok(_) => {
            let said = reader.texts(&page).say("maintenance-added").into_owned();
            led("/operations/maintenance", Ok(said))
        }
        Err(no) => maintenance_with(&page, &reader, &asked, Some(no)).await,
    }
}

pub(super) async fn preview_window(State(page): Site, reader: Reader, Path(id): Path<i64>) -> Response {
    let title = reader.texts(&page).of("end-window-title", id);
    let action = format!("/operations/maintenance/{id}/end");
    words(&page, &reader, title, "end-window-says", "end-window", None, action, "/operations/maintenance")
}

pub(super) async fn end_window(State(page): Site, reader: Reader, Path(id): Path<i64>) -> Response {
    let done = reader.ask(&page).done(Method::DELETE, &format!("/v1/maintenance/{id}"), None::<&()>).await;
    let said = done.map(|()| reader.texts(&page).say("end-window-done").into_owned());
    led("/operations/maintenance", said)
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct AuditAsked {
    who: String,
    subject: String,
    before: String,
}

pub(super) async fn audit(State(page): Site, reader: Reader, Query(asked): Query<AuditAsked>) -> Response {
    let mut query = String::new();
    for (name, value) in [("who", &asked.who), ("subject", &asked.subject)] {
        if let Some(value) = forms::some(value) {
            query.push_str(&format!("&{name}={}", show::segment(value)));
        }
    }
    let before = asked.before.parse::<i64>().map(|n| format!("&before={n}")).unwrap_or_default();
    let rows: Asked<Vec<AuditView>> =
        reader.ask(&page).get(&format!("/v1/audit?limit={DEEDS}{query}{before}")).await;
    let rows = match rows {
        Ok(rows) => rows,
        Err(no) => return failed(&page, &reader, HERE, &no),
    };
    let full = rows.len() >= DEEDS as usize;
    let older =
        rows.last().filter(|_| full).map(|last| format!("/operations/audit?before={}{query}", last.id));
    let frame = reader.frame(&page, HERE);
    shown(&Audit { tabs: tabs(&frame), frame, rows: &rows, who: &asked.who, subject: &asked.subject, older })
}
