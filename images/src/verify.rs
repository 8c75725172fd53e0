//! Whether a revision is still what its manifest says.

use crate::names::chunks_name;
use crate::progress::Counter;
use crate::qemu_img::Format;
use crate::seal::Both;
use crate::{Error, ErrorKind, Library, Progress, Result, delta, digest};
use std::fmt;
use std::path::{Path, PathBuf};
use vcl_job::Cx;
use vcl_types::{Digest, DiskRecord, ImageRef, Revision};

/// A file of a revision that is not what the manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The file's name.
    pub file: String,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is not there.
    Missing,
    /// Its bytes are others.
    File {
        /// The digest in the manifest.
        expected: Digest,
        /// The digest it has.
        found: Digest,
    },
    /// The guest would see other bytes.
    Content {
        /// The digest in the manifest.
        expected: Digest,
        /// The digest it has.
        found: Digest,
        /// The chunks of 4 MiB that differ, where the chunk digests beside the disk are those of the manifest.
        chunks: Vec<usize>,
    },
    /// It cannot be read as what it should be.
    Unreadable(String),
    /// A revision that it lies on is broken.
    Parent {
        /// Which.
        image: ImageRef,
        /// What is wrong with it.
        why: String,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = &self.file;
        match &self.fault {
            Fault::Missing => write!(f, "{file} is missing"),
            Fault::File { expected, found } => {
                write!(f, "{file} has digest {found}, its manifest says {expected}")
            }
            Fault::Content { chunks, .. } if chunks.is_empty() => {
                write!(f, "{file} does not show a guest what it should")
            }
            Fault::Content { chunks, .. } => {
                write!(f, "{file} does not show a guest what it should, in {} chunks of 4 MiB", chunks.len())
            }
            Fault::Parent { image, why } => write!(f, "{file} lies on {image}, which is broken: {why}"),
            Fault::Unreadable(why) => write!(f, "{file} cannot be read: {why}"),
        }
    }
}

/// How often a revision is read again because it, or what it lies on, was rewritten whole meanwhile.
const TRIES: usize = 4;

impl Library {
    /// Reads every disk of a revision, makes both digests and compares them with the manifest; the files beside the disks,
    /// too. Of the revisions it lies on, the files are compared: one that is broken is reported with its name. Progress
    /// counts bytes hashed. An empty answer means that all is well.
    ///
    /// # Errors
    /// When it cannot be told: told to stop, or no room for the raw copy that some disks need. What is wrong with the
    /// revision is no error.
    pub async fn verify(&self, cx: &Cx, revision: &Revision, progress: &Progress) -> Result<Vec<Mismatch>> {
        let mut top = revision.clone();
        let mut tries = 1;
        loop {
            let mut found = self.compare_all(cx, &top, progress).await?;
            let under = self.under(&top);
            match &under {
                Ok(under) => {
                    for parent in under {
                        found.extend(self.compare_parent(cx, &top, parent).await?);
                    }
                }
                Err(e) => found.push(Mismatch { file: lying(&top), fault: Fault::Unreadable(said(e)) }),
            }
            if found.is_empty() || tries >= TRIES {
                return Ok(found);
            }
            // A revision is rewritten whole by one rename: then what was read was half the old one, half the new.
            let Ok(now) = self.one(&top.manifest.image_ref()) else { return Ok(found) };
            let manifests = |all: &[Revision]| all.iter().map(|r| r.manifest.clone()).collect::<Vec<_>>();
            let was = under.ok().map(|under| manifests(&under));
            if now.manifest == top.manifest && self.under(&now).ok().map(|under| manifests(&under)) == was {
                return Ok(found);
            }
            top = now;
            tries += 1;
        }
    }

    /// What is wrong with the files of a revision that another lies on, as the other's fault.
    async fn compare_parent(&self, cx: &Cx, child: &Revision, parent: &Revision) -> Result<Vec<Mismatch>> {
        let mut found = Vec::new();
        let image = parent.manifest.image_ref();
        for disk in &parent.manifest.disks {
            let path = PathBuf::from(parent.path(&disk.file));
            if let Some(why) = compare_file(cx, &path, &disk.file_digest).await? {
                let fault = Fault::Parent {
                    image: image.clone(),
                    why: Mismatch { file: disk.file.clone(), fault: why }.to_string(),
                };
                found.push(Mismatch { file: lying(child), fault });
            }
        }
        Ok(found)
    }

