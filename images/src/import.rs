//! Taking in a foreign disk.

use crate::qemu_img::{self, ConvertFrom, ConvertOptions, Format, Limits};
use crate::seal::{StagedDisk, Stamp};
use crate::sniff::sniff;
use crate::{Directory, Error, ErrorKind, Progress, Result, Staging, Store};
use std::path::Path;
use vcl_job::Cx;
use vcl_types::ByteSize;

/// A foreign disk that was taken in.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Imported {
    /// The copy in the staging directory, to be sealed.
    pub disk: StagedDisk,
    /// What the foreign file was.
    pub from: Format,
    /// What the guest sees, in bytes.
    pub virtual_size: u64,
}

/// Copies a foreign file into a staging directory as its `n`th disk, counted from 0, in the library's own format. The
/// file's format is decided by its first bytes, without qemu; qemu reads it within limits. Progress counts the bytes
/// that hold data. It may run again.
///
/// # Errors
/// [`Refused`](ErrorKind::Refused) for what is not taken in, with the reason and the way out;
/// [`Corrupt`](ErrorKind::Corrupt) when it is damaged, cut off, or changes while it is read;
/// [`NoSpace`](ErrorKind::NoSpace), also before anything is copied when it cannot fit.
pub async fn import_disk(
    cx: &Cx,
    source: &Path,
    staging: &Staging,
    n: usize,
    progress: &Progress,
) -> Result<Imported> {
    let shown = source.display();
    // A link may come to mean another file meanwhile.
    let source = source.canonicalize().map_err(|e| Error::io(format!("reading {shown}"), e))?;
    let sniffed = sniff(&source)?;
    let before = Stamp::of(&source)?;
    let (format, look) = (sniffed.format, Some(&Limits::LOOK));
    let info = qemu_img::look(cx, &source, format, look).await?;
    let elsewhere = info.backing.as_ref().map(|b| &b.name).or(info.data_file.as_ref());
    let elsewhere = elsewhere.or(info.extents.iter().find(|e| Path::new(e) != source));
    if let Some(name) = elsewhere {
        return Err(Error::refused(format!("{shown} is not taken in: it reads from {name}")));
    }
    if info.encrypted {
        return Err(Error::refused(format!("{shown} is not taken in: its bytes are encrypted")));
    }
    let checked = qemu_img::checked(cx, &source, format, look).await?;
    if !checked.is_sound() {
        let found = checked.corruptions + checked.check_errors;
        return Err(Error::corrupt(format!("{shown} is damaged: {found} faults in its tables")));
    }
    let extents = qemu_img::extents(cx, &source, format, look).await?;
    if let Some(lost) =
        extents.iter().find_map(|e| e.offset.filter(|o| e.data && !e.zero && *o >= before.length))
    {
        let length = before.length;
        return Err(Error::corrupt(format!(
            "{shown} is cut off: it has {length} bytes and keeps data at {lost}"
        )));
    }
    let bytes = qemu_img::data_bytes(&extents);
    let free = Directory.space(staging.directory())?.free;
    if bytes > free {
        let (needed, free) = (ByteSize(bytes), ByteSize(free));
        let context = format!("{shown} needs {needed} in the library, which has {free} free");
        return Err(Error::new(ErrorKind::NoSpace, context));
    }
    let options =
        ConvertOptions { foreign: Some(Limits::copy(info.virtual_size)), ..ConvertOptions::default() };
    let from = ConvertFrom { path: &source, format };
    qemu_img::copy(cx, from, &staging.disk(n), Format::Qcow2, bytes, progress, &options).await?;
    before.holds(&source)?;
    Ok(Imported { disk: StagedDisk::qcow2(n), from: format, virtual_size: info.virtual_size })
}
