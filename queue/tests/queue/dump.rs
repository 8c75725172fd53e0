use super::world::{World, class, import, load, loaded, manifest, name, reserved};
use chrono::{TimeDelta, Utc};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use vcl_job::Record;
use vcl_queue::testing::MariaDbServer;
use vcl_queue::{
    Allotment, Claim, Deed, JobFilter, Kind, NewNode, PROTOCOL, Part, Process, Queue, Sight, TokenToKeep,
    WayIn,
};
use vcl_types::api::{NewGroup, NewUser};
use vcl_types::notices::NoticeKind;
use vcl_types::people::{Source, Via};
use vcl_types::state::computer::Event;

/// What people see of a database.
async fn seen(queue: &Queue) -> String {
    let jobs = queue.jobs(&JobFilter::default()).await.unwrap();
    let mut steps = Vec::new();
    for job in &jobs {
        steps.push(queue.steps(job.id).await.unwrap());
    }
    let (computers, images) = (queue.computers().await.unwrap(), queue.images().await.unwrap());
    let (events, reservations) =
        (queue.events(0, 999).await.unwrap(), queue.reservations_of(None, false, None, 99).await.unwrap());
    format!("{jobs:#?} {steps:#?} {computers:#?} {images:#?} {events:#?} {reservations:#?}")
}

fn node() -> NewNode {
    NewNode {
        name: "joined".into(),
        lease: Duration::from_secs(600),
        version: "1.0.0".into(),
        protocol: PROTOCOL,
        process: Process::this(),
        address: None,
        backends: BTreeMap::default(),
        alone: false,
    }
}

/// A job that runs, one that waits, one that is over.
async fn busy() -> World {
    let world = World::new().await;
    let claim = world.running(load("a", "debian")).await;
    world.queue.computer_event(&claim, "begin", &name("a"), Event::Load).await.unwrap();
    world.queue.open_reservation(&claim, "ann", &name("a"), &"debian@1".parse().unwrap()).await.unwrap();
    let key = "copy\n\"ä😀".to_owned();
    world
        .queue
        .journal(&claim)
        .append(&Record::Started { key, intent: "x".repeat(70_000).into(), at: None })
        .await
        .unwrap();
    let over = world.running(import("gis")).await;
    world.queue.record_revision(&over, &manifest("gis", 1), vcl_types::ByteSize(7)).await.unwrap();
    world.done(&over).await;
    world.queue.set_loaded(&claim, &name("a"), Some(&loaded("debian@1"))).await.unwrap();
    world.submit(import("later")).await.unwrap();
    world.queue.event("noted", None, Some(&name("b")), "it's so").await.unwrap();
    // And something in every other table.
    let bytes = (0..=255).cycle().take(70_000).collect();
    let part = Part { name: "screen.ppm".into(), media_type: "image/x-portable-pixmap".into(), bytes };
    world.queue.keep_evidence(&claim, vec![part]).await.unwrap();
    world.queue.post_timings(&over, None, vec![("copy".into(), Duration::from_millis(7))]);
    let orphan = Sight { place: "kvm1".into(), kind: "domain".into(), name: "vcl-x".into() };
    world.queue.note_orphans(vec!["kvm1".into()], vec![orphan]).await.unwrap();
    world.queue.promote(&"gis@1".parse().unwrap(), "ann").await.unwrap();
    world.queue.hold("one", &"gis@1".parse().unwrap()).await.unwrap();
    world.queue.join(&node()).await.unwrap();
    lent(&world, &claim).await;
    known(&world.queue).await;
    world
}

/// What lending keeps.
async fn lent(world: &World, claim: &Claim) {
    let (queue, now, a) = (&world.queue, Utc::now(), name("a"));
    let id = reserved(world, now).await;
    queue.end_telling(id, "another plan", now, false, Some(NoticeKind::Ended)).await.unwrap();
    let (start, end) = (now + TimeDelta::days(1), now + TimeDelta::days(2));
    let class = queue.keep_class(class(now)).await.unwrap();
    queue.call_off(class, start, end).await.unwrap();
    queue.add_maintenance(&[name("c")], start, Some(end), "new fans", "bob").await.unwrap();
    queue.drain_host(&"kvm1".parse().unwrap(), true, "bob", Some("new disks"), now).await.unwrap();
    let ways = vec![WayIn { method: "ssh".into(), port: 22 }];
    let wanted = Allotment {
        nat: "campus".parse().unwrap(),
        address: "192.0.2.7".parse().unwrap(),
        ports: "100-102".parse().unwrap(),
        reservation: id,
        computer: a,
        to: "10.9.0.11".parse().unwrap(),
        ways,
    };
    queue.allot_ports(claim, &wanted).await.unwrap();
    let test = serde_json::json!({
        "job": claim.id(), "at": now, "passed": true, "computers": ["b", "c"],
    });
    let test = serde_json::from_value(test).unwrap();
    queue.record_image_test(claim, &"debian@1".parse().unwrap(), &test).await.unwrap();
}

