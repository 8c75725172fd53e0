//! Images: what there is, what can be done to a revision, and new ones.

use super::ask::{Asked, Asker, No};
use super::reader::{Form, Path, Query, Reader};
use super::{Page, Site, door, failed, forms, led, shown, shown_with};
use crate::rights::Subject;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;
use vcl_page::confirm::{Choice, Confirm};
use vcl_page::images::{Image, Images, NewAsked, NewImage};
use vcl_page::{Place, show};
use vcl_types::api::{
    BackendView, ImageView, Plan, RevisionView, Submitted, TrashView, VmPreview, VmView, WhyKept,
};
use vcl_types::people::Verb;
use vcl_types::{ImageName, ImageRef, JobRequest, OsName};

const HERE: Place = Place::Images;

pub(super) async fn images(State(page): Site, reader: Reader) -> Response {
    let ask = reader.ask(&page);
    let (images, trash): (Asked<Vec<ImageView>>, Asked<Vec<TrashView>>) =
        tokio::join!(ask.get("/v1/images"), ask.get("/v1/trash"));
    match images {
        Ok(images) => {
            // A library that does not answer is seen under operations.
            let trash = trash.unwrap_or_default();
            shown(&Images::new(reader.frame(&page, HERE), &images, &trash))
        }
        Err(no) => failed(&page, &reader, HERE, &no),
    }
}

pub(super) async fn image(State(page): Site, reader: Reader, Path(name): Path<String>) -> Response {
    let view: Asked<ImageView> = reader.ask(&page).get(&format!("/v1/images/{}", show::segment(&name))).await;
    match view {
        Ok(view) => {
            let on = |verb| reader.who.can(verb, &Subject::Image(view.name.clone()));
            let (reserves, changes) = (on(Verb::Reserve) || on(Verb::Imaging), on(Verb::Images));
            shown(&Image::new(reader.frame(&page, HERE), &view, reserves, changes))
        }
        Err(no) => failed(&page, &reader, HERE, &no),
    }
}

/// The job that a verb asks for; promoting is none.
fn request(image: &ImageRef, verb: &str, form: &HashMap<String, String>) -> Asked<Option<JobRequest>> {
    let on = |name: &str| form.get(name).is_some_and(|value| value == "true");
    let image = image.clone();
    Ok(Some(match verb {
        "promote" => return Ok(None),
        "test" => JobRequest::TestImage { image, wait: on("wait") },
        "verify" => JobRequest::Verify { image },
        "delete" => JobRequest::DeleteImage { image, now: on("now") },
        "undelete" => JobRequest::Undelete { image },
        _ => return Err(door::no_such_verb()),
    }))
}

pub(super) async fn preview(
    State(page): Site,
    reader: Reader,
    Path((name, revision, verb)): Path<(String, u32, String)>,
) -> Response {
    match preview_or_no(&page, &reader, (&name, revision), &verb).await {
        Ok(answer) => answer,
        Err(no) => failed(&page, &reader, HERE, &no),
    }
}

fn image_ref(name: &str, revision: u32) -> Asked<ImageRef> {
    let name: ImageName = forms::needed("Image", name)?;
    Ok(ImageRef::new(name, revision))
}

