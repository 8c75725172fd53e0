//! A fast guest's disk with less room on it, for machines whose whole disk is read, sent and copied.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};

use super::{Guest, Kind};

/// What the small disk has, in MiB: a guest's own has room that an emulated machine would take minutes to look through.
pub const SMALL: u64 = 256;

impl Guest {
    /// Makes a qcow2 in `directory` with what is on the disk of a fast guest and [`SMALL`] MiB of room.
    ///
    /// # Errors
    ///
    /// When the guest is of another kind, or a tool fails.
    pub fn small_disk(&self, directory: &Utf8Path) -> Result<Utf8PathBuf> {
        ensure!(self.kind() == Kind::Fast, "the disk of a {} guest has partitions", self.kind().name());
        let (raw, disk) = (directory.join("small.raw"), directory.join("small.qcow2"));
        let line = "qemu-img convert -O raw \"$1\" \"$2\" && e2fsck -fp \"$2\" && resize2fs \"$2\" \"$4M\" && \
                    truncate -s \"$4M\" \"$2\" && qemu-img convert -O qcow2 \"$2\" \"$3\" && rm \"$2\"";
        let theirs = self.disk();
        let words = [theirs.as_str(), raw.as_str(), disk.as_str(), &SMALL.to_string()];
        let made = Command::new("sh")
            .args(["-c", line, "small"])
            .args(words)
            .output()
            .context("failed to run sh")?;
        ensure!(
            made.status.success(),
            "the guest's disk was not made small: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        Ok(disk)
    }
}
