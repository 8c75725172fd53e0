//! What revisions a library holds.

use super::Library;
use crate::names::entries;
use crate::{Error, ErrorKind, Result, delta, manifest, names};
use std::path::{Path, PathBuf};
use vcl_types::{ImageName, ImageRef, Manifest, Revision};

/// All that a library holds.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// Its revisions, by image and number.
    pub revisions: Vec<Revision>,
    /// What lies in it and is none.
    pub findings: Vec<Finding>,
}

/// Something in a library that cannot be used as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

impl Library {
    /// All revisions. What cannot be read is reported beside them.
    ///
    /// # Errors
    /// When the library itself cannot be read.
    pub fn revisions(&self) -> Result<Scan> {
        let mut scan = Scan::default();
        for (name, path) in entries(&self.root)? {
            if name.starts_with('.') || name == "lost+found" {
                continue;
            }
            match name.parse::<ImageName>() {
                Ok(image) if path.is_dir() => self.scan_image(&image, &path, &mut scan)?,
                _ => scan.findings.push(Finding { path, problem: "not the directory of an image".into() }),
            }
        }
        scan.revisions.sort_by(|a, b| {
            (&a.manifest.image, a.manifest.revision).cmp(&(&b.manifest.image, b.manifest.revision))
        });
        scan.findings.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(scan)
    }

    fn scan_image(&self, image: &ImageName, path: &Path, scan: &mut Scan) -> Result<()> {
        for (name, path) in entries(path)? {
            let Some(revision) = number(&name) else {
                scan.findings.push(Finding { path, problem: "not the directory of a revision".into() });
                continue;
            };
            match self.get(&ImageRef::new(image.clone(), revision)) {
                Ok(revision) => scan.revisions.push(revision),
                // It was deleted meanwhile.
                Err(e) if e.kind == ErrorKind::NotFound && !path.exists() => {}
                Err(e) => {
                    scan.findings.push(Finding { path, problem: vcl_job::Error::from(e).failure().message });
                }
            }
        }
        Ok(())
    }

    /// A revision; without a number, the newest. All that it lies on is there, too.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) when this node does not hold it, [`Corrupt`](ErrorKind::Corrupt) when its
    /// manifest cannot be accepted, a file of it or of a revision it lies on is missing, or a disk lies on another file
    /// than its manifest says, [`Refused`](ErrorKind::Refused) for a manifest of a newer
    /// version.
    pub fn get(&self, image: &ImageRef) -> Result<Revision> {
        if image.revision.is_none() {
            return self.newest(&image.name);
        }
        let top = self.ancestry(image)?.into_iter().next();
        top.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("this node does not hold {image}")))
    }

    /// A revision by itself, whatever it lies on.
    pub(crate) fn one(&self, image: &ImageRef) -> Result<Revision> {
        let directory = self.place(image)?;
        if !directory.is_dir() {
            return Err(Error::new(ErrorKind::NotFound, format!("this node does not hold {image}")));
        }
        let manifest = manifest::read(&directory).map_err(|e| match e.kind {
            ErrorKind::NotFound => Error::corrupt(format!("{image} has no manifest")),
            _ => e,
        })?;
        if manifest.image_ref() != *image {
            let other = manifest.image_ref();
            return Err(Error::corrupt(format!("the manifest in {} is of {other}", directory.display())));
        }
        present(&directory, &manifest)?;
        Ok(Revision { manifest, directory: names::text(&directory)?.to_owned() })
    }

    /// An image's newest revision here.
    ///
    /// # Errors
    /// As [`get`](Self::get). A damaged newest one is an error; no older one is given in its place.
    pub fn newest(&self, image: &ImageName) -> Result<Revision> {
        match self.numbers(image)?.into_iter().max() {
            Some(revision) => self.get(&ImageRef::new(image.clone(), revision)),
            None => Err(Error::new(ErrorKind::NotFound, format!("this node holds no revision of {image}"))),
        }
    }

    /// The number after the highest that is here. Other nodes may hold higher ones, and deleted ones are forgotten: the
    /// database has the last word.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io), or [`Fatal`](ErrorKind::Fatal) after 4294967295 revisions.
    pub fn next_revision(&self, image: &ImageName) -> Result<u32> {
        let highest = self.numbers(image)?.into_iter().max().unwrap_or(0);
        highest
            .checked_add(1)
            .ok_or_else(|| Error::new(ErrorKind::Fatal, format!("{image} has no numbers left")))
    }

    fn numbers(&self, image: &ImageName) -> Result<Vec<u32>> {
        match entries(&self.root.join(image.as_str())) {
            Ok(entries) => Ok(entries.iter().filter_map(|(name, _)| number(name)).collect()),
            Err(e) if e.kind == ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }
}

/// Whether all files of a manifest are there, as regular files, the disks as long as they were.
pub(super) fn present(directory: &Path, manifest: &Manifest) -> Result<()> {
    for name in manifest::files(manifest) {
        let path = directory.join(name);
        let shown = path.display();
        let meta = match path.symlink_metadata() {
            Ok(meta) => meta,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::corrupt(format!("{shown} is missing")));
            }
            Err(e) => return Err(Error::io(format!("reading {shown}"), e)),
        };
        if !meta.is_file() {
            return Err(Error::corrupt(format!("{shown} is not a regular file")));
        }
        let disk = manifest.disks.iter().find(|d| d.file == name);
        let file = manifest.boot_files.iter().find(|f| f.file == name).map(|f| f.size);
        let expected = disk.map(|d| d.file_size).or(file).map(|size| size.bytes());
        if let Some(expected) = expected.filter(|e| *e != meta.len()) {
            let length = meta.len();
            return Err(Error::corrupt(format!("{shown} has {length} bytes, its manifest says {expected}")));
        }
        disk.map_or(Ok(()), |disk| delta::header(directory, disk))?;
    }
    Ok(())
}

/// `12`, and not `012` or `+12`.
fn number(name: &str) -> Option<u32> {
    name.parse::<u32>().ok().filter(|n| *n > 0 && n.to_string() == name)
}
