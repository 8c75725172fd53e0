//! The pool: who has which connection, and who gets the next.

use super::connection::Connection;
use super::key::SshKey;
use super::session::{Failed, accepts};
use crate::shell::quote;
use crate::{Command, Error, ErrorKind, Output, Remote, Remotes, Result};
use async_trait::async_trait;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use vcl_types::{Endpoint, HostKey, HostKeys};

/// The daemon's pool of ssh connections.
///
/// At most 64 are open, each with a thread; one that nobody has used for 60 s is closed. An idle connection is handed
/// out only if the key that its server showed is one of the endpoint's, so two machines that had the same address one
/// after the other are never mixed up.
#[derive(Clone)]
pub struct SshRemotes {
    pool: Arc<Pool>,
}

struct Pool {
    key: SshKey,
    idle: Duration,
    permits: Arc<Semaphore>,
    open: Mutex<Vec<Entry>>,
    logins: AtomicU64,
}

struct Entry {
    address: IpAddr,
    port: u16,
    user: String,
    busy: bool,
    connection: Arc<Connection>,
}

impl Entry {
    fn is_to(&self, to: &Endpoint) -> bool {
        self.address == to.address
            && self.port == to.port
            && self.user == to.user
            && accepts(to, self.connection.host_key())
    }
}

impl SshRemotes {
    /// A pool that logs in with this key.
    #[must_use]
    pub fn new(key: SshKey) -> Self {
        Self::with(key, 64, Duration::from_secs(60))
    }
    /// A pool with at most `most` connections, each closed when nobody has used it for `idle`.
    #[must_use]
    pub fn with(key: SshKey, most: usize, idle: Duration) -> Self {
        let pool = Pool {
            key,
            idle,
            permits: Arc::new(Semaphore::new(most)),
            open: Mutex::default(),
            logins: AtomicU64::new(0),
        };
        Self { pool: Arc::new(pool) }
    }
    /// The key it logs in with.
    #[must_use]
    pub fn key(&self) -> &SshKey {
        &self.pool.key
    }
    /// How many logins it has made, for metrics: commands over pooled connections cost none.
    #[must_use]
    pub fn logins(&self) -> u64 {
        self.pool.logins.load(Ordering::Relaxed)
    }
    /// How many connections are open now, busy and idle.
    #[must_use]
    pub fn open(&self) -> usize {
        self.pool.table().iter().filter(|e| e.connection.is_whole()).count()
    }
}
impl fmt::Debug for SshRemotes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshRemotes").field("key", &self.pool.key).field("open", &self.open()).finish()
    }
}

impl Pool {
    fn table(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn take_idle(&self, to: &Endpoint) -> Option<Arc<Connection>> {
        let mut table = self.table();
        table.retain(|e| e.busy || e.connection.is_whole());
        let entry = table.iter_mut().find(|e| !e.busy && e.is_to(to))?;
        entry.busy = true;
        Some(entry.connection.clone())
    }
    fn give_back(&self, connection: &Arc<Connection>) {
        let mut table = self.table();
        for entry in table.iter_mut().filter(|e| Arc::ptr_eq(&e.connection, connection)) {
            entry.busy = false;
        }
        table.retain(|e| e.busy || e.connection.is_whole());
    }
    async fn permit(
        &self,
        to: &Endpoint,
        until: Instant,
        cancel: &CancellationToken,
    ) -> Result<OwnedSemaphorePermit> {
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            return Ok(permit);
        }
        // All are taken. An idle one to somewhere else is worth less than this one; its thread gives the permit back.
        let idle = self.table().iter().find(|e| !e.busy).map(|e| e.connection.clone());
        if let Some(connection) = idle {
            connection.cut();
            drop(connection);
            self.table().retain(|e| e.busy || e.connection.is_whole());
        }
        tokio::select! {
            biased;
            () = cancel.cancelled() => {
                Err(Error::new(ErrorKind::Cancelled, format!("connecting to {to} was given up")))
            }
            permit = timeout_at(until, self.permits.clone().acquire_owned()) => match permit {
                Ok(Ok(permit)) => Ok(permit),
                Ok(Err(_)) | Err(_) => {
                    let context = format!("no connection to {to} was to be had: as many as may be are in use");
                    Err(Error::new(ErrorKind::Deadline, context))
                }
            }
        }
    }
    async fn open(
        &self,
        to: &Endpoint,
        until: Instant,
        cancel: &CancellationToken,
    ) -> Result<Arc<Connection>> {
        let permit = self.permit(to, until, cancel).await?;
        let connection = Connection::open(to, &self.key, self.idle, until, cancel, permit).await?;
        self.logins.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(connection);
        self.table().push(Entry {
            address: to.address,
            port: to.port,
            user: to.user.clone(),
            busy: true,
            connection: connection.clone(),
        });
        Ok(connection)
    }
}

