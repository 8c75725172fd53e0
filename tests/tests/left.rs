//! What a killed daemon of an earlier version left behind is brought up to date and gone on with.
//!
//! `VCL_LEFT=NAME cargo test -p vcl-tests --test left -- --ignored` makes a new archive with the present version, to be kept
//! for those that follow.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use anyhow::{Context, Result, ensure};
use camino::Utf8Path;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;
use vcl_job::Record;
use vcl_provisioning::sim::World;
use vcl_tests::daemon::{Daemon, Setup, Simulated};
use vcl_types::JobId;
use vcl_types::api::JobView;

/// What has to become of an archive.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    computers: Vec<String>,
    jobs: BTreeMap<i64, String>,
    images: BTreeMap<String, Vec<u32>>,
    /// The jobs that were under way.
    go_on: Vec<i64>,
    /// The states of computers whose machines are simulated; without any, nothing of it needs a hypervisor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    simulated: Option<BTreeMap<String, String>>,
}

/// Where what is simulated was and has to be again: journals hold paths.
const PLACE: &str = "/tmp/vcl-left";

/// The directory of an archive's daemon. It goes when this does.
enum Place {
    Scratch(tempfile::TempDir),
    Fixed,
}
impl Place {
    fn fixed() -> Result<Self> {
        // One that was killed may have left it.
        let _ = std::fs::remove_dir_all(PLACE);
        std::fs::create_dir(PLACE)?;
        Ok(Self::Fixed)
    }
    fn path(&self) -> &Utf8Path {
        match self {
            Self::Scratch(scratch) => Utf8Path::from_path(scratch.path()).unwrap(),
            Self::Fixed => Utf8Path::new(PLACE),
        }
    }
}
impl Drop for Place {
    fn drop(&mut self) {
        if matches!(self, Self::Fixed) {
            let _ = std::fs::remove_dir_all(PLACE);
        }
    }
}

fn setup(directory: &Utf8Path, computers: &[String], simulated: Option<&'static str>) -> Result<Setup> {
    let key = directory.join("id");
    let made =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", key.as_str()]).status()?;
    ensure!(made.success(), "ssh-keygen: {made}");
    let computers: Vec<&str> = computers.iter().map(String::as_str).collect();
    let mut setup = Setup::new(directory, &key, &computers);
    match simulated {
        Some(delay) => setup.simulated = Some(Simulated { at_once: 20, delay }),
        // No hypervisor: what was under way needs none.
        None => setup.uri = format!("qemu+unix:///system?socket={directory}/none"),
    }
    Ok(setup)
}

#[test]
fn what_earlier_versions_left_is_migrated_and_goes_on() -> Result<()> {
    let left = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/left");
    let mut seen = 0;
    for entry in left.read_dir_utf8()? {
        let path = entry?.into_path();
        if path.extension() == Some("json") {
            goes_on(&path.with_extension("tar.xz"), &path).with_context(|| path.to_string())?;
            seen += 1;
        }
    }
    ensure!(seen > 0, "no archive was found in {left}");
    Ok(())
}

fn goes_on(archive: &Utf8Path, expected: &Utf8Path) -> Result<()> {
    let expected: Expected = serde_json::from_str(&std::fs::read_to_string(expected)?)?;
    let place = match expected.simulated {
        None => Place::Scratch(tempfile::tempdir()?),
        Some(_) => Place::fixed()?,
    };
    let directory = place.path();
    let unpacked = Command::new("tar").args(["-xJf", archive.as_str(), "-C", directory.as_str()]).status()?;
    ensure!(unpacked.success(), "tar: {unpacked}");
    let setup = setup(directory, &expected.computers, expected.simulated.as_ref().map(|_| "1ms"))?;

    let mut daemon = Daemon::start(setup)?;
    let over = |daemon: &Daemon| -> Result<Vec<JobView>> {
        expected.go_on.iter().map(|id| daemon.wait_end(JobId(*id), Duration::from_secs(120))).collect()
    };
    let jobs = over(&daemon)?;
    ensure!(jobs.iter().all(|job| !job.steps.is_empty()), "{jobs:?}");
    let look = |daemon: &Daemon| -> Result<()> {
        let jobs: Vec<JobView> = daemon.json(&["job", "list", "--limit", "1000"])?;
        // Those that this test has begun are newer.
        let jobs = jobs.iter().filter(|job| Some(job.id.0) <= expected.jobs.keys().last().copied());
        let states: BTreeMap<i64, String> = jobs.map(|job| (job.id.0, job.state.to_string())).collect();
        ensure!(states == expected.jobs, "jobs are {states:?}");
        for (image, revisions) in &expected.images {
            let mut numbers: Vec<u32> =
                daemon.image(image)?.revisions.iter().map(|r| r.manifest.revision).collect();
            numbers.sort_unstable();
            ensure!(numbers == *revisions, "{image} has {numbers:?}");
        }
        if let Some(simulated) = &expected.simulated {
            for (computer, state) in simulated {
                let view = daemon.computer(computer)?;
                ensure!(view.state.as_str() == state, "{computer}: {view:?}");
            }
            let world = World::open(directory.join("machines"))?;
            ensure!(world.differing()?.is_empty(), "not what their logs say: {:?}", world.differing()?);
            ensure!(world.refusals()?.is_empty(), "{:?}", world.refusals()?);
            let there = world.snapshot()?.into_keys().filter(|name| name.starts_with("vcl-"));
            let used = simulated.iter().filter(|(_, state)| *state == "reserved");
            let used: Vec<String> = used.map(|(name, _)| format!("vcl-{name}")).collect();
            ensure!(there.collect::<Vec<_>>() == used, "not {used:?}");
            let staging = daemon.library().join(".staging");
            ensure!(staging.read_dir_utf8()?.next().is_none(), "{staging} is not empty");
        } else {
            ensure!(daemon.leftovers()?.is_empty(), "left: {:?}", daemon.leftovers()?);
        }
        Ok(())
    };
    look(&daemon)?;
    for (image, revisions) in &expected.images {
        for revision in revisions {
            daemon.json::<JobView>(&["image", "verify", &format!("{image}@{revision}")])?;
        }
    }
    // It is ours now: killed and started once more it is as it was.
    daemon.kill()?;
    daemon.up()?;
    let ends = |jobs: &[JobView]| jobs.iter().map(|job| job.ended).collect::<Vec<_>>();
    let again = over(&daemon)?;
    ensure!(ends(&again) == ends(&jobs), "a job ended twice: {jobs:?} and {again:?}");
    look(&daemon)?;
    daemon.stop()
}

