//! What the scheduler does with reservations, the seats of classes and limits.

use super::world::{World, claimed, class, loading, name, new, ready};
use chrono::{DateTime, TimeDelta, Utc};
use vcl_queue::{ClassRow, Ended, Kind, NewReservation};
use vcl_types::lending::{Purpose, ReservationRequest, Wish};
use vcl_types::state::reservation::State;
use vcl_types::{JobRequest, ReservationId};

/// Seats of a class that goes on since an hour and for another, and its row.
async fn seats(world: &World, now: DateTime<Utc>) -> (ClassRow, Vec<ReservationId>) {
    let (start, end) = (now - TimeDelta::hours(1), now + TimeDelta::hours(1));
    world.queue.keep_class(class(start)).await.unwrap();
    let class = world.queue.class("maps").await.unwrap();
    let offered: Vec<_> = (0..3).map(|_| seat(&class, start, end)).collect();
    assert_eq!(world.queue.add_seats(&class, start, end, offered, None).await.unwrap(), (3, 0));
    let seats = free_seats(world, &class).await;
    (class, seats)
}

/// Seats that nobody has taken.
async fn free_seats(world: &World, class: &ClassRow) -> Vec<ReservationId> {
    let mut rows = world.queue.reservations_open().await.unwrap();
    rows.retain(|row| {
        row.class == Some(class.id) && row.purpose == Purpose::Seat && row.state != State::Ending
    });
    rows.into_iter().map(|row| row.id).collect()
}

fn seat(class: &ClassRow, start: DateTime<Utc>, end: DateTime<Utc>) -> NewReservation {
    let new = new(start - TimeDelta::days(14));
    let asked = ReservationRequest { wish: class.wish.clone(), start: Some(start), ..new.asked };
    NewReservation {
        owner: class.owner.clone(),
        purpose: Purpose::Seat,
        class: Some(class.id),
        start,
        end: Some(end),
        length_s: Some(7200),
        asked,
        ..new
    }
}

#[tokio::test]
async fn a_seat_is_ended_wherever_it_is_unless_somebody_has_it() {
    let world = World::new().await;
    let (queue, now) = (&world.queue, Utc::now());
    let (_, ids) = seats(&world, now).await;
    let [waits, loaded, taken] = ids[..] else { panic!("three seats") };
    for id in [waits, loaded, taken] {
        queue.reservation_due(id).await.unwrap();
    }
    let claim = ready(&world, loaded, &name("a"), now).await;
    world.done(&claim).await;
    queue.take_seat(taken, "bob", &new(now).asked, now).await.unwrap();
    let end = async |id| queue.end_seat(id, "the class is over", now).await.unwrap();
    assert_eq!(end(taken).await, Ended::Already, "it is his");
    assert_eq!(queue.reservation(taken).await.unwrap().state, State::Queued);
    assert_eq!(end(waits).await, Ended::Over);
    let Ended::Ending(takes) = end(loaded).await else { panic!("its computer is taken back") };
    let request = JobRequest::Return { reservation: loaded, computer: name("a") };
    assert_eq!(queue.job(takes).await.unwrap().request, request);
    assert_eq!(end(loaded).await, Ended::Already);
}

#[tokio::test]
async fn a_seat_that_is_taken_is_still_what_its_class_needs() {
    let world = World::new().await;
    let (queue, now) = (&world.queue, Utc::now());
    let (class, ids) = seats(&world, now).await;
    let [first, second, third] = ids[..] else { panic!("three seats") };
    for id in [first, second, third] {
        queue.reservation_due(id).await.unwrap();
    }
    let claim = ready(&world, first, &name("a"), now).await;
    world.done(&claim).await;
    let asked = ReservationRequest { keys: vec!["ssh-ed25519 AAAA".into()], ..new(now).asked };
    let lets_in = queue.take_seat(first, "bob", &asked, now).await.unwrap().unwrap();
    assert_eq!(queue.job(lets_in).await.unwrap().requester, "bob");
    let row = queue.reservation(first).await.unwrap();
    let seat = row.asked.unwrap();
    assert_eq!((row.owner.as_str(), &seat.keys), ("bob", &asked.keys));
    assert_eq!((&seat.wish, seat.start), (&class.wish, Some(now - TimeDelta::hours(1))));
    assert_ne!(seat.wish, Wish::default());
    assert_eq!(row.since.timestamp_millis(), now.timestamp_millis(), "it is waited for from now on");
    // A second click, which looked when he had none.
    let error = queue.take_seat(second, "bob", &asked, now).await.unwrap_err();
    assert_eq!(error.kind, Kind::Busy, "{error}");
    assert!(queue.take_seat(first, "carol", &asked, now).await.is_err(), "it is his");
    queue.take_seat(second, "carol", &asked, now).await.unwrap();
    assert_eq!(free_seats(&world, &class).await, [third]);
}

