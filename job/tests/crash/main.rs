//! The fault kit on a small world: a process that dies, fails, freezes and is called off at every point loses nothing;
//! and the kit sees every bug that the executor can be told to have.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod world;
mod writers;

use std::collections::BTreeMap;
use vcl_job::Fault;
use vcl_job::faults::{Budget, Matrix, Report};
use world::World;
use writers::Writers;

async fn load(budget: Budget, fault: Option<Fault>, reboots: bool) -> Report {
    let name = if reboots { "load, the host reboots" } else { "load" };
    let matrix = Matrix::of(name, async |points| World::new(points, reboots)).budget(budget);
    match fault {
        Some(fault) => matrix.at_most(1).seeded(fault).run().await,
        None => matrix.run().await,
    }
}
async fn copy(budget: Budget, fault: Option<Fault>) -> Report {
    let matrix = Matrix::of("copy by a process", async |points| Writers::new(points)).budget(budget);
    match fault {
        Some(fault) => matrix.at_most(1).seeded(fault).run().await,
        None => matrix.run().await,
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_befalls_a_job_it_ends_once_and_leaves_nothing() {
    // All of them: FAULTS=full.
    let full = std::env::var("FAULTS").is_ok_and(|v| v == "full");
    let budget = if full { Budget::FULL } else { Budget { each: 300, ..Budget::default() } };
    for reboots in [false, true] {
        let report = load(budget, None, reboots).await.expect_clean();
        println!("{report}");
        assert!(report.steps >= 8 && report.histories > 5000, "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn processes_never_write_beside_one_another() {
    let report = copy(Budget { each: 3, ..Budget::default() }, None).await.expect_clean();
    println!("{report}");
    assert!(report.histories > 100, "{report}");
}

#[tokio::test(start_paused = true)]
async fn every_seeded_fault_is_caught() {
    let budget = Budget { each: 60, ..Budget::default() };
    let mut caught = BTreeMap::new();
    for fault in Fault::ALL {
        let mut found = load(budget, Some(*fault), false).await;
        if found.violations.is_empty() {
            found = load(budget, Some(*fault), true).await;
        }
        if found.violations.is_empty() {
            found = copy(Budget { each: 3, ..Budget::default() }, Some(*fault)).await;
        }
        let violation = found.violations.first().map(|v| format!("{}: {v}", found.name));
        println!("{fault:?} -> {violation:?}");
        caught.insert(format!("{fault:?}"), violation.is_some());
    }
    assert!(caught.len() >= 14);
    assert!(caught.values().all(|caught| *caught), "{caught:?}");
}

#[tokio::test(start_paused = true)]
async fn a_history_that_was_printed_can_be_played_again() {
    let matrix = Matrix::of("load", async |points| World::new(points, false)).seeded(Fault::UndoForward);
    let matrix = matrix.at_most(1);
    let report = matrix.run().await;
    let violation = &report.violations[0];
    let again = matrix.replay(&violation.history.to_string()).await.unwrap();
    assert!(again.wrong.contains(&violation.what), "{violation} {again:?}");
    assert_eq!(violation.history.to_string().parse(), Ok(violation.history.clone()));
    let sound = Matrix::of("load", async |points| World::new(points, false));
    let sound = sound.replay(&violation.history.to_string()).await.unwrap();
    assert!(sound.wrong.is_empty(), "{:?}", sound.wrong);
    assert!(matrix.replay("kill@").await.is_err() && matrix.replay("hug@3").await.is_err());
}
