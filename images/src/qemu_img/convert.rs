//! Copying a disk from one format to another.

use super::inspect::extents;
use super::{Extent, Format, Limits, absolute, args, run};
use crate::{Progress, Result};
use std::ffi::OsString;
use std::path::Path;
use vcl_job::Cx;

/// What is copied. The format is the caller's word: qemu does not guess.
#[derive(Debug, Clone, Copy)]
pub struct ConvertFrom<'a> {
    /// The file, absolute. What it lies on is copied with it.
    pub path: &'a Path,
    /// Its format.
    pub format: Format,
}

/// How it is copied.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConvertOptions {
    /// Whether to store the copy compressed; only qcow2 and vmdk can. It takes much longer to make and to digest.
    pub compress: bool,
    /// The kind of vmdk: `monolithicSparse` unless said, `streamOptimized`, `monolithicFlat`.
    pub subformat: Option<&'static str>,
    /// For a foreign file: it is read within these limits, and a qcow2 may not name a backing file.
    pub foreign: Option<Limits>,
}

/// Copies a disk into a new sparse file. A file that is there already is overwritten, so a step may run again. Nothing
/// is flushed to the disk: that is done by sealing or publishing. Progress counts the bytes that hold data.
///
/// # Errors
/// [`NoSpace`](crate::ErrorKind::NoSpace), [`InUse`](crate::ErrorKind::InUse) when a running machine writes to the
/// source, [`NotFound`](crate::ErrorKind::NotFound), [`Corrupt`](crate::ErrorKind::Corrupt).
pub async fn convert(
    cx: &Cx,
    from: ConvertFrom<'_>,
    to: &Path,
    to_format: Format,
    progress: &Progress,
    options: &ConvertOptions,
) -> Result<()> {
    let total = data_bytes(&extents(cx, from.path, from.format, options.foreign.as_ref()).await?);
    copy(cx, from, to, to_format, total, progress, options).await
}

/// Copies of a qcow2 overlay only what it holds itself into a new qcow2 over `backing`, which is written into its header as
/// it is: relative to the new file's directory. What the overlay lies on must show the same bytes as `backing`. A file
/// that is there already is overwritten. Progress counts the bytes that the overlay holds.
///
/// # Errors
/// As [`convert`].
pub async fn convert_over(
    cx: &Cx,
    overlay: &Path,
    to: &Path,
    backing: &str,
    progress: &Progress,
) -> Result<()> {
    let own = extents(cx, overlay, Format::Qcow2, None).await?;
    let total = own.iter().filter(|e| e.depth == 0 && e.data && !e.zero).map(|e| e.length).sum();
    // `-B` makes qemu-img look no further down than the overlay itself.
    let args = args![
        "convert",
        "-p",
        "-f",
        "qcow2",
        "-O",
        "qcow2",
        "-B",
        backing,
        "-F",
        "qcow2",
        absolute(overlay)?,
        absolute(to)?,
    ];
    let what = || format!("copying what {} holds over {backing} to {}", overlay.display(), to.display());
    watched(cx, args, None, total, progress, what).await
}

/// Runs a convert and turns what it prints into progress.
pub(super) async fn watched(
    cx: &Cx,
    args: Vec<OsString>,
    limits: Option<&Limits>,
    total: u64,
    progress: &Progress,
    what: impl FnOnce() -> String,
) -> Result<()> {
    progress.report(0, total);
    let on_line = |line: &str| {
        if let Some(done) = percent(line) {
            progress.report((total as f64 * done / 100.0) as u64, total);
        }
    };
    run(cx, limits, args, what, on_line).await?;
    progress.report(total, total);
    Ok(())
}

/// As [`convert`], where the bytes that hold data have been counted already.
pub(crate) async fn copy(
    cx: &Cx,
    from: ConvertFrom<'_>,
    to: &Path,
    to_format: Format,
    total: u64,
    progress: &Progress,
    options: &ConvertOptions,
) -> Result<()> {
    let mut args = args!["convert", "-p"];
    if options.compress {
        args.push("-c".into());
    }
    if let Some(subformat) = options.subformat {
        args.extend(args!["-o", format!("subformat={subformat}")]);
    }
    args.extend(args!["-O", to_format.as_str()]);
    args.extend(source(from, options)?);
    args.push(absolute(to)?.into());
    let what = || format!("copying {} to {} as {to_format}", from.path.display(), to.display());
    watched(cx, args, options.foreign.as_ref(), total, progress, what).await
}

fn source(from: ConvertFrom<'_>, options: &ConvertOptions) -> Result<Vec<OsString>> {
    let path = absolute(from.path)?;
    if options.foreign.is_some()
        && from.format == Format::Qcow2
        && let Some(name) = path.to_str()
    {
        // It was found to have no backing file. Should it get one while it is read, qemu still opens none.
        let node = serde_json::json!({
            "driver": "qcow2", "backing": null, "file": { "driver": "file", "filename": name },
        });
        return Ok(args![format!("json:{node}")]);
    }
    Ok(args!["-f", from.format.as_str(), path])
}

/// How many bytes of a disk hold data.
pub(crate) fn data_bytes(extents: &[Extent]) -> u64 {
    extents.iter().filter(|e| e.data && !e.zero).map(|e| e.length).sum()
}

/// `    (12.34/100%)` → 12.34.
fn percent(line: &str) -> Option<f64> {
    let number = line.trim().strip_prefix('(')?.strip_suffix("/100%)")?;
    number.parse().ok().filter(|p: &f64| (0.0..=100.0).contains(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_lines_are_read() {
        assert_eq!(percent("    (2.04/100%)"), Some(2.04));
        assert_eq!(percent("    (100.00/100%)"), Some(100.0));
        for other in ["", "(x/100%)", "100%", "(-1/100%)", "(inf/100%)"] {
            assert_eq!(percent(other), None, "{other}");
        }
    }
}
