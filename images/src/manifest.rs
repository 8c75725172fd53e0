//! Manifests are read as untrusted files: names stay in their directory, sizes can be, a newer version is said to be one.

use crate::names::{MANIFEST, file_name};
use crate::qemu_img::Format;
use crate::sniff::LARGEST;
use crate::{Error, ErrorKind, Result};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::Path;
use vcl_types::Manifest;

/// The newest version that is written and read: 2 where a disk lies on the parent's, 1 otherwise.
const VERSION: u32 = 2;
/// How long a manifest may be, in bytes.
const LONGEST: u64 = 1 << 20;
/// How many disks a revision may have.
const MOST_DISKS: usize = 64;

/// Reads a directory's manifest and checks it.
pub(crate) fn read(directory: &Path) -> Result<Manifest> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let path = directory.join(MANIFEST);
    let name = path.display();
    let failed = |e| Error::io(format!("reading {name}"), e);
    if !path.symlink_metadata().map_err(failed)?.is_file() {
        return Err(Error::corrupt(format!("{name} is not a regular file")));
    }
    let mut text = Vec::new();
    std::fs::File::open(&path).map_err(failed)?.take(LONGEST + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > LONGEST {
        return Err(Error::corrupt(format!("{name} has more than {LONGEST} bytes")));
    }
    let parsed = |e| Error::caused(ErrorKind::Corrupt, format!("parsing {name}"), e);
    let version = serde_json::from_slice::<Version>(&text).map_err(parsed)?.version;
    if version > VERSION {
        return Err(Error::refused(format!(
            "{name} is of version {version}, this program reads up to {VERSION}; it was written by a newer one"
        )));
    }
    let manifest = serde_json::from_slice(&text).map_err(parsed)?;
    check(&manifest)
        .map_err(|e| Error::caused(ErrorKind::Corrupt, format!("{name} is not acceptable"), e))?;
    Ok(manifest)
}

/// Writes a manifest in place of one that a run before left, perhaps read-only already, and flushes it.
pub(crate) fn write(directory: &Path, manifest: &Manifest) -> Result<()> {
    let path = directory.join(MANIFEST);
    let mut text = serde_json::to_vec_pretty(manifest)
        .map_err(|e| Error::caused(ErrorKind::Fatal, format!("writing {}", path.display()), e))?;
    text.push(b'\n');
    let write = || {
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = std::fs::File::create_new(&path)?;
        file.write_all(&text)?;
        file.sync_all()
    };
    write().map_err(|e| Error::io(format!("writing {}", path.display()), e))
}

/// Whether all that a manifest says can be.
pub(crate) fn check(manifest: &Manifest) -> Result<()> {
    if !(1..=VERSION).contains(&manifest.version) {
        return Err(Error::refused(format!("there is no manifest of version {}", manifest.version)));
    }
    if manifest.revision == 0 {
        return Err(Error::refused("revisions are counted from 1"));
    }
    // One without disks says what is installed on a machine that no image is put on.
    if manifest.disks.len() > MOST_DISKS {
        let disks = manifest.disks.len();
        return Err(Error::refused(format!("it has {disks} disks; a revision has at most {MOST_DISKS}")));
    }
    let mut names = BTreeSet::from([MANIFEST]);
    for name in files(manifest) {
        file_name(name)?;
        if !names.insert(name) {
            return Err(Error::refused(format!("it names the file {name} twice")));
        }
    }
    lies(manifest)?;
    for disk in &manifest.disks {
        disk.format.parse::<Format>()?;
        let (file, size) = (&disk.file, disk.virtual_size.bytes());
        if size == 0 || size > LARGEST || !size.is_multiple_of(512) {
            return Err(Error::refused(format!("{file} shows its guest {size} bytes, which no disk does")));
        }
        if disk.file_size.bytes() == 0 {
            return Err(Error::refused(format!("{file} is empty")));
        }
    }
    let hardware = &manifest.hardware;
    file_name(&hardware.machine)
        .map_err(|_| Error::refused("its hardware's machine is not a word such as `q35` or `pc`"))?;
    if hardware.cpus == 0 || hardware.memory.bytes() == 0 {
        return Err(Error::refused("its hardware has no processor or no memory"));
    }
    if let Some(firmware) = &manifest.firmware {
        firmware.format.parse::<Format>()?;
    }
    Ok(())
}

/// Whether disks that lie on others lie on disks of the parent, and the boot files' digests are of boot files.
fn lies(manifest: &Manifest) -> Result<()> {
    for disk in &manifest.disks {
        let Some(over) = &disk.over else { continue };
        let file = &disk.file;
        if manifest.version < 2 || disk.format != Format::Qcow2.as_str() {
            return Err(Error::refused(format!(
                "{file} lies on another disk, and it is no qcow2 of version 2"
            )));
        }
        file_name(&over.file)?;
        let parent = manifest.parent.as_ref().filter(|p| p.revision.is_some());
        if parent != Some(&over.image) || over.image == manifest.image_ref() {
            return Err(Error::refused(format!("{file} lies on {}, which is not its parent", over.image)));
        }
    }
    let boot: Vec<&String> =
        manifest.boot.iter().flat_map(|b| std::iter::once(&b.kernel).chain(&b.initrd)).collect();
    match manifest.boot_files.iter().find(|f| !boot.contains(&&f.file)) {
        Some(other) => {
            Err(Error::refused(format!("it has a digest of {}, which it does not boot", other.file)))
        }
        None => Ok(()),
    }
}

/// All files that a manifest names.
pub(crate) fn files(manifest: &Manifest) -> impl Iterator<Item = &str> {
    let boot = manifest.boot.iter().flat_map(|b| std::iter::once(&b.kernel).chain(&b.initrd));
    let firmware = manifest.firmware.iter().map(|f| &f.file);
    manifest.disks.iter().map(|d| &d.file).chain(firmware).chain(boot).map(String::as_str)
}
