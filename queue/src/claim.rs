//! Who has a job: claiming, ending, calling off, trying again. Every change of a job's state is made here, and what a
//! state may become is asked of [`vcl_types::state::job::next`].

use crate::database::{Db, now};
use crate::engine::{exclusive, locked};
use crate::jobs::{JobRow, get};
use crate::{Error, Kind, Queue, Result, guard, submit};
use sqlx::Row;
use std::collections::HashMap;
use vcl_types::state::job::{Event, State, next};
use vcl_types::{BackendName, ImageName, JobId};

/// A job that a worker has. Whatever is done in the job's name takes this along.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The job as it was when it was claimed.
    pub job: JobRow,
    /// The fencing token: greater than that of any claim of this job before.
    pub token: i64,
}

impl Claim {
    /// The job's number.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.job.id
    }
}

/// How many jobs may run at the same time. A backend or host that is not named has no limit of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimLimits {
    /// On the node that claims.
    pub node_max: u32,
    /// On each backend instance, whichever node runs them.
    pub per_backend: HashMap<BackendName, u32>,
    /// On each hypervisor host, whichever node runs them.
    pub per_host: HashMap<String, u32>,
}
impl Default for ClaimLimits {
    fn default() -> Self {
        Self { node_max: 8, per_backend: HashMap::new(), per_host: HashMap::new() }
    }
}

/// What calling a job off came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelOutcome {
    /// It had not begun and never will.
    Cancelled,
    /// It has begun: it is told to stop, and takes back what it has done.
    Wish,
    /// It was over, or stuck, before.
    Already(State),
}

impl Queue {
    /// Takes the oldest job that may run now; jobs that were under way before go first. `None` when there is none.
    ///
    /// The future may be dropped: a claim that reaches nobody goes back to the queue.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn claim(&self, node: &str, limits: &ClaimLimits) -> Result<Option<Claim>> {
        let (node, limits, queue) = (node.to_owned(), limits.clone(), self.clone());
        let mut found = self
            .write_map(
                move |db| Box::pin(async move { claim(db, &node, &limits).await }),
                move |claim| Undelivered { claim, queue },
            )
            .await?;
        Ok(found.claim.take())
    }

    /// A channel that changes whenever [`claim`](Self::claim) might find something: a job was queued or ended.
    #[must_use]
    pub fn submitted(&self) -> tokio::sync::watch::Receiver<u64> {
        self.0.submitted.subscribe()
    }

    /// At the start of a node: its jobs that were running go back to the queue, to be claimed first and to go on from
    /// their journals. Answers which.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn recover(&self, node: &str) -> Result<Vec<JobId>> {
        let (node, inner) = (node.to_owned(), self.clone());
        self.write_then(move |db| Box::pin(recover(db, node)), move |_| inner.wake()).await
    }

    /// Ends a job, or with [`Event::Lost`] gives it back to the queue, to go on from its journal at its next claim.
    /// `reason` is for a job that did not do what was asked, or why it goes back, `result` names what one made. A job that is over lets go
    /// of its computer and image; one that is stuck does not.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`] when the claim is not good any more, also when the job has ended already; [`Kind::Refused`]
    /// for an event that does not end a job.
    pub async fn finish(
        &self,
        claim: &Claim,
        event: Event,
        reason: Option<&str>,
        result: Option<&str>,
    ) -> Result<State> {
        let (claim, inner) = (claim.clone(), self.clone());
        let (reason, result) = (reason.map(str::to_owned), result.map(str::to_owned));
        let id = claim.id();
        self.write_then(
            move |db| Box::pin(finish(db, claim, event, reason, result)),
            move |_| inner.ended(id),
        )
        .await
    }

    /// Calls a job off. What has not begun is cancelled at once; what has begun is told to stop.
    ///
    /// # Errors
    /// [`Kind::NotFound`], or when the database cannot be used.
    pub async fn cancel(&self, id: JobId) -> Result<CancelOutcome> {
        let inner = self.clone();
        let after = move |outcome: &CancelOutcome| match outcome {
            CancelOutcome::Wish => inner.0.cancelled.send_modify(|n| *n = n.wrapping_add(1)),
            CancelOutcome::Cancelled => inner.wake(),
            CancelOutcome::Already(_) => {}
        };
        self.write_then(move |db| Box::pin(cancel(db, id)), after).await
    }

    /// Whether somebody has called the job off.
    ///
    /// # Errors
    /// [`Kind::NotFound`], or when the database cannot be read.
    pub async fn cancel_wanted(&self, id: JobId) -> Result<bool> {
        Ok(self.job(id).await?.cancel_wanted)
    }

    /// Waits until somebody calls the job off; at once if somebody has.
    ///
    /// # Errors
    /// [`Kind::NotFound`], or when the database cannot be read.
    pub async fn cancel_wish(&self, id: JobId) -> Result<()> {
        let mut changes = self.0.cancelled.subscribe();
        while !self.cancel_wanted(id).await? {
            if changes.changed().await.is_err() {
                return Err(Error::new(Kind::Unavailable, "the database is closed"));
            }
        }
        Ok(())
    }

    /// Tries a job again. A stuck one goes on with its journal where it got stuck; a failed one, which has taken back
    /// what it did, begins anew with an empty journal.
    ///
    /// # Errors
    /// [`Kind::Refused`] in any other state; for a failed job also whatever [`submit`](Self::submit) would answer.
    pub async fn retry(&self, id: JobId) -> Result<()> {
        let inner = self.clone();
        self.write_then(move |db| Box::pin(retry(db, id)), move |()| inner.wake()).await
    }

    /// Gives a stuck job up as it is: it has failed, and lets go of its computer and image.
    ///
    /// # Errors
    /// [`Kind::Refused`] when it is not stuck.
    pub async fn abandon(&self, id: JobId, reason: &str) -> Result<()> {
        let (reason, inner) = (reason.to_owned(), self.clone());
        self.write_then(move |db| Box::pin(abandon(db, id, reason)), move |()| inner.wake()).await
    }

    fn ended(&self, id: JobId) {
        self.0.progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&id);
        self.wake();
    }
}