/// A load in the middle of `post_load`, a capture in the middle of its copy and an unload, and some that are over.
#[test]
#[ignore = "makes an archive; VCL_LEFT says what it is called"]
fn make() -> Result<()> {
    let name = std::env::var("VCL_LEFT").context("VCL_LEFT is the archive's name")?;
    let left = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/left");
    let archive = left.join(format!("{name}.tar.xz"));
    ensure!(!archive.exists(), "{archive} is there; none is ever made anew");
    let place = Place::fixed()?;
    let directory = place.path();
    let computers: Vec<String> = ["a", "b", "c", "d"].map(String::from).to_vec();
    let disk = directory.join("tiny.qcow2");
    let words = ["create", "-q", "-f", "qcow2", disk.as_str(), "8M"];
    ensure!(Command::new("qemu-img").args(words).status()?.success());
    let mut daemon = Daemon::start(setup(directory, &computers, Some("300ms"))?)?;
    let mut ids: Vec<JobId> = vec![daemon.queue(&["image", "import", "tiny", disk.as_str()])?];
    daemon.wait_end(ids[0], Duration::from_secs(60))?;
    for computer in ["a", "b"] {
        ids.push(daemon.queue(&["load", computer, "tiny"])?);
    }
    for id in &ids {
        daemon.wait_end(*id, Duration::from_secs(60))?;
    }
    // They are killed where they are when the capture is where it should be.
    let at = |id, step: &str| {
        let deadline = Duration::from_secs(60);
        daemon.wait_job(id, deadline, |job| job.steps.iter().any(|s| s.name == step))
    };
    let capture = daemon.queue(&["capture", "a"])?;
    let load = daemon.queue(&["load", "c", "tiny"])?;
    at(load, "load/post_load/wait for ssh")?;
    let unload = daemon.queue(&["unload", "b"])?;
    at(capture, "capture/copy disk[0]")?;
    let waiting = daemon.queue(&["load", "d", "tiny"])?;
    daemon.kill()?;
    let under_way = [load, capture, unload, waiting];
    let mut journal = daemon.journal()?;
    for id in under_way {
        let records = journal.records(id)?;
        ensure!(!matches!(records.last(), Some(Record::Finished { .. })), "job {id} was faster");
        eprintln!("job {id}: {:?}", records.last().map(vcl_tests::journal::describe));
    }
    drop(journal);
    ids.extend(under_way);
    let jobs = ids.iter().map(|id| (id.0, "done".to_owned())).collect();
    let states = [("a", "available"), ("b", "available"), ("c", "reserved"), ("d", "reserved")];
    let expected = Expected {
        computers,
        jobs,
        images: [("tiny".to_owned(), vec![1, 2])].into(),
        go_on: under_way.iter().map(|id| id.0).collect(),
        simulated: Some(states.map(|(name, state)| (name.to_owned(), state.to_owned())).into()),
    };
    for what in ["id", "id.pub", "vcld.toml", "vcld.sock", "vcld.log", "tiny.qcow2"] {
        let _ = std::fs::remove_file(directory.join(what));
    }
    let packed = Command::new("tar").args(["-cJf", archive.as_str(), "-C", PLACE, "."]).status()?;
    ensure!(packed.success(), "tar: {packed}");
    std::fs::write(
        archive.with_extension("").with_extension("json"),
        serde_json::to_string_pretty(&expected)? + "\n",
    )?;
    Ok(())
}
