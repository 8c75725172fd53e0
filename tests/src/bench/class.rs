//! A class: from the moment at which its seats may be loaded to the one at which the last of them is.
//!
//! `seats_40` is on simulated machines, whose loads have as many steps as a hypervisor's and take about as long; the peer is
//! what the host allows by itself: as many loads at once as it takes, one after the other without a gap. `guests_6` is on
//! emulated machines of a real libvirt. What each case is, [`CASES`] says.

mod guests;

use super::{Line, quantile};
use crate::daemon::{Daemon, Setup, Simulated};
use anyhow::{Context, Result, bail, ensure};
use camino::Utf8Path;
use chrono::{Datelike as _, TimeDelta, Timelike as _, Utc};
use std::process::Command;
use std::time::{Duration, Instant};
use vcl_types::JobId;
use vcl_types::api::JobView;
use vcl_types::lending::{ClassRequest, Wish};
use vclctl::Client;

/// The cases, with what each measures.
pub const CASES: &[(&str, &str)] = &[
    (
        "seats_40",
        "seconds until the last of forty simulated seats is loaded; loads per second; what a load waits for",
    ),
    ("guests_6", "the same for six emulated guests at once, against the same six started with qemu alone"),
];

/// How many loads the simulated host takes at once.
const AT_ONCE: u32 = 8;
/// How long each step on a machine takes, how many of those there are in a load, and how many with those of the daemon's own.
const STEP: (&str, f64) = ("2s", 2.0);
const PACED: usize = 10;
const STEPS: usize = 12;
/// After this it has failed.
const PATIENCE: Duration = Duration::from_secs(600);

/// Runs the bench, or one case of it.
///
/// # Errors
/// There is no such case, a daemon fails, seats are not loaded in time, or it is shortly before midnight.
pub fn run(case: Option<&str>) -> Result<()> {
    match case {
        Some("seats_40") => simulated(),
        Some("guests_6") => guests::run(),
        None => simulated().and_then(|()| guests::run()),
        Some(other) => {
            bail!("the bench class has no case {other}; it has seats_40, guests_6, and all without a word")
        }
    }
}

fn simulated() -> Result<()> {
    let target = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../target").canonicalize_utf8()?;
    let directory = tempfile::Builder::new().prefix("bench-class-").tempdir_in(target)?;
    let path = Utf8Path::from_path(directory.path()).context("not UTF-8")?;
    let key = path.join("id");
    let words = ["-q", "-t", "ed25519", "-N", "", "-f", key.as_str()];
    ensure!(Command::new("ssh-keygen").args(words).status()?.success(), "ssh-keygen failed");
    let mut setup = Setup::new(path, &key, &["sim-[0001-0045]"]);
    setup.simulated = Some(Simulated { at_once: AT_ONCE, delay: STEP.0 });
    setup.environment.push(("RUST_LOG".into(), "info".into()));
    let mut daemon = Daemon::start(setup)?;
    let _: JobView = daemon.json(&["image", "import", "tiny", super::queue::tiny(path)?.as_str()])?;
    let client = Client::new(path.join("vcld.sock").as_std_path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let seats = Seats { image: "tiny", count: 40 };
    let loaded = runtime.block_on(seats.loaded(&client))?;
    daemon.stop()?;
    for job in &loaded.jobs {
        let paced = job.steps.iter().filter(|step| span(step.started, step.ended) >= STEP.1).count();
        let all = job.steps.len();
        ensure!((paced, all) == (PACED, STEPS), "of the {all} steps of a load {paced} take their time");
    }
    let peer = f64::from(seats.count.div_ceil(AT_ONCE)) * PACED as f64 * STEP.1;
    Line {
        bench: "class",
        case: "seats_40",
        unit: "s",
        ours: loaded.took,
        peer: Some(peer),
        peer_name: Some("loads without a gap"),
        ratio: Some(loaded.took / peer),
        n: 1,
    }
    .print();
    let n = loaded.jobs.len();
    Line::alone("class", "seats_40_rate", "1/s", f64::from(seats.count) / loaded.took, n).print();
    let [mut waits, mut works, mut rests] = loaded.shares();
    Line::alone("class", "seats_40_waits_for_a_place", "s", quantile(&mut waits, 0.5), n).print();
    Line::alone("class", "seats_40_in_steps", "s", quantile(&mut works, 0.5), n).print();
    Line::alone("class", "seats_40_between_steps", "s", quantile(&mut rests, 0.5), n).print();
    Ok(())
}

/// Seconds from one time to another; none where one of them is missing.
fn span(from: Option<chrono::DateTime<Utc>>, to: Option<chrono::DateTime<Utc>>) -> f64 {
    from.zip(to).map_or(0.0, |(from, to)| (to - from).as_seconds_f64())
}

/// The seats of a class.
struct Seats {
    image: &'static str,
    count: u32,
}

/// How they came to be loaded.
struct Loaded {
    /// Seconds from the class to the last of them.
    took: f64,
    /// Their loads, with their steps.
    jobs: Vec<JobView>,
}

impl Seats {
    /// Adds a class that begins in twenty minutes, which is well within the time before it in which seats are loaded, and
    /// waits until all are.
    async fn loaded(&self, client: &Client) -> Result<Loaded> {
        let (begins, ends) = (Utc::now() + TimeDelta::minutes(20), Utc::now() + TimeDelta::minutes(50));
        ensure!(
            begins.day() == ends.day(),
            "a class that begins before midnight and ends after it is two: try later"
        );
        let clock = |at: chrono::DateTime<Utc>| format!("{}:{:02}", at.hour(), at.minute());
        let weekly = format!("{} {}-{}", begins.format("%a"), clock(begins), clock(ends));
        let request = ClassRequest {
            name: "Bench 101".into(),
            image: self.image.parse()?,
            seats: self.count,
            weekly: weekly.parse()?,
            wish: Wish::default(),
            group: None,
            from: None,
            until: Some(Utc::now() + TimeDelta::days(1)),
            owner: None,
        };
        let before = client.jobs(None, 1).await?.first().map_or(JobId(0), |job| job.id);
        let began = Instant::now();
        client.add_class(&request).await?;
        let took = loop {
            let computers = client.computers().await?;
            if computers.iter().filter(|computer| computer.loaded.is_some()).count() >= self.count as usize {
                break began.elapsed().as_secs_f64();
            }
            ensure!(began.elapsed() < PATIENCE, "the seats are not loaded in {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(100)).await; // why: watching the stream costs the daemon more than asking
        };
        let mut jobs = Vec::new();
        for job in client.jobs(None, 1000).await?.iter().filter(|job| job.id > before) {
            jobs.push(client.job(job.id).await?);
        }
        ensure!(jobs.len() == self.count as usize, "{} loads for {} seats", jobs.len(), self.count);
        Ok(Loaded { took, jobs })
    }
}

impl Loaded {
    /// Of each load: how long it waited for a place on the host, how long its steps took, and how long was between them.
    fn shares(&self) -> [Vec<f64>; 3] {
        let of = |share: fn(&JobView) -> f64| self.jobs.iter().map(share).collect::<Vec<_>>();
        let steps = |job: &JobView| job.steps.iter().map(|step| span(step.started, step.ended)).sum::<f64>();
        [
            of(|job| span(Some(job.submitted), job.started)),
            self.jobs.iter().map(steps).collect(),
            self.jobs.iter().map(|job| span(job.started, job.ended) - steps(job)).collect(),
        ]
    }
}
