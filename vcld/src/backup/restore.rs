//! Putting a snapshot back, while no daemon runs.
//!
//! Jobs that had not ended when the snapshot was taken do not go on ([`vcl_queue::Queue::restore_ended`]): the world has
//! moved on since, and neither their journals nor their undo know how.

use super::store::{DATABASE, Snapshot, Store, alone};
use crate::daemon::database;
use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use vcl_config::{Config, Database};
use vcl_images::fetch::Listing;
use vcl_images::{ErrorKind, Library};
use vcl_queue::{Queue, Restored};
use vcl_types::{ImageRef, JobId};

/// What is to be put back.
#[derive(Debug, Clone)]
pub(crate) struct Restore {
    /// The directory of backups.
    pub(crate) directory: Utf8PathBuf,
    /// Which snapshot; `None` is the newest that is complete.
    pub(crate) snapshot: Option<String>,
    /// Into a library and a database that are not empty: what is there stays, and what is missing comes.
    pub(crate) merge: bool,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) snapshot: String,
    /// Whether the database is the snapshot's; otherwise the one that was there has stayed.
    pub(crate) database: bool,
    /// Revisions whose files came from the snapshot.
    pub(crate) restored: Vec<ImageRef>,
    /// Revisions that are here and had no row.
    pub(crate) added: Vec<ImageRef>,
    /// Revisions that the database says were deleted: their files are not kept.
    pub(crate) deleted: Vec<ImageRef>,
    /// Rows whose revisions have no files, neither here nor in the snapshot.
    pub(crate) lacking: Vec<ImageRef>,
    /// Revisions of the snapshot under whose name another one is here, which stays.
    pub(crate) others: Vec<ImageRef>,
    /// Jobs that were ended.
    pub(crate) jobs: Vec<JobId>,
    /// Computers that one of them was at, now in maintenance.
    pub(crate) computers: Vec<String>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let images =
            |images: &[ImageRef]| images.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        writeln!(f, "restored {}:", self.snapshot)?;
        match self.database {
            true => writeln!(f, "  the database is the snapshot's")?,
            false => writeln!(f, "  the database that was here has stayed")?,
        }
        for (what, list) in [
            ("files came back of", &self.restored),
            ("rows were made for", &self.added),
            ("deleted before, so not kept", &self.deleted),
            ("known, and nobody has the files of", &self.lacking),
            ("another one is here under the name of", &self.others),
        ] {
            if !list.is_empty() {
                writeln!(f, "  {what}: {}", images(list))?;
            }
        }
        if !self.jobs.is_empty() {
            let jobs: Vec<_> = self.jobs.iter().map(ToString::to_string).collect();
            writeln!(f, "  ended, because the world has moved on since: jobs {}", jobs.join(", "))?;
        }
        if !self.computers.is_empty() {
            let names = self.computers.join(", ");
            writeln!(
                f,
                "  in maintenance, because a job was at them: {names}; look at each, then vclctl unload it"
            )?;
        }
        write!(f, "start vcld, then look: vclctl doctor --rescan")
    }
}

/// Puts a snapshot back. May be called again when it was cut short, with `merge`.
pub(crate) async fn restore(config: &Config, node: &str, what: &Restore) -> Result<Report> {
    let store = Store::open(&what.directory)?;
    let snapshot = choose(&store, what.snapshot.as_deref())?;
    // All of it is read before anything is changed.
    let listings = store.listings(&snapshot).await.with_context(|| format!("snapshot {}", snapshot.name))?;
    let missing = listings.iter().flat_map(|l| &l.files).find(|file| !store.has(file));
    if let Some(file) = missing {
        bail!(
            "snapshot {} cannot be restored: {} lacks the object {}",
            snapshot.name,
            what.directory,
            file.digest
        );
    }
    let library = Library::open(&config.library.path)?;
    let revisions_here = library.revisions()?.revisions.len();
    let place = Place::of(config).await?;
    if !what.merge && (!place.empty || revisions_here > 0) {
        let database = if place.empty { "is empty" } else { "is not empty" };
        bail!(
            "the database {place} {database}, and the library {} has {revisions_here} revisions; restore into empty ones, or keep what is there and add what is missing: --merge",
            config.library.path
        );
    }
    let mut report = Report { snapshot: snapshot.name.clone(), database: place.empty, ..Report::default() };
    let (queue, ended) = place.fill(config, &snapshot).await?;
    report.jobs = ended.jobs;
    report.computers = ended.computers.iter().map(ToString::to_string).collect();
    let done = fill(&queue, &library, &store, &listings, node, &mut report).await;
    queue.close().await;
    done.map(|()| report)
}

