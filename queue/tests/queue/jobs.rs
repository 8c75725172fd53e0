use super::world::{World, capture, delete, import, load, loaded, manifest, name, unload};
use vcl_queue::{CancelOutcome, JobFilter, Kind, NewJob};
use vcl_types::state::job::{Event, State};
use vcl_types::{CaptureInto, JobId, JobRequest};

#[tokio::test]
async fn a_computer_has_one_job_at_a_time_and_the_refusal_names_it() {
    let world = World::new().await;
    let first = world.submit(load("a", "debian")).await.unwrap();
    let error = world.submit(unload("a")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Busy);
    let start = format!("a is held by job {first} (load a debian), queued since ");
    assert!(error.context.starts_with(&start), "{error}");
    let claim = world.claim().await.unwrap();
    let error = world.submit(capture("a", CaptureInto::Next)).await.unwrap_err();
    let (start, end) = (
        format!("a is held by job {first} (load a debian), running since "),
        format!("; wait for it (--wait) or cancel it: vclctl job cancel {first}"),
    );
    assert!(error.context.starts_with(&start) && error.context.ends_with(&end), "{error}");
    assert_eq!(world.queue.holder(&name("a")).await.unwrap().unwrap().id, first);
    assert_eq!(world.queue.computer(&name("a")).await.unwrap().job, Some(first));
    world.submit(load("b", "debian")).await.unwrap();
    world.done(&claim).await;
    assert_eq!(world.queue.holder(&name("a")).await.unwrap(), None);
    world.submit(unload("a")).await.unwrap();
}

