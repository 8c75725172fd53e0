//! Looking at images without changing them.

use super::{Format, Limits, absolute, args, classify, run};
use crate::{Error, ErrorKind, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use vcl_job::{Cx, Process};

/// How many images may lie on one another.
const DEEPEST: usize = 32;

/// What an image says of itself. Its backing file is not opened for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The file.
    pub path: PathBuf,
    /// Its format, as it was said.
    pub format: Format,
    /// What the guest sees, in bytes.
    pub virtual_size: u64,
    /// What the file takes on its file system, in bytes.
    pub actual_size: u64,
    /// What it reads from where it holds nothing itself.
    pub backing: Option<Backing>,
    /// A file beside it that holds the guest's bytes.
    pub data_file: Option<String>,
    /// Other files that parts of it lie in, as a vmdk descriptor names them.
    pub extents: Vec<String>,
    /// Whether its bytes are encrypted.
    pub encrypted: bool,
    /// Whether it is marked as corrupt.
    pub corrupt: bool,
    /// Whether it was not closed properly.
    pub dirty: bool,
    /// How many snapshots lie inside it.
    pub snapshots: usize,
}

/// The image under an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// As the overlay names it.
    pub name: String,
    /// The same as an absolute path, where qemu could make one.
    pub full: Option<String>,
    /// Its format, if the overlay says so. One that does not makes qemu guess, which nobody here lets it.
    pub format: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawInfo {
    virtual_size: u64,
    #[serde(default)]
    actual_size: u64,
    backing_filename: Option<String>,
    full_backing_filename: Option<String>,
    backing_filename_format: Option<String>,
    #[serde(default)]
    encrypted: bool,
    #[serde(default)]
    dirty_flag: bool,
    #[serde(default)]
    snapshots: Vec<serde::de::IgnoredAny>,
    format_specific: Option<Specific>,
}
#[derive(Deserialize)]
struct Specific {
    #[serde(default)]
    data: SpecificData,
}
#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct SpecificData {
    data_file: Option<String>,
    corrupt: bool,
    encrypt: Option<serde::de::IgnoredAny>,
    extents: Vec<RawExtentFile>,
}
#[derive(Deserialize)]
struct RawExtentFile {
    filename: String,
}

/// Looks at an image's header, also while a machine has it open. The format is the caller's word: qemu does not guess.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound); [`Corrupt`](ErrorKind::Corrupt) when it is not of that format.
pub async fn info(cx: &Cx, path: &Path, format: Format) -> Result<Info> {
    look(cx, path, format, None).await
}

pub(crate) async fn look(cx: &Cx, path: &Path, format: Format, limits: Option<&Limits>) -> Result<Info> {
    let args = args!["info", "--output=json", "-U", "-f", format.as_str(), absolute(path)?];
    let what = || format!("looking at {} as {format}", path.display());
    let output = run(cx, limits, args, what, |_| {}).await?;
    let raw: RawInfo = serde_json::from_slice(&output.stdout).map_err(|e| {
        Error::caused(ErrorKind::Fatal, format!("reading what qemu-img says of {}", path.display()), e)
    })?;
    let data = raw.format_specific.map(|s| s.data).unwrap_or_default();
    Ok(Info {
        path: path.to_owned(),
        format,
        virtual_size: raw.virtual_size,
        actual_size: raw.actual_size,
        backing: raw.backing_filename.map(|name| Backing {
            name,
            full: raw.full_backing_filename,
            format: raw.backing_filename_format,
        }),
        data_file: data.data_file,
        extents: data.extents.into_iter().map(|e| e.filename).collect(),
        encrypted: raw.encrypted || data.encrypt.is_some(),
        corrupt: data.corrupt,
        dirty: raw.dirty_flag,
        snapshots: raw.snapshots.len(),
    })
}

/// An image and everything under it, the topmost first. Each is opened in the format that the one above says.
///
/// # Errors
/// [`Refused`](ErrorKind::Refused) when one names its backing file without a format, or names something that is not a
/// local file, or when they are more than 32 deep.
pub async fn chain(cx: &Cx, path: &Path, format: Format) -> Result<Vec<Info>> {
    Ok(chain_inodes(cx, path, format).await?.0)
}