/// Where the database is to be.
struct Place {
    /// The file's path or the server's URL.
    name: String,
    /// Whether the snapshot's may be put there.
    empty: bool,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Place {
    async fn of(config: &Config) -> Result<Self> {
        match &config.database {
            Database::Sqlite { path } => {
                let empty = !path.metadata().is_ok_and(|meta| meta.len() > 0);
                Ok(Self { name: path.to_string(), empty })
            }
            Database::MariaDb { url, .. } => {
                let queue = database(config).await?;
                let empty = queue.is_empty().await;
                queue.close().await;
                Ok(Self { name: url.clone(), empty: empty? })
            }
        }
    }

    /// The database, with the snapshot's rows if nothing was in it, and what was ended in them. There is no moment at which
    /// a daemon would take the rows and go on with their jobs.
    async fn fill(&self, config: &Config, snapshot: &Snapshot) -> Result<(Queue, Restored)> {
        let rows = snapshot.directory.join(DATABASE);
        let taken = snapshot.complete.as_ref().map(|c| c.taken.to_rfc3339()).unwrap_or_default();
        let reason = format!(
            "it had not ended when the backup of {taken} was taken, and the world has moved on since; ask for it again"
        );
        let mut ended = Restored::default();
        if let (true, Database::Sqlite { path }) = (self.empty, &config.database) {
            ended = put_file(&rows, path, &reason).await?;
        }
        let queue = database(config).await.context("stop vcld before restoring")?;
        if self.empty && queue.engine() == vcl_queue::Engine::MariaDb {
            // One that is cut short here is known as such: no daemon takes it for the whole.
            let done = put_rows(&queue, &rows, &reason).await;
            if done.is_err() {
                queue.close().await;
            }
            ended = done?;
        }
        Ok((queue, ended))
    }
}

/// Everything that needs the database open.
async fn fill(
    queue: &Queue,
    library: &Library,
    store: &Store,
    listings: &[Listing],
    node: &str,
    report: &mut Report,
) -> Result<()> {
    for listing in listings {
        put_revision(store, library, listing, report).await?;
    }
    let held: Vec<_> = library.revisions()?.revisions.into_iter().map(|r| r.manifest).collect();
    let rebuilt = queue.rebuild_from(&held).await?;
    (report.added, report.deleted) = (rebuilt.added, rebuilt.deleted);
    for image in report.deleted.iter().filter(|image| report.restored.contains(image)) {
        library.delete(image).await?;
    }
    for image in queue.images().await?.iter().flat_map(|i| &i.revisions) {
        let image = image.manifest.image_ref();
        if library.get(&image).is_err() {
            report.lacking.push(image);
        }
    }
    let held: Vec<_> = library.revisions()?.revisions.iter().map(|r| r.manifest.image_ref()).collect();
    queue.set_holdings(node, &held, chrono::Utc::now()).await?;
    queue.event("restored", None, None, &report.to_string()).await?;
    Ok(())
}

fn choose(store: &Store, wanted: Option<&str>) -> Result<Snapshot> {
    let mut all = store.snapshots()?;
    match wanted {
        None => {
            all.retain(|s| s.complete.is_some());
            all.pop().context("no complete snapshot is in it")
        }
        Some(name) => {
            let found = all.into_iter().find(|s| s.name == name);
            let found = found.with_context(|| format!("there is no snapshot {name} in it"))?;
            anyhow::ensure!(found.complete.is_some(), "the snapshot {name} is not complete");
            Ok(found)
        }
    }
}

async fn put_rows(queue: &Queue, from: &Utf8Path, reason: &str) -> Result<Restored> {
    let file = tokio::fs::File::open(from).await.with_context(|| format!("reading {from}"))?;
    let mut reader = tokio::io::BufReader::with_capacity(1 << 20, file);
    let restored = queue.restore_ended(&mut reader, reason).await;
    restored.with_context(|| format!("putting back the rows of {from}"))
}

/// A database in a file, which gets its name when it is there whole.
async fn put_file(rows: &Utf8Path, to: &Utf8Path, reason: &str) -> Result<Restored> {
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("making {parent}"))?;
    }
    let part = Utf8PathBuf::from(format!("{to}.restoring"));
    // What a database of that name has left would be taken for this one's.
    for old in [to, &*part] {
        remove(&["-wal", "-shm"].map(|end| format!("{old}{end}")))?;
    }
    remove(&[part.to_string()])?;
    let queue = Queue::open(&part).await.context("stop vcld before restoring")?;
    let filled = put_rows(&queue, rows, reason).await;
    // With this its log is in the file.
    queue.close().await;
    let restored = filled?;
    let named = || {
        std::fs::File::open(&part)?.sync_all()?;
        anyhow::ensure!(!Utf8PathBuf::from(format!("{part}-wal")).exists(), "its log stays beside it");
        std::fs::rename(&part, to)?;
        if let Some(parent) = to.parent() {
            std::fs::File::open(parent)?.sync_all()?;
        }
        Ok(())
    };
    named().with_context(|| format!("writing the database {to}"))?;
    remove(&[format!("{part}.lock")])?;
    Ok(restored)
}

fn remove(files: &[String]) -> Result<()> {
    for file in files {
        match std::fs::remove_file(file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("removing {file}"));
            }
            _ => {}
        }
    }
    Ok(())
}

async fn put_revision(
    store: &Store,
    library: &Library,
    listing: &Listing,
    report: &mut Report,
) -> Result<()> {
    let image = listing.manifest.image_ref();
    match library.get(&image) {
        Ok(there) => {
            if there.manifest != listing.manifest {
                report.others.push(image);
            }
            return Ok(());
        }
        Err(e) if e.kind == ErrorKind::NotFound => {}
        Err(e) => {
            return Err(e)
                .with_context(|| format!("{image} is in the library and cannot be read; move it out"));
        }
    }
    let (name, cx) = (Library::fetch_name("restore", &image)?, alone());
    let fetching = library.fetching(&name)?.with_context(|| format!("another process restores {image}"))?;
    fetching.keep_only(listing)?;
    for file in &listing.files {
        let to = fetching.staging().path(&file.name)?;
        store.take(&cx, file, &to).await.with_context(|| format!("restoring {} of {image}", file.name))?;
    }
    library.publish(&cx, &name, &listing.manifest).await?;
    report.restored.push(image);
    Ok(())
}
