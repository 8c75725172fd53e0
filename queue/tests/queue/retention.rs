//! What keeps a revision: production, computers, jobs that read it, and revisions that are stored over it.

use super::world::{World, delete, import, load, manifest};
use vcl_queue::Kind;
use vcl_types::state::job::Event;
use vcl_types::{ByteSize, ImageRef, JobRequest, Manifest, Over};

fn image(text: &str) -> ImageRef {
    text.parse().unwrap()
}

fn over(revision: u32, parent: u32) -> Manifest {
    let mut made = manifest("debian", revision);
    let parent = ImageRef::new("debian".parse().unwrap(), parent);
    let content_digest = made.disks[0].content_digest.clone();
    made.disks[0].over = Some(Over { image: parent.clone(), file: "disk0.qcow2".into(), content_digest });
    Manifest { version: 2, parent: Some(parent), ..made }
}

#[tokio::test]
async fn production_children_and_readers_keep_a_revision_and_undeleting_needs_its_parent() {
    let world = World::new().await;
    let queue = &world.queue;
    let manifests = [manifest("debian", 1), over(2, 1), over(3, 2), manifest("debian", 4)];
    queue.rebuild_from(&manifests).await.unwrap();
    queue.promote(&image("debian@4"), "ada").await.unwrap();
    queue.promote(&image("debian@3"), "ada").await.unwrap();
    assert_eq!(queue.promote(&image("debian@9"), "ada").await.unwrap_err().kind, Kind::NotFound);
    assert_eq!(queue.promote(&image("debian"), "ada").await.unwrap_err().kind, Kind::Refused);
    let shown: Vec<bool> = queue.images().await.unwrap()[0].revisions.iter().map(|r| r.production).collect();
    assert_eq!(shown, [false, false, true, false]);
    assert!(queue.revision(&image("debian@3")).await.unwrap().production);

    let refused = world.submit(delete("debian@3")).await.unwrap_err();
    assert!(refused.kind == Kind::Refused && refused.context.contains("in production"), "{refused}");
    let refused = world.submit(delete("debian@2")).await.unwrap_err();
    assert!(refused.context.contains("debian@3 is stored over debian@2"), "{refused}");
    queue.promote(&image("debian@4"), "ada").await.unwrap();

    let verify = world.submit(JobRequest::Verify { image: image("debian@2") }).await.unwrap();
    let prune = JobRequest::Prune {
        image: "debian".parse().unwrap(),
        keep: Some(1),
        older_than_s: None,
        owner: None,
        now: false,
    };
    world.submit(prune).await.unwrap();
    let reading = world.claim().await.unwrap();
    assert_eq!(reading.id(), verify);
    let claim = world.claim().await.unwrap();
    let standings = queue.standings().await.unwrap();
    assert_eq!(standings[1].readers, [verify]);
    assert!(standings[3].production && standings[3].loaded.is_empty());
    for _ in 0..2 {
        queue.let_go(&claim, &image("debian@3")).await.unwrap();
    }
    assert_eq!(queue.let_go(&claim, &image("debian@2")).await.unwrap_err().kind, Kind::Busy);
    assert_eq!(queue.let_go(&claim, &image("debian@4")).await.unwrap_err().kind, Kind::Refused);
    queue.finish(&reading, Event::Done, None, None).await.unwrap();
    queue.let_go(&claim, &image("debian@2")).await.unwrap();

    let refused = queue.bring_back(&claim, &image("debian@3")).await.unwrap_err();
    assert!(refused.context.contains("stored over debian@2, which is deleted"), "{refused}");
    queue.bring_back(&claim, &image("debian@2")).await.unwrap();
    for _ in 0..2 {
        queue.bring_back(&claim, &image("debian@3")).await.unwrap();
    }
    assert_eq!(queue.bring_back(&claim, &image("debian@7")).await.unwrap_err().kind, Kind::NotFound);
    // Rewritten whole, a child no longer keeps its parent.
    queue.replace_files(&claim, &manifest("debian", 2), ByteSize(5)).await.unwrap();
    queue.let_go(&claim, &image("debian@1")).await.unwrap();
    assert_eq!(queue.revision(&image("debian@2")).await.unwrap().size, ByteSize(5));
    let undelete = JobRequest::Undelete { image: image("debian@2") };
    assert_eq!(world.submit(undelete).await.unwrap_err().kind, Kind::Exists);
}

/// Which revision a load reads is settled when it is queued, also when it is asked for again, and that one is kept for it.
#[tokio::test]
async fn what_a_job_reads_is_settled_when_it_is_queued_and_kept_for_it() {
    let world = World::new().await;
    let queue = &world.queue;
    let claim = world.running(load("a", "debian")).await;
    assert_eq!(claim.job.revision, Some(image("debian@1")));
    queue.finish(&claim, Event::Fail, Some("no"), None).await.unwrap();
    queue.rebuild_from(&[manifest("debian", 2)]).await.unwrap();
    queue.retry(claim.id()).await.unwrap();
    let job = queue.job(claim.id()).await.unwrap();
    assert_eq!(job.revision, Some(image("debian@2")));
    let refused = world.submit(delete("debian@2")).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Busy, "{refused}");
    // What nobody reads any more goes.
    world.submit(delete("debian@1")).await.unwrap();
}

/// A revision that a job is about to publish is that job's to record, or to take back.
#[tokio::test]
async fn a_look_through_the_library_leaves_alone_what_a_job_is_publishing() {
    let world = World::new().await;
    let queue = &world.queue;
    let claim = world.running(import("debian")).await;
    assert_eq!(queue.rebuild_from(&[manifest("debian", 2)]).await.unwrap().added, []);
    assert_eq!(queue.rebuild_from(&[manifest("gis", 1)]).await.unwrap().added, [image("gis@1")]);
    queue.finish(&claim, Event::Fail, Some("no"), None).await.unwrap();
    assert_eq!(queue.rebuild_from(&[manifest("debian", 2)]).await.unwrap().added, [image("debian@2")]);
}
