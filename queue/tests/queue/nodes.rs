//! Nodes: lives, leases, taking over, and what is bound to whom.

use super::world::{World, computer, import, load, name, unload};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use vcl_job::{Kind as JobKind, Record};
use vcl_queue::{
    Admission, CancelOutcome, Claim, ClaimLimits, Kind, Membership, NewJob, NewNode, PROTOCOL, Process, Site,
    WaitFor,
};
use vcl_types::JobId;
use vcl_types::state::job::{Event, State};
use vcl_types::state::node::State as Life;

pub fn node(name: &str) -> NewNode {
    NewNode {
        name: name.into(),
        lease: Duration::from_secs(600),
        version: "1.0.0".into(),
        protocol: PROTOCOL,
        process: Process::this(),
        address: None,
        backends: BTreeMap::from([("kvm1".parse().unwrap(), true)]),
        alone: false,
    }
}
/// A process of another machine: nobody here knows whether it has ended.
fn elsewhere() -> Process {
    Process { boot: "another".into(), namespace: "another".into(), id: 7, started: 7 }
}
fn site(name: &str, shared: bool) -> Site {
    let backends = BTreeMap::from([("kvm1".parse().unwrap(), shared)]);
    Site { node: name.into(), backends, alone: false }
}
async fn join(world: &World, name: &str) -> Membership {
    world.queue.join(&node(name)).await.unwrap().0
}
async fn one(member: &Membership) -> Option<Claim> {
    member.claim_up_to(1, &ClaimLimits::default()).await.unwrap().pop()
}
async fn bury(world: &World, name: &str) -> Option<Vec<JobId>> {
    let row = world.queue.node(name).await.unwrap();
    world.queue.bury(name, row.life, row.beat).await.unwrap()
}
fn begun() -> Record {
    Record::Begun { flow: "load".into(), version: 1, input: serde_json::Value::Null, at: None }
}

#[tokio::test]
async fn each_join_is_a_life_and_the_next_one_goes_on_with_what_the_last_was_doing() {
    let world = World::new().await;
    let first = join(&world, "n1").await;
    world.submit(load("a", "debian")).await.unwrap();
    let claim = one(&first).await.unwrap();
    assert_eq!((claim.job.node.as_deref(), claim.token), (Some("n1"), 1));
    // The same process joins again: its first life is over.
    let (second, resumed) = world.queue.join(&node("n1")).await.unwrap();
    assert_eq!((second.lease().life(), resumed), (2, vec![claim.id()]));
    assert!(!first.renew().await.unwrap());
    let error = first.claim_up_to(1, &ClaimLimits::default()).await.unwrap_err();
    assert_eq!(error.kind, Kind::LeaseLost);
    assert_eq!(world.queue.journal(&claim).check().await.unwrap_err().kind, JobKind::LeaseLost);
    assert_eq!(one(&second).await.unwrap().token, 2);
    let row = world.queue.node("n1").await.unwrap();
    assert_eq!((row.life, row.state), (2, Life::Alive));
    assert_eq!(world.queue.jobs_of_nodes().await.unwrap(), BTreeMap::from([("n1".to_owned(), (1, 0))]));
    let error = world.queue.node("n2").await.unwrap_err();
    assert!(error.kind == Kind::NotFound && error.context.contains("vclctl node list"), "{error}");
}

