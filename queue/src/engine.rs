//! The two engines, SQLite and MariaDB (or MySQL): what differs between them beside the schema, kept in one place.
//!
//! All other SQL of this crate is written once and runs on both, through sqlx's `Any` driver, which knows 64 bit
//! integers and text; [`number`] and [`flag`] read smaller ones. On SQLite one process has the file to itself and one
//! connection writes, so what a transaction has read stays true until its end. On MariaDB other nodes write at the same
//! time: whoever reads a row to decide what to write has to lock it, with [`locked!`], and a decision over several rows
//! begins with [`exclusive`].

use crate::database::{Db, DbRow};
use crate::{Error, Kind, Result};
use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, Row};

/// Which engine a database is kept by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// A file on this node, which one vcld has to itself.
    Sqlite,
    /// A MariaDB or MySQL server, which several nodes share.
    MariaDb,
}

impl Engine {
    /// Of an open connection.
    pub(crate) fn of(db: &Db) -> Self {
        if db.backend_name() == "SQLite" { Self::Sqlite } else { Self::MariaDb }
    }
}

/// The statement, with the rows it reads locked until the transaction ends where others could change them.
macro_rules! locked {
    ($db:expr, $sql:literal) => {
        if crate::engine::Engine::of($db) == crate::engine::Engine::MariaDb {
            concat!($sql, " FOR UPDATE")
        } else {
            $sql
        }
    };
}
pub(crate) use locked;

/// Keeps other nodes from what takes a look at many rows (who has what, what may be queued) until the transaction
/// ends. Nothing has to be kept out of a SQLite file.
pub(crate) async fn exclusive(db: &mut Db) -> Result<()> {
    if Engine::of(db) == Engine::MariaDb {
        sqlx::query("SELECT id FROM exclusive FOR UPDATE").fetch_all(db).await?;
    }
    Ok(())
}

/// A number that is kept as 64 bits and is less.
pub(crate) fn number<T: TryFrom<i64>>(row: &DbRow, column: &'static str) -> Result<T>
where
    T::Error: std::error::Error + Send + Sync + 'static,
{
    let number: i64 = row.try_get(column)?;
    T::try_from(number).map_err(|e| Error::corrupt(format!("a `{column}` of {number}"), e))
}
/// The same for one that may be null.
pub(crate) fn number_or_null<T: TryFrom<i64>>(row: &DbRow, column: &'static str) -> Result<Option<T>>
where
    T::Error: std::error::Error + Send + Sync + 'static,
{
    row.try_get::<Option<i64>, _>(column)?.map(|_| number(row, column)).transpose()
}
/// A yes or no.
pub(crate) fn flag(row: &DbRow, column: &'static str) -> Result<bool> {
    Ok(row.try_get::<i64, _>(column)? != 0)
}

/// An `INSERT` that is to answer the number of its row: one statement on SQLite, where sqlx does not pass that number on.
macro_rules! numbered {
    ($db:expr, $sql:literal) => {
        if crate::engine::Engine::of($db) == crate::engine::Engine::Sqlite {
            concat!($sql, " RETURNING id")
        } else {
            $sql
        }
    };
}
pub(crate) use numbered;

/// Runs an `INSERT` made with [`numbered!`] and answers the number that the database gave to the row.
pub(crate) async fn insert(db: &mut Db, insert: Query<'_, Any, AnyArguments>) -> Result<i64> {
    if Engine::of(db) == Engine::Sqlite {
        return Ok(insert.fetch_one(db).await?.try_get("id")?);
    }
    let done = insert.execute(db).await?;
    done.last_insert_id().ok_or_else(|| Error::new(Kind::Unavailable, "the database has not numbered a row"))
}

/// What a failure of the database means for the batch it happened in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The operation's own: a row that is there already.
    Duplicate,
    /// Two transactions were in each other's way, and this one was chosen to begin anew.
    Again,
    /// The server or the connection to it is gone.
    Lost,
    /// Anything else.
    Other,
}

impl Trouble {
    pub(crate) fn of(error: &Error) -> Self {
        let mut next = std::error::Error::source(error);
        while let Some(e) = next {
            if let Some(e) = e.downcast_ref::<sqlx::Error>() {
                return Self::of_sqlx(e);
            }
            next = e.source();
        }
        Self::Other
    }
    pub(crate) fn of_sqlx(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(e) => match mysql_code(e.as_ref()) {
                Some(1062) => Self::Duplicate,
                // Deadlock, lock wait, and `changed since last read`.
                Some(1213 | 1205 | 1020) => Self::Again,
                // Too many connections, shutting down, no thread, interrupted, killed, aborted, read-only while it
                // starts or fails over.
                Some(
                    1040 | 1053 | 1077 | 1079 | 1135 | 1152..=1161 | 1184 | 1203 | 1290 | 1317 | 1927 | 4031,
                ) => Self::Lost,
                _ => Self::Other,
            },
            sqlx::Error::Io(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::WorkerCrashed => Self::Lost,
            _ => Self::Other,
        }
    }
}

/// The server's error number, where it is one of MariaDB's or MySQL's.
pub(crate) fn mysql_code(error: &dyn sqlx::error::DatabaseError) -> Option<u16> {
    error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>().map(sqlx::mysql::MySqlDatabaseError::number)
}
