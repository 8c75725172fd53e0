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

/// Steps of a load in which nothing but the guest is waited for, by words of their keys.
const BOOTING: [&str; 2] = ["wait for ssh", "post_load/"];

/// What happens at a journal's writes.
enum Act {
    /// The process dies at this point: there is one before each record and one after it, counted from 1.
    DieAt(usize),
    /// It dies when the guest is waited for.
    DieBooting,
    /// The job is called off when the guest is waited for.
    CallOffBooting(CancellationToken),
}

/// A journal at one of whose writes something happens.
pub(super) struct Cut {
    inner: Arc<dyn Journal>,
    act: Act,
    passed: AtomicUsize,
    /// Told when the process has died.
    pub(super) died: Notify,
}
impl Cut {
    fn new(inner: Arc<dyn Journal>, act: Act) -> Arc<Self> {
        Arc::new(Self { inner, act, passed: AtomicUsize::new(0), died: Notify::new() })
    }
    pub(super) fn at(inner: Arc<dyn Journal>, point: usize) -> Arc<Self> {
        Self::new(inner, Act::DieAt(point))
    }
    pub(super) fn booting(inner: Arc<dyn Journal>) -> Arc<Self> {
        Self::new(inner, Act::DieBooting)
    }
    pub(super) fn called_off_booting(inner: Arc<dyn Journal>, token: &CancellationToken) -> Arc<Self> {
        Self::new(inner, Act::CallOffBooting(token.clone()))
    }
    /// How many points there were so far.
    pub(super) fn passed(&self) -> usize {
        self.passed.load(Ordering::SeqCst)
    }
    async fn point(&self, begun: Option<&str>) {
        let passed = self.passed.fetch_add(1, Ordering::SeqCst) + 1;
        let boots = begun.is_some_and(|key| BOOTING.iter().any(|word| key.contains(word)));
        let dies = match &self.act {
            Act::DieAt(at) => passed >= *at,
            Act::DieBooting => boots,
            Act::CallOffBooting(token) => {
                if boots {
                    token.cancel();
                }
                false
            }
        };
        if dies {
            self.died.notify_one();
            pending::<()>().await;
        }
    }
}
#[async_trait]
impl Journal for Cut {
    async fn append(&self, record: &Record) -> Result<()> {
        self.point(None).await;
        self.inner.append(record).await?;
        let begun = matches!(record, Record::Started { .. }).then(|| record.key()).flatten();
        self.point(begun).await;
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
