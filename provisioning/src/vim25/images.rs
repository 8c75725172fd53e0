//! Images on the datastore: a cache of the library, and the way of captures back into it.
//!
//! An entry is a directory `vcl-images/CONTENT/` with one flat disk. It grows under a name of its own and is then moved
//! onto its name, which must not exist: it is there whole or not at all. Whoever is late finds it and throws away what
//! was made. `CONTENT` is the digest of the bytes that a guest sees, which is made from what is sent, so that an entry
//! holds what its name says.

use super::disks::{descriptor, flat_of};
use super::steps::{Described, LONG, PATIENT};
use super::task::Patience;
use super::{Site, Watcher};
use crate::{Captured, CapturedDisk, Error, ErrorKind, Result, Target};
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;
use vcl_images::{Format, Progress, Staging, qemu_img, with_room};
use vcl_job::{Cx, Job, Kind, Step};
use vcl_types::{ComputerName, DiskRecord, Hardware};

/// The disk of an entry.
const DISK: &str = "disk.vmdk";
/// What is written anew when an entry is used, so that one can tell which are not.
const USED: &str = "used";
/// How the names of directories begin in which something grows.
pub(super) const GROWING: &str = "new-";

/// A disk of a revision on its way to the datastore.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sending {
    content: String,
    /// The directory among the images in which it grows.
    growing: String,
}
/// A captured disk on its way to the library.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Fetching {
    /// The flat file on the datastore.
    from: String,
    /// The raw copy on this node.
    raw: Utf8PathBuf,
    to: String,
}
/// A disk that grew, and the name that it gets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entering {
    growing: String,
    content: String,
}

pub(crate) const SEND: Step<Site, Sending> =
    Step::new("send image").deadline(LONG).retry(PATIENT).undo(|site, sending| {
        Box::pin(async move {
            vcl_job::held()?;
            forget(&site.raw(&sending.growing))?;
            Ok(site.delete(&site.image(&sending.growing), &Watcher::doing()).await?)
        })
    });
/// Copies a captured machine's disk among the images.
pub(super) const KEEP: Step<Site, super::Copied> =
    Step::new("copy captured disk").deadline(LONG).retry(PATIENT).undo(|site, copied| {
        Box::pin(async move {
            vcl_job::held()?;
            let directory = copied.to.rsplit_once('/').map_or("", |(directory, _)| directory);
            // Only one that grows is ours alone.
            if !directory.starts_with(&site.image(GROWING)) {
                return Ok(());
            }
            let watcher = Watcher::doing();
            let mut patience = Patience::undoing(&watcher);
            while let Err(e) = site.delete(directory, &watcher).await {
                patience.outwait(e).await?;
            }
            Ok(())
        })
    });
pub(crate) const FETCH: Step<Site, Fetching> =
    Step::new("fetch disk").deadline(LONG).retry(PATIENT).undo(|_, fetching| {
        Box::pin(async move {
            vcl_job::held()?;
            forget(fetching.raw.as_std_path())?;
            forget(Path::new(&fetching.to))
        })
    });
/// Nothing to undo: it is a cache, and what grew is the copying's.
pub(super) const ENTER: Step<Site, Entering> = Step::new("enter image").deadline(LONG).retry(PATIENT);

/// The name of a disk among the images.
pub(crate) fn cache_key(disk: &DiskRecord) -> String {
    disk.content_digest.to_string()
}

fn forget(path: &Path) -> vcl_job::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(vcl_job::Error::caused(Kind::Fatal, format!("removing {}", path.display()), e))
        }
        _ => Ok(()),
    }
}

