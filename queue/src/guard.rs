//! What a claim entitles to: the fencing token's check, and the table `effects`, which makes what steps change here
//! happen once.

use crate::database::Db;
use crate::engine::locked;
use crate::jobs::JobRow;
use crate::{Claim, Error, Kind, Result, WaitFor, waiting};
use sqlx::Row;
use vcl_types::{ComputerName, ImageName};

/// What the job of a claim holds.
pub(crate) struct Held {
    pub(crate) computer: Option<String>,
    pub(crate) image: Option<String>,
}

/// Refuses a claim that is not the job's newest, or whose job is over. Asked inside the transaction that changes
/// something in the job's name: the job's row stays locked until that transaction ends, so no other node's claim comes in
/// between.
pub(crate) async fn check(db: &mut Db, claim: &Claim) -> Result<Held> {
    lease(claim)?;
    let row = sqlx::query(locked!(
        db,
        "SELECT holds_computer, holds_image FROM jobs WHERE id = ? AND token = ? AND state = 'running'"
    ))
    .bind(claim.job.id.0)
    .bind(claim.token)
    .fetch_optional(db)
    .await?;
    match row {
        Some(row) => {
            Ok(Held { computer: row.try_get("holds_computer")?, image: row.try_get("holds_image")? })
        }
        None => Err(lost(claim)),
    }
}

/// [`check`], answering the whole job and what it keeps others from.
pub(crate) async fn job(db: &mut Db, claim: &Claim) -> Result<(JobRow, Vec<WaitFor>)> {
    lease(claim)?;
    let row = sqlx::query(locked!(db, "SELECT * FROM jobs WHERE id = ? AND token = ? AND state = 'running'"));
    let row = row.bind(claim.job.id.0).bind(claim.token).fetch_optional(db).await?;
    let row = row.ok_or_else(|| lost(claim))?;
    Ok((JobRow::read(&row)?, waiting::held_by(&row)?))
}

/// Refuses a claim whose node's lease is over by its own clock. Asked before anything else: a process that stood still
/// finds out here, before it has asked anybody.
pub(crate) fn lease(claim: &Claim) -> Result<()> {
    match &claim.lease {
        Some(lease) => {
            lease.check().map_err(|e| Error::caused(Kind::LeaseLost, format!("job {}", claim.job.id), e))
        }
        None => Ok(()),
    }
}

/// The error for a claim that is not good any more.
pub(crate) fn lost(claim: &Claim) -> Error {
    let id = claim.job.id;
    Error::new(Kind::LeaseLost, format!("job {id} is over or another worker has it now"))
}

/// [`check`], and that the job holds this computer.
pub(crate) async fn holding(db: &mut Db, claim: &Claim, computer: &ComputerName) -> Result<()> {
    holds(claim, check(db, claim).await?.computer.as_deref(), computer)
}

/// That what the job holds is this computer.
pub(crate) fn holds(claim: &Claim, held: Option<&str>, computer: &ComputerName) -> Result<()> {
    if held == Some(computer.as_str()) {
        return Ok(());
    }
    let job = claim.job.id;
    Err(Error::new(Kind::Refused, format!("job {job} does not hold the computer {computer}")))
}

/// [`check`], and that the job has this image to itself.
pub(crate) async fn holding_image(db: &mut Db, claim: &Claim, image: &ImageName) -> Result<()> {
    let held = check(db, claim).await?;
    if held.image.as_deref() == Some(image.as_str()) {
        return Ok(());
    }
    let job = claim.job.id;
    Err(Error::new(Kind::Refused, format!("job {job} does not hold the image {image}")))
}

/// What came of an effect when this job's step had it before.
pub(crate) async fn effect(db: &mut Db, claim: &Claim, step: &str, effect: &str) -> Result<Option<String>> {
    let state: Option<String> = sqlx::query_scalar(
        "SELECT state FROM effects WHERE job_id = ? AND attempt = ? AND step = ? AND effect = ?",
    )
    .bind(claim.job.id.0)
    .bind(i64::from(claim.job.attempt))
    .bind(step)
    .bind(effect)
    .fetch_optional(db)
    .await?;
    Ok(state)
}

/// Remembers an effect with what came of it.
pub(crate) async fn remember(
    db: &mut Db,
    claim: &Claim,
    step: &str,
    effect: &str,
    state: &str,
) -> Result<()> {
    sqlx::query("INSERT INTO effects (job_id, attempt, step, effect, state) VALUES (?, ?, ?, ?, ?)")
        .bind(claim.job.id.0)
        .bind(i64::from(claim.job.attempt))
        .bind(step)
        .bind(effect)
        .bind(state)
        .execute(db)
        .await?;
    Ok(())
}
