//! From guest-off to published, against the same commands by hand.
//!
//! The disk is an overlay with 1.25 GiB of data that does not compress. Ours is what a capture does once the guest is
//! off: convert into the staging, make durable, check, digest the file and the content, publish. The peer is
//! `qemu-img convert && sync && qemu-img check && openssl dgst -sha256`.

pub mod delta;

use super::Line;
use crate::manifest::linux;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use vcl_images::qemu_img::{ConvertFrom, ConvertOptions, convert};
use vcl_images::{Format, Library, Progress, StagedDisk, seal};
use vcl_job::{Cx, MemoryJournal};
use vcl_types::Manifest;

const RUNS: usize = 7;
const DATA_MIB: usize = 1280;

fn run_command(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("not UTF-8")
}

/// An overlay over a base, both with data.
fn disk(directory: &Path) -> Result<std::path::PathBuf> {
    let raw = directory.join("data.raw");
    let (base, overlay) = (directory.join("base.qcow2"), directory.join("overlay.qcow2"));
    run_command(
        "dd",
        &[
            "if=/dev/urandom",
            &format!("of={}", raw.display()),
            "bs=1M",
            &format!("count={DATA_MIB}"),
            "status=none",
        ],
    )?;
    run_command("truncate", &["-s", "4G", text(&raw)?])?;
    run_command("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", text(&raw)?, text(&base)?])?;
    std::fs::remove_file(&raw)?;
    run_command(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", text(&base)?, text(&overlay)?],
    )?;
    run_command("qemu-io", &["-c", "write -P 7 1G 64M", "-c", "write -P 9 2G 64M", text(&overlay)?])?;
    run_command("sync", &[])?;
    Ok(overlay)
}

fn cx() -> Cx {
    Cx::detached(Arc::new(MemoryJournal::default()), CancellationToken::new(), Duration::from_secs(3600))
}

/// Runs the bench.
///
/// # Errors
///
/// When a tool fails.
pub fn run() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    std::fs::create_dir_all(&target)?;
    // On a real disk, as a library is: /tmp may be memory.
    let directory = tempfile::Builder::new().prefix("bench-capture-").tempdir_in(target)?;
    let overlay = disk(directory.path())?;
    let library_path = directory.path().join("library");
    std::fs::create_dir_all(&library_path)?;
    let library = Library::open(&library_path)?;
    let by_hand = directory.path().join("by-hand.qcow2");
    let (mut verified, mut peer_verified, mut bare, mut peer_bare) = (vec![], vec![], vec![], vec![]);
    for n in 0..=RUNS {
        eprintln!("run {n} of {RUNS}");
        let begun = Instant::now();
        let name = format!("bench-{n}");
        let (converted, image) = runtime.block_on(ours(&library, &overlay, &name, u32::try_from(n)? + 1))?;
        let (our_time, our_convert) = (begun.elapsed(), converted);
        runtime.block_on(library.delete(&image))?;
        run_command("sync", &[])?;

        let begun = Instant::now();
        run_command(
            "qemu-img",
            &["convert", "-f", "qcow2", "-O", "qcow2", text(&overlay)?, text(&by_hand)?],
        )?;
        let their_convert = begun.elapsed();
        run_command("sync", &[])?;
        run_command("qemu-img", &["check", "-q", "-f", "qcow2", text(&by_hand)?])?;
        run_command("openssl", &["dgst", "-sha256", text(&by_hand)?])?;
        let their_time = begun.elapsed();
        std::fs::remove_file(&by_hand)?;
        run_command("sync", &[])?;
        // The first of each warms the caches.
        if n > 0 {
            verified.push(our_time.as_secs_f64());
            peer_verified.push(their_time.as_secs_f64());
            bare.push(our_convert.as_secs_f64());
            peer_bare.push(their_convert.as_secs_f64());
        }
    }
    let chain = "qemu-img convert && sync && qemu-img check && openssl dgst -sha256";
    Line::pair("capture", "verified", chain, &mut verified, &mut peer_verified).print();
    Line::pair("capture", "convert", "qemu-img convert", &mut bare, &mut peer_bare).print();
    Ok(())
}

async fn ours(
    library: &Library,
    overlay: &Path,
    name: &str,
    revision: u32,
) -> Result<(Duration, vcl_types::ImageRef)> {
    let cx = cx();
    let staging = library.staging(name)?;
    let begun = Instant::now();
    let from = ConvertFrom { path: overlay, format: Format::Qcow2 };
    let options = ConvertOptions::default();
    convert(&cx, from, &staging.disk(0), Format::Qcow2, &Progress::none(), &options).await?;
    let converted = begun.elapsed();
    let disks = seal(&cx, &staging, &[StagedDisk::qcow2(0)]).await?;
    let manifest = manifest(revision, disks)?;
    library.publish(&cx, name, &manifest).await?;
    Ok((converted, manifest.image_ref()))
}

fn manifest(revision: u32, disks: Vec<vcl_types::DiskRecord>) -> Result<Manifest> {
    let job = Some(vcl_types::JobId(1));
    Ok(Manifest { generalised: true, job, ..linux("bench", revision, disks)? })
}
