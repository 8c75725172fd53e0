//! What is done to a library's files, in one place, so that something that clones and snapshots by itself (reflinks,
//! ZFS, thin volumes) can stand behind it.

use crate::{Error, ErrorKind, Progress, Result};
use rustix::fs::{CWD, RenameFlags, SeekFrom};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::Path;
use tokio_util::sync::CancellationToken;

/// Room on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What may still be written.
    pub free: u64,
    /// All of it.
    pub total: u64,
    /// How much of what is free is set apart for jobs that have not written it yet; see
    /// [`Library::reserve`](crate::Library::reserve). A store by itself knows of none.
    pub reserved: u64,
}

/// A place that holds files of images. All calls block.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Makes `to`, which must not exist, the same as the file `from`, as cheaply as it can: shared blocks where the
    /// file system has them, otherwise a sparse copy. Progress counts bytes. `to` is not flushed.
    ///
    /// # Errors
    /// [`Exists`](ErrorKind::Exists), [`NoSpace`](ErrorKind::NoSpace), or told to stop.
    fn clone_file(&self, from: &Path, to: &Path, stop: &CancellationToken, progress: &Progress)
    -> Result<()>;
    /// Gives the directory `from` the name `to`, which must not exist. It is there whole or not at all; when this
    /// returns, the new name survives a power cut.
    ///
    /// # Errors
    /// [`Exists`](ErrorKind::Exists), [`NotFound`](ErrorKind::NotFound).
    fn publish(&self, from: &Path, to: &Path) -> Result<()>;
    /// Lets two directories change names with each other, at once: at no time is there neither or one twice. When this
    /// returns, it survives a power cut.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound); [`Refused`](ErrorKind::Refused) where the file system cannot.
    fn exchange(&self, one: &Path, other: &Path) -> Result<()> {
        match rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                let one = one.display();
                return Err(Error::refused(format!(
                    "the file system of {one} cannot exchange two directories; keep the library on ext4, xfs, btrfs or zfs"
                )));
            }
            done => done.map_err(|e| {
                Error::io(format!("exchanging {} and {}", one.display(), other.display()), e.into())
            })?,
        }
        for directory in [one.parent(), other.parent()].into_iter().flatten() {
            self.flush_names(directory)?;
        }
        Ok(())
    }
    /// Makes the names in a directory survive a power cut.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io).
    fn flush_names(&self, directory: &Path) -> Result<()>;
    /// What a file or a directory with all in it takes, in bytes.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io).
    fn size(&self, path: &Path) -> Result<u64>;
    /// The room where `path` is.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io).
    fn space(&self, path: &Path) -> Result<Space>;
    /// Removes a file, or a directory with all in it; says whether it was there.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io).
    fn remove(&self, path: &Path) -> Result<bool>;
}

/// An ordinary directory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Directory;

impl Store for Directory {
    fn clone_file(
        &self,
        from: &Path,
        to: &Path,
        stop: &CancellationToken,
        progress: &Progress,
    ) -> Result<()> {
        let failed = |e: io::Error| Error::io(format!("copying {} to {}", from.display(), to.display()), e);
        let source = File::open(from).map_err(failed)?;
        let target = File::create_new(to).map_err(failed)?;
        let length = source.metadata().map_err(failed)?.len();
        if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
            progress.report(length, length);
            return Ok(());
        }
        target.set_len(length).map_err(failed)?;
        let mut at = 0;
        while at < length {
            let data = match rustix::fs::seek(&source, SeekFrom::Data(at)) {
                Ok(data) => data,
                // Nothing but a hole from here on.
                Err(Errno::NXIO) => break,
                Err(e) => return Err(failed(e.into())),
            };
            let hole = rustix::fs::seek(&source, SeekFrom::Hole(data)).map_err(|e| failed(e.into()))?;
            at = data;
            while at < hole {
                if stop.is_cancelled() {
                    return Err(Error::stopped(format!("copying {}", from.display())));
                }
                at += copy_piece(&source, &target, at, hole - at).map_err(failed)?;
                progress.report(at, length);
            }
        }
        progress.report(length, length);
        Ok(())
    }

    fn publish(&self, from: &Path, to: &Path) -> Result<()> {
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // A file system that does not know the flag, such as NFS. A plain rename of a directory refuses a target
            // that is not an empty directory, and a revision never is one.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if from.is_dir() => {
                rustix::fs::rename(from, to)
            }
            result => result,
        }
        .map_err(|e| Error::io(format!("giving {} the name {}", from.display(), to.display()), e.into()))?;
        for directory in [to.parent(), from.parent()].into_iter().flatten() {
            self.flush_names(directory)?;
        }
        Ok(())
    }

    fn flush_names(&self, directory: &Path) -> Result<()> {
        File::open(directory)
            .and_then(|d| d.sync_all())
            .map_err(|e| Error::io(format!("flushing {}", directory.display()), e))
    }

    fn size(&self, path: &Path) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        let failed = |e| Error::io(format!("measuring {}", path.display()), e);
        let meta = path.symlink_metadata().map_err(failed)?;
        let mut bytes = meta.blocks() * 512;
        if meta.is_dir() {
            for entry in path.read_dir().map_err(failed)? {
                match self.size(&entry.map_err(failed)?.path()) {
                    Ok(size) => bytes += size,
                    // It was removed meanwhile.
                    Err(e) if e.kind == ErrorKind::NotFound => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(bytes)
    }

    fn space(&self, path: &Path) -> Result<Space> {
        let stat = rustix::fs::statvfs(path)
            .map_err(|e| Error::io(format!("measuring the file system of {}", path.display()), e.into()))?;
        Ok(Space { free: stat.f_bavail * stat.f_frsize, total: stat.f_blocks * stat.f_frsize, reserved: 0 })
    }

    fn remove(&self, path: &Path) -> Result<bool> {
        let removed = match path.symlink_metadata() {
            Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
            Ok(_) => std::fs::remove_file(path),
            Err(e) => Err(e),
        };
        match removed {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::io(format!("removing {}", path.display()), e)),
        }
    }
}

/// Copies up to 16 MiB at the same place of both files and says how many bytes it were.
fn copy_piece(source: &File, target: &File, at: u64, length: u64) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let length = length.min(16 << 20) as usize;
    let (mut from, mut to) = (at, at);
    match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), length) {
        Ok(n) if n > 0 => return Ok(n as u64),
        Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        Err(e) => return Err(e.into()),
    }
    let mut piece = vec![0; length.min(1 << 20)];
    let n = source.read_at(&mut piece, at)?;
    if n == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    target.write_all_at(&piece[..n], at)?;
    Ok(n as u64)
}

/// Gives a file a name that must not exist, and makes it survive a power cut.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            // A hard link refuses a name that is taken, too.
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)?;
        }
        result => result?,
    }
    match to.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
