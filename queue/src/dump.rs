//! A copy of everything, as text that either engine can be filled from: for backups, and for moving from a file to a server.
//!
//! JSON, one object a line: first what it is and of which schema, then a line for each row with its table, at the end how
//! many rows there were, so that a copy that was cut off shows. It is taken in one reading transaction while jobs
//! run, so it is the database of one moment. What belongs to the engine and not to vcld (the schema's versions, who
//! writes at the moment) is left out.
//!
//! Filling takes many transactions. A row of `orphans` that no look makes says meanwhile that the database is not whole:
//! no node joins it, and filling it again begins with emptying it.

use crate::database::{Db, DbRow, now};
use crate::engine::Engine;
use crate::migrate::{migrations, version};
use crate::restored::{Restored, end_all};
use crate::{Error, Kind, Queue, Result};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::{AssertSqlSafe, Column, Row, ValueRef};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt};

/// Tables that are the engine's and not copied.
const OWN: [&str; 3] = ["schema_version", "writers", "exclusive"];
/// How many rows are put back in one transaction.
const ROWS: usize = 200;
/// The format's number.
const FORMAT: u32 = 1;
/// The row of `orphans` that a database has while it is filled.
const FILLING: &str = "place = 'database' AND kind = 'restore' AND name = 'unfinished'";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Vcl { format: u32, schema: i64, program: String, at: i64 },
    Row { table: String, row: Map<String, Value> },
    End { rows: u64 },
}

/// What a copy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dumped {
    /// The schema it was taken from.
    pub schema: i64,
    /// How many rows, of all tables.
    pub rows: u64,
}

impl Queue {
    /// Writes a copy of the whole database as it is at one moment, while others go on with it.
    ///
    /// # Errors
    /// When the database cannot be read; [`Kind::Unavailable`] when `to` cannot be written to.
    pub async fn dump(&self, to: &mut (impl AsyncWrite + Unpin + Send)) -> Result<Dumped> {
        // Not one that goes back to the others: its transaction ends with it, whatever happens.
        let mut db = self.readers().acquire().await?.detach();
        let begin = match self.engine() {
            Engine::Sqlite => "BEGIN",
            Engine::MariaDb => {
                "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION WITH CONSISTENT SNAPSHOT"
            }
        };
        sqlx::raw_sql(begin).execute(&mut db).await?;
        let schema = version(&mut db).await?;
        let program = env!("CARGO_PKG_VERSION").to_owned();
        put(to, &Line::Vcl { format: FORMAT, schema, program, at: now() }).await?;
        let mut rows = 0;
        for table in tables(&mut db).await? {
            let all = AssertSqlSafe(format!("SELECT * FROM {table}"));
            let mut found = sqlx::query(all).fetch(&mut db);
            while let Some(row) = found.try_next().await? {
                put(to, &Line::Row { table: table.clone(), row: values(&row)? }).await?;
                rows += 1;
            }
        }
        put(to, &Line::End { rows }).await?;
        to.flush().await.map_err(unwritten)?;
        sqlx::Connection::close(db).await?;
        Ok(Dumped { schema, rows })
    }

