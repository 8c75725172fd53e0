//! What a killed daemon of an earlier version left behind is brought up to date and gone on with.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use anyhow::{Context, Result, ensure};
use camino::Utf8Path;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;
use vcl_tests::daemon::{Daemon, Setup};
use vcl_types::JobId;
use vcl_types::api::JobView;

/// What has to become of an archive.
#[derive(Deserialize)]
struct Expected {
    computers: Vec<String>,
    jobs: BTreeMap<i64, String>,
    images: BTreeMap<String, Vec<u32>>,
    /// The job that was under way.
    goes_on: i64,
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
    let scratch = tempfile::tempdir()?;
    let directory = Utf8Path::from_path(scratch.path()).unwrap();
    let unpacked = Command::new("tar").args(["-xJf", archive.as_str(), "-C", directory.as_str()]).status()?;
    ensure!(unpacked.success(), "tar: {unpacked}");
    let key = directory.join("id");
    let made =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", key.as_str()]).status()?;
    ensure!(made.success(), "ssh-keygen: {made}");
    let computers: Vec<&str> = expected.computers.iter().map(String::as_str).collect();
    let mut setup = Setup::new(directory, &key, &computers);
    // No hypervisor: what was under way needs none.
    setup.uri = format!("qemu+unix:///system?socket={directory}/none");

    let mut daemon = Daemon::start(setup)?;
    let job = daemon.wait_end(JobId(expected.goes_on), Duration::from_secs(120))?;
    ensure!(!job.steps.is_empty(), "{job:?}");
    let look = |daemon: &Daemon| -> Result<()> {
        let jobs: Vec<JobView> = daemon.json(&["job", "list", "--limit", "1000"])?;
        let states: BTreeMap<i64, String> =
            jobs.iter().map(|job| (job.id.0, job.state.to_string())).collect();
        ensure!(states == expected.jobs, "jobs are {states:?}");
        for (image, revisions) in &expected.images {
            let mut numbers: Vec<u32> =
                daemon.image(image)?.revisions.iter().map(|r| r.manifest.revision).collect();
            numbers.sort_unstable();
            ensure!(numbers == *revisions, "{image} has {numbers:?}");
        }
        ensure!(daemon.leftovers()?.is_empty(), "left: {:?}", daemon.leftovers()?);
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
    let again = daemon.wait_end(JobId(expected.goes_on), Duration::from_secs(30))?;
    ensure!(again.ended == job.ended, "the job ended twice: {job:?} and {again:?}");
    daemon.stop()
}
