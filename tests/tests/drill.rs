//! The backup drill: taken while a real daemon works, put back where nothing is, and that works; and what becomes of a
//! database and a library of different times.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use std::process::Command;
use std::time::Duration;
use vcl_tests::daemon::{Daemon, Setup, Simulated, binary};
use vcl_types::JobId;
use vcl_types::api::{ComputerView, ImageView, JobView};
use vcl_types::state::computer;
use vcl_types::state::job::State;

const LONG: Duration = Duration::from_secs(60);

struct Place {
    root: Utf8PathBuf,
    key: Utf8PathBuf,
    _directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("vcl-drill-").tempdir()?;
        let root = Utf8Path::from_path(directory.path()).unwrap().to_owned();
        let key = root.join("id");
        let words = ["-q", "-t", "ed25519", "-N", "", "-f", key.as_str()];
        ensure!(Command::new("ssh-keygen").args(words).status()?.success());
        Ok(Self { root, key, _directory: directory })
    }
    fn setup(&self, name: &str) -> Setup {
        let mut setup = Setup::new(&self.root.join(name), &self.key, &["sim-[01-12]"]);
        setup.node = name.into();
        setup.simulated = Some(Simulated { at_once: 8, delay: "20ms" });
        setup
    }
    /// A disk with something on it.
    fn disk(&self, seed: u64) -> Result<Utf8PathBuf> {
        let path = self.root.join(format!("disk{seed}.raw"));
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let words = (0..(2 << 20) / 8).flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        std::fs::write(&path, words.collect::<Vec<u8>>())?;
        Ok(path)
    }
    fn backup(&self) -> String {
        self.root.join("backup").into_string()
    }
    /// `vcld restore`, with a daemon's configuration.
    fn restore(&self, name: &str, more: &[&str]) -> Result<String> {
        let config = self.root.join(name).join("vcld.toml");
        let words = ["restore", &self.backup(), "--config", config.as_str()];
        let output = Command::new(binary("vcld")?).args(words).args(more).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "vcld restore: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn ended(daemon: &Daemon, jobs: Vec<JobId>) -> Result<()> {
    for id in jobs {
        let job = daemon.wait_end(id, LONG)?;
        ensure!(job.state == State::Done, "{job:#?}\n{}", daemon.log_tail());
    }
    Ok(())
}

fn revisions(daemon: &Daemon) -> Result<Vec<String>> {
    let images: Vec<ImageView> = daemon.json(&["image", "list"])?;
    let mut all = Vec::new();
    for image in images {
        let view = daemon.image(image.name.as_str())?;
        all.extend(view.revisions.iter().map(|r| format!("{}@{}", view.name, r.manifest.revision)));
    }
    Ok(all)
}

