//! What is kept of the last two runs for each computer by each manifest, and what changed from one to the other.
//!
//! It lies on the node whose job it was, in cdist's layout. A run that is put there is put there whole.

use crate::node::{Node, Refusal, RefusalKind};
use camino::{Utf8Path, Utf8PathBuf};
use chrono::{DateTime, Utc};
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use vcl_types::api::{ConfigurationChange, ConfiguredView};
use vcl_types::{ComputerName, ManifestName};

/// The file that says when a run came to its end.
const ENDED: &str = "ended";

/// What a computer's last two runs by a manifest have found and made, in cdist's layout.
pub(super) struct Seen {
    pub(super) directory: Utf8PathBuf,
}

impl Seen {
    pub(super) fn of(node: &Node, computer: &ComputerName, manifest: &ManifestName) -> Self {
        let all = node.config.configure.directory.join("seen");
        Self { directory: all.join(computer.as_str()).join(manifest.as_str()) }
    }
    /// Where the next is put.
    pub(super) fn next(&self) -> Utf8PathBuf {
        self.directory.join("next")
    }
    /// Removes what a run left that did not come to its end.
    pub(super) fn make_room(&self) -> std::io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        gone(&self.next())
    }
    /// The next becomes the last, and that the one before.
    pub(super) fn settle(&self) -> std::io::Result<()> {
        let (next, last, before) = (self.next(), self.directory.join("last"), self.directory.join("before"));
        if !next.exists() {
            return Ok(());
        }
        fs::write(next.join(ENDED), Utc::now().to_rfc3339())?;
        if last.exists() {
            gone(&before)?;
            fs::rename(&last, &before)?;
        }
        fs::rename(&next, &last)
    }
}

fn gone(directory: &Utf8Path) -> std::io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        ended => ended,
    }
}

impl Node {
    /// By which manifests a computer was configured by this node's jobs, and what the last run of each has found and made that the
    /// one before had not.
    ///
    /// # Errors
    /// There is no such computer, or what is kept cannot be read.
    pub async fn configured(&self, name: &ComputerName) -> Result<Vec<ConfiguredView>, Refusal> {
        self.queue.computer(name).await?;
        let all = self.config.configure.directory.join("seen").join(name.as_str());
        let read = tokio::task::spawn_blocking(move || views(&all)).await;
        let failed = |message: String| Refusal::new(RefusalKind::Internal, message);
        read.map_err(|e| failed(e.to_string()))?
            .map_err(|e| failed(format!("reading what is kept of {name}'s runs: {e}")))
    }
}

fn views(all: &Utf8Path) -> Result<Vec<ConfiguredView>, String> {
    let entries = match all.read_dir_utf8() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| e.to_string())?,
    };
    let mut views = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| e.to_string())?;
        let Ok(manifest) = entry.file_name().parse::<ManifestName>() else { continue };
        let (last, before) = (entry.path().join("last"), entry.path().join("before"));
        let Some(at) = ended(&last) else { continue };
        let earlier = ended(&before);
        let changes = match earlier {
            Some(_) => vcl_configure::compare::compare(&before, &last).map_err(|e| e.chain())?,
            None => Vec::new(),
        };
        let changes = changes.into_iter().map(|change| ConfigurationChange {
            object: change.object,
            part: change.part,
            before: change.before,
            after: change.after,
        });
        views.push(ConfiguredView { manifest, at, before: earlier, changes: changes.collect() });
    }
    views.sort_by(|a, b| a.manifest.cmp(&b.manifest));
    Ok(views)
}

/// When a run that is kept came to its end.
fn ended(run: &Utf8Path) -> Option<DateTime<Utc>> {
    fs::read_to_string(run.join(ENDED)).ok()?.trim().parse().ok()
}
