//! Who has a job: claiming, ending, calling off, trying again. Every change of a job's state is made here, and what a
//! state may become is asked of [`vcl_types::state::job::next`].

use crate::database::{Db, now, time};
use crate::engine::{exclusive, locked};
use crate::jobs::{JobRow, get, unknown};
use crate::lanes::{Claimer, Lane, candidates};
use crate::lease::Lease;
use crate::nodes::{PROTOCOL, may_claim};
use crate::{Error, Kind, Queue, Result, guard, notices, submit, waiting};
use futures::{FutureExt, TryFutureExt};
use std::collections::HashMap;
use std::sync::Arc;
use vcl_types::notices::NoticeKind;
use vcl_types::state::job::{Event, State, next};
use vcl_types::{BackendName, ImageName, JobId};

/// A job that a worker has. Whatever is done in the job's name takes this along.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The job as it was when it was claimed.
    pub job: JobRow,
    /// The fencing token: greater than that of any claim of this job before.
    pub token: i64,
    /// The lease of the node's life that claimed it; `None` when it was claimed without one.
    pub lease: Option<Arc<Lease>>,
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
    /// Takes the oldest job that may run now; jobs that were under way before go first. `None` when there is none. This is
    /// for a program that has the database to itself: nodes [`join`](Self::join) and claim with a lease.
    ///
    /// The future may be dropped: a claim that reaches nobody goes back to the queue.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn claim(&self, node: &str, limits: &ClaimLimits) -> Result<Option<Claim>> {
        let claimer = Claimer { node: node.to_owned(), life: None, protocol: PROTOCOL, backends: None };
        Ok(self.claim_as(claimer, 1, limits, None).await?.pop())
    }

    pub(crate) async fn claim_as(
        &self,
        claimer: Claimer,
        most: u32,
        limits: &ClaimLimits,
        lease: Option<Arc<Lease>>,
    ) -> Result<Vec<Claim>> {
        let (limits, queue) = (limits.clone(), self.clone());
        let mut found = self
            .write_beside(
                move |db| Box::pin(async move { claim(db, &claimer, &limits, most, lease).await }),
                move |claims: Vec<Claim>| {
                    claims.iter().for_each(|claim| queue.0.running.claimed(claim.id(), claim.token));
                    Undelivered { claims, queue }
                },
            )
            .await?;
        Ok(std::mem::take(&mut found.claims))
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
        self.write_beside(
            move |db| Box::pin(finish(db, claim, event, reason, result)),
            move |state| {
                inner.0.running.over(id);
                inner.ended(id);
                state
            },
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
            CancelOutcome::Wish => {
                inner.0.cancelled.send_modify(|n| *n = n.wrapping_add(1));
                inner.wake();
            }
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
        let wanted = self.read(move |db| {
            let wanted = sqlx::query_scalar("SELECT cancel_wanted FROM jobs WHERE id = ?").bind(id.0);
            wanted.fetch_optional(db).map_err(Error::from).boxed()
        });
        let wanted: Option<i64> = wanted.await?;
        wanted.map(|wanted| wanted != 0).ok_or_else(|| unknown(id))
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

/// Claims on their way to a worker. Dropped on the way, they give the jobs back.
struct Undelivered {
    claims: Vec<Claim>,
    queue: Queue,
}
impl Drop for Undelivered {
    fn drop(&mut self) {
        for claim in self.claims.drain(..) {
            let (id, inner) = (claim.id(), self.queue.clone());
            let back = self
                .queue
                .post(move |db| Box::pin(finish(db, claim, Event::Lost, None, None)), move |_| inner.wake());
            if let Err(error) = back {
                tracing::warn!(job = %id, error = %error, "a claim that nobody took stays until the node joins again");
            }
        }
    }
}

pub(crate) fn changed(job: &JobRow, event: Event) -> Result<State> {
    next(job.state, event)
        .map_err(|e| Error::caused(Kind::Refused, format!("job {} ({})", job.id, job.request), e))
}

async fn claim(
    db: &mut Db,
    claimer: &Claimer,
    limits: &ClaimLimits,
    most: u32,
    lease: Option<Arc<Lease>>,
) -> Result<Vec<Claim>> {
    exclusive(&mut *db).await?;
    if let Some(life) = claimer.life
        && !may_claim(&mut *db, &claimer.node, life).await?
    {
        return Ok(Vec::new());
    }
    let mut claims = Vec::new();
    for job in candidates(&mut *db, claimer, limits, most).await? {
        claims.push(take(&mut *db, claimer, job, lease.clone()).await?);
    }
    Ok(claims)
}

async fn take(db: &mut Db, by: &Claimer, mut job: JobRow, lease: Option<Arc<Lease>>) -> Result<Claim> {
    job.state = changed(&job, Event::Claim)?;
    let now = now();
    job.reason = None;
    job.token += 1;
    job.node = Some(by.node.clone());
    // Whoever goes on with what this program is about to write has to understand it.
    job.protocol = job.protocol.max(by.protocol);
    job.claimed = Some(time(now));
    job.started = job.started.or(job.claimed);
    sqlx::query(
        "UPDATE jobs SET state = ?, reason = NULL, token = ?, node = ?, life = ?, protocol = ?, lane = ?, \
         claimed_at = ?, started_at = COALESCE(started_at, ?) WHERE id = ?",
    )
    .bind(job.state.as_str())
    .bind(job.token)
    .bind(&by.node)
    .bind(by.life)
    .bind(job.protocol)
    .bind(Lane::of(&job).text())
    .bind(now)
    .bind(now)
    .bind(job.id.0)
    .execute(&mut *db)
    .await?;
    Ok(Claim { token: job.token, job, lease })
}

async fn recover(db: &mut Db, node: String) -> Result<Vec<JobId>> {
    give_back(db, &node, None).await
}

/// What a node was running goes back to the queue.
pub(crate) async fn give_back(db: &mut Db, node: &str, reason: Option<&str>) -> Result<Vec<JobId>> {
    let rows =
        sqlx::query(locked!(db, "SELECT * FROM jobs WHERE state = 'running' AND node = ? ORDER BY id"));
    let mut back = Vec::new();
    for row in rows.bind(node).fetch_all(&mut *db).await? {
        let job = JobRow::read(&row)?;
        requeue(&mut *db, job.id, changed(&job, Event::Lost)?, reason.map(str::to_owned)).await?;
        back.push(job.id);
    }
    Ok(back)
}

pub(crate) async fn requeue(db: &mut Db, id: JobId, state: State, reason: Option<String>) -> Result<()> {
    let back = sqlx::query(
        "UPDATE jobs SET state = ?, resumed = 1, reason = ?, ended_at = NULL, waits_for = NULL, waits_subject = NULL \
         WHERE id = ?",
    );
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
    let (job, held) = guard::job(&mut *db, &claim).await?;
    let id = job.id;
    if !matches!(event, Event::Done | Event::Fail | Event::RolledBack | Event::Stick | Event::Lost) {
        let message = format!("{event} does not end job {id} ({})", job.request);
        return Err(Error::new(Kind::Refused, message));
    }
    let state = changed(&job, event)?;
    if event == Event::Lost {
        requeue(db, id, state, reason).await?;
        return Ok(state);
    }
    let stuck = state == State::Stuck;
    let why = reason.clone();
    let end = sqlx::query(match stuck {
        true => "UPDATE jobs SET state = ?, reason = ?, result = ?, ended_at = ? WHERE id = ?",
        // With what `let_go` would say in a statement of its own.
        false => {
            "UPDATE jobs SET state = ?, reason = ?, result = ?, ended_at = ?, holds_computer = NULL, \
             holds_image = NULL, held_since = NULL, waits_for = NULL, waits_subject = NULL WHERE id = ?"
        }
    });
    let end = end.bind(state.as_str()).bind(reason).bind(result).bind(now()).bind(id.0);
    end.execute(&mut *db).await?;
    if stuck {
        let facts = notices::facts([
            ("job", Some(id.to_string())),
            ("title", Some(job.request.to_string())),
            ("computer", job.request.computer().map(ToString::to_string)),
            ("owner", Some(job.requester.clone())),
            ("because", why),
        ]);
        let new = notices::NewNotice { kind: NoticeKind::JobStuck, to: None, group: None, facts };
        notices::put(&mut *db, new).await?;
    }
    if !stuck {
        forget_effects(&mut *db, id).await?;
        waiting::next(db, held).await?;
    }
    Ok(state)
}

/// A job that is over holds nothing, and no step of it runs again. Who waited for what it held is next.
pub(crate) async fn let_go(db: &mut Db, id: JobId) -> Result<()> {
    let held = waiting::held(&mut *db, id).await?;
    let free = sqlx::query(
        "UPDATE jobs SET holds_computer = NULL, holds_image = NULL, held_since = NULL, waits_for = NULL, \
         waits_subject = NULL WHERE id = ?",
    );
    free.bind(id.0).execute(&mut *db).await?;
    forget_effects(&mut *db, id).await?;
    waiting::next(db, held).await
}

async fn forget_effects(db: &mut Db, id: JobId) -> Result<()> {
    sqlx::query("DELETE FROM effects WHERE job_id = ?").bind(id.0).execute(db).await?;
    Ok(())
}

pub(crate) async fn cancel(db: &mut Db, id: JobId) -> Result<CancelOutcome> {
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
        if job.state == State::Waiting {
            requeue(db, id, changed(&job, Event::Wake)?, None).await?;
        }
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
         ended_at = NULL, image = ?, revision = ?, holds_computer = ?, holds_image = ?, held_since = ? WHERE id = ?",
    )
    .bind(state.as_str())
    .bind(needs.reads.as_ref().map(|r| r.name.as_str()).or(needs.image.as_ref().map(ImageName::as_str)))
    .bind(needs.reads.as_ref().and_then(|r| r.revision).map(i64::from))
    .bind(job.request.computer().map(|c| c.as_str()))
    .bind(needs.image.as_ref().map(ImageName::as_str))
    .bind(now())
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
