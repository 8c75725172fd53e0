//! Classes, maintenance windows, drained hosts and limits on a simulated world under a turned clock.

use super::scene::Scene;
use chrono::TimeDelta;
use vcl_types::lending::{ClassRequest, MaintenanceRequest, Purpose};
use vcl_types::notices::NoticeKind;
use vcl_types::state::{computer, reservation};

fn class(seats: u32) -> ClassRequest {
    serde_json::from_value(serde_json::json!({
        "name": "GIS 101", "image": "gis", "seats": seats, "weekly": "Mon 12-14",
    }))
    .unwrap()
}

#[tokio::test]
async fn a_classs_seats_are_loaded_ahead_taken_and_given_back() {
    let scene = Scene::new(4).await;
    let made = scene.node.add_class(class(3), "teacher").await.unwrap();
    // It is Monday, 8: today at 12, in a week, and not in two.
    assert_eq!(made.times.iter().map(|t| (t.booked, t.taken, t.missing)).collect::<Vec<_>>(), [(3, 0, 0); 2]);
    scene.turn(4 * 3600 - 2000).await;
    let loaded = scene.node.queue.computers().await.unwrap();
    assert_eq!(loaded.iter().filter(|row| row.loaded.is_some()).count(), 3);
    // Half an hour before it begins alice takes a seat, at its beginning bob.
    let alice = scene.reserve(scene.wish(), "alice").await;
    assert_eq!(scene.reservation(alice).await.class.as_deref(), Some("GIS 101"));
    assert_eq!(scene.reservation(alice).await.state, reservation::State::Scheduled);
    scene.turn(2000).await;
    assert_eq!(scene.reservation(alice).await.state, reservation::State::Ready);
    let bob = scene.reserve(scene.wish(), "bob").await;
    assert_eq!(scene.reservation(bob).await.class.as_deref(), Some("GIS 101"));
    // One seat each: another computer of theirs is not the class's.
    let more = scene.reserve(scene.wish(), "bob").await;
    assert_eq!(scene.reservation(more).await.class, None);
    // Nor is a seat what somebody gets who asked for another computer than it is on.
    let mut large = scene.wish();
    large.wish.cpus = Some(1000);
    large.dry_run = true;
    let refused = scene.node.reserve(large, "carol").await.unwrap_err();
    assert!(refused.message.contains("processors"), "{}", refused.message);
    for id in [alice, bob] {
        scene.comes(id).await;
    }
    // The third seat is nobody's and stays; all are given back at the end.
    scene.turn(7000).await;
    let view = scene.node.class("GIS 101").await.unwrap();
    assert_eq!((view.times[0].booked, view.times[0].taken), (3, 2));
    scene.turn(200).await;
    for id in [alice, bob] {
        assert_eq!(scene.reservation(id).await.ended_because.as_deref(), Some("its time is over"));
    }
    let free = scene.node.queue.computers().await.unwrap();
    assert!(free.iter().all(|row| row.state == computer::State::Available));
    scene.close().await;
}

#[tokio::test]
async fn a_class_that_is_called_off_changed_or_ended_gives_its_seats_back() {
    let scene = Scene::new(4).await;
    let made = scene.node.add_class(class(3), "teacher").await.unwrap();
    let (first, second) = (made.times[0].start, made.times[1].start);
    let refused = scene.node.call_off_class("GIS 101", first - TimeDelta::hours(3), "teacher").await;
    assert!(refused.unwrap_err().message.contains("its next times: 2026-11-23T12:00Z"));
    let view = scene.node.call_off_class("GIS 101", first, "teacher").await.unwrap();
    assert_eq!((view.times[0].called_off, view.times[0].booked), (true, 0));
    scene.turn(5 * 3600).await;
    let held = scene.node.queue.reservations_open().await.unwrap();
    assert!(held.iter().all(|row| row.start >= Some(second)), "{held:?}");
    let view = scene.node.add_class(class(2), "teacher").await.unwrap();
    assert_eq!(view.times.iter().map(|t| t.booked).collect::<Vec<_>>(), [0, 2, 2]);
    let mut other = class(2);
    other.weekly = "Tue 9-10".parse().unwrap();
    let view = scene.node.add_class(other.clone(), "teacher").await.unwrap();
    assert_eq!(view.times.iter().map(|t| t.booked).collect::<Vec<_>>(), [2, 2]);
    // Other computers are wanted: the seats are made anew on those, once.
    other.wish.cpus = Some(1);
    let seats = async || {
        let rows = scene.node.queue.reservations_open().await.unwrap();
        rows.iter().map(|row| (row.id, row.booked.is_some())).collect::<Vec<_>>()
    };
    let before = seats().await;
    let view = scene.node.add_class(other.clone(), "teacher").await.unwrap();
    assert_eq!(view.times.iter().map(|t| (t.booked, t.missing)).collect::<Vec<_>>(), [(2, 0); 2]);
    let after = seats().await;
    assert!(after.iter().all(|(id, booked)| *booked && !before.iter().any(|(old, _)| old == id)));
    scene.quiet().await;
    assert_eq!(seats().await, after);
    scene.node.end_class("GIS 101", "teacher").await.unwrap();
    assert!(scene.node.queue.reservations_open().await.unwrap().is_empty());
    assert!(scene.node.class("GIS 101").await.unwrap_err().message.contains("there is no class"));
    scene.close().await;
}