fn doctor(daemon: &Daemon) -> Result<String> {
    let output = daemon.vclctl(&["doctor", "--rescan"])?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Everything verifies, and every computer is taken back, loaded and captured.
fn works(daemon: &Daemon) -> Result<()> {
    for revision in revisions(daemon)? {
        let _: JobView = daemon.json(&["image", "verify", &revision])?;
    }
    let computers: Vec<ComputerView> = daemon.json(&["computer", "list"])?;
    let taken = computers.iter().filter(|c| c.state != computer::State::Available);
    let back = taken.map(|c| daemon.queue(&["unload", c.computer.name.as_str()]));
    ended(daemon, back.collect::<Result<_>>()?)?;
    let names = ["sim-01", "sim-02", "sim-03"];
    let loads = names.map(|name| daemon.queue(&["load", name, "tiny@1"]));
    ended(daemon, loads.into_iter().collect::<Result<_>>()?)?;
    let captured: JobView = daemon.json(&["capture", "sim-01"])?;
    let made = captured.result.context("no revision")?;
    let _: JobView = daemon.json(&["image", "verify", &made])?;
    let _: JobView = daemon.json(&["load", "sim-04", &made])?;
    Ok(())
}

#[test]
fn a_backup_under_load_is_restored_on_an_empty_machine_that_loads_and_captures() -> Result<()> {
    let place = Place::new()?;
    let mut one = Daemon::start(place.setup("one"))?;
    let _: JobView = one.json(&["image", "import", "tiny", place.disk(1)?.as_str()])?;
    let sims = |range: std::ops::RangeInclusive<u32>| range.map(|n| format!("sim-{n:02}"));
    let loads = sims(1..=4).map(|name| one.queue(&["load", &name, "tiny@1"]));
    ended(&one, loads.collect::<Result<_>>()?)?;

    // Loads, captures and imports go on while the first backup is taken, and others while the second is.
    let mut jobs = Vec::new();
    for name in sims(1..=4) {
        jobs.push(one.queue(&["capture", &name, "--after", "keep-off", "--wait"])?);
    }
    for name in sims(5..=10) {
        jobs.push(one.queue(&["load", &name, "tiny@1"])?);
    }
    for seed in 2..=4 {
        jobs.push(one.queue(&["image", "import", &format!("web{seed}"), place.disk(seed)?.as_str()])?);
    }
    let first: JobView = one.json(&["backup", &place.backup()])?;
    ensure!(first.state == State::Done, "{first:#?}");
    ended(&one, jobs)?;
    let slow = one.queue(&["load", "sim-11", "tiny@1"])?;
    let second: JobView = one.json(&["backup", &place.backup()])?;
    let said = second.result.context("nothing said")?;
    // 1 imported, 4 captured, 3 imported: all are in it, and those of the first are not copied again.
    ensure!(said.contains("8 revisions"), "{said}");
    ended(&one, vec![slow])?;
    let third: JobView = one.json(&["backup", &place.backup()])?;
    ensure!(third.result.as_deref().is_some_and(|r| r.contains("0 files")), "{:?}", third.result);
    let before = revisions(&one)?;

    // The machine is gone.
    one.kill()?;
    std::fs::remove_dir_all(place.root.join("one"))?;
    let checked = Command::new(binary("vcld")?).args(["backups", "verify", &place.backup()]).output()?;
    ensure!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));

    let mut two = Daemon::prepare(place.setup("two"))?;
    let said = place.restore("two", &[])?;
    ensure!(said.contains("the database is the snapshot's") && said.contains("tiny@1"), "{said}");
    two.up()?;
    ensure!(revisions(&two)? == before);
    // Their machines were the old place's: each is named with the way out, and the way out is taken.
    let found = doctor(&two)?;
    for name in sims(1..=11) {
        ensure!(found.contains(&format!("vclctl unload {name}")), "{name}: {found}");
        let _: JobView = two.json(&["unload", &name])?;
    }
    let found = doctor(&two)?;
    ensure!(found.contains("say the same"), "{found}");
    works(&two)?;
    let after = revisions(&two)?;
    ensure!(after.len() == before.len() + 1, "{before:?} {after:?}");

    // The backup is older than the library: its database gets a row for what was made since, and counts on after it.
    two.stop()?;
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(place.root.join(format!("two/vcld.db{end}")));
    }
    let said = place.restore("two", &["--merge"])?;
    ensure!(said.contains("rows were made for: tiny@6"), "{said}");
    two.up()?;
    ensure!(revisions(&two)? == after);
    works(&two)?;

    // And the library is older than the database: what is lost is named, a load of it says so, the rest goes on.
    two.stop()?;
    std::fs::remove_dir_all(place.root.join("two/library/tiny/6"))?;
    two.up()?;
    let found = doctor(&two)?;
    ensure!(found.contains("tiny@6") && found.contains("restore"), "{found}");
    let said = two.refused(&["load", "sim-05", "tiny@6"])?;
    ensure!(said.contains("tiny@6"), "{said}");
    let said = place_of_lost(&place, &mut two)?;
    ensure!(said.contains("nobody has the files of: tiny@6"), "{said}");
    let _: JobView = two.json(&["image", "delete", "tiny@6", "--yes"])?;
    let found = doctor(&two)?;
    ensure!(found.contains("say the same"), "{found}");
    let _: JobView = two.json(&["load", "sim-05", "tiny@5"])?;
    two.stop()
}

/// What a restore over a library says that has lost something which no backup has.
fn place_of_lost(place: &Place, daemon: &mut Daemon) -> Result<String> {
    daemon.stop()?;
    let said = place.restore("two", &["--merge"])?;
    daemon.up()?;
    Ok(said)
}

/// A job waits for room in a library on a small file system, is not begun, and goes on when an image is deleted.
#[test]
fn an_import_waits_for_room_on_a_small_disk() -> Result<()> {
    let place = Place::new()?;
    let library = place.root.join("small");
    std::fs::create_dir_all(&library)?;
    // Two revisions of a little more than 2 MiB, and no third.
    let mount = ["-t", "tmpfs", "-o", "size=7200k", "none", library.as_str()];
    ensure!(Command::new("mount").args(mount).status()?.success(), "mounting {library}");
    let tried = on_a_small_disk(&place, &library);
    ensure!(Command::new("umount").arg("-l").arg(library.as_str()).status()?.success());
    tried
}

fn on_a_small_disk(place: &Place, library: &Utf8Path) -> Result<()> {
    let mut setup = place.setup("one");
    setup.library = Some(library.to_owned());
    let mut daemon = Daemon::start(setup)?;
    for seed in 1..=2 {
        let _: JobView =
            daemon.json(&["image", "import", &format!("i{seed}"), place.disk(seed)?.as_str()])?;
    }
    let id = daemon.queue(&["image", "import", "i3", place.disk(3)?.as_str()])?;
    let job = daemon.wait_job(id, LONG, |job| job.state == State::Waiting)?;
    let reason = job.reason.unwrap_or_default();
    ensure!(reason.contains("are needed in the library of node one"), "{reason}");
    ensure!(job.steps.is_empty(), "{:?}", job.steps);
    let why = daemon.vclctl(&["why", &id.to_string()])?;
    let why = String::from_utf8_lossy(&why.stdout).into_owned();
    ensure!(why.contains("make room") && why.contains("image prune"), "{why}");
    // It waits in the database, and a daemon that dies changes nothing about that.
    daemon.kill()?;
    daemon.up()?;
    daemon.wait_job(id, LONG, |job| job.state == State::Waiting)?;
    let _: JobView = daemon.json(&["image", "delete", "i1@1", "--now", "--yes"])?;
    ended(&daemon, vec![id])?;
    let _: JobView = daemon.json(&["image", "verify", "i3@1"])?;
    daemon.stop()
}
