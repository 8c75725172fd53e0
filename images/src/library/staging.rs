//! Staging directories: where a revision grows before it has a name.

use super::Library;
use crate::blocking::blocking;
use crate::names::{file_name, job_of};
use crate::{Base, Error, Result, manifest};
use std::fs::{DirBuilder, Metadata};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use vcl_types::{ImageRef, JobId};

/// A directory that a job fills. It is on the library's own file system, so that one rename publishes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staging {
    name: String,
    directory: PathBuf,
    base: Option<Arc<Base>>,
}

impl Staging {
    /// The same, lent with a revision that disks may be stored over.
    #[must_use]
    pub fn over(mut self, base: Base) -> Self {
        self.base = Some(Arc::new(base));
        self
    }
    /// The revision that disks may be stored over, if there is one: whoever fills the staging may then copy only what
    /// differs (see [`qemu_img::convert_over`](crate::qemu_img::convert_over)), or everything all the same.
    #[must_use]
    pub fn base(&self) -> Option<&Base> {
        self.base.as_deref()
    }
    /// Its name in the library.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Its directory, absolute.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
    /// The absolute path of a file of it.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) when the name is not one of a file right in it.
    pub fn path(&self, file: &str) -> Result<PathBuf> {
        Ok(self.directory.join(file_name(file)?))
    }
    /// The name of the `n`th disk, counted from 0.
    #[must_use]
    pub fn disk_name(n: usize) -> String {
        format!("disk{n}.qcow2")
    }
    /// The absolute path of the `n`th disk, counted from 0.
    #[must_use]
    pub fn disk(&self, n: usize) -> PathBuf {
        self.directory.join(Self::disk_name(n))
    }
}

/// A staging directory that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Its name.
    pub name: String,
    /// Its directory, absolute.
    pub path: PathBuf,
    /// The job that its name tells of, see [`staging_name`](crate::staging_name).
    pub job: Option<JobId>,
    /// The revision whose manifest lies in it: one that was about to be published, or, where the library holds it too,
    /// the half of an exchange (a revision that was being rewritten whole).
    pub holds: Option<ImageRef>,
    /// When something in it was last made or removed.
    pub modified: SystemTime,
    /// Whether a revision is being fetched into it now.
    pub in_use: bool,
}

impl Library {
    /// The staging directory of that name, made if it is not there. The name is the caller's, and in its journal before
    /// this is called; see [`staging_name`](crate::staging_name).
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) when the name is none, [`NoSpace`](crate::ErrorKind::NoSpace).
    pub fn staging(&self, name: &str) -> Result<Staging> {
        let directory = self.staging_root().join(file_name(name)?);
        let made = DirBuilder::new().mode(0o700).create(&directory);
        match made {
            Ok(()) => self.store.flush_names(&self.staging_root())?,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => real_directory(&directory)?,
            Err(e) => return Err(Error::io(format!("making {}", directory.display()), e)),
        }
        Ok(Staging { name: name.to_owned(), directory, base: None })
    }

    /// The staging directory of that name as it was made, or is no more: a job that goes on after it has published has
    /// none. Nothing is made.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) when the name is none.
    pub fn staging_made(&self, name: &str) -> Result<Staging> {
        Ok(Staging {
            name: name.to_owned(),
            directory: self.staging_root().join(file_name(name)?),
            base: None,
        })
    }

    /// Removes a staging directory with all in it; says whether it was there. It may be called again, and for one that was
    /// never made.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) when the name is none, [`Io`](crate::ErrorKind::Io).
    pub async fn discard_staging(&self, name: &str) -> Result<bool> {
        let (directory, store) = (self.staging_root().join(file_name(name)?), self.store.clone());
        blocking(move || store.remove(&directory)).await
    }

    /// All staging directories, for whoever looks for those that no job has any more.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io).
    pub fn leftovers(&self) -> Result<Vec<Leftover>> {
        let root = self.staging_root();
        let failed = |e| Error::io(format!("reading {}", root.display()), e);
        let mut found = Vec::new();
        for entry in root.read_dir().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // One that goes away meanwhile is not left over.
            let Ok(modified) = entry.metadata().and_then(|m| m.modified()) else { continue };
            let holds = manifest::read(&entry.path()).ok().map(|m| m.image_ref());
            let in_use = name.starts_with(crate::fetch::PREFIX) && locked(&entry.path());
            found.push(Leftover { job: job_of(&name), path: entry.path(), name, holds, modified, in_use });
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }
}

/// Whether a process has a directory locked for itself.
fn locked(directory: &Path) -> bool {
    use rustix::fs::FlockOperation::NonBlockingLockShared;
    let directory = std::fs::File::open(directory);
    // Closing it lets go.
    directory
        .is_ok_and(|d| rustix::fs::flock(&d, NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK))
}

/// Makes a directory that only we enter, on the file system of `root`, and tries whether it can be written to.
pub(super) fn make_private(path: &Path, root: &Metadata) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::io(format!("making {}", path.display()), e));
        }
        _ => real_directory(path)?,
    }
    let failed = |e| Error::io(format!("writing to {}", path.display()), e);
    if path.metadata().map_err(failed)?.dev() != root.dev() {
        return Err(Error::refused(format!(
            "{} is on another file system than the library; one rename must publish what is in it",
            path.display()
        )));
    }
    // Permission bits do not tell of a read-only mount.
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
        .map_err(|e| failed(e.into()))
}

/// Refuses a link or a file in a directory's place.
fn real_directory(path: &Path) -> Result<()> {
    let meta = path.symlink_metadata().map_err(|e| Error::io(format!("reading {}", path.display()), e))?;
    if meta.is_dir() {
        return Ok(());
    }
    Err(Error::refused(format!("{} is there and not a directory", path.display())))
}
