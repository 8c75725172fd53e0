use super::world::{NODE, World, computer, import, load, name, unload};
use std::collections::{BTreeSet, HashMap};
use vcl_job::{Kind as JobKind, Record};
use vcl_queue::{CancelOutcome, ClaimLimits, Kind, NewJob};
use vcl_types::JobId;
use vcl_types::state::job::{Event, State};

fn begun() -> Record {
    Record::Begun { flow: "load".into(), version: 1, input: serde_json::Value::Null, at: None }
}

#[tokio::test]
async fn the_oldest_goes_first_and_each_claim_has_a_token() {
    let world = World::new().await;
    assert_eq!(world.claim().await, None);
    for computer in ["b", "a"] {
        world.submit(load(computer, "debian")).await.unwrap();
    }
    let (first, second) = (world.claim().await.unwrap(), world.claim().await.unwrap());
    assert_eq!((first.id(), second.id()), (JobId(1), JobId(2)));
    assert_eq!((first.token, first.job.state), (1, State::Running));
    assert_eq!(first.job.node.as_deref(), Some(NODE));
    assert!(first.job.claimed.is_some() && first.job.started == first.job.claimed);
    assert_eq!(world.claim().await, None);
}

#[tokio::test]
async fn limits_of_the_node_the_backends_and_the_hosts_are_kept() {
    let world = World::new().await;
    let computers = ["a", "b", "c", "d", "e"].map(|n| computer(n, if n < "d" { "kvm1" } else { "kvm2" }));
    world.queue.apply_computers(&computers, false).await.unwrap();
    for name in ["a", "b", "c", "d", "e"] {
        let host = Some(if name == "d" { "h2" } else { "h1" }.to_owned());
        let job = NewJob { request: unload(name), requester: "ann".into(), backend: None, host };
        world.queue.submit(job).await.unwrap();
    }
    let kvm1 = HashMap::from([("kvm1".parse().unwrap(), 2)]);
    let limits = ClaimLimits { node_max: 10, per_backend: kvm1, per_host: HashMap::new() };
    let claim = async |limits: &ClaimLimits| {
        world.queue.claim(NODE, limits).await.unwrap().map(|c| c.job.request.computer().unwrap().to_string())
    };
    assert_eq!(claim(&limits).await.as_deref(), Some("a"));
    let narrow = ClaimLimits { per_host: HashMap::from([("h1".into(), 1)]), ..limits.clone() };
    assert_eq!(claim(&narrow).await.as_deref(), Some("d"), "b and c run on h1");
    assert_eq!(claim(&limits).await.as_deref(), Some("b"));
    assert_eq!(claim(&limits).await.as_deref(), Some("e"), "c waits for kvm1, and does not hold e up");
    assert_eq!(claim(&limits).await, None);
    let full = ClaimLimits { node_max: 4, ..ClaimLimits::default() };
    assert_eq!(claim(&full).await, None);
    assert_eq!(claim(&ClaimLimits { node_max: 5, ..full }).await.as_deref(), Some("c"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn workers_side_by_side_get_each_job_once() {
    let world = World::new().await;
    let names: Vec<String> = (0..60).map(|n| format!("n{n}")).collect();
    let computers: Vec<_> = names.iter().map(|n| computer(n, "kvm1")).collect();
    world.queue.apply_computers(&computers, false).await.unwrap();
    for name in &names {
        world.submit(unload(name)).await.unwrap();
    }
    let workers = (0..8).map(|_| {
        let queue = world.queue.clone();
        tokio::spawn(async move {
            let mut mine = Vec::new();
            let limits = ClaimLimits { node_max: 100, ..ClaimLimits::default() };
            while let Some(claim) = queue.claim(NODE, &limits).await.unwrap() {
                mine.push(claim.id());
                queue.finish(&claim, Event::Done, None, None).await.unwrap();
            }
            mine
        })
    });
    let mut all = Vec::new();
    for worker in futures::future::join_all(workers).await {
        all.extend(worker.unwrap());
    }
    assert_eq!((all.len(), all.iter().collect::<BTreeSet<_>>().len()), (60, 60));
}

#[tokio::test]
async fn a_claim_that_reaches_nobody_goes_back() {
    let world = World::new().await;
    world.submit(load("a", "debian")).await.unwrap();
    let mut submitted = world.queue.submitted();
    submitted.mark_unchanged();
    {
        let limits = ClaimLimits::default();
        let claim = world.queue.claim(NODE, &limits);
        tokio::pin!(claim);
        assert!(futures::poll!(claim.as_mut()).is_pending());
    }
    submitted.changed().await.unwrap();
    assert_eq!(world.queue.job(JobId(1)).await.unwrap().state, State::Queued);
    assert_eq!(world.claim().await.unwrap().token, 2);
}

#[tokio::test]
async fn after_a_restart_what_was_running_goes_first_and_the_old_claim_is_worth_nothing() {
    let mut world = World::new().await;
    world.submit(load("a", "debian")).await.unwrap();
    world.submit(load("b", "debian")).await.unwrap();
    let old = world.claim().await.unwrap();
    let elsewhere = world.queue.claim("node-2", &ClaimLimits::default()).await.unwrap().unwrap();
    world.submit(import("x")).await.unwrap();
    let journal = world.queue.journal(&old);
    journal.append(&begun()).await.unwrap();
    drop(journal);
    world.reopen().await;
    assert_eq!(world.queue.recover(NODE).await.unwrap(), [old.id()]);
    assert_eq!(world.queue.recover(NODE).await.unwrap(), []);
    assert_eq!(world.queue.job(elsewhere.id()).await.unwrap().state, State::Running);
    let new = world.claim().await.unwrap();
    assert_eq!((new.id(), new.token), (old.id(), 2));
    assert!(new.job.started < new.job.claimed || new.job.started == old.job.started);

    let stale = world.queue.journal(&old);
    assert_eq!(stale.append(&begun()).await.unwrap_err().kind, JobKind::LeaseLost);
    assert_eq!(stale.check().await.unwrap_err().kind, JobKind::LeaseLost);
    let error = world.queue.finish(&old, Event::Done, None, None).await.unwrap_err();
    assert_eq!(error.kind, Kind::LeaseLost);
    let error = world.queue.set_loaded(&old, &name("a"), None).await.unwrap_err();
    assert_eq!(error.kind, Kind::LeaseLost);
    let journal = world.queue.journal(&new);
    assert_eq!(journal.read().await.unwrap(), [begun()], "the journal is the job's, not the claim's");
    journal.append(&begun()).await.unwrap();
    journal.check().await.unwrap();
}

#[tokio::test]
async fn a_job_that_is_over_takes_nothing_more() {
    let world = World::new().await;
    let claim = world.running(load("a", "debian")).await;
    let done = world.queue.finish(&claim, Event::Done, None, Some("a runs debian@1")).await.unwrap();
    assert_eq!(done, State::Done);
    let job = world.queue.job(claim.id()).await.unwrap();
    assert_eq!((job.state, job.result.as_deref()), (State::Done, Some("a runs debian@1")));
    let again = world.queue.finish(&claim, Event::Fail, None, None).await.unwrap_err();
    assert_eq!(again.kind, Kind::LeaseLost);
    let late = world.queue.journal(&claim).append(&begun()).await.unwrap_err();
    assert_eq!(late.kind, JobKind::LeaseLost);
    let other = world.running(load("b", "debian")).await;
    let error = world.queue.finish(&other, Event::Claim, None, None).await.unwrap_err();
    assert_eq!(error.kind, Kind::Refused, "claiming does not end a job");
}

#[tokio::test]
async fn calling_off() {
    let world = World::new().await;
    let id = world.submit(load("a", "debian")).await.unwrap();
    assert_eq!(world.queue.cancel(id).await.unwrap(), CancelOutcome::Cancelled);
    assert_eq!(world.queue.cancel(id).await.unwrap(), CancelOutcome::Already(State::Cancelled));
    assert_eq!(world.claim().await, None);

    // A running one is told, and its computer stays its own until it has taken everything back.
    let claim = world.running(load("a", "debian")).await;
    let queue = world.queue.clone();
    let id = claim.id();
    let wish = tokio::spawn(async move { queue.cancel_wish(id).await });
    assert!(!world.queue.cancel_wanted(id).await.unwrap());
    assert_eq!(world.queue.cancel(id).await.unwrap(), CancelOutcome::Wish);
    wish.await.unwrap().unwrap();
    world.queue.cancel_wish(id).await.unwrap();
    assert_eq!(world.submit(unload("a")).await.unwrap_err().kind, Kind::Busy);
    let state = world.queue.finish(&claim, Event::RolledBack, Some("called off"), None).await.unwrap();
    assert_eq!(state, State::Cancelled);
    world.submit(unload("a")).await.unwrap();
    assert_eq!(world.queue.cancel(JobId(99)).await.unwrap_err().kind, Kind::NotFound);
}

#[tokio::test]
async fn a_job_that_has_begun_and_waits_to_go_on_is_not_cancelled_without_taking_back() {
    let mut world = World::new().await;
    let claim = world.running(load("a", "debian")).await;
    world.queue.journal(&claim).append(&begun()).await.unwrap();
    world.reopen().await;
    world.queue.recover(NODE).await.unwrap();
    assert_eq!(world.queue.cancel(claim.id()).await.unwrap(), CancelOutcome::Wish);
    assert!(world.claim().await.unwrap().job.cancel_wanted);
}

#[tokio::test]
async fn a_stuck_job_keeps_its_computer_until_somebody_decides() {
    let world = World::new().await;
    let claim = world.running(load("a", "debian")).await;
    world.queue.journal(&claim).append(&begun()).await.unwrap();
    world.queue.finish(&claim, Event::Stick, Some("the disk is still there"), None).await.unwrap();
    let error = world.submit(unload("a")).await.unwrap_err();
    assert!(error.context.contains("stuck since") && error.context.contains("vclctl job show 1"), "{error}");
    world.queue.retry(claim.id()).await.unwrap();
    let again = world.claim().await.unwrap();
    assert_eq!(world.queue.journal(&again).read().await.unwrap().len(), 1, "it goes on where it was");
    world.queue.finish(&again, Event::Stick, None, None).await.unwrap();
    world.queue.abandon(claim.id(), "the host is gone").await.unwrap();
    let job = world.queue.job(claim.id()).await.unwrap();
    assert_eq!((job.state, job.reason.as_deref()), (State::Failed, Some("the host is gone")));
    world.submit(unload("a")).await.unwrap();
    assert_eq!(world.queue.abandon(claim.id(), "").await.unwrap_err().kind, Kind::Refused);
}

#[tokio::test]
async fn a_failed_job_that_is_tried_again_begins_anew() {
    let world = World::new().await;
    let claim = world.running(load("a", "debian")).await;
    world.queue.journal(&claim).append(&begun()).await.unwrap();
    world.queue.finish(&claim, Event::Fail, Some("no"), None).await.unwrap();
    let other = world.submit(unload("a")).await.unwrap();
    assert_eq!(world.queue.retry(claim.id()).await.unwrap_err().kind, Kind::Busy);
    world.queue.cancel(other).await.unwrap();
    world.queue.retry(claim.id()).await.unwrap();
    let again = world.claim().await.unwrap();
    assert_eq!((again.id(), again.job.attempt, again.job.reason.clone()), (claim.id(), 2, None));
    assert_eq!(world.queue.journal(&again).read().await.unwrap(), []);
    assert_eq!(world.queue.retry(again.id()).await.unwrap_err().kind, Kind::Refused);
}

#[tokio::test]
async fn a_job_that_goes_back_says_why_until_it_goes_on() {
    let world = World::new().await;
    let claim = world.running(load("a", "debian")).await;
    let why = Some("the daemon stopped");
    assert_eq!(world.queue.finish(&claim, Event::Lost, why, None).await.unwrap(), State::Queued);
    assert_eq!(world.queue.job(claim.id()).await.unwrap().reason.as_deref(), why);
    assert_eq!(world.submit(unload("a")).await.unwrap_err().kind, Kind::Busy);
    let again = world.claim().await.unwrap();
    assert_eq!((again.token, again.job.reason), (2, None));
}
