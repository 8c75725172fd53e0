//! Lives of reservations on a simulated world under a turned clock: a real queue, library, worker and backend; only the
//! time is ours.

mod chance;
mod classes;
mod guacamole;
mod image_tests;
mod nat;
mod replay;
mod report;
mod scene;
mod turns;
mod week;
mod workload;

use scene::Scene;
use std::sync::atomic::Ordering;
use vcl_queue::Arrival;
use vcl_types::api::{NewUser, UserChange};
use vcl_types::lending::{Extend, Purpose};
use vcl_types::notices::NoticeKind;
use vcl_types::people::{Source, UserName};
use vcl_types::state::{computer, reservation};
use vcl_types::{JobRequest, OsName};

#[tokio::test]
async fn a_reservation_lives_from_its_asking_to_its_end() {
    let scene = Scene::new(2).await;
    let grabbed = scene.node.reserve(scene.wish(), "alice").await.unwrap();
    let id = grabbed.reservation.as_ref().unwrap().id;
    assert_eq!(grabbed.choice.unwrap().computer.as_str(), "c1");
    scene.quiet().await;
    let ready = scene.reservation(id).await;
    assert_eq!(ready.state, reservation::State::Ready);
    assert_eq!(ready.connect.len(), 1);
    assert_eq!(scene.computer("c1").await.state, computer::State::Reserved);

    scene.comes(id).await;
    assert_eq!(scene.reservation(id).await.state, reservation::State::InUse);
    assert_eq!(scene.computer("c1").await.state, computer::State::InUse);
    scene.node.extend(id, Extend { by_s: Some(3600), until: None }, "alice").await.unwrap();

    scene.turn(5 * 3600 - 1).await;
    assert_eq!(scene.reservation(id).await.state, reservation::State::InUse);
    scene.turn(1).await;
    let over = scene.reservation(id).await;
    assert_eq!(over.state, reservation::State::Ended);
    assert_eq!(over.ended_because.as_deref(), Some("its time is over"));
    assert_eq!(scene.computer("c1").await.state, computer::State::Available);
    let usage = scene.node.queue.last_usage(10).await.unwrap();
    assert_eq!(usage.len(), 1);
    assert_eq!(usage[0].owner, "alice");
    assert_eq!((usage[0].ended - usage[0].usable.unwrap()).num_hours(), 5);
    scene.close().await;
}

#[tokio::test]
async fn whoever_does_not_come_loses_the_computer_and_who_waits_gets_it() {
    let scene = Scene::new(1).await;
    let first = scene.reserve(scene.wish(), "alice").await;
    let grabbed = scene.node.reserve(scene.wish(), "bob").await.unwrap();
    let second = grabbed.reservation.unwrap();
    assert_eq!(second.state, reservation::State::Queued);
    assert_eq!(second.waiting.unwrap().position, 1);
    scene.turn(901).await;
    let over = scene.reservation(first).await;
    assert_eq!(over.ended_because.as_deref(), Some("its user did not say that they come"));
    assert_eq!(scene.reservation(second.id).await.state, reservation::State::Ready);
    scene.close().await;
}

#[tokio::test]
async fn whose_computer_an_administrator_unloads_is_told() {
    let scene = Scene::new(2).await;
    let id = scene.reserve(scene.wish(), "alice").await;
    let before = scene.told().await;
    assert_eq!(before.iter().map(|row| row.kind).collect::<Vec<_>>(), [NoticeKind::Ready]);
    scene.job(JobRequest::Unload { computer: "c1".parse().unwrap() }).await;
    assert_eq!(scene.reservation(id).await.state, reservation::State::Ended);
    let told = scene.told().await;
    let seen: Vec<_> =
        told.iter().map(|row| (row.kind, row.to.as_deref(), row.facts.get("because"))).collect();
    let because = scene.reservation(id).await.ended_because;
    assert_eq!(seen, [(NoticeKind::Ended, Some("alice"), because.as_ref())]);
    // A load of an administrator's own is nobody's to be told of.
    for request in [
        JobRequest::Load { computer: "c2".parse().unwrap(), image: "gis@1".parse().unwrap() },
        JobRequest::Unload { computer: "c2".parse().unwrap() },
    ] {
        scene.job(request).await;
    }
    assert_eq!(scene.told().await, []);
    scene.close().await;
}

