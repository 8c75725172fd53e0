//! Fetching and backing up, with the process dying before and after each journal write. Each next life has nothing but
//! what was durable then, and must come to the same end.

use super::{Made, Running};
use crate::exchange::tests::world::{MIB, Then, Wire, World, files, publish};
use crate::node::Node;
use crate::testing::{self, image, import};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;
use vcl_job::{Control, Flow, Journal, MemoryJournal, Outcome, Owners, Record, Result, Run, Silent, execute};
use vcl_provisioning::MockProvisioning;
use vcl_queue::ClaimLimits;
use vcl_types::api::PowerState;
use vcl_types::state::job;
use vcl_types::{Endpoint, HostKey, HostKeys, JobRequest, KeySource};

/// A journal whose process dies at a write: before it is durable, or right after.
struct Dying {
    inner: MemoryJournal,
    writes: AtomicUsize,
    at: usize,
    after: bool,
    died: Notify,
}

#[async_trait::async_trait]
impl Journal for Dying {
    async fn append(&self, record: &Record) -> Result<()> {
        let now = self.writes.fetch_add(1, Ordering::SeqCst) + 1 == self.at;
        if now && !self.after {
            self.died.notify_one();
            return std::future::pending().await;
        }
        self.inner.append(record).await?;
        if now {
            self.died.notify_one();
            return std::future::pending().await;
        }
        Ok(())
    }
    async fn read(&self) -> Result<Vec<Record>> {
        self.inner.read().await
    }
}

async fn running(node: &Arc<Node>, request: JobRequest) -> Running {
    node.submit(request, "tester").await.unwrap();
    let claim = node.queue.claim(&node.name, &ClaimLimits::default()).await.unwrap().unwrap();
    Running { node: node.clone(), claim }
}

async fn play(running: &Running, journal: Arc<dyn Journal>) -> Outcome<Made> {
    let run = Run {
        journal,
        observer: Arc::new(Silent),
        control: Control::default(),
        owners: Owners { flow: running, parts: &[] },
    };
    match running.claim.job.request.clone() {
        JobRequest::Fetch { image, .. } => {
            let flow = Flow { name: "fetch", version: 1, deadline: None };
            execute(run, flow, running.begin_fetch(&image), async |job, input| {
                running.fetch(job, input).await
            })
            .await
        }
        JobRequest::Backup { directory, .. } => {
            let flow = Flow { name: "backup", version: 1, deadline: None };
            let begin = running.begin_backup(&directory);
            execute(run, flow, begin, async |job, input| running.backup(job, input).await).await
        }
        other => panic!("{other}"),
    }
}

/// Lets the process die at each write, and the next one come to the end. `fresh` makes the world, `look` judges it.
/// Answers how many points there were.
async fn at_every_point<W, F, L>(fresh: impl Fn(String) -> F, look: impl Fn(W, String) -> L) -> usize
where
    F: Future<Output = (W, Running)>,
    L: Future<Output = ()>,
{
    let mut points = 0;
    for at in 1.. {
        let mut ended = false;
        for after in [false, true] {
            let name = format!("{at}{}", if after { "b" } else { "a" });
            let (world, running) = fresh(name.clone()).await;
            let died = Notify::new();
            let journal = Arc::new(Dying {
                inner: MemoryJournal::default(),
                writes: AtomicUsize::new(0),
                at,
                after,
                died,
            });
            let lived = tokio::select! {
                outcome = play(&running, journal.clone()) => Some(outcome),
                () = journal.died.notified() => None,
            };
            let outcome = match lived {
                Some(outcome) => {
                    ended = true;
                    outcome
                }
                None => {
                    points += 1;
                    let records = journal.inner.read().await.unwrap();
                    play(&running, Arc::new(MemoryJournal::of(records))).await
                }
            };
            assert!(matches!(outcome, Outcome::Done(_)), "{name}: {outcome:?}");
            look(world, name).await;
        }
        if ended {
            break;
        }
    }
    points
}

