//! What the queue costs: a real daemon on simulated machines that take no time, its database on disk and durable
//! (`synchronous=FULL`), asked over its socket as `vclctl` asks. A load takes as many steps as one on a hypervisor.
//!
//! What each case is, [`CASES`] says; `burst_rate`, `cpu_per_request` and `load_alone` are of the same loads.

mod steps;

use super::{Line, quantile};
use crate::daemon::{Daemon, Setup, Simulated};
use anyhow::{Context, Result, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use vcl_types::api::JobView;
use vcl_types::{JobId, JobRequest};
use vclctl::Client;

const ROUNDS: usize = 7;
const BURST: usize = 100;
const MANY: usize = 1000;
const IDLE: Duration = Duration::from_secs(60);

/// The cases, with what each measures.
pub const CASES: &[(&str, &str)] = &[
    ("burst_rate", "loads per second to ready, 100 submitted at once"),
    ("cpu_per_request", "the daemon's CPU for one of them, in ms"),
    ("load_alone", "one load from its submit to ready with nothing else going on, in ms"),
    ("idle_1000", "percent of a core over 60 s with 1,000 computers in use"),
    ("pss_1000", "the daemon's PSS with 1,000 jobs waiting, in MB"),
    ("step_sqlite", "µs of journal for a step on SQLite, synchronous=FULL; _burst: beside 99 other jobs"),
    ("step_mariadb", "the same on a MariaDB that flushes its log at each commit"),
];

/// Runs the bench, or one case of it.
///
/// # Errors
///
/// When there is no such case, or a daemon fails.
pub fn run(case: Option<&str>) -> Result<()> {
    if let Some(case) = case
        && CASES.iter().all(|(name, _)| *name != case)
    {
        let known: Vec<_> = CASES.iter().map(|(name, _)| *name).collect();
        bail!("the bench queue has no case {case}; it has {}, and all without a word", known.join(", "));
    }
    let wanted = |name: &str| case.is_none_or(|case| case == name);
    // On a real disk, as a database is: /tmp may be memory. The configuration takes no `..`.
    let target = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../target").canonicalize_utf8()?;
    let directory = tempfile::Builder::new().prefix("bench-queue-").tempdir_in(target)?;
    let path = Utf8Path::from_path(directory.path()).context("not UTF-8")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    if wanted("step_sqlite") {
        runtime.block_on(steps::sqlite(path))?;
    }
    if wanted("step_mariadb") {
        runtime.block_on(steps::mariadb(path))?;
    }
    let bursts = ["burst_rate", "cpu_per_request", "load_alone"].into_iter().any(wanted);
    if bursts || wanted("idle_1000") {
        let mut bench = Bench::start(&path.join("zero"), &runtime, Simulated { at_once: 200, delay: "0s" })?;
        if bursts {
            bench.bursts()?;
        }
        if wanted("idle_1000") {
            bench.idle()?;
        }
        bench.daemon.stop()?;
    }
    if wanted("pss_1000") {
        let mut bench = Bench::start(&path.join("slow"), &runtime, Simulated { at_once: 1, delay: "1h" })?;
        bench.submit_all((0..=MANY).map(load))?;
        Line::alone("queue", "pss_1000", "MB", pss(bench.pid()?)?, 1).print();
        bench.daemon.kill()?;
    }
    Ok(())
}

fn computer(n: usize) -> String {
    format!("sim-{n:04}")
}
fn load(n: usize) -> JobRequest {
    let image = "tiny@1".parse().unwrap_or_else(|_| unreachable!("a good name"));
    JobRequest::Load { computer: name(n), image }
}
fn unload(n: usize) -> JobRequest {
    JobRequest::Unload { computer: name(n) }
}
fn name(n: usize) -> vcl_types::ComputerName {
    computer(n).parse().unwrap_or_else(|_| unreachable!("a good name"))
}

struct Bench<'a> {
    daemon: Daemon,
    client: Client,
    runtime: &'a Runtime,
}

impl<'a> Bench<'a> {
    fn start(directory: &Utf8Path, runtime: &'a Runtime, simulated: Simulated) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        // No simulated machine asks for it, and the daemon wants to have one.
        let key = directory.join("id");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f", key.as_str()])
            .status()?;
        ensure!(made.success(), "ssh-keygen failed");
        let mut setup = Setup::new(directory, &key, &["sim-[0000-1000]"]);
        setup.simulated = Some(simulated);
        // As it is shipped, not as tests want it.
        setup.environment.push(("RUST_LOG".into(), "info".into()));
        let daemon = Daemon::start(setup)?;
        let _: JobView = daemon.json(&["image", "import", "tiny", tiny(directory)?.as_str()])?;
        let client = Client::new(directory.join("vcld.sock").as_std_path())?;
        Ok(Self { daemon, client, runtime })
    }

