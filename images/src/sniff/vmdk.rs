//! The header of a vmdk file, and the descriptor inside it.

use super::{Fault, Judged, SECTOR, Sniffed, shown};
use crate::qemu_img::Format;

/// A vmdk whose bytes are all in this file.
pub(super) fn judge(head: &[u8]) -> Judged<Sniffed> {
    let cut = || Fault::Corrupt("its header is cut off".into());
    let u64_at = |at: usize| {
        head.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes).ok_or_else(cut)
    };
    let (capacity, descriptor_at, descriptor_length) = (u64_at(12)?, u64_at(28)?, u64_at(36)?);
    // Without a capacity qemu goes by the descriptor alone, and that may name any file.
    if capacity == 0 || descriptor_at != 1 || !(1..=100).contains(&descriptor_length) {
        return Err(Fault::Refused(
            "it is a part of a vmdk without a descriptor of its own; export it as one file, with \
             `ovftool --diskMode=streamOptimized`"
                .into(),
        ));
    }
    // qemu looks at twenty sectors whatever the header says; so do we, and at what the header says too.
    let length = (descriptor_length.max(20) * SECTOR) as usize;
    let descriptor = head.get(SECTOR as usize..(SECTOR as usize + length).min(head.len())).ok_or_else(cut)?;
    let text = shown_lines(descriptor);
    if let Some(name) = text.iter().find_map(|l| value(l, "parentfilenamehint")) {
        return Err(Fault::Refused(format!("it is a difference to `{name}`; export the whole disk")));
    }
    let whole = text
        .iter()
        .any(|l| value(l, "createtype").is_some_and(|t| t == "monolithicSparse" || t == "streamOptimized"));
    let parent = text.iter().find_map(|l| value(l, "parentcid"));
    let extents: Vec<&String> = text.iter().filter(|l| is_extent(l)).collect();
    if !whole || extents.len() != 1 || !extents[0].split_whitespace().any(|w| w == "SPARSE") {
        return Err(other_files(&extents));
    }
    if parent.is_some_and(|cid| !cid.eq_ignore_ascii_case("ffffffff")) {
        return Err(Fault::Refused("it is a difference to another disk; export the whole disk".into()));
    }
    match capacity.checked_mul(SECTOR) {
        Some(virtual_size) => Ok(Sniffed { format: Format::Vmdk, virtual_size }),
        None => Err(Fault::Corrupt("its capacity cannot be".into())),
    }
}

/// A descriptor in a file of its own: all its data is elsewhere.
pub(super) fn descriptor(head: &[u8]) -> Fault {
    let text = shown_lines(head);
    other_files(&text.iter().filter(|l| is_extent(l)).collect::<Vec<_>>())
}

fn other_files(extents: &[&String]) -> Fault {
    let named: Vec<&str> = extents.iter().filter_map(|l| l.split('"').nth(1)).take(4).collect();
    let named = if named.is_empty() { "other files".into() } else { format!("`{}`", named.join("`, `")) };
    Fault::Refused(format!(
        "it keeps its data in {named}; import a `-flat.vmdk` itself as a raw disk, or export the disk as one file with \
         `ovftool --diskMode=streamOptimized`"
    ))
}

fn shown_lines(bytes: &[u8]) -> Vec<String> {
    bytes.split(|b| matches!(b, b'\n' | b'\r' | 0)).filter(|l| !l.is_empty()).map(shown).collect()
}

/// `RW 20480 SPARSE "disk.vmdk"`.
fn is_extent(line: &str) -> bool {
    let mut words = line.split_whitespace();
    matches!(words.next(), Some("RW" | "RDONLY" | "NOACCESS"))
        && words.next().is_some_and(|n| n.parse::<u64>().is_ok())
}

/// The value of `key = "value"`, wherever in the line it stands; the key in lower case.
fn value(line: &str, key: &str) -> Option<String> {
    let at = line.to_ascii_lowercase().find(key)?;
    let rest = line.get(at + key.len()..)?.trim_start().strip_prefix('=')?;
    Some(rest.trim().trim_matches('"').to_owned())
}
