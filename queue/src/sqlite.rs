//! Opening a SQLite file: its lock, its settings, the look for damage.

use crate::database::{Db, DbPool};
use crate::migrate::{Migration, migrate_file};
use crate::{Error, Kind, Result};
use sqlx::ConnectOptions;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How many connections read at the same time.
const READERS: u32 = 4;

/// What every connection is set to. It waits five seconds for another program's lock (an operator's `sqlite3`, a
/// backup) before it gives up; what a long batch has made of the write-ahead log is given back.
const SETTINGS: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
    PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; \
    PRAGMA journal_size_limit = 67108864;";
/// And one that reads.
const READS: &str = "PRAGMA query_only = ON;";

/// An open file: who writes to it, who reads it, and the lock that keeps other processes out.
pub(crate) struct Opened {
    pub(crate) db: Db,
    pub(crate) readers: DbPool,
    pub(crate) lock: std::fs::File,
}

pub(crate) async fn open(path: &Path, migrations: &'static [Migration]) -> Result<Opened> {
    sqlx::any::install_default_drivers();
    let shown = path.display().to_string();
    let lock = lock(path).await?;
    let unusable =
        |e: std::io::Error| Error::caused(Kind::Unavailable, format!("opening the database {shown}"), e);
    std::fs::OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(unusable)?;
    let options = options(&path.canonicalize().map_err(unusable)?)?;
    let opened = async {
        let mut db = options.connect().await?;
        sqlx::raw_sql(SETTINGS).execute(&mut db).await?;
        check(&mut db).await?;
        migrate_file(&mut db, path, migrations).await?;
        Ok::<_, Error>(db)
    };
    let db = opened.await.map_err(|e| way_out(e, &shown))?;
    let readers = AnyPoolOptions::new()
        .max_connections(READERS)
        // A file does not go away behind a connection as a server does: asking each time whether it is there costs as
        // much as the question itself.
        .test_before_acquire(false)
        .acquire_timeout(Duration::from_secs(30))
        .after_connect(|db, _| {
            Box::pin(async move {
                sqlx::raw_sql(SETTINGS).execute(&mut *db).await?;
                sqlx::raw_sql(READS).execute(db).await?;
                Ok(())
            })
        })
        .connect_lazy_with(options);
    Ok(Opened { db, readers, lock })
}

fn options(path: &Path) -> Result<AnyConnectOptions> {
    let Some(text) = path.to_str() else {
        return Err(Error::new(Kind::Unavailable, format!("the path {} is not UTF-8", path.display())));
    };
    let mut options: AnyConnectOptions = "sqlite:///?mode=rw".parse()?;
    // The URL's own encoding leaves a percent sign as it is, and reading it does not.
    options.database_url.set_path(&text.replace('%', "%25"));
    Ok(options.disable_statement_logging())
}

/// For how long a lock that somebody has is tried for: so many times, so far apart.
const TRIES: u32 = 25;
const TRY: Duration = Duration::from_millis(20);

/// Takes `<db>.lock`. Two daemons on one SQLite file would each think that they are alone.
async fn lock(path: &Path) -> Result<std::fs::File> {
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
    let mut tries = TRIES;
    let taken = loop {
        let taken = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
        if taken != Err(rustix::io::Errno::WOULDBLOCK) || tries == 0 {
            break taken;
        }
        tries -= 1;
        // why: a child that has not begun its program yet has the lock of whoever started it, and nothing tells when it does
        tokio::time::sleep(TRY).await;
    };
    match taken {
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::lock;
    use std::process::{Command, Stdio};

    /// As a child has it between the fork and its program.
    #[tokio::test]
    async fn a_lock_that_a_child_has_for_a_moment_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vcl.db");
        let held = lock(&path).await.unwrap();
        // It has the lock as its output, and ends with its input.
        let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::from(held)).spawn();
        let mut child = child.unwrap();
        let waits = lock(&path);
        tokio::pin!(waits);
        assert!(futures::poll!(waits.as_mut()).is_pending(), "the child has it");
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
        waits.await.unwrap();
        let _held = lock(&path).await.unwrap();
        let refused = lock(&path).await.unwrap_err().context;
        assert!(refused.contains("one SQLite database serves one vcld"), "{refused}");
    }
}
