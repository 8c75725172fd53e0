//! The header of a qcow2 file.

use super::{Fault, Image, Judged, Sniffed, shown};
use crate::qemu_img::Format;

const DIRTY_OR_CORRUPT: u64 = 0b11;
const EXTERNAL_DATA: u64 = 0b100;
/// Compression type, extended L2 entries.
const HARMLESS: u64 = 0b11000;
/// Header extension: the name of an external data file.
const DATA_FILE_NAME: u32 = 0x4441_5441;

pub(super) fn judge(image: &Image, head: &[u8]) -> Judged<Sniffed> {
    let cut = || Fault::Corrupt("its header is cut off".into());
    let u32_at = |at: usize| {
        head.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes).ok_or_else(cut)
    };
    let u64_at = |at: usize| {
        head.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes).ok_or_else(cut)
    };
    let version = u32_at(4)?;
    if !(2..=3).contains(&version) {
        return Err(Fault::Refused(format!("it is a qcow of version {version}; {}", super::CONVERT)));
    }
    let backing_at = u64_at(8)?;
    if backing_at != 0 {
        let length = u32_at(16)?.min(1023) as usize;
        let name = shown(&image.bytes(backing_at, length)?);
        return Err(Fault::Refused(format!(
            "it is an overlay that reads from `{name}`; flatten it with `qemu-img convert -O qcow2` where you trust it"
        )));
    }
    if u32_at(32)? != 0 {
        return Err(Fault::Refused("its bytes are encrypted; copy it decrypted".into()));
    }
    let features = if version >= 3 { u64_at(72)? } else { 0 };
    let data_file = if version >= 3 { extension(head, u32_at(100)? as usize) } else { None };
    if features & EXTERNAL_DATA != 0 || data_file.is_some() {
        let name = data_file.unwrap_or_else(|| "a file beside it".into());
        return Err(Fault::Refused(format!(
            "it keeps its data in `{name}`; copy it with `qemu-img convert -O qcow2` where you trust it"
        )));
    }
    if features & !(DIRTY_OR_CORRUPT | HARMLESS) != 0 {
        return Err(Fault::Refused(format!(
            "it needs features of qcow2 that are not known here ({features:#x})"
        )));
    }
    if features & DIRTY_OR_CORRUPT != 0 {
        return Err(Fault::Corrupt(
            "it is marked as in use or corrupt; close it properly, or repair a copy with `qemu-img check -r all`"
                .into(),
        ));
    }
    let (cluster_bits, l1_at) = (u32_at(20)?, u64_at(40)?);
    if !(9..=21).contains(&cluster_bits) || l1_at >= image.length {
        return Err(Fault::Corrupt("its tables lie past its end; it may be cut off".into()));
    }
    Ok(Sniffed { format: Format::Qcow2, virtual_size: u64_at(24)? })
}

/// The name of an external data file among the header extensions.
fn extension(head: &[u8], mut at: usize) -> Option<String> {
    loop {
        let field = |at: usize| head.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
        let (kind, length) = (field(at)?, field(at + 4)? as usize);
        let data = head.get(at + 8..(at + 8).checked_add(length)?)?;
        match kind {
            0 => return None,
            DATA_FILE_NAME => return Some(shown(data)),
            _ => at += 8 + length.next_multiple_of(8),
        }
    }
}