/// As [`chain`], with each file's inode from before it was looked at.
pub(crate) async fn chain_inodes(cx: &Cx, path: &Path, format: Format) -> Result<(Vec<Info>, Vec<u64>)> {
    let inode = |path: &Path| {
        use std::os::unix::fs::MetadataExt;
        let meta = path.metadata().map_err(|e| Error::io(format!("reading {}", path.display()), e))?;
        Ok::<_, Error>(meta.ino())
    };
    let mut inodes = vec![inode(path)?];
    let mut layers = vec![info(cx, path, format).await?];
    while let Some(backing) = layers.last().and_then(|top| top.backing.as_ref()) {
        let (full, format) = match (&backing.full, &backing.format) {
            (Some(full), Some(format)) if full.starts_with('/') => (full.clone(), format.parse()?),
            (_, None) => {
                let name = &backing.name;
                let context =
                    format!("{} names its backing file {name} but not the file's format", path.display());
                return Err(Error::refused(context));
            }
            _ => {
                let name = &backing.name;
                let context = format!("{} reads from {name}, which is not a local file", path.display());
                return Err(Error::refused(context));
            }
        };
        if layers.len() >= DEEPEST {
            return Err(Error::refused(format!("{} lies on more than {DEEPEST} images", path.display())));
        }
        inodes.push(inode(Path::new(&full))?);
        layers.push(info(cx, Path::new(&full), format).await?);
    }
    Ok((layers, inodes))
}

/// A run of bytes that the guest sees, and where they come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Extent {
    /// Where it begins for the guest, in bytes.
    pub start: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// Which image of the chain it is in; 0 is the topmost.
    pub depth: usize,
    /// Whether any image of the chain holds it.
    #[serde(default)]
    pub present: bool,
    /// Whether it reads as zeros.
    pub zero: bool,
    /// Whether there are stored bytes to read.
    pub data: bool,
    /// Whether they are stored compressed.
    #[serde(default)]
    pub compressed: bool,
    /// Where they lie in that image's file, in bytes, if they lie there as they are.
    pub offset: Option<u64>,
}

/// Where an image's bytes lie, in order and without gaps, through all images under it.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound), [`Corrupt`](ErrorKind::Corrupt), or qemu's own.
pub async fn map(cx: &Cx, path: &Path, format: Format) -> Result<Vec<Extent>> {
    extents(cx, path, format, None).await
}

pub(crate) async fn extents(
    cx: &Cx,
    path: &Path,
    format: Format,
    limits: Option<&Limits>,
) -> Result<Vec<Extent>> {
    let args = args!["map", "--output=json", "-U", "-f", format.as_str(), absolute(path)?];
    let (mut extents, mut failed) = (Vec::new(), None);
    // One extent a line. A fragmented disk has megabytes of them, so they are read as they come.
    let on_line = |line: &str| {
        let line = line.trim().trim_start_matches('[').trim_end_matches([',', ']']);
        if !line.is_empty() {
            match serde_json::from_str::<Extent>(line) {
                Ok(extent) => extents.push(extent),
                Err(e) => failed = failed.take().or(Some(e)),
            }
        }
    };
    run(cx, limits, args, || format!("mapping {}", path.display()), on_line).await?;
    match failed {
        None => Ok(extents),
        Some(e) => Err(Error::caused(ErrorKind::Fatal, format!("reading the map of {}", path.display()), e)),
    }
}

/// What a check of an image's own tables found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Check {
    /// Errors that kept the check from being made.
    pub check_errors: u64,
    /// Places where the tables contradict each other: the guest's data may be wrong.
    pub corruptions: u64,
    /// Clusters that nothing refers to: space lost, data right.
    pub leaks: u64,
    /// Where the image ends in its file, in bytes.
    pub image_end_offset: u64,
}

impl Check {
    /// Whether the guest's data can be relied on.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.corruptions == 0 && self.check_errors == 0
    }
}

/// Checks an image's own tables; it changes nothing. A format that has none, like raw, is sound.
///
/// # Errors
/// When the check could not be made; what it finds is no error.
pub async fn check(cx: &Cx, path: &Path, format: Format) -> Result<Check> {
    checked(cx, path, format, None).await
}

pub(crate) async fn checked(cx: &Cx, path: &Path, format: Format, limits: Option<&Limits>) -> Result<Check> {
    let context = || format!("checking {}", path.display());
    if format == Format::Raw {
        return Ok(Check::default());
    }
    let args = args!["check", "--output=json", "-U", "-f", format.as_str(), absolute(path)?];
    // Its exit status says what it found, and a child's output is kept only of one that ends well.
    let mut process = Process::new("/bin/sh").args(["-c", "\"$@\"; echo \"exit $?\"", "sh"]);
    if let Some(limits) = limits {
        process = process.arg("prlimit").args(limits.args());
    }
    let output =
        process.arg("qemu-img").args(args).run(cx, |_| {}).await.map_err(|e| classify(e, context()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (json, status) = text.rsplit_once("exit ").unwrap_or((&text, ""));
    match status.trim() {
        // 2: corruptions, 3: leaks.
        "0" | "2" | "3" => serde_json::from_str(json).map_err(|e| {
            Error::caused(ErrorKind::Fatal, format!("reading the check of {}", path.display()), e)
        }),
        status => {
            let said = format!("qemu-img failed (exit status: {status}): {}", output.stderr);
            Err(classify(vcl_job::Error::new(vcl_job::Kind::Fatal, said), context()))
        }
    }
}
