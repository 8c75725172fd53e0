//! Where a machine's files live: the seam between what a load or a capture does and what it does it to.
//!
//! | | here | in a pool of the host |
//! |---|---|---|
//! | a revision's files | the library's own | copies, sent once ([`copies`](super::pool::copies)) |
//! | a machine's files | `DIRECTORY/NAME/disk0.qcow2` | the volume `vcl-machine.NAME.disk0.qcow2` |
//! | an overlay | made by `qemu-img` | made by libvirt |
//! | a capture | copied by `qemu-img` | the overlay comes back, sparse, and is laid on the library's own file |
//!
//! A file of a machine is told by one text, which stands in journals: an absolute path is one here, anything else is a
//! volume's name. So what was begun with the one is undone as such, whatever the configuration says by then.

use super::Libvirt;
use super::definition::DefinedDisk;
use super::load::{FileCopy, Overlay};
use super::pool::named::{files, of_file, whole_of};
use super::pool::{MACHINE, NewVolume, Volume, receive};
use crate::{Error, ErrorKind, Result};
use camino::{Utf8Path, Utf8PathBuf};
use std::path::Path;
use vcl_images::{Format, qemu_img};
use vcl_job::{Cx, Kind};
use vcl_types::{ComputerName, Manifest, Revision};

/// The name of a machine's console log among its files.
const CONSOLE: &str = "console.log";

/// Whether a file of a machine is one here.
fn is_here(file: &str) -> bool {
    file.starts_with('/')
}

// What another has made under a name since must not be removed by one that stood still, nor by the end of a child process
// that the other has ended.
pub(super) fn remove_file(path: &str) -> vcl_job::Result<()> {
    vcl_job::held()?;
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(vcl_job::Error::caused(Kind::Fatal, format!("removing {path}"), e))
        }
        _ => Ok(()),
    }
}
fn remove_directory(path: &Utf8Path) -> vcl_job::Result<()> {
    vcl_job::held()?;
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(vcl_job::Error::caused(Kind::Fatal, format!("removing {path}"), e))
        }
        _ => Ok(()),
    }
}

/// A disk format by its recorded name.
fn format(name: &str) -> vcl_job::Result<Format> {
    name.parse().map_err(|_| {
        let context = format!("disks of format `{name}` are not known here: qcow2, raw and vmdk are");
        vcl_job::Error::new(Kind::Refused, context)
    })
}

/// The last bytes of a file as text.
fn tail(path: &str, bytes: u64) -> std::io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut buffer = Vec::new();
    file.take(bytes).read_to_end(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer).into_owned())
}

/// Begins a console's log anew: host keys are read from it, and they are this boot's only if it begins with the boot.
/// It is made here, so that it is ours: libvirt's log daemon appends to a file that is there, and makes one that only
/// root can read where there is none.
fn new_log(path: &str) -> vcl_job::Result<()> {
    let failed = |e| vcl_job::Error::caused(Kind::Fatal, format!("making the console's log {path}"), e);
    match std::fs::rename(path, format!("{path}.1")) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    std::fs::File::create(path).map(drop).map_err(failed)
}

impl Libvirt {
    /// Where the files of a machine are: a directory, or what its volumes begin with.
    pub(super) fn place(&self, machine: &str) -> Utf8PathBuf {
        match &self.pool {
            None => self.settings.directory.join(machine),
            Some(_) => format!("{MACHINE}{machine}").into(),
        }
    }
    pub(super) fn computer_place(&self, computer: &ComputerName) -> Utf8PathBuf {
        self.place(computer.as_str())
    }
    /// A file of a machine.
    pub(super) fn file(place: &Utf8Path, name: &str) -> String {
        if place.is_absolute() { place.join(name).into() } else { format!("{place}.{name}") }
    }
    pub(super) fn console_file(place: &Utf8Path) -> Utf8PathBuf {
        Self::file(place, CONSOLE).into()
    }
    /// The path on the host of a file that need not be there yet. `directory` is what [`make_place`](Self::make_place)
    /// answered.
    pub(super) fn host_path(directory: Option<&str>, file: &str) -> String {
        match directory {
            Some(directory) if !is_here(file) => format!("{directory}/{file}"),
            _ => file.to_owned(),
        }
    }

    /// Makes a place for a machine's files; answers the pool's directory on the host, if it is in a pool.
    pub(super) async fn make_place(&self, place: &Utf8Path) -> vcl_job::Result<Option<String>> {
        self.clear_place(place).await?;
        if !place.is_absolute() {
            return self.waiting(|| self.pool_directory()).await.map(Some);
        }
        std::fs::create_dir_all(place)
            .map(|()| None)
            .map_err(|e| vcl_job::Error::caused(Kind::Fatal, format!("making directory {place}"), e))
    }

