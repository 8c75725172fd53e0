//! Raw disks on this node while they are sent or fetched: read and written in pieces by threads beside the connection,
//! sparsely, with the digests of the chunks that `content` is made of.

use crate::{Error, ErrorKind, Result};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;
use vcl_images::digest::{CHUNK, Content};

/// How much is read and sent at once.
const PIECE: usize = 1 << 20;

/// The chunk digests of what flows by.
struct Chunks {
    done: Vec<[u8; 32]>,
    sha: Sha256,
    filled: u64,
}

impl Chunks {
    fn new() -> Self {
        Self { done: Vec::new(), sha: Sha256::new(), filled: 0 }
    }
    fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(CHUNK - self.filled).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.sha.update(now);
            self.filled += now.len() as u64;
            bytes = later;
            if self.filled == CHUNK {
                self.end();
            }
        }
    }
    fn end(&mut self) {
        self.done.push(std::mem::take(&mut self.sha).finalize().into());
        self.filled = 0;
    }
    fn finish(mut self) -> Vec<[u8; 32]> {
        if self.filled > 0 {
            self.end();
        }
        self.done
    }
}

/// Reads a file from a place on. The digests are of what was read.
pub(super) fn read_pieces(
    path: &Path,
    at: u64,
    to: &mpsc::Sender<std::io::Result<Vec<u8>>>,
) -> std::io::Result<Vec<[u8; 32]>> {
    let mut chunks = Chunks::new();
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(at))?;
    loop {
        let mut piece = vec![0; PIECE];
        match file.read(&mut piece) {
            Ok(0) => return Ok(chunks.finish()),
            Ok(n) => {
                piece.truncate(n);
                chunks.add(&piece);
                // Nobody takes it any more: the transfer broke.
                if to.blocking_send(Ok(piece)).is_err() {
                    return Ok(chunks.finish());
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => {
                let said = std::io::Error::new(e.kind(), e.to_string());
                let _ = to.blocking_send(Err(said));
                return Err(e);
            }
        }
    }
}

/// Writes what comes; zeros become holes.
pub(super) fn write_pieces(
    path: &Path,
    size: u64,
    mut from: mpsc::Receiver<bytes::Bytes>,
) -> std::io::Result<Vec<[u8; 32]>> {
    const BLOCK: usize = 4096;
    let mut chunks = Chunks::new();
    let mut file = File::create(path)?;
    file.set_len(size)?;
    let mut at = 0u64;
    let mut buffer: Vec<u8> = Vec::with_capacity(2 * PIECE);
    loop {
        let piece = from.blocking_recv();
        let last = piece.is_none();
        if let Some(piece) = piece {
            buffer.extend_from_slice(&piece);
            if buffer.len() < PIECE {
                continue;
            }
        }
        let whole = if last { buffer.len() } else { buffer.len() / BLOCK * BLOCK };
        chunks.add(&buffer[..whole]);
        // Runs of blocks that are, or are not, all zeros.
        let mut run = 0;
        while run < whole {
            let zeros = |start: usize| buffer[start..whole.min(start + BLOCK)].iter().all(|b| *b == 0);
            let (hole, mut end) = (zeros(run), whole.min(run + BLOCK));
            while end < whole && zeros(end) == hole {
                end = whole.min(end + BLOCK);
            }
            if !hole {
                file.seek(SeekFrom::Start(at + run as u64))?;
                file.write_all(&buffer[run..end])?;
            }
            run = end;
        }
        at += whole as u64;
        buffer.drain(..whole);
        if last {
            return Ok(chunks.finish());
        }
    }
}

/// The digest of a local file of raw bytes.
pub(super) async fn read_all(path: PathBuf, size: u64) -> Result<Content> {
    let what = format!("reading {}", path.display());
    let hash = move || {
        let (mut chunks, mut file, mut piece) = (Chunks::new(), File::open(path)?, vec![0; PIECE]);
        loop {
            match file.read(&mut piece)? {
                0 => return Ok::<_, std::io::Error>(chunks.finish()),
                n => chunks.add(&piece[..n]),
            }
        }
    };
    let hashed = tokio::task::spawn_blocking(hash).await;
    let chunks = hashed.map_err(|e| Error::caused(ErrorKind::Failed, &*what, e))?;
    let chunks = chunks.map_err(|e| Error::caused(ErrorKind::Failed, &*what, e))?;
    Ok(Content { virtual_size: size, chunks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_written_sparsely_is_what_came_and_digests_agree() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("raw");
        let size = 9 * 1024 * 1024 + 77;
        let mut bytes = vec![0u8; size];
        for (n, byte) in bytes.iter_mut().enumerate() {
            if (n / 100_000).is_multiple_of(3) {
                *byte = (n % 251) as u8;
            }
        }
        let (pieces, read) = mpsc::channel(2);
        let to = path.clone();
        let writing = tokio::task::spawn_blocking(move || write_pieces(&to, size as u64, read));
        for piece in bytes.chunks(70_001) {
            pieces.send(bytes::Bytes::copy_from_slice(piece)).await.unwrap();
        }
        drop(pieces);
        let written = writing.await.unwrap().unwrap();
        assert!(std::fs::read(&path).unwrap() == bytes);
        let read = read_all(path.clone(), size as u64).await.unwrap();
        assert_eq!(read.chunks, written);
        assert_eq!(written.len(), 3);
        let (pieces, mut sent) = mpsc::channel(64);
        let reading = tokio::task::spawn_blocking(move || read_pieces(&path, 0, &pieces));
        let mut came = Vec::new();
        while let Some(piece) = sent.recv().await {
            came.extend(piece.unwrap());
        }
        assert!(came == bytes);
        assert_eq!(reading.await.unwrap().unwrap(), written);
    }
}
