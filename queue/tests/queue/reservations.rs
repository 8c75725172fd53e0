use super::world::{World, load, name, unload};
use vcl_queue::Kind;
use vcl_types::ReservationId;
use vcl_types::state::reservation::{Event, State};

#[tokio::test]
async fn a_reservation_lives_from_its_load_to_its_unload() {
    let world = World::new().await;
    let a = name("a");
    let image = "debian@1".parse().unwrap();
    let claim = world.running(load("a", "debian")).await;
    let id = world.queue.open_reservation(&claim, "ann", &a, &image).await.unwrap();
    assert_eq!(world.queue.open_reservation(&claim, "ann", &a, &image).await.unwrap(), id);
    assert_eq!(world.queue.reservation(id).await.unwrap().state, State::Loading);
    let loaded = async || world.queue.reservation_event(&claim, "ready", id, Event::Loaded).await;
    assert_eq!(loaded().await.unwrap(), State::Ready);
    assert_eq!(loaded().await.unwrap(), State::Ready);
    let error = world.queue.reservation_event(&claim, "x", id, Event::Requeue).await.unwrap_err();
    assert_eq!(error.kind, Kind::Refused);
    assert_eq!(world.queue.computer(&a).await.unwrap().reservation, Some(id));
    world.done(&claim).await;

    let other = world.running(load("a", "debian")).await;
    let error = world.queue.open_reservation(&other, "bob", &a, &image).await.unwrap_err();
    let message = "a is reserved for ann (reservation 1); unload it first";
    assert_eq!((error.kind, error.context.as_str()), (Kind::Busy, message));
    world.done(&other).await;

    let claim = world.running(unload("a")).await;
    world.queue.end_reservation(&claim, id, "given back").await.unwrap();
    world.queue.end_reservation(&claim, id, "another reason").await.unwrap();
    let ended = world.queue.reservation(id).await.unwrap();
    assert_eq!((ended.state, ended.ended_because.as_deref()), (State::Ended, Some("given back")));
    assert_eq!(world.queue.computer(&a).await.unwrap().reservation, None);
    assert_eq!(world.queue.reservations_of(None, true, None, 10).await.unwrap(), []);
    assert_eq!(world.queue.reservations_of(None, false, None, 10).await.unwrap(), [ended]);
    let next = world.queue.open_reservation(&claim, "bob", &a, &image).await.unwrap();
    assert_eq!(next, ReservationId(2));
}

#[tokio::test]
async fn only_the_job_that_holds_the_computer_changes_its_reservation() {
    let world = World::new().await;
    let image = "debian@1".parse().unwrap();
    let (first, second) =
        (world.running(load("a", "debian")).await, world.running(load("b", "debian")).await);
    let id = world.queue.open_reservation(&first, "ann", &name("a"), &image).await.unwrap();
    let error = world.queue.end_reservation(&second, id, "x").await.unwrap_err();
    assert_eq!(error.kind, Kind::Refused);
    let error = world.queue.open_reservation(&second, "ann", &name("a"), &image).await.unwrap_err();
    assert_eq!(error.kind, Kind::Refused);
    let error = world.queue.end_reservation(&first, ReservationId(9), "x").await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    world.done(&first).await;
    let error = world.queue.end_reservation(&first, id, "x").await.unwrap_err();
    assert_eq!(error.kind, Kind::LeaseLost);
}
