//! Connecting to a MariaDB or MySQL server: what it has to be, and what every session is set to.

use crate::database::{Db, DbPool};
use crate::engine::{Trouble, mysql_code};
use crate::{Error, Kind, Result};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use std::time::Duration;
use vcl_types::Secret;

/// How many connections read at the same time.
const READERS: u32 = 8;
/// How long a server may take to take a connection.
const CONNECTING: Duration = Duration::from_secs(10);
/// Seconds for which a writer may send nothing in the middle of a transaction.
const STANDING: u32 = 5;

/// What every session is set to. A row lock is waited for ten seconds; names compare byte by byte; what does not fit a
/// column is an error; each statement sees what others have committed.
const SESSION: &str = "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,PIPES_AS_CONCAT,\
    ERROR_FOR_DIVISION_BY_ZERO'; SET NAMES utf8mb4 COLLATE utf8mb4_bin; \
    SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
    SET SESSION autocommit = 1, innodb_lock_wait_timeout = 10, lock_wait_timeout = 60, wait_timeout = 3600";

/// A database on a MariaDB or MySQL server.
#[derive(Debug, Clone)]
pub struct MariaDb {
    /// `mysql://user@host:port/database`, without a password. After a `?`, separated by `&`: `socket=/path` connects
    /// through a Unix socket (the host is then only a name); `ssl-mode` is `disabled`, `preferred` (the default),
    /// `required`, `verify_ca` or `verify_identity`; `ssl-ca`, `ssl-cert` and `ssl-key` name files in PEM form.
    pub url: String,
    /// The user's password. It is sent to the server and shown nowhere.
    pub password: Option<Secret>,
    /// For how long whoever asks something of the queue waits while the server is away, before the answer is
    /// [`Kind::Unavailable`].
    pub patience: Duration,
}

impl MariaDb {
    /// A database with no password and a patience of two minutes.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), password: None, patience: Duration::from_secs(120) }
    }
    /// The same with a password.
    #[must_use]
    pub fn password(mut self, password: Option<Secret>) -> Self {
        self.password = password;
        self
    }

    pub(crate) fn options(&self) -> Result<AnyConnectOptions> {
        sqlx::any::install_default_drivers();
        let refused = |why: String| Err(Error::new(Kind::Refused, why));
        let Ok(mut options) = self.url.parse::<AnyConnectOptions>() else {
            // The parser's words may repeat what it could not read.
            return refused("the database's URL cannot be read; write mysql://user@host/database".into());
        };
        let url = &mut options.database_url;
        if url.password().is_some() {
            return refused("the database's URL holds a password; give it as a credential instead".into());
        }
        if !["mysql", "mariadb"].contains(&url.scheme()) {
            return refused(format!("`{}` is not a MariaDB; write mysql://user@host/database", self.url));
        }
        if url.path().trim_matches('/').is_empty() {
            return refused(format!("`{}` names no database; write mysql://user@host/database", self.url));
        }
        if let Some(password) = &self.password
            && url.set_password(Some(password.expose())).is_err()
        {
            return refused(format!("`{}` has no host; write mysql://user@host/database", self.url));
        }
        Ok(options.disable_statement_logging())
    }
}

