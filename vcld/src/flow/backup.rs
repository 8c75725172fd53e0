//! Taking a backup, while all else goes on.
//!
//! Revisions are pinned first: each of their files gets a second name (a hard link) in the job's staging, so that one
//! that is deleted meanwhile stays until it is copied. Then the database is copied, row by row, as it is at one moment, then the
//! revisions that were published since are pinned too: whatever the copied rows speak of is pinned. Then files are
//! copied, those alone whose digest the backup does not have yet. The order of these is what makes it consistent.

use super::{Made, Running};
use crate::backup::{Complete, DATABASE, REVISIONS, Store, digest, write_whole};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;
use vcl_images::{Progress, Staging, fetch};
use vcl_job::{Error, Job, Kind, Result, Step, TRANSIENT};
use vcl_types::ByteSize;

/// What a backup starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct BackupInput {
    target: Target,
    /// The staging that holds the pins.
    pins: String,
}
/// A snapshot that is being made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Target {
    directory: Utf8PathBuf,
    snapshot: String,
}

pub(super) const SNAPSHOT: Step<Running, Target> = Step::new("make snapshot").undo(|_, target| {
    Box::pin(async move {
        let made = target.directory.join("snapshots").join(&target.snapshot);
        match std::fs::remove_dir_all(&made) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::caused(Kind::Fatal, format!("removing {made}"), e))
            }
            _ => Ok(()),
        }
    })
});
pub(super) const PIN: Step<Running, String> = Step::new("pin revisions").undo(|run, pins| {
    Box::pin(async move {
        run.node.library.discard_staging(&pins).await?;
        Ok(())
    })
});
pub(super) const DUMP: Step<Running, Target> =
    Step::new("copy database").deadline(Duration::from_secs(3600)).retry(TRANSIENT);
pub(super) const COPY: Step<Running, Target> =
    Step::new("copy files").deadline(Duration::from_secs(7 * 24 * 3600));
pub(super) const COMPLETE: Step<Running, Target> = Step::new("complete");
pub(super) const UNPIN: Step<Running, String> = Step::new("unpin revisions");

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Copied {
    revisions: u64,
    bytes: ByteSize,
    new: u64,
    new_bytes: ByteSize,
}

fn fatal(error: &anyhow::Error) -> Error {
    let full = error.chain().any(|e| {
        e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::StorageFull)
    });
    Error::new(if full { Kind::NoSpace } else { Kind::Refused }, format!("{error:#}"))
}

impl Running {
    pub(super) async fn begin_backup(&self, directory: &str) -> Result<BackupInput> {
        let directory = Utf8PathBuf::from(directory);
        if !directory.is_absolute() {
            return Err(Error::new(Kind::Refused, format!("{directory} is not an absolute path")));
        }
        if directory.starts_with(&self.node.config.library.path) {
            let message = format!("{directory} is in the library; a backup belongs on another disk");
            return Err(Error::new(Kind::Refused, message));
        }
        let now = chrono::Utc::now().format("%Y-%m-%dT%H-%M-%SZ");
        let target = Target { directory, snapshot: format!("{now}-job{}", self.job()) };
        Ok(BackupInput { target, pins: vcl_images::staging_name(self.job(), self.claim.token) })
    }

