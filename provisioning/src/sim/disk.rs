//! Disks with something on them. A simulated machine's disk begins with a short text that says what is on it; the rest
//! is holes. So a captured revision is a real image, with a digest that is different for different contents, and can be
//! imported, exported and loaded elsewhere; only it does not boot.
//!
//! Reading what is on a revision takes a few reads of its file and no process.

use super::machine::Content;
use camino::{Utf8Path, Utf8PathBuf};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What such a disk begins with.
const MAGIC: &str = "simulated by vcld\n";
/// How much of a disk's beginning the text may take.
const ROOM: usize = 64 * 1024;
/// How long a chain of backing files may be.
const DEEPEST: usize = 32;

/// What is on a revision's disk; `base` is what is said of one that was not made in this world.
///
/// # Errors
/// The file cannot be read.
pub(super) fn content(path: &Utf8Path, format: &str, base: &str) -> io::Result<Content> {
    let start = match format {
        "raw" => raw(path)?,
        "qcow2" => qcow2(path, DEEPEST)?,
        // Not a format of the library's; a machine can lie on it all the same.
        _ => File::open(path).map(|_| Vec::new())?,
    };
    let text = start.strip_prefix(MAGIC.as_bytes()).map(|rest| rest.split(|b| *b == 0).next());
    let read = text.flatten().and_then(|text| serde_json::from_slice(text).ok());
    Ok(read.unwrap_or_else(|| Content { base: base.to_owned(), ..Content::default() }))
}

/// Makes a raw disk of so many bytes with that content, in place of what is there.
///
/// # Errors
/// It cannot be written, or there is more on it than fits into its beginning.
pub(super) fn write(path: &Utf8Path, size: u64, content: &Content) -> io::Result<()> {
    let mut text = MAGIC.as_bytes().to_vec();
    serde_json::to_writer(&mut text, content)?;
    if text.len() > ROOM {
        return Err(io::Error::other("a simulated disk takes 64 KiB of files at most"));
    }
    let file = File::create(path)?;
    file.set_len(size.max(text.len().next_multiple_of(512) as u64))?;
    file.write_all_at(&text, 0)
}

fn raw(path: &Utf8Path) -> io::Result<Vec<u8>> {
    up_to(&File::open(path)?, 0, ROOM)
}

/// The first bytes that a guest would see on a qcow2.
fn qcow2(path: &Utf8Path, deepest: usize) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let header = up_to(&file, 0, 104)?;
    let four = |at: usize| -> u64 {
        header.get(at..at + 4).map_or(0, |b| b.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
    };
    let eight = |at: usize| four(at) << 32 | four(at + 4);
    let cluster_bits = four(20);
    if four(0) != 0x5146_49fb || !(9..=21).contains(&cluster_bits) {
        return Ok(Vec::new());
    }
    let entry = |at: u64| -> io::Result<u64> {
        let mut bytes = [0; 8];
        match at {
            0 => Ok(0),
            _ => file.read_exact_at(&mut bytes, at).map(|()| u64::from_be_bytes(bytes)),
        }
    };
    const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
    let second = entry(eight(40))? & OFFSET;
    let cluster = entry(second)?;
    let compressed = cluster >> 62 & 1 == 1;
    let zero = cluster & 1 == 1;
    if !compressed && !zero && cluster & OFFSET != 0 {
        return up_to(&file, cluster & OFFSET, ROOM.min(1 << cluster_bits));
    }
    let (name_at, name_length) = (eight(8), four(16));
    if zero || compressed || name_at == 0 || deepest == 0 {
        return Ok(Vec::new());
    }
    let name = up_to(&file, name_at, usize::try_from(name_length.min(1023)).unwrap_or_default())?;
    let name = Utf8PathBuf::from(String::from_utf8_lossy(&name).into_owned());
    let beneath = path.parent().unwrap_or(Utf8Path::new("/")).join(name);
    let magic = up_to(&File::open(&beneath)?, 0, 4)?;
    if magic == b"QFI\xfb" { qcow2(&beneath, deepest - 1) } else { raw(&beneath) }
}

fn up_to(file: &File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut got = 0;
    while got < length {
        match file.read_at(&mut bytes[got..], at + got as u64)? {
            0 => break,
            n => got += n,
        }
    }
    bytes.truncate(got);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn qemu_img(arguments: &[&str]) {
        assert!(Command::new("qemu-img").args(arguments).status().unwrap().success(), "{arguments:?}");
    }

    #[test]
    fn what_is_written_is_read_through_every_kind_of_chain() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| Utf8PathBuf::try_from(directory.path().join(name)).unwrap();
        let mut content = Content { base: "b".into(), generalised: true, ..Content::default() };
        content.files.insert("/home/alice/thesis".into(), "x".repeat(5000));
        let (plain, image, child) = (path("plain"), path("image"), path("child"));
        write(&plain, 8 << 20, &content).unwrap();
        assert_eq!(plain.metadata().unwrap().len(), 8 << 20);
        qemu_img(&["convert", "-f", "raw", "-O", "qcow2", plain.as_str(), image.as_str()]);
        qemu_img(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "image", child.as_str()]);
        let small = path("small");
        let options = ["convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k"];
        qemu_img(&[&options[..], &[plain.as_str(), small.as_str()]].concat());
        assert_eq!(content_of(&plain, "raw"), content);
        assert_eq!(content_of(&image, "qcow2"), content);
        assert_eq!(content_of(&child, "qcow2"), content);
        assert_eq!(content_of(&small, "qcow2").base, "imported", "longer than its first cluster");
    }

    fn content_of(path: &Utf8Path, format: &str) -> Content {
        super::content(path, format, "imported").unwrap()
    }

    #[test]
    fn a_foreign_image_is_what_its_digest_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::try_from(directory.path().join("foreign")).unwrap();
        qemu_img(&["create", "-q", "-f", "qcow2", path.as_str(), "1G"]);
        assert_eq!(content_of(&path, "qcow2"), Content { base: "imported".into(), ..Content::default() });
        std::fs::write(&path, "short").unwrap();
        assert_eq!(content_of(&path, "qcow2").base, "imported");
        assert!(super::content(Utf8Path::new("/nonexistent/x"), "qcow2", "b").is_err());
    }
}
