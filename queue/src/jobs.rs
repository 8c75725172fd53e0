//! Jobs as they are looked at: rows, lists, counts.

use crate::database::{Db, DbRow, parsed, parsed_or_null, time};
use crate::engine::{flag, locked, number, number_or_null};
use crate::{Error, Kind, Queue, Result, WaitFor};
use chrono::{DateTime, Local, Utc};
use futures::{FutureExt, TryFutureExt};
use sqlx::Row;
use vcl_types::api::{JobView, StepView};
use vcl_types::state::job::State;
use vcl_types::{BackendName, ComputerName, ImageName, ImageRef, JobId, JobRequest};

/// A job as the database has it.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRow {
    /// Its number.
    pub id: JobId,
    /// What was asked.
    pub request: JobRequest,
    /// Who asked.
    pub requester: String,
    /// The backend instance that does it, where one does.
    pub backend: Option<BackendName>,
    /// The revision it reads, flattens or deletes: which one was settled when it was queued.
    pub revision: Option<ImageRef>,
    /// The hypervisor host it runs on, where that is known.
    pub host: Option<String>,
    /// Where it is.
    pub state: State,
    /// Why it failed, waits or is stuck.
    pub reason: Option<String>,
    /// What it made.
    pub result: Option<String>,
    /// The node that has it, or had it last.
    pub node: Option<String>,
    /// The only node that can do it, where there is only one.
    pub bound_to: Option<String>,
    /// What a program has to understand of jobs to go on with it.
    pub protocol: i64,
    /// What it waits for, while it is waiting.
    pub waits_for: Option<WaitFor>,
    /// Since when it holds its computer and image; `None` when it holds nothing.
    pub held_since: Option<DateTime<Utc>>,
    /// The fencing token of its newest claim; 0 before the first.
    pub token: i64,
    /// Which of its journals is the present one, from 1: a failed job that is tried again begins an empty one.
    pub attempt: u32,
    /// Whether somebody has called it off.
    pub cancel_wanted: bool,
    /// When it was asked for.
    pub submitted: DateTime<Utc>,
    /// When the newest claim was made.
    pub claimed: Option<DateTime<Utc>>,
    /// When a node first took it.
    pub started: Option<DateTime<Utc>>,
    /// When it ended, or got stuck.
    pub ended: Option<DateTime<Utc>>,
}

/// How many jobs there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobCensus {
    /// By kind and state.
    pub counts: Vec<(String, State, u64)>,
    /// When the oldest was asked for that is queued.
    pub oldest_queued: Option<DateTime<Utc>>,
}

