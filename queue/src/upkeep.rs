//! What reconcilers and admins change without a claim: old rows, what is said of a computer's power, a stuck job that is
//! to be taken back, a computer that gets its machine back.

use crate::database::{Db, json, now, to_json};
use crate::jobs::{JobRow, get, holder_of};
use crate::{Error, Kind, Queue, Result, computers, image_tests};
use chrono::{DateTime, Utc};
use sqlx::Row;
use vcl_job::{Failure, Record};
use vcl_types::state::{computer, job, reservation};
use vcl_types::{ComputerName, JobId, JobKind, Loaded};

/// How many jobs' journals one transaction forgets.
const BATCH: i64 = 200;

/// What was forgotten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purged {
    /// Jobs whose journal went.
    pub journals: u64,
    /// Events.
    pub events: u64,
    /// Pieces of evidence.
    pub evidence: u64,
}

/// A computer as the power reconciler wants to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stance {
    /// Its name.
    pub computer: ComputerName,
    /// The backend instance that has its machine.
    pub backend: vcl_types::BackendName,
    /// Where it is.
    pub state: computer::State,
    /// What is said of it.
    pub reason: Option<String>,
    /// Whether it holds something.
    pub loaded: bool,
    /// Whether a job has it.
    pub held: bool,
}

impl Queue {
    /// Forgets the journals and events of jobs that ended before `history`, tests of revisions from before it that say
    /// nothing any more, and evidence from before `evidence`. Jobs that are stuck or not over keep theirs. The rows of the
    /// jobs stay.
    ///
    /// # Errors
    /// When the database cannot be used; what was forgotten until then stays forgotten.
    pub async fn purge(&self, history: DateTime<Utc>, evidence: DateTime<Utc>) -> Result<Purged> {
        let (history, evidence) = (history.timestamp_millis(), evidence.timestamp_millis());
        let mut purged = Purged::default();
        loop {
            let some = self.write(move |db| Box::pin(purge_journals(db, history))).await?;
            purged.journals += some;
            if some < BATCH.unsigned_abs() {
                break;
            }
        }
        let (events, parts) = self
            .write(move |db| {
                Box::pin(async move {
                    let events = sqlx::query(
                        "DELETE FROM events WHERE at < ? AND (job_id IS NULL OR job_id NOT IN \
                         (SELECT id FROM jobs WHERE state IN ('queued', 'running', 'waiting', 'stuck')))",
                    );
                    let events = events.bind(history).execute(&mut *db).await?.rows_affected();
                    let parts = sqlx::query(
                        "DELETE FROM evidence WHERE taken_at < ? AND job_id NOT IN \
                         (SELECT id FROM jobs WHERE state IN ('queued', 'running', 'waiting', 'stuck'))",
                    )
                    .bind(evidence);
                    let parts = parts.execute(&mut *db).await?.rows_affected();
                    image_tests::forget(db, history).await?;
                    Ok((events, parts))
                })
            })
            .await?;
        (purged.events, purged.evidence) = (events, parts);
        Ok(purged)
    }

    /// A stuck job is to be taken back from its journal alone, whatever it was doing: it goes back to the queue, and
    /// whoever claims it undoes what it has done, newest first.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Refused`] when it is not stuck, with the way out.
    pub async fn undo(&self, id: JobId, cause: Failure) -> Result<()> {
        let inner = self.clone();
        self.write_then(move |db| Box::pin(undo(db, id, cause)), move |()| inner.wake()).await
    }

    /// What an undo of the job would do: the open steps, the newest first.
    ///
    /// # Errors
    /// [`Kind::NotFound`], or when the database cannot be read.
    pub async fn open_steps(&self, id: JobId) -> Result<Vec<String>> {
        use vcl_types::api::StepState;
        let steps = self.steps(id).await?;
        Ok(steps.into_iter().rev().filter(|s| s.state != StepState::Undone).map(|s| s.name).collect())
    }

