//! The one writer of this process: every change of the database goes through this task, which owns the only writing
//! connection.
//!
//! It takes whatever is waiting into one transaction, so that jobs that run side by side share an fsync; what comes
//! alone is committed at once. When an operation of a batch fails, the batch is run again with a savepoint for each, and
//! the one that fails is taken back alone. Nobody is answered before the commit is durable, and operations take effect
//! in the order in which they were sent, even those whose sender has stopped waiting.
//!
//! What cannot wait behind a thousand others, the renewal of the node's lease, has a queue of its own that is looked into
//! first, and a transaction of its own. A burst of work costs it one transaction that is under way, never its turn.
//!
//! A batch may have to run again, on a server for other reasons too (see `server`), so an operation is a closure that can
//! be cloned, and a clone of it runs each time.

use crate::database::Db;
use crate::server::Server;
use crate::together::{self, Entry, Line, SentEvent, SentLine};
use crate::{Error, Kind, Result};
use futures::future::BoxFuture;
use sqlx::Connection;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use vcl_types::api::EventView;

/// How many operations one transaction takes at most.
const BATCH: usize = 128;
/// How many operations may wait for the writer before their senders wait.
const WAITING: usize = 1024;
/// How long a sender waits for its turn to wait.
const TURN: Duration = Duration::from_secs(120);

/// A change of the database: gets the connection inside a transaction.
pub(crate) trait Change<T>:
    for<'c> FnOnce(&'c mut Db) -> BoxFuture<'c, Result<T>> + Clone + Send + 'static
{
}
impl<T, F> Change<T> for F where
    F: for<'c> FnOnce(&'c mut Db) -> BoxFuture<'c, Result<T>> + Clone + Send + 'static
{
}

/// One change that was sent, with whoever waits for it.
pub(crate) trait Operation: Send {
    /// Makes the change; anew each time it is called.
    fn run<'a>(&'a mut self, db: &'a mut Db) -> BoxFuture<'a, Result<()>>;
    /// Whether it is one statement, which the engine takes back by itself when it fails.
    fn is_single(&self) -> bool;
    /// When it was sent.
    fn sent(&self) -> Instant;
    /// Its row, when it is nothing but one that is written together with others.
    fn entry(&mut self) -> Option<Entry<'_>> {
        None
    }
    /// Tells what came of it, which is durable.
    fn answer(self: Box<Self>, committed: Result<()>);
}

struct Sent<F, T, U, A> {
    change: F,
    result: Option<T>,
    single: bool,
    sent: Instant,
    after: A,
    reply: oneshot::Sender<Result<U>>,
}

impl<F, T, U, A> Operation for Sent<F, T, U, A>
where
    T: Send,
    U: Send,
    F: Change<T>,
    A: FnOnce(T) -> U + Send,
{
    fn run<'a>(&'a mut self, db: &'a mut Db) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.result = None;
            let change = self.change.clone();
            self.result = Some(change(db).await?);
            Ok(())
        })
    }
    fn is_single(&self) -> bool {
        self.single
    }
    fn sent(&self) -> Instant {
        self.sent
    }
    fn answer(self: Box<Self>, committed: Result<()>) {
        let result = match (committed, self.result) {
            (Ok(()), Some(value)) => Ok((self.after)(value)),
            (Ok(()), None) => Err(Error::new(Kind::Unavailable, "the database has not answered")),
            (Err(e), _) => Err(e),
        };
        // Whoever asked may have stopped waiting; what was done stays done.
        let _ = self.reply.send(result);
    }
}

enum Message {
    Operation(Box<dyn Operation>),
    Close(oneshot::Sender<()>),
}

/// Where the writer writes to.
pub(crate) enum Home {
    /// A file; the lock is let go when the connection is closed.
    File { db: Db, lock: std::fs::File },
    /// A server.
    Server(Box<Server>),
}

/// The sending end. The writer ends when the last of them is dropped, or when one says so.
#[derive(Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Message>,
    /// What goes before all others.
    urgent: mpsc::Sender<Message>,
}

