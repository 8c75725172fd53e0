//! Several processes on one server, a server that goes away, and two versions of vcld: what only a server can be asked.

use super::world::{NODE, World, chain, computer, import, load, name, server, unload};
use futures::future::join_all;
use std::collections::BTreeSet;
use std::time::Duration;
use vcl_job::{Kind as JobKind, Record};
use vcl_queue::testing::{MariaDbServer, connect_next};
use vcl_queue::{ClaimLimits, Kind, MariaDb, Queue};
use vcl_types::api::StreamItem;
use vcl_types::state::job::{Event, State};

fn record(n: usize) -> Record {
    Record::Done { key: n.to_string(), output: serde_json::Value::Null }
}
fn many() -> ClaimLimits {
    ClaimLimits { node_max: 10_000, ..ClaimLimits::default() }
}
/// Waits for what another node's doing leads to.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("within 20 s")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_nodes_get_each_of_a_thousand_jobs_once() {
    let world = World::new().await;
    let jobs: Vec<_> = join_all((0..1000).map(|n| world.submit(import(&format!("i{n}"))))).await;
    let jobs: BTreeSet<_> = jobs.into_iter().map(|id| id.unwrap()).collect();
    let other = super::world::open(&world.address).await.unwrap();
    let workers = [(&world.queue, "one"), (&other, "two")].into_iter().flat_map(|(queue, node)| {
        (0..4).map(move |_| {
            let queue = queue.clone();
            tokio::spawn(async move {
                let mut mine = Vec::new();
                while let Some(claim) = queue.claim(node, &many()).await.unwrap() {
                    assert_eq!(claim.token, 1, "nobody had it before");
                    mine.push(claim.id());
                    queue.journal(&claim).append(&record(0)).await.unwrap();
                    queue.finish(&claim, Event::Done, None, None).await.unwrap();
                }
                (node, mine)
            })
        })
    });
    let (mut all, mut nodes) = (Vec::new(), BTreeSet::new());
    for worker in join_all(workers).await {
        let (node, mine) = worker.unwrap();
        if !mine.is_empty() {
            nodes.insert(node);
        }
        all.extend(mine);
    }
    assert_eq!(all.len(), 1000);
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), jobs);
    assert_eq!(nodes.len(), 2, "both had some");
}

#[tokio::test]
async fn a_node_that_was_frozen_finds_its_writes_refused() {
    let world = World::new().await;
    let frozen = world.running(load("a", "debian")).await;
    let other = super::world::open(&world.address).await.unwrap();
    assert_eq!(other.recover(NODE).await.unwrap(), [frozen.id()]);
    let taken = other.claim("two", &many()).await.unwrap().unwrap();
    assert_eq!((taken.id(), taken.token), (frozen.id(), frozen.token + 1));
    let late = world.queue.journal(&frozen);
    assert_eq!(late.append(&record(0)).await.unwrap_err().kind, JobKind::LeaseLost);
    assert_eq!(late.check().await.unwrap_err().kind, JobKind::LeaseLost);
    let errors = [
        world.queue.finish(&frozen, Event::Done, None, None).await.map(|_| ()).unwrap_err(),
        world.queue.set_loaded(&frozen, &name("a"), None).await.unwrap_err(),
        world
            .queue
            .open_reservation(&frozen, "ann", &name("a"), &"debian@1".parse().unwrap())
            .await
            .map(|_| ())
            .unwrap_err(),
    ];
    assert!(errors.iter().all(|e| e.kind == Kind::LeaseLost), "{errors:?}");
    other.journal(&taken).append(&record(1)).await.unwrap();
    assert_eq!(late.read().await.unwrap(), [record(1)]);
}