    fn pid(&self) -> Result<u32> {
        self.daemon.pid().context("vcld does not run")
    }

    /// Submits all at once.
    fn submit_all(&self, requests: impl Iterator<Item = JobRequest>) -> Result<Vec<JobId>> {
        self.runtime.block_on(submitted(&self.client, requests))
    }
    /// Waits for all of them; each must have come to its end well.
    fn wait_all(&self, jobs: &[JobId]) -> Result<Vec<JobView>> {
        self.runtime.block_on(done(&self.client, jobs))
    }

    fn bursts(&mut self) -> Result<()> {
        let (mut rates, mut costs, mut alone) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let before = (chrono::Utc::now(), cpu(self.pid()?)?);
            let jobs = self.submit_all((0..BURST).map(load))?;
            let last = *jobs.last().context("no job")?;
            self.wait_all(&[last])?;
            let cost = (cpu(self.pid()?)? - before.1).as_secs_f64();
            let ends = self.wait_all(&jobs)?;
            let end = ends.iter().filter_map(|j| j.ended).max().context("nothing has ended")?;
            let took = (end - before.0).as_seconds_f64();
            // The first warms up.
            if round > 0 {
                rates.push(BURST as f64 / took);
                costs.push(cost * 1000.0 / BURST as f64);
            }
            self.wait_all(&self.submit_all((0..BURST).map(unload))?)?;
        }
        for _ in 0..20 {
            let before = chrono::Utc::now();
            let job = self.wait_all(&self.submit_all(std::iter::once(load(0)))?)?;
            let end = job.first().and_then(|j| j.ended).context("it has not ended")?;
            alone.push((end - before).as_seconds_f64() * 1000.0);
            self.wait_all(&self.submit_all(std::iter::once(unload(0)))?)?;
        }
        Line::alone("queue", "burst_rate", "1/s", quantile(&mut rates, 0.5), ROUNDS).print();
        Line::alone("queue", "cpu_per_request", "ms", quantile(&mut costs, 0.5), ROUNDS).print();
        Line::alone("queue", "load_alone", "ms", quantile(&mut alone, 0.5), alone.len()).print();
        Ok(())
    }

    fn idle(&mut self) -> Result<()> {
        self.wait_all(&self.submit_all((0..MANY).map(load))?)?;
        let (start, before) = (Instant::now(), cpu(self.pid()?)?);
        std::thread::sleep(IDLE); // why: it is what is measured
        let share = (cpu(self.pid()?)? - before).as_secs_f64() / start.elapsed().as_secs_f64();
        Line::alone("queue", "idle_1000", "%", share * 100.0, 1).print();
        eprintln!("with {MANY} computers in use the daemon's PSS is {:.1} MB", pss(self.pid()?)?);
        Ok(())
    }
}

/// Submits all at once.
pub(super) async fn submitted(
    client: &Client,
    requests: impl Iterator<Item = JobRequest>,
) -> Result<Vec<JobId>> {
    let mut sending = tokio::task::JoinSet::new();
    let mut jobs = Vec::new();
    for request in requests {
        let client = client.clone();
        sending.spawn(async move { client.submit(&request).await });
        // As many connections as a busy front end has.
        if sending.len() >= BURST
            && let Some(sent) = sending.join_next().await
        {
            jobs.push(sent??.job);
        }
    }
    while let Some(sent) = sending.join_next().await {
        jobs.push(sent??.job);
    }
    jobs.sort();
    Ok(jobs)
}

/// Waits for all of them; each must have come to its end well.
pub(super) async fn done(client: &Client, jobs: &[JobId]) -> Result<Vec<JobView>> {
    let mut ended = Vec::new();
    // The last to be submitted is one of the last to end: few questions are asked meanwhile.
    for id in jobs.iter().rev() {
        loop {
            let job = client.job(*id).await?;
            if job.state.is_final() {
                ensure!(job.state.to_string() == "done", "job {id}: {} {:?}", job.state, job.reason);
                ended.push(job);
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await; // why: watching the stream would cost the daemon more than asking
        }
    }
    Ok(ended)
}

/// A small image.
pub(super) fn tiny(directory: &Utf8Path) -> Result<Utf8PathBuf> {
    let disk = directory.join("tiny.qcow2");
    let made =
        Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", disk.as_str(), "8M"]).status()?;
    ensure!(made.success(), "qemu-img failed");
    Ok(disk)
}

/// What a process has used of the processors.
fn cpu(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("no stat")?.1.split_ascii_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    // Linux shows hundredths of a second to programs, whatever its own tick is.
    Ok(Duration::from_millis(ticks * 10))
}

/// What a process has of memory, shared pages divided among those who share them, in MB.
fn pss(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|l| l.strip_prefix("Pss:")).context("no Pss in smaps_rollup")?;
    let kibibytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes * 1024.0 / 1e6)
}
