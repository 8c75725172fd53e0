//! Sealing: what a capture, an import or a build left in a staging directory becomes durable, checked and digested.

use crate::blocking::blocking;
use crate::digest::{self, FileDigest, Plan};
use crate::library::Staging;
use crate::names::{chunks_name, file_name};
use crate::progress::Counter;
use crate::qemu_img::{self, Format};
use crate::{Error, Progress, Result};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tokio_util::sync::CancellationToken;
use vcl_job::Cx;
use vcl_types::{ByteSize, DirectBoot, DiskRecord, FileRecord, FirmwareRecord, Over};

/// A disk in a staging directory.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StagedDisk {
    /// Its file's name.
    pub file: String,
    /// Its format.
    pub format: Format,
}

impl StagedDisk {
    /// The `n`th disk, counted from 0, in the library's own format.
    #[must_use]
    pub fn qcow2(n: usize) -> Self {
        Self { file: Staging::disk_name(n), format: Format::Qcow2 }
    }
}

/// Flushes the disks, checks their tables, and makes both digests of each; the chunk digests are left beside them. All of
/// it goes on at once. Of a disk that was stored over the staging's [`base`](Staging::base), only the chunks that it has a
/// part of are read; the digests of the others are the base's. Progress is the step's, in bytes to be hashed. It changes no disk, so it may run again.
///
/// # Errors
/// [`Refused`](crate::ErrorKind::Refused) when a disk lies on another file or is encrypted,
/// [`Corrupt`](crate::ErrorKind::Corrupt) when its tables contradict each other, are cut off, or when it changes while
/// it is read; [`NotFound`](crate::ErrorKind::NotFound), [`NoSpace`](crate::ErrorKind::NoSpace), or told to stop.
pub async fn seal(cx: &Cx, staging: &Staging, disks: &[StagedDisk]) -> Result<Vec<DiskRecord>> {
    cx.check().await.map_err(|e| Error::job(format!("sealing {}", staging.name()), e))?;
    digest::remove_copies(staging.directory())?;
    let mut ready = Vec::new();
    for (n, disk) in disks.iter().enumerate() {
        ready.push(Ready::of(cx, staging, n, disk).await?);
    }
    let total = ready.iter().map(|r| r.before.length + r.plan.bytes()).sum();
    let counter = Counter::new(&Progress::of(cx), total);
    let mut records = Vec::new();
    for disk in ready {
        let path = disk.path.clone();
        let sealed = disk.seal(cx, staging, &counter).await;
        records.push(sealed.map_err(|e| e.within(format!("sealing {}", path.display())))?);
    }
    Ok(records)
}

/// Flushes a file of firmware variables and makes its digest.
///
/// # Errors
/// [`NotFound`](crate::ErrorKind::NotFound), [`Refused`](crate::ErrorKind::Refused) when it is not a regular file or too
/// large to be one (64 MiB), or told to stop.
pub async fn seal_firmware(cx: &Cx, staging: &Staging, file: &str, format: Format) -> Result<FirmwareRecord> {
    const LARGEST: u64 = 64 << 20;
    let path = staging.path(file)?;
    let before = Stamp::of(&path)?;
    if before.length > LARGEST {
        let (path, length) = (path.display(), before.length);
        return Err(Error::refused(format!("{path} has {length} bytes: no file of firmware variables")));
    }
    flush(path.clone()).await?;
    let digest = digest::file(cx, &path, &Progress::none()).await?;
    before.holds(&path)?;
    Ok(FirmwareRecord { file: file.to_owned(), file_digest: digest.digest, format: format.to_string() })
}

/// Flushes the files that a machine is started with and makes their digests.
///
/// # Errors
/// [`NotFound`](crate::ErrorKind::NotFound), [`Refused`](crate::ErrorKind::Refused) when one is not a regular file, or told
/// to stop.
pub async fn seal_boot(cx: &Cx, staging: &Staging, boot: &DirectBoot) -> Result<Vec<FileRecord>> {
    let mut records = Vec::new();
    for file in std::iter::once(&boot.kernel).chain(&boot.initrd) {
        let path = staging.path(file)?;
        let before = Stamp::of(&path)?;
        flush(path.clone()).await?;
        let digest = digest::file(cx, &path, &Progress::none()).await?;
        before.holds(&path)?;
        records.push(FileRecord { file: file.clone(), size: ByteSize(digest.size), digest: digest.digest });
    }
    Ok(records)
}

/// A disk that has been looked at.
struct Ready {
    name: String,
    path: PathBuf,
    format: Format,
    before: Stamp,
    plan: Plan,
    over: Option<Over>,
}