/// A claim on its way to a worker. Dropped on the way, it gives the job back.
struct Undelivered {
    claim: Option<Claim>,
    queue: Queue,
}
impl Drop for Undelivered {
    fn drop(&mut self) {
        let Some(claim) = self.claim.take() else { return };
        let (id, inner) = (claim.id(), self.queue.clone());
        let back = self
            .queue
            .post(move |db| Box::pin(finish(db, claim, Event::Lost, None, None)), move |_| inner.wake());
        if let Err(error) = back {
            tracing::warn!(job = %id, error = %error, "a claim that nobody took stays until the node starts again");
        }
    }
}

fn changed(job: &JobRow, event: Event) -> Result<State> {
    next(job.state, event)
        .map_err(|e| Error::caused(Kind::Refused, format!("job {} ({})", job.id, job.request), e))
}

async fn claim(db: &mut Db, node: &str, limits: &ClaimLimits) -> Result<Option<Claim>> {
    exclusive(&mut *db).await?;
    let mut here = 0;
    let mut backends: HashMap<String, u32> = HashMap::new();
    let mut hosts: HashMap<String, u32> = HashMap::new();
    let running = sqlx::query("SELECT node, backend, host FROM jobs WHERE state = 'running'");
    for row in running.fetch_all(&mut *db).await? {
        here += u32::from(row.try_get::<Option<&str>, _>("node")? == Some(node));
        if let Some(backend) = row.try_get("backend")? {
            *backends.entry(backend).or_default() += 1;
        }
        if let Some(host) = row.try_get("host")? {
            *hosts.entry(host).or_default() += 1;
        }
    }
    if here >= limits.node_max {
        return Ok(None);
    }
    let limits_of_backends: HashMap<&str, u32> =
        limits.per_backend.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    let queued = sqlx::query(
        "SELECT id, backend, host, for_node FROM jobs WHERE state = 'queued' ORDER BY resumed DESC, id",
    );
    for row in queued.fetch_all(&mut *db).await? {
        let backend: Option<&str> = row.try_get("backend")?;
        let host: Option<&str> = row.try_get("host")?;
        if row.try_get::<Option<&str>, _>("for_node")?.is_some_and(|alone| alone != node) {
            continue;
        }
        let full = |name: Option<&str>, running: &HashMap<String, u32>, limit: Option<u32>| {
            name.zip(limit).is_some_and(|(name, limit)| running.get(name).copied().unwrap_or(0) >= limit)
        };
        let limit = backend.and_then(|b| limits_of_backends.get(b).copied());
        if full(backend, &backends, limit)
            || full(host, &hosts, host.and_then(|h| limits.per_host.get(h).copied()))
        {
            continue;
        }
        let id = JobId(row.try_get("id")?);
        // Another node may have called it off since.
        if get(&mut *db, id).await?.state != State::Queued {
            continue;
        }
        return take(db, node, id).await.map(Some);
    }
    Ok(None)
}

async fn take(db: &mut Db, node: &str, id: JobId) -> Result<Claim> {
    let state = changed(&get(&mut *db, id).await?, Event::Claim)?;
    let now = now();
    sqlx::query(
        "UPDATE jobs SET state = ?, reason = NULL, token = token + 1, node = ?, claimed_at = ?, \
         started_at = COALESCE(started_at, ?) WHERE id = ?",
    )
    .bind(state.as_str())
    .bind(node)
    .bind(now)
    .bind(now)
    .bind(id.0)
    .execute(&mut *db)
    .await?;
    let job = get(db, id).await?;
    Ok(Claim { token: job.token, job })
}