impl Writer {
    /// Starts the task.
    pub(crate) fn start(home: Home) -> Self {
        let (queue, messages) = mpsc::channel(WAITING);
        let (urgent, first) = mpsc::channel(WAITING);
        tokio::spawn(work(home, messages, first));
        Self { queue, urgent }
    }
    /// Makes a change of one statement before all others that wait, in a transaction of its own.
    pub(crate) async fn write_first<T, F>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: Change<T>,
    {
        Self::send(&self.urgent, true, change, |value| value).await
    }
    /// Makes a change and waits until it is durable. When the future is dropped the change may be made all the same.
    pub(crate) async fn write<T, U, F, A>(&self, single: bool, change: F, after: A) -> Result<U>
    where
        T: Send + 'static,
        U: Send + 'static,
        F: Change<T>,
        A: FnOnce(T) -> U + Send + 'static,
    {
        Self::send(&self.queue, single, change, after).await
    }
    /// Writes a record of a job's journal and waits until it is durable.
    pub(crate) async fn line(&self, line: Line) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.queued(Box::new(SentLine { line, sent: Instant::now(), reply })).await?;
        answer.await.map_err(|_| closed())?
    }
    /// Writes an event and waits until it is durable and `after` has been called with it.
    pub(crate) async fn event<U: Send + 'static>(
        &self,
        event: EventView,
        after: impl FnOnce(EventView) -> U + Send + 'static,
    ) -> Result<U> {
        let (reply, answer) = oneshot::channel();
        let after = move |kept: Result<EventView>| {
            let _ = reply.send(kept.map(after));
        };
        self.queued(Box::new(SentEvent { event, sent: Instant::now(), after })).await?;
        answer.await.map_err(|_| closed())?
    }
    /// Sends an event and does not wait for it.
    pub(crate) fn post_event(
        &self,
        event: EventView,
        after: impl FnOnce(Result<EventView>) + Send + 'static,
    ) -> Result<()> {
        self.posted(Box::new(SentEvent { event, sent: Instant::now(), after }))
    }
    async fn queued(&self, operation: Box<dyn Operation>) -> Result<()> {
        Self::turn(&self.queue, operation).await
    }
    async fn turn(queue: &mpsc::Sender<Message>, operation: Box<dyn Operation>) -> Result<()> {
        queue.send_timeout(Message::Operation(operation), TURN).await.map_err(|e| match e {
            mpsc::error::SendTimeoutError::Timeout(_) => full(),
            mpsc::error::SendTimeoutError::Closed(_) => closed(),
        })
    }
    fn posted(&self, operation: Box<dyn Operation>) -> Result<()> {
        self.queue.try_send(Message::Operation(operation)).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => full(),
            mpsc::error::TrySendError::Closed(_) => closed(),
        })
    }
    async fn send<T, U, F, A>(queue: &mpsc::Sender<Message>, single: bool, change: F, after: A) -> Result<U>
    where
        T: Send + 'static,
        U: Send + 'static,
        F: Change<T>,
        A: FnOnce(T) -> U + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let sent = Instant::now();
        let sent = Sent { change, result: None, single, sent, after, reply };
        Self::turn(queue, Box::new(sent)).await?;
        answer.await.map_err(|_| closed())?
    }
    /// Sends a change without waiting for anything.
    pub(crate) fn post<T, U, F, A>(&self, single: bool, change: F, after: A) -> Result<()>
    where
        T: Send + 'static,
        U: Send + 'static,
        F: Change<T>,
        A: FnOnce(T) -> U + Send + 'static,
    {
        let (reply, _) = oneshot::channel();
        let sent = Instant::now();
        let sent = Sent { change, result: None, single, sent, after, reply };
        self.posted(Box::new(sent))
    }
    /// Waits until everything that was sent is written and the connection is closed.
    pub(crate) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Message::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
        // Another one may have closed it a moment ago; the channel closes when the lock is let go.
        self.queue.closed().await;
    }
}

fn closed() -> Error {
    Error::new(Kind::Unavailable, "the database is closed")
}
fn full() -> Error {
    Error::new(Kind::Unavailable, format!("{WAITING} changes wait for the database already"))
}

async fn work(mut home: Home, mut messages: mpsc::Receiver<Message>, mut urgent: mpsc::Receiver<Message>) {
    let mut closing = None;
    while closing.is_none() {
        // Whoever drops the last sender drops both.
        let (first, messages) = tokio::select! {
            biased;
            Some(first) = urgent.recv() => (first, &mut urgent),
            first = messages.recv() => match first {
                Some(first) => (first, &mut messages),
                None => break,
            },
        };
        let mut batch = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Operation(operation) => batch.push(operation),
                Message::Close(done) => {
                    closing = Some(done);
                    break;
                }
            }
            next = if batch.len() < BATCH { messages.try_recv().ok() } else { None };
        }
        let outcomes = match &mut home {
            Home::File { db, .. } => commit(db, &mut batch).await,
            Home::Server(server) => server.commit(&mut batch).await,
        };
        for (operation, outcome) in batch.into_iter().zip(outcomes) {
            operation.answer(outcome);
        }
    }
    match home {
        Home::File { db, lock } => {
            if let Err(error) = db.close().await {
                tracing::warn!(error = %error, "the database was not closed cleanly; its next opening recovers it");
            }
            drop(lock);
        }
        Home::Server(server) => server.close().await,
    }
    drop(closing);
}

/// Runs a batch in one transaction of SQLite.
async fn commit(db: &mut Db, batch: &mut [Box<dyn Operation>]) -> Vec<Result<()>> {
    match batch {
        // SQLite commits a statement that stands outside of a transaction.
        [lone] if lone.is_single() => vec![lone.run(db).await],
        batch => transaction(db, batch).await,
    }
}

