//! What this task is doing for a job, for code that is called by a step and does not get its [`Cx`](crate::Cx): undo
//! functions, `holds`, a backend's outermost layer.

use crate::shared::Shared;
use crate::{Error, Kind, Result};
use futures::FutureExt;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

tokio::task_local! {
    static DOING: Doing;
}

/// The step that this task runs, undoes or asks about.
#[derive(Clone)]
#[non_exhaustive]
pub struct Doing {
    /// The step with its parts and key.
    pub key: String,
    /// The fencing token of the claim under which it does. Steps of a job inside a job's step have that one's.
    pub token: i64,
    /// Whether it is being undone.
    pub undoing: bool,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

/// What this task does for a job: `None` between steps, outside of any job, and in tasks that a step spawned.
#[must_use]
pub fn doing() -> Option<Doing> {
    DOING.try_with(Clone::clone).ok()
}

impl Doing {
    pub(crate) fn new(shared: &Arc<Shared>, key: &str, undoing: bool, stop: CancellationToken) -> Self {
        let token = match shared.journal.token() {
            0 => DOING.try_with(|outer| outer.token).unwrap_or(0),
            token => token,
        };
        Self { key: key.to_owned(), token, undoing, shared: shared.clone(), stop }
    }
    /// Tells a person something that is kept with the job.
    pub fn event(&self, kind: &str, message: impl AsRef<str>) {
        self.shared.observer.event(kind, message.as_ref());
    }
    /// Counts bytes.
    pub fn progress(&self, done: u64, total: u64) {
        self.shared.observer.progress(&self.key, done, total);
    }
    /// Fires when it is to stop: a step for any reason, an undo when the daemon stops or the lease is lost. An undo
    /// that was told so and returns an error is tried again by the next life.
    #[must_use]
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }
    /// Waits until it is to stop.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }
    /// The error to return when it was told to stop.
    #[must_use]
    pub fn stop_error(&self) -> Error {
        Error::new(Kind::Cancelled, "told to stop")
    }
    /// To be asked before each effect on the outside: is it to go on, and is the job still ours?
    ///
    /// # Errors
    /// [`Kind::Cancelled`] or [`Kind::LeaseLost`].
    pub async fn check(&self) -> Result<()> {
        self.shared.still_ours(&self.stop).await
    }
}
impl fmt::Debug for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, token, undoing, .. } = self;
        f.debug_struct("Doing")
            .field("key", key)
            .field("token", token)
            .field("undoing", undoing)
            .finish_non_exhaustive()
    }
}

/// Runs what is done; a panic of it is its failure and not the daemon's.
pub(crate) async fn during<T>(doing: Doing, work: impl Future<Output = Result<T>>) -> Result<T> {
    let panicked = |panic: Box<dyn std::any::Any + Send>| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word");
        Err(Error::new(Kind::Fatal, format!("panicked: {said}")))
    };
    DOING.scope(doing, AssertUnwindSafe(work).catch_unwind()).await.unwrap_or_else(panicked)
}
