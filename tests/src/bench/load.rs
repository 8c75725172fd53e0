//! What vcld adds to a load: from the claim to the start of the machine, and from the guest's ssh banner to ready.
//!
//! The peer of `post_load` is the same script that vcld sends, over one OpenSSH connection, to the same guest just
//! booted: vcld's machine is reset, its banner waited for, and the script run. Runs alternate.

use super::{Line, quantile};
use crate::daemon::{Daemon, Setup};
use crate::guest::{self, Guest, Kind};
use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vcl_types::Endpoint;
use vcl_types::api::{JobView, StepView};

const RUNS: usize = 5;

fn step<'a>(job: &'a JobView, name: &str) -> Result<&'a StepView> {
    job.steps.iter().find(|s| s.name == name).with_context(|| format!("no step {name} in {:#?}", job.steps))
}

fn between(
    from: Option<chrono::DateTime<chrono::Utc>>,
    to: Option<chrono::DateTime<chrono::Utc>>,
) -> Result<f64> {
    let (from, to) = (from.context("no time")?, to.context("no time")?);
    Ok((to - from).num_microseconds().context("a long time")? as f64 / 1e6)
}

/// Runs the bench. It needs a private world; the guest must be made already.
///
/// # Errors
///
/// When anything fails.
pub fn run() -> Result<()> {
    let cache = guest::cache_directory();
    let key = guest::cached_key(&cache)?;
    let public = std::fs::read_to_string(format!("{key}.pub"))?;
    let guest = Guest::make(Kind::Fast, &cache, &public, &mut |_| {})?;
    if std::env::var_os("VCL_WORLD").is_none() {
        let world = crate::daemon::binary("vcl-world")?;
        let status = Command::new(world).arg("--").arg(std::env::current_exe()?).arg("load").status()?;
        ensure!(status.success(), "the bench failed in its world");
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let path = Utf8Path::from_path(directory.path()).context("not UTF-8")?;
    let mut daemon = Daemon::start(Setup::new(path, &key, &["a"]))?;
    daemon.import(&guest, "debian", "")?;
    // A captured revision is what is loaded every day: it makes itself an identity when it boots.
    let _: JobView = daemon.json(&["load", "a", "debian@1"])?;
    let _: JobView = daemon.json(&["capture", "a"])?;
    let script = script(path)?;
    let (mut start, mut ours, mut peer) = (vec![], vec![], vec![]);
    for n in 1..=RUNS {
        eprintln!("run {n} of {RUNS}");
        let job: JobView = daemon.json(&["load", "a", "debian@2"])?;
        start.push(between(job.started, step(&job, "load/start")?.ended)?);
        ours.push(between(step(&job, "load/wait for ssh")?.ended, job.ended)?);
        let endpoint = daemon.endpoint("a")?;
        let _: vcl_types::api::ComputerView = daemon.json(&["computer", "power", "a", "reset"])?;
        peer.push(by_hand(&endpoint, &key, &script)?);
        let _: JobView = daemon.json(&["unload", "a"])?;
    }
    let _: JobView = daemon.json(&["image", "delete", "debian@2", "--yes"])?;
    daemon.stop()?;
    Line::alone("load", "claim_to_start", "s", quantile(&mut start, 0.5), RUNS).print();
    Line::pair("load", "post_load", "the same script over one OpenSSH connection", &mut ours, &mut peer)
        .print();
    Ok(())
}

fn script(directory: &Utf8Path) -> Result<Utf8PathBuf> {
    let path = directory.join("post-load.sh");
    std::fs::write(&path, vcl_os::linux::set_up_script("a"))?;
    Ok(path)
}

fn banner(endpoint: &Endpoint) -> bool {
    let Ok(mut stream) = TcpStream::connect((endpoint.address, endpoint.port)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let mut first = [0; 4];
    stream.read_exact(&mut first).is_ok() && &first == b"SSH-"
}

/// Waits for the banner of the booting guest and runs the script as a person would.
fn by_hand(endpoint: &Endpoint, key: &Utf8Path, script: &Utf8Path) -> Result<f64> {
    let deadline = Instant::now() + Duration::from_secs(120);
    while banner(endpoint) {
        ensure!(Instant::now() < deadline, "the guest does not go down");
    }
    while !banner(endpoint) {
        ensure!(Instant::now() < deadline, "the guest does not come up");
        std::thread::sleep(Duration::from_millis(100)); // why: as vcld waits for it, too
    }
    let begun = Instant::now();
    let mut ssh = Command::new("ssh")
        .args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
        ])
        .args([
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "LogLevel=ERROR",
            "-i",
            key.as_str(),
            "-p",
            &endpoint.port.to_string(),
        ])
        .arg(format!("{}@{}", endpoint.user, endpoint.address))
        .arg("sh -s")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    ssh.stdin.take().context("no standard input")?.write_all(&std::fs::read(script)?)?;
    ensure!(ssh.wait()?.success(), "the script failed by hand");
    Ok(begun.elapsed().as_secs_f64())
}