#[tokio::test]
async fn seats_of_an_ended_class_go_although_whoever_ended_it_was_cut_short() {
    let scene = Scene::new(4).await;
    scene.node.add_class(class(3), "teacher").await.unwrap();
    assert_eq!(scene.node.queue.reservations_open().await.unwrap().len(), 6);
    scene.node.queue.end_class("GIS 101", scene.node.clock.now()).await.unwrap();
    scene.quiet().await;
    assert_eq!(scene.node.queue.reservations_open().await.unwrap(), []);
    scene.close().await;
}

#[tokio::test]
async fn whose_class_is_called_off_is_told_when_the_seat_was_taken() {
    let scene = Scene::new(4).await;
    let made = scene.node.add_class(class(2), "teacher").await.unwrap();
    scene.turn(4 * 3600 - 2000).await;
    let alice = scene.reserve(scene.wish(), "alice").await;
    assert_eq!(scene.reservation(alice).await.state, reservation::State::Scheduled);
    scene.node.call_off_class("GIS 101", made.times[0].start, "teacher").await.unwrap();
    assert_eq!(scene.reservation(alice).await.ended_because.as_deref(), Some("the class was called off"));
    let told = scene.told().await;
    let told: Vec<_> = told.iter().map(|row| (row.kind, row.to.as_deref())).collect();
    assert_eq!(told, [(NoticeKind::Ended, Some("alice"))]);
    scene.close().await;
}

#[tokio::test]
async fn a_class_that_begins_beyond_all_measure_is_refused() {
    let scene = Scene::new(1).await;
    let far = ClassRequest { from: Some("+262142-12-31T23:30:00Z".parse().unwrap()), ..class(1) };
    let refused = scene.node.add_class(far, "teacher").await.unwrap_err().message;
    assert!(refused.contains("`from`") && refused.contains("more than two years ahead"), "{refused}");
    assert!(scene.node.classes().await.unwrap().is_empty());
    scene.close().await;
}

#[tokio::test]
async fn seats_without_a_computer_are_told_and_get_one_when_there_is_one() {
    let scene = Scene::new(2).await;
    let mut server = scene.wish();
    server.purpose = Purpose::Server;
    let server = scene.reserve(server, "alice").await;
    let made = scene.node.add_class(class(2), "teacher").await.unwrap();
    assert_eq!((made.times[0].booked, made.times[0].missing), (1, 1));
    let told = scene.told().await;
    let told: Vec<_> = told.iter().filter(|row| row.kind == NoticeKind::SeatsMissing).collect();
    assert_eq!(told.len(), 2, "today's and next week's");
    let fact = |name| told[0].facts.get(name).map(String::as_str);
    assert_eq!((told[0].to.as_deref(), fact("class")), (None, Some("GIS 101")));
    assert_eq!((fact("found"), fact("seats")), (Some("1"), Some("2")));
    assert_eq!(fact("start"), Some("2026-11-23T12:00:00+00:00"));
    scene.node.release(server, false, "alice").await.unwrap();
    scene.turn(900).await;
    assert_eq!(scene.node.class("GIS 101").await.unwrap().times[0].booked, 2);
    let three = scene.node.add_class(class(3), "teacher").await.unwrap_err();
    assert!(three.message.contains("2 computers will do"), "{}", three.message);
    scene.close().await;
}

