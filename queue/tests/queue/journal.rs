use super::world::{World, import, load};
use serde_json::{Value, json};
use vcl_job::{Failure, Kind, Record};
use vcl_types::JobId;
use vcl_types::api::StepState;
use vcl_types::state::job::Event;

fn started(key: &str) -> Record {
    Record::Started { key: key.into(), intent: json!({"name": key}), at: None }
}
fn done(key: &str) -> Record {
    Record::Done { key: key.into(), output: Value::Null }
}
fn failure(message: &str) -> Failure {
    Failure { kind: Kind::Fatal, message: message.into() }
}

#[tokio::test]
async fn every_kind_of_record_comes_back_as_it_was_in_order_after_reopening() {
    let mut world = World::new().await;
    let claim = world.running(load("a", "debian")).await;
    let records = vec![
        Record::Begun {
            flow: "load".into(),
            version: 3,
            input: json!({"computer": "a", "ä": [1, null]}),
            at: None,
        },
        started("clone"),
        Record::Process { key: "clone".into(), group: 4711, start_time: u64::MAX, boot: None },
        done("clone"),
        Record::Failed { key: "boot".into(), error: failure("no\nlight") },
        Record::Unwinding { cause: failure("no light") },
        Record::Undone { key: "clone".into() },
        Record::Stuck { key: "boot".into(), error: failure("in use") },
        Record::Finished { error: None },
        Record::Finished { error: Some(failure("no light")) },
    ];
    let journal = world.queue.journal(&claim);
    for record in &records {
        journal.append(record).await.unwrap();
    }
    assert_eq!(journal.read().await.unwrap(), records);
    drop(journal);
    world.reopen().await;
    assert_eq!(world.queue.journal(&claim).read().await.unwrap(), records);
}

