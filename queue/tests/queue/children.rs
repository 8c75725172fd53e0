//! Jobs that work for a job, and what a test of a revision leaves.

use super::world::{World, delete, load, loaded, name};
use chrono::{DateTime, TimeDelta, Utc};
use vcl_queue::{ClaimLimits, CloneOn, Kind};
use vcl_types::state::computer;
use vcl_types::state::job::{Event, State};
use vcl_types::{ImageRef, ImageTest, JobKind, JobRequest, SharedItem};

fn image() -> ImageRef {
    "debian@1".parse().unwrap()
}
fn test() -> JobRequest {
    JobRequest::TestImage { image: image(), wait: false }
}
fn on(names: &[&str]) -> Vec<CloneOn> {
    names.iter().map(|n| CloneOn { computer: name(n), host: None }).collect()
}
fn between() -> (DateTime<Utc>, DateTime<Utc>) {
    (Utc::now(), Utc::now() + TimeDelta::hours(2))
}

#[tokio::test]
async fn a_job_s_loads_are_queued_all_or_none_and_found_again_and_a_new_attempt_has_its_own() {
    let world = World::new().await;
    let queue = &world.queue;
    let claim = world.running(test()).await;
    let holder = world.submit(load("b", "debian")).await.unwrap();
    let refused = queue.load_clones(&claim, &image(), on(&["a", "b"]), between()).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Busy, "{refused}");
    assert_eq!(queue.children(claim.id()).await.unwrap(), [], "a is not loaded for nothing");

    let jobs = queue.load_clones(&claim, &image(), on(&["a", "c"]), between()).await.unwrap();
    assert_eq!(jobs.len(), 2);
    // After a crash, whatever it would choose now.
    assert_eq!(queue.load_clones(&claim, &image(), on(&["b"]), between()).await.unwrap(), jobs);
    assert_eq!(queue.load_clones(&claim, &image(), vec![], between()).await.unwrap(), jobs);
    let children = queue.children(claim.id()).await.unwrap();
    assert_eq!(children.iter().map(|job| job.id).collect::<Vec<_>>(), jobs);
    assert!(children.iter().all(|job| job.requester == "ann" && job.request.kind() == JobKind::Load));
    for job in jobs.iter().chain([&holder]) {
        queue.cancel(*job).await.unwrap();
    }
    queue.finish(&claim, Event::Fail, Some("no"), None).await.unwrap();
    assert_eq!(
        queue.load_clones(&claim, &image(), on(&["b"]), between()).await.unwrap_err().kind,
        Kind::LeaseLost
    );

    queue.retry(claim.id()).await.unwrap();
    let again = world.claim().await.unwrap();
    assert_eq!(queue.load_clones(&again, &image(), vec![], between()).await.unwrap(), []);
    let more = queue.load_clones(&again, &image(), on(&["a", "b"]), between()).await.unwrap();
    assert!(more[0] > jobs[1]);
    assert_eq!(queue.children(claim.id()).await.unwrap().len(), 4);
}

#[tokio::test]
async fn a_computer_that_is_somebody_s_is_not_loaded_for_a_test_and_an_unload_waits_its_turn() {
    let world = World::new().await;
    let queue = &world.queue;
    let loads = world.running(load("a", "debian")).await;
    let id = queue.begin_load(&loads, "take", "ann", &name("a"), &image()).await.unwrap();
    queue.end_load(&loads, "end", &name("a"), &loaded("debian@1"), id).await.unwrap();
    assert_eq!(queue.computer(&name("a")).await.unwrap().state, computer::State::Reserved);
    let claim = world.running(test()).await;
    let unload = queue.unload_for(&claim, &name("a"), None).await.unwrap();
    assert_eq!(queue.job(unload).await.unwrap().state, State::Waiting, "the load still has it");
    world.done(&loads).await;
    assert_eq!(queue.job(unload).await.unwrap().state, State::Queued);
    queue.cancel(unload).await.unwrap();
    let refused = queue.load_clones(&claim, &image(), on(&["a"]), between()).await.unwrap_err();
    assert!(refused.kind == Kind::Busy && refused.context.contains("a is reserved"), "{refused}");
}

#[tokio::test]
async fn a_test_takes_no_place_of_the_jobs_that_it_waits_for() {
    let world = World::new().await;
    let limits = ClaimLimits { node_max: 1, ..ClaimLimits::default() };
    let claim = world.running(test()).await;
    let jobs = world.queue.load_clones(&claim, &image(), on(&["a", "b"]), between()).await.unwrap();
    let first = world.queue.claim(super::world::NODE, &limits).await.unwrap().unwrap();
    assert_eq!(first.id(), jobs[0]);
    assert_eq!(world.queue.claim(super::world::NODE, &limits).await.unwrap(), None, "the other waits for it");

    // After a crash both go on: nothing would tell the node to look again for the load.
    world.queue.recover(super::world::NODE).await.unwrap();
    let (member, _) = world.queue.join(&super::nodes::node("node-1")).await.unwrap();
    let claims = member.claim_up_to(64, &limits).await.unwrap();
    let ids: Vec<_> = claims.iter().map(|claim| claim.id()).collect();
    assert_eq!(ids, [claim.id(), jobs[0]]);
}

#[tokio::test]
async fn what_a_test_found_out_is_kept_with_the_revision_and_the_newest_counts() {
    let world = World::new().await;
    let queue = &world.queue;
    assert_eq!(queue.revision(&image()).await.unwrap().tested, None);
    let mut kept = Vec::new();
    for passed in [true, false] {
        let claim = world.running(test()).await;
        let shared = SharedItem { item: "machine-id".into(), value: "3f".into() };
        let found = ImageTest {
            job: claim.id(),
            at: DateTime::from_timestamp(1_800_000_000 + claim.id().0, 0).unwrap(),
            passed,
            computers: vec![name("a"), name("b")],
            compared: vec![],
            shared: if passed { vec![] } else { vec![shared] },
            scripts: vec![],
            problems: vec![],
        };
        queue.record_image_test(&claim, &image(), &found).await.unwrap();
        // What it says a second time, in another life, is not news.
        let other = ImageTest { passed: !passed, ..found.clone() };
        queue.record_image_test(&claim, &image(), &other).await.unwrap();
        assert_eq!(queue.revision(&image()).await.unwrap().tested.as_ref(), Some(&found));
        world.done(&claim).await;
        kept.push(found);
    }
    let all = queue.images().await.unwrap();
    assert_eq!(all[0].revisions[0].tested.as_ref(), kept.last());
    assert!(all[0].revisions[0].tested.as_ref().unwrap().verdict().unwrap().contains("the machine-id: 3f"));
    // The newest says what there is to say of it for as long as it is there.
    let purge = async || {
        let later = DateTime::from_timestamp(4_000_000_000, 0).unwrap();
        queue.purge(later, later).await.unwrap();
        let mut copy = Vec::new();
        queue.dump(&mut copy).await.unwrap();
        String::from_utf8_lossy(&copy).matches("machine-id").count()
    };
    assert_eq!(purge().await, 1, "the one that did not pass");
    assert_eq!(queue.images().await.unwrap()[0].revisions[0].tested.as_ref(), kept.last());
    let claim = world.running(delete("debian@1")).await;
    queue.delete_revision(&claim, &image()).await.unwrap();
    assert_eq!(purge().await, 0);
}
