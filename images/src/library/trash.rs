//! The trash: what was deleted and can be brought back, and what was exchanged and is still read.
//!
//! Each thing in it is one directory, whose name says what it was, why it is here, since when, and the job that put it
//! here: `debian@2.deleted.1732233600.12`. The name is the job's intent, so that a job that runs again finds what it did.

use super::Library;
use crate::blocking::blocking;
use crate::names::entries;
use crate::{Error, ErrorKind, Result, manifest};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use vcl_types::{ByteSize, ImageRef, JobId, Manifest};

/// Why something is in the trash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Discarded {
    /// It was deleted, and can be brought back.
    Deleted,
    /// It was deleted for good, and is only here until its bytes are freed.
    ForGood,
    /// It was rewritten whole: this is the delta it was, which a running machine may have open.
    Exchanged,
}

impl Discarded {
    fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::ForGood => "for-good",
            Self::Exchanged => "exchanged",
        }
    }
}

/// The name of something in the trash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashName {
    /// What it was.
    pub image: ImageRef,
    /// Why it is there.
    pub why: Discarded,
    /// Since when, to the second.
    pub at: DateTime<Utc>,
    /// The job that put it there.
    pub job: JobId,
}

impl fmt::Display for TrashName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}", self.image, self.why.as_str(), self.at.timestamp(), self.job)
    }
}
impl FromStr for TrashName {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let mut parts = text.rsplitn(4, '.');
            let job = parts.next()?.parse().ok()?;
            let at = DateTime::from_timestamp(parts.next()?.parse().ok()?, 0)?;
            let word = parts.next()?;
            let why = [Discarded::Deleted, Discarded::ForGood, Discarded::Exchanged];
            let why = why.into_iter().find(|why| why.as_str() == word)?;
            let image = parts.next()?.parse::<ImageRef>().ok().filter(|i| i.revision.is_some())?;
            Some(Self { image, why, at, job })
        };
        parse().ok_or_else(|| Error::corrupt(format!("`{text}` is not the name of something in the trash")))
    }
}

/// Something in the trash.
#[derive(Debug, Clone, PartialEq)]
pub struct Trashed {
    /// What its name says; `None` for what a deletion of an older version, cut short, has left.
    pub name: Option<TrashName>,
    /// Where it is.
    pub path: PathBuf,
    /// What its manifest says, where there is one that can be read.
    pub manifest: Option<Manifest>,
    /// What it takes.
    pub size: ByteSize,
}

