//! Rewriting a revision's disks whole, so that they lie on no other revision's.
//!
//! ```text
//!  .staging/job12-token3/   whole disks, sealed: what a guest sees is what it was, byte for byte
//!          │ swap: the other files linked in, the new manifest written, all flushed; one exchange of two directories
//!          ▼
//!  debian/9/                whole            .staging/job12-token3/   the delta it was
//!                                                    │ retire: one rename
//!                                                    ▼
//!                                            .trash/debian@9.exchanged.…
//! ```
//!
//! The exchange is atomic, and nobody needs to know of it: overlays and children name the revision by its path, and find
//! the same bytes under it. A qemu that runs has the old file open and goes on reading it; that file stays in the trash
//! until no computer is loaded from the revision or from one that lies on it.
//!
//! Which side of the exchange a job is on after a crash, the manifest under the revision's name tells: it is either the
//! old one or exactly the new one.

use crate::blocking::blocking;
use crate::names::{MANIFEST, chunks_name, entries, file_name};
use crate::qemu_img::{ConvertFrom, ConvertOptions, Format, convert};
use crate::{Error, ErrorKind, Library, Progress, Result, Staging, manifest};
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use vcl_job::Cx;
use vcl_types::{DiskRecord, Manifest, Revision};

/// Copies the `n`th disk of a revision, counted from 0, with all that it lies on, into a staging. It may run again.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound) without such a disk, [`NoSpace`](ErrorKind::NoSpace),
/// [`Corrupt`](ErrorKind::Corrupt), or told to stop.
pub async fn copy_whole(
    cx: &Cx,
    revision: &Revision,
    n: usize,
    staging: &Staging,
    progress: &Progress,
) -> Result<()> {
    let Some(disk) = revision.manifest.disks.get(n) else {
        let image = revision.manifest.image_ref();
        return Err(Error::new(ErrorKind::NotFound, format!("{image} has no disk {n}")));
    };
    let (from, to) = (PathBuf::from(revision.path(&disk.file)), staging.path(&disk.file)?);
    let ours = cx.check().await;
    ours.map_err(|e| Error::job(format!("removing {}", to.display()), e))?;
    match std::fs::remove_file(&to) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io(format!("removing {}", to.display()), e));
        }
        _ => {}
    }
    let from = ConvertFrom { path: &from, format: disk.format.parse()? };
    convert(cx, from, &to, Format::Qcow2, progress, &ConvertOptions::default()).await
}

/// The manifest of a revision with other files of the same disks.
///
/// # Errors
/// [`Corrupt`](ErrorKind::Corrupt) when a guest would see something else.
pub fn with_disks(old: &Manifest, disks: Vec<DiskRecord>) -> Result<Manifest> {
    let shows = |disks: &[DiskRecord]| {
        disks.iter().map(|d| (d.virtual_size, d.content_digest.clone())).collect::<Vec<_>>()
    };
    if shows(&old.disks) != shows(&disks) {
        let image = old.image_ref();
        return Err(Error::corrupt(format!(
            "{image} does not show a guest what it did when it was published; see vclctl image verify {image}"
        )));
    }
    Ok(Manifest { version: Manifest::version_for(&disks), disks, ..old.clone() })
}

impl Library {
    /// Puts a staging that holds a revision's disks in the revision's place; the staging holds the old files then. What
    /// the manifest names beside the disks is taken along. It may run again: a revision that has exactly this manifest
    /// was exchanged before.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) without the revision or the staging; [`Refused`](ErrorKind::Refused) on a file
    /// system that cannot exchange directories; or lease lost.
    pub async fn swap(&self, cx: &Cx, staging: &str, new: &Manifest) -> Result<()> {
        let image = new.image_ref();
        let context = || format!("putting the whole {image} in the place of the delta");
        manifest::check(new).map_err(|e| e.within(context()))?;
        let (place, staged) = (self.place(&image)?, self.staging_root().join(file_name(staging)?));
        if self.one(&image)?.manifest == *new {
            return self.flush_exchange(&place, &staged);
        }
        let (new, from, to) = (new.clone(), place.clone(), staged.clone());
        blocking(move || complete(&from, &to, &new)).await.map_err(|e| e.within(context()))?;
        cx.check().await.map_err(|e| Error::job(context(), e))?;
        self.exchange(&place, &staged).await.map_err(|e| e.within(context()))
    }

    /// Takes a [`swap`](Self::swap) back, for its undo: the revision is as it was, and the staging holds the new files.
    /// Says whether there was something to take back.
    ///
    /// # Errors
    /// As [`swap`](Self::swap).
    pub async fn swap_back(&self, staging: &str, new: &Manifest) -> Result<bool> {
        let image = new.image_ref();
        let (place, staged) = (self.place(&image)?, self.staging_root().join(file_name(staging)?));
        if !self.swapped(staging, new)? {
            return Ok(false);
        }
        self.exchange(&place, &staged).await?;
        Ok(true)
    }

    /// Whether the staging holds the other half of an exchange that gave the revision this manifest.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn swapped(&self, staging: &str, new: &Manifest) -> Result<bool> {
        let image = new.image_ref();
        let staged = self.staging_root().join(file_name(staging)?);
        let half = manifest::read(&staged).is_ok_and(|old| old.image_ref() == image && old != *new);
        Ok(half && self.one(&image)?.manifest == *new)
    }

    async fn exchange(&self, place: &Path, staged: &Path) -> Result<()> {
        let (store, place, staged) = (self.store().clone(), place.to_owned(), staged.to_owned());
        blocking(move || store.exchange(&place, &staged)).await
    }

    fn flush_exchange(&self, place: &Path, staged: &Path) -> Result<()> {
        for directory in [place.parent(), staged.parent()].into_iter().flatten() {
            self.store().flush_names(directory)?;
        }
        Ok(())
    }
}

/// Makes a staging with new disks a whole revision: the other files linked in, the manifest written, all flushed and
/// read-only.
fn complete(from: &Path, to: &Path, new: &Manifest) -> Result<()> {
    if !to.is_dir() {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("there is no staging directory {}", to.display()),
        ));
    }
    let disks: Vec<&str> = new.disks.iter().map(|d| d.file.as_str()).collect();
    let chunks: Vec<String> = disks.iter().map(|disk| chunks_name(disk)).collect();
    for (name, path) in entries(from)? {
        let ours = name == MANIFEST || disks.contains(&name.as_str()) || chunks.contains(&name);
        let target = to.join(&name);
        if ours {
            continue;
        }
        // An earlier life may have died in the middle of a copy.
        match std::fs::remove_file(&target) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(format!("removing {}", target.display()), e));
            }
            _ => {}
        }
        let linked = std::fs::hard_link(&path, &target).or_else(|_| std::fs::copy(&path, &target).map(drop));
        linked.map_err(|e| Error::io(format!("taking {} along", path.display()), e))?;
    }
    manifest::write(to, new)?;
    for (_, path) in entries(to)? {
        let failed = |e| Error::io(format!("flushing {}", path.display()), e);
        let file = File::open(&path).map_err(failed)?;
        file.set_permissions(Permissions::from_mode(0o444)).map_err(failed)?;
        file.sync_all().map_err(failed)?;
    }
    std::fs::set_permissions(to, Permissions::from_mode(0o755))
        .and_then(|()| File::open(to)?.sync_all())
        .map_err(|e| Error::io(format!("flushing {}", to.display()), e))
}
