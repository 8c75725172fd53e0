//! [`Queue`], the handle that everything else hangs on: opened on a file or on a server, closed; how one writes and reads.

use crate::engine::{Engine, Trouble};
use crate::mariadb::{self, MariaDb};
use crate::migrate::{Migration, migrate_server, migrations};
use crate::nearby::Nearby;
use crate::running::Running;
use crate::server::Server;
use crate::writer::{Change, Home, Writer};
use crate::{Error, Kind, Result, sqlite};
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use sqlx::Row;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use vcl_types::JobId;
use vcl_types::api::{Progress, StreamItem};

/// A connection of the engine. One name for it, so that what is asked of it is written once for all engines.
pub(crate) type Db = sqlx::AnyConnection;
/// A row of its answer.
pub(crate) type DbRow = sqlx::any::AnyRow;
/// Connections that read.
pub(crate) type DbPool = sqlx::AnyPool;

/// How many stream items a slow subscriber may be behind before it misses some.
const STREAM: usize = 1024;

/// The queue. A handle: clones share one database.
#[derive(Clone)]
pub struct Queue(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) writer: Writer,
    readers: DbPool,
    engine: Engine,
    /// How long a reader waits for a server that is away.
    patience: Duration,
    /// The file's path or the server's URL.
    pub(crate) name: String,
    /// Changes whenever a claim might find something.
    pub(crate) submitted: watch::Sender<u64>,
    /// Changes whenever a job that runs is called off.
    pub(crate) cancelled: watch::Sender<u64>,
    pub(crate) stream: broadcast::Sender<StreamItem>,
    /// How far the steps under way are.
    pub(crate) progress: Mutex<HashMap<JobId, HashMap<String, Progress>>>,
    /// What other nodes do.
    pub(crate) nearby: Nearby,
    /// Which claims are known to be good.
    pub(crate) running: Running,
    /// What tests have called around each change that a step makes.
    #[cfg(feature = "testing")]
    pub(crate) hook: Mutex<Option<crate::testing::Hook>>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("database", &self.0.name).finish_non_exhaustive()
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
        Self::open_with(path.as_ref(), migrations()).await
    }

    pub(crate) async fn open_with(path: &Path, migrations: &'static [Migration]) -> Result<Self> {
        let sqlite::Opened { db, readers, lock } = sqlite::open(path, migrations).await?;
        let name = path.display().to_string();
        Ok(Self::new(Home::File { db, lock }, readers, Engine::Sqlite, Duration::ZERO, name))
    }

    /// Connects to a database on a MariaDB or MySQL server, which several processes may do at the same time, and brings
    /// its schema up to date. Must be called inside a tokio runtime; the writer runs in it.
    ///
    /// While the server is away, whoever writes waits for up to [`MariaDb::patience`], and everything that was answered
    /// before is there when it comes back.
    ///
    /// # Errors
    /// [`Kind::Refused`] for a URL that is none, or a server that is too old (MariaDB before 10.6, MySQL before 8.0.1);
    /// [`Kind::Newer`] when a newer vcld has written the database and this one cannot work with it;
    /// [`Kind::Unavailable`] when the server cannot be reached or does not let the user in.
    pub async fn connect(database: &MariaDb) -> Result<Self> {
        Self::connect_with(database, migrations()).await
    }

    pub(crate) async fn connect_with(database: &MariaDb, migrations: &'static [Migration]) -> Result<Self> {
        let options = database.options()?;
        let (mut db, collation) = mariadb::first(&options, &database.url).await?;
        migrate_server(&mut db, &database.url, collation, migrations).await?;
        let server = Server::new(db, options.clone(), database.patience).await?;
        let readers = mariadb::readers(options, database.patience);
        let (patience, name) = (database.patience, database.url.clone());
        let writer = server.id();
        let queue = Self::new(Home::Server(Box::new(server)), readers, Engine::MariaDb, patience, name);
        queue.watch_others(writer);
        Ok(queue)
    }

    fn new(home: Home, readers: DbPool, engine: Engine, patience: Duration, name: String) -> Self {
        Self(Arc::new(Inner {
            writer: Writer::start(home),
            readers,
            engine,
            patience,
            name,
            submitted: watch::Sender::new(0),
            cancelled: watch::Sender::new(0),
            stream: broadcast::Sender::new(STREAM),
            progress: Mutex::default(),
            nearby: Nearby::default(),
            running: Running::new(engine == Engine::Sqlite),
            #[cfg(feature = "testing")]
            hook: Mutex::default(),
        }))
    }

    /// Which engine keeps the database.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.0.engine
    }

    /// Waits until all that was sent is written, then closes the database and lets another process have it. Whatever is
    /// asked of the queue afterwards is [`Kind::Unavailable`].
    pub async fn close(&self) {
        self.0.nearby.stop();
        self.0.readers.close().await;
        self.0.writer.close().await;
        // Whoever waits for a job to be called off looks again, and finds the database closed.
        self.0.cancelled.send_modify(|n| *n = n.wrapping_add(1));
    }

    pub(crate) fn readers(&self) -> &DbPool {
        &self.0.readers
    }
    /// Asks a reading connection, and asks again while a server is away, for as long as the database's patience lasts.
    pub(crate) async fn read<T, F>(&self, ask: F) -> Result<T>
    where
        F: for<'c> Fn(&'c mut Db) -> BoxFuture<'c, Result<T>>,
    {
        let until = tokio::time::Instant::now() + self.0.patience;
        loop {
            let asked = async { ask(&mut *self.0.readers.acquire().await?).await };
            match asked.await {
                Err(e) if matches!(Trouble::of(&e), Trouble::Lost | Trouble::Again) => {
                    if self.0.readers.is_closed() || tokio::time::Instant::now() >= until {
                        return Err(e);
                    }
                    // why: a server tells nobody when it is back
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                answer => return answer,
            }
        }
    }
    /// A change of several statements: all of it, or nothing. It may run several times, from the start, until one run of it is
    /// committed: it changes nothing but the database.
    pub(crate) async fn write<T, F>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: Change<T>,
    {
        Box::pin(self.write_map(change, |value| value)).await
    }
    /// A change, with what a test wants around it.
    #[cfg(feature = "testing")]
    async fn around<T>(&self, change: impl Future<Output = Result<T>>) -> Result<T> {
        use crate::testing::Moment;
        self.told(Moment::Before).await?;
        let done = change.await?;
        self.told(Moment::After).await?;
        Ok(done)
    }
    #[cfg(not(feature = "testing"))]
    async fn around<T>(&self, change: impl Future<Output = Result<T>>) -> Result<T> {
        change.await
    }
    /// As [`write`](Self::write); `after` is called once it is durable, even when nobody waits for the answer any more.
    pub(crate) async fn write_then<T, F>(
        &self,
        change: F,
        after: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Change<T>,
    {
        Box::pin(self.write_map(change, |value| {
            after(&value);
            value
        }))
        .await
    }
    /// As [`write`](Self::write); what `after` makes of the outcome once that is durable is the answer. When nobody
    /// waits for it any more it is made and dropped.
    pub(crate) async fn write_map<T, U, F>(
        &self,
        change: F,
        after: impl FnOnce(T) -> U + Send + 'static,
    ) -> Result<U>
    where
        T: Send + 'static,
        U: Send + 'static,
        F: Change<T>,
    {
        let queue = self.clone();
        let after = move |value| {
            queue.0.running.forget();
            after(value)
        };
        // On the heap: it lies under whatever a job does, many calls deep.
        Box::pin(self.around(self.0.writer.write(false, change, after))).await
    }
    /// As [`write_map`](Self::write_map), for a change that is known to end no claim, or whose `after` says which
    /// (see `running`).
    pub(crate) async fn write_beside<T, U, F>(
        &self,
        change: F,
        after: impl FnOnce(T) -> U + Send + 'static,
    ) -> Result<U>
    where
        T: Send + 'static,
        U: Send + 'static,
        F: Change<T>,
    {
        Box::pin(self.around(self.0.writer.write(false, change, after))).await
    }
    /// A change of one statement that goes before all others, and ends no claim.
    pub(crate) async fn write_first<T, F>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: Change<T>,
    {
        self.0.writer.write_first(change).await
    }
    /// Sends a change and does not wait for it.
    pub(crate) fn post<T, F>(&self, change: F, after: impl FnOnce(&T) + Send + 'static) -> Result<()>
    where
        T: Send + 'static,
        F: Change<T>,
    {
        let queue = self.clone();
        self.0.writer.post(false, change, move |value: T| {
            queue.0.running.forget();
            after(&value);
        })
    }
    /// As [`post`](Self::post), for a change of one statement that ends no claim.
    pub(crate) fn post_one<T, F>(&self, change: F, after: impl FnOnce(&T) + Send + 'static) -> Result<()>
    where
        T: Send + 'static,
        F: Change<T>,
    {
        self.0.writer.post(true, change, move |value: T| after(&value))
    }
    /// Tells the workers that a claim might find something.
    pub(crate) fn wake(&self) {
        self.0.submitted.send_modify(|n| *n = n.wrapping_add(1));
    }
}

/// Now, as the database stores it.
pub(crate) fn now() -> i64 {
    Utc::now().timestamp_millis()
}
/// A time, as the database stores it.
pub(crate) fn millis(at: DateTime<Utc>) -> i64 {
    at.timestamp_millis()
}
/// So many seconds, as the database stores them.
pub(crate) fn seconds(s: u64) -> i64 {
    i64::try_from(s).unwrap_or(i64::MAX)
}
/// What the database stores as a time.
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
