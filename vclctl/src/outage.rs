//! Waiting for a daemon that restarts. Jobs survive it, so those who watch them wait too.

use crate::error::{Error, Result};
use std::time::Duration;
use tokio::time::Instant;

/// How long a daemon that does not answer is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// In all, counted from the first request that failed.
    pub total: Duration,
    /// Before the second attempt.
    pub first: Duration,
    /// At most between two attempts.
    pub most: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            total: Duration::from_secs(60),
            first: Duration::from_millis(250),
            most: Duration::from_secs(5),
        }
    }
}

/// One stretch of time in which the daemon does not answer, or none.
#[derive(Debug)]
pub(crate) struct Outage {
    patience: Patience,
    since: Option<Instant>,
    pause: Duration,
}

impl Outage {
    pub(crate) fn new(patience: Patience) -> Self {
        Self { patience, since: None, pause: patience.first }
    }
    /// Notes that the daemon answers. Says whether it did not before.
    pub(crate) fn over(&mut self) -> bool {
        self.pause = self.patience.first;
        self.since.take().is_some()
    }
    /// Notes that the daemon does not answer; says whether that is new. Gives the error back when it can
    /// not pass, or when it has been waited for long enough.
    pub(crate) fn begins(&mut self, error: Error) -> Result<bool> {
        let now = Instant::now();
        let new = self.since.is_none();
        let since = *self.since.get_or_insert(now);
        if error.is_passing() && now.duration_since(since) < self.patience.total {
            Ok(new)
        } else {
            Err(error)
        }
    }
    /// Waits before the next attempt, each time twice as long.
    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(self.patience.most);
    }
}