#[tokio::test]
async fn a_dead_nodes_jobs_are_anothers_and_its_old_hands_change_nothing() {
    let world = World::new().await;
    let (dead, alive) = (join(&world, "n1").await, join(&world, "n2").await);
    world.submit(load("a", "debian")).await.unwrap();
    world.submit(load("b", "debian")).await.unwrap();
    let old = one(&dead).await.unwrap();
    world.queue.journal(&old).append(&begun()).await.unwrap();
    // One that has renewed since it was looked at is not dead.
    let seen = world.queue.node("n1").await.unwrap();
    assert!(dead.renew().await.unwrap());
    assert_eq!(world.queue.bury("n1", seen.life, seen.beat).await.unwrap(), None);
    assert_eq!(bury(&world, "n1").await, Some(vec![old.id()]));
    assert_eq!(bury(&world, "n1").await, None, "once is enough");
    assert_eq!(world.queue.node("n1").await.unwrap().state, Life::Dead);
    let job = world.queue.job(old.id()).await.unwrap();
    assert_eq!(
        (job.state, job.reason.as_deref()),
        (State::Queued, Some("its node died; it goes on where it was"))
    );
    assert_eq!(world.queue.journal(&old).append(&begun()).await.unwrap_err().kind, JobKind::LeaseLost);
    assert_eq!(world.queue.set_loaded(&old, &name("a"), None).await.unwrap_err().kind, Kind::LeaseLost);

    let new = one(&alive).await.unwrap();
    assert_eq!((new.id(), new.token, new.job.node.as_deref()), (old.id(), 2, Some("n2")), "it goes before b");
    assert_eq!(world.queue.journal(&new).read().await.unwrap(), [begun()]);
    assert_eq!(world.queue.finish(&old, Event::Done, None, None).await.unwrap_err().kind, Kind::LeaseLost);
    // The dead one finds out, and its next life begins with nothing.
    assert!(!dead.renew().await.unwrap());
    assert_eq!(dead.claim_up_to(1, &ClaimLimits::default()).await.unwrap_err().kind, Kind::LeaseLost);
    assert_eq!(world.queue.join(&node("n1")).await.unwrap().1, []);
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_ends_by_the_holders_own_clock() {
    let world = World::new().await;
    let (member, _) =
        world.queue.join(&NewNode { lease: Duration::from_secs(3), ..node("n1") }).await.unwrap();
    world.submit(load("a", "debian")).await.unwrap();
    let claim = one(&member).await.unwrap();
    let journal = world.queue.journal(&claim);
    journal.append(&begun()).await.unwrap();
    // Nobody renews it. The database knows nothing of it, and all the same nothing more is written.
    let asked = async {
        while member.lease().check().is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), asked).await.unwrap();
    member.lease().lost().await;
    assert_eq!(world.queue.node("n1").await.unwrap().state, Life::Alive);
    assert_eq!(journal.check().await.unwrap_err().kind, JobKind::LeaseLost);
    assert_eq!(journal.append(&begun()).await.unwrap_err().kind, JobKind::LeaseLost);
    assert_eq!(world.queue.finish(&claim, Event::Done, None, None).await.unwrap_err().kind, Kind::LeaseLost);
    let error = member.claim_up_to(1, &ClaimLimits::default()).await.unwrap_err();
    assert_eq!(error.kind, Kind::LeaseLost);
    // `keep` has nothing to keep any more.
    member.keep().await;
}

#[tokio::test]
async fn a_lease_that_is_kept_outlasts_its_span_until_somebody_gives_the_life_up() {
    let world = World::new().await;
    let (member, _) =
        world.queue.join(&NewNode { lease: Duration::from_secs(3), ..node("n1") }).await.unwrap();
    let keeper = tokio::spawn({
        let member = member.clone();
        async move { member.keep().await }
    });
    let first = world.queue.node("n1").await.unwrap().beat;
    let four = async {
        while world.queue.node("n1").await.unwrap().beat < first + 4 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), four).await.unwrap();
    member.lease().check().unwrap();
    bury(&world, "n1").await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), keeper).await.unwrap().unwrap();
    assert_eq!(member.lease().check().unwrap_err().kind, Kind::LeaseLost);
}