    /// Whether nothing is in the database, or only what a filling left that did not come to its end.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn is_empty(&self) -> Result<bool> {
        let mut db = self.readers().acquire().await?;
        Ok(is_filling(&mut db).await? || first_not_empty(&mut db).await?.is_none())
    }

    /// That nobody is in the middle of filling it.
    pub(crate) async fn check_whole(&self) -> Result<()> {
        let mut db = self.readers().acquire().await?;
        if !is_filling(&mut db).await? {
            return Ok(());
        }
        let message =
            "a restore into this database has not come to its end; run it again: vcld restore DIRECTORY";
        Err(Error::new(Kind::Refused, message))
    }

    /// Fills an empty database, of either engine, from a copy. A copy of an older schema is taken; what was added since
    /// has its default.
    ///
    /// # Errors
    /// [`Kind::Refused`] when there is something in the database; [`Kind::Newer`] for a copy of a newer schema;
    /// [`Kind::Corrupt`] for one that is cut off or none of ours. No node joins a database that was filled in part;
    /// this, called again, empties it first.
    pub async fn restore(&self, from: &mut (impl AsyncBufRead + Unpin + Send)) -> Result<Dumped> {
        self.fill(from, None).await.map(|(dumped, _)| dumped)
    }

    /// As [`restore`](Self::restore), for a database that goes on where the one of the copy was: what was under way there
    /// is ended with this reason, as [`end_all`](Self::end_all) does it. Until it is, no node joins.
    ///
    /// # Errors
    /// As [`restore`](Self::restore).
    pub async fn restore_ended(
        &self,
        from: &mut (impl AsyncBufRead + Unpin + Send),
        reason: &str,
    ) -> Result<Restored> {
        self.fill(from, Some(reason)).await.map(|(_, restored)| restored)
    }

    async fn fill(
        &self,
        from: &mut (impl AsyncBufRead + Unpin + Send),
        ended: Option<&str>,
    ) -> Result<(Dumped, Restored)> {
        let empty = self.write(|db| Box::pin(begin_filling(db)));
        if let Some(table) = empty.await? {
            let message =
                format!("the database has something in its table {table}; a copy is put into an empty one");
            return Err(Error::new(Kind::Refused, message));
        }
        let known = migrations().last().map_or(0, |m| m.version);
        let (mut number, mut rows, mut schema) = (0, 0, None);
        let mut waiting: Vec<(String, Map<String, Value>)> = Vec::new();
        let mut text = String::new();
        loop {
            text.clear();
            number += 1;
            let size = from.read_line(&mut text).await;
            let size = size.map_err(|e| {
                Error::caused(Kind::Unavailable, format!("reading line {number} of the copy"), e)
            })?;
            if size == 0 {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!("the copy is cut off after line {}", number - 1),
                ));
            }
            let line = serde_json::from_str(&text).map_err(|e| {
                Error::caused(Kind::Corrupt, format!("line {number} of the copy cannot be read"), e)
            })?;
            match (line, schema) {
                (Line::Vcl { format, schema: its, program, .. }, None) => {
                    if format != FORMAT || its > known {
                        let message = format!(
                            "the copy has format {format} and schema {its}, written by vcld {program}; this vcld knows \
                             format {FORMAT} and schemas up to {known}: run vcld {program} or newer"
                        );
                        return Err(Error::new(Kind::Newer, message));
                    }
                    schema = Some(its);
                }
                (Line::Row { table, row }, Some(_)) => {
                    rows += 1;
                    waiting.push((table, row));
                    if waiting.len() >= ROWS {
                        self.insert_rows(std::mem::take(&mut waiting)).await?;
                    }
                }
                (Line::End { rows: its }, Some(schema)) if its == rows => {
                    self.insert_rows(waiting).await?;
                    let reason = ended.map(str::to_owned);
                    let restored = self.write(move |db| Box::pin(end_filling(db, reason))).await?;
                    return Ok((Dumped { schema, rows }, restored));
                }
                _ => {
                    return Err(Error::new(
                        Kind::Corrupt,
                        format!("line {number} does not belong there in a copy"),
                    ));
                }
            }
        }
    }

    async fn insert_rows(&self, rows: Vec<(String, Map<String, Value>)>) -> Result<()> {
        self.write(move |db| {
            Box::pin(async move {
                let known = tables(&mut *db).await?;
                for (table, row) in rows {
                    insert(&mut *db, &known, &table, row).await?;
                }
                Ok(())
            })
        })
        .await
    }
}

/// Our tables; those that others refer to first.
async fn tables(db: &mut Db) -> Result<Vec<String>> {
    let all = match Engine::of(db) {
        Engine::Sqlite => "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'",
        // Some servers have these names as binary.
        Engine::MariaDb => {
            "SELECT CAST(table_name AS CHAR) FROM information_schema.tables WHERE table_schema = DATABASE() AND \
             table_type = 'BASE TABLE'"
        }
    };
    let mut all: Vec<String> = sqlx::query_scalar(all).fetch_all(db).await?;
    all.retain(|table| !OWN.contains(&table.as_str()) && is_name(table));
    all.sort_by_key(|table| (table != "jobs", table.clone()));
    Ok(all)
}

async fn is_filling(db: &mut Db) -> Result<bool> {
    let rows = AssertSqlSafe(format!("SELECT COUNT(*) FROM orphans WHERE {FILLING}"));
    Ok(sqlx::query_scalar::<_, i64>(rows).fetch_one(db).await? > 0)
}

/// The table that has something in it, or else the database is marked as one that is being filled.
async fn begin_filling(db: &mut Db) -> Result<Option<String>> {
    if is_filling(&mut *db).await? {
        for table in tables(&mut *db).await?.into_iter().rev() {
            sqlx::query(AssertSqlSafe(format!("DELETE FROM {table}"))).execute(&mut *db).await?;
        }
    }
    if let Some(table) = first_not_empty(&mut *db).await? {
        return Ok(Some(table));
    }
    let mark =
        "INSERT INTO orphans (place, kind, name, first_seen) VALUES ('database', 'restore', 'unfinished', ?)";
    sqlx::query(mark).bind(now()).execute(db).await?;
    Ok(None)
}

async fn end_filling(db: &mut Db, ended: Option<String>) -> Result<Restored> {
    sqlx::query(AssertSqlSafe(format!("DELETE FROM orphans WHERE {FILLING}"))).execute(&mut *db).await?;
    match ended {
        Some(reason) => end_all(db, &reason).await,
        None => Ok(Restored::default()),
    }
}

async fn first_not_empty(db: &mut Db) -> Result<Option<String>> {
    for table in tables(&mut *db).await? {
        let any = AssertSqlSafe(format!("SELECT COUNT(*) FROM (SELECT 1 FROM {table} LIMIT 1) found"));
        let found: i64 = sqlx::query_scalar(any).fetch_one(&mut *db).await?;
        if found > 0 {
            return Ok(Some(table));
        }
    }
    Ok(None)
}