impl JobRow {
    pub(crate) fn read(row: &DbRow) -> Result<Self> {
        let at = |column| Ok::<_, Error>(row.try_get::<Option<i64>, _>(column)?.map(time));
        Ok(Self {
            id: JobId(row.try_get("id")?),
            request: request(row)?,
            requester: row.try_get("requester")?,
            backend: parsed_or_null(row, "backend")?,
            revision: revision(row)?,
            host: row.try_get("host")?,
            state: parsed(row, "state")?,
            reason: row.try_get("reason")?,
            result: row.try_get("result")?,
            node: row.try_get("node")?,
            bound_to: row.try_get("bound_to")?,
            protocol: row.try_get("protocol")?,
            waits_for: WaitFor::read(row)?,
            held_since: at("held_since")?,
            token: row.try_get("token")?,
            attempt: number(row, "attempt")?,
            cancel_wanted: flag(row, "cancel_wanted")?,
            submitted: time(row.try_get("submitted_at")?),
            claimed: at("claimed_at")?,
            started: at("started_at")?,
            ended: at("ended_at")?,
        })
    }
    /// As the API shows it, with these steps.
    #[must_use]
    pub fn view(self, steps: Vec<StepView>) -> JobView {
        JobView {
            id: self.id,
            kind: self.request.kind(),
            title: self.request.to_string(),
            request: self.request,
            state: self.state,
            reason: self.reason,
            requester: self.requester,
            submitted: self.submitted,
            started: self.started,
            node: self.node,
            claimed: self.claimed,
            bound_to: self.bound_to,
            ended: self.ended,
            result: self.result,
            steps,
            left: None,
            evidence: Vec::new(),
        }
    }
    /// Who holds a thing, and what to do about it.
    pub(crate) fn holds(&self, what: impl std::fmt::Display) -> Error {
        let (id, state) = (self.id, self.state);
        let way_out = match state {
            State::Stuck => format!("`vclctl job show {id}` says what it could not take back"),
            _ => format!("wait for it (--wait) or cancel it: vclctl job cancel {id}"),
        };
        let message = format!(
            "{what} is held by job {id} ({}), {state} since {}; {way_out}",
            self.request,
            clock(self.as_it_is_since(), Utc::now())
        );
        Error::new(Kind::Busy, message)
    }
    /// Why another job waits, when this one has what it needs.
    pub(crate) fn waited_for(&self, what: &str) -> String {
        let since = clock(self.held_since.unwrap_or(self.submitted), Utc::now());
        format!("waits for {what}: job {} ({}) has it since {since}", self.id, self.request)
    }
    fn as_it_is_since(&self) -> DateTime<Utc> {
        match self.state {
            State::Queued => self.submitted,
            State::Stuck => self.ended.unwrap_or(self.submitted),
            _ => self.claimed.unwrap_or(self.submitted),
        }
    }
}

/// What was asked; of a kind that this program does not know, as it is.
fn request(row: &DbRow) -> Result<JobRequest> {
    let mut text = serde_json::Deserializer::from_str(row.try_get("request")?);
    JobRequest::known_or_raw(&mut text).map_err(|e| Error::corrupt("a `request`", e))
}

/// The node's local time; with its date unless it is today's.
pub(crate) fn clock(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let (at, now) = (at.with_timezone(&Local), now.with_timezone(&Local));
    let format = if at.date_naive() == now.date_naive() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    at.format(format).to_string()
}

/// Which jobs a list is to have. The default is the newest hundred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFilter {
    /// Only those in this state.
    pub state: Option<State>,
    /// Only those that act on this computer.
    pub computer: Option<ComputerName>,
    /// Only those that this one asked for.
    pub requester: Option<String>,
    /// At most so many.
    pub limit: u32,
    /// Only older ones than this: for the next page.
    pub before: Option<JobId>,
}
impl Default for JobFilter {
    fn default() -> Self {
        Self { state: None, computer: None, requester: None, limit: 100, before: None }
    }
}

/// The job, inside somebody's transaction, which keeps others from changing it.
pub(crate) async fn get(db: &mut Db, id: JobId) -> Result<JobRow> {
    let row =
        sqlx::query(locked!(db, "SELECT * FROM jobs WHERE id = ?")).bind(id.0).fetch_optional(db).await?;
    row.as_ref().map(JobRow::read).transpose()?.ok_or_else(|| unknown(id))
}

pub(crate) fn unknown(id: JobId) -> Error {
    Error::new(Kind::NotFound, format!("there is no job {id}; `vclctl job list` shows what there is"))
}

/// The job that holds a computer, inside somebody's transaction.
pub(crate) async fn holder_of(db: &mut Db, computer: &ComputerName) -> Result<Option<JobRow>> {
    let row = sqlx::query(locked!(db, "SELECT * FROM jobs WHERE holds_computer = ?")).bind(computer.as_str());
    row.fetch_optional(db).await?.as_ref().map(JobRow::read).transpose()
}

