//! Images and their revisions. A revision's row says that it exists; which node holds its files, its manifest says.

use crate::database::{Db, DbRow, json, now, parsed, time, to_json};
use crate::engine::{exclusive, number, number_or_null};
use crate::{Claim, Error, Kind, Queue, Result, guard, image_tests, names, notices, retention};
use chrono::{DateTime, Utc};
use futures::FutureExt;
use sqlx::Row;
use std::collections::BTreeMap;
use vcl_types::api::RevisionView;
use vcl_types::{ByteSize, ComputerName, ImageName, ImageRef, ImageTest, Manifest};

/// A revision as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionRow {
    /// What its manifest says.
    pub manifest: Manifest,
    /// What its files take together.
    pub size: ByteSize,
    /// The computers that are loaded from it.
    pub used_by: Vec<ComputerName>,
    /// Whether it is the image's revision in production.
    pub production: bool,
    /// What its newest test found out.
    pub tested: Option<ImageTest>,
}

impl RevisionRow {
    /// As the API shows it; `here` is whether this node's library holds it.
    #[must_use]
    pub fn view(self, here: bool) -> RevisionView {
        let Self { manifest, size, used_by, production, tested } = self;
        RevisionView { manifest, size, used_by, here, production, tested }
    }
}

/// An image with its revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRow {
    /// Its name.
    pub name: ImageName,
    /// Its revisions, oldest first; never empty.
    pub revisions: Vec<RevisionRow>,
}

/// What rebuilding from manifests came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Revisions that had no row and have one now.
    pub added: Vec<ImageRef>,
    /// Revisions that were deleted and whose files are there all the same. They are not brought back.
    pub deleted: Vec<ImageRef>,
}

/// A revision that was looked for, inside somebody's transaction.
pub(crate) struct Found {
    pub(crate) number: u32,
    manifest: Manifest,
    size: ByteSize,
}

impl Found {
    fn read(row: &DbRow) -> Result<Self> {
        let size: i64 = row.try_get("size")?;
        let size = ByteSize(size.unsigned_abs());
        Ok(Self { number: number(row, "number")?, manifest: json(row, "manifest")?, size })
    }
}

/// The newest revision of an image.
pub(crate) async fn newest(db: &mut Db, image: &ImageName) -> Result<Option<Found>> {
    let row = sqlx::query(
        "SELECT * FROM revisions WHERE image = ? AND deleted_at IS NULL ORDER BY number DESC LIMIT 1",
    );
    row.bind(image.as_str()).fetch_optional(db).await?.as_ref().map(Found::read).transpose()
}

/// The revision, the newest where the reference has no number; an unknown one is an error that names near ones.
pub(crate) async fn find(db: &mut Db, image: &ImageRef) -> Result<Found> {
    let Some(newest) = newest(&mut *db, &image.name).await? else {
        let names: Vec<String> = sqlx::query_scalar(
            "SELECT DISTINCT image FROM revisions WHERE deleted_at IS NULL ORDER BY image",
        )
        .fetch_all(db)
        .await?;
        let hint = names::hint(image.name.as_str(), &names, "vclctl image list");
        return Err(Error::new(Kind::NotFound, format!("there is no image {}; {hint}", image.name)));
    };
    let Some(number) = image.revision.filter(|n| *n != newest.number) else { return Ok(newest) };
    let row = sqlx::query("SELECT * FROM revisions WHERE image = ? AND number = ? AND deleted_at IS NULL");
    let row = row.bind(image.name.as_str()).bind(i64::from(number)).fetch_optional(&mut *db).await?;
    if let Some(row) = row {
        return Found::read(&row);
    }
    let there: Vec<i64> = sqlx::query_scalar(
        "SELECT number FROM revisions WHERE image = ? AND deleted_at IS NULL ORDER BY number",
    )
    .bind(image.name.as_str())
    .fetch_all(db)
    .await?;
    let there: Vec<String> = there.iter().rev().take(5).map(|n| format!("{}@{n}", image.name)).collect();
    let message = format!("there is no revision {image}; the newest there are: {}", there.join(", "));
    Err(Error::new(Kind::NotFound, message))
}

