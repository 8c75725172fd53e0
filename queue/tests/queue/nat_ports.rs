//! Public ports: each is one reservation's, from before its rule is there until that is known to be gone.

use super::world::{World, load, name};
use vcl_queue::{Allotment, Kind, NatPort, WayIn};
use vcl_types::ReservationId;

fn wanted(reservation: i64, computer: &str, ports: &str, methods: &[(&str, u16)]) -> Allotment {
    let way = |(method, port): &(&str, u16)| WayIn { method: (*method).to_owned(), port: *port };
    Allotment {
        nat: "campus".parse().unwrap(),
        address: "192.0.2.7".parse().unwrap(),
        ports: ports.parse().unwrap(),
        reservation: ReservationId(reservation),
        computer: name(computer),
        to: "10.9.0.11".parse().unwrap(),
        ways: methods.iter().map(way).collect(),
    }
}

fn numbers(ports: &[NatPort]) -> Vec<u16> {
    ports.iter().map(|port| port.port).collect()
}

#[tokio::test]
async fn a_port_is_given_out_once_until_its_rule_is_gone() {
    let world = World::new().await;
    let queue = &world.queue;
    let (a, b) = (world.running(load("a", "debian")).await, world.running(load("b", "debian")).await);
    let both = wanted(1, "a", "100-102", &[("ssh", 22), ("rdp", 3389)]);
    let first = queue.allot_ports(&a, &both).await.unwrap();
    assert_eq!(numbers(&first), [101, 102]);
    assert_eq!(queue.allot_ports(&a, &both).await.unwrap(), first, "it keeps what it has");
    let error = queue.allot_ports(&b, &wanted(2, "a", "100-102", &[("ssh", 22)])).await.unwrap_err();
    assert_eq!(error.kind, Kind::Refused, "another job's computer");

    let one = wanted(2, "b", "100-102", &[("ssh", 22)]);
    assert_eq!(numbers(&queue.allot_ports(&b, &one).await.unwrap()), [100]);
    let error =
        queue.allot_ports(&b, &wanted(2, "b", "100-102", &[("ssh", 22), ("vnc", 5900)])).await.unwrap_err();
    assert_eq!(error.kind, Kind::Busy);
    assert!(error.context.contains("all 3 of its ports 100-102 are given out"), "{error}");
    assert_eq!(numbers(&queue.ports_of(ReservationId(2)).await.unwrap()), [100], "nothing by halves");

    // It leaves, and is nobody else's before its rule is gone.
    queue.ports_told(&a, &first[0].nat, &[101, 102], "everybody").await.unwrap();
    let leaving = queue.leave_ports(Some(&a), ReservationId(1), &name("a")).await.unwrap();
    assert_eq!(leaving, queue.leave_ports(None, ReservationId(1), &name("a")).await.unwrap());
    assert!(leaving.iter().all(|port| port.leaving.is_some() && port.told.as_deref() == Some("everybody")));
    assert!(queue.ports_of(ReservationId(1)).await.unwrap().is_empty());
    let more = wanted(2, "b", "100-102", &[("ssh", 22), ("vnc", 5900)]);
    assert_eq!(queue.allot_ports(&b, &more).await.unwrap_err().kind, Kind::Busy);
    // What is not leaving is not freed by mistake.
    queue.free_ports(&queue.nat_ports().await.unwrap()).await.unwrap();
    assert_eq!(numbers(&queue.nat_ports().await.unwrap()), [100]);
    assert_eq!(queue.allot_ports(&b, &more).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_computer_that_moved_keeps_its_port_and_a_job_that_is_over_changes_none() {
    let world = World::new().await;
    let queue = &world.queue;
    let a = world.running(load("a", "debian")).await;
    let first = wanted(7, "a", "5000-5999", &[("ssh", 22)]);
    let had = queue.allot_ports(&a, &first).await.unwrap();
    let moved = Allotment { to: "10.9.0.12".parse().unwrap(), ..first.clone() };
    let has = queue.allot_ports(&a, &moved).await.unwrap();
    assert_eq!((has[0].port, has[0].to), (had[0].port, moved.to));
    // Through another host from now on: the old rule goes.
    let other = Allotment { nat: "other".parse().unwrap(), ..moved };
    assert_eq!(queue.allot_ports(&a, &other).await.unwrap().len(), 1);
    let all = queue.nat_ports().await.unwrap();
    assert_eq!(all.iter().filter(|port| port.leaving.is_some()).count(), 1);
    world.done(&a).await;
    for error in [
        queue.allot_ports(&a, &first).await.unwrap_err(),
        queue.leave_ports(Some(&a), ReservationId(7), &name("a")).await.unwrap_err(),
    ] {
        assert_eq!(error.kind, Kind::LeaseLost);
    }
}
