//! The journal: what a job writes down, and where.

use crate::{Error, Failure, Kind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How many bytes of JSON one record may have. A guest's output must not fill the database.
pub const RECORD_LIMIT: usize = 256 * 1024;

/// One line of a job's journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record {
    /// The first record: which function, in which version, from what. Replay reads this, not the database of today.
    Begun {
        /// The flow's name.
        flow: String,
        /// The flow's version.
        version: u32,
        /// What it starts from.
        input: Value,
        /// When, in milliseconds since 1970: the job's deadline counts from here. Journals of early versions lack it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<i64>,
    },
    /// A step is about to run.
    Started {
        /// The step with its parts and key.
        key: String,
        /// Names and paths it is about to make.
        intent: Value,
        /// When, in milliseconds since 1970: what the step may take in all its lives counts from here.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<i64>,
    },
    /// A child process of the step under way runs in this process group.
    Process {
        /// The step.
        key: String,
        /// The process group, which is the id of its first process.
        group: i32,
        /// That process's start time in clock ticks since boot, so that a reused id is not mistaken for it.
        start_time: u64,
        /// Of which boot of which machine, as `/proc/sys/kernel/random/boot_id` tells: ids mean nothing after another.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        boot: Option<String>,
    },
    /// The step is done.
    Done {
        /// The step.
        key: String,
        /// What it returned.
        output: Value,
    },
    /// The step failed. Its undo follows, then `Undone`; it is never run again.
    Failed {
        /// The step.
        key: String,
        /// Why.
        error: Failure,
    },
    /// The decision to take everything back, written before the first undo.
    Unwinding {
        /// Why.
        cause: Failure,
    },
    /// A step's undo is done.
    Undone {
        /// The step.
        key: String,
    },
    /// The job is over.
    Finished {
        /// What went wrong, if anything did.
        error: Option<Failure>,
    },
    /// An undo failed, or a step could not be stopped: somebody has to look.
    Stuck {
        /// The step.
        key: String,
        /// Why.
        error: Failure,
    },
}

impl Record {
    /// Its kind in one word, as its JSON has it.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Begun { .. } => "begun",
            Self::Started { .. } => "started",
            Self::Process { .. } => "process",
            Self::Done { .. } => "done",
            Self::Failed { .. } => "failed",
            Self::Unwinding { .. } => "unwinding",
            Self::Undone { .. } => "undone",
            Self::Finished { .. } => "finished",
            Self::Stuck { .. } => "stuck",
        }
    }
    /// The step that it is of.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Started { key, .. }
            | Self::Process { key, .. }
            | Self::Done { key, .. }
            | Self::Failed { key, .. }
            | Self::Undone { key }
            | Self::Stuck { key, .. } => Some(key),
            Self::Begun { .. } | Self::Unwinding { .. } | Self::Finished { .. } => None,
        }
    }
}

/// Where a job's records become durable, guarded by the job's lease.
#[async_trait::async_trait]
pub trait Journal: Send + Sync {
    /// Appends a record. When this returns, the record survives a power cut.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`] when another process has the job now; [`Kind::Transient`] or [`Kind::NoSpace`] when the
    /// database cannot take it.
    async fn append(&self, record: &Record) -> Result<()>;
    /// All records of the job, in order.
    ///
    /// # Errors
    /// When the database cannot be read or a record cannot be understood.
    async fn read(&self) -> Result<Vec<Record>>;
    /// Whether the job is still ours. A step asks before each effect on the outside.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`] when it is not.
    async fn check(&self) -> Result<()> {
        Ok(())
    }
    /// Whether the job is still ours by what this process knows without asking anybody: its clock. A process that stood
    /// still goes on in the middle of a step, and this is what tells it at its next effect, before any timer does.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`] when it is not.
    fn held(&self) -> Result<()> {
        Ok(())
    }
    /// The fencing token of the claim under which it is written: higher with every claim of the job. 0 where nothing is
    /// claimed.
    fn token(&self) -> i64 {
        0
    }
    /// The job's number, by which what it does on the outside can be told from what other jobs do. 0 where it has none.
    fn job(&self) -> i64 {
        0
    }
}

/// The wall clock as records hold it, in milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// What is left of `limit` that began at `at`, by the wall clock. One that was set back gives all of it again rather
/// than more.
pub(crate) fn left_of(limit: Duration, at: i64) -> Duration {
    let gone = u64::try_from(now_ms().saturating_sub(at)).unwrap_or(0);
    limit.saturating_sub(Duration::from_millis(gone))
}

/// A journal in memory, for tests and for jobs that need not survive the process.
#[derive(Debug, Default)]
pub struct MemoryJournal(Mutex<Vec<Record>>);

impl MemoryJournal {
    /// A journal that another process has left.
    #[must_use]
    pub fn of(records: Vec<Record>) -> Self {
        Self(Mutex::new(records))
    }
}

#[async_trait::async_trait]
impl Journal for MemoryJournal {
    async fn append(&self, record: &Record) -> Result<()> {
        check_size(record)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(record.clone());
        Ok(())
    }
    async fn read(&self) -> Result<Vec<Record>> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// Refuses a record that is too large to be kept.
pub(crate) fn check_size(record: &Record) -> Result<()> {
    let size = serde_json::to_vec(record).map_or(usize::MAX, |json| json.len());
    if size > RECORD_LIMIT {
        let limit = RECORD_LIMIT;
        return Err(Error::new(
            Kind::Fatal,
            format!("a journal record of {size} bytes; at most {limit} are kept"),
        ));
    }
    Ok(())
}
