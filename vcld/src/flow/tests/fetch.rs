//! Fetching: as a part of a load, one that fails, and the copies that a node should have. That it survives its process is the
//! matrix's to show.

use crate::exchange::tests::world::{MIB, Then, Wire, World, files, publish};
use crate::testing::{self, image};
use std::sync::Arc;
use vcl_provisioning::MockProvisioning;
use vcl_queue::ClaimLimits;
use vcl_types::api::PowerState;
use vcl_types::state::job;
use vcl_types::{Endpoint, HostKey, HostKeys, JobRequest, KeySource};

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
    node.queue.set_holdings("node1", &[image("debian@2")], chrono::Utc::now()).await.unwrap();
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