    /// Every computer, as little of it as a look at its power needs.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn stances(&self) -> Result<Vec<Stance>> {
        let rows = sqlx::query(
            "SELECT c.name, c.backend, c.state, c.reason, c.loaded_image, j.id AS job FROM computers c \
             LEFT JOIN jobs j ON j.holds_computer = c.name ORDER BY c.name",
        );
        let read = |row: &crate::database::DbRow| {
            Ok(Stance {
                computer: crate::database::parsed(row, "name")?,
                backend: crate::database::parsed(row, "backend")?,
                state: crate::database::parsed(row, "state")?,
                reason: row.try_get("reason")?,
                loaded: row.try_get::<Option<String>, _>("loaded_image")?.is_some(),
                held: row.try_get::<Option<i64>, _>("job")?.is_some(),
            })
        };
        rows.fetch_all(self.readers()).await?.iter().map(read).collect()
    }

    /// Says something of a loaded computer that no job has; `None` says nothing any more. `old` is what was said when
    /// the caller looked. Answers whether it is said now: a job may have come, or somebody else said something.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn note_computer(
        &self,
        name: &ComputerName,
        old: Option<&str>,
        new: Option<&str>,
    ) -> Result<bool> {
        let (name, old, new) = (name.clone(), old.map(str::to_owned), new.map(str::to_owned));
        self.write(move |db| {
            Box::pin(async move {
                if holder_of(&mut *db, &name).await?.is_some() {
                    return Ok(false);
                }
                let row = computers::get(&mut *db, &name).await?;
                if row.reason != old || row.loaded.is_none() {
                    return Ok(false);
                }
                let set = sqlx::query("UPDATE computers SET reason = ? WHERE name = ?");
                set.bind(new).bind(name.as_str()).execute(db).await?;
                Ok(true)
            })
        })
        .await
    }

    /// What the newest load of a computer that ended well has recorded of it, with who asked for it.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when no journal tells of one.
    pub async fn last_load(&self, name: &ComputerName) -> Result<(JobRow, Loaded)> {
        let rows = sqlx::query(
            "SELECT * FROM jobs WHERE computer = ? AND kind = ? AND state = 'done' ORDER BY id DESC LIMIT 1",
        );
        let rows = rows.bind(name.as_str()).bind(JobKind::Load.as_str());
        if let Some(row) = rows.fetch_optional(self.readers()).await? {
            let job = JobRow::read(&row)?;
            let records =
                sqlx::query("SELECT record FROM journal WHERE job_id = ? AND attempt = ? ORDER BY seq DESC");
            let records =
                records.bind(job.id.0).bind(i64::from(job.attempt)).fetch_all(self.readers()).await?;
            for row in &records {
                if let Record::Started { key, intent, .. } = json(row, "record")?
                    && key == "record load"
                    && let Ok(loaded) = serde_json::from_value(intent["loaded"].clone())
                {
                    return Ok((job, loaded));
                }
            }
        }
        let message =
            format!("no journal tells what {name} was loaded with; it may have been forgotten since");
        Err(Error::new(Kind::NotFound, message))
    }

    /// Gives a computer that is available its machine back, as that load had made it: it holds the image again, and is
    /// reserved for whoever asked for the load.
    ///
    /// # Errors
    /// [`Kind::Busy`] while a job has it; [`Kind::Refused`] when it is not available or holds something.
    pub async fn adopt_machine(&self, name: &ComputerName, load: &JobRow, loaded: &Loaded) -> Result<()> {
        let (name, load, loaded) = (name.clone(), load.clone(), loaded.clone());
        self.write(move |db| Box::pin(adopt(db, name, load, loaded))).await
    }

    /// Child processes that stand in the journals of jobs that ended on this node after `since`: the job, the process
    /// group and when that was started. Most of them ended long ago. Those of another boot or another machine are left out:
    /// their ids may be strangers' here.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn past_processes(&self, node: &str, since: DateTime<Utc>) -> Result<Vec<(JobId, i32, u64)>> {
        let rows = sqlx::query(
            "SELECT g.job_id, g.record FROM jobs j JOIN journal g ON g.job_id = j.id WHERE j.node = ? \
             AND j.ended_at > ? AND j.state IN ('done', 'failed', 'cancelled') AND g.record LIKE '{\"record\":\"process\"%'",
        );
        let rows = rows.bind(node).bind(since.timestamp_millis()).fetch_all(self.readers()).await?;
        let mut found = Vec::new();
        for row in &rows {
            let record = json(row, "record")?;
            if let Record::Process { group, start_time, boot, .. } = record
                && (boot.is_none() || boot.as_deref() == vcl_job::boot_id())
            {
                found.push((JobId(row.try_get("job_id")?), group, start_time));
            }
        }
        Ok(found)
    }

    /// How many jobs are queued before this one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn jobs_before(&self, job: &JobRow) -> Result<u64> {
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM jobs WHERE state = 'queued' AND id < ?")
            .bind(job.id.0)
            .fetch_one(self.readers())
            .await?;
        Ok(count.unsigned_abs())
    }

    /// The jobs that run now.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn running(&self) -> Result<Vec<JobRow>> {
        let rows = sqlx::query("SELECT * FROM jobs WHERE state = 'running' ORDER BY id");
        rows.fetch_all(self.readers()).await?.iter().map(JobRow::read).collect()
    }
}

