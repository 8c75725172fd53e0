//! Journals and observers that the kit's jobs run on.

use async_trait::async_trait;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use vcl_job::{Journal, MemoryJournal, Observer, Record, Result};

/// A journal in memory of a job that has a number, and a token where nobody claims it.
pub(super) struct Numbered {
    records: MemoryJournal,
    job: i64,
}
impl Numbered {
    pub(super) fn new(job: i64) -> Arc<Self> {
        Self::of(job, Vec::new())
    }
    pub(super) fn of(job: i64, records: Vec<Record>) -> Arc<Self> {
        Arc::new(Self { records: MemoryJournal::of(records), job })
    }
}
#[async_trait]
impl Journal for Numbered {
    async fn append(&self, record: &Record) -> Result<()> {
        self.records.append(record).await
    }
    async fn read(&self) -> Result<Vec<Record>> {
        self.records.read().await
    }
    fn token(&self) -> i64 {
        1
    }
    fn job(&self) -> i64 {
        self.job
    }
}

/// A journal at whose `at`th point the process dies: there is one before each record and one after it, counted from 1.
pub(super) struct CutAt {
    inner: Arc<dyn Journal>,
    at: usize,
    passed: AtomicUsize,
    pub(super) died: Notify,
    /// Fired when a step begins whose key has one of these words in it.
    call_off: Option<(CancellationToken, &'static [&'static str])>,
}
impl CutAt {
    pub(super) fn new(inner: Arc<dyn Journal>, at: usize) -> Arc<Self> {
        Arc::new(Self { inner, at, passed: AtomicUsize::new(0), died: Notify::new(), call_off: None })
    }
    /// One at which nobody dies: the job is called off when a step begins that has one of these words in its key.
    pub(super) fn calling_off(
        inner: Arc<dyn Journal>,
        token: &CancellationToken,
        words: &'static [&'static str],
    ) -> Arc<Self> {
        let call_off = Some((token.clone(), words));
        let (passed, died) = (AtomicUsize::new(0), Notify::new());
        Arc::new(Self { inner, at: usize::MAX, passed, died, call_off })
    }
    async fn point(&self) {
        if self.passed.fetch_add(1, Ordering::SeqCst) + 1 >= self.at {
            self.died.notify_one();
            pending::<()>().await;
        }
    }
}
#[async_trait]
impl Journal for CutAt {
    async fn append(&self, record: &Record) -> Result<()> {
        self.point().await;
        self.inner.append(record).await?;
        if let (Some((token, words)), Record::Started { key, .. }) = (&self.call_off, record)
            && words.iter().any(|word| key.contains(word))
        {
            token.cancel();
        }
        self.point().await;
        Ok(())
    }
    async fn read(&self) -> Result<Vec<Record>> {
        self.inner.read().await
    }
    fn token(&self) -> i64 {
        self.inner.token()
    }
    fn job(&self) -> i64 {
        self.inner.job()
    }
}

/// Hears what a job tells, and may call it off while it counts bytes.
#[derive(Default)]
pub(super) struct Ear {
    events: Mutex<Vec<String>>,
    /// Fired at the first bytes that are counted and are not all.
    at_bytes: Option<CancellationToken>,
    counted: AtomicBool,
}
impl Ear {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }
    pub(super) fn at_bytes(token: &CancellationToken) -> Arc<Self> {
        Arc::new(Self { at_bytes: Some(token.clone()), ..Self::default() })
    }
    /// Whether bytes were counted that were not all.
    pub(super) fn counted(&self) -> bool {
        self.counted.load(Ordering::SeqCst)
    }
    pub(super) fn events(&self) -> Vec<String> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
impl Observer for Ear {
    fn progress(&self, _: &str, done: u64, total: u64) {
        if done < total {
            self.counted.store(true, Ordering::SeqCst);
            if let Some(token) = &self.at_bytes {
                token.cancel();
            }
        }
    }
    fn event(&self, kind: &str, message: &str) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{kind}: {message}"));
    }
    fn recorded(&self, _: &Record) {}
}
