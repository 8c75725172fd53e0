//! Batches on a server: a transaction that has to begin anew, a server that goes away in the middle, a COMMIT that nobody
//! answered.
//!
//! Every batch is one transaction whose first statement sets this process's row of `writers` to the batch's number,
//! which locks that row until the transaction ends. When the connection is lost the session behind it is ended, and a
//! new one reads that row *with a lock*: it waits there until the old transaction, should it still be alive, has come to
//! its end. Then the row says exactly whether the batch took place. If it did, its outcomes stand; if not, the batch
//! runs again from the start. A deadlock or a lock that was waited for too long rolls the batch back, and it runs again
//! as well. All this until the batch's patience is at its end; an operation that was refused for a reason of its own
//! is not retried.

use crate::database::{Db, now};
use crate::engine::Trouble;
use crate::mariadb;
use crate::writer::Operation;
use crate::{Error, Kind, Result};
use sqlx::any::AnyConnectOptions;
use sqlx::{AssertSqlSafe, Connection};
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;
use tokio::time::Instant;

/// How long a transaction may take before its connection is given up.
const TRANSACTION: Duration = Duration::from_secs(40);
/// How long is waited before the next attempt, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// Rows of processes that have not written for so long are forgotten.
const FORGOTTEN: i64 = 7 * 24 * 3600 * 1000;

/// The writing end of a server's database.
pub(crate) struct Server {
    options: AnyConnectOptions,
    patience: Duration,
    /// This process's row in `writers`.
    id: i64,
    /// The number of the newest batch that was begun.
    batch: i64,
    db: Option<Db>,
    /// The session that was lost and may still be in the middle of something.
    lost: Option<i64>,
    /// The present session's number on the server.
    thread: i64,
}

/// What came of one attempt.
enum Attempt {
    /// It is committed, or there was nothing to commit; one outcome for each operation.
    Over(Vec<Result<()>>),
    /// It is rolled back and may begin anew.
    Again(Error),
    /// The connection was lost before COMMIT was sent: it did not take place.
    Lost(Error),
    /// The connection was lost at COMMIT.
    Unknown(Error, Vec<Result<()>>),
}

impl Server {
    pub(crate) async fn new(mut db: Db, options: AnyConnectOptions, patience: Duration) -> Result<Self> {
        // Any number that no other process draws.
        let id = std::hash::RandomState::new().build_hasher().finish() >> 1;
        let id = i64::try_from(id).unwrap_or_default();
        sqlx::query("DELETE FROM writers WHERE at < ?").bind(now() - FORGOTTEN).execute(&mut db).await?;
        mariadb::to_write(&mut db).await?;
        let thread = mariadb::thread(&mut db).await?;
        Ok(Self { options, patience, id, batch: 0, db: Some(db), lost: None, thread })
    }

    /// The number of its row in `writers`.
    pub(crate) fn id(&self) -> i64 {
        self.id
    }

