//! Evidence: what was kept of a job's failure before anything was cleaned up.
//!
//! Everything in it may have been written by a guest. It is bounded here once more, whatever its collector promised.

use crate::database::{Db, now, time};
use crate::{Claim, Error, Kind, Queue, Result, guard};
use sqlx::Row;
use vcl_types::api::EvidenceView;
use vcl_types::{ByteSize, JobId};

/// How many bytes are kept of one job, over all its attempts: the oldest go first.
pub const EVIDENCE_LIMIT: usize = 2 * 1024 * 1024;
/// How many bytes one piece may have.
const PART_LIMIT: usize = 1024 * 1024;

/// One piece of evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name in the job, at most 63 characters: `console.txt`.
    pub name: String,
    /// What it is: `text/plain`.
    pub media_type: String,
    /// It. More than 1 MiB is refused.
    pub bytes: Vec<u8>,
}

impl Queue {
    /// Keeps evidence of the claim's job. A piece of a name that this attempt has already is replaced; when the job has
    /// more than [`EVIDENCE_LIMIT`] bytes then, the oldest go.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`]; [`Kind::Refused`] for a piece that is too large or has no name; when the database cannot be
    /// used.
    pub async fn keep_evidence(&self, claim: &Claim, parts: Vec<Part>) -> Result<()> {
        for Part { name, media_type, bytes } in &parts {
            if name.is_empty() || name.len() > 63 || media_type.len() > 63 || bytes.len() > PART_LIMIT {
                let size = bytes.len();
                let message = format!("evidence `{name}` of {size} bytes: at most {PART_LIMIT} are kept");
                return Err(Error::new(Kind::Refused, message));
            }
        }
        let claim = claim.clone();
        self.write(move |db| Box::pin(keep(db, claim, parts))).await
    }

    /// What was kept of a job, the newest attempt first, without the bytes.
    ///
    /// # Errors
    /// [`Kind::NotFound`] for an unknown job; when the database cannot be read.
    pub async fn evidence(&self, id: JobId) -> Result<Vec<EvidenceView>> {
        self.job(id).await?;
        let rows = sqlx::query(
            "SELECT name, media_type, size, taken_at, attempt FROM evidence WHERE job_id = ? \
             ORDER BY attempt DESC, name",
        );
        let rows = rows.bind(id.0).fetch_all(self.readers()).await?;
        let read = |row: &crate::database::DbRow| {
            Ok(EvidenceView {
                name: row.try_get("name")?,
                media_type: row.try_get("media_type")?,
                size: ByteSize(row.try_get::<i64, _>("size")?.unsigned_abs()),
                taken: time(row.try_get("taken_at")?),
                attempt: crate::engine::number(row, "attempt")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// One piece of evidence: of that attempt, or of the newest that has it.
    ///
    /// # Errors
    /// [`Kind::NotFound`], naming what there is.
    pub async fn evidence_part(&self, id: JobId, name: &str, attempt: Option<u32>) -> Result<Part> {
        let attempt = attempt.map(i64::from);
        let row = sqlx::query(
            "SELECT name, media_type, bytes FROM evidence WHERE job_id = ? AND name = ? AND (? IS NULL OR attempt = ?) \
             ORDER BY attempt DESC LIMIT 1",
        );
        let row =
            row.bind(id.0).bind(name).bind(attempt).bind(attempt).fetch_optional(self.readers()).await?;
        if let Some(row) = row {
            return Ok(Part {
                name: row.try_get("name")?,
                media_type: row.try_get("media_type")?,
                bytes: row.try_get("bytes")?,
            });
        }
        let mut names: Vec<String> = self.evidence(id).await?.into_iter().map(|e| e.name).collect();
        names.dedup();
        let there = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        Err(Error::new(Kind::NotFound, format!("job {id} has no evidence `{name}`; it has: {there}")))
    }
}

async fn keep(db: &mut Db, claim: Claim, parts: Vec<Part>) -> Result<()> {
    guard::check(&mut *db, &claim).await?;
    let (id, attempt) = (claim.id().0, i64::from(claim.job.attempt));
    for part in parts {
        let old = sqlx::query("DELETE FROM evidence WHERE job_id = ? AND attempt = ? AND name = ?");
        old.bind(id).bind(attempt).bind(&part.name).execute(&mut *db).await?;
        sqlx::query(
            "INSERT INTO evidence (job_id, attempt, name, media_type, taken_at, size, bytes) \
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(id)
        .bind(attempt)
        .bind(&part.name)
        .bind(&part.media_type)
        .bind(now())
        .bind(i64::try_from(part.bytes.len()).unwrap_or(i64::MAX))
        .bind(&part.bytes)
        .execute(&mut *db)
        .await?;
    }
    let rows = sqlx::query(
        "SELECT attempt, name, size FROM evidence WHERE job_id = ? ORDER BY attempt DESC, taken_at DESC, size",
    );
    let mut sum = 0;
    for row in rows.bind(id).fetch_all(&mut *db).await? {
        let (attempt, name, size): (i64, String, i64) =
            (row.try_get("attempt")?, row.try_get("name")?, row.try_get("size")?);
        sum += usize::try_from(size).unwrap_or(usize::MAX / 2);
        if sum > EVIDENCE_LIMIT {
            let drop = sqlx::query("DELETE FROM evidence WHERE job_id = ? AND attempt = ? AND name = ?");
            drop.bind(id).bind(attempt).bind(name).execute(&mut *db).await?;
        }
    }
    Ok(())
}
