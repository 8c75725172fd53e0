//! Hashing what the guest sees.

use super::CHUNK;
use super::layout::Layout;
use crate::blocking::blocking;
use crate::progress::Counter;
use crate::{Error, Result};
use sha2::{Digest as _, Sha256};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio_util::sync::CancellationToken;
use vcl_types::Digest;

/// The chunk digests of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// What the guest sees, in bytes.
    pub virtual_size: u64,
    /// The SHA-256 of each chunk, in order.
    pub chunks: Vec<[u8; 32]>,
}

impl Content {
    /// The digest of the whole.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut sha = Sha256::new();
        sha.update(format!("vcl-content-1 {} {CHUNK}\n", self.virtual_size));
        for chunk in &self.chunks {
            sha.update(chunk);
        }
        Digest::from_bytes(sha.finalize().into())
    }
    /// Writes the chunk digests to a file, 32 bytes each, nothing else. A file that is there is overwritten; it is not
    /// flushed.
    ///
    /// # Errors
    /// [`NoSpace`](crate::ErrorKind::NoSpace), [`Io`](crate::ErrorKind::Io).
    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, self.chunks.as_flattened())
            .map_err(|e| Error::io(format!("writing {}", path.display()), e))
    }
    /// Reads the chunk digests of a disk that shows its guest `virtual_size` bytes.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) when the file has not 32 bytes for each chunk.
    pub fn read(path: &Path, virtual_size: u64) -> Result<Self> {
        let failed = |e| Error::io(format!("reading {}", path.display()), e);
        let expected = virtual_size.div_ceil(CHUNK) * 32;
        let length = std::fs::metadata(path).map_err(failed)?.len();
        if length != expected {
            let path = path.display();
            return Err(Error::corrupt(format!(
                "{path} has {length} bytes; its disk has {expected} of digests"
            )));
        }
        let bytes = std::fs::read(path).map_err(failed)?;
        Ok(Self { virtual_size, chunks: bytes.as_chunks().0.to_vec() })
    }
    /// The numbers of the chunks in which two disks differ.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<usize> {
        let longest = self.chunks.len().max(other.chunks.len());
        (0..longest).filter(|i| self.chunks.get(*i) != other.chunks.get(*i)).collect()
    }
}

/// Hashes all chunks on so many blocking threads.
pub(super) async fn hash(
    layout: Layout,
    threads: usize,
    stop: &CancellationToken,
    counter: &Counter,
) -> Result<Content> {
    let work = Arc::new(Work {
        zero: Sha256::digest(vec![0; CHUNK as usize]).into(),
        layout,
        next: AtomicUsize::new(0),
        // One thread that fails makes the others stop.
        stop: stop.child_token(),
        counter: counter.clone(),
    });
    let run = || {
        let work = work.clone();
        blocking(move || {
            let done = work.run();
            if done.is_err() {
                work.stop.cancel();
            }
            done
        })
    };
    let parts = if threads > 1 {
        let (a, b) = tokio::join!(run(), run());
        // The one that failed by itself says why; the other was only told to stop.
        match (a, b) {
            (Err(a), Err(b)) if matches!(a.kind, crate::ErrorKind::Job(_)) => return Err(b),
            (a, b) => vec![a?, b?],
        }
    } else {
        vec![run().await?]
    };
    let mut chunks = vec![[0; 32]; work.layout.chunks()];
    for (chunk, digest) in parts.into_iter().flatten() {
        chunks[chunk] = digest;
    }
    Ok(Content { virtual_size: work.layout.virtual_size(), chunks })
}

struct Work {
    layout: Layout,
    next: AtomicUsize,
    zero: [u8; 32],
    stop: CancellationToken,
    counter: Counter,
}

impl Work {
    /// Takes chunk after chunk until none is left.
    fn run(&self) -> Result<Vec<(usize, [u8; 32])>> {
        let (mut done, mut buffer) = (Vec::new(), vec![0; CHUNK as usize]);
        loop {
            let chunk = self.next.fetch_add(1, Ordering::Relaxed);
            if chunk >= self.layout.chunks() {
                return Ok(done);
            }
            if self.stop.is_cancelled() {
                return Err(Error::stopped("hashing what the guest sees"));
            }
            if let Some(digest) = self.layout.inherited(chunk) {
                done.push((chunk, digest));
                continue;
            }
            let buffer = &mut buffer[..self.layout.chunk_length(chunk)];
            let digest = match self.layout.read(chunk, buffer)? {
                None if buffer.len() as u64 == CHUNK => self.zero,
                read => {
                    let digest = Sha256::digest(&*buffer).into();
                    self.counter.add(read.unwrap_or(0));
                    digest
                }
            };
            done.push((chunk, digest));
        }
    }
}
