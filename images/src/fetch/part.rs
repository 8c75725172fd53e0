//! A file that comes in pieces.

use super::{ListedFile, PARTIAL};
use crate::blocking::blocking;
use crate::{Error, Result};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;
use vcl_types::Digest;

/// A file that is not whole yet: what came before is hashed, and what comes is added at its end.
#[derive(Debug)]
pub struct Part {
    file: File,
    path: PathBuf,
    target: PathBuf,
    listed: ListedFile,
    sha: Sha256,
    at: u64,
    resumed: bool,
}

impl Part {
    pub(super) fn open(target: PathBuf, listed: ListedFile, stop: &CancellationToken) -> Result<Self> {
        let mut name = target.as_os_str().to_owned();
        name.push(PARTIAL);
        let path = PathBuf::from(name);
        // A whole one of another length is no file of this revision.
        if target.symlink_metadata().is_ok() {
            std::fs::remove_file(&target).map_err(|e| failed(&target, e))?;
        }
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|e| failed(&path, e))?;
        let mut part = Self { file, path, target, listed, sha: Sha256::new(), at: 0, resumed: false };
        let there = part.file.metadata().map_err(|e| failed(&part.path, e))?.len();
        if there > part.listed.size {
            part.empty()?;
        }
        let mut piece = vec![0; 1 << 20];
        loop {
            if stop.is_cancelled() {
                return Err(Error::stopped(format!("reading {}", part.path.display())));
            }
            match part.file.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => {
                    part.sha.update(&piece[..n]);
                    part.at += n as u64;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(&part.path, e)),
            }
        }
        part.resumed = part.at > 0;
        Ok(part)
    }

    /// How many bytes of it are here.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }
    /// Whether all of them are.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.at == self.listed.size
    }
    /// Whether some of them were here when it was opened.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) when they are more than the file has;
    /// [`NoSpace`](crate::ErrorKind::NoSpace), [`Io`](crate::ErrorKind::Io). What was written counts the next time.
    pub async fn add(self, bytes: Vec<u8>) -> Result<Self> {
        blocking(move || self.write(&bytes)).await
    }

    fn write(mut self, bytes: &[u8]) -> Result<Self> {
        if self.at + bytes.len() as u64 > self.listed.size {
            let (name, size) = (&self.listed.name, self.listed.size);
            return Err(Error::corrupt(format!("{name} has {size} bytes, and more were sent")));
        }
        self.file.write_all(bytes).map_err(|e| failed(&self.path, e))?;
        self.sha.update(bytes);
        self.at += bytes.len() as u64;
        Ok(self)
    }

    /// Throws away what is here, to begin anew.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io).
    pub async fn restart(mut self) -> Result<Self> {
        blocking(move || {
            self.empty()?;
            Ok(self)
        })
        .await
    }

    fn empty(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(|e| failed(&self.path, e))?;
        self.file.seek(SeekFrom::Start(0)).map_err(|e| failed(&self.path, e))?;
        (self.sha, self.at, self.resumed) = (Sha256::new(), 0, false);
        Ok(())
    }

    /// Compares the digest, flushes the file and gives it its name. `Err` of the inner result is the part again, when
    /// its bytes are not those that they should be.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) when bytes are missing; [`NoSpace`](crate::ErrorKind::NoSpace),
    /// [`Io`](crate::ErrorKind::Io).
    pub async fn finish(self) -> Result<Result<(), Box<Self>>> {
        blocking(move || {
            if !self.is_whole() {
                let (name, at, size) = (&self.listed.name, self.at, self.listed.size);
                return Err(Error::corrupt(format!("{at} of the {size} bytes of {name} are here")));
            }
            let found = Digest::from_bytes(self.sha.clone().finalize().into());
            if found != self.listed.digest {
                return Ok(Err(Box::new(self)));
            }
            self.file.sync_all().map_err(|e| failed(&self.path, e))?;
            names_new(&self.path, &self.target)?;
            Ok(Ok(()))
        })
        .await
    }
}

fn names_new(from: &Path, to: &Path) -> Result<()> {
    crate::store::rename_new(from, to).map_err(|e| failed(to, e))
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    Error::io(format!("writing {name} that is being fetched"), error)
}