impl Library {
    /// Moves a revision into the trash under this name; says whether this run or an earlier one did. Whether anything
    /// still needs it is the caller's to know.
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused) when no revision is named, [`Io`](ErrorKind::Io).
    pub async fn discard(&self, name: &TrashName) -> Result<bool> {
        let (place, gone) = (self.place(&name.image)?, self.trash_root().join(name.to_string()));
        let (image, store) = (name.image.clone(), self.store.clone());
        blocking(move || {
            if gone.is_dir() {
                return Ok(true);
            }
            match store.publish(&place, &gone) {
                Ok(()) => {}
                Err(e) if e.kind == ErrorKind::NotFound && !place.exists() => return Ok(false),
                Err(e) => return Err(e.within(format!("moving {image} into the trash"))),
            }
            if let Some(parent) = place.parent() {
                // The image's last revision takes the directory along; any other keeps it.
                let _ = std::fs::remove_dir(parent);
            }
            Ok(true)
        })
        .await
    }

    /// Moves what an exchange has left in a staging into the trash; says whether this run or an earlier one did.
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused) when the name is none, [`Io`](ErrorKind::Io).
    pub async fn retire(&self, staging: &str, name: &TrashName) -> Result<bool> {
        let from = self.staging_root().join(crate::names::file_name(staging)?);
        let (to, store) = (self.trash_root().join(name.to_string()), self.store.clone());
        blocking(move || match store.publish(&from, &to) {
            Ok(()) => Ok(true),
            Err(e) if matches!(e.kind, ErrorKind::NotFound | ErrorKind::Exists) && !from.exists() => {
                Ok(to.is_dir())
            }
            Err(e) => Err(e.within(format!("moving what {} was into the trash", from.display()))),
        })
        .await
    }

    /// Takes [`retire`](Self::retire) back, for its undo; says whether there was something to take back.
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused) when the name is none, [`Io`](ErrorKind::Io).
    pub async fn unretire(&self, staging: &str, name: &TrashName) -> Result<bool> {
        let to = self.staging_root().join(crate::names::file_name(staging)?);
        let (from, store) = (self.trash_root().join(name.to_string()), self.store.clone());
        blocking(move || {
            if !from.is_dir() || to.exists() {
                return Ok(false);
            }
            store.publish(&from, &to).map(|()| true)
        })
        .await
    }

    /// What is in the trash, the oldest first.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io).
    pub fn trash(&self) -> Result<Vec<Trashed>> {
        let mut found = Vec::new();
        for (name, path) in entries(&self.trash_root())? {
            let size = match self.store.size(&path) {
                Ok(size) => ByteSize(size),
                // It was removed or brought back meanwhile.
                Err(e) if e.kind == ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let manifest = manifest::read(&path).ok();
            found.push(Trashed { name: name.parse().ok(), path, manifest, size });
        }
        found.sort_by_key(|t| (t.name.as_ref().map(|n| n.at), t.path.clone()));
        Ok(found)
    }

    /// The deleted revision that can be brought back: the newest of that name in the trash.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) when it is not in the trash, [`Corrupt`](ErrorKind::Corrupt) when its manifest
    /// cannot be read.
    pub fn discarded(&self, image: &ImageRef) -> Result<(TrashName, Manifest)> {
        let found = self.trash()?.into_iter().rev().find_map(|t| {
            let name = t.name.filter(|n| n.image == *image && n.why == Discarded::Deleted)?;
            Some((name, t.manifest, t.path))
        });
        let Some((name, manifest, path)) = found else {
            let context = format!("{image} is not in the trash; `vclctl image trash` lists what is");
            return Err(Error::new(ErrorKind::NotFound, context));
        };
        match manifest.filter(|m| m.image_ref() == *image) {
            Some(manifest) => Ok((name, manifest)),
            None => Err(Error::corrupt(format!("the manifest in {} is not of {image}", path.display()))),
        }
    }

    /// Moves a deleted revision back to its place; all that it lies on must be there. It may run again.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) when it is in neither place; [`Exists`](ErrorKind::Exists) when its place is
    /// taken; [`Corrupt`](ErrorKind::Corrupt) when what it lies on is gone or is another.
    pub async fn bring_back(&self, name: &TrashName, manifest: &Manifest) -> Result<()> {
        let (place, gone) = (self.place(&name.image)?, self.trash_root().join(name.to_string()));
        if !gone.exists() && self.one(&name.image).is_ok_and(|there| there.manifest == *manifest) {
            return Ok(());
        }
        if let Some(parent) = manifest.lies_on() {
            self.get(parent).map_err(|e| {
                let context = format!("{} is stored over {parent}, which cannot be used", name.image);
                Error::caused(ErrorKind::Refused, context, e)
            })?;
        }
        let (store, root) = (self.store.clone(), self.root.to_path_buf());
        blocking(move || {
            if let Some(parent) = place.parent() {
                match std::fs::create_dir(parent) {
                    Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                        return Err(Error::io(format!("making {}", parent.display()), e));
                    }
                    _ => store.flush_names(&root)?,
                }
            }
            store.publish(&gone, &place)
        })
        .await
    }

    /// Removes something from the trash for good; says whether it was there.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io).
    pub async fn remove_discarded(&self, trashed: &std::path::Path) -> Result<bool> {
        if trashed.parent() != Some(self.trash_root().as_path()) {
            return Err(Error::refused(format!("{} is not in the trash", trashed.display())));
        }
        let (path, store) = (trashed.to_owned(), self.store.clone());
        blocking(move || store.remove(&path)).await
    }

    /// The path of a name in the trash.
    #[must_use]
    pub fn trash_path(&self, name: &TrashName) -> PathBuf {
        self.trash_root().join(name.to_string())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_the_trash_says_what_why_when_and_who() {
        for text in ["debian@2.deleted.1732233600.12", "win-11.x@17.exchanged.0.1", "a@1.for-good.5.6"] {
            assert_eq!(text.parse::<TrashName>().unwrap().to_string(), text);
        }
        for other in ["debian@2-18af.0", "debian.deleted.1.1", "a@1.gone.5.6", "a@1.deleted.x.6", ""] {
            assert!(other.parse::<TrashName>().is_err(), "{other}");
        }
    }
}
