//! The datastore's directories and files by the API: making, listing, moving and deleting them.
//!
//! Names are relative to the datastore (`vcl-gis-01/disk0.vmdk`); all may be asked for again.

use super::dom::Element;
use super::request::Request;
use super::task::Watcher;
use super::{Site, fault_of};
use crate::{Error, ErrorKind, Result};
use chrono::{DateTime, Utc};

/// A file or a directory on the datastore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DatastoreFile {
    /// Its name in its directory.
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) modified: Option<DateTime<Utc>>,
    pub(crate) directory: bool,
}

impl Site {
    /// `[datastore] name`
    pub(crate) fn on_datastore(&self, name: &str) -> String {
        format!("[{}] {name}", self.settings.datastore)
    }
    /// The name of a path of this datastore; `None` for one of another.
    pub(crate) fn name_of<'p>(&self, path: &'p str) -> Option<&'p str> {
        let rest = path.strip_prefix('[')?.strip_prefix(self.settings.datastore.as_str())?;
        Some(rest.strip_prefix(']')?.trim_start())
    }

    /// Makes a directory and those above it. One that is there is well.
    pub(crate) async fn make_directory(&self, name: &str) -> Result<()> {
        let (place, path) = (self.place().await?, self.on_datastore(name));
        let made = self
            .client
            .change(&format!("making the directory {path}"), |content| {
                Request::new("MakeDirectory", &content.files, |x| {
                    x.text("name", &path).reference("datacenter", &place.datacenter);
                    x.text("createParentDirectories", true);
                })
            })
            .await;
        match made {
            Err(e) if e.kind == ErrorKind::Exists => Ok(()),
            made => made.map(drop),
        }
    }

    /// Deletes a file or a directory with what is in it. None is well.
    pub(crate) async fn delete(&self, name: &str, watcher: &Watcher) -> Result<()> {
        let (place, path) = (self.place().await?, self.on_datastore(name));
        let deleted = self
            .client
            .task(&format!("deleting {path}"), watcher, |content| {
                Request::new("DeleteDatastoreFile_Task", &content.files, |x| {
                    x.text("name", &path).reference("datacenter", &place.datacenter);
                })
            })
            .await;
        match deleted {
            Err(e) if is_missing(&e) => Ok(()),
            deleted => deleted.map(drop),
        }
    }

    /// Gives a file or a directory another name, which must not be taken: [`ErrorKind::Exists`].
    pub(crate) async fn rename(&self, from: &str, to: &str, watcher: &Watcher) -> Result<()> {
        let (place, from, to) = (self.place().await?, self.on_datastore(from), self.on_datastore(to));
        let what = format!("moving {from} to {to}");
        let moved = self.client.task(&what, watcher, |content| {
            Request::new("MoveDatastoreFile_Task", &content.files, |x| {
                x.text("sourceName", &from).reference("sourceDatacenter", &place.datacenter);
                x.text("destinationName", &to).reference("destinationDatacenter", &place.datacenter);
                x.text("force", false);
            })
        });
        moved.await.map(drop)
    }

    /// What is in a directory; `None` when there is none.
    pub(crate) async fn list(&self, name: &str, watcher: &Watcher) -> Result<Option<Vec<DatastoreFile>>> {
        let (place, path) = (self.place().await?, self.on_datastore(name));
        let listed = self
            .client
            .task(&format!("listing {path}"), watcher, |_| {
                Request::new("SearchDatastore_Task", &place.browser, |x| {
                    x.text("datastorePath", &path);
                    x.element("searchSpec", |x| {
                        x.element("details", |x| {
                            x.text("fileType", true).text("fileSize", true);
                            x.text("modification", true).text("fileOwner", false);
                        });
                    });
                })
            })
            .await;
        match listed {
            Err(e) if is_missing(&e) => Ok(None),
            listed => Ok(Some(listed?.all("file").filter_map(file).collect())),
        }
    }
}

/// Whether the file is what is not there, and not the datacenter or another object that was asked.
pub(super) fn is_missing(e: &Error) -> bool {
    e.kind == ErrorKind::NotFound && fault_of(e) != Some("ManagedObjectNotFound")
}

fn file(element: &Element) -> Option<DatastoreFile> {
    Some(DatastoreFile {
        name: element.text_at("path")?.trim_end_matches('/').to_owned(),
        size: element.number_at("fileSize").unwrap_or(0),
        modified: element.text_at("modification").and_then(|text| text.parse().ok()),
        directory: element.xsi_type.as_deref() == Some("FolderFileInfo"),
    })
}
