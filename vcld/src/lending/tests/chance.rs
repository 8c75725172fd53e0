//! What no order of events may break, and that every legal cell of the State × Event table is reached through the daemon.

use super::scene::Scene;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::Notify;
use vcl_provisioning::sim::Moment;
use vcl_queue::ReservationRow;
use vcl_types::lending::{Extend, Purpose};
use vcl_types::state::computer;
use vcl_types::state::reservation::{Event, State, next};
use vcl_types::{ComputerName, ReservationId};

/// A cell: where it was and what happened.
type Cells = BTreeSet<(State, Event)>;

impl Scene {
    /// Holds every load of this computer before it does anything, until it is let go.
    fn hold_loads(&self, computer: &str) -> (Arc<Notify>, Arc<Notify>) {
        let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (told, wait, held) = (begun.clone(), go.clone(), format!("vcl-{computer}"));
        self.world.on_effect(Arc::new(move |moment: Moment, machine: &str, _: &_| {
            let stop = moment == Moment::Before && machine == held;
            let (told, wait) = (told.clone(), wait.clone());
            Box::pin(async move {
                if stop {
                    told.notify_one();
                    wait.notified().await;
                }
                Ok(())
            })
        }));
        (begun, go)
    }
    fn hold_nothing(&self) {
        self.world.on_effect(Arc::new(|_: Moment, _: &str, _: &_| Box::pin(async { Ok(()) })));
    }
    async fn state(&self, id: ReservationId) -> State {
        self.node.queue.reservation(id).await.unwrap().state
    }
    /// Checks that it went that way, and notes the cell.
    async fn went(&self, cells: &mut Cells, id: ReservationId, from: State, event: Event) {
        let to = next(from, event).unwrap();
        assert_eq!(self.state(id).await, to, "{from} {event}");
        cells.insert((from, event));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_legal_cell_is_reached_through_the_daemon() {
    let scene = Scene::new(2).await;
    let mut cells = Cells::new();
    let on = |name: &str| {
        let mut wish = scene.wish();
        wish.wish.computer = Some(name.parse().unwrap());
        wish
    };
    // Without the end of its load, which is held: queued → loading, which a look writes.
    let (begun, go) = scene.hold_loads("c1");
    let id = scene.node.reserve(on("c1"), "alice").await.unwrap().reservation.unwrap().id;
    begun.notified().await;
    scene.went(&mut cells, id, State::Queued, Event::Start).await;
    scene.hold_nothing();
    go.notify_one();
    scene.quiet().await;
    scene.went(&mut cells, id, State::Loading, Event::Loaded).await;
    let now = scene.node.clock.now();
    scene.node.queue.seen(id, true, now).await.unwrap();
    scene.went(&mut cells, id, State::Ready, Event::Connect).await;
    let (begun, go) = scene.hold_loads("c1");
    scene.node.reload(id, "alice").await.unwrap();
    scene.went(&mut cells, id, State::InUse, Event::Reload).await;
    scene.hold_nothing();
    go.notify_one();
    drop(begun);
    scene.quiet().await;
    assert_eq!(scene.state(id).await, State::Ready);
    scene.node.reload(id, "alice").await.unwrap();
    scene.went(&mut cells, id, State::Ready, Event::Reload).await;
    scene.quiet().await;
    scene.node.queue.seen(id, true, now).await.unwrap();
    scene.node.queue.seen(id, false, now).await.unwrap();
    scene.went(&mut cells, id, State::InUse, Event::Disconnect).await;
    let (begun, go) = scene.hold_loads("c1");
    scene.node.release(id, false, "alice").await.unwrap();
    scene.went(&mut cells, id, State::Ready, Event::End).await;
    begun.notified().await;
    scene.hold_nothing();
    go.notify_one();
    scene.quiet().await;
    scene.went(&mut cells, id, State::Ending, Event::Ended).await;

    // In use, ended: the one who follows waits, and is called off while waiting.
    let user = scene.reserve(on("c1"), "alice").await;
    scene.node.queue.seen(user, true, now).await.unwrap();
    let waits = scene.reserve(on("c1"), "bob").await;
    assert_eq!(scene.state(waits).await, State::Queued);
    scene.node.release(waits, false, "bob").await.unwrap();
    assert_eq!(scene.state(waits).await, State::Ended);
    cells.insert((State::Queued, Event::End));
    let (begun, go) = scene.hold_loads("c1");
    scene.node.release(user, false, "alice").await.unwrap();
    scene.went(&mut cells, user, State::InUse, Event::End).await;
    begun.notified().await;
    scene.hold_nothing();
    go.notify_one();
    scene.quiet().await;

    // Called off while it is loaded.
    let (begun, go) = scene.hold_loads("c1");
    let id = scene.node.reserve(on("c1"), "alice").await.unwrap().reservation.unwrap().id;
    begun.notified().await;
    scene.node.release(id, false, "alice").await.unwrap();
    scene.went(&mut cells, id, State::Loading, Event::End).await;
    scene.hold_nothing();
    go.notify_one();
    scene.quiet().await;
    assert_eq!(scene.state(id).await, State::Ended);

    // A load that fails puts it back; nothing else would do, and it is tried again.
    scene.break_next_load("c1");
    let id = scene.reserve(on("c1"), "alice").await;
    let row = scene.node.queue.reservation(id).await.unwrap();
    assert_eq!((row.state, row.tries), (State::Ready, 1));
    cells.insert((State::Loading, Event::Requeue));
    scene.node.release(id, false, "alice").await.unwrap();
    scene.quiet().await;

    // Later: its time comes while its computer is another's, and one that is called off before.
    let mut later = scene.wish();
    later.start = Some(now + chrono::TimeDelta::hours(9));
    let id = scene.reserve(later.clone(), "alice").await;
    let off = scene.reserve(later, "bob").await;
    scene.node.release(off, false, "bob").await.unwrap();
    assert_eq!(scene.state(off).await, State::Ended);
    cells.insert((State::Scheduled, Event::End));
    scene.node.clock.turn(now + chrono::TimeDelta::hours(9));
    scene.node.queue.reservation_due(id).await.unwrap();
    scene.went(&mut cells, id, State::Scheduled, Event::Due).await;
    scene.quiet().await;

    let legal: Cells = State::ALL
        .iter()
        .flat_map(|state| Event::ALL.iter().map(|event| (*state, *event)))
        .filter(|(state, event)| next(*state, *event).is_ok())
        .collect();
    let missed: Vec<_> = legal.difference(&cells).map(|(s, e)| format!("{s} {e}")).collect();
    assert!(missed.is_empty(), "never reached: {missed:?}");
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_reservation_is_not_over_before_its_computer_is_loaded() {
    let scene = Scene::new(1).await;
    let (begun, go) = scene.hold_loads("c1");
    let mut wish = scene.wish();
    wish.length_s = Some(1800);
    let id = scene.node.reserve(wish, "alice").await.unwrap().reservation.unwrap().id;
    begun.notified().await;
    let ready = scene.node.clock.now() + chrono::TimeDelta::minutes(35);
    scene.node.clock.turn(ready);
    scene.node.look_at_reservations().await.unwrap();
    assert_eq!(scene.state(id).await, State::Loading);
    scene.hold_nothing();
    go.notify_one();
    scene.quiet().await;
    let row = scene.node.queue.reservation(id).await.unwrap();
    assert_eq!((row.state, row.end), (State::Ready, Some(ready + chrono::TimeDelta::minutes(30))));
    scene.close().await;
}

/// Something that happens. The numbers choose among what there is.
#[derive(Debug, Clone)]
enum Thing {
    Now { who: u8, hours: u8 },
    Later { who: u8, begins: u8, hours: u8 },
    Server { who: u8 },
    Comes(u8),
    Goes(u8),
    Extends(u8),
    Releases(u8),
    Reloads(u8),
    Passes(u16),
    LoadFails(u8),
    Maintained(u8),
    BackInUse,
    Restarts,
}

fn things() -> impl Strategy<Value = Vec<Thing>> {
    let one = prop_oneof![
        4 => (0..4u8, 1..6u8).prop_map(|(who, hours)| Thing::Now { who, hours }),
        3 => (0..4u8, 1..12u8, 1..4u8).prop_map(|(who, begins, hours)| Thing::Later { who, begins, hours }),
        1 => (0..4u8).prop_map(|who| Thing::Server { who }),
        3 => any::<u8>().prop_map(Thing::Comes),
        2 => any::<u8>().prop_map(Thing::Goes),
        2 => any::<u8>().prop_map(Thing::Extends),
        2 => any::<u8>().prop_map(Thing::Releases),
        1 => any::<u8>().prop_map(Thing::Reloads),
        5 => (1..600u16).prop_map(Thing::Passes),
        1 => (1..4u8).prop_map(Thing::LoadFails),
        1 => (1..4u8).prop_map(Thing::Maintained),
        1 => Just(Thing::BackInUse),
        1 => Just(Thing::Restarts),
    ];
    proptest::collection::vec(one, 3..12)
}

/// Who was seen with a computer, so that a restart does not forget it.
async fn holds(scene: &Scene) {
    let rows = scene.node.queue.reservations_open().await.unwrap();
    let mut owner: BTreeMap<&ComputerName, &ReservationRow> = BTreeMap::new();
    for row in rows.iter() {
        let Some(name) = &row.computer else { continue };
        let other = owner.insert(name, row);
        assert!(other.is_none(), "two have {name}: {row:?} and {other:?}");
    }
    for (n, a) in rows.iter().enumerate() {
        let Some(name) = a.booked.as_ref().or(a.computer.as_ref()) else { continue };
        for b in &rows[n + 1..] {
            if b.booked.as_ref().or(b.computer.as_ref()) != Some(name) || a.end.is_none() && b.end.is_none() {
                continue;
            }
            let before =
                |x: &ReservationRow, y: &ReservationRow| x.end.is_some_and(|end| y.start >= Some(end));
            assert!(before(a, b) || before(b, a), "{name} is kept twice: {a:?} and {b:?}");
        }
    }
}

async fn one(scene: &mut Scene, thing: &Thing) {
    let now = scene.node.clock.now();
    let rows = scene.node.queue.reservations_open().await.unwrap();
    let pick = |n: u8| (!rows.is_empty()).then(|| rows[n as usize % rows.len()].id);
    let user = |who: u8| format!("user{who}");
    let mut wish = scene.wish();
    // Much of it is refused: by a state, by who has the computer. That is told, and changes nothing.
    match *thing {
        Thing::Now { who, hours } => {
            wish.length_s = Some(u64::from(hours) * 3600);
            let _ = scene.node.reserve(wish, &user(who)).await;
        }
        Thing::Later { who, begins, hours } => {
            wish.length_s = Some(u64::from(hours) * 3600);
            wish.start = Some(now + chrono::TimeDelta::hours(begins.into()));
            let _ = scene.node.reserve(wish, &user(who)).await;
        }
        Thing::Server { who } => {
            wish.purpose = Purpose::Server;
            wish.length_s = Some(30 * 3600);
            let _ = scene.node.reserve(wish, &user(who)).await;
        }
        Thing::Comes(n) => {
            if let Some(id) = pick(n) {
                let _ = scene.node.connect(id, None).await;
                scene.quiet().await;
                let _ = scene.node.queue.seen(id, true, now).await;
            }
        }
        Thing::Goes(n) => {
            if let Some(id) = pick(n) {
                let _ = scene.node.queue.seen(id, false, now).await;
            }
        }
        Thing::Extends(n) => {
            if let Some(id) = pick(n) {
                let _ = scene.node.extend(id, Extend { by_s: Some(3600), until: None }, "somebody").await;
            }
        }
        Thing::Releases(n) => {
            if let Some(id) = pick(n) {
                let _ = scene.node.release(id, false, "somebody").await;
            }
        }
        Thing::Reloads(n) => {
            if let Some(id) = pick(n) {
                let _ = scene.node.reload(id, "somebody").await;
            }
        }
        Thing::Passes(minutes) => scene.turn(i64::from(minutes) * 60).await,
        Thing::LoadFails(n) => scene.break_next_load(&format!("c{n}")),
        Thing::Maintained(n) => {
            let name = format!("c{n}").parse().unwrap();
            let _ = scene.node.queue.computer_by_hand(&name, computer::Event::Maintain, Some("dust")).await;
        }
        Thing::BackInUse => {
            for row in scene.node.queue.computers().await.unwrap() {
                if row.state == computer::State::Maintenance {
                    let name = &row.computer.name;
                    let _ = scene.node.queue.computer_by_hand(name, computer::Event::Release, None).await;
                }
            }
        }
        Thing::Restarts => {
            let _ = scene.node.look_at_reservations().await;
            scene.restart().await;
        }
    }
}

/// How many orders of events are tried.
const CASES: u32 = 24;

#[test]
fn no_order_of_events_gives_a_computer_to_two_or_leaves_a_reservation_without_its_end() {
    let cases = if std::env::var_os("VCL_FULL").is_some() { 300 } else { CASES };
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 30, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let done = runner.run(&things(), |things| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_stack_size(8 << 20)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut scene = Scene::new(3).await;
            for thing in &things {
                one(&mut scene, thing).await;
                holds(&scene).await;
                scene.quiet().await;
                holds(&scene).await;
            }
            // Whatever was taken out of use comes back, and in three days all is over.
            one(&mut scene, &Thing::BackInUse).await;
            scene.turn(3 * 86_400).await;
            let left = scene.node.queue.reservations_open().await.unwrap();
            assert!(left.is_empty(), "these never end: {left:?}");
            scene.close().await;
        });
        Ok(())
    });
    done.unwrap();
}
