//! A storage pool of the host: where disks live when the host does not share this node's file system.
//!
//! ```text
//!  vcl-image.debian@2.disk0.qcow2.4f0c…  .job12-token3          a copy of a revision's file, sent by job 12
//!  vcl-image.debian@2.disk0.qcow2.4f0c…  .job12-token3.whole    says that it is whole: made last, empty
//!  vcl-machine.gis-01.disk0.qcow2                               an overlay on it
//!  vcl-machine.gis-01.variables, .console                       firmware variables; the serial console's log
//! ```
//!
//! libvirt cannot rename a volume. So a copy bears the name of whoever sends it, and another volume, which is made when
//! every byte was read back, says that it may be used: half a copy is never taken for one. Everything in the pool whose
//! name begins so is vcld's and nothing else is touched; a site gives each vcld a pool of its own.
//!
//! What is known of the pool is asked of libvirt each time. This process keeps only who sends what and which copies are
//! about to get an overlay.

pub(super) mod bring;
pub(super) mod copies;
mod header;
pub(super) mod named;
mod stream;
#[cfg(test)]
mod tests;
mod xml;

pub(super) use stream::{Source, read_back, receive, send};
pub(super) use xml::{NewVolume, Volume};

use super::Libvirt;
use super::connection::{CALL, is, maybe};
use crate::{Error, ErrorKind, Result};
use camino::Utf8PathBuf;
use copies::Desk;
use std::sync::Arc;
use std::time::Duration;
use virt::connect::Connect;
use virt::error::ErrorNumber;
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;

/// What a machine's volumes begin with.
pub(super) const MACHINE: &str = "vcl-machine.";
/// What copies of revisions begin with.
pub(super) const IMAGE: &str = "vcl-image.";
/// Reading the headers of all volumes, making a disk's tables.
const SLOW: Duration = Duration::from_secs(180);

type VirtResult<T> = Result<T, virt::error::Error>;

/// Which pool, and what is known of it here.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    pub(super) name: String,
    /// Where to make it when it is missing.
    pub(super) path: Option<Utf8PathBuf>,
    /// This node's library: a copy of what it no longer has is of no use.
    pub(super) library: Utf8PathBuf,
    pub(super) desk: Arc<Desk>,
}

/// The volumes of a machine.
pub(super) fn machine_of<'v>(volumes: &'v [Volume], machine: &str) -> impl Iterator<Item = &'v Volume> {
    let prefix = format!("{MACHINE}{machine}.");
    volumes.iter().filter(move |v| v.name.starts_with(&prefix))
}

/// What is there of some things: one that vanishes while we look is not. What cannot be read for another reason is there,
/// and its error is the whole look's.
pub(super) fn present<T>(read: impl Iterator<Item = VirtResult<T>>, gone: ErrorNumber) -> VirtResult<Vec<T>> {
    read.filter(|read| !matches!(read, Err(e) if is(e, gone))).collect()
}

impl Pool {
    /// The pool, started; made when it is missing and it is known where.
    fn open(&self, c: &Connect) -> VirtResult<StoragePool> {
        let pool = match (c.lookup_storage_pool_by_name(&self.name), &self.path) {
            (Err(e), Some(path)) if is(&e, ErrorNumber::NoStoragePool) => {
                c.define_storage_pool_xml(&xml::pool(&self.name, path.as_str()), 0)?
            }
            (found, _) => found?,
        };
        if pool.is_active()? {
            return Ok(pool);
        }
        match self.start(&pool) {
            // Somebody else has just started it.
            Err(_) if pool.is_active()? => {}
            done => done?,
        }
        Ok(pool)
    }

    /// Starts a pool. The directory of one that was made here is made first, each time: whoever defined it may have got
    /// no further. One that is there is well.
    fn start(&self, pool: &StoragePool) -> VirtResult<()> {
        let directory = xml::directory(&pool.xml_desc(0)?);
        if self.path.as_ref().is_some_and(|path| directory.as_deref() == Some(path.as_str())) {
            pool.build(0)?;
            pool.set_autostart(true)?;
        }
        pool.create(0)
    }