/// One outcome for each operation. Nearly always none of them is refused, so they are run without savepoints first; when
/// one is, all begin anew and each gets its own.
async fn transaction(db: &mut Db, batch: &mut [Box<dyn Operation>]) -> Vec<Result<()>> {
    if batch.len() > 1
        && let Some(outcomes) = run(db, batch, false).await
    {
        return outcomes;
    }
    run(db, batch, true).await.unwrap_or_default()
}

/// Runs a batch. `None` when one of them is refused that has no savepoint to go back to: nothing of the batch was done.
async fn run(db: &mut Db, batch: &mut [Box<dyn Operation>], savepoints: bool) -> Option<Vec<Result<()>>> {
    let all = |n: usize, e: Error| Some((0..n).map(|_| Err(e.shared())).collect::<Vec<_>>());
    let count = batch.len();
    if count == 0 {
        return Some(Vec::new());
    }
    if let Err(e) = begin(db).await {
        return all(count, e);
    }
    let mut outcomes: Vec<Option<Result<()>>> = (0..count).map(|_| None).collect();
    if !savepoints {
        match together::lines(db, batch).await {
            Ok(Some(done)) => done.into_iter().for_each(|n| outcomes[n] = Some(Ok(()))),
            // One by one it shows which of them is refused, or fails.
            Ok(None) | Err(_) => {
                roll_back(db).await;
                return None;
            }
        }
    }
    let is_event = |operation: &mut dyn Operation| matches!(operation.entry(), Some(Entry::Event(_)));
    for (n, operation) in batch.iter_mut().enumerate() {
        if outcomes[n].is_some() || (!savepoints && is_event(operation.as_mut())) {
            continue;
        }
        let single = operation.is_single();
        let outcome = if count > 1 && !single && savepoints {
            guarded(db, operation.as_mut()).await
        } else {
            operation.run(db).await.map_err(Failed::of)
        };
        match outcome {
            Ok(()) => outcomes[n] = Some(Ok(())),
            Err(Failed::One(e)) if count == 1 => {
                roll_back(db).await;
                return Some(vec![Err(e)]);
            }
            Err(Failed::One(_)) if !single && !savepoints => {
                roll_back(db).await;
                return None;
            }
            Err(Failed::One(e)) => outcomes[n] = Some(Err(e)),
            Err(Failed::All(e)) => {
                roll_back(db).await;
                return if count == 1 { Some(vec![Err(e)]) } else { all(count, e) };
            }
        }
    }
    if !savepoints {
        match together::events(db, batch).await {
            Ok(done) => done.into_iter().for_each(|n| outcomes[n] = Some(Ok(()))),
            Err(_) => {
                roll_back(db).await;
                return None;
            }
        }
    }
    let outcomes = outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| Err(closed())));
    Some(match sqlx::query("COMMIT").execute(&mut *db).await {
        Ok(_) => outcomes.collect(),
        Err(e) => {
            let e = Error::from(e);
            roll_back(db).await;
            // What an operation was refused for stays its answer; what would have been done was not.
            outcomes.map(|o| o.and_then(|()| Err(e.shared()))).collect()
        }
    })
}

/// How much of the batch an error takes with it.
enum Failed {
    One(Error),
    All(Error),
}

impl Failed {
    /// Of a single statement. When it is the database that fails, SQLite may have taken back the whole transaction, and
    /// nothing more may be written as if it were still open.
    fn of(error: Error) -> Self {
        match error.kind {
            Kind::Unavailable | Kind::NoSpace | Kind::Corrupt => Self::All(error),
            _ => Self::One(error),
        }
    }
}

/// Runs an operation inside a savepoint.
async fn guarded(db: &mut Db, operation: &mut dyn Operation) -> Result<(), Failed> {
    let step = async |db: &mut Db, sql: &'static str| {
        sqlx::query(sql).execute(db).await.map(|_| ()).map_err(|e| Failed::All(e.into()))
    };
    step(&mut *db, "SAVEPOINT one").await?;
    let result = operation.run(&mut *db).await;
    if let Err(e) = result {
        // SQLite takes back the whole transaction by itself when its disk is full; there is no savepoint then.
        return match step(&mut *db, "ROLLBACK TO one").await {
            Ok(()) => match step(&mut *db, "RELEASE one").await {
                Ok(()) => Err(Failed::One(e)),
                Err(_) => Err(Failed::All(e)),
            },
            Err(_) => Err(Failed::All(e)),
        };
    }
    step(db, "RELEASE one").await
}

