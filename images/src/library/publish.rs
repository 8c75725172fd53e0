//! How a revision comes and goes: each time by one rename.

use super::{Library, scan::present};
use crate::blocking::blocking;
use crate::names::{MANIFEST, entries, file_name, nonce};
use crate::{Error, ErrorKind, Result, Store, manifest, names};
use std::fs::{DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::PathBuf;
use vcl_job::Cx;
use vcl_types::{ImageRef, JobId, Manifest, Revision};

/// What the rename needs, on a blocking thread.
struct Publishing {
    store: std::sync::Arc<dyn Store>,
    library: PathBuf,
    from: PathBuf,
    to: PathBuf,
    manifest: Manifest,
}

impl Library {
    /// Publishes a staging directory as the revision that the manifest says: the manifest is written, everything is
    /// flushed and made read-only, then one rename gives it its name. The lease is checked right before that rename. It
    /// may be called again: a revision that is there with exactly this manifest is ours.
    ///
    /// # Errors
    /// [`Exists`](ErrorKind::Exists) when another revision has the name; [`Refused`](ErrorKind::Refused) when the manifest
    /// cannot be right; [`Corrupt`](ErrorKind::Corrupt) when a file it names is missing or has another length;
    /// [`NotFound`](ErrorKind::NotFound) without the staging directory; or lease lost.
    pub async fn publish(&self, cx: &Cx, name: &str, manifest: &Manifest) -> Result<Revision> {
        let image = manifest.image_ref();
        let context = || format!("publishing {image}");
        manifest::check(manifest).map_err(|e| e.within(context()))?;
        let work = std::sync::Arc::new(Publishing {
            store: self.store.clone(),
            library: self.root.to_path_buf(),
            from: self.staging_root().join(file_name(name)?),
            to: self.place(&image)?,
            manifest: manifest.clone(),
        });
        let revision = Revision { manifest: manifest.clone(), directory: names::text(&work.to)?.to_owned() };
        let before = work.clone();
        if blocking(move || before.is_ours()).await? {
            return Ok(revision);
        }
        let prepared = work.clone();
        blocking(move || prepared.prepare()).await.map_err(|e| e.within(context()))?;
        cx.check().await.map_err(|e| Error::job(context(), e))?;
        blocking(move || work.rename()).await.map_err(|e| e.within(context()))?;
        Ok(revision)
    }

    /// Takes back a publishing of that job's, for its undo; says whether there was something to take back.
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused) when the revision is another job's; [`Corrupt`](ErrorKind::Corrupt) when its
    /// manifest cannot be read, so that nobody knows whose it is.
    pub async fn unpublish(&self, image: &ImageRef, job: JobId) -> Result<bool> {
        let place = self.place(image)?;
        if !place.exists() {
            return Ok(false);
        }
        let manifest = manifest::read(&place)?;
        if manifest.job != Some(job) {
            return Err(Error::refused(format!("{image} was not published by job {job}; it stays")));
        }
        self.delete(image).await
    }

    /// Deletes a revision; says whether it was there. It is gone with one rename into the trash, and removed after that.
    /// Whether anything still needs it is the caller's to know.
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused) when no revision is named, [`Io`](ErrorKind::Io).
    pub async fn delete(&self, image: &ImageRef) -> Result<bool> {
        let (place, trash) = (self.place(image)?, self.trash_root());
        let (image, store) = (image.clone(), self.store.clone());
        blocking(move || {
            if !place.is_dir() {
                return Ok(false);
            }
            let gone = loop {
                let gone = trash.join(format!("{image}-{}", nonce()));
                match store.publish(&place, &gone) {
                    Ok(()) => break gone,
                    Err(e) if e.kind == ErrorKind::Exists => {}
                    // Somebody else was faster.
                    Err(e) if e.kind == ErrorKind::NotFound && !place.exists() => return Ok(false),
                    Err(e) => return Err(e.within(format!("deleting {image}"))),
                }
            };
            if let Some(parent) = place.parent() {
                // The image's last revision takes the directory along; any other keeps it.
                let _ = std::fs::remove_dir(parent);
            }
            store.remove(&gone)?;
            Ok(true)
        })
        .await
    }

    /// Removes what deletions that were cut short have left; says how many directories it were.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io).
    pub async fn empty_trash(&self) -> Result<u64> {
        let (trash, store) = (self.trash_root(), self.store.clone());
        blocking(move || {
            let mut removed = 0;
            for (_, path) in entries(&trash)? {
                removed += u64::from(store.remove(&path)?);
            }
            Ok(removed)
        })
        .await
    }
}

impl Publishing {
    /// Whether an earlier run has published it already. If so its names are flushed: that run may have died before.
    fn is_ours(&self) -> Result<bool> {
        if self.to.symlink_metadata().is_err() {
            return Ok(false);
        }
        let image = self.manifest.image_ref();
        match manifest::read(&self.to) {
            Ok(there) if there == self.manifest => {
                self.flush_parents()?;
                Ok(true)
            }
            _ => Err(Error::new(
                ErrorKind::Exists,
                format!("{image} is there already, and not from this work"),
            )),
        }
    }

    /// Everything before the rename: nothing of it is seen, and all of it may be done again.
    fn prepare(&self) -> Result<()> {
        if !self.from.is_dir() {
            let from = self.from.display();
            return Err(Error::new(ErrorKind::NotFound, format!("there is no staging directory {from}")));
        }
        present(&self.from, &self.manifest)?;
        let stray = entries(&self.from)?.into_iter().find(|(name, _)| name != MANIFEST);
        if let Some((_, stray)) = stray.filter(|_| self.manifest.disks.is_empty()) {
            let context = format!("a revision without disks has no files, and {} is there", stray.display());
            return Err(Error::refused(context));
        }
        manifest::write(&self.from, &self.manifest)?;
        for (_, path) in entries(&self.from)? {
            let failed = |e| Error::io(format!("flushing {}", path.display()), e);
            if !path.symlink_metadata().map_err(failed)?.is_file() {
                return Err(Error::refused(format!("{} is not a regular file", path.display())));
            }
            let file = File::open(&path).map_err(failed)?;
            file.set_permissions(Permissions::from_mode(0o444)).map_err(failed)?;
            file.sync_all().map_err(failed)?;
        }
        let failed = |e| Error::io(format!("opening {} to others", self.from.display()), e);
        std::fs::set_permissions(&self.from, Permissions::from_mode(0o755)).map_err(failed)?;
        self.store.flush_names(&self.from)
    }

    fn rename(&self) -> Result<()> {
        // The image's directory goes with its last revision, perhaps right now: a few tries find it.
        for _ in 0..8 {
            self.make_image_directory()?;
            match self.store.publish(&self.from, &self.to) {
                Err(e) if e.kind == ErrorKind::NotFound && self.from.is_dir() => {}
                done => return done.and_then(|()| self.flush_parents()),
            }
        }
        Err(Error::new(ErrorKind::InUse, format!("the directory of {} comes and goes", self.manifest.image)))
    }

    fn make_image_directory(&self) -> Result<()> {
        let Some(parent) = self.to.parent() else { return Ok(()) };
        match DirBuilder::new().mode(0o755).create(parent) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(Error::io(format!("making {}", parent.display()), e))
            }
            _ => Ok(()),
        }
    }

    fn flush_parents(&self) -> Result<()> {
        for directory in [self.to.parent(), Some(self.library.as_path())].into_iter().flatten() {
            self.store.flush_names(directory)?;
        }
        Ok(())
    }
}
