//! Six emulated guests at once: as seats of a class, through the daemon and a real libvirt; and the same six by hand.
//!
//! Both sides boot overlays on the same captured revision, which makes itself an identity when it first boots, with its
//! kernel, its command line and its memory, and with nothing of it in the page cache. Ours is over when the last seat is
//! loaded: it has been logged in to, has its name, and its host keys are pinned. By hand it is over when root has logged in to
//! the last one. Runs alternate.
//!
//! What the machines read of the revision is what the kernel has charged their processes for: bytes that came from the disk,
//! and not from the page cache. Read once that is what is in the page cache of the revision's files afterwards.

use super::{Seats, span};
use crate::bench::{Line, quantile};
use crate::daemon::{Daemon, Setup};
use crate::guest::{self, Guest, Kind, Machine};
use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use std::fs::{self, File};
use std::process::Command;
use std::sync::Barrier;
use std::time::Instant;
use vcl_types::api::JobView;
use vclctl::Client;

const GUESTS: usize = 6;
const RUNS: usize = 3;

/// # Errors
/// When anything fails; it takes root.
pub(super) fn run() -> Result<()> {
    let cache = guest::cache_directory();
    let key = guest::cached_key(&cache)?;
    let public = fs::read_to_string(format!("{key}.pub"))?;
    let guest = Guest::make(Kind::Fast, &cache, &public, &mut |_| {})?;
    if std::env::var_os("VCL_WORLD").is_none() {
        let world = crate::daemon::binary("vcl-world")?;
        let mut inside = Command::new(world);
        inside.arg("--").arg(std::env::current_exe()?).args(["class", "guests_6"]);
        ensure!(inside.status()?.success(), "the bench failed in its world");
        return Ok(());
    }
    let target = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../target").canonicalize_utf8()?;
    let directory = tempfile::Builder::new().prefix("bench-class-").tempdir_in(target)?;
    let path = Utf8Path::from_path(directory.path()).context("not UTF-8")?;
    let mut setup = Setup::new(path, &key, &["seat-[1-6]"]);
    setup.backend = Some(format!(
        "type = \"libvirt\"\nuri = \"qemu:///system\"\ndirectory = \"{path}/machines\"\nmax_jobs = {GUESTS}"
    ));
    setup.more = "[deadlines]\nboot = \"5m\"\nshutdown = \"2m\"\n".into();
    setup.environment.push(("RUST_LOG".into(), "info".into()));
    let mut daemon = Daemon::start(setup)?;
    daemon.import(&guest, "debian", "")?;
    // A captured revision is what is loaded every day: it makes itself an identity when it boots.
    let _: JobView = daemon.json(&["load", "seat-1", "debian@1"])?;
    let _: JobView = daemon.json(&["capture", "seat-1"])?;
    let base = Base::of(&daemon, &path.join("by-hand"))?;
    let client = Client::new(path.join("vcld.sock").as_std_path())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let seats = Seats { image: "debian@2", count: GUESTS as u32 };
    let (mut ours, mut peer, mut read) = (vec![], vec![], vec![]);
    for n in 1..=RUNS {
        eprintln!("run {n} of {RUNS}");
        base.forget()?;
        let loaded = runtime.block_on(seats.loaded(&client))?;
        let (fetched, there) = (fetched_by_machines()?, base.cached()?);
        eprintln!("  ours: {:.1} s, of which{}", loaded.took, steps(&loaded.jobs));
        eprintln!("  read from disk: {fetched} bytes, in the page cache: {there} bytes");
        read.push(fetched as f64 / there as f64);
        ours.push(loaded.took);
        runtime.block_on(client.delete_class("Bench 101"))?;
        for n in 1..=GUESTS {
            let _: JobView = daemon.json(&["unload", &format!("seat-{n}")])?;
        }
        // It leaves a computer alone for a while that it has had loaded and that is empty again, and forgets so at a start.
        daemon.stop()?;
        daemon.up()?;
        base.forget()?;
        let took = by_hand(&base.guest, &key)?;
        eprintln!("  by hand: {took:.1} s");
        peer.push(took);
    }
    for revision in ["debian@2", "debian@1"] {
        let _: JobView = daemon.json(&["image", "delete", revision, "--now", "--yes"])?;
    }
    daemon.stop()?;
    let by = "the same six started with qemu-system-x86_64, until root has logged in";
    Line::pair("class", "guests_6", by, &mut ours, &mut peer).print();
    Line::alone("class", "guests_6_base_read", "times", quantile(&mut read, 0.5), RUNS).print();
    Ok(())
}