async fn recover(db: &mut Db, node: String) -> Result<Vec<JobId>> {
    let rows =
        sqlx::query(locked!(db, "SELECT * FROM jobs WHERE state = 'running' AND node = ? ORDER BY id"));
    let mut recovered = Vec::new();
    for row in rows.bind(node).fetch_all(&mut *db).await? {
        let job = JobRow::read(&row)?;
        requeue(&mut *db, job.id, changed(&job, Event::Lost)?, None).await?;
        recovered.push(job.id);
    }
    Ok(recovered)
}

async fn requeue(db: &mut Db, id: JobId, state: State, reason: Option<String>) -> Result<()> {
    let back =
        sqlx::query("UPDATE jobs SET state = ?, resumed = 1, reason = ?, ended_at = NULL WHERE id = ?");
    back.bind(state.as_str()).bind(reason).bind(id.0).execute(db).await?;
    Ok(())
}

async fn finish(
    db: &mut Db,
    claim: Claim,
    event: Event,
    reason: Option<String>,
    result: Option<String>,
) -> Result<State> {
    guard::check(&mut *db, &claim).await?;
    let id = claim.id();
    let job = get(&mut *db, id).await?;
    if !matches!(event, Event::Done | Event::Fail | Event::RolledBack | Event::Stick | Event::Lost) {
        let message = format!("{event} does not end job {id} ({})", job.request);
        return Err(Error::new(Kind::Refused, message));
    }
    let state = changed(&job, event)?;
    if event == Event::Lost {
        requeue(db, id, state, reason).await?;
        return Ok(state);
    }
    sqlx::query("UPDATE jobs SET state = ?, reason = ?, result = ?, ended_at = ? WHERE id = ?")
        .bind(state.as_str())
        .bind(reason)
        .bind(result)
        .bind(now())
        .bind(id.0)
        .execute(&mut *db)
        .await?;
    if state != State::Stuck {
        let_go(db, id).await?;
    }
    Ok(state)
}

/// A job that is over holds nothing, and no step of it runs again.
async fn let_go(db: &mut Db, id: JobId) -> Result<()> {
    let free = sqlx::query("UPDATE jobs SET holds_computer = NULL, holds_image = NULL WHERE id = ?");
    free.bind(id.0).execute(&mut *db).await?;
    sqlx::query("DELETE FROM effects WHERE job_id = ?").bind(id.0).execute(db).await?;
    Ok(())
}

async fn cancel(db: &mut Db, id: JobId) -> Result<CancelOutcome> {
    let job = get(&mut *db, id).await?;
    if job.state.is_final() {
        return Ok(CancelOutcome::Already(job.state));
    }
    let begun: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM journal WHERE job_id = ? AND attempt = ?")
        .bind(id.0)
        .bind(i64::from(job.attempt))
        .fetch_one(&mut *db)
        .await?;
    sqlx::query("UPDATE jobs SET cancel_wanted = 1 WHERE id = ?").bind(id.0).execute(&mut *db).await?;
    // One that was under way when its node went away is queued again, and has things to take back.
    if job.state == State::Running || begun > 0 {
        return Ok(CancelOutcome::Wish);
    }
    let cancelled = sqlx::query("UPDATE jobs SET state = ?, ended_at = ? WHERE id = ?");
    let state = changed(&job, Event::Cancel)?;
    cancelled.bind(state.as_str()).bind(now()).bind(id.0).execute(&mut *db).await?;
    let_go(db, id).await?;
    Ok(CancelOutcome::Cancelled)
}

async fn retry(db: &mut Db, id: JobId) -> Result<()> {
    let job = get(&mut *db, id).await?;
    let state = changed(&job, Event::Retry)?;
    if job.state == State::Stuck {
        return requeue(db, id, state, None).await;
    }
    let needs = submit::check(&mut *db, &job.request).await?;
    sqlx::query(
        "UPDATE jobs SET state = ?, attempt = attempt + 1, resumed = 0, cancel_wanted = 0, reason = NULL, \
         ended_at = NULL, holds_computer = ?, holds_image = ? WHERE id = ?",
    )
    .bind(state.as_str())
    .bind(job.request.computer().map(|c| c.as_str()))
    .bind(needs.image.as_ref().map(ImageName::as_str))
    .bind(id.0)
    .execute(db)
    .await?;
    Ok(())
}

async fn abandon(db: &mut Db, id: JobId, reason: String) -> Result<()> {
    let state = changed(&get(&mut *db, id).await?, Event::Abandon)?;
    let given_up = sqlx::query("UPDATE jobs SET state = ?, reason = ?, ended_at = ? WHERE id = ?");
    given_up.bind(state.as_str()).bind(reason).bind(now()).bind(id.0).execute(&mut *db).await?;
    let_go(db, id).await
}
