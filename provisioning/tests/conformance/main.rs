//! The conformance kit on sim, and on backends that are sim with something wrong: each of these has to be caught.

#![expect(clippy::unwrap_used, reason = "a test that cannot make its world is to end")]

mod crooked;
mod sim_world;

use crooked::FAULTS;
use sim_world::SimWorld;
use vcl_os::EndState;
use vcl_provisioning::conformance;
use vcl_provisioning::conformance::{CASES, Verdict};
use vcl_provisioning::{Capabilities, Capability};

conformance!(
    sim_does_what_a_backend_has_to,
    SimWorld::new(EndState::Off),
    concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/conformance/sim.json")
);
conformance!(sim_does_it_with_guests_that_stay_on, SimWorld::new(EndState::On));
conformance!(sim_does_it_with_guests_that_reboot, SimWorld::new(EndState::Reboot));

/// What the kit is worth: whatever is wrong with a backend, the case that is there for it fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_wrong_with_a_backend_is_caught_by_the_case_that_is_there_for_it() {
    let mut missed = Vec::new();
    for (fault, cases) in FAULTS {
        let case = cases.rsplit(',').next().unwrap();
        let report = conformance::run(&SimWorld::with(*fault), Some(cases)).await.unwrap();
        let row = report.cases.iter().find(|row| row.case == case).unwrap();
        println!("{fault:?}: {case}: {} {}", row.verdict.word(), row.verdict.why().unwrap_or_default());
        if !matches!(row.verdict, Verdict::Failed(_)) {
            missed.push(format!("{fault:?} is not caught by {case}: {:?}", row.verdict));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn at_most_six_cases_boot_a_guest_and_each_capability_is_tried() {
    assert!(CASES.iter().filter(|case| case.boots).count() <= 6);
    for (n, case) in CASES.iter().enumerate() {
        assert!(
            CASES.iter().skip(n + 1).all(|other| other.name != case.name),
            "two are called {}",
            case.name
        );
        assert!(!case.name.is_empty() && !case.shows.is_empty(), "{}", case.name);
    }
    for capability in Capability::ALL {
        assert!(CASES.iter().any(|case| case.of == Some(capability)), "{capability} is never tried");
    }
    assert_eq!(CASES.last().unwrap().name, "secrets-kept", "it tells what all others have read");
}

/// A backend that can only load is tried for that, and told why the rest is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_backend_does_not_declare_is_skipped_with_the_reason() {
    const WHY: &str = "it is to load and nothing else";
    struct LoadsOnly(SimWorld);
    #[async_trait::async_trait]
    impl conformance::World for LoadsOnly {
        fn name(&self) -> &str {
            "loads-only"
        }
        async fn open(&self) -> conformance::Result<std::sync::Arc<dyn vcl_provisioning::Provisioning>> {
            self.0.only(Capabilities::only(&[Capability::Imaging], WHY))
        }
        fn computer(&self, name: vcl_types::ComputerName) -> vcl_types::Computer {
            self.0.computer(name)
        }
        async fn left(&self) -> conformance::Result<Vec<String>> {
            self.0.left().await
        }
    }
    let report = conformance::run(&LoadsOnly(SimWorld::new(EndState::Off)), Some("e")).await.unwrap();
    assert_eq!(report.failed(), Vec::<String>::new());
    for row in &report.cases {
        let declared = ["load", "imaging"].contains(&&*row.capability);
        let why = row.verdict.why().unwrap_or_default();
        let lacks = format!("the backend lacks `{}`: {WHY}", row.capability);
        assert!(declared || row.verdict == Verdict::Skipped(lacks), "{row:?}");
        if row.case == "guest-answers" {
            assert_eq!(why, "the world has no guest that boots");
        }
    }
    for case in ["load-killed", "lacking-refused"] {
        let row = report.cases.iter().find(|row| row.case == case).unwrap();
        assert_eq!(row.verdict, Verdict::Passed, "{row:?}");
    }
    // The report survives its JSON, and a kept one that differs is told with the cases.
    assert_eq!(report.points, None, "every point there is");
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut other = report.clone();
    other.cases.retain(|row| row.case != "load-killed");
    std::fs::write(file.path(), other.json()).unwrap();
    assert!(
        std::env::var_os("UPDATE").is_some()
            || report.settle(file.path()).unwrap_err().contains("load-killed")
    );
    std::fs::write(file.path(), report.json()).unwrap();
    report.settle(file.path()).unwrap();
}
