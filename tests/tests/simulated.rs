//! A real daemon on simulated machines: whole jobs, deaths in the middle of them, and the page of the documentation.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use anyhow::Result;
use camino::Utf8Path;
use std::process::Command;
use std::time::Duration;
use vcl_provisioning::sim::World;
use vcl_tests::daemon::{Daemon, Setup, Simulated};
use vcl_types::api::{JobView, PowerState, VmView};
use vcl_types::state::job::State;

const LONG: Duration = Duration::from_secs(60);

struct Bench {
    daemon: Daemon,
    world: std::sync::Arc<World>,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new(computers: &str, delay: &'static str) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("vcl-sim-").tempdir()?;
        let path = Utf8Path::from_path(directory.path()).unwrap();
        let key = path.join("id");
        let words = ["-q", "-t", "ed25519", "-N", "", "-f", key.as_str()];
        assert!(Command::new("ssh-keygen").args(words).status()?.success());
        let disk = path.join("tiny.qcow2");
        let words = ["create", "-q", "-f", "qcow2", disk.as_str(), "8M"];
        assert!(Command::new("qemu-img").args(words).status()?.success());
        let mut setup = Setup::new(path, &key, &[computers]);
        setup.simulated = Some(Simulated { at_once: 50, delay });
        let daemon = Daemon::start(setup)?;
        let _: JobView = daemon.json(&["image", "import", "tiny", disk.as_str()])?;
        let world = World::open(path.join("machines"))?;
        Ok(Self { daemon, world, _directory: directory })
    }
    /// Nothing is left of any machine of vcld's, the world is what its logs say, and nothing impossible was tried.
    fn empty_and_sound(&self) -> Result<()> {
        let left: Vec<_> =
            self.world.snapshot()?.into_keys().filter(|name| name.starts_with("vcl-")).collect();
        assert_eq!(left, Vec::<String>::new());
        assert_eq!(self.world.differing()?, Vec::<String>::new());
        assert_eq!(self.world.refusals()?, []);
        Ok(())
    }
}

#[test]
fn a_day_at_a_site_without_a_hypervisor() -> Result<()> {
    let mut bench = Bench::new("sim-[01-20]", "0s")?;
    let daemon = &bench.daemon;
    let _: JobView = daemon.json(&["load", "sim-01", "tiny"])?;
    let view = daemon.computer("sim-01")?;
    assert_eq!(view.power, Some(PowerState::On));
    let console = daemon.vclctl(&["computer", "console", "sim-01"])?;
    assert!(String::from_utf8_lossy(&console.stdout).contains("sim-01 login:"));
    let captured: JobView = daemon.json(&["capture", "sim-01"])?;
    assert_eq!(captured.result.as_deref(), Some("tiny@2"));
    let jobs: Vec<_> =
        (1..=20).map(|n| daemon.queue(&["load", &format!("sim-{n:02}"), "tiny@2"])).collect::<Result<_>>()?;
    for job in jobs {
        assert_eq!(daemon.wait_end(job, LONG)?.state, State::Done);
    }
    let vms: Vec<VmView> = daemon.json(&["vm", "list", "kvm"])?;
    assert_eq!(vms.len(), 23, "twenty of ours and three that are not");
    let made: JobView = daemon.json(&["image", "create", "web", "--from-vm", "kvm/old-web"])?;
    assert_eq!(made.result.as_deref(), Some("web@1"));
    assert_eq!(bench.world.snapshot()?["old-web"]["domain"]["running"], true);
    let jobs: Vec<_> =
        (1..=20).map(|n| daemon.queue(&["unload", &format!("sim-{n:02}")])).collect::<Result<_>>()?;
    for job in jobs {
        assert_eq!(daemon.wait_end(job, LONG)?.state, State::Done);
    }
    bench.empty_and_sound()?;
    bench.daemon.stop()
}

