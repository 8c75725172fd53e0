//! One's reservations, and making one.

use super::ask::{Asked as Answer, Asker, No};
use super::reader::{Form, Query, Reader};
use super::{Page, Site, failed, forms, led, shown, shown_with};
use crate::rights::{Subject, Who};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use vcl_page::jobs::percent;
use vcl_page::reservations::{Asked, Item, Mine, Offer, Reserve, usable};
use vcl_page::{Place, images, show};
use vcl_types::api::{Grabbed, ImageView, JobView, ReservationView};
use vcl_types::lending::{Purpose, ReservationRequest, Wish};
use vcl_types::people::Verb;
use vcl_types::state::reservation::State as Is;

/// How many of those that are over are shown, and among how many of the newest they are looked for.
const PAST: usize = 10;
const LATELY: usize = 40;

/// Where somebody begins: whoever looks after the site at its computers, everybody else at his reservations.
pub(super) async fn home(reader: Reader) -> Response {
    let to = if reader.who.sees_all() { "/wall" } else { "/reservations" };
    Redirect::to(to).into_response()
}

/// The images that somebody may reserve, with a revision that can be loaded.
pub(super) fn reservable<'a>(who: &Who, all: &'a [ImageView]) -> Vec<&'a ImageView> {
    let may = |verb, view: &ImageView| who.can(verb, &Subject::Image(view.name.clone()));
    let can = |view: &&ImageView| may(Verb::Reserve, view) || may(Verb::Imaging, view);
    all.iter().filter(can).filter(|view| !view.revisions.is_empty()).collect()
}

/// The job that works for a reservation, where the reader sees one.
pub(super) async fn job_of(ask: &Asker, view: &ReservationView) -> Option<JobView> {
    let works = matches!(view.state, Is::Loading | Is::Ready | Is::InUse | Is::Ending);
    let id = view.job.filter(|_| works)?;
    ask.get(&format!("/v1/jobs/{id}")).await.ok()
}

pub(super) async fn mine(State(page): Site, reader: Reader) -> Response {
    match mine_or_no(&page, &reader).await {
        Ok(answer) => answer,
        Err(no) => failed(&page, &reader, Place::Reservations, &no),
    }
}

async fn mine_or_no(page: &Page, reader: &Reader) -> Answer<Response> {
    let ask = reader.ask(page);
    let owner = show::segment(&reader.who.name);
    // What goes on is asked for by itself: many that are over do not hide it.
    let of = |what: &str| format!("/v1/reservations?limit=1000&owner={owner}{what}");
    let mut open: Vec<ReservationView> = ask.get(&of("")).await?;
    open.retain(|view| view.purpose != Purpose::Direct && view.state != Is::Ended);
    let mut past: Vec<ReservationView> =
        ask.get(&format!("/v1/reservations?limit={LATELY}&all=true&owner={owner}")).await?;
    past.retain(|view| view.purpose != Purpose::Direct && view.state == Is::Ended);
    let images: Vec<ImageView> = ask.get("/v1/images").await?;
    let mut items = Vec::new();
    for view in &open {
        let job = job_of(&ask, view).await;
        items.push(Item {
            view,
            percent: job.and_then(|job| percent(&job, page.node.clock.now())),
            begins: matches!(view.state, Is::Scheduled | Is::Queued),
            usable: usable(view),
        });
    }
    let mut offers: Vec<&ImageView> = reservable(&reader.who, &images);
    // What one had last stands first.
    let used = |view: &ImageView| {
        past.iter().chain(&open).position(|r| r.image.name == view.name).unwrap_or(usize::MAX)
    };
    offers.sort_by_key(|view| used(view));
    let offers = offers.into_iter().map(|view| Offer {
        name: view.name.as_str(),
        note: images::given(view).and_then(|r| r.manifest.note.as_deref()),
    });
    let view = Mine {
        frame: reader.frame(page, Place::Reservations),
        waits: open.iter().any(|view| view.waiting.is_some()),
        loads: items.iter().any(|item| item.percent.is_some()),
        open: items,
        past: &past[..past.len().min(PAST)],
        offers: offers.collect(),
        length_s: usual_length(page),
    };
    Ok(shown(&view))
}

/// How long a reservation of somebody's is unless it is said otherwise, as far as that does not hang on the image.
fn usual_length(page: &Page) -> u64 {
    page.node.config.lending.of_all().length_s
}

