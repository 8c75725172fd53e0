//! `qemu-img`, run as a child process of a step: journaled, ended when the step is told to stop, its formats always
//! said and never probed.
//!
//! Every path must be absolute, so that none can be taken for one of qemu's protocols (`nbd:`, `json:`).

mod convert;
mod differences;
mod inspect;
mod limits;
mod make;

pub use convert::{ConvertFrom, ConvertOptions, convert, convert_over};
pub(crate) use convert::{copy, data_bytes};
pub use differences::differences;
pub use inspect::{Backing, Check, Extent, Info, chain, check, info, map};
pub(crate) use inspect::{chain_inodes, checked, extents, look};
pub use limits::Limits;
pub use make::{create_overlay, lay_on, resize};

use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use vcl_job::{ChildOutput, Cx, Process};

/// The formats that disks are kept, taken in and given out in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The bytes the guest sees, and nothing else.
    Raw,
    /// qemu's own; the library's.
    Qcow2,
    /// VMware's, in one file.
    Vmdk,
}

impl Format {
    /// qemu's word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
        }
    }
}
impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
impl FromStr for Format {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        [Self::Raw, Self::Qcow2, Self::Vmdk].into_iter().find(|f| f.as_str() == text).ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            Error::refused(format!("`{shown}` is not a disk format that is known here: raw, qcow2 or vmdk"))
        })
    }
}

/// Refuses a path that qemu could read as something else than a file's name.
fn absolute(path: &Path) -> Result<&Path> {
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(Error::refused(format!("{} is not an absolute path", path.display())))
    }
}

/// Runs `qemu-img` with these arguments, within limits if there are any.
async fn run(
    cx: &Cx,
    limits: Option<&Limits>,
    args: Vec<OsString>,
    what: impl FnOnce() -> String,
    on_line: impl FnMut(&str) + Send,
) -> Result<ChildOutput> {
    let process = match limits {
        Some(limits) => Process::new("prlimit").args(limits.args()).arg("qemu-img"),
        None => Process::new("qemu-img"),
    };
    process.args(args).run(cx, on_line).await.map_err(|e| classify(e, what()))
}

/// Sorts what `qemu-img` says when it fails.
fn classify(error: vcl_job::Error, context: String) -> Error {
    const SAID: &[(&str, ErrorKind)] = &[
        ("No space left on device", ErrorKind::NoSpace),
        ("Disk quota exceeded", ErrorKind::NoSpace),
        ("File too large", ErrorKind::NoSpace),
        ("Failed to get \"write\" lock", ErrorKind::InUse),
        ("Failed to get shared \"write\" lock", ErrorKind::InUse),
        ("Failed to get \"consistent read\" lock", ErrorKind::InUse),
        ("failed to execute qemu-img", ErrorKind::NotFound),
        ("No such file or directory", ErrorKind::NotFound),
        ("Image is not in", ErrorKind::Corrupt),
        ("Image is corrupt", ErrorKind::Corrupt),
        ("Could not read", ErrorKind::Corrupt),
        ("L1 table", ErrorKind::Corrupt),
        ("efcount table", ErrorKind::Corrupt),
    ];
    let mut sorted = Error::job(context, error);
    if sorted.kind == ErrorKind::Fatal {
        let said = std::error::Error::source(&sorted).map(ToString::to_string).unwrap_or_default();
        if let Some((_, kind)) = SAID.iter().find(|(text, _)| said.contains(text)) {
            sorted.kind = *kind;
        }
    }
    sorted
}

/// Builds an argument list out of texts and paths.
macro_rules! args {
    ($($arg:expr),* $(,)?) => { vec![$(::std::ffi::OsString::from($arg)),*] };
}
use args;