impl Site {
    /// A directory among the images.
    pub(crate) fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.settings.images)
    }
    /// The disk of an image at the datastore.
    pub(crate) fn image_disk(&self, content: &str) -> String {
        self.image(&format!("{content}/{DISK}"))
    }
    fn raw(&self, growing: &str) -> PathBuf {
        self.settings.directory.join(format!("{growing}.raw")).into()
    }
    /// A name for what grows: the job's, the computer's, and one that nobody else has.
    pub(crate) fn growing(job: &Job, computer: &ComputerName) -> String {
        let nonce = uuid::Uuid::now_v7().simple();
        format!("{GROWING}job{}-{nonce}-{computer}", job.number())
    }

    /// Whether the datastore has an image, whole.
    pub(crate) async fn has_image(&self, content: &str, size: u64) -> Result<bool> {
        self.has_disk(&self.image_disk(content), size).await
    }
    /// Whether the datastore has a disk with its bytes.
    pub(crate) async fn has_disk(&self, disk: &str, size: u64) -> Result<bool> {
        Ok(self.length(disk).await?.is_some() && self.length(&flat_of(disk)).await? == Some(size))
    }

    /// Sees to it that the datastore has a disk of a revision, and answers the disk's name there. One that is not `wanted`
    /// is not sent: the step is there all the same, so that a load has the same steps each time.
    pub(crate) async fn send_image(
        &self,
        job: &mut Job,
        target: &Target<'_>,
        n: usize,
        disk: &DiskRecord,
        wanted: bool,
    ) -> vcl_job::Result<String> {
        let content = cache_key(disk);
        let sending =
            Sending { growing: Self::growing(job, &target.computer.name), content: content.clone() };
        let path = PathBuf::from(target.revision.path(&disk.file));
        let limit = target.limits.copy;
        job.step(self, &SEND, sending)
            .key(n)
            .run(async |sending, cx| {
                if !wanted {
                    return Ok(());
                }
                let lock = self.making(&sending.content);
                let _alone = tokio::select! {
                    alone = lock.lock() => alone,
                    () = cx.stopped() => return Err(cx.stop_error()),
                };
                if !self.has_image(&sending.content, disk.virtual_size.bytes()).await? {
                    self.send(&cx, &sending, &path, disk, limit).await?;
                } else if cx.again() {
                    // An earlier try may have sent it whole without hearing so; or another was quicker.
                    self.delete(&self.image(&sending.growing), &Watcher::of(&cx)).await?;
                }
                forget(&self.raw(&sending.growing))?;
                self.note_use(&self.image(&sending.content)).await;
                Ok(())
            })
            .await?;
        Ok(self.image_disk(&content))
    }

    async fn send(
        &self,
        cx: &Cx,
        sending: &Sending,
        path: &Path,
        disk: &DiskRecord,
        limit: Duration,
    ) -> vcl_job::Result<()> {
        let raw = self.raw(&sending.growing);
        let format = disk.format.parse::<Format>()?;
        cx.check().await?;
        let needs = async || Some(disk.virtual_size.bytes());
        with_room(cx, self.settings.directory.as_std_path(), needs, async || {
            forget(&raw)?;
            let from = qemu_img::ConvertFrom { path, format };
            let options = qemu_img::ConvertOptions::default();
            let made = qemu_img::convert(cx, from, &raw, Format::Raw, &Progress::of(cx), &options).await;
            if made.is_err() {
                forget(&raw)?;
            }
            Ok(made?)
        })
        .await?;
        let growing = self.image(&sending.growing);
        let flat = format!("{growing}/{}", flat_of(DISK));
        let watcher = Watcher::of(cx).within(limit);
        cx.check().await?;
        self.make_directory(&growing).await?;
        let content = self.upload(&raw, &flat, &watcher).await?;
        if content.digest() != disk.content_digest {
            let path = path.display();
            let message = format!(
                "{path} does not hold what its manifest says; look at it: vclctl image verify (digest {}, not {})",
                content.digest(),
                disk.content_digest
            );
            return Err(vcl_job::Error::new(Kind::Corrupt, message));
        }
        let text = descriptor(&flat_of(DISK), disk.virtual_size.bytes());
        self.write(&format!("{growing}/{DISK}"), text.as_bytes()).await?;
        cx.check().await?;
        Ok(self.enter(&sending.growing, &sending.content, disk.virtual_size.bytes(), &watcher).await?)
    }

    /// Gives what grew its name. If another was quicker, theirs is as good. `size` is what a guest sees of it, in bytes.
    async fn enter(&self, growing: &str, content: &str, size: u64, watcher: &Watcher) -> Result<()> {
        let (from, to) = (self.image(growing), self.image(content));
        match self.rename(&from, &to, watcher).await {
            Err(e) if e.kind == ErrorKind::Exists && !self.has_image(content, size).await? => {
                // Somebody deleted a part of it by hand.
                self.delete(&to, watcher).await?;
                self.rename(&from, &to, watcher).await
            }
            Err(e) if e.kind == ErrorKind::Exists => self.delete(&from, watcher).await,
            // The answer of an earlier try was lost.
            Err(e)
                if e.kind == ErrorKind::NotFound
                    && self.length(&self.image_disk(content)).await?.is_some() =>
            {
                Ok(())
            }
            moved => moved,
        }
    }

    /// Copies the disks of a machine that is off into the staging, by way of a copy among the images, which is the new
    /// revision's entry there afterwards.
    pub(crate) async fn capture_disks(
        &self,
        job: &mut Job,
        target: &Target<'_>,
        described: &Described,
        staging: &Staging,
    ) -> vcl_job::Result<Captured> {
        let machine = Self::machine_name(&target.computer.name);
        let mut disks = Vec::new();
        for (n, (path, size)) in described.disks.iter().enumerate() {
            let growing = Self::growing(job, &target.computer.name);
            let to = self.image(&format!("{growing}/{DISK}"));
            let copied = super::Copied { from: path.clone(), to, size: *size };
            let limit = target.limits.copy;
            let to = job
                .step(self, &KEEP, copied)
                .key(n)
                .run(async |copied, cx| {
                    cx.check().await?;
                    let directory = copied.to.rsplit_once('/').map_or("", |(directory, _)| directory);
                    self.make_directory(directory).await?;
                    let watcher = Watcher::of(&cx).within(limit);
                    let mut patience = Patience::of(&cx, &watcher, limit);
                    loop {
                        self.still_has(&machine, &copied.from).await?;
                        match self.copy_disk(&copied.from, &copied.to, copied.size, &watcher).await {
                            Ok(()) => return Ok(copied.to),
                            Err(e) => patience.outwait(e).await?,
                        }
                    }
                })
                .await?;
            let content = self.fetch_disk(job, target, n, (&to, *size), staging).await?;
            let growing = to.rsplit_once('/').and_then(|(directory, _)| directory.rsplit_once('/'));
            let growing = growing.map_or("", |(_, growing)| growing).to_owned();
            job.step(self, &ENTER, Entering { growing, content })
                .key(n)
                .run(async |entering, cx| {
                    let lock = self.making(&entering.content);
                    let _alone = tokio::select! {
                        alone = lock.lock() => alone,
                        () = cx.stopped() => return Err(cx.stop_error()),
                    };
                    cx.check().await?;
                    let (growing, watcher) = (&entering.growing, Watcher::of(&cx));
                    Ok(self.enter(growing, &entering.content, *size, &watcher).await?)
                })
                .await?;
            disks.push(CapturedDisk { file: Staging::disk_name(n), format: "qcow2".into() });
        }
        Ok(self.captured(target, described, disks))
    }

    /// Refuses to copy a disk that is not what the machine has at rest.
    async fn still_has(&self, machine: &str, disk: &str) -> Result<()> {
        let disks = self.at_rest(machine).await?.disks();
        if disks.iter().any(|(path, _)| self.name_of(path) == Some(disk)) {
            return Ok(());
        }
        let disk = self.on_datastore(disk);
        let message =
            format!("{machine} has lost its disk {disk} since it went off; look at it, and capture it again");
        Err(Error::new(ErrorKind::Refused, message))
    }

    /// What was captured of a machine.
    pub(crate) fn captured(
        &self,
        target: &Target<'_>,
        described: &Described,
        disks: Vec<CapturedDisk>,
    ) -> Captured {
        let revision = target.revision.manifest.hardware.clone();
        let hardware = Hardware { cpus: described.cpus, memory: described.memory, ..revision };
        Captured { disks, firmware: None, boot: None, hardware }
    }

    /// Fetches a disk of which a guest sees `size` bytes into the staging, as what differs from the revision that was lent
    /// for it where there is one, and answers the digest of what a guest sees.
    pub(crate) async fn fetch_disk(
        &self,
        job: &mut Job,
        target: &Target<'_>,
        n: usize,
        (disk, size): (&str, u64),
        staging: &Staging,
    ) -> vcl_job::Result<String> {
        let to = staging.disk(n).into_os_string().into_string().map_err(|path| {
            vcl_job::Error::new(Kind::Fatal, format!("{} is not UTF-8", Path::new(&path).display()))
        })?;
        // Named like what grows, so that it is found if it is left behind.
        let of = staging.name().replace('-', ".");
        let raw = format!("{GROWING}job{}-{n}.{of}-{}.raw", job.number(), target.computer.name);
        let fetching = Fetching { from: flat_of(disk), raw: self.settings.directory.join(raw), to };
        let base = staging.base().and_then(|base| base.disk(n));
        let limit = target.limits.copy;
        job.step(self, &FETCH, fetching)
            .key(n)
            .run(async |fetching, cx| {
                let length = self.length(&fetching.from).await?;
                let length = whole(&self.on_datastore(&fetching.from), length, size)?;
                let (raw, to) = (fetching.raw.as_std_path(), Path::new(&fetching.to));
                cx.check().await?;
                let content = with_room(
                    &cx,
                    self.settings.directory.as_std_path(),
                    async || Some(length),
                    async || {
                        forget(raw)?;
                        let watcher = Watcher::of(&cx).within(limit);
                        let fetched = self.download(&fetching.from, length, raw, &watcher).await;
                        if fetched.is_err() {
                            forget(raw)?;
                        }
                        Ok(fetched?.digest().to_string())
                    },
                )
                .await?;
                with_room(
                    &cx,
                    staging.directory(),
                    async || None,
                    async || {
                        forget(to)?;
                        let made =
                            pack(&cx, raw, to, base.as_ref().map(|(reference, _)| reference.as_str())).await;
                        if made.is_err() {
                            forget(to)?;
                        }
                        made
                    },
                )
                .await?;
                forget(raw)?;
                Ok(content)
            })
            .await
    }

    /// What grows among the images, and entries that nobody has used for long: their names and sizes are not asked for,
    /// that would be a listing of each.
    pub(super) async fn image_directories(&self) -> Result<Vec<super::files::DatastoreFile>> {
        let watcher = Watcher::doing();
        let listed = self.list(&self.settings.images, &watcher).await?.unwrap_or_default();
        Ok(listed.into_iter().filter(|f| f.directory || !f.name.contains('.')).collect())
    }
    /// When an image or a template in a directory was last used, as far as it tells.
    pub(super) async fn last_used(&self, directory: &str) -> Result<Option<chrono::DateTime<chrono::Utc>>> {
        let listed = self.list(directory, &Watcher::doing()).await?.unwrap_or_default();
        let times = listed.iter().filter(|f| f.name == USED || f.name.ends_with(".vmdk"));
        Ok(times.filter_map(|f| f.modified).max())
    }
    /// Writes down that what is in a directory was used. Losing this costs nothing but a word in a list.
    pub(crate) async fn note_use(&self, directory: &str) {
        let _ = self.write(&format!("{directory}/{USED}"), b"").await;
    }
}

