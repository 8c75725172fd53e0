use super::world::{World, name};
use vcl_types::JobId;
use vcl_types::api::{Progress, StreamItem};

#[tokio::test]
async fn an_event_is_kept_and_told_in_order() {
    let mut world = World::new().await;
    let mut stream = world.queue.subscribe();
    let first = world.queue.event("job-failed", Some(JobId(1)), Some(&name("a")), "no light").await.unwrap();
    world.queue.post_event("forced-off", None, Some(&name("b")), "it did not shut down");
    world.queue.progress(JobId(1), "copy", 5, 10);
    world.queue.changed(JobId(2));
    let third = world.queue.event("noted", None, None, &"ä".repeat(9000)).await.unwrap();
    assert!(third.message.len() < 8200 && third.message.ends_with("ä…"));
    let kept = world.queue.events(0, 10).await.unwrap();
    assert_eq!(kept.iter().map(|e| e.id).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((&kept[0], &kept[2]), (&first, &third));
    assert_eq!(world.queue.events(2, 10).await.unwrap(), kept[2..]);
    assert_eq!(world.queue.last_events(2).await.unwrap(), kept[1..]);
    let mut events = Vec::new();
    while let Ok(item) = stream.try_recv() {
        match item {
            StreamItem::Event(event) => events.push(event),
            StreamItem::Progress { job, step, progress } => {
                assert_eq!(
                    (job, step.as_str(), progress),
                    (JobId(1), "copy", Progress { done: 5, total: 10 })
                );
            }
            StreamItem::Changed { job } => assert_eq!(job, JobId(2)),
            StreamItem::Missed => unreachable!("nothing was missed"),
        }
    }
    assert_eq!(events, kept);
    world.reopen().await;
    assert_eq!(world.queue.events(0, 10).await.unwrap(), kept);
}

#[tokio::test]
async fn a_jobs_events_are_found_among_all() {
    let world = World::new().await;
    let queue = &world.queue;
    let mut ids = Vec::new();
    for n in 0..6 {
        let job = (n % 2 == 0).then_some(vcl_types::JobId(7));
        ids.push(queue.event("noted", job, None, &format!("{n}")).await.unwrap().id);
    }
    let of = async |after, limit| {
        let events = queue.events_of(vcl_types::JobId(7), after, limit).await.unwrap();
        events.into_iter().map(|event| event.message).collect::<Vec<_>>()
    };
    assert_eq!(of(None, 2).await, ["2", "4"], "the newest, in their order");
    assert_eq!(of(Some(0), 2).await, ["0", "2"]);
    assert_eq!(of(Some(ids[2]), 9).await, ["4"]);
}
