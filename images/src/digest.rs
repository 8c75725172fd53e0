//! The two digests of a disk.
//!
//! `file` is the SHA-256 of the stored file, for transfers. `content` says what the guest sees, whatever the format
//! and however it was laid out: two qcow2 files of the same bytes differ, their content does not. It is made so:
//!
//! * what the guest sees is cut into chunks of 4 MiB; the last one is as long as what is left;
//! * each chunk has its SHA-256;
//! * `content` is the SHA-256 of the line `vcl-content-1 SIZE 4194304` with a newline after it (SIZE is what the guest
//!   sees, in bytes, decimal) followed by the 32 bytes of each chunk's digest, in order.
//!
//! Chunks that are known to be zeros are not read: their digest depends on their length alone. The chunk digests are
//! kept beside the disk (`disk0.chunks`), so that a part of it can be checked later, and so that a change of a part
//! costs what changed.
//!
//! The bytes are read where the image's own map says that they lie. Those that lie nowhere as they are (compressed
//! clusters, formats other than raw and qcow2) are read from a raw copy that is made for it.

mod content;
mod layout;

pub use content::Content;

use crate::blocking::blocking;
use crate::names::{entries, nonce};
use crate::progress::Counter;
use crate::qemu_img::{self, ConvertFrom, ConvertOptions, Format};
use crate::{Error, Progress, Result};
use layout::Layout;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;
use vcl_job::Cx;
use vcl_types::Digest;

/// The length of a chunk in bytes; a disk's last one may be shorter.
pub const CHUNK: u64 = 4 * 1024 * 1024;

/// How much of a file is read at once.
const PIECE: usize = 1024 * 1024;

/// A file's digest, and the length it was made over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDigest {
    /// SHA-256 of all its bytes.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// The SHA-256 of a file as it is stored. Progress counts its bytes.
///
/// # Errors
/// [`NotFound`](crate::ErrorKind::NotFound), [`Io`](crate::ErrorKind::Io), or told to stop.
pub async fn file(cx: &Cx, path: &Path, progress: &Progress) -> Result<FileDigest> {
    let size =
        std::fs::metadata(path).map_err(|e| Error::io(format!("reading {}", path.display()), e))?.len();
    let (path, counter) = (path.to_owned(), Counter::new(progress, size));
    // Should this future be dropped, the thread must not go on reading for nobody.
    let stop = cx.token().child_token();
    let _guard = stop.clone().drop_guard();
    blocking(move || read_file(&path, &stop, &counter)).await
}

/// The digest of what the guest sees. `scratch` is a directory that may take a raw copy of the disk for a while, if
/// its bytes cannot be read in place. Progress counts the bytes that hold data.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) when the image's map points past its end or leaves gaps,
/// [`Refused`](crate::ErrorKind::Refused) for encrypted images and chains that leave the local files,
/// [`NoSpace`](crate::ErrorKind::NoSpace) in `scratch`, or told to stop.
pub async fn content(
    cx: &Cx,
    path: &Path,
    format: Format,
    scratch: &Path,
    progress: &Progress,
) -> Result<Content> {
    let plan = plan(cx, path, format, scratch, None).await?;
    let counter = Counter::new(progress, plan.bytes());
    let stop = cx.token().child_token();
    let _guard = stop.clone().drop_guard();
    plan.run(threads(0), &stop, &counter).await
}

/// How many threads may hash content beside `others` that are busy already: at most two, at least one.
pub(crate) fn threads(others: usize) -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).saturating_sub(others).clamp(1, 2)
}

/// A disk whose layout is known. The raw copy, if one was made, goes away with it.
pub(crate) struct Plan {
    layout: Layout,
    copy: Option<Copy>,
}

/// How the names of raw copies end.
const RAW_COPY: &str = ".raw-copy";