    async fn compare_all(&self, cx: &Cx, revision: &Revision, progress: &Progress) -> Result<Vec<Mismatch>> {
        let mut found = Vec::new();
        let mut ready = Vec::new();
        for disk in &revision.manifest.disks {
            let path = PathBuf::from(revision.path(&disk.file));
            let format: Format = disk.format.parse()?;
            if let Err(e) = delta::header(Path::new(&revision.directory), disk) {
                found.push(Mismatch { file: disk.file.clone(), fault: fault(e)? });
                continue;
            }
            let plan = digest::plan(cx, &path, format, &self.staging_root(), None).await;
            match plan.and_then(|plan| Ok((length(&path)?, plan))) {
                Ok((length, plan)) => ready.push((disk, path, length, plan)),
                Err(e) => found.push(Mismatch { file: disk.file.clone(), fault: fault(e)? }),
            }
        }
        let counter =
            Counter::new(progress, ready.iter().map(|(_, _, length, plan)| length + plan.bytes()).sum());
        for (disk, path, _, plan) in ready {
            let stop = cx.token().child_token();
            let _guard = stop.clone().drop_guard();
            match (Both { path: &path, plan, counter: &counter, stop: &stop }).make().await {
                Ok((file, content)) => found.extend(compare(disk, &path, &file.digest, &content)),
                Err(e) => found.push(Mismatch { file: disk.file.clone(), fault: fault(e)? }),
            }
        }
        let manifest = &revision.manifest;
        let firmware = manifest.firmware.iter().map(|f| (&f.file, &f.file_digest));
        for (file, digest) in firmware.chain(manifest.boot_files.iter().map(|f| (&f.file, &f.digest))) {
            let fault = compare_file(cx, Path::new(&revision.path(file)), digest).await?;
            found.extend(fault.map(|fault| Mismatch { file: file.clone(), fault }));
        }
        Ok(found)
    }
}

/// The disk of a revision that lies on its parent's.
fn lying(revision: &Revision) -> String {
    let disks = &revision.manifest.disks;
    disks.iter().find(|d| d.over.is_some()).or(disks.first()).map_or_else(String::new, |d| d.file.clone())
}

fn said(error: &Error) -> String {
    let (mut text, mut next) = (error.to_string(), std::error::Error::source(error));
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

async fn compare_file(cx: &Cx, path: &Path, expected: &Digest) -> Result<Option<Fault>> {
    match digest::file(cx, path, &Progress::none()).await {
        Ok(file) if file.digest == *expected => Ok(None),
        Ok(file) => Ok(Some(Fault::File { expected: expected.clone(), found: file.digest })),
        Err(e) => Ok(Some(fault(e)?)),
    }
}

fn length(path: &Path) -> Result<u64> {
    path.metadata().map(|m| m.len()).map_err(|e| Error::io(format!("reading {}", path.display()), e))
}

fn compare(disk: &DiskRecord, path: &Path, file: &Digest, content: &digest::Content) -> Vec<Mismatch> {
    let mismatch = |fault| Mismatch { file: disk.file.clone(), fault };
    let mut found = Vec::new();
    if *file != disk.file_digest {
        found.push(mismatch(Fault::File { expected: disk.file_digest.clone(), found: file.clone() }));
    }
    let digest = content.digest();
    if digest != disk.content_digest {
        let beside = path.with_file_name(chunks_name(&disk.file));
        let chunks = digest::Content::read(&beside, disk.virtual_size.bytes())
            .ok()
            .filter(|was| was.digest() == disk.content_digest)
            .map(|was| was.differences(content))
            .unwrap_or_default();
        found.push(mismatch(Fault::Content { expected: disk.content_digest.clone(), found: digest, chunks }));
    }
    found
}

/// What of an error tells of the file, and not of us.
fn fault(error: Error) -> Result<Fault> {
    match error.kind {
        ErrorKind::NotFound => Ok(Fault::Missing),
        ErrorKind::Corrupt | ErrorKind::Refused | ErrorKind::Fatal | ErrorKind::Io => {
            Ok(Fault::Unreadable(vcl_job::Error::from(error).failure().message))
        }
        _ => Err(error),
    }
}