async fn preview_or_no(
    page: &Page,
    reader: &Reader,
    (name, revision): (&str, u32),
    verb: &str,
) -> Asked<Response> {
    let image = image_ref(name, revision)?;
    let (ask, texts) = (reader.ask(page), reader.texts(page));
    let mut lines = vec![texts.say(&format!("{verb}-says")).into_owned()];
    let (mut steps, mut hindrance, mut usual, mut options) = (Vec::new(), None, None, Vec::new());
    let mut title = texts.of("promote-title", &image);
    match request(&image, verb, &HashMap::new())? {
        Some(request) => {
            let plan: Plan = ask.post("/v1/plan", &request).await?;
            (title, steps, hindrance) = (plan.title, plan.steps, plan.hindrance);
            usual = plan.usual.map(|usual| {
                texts.with(
                    "confirm-usual",
                    &[("p50", &show::took(usual.p50_ms)), ("p95", &show::took(usual.p95_ms))],
                )
            });
        }
        None => {
            let view: ImageView = ask.get(&format!("/v1/images/{name}")).await?;
            let tested = view.revisions.iter().find(|r| r.manifest.revision == revision);
            match tested.and_then(|r| r.tested.as_ref()).map(|test| test.passed) {
                Some(true) => {}
                Some(false) => hindrance = Some(texts.say("promote-failed").into_owned()),
                None => lines.push(texts.say("promote-untested").into_owned()),
            }
            if reader.who.can(Verb::Administer, &Subject::Nothing) {
                options.push(Choice {
                    name: "force",
                    label: texts.say("promote-force").into_owned(),
                    on: false,
                });
            }
        }
    }
    if verb == "delete" {
        let why: WhyKept = ask.get(&format!("/v1/images/{name}/{revision}/why")).await?;
        hindrance = hindrance.or_else(|| (!why.reasons.is_empty()).then(|| why.reasons.join("; ")));
        options.push(Choice { name: "now", label: texts.say("delete-now").into_owned(), on: false });
    }
    if verb == "test" {
        options.push(Choice { name: "wait", label: texts.say("test-wait").into_owned(), on: true });
    }
    let view = Confirm {
        frame: reader.frame(page, HERE),
        title,
        lines,
        hindrance,
        steps,
        usual,
        action: format!("/images/{name}/{revision}/{verb}"),
        hidden: Vec::new(),
        options,
        field: None,
        button: texts.word("verb", verb).into_owned(),
        danger: verb == "delete",
        back: format!("/images/{name}"),
    };
    Ok(shown(&view))
}

/// A job that was asked for, or why it is not: on to it, or back.
async fn submit(ask: &Asker, request: Asked<JobRequest>, back: &str) -> Response {
    let submitted = match request {
        Ok(request) => ask.post::<Submitted>("/v1/jobs", &request).await,
        Err(no) => Err(no),
    };
    match submitted {
        Ok(submitted) => led(&format!("/jobs/{}", submitted.job), Ok(String::new())),
        Err(no) => led(back, Err(no)),
    }
}

pub(super) async fn act(
    State(page): Site,
    reader: Reader,
    Path((name, revision, verb)): Path<(String, u32, String)>,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let ask = reader.ask(&page);
    let back = format!("/images/{}", show::segment(&name));
    let request = image_ref(&name, revision).and_then(|image| request(&image, &verb, &form));
    match request {
        Ok(Some(request)) => submit(&ask, Ok(request), &back).await,
        Ok(None) => {
            let force = form.get("force").map(|_| "?force=true").unwrap_or_default();
            let path = format!("/v1/images/{name}/{revision}/promote{force}");
            let done: Asked<RevisionView> = ask.post(&path, &json!({})).await;
            led(&back, done.map(|_| reader.texts(&page).of("promote-done", format!("{name}@{revision}"))))
        }
        Err(no) => led(&back, Err(no)),
    }
}

/// How many of the newest revisions are kept unless it is said otherwise.
const KEPT: u32 = 2;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct PruneAsked {
    keep: String,
}

fn prune_request(name: &str, keep: Option<u32>) -> Asked<JobRequest> {
    let image = forms::needed("Image", name)?;
    Ok(JobRequest::Prune { image, keep, older_than_s: None, owner: None, now: false })
}

/// What of an image is no longer needed.
pub(super) async fn preview_prune(
    State(page): Site,
    reader: Reader,
    Path(name): Path<String>,
    Query(asked): Query<PruneAsked>,
) -> Response {
    let texts = reader.texts(&page);
    let plan = async {
        let keep = forms::read("Keep", &asked.keep)?.unwrap_or(KEPT);
        let request = prune_request(&name, Some(keep))?;
        Ok((keep, reader.ask(&page).post::<Plan>("/v1/plan", &request).await?))
    };
    match plan.await {
        Ok((keep, plan)) => shown(&Confirm {
            frame: reader.frame(&page, HERE),
            title: plan.title,
            lines: vec![texts.say("prune-says").into_owned(), texts.count("prune-keeps", keep)],
            hindrance: plan.hindrance,
            steps: plan.steps,
            usual: None,
            action: format!("/images/{}/prune", show::segment(&name)),
            hidden: vec![("keep", keep.to_string())],
            options: Vec::new(),
            field: None,
            button: texts.say("verb-prune").into_owned(),
            danger: true,
            back: format!("/images/{}", show::segment(&name)),
        }),
        Err(no) => failed(&page, &reader, HERE, &no),
    }
}

