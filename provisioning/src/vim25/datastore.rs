//! A datastore's files by themselves, without a job: what is measured, and what a tool of a site's own may use.

use super::client::ServerKind;
use super::task::Watcher;
use super::{Settings, Site};
use crate::{Error, ErrorKind, Result};
use std::path::Path;
use vcl_images::digest::Content;

/// The files of the datastore that an instance has for its machines.
pub struct Datastore(Site);

impl Datastore {
    /// That of an ESXi host. Nothing is connected yet.
    ///
    /// # Errors
    /// The directory cannot be made, or the authority's certificate cannot be read.
    pub fn of_host(settings: Settings) -> Result<Self> {
        Ok(Self(Site::new(settings, ServerKind::HostAgent)?))
    }
    /// Sends a local file of raw bytes under a name such as `vcl-images/x/disk-flat.vmdk`, whose directory must be
    /// there, and answers the digest of what a guest would see of it. It goes on where the connection breaks.
    ///
    /// # Errors
    /// [`NoSpace`](crate::ErrorKind::NoSpace), [`NotFound`](crate::ErrorKind::NotFound) for the directory, or a server
    /// that cannot be talked to.
    pub async fn upload(&self, from: &Path, name: &str) -> Result<Content> {
        self.0.upload(from, name, &Watcher::doing()).await
    }
    /// Fetches a file into a sparse local one, and answers the digest of what a guest would see of it. It goes on where the
    /// connection breaks.
    ///
    /// # Errors
    /// As [`upload`](Self::upload).
    pub async fn download(&self, name: &str, to: &Path) -> Result<Content> {
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no file {name}"));
        let size = self.0.length(name).await?.ok_or_else(missing)?;
        self.0.download(name, size, to, &Watcher::doing()).await
    }
    /// Ends the session.
    pub async fn close(&self) {
        self.0.client.close().await;
    }
}
