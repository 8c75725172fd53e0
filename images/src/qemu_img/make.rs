//! Making and growing images.

use super::{Format, absolute, args, info, run};
use crate::{Error, Result};
use std::path::Path;
use vcl_job::Cx;

/// Makes a qcow2 overlay that reads from `backing` what it does not hold itself. `size` is what the guest sees, in
/// bytes; without it, as much as `backing` shows. A file that is there already is made anew, unless a running machine
/// has it open: so a step may run again.
///
/// # Errors
/// [`NotFound`](crate::ErrorKind::NotFound) without the backing file, [`InUse`](crate::ErrorKind::InUse) when the
/// overlay is open elsewhere, [`NoSpace`](crate::ErrorKind::NoSpace).
pub async fn create_overlay(
    cx: &Cx,
    overlay: &Path,
    backing: &Path,
    backing_format: Format,
    size: Option<u64>,
) -> Result<()> {
    let mut args = args![
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        backing_format.as_str(),
        "-b",
        absolute(backing)?,
        absolute(overlay)?,
    ];
    args.extend(size.map(|bytes| bytes.to_string().into()));
    let what = || format!("making the overlay {} on {}", overlay.display(), backing.display());
    run(cx, None, args, what, |_| {}).await.map(drop)
}

/// Lays a qcow2 overlay on `backing`, which must show a guest the same bytes as what it lay on before: only the name in
/// its header is written, and neither file's content is looked at. It may be called again.
///
/// # Errors
/// [`NotFound`](crate::ErrorKind::NotFound), [`InUse`](crate::ErrorKind::InUse) when the overlay is open elsewhere,
/// [`Corrupt`](crate::ErrorKind::Corrupt) when it is no qcow2.
pub async fn lay_on(cx: &Cx, overlay: &Path, backing: &Path, backing_format: Format) -> Result<()> {
    let args = args![
        "rebase",
        "-q",
        "-u",
        "-f",
        "qcow2",
        "-F",
        backing_format.as_str(),
        "-b",
        absolute(backing)?,
        absolute(overlay)?,
    ];
    let what = || format!("laying {} on {}", overlay.display(), backing.display());
    run(cx, None, args, what, |_| {}).await.map(drop)
}

/// Grows what the guest sees to `size` bytes. An image of that size is left as it is.
///
/// # Errors
/// [`Refused`](crate::ErrorKind::Refused) when it would have to shrink: the guest's data at the end would be lost.
pub async fn resize(cx: &Cx, path: &Path, format: Format, size: u64) -> Result<()> {
    let now = info(cx, path, format).await?.virtual_size;
    if now == size {
        return Ok(());
    }
    if now > size {
        let path = path.display();
        return Err(Error::refused(format!("{path} has {now} bytes and is not shrunk to {size}")));
    }
    let args = args!["resize", "-q", "-f", format.as_str(), path, size.to_string()];
    run(cx, None, args, || format!("growing {} to {size} bytes", path.display()), |_| {}).await.map(drop)
}