#[tokio::test]
async fn a_record_that_is_too_large_is_refused() {
    let world = World::new().await;
    let claim = world.running(load("a", "debian")).await;
    let record = Record::Done { key: "x".into(), output: Value::String("x".repeat(vcl_job::RECORD_LIMIT)) };
    let error = world.queue.journal(&claim).append(&record).await.unwrap_err();
    assert_eq!(error.kind, Kind::Fatal, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn journals_written_side_by_side_keep_their_own_order() {
    let world = World::new().await;
    let mut claims = Vec::new();
    for n in 0..8 {
        claims.push(world.running(import(&format!("i{n}"))).await);
    }
    let writers = claims.iter().map(|claim| {
        let journal = world.queue.journal(claim);
        tokio::spawn(async move {
            for n in 0..50 {
                journal.append(&started(&n.to_string())).await.unwrap();
            }
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.unwrap();
    }
    let expected: Vec<_> = (0..50).map(|n| started(&n.to_string())).collect();
    for claim in &claims {
        assert_eq!(world.queue.journal(claim).read().await.unwrap(), expected);
    }
}

#[tokio::test]
async fn one_that_is_refused_leaves_the_others_of_its_batch_alone() {
    let world = World::new().await;
    let good = world.running(load("a", "debian")).await;
    let over = world.running(load("b", "debian")).await;
    world.done(&over).await;
    let (good, over) = (world.queue.journal(&good), world.queue.journal(&over));
    let (one, two, three) = (started("1"), started("2"), started("3"));
    // Sent in one poll, so the writer finds them waiting together, with changes of several statements between them.
    let (r1, r2, submitted, refused, r3) = tokio::join!(
        good.append(&one),
        over.append(&two),
        world.submit(load("b", "debian")),
        world.submit(load("a", "debian")),
        good.append(&three),
    );
    r1.unwrap();
    assert_eq!(r2.unwrap_err().kind, Kind::LeaseLost);
    submitted.unwrap();
    assert_eq!(refused.unwrap_err().kind, vcl_queue::Kind::Busy);
    r3.unwrap();
    assert_eq!(good.read().await.unwrap(), [one, three]);
}

#[tokio::test]
async fn steps_are_told_from_the_journal() {
    let world = World::new().await;
    let claim = world.running(load("a", "debian")).await;
    let id = claim.id();
    let journal = world.queue.journal(&claim);
    assert_eq!(world.queue.steps(id).await.unwrap(), []);
    for record in [
        Record::Begun { flow: "load".into(), version: 1, input: Value::Null, at: None },
        started("load/overlay"),
        done("load/overlay"),
        started("load/start"),
        Record::Failed { key: "load/start".into(), error: failure("no memory") },
        Record::Undone { key: "load/start".into() },
        started("post_load/wait for ssh[2]"),
        Record::Failed { key: "post_load/wait for ssh[2]".into(), error: failure("no answer") },
        started("post_load/copy"),
    ] {
        journal.append(&record).await.unwrap();
    }
    world.queue.progress(id, "post_load/copy", 5, 10);
    world.queue.progress(id, "load/overlay", 1, 1);
    let steps = world.queue.steps(id).await.unwrap();
    let told: Vec<_> = steps
        .iter()
        .map(|s| {
            (s.name.as_str(), s.state, s.ended.is_some(), s.error.as_deref(), s.progress.map(|p| p.done))
        })
        .collect();
    assert_eq!(
        told,
        [
            ("load/overlay", StepState::Done, true, None, None),
            ("load/start", StepState::Undone, true, Some("no memory"), None),
            ("post_load/wait for ssh[2]", StepState::Failed, true, Some("no answer"), None),
            ("post_load/copy", StepState::Running, false, None, Some(5)),
        ]
    );
    assert!(steps.iter().all(|s| s.started.is_some() && s.ended.is_none_or(|e| Some(e) >= s.started)));
    world.queue.finish(&claim, Event::Fail, None, None).await.unwrap();
    assert_eq!(world.queue.steps(id).await.unwrap()[3].progress, None);
    assert_eq!(world.queue.steps(JobId(9)).await.unwrap_err().kind, vcl_queue::Kind::NotFound);
}

#[tokio::test]
async fn what_is_sent_at_once_is_written_whole_and_in_order() {
    let world = World::new().await;
    let mut claims = Vec::new();
    for n in 0..7 {
        claims.push(world.running(import(&format!("i{n}"))).await);
    }
    // Three of each job and an event each, all in one poll: the writer finds them waiting together.
    let mut sending = Vec::new();
    for n in ["1", "2", "3"] {
        for claim in &claims {
            let (journal, queue) = (world.queue.journal(claim), &world.queue);
            sending.push(async move {
                let record = started(n);
                let (written, event) =
                    tokio::join!(journal.append(&record), queue.event("noted", Some(claim.id()), None, n));
                written.unwrap();
                event.unwrap()
            });
        }
    }
    let events = futures::future::join_all(sending).await;
    for claim in &claims {
        let records = world.queue.journal(claim).read().await.unwrap();
        assert_eq!(records, [started("1"), started("2"), started("3")]);
    }
    // Each has the number under which it is kept, and the numbers are in the order of sending.
    let kept = world.queue.events(0, 100).await.unwrap();
    assert_eq!(kept.iter().filter(|e| e.kind == "noted").cloned().collect::<Vec<_>>(), events);
}

#[tokio::test]
async fn a_claim_that_was_good_is_found_lost_however_it_ends() {
    type End = for<'w> fn(&'w World, &'w vcl_queue::Claim) -> futures::future::BoxFuture<'w, ()>;
    let ends: [(&str, End); 4] = [
        ("it is done", |world, claim| Box::pin(world.done(claim))),
        ("it goes back", |world, claim| {
            Box::pin(async move {
                world.queue.finish(claim, Event::Lost, None, None).await.unwrap();
            })
        }),
        ("its node starts again", |world, _| {
            Box::pin(async move {
                world.queue.recover(super::world::NODE).await.unwrap();
            })
        }),
        ("it waits", |world, claim| {
            Box::pin(async move {
                let space = vcl_queue::WaitFor::Space("library".into());
                world.queue.wait_for(claim, space, "no room").await.unwrap();
            })
        }),
    ];
    for (how, end) in ends {
        let world = World::new().await;
        let claim = world.running(load("a", "debian")).await;
        let journal = world.queue.journal(&claim);
        journal.check().await.unwrap();
        journal.append(&started("1")).await.unwrap();
        // A change that ends no claim, and then the question again, which asks the database anew.
        world.queue.set_computer_reason(&claim, &super::world::name("a"), Some("x")).await.unwrap();
        journal.check().await.unwrap();
        journal.check().await.unwrap();
        end(&world, &claim).await;
        for _ in 0..2 {
            assert_eq!(journal.check().await.unwrap_err().kind, Kind::LeaseLost, "{how}");
        }
        if let Some(next) = world.claim().await {
            world.queue.journal(&next).check().await.unwrap();
            assert_eq!(world.queue.journal(&next).read().await.unwrap(), [started("1")], "{how}");
            assert_eq!(journal.check().await.unwrap_err().kind, Kind::LeaseLost, "{how}");
        }
    }
}
