//! Room in the library, and who has asked for it.
//!
//! What a job will need is estimated from sizes that are known before it begins; [`Library::reserve`] sets so much of the
//! free space apart for it, so that two jobs do not count the same bytes. As a job writes, the file system's free space
//! goes down and [`Library::written`] takes the same from what is set apart. The table lives in memory: a daemon that
//! starts again has jobs that go on, and each reserves again what it still needs.

use crate::store::Space;
use crate::{Error, ErrorKind, Library, Result};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use vcl_types::{ByteSize, JobId, Manifest};

/// What jobs have set apart and not written yet, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<BTreeMap<JobId, u64>>);

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(crate) fn sum(&self) -> u64 {
        self.lock().values().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }
}

impl Space {
    /// What may still be set apart when so much has to stay free.
    #[must_use]
    pub fn available(&self, keep_free: ByteSize) -> u64 {
        self.free.saturating_sub(self.reserved).saturating_sub(keep_free.bytes())
    }
}

impl Library {
    /// Sets room apart for a job, which gives back what it had set apart before. Nothing is set apart when there is not
    /// enough.
    ///
    /// # Errors
    /// [`NoSpace`](ErrorKind::NoSpace), saying how much is free, how much of it is others', and what is to stay free.
    pub fn reserve(&self, job: JobId, bytes: u64, keep_free: ByteSize) -> Result<()> {
        let mut table = self.ledger.lock();
        let space = self.store().space(self.root())?;
        let others =
            table.iter().filter(|(id, _)| **id != job).fold(0, |sum: u64, (_, b)| sum.saturating_add(*b));
        let available = Space { reserved: others, ..space }.available(keep_free);
        if bytes > available {
            let (needs, free, others) = (ByteSize(bytes), ByteSize(space.free), ByteSize(others));
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!(
                    "the library {} needs room for {needs}: {free} are free, {others} of it are set apart for other \
                     jobs, and {keep_free} are to stay free; see vclctl image prune",
                    self.root().display()
                ),
            ));
        }
        table.insert(job, bytes);
        Ok(())
    }

    /// Says that a job has written so much of what it set apart: that is no longer free.
    pub fn written(&self, job: JobId, bytes: u64) {
        if let Some(left) = self.ledger.lock().get_mut(&job) {
            *left = left.saturating_sub(bytes);
        }
    }

    /// Gives back what a job has set apart; done with, whatever became of it.
    pub fn release(&self, job: JobId) {
        self.ledger.lock().remove(&job);
    }
}

/// What a job will write into the library. Pure functions over sizes that are known before; tables and manifests are
/// counted with a little on top.
pub mod estimate {
    use super::{ByteSize, Manifest};

    /// Tables, headers, manifests, chunk digests: 1 part in 1000, and 1 MiB.
    fn with_tables(bytes: u64) -> u64 {
        bytes.saturating_add(bytes / 1000).saturating_add(1 << 20)
    }

    /// A capture that stores only what differs: what the computer's overlays hold.
    #[must_use]
    pub fn capture_delta(overlays: &[ByteSize]) -> u64 {
        with_tables(overlays.iter().fold(0, |sum, bytes| sum.saturating_add(bytes.bytes())))
    }

    /// A capture that stores everything: what the chain under the computer holds and its overlays, and never more than
    /// the disks show.
    #[must_use]
    pub fn capture_whole(chain: &[Manifest], overlays: &[ByteSize]) -> u64 {
        let shown = chain.first().map_or(0, |top| top.disks.iter().map(|d| d.virtual_size.bytes()).sum());
        let stored = chain.iter().flat_map(|m| &m.disks).map(|d| d.file_size.bytes());
        let stored = stored.chain(overlays.iter().map(|b| b.bytes())).fold(0, u64::saturating_add);
        with_tables(stored.min(shown))
    }

    /// Taking in a foreign disk of which so much holds data.
    #[must_use]
    pub fn import(data: ByteSize) -> u64 {
        with_tables(data.bytes())
    }

    /// What a load writes at once: the tables of an empty overlay a disk, whatever the disk's size is up to 1 TiB. What
    /// the guest writes later is the guest's.
    #[must_use]
    pub fn load_overlay(manifest: &Manifest) -> u64 {
        let tables = |size: u64| (size / (512 << 20)).saturating_mul(8).saturating_add(256 << 10);
        manifest.disks.iter().fold(0, |sum: u64, d| sum.saturating_add(tables(d.virtual_size.bytes())))
    }

    /// Rewriting a revision whole: what its chain holds, and never more than its disks show. What it was is freed only
    /// later.
    #[must_use]
    pub fn flatten(chain: &[Manifest]) -> u64 {
        capture_whole(chain, &[])
    }

    /// Fetching a revision from another node: its files.
    #[must_use]
    pub fn fetch(manifest: &Manifest) -> u64 {
        with_tables(manifest.disks.iter().fold(0, |sum: u64, d| sum.saturating_add(d.file_size.bytes())))
    }
}
