//! A test of an image by a real daemon on simulated machines, killed at each of its steps.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use anyhow::Result;
use camino::Utf8Path;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;
use vcl_provisioning::sim::World;
use vcl_tests::daemon::{Daemon, Setup, Simulated};
use vcl_types::api::{JobView, StepState};
use vcl_types::state::{computer, job::State};
use vcl_types::{ImageTest, JobKind};

const LONG: Duration = Duration::from_secs(60);

/// The steps of a test, as its journal names them.
const STEPS: [&str; 9] = [
    "start clones",
    "load clones",
    "read identity[sim-1]",
    "read identity[sim-2]",
    "first/run test script[10-name]",
    "second/run test script[10-name]",
    "record test",
    "give clones back",
    "",
];

#[test]
fn a_test_that_is_killed_at_each_of_its_steps_goes_on_with_the_clones_that_it_has() -> Result<()> {
    let directory = tempfile::Builder::new().prefix("vcl-clones-").tempdir()?;
    let path = Utf8Path::from_path(directory.path()).unwrap();
    let key = path.join("id");
    let words = ["-q", "-t", "ed25519", "-N", "", "-f", key.as_str()];
    assert!(Command::new("ssh-keygen").args(words).status()?.success());
    let disk = path.join("tiny.qcow2");
    assert!(
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", disk.as_str(), "8M"])
            .status()?
            .success()
    );
    let script = path.join("tests/10-name");
    std::fs::create_dir(path.join("tests"))?;
    std::fs::write(&script, "#!/bin/sh\nhostname\n")?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    let mut setup = Setup::new(path, &key, &["sim-[1-2]"]);
    // One job at a time: a test that took the only place would wait for ever.
    setup.simulated = Some(Simulated { at_once: 1, delay: "20ms" });
    setup.more = format!(
        "[reservations]\nafter_use = \"nothing\"\npromote_needs_test = true\ntests = \"{path}/tests\"\n"
    );
    let mut daemon = Daemon::start(setup)?;
    let _: JobView = daemon.json(&["image", "import", "tiny", disk.as_str()])?;
    assert!(daemon.refused(&["promote", "tiny@1"])?.contains("vclctl image test tiny@1"));

    let mut seen = 0;
    for step in STEPS {
        let job = daemon.queue(&["image", "test", "tiny"])?;
        if !step.is_empty() {
            // It dies when the step has begun, in the middle of it or just after.
            let begun = |view: &JobView| {
                view.state.is_final()
                    || view.steps.iter().any(|s| s.name == step && s.state != StepState::Planned)
            };
            daemon.wait_job(job, LONG, begun)?;
            daemon.kill()?;
            daemon.up()?;
        }
        let ended = daemon.wait_end(job, LONG)?;
        assert_eq!(ended.state, State::Done, "killed at `{step}`: {ended:#?}");
        assert_eq!(ended.result.as_deref(), Some("tiny@1 passed"));
        let tested = daemon.image("tiny")?.revisions[0].tested.clone().unwrap();
        assert_eq!((tested.job, tested.passed), (job, true), "{tested:?}");
        assert_eq!(tested.scripts.len(), 2);
        let jobs: Vec<JobView> = daemon.json(&["job", "list", "--limit", "100"])?;
        let of = |kind| jobs.iter().filter(|job| job.request.kind() == kind).count();
        seen += 2;
        assert_eq!((of(JobKind::Load), of(JobKind::Unload)), (seen, seen), "killed at `{step}`");
        for name in ["sim-1", "sim-2"] {
            let view = daemon.computer(name)?;
            assert_eq!(
                (view.state, view.reservation),
                (computer::State::Available, None),
                "killed at `{step}`"
            );
        }
    }
    // As a person sees it.
    let shown = daemon.vclctl(&["image", "test", "tiny@1"])?;
    let said = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.status.success() && said.contains("tiny@1 passed"), "{said}");
    assert!(said.contains("machine-id") && said.contains("different") && said.contains("10-name"), "{said}");
    let shown: ImageTest = daemon.json(&["image", "test", "tiny@1"])?;
    assert!(shown.passed);
    let plan = String::from_utf8(daemon.vclctl(&["image", "test", "tiny", "--dry-run"])?.stdout)?;
    assert!(plan.contains("loads sim-1 with tiny@1") && plan.contains("10-name in both guests"), "{plan}");
    assert!(daemon.vclctl(&["promote", "tiny@1"])?.status.success());
    assert!(daemon.image("tiny")?.revisions[0].production);

    let world = World::open(path.join("machines"))?;
    let left: Vec<_> = world.snapshot()?.into_keys().filter(|name| name.starts_with("vcl-")).collect();
    assert_eq!(left, Vec::<String>::new());
    assert_eq!((world.differing()?, world.refusals()?), (vec![], vec![]));
    daemon.stop()
}
