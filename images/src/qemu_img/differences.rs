//! Storing a disk as what differs from another.

use super::convert::watched;
use super::{Format, absolute, args, extents, run};
use crate::{Progress, Result};
use std::path::Path;
use vcl_job::Cx;

/// Stores of a disk only what differs from `backing`, in a new qcow2 over it; the bytes of both are compared. `backing`
/// is written into the header as it is: relative to the new file's directory. For a disk that comes from elsewhere, of
/// which nobody has noted what was changed. A file that is there already is overwritten. Progress counts the bytes that
/// hold data.
///
/// # Errors
/// As [`convert`](super::convert).
pub async fn differences(
    cx: &Cx,
    from: &Path,
    from_format: Format,
    to: &Path,
    backing: &str,
    progress: &Progress,
) -> Result<()> {
    let extents = extents(cx, from, from_format, None).await?;
    let total = extents.iter().filter(|e| e.data && !e.zero).map(|e| e.length).sum();
    // An overlay on the disk itself, which holds nothing yet, is then laid on the other: qemu-img copies into it what
    // the two do not have in common.
    let args = args![
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        from_format.as_str(),
        "-b",
        absolute(from)?,
        absolute(to)?
    ];
    let what = || format!("making {} on {}", to.display(), from.display());
    run(cx, None, args, what, |_| {}).await?;
    let args = args!["rebase", "-p", "-f", "qcow2", "-F", "qcow2", "-b", backing, absolute(to)?];
    let what = || format!("comparing {} with {backing} into {}", from.display(), to.display());
    watched(cx, args, None, total, progress, what).await
}
