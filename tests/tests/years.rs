//! Years of a site in seconds: loads, captures, rewriting whole, deleting, bringing back, pruning and verifying in any
//! order, asked for all at once, and a daemon that is killed in between. Whatever of it is done and whatever is refused: no
//! revision ever shows another byte, and no loaded computer loses what it lies on.
//!
//! `VCL_SEED=N` plays another order, `VCL_FULL=1` many more rounds. What `image` alone guarantees of this is tried in
//! vcl-images, with guests' writes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vcl_provisioning::sim::World;
use vcl_tests::daemon::{Daemon, Setup, Simulated};
use vcl_types::api::{ImageView, JobView, TrashView};
use vcl_types::state::job::State;
use vcl_types::{After, CaptureInto, ComputerName, ImageRef, JobRequest};
use vclctl::Client;

const COMPUTERS: usize = 6;
const ROUNDS: usize = 8;
const MANY_ROUNDS: usize = 60;
const AT_ONCE: usize = 8;
const LONG: Duration = Duration::from_secs(120);

struct Site {
    daemon: Daemon,
    world: Arc<World>,
    client: Client,
    chance: Rng,
    /// What each revision showed when it was first seen.
    showed: BTreeMap<String, String>,
    counts: BTreeMap<String, usize>,
    _directory: tempfile::TempDir,
}

/// What a guest would see on a disk, through all that it lies on.
fn shows(file: &Utf8Path) -> Result<String> {
    let script = "qemu-img convert -O raw \"$1\" \"$2\" && sha256sum <\"$2\"";
    let scratch = tempfile::NamedTempFile::new()?;
    let path = scratch.path().to_str().unwrap();
    let made = Command::new("sh").args(["-c", script, "sh", file.as_str(), path]).output()?;
    ensure!(made.status.success(), "{file}: {}", String::from_utf8_lossy(&made.stderr));
    Ok(String::from_utf8_lossy(&made.stdout).trim().to_owned())
}

