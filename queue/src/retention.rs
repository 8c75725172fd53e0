//! What keeps a revision, and what becomes of it when nothing does: the table `production`, and the columns of
//! `revisions` that say what it is stored over.
//!
//! Whether a revision may go is asked in the transaction that lets it go, so that nothing begins to need it meanwhile.

use crate::database::{Db, DbRow, json, now, parsed, to_json};
use crate::engine::{number, number_or_null};
use crate::{Claim, Error, Kind, Queue, Result, guard, images, notices};
use futures::FutureExt;
use sqlx::Row;
use std::collections::BTreeMap;
use vcl_types::{ByteSize, ComputerName, ImageName, ImageRef, JobId, Manifest};

/// What there is to know of a revision before it is let go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What its manifest says.
    pub manifest: Manifest,
    /// What its files take together.
    pub size: ByteSize,
    /// Who asked for the job that made it, where this database knows that job.
    pub owner: Option<String>,
    /// Whether it is in production.
    pub production: bool,
    /// The computers that are loaded from it.
    pub loaded: Vec<ComputerName>,
    /// The jobs that are not over and read it.
    pub readers: Vec<JobId>,
}

const LIVE: &str = "state IN ('queued', 'running', 'waiting', 'stuck')";

/// The image's number in production.
pub(crate) async fn production(db: &mut Db, image: &ImageName) -> Result<Option<u32>> {
    let row = sqlx::query("SELECT number FROM production WHERE image = ?");
    let row = row.bind(image.as_str()).fetch_optional(db).await?;
    row.map(|row| number(&row, "number")).transpose()
}

/// All images' numbers in production.
pub(crate) async fn productions(db: &mut Db) -> Result<BTreeMap<String, u32>> {
    let rows = sqlx::query("SELECT image, number FROM production").fetch_all(db).await?;
    rows.iter().map(|row| Ok((row.try_get("image")?, number(row, "number")?))).collect()
}

/// The revisions that are stored over this one.
async fn children(db: &mut Db, image: &ImageRef) -> Result<Vec<ImageRef>> {
    let rows = sqlx::query(
        "SELECT image, number FROM revisions WHERE over_image = ? AND over_number = ? AND deleted_at IS NULL \
         ORDER BY image, number",
    );
    let rows = rows.bind(image.name.as_str()).bind(image.revision.map(i64::from)).fetch_all(db).await?;
    rows.iter().map(|row| Ok(ImageRef::new(parsed(row, "image")?, number(row, "number")?))).collect()
}

