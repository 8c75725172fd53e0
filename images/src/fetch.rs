//! Having a revision from another node: the side of the files.
//!
//! ```text
//!  there:  listing ──► its manifest, and each file with its length and SHA-256
//!  here:   .staging/fetch+NODE+IMAGE+NUMBER/   disk0.qcow2.partial ──► disk0.qcow2 ──► publish, as all else
//! ```
//!
//! * The staging's name follows from the revision and the node, so that whoever fetches it next goes on where the one
//!   before was cut off. It is locked while somebody works in it, and the lock ends with its process.
//! * A `.partial` file is only ever added to. What it holds is hashed when it is opened, and the rest as it comes; it
//!   gets its name when its length and its digest are the listing's, after it was flushed.
//! * A listing is untrusted: it has to be of exactly the manifest that the database has, and to name no file but those.

mod part;

pub use part::Part;

use crate::blocking::blocking;
use crate::library::Staging;
use crate::manifest::{self, files};
use crate::names::{MANIFEST, chunks_name, entries, file_name};
use crate::progress::{Counter, Progress};
use crate::{Error, Library, Result, digest};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;
use vcl_types::{Digest, ImageRef, Manifest, Revision};

/// What the names of stagings that are fetched into begin with.
pub const PREFIX: &str = "fetch+";

/// How the names of files end that are not whole yet.
const PARTIAL: &str = ".partial";
/// How long a file may be that the manifest gives no length for, in bytes: firmware variables; a kernel and an initrd where
/// the manifest is from before they had digests.
const LARGEST_SMALL: u64 = 4 << 30;

/// What a node gives of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Its manifest.
    pub manifest: Manifest,
    /// Its files, but for the manifest's own.
    pub files: Vec<ListedFile>,
}

/// One file of a [`Listing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedFile {
    /// Its name in the revision's directory.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
    /// SHA-256 of all its bytes.
    pub digest: Digest,
}

