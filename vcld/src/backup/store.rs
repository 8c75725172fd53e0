//! A directory of backups.

use anyhow::{Context, Result, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vcl_images::fetch::{ListedFile, Listing};
use vcl_images::{Directory, Progress, Store as _};
use vcl_job::{Cx, MemoryJournal};
use vcl_types::{ByteSize, Digest, ImageRef};

const MARK: &str = "vcld-backup";
const FORMAT: &str = "vcld backup 1\n";
/// What a snapshot's files are called.
pub(crate) const DATABASE: &str = "database.jsonl";
pub(crate) const REVISIONS: &str = "revisions.json";
const COMPLETE: &str = "complete";

/// What a complete snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Complete {
    /// When its database was copied.
    pub(crate) taken: DateTime<Utc>,
    /// Whose library it is.
    pub(crate) node: String,
    /// The vcld that took it.
    pub(crate) version: String,
    /// How many revisions it has.
    pub(crate) revisions: u64,
    /// What their files have together.
    pub(crate) bytes: ByteSize,
    /// The digests of its own files.
    pub(crate) files: BTreeMap<String, Digest>,
}

/// One snapshot of a directory.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) name: String,
    pub(crate) directory: Utf8PathBuf,
    pub(crate) complete: Option<Complete>,
}

/// A directory of backups.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    root: Utf8PathBuf,
}

impl Store {
    /// One that is there.
    pub(crate) fn open(root: &Utf8Path) -> Result<Self> {
        let mark = root.join(MARK);
        let text = std::fs::read_to_string(&mark)
            .with_context(|| format!("{root} is no directory of backups: reading {mark}"))?;
        ensure!(text == FORMAT, "{root} is a directory of backups of another version: {}", text.trim());
        Ok(Self { root: root.to_owned() })
    }