impl Queue {
    /// The computers that nobody has and that are being loaded, each with what.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn preparing(&self) -> Result<Vec<(ComputerName, ImageRef)>> {
        let rows = sqlx::query(
            "SELECT * FROM jobs WHERE state IN ('queued', 'waiting', 'running') AND kind = 'prepare'",
        );
        let rows = rows.fetch_all(self.readers()).await?;
        let of = |row: &DbRow| match request(row)? {
            JobRequest::Prepare { computer, image } => Ok(Some((computer, image))),
            _ => Ok(None),
        };
        rows.iter().filter_map(|row| of(row).transpose()).collect()
    }

    /// A job.
    ///
    /// # Errors
    /// [`Kind::NotFound`], or when the database cannot be read.
    pub async fn job(&self, id: JobId) -> Result<JobRow> {
        let row: Option<DbRow> = self
            .read(move |db| {
                let row = sqlx::query("SELECT * FROM jobs WHERE id = ?").bind(id.0);
                row.fetch_optional(db).map_err(Error::from).boxed()
            })
            .await?;
        row.as_ref().map(JobRow::read).transpose()?.ok_or_else(|| unknown(id))
    }

    /// Jobs, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRow>> {
        let state = filter.state.map(State::as_str);
        let computer = filter.computer.as_ref().map(ComputerName::as_str);
        let before = filter.before.map_or(i64::MAX, |id| id.0);
        let rows = sqlx::query(
            "SELECT * FROM jobs WHERE id < ? AND (? IS NULL OR state = ?) AND (? IS NULL OR computer = ?) \
             AND (? IS NULL OR requester = ?) ORDER BY id DESC LIMIT ?",
        )
        .bind(before)
        .bind(state)
        .bind(state)
        .bind(computer)
        .bind(computer)
        .bind(filter.requester.as_deref())
        .bind(filter.requester.as_deref())
        .bind(i64::from(filter.limit))
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(JobRow::read).collect()
    }

    /// How many jobs there are of each kind in each state.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn job_census(&self) -> Result<JobCensus> {
        let rows = sqlx::query("SELECT kind, state, COUNT(*) AS jobs FROM jobs GROUP BY kind, state");
        let rows = rows.fetch_all(self.readers()).await?;
        let counts =
            rows.iter().map(|row| Ok((row.try_get("kind")?, parsed(row, "state")?, number(row, "jobs")?)));
        let oldest: Option<i64> =
            sqlx::query_scalar("SELECT MIN(submitted_at) FROM jobs WHERE state = 'queued'")
                .fetch_one(self.readers())
                .await?;
        Ok(JobCensus {
            counts: counts.collect::<Result<_>>()?,
            oldest_queued: oldest.map(crate::database::time),
        })
    }

    /// The job that holds a computer: one that is not over, or one that is stuck.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn holder(&self, computer: &ComputerName) -> Result<Option<JobRow>> {
        let row = sqlx::query("SELECT * FROM jobs WHERE holds_computer = ?").bind(computer.as_str());
        row.fetch_optional(self.readers()).await?.as_ref().map(JobRow::read).transpose()
    }

    /// How many jobs are in each state, in the order of the diagram; states without one are left out.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn job_counts(&self) -> Result<Vec<(State, u64)>> {
        let rows = sqlx::query("SELECT state, COUNT(*) AS count FROM jobs GROUP BY state");
        let rows = rows.fetch_all(self.readers()).await?;
        let count = |row: &DbRow| {
            let count: i64 = row.try_get("count")?;
            Ok::<_, Error>((parsed(row, "state")?, count.unsigned_abs()))
        };
        let mut counts = rows.iter().map(count).collect::<Result<Vec<_>>>()?;
        counts.sort_unstable();
        Ok(counts)
    }
}

fn revision(row: &DbRow) -> Result<Option<ImageRef>> {
    let name: Option<ImageName> = parsed_or_null(row, "image")?;
    let number: Option<u32> = number_or_null(row, "revision")?;
    Ok(name.zip(number).map(|(name, number)| ImageRef::new(name, number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_another_day_has_its_date() {
        let now = Utc::now();
        assert_eq!(clock(now, now).len(), 8);
        assert_eq!(clock(now - chrono::TimeDelta::days(2), now).len(), 19);
    }
}