    /// Removes all files of a machine; none is well.
    pub(super) async fn clear_place(&self, place: &Utf8Path) -> vcl_job::Result<()> {
        if place.is_absolute() {
            return remove_directory(place);
        }
        let names = self.waiting(|| self.volumes_of(place.as_str())).await?;
        let names: Vec<_> = names.into_iter().map(|v| v.name).collect();
        self.waiting(|| self.delete_volumes(names.clone())).await
    }

    async fn volumes_of(&self, place: &str) -> Result<Vec<Volume>> {
        let prefix = format!("{place}.");
        Ok(self.volumes().await?.into_iter().filter(|v| v.name.starts_with(&prefix)).collect())
    }

    /// Removes a file of a machine; one that is not there is well.
    pub(super) async fn discard(&self, file: &str) -> vcl_job::Result<()> {
        if is_here(file) {
            return remove_file(file);
        }
        self.waiting(|| self.delete_volumes(vec![file.to_owned()])).await
    }

    /// How many bytes a load has to send to the host first. The manifests are those of the revision's chain, topmost
    /// first.
    pub(super) async fn bytes_to_send(&self, chain: &[Manifest]) -> Result<u64> {
        if self.pool.is_none() {
            return Ok(0);
        }
        let volumes = self.volumes().await?;
        let lacking = files(chain).into_iter().filter(|filed| whole_of(&volumes, &filed.copy).is_none());
        Ok(lacking.fold(0, |sum, filed| sum.saturating_add(filed.size)))
    }

    /// Makes an overlay, in place of one that an earlier life made.
    pub(super) async fn make_overlay(&self, cx: &Cx, overlay: Overlay) -> vcl_job::Result<DefinedDisk> {
        let Overlay { path: file, backing, format: backing_format } = overlay;
        cx.check().await?;
        let path = if is_here(&file) {
            remove_file(&file)?;
            let (path, backing) = (file.as_ref(), backing.as_ref());
            qemu_img::create_overlay(cx, path, backing, format(&backing_format)?, None).await?;
            file
        } else {
            let over = Some((backing.clone(), backing_format.clone()));
            let new = NewVolume { name: file, size: None, over, readable: false };
            let made = self.waiting(|| self.make_volume(new.clone())).await;
            let under = [backing.as_str()];
            // It may have failed because of that.
            if let Err(gone) = self.waiting(|| self.still_there(&under)).await {
                self.discard(&new.name).await?;
                return Err(gone);
            }
            made?
        };
        Ok(DefinedDisk { path, backing, backing_format })
    }

    /// Gives a machine a file of its own with the bytes of one that is here; answers its path on the host.
    pub(super) async fn put(&self, cx: &Cx, copy: FileCopy) -> vcl_job::Result<String> {
        cx.check().await?;
        if !is_here(&copy.to) {
            return self.put_volume(cx, copy).await;
        }
        // The library's file is read-only; the machine writes to its copy.
        let bytes = tokio::fs::read(&copy.from).await;
        let bytes =
            bytes.map_err(|e| vcl_job::Error::caused(Kind::Fatal, format!("reading {}", copy.from), e))?;
        let written = tokio::fs::write(&copy.to, bytes).await;
        written.map_err(|e| vcl_job::Error::caused(Kind::Fatal, format!("writing {}", copy.to), e))?;
        Ok(copy.to)
    }

    async fn put_volume(&self, cx: &Cx, copy: FileCopy) -> vcl_job::Result<String> {
        use super::pool::{Source, send};
        let source = Source::open(Path::new(&copy.from), None);
        let source =
            source.map_err(|_| vcl_job::Error::new(Kind::Fatal, format!("{} cannot be read", copy.from)))?;
        let source = std::sync::Arc::new(source);
        let new = NewVolume { name: copy.to.clone(), size: Some(source.length), over: None, readable: false };
        self.waiting(|| {
            let (pool, source, new, volume) = (self.pool(), source.clone(), new.clone(), copy.to.clone());
            let what = format!("sending {volume}");
            async move {
                let pool = pool?.clone();
                let path = self.make_volume(new).await?;
                let flow = move |c: &_, pulse: &_| send(c, &pool, &volume, &source, &0.into(), pulse);
                self.connection.stream(what, cx.token(), |_| {}, flow).await?;
                Ok(path)
            }
        })
        .await
    }

