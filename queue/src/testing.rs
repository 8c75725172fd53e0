//! For tests only, behind the feature `testing`: a private MariaDB, and the schema of a next version.

use crate::mariadb::MariaDb;
use crate::migrate::next_migrations;
use crate::{Queue, Result};
use futures::future::BoxFuture;
use sqlx::{AssertSqlSafe, Connection};
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use vcl_types::Secret;

/// Set to `next`, this program is the next version of itself: it has one more migration, which adds a nullable column and a
/// table, and can share its database with the present version.
pub const SCHEMA: &str = "VCL_TESTING_SCHEMA";

pub(crate) fn is_next() -> bool {
    std::env::var_os(SCHEMA).is_some_and(|v| v == "next")
}

/// Whether a change is about to be made or is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Nothing has been sent.
    Before,
    /// It is in the database.
    After,
}

/// Called around each change that a step of a job makes, in the step's own task. An error before it keeps it from being
/// made; one after it is its answer although it was made. Writes of the journal are not changes in this sense: they
/// have a [`Journal`](vcl_job::Journal) to be wrapped.
pub type Hook = Arc<dyn Fn(Moment) -> BoxFuture<'static, Result<()>> + Send + Sync>;

impl Queue {
    /// Has this called around each change of a step, in place of what was called before.
    pub fn on_change(&self, hook: Hook) {
        *self.0.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some(hook);
    }
    /// How many jobs are not over and not stuck.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn jobs_under_way(&self) -> Result<u32> {
        let count = sqlx::query_scalar::<_, i64>(
            "SELECT COUNT(*) FROM jobs WHERE state IN ('queued', 'waiting', 'running')",
        );
        Ok(u32::try_from(count.fetch_one(self.readers()).await?).unwrap_or(u32::MAX))
    }
    pub(crate) async fn told(&self, moment: Moment) -> Result<()> {
        if vcl_job::doing().is_none() {
            return Ok(());
        }
        let hook = self.0.hook.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match hook {
            Some(hook) => hook(moment).await,
            None => Ok(()),
        }
    }
}

/// [`Queue::open`] as the next version does it.
///
/// # Errors
/// As [`Queue::open`].
pub async fn open_next(path: impl AsRef<Path>) -> Result<Queue> {
    Queue::open_with(path.as_ref(), next_migrations()).await
}

/// [`Queue::connect`] as the next version does it.
///
/// # Errors
/// As [`Queue::connect`].
pub async fn connect_next(database: &MariaDb) -> Result<Queue> {
    Queue::connect_with(database, next_migrations()).await
}

/// Runs the server until its own standard input ends, which it does whatever becomes of the process at its other end.
const KEEPER: &str = r#"dir=$1 log=$2; shift 2
"$@" </dev/null >>"$log" 2>&1 & server=$!
echo $server
read -r what || what=remove
kill -9 $server 2>/dev/null; wait $server
[ "$what" = keep ] || rm -rf "$dir""#;

const USER: &str = "vcl";
/// With what has to be encoded in a URL.
const PASSWORD: &str = "p@ss/w%rd?";

/// A MariaDB server with a directory of its own, on a Unix socket and a port of 127.0.0.1. It ends with this value or with
/// this process, however that ends, and its directory goes with it.
#[derive(Debug)]
pub struct MariaDbServer {
    dir: std::path::PathBuf,
    port: u16,
    running: Mutex<Option<Running>>,
    databases: AtomicU32,
}

#[derive(Debug)]
struct Running {
    keeper: Child,
    server: u32,
}

impl MariaDbServer {
    /// Makes one and starts it. It takes a few seconds, and blocks.
    ///
    /// # Errors
    /// When MariaDB is not installed, naming the package; when it does not start, with the end of its log.
    pub fn start() -> io::Result<Self> {
        Self::start_in(&std::env::temp_dir())
    }

