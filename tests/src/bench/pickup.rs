//! From a submit to the job's first step, over the API of a real daemon with its database on disk.
//!
//! The clock starts before the request is sent and stops at the time that the journal gives the first step's record.
//! The jobs read a tiny revision again, one after the other, so that none waits for another.

use super::{Line, quantile};
use crate::daemon::{Daemon, Setup};
use anyhow::{Context, Result, ensure};
use camino::Utf8Path;
use std::process::Command;
use vcl_types::JobRequest;
use vclctl::Client;

const SUBMITS: usize = 200;

/// Runs the bench.
///
/// # Errors
///
/// When the daemon fails.
pub fn run() -> Result<()> {
    // On a real disk, as a database is: /tmp may be memory. The configuration takes no `..`.
    let target = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../target").canonicalize_utf8()?;
    let directory = tempfile::Builder::new().prefix("bench-pickup-").tempdir_in(target)?;
    let path = Utf8Path::from_path(directory.path()).context("not UTF-8")?;
    let key = path.join("id");
    let made =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", key.as_str()]).status()?;
    ensure!(made.success(), "ssh-keygen failed");
    let mut setup = Setup::new(path, &key, &[]);
    setup.uri = "test:///default".into();
    let mut daemon = Daemon::start(setup)?;
    let disk = path.join("tiny.raw");
    std::fs::write(&disk, vec![7u8; 1024 * 1024])?;
    let _: vcl_types::api::JobView = daemon.json(&["image", "import", "tiny", disk.as_str()])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut waits = runtime.block_on(submits(&path.join("vcld.sock")))?;
    daemon.stop()?;
    Line::alone("pickup", "p50", "ms", quantile(&mut waits, 0.5), SUBMITS).print();
    Line::alone("pickup", "p99", "ms", quantile(&mut waits, 0.99), SUBMITS).print();
    Ok(())
}

async fn submits(socket: &Utf8Path) -> Result<Vec<f64>> {
    let client = Client::new(socket.as_std_path())?;
    let request = JobRequest::Verify { image: "tiny".parse()? };
    let mut waits = Vec::new();
    for _ in 0..SUBMITS {
        let before = chrono::Utc::now();
        let submitted = client.submit(&request).await?;
        let job = loop {
            let job = client.job(submitted.job).await?;
            if job.state.is_final() {
                break job;
            }
            tokio::task::yield_now().await;
        };
        let first = job.steps.first().and_then(|s| s.started).context("the job has no step")?;
        waits.push((first - before).num_microseconds().context("a long wait")? as f64 / 1000.0);
    }
    Ok(waits)
}