async fn purge_journals(db: &mut Db, before: i64) -> Result<u64> {
    let ids: Vec<i64> = sqlx::query_scalar(
        "SELECT id FROM jobs WHERE ended_at < ? AND state IN ('done', 'failed', 'cancelled') \
         AND EXISTS (SELECT 1 FROM journal WHERE job_id = jobs.id) ORDER BY id LIMIT ?",
    )
    .bind(before)
    .bind(BATCH)
    .fetch_all(&mut *db)
    .await?;
    for id in &ids {
        sqlx::query("DELETE FROM journal WHERE job_id = ?").bind(id).execute(&mut *db).await?;
        sqlx::query("DELETE FROM timings WHERE job_id = ?").bind(id).execute(&mut *db).await?;
    }
    Ok(ids.len() as u64)
}

async fn undo(db: &mut Db, id: JobId, cause: Failure) -> Result<()> {
    let row = get(&mut *db, id).await?;
    if row.state != job::State::Stuck {
        let way_out = match row.state {
            job::State::Queued | job::State::Running | job::State::Waiting => {
                format!("call it off, which takes back what it did: vclctl job cancel {id}")
            }
            job::State::Done => {
                "what it made is given back by a job of its own, such as vclctl unload".into()
            }
            _ => "it has taken back what it did".to_owned(),
        };
        let state = row.state;
        return Err(Error::new(
            Kind::Refused,
            format!("job {id} ({}) is {state}, not stuck; {way_out}", row.request),
        ));
    }
    let state = job::next(row.state, job::Event::Retry)
        .map_err(|e| Error::caused(Kind::Refused, format!("job {id}"), e))?;
    let unwinding: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM journal WHERE job_id = ? AND attempt = ? AND record LIKE '{\"record\":\"unwinding\"%'",
    )
    .bind(id.0)
    .bind(i64::from(row.attempt))
    .fetch_one(&mut *db)
    .await?;
    if unwinding == 0 {
        let seq: i64 = sqlx::query_scalar(
            "SELECT COALESCE(MAX(seq), 0) + 1 FROM journal WHERE job_id = ? AND attempt = ?",
        )
        .bind(id.0)
        .bind(i64::from(row.attempt))
        .fetch_one(&mut *db)
        .await?;
        sqlx::query(
            "INSERT INTO journal (job_id, attempt, seq, token, recorded_at, record) VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(id.0)
        .bind(i64::from(row.attempt))
        .bind(seq)
        .bind(row.token)
        .bind(now())
        .bind(to_json(&Record::Unwinding { cause })?)
        .execute(&mut *db)
        .await?;
    }
    let back =
        sqlx::query("UPDATE jobs SET state = ?, resumed = 1, reason = NULL, ended_at = NULL WHERE id = ?");
    back.bind(state.as_str()).bind(id.0).execute(db).await?;
    Ok(())
}

async fn adopt(db: &mut Db, name: ComputerName, load: JobRow, loaded: Loaded) -> Result<()> {
    let row = computers::get(&mut *db, &name).await?;
    if let Some(holder) = holder_of(&mut *db, &name).await? {
        return Err(holder.holds(&name));
    }
    if row.loaded.is_some() || row.reservation.is_some() {
        return Err(Error::new(Kind::Refused, format!("{name} holds something already; unload it first")));
    }
    let refused = |e| Error::caused(Kind::Refused, format!("computer {name}"), e);
    let state = computer::next(row.state, computer::Event::Load).map_err(refused)?;
    let state = computer::next(state, computer::Event::Loaded).map_err(refused)?;
    sqlx::query(
        "UPDATE computers SET state = ?, reason = NULL, loaded = ?, loaded_image = ?, loaded_revision = ? WHERE name = ?",
    )
    .bind(state.as_str())
    .bind(to_json(&loaded)?)
    .bind(loaded.image.name.as_str())
    .bind(loaded.image.revision.map(i64::from))
    .bind(name.as_str())
    .execute(&mut *db)
    .await?;
    sqlx::query(
        "INSERT INTO reservations (owner, computer, image, revision, state, job_id, attempt, since, start_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&load.requester)
    .bind(name.as_str())
    .bind(loaded.image.name.as_str())
    .bind(loaded.image.revision.map(i64::from))
    .bind(reservation::State::Ready.as_str())
    .bind(load.id.0)
    .bind(i64::from(load.attempt))
    .bind(now())
    .bind(now())
    .execute(db)
    .await?;
    Ok(())
}
