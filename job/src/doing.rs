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

/// Between the key of a step and that of a step of a job which runs inside it.
pub(crate) const INSIDE: &str = " > ";

/// The step that this task runs, undoes or asks about.
#[derive(Clone)]
#[non_exhaustive]
pub struct Doing {
    /// The step with its parts and key; of a job that runs inside a step, behind that step's: `hold > resume/start`.
    pub key: String,
    /// The fencing token of the claim under which it does. Steps of a job inside a step have that one's.
    pub token: i64,
    /// The job's number; 0 where it has none. Likewise.
    pub job: i64,
    /// Whether it is being undone.
    pub undoing: bool,
    shared: Arc<Shared>,
    /// Of the job whose step this job runs in.
    outer: Option<Arc<Shared>>,
    stop: CancellationToken,
}

/// What this task does for a job: `None` between steps, outside of any job, and in tasks that a step spawned.
#[must_use]
pub fn doing() -> Option<Doing> {
    DOING.try_with(Clone::clone).ok()
}

/// [`Doing::held`] of what this task does; fine where it does nothing for a job.
///
/// # Errors
/// [`Kind::LeaseLost`].
pub fn held() -> Result<()> {
    doing().map_or(Ok(()), |doing| doing.held())
}

impl Doing {
    pub(crate) fn new(shared: &Arc<Shared>, key: &str, undoing: bool, stop: CancellationToken) -> Self {
        let token = shared.journal.token();
        let outer = DOING.try_with(|outer| (outer.key.clone(), outer.token, outer.undoing));
        let (key, token, undoing) = match outer {
            Ok((outer, of, back)) => {
                (format!("{outer}{INSIDE}{key}"), if token == 0 { of } else { token }, undoing || back)
            }
            Err(_) => (key.to_owned(), token, undoing),
        };
        let job = match shared.journal.job() {
            0 => DOING.try_with(|outer| outer.job).unwrap_or(0),
            job => job,
        };
        let outer = DOING.try_with(|outer| outer.outer.clone().unwrap_or_else(|| outer.shared.clone())).ok();
        Self { key, token, job, undoing, shared: shared.clone(), outer, stop }
    }
    /// Tells a person something that is kept with the job.
    pub fn event(&self, kind: &str, message: impl AsRef<str>) {
        self.shared.observer.event(kind, message.as_ref());
    }
    /// Counts bytes.
    pub fn progress(&self, done: u64, total: u64) {
        let step = self.key.rsplit(INSIDE).next().unwrap_or(&self.key);
        self.shared.observer.progress(step, done, total);
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
    /// Whether the job is still ours as far as this process can tell by itself. Asked at the last moment before an effect,
    /// it stops the hands of a process that stood still and was given up meanwhile.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`].
    pub fn held(&self) -> Result<()> {
        self.outer.as_ref().map_or(Ok(()), |outer| outer.still_held())?;
        self.shared.still_held()
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
