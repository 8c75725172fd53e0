//! Where the bytes that a guest sees lie in files.

use super::{CHUNK, Content};
use crate::qemu_img::{Extent, Format, Info};
use crate::{Error, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A run of stored bytes.
#[derive(Debug, Clone, Copy)]
struct Run {
    start: u64,
    end: u64,
    layer: usize,
    offset: u64,
}

/// A disk: the runs of stored bytes in the guest's order; everything between them is zeros.
#[derive(Debug)]
pub(super) struct Layout {
    virtual_size: u64,
    files: Vec<(PathBuf, File)>,
    runs: Vec<Run>,
    /// The digests of the chunks that are the parent's, `None` for a chunk that must be read. Empty without a parent.
    inherited: Vec<Option<[u8; 32]>>,
}

/// The chunks that a disk has from what it lies on: those of which the topmost image holds nothing, and which are as
/// long in both.
fn inherit(parent: &Content, virtual_size: u64, extents: &[Extent]) -> Vec<Option<[u8; 32]>> {
    let length = |size: u64, chunk: usize| size.saturating_sub(chunk as u64 * CHUNK).min(CHUNK);
    let mut chunks: Vec<_> = (0..virtual_size.div_ceil(CHUNK) as usize)
        .map(|i| {
            let same = length(virtual_size, i) == length(parent.virtual_size, i);
            parent.chunks.get(i).copied().filter(|_| same)
        })
        .collect();
    for own in extents.iter().filter(|e| e.depth == 0 && e.length > 0) {
        let (first, last) = (own.start / CHUNK, own.start.saturating_add(own.length - 1) / CHUNK);
        for chunk in chunks.iter_mut().take(last as usize + 1).skip(first as usize) {
            *chunk = None;
        }
    }
    chunks
}

impl Layout {
    /// Of a chain and its map. `None` when some of the bytes that must be read lie in no file as they are. Of a disk that
    /// lies on one whose chunks are known, only the chunks that the disk itself has a part of are read.
    pub(super) fn of(layers: &[Info], extents: &[Extent], parent: Option<&Content>) -> Result<Option<Self>> {
        let Some(top) = layers.first() else { return Ok(None) };
        let name = top.path.display();
        let (mut at, mut runs, mut lengths) = (0, Vec::new(), Vec::new());
        let mut files = Vec::new();
        for layer in layers {
            let failed = |e| Error::io(format!("reading {}", layer.path.display()), e);
            let file = File::open(&layer.path).map_err(failed)?;
            lengths.push(file.metadata().map_err(failed)?.len());
            files.push((layer.path.clone(), file));
        }
        let inherited = parent.map(|p| inherit(p, top.virtual_size, extents)).unwrap_or_default();
        for extent in extents {
            let end = extent.start.checked_add(extent.length);
            let Some(end) = end.filter(|_| extent.start == at && extent.length > 0) else {
                return Err(Error::corrupt(format!("the map of {name} has a gap at byte {at}")));
            };
            at = end;
            let chunks = extent.start / CHUNK..=(at - 1) / CHUNK;
            let known = |chunk: u64| inherited.get(chunk as usize).is_some_and(Option::is_some);
            if extent.zero || chunks.clone().all(known) {
                continue;
            }
            let plain = layers.get(extent.depth).is_some_and(|layer| {
                matches!(layer.format, Format::Raw | Format::Qcow2) && layer.data_file.is_none()
            });
            let Some(offset) = extent.offset.filter(|_| plain && extent.data && !extent.compressed) else {
                return Ok(None);
            };
            // The last cluster of a qcow2 may be cut short where zeros would follow; one that begins past the end of
            // the file is lost.
            if offset >= lengths[extent.depth] {
                let (layer, length) = (layers[extent.depth].path.display(), lengths[extent.depth]);
                return Err(Error::corrupt(format!(
                    "{layer} is cut off: it has {length} bytes and keeps data at byte {offset}"
                )));
            }
            runs.push(Run { start: extent.start, end, layer: extent.depth, offset });
        }
        if at != top.virtual_size {
            let size = top.virtual_size;
            return Err(Error::corrupt(format!("the map of {name} ends at byte {at} of {size}")));
        }
        Ok(Some(Self { virtual_size: at, files, runs, inherited }))
    }

    pub(super) fn virtual_size(&self) -> u64 {
        self.virtual_size
    }
    pub(super) fn data_bytes(&self) -> u64 {
        self.runs.iter().map(|r| r.end - r.start).sum()
    }
    /// The digest of a chunk that is the parent's.
    pub(super) fn inherited(&self, chunk: usize) -> Option<[u8; 32]> {
        self.inherited.get(chunk).copied().flatten()
    }
    /// The files as they were opened: which they are, whatever their names mean by now.
    pub(super) fn inodes(&self) -> std::io::Result<Vec<u64>> {
        use std::os::unix::fs::MetadataExt;
        self.files.iter().map(|(_, file)| Ok(file.metadata()?.ino())).collect()
    }
    /// How many chunks there are.
    pub(super) fn chunks(&self) -> usize {
        self.virtual_size.div_ceil(CHUNK) as usize
    }
    /// The length of a chunk.
    pub(super) fn chunk_length(&self, chunk: usize) -> usize {
        (self.virtual_size - chunk as u64 * CHUNK).min(CHUNK) as usize
    }
    /// Reads a chunk into `buffer`, which is as long as the chunk, and says how many bytes came from files; `None`, and
    /// nothing read, when all of it is known to be zeros.
    pub(super) fn read(&self, chunk: usize, buffer: &mut [u8]) -> Result<Option<u64>> {
        let from = chunk as u64 * CHUNK;
        let to = from + buffer.len() as u64;
        let first = self.runs.partition_point(|r| r.end <= from);
        let (mut filled, mut read) = (0usize, 0u64);
        for run in self.runs[first..].iter().take_while(|r| r.start < to) {
            let (start, end) = (run.start.max(from), run.end.min(to));
            let (a, b) = ((start - from) as usize, (end - from) as usize);
            buffer[filled..a].fill(0);
            self.read_at(run.layer, &mut buffer[a..b], run.offset + (start - run.start))?;
            filled = b;
            read += end - start;
        }
        buffer[filled..].fill(0);
        Ok((read > 0).then_some(read))
    }
    /// Reads what is there and zeros past the end of the file, as qemu does.
    fn read_at(&self, layer: usize, mut buffer: &mut [u8], mut offset: u64) -> Result<()> {
        let (path, file) = &self.files[layer];
        while !buffer.is_empty() {
            match file.read_at(buffer, offset) {
                Ok(0) => {
                    buffer.fill(0);
                    break;
                }
                Ok(n) => {
                    buffer = &mut buffer[n..];
                    offset += n as u64;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io(format!("reading {} at byte {offset}", path.display()), e)),
            }
        }
        Ok(())
    }
}