/// Refuses when a computer is loaded from the revision.
pub(crate) async fn unused(db: &mut Db, image: &ImageRef) -> Result<()> {
    let users = users(db, image).await?;
    if users.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = users.iter().map(ComputerName::as_str).collect();
    let message = format!("{image} is loaded on {}; unload what is to be freed first", names.join(", "));
    Err(Error::new(Kind::Refused, message))
}

async fn users(db: &mut Db, image: &ImageRef) -> Result<Vec<ComputerName>> {
    let rows = sqlx::query(
        "SELECT name FROM computers WHERE loaded_image = ? AND (? IS NULL OR loaded_revision = ?) ORDER BY name",
    );
    let rows = rows
        .bind(image.name.as_str())
        .bind(image.revision.map(i64::from))
        .bind(image.revision.map(i64::from))
        .fetch_all(db)
        .await?;
    rows.iter().map(|row| parsed(row, "name")).collect()
}

/// How long a revision was there, and what it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shelf {
    /// Since when.
    pub since: DateTime<Utc>,
    /// Until when; `None` while it is.
    pub until: Option<DateTime<Utc>>,
    /// What it takes.
    pub size: ByteSize,
}

impl Queue {
    /// All revisions that are or were there, as far as that is known, with what they take.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn shelves(&self) -> Result<Vec<Shelf>> {
        let rows = sqlx::query("SELECT recorded_at, deleted_at, size FROM revisions");
        let read = |row: &DbRow| {
            Ok(Shelf {
                since: time(row.try_get("recorded_at")?),
                until: row.try_get::<Option<i64>, _>("deleted_at")?.map(time),
                size: ByteSize(number(row, "size")?),
            })
        };
        rows.fetch_all(self.readers()).await?.iter().map(read).collect()
    }

    /// All images that have a revision, by name.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn images(&self) -> Result<Vec<ImageRow>> {
        let mut db = self.readers().acquire().await?;
        let rows = sqlx::query("SELECT * FROM revisions WHERE deleted_at IS NULL ORDER BY image, number")
            .fetch_all(&mut *db)
            .await?;
        let loaded = sqlx::query(
            "SELECT name, loaded_image, loaded_revision FROM computers WHERE loaded_image IS NOT NULL \
                         ORDER BY name",
        )
        .fetch_all(&mut *db)
        .await?;
        let mut used: BTreeMap<(String, u32), Vec<ComputerName>> = BTreeMap::new();
        for row in &loaded {
            // A load without a number is none that vcld makes.
            let Some(number) = number_or_null(row, "loaded_revision")? else { continue };
            used.entry((row.try_get("loaded_image")?, number)).or_default().push(parsed(row, "name")?);
        }
        let produced = retention::productions(&mut db).await?;
        let mut tests = image_tests::newest_of_all(&mut db).await?;
        let mut images: Vec<ImageRow> = Vec::new();
        for row in &rows {
            let Found { number, manifest, size } = Found::read(row)?;
            let name: ImageName = parsed(row, "image")?;
            let used_by = used.remove(&(name.to_string(), number)).unwrap_or_default();
            let production = produced.get(name.as_str()) == Some(&number);
            let tested = tests.remove(&(name.to_string(), number));
            let revision = RevisionRow { manifest, size, used_by, production, tested };
            match images.last_mut().filter(|image| image.name == name) {
                Some(image) => image.revisions.push(revision),
                None => images.push(ImageRow { name, revisions: vec![revision] }),
            }
        }
        Ok(images)
    }

    /// An image.
    ///
    /// # Errors
    /// [`Kind::NotFound`], naming near ones.
    pub async fn image(&self, name: &ImageName) -> Result<ImageRow> {
        let mut db = self.readers().acquire().await?;
        find(&mut db, &ImageRef { name: name.clone(), revision: None }).await?;
        let rows =
            sqlx::query("SELECT * FROM revisions WHERE image = ? AND deleted_at IS NULL ORDER BY number");
        let rows = rows.bind(name.as_str()).fetch_all(&mut *db).await?;
        let mut revisions = Vec::with_capacity(rows.len());
        for row in &rows {
            revisions.push(with_users(&mut db, Found::read(row)?).await?);
        }
        Ok(ImageRow { name: name.clone(), revisions })
    }

    /// A revision; the newest where the reference has no number.
    ///
    /// # Errors
    /// [`Kind::NotFound`], naming near ones.
    pub async fn revision(&self, image: &ImageRef) -> Result<RevisionRow> {
        let image = image.clone();
        self.read(move |db| {
            let image = image.clone();
            async move {
                let found = find(&mut *db, &image).await?;
                with_users(db, found).await
            }
            .boxed()
        })
        .await
    }

    /// What a revision's manifest says, without who uses it, which costs more the more do; the newest where the reference
    /// has no number.
    ///
    /// # Errors
    /// [`Kind::NotFound`], naming near ones.
    pub async fn manifest(&self, image: &ImageRef) -> Result<Manifest> {
        let image = image.clone();
        self.read(move |db| {
            let image = image.clone();
            async move { Ok(find(db, &image).await?.manifest) }.boxed()
        })
        .await
    }

    /// The computers that are loaded from the revision; from any of the image where the reference has no number.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn users(&self, image: &ImageRef) -> Result<Vec<ComputerName>> {
        users(&mut *self.readers().acquire().await?, image).await
    }

    /// The number that the image's next revision gets: one more than the greatest it ever had, deleted ones included.
    /// It is a look and reserves nothing; a job that makes revisions has the image to itself.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn next_revision(&self, image: &ImageName) -> Result<u32> {
        let name = image.as_str().to_owned();
        let greatest: Option<i64> = self
            .read(move |db| {
                let greatest = sqlx::query_scalar("SELECT MAX(number) FROM revisions WHERE image = ?");
                let greatest = greatest.bind(name.clone()).fetch_one(db);
                async move { Ok(greatest.await?) }.boxed()
            })
            .await?;
        let next = greatest.unwrap_or(0).saturating_add(1);
        u32::try_from(next).map_err(|e| Error::corrupt(format!("a revision {next} of {image}"), e))
    }

    /// Records a revision that was published. The same job may say it again.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`]; [`Kind::Refused`] when the job does not hold the image; [`Kind::Exists`] when another job
    /// has made this revision, or when it was deleted.
    pub async fn record_revision(&self, claim: &Claim, manifest: &Manifest, size: ByteSize) -> Result<()> {
        let (claim, manifest) = (claim.clone(), manifest.clone());
        self.write(move |db| {
            Box::pin(async move {
                guard::holding_image(&mut *db, &claim, &manifest.image).await?;
                record(db, &claim, &manifest, size).await
            })
        })
        .await
    }

    /// Says that a revision does not exist any more. One that does not is not an error.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`]; [`Kind::Refused`] when the job does not hold the image, when a computer is loaded from the
    /// revision, or when the reference has no number.
    pub async fn delete_revision(&self, claim: &Claim, image: &ImageRef) -> Result<()> {
        let (claim, image) = (claim.clone(), image.clone());
        self.write(move |db| {
            Box::pin(async move {
                guard::holding_image(&mut *db, &claim, &image.name).await?;
                let Some(number) = image.revision else {
                    return Err(Error::new(Kind::Refused, format!("which revision of {image} is to be deleted?")));
                };
                exclusive(&mut *db).await?;
                unused(&mut *db, &image).await?;
                sqlx::query(
                    "UPDATE revisions SET deleted_at = ? WHERE image = ? AND number = ? AND deleted_at IS NULL",
                )
                .bind(now())
                .bind(image.name.as_str())
                .bind(i64::from(number))
                .execute(db)
                .await?;
                Ok(())
            })
        })
        .await
    }

    /// Makes rows for revisions that have none: what a library holds whose database was lost. Rows that are there stay
    /// as they are.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn rebuild_from(&self, manifests: &[Manifest]) -> Result<Rebuilt> {
        let manifests = manifests.to_vec();
        self.write(move |db| Box::pin(rebuild(db, manifests))).await
    }
}