async fn pack(cx: &Cx, raw: &Path, to: &Path, base: Option<&str>) -> vcl_job::Result<()> {
    let progress = Progress::of(cx);
    if let Some(reference) = base {
        return Ok(qemu_img::differences(cx, raw, Format::Raw, to, reference, &progress).await?);
    }
    let from = qemu_img::ConvertFrom { path: raw, format: Format::Raw };
    let options = qemu_img::ConvertOptions::default();
    Ok(qemu_img::convert(cx, from, to, Format::Qcow2, &progress, &options).await?)
}

/// The length of a captured disk's file in bytes, which must be what a guest sees of the disk. Old servers tell that in
/// KiB only.
fn whole(file: &str, length: Option<u64>, size: u64) -> Result<u64> {
    let missing = || Error::new(ErrorKind::NotFound, format!("{file} is not there"));
    let length = length.ok_or_else(missing)?;
    if length == 0 || length >> 10 != size >> 10 {
        let message =
            format!("{file} has {length} bytes, and a guest sees {size} of its disk; look at it there");
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    Ok(length)
}

/// An entry is named after a digest.
pub(super) fn is_entry(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What a name of something that grows tells: its job and its computer.
pub(super) fn growing_of(name: &str) -> Option<(Option<vcl_types::JobId>, Option<ComputerName>)> {
    let rest = name.strip_prefix(GROWING)?.strip_prefix("job")?;
    let (job, rest) = rest.split_once('-')?;
    let (_, computer) = rest.split_once('-')?;
    let job = job.parse::<i64>().ok().filter(|n| *n > 0).map(vcl_types::JobId);
    Some((job, computer.parse().ok()))
}

/// An error for an entry that does not belong.
pub(super) fn no_image(name: &str) -> Error {
    Error::new(ErrorKind::Refused, format!("`{name}` is no image of vcld's at the datastore"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_tells_its_job_and_its_computer() {
        let name = "new-job12-0191f3c2-gis-lab-01";
        let (job, computer) = growing_of(name).unwrap();
        assert_eq!(job, Some(vcl_types::JobId(12)));
        assert_eq!(computer.unwrap().as_str(), "gis-lab-01");
        assert_eq!(growing_of("new-job0-x-a").unwrap().0, None);
        for other in ["job12-x-a", "new-x", "new-job1"] {
            assert!(growing_of(other).is_none(), "{other}");
        }
        assert!(is_entry(&"a0".repeat(32)) && !is_entry("a0"));
    }

    #[test]
    fn a_captured_disk_is_as_long_as_what_a_guest_sees_of_it() {
        for (length, size) in [(1 << 30, 1 << 30), ((1 << 30) + 512, 1 << 30)] {
            assert_eq!(whole("f", Some(length), size).unwrap(), length);
        }
        for (length, size) in [(0, 0), (0, 1 << 30), (1 << 29, 1 << 30), ((1 << 30) + 1024, 1 << 30)] {
            assert_eq!(
                whole("f", Some(length), size).unwrap_err().kind,
                ErrorKind::Corrupt,
                "{length} of {size}"
            );
        }
        assert_eq!(whole("f", None, 1).unwrap_err().kind, ErrorKind::NotFound);
    }
}
