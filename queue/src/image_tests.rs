//! What tests of revisions found out: the table `image_tests`, a row for each attempt of a job that tested one. The newest of
//! a revision is kept for as long as the revision is there; others are forgotten with the history.

use crate::database::{Db, json, to_json};
use crate::engine::{flag, number};
use crate::{Claim, Error, Kind, Queue, Result, guard};
use sqlx::Row;
use std::collections::HashMap;
use vcl_types::{ImageName, ImageRef, ImageTest};

/// The tests of the revision of the test `t` that are newer than it.
macro_rules! newer {
    () => {
        "SELECT 1 FROM image_tests n WHERE n.image = t.image AND n.number = t.number AND (n.at > t.at OR (n.at = t.at \
         AND (n.job_id > t.job_id OR (n.job_id = t.job_id AND n.attempt > t.attempt))))"
    };
}

impl Queue {
    /// Keeps what the claim's job found out about a revision. An attempt that has said so already is not asked again.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`]; [`Kind::Refused`] without a number.
    pub async fn record_image_test(&self, claim: &Claim, image: &ImageRef, test: &ImageTest) -> Result<()> {
        let (claim, image, test) = (claim.clone(), image.clone(), test.clone());
        self.write(move |db| Box::pin(record(db, claim, image, test))).await
    }
}

async fn record(db: &mut Db, claim: Claim, image: ImageRef, test: ImageTest) -> Result<()> {
    guard::check(&mut *db, &claim).await?;
    let Some(revision) = image.revision else {
        return Err(Error::new(Kind::Refused, format!("a test of {image}, and of which revision of it")));
    };
    let (job, attempt) = (claim.id().0, i64::from(claim.job.attempt));
    let there: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM image_tests WHERE job_id = ? AND attempt = ?")
        .bind(job)
        .bind(attempt)
        .fetch_one(&mut *db)
        .await?;
    if there > 0 {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO image_tests (job_id, attempt, image, number, at, passed, result) VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(job)
    .bind(attempt)
    .bind(image.name.as_str())
    .bind(i64::from(revision))
    .bind(test.at.timestamp_millis())
    .bind(i64::from(test.passed))
    .bind(to_json(&test)?)
    .execute(db)
    .await?;
    Ok(())
}

/// The newest test of a revision.
pub(crate) async fn newest(db: &mut Db, image: &ImageName, revision: u32) -> Result<Option<ImageTest>> {
    let row = sqlx::query(
        "SELECT passed, result FROM image_tests WHERE image = ? AND number = ? ORDER BY at DESC, job_id DESC, attempt DESC \
         LIMIT 1",
    );
    let row = row.bind(image.as_str()).bind(i64::from(revision)).fetch_optional(db).await?;
    row.as_ref().map(read).transpose()
}

/// The newest test of each revision, by image and number.
pub(crate) async fn newest_of_all(db: &mut Db) -> Result<HashMap<(String, u32), ImageTest>> {
    let rows = sqlx::query(concat!(
        "SELECT t.image, t.number, t.passed, t.result FROM image_tests t WHERE NOT EXISTS (",
        newer!(),
        ")"
    ));
    let mut tests = HashMap::new();
    for row in &rows.fetch_all(db).await? {
        tests.insert((row.try_get("image")?, number(row, "number")?), read(row)?);
    }
    Ok(tests)
}

/// Forgets tests before a moment that say nothing any more: there is a newer one of the revision, or it was deleted before
/// that moment too.
pub(crate) async fn forget(db: &mut Db, before: i64) -> Result<()> {
    let old = sqlx::query(concat!(
        "SELECT t.job_id, t.attempt FROM image_tests t WHERE t.at < ? AND (EXISTS (",
        newer!(),
        ") OR EXISTS (SELECT 1 FROM revisions r WHERE r.image = t.image AND r.number = t.number AND r.deleted_at < ?)) \
         LIMIT 1000"
    ));
    for row in &old.bind(before).bind(before).fetch_all(&mut *db).await? {
        let (job, attempt): (i64, i64) = (row.try_get("job_id")?, row.try_get("attempt")?);
        let delete = sqlx::query("DELETE FROM image_tests WHERE job_id = ? AND attempt = ?");
        delete.bind(job).bind(attempt).execute(&mut *db).await?;
    }
    Ok(())
}

/// Whether it passed is the column's to say.
fn read(row: &crate::database::DbRow) -> Result<ImageTest> {
    let test: ImageTest = json(row, "result")?;
    Ok(ImageTest { passed: flag(row, "passed")?, ..test })
}
