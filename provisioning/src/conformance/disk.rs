//! The revision that is loaded where no guest boots: one small disk with a pattern on it.

use super::Result;
use std::sync::Arc;
use std::time::Duration;
use vcl_images::{Format, Library, Progress, StagedDisk, Staging, digest, qemu_img, seal};
use vcl_job::{Cx, MemoryJournal};
use vcl_types::{ByteSize, Digest, DiskRecord, Hardware, Manifest, OsName, Revision};

/// What the guest would see, in bytes.
const SIZE: u64 = 16 << 20;
/// How much of it holds data.
const DATA: usize = 2 << 20;

/// A context outside of any job.
pub(super) fn cx() -> Cx {
    Cx::detached(Arc::new(MemoryJournal::default()), <_>::default(), Duration::from_secs(600))
}

/// Publishes the revision `kit-disk@1`; without `imaging`, a record that has no disk.
pub(super) async fn publish(library: &Library, imaging: bool) -> Result<Revision> {
    const NAME: &str = "kit-disk";
    let staging = library.staging(NAME)?;
    let cx = cx();
    let disks = if imaging { pattern(&cx, &staging).await? } else { Vec::new() };
    let manifest = Manifest {
        version: Manifest::version_for(&disks),
        image: NAME.parse()?,
        revision: 1,
        parent: None,
        os: OsName::Linux,
        generalised: true,
        hardware: Hardware { memory: ByteSize::mebibytes(64), ..Hardware::default() },
        disks,
        firmware: None,
        boot: None,
        boot_files: Vec::new(),
        backend: None,
        job: None,
        created: chrono::DateTime::UNIX_EPOCH,
        note: Some("the conformance kit's disk".into()),
    };
    Ok(library.publish(&cx, NAME, &manifest).await?)
}

/// A disk with a pattern on it, in a staging.
async fn pattern(cx: &Cx, staging: &Staging) -> Result<Vec<DiskRecord>> {
    let plain = staging.path("plain")?;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let noise: Vec<u8> = (0..DATA)
        .map(|_| {
            // xorshift: bytes that no compression takes away.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect();
    // The first sector stays empty: no firmware takes this for something to boot.
    let mut bytes = vec![0; 1 << 20];
    bytes.extend(noise);
    std::fs::write(&plain, bytes)?;
    std::fs::OpenOptions::new().write(true).open(&plain)?.set_len(SIZE)?;
    let from = qemu_img::ConvertFrom { path: &plain, format: Format::Raw };
    let options = qemu_img::ConvertOptions::default();
    qemu_img::convert(cx, from, &staging.disk(0), Format::Qcow2, &Progress::none(), &options).await?;
    std::fs::remove_file(&plain)?;
    Ok(seal(cx, staging, &[StagedDisk::qcow2(0)]).await?)
}

/// The content digest of a disk.
pub(super) async fn content(path: &std::path::Path, format: Format) -> Result<Digest> {
    let scratch = path.parent().unwrap_or(path);
    Ok(digest::content(&cx(), path, format, scratch, &Progress::none()).await?.digest())
}
