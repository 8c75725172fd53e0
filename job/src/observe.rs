//! Who watches a job.

use crate::{Failure, Record};
use futures::FutureExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// How long an observer may look at a failure before the job goes on.
pub const LOOK: Duration = Duration::from_secs(60);

/// Who watches a job: the daemon, for the progress bar, the event log and the evidence of failures. The plain calls must
/// not block. None of them can fail the job, not even by a panic.
#[async_trait::async_trait]
pub trait Observer: Send + Sync {
    /// A step counts bytes.
    fn progress(&self, step: &str, done: u64, total: u64);
    /// Something that a person may want to know; kept with the job.
    fn event(&self, kind: &str, message: &str);
    /// A step began, ended, failed or was undone.
    fn recorded(&self, record: &Record);
    /// Something failed and all of it is still there to be looked at: a step whose failure is recorded and which is
    /// about to be undone, one that is stuck, or, with an empty `step`, a job that is about to be taken back. After a
    /// crash it may be called for the same failure again.
    ///
    /// It has [`LOOK`], and less when the daemon stops or the lease is lost: its future is dropped then.
    async fn failing(&self, step: &str, failure: &Failure) {
        let _ = (step, failure);
    }
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;
impl Observer for Silent {
    fn progress(&self, _: &str, _: u64, _: u64) {}
    fn event(&self, _: &str, _: &str) {}
    fn recorded(&self, _: &Record) {}
}

/// An observer that can do the job no harm.
pub(crate) struct Harmless(pub(crate) Arc<dyn Observer>);

impl Harmless {
    fn tell(&self, what: &str, call: impl FnOnce(&dyn Observer)) {
        if catch_unwind(AssertUnwindSafe(|| call(&*self.0))).is_err() {
            tracing::error!(what, "the job's observer panicked");
        }
    }
    pub(crate) fn progress(&self, step: &str, done: u64, total: u64) {
        self.tell("progress", |o| o.progress(step, done, total));
    }
    pub(crate) fn event(&self, kind: &str, message: &str) {
        self.tell("event", |o| o.event(kind, message));
    }
    pub(crate) fn recorded(&self, record: &Record) {
        self.tell("record", |o| o.recorded(record));
    }
    /// Lets it look at a failure, until `enough`.
    pub(crate) async fn failing(&self, step: &str, failure: &Failure, enough: impl Future<Output = ()>) {
        let look = AssertUnwindSafe(async { self.0.failing(step, failure).await }).catch_unwind();
        tokio::select! {
            biased;
            () = enough => tracing::warn!(step, "the failure was not looked at to the end: the job has to stop"),
            seen = tokio::time::timeout(LOOK, look) => match seen {
                Ok(Ok(())) => {}
                Ok(Err(_)) => tracing::error!(step, "the job's observer panicked at a failure"),
                Err(_) => tracing::warn!(step, limit_s = LOOK.as_secs(), "the failure was not looked at to the end"),
            },
        }
    }
}
