//! Jobs that work for another job: which of `jobs` name it in `parent`.
//!
//! A job that takes others to do its work queues them in its own name, and finds them here after a crash. They are jobs
//! like all others: each holds its own computer, is claimed by whatever node may, is undone from its own journal.

use crate::database::Db;
use crate::engine::exclusive;
use crate::jobs::{JobRow, holder_of};
use crate::limits::{in_the_way, taken};
use crate::submit::submit;
use crate::{Admission, Claim, Error, Kind, NewJob, Queue, Result, computers, guard};
use chrono::{DateTime, Utc};
use vcl_types::state::computer::State;
use vcl_types::{ComputerName, ImageRef, JobId, JobRequest};

/// A computer that is to be loaded for a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneOn {
    /// Which.
    pub computer: ComputerName,
    /// The hypervisor host that its backend is on, where that has a limit of its own.
    pub host: Option<String>,
}

impl Queue {
    /// Queues the loads of a revision on computers that are nobody's, for the claim's job: all of them, or none. A job that
    /// has queued its loads already is told which they are.
    ///
    /// # Errors
    /// [`Kind::Busy`] when one of the computers is not spare any more, or kept for somebody between `now` and `until`;
    /// [`Kind::LeaseLost`]; [`Kind::NotFound`].
    pub async fn load_clones(
        &self,
        claim: &Claim,
        image: &ImageRef,
        clones: Vec<CloneOn>,
        (now, until): (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<Vec<JobId>> {
        let (claim, image, queue) = (claim.clone(), image.clone(), self.clone());
        let after = move |jobs| {
            queue.wake();
            jobs
        };
        self.write_map(move |db| Box::pin(load_clones(db, claim, image, clones, now, until)), after).await
    }

    /// Queues the unloading of a computer for the claim's job; it waits for whatever job has the computer.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`]; [`Kind::NotFound`].
    pub async fn unload_for(
        &self,
        claim: &Claim,
        computer: &ComputerName,
        host: Option<String>,
    ) -> Result<JobId> {
        let (claim, computer, queue) = (claim.clone(), computer.clone(), self.clone());
        let after = move |job| {
            queue.wake();
            job
        };
        self.write_map(move |db| Box::pin(unload(db, claim, computer, host)), after).await
    }

    /// The jobs that work for a job, oldest first, with those of its earlier attempts.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn children(&self, parent: JobId) -> Result<Vec<JobRow>> {
        let rows = sqlx::query("SELECT * FROM jobs WHERE parent = ? ORDER BY id");
        let rows = rows.bind(parent.0).fetch_all(self.readers()).await?;
        rows.iter().map(JobRow::read).collect()
    }
}

/// Queues one and says whose it is.
async fn child(
    db: &mut Db,
    claim: &Claim,
    request: JobRequest,
    host: Option<String>,
    wait: bool,
) -> Result<JobId> {
    let new = NewJob { request, requester: claim.job.requester.clone(), backend: None, host };
    let id = submit(&mut *db, new, Admission { bound_to: None, wait }).await?;
    sqlx::query("UPDATE jobs SET parent = ?, parent_attempt = ? WHERE id = ?")
        .bind(claim.id().0)
        .bind(i64::from(claim.job.attempt))
        .bind(id.0)
        .execute(db)
        .await?;
    Ok(id)
}

async fn unload(db: &mut Db, claim: Claim, computer: ComputerName, host: Option<String>) -> Result<JobId> {
    guard::check(&mut *db, &claim).await?;
    child(db, &claim, JobRequest::Unload { computer }, host, true).await
}

async fn load_clones(
    db: &mut Db,
    claim: Claim,
    image: ImageRef,
    clones: Vec<CloneOn>,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<Vec<JobId>> {
    exclusive(&mut *db).await?;
    guard::check(&mut *db, &claim).await?;
    let there: Vec<i64> = sqlx::query_scalar(
        "SELECT id FROM jobs WHERE parent = ? AND parent_attempt = ? AND kind = 'load' ORDER BY id",
    )
    .bind(claim.id().0)
    .bind(i64::from(claim.job.attempt))
    .fetch_all(&mut *db)
    .await?;
    if !there.is_empty() {
        return Ok(there.into_iter().map(JobId).collect());
    }
    let mut jobs = Vec::new();
    for CloneOn { computer, host } in clones {
        let row = computers::get(&mut *db, &computer).await?;
        if row.state != State::Available {
            return Err(Error::new(Kind::Busy, format!("{computer} is {}", row.state)));
        }
        if let Some(holder) = holder_of(&mut *db, &computer).await? {
            return Err(holder.holds(&computer));
        }
        if let Some(other) = in_the_way(&mut *db, &computer, None, now, Some(until)).await? {
            return Err(taken(&computer, &other));
        }
        let request = JobRequest::Load { computer, image: image.clone() };
        jobs.push(child(&mut *db, &claim, request, host, false).await?);
    }
    Ok(jobs)
}
