//! Reservations whose jobs end without what they were for, and computers that are not theirs any more.

use super::world::{World, loaded, name};
use chrono::{DateTime, Utc};
use vcl_queue::{Assignment, Claim, Ended, NewReservation, Places, TakenUp};
use vcl_types::lending::{Purpose, ReservationRequest, Times};
use vcl_types::state::job::Event;
use vcl_types::state::reservation::State;
use vcl_types::state::{computer, job};
use vcl_types::{ComputerName, ImageRef, JobId, JobRequest, ReservationId};

fn image() -> ImageRef {
    "debian@1".parse().unwrap()
}

async fn reserved(world: &World, now: DateTime<Utc>) -> ReservationId {
    let asked: ReservationRequest = serde_json::from_value(serde_json::json!({ "image": "debian" })).unwrap();
    let new = NewReservation {
        owner: "ann".into(),
        group: None,
        purpose: Purpose::Use,
        class: None,
        asked,
        times: Times::default(),
        now,
        start: now,
        end: None,
        length_s: Some(3600),
        booked: None,
        shown: None,
        hours: None,
    };
    world.queue.reserve(new).await.unwrap()
}

async fn assigned(world: &World, id: ReservationId, computer: &ComputerName, now: DateTime<Utc>) -> JobId {
    let assignment = Assignment {
        reservation: id,
        computer: computer.clone(),
        image: image(),
        now,
        end: None,
        places: Places { owner: None, group: None, image: None },
        host: None,
    };
    world.queue.assign(assignment).await.unwrap()
}

async fn claimed(world: &World, job: JobId) -> Claim {
    let claim = world.claim().await.unwrap();
    assert_eq!(claim.id(), job);
    claim
}

#[tokio::test]
async fn a_reservation_whose_lending_was_called_off_before_it_began_waits_for_another_computer() {
    let world = World::new().await;
    let (queue, now) = (&world.queue, Utc::now());
    let id = reserved(&world, now).await;
    for computer in ["a", "b"] {
        let job = assigned(&world, id, &name(computer), now).await;
        assert_eq!(queue.forsaken().await.unwrap(), [], "its job has not ended");
        queue.cancel(job).await.unwrap();
        assert_eq!(queue.forsaken().await.unwrap(), [(id, job)]);
        assert_eq!(queue.take_up(id, job, now).await.unwrap(), TakenUp::Waits);
        assert_eq!(queue.take_up(id, job, now).await.unwrap(), TakenUp::Nothing, "somebody was faster");
        let row = queue.reservation(id).await.unwrap();
        assert_eq!((row.state, row.computer.as_ref(), row.image.revision), (State::Queued, None, None));
        assert_eq!(row.start, Some(row.since), "it has waited since it was asked for");
    }
    let job = assigned(&world, id, &name("c"), now).await;
    queue.cancel(job).await.unwrap();
    queue.take_up(id, job, now).await.unwrap();
    let row = queue.reservation(id).await.unwrap();
    let because = "3 loads for it failed, the last of c";
    assert_eq!((row.state, row.ended_because.as_deref()), (State::Ended, Some(because)));
    assert_eq!(queue.forsaken().await.unwrap(), []);
}

#[tokio::test]
async fn a_computer_is_taken_back_by_another_job_when_one_has_not_done_it() {
    let world = World::new().await;
    let (queue, now, a) = (&world.queue, Utc::now(), name("a"));
    let id = reserved(&world, now).await;
    let lends = assigned(&world, id, &a, now).await;
    let claim = claimed(&world, lends).await;
    queue.begin_lending(&claim, "give", id, &a, vcl_queue::Lending::Load).await.unwrap();
    queue.filled(&claim, "fill", &a, &loaded("debian@1"), false).await.unwrap();
    queue.taint(&claim, &a).await.unwrap();
    queue.usable(&claim, "usable", id, now).await.unwrap();
    world.done(&claim).await;

    let Ended::Ending(takes) = queue.end(id, "enough", now, false).await.unwrap() else {
        panic!("it has a computer")
    };
    let claim = claimed(&world, takes).await;
    queue.finish(&claim, Event::Fail, Some("its host does not answer"), None).await.unwrap();
    assert_eq!(queue.forsaken().await.unwrap(), [(id, takes)]);
    let TakenUp::Again(again) = queue.take_up(id, takes, now).await.unwrap() else {
        panic!("it still has its computer")
    };
    assert_eq!(
        queue.job(again).await.unwrap().request,
        JobRequest::Return { reservation: id, computer: a.clone() }
    );
    let claim = claimed(&world, again).await;
    queue.returned(&claim, "end", id, &a, false, now).await.unwrap();
    queue.returned(&claim, "end", id, &a, false, now).await.unwrap();
    world.done(&claim).await;
    let seat = queue.computer(&a).await.unwrap();
    assert_eq!((seat.state, seat.loaded, seat.tainted), (computer::State::Available, None, false));
    let row = queue.reservation(id).await.unwrap();
    assert_eq!((row.state, row.ended_because.as_deref()), (State::Ended, Some("enough")));
    assert_eq!(queue.forsaken().await.unwrap(), []);
}

#[tokio::test]
async fn what_is_taken_back_of_a_computer_that_was_never_had_is_nothing() {
    let world = World::new().await;
    let (queue, now, a) = (&world.queue, Utc::now(), name("a"));
    let prepare = world.running(JobRequest::Prepare { computer: a.clone(), image: image() }).await;
    queue.computer_event(&prepare, "take", &a, computer::Event::Load).await.unwrap();
    queue.filled(&prepare, "fill", &a, &loaded("debian@1"), true).await.unwrap();
    world.done(&prepare).await;

    let id = reserved(&world, now).await;
    let lends = assigned(&world, id, &a, now).await;
    let Ended::Ending(takes) = queue.end(id, "another plan", now, false).await.unwrap() else {
        panic!("it has a computer")
    };
    assert_eq!(queue.job(lends).await.unwrap().state, job::State::Cancelled);
    let claim = claimed(&world, takes).await;
    queue.returned(&claim, "end", id, &a, false, now).await.unwrap();
    world.done(&claim).await;
    assert_eq!(queue.reservation(id).await.unwrap().state, State::Ended);
    let seat = queue.computer(&a).await.unwrap();
    assert_eq!(seat.state, computer::State::Available);
    assert_eq!(seat.loaded.map(|l| l.image), Some(image()), "it is as warm as it was");
}
