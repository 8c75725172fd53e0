//! Reservations whose jobs end without what they were for, and computers that are not theirs any more.

use super::world::{World, assigned, claimed, loaded, name, new, ready, reserved};
use chrono::{TimeDelta, Utc};
use vcl_queue::{Ended, NewReservation, TakenUp};
use vcl_types::lending::Purpose;
use vcl_types::notices::NoticeKind;
use vcl_types::state::job::Event;
use vcl_types::state::reservation::State;
use vcl_types::state::{computer, job};
use vcl_types::{ImageRef, JobRequest};

fn image() -> ImageRef {
    "debian@1".parse().unwrap()
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
    let claim = ready(&world, id, &a, now).await;
    world.done(&claim).await;

    let Ended::Ending(takes) = queue.end_telling(id, "enough", now, false, None).await.unwrap() else {
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
    assert!(queue.returned(&claim, "end", id, &a, false, now).await.unwrap());
    assert!(!queue.returned(&claim, "end", id, &a, false, now).await.unwrap());
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
    let Ended::Ending(takes) = queue.end_telling(id, "another plan", now, false, None).await.unwrap() else {
        panic!("it has a computer")
    };
    assert_eq!(queue.job(lends).await.unwrap().state, job::State::Cancelled);
    let claim = claimed(&world, takes).await;
    assert!(!queue.returned(&claim, "end", id, &a, false, now).await.unwrap());
    world.done(&claim).await;
    assert_eq!(queue.reservation(id).await.unwrap().state, State::Ended);
    let seat = queue.computer(&a).await.unwrap();
    assert_eq!(seat.state, computer::State::Available);
    assert_eq!(seat.loaded.map(|l| l.image), Some(image()), "it is as warm as it was");
}

#[tokio::test]
async fn one_whose_computer_was_not_loaded_anew_has_the_usual_time_to_come_again() {
    let world = World::new().await;
    let (queue, now, a) = (&world.queue, Utc::now(), name("a"));
    let id = reserved(&world, now).await;
    let claim = ready(&world, id, &a, now).await;
    world.done(&claim).await;
    assert_eq!(queue.seen(id, true, now).await.unwrap(), State::InUse);
    let anew = queue.reload(id, &image(), None).await.unwrap();
    queue.cancel(anew).await.unwrap();
    let later = now + TimeDelta::minutes(20);
    assert_eq!(queue.take_up(id, anew, later).await.unwrap(), TakenUp::Kept);
    let row = queue.reservation(id).await.unwrap();
    let at = |at: Option<chrono::DateTime<Utc>>| at.map(|at| at.timestamp_millis());
    let later = Some(later.timestamp_millis());
    assert_eq!((row.state, at(row.seen), at(row.acknowledged)), (State::Ready, later, later));
}

#[tokio::test]
async fn one_that_was_handed_over_by_a_lending_that_is_undone_ends() {
    let world = World::new().await;
    let (queue, now, a) = (&world.queue, Utc::now(), name("a"));
    let id = reserved(&world, now).await;
    let claim = ready(&world, id, &a, now).await;
    // The life that handed it over died; the next one undoes it, because it was called off meanwhile.
    queue.unlend(&claim, "undo", id, &a, false, now).await.unwrap();
    queue.unlend(&claim, "undo", id, &a, false, now).await.unwrap();
    queue.finish(&claim, Event::Fail, Some("called off"), None).await.unwrap();
    let row = queue.reservation(id).await.unwrap();
    assert_eq!(row.state, State::Ending, "its machine is gone");
    let told = queue.take_notices("node", TimeDelta::minutes(1), 9).await.unwrap();
    assert_eq!(told.iter().map(|n| n.kind).collect::<Vec<_>>(), [NoticeKind::Ready, NoticeKind::GivenUp]);
    let claim = claimed(&world, row.job.unwrap()).await;
    assert_eq!(claim.job.request, JobRequest::Return { reservation: id, computer: a.clone() });
    queue.returned(&claim, "end", id, &a, false, now).await.unwrap();
    world.done(&claim).await;
    assert_eq!(queue.reservation(id).await.unwrap().state, State::Ended);
    assert_eq!(queue.computer(&a).await.unwrap().state, computer::State::Available);
}

/// One for imaging that is ending, and whose capture fails again and again from now on.
async fn imaging(world: &World) -> (vcl_types::ReservationId, vcl_types::JobId) {
    let (queue, now, a) = (&world.queue, Utc::now(), name("a"));
    let asked = NewReservation { purpose: Purpose::Imaging, ..new(now) };
    let id = queue.reserve(asked).await.unwrap();
    let claim = ready(world, id, &a, now).await;
    world.done(&claim).await;
    queue.seen(id, true, now).await.unwrap();
    let Ended::Ending(takes) = queue.end_telling(id, "enough", now, false, None).await.unwrap() else {
        panic!("it has a computer")
    };
    (id, takes)
}

#[tokio::test]
async fn a_capture_that_fails_is_tried_later_and_later_and_then_somebody_is_told() {
    let world = World::new().await;
    let (queue, a) = (&world.queue, name("a"));
    let (id, mut takes) = imaging(&world).await;
    let mut now = Utc::now();
    for minutes in [2, 4, 8, 16, 32] {
        let claim = claimed(&world, takes).await;
        queue.finish(&claim, Event::Fail, Some("no space"), None).await.unwrap();
        assert_eq!(queue.take_up(id, takes, now).await.unwrap(), TakenUp::Nothing);
        now += TimeDelta::minutes(minutes) - TimeDelta::seconds(1);
        assert_eq!(queue.take_up(id, takes, now).await.unwrap(), TakenUp::Nothing, "after {minutes} min");
        now += TimeDelta::seconds(1);
        let TakenUp::Again(again) = queue.take_up(id, takes, now).await.unwrap() else {
            panic!("it is time after {minutes} min")
        };
        takes = again;
    }
    let claim = claimed(&world, takes).await;
    queue.finish(&claim, Event::Fail, Some("no space"), None).await.unwrap();
    assert_eq!(queue.take_up(id, takes, now).await.unwrap(), TakenUp::GivenUp);
    now += TimeDelta::days(1);
    assert_eq!(queue.take_up(id, takes, now).await.unwrap(), TakenUp::Nothing);
    let seat = queue.computer(&a).await.unwrap();
    assert_eq!(seat.state, computer::State::Maintenance);
    assert!(seat.loaded.is_some(), "what its user made is there");
    let reason = seat.reason.unwrap();
    assert!(
        reason.contains(&format!("vclctl release {id} --discard")) && reason.contains("no space"),
        "{reason}"
    );
    let told = queue.take_notices("node", TimeDelta::minutes(1), 9).await.unwrap();
    assert!(told.iter().any(|n| n.kind == NoticeKind::Maintenance && n.to.is_none()));

    // Its cause is gone: it is tried again.
    let Ended::Ending(again) = queue.end_telling(id, "", now, false, None).await.unwrap() else {
        panic!("it is tried again")
    };
    assert!(!queue.reservation(id).await.unwrap().discard);
    let claim = claimed(&world, again).await;
    assert!(queue.computer(&a).await.unwrap().is_lent_for(id));
    queue.returned(&claim, "end", id, &a, false, now).await.unwrap();
    world.done(&claim).await;
    assert_eq!(queue.reservation(id).await.unwrap().state, State::Ended);
    let seat = queue.computer(&a).await.unwrap();
    assert_eq!((seat.state, seat.reason, seat.loaded), (computer::State::Available, None, None));
}

#[tokio::test]
async fn what_is_being_captured_can_be_thrown_away_instead() {
    let world = World::new().await;
    let (queue, now) = (&world.queue, Utc::now());
    let (id, takes) = imaging(&world).await;
    let claim = claimed(&world, takes).await;
    let again = async |discard| queue.end_telling(id, "", now, discard, None).await.unwrap();
    assert_eq!(again(false).await, Ended::Already, "it is on its way");
    let Ended::Ending(instead) = again(true).await else { panic!("without a capture") };
    assert_eq!(again(true).await, Ended::Already);
    assert!(queue.job(takes).await.unwrap().cancel_wanted);
    queue.finish(&claim, Event::RolledBack, None, None).await.unwrap();
    assert_eq!(queue.take_up(id, takes, now).await.unwrap(), TakenUp::Nothing);
    let row = queue.reservation(id).await.unwrap();
    assert_eq!((row.state, row.discard, row.job), (State::Ending, true, Some(instead)));
    claimed(&world, instead).await;
}