#[async_trait]
impl Remotes for SshRemotes {
    async fn connect(
        &self,
        endpoint: &Endpoint,
        limit: Duration,
        cancel: &CancellationToken,
    ) -> Result<Arc<dyn Remote>> {
        let connection = match self.pool.take_idle(endpoint) {
            Some(connection) => connection,
            None => self.pool.open(endpoint, Instant::now() + limit, cancel).await?,
        };
        let host_key = connection.host_key().clone();
        // From here on this lease speaks to the server that it has met, also when the endpoint has no keys yet.
        let keys = HostKeys { keys: vec![host_key.clone()], source: endpoint.host_keys.source };
        let endpoint = Endpoint { host_keys: keys, ..endpoint.clone() };
        let held = tokio::sync::Mutex::new(connection);
        Ok(Arc::new(Lease { pool: self.pool.clone(), endpoint, held, host_key }))
    }
    async fn forget(&self, endpoint: &Endpoint) {
        let gone: Vec<_> =
            self.pool.table().iter().filter(|e| e.is_to(endpoint)).map(|e| e.connection.clone()).collect();
        for connection in gone {
            connection.cut();
        }
        self.pool.table().retain(|e| e.busy || e.connection.is_whole());
    }
}

/// A connection that somebody has, until it is dropped.
struct Lease {
    pool: Arc<Pool>,
    endpoint: Endpoint,
    held: tokio::sync::Mutex<Arc<Connection>>,
    host_key: HostKey,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.give_back(self.held.get_mut());
    }
}

#[async_trait]
impl Remote for Lease {
    async fn run(&self, command: Command) -> Result<Output> {
        let until = Instant::now() + command.limit;
        let to = &self.endpoint;
        let mut held = tokio::select! {
            biased;
            () = command.cancel.cancelled() => {
                return Err(Error::new(ErrorKind::Cancelled, format!("the command on {to} was given up")));
            }
            held = timeout_at(until, self.held.lock()) => held.map_err(|_| {
                let context = format!("the connection to {to} was busy for {:?}", command.limit);
                Error::new(ErrorKind::Deadline, context)
            })?,
        };
        let error = match held.run(to, command.clone(), until).await {
            Ok(output) => return Ok(output),
            Err(Failed { sent: false, error }) if error.kind == ErrorKind::Lost => error,
            Err(failed) => return Err(failed.error),
        };
        // It broke while nobody used it and the guest has not seen the command: once more, on a fresh one.
        tracing::debug!(endpoint = %to, %error, "connection was broken, making another");
        let fresh = self.pool.open(to, until, &command.cancel).await?;
        self.pool.give_back(&std::mem::replace(&mut *held, fresh));
        held.run(to, command, until).await.map_err(|failed| failed.error)
    }

    async fn put(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let to = &self.endpoint;
        if path.is_empty() || path.contains('\0') {
            let context = format!("`{}` cannot be the name of a file on {to}", path.escape_debug());
            return Err(Error::new(ErrorKind::CommandFailed, context));
        }
        let limit = Duration::from_secs(60 + content.len() as u64 / (1024 * 1024));
        let command = Command::new(put_line(path, content.len(), mode, unique())).input(content).limit(limit);
        let output = self.run(command).await?;
        if output.status == 0 {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let context = format!("writing `{}` on {to}: {said}", path.escape_debug());
        Err(Error::new(ErrorKind::CommandFailed, context))
    }

    fn host_key(&self) -> HostKey {
        self.host_key.clone()
    }
}

/// A number that no other file of this process, and hardly one of another, has in its name.
fn unique() -> u128 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() ^ u128::from(std::process::id()) << 96
}

/// A connection that breaks half way looks to `cat` like the end of the file, so the length is checked before the file
/// gets its name.
fn put_line(path: &str, length: usize, mode: u32, unique: u128) -> String {
    // A name that begins with a hyphen is no option.
    let path = if path.starts_with('/') { path.to_owned() } else { format!("./{path}") };
    let (directory, _) = path.rsplit_once('/').unwrap_or(("", &path));
    let temporary = quote(&format!("{directory}/.vcld-{unique:x}"));
    let (path, mode) = (quote(&path), mode & 0o7777);
    format!(
        "umask 077; if [ -d {path} ]; then echo 'it is a directory' >&2; exit 1; fi; \
         cat > {temporary} && [ $(wc -c < {temporary}) -eq {length} ] && chmod {mode:04o} {temporary} \
         && mv -f {temporary} {path} || {{ rm -f {temporary}; exit 1; }}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::Stdio;

    /// A connection that breaks half way is the end of the file to the guest.
    #[test]
    fn half_a_file_never_gets_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it's");
        std::fs::write(&path, "old").unwrap();
        for (sent, expected) in [("ne", "old"), ("", "old"), ("new and more", "old"), ("new", "new")] {
            let line = put_line(path.to_str().unwrap(), 3, 0o600, unique());
            let mut child =
                std::process::Command::new("sh").args(["-c", &line]).stdin(Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(sent.as_bytes()).unwrap();
            assert_eq!(child.wait().unwrap().success(), expected == "new", "{sent}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
            assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        }
    }
}