async fn insert(db: &mut Db, known: &[String], table: &str, row: Map<String, Value>) -> Result<()> {
    if !known.iter().any(|t| t == table) || !row.keys().all(|column| is_name(column)) {
        let message = format!("the copy has a table `{}` that this database has not", table.escape_debug());
        return Err(Error::new(Kind::Corrupt, message));
    }
    let columns: Vec<&str> = row.keys().map(String::as_str).collect();
    let places = vec!["?"; columns.len()].join(", ");
    let sql = format!("INSERT INTO {table} ({}) VALUES ({places})", columns.join(", "));
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for value in row.into_values() {
        query = match value {
            Value::Null => query.bind(None::<String>),
            Value::Number(n) => query.bind(n.as_i64()),
            Value::String(text) => query.bind(text),
            Value::Object(bytes) => query.bind(unhex(&bytes, table)?),
            other => {
                return Err(Error::new(Kind::Corrupt, format!("the copy has {other} in a row of {table}")));
            }
        };
    }
    let done = query.execute(db).await;
    done.map_err(|e| {
        let e = Error::from(e);
        Error::caused(e.kind, format!("putting back a row of {table}"), e)
    })?;
    Ok(())
}

/// What may stand in SQL as it is.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn values(row: &DbRow) -> Result<Map<String, Value>> {
    let value = |i: usize| {
        if row.try_get_raw(i)?.is_null() {
            return Ok(Value::Null);
        }
        match row.try_get::<i64, _>(i) {
            Ok(number) => Ok(number.into()),
            Err(_) => row.try_get::<String, _>(i).map(Value::String).or_else(|_| row.try_get(i).map(hex)),
        }
    };
    let columns = row.columns().iter().enumerate();
    Ok(columns.map(|(i, c)| Ok((c.name().to_owned(), value(i)?))).collect::<Result<_, sqlx::Error>>()?)
}

/// Bytes stand in a copy as `{"hex": "…"}`.
fn hex(bytes: Vec<u8>) -> Value {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    serde_json::json!({ "hex": text })
}

fn unhex(value: &Map<String, Value>, table: &str) -> Result<Vec<u8>> {
    let wrong =
        || Error::new(Kind::Corrupt, format!("the copy has bytes in a row of {table} that cannot be read"));
    let text = value.get("hex").and_then(Value::as_str).ok_or_else(wrong)?;
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? * 16 + digit(*low)?),
        _ => None,
    };
    text.as_bytes().chunks(2).map(byte).collect::<Option<_>>().ok_or_else(wrong)
}

async fn put(to: &mut (impl AsyncWrite + Unpin + Send), line: &Line) -> Result<()> {
    let mut text = crate::database::to_json(line)?;
    text.push('\n');
    to.write_all(text.as_bytes()).await.map_err(unwritten)
}

fn unwritten(error: std::io::Error) -> Error {
    Error::caused(Kind::Unavailable, "writing the copy", error)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;

    /// What is in a copy, and what is not: a new table stands in one of the two.
    #[tokio::test]
    async fn every_table_of_the_schema_is_copied_or_left_out_on_purpose() {
        let copied = [
            "answers",
            "audit",
            "class_times",
            "classes",
            "computers",
            "drained_hosts",
            "effects",
            "events",
            "evidence",
            "grants",
            "holdings",
            "image_group_images",
            "image_groups",
            "image_tests",
            "jobs",
            "journal",
            "maintenance_windows",
            "members",
            "nat_ports",
            "nodes",
            "notices",
            "orphans",
            "people",
            "people_version",
            "production",
            "reservations",
            "revisions",
            "timings",
            "tokens",
            "usage_rows",
            "users",
        ];
        for text in [
            migrations().iter().map(|m| m.sqlite).collect::<String>(),
            migrations().iter().map(|m| m.mariadb).collect::<String>(),
        ] {
            let made = text.split("CREATE TABLE ").skip(1);
            let made =
                made.map(|t| t.trim_start_matches("IF NOT EXISTS ").split_whitespace().next().unwrap());
            let mut made: Vec<&str> = made.filter(|table| !OWN.contains(table)).collect();
            made.sort_unstable();
            made.dedup();
            assert_eq!(made, copied);
        }
        let directory = tempfile::tempdir().unwrap();
        let queue = Queue::open(directory.path().join("db")).await.unwrap();
        let mut found = tables(&mut queue.readers().acquire().await.unwrap()).await.unwrap();
        assert_eq!(found[0], "jobs", "others refer to it");
        found.sort();
        assert_eq!(found, copied);
        queue.close().await;
    }

    #[test]
    fn bytes_come_back_as_they_were() {
        let bytes: Vec<u8> = (0..=255).collect();
        let Value::Object(value) = hex(bytes.clone()) else { panic!("an object") };
        assert_eq!(unhex(&value, "t").unwrap(), bytes);
        for wrong in ["abc", "zz", "é"] {
            let value = Map::from_iter([("hex".to_owned(), Value::from(wrong))]);
            assert_eq!(unhex(&value, "t").unwrap_err().kind, Kind::Corrupt);
        }
    }
}