/// The claim and the write race for the job's row; whichever comes second sees what the first did.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_record_of_an_old_claim_comes_after_one_of_the_new() {
    let world = World::new().await;
    let other = super::world::open(&world.address).await.unwrap();
    for round in 0..25 {
        let old = world.running(import(&format!("i{round}"))).await;
        let writing = {
            let journal = world.queue.journal(&old);
            tokio::spawn(async move {
                let mut written = 0;
                while journal.append(&record(written)).await.is_ok() {
                    written += 1;
                }
                written
            })
        };
        tokio::task::yield_now().await;
        assert_eq!(other.recover(NODE).await.unwrap(), [old.id()]);
        let new = other.claim("two", &many()).await.unwrap().unwrap();
        let journal = other.journal(&new);
        let before = journal.read().await.unwrap();
        journal.append(&record(1_000_000)).await.unwrap();
        let written = writing.await.unwrap();
        let expected: Vec<_> = (0..written).chain([1_000_000]).map(record).collect();
        assert_eq!(journal.read().await.unwrap(), expected);
        assert_eq!(before.len(), written, "nothing was written after the claim");
        other.finish(&new, Event::Done, None, None).await.unwrap();
    }
}

#[tokio::test]
async fn one_node_learns_of_what_the_other_does() {
    let world = World::new().await;
    let other = super::world::open(&world.address).await.unwrap();
    let mut stream = other.subscribe();
    let mut submitted = other.submitted();
    submitted.mark_unchanged();
    let id = world.submit(load("a", "debian")).await.unwrap();
    soon(submitted.changed()).await.unwrap();
    let claim = other.claim("two", &many()).await.unwrap().unwrap();
    assert_eq!(claim.id(), id);

    let wish = tokio::spawn({
        let other = other.clone();
        async move { other.cancel_wish(id).await }
    });
    world.queue.cancel(id).await.unwrap();
    soon(wish).await.unwrap().unwrap();

    let mine = other.event("noted", None, None, "of its own").await.unwrap();
    let theirs = world.queue.event("noted", None, None, "of the other").await.unwrap();
    let last = world.queue.event("noted", None, None, "the last").await.unwrap();
    let mut told = Vec::new();
    soon(async {
        while told.last() != Some(&last) {
            if let StreamItem::Event(event) = stream.recv().await.unwrap() {
                told.push(event);
            }
        }
    })
    .await;
    assert_eq!(told, [mine, theirs, last], "each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_nodes_that_ask_for_one_computer_are_told_apart() {
    let world = World::new().await;
    let other = super::world::open(&world.address).await.unwrap();
    let computers: Vec<_> = (0..30).map(|n| computer(&format!("n{n}"), "kvm1")).collect();
    world.queue.apply_computers(&computers, false).await.unwrap();
    let there = World { queue: other, dir: tempfile::tempdir().unwrap(), address: world.address.clone() };
    for n in 0..30 {
        let asked = unload(&format!("n{n}"));
        let (one, two) = tokio::join!(world.submit(asked.clone()), there.submit(asked));
        let refused = match (one, two) {
            (Ok(_), Err(e)) | (Err(e), Ok(_)) => e,
            both => panic!("{both:?}"),
        };
        assert_eq!(refused.kind, Kind::Busy, "{}", chain(&refused));
        assert!(refused.context.contains("is held by job"), "{refused}");
    }
}

/// A deadlock of two nodes' batches: each is made whole, by being made again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn batches_that_lock_each_other_out_are_made_again() {
    let world = World::new().await;
    let other = super::world::open(&world.address).await.unwrap();
    let ids: Vec<_> = join_all((0..40).map(|n| world.submit(import(&format!("i{n}"))))).await;
    let ids: Vec<_> = ids.into_iter().map(|id| id.unwrap()).collect();
    for _ in 0..40 {
        world.queue.claim(NODE, &many()).await.unwrap().unwrap();
    }
    // Sent at once, so each is one batch; the locks are taken in opposite orders.
    let (up, down) = tokio::join!(
        join_all(ids.iter().map(|id| world.queue.cancel(*id))),
        join_all(ids.iter().rev().map(|id| other.cancel(*id))),
    );
    for outcome in up.into_iter().chain(down) {
        assert_eq!(outcome.unwrap(), vcl_queue::CancelOutcome::Wish);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_is_killed_again_and_again_loses_and_doubles_nothing() {
    let private = tokio::task::spawn_blocking(|| MariaDbServer::start().unwrap()).await.unwrap();
    let database = private.database().await;
    let queue = Queue::connect(&database).await.unwrap();
    let world = World { queue, dir: tempfile::tempdir().unwrap(), address: database.url.clone() };
    const JOBS: usize = 12;
    const RECORDS: usize = 150;
    let done = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut claims = Vec::new();
    for n in 0..JOBS {
        world.submit(import(&format!("i{n}"))).await.unwrap();
        claims.push(world.queue.claim(NODE, &many()).await.unwrap().unwrap());
    }
    let writers: Vec<_> = claims
        .iter()
        .cloned()
        .map(|claim| {
            let (queue, done) = (world.queue.clone(), done.clone());
            tokio::spawn(async move {
                let journal = queue.journal(&claim);
                for n in 0..RECORDS {
                    journal.append(&record(n)).await.unwrap();
                    queue.event("noted", Some(claim.id()), None, &n.to_string()).await.unwrap();
                    done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
                queue.finish(&claim, Event::Done, None, Some("made")).await.unwrap()
            })
        })
        .collect();
    let (private, all) = tokio::task::spawn_blocking(move || {
        for part in 1..=4 {
            // In the middle of the batches: at every quarter or so of the work.
            while done.load(std::sync::atomic::Ordering::Relaxed) < part * JOBS * RECORDS / 5 {
                std::thread::yield_now();
            }
            private.kill();
            private.start_again().unwrap();
        }
        (private, done)
    })
    .await
    .unwrap();
    for writer in join_all(writers).await {
        assert_eq!(writer.unwrap(), State::Done);
    }
    assert_eq!(all.load(std::sync::atomic::Ordering::Relaxed), JOBS * RECORDS);
    let expected: Vec<_> = (0..RECORDS).map(record).collect();
    let events = world.queue.events(0, 10_000).await.unwrap();
    for claim in &claims {
        assert_eq!(world.queue.journal(claim).read().await.unwrap(), expected, "job {}", claim.id());
        let noted: Vec<String> =
            events.iter().filter(|e| e.job == Some(claim.id())).map(|e| e.message.clone()).collect();
        assert_eq!(noted, (0..RECORDS).map(|n| n.to_string()).collect::<Vec<_>>());
    }
    world.queue.close().await;
    drop(private);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stays_away_is_said_so_when_patience_is_at_its_end() {
    let private = tokio::task::spawn_blocking(|| MariaDbServer::start().unwrap()).await.unwrap();
    let patient = MariaDb { patience: Duration::from_secs(2), ..private.database().await };
    let queue = Queue::connect(&patient).await.unwrap();
    tokio::task::block_in_place(|| private.kill());
    let error = queue.event("noted", None, None, "x").await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "{}", chain(&error));
    assert!(!chain(&error).contains(MariaDbServer::password().expose()));
    let error = queue.job(vcl_types::JobId(1)).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "{}", chain(&error));
    let error = Queue::connect(&patient).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "{}", chain(&error));
    tokio::task::block_in_place(|| private.start_again()).unwrap();
    queue.event("noted", None, None, "there again").await.unwrap();
    assert_eq!(queue.events(0, 9).await.unwrap().len(), 1, "what was given up was not written later");
    queue.close().await;
}

#[tokio::test]
async fn who_is_not_let_in_is_told_so_and_the_password_is_not() {
    let world = World::empty().await;
    let wrong = MariaDb::new(&world.address).password(Some(vcl_types::Secret::new("hunter2".into())));
    let error = Queue::connect(&wrong).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(error.context.contains("does not let this user in"), "{error}");
    assert!(!chain(&error).contains("hunter2") && !format!("{error:?}").contains("hunter2"));
    let nowhere = world.address.rsplit_once('/').unwrap().0.to_owned() + "/nowhere";
    let error = Queue::connect(&server(&nowhere)).await.unwrap_err();
    assert!(error.context.contains("CREATE DATABASE"), "{error}");
    let socket = MariaDbServer::shared().socket();
    let (_, database) = world.address.rsplit_once('/').unwrap();
    let socket = server(&format!("mysql://vcl@localhost/{database}?socket={socket}"));
    Queue::connect(&socket).await.unwrap().close().await;
}

#[tokio::test]
async fn names_compare_exactly_and_texts_are_kept_whole() {
    let world = World::new().await;
    for text in ["x".repeat(250 * 1024), "ä😀 \u{0} '\"\\ ".into(), String::new()] {
        let claim = world.running(import(&format!("i{}", text.len()))).await;
        let record = Record::Done { key: "k ".into(), output: text.into() };
        world.queue.journal(&claim).append(&record).await.unwrap();
        assert_eq!(world.queue.journal(&claim).read().await.unwrap(), [record]);
    }
    let claim = world.running(load("a", "debian")).await;
    let began = vcl_types::state::computer::Event::Load;
    for key in ["step", "Step", "step ", "stëp"] {
        // Each key's own effect: were two of them one, the second would be passed over.
        world.queue.computer_event(&claim, key, &name("a"), began).await.unwrap();
    }
}

#[tokio::test]
async fn the_next_version_brings_the_schema_up_and_this_one_goes_on_beside_it() {
    let world = World::new().await;
    let claim = world.running(load("a", "debian")).await;
    let there = server(&world.address);
    let (next, twice) = tokio::join!(connect_next(&there), connect_next(&there));
    let next = next.unwrap();
    twice.unwrap().close().await;
    world.queue.journal(&claim).append(&record(0)).await.unwrap();
    world.queue.finish(&claim, Event::Done, None, None).await.unwrap();
    let id = world.submit(unload("b")).await.unwrap();
    let theirs = next.claim("two", &many()).await.unwrap().unwrap();
    assert_eq!(theirs.id(), id);
    // One that starts anew opens the newer schema, too.
    let again = super::world::open(&world.address).await.unwrap();
    assert_eq!(again.job(id).await.unwrap().state, State::Running);
    assert_eq!(again.steps(claim.id()).await.unwrap().len(), 0);
    next.finish(&theirs, Event::Done, None, None).await.unwrap();
}

#[tokio::test]
async fn a_migration_that_was_killed_half_way_is_made_whole() {
    let world = World::new().await;
    let (_, database) = world.address.rsplit_once('/').unwrap();
    let server_ = MariaDbServer::shared();
    server_.sql(&format!("ALTER TABLE {database}.jobs ADD COLUMN next_note MEDIUMTEXT")).await.unwrap();
    let next = connect_next(&server(&world.address)).await.unwrap();
    next.close().await;
    server_.sql(&format!("SELECT next_note FROM {database}.jobs")).await.unwrap();
    server_.sql(&format!("INSERT INTO {database}.next_things (id, thing) VALUES (1, 'x')")).await.unwrap();
    // And one that does not let this version in.
    server_.sql(&format!("UPDATE {database}.schema_version SET readable_from = version")).await.unwrap();
    let error = super::world::open(&world.address).await.unwrap_err();
    assert_eq!(error.kind, Kind::Newer);
    let known = world.queue.dump(&mut Vec::new()).await.unwrap().schema - 1;
    let (theirs, ours) = (format!("has schema {}", known + 1), format!("up to {known}:"));
    assert!(error.context.contains(&theirs) && error.context.contains(&ours), "{error}");
    connect_next(&server(&world.address)).await.unwrap().close().await;
}
