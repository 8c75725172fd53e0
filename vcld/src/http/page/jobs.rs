//! Who waits, what works, and one job.

use super::ask::{Asked, No};
use super::reader::{Path, Query, Reader};
use super::{Page, Site, door, failed, led, shown};
use crate::rights::{Subject, job_subject};
use axum::extract::State;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use vcl_page::computers::Said;
use vcl_page::configured::{self, Configured};
use vcl_page::confirm::Confirm;
use vcl_page::jobs::{Job, Queue};
use vcl_page::{Place, Verb, show};
use vcl_types::api::{Action, EventView, EvidenceView, JobView, Plan, ReservationView, Why};
use vcl_types::people;
use vcl_types::state::job::State as Is;
use vcl_types::state::reservation;
use vcl_types::{JobId, RunReport};

const HERE: Place = Place::Queue;
/// How many jobs are shown at once, and how many events of one.
const JOBS: u32 = 50;
const EVENTS: u32 = 300;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct QueueAsked {
    state: String,
    before: String,
}

pub(super) async fn queue(State(page): Site, reader: Reader, Query(asked): Query<QueueAsked>) -> Response {
    match queue_or_no(&page, &reader, &asked).await {
        Ok(answer) => answer,
        Err(no) => failed(&page, &reader, HERE, &no),
    }
}

async fn queue_or_no(page: &Page, reader: &Reader, asked: &QueueAsked) -> Asked<Response> {
    let ask = reader.ask(page);
    let state: Option<Is> = super::forms::read("State", &asked.state)?;
    let before: Option<i64> = super::forms::read("Before", &asked.before)?;
    let mut path = format!("/v1/jobs?limit={JOBS}");
    let mut older = String::from("/queue?");
    if let Some(state) = state {
        path.push_str(&format!("&state={state}"));
        older.push_str(&format!("state={state}&"));
    }
    if let Some(before) = before {
        path.push_str(&format!("&before={before}"));
    }
    let (jobs, more): (Vec<JobView>, bool) = ask.part(&path).await?;
    let open = ask.open_reservations().await?;
    let waits = |r: &&ReservationView| r.waiting.is_some() || r.state == reservation::State::Queued;
    let mut waiting: Vec<&ReservationView> = open.iter().filter(waits).collect();
    waiting.sort_by_key(|r| (r.waiting.as_ref().map_or(u64::MAX, |w| w.position), r.start, r.id));
    let older = jobs.last().filter(|_| more).map(|last| format!("{older}before={}", last.id));
    let view = Queue { frame: reader.frame(page, HERE), waiting, jobs: &jobs, state, older };
    Ok(shown(&view))
}

/// What can be done to a job now, and whether something is lost by it.
fn verbs(job: &JobView, who: &crate::rights::Who, tags: &crate::rights::Tags) -> Vec<Verb> {
    let subject: Subject = job_subject(&job.requester, &job.request, tags);
    let operates = who.can(people::Verb::Operate, &subject);
    let mut verbs = Vec::new();
    if operates && matches!(job.state, Is::Failed | Is::Stuck) {
        verbs.push(Verb::plain("retry"));
    }
    if operates && job.state == Is::Stuck {
        verbs.extend([Verb::danger("undo"), Verb::danger("abandon")]);
    }
    let own = job.requester == who.name;
    if (operates || own) && matches!(job.state, Is::Queued | Is::Running | Is::Waiting) {
        verbs.push(Verb::danger("cancel"));
    }
    verbs
}

pub(super) async fn job(State(page): Site, reader: Reader, Path(id): Path<i64>) -> Response {
    match job_or_no(&page, &reader, id).await {
        Ok(answer) => answer,
        Err(no) => failed(&page, &reader, HERE, &no),
    }
}

