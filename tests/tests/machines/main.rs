//! The whole life of real guests on a real libvirt, driven through vclctl.
//!
//! Each test makes its guest outside (from Debian packages, cached) and runs inside a private world of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod clones;
mod configured;
mod deltas;
mod end_states;
mod faults;
mod first_steps;
mod from_vm;
mod frozen;
mod insight;
mod kills;
mod lifecycle;
mod outages;
mod remote;
mod stopping;

use anyhow::{Context, Result};
use camino::Utf8PathBuf;
use std::fs;
use std::time::Duration;
use vcl_tests::daemon::{Daemon, Setup};
use vcl_tests::guest::{self, Guest, Kind};
use vcl_tests::world::World;
use vcl_types::api::JobView;

/// The program that makes a world.
const VCL_WORLD: &str = env!("CARGO_BIN_EXE_vcl-world");
/// How long a job with a guest may take here: emulation on a busy machine is slow.
const LONG: Duration = Duration::from_secs(300);

/// Whether the long ones are wanted too: `./check --full`.
fn full() -> bool {
    std::env::var_os("VCL_FULL").is_some_and(|v| !v.is_empty() && v != "0")
}

/// What a test has to work with.
struct Case {
    world: World,
    guest: Guest,
    key: Utf8PathBuf,
    directory: tempfile::TempDir,
}

impl Case {
    /// `None` after the test was run in a world.
    fn enter(test: &str, kind: Kind) -> Result<Option<Self>> {
        let cache = guest::cache_directory();
        let key = guest::cached_key(&cache)?;
        let public = fs::read_to_string(format!("{key}.pub"))?;
        let guest = Guest::make(kind, &cache, &public, &mut |p| eprintln!("{p:?}"))?;
        let Some(world) = World::around_test(VCL_WORLD, test)? else { return Ok(None) };
        let directory = tempfile::Builder::new().prefix("vcl-test-").tempdir()?;
        Ok(Some(Self { world, guest, key, directory }))
    }

    fn path(&self) -> Utf8PathBuf {
        Utf8PathBuf::try_from(self.directory.path().join("node")).unwrap()
    }

    fn setup(&self, computers: &[&str]) -> Setup {
        let mut setup = Setup::new(&self.path(), &self.key, computers);
        setup.more = "[deadlines]\nboot = \"4m\"\nshutdown = \"90s\"\n".into();
        setup
    }

    /// Imports the guest as `name`@1, with this at the end of its kernel's command line.
    fn import(&self, daemon: &Daemon, name: &str, cmdline: &str) -> Result<JobView> {
        daemon.import(&self.guest, name, cmdline)
    }

    /// Nothing is left of anything: no domain of vcld's, no file.
    fn nothing_left(&self, daemon: &Daemon) -> Result<()> {
        let domains = self.world.virsh(&["list", "--all", "--name"])?;
        let ours: Vec<_> = domains.split_whitespace().filter(|d| d.starts_with("vcl-")).collect();
        anyhow::ensure!(ours.is_empty(), "domains left: {ours:?}");
        let left = daemon.leftovers()?;
        anyhow::ensure!(left.is_empty(), "files left: {left:?}");
        Ok(())
    }
}

fn failed(daemon: &Daemon, arguments: &[&str]) -> Result<JobView> {
    let id = daemon.queue(arguments)?;
    let job = daemon.wait_end(id, LONG)?;
    anyhow::ensure!(
        job.state == vcl_types::state::job::State::Failed,
        "job {id} is {}: {:?}",
        job.state,
        job.reason
    );
    job.reason.as_ref().context("it failed without a reason")?;
    Ok(job)
}