#[tokio::test]
async fn two_processes_do_not_live_under_one_name_unless_the_first_is_dead() {
    let world = World::new().await;
    let far = |lease| NewNode { lease: Duration::from_secs(lease), process: elsewhere(), ..node("n1") };
    let (first, _) = world.queue.join(&far(3)).await.unwrap();
    let keeper = tokio::spawn({
        let first = first.clone();
        async move { first.keep().await }
    });
    let error = world.queue.join(&node("n1")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Busy);
    assert!(error.context.contains("node n1") && error.context.contains("node.name"), "{error}");
    first.lease().check().unwrap();
    // It dies; a machine that is not its own has to wait for its lease.
    keeper.abort();
    let before = std::time::Instant::now();
    let (second, _) = world.queue.join(&node("n1")).await.unwrap();
    assert!(before.elapsed() >= Duration::from_secs(3), "{:?}", before.elapsed());
    assert_eq!(second.lease().life(), 2);
    // On its own machine it is known to be gone at once.
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let gone = Process { id: child.id(), started: 1, ..Process::this() };
    child.wait().unwrap();
    second.leave().await.unwrap();
    world.queue.join(&NewNode { process: gone, ..node("n1") }).await.unwrap();
    let before = std::time::Instant::now();
    assert_eq!(world.queue.join(&node("n1")).await.unwrap().0.lease().life(), 4);
    assert!(before.elapsed() < Duration::from_secs(2));
    let error = world.queue.join(&NewNode { lease: Duration::from_secs(1), ..node("n2") }).await.unwrap_err();
    assert_eq!(error.kind, Kind::Refused);
}

#[tokio::test]
async fn whoever_leaves_gives_back_and_whoever_is_drained_takes_nothing() {
    let world = World::new().await;
    let (first, second) = (join(&world, "n1").await, join(&world, "n2").await);
    for computer in ["a", "b", "c"] {
        world.submit(load(computer, "debian")).await.unwrap();
    }
    let claim = one(&first).await.unwrap();
    assert!(world.queue.drain_node("n1", true).await.unwrap().drained);
    assert_eq!(one(&first).await, None);
    world.queue.journal(&claim).append(&begun()).await.unwrap();
    first.leave().await.unwrap();
    assert_eq!(world.queue.node("n1").await.unwrap().state, Life::Left);
    assert_eq!(one(&second).await.unwrap().id(), claim.id());
    let again = join(&world, "n1").await;
    assert_eq!(one(&again).await, None, "drained is drained until somebody says otherwise");
    assert!(!world.queue.drain_node("n1", false).await.unwrap().drained);
    assert!(one(&again).await.is_some());
}