fn names<T: ToString>(all: &[T]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Refuses when a revision must stay whatever anybody wishes: it is in production, computers are loaded from it, or
/// others are stored over it.
pub(crate) async fn free(db: &mut Db, image: &ImageRef) -> Result<()> {
    images::unused(&mut *db, image).await?;
    if production(&mut *db, &image.name).await? == image.revision && image.revision.is_some() {
        let message = format!(
            "{image} is in production; put another revision there first: vclctl image promote {}@N",
            image.name
        );
        return Err(Error::new(Kind::Refused, message));
    }
    let children = children(db, image).await?;
    if children.is_empty() {
        return Ok(());
    }
    let (first, all) = (&children[0], names(&children));
    let (are, those) = if children.len() == 1 { ("is", "that") } else { ("are", "those") };
    let message = format!(
        "{all} {are} stored over {image}; delete {those} first, or rewrite whole: vclctl image flatten {first}"
    );
    Err(Error::new(Kind::Refused, message))
}

/// Records what a revision is stored over.
pub(crate) async fn record_over(db: &mut Db, manifest: &Manifest) -> Result<()> {
    let over = manifest.lies_on();
    sqlx::query("UPDATE revisions SET over_image = ?, over_number = ? WHERE image = ? AND number = ?")
        .bind(over.map(|o| o.name.as_str()))
        .bind(over.and_then(|o| o.revision).map(i64::from))
        .bind(manifest.image.as_str())
        .bind(i64::from(manifest.revision))
        .execute(db)
        .await?;
    Ok(())
}

/// Whether a revision's row is there and was deleted.
pub(crate) async fn deleted(db: &mut Db, image: &ImageRef) -> Result<bool> {
    let row = sqlx::query("SELECT deleted_at FROM revisions WHERE image = ? AND number = ?");
    let row = row.bind(image.name.as_str()).bind(image.revision.map(i64::from)).fetch_optional(db).await?;
    match row {
        Some(row) => Ok(row.try_get::<Option<i64>, _>("deleted_at")?.is_some()),
        None => Err(Error::new(Kind::NotFound, format!("there was never a revision {image}"))),
    }
}

fn numbered(image: &ImageRef) -> Result<u32> {
    image
        .revision
        .ok_or_else(|| Error::new(Kind::Refused, format!("say which revision of {image}, as in `{image}@1`")))
}

impl Queue {
    /// Puts a revision in production: in the place of the image's other one. Whoever decides what idle computers are loaded
    /// with is woken for it.
    ///
    /// # Errors
    /// [`Kind::NotFound`], naming near ones; [`Kind::Refused`] without a number.
    pub async fn promote(&self, image: &ImageRef, who: &str) -> Result<()> {
        let (image, who, queue) = (image.clone(), who.to_owned(), self.clone());
        self.write_then(move |db| promoted(db, image, who).boxed(), move |()| queue.wake()).await
    }

    /// What there is to know of all revisions before any of them is let go.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn standings(&self) -> Result<Vec<Standing>> {
        self.read(|db| standings(db).boxed()).await
    }

    /// Says that a revision does not exist any more, if nothing needs it. One that does not is not an error.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`]; [`Kind::Refused`] when the job does not hold the image, when the revision is in production,
    /// loaded or lies under another; [`Kind::Busy`] when another job reads it.
    pub async fn let_go(&self, claim: &Claim, image: &ImageRef) -> Result<()> {
        let (claim, image) = (claim.clone(), image.clone());
        self.write(move |db| {
            Box::pin(async move {
                guard::holding_image(&mut *db, &claim, &image.name).await?;
                let number = numbered(&image)?;
                if deleted(&mut *db, &image).await.unwrap_or(true) {
                    return Ok(());
                }
                free(&mut *db, &image).await?;
                let reading = format!(
                    "SELECT id FROM jobs WHERE image = ? AND revision = ? AND id <> ? AND {LIVE} LIMIT 1"
                );
                let reader: Option<i64> = sqlx::query_scalar(sqlx::AssertSqlSafe(reading))
                    .bind(image.name.as_str())
                    .bind(i64::from(number))
                    .bind(claim.job.id.0)
                    .fetch_optional(&mut *db)
                    .await?;
                if let Some(job) = reader {
                    return Err(Error::new(Kind::Busy, format!("job {job} reads {image}; wait for it")));
                }
                mark(db, &image, Some(now())).await
            })
        })
        .await
    }

    /// Says that a deleted revision exists again. One that does is not an error.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`]; [`Kind::Refused`] when the job does not hold the image, or when what the revision is stored
    /// over does not exist; [`Kind::NotFound`] when there never was one.
    pub async fn bring_back(&self, claim: &Claim, image: &ImageRef) -> Result<()> {
        let (claim, image) = (claim.clone(), image.clone());
        self.write(move |db| {
            Box::pin(async move {
                guard::holding_image(&mut *db, &claim, &image.name).await?;
                deleted(&mut *db, &image).await?;
                let over = sqlx::query("SELECT over_image, over_number FROM revisions WHERE image = ? AND number = ?")
                    .bind(image.name.as_str())
                    .bind(image.revision.map(i64::from))
                    .fetch_one(&mut *db)
                    .await?;
                if let Some(name) = over.try_get::<Option<String>, _>("over_image")? {
                    let number: Option<u32> = number_or_null(&over, "over_number")?;
                    let there: i64 = sqlx::query_scalar(
                        "SELECT COUNT(*) FROM revisions WHERE image = ? AND number = ? AND deleted_at IS NULL",
                    )
                    .bind(&name)
                    .bind(number.map(i64::from))
                    .fetch_one(&mut *db)
                    .await?;
                    if there == 0 {
                        let parent = number.map_or(name.clone(), |n| format!("{name}@{n}"));
                        let message = format!("{image} is stored over {parent}, which is deleted: bring that back first");
                        return Err(Error::new(Kind::Refused, message));
                    }
                }
                mark(db, &image, None).await
            })
        })
        .await
    }

    /// Records other files of a revision: rewritten whole, it shows a guest what it did.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`]; [`Kind::Refused`] when the job does not hold the image; [`Kind::NotFound`] without the
    /// revision.
    pub async fn replace_files(&self, claim: &Claim, manifest: &Manifest, size: ByteSize) -> Result<()> {
        let (claim, manifest) = (claim.clone(), manifest.clone());
        self.write(move |db| {
            Box::pin(async move {
                guard::holding_image(&mut *db, &claim, &manifest.image).await?;
                let size = i64::try_from(size.bytes()).unwrap_or(i64::MAX);
                let done = sqlx::query(
                    "UPDATE revisions SET manifest = ?, size = ? WHERE image = ? AND number = ? AND deleted_at IS NULL",
                )
                .bind(to_json(&manifest)?)
                .bind(size)
                .bind(manifest.image.as_str())
                .bind(i64::from(manifest.revision))
                .execute(&mut *db)
                .await?;
                if done.rows_affected() == 0 {
                    return Err(Error::new(Kind::NotFound, format!("there is no {}", manifest.image_ref())));
                }
                record_over(db, &manifest).await
            })
        })
        .await
    }
}

