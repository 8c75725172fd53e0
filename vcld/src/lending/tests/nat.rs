//! Public ports of a NAT host: what it is told. The host itself takes everything; real ones are tried with real guests.

use super::scene::Scene;
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;
use vcl_os::mock::{MockRemote, MockRemotes};
use vcl_os::{Output, Remote, Remotes};
use vcl_queue::NatPort;
use vcl_types::ReservationId;
use vcl_types::state::{job, reservation};

const LINES: &str = "[computers.g]\nbackend = \"sim\"\nnetworks = [\"n\"]\nnat = \"gate\"\n\
    [nat.gate]\naddress = \"192.0.2.7\"\nports = \"10000-10000\"\n\
    host_key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF1sexampleexampleexampleexampleexamplee\"\n\
    [reservations]\nafter_use = \"nothing\"\n";

/// A host that does all it is told, and what that was: the lines `PORTS` and `RULES` of each call.
pub(super) fn host(told: &Arc<Mutex<Vec<String>>>) -> Arc<dyn Remotes> {
    let told = told.clone();
    let mut remotes = MockRemotes::new();
    remotes.expect_connect().returning(move |_, _, _| {
        let told = told.clone();
        let mut remote = MockRemote::new();
        remote.expect_run().returning(move |command| {
            let input = String::from_utf8_lossy(&command.input).into_owned();
            let line =
                |name: &str| input.lines().find(|l| l.starts_with(name)).unwrap_or_default().to_owned();
            told.lock().unwrap().push(format!("{} {}", line("PORTS="), line("RULES=")));
            Ok(Output { status: 0, stdout: b"done\n".to_vec(), stderr: Vec::new() })
        });
        Ok(Arc::new(remote) as Arc<dyn Remote>)
    });
    Arc::new(remotes)
}

/// Somebody has `g` and is let in, by the one port there is.
async fn lent(scene: &Scene, who: &str) -> (ReservationId, NatPort) {
    let mut wish = scene.wish();
    wish.wish.computer = Some("g".parse().unwrap());
    let id = scene.reserve(wish, who).await;
    scene.node.connect(id, None).await.unwrap();
    scene.quiet().await;
    assert_eq!(scene.reservation(id).await.state, reservation::State::Ready);
    let ports = scene.node.queue.ports_of(id).await.unwrap();
    assert_eq!(ports.len(), 1);
    (id, ports[0].clone())
}

#[tokio::test]
async fn a_port_that_is_shut_late_is_opened_anew_for_who_has_it_by_then() {
    let scene = Scene::with(1, LINES).await;
    let (alice, hers) = lent(&scene, "alice").await;
    scene.node.release(alice, false, "alice").await.unwrap();
    scene.quiet().await;
    assert_eq!(scene.node.queue.nat_ports().await.unwrap(), []);
    let (bob, his) = lent(&scene, "bob").await;
    assert_eq!((hers.port, his.port), (10000, 10000));

    // Another node had set about shutting hers, and its host was slow.
    let before = scene.node.jobs(None, 100).await.unwrap().len();
    let told = scene.told_host();
    scene.node.shut_ports(&[hers], &CancellationToken::new()).await.unwrap();
    scene.quiet().await;
    let jobs = scene.node.jobs(None, 100).await.unwrap();
    assert_eq!(jobs.len(), before + 1);
    assert_eq!(
        (jobs[0].state, &*jobs[0].title),
        (job::State::Done, &*format!("let reservation {bob} in on g"))
    );
    let since = scene.told_host().split_off(told.len());
    assert_eq!(since.len(), 2, "{since:?}");
    assert!(since[0].contains("10000") && since[0].ends_with("RULES=''"), "{since:?}");
    assert!(since[1].contains("10000") && !since[1].ends_with("RULES=''"), "{since:?}");
    assert_eq!(scene.node.queue.ports_of(bob).await.unwrap()[0].port, 10000);
    scene.close().await;
}