async fn with_users(db: &mut Db, found: Found) -> Result<RevisionRow> {
    let used_by = users(&mut *db, &found.manifest.image_ref()).await?;
    let production = retention::production(&mut *db, &found.manifest.image).await? == Some(found.number);
    let tested = image_tests::newest(db, &found.manifest.image, found.number).await?;
    Ok(RevisionRow { manifest: found.manifest, size: found.size, used_by, production, tested })
}

async fn row(db: &mut Db, manifest: &Manifest) -> Result<Option<DbRow>> {
    let row = sqlx::query("SELECT * FROM revisions WHERE image = ? AND number = ?");
    Ok(row.bind(manifest.image.as_str()).bind(i64::from(manifest.revision)).fetch_optional(db).await?)
}

/// Tells whoever had a revision captured. What is imported or built needs no notice: somebody waits for it.
async fn captured(db: &mut Db, claim: &Claim, manifest: &Manifest) -> Result<()> {
    use vcl_types::JobKind::{Capture, Return};
    if !matches!(claim.job.request.kind(), Capture | Return) {
        return Ok(());
    }
    let facts = notices::facts([
        ("image", Some(manifest.image_ref().to_string())),
        ("computer", claim.job.request.computer().map(ToString::to_string)),
        ("job", Some(claim.job.id.to_string())),
        ("owner", Some(claim.job.requester.clone())),
    ]);
    let to = Some(claim.job.requester.clone());
    let kind = vcl_types::notices::NoticeKind::Captured;
    notices::put(db, notices::NewNotice { kind, to, group: None, facts }).await
}