async fn promoted(db: &mut Db, image: ImageRef, who: String) -> Result<()> {
    let number = numbered(&image)?;
    images::find(&mut *db, &image).await?;
    let old = sqlx::query("DELETE FROM production WHERE image = ?");
    old.bind(image.name.as_str()).execute(&mut *db).await?;
    sqlx::query("INSERT INTO production (image, number, who, since) VALUES (?, ?, ?, ?)")
        .bind(image.name.as_str())
        .bind(i64::from(number))
        .bind(&who)
        .bind(now())
        .execute(&mut *db)
        .await?;
    // Whoever made it is told that it is used.
    let maker = sqlx::query_scalar::<_, String>(
        "SELECT jobs.requester FROM revisions JOIN jobs ON jobs.id = revisions.job_id \
         WHERE revisions.image = ? AND revisions.number = ?",
    );
    let maker = maker.bind(image.name.as_str()).bind(i64::from(number)).fetch_optional(&mut *db).await?;
    let facts =
        notices::facts([("image", Some(image.to_string())), ("owner", maker.clone()), ("by", Some(who))]);
    let kind = vcl_types::notices::NoticeKind::Promoted;
    notices::put(db, notices::NewNotice { kind, to: maker, group: None, facts }).await
}

async fn mark(db: &mut Db, image: &ImageRef, deleted_at: Option<i64>) -> Result<()> {
    sqlx::query("UPDATE revisions SET deleted_at = ? WHERE image = ? AND number = ?")
        .bind(deleted_at)
        .bind(image.name.as_str())
        .bind(image.revision.map(i64::from))
        .execute(db)
        .await?;
    Ok(())
}

async fn standings(db: &mut Db) -> Result<Vec<Standing>> {
    let rows = sqlx::query(
        "SELECT r.image, r.number, r.manifest, r.size, j.requester FROM revisions r \
         LEFT JOIN jobs j ON j.id = r.job_id WHERE r.deleted_at IS NULL ORDER BY r.image, r.number",
    )
    .fetch_all(&mut *db)
    .await?;
    let produced = productions(db).await?;
    let key = |row: &DbRow, image: &'static str, column: &'static str| {
        Ok::<_, Error>((row.try_get::<String, _>(image)?, number::<u32>(row, column)?))
    };
    let mut loaded: BTreeMap<(String, u32), Vec<ComputerName>> = BTreeMap::new();
    let users = sqlx::query(
        "SELECT name, loaded_image, loaded_revision FROM computers \
         WHERE loaded_image IS NOT NULL AND loaded_revision IS NOT NULL ORDER BY name",
    );
    for row in &users.fetch_all(&mut *db).await? {
        loaded.entry(key(row, "loaded_image", "loaded_revision")?).or_default().push(parsed(row, "name")?);
    }
    let mut readers: BTreeMap<(String, u32), Vec<JobId>> = BTreeMap::new();
    let reading = format!(
        "SELECT id, image, revision FROM jobs WHERE {LIVE} AND image IS NOT NULL AND revision IS NOT NULL ORDER BY id"
    );
    for row in &sqlx::query(sqlx::AssertSqlSafe(reading)).fetch_all(&mut *db).await? {
        readers.entry(key(row, "image", "revision")?).or_default().push(JobId(row.try_get("id")?));
    }
    let standing = |row: &DbRow| {
        let key = key(row, "image", "number")?;
        let size: i64 = row.try_get("size")?;
        Ok(Standing {
            manifest: json(row, "manifest")?,
            size: ByteSize(size.unsigned_abs()),
            owner: row.try_get("requester")?,
            production: produced.get(&key.0) == Some(&key.1),
            loaded: loaded.remove(&key).unwrap_or_default(),
            readers: readers.remove(&key).unwrap_or_default(),
        })
    };
    rows.iter().map(standing).collect()
}
