//! The wall of all computers, and one of them: its console, its power, what is loaded on it.

use super::ask::{Asked, Asker, No};
use super::reader::{Form, Path, Query, Reader};
use super::{Page, Site, door, failed, forms, led, shown};
use crate::rights::{Subject, Tagged};
use axum::extract::State;
use axum::http::Method;
use axum::response::Response;
use serde_json::json;
use std::collections::HashMap;
use vcl_page::computers::{Computer, Said, Wall, WallAsked};
use vcl_page::confirm::{Confirm, Field};
use vcl_page::{Place, Verb, show};
use vcl_types::api::{
    Action, ComputerView, Console, Plan, PowerAction, PowerState, ReservationView, Submitted, Why,
};
use vcl_types::people;
use vcl_types::state::computer::State as Is;
use vcl_types::{After, CaptureInto, ComputerName, JobRequest};

const HERE: Place = Place::Wall;

pub(super) async fn wall(State(page): Site, reader: Reader, Query(asked): Query<WallAsked>) -> Response {
    let ask = reader.ask(&page);
    let (computers, reservations): (Asked<Vec<ComputerView>>, _) =
        tokio::join!(ask.get("/v1/computers"), ask.open_reservations());
    match (computers, reservations) {
        (Ok(computers), Ok(reservations)) => {
            let frame = reader.frame(&page, HERE);
            shown(&Wall::new(frame, &asked, &computers, &reservations))
        }
        (Err(no), _) | (_, Err(no)) => failed(&page, &reader, HERE, &no),
    }
}

fn path(name: &str) -> String {
    format!("/v1/computers/{}", show::segment(name))
}

pub(super) async fn computer(State(page): Site, reader: Reader, Path(name): Path<String>) -> Response {
    match computer_or_no(&page, &reader, &name).await {
        Ok(answer) => answer,
        Err(no) => failed(&page, &reader, HERE, &no),
    }
}

async fn computer_or_no(page: &Page, reader: &Reader, name: &str) -> Asked<Response> {
    let ask = reader.ask(page);
    let view: ComputerView = ask.get(&path(name)).await?;
    let why = ask.get::<Why>(&format!("{}/why", path(name))).await.ok();
    let owner = match view.reservation {
        Some(id) => ask.get::<ReservationView>(&format!("/v1/reservations/{id}")).await.ok().map(|r| r.owner),
        None => None,
    };
    let operates = reader.who.can(people::Verb::Operate, &Subject::Computer(Tagged::from(&view.computer)));
    let captures = view.loaded.as_ref().is_some_and(|loaded| {
        let both = Subject::Both(Tagged::from(&view.computer), loaded.image.name.clone());
        reader.who.can(people::Verb::Imaging, &both)
    });
    let view = Computer {
        frame: reader.frame(page, HERE),
        owner,
        why: why.as_ref(),
        verbs: if operates { verbs(&view, captures) } else { Vec::new() },
        console: operates && view.loaded.is_some(),
        view: &view,
    };
    Ok(shown(&view))
}

/// What can be done to it now.
fn verbs(view: &ComputerView, captures: bool) -> Vec<Verb> {
    let mut verbs = Vec::new();
    if view.job.is_some() {
        return verbs;
    }
    if matches!(view.state, Is::Available) {
        verbs.push(Verb::plain("load"));
    }
    if view.loaded.is_some() {
        if captures {
            verbs.push(Verb::plain("capture"));
        }
        match view.power {
            Some(PowerState::Off) => verbs.push(Verb::plain("power-on")),
            Some(PowerState::On | PowerState::Paused) => {
                verbs.extend([Verb::danger("power-off"), Verb::danger("reset")]);
            }
            _ => {}
        }
        verbs.push(Verb::danger("unload"));
    }
    verbs
}

fn power(verb: &str) -> Option<PowerAction> {
    match verb {
        "power-on" => Some(PowerAction::On),
        "power-off" => Some(PowerAction::Off),
        "force-off" => Some(PowerAction::ForceOff),
        "reset" => Some(PowerAction::Reset),
        _ => None,
    }
}

/// The job that a verb asks for.
fn request(name: &str, verb: &str, form: &HashMap<String, String>) -> Asked<JobRequest> {
    let computer: ComputerName = forms::needed("Computer", name)?;
    let said = |field: &str| form.get(field).map(String::as_str).unwrap_or_default();
    Ok(match verb {
        "load" => JobRequest::Load { computer, image: forms::needed("Image", said("image"))? },
        "unload" => JobRequest::Unload { computer },
        "capture" => JobRequest::Capture {
            computer,
            into: CaptureInto::Next,
            after: After::Resume,
            power_on: true,
            note: forms::some(said("note")),
            whole: false,
        },
        _ => return Err(door::no_such_verb()),
    })
}

