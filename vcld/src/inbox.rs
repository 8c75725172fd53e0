//! The daemon's inbox: boxes on disk, and a listener that machines reach.
//!
//! A box is a directory below `inbox.directory`; nothing about it is kept in memory, so a daemon that was restarted goes on
//! where it was, and a box that was closed (its directory removed, by whomever) is closed at once.
//!
//! ```text
//!  NAME/box.json   its token and its key, for this user alone
//!  NAME/out/*      what may be fetched
//!  NAME/in/disk0   the disk that is coming, raw and sparse
//!  NAME/in/have    `CHUNK SHA-256` of each chunk, after its bytes are on the disk
//!  NAME/in/at      how far the machine says it is          NAME/in/result.json   how it ended
//!  NAME/in/fetched is there when something was fetched
//! ```

mod server;
mod store;
#[cfg(test)]
mod tests;

pub use server::serve;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use vcl_provisioning::inbox::{Inbox, Opened, Place, Seen, Takes, is_name};
use vcl_provisioning::{Error, ErrorKind, Result};
use vcl_types::Secret;

/// The boxes of this node.
#[derive(Debug)]
pub struct Boxes {
    root: Utf8PathBuf,
    /// What machines reach the listener at, without a slash at its end.
    url: String,
}

/// What `box.json` says. It is written once.
#[derive(Clone, Serialize, Deserialize)]
struct Papers {
    token: String,
    key: String,
    takes: Takes,
}

fn io(what: String) -> impl FnOnce(std::io::Error) -> Error {
    move |e| Error::caused(ErrorKind::Failed, what, e)
}

/// 244 random bits in 64 hexadecimal digits.
fn random() -> String {
    let part = || uuid::Uuid::new_v4().simple().to_string();
    part() + &part()
}

impl Boxes {
    /// The boxes in this directory, which is made for this user alone.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(root: &Utf8Path, url: &str) -> Result<Self> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root);
        made.map_err(io(format!("making the inbox {root}")))?;
        Ok(Self { root: root.to_owned(), url: url.trim_end_matches('/').to_owned() })
    }

    fn papers(place: &Place) -> Result<Papers> {
        let path = place.directory.join("box.json");
        let text = std::fs::read(&path).map_err(|e| {
            let kind = match e.kind() {
                std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                _ => ErrorKind::Failed,
            };
            Error::caused(kind, format!("there is no box {}", place.name), e)
        })?;
        serde_json::from_slice(&text)
            .map_err(|e| Error::caused(ErrorKind::Failed, format!("reading {path}"), e))
    }

    /// The box of that name, if the token is its.
    fn enter(&self, name: &str, token: &str) -> Option<(Place, Papers)> {
        let place = self.place(name).ok()?;
        let papers = Self::papers(&place).ok()?;
        // Digests are compared, so that the time it takes tells nothing about the token.
        (Sha256::digest(token) == Sha256::digest(&papers.token)).then_some((place, papers))
    }

    fn make(&self, place: &Place, takes: Takes) -> std::io::Result<()> {
        // It is there whole or not at all.
        let growing = self.root.join(format!(".{}.{}", place.name, uuid::Uuid::new_v4().simple()));
        let papers = Papers { token: random(), key: random(), takes };
        let directory = |path: &Utf8Path| std::fs::DirBuilder::new().mode(0o700).create(path);
        let made = directory(&growing).and_then(|()| {
            directory(&growing.join("out"))?;
            directory(&growing.join("in"))?;
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(0o600).open(growing.join("box.json"))?;
            file.write_all(&serde_json::to_vec(&papers)?)?;
            file.sync_all()?;
            std::fs::rename(&growing, &place.directory)?;
            std::fs::File::open(&self.root)?.sync_all()
        });
        if made.is_err() {
            let _ = std::fs::remove_dir_all(&growing);
        }
        made
    }
}

impl Inbox for Boxes {
    fn place(&self, name: &str) -> Result<Place> {
        if !is_name(name) {
            let what = "a box's name has letters, digits, `-` and `_`";
            return Err(Error::new(ErrorKind::Refused, what));
        }
        Ok(Place { name: name.to_owned(), directory: self.root.join(name) })
    }

    fn open(&self, place: &Place, takes: Takes) -> Result<Opened> {
        let papers = match Self::papers(place) {
            Ok(papers) => papers,
            Err(e) if e.kind == ErrorKind::NotFound => {
                self.make(place, takes).map_err(io(format!("making the box {}", place.directory)))?;
                Self::papers(place)?
            }
            Err(e) => return Err(e),
        };
        let url = format!("{}/inbox/{}/{}", self.url, place.name, papers.token);
        Ok(Opened { url: Secret::new(url), key: Secret::new(papers.key) })
    }

    fn seen(&self, place: &Place) -> Result<Seen> {
        Self::papers(place)?;
        Ok(store::seen(place))
    }

    fn boxes(&self) -> Result<Vec<Place>> {
        let entries = self.root.read_dir_utf8().map_err(io(format!("reading the inbox {}", self.root)))?;
        let names = entries.filter_map(|e| Some(e.ok()?.file_name().to_owned()));
        let mut boxes: Vec<_> = names.filter_map(|name| self.place(&name).ok()).collect();
        boxes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(boxes)
    }
}