#[tokio::test]
async fn a_fetch_survives_its_process_at_every_point() {
    let world = World::new();
    let one = world.library("one");
    let manifest = publish(&one, "debian@2", MIB, 1).await;
    let nobody = "127.0.0.1:1".parse().unwrap();
    let server = world.serve(world.end("node1", &[("node2", nobody)]), &one, "127.0.0.2").await;
    let fresh = |name: String| {
        let (end, path) = (world.end("node2", &[("node1", server.address)]), world.path().join(name));
        let manifest = manifest.clone();
        async move {
            std::fs::create_dir(&path).unwrap();
            let node = testing::node(&path, "node2", MockProvisioning::default(), Some(end)).await;
            node.queue.rebuild_from(&[manifest]).await.unwrap();
            let running =
                running(&node, JobRequest::Fetch { image: image("debian"), node: Some("node2".into()) })
                    .await;
            (node, running)
        }
    };
    let points = at_every_point(fresh, async |node: Arc<Node>, _| {
        assert_eq!(files(&node.library, "debian@2"), files(&one, "debian@2"));
        assert!(node.library.leftovers().unwrap().is_empty());
        assert_eq!(node.queue.holders(&image("debian@2")).await.unwrap(), ["node2"]);
    })
    .await;
    assert!(points >= 10, "{points}");
}

#[tokio::test]
async fn a_backup_survives_its_process_at_every_point() {
    let directory = tempfile::tempdir().unwrap();
    let root = camino::Utf8Path::from_path(directory.path()).unwrap().to_owned();
    let source = testing::disk(&root, 1);
    let fresh = |name: String| {
        let (path, source) = (root.join(name), source.clone());
        async move {
            std::fs::create_dir(&path).unwrap();
            let node = testing::node(&path, "node1", MockProvisioning::default(), None).await;
            assert_eq!(testing::run(&node, import("debian", &source)).await.state, job::State::Done);
            let request = JobRequest::Backup { directory: path.join("backup").into(), node: None };
            let running = running(&node, request.or_at("node1")).await;
            (node, running)
        }
    };
    let points = at_every_point(fresh, async |node: Arc<Node>, name| {
        assert!(node.library.leftovers().unwrap().is_empty());
        let backup = root.join(name).join("backup");
        let store = crate::backup::Store::open(&backup).unwrap();
        let snapshots = store.snapshots().unwrap();
        assert_eq!(snapshots.len(), 1);
        assert_eq!(snapshots[0].complete.as_ref().unwrap().revisions, 1);
        assert_eq!(crate::backup::verify(&backup, None).await.unwrap(), Vec::<String>::new());
    })
    .await;
    assert!(points >= 20, "{points}");
}

/// A load on a node that lacks the revision begins with having it; giving up leaves nothing.
#[tokio::test]
async fn a_load_on_a_node_that_lacks_the_revision_fetches_it() {
    let world = World::new();
    let one = world.library("one");
    let manifest = publish(&one, "debian@2", 2 * MIB, 2).await;
    let nobody = "127.0.0.1:1".parse().unwrap();
    let server = world.serve(world.end("node1", &[("node2", nobody)]), &one, "127.0.0.2").await;
    let wire = Wire::to(server.address, &[MIB as u64], Then::Whole, || ()).await;
    let mut backend = MockProvisioning::default();
    backend.calls.expect_state().returning(|_| PowerState::Absent);
    backend.calls.expect_load().times(1).returning(|_, _| {
        let key = HostKey::parse("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF1s7000000").unwrap();
        let host_keys = HostKeys { keys: vec![key], source: KeySource::Console };
        Ok(Endpoint { address: [127, 0, 0, 1].into(), port: 22, user: "root".into(), host_keys })
    });
    let path = world.path().join("two");
    let end = world.end("node2", &[("node1", wire.address)]);
    let node = testing::node(&path, "node2", backend, Some(end)).await;
    node.queue.rebuild_from(std::slice::from_ref(&manifest)).await.unwrap();
    let load = JobRequest::Load { computer: "a".parse().unwrap(), image: image("debian") };
    let plan = node.plan(&JobRequest::Fetch { image: image("debian"), node: None }).await.unwrap();
    assert_eq!(plan.steps[0].name, "fetch/fetch revision");
    let job = testing::run(&node, load.clone()).await;
    assert_eq!(job.state, job::State::Done, "{:?}", job.reason);
    assert_eq!(files(&node.library, "debian@2"), files(&one, "debian@2"));
    assert!(node.events(None, Some(job.id), 50).await.unwrap().iter().any(|e| e.kind == "fetched"));

    // A node that has nobody to ask says so, and what to do.
    let path = world.path().join("alone");
    let node = testing::node(&path, "node3", MockProvisioning::default(), None).await;
    node.queue.rebuild_from(&[manifest]).await.unwrap();
    let reason = testing::run(&node, load).await.reason.unwrap();
    assert!(reason.contains("debian@2") && reason.contains("[exchange]"), "{reason}");
    let fetch = JobRequest::Fetch { image: image("debian"), node: None };
    let reason = testing::run(&node, fetch).await.reason.unwrap();
    assert!(reason.contains("node3") && reason.contains("[exchange]"), "{reason}");
}

