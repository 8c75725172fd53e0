//! Manifests of revisions that tests publish by themselves: what a test does not care for is filled in.

use anyhow::Result;
use vcl_types::{DiskRecord, Hardware, Manifest, OsName};

/// That of a revision of a Linux image with these disks: as it was imported, without a parent, for ordinary hardware.
///
/// # Errors
/// No image can be called so.
pub fn linux(image: &str, revision: u32, disks: Vec<DiskRecord>) -> Result<Manifest> {
    Ok(Manifest {
        version: Manifest::version_for(&disks),
        image: image.parse()?,
        revision,
        parent: None,
        os: OsName::Linux,
        generalised: false,
        hardware: Hardware::default(),
        disks,
        firmware: None,
        boot: None,
        boot_files: Vec::new(),
        backend: None,
        job: None,
        created: chrono::Utc::now(),
        note: None,
    })
}