async fn begin(db: &mut Db) -> Result<()> {
    match sqlx::query("BEGIN IMMEDIATE").execute(&mut *db).await {
        Ok(_) => Ok(()),
        Err(_) => {
            // A rollback that failed may have left a transaction open.
            roll_back(db).await;
            sqlx::query("BEGIN IMMEDIATE").execute(db).await?;
            Ok(())
        }
    }
}

/// An error here means that there is nothing to roll back any more.
async fn roll_back(db: &mut Db) {
    if let Err(error) = sqlx::query("ROLLBACK").execute(db).await {
        tracing::debug!(error = %error, "rolled back already");
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;
    use crate::Queue;

    async fn note(db: &mut Db, message: &'static str) -> Result<()> {
        let insert = sqlx::query("INSERT INTO events (at, kind, message) VALUES (0, 'noted', ?)");
        insert.bind(message).execute(db).await?;
        Ok(())
    }
    async fn noted(queue: &Queue) -> Vec<String> {
        queue.events(0, 100).await.unwrap().into_iter().map(|e| e.message).collect()
    }
    fn refused() -> Result<()> {
        Err(Error::new(Kind::Refused, "no"))
    }
    /// As SQLite does when its disk is full: the whole transaction is gone.
    async fn full(db: &mut Db) -> Result<()> {
        sqlx::query("ROLLBACK").execute(db).await?;
        Err(Error::new(Kind::NoSpace, "full"))
    }
    async fn open() -> (Queue, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Queue::open(dir.path().join("vcl.db")).await.unwrap(), dir)
    }

    #[tokio::test]
    async fn one_that_fails_half_way_leaves_nothing_alone_and_among_others() {
        let (queue, _dir) = open().await;
        let half = || {
            queue.write(|db| {
                Box::pin(async move {
                    note(&mut *db, "half").await?;
                    refused()
                })
            })
        };
        assert_eq!(half().await.unwrap_err().kind, Kind::Refused);
        assert_eq!(noted(&queue).await, [""; 0]);
        let (before, failed, after) = tokio::join!(
            queue.write(|db| Box::pin(note(db, "before"))),
            half(),
            queue.0.writer.write(true, |db| Box::pin(note(db, "after")), |()| ())
        );
        before.and(after).unwrap();
        assert_eq!(failed.unwrap_err().kind, Kind::Refused);
        assert_eq!(noted(&queue).await, ["before", "after"]);
    }

    #[tokio::test]
    async fn when_the_database_fails_nothing_of_the_batch_is_there_and_all_are_told() {
        let (queue, _dir) = open().await;
        for single in [true, false] {
            fn send<'q, F: Change<()>>(
                queue: &'q Queue,
                single: bool,
                change: F,
            ) -> impl Future<Output = Result<()>> + 'q {
                queue.0.writer.write(single, change, |()| ())
            }
            let (first, failed, last, other) = tokio::join!(
                send(&queue, true, |db| Box::pin(note(db, "first"))),
                send(&queue, single, |db| Box::pin(full(db))),
                send(&queue, true, |db| Box::pin(note(db, "last"))),
                send(&queue, false, |db| Box::pin(note(db, "other"))),
            );
            for result in [first, failed, last, other] {
                assert_eq!(result.unwrap_err().kind, Kind::NoSpace);
            }
            assert_eq!(noted(&queue).await, [""; 0]);
        }
        let alone = queue.write(|db| Box::pin(full(db))).await;
        assert_eq!(alone.unwrap_err().kind, Kind::NoSpace);
        queue.write(|db| Box::pin(note(db, "later"))).await.unwrap();
        assert_eq!(noted(&queue).await, ["later"]);
    }

    #[tokio::test]
    async fn a_transaction_that_was_left_open_is_not_gone_on_with() {
        let (queue, _dir) = open().await;
        let left = queue.0.writer.write(
            true,
            |db| {
                Box::pin(async move {
                    sqlx::query("BEGIN").execute(&mut *db).await?;
                    note(db, "never committed").await
                })
            },
            |()| (),
        );
        left.await.unwrap();
        queue.write(|db| Box::pin(note(db, "committed"))).await.unwrap();
        assert_eq!(noted(&queue).await, ["committed"]);
    }

    #[tokio::test]
    async fn a_commit_is_synced_and_references_are_checked() {
        let (queue, _dir) = open().await;
        let pragmas = queue.write(|db| {
            Box::pin(async move {
                let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *db).await?;
                let foreign_keys: i64 = sqlx::query_scalar("PRAGMA foreign_keys").fetch_one(&mut *db).await?;
                let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(db).await?;
                Ok((synchronous, foreign_keys, mode))
            })
        });
        assert_eq!(pragmas.await.unwrap(), (2, 1, "wal".to_owned()));
        let reader = sqlx::query("INSERT INTO events (at, kind, message) VALUES (0, 'x', 'x')");
        assert!(reader.execute(queue.readers()).await.is_err(), "readers do not write");
    }
}
