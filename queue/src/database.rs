//! Opening and closing: the file, its lock, its connections. [`Queue`] is the handle that everything else hangs on.

use crate::migrate::{MIGRATIONS, Migration, migrate};
use crate::writer::Writer;
use crate::{Error, Kind, Result};
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Row};
use std::collections::HashMap;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use vcl_types::JobId;
use vcl_types::api::{Progress, StreamItem};

/// A connection of the engine. One name for it, so that what is asked of it is written once for all engines.
pub(crate) type Db = sqlx::SqliteConnection;
/// A row of its answer.
pub(crate) type DbRow = sqlx::sqlite::SqliteRow;
/// Connections that read.
pub(crate) type DbPool = sqlx::SqlitePool;

/// How many connections read at the same time.
const READERS: u32 = 4;
/// How long a connection waits for another program's lock (an operator's `sqlite3`, a backup) before it gives up.
const BUSY: Duration = Duration::from_secs(5);
/// How many stream items a slow subscriber may be behind before it misses some.
const STREAM: usize = 1024;

/// The queue. A handle: clones share one database.
#[derive(Clone)]
pub struct Queue(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) writer: Writer,
    readers: DbPool,
    pub(crate) path: PathBuf,
    /// Changes whenever a claim might find something.
    pub(crate) submitted: watch::Sender<u64>,
    /// Changes whenever a job that runs is called off.
    pub(crate) cancelled: watch::Sender<u64>,
    pub(crate) stream: broadcast::Sender<StreamItem>,
    /// How far the steps under way are.
    pub(crate) progress: Mutex<HashMap<JobId, HashMap<String, Progress>>>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("path", &self.0.path).finish_non_exhaustive()
    }
}

impl Queue {
    /// Opens the database, makes it (mode 0600) where there is none, and brings its schema up to date. Must be called
    /// inside a tokio runtime; the writer runs in it.
    ///
    /// # Errors
    /// [`Kind::Busy`] when another process has it open as its queue, naming that process; [`Kind::Newer`] when a newer
    /// vcld has written it; [`Kind::Corrupt`] when the file is damaged or none of ours; [`Kind::Unavailable`] or
    /// [`Kind::NoSpace`] when it cannot be read or written.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path.as_ref(), MIGRATIONS).await
    }

    pub(crate) async fn open_with(path: &Path, migrations: &'static [Migration]) -> Result<Self> {
        let shown = path.display().to_string();
        let lock = lock(path)?;
        std::fs::OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| Error::caused(Kind::Unavailable, format!("opening the database {shown}"), e))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY)
            .pragma("trusted_schema", "OFF")
            .pragma("cell_size_check", "ON")
            // What a long batch has made of the write-ahead log is given back.
            .pragma("journal_size_limit", "67108864")
            .disable_statement_logging();
        let opened = async {
            let mut db = options.connect().await?;
            check(&mut db).await?;
            migrate(&mut db, path, migrations).await?;
            Ok::<_, Error>(db)
        };
        let db = opened.await.map_err(|e| way_out(e, &shown))?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(Duration::from_secs(30))
            .connect_lazy_with(options.pragma("query_only", "ON"));
        Ok(Self(Arc::new(Inner {
            writer: Writer::start(db, lock),
            readers,
            path: path.to_owned(),
            submitted: watch::Sender::new(0),
            cancelled: watch::Sender::new(0),
            stream: broadcast::Sender::new(STREAM),
            progress: Mutex::default(),
        })))
    }

    /// Waits until all that was sent is written, then closes the database and lets another process have it. Whatever is
    /// asked of the queue afterwards is [`Kind::Unavailable`].
    pub async fn close(&self) {
        self.0.readers.close().await;
        self.0.writer.close().await;
        // Whoever waits for a job to be called off looks again, and finds the database closed.
        self.0.cancelled.send_modify(|n| *n = n.wrapping_add(1));
    }

    pub(crate) fn readers(&self) -> &DbPool {
        &self.0.readers
    }
    /// A change of several statements: all of it, or nothing.
    pub(crate) async fn write<T, F>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Db) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        self.0.writer.write(false, Box::new(change), None).await
    }
    /// As [`write`](Self::write); `after` is called once it is durable, even when nobody waits for the answer any more.
    pub(crate) async fn write_then<T, F>(
        &self,
        change: F,
        after: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Db) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        self.0.writer.write(false, Box::new(change), Some(Box::new(after))).await
    }
    /// A change of one statement.
    pub(crate) async fn write_one<T, F>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Db) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        self.0.writer.write(true, Box::new(change), None).await
    }
    /// Sends a change and does not wait for it.
    pub(crate) fn post<T, F>(&self, change: F, after: impl FnOnce(&T) + Send + 'static) -> Result<()>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Db) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        self.0.writer.post(false, Box::new(change), Some(Box::new(after)))
    }
    /// Tells the workers that a claim might find something.
    pub(crate) fn wake(&self) {
        self.0.submitted.send_modify(|n| *n = n.wrapping_add(1));
    }
}

