use super::world::{NODE, World, load, loaded, name, unload};
use serde_json::{Value, json};
use std::time::Duration;
use vcl_job::{Failure, Record};
use vcl_queue::{EVIDENCE_LIMIT, Kind, Part, Sight};
use vcl_types::state::job::Event;
use vcl_types::state::{computer, job};
use vcl_types::{JobId, JobKind};

fn part(name: &str, bytes: usize) -> Part {
    Part { name: name.into(), media_type: "text/plain".into(), bytes: vec![b'x'; bytes] }
}
fn failure(message: &str) -> Failure {
    Failure { kind: vcl_job::Kind::Fatal, message: message.into() }
}
fn started(key: &str, intent: Value) -> Record {
    Record::Started { key: key.into(), intent, at: None }
}

#[tokio::test]
async fn evidence_is_bounded_kept_by_whoever_has_the_job_and_purged() {
    let world = World::new().await;
    let queue = &world.queue;
    let claim = world.running(load("a", "debian")).await;
    queue.keep_evidence(&claim, vec![part("console.txt", 10), part("old.txt", 900_000)]).await.unwrap();
    queue.keep_evidence(&claim, vec![part("console.txt", 20)]).await.unwrap();
    assert_eq!(queue.evidence_part(claim.id(), "console.txt", None).await.unwrap().bytes.len(), 20);
    let error = queue.keep_evidence(&claim, vec![part("big", 2 << 20)]).await.unwrap_err();
    assert_eq!(error.kind, Kind::Refused);
    let error = queue.evidence_part(claim.id(), "nosuch", None).await.unwrap_err();
    assert!(error.to_string().contains("console.txt, old.txt"), "{error}");

    // Another attempt: what is too much goes, the oldest first.
    queue.finish(&claim, Event::Fail, Some("no"), None).await.unwrap();
    let lost = queue.keep_evidence(&claim, vec![part("late", 1)]).await.unwrap_err();
    assert_eq!(lost.kind, Kind::LeaseLost);
    queue.retry(claim.id()).await.unwrap();
    let again = world.claim().await.unwrap();
    queue.keep_evidence(&again, vec![part("new.txt", 1 << 20), part("console.txt", 700_000)]).await.unwrap();
    let kept = queue.evidence(claim.id()).await.unwrap();
    assert!(kept.iter().map(|e| e.size.bytes() as usize).sum::<usize>() <= EVIDENCE_LIMIT, "{kept:?}");
    assert!(kept.iter().all(|e| e.name != "old.txt"), "{kept:?}");
    assert_eq!(queue.evidence_part(claim.id(), "console.txt", Some(1)).await.unwrap().bytes.len(), 20);
    assert_eq!(queue.evidence_part(claim.id(), "console.txt", None).await.unwrap().bytes.len(), 700_000);

    let later = chrono::Utc::now() + chrono::TimeDelta::seconds(5);
    queue.journal(&again).append(&started("x", Value::Null)).await.unwrap();
    queue.event("noted", None, None, "x").await.unwrap();
    // A job that is not over keeps its journal, its events and its evidence.
    queue.event("noted", Some(claim.id()), None, "of the job").await.unwrap();
    let purged = queue.purge(later, later).await.unwrap();
    assert_eq!((purged.journals, purged.evidence), (0, 0));
    assert!(purged.events >= 1);
    let left = queue.last_events(9).await.unwrap();
    assert!(left.iter().any(|e| e.message == "of the job"), "{left:?}");
    queue.finish(&again, Event::Fail, Some("no"), None).await.unwrap();
    let purged = queue.purge(later, later).await.unwrap();
    assert_eq!((purged.journals, purged.evidence), (1, 3));
    assert!(queue.last_events(9).await.unwrap().iter().all(|e| e.message != "of the job"));
    assert_eq!(queue.steps(claim.id()).await.unwrap(), []);
    assert_eq!(queue.job(claim.id()).await.unwrap().state, job::State::Failed);
}

