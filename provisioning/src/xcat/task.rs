//! The imaging task: `runme.sh` with what it is to do, as the archive that a node's service system fetches and runs.

use crate::inbox::{CHUNK, Opened};
use crate::{Error, ErrorKind, Result};
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

/// The archive's name in a box: what it is called decides in which directory it is unpacked.
pub const FILE: &str = "task.tgz";
const SCRIPT: &str = include_str!("runme.sh");

/// What the task is to do.
#[derive(Debug, Clone, Copy)]
pub enum Work<'a> {
    /// Send the disk, which has at most so many bytes.
    Capture(u64),
    /// Write a disk of so many bytes whose chunks have these digests.
    Restore(u64, &'a [[u8; 32]]),
}

/// How it behaves.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    /// How often it tries to reach the daemon, and how long it waits in between.
    pub tries: u32,
    /// The wait.
    pub pause: Duration,
    /// How long it stays at its end, for its power to be cut.
    pub stay: Duration,
}
impl Default for Manners {
    /// For ten minutes, in which a daemon is restarted; two minutes at its end.
    fn default() -> Self {
        Self { tries: 120, pause: Duration::from_secs(5), stay: Duration::from_secs(120) }
    }
}

/// Makes the archive, a gzip'ed ustar. It holds the box's key.
///
/// # Errors
/// It cannot be packed.
pub fn pack(opened: &Opened, disk: Option<&str>, work: Work<'_>, manners: Manners) -> Result<Vec<u8>> {
    let failed = |e: std::io::Error| Error::caused(ErrorKind::Failed, "packing the imaging task", e);
    let key = opened.key.expose();
    let padded = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(key.bytes()).for_each(|(b, k)| *b ^= k);
        block
    };
    let (mode, most, size, sums) = match work {
        Work::Capture(most) => ("capture", most, 0, None),
        Work::Restore(size, chunks) => ("restore", 0, size, Some(crate::inbox::lines(chunks))),
    };
    let mut text = String::new();
    // Every value is made here or was checked when the configuration was read: none has a quote.
    let numbers = [
        ("CHUNK", CHUNK),
        ("MOST", most),
        ("SIZE", size),
        ("TRIES", manners.tries.into()),
        ("PAUSE", manners.pause.as_secs()),
        ("WAIT", manners.stay.as_secs()),
    ];
    for (name, value) in numbers {
        let _ = writeln!(text, "{name}={value}");
    }
    for (name, value) in
        [("MODE", mode), ("URL", opened.url.expose()), ("KEY", key), ("DISK", disk.unwrap_or_default())]
    {
        if value.contains('\'') {
            let what = format!("`{name}` of an imaging task has a quote");
            return Err(Error::new(ErrorKind::Refused, what));
        }
        let _ = writeln!(text, "{name}='{value}'");
    }
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut tar = Tar { to: gzip };
    tar.file("runme.sh", 0o755, SCRIPT.as_bytes()).map_err(failed)?;
    tar.file("task", 0o600, text.as_bytes()).map_err(failed)?;
    tar.file("inner.key", 0o600, &padded(0x36)).map_err(failed)?;
    tar.file("outer.key", 0o600, &padded(0x5c)).map_err(failed)?;
    if let Some(sums) = sums {
        tar.file("sums", 0o600, sums.as_bytes()).map_err(failed)?;
    }
    tar.end().map_err(failed)
}

/// Five small files are no reason for a library: name, mode, size and a checksum in a block of 512 bytes, then the bytes.
struct Tar {
    to: flate2::write::GzEncoder<Vec<u8>>,
}

impl Tar {
    fn file(&mut self, name: &str, mode: u32, bytes: &[u8]) -> std::io::Result<()> {
        let mut head = [0u8; 512];
        let mut put = |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, &format!("{mode:07o}"));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", bytes.len()));
        put(136, "00000000000");
        put(148, "        ");
        put(156, "0");
        put(257, "ustar");
        put(263, "00");
        let sum: u32 = head.iter().map(|b| u32::from(*b)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.to.write_all(&head)?;
        self.to.write_all(bytes)?;
        let rest = bytes.len().next_multiple_of(512) - bytes.len();
        self.to.write_all(&[0; 512][..rest])
    }
    fn end(mut self) -> std::io::Result<Vec<u8>> {
        self.to.write_all(&[0; 1024])?;
        self.to.finish()
    }
}