#[tokio::test]
async fn no_seats_are_added_to_a_class_that_has_ended_meanwhile() {
    let world = World::new().await;
    let (queue, now) = (&world.queue, Utc::now());
    queue.keep_class(class(now)).await.unwrap();
    let class = queue.class("maps").await.unwrap();
    queue.end_class("maps", now).await.unwrap();
    let (start, end) = (now + TimeDelta::hours(1), now + TimeDelta::hours(2));
    let offered = vec![seat(&class, start, end)];
    assert_eq!(queue.add_seats(&class, start, end, offered, None).await.unwrap(), (0, 0));
    assert!(free_seats(&world, &class).await.is_empty());
}

#[tokio::test]
async fn a_booking_that_began_during_the_load_ends_what_was_loaded() {
    let world = World::new().await;
    let (queue, now, a) = (&world.queue, Utc::now(), name("a"));
    let minutes = |n| now + TimeDelta::minutes(n);
    let short = NewReservation { end: Some(minutes(10)), ..new(now) };
    let id = queue.reserve(short).await.unwrap();
    let booking = NewReservation {
        start: minutes(30),
        end: Some(minutes(90)),
        booked: Some(a.clone()),
        owner: "bob".into(),
        ..new(now)
    };
    let booking = queue.reserve(booking).await.unwrap();
    let claim = loading(&world, id, &a, now).await;
    // The load takes its time, and the other one's comes.
    queue.reservation_due(booking).await.unwrap();
    queue.usable(&claim, "usable", id, minutes(40)).await.unwrap();
    let end = queue.reservation(id).await.unwrap().end.unwrap();
    assert_eq!(end.timestamp_millis(), minutes(40).timestamp_millis(), "the computer is the other one's");
}

#[tokio::test]
async fn what_is_being_taken_back_takes_no_hours_to_come() {
    let world = World::new().await;
    let (queue, now) = (&world.queue, Utc::now());
    let hour = || NewReservation { hours: Some(1), ..new(now) };
    let id = queue.reserve(hour()).await.unwrap();
    assert_eq!(queue.reserve(hour()).await.unwrap_err().kind, Kind::Refused);
    let claim = ready(&world, id, &name("a"), now).await;
    world.done(&claim).await;
    assert_eq!(queue.reserve(hour()).await.unwrap_err().kind, Kind::Refused);
    let Ended::Ending(takes) = queue.end_telling(id, "enough", now, false, None).await.unwrap() else {
        panic!("it has a computer")
    };
    claimed(&world, takes).await;
    queue.reserve(hour()).await.unwrap();
}

#[tokio::test]
async fn a_group_may_have_as_long_a_name_as_groups_have() {
    let world = World::new().await;
    let (queue, now) = (&world.queue, Utc::now());
    let group = Some("g".repeat(120));
    let id = queue.reserve(NewReservation { group: group.clone(), ..new(now) }).await.unwrap();
    queue.end_telling(id, "another plan", now, false, None).await.unwrap();
    assert_eq!(queue.usage(now, now + TimeDelta::hours(1), 9).await.unwrap()[0].group, group);
    queue.keep_class(ClassRow { group: group.clone(), ..class(now) }).await.unwrap();
    assert_eq!(queue.class("maps").await.unwrap().group, group);
}
