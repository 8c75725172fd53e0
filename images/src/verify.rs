//! Whether a revision is still what its manifest says.

use crate::names::chunks_name;
use crate::progress::Counter;
use crate::qemu_img::Format;
use crate::seal::Both;
use crate::{Error, ErrorKind, Library, Progress, Result, digest};
use std::fmt;
use std::path::{Path, PathBuf};
use vcl_job::Cx;
use vcl_types::{Digest, DiskRecord, Revision};

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
            Fault::Unreadable(why) => write!(f, "{file} cannot be read: {why}"),
        }
    }
}

impl Library {
    /// Reads every disk of a revision, makes both digests and compares them with the manifest; the firmware's file too.
    /// Progress counts bytes hashed. An empty answer means that all is well.
    ///
    /// # Errors
    /// When it cannot be told: told to stop, or no room for the raw copy that some disks need. What is wrong with the
    /// revision is no error.
    pub async fn verify(&self, cx: &Cx, revision: &Revision, progress: &Progress) -> Result<Vec<Mismatch>> {
        let mut found = Vec::new();
        let mut ready = Vec::new();
        for disk in &revision.manifest.disks {
            let path = PathBuf::from(revision.path(&disk.file));
            let format: Format = disk.format.parse()?;
            let plan = digest::plan(cx, &path, format, &self.staging_root()).await;
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
        if let Some(firmware) = &revision.manifest.firmware {
            let path = PathBuf::from(revision.path(&firmware.file));
            let expected = &firmware.file_digest;
            let fault = match digest::file(cx, &path, &Progress::none()).await {
                Ok(file) if file.digest == *expected => None,
                Ok(file) => Some(Fault::File { expected: expected.clone(), found: file.digest }),
                Err(e) => Some(fault(e)?),
            };
            found.extend(fault.map(|fault| Mismatch { file: firmware.file.clone(), fault }));
        }
        Ok(found)
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