/// A fetch that cannot be had is given up, and what came of it is thrown away.
#[tokio::test]
async fn a_fetch_that_fails_leaves_nothing() {
    let world = World::new();
    let one = world.library("one");
    let manifest = publish(&one, "debian@2", 2 * MIB, 3).await;
    crate::exchange::tests::world::spoil(&one, "debian@2", MIB as u64);
    let nobody = "127.0.0.1:1".parse().unwrap();
    let server = world.serve(world.end("node1", &[("node2", nobody)]), &one, "127.0.0.2").await;
    let end = world.end("node2", &[("node1", server.address)]);
    let node =
        testing::node(&world.path().join("two"), "node2", MockProvisioning::default(), Some(end)).await;
    node.queue.rebuild_from(&[manifest]).await.unwrap();
    let job = testing::run(&node, JobRequest::Fetch { image: image("debian"), node: None }).await;
    assert_eq!(job.state, job::State::Failed);
    assert!(job.reason.unwrap().contains("not what its manifest says"));
    assert!(node.library.leftovers().unwrap().is_empty());
}

/// A node that should have a copy asks for it, once, and has it.
#[tokio::test]
async fn a_node_that_lacks_a_copy_fetches_it() {
    let world = World::new();
    let one = world.library("one");
    let manifest = publish(&one, "debian@2", MIB, 4).await;
    let nobody = "127.0.0.1:1".parse().unwrap();
    let server = world.serve(world.end("node1", &[("node2", nobody)]), &one, "127.0.0.2").await;
    let end = world.end("node2", &[("node1", server.address)]);
    let mut node =
        testing::node(&world.path().join("two"), "node2", MockProvisioning::default(), Some(end)).await;
    assert_eq!(node.replicate().await.unwrap(), []);
    Arc::get_mut(&mut node).unwrap().config.library.copies = 2;
    node.queue.rebuild_from(&[manifest]).await.unwrap();
    // Nobody holds it: there is nothing to copy from.
    assert_eq!(node.replicate().await.unwrap(), []);
    assert!(node.replica_findings().await[0].found.contains("no node"));
    node.queue.set_holdings("node1", &[image("debian@2")]).await.unwrap();
    assert_eq!(node.replicate().await.unwrap(), [image("debian@2")]);
    // It is asked for already. Another node does not take it.
    assert_eq!(node.replicate().await.unwrap(), []);
    assert!(node.queue.claim("node9", &ClaimLimits::default()).await.unwrap().is_none());
    testing::run_all(&node, vec![JobRequest::Fetch { image: image("debian"), node: None }]).await;
    assert_eq!(files(&node.library, "debian@2"), files(&one, "debian@2"));
    assert_eq!(node.replicate().await.unwrap(), []);
    assert!(node.replica_findings().await.is_empty());
    assert_eq!(node.queue.holders(&image("debian@2")).await.unwrap(), ["node1", "node2"]);
}