pub(super) async fn preview(
    State(page): Site,
    reader: Reader,
    Path((name, verb)): Path<(String, String)>,
) -> Response {
    match preview_or_no(&page, &reader, &name, &verb).await {
        Ok(answer) => answer,
        Err(no) => failed(&page, &reader, HERE, &no),
    }
}

async fn preview_or_no(page: &Page, reader: &Reader, name: &str, verb: &str) -> Asked<Response> {
    let ask = reader.ask(page);
    let texts = reader.texts(page);
    let plan = plan(&ask, name, verb).await?;
    let field = match verb {
        "load" => {
            Some(Field { name: "image", label: texts.say("col-image").into_owned(), value: String::new() })
        }
        "capture" => {
            Some(Field { name: "note", label: texts.say("col-note").into_owned(), value: String::new() })
        }
        _ => None,
    };
    let title = match &plan {
        Some(plan) => plan.title.clone(),
        None => texts.with("computer-verb", &[("verb", &texts.word("verb", verb)), ("name", &name)]),
    };
    let (steps, usual, hindrance) =
        plan.map(|plan| (plan.steps, plan.usual, plan.hindrance)).unwrap_or_default();
    let usual = usual.map(|usual| {
        texts.with("confirm-usual", &[("p50", &show::took(usual.p50_ms)), ("p95", &show::took(usual.p95_ms))])
    });
    let danger = matches!(verb, "unload" | "power-off" | "force-off" | "reset");
    let view = Confirm {
        frame: reader.frame(page, HERE),
        title,
        lines: vec![texts.say(&format!("{verb}-says")).into_owned()],
        hindrance,
        steps,
        usual,
        action: format!("/computers/{}/{verb}", show::segment(name)),
        hidden: Vec::new(),
        options: Vec::new(),
        field,
        button: texts.word("verb", verb).into_owned(),
        danger,
        back: format!("/computers/{}", show::segment(name)),
    };
    Ok(shown(&view))
}

/// What the verb would do, where that can be said before more is known.
async fn plan(ask: &Asker, name: &str, verb: &str) -> Asked<Option<Plan>> {
    if let Some(power) = power(verb) {
        let computer: ComputerName = forms::needed("Computer", name)?;
        return ask.post("/v1/plan/action", &Action::Power { computer, power }).await.map(Some);
    }
    if verb == "load" {
        return Ok(None);
    }
    ask.post("/v1/plan", &request(name, verb, &HashMap::new())?).await.map(Some)
}

pub(super) async fn act(
    State(page): Site,
    reader: Reader,
    Path((name, verb)): Path<(String, String)>,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let ask = reader.ask(&page);
    let back = format!("/computers/{}", show::segment(&name));
    if let Some(action) = power(&verb) {
        let done: Asked<ComputerView> =
            ask.post(&format!("{}/power", path(&name)), &json!({ "action": action })).await;
        let said = done.map(|_| reader.texts(&page).say("power-done").into_owned());
        return led(&back, said);
    }
    let asked = async {
        let request = request(&name, &verb, &form)?;
        ask.post::<Submitted>("/v1/jobs", &request).await
    };
    match asked.await {
        Ok(submitted) => led(&format!("/jobs/{}", submitted.job), Ok(String::new())),
        Err(no) => led(&back, Err(no)),
    }
}

pub(super) async fn console(State(page): Site, reader: Reader, Path(name): Path<String>) -> Response {
    let console: Asked<Console> = reader.ask(&page).get(&format!("{}/console?lines=500", path(&name))).await;
    match console {
        Ok(console) => shown(&Said {
            frame: reader.frame(&page, HERE),
            what: reader.texts(&page).say("computer-console").into_owned(),
            text: &console.text,
            back: format!("/computers/{}", show::segment(&name)),
            name: &name,
        }),
        Err(no) => failed(&page, &reader, HERE, &no),
    }
}

/// The picture itself, as the API has it.
pub(super) async fn screenshot(State(page): Site, reader: Reader, Path(name): Path<String>) -> Response {
    let answer = reader.ask(&page).raw(Method::GET, &format!("{}/screenshot", path(&name)), None).await;
    if answer.status().is_success() {
        return answer;
    }
    failed(&page, &reader, HERE, &No::of(answer).await)
}
