//! Counting bytes for whoever watches.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vcl_job::Cx;

/// Where progress goes: bytes done, bytes in all. Called from several threads; it must not block.
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<dyn Fn(u64, u64) + Send + Sync>>);

impl Progress {
    /// Nobody watches.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }
    /// To this function: bytes done, bytes in all.
    pub fn to(report: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(report)))
    }
    /// To the step's own counter.
    #[must_use]
    pub fn of(cx: &Cx) -> Self {
        let cx = cx.clone();
        Self::to(move |done, total| cx.progress(done, total))
    }
    /// Reports it.
    pub fn report(&self, done: u64, total: u64) {
        if let Some(report) = &self.0 {
            report(done, total);
        }
    }
}
impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Progress(watched)" } else { "Progress(none)" })
    }
}

/// A total known beforehand that several threads count towards.
#[derive(Debug, Clone)]
pub(crate) struct Counter {
    progress: Progress,
    done: Arc<AtomicU64>,
    total: u64,
}

impl Counter {
    pub(crate) fn new(progress: &Progress, total: u64) -> Self {
        progress.report(0, total);
        Self { progress: progress.clone(), done: Arc::default(), total }
    }
    pub(crate) fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.progress.report(done.min(self.total), self.total);
    }
}