    /// One that is made if it is not there. It must be empty, or one already.
    pub(crate) fn make(root: &Utf8Path) -> Result<Self> {
        ensure!(root.is_absolute(), "{root} is not an absolute path");
        let directory = |path: &Utf8Path| match DirBuilder::new().mode(0o700).create(path) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(e).with_context(|| format!("making {path}"))
            }
            _ => Ok(()),
        };
        directory(root)?;
        if !root.join(MARK).exists() {
            let entries = root.read_dir().with_context(|| format!("reading {root}"))?;
            let other = entries.flatten().find(|e| !e.file_name().to_string_lossy().starts_with(MARK));
            if let Some(other) = other.filter(|e| e.file_name() != "lost+found") {
                let name = other.file_name().to_string_lossy().into_owned();
                bail!("{root} holds something else ({name}); give backups a directory of their own");
            }
            write_whole(&root.join(MARK), FORMAT.as_bytes())?;
        }
        let store = Self::open(root)?;
        directory(&store.objects())?;
        directory(&store.root.join("snapshots"))?;
        Ok(store)
    }

    fn objects(&self) -> Utf8PathBuf {
        self.root.join("objects")
    }
    fn object(&self, digest: &Digest) -> Utf8PathBuf {
        self.objects().join(digest.as_str())
    }
    /// Where a snapshot of that name lies or would.
    pub(crate) fn snapshot(&self, name: &str) -> Utf8PathBuf {
        self.root.join("snapshots").join(name)
    }

    /// All snapshots, oldest first.
    pub(crate) fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let root = self.root.join("snapshots");
        let mut found = Vec::new();
        for entry in root.read_dir().with_context(|| format!("reading {root}"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let directory = root.join(&name);
            let complete = match std::fs::read(directory.join(COMPLETE)) {
                Ok(text) => Some(
                    serde_json::from_slice(&text)
                        .with_context(|| format!("reading {directory}/{COMPLETE}"))?,
                ),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
                Err(e) => return Err(e).with_context(|| format!("reading {directory}/{COMPLETE}")),
            };
            found.push(Snapshot { name, directory, complete });
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// The revisions of a complete snapshot, after its own files were compared with their digests.
    pub(crate) async fn listings(&self, snapshot: &Snapshot) -> Result<Vec<Listing>> {
        let complete = snapshot.complete.as_ref().context("the snapshot is not complete")?;
        for (name, expected) in &complete.files {
            let path = snapshot.directory.join(name);
            let found = digest(&path).await?;
            ensure!(found == *expected, "{path} has digest {found}, and {expected} when it was made");
        }
        let path = snapshot.directory.join(REVISIONS);
        let text = std::fs::read(&path).with_context(|| format!("reading {path}"))?;
        let mut listings: Vec<Listing> =
            serde_json::from_slice(&text).with_context(|| format!("reading {path}"))?;
        for listing in &listings {
            listing.check(&listing.manifest).with_context(|| format!("reading {path}"))?;
        }
        // What others lie on comes before them, whatever it is called.
        let over: BTreeMap<ImageRef, Option<ImageRef>> =
            listings.iter().map(|l| (l.manifest.image_ref(), l.manifest.lies_on().cloned())).collect();
        listings.sort_by_cached_key(|listing| {
            let first = Some(listing.manifest.image_ref());
            let chain = std::iter::successors(first, |image| over.get(image).cloned().flatten());
            chain.take(over.len()).count()
        });
        Ok(listings)
    }

    /// Whether an object is there, as long as it should be.
    pub(crate) fn has(&self, file: &ListedFile) -> bool {
        self.object(&file.digest).metadata().is_ok_and(|meta| meta.len() == file.size)
    }

    /// Reads an object again.
    pub(crate) async fn check(&self, file: &ListedFile) -> Result<()> {
        let path = self.object(&file.digest);
        let found = digest(&path).await?;
        ensure!(found == file.digest, "{path} has digest {found}");
        Ok(())
    }

    /// Copies a file in, unless it is there; what was written is read again. `tag` tells apart who does it at one time.
    /// Answers whether it was copied.
    pub(crate) async fn add(
        &self,
        cx: &Cx,
        from: &std::path::Path,
        file: &ListedFile,
        tag: &str,
        progress: &Progress,
    ) -> vcl_job::Result<bool> {
        if self.has(file) {
            return Ok(false);
        }
        let part = self.objects().join(format!(".{}-{tag}", file.digest));
        copy(cx, from, part.as_std_path(), progress).await?;
        let found = vcl_images::digest::file(cx, part.as_std_path(), &Progress::none()).await?;
        if found.digest != file.digest {
            let _ = std::fs::remove_file(&part);
            let message = format!(
                "{} is not what its manifest says; restore it from an older snapshot or another node before the next backup",
                from.display()
            );
            return Err(vcl_job::Error::new(vcl_job::Kind::Corrupt, message));
        }
        let to = self.object(&file.digest);
        let named = || {
            File::open(&part)?.sync_all()?;
            std::fs::rename(&part, &to)?;
            File::open(self.objects())?.sync_all()
        };
        named().map_err(|e| vcl_images::Error::io(format!("writing {to}"), e))?;
        Ok(true)
    }

    /// Copies an object out, as a file that must not exist; what was written is read again.
    pub(crate) async fn take(&self, cx: &Cx, file: &ListedFile, to: &std::path::Path) -> Result<()> {
        let from = self.object(&file.digest);
        copy(cx, from.as_std_path(), to, &Progress::none()).await?;
        let found = vcl_images::digest::file(cx, to, &Progress::none()).await?;
        ensure!(found.digest == file.digest, "{from} is damaged: it has digest {}", found.digest);
        Ok(())
    }

    /// Says that a snapshot counts.
    pub(crate) fn complete(&self, name: &str, complete: &Complete) -> Result<()> {
        let text = serde_json::to_vec_pretty(complete)?;
        write_whole(&self.snapshot(name).join(COMPLETE), &text)?;
        Ok(File::open(self.root.join("snapshots"))?.sync_all()?)
    }
}

async fn copy(
    cx: &Cx,
    from: &std::path::Path,
    to: &std::path::Path,
    progress: &Progress,
) -> vcl_images::Result<()> {
    // What an earlier try has left.
    Directory.remove(to)?;
    let (from, to, progress) = (from.to_owned(), to.to_owned(), progress.clone());
    let stop = cx.token().child_token();
    let _guard = stop.clone().drop_guard();
    let copied = tokio::task::spawn_blocking(move || Directory.clone_file(&from, &to, &stop, &progress));
    copied.await.unwrap_or_else(|e| {
        Err(vcl_images::Error::caused(vcl_images::ErrorKind::Fatal, "copying on a blocking thread", e))
    })
}

/// A context for what no job does.
pub(super) fn alone() -> Cx {
    let day = Duration::from_secs(24 * 3600);
    Cx::detached(Arc::new(MemoryJournal::default()), CancellationToken::new(), day)
}

/// The digest of a file.
pub(crate) async fn digest(path: &Utf8Path) -> Result<Digest> {
    Ok(vcl_images::digest::file(&alone(), path.as_std_path(), &Progress::none()).await?.digest)
}

/// Writes a file that is there whole or not at all (mode 0600).
pub(crate) fn write_whole(path: &Utf8Path, text: &[u8]) -> Result<()> {
    let part = Utf8PathBuf::from(format!("{path}.part"));
    let write = || {
        let mut options = File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(text)?;
        file.sync_all()?;
        std::fs::rename(&part, path)?;
        match path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    write().with_context(|| format!("writing {path}"))
}