    /// The pool with what is in it now. A pool that is busy with something long cannot be looked through meanwhile, and
    /// what was known of it is not far off.
    fn fresh(&self, c: &Connect) -> VirtResult<StoragePool> {
        let pool = self.open(c)?;
        let _ = pool.refresh(0);
        Ok(pool)
    }
}

/// A volume of the pool, looked for once more among the files of its directory when libvirt does not know it: qemu and
/// another libvirtd make files of which this one is not told.
fn find(pool: &StoragePool, name: &str) -> VirtResult<StorageVol> {
    match pool.lookup_storage_vol_by_name(name) {
        Err(e) if is(&e, ErrorNumber::NoStorageVolume) => {
            let _ = pool.refresh(0);
            pool.lookup_storage_vol_by_name(name)
        }
        found => found,
    }
}

fn delete(pool: &StoragePool, name: &str) -> VirtResult<()> {
    match find(pool, name).and_then(|volume| volume.delete(0)) {
        Err(e) if is(&e, ErrorNumber::NoStorageVolume) => Ok(()),
        done => done,
    }
}

impl Libvirt {
    /// The pool that the configuration names.
    ///
    /// # Errors
    /// It names none: what was begun with one cannot go on without.
    pub(super) fn pool(&self) -> Result<&Pool> {
        self.pool.as_ref().ok_or_else(|| {
            let name = &self.settings.name;
            Error::new(
                ErrorKind::Refused,
                format!("backend {name} had a `pool` when this was begun and has none now; write it into [backend.{name}] again"),
            )
        })
    }