/// Takes `<db>.lock`. Two daemons on one SQLite file would each think that they are alone.
fn lock(path: &Path) -> Result<std::fs::File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let shown = name.display();
    let failed = |e: std::io::Error| Error::caused(Kind::Unavailable, format!("locking {shown}"), e);
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&name)
        .map_err(failed)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            let _ = Read::by_ref(&mut file).take(32).read_to_string(&mut holder);
            let holder = match holder.trim().parse::<u32>() {
                Ok(pid) => format!("process {pid}"),
                Err(_) => "another process".into(),
            };
            let path = path.display();
            return Err(Error::new(
                Kind::Busy,
                format!("{holder} has the database {path} open; one SQLite database serves one vcld"),
            ));
        }
        Err(e) => return Err(failed(e.into())),
    }
    // The number is for people. A full disk must not keep the daemon from starting.
    let _ = file.set_len(0);
    let _ = file.rewind();
    let _ = writeln!(file, "{}", std::process::id());
    Ok(file)
}

/// Reads the whole file once: damage is to show now, not in the middle of a job.
async fn check(db: &mut Db) -> Result<()> {
    let found: String = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(db).await?;
    if found == "ok" { Ok(()) } else { Err(Error::caused(Kind::Corrupt, "the database is damaged", found)) }
}

fn way_out(error: Error, path: &str) -> Error {
    if error.kind == Kind::Newer {
        return error;
    }
    let what = match error.kind {
        Kind::Corrupt => format!(
            "opening the database {path}: it is damaged or not a database of vcld; put back a copy, or move it (with \
             its -wal and -shm files) away and start anew: computers come from the configuration and images from \
             their manifests, jobs and events are lost"
        ),
        _ => format!("opening the database {path}"),
    };
    Error::caused(error.kind, what, error)
}

/// Now, as the database stores it.
pub(crate) fn now() -> i64 {
    Utc::now().timestamp_millis()
}
/// A time as the database stores it.
pub(crate) fn time(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(millis).unwrap_or_default()
}
/// A column that is a word or a name with rules of its own.
pub(crate) fn parsed<T>(row: &DbRow, column: &'static str) -> Result<T>
where
    T: std::str::FromStr,
    T::Err: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let text: &str = row.try_get(column)?;
    text.parse().map_err(|e: T::Err| Error::corrupt(format!("a `{column}`"), e))
}
/// The same for one that may be null.
pub(crate) fn parsed_or_null<T>(row: &DbRow, column: &'static str) -> Result<Option<T>>
where
    T: std::str::FromStr,
    T::Err: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let text: Option<&str> = row.try_get(column)?;
    text.map(|t| t.parse().map_err(|e: T::Err| Error::corrupt(format!("a `{column}`"), e))).transpose()
}
/// A column of JSON.
pub(crate) fn json<T: serde::de::DeserializeOwned>(row: &DbRow, column: &'static str) -> Result<T> {
    let text: &str = row.try_get(column)?;
    serde_json::from_str(text).map_err(|e| Error::corrupt(format!("a `{column}`"), e))
}
/// A value as JSON for a column.
pub(crate) fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::caused(Kind::Refused, "writing a value as JSON", e))
}
