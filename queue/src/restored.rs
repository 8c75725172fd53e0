//! A database that was put back from a backup: what it says was under way is not under way any more.
//!
//! The world has moved on since: a domain that such a job made may be gone, or belong to a later load of the same
//! computer. Going on from the journal, or undoing from it, could destroy what is in use now. So no job of a backup
//! goes on: each ends as failed with the reason, and the computers that one of them was at go to maintenance.

use crate::database::{Db, now};
use crate::engine::Engine;
use crate::{Error, Queue, Result};
use sqlx::Row;
use vcl_types::{ComputerName, JobId};

/// What was ended in a database that was put back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// Jobs that had not ended, and have now, as failed.
    pub jobs: Vec<JobId>,
    /// Computers that one of them was at, now in maintenance.
    pub computers: Vec<ComputerName>,
}

impl Queue {
    /// Ends all jobs that have not ended, because this database is a copy from before. For the first start after it
    /// was put back, before any job is claimed.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn end_all(&self, reason: &str) -> Result<Restored> {
        let reason = reason.to_owned();
        self.write(move |db| Box::pin(async move { end_all(db, &reason).await })).await
    }
}

pub(crate) async fn end_all(db: &mut Db, reason: &str) -> Result<Restored> {
    let mut restored = Restored::default();
    let rows = sqlx::query(
        "SELECT id, state, holds_computer FROM jobs WHERE state IN ('queued', 'running', 'waiting', 'stuck') ORDER BY id",
    )
    .fetch_all(&mut *db)
    .await?;
    for row in rows {
        let id: i64 = row.try_get("id")?;
        let begun = row.try_get::<&str, _>("state")? != "queued" || has_begun(&mut *db, id).await?;
        sqlx::query(
            "UPDATE jobs SET state = 'failed', reason = ?, holds_computer = NULL, holds_image = NULL, \
             held_since = NULL, waits_for = NULL, waits_subject = NULL, ended_at = ? WHERE id = ?",
        )
        .bind(reason)
        .bind(now())
        .bind(id)
        .execute(&mut *db)
        .await?;
        restored.jobs.push(JobId(id));
        let computer: Option<String> = row.try_get("holds_computer")?;
        let Some(computer) = computer.filter(|_| begun) else { continue };
        let why = format!(
            "job {id} was at it when the backup was taken; when it is well: vclctl unload {computer}"
        );
        sqlx::query("UPDATE computers SET state = 'maintenance', reason = ? WHERE name = ?")
            .bind(why)
            .bind(&computer)
            .execute(&mut *db)
            .await?;
        restored.computers.push(computer.parse().map_err(|e| Error::corrupt("a `holds_computer`", e))?);
    }
    // Which node holds what is for the nodes to say again.
    sqlx::query("DELETE FROM holdings").execute(&mut *db).await?;
    sqlx::query("DELETE FROM effects").execute(&mut *db).await?;
    // None of them lives on this database. Their numbers stay: the next life of a name is not an earlier one.
    sqlx::query("UPDATE nodes SET state = 'left', ended_at = ? WHERE state = 'alive'")
        .bind(now())
        .execute(&mut *db)
        .await?;
    // A file serves one node, whatever that one's name is.
    if Engine::of(db) == Engine::Sqlite {
        sqlx::query("UPDATE computers SET node = NULL").execute(db).await?;
    }
    Ok(restored)
}

async fn has_begun(db: &mut Db, job: i64) -> Result<bool> {
    let records: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM journal WHERE job_id = ?").bind(job).fetch_one(db).await?;
    Ok(records > 0)
}
