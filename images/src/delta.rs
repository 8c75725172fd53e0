//! Revisions that are stored as what differs from their parent.
//!
//! A delta's disk is a qcow2 whose backing file is the parent's disk, named relative to its own directory
//! (`../../debian/1/disk0.qcow2`). That name holds in a staging directory, in the library and in the trash, which all
//! lie at one depth, and wherever the library is moved. It is written into the manifest as [`Over`], with the digest of
//! what the parent shows a guest. The parent's *file* may change: rewriting it whole keeps what it shows.
//!
//! Nothing else may have a backing file. What comes from outside is refused by [`sniff`](crate::sniff); a revision's
//! own disks are looked at each time it is got: the name in the header must be the one the manifest means.

use crate::names::{chunks_name, text};
use crate::qemu_img::Format;
use crate::{Error, ErrorKind, Library, Result, digest, sniff};
use std::path::{Path, PathBuf};
use vcl_types::{DiskRecord, ImageRef, Manifest, Over, Revision};

/// How many revisions may lie on one another before it is taken for a mistake. The configured limit is far below.
pub(crate) const DEEPEST: usize = 30;

/// A revision that a capture may be stored over, with the chunk digests of its disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    pub(crate) revision: Revision,
    pub(crate) contents: Vec<digest::Content>,
}

impl Base {
    /// The revision.
    #[must_use]
    pub fn revision(&self) -> &Revision {
        &self.revision
    }
    /// What a delta of the `n`th disk, counted from 0, lies on: the reference that its header must have, and the path
    /// of the parent's file. `None` when the parent has no such disk.
    #[must_use]
    pub fn disk(&self, n: usize) -> Option<(String, PathBuf)> {
        let over = self.over(n)?;
        Some((over.reference(), PathBuf::from(self.revision.path(&over.file))))
    }
    pub(crate) fn over(&self, n: usize) -> Option<Over> {
        let disk = self.revision.manifest.disks.get(n).filter(|d| d.format == Format::Qcow2.as_str())?;
        Some(Over {
            image: self.revision.manifest.image_ref(),
            file: disk.file.clone(),
            content_digest: disk.content_digest.clone(),
        })
    }
}

impl Library {
    /// The revision as something to store a capture over, if it is at hand: held here, its chain complete, its chunk
    /// digests those of its manifest. The disks themselves are not read again for it. `Err` says why it is not.
    ///
    /// # Errors
    /// As [`get`](Self::get); [`Corrupt`](ErrorKind::Corrupt) when its chunk digests are lost or others.
    pub fn base(&self, image: &ImageRef) -> Result<Base> {
        let revision = self.get(image)?;
        let depth = self.under(&revision)?.len() + 1;
        if depth >= DEEPEST {
            return Err(Error::refused(format!(
                "{image} lies on {depth} revisions; what lies on more is not read"
            )));
        }
        let contents = revision.manifest.disks.iter().map(|disk| {
            let path = PathBuf::from(revision.path(&chunks_name(&disk.file)));
            let content = digest::Content::read(&path, disk.virtual_size.bytes())?;
            if content.digest() == disk.content_digest {
                return Ok(content);
            }
            Err(Error::corrupt(format!("{} are not the chunk digests of {image}", path.display())))
        });
        let contents = contents.collect::<Result<_>>()?;
        Ok(Base { revision, contents })
    }

    /// The revision and those it lies on, the topmost first.
    ///
    /// # Errors
    /// As [`get`](Self::get), naming the revision of the chain that cannot be used.
    pub fn ancestry(&self, image: &ImageRef) -> Result<Vec<Revision>> {
        let top = self.one(image)?;
        let under = self.under(&top)?;
        Ok(std::iter::once(top).chain(under).collect())
    }

    /// The revisions that a revision lies on, the nearest first.
    pub(crate) fn under(&self, top: &Revision) -> Result<Vec<Revision>> {
        let image = top.manifest.image_ref();
        let mut chain: Vec<Revision> = Vec::new();
        while let Some(parent) = chain.last().unwrap_or(top).manifest.lies_on().cloned() {
            if chain.len() > DEEPEST {
                return Err(Error::corrupt(format!("{image} lies on more than {DEEPEST} revisions")));
            }
            let found = self.one(&parent).and_then(|found| {
                matches(&chain.last().unwrap_or(top).manifest, &found.manifest)?;
                Ok(found)
            });
            chain.push(found.map_err(|e| {
                let kind = if e.kind == ErrorKind::NotFound { ErrorKind::Corrupt } else { e.kind };
                Error::caused(kind, format!("{image} is stored over {parent}, which cannot be used"), e)
            })?);
        }
        Ok(chain)
    }
}

/// Whether a parent is what its child was made over.
fn matches(child: &Manifest, parent: &Manifest) -> Result<()> {
    for over in child.disks.iter().filter_map(|d| d.over.as_ref()) {
        let image = parent.image_ref();
        let Some(disk) = parent.disks.iter().find(|d| d.file == over.file) else {
            return Err(Error::corrupt(format!("{image} has no disk {}", over.file)));
        };
        if disk.content_digest != over.content_digest {
            let child = child.image_ref();
            return Err(Error::corrupt(format!("{image} is not the one that {child} was made over")));
        }
    }
    Ok(())
}

/// Whether the name of a backing file in a disk's header is exactly the one that its manifest means.
pub(crate) fn header(directory: &Path, disk: &DiskRecord) -> Result<()> {
    if disk.format != Format::Qcow2.as_str() {
        return Ok(());
    }
    let path = directory.join(&disk.file);
    let (found, expected) = (sniff::backing(&path)?, disk.over.as_ref().map(Over::reference));
    if found == expected {
        return Ok(());
    }
    let name = |name: Option<String>| name.map_or_else(|| "nothing".to_owned(), |name| format!("`{name}`"));
    let (found, expected) = (name(found), name(expected));
    Err(Error::corrupt(format!(
        "{} lies on {found}, and its manifest says that it lies on {expected}",
        text(&path)?
    )))
}

/// Which revisions are to be rewritten whole so that no chain is longer than `limit` files: the lowest of each chain
/// that is too long; what lies on it is shorter then by itself. Pure; revisions whose parent is not among them count as
/// if they lay on nothing.
#[must_use]
pub fn flatten_candidates(revisions: &[Manifest], limit: usize) -> Vec<ImageRef> {
    let parents: std::collections::BTreeMap<ImageRef, Option<&ImageRef>> =
        revisions.iter().map(|m| (m.image_ref(), m.lies_on())).collect();
    let depth = |image: &ImageRef| {
        let (mut depth, mut at) = (1, image);
        while let Some(Some(parent)) = parents.get(at).filter(|p| p.is_some_and(|p| parents.contains_key(p)))
        {
            depth += 1;
            at = parent;
            if depth > revisions.len() {
                break;
            }
        }
        depth
    };
    let limit = limit.max(1);
    parents.keys().filter(|image| depth(image) == limit + 1).cloned().collect()
}