impl Listing {
    /// What all files have together, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.files.iter().map(|f| f.size).sum()
    }
    /// Whether it is of the revision that is wanted, and can be.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt), naming what is wrong.
    pub fn check(&self, wanted: &Manifest) -> Result<()> {
        let image = wanted.image_ref();
        let wrong = |what: String| Err(Error::corrupt(format!("what is offered as {image} is not: {what}")));
        if self.manifest != *wanted {
            return wrong("its manifest is not the one that the database has".into());
        }
        manifest::check(wanted)?;
        let mut expected: BTreeMap<String, (Option<u64>, Option<&Digest>)> =
            files(wanted).map(|name| (name.to_owned(), (None, None))).collect();
        for disk in &wanted.disks {
            expected.insert(disk.file.clone(), (Some(disk.file_size.bytes()), Some(&disk.file_digest)));
        }
        if let Some(firmware) = &wanted.firmware {
            expected.insert(firmware.file.clone(), (None, Some(&firmware.file_digest)));
        }
        for file in &wanted.boot_files {
            expected.insert(file.file.clone(), (Some(file.size.bytes()), Some(&file.digest)));
        }
        let beside: BTreeMap<String, u64> = wanted
            .disks
            .iter()
            .map(|d| (chunks_name(&d.file), d.virtual_size.bytes().div_ceil(digest::CHUNK) * 32))
            .collect();
        for file in &self.files {
            let name = &file.name;
            let (size, digest) = match (expected.remove(name), beside.get(name)) {
                (Some(known), _) => known,
                (None, Some(size)) if self.files.iter().filter(|f| f.name == *name).count() == 1 => {
                    (Some(*size), None)
                }
                _ => {
                    return wrong(format!(
                        "it has a file {:?} that the manifest does not name",
                        shorten(name)
                    ));
                }
            };
            file_name(name)?;
            if size.is_some_and(|size| size != file.size) || file.size > size.unwrap_or(LARGEST_SMALL) {
                return wrong(format!("{name} has {} bytes there", file.size));
            }
            if digest.is_some_and(|digest| *digest != file.digest) {
                return wrong(format!("{name} has another digest there than the manifest says"));
            }
        }
        match expected.keys().next() {
            Some(name) => wrong(format!("it lacks {name}")),
            None => Ok(()),
        }
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A revision in a directory that is no library's own: one that was set aside.
///
/// # Errors
/// [`NotFound`](crate::ErrorKind::NotFound), [`Corrupt`](crate::ErrorKind::Corrupt).
pub fn revision_at(directory: &Path) -> Result<Revision> {
    let manifest = manifest::read(directory)?;
    Ok(Revision { manifest, directory: crate::names::text(directory)?.to_owned() })
}

/// What a revision has, wherever it lies. Files that the manifest has no digest of are read for it.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io), or told to stop.
pub async fn listing_of(revision: Revision, stop: &CancellationToken) -> Result<Listing> {
    let stop = stop.clone();
    blocking(move || list(revision, &stop)).await
}

impl Library {
    /// The staging that a node fetches a revision in. It is the same each time, which is what a cut fetch goes on from.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) when the reference has no number.
    pub fn fetch_name(node: &str, image: &ImageRef) -> Result<String> {
        let Some(number) = image.revision else {
            return Err(Error::refused(format!("`{image}` names no revision; write `{image}@1`")));
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        let node = if node.len() <= 32 && node.chars().all(plain) {
            node.to_owned()
        } else {
            let digest: [u8; 32] = Sha256::digest(node.as_bytes()).into();
            Digest::from_bytes(digest).as_str()[..16].to_owned()
        };
        Ok(format!("{PREFIX}{node}+{}+{number}", image.name))
    }

    /// Where a revision lies here, or will when it has been fetched.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) when the manifest cannot be one of this library.
    pub fn future(&self, manifest: &Manifest) -> Result<Revision> {
        let directory = self.root().join(manifest.image.as_str()).join(manifest.revision.to_string());
        Ok(Revision { manifest: manifest.clone(), directory: crate::names::text(&directory)?.to_owned() })
    }

    /// What this library gives others of a revision. Files that the manifest has no digest of are read for it.
    ///
    /// # Errors
    /// As [`get`](Self::get), or told to stop.
    pub async fn listing(&self, image: &ImageRef, stop: &CancellationToken) -> Result<Listing> {
        let revision = self.get(image)?;
        let stop = stop.clone();
        blocking(move || list(revision, &stop)).await
    }

    /// One file that this library gives others of a revision, and where it lies. `None` for a name that is none of it.
    ///
    /// # Errors
    /// As [`listing`](Self::listing).
    pub async fn listed(
        &self,
        image: &ImageRef,
        name: &str,
        stop: &CancellationToken,
    ) -> Result<Option<(ListedFile, PathBuf)>> {
        let revision = self.get(image)?;
        let (name, stop) = (name.to_owned(), stop.clone());
        blocking(move || {
            if !given(&revision).contains(&name) {
                return Ok(None);
            }
            let path = Path::new(&revision.directory).join(&name);
            Ok(Some((list_one(&revision, &name, &stop)?, path)))
        })
        .await
    }

    /// Takes the staging of that name to fetch into, made if it is not there. `None` while another has it.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) when the name is none, [`NoSpace`](crate::ErrorKind::NoSpace).
    pub fn fetching(&self, name: &str) -> Result<Option<Fetching>> {
        loop {
            let staging = self.staging(name)?;
            let shown = staging.directory().display().to_string();
            let failed = |e| Error::io(format!("locking {shown}"), e);
            let lock = match File::open(staging.directory()) {
                // It was published, or thrown away, by whoever had it.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                opened => opened.map_err(failed)?,
            };
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(e) => return Err(failed(e.into())),
            }
            let mine = lock.metadata().map_err(failed)?;
            match staging.directory().symlink_metadata() {
                Ok(there) if (there.dev(), there.ino()) == (mine.dev(), mine.ino()) => {
                    return Ok(Some(Fetching { staging, library: self.clone(), _lock: lock }));
                }
                _ => {}
            }
        }
    }
}

/// A staging that a revision is fetched into. Nobody else has it until this is dropped.
#[derive(Debug)]
pub struct Fetching {
    staging: Staging,
    library: Library,
    _lock: File,
}

impl Fetching {
    /// The staging.
    #[must_use]
    pub fn staging(&self) -> &Staging {
        &self.staging
    }
    /// Removes what is of no listing: another try's files, after the source was found to be another one.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io).
    pub fn keep_only(&self, listing: &Listing) -> Result<()> {
        let known: BTreeSet<&str> = listing.files.iter().map(|f| f.name.as_str()).collect();
        for (name, path) in entries(self.staging.directory())? {
            let whole = name.strip_suffix(PARTIAL).unwrap_or(&name);
            if !known.contains(whole) || name == MANIFEST {
                self.library.store().remove(&path)?;
            }
        }
        Ok(())
    }
    /// Whether the file is there whole. It got its name after its digest was compared.
    #[must_use]
    pub fn has(&self, file: &ListedFile) -> bool {
        let path = self.staging.directory().join(&file.name);
        path.symlink_metadata().is_ok_and(|meta| meta.is_file() && meta.len() == file.size)
    }
    /// How many bytes of a listing are here already.
    #[must_use]
    pub fn present(&self, listing: &Listing) -> u64 {
        let length = |name: &str| {
            let path = self.staging.directory().join(name);
            path.symlink_metadata().map_or(0, |meta| meta.len())
        };
        listing
            .files
            .iter()
            .map(|f| if self.has(f) { f.size } else { length(&format!("{}{PARTIAL}", f.name)).min(f.size) })
            .sum()
    }
    /// Opens a file that is not whole yet, to go on with it. What it holds is read, for its digest.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io), [`NoSpace`](crate::ErrorKind::NoSpace), or told to stop.
    pub async fn part(&self, file: &ListedFile, stop: &CancellationToken) -> Result<Part> {
        let path = self.staging.path(&file.name)?;
        let (file, stop) = (file.clone(), stop.clone());
        blocking(move || Part::open(path, file, &stop)).await
    }
    /// Throws everything away that was fetched.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io).
    pub async fn discard(self) -> Result<()> {
        self.library.discard_staging(self.staging.name()).await?;
        Ok(())
    }
}

/// The names of the files that are given to others.
fn given(revision: &Revision) -> Vec<String> {
    let manifest = &revision.manifest;
    let mut names: Vec<String> = files(manifest).map(str::to_owned).collect();
    let beside = manifest.disks.iter().map(|d| chunks_name(&d.file));
    names.extend(beside.filter(|name| Path::new(&revision.directory).join(name).is_file()));
    names
}

fn list(revision: Revision, stop: &CancellationToken) -> Result<Listing> {
    let names = given(&revision);
    let files = names.iter().map(|name| list_one(&revision, name, stop)).collect::<Result<_>>()?;
    Ok(Listing { manifest: revision.manifest, files })
}

fn list_one(revision: &Revision, name: &str, stop: &CancellationToken) -> Result<ListedFile> {
    let path = Path::new(&revision.directory).join(name);
    let manifest = &revision.manifest;
    let disks = manifest.disks.iter().map(|d| (&d.file, &d.file_digest));
    let boot = manifest.boot_files.iter().map(|f| (&f.file, &f.digest));
    let mut known = disks.chain(manifest.firmware.iter().map(|f| (&f.file, &f.file_digest))).chain(boot);
    if let Some((_, digest)) = known.find(|(file, _)| *file == name) {
        let meta =
            path.symlink_metadata().map_err(|e| Error::io(format!("reading {}", path.display()), e))?;
        return Ok(ListedFile { name: name.to_owned(), size: meta.len(), digest: digest.clone() });
    }
    let made = digest::read_file(&path, stop, &Counter::new(&Progress::none(), 0))?;
    Ok(ListedFile { name: name.to_owned(), size: made.size, digest: made.digest })
}