/// Who there is, what they may and what they did.
async fn known(queue: &Queue) {
    let (user, group) = ("alice".parse().unwrap(), "geo".parse().unwrap());
    let new = NewUser { name: "alice".parse().unwrap(), source: Source::Local, full_name: None, mail: None };
    queue.add_user(new).await.unwrap();
    queue.add_group(NewGroup { name: "geo".parse().unwrap(), note: None }).await.unwrap();
    queue.set_member(&group, &user, true).await.unwrap();
    queue.add_image_group(NewGroup { name: "maps".parse().unwrap(), note: None }).await.unwrap();
    queue.set_image_in_group(&"maps".parse().unwrap(), &"gis*".parse().unwrap(), true).await.unwrap();
    let grant = serde_json::json!({ "group": "geo", "verb": "reserve", "scope": "images:maps" });
    queue.add_grant(serde_json::from_value(grant).unwrap(), "bob").await.unwrap();
    let (id, digest) = ("t1".to_owned(), "digest".to_owned());
    let token = TokenToKeep { id, digest, owner: user, label: "x".into(), scopes: None, expires: None };
    queue.keep_token(token).await.unwrap();
    queue
        .record_deed(Deed {
            who: "alice".into(),
            via: Via::Token,
            from: None,
            action: "POST /v1/reservations".into(),
            subject: "reservation:1".into(),
            status: 201,
            request: "r1".into(),
        })
        .await
        .unwrap();
    queue.begin_answer("alice", "key", "digest", None).await.unwrap();
    queue.end_answer("alice", "key", Some((201, "{}".into()))).await.unwrap();
}

fn table(line: &str) -> String {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    line["row"]["table"].as_str().unwrap().to_owned()
}

/// The rows of a copy, without what it says of itself; the engines have a row's columns in orders of their own.
fn rows(copy: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8(copy.to_vec()).unwrap();
    let rows = text.lines().filter(|line| line.contains("\"table\""));
    let sorted = rows.map(|row| {
        let mut row: serde_json::Value = serde_json::from_str(row).unwrap();
        row.sort_all_objects();
        row.to_string()
    });
    sorted.collect()
}

async fn dump(queue: &Queue) -> Vec<u8> {
    let mut copy = Vec::new();
    let dumped = queue.dump(&mut copy).await.unwrap();
    assert_eq!(copy.iter().filter(|b| **b == b'\n').count() as u64, dumped.rows + 2);
    copy
}

#[tokio::test]
async fn a_copy_fills_an_empty_database_of_either_engine_and_its_jobs_go_on() {
    let world = busy().await;
    let before = seen(&world.queue).await;
    let copy = dump(&world.queue).await;
    let tables: BTreeSet<String> = rows(&copy).iter().map(|row| table(row)).collect();
    assert_eq!(tables.len(), 31, "something in each: {tables:?}");
    let dir = tempfile::tempdir().unwrap();
    let file = Queue::open(dir.path().join("restored.db")).await.unwrap();
    let server = Queue::connect(&MariaDbServer::shared().database().await).await.unwrap();
    for there in [file, server] {
        let restored = there.restore(&mut copy.as_slice()).await.unwrap();
        assert!(restored.rows > 10);
        assert_eq!(seen(&there).await, before, "{:?}", there.engine());
        assert_eq!(rows(&dump(&there).await), rows(&copy), "{:?}", there.engine());
        assert_eq!(there.recover(super::world::NODE).await.unwrap().len(), 1);
        let claim = there.claim("other", &vcl_queue::ClaimLimits::default()).await.unwrap().unwrap();
        assert_eq!(claim.token, 2);
        assert_eq!(there.journal(&claim).read().await.unwrap().len(), 1);
        let there = World { queue: there, dir: tempfile::tempdir().unwrap(), address: String::new() };
        assert!(there.submit(import("new")).await.unwrap() > claim.id(), "numbers go on");
        there.queue.close().await;
    }
}

#[tokio::test]
async fn a_copy_that_is_cut_off_or_goes_into_a_full_database_is_refused() {
    let world = busy().await;
    let copy = dump(&world.queue).await;
    assert_eq!(world.queue.restore(&mut copy.as_slice()).await.unwrap_err().kind, Kind::Refused);
    let text = String::from_utf8(copy).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let cut = lines[..lines.len() - 1].concat();
    let less = [&lines[..3], &lines[4..]].concat().concat();
    let newer = text.replacen("\"schema\":", "\"schema\":99", 1);
    for (copy, kind) in
        [(cut, Kind::Corrupt), (less, Kind::Corrupt), (newer, Kind::Newer), ("hello\n".into(), Kind::Corrupt)]
    {
        let empty = World::empty().await;
        assert_eq!(empty.queue.restore(&mut copy.as_bytes()).await.unwrap_err().kind, kind);
        // Nobody takes what is there in part for the whole, and the next try begins anew.
        assert_eq!(empty.queue.join(&node()).await.unwrap_err().kind, Kind::Refused);
        assert!(empty.queue.is_empty().await.unwrap());
        empty.queue.restore(&mut text.as_bytes()).await.unwrap();
        assert!(!empty.queue.is_empty().await.unwrap());
        assert_eq!(rows(&dump(&empty.queue).await), rows(text.as_bytes()));
        empty.queue.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_copy_under_load_is_of_one_moment() {
    let world = World::new().await;
    let claim = world.running(load("a", "debian")).await;
    let queue = world.queue.clone();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn(async move {
        let journal = queue.journal(&claim);
        let mut n = 0;
        // The event comes after its record: no moment has more events than records, nor two records more.
        while stopped.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
            journal.append(&Record::Undone { key: n.to_string() }).await.unwrap();
            queue.event("noted", None, None, "written").await.unwrap();
            n += 1;
        }
        n
    });
    let mut grew = std::collections::BTreeSet::new();
    // Until several moments were seen, however busy the machine is.
    for _ in 0..10_000 {
        if grew.len() > 3 {
            break;
        }
        let copy = String::from_utf8(dump(&world.queue).await).unwrap();
        let rows = |table: &str| copy.matches(&format!("\"table\":\"{table}\"")).count();
        let (records, events) = (rows("journal"), rows("events"));
        assert!(records == events || records == events + 1, "{records} records, {events} events");
        grew.insert(records);
    }
    stop.send(()).unwrap();
    assert!(writing.await.unwrap() > 0 && grew.len() > 1, "{grew:?}");
}
