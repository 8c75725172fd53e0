//! The directory that holds a node's revisions.

mod publish;
mod scan;
mod staging;
mod trash;

pub use scan::{Finding, Scan};
pub use staging::{Leftover, Staging};
pub use trash::{Discarded, TrashName, Trashed};

use crate::blocking::blocking;
use crate::space::Ledger;
use crate::{Directory, Error, Result, Space, Store, names};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vcl_types::ImageRef;

const STAGING: &str = ".staging";
const TRASH: &str = ".trash";

/// The image library of a node. Copies of it are the same library.
///
/// Methods that are not `async` do a few system calls each and may be called from anywhere; those that flush, walk or
/// remove files are `async` and do it on blocking threads.
#[derive(Debug, Clone)]
pub struct Library {
    root: Arc<Path>,
    store: Arc<dyn Store>,
    pub(crate) ledger: Arc<Ledger>,
}

impl Library {
    /// Opens the library at an absolute path and makes what it needs inside. The directory itself must be there: one
    /// that is missing may be a file system that was not mounted.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) or [`NotFound`](crate::ErrorKind::NotFound); the message says what to do.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        Self::on(root, Arc::new(Directory))
    }

    /// As [`open`](Self::open), with something else behind it than an ordinary directory.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn on(root: impl AsRef<Path>, store: Arc<dyn Store>) -> Result<Self> {
        let root = root.as_ref();
        let name = root.display();
        if !root.is_absolute() {
            return Err(Error::refused(format!("the library's path {name} must be absolute")));
        }
        names::text(root)?;
        let meta = root.metadata().map_err(|e| {
            Error::io(
                format!("opening the library {name} (mount it, or make it with `install -d -m 0755 {name}`)"),
                e,
            )
        })?;
        if !meta.is_dir() {
            return Err(Error::refused(format!("the library {name} is not a directory")));
        }
        for inner in [STAGING, TRASH] {
            staging::make_private(&root.join(inner), &meta).map_err(|e| {
                e.within(format!("the library {name} cannot be used (the daemon's user must own it)"))
            })?;
        }
        Ok(Self { root: root.into(), store, ledger: Arc::default() })
    }

    /// Its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The room on its file system, in bytes.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io).
    pub fn space(&self) -> Result<Space> {
        Ok(Space { reserved: self.ledger.sum(), ..self.store.space(&self.root)? })
    }

    /// What everything in it takes, in bytes: revisions, staging and trash.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io).
    pub async fn used(&self) -> Result<u64> {
        let (root, store) = (self.root.clone(), self.store.clone());
        blocking(move || store.size(&root)).await
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }
    pub(crate) fn staging_root(&self) -> PathBuf {
        self.root.join(STAGING)
    }
    fn trash_root(&self) -> PathBuf {
        self.root.join(TRASH)
    }
    /// Where a revision lies or would lie.
    pub(crate) fn place(&self, image: &ImageRef) -> Result<PathBuf> {
        match image.revision {
            Some(revision) => Ok(self.root.join(image.name.as_str()).join(revision.to_string())),
            None => Err(Error::refused(format!("`{image}` names no revision; write `{image}@1`"))),
        }
    }
}