#[tokio::test]
async fn a_stuck_job_is_taken_back_from_its_journal_and_nothing_else_is() {
    let world = World::new().await;
    let queue = &world.queue;
    let claim = world.running(load("a", "debian")).await;
    let journal = queue.journal(&claim);
    for key in ["first", "second"] {
        journal.append(&started(key, Value::Null)).await.unwrap();
    }
    let error = queue.undo(claim.id(), failure("x")).await.unwrap_err();
    assert!(error.kind == Kind::Refused && error.to_string().contains("job cancel"), "{error}");
    queue.finish(&claim, Event::Stick, Some("it does not fit"), None).await.unwrap();
    assert_eq!(queue.open_steps(claim.id()).await.unwrap(), ["second", "first"]);
    queue.undo(claim.id(), failure("taken back by ann")).await.unwrap();
    let again = world.claim().await.unwrap();
    let records = queue.journal(&again).read().await.unwrap();
    assert_eq!(records.last(), Some(&Record::Unwinding { cause: failure("taken back by ann") }));
    // Stuck again: the first cause stays the cause.
    queue.finish(&again, Event::Stick, Some("again"), None).await.unwrap();
    queue.undo(claim.id(), failure("by bob")).await.unwrap();
    let again = world.claim().await.unwrap();
    assert_eq!(queue.journal(&again).read().await.unwrap().len(), records.len());
    assert_eq!(queue.undo(JobId(99), failure("x")).await.unwrap_err().kind, Kind::NotFound);
}

#[tokio::test]
async fn a_look_remembers_what_it_saw_and_forgets_what_is_gone() {
    let world = World::new().await;
    let queue = &world.queue;
    let sight =
        |place: &str, name: &str| Sight { place: place.into(), kind: "domain".into(), name: name.into() };
    let places = || vec!["kvm".to_owned()];
    let noted = queue.note_orphans(places(), vec![sight("kvm", "x")]).await.unwrap();
    let first = noted[&sight("kvm", "x")].clone();
    assert!(first.new);
    assert_eq!(queue.ignore_orphan(&sight("kvm", "x"), "ann", " ").await.unwrap_err().kind, Kind::Refused);
    assert!(queue.ignore_orphan(&sight("kvm", "x"), "ann", "mine").await.unwrap());
    assert!(!queue.ignore_orphan(&sight("kvm", "y"), "ann", "mine").await.unwrap());
    let noted = queue.note_orphans(places(), vec![sight("kvm", "x"), sight("kvm", "y")]).await.unwrap();
    let second = &noted[&sight("kvm", "x")];
    assert_eq!((second.new, second.since), (false, first.since));
    assert_eq!(second.ignored.as_ref().map(|i| (i.by.as_str(), i.reason.as_str())), Some(("ann", "mine")));
    assert!(noted[&sight("kvm", "y")].new);
    // A place that was not looked at keeps what is known of it; what is gone is forgotten with its reason.
    queue.note_orphans(vec!["esx".into()], vec![]).await.unwrap();
    assert!(!queue.note_orphans(places(), vec![sight("kvm", "y")]).await.unwrap()[&sight("kvm", "y")].new);
    let noted = queue.note_orphans(places(), vec![sight("kvm", "x")]).await.unwrap();
    assert!(noted[&sight("kvm", "x")].new && noted[&sight("kvm", "x")].ignored.is_none());
}