    /// Begins a machine's console log anew.
    pub(super) async fn new_console(&self, console: &Utf8Path) -> vcl_job::Result<()> {
        if console.is_absolute() {
            return new_log(console.as_str());
        }
        let new = NewVolume { name: console.to_string(), size: Some(0), over: None, readable: false };
        self.waiting(|| self.make_volume(new.clone())).await.map(drop)
    }

    /// The last bytes of a machine's console log; `None` where there is none.
    pub(super) async fn read_console(&self, console: &Utf8Path, bytes: u64) -> Result<Option<String>> {
        if !console.is_absolute() {
            return self.volume_tail(console.as_str(), bytes).await;
        }
        match tail(console.as_str(), bytes) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::caused(ErrorKind::Failed, format!("reading the console {console}"), e)),
        }
    }

    /// Brings a machine's disk here for a capture, as it is: an overlay. `origin` is the library's file that it lies on.
    /// What comes is laid on that.
    pub(super) async fn fetch_disk(
        &self,
        cx: &Cx,
        disk: &str,
        to: &Path,
        n: usize,
        origin: &Revision,
    ) -> vcl_job::Result<()> {
        let image = origin.manifest.image_ref();
        let Some(record) = origin.manifest.disks.get(n) else {
            let context = format!("{disk} is disk {n} of a machine, and {image} has none of that number");
            return Err(vcl_job::Error::new(Kind::Refused, context));
        };
        // What one revision's copies show a guest never changes, whichever of them this lies on.
        let volumes = self.waiting(|| self.volumes()).await?;
        let find = |path: &str| volumes.iter().find(|v| v.path == path);
        let under = find(disk).and_then(|v| v.backing.as_deref()).and_then(find);
        if !under.is_some_and(|u| u.name.starts_with(&of_file(&image, &record.file))) {
            let lies = under.map_or("nothing that vcld has sent", |u| u.name.as_str());
            let context =
                format!("{disk} lies on {lies}, and not on {image}; what it shows cannot be told here");
            return Err(vcl_job::Error::new(Kind::Refused, context));
        }
        // Its tables come with it, and qemu may have left gaps.
        let most = record.virtual_size.bytes().saturating_mul(2).saturating_add(64 << 20);
        let about = find(disk).map_or(0, |v| v.taken);
        let (from, at, what) = (disk.to_owned(), to.to_owned(), format!("receiving {disk}"));
        let (length, data) = self
            .waiting(|| {
                let (from, at, what) = (from.clone(), at.clone(), what.clone());
                let progress = |done: u64| cx.progress(done.min(about), about);
                let flow = move |c: &_, pulse: &_| receive(c, &from, &at, most, pulse);
                self.connection.stream(what, cx.token(), progress, flow)
            })
            .await
            .map_err(|e| if cx.token().is_cancelled() { cx.stop_error() } else { e })?;
        tracing::debug!(disk, length, data, "a disk came back");
        qemu_img::lay_on(cx, to, origin.path(&record.file).as_ref(), format(&record.format)?).await?;
        Ok(())
    }

    /// Brings a file of a machine here, which must not be longer than `most`.
    pub(super) async fn fetch_file(&self, cx: &Cx, from: &str, to: &Path, most: u64) -> vcl_job::Result<()> {
        self.waiting(|| {
            let (path, at, what) = (from.to_owned(), to.to_owned(), format!("receiving {from}"));
            let flow = move |c: &_, pulse: &_| receive(c, &path, &at, most, pulse);
            async move {
                // Firmware variables that libvirt made itself are in no list before it has looked.
                self.pool_room().await?;
                self.connection.stream(what, cx.token(), |_| {}, flow).await.map(drop)
            }
        })
        .await
    }

    /// The free bytes where machines write. Copies that nothing needs make way when somebody does.
    pub(super) async fn free(&self) -> Result<u64> {
        if self.pool.is_some() {
            let idle = self.idle_copies(&self.volumes().await?).await?;
            let room = self.pool_room().await?;
            return Ok(idle.iter().fold(room, |sum, copy| sum.saturating_add(copy.taken)));
        }
        let directory = &self.settings.directory;
        let stat = rustix::fs::statvfs(directory.as_std_path()).map_err(|e| {
            let what = format!("measuring the file system of {directory}");
            Error::caused(ErrorKind::Failed, what, std::io::Error::from(e))
        })?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// What a computer's overlays take; `None` where it has none.
    pub(super) async fn written_by(&self, name: &ComputerName) -> Result<Option<u64>> {
        let place = self.computer_place(name);
        if place.is_absolute() {
            return Ok(place.is_dir().then(|| super::things::taken(&place)));
        }
        let volumes = self.volumes_of(place.as_str()).await?;
        Ok((!volumes.is_empty()).then(|| volumes.iter().map(|v| v.taken).sum()))
    }
}