#[tokio::test]
async fn a_window_waits_for_users_moves_bookings_and_gives_its_computers_back() {
    let scene = Scene::new(2).await;
    let user = scene.reserve(scene.wish(), "alice").await;
    scene.comes(user).await;
    let mut later = scene.wish();
    later.start = Some(scene.node.clock.now() + TimeDelta::hours(6));
    let later = scene.reserve(later, "bob").await;
    let booked = scene.reservation(later).await.booked.unwrap();
    assert_eq!(booked.as_str(), "c1");
    let window = MaintenanceRequest {
        computers: vec![booked.clone()],
        tags: vec![],
        start: Some(scene.node.clock.now() + TimeDelta::hours(2)),
        end: Some(scene.node.clock.now() + TimeDelta::hours(12)),
        reason: "new fans".into(),
    };
    let window = scene.node.add_maintenance(window, "admin").await.unwrap();
    assert_eq!(window.in_the_way, [user]);
    assert_eq!(scene.reservation(later).await.booked.unwrap().as_str(), "c2");
    scene.turn(3 * 3600).await;
    assert_eq!(scene.computer("c1").await.state, computer::State::InUse);
    scene.turn(2 * 3600).await;
    let out = scene.computer("c1").await;
    assert_eq!(out.state, computer::State::Maintenance);
    assert!(out.reason.unwrap().contains("new fans"));
    // A computer that somebody else took out of use does not come back with it.
    scene.turn(8 * 3600).await;
    assert_eq!(scene.computer("c1").await.state, computer::State::Available);
    let host =
        scene.node.drain_host(&"sim".parse().unwrap(), true, Some("new disks"), "admin").await.unwrap();
    assert_eq!(host.drained_by.as_deref(), Some("admin"));
    let mut tried = scene.wish();
    tried.dry_run = true;
    let tried = scene.node.reserve(tried, "carol").await.unwrap();
    assert!(tried.choice.is_none() && tried.waiting.is_some());
    let waits = scene.reserve(scene.wish(), "carol").await;
    assert_eq!(scene.reservation(waits).await.state, reservation::State::Queued);
    scene.node.drain_host(&"sim".parse().unwrap(), false, None, "admin").await.unwrap();
    scene.quiet().await;
    assert_eq!(scene.reservation(waits).await.state, reservation::State::Ready);
    scene.close().await;
}

#[tokio::test]
async fn who_is_over_a_limit_waits_is_told_which_and_keeps_nobody_else_waiting() {
    let lines = "[reservations]\nafter_use = \"nothing\"\nat_once = 1\n[group.lab]\nat_once = 5\ngroup_at_once = 2\n\
                 hours_per_week = 10\n[image.gis]\nconcurrent = 3\n";
    let scene = Scene::with(6, lines).await;
    let first = scene.reserve(scene.wish(), "alice").await;
    let second = scene.reserve(scene.wish(), "alice").await;
    let view = scene.reservation(second).await;
    assert_eq!(view.state, reservation::State::Queued);
    let why = view.waiting.unwrap().because.unwrap();
    assert_eq!(why, "alice has 1 computers in use, and the limit of this owner is 1");
    let mut lab = scene.wish();
    lab.group = Some("lab".into());
    for who in ["bob", "carol"] {
        let id = scene.reserve(lab.clone(), who).await;
        assert_eq!(scene.reservation(id).await.state, reservation::State::Ready);
    }
    // All three licences are out.
    let dave = scene.reserve(scene.wish(), "dave").await;
    let why = scene.reservation(dave).await.waiting.unwrap().because.unwrap();
    assert!(why.contains("gis has 3") && why.contains("image is 3"), "{why}");
    scene.node.release(first, false, "alice").await.unwrap();
    scene.quiet().await;
    let states = (scene.reservation(second).await.state, scene.reservation(dave).await.state);
    assert!(
        matches!(
            states,
            (reservation::State::Ready, reservation::State::Queued)
                | (reservation::State::Queued, reservation::State::Ready)
        ),
        "{states:?}"
    );
    // Hours are counted where they are given out: of many that ask at once only so many are taken in.
    let mut hours = lab.clone();
    hours.length_s = Some(3 * 3600);
    let asked = (0..8).map(|_| scene.node.reserve(hours.clone(), "erin"));
    let taken: Vec<_> = futures::future::join_all(asked).await;
    assert_eq!(taken.iter().filter(|taken| taken.is_ok()).count(), 3);
    let no = taken.into_iter().find_map(Result::err).unwrap().message;
    assert!(no.contains("erin had 0.0 hours") && no.contains("more than the 10 of a week"), "{no}");
    scene.close().await;
}

#[tokio::test]
async fn who_cannot_have_a_computer_for_so_long_is_told_for_how_long_it_can_be_had() {
    let scene = Scene::new(1).await;
    let mut later = scene.wish();
    later.start = Some(scene.node.clock.now() + TimeDelta::hours(2));
    scene.reserve(later, "alice").await;
    let waits = scene.node.reserve(scene.wish(), "bob").await.unwrap();
    let why = waits.waiting.unwrap().because.unwrap();
    assert!(why.contains("c1 can be had at once for 2 h 0 min or less"), "{why}");
    scene.close().await;
}
