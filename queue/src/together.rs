//! What many send at the same time and one statement can write for all of them: records of journals, and events.
//!
//! They are most of what a busy node writes. In a batch on SQLite they are taken out of the row: records are written
//! before all other changes of the batch and events after them. Nobody can tell, for whoever sends a record waits for its
//! answer, and an event is read by nobody who decides anything. Each record is still checked against its job's claim, by
//! the statement that writes it; when one of them is refused the whole batch is run again, one by one.
//!
//! On a server each is a statement of its own.

use crate::database::Db;
use crate::engine::{insert, locked, numbered};
use crate::writer::Operation;
use crate::{Error, Kind, Result};
use futures::future::BoxFuture;
use sqlx::{AssertSqlSafe, Row};
use std::collections::HashSet;
use std::sync::LazyLock;
use tokio::sync::oneshot;
use tokio::time::Instant;
use vcl_types::JobId;
use vcl_types::api::EventView;

/// How many rows one statement writes: the largest first. Few different statements stay prepared.
const SIZES: [usize; 5] = [64, 16, 4, 2, 1];

/// A record of a job's journal, as it goes into the database.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) job: i64,
    pub(crate) token: i64,
    pub(crate) at: i64,
    pub(crate) record: String,
}

impl Line {
    fn lost(&self) -> Error {
        let id = JobId(self.job);
        Error::new(Kind::LeaseLost, format!("job {id} is over or another worker has it now"))
    }
}

/// A row of an operation that is nothing but that.
pub(crate) enum Entry<'a> {
    Line(&'a Line),
    Event(&'a mut EventView),
}

/// A record that was sent.
pub(crate) struct SentLine {
    pub(crate) line: Line,
    pub(crate) sent: Instant,
    pub(crate) reply: oneshot::Sender<Result<()>>,
}

impl Operation for SentLine {
    fn run<'a>(&'a mut self, db: &'a mut Db) -> BoxFuture<'a, Result<()>> {
        let Self { line, .. } = self;
        Box::pin(async move {
            let done = sqlx::query(locked!(
                db,
                "INSERT INTO journal (job_id, attempt, seq, token, recorded_at, record) \
                 SELECT id, attempt, (SELECT COALESCE(MAX(seq), 0) + 1 FROM journal \
                 WHERE job_id = jobs.id AND attempt = jobs.attempt), token, ?, ? \
                 FROM jobs WHERE id = ? AND token = ? AND state = 'running'"
            ))
            .bind(line.at)
            .bind(line.record.as_str())
            .bind(line.job)
            .bind(line.token)
            .execute(db)
            .await?;
            if done.rows_affected() == 1 { Ok(()) } else { Err(line.lost()) }
        })
    }
    fn is_single(&self) -> bool {
        true
    }
    fn sent(&self) -> Instant {
        self.sent
    }
    fn entry(&mut self) -> Option<Entry<'_>> {
        Some(Entry::Line(&self.line))
    }
    fn answer(self: Box<Self>, committed: Result<()>) {
        // Whoever asked may have stopped waiting; what was done stays done.
        let _ = self.reply.send(committed);
    }
}

/// An event that was sent, with what is done with it once it is durable.
pub(crate) struct SentEvent<A> {
    pub(crate) event: EventView,
    pub(crate) sent: Instant,
    pub(crate) after: A,
}

impl<A: FnOnce(Result<EventView>) + Send> Operation for SentEvent<A> {
    fn run<'a>(&'a mut self, db: &'a mut Db) -> BoxFuture<'a, Result<()>> {
        let Self { event, .. } = self;
        Box::pin(self::event(db, event))
    }
    fn is_single(&self) -> bool {
        true
    }
    fn sent(&self) -> Instant {
        self.sent
    }
    fn entry(&mut self) -> Option<Entry<'_>> {
        Some(Entry::Event(&mut self.event))
    }
    fn answer(self: Box<Self>, committed: Result<()>) {
        let Self { event, after, .. } = *self;
        after(committed.map(|()| event));
    }
}