    /// Does something with the pool on the libvirt threads.
    async fn with_pool<T: Send + 'static>(
        &self,
        what: String,
        work: impl FnOnce(&Connect, &Pool) -> VirtResult<T> + Send + 'static,
    ) -> Result<T> {
        let pool = self.pool()?.clone();
        self.connection.call(what, SLOW, move |c| work(c, &pool)).await
    }

    /// The pool's directory on the host.
    pub(super) async fn pool_directory(&self) -> Result<String> {
        let name = self.pool()?.name.clone();
        let what = format!("looking at the storage pool {name}");
        let text = self.with_pool(what, |c, pool| pool.open(c)?.xml_desc(0)).await?;
        xml::directory(&text).ok_or_else(|| {
            Error::new(
                ErrorKind::Refused,
                format!(
                    "the storage pool {name} is no directory; vcld needs a pool of type dir, fs or netfs"
                ),
            )
        })
    }

    /// All volumes, vcld's or not, with what each lies on, as well as that can be told now: one that cannot be read is
    /// not among them, and what a busy pool knows may be a little old. To show and to reckon with. What is removed because
    /// nothing lies on it is found with [`every_volume`](Self::every_volume).
    pub(super) async fn volumes(&self) -> Result<Vec<Volume>> {
        let what = format!("listing the storage pool {}", self.pool()?.name);
        let listed = self.with_pool(what, |c, pool| {
            let pool = pool.fresh(c)?;
            // One that vanishes while we look is not there.
            let volumes = pool.list_all_volumes(0)?;
            Ok(volumes.iter().filter_map(|v| v.xml_desc(0).ok()).collect::<Vec<_>>())
        });
        Ok(listed.await?.iter().filter_map(|text| xml::volume(text)).collect())
    }

    /// All volumes, vcld's or not, with what each lies on, and none of them missing.
    ///
    /// # Errors
    /// What keeps from knowing: libvirt looks through no pool in which a volume is being made ([`ErrorKind::Busy`]), or one
    /// of them cannot be read.
    pub(super) async fn every_volume(&self) -> Result<Vec<Volume>> {
        let what = format!("looking through the storage pool {}", self.pool()?.name);
        let listed = self.with_pool(what.clone(), |c, pool| {
            let pool = pool.open(c)?;
            pool.refresh(0)?;
            let volumes = pool.list_all_volumes(0)?;
            present(volumes.iter().map(|v| v.xml_desc(0)), ErrorNumber::NoStorageVolume)
        });
        let unread = || Error::new(ErrorKind::Failed, format!("{what}: a volume is described as no file is"));
        listed.await?.iter().map(|text| xml::volume(text).ok_or_else(unread)).collect()
    }

    /// How long the file of a volume is now; `None` when there is none of that name.
    pub(super) async fn volume_length(&self, name: &str) -> Result<Option<u64>> {
        let wanted = name.to_owned();
        let what = format!("looking at the volume {name}");
        maybe(
            self.with_pool(what, move |c, pool| {
                let volume = find(&pool.open(c)?, &wanted)?;
                let info = volume.info_flags(virt::sys::VIR_STORAGE_VOL_GET_PHYSICAL)?;
                // Asked so, `allocation` is the file's length.
                Ok(info.allocation)
            })
            .await,
        )
    }

    /// Makes a volume anew, in place of one of that name, and answers its path on the host.
    pub(super) async fn make_volume(&self, new: xml::NewVolume) -> Result<String> {
        let what = format!("making the volume {} in the storage pool {}", new.name, self.pool()?.name);
        self.with_pool(what, move |c, pool| {
            let pool = pool.open(c)?;
            delete(&pool, &new.name)?;
            let made = match StorageVol::create_xml(&pool, &new.xml(), 0) {
                // A file of which libvirt did not know.
                Err(e) if is(&e, ErrorNumber::StorageVolExist) => {
                    let _ = pool.refresh(0);
                    delete(&pool, &new.name)?;
                    StorageVol::create_xml(&pool, &new.xml(), 0)
                }
                made => made,
            };
            made?.path()
        })
        .await
    }

    /// Removes volumes; those that are gone are well.
    pub(super) async fn delete_volumes(&self, names: Vec<String>) -> Result<()> {
        let Some(first) = names.first() else { return Ok(()) };
        let what = format!("removing the volume {first}");
        self.with_pool(what, move |c, pool| {
            let pool = pool.open(c)?;
            names.iter().try_for_each(|name| delete(&pool, name))
        })
        .await
    }

    /// Removes those volumes of which the counterpart is not there: a copy without its mark, a mark without its copy.
    pub(super) async fn delete_halves(&self, names: Vec<String>) -> Result<()> {
        let Some(first) = names.first() else { return Ok(()) };
        let what = format!("removing the volume {first}");
        self.with_pool(what, move |c, pool| {
            let pool = pool.open(c)?;
            for name in &names {
                match find(&pool, &named::counterpart(name)) {
                    Ok(_) => {}
                    Err(e) if is(&e, ErrorNumber::NoStorageVolume) => delete(&pool, name)?,
                    Err(e) => return Err(e),
                }
            }
            Ok(())
        })
        .await
    }

    /// The free bytes of the pool's file system.
    pub(super) async fn pool_room(&self) -> Result<u64> {
        let what = format!("measuring the storage pool {}", self.pool()?.name);
        self.with_pool(what, |c, pool| Ok(pool.fresh(c)?.info()?.available)).await
    }

    /// What of the pool is wrong, in words.
    pub(super) async fn pool_well(&self) -> Result<String> {
        let (directory, free) = (self.pool_directory().await?, self.pool_room().await?);
        let name = &self.pool()?.name;
        Ok(format!("{name}, {directory} on the host: {} are free", vcl_types::ByteSize(free)))
    }

    /// The last bytes of a volume's file as text.
    pub(super) async fn volume_tail(&self, name: &str, bytes: u64) -> Result<Option<String>> {
        let Some(length) = self.volume_length(name).await? else { return Ok(None) };
        let (pool, wanted) = (self.pool()?.clone(), name.to_owned());
        let what = format!("reading the volume {name}");
        let read = self.connection.call(what, CALL, move |c| {
            let volume = find(&pool.open(c)?, &wanted)?;
            stream::read(c, &volume, length.saturating_sub(bytes), bytes.min(length))
        });
        Ok(Some(String::from_utf8_lossy(&read.await?).into_owned()))
    }
}
