//! Classes: seats for many, every week.

use super::ask::{Asked, No};
use super::reader::{Form, Path, Query, Reader};
use super::{Page, Site, door, failed, forms, led, shown, shown_with};
use crate::rights::Subject;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::json;
use std::collections::HashMap;
use vcl_page::classes::{Class, ClassAsked, Classes};
use vcl_page::confirm::Confirm;
use vcl_page::{Place, show};
use vcl_types::api::ImageView;
use vcl_types::lending::{ClassRequest, ClassView, Wish};
use vcl_types::people::Verb;

const HERE: Place = Place::Classes;

pub(super) async fn classes(State(page): Site, reader: Reader) -> Response {
    let asked = ClassAsked::default();
    classes_with(&page, &reader, &asked, None).await
}

async fn classes_with(page: &Page, reader: &Reader, asked: &ClassAsked, no: Option<No>) -> Response {
    let ask = reader.ask(page);
    let classes: Vec<ClassView> = match ask.get("/v1/classes").await {
        Ok(classes) => classes,
        Err(no) => return failed(page, reader, HERE, &no),
    };
    let images: Vec<ImageView> = ask.get("/v1/images").await.unwrap_or_default();
    let can = |view: &&ImageView| reader.who.can(Verb::Classes, &Subject::Image(view.name.clone()));
    let status = no.as_ref().map_or(StatusCode::OK, |no| no.status);
    let view = Classes {
        frame: reader.frame(page, HERE),
        classes: &classes,
        images: images.iter().filter(can).map(|view| view.name.as_str()).collect(),
        asked,
        problem: no.map(|no| no.message),
    };
    shown_with(status, &view)
}

fn path(name: &str) -> String {
    format!("/v1/classes/{}", show::segment(name))
}

pub(super) async fn add(State(page): Site, reader: Reader, Form(asked): Form<ClassAsked>) -> Response {
    let added = async {
        let request = ClassRequest {
            name: forms::needed("Name", &asked.name)?,
            image: forms::needed("Image", &asked.image)?,
            seats: forms::needed("Seats", &asked.seats)?,
            weekly: forms::needed("Weekly", &asked.weekly)?,
            wish: Wish { tags: forms::words(&asked.tags), ..Wish::default() },
            group: forms::some(&asked.group),
            from: None,
            until: forms::end_of_day("Until", &asked.until, page.node.config.lending.timezone)?,
            owner: None,
        };
        let ask = reader.ask(&page);
        // Of one that is there this would make another, and it would not be seen that it did.
        if ask.get::<ClassView>(&path(request.name.trim())).await.is_ok() {
            return Err(No::invalid(reader.texts(&page).of("class-is-there", request.name.trim())));
        }
        ask.post::<ClassView>("/v1/classes", &request).await
    };
    match added.await {
        Ok(class) => {
            let said = reader.texts(&page).of("class-added", &class.name);
            led(&format!("/classes/{}", show::segment(&class.name)), Ok(said))
        }
        Err(no) => classes_with(&page, &reader, &asked, Some(no)).await,
    }
}

pub(super) async fn class(State(page): Site, reader: Reader, Path(name): Path<String>) -> Response {
    let ask = reader.ask(&page);
    let found = async {
        let class: ClassView = ask.get(&path(&name)).await?;
        let open = ask.open_reservations().await?;
        Ok::<_, No>((class, open))
    };
    match found.await {
        Ok((class, open)) => {
            let changes = class.owner == reader.who.name || reader.who.can(Verb::Classes, &Subject::Nothing);
            shown(&Class::new(reader.frame(&page, HERE), &class, &open, changes))
        }
        Err(no) => failed(&page, &reader, HERE, &no),
    }
}

pub(super) async fn preview(
    State(page): Site,
    reader: Reader,
    Path((name, verb)): Path<(String, String)>,
    Query(asked): Query<HashMap<String, String>>,
) -> Response {
    let texts = reader.texts(&page);
    let start = asked.get("start").cloned().unwrap_or_default();
    // Which of its times it is, on the clock that its times are said by.
    let zone = page.node.config.lending.timezone;
    let when = chrono::DateTime::parse_from_rfc3339(&start).ok().filter(|_| verb == "call-off");
    let when = when.map(|at| at.with_timezone(&zone).format("%a %Y-%m-%d %H:%M %Z").to_string());
    let (key, word, hidden) = match verb.as_str() {
        "delete" => ("class-end-title", "end-class", Vec::new()),
        "call-off" => ("class-call-off-title", "call-off", vec![("start", start)]),
        _ => return failed(&page, &reader, HERE, &door::no_such_verb()),
    };
    let class: Asked<ClassView> = reader.ask(&page).get(&path(&name)).await;
    if let Err(no) = class {
        return failed(&page, &reader, HERE, &no);
    }
    shown(&Confirm {
        frame: reader.frame(&page, HERE),
        title: texts.of(key, &name),
        lines: when.into_iter().chain([texts.say(&format!("{word}-says")).into_owned()]).collect(),
        hindrance: None,
        steps: Vec::new(),
        usual: None,
        action: format!("/classes/{}/{verb}", show::segment(&name)),
        hidden,
        options: Vec::new(),
        field: None,
        button: texts.word("verb", word).into_owned(),
        danger: true,
        back: format!("/classes/{}", show::segment(&name)),
    })
}

pub(super) async fn act(
    State(page): Site,
    reader: Reader,
    Path((name, verb)): Path<(String, String)>,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let (ask, texts) = (reader.ask(&page), reader.texts(&page));
    match verb.as_str() {
        "delete" => {
            let done = ask.done(Method::DELETE, &path(&name), None::<&()>).await;
            match done {
                Ok(()) => led("/classes", Ok(texts.of("class-ended", &name))),
                Err(no) => led(&format!("/classes/{}", show::segment(&name)), Err(no)),
            }
        }
        "call-off" => {
            let asked = json!({ "start": form.get("start") });
            let done: Asked<ClassView> = ask.post(&format!("{}/call-off", path(&name)), &asked).await;
            let said = done.map(|_| texts.say("class-called-off").into_owned());
            led(&format!("/classes/{}", show::segment(&name)), said)
        }
        _ => failed(&page, &reader, HERE, &door::no_such_verb()),
    }
}