#[tokio::test]
async fn a_computer_gets_its_machine_back_as_its_last_load_made_it() {
    let world = World::new().await;
    let queue = &world.queue;
    let a = name("a");
    assert_eq!(queue.last_load(&a).await.unwrap_err().kind, Kind::NotFound);
    let claim = world.running(load("a", "debian")).await;
    let intent = json!({ "computer": "a", "reservation": 1, "loaded": loaded("debian@1") });
    queue.journal(&claim).append(&started("record load", intent)).await.unwrap();
    world.done(&claim).await;
    let (job, machine) = queue.last_load(&a).await.unwrap();
    assert_eq!((job.id, &machine), (claim.id(), &loaded("debian@1")));

    let busy = world.running(unload("a")).await;
    assert_eq!(queue.adopt_machine(&a, &job, &machine).await.unwrap_err().kind, Kind::Busy);
    world.done(&busy).await;
    queue.adopt_machine(&a, &job, &machine).await.unwrap();
    let row = queue.computer(&a).await.unwrap();
    assert_eq!((row.state, row.loaded), (computer::State::Reserved, Some(machine.clone())));
    let reservation = queue.reservation(row.reservation.unwrap()).await.unwrap();
    assert_eq!((reservation.owner.as_str(), reservation.image.to_string()), ("ann", "debian@1".to_owned()));
    assert_eq!(queue.adopt_machine(&a, &job, &machine).await.unwrap_err().kind, Kind::Refused);

    // What is said of a loaded computer, unless a job has it or somebody else said something.
    assert!(queue.note_computer(&a, None, Some("off since noon")).await.unwrap());
    assert!(!queue.note_computer(&a, None, Some("paused since noon")).await.unwrap());
    let stances = queue.stances().await.unwrap();
    let stance = stances.iter().find(|s| s.computer == a).unwrap();
    assert_eq!((stance.reason.as_deref(), stance.loaded, stance.held), (Some("off since noon"), true, false));
    assert!(queue.note_computer(&a, Some("off since noon"), None).await.unwrap());
    let _held = world.running(unload("a")).await;
    assert!(!queue.note_computer(&a, None, Some("off")).await.unwrap());
    assert!(queue.stances().await.unwrap().iter().any(|s| s.computer == a && s.held));
    // One that holds nothing has no power to lose.
    assert!(!queue.note_computer(&name("b"), None, Some("off")).await.unwrap());
}

#[tokio::test]
async fn past_runs_tell_how_long_steps_take() {
    let world = World::new().await;
    let queue = &world.queue;
    let kvm1 = "kvm1".parse().unwrap();
    for n in 1..=4_u64 {
        let claim = world.running(load("a", "debian")).await;
        let steps = vec![
            ("define".to_owned(), Duration::from_millis(10)),
            ("boot".to_owned(), Duration::from_secs(n)),
        ];
        queue.post_timings(&claim, (n != 4).then(|| Duration::from_secs(n)), steps);
        world.done(&claim).await;
    }
    let history = queue.history(JobKind::Load, Some(&kvm1)).await.unwrap();
    assert_eq!(history.whole().map(|u| (u.p50_ms, u.p95_ms, u.runs)), Some((2000, 3000, 3)));
    assert_eq!(history.step("boot").map(|u| (u.p50_ms, u.p95_ms, u.runs)), Some((2000, 4000, 4)));
    assert_eq!(history.after("define"), Some("boot"));
    for (kind, backend) in [(JobKind::Capture, Some(&kvm1)), (JobKind::Load, None)] {
        assert_eq!(queue.history(kind, backend).await.unwrap().whole(), None);
    }
    let since = chrono::Utc::now() - chrono::TimeDelta::days(1);
    assert_eq!(queue.past_processes(NODE, since).await.unwrap(), []);
    let claim = world.running(load("a", "debian")).await;
    let process = Record::Process { key: "copy".into(), group: 77, start_time: 5, boot: None };
    queue.journal(&claim).append(&process).await.unwrap();
    assert_eq!(queue.past_processes(NODE, since).await.unwrap(), []);
    queue.finish(&claim, Event::Fail, Some("x"), None).await.unwrap();
    assert_eq!(queue.past_processes(NODE, since).await.unwrap(), [(claim.id(), 77, 5)]);
    assert_eq!(queue.past_processes("node-2", since).await.unwrap(), []);
}