/// The form, empty but for what is asked for.
pub(super) async fn form(State(page): Site, reader: Reader, Query(asked): Query<Asked>) -> Response {
    form_with(&page, &reader, &asked, None, None).await
}

async fn form_with(
    page: &Page,
    reader: &Reader,
    asked: &Asked,
    problem: Option<No>,
    prospect: Option<String>,
) -> Response {
    let all: Vec<ImageView> = match reader.ask(page).get("/v1/images").await {
        Ok(all) => all,
        Err(no) => return failed(page, reader, Place::Reservations, &no),
    };
    let computers: Vec<vcl_types::api::ComputerView> =
        reader.ask(page).get("/v1/computers").await.unwrap_or_default();
    let mut tags: Vec<&str> =
        computers.iter().flat_map(|view| &view.computer.tags).map(String::as_str).collect();
    tags.sort_unstable();
    tags.dedup();
    let images = reservable(&reader.who, &all);
    let imaging = images.iter().any(|view| reader.who.can(Verb::Imaging, &Subject::Image(view.name.clone())));
    let mut purposes = vec![Purpose::Use.as_str()];
    if imaging {
        purposes.push(Purpose::Imaging.as_str());
    }
    let servers = |group: Option<&str>| page.node.config.lending.servers(group);
    let server = servers(None) || reader.who.groups.iter().any(|group| servers(Some(group.as_str())));
    if server || reader.who.can(Verb::Operate, &Subject::Nothing) {
        purposes.push(Purpose::Server.as_str());
    }
    let hours = usual_length(page) as f64 / 3600.0;
    let status = problem.as_ref().map_or(StatusCode::OK, |no| no.status);
    let view = Reserve {
        frame: reader.frame(page, Place::Reservations),
        asked,
        images: images.iter().map(|view| view.name.as_str()).collect(),
        purposes,
        groups: reader.who.groups.iter().map(vcl_types::people::GroupName::as_str).collect(),
        tags,
        usual_hours: format!("{hours}"),
        problem: problem.map(|no| no.message),
        prospect,
    };
    shown_with(status, &view)
}

/// What is wished for, from the form.
fn request(asked: &Asked) -> Answer<ReservationRequest> {
    let keys: Vec<String> = asked.keys.lines().filter_map(forms::some).collect();
    Ok(ReservationRequest {
        image: forms::needed("Image", &asked.image)?,
        wish: Wish {
            computer: forms::read("Computer", &asked.computer)?,
            cpus: forms::read("Processors", &asked.cpus)?,
            memory: forms::read("Memory", &asked.memory)?,
            tags: forms::words(&asked.tags),
            ..Wish::default()
        },
        purpose: forms::read("Purpose", &asked.purpose)?.unwrap_or(Purpose::Use),
        start: forms::moment("Begin", &asked.start, &asked.zone)?,
        length_s: forms::hours("Hours", &asked.hours)?,
        owner: None,
        group: forms::some(&asked.group),
        from: None,
        with: forms::words(&asked.with),
        keys,
        sudo: asked.sudo.is_some(),
        user_data: None,
        configure: None,
        dry_run: asked.r#do == "try",
    })
}

pub(super) async fn reserve(State(page): Site, reader: Reader, Form(asked): Form<Asked>) -> Response {
    let made = async {
        let request = request(&asked)?;
        reader.ask(&page).post::<Grabbed>("/v1/reservations", &request).await
    };
    match made.await {
        Ok(grabbed) => match &grabbed.reservation {
            Some(view) => led(&format!("/reservations/{}", view.id), Ok(String::new())),
            None => {
                let prospect = prospect(&page, &reader, &grabbed);
                form_with(&page, &reader, &asked, None, Some(prospect)).await
            }
        },
        Err(no) => form_with(&page, &reader, &asked, Some(no), None).await,
    }
}

/// What would come of a wish, in a sentence.
fn prospect(page: &Page, reader: &Reader, grabbed: &Grabbed) -> String {
    let texts = reader.texts(page);
    match (&grabbed.choice, &grabbed.waiting) {
        (Some(choice), _) => {
            let key = if choice.warm { "reserve-would-warm" } else { "reserve-would" };
            texts.with(key, &[("computer", &choice.computer), ("because", &choice.because)])
        }
        (None, Some(waiting)) => texts.with(
            "reserve-would-wait",
            &[("position", &waiting.position), ("wait", &show::wait(texts, waiting.p10_s, waiting.p90_s))],
        ),
        (None, None) => texts.say("reserve-would-later").into_owned(),
    }
}