    pub(super) async fn backup(&self, mut job: Job, input: BackupInput) -> Result<Made> {
        let job = &mut job;
        let BackupInput { target, pins } = input;
        job.step(self, &SNAPSHOT, target.clone())
            .run(async |target, cx| {
                cx.check().await?;
                let store = Store::make(&target.directory).map_err(|e| fatal(&e))?;
                let made = store.snapshot(&target.snapshot);
                match std::fs::create_dir(&made) {
                    Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                        Err(vcl_images::Error::io(format!("making {made}"), e).into())
                    }
                    _ => Ok(()),
                }
            })
            .await?;
        job.step(self, &PIN, pins.clone())
            .run(async |pins, cx| {
                cx.check().await?;
                self.pin(&self.node.library.staging(&pins)?)
            })
            .await?;
        let taken = job
            .step(self, &DUMP, target.clone())
            .run(async |target, cx| {
                cx.check().await?;
                let file = self.snapshot(&target)?.join(DATABASE);
                let part = Utf8PathBuf::from(format!("{file}.part"));
                for old in [&part, &file] {
                    vcl_images::Store::remove(&vcl_images::Directory, old.as_std_path())?;
                }
                let taken = chrono::Utc::now();
                tokio::select! {
                    copied = self.copy_database(&part) => copied?,
                    () = cx.stopped() => return Err(cx.stop_error()),
                }
                cx.check().await?;
                std::fs::rename(&part, &file)
                    .map_err(|e| vcl_images::Error::io(format!("writing {file}"), e))?;
                // What was published between the pins and the copy is in the copy.
                self.pin(&self.node.library.staging_made(&pins)?)?;
                Ok(taken)
            })
            .await?;
        let copied = job
            .step(self, &COPY, target.clone())
            .run(async |target, cx| self.copy_files(&cx, &target, &pins).await)
            .await?;
        job.step(self, &COMPLETE, target.clone())
            .run(async |target, cx| {
                cx.check().await?;
                let directory = self.snapshot(&target)?;
                let mut files = std::collections::BTreeMap::new();
                for name in [DATABASE, REVISIONS] {
                    files
                        .insert(name.to_owned(), digest(&directory.join(name)).await.map_err(|e| fatal(&e))?);
                }
                let complete = Complete {
                    taken,
                    node: self.node.name.clone(),
                    version: env!("CARGO_PKG_VERSION").into(),
                    revisions: copied.revisions,
                    bytes: copied.bytes,
                    files,
                };
                let store = Store::open(&target.directory).map_err(|e| fatal(&e))?;
                store.complete(&target.snapshot, &complete).map_err(|e| fatal(&e))
            })
            .await?;
        // It counts now, and stays.
        job.commit();
        job.step(self, &UNPIN, pins)
            .run(async |pins, _| {
                self.node.library.discard_staging(&pins).await?;
                Ok(())
            })
            .await?;
        let Copied { revisions, bytes, new, new_bytes } = copied;
        let (directory, snapshot) = (target.directory, target.snapshot);
        Ok(Some(format!(
            "{snapshot} in {directory}: {revisions} revisions in {bytes}, of which {new} files in {new_bytes} are new"
        )))
    }

    fn snapshot(&self, target: &Target) -> Result<Utf8PathBuf> {
        let store = Store::open(&target.directory).map_err(|e| fatal(&e))?;
        Ok(store.snapshot(&target.snapshot))
    }

    /// Writes every row of the database as it is at one moment to a file (mode 0600), and makes it durable.
    async fn copy_database(&self, to: &Utf8Path) -> Result<()> {
        let failed = |e| vcl_images::Error::io(format!("writing {to}"), e);
        let mut options = tokio::fs::File::options();
        let file = options.write(true).create_new(true).mode(0o600).open(to).await.map_err(failed)?;
        let mut writer = tokio::io::BufWriter::with_capacity(1 << 20, file);
        self.node.queue.dump(&mut writer).await?;
        writer.get_ref().sync_all().await.map_err(failed)?;
        Ok(())
    }

    /// Gives each file of each revision a second name. Those that have one keep it.
    fn pin(&self, staging: &Staging) -> Result<()> {
        for revision in self.node.library.revisions()?.revisions {
            let to = staging.directory().join(revision.manifest.image_ref().to_string());
            if to.join("manifest.json").exists() {
                continue;
            }
            if let Err(e) = link_all(Path::new(&revision.directory), &to) {
                let _ = std::fs::remove_dir_all(&to);
                // It was deleted just now: its row went first, so the copied database has none either.
                if e.kind() == std::io::ErrorKind::NotFound {
                    continue;
                }
                let context = format!("pinning {}", revision.manifest.image_ref());
                return Err(vcl_images::Error::io(context, e).into());
            }
        }
        Ok(())
    }

    async fn copy_files(&self, cx: &vcl_job::Cx, target: &Target, pins: &str) -> Result<Copied> {
        let store = Store::open(&target.directory).map_err(|e| fatal(&e))?;
        // Not made anew: a process that has lost the job may come here when the pins are gone.
        let staging = self.node.library.staging_made(pins)?;
        let mut listings = Vec::new();
        let read = |e| vcl_images::Error::io("reading what is pinned", e);
        for entry in std::fs::read_dir(staging.directory()).map_err(read)? {
            let revision = fetch::revision_at(&entry.map_err(read)?.path())?;
            listings.push((revision.clone(), fetch::listing_of(revision, cx.token()).await?));
        }
        listings.sort_by(|(a, _), (b, _)| a.directory.cmp(&b.directory));
        let total: u64 = listings.iter().map(|(_, listing)| listing.size()).sum();
        let revisions = listings.len() as u64;
        let mut copied = Copied { revisions, bytes: ByteSize(total), new: 0, new_bytes: ByteSize(0) };
        let mut done = 0;
        for (revision, listing) in &listings {
            for file in &listing.files {
                cx.check().await?;
                let (watched, before) = (cx.clone(), done);
                let progress = Progress::to(move |at, _| watched.progress(before + at, total));
                let from = revision.path(&file.name);
                if store.add(cx, Path::new(&from), file, pins, &progress).await? {
                    copied.new += 1;
                    copied.new_bytes = ByteSize(copied.new_bytes.bytes() + file.size);
                }
                done += file.size;
                cx.progress(done, total);
            }
        }
        let listings: Vec<_> = listings.into_iter().map(|(_, listing)| listing).collect();
        let text = serde_json::to_vec(&listings)
            .map_err(|e| Error::caused(Kind::Fatal, "writing the list of revisions", e))?;
        let path: &Utf8Path = &store.snapshot(&target.snapshot).join(REVISIONS);
        write_whole(path, &text).map_err(|e| fatal(&e))?;
        Ok(copied)
    }
}

/// Links all files of a directory, the manifest last: with it, all are there.
fn link_all(from: &Path, to: &Path) -> std::io::Result<()> {
    match std::fs::create_dir(to) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let mut names: Vec<_> =
        std::fs::read_dir(from)?.map(|e| Ok(e?.file_name())).collect::<std::io::Result<_>>()?;
    names.sort_by_key(|name| name == "manifest.json");
    for name in names {
        match std::fs::hard_link(from.join(&name), to.join(&name)) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    Ok(())
}