/// Keeps one event and gives it its number.
pub(crate) async fn event(db: &mut Db, event: &mut EventView) -> Result<()> {
    let row = sqlx::query(numbered!(
        db,
        "INSERT INTO events (at, kind, job_id, computer, message) VALUES (?, ?, ?, ?, ?)"
    ));
    event.id = insert(db, bound(row, event)).await?;
    Ok(())
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Any, sqlx::any::AnyArguments>;

fn bound<'q>(row: Query<'q>, event: &EventView) -> Query<'q> {
    row.bind(event.at.timestamp_millis())
        .bind(event.kind.clone())
        .bind(event.job.map(|j| j.0))
        .bind(event.computer.as_ref().map(ToString::to_string))
        .bind(event.message.clone())
}

/// The statements of each size, which live as long as the program.
struct Statements(Vec<(usize, String)>);

impl Statements {
    fn new(before: &str, row: &str, after: &str) -> Self {
        let of = |size: usize| (size, format!("{before}{}{after}", vec![row; size].join(", ")));
        Self(SIZES.iter().map(|size| of(*size)).collect())
    }
    /// The one that takes as many of `left` rows as it can.
    fn fitting(&'static self, left: usize) -> (usize, &'static str) {
        let found = self.0.iter().find(|(size, _)| *size <= left);
        found.map_or((0, ""), |(size, sql)| (*size, sql))
    }
}

// What is read from `journal` is read before anything is written to it, so one statement has one record of a job.
static LINES: LazyLock<Statements> = LazyLock::new(|| {
    Statements::new(
        "WITH line (at, record, job, token) AS (VALUES ",
        "(?, ?, ?, ?)",
        ") INSERT INTO journal (job_id, attempt, seq, token, recorded_at, record) \
         SELECT jobs.id, jobs.attempt, (SELECT COALESCE(MAX(seq), 0) + 1 FROM journal \
         WHERE job_id = jobs.id AND attempt = jobs.attempt), jobs.token, line.at, line.record \
         FROM line CROSS JOIN jobs WHERE jobs.id = line.job AND jobs.token = line.token AND jobs.state = 'running'",
    )
});
static EVENTS: LazyLock<Statements> = LazyLock::new(|| {
    Statements::new(
        "INSERT INTO events (at, kind, job_id, computer, message) VALUES ",
        "(?, ?, ?, ?, ?)",
        " RETURNING id",
    )
});

/// Writes the records of a batch on SQLite; which of its operations are done, or `None` when one of them is refused:
/// then what was written has to be taken back.
pub(crate) async fn lines(db: &mut Db, batch: &mut [Box<dyn Operation>]) -> Result<Option<Vec<usize>>> {
    let mut done = Vec::new();
    let mut lines = Vec::new();
    let mut jobs = HashSet::new();
    for (n, operation) in batch.iter_mut().enumerate() {
        // The second of a job is written by itself after the first.
        if let Some(Entry::Line(line)) = operation.entry()
            && jobs.insert(line.job)
        {
            lines.push(line);
            done.push(n);
        }
    }
    let mut rest = &lines[..];
    while !rest.is_empty() {
        let (size, sql) = LINES.fitting(rest.len());
        let (now, later) = rest.split_at(size);
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for line in now {
            query = query.bind(line.at).bind(line.record.as_str()).bind(line.job).bind(line.token);
        }
        if query.execute(&mut *db).await?.rows_affected() != size as u64 {
            return Ok(None);
        }
        rest = later;
    }
    Ok(Some(done))
}

/// Writes the events of a batch on SQLite in the order in which they were sent, and answers which operations these were.
pub(crate) async fn events(db: &mut Db, batch: &mut [Box<dyn Operation>]) -> Result<Vec<usize>> {
    let mut done = Vec::new();
    let mut events = Vec::new();
    for (n, operation) in batch.iter_mut().enumerate() {
        if let Some(Entry::Event(event)) = operation.entry() {
            events.push(event);
            done.push(n);
        }
    }
    let mut rest = &mut events[..];
    while !rest.is_empty() {
        let (size, sql) = EVENTS.fitting(rest.len());
        let (now, later) = rest.split_at_mut(size);
        let query = now.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, event| bound(query, event));
        let mut ids = Vec::with_capacity(size);
        for row in query.fetch_all(&mut *db).await? {
            ids.push(row.try_get::<i64, _>("id")?);
        }
        // Numbers are given in the order of the rows; which is answered first is not said.
        ids.sort_unstable();
        now.iter_mut().zip(ids).for_each(|(event, id)| event.id = id);
        rest = later;
    }
    Ok(done)
}