async fn record(db: &mut Db, claim: &Claim, manifest: &Manifest, size: ByteSize) -> Result<()> {
    let Some(there) = row(&mut *db, manifest).await? else {
        insert(&mut *db, manifest, size, Some(claim.job.id.0)).await?;
        return captured(db, claim, manifest).await;
    };
    let image = manifest.image_ref();
    if there.try_get::<Option<i64>, _>("deleted_at")?.is_some() {
        let message = format!("{image} was deleted; its number is not given out again");
        return Err(Error::new(Kind::Exists, message));
    }
    match there.try_get::<Option<i64>, _>("job_id")? {
        Some(job) if job == claim.job.id.0 => {}
        Some(job) => {
            return Err(Error::new(Kind::Exists, format!("{image} is there already; job {job} made it")));
        }
        None => return Err(Error::new(Kind::Exists, format!("{image} is there already"))),
    }
    sqlx::query("UPDATE revisions SET manifest = ?, size = ? WHERE image = ? AND number = ?")
        .bind(to_json(manifest)?)
        .bind(bytes(size))
        .bind(manifest.image.as_str())
        .bind(i64::from(manifest.revision))
        .execute(&mut *db)
        .await?;
    retention::record_over(db, manifest).await
}

async fn insert(db: &mut Db, manifest: &Manifest, size: ByteSize, job: Option<i64>) -> Result<()> {
    sqlx::query(
        "INSERT INTO revisions (image, number, manifest, size, job_id, recorded_at) VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(manifest.image.as_str())
    .bind(i64::from(manifest.revision))
    .bind(to_json(manifest)?)
    .bind(bytes(size))
    .bind(job)
    .bind(now())
    .execute(&mut *db)
    .await?;
    retention::record_over(db, manifest).await
}

async fn rebuild(db: &mut Db, manifests: Vec<Manifest>) -> Result<Rebuilt> {
    exclusive(&mut *db).await?;
    let mut rebuilt = Rebuilt::default();
    for manifest in manifests {
        let image = manifest.image_ref();
        match row(&mut *db, &manifest).await? {
            Some(row) => {
                if row.try_get::<Option<i64>, _>("deleted_at")?.is_some() {
                    rebuilt.deleted.push(image);
                }
            }
            None => {
                // Whoever publishes a revision under this name records it himself, or takes it back.
                let holder = sqlx::query_scalar::<_, i64>("SELECT id FROM jobs WHERE holds_image = ?");
                if holder.bind(manifest.image.as_str()).fetch_optional(&mut *db).await?.is_some() {
                    continue;
                }
                let size = manifest.disks.iter().map(|d| d.file_size.bytes()).sum();
                insert(&mut *db, &manifest, ByteSize(size), manifest.job.map(|j| j.0)).await?;
                rebuilt.added.push(image);
            }
        }
    }
    Ok(rebuilt)
}

fn bytes(size: ByteSize) -> i64 {
    i64::try_from(size.bytes()).unwrap_or(i64::MAX)
}
