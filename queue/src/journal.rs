//! The journals of jobs in SQL, and what they tell of a job's steps.

use crate::database::{json, now, time, to_json};
use crate::together::Line;
use crate::{Claim, Error, Queue, Result, guard};
use futures::{FutureExt, TryFutureExt};
use sqlx::Row;
use std::sync::{Arc, PoisonError};
use vcl_job::{Journal, Record};
use vcl_types::JobId;
use vcl_types::api::{StepState, StepView};

struct SqlJournal {
    queue: Queue,
    claim: Claim,
}

impl Queue {
    /// The journal of a claimed job. It takes records as long as the claim is good.
    #[must_use]
    pub fn journal(&self, claim: &Claim) -> Arc<dyn Journal> {
        Arc::new(SqlJournal { queue: self.clone(), claim: claim.clone() })
    }

    /// A job's steps in the order in which they began, as its journal tells, with the progress of those under way as
    /// far as this process was told of it.
    ///
    /// # Errors
    /// [`NotFound`](crate::Kind::NotFound), or when the database cannot be read.
    pub async fn steps(&self, id: JobId) -> Result<Vec<StepView>> {
        let job = self.job(id).await?;
        let records = self.records(id, job.attempt).await?;
        let mut steps = steps(&records);
        let progress = self.0.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(progress) = progress.get(&id) {
            for step in steps.iter_mut().filter(|s| s.state == StepState::Running) {
                step.progress = progress.get(&step.name).copied();
            }
        }
        Ok(steps)
    }

    /// An attempt's records with their times.
    async fn records(&self, id: JobId, attempt: u32) -> Result<Vec<(i64, Record)>> {
        let rows = self
            .read(move |db| {
                let rows = sqlx::query(
                    "SELECT recorded_at, record FROM journal WHERE job_id = ? AND attempt = ? ORDER BY seq",
                );
                let rows = rows.bind(id.0).bind(i64::from(attempt)).fetch_all(db);
                rows.map_err(Error::from).boxed()
            })
            .await?;
        let read = |row| Ok((Row::try_get(row, "recorded_at")?, json(row, "record")?));
        rows.iter()
            .map(read)
            .collect::<Result<_>>()
            .map_err(|e: Error| Error::caused(e.kind, format!("reading the journal of job {id}"), e))
    }
}

#[async_trait::async_trait]
impl Journal for SqlJournal {
    fn token(&self) -> i64 {
        self.claim.token
    }
    fn job(&self) -> i64 {
        self.claim.id().0
    }
    fn held(&self) -> vcl_job::Result<()> {
        Ok(guard::lease(&self.claim)?)
    }
    async fn append(&self, record: &Record) -> vcl_job::Result<()> {
        guard::lease(&self.claim)?;
        let json = to_json(record)?;
        if json.len() > vcl_job::RECORD_LIMIT {
            let (size, limit) = (json.len(), vcl_job::RECORD_LIMIT);
            let message = format!("a journal record of {size} bytes; at most {limit} are kept");
            return Err(vcl_job::Error::new(vcl_job::Kind::Fatal, message));
        }
        let line = Line { job: self.claim.job.id.0, token: self.claim.token, at: now(), record: json };
        self.queue.0.running.writes(self.claim.id());
        let append = Box::pin(self.queue.0.writer.line(line));
        let id = self.claim.id();
        append.await.map_err(|e| Error::caused(e.kind, format!("writing the journal of job {id}"), e).into())
    }

    async fn read(&self) -> vcl_job::Result<Vec<Record>> {
        let job = &self.claim.job;
        if self.queue.0.running.is_blank(job.id) {
            return Ok(Vec::new());
        }
        let records = self.queue.records(job.id, job.attempt).await?;
        Ok(records.into_iter().map(|(_, record)| record).collect())
    }

    async fn check(&self) -> vcl_job::Result<()> {
        guard::lease(&self.claim)?;
        let (job, token) = (self.claim.id(), self.claim.token);
        let running = &self.queue.0.running;
        let Err(moment) = running.ask(job, token) else { return Ok(()) };
        let id = job.0;
        let good: i64 = self
            .queue
            .read(move |db| {
                let good = sqlx::query_scalar(
                    "SELECT COUNT(*) FROM jobs WHERE id = ? AND token = ? AND state = 'running'",
                );
                good.bind(id).bind(token).fetch_one(db).map_err(Error::from).boxed()
            })
            .await?;
        if good != 1 {
            return Err(guard::lost(&self.claim).into());
        }
        running.is_good(job, token, moment);
        Ok(())
    }
}

/// What records tell of steps.
fn steps(records: &[(i64, Record)]) -> Vec<StepView> {
    let mut steps: Vec<StepView> = Vec::new();
    for (at, record) in records {
        let (key, state, error) = match record {
            Record::Started { key, .. } => {
                steps.push(StepView {
                    usual: None,
                    name: key.clone(),
                    state: StepState::Running,
                    started: Some(time(*at)),
                    ended: None,
                    progress: None,
                    error: None,
                });
                continue;
            }
            Record::Done { key, .. } => (key, StepState::Done, None),
            Record::Failed { key, error } | Record::Stuck { key, error } => {
                (key, StepState::Failed, Some(error.message.clone()))
            }
            Record::Undone { key } => (key, StepState::Undone, None),
            Record::Begun { .. }
            | Record::Process { .. }
            | Record::Unwinding { .. }
            | Record::Finished { .. } => continue,
        };
        // A step is near the end of the list when something is said of it.
        if let Some(step) = steps.iter_mut().rev().find(|s| s.name == *key) {
            step.state = state;
            step.ended = Some(time(*at));
            // Why it failed is worth knowing after it was undone, too.
            step.error = error.or(step.error.take());
        }
    }
    steps
}