#[tokio::test]
async fn of_many_at_once_one_gets_the_computer() {
    let world = World::new().await;
    let all = (0..40).map(|_| world.submit(load("a", "debian")));
    let results = futures::future::join_all(all).await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    assert!(results.iter().filter_map(|r| r.as_ref().err()).all(|e| e.kind == Kind::Busy));
    assert_eq!(world.queue.jobs(&JobFilter::default()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_not_there_is_named_with_what_is_near() {
    let world = World::new().await;
    let error = world.submit(load("gis", "debian")).await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    assert_eq!(error.context, "there is no computer gis; `vclctl computer list` shows what there is");
    let error = world.submit(load("a", "debain")).await.unwrap_err();
    let message = "there is no image debain; is `debian` meant? `vclctl image list` shows what there is";
    assert_eq!((error.kind, error.context.as_str()), (Kind::NotFound, message));
    let error = world.submit(load("a", "debian@7")).await.unwrap_err();
    assert_eq!(error.context, "there is no revision debian@7; the newest there are: debian@1");
    let error = world.queue.job(JobId(4)).await.unwrap_err();
    assert_eq!(error.context, "there is no job 4; `vclctl job list` shows what there is");
}

#[tokio::test]
async fn one_job_at_a_time_changes_an_image() {
    let world = World::new().await;
    let first = world.submit(import("debian")).await.unwrap();
    for request in
        [import("debian"), delete("debian@1"), capture("a", CaptureInto::New("debian".parse().unwrap()))]
    {
        let error = world.submit(request).await.unwrap_err();
        assert_eq!(error.kind, Kind::Busy, "{error}");
        assert!(
            error.context.starts_with(&format!("the image debian is held by job {first} (import debian)"))
        );
    }
    // Reading what is there goes on.
    world.submit(load("a", "debian")).await.unwrap();
    world.submit(import("alpine")).await.unwrap();
    let claim = world.claim().await.unwrap();
    world.queue.finish(&claim, Event::Fail, Some("no such file"), None).await.unwrap();
    world.submit(import("debian")).await.unwrap();
}

#[tokio::test]
async fn a_capture_holds_the_image_its_computer_was_loaded_from() {
    let world = World::new().await;
    for computer in ["a", "b"] {
        let claim = world.running(load(computer, "debian")).await;
        let what = loaded("debian@1");
        world.queue.set_loaded(&claim, &name(computer), Some(&what)).await.unwrap();
        world.done(&claim).await;
    }
    world.submit(capture("a", CaptureInto::Next)).await.unwrap();
    let error = world.submit(capture("b", CaptureInto::Next)).await.unwrap_err();
    assert!(error.context.starts_with("the image debian is held by job 3 (capture a)"), "{error}");
    let new = CaptureInto::New("debian".parse().unwrap());
    assert_eq!(world.submit(capture("b", new)).await.unwrap_err().kind, Kind::Busy);
    let new = CaptureInto::New("mine".parse().unwrap());
    world.submit(capture("b", new)).await.unwrap();
}

#[tokio::test]
async fn a_new_image_must_not_exist() {
    let world = World::new().await;
    let request = JobRequest::CreateFromVm {
        image: "debian".parse().unwrap(),
        backend: "kvm2".parse().unwrap(),
        vm: "x".into(),
        os: Default::default(),
        note: None,
    };
    assert_eq!(world.submit(request).await.unwrap_err().kind, Kind::Exists);
    let new = CaptureInto::New("debian".parse().unwrap());
    assert_eq!(world.submit(capture("a", new)).await.unwrap_err().kind, Kind::Exists);
    world.submit(import("debian")).await.unwrap();
}

#[tokio::test]
async fn a_revision_is_not_deleted_under_those_who_read_it() {
    let world = World::new().await;
    world.queue.rebuild_from(&[manifest("debian", 2)]).await.unwrap();
    let reading = world.running(load("a", "debian")).await;
    let error = world.submit(delete("debian@2")).await.unwrap_err();
    assert!(error.context.starts_with("debian@2 is held by job 1 (load a debian)"), "{error}");
    world.queue.set_loaded(&reading, &name("a"), Some(&loaded("debian@2"))).await.unwrap();
    world.done(&reading).await;
    let error = world.submit(delete("debian@2")).await.unwrap_err();
    assert_eq!((error.kind, error.context.contains("loaded on a;")), (Kind::Refused, true), "{error}");
    // Another revision of it is free, and then it is the load that is refused.
    world.submit(delete("debian@1")).await.unwrap();
    let error = world.submit(load("b", "debian@1")).await.unwrap_err();
    assert!(error.context.starts_with("debian@1 is held by job 2 (delete debian@1)"), "{error}");
    world.submit(load("b", "debian@2")).await.unwrap();
}

#[tokio::test]
async fn lists_are_newest_first_filtered_and_paged() {
    let world = World::new().await;
    for computer in ["a", "b", "c"] {
        world.submit(load(computer, "debian")).await.unwrap();
    }
    let claim = world.claim().await.unwrap();
    world.queue.finish(&claim, Event::Fail, Some("it did not boot"), None).await.unwrap();
    let ids = async |filter: JobFilter| {
        world.queue.jobs(&filter).await.unwrap().iter().map(|j| j.id.0).collect::<Vec<_>>()
    };
    let all = JobFilter::default();
    assert_eq!(ids(all.clone()).await, [3, 2, 1]);
    assert_eq!(ids(JobFilter { limit: 2, ..all.clone() }).await, [3, 2]);
    assert_eq!(ids(JobFilter { before: Some(JobId(2)), ..all.clone() }).await, [1]);
    assert_eq!(ids(JobFilter { state: Some(State::Queued), ..all.clone() }).await, [3, 2]);
    assert_eq!(ids(JobFilter { requester: Some("ann".into()), ..all.clone() }).await, [3, 2, 1]);
    assert!(ids(JobFilter { requester: Some("bob".into()), ..all.clone() }).await.is_empty());
    assert_eq!(ids(JobFilter { computer: Some(name("b")), ..all }).await, [2]);
    assert_eq!(world.queue.job_counts().await.unwrap(), [(State::Queued, 2), (State::Failed, 1)]);
    let view = world.queue.job(JobId(1)).await.unwrap().view(Vec::new());
    assert_eq!((view.title.as_str(), view.reason.as_deref()), ("load a debian", Some("it did not boot")));
    assert!(view.started.is_some() && view.ended.is_some());
}

#[tokio::test]
async fn a_submit_that_nobody_waits_for_wakes_the_workers_all_the_same() {
    let world = World::new().await;
    let mut submitted = world.queue.submitted();
    submitted.mark_unchanged();
    {
        let submit = world.submit(load("a", "debian"));
        tokio::pin!(submit);
        // Sent, not answered: an HTTP client that hung up.
        assert!(futures::poll!(submit.as_mut()).is_pending());
    }
    submitted.changed().await.unwrap();
    assert!(world.claim().await.is_some());
}

#[tokio::test]
async fn the_backend_is_the_computers_the_requests_or_the_one_that_is_given() {
    let world = World::new().await;
    let backend = async |id| world.queue.job(id).await.unwrap().backend.map(String::from);
    let id = world.submit(load("a", "debian")).await.unwrap();
    assert_eq!(backend(id).await.as_deref(), Some("kvm1"));
    let id = world.submit(import("x")).await.unwrap();
    assert_eq!(backend(id).await, None);
    let given = NewJob {
        request: unload("b"),
        requester: "ann".into(),
        backend: Some("other".parse().unwrap()),
        host: Some("h1".into()),
    };
    let id = world.queue.submit(given).await.unwrap();
    assert_eq!(backend(id).await.as_deref(), Some("other"));
    assert_eq!(world.queue.cancel(id).await.unwrap(), CancelOutcome::Cancelled);
}
