use super::world::{World, delete, import, load, loaded, manifest, name};
use vcl_queue::Kind;
use vcl_types::{ByteSize, ImageName, ImageRef, JobId};

fn image(text: &str) -> ImageName {
    text.parse().unwrap()
}
fn reference(text: &str) -> ImageRef {
    text.parse().unwrap()
}
const SIZE: ByteSize = ByteSize::mebibytes(5);

#[tokio::test]
async fn a_number_is_never_given_out_twice() {
    let mut world = World::new().await;
    assert_eq!(world.queue.next_revision(&image("gis")).await.unwrap(), 1);
    for number in 1..=3 {
        let claim = world.running(import("gis")).await;
        assert_eq!(world.queue.next_revision(&image("gis")).await.unwrap(), number);
        world.queue.record_revision(&claim, &manifest("gis", number), SIZE).await.unwrap();
        world.done(&claim).await;
    }
    for number in [3, 1, 2] {
        let what = reference(&format!("gis@{number}"));
        let claim = world.running(delete(&what.to_string())).await;
        world.queue.delete_revision(&claim, &what).await.unwrap();
        world.queue.delete_revision(&claim, &what).await.unwrap();
        world.done(&claim).await;
        assert_eq!(world.queue.revision(&what).await.unwrap_err().kind, Kind::NotFound);
        world.reopen().await;
        assert_eq!(world.queue.next_revision(&image("gis")).await.unwrap(), 4);
    }
    assert!(world.queue.images().await.unwrap().iter().all(|i| i.name != image("gis")));
    assert_eq!(world.queue.image(&image("gis")).await.unwrap_err().kind, Kind::NotFound);
    let claim = world.running(import("gis")).await;
    let error = world.queue.record_revision(&claim, &manifest("gis", 2), SIZE).await.unwrap_err();
    assert_eq!(error.kind, Kind::Exists, "{error}");
    // Files that were left behind do not bring it back.
    let rebuilt = world.queue.rebuild_from(&[manifest("gis", 2), manifest("new", 1)]).await.unwrap();
    assert_eq!((rebuilt.added, rebuilt.deleted), (vec![reference("new@1")], vec![reference("gis@2")]));
}

#[tokio::test]
async fn recording_is_idempotent_for_its_job_and_refused_to_others() {
    let world = World::new().await;
    let claim = world.running(import("gis")).await;
    let mut made = manifest("gis", 1);
    world.queue.record_revision(&claim, &made, SIZE).await.unwrap();
    made.note = Some("with QGIS".into());
    world.queue.record_revision(&claim, &made, SIZE).await.unwrap();
    let row = world.queue.revision(&reference("gis")).await.unwrap();
    assert_eq!((row.manifest, row.size), (made.clone(), SIZE));
    world.done(&claim).await;
    let other = world.running(import("gis")).await;
    let error = world.queue.record_revision(&other, &made, SIZE).await.unwrap_err();
    assert_eq!((error.kind, error.context.as_str()), (Kind::Exists, "gis@1 is there already; job 1 made it"));
    let error = world.queue.record_revision(&other, &manifest("debian", 2), SIZE).await.unwrap_err();
    assert_eq!(error.context, "job 2 does not hold the image debian");
    let error = world.queue.record_revision(&claim, &made, SIZE).await.unwrap_err();
    assert_eq!(error.kind, Kind::LeaseLost);
}

#[tokio::test]
async fn images_are_listed_with_who_uses_them() {
    let world = World::new().await;
    let rebuilt = world.queue.rebuild_from(&[manifest("debian", 2), manifest("alpine", 5)]).await.unwrap();
    assert_eq!(rebuilt.added.len(), 2);
    let again = world.queue.rebuild_from(&[manifest("debian", 2)]).await.unwrap();
    assert_eq!(again, Default::default());
    for computer in ["b", "a"] {
        let claim = world.running(load(computer, "debian")).await;
        world.queue.set_loaded(&claim, &name(computer), Some(&loaded("debian@2"))).await.unwrap();
        world.done(&claim).await;
    }
    let images = world.queue.images().await.unwrap();
    let told: Vec<_> = images
        .iter()
        .flat_map(|i| i.revisions.iter().map(|r| (r.manifest.image_ref().to_string(), r.used_by.len())))
        .collect();
    assert_eq!(told, [("alpine@5".into(), 0), ("debian@1".into(), 0), ("debian@2".into(), 2)]);
    assert_eq!(world.queue.image(&image("debian")).await.unwrap(), images[1]);
    let newest = world.queue.revision(&reference("debian")).await.unwrap();
    assert_eq!(newest.manifest.revision, 2);
    assert_eq!(newest.used_by, [name("a"), name("b")]);
    assert_eq!(newest.size, ByteSize::mebibytes(300));
    assert_eq!(world.queue.revision(&reference("debian@1")).await.unwrap().used_by, []);
    assert_eq!(world.queue.users(&reference("debian")).await.unwrap().len(), 2);
    assert_eq!(world.queue.users(&reference("debian@1")).await.unwrap(), []);
}

#[tokio::test]
async fn what_is_loaded_is_not_deleted_by_a_step_either() {
    let world = World::new().await;
    let deleting = world.running(delete("debian@1")).await;
    assert_eq!(world.submit(load("a", "debian")).await.unwrap_err().kind, Kind::Busy);
    let error = world.queue.delete_revision(&deleting, &reference("debian")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Refused, "no number");
    // A machine that another way of loading has put there.
    let import = world.running(super::world::unload("a")).await;
    world.queue.set_loaded(&import, &name("a"), Some(&loaded("debian@1"))).await.unwrap();
    let error = world.queue.delete_revision(&deleting, &reference("debian@1")).await.unwrap_err();
    assert_eq!((error.kind, deleting.id()), (Kind::Refused, JobId(1)));
}