#[tokio::test]
async fn what_is_bound_to_a_node_waits_for_it_and_only_what_is_shared_moves() {
    let world = World::new().await;
    let local = BTreeMap::from([("kvm1".parse().unwrap(), false), ("san".parse().unwrap(), true)]);
    let computers = [computer("a", "kvm1"), computer("b", "san")];
    let site = Site { node: "n1".into(), backends: local.clone(), alone: true };
    world.queue.apply_computers_of(&site, &computers, false).await.unwrap();
    let first = world.queue.join(&NewNode { backends: local, ..node("n1") }).await.unwrap().0;
    let shares = BTreeMap::from([("san".parse().unwrap(), true)]);
    let second = world.queue.join(&NewNode { backends: shares, ..node("n2") }).await.unwrap().0;
    let third = world.queue.join(&NewNode { backends: BTreeMap::new(), ..node("n3") }).await.unwrap().0;
    for computer in ["a", "b"] {
        world.submit(load(computer, "debian")).await.unwrap();
    }
    let file = NewJob { request: import("x"), requester: "ann".into(), backend: None, host: None };
    let here = Admission { bound_to: Some("n1".into()), wait: false };
    world.queue.submit_as(file, here).await.unwrap();
    let anywhere = world.submit(import("y")).await.unwrap();

    assert_eq!(world.queue.job(JobId(1)).await.unwrap().bound_to.as_deref(), Some("n1"));
    let all = first.claim_up_to(3, &ClaimLimits::default()).await.unwrap();
    assert_eq!(all.iter().map(|c| c.id().0).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(one(&third).await.unwrap().id(), anywhere, "it needs no backend and no node");
    assert_eq!(bury(&world, "n1").await.unwrap().len(), 3);
    assert_eq!(one(&third).await, None);
    assert_eq!(one(&second).await.unwrap().job.request, load("b", "debian"));
    assert_eq!(one(&second).await, None);
    assert_eq!(world.queue.jobs_of_nodes().await.unwrap()["n1"], (0, 2));
    let back = join(&world, "n1").await;
    let back = back.claim_up_to(9, &ClaimLimits::default()).await.unwrap();
    assert_eq!(back.iter().map(|c| c.id().0).collect::<Vec<_>>(), [1, 3]);
}

#[tokio::test]
async fn each_nodes_configuration_decides_about_its_own_computers() {
    let world = World::new().await;
    let (one, two) = (site("n1", false), site("n2", false));
    let apply =
        async |site: &Site, computers: &[_]| world.queue.apply_computers_of(site, computers, false).await;
    let alone = Site { alone: true, ..one.clone() };
    apply(&alone, &[computer("a", "kvm1"), computer("b", "kvm1")]).await.unwrap();
    assert_eq!(world.queue.computer(&name("a")).await.unwrap().node.as_deref(), Some("n1"));
    let error = apply(&two, &[computer("z", "kvm1")]).await.unwrap_err();
    assert_eq!(error.kind, Kind::Refused);
    assert!(["n1", "n2", "kvm1"].iter().all(|part| error.context.contains(part)), "{error}");
    let two = Site { backends: BTreeMap::from([("kvm2".parse().unwrap(), false)]), ..two };
    let error = apply(&two, &[computer("a", "kvm2")]).await.unwrap_err();
    assert!(["n1", "n2", "computer a"].iter().all(|part| error.context.contains(part)), "{error}");
    let applied = apply(&two, &[computer("y", "kvm2")]).await.unwrap();
    assert_eq!((applied.added.len(), applied.removed.len()), (1, 0), "n1's computers stay");
    let applied = apply(&one, &[computer("a", "kvm1")]).await.unwrap();
    assert_eq!(applied.removed, [name("b")]);
    // A shared backend's computers are everybody's who has it.
    let shared =
        |node: &str| Site { backends: BTreeMap::from([("san".parse().unwrap(), true)]), ..site(node, true) };
    apply(&shared("n3"), &[computer("s", "san")]).await.unwrap();
    assert_eq!(apply(&shared("n4"), &[computer("s", "san")]).await.unwrap(), Default::default());
    assert_eq!(world.queue.computer(&name("s")).await.unwrap().node, None);
    assert_eq!(world.queue.computers().await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_program_goes_on_only_with_what_it_understands() {
    let world = World::new().await;
    let newer = world.queue.join(&NewNode { protocol: PROTOCOL + 1, ..node("new") }).await.unwrap().0;
    let older = join(&world, "old").await;
    world.submit(load("a", "debian")).await.unwrap();
    world.submit(load("b", "debian")).await.unwrap();
    let claim = one(&newer).await.unwrap();
    world.queue.journal(&claim).append(&begun()).await.unwrap();
    bury(&world, "new").await.unwrap();
    assert_eq!(one(&older).await.unwrap().job.request, load("b", "debian"), "a was begun by a newer program");
    assert_eq!(one(&older).await, None);
    let newer = world.queue.join(&NewNode { protocol: PROTOCOL + 1, ..node("new") }).await.unwrap().0;
    assert_eq!(one(&newer).await.unwrap().id(), claim.id());
}

#[tokio::test]
async fn a_second_request_waits_its_turn_when_it_is_to() {
    let world = World::new().await;
    let wait = Admission { wait: true, bound_to: None };
    let new = |request| NewJob { request, requester: "bob".into(), backend: None, host: None };
    let first = world.running(load("a", "debian")).await;
    let second = world.queue.submit_as(new(unload("a")), wait.clone()).await.unwrap();
    let third = world.queue.submit_as(new(load("a", "debian")), wait.clone()).await.unwrap();
    let free = world.queue.submit_as(new(load("b", "debian")), wait.clone()).await.unwrap();
    assert_eq!(world.queue.job(free).await.unwrap().state, State::Queued, "nobody has b");
    let job = world.queue.job(second).await.unwrap();
    assert_eq!((job.state, job.waits_for), (State::Waiting, Some(WaitFor::Computer(name("a")))));
    let reason = job.reason.unwrap();
    assert!(reason.starts_with("waits for a: job 1 (load a debian) has it since "), "{reason}");
    let lease = world.queue.lease_of(&WaitFor::Computer(name("a"))).await.unwrap().unwrap();
    assert_eq!((lease.job, lease.purpose.as_str(), lease.token), (first.id(), "load a debian", 1));
    assert_eq!(lease.waiting, [second, third]);
    assert_eq!(world.queue.leases().await.unwrap().len(), 2);
    world.queue.cancel(free).await.unwrap();

    assert_eq!(world.claim().await, None);
    world.done(&first).await;
    let claim = world.claim().await.unwrap();
    assert_eq!((claim.id(), world.claim().await), (second, None));
    assert_eq!(world.queue.lease_of(&WaitFor::Computer(name("a"))).await.unwrap().unwrap().job, second);
    world.queue.finish(&claim, Event::Fail, Some("no"), None).await.unwrap();
    let claim = world.claim().await.unwrap();
    assert_eq!(claim.id(), third);
    world.done(&claim).await;
    assert_eq!(world.queue.leases().await.unwrap(), []);
}

/// Loads share an image: when nobody deletes it any more, all that waited go on, and not one after the other.
#[tokio::test]
async fn those_who_only_read_an_image_are_let_in_together() {
    let world = World::new().await;
    let wait = Admission { wait: true, bound_to: None };
    let new = |request| NewJob { request, requester: "bob".into(), backend: None, host: None };
    let deleting = world.running(super::world::delete("debian@1")).await;
    let mut loads = Vec::new();
    for computer in ["a", "b", "c"] {
        let load = new(load(computer, "debian@1"));
        loads.push(world.queue.submit_as(load, wait.clone()).await.unwrap());
    }
    for id in &loads {
        assert_eq!(world.queue.job(*id).await.unwrap().state, State::Waiting);
    }
    world.queue.finish(&deleting, Event::RolledBack, Some("called off"), None).await.unwrap();
    for id in &loads {
        assert_eq!(world.queue.job(*id).await.unwrap().state, State::Queued);
    }
}

#[tokio::test]
async fn one_that_waits_can_be_called_off_and_one_that_is_not_possible_any_more_fails_without_holding_others_up()
 {
    let world = World::new().await;
    let wait = Admission { wait: true, bound_to: None };
    let new = |request| NewJob { request, requester: "bob".into(), backend: None, host: None };
    world.queue.rebuild_from(&[super::world::manifest("gone", 1)]).await.unwrap();
    let holder = world.running(unload("a")).await;
    let off = world.queue.submit_as(new(unload("a")), wait.clone()).await.unwrap();
    let gone = world.queue.submit_as(new(load("a", "gone")), wait.clone()).await.unwrap();
    let last = world.queue.submit_as(new(unload("a")), wait.clone()).await.unwrap();
    assert_eq!(world.queue.cancel(off).await.unwrap(), CancelOutcome::Cancelled);
    let delete = world.submit(super::world::delete("gone@1")).await.unwrap();
    let delete = {
        let claim = world.claim().await.unwrap();
        assert_eq!(claim.id(), delete);
        claim
    };
    world.queue.delete_revision(&delete, &"gone@1".parse().unwrap()).await.unwrap();
    world.done(&delete).await;
    world.done(&holder).await;
    let job = world.queue.job(gone).await.unwrap();
    assert_eq!(job.state, State::Failed);
    assert!(job.reason.unwrap().contains("gone"));
    assert_eq!(world.claim().await.unwrap().id(), last);
}

#[tokio::test]
async fn a_job_that_waits_in_the_middle_keeps_what_it_holds_and_goes_on() {
    let world = World::new().await;
    let claim = world.running(load("a", "debian")).await;
    world.queue.journal(&claim).append(&begun()).await.unwrap();
    let room = WaitFor::Space("library".into());
    let state = world.queue.wait_for(&claim, room.clone(), "waits for room: 3G are needed").await.unwrap();
    assert_eq!(state, State::Waiting);
    assert_eq!(world.queue.journal(&claim).check().await.unwrap_err().kind, JobKind::LeaseLost);
    assert_eq!(world.submit(unload("a")).await.unwrap_err().kind, Kind::Busy);
    assert_eq!(world.claim().await, None);
    assert_eq!(world.queue.wake_waiting(&WaitFor::Space("elsewhere".into())).await.unwrap(), 0);
    let mut submitted = world.queue.submitted();
    submitted.mark_unchanged();
    assert_eq!(world.queue.wake_waiting(&room).await.unwrap(), 1);
    assert!(submitted.has_changed().unwrap());
    let claim = world.claim().await.unwrap();
    assert_eq!((claim.token, claim.job.waits_for.clone()), (2, None));
    assert_eq!(world.queue.journal(&claim).read().await.unwrap(), [begun()]);
    world.queue.wait_for(&claim, room.clone(), "again").await.unwrap();
    assert_eq!(world.queue.wake_all().await.unwrap(), 1);
    // Called off while it waits: it goes on, to take back what it did.
    let claim = world.claim().await.unwrap();
    world.queue.wait_for(&claim, room, "again").await.unwrap();
    assert_eq!(world.queue.cancel(claim.id()).await.unwrap(), CancelOutcome::Wish);
    assert_eq!(world.queue.called_off("node-1").await.unwrap(), []);
    let claim = world.claim().await.unwrap();
    assert!(claim.job.cancel_wanted);
    assert_eq!(world.queue.called_off("node-1").await.unwrap(), [claim.id()]);
}

#[tokio::test]
async fn many_are_claimed_at_once_within_every_limit_and_in_order() {
    let world = World::new().await;
    let names: Vec<String> = (0..40).map(|n| format!("n{n}")).collect();
    let computers: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(n, name)| computer(name, if n % 2 == 0 { "kvm1" } else { "kvm2" }))
        .collect();
    world.queue.apply_computers(&computers, false).await.unwrap();
    for name in &names {
        world.submit(unload(name)).await.unwrap();
    }
    let both = BTreeMap::from([("kvm1".parse().unwrap(), true), ("kvm2".parse().unwrap(), true)]);
    let member = world.queue.join(&NewNode { backends: both, ..node("n1") }).await.unwrap().0;
    let limits = ClaimLimits {
        node_max: 12,
        per_backend: HashMap::from([("kvm1".parse().unwrap(), 3)]),
        per_host: HashMap::new(),
    };
    let ids = |claims: &[Claim]| claims.iter().map(|c| c.id().0).collect::<Vec<_>>();
    let first = member.claim_up_to(4, &limits).await.unwrap();
    assert_eq!(ids(&first), [1, 2, 3, 4]);
    let second = member.claim_up_to(99, &limits).await.unwrap();
    assert_eq!(ids(&second), [5, 6, 8, 10, 12, 14, 16, 18], "kvm1 is full after 5, the node after twelve");
    assert_eq!(member.claim_up_to(99, &limits).await.unwrap(), []);
    world.done(&first[0]).await;
    world.done(&first[1]).await;
    assert_eq!(ids(&member.claim_up_to(99, &limits).await.unwrap()), [7, 20]);
}

#[tokio::test]
async fn whoever_has_the_database_alone_inherits_what_another_name_had() {
    let world = World::new().await;
    let local = BTreeMap::from([("kvm1".parse().unwrap(), false)]);
    let site = |node: &str| Site { node: node.into(), backends: local.clone(), alone: true };
    let computers = [computer("a", "kvm1"), computer("b", "kvm1")];
    world.queue.apply_computers_of(&site("old"), &computers, false).await.unwrap();
    let alone = |name: &str| NewNode { alone: true, process: elsewhere(), ..node(name) };
    let old = world.queue.join(&alone("old")).await.unwrap().0;
    world.submit(load("a", "debian")).await.unwrap();
    world.submit(load("b", "debian")).await.unwrap();
    let claim = one(&old).await.unwrap();
    // The host was given another name.
    world.queue.apply_computers_of(&site("new"), &computers, false).await.unwrap();
    let (new, resumed) = world.queue.join(&alone("new")).await.unwrap();
    assert_eq!(resumed, [claim.id()]);
    assert_eq!(world.queue.node("old").await.unwrap().state, Life::Dead);
    assert_eq!(world.queue.computer(&name("a")).await.unwrap().node.as_deref(), Some("new"));
    assert_eq!(new.claim_up_to(9, &ClaimLimits::default()).await.unwrap().len(), 2);
}