/// The median of each step's time.
fn steps(jobs: &[JobView]) -> String {
    let mut text = String::new();
    for step in jobs.first().into_iter().flat_map(|job| &job.steps) {
        let named =
            |job: &JobView| job.steps.iter().find(|s| s.name == step.name).map(|s| span(s.started, s.ended));
        let mut took: Vec<f64> = jobs.iter().filter_map(named).collect();
        text.push_str(&format!("\n    {:<36} {:.2} s", step.name, quantile(&mut took, 0.5)));
    }
    text
}

/// What all of them lie on.
struct Base {
    /// As a guest that qemu can be started with.
    guest: Guest,
    /// The files of the revision and of what it lies on.
    files: Vec<Utf8PathBuf>,
}

impl Base {
    fn of(daemon: &Daemon, directory: &Utf8Path) -> Result<Self> {
        let library = daemon.library().join("debian");
        let manifest =
            daemon.image("debian")?.revisions.get(1).context("nothing was captured")?.manifest.clone();
        let own = library.join("2");
        let boot = manifest.boot.as_ref().context("it does not boot directly")?;
        fs::create_dir_all(directory)?;
        let link = |from: &str, to: &str| std::os::unix::fs::symlink(own.join(from), directory.join(to));
        link(&manifest.disks.first().context("it has no disk")?.file, "disk.qcow2")?;
        link(&boot.kernel, "vmlinux")?;
        link(boot.initrd.as_ref().context("it has no initrd")?, "initrd.img")?;
        fs::write(directory.join("cmdline"), &boot.cmdline)?;
        fs::write(directory.join("kind"), Kind::Fast.name())?;
        let mut files = Vec::new();
        for revision in ["1", "2"] {
            for entry in library.join(revision).read_dir_utf8()? {
                files.push(entry?.into_path());
            }
        }
        Ok(Self { guest: Guest::open(directory)?, files })
    }

    /// Takes them out of the page cache.
    fn forget(&self) -> Result<()> {
        rustix::fs::sync();
        for file in &self.files {
            let open = File::open(file)?;
            rustix::fs::fadvise(&open, 0, None, rustix::fs::Advice::DontNeed)?;
        }
        let left = self.cached()?;
        ensure!(left < 1 << 20, "{left} bytes of the revision stay in the page cache: something has it open");
        Ok(())
    }

    /// How many bytes of them are in the page cache.
    fn cached(&self) -> Result<u64> {
        let words = ["--noheadings", "--bytes", "--output", "RES"];
        let said = crate::command::output_of(Command::new("fincore").args(words).args(&self.files))?;
        said.split_ascii_whitespace().map(|word| word.parse::<u64>().context("fincore")).sum()
    }
}

/// How many bytes came from the disk for all of the world's machines.
fn fetched_by_machines() -> Result<u64> {
    let mut sum = 0;
    let mut machines = 0;
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Ok(name) = fs::read_to_string(path.join("comm")) else { continue };
        if !name.starts_with("qemu-system") {
            continue;
        }
        let text = fs::read_to_string(path.join("io"))?;
        let line =
            text.lines().find_map(|line| line.strip_prefix("read_bytes: ")).context("no read_bytes")?;
        sum += line.trim().parse::<u64>()?;
        machines += 1;
    }
    ensure!(machines == GUESTS, "{machines} machines run");
    Ok(sum)
}

/// Starts them and waits until root has logged in to the last; they end when all have been.
fn by_hand(guest: &Guest, key: &Utf8Path) -> Result<f64> {
    let (all, began) = (Barrier::new(GUESTS), Instant::now());
    let one = || {
        let booted = Machine::start(guest, key).and_then(|mut machine| {
            machine.wait_for_login()?;
            Ok(machine)
        });
        let took = began.elapsed().as_secs_f64();
        all.wait();
        booted.map(|_| took)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..GUESTS).map(|_| scope.spawn(one)).collect();
        let ended = threads.into_iter().map(|thread| match thread.join() {
            Ok(took) => took,
            Err(_) => anyhow::bail!("a machine's thread panicked"),
        });
        let took: Vec<f64> = ended.collect::<Result<_>>()?;
        Ok(took.into_iter().fold(0.0, f64::max))
    })
}
