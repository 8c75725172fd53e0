//! Who holds what, which node may do what, and a database that was put back.

use super::world::{NODE, World, import};
use chrono::{TimeDelta, Utc};
use vcl_queue::{ClaimLimits, Queue};
use vcl_types::state::{computer, job};
use vcl_types::{ImageRef, JobRequest};

fn image(text: &str) -> ImageRef {
    text.parse().unwrap()
}

#[tokio::test]
async fn each_node_says_what_it_holds() {
    let world = World::new().await;
    let queue = &world.queue;
    queue.set_holdings("one", &[image("debian@1"), image("gis@3")], Utc::now()).await.unwrap();
    queue.hold("two", &image("debian@1")).await.unwrap();
    queue.hold("two", &image("debian@1")).await.unwrap();
    assert_eq!(queue.holders(&image("debian@1")).await.unwrap(), ["one", "two"]);
    let since = queue.holdings().await.unwrap()[0].since;
    // What a node says anew keeps its time, and what it does not say is gone.
    queue.set_holdings("one", &[image("debian@1")], Utc::now()).await.unwrap();
    // What was recorded after the look was not there to be seen.
    queue.set_holdings("one", &[], Utc::now() - TimeDelta::minutes(1)).await.unwrap();
    assert_eq!(queue.holdings().await.unwrap()[0].since, since);
    assert!(queue.holders(&image("gis@3")).await.unwrap().is_empty());
    queue.holds_no_more("two", &image("debian@1")).await.unwrap();
    queue.holds_no_more("two", &image("debian@1")).await.unwrap();
    assert_eq!(queue.holders(&image("debian@1")).await.unwrap(), ["one"]);
    assert!(queue.hold("two", &image("debian")).await.is_err());
}

#[tokio::test]
async fn a_job_for_one_node_is_no_others() {
    let world = World::new().await;
    let fetch = JobRequest::Fetch { image: image("debian"), node: Some("two".into()) };
    let id = world.submit(fetch).await.unwrap();
    assert!(world.claim().await.is_none());
    let claim = world.queue.claim("two", &ClaimLimits::default()).await.unwrap().unwrap();
    assert_eq!(claim.id(), id);
}

#[tokio::test]
async fn a_copy_is_the_database_at_one_moment_and_its_jobs_do_not_go_on() {
    let world = World::new().await;
    let running = world.running(super::world::load("a", "debian")).await;
    let record = vcl_job::Record::Undone { key: "x".into() };
    world.queue.journal(&running).append(&record).await.unwrap();
    let queued = world.submit(import("gis")).await.unwrap();
    let copy = world.dir.path().join("copy.db");
    let mut lines = Vec::new();
    world.queue.dump(&mut lines).await.unwrap();
    world.done(&running).await;

    let restored = Queue::open(&copy).await.unwrap();
    assert!(restored.is_empty().await.unwrap());
    restored.restore(&mut lines.as_slice()).await.unwrap();
    assert!(!restored.is_empty().await.unwrap());
    restored.set_holdings(NODE, &[image("debian@1")], Utc::now()).await.unwrap();
    let ended = restored.end_all("from a backup").await.unwrap();
    assert_eq!(ended.jobs, [running.id(), queued]);
    assert_eq!(ended.computers, [super::world::name("a")]);
    for id in ended.jobs {
        let row = restored.job(id).await.unwrap();
        assert_eq!((row.state, row.reason.as_deref()), (job::State::Failed, Some("from a backup")));
    }
    let a = restored.computer(&super::world::name("a")).await.unwrap();
    assert_eq!(a.state, computer::State::Maintenance);
    assert!(restored.claim(NODE, &ClaimLimits::default()).await.unwrap().is_none());
    assert!(restored.holdings().await.unwrap().is_empty());
    assert!(restored.end_all("again").await.unwrap().jobs.is_empty());
    // What they held is free again.
    let new =
        vcl_queue::NewJob { request: import("gis"), requester: "ann".into(), backend: None, host: None };
    restored.submit(new).await.unwrap();
    restored.close().await;
}