pub(super) async fn prune(
    State(page): Site,
    reader: Reader,
    Path(name): Path<String>,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let keep = forms::needed("Keep", form.get("keep").map(String::as_str).unwrap_or_default());
    let request = keep.and_then(|keep| prune_request(&name, Some(keep)));
    submit(&reader.ask(&page), request, &format!("/images/{}", show::segment(&name))).await
}

pub(super) async fn form(State(page): Site, reader: Reader, Query(asked): Query<NewAsked>) -> Response {
    form_with(&page, &reader, &asked, None).await
}

async fn form_with(page: &Page, reader: &Reader, asked: &NewAsked, no: Option<No>) -> Response {
    let ask = reader.ask(page);
    // Whoever may not see backends imports.
    let makes = reader.who.can(Verb::Administer, &Subject::Nothing);
    let backends: Vec<BackendView> =
        if makes { ask.get("/v1/backends").await.unwrap_or_default() } else { Vec::new() };
    let mut no = no;
    let backend = show::segment(&asked.backend);
    let vms: Option<Vec<VmView>> = match asked.backend.is_empty() {
        true => None,
        false => match ask.get(&format!("/v1/backends/{backend}/vms")).await {
            Ok(vms) => Some(vms),
            Err(error) => {
                no = no.or(Some(error));
                None
            }
        },
    };
    let preview: Option<VmPreview> = match asked.r#do == "look" && !asked.vm.is_empty() {
        true => {
            match ask.get(&format!("/v1/backends/{backend}/vms/{}/preview", show::segment(&asked.vm))).await {
                Ok(preview) => Some(preview),
                Err(error) => {
                    no = no.or(Some(error));
                    None
                }
            }
        }
        false => None,
    };
    let status = no.as_ref().map_or(StatusCode::OK, |no| no.status);
    let view = NewImage {
        frame: reader.frame(page, HERE),
        asked,
        backends: backends.iter().map(|view| view.name.as_str()).collect(),
        vms: vms.as_ref().map(|vms| vms.iter().collect()),
        preview: preview.as_ref(),
        problem: no.map(|no| no.message),
    };
    shown_with(status, &view)
}

async fn make(page: &Page, reader: &Reader, asked: &NewAsked, request: Asked<JobRequest>) -> Response {
    let submitted = match request {
        Ok(request) => reader.ask(page).post::<Submitted>("/v1/jobs", &request).await,
        Err(no) => Err(no),
    };
    match submitted {
        Ok(submitted) => led(&format!("/jobs/{}", submitted.job), Ok(String::new())),
        Err(no) => form_with(page, reader, asked, Some(no)).await,
    }
}

pub(super) async fn from_vm(State(page): Site, reader: Reader, Form(asked): Form<NewAsked>) -> Response {
    if asked.r#do == "look" {
        return form_with(&page, &reader, &asked, None).await;
    }
    let request = || {
        Ok(JobRequest::CreateFromVm {
            image: forms::needed("Image", &asked.image)?,
            backend: forms::needed("Backend", &asked.backend)?,
            vm: forms::needed("Machine", &asked.vm)?,
            os: OsName::default(),
            note: forms::some(&asked.note),
        })
    };
    make(&page, &reader, &asked, request()).await
}

pub(super) async fn import(State(page): Site, reader: Reader, Form(asked): Form<NewAsked>) -> Response {
    let request = || {
        Ok(JobRequest::Import {
            image: forms::needed("Image", &asked.image)?,
            path: forms::needed("File", &asked.path)?,
            boot: None,
            hardware: None,
            os: OsName::default(),
            note: forms::some(&asked.note),
        })
    };
    make(&page, &reader, &asked, request()).await
}