    /// Runs a batch until it is over: one outcome for each operation.
    pub(crate) async fn commit(&mut self, batch: &mut [Box<dyn Operation>]) -> Vec<Result<()>> {
        let Some(newest) = batch.iter().map(|o| o.sent()).max() else { return Vec::new() };
        let until = newest + self.patience;
        let count = batch.len();
        let mut pause = PAUSE.0;
        loop {
            let error = match self.attempt(batch).await {
                Attempt::Over(outcomes) => return outcomes,
                Attempt::Again(error) => {
                    tracing::debug!(error = %error, "another node was in the way of a change; it is made again");
                    error
                }
                Attempt::Lost(error) => {
                    self.gone(&error);
                    error
                }
                Attempt::Unknown(error, outcomes) => {
                    self.gone(&error);
                    match self.took_place(until).await {
                        Ok(true) => return outcomes,
                        Ok(false) => error,
                        Err(error) => return unknown(outcomes, &error),
                    }
                }
            };
            if Instant::now() >= until {
                return (0..count).map(|_| Err(error.shared())).collect();
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn attempt(&mut self, batch: &mut [Box<dyn Operation>]) -> Attempt {
        if let Err(error) = self.connected().await {
            return Attempt::Lost(error.into());
        }
        self.batch += 1;
        let begin = self.begin();
        let Some(db) = &mut self.db else { return Attempt::Lost(away()) };
        let running = tokio::time::timeout(TRANSACTION, transaction(db, begin, batch)).await;
        let outcomes = match running {
            Err(_) => return Attempt::Lost(slow()),
            Ok(Err(attempt)) => return attempt,
            Ok(Ok(outcomes)) => outcomes,
        };
        match tokio::time::timeout(TRANSACTION, sqlx::raw_sql("COMMIT").execute(&mut *db)).await {
            Ok(Ok(_)) => Attempt::Over(outcomes),
            Ok(Err(e)) => match Trouble::of_sqlx(&e) {
                Trouble::Lost => Attempt::Unknown(e.into(), outcomes),
                Trouble::Again => again(db, e.into()).await,
                Trouble::Duplicate | Trouble::Other => {
                    let error = Error::from(e);
                    match roll_back(db).await {
                        // What an operation was refused for stays its answer; what would have been done was not.
                        Ok(()) => Attempt::Over(
                            outcomes.into_iter().map(|o| o.and_then(|()| Err(error.shared()))).collect(),
                        ),
                        Err(_) => Attempt::Unknown(error, outcomes),
                    }
                }
            },
            Err(_) => Attempt::Unknown(slow(), outcomes),
        }
    }

    /// The batch's first words, in one round trip. There are only numbers in them.
    fn begin(&self) -> String {
        let (id, batch, at) = (self.id, self.batch, now());
        format!(
            "START TRANSACTION; INSERT INTO writers (id, batch, at) VALUES ({id}, {batch}, {at}) \
             ON DUPLICATE KEY UPDATE batch = {batch}, at = {at}"
        )
    }

    /// A connection, and that no session before it is at work any more.
    async fn connected(&mut self) -> sqlx::Result<&mut Db> {
        let db = match self.db.take() {
            Some(db) => db,
            None => {
                let connecting = async {
                    let mut db = mariadb::connect(&self.options).await?;
                    mariadb::to_write(&mut db).await?;
                    if let Some(lost) = self.lost {
                        mariadb::end(&mut db, lost).await?;
                    }
                    let thread = mariadb::thread(&mut db).await?;
                    Ok((db, thread))
                };
                let connected = tokio::time::timeout(TRANSACTION, connecting).await;
                let (db, thread) = connected.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
                tracing::info!("the database is there again");
                self.lost = None;
                self.thread = thread;
                db
            }
        };
        Ok(self.db.insert(db))
    }

    /// The connection cannot be used any more.
    fn gone(&mut self, error: &Error) {
        if self.db.take().is_some() {
            tracing::warn!(error = %crate::error::chain(error), "the database went away; changes wait for it");
            self.lost = Some(self.thread);
        }
    }

    /// Whether the newest batch took place.
    async fn took_place(&mut self, until: Instant) -> Result<bool> {
        let mut pause = PAUSE.0;
        loop {
            let (id, batch) = (self.id, self.batch);
            let asked = async {
                let db = self.connected().await?;
                let asking = sqlx::query_scalar("SELECT batch FROM writers WHERE id = ? FOR UPDATE").bind(id);
                let asked = tokio::time::timeout(TRANSACTION, asking.fetch_optional(db)).await;
                asked.unwrap_or(Err(sqlx::Error::PoolTimedOut))
            };
            let error: Error = match asked.await {
                Ok(newest) => return Ok(newest.is_some_and(|n: i64| n >= batch)),
                Err(e) => e.into(),
            };
            if Trouble::of(&error) != Trouble::Again {
                self.gone(&error);
            }
            if Instant::now() >= until {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Takes its row away and closes the connection.
    pub(crate) async fn close(mut self: Box<Self>) {
        let Some(mut db) = self.db.take() else { return };
        let closing = async {
            sqlx::query("DELETE FROM writers WHERE id = ?").bind(self.id).execute(&mut db).await?;
            db.close().await
        };
        match tokio::time::timeout(Duration::from_secs(5), closing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(error = %error, "the database was not closed cleanly"),
            Err(_) => tracing::debug!("the database does not answer; its connection is dropped"),
        }
    }
}

/// Everything of a batch but its COMMIT.
async fn transaction(
    db: &mut Db,
    begin: String,
    batch: &mut [Box<dyn Operation>],
) -> Result<Vec<Result<()>>, Attempt> {
    let lost = |e: sqlx::Error| Attempt::Lost(e.into());
    if let Err(e) = sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut *db).await {
        return Err(match Trouble::of_sqlx(&e) {
            Trouble::Again => again(db, e.into()).await,
            _ => lost(e),
        });
    }
    let count = batch.len();
    let mut outcomes = Vec::with_capacity(count);
    for operation in batch {
        // One of the same name takes the place of the one before.
        let savepoint = !operation.is_single();
        if savepoint {
            sqlx::raw_sql("SAVEPOINT one").execute(&mut *db).await.map_err(lost)?;
        }
        let mut outcome = operation.run(&mut *db).await;
        // What another node has written a moment ago is visible now: the operation can say what it is.
        if outcome.as_ref().is_err_and(|e| Trouble::of(e) == Trouble::Duplicate) {
            if savepoint {
                sqlx::raw_sql("ROLLBACK TO one").execute(&mut *db).await.map_err(lost)?;
            }
            outcome = operation.run(&mut *db).await;
        }
        match outcome {
            Ok(()) => outcomes.push(Ok(())),
            Err(e) => match Trouble::of(&e) {
                Trouble::Again => return Err(again(db, e).await),
                Trouble::Lost => return Err(Attempt::Lost(e)),
                Trouble::Duplicate | Trouble::Other => {
                    if savepoint {
                        sqlx::raw_sql("ROLLBACK TO one").execute(&mut *db).await.map_err(lost)?;
                    }
                    outcomes.push(Err(e));
                }
            },
        }
    }
    Ok(outcomes)
}

async fn roll_back(db: &mut Db) -> sqlx::Result<()> {
    sqlx::raw_sql("ROLLBACK").execute(db).await.map(|_| ())
}

async fn again(db: &mut Db, error: Error) -> Attempt {
    match roll_back(db).await {
        Ok(()) => Attempt::Again(error),
        Err(e) => Attempt::Lost(e.into()),
    }
}

fn away() -> Error {
    Error::new(Kind::Unavailable, "the database is away")
}
fn slow() -> Error {
    Error::new(Kind::Unavailable, format!("the database has not answered for {} s", TRANSACTION.as_secs()))
}

/// What was refused was refused in any case.
fn unknown(outcomes: Vec<Result<()>>, error: &Error) -> Vec<Result<()>> {
    let why = "the database went away while it was committing; whether this was written is not known";
    let why = |()| Err(Error::caused(Kind::Unavailable, why, error.shared()));
    outcomes.into_iter().map(|o| o.and_then(why)).collect()
}