/// A new connection, set as it should be.
pub(crate) async fn connect(options: &AnyConnectOptions) -> sqlx::Result<Db> {
    let connecting = async {
        let mut db = options.connect().await?;
        sqlx::raw_sql(SESSION).execute(&mut db).await?;
        Ok(db)
    };
    tokio::time::timeout(CONNECTING, connecting).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// Makes a connection one that writes. A node that stands still in the middle of a transaction would keep all others from
/// what it has locked for as long as it stands: the server ends such a session. What it had not committed is undone, and
/// made again when the node goes on, if its lease lets it.
pub(crate) async fn to_write(db: &mut Db) -> sqlx::Result<()> {
    let setting = async {
        let version: String = sqlx::query_scalar("SELECT VERSION()").fetch_one(&mut *db).await?;
        // MySQL cannot tell a session that stands in a transaction from one that has nothing to do. A node with a lease
        // has something to write more often than this; another connects again.
        let limit = match version.contains("MariaDB") {
            true => format!("SET SESSION idle_transaction_timeout = {STANDING}"),
            false => format!("SET SESSION wait_timeout = {}", 6 * STANDING),
        };
        sqlx::raw_sql(AssertSqlSafe(limit)).execute(&mut *db).await
    };
    tokio::time::timeout(CONNECTING, setting).await.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map(|_| ())
}

/// Connections that read.
pub(crate) fn readers(options: AnyConnectOptions, patience: Duration) -> DbPool {
    AnyPoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(patience.min(Duration::from_secs(30)))
        .after_connect(|db, _| {
            Box::pin(async move {
                sqlx::raw_sql(SESSION).execute(db).await?;
                Ok(())
            })
        })
        .connect_lazy_with(options)
}

/// The first connection: the server is one that this program can use. Answers the collation that tables are made with.
pub(crate) async fn first(options: &AnyConnectOptions, url: &str) -> Result<(Db, &'static str)> {
    let mut db = connect(options).await.map_err(|e| way_out(e, url))?;
    let version: String = sqlx::query_scalar("SELECT VERSION()").fetch_one(&mut db).await?;
    match collation(&version) {
        Some(collation) => Ok((db, collation)),
        None => {
            let _ = db.close().await;
            Err(Error::new(
                Kind::Refused,
                format!(
                    "the server at {url} is {version}; vcld needs MariaDB 10.6 or newer, or MySQL 8.0.1 or newer, for \
                     SELECT … FOR UPDATE SKIP LOCKED"
                ),
            ))
        }
    }
}

fn way_out(error: sqlx::Error, url: &str) -> Error {
    let code = error.as_database_error().and_then(mysql_code);
    let why = match code {
        Some(1045 | 1698) => ": the server does not let this user in; look at [database] url and password",
        Some(1044 | 1142) => ": this user may not use this database; GRANT ALL ON it",
        Some(1049) => ": there is no such database; CREATE DATABASE makes it, vcld makes the tables",
        _ => "",
    };
    Error::caused(Kind::Unavailable, format!("opening the database {url}{why}"), error)
}

/// A collation that compares bytes and does not overlook spaces at the end, as this server calls it; `None` when the server
/// is too old.
fn collation(version: &str) -> Option<&'static str> {
    let mariadb = version.contains("MariaDB");
    // Some servers put a prefix of old before their version, for the sake of old clients.
    let version = version.strip_prefix("5.5.5-").unwrap_or(version);
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0);
    let version = (part(), part(), part());
    match mariadb {
        true if version >= (10, 6, 0) => Some("utf8mb4_nopad_bin"),
        false if version >= (8, 0, 17) => Some("utf8mb4_0900_bin"),
        false if version >= (8, 0, 1) => Some("utf8mb4_bin"),
        _ => None,
    }
}

/// This connection's number on the server.
pub(crate) async fn thread(db: &mut Db) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT CAST(CONNECTION_ID() AS SIGNED)").fetch_one(db).await
}

/// Ends another session of ours, which may still hold locks or be in the middle of a COMMIT.
pub(crate) async fn end(db: &mut Db, thread: i64) -> sqlx::Result<()> {
    let killed = sqlx::raw_sql(AssertSqlSafe(format!("KILL CONNECTION {thread}"))).execute(db).await;
    match killed {
        Err(e) if Trouble::of_sqlx(&e) == Trouble::Lost => Err(e),
        // It is gone already, or its number is another's now, whom we may not touch.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_without_skip_locked_are_told_apart() {
        for (version, good) in [
            ("10.11.19-MariaDB-0+deb12u1", true),
            ("10.6.0-MariaDB", true),
            ("5.5.5-10.6.12-MariaDB-log", true),
            ("10.5.21-MariaDB", false),
            ("5.5.5-10.3.39-MariaDB", false),
            ("11.4.2-MariaDB", true),
            ("8.0.36", true),
            ("8.4.0-commercial", true),
            ("8.0.1-dmr", true),
            ("8.0.0-dmr", false),
            ("5.7.44-log", false),
            ("", false),
        ] {
            assert_eq!(collation(version).is_some(), good, "{version}");
        }
    }

    #[test]
    fn a_url_is_refused_without_showing_what_may_be_a_password() {
        for (url, part) in [
            ("mysql://vcl:hunter2@db1/vcl", "holds a password"),
            ("postgres://db1/vcl", "not a MariaDB"),
            ("mysql://vcl@db1", "names no database"),
            ("hunter2", "cannot be read"),
        ] {
            let error = MariaDb::new(url).options().err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(part) && !error.contains("hunter2"), "{url}: {error}");
        }
        let secret = MariaDb::new("mysql://vcl@db1/vcl").password(Some(Secret::new("hunter2".into())));
        assert!(!format!("{secret:?}").contains("hunter2"));
    }
}