impl Site {
    fn new(seed: u64) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("vcl-years-").tempdir()?;
        let path = Utf8Path::from_path(directory.path()).unwrap();
        let (key, disk) = (path.join("id"), path.join("tiny.qcow2"));
        let words = ["-q", "-t", "ed25519", "-N", "", "-f", key.as_str()];
        ensure!(Command::new("ssh-keygen").args(words).status()?.success());
        let words = ["create", "-q", "-f", "qcow2", disk.as_str(), "8M"];
        ensure!(Command::new("qemu-img").args(words).status()?.success());
        let mut setup = Setup::new(path, &key, &[&format!("sim-[1-{COMPUTERS}]")]);
        setup.simulated = Some(Simulated { at_once: 20, delay: "1ms" });
        let daemon = Daemon::start(setup)?;
        let _: JobView = daemon.json(&["image", "import", "tiny", disk.as_str()])?;
        // So that there is always something to load.
        ensure!(daemon.vclctl(&["image", "promote", "tiny@1"])?.status.success());
        let world = World::open(path.join("machines"))?;
        let client = Client::new(path.join("vcld.sock").as_std_path())?;
        let chance = Rng::with_seed(seed);
        let (showed, counts) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { daemon, world, client, chance, showed, counts, _directory: directory })
    }

    fn revisions(&self) -> Result<Vec<ImageRef>> {
        let image: ImageView = self.daemon.image("tiny")?;
        Ok(image.revisions.iter().map(|r| r.manifest.image_ref()).collect())
    }

    fn request(&mut self, there: &[ImageRef], trash: &[ImageRef]) -> JobRequest {
        let computer: ComputerName = format!("sim-{}", self.chance.usize(1..=COMPUTERS)).parse().unwrap();
        let any = |chance: &mut Rng, of: &[ImageRef]| of[chance.usize(0..of.len())].clone();
        match self.chance.u32(0..20) {
            0..6 => JobRequest::Load { computer, image: any(&mut self.chance, there) },
            6..11 => JobRequest::Capture {
                computer,
                into: CaptureInto::Next,
                after: if self.chance.bool() { After::Resume } else { After::Release },
                power_on: false,
                note: None,
                whole: self.chance.u32(0..5) == 0,
            },
            11..14 => JobRequest::Flatten { image: any(&mut self.chance, there) },
            14..16 => JobRequest::DeleteImage {
                image: any(&mut self.chance, there),
                now: self.chance.u32(0..3) == 0,
            },
            16 => JobRequest::Prune {
                image: "tiny".parse().unwrap(),
                keep: Some(self.chance.u32(2..5)),
                older_than_s: None,
                owner: None,
                now: false,
            },
            17 if !trash.is_empty() => JobRequest::Undelete { image: any(&mut self.chance, trash) },
            18 => JobRequest::Unload { computer },
            _ => JobRequest::Verify { image: any(&mut self.chance, there) },
        }
    }

    /// Asks for some things at once, and waits until all that was taken is over.
    async fn round(&mut self, kill: bool) -> Result<()> {
        let there = self.revisions()?;
        let trash: Vec<TrashView> = self.daemon.json(&["image", "trash"])?;
        let trash: Vec<ImageRef> =
            trash.into_iter().filter(|t| t.why == "deleted").map(|t| t.image).collect();
        let mut jobs = Vec::new();
        for _ in 0..AT_ONCE {
            let request = self.request(&there, &trash);
            // Much of it is not possible, and says so at once.
            if let Ok(submitted) = self.client.submit_as(&request, true).await {
                jobs.push(submitted.job);
            }
        }
        if kill {
            self.daemon.kill()?;
            self.daemon.up()?;
        }
        for id in jobs {
            let job = self.daemon.wait_end(id, LONG)?;
            ensure!(job.state != State::Stuck, "{job:#?}");
            if job.state == State::Failed {
                let reason = job.reason.clone().unwrap_or_default();
                // What becomes impossible while a job waits is refused; nothing else goes wrong here.
                let fine = [
                    "only a computer that holds an image",
                    "stored over",
                    "there is no",
                    "not deleted",
                    "is loaded",
                    "newest",
                    "in production",
                    "reads tiny",
                ];
                ensure!(fine.iter().any(|f| reason.contains(f)), "{job:#?}");
            }
            *self.counts.entry(format!("{} {}", job.kind, job.state)).or_default() += 1;
        }
        Ok(())
    }

    /// Each revision shows what it always did, and so does what each loaded computer lies on.
    async fn holds(&mut self) -> Result<()> {
        for image in self.revisions()? {
            let file: Utf8PathBuf = self
                .daemon
                .library()
                .join(image.name.as_str())
                .join(image.revision.unwrap().to_string())
                .join("disk0.qcow2");
            let now = shows(&file)?;
            let showed = self.showed.entry(image.to_string()).or_insert_with(|| now.clone());
            ensure!(*showed == now, "{image} shows something else now");
        }
        for n in 1..=COMPUTERS {
            let view = self.daemon.computer(&format!("sim-{n}"))?;
            let Some(image) = view.loaded.map(|loaded| loaded.image) else { continue };
            let machine = self.world.machine(&format!("vcl-sim-{n}")).await?;
            let overlay = machine.overlays.values().next().context("no overlay")?;
            let now =
                shows(Utf8Path::new(&overlay.on)).with_context(|| format!("under sim-{n} with {image}"))?;
            ensure!(self.showed[&image.to_string()] == now, "sim-{n} sees another {image}");
        }
        ensure!(self.world.refusals()?.is_empty(), "{:?}", self.world.refusals()?);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_order_of_jobs_breaks_a_loaded_computer_or_a_revision_that_another_lies_on() -> Result<()> {
    let seed = std::env::var("VCL_SEED").map_or(Ok(7), |seed| seed.parse())?;
    let began = Instant::now();
    let mut site = Site::new(seed)?;
    let rounds = if std::env::var_os("VCL_FULL").is_some() { MANY_ROUNDS } else { ROUNDS };
    for round in 0..rounds {
        let found = match site.round(round % 4 == 3).await {
            Ok(()) => site.holds().await,
            Err(e) => Err(e),
        };
        found.with_context(|| format!("seed {seed}, round {round}\n{}", site.daemon.log_tail()))?;
    }
    eprintln!("{:.1} s: {:?}", began.elapsed().as_secs_f64(), site.counts);
    for kind in ["load", "capture", "flatten", "delete-image"] {
        ensure!(site.counts.contains_key(&format!("{kind} done")), "no {kind} was done: {:?}", site.counts);
    }
    site.daemon.stop()
}