    /// The same with its directory in that one: on another file system than temporary files are.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_in(place: &Path) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("vcl-mariadb-").tempdir_in(place)?.keep();
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let server = Self { dir, port, running: Mutex::default(), databases: AtomicU32::new(0) };
        let data = server.dir.join("data");
        let mut install = command("mariadb-install-db")?;
        install
            .arg("--no-defaults")
            // Servers that begin at the same time take each other's temporary tables for their own.
            .env("TMPDIR", &server.dir)
            .arg(format!("--datadir={}", data.display()))
            .args(["--skip-test-db", "--auth-root-authentication-method=normal"])
            .args(["--innodb-log-file-size=8M", "--innodb-flush-log-at-trx-commit=0"])
            .args(as_root())
            .stdin(Stdio::null());
        let output = install.output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(io::Error::other(format!("mariadb-install-db failed: {said}")));
        }
        let init = format!(
            "CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON *.* TO '{USER}'@'%';\n\
             CREATE USER IF NOT EXISTS '{USER}'@'localhost' IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON *.* TO \
             '{USER}'@'localhost';\n"
        );
        std::fs::write(server.dir.join("init.sql"), init)?;
        server.start_again()?;
        Ok(server)
    }

    /// The one of this process, started when it is first asked for. When the process ends it goes.
    ///
    /// # Panics
    /// When it cannot be started, naming the package to install.
    pub fn shared() -> &'static Self {
        static SHARED: std::sync::OnceLock<MariaDbServer> = std::sync::OnceLock::new();
        SHARED.get_or_init(|| match Self::start() {
            Ok(server) => server,
            Err(e) => panic!("the tests need a MariaDB server: {e}"),
        })
    }

    /// Starts it again after [`kill`](Self::kill): the same directory, port and socket. Blocks until it takes connections.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_again(&self) -> io::Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_some() {
            return Ok(());
        }
        let log = self.dir.join("log");
        let mariadbd = command("mariadbd")?.get_program().to_owned();
        let mut keeper = Command::new("sh")
            .env("TMPDIR", &self.dir)
            .args(["-c", KEEPER, "sh"])
            .arg(&self.dir)
            .arg(&log)
            .arg(mariadbd)
            .arg("--no-defaults")
            .arg(format!("--datadir={}", self.dir.join("data").display()))
            .arg(format!("--socket={}", self.socket()))
            .arg(format!("--port={}", self.port))
            .arg(format!("--init-file={}", self.dir.join("init.sql").display()))
            .args([
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                "--skip-log-bin",
                "--performance-schema=OFF",
            ])
            .args(["--innodb-flush-log-at-trx-commit=1", "--innodb-buffer-pool-size=32M"])
            .args(["--innodb-log-file-size=8M", "--max-connections=600", "--table-open-cache=2000"])
            .args(as_root())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // The shell says whom it has killed.
            .stderr(Stdio::null())
            .spawn()?;
        let mut pid = String::new();
        if let Some(stdout) = keeper.stdout.take() {
            BufReader::new(stdout).read_line(&mut pid)?;
        }
        let server = pid.trim().parse().map_err(io::Error::other)?;
        let mut starting = Running { keeper, server };
        let until = Instant::now() + Duration::from_secs(60);
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            let ended = !Path::new(&format!("/proc/{server}/exe")).exists();
            if ended || Instant::now() > until {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                let end: Vec<&str> = said.lines().rev().take(12).collect();
                let end: Vec<&str> = end.into_iter().rev().collect();
                let _ = starting.keeper.kill();
                return Err(io::Error::other(format!("mariadbd did not start:\n{}", end.join("\n"))));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        *running = Some(starting);
        Ok(())
    }

    /// Ends it with SIGKILL, and blocks until it is gone.
    pub fn kill(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut running) = running else { return };
        if let Some(mut stdin) = running.keeper.stdin.take() {
            let _ = stdin.write_all(b"keep\n");
        }
        let _ = running.keeper.wait();
    }

    /// The server's process, for signals; `None` when it is not running.
    pub fn pid(&self) -> Option<u32> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|r| r.server)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its Unix socket.
    pub fn socket(&self) -> String {
        self.dir.join("socket").display().to_string()
    }

    /// The password of the user `vcl`, who may do anything.
    pub fn password() -> Secret {
        Secret::new(PASSWORD.to_owned())
    }

    /// Makes an empty database of a name of its own, reached over TCP.
    ///
    /// # Panics
    /// When the server does not make it.
    pub async fn database(&self) -> MariaDb {
        let name = format!("vcl{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let made = self.sql(&format!("CREATE DATABASE {name}")).await;
        assert!(made.is_ok(), "making a database: {made:?}");
        let url = format!("mysql://{USER}@127.0.0.1:{}/{name}", self.port);
        MariaDb::new(url).password(Some(Self::password()))
    }

    /// Runs SQL as that user, in the database `mysql`.
    ///
    /// # Errors
    /// What the server says.
    pub async fn sql(&self, sql: &str) -> Result<()> {
        let url = format!("mysql://{USER}@localhost/mysql?socket={}", self.socket());
        let database = MariaDb::new(url).password(Some(Self::password()));
        let mut db = crate::mariadb::connect(&database.options()?).await?;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut db).await?;
        db.close().await?;
        Ok(())
    }

    /// How many sessions are in a transaction that has changed or locked something and now run no statement: those of
    /// clients that are between two of them, or stand still.
    ///
    /// # Errors
    /// What the server says.
    pub async fn standing(&self) -> Result<i64> {
        let url = format!("mysql://{USER}@localhost/mysql?socket={}", self.socket());
        let database = MariaDb::new(url).password(Some(Self::password()));
        let mut db = crate::mariadb::connect(&database.options()?).await?;
        let query = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_query IS NULL \
                     AND trx_rows_locked + trx_rows_modified > 0";
        let standing = sqlx::query_scalar(query).fetch_one(&mut db).await?;
        db.close().await?;
        Ok(standing)
    }
}

impl Drop for MariaDbServer {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A program of the package mariadb-server, which is not in everybody's path.
fn command(name: &str) -> io::Result<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/bin".into()])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file());
    found.map(Command::new).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("there is no {name}; install the package mariadb-server (.ci/needs check does)"),
        )
    })
}

fn as_root() -> Option<&'static str> {
    rustix::process::geteuid().is_root().then_some("--user=root")
}