async fn job_or_no(page: &Page, reader: &Reader, id: i64) -> Asked<Response> {
    let ask = reader.ask(page);
    let job: JobView = ask.get(&format!("/v1/jobs/{id}")).await?;
    let why = match job.state {
        Is::Done | Is::Cancelled => None,
        _ => ask.get::<Why>(&format!("/v1/jobs/{id}/why")).await.ok(),
    };
    let events: Vec<EventView> = ask.get(&format!("/v1/events?job={id}&limit={EVENTS}")).await?;
    // It takes more than to see the job.
    let evidence: Vec<EvidenceView> = match job.evidence.is_empty() {
        true => Vec::new(),
        false => ask.get(&format!("/v1/jobs/{id}/evidence")).await.unwrap_or_default(),
    };
    let tags = page.node.tags().await;
    let tags = tags.map_err(|no| No::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", no.message))?;
    let verbs = verbs(&job, &reader.who, &tags);
    let frame = reader.frame(page, HERE);
    Ok(shown(&Job::new(frame, &job, why.as_ref(), &events, &evidence, verbs)))
}

fn action(id: i64, verb: &str) -> Asked<Action> {
    let job = JobId(id);
    Ok(match verb {
        "cancel" => Action::Cancel { job },
        "retry" => Action::Retry { job },
        "undo" => Action::Undo { job },
        "abandon" => Action::Abandon { job },
        _ => return Err(door::no_such_verb()),
    })
}

pub(super) async fn preview(
    State(page): Site,
    reader: Reader,
    Path((id, verb)): Path<(i64, String)>,
) -> Response {
    let plan = async {
        let action = action(id, &verb)?;
        reader.ask(&page).post::<Plan>("/v1/plan/action", &action).await
    };
    let plan = match plan.await {
        Ok(plan) => plan,
        Err(no) => return failed(&page, &reader, HERE, &no),
    };
    let texts = reader.texts(&page);
    let usual = plan.usual.map(|usual| {
        texts.with("confirm-usual", &[("p50", &show::took(usual.p50_ms)), ("p95", &show::took(usual.p95_ms))])
    });
    shown(&Confirm {
        frame: reader.frame(&page, HERE),
        title: plan.title,
        lines: vec![texts.say(&format!("{verb}-says")).into_owned()],
        hindrance: plan.hindrance,
        steps: plan.steps,
        usual,
        action: format!("/jobs/{id}/{verb}"),
        hidden: Vec::new(),
        options: Vec::new(),
        field: None,
        button: texts.word("verb", &verb).into_owned(),
        danger: verb != "retry",
        back: format!("/jobs/{id}"),
    })
}

pub(super) async fn act(
    State(page): Site,
    reader: Reader,
    Path((id, verb)): Path<(i64, String)>,
) -> Response {
    let done = async {
        action(id, &verb)?;
        reader.ask(&page).post::<JobView>(&format!("/v1/jobs/{id}/{verb}"), &json!({})).await?;
        Ok(reader.texts(&page).say(&format!("{verb}-done")).into_owned())
    };
    led(&format!("/jobs/{id}"), done.await)
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Attempt {
    attempt: String,
}

/// Where a piece of evidence is: on the page, and behind `/v1` in the API.
fn way_to(id: i64, part: &str, attempt: &str) -> String {
    let of = attempt.parse::<u32>().map(|n| format!("?attempt={n}")).unwrap_or_default();
    format!("/jobs/{id}/evidence/{}{of}", show::segment(part))
}

/// What a configuration run has made, object by object.
pub(super) async fn configured(
    State(page): Site,
    reader: Reader,
    Path((id, part)): Path<(i64, String)>,
    Query(Attempt { attempt }): Query<Attempt>,
) -> Response {
    let way = way_to(id, &part, &attempt);
    let report: RunReport = match reader.ask(&page).get(&format!("/v1{way}")).await {
        Ok(report) => report,
        Err(no) => return failed(&page, &reader, HERE, &no),
    };
    let manifest = configured::manifest(&part).unwrap_or_default();
    shown(&Configured::new(reader.frame(&page, HERE), id, manifest, &report, way))
}

/// A piece of evidence: a picture as it is, text in a view of its own. What a guest wrote is never a page of ours.
pub(super) async fn evidence(
    State(page): Site,
    reader: Reader,
    Path((id, part)): Path<(i64, String)>,
    Query(Attempt { attempt }): Query<Attempt>,
) -> Response {
    let path = format!("/v1{}", way_to(id, &part, &attempt));
    let mut answer = reader.ask(&page).raw(Method::GET, &path, None).await;
    let kind =
        answer.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if answer.status().is_success() && kind == "image/png" {
        answer.headers_mut().insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("inline"));
        return answer;
    }
    if !answer.status().is_success() {
        return failed(&page, &reader, HERE, &No::of(answer).await);
    }
    let bytes = axum::body::to_bytes(answer.into_body(), 8 * 1024 * 1024).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    shown(&Said {
        frame: reader.frame(&page, HERE),
        name: &id.to_string(),
        what: part,
        text: &text,
        back: format!("/jobs/{id}"),
    })
}
