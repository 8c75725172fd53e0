//! A capture that stores what changed, from guest-off to published, against the commands by hand, which know of no
//! parent: a disk of 10 GiB with 1.5 GiB of data, of which 50 MiB are changed in 25 places.

use super::{cx, manifest, run_command, text};
use crate::bench::Line;
use anyhow::{Context, Result};
use std::path::Path;
use std::time::Instant;
use vcl_images::qemu_img::{ConvertFrom, ConvertOptions, convert, convert_over, create_overlay};
use vcl_images::{Format, Library, Progress, StagedDisk, seal};
use vcl_types::{ImageRef, Manifest};

const RUNS: usize = 5;
const DATA_MIB: usize = 1536;
const CHANGES: u64 = 25;
const CHANGE_MIB: u64 = 2;

/// Runs the case.
///
/// # Errors
///
/// When a tool fails.
pub fn run() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    std::fs::create_dir_all(&target)?;
    let directory = tempfile::Builder::new().prefix("bench-delta-").tempdir_in(target.canonicalize()?)?;
    let library_path = directory.path().join("library");
    std::fs::create_dir_all(&library_path)?;
    let library = Library::open(&library_path)?;
    let (base, overlay) = runtime.block_on(world(&library, directory.path()))?;
    let by_hand = directory.path().join("by-hand.qcow2");
    let (mut delta, mut peer) = (vec![], vec![]);
    let mut stored = 0;
    for n in 0..=RUNS {
        eprintln!("run {n} of {RUNS}");
        let begun = Instant::now();
        let made = runtime.block_on(ours(&library, &base, &overlay, u32::try_from(n)? + 2))?;
        let our_time = begun.elapsed();
        stored = made.disks[0].file_size.bytes();
        runtime.block_on(library.delete(&made.image_ref()))?;
        run_command("sync", &[])?;

        let begun = Instant::now();
        run_command(
            "qemu-img",
            &["convert", "-f", "qcow2", "-O", "qcow2", text(&overlay)?, text(&by_hand)?],
        )?;
        run_command("sync", &[])?;
        run_command("qemu-img", &["check", "-q", "-f", "qcow2", text(&by_hand)?])?;
        run_command("openssl", &["dgst", "-sha256", text(&by_hand)?])?;
        let their_time = begun.elapsed();
        std::fs::remove_file(&by_hand)?;
        run_command("sync", &[])?;
        // The first of each warms the caches.
        if n > 0 {
            delta.push(our_time.as_secs_f64());
            peer.push(their_time.as_secs_f64());
        }
    }
    eprintln!("a delta takes {stored} bytes");
    let chain = "qemu-img convert && sync && qemu-img check && openssl dgst -sha256";
    Line::pair("capture", "delta", chain, &mut delta, &mut peer).print();
    Ok(())
}

/// The revision that a computer was loaded from, and the computer's overlay with what it changed.
async fn world(library: &Library, directory: &Path) -> Result<(ImageRef, std::path::PathBuf)> {
    let raw = directory.join("data.raw");
    let count = format!("count={DATA_MIB}");
    run_command(
        "dd",
        &["if=/dev/urandom", &format!("of={}", raw.display()), "bs=1M", &count, "status=none"],
    )?;
    run_command("truncate", &["-s", "10G", text(&raw)?])?;
    let staging = library.staging("base")?;
    let from = ConvertFrom { path: &raw, format: Format::Raw };
    let (none, usual) = (Progress::none(), ConvertOptions::default());
    convert(&cx(), from, &staging.disk(0), Format::Qcow2, &none, &usual).await?;
    let disks = seal(&cx(), &staging, &[StagedDisk::qcow2(0)]).await?;
    let base = manifest(1, disks)?;
    let revision = library.publish(&cx(), "base", &base).await?;
    let overlay = directory.join("overlay.qcow2");
    let backing = revision.path("disk0.qcow2");
    create_overlay(&cx(), &overlay, backing.as_ref(), Format::Qcow2, None).await?;
    // Bytes that do not compress, spread over the data and what was free.
    let commands: Vec<String> =
        (0..CHANGES).map(|n| format!("write -s {} {}M {CHANGE_MIB}M", raw.display(), 40 + n * 90)).collect();
    let mut arguments = vec!["-f", "qcow2"];
    arguments.extend(commands.iter().flat_map(|command| ["-c", command.as_str()]));
    arguments.push(text(&overlay)?);
    run_command("qemu-io", &arguments)?;
    std::fs::remove_file(&raw)?;
    run_command("sync", &[])?;
    Ok((base.image_ref(), overlay))
}

/// What a capture does once the guest is off.
async fn ours(library: &Library, base: &ImageRef, overlay: &Path, revision: u32) -> Result<Manifest> {
    let cx = cx();
    let name = format!("bench-{revision}");
    let staging = library.staging(&name)?.over(library.base(base)?);
    let (reference, _) = staging.base().and_then(|b| b.disk(0)).context("the base has no disk")?;
    convert_over(&cx, overlay, &staging.disk(0), &reference, &Progress::none()).await?;
    let disks = seal(&cx, &staging, &[StagedDisk::qcow2(0)]).await?;
    let version = Manifest::version_for(&disks);
    let made = Manifest { version, parent: Some(base.clone()), ..manifest(revision, disks)? };
    library.publish(&cx, &name, &made).await?;
    Ok(made)
}
