//! Backups: directories that hold the database and the library as they were.
//!
//! ```text
//!  DIR/vcld-backup                  what this directory is, and in which version
//!  DIR/objects/<sha256>             a file of a revision, by its digest: kept once, however many snapshots have it
//!  DIR/snapshots/<time>-job<n>/     database.jsonl  every row of the database at one moment, for either engine
//!                                   revisions.json  every revision: its manifest, and its files with their digests
//!                                   complete        written last: what is in the snapshot, with digests
//! ```
//!
//! * A snapshot without `complete` is none; it is what a job that was cut short has left, or one that is under way.
//! * An object gets its name after its digest was compared with what was written. It is a copy (blocks are shared where
//!   the file system can), never a hard link: what spoils the library must not spoil its backup.
//! * Taking one is a job (`flow/backup.rs`); looking, verifying and restoring need no daemon.

mod restore;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use restore::{Restore, restore};
pub(crate) use store::{Complete, DATABASE, REVISIONS, Store, digest, write_whole};

use anyhow::{Context, Result};
use camino::Utf8Path;

/// Prints the snapshots of a directory, oldest first.
pub(crate) fn list(directory: &Utf8Path) -> Result<String> {
    let store = Store::open(directory)?;
    let mut text = String::new();
    for snapshot in store.snapshots()? {
        let line = match &snapshot.complete {
            Some(done) => format!(
                "{}  {} revisions in {}, by {} (vcld {})",
                snapshot.name, done.revisions, done.bytes, done.node, done.version
            ),
            None => format!(
                "{}  not complete: it is being taken, or was cut short; it does not count",
                snapshot.name
            ),
        };
        text.push_str(&line);
        text.push('\n');
    }
    if text.is_empty() {
        text.push_str("there is no snapshot in it\n");
    }
    Ok(text)
}

/// Reads everything that the snapshots of a directory hold, each object once, and compares digests. Answers what is
/// wrong; nothing is well.
pub(crate) async fn verify(directory: &Utf8Path, only: Option<&str>) -> Result<Vec<String>> {
    let store = Store::open(directory)?;
    let mut wrong = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    let mut looked = 0;
    for snapshot in store.snapshots()? {
        if only.is_some_and(|only| only != snapshot.name) || snapshot.complete.is_none() {
            continue;
        }
        looked += 1;
        let listings = match store.listings(&snapshot).await {
            Ok(listings) => listings,
            Err(e) => {
                wrong.push(format!("{}: {e:#}", snapshot.name));
                continue;
            }
        };
        for listing in listings {
            for file in &listing.files {
                if !seen.insert(file.digest.clone()) {
                    continue;
                }
                if let Err(e) = store.check(file).await {
                    let image = listing.manifest.image_ref();
                    wrong.push(format!("{}: {} of {image}: {e:#}", snapshot.name, file.name));
                }
            }
        }
    }
    match only {
        Some(only) if looked == 0 => {
            Err(anyhow::anyhow!("there is no complete snapshot {only} in {directory}"))
        }
        _ => Ok(wrong),
    }
    .with_context(|| format!("vcld backups list {directory} shows those there are"))
}