/// Ten loads, and the daemon dies five times while they are under way; then the same for their captures and unloads.
#[test]
fn a_daemon_that_is_killed_again_and_again_ends_every_job_once() -> Result<()> {
    let mut bench = Bench::new("sim-[01-10]", "30ms")?;
    for verb in ["load", "capture", "load", "unload"] {
        let mut jobs = Vec::new();
        for n in 1..=10 {
            let computer = format!("sim-{n:02}");
            let mut words = vec![verb, &computer];
            if verb == "load" {
                words.push("tiny@1");
            }
            if verb == "capture" {
                // They all make revisions of one image, one after the other.
                words.push("--wait");
            }
            jobs.push(bench.daemon.queue(&words)?);
        }
        for n in 0..5 {
            // why: anywhere in the middle will do, and a little further each time
            std::thread::sleep(Duration::from_millis(40 + 23 * n));
            bench.daemon.kill()?;
            bench.daemon.up()?;
        }
        for job in jobs {
            let ended = bench.daemon.wait_end(job, LONG)?;
            assert_eq!(ended.state, State::Done, "{ended:#?}");
        }
        assert_eq!(bench.world.refusals()?, []);
    }
    let image = bench.daemon.image("tiny")?;
    assert_eq!(image.revisions.len(), 11, "the imported one and one for each capture");
    bench.empty_and_sound()?;
    assert_eq!(std::fs::read_dir(bench.daemon.library().join(".staging"))?.count(), 0);
    bench.daemon.stop()
}

/// What a site runs on its own machines, here on simulated ones: everything passes, the report says so without a secret in
/// it, and nothing is left.
#[test]
fn acceptance_tries_everything_reports_it_and_leaves_nothing() -> Result<()> {
    let mut bench = Bench::new("a", "0s")?;
    let (daemon, base) = (&bench.daemon, bench.daemon.directory().join("trial"));
    let windows = bench._directory.path().join("tiny.qcow2");
    let _: JobView =
        daemon.json(&["image", "import", "win11", windows.to_str().unwrap(), "--os", "windows"])?;
    for (os, image) in [("linux", "tiny"), ("windows", "win11")] {
        let base = format!("{base}-{os}");
        let done = daemon.vclctl(&["acceptance", os, "a", image, "--report", &base])?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{said}");
        let text = std::fs::read_to_string(format!("{base}.txt"))?;
        assert!(text.starts_with(&format!("vcld acceptance of {os} on a: PASSED\n")), "{text}");
        assert!(text.contains("not tried:\n"), "{text}");
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(format!("{base}.json"))?)?;
        assert_eq!(report["passed"], true);
        let names: Vec<_> =
            report["checks"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        for name in [
            "load",
            "capture as a new image, and resume",
            "ready after the capture, as somebody else",
            "read the new image again",
            "ready as a copy, with an identity of its own",
            "capture the copy, and keep it off",
            "off after the capture",
        ] {
            assert!(names.contains(&name), "{name}: {names:?}");
        }
        // A report is not written over.
        assert!(daemon.refused(&["acceptance", os, "a", image, "--report", &base])?.contains("--report"));
    }
    let images: Vec<serde_json::Value> = daemon.json(&["image", "list"])?;
    let left: Vec<_> = images.iter().map(|i| i["name"].as_str().unwrap()).collect();
    assert_eq!(left, ["tiny", "win11"]);

    // What fails says so, and gives back what it took.
    let wrong =
        daemon.refused(&["acceptance", "windows", "a", "tiny", "--report", &format!("{base}-wrong")])?;
    assert!(wrong.contains("does not pass: the image is of that operating system"), "{wrong}");
    assert!(std::fs::read_to_string(format!("{base}-wrong.txt"))?.contains("tiny@1 is an image of linux"));
    let _: JobView = daemon.json(&["load", "a", "tiny"])?;
    let busy = daemon.refused(&["acceptance", "linux", "a", "tiny", "--report", &format!("{base}-busy")])?;
    assert!(busy.contains("does not pass: the computer holds nothing"), "{busy}");
    let a = daemon.computer("a")?;
    assert!(a.loaded.is_some(), "what somebody has is not taken from him");
    let _: JobView = daemon.json(&["unload", "a"])?;
    bench.empty_and_sound()?;
    bench.daemon.stop()
}