/// A file server knows people by numbers.
#[tokio::test]
async fn an_account_in_a_guest_has_its_users_number() {
    let scene = Scene::new(1).await;
    let queue = &scene.node.queue;
    let name: UserName = "alice".parse().unwrap();
    let new = NewUser { name: name.clone(), source: Source::Local, full_name: None, mail: None };
    queue.add_user(new).await.unwrap();
    let set =
        async |uid| queue.change_user("alice", UserChange { uid: Some(uid), ..UserChange::default() }).await;
    assert!(set(65_534).await.unwrap_err().context.contains("no user id of a person"));
    set(20_417).await.unwrap();
    let mut wish = scene.wish();
    wish.with = vec!["bob".into()];
    let id = scene.reserve(wish, "alice").await;
    let uids = async || {
        let row = queue.reservation(id).await.unwrap();
        let access = scene.node.access_of(&row, OsName::Linux).await.unwrap();
        access.check().unwrap();
        access.accounts.iter().map(|a| a.uid).collect::<Vec<_>>()
    };
    assert_eq!(uids().await, [Some(20_417), None]);
    // A directory that says nothing of it changes nothing.
    let arrival = |uid| {
        let name = name.clone();
        Arrival { name, source: Source::Local, full_name: None, mail: None, groups: None, uid }
    };
    queue.arrive(arrival(None)).await.unwrap();
    assert_eq!(queue.user("alice").await.unwrap().uid, Some(20_417));
    queue.arrive(arrival(Some(300_001))).await.unwrap();
    queue.arrive(arrival(Some(0))).await.unwrap();
    assert_eq!(uids().await, [Some(300_001), None]);
    set(0).await.unwrap();
    assert_eq!(uids().await, [None, None]);
    scene.close().await;
}

#[tokio::test]
async fn one_that_begins_later_is_kept_a_computer_and_loaded_ahead() {
    let scene = Scene::new(1).await;
    let mut wish = scene.wish();
    wish.start = Some(scene.node.clock.now() + chrono::TimeDelta::hours(6));
    let id = scene.reserve(wish.clone(), "alice").await;
    assert_eq!(scene.reservation(id).await.booked.unwrap().as_str(), "c1");
    // Another one over the same time is refused, and a short one before it is not.
    let refused = scene.node.reserve(wish, "bob").await.unwrap_err();
    assert!(refused.message.contains("kept for reservation"), "{}", refused.message);
    let mut short = scene.wish();
    short.length_s = Some(3600);
    let before = scene.reserve(short, "bob").await;
    scene.node.release(before, false, "bob").await.unwrap();
    scene.turn(6 * 3600 - 2000).await;
    let seat = scene.computer("c1").await;
    assert_eq!(seat.state, computer::State::Available);
    assert_eq!(seat.loaded.unwrap().image.to_string(), "gis@1");
    scene.turn(2000).await;
    assert_eq!(scene.reservation(id).await.state, reservation::State::Ready);
    scene.close().await;
}

#[tokio::test]
async fn a_server_has_no_end_and_is_not_watched() {
    let scene = Scene::new(1).await;
    let mut wish = scene.wish();
    wish.purpose = Purpose::Server;
    let id = scene.reserve(wish, "alice").await;
    scene.turn(40 * 86_400).await;
    assert_eq!(scene.reservation(id).await.state, reservation::State::Ready);
    scene.node.release(id, false, "alice").await.unwrap();
    scene.quiet().await;
    assert_eq!(scene.reservation(id).await.state, reservation::State::Ended);
    scene.close().await;
}

#[tokio::test]
async fn a_computer_whose_load_fails_is_avoided() {
    let scene = Scene::new(2).await;
    scene.break_next_load("c1");
    let id = scene.reserve(scene.wish(), "alice").await;
    let row = scene.node.queue.reservation(id).await.unwrap();
    assert_eq!((row.state, row.tries), (reservation::State::Ready, 1));
    assert_eq!(row.computer.unwrap().as_str(), "c2");
    scene.close().await;
}

#[tokio::test]
async fn a_lending_that_is_tried_again_does_not_take_the_computer_from_who_has_it_now() {
    let scene = Scene::new(2).await;
    scene.break_next_load("c1");
    scene.reserve(scene.wish(), "alice").await;
    let jobs = scene.node.jobs(None, 1000).await.unwrap();
    let failed = jobs.iter().find(|job| job.state == vcl_types::state::job::State::Failed).unwrap().id;
    let bob = scene.reserve(scene.wish(), "bob").await;
    assert_eq!(scene.reservation(bob).await.computer.unwrap().as_str(), "c1");
    scene.node.queue.retry(failed).await.unwrap();
    scene.quiet().await;
    let job = scene.node.queue.job(failed).await.unwrap();
    let why = job.reason.unwrap();
    assert!(why.contains("on c2, and waits for this no more"), "{why}");
    assert_eq!(scene.reservation(bob).await.state, reservation::State::Ready);
    assert_eq!(scene.computer("c1").await.state, computer::State::Reserved);
    scene.close().await;
}

#[tokio::test]
async fn who_could_not_be_seen_for_a_while_has_the_whole_time_to_come_again() {
    let scene = Scene::new(1).await;
    let id = scene.reserve(scene.wish(), "alice").await;
    scene.comes(id).await;
    // Its guest was silent, or a job had the computer, for longer than one may be away.
    scene.turn(3600).await;
    scene.node.queue.seen(id, false, scene.node.clock.now()).await.unwrap();
    scene.turn(600).await;
    assert_eq!(scene.reservation(id).await.state, reservation::State::Ready);
    scene.turn(301).await;
    let over = scene.reservation(id).await;
    assert_eq!(over.ended_because.as_deref(), Some("nobody was connected any more"));
    scene.close().await;
}

