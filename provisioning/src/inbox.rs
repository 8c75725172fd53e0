//! The inbox: what the daemon lends to a backend that needs something *from* a machine.
//!
//! ```text
//!  backend ── open ──► box: a directory with `out/`, what a machine may fetch, and `in/`, what it left
//!                       ▲ one-time URL, on a listener of the daemon's
//!  machine ── GET  URL/FILE ───────── a file of `out/`, whole, in ranges, or one chunk of it (`?chunk=N`)
//!          ── GET  URL/have ───────── the chunks of the disk that have come: `NUMBER SHA-256`, a line each, in order
//!          ── PUT  URL/disk0 ──────── a chunk of the disk, with Content-Range and X-Vcl-Mac
//!          ── PUT  URL/at ─────────── how far it is: `DONE TOTAL`
//!          ── PUT  URL/result ─────── how it ended; nothing more is taken after it
//! ```
//!
//! A box **is** its directory: it is there when the directory is, it survives the daemon, and [`close`] removes the
//! directory and with it the URL. So a step records the [`Place`] before the box exists, and its undo needs nothing else.
//!
//! # What protects it
//!
//! The URL holds 244 random bits; whoever does not know it finds nothing. What is left in a box counts only with a MAC:
//! `X-Vcl-Mac` is the HMAC-SHA256 under the box's key (its digits, as text) over `PUT NAME RANGE DIGEST`, where RANGE is
//! the Content-Range or `-`, and DIGEST, also in `X-Vcl-Digest`, is the SHA-256 of the body in hexadecimal digits. A body
//! is not read before the MAC was checked, and not stored before the digest was.
//!
//! Only plain HTTP is to be had from a service system that boots over the network and trusts whatever answers. The MAC
//! keeps those out who can send to the daemon and those who change what goes by; it does not keep out who *reads* the
//! provisioning network while the key goes by with the task, and nothing here hides the disk's bytes from such a reader. A
//! network over which machines are installed has to be the site's own in any case.
//!
//! State is the file system's; a backend owns its boxes and closes them.

use crate::{Error, ErrorKind, Result};
use camino::Utf8PathBuf;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use vcl_types::{Digest, JobId, Secret};

/// How much of a disk goes in one piece, in bytes: as much as the library digests at once.
pub const CHUNK: u64 = vcl_images::digest::CHUNK;

/// Where a box is or will be. It goes into a step's intent; nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its name, unique on this node.
    pub name: String,
    /// Its directory, absolute.
    pub directory: Utf8PathBuf,
}

impl Place {
    /// Where that lies which a machine may fetch: the backend puts it there.
    #[must_use]
    pub fn out(&self) -> Utf8PathBuf {
        self.directory.join("out")
    }
    /// The disk that a machine sent, raw and sparse, as far as it has come.
    #[must_use]
    pub fn disk(&self) -> Utf8PathBuf {
        self.directory.join("in/disk0")
    }
}

/// What a box takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Takes {
    /// The largest disk, in bytes; 0 where no disk is expected.
    pub disk: u64,
}

/// An open box: what a machine needs to use it.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Its URL without a slash at the end. It is a secret: whoever has it gets in.
    pub url: Secret,
    /// The key for what is left in it, 64 hexadecimal digits.
    pub key: Secret,
}

/// How something ended at a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Whether the machine says that it went well.
    pub ok: bool,
    /// The size of the disk in bytes.
    pub size: u64,
    /// The SHA-256 of the list of its chunks' digests, in order.
    pub digest: String,
    /// What went wrong, in the machine's words: untrusted, at most 500 characters, no control characters.
    pub text: String,
}

/// What has happened to a box.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Whether something was fetched from it: looking whether it is there does not count.
    pub fetched: bool,
    /// When something that counts last came.
    pub last: Option<DateTime<Utc>>,
    /// How many bytes the machine says it has done, and of how many.
    pub progress: Option<(u64, u64)>,
    /// How often something came with a digest that was not its own, though the machine has the key.
    pub wrong: u64,
    /// How it ended, if it has.
    pub report: Option<Report>,
}

/// The daemon's inbox, as a backend is lent it.
pub trait Inbox: Send + Sync + std::fmt::Debug {
    /// Where the box of that name is or would be; nothing is made. A name has letters, digits, `-` and `_`.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] for a name with anything else.
    fn place(&self, name: &str) -> Result<Place>;
    /// Makes the box, or finds the one that is there: then URL and key are what they were.
    ///
    /// # Errors
    /// It cannot be made: no room, no right to.
    fn open(&self, place: &Place, takes: Takes) -> Result<Opened>;
    /// What has happened to a box.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none; it cannot be read.
    fn seen(&self, place: &Place) -> Result<Seen>;
    /// The boxes that there are.
    ///
    /// # Errors
    /// The directory cannot be read.
    fn boxes(&self) -> Result<Vec<Place>>;
}

/// Closes a box: its URL leads nowhere any more, and all that is in it is removed. One that is closed already, or was
/// never opened, is no error.
///
/// # Errors
/// It cannot be removed.
pub fn close(place: &Place) -> Result<()> {
    // What a request that is under way still makes is removed in the next round.
    for round in 0.. {
        match std::fs::remove_dir_all(&place.directory) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty && round < 10 => {}
            Err(e) => {
                let what = format!("removing the box {}", place.directory);
                return Err(Error::caused(ErrorKind::Failed, what, e));
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

/// What a machine's digest of a whole disk is made of: a line `vcl-disk 1 SIZE CHUNK`, and the SHA-256 of each chunk, in
/// hexadecimal digits, a line each.
#[must_use]
pub fn disk_list(size: u64, chunks: &[[u8; 32]]) -> String {
    format!("vcl-disk 1 {size} {CHUNK}\n") + &lines(chunks)
}

/// Digests in hexadecimal digits, a line each.
#[must_use]
pub fn lines(chunks: &[[u8; 32]]) -> String {
    chunks.iter().map(|chunk| String::from(Digest::from_bytes(*chunk)) + "\n").collect()
}

/// Whether a box can have this name.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=100).contains(&name.len()) && name.bytes().all(fine)
}

/// The job that a box was made for, by its name: `WHAT-jobN-tokenM`.
#[must_use]
pub fn job_of(name: &str) -> Option<JobId> {
    let (job, token) = name.rsplit_once("-job")?.1.split_once("-token")?;
    token.parse::<i64>().ok()?;
    job.parse().ok()
}
