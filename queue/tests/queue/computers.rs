use super::world::{World, capture, computer, load, loaded, name, unload};
use vcl_queue::Kind;
use vcl_types::CaptureInto;
use vcl_types::state::computer::{Event, State};
use vcl_types::state::job;

#[tokio::test]
async fn a_step_that_runs_again_changes_its_computer_once() {
    let world = World::new().await;
    let claim = world.running(load("a", "debian")).await;
    let a = name("a");
    let event = async |key: &str, event| world.queue.computer_event(&claim, key, &a, event).await;
    assert_eq!(event("begin", Event::Load).await.unwrap(), State::Loading);
    assert_eq!(event("begin", Event::Load).await.unwrap(), State::Loading);
    assert_eq!(event("end", Event::Loaded).await.unwrap(), State::Reserved);
    // The step's replay answers what came of it then, and the state is not set back.
    assert_eq!(event("begin", Event::Load).await.unwrap(), State::Loading);
    assert_eq!(world.queue.computer(&a).await.unwrap().state, State::Reserved);
    // Another step may have the same event again.
    let error = event("other", Event::Load).await.unwrap_err();
    assert_eq!(error.kind, Kind::Refused);
    assert_eq!(event("again", Event::Reload).await.unwrap(), State::Loading);
    // The undo of a step that got no further than its record.
    assert_eq!(event("again", Event::LoadFailed).await.unwrap(), State::Available);
    assert_eq!(event("begin", Event::LoadFailed).await.unwrap(), State::Available);
}

#[tokio::test]
async fn a_job_changes_only_the_computer_it_holds() {
    let world = World::new().await;
    let claim = world.running(load("a", "debian")).await;
    let (a, b) = (name("a"), name("b"));
    let refused = [
        world.queue.computer_event(&claim, "k", &b, Event::Load).await.unwrap_err(),
        world.queue.set_loaded(&claim, &b, None).await.unwrap_err(),
        world.queue.set_computer_reason(&claim, &b, Some("x")).await.unwrap_err(),
    ];
    for error in refused {
        assert_eq!(
            (error.kind, error.context.as_str()),
            (Kind::Refused, "job 1 does not hold the computer b")
        );
    }
    world.queue.computer_event(&claim, "k", &a, Event::Maintain).await.unwrap();
    world.queue.set_computer_reason(&claim, &a, Some("its disk is full")).await.unwrap();
    world.queue.set_loaded(&claim, &a, Some(&loaded("debian@1"))).await.unwrap();
    let row = world.queue.computer(&a).await.unwrap();
    assert_eq!((row.state, row.reason.as_deref()), (State::Maintenance, Some("its disk is full")));
    assert_eq!(row.loaded, Some(loaded("debian@1")));
    assert_eq!(
        world.queue.computer_counts().await.unwrap(),
        [(State::Available, 2), (State::Maintenance, 1)]
    );
}

#[tokio::test]
async fn a_person_changes_what_no_job_has() {
    let world = World::new().await;
    let a = name("a");
    let by_hand = async |event, reason| world.queue.computer_by_hand(&a, event, reason).await;
    assert_eq!(by_hand(Event::Maintain, Some("new fan")).await.unwrap(), State::Maintenance);
    assert_eq!(world.queue.computer(&a).await.unwrap().reason.as_deref(), Some("new fan"));
    assert_eq!(by_hand(Event::Maintain, None).await.unwrap_err().kind, Kind::Refused);
    assert_eq!(by_hand(Event::Release, None).await.unwrap(), State::Available);
    assert_eq!(world.queue.computer(&a).await.unwrap().reason, None);
    world.submit(unload("a")).await.unwrap();
    assert_eq!(by_hand(Event::Maintain, None).await.unwrap_err().kind, Kind::Busy);
    let error = world.queue.computer_by_hand(&name("zz"), Event::Maintain, None).await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
}

#[tokio::test]
async fn applying_keeps_what_is_in_use() {
    let world = World::new().await;
    let claim = world.running(load("a", "debian")).await;
    world.queue.set_loaded(&claim, &name("a"), Some(&loaded("debian@1"))).await.unwrap();
    world.done(&claim).await;
    world.submit(capture("b", CaptureInto::Next)).await.unwrap();

    let same = ["a", "b", "c"].map(|n| computer(n, "kvm1"));
    assert_eq!(world.queue.apply_computers(&same, false).await.unwrap(), Default::default());

    let mut changed = computer("a", "kvm1");
    changed.cpus = Some(4);
    let wanted = [changed.clone(), computer("c", "kvm2"), computer("d", "kvm1")];
    let planned = world.queue.apply_computers(&wanted, true).await.unwrap();
    assert_eq!(world.queue.computers().await.unwrap().len(), 3, "a dry run changes nothing");
    let applied = world.queue.apply_computers(&wanted, false).await.unwrap();
    assert_eq!(planned, applied);
    assert_eq!((applied.added, applied.changed), (vec![name("d")], vec![name("c")]));
    assert_eq!(applied.removed, []);
    assert_eq!(
        applied.kept,
        [
            "a: debian@1 is loaded on it; unload it and apply again",
            "b: job 2 has it; apply again when the job is over"
        ]
    );
    let rows = world.queue.computers().await.unwrap();
    let names: Vec<_> =
        rows.iter().map(|r| (r.computer.name.as_str(), r.computer.backend.as_str())).collect();
    assert_eq!(names, [("a", "kvm1"), ("b", "kvm1"), ("c", "kvm2"), ("d", "kvm1")]);
    assert_eq!(rows[0].computer.cpus, None);

    world.queue.cancel(vcl_types::JobId(2)).await.unwrap();
    let claim = world.running(unload("a")).await;
    world.queue.set_loaded(&claim, &name("a"), None).await.unwrap();
    world.queue.finish(&claim, job::Event::Done, None, None).await.unwrap();
    let applied = world.queue.apply_computers(&wanted, false).await.unwrap();
    assert_eq!((applied.changed, applied.removed), (vec![name("a")], vec![name("b")]));
    assert_eq!(world.queue.computer(&name("a")).await.unwrap().computer, changed);
    let twice = [changed.clone(), changed];
    assert_eq!(world.queue.apply_computers(&twice, false).await.unwrap_err().kind, Kind::Refused);
}