#[tokio::test]
async fn nobody_loses_a_computer_because_its_guest_is_silent() {
    let scene = Scene::new(2).await;
    let mut wish = scene.wish();
    wish.purpose = Purpose::Imaging;
    let [built, away] = [scene.reserve(wish.clone(), "alice").await, scene.reserve(wish, "bob").await];
    for id in [built, away] {
        scene.node.connect(id, None).await.unwrap();
    }
    scene.quiet().await;
    // Their node is down for longer than one may stay away.
    scene.silent.store(true, Ordering::SeqCst);
    scene.turn(3600).await;
    for id in [built, away] {
        assert_eq!(scene.reservation(id).await.state, reservation::State::Ready);
    }
    // What one guest says ends one reservation, and a revision of nothing is not made of it.
    scene.node.queue.seen(away, false, scene.node.clock.now()).await.unwrap();
    scene.quiet().await;
    let over = scene.reservation(away).await;
    assert_eq!(over.ended_because.as_deref(), Some("its user did not connect"));
    let revisions = async || scene.node.queue.image(&"gis".parse().unwrap()).await.unwrap().revisions.len();
    assert_eq!(revisions().await, 1);
    // The other's user may have been there all the time.
    scene.turn(3 * 3600).await;
    let over = scene.reservation(built).await;
    assert_eq!(over.ended_because.as_deref(), Some("its time is over"));
    assert_eq!(revisions().await, 2);
    scene.close().await;
}

/// The node that gives a notice need not be the one that has the guest.
#[tokio::test]
async fn what_one_node_tells_a_user_every_node_knows_to_say_once() {
    let scene = Scene::new(1).await;
    let id = scene.reserve(scene.wish(), "alice").await;
    scene.comes(id).await;
    let other = super::Memory::default();
    let news = async |memory: &super::Memory| {
        let rows = scene.node.queue.reservations_open().await.unwrap();
        memory.news(&rows).into_iter().map(|(row, seconds)| (row.id, seconds)).collect::<Vec<_>>()
    };
    assert_eq!(news(&other).await, []);
    scene.turn(4 * 3600 - 600).await;
    assert_eq!(news(&other).await, [(id, 600)]);
    assert_eq!(news(&other).await, []);
    scene.turn(300).await;
    assert_eq!(news(&other).await, [(id, 300)]);
    // Of one that lasts longer its user is told again.
    scene.node.extend(id, Extend { by_s: Some(3600), until: None }, "alice").await.unwrap();
    assert_eq!(news(&other).await, []);
    scene.turn(3300).await;
    assert_eq!(news(&other).await, [(id, 600)]);
    // One that was started anew says nothing twice.
    assert_eq!(news(&super::Memory::default()).await, []);
    scene.close().await;
}

#[tokio::test]
async fn a_computer_somebody_could_have_used_is_loaded_anew_for_the_next() {
    let scene = Scene::new(1).await;
    let id = scene.reserve(scene.wish(), "alice").await;
    assert!(scene.computer("c1").await.tainted);
    scene.node.release(id, false, "alice").await.unwrap();
    scene.quiet().await;
    let seat = scene.computer("c1").await;
    assert_eq!((seat.state, seat.loaded, seat.tainted), (computer::State::Available, None, false));
    scene.close().await;
}

#[tokio::test]
async fn a_pool_is_filled_and_not_filled_over() {
    let scene = Scene::with(8, "[reservations]\nafter_use = \"nothing\"\n[image.gis]\nwarm = 4\n").await;
    let warm = async || {
        let all = scene.node.queue.computers().await.unwrap();
        all.into_iter().filter(|row| row.loaded.is_some() && row.reservation.is_none()).count()
    };
    scene.quiet().await;
    assert_eq!(warm().await, 4);
    // One that is taken is made up for.
    scene.reserve(scene.wish(), "alice").await;
    assert_eq!(warm().await, 4);
    scene.close().await;
}

#[tokio::test]
async fn the_only_computer_that_will_do_is_tried_again() {
    let scene = Scene::new(2).await;
    scene.break_next_load("c1");
    let mut wish = scene.wish();
    wish.wish.computer = Some("c1".parse().unwrap());
    let id = scene.reserve(wish, "alice").await;
    let row = scene.node.queue.reservation(id).await.unwrap();
    assert_eq!((row.state, row.tries), (reservation::State::Ready, 1));
    scene.close().await;
}

#[tokio::test]
async fn a_length_beyond_all_measure_is_refused() {
    let scene = Scene::new(1).await;
    let mut wish = scene.wish();
    (wish.purpose, wish.length_s) = (Purpose::Server, Some(u64::MAX));
    let refused = scene.node.reserve(wish, "alice").await.unwrap_err();
    assert!(refused.message.contains("more than ten years"), "{}", refused.message);
    scene.close().await;
}