impl Ready {
    async fn of(cx: &Cx, staging: &Staging, n: usize, disk: &StagedDisk) -> Result<Self> {
        let name = file_name(&disk.file)?.to_owned();
        let path = staging.path(&name)?;
        let before = Stamp::of(&path)?;
        let info = qemu_img::info(cx, &path, disk.format).await?;
        let mut over = None;
        if let Some(backing) = &info.backing {
            // The base's disk of the same number, by exactly the name it has from here, and nothing else.
            over = staging.base().and_then(|base| base.over(n)).filter(|over| {
                backing.name == over.reference() && backing.format.as_deref() == Some(Format::Qcow2.as_str())
            });
        }
        if let Some(backing) = info.backing.as_ref().filter(|_| over.is_none()) {
            let name = &backing.name;
            return Err(Error::refused(format!(
                "{} still lies on {name}; copy the whole disk",
                path.display()
            )));
        }
        if let Some(other) = info.data_file.as_ref().or(info.extents.iter().find(|e| Path::new(e) != path)) {
            return Err(Error::refused(format!("{} keeps its data in {other}", path.display())));
        }
        let parent = staging.base().filter(|_| over.is_some()).and_then(|base| base.contents.get(n));
        let plan = digest::plan(cx, &path, disk.format, staging.directory(), parent).await?;
        Ok(Self { name, path, format: disk.format, before, plan, over })
    }

    async fn seal(self, cx: &Cx, staging: &Staging, counter: &Counter) -> Result<DiskRecord> {
        let virtual_size = self.plan.virtual_size();
        let (path, stop) = (self.path.as_path(), cx.token().child_token());
        let _guard = stop.clone().drop_guard();
        let both = Both { path, plan: self.plan, counter, stop: &stop };
        // The flush waits for the device and the check is short, so the processors are the digests'.
        let (flushed, checked, digests) = tokio::join!(
            ending(&stop, flush(path.to_owned())),
            check(cx, path, self.format, &stop),
            both.make()
        );
        // What failed told the rest to stop: the cause comes first.
        let (file, content) = match (flushed, checked, digests) {
            (Err(e), _, _) | (_, Err(e), _) | (_, _, Err(e)) => return Err(e),
            (Ok(()), Ok(()), Ok(digests)) => digests,
        };
        content.write(&staging.path(&chunks_name(&self.name))?)?;
        self.before.holds(path)?;
        Ok(DiskRecord {
            file: self.name,
            format: self.format.to_string(),
            virtual_size: ByteSize(virtual_size),
            file_size: ByteSize(file.size),
            file_digest: file.digest,
            content_digest: content.digest(),
            over: self.over,
        })
    }
}

/// The two digests of one disk, made at once.
pub(crate) struct Both<'a> {
    pub(crate) path: &'a Path,
    pub(crate) plan: Plan,
    pub(crate) counter: &'a Counter,
    pub(crate) stop: &'a CancellationToken,
}

impl Both<'_> {
    pub(crate) async fn make(self) -> Result<(FileDigest, digest::Content)> {
        let (path, stop, counter) = (self.path.to_owned(), self.stop.clone(), self.counter.clone());
        let file = blocking(move || digest::read_file(&path, &stop, &counter));
        // The file's digest is one thread's work from its first byte to its last.
        let content = self.plan.run(digest::threads(1), self.stop, self.counter);
        let (file, content) = tokio::join!(ending(self.stop, file), ending(self.stop, content));
        match (file, content) {
            (Err(file), Err(content)) if matches!(file.kind, crate::ErrorKind::Job(_)) => Err(content),
            (file, content) => Ok((file?, content?)),
        }
    }
}

/// Tells the others to stop when this one fails.
async fn ending<T>(stop: &CancellationToken, work: impl Future<Output = Result<T>>) -> Result<T> {
    let done = work.await;
    if done.is_err() {
        stop.cancel();
    }
    done
}

async fn check(cx: &Cx, path: &Path, format: Format, stop: &CancellationToken) -> Result<()> {
    let sound = async {
        let found = qemu_img::check(cx, path, format).await?;
        if found.is_sound() {
            return Ok(());
        }
        let (corruptions, errors) = (found.corruptions, found.check_errors);
        let path = path.display();
        Err(Error::corrupt(format!(
            "{path} is damaged: {corruptions} corruptions, {errors} errors in its tables"
        )))
    };
    ending(stop, sound).await
}

async fn flush(path: PathBuf) -> Result<()> {
    blocking(move || {
        File::open(&path)
            .and_then(|file| file.sync_all())
            .map_err(|e| Error::io(format!("flushing {}", path.display()), e))
    })
    .await
}

/// What a file looked like before it was read, so that one that changes under our hands is not taken for sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) length: u64,
    modified: Option<SystemTime>,
    inode: u64,
}

impl Stamp {
    /// Of a regular file; a link is none.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let name = path.display();
        let meta = path.symlink_metadata().map_err(|e| Error::io(format!("reading {name}"), e))?;
        if !meta.is_file() {
            return Err(Error::refused(format!("{name} is not a regular file")));
        }
        Ok(Self { length: meta.len(), modified: meta.modified().ok(), inode: meta.ino() })
    }
    pub(crate) fn holds(&self, path: &Path) -> Result<()> {
        if Self::of(path)? == *self {
            return Ok(());
        }
        Err(Error::corrupt(format!("{} changed while it was read", path.display())))
    }
}
