//! The connection to a guest, as OS modules see it.
//!
//! The daemon owns one pool of connections ([`Remotes`]); OS modules are stateless and get a [`Remote`] from it for
//! each thing they do. The real one is over ssh2 (feature `ssh`); tests use a mock.

use crate::Result;
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vcl_types::{Endpoint, HostKey};

/// A command to be run on a guest.
#[derive(Debug, Clone)]
pub struct Command {
    /// The command line, read by the login shell of the account: `sh -s`, for a script on standard input.
    pub line: String,
    /// What it gets on standard input.
    pub input: Vec<u8>,
    /// How long it may take. Past it the channel is closed and the error is a deadline.
    pub limit: Duration,
    /// How many bytes of its output are kept, for each of stdout and stderr; the rest is read and dropped.
    pub keep: usize,
    /// Ends the wait at once when it fires.
    pub cancel: CancellationToken,
}

impl Command {
    /// A command line without input, a minute, and at most a mebibyte of output.
    pub fn new(line: impl Into<String>) -> Self {
        Self {
            line: line.into(),
            input: Vec::new(),
            limit: Duration::from_secs(60),
            keep: 1024 * 1024,
            cancel: CancellationToken::new(),
        }
    }
    /// With this on standard input.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }
    /// With this much time.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
    /// Given up when this fires.
    #[must_use]
    pub fn cancel(mut self, cancel: &CancellationToken) -> Self {
        self.cancel = cancel.clone();
        self
    }
}

/// What a command left behind. All of it is untrusted: a guest's user may have replaced any program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; 128 and more for a signal.
    pub status: i32,
    /// Its standard output, cut to what was to be kept.
    pub stdout: Vec<u8>,
    /// Its standard error, likewise.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text, with what is no UTF-8 replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// One connection to one guest.
#[async_trait]
pub trait Remote: Send + Sync {
    /// Runs a command to its end. An exit status other than 0 is not an error here.
    ///
    /// # Errors
    /// The connection broke, the limit passed, or the command was given up.
    async fn run(&self, command: Command) -> Result<Output>;
    /// Writes a file whole, by way of a temporary name beside it, with these permission bits.
    ///
    /// # Errors
    /// As [`run`](Self::run); and `CommandFailed` when the guest cannot write it.
    async fn put(&self, path: &str, content: &[u8], mode: u32) -> Result<()>;
    /// The key that the guest's ssh server showed when this connection was made.
    fn host_key(&self) -> HostKey;
}

/// Where connections come from: the daemon's pool.
#[async_trait]
pub trait Remotes: Send + Sync {
    /// A connection to that endpoint: an open one, or a new one made within `limit`. The server must show one of the
    /// endpoint's host keys; when it has none, the first key is taken and [`Remote::host_key`] tells it.
    ///
    /// # Errors
    /// `NoRoute`, `Refused`, `Handshake`, `HostKeyChanged`, `LoginRefused`, `Deadline` or `Cancelled`: each its own
    /// kind, because each has another way out.
    async fn connect(
        &self,
        endpoint: &Endpoint,
        limit: Duration,
        cancel: &CancellationToken,
    ) -> Result<Arc<dyn Remote>>;
    /// Closes what is open to that endpoint: its machine has gone away or will.
    async fn forget(&self, endpoint: &Endpoint);
}