struct Copy(PathBuf);
impl Drop for Copy {
    fn drop(&mut self) {
        // It lies in a staging directory; what cannot be removed now goes when that is discarded.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Plan {
    /// How many bytes will be hashed from files.
    pub(crate) fn bytes(&self) -> u64 {
        self.layout.data_bytes()
    }
    /// What the guest sees, in bytes.
    pub(crate) fn virtual_size(&self) -> u64 {
        self.layout.virtual_size()
    }
    pub(crate) async fn run(
        self,
        threads: usize,
        stop: &CancellationToken,
        counter: &Counter,
    ) -> Result<Content> {
        let content = content::hash(self.layout, threads, stop, counter).await;
        drop(self.copy);
        content
    }
}

/// How often a disk is looked at again whose files were exchanged meanwhile.
const LOOKS: usize = 5;

/// Finds out where a disk's bytes lie. With the chunks of what it lies on, those that it does not change are taken from
/// there and not read.
///
/// A revision under it may be rewritten whole just now, which gives a name to another file with another layout: then it
/// is looked at again.
pub(crate) async fn plan(
    cx: &Cx,
    path: &Path,
    format: Format,
    scratch: &Path,
    parent: Option<&Content>,
) -> Result<Plan> {
    let mut looks = 1;
    let (layers, extents, layout) = loop {
        let (layers, inodes) = qemu_img::chain_inodes(cx, path, format).await?;
        if let Some(layer) = layers.iter().find(|l| l.encrypted) {
            let layer = layer.path.display();
            return Err(Error::refused(format!("{layer} is encrypted: its bytes cannot be read")));
        }
        let extents = qemu_img::map(cx, path, format).await?;
        let layout = Layout::of(&layers, &extents, parent);
        let steady = match &layout {
            Ok(Some(layout)) => layout.inodes().is_ok_and(|now| now == inodes),
            _ => qemu_img::chain_inodes(cx, path, format).await.is_ok_and(|(_, now)| now == inodes),
        };
        if steady || looks >= LOOKS || layers.len() == 1 {
            break (layers, extents, layout?);
        }
        looks += 1;
    };
    if let Some(layout) = layout {
        return Ok(Plan { layout, copy: None });
    }
    let whole = layers.first().map_or(path, |top| top.path.as_path());
    let name = whole.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let copy = Copy(scratch.join(format!("{name}.{}{RAW_COPY}", nonce())));
    let from = ConvertFrom { path, format };
    let total = qemu_img::data_bytes(&extents);
    qemu_img::copy(cx, from, &copy.0, Format::Raw, total, &Progress::none(), &ConvertOptions::default())
        .await
        .map_err(|e| e.within(format!("reading {} through a raw copy", path.display())))?;
    let layers = qemu_img::chain(cx, &copy.0, Format::Raw).await?;
    let extents = qemu_img::map(cx, &copy.0, Format::Raw).await?;
    match Layout::of(&layers, &extents, None)? {
        Some(layout) => Ok(Plan { layout, copy: Some(copy) }),
        None => Err(Error::corrupt(format!("the raw copy of {} has no plain layout", path.display()))),
    }
}

/// Removes raw copies that a process which died has left in a directory that is ours alone.
pub(crate) fn remove_copies(scratch: &Path) -> Result<()> {
    for (name, path) in entries(scratch)? {
        if name.ends_with(RAW_COPY) {
            std::fs::remove_file(&path).map_err(|e| Error::io(format!("removing {}", path.display()), e))?;
        }
    }
    Ok(())
}

/// Hashes a file from its first to its last byte.
pub(crate) fn read_file(path: &Path, stop: &CancellationToken, counter: &Counter) -> Result<FileDigest> {
    let failed = |e| Error::io(format!("reading {}", path.display()), e);
    let mut file = File::open(path).map_err(failed)?;
    let (mut sha, mut size, mut piece) = (Sha256::new(), 0, vec![0; PIECE]);
    loop {
        if stop.is_cancelled() {
            return Err(Error::stopped(format!("hashing {}", path.display())));
        }
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => {
                sha.update(&piece[..n]);
                size += n as u64;
                counter.add(n as u64);
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(FileDigest { digest: Digest::from_bytes(sha.finalize().into()), size })
}
